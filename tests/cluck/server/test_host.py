"""A lock server on a group of a virtual ring: three of them grant, survive a crash, and stop in a minority."""

from contextlib import asynccontextmanager

import pytest
import trio

from cluck.commands import Acquire, Ended, Owner, Release, RequestId
from cluck.protocol import VERSION, Hello, LockHeld, Readiness, Renounced, Welcome
from cluck.server.host import Host
from cpg.events import Confchg, Reason
from cpg.local.program import sole
from cpg.replication.electorate import Electorate
from cpg.replication.replica import ReplicaSettings
from cpg.testing import World
from totem.errors import RingLost

SETTINGS = ReplicaSettings(electorate=Electorate({1: 1, 2: 1, 3: 1}))


class Memory:
    """A disk."""

    def __init__(self):
        self.record = None

    def load(self):
        return self.record

    async def save(self, record):
        self.record = record


class Talker:
    """A client of a host, and what it was told."""

    def __init__(self, host):
        self.host = host
        self.told = []
        self.connection = host.connect(self.told.append)
        self.say(Hello(VERSION))
        self.client = self.told[0].client
        self.count = 0

    def say(self, said):
        self.connection.receive([said], self.host.clock())
        self.host.work_soon()

    def acquire(self, name, **options):
        self.count += 1
        request = RequestId(Owner(self.client, 0), self.count)
        self.say(Acquire(request, name, **options))
        return request

    async def hear(self, kind):
        with trio.fail_after(60):
            while not any(type(said) is kind for said in self.told):
                await trio.sleep(0.01)
        said = next(said for said in self.told if type(said) is kind)
        self.told.remove(said)
        return said


@asynccontextmanager
async def serving(world, node, disk, settings=SETTINGS):
    async with world.open_ring(node) as ring, ring.join("cluck") as group, trio.open_nursery() as nursery:
        host = Host(group, settings, disk, clock=trio.current_time)
        nursery.start_soon(host.run)
        yield host
        nursery.cancel_scope.cancel()


@pytest.fixture
def disks():
    return {node: Memory() for node in (1, 2, 3)}


async def test_three_grant_and_hand_over(autojump_clock, disks):
    world = World(3)
    async with serving(world, 1, disks[1]) as one, serving(world, 2, disks[2]) as two, serving(world, 3, disks[3]):
        a, b = Talker(one), Talker(two)
        assert isinstance(a.told[0], Welcome)
        first = a.acquire(b"lock")
        held = await a.hear(LockHeld)
        assert held.request == first
        assert held.deadline > trio.current_time()
        b.acquire(b"lock")
        await trio.sleep(1)
        assert not any(isinstance(said, LockHeld) for said in b.told)
        a.say(Release(held.request, held.token))
        assert (await a.hear(Ended)).why is None
        assert (await b.hear(LockHeld)).token > held.token
        assert disks[3].record.epoch == 1


async def _hold_and_crash(world, disk, told):
    async with serving(world, 3, disk) as three:
        c = Talker(three)
        c.acquire(b"lock", lease=2.0, grace=1.0)
        told.append(await c.hear(LockHeld))
        world.crash(3)
        await trio.sleep_forever()


async def test_what_a_lost_node_held_is_free_after_its_lease(autojump_clock, disks):
    world, tokens = World(3), []
    async with serving(world, 1, disks[1]) as one, serving(world, 2, disks[2]):
        with pytest.raises(RingLost):
            await _hold_and_crash(world, disks[3], tokens)
        a = Talker(one)
        a.acquire(b"lock")
        next_held = await a.hear(LockHeld)
        assert next_held.token > tokens[0].token
        assert trio.current_time() > tokens[0].deadline


async def test_a_minority_grants_nothing_and_informs_its_holders(autojump_clock, disks):
    world = World(3)
    async with serving(world, 1, disks[1]) as one, serving(world, 2, disks[2]) as two, serving(world, 3, disks[3]):
        a, b = Talker(one), Talker(two)
        a.acquire(b"lock", lease=60.0)
        held = await a.hear(LockHeld)
        world.partition({1}, {2, 3})
        assert (await a.hear(Renounced)).token == held.token
        late = a.acquire(b"other")
        b.acquire(b"other")
        await b.hear(LockHeld)
        assert not a.host.service.readiness[0]
        assert "node 2, 3" in a.host.service.readiness[1]
        world.heal()
        while not a.host.service.readiness[0]:
            await trio.sleep(0.1)
        assert any(isinstance(said, Readiness) for said in a.told)
        await trio.sleep(1)
        ticket = two.service.replica.state.table.ticket(late)
        assert ticket is not None
        assert not ticket.token


async def test_the_whole_cluster_starts_again_with_larger_tokens(autojump_clock, disks):
    tokens = []
    for _ in range(2):
        world = World(3)
        async with serving(world, 1, disks[1]) as one, serving(world, 2, disks[2]), serving(world, 3, disks[3]):
            a = Talker(one)
            a.acquire(b"lock")
            tokens.append((await a.hear(LockHeld)).token)
    assert tokens[1] >> 32 > tokens[0] >> 32


async def test_a_server_ends_where_its_own_leave_comes(autojump_clock, disks):
    """A ring that connects to its daemon again reports it: the messages in between are unknown."""
    async with World(3).open_ring(1) as ring, ring.join("cluck") as group:
        host = Host(group, SETTINGS, disks[1], clock=trio.current_time)
        group._stream.event(Confchg((), {group.member: Reason.NODEDOWN}, {}))
        with pytest.raises(ExceptionGroup) as failed:
            await host.run()
        assert "the connection to the daemon was lost" in str(sole(failed.value))
        assert isinstance(sole(failed.value), RingLost)
