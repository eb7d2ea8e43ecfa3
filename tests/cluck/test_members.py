"""What a member of the lock servers' group says that is none of them, or has another's number: it does nothing."""

import pytest
from msgspec.structs import replace

from cluck.commands import LARGEST_EPOCH, Acquire, Client, Gone, Owner, RequestId
from cluck.commands import Server as Life
from cluck.replica import HASTE, PATIENCE
from cluck.wire import Commands, Exclude, Lineage, Propose, Record, Report, RoundId, Snapshot, Stored, decode, encode
from cpg.events import Confchg, Member, Reason
from tests.cluck.orders import started

STRANGER = Member(4, 9)
"""On a node without a vote."""
SERVER = Member(2, 1)


def cluster():
    """A client of server 1 holds a lock."""
    order = started()
    request = order[1].acquire()
    order.settle()
    return order, request, order[1].held[0]


def say(order, sender, *said):
    order.deliver([(sender, encode(one)) for one in said], [1, 2, 3])
    order.settle()


def start(order, node):
    return order[node].service.server.start


def round_of(order):
    return order[1].service.replica.view_id


@pytest.mark.parametrize("sender", [STRANGER, Member(1, 9)], ids=["stranger", "neighbour"])
def test_commands_of_who_has_not_reported_are_void(sender):
    order, request, token = cluster()
    number = order[1].service.replica.number
    theft = Acquire(RequestId(Owner(Client(Life(sender.node_id, 5), 1), 0), 1), b"lock")
    for life in (5, start(order, 1)):
        say(order, sender, Commands(life, 1, [Gone(request.owner.client), theft]))
    assert order[2].state.table.holder(b"lock", token) is not None
    assert {order[node].service.replica.number for node in (1, 2, 3)} == {number}


def test_a_server_speaks_for_its_present_life_alone():
    order, request, token = cluster()
    say(order, order[2].member, Commands(start(order, 1), 1, [Gone(request.owner.client)]))
    assert order[3].state.table.holder(b"lock", token) is not None


@pytest.mark.parametrize("sender", [STRANGER, SERVER], ids=["stranger", "server"])
@pytest.mark.parametrize("record", [Record(LARGEST_EPOCH, 1.0), Record(LARGEST_EPOCH, 1e6), Record(1 << 20, 0.0)])
def test_a_record_that_nobody_comes_to_is_on_no_disk(sender, record):
    order, _, _ = cluster()
    say(order, sender, Propose(record), Propose(record, round_of(order)), Stored(record))
    assert max(order[node].record.epoch for node in (1, 2, 3)) == 1
    assert order[1].state.tokens.epoch == 1


def test_a_stranger_proposes_nothing():
    order, _, _ = cluster()
    records = [order[node].record for node in (1, 2, 3)]
    longest = records[0].longest
    say(order, STRANGER, Propose(Record(2, longest)), Propose(Record(1, 2 * longest)))
    assert [order[node].record for node in (1, 2, 3)] == records


def test_who_has_not_reported_excludes_nobody():
    order, _, _ = cluster()
    order.ring([1, 2, 3])  # a round is due
    messages = order.said(1)
    order.deliver(messages, [1, 2, 3])
    census = order[1].service.replica._census
    order.deliver([(STRANGER, encode(Exclude(census.id, [(2, 1), (3, 1)])))], [1, 2, 3])
    order.settle()
    assert [order[node].service.replica.view_id for node in (1, 2, 3)] == [census.id] * 3, "no other round was called"
    assert len(order[1].service.replica.servers) == 3


