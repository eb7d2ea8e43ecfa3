"""The captures of real rings in `captures/`, layer by layer: datagrams, multicasts, whole messages.

They serve the tests of every layer that has a format of its own. Nothing here uses the code under test.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from construct import Container

from tests.totem.wire.pcap import Datagram, datagrams
from totem.wire import schema
from totem.wire.layout import MESSAGE_ENCAPSULATED, TYPE_MCAST

CAPTURES = sorted((Path(__file__).parent / "captures").glob("*.pcap.gz"))
PORTS = {5404, 5405}


class GroupMessage(NamedTuple):
    """A message as totempg delivers it: `data` begins with the executive header."""

    time: float
    """When the last of its frames was first seen, in seconds since the epoch."""
    ring_id: tuple[int, int]
    seq: int
    """Number of the frame that completes it."""
    sender: int
    group: bytes
    data: bytes


def ring_datagrams(path: Path) -> Iterator[Datagram]:
    """Return the datagrams that belong to the ring, one for each destination, in the order captured."""
    return (datagram for datagram in datagrams(path) if datagram.destination_port in PORTS)


def group_messages(path: Path) -> Iterator[GroupMessage]:
    """Return every whole message once: ring by ring, within a ring in the total order.

    Messages that were sent, or whose beginning was sent, before the capture began are missing.
    """
    for ring_id, frames in frames_by_ring(path).items():
        assembling: dict[int, tuple[int, bytes] | None] = {}
        for seq, (time, packet) in sorted(frames.items()):
            sender = packet.system_from
            frame = schema.TotempgMcast.parse(packet.data)
            before = assembling.get(sender, (0, b""))
            assembling[sender] = None if frame.fragmented else (0, b"")
            if before is None or before[0] != frame.continuation:
                continue
            pieces = [before[1] + frame.pieces[0], *frame.pieces[1:]]
            if frame.fragmented:
                assembling[sender] = (frame.fragmented, pieces.pop())
            for message in map(schema.GroupHeader.parse, pieces):
                (group,) = message.group_name
                yield GroupMessage(time, ring_id, seq, sender, group, message.message)


def frames_by_ring(path: Path) -> dict[tuple[int, int], dict[int, tuple[float, Container]]]:
    """Return the multicasts of each ring by number, with the time when they were first seen, unwrapped from
    recovery."""
    rings: dict[tuple[int, int], dict[int, tuple[float, Container]]] = {}
    for datagram in ring_datagrams(path):
        if datagram.payload[3] != TYPE_MCAST:
            continue
        packet = schema.parse(datagram.payload)
        if packet.header.encapsulated == MESSAGE_ENCAPSULATED:
            packet = packet.data
        ring = rings.setdefault((packet.ring_id.rep, packet.ring_id.seq), {})
        ring.setdefault(packet.seq, (datagram.time, packet))
    return rings
