"""What datagrams say: each packet read by the `construct` schema, with the whole messages that it completes.

Nothing that comes raises. What cannot be read is a fault of its record, under the cause by which a node counts it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from construct import Construct, ConstructError, Container

from totem.configuration import NO_RING, RingId
from totem.dump import knet
from totem.dump.knet import KnetPacket, KnetReader
from totem.dump.network import Datagram
from totem.dump.order import Copy, Order, WholeMessage, is_reset, runs
from totem.errors import MalformedDatagram
from totem.wire import codec, evidence, layout, probes, schema

_OWN_KINDS: Final = {
    probes.PING: knet.PING,
    probes.BEAT: knet.PING,
    probes.PONG: knet.PONG,
    probes.PROBE: knet.PROBE,
    probes.REPLY: knet.PROBE_REPLY,
}
"""What nodes of ours say to each other on udpu and udp, beside totem."""
KINDS: Final = {
    layout.TYPE_TOKEN: "token",
    layout.TYPE_MCAST: "mcast",
    layout.TYPE_MERGE_DETECT: "merge_detect",
    layout.TYPE_JOIN: "join",
    layout.TYPE_COMMIT_TOKEN: "commit_token",
    layout.TYPE_HOLD_CANCEL: "hold_cancel",
}
LEAVE: Final = "leave"
"""A join that announces that its sender leaves."""
EVIDENCE: Final = "evidence"
"""What a member of a ring of ours says of another one, whose machine refuses datagrams."""
FOREIGN: Final = "foreign"
"""A datagram at a ring's port that does not begin as a packet of a ring does, nor as one of knet."""
SEALED: Final = "sealed or not knet"
"""The fault of a foreign datagram where no key was given."""
UNOPENED: Final = "does not open with the key"
END: Final = "end"
"""Not a packet: the end of the capture, where messages that waited for others are returned."""

_SAYINGS: Final = {
    evidence.Saying.ACCUSES: "accuses",
    evidence.Saying.HEARS: "is answered by",
    evidence.Saying.CONFIRMS: "is refused and not answered by",
}
TAG_NAMES: Final[dict[tuple[bytes, int], str]] = {
    (magic, tag): value.name
    for magic, values in (
        (layout.HELLO_MAGIC, schema.HELLO_VALUES),
        (layout.HINT_MAGIC, schema.HINT_VALUES),
        (layout.CONTROL_MAGIC, schema.CONTROL_VALUES),
    )
    for tag, value in values.items()
}
"""Names of the values in this package's own blocks: by the block's magic and the value's tag."""

UNEXPLAINED: Final = "message"
"""The name of a message that no layer explains."""

COPY_SECONDS: Final = 0.02
"""Seconds within which a node has sent its copies of one packet to all others; joins are repeated after 50 ms."""
MOST_RECENT: Final = 1024


class Explanation(NamedTuple):
    """The meaning of a message of a layer above."""

    name: str
    """Service and function, as in `cpg.procjoin`."""
    text: str
    """One line, for people."""
    fields: Container | None
    """The message as its schema reads it, every byte of it; None if it cannot be read."""
    group: bytes = b""
    """The process group that it is about."""
    fault: str = ""
    """Why it is malformed."""


class Layer(NamedTuple):
    """Explains the messages of one layer above; packages name theirs under the entry point `totem.dump`."""

    names: frozenset[str]
    """Names of all kinds of message that it can explain."""
    explain: Callable[[bytes], Explanation | None]
    """Explain a message, group header included; None if it is none of this layer. Must not raise."""
    explain_payload: Callable[[bytes, bytes], Explanation | None]
    """Explain a label and a payload in a compact frame; None if they are none of this layer. Must not raise."""


@dataclass(slots=True)
class Record:
    """One packet, and what it completes."""

    datagram: Datagram
    """The datagram, with this packet alone as its payload."""
    kind: str
    node: int = 0
    """The sender: a token's forwarder, a multicast's originator; 0 if it cannot be read."""
    packet: Container | None = None
    inner: Container | None = None
    """The multicast whose data counts: itself, or the old one that it carries in recovery."""
    frame: Container | None = None
    hello: Container | None = None
    control: Container | None = None
    """What a member tells the others in order, of the ring layer alone."""
    hint: Container | None = None
    copy: Copy = ""
    messages: list[tuple[WholeMessage, Explanation]] = field(default_factory=list)
    """Messages of the layers above that this packet completes, in the order of the ring."""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    knet: KnetPacket | None = None
    """What knet says around it, or for itself."""
    position: tuple[int, int] = (0, 1)
    """Its place among the frames of a train that was captured in one piece, and their number."""

    @property
    def ring_id(self) -> RingId | None:
        """The ring that it belongs to."""
        return ring_id(self.packet.ring_id) if self.packet is not None and "ring_id" in self.packet else None


