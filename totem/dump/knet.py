"""What knet says: links tried and measured, and packets of totem, which it seals, compresses and cuts.

A datagram that does not open with the key that was given is read as one in clear, if it begins as one. Copies for
several nodes, or over several links, have one number. A packet is put together once, from whichever of its copies.

What is kept has bounds, whatever comes.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

from totem.config import HASHES
from totem.dump.network import Datagram
from totem.dump.order import Copy
from totem.links.compression import MODELS, Unusable, decompress
from totem.links.crypto import Seal
from totem.wire import knet
from totem.wire.knet import Fragment, Ping

PING, PONG, PROBE, PROBE_REPLY = "ping", "pong", "probe", "probe_reply"
FRAGMENT: Final = "fragment"
"""A packet's fragment that does not complete it."""
DATA: Final = "data"
"""A whole packet: totem's, or something else."""
KINDS: Final = frozenset({PING, PONG, PROBE, PROBE_REPLY, FRAGMENT})
"""What knet says for itself, and fragments."""

MOST_PACKETS: Final = 8192
"""Packets whose numbers are remembered."""
MOST_UNFINISHED_BYTES: Final = 16 << 20
"""Bytes of all packets of which fragments are missing."""
MOST_ASKED: Final = 4096
"""Pings and probes that may still be answered."""
MOST_PLACES: Final = 4096
"""Addresses whose links are known."""
COPY_SECONDS: Final = 5.0
"""Seconds after which a number begins anew, if nothing else tells that its node has started again."""
LONGEST_OF_TRAIN: Final = 9216
"""Bytes of the longest sealed packets that are looked for in trains: beyond them a link needs no trains."""
MOST_SCANS: Final = 16
"""Datagrams that are searched for packets in vain, more than others open."""
MOST_SIZES: Final = 16
MOST_IN_TRAIN: Final = 128
"""Packets that the kernel puts together."""

_NAMES: Final = {knet.PING: PING, knet.PONG: PONG, knet.PROBE: PROBE, knet.PROBE_REPLY: PROBE_REPLY, knet.DATA: DATA}
_COMPRESSIONS: Final = {number: name for name, number in MODELS.items()}
_TOTEM: Final = b"\x70\xc0"
_SMALLEST_SEALED: Final = 48


@dataclass(frozen=True, slots=True)
class KnetPacket:
    """What knet says in one datagram, and what that completes."""

    kind: str
    node: int
    """The sender."""
    link: int | None
    """None: a data packet of an address from which no ping came, and which the configuration does not have."""
    is_sealed: bool
    content: bytes
    """The packet of totem where it is whole (`DATA`), else the packet of knet."""
    values: dict[str, Any] = field(default_factory=dict)
    """What else its header says, and what follows from that, by the names of JSON."""
    copy: Copy = ""
    is_routine: bool = False
    """Whether it is a ping or pong without news: it was not the first one on its way."""
    fault: str = ""
    """Why it is malformed."""
    position: tuple[int, int] = (0, 1)
    """Its place in a train, and the number of packets there."""


class _Asked(NamedTuple):
    """A ping or a probe that was seen."""

    node: int
    time: float


class _Arriving:
    """A packet by its number, and those of its fragments that have come."""

    __slots__ = ("compression", "count", "digests", "is_whole", "pieces", "size", "time")

    def __init__(self, said: Fragment, time: float) -> None:
        self.count = said.fragments
        self.compression = said.compression
        self.time = time
        self.digests: dict[int, int] = {}
        """Of each fragment that has come, by its place."""
        self.pieces: dict[int, bytes] = {}
        """The same fragments; empty once the packet is whole."""
        self.size = 0
        self.is_whole = False

    def is_same(self, said: Fragment, data: bytes, time: float) -> bool:
        """Return whether a fragment belongs to this packet, rather than to a later one of the same number."""
        return (
            (self.count, self.compression) == (said.fragments, said.compression)
            and self.digests.get(said.number, hash(data)) == hash(data)
            and time - self.time < COPY_SECONDS
        )


_K = TypeVar("_K")
_V = TypeVar("_V")


