"""The start of a daemon that is a node, where names, the node's address or room on its disk may become available later.

The daemon waits for what is missing and logs it once. A service manager that restarted the daemon meanwhile would only
find the same.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from typing import Final, TypeVar

import trio

from cpg.local.lifecycle import notify
from totem.config import Config
from totem.corosync_conf import ConfigFile
from totem.errors import AddressUnavailable
from totem.log_fields import event_fields, extra
from totem.store import DISK_FAULTS

_log = logging.getLogger(__name__)

PAUSE: Final = 1.0
"""Seconds between two tries."""
_NO_ADDRESS: Final = (errno.EADDRNOTAVAIL, errno.ENODEV)

AnyRing = TypeVar("AnyRing")


async def ring_in_time(prepare: Callable[[Config, ConfigFile], AnyRing], file: ConfigFile) -> AnyRing:
    """Prepare a ring as soon as names resolve, and the node's address and disk are available.

    Args:
        prepare: Prepares the ring of a configuration, whose file it may read again (`cpg.embedded.prepare_ring`).
        file: The configuration's.

    Raises `ConfigError` and `OSError` as `open_ring` does.
    """
    began, logged = trio.current_time(), ""
    while True:
        try:
            config, warnings = await trio.to_thread.run_sync(file.load, abandon_on_cancel=True)
            ring = prepare(config, file)
        except (AddressUnavailable, OSError) as error:
            text = _waiting(error) + str(error if isinstance(error, AddressUnavailable) else error.strerror)
            if text != logged:
                _log.warning("%s", text, extra=extra(event_fields("waiting", why=text)))
                notify(f"STATUS={text}")
            logged = text
            await trio.sleep(PAUSE)
            continue
        for warning in warnings:
            _log.warning("%s", warning)
        if logged:
            _log.info("it is there, after %.0f s", trio.current_time() - began)
        return ring


def _waiting(error: AddressUnavailable | OSError) -> str:
    """Return what the daemon waits for, if that may become available by itself; raise all other errors."""
    if isinstance(error, AddressUnavailable | socket.gaierror) or error.errno in _NO_ADDRESS:
        return "waiting for the network: "
    if error.errno in DISK_FAULTS:
        return "waiting for the disk: "
    raise error