class Reader:
    """Takes datagrams, returns records.

    A datagram is a ring's if it begins as a packet does, whatever its port. At one of `ports` it always is, and with
    `only_ports` nowhere else.
    """

    def __init__(
        self,
        ports: Iterable[int],
        layers: Iterable[Layer],
        *,
        only_ports: bool = False,
        knet: KnetReader | None = None,
    ) -> None:
        self.knet = knet or KnetReader()
        self._ports = frozenset(ports)
        self._only_ports = only_ports
        self._layers = tuple(layers)
        self._order = Order()
        self._recent: OrderedDict[tuple[str, int, bytes], tuple[float, set[str]]] = OrderedDict()
        self._last: Datagram | None = None

    def take(self, datagram: Datagram) -> Iterator[Record]:
        """Return the records of a datagram: none if it is not a ring's, several if it is a train."""
        at_port = bool({datagram.source_port, datagram.destination_port} & self._ports)
        if self._only_ports and not at_port:
            return
        if not begins_a_packet(datagram.payload):
            yield from self._take_knet(datagram, is_expected=at_port)
            return
        self._last = datagram
        frames = train(datagram.payload)
        missing = datagram.length - len(datagram.payload)
        for position, frame in enumerate(frames):
            length = len(frame) + (missing if position == len(frames) - 1 else 0)
            record = self._read(datagram._replace(payload=frame, length=length))
            record.position = position, len(frames)
            yield record

    def _take_knet(self, datagram: Datagram, *, is_expected: bool) -> Iterator[Record]:
        """Return the records of what may be knet's; at a ring's port all else is foreign."""
        packets = self.knet.take(datagram, is_expected=is_expected)
        if packets or is_expected:
            self._last = datagram
        for packet in packets:
            missing = datagram.length - len(datagram.payload)
            yield self._read_knet(
                datagram._replace(payload=packet.content, length=len(packet.content) + missing), packet
            )
        if is_expected and not packets:
            yield self._read(datagram)

    def _read_knet(self, datagram: Datagram, packet: KnetPacket) -> Record:
        if packet.kind == knet.DATA and not packet.fault:
            record = self._read(datagram, packet)
        else:
            kind = FOREIGN if packet.kind == knet.DATA else packet.kind
            faults = [packet.fault] if packet.fault else []
            record = Record(datagram, kind, packet.node, copy=packet.copy, faults=faults, knet=packet)
            record.notes += _cut_note(datagram)
        record.position = packet.position
        return record

    def finish(self) -> Iterator[Record]:
        """Return the messages that still wait for packets that were not captured."""
        messages = self._order.finish()
        if messages and self._last:
            record = Record(self._last._replace(payload=b"", length=0), END)
            self._explain(record, messages)
            yield record

    def _read(self, datagram: Datagram, packet_of_knet: KnetPacket | None = None) -> Record:
        payload = datagram.payload
        own = probes.decode(payload)
        if own is not None:
            return Record(datagram, _OWN_KINDS[own.kind], own.node_id, notes=[_size_note(own), *_cut_note(datagram)])
        piece = probes.decode_piece(payload)
        if piece is not None:
            notes = [f"part {piece.part + 1} of {piece.parts} of datagram {piece.number}", *_cut_note(datagram)]
            return Record(datagram, knet.FRAGMENT, piece.node_id, notes=notes)
        said = evidence.decode(payload)
        if said is not None:
            notes = [f"{_SAYINGS[said.saying]} {said.accused}, ring {said.ring_id}"]
            return Record(datagram, EVIDENCE, said.node_id, knet=packet_of_knet, notes=notes)
        if not begins_a_packet(payload):
            record = Record(datagram, FOREIGN, knet=packet_of_knet)
            record.faults.append(self._cause_of_foreign(payload, is_open=packet_of_knet is not None))
            return record
        node = int.from_bytes(payload[5:9], "little")
        record = Record(datagram, KINDS[payload[3]], node, knet=packet_of_knet, notes=_cut_note(datagram))
        if packet_of_knet is not None:
            record.copy = packet_of_knet.copy
        try:
            record.packet = packet = schema.parse(payload)
        except ConstructError:
            if not record.notes:
                record.faults.append(_cause(codec.decode, payload))
            return record
        match record.kind:
            case _ if record.copy:
                self._read_copy(record, packet)
            case "mcast":
                self._read_mcast(record, packet)
            case "join":
                self._read_join(record, packet)
            case "token":
                record.copy = self._copy(record)
                self._explain(record, self._order.received_by_all(ring_id(packet.ring_id), packet.aru))
            case _:
                record.copy = self._copy(record)
        if packet.get("rest") and record.hint is None:
            record.notes.append(f"{len(packet.rest)} bytes behind it")
        return record

    def _cause_of_foreign(self, payload: bytes, *, is_open: bool) -> str:
        cause = _cause(codec.decode, payload)
        if is_open or cause != "foreign magic":
            return cause
        return UNOPENED if self.knet.is_keyed else SEALED

    @staticmethod
    def _read_copy(record: Record, packet: Container) -> None:
        """Read of a copy, which knet tells, only what it is."""
        record.node = packet.get("system_from", record.node)
        if record.kind == "join" and packet.header.nodeid == 0:
            record.kind = LEAVE

    def _read_join(self, record: Record, packet: Container) -> None:
        record.copy = self._copy(record)
        record.node = packet.system_from
        if packet.header.nodeid == 0:
            record.kind = LEAVE
        if packet.rest.startswith(layout.HINT_MAGIC):
            record.hint = _parse(schema.Hint, packet.rest, record, "hint")

    def _read_mcast(self, record: Record, packet: Container) -> None:
        record.node = packet.system_from
        ring, seq = ring_id(packet.ring_id), packet.seq
        way = _way(record)
        record.copy = self._order.sighting(ring, seq, *way)
        inner = packet.data if isinstance(packet.data, Container) else packet
        record.inner = inner
        if inner.header.encapsulated == layout.MESSAGE_ENCAPSULATED:
            record.faults.append("encapsulated in an encapsulated mcast")
        elif inner is not packet and ring_id(inner.ring_id) == NO_RING:
            record.hello = _parse(schema.Hello, inner.data, record, "hello")
        else:
            self._read_frame(record, inner)
        if record.copy:
            return
        frame = record.frame
        messages = self._order.add(ring, seq, packet.system_from, frame if inner is packet else None)
        if inner is not packet and frame is not None:
            ring, seq = ring_id(inner.ring_id), inner.seq
            if self._order.sighting(ring, seq, *way):
                record.notes.append("seen before")
            else:
                messages += self._order.add(ring, seq, inner.system_from, frame)
        self._explain(record, messages)

    def _read_frame(self, record: Record, inner: Container) -> None:
        with suppress(ConstructError):
            record.control = schema.ControlFrame.parse(inner.data).block
            return
        try:
            record.frame = schema.TotempgMcast.parse(inner.data)
        except ConstructError:
            if record.datagram.length == len(record.datagram.payload):
                record.faults.append(_cause(lambda data: codec.parse_frame(data, 0, layout.FRAME_COMPACT), inner.data))
            return
        fault = runs(record.frame)[1]
        if fault:
            record.faults.append(fault)
        if is_reset(record.frame):
            record.notes.append("reset frame")

    def _copy(self, record: Record) -> Copy:
        """Return whether this packet was seen a moment ago on its way to another node, or was sent again."""
        source, destination = _way(record)
        port = record.datagram.source_port if record.kind in {"token", "commit_token"} else 0
        key = (source, port, record.datagram.payload)
        time = record.datagram.time
        before = self._recent.get(key)
        if before is not None:
            if record.kind in {"token", "commit_token"}:
                return "retransmission"
            if time - before[0] < COPY_SECONDS and destination not in before[1]:
                before[1].add(destination)
                return "copy"
        self._recent[key] = time, {destination}
        self._recent.move_to_end(key)
        if len(self._recent) > MOST_RECENT:
            self._recent.popitem(last=False)
        return ""

    def _explain(self, record: Record, messages: Iterable[WholeMessage]) -> None:
        record.messages += [(message, self._explanation(message)) for message in messages]

    def _explanation(self, message: WholeMessage) -> Explanation:
        data, label = message.data, message.label
        if label is None:
            return Explanation(UNEXPLAINED, f"{len(data)} bytes with a label that was sent before", None)
        for layer in self._layers:
            explanation = layer.explain_payload(label, data) if label else layer.explain(data)
            if explanation is not None:
                return explanation
        if label:
            return Explanation(UNEXPLAINED, f"{len(data)} bytes with the label {label!r}", None)
        try:
            fields = schema.GroupHeader.parse(data)
        except ConstructError:
            return Explanation(UNEXPLAINED, f"{len(data)} bytes", None, fault="short group header")
        names = " ".join(repr(name)[1:] for name in fields.group_name)
        return Explanation(UNEXPLAINED, f"for {names}: {len(fields.message)} bytes", fields)


