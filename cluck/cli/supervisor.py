"""Stands between `cluck run` and its command, so that the command ends when it must, whatever becomes of `cluck run`.

A small process of its own, of the standard library alone, that is ready while the lock is still waited for. It starts
the command, and is told until when that may run. At that time all that descends from the command gets SIGTERM, and
SIGKILL when the grace behind it is over: so a `cluck run` that is stopped, or hangs, leaves no command at work under a
lock that is somebody else's. When `cluck run` has died, all is killed at once; and before that is done the lock server
does not see that death, since this process has a copy of the connection.

What descends from the command stays within reach, whatever it does with process groups, sessions and parents: this
process adopts all that loses its parents (PR_SET_CHILD_SUBREAPER), so its children are none exactly when nothing is
left. Where this user may make a cgroup (v2) below its own, the command is in one, which is killed in one step, other
users' processes too. Without it a process of another user may be out of reach (sudo); then it is waited for.

If this process is killed itself, the kernel kills the command (PR_SET_PDEATHSIG, which goes by the thread that has
made a process: here there is one), and `cluck run` adopts the others, and kills them.

What the command has left running when it ends is given the grace to end as well, then it is killed: the lock is not
given back before. Only where that is wanted is let go what has begun a session of its own, as daemons do.

Started as `python guardian.py DESCRIPTOR GRACE all|session COMMAND…`; the descriptor is a socket of whole records of
JSON:

    down  {"start": {"NAME": "value", …}, "until": time}      what the environment has more
          {"until": time}, {"signal": number}                 times on the boot-time clock
          {}, and with it the connection to the lock server, to be kept open
    up    {"started": process id, "cgroup": path or null}
          {"failed": errno}
          {"waits": true}                                     for a process that it may not signal
          {"ended": exit code, "overdue": whether its time was over}      128 + N where signal N has ended it
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
"""Of the grace: then it is killed, so that it is dead when the grace is over."""
LONGEST_REST: Final = 0.5
"""Seconds between two looks at the clock, which goes on while the machine is suspended; poll's does not."""
KILL_INTERVAL: Final = 0.05
"""Seconds between two rounds of SIGKILL, for what was forked in the first."""
MOST_ROUNDS: Final = 10
"""Looks for descendants that were forked while the others were signalled."""
CGROUP_PATIENCE: Final = 1
"""Seconds that the kernel may take to see that a cgroup is empty, when all its processes are buried."""
_SHIELDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Make orphans among the descendants of this process its children, and not those of init."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def sees_children() -> bool:
    """Whether this system tells which children a process has (CONFIG_PROC_CHILDREN)."""
    return os.access(f"/proc/self/task/{os.getpid()}/children", os.R_OK)


class Family:
    """What descends from this process.

    Args:
        session: Those of this session alone; None: all.
        cgroup: The folder of the cgroup in which all of them are, if they are.
    """

    def __init__(self, session: int | None, cgroup: str | None) -> None:
        self._session = session
        self._cgroup = cgroup

    def signal(self, number: int) -> set[int]:
        """Signal each of them once, also those that are forked meanwhile; return who is out of reach."""
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
        """Kill all that may be; return who may not. What is forked meanwhile is left for the next time."""
        if self._cgroup is not None:
            with suppress(OSError), open(f"{self._cgroup}/cgroup.kill", "w", encoding="ascii") as file:
                file.write("1")
        return self.signal(signal.SIGKILL)

    def bury(self) -> Iterator[tuple[int, int]]:
        """Reap who has ended; give process id and exit code."""
        with suppress(ChildProcessError):
            while dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG):
                has_exited = dead.si_code == os.CLD_EXITED
                yield dead.si_pid, dead.si_status if has_exited else 128 + dead.si_status

    def is_gone(self) -> bool:
        """Whether nothing of it is left."""
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True  # who has lost its parents would be a child of this process
        if self._session is None:
            return False
        # Below those that were let go somebody may be born while one looks elsewhere, so one looks twice.
        return not any(map(_is_alive, self._members())) and not any(map(_is_alive, self._members()))

    def forget(self) -> None:
        """Remove its cgroup, and what was made below that, when all have ended."""
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
        """Whether a process ends with the cgroup; one may be moved elsewhere."""
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
    for pid in found:  # to which more are added on the way
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
    """Whether a process has not ended; a zombie has."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _user(pid: int) -> str:
    """Name the user of a process."""
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return "another user"
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the user with uid {uid}"


def _make_cgroup() -> str | None:
    """Make a cgroup below that of this process; None where that cannot be."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            mounts = [line.split() for line in file]
        root, place = next((fields[3], fields[4]) for fields in mounts if fields[fields.index("-") + 1] == "cgroup2")
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            own = next(line[3:].rstrip("\n") for line in file if line.startswith("0::"))
        folder = os.path.join(place, os.path.relpath(own, root), f"cluck-{os.getpid()}")
        with suppress(FileNotFoundError):
            os.rmdir(folder)  # of a guardian with this process id that was killed; where it is not empty, there is none
        os.mkdir(folder)
        if os.path.exists(f"{folder}/cgroup.kill"):
            return folder
        os.rmdir(folder)  # a kernel before 5.14
    except (OSError, StopIteration):
        return None
    return None


