"""From captured packets to UDP datagrams: link layers, IPv4 and IPv6, fragments put together again.

A capture on the "any" interface of a machine sees a packet at each interface that it passes (a bridge and its ports). A
datagram that is seen again at another place within a moment is the same one, and is returned once.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import Final, NamedTuple

from totem.dump.captures import Packet


class Datagram(NamedTuple):
    """A UDP datagram, as far as it was captured."""

    time: float
    source: str
    source_port: int
    destination: str
    destination_port: int
    payload: bytes
    length: int
    """Bytes of payload that were sent: more than `payload` has if the capture cut it."""


MOST_FRAGMENTED: Final = 256
"""Datagrams that may wait for fragments; beyond it the oldest is dropped."""
MOST_FRAGMENTS: Final = 128
"""Fragments of one datagram."""
SIGHTING_SECONDS: Final = 0.1
"""Seconds within which a packet has crossed all interfaces of a machine."""
MOST_SIGHTINGS: Final = 4096

# Link types, as tcpdump.org numbers them.
NULL, ETHERNET, RAW, LOOP, COOKED, IPV4, IPV6, COOKED_2 = 0, 1, 101, 108, 113, 228, 229, 276
_RAW_TYPES: Final = (RAW, 12, 14, IPV4, IPV6)

_ETHERTYPE_IPV4: Final = 0x0800
_ETHERTYPE_IPV6: Final = 0x86DD
_VLAN: Final = (0x8100, 0x88A8, 0x9100)
_AF_INET: Final = 2
_AF_INET6: Final = (10, 24, 28, 30)  # Linux, the BSDs, macOS

_IPV4: Final = Struct("!BxHHHxB2x4s4s")
#   version and header length, total length, identity, flags and offset, protocol, source, destination
_IPV6: Final = Struct("!B3xHBx16s16s")  # version, payload length, next header, source, destination
_FRAGMENT: Final = Struct("!BxHI")  # next header, offset and flag, identity
_UDP: Final = Struct("!HHHxx")  # source port, destination port, length
_COOKED: Final = Struct("!H12xH")  # packet type, protocol
_COOKED_2: Final = Struct("!H2xI2xB9x")  # protocol, interface, packet type

_PROTOCOL_UDP: Final = 17
_PROTOCOL_FRAGMENT: Final = 44
_EXTENSIONS: Final = (0, 43, 60)  # hop-by-hop, routing, destination options
_MORE: Final = 0x2000


class _Ip(NamedTuple):
    """An IP packet or a fragment of one, without its headers."""

    protocol: int
    source: bytes
    destination: bytes
    body: bytes
    length: int
    """Bytes that the body had."""
    identity: int = 0
    offset: int = 0
    more: bool = False


class Reassembler:
    """Takes packets, returns datagrams. It keeps only what waits for fragments, and the last moment's datagrams."""

    def __init__(self) -> None:
        self.ignored: Counter[str] = Counter()
        """What could not be read or was not returned, by cause."""
        self._waiting: OrderedDict[tuple[object, ...], list[_Ip]] = OrderedDict()
        self._sightings: OrderedDict[tuple[object, ...], tuple[float, tuple[int, int]]] = OrderedDict()

    def take(self, packet: Packet) -> Datagram | None:
        """Return the datagram that this packet is or completes."""
        version, data, place = self._internet(packet)
        uncaptured = max(0, packet.length - len(packet.data))
        ip = _ipv4(data, uncaptured) if version == 4 else _ipv6(data, uncaptured) if version == 6 else None
        if ip is None or ip.protocol != _PROTOCOL_UDP:
            return None
        if ip.more or ip.offset:
            whole = self._assemble(ip, place)
            if whole is None:
                return None
            ip = whole
        if len(ip.body) < _UDP.size:
            self.ignored["UDP datagrams without their header"] += 1
            return None
        datagram = _datagram(packet.time, ip)
        if self._seen_elsewhere(datagram, place):
            self.ignored["sightings of a datagram at a further interface"] += 1
            return None
        return datagram

    @property
    def unfinished(self) -> int:
        """Return the number of datagrams whose fragments have not all come."""
        return len(self._waiting)

    def _internet(self, packet: Packet) -> tuple[int, bytes, tuple[int, int]]:
        """Return the IP version (0: none), the IP packet, and where it was seen: interface and direction."""
        link, data = packet.link_type, packet.data
        interface, direction = packet.interface, packet.direction
        ethertype = family = -1
        at = 0
        if link == ETHERNET:
            ethertype, at = int.from_bytes(data[12:14], "big"), 14
        elif link in _RAW_TYPES:
            pass
        elif link in (COOKED, COOKED_2) and len(data) < _COOKED_2.size:
            return 0, b"", (0, 0)  # too short for an IP packet behind either header
        elif link == COOKED:
            (direction, ethertype), at = _COOKED.unpack_from(data), _COOKED.size
        elif link == COOKED_2:
            (ethertype, interface, direction), at = _COOKED_2.unpack_from(data), _COOKED_2.size
        elif link in (NULL, LOOP):
            big = link == LOOP or data[:2] == b"\0\0"  # NULL has the order of the machine that captured
            family, at = int.from_bytes(data[:4], "big" if big else "little"), 4
        else:
            self.ignored[f"packets of link type {link}, which is not read"] += 1
            return 0, b"", (0, 0)
        while ethertype in _VLAN and len(data) >= at + 4:
            ethertype, at = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
        body = data[at:]
        version = body[0] >> 4 if body else 0
        expected = {_ETHERTYPE_IPV4: 4, _ETHERTYPE_IPV6: 6, -1: version}.get(ethertype, 0)
        if family >= 0:
            expected = 4 if family == _AF_INET else 6 if family in _AF_INET6 else 0
        return (version if version == expected else 0), body, (interface, direction)

    def _assemble(self, fragment: _Ip, place: tuple[int, int]) -> _Ip | None:
        """Keep a fragment; return the whole packet as soon as its fragments leave no gap."""
        key = (fragment.source, fragment.destination, fragment.identity, place)
        fragments = self._waiting.setdefault(key, [])
        fragments.append(fragment)
        if len(fragments) > MOST_FRAGMENTS:
            del self._waiting[key]
            self.ignored["datagrams in too many fragments"] += 1
            return None
        while len(self._waiting) > MOST_FRAGMENTED:
            self._waiting.popitem(last=False)
            self.ignored["datagrams whose fragments did not all come"] += 1
        body, end, intact = b"", 0, True
        for part in sorted(fragments, key=lambda part: part.offset):
            if part.offset > end:
                return None
            if intact:  # behind what the capture cut, nothing would be in its place
                body = body[: part.offset] + part.body
                intact = len(part.body) == part.length
            end = part.offset + part.length
            if not part.more:
                del self._waiting[key]
                return part._replace(body=body, length=end)
        return None

    def _seen_elsewhere(self, datagram: Datagram, place: tuple[int, int]) -> bool:
        key = datagram[1:6]
        before = self._sightings.get(key)
        if before and before[1] != place and abs(datagram.time - before[0]) < SIGHTING_SECONDS:
            return True
        self._sightings[key] = datagram.time, place
        self._sightings.move_to_end(key)
        oldest, _ = next(iter(self._sightings.values()))
        while len(self._sightings) > MOST_SIGHTINGS or oldest < datagram.time - SIGHTING_SECONDS:
            self._sightings.popitem(last=False)
            oldest, _ = next(iter(self._sightings.values()))
        return False


