"""Three live nodes in one program, on real sockets in real time."""

import pytest
import trio

from tests.totem.live_ring import on_sockets, together
from tests.totem.places import at_addresses, at_ipv6, at_one_address, knet_at_addresses
from totem.configuration import Guarantee
from totem.store import RingStore
from totem.testing.checkers import check
from totem.testing.history import History
from totem.transitions import Cause

PATIENCE = 60
"""Seconds after which a hanging test ends; a good one needs about one."""


def udp_at_addresses(count, **settings):
    return at_addresses(count, transport="udp", **settings)


def udp_at_one_address(count, **settings):
    return at_one_address(count, transport="udp", **settings)


def knet_sealed(count, **settings):
    return knet_at_addresses(count, cipher="aes256", hash="sha256", key=bytes(range(256)), **settings)


def knet_on_two_links(count, **settings):
    """In packets of a usual network, so that they are cut and put together again."""
    return knet_at_addresses(count, 2, mtu=1500, link_mode="rr", **settings)


PLACES = [
    *(at_one_address, at_addresses, at_ipv6, udp_at_addresses, udp_at_one_address),
    *(knet_at_addresses, knet_sealed, knet_on_two_links),
]


async def chatter(program):
    node_id = program.processor.node_id
    for number in range(20):
        batch = [b"%d.%d.%d" % (node_id, number, k) + b"." * (20 * k) for k in range(50)]
        await program.send(*batch, guarantee=Guarantee(number % 2))
    await program.send(b"%d is done" % node_id + bytes(100_000))


@pytest.mark.parametrize("trains", [True, False], ids=["trains", "plain"])
@pytest.mark.parametrize("place", PLACES)
async def test_a_ring(place, trains, tmp_path):
    config = place(3, token=1.0, state_dir=str(tmp_path))
    programs = {k: on_sockets(config, k, trains=trains) for k in (1, 2, 3)}
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as life:
            for program in programs.values():
                life.start_soon(program.run)
            await together(programs)
            async with trio.open_nursery() as talk:
                for program in programs.values():
                    talk.start_soon(chatter, program)
            for program in programs.values():
                await program.until(lambda program=program: len(program.received) == 3 * 1001)
            programs[3].node.leave()
            await programs[1].until_members(1, 2)
            await programs[2].until_members(1, 2)
            life.cancel_scope.cancel()
    problems = check(History([program.trace for program in programs.values()], quiescent=True))
    assert not problems, "\n".join(map(str, problems))
    assert programs[1].received == programs[2].received == programs[3].received
    stored = RingStore(str(tmp_path), 1).load()
    assert stored == programs[1].processor.ring_id.seq


def kill(program):
    """End a program as SIGKILL does, without a leave."""
    program.node._endpoint.send = lambda target, train: None
    program.node.leave()


@pytest.mark.parametrize("loaded", [False, True], ids=["idle", "loaded"])
@pytest.mark.parametrize("place", PLACES)
async def test_a_process_that_ended_is_out_because_its_machine_says_so(place, loaded, tmp_path):
    config = place(3, state_dir=str(tmp_path))
    programs = {k: on_sockets(config, k) for k in (1, 2, 3)}
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as life:
            for program in programs.values():
                life.start_soon(program.run)
            await together(programs)
            if loaded:
                for k in (1, 2):
                    life.start_soon(chatter, programs[k])
                await programs[1].until(lambda: programs[1].received)
            kill(programs[3])
            for k in (1, 2):
                await programs[k].until_members(1, 2)
            life.cancel_scope.cancel()
    causes = [way for k in (1, 2) for way in programs[k].processor.counters.entered if Cause.PROCESS_ENDED.value in way]
    assert causes, "one of the two at least; the other one may have heard its Join before"


@pytest.mark.parametrize("place", [at_one_address, knet_sealed])
async def test_a_node_that_comes_back(place, tmp_path):
    """Its ring ids are new ones, from its store."""
    config = place(2, token=1.0, state_dir=str(tmp_path))
    rings = []
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as life:
            stays, goes = on_sockets(config, 1), on_sockets(config, 2)
            life.start_soon(stays.run)
            for _ in range(3):
                async with trio.open_nursery() as life_of_one:
                    life_of_one.start_soon(goes.run)
                    await together({1: stays, 2: goes})
                    rings.append(goes.processor.ring_id)
                    goes.node.leave()
                await stays.until_members(1)
                goes = on_sockets(config, 2)
            goes.node._endpoint.close()
            life.cancel_scope.cancel()
    assert rings == sorted(set(rings))
