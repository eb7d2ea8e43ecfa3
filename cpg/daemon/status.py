"""What the daemon tells of itself: to `cpg status`, `cpg top`, `cpg members` and `cpg quorum`, as values of JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from cpg.daemon.hub import Client, Hub
from cpg.embedded import EmbeddedRing
from totem.statistics import Statistics

Answers = Mapping[str, Callable[[], object]]


def answers(ring: EmbeddedRing, hub: Hub) -> Answers:
    """What clients can ask for, by question."""
    return {
        "groups": partial(_groups, ring),
        "quorum": lambda: ring.quorum,
        "status": lambda: _status(ring, hub),
    }


def _groups(ring: EmbeddedRing) -> list[tuple[str, object]]:
    return [(name.decode("latin-1"), members) for name, members in ring.groups.items()]


def _status(ring: EmbeddedRing, hub: Hub) -> dict[str, Any]:
    counted = ring.statistics()
    addresses = {entry.node_id: entry for entry in ring.config.nodes}
    return {
        "node": ring.node_id,
        "name": addresses[ring.node_id].name,
        "state": counted.state,
        "ring": ring.ring_id,
        "pure": counted.pure,
        "quorate": ring.quorate,
        "quorum": ring.quorum._asdict() if ring.quorum is not None else None,
        "members": [
            {"node": node_id, "name": addresses[node_id].name, "address": addresses[node_id].address}
            for node_id in ring.node_ids
            if node_id in addresses
        ],
        "groups": len(ring.groups),
        "counters": _counters(counted),
        "clients": [_client(client) for client in sorted(hub.clients, key=lambda client: client.pid)],
        "waiting": hub.waiting,
        "dropped": hub.dropped,
    }


def _counters(counted: Statistics) -> dict[str, Any]:
    """The processor's record, without what stands beside it."""
    values = {field.name: getattr(counted, field.name) for field in dataclasses.fields(counted)}
    for elsewhere in ("state", "ring_id", "members", "pure"):
        del values[elsewhere]
    return values | {"drops": dict(counted.drops), "entered": dict(counted.entered)}


def _client(client: Client) -> dict[str, Any]:
    return {
        "pid": client.pid,
        "uid": client.uid,
        "name": client.name,
        "groups": [place.membership.name.decode("utf-8", "backslashreplace") for place in client.places.values()],
        "sent": client.sent,
        "received": client.received,
        "waiting": client.writer.size,
    }
