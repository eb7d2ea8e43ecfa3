"""What others can cause as often as they like: of each cause one line a minute is told, with how often it was.

The first of a cause is told at once. What follows within the minute is counted, and told at its end in one line, the
last. So a log grows by the number of causes, however busy each is, and none is silent for good.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

INTERVAL: Final = 60.0
"""Seconds between two lines of one cause."""
MOST_CAUSES: Final = 256
"""Told apart within an interval; all further ones count as one."""

Line = TypeVar("Line")


@dataclass(slots=True)
class _Cause(Generic[Line]):
    until: float
    last: Line
    """The latest line."""
    told: int = 1
    """Lines that were told."""
    missed: int = 0
    """Lines that were not told."""


class RateLimiter(Generic[Line]):
    """The lines of one log."""

    def __init__(self) -> None:
        self._causes: dict[Hashable, _Cause[Line]] = {}
        """In the order in which their intervals end."""

    def __bool__(self) -> bool:
        """Whether an interval has begun that `counted` has not ended."""
        return bool(self._causes)

    def may_tell(self, cause: Hashable, line: Line, now: float, most: int = 1) -> bool:
        """Return whether a line is to be told now; else it is counted. What was `counted` before has been asked for.

        Args:
            cause: What the line counts with.
            line: What is told when the interval is over, if it is the last that was not told before.
            now: In seconds.
            most: Lines of this cause in an interval that are told at once.
        """
        if cause not in self._causes and len(self._causes) >= MOST_CAUSES:
            cause = None
        known = self._causes.get(cause)
        if known is None:
            self._causes[cause] = _Cause(now + INTERVAL, line)
            return True
        if known.told < most:
            known.told += 1
            return True
        known.missed += 1
        known.last = line
        return False

    def counted(self, now: float) -> Iterator[tuple[Line, int]]:
        """What was counted in intervals that are over: the last line of each, to be told now, and how many."""
        while self._causes:
            cause, known = next(iter(self._causes.items()))
            if known.until > now:
                return
            del self._causes[cause]
            if known.missed:
                self._causes[cause] = _Cause(now + INTERVAL, known.last)
                yield known.last, known.missed
