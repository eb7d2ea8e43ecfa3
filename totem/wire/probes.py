"""The bytes of this package's own probes, on transports udpu and udp, between nodes of ours.

No node of another make is sent one. Little endian, as totem's packets:

    magic "TtmL", version 1, kind; the sender's node id; the largest IP packet that its paths carry, 0: not known
    ping, pong     16 bytes of the one that pings; a ping is answered at once
    beat           a ping that the receiver's next beat answers: 8 bytes of the one that pings, and what it answers:
                   8 bytes of the other's last ping or beat, 0: of none; the microseconds since that came
    piece          a part of a datagram that the path does not carry whole: its number, which part, of how many (4, 2
                   and 2 bytes), and the part
    probe, reply   the size of the IP packet that is tried; a probe is filled up to it
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

MAGIC: Final = b"TtmL"
VERSION: Final = 1
PING: Final = 1
PONG: Final = 2
PROBE: Final = 3
REPLY: Final = 4
BEAT: Final = 5
PIECE: Final = 6

_HEADER: Final = Struct("<4sBBII")  # magic, version, kind, node id, limit
_MOMENT: Final = Struct("<q8x")
_SIZE: Final = Struct("<I")
_BEAT: Final = Struct("<qqI")
_BODIES: Final = {PING: _MOMENT, PONG: _MOMENT, PROBE: _SIZE, REPLY: _SIZE, BEAT: _BEAT}
_PIECE: Final = Struct("<IHH")
_MICROSECONDS: Final = 1e6
_LONGEST_HELD: Final = 2**32 - 1

assert _HEADER.size == 14
PIECE_HEADER: Final = _HEADER.size + _PIECE.size


class ProbePacket(NamedTuple):
    """One of them."""

    kind: int
    node_id: int
    limit: int
    """Bytes of the largest IP packet that the sender's paths to all members carry; 0: it does not know yet."""
    value: int
    """Of a ping, pong or beat, the moment of the one that pings, in nanoseconds; of a probe or reply, the size."""
    answers: int = 0
    """Of a beat: the moment of the other's ping or beat that it answers; 0: none."""
    held: float = 0.0
    """Of a beat: seconds since that came."""

    def encode(self, length: int = 0) -> bytes:
        """Write it, filled up to a length."""
        head = _HEADER.pack(MAGIC, VERSION, self.kind, self.node_id, self.limit)
        if self.kind == BEAT:
            held = min(round(self.held * _MICROSECONDS), _LONGEST_HELD)
            return head + _BEAT.pack(self.value, self.answers, held)
        return (head + _BODIES[self.kind].pack(self.value)).ljust(length, b"\0")


def decode(datagram: bytes) -> ProbePacket | None:
    """Read a datagram; None where it is none of these."""
    if len(datagram) < _HEADER.size:
        return None
    magic, version, kind, node_id, limit = _HEADER.unpack_from(datagram)
    if magic != MAGIC or version != VERSION:
        return None
    body = _BODIES.get(kind)
    if body is None or len(datagram) < _HEADER.size + body.size:
        return None
    if kind == BEAT:
        value, answers, held = _BEAT.unpack_from(datagram, _HEADER.size)
        return ProbePacket(kind, node_id, limit, value, answers, held / _MICROSECONDS)
    (value,) = body.unpack_from(datagram, _HEADER.size)
    return ProbePacket(kind, node_id, limit, value)


class Piece(NamedTuple):
    """A part of a datagram."""

    node_id: int
    number: int
    """Of the datagram, as its sender counts."""
    part: int
    """Which one, from 0."""
    parts: int
    """Number of all."""
    data: bytes


def piece(node_id: int, number: int, part: int, parts: int, data: bytes) -> bytes:
    """Write a piece."""
    return _HEADER.pack(MAGIC, VERSION, PIECE, node_id, 0) + _PIECE.pack(number, part, parts) + data


def decode_piece(datagram: bytes) -> Piece | None:
    """Read a datagram; None where it is no piece."""
    if len(datagram) <= PIECE_HEADER:
        return None
    magic, version, kind, node_id, _ = _HEADER.unpack_from(datagram)
    number, part, parts = _PIECE.unpack_from(datagram, _HEADER.size)
    if magic != MAGIC or version != VERSION or kind != PIECE or part >= parts:
        return None
    return Piece(node_id, number, part, parts, datagram[PIECE_HEADER:])
