"""Pieces: frames that were sent, or must be sent again, are cut for a path that carries less than they need.

New frames are as small as the narrowest path asks for. Those of before keep their size, and the ring waits for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from totem.wire import probes

LONGEST: Final = 65535
"""Bytes of the longest datagram."""
MOST_OPEN: Final = 8
"""Datagrams of one sender that are put together at the same time."""


def cut(datagram: bytes, number: int, node_id: int, room: int) -> Iterator[bytes]:
    """Yield the pieces of a datagram, none longer than `room` bytes; `number` tells them from those of others."""
    size = room - probes.PIECE_HEADER
    count = -(-len(datagram) // size)
    for index in range(count):
        yield probes.piece(node_id, number, index, count, datagram[index * size : (index + 1) * size])


class Pieces:
    """What one sender has begun."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[int, dict[int, bytes]] = {}
        """The pieces of each datagram, by its number, oldest first."""

    def add(self, said: probes.Piece) -> bytes | None:
        """Take a piece; return the datagram that is whole with it."""
        pieces = self._open.setdefault(said.number, {})
        pieces[said.part] = said.data
        if len(self._open) > MOST_OPEN:
            del self._open[next(iter(self._open))]
        if sum(map(len, pieces.values())) > LONGEST:
            del self._open[said.number]
            return None
        if len(pieces) < said.parts or max(pieces) >= said.parts:
            return None
        del self._open[said.number]
        return b"".join(pieces[index] for index in range(said.parts))
