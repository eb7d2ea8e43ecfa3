"""The table of tickets: queues, modes, tokens, requests that come again, deadlocks, and what is always true."""

import random

import pytest
from msgspec.msgpack import decode, encode

from cluck.commands import (
    MOST_UNSETTLED,
    Acquire,
    ClientId,
    Ended,
    Expire,
    Force,
    Gone,
    Granted,
    Mode,
    Notified,
    Notify,
    Owner,
    Queued,
    Refused,
    Release,
    Renew,
    Renewed,
    RequestId,
    Revoke,
    Revoked,
    Still,
    Why,
    Withdraw,
    Woken,
)
from cluck.state import lock_table
from cluck.state.lock_table import Lock, Ticket
from cluck.state.machine import LockImage, LockState
from cluck.state.tokens import TOKENS_OF_AN_EPOCH
from tests.cluck.state.bench import FIRST, HERE, THERE, Bench


@pytest.fixture
def bench():
    return Bench()


def test_a_free_lock_is_granted_with_a_token(bench):
    request, outcomes = bench.acquire("A")
    assert outcomes == [Granted(request, FIRST)]


def test_the_next_in_the_queue_is_granted_with_a_larger_token(bench):
    a, _ = bench.acquire("A")
    b, waits = bench.acquire("B")
    c, waits_too = bench.acquire("C")
    assert waits == [Queued(b, 1)]
    assert waits_too == [Queued(c, 2)]
    assert bench.release(FIRST) == [Ended(a, FIRST, None), Granted(b, FIRST + 1)]
    assert bench.release(FIRST + 1) == [Ended(b, FIRST + 1, None), Granted(c, FIRST + 2)]
    bench.release(FIRST + 2)
    assert not bench.table.locks


def test_tokens_grow_over_all_locks(bench):
    tokens = [bench.acquire("A", name)[1][0].token for name in ("x", "y", "z")]
    assert tokens == [FIRST, FIRST + 1, FIRST + 2]


def test_a_late_release_touches_nobody(bench):
    bench.acquire("A")
    bench.acquire("B")
    bench.release(FIRST)
    assert bench.release(FIRST) == []
    assert bench.table.holder(b"lock", FIRST + 1)


def test_a_late_release_touches_no_later_grant_of_the_same_request(bench):
    """The state has forgotten its client in between, which requested it again."""
    a, _ = bench.acquire("A")
    bench.apply(Gone(a.owner.client))
    assert bench.apply(Acquire(a, b"lock")) == [Granted(a, FIRST + 1)]
    assert bench.apply(Release(a, FIRST)) == []
    assert bench.table.holder(b"lock", FIRST + 1)


def test_readers_share_and_do_not_overtake_a_writer(bench):
    a, _ = bench.acquire("A", mode=Mode.SHARED)
    b, with_a = bench.acquire("B", mode=Mode.SHARED)
    w, waits = bench.acquire("W")
    r, behind = bench.acquire("R", mode=Mode.SHARED)
    assert with_a == [Granted(b, FIRST + 1)]
    assert waits == [Queued(w, 2)]
    assert behind == [Queued(r, 3)]
    assert bench.release(FIRST) == [Ended(a, FIRST, None)]
    assert bench.release(FIRST + 1)[1:] == [Granted(w, FIRST + 2)]
    assert bench.release(FIRST + 2)[1:] == [Granted(r, FIRST + 3)]


def test_a_writer_with_priority_goes_in_front_of_readers_but_not_of_writers(bench):
    bench.acquire("A")
    w, _ = bench.acquire("W")
    r, _ = bench.acquire("R", mode=Mode.SHARED)
    p, outcomes = bench.acquire("P", mode=Mode.PRIORITY)
    assert outcomes == [Queued(p, 2)]
    assert [t.request for t in bench.table.locks[b"lock"].waiting] == [w, p, r]


def test_a_writer_without_priority_waits_behind_readers(bench):
    bench.acquire("A")
    r, _ = bench.acquire("R", mode=Mode.SHARED)
    w, _ = bench.acquire("W")
    assert [t.request for t in bench.table.locks[b"lock"].waiting] == [r, w]


def test_nobody_has_priority_for_a_permit(bench):
    bench.acquire("A", permits=1)
    r, _ = bench.acquire("R", mode=Mode.SHARED, permits=1)
    p, _ = bench.acquire("P", mode=Mode.PRIORITY, permits=1)
    assert [t.request for t in bench.table.locks[b"lock"].waiting] == [r, p]


