"""A ring through the daemon `cpgd` of this machine: `async with cpg.connect() as ring`.

The daemon is the node; this process is one of its programs. Groups and their streams are those of every other ring, the
level of each message as on an embedded one. A thin shell around `cpg.client.session`: what is sent goes to the socket
at once where it has room, else as soon as it has.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.lowlevel

from cpg.arguments import flag, pathname
from cpg.block import Waiters
from cpg.client.ipc import RECORD
from cpg.client.session import RemoteMembership, Session
from cpg.errors import DaemonUnavailable
from cpg.events import Member, RingEvent, Transitional
from cpg.group import OnTransitional
from cpg.node.membership import Inbox
from cpg.ring import Ring
from totem.configuration import RingId
from totem.errors import RingLost, TotemError

_log = logging.getLogger(__name__)

READ_TURN: Final = 16
"""Records taken in before others get a turn."""
SEND_BUFFER: Final = 1 << 20
"""Bytes asked for in the socket; the kernel may give less."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two tries to reconnect: doubled from the first to the second."""
WELCOME_PATIENCE: Final = 30.0
"""Seconds that opening waits for a daemon that starts, or does not answer."""
SILENCE: Final = 3.0
"""Seconds without an answer after which people are told so."""


class NoDaemon(DaemonUnavailable):
    """Nobody listens at the socket, or is welcoming there: perhaps soon."""


def default_socket() -> Path:
    """Where the daemon of this machine listens: `$CPGD_SOCKET`, else /run/cpgd/socket for root's, else in the
    folder of the user's own sockets.
    """
    return socket_of("cpgd", "CPGD_SOCKET")


def socket_of(daemon: str, variable: str) -> Path:
    """Where a daemon of this machine listens; `variable` of the environment names another place."""
    named = os.environ.get(variable)
    return Path(named) if named else usual_socket(daemon)


def usual_socket(daemon: str) -> Path:
    """Where a daemon of this machine listens if nobody says otherwise."""
    system = Path("/run", daemon, "socket")
    folder = os.environ.get("XDG_RUNTIME_DIR")
    if os.geteuid() == 0 or system.exists() or not folder:
        return system
    return Path(folder, daemon, "socket")


def open_socket(path: Path) -> socket.socket:
    """Connect to a daemon's socket, which does not block from then on. Raises `DaemonUnavailable`."""
    try:
        return connected(path)
    except OSError as error:
        raise _unavailable(path, error) from None


