"""The network of a simulated cluster, and its clock: datagrams in flight between nodes, nothing else.

All future events are in one heap of (time, order, event), and all randomness comes from one `random.Random`, so a seed
decides everything. A datagram's fate is decided when it is sent: cut off, lost, damaged, delayed, doubled, overtaken,
or kept back as long as its link is clogged. Links are directed, and each has its own `Conditions`. Time is virtual:
`now` jumps from event to event, and nothing here ever waits.

A machine on which nothing listens refuses what comes, as a kernel does by ICMP, unless it is silent. A link that
rejects refuses for a machine on which something listens, as a firewall does. There are as many refusals as Linux sends.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import chain
from math import inf
from typing import Any

Damage = Callable[[bytes, random.Random], bytes]
Filter = Callable[[int, int, bytes], bool]
"""Called with (source, target, datagram); True drops it."""


def flip_or_cut(datagram: bytes, dice: random.Random) -> bytes:
    """Damage a datagram: one to four bits flipped, or its end cut off."""
    if dice.random() < 0.5:
        return datagram[: dice.randrange(len(datagram))]
    damaged = bytearray(datagram)
    for _ in range(dice.randint(1, 4)):
        damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
    return bytes(damaged)


def spoil_header(datagram: bytes, dice: random.Random) -> bytes:
    """Damage a datagram so that any receiver can tell: magic or version wrong, or cut off within the header.

    Damage that UDP's checksum does not detect is rare, and no protocol without authentication can undo it. With this
    damage all promises still hold.
    """
    if dice.random() < 0.5:
        return datagram[: dice.randrange(13)]
    damaged = bytearray(datagram)
    damaged[dice.randrange(3)] ^= 1 << dice.randrange(8)
    return bytes(damaged)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a link does to datagrams. Times in seconds; probabilities for each datagram."""

    delay: float = 0.0005
    jitter: float = 0.0002
    """Largest time that is added to the delay; order is kept."""
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """Probability of a delay by up to ten delays more, so that later datagrams overtake."""
    straggle: float = 0.0
    """Probability that a copy comes much later, `straggle_time` at most, perhaps in another ring."""
    straggle_time: float = 1.0
    longest: float = inf
    """Bytes of the longest datagram that passes."""
    corrupt: float = 0.0
    damage: Damage = spoil_header

    @property
    def faulty(self) -> bool:
        """Whether anything but delay can happen."""
        return bool(self.loss or self.duplicate or self.reorder or self.straggle or self.corrupt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cables:
    """A switch and a cable from it to each node: the time that datagrams take, instead of a link's delay.

    A node's datagrams leave one after the other, and so do those that the switch has for a node.
    """

    rate: float = 125e6
    """Bytes a second, each way: 1 Gbit/s."""
    delay: float = 5e-6
    """Seconds from the end of a datagram at the switch to its beginning on the next cable."""
    overhead: int = 66
    """Bytes of a datagram on the cable besides its own: preamble, gap, Ethernet, IPv4 and UDP headers."""
    buffer: int = 512 * 1024
    """Bytes that may wait for a node at the switch; beyond that they are lost."""

    def seconds(self, datagram: bytes) -> float:
        """Return how long a datagram is on a cable."""
        return (len(datagram) + self.overhead) / self.rate


REFUSAL_INTERVAL = 1.0
"""Seconds between two refusals of a machine to the same one: Linux's `net.ipv4.icmp_ratelimit`."""
REFUSAL_BURST = 6
"""Refusals that a machine sends at once to one that it has sent none for long."""


class Storm(Exception):
    """More events than any scenario needs: a node answers everything with more of the same."""


def _nobody(datagram: bytes) -> None:
    """Lose a datagram for a node that is not attached."""


class Link:
    """One direction between two nodes."""

    __slots__ = ("_conditions", "clogged", "cut", "faulty", "latest", "receiver", "refusals", "refused_at", "rejects")

    def __init__(self, conditions: Conditions) -> None:
        self.cut = False
        self.rejects = False
        """Whether a firewall refuses what is sent over it."""
        self.refusals = float(REFUSAL_BURST)
        """Number of refusals that may be sent back at once."""
        self.refused_at = 0.0
        """When that was counted last."""
        self.clogged: list[bytes] | None = None
        """Datagrams that are kept back while the link is clogged."""
        self.latest = 0.0
        """When the last datagram arrives that keeps its place in the order."""
        self.receiver: Callable[[bytes], None] = _nobody
        """Takes what arrives."""
        self.conditions = conditions

    @property
    def conditions(self) -> Conditions:
        """What this link does to datagrams from now on."""
        return self._conditions

    @conditions.setter
    def conditions(self, conditions: Conditions) -> None:
        self._conditions = conditions
        self.faulty = conditions.faulty


class Network:
    """Nodes `node_ids`, a link from each to each, and the heap of all future events."""

    CLOG_LIMIT = 1000
    """Datagrams that a clogged link keeps; the rest is lost, as in any queue."""

    def __init__(self, node_ids: Iterable[int], dice: random.Random, conditions: Conditions | None = None) -> None:
        self.now = 0.0
        self.dice = dice
        self.conditions = conditions or Conditions()
        self.filters: list[Filter] = []
        """Each may drop a datagram; for tests with a target."""
        self.silent: set[int] = set()
        """Machines that refuse nothing: they are off, or their firewall drops what they would say."""
        self._refusal_receivers: dict[int, Callable[[int], None]] = {}
        self._probe_dice = random.Random(f"probes {dice.getstate()}")
        """Of its own, so that probes do not change what becomes of all other datagrams."""
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        """(time, order, what to call, its arguments)."""
        self._order = 0
        self.limit = 1 << 62
        """Number of events beyond which a run is a storm."""
        ids = list(node_ids)
        self.links = {source: {target: Link(self.conditions) for target in ids} for source in ids}
        for node_id in ids:
            self.links[node_id][node_id].conditions = Conditions(delay=self.conditions.delay / 10, jitter=0.0)

    def attach(self, node_id: int, receiver: Callable[[bytes], None]) -> None:
        """Give all datagrams that arrive at a node to `receiver`."""
        for links in self.links.values():
            links[node_id].receiver = receiver

    def attach_with_source(self, node_id: int, receiver: Callable[[int, bytes], None]) -> None:
        """Give all datagrams that arrive at a node to `receiver`, each with the node that has sent it."""
        for source, links in self.links.items():
            links[node_id].receiver = partial(receiver, source)

    def attach_refusals(self, node_id: int, receiver: Callable[[int], None]) -> None:
        """Tell `receiver` which machine has refused a datagram of a node."""
        self._refusal_receivers[node_id] = receiver

    # Time.

    def at(self, time: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call `action` when it is `time`, after what is due at the same moment already."""
        if self._order > self.limit:
            raise Storm(f"more than {self.limit} events in {self.now:.3f} s")
        self._order += 1
        heappush(self._heap, (time, self._order, action, arguments))

    @property
    def next_event(self) -> float | None:
        """Return when the next event happens; None if there is none."""
        return self._heap[0][0] if self._heap else None

    def step(self) -> None:
        """Run the next event."""
        self.now, _, action, arguments = heappop(self._heap)
        action(*arguments)

    def run(self, until: float) -> None:
        """Run all events up to and including the time `until`, which then is `now`."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, action, arguments = heappop(heap)
            action(*arguments)
        self.now = until

    # Datagrams.

    def broadcast(self, source: int, datagram: bytes) -> None:
        """Send to every other node."""
        for target in self.links[source]:
            if target != source:
                self.send(source, target, datagram)

    def send(self, source: int, target: int, datagram: bytes) -> None:
        """Send to one node; to an unknown one it is lost."""
        link = self.links[source].get(target)
        if link is None or link.cut:
            return
        if link.rejects:
            self.refuse(source, target)
            return
        if self.filters and any(swallows(source, target, datagram) for swallows in self.filters):
            return
        if link.clogged is not None:
            if len(link.clogged) < self.CLOG_LIMIT:
                link.clogged.append(datagram)
            return
        conditions = link.conditions
        if len(datagram) > conditions.longest:
            return
        random = self.dice.random
        arrival = self.now + conditions.delay + conditions.jitter * random()
        receiver = link.receiver
        if link.faulty:
            if random() < conditions.loss:
                return
            if random() < conditions.corrupt:
                datagram = conditions.damage(datagram, self.dice)
            if random() < conditions.duplicate:
                self.at(arrival + conditions.delay * random(), receiver, datagram)
            if random() < conditions.straggle:
                self.at(arrival + conditions.straggle_time * random(), receiver, datagram)
            if random() < conditions.reorder:
                self.at(arrival + 10 * conditions.delay * random(), receiver, datagram)
                return
        arrival = max(arrival, link.latest)
        link.latest = arrival
        self.at(arrival, receiver, datagram)

    def send_probe(self, source: int, target: int, datagram: bytes) -> None:
        """Send a datagram of ours beside those of totem, as the links machine does.

        `filters` do not see it, it delays no other one, and a clogged link loses it: it would come too late to count.
        """
        link = self.links[source][target]
        if link.cut or link.clogged is not None or len(datagram) > link.conditions.longest:
            return
        if link.rejects:
            self.refuse(source, target)
            return
        conditions, random = link.conditions, self._probe_dice.random
        arrival = self.now + conditions.delay + conditions.jitter * random()
        if random() >= conditions.loss:
            self.at(arrival, link.receiver, datagram)
        if random() < conditions.duplicate:
            self.at(arrival + conditions.delay * random(), link.receiver, datagram)

    # Refusals.

    def refuse(self, source: int, target: int) -> None:
        """Tell a sender that a machine, or what is before it, has refused its datagram; as often as Linux does."""
        back, receiver = self.links[target][source], self._refusal_receivers.get(source)
        if receiver is None or target in self.silent or source == target:
            return
        since = self.now - back.refused_at
        back.refusals, back.refused_at = min(back.refusals + since / REFUSAL_INTERVAL, REFUSAL_BURST), self.now
        if back.refusals >= 1:
            back.refusals -= 1
            if not back.cut:
                self.at(self.now + back.conditions.delay, receiver, target)

    # Faults.

    def reject(self, sources: Collection[int], targets: Collection[int]) -> None:
        """Have firewalls refuse what goes from the first nodes to the second."""
        for source, target, link in self._links():
            if source in sources and target in targets:
                link.rejects = True

    def set_conditions(self, conditions: Conditions, source: int | None = None, target: int | None = None) -> None:
        """Change all links, those from `source`, those to `target`, or the one between; never a node's to itself."""
        for here, there, link in self._links():
            if source in (None, here) and target in (None, there):
                link.conditions = conditions

    def cut(self, sources: Collection[int], targets: Collection[int]) -> None:
        """Cut the links from the first nodes to the second, in this direction only."""
        for source, target, link in self._links():
            if source in sources and target in targets:
                link.cut = True

    def partition(self, *groups: Collection[int]) -> None:
        """Cut all links between nodes that are not together in one of the groups, and restore all others."""
        for source, target, link in self._links():
            link.cut = not any(source in group and target in group for group in groups)

    def heal(self, conditions: Conditions | None = None) -> None:
        """Restore and unclog all links, under `conditions`, by default those of the beginning."""
        self.set_conditions(conditions or self.conditions)
        for source, target, link in self._links():
            link.cut = link.rejects = False
            self._unclog(source, target, link)

    def clog(self, node: int) -> None:
        """Keep back everything to and from a node, until `unclog`."""
        for _, _, link in self._links_of(node):
            if link.clogged is None:
                link.clogged = []

    def unclog(self, node: int) -> None:
        """Send on what was kept back."""
        for source, target, link in self._links_of(node):
            self._unclog(source, target, link)

    def swizzle_clog(self, duration: float) -> None:
        """Clog some nodes one by one and release them in another order, within `duration` from now.

        This fault of FoundationDB's simulator finds more than its share.
        """
        nodes = [node for node in self.links if self.dice.random() < 0.6]
        clogging = sorted(self.now + duration / 2 * self.dice.random() for _ in nodes)
        releasing = sorted(self.now + duration / 2 * (1 + self.dice.random()) for _ in nodes)
        for time, node in zip(clogging, nodes, strict=True):
            self.at(time, self.clog, node)
        self.dice.shuffle(nodes)
        for time, node in zip(releasing, nodes, strict=True):
            self.at(time, self.unclog, node)

    def _unclog(self, source: int, target: int, link: Link) -> None:
        kept, link.clogged = link.clogged, None
        for datagram in kept or ():
            self.send(source, target, datagram)

    def _links(self) -> Iterator[tuple[int, int, Link]]:
        for source, links in self.links.items():
            for target, link in links.items():
                if source != target:
                    yield source, target, link

    def _links_of(self, node: int) -> Iterator[tuple[int, int, Link]]:
        for source, target, link in self._links():
            if node in (source, target):
                yield source, target, link


class Plane(Network):
    """One of several networks between the same nodes, in the time of all of them (`Planes`)."""

    def __init__(self, planes: Planes, conditions: Conditions | None) -> None:
        self._planes = planes
        super().__init__(planes.links, planes.dice, conditions)
        self.silent = planes.silent

    @property
    def now(self) -> float:
        """The time of all planes."""
        return self._planes.now

    @now.setter
    def now(self, now: float) -> None:
        """Ignore what a network begins with: the planes keep the time."""

    def at(self, time: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call `action` when it is `time`."""
        self._planes.at(time, action, *arguments)


class Planes(Network):
    """A network for each link of transport knet. What is done here to links between nodes is done on all of them.

    `filters` are for the packets of totem. They see them as they leave, on each link; where packets are sealed or
    compressed, as they come out of the links (`totem.testing.simulated_links`).
    """

    def __init__(
        self,
        node_ids: Collection[int],
        dice: random.Random,
        conditions: Conditions | None = None,
        numbers: Iterable[int] = (0,),
    ) -> None:
        super().__init__(node_ids, dice, conditions)
        self.planes = {number: Plane(self, conditions) for number in numbers}
        """By the number of the link."""

    def heal(self, conditions: Conditions | None = None) -> None:
        """Restore and unclog all links of all planes."""
        for plane in self.planes.values():
            plane.heal(conditions)

    def unclog(self, node: int) -> None:
        """Send on what was kept back on any plane."""
        for plane in self.planes.values():
            plane.unclog(node)

    def _links(self) -> Iterator[tuple[int, int, Link]]:
        return chain.from_iterable(plane._links() for plane in self.planes.values())


class SwitchedNetwork(Network):
    """Nodes on one switch: a datagram takes the time of its bytes, behind those before it.

    A datagram to all leaves its node once, and the switch makes the copies. The links' loss and cuts apply, their other
    faults do not.
    """

    def __init__(self, node_ids: Collection[int], dice: random.Random, cables: Cables | None = None) -> None:
        super().__init__(node_ids, dice, Conditions(delay=0.0, jitter=0.0))
        self.cables = cables or Cables()
        self.overruns = 0
        """Datagrams lost because the switch's buffer was full."""
        self._out = dict.fromkeys(node_ids, 0.0)
        """When the cable from each node to the switch is free."""
        self._in = dict.fromkeys(node_ids, 0.0)
        """When the cable from the switch to each node is free."""

    def broadcast(self, source: int, datagram: bytes) -> None:
        """Send to every other node, in one copy."""
        self._leave(source, tuple(target for target in self.links if target != source), datagram)

    def send(self, source: int, target: int, datagram: bytes) -> None:
        """Send to one node."""
        self._leave(source, (target,), datagram)

    def _leave(self, source: int, targets: tuple[int, ...], datagram: bytes) -> None:
        cables = self.cables
        self._out[source] = max(self.now, self._out[source]) + cables.seconds(datagram)
        self.at(self._out[source] + cables.delay, self._switch, source, targets, datagram)

    def _switch(self, source: int, targets: tuple[int, ...], datagram: bytes) -> None:
        cables = self.cables
        for target in targets:
            link = self.links[source][target]
            if (
                link.cut
                or len(datagram) > link.conditions.longest
                or (link.conditions.loss and self.dice.random() < link.conditions.loss)
            ):
                continue
            begins = max(self.now, self._in[target])
            if (begins - self.now) * cables.rate > cables.buffer:
                self.overruns += 1
                continue
            self._in[target] = begins + cables.seconds(datagram)
            self.at(self._in[target], link.receiver, datagram)
