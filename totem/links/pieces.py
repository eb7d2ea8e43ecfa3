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
MOST_PARTS: Final = 1024
"""Pieces of one datagram. The longest, over the narrowest path that is found, has fewer."""
PATIENCE: Final = 0.1
"""Seconds for all pieces of a datagram, which leave together. A sender that was started anew counts from 1 again."""


def cut(datagram: bytes, number: int, node_id: int, room: int) -> Iterator[bytes]:
    """Yield the pieces of a datagram, none longer than `room` bytes; `number` tells them from those of others."""
    size = room - probes.PIECE_HEADER
    count = -(-len(datagram) // size)
    for index in range(count):
        yield probes.piece(node_id, number, index, count, datagram[index * size : (index + 1) * size])


class _Begun:
    """A datagram of which not all pieces are here."""

    __slots__ = ("parts", "pieces", "size", "until")

    def __init__(self, parts: int, now: float) -> None:
        self.parts = parts
        self.pieces: dict[int, bytes] = {}
        self.size = 0
        self.until = now + PATIENCE


class Pieces:
    """What one sender has begun."""

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        self._begun: dict[int, _Begun] = {}
        """By the number of the datagram, oldest first."""

    def add(self, said: probes.Piece, now: float) -> bytes | None:
        """Take a piece; return the datagram that is whole with it."""
        if said.parts > MOST_PARTS:
            return None
        begun = self._begun.get(said.number)
        if begun is None or begun.parts != said.parts or now > begun.until:
            self._begun.pop(said.number, None)
            begun = self._begun[said.number] = _Begun(said.parts, now)
            if len(self._begun) > MOST_OPEN:
                del self._begun[next(iter(self._begun))]
        begun.size += len(said.data) - len(begun.pieces.get(said.part, b""))
        begun.pieces[said.part] = said.data
        if begun.size > LONGEST:
            del self._begun[said.number]
        elif len(begun.pieces) == said.parts:
            del self._begun[said.number]
            return b"".join(begun.pieces[index] for index in range(said.parts))
        return None
