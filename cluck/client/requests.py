"""The requests of a client, up to their last answers. `cluck.client.session` keeps them."""

from __future__ import annotations

import json
import math
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from cluck.commands import (
    LARGEST_NAME,
    Acquire,
    Leadership,
    Notify,
    Publish,
    Refused,
    RequestId,
    Resign,
    Stand,
    Wait,
    Why,
)
from cluck.errors import (
    DeadlockError,
    KindMismatch,
    LockError,
    LockLost,
    LockTimeout,
    OutcomeUnknown,
    Overflow,
    WrongLock,
)
from cluck.protocol import Ask
from cpg.arguments import callback, octets
from totem.text import quoted

MOST_LEADERSHIPS: Final = 64
"""Leaderships of one election that wait for the program. If it is slower, the oldest are dropped."""

OnQueued = Callable[[int], object]


def name_of(name: str | bytes) -> bytes:
    """Return a name as it travels. Raises TypeError, ValueError."""
    encoded = octets("name", name)
    if not 1 <= len(encoded) <= LARGEST_NAME:
        raise ValueError(f"a name of {len(encoded)} bytes: it has 1 to {LARGEST_NAME}, a str in UTF-8")
    return encoded


class Tasks:
    """The program's tasks or threads, numbered as they come: the owners of locks, for deadlocks to be detected."""

    def __init__(self) -> None:
        self._numbers: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()
        self.last = 0

    def number(self, task: object) -> int:
        """Return the number of a task or thread."""
        number = self._numbers.get(task)
        if number is None:
            self.last += 1
            number = self._numbers[task] = self.last
        return number


class Leader(NamedTuple):
    """The role of a candidate that leads."""

    token: int
    """The leadership's fencing token, like a lock's."""


class Follower(NamedTuple):
    """The role of a candidate that does not lead."""


Role = Leader | Follower


class Request:
    """A request, up to its last answer."""

    def __init__(self, request: RequestId, changed: Callable[[], None]) -> None:
        self.id = request
        self.changed = changed
        """Called when there is something new."""
        self.is_over = False
        """Nothing more will come."""
        self.failure: LockError | None = None
        """Why it is over, where it was not granted."""

    @property
    def subject(self) -> str:
        """What the request is about, for people."""
        return f"request {self.id.number}"

    def close(self) -> None:
        """Note that the request is over."""


class ClientTicket(Request):
    """A lock that is requested, held, or was; or a wait on a condition, which ends with its lock held again."""

    def __init__(
        self, command: Acquire | Wait, changed: Callable[[], None], lease: float, renews: bool, was: ClientTicket | None
    ) -> None:
        super().__init__(command.request, changed)
        self.command = command
        self.name = command.name if isinstance(command, Acquire) else command.lock
        self.lease = lease
        self.renews = renews
        """It is renewed as long as it is held."""
        self.was = was
        """The ticket that the wait releases, until that is known to be done."""
        self.token = 0
        self.deadline = 0.0
        """On the own clock."""
        self.leases = 0
        """The number of times that the server has reported it as held."""
        self.ahead: int | None = None
        """The number of tickets before it, as far as the server has reported that."""
        self.is_held = False
        self.is_unlocking = False
        """The lock should be released now."""
        self.is_ending = False
        """It is not wanted any more, and the server knows that, or will."""
        self.answer_due = math.inf
        """Until when its last answer is worth waiting for, on the own clock."""
        self.is_overdue = False
        """That time is over."""
        self.is_waiting = False
        """It waits on its condition."""
        self.ends_wait = False
        """It is to wait no longer, and the server knows that, or will."""
        self.notified: bool | None = None
        """Whether it was notified; None until it is woken."""
        self.next_renewal = math.inf
        self.wants_renewal = False
        """The program has requested another lease."""
        self.is_passing = False
        """A wait is about to release it."""

    def __str__(self) -> str:
        """Name the ticket, for people."""
        return f"{self.subject}, " + (f"held with token {self.token}" if self.is_held else "not held")

    @property
    def subject(self) -> str:
        """The lock."""
        return f"lock {quoted(self.name)}"

    def close(self) -> None:
        """Note that nothing is held by this ticket any more."""
        self.is_held = False

    @property
    def is_settled(self) -> bool:
        """Whether its last answer has come, or is not worth waiting for: a lost lock is not released."""
        return self.is_over or self.is_overdue or self.failure is not None

    @property
    def is_heard(self) -> bool:
        """Whether a wait that is to end has ended, as far as the server has reported."""
        return self.notified is not None or self.is_over

    @property
    def due(self) -> float:
        """When there is something to do for it. While a wait is about to release it, the wait decides what."""
        if self.is_ending:
            return self.answer_due
        return min(self.deadline, self.next_renewal) if self.is_held and not self.is_passing else math.inf


class Notice(Request):
    """A notification."""

    def __init__(self, command: Notify, changed: Callable[[], None]) -> None:
        super().__init__(command.request, changed)
        self.command = command
        self.count = 0
        """The number of waiters that it woke."""

    @property
    def subject(self) -> str:
        """The condition."""
        return f"condition {quoted(self.command.condition)}"


