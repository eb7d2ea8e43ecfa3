"""A daemon's socket and its clients' connections, whatever their protocol: accepting, records in, records out.

What waits for a client is written as soon as its socket has room. A client whose socket is full has a task that waits
for it, and everybody else goes on.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import trio

from cpg.local.client_socket import FAREWELL_PATIENCE, SEND_BUFFER, Outbox, RecordSocket, usual_socket
from cpg.local.log_pacing import PacedLog
from totem.errors import ConfigError

LONGEST_PATH: Final = 107
"""Largest number of bytes of a socket's path in the kernel."""
BACKLOG: Final = 1024
BEHIND_INTERVAL: Final = 0.05
"""Seconds between two checks whether a client that is behind has read."""
ACCEPT_PAUSE: Final = 0.1
"""Seconds before the next try when there are no descriptors left."""
_NO_DESCRIPTORS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_CREDENTIALS = struct.Struct("3i")


class Peer(NamedTuple):
    """The process at the other end."""

    pid: int
    uid: int
    gid: int


async def accept(
    listener: socket.socket, serve: Callable[[socket.socket, Peer], Awaitable[None]], paced_log: PacedLog
) -> None:
    """Accept clients until cancelled and serve each in a task; their connections end with this."""

    async def serve_one(connection: socket.socket) -> None:
        with connection:
            connection.setblocking(False)
            _widen(connection)
            await serve(connection, _peer(connection))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(paced_log.keep_logging_counts)
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno not in _NO_DESCRIPTORS:
                    raise
                text = "no more clients for now: %s; raise LimitNOFILE of the service"
                paced_log.warning("descriptors", text, error.strerror)
                await trio.sleep(ACCEPT_PAUSE)
                continue
            nursery.start_soon(serve_one, connection)


def _peer(connection: socket.socket) -> Peer:
    return Peer(*_CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))


class Connection(RecordSocket):
    """One client's socket."""

    def __init__(self, sock: socket.socket, outbox: Outbox, largest: int) -> None:
        """`outbox`: what waits for the client; `largest`: bytes of the longest record that may arrive."""
        super().__init__(sock, outbox, largest)
        self._news = trio.lowlevel.ParkingLot()

    def read(self) -> bytes | None:
        """Return the next record; None if there is none now, empty when the client is gone.

        A client that is reset is gone: its last records are not read, unlike those of a daemon.
        """
        try:
            return self.sock.recv(self._largest + 1)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def write(self) -> None:
        """Write what waits, as far as the socket has room. Hot: once for each turn of the ring and client."""
        if self.unsent is None:
            self.write_now()
            if self.unsent is not None:
                self._news.unpark_all()

    async def write_on(self) -> None:
        """Write whenever the socket has room again."""
        while True:
            while self.unsent is None:
                await self._news.park()
            await trio.lowlevel.wait_writable(self.sock)
            self.write_now()
            if self.unsent is None:
                self._news.unpark_all()

    async def written(self) -> None:
        """Wait until all that waited is in the kernel."""
        while self.unsent is not None:
            await self._news.park()


async def all_written(connections: Iterable[Connection]) -> None:
    """Wait until all clients that read have what waited for them, also where this is cancelled."""
    with trio.move_on_after(FAREWELL_PATIENCE, shield=True):
        for connection in list(connections):
            await connection.written()


@contextmanager
def listening(path: Path) -> Generator[socket.socket, None, None]:
    """Listen at the daemon's socket for the time of a block; a socket that nobody listens at any more is replaced.

    The folder of the usual place is made; any other one must exist. Raises `OSError` that names the path, also where
    another daemon listens there, and `ConfigError` for a path that is too long.
    """
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise ConfigError(
            f"the daemon's socket {path}: the path has more than {LONGEST_PATH} bytes, name a shorter one"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        try:
            if path == usual_socket(path.parent.name):
                path.parent.mkdir(exist_ok=True)
            if not path.parent.is_dir():
                raise OSError(errno.ENOENT, f"there is no folder {path.parent}")
            _remove_dead(path)
            listener.bind(str(path))
            path.chmod(0o666)  # the peer's credentials decide who may connect
            listener.setblocking(False)
            listener.listen(BACKLOG)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror or error}: the daemon's socket {path}") from None
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _remove_dead(path: Path) -> None:
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise OSError(errno.EEXIST, "something that is no socket is in the way")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, "another daemon listens there")


def _widen(sock: socket.socket) -> None:
    """Request a larger send buffer: beyond the system's limit where this process may."""
    force = getattr(socket, "SO_SNDBUFFORCE", 32)
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, SEND_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
