"""A short run of the attack on links: it works, and reaches most causes."""

from tests.totem.links import fuzz_links


def test_a_short_run():
    drops = fuzz_links.run(runs=3000, seed=1)
    assert len(drops) > 10
    assert min(drops["sealed otherwise"], drops["unlisted address"], drops["address of another node"]) > 100


def test_a_run_is_decided_by_its_seed():
    assert fuzz_links.run(runs=50, seed=7) == fuzz_links.run(runs=50, seed=7)
