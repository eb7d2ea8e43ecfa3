"""What is true of every state, whatever anybody has said: nothing is lost, nothing is there twice, everything has a
bound.
"""

from itertools import pairwise

from msgspec.msgpack import decode, encode

from cluck.commands import MOST_UNSETTLED
from cluck.state import conditions, elections, lock_table, request_history
from cluck.state.elections import Stage
from cluck.state.machine import LockImage, LockState
from cluck.state.tokens import TOKENS_OF_AN_EPOCH


def check(state):
    """Raise AssertionError where a state is not a possible one."""
    check_locks(state)
    check_conditions(state)
    check_elections(state)
    check_requests(state)
    image = encode(state.image())
    again = LockState.of(decode(image, type=LockImage))
    assert encode(again.image()) == image, "what is read of an image is another state"
    assert again.table._tickets.keys() == state.table._tickets.keys()
    assert again.table._counts == state.table._counts
    assert again.requests._answers == state.requests._answers
    assert again.elections._published == state.elections._published


def check_locks(state):
    table, tokens = state.table, set()
    everything = {}
    for name, lock in table.locks.items():
        assert lock.holders, f"{name} is held by nobody"
        assert lock.first is None or not lock.admits(lock.first), f"{name} could be held by who waits"
        assert not lock.rest or lock.rest[0].is_shared
        assert lock.length <= lock_table.MOST_WAITING
        assert lock.permits or len(lock.holders) == 1 or all(ticket.is_shared for ticket in lock.holders)
        assert not lock.permits or len(lock.holders) <= lock.permits
        for part in (lock.front, lock.rest):
            assert all(one.place < other.place for one, other in pairwise(part))
        assert all(one.token < other.token for one, other in pairwise(lock.holders))
        tokens |= {ticket.token for ticket in lock.holders}
        for ticket in (*lock.holders, *lock.waiting):
            assert (ticket.name, bool(ticket.token)) == (name, ticket in lock.holders)
            everything[ticket.request] = ticket
    assert everything == table._tickets
    assert len(everything) <= lock_table.MOST_TICKETS
    assert len(tokens) == sum(len(lock.holders) for lock in table.locks.values()), "a token twice"
    last = state.tokens.epoch * TOKENS_OF_AN_EPOCH + state.tokens.drawn
    tokens |= {tenure.token for tenure in state.elections.tenures()}
    assert max(tokens, default=0) <= last, "a token that was not drawn"
    clients = [request.owner.client for request in everything]
    assert {client: clients.count(client) for client in clients} == table._counts
    assert {request.owner for request in everything} == table._owned.keys()
    assert all(ticket.lease + ticket.grace <= state.longest_promise for ticket in everything.values())


def check_conditions(state):
    known, waiters = state.conditions, {}
    for name, condition in known.by_name.items():
        assert condition.waiters
        assert len(condition.waiters) <= conditions.MOST_WAITING
        places = [waiter.ticket.place for waiter in condition.waiters]
        assert all(one < other for one, other in pairwise(places))
        for waiter in condition.waiters:
            assert waiter.ticket.name == condition.lock
            assert waiter.ticket.request not in state.table._tickets, "it waits in two places"
            assert known._places[waiter.ticket.request] == name
            waiters[waiter.ticket.request] = waiter
    assert waiters == known._waiters
    assert len(known._places) == len(waiters)


def check_elections(state):
    known, standing = state.elections, 0
    for name, election in known.by_name.items():
        candidates = [candidate.request for candidate in election.candidates]
        assert len(set(candidates)) == len(candidates) <= elections.MOST_CANDIDATES
        assert candidates or election.tenure is not None, f"{name} is known without anybody"
        assert all(known._places[request] == name for request in candidates)
        assert all(known._standing[candidate.request] is candidate for candidate in election.candidates)
        if election.stage is Stage.ASKED and candidates:
            assert known._missing[name] == len(election.missing())
        standing += len(candidates)
        if election.stage in (Stage.CHOSEN, Stage.NAMED):
            assert election.chosen in candidates
        if election.led is not None:
            assert election.led.request in candidates, "who leads does not stand"
        if election.tenure is not None:
            assert known._tenures[election.tenure.request] == name
    assert standing == len(known._places) == len(known._standing)
    assert known._missing.keys() <= known.by_name.keys()
    assert known._published == sum(len(tenure.blob) for tenure in known.tenures()) <= elections.MOST_PUBLISHED


def check_requests(state):
    known = state.requests
    assert len(known.histories) <= request_history.MOST_CLIENTS
    assert known._answers == sum(len(history.ended) for history in known.histories.values())
    for history in known.histories.values():
        assert len(history.ended) <= 4 * MOST_UNSETTLED
