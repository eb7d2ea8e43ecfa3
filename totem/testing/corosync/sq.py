"""Sequence numbers and the sort queue, as in Corosync's `sq.h` and in `sq_lt_compare` of totemsrp.c."""

from __future__ import annotations

from collections import Counter

QUEUE_RTR_ITEMS_SIZE_MAX = 16384
MASK = 0xFFFFFFFF


def sq_lt_compare(a: int, b: int) -> bool:
    """Return whether sequence number `a` comes before `b`."""
    if a > 0x80000000 or b > 0x80000000:
        a, b = (a - 0x10000) & MASK, (b - 0x10000) & MASK
    return a < b


def sq_lte_compare(a: int, b: int) -> bool:
    """Return whether sequence number `a` comes before `b` or is equal to it."""
    return a == b or sq_lt_compare(a, b)


class SortQueue:
    """Messages by seq, in a window of 16384 that begins behind what has been released (`struct sq`)."""

    def __init__(self, head_seqid: int) -> None:
        self.head_seqid = head_seqid
        self.items: dict[int, bytes] = {}
        self.miss_count: Counter[int] = Counter()

    def in_range(self, seq: int) -> bool:
        """Return whether `seq` has a place in the window."""
        end = (self.head_seqid + QUEUE_RTR_ITEMS_SIZE_MAX) & MASK
        return not sq_lt_compare(seq, self.head_seqid) and sq_lt_compare(seq, end)

    def add(self, seq: int, item: bytes) -> None:
        """Add a message, in place of what was there."""
        self.items[seq] = item
        self.miss_count.pop(seq, None)

    def release(self, seq: int) -> None:
        """Drop everything up to `seq`."""
        while sq_lte_compare(self.head_seqid, seq):
            self.items.pop(self.head_seqid, None)
            self.miss_count.pop(self.head_seqid, None)
            self.head_seqid = (self.head_seqid + 1) & MASK
