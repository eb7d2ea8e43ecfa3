"""Records as people read them: a line for each packet, and below it a line for each message that it completes.

Tokens of an idle ring, and other records that repeat without news, become one line with a count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final

from construct import Container

from totem.dump import knet
from totem.dump.knet import KnetPacket
from totem.dump.order import Run, WholeMessage, runs
from totem.dump.records import END, EVIDENCE, FOREIGN, TAG_NAMES, Record, ring_id
from totem.text import printable
from totem.wire import layout
from totem.wire.layout import FRAME_COMPACT

SHORT: Final = 60
"""Bytes of a message's payload, or of what cannot be read, that a line shows."""
ROW: Final = 16

_COLOURS: Final = {
    "token": "2",
    "merge_detect": "2",
    "hold_cancel": "2",
    knet.PING: "2",
    knet.PONG: "2",
    knet.PROBE: "2",
    knet.PROBE_REPLY: "2",
    knet.FRAGMENT: "2",
    EVIDENCE: "33",
    "join": "33",
    "leave": "33",
    "commit_token": "33",
}
_FAULT: Final = "31"
_MESSAGE: Final = "36"
_NAMES: Final = {
    "commit_token": "commit token",
    "merge_detect": "merge detect",
    "hold_cancel": "hold cancel",
    knet.PROBE_REPLY: "probe reply",
}
_PLURALS: Final = {
    "token": "tokens",
    "merge_detect": "merge detects",
    FOREIGN: "foreign datagrams",
    knet.PING: "pings",
    knet.PONG: "pongs",
    knet.FRAGMENT: "fragments",
}


