"""Errors that locks, conditions and leaders raise at the program, all of them a `LockError`.

A lock that cannot be acquired is reported before the body of its block begins, so that no program runs the body without
the lock. A lock that is lost later ends the body, and the error comes out of the block as it is.

`OutcomeUnknown` and `DaemonUnavailable` are the classes of `cpg`: who catches either catches it from both packages. So
`LockError` is the base that they have there, `cpg.errors.ServiceError`, and `except cluck.LockError` catches all that
`cluck` raises.
"""

from __future__ import annotations

from typing import TypeAlias

from cpg.errors import DaemonUnavailable, OutcomeUnknown, ServiceError

__all__ = [
    "ConnectionLost",
    "DaemonUnavailable",
    "DeadlockError",
    "KindMismatch",
    "LeadershipLost",
    "LockError",
    "LockLost",
    "LockTimeout",
    "NotReady",
    "OutcomeUnknown",
    "Overflow",
    "WrongLock",
]

LockError: TypeAlias = ServiceError
"""Base of all that `cluck` raises."""


class LockTimeout(LockError):
    """The lock was not acquired in the given time; the request has been withdrawn. Try again, or wait longer.

    `timeout=None` waits for ever, `timeout=0` tries once.
    """


class NotReady(LockTimeout):
    """The lock servers do not decide, and did not begin to in the given time; the text names why.

    `await locks.wait_ready()` waits for them; `cluck status` shows who is missing.
    """


class DeadlockError(LockError):
    """The wait would be for the program itself, through others. Release one of the locks of `cycle`, then try again.

    A program that takes several locks in the same order everywhere never sees this.
    """

    def __init__(self, text: str, cycle: tuple[bytes, ...]) -> None:
        super().__init__(text)
        self.cycle = cycle
        """The locks. The holder of each waits for the next one, the holder of the last one for the first."""


class LockLost(LockError):
    """The lock is not held any more, and its body was cancelled: somebody else may hold it already.

    Stop using what it protects, and begin again with another lock. A resource that checks tokens refuses late writes.
    """


class LeadershipLost(OutcomeUnknown):
    """This candidate does not lead any more; what it published last may have been published, or not.

    Wait to lead again before you publish again.
    """


class WrongLock(LockError):
    """Others wait on the condition with another lock: all waiters must use the same one. Yours is still held."""


class KindMismatch(LockError):
    """The name is in use with another number of permits. Use the same number everywhere, or another name."""


class Overflow(LockError):
    """A bound is reached, which the text names. Nothing was queued; try again later."""


class ConnectionLost(LockError):
    """The connection to the lock server has ended, and no other was to be opened. Connect again."""
