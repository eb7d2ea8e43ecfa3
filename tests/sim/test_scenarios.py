"""Named scenarios, and a bounded number of random worlds."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.sim.scenarios import SCENARIOS
from totem.testing import soak


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_scenario(scenario: Callable[[], None]) -> None:
    scenario()


@pytest.mark.parametrize("mixed", [False, True], ids=["pure", "mixed"])
@pytest.mark.parametrize("start", range(0, 120, 20))
def test_random_worlds(start: int, mixed: bool) -> None:
    """Some seeds of the soak; `python -m totem.testing.soak` runs as many as you like."""
    worlds = soak.Worlds(range(3, 8), mixed=mixed)
    for seed in range(start, start + 20):
        outcome = worlds.run_world(seed)
        assert outcome.violations == [], f"seed {seed}"


def test_a_seed_decides_everything() -> None:
    first, second = (soak.Worlds(range(3, 8)).run_world(7) for _ in range(2))
    assert first == second
    assert first.rings > 1


def test_the_command_counts_and_names_what_replays_a_violation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert soak.main(["--seeds", "3:6", "--nodes", "3"]) == 0
    assert re.fullmatch(r"3 worlds, \d+ membership changes, 0 violations", capsys.readouterr().out.splitlines()[-1])
    monkeypatch.setattr(soak, "check", lambda history: [soak.Violation("4", "made up")])
    assert soak.main(["--seeds", "3:4", "--nodes", "3:5"]) == 1
    output = capsys.readouterr().out
    assert "seed 3: clause 4: made up" in output
    assert "python -m totem.testing.soak --nodes 3:5 --verbose --seeds 3:4" in output
    assert output.splitlines()[-1].endswith("1 violations")
