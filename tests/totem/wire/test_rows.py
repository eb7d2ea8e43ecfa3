"""The bytes of rows in a Join's hint."""

import random
import struct

import pytest

from totem.config import Config
from totem.configuration import RingId
from totem.wire import codec
from totem.wire.codec import Hint
from totem.wire.messages import Join, Row
from totem.wire.rows import MOST_ROWS, decode_rows, encode_rows

SETS = ("hears", "lacks", "linked", "unlinked")


def row(node_id, hears=(), lacks=(), linked=(), unlinked=(), **more):
    head = {"incarnation": 5, "number": 7, "votes": 1, "ring_id": RingId(1, 40), **more}
    return Row(node_id, **head, **dict(zip(SETS, map(frozenset, (hears, lacks, linked, unlinked)), strict=True)))


def full(count):
    nodes = set(range(1000, 1000 + count))
    return [row(node, nodes - {node}, (), nodes - {node}) for node in sorted(nodes)]


def test_rows_come_back_as_they_were():
    rows = (row(3, {1, 2}, {9}, {1}, {2, 9}), row(1), row(2, votes=4, incarnation=1 << 60))
    assert decode_rows(encode_rows(rows)) == rows
    hint = Hint("cluster", 1400, 3, rows=rows)
    assert codec.decode_hint(codec.encode_hint(hint)) == hint


def test_a_join_with_as_many_rows_as_there_may_be_is_one_packet():
    rows = tuple(full(MOST_ROWS))
    hint = codec.encode_hint(Hint("c" * 64, 1400, 3, frozenset(range(24)), rows))
    join = Join(1000, 1000, 8, tuple(row.node_id for row in rows), (), hint)
    assert len(codec.encode(join)) <= Config.for_nodes(3).max_frame


def test_a_hint_without_rows_says_so():
    assert codec.decode_hint(codec.encode_hint(Hint("cluster", 1400, 3))).rows is None


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\0",
        encode_rows(full(3))[:-1],
        encode_rows(full(3)) + b"\0",
        bytes([MOST_ROWS + 1]) + bytes(4 * 30),
        struct.pack("<B2I", 2, 5, 5),
        struct.pack("<B2I", 2, 0, 5),
        struct.pack("<BI", 1, 5) + struct.pack("<BQIIIQ4B", 1, 1, 1, 1, 1, 1, 0, 0, 0, 0),
        encode_rows([row(1, {2}, {2})]),
        encode_rows([row(1, linked={2}, unlinked={2})]),
        encode_rows([row(1)]) + encode_rows([row(1)])[5:],
    ],
)
def test_malformed_rows_are_none_and_the_hint_stays(broken):
    with pytest.raises(struct.error):
        decode_rows(broken)
    hint = codec.encode_hint(Hint("cluster", 1400, 3))
    with_rows = hint + struct.pack("<HH", 11, len(broken)) + broken
    assert codec.decode_hint(with_rows) == Hint("cluster", 1400, 3)


def test_no_bytes_do_more_than_raise():
    dice = random.Random(3)
    whole = encode_rows(full(5))
    for _ in range(3000):
        damaged = bytearray(whole[: dice.randrange(len(whole) + 1)])
        for _ in range(dice.randrange(4)):
            if damaged:
                damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        try:
            rows = decode_rows(bytes(damaged))
        except struct.error:
            continue
        assert len({row.node_id for row in rows}) == len(rows) <= MOST_ROWS
