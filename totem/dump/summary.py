"""A summary of a capture: what each node sent, the rings, how fast their tokens went, what was sent again."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from totem.configuration import RingId
from totem.dump import knet
from totem.dump.knet import KnetPacket
from totem.dump.records import END, SEALED, Record
from totem.sequence import distance

MOST_RINGS: Final = 64
"""Rings that are listed: the last ones."""
MOST_WAYS: Final = 1024
"""Links between two nodes that are listed."""
MOST_NAMES: Final = 512
"""Nodes, types and causes that are counted separately; hostile ones have no end."""
OTHERS: Final = "others"
_HALF: Final = 1 << 31
"""Numbers further ahead than this are behind."""


@dataclass(slots=True)
class _RingFigures:
    """What was seen of one ring."""

    first: float
    last: float = 0.0
    members: tuple[int, ...] = ()
    """The members in its commit token; empty if that was not captured."""
    visits: dict[int, int] = field(default_factory=dict)
    """`token_seq` with which each node last forwarded its token."""
    size: int = 0
    """Hops from one visit of a node to its next, which equal the number of members; 0 if no two were captured."""
    multicasts: int = 0
    messages: int = 0
    retransmissions: int = 0
    requests: int = 0
    tokens: int = 0
    token_seq: tuple[int, int] | None = None
    """The first and the last one seen."""
    token_time: tuple[float, float] = (0.0, 0.0)

    @property
    def rotations_per_second(self) -> float | None:
        """Rotations of the token a second, from the hops in the token's own count: a capture need not see them all."""
        seconds = self.token_time[1] - self.token_time[0]
        if self.token_seq is None or not self.size or seconds <= 0:
            return None
        return distance(*self.token_seq) / self.size / seconds

    def add_token(self, holder: int, token_seq: int, time: float) -> None:
        """Count a visit of the token."""
        self.tokens += 1
        hops = distance(self.visits.get(holder, token_seq), token_seq)
        if 0 < hops < _HALF:
            self.size = min(self.size or hops, hops)
        if holder in self.visits or len(self.visits) < MOST_NAMES:
            self.visits[holder] = token_seq
        if self.token_seq is None:
            self.token_seq, self.token_time = (token_seq, token_seq), (time, time)
        elif distance(self.token_seq[1], token_seq) < _HALF:
            self.token_seq = self.token_seq[0], token_seq
            self.token_time = self.token_time[0], time


@dataclass(slots=True)
class _WayFigures:
    """What was seen of a link of knet from one node to another."""

    pongs: int = 0
    """Pings that were answered."""
    total: float = 0.0
    """Seconds until the answers, all together."""
    longest: float = 0.0
    mtu: int = 0
    """Bytes of the largest IP packet that was answered."""

    def add(self, packet: KnetPacket) -> None:
        """Count an answer."""
        if packet.kind == knet.PROBE_REPLY:
            self.mtu = max(self.mtu, packet.values["size"])
            return
        self.pongs += 1
        self.total += packet.values["after"]
        self.longest = max(self.longest, packet.values["after"])


