"""Delivery: the ordered frames of a ring become the messages that the application is given.

Frames and configurations wait in one queue. Messages are assembled only when the shell asks for them, because the
application decides between two deliveries that its sync is complete. From that point on frames belong to the stream
of the application, which has reassembly buffers of its own (rulings, C1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from totem.configuration import Configuration, Delivery, Level, Messages, RegularConfiguration, RingId
from totem.errors import MalformedDatagram
from totem.packing import Assembler
from totem.ring import Ring
from totem.sequence import before, row_to
from totem.wire import codec
from totem.wire.codec import GUARANTEE_OFFSET, Ask
from totem.wire.layout import FRAME_COMPACT, FRAME_PLAIN


class DeliveryQueue:
    """What one processor may deliver, in order; `drop` counts what cannot be delivered."""

    __slots__ = ("_assembler", "_drop", "_on_ask", "_pending", "_sync_assembler", "syncing_ring_id")

    def __init__(self, drop: Callable[[str], None], on_ask: Callable[[Ring, int, Ask], None]) -> None:
        """`on_ask` is told for how long a member of a ring asks to be waited for, at that place of the order."""
        self._drop = drop
        self._on_ask = on_ask
        self._assembler = Assembler()
        self._sync_assembler = Assembler()
        self._pending: deque[tuple[Ring, list[bytes], Level] | Configuration] = deque()
        self.syncing_ring_id: RingId | None = None
        """The ring of the last regular configuration that was delivered; None once its sync is complete."""

    def flush(self, ring: Ring) -> None:
        """Queue what may be delivered on an installed ring: up to the first gap or unsafe message.

        Hot: once for each batch, with one look at each frame.
        """
        window = ring.window
        if ring.delivered == window.aru:
            return
        frames = window.frames
        batch: list[bytes] = []
        for seq in row_to(ring.delivered, window.aru):
            frame = frames[seq]
            if frame[GUARANTEE_OFFSET] and before(ring.safe_line, seq):
                break
            batch.append(frame)
            ring.delivered = seq
        self.add_frames(ring, batch, Level.SAFE)

    def add_frames(self, ring: Ring, frames: list[bytes], safe_level: Level) -> None:
        """Queue frames; their SAFE messages are delivered with `safe_level`."""
        if frames:
            self._pending.append((ring, frames, safe_level))

    def add_configuration(self, configuration: Configuration) -> None:
        """Queue a configuration."""
        self._pending.append(configuration)

    def take(self) -> Iterator[Delivery]:
        """Assemble and yield what is queued; only at that time it is known to which stream a frame belongs."""
        pending = self._pending
        while pending:
            item = pending.popleft()
            if isinstance(item, tuple):
                yield from self._assemble(*item)
            else:
                if isinstance(item, RegularConfiguration):
                    self.syncing_ring_id = item.ring_id
                    self._assembler.keep_only(item.transitional)
                    self._sync_assembler.keep_only(item.transitional)
                yield item

    def _assemble(self, ring: Ring, frames: list[bytes], safe_level: Level) -> Iterator[Messages]:
        """Yield the messages of consecutive frames. Hot: one turn for each frame that begins or ends a message."""
        ring_id = ring.id
        labels = ring.labels
        newest = FRAME_PLAIN if labels is None else FRAME_COMPACT
        agreed = Level.AGREED
        place = 0
        while place < len(frames):
            assembler = self._assembler if self.syncing_ring_id is None else self._sync_assembler
            if middles := assembler.take_middles(frames, place):
                place += middles
                continue
            frame = frames[place]
            place += 1
            origin, seq = codec.mcast_origin_and_seq(frame)
            if codec.mcast_is_encapsulated(frame):
                continue  # belongs to the recovery of this ring
            try:
                messages = assembler.take(origin, frame, newest)
            except MalformedDatagram as fault:
                if not codec.frame_is_control(frame):
                    self._drop(fault.cause)
                elif (ask := codec.decode_control(frame)) is not None:
                    self._on_ask(ring, origin, ask)
                continue
            level = safe_level if frame[GUARANTEE_OFFSET] else agreed
            if labels is None:
                if messages:
                    yield Messages(origin, ring_id, seq, level, messages)
                continue
            for label, run in labels.runs(origin, frame, messages, self._drop):
                yield Messages(origin, ring_id, seq, level, run, label)
