"""The timers of a processor: a deadline for each name, and nothing else.

Arming stores a number, disarming stores infinity. The shell asks for the earliest and calls back when it is due.
"""

from __future__ import annotations

import enum
from math import inf


class Timer(enum.IntEnum):
    """Names of the timers, in the order in which those due at the same moment fire."""

    LOOPBACK = 0
    """A token to myself, as in a ring of one, is to be handled."""
    TOKEN_HOLD = 1
    """The representative of an idle ring sends the held token on."""
    TOKEN_RETRANSMIT = 2
    """Nothing has come since I passed the token on: send it again."""
    MERGE_DETECT = 3
    SEND_JOIN = 4
    """The random delay before a Join (`send_join`) has passed."""
    ALONE = 5
    """A processor that all others have failed waits a moment before it is a ring of one."""
    JOIN = 6
    CONSENSUS = 7
    TOKEN_LOSS = 8


class Timers:
    """One deadline for each `Timer`, in seconds of the caller's clock."""

    __slots__ = ("_deadlines",)

    def __init__(self) -> None:
        self._deadlines = [inf] * len(Timer)

    def arm(self, timer: Timer, deadline: float) -> None:
        """Fire at `deadline`, whatever was armed before."""
        self._deadlines[timer] = deadline

    def disarm(self, timer: Timer) -> None:
        """Do not fire."""
        self._deadlines[timer] = inf

    def disarm_all(self) -> None:
        """Fire nothing."""
        self._deadlines = [inf] * len(Timer)

    def armed(self, timer: Timer) -> bool:
        """Whether the timer has a deadline."""
        return self._deadlines[timer] != inf

    def deadline(self, timer: Timer) -> float:
        """When the timer fires; infinity if it does not."""
        return self._deadlines[timer]

    def earliest(self) -> float:
        """The earliest deadline; infinity if nothing is armed."""
        return min(self._deadlines)

    def pop_due(self, now: float) -> Timer | None:
        """The first timer in declared order that is due, disarmed; None if none is."""
        for timer in Timer:
            if self._deadlines[timer] <= now:
                self._deadlines[timer] = inf
                return timer
        return None
