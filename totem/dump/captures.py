"""Read packets from capture files: pcap and pcapng, also gzipped, as tcpdump and Wireshark write them.

This is the package's own code, because no library reports all that is needed of every file: the length that a packet
had before the capture cut it, each interface's link type and clock, and the place of any damage. Lengths have bounds,
so a length that a file merely claims reads nothing.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple, Protocol

from totem.errors import TotemError


class Packet(NamedTuple):
    """What was captured of one packet, from its link layer on."""

    time: float
    """Seconds since the epoch."""
    link_type: int
    """Its number at tcpdump.org (LINKTYPE_…)."""
    data: bytes
    length: int
    """Bytes that the packet had: more than `data` has if the capture cut it."""
    interface: int
    """Number of the interface within the capture."""
    direction: int = 0
    """How the packet passed the interface, if that is known (PACKET_… of <linux/if_packet.h>)."""


class BadCapture(TotemError):
    """A file that is no capture, or is damaged. What could be read before the damage has been yielded."""


LARGEST_PACKET: Final = 1 << 20
"""Bytes captured of one packet; tcpdump never takes more than 256 KiB."""
LARGEST_BLOCK: Final = 16 << 20
MOST_INTERFACES: Final = 4096

_GZIP: Final = b"\x1f\x8b"
_SECTION: Final = b"\n\r\r\n"
_PCAP_MAGICS: Final = {
    bytes.fromhex("d4c3b2a1"): ("<", 1e-6),
    bytes.fromhex("a1b2c3d4"): (">", 1e-6),
    bytes.fromhex("4d3cb2a1"): ("<", 1e-9),
    bytes.fromhex("a1b23c4d"): (">", 1e-9),
}


def packets(file: io.BufferedReader) -> Iterator[Packet]:
    """Yield the packets of an open capture file, in its order. Raises BadCapture, OSError."""
    source = _Source(gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == _GZIP else file)
    start = source.read(4, "the file's magic number")
    if start in _PCAP_MAGICS:
        yield from _pcap(source, *_PCAP_MAGICS[start])
    elif start == _SECTION:
        yield from _pcapng(source)
    else:
        raise BadCapture(f"neither pcap nor pcapng: it begins with {start.hex(' ')}")


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Source:
    """A file that knows its position, and names the thing in whose middle it ends."""

    def __init__(self, file: _Readable) -> None:
        self._file = file
        self._offset = 0

    def read(self, size: int, what: str) -> bytes:
        data = self.read_if_any(size, what)
        if len(data) < size:
            raise BadCapture(f"ends in the middle of {what}, at byte {self._offset}")
        return data

    def read_if_any(self, size: int, what: str) -> bytes:
        """Read `size` bytes, or none if the file ends in good order."""
        try:
            data = self._file.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BadCapture(f"gzip, behind byte {self._offset} of what is inside: {error}") from error
        self._offset += len(data)
        if 0 < len(data) < size:
            raise BadCapture(f"ends in the middle of {what}, at byte {self._offset}")
        return data

    def error(self, text: str) -> BadCapture:
        return BadCapture(f"damaged before byte {self._offset}: {text}")


# ---- pcap


def _pcap(source: _Source, order: str, unit: float) -> Iterator[Packet]:
    header = Struct(order + "HHiIII")  # version (2), time zone, accuracy, snaplen, link type
    record = Struct(order + "IIII")  # seconds, fraction, bytes captured, bytes of the packet
    *_, link = header.unpack(source.read(header.size, "the file's header"))
    while head := source.read_if_any(record.size, "a packet's header"):
        seconds, fraction, captured, length = record.unpack(head)
        if captured > LARGEST_PACKET:
            raise source.error(f"a packet of {captured} bytes")
        data = source.read(captured, "a packet")
        yield Packet(seconds + fraction * unit, link & 0xFFFF, data, length, 0)


# ---- pcapng

_INTERFACE: Final = 1
_PACKET_OBSOLETE: Final = 2
_SIMPLE_PACKET: Final = 3
_ENHANCED_PACKET: Final = 6
_ORDERS: Final = {bytes.fromhex("4d3c2b1a"): "<", bytes.fromhex("1a2b3c4d"): ">"}
_OPTION_RESOLUTION: Final = 9
_OPTION_OFFSET: Final = 14


class _Interface(NamedTuple):
    link_type: int
    snaplen: int
    unit: float
    """Seconds that the clock counts in."""
    offset: int


def _pcapng(source: _Source) -> Iterator[Packet]:
    order = _begin_section(source)
    interfaces: list[_Interface] = []
    word = Struct(order + "I")
    while start := source.read_if_any(4, "a block's type"):
        if start == _SECTION:
            order = _begin_section(source)
            interfaces = []
            word = Struct(order + "I")
            continue
        (kind,) = word.unpack(start)
        (length,) = word.unpack(source.read(4, "a block's length"))
        if not 12 <= length <= LARGEST_BLOCK or length % 4:
            raise source.error(f"a block of {length} bytes")
        body = source.read(length - 8, "a block")[:-4]
        if kind == _INTERFACE:
            if len(interfaces) == MOST_INTERFACES:
                raise source.error(f"more than {MOST_INTERFACES} interfaces")
            interfaces.append(_interface(source, order, body))
        elif kind in (_PACKET_OBSOLETE, _SIMPLE_PACKET, _ENHANCED_PACKET):
            yield _packet(source, order, kind, body, interfaces)


def _begin_section(source: _Source) -> str:
    """Read a section's header after its type; return the section's byte order."""
    length, magic = source.read(4, "a section's header"), source.read(4, "a section's header")
    order = _ORDERS.get(magic)
    if order is None:
        raise source.error(f"a section with the byte order mark {magic.hex(' ')}")
    (size,) = Struct(order + "I").unpack(length)
    if not 28 <= size <= LARGEST_BLOCK:
        raise source.error(f"a section header of {size} bytes")
    source.read(size - 12, "a section's header")
    return order


def _interface(source: _Source, order: str, body: bytes) -> _Interface:
    head = Struct(order + "HHI")  # link type, reserved, snaplen
    option = Struct(order + "HH")  # code, length
    if len(body) < head.size:
        raise source.error("a short interface description")
    link, _, snaplen = head.unpack_from(body)
    unit, offset = 1e-6, 0
    at = head.size
    while at + option.size <= len(body):
        code, length = option.unpack_from(body, at)
        value = body[at + option.size : at + option.size + length]
        at += option.size + length + -length % 4
        if code == _OPTION_RESOLUTION and len(value) == 1:
            unit = 2.0 ** -(value[0] & 0x7F) if value[0] & 0x80 else 10.0 ** -value[0]
        elif code == _OPTION_OFFSET and len(value) == 8:
            (offset,) = Struct(order + "q").unpack(value)
    return _Interface(link, snaplen, unit, offset)


def _packet(source: _Source, order: str, kind: int, body: bytes, interfaces: list[_Interface]) -> Packet:
    enhanced = Struct(order + "IIIII")  # interface, time (high, low), bytes captured, bytes of the packet
    obsolete = Struct(order + "HHIIII")  # the same with a short interface, and a count of drops
    simple = Struct(order + "I")  # bytes of the packet
    head = {_ENHANCED_PACKET: enhanced, _PACKET_OBSOLETE: obsolete, _SIMPLE_PACKET: simple}[kind]
    if len(body) < head.size:
        raise source.error("a short packet block")
    number = high = low = 0
    if kind == _ENHANCED_PACKET:
        number, high, low, captured, length = head.unpack_from(body)
    elif kind == _PACKET_OBSOLETE:
        number, _, high, low, captured, length = head.unpack_from(body)
    else:
        (length,) = head.unpack_from(body)
        captured = min(length, len(body) - head.size)
    if number >= len(interfaces):
        raise source.error(f"a packet of interface {number}, which is not described")
    interface = interfaces[number]
    if kind == _SIMPLE_PACKET and interface.snaplen:
        captured = min(captured, interface.snaplen)
    if head.size + captured > len(body):
        raise source.error(f"a packet of {captured} bytes in a block of {len(body)}")
    time = interface.offset + (high << 32 | low) * interface.unit
    return Packet(time, interface.link_type, body[head.size : head.size + captured], length, number)
