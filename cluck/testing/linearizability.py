"""What clients of locks requested and were told, and whether one lock could have said so: linearizability.

The search is that of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993) with Lowe's memory of
configurations that led nowhere ("Testing for Linearizability", 2017), for each lock apart. Time and memory are about
linear in the length of a history.

The lock does one thing after the other. A request gets it if it can be held beside the present holders, with a token
larger than all before. One that was not to wait is told that the lock is busy. The service takes the lock away by
itself only in two cases: the time is over for which the holder was told that it has it, or the holder has ended. An
operation with an unknown outcome may have effect at any time from its call on, or never.

It says less than could be said in two points. For readers a lock that readers hold may be busy, since a writer may
wait. Tokens of acquires whose outcome is unknown are not considered.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple

from cluck.commands import Mode
from totem.testing.checkers import Violation

# ---- records


@dataclass(frozen=True, slots=True)
class Kind:
    """How a lock is held: exclusively, shared with others, or as one of a number of permits."""

    shared: bool = False
    permits: int = 0

    @classmethod
    def of(cls, mode: Mode, permits: int = 0) -> Kind:
        """As a request asks for it."""
        return cls(shared=mode is Mode.SHARED and not permits, permits=permits)

    def __str__(self) -> str:
        return f"one of {self.permits} permits" if self.permits else "shared" if self.shared else "exclusive"


EXCLUSIVE: Final = Kind()
SHARED: Final = Kind(shared=True)


def fit(kinds: Sequence[Kind]) -> bool:
    """Return whether a lock may be held in these ways at one time."""
    if len(kinds) < 2:
        return True
    first = kinds[0]
    if any(kind != first for kind in kinds):
        return False
    return len(kinds) <= first.permits if first.permits else first.shared


class What(enum.Enum):
    """An operation on a lock."""

    ACQUIRE = "acquire"
    RELEASE = "release"
    """Also an administrator's, on somebody else's lock."""
    RENEW = "renew"


class Outcome(enum.Enum):
    """The outcome of an operation."""

    OK = "ok"
    """Granted; or what was held until then was released or renewed."""
    BUSY = "busy"
    """An acquire that was not to wait would have had to."""
    WITHDRAWN = "withdrawn"
    """An acquire was given up, and this confirmed: if it ever held the lock, then not any more."""
    FAILED = "failed"
    """Refused without effect: not ready, a deadlock, another kind, too many."""
    LOST = "lost"
    """What was to be released or renewed was not held any more."""
    UNKNOWN = "unknown"
    """It may have effect, at any time from its call on, or never."""


_OUTCOMES: Final = {
    What.ACQUIRE: {Outcome.OK, Outcome.BUSY, Outcome.WITHDRAWN, Outcome.FAILED, Outcome.UNKNOWN},
    What.RELEASE: {Outcome.OK, Outcome.LOST, Outcome.UNKNOWN},
    What.RENEW: {Outcome.OK, Outcome.LOST, Outcome.UNKNOWN},
}


@dataclass(frozen=True, slots=True)
class Operation:
    """A call of a client, and how it returned."""

    who: Hashable
    name: bytes
    what: What
    invoked: float
    returned: float
    """Not considered where the outcome is unknown."""
    outcome: Outcome
    token: int = 0
    """The token that an acquire got, or of what is to be released or renewed."""
    kind: Kind = EXCLUSIVE
    """Of an acquire."""
    until: float = 0.0
    """Of an acquire or a renewal: earlier the service may not take the lock by itself. It is the deadline that the
    holder was told. Where the outcome is unknown, it is a lease after the call, or when the request was given up.
    """

    def __post_init__(self) -> None:
        if self.outcome not in _OUTCOMES[self.what]:
            raise ValueError(f"{self}: no outcome of this")
        if self.outcome is Outcome.OK and not self.token:
            raise ValueError(f"{self}: without a token")
        if self.outcome is not Outcome.UNKNOWN and self.returned < self.invoked:
            raise ValueError(f"{self}: it returned before it was called")

    def __str__(self) -> str:
        token = f" {self.token}" if self.token else ""
        kind = f" {self.kind}" if self.what is What.ACQUIRE else ""
        return f"{self.who}: {self.what.value}{kind}{token} {self.outcome.value} [{self.invoked}, {self.returned}]"


# ---- the check


def check_operations(
    operations: Iterable[Operation], died: Mapping[Hashable, float] | None = None
) -> Iterator[Violation]:
    """Find locks whose clients' histories are not those of one lock.

    `died`: when clients ended; from then on the service may take what they hold, as it may from a deadline on.
    Operations on tokens that nobody was told are not considered.
    """
    by_name: defaultdict[bytes, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_name[operation.name].append(operation)
    for name, ours in by_name.items():
        doubles = _doubles(ours)
        yield from (Violation("lock tokens", f"{name!r}: {one} and {two}") for one, two in doubles)
        if not doubles and (stuck := _Search(_Model(ours, died or {})).run()) is not None:
            yield Violation("lock history", f"{name!r}: {stuck}")


def _doubles(operations: Iterable[Operation]) -> list[tuple[Operation, Operation]]:
    told: dict[int, Operation] = {}
    granted = [one for one in operations if one.what is What.ACQUIRE and one.outcome is Outcome.OK]
    return [(told[one.token], one) for one in granted if told.setdefault(one.token, one) is not one]


class _Hold(NamedTuple):
    acquire: int
    """Its number among the operations."""
    until: float


class _State(NamedTuple):
    """The lock, between two operations."""

    granted: int = 0
    """The number of acquires with known tokens; the next one is that with the next larger token."""
    holds: tuple[_Hold, ...] = ()
    helped: frozenset[int] = frozenset()
    """Acquires without a known token that had effect."""


class _Step(NamedTuple):
    """An operation of the history that must have its place in the order."""

    number: int
    operation: Operation
    on: int
    """The number of the acquire that it is about; its own number if it is one."""
    rank: int
    """Of an acquire with a token."""


class _Move(NamedTuple):
    """What may come next."""

    step: _Step | None
    """None: an acquire had effect of which its client does not know."""
    after: _State


class _Model:
    """One lock, and which of the operations on it may come next.

    Only what must be tried is tried. An end that the service makes by itself is put right before what needs it. So is a
    release, or where it must be. An operation that has no effect and is true now has its place now.
    """

    def __init__(self, operations: Iterable[Operation], died: Mapping[Hashable, float]) -> None:
        self.operations = sorted(operations, key=lambda one: (one.invoked, one.returned))
        granted = [
            number
            for number, one in enumerate(self.operations)
            if one.what is What.ACQUIRE and one.outcome is Outcome.OK
        ]
        granted.sort(key=lambda number: self.operations[number].token)
        self._by_token = {self.operations[number].token: number for number in granted}
        self._ranks = {number: rank for rank, number in enumerate(granted)}
        self._free_from: defaultdict[int, float] = defaultdict(lambda: inf)
        """When the service may take a lock before the deadline: its client has ended, or perhaps released it."""
        self._needs: defaultdict[int, int] = defaultdict(int)
        """The operations that say that a lock is still held, as bits."""
        self._denials: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
        """Of those that say that it is not held any more: when they returned, and their bits."""
        self._helpers: list[int] = []
        """Acquires that may have had effect although their clients do not know."""
        self._withdrawals: dict[int, int] = {}
        """Helpers whose end has a place of its own, as bits."""
        self.steps: list[_Step] = []
        is_busy = any(one.outcome is Outcome.BUSY for one in self.operations)
        for number, one in enumerate(self.operations):
            self._read(number, one, died, is_busy)

    def _read(self, number: int, one: Operation, died: Mapping[Hashable, float], is_busy: bool) -> None:
        on = number if one.what is What.ACQUIRE else self._by_token.get(one.token, -1)
        if on < 0 or one.outcome is Outcome.FAILED:
            return
        if one.what is What.ACQUIRE:
            self._free_from[on] = min(self._free_from[on], died.get(one.who, inf))
        match one.what, one.outcome:
            case What.ACQUIRE, Outcome.UNKNOWN:
                self._helpers.append(number)
                return
            case What.ACQUIRE, Outcome.WITHDRAWN:
                if not is_busy:
                    return  # nobody can have noticed
                self._helpers.append(number)
                self._withdrawals[number] = 1 << number
            case What.RELEASE, Outcome.UNKNOWN:
                self._free_from[on] = min(self._free_from[on], one.invoked)
                return
            case What.RENEW, Outcome.UNKNOWN:
                return
            case ((What.RELEASE | What.RENEW), Outcome.OK):
                self._needs[on] |= 1 << number
            case _, Outcome.LOST:
                self._denials[on].append((one.returned, 1 << number))
        self.steps.append(_Step(number, one, on, self._ranks.get(number, -1)))

    def moves(self, state: _State, done: int, front: Sequence[_Step], horizon: float) -> Iterable[_Move]:
        """Return what may come next of the operations that have been called.

        `done`: those that have their places, as bits; `horizon`: the first return that is not behind us.
        """
        for step in front:
            after = self._without_effect(step, state)
            if after is not None:
                return (_Move(step, after),)
        return self._tries(state, done, front, horizon)

    def _without_effect(self, step: _Step, state: _State) -> _State | None:
        """Return the state after an operation that should have its place now; None if it should not."""
        one = step.operation
        match one.outcome:
            case Outcome.BUSY if self._is_busy(one.kind, state):
                return state
            case Outcome.LOST if _hold(state, step.on) is None:
                return state
            case Outcome.OK if one.what is What.RENEW and (hold := _hold(state, step.on)) is not None:
                return _with(_less(state, hold), _Hold(step.on, max(hold.until, one.until)))
        return None

    def _tries(self, state: _State, done: int, front: Sequence[_Step], horizon: float) -> Iterator[_Move]:
        needs_room = needs_help = False
        lost: set[int] = set()
        for step in front:
            one = step.operation
            match one.what, one.outcome:
                case What.ACQUIRE, Outcome.OK if step.rank == state.granted:
                    room = self._make_room(one.kind, state, done, horizon)
                    needs_room = room is not state
                    if room is not None:
                        after = _with(room, _Hold(step.number, one.until))
                        yield _Move(step, after._replace(granted=state.granted + 1))
                case _, Outcome.LOST:
                    lost.add(step.on)
                    hold = _hold(state, step.on)
                    if hold is not None and self._may_end(hold, done, horizon):
                        yield _Move(step, _less(state, hold))
                case _, Outcome.BUSY:
                    needs_help = True
        for step, hold in self._ends(state, done, front):
            is_next = step.operation.returned <= horizon
            if is_next or (hold is not None and (needs_room or hold.acquire in lost)):
                yield _Move(step, state if hold is None else _less(state, hold))
                needs_room = False  # whichever makes room, it may as well be the one that returns first
        if needs_help:
            yield from self._help(state, done, horizon)

    def _ends(self, state: _State, done: int, front: Iterable[_Step]) -> Iterator[tuple[_Step, _Hold | None]]:
        """Return the releases and withdrawals that can be next, by their returns, and what they end."""
        for step in sorted(front, key=lambda step: step.operation.returned):
            hold = _hold(state, step.on)
            match step.operation.what, step.operation.outcome:
                case What.RELEASE, Outcome.OK if hold and not self._needs[step.on] & ~done & ~(1 << step.number):
                    yield step, hold
                case _, Outcome.WITHDRAWN:
                    yield step, hold

    def _help(self, state: _State, done: int, horizon: float) -> Iterator[_Move]:
        """Return whether somebody holds the lock and does not know it."""
        kinds = [self._kind(hold) for hold in state.holds]
        for number in self._helpers:
            one = self.operations[number]
            if one.invoked > horizon:
                break
            is_open = number not in state.helped and not self._withdrawals.get(number, 0) & done
            if is_open and fit([*kinds, one.kind]):
                yield _Move(None, _with(state, _Hold(number, one.until))._replace(helped=state.helped | {number}))

    def _kind(self, hold: _Hold) -> Kind:
        return self.operations[hold.acquire].kind

    def _is_busy(self, kind: Kind, state: _State) -> bool:
        if not state.holds:
            return False
        return kind.shared or not fit([*map(self._kind, state.holds), kind])

    def _make_room(self, kind: Kind, state: _State, done: int, horizon: float) -> _State | None:
        """Have the service take the lock from those whose time is over, where that is needed and enough."""
        if fit([*map(self._kind, state.holds), kind]):
            return state
        over = [hold for hold in state.holds if self._may_end(hold, done, horizon)]
        if fit([self._kind(state.holds[0]), kind]):
            first = min(over, key=lambda hold: self._must_end(hold, done), default=None)
            return _less(state, first) if first is not None else None
        return state._replace(holds=()) if len(over) == len(state.holds) else None

    def _must_end(self, hold: _Hold, done: int) -> float:
        """Return by when the service must have taken the lock, which others know."""
        return min((returned for returned, bit in self._denials[hold.acquire] if not bit & done), default=inf)

    def _may_end(self, hold: _Hold, done: int, horizon: float) -> bool:
        """Return whether the service may have taken the lock by itself, before the horizon."""
        is_needed = self._needs[hold.acquire] & ~done
        return not is_needed and min(hold.until, self._free_from[hold.acquire]) <= horizon


def _hold(state: _State, acquire: int) -> _Hold | None:
    return next((hold for hold in state.holds if hold.acquire == acquire), None)


def _less(state: _State, hold: _Hold) -> _State:
    return state._replace(holds=tuple(other for other in state.holds if other is not hold))


def _with(state: _State, hold: _Hold) -> _State:
    return state._replace(holds=tuple(sorted((*state.holds, hold))))


class _Event:
    """A call or a return in the list of those that have no place yet."""

    __slots__ = ("at", "following", "previous", "step")

    def __init__(self, at: float, step: _Step | None) -> None:
        self.at = at
        self.step = step
        """None: a return."""
        self.previous: _Event = self
        self.following: _Event = self


class _Search:
    """Gives each operation a place, and goes back where that leads nowhere."""

    def __init__(self, model: _Model) -> None:
        self._model = model
        self._ends: dict[int, tuple[_Event, _Event]] = {}
        self._head = _Event(-inf, None)
        calls = [(step.operation.invoked, 0, step) for step in model.steps]
        returns = [(step.operation.returned, 1, step) for step in model.steps]
        ends: defaultdict[int, list[_Event]] = defaultdict(list)
        for at, is_return, step in sorted(calls + returns, key=lambda item: item[:2]):
            event = _Event(at, None if is_return else step)
            event.previous, event.following = self._head.previous, self._head
            _put_back(event)
            ends[step.number].append(event)
        for number, (call, back) in ends.items():
            self._ends[number] = call, back

    def run(self) -> str | None:
        """Return None if there is an order, else how far the search came."""
        state, done = _State(), 0
        seen: set[tuple[int, int, _State]] = set()
        way: list[tuple[_Step | None, _State, Iterator[_Move]]] = []
        furthest, pending = -1, ""
        moves = iter(self._moves(state, done))
        while self._head.following is not self._head:
            for step, after in moves:
                if step is not None:
                    self._take(step)
                then = done | 1 << step.number if step is not None else done
                key = self._key(then, after)
                if key not in seen:
                    seen.add(key)
                    way.append((step, state, moves))
                    state, done = after, then
                    moves = iter(self._moves(state, done))
                    break
                if step is not None:
                    self._give_back(step)
            else:
                if done.bit_count() > furthest:
                    furthest, pending = done.bit_count(), self._describe(state)
                if not way:
                    return f"{furthest} of {len(self._ends)} operations can be put in order, then {pending}"
                last, state, moves = way.pop()
                if last is not None:
                    done ^= 1 << last.number
                    self._give_back(last)
        return None

    def _key(self, done: int, state: _State) -> tuple[int, int, _State]:
        """Return the key that tells configurations apart; all before the first unplaced operation have their places."""
        first = self._head.following.step
        lowest = first.number if first is not None else -1
        return lowest, done >> lowest if lowest >= 0 else 0, state

    def _moves(self, state: _State, done: int) -> Iterable[_Move]:
        front, horizon = self._front()
        return self._model.moves(state, done, front, horizon)

    def _front(self) -> tuple[list[_Step], float]:
        """Return the operations that are called before the first return, and when that is."""
        front = []
        event = self._head.following
        while event.step is not None:
            front.append(event.step)
            event = event.following
        return front, event.at if event is not self._head else inf

    def _take(self, step: _Step) -> None:
        for event in self._ends[step.number]:
            event.previous.following, event.following.previous = event.following, event.previous

    def _give_back(self, step: _Step) -> None:
        for event in reversed(self._ends[step.number]):
            _put_back(event)

    def _describe(self, state: _State) -> str:
        front, _ = self._front()
        holders = ", ".join(str(self._model.operations[hold.acquire]) for hold in state.holds) or "nobody"
        return f"held by {holders}, none of these can be next: {'; '.join(str(step.operation) for step in front)}"


def _put_back(event: _Event) -> None:
    event.previous.following = event.following.previous = event
