"""Flow control by Corosync's formulas (wire: seen 17, 17, 17, 10 for a queue of 61)."""

import pytest

from totem.configuration import RingId
from totem.flow import PASSINGS, RECEIVE_BUFFER, ROTATION, FlowControl, frames_that_fit
from totem.wire.messages import Token


def token(**fields):
    return Token(sender=1, ring_id=RingId(1, 4), **fields)


def visits(flow, queue, rotations, seen):
    """A lone sender: the token comes back as it left."""
    sent = []
    for _ in range(rotations):
        now = min(queue, flow.allowed(seen, queue, 0.0))
        queue -= now
        flow.account(seen, now, queue)
        sent.append(now)
    return sent


def test_a_lone_sender_with_61_frames():
    assert visits(FlowControl(50, 17), 61, 5, token()) == [17, 17, 17, 10, 0]


def test_nothing_is_allowed_when_the_window_is_full():
    assert FlowControl(50, 17).allowed(token(fcc=50), 10, 0.0) == 0
    assert FlowControl(50, 17).allowed(token(fcc=45), 10, 0.0) == 5


def test_a_window_that_is_overdrawn_stays_closed():
    """Corosync's unsigned difference would wrap and open it (rulings, D4)."""
    assert FlowControl(50, 17).allowed(token(fcc=60), 10, 0.0) == 0


def test_members_share_the_window_by_their_backlog():
    flow = FlowControl(50, 50)
    ring = token()
    flow.account(ring, 0, 30)  # 30 of mine wait, and are in the backlog now
    ring.backlog += 70  # those of the others
    assert flow.allowed(ring, 30, 0.0) == 50 * 30 // 100


def test_accounts_add_up_around_the_ring():
    """fcc is what all sent in the last rotation, backlog what all have waiting."""
    members = [FlowControl(50, 17) for _ in range(3)]
    ring = token()
    for rotation in range(5):
        for index, member in enumerate(members):
            member.account(ring, index + rotation, 10 * index)
    assert ring.fcc == sum(index + 4 for index in range(3))
    assert ring.backlog == 0 + 10 + 20


def test_what_the_others_have_sent_is_all_but_mine():
    flow = FlowControl(50, 17)
    ring = token(fcc=30)
    flow.account(ring, 12, 0)
    assert flow.sent_by_others(ring) == 30
    ring.fcc -= 5
    assert flow.sent_by_others(ring) == 25


# A ring that chooses (rulings, D4).


class Lap:
    """Members of a ring that chooses its window. A rotation takes `passing` seconds, and `each` for a frame; queues are
    long."""

    def __init__(self, members, passing=0.0004, each=0.00003, window=640):
        self.flows = [FlowControl(50, 17) for _ in range(members)]
        for flow in self.flows:
            flow.choose(window, members)
        self.passing = passing
        self.target = max(ROTATION, PASSINGS * passing)
        self.each = each
        self.token = token(token_seq=6 * members)
        self.now = 0.0
        self.queues = [1_000_000] * members
        self.sent = []
        self.seconds = 0.0

    def go_round(self, times=1):
        for _ in range(times):
            began = self.now
            for index, flow in enumerate(self.flows):
                allowed = flow.allowed(self.token, self.queues[index], self.now)
                sent = min(self.queues[index], allowed)
                self.token.seq += sent
                self.token.aru = self.token.seq
                flow.account(self.token, sent, self.queues[index])
                self.token.token_seq += 1
                self.now += self.passing / len(self.flows) + self.each * sent
                self.sent.append(sent)
            self.seconds = self.now - began

    def rotation(self):
        """Return the time of a common rotation: neither a bare one nor the one after it."""
        while self.token.token_seq // len(self.flows) % 32 != 16:
            self.go_round()
        self.go_round()
        return self.seconds


def test_a_ring_that_chooses_goes_as_far_as_a_rotation_may_take():
    for senders in (1, 3):
        lap = Lap(3)
        lap.queues[senders:] = [0] * (3 - senders)
        lap.go_round(300)
        assert 0.9 < lap.rotation() / lap.target < 1.1


