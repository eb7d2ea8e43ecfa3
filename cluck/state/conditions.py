"""Conditions: who waits for a change of what a lock guards; FreeBSD's condition variables, in total order.

`Wait` releases a lock and waits, in one step of the order, so that no notification falls between the two. Order also
decides between a notification, the end of a waiter's time, and its client's death. The decision is the same everywhere.
Where a waiter reacquires, its request becomes a ticket again (`cluck.state.lock_table`), of the kind that was released.
Then all that holds for tickets holds for it.

* Waiters are woken in the order in which they came. A notification that finds none is lost.
* All that wait on a condition at one time have released the same lock: the first one's. A wait with another lock is
  refused, and its lock is still held.
* A waiter whose client has ended, or cannot be reached, is dropped at once: no notification is spent on it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct, field

from cluck.commands import (
    MOST_UNSETTLED,
    ClientId,
    ConditionOutcome,
    EndWait,
    Mode,
    Name,
    Notified,
    Notify,
    Refused,
    Release,
    RequestId,
    Wait,
    Waiting,
    Why,
    Withdraw,
    Woken,
)
from cluck.state.lock_table import LockTable, Ticket
from cluck.state.request_history import Places, Pool, RequestHistory
from cpg.replication.identities import Number

MOST_WAITING: Final = 10_000
"""Waiters of one condition."""
MOST_WAITERS: Final = 200_000
"""Waiters of all conditions."""
MOST_OF_CLIENT: Final = MOST_UNSETTLED
"""Waiters of one client."""


class Waiter(Struct, array_like=True, eq=False):
    """A request that waits on a condition."""

    ticket: Ticket
    """The ticket with which it reacquires: of the kind that was released, with its place among the waiters."""
    permits: Number
    """Permits of that lock."""
    reacquires: bool


class ConditionQueue(Struct, array_like=True, eq=False):
    """One condition: its waiters, in their order. Without any it is forgotten."""

    lock: Name
    """The lock that they have released."""
    waiters: list[Waiter] = field(default_factory=list)

    def index(self, waiter: Waiter) -> int:
        """Return where a waiter is among them."""
        return bisect_left(self.waiters, waiter.ticket.place, key=_place)


def _place(waiter: Waiter) -> int:
    return waiter.ticket.place


class Conditions:
    """All conditions of the cluster."""

    def __init__(self, table: LockTable, requests: RequestHistory) -> None:
        self.by_name: dict[bytes, ConditionQueue] = {}
        self._table = table
        self._requests = requests
        self._places = Places()
        self._waiters: dict[RequestId, Waiter] = {}

    def load(self, conditions: dict[bytes, ConditionQueue]) -> None:
        """Begin with these conditions: those of a snapshot."""
        self.by_name = conditions
        for name, condition in conditions.items():
            for waiter in condition.waiters:
                self._remember(waiter, name)

    def present(self, request: RequestId) -> list[ConditionOutcome]:
        """Return the outcomes of a request so far, if it waits on a condition. Hot."""
        return [Waiting(request)] if request in self._waiters else []

    @property
    def places(self) -> Pool:
        """Return the number of waiters, and how many there may be."""
        return Pool("places at conditions", MOST_WAITERS, len(self._waiters), self._places.count)

    def _remember(self, waiter: Waiter, name: bytes) -> None:
        self._waiters[waiter.ticket.request] = waiter
        self._places.add(waiter.ticket.request, name)

    # ---- waiting

    def wait(self, command: Wait) -> Iterator[ConditionOutcome]:
        """Release a lock and wait; where that is refused, the lock is still held."""
        request = command.request
        held = self._table.holder(command.lock, command.token)
        if held is None or held.request.owner.client != request.owner.client:
            yield self._requests.note(Refused(request, Why.NOT_HELD))
            return
        condition = self.by_name.get(command.condition) or ConditionQueue(command.lock)
        if condition.lock != command.lock:
            yield self._requests.note(Refused(request, Why.WRONG_LOCK))
            return
        if self._is_full(condition, request.owner.client):
            yield self._requests.note(Refused(request, Why.OVERFLOW))
            return
        place = condition.waiters[-1].ticket.place + 1 if condition.waiters else 1
        ticket = Ticket(request, held.name, held.mode, held.lease, held.grace, place=place)
        waiter = Waiter(ticket, self._table.locks[held.name].permits, command.reacquires)
        condition.waiters.append(waiter)
        self.by_name[command.condition] = condition
        self._remember(waiter, command.condition)
        yield from self._table.release(Release(held.request, held.token))
        yield Waiting(request)

    def _is_full(self, condition: ConditionQueue, client: ClientId) -> bool:
        is_full = len(condition.waiters) >= MOST_WAITING or len(self._waiters) >= MOST_WAITERS
        return is_full or self._places.count(client) >= MOST_OF_CLIENT

    # ---- waking

    def notify(self, command: Notify) -> Iterator[ConditionOutcome]:
        """Wake the first waiter, or all."""
        condition = self.by_name.get(command.condition)
        waiters = condition.waiters if condition is not None else []
        woken = waiters[: None if command.everyone else 1]
        for waiter in woken:
            if command.priority and not waiter.ticket.is_shared:
                waiter.ticket.mode = Mode.PRIORITY
            yield from self._wake(waiter, notified=True)
        yield self._requests.note(Notified(command.request, len(woken)))

    def end(self, command: EndWait) -> Iterator[ConditionOutcome]:
        """Wake a waiter whose time is over, if it still waits."""
        waiter = self._waiters.get(command.request)
        if waiter is not None:
            yield from self._wake(waiter, notified=False)

    def _wake(self, waiter: Waiter, notified: bool) -> Iterator[ConditionOutcome]:
        ticket = waiter.ticket
        self._remove(waiter)
        woken = Woken(ticket.request, notified)
        if waiter.reacquires:
            yield woken
            ticket.notified = notified
            yield from self._table.enter(ticket, waiter.permits)
        else:
            yield self._requests.note(woken)

    # ---- leaving

    def withdraw(self, command: Withdraw) -> Iterator[ConditionOutcome]:
        """End the wait of a request that waits; it does not get its lock again."""
        self._remove(self._waiters[command.request])
        yield self._requests.note(Refused(command.request, Why.WITHDRAWN))

    def drop(self, clients: Iterable[ClientId]) -> None:
        """Drop the waiters of clients that have ended, or cannot be reached."""
        for _, requests in self._places.of(clients):
            for request in requests:
                self._remove(self._waiters[request])

    def _remove(self, waiter: Waiter) -> None:
        request = waiter.ticket.request
        name = self._places[request]
        self._places.remove(request)
        del self._waiters[request]
        condition = self.by_name[name]
        del condition.waiters[condition.index(waiter)]
        if not condition.waiters:
            del self.by_name[name]
