"""A ring through the daemon `cpgd` of this machine: `async with cpg.connect() as ring`.

The daemon is the node; this process is one of its programs. Groups and their streams are those of every other ring, the
level of each message as on an embedded one. A thin shell around `cpg.session`: what is sent goes to the socket at once
where it has room, else as soon as it has.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.lowlevel

from cpg.block import Waiters
from cpg.errors import DaemonUnavailable
from cpg.events import Member, RingEvent, Transitional
from cpg.group import OnTransitional
from cpg.ipc import RECORD
from cpg.membership import Inbox
from cpg.ring import Ring
from cpg.session import RemoteMembership, Session
from totem.configuration import RingId

READ_TURN: Final = 16
"""Records taken in before others get a turn."""
SEND_BUFFER: Final = 1 << 20
"""Bytes asked for in the socket; the kernel may give less."""
WELCOME_PATIENCE: Final = 30.0
"""Seconds that opening waits for a daemon that starts, or does not answer."""


def default_socket() -> Path:
    """Where the daemon of this machine listens: `$CPGD_SOCKET`, else /run/cpgd/socket for root's, else in the
    folder of the user's own sockets.
    """
    if named := os.environ.get("CPGD_SOCKET"):
        return Path(named)
    system = Path("/run/cpgd/socket")
    folder = os.environ.get("XDG_RUNTIME_DIR")
    if os.geteuid() == 0 or system.exists() or not folder:
        return system
    return Path(folder, "cpgd", "socket")


def open_socket(path: Path) -> socket.socket:
    """Connect to a daemon's socket, which does not block from then on. Raises `DaemonUnavailable`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        sock.connect(str(path))
    except OSError as error:
        sock.close()
        raise _unavailable(path, error) from None
    sock.setblocking(False)
    return sock


def _unavailable(path: Path, error: OSError) -> DaemonUnavailable:
    match error.errno:
        case errno.ENOENT | errno.ECONNREFUSED:
            text = f"no daemon listens at {path}: start it (cpgd -c FILE), or name its socket in CPGD_SOCKET"
        case errno.EACCES:
            text = f"the socket {path} may not be opened by the user with uid {os.geteuid()}: look at its folder's mode"
        case _:
            text = f"the daemon's socket {path} cannot be opened: {error.strerror}"
    return DaemonUnavailable(text)


def unanswered(path: Path) -> DaemonUnavailable:
    """Make what says that there is no welcome."""
    return DaemonUnavailable(f"the daemon at {path} has not answered for {WELCOME_PATIENCE:.0f} s: is it stopped?")


def read_record(sock: socket.socket) -> bytes | None:
    """Read one record; None if there is none now, empty when the daemon has closed the connection.

    A daemon that closes while something is on its way to it shows as a reset first; its last words are behind that.
    """
    try:
        return sock.recv(RECORD + 1)
    except BlockingIOError:
        return None
    except ConnectionResetError:
        return read_record(sock)
    except OSError:
        return b""


def write_records(sock: socket.socket, session: Session, unsent: bytes | None) -> bytes | None:
    """Write what waits in a session, an earlier record that had no room first; the one that has none now."""
    while unsent is not None or session.writer:
        record = unsent if unsent is not None else session.writer.record()
        unsent = None
        try:
            sock.send(record)
        except BlockingIOError:
            return record
        except OSError:  # the daemon is gone; reading tells
            session.writer.clear()
    return None


def own_name() -> str:
    """What the daemon's administrator sees of this program."""
    return Path(sys.argv[0]).name or "python"


