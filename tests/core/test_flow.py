"""Flow control by Corosync's formulas (wire: seen 17, 17, 17, 10 for a queue of 61)."""

from totem.configuration import RingId
from totem.flow import FlowControl
from totem.wire.messages import Token


def token(**fields):
    return Token(sender=1, ring_id=RingId(1, 4), **fields)


def visits(flow, queue, rotations, seen):
    """A lone sender: the token comes back as it left."""
    sent = []
    for _ in range(rotations):
        now = min(queue, flow.allowed(seen, queue))
        queue -= now
        flow.account(seen, now, queue)
        sent.append(now)
    return sent


def test_a_lone_sender_with_61_frames():
    assert visits(FlowControl(50, 17), 61, 5, token()) == [17, 17, 17, 10, 0]


def test_nothing_is_allowed_when_the_window_is_full():
    assert FlowControl(50, 17).allowed(token(fcc=50), 10) == 0
    assert FlowControl(50, 17).allowed(token(fcc=45), 10) == 5


def test_a_window_that_is_overdrawn_stays_closed():
    """Corosync's unsigned difference would wrap and open it (rulings, D4)."""
    assert FlowControl(50, 17).allowed(token(fcc=60), 10) == 0


def test_members_share_the_window_by_their_backlog():
    flow = FlowControl(50, 50)
    ring = token()
    flow.account(ring, 0, 30)  # 30 of mine wait, and are in the backlog now
    ring.backlog += 70  # those of the others
    assert flow.allowed(ring, 30) == 50 * 30 // 100


def test_accounts_add_up_around_the_ring():
    """fcc is what all sent in the last rotation, backlog what all have waiting."""
    members = [FlowControl(50, 17) for _ in range(3)]
    ring = token()
    for rotation in range(5):
        for index, member in enumerate(members):
            member.account(ring, index + rotation, 10 * index)
    assert ring.fcc == sum(index + 4 for index in range(3))
    assert ring.backlog == 0 + 10 + 20