def test_parts_of_a_state_come_from_who_has_it():
    order, _, token = cluster()
    order.ring([1, 2], [3])
    order.settle()
    order[1].acquire(b"another")
    order.settle()
    order.ring([1, 2, 3])
    replica = order[3].service.replica
    while replica.phase != "loading":  # rounds, and reports
        messages = order.said(1, 2, 3)
        order.deliver(messages, [1, 2, 3])
    (other,) = {order[1].member, order[2].member} - {replica._owner}
    for sender in (STRANGER, other):
        say_to_three = [(sender, encode(Snapshot(replica.view_id, 0, 1, 0, b"nonsense")))]
        order.deliver(say_to_three, [3])
    assert replica.failure is None
    order.settle()
    assert order[3].ready
    assert order[3].state.table.holder(b"lock", token) is not None


def test_a_round_that_nobody_knows_is_nobodys():
    order, _, _ = cluster()
    say(order, STRANGER, Snapshot(RoundId(1, 2), 0, 1, 0, b""), Exclude(RoundId(1, 2), []))
    assert all(order[node].ready for node in (1, 2, 3))


# ---- members that are no lock servers


LISTENERS = [Member(1, 9), Member(2, 9)]
"""Beside servers, on nodes that vote."""


def change(order, joined=(), left=()):
    """Others come and go in the group, and their nodes stay."""
    members = sorted({*(order[node].member for node in (1, 2, 3)), *joined} - set(left))
    for node in (1, 2, 3):
        order[node].hear(Confchg(tuple(members), dict.fromkeys(left, Reason.LEAVE), dict.fromkeys(joined, Reason.JOIN)))


def test_who_comes_and_says_nothing_stops_nothing():
    """`cpg listen cluck`, say."""
    order, _, token = cluster()
    view = round_of(order)
    change(order, joined=LISTENERS)
    assert all(order[node].ready for node in (1, 2, 3))
    order[1].release(token)
    order[2].acquire()
    order.settle()
    assert order[2].held
    change(order, left=LISTENERS)
    order.settle()
    assert round_of(order) == view


def test_a_round_waits_a_moment_for_who_has_never_reported_and_it_takes_no_votes():
    order, _, _ = cluster()
    order.ring([1, 2, 3])
    change(order, joined=LISTENERS)
    order.deliver(order.said(1), [1, 2, 3])
    order.pass_time(2 * HASTE)
    assert all(order[node].ready for node in (1, 2, 3))
    assert len(order[1].service.replica.servers) == 3
    order.ring([1, 2], [3])
    order.pass_time(2 * HASTE)
    assert order[1].ready, "node 1 and node 2 are there, whoever else is on them"


def test_who_is_known_has_the_whole_patience():
    order, _, _ = cluster()
    order.ring([1, 2, 3])
    change(order, joined=LISTENERS)
    order.rings[3] = []  # it stands still
    order.rings[1] = order.rings[2] = [1, 2]
    order.pass_time(2 * HASTE)
    assert not order[1].ready
    order.pass_time(PATIENCE)
    assert order[1].ready
    assert len(order[1].service.replica.servers) == 2


@pytest.mark.parametrize(
    "false",
    [
        {"quorate": False},
        {"lineage": Lineage(LARGEST_EPOCH, 1 << 40, 1 << 40, 1 << 40), "digest": 1},
        {"force_birth": True, "lineage": None},
    ],
    ids=["not quorate", "far ahead", "to be born"],
)
def test_what_who_does_not_vote_reports_changes_nothing(false):
    """But that it is there: it may be a lock server without a vote."""
    order, request, token = cluster()
    order.ring([1, 2, 3])
    order.deliver(order.said(1), [1, 2, 3])
    reports = order.said(1, 2, 3)
    report = next(said for _, data in reports if isinstance(said := decode(data), Report))
    change(order, joined=[STRANGER])
    order.deliver([(STRANGER, encode(replace(report, start=5, **false)))], [1, 2, 3])
    order.deliver(reports, [1, 2, 3])
    order.settle()
    assert all(order[node].ready for node in (1, 2, 3))
    assert STRANGER in order[1].service.replica.servers
    for node in (1, 2, 3):
        assert order[node].state.table.held(request, token) is not None
        assert order[node].state.tokens.epoch == 1
