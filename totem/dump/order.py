"""Multicasts in the total order of their rings, and each sender's fragments joined to messages.

A capture sees a multicast once for each destination, again where it was retransmitted, and not in order where it was
lost at first. As at a node, each counts once, and waits for the numbers before it; a number that a token says all
have received is not waited for any longer, since nobody will send it again.

Joining is more lenient than at a node: what can be read is given, though a node might have thrown it away. All that is
kept has bounds, whatever comes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Literal, NamedTuple

from construct import Container

from totem.configuration import RingId
from totem.packing import MAX_MESSAGE
from totem.sequence import RANGE, after, before, distance

MOST_RINGS: Final = 16
MOST_REMEMBERED: Final = 4096
"""Multicasts of a ring that are known again."""
MOST_HELD: Final = 256
"""Multicasts of a ring that wait for one before them."""
MOST_CHAINS: Final = 2
"""Unfinished messages of one sender: sync has its own while the application's waits."""
MOST_SENDERS: Final = 512
MOST_CHAINED_BYTES: Final = 64 << 20
"""Bytes of all unfinished messages."""
LARGEST_MESSAGE: Final = MAX_MESSAGE + (1 << 16)

Copy = Literal["", "copy", "retransmission"]


class Message(NamedTuple):
    """A whole message of the layers above."""

    ring_id: RingId
    seq: int
    """Number of the multicast that completes it."""
    sender: int
    """Node id of the originator."""
    data: bytes


class Order:
    """The rings of a capture, and the unfinished messages of their members."""

    def __init__(self) -> None:
        self._rings: OrderedDict[RingId, _Ring] = OrderedDict()
        self._chains: OrderedDict[int, OrderedDict[int, list[bytes]]] = OrderedDict()
        """By sender and the last fragment's number: what there is of a message."""
        self._chained_bytes = 0

    def sighting(self, ring_id: RingId, seq: int, source: str, destination: str) -> Copy:
        """Note that this multicast passed; tell whether it is a first one, a copy for a further node, or sent again."""
        return self._ring(ring_id).sighting(seq, source, destination)

    def add(self, ring_id: RingId, seq: int, sender: int, frame: Container | None) -> list[Message]:
        """Take a multicast at its first sighting (without a frame if there is none); give what is complete now."""
        return self._join(ring_id, self._ring(ring_id).add(seq, sender, frame))

    def received_by_all(self, ring_id: RingId, aru: int) -> list[Message]:
        """Wait no longer for numbers up to this one."""
        return self._join(ring_id, self._ring(ring_id).skip(aru))

    def finish(self) -> list[Message]:
        """Give what still waits, in order: nothing more comes."""
        return [message for ring_id, ring in self._rings.items() for message in self._join(ring_id, ring.give_up())]

    def _ring(self, ring_id: RingId) -> _Ring:
        ring = self._rings.get(ring_id)
        if ring is None:
            ring = self._rings[ring_id] = _Ring()
            if len(self._rings) > MOST_RINGS:
                self._rings.popitem(last=False)
        else:
            self._rings.move_to_end(ring_id)
        return ring

    def _join(self, ring_id: RingId, multicasts: list[_Multicast]) -> list[Message]:
        return [
            Message(ring_id, multicast.seq, multicast.sender, data)
            for multicast in multicasts
            if multicast.frame is not None
            for data in self._continue(multicast.sender, multicast.frame)
        ]

    def _continue(self, sender: int, frame: Container) -> list[bytes]:
        """The messages that this frame completes."""
        pieces = list(frame.pieces)
        chains = self._chains.setdefault(sender, OrderedDict())
        self._chains.move_to_end(sender)
        chain: list[bytes] | None = []
        if frame.continuation:
            chain = chains.pop(frame.continuation, None)
            if is_reset(frame) and chain is None:
                self._forget(sender)
                return []
            self._chained_bytes -= sum(map(len, chain or ()))
        tail = pieces.pop() if frame.fragmented else None
        if frame.continuation and pieces:
            rest = pieces.pop(0)
            if chain is not None:
                pieces.insert(0, b"".join((*chain, rest)))
            chain = []
        if tail is not None and chain is not None:
            chain.append(tail)
            if sum(map(len, chain)) <= LARGEST_MESSAGE:
                self._keep(chains, frame.fragmented, chain)
        if not chains:
            self._chains.pop(sender, None)
        return pieces

    def _keep(self, chains: OrderedDict[int, list[bytes]], number: int, chain: list[bytes]) -> None:
        self._chained_bytes -= sum(map(len, chains.pop(number, ())))
        chains[number] = chain
        self._chained_bytes += sum(map(len, chain))
        if len(chains) > MOST_CHAINS:
            self._chained_bytes -= sum(map(len, chains.popitem(last=False)[1]))
        while len(self._chains) > MOST_SENDERS or self._chained_bytes > MOST_CHAINED_BYTES:
            self._forget(next(iter(self._chains)))

    def _forget(self, sender: int) -> None:
        chains = self._chains.pop(sender)
        self._chained_bytes -= sum(len(part) for chain in chains.values() for part in chain)


def is_reset(frame: Container) -> bool:
    """Whether this looks like a reset frame of ours: one piece of one byte that ends what has not begun."""
    return bool(frame.continuation and not frame.fragmented and list(frame.pieces) == [b"\0"])


class _Multicast(NamedTuple):
    seq: int
    sender: int
    frame: Container | None


class _Ring:
    """The multicasts of one ring."""

    def __init__(self) -> None:
        self._next: int | None = None
        """The number before which nothing is waited for."""
        self._held: dict[int, _Multicast] = {}
        self._seen: OrderedDict[int, tuple[str, set[str]]] = OrderedDict()
        """By number: the source of its last sending, and this one's destinations so far."""

    def sighting(self, seq: int, source: str, destination: str) -> Copy:
        if seq not in self._seen:
            self._seen[seq] = source, {destination}
            if len(self._seen) > MOST_REMEMBERED:
                self._seen.popitem(last=False)
            return ""
        last_source, destinations = self._seen[seq]
        if source == last_source and destination not in destinations and len(destinations) < MOST_REMEMBERED:
            destinations.add(destination)
            return "copy"
        self._seen[seq] = source, {destination}  # which has copies of its own
        return "retransmission"

    def add(self, seq: int, sender: int, frame: Container | None) -> list[_Multicast]:
        multicast = _Multicast(seq, sender, frame)
        if self._next is None:
            self._next = seq
        if before(seq, self._next):
            return [multicast]  # late: what was behind it has been given already
        self._held[seq] = multicast
        ready = self._ready()
        if len(self._held) > MOST_HELD:
            ready += self._give(min(self._held, key=self._ahead))
        return ready

    def skip(self, aru: int) -> list[_Multicast]:
        if self._next is None or before(aru, self._next) or distance(self._next, aru) > RANGE:
            return []
        ready = []
        for seq in sorted(self._held, key=self._ahead):
            if before(aru, seq):
                break
            ready.append(self._held.pop(seq))
        return ready + self._give(after(aru))

    def give_up(self) -> list[_Multicast]:
        held = sorted(self._held, key=self._ahead)
        return [self._held.pop(seq) for seq in held]

    def _give(self, seq: int) -> list[_Multicast]:
        self._next = seq
        return self._ready()

    def _ready(self) -> list[_Multicast]:
        ready: list[_Multicast] = []
        while self._next in self._held:
            ready.append(self._held.pop(self._next))
            self._next = after(self._next)
        return ready

    def _ahead(self, seq: int) -> int:
        assert self._next is not None
        return distance(self._next, seq)
