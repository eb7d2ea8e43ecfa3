"""Which nodes decide: the configured lock servers, their votes, and what is more than half of them (ruling E1).

What the ring calls quorum is a further condition and no substitute: `two_node` makes both halves quorate, and a node
whose lock server has died has no memory although it still votes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Electorate:
    """The votes of each configured lock server's node."""

    votes: Mapping[int, int]
    """By node id."""
    tie_breaker: int | None = None
    """The node with which an exact half is enough."""
    unsafe_half: bool = False
    """An exact half is always enough: two halves may both grant, and fencing tokens no longer grow over both."""

    def is_quorum(self, node_ids: Collection[int]) -> bool:
        """Whether these nodes decide."""
        present = sum(self.votes.get(node_id, 0) for node_id in set(node_ids))
        twice, everything = 2 * present, sum(self.votes.values())
        if twice == everything and present:
            return self.unsafe_half or self.tie_breaker in node_ids
        return twice > everything

    def is_everyone(self, node_ids: Collection[int]) -> bool:
        """Whether all configured nodes are among these."""
        return set(self.votes) <= set(node_ids)

    def missing(self, node_ids: Collection[int]) -> tuple[int, ...]:
        """The configured nodes that are not among these."""
        return tuple(sorted(set(self.votes) - set(node_ids)))
