"""The bytes of this package's own probes, on transports udpu and udp, between members of a ring of ours alone.

No node of another make is sent one. Little endian, as totem's packets:

    magic "TtmL", version 1, kind; the sender's node id; the largest IP packet that its paths carry, 0: not known
    ping, pong     16 bytes of the one that pings
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

_HEADER: Final = Struct("<4sBBII")  # magic, version, kind, node id, limit
_MOMENT: Final = Struct("<q8x")
_SIZE: Final = Struct("<I")

assert _HEADER.size == 14


class ProbePacket(NamedTuple):
    """One of them."""

    kind: int
    node_id: int
    limit: int
    """Bytes of the largest IP packet that the sender's paths to all members carry; 0: it does not know yet."""
    value: int
    """Of a ping or pong, the moment of the one that pings, in nanoseconds; of a probe or reply, the size."""

    def encode(self, length: int = 0) -> bytes:
        """Write it, filled up to a length."""
        body = _MOMENT if self.kind in (PING, PONG) else _SIZE
        head = _HEADER.pack(MAGIC, VERSION, self.kind, self.node_id, self.limit)
        return (head + body.pack(self.value)).ljust(length, b"\0")


def decode(datagram: bytes) -> ProbePacket | None:
    """Read a datagram; None where it is none of these."""
    if len(datagram) < _HEADER.size:
        return None
    magic, version, kind, node_id, limit = _HEADER.unpack_from(datagram)
    if magic != MAGIC or version != VERSION or not PING <= kind <= REPLY:
        return None
    body = _MOMENT if kind in (PING, PONG) else _SIZE
    if len(datagram) < _HEADER.size + body.size:
        return None
    (value,) = body.unpack_from(datagram, _HEADER.size)
    return ProbePacket(kind, node_id, limit, value)
