"""The daemon's sockets: who connects, what they send and what they are told, between the hub and the kernel.

What the ring delivers in one turn is written to all its clients at the end of that turn, in as few records as there
can be. A client whose socket is full has a task that waits for it; everybody else goes on.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import struct
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from cpg.daemon.hub import Client, Hub
from cpg.embedded import EmbeddedRing
from cpg.ipc import RECORD, Farewell
from totem.configuration import Delivery
from totem.errors import RingLost

_log = logging.getLogger(__name__)

MayConnect = Callable[[int, int], bool]
"""Whether a user (uid, gid) may connect."""

BACKLOG: Final = 1024
READ_TURN: Final = 16
"""Records taken from one client before others get a turn."""
SEND_BUFFER: Final = 1 << 20
"""Bytes asked for in each client's socket; the kernel may give less."""
BEHIND_INTERVAL: Final = 0.05
"""Seconds between two looks whether a client that is behind has read."""
GOODBYE_PATIENCE: Final = 600.0
"""Seconds that a goodbye waits for a client that does not read."""
FAREWELL_PATIENCE: Final = 1.0
"""Seconds that clients have to take their goodbye when the daemon ends."""
ACCEPT_PAUSE: Final = 0.1
"""Seconds before the next try when there are no descriptors left."""
_NO_DESCRIPTORS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_CREDENTIALS = struct.Struct("3i")


class ServedRing(EmbeddedRing):
    """The daemon's place in the ring: it tells the hub what happens, and writes to clients when a turn is over."""

    hub: Hub | None = None
    write: Callable[[], None] = staticmethod(lambda: None)

    def deliver(self, deliveries: Iterable[Delivery]) -> None:
        """Take what the processor delivers in one turn, and hand it on."""
        super().deliver(deliveries)
        self.write()

    def fail(self, failure: BaseException) -> None:
        """The ring cannot go on: all clients are told why."""
        if self.hub is not None:
            self.hub.dismiss_all(f"node {self.node_id}: {failure}")
            self.write()
        super().fail(failure)


