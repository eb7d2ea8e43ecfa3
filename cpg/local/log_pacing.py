"""Log lines that others can cause as often as they like, paced by a clock as `totem.log_pacing` has it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable

import trio

from totem.log_fields import NO_FIELDS, Fields, extra
from totem.log_pacing import INTERVAL, RateLimiter

_log = logging.getLogger(__name__)


class Rarely:
    """The lines of one daemon."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: in seconds."""
        self._clock = clock
        self._seldom = RateLimiter[tuple[int, str, tuple[object, ...], Fields]]()
        """Of lines with level, text, arguments and fields."""

    def log(
        self,
        level: int,
        cause: Hashable,
        text: str,
        *arguments: object,
        fields: Fields = NO_FIELDS,
        most: int = 1,
    ) -> None:
        """Log a line now, or count it.

        Args:
            level: Of the line.
            cause: A kind of event, and on whose account it comes.
            text: As `logging` has it, with its arguments.
            arguments: For the text.
            fields: What the line tells to programs.
            most: Lines of this cause in a minute that are logged at once.
        """
        now = self._clock()
        self.tell(now)
        if self._seldom.allows(cause, (level, text, arguments, fields), now, most):
            _log.log(level, text, *arguments, extra=extra(fields))

    def warning(self, cause: Hashable, text: str, *arguments: object, fields: Fields = NO_FIELDS) -> None:
        """Log a warning now, or count it."""
        self.log(logging.WARNING, cause, text, *arguments, fields=fields)

    def tell(self, now: float) -> None:
        """Tell what was counted in intervals that are over."""
        for (level, text, arguments, fields), missed in self._seldom.summaries(now):
            counted = f"{text} (%d times more in a minute)"
            _log.log(level, counted, *arguments, missed, extra=extra(fields, unlogged=missed))

    async def told(self) -> None:
        """Tell what was counted, also where nothing follows; until cancelled."""
        while True:
            await trio.sleep(INTERVAL)
            self.tell(self._clock())
