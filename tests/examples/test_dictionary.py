"""The replicated dictionary in virtual time: the same everywhere, and a safe key is never lost."""

import json
import random

import dictionary
import pytest
import trio
import trio.testing

import cpg
from cpg.testing import World
from totem.config import Config, Quorum

VOTES = Quorum(provider="corosync_votequorum")


class Watched:
    """A group whose own messages are noted when they arrive as safe, in a quorate ring."""

    def __init__(self, group, safe):
        self.member = group.member
        self.send = group.send
        self._group = group
        self._safe = safe

    async def __aiter__(self):
        quorate = False
        async for event in self._group:
            match event:
                case cpg.Quorum(quorate, _):
                    pass
                case cpg.Message(self.member, data, cpg.Level.SAFE) if quorate:
                    self._safe.append(data)
            yield event


class Member:
    """A node with a copy."""

    def __init__(self, world, node, safe=None, company=1):
        """`safe`: where to note what was safe; `company`: nodes to wait for before joining."""
        self.world, self.node, self.company = world, node, company
        self.safe = [] if safe is None else safe
        self.copy = None

    async def live(self, task_status=trio.TASK_STATUS_IGNORED):
        async with self.world.open_ring(self.node) as ring:
            await ring.wait_members(self.company)
            async with ring.join("dictionary") as group, trio.open_nursery() as nursery:
                self.members = lambda: group.members
                self.copy = dictionary.Dictionary(Watched(group, self.safe))
                nursery.start_soon(self.copy.run)
                await self.copy.ready.wait()
                task_status.started(self)
                await trio.sleep_forever()


async def settle(world, members):
    """Wait until all are together, and all their messages have arrived."""
    world.heal()
    with trio.fail_after(600):
        while any(len(member.members()) < len(members) for member in members):
            await trio.sleep(1)
        for member in members:
            await member.copy.set("end", "x")
    await trio.sleep(1)


@pytest.mark.parametrize("votes", [VOTES, Quorum()], ids=["votes", "no votes"])
async def test_who_comes_gets_what_is_there_while_others_go_on_setting(autojump_clock, nursery, votes):
    world = World(3, seed=1, config=Config.for_nodes(3, quorum=votes))
    first, second = [await nursery.start(Member(world, node).live) for node in (1, 2)]
    await trio.sleep(5)

    async def set_many(member):
        for number in range(300):
            await member.copy.set(f"{member.node}.{number}", "x")
            await trio.sleep(0.01)

    async with trio.open_nursery() as writers:
        writers.start_soon(set_many, first)
        writers.start_soon(set_many, second)
        await trio.sleep(1)
        third = await nursery.start(Member(world, 3, company=2).live)
        assert len(third.copy.items) > 0
    await trio.sleep(5)
    assert first.copy.items == second.copy.items == third.copy.items
    assert len(first.copy.items) == 600
    nursery.cancel_scope.cancel()


async def test_another_member_sends_the_snapshot_if_the_first_goes_away(autojump_clock, nursery):
    """Each member is cut off once; the newcomer waits no longer than for the next ring."""
    world = World(4, seed=2, config=Config.for_nodes(4))
    members = [await nursery.start(Member(world, node).live) for node in (1, 2, 3)]
    await trio.sleep(5)
    await members[0].copy.set("key", "value")
    newcomer = Member(world, 4, company=4)
    nursery.start_soon(newcomer.live)
    while newcomer.copy is None:
        await trio.sleep(0.001)
    world.partition({1}, {2, 3, 4})
    await newcomer.copy.ready.wait()
    assert newcomer.copy.items == {"key": "value"}
    nursery.cancel_scope.cancel()


