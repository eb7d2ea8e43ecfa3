"""A client's end of the socket of `cluckd`: which errors it raises, and records out and in, without waiting."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from cluck.errors import ConnectionLost, DaemonUnavailable
from cluck.protocol import LARGEST_RECORD, Downward, Malformed, Upward, downward, records
from cpg.local.client_socket import LocalDaemon, RecordSocket

CLUCKD: Final = LocalDaemon("cluckd", "be a lock server without it (in programs cluck.open)")


def _stranger(path: Path, record: bytes, malformed: Malformed) -> DaemonUnavailable:
    """Return the error for a peer that is no lock server: the first byte of cpgd's records has two flags at most."""
    whose = "cpgd, the daemon of groups," if record[0] < 4 else f"another program ({malformed})"
    return DaemonUnavailable(
        f"{whose} listens at {path}, not cluckd: name the socket of cluckd ({CLUCKD.socket_options})"
    )


class _Waiting(deque[bytes]):
    """Records that wait for the socket (a `cpg.local.client_socket.Outbox`)."""

    def has_records(self) -> bool:
        """Return whether a record waits."""
        return bool(self)

    def record(self) -> bytes:
        """Take the next record."""
        return self.popleft()

    def discard(self) -> None:
        """Discard what waits."""
        self.clear()


class DaemonSocket:
    """A client's end of a connected socket, and the records that go through it."""

    def __init__(self, sock: socket.socket, path: Path) -> None:
        self.sock = sock
        self._path = path
        self._has_heard = False
        """The lock server has sent a record that was understood."""
        self._waiting = _Waiting()
        self._socket = RecordSocket(sock, self._waiting, LARGEST_RECORD)

    @property
    def is_behind(self) -> bool:
        """Whether something waits for room in the socket."""
        return self._socket.is_behind

    def send(self, sent: Sequence[Upward]) -> None:
        """Send these to the server, as far as there is room now."""
        self._waiting.extend(records(sent))
        self.write()

    def write(self) -> None:
        """Write what waits, as far as there is room."""
        self._socket.write_now()

    def read(self) -> Iterable[Downward] | None:
        """Return what the server has sent next; None if there is nothing now.

        Raises:
            ConnectionLost: The server has closed the connection.
            DaemonUnavailable: The peer is no lock server, or does not keep to the protocol.
        """
        record = self._socket.read()
        if record is None:
            return None
        if not record:
            raise ConnectionLost("the lock server has closed the connection: it was ended, or has crashed")
        try:
            received = downward(record)
        except Malformed as malformed:
            if not self._has_heard:
                raise _stranger(self._path, record, malformed) from None
            raise DaemonUnavailable(f"the lock server does not keep to the protocol: {malformed}") from None
        self._has_heard = True
        return received

    def close(self) -> None:
        """Close the socket and discard what waits."""
        self._waiting.clear()
        self._socket.unsent = None
        self._socket.close()
