"""Applications on the virtual ring: the same groups, in virtual time, with faults from a seed."""

# ruff: noqa: PT012 - the block that raises is the block under test

import pytest
import trio

from cpg.events import Confchg, Link, Member, Message, Quorum, Reason, TotemConfchg, Transitional
from cpg.payloads import Guarantee
from cpg.testing import Conditions, World
from totem.config import Config, Knet, LinkSettings
from totem.config import Quorum as QuorumSection
from totem.configuration import Level
from totem.errors import RingLost


class Program:
    """A program on one node: joins a group when the other nodes are there, and notes its events."""

    def __init__(self, world, node_id, company):
        self.world, self.node_id, self.company = world, node_id, company
        self.events = []
        self.lost = None
        self._stop = trio.CancelScope()

    async def run(self, task_status=trio.TASK_STATUS_IGNORED):
        try:
            with self._stop:
                async with self.world.open_ring(self.node_id) as self.ring:
                    await self.ring.wait_members(self.company)
                    async with self.ring.join("chat") as self.group:
                        task_status.started()
                        async for event in self.group:
                            self.events.append(event)
        except RingLost as lost:
            self.lost = str(lost)

    def stop(self):
        self._stop.cancel()

    @property
    def data(self):
        return [event.data for event in self.events if isinstance(event, Message)]


async def start_three(world, nursery):
    """Start three programs, one joining after the other."""
    programs = [Program(world, node_id, 3) for node_id in (1, 2, 3)]
    async with trio.open_nursery() as starting:
        for program in programs:
            starting.start_soon(nursery.start, program.run)
    await trio.sleep(1)
    return programs


def told_after_joins(program):
    """Return messages and changes of the group from the moment when all three are in it."""
    start = next(k for k, e in enumerate(program.events) if isinstance(e, Confchg) and len(e.members) == 3)
    return [event for event in program.events[start:] if isinstance(event, Message | Confchg)]


async def test_three_members_see_the_same(nursery, autojump_clock):
    programs = await start_three(World(3, seed=1), nursery)
    for number in range(20):
        for program in programs:
            await program.group.send(b"%d of %d" % (number, program.node_id))
    await trio.sleep(1)
    one, two, three = map(told_after_joins, programs)
    assert one == two == three
    assert len(one) == 61
    nursery.cancel_scope.cancel()


async def test_a_crash_is_reported_in_the_documented_order(nursery, autojump_clock):
    world = World(3, seed=1)
    one, two, three = await start_three(world, nursery)
    seen = len(one.events)
    world.crash(3)
    await trio.sleep(20)
    assert three.lost == "node 3 has crashed"
    transitional, confchg, ring, quorum = one.events[seen:]
    assert transitional == Transitional((1, 2))
    assert confchg == Confchg((Member(1, 1), Member(2, 1)), {Member(3, 1): Reason.NODEDOWN}, {})
    assert isinstance(ring, TotemConfchg)
    assert ring.node_ids == (1, 2)
    assert quorum == Quorum(True, (1, 2))
    assert one.events[seen:] == two.events[-4:]
    nursery.cancel_scope.cancel()


async def test_a_restarted_node_is_another_process(nursery, autojump_clock):
    world = World(3, seed=2)
    one, two, _ = await start_three(world, nursery)
    world.crash(3)
    await trio.sleep(20)
    back = Program(world, 3, 3)
    await nursery.start(back.run)
    await one.group.send(b"welcome")
    await trio.sleep(1)
    assert back.events[0] == Confchg(one.group.members, {}, {Member(3, 2): Reason.JOIN})
    assert back.data == [b"welcome"]
    assert told_after_joins(one) == told_after_joins(two)
    nursery.cancel_scope.cancel()


async def test_leaving_needs_no_timeout(nursery, autojump_clock):
    world = World(3, seed=3)
    one, _, three = await start_three(world, nursery)
    start = trio.current_time()
    three.stop()
    while len(one.ring.node_ids) == 3:
        await trio.sleep(0.01)
    assert trio.current_time() - start < 0.5
    assert one.events[-4] == Confchg((Member(1, 1), Member(2, 1)), {Member(3, 1): Reason.LEAVE}, {})
    nursery.cancel_scope.cancel()


async def test_both_sides_of_a_partition_go_on_and_merge(nursery, autojump_clock):
    world = World(3, seed=4)
    one, two, three = await start_three(world, nursery)
    world.partition({1, 2}, {3})
    await trio.sleep(20)
    await one.group.send(b"of two")
    await three.group.send(b"of one")
    await trio.sleep(1)
    assert (one.group.members, three.group.members) == ((Member(1, 1), Member(2, 1)), (Member(3, 1),))
    world.heal()
    await trio.sleep(20)
    await three.group.send(b"of all")
    await trio.sleep(1)
    assert (one.data, two.data, three.data) == ([b"of two", b"of all"], [b"of two", b"of all"], [b"of one", b"of all"])
    assert one.group.members == three.group.members == (Member(1, 1), Member(2, 1), Member(3, 1))
    nursery.cancel_scope.cancel()


