"""A client's locks and conditions, without I/O: a part of `cluck.client.session`.

Deadlines are on the own clock. A lock without a duration is renewed each third of its lease. A lock that was not
renewed in time is lost by the own clock, whatever the server says or does not say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from cluck.client.clock_comparison import Comparison
from cluck.client.open_requests import OpenRequests
from cluck.client.requests import ClientTicket, Notice, Request, refusal
from cluck.commands import (
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
from cluck.protocol import LockHeld, Renounced
from totem.text import quoted

LEASE: Final = 5.0
"""Seconds that a lock is held without renewal, unless the program says otherwise."""
GRACE: Final = 5.0
"""Seconds after the lease, unless the program says otherwise."""
ANSWER_PATIENCE: Final = 1.0
"""Seconds to wait for an answer that depends on no other client: whether a lock is free, and the last answer to what is
released. Later answers are heard by the session alone."""
_WHY: Final = {
    Why.EXPIRED: "its lease ended without renewal",
    Why.FORCED: "an administrator took it",
    Why.GONE: "its lock server, or this client, was taken for gone",
    Why.NOT_HELD: "it had been lost before",
}
_OVER: Final = (Why.SETTLED, Why.WITHDRAWN)
"""Answers to a request that has ended without the client's knowledge."""


def _nobody() -> None:
    """Do nothing: nobody waits for the answer."""


