"""Live nodes on a network that loses, doubles and reorders, in virtual time: the whole shell but the sockets."""

import random

import pytest
import trio

from tests.totem.fakes import TerribleNetwork
from tests.totem.live_ring import MemoryStore, on_network, together
from totem.config import Config
from totem.configuration import Guarantee, TransitionalConfiguration
from totem.errors import RingLost
from totem.node import STANDING_STILL
from totem.testing.checkers import check
from totem.testing.history import History
from totem.wire import codec
from totem.wire.messages import Join

NODES = (1, 2, 3)
MESSAGES = 60


def terrible(seed):
    return TerribleNetwork(random.Random(seed), loss=0.1, doubles=0.1, delay=0.005)


async def chatter(program, dice):
    """Send now and then, of all sizes, some SAFE."""
    node_id = program.processor.node_id
    for number in range(MESSAGES):
        await trio.sleep(dice.uniform(0, 0.2))
        size = dice.choice((10, 100, 2000, 50_000))
        text = b"%d.%d from %d " % (program.trace.process.incarnation, number, node_id)
        await program.send(text.ljust(size, b"."), guarantee=dice.choice(tuple(Guarantee)))


def assert_nothing_wrong(programs):
    problems = check(History([program.trace for program in programs], quiescent=True))
    assert not problems, "\n".join(map(str, problems))


@pytest.mark.parametrize("seed", range(8))
async def test_one_order_over_a_terrible_network(seed, autojump_clock):
    network = terrible(seed)
    config = Config.for_nodes(3)
    programs = {k: on_network(network, config, k, MemoryStore()) for k in NODES}
    async with trio.open_nursery() as life:
        life.start_soon(network.run)
        for program in programs.values():
            life.start_soon(program.run)
        await together(programs)
        async with trio.open_nursery() as nursery:
            for k, program in programs.items():
                nursery.start_soon(chatter, program, random.Random(f"{seed} {k}"))
        for program in programs.values():
            await program.until(lambda program=program: len(program.received) >= 3 * MESSAGES)
        life.cancel_scope.cancel()
    assert_nothing_wrong(programs.values())
    assert programs[1].received == programs[2].received == programs[3].received


@pytest.mark.parametrize("seed", range(8))
async def test_a_node_cut_off_a_restart_and_a_leave(seed, autojump_clock):
    """Through every change the clauses of extended virtual synchrony hold, and the ring comes together again."""
    network = terrible(seed)
    config = Config.for_nodes(3)
    stores = {k: MemoryStore() for k in NODES}
    programs = {k: on_network(network, config, k, stores[k]) for k in NODES}
    async with trio.open_nursery() as life:
        life.start_soon(network.run)
        for program in programs.values():
            life.start_soon(program.run)
        await together(programs)
        async with trio.open_nursery() as talk:
            for program in programs.values():
                talk.start_soon(chatter, program, random.Random(f"{seed} {program.processor.node_id}"))

            network.cut = {(3, 1), (3, 2)}  # heard by nobody, but hears all
            await programs[1].until_members(1, 2)
            await programs[3].until_members(3)
            network.cut = set()
            await together(programs)

            programs[2].node.leave()
            await programs[1].until_members(1, 3)
            again = on_network(network, config, 2, stores[2], incarnation=2)
            life.start_soon(again.run)
            await together({**programs, 2: again})
        for program in (programs[1], programs[3]):
            await program.until(lambda program=program: not program.processor.statistics().queued_bytes)
        await trio.sleep(30)  # some rotations: a lost token alone costs most of a second
        life.cancel_scope.cancel()
    assert_nothing_wrong([*programs.values(), again])
    assert any(isinstance(event, TransitionalConfiguration) for event in programs[1].trace.events)


def durable_only(program, store):
    """Make the test fail where a node sends anything of a ring whose number is not on its disk."""
    endpoint = program.node._endpoint
    send = endpoint.send

    def checked(target, train):
        for frame in train:
            said = codec.decode(frame)
            if not isinstance(said, Join):
                assert said.ring_id.seq <= store.ring_seq, said
            elif said.is_leave:
                assert said.ring_seq <= store.ring_seq, said
        send(target, train)

    endpoint.send = checked


