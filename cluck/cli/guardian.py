"""Stands between `cluck run` and its command, so that the command ends when it must, whatever becomes of `cluck run`.

A small process of its own, of the standard library alone, that is ready while the lock is still waited for. It starts
the command as the first of a process group, and is told until when that may run. At that time the group gets SIGTERM,
and SIGKILL when the grace behind it is over: so a `cluck run` that is stopped, or hangs, leaves no command at work
under a lock that is somebody else's. When `cluck run` has died, the group is killed at once; and before that is done
the lock server does not see that death, since this process has a copy of the connection.

If this process is killed itself, the kernel kills the command (PR_SET_PDEATHSIG, which goes by the thread that has
made a process: here there is one), and `cluck run` kills what else is in its group.

What the command has left running in its group when it ends is given the grace to end as well, then it is killed: the
lock is not given back before. For that this process adopts what loses its parents (PR_SET_CHILD_SUBREAPER). A process
that begins a session of its own has left the group and is let go.

Started as `python guardian.py DESCRIPTOR GRACE COMMAND…`; the descriptor is a socket of whole records of JSON:

    down  {"start": {"NAME": "value", …}, "until": time}      what the environment has more
          {"until": time}, {"signal": number}                 times on the boot-time clock
          {}, and with it the connection to the lock server, to be kept open
    up    {"started": process id}                             which is also that of its group
          {"failed": errno}
          {"ended": exit code, "overdue": whether its time was over}      128 + N where signal N has ended it
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any, Final, NoReturn

RECORD: Final = 16384
GRACE_SHARE: Final = 0.9
"""Of the grace: then it is killed, so that it is dead when the grace is over."""
LONGEST_REST: Final = 0.5
"""Seconds between two looks at the clock, which goes on while the machine is suspended; poll's does not."""
_SHIELDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

_libc = ctypes.CDLL(None, use_errno=True)


class Guardian:
    """The life of one command."""

    def __init__(self, control: socket.socket, grace: float, command: list[str]) -> None:
        self._control = control
        self._control.set_inheritable(False)
        self._grace = grace
        self._command = command
        self._manners = {number: signal.getsignal(number) for number in _SHIELDED}
        """What the command inherits: nohup(1) has SIGHUP ignored, for instance."""
        self._pid = 0
        """Of the command, and of its group."""
        self._code: int | None = None
        """Its exit code."""
        self._until = float("inf")
        self._kill_at = float("inf")
        self._kept: int | None = None
        """A copy of the connection to the lock server: as long as it is open, `cluck run` is not taken for dead."""
        self._is_overdue = False
        """It was ended since its time was over."""
        self._is_over = False

    def run(self) -> None:
        """Guard until the command and its group have ended, or there never was one and `cluck run` is gone."""
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        for number in _SHIELDED:  # a service manager sends them to all processes; the command gets them passed on
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        news, waker = os.pipe()
        os.set_blocking(waker, False)
        os.set_blocking(news, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(news, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        while not self._is_over:
            for descriptor, _ in poll.poll(self._rest()):
                if descriptor == news:
                    os.read(news, RECORD)
                elif not self._listen():
                    poll.unregister(self._control)
            self._reap()
            self._keep_time()

    def _rest(self) -> float | None:
        """Milliseconds until there is something to be done."""
        if not self._pid:
            return None
        return max(0.0, min(min(self._until, self._kill_at) - _now(), LONGEST_REST)) * 1000

    # ---- what it is told

    def _listen(self) -> bool:
        """Do what `cluck run` says; whether it is still there."""
        try:
            record, descriptors, _, _ = socket.recv_fds(self._control, RECORD, 1)
        except OSError:
            record, descriptors = b"", []
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
            if self._kept is not None:
                os.close(self._kept)
            self._kept = descriptor
        if not record:
            self._is_over = not self._pid
            self._kill_at = 0.0
            return False
        said = json.loads(record)
        self._until = said.get("until", self._until)
        if "start" in said:
            self._start({**os.environ, **said["start"]})
        if "signal" in said and self._pid:
            self._signal(said["signal"])
        return True

    def _tell(self, **said: Any) -> None:
        with suppress(OSError):  # it is gone, which is seen in `_listen`
            self._control.send(json.dumps(said).encode())

    # ---- the command

    def _start(self, environment: dict[str, str]) -> None:
        """Start the command, when `cluck run` has been told its process id: so there is always one who can kill it."""
        errors, told = os.pipe()  # closed by a successful exec
        ready, go = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(go)
            self._become(environment, ready, told)
        os.close(ready)
        os.close(told)
        self._tell(started=self._pid)
        os.write(go, b"!")
        os.close(go)
        with open(errors, "rb") as file:
            failure = file.read()
        if failure:
            self._tell(failed=int(failure))
            self._is_over = True

    def _become(self, environment: dict[str, str], ready: int, told: int) -> NoReturn:
        """Be the command, in the process that was made for it."""
        try:
            os.setpgid(0, 0)
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.read(ready, 1):  # else the guardian has died
                for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
                    signal.signal(number, signal.SIG_DFL)
                for number, manner in self._manners.items():
                    signal.signal(number, manner)
                os.execvpe(self._command[0], self._command, environment)
        except OSError as error:
            os.write(told, b"%d" % (error.errno or 0))
        finally:
            os._exit(127)

    def _signal(self, number: int) -> None:
        """Signal the group. It is there, or a process of it is not reaped: its number is nobody else's."""
        with suppress(OSError):  # none of it is left but who is dead already, or may not be signalled (setuid)
            os.killpg(self._pid, number)

    def _reap(self) -> None:
        """Bury who has ended; when the command has, wait for what is left of its group."""
        while self._pid:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                break
            if dead is None:
                break
            if dead.si_pid == self._pid:
                has_exited = dead.si_code == os.CLD_EXITED
                self._code = dead.si_status if has_exited else 128 + dead.si_status
                self._until = float("inf")
                self._kill_at = min(self._kill_at, _now() + self._grace * GRACE_SHARE)
        if self._code is not None and self._group_is_empty():
            self._tell(ended=self._code, overdue=self._is_overdue)
            self._is_over = True

    def _group_is_empty(self) -> bool:
        try:
            os.waitid(os.P_PGID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        return False

    def _keep_time(self) -> None:
        now = _now()
        if not self._pid or self._is_over:
            return
        if now >= self._until:
            self._kill_at = min(self._kill_at, self._until + self._grace * GRACE_SHARE)
            self._until = float("inf")
            self._is_overdue = True
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)
        if now >= self._kill_at:
            self._kill_at = float("inf")
            self._signal(signal.SIGKILL)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


if __name__ == "__main__":
    Guardian(socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2]), sys.argv[3:]).run()
