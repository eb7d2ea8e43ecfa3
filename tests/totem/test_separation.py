"""Separation: nodes that stay apart."""

from __future__ import annotations

from tests.totem.test_row_decisions import told
from totem.config import Config
from totem.rows import Parting
from totem.separation import Apart, Separation


def parted() -> Separation:
    """Return the view of node 2, which node 1 does not hear, while 3 hears both."""
    separation = Separation(Config.for_nodes(3), 2, {})
    rows = {1: told(1, {3}, {2}), 2: told(2, {1, 3}), 3: told(3, {1, 2})}
    separation.part(Parting(rows, [(1, 3)], ((1, 2),)))
    separation.install((2,), (), 10.0)
    return separation


def test_who_is_left_out_asks_no_part_of_the_others() -> None:
    assert not parted().newcomers((), (2,))


def test_a_node_that_is_apart_is_reported_with_its_reason() -> None:
    report = parted().report()
    assert report[1] == Apart(((1, 2),), 14.0)
    assert sorted(report) == [1, 3]


def test_whoever_has_asked_waits_longer_each_time() -> None:
    separation = parted()
    assert separation.may_ask_at({1}) == 14.0
    separation.ask(14.0)
    assert separation.may_ask_at({1}) == 18.0
    separation.ask(18.0)
    assert separation.may_ask_at({1}) == 26.0


def test_a_join_of_a_node_that_a_member_does_not_hear_does_not_count() -> None:
    """It does once the pause is over and the graph has changed; a pause alone changes nothing."""
    assert not parted().admits(1, (3,), (2,), 11.0)
    assert not parted().admits(1, (3,), (2,), 99.0)