def _ipv4(data: bytes, uncaptured: int) -> _Ip | None:
    if len(data) < _IPV4.size:
        return None
    first, total, identity, flags, protocol, source, destination = _IPV4.unpack_from(data)
    header = (first & 15) * 4
    total = total or len(data) + uncaptured  # 0: a packet that the network card shall cut
    if header < _IPV4.size or total < header:
        return None
    body = data[header:total]  # behind it a short frame's padding
    return _Ip(protocol, source, destination, body, total - header, identity, (flags & 0x1FFF) * 8, bool(flags & _MORE))


def _ipv6(data: bytes, uncaptured: int) -> _Ip | None:
    if len(data) < _IPV6.size:
        return None
    _, length, following, source, destination = _IPV6.unpack_from(data)
    length = length or len(data) + uncaptured - _IPV6.size
    body = data[_IPV6.size : _IPV6.size + length]
    identity = offset = 0
    more = False
    while following in (*_EXTENSIONS, _PROTOCOL_FRAGMENT):
        if len(body) < 8:
            return None
        size = 8
        if following == _PROTOCOL_FRAGMENT:
            following, position, identity = _FRAGMENT.unpack_from(body)
            offset, more = position & 0xFFF8, bool(position & 1)
        else:
            following, size = body[0], 8 + body[1] * 8
        body = body[size:]
        length -= size
        if offset:
            break  # behind the fragment header of a later fragment there is none to be read
    return _Ip(following, source, destination, body, length, identity, offset, more) if length >= 0 else None


def _datagram(time: float, ip: _Ip) -> Datagram:
    source_port, destination_port, length = _UDP.unpack_from(ip.body)
    length = length if _UDP.size <= length <= ip.length else ip.length
    payload = ip.body[_UDP.size : length]
    return Datagram(
        time, address(ip.source), source_port, address(ip.destination), destination_port, payload, length - _UDP.size
    )


def address(data: bytes) -> str:
    """Return the text of an address of 4 or 16 bytes."""
    return str(IPv4Address(data) if len(data) == 4 else IPv6Address(data))
