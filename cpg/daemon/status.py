"""The daemon's replies to its clients, above all to the commands of `cpg`, as values of JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import trio

from cpg.daemon.hub import Client, Hub
from cpg.embedded import EmbeddedRing
from cpg.local.access import Access
from cpg.status import ring_status

Replies = Mapping[str, Callable[[], object]]


@dataclass
class LibqbState:
    """Whether programs that use libcpg are served."""

    serves: bool = False
    lacks: str | None = None
    """Why not, where they should be."""


def replies(ring: EmbeddedRing, hub: Hub, access: Access, libqb_state: LibqbState) -> Replies:
    """Return the replies by query. The daemon's uptime begins here."""
    started = trio.current_time()
    return {
        "groups": partial(_groups, ring),
        "quorum": lambda: ring.quorum,
        "status": lambda: (
            ring_status(ring, started, trio.current_time())
            | {"reserved": access.reserved_groups, "libqb": asdict(libqb_state)}
            | _clients(hub)
        ),
    }


def _groups(ring: EmbeddedRing) -> list[tuple[str, object]]:
    return [(name.decode("latin-1"), members) for name, members in ring.groups.items()]


def _clients(hub: Hub) -> dict[str, Any]:
    return {
        "clients": [_client(client) for client in sorted(hub.clients, key=lambda client: client.number)],
        "waiting": hub.waiting,
        "dropped": hub.dropped,
    }


def _client(client: Client) -> dict[str, Any]:
    return {
        "number": client.number,
        "pid": client.pid,
        "uid": client.uid,
        "name": client.name,
        "groups": [stay.membership.name.decode("utf-8", "backslashreplace") for stay in client.stays.values()],
        "sent": client.sent,
        "received": client.received,
        "waiting": client.writer.size,
    }