class KnetReader:
    """Takes datagrams; returns what knet says in them."""

    def __init__(self, seals: Sequence[Seal] = (), links: Mapping[tuple[str, int], int] | None = None) -> None:
        """Begin with nothing heard.

        Args:
            seals: What opens packets, each with a key; several where the key changes.
            links: The links of known addresses and ports. Others are learned from pings.
        """
        self.opened = 0
        """Datagrams that have opened with a key."""
        self.refused = 0
        """Those that have not, and are none in clear."""
        self._seals = list(seals)
        """The one that has opened something last comes first."""
        self._links = OrderedDict(links or {})
        self._packets: OrderedDict[tuple[int, int], _Arriving] = OrderedDict()
        """By node and number."""
        self._waiting_bytes = 0
        self._given_up = 0
        self._asked: OrderedDict[tuple[object, ...], _Asked] = OrderedDict()
        self._ways: OrderedDict[tuple[str, int, int | None, str, str], None] = OrderedDict()
        """Ways on which a ping or a pong was seen."""
        self._signatures: OrderedDict[tuple[str, int], int] = OrderedDict()
        """Bytes that sign the packets in clear, by address and port."""
        self._sizes: list[int] = []
        """Bytes of the sealed packets in the trains seen last."""
        self._scans = 0

    @property
    def is_keyed(self) -> bool:
        """Whether a key was given."""
        return bool(self._seals)

    @property
    def unfinished(self) -> int:
        """Return the number of packets of which fragments are missing."""
        return self._given_up + sum(not packet.is_whole for packet in self._packets.values())

    def take(self, datagram: Datagram, *, is_expected: bool) -> list[KnetPacket]:
        """Return the packets in a datagram: none if it is not knet's, several if it is a train.

        `is_expected`: whether it is at a port of the ring; elsewhere it must look like knet beyond doubt.
        """
        payload, is_cut = datagram.payload, datagram.length > len(datagram.payload)
        packets = self._open(payload) if self._seals and payload and not is_cut else []
        is_sealed = bool(packets)
        if is_sealed:
            self.opened += 1
            self._scans = max(0, self._scans - 1)
        elif looks_like_knet(payload) or (is_expected and _begins(payload)):
            packets = [payload] if is_cut else clear_train(payload)
        elif is_expected and not is_cut:
            self.refused += 1
        return [
            self._read(datagram, packet, is_sealed=is_sealed, is_cut=is_cut, position=(place, len(packets)))
            for place, packet in enumerate(packets)
        ]

    # ---- sealed packets

    def _open(self, payload: bytes) -> list[bytes]:
        """Return the packets of a datagram that opens, else none."""
        for size in (len(payload), *self._sizes):
            if size <= len(payload) and (packets := self._open_train(payload, size)):
                return packets
        if self._scans == MOST_SCANS:
            return []
        for size in range(_SMALLEST_SEALED, min(len(payload), LONGEST_OF_TRAIN + 1)):
            if self._open_one(payload[:size]) is not None and (packets := self._open_train(payload, size)):
                self._sizes = [size, *self._sizes[: MOST_SIZES - 1]]
                return packets
        self._scans += 1
        return []

    def _open_train(self, payload: bytes, size: int) -> list[bytes]:
        packets = [self._open_one(sealed) for sealed in _cut(payload, size)]
        return [packet for packet in packets if packet is not None] if None not in packets else []

    def _open_one(self, sealed: bytes) -> bytes | None:
        for place, seal in enumerate(self._seals):
            (packet,) = seal.open((sealed,))
            if packet is not None and _begins(packet):
                self._seals.insert(0, self._seals.pop(place))
                return packet
        return None

    # ---- what they say

    def _read(
        self, datagram: Datagram, packet: bytes, *, is_sealed: bool, is_cut: bool, position: tuple[int, int]
    ) -> KnetPacket:
        _, number, node = knet.PREFIX.unpack_from(packet)
        kind = _NAMES[number]
        if not is_sealed:
            packet = self._without_signature(datagram, kind, packet)
        begun = KnetPacket(kind, node, self._link_of(datagram), is_sealed, packet, position=position)
        shortest = {DATA: knet.DATA_HEADER + 1, PING: knet.PING_BYTES, PONG: knet.PING_BYTES}
        if len(packet) < shortest.get(kind, knet.PROBE_BYTES):
            return replace(begun, fault="" if is_cut else f"short {kind.replace('_', ' ')}")
        if kind == DATA:
            return self._read_data(datagram, begun, is_cut=is_cut)
        if kind in (PING, PONG):
            return self._read_ping(datagram, begun, knet.read_ping(packet))
        return self._read_probe(datagram, begun, *knet.read_probe(packet))

    def _without_signature(self, datagram: Datagram, kind: str, packet: bytes) -> bytes:
        """Return a packet without what signs it, where that is not encrypted: a ping is longer by it."""
        place = datagram.source, datagram.source_port
        if kind in (PING, PONG):
            size = len(packet) - knet.PING_BYTES
            _remember(self._signatures, place, size if size in HASHES.values() else 0, MOST_PLACES)
        size = self._signatures.get(place, 0)
        return packet[:-size] if size else packet

    def _link_of(self, datagram: Datagram) -> int | None:
        return self._links.get((datagram.source, datagram.source_port))

    def _read_ping(self, datagram: Datagram, begun: KnetPacket, said: Ping) -> KnetPacket:
        _remember(self._links, (datagram.source, datagram.source_port), said.link, MOST_PLACES)
        key = begun.kind, begun.node, said.link, datagram.source, datagram.destination
        is_routine = said.timed and key in self._ways
        _remember(self._ways, key, None, MOST_PLACES)
        values: dict[str, Any] = {"seq": said.seq, "timed": said.timed, "clock_ns": knet.moment(said.time)}
        if begun.kind == PONG:
            values |= self._answered(datagram, (said.link, said.time))
        else:
            self._ask(datagram, begun.node, (said.link, said.time))
            if said.timed and not said.seq:
                is_routine = not self._forget(begun.node) and is_routine
        return replace(begun, link=said.link, values=values, is_routine=is_routine)

    def _read_probe(self, datagram: Datagram, begun: KnetPacket, link: int, size: int) -> KnetPacket:
        values: dict[str, Any] = {"size": size}
        if begun.kind == PROBE_REPLY:
            values |= self._answered(datagram, (link, size))
        else:
            self._ask(datagram, begun.node, (link, size))
        return replace(begun, link=link, values=values)

    def _ask(self, datagram: Datagram, node: int, what: tuple[object, ...]) -> None:
        key = datagram.source, datagram.destination, *what
        _remember(self._asked, key, _Asked(node, datagram.time), MOST_ASKED)

    def _answered(self, datagram: Datagram, what: tuple[object, ...]) -> dict[str, Any]:
        """Return who is answered, and after how many seconds, if that was seen."""
        asked = self._asked.get((datagram.destination, datagram.source, *what))
        return {"to": asked.node, "after": round(datagram.time - asked.time, 9)} if asked else {}

    # ---- data

    def _read_data(self, datagram: Datagram, begun: KnetPacket, *, is_cut: bool) -> KnetPacket:
        said = knet.read_fragment(begun.content)
        data = begun.content[knet.DATA_HEADER :]
        compression = _COMPRESSIONS.get(said.compression, said.compression) if said.compression else ""
        values: dict[str, Any] = {"seq": said.seq, "fragment": said.number, "fragments": said.fragments}
        values |= {"compression": compression} if compression else {}
        values |= {"channel": said.channel} if said.channel else {}
        begun = replace(begun, values=values)
        in_fragments = said.fragments != 1 or bool(said.number)
        if in_fragments and not 1 <= said.number <= said.fragments <= knet.MOST_FRAGMENTS:
            return replace(begun, kind=FRAGMENT, fault="fragment number")
        if said.channel:
            return replace(begun, kind=FRAGMENT if in_fragments else DATA, fault="another channel than totem's")
        if is_cut:
            whole = not in_fragments and not said.compression
            return replace(begun, kind=DATA if whole else FRAGMENT, content=data if whole else begun.content)
        return self._add(begun, said, data, datagram.time)

    def _add(self, begun: KnetPacket, said: Fragment, data: bytes, time: float) -> KnetPacket:
        """Take a fragment, or a whole packet; return the packet if it is complete with it."""
        arriving = self._arriving(begun.node, said, data, time)
        if said.number in arriving.digests:
            whole = said.fragments == 1 and not said.compression
            return replace(
                begun, kind=DATA if whole else FRAGMENT, content=data if whole else begun.content, copy="copy"
            )
        arriving.digests[said.number] = hash(data)
        arriving.pieces[said.number] = data
        arriving.size += len(data)
        self._waiting_bytes += len(data)
        if len(arriving.pieces) < said.fragments:
            self._make_room()
            return replace(begun, kind=FRAGMENT)
        content = b"".join(piece for _, piece in sorted(arriving.pieces.items()))
        arriving.is_whole = True
        self._drop_pieces(arriving)
        if said.compression:
            try:
                content = decompress(said.compression, content)
            except Unusable as error:
                return replace(begun, fault=f"not decompressed: {error}")
        return replace(begun, content=content)

    def _arriving(self, node: int, said: Fragment, data: bytes, time: float) -> _Arriving:
        """Return what has come of the packet of a number; nothing if it is another packet than the one before."""
        key = node, said.seq
        before = self._packets.get(key)
        if before is not None and before.is_same(said, data, time):
            return before
        if before is not None:
            self._give_up(key)
        arriving = self._packets[key] = _Arriving(said, time)
        if len(self._packets) > MOST_PACKETS:
            self._give_up(next(iter(self._packets)))
        return arriving

    def _make_room(self) -> None:
        while self._waiting_bytes > MOST_UNFINISHED_BYTES:
            self._give_up(next(key for key, packet in self._packets.items() if packet.pieces))

    def _give_up(self, key: tuple[int, int]) -> None:
        packet = self._packets.pop(key)
        self._given_up += not packet.is_whole
        self._drop_pieces(packet)

    def _drop_pieces(self, packet: _Arriving) -> None:
        self._waiting_bytes -= packet.size
        packet.size = 0
        packet.pieces = {}

    def _forget(self, node: int) -> bool:
        """Forget the numbers of a node, which begins anew; return whether there were any."""
        keys = [key for key in self._packets if key[0] == node]
        for key in keys:
            self._give_up(key)
        return bool(keys)


