"""A client's end of a local daemon's socket: its path, opening it, the errors, the wait for an answer, and records.

The clients of `cpgd` and `cluckd` share this, on an event loop and in threads. Nothing here blocks. Only `answered`
waits, on trio and on asyncio; everything else does what it can do now and returns.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeVar

import anyio

from cpg.errors import DaemonUnavailable
from cpg.local.backoff import Backoff

READ_TURN: Final = 16
"""Records read from one connection before other tasks get a turn."""
SEND_BUFFER: Final = 1 << 20
"""Bytes requested for the socket's send buffer; the kernel may grant less."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two tries to reconnect."""
SILENCE: Final = 3.0
"""Seconds without an answer after which the user is told."""
WELCOME_PATIENCE: Final = 30.0
"""Seconds without an answer after which a client gives up."""
FAREWELL_PATIENCE: Final = 1.0
"""Seconds that the last records of a client, or of a daemon that ends, may take."""

Answer = TypeVar("Answer")


class NoDaemon(DaemonUnavailable):
    """No daemon listens at the socket, or none answers there. This may change without anybody's help."""


class LocalDaemon(NamedTuple):
    """A daemon of this machine, as the errors of its clients name it."""

    name: str
    """The command's name, which is also the name of the socket's folder."""
    alternative: str
    """What a program can do without the daemon; for the error text."""

    @property
    def socket_options(self) -> str:
        """The option and the variable that name the socket, for error texts."""
        return f"--socket, {socket_variable(self.name)}"

    def open(self, path: Path) -> socket.socket:
        """Connect to the daemon and return its non-blocking socket. Raises `DaemonUnavailable`."""
        try:
            return _connect(path)
        except OSError as error:
            raise self._failure(path, error) from None

    def _failure(self, path: Path, error: OSError) -> DaemonUnavailable:
        """Build the exception for a failed connect; the text says what to do."""
        match error.errno:
            case errno.ENOENT | errno.ECONNREFUSED:
                return NoDaemon(
                    f"no daemon listens at {path}: start it ({self.name} -c FILE), name its socket "
                    f"({self.socket_options}), or {self.alternative}"
                )
            case errno.EAGAIN:
                return NoDaemon(
                    f"the daemon at {path} accepts no connection, and its queue of connections is full: is it stopped?"
                )
            case errno.EACCES:
                uid = os.geteuid()
                text = f"the user with uid {uid} may not open the socket {path}: check the mode of its folder"
            case errno.EPROTOTYPE:
                text = (
                    f"another program listens at {path}, not {self.name}: name the socket of {self.name} "
                    f"({self.socket_options})"
                )
            case _:
                text = f"the daemon's socket {path} cannot be opened: {error.strerror or error}"
        return DaemonUnavailable(text)

    def silence(self, seconds: float, path: object = "") -> str:
        """Return the text that the daemon does not answer, with what to check. `path`: of its socket, if known."""
        where = f" at {path}" if path else ""
        return f"{self.name}{where} has not answered for {seconds:g} s: it is starting, or hangs; see its log"

    def unanswered(self, path: object = "") -> NoDaemon:
        """Build the error that the daemon did not answer in time."""
        return NoDaemon(self.silence(WELCOME_PATIENCE, path))

    async def answered(
        self, ask: Callable[[], Awaitable[Answer]], warn: Callable[[str], object], path: object = ""
    ) -> Answer:
        """Wait for the daemon's answer, at most `WELCOME_PATIENCE` seconds. Raises `unanswered`.

        Args:
            ask: Asks and returns the answer. It may be cancelled and called a second time, so repeating it must do no
                harm.
            warn: Called with a text after `SILENCE` seconds without an answer.
            path: Of the daemon's socket, for the texts.
        """
        with anyio.move_on_after(SILENCE):
            return await ask()
        warn(self.silence(SILENCE, path))
        with anyio.move_on_after(WELCOME_PATIENCE - SILENCE):
            return await ask()
        raise self.unanswered(path)


CPGD: Final = LocalDaemon("cpgd", "be a node without it (-c FILE; in programs cpg.open_ring)")


def socket_variable(daemon: str) -> str:
    """Return the environment variable that names a daemon's socket."""
    return f"{daemon.upper()}_SOCKET"


def default_socket(daemon: str) -> Path:
    """Return where a daemon of this machine listens: `$CPGD_SOCKET` for `cpgd`, else its usual socket."""
    named = os.environ.get(socket_variable(daemon))
    return Path(named) if named else usual_socket(daemon)


def usual_socket(daemon: str) -> Path:
    """Return where a daemon listens without configuration: /run/DAEMON/socket for root's daemon.

    A user's own daemon listens in the folder of the user's sockets (`$XDG_RUNTIME_DIR`).
    """
    system = Path("/run", daemon, "socket")
    folder = os.environ.get("XDG_RUNTIME_DIR")
    if os.geteuid() == 0 or system.exists() or not folder:
        return system
    return Path(folder, daemon, "socket")


def _connect(path: Path) -> socket.socket:
    """Connect without waiting for a daemon whose queue of connections is full. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        sock.connect(str(path))
    except OSError:
        sock.close()
        raise
    return sock


def reconnect_pauses() -> Backoff:
    """Return the pauses between tries to reconnect."""
    return Backoff(SHORTEST_PAUSE, LONGEST_PAUSE)


def own_name() -> str:
    """Return this program's name, which the daemon shows to its administrator."""
    path = Path(sys.argv[0])
    return (path.parent if path.name == "__main__.py" else path).name or "python"


class Outbox(Protocol):
    """The source of records for a socket."""

    def has_records(self) -> bool:
        """Return whether a record waits."""

    def record(self) -> bytes:
        """Take the next record; call this only if one waits."""

    def discard(self) -> None:
        """Discard what waits: the peer is gone."""


class RecordSocket:
    """A connected socket of whole records, read and written without waiting."""

    def __init__(self, sock: socket.socket, outbox: Outbox, largest: int) -> None:
        """`outbox`: what is to be sent; `largest`: bytes of the longest record that may arrive."""
        self.sock = sock
        self.unsent: bytes | None = None
        """A record for which the socket had no room."""
        self._outbox = outbox
        self._largest = largest

    @property
    def is_behind(self) -> bool:
        """Whether a record still has to be written."""
        return self.unsent is not None or self._outbox.has_records()

    def read(self) -> bytes | None:
        """Return the next record; None if there is none now, empty when the daemon has closed the connection.

        A daemon that closes a socket with unread records causes a reset first. The daemon's last records are behind
        that reset, so the read is repeated.
        """
        try:
            return self.sock.recv(self._largest + 1)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return self.read()
        except OSError:
            return b""

    def write_now(self) -> None:
        """Write what waits, as far as the socket has room. Hot: once for each turn."""
        outbox = self._outbox
        while self.unsent is not None or outbox.has_records():
            record = self.unsent if self.unsent is not None else outbox.record()
            try:
                self.sock.send(record)
            except BlockingIOError:
                self.unsent = record
                return
            except OSError:  # the peer is gone; the next read reports it
                self.unsent = None
                outbox.discard()
                return
            self.unsent = None

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        self.sock.close()
