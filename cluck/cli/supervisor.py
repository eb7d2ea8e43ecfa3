"""The process between `cluck run` and its command: it ends the command in time, even where `cluck run` cannot.

It is a small process of its own, which uses the standard library alone. It is ready while `cluck run` still waits for
the lock. It starts the command, and learns until when the command may run. At that time every descendant of the
command gets SIGTERM, and SIGKILL before the grace is over. So a `cluck run` that is stopped, or hangs, leaves no
command running while somebody else holds the lock. When `cluck run` dies, the supervisor kills everything at once.
Until then the lock server does not notice that death, because the supervisor has a copy of the connection.

Descendants stay within reach whatever they do with process groups, sessions and parents. The supervisor adopts every
process that loses its parent (PR_SET_CHILD_SUBREAPER), so it has no children exactly when nothing is left. If this user
may make a cgroup (v2) below its own, the command runs in one. A cgroup is killed in one step, together with the
processes of other users in it. Without a cgroup a process of another user may be out of reach (sudo); the supervisor
then waits for it.

If the supervisor itself is killed, the kernel kills the command (PR_SET_PDEATHSIG). That signal depends on the thread
that made the process; the supervisor has only one. `cluck run` then adopts the other descendants, and kills them.

Processes that outlive the command get the grace to end, and are then killed. The lock is not released before that. Only
on request are processes left alone that have begun a session of their own, as daemons do.

It is started as `python supervisor.py DESCRIPTOR GRACE all|session COMMAND…`. The descriptor is a socket of whole
records of JSON:

    down  {"start": {"NAME": "value", …}, "until": time}      variables to add to the environment
          {"until": time}, {"signal": number}                 times on the boot-time clock
          {}, with a connection to the lock server attached, which is to be kept open
    up    {"started": process id, "cgroup": path or null}
          {"failed": errno}
          {"waits": true}                                     for a process that it may not signal
          {"ended": exit code, "overdue": whether its time was over}      128 + N if signal N ended it
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, NoReturn

RECORD: Final = 16384
GRACE_SHARE: Final = 0.9
"""The share of the grace after which SIGKILL is sent, so that the command is dead when the grace is over."""
LONGEST_REST: Final = 0.5
"""Seconds between two looks at the clock. This clock counts while the machine is suspended, that of poll does not."""
KILL_INTERVAL: Final = 0.05
"""Seconds between two rounds of SIGKILL; the second is for processes that were forked during the first."""
MOST_ROUNDS: Final = 10
"""Number of looks for descendants that were forked while the others were signalled."""
CGROUP_PATIENCE: Final = 1
"""Seconds that the kernel may take to report that a cgroup is empty, once all its processes are reaped."""
_IGNORED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Make orphaned descendants of this process its own children, instead of those of init."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def sees_children() -> bool:
    """Return whether this system lists the children of a process (CONFIG_PROC_CHILDREN)."""
    return os.access(f"/proc/self/task/{os.getpid()}/children", os.R_OK)


class ProcessTree:
    """The descendants of this process.

    Args:
        session: The session to which the tree is limited; None: all sessions.
        cgroup: The folder of the cgroup in which all of them run; None if there is none.
    """

    def __init__(self, session: int | None, cgroup: str | None) -> None:
        self._session = session
        self._cgroup = cgroup

    def signal(self, number: int) -> set[int]:
        """Signal each process once, also those forked meanwhile; return the processes that are out of reach."""
        reached: set[int] = set()
        refused: set[int] = set()
        for _ in range(MOST_ROUNDS):
            new = [pid for pid in self._members() if pid not in reached]
            if not new:
                break
            for pid in new:
                reached.add(pid)
                try:
                    os.kill(pid, number)
                except PermissionError:
                    refused.add(pid)
                except ProcessLookupError:
                    continue
        return {pid for pid in refused if not self._is_in_cgroup(pid)}

    def kill(self) -> set[int]:
        """Kill every process that may be signalled; return the others. The next call kills what is forked meanwhile."""
        if self._cgroup is not None:
            with suppress(OSError), open(f"{self._cgroup}/cgroup.kill", "w", encoding="ascii") as file:
                file.write("1")
        return self.signal(signal.SIGKILL)

    def reap(self) -> Iterator[tuple[int, int]]:
        """Reap the processes that have ended; yield process id and exit code of each."""
        with suppress(ChildProcessError):
            while dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG):
                has_exited = dead.si_code == os.CLD_EXITED
                yield dead.si_pid, dead.si_status if has_exited else 128 + dead.si_status

    def has_ended(self) -> bool:
        """Return whether no process is left."""
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True  # a process that has lost its parents would be a child of this one
        if self._session is None:
            return False
        # A process may be forked below the daemons that are left alone, while this looks elsewhere: so it looks twice.
        return not any(map(_is_alive, self._members())) and not any(map(_is_alive, self._members()))

    def remove_cgroup(self) -> None:
        """Remove the cgroup and those below it, once all processes have ended."""
        if self._cgroup is None:
            return
        with suppress(OSError), open(f"{self._cgroup}/cgroup.events", encoding="ascii") as events:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            while "populated 1" in events.read() and poll.poll(1000 * CGROUP_PATIENCE):
                events.seek(0)
        for folder, _, _ in os.walk(self._cgroup, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)

    def _is_in_cgroup(self, pid: int) -> bool:
        """Return whether a process ends with the cgroup. Processes can be moved to another one."""
        if self._cgroup is None:
            return False
        try:
            with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
                return os.path.basename(self._cgroup) in file.read().replace("\n", "/").split("/")
        except OSError:
            return False

    def _members(self) -> Iterator[int]:
        return (pid for pid in _descendants(os.getpid()) if self._session is None or _session(pid) == self._session)


def _descendants(root: int) -> Iterator[int]:
    found = _children(root)
    for pid in found:  # which grows meanwhile
        yield pid
        found += _children(pid)


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:  # it has ended
        return []
    for task in tasks:
        with suppress(OSError), open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
            children += map(int, file.read().split())
    return children


def _session(pid: int) -> int | None:
    with suppress(ProcessLookupError):
        return os.getsid(pid)
    return None


def _is_alive(pid: int) -> bool:
    """Return whether a process has not ended. A zombie has."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _user(pid: int) -> str:
    """Return a name for the user of a process."""
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return "another user"
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the user with uid {uid}"


