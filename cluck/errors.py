"""Errors that locks, conditions and leaders raise at the program, all of them a `LockError`.

What could not be had is raised before the body of an `async with` begins, so that no program runs it without its lock;
what is lost later ends the body, and comes out of the block as it is.
"""

from __future__ import annotations

from totem.errors import TotemError


class LockError(TotemError):
    """Base of what `cluck` raises."""


class LockTimeout(LockError):
    """The lock was not obtained in the time that was given; the request has been withdrawn. Try again, or wait longer.

    `timeout=None` waits for ever, `timeout=0` tries once.
    """


class NotReady(LockTimeout):
    """The lock servers decide nothing now, and did not begin to in the time that was given; the text names why.

    `await locks.wait_ready()` waits for them; `cluck status` shows who is missing.
    """


class DeadlockError(LockError):
    """To wait would be to wait for oneself, through others: give back one of the locks of `cycle`, then try again.

    Take several locks in the same order everywhere, and this does not happen.
    """

    def __init__(self, text: str, cycle: tuple[bytes, ...]) -> None:
        super().__init__(text)
        self.cycle = cycle
        """The locks, each held by who waits for the next one, the last one by who waits for the first."""


class LockLost(LockError):
    """The lock is not held any more, and its body was cancelled: what it guards may already be somebody else's.

    Stop to touch it, and begin anew with another lock; a resource that checks tokens refuses what comes late.
    """


class OutcomeUnknown(LockError):
    """The connection was lost before the answer came: what was asked for may have been done, or not. Look before you
    ask again.
    """


class LeadershipLost(OutcomeUnknown):
    """This candidate leads no more; what it published last may have been published, or not.

    Wait to lead again before publishing again.
    """


class WrongLock(LockError):
    """Others wait on the condition with another lock: all that wait on one must pass the same. Yours is held still."""


class KindMismatch(LockError):
    """The name is in use with another number of permits: use the same everywhere, or another name."""


class Overflow(LockError):
    """As many wait as may; the text names which bound it is. Nothing was queued; try again later."""


class DaemonUnavailable(LockError):
    """No daemon `cluckd` can be used; the text names why, and what to do."""


class ConnectionLost(LockError):
    """The connection to the lock server has ended, and none other was to be made. Connect again."""
