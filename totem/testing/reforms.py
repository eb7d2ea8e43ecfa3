"""Checks of rings whose nodes do not all hear each other: how often they change, who is in, and equal views."""

from __future__ import annotations

from collections.abc import Iterable

from totem.testing.cluster import Cluster


class Reforms:
    """Counts the rings that each node of a cluster installs from now on."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._before = self._installed()

    def counts(self) -> dict[int, int]:
        """Return the number of rings that each running node has installed since then."""
        return {node_id: count - self._before.get(node_id, 0) for node_id, count in self._installed().items()}

    def violations(self, parts: Iterable[tuple[int, ...]], *, at_most: int) -> list[str]:
        """Return what is wrong: a node that has changed more often, or a part that is not one ring.

        Args:
            parts: The nodes that must be in one ring each, with the same view of it.
            at_most: Changes that each node may have seen.
        """
        found = [
            f"node {node_id} has seen {count} changes" for node_id, count in self.counts().items() if count > at_most
        ]
        return found + [f"{part} are not one ring" for part in parts if not self._cluster.one_ring(*part)]

    def _installed(self) -> dict[int, int]:
        machines = {node.node_id: node.machine for node in self._cluster.running}
        return {node_id: machine.counters.rings_installed for node_id, machine in machines.items() if machine}