def _make_cgroup() -> str | None:
    """Make a cgroup below that of this process; return None if that is impossible."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            mounts = [line.split() for line in file]
        root, place = next((fields[3], fields[4]) for fields in mounts if fields[fields.index("-") + 1] == "cgroup2")
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            own = next(line[3:].rstrip("\n") for line in file if line.startswith("0::"))
        folder = os.path.join(place, os.path.relpath(own, root), f"cluck-{os.getpid()}")
        with suppress(FileNotFoundError):
            os.rmdir(folder)  # left by a killed supervisor of this process id; if it is not empty, mkdir fails
        os.mkdir(folder)
        if os.path.exists(f"{folder}/cgroup.kill"):
            return folder
        os.rmdir(folder)  # a kernel before 5.14
    except (OSError, StopIteration):
        return None
    return None


class Supervisor:
    """Starts one command, and ends it."""

    def __init__(self, control: socket.socket, grace: float, command: list[str], *, leaves_daemons: bool) -> None:
        self._control = control
        self._control.set_inheritable(False)
        self._grace = grace
        self._command = command
        self._dispositions = {number: signal.getsignal(number) for number in _IGNORED}
        """The dispositions of signals that the command inherits: nohup(1) ignores SIGHUP, for instance."""
        self._cgroup = None if leaves_daemons else _make_cgroup()
        self._tree = ProcessTree(os.getsid(0) if leaves_daemons else None, self._cgroup)
        self._pid = 0
        """The process id of the command; 0 before its start."""
        self._code: int | None = None
        """Its exit code."""
        self._until = float("inf")
        self._kill_at = float("inf")
        self._connection: int | None = None
        """A copy of the connection to the lock server. While it is open, `cluck run` counts as alive there."""
        self._is_overdue = False
        """Whether the command was ended because its time was over."""
        self._out_of_reach: set[int] = set()
        """Processes already reported as out of reach."""
        self._is_over = False

    def run(self) -> None:
        """Run until the command and all its descendants have ended, or `cluck run` is gone before the start."""
        adopt_orphans()
        for (
            number
        ) in _IGNORED:  # a service manager sends them to all processes; `cluck run` forwards them to the command
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        wakeups, waker = os.pipe()
        os.set_blocking(waker, False)
        os.set_blocking(wakeups, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(wakeups, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        while not self._is_over:
            for descriptor, _ in poll.poll(self._timeout()):
                if descriptor == wakeups:
                    os.read(wakeups, RECORD)
                elif not self._receive():
                    poll.unregister(self._control)
            if self._pid and not self._is_over:
                self._reap()
                self._keep_time()
        self._tree.remove_cgroup()

    def _timeout(self) -> float | None:
        """Return the milliseconds until something has to be done; None before the start."""
        if not self._pid:
            return None
        return max(0.0, min(min(self._until, self._kill_at) - _now(), LONGEST_REST)) * 1000

    # ---- records of `cluck run`

    def _receive(self) -> bool:
        """Follow the next record of `cluck run`; return whether `cluck run` is still there."""
        try:
            record, descriptors, _, _ = socket.recv_fds(self._control, RECORD, 1)
        except OSError:
            record, descriptors = b"", []
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
            if self._connection is not None:
                os.close(self._connection)
            self._connection = descriptor
        if not record:
            self._is_over = not self._pid
            self._kill_at = 0.0
            return False
        request = json.loads(record)
        if not self._is_overdue:  # many programs take a second SIGTERM as "at once"
            self._until = request.get("until", self._until)
        if "start" in request:
            self._start({**os.environ, **request["start"]})
        if "signal" in request and self._pid:
            self._signal(request["signal"])
        return True

    def _send(self, **fields: Any) -> None:
        with suppress(OSError):  # `cluck run` is gone, which `_receive` notices
            self._control.send(json.dumps(fields).encode())

    # ---- the command

    def _start(self, environment: dict[str, str]) -> None:
        """Start the command, once `cluck run` knows its process id: so there is always a process that can kill it."""
        errors, report = os.pipe()  # a successful exec closes it
        ready, go = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(go)
            self._become(environment, ready, report)
        os.close(ready)
        os.close(report)
        self._send(started=self._pid, cgroup=self._cgroup)
        os.write(go, b"!")
        os.close(go)
        with open(errors, "rb") as file:
            failure = file.read()
        if failure:
            os.waitpid(self._pid, 0)
            self._send(failed=int(failure))
            self._is_over = True

    def _become(self, environment: dict[str, str], ready: int, report: int) -> NoReturn:
        """Become the command, in the process forked for it."""
        try:
            os.setpgid(0, 0)
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.read(ready, 1):  # else the supervisor has died
                if self._cgroup is not None:
                    with suppress(OSError), open(f"{self._cgroup}/cgroup.procs", "w", encoding="ascii") as file:
                        file.write("0")
                for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
                    signal.signal(number, signal.SIG_DFL)
                for number, disposition in self._dispositions.items():
                    signal.signal(number, disposition)
                os.execvpe(self._command[0], self._command, environment)
        except OSError as error:
            os.write(report, b"%d" % (error.errno or 0))
        finally:
            os._exit(127)

    def _signal(self, number: int) -> None:
        self._wait_for(self._tree.signal(number))

    def _wait_for(self, refused: set[int]) -> None:
        """Report once of each process that it is out of reach. The lock is kept until it ends."""
        for pid in sorted(refused - self._out_of_reach):
            with suppress(OSError):
                print(
                    f"cluck: process {pid} of {_user(pid)} cannot be signalled: waiting until it ends",
                    file=sys.stderr,
                    flush=True,
                )
            self._send(waits=True)
        self._out_of_reach |= refused

    def _reap(self) -> None:
        """Reap the processes that have ended. When the command has, give the others the grace."""
        for pid, code in self._tree.reap():
            if pid == self._pid:
                self._code = code
                self._until = float("inf")
                self._kill_at = min(self._kill_at, _now() + self._grace * GRACE_SHARE)
        if self._code is not None and self._tree.has_ended():
            self._send(ended=self._code, overdue=self._is_overdue)
            self._is_over = True

    def _keep_time(self) -> None:
        """End the command at its deadline, and kill what is left after the grace."""
        now = _now()
        if self._is_over:
            return
        if now >= self._until:
            self._kill_at = min(self._kill_at, self._until + self._grace * GRACE_SHARE)
            self._until = float("inf")
            self._is_overdue = True
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)
        if now >= self._kill_at:
            refused = self._tree.kill()
            self._kill_at = now + (LONGEST_REST if refused else KILL_INTERVAL)
            self._wait_for(refused)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def main() -> None:
    """Read the arguments, and run the command."""
    descriptor, grace, which, *command = sys.argv[1:]
    control = socket.socket(fileno=int(descriptor))
    Supervisor(control, float(grace), command, leaves_daemons=which == "session").run()


if __name__ == "__main__":
    main()
