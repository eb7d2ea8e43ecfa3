"""Exclusions: who is excluded for a while, and for how long if that happens again.

What they are excluded from is their owner's: the ring, a new one formed for them, or being believed. Each term is twice
as long as the one before, unless that ended long ago.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

_FIRST = 10.0
_LONGEST = 300.0
"""Seconds of a term, at first and at most."""
_MEMORY = 600.0
"""Seconds after the end of a term until it does not lengthen the next one."""

Whom = TypeVar("Whom", bound=Hashable)


class Exclusion(NamedTuple):
    """A term for which something is excluded."""

    until: float
    """When it ends, by the processor's clock."""
    seconds: float
    """Its whole duration."""
    reason: str


class Exclusions(Generic[Whom]):
    """Nodes, or pairs of them, that are excluded for a while. The default terms are those of the ring (A9)."""

    def __init__(self, first: float = _FIRST, longest: float = _LONGEST, memory: float = _MEMORY) -> None:
        self._first = first
        self._longest = longest
        self._memory = memory
        self._absences: dict[Whom, Exclusion] = {}

    def next_term(self, whom: Whom, now: float) -> float:
        """Return the seconds for which it would be excluded now."""
        last = self._absences.get(whom)
        if last is None or now - last.until > self._memory:
            return self._first
        return min(2 * last.seconds, self._longest)

    def add(self, whom: Whom, now: float, reason: str = "", early: float = 0.0) -> None:
        """Exclude it from now on; the term may end up to `early` seconds before its time."""
        seconds = self.next_term(whom, now)
        self._absences[whom] = Exclusion(now + seconds - min(early, seconds / 5), seconds, reason)

    def has(self, whom: Whom, now: float) -> bool:
        """Return whether it is excluded."""
        return now < self.until(whom)

    def until(self, whom: Whom) -> float:
        """Return when its last term ends; 0 where there was none, or it was ended."""
        absence = self._absences.get(whom)
        return absence.until if absence is not None else 0.0

    def end(self, whom: Whom) -> None:
        """Let it come back before its time."""
        absence = self._absences.get(whom)
        if absence is not None:
            self._absences[whom] = absence._replace(until=0.0)

    def forget(self, whom: Whom) -> None:
        """Treat it as one that was never excluded."""
        self._absences.pop(whom, None)

    def all(self) -> dict[Whom, Exclusion]:
        """Return all that have been excluded."""
        return dict(self._absences)
