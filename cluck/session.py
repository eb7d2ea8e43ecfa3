"""A client's side without I/O: what it has asked for, what it holds, waits for and leads, and what it has been told.

A `Session` takes what its lock server says (`cluck.protocol.Downward`) and has what is to be said to it; trio, asyncio
and threads have thin shells around one. What the program has asked for is a `Request` of some kind, which the session
keeps up to its last answer, whoever still waits for it; its `changed` is called whenever there is something new.

A connection that is lost ends nothing but leaderships:

* Locks that are held stay good until their deadline, which is on the own clock and earlier than any other client may be
  granted the lock (ruling E7).
* What is open is said again under its old name and number as soon as there is a connection: the replicated state knows
  what it has done already, and does not care through whom it comes. That a lock is held is asked for by saying its
  request again; should the answer be another token, the lock was lost meanwhile. What is to be given back is withdrawn
  by request, which is always answered.
* Where the state has forgotten this client (its server was restarted), tickets that waited are at the ends of their
  queues again, held ones go on. A notification that was on its way may be given twice, which waiters have to expect.
* Where the server has forgotten it, too, it is another client from then on: what waits asks anew, what is held cannot
  be renewed and is lost at its deadline, and whether a notification was given nobody knows: `OutcomeUnknown`.
* A leader steps down at once: the flag is cleared, whoever follows its roles is told, and then what it was about to
  publish ends as `LeadershipLost`, in that order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from cluck.asked import Candidacy, Notice, Observation, Publication, Question, Request, Ticket, refusal
from cluck.commands import (
    LARGEST_BLOB,
    LONGEST_LEASE,
    Acquire,
    Client,
    Ended,
    EndWait,
    Force,
    Leadership,
    Mode,
    Notified,
    Notify,
    Owner,
    Publish,
    Published,
    Queued,
    Refused,
    Release,
    Renew,
    RequestId,
    Resign,
    Revoked,
    Stand,
    Standing,
    Wait,
    Waiting,
    Why,
    Withdraw,
    Woken,
)
from cluck.errors import (
    ConnectionLost,
    DaemonUnavailable,
    LeadershipLost,
    LockError,
    LockLost,
    LockTimeout,
    NotReady,
    OutcomeUnknown,
    Overflow,
)
from cluck.protocol import (
    MOST_UNSETTLED,
    VERSION,
    Answer,
    Ask,
    Bye,
    Downward,
    Failed,
    Farewell,
    Goodbye,
    Held,
    Hello,
    Ignore,
    Leads,
    Observe,
    Ping,
    Pong,
    Readiness,
    Renounced,
    Upward,
    Welcome,
)

LEASE: Final = 5.0
"""Seconds that a lock is held without renewal, if nothing else is asked for."""
GRACE: Final = 5.0
"""Seconds behind the lease, if nothing else is asked for."""
LARGEST_ADDRESS: Final = 256
"""Bytes of a candidate's address."""
_FATAL: Final = {Farewell.ACCESS, Farewell.VERSION, Farewell.MALFORMED}
"""Goodbyes behind which another connection would fare no better."""
_WHY: Final = {
    Why.EXPIRED: "its lease ended without renewal",
    Why.FORCED: "an administrator took it",
    Why.GONE: "its lock server, or this client, was taken for gone",
    Why.NOT_HELD: "it had been lost before",
}

AnyRequest = TypeVar("AnyRequest", bound="Request")


def _checked(what: str, seconds: float, *, may_be_zero: bool) -> float:
    if not (0 < seconds <= LONGEST_LEASE or (may_be_zero and seconds == 0)):
        raise ValueError(f"{what}={seconds!r}: seconds, up to {LONGEST_LEASE:.0f} (7 days)")
    return float(seconds)