def _way(record: Record) -> tuple[str, str]:
    """Return source and destination. With knet they do not count: it tells copies by their numbers."""
    if record.knet is not None:
        return f"node {record.knet.node}", ""
    return record.datagram.source, record.datagram.destination


def _cut_note(datagram: Datagram) -> list[str]:
    here, there = len(datagram.payload), datagram.length
    return [f"cut by the capture: {here} of {there} bytes"] if here < there else []


def begins_a_packet(payload: bytes) -> bool:
    """Return whether magic, version and type are a ring's."""
    return len(payload) > 3 and payload[:3] == _BEGINNING and payload[3] in KINDS


_BEGINNING: Final = layout.MAGIC.to_bytes(2, "little") + bytes([layout.VERSION])
_MCAST_BEGINNING: Final = _BEGINNING + bytes([layout.TYPE_MCAST])


def train(payload: bytes) -> list[bytes]:
    """Cut a train that was captured at its sender's device, before the kernel or the card cut it (UDP_SEGMENT), into
    frames.

    All frames but the last have the size of the first one, which its lengths tell.
    """
    if not payload.startswith(_MCAST_BEGINNING):
        return [payload]
    size = _mcast_size(payload)
    frames = [payload[start : start + size] for start in range(0, len(payload), size)] if size else [payload]
    begin = all(frame.startswith(_MCAST_BEGINNING) or _MCAST_BEGINNING.startswith(frame) for frame in frames)
    return frames if begin else [payload]


