"""How the system's scheduler treats a daemon: in real time, with its memory locked, even on a busy machine.

What the system refuses is one line of the log. Children, and threads that wait for disks and names, are not in real
time. A daemon that computes for `LONGEST_RUN` seconds without a wait leaves real time, and returns to it after `PAUSE`.
So it cannot take a processor from everybody else.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from totem.config import Scheduling

_log = logging.getLogger(__name__)

LONGEST_RUN: Final = 10
"""Seconds of computing without a wait, however short, after which a daemon counts as spinning."""
PAUSE: Final = 60.0
"""Seconds until a daemon that span is in real time again."""

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
CAP_IPC_LOCK: Final = 14
_HIGHEST_NICENESS: Final = -20


class Scheduler:
    """The real time and the locked memory of one daemon."""

    def __init__(self, settings: Scheduling, *, below: int = 0) -> None:
        """`below`: steps below the highest priority, so that a daemon does not delay another one that it depends on."""
        self._settings = settings
        self._priority = os.sched_get_priority_max(os.SCHED_RR) - below
        self._is_spinning = False

    @property
    def _wants_real_time(self) -> bool:
        wanted = self._settings.sched_rr
        return os.geteuid() == 0 if wanted is None else wanted

    def begin(self) -> None:
        """Request real time and locked memory as configured; call this in the main thread."""
        if not self._wants_real_time:
            if self._settings.priority is not None:
                self._be_nice(self._settings.priority)
            return
        signal.signal(signal.SIGXCPU, self._on_spin)
        try:
            self._be_in_real_time()
        except OSError as error:
            _log.warning(
                "not in real time, the system refuses it (%s): a busy machine may stop the ring", error.strerror
            )
            self._be_nice(_HIGHEST_NICENESS)
            return
        reason = _lock_memory()
        locked = f"not locked ({reason})" if reason else "locked"
        _log.info("in real time: round robin, priority %d; memory %s", self._priority, locked)

    async def watch(self) -> None:
        """Return to real time after a pause, until cancelled."""
        while True:
            await trio.sleep(PAUSE)
            if self._is_spinning:
                self._is_spinning = False
                with suppress(OSError):
                    self._be_in_real_time()
                    _log.info("in real time again")

    def _be_in_real_time(self) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
        limit = LONGEST_RUN * 1_000_000
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard // 2)  # at the hard limit the kernel kills
        resource.setrlimit(resource.RLIMIT_RTTIME, (limit, hard))  # the kernel raises it with each signal
        parameter = os.sched_param(self._priority)
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, parameter)

    def _be_nice(self, value: int) -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, value)
        except OSError as error:
            _log.warning("the nice value stays what it is, the system refuses %d: %s", value, error.strerror)

    def _on_spin(self, number: int, frame: object) -> None:
        """Leave real time: the kernel reports that this process has computed too long without a wait."""
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
        if not self._is_spinning:
            self._is_spinning = True
            with suppress(RuntimeError):  # the log was being written to just now
                text = "no longer in real time: %d s of computing without a pause; again in %d s"
                _log.warning(text, LONGEST_RUN, PAUSE)


def _lock_memory() -> str:
    """Lock all memory, so that it is not swapped out; return why not, empty if it is done.

    Pages are locked when they are used, so stacks of threads cost no more than before. Where there is a limit, nothing
    is locked: at the limit memory would be refused.
    """
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != resource.RLIM_INFINITY and not has_capability(CAP_IPC_LOCK):
        return f"only {soft} bytes may be"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT):
        return os.strerror(ctypes.get_errno())
    return ""


def has_capability(number: int) -> bool:
    """Return whether this process has an effective capability."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False
