"""Read UDP datagrams from pcap files: Ethernet, IPv4, fragments put together again."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

FILE_HEADER = struct.Struct("<IHHiIII")  # magic, version, thiszone, sigfigs, snaplen, link type
RECORD = struct.Struct("<IIII")  # seconds, microseconds, bytes captured, bytes on the wire
MAGIC = 0xA1B2C3D4
LINK_ETHERNET = 1
ETHERNET_HEADER = 14
ETHERTYPE_IPV4 = 0x0800
IPV4 = struct.Struct("!BBHHHBBH4s4s")
#   version and header length, tos, total length, id, flags and offset, ttl, protocol, checksum, source, destination
MORE_FRAGMENTS = 0x2000
PROTOCOL_UDP = 17
UDP = struct.Struct("!HHHH")  # source port, destination port, length, checksum


class Datagram(NamedTuple):
    time: float
    source: str
    destination: str
    source_port: int
    destination_port: int
    payload: bytes


class Packet(NamedTuple):
    """An IPv4 packet, or a fragment of one."""

    protocol: int
    source: bytes
    destination: bytes
    identity: int
    offset: int
    more: bool
    body: bytes


def datagrams(path: Path) -> Iterator[Datagram]:
    """Yield every UDP datagram of a capture (.pcap or .pcap.gz), in the order captured."""
    fragments: dict[tuple[object, ...], list[Packet]] = {}
    for time, frame in frames(path):
        packet = ipv4(frame)
        if packet is None or packet.protocol != PROTOCOL_UDP:
            continue
        if packet.more or packet.offset:
            key = (packet.source, packet.destination, packet.identity)
            fragments.setdefault(key, []).append(packet)
            whole = assemble(fragments[key])
            if whole is None:
                continue
            del fragments[key]
            packet = whole
        source_port, destination_port, length, _ = UDP.unpack_from(packet.body)
        assert length == len(packet.body), "UDP length"
        yield Datagram(
            time,
            str(IPv4Address(packet.source)),
            str(IPv4Address(packet.destination)),
            source_port,
            destination_port,
            packet.body[UDP.size :],
        )
    assert not fragments, "a fragment is missing"


def frames(path: Path) -> Iterator[tuple[float, bytes]]:
    """Yield time and bytes of every Ethernet frame."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        magic, _, _, _, _, _, link = FILE_HEADER.unpack(file.read(FILE_HEADER.size))
        assert (magic, link) == (MAGIC, LINK_ETHERNET), path
        while record := file.read(RECORD.size):
            seconds, microseconds, captured, sent = RECORD.unpack(record)
            assert captured == sent, "a frame was cut"
            yield seconds + microseconds / 1e6, file.read(captured)


def ipv4(frame: bytes) -> Packet | None:
    """Return the IPv4 packet in an Ethernet frame, without the padding of short frames."""
    if int.from_bytes(frame[12:14], "big") != ETHERTYPE_IPV4:
        return None
    first, _, total, identity, flags, _, protocol, _, source, destination = IPV4.unpack_from(frame, ETHERNET_HEADER)
    body = frame[ETHERNET_HEADER + (first & 15) * 4 : ETHERNET_HEADER + total]
    return Packet(protocol, source, destination, identity, (flags & 0x1FFF) * 8, bool(flags & MORE_FRAGMENTS), body)


def assemble(fragments: list[Packet]) -> Packet | None:
    """Return the whole packet, as soon as its fragments leave no gap."""
    body = b""
    for fragment in sorted(fragments, key=lambda fragment: fragment.offset):
        if fragment.offset != len(body):
            return None
        body += fragment.body
        if not fragment.more:
            return fragment._replace(offset=0, body=body)
    return None
