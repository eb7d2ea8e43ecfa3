"""Rings on real sockets in one program: the API from end to end, over loopback."""

# ruff: noqa: PT012 - the block that raises is the block under test

import pytest
import trio

import cpg
from tests.cpg.processes import write_config


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path, 3)


async def test_two_nodes_of_one_program_see_the_same(config):
    async with cpg.open_ring(config, 1) as one, cpg.open_ring(config, 2) as two:
        await one.wait_members(2)
        async with one.join("chat") as ours, two.join("chat") as theirs:
            await ours.send([b"a", b"b"])
            await theirs.send(b"c", cpg.SAFE)
            await theirs.flush()
            await ours.flush()
            assert ours.members == (ours.member,)  # as far as it has read
            events = [await anext(theirs) for _ in range(6)]
            assert [type(event) for event in events] == [cpg.Confchg, cpg.TotemConfchg, cpg.Quorum, *[cpg.Message] * 3]
            assert [await anext(ours) for _ in range(7)][4:] == events[3:]
            assert sorted(theirs.members) == [ours.member, theirs.member]
        assert one.node_ids == two.node_ids == (1, 2)
        assert one.statistics().pure
    with pytest.raises(cpg.RingLost):
        async with one.join("chat"):
            raise AssertionError


async def test_an_observer_sees_the_ring_between_the_events_of_its_groups(config):
    async with cpg.open_ring(config, 1) as one:
        seen = []
        async with one.join("chat") as group:
            group.on_confchg(lambda *_: None)
            stop = one._observe(seen.append)
            async with cpg.open_ring(config, 2):
                await one.wait_members(2)
                assert [type(event) for event in seen] == [cpg.Transitional, cpg.TotemConfchg, cpg.Quorum]
                assert seen[1] == (one.ring_id, (1, 2))
                stop()
            while len(one.node_ids) == 2:
                await trio.sleep(0.01)
        assert len(seen) == 3


async def test_many_groups_and_three_nodes(config):
    logs = {}

    async def member(node, ready, stop):
        async with cpg.open_ring(config, node) as ring:
            await ring.wait_members(3)
            async with trio.open_nursery() as nursery:
                for name in ("a", "b", "c"):
                    nursery.start_soon(in_group, ring, node, name, ready, stop)

    async def in_group(ring, node, name, ready, stop):
        log = logs[node, name] = []
        async with ring.join(name) as group:
            group.on_message(lambda sender, data: log.append((sender.node_id, data)))
            ready[node, name].set()
            for event in ready.values():
                await event.wait()
            for number in range(100):
                await group.send(b"%s %d" % (name.encode(), number))
            await stop.wait()

    ready = {(node, name): trio.Event() for node in (1, 2, 3) for name in ("a", "b", "c")}
    stop = trio.Event()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for node in (1, 2, 3):
                nursery.start_soon(member, node, ready, stop)
            while not (len(logs) == 9 and all(len(log) == 300 for log in logs.values())):
                await trio.sleep(0.01)
            stop.set()
    for name in ("a", "b", "c"):
        assert logs[1, name] == logs[2, name] == logs[3, name]


async def test_a_full_queue_holds_senders_back_and_loses_nothing(config):
    count, size = 300, 50_000
    async with cpg.open_ring(config, 1) as one, cpg.open_ring(config, 2) as two:
        await two.wait_members(2)
        async with one.join("chat") as sender, two.join("chat") as receiver:
            lengths = []
            receiver.on_message(lambda _, data: lengths.append(len(data)))
            sender.on_message(lambda _, data: None)
            with pytest.raises(trio.WouldBlock):
                for _ in range(count):
                    sender.send_nowait(bytes(size))
            sent_before = sender._sent
            for _ in range(count - sent_before):
                await sender.send(bytes(size))
            await sender.flush()
            await receiver.send(b"")
            await receiver.flush()
            assert lengths == [size] * count + [0]


async def test_joining_twice(config):
    async with cpg.open_ring(config, 1) as ring, ring.join("chat"):
        with pytest.raises(cpg.AlreadyJoined):
            async with ring.join("chat"):
                raise AssertionError
        async with ring.join("other"):
            pass
        async with ring.join("other"):  # again, after the leave
            pass


@pytest.mark.parametrize("name", ["", "x" * 129])
async def test_names_that_cannot_be(config, name):
    async with cpg.open_ring(config, 1) as ring:
        with pytest.raises(ValueError, match="1 to 128 bytes"):
            async with ring.join(name):
                raise AssertionError


async def test_two_programs_with_one_node_id(config):
    async with cpg.open_ring(config, 1):
        with pytest.raises(OSError, match="started twice"):
            async with cpg.open_ring(config, 1):
                raise AssertionError


async def test_which_node(config):
    with pytest.raises(ValueError, match="several nodes"):
        async with cpg.open_ring(config):
            raise AssertionError


async def test_a_ring_stands_still_while_its_number_cannot_be_stored_and_goes_on_behind(config):
    async with cpg.open_ring(config, 1) as one, cpg.open_ring(config, 2) as two:
        await two.wait_members(2)
        store, refused = two._shell._store.store, trio.Event()

        def fail(ring_seq):
            refused.set()
            raise OSError(28, "No space left on device")

        two._shell._store.store = fail
        async with cpg.open_ring(config, 3) as three:
            with trio.fail_after(30):
                await refused.wait()
                two._shell._store.store = store
                for ring in (one, two, three):
                    await ring.wait_members(3)


async def test_a_program_with_one_consumer_that_sleeps(config):
    async with cpg.open_ring(config, 1) as one, cpg.open_ring(config, 2) as two:
        await two.wait_members(2)
        async with one.join("chat") as fast:
            fast.on_message(lambda sender, data: None)
            with pytest.raises(cpg.SlowConsumer):
                async with two.join("chat", limit=200_000):
                    while True:
                        await fast.send(bytes(10_000))
            await fast.send(b"behind its leave")
            await fast.flush()
            assert fast.members == (fast.member,)