class Guardian:
    """The life of one command."""

    def __init__(self, control: socket.socket, grace: float, command: list[str], *, leaves_daemons: bool) -> None:
        self._control = control
        self._control.set_inheritable(False)
        self._grace = grace
        self._command = command
        self._manners = {number: signal.getsignal(number) for number in _SHIELDED}
        """What the command inherits: nohup(1) has SIGHUP ignored, for instance."""
        self._cgroup = None if leaves_daemons else _make_cgroup()
        self._family = Family(os.getsid(0) if leaves_daemons else None, self._cgroup)
        self._pid = 0
        """Of the command."""
        self._code: int | None = None
        """Its exit code."""
        self._until = float("inf")
        self._kill_at = float("inf")
        self._kept: int | None = None
        """A copy of the connection to the lock server: as long as it is open, `cluck run` is not taken for dead."""
        self._is_overdue = False
        """It was ended since its time was over."""
        self._out_of_reach: set[int] = set()
        """Processes of which was said that they may not be signalled."""
        self._is_over = False

    def run(self) -> None:
        """Guard until the command and all that descends from it has ended, or `cluck run` is gone before it began."""
        adopt_orphans()
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
            if self._pid and not self._is_over:
                self._reap()
                self._keep_time()
        self._family.forget()

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
        if not self._is_overdue:  # what ends is not told so a second time, which many take as "at once"
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
        self._tell(started=self._pid, cgroup=self._cgroup)
        os.write(go, b"!")
        os.close(go)
        with open(errors, "rb") as file:
            failure = file.read()
        if failure:
            os.waitpid(self._pid, 0)
            self._tell(failed=int(failure))
            self._is_over = True

    def _become(self, environment: dict[str, str], ready: int, told: int) -> NoReturn:
        """Be the command, in the process that was made for it."""
        try:
            os.setpgid(0, 0)
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.read(ready, 1):  # else the guardian has died
                if self._cgroup is not None:
                    with suppress(OSError), open(f"{self._cgroup}/cgroup.procs", "w", encoding="ascii") as file:
                        file.write("0")
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
        self._wait_for(self._family.signal(number))

    def _wait_for(self, refused: set[int]) -> None:
        """Say once of each process that it is out of reach: the lock is kept until it ends."""
        for pid in sorted(refused - self._out_of_reach):
            with suppress(OSError):
                print(
                    f"cluck: process {pid} of {_user(pid)} may not be signalled: it is waited for",
                    file=sys.stderr,
                    flush=True,
                )
            self._tell(waits=True)
        self._out_of_reach |= refused

    def _reap(self) -> None:
        """Bury who has ended; when the command has, give the others the grace."""
        for pid, code in self._family.bury():
            if pid == self._pid:
                self._code = code
                self._until = float("inf")
                self._kill_at = min(self._kill_at, _now() + self._grace * GRACE_SHARE)
        if self._code is not None and self._family.is_gone():
            self._tell(ended=self._code, overdue=self._is_overdue)
            self._is_over = True

    def _keep_time(self) -> None:
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
            refused = self._family.kill()
            self._kill_at = now + (LONGEST_REST if refused else KILL_INTERVAL)
            self._wait_for(refused)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def main() -> None:
    """Read the arguments, and guard."""
    descriptor, grace, which, *command = sys.argv[1:]
    control = socket.socket(fileno=int(descriptor))
    Guardian(control, float(grace), command, leaves_daemons=which == "session").run()


if __name__ == "__main__":
    main()
