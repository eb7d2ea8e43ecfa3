"""What a client has asked for, from the asking to the last answer: `cluck.client.session` keeps it."""

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
"""Of one election that wait for the program; who is slower misses the oldest."""


def name_of(name: str | bytes) -> bytes:
    """Return a name as it travels. Raises TypeError, ValueError."""
    encoded = octets("name", name)
    if not 1 <= len(encoded) <= LARGEST_NAME:
        raise ValueError(f"a name of {len(encoded)} bytes: it has 1 to {LARGEST_NAME}, a str in UTF-8")
    return encoded


class Tasks:
    """The program's threads of control, numbered as they come, for deadlocks to be seen."""

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
    """This candidate leads."""

    token: int
    """Of the leadership: a fencing token, like a lock's."""


class Follower(NamedTuple):
    """This candidate does not lead."""


Role = Leader | Follower


class Request:
    """Something that was asked for, up to its last answer."""

    def __init__(self, request: RequestId, changed: Callable[[], None]) -> None:
        self.id = request
        self.changed = changed
        """Called when there is something new."""
        self.is_over = False
        """There is nothing more to come."""
        self.failure: LockError | None = None
        """Why it is over, where that is not what was wanted."""

    @property
    def subject(self) -> str:
        """What it is about, for people."""
        return f"request {self.id.number}"

    def close(self) -> None:
        """It is over."""


class Ticket(Request):
    """A lock that is asked for, held, or was; perhaps by a wait on a condition, which ends with its lock held again."""

    def __init__(
        self, command: Acquire | Wait, changed: Callable[[], None], lease: float, renews: bool, was: Ticket | None
    ) -> None:
        super().__init__(command.request, changed)
        self.command = command
        self.name = command.name if isinstance(command, Acquire) else command.lock
        self.lease = lease
        self.renews = renews
        """It is renewed as long as it is held."""
        self.was = was
        """The ticket that the wait gives back, until that is known to be done."""
        self.token = 0
        self.deadline = 0.0
        """On the own clock."""
        self.leases = 0
        """How often it was told that it is held."""
        self.ahead: int | None = None
        """How many tickets are before it, as far as that was told."""
        self.is_held = False
        self.is_unlocking = False
        """The lock should be given back now."""
        self.is_ending = False
        """It is not wanted any more, and that is said, or will be."""
        self.answer_due = math.inf
        """Until when its last answer is worth waiting for, on the own clock."""
        self.is_overdue = False
        """That is over."""
        self.is_waiting = False
        """On its condition."""
        self.ends_wait = False
        """It waits no longer, and that is said, or will be."""
        self.notified: bool | None = None
        """Whether it was notified; None until it is woken."""
        self.next_renewal = math.inf
        self.wants_renewal = False
        """The program has asked for another lease."""
        self.is_passing = False
        """A wait is about to give it back."""

    def __str__(self) -> str:
        """Name it for people."""
        return f"{self.subject}, " + (f"held with token {self.token}" if self.is_held else "not held")

    @property
    def subject(self) -> str:
        """The lock."""
        return f"lock {quoted(self.name)}"

    def close(self) -> None:
        """Nothing is held under it any more."""
        self.is_held = False

    @property
    def is_settled(self) -> bool:
        """Whether its last answer is there, or not worth waiting for: a lock that was lost is not given back."""
        return self.is_over or self.is_overdue or self.failure is not None

    @property
    def is_heard(self) -> bool:
        """Whether a wait that is to end has ended, as far as this client was told."""
        return self.notified is not None or self.is_over

    @property
    def due(self) -> float:
        """When there is something to do for it; while a wait is about to give it back, that decides what."""
        if self.is_ending:
            return self.answer_due
        return min(self.deadline, self.next_renewal) if self.is_held and not self.is_passing else math.inf


class Notice(Request):
    """A notification."""

    def __init__(self, command: Notify, changed: Callable[[], None]) -> None:
        super().__init__(command.request, changed)
        self.command = command
        self.count = 0
        """How many it woke."""

    @property
    def subject(self) -> str:
        """The condition."""
        return f"condition {quoted(self.command.condition)}"