def _mcast_size(data: bytes) -> int:
    """Return the bytes of the multicast at the beginning, or 0 if its lengths do not tell."""
    at = codec.MCAST_HEADER
    if data[4:5] == bytes([layout.MESSAGE_ENCAPSULATED]):
        at += codec.MCAST_HEADER
        if data.startswith(layout.HELLO_MAGIC, at):
            # Its values have no end but the datagram's: it goes on until another multicast begins.
            following = data.find(_MCAST_BEGINNING, at)
            return following if following > 0 else len(data)
    if len(data) < at + layout.FRAME.size:
        return 0
    count: int = layout.FRAME.unpack_from(data, at)[-1]
    at += layout.FRAME.size
    if len(data) < at + 2 * count:
        return 0
    lengths = (int.from_bytes(data[start : start + 2], "little") for start in range(at, at + 2 * count, 2))
    return at + 2 * count + sum(lengths)


def ring_id(fields: Container) -> RingId:
    """Return the ring id that a schema has read."""
    return RingId(fields.rep, fields.seq)


def _size_note(packet: probes.ProbePacket) -> str:
    """Return what one of this package's probes says of sizes."""
    tried = f"packets of {packet.value} bytes; " if packet.kind in (probes.PROBE, probes.REPLY) else ""
    carried = f"{packet.limit} bytes pass to all" if packet.limit else "what passes is not known yet"
    return f"{tried}{carried}"


def _parse(what: Construct, data: bytes, record: Record, name: str) -> Container | None:
    try:
        fields: Container = what.parse(data)
    except ConstructError:
        record.notes.append(f"a {name} that cannot be read")
        return None
    return fields


def _cause(read: Callable[[bytes], object], data: bytes) -> str:
    """Return why the core drops this."""
    try:
        read(data)
    except MalformedDatagram as malformed:
        return malformed.cause
    return "not as the schema has it"