def _remember(known: OrderedDict[_K, _V], key: _K, value: _V, most: int) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > most:
        known.popitem(last=False)


# ---- how packets in clear begin


def _begins(data: bytes) -> bool:
    """Return whether version, type and padding are knet's."""
    return len(data) >= knet.SHORTEST and data[0] == knet.VERSION and data[1] in _NAMES and data[4:6] == b"\0\0"


def looks_like_knet(data: bytes) -> bool:
    """Return whether this is knet's beyond doubt."""
    if not _begins(data):
        return False
    kind = data[1]
    if kind in (knet.PING, knet.PONG):
        return len(data) >= knet.PING_BYTES and data[6] < 8 and data[knet.PING_BYTES - 1] <= 1
    if kind in (knet.PROBE, knet.PROBE_REPLY):
        return len(data) >= knet.PROBE_BYTES and data[6] < 8 and not any(data[knet.PROBE_BYTES :])
    if len(data) <= knet.DATA_HEADER or data[9] or data[10] > 1:
        return False
    said = knet.read_fragment(data)
    is_whole = (said.fragments, said.number) == (1, 0)
    is_known = bool(said.seq) and not said.channel and (not said.compression or said.compression in _COMPRESSIONS)
    begins_totem = is_whole and not said.compression
    return is_known and (
        (not begins_totem or data.startswith(_TOTEM, knet.DATA_HEADER))
        and (is_whole or 1 <= said.number <= said.fragments <= knet.MOST_FRAGMENTS)
    )


def clear_train(payload: bytes) -> list[bytes]:
    """Cut a train into packets. All of one sender have one size but the last, which may be shorter."""
    node = payload[2:6]
    begins = re.compile(b"\\x01[\\x00\\x81-\\x84]" + re.escape(node), re.DOTALL)
    for found in islice(begins.finditer(payload, knet.SHORTEST), MOST_IN_TRAIN):
        size = found.start()
        if all(packet[2:6] == node and looks_like_knet(packet) for packet in _cut(payload, size)):
            return list(_cut(payload, size))
    return [payload]


def _cut(payload: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(payload), size):
        yield payload[start : start + size]
