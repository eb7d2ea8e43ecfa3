"""Nodelists of other nodes of this package, as their Joins tell them: files that differ must not break a good ring.

While files are changed one after the other, a node may be in some nodelists only. It cannot be in a ring with a member
that does not list it. So it is kept out as long as that is known, and named. A member that has reloaded its file
forgets what it knows: it lets the new node in, and all tell their nodelists again in the Joins of that change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

MOST_TOLD: Final = 64
"""Nodes of the longest nodelist that a Join tells."""


class Lack(NamedTuple):
    """A node whose nodelist lacks another one."""

    node_id: int
    missing: int


class Nodelists:
    """What one processor knows of the nodelists of others."""

    def __init__(self) -> None:
        self._told: dict[int, frozenset[int]] = {}

    def hear(self, origin: int, nodelist: frozenset[int]) -> None:
        """Note what a node's Join tells; empty: nothing."""
        if nodelist:
            self._told[origin] = nodelist
        else:
            self._told.pop(origin, None)

    def forget(self) -> None:
        """Forget all: files are being changed."""
        self._told.clear()

    def lack(self, origin: int, members: Iterable[int]) -> Lack | None:
        """Return why a node cannot be in a ring with these members; None if nothing is known against it."""
        for member in members:
            if member == origin:
                continue
            if not self._lists(origin, member):
                return Lack(origin, member)
            if not self._lists(member, origin):
                return Lack(member, origin)
        return None

    def unlisted_by(self, origin: int, candidates: Collection[int]) -> set[int]:
        """Return those candidates that a node's nodelist lacks."""
        return {candidate for candidate in candidates if not self._lists(origin, candidate)}

    def _lists(self, node_id: int, other: int) -> bool:
        told = self._told.get(node_id)
        return told is None or other in told
