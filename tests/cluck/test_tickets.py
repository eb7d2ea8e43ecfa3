"""The table of tickets: queues, modes, tokens, requests that come again, deadlocks, and what always holds."""

import copy
import random

import pytest
from msgspec.msgpack import encode

from cluck.commands import (
    Acquire,
    Client,
    Ended,
    Expire,
    Force,
    Gone,
    Granted,
    Mode,
    Owner,
    Queued,
    Refused,
    Release,
    Renew,
    Renewed,
    RequestId,
    Revoke,
    Revoked,
    Server,
    Why,
    Withdraw,
)
from cluck.state import State
from cluck.tokens import TOKENS_OF_AN_EPOCH

FIRST = 7 * TOKENS_OF_AN_EPOCH + 1
HERE, THERE = Server(1, 99), Server(2, 98)


class Bench:
    """A state, and short words for requests of clients A, B, C …, each with one task unless said otherwise."""

    def __init__(self):
        self.state = State(epoch=7)
        self.state.longest = 10.0
        self.table = self.state.table
        self.numbers = {}

    def apply(self, command, server=HERE):
        return self.state.apply(command, server)

    def request(self, who, task=0):
        client = Client(HERE, ord(who))
        self.numbers[client] = self.numbers.get(client, 0) + 1
        return RequestId(Owner(client, task), self.numbers[client])

    def acquire(self, who, name="lock", mode=Mode.EXCLUSIVE, task=0, **options):
        request = self.request(who, task)
        return request, self.apply(Acquire(request, name.encode(), mode, **options))

    def release(self, token, name="lock"):
        return self.apply(Release(name.encode(), token))


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


def test_a_semaphore_has_so_many_permits(bench):
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
    assert bench.apply(Renew(b"lock", FIRST)) == [Renewed(a, FIRST, 1)]
    assert bench.apply(Revoke(b"lock", FIRST, 0)) == []
    assert bench.apply(Expire(b"lock", FIRST, 0)) == []
    assert bench.apply(Revoke(b"lock", FIRST, 1)) == [Revoked(a, FIRST)]
    assert bench.apply(Revoke(b"lock", FIRST, 1)) == []
    assert bench.apply(Expire(b"lock", FIRST, 1)) == [Ended(a, FIRST, Why.EXPIRED)]


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
    assert bench.table.ahead(bench.table.ticket(c)) == 1
    assert [t.request.owner.client.number for t in bench.table.tickets()] == [ord("B"), ord("C")]


def test_a_client_that_cannot_be_reached_keeps_what_it_holds(bench):
    a, _ = bench.acquire("A")
    bench.acquire("B")
    bench.acquire("A", task=1)
    c, _ = bench.acquire("C")
    assert bench.apply(Acquire(c, b"lock"), THERE) == [Queued(c, 3)]
    assert bench.state.keep([THERE]) == []
    assert [t.request for t in bench.table.tickets()] == [a, c]


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


class Model:
    """Judges a table by what it says: who holds what, from the outcomes alone."""

    def __init__(self):
        self.held = {}
        self.last_token = 0

    def judge(self, table, outcomes, modes):
        for outcome in outcomes:
            if isinstance(outcome, Granted) and outcome.request not in self.held:
                assert outcome.token > self.last_token
                self.last_token = outcome.token
                self.held[outcome.request] = outcome.token
            elif isinstance(outcome, Ended) and outcome.token == self.held.get(outcome.request):
                del self.held[outcome.request]
        by_name = {}
        for request in self.held:
            name, mode, permits = modes[request]
            by_name.setdefault((name, permits), []).append(mode)
        for (name, permits), held in by_name.items():
            if permits:
                assert len(held) <= permits, name
            elif len(held) > 1:
                assert set(held) == {Mode.SHARED}, name
        for name, lock in table.locks.items():
            assert lock.holders, f"{name} is held by nobody, and {lock.waiting} wait"
            if lock.waiting:
                assert not lock.admits(lock.waiting[0])
        assert {t.request: t.token for t in table.tickets() if t.token} == self.held
        assert not deadlocked(table)


def deadlocked(table):
    """Owners of locks in a circle of waiting, found by trying what could still end."""
    alive = {ticket.request.owner for ticket in table.tickets()}
    waits = {}
    for lock in table.locks.values():
        if lock.permits:
            continue
        for place, ticket in enumerate(lock.waiting):
            before = [*lock.holders, *lock.waiting[:place]]
            waits.setdefault(ticket.request.owner, set()).update(
                t.request.owner for t in before if not (ticket.is_shared and t.is_shared)
            )
    ended = True
    while ended:
        ended = {owner for owner in alive if not waits.get(owner, set()) & alive}
        alive -= ended
    return alive


@pytest.mark.parametrize("seed", range(40))
def test_what_always_holds(seed):
    dice = random.Random(seed)
    bench, model, modes, requests = Bench(), Model(), {}, []
    for _ in range(400):
        tokens = [(t.name, t.token, t.renewals) for t in bench.table.tickets() if t.token]
        match dice.randrange(12):
            case 0 | 1 | 2 | 3 | 4:
                who, task = dice.choice("ABCDE"), dice.randrange(2)
                if any(
                    not t.token and t.request.owner == (Client(HERE, ord(who)), task) for t in bench.table.tickets()
                ):
                    continue  # who waits does nothing else
                request = bench.request(who, task)
                name = dice.choice([b"x", b"y", b"z", b"semaphore"])
                permits = 2 if name == b"semaphore" else 0
                mode = dice.choice(list(Mode))
                modes[request] = name, mode, permits
                requests.append(Acquire(request, name, mode, permits, waits=dice.random() < 0.8))
                command = requests[-1]
            case 5 if requests:
                command = dice.choice(requests)  # again
            case 6 if requests:
                command = Withdraw(dice.choice(requests).request)
            case 7 | 8 | 9 if tokens:
                name, token, _ = dice.choice(tokens)
                command = dice.choice([Release(name, token), Renew(name, token), Release(name, token - 1)])
            case 10 if tokens:
                command = dice.choice([Revoke, Expire])(*dice.choice(tokens))
            case _:
                command = Gone(Client(HERE, ord(dice.choice("ABCDE"))))
                requests = [a for a in requests if a.request.owner.client != command.client]
        server = dice.choice([HERE, HERE, THERE])
        twin = State.of(copy.deepcopy(bench.state.image()))
        outcomes = bench.apply(command, server)
        assert twin.apply(command, server) == outcomes
        if dice.random() < 0.05:
            more = bench.state.keep([server])
            assert twin.keep([server]) == more
            outcomes += more
        assert encode(twin.image()) == encode(bench.state.image())
        model.judge(bench.table, outcomes, modes)
