"""Partition: which nodes continue together, where not all of them hear each other.

The nodes of a *part* all hear each other, in both directions. The first part is the best set of such nodes; the next
one is the best of the rest, and so on. Everybody computes the same parts from the same graph, whatever it knows beyond
them: a part is never torn by nodes that none of its members exchanges anything with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import Final

EXACT: Final = 16
"""Up to this many nodes all sets are compared. Beyond, a part is put together node by node, in the same order."""


def partition(
    hearing: Mapping[int, Collection[int]], votes: Mapping[int, int], rings: Mapping[int, Hashable]
) -> list[tuple[int, ...]]:
    """Return the parts, the best first; each is sorted.

    Sets are ranked by their votes, then by size. Then the one counts more that has more nodes of one old ring, then the
    one with the lower nodes.

    Args:
        hearing: By node, the others that it hears. A pair counts if both hear each other.
        votes: Of each node.
        rings: The ring that each node was in.
    """
    graph = _Graph(hearing, votes, rings)
    best = graph.best_of_all if len(hearing) <= EXACT else graph.best_step_by_step
    rest = (1 << len(hearing)) - 1
    parts = []
    while rest:
        part = best(rest)
        parts.append(graph.nodes_of(part))
        rest &= ~part
    return parts


class _Graph:
    """Who hears whom, as bit sets over the sorted nodes."""

    def __init__(
        self, hearing: Mapping[int, Collection[int]], votes: Mapping[int, int], rings: Mapping[int, Hashable]
    ) -> None:
        self._nodes = sorted(hearing)
        place = {node: index for index, node in enumerate(self._nodes)}
        self._votes = [votes[node] for node in self._nodes]
        self._rings = [rings[node] for node in self._nodes]
        self._with = [
            sum(1 << place[other] for other in hearing[node] if other in place and node in hearing[other])
            & ~(1 << place[node])
            for node in self._nodes
        ]

    def nodes_of(self, members: int) -> tuple[int, ...]:
        """Return the nodes of a bit set."""
        return tuple(self._nodes[index] for index in _bits(members))

    def best_of_all(self, rest: int) -> int:
        """Return the best set among these nodes."""
        return max(self._largest_sets(0, rest, 0), key=self._rank)

    def _largest_sets(self, members: int, candidates: int, done: int) -> Iterator[int]:
        """Yield all sets that no further node fits into (Bron and Kerbosch, with a pivot); of 16 nodes at most 324."""
        if not candidates:
            if not done:
                yield members
            return
        pivot = max(_bits(candidates | done), key=lambda index: (candidates & self._with[index]).bit_count())
        for index in _bits(candidates & ~self._with[pivot]):
            bit, near = 1 << index, self._with[index]
            yield from self._largest_sets(members | bit, candidates & near, done & near)
            candidates &= ~bit
            done |= bit

    def best_step_by_step(self, rest: int) -> int:
        """Return a good set: each node that is added leaves the best choice of further ones."""
        members, candidates = 0, rest
        while candidates:
            index = max(_bits(candidates), key=lambda index: self._rank(candidates & self._with[index] | 1 << index))
            members |= 1 << index
            candidates &= self._with[index]
        return members

    def _rank(self, members: int) -> tuple[int, int, int, list[int]]:
        indices = list(_bits(members))
        votes = sum(self._votes[index] for index in indices)
        together = max(Counter(self._rings[index] for index in indices).values())
        return votes, len(indices), together, [-index for index in indices]


def _bits(members: int) -> Iterator[int]:
    while members:
        lowest = members & -members
        yield lowest.bit_length() - 1
        members ^= lowest