async def test_a_pause_of_less_than_the_token_timeout_changes_nothing(nursery, autojump_clock):
    world = World(3, seed=5)
    one, _, three = await start_three(world, nursery)
    seen = len(one.events)
    world.pause(2)
    await trio.sleep(world.config.token * 0.8)
    world.resume(2)
    await three.group.send(b"x")
    await trio.sleep(1)
    assert [type(event) for event in one.events[seen:]] == [Message]
    nursery.cancel_scope.cancel()


async def test_safe_messages_have_their_level(nursery, autojump_clock):
    one, two, _ = await start_three(World(3, seed=6), nursery)
    await one.group.send(b"safe", Guarantee.SAFE)
    await one.group.send(b"agreed")
    await trio.sleep(1)
    levels = [event.level for event in two.events if isinstance(event, Message)]
    assert levels == [Level.SAFE, Level.AGREED]
    nursery.cancel_scope.cancel()


async def test_large_messages_and_full_queues(nursery, autojump_clock):
    one, two, _ = await start_three(World(3, seed=7), nursery)
    payloads = [bytes([k]) * size for k, size in enumerate((0, 1, 1_047_552, 1_047_553, 2_500_000, 70_000, 3))]
    await one.group.send(payloads)
    await one.group.send(payloads[4])
    await one.group.send(b"behind")
    await one.group.flush()
    await trio.sleep(1)
    assert two.data == [*payloads, payloads[4], b"behind"]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(3))
async def test_a_storm_leaves_all_together(seed, nursery, autojump_clock):
    world = World(3, seed=seed)
    programs = await start_three(world, nursery)

    async def talk(program):
        for number in range(200):
            await program.group.send(b"%d.%d" % (program.node_id, number))
            await trio.sleep(0.1)

    async with trio.open_nursery() as talking:
        talking.start_soon(world.storm, 20)
        for program in programs:
            talking.start_soon(talk, program)
    await programs[0].ring.wait_members(3)
    for program in programs:
        await program.group.flush()
    await trio.sleep(5)
    for program in programs:
        await program.group.send(b"after the storm")
    await trio.sleep(5)
    for program in programs:
        assert program.data[-3:] == [b"after the storm"] * 3
        own = [data for data in program.data if data.startswith(b"%d." % program.node_id)]
        assert own == [b"%d.%d" % (program.node_id, number) for number in range(200)]
    nursery.cancel_scope.cancel()


async def test_lossy_links_are_repaired(nursery, autojump_clock):
    world = World(3, seed=8, conditions=Conditions(loss=0.05, duplicate=0.05, reorder=0.05))
    one, two, three = await start_three(world, nursery)
    for number in range(100):
        await one.group.send(b"%d" % number)
    await one.group.flush()
    await trio.sleep(5)
    assert one.data == two.data == three.data == [b"%d" % number for number in range(100)]
    nursery.cancel_scope.cancel()


async def test_a_ring_reports_rings_without_a_group(nursery, autojump_clock):
    world = World(2, seed=9)
    seen = []
    async with world.open_ring(1) as one:
        one.on_totem_confchg(lambda ring_id, node_ids: seen.append(node_ids))
        await trio.sleep(1)
        assert seen == [(1,)]
        async with world.open_ring(2) as two:
            await two.wait_members(2)
            assert two.node_ids == one.node_ids == (1, 2)
            assert two.ring_id == one.ring_id
            assert two.statistics().members == (1, 2)
        await trio.sleep(1)
    assert seen[0] == (1,)
    assert (1, 2) in seen
    assert seen[-1] == (1,)


async def test_a_failing_callback_of_the_ring_ends_its_block(nursery, autojump_clock):
    world = World(1)
    with pytest.raises(ZeroDivisionError):
        async with world.open_ring(1) as ring:

            @ring.on_totem_confchg
            def _(ring_id, node_ids):
                raise ZeroDivisionError

            await trio.sleep_forever()


async def test_a_cancelled_program_leaves_its_group_before_its_ring(nursery, autojump_clock):
    world = World(2)
    seen = []
    async with world.open_ring(1) as one, one.join("chat") as group:
        group.on_confchg(lambda *confchg: seen.append(confchg))
        with trio.move_on_after(1):
            async with world.open_ring(2) as two:
                await two.wait_members(2)
                async with two.join("chat"):
                    await trio.sleep_forever()
        await trio.sleep(5)
    assert seen[-2] == Confchg((Member(1, 1),), {Member(2, 1): Reason.LEAVE}, {})


async def test_exceptions_of_the_body_come_out_as_they_are(nursery, autojump_clock):
    world = World(1)
    with pytest.raises(KeyError):
        async with world.open_ring(1) as ring, ring.join("chat"):
            raise KeyError
    with trio.move_on_after(1) as scope:
        async with world.open_ring(1):
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_node_that_is_ended_by_an_administrator(nursery, autojump_clock):
    world = World(2)
    async with world.open_ring(1) as one:
        with pytest.raises(RingLost, match="administrator"):
            async with world.open_ring(2) as two:
                await two.wait_members(2)
                two._engine.failure = "an administrator at node 1 ended this node"
                async with one.join("chat"):
                    await trio.sleep_forever()
        await one.wait_members(1)


