"""Conditions as programs see them, in tasks of trio and asyncio, and in threads."""

import pytest

from cluck.errors import LockLost, WrongLock
from tests.cluck.client.shells import on_all_shells
from tests.cluck.client.test_locks import loses


def waiters(cluster, number, name=b"filled"):
    return lambda: len(cluster.waiters(name)) == number


@on_all_shells
async def test_waiters_are_woken_in_their_order(shell):
    order, cluster = [], shell.cluster
    async with shell.connect() as locks, shell.tasks() as tasks:

        async def consume(number):
            async with locks.condition("filled", lock="queue") as filled:
                before = filled.held.token
                assert await filled.wait()
                assert cluster.holders(b"queue") == [filled.held.token]
                assert filled.held.token > before
                filled.held.check()
                order.append(number)

        for number in range(4):
            tasks.start_soon(consume, number)
            await shell.until(waiters(cluster, number + 1))
        async with locks.condition("filled", lock="queue") as filled:
            assert await filled.notify(2) == 2
            assert order == []
        await shell.until(lambda: len(order) == 2)
        async with locks.condition("filled", lock="queue") as filled:
            assert await filled.notify_all() == 2
            assert await filled.notify() == 0
    assert order == [0, 1, 2, 3]
    assert cluster.state.table.locks == {}


@on_all_shells
async def test_a_time_that_is_over(shell):
    async with shell.connect() as locks, locks.condition("filled", lock="queue") as filled:
        assert await filled.wait(0.01) is False
        assert shell.cluster.holders(b"queue") == [filled.held.token]
        assert await filled.wait_for(lambda: False, 0.01) is False
        assert await filled.wait_for(lambda: True, 0)
        assert await filled.wait_for(lambda: True)
        filled.held.check()


@on_all_shells
async def test_without_having_the_lock_back(shell):
    async with shell.connect() as locks, locks.condition("filled", lock="queue") as filled:
        assert await filled.wait(0.01, reacquire=False) is False
        assert shell.cluster.state.table.locks == {}
        with loses(r"has been released"):
            filled.held.check()
        with loses(r"has been released"):
            await filled.wait()


@on_all_shells
async def test_a_condition_of_a_lock_that_was_acquired_without_a_block(shell):
    async with shell.connect() as locks, shell.tasks() as tasks:
        woken = []

        async def consume():
            held = await locks.lock("queue").acquire()
            async with locks.condition("filled", lock=held) as filled:
                woken.append(await filled.wait())
            held.check()
            await held.release()

        tasks.start_soon(consume)
        await shell.until(waiters(shell.cluster, 1))
        held = await locks.lock("queue").acquire()
        async with locks.condition("filled", lock=held) as filled:
            assert await filled.notify() == 1
        await held.release()
    assert woken == [True]
    assert shell.cluster.state.table.locks == {}


@on_all_shells
async def test_a_lock_is_not_released_during_a_wait(shell):
    async def wait():
        assert await filled.wait()
        held.check()

    async with shell.connect() as locks, shell.connect() as others:
        held = await locks.lock("queue").acquire()
        filled = locks.condition("filled", lock=held)
        async with shell.tasks() as tasks:
            tasks.start_soon(wait)
            await shell.until(waiters(shell.cluster, 1))
            with pytest.raises(RuntimeError, match="`release` it after the wait"):
                await held.release()
            with pytest.raises(RuntimeError, match="another wait"):
                await filled.wait()
            async with others.condition("filled", lock="queue") as theirs:
                assert await theirs.notify() == 1
        await held.release()
    assert shell.cluster.state.table.locks == {}


@on_all_shells
async def test_a_block_that_ends_during_a_wait_ends_the_wait(shell):
    async def wait():
        with pytest.raises(LockLost, match="by the end of its block"):
            await filled.wait()

    async with shell.connect() as locks, shell.tasks() as tasks, locks.lock("queue") as held:
        filled = locks.condition("filled", lock=held)
        tasks.start_soon(wait)
        await shell.until(waiters(shell.cluster, 1))
    assert shell.cluster.state.table.locks == {}
    assert shell.cluster.waiters(b"filled") == []


@on_all_shells
async def test_two_conditions_of_one_lock(shell):
    async with shell.connect() as locks, shell.tasks() as tasks:

        async def produce():
            async with locks.lock("queue") as held, locks.condition("filled", lock=held) as filled:
                await filled.notify()
                async with locks.condition("empty", lock=held) as empty:
                    assert await empty.wait()

        async with locks.lock("queue") as held, locks.condition("filled", lock=held) as filled:
            tasks.start_soon(produce)
            assert await filled.wait()
            async with locks.condition("empty", lock=held) as empty:
                await shell.until(lambda: shell.cluster.waiters(b"empty"))
                assert await empty.notify() == 1
    assert shell.cluster.state.table.locks == {}


@on_all_shells
async def test_all_must_wait_with_one_lock(shell):
    async with shell.connect() as locks, shell.tasks() as tasks:

        async def wait():
            async with locks.condition("filled", lock="queue") as filled:
                await filled.wait()

        tasks.start_soon(wait)
        await shell.until(waiters(shell.cluster, 1))
        async with locks.condition("filled", lock="other") as filled:
            token = filled.held.token
            with pytest.raises(WrongLock, match="with another lock"):
                await filled.wait()
            assert shell.cluster.holders(b"other") == [token] == [filled.held.token]
            filled.held.check()
            await filled.notify()


@on_all_shells
async def test_a_lock_that_was_lost_before_the_wait(shell):
    async with shell.connect() as locks:

        async def body():
            async with locks.condition("filled", lock="queue") as filled:
                shell.cluster.force(b"queue")
                await filled.wait()

        with loses():
            await body()
        assert shell.cluster.waiters(b"filled") == []


@on_all_shells
async def test_a_lost_lock_ends_the_wait_for_the_answer_to_a_notification(shell):
    async with shell.connect() as locks:
        held = await locks.lock("queue", duration=60).acquire()
        async with locks.condition("filled", lock=held) as filled:
            shell.stop_order()
            async with shell.tasks() as tasks:

                async def notify():
                    with loses("without renewal"):
                        await filled.notify()

                tasks.start_soon(notify)
                await shell.until(lambda: "Notify" in shell.cluster.kinds_said)
                shell.now += 61
            shell.resume_order()
        with pytest.raises(LockLost, match="without renewal"):
            await held.release()


@on_all_shells
async def test_a_waiter_goes_on_waiting_at_the_next_connection(shell):
    cluster = shell.cluster
    async with shell.connect() as locks, shell.tasks() as tasks:
        woken = []

        async def wait():
            async with locks.condition("filled", lock="queue") as filled:
                woken.append(await filled.wait())

        tasks.start_soon(wait)
        await shell.until(waiters(cluster, 1))
        shell.cut()
        await shell.until(lambda: cluster.kinds_said.count("Wait") == 2)
        assert len(cluster.waiters(b"filled")) == 1
        async with shell.connect() as others, others.condition("filled", lock="queue") as filled:
            assert await filled.notify() == 1
    assert woken == [True]


@on_all_shells
async def test_a_wait_that_was_purged_loses_its_lock(shell):
    cluster = shell.cluster
    async with shell.connect() as locks, shell.tasks() as tasks:

        async def wait():
            with loses(r"not held any more"):
                async with locks.condition("filled", lock="queue") as filled:
                    await filled.wait()

        tasks.start_soon(wait)
        await shell.until(waiters(cluster, 1))
        cluster.restart()
        shell.cut()
