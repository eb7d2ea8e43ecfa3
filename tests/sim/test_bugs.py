"""Each planted bug makes its hunter fail, which passes without it."""

from __future__ import annotations

import pytest

from tests.sim.bugs import BUGS, Bug, plant


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.source} {bug.name}".replace(" ", "-"))
def test_bug_is_killed(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(bug, monkeypatch)
    with pytest.raises(AssertionError):
        bug.hunter()
