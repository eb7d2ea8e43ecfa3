"""Leases (ruling E7), and the effect of a change of the servers on what clients have and requested."""

import pytest

from cluck.commands import Commit, Ended, Leadership, Owner, Refused, RequestId, Stand, Why
from cluck.protocol import Failed, Leads, LockHeld, Observe, Renounced
from cpg.replication.wire import DurableRecord
from tests.cluck.server.orders import decode, led_by_the_first, started

# ---- what is said again


def test_what_was_asked_for_during_a_change_is_done_after_it():
    order = started()
    request = order[1].acquire()
    lost = order.said(1)  # nobody gets it
    assert lost
    order.ring([1, 2], [3])
    order.settle()
    assert order[1].of(LockHeld)[-1].request == request


def test_what_is_said_again_keeps_its_order():
    """A task releases a lock and requests it again; both are lost with the ring."""
    order = started()
    order[1].acquire()
    order.settle()
    order[1].release(order[1].held[0])
    order.said(1)
    order[1].acquire()
    order.said(1)
    order.ring([1, 2], [3])
    order.settle()
    assert len(order[1].held) == 1
    assert order[1].of(Refused) == []


# ---- E7: leases


def test_a_holder_counts_from_before_it_asked_and_the_group_from_when_it_granted():
    order = started()
    asked = order.now
    order[1].acquire()
    messages = order.said(1)
    order.now += 1.0
    order.deliver(messages, [1, 2, 3])
    (held,) = order[1].of(LockHeld)
    assert held.deadline == pytest.approx(asked + 5 * 0.999)
    order.pass_time(10.0)
    assert order[1].held == [held.token]
    order.pass_time(0.5)
    assert order[1].of(Ended)[-1].why is Why.EXPIRED


def test_who_has_waited_begins_at_once_if_it_has_said_lately_that_it_waits():
    order = started()
    order[1].acquire(lease=5.0)
    order[2].acquire(lease=5.0)
    order.settle()
    (first,) = order[1].held
    for _ in range(10):
        order.pass_time(1.0)
        order[1].renew(first)
    order.settle()
    order.now += 0.5
    order[1].release(first)
    order.deliver(order.said(1), [1, 2, 3])
    (held,) = order[2].of(LockHeld)
    assert order.now < held.deadline <= order.now + 5.0
    order.settle()
    assert order[2].of(LockHeld)[-1].deadline > held.deadline, "and has renewed at once"


def test_who_has_hardly_waited_does_not_renew_as_it_begins():
    order = started()
    order[1].acquire(lease=60.0)
    order[2].acquire(lease=60.0)
    order.settle()
    asked, order.now = order.now, order.now + 0.5
    order[1].release(*order[1].held)
    order.settle()
    (held,) = order[2].of(LockHeld)
    assert asked + 59.9 < held.deadline < asked + 60.0


def test_a_waiter_that_has_not_said_so_renews_before_it_begins():
    order = started()
    order[1].acquire(lease=60.0)
    order.settle()
    order[2].acquire(lease=1.0)
    order.settle()
    (first,) = order[1].held
    order.now += 30.0
    order[1].release(first)
    order.deliver(order.said(1), [1, 2, 3])
    assert order[2].held == []
    order.settle()
    assert order[2].of(LockHeld)[0].deadline == pytest.approx(order.now + 0.999)


def test_a_grant_that_never_was_says_nothing_of_the_lease_of_another_one_with_its_token():
    """Server 1, which proposes what is due, did for itself alone what the others did later for another client."""
    order = led_by_the_first()
    order[1].acquire(lease=5.0, grace=0.0)
    order.ring([1], [2, 3], tails=[(order.said(1), [1])])
    order.settle()
    order.pass_time(3)
    order[2].acquire(lease=5.0, grace=0.0)
    order.settle()
    (held,) = order[2].of(LockHeld)
    order.ring([1, 2, 3])
    order.settle()
    while order.now < held.deadline - 0.3:
        order.pass_time(0.25)
    assert order[2].of(Ended) == []
    order.pass_time(4)
    assert [ended.why for ended in order[2].of(Ended)] == [Why.EXPIRED]


def test_a_renewal_in_time_keeps_the_lock():
    order = started()
    order[1].acquire()
    order.settle()
    (token,) = order[1].held
    for _ in range(5):
        order.pass_time(3.0)
        order[1].renew(token)
    order.settle()
    assert order[1].held == [token]


# ---- what is lost


def test_a_holder_in_the_minority_is_informed_at_once():
    order = started()
    order[1].acquire(lease=60.0)
    order.settle()
    (token,) = order[1].held
    order.ring([1], [2, 3])
    order.settle()
    assert order[1].of(Renounced)[-1].token == token
    assert order[1].held == []