class Writer:
    """Turns records into lines; keeps the one that may yet become one line with the next."""

    def __init__(self, *, colour: bool = False, hexdump: bool = False, every_token: bool = False) -> None:
        self._colour = colour
        self._hexdump = hexdump
        self._every_token = every_token
        self._run: _Repetition | None = None

    def lines(self, record: Record) -> Iterator[str]:
        """Yield the lines that are complete with this record."""
        if self._run is not None and self._run.takes(record):
            return
        yield from self.finish()
        if not self._every_token and (_is_idle(record) or record.kind in ("merge_detect", knet.FRAGMENT)):
            self._run = _Repetition(record)
        yield from self._record(record)

    def finish(self) -> Iterator[str]:
        """Yield the line that was kept."""
        if self._run is not None and self._run.counts:
            yield self._paint("2", self._run.line())
        self._run = None

    def _record(self, record: Record) -> Iterator[str]:
        datagram = record.datagram
        parts = [clock(datagram.time)]
        if record.kind == END:
            parts.append("end of the capture: messages that waited for packets that are not in it")
        else:
            source = endpoint(datagram.source, datagram.source_port)
            destination = endpoint(datagram.destination, datagram.destination_port)
            parts += [f"{source} > {destination} ", *_headline(record)]
        colour = _FAULT if record.faults else _COLOURS.get(record.kind, "")
        yield self._paint(colour, " ".join(parts))
        if record.faults and not self._hexdump:
            yield self._paint(_FAULT, f"    {shortened_hex(datagram.payload)}")
        for line in _details(record):
            yield self._paint(colour, f"    {line}")
        for message, explanation in record.messages:
            fault = f"malformed: {explanation.fault}, " if explanation.fault else ""
            text = f"    {_origin(record, message)}{explanation.name}  {fault}{explanation.text}".rstrip()
            yield self._paint(_FAULT if explanation.fault else _MESSAGE, text)
            if explanation.fault:
                yield self._paint(_FAULT, f"    {shortened_hex(message.data)}")
        if self._hexdump:
            yield from hexdump(datagram.payload)

    def _paint(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour and colour else text


class _Repetition:
    """Records that repeat the first one without news."""

    def __init__(self, first: Record) -> None:
        self._first = first
        self._since = self._last = first.datagram.time
        self.counts: Counter[str] = Counter()

    def takes(self, record: Record) -> bool:
        """Count a record if it repeats the first one, as a merge detect does between the tokens of its idle ring."""
        first = self._first
        same = record.ring_id == first.ring_id and record.faults == first.faults
        if _is_routine(record):
            same = True
        elif first.kind in (FOREIGN, knet.FRAGMENT) or record.kind == knet.FRAGMENT:
            same = same and record.kind == first.kind and _number_of(record) == _number_of(first)
        elif _is_routine(first):
            same = False
        elif record.kind == "merge_detect":
            same = same and record.packet is not None
        else:
            same = same and _is_idle(record) and record.kind != FOREIGN and _seq(record) == _seq(first)
        if same:
            if not self.counts:
                self._since = record.datagram.time
            self._last = record.datagram.time
            self.counts[record.kind] += 1
        return same

    def line(self) -> str:
        what = ", ".join(f"{count} more {_PLURALS[kind]}" for kind, count in self.counts.items())
        idle = f", ring {self._first.ring_id} idle" if self._first.ring_id else ""
        return f"{clock(self._since)} … {what}{idle}, in {self._last - self._since:.3f} s"


def _is_idle(record: Record) -> bool:
    """Return whether this is a token without news, or just another foreign datagram."""
    packet = record.packet
    if record.kind == FOREIGN or _is_routine(record):
        return True
    if record.kind != "token" or packet is None or record.messages or record.notes or record.copy:
        return False
    busy = packet.rtr_list or packet.retrans_flg or packet.backlog or packet.fcc or packet.aru != packet.seq
    return not busy


def _is_routine(record: Record) -> bool:
    return record.knet is not None and record.knet.is_routine and not record.faults


def _number_of(record: Record) -> object:
    """Return the packet of knet that a fragment belongs to."""
    return (record.knet.node, record.knet.values["seq"]) if record.knet and "seq" in record.knet.values else None


def _seq(record: Record) -> object:
    return record.packet.get("seq") if record.packet is not None else None


def _headline(record: Record) -> Iterator[str]:
    yield _NAMES.get(record.kind, record.kind)
    if record.node:
        yield f"{record.node} "
    if record.copy:
        yield f"({record.copy})"
    if record.position[1] > 1:
        yield f"(train {record.position[0] + 1}/{record.position[1]})"
    if record.knet is not None:
        yield _knet(record.knet) + ("," if record.packet is not None else "")
    if record.packet is not None:
        yield _WORDS[record.kind](record, record.packet)
    if record.faults:
        yield f"malformed: {'; '.join(record.faults)} ({record.datagram.length} bytes)"
    if record.notes:
        yield f"[{'; '.join(record.notes)}]"


def _knet(packet: KnetPacket) -> str:
    """Return what knet says, for itself or around a packet of totem."""
    said = packet.values
    words = [f"link {'?' if packet.link is None else packet.link}"]
    if packet.kind == knet.PING and said:
        words.append(f"packets sent {said['seq']}{'' if said['timed'] else ', not timed'}")
    elif "size" in said:
        words.append(f"size {said['size']}")
    elif "fragments" in said:
        words.append(f"packet {said['seq']}")
        if packet.kind == knet.FRAGMENT:
            words.append(f"fragment {said['fragment']} of {said['fragments']}")
        elif said["fragments"] > 1:
            words.append(f"in {said['fragments']} fragments")
        if "compression" in said:
            words.append(str(said["compression"]))
    text = " ".join(words)
    asked = "ping" if packet.kind == knet.PONG else "probe"
    return f"{text}, {said['after'] * 1000:.3f} ms after the {asked} of {said['to']}" if "after" in said else text


def _token(record: Record, packet: Container) -> str:
    words = [f"ring {record.ring_id} seq {packet.seq} token_seq {packet.token_seq} aru {_number(packet.aru)}"]
    if packet.aru_addr:
        words.append(f"by {packet.aru_addr}")
    if packet.retrans_flg:
        words.append(f"flag {packet.retrans_flg}")
    if packet.fcc or packet.backlog:
        words.append(f"fcc {packet.fcc} backlog {packet.backlog}")
    if packet.rtr_list:
        words.append(f"missing {_missing(packet.rtr_list, record)}")
    return " ".join(words)


def _missing(requests: Iterable[Container], record: Record) -> str:
    rings: dict[object, list[int]] = {}
    for request in requests:
        rings.setdefault(ring_id(request.ring_id), []).append(request.seq)
    own = {ring: _ranges(numbers) for ring, numbers in rings.items()}
    return " ".join(text if ring == record.ring_id else f"{ring}/{text}" for ring, text in own.items())


def _ranges(numbers: Iterable[int]) -> str:
    """Return numbers as text, consecutive ones as first-last."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _number(seq: int) -> str:
    """Return a sequence number as text; the one before 0, with which a ring's first token begins, as -1."""
    return "-1" if seq == 0xFFFFFFFF else str(seq)


def _mcast(record: Record, packet: Container) -> str:
    words = [f"ring {record.ring_id} seq {packet.seq}"]
    if packet.guarantee:
        words.append("safe" if packet.guarantee == 1 else f"guarantee {packet.guarantee}")
    inner, frame = record.inner, record.frame
    if inner is not None and inner is not packet:
        if record.hello is not None:
            words.append("carries a hello")
        else:
            words.append(f"carries the old mcast {inner.system_from} of ring {ring_id(inner.ring_id)} seq {inner.seq}")
    if record.control is not None:
        words.append("control")
    if frame is not None:
        if frame.type == FRAME_COMPACT:
            words.append(f"compact runs {' '.join(_run(run) for run in runs(frame)[0]) or '-'}")
        elif frame.msg_count > 1:
            words.append(f"pieces {frame.msg_count}")
        if frame.continuation:
            words.append(f"continues {frame.continuation}")
        if frame.fragmented:
            words.append(f"fragment {frame.fragmented}")
    return " ".join(words)


def _run(run: Run) -> str:
    """Return the number of a run's label, with a star if the run header brings it, and the number of its messages."""
    return f"{run.number}{'*' if run.label else ''}:{len(run.pieces)}"


def _join(record: Record, packet: Container) -> str:
    return f"ring_seq {packet.ring_seq:x} proc {_nodes(packet.proc_list)} failed {_nodes(packet.failed_list)}"


def _commit_token(record: Record, packet: Container) -> str:
    filled = f"{packet.memb_index} of {packet.addr_entries} filled"
    return f"ring {record.ring_id} of {_nodes(packet.addr)}, token_seq {packet.token_seq}, {filled}"


def _ring(record: Record, packet: Container) -> str:
    return f"ring {record.ring_id}"


_WORDS: Final[dict[str, Callable[[Record, Container], str]]] = {
    "token": _token,
    "mcast": _mcast,
    "merge_detect": _ring,
    "join": _join,
    "leave": _join,
    "commit_token": _commit_token,
    "hold_cancel": _ring,
}


def _origin(record: Record, message: WholeMessage) -> str:
    """Return where a message comes from, unless that is the multicast in whose line it stands."""
    inner = record.inner
    if inner is not None and (ring_id(inner.ring_id), inner.seq) == (message.ring_id, message.seq):
        return ""
    return f"ring {message.ring_id} seq {message.seq} of {message.sender}: "


def _details(record: Record) -> Iterator[str]:
    """Yield lines below the first one that explain totem's own fields."""
    packet = record.packet
    if record.kind == "commit_token" and packet is not None:
        for node, entry in list(zip(packet.addr, packet.memb_entry, strict=True))[: packet.memb_index]:
            received = "has all" if entry.received_flg else "misses some"
            yield (
                f"{node}: from ring {ring_id(entry.ring_id)}, aru {_number(entry.aru)}, "
                f"delivered {entry.high_delivered}, {received}"
            )
    if record.hello is not None:
        yield f"hello {_values(record.hello)}"
    if record.hint is not None:
        yield f"hint {_values(record.hint)}"
        yield from _rows(record.hint)
    if record.control is not None:
        yield f"control {_values(record.control)}"


def _rows(hint: Container) -> Iterator[str]:
    """Yield who hears whom, a line for each node."""
    for item in hint["values"]:
        if item.tag != layout.TAG_ROWS or isinstance(item.value, bytes):
            continue
        nodes = item.value.nodes
        for row in item.value.rows:
            words = [f"{nodes[row.place]}: row {row.number} of life {row.incarnation}"]
            words += [f"from ring {ring_id(row.ring_id)}", f"votes {row.votes}", f"hears {_named(nodes, row.hears)}"]
            others = {"not": row.lacks, "links to": row.linked, "no link to": row.unlinked}
            words += [f"{text} {_named(nodes, bits)}" for text, bits in others.items() if bits]
            yield ", ".join(words)


def _named(nodes: Sequence[int], bits: int) -> str:
    return _nodes(node for place, node in enumerate(nodes) if bits >> place & 1)


def _values(block: Container) -> str:
    """Return the tagged values of one of this package's own blocks, by their names in the schema."""
    words = [f"version {block.version}"]
    for item in block["values"]:
        words.append(f"{TAG_NAMES.get((block.magic, item.tag), f'tag {item.tag}')} {_value(item.value)}")
    return ", ".join(words)


def _value(value: object) -> str:
    if isinstance(value, Container) and "rows" in value:
        return str(len(value.rows))
    if isinstance(value, Container):
        return f"{value.milliseconds} ms, reason {value.reason}" if "reason" in value else str(ring_id(value))
    if isinstance(value, bytes):
        return shortened_hex(value)
    if isinstance(value, list):
        return _nodes(value)
    return printable(value) if isinstance(value, str) else str(value)


def _nodes(node_ids: Iterable[int]) -> str:
    return " ".join(map(str, node_ids)) or "-"


def clock(time: float) -> str:
    """Return the local time of day, as tcpdump shows it."""
    return datetime.fromtimestamp(time).strftime("%H:%M:%S.%f")


def endpoint(address: str, port: int) -> str:
    """Return the text of an address and a port."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def payload(data: bytes) -> str:
    """Return a payload as text: its length, and its beginning, in hex if it is no text."""
    size = f"{len(data)} byte{'s' if len(data) != 1 else ''}"
    if not data:
        return size
    head = data[:SHORT]
    try:
        text = head.decode() if len(data) <= SHORT else _whole_characters(head)
    except UnicodeDecodeError:
        return f"{size} {shortened_hex(data)}"
    if any(not (c.isprintable() or c in "\t\n\r") for c in text):
        return f"{size} {shortened_hex(data)}"
    return f'{size} "{printable(text)}"{"…" if len(data) > SHORT else ""}'


def _whole_characters(head: bytes) -> str:
    """Return text whose last character may have been cut, without it."""
    try:
        return head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            raise
        return head[: error.start].decode()


def shortened_hex(data: bytes) -> str:
    """Return the beginning in hex."""
    return data[: SHORT // 2].hex(" ", -4) + (" …" if len(data) > SHORT // 2 else "")


def hexdump(data: bytes) -> Iterator[str]:
    """Yield all of it, a row for each 16 bytes."""
    for start in range(0, len(data), ROW):
        row = data[start : start + ROW]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"    {start:04x}  {row.hex(' ', -2):<40}  {text}"
