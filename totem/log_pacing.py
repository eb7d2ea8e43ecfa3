"""A rate limit for log lines that others can cause as often as they like.

The first line of a cause is written at once. Those that follow within a minute are counted; at its end the last of them
is written, with their number. So a log grows with the number of causes, not with their rate, and no cause is silent for
good.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

INTERVAL: Final = 60.0
"""Seconds between two lines of one cause."""
MOST_CAUSES: Final = 256
"""Causes that are told apart within an interval; all further ones count as one."""

Line = TypeVar("Line")


@dataclass(slots=True)
class _Cause(Generic[Line]):
    until: float
    last: Line
    """The latest line."""
    told: int = 1
    """Lines that were written."""
    missed: int = 0
    """Lines that were only counted."""


class RateLimiter(Generic[Line]):
    """The rate limit of one log."""

    def __init__(self) -> None:
        self._causes: dict[Hashable, _Cause[Line]] = {}
        """The causes, in the order in which their intervals end."""

    def __bool__(self) -> bool:
        """Return whether an interval has begun that `summaries` has not ended."""
        return bool(self._causes)

    def allows(self, cause: Hashable, line: Line, now: float, most: int = 1) -> bool:
        """Return whether to write a line now; if not, it is counted. Call `summaries` first.

        Args:
            cause: What the line counts with.
            line: What `summaries` returns when the interval is over, if it is the last line that was only counted.
            now: In seconds.
            most: Lines of this cause in an interval that are written at once.
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

    def summaries(self, now: float) -> Iterator[tuple[Line, int]]:
        """Yield what was only counted in intervals that are over: the last line of each, and their number."""
        while self._causes:
            cause, known = next(iter(self._causes.items()))
            if known.until > now:
                return
            del self._causes[cause]
            if known.missed:
                self._causes[cause] = _Cause(now + INTERVAL, known.last)
                yield known.last, known.missed
