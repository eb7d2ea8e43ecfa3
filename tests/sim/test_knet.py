"""Rings over knet in virtual time: scenarios of the links, those of every ring, random worlds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.sim import knet_scenarios
from tests.sim.scenarios import SCENARIOS
from totem.config import Config
from totem.testing import soak

MAKES = pytest.mark.parametrize("foreign", [(), (1,), (2,), (1, 3)], ids=lambda foreign: f"real nodes {foreign}")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_scenario_of_every_ring(scenario: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    for_nodes: Any = Config.for_nodes

    def over_knet(count: int, **settings: object) -> Config:
        config: Config = for_nodes(count, **{"transport": "knet", **settings})
        return config

    monkeypatch.setattr(Config, "for_nodes", over_knet)
    scenario()


@pytest.mark.parametrize("link_mode", ["passive", "active", "rr"])
@MAKES
def test_one_of_two_links_may_fail(foreign: tuple[int, ...], link_mode: str) -> None:
    knet_scenarios.one_of_two_links_may_fail(*foreign, link_mode=link_mode)


@MAKES
def test_a_path_that_carries_less_is_found(foreign: tuple[int, ...]) -> None:
    knet_scenarios.a_path_that_carries_less_is_found(*foreign)


@MAKES
def test_an_mtu_that_the_computer_knows_is_used_at_once(foreign: tuple[int, ...]) -> None:
    knet_scenarios.an_mtu_that_the_computer_knows_is_used_at_once(*foreign)


@MAKES
def test_keys_change_under_load(foreign: tuple[int, ...]) -> None:
    knet_scenarios.keys_change_under_load(*foreign)


@pytest.mark.parametrize("foreign", [(), (1,), (2,)])
def test_a_restarted_node_is_heard_at_once(foreign: tuple[int, ...]) -> None:
    knet_scenarios.a_restarted_node_is_heard_at_once(*foreign)


@pytest.mark.parametrize(
    "scenario",
    [
        knet_scenarios.a_link_is_up_with_the_third_pong,
        knet_scenarios.pongs_that_nobody_asked_for_bring_nothing_up,
        knet_scenarios.numbers_go_round_without_zero,
        knet_scenarios.arrivals_agree_with_libknet,
    ],
    ids=lambda scenario: scenario.__name__,
)
def test_scenario(scenario: Callable[[], None]) -> None:
    scenario()


@pytest.mark.parametrize("mixed", [False, True], ids=["pure", "mixed"])
def test_random_worlds(mixed: bool) -> None:
    """Some seeds of the soak; `python -m totem.testing.soak --transport knet` runs as many as you like."""
    worlds = soak.Worlds(range(3, 5), mixed=mixed, links=range(1, 3))
    for seed in range(8):
        outcome = worlds.run_world(seed)
        assert outcome.violations == [], f"seed {seed}"


def test_a_seed_decides_everything() -> None:
    first, second = (soak.Worlds(range(3, 5), links=range(1, 4)).run_world(3) for _ in range(2))
    assert first == second


def test_the_command_says_what_replays_a_world(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "check", lambda history: [soak.Violation("4", "made up")])
    assert soak.main(["--transport", "knet", "--links", "2", "--seeds", "3:4", "--nodes", "3"]) == 1
    assert "soak --nodes 3:3 --transport knet --links 2:2 --verbose --seeds 3:4" in capsys.readouterr().out
