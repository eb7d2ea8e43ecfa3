"""The frames of one ring by sequence number, its holes and its all-received-up-to line.

A `MessageWindow` knows nothing of what a frame is. It holds the frames between `released` (all members have everything
up to there, so it is forgotten here) and `high_seq` (the highest one held). `aru` is the end of the gapless part. A
frame enters once and leaves once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from totem.sequence import MASK, RANGE, before, row_to

_HALF = 0x80000000


class MessageWindow:
    """Frames by `seq`, from `first` (exclusive) on."""

    __slots__ = ("aru", "frames", "high_seq", "released")

    def __init__(self, first: int) -> None:
        self.frames: dict[int, bytes] = {}
        self.aru = first
        self.high_seq = first
        self.released = first

    def insert(self, seq: int, frame: bytes) -> bool:
        """Add a frame; return False if it is here already, was released, or is out of range.

        Hot: called for each multicast that comes alone or out of order, so differences are computed in place instead of
        calling `sequence`.
        """
        frames = self.frames
        expected = (self.aru + 1) & MASK
        if seq != expected:
            if seq in frames or not 0 < (seq - self.released) & MASK < RANGE or (self.aru - seq) & MASK < RANGE:
                return False
            frames[seq] = frame
            if (seq - self.high_seq) & MASK < _HALF:
                self.high_seq = seq
            return True
        if (seq - self.released) & MASK >= RANGE:
            return False
        frames[seq] = frame
        if self.high_seq == self.aru:
            self.high_seq = self.aru = seq
            return True
        while expected in frames:
            self.aru = expected
            expected = (expected + 1) & MASK
        return True

    def insert_all(self, seqs: Sequence[int], frames: Sequence[bytes]) -> None:
        """Add many frames, which mostly are a train: consecutive numbers, none of them here. Hot: no turn for each."""
        if len(seqs) == 1:
            self.insert(seqs[0], frames[0])
            return
        held = self.frames
        first, last = seqs[0], seqs[-1]
        if (
            last - first != len(seqs) - 1
            or list(seqs) != list(range(first, last + 1))
            or not 0 < (first - self.released) & MASK <= (last - self.released) & MASK < RANGE
            or (self.aru - first) & MASK < RANGE
            or not held.keys().isdisjoint(seqs)
        ):
            for seq, frame in zip(seqs, frames, strict=True):
                self.insert(seq, frame)
            return
        held.update(zip(seqs, frames, strict=True))
        if (last - self.high_seq) & MASK < _HALF:
            self.high_seq = last
        if first == (self.aru + 1) & MASK:
            self.aru = last
            while self.aru != self.high_seq and (expected := (self.aru + 1) & MASK) in held:
                self.aru = expected

    def get(self, seq: int) -> bytes | None:
        """Return the frame with this number, if it is held."""
        return self.frames.get(seq)

    def missing(self, end: int) -> Iterator[int]:
        """Yield the numbers up to and including `end` that are not here, in order."""
        for seq in row_to(self.aru, end):
            if seq not in self.frames:
                yield seq

    def between(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Yield the held frames with numbers after `start` up to and including `end`, in order."""
        for seq in row_to(start, end):
            frame = self.frames.get(seq)
            if frame is not None:
                yield seq, frame

    def release(self, end: int) -> None:
        """Forget everything up to and including `end`, which must not be above `aru`."""
        if before(self.released, end):
            frames = self.frames
            for seq in row_to(self.released, end):
                del frames[seq]
            self.released = end
