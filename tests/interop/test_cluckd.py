"""Lock servers on real nodes, through libcpg: no message is SAFE there, so acknowledgements make a command final."""

import signal

import pytest

from cluck.commands import Release
from cluck.protocol import Farewell, Goodbye, LockHeld
from tests.cluck.daemon.processes import Cluckd

LEASE = {"lease": 2.0, "grace": 1.0}


@pytest.fixture
async def daemons(mixed_ring, tmp_path):
    ring = mixed_ring(3, token=1000)
    await ring.start_corosync(1, 2, 3)
    await ring.wait_ring(1, 2, 3)
    options = ("--backend", "corosync", "--servers", "1,2,3")
    found = {k: Cluckd(tmp_path, k, *options, prefix=ring.place(k).command()) for k in (1, 2, 3)}
    for daemon in found.values():
        daemon.start()
    for daemon in found.values():
        await daemon.running()
    yield ring, found
    for daemon in found.values():
        daemon.close()


async def test_a_lock_is_passed_on_and_its_holders_node_may_be_lost(daemons):
    ring, found = daemons
    one, two = [await found[k].speaker().greet() for k in (1, 2)]
    one.acquire(b"backup", **LEASE)
    first = await one.hear(LockHeld)
    two.acquire(b"backup", **LEASE)
    one.say(Release(first.request, first.token))
    second = await two.hear(LockHeld)
    three = await found[3].speaker().greet()
    three.acquire(b"backup", **LEASE)
    ring.kill_corosync(2)
    third = await three.hear(LockHeld)
    assert first.token < second.token < third.token
    assert (await two.hear(Goodbye)).why is Farewell.ENDING  # its daemon has no ring any more
    assert await two.hear(Goodbye) is None
    await ring.start_corosync(2)
    await found[2].running()
    again = await found[2].speaker().greet()
    three.say(Release(third.request, third.token))
    again.acquire(b"backup")
    assert (await again.hear(LockHeld)).token > third.token
    for k in (1, 2, 3):
        code, _ = await found[k].end(signal.SIGTERM)
        assert code == 0
