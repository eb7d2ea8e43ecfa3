"""`cluck.open`: programs that are lock servers themselves, on a virtual ring."""

import pytest
import trio

import cluck.embedded
from cluck.errors import LockLost, LockTimeout
from cpg.testing import World
from tests.cluck.server.test_host import Memory
from totem.errors import RingLost


@pytest.fixture
def disks():
    return {node: Memory() for node in (1, 2, 3)}


@pytest.fixture
def open_locks(disks):
    def opened(ring):
        return cluck.embedded.open(ring, store=disks[ring.node_id], clock=trio.current_time)

    return opened


async def test_three_programs_take_turns(autojump_clock, open_locks):
    world, turns = World(3), []

    async def program(node):
        async with world.open_ring(node) as ring, open_locks(ring) as locks:
            for _ in range(3):
                async with locks.lock("turn") as held:
                    turns.append((held.token, node, "begins"))
                    await trio.sleep(0.1)
                    turns.append((held.token, node, "ends"))
            await trio.sleep(5)

    async with trio.open_nursery() as nursery:
        for node in (1, 2, 3):
            nursery.start_soon(program, node)
    assert [what for _, _, what in turns] == ["begins", "ends"] * 9
    assert turns == sorted(turns, key=lambda turn: turn[0])


async def _hold_and_be_cut_off(world, locks):
    async with locks.lock("lock"):
        world.partition({1}, {2, 3})
        await trio.sleep_forever()


async def test_a_program_in_the_minority_loses_its_lock_and_another_gets_it(autojump_clock, open_locks):
    world = World(3)
    async with (
        world.open_ring(1) as a,
        world.open_ring(2) as b,
        world.open_ring(3) as c,
        open_locks(a) as one,
        open_locks(b) as two,
        open_locks(c),
    ):
        with pytest.raises(LockLost):
            await _hold_and_be_cut_off(world, one)
        async with two.lock("lock"):
            with pytest.raises(LockTimeout, match="2, 3"):
                await one.lock("other", timeout=1).__aenter__()
        world.heal()
        async with one.lock("lock"):
            pass


async def test_a_ring_that_is_lost_ends_the_block_unwrapped(autojump_clock, open_locks):
    world = World(3)
    async with world.open_ring(1) as a, world.open_ring(2) as b, open_locks(a), open_locks(b):
        with pytest.raises(RingLost):
            await _hold_and_crash(world, open_locks)


async def _hold_and_crash(world, open_locks):
    async with world.open_ring(3) as ring, open_locks(ring) as locks, locks.lock("lock"):
        world.crash(3)
        await trio.sleep_forever()


async def test_a_program_that_is_cancelled_gives_its_lock_back_first(autojump_clock, open_locks):
    world, held, cancelled, ended = World(3), trio.Event(), trio.CancelScope(), trio.Event()

    async def program():
        with cancelled:
            async with world.open_ring(3) as ring, open_locks(ring) as locks, locks.lock("lock"):
                held.set()
                await trio.sleep_forever()
        ended.set()

    async with (
        world.open_ring(1) as a,
        world.open_ring(2) as b,
        open_locks(a) as one,
        open_locks(b),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(program)
        await held.wait()
        cancelled.cancel()
        with trio.fail_after(1):
            await ended.wait()
            async with one.lock("lock"):
                pass


async def test_a_waiter_learns_how_many_are_ahead(autojump_clock, open_locks):
    world, told = World(1), []
    async with world.open_ring(1) as ring, open_locks(ring) as locks, trio.open_nursery() as nursery:

        async def hold(seconds):
            async with locks.lock("lock"):
                await trio.sleep(seconds)

        for seconds in (5, 10):
            nursery.start_soon(hold, seconds)
            await trio.sleep(1)
        async with locks.lock("lock", on_queued=told.append):
            assert told == [2, 1]


async def test_an_exception_of_the_callback_for_places_ends_the_wait(autojump_clock, open_locks):
    def refuse(ahead):
        raise RuntimeError(f"{ahead} are too many")

    world = World(1)
    async with world.open_ring(1) as ring, open_locks(ring) as locks, trio.open_nursery() as nursery:

        async def hold():
            async with locks.lock("lock"):
                await trio.sleep(5)

        nursery.start_soon(hold)
        await trio.sleep(1)
        with pytest.raises(RuntimeError, match="1 are too many"):
            await locks.lock("lock", on_queued=refuse).__aenter__()
        nursery.cancel_scope.cancel()
