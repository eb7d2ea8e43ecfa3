"""A short run of the fuzz target: it works, and reaches most causes."""

from tests.totem.wire import fuzz_wire
from tests.totem.wire.test_hostile import CAUSES


def test_a_short_run():
    found = fuzz_wire.run(runs=3000, seed=1)
    assert found["valid"] > 300
    assert set(found) - {"valid"} <= CAUSES
    assert len(found) > len(CAUSES) / 2


def test_a_run_is_decided_by_its_seed():
    assert fuzz_wire.run(runs=100, seed=7) == fuzz_wire.run(runs=100, seed=7)
