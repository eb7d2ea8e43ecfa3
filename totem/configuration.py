"""What is delivered to the application: ring ids, configurations, and the batches of messages between them.

Everything a Processor delivers is one of `Messages`, `TransitionalConfiguration`, `RegularConfiguration`. All members
that move together are given the same ones in the same order (extended virtual synchrony).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple


class Feature(enum.IntFlag):
    """Extensions of the protocol, which a ring uses if all of its members have them."""

    COMPACT = 1
    """Small messages share a header (`totem.labels`)."""
    ACCELERATED = 2
    """The token goes on before the last frames of a visit."""
    TRIALS = 4
    """Members try each other where a machine refuses datagrams (`totem.accusations`)."""
    PATIENCE = 8
    """Members tell in order for how long the others should wait for them (`totem.patience`)."""


class RingId(NamedTuple):
    """Identity of one ring: its representative's node id and a sequence number that is never used twice."""

    representative: int
    seq: int

    def __str__(self) -> str:
        return f"{self.representative}.{self.seq:x}"


NO_RING = RingId(0, 0)
"""The id of no ring, because node ids start at 1. It marks the recovery hello on the wire."""


class Guarantee(enum.IntEnum):
    """What a sender asks for; the values are those of the wire's `guarantee` field in this package's frames."""

    AGREED = 0
    SAFE = 1


class Level(enum.StrEnum):
    """The guarantee that a delivery reached.

    `SAFE`: every member of the regular configuration has the message. `TRANSITIONAL`: sent as SAFE and delivered in a
    transitional configuration, every member of which has the message. `AGREED`: delivered in order; nothing is known of
    the other members. A SAFE message, too, is delivered as AGREED where nothing stronger can be proved.
    """

    AGREED = "agreed"
    SAFE = "safe"
    TRANSITIONAL = "transitional"


class Messages(NamedTuple):
    """Consecutive messages of one sender, in order, with one label: the whole messages that one frame completed."""

    sender: int
    """Node id of the originator."""
    ring_id: RingId
    """The ring in which they got their number."""
    seq: int
    """Number of their frame in that ring's total order."""
    level: Level
    messages: list[bytes]
    label: bytes = b""
    """The label of their `totem.labels.Envelope`, which makes them payloads; empty for messages without one."""


@dataclass(frozen=True, slots=True)
class TransitionalConfiguration:
    """The members of the old ring that go to the next ring together; what follows holds for them alone."""

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
    """The members that came here together with this node, itself included; empty at a node's first configuration."""
    pure: bool
    """Whether all members are Totem processors of this package, and have said so in this ring."""
    features: int
    """Bit set of the extensions that all members have (`Feature`); 0 in a mixed ring."""


Configuration = TransitionalConfiguration | RegularConfiguration
"""A notice of who the members are."""
Delivery = Messages | TransitionalConfiguration | RegularConfiguration
"""An element of what a ring delivers, in order."""
