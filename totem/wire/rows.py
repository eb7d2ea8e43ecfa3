"""The bytes of rows: who hears whom, in the hint behind a Join's lists. Nodes of another make do not read them.

A table of node ids, then the rows. A row names other nodes by bits, in the order of the table::

    count; as many node ids
    for each row: place of its node in the table; incarnation; number; votes; its ring; hears, lacks, linked, unlinked
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from itertools import pairwise
from struct import Struct
from typing import Final

from totem.configuration import RingId
from totem.wire.messages import Row

MOST_ROWS: Final = 24
"""Nodes whose rows fit into one packet behind a Join. With more nodes than these no rows are sent."""
_ROW: Final = Struct("<BQIIIQ")  # place, incarnation, number, votes, ring: representative and sequence
_SETS: Final = 4

assert _ROW.size == 29


def encode_rows(rows: Collection[Row]) -> bytes:
    """Write rows that name at most `MOST_ROWS` nodes."""
    table = sorted({row.node_id for row in rows}.union(*(named for row in rows for named in row.sets)))
    assert len(table) <= MOST_ROWS
    place = {node_id: index for index, node_id in enumerate(table)}
    width = (len(table) + 7) // 8
    parts = [struct.pack(f"<B{len(table)}I", len(table), *table)]
    for row in rows:
        head = (row.incarnation, row.number, row.votes, *row.ring_id)
        parts.append(_ROW.pack(place[row.node_id], *head))
        parts += (sum(1 << place[node_id] for node_id in named).to_bytes(width, "little") for named in row.sets)
    return b"".join(parts)


def decode_rows(block: bytes) -> tuple[Row, ...]:
    """Read rows. Raises struct.error where they are malformed, contradict themselves, or are too many."""
    (count,) = struct.unpack_from("<B", block)
    if not 0 < count <= MOST_ROWS:
        raise struct.error("too many nodes in rows")
    table = struct.unpack_from(f"<{count}I", block, 1)
    if not table[0] or any(low >= high for low, high in pairwise(table)):
        raise struct.error("nodes of rows out of order")
    width = (count + 7) // 8
    size = _ROW.size + _SETS * width
    start = 1 + 4 * count
    found, rest = divmod(len(block) - start, size)
    if rest or found > count:
        raise struct.error("a row is cut, or one too many")
    rows = []
    for offset in range(start, len(block), size):
        place, incarnation, number, votes, representative, ring_seq = _ROW.unpack_from(block, offset)
        if place >= count:
            raise struct.error("a row of nobody")
        ends = range(offset + _ROW.size, offset + size, width)
        sets = [_named(table, int.from_bytes(block[at : at + width], "little")) for at in ends]
        row = Row(table[place], incarnation, number, votes, RingId(representative, ring_seq), *sets)
        if row.hears & row.lacks or row.linked & row.unlinked:
            raise struct.error("a row contradicts itself")
        rows.append(row)
    if len({row.node_id for row in rows}) != len(rows):
        raise struct.error("two rows of one node")
    return tuple(rows)


def _named(table: tuple[int, ...], bits: int) -> frozenset[int]:
    return frozenset(node_id for index, node_id in enumerate(table) if bits >> index & 1)