def connected(path: Path) -> socket.socket:
    """Connect to any daemon's socket, without waiting for one that takes in nobody. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        sock.connect(str(path))
    except OSError:
        sock.close()
        raise
    return sock


def _unavailable(path: Path, error: OSError) -> DaemonUnavailable:
    match error.errno:
        case errno.ENOENT | errno.ECONNREFUSED:
            return NoDaemon(
                f"no daemon listens at {path}: start it (cpgd -c FILE), name its socket (--socket, CPGD_SOCKET), "
                "or be a node without it (-c FILE; in programs cpg.open_ring)"
            )
        case errno.EAGAIN:
            return NoDaemon(f"the daemon at {path} takes in nobody, and as many wait there as may: is it stopped?")
        case errno.EACCES:
            text = f"the socket {path} may not be opened by the user with uid {os.geteuid()}: look at its folder's mode"
        case errno.EPROTOTYPE:
            text = f"another program listens at {path}, where cpgd is wanted: name its socket (--socket, CPGD_SOCKET)"
        case _:
            text = f"the daemon's socket {path} cannot be opened: {error.strerror or error}"
    return DaemonUnavailable(text)


def silence(path: Path, seconds: float) -> str:
    """Say that a daemon does not answer, and what to look at."""
    return (
        f"the daemon at {path} has not answered for {seconds:.0f} s: it is starting, or stands still: look at its log"
    )


def unanswered(path: Path) -> DaemonUnavailable:
    """Make what says that there is no answer."""
    return NoDaemon(silence(path, WELCOME_PATIENCE))


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
    path = Path(sys.argv[0])
    return (path.parent if path.name == "__main__.py" else path).name or "python"


class DaemonRing(Ring):
    """The daemon's ring, and the groups that this program joins there.

    A daemon that ends, or closes the connection, ends the block with `RingLost`, unless reconnecting was asked for; one
    that puts this program out since it did not read, with `SlowConsumer`.
    """

    gives_safe = True

    def __init__(self, path: Path, sock: socket.socket, session: Session, *, reconnect: bool) -> None:
        """`sock`, `session`: of a connection that was welcomed; the ring closes them."""
        assert session.member is not None
        super().__init__(session.member)
        self._path = path
        self._sock = sock
        self._session = session
        self._reconnect = reconnect
        self._unsent: bytes | None = None
        self._sending = Waiters()

    # ---- the program's side

    @property
    def path(self) -> Path:
        """Where the daemon listens."""
        return self._path

    @property
    def ring_id(self) -> RingId:
        """The present ring: its representative and its sequence number."""
        return self._session.ring_id

    @property
    def node_ids(self) -> tuple[int, ...]:
        """The nodes of the present ring, ascending; none while the connection is lost."""
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
        """Ask the daemon for what it knows: "groups", "quorum", "status"; values as JSON has them.

        Raises `RingLost` if the connection is lost before the answer has come.
        """
        if not isinstance(question, str):
            raise TypeError(f'question={question!r}: a str, as "groups"')
        session = self._session
        number = session.ask(question)
        self.send_soon()
        try:
            await self._until(lambda: session.has_answer(number) or session.failure is not None or self._ended())
            self._check()
            if session.failure is not None:
                raise session.failure
            return session.answer(number)
        finally:
            session.forget(number)

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
        try:
            while True:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write_on)
                    failure = await self._read()
                    tasks.cancel_scope.cancel()
                if not self._reconnect or type(failure) is not RingLost:
                    break
                _log.warning("%s: reconnecting to %s", failure, self._path)
                self._session.lose_sight()
                self._wake()
                await self._connect_again()
            self.fail(failure)
        finally:
            self._sock.close()

    async def _read(self) -> TotemError:
        """Take in what comes until nothing more can; return why."""
        session = self._session
        while True:
            for _ in range(READ_TURN):
                record = read_record(self._sock)
                if record is None:
                    break
                session.receive(record)
                if session.failure is not None:
                    return session.failure
            if session.refused:
                self._put_out(session.refused)
            self._wake()
            if record is None:
                await anyio.wait_readable(self._sock)
            else:
                await anyio.lowlevel.checkpoint()

    def _put_out(self, refused: list[RemoteMembership]) -> None:
        """End groups that are not let in any more after a reconnect; those that never were hear of it in `enter`."""
        while refused:
            membership = refused.pop()
            for group in list(self.joined):
                if group.is_of(membership) and membership.refusal is not None:
                    group.fail(membership.refusal)

    async def _write_on(self) -> None:
        while True:
            while self._unsent is None:
                await self._sending.wait()
            await anyio.wait_writable(self._sock)
            self._unsent = write_records(self._sock, self._session, self._unsent)
            self._let_senders_go_on()

    async def _connect_again(self) -> None:
        """Connect as soon as there is a daemon, and come into the groups again."""
        self._sock.close()
        pause = SHORTEST_PAUSE
        while True:
            session = Session(self._path)
            session.on_ring = self._on_ring
            session.expected = self.member
            try:
                sock = await _welcomed(self._path, session)
                break
            except (NoDaemon, RingLost):
                await anyio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        _log.warning("connected to %s again", self._path)
        session.inherit(self._session)
        self._sock, self._session, self._unsent = sock, session, None
        self.send_soon()
        self._let_senders_go_on()

    def _let_senders_go_on(self) -> None:
        """There is room. All try when nothing is left to be written, for then nothing would wake the rest later."""
        self._grant_room(self._session.room if self._unsent is not None else math.inf)

    def _is_complete(self) -> bool:
        return self._session.quorum is not None


@asynccontextmanager
async def connect(
    path: str | os.PathLike[str] | None = None, *, reconnect: bool = False
) -> AsyncGenerator[DaemonRing, None]:
    """Take part in the ring of this machine's daemon: `async with cpg.connect() as ring`, on trio or asyncio.

    Args:
        path: Of the daemon's socket, if it is not `default_socket()`.
        reconnect: Wait for a daemon that has ended, and join the groups again. Their streams tell it like a change of
            ring: `Transitional(())`, all members as left, then the own join with whoever is there. What was sent and
            had not come back may be lost; `Group.flush` raises `OutcomeUnknown` then. `send` waits meanwhile.

    Raises `DaemonUnavailable` where no daemon runs or answers, or refuses this user; later `RingLost`, `SlowConsumer`.
    """
    flag("reconnect", reconnect)
    place = pathname("path", path) if path is not None else default_socket()
    session = Session(place)
    early: list[RingEvent] = []
    session.on_ring = early.append
    sock = await _welcomed(place, session)
    ring = DaemonRing(place, sock, session, reconnect=reconnect)
    session.on_ring = ring._on_ring
    for event in early:
        ring._on_ring(event)
    async with ring.live():
        yield ring


async def _welcomed(path: Path, session: Session) -> socket.socket:
    """Open a connection and wait for the daemon's welcome; raises why there is none."""
    sock = open_socket(path)
    try:
        session.greet(own_name())
        write_records(sock, session, None)
        with anyio.move_on_after(SILENCE):
            await _hear_welcome(sock, session)
        if not _is_answered(session):
            _log.warning("%s", silence(path, SILENCE))
            with anyio.move_on_after(WELCOME_PATIENCE - SILENCE):
                await _hear_welcome(sock, session)
        if session.failure is not None:
            raise session.failure
        if session.member is None:
            raise unanswered(path)
    except BaseException:
        sock.close()
        raise
    return sock


async def _hear_welcome(sock: socket.socket, session: Session) -> None:
    while not _is_answered(session):
        await anyio.wait_readable(sock)
        record = read_record(sock)
        if record is not None:
            session.receive(record)


def _is_answered(session: Session) -> bool:
    return session.member is not None or session.failure is not None
