"""What lock servers of random worlds record, and what is found in it at the end."""

from functools import partial
from types import SimpleNamespace

import pytest

from cluck.testing.checkers import Grant, Order, check_orders
from cluck.testing.linearizability import EXCLUSIVE
from cluck.testing.world import AN_ELECTION, SimulatedLocks, WatchedService
from tests.cluck.server import orders


@pytest.fixture
def locks(monkeypatch):
    """The records of the servers of an order."""
    locks = SimulatedLocks()

    def begin(*arguments, **options):
        service = WatchedService(*arguments, **options)
        service.watch(locks)
        return service

    monkeypatch.setattr(orders, "Service", begin)
    return locks


def grants(order):
    return [event for event in order.events if isinstance(event, Grant)]


def test_a_grant_has_its_place_in_time_where_it_was_applied_not_where_a_late_server_knows_it_final(locks):
    order = orders.started(safe=False)
    order[3].acquire()
    acquired, began = order.said(3), order.now
    order.deliver(acquired, [1, 2])
    order.now += 1
    order.deliver(acquired, [3])
    acks = order.said(1, 2, 3)
    order.now += 3
    order.deliver(acks, [3])
    assert [len(grants(written)) for written in locks.run.orders] == [0, 0, 1]
    (grant,) = grants(order[3].service.order)
    assert grant.at == began
    for at, is_late in ((began + 2, False), (began - 1, True)):
        later = Order("of the next epoch", [Grant(b"lock", grant.token + (1 << 32), "other", EXCLUSIVE, at)])
        assert bool(list(check_orders([*locks.run.orders, later]))) == is_late


def test_an_election_may_look_for_a_leader_at_the_end_but_not_for_long(locks):
    order = orders.started()
    order[2].stand(lease=1.0, grace=0.0)
    order.settle()
    order.pass_time(0.75)
    assert not order[1].service.searches
    order[2].lose()
    order.pass_time(3)
    (since,) = order[1].service.searches.values()
    assert 1000.75 < since < order.now
    locks.nodes = [SimpleNamespace(now=order.now, clients=[SimpleNamespace(client=order[2].client, is_dead=False)])]
    found = partial(locks._waiting_in_vain, order[1].service)
    locks.rest_for = AN_ELECTION + 1
    locks.rested = since - 2
    assert not list(found())
    locks.rested = since - 1
    assert "nobody leads" in next(iter(found()))
