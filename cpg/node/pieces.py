"""Messages too long for one mcast: cut into partial mcasts by the sender, assembled by every node of the ring.

Every node assembles for every group, whether it has members there or not. So a process that joins while a message is on
its way sees it as the others do.

A change of ring is the difficulty: a node that is new in the ring has not seen the first pieces. Where all members are
ours, every receiver discards unfinished messages when the ring is installed, and the sender begins again. It does not
begin again if its first piece has not been delivered to itself yet (it is still queued then, and all will see it), or
if all of the message has. Pieces of the first attempt that were still queued continue nothing.

A libcpg client discards nothing. So with a Corosync node in the ring receivers keep what they have, and the sender
begins again only if the last piece has not been given to the ring yet: else the clients would see the message twice. A
node that is new then misses the message, as it does with a message of a Corosync node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cpg.events import Member
from cpg.node.wire import LARGEST_PLAIN, PIECE_CONTINUED, PIECE_FIRST, PIECE_LAST, PartialMcast
from cpg.payloads import LARGEST_MESSAGE
from totem.configuration import Guarantee
from totem.errors import MalformedDatagram

LARGEST_HELD: Final = 4 * LARGEST_MESSAGE
"""Limit of the payload bytes of all unfinished messages of one node; our own nodes send one at a time."""
COST_OF_ONE: Final = 4096
"""Bytes counted for an unfinished message besides its payload: many tiny ones must not fill the memory either."""


@dataclass(slots=True)
class Outgoing:
    """A message that its sender cuts into pieces."""

    name: bytes
    member: Member
    payload: bytes
    guarantee: Guarantee
    begun: bool = False
    """The first piece has been delivered to its sender."""
    _offset: int = 0
    _piece: bytes | None = None

    @property
    def handed_over(self) -> bool:
        """Whether the ring has got the last piece."""
        return self._offset >= len(self.payload)

    def piece(self) -> bytes:
        """Return the next piece; call `advance` when the ring has accepted it."""
        if self._piece is None:  # kept, since it is offered until there is room
            self._piece = self._encode()
        return self._piece

    def _encode(self) -> bytes:
        data = self.payload[self._offset : self._offset + LARGEST_PLAIN]
        if self._offset == 0:
            kind = PIECE_FIRST
        elif self._offset + len(data) < len(self.payload):
            kind = PIECE_CONTINUED
        else:
            kind = PIECE_LAST
        return PartialMcast(self.name, self.member.pid, len(self.payload), kind, data).encode(self.member.node_id)

    def advance(self) -> None:
        """Note that the ring has accepted the piece."""
        self._offset += LARGEST_PLAIN
        self._piece = None

    def new_ring(self, *, pure: bool) -> None:
        """Begin again with the first piece if the receivers, all of them ours or not, would miss a part otherwise."""
        if self.begun and (pure or not self.handed_over):
            self.begun = False
            self._offset = 0
            self._piece = None


@dataclass(slots=True)
class _Unfinished:
    whole_length: int
    pieces: list[bytes] = field(default_factory=list)
    length: int = 0


class Assembler:
    """The unfinished messages of the whole ring, by group and sender."""

    def __init__(self) -> None:
        self._unfinished: dict[tuple[bytes, Member], _Unfinished] = {}
        self._held: Counter[int] = Counter()
        """Bytes counted for the unfinished messages of each node."""

    def add(self, member: Member, message: PartialMcast) -> bytes | None:
        """Add a piece; return the whole payload with the last one. A piece that continues nothing is dropped.

        Raises MalformedDatagram for what a correct sender does not send, and discards the unfinished message.
        """
        key = (message.name, member)
        if message.piece == PIECE_FIRST:
            self._drop(key)  # a sender that was interrupted begins again
            self._begin(key, message.whole_length)
        unfinished = self._unfinished.get(key)
        if unfinished is None:
            return None
        unfinished.pieces.append(message.payload)
        unfinished.length += len(message.payload)
        if unfinished.length > unfinished.whole_length:
            self._drop(key)
            raise MalformedDatagram("partial mcast beyond its length")
        if message.piece != PIECE_LAST:
            return None
        self._drop(key)
        if unfinished.length != unfinished.whole_length:
            raise MalformedDatagram("partial mcast short of its length")
        return b"".join(unfinished.pieces)

    def _begin(self, key: tuple[bytes, Member], length: int) -> None:
        node_id = key[1].node_id
        if length > LARGEST_MESSAGE:
            raise MalformedDatagram("partial mcast too long")
        if self._held[node_id] + length + COST_OF_ONE > LARGEST_HELD:
            raise MalformedDatagram("too many partial mcasts at once")
        self._held[node_id] += length + COST_OF_ONE
        self._unfinished[key] = _Unfinished(length)

    def _drop(self, key: tuple[bytes, Member]) -> None:
        unfinished = self._unfinished.pop(key, None)
        if unfinished is not None:
            self._held[key[1].node_id] -= unfinished.whole_length + COST_OF_ONE

    def forget(self, name: bytes, members: Iterable[Member]) -> None:
        """Discard the unfinished messages of members that have left the group."""
        for member in members:
            self._drop((name, member))

    def clear(self) -> None:
        """Discard everything: a ring of our nodes alone was installed, and all senders begin again."""
        self._unfinished.clear()
        self._held.clear()