async def test_the_groups_of_a_ring_are_known_everywhere(nursery, autojump_clock):
    world = World(2)
    async with world.open_ring(1) as one, world.open_ring(2) as two:
        await two.wait_members(2)
        async with one.join("b"), one.join(b"a"), two.join("b"):
            assert two.groups == {b"a": (Member(1, 1),), b"b": (Member(1, 1), Member(2, 1))}


async def test_a_group_outside_of_its_ring_ends_with_it(nursery, autojump_clock):
    world = World(1)
    lost = []

    async def outlive(ring):
        with pytest.raises(RingLost, match="has been left"):
            async with ring.join("chat"):
                await trio.sleep_forever()
        lost.append(True)

    async with world.open_ring(1) as ring:
        nursery.start_soon(outlive, ring)
        await trio.sleep(1)
    await trio.testing.wait_all_tasks_blocked()
    assert lost
    with pytest.raises(RingLost):
        async with ring.join("chat"):
            raise AssertionError
    with pytest.raises(RingLost):
        await ring.wait_members(2)


@pytest.mark.parametrize("transport", ["udpu", "udp"])
async def test_links_on_udpu_and_udp(autojump_clock, transport):
    world = World(2, config=Config.for_nodes(2, transport=transport))
    async with world.open_ring(1) as one, world.open_ring(2) as two:
        seen = []
        one.on_link(lambda *link: seen.append(Link(*link)))
        await two.wait_members(2)
        await trio.sleep(1)
        assert [(state.node_id, state.link, state.is_up, state.mtu) for state in one.links] == [(2, 0, True, 1500)]
        del seen[:]
        world.cut((1,), (2,))
        cut = trio.current_time()
        await trio.sleep(2)
        assert [link[:4] for link in seen] == [(2, 0, False, 0)]
        assert cut < one.links[0].since < cut + 1.5
        assert (one.links[0].hears, two.links[0].hears) == (True, False)


async def test_links_of_knet(autojump_clock):
    links = Knet(links=(LinkSettings(0), LinkSettings(1)))
    world = World(2, config=Config.for_nodes(2, transport="knet", token=1.0, knet=links))
    async with world.open_ring(1) as one, world.open_ring(2) as two:
        seen = []
        one.on_link(lambda *link: seen.append(Link(*link)))
        await two.wait_members(2)
        await trio.sleep(15)
        assert [(state.node_id, state.link, state.is_up, state.mtu) for state in one.links] == [
            (2, 0, True, 1500),
            (2, 1, True, 1500),
        ]
        assert {(link.link, link.up) for link in seen[-2:]} == {(0, True), (1, True)}
        rings = one.statistics().rings_installed
        del seen[:]
        for sources, targets in (((1,), (2,)), ((2,), (1,))):
            world.cut(sources, targets, link=1)
        cut = trio.current_time()
        await trio.sleep(5)
        assert [link[:4] for link in seen] == [(2, 1, False, 0)]
        assert cut < one.links[1].since < cut + 2
        assert one.statistics().rings_installed == rings
        world.heal()
        await trio.sleep(5)
        assert seen[1][:3] == (2, 1, True)
        assert seen[-1].mtu == 1500


def voting(count, **section):
    return Config.for_nodes(count, quorum=QuorumSection(provider="corosync_votequorum", **section))


async def test_the_smaller_side_of_a_partition_waits_for_quorum(nursery, autojump_clock):
    world = World(3, seed=3, config=voting(3))
    one, two, three = await start_three(world, nursery)
    told = []
    three.ring.on_quorum(lambda quorate, node_ids: told.append((quorate, node_ids)))
    world.partition({1, 2}, {3})
    await trio.sleep(20)
    assert (one.ring.quorate, two.ring.quorate, three.ring.quorate) == (True, True, False)
    assert one.events[-1] == Quorum(True, (1, 2))
    figures = three.ring.quorum
    assert (figures.expected_votes, figures.total_votes, figures.quorum) == (3, 1, 2)
    world.heal()
    await three.ring.wait_quorate()
    assert three.ring.node_ids == (1, 2, 3)
    await trio.sleep(0)
    assert told[-2:] == [(False, (3,)), (True, (1, 2, 3))]
    nursery.cancel_scope.cancel()


async def test_the_window_of_the_last_man_begins_with_the_ring(nursery, autojump_clock):
    config = voting(3, last_man_standing=True, last_man_standing_window=1.0, wait_for_all=True)
    assert config.consensus > 2.0, "what else the ring looks after the engine for"
    world = World(3, seed=3, config=config)
    one, *_ = await start_three(world, nursery)
    world.crash(3)
    while one.ring.node_ids != (1, 2):
        await trio.sleep(0.01)
    await trio.sleep(0.9)
    assert one.ring.quorum.expected_votes == 3
    await trio.sleep(0.2)
    assert one.ring.quorum.expected_votes == 2
    nursery.cancel_scope.cancel()
