"""The table of tickets: who holds which lock, who waits, in which order; a replicated state machine.

Every lock server feeds the same commands in the same order to its table, so all tables are the same. The delivery of an
`Acquire` is its ticket: its place in the queue of that lock. The table has no clock; whoever has one proposes `Revoke`
and `Expire`, and order decides whether a renewal came before. What a command brought about is its return value, for
the servers to tell their clients.

* Tickets are granted in the order of the queue, and nobody overtakes: readers that come behind a waiting writer wait.
  Only a writer with priority goes in front of all readers that wait.
* A grant has a fencing token that is larger than that of every grant before, of any lock (ruling E6).
* A request has a number of its client's. One that comes again, perhaps through another server, changes nothing and is
  answered with what has become of it, until the client says that it will not come again.
* An owner is a task of a client, which waits for one lock at a time. Who would wait for itself, through any number of
  others, is refused with the circle. Permits of semaphores make no such circle: any holder's may come free.
* What is released is named by token, so that a late release of a former holder touches nobody.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

LARGEST_NAME = 1024
"""Bytes of a lock's name."""
TOKENS_OF_AN_EPOCH = 1 << 32


class Client(NamedTuple):
    """A program at a lock server: the server's node, the number it drew when it started, and the program's number."""

    node_id: int
    server: int
    number: int


class Owner(NamedTuple):
    """One thread of control of a client: what holds and waits."""

    client: Client
    task: int


class RequestId(NamedTuple):
    """A request; a client numbers its own from 1 on."""

    owner: Owner
    number: int


class Mode(enum.IntEnum):
    """How a lock is asked for."""

    EXCLUSIVE = 0
    SHARED = 1
    PRIORITY = 2
    """Exclusive, in front of all that wait to share."""


class Why(enum.StrEnum):
    """Why a request was refused, or a lock was lost."""

    BUSY = "busy"
    """It was not to wait, and would have had to."""
    DEADLOCK = "deadlock"
    KIND = "kind"
    """The lock has another number of permits."""
    SETTLED = "settled"
    """A request that came again had been answered for good."""
    EXPIRED = "expired"
    """The lease ended without renewal."""
    FORCED = "forced"
    """An administrator took it."""
    GONE = "gone"
    """The client has ended."""
    WITHDRAWN = "withdrawn"


# ---- commands


class Acquire(NamedTuple):
    """Ask for a lock."""

    request: RequestId
    name: bytes
    mode: Mode = Mode.EXCLUSIVE
    permits: int = 0
    """Of a semaphore; 0: a lock."""
    lease: float = 5.0
    """Seconds that a grant lasts without renewal."""
    waits: bool = True
    settled: int = 0
    """All requests of this client up to this number have been answered for good, and will not come again."""


class Withdraw(NamedTuple):
    """Do not want a lock any more: leave its queue, or release it if it has been granted."""

    request: RequestId


class Release(NamedTuple):
    """Give a lock back."""

    name: bytes
    token: int


class Renew(NamedTuple):
    """Go on holding a lock for another lease."""

    name: bytes
    token: int


class Revoke(NamedTuple):
    """The lease is over: the holder should give the lock back now. Void where a renewal came before."""

    name: bytes
    token: int
    renewals: int


class Expire(NamedTuple):
    """The lease and the grace behind it are over: take the lock. Void where a renewal came before."""

    name: bytes
    token: int
    renewals: int


class Force(NamedTuple):
    """An administrator takes a lock from its holder."""

    name: bytes
    token: int


class Gone(NamedTuple):
    """A client has verifiably ended: its locks are free at once, and it waits for none."""

    client: Client


class Purge(NamedTuple):
    """A client cannot be reached: it waits for no lock any more, but what it holds stays until that expires."""

    client: Client


Command = Acquire | Withdraw | Release | Renew | Revoke | Expire | Force | Gone | Purge


# ---- what comes of them


class Granted(NamedTuple):
    """A request has its lock."""

    request: RequestId
    token: int


class Queued(NamedTuple):
    """A request waits; the same again when its place has changed."""

    request: RequestId
    ahead: int
    """How many tickets are before it, those of holders included."""


class Refused(NamedTuple):
    """A request will not get its lock."""

    request: RequestId
    why: Why
    circle: tuple[bytes, ...] = ()
    """Of a deadlock: the locks, each held by who waits for the next one."""


class Ended(NamedTuple):
    """A lock is not held any more: given back (`why` is None), or lost."""

    request: RequestId
    token: int
    why: Why | None


class Revoked(NamedTuple):
    """The holder should give the lock back now."""

    request: RequestId
    token: int


Outcome = Granted | Queued | Refused | Ended | Revoked


@dataclass(slots=True)
class Ticket:
    """A place in the queue of one lock."""

    request: RequestId
    name: bytes
    mode: Mode
    lease: float
    token: int = 0
    """0 while it waits."""
    renewals: int = 0
    is_revoked: bool = False

    @property
    def is_shared(self) -> bool:
        """Whether others may hold the lock beside it."""
        return self.mode is Mode.SHARED