async def test_where_the_ring_is_not_quorate_nothing_is_set(autojump_clock, nursery):
    world = World(3, seed=3, config=Config.for_nodes(3, quorum=VOTES))
    members = [await nursery.start(Member(world, node).live) for node in (1, 2, 3)]
    await trio.sleep(5)
    world.partition({1}, {2, 3})
    await trio.sleep(10)
    await members[0].copy.set("minority", "x")
    await members[1].copy.set("majority", "x")
    assert (members[0].copy.items, members[1].copy.items) == ({}, {"majority": "x"})
    await settle(world, members)
    assert [member.copy.items for member in members] == [{"majority": "x", "end": "x"}] * 3
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(4))
async def test_what_was_safe_outlives_all_storms(autojump_clock, nursery, seed):
    world = World(5, seed=seed, config=Config.for_nodes(5, quorum=VOTES))
    dice = random.Random(seed)
    safe = []
    members = [await nursery.start(Member(world, node, safe).live) for node in range(1, 6)]

    async def set_many(member):
        for number in range(120):
            await member.copy.set(f"{member.node}.{number}", "x")
            await trio.sleep(dice.uniform(0, 0.5))

    async with trio.open_nursery() as writers:
        for member in members:
            writers.start_soon(set_many, member)
        await world.storm(30)
    await settle(world, members)
    copies = [member.copy.items for member in members]
    assert all(copy == copies[0] for copy in copies)
    taken = {json.loads(data)["set"][0] for data in safe if b'"set"' in data}
    assert len(taken) > 50
    assert not taken - copies[0].keys()
    nursery.cancel_scope.cancel()


# ---- one copy, told what happens


ME, A, B = cpg.Member(1, 10), cpg.Member(2, 20), cpg.Member(3, 30)
JOIN, LEAVE = cpg.Reason.JOIN, cpg.Reason.LEAVE


class Told:
    """A group whose events a test makes; `sent` has what the copy sends."""

    member = ME

    def __init__(self):
        self.sent = []
        self.copy = dictionary.Dictionary(self)
        self._events = []

    async def send(self, data, guarantee):
        self.sent.append(json.loads(data))

    async def __aiter__(self):
        for event in self._events:
            yield event

    async def tell(self, *events):
        self._events = events
        await self.copy.run()


def said(sender, **message):
    return cpg.Message(sender, json.dumps(message).encode(), cpg.Level.SAFE)


def ring(seq):
    return cpg.TotemConfchg(cpg.RingId(1, seq), (1, 2, 3)), cpg.Quorum(True, (1, 2, 3))


async def test_when_the_source_goes_away_the_next_offer_is_taken():
    told = Told()
    await told.tell(cpg.Confchg((ME, A, B), {}, {ME: JOIN}), *ring(4))
    await told.tell(
        said(A, offer=7, version=[4, 5]), said(A, number=1, set=["lost", "x"]), said(A, number=1, set=["late", "x"])
    )
    await told.tell(cpg.Confchg((ME, B), {A: LEAVE}, {}), said(A, snapshot=7, version=[4, 5], items={}))
    assert not told.copy.ready.is_set()
    await told.tell(said(B, offer=1, version=[4, 5]), said(A, number=1, set=["key", "x"]))
    await told.tell(said(B, snapshot=1, version=[4, 7], items={"lost": "x", "late": "x"}))
    assert told.copy.ready.is_set()
    assert told.copy.items == {"lost": "x", "late": "x", "key": "x"}


async def alone_with_one_key():
    told = Told()
    await told.tell(cpg.Confchg((ME,), {}, {ME: JOIN}), *ring(4), said(ME, offer=1, version=[0, 0]))
    await told.tell(said(ME, snapshot=1, version=[0, 0], items={}), said(A, number=1, set=["key", "x"]))
    return told


async def test_a_poorer_state_is_not_taken():
    told = await alone_with_one_key()
    await told.tell(cpg.Confchg((ME, A), {}, {A: JOIN}), said(A, offer=1, version=[0, 0]))
    await told.tell(said(A, number=1, set=["new", "x"]), said(A, snapshot=1, version=[0, 0], items={}))
    assert told.copy.items == {"key": "x", "new": "x"}


async def test_a_state_that_a_later_ring_had_counts_for_more():
    told = await alone_with_one_key()
    await told.tell(*ring(8), cpg.Confchg((ME, A), {}, {A: JOIN}))
    assert told.sent[-1] == {"offer": 2, "version": [8, 1]}


async def test_a_set_ends_where_the_connection_is_lost_before_it_came_back(nursery, autojump_clock):
    told = await alone_with_one_key()
    done = trio.Event()

    async def set_one():
        await told.copy.set("lost", "x")
        done.set()

    nursery.start_soon(set_one)
    await trio.testing.wait_all_tasks_blocked()
    sent = len(told.sent)
    await told.tell(cpg.Transitional(()), cpg.Confchg((), {ME: cpg.Reason.NODEDOWN}, {}))
    await done.wait()
    assert told.copy.items == {"key": "x"}
    assert len(told.sent) == sent
