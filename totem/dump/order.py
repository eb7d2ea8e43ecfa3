"""Multicasts in the total order of their rings, and each sender's fragments joined to messages.

A capture sees a multicast once for each destination, again where it was retransmitted, and out of order where it was
first lost. Here each counts once, as at a node, and waits for the numbers before it. When a token says that all members
have received a number, it is not waited for any longer, because no node will send it again.

Joining is more lenient than at a node: what can be read is returned, though a node might have thrown it away. All that
is kept has bounds, whatever comes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Literal, NamedTuple

from construct import ConstructError, Container

from totem.configuration import RingId
from totem.packing import MAX_MESSAGE
from totem.sequence import RANGE, after, before, distance
from totem.wire.layout import FRAME_PLAIN
from totem.wire.schema import RunHeader

MOST_RINGS: Final = 16
MOST_REMEMBERED: Final = 4096
"""Multicasts of a ring that are recognised, and labels of its members."""
MOST_HELD: Final = 256
"""Multicasts of a ring that wait for one before them."""
MOST_CHAINS: Final = 2
"""Unfinished messages of one sender: its sync has its own while the application's waits."""
MOST_SENDERS: Final = 512
MOST_CHAINED_BYTES: Final = 64 << 20
"""Bytes of all unfinished messages."""
LARGEST_MESSAGE: Final = MAX_MESSAGE + (1 << 16)

Copy = Literal["", "copy", "retransmission"]


class WholeMessage(NamedTuple):
    """A whole message of the layers above."""

    ring_id: RingId
    seq: int
    """Number of the multicast that completes it."""
    sender: int
    """Node id of the originator."""
    data: bytes
    label: bytes | None = b""
    """The label of a payload in a compact frame; None if the capture does not have it, empty for other messages."""


class Run(NamedTuple):
    """Consecutive messages with one label."""

    number: int
    label: bytes
    """The label that the run header brings; empty if it was sent before."""
    pieces: list[bytes]
    """The pieces of messages that the frame ends."""


def runs(frame: Container) -> tuple[list[Run], str]:
    """Return the runs of what begins in a frame, and why a node would drop what is behind them, if it would."""
    pieces = list(frame.pieces)
    if frame.fragmented:
        pieces.pop()
    if frame.continuation and pieces:
        del pieces[0]
    if frame.type == FRAME_PLAIN:
        return [Run(0, b"", pieces)], ""
    found: list[Run] = []
    while pieces:
        try:
            header = RunHeader.parse(pieces.pop(0))
        except ConstructError:
            return found, "short run header"
        if header.count > len(pieces):
            return found, "run of too few messages"
        found.append(Run(header.number, header.label, pieces[: header.count]))
        del pieces[: header.count]
    return found, ""


class _Chain(list[bytes]):
    """The part of a message that has come, and its label."""

    label: bytes | None = b""


class Order:
    """The rings of a capture, and the unfinished messages of their members."""

    def __init__(self) -> None:
        self._rings: OrderedDict[RingId, _RingOrder] = OrderedDict()
        self._chains: OrderedDict[int, OrderedDict[int, _Chain]] = OrderedDict()
        """By sender and the last fragment's number: the part of a message that has come."""
        self._chained_bytes = 0

    def sighting(self, ring_id: RingId, seq: int, source: str, destination: str) -> Copy:
        """Note that this multicast passed; return whether it is a first one, a copy for a further node, or sent
        again."""
        return self._ring(ring_id).sighting(seq, source, destination)

    def add(self, ring_id: RingId, seq: int, sender: int, frame: Container | None) -> list[WholeMessage]:
        """Take a multicast at its first sighting (without a frame if there is none); return what is complete now."""
        ring = self._ring(ring_id)
        return self._join(ring_id, ring, ring.add(seq, sender, frame))

    def received_by_all(self, ring_id: RingId, aru: int) -> list[WholeMessage]:
        """Wait no longer for numbers up to this one; return what is complete now."""
        ring = self._ring(ring_id)
        return self._join(ring_id, ring, ring.skip(aru))

    def finish(self) -> list[WholeMessage]:
        """Return what still waits, in order: nothing more comes."""
        rings = self._rings.items()
        return [message for ring_id, ring in rings for message in self._join(ring_id, ring, ring.give_up())]

    def _ring(self, ring_id: RingId) -> _RingOrder:
        ring = self._rings.get(ring_id)
        if ring is None:
            ring = self._rings[ring_id] = _RingOrder()
            if len(self._rings) > MOST_RINGS:
                self._rings.popitem(last=False)
        else:
            self._rings.move_to_end(ring_id)
        return ring

    def _join(self, ring_id: RingId, ring: _RingOrder, multicasts: list[_Multicast]) -> list[WholeMessage]:
        return [
            WholeMessage(ring_id, multicast.seq, multicast.sender, data, label)
            for multicast in multicasts
            if multicast.frame is not None
            for label, data in self._continue(ring, multicast.sender, multicast.frame)
        ]

    def _continue(self, ring: _RingOrder, sender: int, frame: Container) -> list[tuple[bytes | None, bytes]]:
        """Return the messages that this frame completes, with their labels."""
        told: list[tuple[bytes | None, bytes]] = []
        pieces = list(frame.pieces)
        chains = self._chains.setdefault(sender, OrderedDict())
        self._chains.move_to_end(sender)
        chain: _Chain | None = _Chain()
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
                told.append((chain.label, b"".join((*chain, rest))))
            chain = _Chain()
        for run in runs(frame)[0]:
            label = ring.label(sender, run)
            told += [(label, piece) for piece in run.pieces]
            if chain is not None and not chain:
                chain.label = label
        if tail is not None and chain is not None:
            chain.append(tail)
            if sum(map(len, chain)) <= LARGEST_MESSAGE:
                self._keep(chains, frame.fragmented, chain)
        if not chains:
            self._chains.pop(sender, None)
        return told

    def _keep(self, chains: OrderedDict[int, _Chain], number: int, chain: _Chain) -> None:
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
    """Return whether this looks like a reset frame: one piece of one byte that ends what has not begun."""
    return bool(frame.continuation and not frame.fragmented and list(frame.pieces) == [b"\0"])


class _Multicast(NamedTuple):
    seq: int
    sender: int
    frame: Container | None


class _RingOrder:
    """The multicasts of one ring."""

    def __init__(self) -> None:
        self._next: int | None = None
        """The number before which nothing is waited for."""
        self._held: dict[int, _Multicast] = {}
        self._labels: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        """By sender and number."""
        self._seen: OrderedDict[int, tuple[str, set[str]]] = OrderedDict()
        """By number: the source of its last transmission, and the destinations of that so far."""

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

    def label(self, sender: int, run: Run) -> bytes | None:
        """Return what the number of a run stands for; None if its label came before the capture began."""
        if not run.number:
            return b""
        if run.label:
            self._labels[sender, run.number] = run.label
            self._labels.move_to_end((sender, run.number))
            if len(self._labels) > MOST_REMEMBERED:
                self._labels.popitem(last=False)
        return self._labels.get((sender, run.number))

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
