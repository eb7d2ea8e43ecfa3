"""Capture files for tests: what `totem.dump` reads, written."""

from __future__ import annotations

import io
import struct
from ipaddress import ip_address
from itertools import count

from totem.dump.network import ETHERNET

SOURCE, DESTINATION = "10.77.0.1", "10.77.0.2"


def opened(data):
    """A file that has been opened."""
    return io.BufferedReader(io.BytesIO(data))


def pcap(packets, link=ETHERNET, order="<", nanoseconds=False, lengths=()):
    """Packets are (time in seconds, bytes)."""
    magic, unit = (0xA1B23C4D, 10**9) if nanoseconds else (0xA1B2C3D4, 10**6)
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, link)]
    for number, (time, data) in enumerate(packets):
        length = lengths[number] if lengths else len(data)
        ticks = round(time * unit)
        parts += [struct.pack(order + "IIII", ticks // unit, ticks % unit, len(data), length), data]
    return b"".join(parts)


def block(kind, body, order="<"):
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def section(order="<"):
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link=ETHERNET, order="<", options=b"", snaplen=0):
    return block(1, struct.pack(order + "HHI", link, 0, snaplen) + options, order)


def enhanced(time, data, number=0, order="<", unit=10**6):
    ticks = round(time * unit)
    head = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data))
    return block(6, head + data + bytes(-len(data) % 4), order)


def simple(data, length=None, order="<"):
    return block(3, struct.pack(order + "I", length or len(data)) + data, order)


def udp(payload, ports=(5405, 5405)):
    return struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload


def ipv4(body, *, identity=0, offset=0, more=False, protocol=17, total=None):
    flags = offset // 8 | (0x2000 if more else 0)
    total = 20 + len(body) if total is None else total
    addresses = ip_address(SOURCE).packed + ip_address(DESTINATION).packed
    return struct.pack("!BBHHHBBH", 0x45, 0, total, identity, flags, 64, protocol, 0) + addresses + body


def ipv6(body, source="fd00::1", destination="fd00::2", following=17):
    return (
        struct.pack("!IHBB", 6 << 28, len(body), following, 64)
        + ip_address(source).packed
        + ip_address(destination).packed
        + body
    )


def ipv6_fragment(body, identity, offset, more, following=17):
    return struct.pack("!BBHI", following, 0, offset | more, identity) + body


def ethernet(packet, vlans=()):
    kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    tags = b"".join(struct.pack("!HH", tag, 7) for tag in vlans)
    return bytes(12) + tags + struct.pack("!H", kind) + packet


def cooked(packet, direction=0):
    kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    return struct.pack("!HHH8sH", direction, 1, 6, bytes(8), kind) + packet


def cooked_2(packet, number=1, direction=0):
    kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    return struct.pack("!HHIHBB8s", kind, 0, number, 1, direction, 6, bytes(8)) + packet


def loopback(packet, order="<"):
    return struct.pack(order + "I", 2 if packet[0] >> 4 == 4 else 10) + packet


def fragments(body, size, identity=7):
    """An IPv4 packet's body in fragments of `size` bytes, which is a multiple of 8."""
    starts = range(0, len(body), size)
    return [
        ipv4(body[start : start + size], identity=identity, offset=start, more=start + size < len(body))
        for start in starts
    ]


def timed(packets, start=1000.0):
    """Packets a second apart."""
    return [(start + number, data) for number, data in zip(count(), packets, strict=False)]
