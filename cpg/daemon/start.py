"""The start of a daemon that is a node, on a machine whose network may come later: its names, and its address.

What is not there yet is waited for, and said once; a service manager that started the daemon anew in the meantime would
only find the same.
"""

from __future__ import annotations

import errno
import logging
import socket
from functools import partial
from typing import Final

import trio

from cpg.daemon.life import notify
from cpg.embedded import AnyRing, prepare_ring
from totem.addresses import resolve
from totem.corosync_conf import Resolve, load
from totem.errors import NotYet

_log = logging.getLogger(__name__)

PAUSE: Final = 1.0
"""Seconds between two tries."""
_NO_ADDRESS: Final = (errno.EADDRNOTAVAIL, errno.ENODEV)


async def ring_with_network(kind: type[AnyRing], path: str, node: str | None, *, resolve: Resolve = resolve) -> AnyRing:
    """Make a ring that is still to be entered, as soon as all names resolve and this node's address is there.

    Raises `ConfigError` and `OSError` as `open_ring` does.
    """
    began, said = trio.current_time(), ""
    while True:
        try:
            read = partial(load, path, resolve=resolve)
            config, warnings = await trio.to_thread.run_sync(read, abandon_on_cancel=True)
            ring = prepare_ring(kind, config, node)
        except (NotYet, OSError) as error:
            if isinstance(error, OSError) and not _is_of_network(error):
                raise
            text = str(error if isinstance(error, NotYet) else error.strerror)
            if text != said:
                _log.warning("waiting for the network: %s", text)
                notify(f"STATUS=waiting for the network: {text}")
            said = text
            await trio.sleep(PAUSE)
            continue
        for warning in warnings:
            _log.warning("%s", warning)
        if said:
            _log.info("the network is there, after %.0f s", trio.current_time() - began)
        return ring


def _is_of_network(error: OSError) -> bool:
    return isinstance(error, socket.gaierror) or error.errno in _NO_ADDRESS
