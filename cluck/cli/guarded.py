"""A command under a guardian, as `cluck run` and `cluck elect` hold it."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import trio

from cluck.cli import guardian
from cluck.cli.common import CommandFailed, Exit
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
LEAST_BACKSTOP: Final = 1.0
"""Seconds behind the grace that a guardian has to say that all is over; then it is stopped itself, or stuck."""


class Guarded:
    """The one command of a guardian."""

    def __init__(self, control: socket.socket, process: trio.Process, command: str, grace: float) -> None:
        self._control = control
        self._process = process
        self._command = command
        self._grace = grace
        self._is_started = False
        self._pid = 0
        self._code: int | None = None

    @property
    def runs(self) -> bool:
        """Whether the command has been started, perhaps this moment, and has not ended."""
        return self._is_started and self._code is None

    def start(self, environment: Mapping[str, str], until: float = math.inf) -> None:
        """Start the command, with this in its environment; it may run until this boot-time."""
        self._is_started = True
        self._say(start=dict(environment), until=until)

    def extend(self, until: float) -> None:
        """The command may run on until this boot-time."""
        self._say(until=until)

    def keep(self, descriptor: int) -> None:
        """Have a copy of this connection to the lock server kept open until the command has ended; of no former one."""
        with suppress(OSError):
            socket.send_fds(self._control, [b"{}"], [descriptor])

    def forward(self, number: int) -> None:
        """Send a signal to the command's group."""
        self._say(signal=number)

    async def ended(self) -> int:
        """Wait for the end of the command and its group; return its exit code.

        Raises `CommandFailed` where it cannot be run, was ended since its time was over, or killed since its guardian
        was.
        """
        while self._code is None:
            said = await self._hear()
            self._pid = said.get("started", self._pid)
            self._code = said.get("ended")
            if number := said.get("failed"):
                self._is_started = False
                code = Exit.NO_COMMAND if number == errno.ENOENT else Exit.CANNOT_RUN
                raise CommandFailed(f"{self._command}: {os.strerror(number)}", code)
            if said.get("overdue"):
                raise CommandFailed("the lease ended without renewal, and the command with it", Exit.LOST)
        return self._code

    async def end(self) -> None:
        """End it: SIGTERM, after the grace SIGKILL. Not cancelled on the way."""
        if not self.runs:
            return
        self.extend(boot_time())
        with trio.CancelScope(shield=True), suppress(CommandFailed):
            with trio.move_on_after(self._grace + LEAST_BACKSTOP):
                await self.ended()
                return
            self.kill()
            await self._process.wait()

    async def _hear(self) -> dict[str, Any]:
        """Wait for what the guardian says next; where that has been killed, kill the command."""
        await trio.lowlevel.wait_readable(self._control)
        record = self._control.recv(guardian.RECORD)
        if not record:
            self.kill()
            raise CommandFailed("the process that guards the command was killed, so the command was too", Exit.FAILED)
        said: dict[str, Any] = json.loads(record)
        return said

    def _say(self, **said: Any) -> None:
        """Tell the guardian; one that does not listen keeps to what it was told before, which is the stricter."""
        with suppress(OSError):
            self._control.send(json.dumps(said).encode())

    def kill(self) -> None:
        """Kill all, the guardian too."""
        if self.runs:
            if self._pid:  # else it has not begun, and will not without its guardian
                with suppress(ProcessLookupError):
                    os.killpg(self._pid, signal.SIGKILL)
            self._code = Exit.SIGNALLED + signal.SIGKILL
        self._process.kill()


@asynccontextmanager
async def guarded(command: Sequence[str], grace: float) -> AsyncGenerator[Guarded, None]:
    """Have a guardian ready for a command; what still runs at the end of the block is killed."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here:
        with there:
            arguments = [sys.executable, "-I", "-S", str(Path(guardian.__file__)), str(there.fileno()), str(grace)]
            process = await trio.lowlevel.open_process(
                [*arguments, *command], pass_fds=(there.fileno(),), start_new_session=True
            )
        here.setblocking(False)
        one = Guarded(here, process, command[0], grace)
        try:
            yield one
        finally:
            here.close()  # by which the guardian kills what still runs
            with trio.move_on_after(LEAST_BACKSTOP, shield=True):
                await process.wait()
            if process.returncode is None:
                one.kill()
