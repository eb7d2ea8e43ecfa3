"""The table of tickets: who holds which lock, who waits, and in which order; the heart of the replicated state.

Every lock server feeds the same commands in the same order to its table, so all tables are the same. The delivery of an
`Acquire` is its ticket: its place in the queue of that lock. The table has no clock. Lock servers, which have clocks,
propose `Revoke` and `Expire`, and order decides whether a renewal came before.

* Tickets are granted in the order of the queue, and nobody overtakes: readers behind a waiting writer wait. Only a
  writer with priority goes in front of all readers that wait.
* A grant has a fencing token that is larger than that of every grant before, of any lock (ruling E6). Where the tokens
  of an epoch are used up, tickets wait for the next epoch as for a holder.
* A request that comes again changes nothing and is answered with its present outcome (`cluck.state.machine`).
* An owner is a task of a client, which waits for one lock at a time. A request that would wait for itself, through any
  number of others, is refused with the circle. Permits of semaphores make no such circle: any holder's may come free. A
  search ends after `MOST_STEPS`: one request must not hold up all.
* A release or a renewal names its request and its token. So it concerns nobody else, and a late one of a former holder
  concerns nobody.
* A ticket of the longest queue is found, counted and taken out in about the same time as any other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from operator import attrgetter
from typing import Final

from msgspec import Struct, field

from cluck.commands import (
    MOST_UNSETTLED,
    Acquire,
    ClientId,
    ConditionOutcome,
    Ended,
    Expire,
    Force,
    Grace,
    Granted,
    Lease,
    LockOutcome,
    Mode,
    Name,
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
from cluck.state.request_history import Pool, RequestHistory
from cluck.state.tokens import Tokens
from cpg.replication.identities import Number

MOST_WAITING: Final = 10_000
"""Tickets that may wait for one lock."""
MOST_TICKETS: Final = 200_000
"""Tickets of all locks, with those of holders."""
MOST_OF_CLIENT: Final = MOST_UNSETTLED
"""Tickets of one client; its waits on conditions are counted apart."""
MOST_STEPS: Final = 20_000
"""Tickets that a search for a deadlock looks at; a deadlock behind more of them is not seen."""

_token, _place = attrgetter("token"), attrgetter("place")


class Ticket(Struct, array_like=True, eq=False):
    """A place in the queue of one lock."""

    request: RequestId
    name: Name
    mode: Mode
    lease: Lease
    grace: Grace
    token: Number = 0
    """0 while it waits."""
    renewals: Number = 0
    is_revoked: bool = False
    notified: bool | None = None
    """Of a request that has waited on a condition: whether it was notified there."""
    place: Number = 0
    """Grows along the queue."""

    @property
    def is_shared(self) -> bool:
        """Return whether others may hold the lock beside it."""
        return self.mode is Mode.SHARED


class Lock(Struct, array_like=True, eq=False):
    """One lock: its holders, and its waiters in their order. Without any it is forgotten.

    All four lists are sorted, and grow at their ends alone.
    """

    permits: Number
    holders: list[Ticket] = field(default_factory=list)
    """By token."""
    front: list[Ticket] = field(default_factory=list)
    """Waiters before the first reader, or for a permit; by place."""
    rest: list[Ticket] = field(default_factory=list)
    """Waiters from the first reader on; by place."""

    @property
    def waiting(self) -> list[Ticket]:
        """Return all waiters, in their order."""
        return [*self.front, *self.rest]

    @property
    def length(self) -> int:
        """Return the number of waiters."""
        return len(self.front) + len(self.rest)

    @property
    def first(self) -> Ticket | None:
        """Return the next waiter."""
        part = self.front or self.rest
        return part[0] if part else None

    def nearest(self, count: int) -> list[Ticket]:
        """Return this many waiters, from the first on."""
        return [*self.front[:count], *self.rest[:count]][:count]

    def is_last(self, ticket: Ticket) -> bool:
        """Return whether nobody waits behind it."""
        return (self.rest or self.front)[-1] is ticket

    def admits(self, ticket: Ticket) -> bool:
        """Return whether the ticket could hold the lock beside the present holders."""
        if self.permits:
            return len(self.holders) < self.permits
        return not self.holders or (ticket.is_shared and self.holders[0].is_shared)

    def queue(self, ticket: Ticket) -> int:
        """Put a ticket in the queue; return the number of waiters before it."""
        is_in_front = self.permits or ticket.mode is Mode.PRIORITY or not (self.rest or ticket.is_shared)
        append(self.front if is_in_front else self.rest, ticket)
        return len(self.front) - 1 if is_in_front else self.length - 1

    def ahead(self, ticket: Ticket) -> int:
        """Return the number of tickets before a waiter, holders included."""
        part, index = self._find(ticket)
        return len(self.holders) + index + (len(self.front) if part is self.rest else 0)

    def all_ahead(self, ticket: Ticket) -> Iterator[Ticket]:
        """Return the tickets before a waiter, the nearest first, and the holders."""
        part, index = self._find(ticket)
        yield from reversed(part[:index])
        if part is self.rest:
            yield from reversed(self.front)
        yield from self.holders

    def take_out(self, ticket: Ticket) -> None:
        """Remove a holder or a waiter."""
        if ticket.token:
            del self.holders[self._index(ticket.token)]
            return
        part, index = self._find(ticket)
        del part[index]
        while self.rest and not self.rest[0].is_shared:
            append(self.front, self.rest.pop(0))

    def _find(self, ticket: Ticket) -> tuple[list[Ticket], int]:
        for part in (self.front, self.rest):
            if part and part[0] is ticket:
                return part, 0
            index = bisect_left(part, ticket.place, key=_place)
            if index < len(part) and part[index] is ticket:
                return part, index
        raise AssertionError(f"{ticket} does not wait")

    def _index(self, token: int) -> int:
        """Return where the holder with a token is among the holders, or would be."""
        return bisect_left(self.holders, token, key=_token) if len(self.holders) > 1 else 0

    def holder(self, token: int) -> Ticket | None:
        """Return the ticket that holds it under a token."""
        index = self._index(token)
        return self.holders[index] if index < len(self.holders) and self.holders[index].token == token else None


def append(part: list[Ticket], ticket: Ticket) -> None:
    """Put a ticket at the end of others."""
    ticket.place = part[-1].place + 1 if part else 1
    part.append(ticket)


class LockTable:
    """All locks of the cluster."""

    def __init__(self, tokens: Tokens, requests: RequestHistory) -> None:
        self.locks: dict[bytes, Lock] = {}
        self.moved: set[bytes] = set()
        """Locks whose queues have changed since somebody cleared this set; no part of the replicated state."""
        self._tokens = tokens
        self._requests = requests
        self._tickets: dict[RequestId, Ticket] = {}
        self._owned: dict[Owner, list[Ticket]] = {}
        """The same tickets by owner."""
        self._owners: dict[ClientId, set[Owner]] = {}
        """The owners by client."""
        self._counts: dict[ClientId, int] = {}
        """The number of tickets of each client."""

    # ---- what there is

    def tickets(self) -> Collection[Ticket]:
        """Return all tickets, in the order in which they came."""
        return self._tickets.values()

    @property
    def places(self) -> Pool:
        """Return the number of tickets, and how many there may be."""
        return Pool("places at locks", MOST_TICKETS, len(self._tickets), lambda client: self._counts.get(client, 0))

    def ticket(self, request: RequestId) -> Ticket | None:
        """Return the ticket of a request."""
        return self._tickets.get(request)

    def has_tickets(self, client: ClientId) -> bool:
        """Return whether a client holds a lock, or waits for one."""
        return client in self._owners

    def present(self, request: RequestId) -> list[ConditionOutcome]:
        """Return the outcomes of a request so far, if it has a ticket. Hot."""
        ticket = self._tickets.get(request)
        if ticket is None:
            return []
        lock = self.locks[ticket.name]
        outcome = Granted(request, ticket.token) if ticket.token else Queued(request, lock.ahead(ticket))
        return [outcome] if ticket.notified is None else [Woken(request, ticket.notified), outcome]

    def held(self, request: RequestId, token: int) -> Ticket | None:
        """Return the ticket of a request, if it holds its lock under this token."""
        ticket = self._tickets.get(request)
        return ticket if ticket is not None and ticket.token == token and token else None

    def holder(self, name: bytes, token: int, renewals: int | None = None) -> Ticket | None:
        """Return the ticket that holds a lock with this token and this number of renewals."""
        lock = self.locks.get(name)
        ticket = lock.holder(token) if lock is not None else None
        return ticket if ticket is not None and renewals in (None, ticket.renewals) else None

    def load(self, locks: dict[bytes, Lock]) -> None:
        """Begin with these locks: those of a snapshot."""
        self.locks = locks
        for lock in locks.values():
            for ticket in chain(lock.holders, lock.front, lock.rest):
                self._remember(ticket)

    # ---- acquiring

    def acquire(self, command: Acquire) -> Iterator[LockOutcome]:
        """Give a new request its ticket."""
        request = command.request
        if len(self._tickets) >= MOST_TICKETS or self._counts.get(request.owner.client, 0) >= MOST_OF_CLIENT:
            yield self._requests.note(Refused(request, Why.OVERFLOW))
            return
        ticket = Ticket(request, command.name, command.mode, command.lease, command.grace)
        yield from self.enter(ticket, command.permits, command.waits)

    def enter(self, ticket: Ticket, permits: int, waits: bool = True) -> Iterator[LockOutcome]:
        """Put a ticket into the queue of its lock, which has this number of permits."""
        lock = self.locks.get(ticket.name) or Lock(permits)
        if lock.permits != permits:
            yield self._requests.note(Refused(ticket.request, Why.KIND))
            return
        self.locks[ticket.name] = lock
        if lock.first is None and lock.admits(ticket) and self._tokens.is_left:
            self._remember(ticket)
            yield self._grant_to(ticket, lock)
            return
        place = lock.queue(ticket)
        circle = self._circle(lock, ticket)
        is_full = lock.length > MOST_WAITING
        if circle or is_full or not waits:
            lock.take_out(ticket)
            why = Why.DEADLOCK if circle else Why.BUSY if not waits else Why.OVERFLOW
            yield self._requests.note(Refused(ticket.request, why, circle))
            return
        self.moved.add(ticket.name)
        self._remember(ticket)
        yield Queued(ticket.request, len(lock.holders) + place)

    def _remember(self, ticket: Ticket) -> None:
        request = ticket.request
        owner = request.owner
        client = owner.client
        self._tickets[request] = ticket
        self._counts[client] = self._counts.get(client, 0) + 1
        owned = self._owned.get(owner)
        if owned is None:
            self._owned[owner] = [ticket]
            self._owners.setdefault(client, set()).add(owner)
        else:
            owned.append(ticket)

    def _grant(self, lock: Lock) -> Iterator[LockOutcome]:
        while (ticket := lock.first) is not None and lock.admits(ticket) and self._tokens.is_left:
            lock.take_out(ticket)
            yield self._grant_to(ticket, lock)

    def _grant_to(self, ticket: Ticket, lock: Lock) -> Granted:
        ticket.token = self._tokens.draw()
        lock.holders.append(ticket)
        return Granted(ticket.request, ticket.token)

    # ---- deadlocks

    def _circle(self, lock: Lock, ticket: Ticket) -> tuple[bytes, ...]:
        """Return the locks of a circle that is closed by this ticket, which is in the queue; empty if there is none."""
        goal = ticket.request.owner
        if lock.permits or (goal not in self._owned and lock.is_last(ticket)):
            return ()  # nobody waits for it
        reached: dict[Owner, Ticket] = {}
        """The owners that must come to an end first, and a ticket that waits for that."""
        covered: set[RequestId] = set()
        """Tickets behind nobody that another ticket in the same queue is not behind as well."""
        ways = deque([ticket])
        steps = 0
        while ways:
            waiting = ways.popleft()
            if waiting.request in covered:
                continue
            for other in self.locks[waiting.name].all_ahead(waiting):
                steps += 1
                if steps > MOST_STEPS:
                    return ()
                if waiting.is_shared and other.is_shared:
                    continue  # it need not be gone first
                owner = other.request.owner
                if not waiting.is_shared:
                    covered.add(other.request)
                if owner == goal:
                    return self._way(ticket, waiting, reached)
                if owner not in reached:
                    reached[owner] = waiting
                    waits = self._waits_of(owner)
                    steps += len(waits)
                    ways.extend(waits)
        return ()

    @staticmethod
    def _way(first: Ticket, last: Ticket, reached: dict[Owner, Ticket]) -> tuple[bytes, ...]:
        """Return the locks from one waiting ticket to another, each once."""
        names = [last.name]
        while last is not first:
            last = reached[last.request.owner]
            if last.name != names[-1]:
                names.append(last.name)
        return tuple(reversed(names))

    def _waits_of(self, owner: Owner) -> list[Ticket]:
        waiting = [ticket for ticket in self._owned.get(owner, ()) if not ticket.token]
        if len(waiting) > 1:
            waiting.sort(key=lambda ticket: ticket.request)  # the same search everywhere, snapshot or not
        return [ticket for ticket in waiting if not self.locks[ticket.name].permits]

    # ---- holding

    def renew(self, command: Renew) -> Iterator[LockOutcome]:
        """Renew a lease."""
        ticket = self.held(command.request, command.token)
        if ticket is not None:
            ticket.renewals += 1
            ticket.is_revoked = False
            yield Renewed(ticket.request, ticket.token, ticket.renewals)

    def revoke(self, command: Revoke) -> Iterator[LockOutcome]:
        """Ask a holder for the lock."""
        ticket = self.holder(command.name, command.token, command.renewals)
        if ticket is not None and not ticket.is_revoked:
            ticket.is_revoked = True
            yield Revoked(ticket.request, ticket.token)

    def still(self, command: Still) -> Iterator[LockOutcome]:
        """Grant a lock that has waited for nothing but tokens."""
        ticket = self._tickets.get(command.request)
        if ticket is not None:
            yield from self._settle(ticket.name)

    # ---- ending

    def release(self, command: Release) -> Iterator[LockOutcome]:
        """Release a lock."""
        yield from self._end(self.held(command.request, command.token), None)

    def expire(self, command: Expire) -> Iterator[LockOutcome]:
        """Take a lock whose lease is over."""
        yield from self._end(self.holder(command.name, command.token, command.renewals), Why.EXPIRED)

    def force(self, command: Force) -> Iterator[LockOutcome]:
        """Take a lock, whatever its holder says."""
        yield from self._end(self.holder(command.name, command.token), Why.FORCED)

    def withdraw(self, command: Withdraw) -> Iterator[LockOutcome]:
        """End the ticket of a request that has one."""
        ticket = self._tickets[command.request]
        if ticket.token:
            yield from self._end(ticket, None)
        else:
            yield self._requests.note(Refused(ticket.request, Why.WITHDRAWN))
            yield from self._remove(ticket)

    def _end(self, ticket: Ticket | None, why: Why | None) -> Iterator[LockOutcome]:
        """End a holder's ticket, and grant the lock to waiters."""
        if ticket is not None:
            yield self._requests.note(Ended(ticket.request, ticket.token, why))
            yield from self._remove(ticket)

    def _remove(self, ticket: Ticket) -> Iterator[LockOutcome]:
        self._take_out(ticket)
        yield from self._settle(ticket.name)

    def _take_out(self, ticket: Ticket) -> None:
        lock = self.locks[ticket.name]
        self.moved.add(ticket.name)
        self._forget(ticket)
        lock.take_out(ticket)

    def _settle(self, name: bytes) -> Iterator[LockOutcome]:
        """Grant what can be granted now; forget a lock without holders and waiters."""
        lock = self.locks[name]
        yield from self._grant(lock)
        if not lock.holders and lock.first is None:
            del self.locks[name]

    def _forget(self, ticket: Ticket) -> None:
        owner = ticket.request.owner
        client = owner.client
        del self._tickets[ticket.request]
        self._counts[client] -= 1
        if not self._counts[client]:
            del self._counts[client]
        owned = self._owned[owner]
        owned.remove(ticket)
        if not owned:
            del self._owned[owner]
            owners = self._owners[owner.client]
            owners.remove(owner)
            if not owners:
                del self._owners[owner.client]

    # ---- clients that end

    def end_clients(self, clients: Iterable[ClientId]) -> Iterator[LockOutcome]:
        """End all tickets of clients that have verifiably ended."""
        yield from self._end_tickets(ticket for client in clients for ticket in self._tickets_of(client))

    def purge(self, clients: Iterable[ClientId]) -> Iterator[LockOutcome]:
        """End the waits of clients that cannot be reached; what they hold stays until it expires."""
        yield from self._end_tickets(
            ticket for client in clients for ticket in self._tickets_of(client) if not ticket.token
        )

    def _tickets_of(self, client: ClientId) -> Iterator[Ticket]:
        for owner in sorted(self._owners.get(client, ())):
            yield from sorted(self._owned[owner], key=lambda ticket: ticket.request)

    def _end_tickets(self, tickets: Iterable[Ticket]) -> Iterator[LockOutcome]:
        """End tickets together, so that none of them is granted when another one ends."""
        names = set()
        for ticket in list(tickets):
            names.add(ticket.name)
            self._take_out(ticket)
            if ticket.token:
                yield self._requests.note(Ended(ticket.request, ticket.token, Why.GONE))
        for name in sorted(names):
            yield from self._settle(name)
