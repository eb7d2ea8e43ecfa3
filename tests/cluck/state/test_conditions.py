"""Conditions: who is woken, in which order, with which lock, and what happens to waiters that go."""

import pytest
from msgspec.msgpack import encode

from cluck.commands import (
    Acquire,
    Ended,
    EndWait,
    Force,
    Gone,
    Granted,
    Mode,
    Notified,
    Notify,
    Queued,
    Refused,
    Wait,
    Waiting,
    Why,
    Withdraw,
    Woken,
)
from cluck.state import conditions, lock_table
from tests.cluck.state.bench import FIRST, HERE, THERE, Bench


@pytest.fixture
def bench():
    return Bench()


def waiting(bench, condition=b"condition"):
    return [waiter.ticket.request for waiter in bench.state.conditions.by_name[condition].waiters]


def test_to_wait_gives_the_lock_back_in_the_same_step(bench):
    a, _ = bench.acquire("A")
    b, _ = bench.acquire("B")
    w, outcomes = bench.wait("A", FIRST)
    assert outcomes == [Ended(a, FIRST, None), Granted(b, FIRST + 1), Waiting(w)]


def test_a_woken_waiter_has_its_lock_again_under_the_request_it_waited_with(bench):
    w = bench.acquire_and_wait("A")
    assert bench.notify() == [Woken(w, True), Granted(w, FIRST + 1)]


def test_a_woken_waiter_waits_for_its_lock_like_others(bench):
    w = bench.acquire_and_wait("A")
    bench.acquire("B")
    bench.acquire("C")
    assert bench.notify() == [Woken(w, True), Queued(w, 2)]
    bench.release(FIRST + 1)
    assert bench.release(FIRST + 2)[1:] == [Granted(w, FIRST + 3)]


def test_waiters_are_woken_in_the_order_in_which_they_came(bench):
    waiters = [bench.acquire_and_wait(who) for who in "BAC"]
    assert [bench.notify()[0] for _ in waiters] == [Woken(w, True) for w in waiters]


def test_a_notification_that_finds_nobody_is_lost(bench):
    n = bench.request("N")
    assert bench.apply(Notify(n, b"condition")) == [Notified(n, 0)]
    bench.acquire_and_wait("A")
    assert len(waiting(bench)) == 1


def test_one_notification_wakes_one(bench):
    _, b = (bench.acquire_and_wait(who) for who in "AB")
    n = bench.request("N")
    assert bench.apply(Notify(n, b"condition"))[-1] == Notified(n, 1)
    assert waiting(bench) == [b]


def test_all_are_woken_in_their_order(bench):
    a, b, c = (bench.acquire_and_wait(who) for who in "ABC")
    other = bench.acquire_and_wait("D", "other")
    n = bench.request("N")
    assert bench.apply(Notify(n, b"condition", everyone=True)) == [
        Woken(a, True),
        Granted(a, FIRST + 4),
        Woken(b, True),
        Queued(b, 1),
        Woken(c, True),
        Queued(c, 2),
        Notified(n, 3),
    ]
    assert waiting(bench, b"other") == [other]


def test_a_condition_without_waiters_is_forgotten(bench):
    bench.acquire_and_wait("A")
    bench.notify()
    assert not bench.state.conditions.by_name


def test_what_is_reacquired_is_of_the_kind_that_was_given_back(bench):
    bench.acquire("A", mode=Mode.SHARED, lease=60.0, grace=2.0)
    w, _ = bench.wait("A", FIRST)
    bench.acquire("R", mode=Mode.SHARED)
    assert bench.notify() == [Woken(w, True), Granted(w, FIRST + 2)]
    ticket = bench.table.ticket(w)
    assert (ticket.mode, ticket.lease, ticket.grace) == (Mode.SHARED, 60.0, 2.0)


def test_a_permit_of_a_semaphore_is_reacquired_as_such(bench):
    w = bench.acquire_and_wait("A", permits=2)
    assert bench.notify() == [Woken(w, True), Granted(w, FIRST + 1)]
    assert bench.table.locks[b"lock"].permits == 2


def test_who_would_reacquire_what_is_of_another_kind_now_is_refused(bench):
    w = bench.acquire_and_wait("A", permits=2)
    bench.acquire("B")
    assert bench.notify() == [Woken(w, True), Refused(w, Why.KIND)]
    assert bench.apply(Wait(w, b"condition", b"lock", FIRST)) == [Refused(w, Why.KIND)]


