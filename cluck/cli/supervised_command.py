"""A command under a guardian, as `cluck run` and `cluck elect` hold it."""

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
"""Of the grace: until then a guardian is to say that all is over. Else it is stopped itself, or stuck."""
END_PATIENCE: Final = 1.0
"""Seconds that a guardian which has nothing to guard any more takes to end."""


class Overdue(CommandFailed):
    """The command was ended since its time was over."""


class Guarded:
    """The one command of a guardian."""

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
        """The guardian waits for a process that it may not signal."""
        self._patience = trio.CancelScope()
        """In which the guardian is to say that all has ended, once it was told to end it."""

    @property
    def runs(self) -> bool:
        """Whether the command has been started, perhaps this moment, and has not ended."""
        return self._is_started and self._code is None

    def start(self, environment: Mapping[str, str], until: float = math.inf) -> None:
        """Start the command, with this in its environment; it may run until this boot-time."""
        self._is_started = True
        self._until = until
        self._say(start=dict(environment), until=until)

    def extend(self, until: float) -> None:
        """The command may run on until this boot-time."""
        self._until = until
        self._say(until=until)

    def keep(self, descriptor: int) -> None:
        """Have a copy of this connection to the lock server kept open until the command has ended; of no former one."""
        with suppress(OSError):
            socket.send_fds(self._control, [b"{}"], [descriptor])

    def forward(self, number: int) -> None:
        """Send a signal to the command and all that descends from it."""
        self._say(signal=number)

    async def ended(self) -> int:
        """Wait for the end of the command and all that descends from it; return its exit code.

        Raises `Overdue` where it was ended since its time was over, `CommandFailed` where it cannot be run, or was
        killed since its guardian was.
        """
        while self._code is None:
            said = await self._hear()
            self._cgroup = said.get("cgroup", self._cgroup)
            self._code = said.get("ended")
            if "waits" in said:
                self._waits, self._patience.deadline = True, math.inf
            if number := said.get("failed"):
                self._is_started = False
                code = Exit.NO_COMMAND if number == errno.ENOENT else Exit.CANNOT_RUN
                raise CommandFailed(f"{self._command}: {os.strerror(number)}{_advice(self._command, code)}", code)
            if said.get("overdue"):
                raise Overdue("the lease ended without renewal, and the command with it", Exit.LOST)
        return self._code

    async def end(self) -> None:
        """End it: SIGTERM, after the grace SIGKILL. Not cancelled on the way."""
        if not self.runs:
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

    async def _hear(self) -> dict[str, Any]:
        """Wait for what the guardian says next; where that has been killed, kill the command."""
        await trio.lowlevel.wait_readable(self._control)
        try:
            record = self._control.recv(supervisor.RECORD)
        except ConnectionResetError:  # it has not read all that it was told
            record = b""
        if not record:
            await self.take_over()
            if (self._process.returncode or 0) > 0:
                text = "the process that guards the command has failed, with what stands above; the command was killed"
                raise CommandFailed(text, Exit.CANNOT_RUN)
            raise CommandFailed("the process that guards the command was killed, so the command was too", Exit.FAILED)
        said: dict[str, Any] = json.loads(record)
        return said

    def _say(self, **said: Any) -> None:
        """Tell the guardian; one that does not listen keeps to what it was told before, which is the stricter."""
        with suppress(OSError):
            self._control.send(json.dumps(said).encode())

    async def take_over(self) -> None:
        """Kill the guardian and all that it has guarded, and wait for their end. Not cancelled on the way."""
        self._process.kill()
        with trio.CancelScope(shield=True):
            await self._process.wait()
            family = supervisor.Family(self._session, self._cgroup)  # by now what descends from this process
            while not family.is_gone():
                family.kill()
                for _ in family.bury():
                    continue
                await trio.sleep(supervisor.KILL_INTERVAL)
            family.forget()
        if self.runs:
            self._code = Exit.SIGNALLED + signal.SIGKILL


async def _start_guardian(command: Sequence[str], grace: float, which: str) -> tuple[socket.socket, trio.Process]:
    """Start a guardian; return the socket to it, which does not block. Raises OSError."""
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
    """Say what to do where a whole line of a shell was taken for the name of a command."""
    if code is Exit.NO_COMMAND and " " in command.strip():
        return f": that is one word, for a shell's line say -- sh -c {shlex.quote(command)}"
    return ""


def _unguarded(error: OSError) -> str:
    """Say why there is no guardian, and what to do."""
    if error.errno in (errno.EACCES, errno.ENOENT, errno.EPERM):
        advice = "install the package where this user may run its Python"
    else:
        advice = "look at this user's limits, and at the machine's memory"
    return f"the process that is to guard the command, {sys.executable}, cannot be started: {error.strerror}: {advice}"


@asynccontextmanager
async def guarded(command: Sequence[str], grace: float, *, leaves_daemons: bool) -> AsyncGenerator[Guarded, None]:
    """Have a guardian ready for a command; what still runs at the end of the block is killed.

    Args:
        command: What is to be run, and its arguments.
        grace: Seconds that it is given to end, once it has to.
        leaves_daemons: Whether what has begun a session of its own is let go.

    Raises `CommandFailed` where the system does not tell which children a process has, or starts no guardian.
    """
    if not supervisor.sees_children():
        text = "/proc does not tell of a process's children, so no command can be guarded"
        raise CommandFailed(text, Exit.CANNOT_RUN)
    supervisor.adopt_orphans()  # those of a guardian that is killed
    try:
        here, process = await _start_guardian(command, grace, "session" if leaves_daemons else "all")
    except OSError as error:
        raise CommandFailed(_unguarded(error), Exit.CANNOT_RUN) from None
    with here:
        one = Guarded(here, process, command[0], grace, leaves_daemons=leaves_daemons)
        try:
            yield one
        finally:
            here.close()  # by which the guardian kills what still runs
            with trio.move_on_after(END_PATIENCE, shield=True):
                await process.wait()
            if process.returncode is None:
                await one.take_over()
