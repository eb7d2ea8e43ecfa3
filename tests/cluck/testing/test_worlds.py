"""Lock servers and clients in random worlds.

`python -m totem.testing.soak --application cluck.testing.world:SimulatedLocks` runs more of them.
"""

import os
import subprocess
import sys
from collections import Counter

import pytest

from cluck.testing.world import RARE, SimulatedLocks
from totem.testing.soak import World, Worlds

WORLDS = Worlds(range(3, 8), application="cluck.testing.world:SimulatedLocks")
PAIRS = Worlds(range(2, 3), application="cluck.testing.world:SimulatedLocks")
TELL = """
import hashlib, sys
from cluck.testing.world import SimulatedLocks
from totem.testing.soak import World

for seed in sys.argv[1:]:
    world = World(int(seed), range(3, 8), [], programs=SimulatedLocks())
    world.run()
    print(hashlib.sha256(repr([trace.events for trace in world.cluster.traces]).encode()).hexdigest())
"""


@pytest.mark.parametrize("seed", range(16))
def test_locks_keep_their_promises(seed):
    outcome = WORLDS.run_world(seed)
    assert not outcome.violations, f"{outcome.violations[0]}; replay: {WORLDS.replay(seed)}"


@pytest.mark.parametrize("seed", range(10))
def test_two_nodes_keep_them_too(seed):
    outcome = PAIRS.run_world(seed)
    assert not outcome.violations, f"{outcome.violations[0]}; replay: {PAIRS.replay(seed)}"


def test_rare_things_happen():
    """Everything that worlds are to try happens in some of them, or the dice have to be loaded anew."""
    marks = Counter()
    for seed in range(100, 160):
        locks = SimulatedLocks()
        World(seed, range(2, 5), programs=locks).run()
        marks += locks.marks
        if len(marks) == len(RARE):
            break
    assert marks.keys() == RARE


def test_a_world_goes_the_same_way_in_each_process():
    """Whatever the hashes of names are there; otherwise a seed could not be replayed."""
    ways = [
        subprocess.run(
            [sys.executable, "-c", TELL, "3", "5", "10"],
            env={**os.environ, "PYTHONHASHSEED": hashes},
            capture_output=True,
            check=True,
        ).stdout
        for hashes in ("1", "2")
    ]
    assert ways[0] == ways[1]
