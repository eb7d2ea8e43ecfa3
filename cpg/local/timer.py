"""A timer as a descriptor (timerfd_create(2)), which Python itself has from 3.13 on."""

from __future__ import annotations

import ctypes
import os
import time


class _Interval(ctypes.Structure):
    """`struct itimerspec`."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("repeat_s", "repeat_ns", "value_s", "value_ns"))


class Timer:
    """A descriptor that becomes readable when a time is over, and stays so until the next `start` or `stop`."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self.descriptor: int = self._checked(self._libc.timerfd_create(time.CLOCK_MONOTONIC, flags))

    def start(self, seconds: float) -> None:
        """Become readable after this time."""
        self._set(max(1, round(seconds * 1e9)))  # zero would stop the timer

    def stop(self) -> None:
        """Be not readable."""
        self._set(0)

    def _set(self, nanoseconds: int) -> None:
        interval = _Interval(0, 0, *divmod(nanoseconds, 10**9))
        self._checked(self._libc.timerfd_settime(self.descriptor, 0, ctypes.byref(interval), None))

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result
