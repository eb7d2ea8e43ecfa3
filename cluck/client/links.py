"""The ways from an event loop to a lock server: a `Transport` opens a `Link`, through the socket of `cluckd` here.

The lock server of a program's own process has another transport (`cluck.embedded`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import anyio
import anyio.lowlevel

from cluck.client.transport import CLUCKD, DaemonSocket
from cluck.clock import boot_time
from cluck.protocol import Downward, Upward
from cpg.block import Waiters
from cpg.local.client_socket import READ_TURN
from totem.process import process_check


class Link(Protocol):
    """One connection to a lock server, through which nothing has been sent yet."""

    def send(self, records: Sequence[Upward]) -> None:
        """Send these to the server, in order, now or soon. Never waits, and never raises where the server is gone."""

    async def receive(self) -> Iterable[Downward]:
        """Wait for what the server sends next; return it in order.

        Raises:
            ConnectionLost: Nothing more will come.
            LockError: Nothing more will come, and another connection would fare no better.
        """

    async def carry(self) -> None:
        """Send what `send` had no room for, until cancelled."""

    def abandon(self) -> None:
        """Close what a forked process has inherited of the connection, and send nothing."""

    async def close(self) -> None:
        """Send what the server still takes, and close. The caller bounds how long that takes."""


class Transport(Protocol):
    """The way to a lock server."""

    def clock(self) -> float:
        """Return the seconds of the boot-time clock; in virtual time, of the event loop's clock."""

    async def open(self) -> Link:
        """Open a connection.

        Raises:
            NoDaemon: There is no lock server now; a later try may succeed.
            LockError: A later try would fail, too.
        """


class SocketTransport:
    """The way to this machine's daemon."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def clock(self) -> float:
        """Return the seconds of the boot-time clock."""
        return boot_time()

    async def open(self) -> SocketLink:
        """Open a connection."""
        return SocketLink(DaemonSocket(CLUCKD.open(self._path), self._path))


class SocketLink:
    """A connection to a daemon."""

    def __init__(self, records: DaemonSocket) -> None:
        self._records = records
        self._is_own = process_check()
        self._behind = Waiters()
        self._turn = 0

    def fileno(self) -> int:
        """Return the socket's descriptor; -1 where it is closed."""
        return self._records.sock.fileno()

    def send(self, records: Sequence[Upward]) -> None:
        """Send these to the server, as far as the socket has room."""
        was_behind = self._records.is_behind
        self._records.send(records)
        if self._records.is_behind and not was_behind:
            self._behind.wake()

    async def receive(self) -> Iterable[Downward]:
        """Wait for the next record."""
        self._turn += 1
        if self._turn % READ_TURN == 0:
            await anyio.lowlevel.checkpoint()
        while (received := self._records.read()) is None:
            await anyio.wait_readable(self._records.sock)
            await self._stay_out_of_forks()
        return received

    async def carry(self) -> None:
        """Write what the socket had no room for, as soon as it has."""
        while True:
            while not self._records.is_behind:
                await self._behind.wait()
            await anyio.wait_writable(self._records.sock)
            await self._stay_out_of_forks()
            self._records.write()

    async def _stay_out_of_forks(self) -> None:
        """Read and write nothing in a forked process: what comes is for the parent."""
        if not self._is_own():
            await anyio.sleep_forever()

    def abandon(self) -> None:
        """Close the descriptor.

        The event loop's selector is the parent's, too. It would lose the socket if a wait for the open descriptor were
        cancelled here.
        """
        self._records.close()

    async def close(self) -> None:
        """Write what is left, and close the socket."""
        try:
            while self._records.is_behind:
                await anyio.wait_writable(self._records.sock)
                self._records.write()
        finally:
            self._records.close()