class DaemonRing(Ring):
    """The daemon's ring, and the groups that this program joins there.

    A daemon that ends, or closes the connection, ends the block with `RingLost`; one that puts this program out since
    it did not read, with `SlowConsumer`.
    """

    gives_safe = True

    def __init__(self, sock: socket.socket, session: Session) -> None:
        assert session.member is not None
        super().__init__(session.member)
        self._sock = sock
        self._session = session
        self._unsent: bytes | None = None
        self._sending = Waiters()

    # ---- the program's side

    @property
    def ring_id(self) -> RingId:
        """The present ring: its representative and its sequence number."""
        return self._session.ring_id

    @property
    def node_ids(self) -> tuple[int, ...]:
        """The nodes of the present ring, ascending."""
        return self._session.node_ids

    @property
    def quorate(self) -> bool:
        """Whether the present ring has the votes to act for the cluster, as far as the daemon has told."""
        return self._session.quorum is not None and self._session.quorum.quorate

    async def list_groups(self) -> dict[bytes, tuple[Member, ...]]:
        """Whoever is in which group, anywhere in the ring; by name in ascending order."""
        groups = await self.ask("groups")
        return {name.encode("latin-1"): tuple(Member(*member) for member in members) for name, members in groups}

    async def ask(self, question: str) -> Any:
        """Ask the daemon for what it knows: "groups", "quorum", "status"; values as JSON has them."""
        number = self._session.ask(question)
        self.send_soon()
        await self._until(lambda: self._session.has_answer(number) or self._ended())
        self._check()
        return self._session.answer(number)

    def on_transitional(self, callback: OnTransitional) -> OnTransitional:
        """Have `callback(node_ids)` called when a change of ring begins."""
        return self._register(Transitional, callback)

    # ---- the groups' side (`cpg.group.Backend`)

    async def enter(self, name: bytes, inbox: Inbox) -> RemoteMembership:
        """Join a group; raises why the daemon does not let this process in."""
        self._check()
        membership = self._session.join(name, inbox)
        self.send_soon()
        try:
            await self._until(lambda: membership.entered or membership.refusal or self._ended())
        except BaseException:
            membership.leave()
            self.send_soon()
            raise
        self._check()
        if membership.refusal is not None:
            raise membership.refusal
        return membership

    def send_soon(self) -> None:
        """Something was queued: let the daemon have it, now if the socket has room."""
        if self._unsent is None:
            self._unsent = write_records(self._sock, self._session, None)
            if self._unsent is not None:
                self._sending.wake()

    # ---- the driver's side

    async def _take_part(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write_on)
            await self._read()
            tasks.cancel_scope.cancel()

    async def _read(self) -> None:
        session = self._session
        while session.failure is None:
            for _ in range(READ_TURN):
                record = read_record(self._sock)
                if record is None:
                    break
                if record:
                    session.receive(record)
                else:
                    session.close()
                if session.failure is not None:
                    break
            self._wake()
            if record is None:
                await anyio.wait_readable(self._sock)
            else:
                await anyio.lowlevel.checkpoint()
        self.fail(session.failure)

    async def _write_on(self) -> None:
        while True:
            while self._unsent is None:
                await self._sending.wait()
            await anyio.wait_writable(self._sock)
            self._unsent = write_records(self._sock, self._session, self._unsent)
            self._grant_room(self._session.room)

    def _is_complete(self) -> bool:
        return self._session.quorum is not None


@asynccontextmanager
async def connect(path: str | os.PathLike[str] | None = None) -> AsyncGenerator[DaemonRing, None]:
    """Take part in the ring of this machine's daemon: `async with cpg.connect() as ring`.

    `path`: of its socket, if it is not `default_socket()`. Raises `DaemonUnavailable` where no daemon runs or answers,
    or refuses this user; later `RingLost`, `SlowConsumer`.
    """
    place = Path(path) if path is not None else default_socket()
    with open_socket(place) as sock:
        session = Session()
        early: list[RingEvent] = []
        session.on_ring = early.append
        await _greet(sock, session, place)
        ring = DaemonRing(sock, session)
        session.on_ring = ring._on_ring
        for event in early:
            ring._on_ring(event)
        async with ring.live():
            yield ring


async def _greet(sock: socket.socket, session: Session, path: Path) -> None:
    session.greet(own_name())
    write_records(sock, session, None)
    with anyio.move_on_after(WELCOME_PATIENCE):
        while session.member is None and session.failure is None:
            await anyio.wait_readable(sock)
            record = read_record(sock)
            if record:
                session.receive(record)
            elif record is not None:
                session.close()
    if session.failure is not None:
        raise session.failure
    if session.member is None:
        raise unanswered(path)