@dataclass(slots=True)
class Lock:
    """One name: those who hold it, then those who wait, in their order. Without any it is forgotten."""

    permits: int
    holders: list[Ticket] = field(default_factory=list)
    waiting: list[Ticket] = field(default_factory=list)

    def admits(self, ticket: Ticket) -> bool:
        """Whether the ticket could hold the lock beside those who do."""
        if self.permits:
            return len(self.holders) < self.permits
        return not self.holders or (ticket.is_shared and self.holders[0].is_shared)

    def queue(self, ticket: Ticket) -> int:
        """Put a ticket in the queue; its place there."""
        place = len(self.waiting)
        if ticket.mode is Mode.PRIORITY and not self.permits:
            place = next((place for place, other in enumerate(self.waiting) if other.is_shared), place)
        self.waiting.insert(place, ticket)
        return place


@dataclass(slots=True)
class _History:
    """What has become of a client's requests that have ended."""

    settled: int = 0
    ended: dict[int, Outcome] = field(default_factory=dict)
    """The answer to each that may come again, by its number."""

    def settle(self, number: int) -> None:
        """Forget the requests up to this number."""
        self.settled = max(self.settled, number)
        for ended in [ended for ended in self.ended if ended <= number]:
            del self.ended[ended]


class Table:
    """All locks of the cluster."""

    def __init__(self, epoch: int) -> None:
        """`epoch`: larger than that of every table before (ruling E6)."""
        self.epoch = epoch
        self.grants = 0
        """In this epoch."""
        self.locks: dict[bytes, Lock] = {}
        self._tickets: dict[RequestId, Ticket] = {}
        self._owned: dict[Owner, list[Ticket]] = {}
        """The same by owner."""
        self._histories: dict[Client, _History] = {}

    def apply(self, command: Command) -> list[Outcome]:
        """Do the next command of the order; what comes of it, in order."""
        match command:
            case Acquire():
                return list(self._acquire(command))
            case Withdraw(request):
                return list(self._withdraw(request))
            case Release(name, token):
                return list(self._end(self._holder(name, token), None))
            case Renew(name, token):
                self._renew(name, token)
                return []
            case Revoke(name, token, renewals):
                return list(self._revoke(self._holder(name, token, renewals)))
            case Expire(name, token, renewals):
                return list(self._end(self._holder(name, token, renewals), Why.EXPIRED))
            case Force(name, token):
                return list(self._end(self._holder(name, token), Why.FORCED))
            case Gone(client):
                return list(self._client_ended(client, keeps_locks=False))
            case Purge(client):
                return list(self._client_ended(client, keeps_locks=True))

    def holder(self, name: bytes, token: int) -> Ticket | None:
        """Return the ticket that holds a lock with this token."""
        return self._holder(name, token)

    # ---- acquiring

    def _acquire(self, command: Acquire) -> Iterator[Outcome]:
        request = command.request
        known = self._tickets.get(request)
        if known is not None:
            yield self._state_of(known)
            return
        history = self._history(request)
        history.settle(command.settled)
        if request.number <= history.settled:
            yield Refused(request, Why.SETTLED)
            return
        if request.number in history.ended:
            yield history.ended[request.number]
            return
        lock = self.locks.get(command.name) or Lock(command.permits)
        if lock.permits != command.permits:
            yield self._note(Refused(request, Why.KIND))
            return
        yield from self._enter(lock, Ticket(request, command.name, command.mode, command.lease), command.waits)

    def _enter(self, lock: Lock, ticket: Ticket, waits: bool) -> Iterator[Outcome]:
        place = lock.queue(ticket)
        if place or not lock.admits(ticket):
            circle = self._circle(lock, ticket)
            if circle or not waits:
                del lock.waiting[place]
                yield self._note(Refused(ticket.request, Why.DEADLOCK if circle else Why.BUSY, circle))
                return
        self.locks[ticket.name] = lock
        self._tickets[ticket.request] = ticket
        self._owned.setdefault(ticket.request.owner, []).append(ticket)
        granted = list(self._grant(lock))
        yield from granted
        if not granted:
            yield from self._places(lock, place)

    def _grant(self, lock: Lock) -> Iterator[Outcome]:
        while lock.waiting and lock.admits(lock.waiting[0]):
            ticket = lock.waiting.pop(0)
            lock.holders.append(ticket)
            self.grants += 1
            ticket.token = self.epoch * TOKENS_OF_AN_EPOCH + self.grants
            yield Granted(ticket.request, ticket.token)

    @staticmethod
    def _places(lock: Lock, first: int) -> Iterator[Outcome]:
        """Tell those who wait, from a place on, how many are ahead."""
        for place in range(first, len(lock.waiting)):
            yield Queued(lock.waiting[place].request, len(lock.holders) + place)

    def _state_of(self, ticket: Ticket) -> Outcome:
        if ticket.token:
            return Granted(ticket.request, ticket.token)
        lock = self.locks[ticket.name]
        return Queued(ticket.request, len(lock.holders) + lock.waiting.index(ticket))

    # ---- deadlocks

    def _circle(self, lock: Lock, ticket: Ticket) -> tuple[bytes, ...]:
        """The locks of a circle that is closed by this ticket, which is in the queue; empty if there is none."""
        goal = ticket.request.owner
        if lock.permits or (goal not in self._owned and lock.waiting[-1] is ticket):
            return ()  # nobody waits for it
        seen = {goal}

        def follow(lock: Lock, ticket: Ticket, names: tuple[bytes, ...]) -> tuple[bytes, ...]:
            for owner in self._waited_for(lock, ticket):
                if owner == goal:
                    return names
                if owner in seen:
                    continue
                seen.add(owner)
                for waiting in self._waits_of(owner):
                    more = (waiting.name,) if waiting.name != names[-1] else ()
                    if found := follow(self.locks[waiting.name], waiting, names + more):
                        return found
            return ()

        return follow(lock, ticket, (ticket.name,))

    @staticmethod
    def _waited_for(lock: Lock, ticket: Ticket) -> Iterator[Owner]:
        """Of the holders and tickets ahead that must be gone before this one is granted."""
        for other in (*lock.holders, *lock.waiting[: lock.waiting.index(ticket)]):
            if not (ticket.is_shared and other.is_shared):
                yield other.request.owner

    def _waits_of(self, owner: Owner) -> Iterator[Ticket]:
        for ticket in self._owned.get(owner, ()):
            if not ticket.token and not self.locks[ticket.name].permits:
                yield ticket

    # ---- holding

    def _holder(self, name: bytes, token: int, renewals: int | None = None) -> Ticket | None:
        lock = self.locks.get(name)
        for ticket in lock.holders if lock is not None else ():
            if ticket.token == token and renewals in (None, ticket.renewals):
                return ticket
        return None

    def _renew(self, name: bytes, token: int) -> None:
        ticket = self._holder(name, token)
        if ticket is not None:
            ticket.renewals += 1
            ticket.is_revoked = False

    @staticmethod
    def _revoke(ticket: Ticket | None) -> Iterator[Outcome]:
        if ticket is not None and not ticket.is_revoked:
            ticket.is_revoked = True
            yield Revoked(ticket.request, ticket.token)

    # ---- ending

    def _withdraw(self, request: RequestId) -> Iterator[Outcome]:
        ticket = self._tickets.get(request)
        if ticket is None:
            history = self._history(request)
            if request.number > history.settled:  # it may come yet
                history.ended.setdefault(request.number, Refused(request, Why.WITHDRAWN))
        elif ticket.token:
            yield from self._end(ticket, None)
        else:
            yield self._note(Refused(request, Why.WITHDRAWN))
            yield from self._remove(ticket)

    def _end(self, ticket: Ticket | None, why: Why | None) -> Iterator[Outcome]:
        """A holder's ticket ends; whoever waits is granted."""
        if ticket is not None:
            yield self._note(Ended(ticket.request, ticket.token, why))
            yield from self._remove(ticket)

    def _remove(self, ticket: Ticket) -> Iterator[Outcome]:
        lock = self.locks[ticket.name]
        del self._tickets[ticket.request]
        self._forget_owned(ticket)
        if ticket.token:
            lock.holders.remove(ticket)
            first = 0
        else:
            first = lock.waiting.index(ticket)
            del lock.waiting[first]
        granted = list(self._grant(lock))
        yield from granted
        yield from self._places(lock, 0 if granted else first)
        if not lock.holders and not lock.waiting:
            del self.locks[ticket.name]

    def _forget_owned(self, ticket: Ticket) -> None:
        owned = self._owned[ticket.request.owner]
        owned.remove(ticket)
        if not owned:
            del self._owned[ticket.request.owner]

    def _client_ended(self, client: Client, *, keeps_locks: bool) -> Iterator[Outcome]:
        for ticket in [*self._tickets.values()]:
            if ticket.request.owner.client != client or self._tickets.get(ticket.request) is not ticket:
                continue
            if not ticket.token:
                self._note(Refused(ticket.request, Why.GONE))
                yield from self._remove(ticket)
            elif not keeps_locks:
                yield from self._end(ticket, Why.GONE)
        if not keeps_locks:
            self._histories.pop(client, None)

    # ---- what has become of requests

    def _history(self, request: RequestId) -> _History:
        return self._histories.setdefault(request.owner.client, _History())

    def _note(self, outcome: Refused | Ended) -> Outcome:
        """Remember an answer for good."""
        self._history(outcome.request).ended[outcome.request.number] = outcome
        return outcome

    # ---- as a whole

    def tickets(self) -> Iterable[Ticket]:
        """All tickets, in the order in which they came."""
        return self._tickets.values()
