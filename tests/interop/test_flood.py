"""`cpgflood` on real nodes and `cpg flood` on ours in one group, as fast as they may: one order, and no new ring."""

import json
import sys

import pytest
import trio

from tests.interop.test_membership import long

PATIENCE = 120


async def flood(ring, real, cpgflood, *options):
    """Have a process on each node send; return their reports, and how many rings a real node had while they did."""
    reports = []

    async def run(k, *command):
        done = await trio.run_process(ring.place(k).command(*command), capture_stdout=True)
        reports.append(json.loads(done.stdout))

    common = ("-g", "flood", "-n", len(ring.config), "-t", 2, *options)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for k, config in ring.config.items():
                if k in real:
                    nursery.start_soon(run, k, cpgflood, *common)
                else:
                    place = ("--socket", ring.socket(k)) if ring.served else ("-c", config, "--node", k)
                    ours = (sys.executable, "-m", "cpg", "flood", *place)
                    nursery.start_soon(run, k, *ours, *common)
    return reports


@pytest.mark.parametrize(
    ("places", "real"),
    [(3, (1, 2)), long(3, (2, 3)), long(3, (2,)), long(5, (1, 3, 5))],
    ids=["2+1", "1+2", "1+1+1", "3+2"],
)
async def test_all_see_one_order(mixed_ring, cpgflood, places, real):
    ring = mixed_ring(places, quorum=())
    await ring.start_corosync(*real)
    async with trio.open_nursery() as nursery:
        await all_see_one_order(ring, nursery, real, cpgflood)
        nursery.cancel_scope.cancel()


async def test_all_see_one_order_through_daemons(mixed_ring, cpgflood):
    ring = mixed_ring(3, quorum=(), served=True)
    await ring.start_corosync(2)
    async with trio.open_nursery() as nursery:
        await all_see_one_order(ring, nursery, (2,), cpgflood)
        nursery.cancel_scope.cancel()


async def all_see_one_order(ring, nursery, real, cpgflood):
    """Flood with short and long messages, on real nodes and ours."""
    if ring.served:
        for k in set(ring.config) - set(real):
            await ring.start_daemon(nursery, k)
        await ring.wait_ring(*ring.config)
    for size in (64, 5000):
        reports = await flood(ring, real, cpgflood, "-s", size)
        assert len({report["order"] for report in reports}) == 1, reports
        assert len({report["delivered"] for report in reports}) == 1
        assert all(report["confchgs"] == 0 for report in reports)
        assert all(not ring.complaints(k) for k in real)