class ClientLocks:
    """The locks that one client requests and holds, and the conditions that it waits on."""

    def __init__(self, requests: OpenRequests, clock: Callable[[], float], comparison: Comparison) -> None:
        self.deadline = math.inf
        """The earliest time at which `advance` has something to do."""
        self.actions: Final[dict[type, Callable[[Any], None]]] = {
            Queued: self._on_queued,
            LockHeld: self._on_held,
            Ended: self._on_ended,
            Revoked: self._on_revoked,
            Renounced: self._on_renounced,
            Waiting: self._on_waiting,
            Woken: self._on_woken,
            Notified: self._on_notified,
        }
        self._requests = requests
        self._clock = clock
        self._comparison = comparison

    # ---- time

    def advance(self) -> None:
        """Do what is due: renew locks, and lose those that were not renewed in time."""
        now = self._clock()
        for ticket in self._requests.all(ClientTicket):
            self._look(ticket, now)
        self.deadline = min((ticket.due for ticket in self._requests.all(ClientTicket)), default=math.inf)

    def _look(self, ticket: ClientTicket, now: float) -> None:
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

    def _arm(self, ticket: ClientTicket) -> None:
        due = ticket.due
        if due < self.deadline:
            self.deadline = due
            self._requests.changed()

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
    ) -> ClientTicket:
        """Request a lock.

        Args:
            task: The task or thread that will hold it, for deadlocks to be detected.
            name: The lock's name.
            changed: Called when there is something new about the ticket.
            mode: How it is to be held.
            permits: The number of a semaphore's permits; 0: it is a lock.
            duration: Seconds that it is held at most. None: until it is released, by renewals of a short lease.
            grace: Seconds after the lease.
            waits: Whether to wait for others.

        Raises:
            Overflow: As many requests are open as may be.
            ConnectionLost: The session was closed.
        """
        lease = LEASE if duration is None else duration
        request = self._requests.next_id(task)
        command = Acquire(request, name, mode, permits, lease, grace, waits, self._requests.settled)
        return self._requests.begin(ClientTicket(command, changed, lease, duration is None, None), command)

    def give_up(self, ticket: ClientTicket) -> None:
        """Release a lock, or withdraw its request. The last answer ends the ticket."""
        if not ticket.is_over:
            if ticket.is_held:
                self._look(ticket, self._clock())
            if not ticket.is_ending:
                self._give_up(ticket)

    def _give_up(self, ticket: ClientTicket) -> None:
        ticket.is_ending = True
        ticket.is_held = False
        ticket.answer_due = self._clock() + ANSWER_PATIENCE
        self._arm(ticket)
        if not self._is_ours(ticket):
            self._requests.end(ticket)
        elif ticket.token:
            self._requests.submit(Release(ticket.id, ticket.token))
        else:
            self._requests.submit(Withdraw(ticket.id))

    def _is_ours(self, ticket: ClientTicket) -> bool:
        """Return whether the server knows the ticket as this client's: it answers nothing for a former identity."""
        return ticket.id.owner.client == self._requests.client

    def renew(self, ticket: ClientTicket) -> None:
        """Request another lease; `leases` counts those that have come."""
        if ticket.is_held:
            self._look(ticket, self._clock())
        if ticket.is_held:
            ticket.wants_renewal = True
            self._renew(ticket)

    def _renew(self, ticket: ClientTicket) -> None:
        if ticket.renews:
            ticket.next_renewal = self._clock() + ticket.lease / 3
        if self._is_ours(ticket):
            self._requests.submit(Renew(ticket.id, ticket.token))

    def force(self, name: bytes, token: int) -> None:
        """Take a lock from the holder with this token, whoever that is."""
        self._requests.submit(Force(name, token))

    def check(self, ticket: ClientTicket) -> None:
        """Raise the reason why a lock is not held, if it is not."""
        if ticket.is_held:
            self._look(ticket, self._clock())
        if not ticket.is_held:
            raise ticket.failure or LockLost(f"lock {quoted(ticket.name)}: it has been released")

    # ---- what the server reports

    def _on_queued(self, queued: Queued) -> None:
        ticket = self._requests.find(queued.request, ClientTicket)
        if ticket is None:
            return
        self._requests.mark_known(ticket)
        if ticket.is_ending:
            return
        if ticket.token:
            self._lose_held(ticket, "it was taken while there was no connection")
            ticket.token = 0  # it is the place in the queue that is given up
            self._give_up(ticket)
            return
        ticket.ahead = queued.ahead
        self._forget_former(ticket)
        ticket.changed()

    def _on_held(self, held: LockHeld) -> None:
        ticket = self._requests.find(held.request, ClientTicket)
        if ticket is None:
            return
        self._requests.mark_known(ticket)
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
            return  # a server may have renewed it only to answer that it is held; it must not last longer than wanted
        ticket.wants_renewal = False
        ticket.deadline = deadline
        ticket.is_held = True
        ticket.is_unlocking = False
        ticket.next_renewal = deadline - ticket.lease * 2 / 3 if ticket.renews else math.inf
        self._arm(ticket)
        ticket.changed()

    def _begin_late(self, ticket: ClientTicket) -> None:
        """Begin with the next lease: nothing was left of this one."""
        if ticket.token and not (ticket.is_held or ticket.is_ending or ticket.is_over):
            self._renew(ticket)

    def _on_revoked(self, revoked: Revoked) -> None:
        ticket = self._requests.find(revoked.request, ClientTicket)
        if ticket is not None and ticket.is_held:
            ticket.is_unlocking = True
            if ticket.renews:
                self._renew(ticket)
            ticket.changed()

    def _on_renounced(self, renounced: Renounced) -> None:
        ticket = self._requests.find(renounced.request, ClientTicket)
        if ticket is not None and not ticket.is_ending and ticket.token == renounced.token:
            self._lose_held(ticket, "the lock server is not in the part of the cluster that decides any more")
            self._give_up(ticket)

    def _on_ended(self, ended: Ended) -> None:
        ticket = self._requests.find(ended.request, ClientTicket)
        if ticket is None or (ticket.token and ticket.token != ended.token):
            return
        if not (ended.why is None and (ticket.is_ending or ticket.is_passing)):
            if self._is_still_wanted(ticket):
                self._request_again(ticket)
                return
            self._lose_held(ticket, _WHY.get(ended.why, str(ended.why)) if ended.why else "it was released elsewhere")
        self._requests.end(ticket)

    @staticmethod
    def _is_still_wanted(ticket: ClientTicket) -> bool:
        """Return whether the program still waits for a ticket that ended: it was granted, and lost unheard."""
        return isinstance(ticket.command, Acquire) and not ticket.is_ending and not ticket.deadline

    def _lose_held(self, ticket: ClientTicket, why: str) -> None:
        ticket.is_held = False
        if ticket.failure is None:
            ticket.failure = LockLost(f"lock {quoted(ticket.name)} with token {ticket.token}: {why}")
        ticket.changed()

    def refused(self, ticket: ClientTicket, refused: Refused) -> None:
        """Take a refusal: the request will not be granted."""
        if refused.why in _OVER and self._is_still_wanted(ticket):
            self._request_again(ticket)
            return
        if ticket.is_held:
            self._lose_held(ticket, _WHY.get(refused.why, "it was lost while there was no connection"))
        if isinstance(ticket.command, Wait):
            self._end_former(ticket, refused.why)
        if ticket.is_ending:
            self._requests.end(ticket)
        else:
            self._requests.fail(ticket, refusal(f"lock {quoted(ticket.name)}", refused))

    def _end_former(self, ticket: ClientTicket, why: Why) -> None:
        """Take the refusal of a wait: it did not begin and the lock is held as before, or the lock is lost."""
        if ticket.was is not None and why not in (Why.NOT_HELD, Why.SETTLED):
            self._return_former(ticket)
            return
        former, ticket.was = ticket.was, None
        if former is not None:
            self._lose_held(former, _WHY.get(why, "it was lost while there was no connection"))
            self._requests.end(former)
        if not ticket.is_ending:
            ticket.failure = LockLost(f"lock {quoted(ticket.name)}: it was not held any more")

    def failed(self, ticket: ClientTicket, failure: LockError) -> None:
        """Take a failure: the request was not sent to the group.

        If it asked, after a loss of the connection, whether a lock is held: it is, until its deadline.
        """
        if not ticket.is_held:
            self._return_former(ticket)
            self._requests.fail(ticket, failure)

    # ---- conditions

    def wait(
        self, task: int, held: ClientTicket, condition: bytes, changed: Callable[[], None], *, reacquires: bool
    ) -> ClientTicket:
        """Release a lock and wait on a condition, in one step. The ticket is held when the wait and the queue are over.

        If the wait is refused with `WrongLock` or `NotReady`, the former ticket is still held.
        """
        request = self._requests.next_id(task)
        command = Wait(request, condition, held.name, held.token, reacquires, self._requests.settled)
        held.is_passing = True
        return self._requests.begin(ClientTicket(command, changed, held.lease, held.renews, held), command)

    def end_wait(self, ticket: ClientTicket) -> None:
        """End a wait. The total order decides whether it was notified before."""
        if ticket.notified is None and not ticket.is_over and not ticket.ends_wait:
            ticket.ends_wait = True
            self._requests.submit(EndWait(ticket.id))

    def lose_wait(self, ticket: ClientTicket) -> None:
        """Give up a wait whose end is not answered: nobody knows whether it has begun, so nothing is held."""
        assert isinstance(ticket.command, Wait)
        unknown = "the lock server has not answered"
        if ticket.command.reacquires:
            ticket.failure = LockLost(f"lock {quoted(ticket.name)}: it is not held again, {unknown}")
        else:
            text = f"condition {quoted(ticket.command.condition)}: {unknown}, this waiter may have been notified"
            ticket.failure = OutcomeUnknown(text)
        if ticket.was is not None:
            self._lose_held(ticket.was, unknown)
        self._give_up(ticket)
        ticket.changed()

    def _on_waiting(self, waiting: Waiting) -> None:
        ticket = self._requests.find(waiting.request, ClientTicket)
        if ticket is not None:
            self._requests.mark_known(ticket)
            ticket.is_waiting = True
            self._forget_former(ticket)
            ticket.changed()

    def _on_woken(self, woken: Woken) -> None:
        ticket = self._requests.find(woken.request, ClientTicket)
        if ticket is None:
            return
        self._requests.mark_known(ticket)
        ticket.is_waiting = False
        ticket.notified = woken.notified
        self._forget_former(ticket)
        if isinstance(ticket.command, Wait):
            if ticket.is_ending and ticket.notified:
                self._pass_on(ticket.command)
            if ticket.command.reacquires:
                ticket.changed()
                return
        self._requests.end(ticket)

    def _pass_on(self, wait: Wait) -> None:
        """Notify another waiter, in the place of one that does not wait any more."""
        request = self._requests.new_id(wait.request.owner.task)
        command = Notify(request, wait.condition, everyone=False, priority=False, settled=self._requests.settled)
        self._requests.begin(Notice(command, _nobody), command)

    def _forget_former(self, ticket: ClientTicket) -> None:
        """End the former ticket of a wait that has begun: its lock has been released."""
        former, ticket.was = ticket.was, None
        if former is not None and not former.is_over:
            self._requests.end(former)

    def _return_former(self, ticket: ClientTicket) -> None:
        """Return to the former ticket of a wait that does not begin: its lock is held as before."""
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
        """Wake one waiter of a condition, or all."""
        request = self._requests.next_id(task)
        command = Notify(request, condition, everyone, priority, self._requests.settled)
        return self._requests.begin(Notice(command, changed), command)

    def _on_notified(self, notified: Notified) -> None:
        notice = self._requests.find(notified.request, Notice)
        if notice is not None:
            notice.count = notified.count
            self._requests.end(notice)

    # ---- connections

    @property
    def are_owed(self) -> bool:
        """Whether the servers may count something as held until its lease ends, since they do not know of its end."""
        now = self._clock()
        return any(ticket.token and now < ticket.deadline for ticket in self._requests.all(ClientTicket))

    def resume(self) -> None:
        """Submit again what is open, in the original order."""
        for request in self._requests.all(Request):
            if isinstance(request, ClientTicket):
                self._resume_ticket(request)
            elif isinstance(request, Notice):
                self._requests.submit(request.command)

    def _resume_ticket(self, ticket: ClientTicket) -> None:
        if ticket.is_passing:
            return  # its wait is submitted again
        if not ticket.is_ending or ticket.was is not None:
            self._requests.submit(ticket.command)
        if ticket.is_ending:
            self._requests.submit(Withdraw(ticket.id))
        elif ticket.ends_wait:
            self._requests.submit(EndWait(ticket.id))

    def begin_anew(self) -> None:
        """Make new requests of those of a client that the server does not know."""
        unknown = "the lock server does not know this client any more"
        for notice in self._requests.all(Notice):
            text = f"condition {quoted(notice.command.condition)}: {unknown}, some may have been notified"
            self._requests.fail(notice, OutcomeUnknown(text))
        for ticket in self._requests.all(ClientTicket):
            if not ticket.is_over and not ticket.is_passing and not ticket.is_held:
                self._begin_ticket_anew(ticket, unknown)

    def _begin_ticket_anew(self, ticket: ClientTicket, why: str) -> None:
        if ticket.is_ending:
            self._requests.end(ticket)
        elif isinstance(ticket.command, Acquire):
            self._request_again(ticket)
        else:
            self._forget_former(ticket)
            self._requests.fail(ticket, LockLost(f"lock {quoted(ticket.name)}: {why}"))

    def _request_again(self, ticket: ClientTicket) -> None:
        """Make a new request of one that is over, but still wanted."""
        assert isinstance(ticket.command, Acquire)
        self._requests.forget(ticket)
        ticket.id = self._requests.new_id(ticket.id.owner.task)
        ticket.token, ticket.ahead = 0, None
        ticket.command = replace(ticket.command, request=ticket.id, settled=self._requests.settled)
        self._requests.begin(ticket, ticket.command)