def test_a_semaphore_grants_as_many_permits_as_it_has(bench):
    a, b, c = (bench.acquire(who, permits=2) for who in "ABC")
    assert [type(outcomes[0]) for _, outcomes in (a, b, c)] == [Granted, Granted, Queued]
    assert bench.release(FIRST)[1:] == [Granted(c[0], FIRST + 2)]
    other, outcomes = bench.acquire("D", permits=3)
    assert outcomes == [Refused(other, Why.KIND)]


def test_who_does_not_wait_is_refused(bench):
    bench.acquire("A")
    b, outcomes = bench.acquire("B", waits=False)
    assert outcomes == [Refused(b, Why.BUSY)]
    assert bench.release(FIRST)[1:] == []


def test_a_request_that_comes_again_changes_nothing(bench):
    a, _ = bench.acquire("A")
    b, _ = bench.acquire("B")
    before = encode(bench.state.image().locks)
    assert bench.apply(Acquire(a, b"lock")) == [Granted(a, FIRST)]
    assert bench.apply(Acquire(b, b"lock")) == [Queued(b, 1)]
    assert encode(bench.state.image().locks) == before
    bench.release(FIRST)
    assert bench.apply(Acquire(a, b"lock")) == [Ended(a, FIRST, None)]
    refused, outcomes = bench.acquire("C", waits=False)
    assert bench.apply(Acquire(refused, b"lock", waits=False)) == outcomes


def test_a_request_may_come_after_later_ones_of_its_client(bench):
    """It was on its way through a server that died."""
    late = bench.request("A")
    bench.acquire("A", "other")
    assert bench.apply(Acquire(late, b"lock")) == [Granted(late, FIRST + 1)]


def test_what_is_settled_is_forgotten(bench):
    a, _ = bench.acquire("A")
    bench.release(FIRST)
    bench.acquire("A", "other", settled=a.number)
    assert bench.apply(Acquire(a, b"lock")) == [Refused(a, Why.SETTLED)]
    assert not bench.state.requests.histories[a.owner.client].ended


def test_a_withdrawn_request_leaves_the_queue_or_releases(bench):
    a, _ = bench.acquire("A")
    b, _ = bench.acquire("B")
    c, _ = bench.acquire("C")
    assert bench.apply(Withdraw(b)) == [Refused(b, Why.WITHDRAWN)]
    assert bench.apply(Withdraw(a)) == [Ended(a, FIRST, None), Granted(c, FIRST + 1)]
    never = bench.request("A")
    assert bench.apply(Withdraw(never)) == [Refused(never, Why.WITHDRAWN)]
    assert bench.apply(Acquire(never, b"lock")) == [Refused(never, Why.WITHDRAWN)]


def test_a_renewal_in_time_voids_what_was_proposed(bench):
    a, _ = bench.acquire("A")
    assert bench.apply(Renew(a, FIRST)) == [Renewed(a, FIRST, 1)]
    assert bench.apply(Revoke(b"lock", FIRST, 0)) == []
    assert bench.apply(Expire(b"lock", FIRST, 0)) == []
    assert bench.apply(Revoke(b"lock", FIRST, 1)) == [Revoked(a, FIRST)]
    assert bench.apply(Revoke(b"lock", FIRST, 1)) == []
    assert bench.apply(Expire(b"lock", FIRST, 1)) == [Ended(a, FIRST, Why.EXPIRED)]


def test_a_renewed_lock_is_asked_for_again(bench):
    a, _ = bench.acquire("A")
    assert bench.apply(Revoke(b"lock", FIRST, 0)) == [Revoked(a, FIRST)]
    bench.apply(Renew(a, FIRST))
    assert bench.apply(Revoke(b"lock", FIRST, 1)) == [Revoked(a, FIRST)]


def test_an_administrator_takes_a_lock(bench):
    a, _ = bench.acquire("A")
    b, _ = bench.acquire("B")
    assert bench.apply(Force(b"lock", FIRST)) == [Ended(a, FIRST, Why.FORCED), Granted(b, FIRST + 1)]


