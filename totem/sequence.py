"""32-bit sequence numbers, and how they wrap; no other module handles the wrap.

`seq` (messages of a ring) and `token_seq` (hops of its token) count modulo 2**32. Their order is Corosync's comparison
(`exec/totemsrp.c`, sq_lt_compare): when either number is above 2**31, 65536 is subtracted from both first. Numbers that
are compared are always closer than 16384. Within 65536 of each other that comparison equals the sign of the difference.
"""

from __future__ import annotations

from collections.abc import Sequence

MASK = 0xFFFFFFFF
_HALF = 0x80000000
_ROLLOVER = 0x10000

RANGE = 16384
"""Live sequence numbers of one ring are never further apart; real nodes assert it (wire: 16384 messages)."""


def before(a: int, b: int) -> bool:
    """Return whether `a` comes before `b`."""
    if a > _HALF or b > _HALF:
        return ((a - _ROLLOVER) & MASK) < ((b - _ROLLOVER) & MASK)
    return a < b


def up_to(a: int, b: int) -> bool:
    """Return whether `a` comes before `b` or is equal to it."""
    return a == b or before(a, b)


def earlier(a: int, b: int) -> int:
    """Return the earlier of two numbers."""
    return a if up_to(a, b) else b


def later(a: int, b: int) -> int:
    """Return the later of two numbers."""
    return b if up_to(a, b) else a


def distance(start: int, end: int) -> int:
    """Return the steps from `start` forward to `end`, modulo 2**32."""
    return (end - start) & MASK


def after(seq: int, steps: int = 1) -> int:
    """Return the number `steps` after `seq`."""
    return (seq + steps) & MASK


def row(start: int, count: int) -> Sequence[int]:
    """Return the next `count` numbers after `start`, in order. Hot: nearly always a plain range."""
    end = start + count
    return range(start + 1, end + 1) if end <= MASK else [after(start, steps) for steps in range(1, count + 1)]


def row_to(start: int, end: int) -> Sequence[int]:
    """Return the numbers after `start` up to and including `end`; none if `end` is not within the range after it."""
    count = distance(start, end)
    return row(start, count) if count < RANGE else ()
