"""Lock servers and clients in random worlds: `python -m totem.testing.soak --application cluck.programs:Locks`."""

import pytest

from totem.testing.soak import Worlds

WORLDS = Worlds(range(3, 8), application="cluck.programs:Locks")


@pytest.mark.parametrize("seed", range(24))
def test_locks_keep_their_promises(seed):
    outcome = WORLDS.run_world(seed)
    assert not outcome.violations, f"{outcome.violations[0]}; replay: {WORLDS.replay(seed)}"