def test_those_woken_with_priority_reacquire_in_front_of_readers(bench):
    w = bench.acquire_and_wait("A")
    bench.acquire("B")
    r, _ = bench.acquire("R", mode=Mode.SHARED)
    assert bench.notify(priority=True) == [Woken(w, True), Queued(w, 1)]
    assert [t.request for t in bench.table.locks[b"lock"].waiting] == [w, r]


def test_those_woken_without_priority_reacquire_behind_readers(bench):
    w = bench.acquire_and_wait("A")
    bench.acquire("B")
    bench.acquire("R", mode=Mode.SHARED)
    assert bench.notify() == [Woken(w, True), Queued(w, 2)]


def test_readers_woken_with_priority_still_share(bench):
    w = bench.acquire_and_wait("A", mode=Mode.SHARED)
    bench.acquire("R", mode=Mode.SHARED)
    assert bench.notify(priority=True) == [Woken(w, True), Granted(w, FIRST + 2)]


def test_without_reacquiring_to_be_woken_is_the_end(bench):
    w = bench.acquire_and_wait("A", reacquires=False)
    assert bench.notify() == [Woken(w, True)]
    assert not bench.table.locks
    assert bench.apply(Wait(w, b"condition", b"lock", FIRST, reacquires=False)) == [Woken(w, True)]
    assert bench.apply(Withdraw(w)) == [Woken(w, True)]


def test_a_waiter_whose_time_is_over_has_its_lock_again(bench):
    w = bench.acquire_and_wait("A")
    assert bench.apply(EndWait(w)) == [Woken(w, False), Granted(w, FIRST + 1)]
    assert bench.notify() == []


def test_without_reacquiring_the_end_of_time_is_the_end(bench):
    w = bench.acquire_and_wait("A", reacquires=False)
    assert bench.apply(EndWait(w)) == [Woken(w, False)]
    assert bench.apply(Wait(w, b"condition", b"lock", FIRST, reacquires=False)) == [Woken(w, False)]


def test_the_end_of_time_is_void_behind_a_notification(bench):
    w = bench.acquire_and_wait("A")
    bench.notify()
    assert bench.apply(EndWait(w)) == []
    assert bench.table.ticket(w).token


def test_all_that_wait_have_given_back_the_same_lock(bench):
    bench.acquire_and_wait("A")
    b, _ = bench.acquire("B", "other")
    w, outcomes = bench.wait("B", FIRST + 1, lock="other")
    assert outcomes == [Refused(w, Why.WRONG_LOCK)]
    assert bench.table.ticket(b).token, "the lock stays held"
    bench.notify()
    w, outcomes = bench.wait("B", FIRST + 1, lock="other")
    assert outcomes[-1] == Waiting(w), "the first waiter of an empty condition decides anew"


@pytest.mark.parametrize("how", ["late token", "somebody else's token", "another lock's token", "never held"])
def test_to_wait_needs_the_lock(bench, how):
    bench.acquire("A")
    bench.acquire("B", "other")
    if how == "late token":
        bench.apply(Force(b"lock", FIRST))
    token = {"another lock's token": FIRST + 1, "never held": 5}.get(how, FIRST)
    who = "B" if how in ("somebody else's token", "another lock's token") else "A"
    before = encode(bench.state.image().locks)
    w, outcomes = bench.wait(who, token)
    assert outcomes == [Refused(w, Why.NOT_HELD)]
    assert encode(bench.state.image().locks) == before


def test_another_task_of_the_client_may_wait_with_the_lock(bench):
    """A program may hand a lock from one of its tasks to another."""
    bench.acquire("A", task=1)
    w, outcomes = bench.wait("A", FIRST)
    assert outcomes[-1] == Waiting(w)


def test_who_would_wait_for_itself_when_woken_is_refused_with_the_circle(bench):
    bench.acquire("A", "x")
    bench.acquire("A", "lock")
    w, _ = bench.wait("A", FIRST + 1)
    bench.acquire("B", "lock")
    bench.acquire("B", "x")
    assert bench.notify() == [Woken(w, True), Refused(w, Why.DEADLOCK, (b"lock", b"x"))]


def test_no_notification_is_spent_on_a_client_that_is_gone(bench):
    a, b = (bench.acquire_and_wait(who) for who in "AB")
    assert bench.apply(Gone(a.owner.client)) == []
    assert bench.notify() == [Woken(b, True), Granted(b, FIRST + 2)]


