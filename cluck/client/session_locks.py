"""A client's locks and conditions, without I/O: a part of `cluck.client.session`.

Deadlines are on the own clock. A lock without a duration is renewed each third of its lease, from here; one that nobody
renewed in time is lost by the own clock, whatever the server says or does not say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from cluck.client.clock_comparison import Comparison
from cluck.client.open_requests import Book
from cluck.client.requests import Notice, Request, Ticket, refusal
from cluck.commands import (
    LEAST_LEASE,
    LONGEST_LEASE,
    Acquire,
    Ended,
    EndWait,
    Force,
    Mode,
    Notified,
    Notify,
    Queued,
    Refused,
    Release,
    Renew,
    Revoked,
    Wait,
    Waiting,
    Why,
    Withdraw,
    Woken,
)
from cluck.errors import LockError, LockLost, OutcomeUnknown
from cluck.protocol import Held, Renounced
from cpg.arguments import seconds, whole
from totem.text import quoted

LEASE: Final = 5.0
"""Seconds that a lock is held without renewal, if nothing else is asked for."""
GRACE: Final = 5.0
"""Seconds behind the lease, if nothing else is asked for."""
ANSWER_PATIENCE: Final = 1.0
"""Seconds that an answer is worth waiting for which waits for no other client: whether a lock is free, and the last one
to what is given back. Then the session goes on alone."""
_WHY: Final = {
    Why.EXPIRED: "its lease ended without renewal",
    Why.FORCED: "an administrator took it",
    Why.GONE: "its lock server, or this client, was taken for gone",
    Why.NOT_HELD: "it had been lost before",
}
_OVER: Final = (Why.SETTLED, Why.WITHDRAWN)
"""Answers to a request that has come to its end, unheard."""


def _nobody() -> None:
    """Nobody waits for an answer."""


def checked(what: str, value: float, least: float) -> float:
    """Return a number of seconds that a lease or a grace may have. Raises TypeError, ValueError."""
    return seconds(what, value, least, LONGEST_LEASE)


class Tickets:
    """The locks that one client asks for, holds and waits for."""

    def __init__(self, book: Book, clock: Callable[[], float], comparison: Comparison) -> None:
        self.deadline = math.inf
        """When `advance` has something to do, at the earliest."""
        self.actions: Final[dict[type, Callable[[Any], None]]] = {
            Queued: self._on_queued,
            Held: self._on_held,
            Ended: self._on_ended,
            Revoked: self._on_revoked,
            Renounced: self._on_renounced,
            Waiting: self._on_waiting,
            Woken: self._on_woken,
            Notified: self._on_notified,
        }
        self._book = book
        self._clock = clock
        self._comparison = comparison

    # ---- time

    def advance(self) -> None:
        """Do what is due: renew, and lose what was not renewed in time."""
        now = self._clock()
        for ticket in self._book.all(Ticket):
            self._look(ticket, now)
        self.deadline = min((ticket.due for ticket in self._book.all(Ticket)), default=math.inf)

    def _look(self, ticket: Ticket, now: float) -> None:
        if now < ticket.due:
            return
        if ticket.is_ending:
            ticket.is_overdue, ticket.answer_due = True, math.inf
            ticket.changed()
            return
        if now >= ticket.next_renewal:
            self._renew(ticket)
        if now >= ticket.deadline:
            self._lose_held(ticket, "its lease ended without renewal")
            self._give_up(ticket)

    def _arm(self, ticket: Ticket) -> None:
        due = ticket.due
        if due < self.deadline:
            self.deadline = due
            self._book.changed()

    # ---- what the program wants

    def acquire(
        self,
        task: int,
        name: bytes,
        changed: Callable[[], None],
        *,
        mode: Mode = Mode.EXCLUSIVE,
        permits: int = 0,
        duration: float | None = None,
        grace: float = GRACE,
        waits: bool = True,
    ) -> Ticket:
        """Ask for a lock.

        Args:
            task: The thread of control that will hold it, for deadlocks to be seen.
            name: Of the lock.
            changed: Called when there is something new about the ticket.
            mode: How it is to be held.
            permits: Of a semaphore; 0: a lock.
            duration: Seconds that it is held at most; None: until it is given back, by renewing a short lease.
            grace: Seconds behind the lease.
            waits: Whether it is to wait for others.

        Raises `ValueError`, `Overflow`, `ConnectionLost` where the session was closed.
        """
        whole("permits", permits, 0)
        lease = LEASE if duration is None else checked("duration", duration, LEAST_LEASE)
        grace = checked("grace", grace, 0.0)
        request = self._book.next(task)
        command = Acquire(request, name, mode, permits, lease, grace, waits, self._book.settled)
        return self._book.begin(Ticket(command, changed, lease, duration is None, None), command)

    def give_up(self, ticket: Ticket) -> None:
        """Give a lock back, or want it no more. Its last answer ends the ticket."""
        if not ticket.is_over:
            if ticket.is_held:
                self._look(ticket, self._clock())
            if not ticket.is_ending:
                self._give_up(ticket)

    def _give_up(self, ticket: Ticket) -> None:
        ticket.is_ending = True
        ticket.is_held = False
        ticket.answer_due = self._clock() + ANSWER_PATIENCE
        self._arm(ticket)
        if not self._is_ours(ticket):
            self._book.end(ticket)
        elif ticket.token:
            self._book.say(Release(ticket.id, ticket.token))
        else:
            self._book.say(Withdraw(ticket.id))

    def _is_ours(self, ticket: Ticket) -> bool:
        """Whether the server listens to this client about it: nobody answers in the name of who this client was."""
        return ticket.id.owner.client == self._book.client

    def renew(self, ticket: Ticket) -> None:
        """Ask for another lease; `leases` tells when it has come."""
        if ticket.is_held:
            self._look(ticket, self._clock())
        if ticket.is_held:
            ticket.wants_renewal = True
            self._renew(ticket)

    def _renew(self, ticket: Ticket) -> None:
        if ticket.renews:
            ticket.next_renewal = self._clock() + ticket.lease / 3
        if self._is_ours(ticket):
            self._book.say(Renew(ticket.id, ticket.token))

    def force(self, name: bytes, token: int) -> None:
        """Take a lock from its holder, whoever that is."""
        self._book.say(Force(name, token))

    def check(self, ticket: Ticket) -> None:
        """Raise why a lock is not held, if it is not."""
        if ticket.is_held:
            self._look(ticket, self._clock())
        if not ticket.is_held:
            raise ticket.failure or LockLost(f"lock {quoted(ticket.name)}: it has been given back")

    # ---- what comes of it

    def _on_queued(self, queued: Queued) -> None:
        ticket = self._book.find(queued.request, Ticket)
        if ticket is None:
            return
        self._book.know(ticket)
        if ticket.is_ending:
            return
        if ticket.token:
            self._lose_held(ticket, "it was taken while there was no connection")
            ticket.token = 0  # what is given up is the place in the queue
            self._give_up(ticket)
            return
        ticket.ahead = queued.ahead
        self._forget_former(ticket)
        ticket.changed()

    def _on_held(self, held: Held) -> None:
        ticket = self._book.find(held.request, Ticket)
        if ticket is None:
            return
        self._book.know(ticket)
        if ticket.is_ending:
            return
        if ticket.token not in (0, held.token):
            self._lose_held(ticket, "it was taken while there was no connection")
            ticket.token = held.token
            self._give_up(ticket)
            return
        self._forget_former(ticket)
        ticket.token = held.token
        ticket.leases += 1
        deadline = self._comparison.own(held.deadline)
        if deadline <= max(ticket.deadline, self._clock()):
            if not ticket.is_held:
                self._comparison.compare(ticket, partial(self._begin_late, ticket))
            ticket.changed()
            return
        if ticket.is_held and not (ticket.renews or ticket.wants_renewal):
            return  # a server may have renewed it to answer that it is held; it is not to last longer than was wanted
        ticket.wants_renewal = False
        ticket.deadline = deadline
        ticket.is_held = True
        ticket.is_unlocking = False
        ticket.next_renewal = deadline - ticket.lease * 2 / 3 if ticket.renews else math.inf
        self._arm(ticket)
        ticket.changed()

    def _begin_late(self, ticket: Ticket) -> None:
        """Nothing was left of the lease: the body begins with the next one."""
        if ticket.token and not (ticket.is_held or ticket.is_ending or ticket.is_over):
            self._renew(ticket)

    def _on_revoked(self, revoked: Revoked) -> None:
        ticket = self._book.find(revoked.request, Ticket)
        if ticket is not None and ticket.is_held:
            ticket.is_unlocking = True
            if ticket.renews:
                self._renew(ticket)
            ticket.changed()

    def _on_renounced(self, renounced: Renounced) -> None:
        ticket = self._book.find(renounced.request, Ticket)
        if ticket is not None and not ticket.is_ending and ticket.token == renounced.token:
            self._lose_held(ticket, "the lock server is not in the part of the cluster that decides any more")
            self._give_up(ticket)

    def _on_ended(self, ended: Ended) -> None:
        ticket = self._book.find(ended.request, Ticket)
        if ticket is None or (ticket.token and ticket.token != ended.token):
            return
        if not (ended.why is None and (ticket.is_ending or ticket.is_passing)):
            if self._is_to_be_had(ticket):
                self._ask_again(ticket)
                return
            self._lose_held(ticket, _WHY.get(ended.why, str(ended.why)) if ended.why else "it was given back elsewhere")
        self._book.end(ticket)

    @staticmethod
    def _is_to_be_had(ticket: Ticket) -> bool:
        """Whether a ticket that ended is one that the program still waits for: it was granted, and lost, unheard."""
        return isinstance(ticket.command, Acquire) and not ticket.is_ending and not ticket.deadline

    def _lose_held(self, ticket: Ticket, why: str) -> None:
        ticket.is_held = False
        if ticket.failure is None:
            ticket.failure = LockLost(f"lock {quoted(ticket.name)} with token {ticket.token}: {why}")
        ticket.changed()

    def refused(self, ticket: Ticket, refused: Refused) -> None:
        """A request will not get what it is for."""
        if refused.why in _OVER and self._is_to_be_had(ticket):
            self._ask_again(ticket)
            return
        if ticket.is_held:
            self._lose_held(ticket, _WHY.get(refused.why, "it was lost while there was no connection"))
        if isinstance(ticket.command, Wait):
            self._end_former(ticket, refused.why)
        if ticket.is_ending:
            self._book.end(ticket)
        else:
            self._book.fail(ticket, refusal(f"lock {quoted(ticket.name)}", refused))

    def _end_former(self, ticket: Ticket, why: Why) -> None:
        """A wait was refused: either it did not begin, and the lock is held as before, or there is no lock any more."""
        if ticket.was is not None and why not in (Why.NOT_HELD, Why.SETTLED):
            self._return_former(ticket)
            return
        former, ticket.was = ticket.was, None
        if former is not None:
            self._lose_held(former, _WHY.get(why, "it was lost while there was no connection"))
            self._book.end(former)
        if not ticket.is_ending:
            ticket.failure = LockLost(f"lock {quoted(ticket.name)}: it was not held any more")

    def failed(self, ticket: Ticket, failure: LockError) -> None:
        """A request was not given to the group.

        Whether a lock is held was asked behind a loss of the connection: it is, until its deadline.
        """
        if not ticket.is_held:
            self._return_former(ticket)
            self._book.fail(ticket, failure)

    # ---- conditions

    def wait(
        self, task: int, held: Ticket, condition: bytes, changed: Callable[[], None], *, reacquires: bool
    ) -> Ticket:
        """Give a lock back and wait on a condition, in one step; the ticket is held when both is over.

        Where the wait is refused with `WrongLock`, or `NotReady`, the former ticket is held still.
        """
        request = self._book.next(task)
        command = Wait(request, condition, held.name, held.token, reacquires, self._book.settled)
        held.is_passing = True
        return self._book.begin(Ticket(command, changed, held.lease, held.renews, held), command)

    def end_wait(self, ticket: Ticket) -> None:
        """Wait no longer; what is told then is in the order of things."""
        if ticket.notified is None and not ticket.is_over and not ticket.ends_wait:
            ticket.ends_wait = True
            self._book.say(EndWait(ticket.id))

    def lose_wait(self, ticket: Ticket) -> None:
        """A wait that is to end is not answered: whether it has begun nobody knows, so nothing is held."""
        assert isinstance(ticket.command, Wait)
        unknown = "the lock server has not answered"
        if ticket.command.reacquires:
            ticket.failure = LockLost(f"lock {quoted(ticket.name)}: it is not had back, {unknown}")
        else:
            text = f"condition {quoted(ticket.command.condition)}: {unknown}, this waiter may have been notified"
            ticket.failure = OutcomeUnknown(text)
        if ticket.was is not None:
            self._lose_held(ticket.was, unknown)
        self._give_up(ticket)
        ticket.changed()

    def _on_waiting(self, waiting: Waiting) -> None:
        ticket = self._book.find(waiting.request, Ticket)
        if ticket is not None:
            self._book.know(ticket)
            ticket.is_waiting = True
            self._forget_former(ticket)
            ticket.changed()

    def _on_woken(self, woken: Woken) -> None:
        ticket = self._book.find(woken.request, Ticket)
        if ticket is None:
            return
        self._book.know(ticket)
        ticket.is_waiting = False
        ticket.notified = woken.notified
        self._forget_former(ticket)
        if isinstance(ticket.command, Wait):
            if ticket.is_ending and ticket.notified:
                self._pass_on(ticket.command)
            if ticket.command.reacquires:
                ticket.changed()
                return
        self._book.end(ticket)

    def _pass_on(self, wait: Wait) -> None:
        """Who was notified does not listen any more: another waiter is to be in its place."""
        request = self._book.draw(wait.request.owner.task)
        command = Notify(request, wait.condition, everyone=False, priority=False, settled=self._book.settled)
        self._book.begin(Notice(command, _nobody), command)

    def _forget_former(self, ticket: Ticket) -> None:
        """The wait has begun: the lock has been given back."""
        former, ticket.was = ticket.was, None
        if former is not None and not former.is_over:
            self._book.end(former)

    def _return_former(self, ticket: Ticket) -> None:
        """The wait does not begin: the lock is held as before."""
        former, ticket.was = ticket.was, None
        if former is not None:
            former.is_passing = False
            if ticket.is_ending or former.is_ending:
                self._give_up(former)
            else:
                self._arm(former)

    def notify(
        self, task: int, condition: bytes, changed: Callable[[], None], *, everyone: bool, priority: bool
    ) -> Notice:
        """Wake one that waits on a condition, or all."""
        request = self._book.next(task)
        command = Notify(request, condition, everyone, priority, self._book.settled)
        return self._book.begin(Notice(command, changed), command)

    def _on_notified(self, notified: Notified) -> None:
        notice = self._book.find(notified.request, Notice)
        if notice is not None:
            notice.count = notified.count
            self._book.end(notice)

    # ---- connections

    @property
    def are_owed(self) -> bool:
        """Whether the servers may count something as held, for its lease, that they have not been told the end of."""
        now = self._clock()
        return any(ticket.token and now < ticket.deadline for ticket in self._book.all(Ticket))

    def resume(self) -> None:
        """Say again what is open, in the order in which it was said first."""
        for request in self._book.all(Request):
            if isinstance(request, Ticket):
                self._resume_ticket(request)
            elif isinstance(request, Notice):
                self._book.say(request.command)

    def _resume_ticket(self, ticket: Ticket) -> None:
        if ticket.is_passing:
            return  # its wait is said again
        if not ticket.is_ending or ticket.was is not None:
            self._book.say(ticket.command)
        if ticket.is_ending:
            self._book.say(Withdraw(ticket.id))
        elif ticket.ends_wait:
            self._book.say(EndWait(ticket.id))

    def begin_anew(self) -> None:
        """The server does not know this client: it is another one, whose requests are new."""
        unknown = "the lock server does not know this client any more"
        for notice in self._book.all(Notice):
            text = f"condition {quoted(notice.command.condition)}: {unknown}, some may have been notified"
            self._book.fail(notice, OutcomeUnknown(text))
        for ticket in self._book.all(Ticket):
            if not ticket.is_over and not ticket.is_passing and not ticket.is_held:
                self._begin_ticket_anew(ticket, unknown)

    def _begin_ticket_anew(self, ticket: Ticket, why: str) -> None:
        if ticket.is_ending:
            self._book.end(ticket)
        elif isinstance(ticket.command, Acquire):
            self._ask_again(ticket)
        else:
            self._forget_former(ticket)
            self._book.fail(ticket, LockLost(f"lock {quoted(ticket.name)}: {why}"))

    def _ask_again(self, ticket: Ticket) -> None:
        """Make a new request of one that is over, and still wanted."""
        assert isinstance(ticket.command, Acquire)
        self._book.forget(ticket)
        ticket.id = self._book.draw(ticket.id.owner.task)
        ticket.token, ticket.ahead = 0, None
        ticket.command = replace(ticket.command, request=ticket.id, settled=self._book.settled)
        self._book.begin(ticket, ticket.command)