class Session:
    """One client, through all its connections."""

    def __init__(self, clock: Callable[[], float], changed: Callable[[], None]) -> None:
        """`clock`: the boot-time clock in seconds; `changed` is called when something new is there for the shell."""
        self.client: Client | None = None
        """None until the first welcome."""
        self.is_connected = False
        """A server has welcomed it, and the connection has not been lost since."""
        self.ready = False
        """Whether requests are answered now."""
        self.why_not_ready = "there is no connection to a lock server"
        self.failure: LockError | None = None
        """Why the connection is, or is to be, at its end."""
        self.deadline = math.inf
        """When `advance` has something to do, at the earliest."""
        self._clock = clock
        self._changed = changed
        self._secret = b""
        self._greeted_at = 0.0
        self._ahead = 0.0
        """What the own clock is ahead of the server's, at most."""
        self._said: list[Upward] = []
        self._number = 0
        self._open: dict[int, Request] = {}
        """By number, which ascends."""
        self._unknown: dict[int, Request] = {}
        """Those of which the state may not have heard yet."""
        self._held: dict[int, Ticket] = {}
        self._observations: dict[bytes, list[Observation]] = {}
        self._questions: dict[int, Question] = {}
        self._asked = 0
        self._is_closed = False
        self._started = clock()
        self._actions: Final[dict[type, Callable[[Any], None]]] = {
            Welcome: self._on_welcome,
            Readiness: self._on_readiness,
            Goodbye: self._on_goodbye,
            Ping: lambda ping: self._say(Pong()),
            Answer: self._on_answer,
            Queued: self._on_queued,
            Held: self._on_held,
            Refused: self._on_refused,
            Failed: self._on_failed,
            Ended: self._on_ended,
            Revoked: self._on_revoked,
            Renounced: self._on_renounced,
            Waiting: self._on_waiting,
            Woken: self._on_woken,
            Notified: self._on_notified,
            Standing: self._on_standing,
            Leads: self._on_leads,
            Published: self._on_published,
            Leadership: self._on_leadership,
        }

    # ---- the connection

    def greet(self, program: str) -> None:
        """There is a connection: say who is there. `program` is shown to the administrator."""
        self.failure = None
        self._greeted_at = self._clock()
        self._said = [Hello(VERSION, program[:128], self.client, self._secret)]

    def take(self) -> list[Upward]:
        """Return what is to be said to the server, in order."""
        said, self._said = self._said, []
        return said

    def receive(self, said: Iterable[Downward]) -> None:
        """Take in what the server says."""
        for one in said:
            self._actions[type(one)](one)

    def lose(self, why: LockError) -> LockError:
        """The connection was lost; returns why, which is `ConnectionLost` where another one may fare better."""
        self.failure = self.failure or why
        self.is_connected = self.ready = False
        self.why_not_ready = f"there is no connection to a lock server: {self.failure}"
        self._said = []
        for candidacy in self._all(Candidacy):
            candidacy.is_standing = False
            self._step_down(candidacy)
        for observation in self._observing():
            observation.lose_sight()
        self._wake_all()
        return self.failure

    def close(self) -> None:
        """The client ends, in order: its server frees what it holds."""
        if not self._is_closed:
            self._is_closed = True
            self._say(Bye())
            for request in list(self._open.values()):
                if isinstance(request, Candidacy):
                    self._step_down(request)
                if not request.is_over:
                    self._fail(request, self._closed_failure(request))
            self._wake_all()

    @staticmethod
    def _closed_failure(request: Request) -> LockError:
        if isinstance(request, Ticket) and request.is_held:
            return LockLost(f"lock {request.name!r}: the program has closed its connection to the lock server")
        return ConnectionLost("the program has closed its connection to the lock server")

    def _wake_all(self) -> None:
        for request in list(self._open.values()):
            request.changed()
        for question in list(self._questions.values()):
            question.changed()
        for observation in self._observing():
            observation.changed()
        self._changed()

    def _say(self, said: Upward) -> None:
        """Say it now; what is open is said when there is a connection."""
        if self.is_connected:
            self._said.append(said)

    def _on_welcome(self, welcome: Welcome) -> None:
        if welcome.version != VERSION:
            self.failure = DaemonUnavailable(
                f"the lock server speaks version {welcome.version} of the protocol, not {VERSION}"
            )
            return
        former, self.client, self._secret = self.client, welcome.client, welcome.secret
        self._ahead = self._greeted_at - welcome.clock
        self.is_connected = True
        if former == welcome.client:
            self._resume()
        elif former is not None:
            self._begin_anew()
        for election in self._observations:
            self._say(Observe(election))
        for question in self._questions.values():
            question.body = b""
            self._say(question.ask)
        self._changed()

    def _resume(self) -> None:
        """Say again what is open."""
        for request in list(self._open.values()):
            if isinstance(request, Ticket):
                self._resume_ticket(request)
            elif isinstance(request, Candidacy):
                self._resume_candidacy(request)
            elif isinstance(request, Notice):
                self._say(request.command)

    def _resume_ticket(self, ticket: Ticket) -> None:
        if ticket.is_passing:
            return  # its wait is said again
        if not ticket.is_ending or ticket.was is not None:
            self._say(ticket.command)
        if ticket.is_ending:
            self._say(Withdraw(ticket.id))
        elif ticket.ends_wait:
            self._say(EndWait(ticket.id))

    def _resume_candidacy(self, candidacy: Candidacy) -> None:
        if candidacy.is_ending:
            self._say(Withdraw(candidacy.id))
            return
        self._say(self._stand(candidacy))
        if candidacy.resigns is not None:
            self._say(candidacy.resigns)

    def _begin_anew(self) -> None:
        """The server does not know this client: it is another one, whose requests are new."""
        unknown = "the lock server does not know this client any more"
        for request in list(self._open.values()):
            if isinstance(request, Notice):
                text = f"condition {request.command.condition!r}: {unknown}, some may have been notified"
                self._fail(request, OutcomeUnknown(text))
            elif isinstance(request, Candidacy):
                if request.is_ending:
                    self._end(request)
                else:
                    self._ask_again(request)
            elif isinstance(request, Ticket) and not request.is_over:
                self._begin_ticket_anew(request, unknown)

    def _begin_ticket_anew(self, ticket: Ticket, why: str) -> None:
        if ticket.is_passing or (ticket.is_held and not ticket.is_ending):
            return
        if ticket.is_ending:
            self._end(ticket)
        elif isinstance(ticket.command, Acquire):
            self._ask_again(ticket)
        else:
            former, ticket.was = ticket.was, None
            if former is not None and not former.is_over:
                self._end(former)
            self._fail(ticket, LockLost(f"lock {ticket.name!r}: {why}"))

    def _ask_again(self, request: Ticket | Candidacy) -> None:
        """Make a new request of one that is over, and still wanted."""
        self._forget(request)
        request.is_known = False
        request.id = self._draw(request.id.owner.task)
        if isinstance(request, Candidacy):
            self._begin(request, self._stand(request))
        else:
            assert isinstance(request.command, Acquire)
            request.token, request.ahead = 0, None
            request.command = replace(request.command, request=request.id, settled=self._settled)
            self._begin(request, request.command)

    def _on_readiness(self, readiness: Readiness) -> None:
        self.ready, self.why_not_ready = readiness.ready, readiness.why
        self._wake_all()

    def _on_goodbye(self, goodbye: Goodbye) -> None:
        is_fatal = goodbye.why in _FATAL or self.client is None
        self.failure = (DaemonUnavailable if is_fatal else ConnectionLost)(goodbye.text)

    # ---- time

    def advance(self) -> None:
        """Do what is due: renew, and lose what was not renewed in time."""
        now = self._clock()
        for ticket in list(self._held.values()):
            self._look(ticket, now)
        self.deadline = min((ticket.due for ticket in self._held.values()), default=math.inf)

    def _look(self, ticket: Ticket, now: float) -> None:
        if now < ticket.due:
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
            self._changed()

    # ---- requests

    def _next(self, task: int) -> RequestId:
        if self._is_closed:
            raise ConnectionLost("the program has closed its connection to the lock server")
        assert self.client is not None, "requests come behind the first welcome"
        if len(self._open) >= MOST_UNSETTLED:
            raise Overflow(f"this client has {MOST_UNSETTLED} requests open, which is as many as it may")
        return self._draw(task)

    def _draw(self, task: int) -> RequestId:
        assert self.client is not None
        self._number += 1
        return RequestId(Owner(self.client, task), self._number)

    @property
    def _settled(self) -> int:
        """All requests up to this one are answered for good, or known, in a command that is being made."""
        return next(iter(self._unknown), self._number) - 1

    def _begin(self, request: AnyRequest, command: Upward) -> AnyRequest:
        self._open[request.id.number] = self._unknown[request.id.number] = request
        self._say(command)
        return request

    def _know(self, request: Request) -> None:
        request.is_known = True
        self._unknown.pop(request.id.number, None)

    def _forget(self, request: Request) -> None:
        self._unknown.pop(request.id.number, None)
        self._open.pop(request.id.number, None)
        self._held.pop(request.id.number, None)

    def _find(self, request: RequestId, kind: type[AnyRequest]) -> AnyRequest | None:
        found = self._open.get(request.number)
        return found if isinstance(found, kind) and found.id == request else None

    def _all(self, kind: type[AnyRequest]) -> Iterator[AnyRequest]:
        return (request for request in list(self._open.values()) if isinstance(request, kind))

    def _end(self, request: Request) -> None:
        self._forget(request)
        request.is_over = True
        if isinstance(request, Ticket):
            request.is_held = False
        elif isinstance(request, Publication):
            request.candidacy.publications.remove(request)
        request.changed()

    def _fail(self, request: Request, failure: LockError) -> None:
        request.failure = request.failure or failure
        self._end(request)

    # ---- locks: what the program wants

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
        lease = LEASE if duration is None else _checked("duration", duration, may_be_zero=False)
        grace = _checked("grace", grace, may_be_zero=True)
        request = self._next(task)
        command = Acquire(request, name, mode, permits, lease, grace, waits, self._settled)
        return self._begin(Ticket(command, changed, lease, duration is None, None), command)

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
        self._held.pop(ticket.id.number, None)
        if ticket.token:
            self._say(Release(ticket.name, ticket.token))
        else:
            self._say(Withdraw(ticket.id))
        if ticket.id.owner.client != self.client:
            self._end(ticket)  # nobody answers in the name of who this client was

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
        self._say(Renew(ticket.name, ticket.token))

    def timed_out(self, ticket: Ticket, timeout: float | None) -> LockTimeout:
        """Make what says that a lock was not obtained in so many seconds, and why."""
        text = f"lock {ticket.name!r}: not obtained within {timeout} s"
        if not self.ready:
            return NotReady(f"{text}: {self.why_not_ready}")
        return LockTimeout(text if ticket.ahead is None else f"{text}, {ticket.ahead} tickets were ahead")

    def force(self, name: bytes, token: int) -> None:
        """Take a lock from its holder, whoever that is."""
        self._say(Force(name, token))

    def check(self, ticket: Ticket) -> None:
        """Raise why a lock is not held, if it is not."""
        if ticket.is_held:
            self._look(ticket, self._clock())
        if not ticket.is_held:
            raise ticket.failure or LockLost(f"lock {ticket.name!r}: it has been given back")

    # ---- locks: what comes of it

    def _on_queued(self, queued: Queued) -> None:
        ticket = self._find(queued.request, Ticket)
        if ticket is None:
            return
        self._know(ticket)
        if ticket.is_ending:
            return
        if ticket.token:
            self._lose_held(ticket, "it was taken while there was no connection")
            self._give_up(ticket)
            return
        ticket.ahead = queued.ahead
        self._forget_former(ticket)
        ticket.changed()

    def _on_held(self, held: Held) -> None:
        ticket = self._find(held.request, Ticket)
        if ticket is None:
            return
        self._know(ticket)
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
        deadline = held.deadline + self._ahead if held.deadline else 0.0
        if deadline <= max(ticket.deadline, self._clock()):
            if not ticket.is_held:
                self._renew(ticket)  # nothing is left of the lease: the body begins with the next one
            ticket.changed()
            return
        if ticket.is_held and not (ticket.renews or ticket.wants_renewal):
            return  # a server may have renewed it to answer that it is held; it is not to last longer than was wanted
        ticket.wants_renewal = False
        ticket.deadline = deadline
        ticket.is_held = True
        ticket.is_unlocking = False
        ticket.next_renewal = deadline - ticket.lease * 2 / 3 if ticket.renews else math.inf
        self._held[ticket.id.number] = ticket
        self._arm(ticket)
        ticket.changed()

    def _on_revoked(self, revoked: Revoked) -> None:
        ticket = self._find(revoked.request, Ticket)
        if ticket is not None and ticket.is_held:
            ticket.is_unlocking = True
            if ticket.renews:
                self._renew(ticket)
            ticket.changed()

    def _on_renounced(self, renounced: Renounced) -> None:
        ticket = self._find(renounced.request, Ticket)
        if ticket is not None and not ticket.is_ending and ticket.token == renounced.token:
            self._lose_held(ticket, "the lock server is not in the part of the cluster that decides any more")
            self._give_up(ticket)

    def _on_ended(self, ended: Ended) -> None:
        ticket = self._find(ended.request, Ticket) if ended.request.number else self._find_token(ended.token)
        if ticket is None:
            return
        if not (ended.why is None and (ticket.is_ending or ticket.is_passing)):
            if self._is_to_be_had(ticket):
                self._ask_again(ticket)
                return
            self._lose_held(ticket, _WHY.get(ended.why, str(ended.why)) if ended.why else "it was given back elsewhere")
        self._end(ticket)

    def _find_token(self, token: int) -> Ticket | None:
        """Return whose token this is: a server that knows nobody who holds it does not know the request."""
        return next((ticket for ticket in self._all(Ticket) if ticket.token == token), None)

    @staticmethod
    def _is_to_be_had(ticket: Ticket) -> bool:
        """Whether a ticket that ended is one that the program still waits for: it was granted, and lost, unheard."""
        return isinstance(ticket.command, Acquire) and not ticket.is_ending and not ticket.deadline

    def _lose_held(self, ticket: Ticket, why: str) -> None:
        ticket.is_held = False
        self._held.pop(ticket.id.number, None)
        if ticket.failure is None:
            ticket.failure = LockLost(f"lock {ticket.name!r} with token {ticket.token}: {why}")
        ticket.changed()

    def _on_failed(self, failed: Failed) -> None:
        request = self._open.get(failed.request.number)
        if request is None or (isinstance(request, Ticket) and request.is_held):
            return  # whether it is held was asked behind a loss of the connection: it is, until its deadline
        if isinstance(request, Ticket):
            self._return_former(request)
        self._fail(request, NotReady(failed.text) if failed.not_ready else Overflow(failed.text))

    def _on_refused(self, refused: Refused) -> None:
        request = self._open.get(refused.request.number)
        if isinstance(request, Ticket):
            self._on_refused_ticket(request, refused)
        elif isinstance(request, Publication):
            self._fail(request, self._leadership_lost(request.candidacy))
        elif isinstance(request, Candidacy):
            self._step_down(request)
            if request.is_ending:
                self._end(request)
            elif refused.why is Why.SETTLED:
                self._ask_again(request)
            else:
                self._fail(request, refusal(f"election {request.command.election!r}", refused))
        elif request is not None:
            self._fail(request, refusal(f"request {request.id.number}", refused))

    def _on_refused_ticket(self, ticket: Ticket, refused: Refused) -> None:
        if refused.why is Why.SETTLED and self._is_to_be_had(ticket):
            self._ask_again(ticket)
            return
        if ticket.is_held:
            self._lose_held(ticket, _WHY.get(refused.why, "it was lost while there was no connection"))
        if refused.why is Why.WRONG_LOCK:
            self._return_former(ticket)
        elif ticket.was is not None:
            former, ticket.was = ticket.was, None
            self._lose_held(former, _WHY.get(refused.why, "it was lost while there was no connection"))
            ticket.failure = former.failure
            self._end(former)
        if ticket.is_ending:
            self._end(ticket)
        else:
            self._fail(ticket, refusal(f"lock {ticket.name!r}", refused))

    # ---- conditions

    def wait(
        self, task: int, held: Ticket, condition: bytes, changed: Callable[[], None], *, reacquires: bool
    ) -> Ticket:
        """Give a lock back and wait on a condition, in one step; the ticket is held when both is over.

        Where the wait is refused with `WrongLock`, or `NotReady`, the former ticket is held still.
        """
        request = self._next(task)
        command = Wait(request, condition, held.name, held.token, reacquires, self._settled)
        held.is_passing = True
        return self._begin(Ticket(command, changed, held.lease, held.renews, held), command)

    def end_wait(self, ticket: Ticket) -> None:
        """Wait no longer; what is told then is in the order of things."""
        if ticket.notified is None and not ticket.is_over and not ticket.ends_wait:
            ticket.ends_wait = True
            self._say(EndWait(ticket.id))

    def _on_waiting(self, waiting: Waiting) -> None:
        ticket = self._find(waiting.request, Ticket)
        if ticket is not None:
            self._know(ticket)
            ticket.is_waiting = True
            self._forget_former(ticket)
            ticket.changed()

    def _on_woken(self, woken: Woken) -> None:
        ticket = self._find(woken.request, Ticket)
        if ticket is None:
            return
        self._know(ticket)
        ticket.is_waiting = False
        ticket.notified = woken.notified
        self._forget_former(ticket)
        if isinstance(ticket.command, Wait) and ticket.command.reacquires:
            ticket.changed()
        else:
            self._end(ticket)

    def _forget_former(self, ticket: Ticket) -> None:
        """The wait has begun: the lock has been given back."""
        former, ticket.was = ticket.was, None
        if former is not None and not former.is_over:
            self._end(former)

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
        request = self._next(task)
        command = Notify(request, condition, everyone, priority, self._settled)
        return self._begin(Notice(command, changed), command)

    def _on_notified(self, notified: Notified) -> None:
        notice = self._find(notified.request, Notice)
        if notice is not None:
            notice.count = notified.count
            self._end(notice)

    # ---- leaders

    def stand(
        self,
        task: int,
        election: bytes,
        changed: Callable[[], None],
        *,
        address: bytes = b"",
        port: int = 0,
        restart_interval: float = 0.0,
    ) -> Candidacy:
        """Be a candidate; the arguments are those of `cluck.commands.Stand`."""
        if len(address) > LARGEST_ADDRESS or not 0 <= port < 1 << 16 or not 0 <= restart_interval < math.inf:
            raise ValueError(
                f"address={address!r}, port={port}, restart_interval={restart_interval}: up to {LARGEST_ADDRESS} "
                "bytes, 0 to 65535, and seconds"
            )
        request = self._next(task)
        command = Stand(request, election, address, port, restart_interval=restart_interval)
        candidacy = Candidacy(command, changed)
        return self._begin(candidacy, self._stand(candidacy))

    def _stand(self, candidacy: Candidacy) -> Stand:
        """Say of a candidate what is true now."""
        running = self._clock() - self._started
        settled = min(self._settled, candidacy.id.number - 1)
        candidacy.command = replace(candidacy.command, request=candidacy.id, running=running, settled=settled)
        return candidacy.command

    def step_back(self, candidacy: Candidacy) -> None:
        """Be no candidate any more, and no leader."""
        if not candidacy.is_over and not candidacy.is_ending:
            candidacy.is_ending = True
            self._say(Withdraw(candidacy.id))
            self._step_down(candidacy)

    def resign(self, candidacy: Candidacy, to: RequestId | None) -> None:
        """Lead no more, in favour of another candidate or of whoever is next, and stand on."""
        if candidacy.token:
            candidacy.resigns = Resign(candidacy.command.election, candidacy.token, to)
            self._say(candidacy.resigns)

    def publish(self, task: int, candidacy: Candidacy, blob: bytes, changed: Callable[[], None]) -> Publication:
        """Attach something to the leadership. Raises `LeadershipLost` where there is none."""
        if len(blob) > LARGEST_BLOB:
            raise ValueError(f"{len(blob)} bytes to publish: {LARGEST_BLOB} is the most")
        if not candidacy.token:
            raise self._leadership_lost(candidacy)
        request = self._next(task)
        command = Publish(request, candidacy.command.election, candidacy.token, blob, self._settled)
        publication = Publication(command, changed, candidacy)
        candidacy.publications.append(publication)
        return self._begin(publication, command)

    def _on_standing(self, standing: Standing) -> None:
        candidacy = self._find(standing.request, Candidacy)
        if candidacy is not None:
            self._know(candidacy)
            candidacy.is_standing = True
            candidacy.changed()

    def _on_leads(self, leads: Leads) -> None:
        candidacy = self._find(leads.candidate, Candidacy)
        if candidacy is None or candidacy.is_ending:
            return
        if leads.token != candidacy.token:
            self._step_down(candidacy)
            candidacy.token = leads.token
            candidacy.resigns = None
            candidacy.changed()

    def _step_down(self, candidacy: Candidacy) -> None:
        """Lead no more: first the flag, then who follows it, then what was to be published."""
        if candidacy.token:
            candidacy.token = 0
            candidacy.ends += 1
            candidacy.changed()
        for publication in list(candidacy.publications):
            self._fail(publication, self._leadership_lost(candidacy))

    @staticmethod
    def _leadership_lost(candidacy: Candidacy) -> LeadershipLost:
        return LeadershipLost(f"election {candidacy.command.election!r}: this candidate does not lead (any more)")

    def _on_published(self, published: Published) -> None:
        publication = self._find(published.request, Publication)
        if publication is not None:
            publication.version = published.version
            self._end(publication)

    def observe(self, election: bytes, changed: Callable[[], None]) -> Observation:
        """Look at an election from now on."""
        observation = Observation(election, changed)
        others = self._observations.setdefault(election, [])
        if not others:
            self._say(Observe(election))
        elif others[0].last is not None:
            observation.tell(others[0].last)
        others.append(observation)
        return observation

    def ignore(self, observation: Observation) -> None:
        """Look no more."""
        others = self._observations[observation.election]
        others.remove(observation)
        if not others:
            del self._observations[observation.election]
            self._say(Ignore(observation.election))

    def _observing(self) -> Iterator[Observation]:
        return (observation for some in list(self._observations.values()) for observation in list(some))

    def _on_leadership(self, leadership: Leadership) -> None:
        for observation in list(self._observations.get(leadership.election, ())):
            observation.tell(leadership)

    # ---- questions

    def ask(self, question: str, changed: Callable[[], None]) -> Question:
        """Ask for something to be shown, until `forget`."""
        self._asked += 1
        asked = self._questions[self._asked] = Question(Ask(self._asked, question), changed)
        self._say(asked.ask)
        return asked

    def forget(self, question: Question) -> None:
        """Nobody wants that answer any more."""
        self._questions.pop(question.ask.number, None)

    def _on_answer(self, answer: Answer) -> None:
        question = self._questions.get(answer.number)
        if question is not None:
            question.body += answer.body
            if answer.is_last:
                question.is_answered = True
                self.forget(question)
                question.changed()