class ClientCandidacy(Request):
    """A candidate in an election."""

    def __init__(self, command: Stand, changed: Callable[[], None], clock: Callable[[], float]) -> None:
        super().__init__(command.request, changed)
        self.command = command
        self.is_standing = False
        self.is_ending = False
        self.leading = 0
        """The token of its leadership, as the server has reported last; 0: there is none."""
        self.deadline = 0.0
        """Until when it leads, on the own clock."""
        self.next_renewal = math.inf
        self.former = 0
        """The largest token of a leadership that has ended: it never leads under that one again."""
        self.ends = 0
        """The number of leaderships that have ended."""
        self.why_ended = ""
        """Why the last one has ended."""
        self.works = 0
        """The number of tasks that run only while it leads, and have not ended."""
        self.resigns: Resign | None = None
        """The resignation to submit when those have ended, or that was submitted and is not answered."""
        self.publications: list[Publication] = []
        """Those that are not answered."""
        self._clock = clock

    def __str__(self) -> str:
        """Name the candidate, for people."""
        role = f"leads with token {self.token}" if self.token else "does not lead"
        return f"{self.subject}, {role}"

    @property
    def subject(self) -> str:
        """The election."""
        return f"election {quoted(self.command.election)}"

    @property
    def token(self) -> int:
        """The leadership's token, by the clock of this moment; 0: it does not lead."""
        return self.leading if self._clock() < self.deadline else 0

    @property
    def due(self) -> float:
        """When there is something to do for it."""
        return min(self.deadline, self.next_renewal) if self.leading else math.inf

    @property
    def role(self) -> Role:
        """The role, by the clock of this moment."""
        return Leader(self.token) if self.token else Follower()


class RoleCursor:
    """A reader's position in the roles of a candidate: each `Leader` is followed by a `Follower`."""

    def __init__(self, candidacy: ClientCandidacy) -> None:
        self._candidacy = candidacy
        self._role: Role | None = None
        self._ends = 0

    @property
    def has_news(self) -> bool:
        """Whether there is another role to take."""
        return self._candidacy.role != self._role or self._is_behind

    @property
    def _is_behind(self) -> bool:
        return isinstance(self._role, Leader) and self._candidacy.ends != self._ends

    def take(self) -> Role:
        """Return the next role. Leaderships that began and ended since the last are skipped."""
        self._role = Follower() if self._is_behind else self._candidacy.role
        self._ends = self._candidacy.ends
        return self._role


class Publication(Request):
    """A blob that a leader attaches to its leadership."""

    def __init__(self, command: Publish, changed: Callable[[], None], candidacy: ClientCandidacy) -> None:
        super().__init__(command.request, changed)
        self.command = command
        self.candidacy = candidacy
        self.version = 0

    @property
    def subject(self) -> str:
        """The election."""
        return self.candidacy.subject

    def close(self) -> None:
        """Note that it is answered."""
        self.candidacy.publications.remove(self)


class Observation:
    """An election that is observed."""

    def __init__(self, election: bytes, changed: Callable[[], None]) -> None:
        self.election = election
        self.changed = changed
        self.news: deque[Leadership] = deque(maxlen=MOST_LEADERSHIPS)
        """The leaderships that the program has not taken."""
        self.last: Leadership | None = None
        """The latest one."""

    def update(self, leadership: Leadership) -> None:
        """Take a leadership, if it is new."""
        if leadership != self.last:
            self.last = leadership
            self.news.append(leadership)
            self.changed()

    def lose_sight(self) -> None:
        """Note that nobody knows who leads, until the next update."""
        if self.last is None or self.last.leader is not None:
            self.update(Leadership(self.election, None))


class Question:
    """A question to the lock server."""

    def __init__(self, record: Ask, changed: Callable[[], None]) -> None:
        self.record = record
        self.changed = changed
        self.body = bytearray()
        self.is_answered = False

    @property
    def answer(self) -> Any:
        """The answer, from its JSON."""
        return json.loads(self.body)


def refusal(what: str, refused: Refused) -> LockError:
    """Build the error that says why a request was refused."""
    match refused.why:
        case Why.BUSY:
            return LockTimeout(f"{what}: others hold it, or wait for it")
        case Why.DEADLOCK:
            circle = ", ".join(quoted(name) for name in refused.circle)
            return DeadlockError(f"{what}: who waits for it would wait for itself, around {circle}", refused.circle)
        case Why.KIND:
            return KindMismatch(f"{what}: it is in use with another number of permits")
        case Why.OVERFLOW:
            return Overflow(f"{what}: as many wait for it as may, or in the whole cluster")
        case Why.WRONG_LOCK:
            return WrongLock(f"{what}: others wait on the condition with another lock")
        case Why.NOT_HELD:
            return LockLost(f"{what}: it was not held any more")
        case _:
            return OutcomeUnknown(f"{what}: refused ({refused.why}), an earlier request may have been granted")


class Place:
    """Reports the number of tickets ahead to a waiter's callback, whenever it has changed."""

    def __init__(self, on_queued: OnQueued | None) -> None:
        self._on_queued = on_queued if on_queued is None else callback("on_queued", on_queued)
        self._reported: int | None = None

    def report(self, ahead: int | None) -> None:
        """Report the number, in the task or thread that waits."""
        if self._on_queued is not None and ahead is not None and ahead != self._reported:
            self._reported = ahead
            self._on_queued(ahead)
