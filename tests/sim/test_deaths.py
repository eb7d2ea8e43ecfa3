"""Processes that end: who is out how soon, and who is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.sim import death_scenarios as scenarios

SCENARIOS = [
    scenarios.a_process_that_ended_is_out_soon,
    scenarios.several_that_ended_are_out_soon,
    scenarios.a_silent_machine_is_left_to_the_timeouts,
    scenarios.a_ring_with_a_real_node_goes_by_its_rules,
    scenarios.who_is_behind_a_firewall_that_rejects_stays,
    scenarios.a_paused_process_stays_though_refusals_are_forged,
    scenarios.forged_refusals_cost_few_pings,
    scenarios.who_is_restarted_at_once_left_and_joined,
    scenarios.a_member_says_once_whose_process_ended,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_scenario(scenario: Callable[[], None]) -> None:
    scenario()


@pytest.mark.parametrize("seed", range(12))
def test_random_world(seed: int) -> None:
    scenarios.World(seed).run()
