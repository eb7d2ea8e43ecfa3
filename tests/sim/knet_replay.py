"""One node of a capture over knet, replaced by the model: what arrived goes in, what comes out is compared.

The model gets what was sent to the node, at the times of the capture, and the packets that the node's totem sent. Two
facts are taken from the node itself: when its first ping left, and by how much the thread of discoveries is ahead. The
kernel named its MTU where the node's next probe shows that.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from itertools import pairwise
from math import inf
from typing import NamedTuple

from tests.totem.wire.knet_captures import Packet, packets, settings
from totem.config import Config, Knet, LinkSettings, NodeEntry
from totem.links.crypto import Clear
from totem.testing.corosync.knet import KNET_THREADS_TIMERES, KnetModel
from totem.wire import knet

MTU = 1500
IP_UDP = 28
BURST = 0.004
"""Seconds within which all probes of one discovery are sent, where the other side answers at once."""
PHASES = tuple(step / 2000 for step in range(30))
"""Seconds by which a node's thread of discoveries may be ahead."""
LAST = 0.02
"""Seconds at the end of a capture in which some packets may have been captured, and others not."""
ANSWER = 0.00005
"""Seconds for the answer to a probe, where the model asks later than the node did."""
LINKS = {
    "06-two-links-passive": (LinkSettings(0), LinkSettings(1, port=5407, priority=10)),
    "08-two-links-active": (LinkSettings(0), LinkSettings(1)),
    "08-two-links-rr": (LinkSettings(0), LinkSettings(1)),
}


REFUSALS = {("01-plain", 1): ((12.7, 2),), ("02-aes256-sha256", 1): ((7.55, 2),)}
"""When ICMP said to a node that nobody listens at another, which is not in the captures: it sends no ping then."""


UNSEEN = {("01-plain", 2, 0): (19.3, 23.6), ("06-two-links-passive", 2, 1): (3.5, 7.0)}
"""When what a node sent over a link did not come to the bridge, from and to."""


class Sending(NamedTuple):
    """A packet that a node has sent, or the model in its place."""

    time: float
    target: int
    link: int
    packet: bytes


def config(name: str) -> Config:
    """Return the configuration of the ring of a capture."""
    ids = sorted({packet.source for packet in packets(name)} | {packet.target for packet in packets(name)})
    mode = name.rpartition("-")[2]
    links = LINKS.get(name, (LinkSettings(0),))
    chosen = replaced(
        settings(name)[0], links=links, link_mode=mode if len(links) > 1 else "passive", mtu_interval=30.0
    )
    if name == "05-zlib":
        chosen = replaced(chosen, compression="zlib")
    nodes = tuple(
        NodeEntry(k, f"node{k}", f"10.77.0.{k}", 5405, further=((1, f"10.78.0.{k}"),) if len(links) > 1 else ())
        for k in ids
    )
    token = 1.0 if len(ids) < 3 else 1.65
    return Config(nodes=nodes, cluster_name="test", transport="knet", token=token, knet=chosen)


def lives(name: str, node: int) -> list[tuple[float, float]]:
    """Return from when to when each process of a node has run, as far as all links were watched.

    One begins where pings have the number 0 again, and ends with the last packet before that.
    """
    own = [packet for packet in packets(name) if packet.source == node]
    starts: list[int] = []
    before = -1
    for place, packet in enumerate(own):
        if packet.data[1] == knet.PING:
            seq = knet.read_ping(packet.data).seq
            if seq == 0 != before:
                starts.append(place)
            before = seq
    watched = min(
        max(packet.time for packet in packets(name) if packet.link == link)
        for link in {packet.link for packet in packets(name)}
    )
    ends = [own[start - 1].time for start in starts[1:]] + [min(own[-1].time, watched)]
    return [(own[start].time, end) for start, end in zip(starts, ends, strict=True)]


