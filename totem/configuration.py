"""What the application is told: ring ids, configurations and the batches of messages between them.

Everything a Processor delivers is one of `Messages`, `TransitionalConfiguration`, `RegularConfiguration`, and all
members that move together are given the same ones in the same order (extended virtual synchrony).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple


class Feature(enum.IntFlag):
    """Extensions of the protocol, which are used in a ring if all of its members have them."""

    COMPACT = 1
    """Small messages share a header (`totem.labels`)."""
    ACCELERATED = 2
    """The token goes on before the last frames of a visit."""


class RingId(NamedTuple):
    """Identity of one ring: its representative's node id and a sequence number that is never used twice."""

    representative: int
    seq: int

    def __str__(self) -> str:
        return f"{self.representative}.{self.seq:x}"


NO_RING = RingId(0, 0)
"""Never the id of a ring: node ids start at 1. Marks the recovery hello on the wire."""


class Guarantee(enum.IntEnum):
    """What a sender asks for; the values are those of the wire's `guarantee` field in our frames."""

    AGREED = 0
    SAFE = 1


class Level(enum.StrEnum):
    """What a delivery reached.

    `SAFE`: every member of the regular configuration has the message. `TRANSITIONAL`: sent as SAFE, delivered in a
    transitional configuration, every member of which has it. `AGREED`: delivered in order, nothing known of the
    others (also what a SAFE message is told as where nothing stronger can be proved).
    """

    AGREED = "agreed"
    SAFE = "safe"
    TRANSITIONAL = "transitional"


class Messages(NamedTuple):
    """Consecutive messages of one sender, in order, with one label: whole messages that one frame completed."""

    sender: int
    """Node id of the originator."""
    ring_id: RingId
    """The ring in which they were originated (numbered)."""
    seq: int
    """Number of their frame in that ring's total order."""
    level: Level
    messages: list[bytes]
    label: bytes = b""
    """What `totem.labels.Envelope` says of them in short: they are payloads then. Empty for messages without."""


@dataclass(frozen=True, slots=True)
class TransitionalConfiguration:
    """Those members of the old ring that go to the next ring together; what follows holds for them alone."""

    ring_id: RingId
    """The old ring's id: messages that follow were sent in that ring."""
    members: tuple[int, ...]
    next_ring_id: RingId


@dataclass(frozen=True, slots=True)
class RegularConfiguration:
    """A ring that has been installed."""

    ring_id: RingId
    members: tuple[int, ...]
    """Node ids in ascending order, which is the order of the ring."""
    transitional: tuple[int, ...]
    """Those that came here together with this node, itself included; empty at a node's first configuration."""
    pure: bool
    """All members are nodes of this make and have said so in this ring."""
    features: int
    """Bit set of the extensions that all members have (`Feature`); 0 in a mixed ring."""


Configuration = TransitionalConfiguration | RegularConfiguration
Delivery = Messages | TransitionalConfiguration | RegularConfiguration
