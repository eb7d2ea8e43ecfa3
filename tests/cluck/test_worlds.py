"""Lock servers and clients in random worlds: `python -m totem.testing.soak --application cluck.programs:Locks`."""

import pytest

from totem.testing.soak import Worlds

WORLDS = Worlds(range(3, 8), application="cluck.programs:Locks")
PAIRS = Worlds(range(2, 3), application="cluck.programs:Locks")


@pytest.mark.parametrize("seed", range(24))
def test_locks_keep_their_promises(seed):
    outcome = WORLDS.run_world(seed)
    assert not outcome.violations, f"{outcome.violations[0]}; replay: {WORLDS.replay(seed)}"


@pytest.mark.parametrize("seed", range(12))
def test_two_nodes_keep_them_too(seed):
    outcome = PAIRS.run_world(seed)
    assert not outcome.violations, f"{outcome.violations[0]}; replay: {PAIRS.replay(seed)}"