def test_where_it_is_slow_the_budget_shrinks():
    lap = Lap(3)
    lap.go_round(300)
    lap.each = 0.0001
    lap.go_round(300)
    assert 0.9 < lap.rotation() / lap.target < 1.1
    lap.each = 0.001
    lap.go_round(300)
    assert sum(lap.sent[-3:]) <= 50


def test_where_the_token_is_slow_a_rotation_may_take_longer():
    lap = Lap(3, passing=0.003, window=4096)
    lap.go_round(300)
    assert 0.9 < lap.rotation() / lap.target < 1.1


def test_corosyncs_windows_are_the_least():
    lap = Lap(3, each=1.0)
    lap.queues = [61, 0, 0]
    lap.go_round()
    assert lap.sent[0] == 17


@pytest.mark.parametrize("held_back", [0, 10])
def test_what_left_behind_the_token_may_not_have_been_read_when_it_is_back(held_back):
    flow = FlowControl(50, 17)
    flow.choose(100, 2)
    ring = token(token_seq=20)
    flow.account(ring, 40, 1000, held_back)
    flow._pace.budget, flow._pace.idle = 1000, True  # this rotation is not measured
    assert flow.allowed(ring, 1000, 1.0) == 100 - held_back


def test_no_more_is_on_its_way_than_the_window():
    lap = Lap(3, passing=0.02, window=64)
    lap.go_round(200)
    assert 60 < max(map(sum, zip(lap.sent, lap.sent[1:], lap.sent[2:], strict=False))) <= 64
    assert lap.sent[-9:].count(0) == 0


def test_equal_senders_get_equal_shares():
    lap = Lap(3)
    lap.queues = [2_000_000] * 3
    lap.go_round(500)
    shares = [sum(lap.sent[index::3]) for index in range(3)]
    assert max(shares) < 1.05 * min(shares)


def test_a_short_queue_does_not_wait_for_long_ones():
    lap = Lap(3)
    lap.queues[2] = 0
    lap.go_round(300)
    lap.rotation()
    lap.queues[2] = 30
    lap.go_round()
    assert lap.sent[-1] == 30


def test_now_and_then_a_rotation_is_bare():
    lap = Lap(3)
    lap.queues[2] = 1
    lap.go_round(26 + 32)
    lap.sent.clear()
    lap.go_round(2)
    bare = [lap.sent[:3], lap.sent[3:]]
    assert bare == [[0, 0, 1]] * 2
    lap.token.requests = [(RingId(1, 4), 5)] * 7
    lap.token.token_seq -= 3
    assert lap.flows[0].allowed(lap.token, 1000, lap.now) == 7


def test_a_stop_is_not_taken_for_the_pace():
    lap = Lap(3)
    lap.go_round(300)
    lap.now += 3.0
    lap.go_round(100)
    assert 0.9 < lap.rotation() / lap.target < 1.1


def test_an_idle_ring_measures_nothing():
    lap = Lap(3)
    lap.go_round(300)
    lap.queues = [0, 0, 0]
    lap.go_round(30)
    for _ in range(100):
        lap.now += 0.8
        lap.go_round()
    lap.queues = [100_000] * 3
    lap.go_round()
    assert sum(lap.sent[-3:]) > 150


def test_an_aru_that_goes_back_is_no_progress():
    lap = Lap(3)
    lap.go_round(300)
    lap.token.aru -= 100
    lap.flows[0].allowed(lap.token, 10, lap.now + 0.001)
    assert lap.flows[0].allowed(lap.token, 100_000, lap.now + 0.002) < 300


def test_frames_that_fit():
    assert frames_that_fit(RECEIVE_BUFFER, 1455) == 614
    assert frames_that_fit(425_984, 1455) == 62  # net.core.rmem_max as it comes, doubled by the kernel
    assert frames_that_fit(425_984, 8955) == 24
    assert frames_that_fit(1000, 65_462) == 1