def test_a_client_that_is_gone_holds_and_waits_for_nothing(bench):
    a, _ = bench.acquire("A")
    bench.acquire("A", "other", task=1)
    b, _ = bench.acquire("B")
    bench.acquire("A", task=2)
    c, _ = bench.acquire("C")
    outcomes = bench.apply(Gone(a.owner.client))
    assert Ended(a, FIRST, Why.GONE) in outcomes
    assert Granted(b, FIRST + 2) in outcomes
    assert bench.table.locks[b"lock"].ahead(bench.table.ticket(c)) == 1
    assert [t.request.owner.client.number for t in bench.table.tickets()] == [ord("B"), ord("C")]


def test_a_client_that_cannot_be_reached_keeps_what_it_holds(bench):
    a, _ = bench.acquire("A")
    bench.acquire("B")
    bench.acquire("A", task=1)
    c, _ = bench.acquire("C")
    assert bench.apply(Acquire(c, b"lock"), THERE) == [Queued(c, 3)]
    assert bench.state.keep([THERE], {}) == []
    assert [t.request for t in bench.table.tickets()] == [a, c]


@pytest.mark.parametrize("how", ["gone", "stranded"])
def test_nothing_is_remembered_of_a_client_that_is_not_there(bench, how):
    a, _ = bench.acquire("A")
    bench.release(FIRST)
    b, _ = bench.acquire("B")
    bench.apply(Acquire(b, b"lock"), THERE)
    if how == "gone":
        bench.apply(Gone(a.owner.client))
    else:
        bench.state.keep([THERE], {})
    assert list(bench.state.requests.histories) == [b.owner.client]


def test_the_clients_of_a_server_are_those_that_hold_or_are_remembered(bench):
    a, _ = bench.acquire("A")
    bench.state.keep([THERE], {})
    b, _ = bench.acquire("B", waits=False)
    assert bench.state.clients_of(HERE) == [a.owner.client, b.owner.client]
    assert bench.state.clients_of(THERE) == []


def test_a_deadlock_is_refused_with_its_circle(bench):
    bench.acquire("A", "x")
    bench.acquire("B", "y")
    bench.acquire("C", "z")
    bench.acquire("A", "y")
    bench.acquire("B", "z")
    c, outcomes = bench.acquire("C", "x")
    assert outcomes == [Refused(c, Why.DEADLOCK, (b"x", b"y", b"z"))]
    assert len(list(bench.table.tickets())) == 5


def test_who_would_wait_for_itself_is_refused(bench):
    bench.acquire("A", mode=Mode.SHARED)
    upgrade, outcomes = bench.acquire("A")
    assert outcomes == [Refused(upgrade, Why.DEADLOCK, (b"lock",))]


def test_tasks_of_one_client_wait_for_each_other(bench):
    bench.acquire("A", task=1)
    second, outcomes = bench.acquire("A", task=2)
    assert outcomes == [Queued(second, 1)]


def test_a_deadlock_through_a_place_in_a_queue_is_seen(bench):
    """B could share x with R, but waits behind W; W waits for R, who would wait for B."""
    bench.acquire("R", "x", Mode.SHARED)
    bench.acquire("B", "z")
    bench.acquire("W", "x")
    bench.acquire("B", "x", Mode.SHARED)
    r, outcomes = bench.acquire("R", "z")
    assert outcomes == [Refused(r, Why.DEADLOCK, (b"z", b"x"))]


def test_a_chain_of_waiting_may_be_long(bench):
    """Each holds a lock and waits for the next one's; the last one would close the circle."""
    length = 2000
    requests = [RequestId(Owner(ClientId(HERE, number), 0), 1) for number in range(1, length + 1)]
    for number, request in enumerate(requests):
        bench.apply(Acquire(request, b"%d" % number))
    for number, request in enumerate(requests[:-1]):
        again = RequestId(request.owner, 2)
        assert bench.apply(Acquire(again, b"%d" % (number + 1))) == [Queued(again, 1)]
    last = RequestId(requests[-1].owner, 2)
    [refused] = bench.apply(Acquire(last, b"0"))
    assert refused == Refused(last, Why.DEADLOCK, tuple(b"%d" % number for number in range(length)))


def test_a_deadlock_behind_a_long_queue_is_seen_at_once(bench, monkeypatch):
    """A ticket further ahead in the same queue is not followed again from each place: that would take for ever."""
    followed = []
    all_ahead = lock_table.Lock.all_ahead
    bench.acquire("A", "x")
    for number in range(100):
        bench.apply(Acquire(RequestId(Owner(ClientId(THERE, number), 0), 1), b"x"))
    bench.acquire("B", "y")
    bench.acquire("A", "y")
    monkeypatch.setattr(lock_table.Lock, "all_ahead", lambda *a: followed.append(a) or all_ahead(*a))
    b, outcomes = bench.acquire("B", "x")
    assert outcomes == [Refused(b, Why.DEADLOCK, (b"x", b"y"))]
    assert len(followed) == 2


