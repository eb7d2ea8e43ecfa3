"""A command under a supervisor, as `cluck run` and `cluck elect` see it."""

from __future__ import annotations

import errno
import json
import math
import os
import shlex
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import trio

from cluck.cli import supervisor
from cluck.cli.exit_codes import CommandFailed, Exit
from cluck.clock import boot_time

FORWARDED: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
BACKSTOP_SHARE: Final = (1 + supervisor.GRACE_SHARE) / 2
"""The share of the grace in which a supervisor reports the end. One that does not is stopped itself, or stuck."""
END_PATIENCE: Final = 1.0
"""Seconds that a supervisor may take to end when its command has ended."""


class Overdue(CommandFailed):
    """The command was ended because its time was over."""


class SupervisedCommand:
    """The command of one supervisor."""

    def __init__(
        self, control: socket.socket, process: trio.Process, command: str, grace: float, *, leaves_daemons: bool
    ) -> None:
        self._control = control
        self._process = process
        self._command = command
        self._grace = grace
        self._session = process.pid if leaves_daemons else None
        self._cgroup: str | None = None
        self._is_started = False
        self._until = math.inf
        self._code: int | None = None
        self._waits = False
        """Whether the supervisor waits for a process that it may not signal."""
        self._patience = trio.CancelScope()
        """Limits the wait for the report of the end, after the request to end."""

    @property
    def is_running(self) -> bool:
        """Whether the start was requested and no end was reported."""
        return self._is_started and self._code is None

    def start(self, environment: Mapping[str, str], until: float = math.inf) -> None:
        """Start the command with these variables added to its environment; it may run until this boot-time."""
        self._is_started = True
        self._until = until
        self._send(start=dict(environment), until=until)

    def extend(self, until: float) -> None:
        """Let the command run until this boot-time."""
        self._until = until
        self._send(until=until)

    def keep(self, descriptor: int) -> None:
        """Have the supervisor keep a copy of this connection, in place of the former, until the command has ended."""
        with suppress(OSError):
            socket.send_fds(self._control, [b"{}"], [descriptor])

    def forward(self, number: int) -> None:
        """Send a signal to the command and all its descendants."""
        self._send(signal=number)

    async def ended(self) -> int:
        """Wait until the command and all its descendants have ended; return its exit code.

        Raises `Overdue` if it was ended because its time was over. Raises `CommandFailed` if it cannot be run, or was
        killed because its supervisor was.
        """
        while self._code is None:
            report = await self._receive()
            self._cgroup = report.get("cgroup", self._cgroup)
            self._code = report.get("ended")
            if "waits" in report:
                self._waits, self._patience.deadline = True, math.inf
            if number := report.get("failed"):
                self._is_started = False
                code = Exit.NO_COMMAND if number == errno.ENOENT else Exit.CANNOT_RUN
                raise CommandFailed(f"{self._command}: {os.strerror(number)}{_advice(self._command, code)}", code)
            if report.get("overdue"):
                raise Overdue("the lease ended without renewal, so the command was ended", Exit.LOST)
        return self._code

    async def end(self) -> None:
        """End the command: SIGTERM, then SIGKILL before the grace is over. This cannot be cancelled."""
        if not self.is_running:
            return
        now = boot_time()
        self.extend(min(now, self._until))
        with trio.CancelScope(shield=True), suppress(CommandFailed):
            if not self._waits:
                left = self._until + self._grace * BACKSTOP_SHARE - now
                self._patience.deadline = trio.current_time() + max(left, 0.0)
            with self._patience:
                await self.ended()
                return
            await self.take_over()

    async def _receive(self) -> dict[str, Any]:
        """Wait for the next report of the supervisor; if that was killed, kill the command."""
        await trio.lowlevel.wait_readable(self._control)
        try:
            record = self._control.recv(supervisor.RECORD)
        except ConnectionResetError:  # it has not read all records
            record = b""
        if not record:
            await self.take_over()
            if (self._process.returncode or 0) > 0:
                text = "the process that supervises the command has failed, see the error above; the command was killed"
                raise CommandFailed(text, Exit.CANNOT_RUN)
            text = "the process that supervises the command was killed, so the command was killed too"
            raise CommandFailed(text, Exit.FAILED)
        report: dict[str, Any] = json.loads(record)
        return report

    def _send(self, **fields: Any) -> None:
        """Send a record to the supervisor. One that does not read keeps its former deadline, which is earlier."""
        with suppress(OSError):
            self._control.send(json.dumps(fields).encode())

    async def take_over(self) -> None:
        """Kill the supervisor and all its descendants, and wait for their end. This cannot be cancelled."""
        self._process.kill()
        with trio.CancelScope(shield=True):
            await self._process.wait()
            tree = supervisor.ProcessTree(self._session, self._cgroup)  # by now they are descendants of this process
            while not tree.has_ended():
                tree.kill()
                for _ in tree.reap():
                    continue
                await trio.sleep(supervisor.KILL_INTERVAL)
            tree.remove_cgroup()
        if self.is_running:
            self._code = Exit.SIGNALLED + signal.SIGKILL


async def _start_supervisor(command: Sequence[str], grace: float, which: str) -> tuple[socket.socket, trio.Process]:
    """Start a supervisor; return its process and the non-blocking socket to it. Raises OSError."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        try:
            python = [sys.executable, "-I", "-S", str(Path(supervisor.__file__))]
            arguments = [str(there.fileno()), str(grace), which, *command]
            process = await trio.lowlevel.open_process(
                [*python, *arguments], pass_fds=(there.fileno(),), start_new_session=True
            )
        except BaseException:
            here.close()
            raise
    here.setblocking(False)
    return here, process


def _advice(command: str, code: Exit) -> str:
    """Return advice for a command line that was given as one word."""
    if code is Exit.NO_COMMAND and " " in command.strip():
        return f": this is one word; to run a line of a shell, use -- sh -c {shlex.quote(command)}"
    return ""


def _no_supervisor(error: OSError) -> str:
    """Return the error that no supervisor can be started, with advice."""
    if error.errno in (errno.EACCES, errno.ENOENT, errno.EPERM):
        advice = "install the package where this user may run its Python"
    else:
        advice = "check this user's limits, and the machine's memory"
    return f"the process that supervises the command, {sys.executable}, cannot be started: {error.strerror}: {advice}"


@asynccontextmanager
async def supervised(
    command: Sequence[str], grace: float, *, leaves_daemons: bool
) -> AsyncGenerator[SupervisedCommand, None]:
    """Start a supervisor for a command; what still runs at the end of the block is killed.

    Args:
        command: The command and its arguments.
        grace: Seconds that the command has to end after its deadline.
        leaves_daemons: Whether processes that have begun a session of their own are left alone.

    Raises `CommandFailed` if the system does not list the children of a process, or no supervisor can be started.
    """
    if not supervisor.sees_children():
        text = "/proc does not list the children of processes, so no command can be supervised"
        raise CommandFailed(text, Exit.CANNOT_RUN)
    supervisor.adopt_orphans()  # those of a supervisor that is killed
    try:
        here, process = await _start_supervisor(command, grace, "session" if leaves_daemons else "all")
    except OSError as error:
        raise CommandFailed(_no_supervisor(error), Exit.CANNOT_RUN) from None
    with here:
        one = SupervisedCommand(here, process, command[0], grace, leaves_daemons=leaves_daemons)
        try:
            yield one
        finally:
            here.close()  # the supervisor then kills what still runs
            with trio.move_on_after(END_PATIENCE, shield=True):
                await process.wait()
            if process.returncode is None:
                await one.take_over()
