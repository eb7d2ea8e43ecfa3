"""Rings whose nodes do not all hear each other: one change for each cut, then quiet (rulings, F7)."""

from __future__ import annotations

from functools import partial

import pytest

from tests.sim.scenarios import judge
from totem.config import Config
from totem.testing import hearing_patterns
from totem.testing.cluster import Cluster, SimulatedNode
from totem.testing.hearing_patterns import Patterns, sample
from totem.testing.reforms import Reforms


def ring_of_five() -> Cluster:
    cluster = Cluster(5, config=Config.for_nodes(5, token=0.6, consensus=0.3))
    cluster.start()
    cluster.form()
    cluster.run_for(3)
    return cluster


@pytest.mark.parametrize("ways", [[(1, 2)], [(1, 2), (2, 1)], [(5, 1)]])
def test_neighbours_that_do_not_hear_each_other_cost_one_change_each_way(ways: list[tuple[int, int]]) -> None:
    cluster = ring_of_five()
    reforms = Reforms(cluster)
    for source, target in ways:
        cluster.network.cut([source], [target])
    cluster.run_for(60)
    assert set(reforms.counts().values()) == {1}
    out = 5 if 5 in ways[0] else 2
    assert cluster.one_ring(*(set(range(1, 6)) - {out}))
    reforms = Reforms(cluster)
    cluster.network.heal()
    cluster.run_for(30)
    assert set(reforms.counts().values()) == {1}
    judge(cluster)


def test_others_that_do_not_hear_each_other_cost_nothing() -> None:
    cluster = ring_of_five()
    reforms = Reforms(cluster)
    cluster.network.cut([1, 4], [1, 4])
    cluster.run_for(40)
    assert set(reforms.counts().values()) == {0}
    judge(cluster)


def test_others_that_do_not_hear_each_other_are_named_once_and_when_they_do_again() -> None:
    cluster = ring_of_five()
    said: list[tuple[int, str]] = []

    def note(node: SimulatedNode, name: str, *details: object) -> None:
        if name in ("notice", "remark"):
            said.append((node.node_id, str(details[0])))

    for node in cluster.running:
        assert node.machine is not None
        node.machine.diagnostics._trace = partial(note, node)
    cluster.network.cut([1], [4])
    cluster.run_for(40)
    both = "the ring goes on with both, and others send again what is lost between them"
    assert sorted(said) == [
        (1, f"node 4 does not hear this node: {both}"),
        (4, f"this node does not hear node 1: {both}"),
    ]
    said.clear()
    cluster.network.heal()
    cluster.run_for(5)
    assert sorted(said) == [(n, f"node {5 - n} and this node hear each other again") for n in (1, 4)]


def test_a_process_that_ends_is_not_called_unheard() -> None:
    cluster = ring_of_five()
    said: list[str] = []
    for node in cluster.running:
        assert node.machine is not None
        node.machine.diagnostics._trace = lambda name, *details: said.append(str(details)) if name == "notice" else None
    cluster.network.cut([3], [1, 2, 4, 5])
    cluster.network.cut([1, 2, 4, 5], [3])
    cluster.run_for(10)
    assert not [text for text in said if "goes on with both" in text]


def test_a_node_that_hears_nobody_is_out_once() -> None:
    cluster = ring_of_five()
    reforms = Reforms(cluster)
    cluster.network.cut([1, 2, 4, 5], [3])
    cluster.run_for(60)
    assert set(reforms.counts().values()) == {1}
    assert cluster.one_ring(1, 2, 4, 5)
    cluster.network.heal()
    cluster.run_for(30)
    judge(cluster)


def test_a_link_that_flaps_costs_few_changes() -> None:
    cluster = ring_of_five()
    reforms = Reforms(cluster)
    for _ in range(30):
        cluster.network.cut([1, 2], [1, 2])
        cluster.run_for(1)
        cluster.network.heal()
        cluster.run_for(1)
    assert max(set(reforms.counts().values())) <= 8
    cluster.run_for(90)
    judge(cluster)


@pytest.mark.parametrize("pattern", sample(5, 0, 8))
def test_patterns_of_who_hears_whom(pattern: int) -> None:
    """Some of all; `python -m totem.testing.hearing_patterns` runs as many as you like."""
    assert Patterns().run_pattern(pattern).faults == ()


def test_the_command_names_what_replays_a_pattern(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hearing_patterns.main(["--nodes", "3", "--sample", "2"]) == 0
    monkeypatch.setattr(hearing_patterns, "check", lambda history: ["made up"])
    assert hearing_patterns.main(["--nodes", "3", "--pattern", "5"]) == 1
    assert "hearing_patterns --nodes 3 --seed 0 --hold 20 --verbose --pattern 5" in capsys.readouterr().out
