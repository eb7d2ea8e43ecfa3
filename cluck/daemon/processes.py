"""Reports whether the process behind a connection has ended, by a descriptor of this process rather than its id.

The kernel returns the descriptor for the connection (SO_PEERPIDFD, Linux 6.5). An older kernel returns it for the
process id. The request follows the accept at once, so the id belongs to another process only if the program connected
and ended within that moment.
"""

from __future__ import annotations

import os
import select
import socket
from typing import Final

import trio

_SO_PEERPIDFD: Final = 77


class Process:
    """A process that has connected."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self._descriptor = _descriptor(connection, pid)

    @property
    def has_ended(self) -> bool:
        """Whether the process is known to have ended."""
        if self._descriptor is None:
            return False
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(0))

    async def ended(self) -> None:
        """Wait until the process has ended; for ever if that cannot be known."""
        if self._descriptor is None:
            await trio.sleep_forever()
        else:
            await trio.lowlevel.wait_readable(self._descriptor)

    def close(self) -> None:
        """Close the descriptor."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _descriptor(connection: socket.socket, pid: int) -> int | None:
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        pass
    try:
        return os.pidfd_open(pid)
    except (OSError, ValueError):
        return None  # it is in another container, or has ended and was reaped
