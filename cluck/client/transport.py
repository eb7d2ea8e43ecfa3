"""A client's end of the socket of `cluckd`: how it is opened, and records out and in, without waiting."""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from cluck.errors import ConnectionLost, DaemonUnavailable
from cluck.protocol import LARGEST_RECORD, Downward, Malformed, Upward, downward, records
from cpg.client.asynchronous import WELCOME_PATIENCE, connected

_WANTED: Final = "cluckd, the lock server, is wanted: name its socket (--socket, CLUCKD_SOCKET)"


class NoDaemon(DaemonUnavailable):
    """Nobody listens at the socket, or is welcoming there: perhaps soon."""


def open_socket(path: Path) -> socket.socket:
    """Connect to a daemon's socket, which does not block from then on. Raises `DaemonUnavailable`."""
    try:
        return connected(path)
    except OSError as error:
        raise _unavailable(path, error) from None


def _unavailable(path: Path, error: OSError) -> DaemonUnavailable:
    match error.errno:
        case errno.ENOENT | errno.ECONNREFUSED:
            return NoDaemon(
                f"no daemon listens at {path}: start it (cluckd -c FILE), name its socket (--socket, CLUCKD_SOCKET), "
                "or be a lock server without it (in programs cluck.open)"
            )
        case errno.EAGAIN:
            return NoDaemon(f"the daemon at {path} takes in nobody, and as many wait there as may: is it stopped?")
        case errno.EACCES:
            text = f"the socket {path} may not be opened by the user with uid {os.geteuid()}: look at its folder's mode"
        case errno.EPROTOTYPE:
            text = f"another program listens at {path}, where {_WANTED}"
        case _:
            text = f"the daemon's socket {path} cannot be opened: {error.strerror or error}"
    return DaemonUnavailable(text)


def _stranger(path: Path, record: bytes, malformed: Malformed) -> DaemonUnavailable:
    """Say who has answered in place of a lock server: the first byte of cpgd's records has two flags at most."""
    whose = "cpgd, the daemon of groups," if record[0] < 4 else f"another program ({malformed})"
    return DaemonUnavailable(f"{whose} listens at {path}, where {_WANTED}")


def silence(where: object, seconds: float) -> str:
    """Say that a lock server does not answer, and what to look at."""
    return f"{where} has not answered for {seconds:g} s: it is starting, or stands still: look at the log of cluckd"


def unanswered(where: object) -> DaemonUnavailable:
    """Make what says that there is no answer."""
    return NoDaemon(silence(f"the lock server at {where}", WELCOME_PATIENCE))


class Records:
    """What goes through one connected socket."""

    def __init__(self, sock: socket.socket, path: Path) -> None:
        self.sock = sock
        self._path = path
        self._has_heard = False
        """The lock server has said something that is understood."""
        self._unsent: deque[bytes] = deque()

    @property
    def is_behind(self) -> bool:
        """Whether something waits for room in the socket."""
        return bool(self._unsent)

    def say(self, said: Sequence[Upward]) -> None:
        """Give this to the server, now as far as there is room."""
        self._unsent.extend(records(said))
        self.write()

    def write(self) -> None:
        """Write what waits, as far as there is room."""
        while self._unsent:
            try:
                self.sock.send(self._unsent[0])
            except BlockingIOError:
                return
            except OSError:  # the server is gone; reading tells
                self._unsent.clear()
                return
            self._unsent.popleft()

    def read(self) -> Iterable[Downward] | None:
        """Return what the server says; None if that is nothing now. Raises `ConnectionLost`, `DaemonUnavailable`.

        A server that closes while something is on its way to it shows as a reset first; its last words are behind that.
        """
        try:
            record = self.sock.recv(LARGEST_RECORD + 1)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return self.read()
        except OSError as error:
            raise ConnectionLost(f"the connection to the lock server is broken: {error}") from None
        if not record:
            raise ConnectionLost("the lock server has closed the connection: it was ended, or has crashed")
        try:
            said = downward(record)
        except Malformed as malformed:
            if not self._has_heard:
                raise _stranger(self._path, record, malformed) from None
            raise DaemonUnavailable(f"the lock server does not keep to the protocol: {malformed}") from None
        self._has_heard = True
        return said

    def close(self) -> None:
        """Close the socket; what waits is dropped."""
        self._unsent.clear()
        self.sock.close()
