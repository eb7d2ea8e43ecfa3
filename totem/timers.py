"""The timers of a processor: a deadline for each name, and nothing else.

Arming stores a number, disarming stores infinity. The shell reads the earliest and calls back when it is due.
"""

from __future__ import annotations

import enum
from math import inf, isfinite


class Timer(enum.IntEnum):
    """Names of the timers, in the order in which those due at the same moment fire."""

    LOOPBACK = 0
    """A token to this node itself, as in a ring of one, must be handled."""
    TOKEN_HOLD = 1
    """The keeper of an idle ring sends the resting token on."""
    CALL = 2
    """This node has something to send, and the token rests elsewhere: call for it, again and again until it comes."""
    TOKEN_RETRANSMIT = 3
    """Nothing has come since this node passed the token on: send it again."""
    MERGE_DETECT = 4
    SEND_JOIN = 5
    """The random delay before a Join (`send_join`) has passed."""
    ALONE = 6
    """A processor that all others have failed waits a moment before it forms a ring of one."""
    JOIN = 7
    CONSENSUS = 8
    TOKEN_LOSS = 9
    ASK = 10
    """Nodes that are apart may be asked to form a ring with this one."""


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
        """Return whether the timer has a deadline."""
        return self._deadlines[timer] != inf

    def deadline(self, timer: Timer) -> float:
        """Return when the timer fires; infinity if it does not."""
        return self._deadlines[timer]

    def earliest(self) -> float:
        """Return the earliest deadline; infinity if nothing is armed, minus infinity if something must fire at once."""
        return min(self._deadlines)

    def earliest_of_clock(self) -> float:
        """Return the earliest deadline that is a time; infinity if there is none."""
        return min(filter(isfinite, self._deadlines), default=inf)

    def pop_due(self, now: float) -> Timer | None:
        """Disarm and return the first timer in declared order that is due; None if none is."""
        for timer in Timer:
            if self._deadlines[timer] <= now:
                self._deadlines[timer] = inf
                return timer
        return None
