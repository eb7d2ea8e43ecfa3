"""Rows: what a node believes of who hears whom, and when it decides."""

from __future__ import annotations

from totem.config import Config
from totem.configuration import RingId
from totem.rows import Rows
from totem.wire.messages import Join, Row

OLD = RingId(1, 8)
EVERYBODY = (1, 2, 3)


def told(node_id: int, hears: set[int], lacks: set[int] | None = None, number: int = 1) -> Row:
    none: frozenset[int] = frozenset()
    return Row(node_id, 5, number, 1, OLD, frozenset(hears), frozenset(lacks or ()), none, none)


def rows_of_node_1() -> Rows:
    rows = Rows(Config.for_nodes(3), 1, 5)
    rows.begin(OLD)
    rows.expect(EVERYBODY, 1.0, 0.0)
    return rows


def test_what_others_tell_of_a_node_that_is_heard_does_not_count() -> None:
    rows = rows_of_node_1()
    rows.hear(Join(2, 2, 8, EVERYBODY, ()), [told(2, {1, 3})], 0.1)
    forged = told(2, set(), {1, 3}, number=9)
    rows.hear(Join(3, 3, 8, EVERYBODY, ()), [told(3, {1, 2}), forged], 0.1)
    assert rows.is_complete(EVERYBODY, 0.1)


def test_a_part_is_certain_when_all_of_it_have_told_the_same() -> None:
    rows = rows_of_node_1()
    own = told(1, {2, 3})
    two, three = told(2, {1}, {3}), told(3, {1}, {2})
    rows.hear(Join(3, 3, 8, EVERYBODY, ()), [three, own, two], 0.1)
    rows.hear(Join(2, 2, 8, EVERYBODY, ()), [two], 0.1)
    assert rows.decide(EVERYBODY, (), 0.1) is None
    rows.hear(Join(2, 2, 8, EVERYBODY, ()), [two, own, three], 0.1)
    assert rows.decide(EVERYBODY, (), 0.1) == {1, 2}