def test_a_search_for_a_deadlock_has_an_end(bench, monkeypatch):
    """Readers are followed from each place: one of them may be behind a ticket that another one is not behind."""
    monkeypatch.setattr(lock_table, "MOST_STEPS", 100)
    looked_at = []
    all_ahead = lock_table.Lock.all_ahead

    def counted(lock, ticket):
        for other in all_ahead(lock, ticket):
            looked_at.append(other)
            yield other

    bench.acquire("A", "x")
    for number in range(200):
        mode = Mode.SHARED if number % 2 else Mode.EXCLUSIVE
        owner = Owner(ClientId(THERE, number), 0)
        bench.apply(Acquire(RequestId(owner, 1), b"x", mode))
        bench.apply(Acquire(RequestId(owner, 2), b"%d" % number, Mode.SHARED))
        bench.apply(Acquire(RequestId(owner, 3), b"%d" % ((7 * number) % 200), mode))
    bench.acquire("B", "0")
    bench.acquire("C", "0")
    monkeypatch.setattr(lock_table.Lock, "all_ahead", counted)
    bench.acquire("C", "x")
    assert len(looked_at) <= 101


def test_one_client_has_no_more_than_its_share(bench, monkeypatch):
    monkeypatch.setattr(lock_table, "MOST_OF_CLIENT", 3)
    for number in range(3):
        bench.acquire("A", f"{number}", task=number)
    a, outcomes = bench.acquire("A", "free")
    assert outcomes == [Refused(a, Why.OVERFLOW)]
    assert type(bench.acquire("B", "free")[1][0]) is Granted
    bench.release(FIRST)
    assert type(bench.acquire("A", "another")[1][0]) is Granted


def test_as_many_locks_are_held_as_may(bench, monkeypatch):
    """Also where nobody would have to wait."""
    monkeypatch.setattr(lock_table, "MOST_TICKETS", 2)
    bench.acquire("A", "x")
    bench.acquire("B", "y")
    c, outcomes = bench.acquire("C", "z")
    assert outcomes == [Refused(c, Why.OVERFLOW)]
    bench.release(FIRST)
    assert type(bench.acquire("C", "z")[1][0]) is Granted


def test_what_is_remembered_of_a_client_has_a_bound(bench):
    """The client says what is settled, and need not."""
    client = ClientId(HERE, 1)
    for number in range(1, 5 * MOST_UNSETTLED):
        request = RequestId(Owner(client, 0), number)
        outcome = Refused(request, Why.WITHDRAWN) if number % 2 else Notified(request, 0)
        is_remembered = number <= MOST_UNSETTLED * (2 if number % 2 else 1)
        command = Withdraw(request) if number % 2 else Notify(request, b"condition")
        (told,) = bench.apply(command)
        assert told == outcome if is_remembered or number % 2 else told == Refused(request, Why.OVERFLOW)
    (history,) = bench.state.requests.histories.values()
    assert len(history.ended) == 1.5 * MOST_UNSETTLED
    assert bench.state.requests._answers == len(history.ended)


