"""Log lines that others can cause as often as they like: of each kind and cause one a minute, with how often it was.

The first of a cause is logged at once. What follows within the minute is counted, and told at its end in one line, with
the text of the last. So a log grows by the number of causes, however busy each is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

import trio

_log = logging.getLogger(__name__)

INTERVAL: Final = 60.0
"""Seconds between two lines of one cause."""
MOST_CAUSES: Final = 256
"""Told apart within an interval; all further ones count as one."""


@dataclass(slots=True)
class _Cause:
    until: float
    level: int
    missed: int = 0
    last: tuple[object, ...] = ()
    """The latest line that was not logged: text and arguments."""


class Rarely:
    """The lines of one daemon."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: in seconds."""
        self._clock = clock
        self._causes: dict[Hashable, _Cause] = {}
        """In the order in which their intervals end."""

    def log(self, level: int, cause: Hashable, text: str, *arguments: object) -> None:
        """Log a line now, or count it. `cause`: a kind of event, and on whose account it comes."""
        now = self._clock()
        self.tell(now)
        if cause not in self._causes and len(self._causes) >= MOST_CAUSES:
            cause = None
        known = self._causes.get(cause)
        if known is None:
            self._causes[cause] = _Cause(now + INTERVAL, level)
            _log.log(level, text, *arguments)
        else:
            known.missed += 1
            known.last = (text, *arguments)

    def warning(self, cause: Hashable, text: str, *arguments: object) -> None:
        """Log a warning now, or count it."""
        self.log(logging.WARNING, cause, text, *arguments)

    def tell(self, now: float) -> None:
        """Tell what was counted in intervals that are over."""
        while self._causes:
            cause, known = next(iter(self._causes.items()))
            if known.until > now:
                return
            del self._causes[cause]
            if known.missed:
                text, *arguments = known.last
                _log.log(known.level, f"{text} (%d times more in a minute)", *arguments, known.missed)
                self._causes[cause] = _Cause(now + INTERVAL, known.level)

    async def told(self) -> None:
        """Tell what was counted, also where nothing follows; until cancelled."""
        while True:
            await trio.sleep(INTERVAL)
            self.tell(self._clock())
