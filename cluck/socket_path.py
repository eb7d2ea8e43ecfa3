"""The path of the socket of a machine's lock server."""

from __future__ import annotations

from pathlib import Path

from cpg.local import client_socket


def default_socket() -> Path:
    """Return where the lock server of this machine listens: `$CLUCKD_SOCKET`, else its usual socket."""
    return client_socket.default_socket("cluckd")
