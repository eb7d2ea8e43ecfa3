"""Evidence: what members of a ring of ours alone say of a member whose machine refuses datagrams (rulings, F6).

No node of another make is sent one. Little endian, as totem's packets:

    magic "TtmL", version 1, kind; three bytes of 0; the target's node id, written by knet; the sender's node id; the
    accused one's; the ring's representative and sequence

The magic is that of the probes (`totem.wire.probes`), the kinds follow theirs.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from totem.configuration import RingId
from totem.wire.probes import MAGIC, VERSION


class Saying(IntEnum):
    """What a member says of the accused one."""

    ACCUSES = 16
    """Its machine refuses what I have sent. Try it, as I do from now on."""
    HEARS = 17
    """It answers me."""
    CONFIRMS = 18
    """Its machine has refused what I have sent, and it does not answer me."""


_LAYOUT: Final = Struct("<4sBB3xIIIIQ")
_KINDS: Final = frozenset(map(int, Saying))


class Evidence(NamedTuple):
    """One of them."""

    saying: Saying
    node_id: int
    """The witness."""
    accused: int
    ring_id: RingId
    """The installed ring of both."""

    def encode(self) -> bytes:
        """Write it."""
        return _LAYOUT.pack(MAGIC, VERSION, self.saying, 0, self.node_id, self.accused, *self.ring_id)


def decode(datagram: bytes) -> Evidence | None:
    """Read a datagram; None where it is none of these."""
    if len(datagram) != _LAYOUT.size:
        return None
    magic, version, kind, _, node_id, accused, *ring = _LAYOUT.unpack(datagram)
    if magic != MAGIC or version != VERSION or kind not in _KINDS:
        return None
    return Evidence(Saying(kind), node_id, accused, RingId(*ring))
