"""The electorate is state: ruling E9, one sentence after the other."""

import pytest

from cluck.electorate import Electorate, View, Voters
from cluck.replica import NOTICE_INTERVAL, Phase
from cluck.wire import NOTICE, VERSION, Malformed, Record, decode
from tests.cluck.orders import Order, started


def of(*nodes, **options):
    return Electorate(dict.fromkeys(nodes, 1), **options)


FIVE = of(1, 2, 3, 4, 5)


def in_ring(order, *nodes):
    """Have these nodes in one ring, until all is said."""
    order.ring(list(nodes))
    order.settle()


def named(server):
    return "\n".join(server.service.replica.differences)


# ---- what it is


def test_the_same_electorate_is_the_same_bytes_and_one_of_a_set():
    one, two = Electorate({2: 1, 1: 3}, 1), Electorate({1: 3, 2: 1}, 1)
    assert list(one.votes) == [1, 2]
    assert {one, two} == {one}
    assert str(one) == "1 (3 votes), 2; a half with 1 is enough"
    assert str(of(1, 2, unsafe_half=True)) == "1, 2; any half is enough"


def test_a_tie_breaker_votes():
    with pytest.raises(ValueError, match="tie breaker: node 4 is none of the lock servers"):
        of(1, 2, tie_breaker=4)


def test_what_is_known_last_counts():
    former = Voters(7, 1, of(1, 2, 3), view=View(1, 4, 1))
    pending = former.changing(of(1, 2))
    assert [voters.rank for voters in (former, pending, pending.changed())] == sorted(
        voters.rank for voters in (former, pending, pending.changed())
    )
    assert former.confirmed(View(1, 5, 1)).rank > pending.changed().rank
    assert pending.undone().electorate == former.electorate
    assert not former.says_what(pending)
    assert former.says_what(former.confirmed(View(9, 9, 9)))


def test_a_record_covers_what_it_is_later_than():
    one = Record(1, 5.0, Voters(7, 1, of(1, 2, 3)))
    assert one.covers(Record(1, 5.0))
    assert not Record(1, 5.0).covers(one)
    later = one._replace(voters=one.voters.changing(of(1, 2)))
    assert later.covers(one)
    assert not one.covers(later)
    assert one.and_(later._replace(longest=1.0)) == later


# ---- configuration counts at birth alone


def test_servers_that_are_configured_differently_give_no_birth():
    order = Order(3)
    order.restart(3, electorate=of(2, 3))
    in_ring(order, 1, 2, 3)
    assert not any(order[node].ready for node in (1, 2, 3))
    for node in (1, 2, 3):
        assert "a first start needs lock servers that agree" in order[node].service.readiness[1]
    assert "node 3 is configured with other lock servers: 2, 3; here 1, 2, 3" in named(order[1])
    assert "node 1 is configured with other lock servers: 1, 2, 3; here 2, 3" in named(order[3])


def test_two_sets_of_servers_that_do_not_overlap_give_no_birth_beside_each_other():
    order = Order(2)
    for node in (3, 4):
        order.restart(node, electorate=of(3, 4))
    in_ring(order, 1, 2, 3, 4)
    assert not any(order[node].ready for node in (1, 2, 3, 4))


def test_a_configuration_that_differs_later_is_named_and_changes_nothing():
    """Three have a table; one of them, and two that come, are configured with five."""
    order = started()
    order[1].acquire()
    order.settle()
    order.ring([1, 2], [3])
    for node in (3, 4, 5):
        order.restart(node, electorate=FIVE)
    order.ring([1, 2], [3, 4, 5])
    order.settle()
    order[4].acquire()
    order.settle()
    assert (order[1].ready, order[4].ready) == (True, False)
    in_ring(order, 1, 2, 3, 4, 5)
    assert all(order[node].ready for node in (1, 2, 3, 4, 5))
    assert len(order[1].held) == 1
    assert order[4].held == []
    for node in (1, 4):
        assert "node 4 is configured with other lock servers: 1, 2, 3, 4, 5; that changes nothing" in named(order[node])
    order.ring([1, 2], [3, 4, 5])
    order.settle()
    assert (order[1].ready, order[4].ready) == (True, False)


def test_a_disk_remembers_who_decides():
    order = started()
    for node in (1, 2, 3):
        order.restart(node, electorate=of(node))
    order.ring([1], [2], [3])
    order.settle()
    assert not any(order[node].ready for node in (1, 2, 3))
    in_ring(order, 1, 2, 3)
    assert all(order[node].ready for node in (1, 2, 3))
    assert order[1].state.voters.electorate == order.electorate