def test_clients_and_answers_are_limited(bench, monkeypatch):
    monkeypatch.setattr("cluck.state.request_history.MOST_CLIENTS", 2)
    monkeypatch.setattr("cluck.state.request_history.MOST_ANSWERS", 3)
    for who in "AB":
        bench.apply(Notify(bench.request(who), b"condition"))
    for command in (Notify(bench.request("C"), b"condition"), Acquire(bench.request("C"), b"lock")):
        assert bench.apply(command) == [Refused(command.request, Why.OVERFLOW)]
    bench.apply(Notify(bench.request("A"), b"condition"))
    b = bench.request("B")
    assert bench.apply(Notify(b, b"condition")) == [Refused(b, Why.OVERFLOW)]
    bench.apply(Gone(ClientId(HERE, ord("A"))))
    assert bench.apply(Notify(b, b"condition")) == [Notified(b, 0)]
    assert len(bench.state.requests.histories) == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_queue_is_what_a_plain_list_would_be(seed):
    dice = random.Random(seed)
    lock, twin = Lock(permits=0), []
    for number in range(2000):
        if twin and dice.random() < 0.48:
            ticket = twin.pop(dice.choice([0, dice.randrange(len(twin))]))
            lock.take_out(ticket)
        else:
            ticket = Ticket(RequestId(Owner(ClientId(HERE, 1), 0), number), b"lock", dice.choice(list(Mode)), 1.0, 1.0)
            place = len(twin)
            if ticket.mode is Mode.PRIORITY:
                place = next((place for place, other in enumerate(twin) if other.is_shared), place)
            twin.insert(place, ticket)
            assert lock.queue(ticket) == place
        assert lock.waiting == twin
        assert (lock.first, lock.length) == (twin[0] if twin else None, len(twin))
        if twin:
            some = dice.randrange(len(twin))
            assert lock.ahead(twin[some]) == some
            assert list(lock.all_ahead(twin[some])) == twin[:some][::-1]
            assert lock.is_last(twin[some]) == (some == len(twin) - 1)


def test_the_circle_that_is_named_is_the_same_behind_a_snapshot(bench):
    """Also where there are several, since somebody waits for two locks at once."""
    bench.acquire("A", "x")
    for name in "ba":
        bench.acquire("B", name)
        bench.acquire("A", name)
    twin = LockState.of(decode(encode(bench.state.image()), type=LockImage))
    b, outcomes = bench.acquire("B", "x")
    assert outcomes == [Refused(b, Why.DEADLOCK, (b"x", b"b"))]
    assert twin.apply(Acquire(b, b"x"), HERE) == outcomes


@pytest.mark.parametrize("how", ["gone", "stranded"])
def test_none_of_a_clients_tickets_is_granted_when_another_one_ends(bench, how):
    reader, _ = bench.acquire("R", mode=Mode.SHARED)
    writes, _ = bench.acquire("A", task=1)
    bench.acquire("A", mode=Mode.SHARED, task=2)
    bench.apply(Acquire(reader, b"lock", Mode.SHARED), THERE)
    outcomes = bench.apply(Gone(writes.owner.client)) if how == "gone" else bench.state.keep([THERE], {})
    assert outcomes == []
    assert [t.request for t in bench.table.tickets()] == [reader]


def test_clients_that_are_stranded_together_are_granted_nothing(bench):
    reader, _ = bench.acquire("R", mode=Mode.SHARED)
    bench.acquire("A")
    bench.acquire("B", mode=Mode.SHARED)
    bench.apply(Acquire(reader, b"lock", Mode.SHARED), THERE)
    assert bench.state.keep([THERE], {}) == []
    assert [t.request for t in bench.table.tickets()] == [reader]


def test_who_speaks_through_another_server_is_not_stranded(bench):
    bench.acquire("A")
    b, _ = bench.acquire("B")
    bench.apply(Acquire(b, b"lock"), THERE)
    bench.state.keep([THERE], {})
    assert bench.table.ticket(b)


def test_a_request_is_open_once_whatever_comes_in_its_name(bench):
    a, _ = bench.acquire("A")
    assert bench.apply(Acquire(a, b"other")) == [Granted(a, FIRST)]
    assert list(bench.table.locks) == [b"lock"]


def test_an_open_request_is_answered_also_where_later_ones_are_settled(bench):
    a, _ = bench.acquire("A")
    bench.acquire("A", "other", settled=a.number)
    assert bench.apply(Acquire(a, b"lock")) == [Granted(a, FIRST)]


def test_the_answer_to_what_was_settled_while_open_is_remembered_until_more_is(bench):
    """For example of a lock that was held and then lost, while its client was away."""
    a, _ = bench.acquire("A")
    bench.acquire("A", "x", settled=1)
    bench.apply(Force(b"lock", FIRST))
    assert bench.apply(Acquire(a, b"lock")) == [Ended(a, FIRST, Why.FORCED)]
    assert bench.apply(Withdraw(a)) == [Ended(a, FIRST, Why.FORCED)]
    bench.acquire("A", "y", settled=2)
    assert bench.apply(Acquire(a, b"lock")) == [Refused(a, Why.SETTLED)]
    assert bench.apply(Withdraw(a)) == [Refused(a, Why.SETTLED)]


