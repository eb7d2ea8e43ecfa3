"""Rows: when a node counts as not heard. What follows from whole rows is in test_partition and in tests/sim."""

from totem.config import Config
from totem.configuration import RingId
from totem.rows import Rows
from totem.wire.messages import Join, Row

JOIN = Config.for_nodes(3).join
RING = RingId(1, 8)


def rows_of_node_1(consensus: float = 0.0) -> Rows:
    rows = Rows(Config.for_nodes(3), 1, 8)
    rows.begin(RING)
    rows.expect((1, 2, 3), consensus, 0.0)
    return rows


def row(node_id: int, number: int) -> Row:
    none: frozenset[int] = frozenset()
    return Row(node_id, 8, number, 1, RING, none, none, none, none)


def tell(rows: Rows, origin: int, told: tuple[Row, ...], now: float) -> None:
    rows.note_arrival(origin, told)
    rows.hear(Join(origin, origin, 8, (1, 2, 3), ()), told, now)


def own(rows: Rows, now: float) -> Row:
    published = rows.publish({}, now)
    assert published is not None
    return published[0]


def test_a_late_node_is_heard_still() -> None:
    rows = rows_of_node_1(consensus=10 * JOIN)
    tell(rows, 2, (row(2, 5),), 0.0)
    assert own(rows, 0.0).hears == {2}
    for step in range(1, 6):
        tell(rows, 3, (row(3, step), row(2, 5)), step * JOIN)
    assert own(rows, 5 * JOIN).hears == {2, 3}


def test_a_node_whose_joins_reach_others_alone_is_not_heard() -> None:
    rows = rows_of_node_1(consensus=10 * JOIN)
    tell(rows, 2, (row(2, 5),), 0.0)
    assert own(rows, 0.0).hears == {2}
    for step in range(1, 6):
        tell(rows, 3, (row(3, step), row(2, 5 + step)), step * JOIN)
    said = own(rows, 5 * JOIN)
    assert (said.hears, said.lacks) == ({3}, {2})


def test_time_alone_is_no_sign() -> None:
    rows = rows_of_node_1(consensus=20 * JOIN)
    tell(rows, 2, (row(2, 5),), 0.0)
    assert own(rows, 0.0).hears == {2}
    tell(rows, 3, (row(3, 1), row(2, 5)), 14 * JOIN)
    assert own(rows, 14 * JOIN).hears == {2, 3}


def test_who_goes_on_without_this_node_is_not_heard_any_more() -> None:
    rows = rows_of_node_1(consensus=10 * JOIN)
    rows.hear(Join(2, 2, 8, (1, 2, 3), (1,)), (row(2, 5),), 0.0)
    assert own(rows, 0.0).hears == {2}
    assert own(rows, 4 * JOIN).lacks == {2}


def test_a_join_that_was_dropped_has_come_all_the_same() -> None:
    rows = rows_of_node_1(consensus=10 * JOIN)
    tell(rows, 2, (row(2, 5),), 0.0)
    assert own(rows, 0.0).hears == {2}
    rows.note_arrival(2, (row(2, 10),))
    for step in range(1, 6):
        tell(rows, 3, (row(3, step), row(2, 5 + step)), step * JOIN)
    assert own(rows, 5 * JOIN).hears == {2, 3}


def test_who_says_no_more_is_silent_later_where_the_ring_waits_longer() -> None:
    for consensus, silent in ((0.0, True), (20 * JOIN, False)):
        rows = rows_of_node_1(consensus)
        tell(rows, 2, (row(2, 5),), 0.0)
        assert rows.is_silent(2, 6 * JOIN) is silent