class Candidacy(Request):
    """A candidate in an election."""

    def __init__(self, command: Stand, changed: Callable[[], None], clock: Callable[[], float]) -> None:
        super().__init__(command.request, changed)
        self.command = command
        self.is_standing = False
        self.is_ending = False
        self.leading = 0
        """The token under which it was told last that it leads, and has not been told otherwise; 0: there is none."""
        self.deadline = 0.0
        """Until when it leads, on the own clock."""
        self.next_renewal = math.inf
        self.former = 0
        """The largest token under which it leads no more: it never does again."""
        self.ends = 0
        """How often it has stopped to lead."""
        self.why_ended = ""
        """Why it leads no more, where it has led."""
        self.works = 0
        """What runs only while it leads, and has not come to its end."""
        self.resigns: Resign | None = None
        """What is to be said when that has, or was said last, while it is not answered."""
        self.publications: list[Publication] = []
        """On their way."""
        self._clock = clock

    def __str__(self) -> str:
        """Name it for people."""
        role = f"leads with token {self.token}" if self.token else "does not lead"
        return f"{self.subject}, {role}"

    @property
    def subject(self) -> str:
        """The election."""
        return f"election {quoted(self.command.election)}"

    @property
    def token(self) -> int:
        """Of the leadership, by the clock of this moment; 0: it does not lead."""
        return self.leading if self._clock() < self.deadline else 0

    @property
    def due(self) -> float:
        """When there is something to do for it."""
        return min(self.deadline, self.next_renewal) if self.leading else math.inf

    @property
    def role(self) -> Role:
        """Whether it leads now."""
        return Leader(self.token) if self.token else Follower()


class RolesTold:
    """What somebody was told of a candidate's roles: a `Follower` first, or behind each `Leader`."""

    def __init__(self, candidacy: Candidacy) -> None:
        self._candidacy = candidacy
        self._role: Role | None = None
        self._ends = 0

    @property
    def has_news(self) -> bool:
        """Whether there is another role to be told."""
        return self._candidacy.role != self._role or self._is_behind

    @property
    def _is_behind(self) -> bool:
        return isinstance(self._role, Leader) and self._candidacy.ends != self._ends

    def take(self) -> Role:
        """Return the next one; leaderships that began and ended since the last are passed over."""
        self._role = Follower() if self._is_behind else self._candidacy.role
        self._ends = self._candidacy.ends
        return self._role


class Publication(Request):
    """Something that a leader attaches to its leadership."""

    def __init__(self, command: Publish, changed: Callable[[], None], candidacy: Candidacy) -> None:
        super().__init__(command.request, changed)
        self.command = command
        self.candidacy = candidacy
        self.version = 0

    @property
    def subject(self) -> str:
        """The election."""
        return self.candidacy.subject

    def close(self) -> None:
        """It is not on its way any more."""
        self.candidacy.publications.remove(self)


class Observation:
    """An election that is looked at."""

    def __init__(self, election: bytes, changed: Callable[[], None]) -> None:
        self.election = election
        self.changed = changed
        self.news: deque[Leadership] = deque(maxlen=MOST_LEADERSHIPS)
        """What the program has not taken."""
        self.last: Leadership | None = None
        """What was told last."""

    def tell(self, leadership: Leadership) -> None:
        """Take what may be new."""
        if leadership != self.last:
            self.last = leadership
            self.news.append(leadership)
            self.changed()

    def lose_sight(self) -> None:
        """Nobody knows who leads, until that is told again."""
        if self.last is None or self.last.leader is not None:
            self.tell(Leadership(self.election, None))


class Question:
    """Something asked to be shown."""

    def __init__(self, ask: Ask, changed: Callable[[], None]) -> None:
        self.ask = ask
        self.changed = changed
        self.body = bytearray()
        self.is_answered = False

    @property
    def answer(self) -> Any:
        """What JSON has."""
        return json.loads(self.body)


def refusal(what: str, refused: Refused) -> LockError:
    """Make what says why a request was refused."""
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
            return OutcomeUnknown(f"{what}: refused ({refused.why}), what was asked for before may have been done")


OnQueued = Callable[[int], object]


class Place:
    """Tells who waits for a lock how many tickets are ahead, whenever that has changed."""

    def __init__(self, on_queued: OnQueued | None) -> None:
        self._on_queued = on_queued if on_queued is None else callback("on_queued", on_queued)
        self._told: int | None = None

    def tell(self, ahead: int | None) -> None:
        """Tell it, in the task or thread that waits."""
        if self._on_queued is not None and ahead is not None and ahead != self._told:
            self._told = ahead
            self._on_queued(ahead)
