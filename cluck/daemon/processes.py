"""Whether the process behind a connection has ended: by a descriptor that stands for this process, not for its number.

The kernel gives it with the connection (SO_PEERPIDFD, Linux 6.5); an older one by the process id, at once behind the
accept, when that cannot have been used again but by a program that connects and ends within that moment.
"""

from __future__ import annotations

import os
import select
import socket
from typing import Final

import trio

_SO_PEERPIDFD: Final = 77


class Process:
    """The process that has connected."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self._descriptor = _descriptor(connection, pid)

    @property
    def has_ended(self) -> bool:
        """Whether it is known to have ended."""
        if self._descriptor is None:
            return False
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(0))

    async def ended(self) -> None:
        """Wait until it has ended; for ever where that cannot be known."""
        if self._descriptor is None:
            await trio.sleep_forever()
        else:
            await trio.lowlevel.wait_readable(self._descriptor)

    def close(self) -> None:
        """Look at it no more."""
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
        return None  # it is of another container, or has ended and was buried