@dataclass
class Replay:
    """One process of a node, replaced."""

    name: str
    node: int
    start: float
    end: float
    phase: float = 0.0
    heartbeats: int = 5
    sent: list[Sending] = field(default_factory=list)
    """By the node."""
    made: list[Sending] = field(default_factory=list)
    """By the model."""
    delivered: list[bytes] = field(default_factory=list)
    numbers: list[tuple[float, int]] = field(default_factory=list)
    """When which number was the node's last."""

    def run(self) -> Replay:
        """Run the model through the capture."""
        ring = config(self.name)
        life = [packet for packet in packets(self.name) if self.start <= packet.time <= self.end]
        own = [packet for packet in life if packet.source == self.node]
        stamps = [
            (packet.time, knet.moment(knet.read_ping(packet.data).time) / 1e9)
            for packet in own
            if packet.data[1] == knet.PING
        ]
        zero = min(time - stamp for time, stamp in stamps)  # the bridge sees some later than others, and none earlier
        self.sent = [Sending(packet.time - zero, packet.target, packet.link, packet.data) for packet in own]
        self._begun = packets(self.name)[0].time - zero
        self._watched = self.end - zero - LAST
        self._probes = [entry for entry in self.sent if entry.packet[1] == knet.PROBE]
        self._model = model = KnetModel(ring, self.node, Clear(), pmtud_phase=self.phase, heartbeats=self.heartbeats)
        self._held: list[Packet] = []
        model.start(stamps[0][1] - KNET_THREADS_TIMERES)
        events = [(packet.time - zero, packet) for packet in life if packet.target == self.node]
        events += [(entry[0].time - zero, entry) for entry in self._users_packets(own)]
        events += [
            (packets(self.name)[0].time + time - zero, other)
            for time, other in REFUSALS.get((self.name, self.node), ())
        ]
        for before, packet in pairwise(own):
            if packet.knet != before.knet:
                events.append((packet.time - zero, packet.knet))
        for time, event in sorted(events, key=lambda event: event[0]):
            self._advance(time)
            self._feed(event, time)
            self._flush(time)
        self._advance(self.end - zero)
        return self

    @staticmethod
    def _users_packets(own: list[Packet]) -> list[list[Packet]]:
        """Return the node's user packets: all fragments of each, to all hosts."""
        found: dict[bytes, list[Packet]] = {}
        for packet in own:
            if packet.data[1] == knet.DATA:
                found.setdefault(packet.data[6:8], []).append(packet)
        return list(found.values())

    def _feed(self, event: Packet | list[Packet] | Knet | int, time: float) -> None:
        model = self._model
        if isinstance(event, Knet):
            model.accept(replaced(model.settings, cipher=event.cipher, hash=event.hash), Clear())
            model.use_accepted(time)
            return
        if isinstance(event, int):
            model.unreachable(0, event, time)
            return
        if isinstance(event, Packet):
            if event.data[1] == knet.PROBE_REPLY and not self._is_asked(event):
                self._held.append(event)
                return
            source = model._addresses[event.source, event.link]
            self.delivered += model.receive(event.link, source, (event.data,), time)
            return
        to_first = [packet for packet in event if (packet.target, packet.link) == (event[0].target, event[0].link)]
        said = knet.read_fragment(event[0].data)
        if said.fragments != len(to_first):
            return  # not all of it has come to the bridge
        whole = b"".join(packet.data[knet.DATA_HEADER :] for packet in to_first)
        if said.compression:
            whole = zlib.decompress(whole)
        model.tx_seq_num = (said.seq - 2) % 65535 + 1 if said.seq > 1 else 0
        self.numbers.append((time, said.seq))
        model.send(event[0].target if not event[0].data[10] else 0, (whole,), time)

    def _is_asked(self, reply: Packet) -> bool:
        """Return whether the model waits for an answer; else it will ask a moment later than the node did."""
        return self._model._probing == (reply.source, reply.link, knet.read_probe(reply.data)[1])

    def _advance(self, until: float) -> None:
        while self._model.deadline <= until:
            time = self._model.deadline
            self._model.advance(time)
            self._flush(time)

    def _flush(self, time: float) -> None:
        while outgoing := self._model.take():
            for departure in outgoing:
                for packet in departure.datagrams:
                    size = knet.read_probe(packet)[1] if packet[1] == knet.PROBE else 0
                    if size > MTU:
                        mtu = MTU if self._names(departure.node_id, departure.link, time) else 0
                        self._model.too_large(departure.link, departure.node_id, mtu, time)
                    else:
                        self.made.append(Sending(time, departure.node_id, departure.link, packet))

        while reply := next(filter(self._is_asked, self._held), None):
            self._held.remove(reply)
            self._feed(reply, time + ANSWER)
            self._flush(time + ANSWER)

    def _names(self, target: int, link: int, time: float) -> bool:
        """Return whether the node's next probe on this way is the last one of a burst."""
        way = [entry.time for entry in self._probes if (entry.target, entry.link) == (target, link)]
        done = sum(
            (entry.target, entry.link) == (target, link) and entry.packet[1] == knet.PROBE for entry in self.made
        )
        return done + 1 >= len(way) or way[done + 1] - way[done] > BURST

    def of(self, kind: int, target: int, link: int) -> tuple[list[Sending], list[Sending]]:
        """Return the packets of a type on one way that the node has sent, and those of the model, as far as the bridge
        saw them."""
        dark, light = (self._begun + time for time in UNSEEN.get((self.name, self.node, link), (inf, inf)))
        sent, made = (
            [
                entry
                for entry in side
                if (entry.packet[1], entry.target, entry.link) == (kind, target, link)
                and entry.time < self._watched
                and not dark < entry.time < light
            ]
            for side in (self.sent, self.made)
        )
        return sent, made

    def numbers_about(self, time: float, tolerance: float) -> set[int]:
        """Return the numbers that were the node's last within the tolerance."""
        times = [moment for moment, _ in self.numbers]
        first, last = bisect_left(times, time - tolerance) - 1, bisect_right(times, time + tolerance)
        return {seq for _, seq in self.numbers[max(first, 0) : last]} | ({0} if first < 0 else set())


def replay(name: str, node: int, start: float, end: float) -> Replay:
    """Replace a process of a node, with the phase of its thread of discoveries that fits its probes best."""

    def lateness(phase: float) -> tuple[int, float]:
        made = [entry for entry in Replay(name, node, start, end, phase).run().made if entry.packet[1] == knet.PROBE]
        off = [abs(one.time - other.time) for one, other in zip(made, asked, strict=False)]
        return abs(len(made) - len(asked)), max(off, default=0.0)

    asked = [entry for entry in Replay(name, node, start, end).run().sent if entry.packet[1] == knet.PROBE]
    return Replay(name, node, start, end, min(PHASES, key=lateness)).run()
