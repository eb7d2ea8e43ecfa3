"""The tests tested: each planted bug makes the test that is set on it fail, which without it passes."""

import pytest

from tests.cpg.replication.bugs import BUGS
from tests.sim.bugs import plant


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.source} {bug.name}".replace(" ", "-"))
def test_bug_is_killed(bug, monkeypatch):
    bug.hunter()
    plant(bug, monkeypatch)
    with pytest.raises((AssertionError, LookupError, ValueError)):
        bug.hunter()
