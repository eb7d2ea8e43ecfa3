"""Interruption: for the operator, what has become of the ring that was complete last."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from totem.transitions import Cause
from totem.wire.messages import Join


class Interruption(NamedTuple):
    """Why the ring that was complete last has ended, for the operator."""

    cause: Cause
    seconds: float
    """Time since messages of that ring were last ordered."""
    departed: frozenset[int]
    """Nodes that have announced since then that they leave, and were not heard again."""
    pause: float
    """Seconds for which this process was not run just before that, or since; 0 if it was run."""


class InterruptionRecord:
    """What an `Interruption` is made of, as it happens."""

    def __init__(self) -> None:
        self._ended: tuple[Cause, float] | None = None
        """Why the ring that was complete last was given up, and when the last of it was heard."""
        self._departed: set[int] = set()
        self._latest_pause = (-inf, 0.0)
        """When it ended, and its seconds."""

    def begin(self, cause: Cause, since: float) -> None:
        """Note that an installed ring was given up; only the first since a complete one counts."""
        if self._ended is None:
            self._ended = cause, since

    def end(self) -> None:
        """Note that a ring is complete."""
        self._ended = None
        self._departed.clear()

    def hear(self, join: Join) -> None:
        """Note that a node leaves, or is back."""
        if join.is_leave:
            self._departed.add(join.origin)
        else:
            self._departed.discard(join.origin)

    def note_pause(self, now: float, seconds: float) -> None:
        """Note that this process was not run for some seconds until now."""
        self._latest_pause = now, seconds

    def interruption(self, now: float, token_timeout: float) -> Interruption | None:
        """Return what has happened; None while the ring goes on, and before the first."""
        if self._ended is None:
            return None
        cause, since = self._ended
        end, pause = self._latest_pause
        belongs = end >= since - token_timeout
        return Interruption(cause, now - since, frozenset(self._departed), pause if belongs else 0.0)
