"""The events of a closed process group, in the one order that all members share.

These are the objects of a group's stream (ruling C5). At a change of ring they come in this order: `Transitional`, the
messages left over from the old ring, `Confchg` for the processes that left and joined, `TotemConfchg`, then (with
quorum) `Quorum`, then new messages.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from totem.configuration import Level, RingId


class Member(NamedTuple):
    """A process in a group, as programs see it. A process id may be used again, for another process."""

    node_id: int
    pid: int


class Reason(enum.StrEnum):
    """Why a process joined or left; the values are the words that programs print."""

    JOIN = "join"
    """It called join."""
    LEAVE = "leave"
    """It called leave."""
    NODEDOWN = "nodedown"
    """Its node is not in the ring any more, or is there again after a restart."""
    NODEUP = "nodeup"
    """Its node came into the ring with the process already in the group."""
    PROCDOWN = "procdown"
    """It ended without leaving; its node is still there."""


class Message(NamedTuple):
    """A message of one member, own messages included."""

    sender: Member
    data: bytes
    level: Level


class Confchg(NamedTuple):
    """The group's membership has changed. A process that left and came back is in two of these, first as left."""

    members: tuple[Member, ...]
    """The group's members after the change, in order of node id and pid."""
    left: dict[Member, Reason]
    """In the same order."""
    joined: dict[Member, Reason]
    """In the same order."""


class Transitional(NamedTuple):
    """A change of ring has begun: until the next `TotemConfchg` only these nodes are sure to see the same messages."""

    node_ids: tuple[int, ...]


class TotemConfchg(NamedTuple):
    """The ring is installed, and every `Confchg` that follows from it has been delivered."""

    ring_id: RingId
    node_ids: tuple[int, ...]


class Quorum(NamedTuple):
    """Whether the ring has the votes to act for the cluster; reported when sync of a ring is complete."""

    quorate: bool
    node_ids: tuple[int, ...]


class Link(NamedTuple):
    """A link to another node has come up, gone down, or carries larger or smaller packets.

    With transports `udpu` and `udp` there is one, numbered 0, to each node of this package that has been heard.

    It is of a ring, not of its groups: what this node alone sees, in no order with what all see.
    """

    node_id: int
    """The other node."""
    link: int
    """The number of the link."""
    up: bool
    """Whether the node answers over it."""
    mtu: int
    """Bytes of the largest IP packet that passes, as far as is known; 0: it carries no messages."""
    since: float
    """When it came up, went down or was first tried, in seconds since the epoch."""


RingEvent = Transitional | TotemConfchg | Quorum
Event = Message | Confchg | Transitional | TotemConfchg | Quorum
"""An element of a group's stream."""