def test_no_notification_is_spent_on_a_client_that_cannot_be_reached(bench):
    bench.acquire_and_wait("A")
    b = bench.acquire_and_wait("B", server=THERE)
    assert bench.state.keep([THERE], {}) == []
    assert bench.notify() == [Woken(b, True), Granted(b, FIRST + 2)]
    assert not bench.state.conditions.by_name


def test_a_withdrawn_waiter_is_not_woken_and_gets_no_lock(bench):
    a, b = (bench.acquire_and_wait(who) for who in "AB")
    assert bench.apply(Withdraw(a)) == [Refused(a, Why.WITHDRAWN)]
    assert waiting(bench) == [b]
    assert bench.apply(Wait(a, b"condition", b"lock", FIRST)) == [Refused(a, Why.WITHDRAWN)]


def test_a_woken_waiter_that_is_withdrawn_leaves_the_queue_or_releases(bench):
    a, b = (bench.acquire_and_wait(who) for who in "AB")
    bench.notify(everyone=True)
    assert bench.apply(Withdraw(b)) == [Refused(b, Why.WITHDRAWN)]
    assert bench.apply(Withdraw(a)) == [Ended(a, FIRST + 2, None)]
    assert not bench.table.locks


def test_to_wait_again_is_answered_with_what_has_become_of_it(bench):
    a, b = (bench.acquire_and_wait(who) for who in "AB")

    def again(request):
        before = encode(bench.state.image())
        outcomes = bench.apply(Wait(request, b"condition", b"lock", FIRST))
        assert encode(bench.state.image()) == before
        return outcomes

    assert again(a) == [Waiting(a)]
    bench.notify()
    bench.apply(EndWait(b))
    assert again(a) == [Woken(a, True), Granted(a, FIRST + 2)]
    assert again(b) == [Woken(b, False), Queued(b, 1)]
    bench.release(FIRST + 2)
    assert again(a) == [Ended(a, FIRST + 2, None)]
    assert again(b) == [Woken(b, False), Granted(b, FIRST + 3)]


def test_a_notification_that_comes_again_wakes_nobody_else(bench):
    _, b = (bench.acquire_and_wait(who) for who in "AB")
    n = bench.request("N")
    bench.apply(Notify(n, b"condition"))
    assert bench.apply(Notify(n, b"condition"), THERE) == [Notified(n, 1)]
    assert waiting(bench) == [b]


def test_a_request_waits_once_whatever_comes_in_its_name(bench):
    w = bench.acquire_and_wait("A")
    assert bench.apply(Acquire(w, b"other")) == [Waiting(w)]
    assert not bench.table.locks
    bench.notify()
    assert bench.apply(Notify(w, b"condition")) == [Woken(w, True), Granted(w, FIRST + 1)]


def test_waiters_on_a_condition_are_limited(bench, monkeypatch):
    monkeypatch.setattr(conditions, "MOST_WAITING", 1)
    a = bench.acquire_and_wait("A")
    b, _ = bench.acquire("B")
    w, outcomes = bench.wait("B", FIRST + 1)
    assert outcomes == [Refused(w, Why.OVERFLOW)]
    assert waiting(bench) == [a]
    assert bench.table.ticket(b).token, "the lock stays held"


def test_waiters_on_all_conditions_are_limited(bench, monkeypatch):
    monkeypatch.setattr(conditions, "MOST_WAITERS", 1)
    bench.acquire_and_wait("A")
    bench.acquire("B")
    w, outcomes = bench.wait("B", FIRST + 1, "other")
    assert outcomes == [Refused(w, Why.OVERFLOW)]
    bench.notify()
    w, outcomes = bench.wait("B", FIRST + 1, "other")
    assert Waiting(w) in outcomes, "it is those who wait now that count"


def test_a_woken_waiter_is_refused_where_the_queue_of_the_lock_is_full(bench, monkeypatch):
    monkeypatch.setattr(lock_table, "MOST_WAITING", 0)
    w = bench.acquire_and_wait("A")
    bench.acquire("B")
    assert bench.notify() == [Woken(w, True), Refused(w, Why.OVERFLOW)]


def test_the_server_through_which_a_waiter_speaks_is_the_latest(bench):
    w = bench.acquire_and_wait("A")
    bench.apply(Wait(w, b"condition", b"lock", FIRST), THERE)
    bench.state.keep([THERE], {})
    assert waiting(bench) == [w]
    bench.state.keep([HERE], {})
    assert not bench.state.conditions.by_name