class Summary:
    """Counts records."""

    def __init__(self) -> None:
        self.sent: Counter[tuple[str, int]] = Counter()
        """By type and node."""
        self.said: Counter[tuple[str, int]] = Counter()
        """Messages of the layers above, by name and sender."""
        self.copies = 0
        self.retransmissions: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.cut = 0
        self.rings: OrderedDict[RingId, _RingFigures] = OrderedDict()
        self.ways: dict[tuple[int, int, int], _WayFigures] = {}
        """By link, the node that asks, and the one that answers."""
        self._span: tuple[float, float] | None = None

    def add(self, record: Record) -> None:
        """Count one record."""
        time = record.datagram.time
        self._span = (min(self._span[0], time), max(self._span[1], time)) if self._span else (time, time)
        for message, explanation in record.messages:
            _count(self.said, (explanation.name, message.sender), (OTHERS, 0))
            self._ring(message.ring_id, time).messages += 1
            if explanation.fault:
                _count(self.faults, explanation.fault, OTHERS)
        if record.kind == END:
            return
        for fault in record.faults:
            _count(self.faults, fault, OTHERS)
        self.cut += record.datagram.length > len(record.datagram.payload)
        if record.copy == "copy":
            self.copies += 1
            return
        _count(self.sent, (record.kind, record.node), (OTHERS, 0))
        if record.copy:
            self.retransmissions[record.kind] += 1
        if record.knet is not None and "to" in record.knet.values:
            self._add_answer(record.knet)
        if record.ring_id is not None:
            self._add_to_ring(self._ring(record.ring_id, time), record)

    def _add_answer(self, packet: KnetPacket) -> None:
        way = packet.link or 0, packet.values["to"], packet.node
        if way in self.ways or len(self.ways) < MOST_WAYS:
            self.ways.setdefault(way, _WayFigures()).add(packet)

    def _ring(self, ring_id: RingId, time: float) -> _RingFigures:
        ring = self.rings.get(ring_id)
        if ring is None:
            ring = self.rings[ring_id] = _RingFigures(time)
            if len(self.rings) > MOST_RINGS:
                self.rings.popitem(last=False)
        ring.last = max(ring.last, time)
        return ring

    @staticmethod
    def _add_to_ring(ring: _RingFigures, record: Record) -> None:
        packet, time = record.packet, record.datagram.time
        assert packet is not None
        match record.kind:
            case "commit_token":
                ring.members = tuple(packet.addr)
            case "mcast" if record.copy:
                ring.retransmissions += 1
            case "mcast":
                ring.multicasts += 1
            case "token":
                ring.requests += len(packet.rtr_list)
                ring.add_token(packet.header.nodeid, packet.token_seq, time)

    def as_dict(self, troubles: dict[str, int]) -> dict[str, Any]:
        """Return the summary for programs. `troubles`: what the reader of the capture counted."""
        return {
            "summary": {
                "first": self._span and self._span[0],
                "last": self._span and self._span[1],
                "sent": _nested(self.sent),
                "messages": _nested(self.said),
                "copies": self.copies,
                "retransmissions": dict(self.retransmissions),
                "faults": dict(self.faults),
                "cut": self.cut,
                "troubles": troubles,
                "links": [
                    {
                        "link": link,
                        "from": asker,
                        "to": answerer,
                        "pongs": way.pongs,
                        "mean": way.total / way.pongs if way.pongs else None,
                        "longest": way.longest if way.pongs else None,
                        "mtu": way.mtu or None,
                    }
                    for (link, asker, answerer), way in sorted(self.ways.items())
                ],
                "rings": [
                    {
                        "ring": ring_id,
                        "members": ring.members,
                        "size": ring.size or None,
                        "first": ring.first,
                        "last": ring.last,
                        "tokens": ring.tokens,
                        "rotations_per_second": ring.rotations_per_second,
                        "multicasts": ring.multicasts,
                        "retransmissions": ring.retransmissions,
                        "requests": ring.requests,
                        "messages": ring.messages,
                    }
                    for ring_id, ring in self.rings.items()
                ],
            }
        }

    def lines(self, troubles: dict[str, int]) -> Iterator[str]:
        """Yield the summary for people."""
        if self._span is None:
            yield "no datagram of a ring"
        else:
            start = datetime.fromtimestamp(self._span[0]).strftime("%Y-%m-%d %H:%M:%S")
            yield f"from {start}, {self._span[1] - self._span[0]:.3f} seconds"
        yield from _table("packets", self.sent)
        yield from _table("messages", self.said)
        if self.ways:
            yield ""
            yield "links, as seen from where this was captured:"
        for (link, asker, answerer), way in sorted(self.ways.items()):
            yield _way_line(link, asker, answerer, way)
        if self.rings:
            yield ""
            yield "rings:"
        for ring_id, ring in self.rings.items():
            yield from _ring_lines(ring_id, ring)
        counts = {
            "copies of a multicast for further destinations": self.copies,
            **{f"{kind}s sent again": count for kind, count in self.retransmissions.items()},
            "packets cut by the capture": self.cut,
            **{f"malformed: {cause}": count for cause, count in self.faults.items()},
            **troubles,
        }
        if any(counts.values()):
            yield ""
        yield from (f"{count} {what}" for what, count in counts.items() if count)
        if SEALED in self.faults:
            yield f"{SEALED}: -c corosync.conf or --key opens what a ring over knet encrypts"


def _way_line(link: int, asker: int, answerer: int, way: _WayFigures) -> str:
    words = f"  link {link}, {asker} to {answerer}: {way.pongs} pongs"
    if way.pongs:
        words += f" after {way.total / way.pongs * 1000:.3f} ms, at most {way.longest * 1000:.3f} ms"
    return words + (f"; packets of {way.mtu} bytes pass" if way.mtu else "")


def _ring_lines(ring_id: RingId, ring: _RingFigures) -> Iterator[str]:
    members = f"members {' '.join(map(str, ring.members))}" if ring.members else f"{ring.size or '?'} members"
    yield f"  {ring_id}: {members}, {ring.last - ring.first:.3f} seconds"
    rotations = ring.rotations_per_second
    pace = "" if rotations is None else f", {rotations:.1f} rotations a second"
    yield f"    {ring.tokens} tokens{pace}, {ring.multicasts} multicasts, {ring.messages} messages"
    if ring.retransmissions or ring.requests:
        yield f"    {ring.requests} requests in tokens, {ring.retransmissions} multicasts sent again"


def _table(title: str, counts: Counter[tuple[str, int]]) -> Iterator[str]:
    """Yield a table with names down and nodes across."""
    if not counts:
        return
    nodes = sorted({node for _, node in counts})
    names = sorted({name for name, _ in counts})
    width = max(map(len, (*names, title)))
    heads = [f"node {node}" if node else "?" for node in nodes]
    columns = [max(len(head), 7) for head in heads]
    yield ""
    yield "  ".join((title.ljust(width), *(head.rjust(size) for head, size in zip(heads, columns, strict=True))))
    for name in names:
        cells = [str(counts[name, node] or "-").rjust(size) for node, size in zip(nodes, columns, strict=True)]
        yield "  ".join((name.ljust(width), *cells))


def _nested(counts: Counter[tuple[str, int]]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (name, node), count in sorted(counts.items()):
        nested.setdefault(name, {})[str(node)] = count
    return nested


def _count(counts: Counter[Any], name: object, others: object) -> None:
    counts[name if name in counts or len(counts) < MOST_NAMES else others] += 1