def test_a_server_of_another_cluster_is_refused_by_name():
    order = started()
    for node in (4, 5):
        order.restart(node, electorate=of(4, 5))
    in_ring(order, 4, 5)
    assert order[4].ready
    in_ring(order, 1, 2, 3, 4, 5)
    order[1].acquire()
    order[4].acquire()
    order.settle()
    assert len(order[1].held) == len(order[4].held) == 1, "they are two clusters"
    assert order[1].state.table.locks.keys() == order[4].state.table.locks.keys()
    assert {member.node_id for member in order[1].service.replica.servers} == {1, 2, 3}
    mine, other = (f"{order[node].state.voters.cluster:x}" for node in (1, 4))
    assert f"node 4 does not count here: it is of cluster {other}, and this is of cluster {mine}" in named(order[1])
    assert f"node 1 does not count here: it is of cluster {mine}, and this is of cluster {other}" in named(order[4])


def test_a_server_of_no_cluster_joins_none_of_two():
    order = started()
    for node in (4, 5):
        order.restart(node, electorate=of(4, 5))
    in_ring(order, 4, 5)
    order.restart(6, electorate=of(6))
    in_ring(order, 1, 2, 3, 4, 5, 6)
    assert not order[6].ready
    assert "it is of cluster" in named(order[6])


# ---- what must be equal


def test_who_counts_leases_otherwise_does_not_count():
    order = started()
    order.restart(3, drift=0.01)
    in_ring(order, 1, 2, 3)
    assert [order[node].ready for node in (1, 2, 3)] == [True, True, False]
    assert "node 3 does not count here: its leases allow for a drift of clocks of 0.01" in named(order[1])
    assert "node 1 does not count here: its leases allow for a drift of clocks of 0.001" in named(order[3])
    in_ring(order, 2, 3)
    assert not order[2].ready


def test_one_ring_that_does_not_tell_what_is_safe_is_named():
    order = started()
    order.restart(3, safe=False)
    in_ring(order, 1, 2, 3)
    assert order[1].ready
    assert "node 3's ring does not tell what is safe: all go by acknowledgements" in named(order[1])


# ---- formats


OTHER = bytes((VERSION + 1,))


def test_who_speaks_another_version_is_named_and_not_waited_for():
    order = started()
    order.ring([1, 2, 3])
    order.deliver(order.said(1), [1, 2])
    order.deliver([(order[3].member, OTHER + b"whatever")], [1, 2])
    order.deliver(order.said(1, 2), [1, 2])
    order.deliver(order.said(1, 2), [1, 2])
    assert order[1].ready
    assert named(order[1]).startswith(
        f"node 3 does not count here: it speaks version {VERSION + 1}, and this is version {VERSION}"
    )
    assert order[1].service.replica.phase is Phase.PRIMARY


def test_versions_tell_each_other_of_themselves_once_in_a_while():
    order = started()
    foreign = (order[3].member, OTHER + b"whatever")
    order.deliver([foreign] * 3, [1])
    assert [data for _, data in order.said(1)] == [NOTICE]
    order.now += NOTICE_INTERVAL
    order.deliver([foreign], [1])
    assert [data for _, data in order.said(1)] == [NOTICE]
    order.now += NOTICE_INTERVAL
    order.deliver([(order[3].member, OTHER)], [1])
    assert order.said(1) == [], "a notice is not answered"


def test_a_notice_says_nothing_to_those_of_the_same_version():
    order = started()
    order.ring([1, 2, 3])
    order.deliver(order.said(1), [1, 2, 3])
    order.deliver([(order[3].member, NOTICE)], [1, 2, 3])
    order.settle()
    assert all(order[node].ready for node in (1, 2, 3))
    assert named(order[1]) == ""


def test_servers_of_two_versions_give_no_birth_together():
    order = Order(2)
    order.restart(3, electorate=of(1, 2))
    order.ring([1, 2, 3])
    order.deliver(order.said(1), [1, 2])
    order.deliver([(order[3].member, OTHER)], [1, 2])
    for _ in range(5):
        order.deliver(order.said(1, 2), [1, 2])
    assert "a first start needs lock servers that agree" in order[1].service.readiness[1]


@pytest.mark.parametrize(
    "data", [b"", OTHER, OTHER + b"\xff", bytes((VERSION,)) + b"\xff", bytes((VERSION,)) + b"\x90"]
)
def test_what_cannot_be_read_is_malformed(data):
    with pytest.raises(Malformed):
        decode(data)