def test_a_lock_behind_a_lost_node_is_free_after_lease_and_grace_and_not_before():
    order = started()
    order[3].acquire(lease=5.0, grace=2.0)
    order.settle()
    order.ring([1, 2])
    del order.rings[3]
    order[1].acquire()
    order.pass_time(6.9)
    assert order[1].held == []
    order.pass_time(0.6)
    assert len(order[1].held) == 1


def test_a_waiter_behind_a_lost_node_is_granted_nothing():
    order = started()
    for node in (1, 3, 2):
        order[node].acquire()
        order.settle()
    order.ring([1, 2])
    del order.rings[3]
    order.settle()
    order[1].release(order[1].held[0])
    order.settle()
    assert len(order[2].held) == 1


def test_a_process_that_has_ended_frees_its_locks_at_once():
    order = started()
    order[1].acquire(lease=600.0)
    order[2].acquire()
    order.settle()
    order[1].connection.lost(order.now, dead=True)
    order.settle()
    assert len(order[2].held) == 1


def test_a_connection_that_is_lost_frees_its_locks_with_their_leases():
    order = started()
    order[1].acquire()
    order[2].acquire()
    order.settle()
    order[1].connection.lost(order.now, dead=False)
    order.pass_time(9.9)
    assert order[2].held == []
    order.pass_time(0.5)
    assert len(order[2].held) == 1


def test_a_request_that_does_not_wait_fails_while_nothing_is_decided():
    order = started()
    order.ring([1], [2, 3])
    order.settle()
    request = order[1].acquire(waits=False)
    assert order[1].of(Failed)[-1].request == request
    assert order[1].of(Failed)[-1].not_ready


def test_a_request_of_the_minority_is_kept_and_done_after_the_merge():
    order = started()
    order.ring([1], [2, 3])
    order.settle()
    order[1].acquire()
    order.settle()
    order.ring([1, 2, 3])
    order.settle()
    assert len(order[1].held) == 1


def test_a_request_that_is_withdrawn_before_it_was_given_to_the_group_is_gone():
    order = started()
    order.ring([1], [2, 3])
    order.settle()
    request = order[1].acquire()
    order[1].withdraw(request)
    assert order[1].told[-1].why is Why.WITHDRAWN
    order.ring([1, 2, 3])
    order.settle()
    assert order[1].state.table.ticket(request) is None


# ---- what is told at the end of a change


def test_a_release_during_a_change_is_not_reported_as_a_loss():
    """The release is applied before what the view began with is final. It is reported when it is final, and as a
    release.
    """
    order = started(5, safe=False)
    order[2].acquire()
    order.settle()
    order.ring([1, 2, 3, 4, 5])
    order[2].release(order[2].held[0])
    order.settle()
    assert [ended.why for ended in order[2].of(Ended)] == [None]


def test_a_leader_is_reported_after_a_change_only_when_it_is_final():
    """The commit is applied before what the view began with is final: nobody hears of it until it is final, too."""
    order = started(5, safe=False)
    order[2].say(Stand(RequestId(Owner(order[2].client, 0), 1), b"head"))
    order[2].say(Observe(b"head"))
    held_back = []
    while not held_back:
        messages = order.said(1, 2, 3, 4, 5)
        held_back = [message for message in messages if _commits(message[1])]
        order.deliver([message for message in messages if message not in held_back], [1, 2, 3, 4, 5])
    order.ring([1, 2, 3, 4, 5])  # and it is submitted again
    final = []
    watched, on_final = order[2].service, order[2].service.on_final

    def note(number):
        on_final(number)
        final.append((number, len(order[2].of(Leads))))

    watched.on_final = note
    order.settle()
    assert final[0] == (0, 0)
    assert final[-1][1] == 1
    assert [told.leader is not None for told in order[2].of(Leadership)][-1]


def _commits(data):
    said = decode(data)
    return any(isinstance(command, Commit) for command in getattr(said, "commands", ()))


# ---- records


def test_a_shorter_lease_that_is_proposed_next_does_not_displace_a_longer_one():
    """Two servers ask at the same time that disks know of long leases; both are granted."""
    order = started(usual_promise=1.0)
    order[1].acquire(b"long", lease=60.0)
    order[2].acquire(b"short", lease=30.0)
    proposals = order.said(1) + order.said(2)
    order.deliver(proposals, [1, 2, 3])
    order.settle()
    assert len(order[1].held) == 1
    assert len(order[2].held) == 1


def test_a_longer_lease_is_on_a_majority_of_disks_before_it_is_granted():
    order = started()
    order[1].acquire(lease=100.0, grace=20.0)
    order.deliver([(order[1].member, data) for data in order[1].service.take(order.now)], [1, 2, 3])
    assert order[1].service.record_to_store == DurableRecord(1, 120.0, order[1].state.voters)
    assert order[1].held == []
    order.settle()
    assert len(order[1].held) == 1
    assert [order[node].record[:2] for node in (1, 2, 3)] == [(1, 120.0)] * 3
