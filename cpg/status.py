"""A node's report about itself, as values of JSON: for `cpg status` and `cpg top`, embedded or in the daemon."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from cpg.formatting import figures, transport_figures
from totem.separation import describe
from totem.statistics import Statistics
from totem.transitions import State

if TYPE_CHECKING:
    from cpg.embedded import EmbeddedRing
    from totem.links.machine import LinkState

_ELSEWHERE: Final = (
    *("state", "since", "left_out", "apart", "asks_at", "standstill", "ring_id", "members", "pure"),
    *("timeouts", "timeouts_because"),
)
"""Fields of the processor's record that are not counters."""


def ring_status(ring: EmbeddedRing, started: float, now: float) -> dict[str, Any]:
    """Return the state of a node and its ring at `now`; the node runs since `started`. Both are times of the event
    loop's clock.

    Rates are differences of two reports: `uptime` (seconds) is their clock. A ring that is being formed is not quorate,
    whatever the last one was: it orders nothing.
    """
    counted, engine = ring.statistics(), ring._engine_statistics()
    return {
        "node": ring.node_id,
        "pid": ring.member.pid,
        "uptime": now - started,
        "state": counted.state,
        "state_seconds": now - counted.since,
        "ring": ring.ring_id,
        "members": ring.node_ids,
        "nodes": _nodes(ring),
        "transport": transport_figures(ring.config),
        "key_waits": ring._key_waits,
        "links": [_link(ring, state, now) for state in ring.links],
        "pure": counted.pure,
        "timeouts": {**counted.timeouts._asdict(), "because": counted.timeouts_because},
        "quorate": ring.quorate and counted.state == State.OPERATIONAL.value,
        "quorum": figures(ring.quorum) if ring.quorum is not None else None,
        "silent": engine.silent,
        "standstill": counted.standstill,
        "left_out": [
            {"node": node_id, "seconds": absence.until - now, "reason": absence.reason}
            for node_id, absence in counted.left_out.items()
            if now < absence.until
        ],
        "apart": [
            {
                "node": node_id,
                "seconds": max(0.0, apart.until - now),
                "reason": describe(apart.lost) or "it does not take part",
                "lost": apart.lost,
            }
            for node_id, apart in sorted(counted.apart.items())
        ],
        "asks_in": max(0.0, counted.asks_at - now),
        "groups": {name.decode("utf-8", "backslashreplace"): len(members) for name, members in ring.groups.items()},
        "messages": engine.messages,
        "counters": _counters(counted),
    }


def _nodes(ring: EmbeddedRing) -> list[dict[str, Any]]:
    """Return the nodelist, and whether each node is in the ring."""
    return [
        {
            "node": node.node_id,
            "name": node.name,
            "address": node.address,
            "port": node.port,
            "votes": node.votes,
            "member": node.node_id in ring.node_ids,
        }
        for node in ring.config.nodes
    ]


def _link(ring: EmbeddedRing, state: LinkState, now: float) -> dict[str, Any]:
    """Return the link to another node."""
    return {
        "node": state.node_id,
        "link": state.link,
        "address": next((e.address_on(state.link) for e in ring.config.nodes if e.node_id == state.node_id), ""),
        "up": state.is_up,
        "heard": state.hears,
        "seconds": now - state.since,
        "mtu": state.mtu,
        "latency": state.latency,
        "downs": state.downs,
    }


def _counters(counted: Statistics) -> dict[str, Any]:
    fields = (field.name for field in dataclasses.fields(counted) if field.name not in _ELSEWHERE)
    return {name: getattr(counted, name) for name in fields} | {
        "drops": dict(counted.drops),
        "entered": dict(counted.entered),
    }
