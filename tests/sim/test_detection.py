"""Silent and late machines, and a few of the worlds of `totem.testing.detection`."""

import pytest

from tests.sim.detection_scenarios import SCENARIOS
from totem.testing import detection
from totem.testing.detection import main


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_scenario(scenario):
    scenario()


@pytest.mark.parametrize("what", ["load", "embedded"])
def test_a_late_node_is_left_alone(what, capsys, monkeypatch):
    monkeypatch.setattr(detection, "_WORLD", {"load": 10.0, "embedded": 60.0})
    assert main(["--what", what, "--hours", "0"]) == 0
    assert "0 rings changed without a reason" in capsys.readouterr().out


def test_it_measures_silent_machines(capsys):
    assert main(["--what", "silent", "--worlds", "2"]) == 0
    assert "3 nodes: a silent machine is out after 0." in capsys.readouterr().out
