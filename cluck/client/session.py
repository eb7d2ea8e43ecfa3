"""A client's side without I/O: what it has asked for, what it holds, waits for and leads, and what it has been told.

A `Session` takes what its lock server says (`cluck.protocol.Downward`) and has what is to be said to it; trio, asyncio
and threads have thin shells around one. What the program asks for is a `Request` of some kind
(`cluck.client.requests`), which is kept up to its last answer, whoever still waits for it; its `changed` is called
whenever there is something new. Locks and conditions are in `locks`, elections in `leaders`; the two share one `Book`
of what is open.

A connection that is lost ends nothing:

* Locks that are held stay good until their deadline, which is on the own clock and earlier than any other client may be
  granted the lock (ruling E7); so do leaderships (ruling E10).
* What is open is said again under its old name and number as soon as there is a connection: the replicated state knows
  what it has done already, and does not care through whom it comes. That a lock is held is asked for by saying its
  request again; should the answer be another token, the lock was lost meanwhile. What is to be given back is withdrawn
  by request, which is always answered.
* Where the state has forgotten this client (its server was restarted), tickets that waited are at the ends of their
  queues again, held ones go on. A notification that was on its way may be given twice, which waiters have to expect.
* Where the server has forgotten it, too, it is another client from then on: what waits asks anew, what is held cannot
  be renewed and is lost at its deadline, and whether a notification was given nobody knows: `OutcomeUnknown`.
* A leader steps down at its deadline, as it is told, or where its server does not know it: the flag is cleared, whoever
  follows its roles is told, and then what it was about to publish ends as `LeadershipLost`, in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from cluck.client.clock_comparison import Comparison
from cluck.client.open_requests import Book
from cluck.client.requests import Candidacy, Publication, Question, Request, Ticket, refusal
from cluck.client.session_elections import Candidacies
from cluck.client.session_locks import Tickets
from cluck.client.stalls import Standstill
from cluck.commands import Refused
from cluck.errors import ConnectionLost, DaemonUnavailable, LockError, LockLost, LockTimeout, NotReady, Overflow
from cluck.protocol import (
    LARGEST_QUESTION,
    MOST_QUESTIONS,
    VERSION,
    Answer,
    Ask,
    Bye,
    Clock,
    Downward,
    Failed,
    Farewell,
    Goodbye,
    Hello,
    Readiness,
    Upward,
    Welcome,
)
from cpg.replication.electorate import ChangeVoters, Electorate
from totem.text import quoted

_FATAL: Final = {Farewell.ACCESS, Farewell.VERSION, Farewell.MALFORMED}
"""Goodbyes behind which another connection would fare no better."""


class Session:
    """One client, through all its connections."""

    def __init__(
        self, clock: Callable[[], float], changed: Callable[[], None], warn: Callable[[str], None] | None = None
    ) -> None:
        """Begin without a connection.

        Args:
            clock: The boot-time clock in seconds.
            changed: Called when something new is there for the shell.
            warn: Called with what the program's log is to tell.
        """
        self.ready = False
        """Whether requests are answered now."""
        self.why_not_ready = "there is no connection to a lock server"
        self.failure: LockError | None = None
        """Why the connection is, or is to be, at its end."""
        self._book = book = Book(changed)
        self._comparison = comparison = Comparison(book, clock)
        self.locks = Tickets(book, clock, comparison)
        """Locks and conditions."""
        self.leaders = Candidacies(book, clock, comparison)
        """Elections."""
        self.standstill = Standstill(book, clock, warn)
        """Tells the program of waits that last since nobody decides."""
        self._clock = clock
        self._secret = b""
        self._greeted_at = 0.0
        self._questions: dict[int, Question] = {}
        """Those whose answers are wanted."""
        self._asked = 0
        self._unanswered: set[int] = set()
        """Those that the server has been asked, wanted or not."""
        self._actions: Final[dict[type, Callable[[Any], None]]] = {
            Welcome: self._on_welcome,
            Readiness: self._on_readiness,
            Goodbye: self._on_goodbye,
            Answer: self._on_answer,
            Refused: self._on_refused,
            Failed: self._on_failed,
            Clock: self._comparison.on_clock,
            **self.locks.actions,
            **self.leaders.actions,
        }

    # ---- the connection

    @property
    def is_connected(self) -> bool:
        """Whether a server has welcomed this client, and the connection has not been lost since."""
        return self._book.is_connected

    @property
    def was_welcomed(self) -> bool:
        """Whether any server has."""
        return self._book.client is not None

    def greet(self, program: str) -> None:
        """There is a connection: say who is there. `program` is shown to the administrator."""
        self.failure = None
        self._greeted_at = self._clock()
        self._book.said = [Hello(VERSION, program[:128], self._book.client, self._secret)]

    def take(self) -> list[Upward]:
        """Return what is to be said to the server, in order."""
        said, self._book.said = self._book.said, []
        return said

    def receive(self, said: Iterable[Downward]) -> None:
        """Take in what the server says."""
        for one in said:
            self._actions[type(one)](one)

    def lose(self, why: LockError) -> LockError:
        """The connection was lost; returns why, which is `ConnectionLost` where another one may fare better."""
        self.failure = self.failure or why
        self.ready = self._book.is_connected = False
        self.why_not_ready = f"there is no connection to a lock server: {self.failure}"
        self._book.said = []
        self.standstill.end(ready=False)
        self.leaders.lose()
        self._wake_all()
        return self.failure

    @property
    def may_part(self) -> bool:
        """Whether the server hears it when the client ends, or need not."""
        return self.is_connected or self._book.is_closed or not self.locks.are_owed

    def close(self) -> None:
        """The client ends, in order: its server frees what it holds."""
        if self._book.is_closed:
            return
        self._book.is_closed = True
        self._book.say(Bye())
        self.leaders.close()
        for request in self._book.all(Request):
            if not request.is_over:
                self._book.fail(request, _closed(request))
        self._wake_all()

    def _wake_all(self) -> None:
        changes = [request.changed for request in self._book.all(Request)]
        changes += [question.changed for question in self._questions.values()]
        changes += [observation.changed for observation in self.leaders.observing()]
        for changed in changes:
            changed()
        self._book.changed()

    def _on_welcome(self, welcome: Welcome) -> None:
        if welcome.version != VERSION:
            text = f"the lock server speaks version {welcome.version} of the protocol, not {VERSION}"
            self.failure = DaemonUnavailable(text)
            return
        book = self._book
        former, book.client, self._secret = book.client, welcome.client, welcome.secret
        book.is_connected = True
        self._comparison.on_welcome(self._greeted_at, welcome.clock)
        if former == welcome.client:
            self.locks.resume()
            self.leaders.resume()
        elif former is not None:
            self.locks.begin_anew()
            self.leaders.begin_anew()
        for question in self._questions.values():
            question.body.clear()
        self._unanswered.clear()
        self._ask_on()
        book.changed()

    def _on_readiness(self, readiness: Readiness) -> None:
        self.ready, self.why_not_ready = readiness.ready, readiness.why
        if self.ready:
            self.standstill.end(ready=True)
        else:
            self.standstill.begin()
        self._wake_all()

    def _on_goodbye(self, goodbye: Goodbye) -> None:
        is_fatal = goodbye.why in _FATAL or not self.was_welcomed
        self.failure = (DaemonUnavailable if is_fatal else ConnectionLost)(goodbye.text)

    # ---- time

    @property
    def deadline(self) -> float:
        """When `advance` has something to do, at the earliest."""
        return min(self.locks.deadline, self.leaders.deadline, self.standstill.deadline)

    def advance(self) -> None:
        """Do what is due."""
        self.locks.advance()
        self.leaders.advance()
        self.standstill.look(self.why_not_ready)

    # ---- requests of any kind

    def timed_out(self, ticket: Ticket, timeout: float | None) -> LockTimeout:
        """Make what says that a lock was not obtained in so many seconds, and why."""
        text = f"{ticket.subject}: not obtained within {timeout} s"
        if not self.ready:
            return NotReady(f"{text}: {self.why_not_ready}")
        if ticket.ahead is None:
            return NotReady(f"{text}: the lock server has not answered; if that lasts, look whether it is stopped")
        return LockTimeout(f"{text}, {ticket.ahead} {'ticket was' if ticket.ahead == 1 else 'tickets were'} ahead")

    def _on_refused(self, refused: Refused) -> None:
        request = self._book.find(refused.request, Request)
        if isinstance(request, Ticket):
            self.locks.refused(request, refused)
        elif isinstance(request, Candidacy | Publication):
            self.leaders.refused(request, refused)
        elif request is not None:
            self._book.fail(request, refusal(f"request {request.id.number}", refused))

    def _on_failed(self, failed: Failed) -> None:
        request = self._book.find(failed.request, Request)
        if request is None:
            return
        failure = (NotReady if failed.not_ready else Overflow)(f"{request.subject}: {failed.text}")
        if isinstance(request, Ticket):
            self.locks.failed(request, failure)
        elif isinstance(request, Candidacy | Publication):
            self.leaders.failed(request, failure)
        else:
            self._book.fail(request, failure)

    # ---- who decides

    def change_voters(self, wanted: Electorate, status: Mapping[str, Any]) -> None:
        """Have these decide from now on. `status`: what the lock server says of itself. Raises NotReady."""
        known = status["voters"]
        present = {server["node"] for server in status["servers"]}
        if not status["ready"]:
            raise NotReady(f"the lock servers decide nothing now: {status['why']}")
        if known["former"] is not None:
            raise NotReady(f"another change is under way, to {Electorate.of(known)}; look at the status again")
        if not wanted.is_quorum(present):
            missing = ", ".join(map(str, sorted(wanted.votes.keys() - present)))
            raise NotReady(f"too few of those are there that are to decide: nothing from node {missing}")
        self._book.say(ChangeVoters(known["version"] + 1, wanted))

    # ---- questions

    def ask(self, question: str, changed: Callable[[], None]) -> Question:
        """Ask for something to be shown, until `forget`. Raises TypeError, ValueError."""
        if not isinstance(question, str):
            raise TypeError(f"question={question!r}: a str")
        if len(question) > LARGEST_QUESTION:
            raise ValueError(f"question={question!r}: {len(question)} characters, and {LARGEST_QUESTION} are the most")
        self._asked += 1
        asked = self._questions[self._asked] = Question(Ask(self._asked, question), changed)
        self._ask_on()
        return asked

    def _ask_on(self) -> None:
        """Ask as much as a client may at a time; the rest when there is an answer."""
        for number, question in self._questions.items():
            if len(self._unanswered) >= MOST_QUESTIONS:
                break
            if number not in self._unanswered:
                self._unanswered.add(number)
                self._book.say(question.ask)

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
        if answer.is_last:
            self._unanswered.discard(answer.number)
            self._ask_on()


def _closed(request: Request) -> LockError:
    text = "the program has closed its connection to the lock server"
    if isinstance(request, Ticket) and request.is_held:
        return LockLost(f"lock {quoted(request.name)}: {text}")
    return ConnectionLost(text)
