"""Where programs and the lock server of their machine find each other."""

from __future__ import annotations

from pathlib import Path

from cpg.client.asynchronous import socket_of


def default_socket() -> Path:
    """Where the lock server of this machine listens: `$CLUCKD_SOCKET`, else /run/cluckd/socket for root's, else in
    the folder of the user's own sockets.
    """
    return socket_of("cluckd", "CLUCKD_SOCKET")