def test_waiters_for_a_lock_are_limited(bench, monkeypatch):
    monkeypatch.setattr(lock_table, "MOST_WAITING", 1)
    bench.acquire("A")
    b, _ = bench.acquire("B")
    c, outcomes = bench.acquire("C")
    assert outcomes == [Refused(c, Why.OVERFLOW)]
    assert [t.request for t in bench.table.locks[b"lock"].waiting] == [b]


def test_tickets_are_limited(bench, monkeypatch):
    monkeypatch.setattr(lock_table, "MOST_TICKETS", 2)
    bench.acquire("A")
    bench.acquire("B", "other")
    c, outcomes = bench.acquire("C")
    assert outcomes == [Refused(c, Why.OVERFLOW)]


def test_a_lease_that_no_disk_knows_of_is_not_granted_yet(bench):
    """It may come again when they do (ruling E5)."""
    bench.state.longest_promise = 60.0
    a, outcomes = bench.acquire("A", lease=59.0, grace=2.0)
    assert outcomes == [Refused(a, Why.UNRECORDED)]
    bench.state.longest_promise = 61.0
    assert bench.apply(Acquire(a, b"lock", lease=59.0, grace=2.0)) == [Granted(a, FIRST)]


def test_a_deadlock_is_seen_also_where_only_the_queue_is_in_the_way(bench):
    """B could share x with R, but for W, who waits for R, who waits for B."""
    bench.acquire("R", "x", Mode.SHARED)
    bench.acquire("B", "z")
    bench.acquire("W", "x")
    bench.acquire("R", "z")
    b, outcomes = bench.acquire("B", "x", Mode.SHARED)
    assert outcomes == [Refused(b, Why.DEADLOCK, (b"x", b"z"))]


@pytest.mark.parametrize("where", ["at the end", "in the middle"])
def test_permits_make_no_circle(bench, where):
    """Any holder's permit may come free."""
    bench.acquire("A", "permits", permits=1)
    bench.acquire("B", "lock")
    waits = [lambda: bench.acquire("A", "lock"), lambda: bench.acquire("B", "permits", permits=1)]
    if where == "in the middle":
        waits.reverse()
    waits[0]()
    request, outcomes = waits[1]()
    assert outcomes == [Queued(request, 1)]


def test_a_ticket_is_found_in_the_longest_queue_in_a_few_steps(bench, monkeypatch):
    """As many requests come again, and end, as wait: when a server dies, and when it returns."""
    requests = [bench.acquire("A")[0]]
    for number in range(1000):
        mode = Mode.SHARED if number % 3 else Mode.EXCLUSIVE
        requests.append(RequestId(Owner(ClientId(THERE, number), 0), 1))
        bench.apply(Acquire(requests[-1], b"lock", mode))
    looked_at = []
    monkeypatch.setattr(lock_table, "_place", lambda ticket: looked_at.append(ticket) or ticket.place)
    for place, request in list(enumerate(requests))[1:]:
        assert bench.apply(Acquire(request, b"lock")) == [Queued(request, place)]
    for request in reversed(requests):
        bench.apply(Withdraw(request))
    assert len(looked_at) < 2 * len(requests) * 24
    assert not bench.table.locks


def test_what_waits_for_a_token_is_granted_when_there_is_another_epoch(bench):
    """The token of a released lock, and of one that is requested again after a condition (ruling E6)."""
    state = bench.state
    w = bench.acquire_and_wait("W", lock="other")
    a, _ = bench.acquire("A")
    b, _ = bench.acquire("B")
    state.tokens.drawn = TOKENS_OF_AN_EPOCH - 1
    assert state.apply(Release(a, FIRST + 1), HERE) == [Ended(a, FIRST + 1, None)]
    c = bench.request("C")
    assert state.apply(Acquire(c, b"lock"), HERE) == [Refused(c, Why.UNRECORDED)]
    assert state.apply(Notify(bench.request("N"), b"condition"), HERE)[:2] == [Woken(w, True), Queued(w, 0)]
    assert [state.apply(Still(request), HERE) for request in (b, w)] == [[], []]
    state.tokens.begin(8)
    assert state.apply(Still(b), HERE) == [Granted(b, 8 * TOKENS_OF_AN_EPOCH + 1)]
    assert bench.apply(Still(w)) == [Granted(w, 8 * TOKENS_OF_AN_EPOCH + 2)]
    assert bench.apply(Still(w)) == []
    assert bench.apply(Acquire(c, b"lock")) == [Queued(c, 1)]