class Server:
    """The clients' connections of one daemon."""

    def __init__(self, ring: ServedRing, hub: Hub, may_connect: MayConnect) -> None:
        self._ring = ring
        self._hub = hub
        self._may_connect = may_connect
        self._connections: dict[Client, _Connection] = {}
        ring.hub = hub
        ring.write = self.write
        ring.observe(hub.ring_event)

    async def accept(self, listener: socket.socket) -> None:
        """Accept clients until cancelled; their connections end with this."""
        is_short = False
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(listener)
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    continue
                except OSError as error:
                    if error.errno not in _NO_DESCRIPTORS:
                        raise
                    if not is_short:
                        _log.warning("no more clients for now: %s; raise LimitNOFILE of the service", error.strerror)
                    is_short = True
                    await trio.sleep(ACCEPT_PAUSE)
                    continue
                is_short = False
                nursery.start_soon(self._serve_one, connection)

    def write(self) -> None:
        """Write what was queued since the last time. Hot: once for each turn of the ring."""
        for client in self._hub.take_written():
            connection = self._connections.get(client)
            if connection is not None:
                connection.write()

    async def farewell(self, text: str, patience: float) -> None:
        """Tell all clients that the daemon ends, and wait for those that read: so many seconds."""
        self._hub.dismiss_all(text)
        self.write()
        with trio.move_on_after(patience, shield=True):
            for connection in list(self._connections.values()):
                await connection.written()

    async def _serve_one(self, sock: socket.socket) -> None:
        with sock:
            sock.setblocking(False)
            _widen(sock)
            pid, uid, gid = _CREDENTIALS.unpack(
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
            client = self._hub.connect(pid, uid)
            connection = self._connections[client] = _Connection(sock, client)
            try:
                if not self._may_connect(uid, gid):
                    _log.warning("process %d of the user with uid %d may not connect (uidgid)", pid, uid)
                    client.dismiss(Farewell.ACCESS, _refusal(uid))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(connection.write_on)
                    with suppress(RingLost):  # which all clients are told by `farewell`
                        await self._read(connection)
                    nursery.cancel_scope.cancel()
            finally:
                del self._connections[client]
                self._hub.disconnect(client)
                self._ring.send_soon()
                self.write()

    async def _read(self, connection: _Connection) -> None:
        """Do what the client asks for until it is gone, or has read its goodbye."""
        client = connection.client
        while not client.ended:
            for _ in range(READ_TURN):
                record = connection.read()
                if record is None:
                    break
                if not record:
                    return
                client.receive(record)
                while (need := client.work()) is not None:
                    self._ring.send_soon()
                    self.write()
                    await self._ring.wait_room(need)
            self._ring.send_soon()
            self.write()
            while client.is_behind and not client.ended:
                await trio.sleep(BEHIND_INTERVAL)
            if record is None:
                await trio.lowlevel.wait_readable(connection.sock)
            else:
                await trio.lowlevel.checkpoint()
        _log.warning("a client was told goodbye: %s", client.farewell)
        self.write()
        with trio.move_on_after(GOODBYE_PATIENCE):
            await connection.written()


@asynccontextmanager
async def serve(
    listener: socket.socket, ring: ServedRing, hub: Hub, may_connect: MayConnect
) -> AsyncGenerator[Server, None]:
    """Take part in the ring and serve the clients of a socket for the time of a block.

    Entered when the first ring is complete; clients that come earlier wait. Raises `RingLost`.
    """
    server = Server(ring, hub, may_connect)
    async with ring.live(), trio.open_nursery() as nursery:
        nursery.start_soon(server.accept, listener)
        yield server
        await server.farewell(f"the daemon of node {ring.node_id} has been told to end", FAREWELL_PATIENCE)
        nursery.cancel_scope.cancel()


class _Connection:
    """One client's socket."""

    def __init__(self, sock: socket.socket, client: Client) -> None:
        self.sock = sock
        self.client = client
        self._record: bytes | None = None
        """What the socket had no room for."""
        self._news = trio.lowlevel.ParkingLot()

    def read(self) -> bytes | None:
        """Return the next record; None if there is none now, empty when the client is gone."""
        try:
            return self.sock.recv(RECORD + 1)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def write(self) -> None:
        """Write what waits, as far as the socket takes it. Hot: once for each turn of the ring and client."""
        if self._record is None:
            self._write_more()
            if self._record is not None:
                self._news.unpark_all()

    def _write_more(self) -> None:
        client = self.client
        while self._record is not None or client.writer:
            record = self._record if self._record is not None else client.record()
            try:
                self.sock.send(record)
            except BlockingIOError:
                self._record = record
                return
            except OSError:  # it is gone; reading tells, behind what it has asked for
                self._record = None
                client.hush()
                return
            self._record = None

    async def write_on(self) -> None:
        """Write whenever the socket has room again."""
        while True:
            while self._record is None:
                await self._news.park()
            await trio.lowlevel.wait_writable(self.sock)
            self._write_more()
            if self._record is None:
                self._news.unpark_all()

    async def written(self) -> None:
        """Wait until all that waited is in the kernel."""
        while self._record is not None:
            await self._news.park()


@contextmanager
def listening(path: Path) -> Generator[socket.socket, None, None]:
    """Have the daemon's socket for the time of a block; one that nobody listens at any more is replaced.

    Raises `OSError` that names the path, and who listens there already.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_dead(path)
            listener.bind(str(path))
            path.chmod(0o666)  # who may connect is settled by the peer's credentials
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
    """Ask for a larger send buffer: beyond the system's limit where this process may."""
    force = getattr(socket, "SO_SNDBUFFORCE", 32)
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, SEND_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)


def _refusal(uid: int) -> str:
    return (
        f"the daemon refuses the user with uid {uid}: run as root or as the daemon's user (uid {os.geteuid()}), or let "
        f"the user in with `uidgid {{ uid: {uid} }}` in the daemon's configuration, each word on its line, and SIGHUP"
    )
