"""Admission: which nodes' datagrams of other rings a processor listens to.

A datagram that passes may change the ring: its sender is a candidate. Whoever cannot be a member is refused here.
"""

from __future__ import annotations

from collections.abc import Collection
from math import inf
from typing import Final

from totem.config import Config
from totem.exclusions import Exclusions
from totem.ring_numbers import LIMIT, is_near

_LATE_PACKETS = 5
"""Token and consensus timeouts for which packets of a former life are taken for late ones."""

DUPLICATE_NODE_ID: Final = "duplicate node id"
UNLISTED_NODE: Final = "node not in the nodelist"
IMPOSSIBLE_SEQUENCE: Final = "impossible ring sequence"


class Admission:
    """The nodes that may become members, as one processor sees them."""

    def __init__(self, config: Config, node_id: int, first_ring_seq: int, left_out: Exclusions[int]) -> None:
        self._node_id = node_id
        self._first_ring_seq = first_ring_seq
        self._left_out = left_out
        self._late_until = inf
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Take another nodelist, and other timeouts."""
        self.nodelist = frozenset(node.node_id for node in config.nodes)
        self._late_for = _LATE_PACKETS * (config.token + config.consensus)

    def start(self, now: float) -> None:
        """Expect packets of a former life for a while from now on."""
        self._late_until = now + self._late_for

    def refusal(self, origin: int, ring_seq: int, members: Collection[int], own_seq: int, now: float) -> str:
        """Return why a datagram of another ring is dropped; empty if its sender may become a member (G4).

        Packets that this node sent in a former life come late, or a neighbour sends them again. They name a ring below
        this node's first one. A second node with the same id may name such rings, too, but its datagrams do not end.

        Args:
            origin: The sender.
            ring_seq: The sequence of its ring.
            members: Those of the installed ring.
            own_seq: This node's ring sequence that is beyond doubt.
            now: In seconds.
        """
        if origin == self._node_id:
            is_late = ring_seq < self._first_ring_seq and now < self._late_until
            return "own packet of a former life" if is_late else DUPLICATE_NODE_ID
        if origin not in self.nodelist:
            return UNLISTED_NODE
        if ring_seq > LIMIT:
            return IMPOSSIBLE_SEQUENCE
        if origin in members and not is_near(ring_seq, own_seq):
            return "implausible ring sequence"  # it is in this ring, so it cannot have come so far
        if self._left_out.has(origin, now) or self._left_out.has(self._node_id, now):
            return "node left out for a while"
        return ""