@pytest.mark.parametrize("seed", range(8))
async def test_the_others_go_on_without_a_node_whose_disk_is_full(seed, autojump_clock):
    """It comes back when there is room, has sent nothing of a ring that is not on its disk, and slows no ring down."""
    network = terrible(seed)
    config = Config.for_nodes(3)
    stores = {k: MemoryStore() for k in NODES}
    programs = {k: on_network(network, config, k, stores[k]) for k in NODES}
    for k, program in programs.items():
        durable_only(program, stores[k])
    async with trio.open_nursery() as life:
        life.start_soon(network.run)
        for program in programs.values():
            life.start_soon(program.run)
        await together(programs)
        async with trio.open_nursery() as talk:
            for k in (1, 2):
                talk.start_soon(chatter, programs[k], random.Random(f"{seed} {k}"))
            stores[3].is_full = True
            network.cut = {(3, 1), (3, 2)}
            await programs[1].until_members(1, 2)
            network.cut = set()
            await trio.sleep(100)
            assert programs[1].processor.members == programs[2].processor.members == (1, 2)
            assert programs[3].node.statistics().state == STANDING_STILL
            stores[3].is_full = False
            await together(programs)
        await trio.sleep(30)
        life.cancel_scope.cancel()
    assert_nothing_wrong(programs.values())
    assert all(program.processor.largest_pause == 0 for program in programs.values())


async def test_a_leave_needs_no_timeout(autojump_clock):
    network = TerribleNetwork(random.Random(0))
    config = Config.for_nodes(3)
    programs = {k: on_network(network, config, k, MemoryStore()) for k in NODES}
    async with trio.open_nursery() as life:
        life.start_soon(network.run)
        for program in programs.values():
            life.start_soon(program.run)
        await together(programs)
        start = trio.current_time()
        programs[3].node.leave()
        await programs[1].until_members(1, 2)
        assert trio.current_time() - start < config.token_retransmit
        life.cancel_scope.cancel()


async def test_a_resting_token_is_called_for(autojump_clock):
    """What is sent on an idle ring does not wait until its representative lets the token go."""
    network = TerribleNetwork(random.Random(0))
    config = Config.for_nodes(3)
    programs = {k: on_network(network, config, k, MemoryStore()) for k in NODES}
    async with trio.open_nursery() as life:
        life.start_soon(network.run)
        for program in programs.values():
            life.start_soon(program.run)
        await together(programs)
        for number, sender in enumerate((1, 2, 3, 2), start=1):
            await programs[sender].until(lambda sender=sender: programs[sender].processor.ring.token_held)
            start = trio.current_time()
            await programs[sender].send(b"%d" % number)
            await programs[1].until(lambda number=number: len(programs[1].received) == number)
            assert trio.current_time() - start < 0.02
        life.cancel_scope.cancel()


@pytest.mark.parametrize("share", [0.55, 0.9])
async def test_a_pause_shorter_than_the_token_timeout_harms_nobody(share, mock_clock):
    """The clock jumps for all, as it does for the processes of one machine that was not run."""
    mock_clock.autojump_threshold = 0
    network = TerribleNetwork(random.Random(0))
    config = Config.for_nodes(3)
    programs = {k: on_network(network, config, k, MemoryStore()) for k in NODES}
    async with trio.open_nursery() as life:
        life.start_soon(network.run)
        for program in programs.values():
            life.start_soon(program.run)
        await together(programs)
        rings = {k: program.processor.ring_id for k, program in programs.items()}
        mock_clock.jump(share * config.token + config.token_retransmit)
        await programs[2].send(b"still here")
        await programs[1].until(lambda: programs[1].received == [b"still here"])
        assert {k: program.processor.ring_id for k, program in programs.items()} == rings
        life.cancel_scope.cancel()


async def test_two_nodes_with_one_id(autojump_clock):
    """The second one ends with a clear error, as soon as it hears the first."""
    network = TerribleNetwork(random.Random(0))
    config = Config.for_nodes(2)
    programs = {k: on_network(network, config, k, MemoryStore()) for k in (1, 2)}
    second = on_network(network, config, 2, MemoryStore())
    async with trio.open_nursery() as life:
        life.start_soon(network.run)
        for program in programs.values():
            life.start_soon(program.run)
        await together(programs)
        with pytest.raises(RingLost, match="node id 2"):
            await second.run()
        assert programs[1].processor.members == (1, 2)
        life.cancel_scope.cancel()
