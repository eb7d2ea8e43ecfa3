"""Log lines that others can cause as often as they like, paced by a clock with `totem.log_pacing`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable

import trio

from totem.log_fields import NO_FIELDS, Fields, extra
from totem.log_pacing import INTERVAL, RateLimiter

_log = logging.getLogger(__name__)


class PacedLog:
    """The paced lines of one daemon."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: in seconds."""
        self._clock = clock
        self._limiter = RateLimiter[tuple[int, str, tuple[object, ...], Fields]]()
        """Limits lines, each with level, text, arguments and fields."""

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
            cause: A kind of event, and the user who causes it.
            text: As for `logging`, with its arguments.
            arguments: For the text.
            fields: The line's fields for programs.
            most: Lines of this cause in a minute that are logged at once.
        """
        now = self._clock()
        self.log_counts(now)
        if self._limiter.allows(cause, (level, text, arguments, fields), now, most):
            _log.log(level, text, *arguments, extra=extra(fields))

    def warning(self, cause: Hashable, text: str, *arguments: object, fields: Fields = NO_FIELDS) -> None:
        """Log a warning now, or count it."""
        self.log(logging.WARNING, cause, text, *arguments, fields=fields)

    def log_counts(self, now: float) -> None:
        """Log the counts of intervals that are over."""
        for (level, text, arguments, fields), missed in self._limiter.summaries(now):
            counted = f"{text} (%d times more in a minute)"
            _log.log(level, counted, *arguments, missed, extra=extra(fields, unlogged=missed))

    async def keep_logging_counts(self) -> None:
        """Log the counts also where no other line follows, until cancelled."""
        while True:
            await trio.sleep(INTERVAL)
            self.log_counts(self._clock())
