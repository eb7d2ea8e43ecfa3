"""The start of a daemon that is a node, where its names, its address, or room on its disk may come later.

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

from cpg.embedded import AnyRing, prepare_ring
from cpg.local.lifecycle import notify
from totem.addresses import resolve
from totem.corosync_conf import Resolve, load
from totem.errors import AddressUnavailable
from totem.log_fields import event_fields, extra
from totem.store import DISK_FAULTS

_log = logging.getLogger(__name__)

PAUSE: Final = 1.0
"""Seconds between two tries."""
_NO_ADDRESS: Final = (errno.EADDRNOTAVAIL, errno.ENODEV)


async def ring_in_time(kind: type[AnyRing], path: str, node: str | None, *, resolve: Resolve = resolve) -> AnyRing:
    """Make a ring that is still to be entered, as soon as names resolve, and address and disk of this node are there.

    Raises `ConfigError` and `OSError` as `open_ring` does.
    """
    began, said = trio.current_time(), ""
    while True:
        try:
            read = partial(load, path, resolve=resolve)
            config, warnings = await trio.to_thread.run_sync(read, abandon_on_cancel=True)
            ring = prepare_ring(kind, config, node)
        except (AddressUnavailable, OSError) as error:
            text = _waiting(error) + str(error if isinstance(error, AddressUnavailable) else error.strerror)
            if text != said:
                _log.warning("%s", text, extra=extra(event_fields("waiting", why=text)))
                notify(f"STATUS={text}")
            said = text
            await trio.sleep(PAUSE)
            continue
        for warning in warnings:
            _log.warning("%s", warning)
        if said:
            _log.info("it is there, after %.0f s", trio.current_time() - began)
        return ring


def _waiting(error: AddressUnavailable | OSError) -> str:
    """For what, that may come later by itself; raises all other errors."""
    if isinstance(error, AddressUnavailable | socket.gaierror) or error.errno in _NO_ADDRESS:
        return "waiting for the network: "
    if error.errno in DISK_FAULTS:
        return "waiting for the disk: "
    raise error
