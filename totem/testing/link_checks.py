"""What links of transport knet must do, in random worlds. A ring hides much of what they do wrong: it sends again.

- On the wire (rings in clear): no data has the number 0, and after each 8,191 packets all hear the number.
- No packet comes out of the links twice (`totem.testing.simulated_links` counts that).
- On a network that has been healed for a while: all links are up and have found what they carry; nothing that they are
  given is lost, so nobody requests a frame again, and nothing is taken for a copy where none is sent.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from totem.config import ETHERNET_MTU, Config
from totem.links.arrivals import NUMBERS, WINDOW
from totem.links.machine import FORCED_EVERY, Links
from totem.processor import Processor
from totem.testing.checkers import Violation
from totem.testing.cluster import Cluster
from totem.testing.corosync.knet import KnetModel
from totem.wire import knet

CLAUSE = "links"
COPIES = "knet packet that has come before"


class WireWatch:
    """Watches what leaves on all planes of a ring in clear."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._last: dict[int, int] = {}
        self._due: Counter[int] = Counter()
        """By node: how often all must have been told its number."""
        self._told: defaultdict[int, Counter[int]] = defaultdict(Counter)
        """By node and number: to how many it was told."""
        self.violations: list[Violation] = []
        if cluster.config.knet is not None and not cluster.config.knet.is_sealed:
            for plane in cluster.planes.values():
                plane.filters.append(self._look)

    def _look(self, source: int, target: int, datagram: bytes) -> bool:
        if len(datagram) < knet.PROBE_BYTES:
            return False
        kind = datagram[1]
        if kind == knet.DATA:
            seq = int.from_bytes(datagram[knet.SEQ_AT], "big")
            if not seq:
                self.violations.append(Violation(CLAUSE, f"node {source} sends data with the number 0"))
            before = self._last.setdefault(source, seq)
            if 0 < (seq - before) % NUMBERS < WINDOW:  # else it is a copy, or the same for another node
                # A step of more is where all was cut: then what was told was not seen either.
                self._due[source] += before // FORCED_EVERY < seq // FORCED_EVERY and seq - before < 4
                self._last[source] = seq
        elif kind == knet.PING and not knet.read_ping(datagram).timed:
            self._told[source][knet.read_ping(datagram).seq] += 1
        return False

    def check(self) -> list[Violation]:
        """Return what was seen to be wrong."""
        silent = [
            node_id
            for node_id, times in self._due.items()
            if times > len(self._told[node_id]) and self._cluster[node_id].incarnation == 1  # no crash has come between
        ]
        return self.violations + [
            Violation(CLAUSE, f"node {node_id} has not told its number {self._due[node_id]} times")
            for node_id in silent
        ]


def check_paths(cluster: Cluster) -> list[Violation]:
    """Check that all links are up, and have found what they carry."""
    running = {node.node_id for node in cluster.running}
    theirs = [
        Violation(CLAUSE, f"real node {node.node_id}, link {number} to node {host.host_id}: up {link.connected}")
        for node in cluster.running
        if node.links is not None and isinstance(node.links.machine, KnetModel)
        for host in node.links.machine.hosts.values()
        if host.host_id in running
        for number, link in host.link.items()
        if not link.connected or not link.has_valid_mtu
    ]
    return theirs + [
        Violation(CLAUSE, f"node {node_id}, link {number} to node {other}: up {path.is_up}, MTU {path.mtu}")
        for node_id, links in _links_of(cluster)
        for other in (node.node_id for node in cluster.running)
        if other != node_id
        for number, path in links.paths(other).items()
        if not path.is_usable or path.mtu != _largest(cluster.config)
    ]


def is_searching(cluster: Cluster) -> bool:
    """Return whether a node looks for the MTU of a path to another one that runs."""
    theirs = (node.links.machine for node in cluster.running if node.links is not None)
    return any(machine.is_discovering for machine in theirs if isinstance(machine, KnetModel)) or any(
        path.is_searching
        for node_id, links in _links_of(cluster)
        for other in (node.node_id for node in cluster.running)
        if other != node_id
        for path in links.paths(other).values()
    )


def _largest(config: Config) -> int:
    """Return the MTU that is found on Ethernet."""
    assert config.knet is not None
    return config.knet.mtu or ETHERNET_MTU


class LossWatch:
    """What nodes request again and take for copies, from now on."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._before = self._counts()

    def _counts(self) -> dict[int, tuple[int, int]]:
        return {
            node_id: (machine.counters.retransmits_requested, links.drops[COPIES])
            for node_id, links in _links_of(self._cluster)
            if isinstance(machine := self._cluster[node_id].machine, Processor)
        }

    def check(self, *, copies: bool) -> list[Violation]:
        """Return violations. `copies`: whether copies are sent (link_mode active)."""
        violations = []
        for node_id, (requested, dropped) in self._counts().items():
            requested_before, dropped_before = self._before.get(node_id, (requested, dropped))
            if requested > requested_before:
                violations.append(Violation(CLAUSE, f"node {node_id} lacks frames on a network that loses nothing"))
            if dropped > dropped_before and not copies:
                violations.append(Violation(CLAUSE, f"node {node_id} takes packets for copies that were sent once"))
        return violations


def _links_of(cluster: Cluster) -> Iterator[tuple[int, Links]]:
    for node in cluster.running:
        if node.links is not None and isinstance(node.links.machine, Links):
            yield node.node_id, node.links.machine
