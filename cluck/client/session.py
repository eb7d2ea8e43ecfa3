"""A client's side without I/O: its requests, what it holds, waits for and leads, and what the server has reported.

A `Session` receives from its lock server (`cluck.protocol.Downward`) and has records for it; tasks and threads have
thin shells around one. What the program requests is a `Request` of some kind (`cluck.client.requests`). It is kept up
to its last answer, whoever still waits for that; its `changed` is called whenever there is something new. Locks and
conditions are in `locks`, elections in `elections`; both share one `OpenRequests`.

The loss of a connection ends nothing:

* Locks that are held stay good until their deadline. It is on the own clock, and earlier than the lock may be granted
  to any other client (ruling E7). The same holds for leaderships (ruling E10).
* Open requests are submitted again under their old names and numbers as soon as there is a connection. The replicated
  state knows what it has done already, whichever server a request comes through. To ask whether a lock is still held,
  its request is submitted again: another token in the answer means that the lock was lost meanwhile. What is to be
  released is withdrawn by request, which is always answered.
* Where the state has forgotten this client, since its server was restarted, tickets that waited are at the ends of
  their queues again; held ones stay held. A notification in transit may be given twice, which waiters have to expect.
* Where the server has forgotten the client, too, it is another client from then on. What waits is requested anew. What
  is held cannot be renewed and is lost at its deadline. Whether a notification was given nobody knows:
  `OutcomeUnknown`.
* A leader steps down at its deadline, when its server says so, or where its server does not know it. First the flag is
  cleared, then whoever follows its roles is woken, then its publications end as `LeadershipLost`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from cluck.client.clock_comparison import Comparison
from cluck.client.open_requests import OpenRequests
from cluck.client.requests import ClientCandidacy, ClientTicket, Publication, Question, Request, refusal
from cluck.client.session_elections import ClientElections
from cluck.client.session_locks import ClientLocks
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
"""Farewells after which another connection would fare no better."""


class Session:
    """One client, through all its connections."""

    def __init__(
        self, clock: Callable[[], float], changed: Callable[[], None], warn: Callable[[str], None] | None = None
    ) -> None:
        """Begin without a connection.

        Args:
            clock: The boot-time clock in seconds.
            changed: Called when something new is there for the shell.
            warn: Called with what the program's log is to report.
        """
        self.ready = False
        """Whether requests are answered now."""
        self.why_not_ready = "there is no connection to a lock server"
        self.failure: LockError | None = None
        """Why the connection has ended, or will."""
        self._requests = requests = OpenRequests(changed)
        self._comparison = comparison = Comparison(requests, clock)
        self.locks = ClientLocks(requests, clock, comparison)
        """Locks and conditions."""
        self.elections = ClientElections(requests, clock, comparison)
        """Elections."""
        self.standstill = Standstill(requests, clock, warn)
        """Reports waits that last because nobody decides."""
        self._clock = clock
        self._secret = b""
        self._greeted_at = 0.0
        self._questions: dict[int, Question] = {}
        """By number: those whose answers are wanted."""
        self._last_question = 0
        self._unanswered: set[int] = set()
        """The numbers of questions that were submitted and not answered, wanted or not."""
        self._actions: Final[dict[type, Callable[[Any], None]]] = {
            Welcome: self._on_welcome,
            Readiness: self._on_readiness,
            Goodbye: self._on_goodbye,
            Answer: self._on_answer,
            Refused: self._on_refused,
            Failed: self._on_failed,
            Clock: self._comparison.on_clock,
            **self.locks.actions,
            **self.elections.actions,
        }

    # ---- the connection

    @property
    def is_connected(self) -> bool:
        """Whether a server has welcomed this client, and the connection has not been lost since."""
        return self._requests.is_connected

    @property
    def was_welcomed(self) -> bool:
        """Whether any server has welcomed this client."""
        return self._requests.client is not None

    def greet(self, program: str) -> None:
        """Begin a new connection with the greeting. `program` is shown to the administrator."""
        self.failure = None
        self._greeted_at = self._clock()
        self._requests.outgoing = [Hello(VERSION, program[:128], self._requests.client, self._secret)]

    def take(self) -> list[Upward]:
        """Return the records to send to the server, in order."""
        outgoing, self._requests.outgoing = self._requests.outgoing, []
        return outgoing

    def receive(self, records: Iterable[Downward]) -> None:
        """Take in what the server has sent."""
        for record in records:
            self._actions[type(record)](record)

    def lose(self, why: LockError) -> LockError:
        """Note the loss of the connection.

        Returns:
            Why it was lost: `ConnectionLost` where another one may fare better.
        """
        self.failure = self.failure or why
        self.ready = self._requests.is_connected = False
        self.why_not_ready = f"there is no connection to a lock server: {self.failure}"
        self._requests.outgoing = []
        self.standstill.end(ready=False)
        self.elections.lose()
        self._wake_all()
        return self.failure

    @property
    def may_part(self) -> bool:
        """Whether the client may end: the server hears of it, or need not."""
        return self.is_connected or self._requests.is_closed or not self.locks.are_owed

    def close(self, failure: LockError | None = None) -> None:
        """End in order: the server frees what this client holds.

        Args:
            failure: Why there is no connection any more, and will be none; None: the program wants none.
        """
        if self._requests.is_closed:
            return
        self._requests.is_closed = True
        self._requests.submit(Bye())
        if failure is None:
            self.elections.close("the client has ended")
        else:
            self._requests.why_closed = str(failure)
            self.elections.close(str(failure))
        for request in self._requests.all(Request):
            if not request.is_over:
                self._requests.fail(request, self._closed(request))
        self._wake_all()

    def _closed(self, request: Request) -> LockError:
        """Build the error for a request that is open when the client ends."""
        text = self._requests.why_closed
        if isinstance(request, ClientTicket) and request.is_held:
            return LockLost(f"lock {quoted(request.name)}: {text}")
        return ConnectionLost(text)

    def _wake_all(self) -> None:
        changes = [request.changed for request in self._requests.all(Request)]
        changes += [question.changed for question in self._questions.values()]
        changes += [observation.changed for observation in self.elections.observing()]
        for changed in changes:
            changed()
        self._requests.changed()

    def _on_welcome(self, welcome: Welcome) -> None:
        if welcome.version != VERSION:
            text = f"the lock server speaks version {welcome.version} of the protocol, not {VERSION}"
            self.failure = DaemonUnavailable(text)
            return
        requests = self._requests
        former, requests.client, self._secret = requests.client, welcome.client, welcome.secret
        requests.is_connected = True
        self._comparison.on_welcome(self._greeted_at, welcome.clock)
        if former == welcome.client:
            self.locks.resume()
            self.elections.resume()
        elif former is not None:
            self.locks.begin_anew()
            self.elections.begin_anew()
        for question in self._questions.values():
            question.body.clear()
        self._unanswered.clear()
        self._send_questions()
        requests.changed()

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
        """The earliest time at which `advance` has something to do."""
        return min(self.locks.deadline, self.elections.deadline, self.standstill.deadline)

    def advance(self) -> None:
        """Do what is due."""
        self.locks.advance()
        self.elections.advance()
        self.standstill.look(self.why_not_ready)

    # ---- requests of any kind

    def timed_out(self, ticket: ClientTicket, timeout: float | None) -> LockTimeout:
        """Build the error that says that a lock was not acquired in time, and why."""
        text = f"{ticket.subject}: not acquired within {timeout} s"
        if not self.ready:
            return NotReady(f"{text}: {self.why_not_ready}")
        if ticket.ahead is None:
            return NotReady(f"{text}: the lock server has not answered; if that lasts, look whether it is stopped")
        return LockTimeout(f"{text}, {ticket.ahead} {'ticket was' if ticket.ahead == 1 else 'tickets were'} ahead")

    def _on_refused(self, refused: Refused) -> None:
        request = self._requests.find(refused.request, Request)
        if isinstance(request, ClientTicket):
            self.locks.refused(request, refused)
        elif isinstance(request, ClientCandidacy | Publication):
            self.elections.refused(request, refused)
        elif request is not None:
            self._requests.fail(request, refusal(f"request {request.id.number}", refused))

    def _on_failed(self, failed: Failed) -> None:
        request = self._requests.find(failed.request, Request)
        if request is None:
            return
        failure = (NotReady if failed.not_ready else Overflow)(f"{request.subject}: {failed.text}")
        if isinstance(request, ClientTicket):
            self.locks.failed(request, failure)
        elif isinstance(request, ClientCandidacy | Publication):
            self.elections.failed(request, failure)
        else:
            self._requests.fail(request, failure)

    # ---- who decides

    def change_voters(self, wanted: Electorate, status: Mapping[str, Any]) -> None:
        """Have these lock servers decide from now on.

        Args:
            wanted: Those that are to decide.
            status: What the lock server has reported of itself.

        Raises:
            NotReady: Nobody decides now, another change is under way, or too few of those wanted are present.
        """
        known = status["voters"]
        present = {server["node"] for server in status["servers"]}
        if not status["ready"]:
            raise NotReady(f"the lock servers decide nothing now: {status['why']}")
        if known["former"] is not None:
            raise NotReady(f"another change is under way, to {Electorate.from_dict(known)}; look at the status again")
        if not wanted.is_quorum(present):
            missing = ", ".join(map(str, sorted(wanted.votes.keys() - present)))
            raise NotReady(f"too few of those are there that are to decide: nothing from node {missing}")
        self._requests.submit(ChangeVoters(known["version"] + 1, wanted))

    # ---- questions

    def query(self, question: str, changed: Callable[[], None]) -> Question:
        """Ask the lock server a question, until `forget`. Raises TypeError, ValueError."""
        if not isinstance(question, str):
            raise TypeError(f"question={question!r}: a str")
        if len(question) > LARGEST_QUESTION:
            raise ValueError(f"question={question!r}: {len(question)} characters, and {LARGEST_QUESTION} are the most")
        self._last_question += 1
        pending = self._questions[self._last_question] = Question(Ask(self._last_question, question), changed)
        self._send_questions()
        return pending

    def _send_questions(self) -> None:
        """Submit as many questions as may be open at a time; the rest follow when there is an answer."""
        for number, question in self._questions.items():
            if len(self._unanswered) >= MOST_QUESTIONS:
                break
            if number not in self._unanswered:
                self._unanswered.add(number)
                self._requests.submit(question.record)

    def forget(self, question: Question) -> None:
        """Drop a question: nobody wants its answer any more."""
        self._questions.pop(question.record.number, None)

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
            self._send_questions()
