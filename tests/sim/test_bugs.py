"""The tests tested: each planted bug makes the hunt that is set on it fail, which without it passes."""

from __future__ import annotations

import pytest

from tests.sim.bugs import BUGS, Bug, plant


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.source} {bug.name}".replace(" ", "-"))
def test_bug_is_killed(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(bug, monkeypatch)
    with pytest.raises(AssertionError):
        bug.hunter()
