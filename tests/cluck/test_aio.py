"""Programs on asyncio in its own manner, with no trio in the process."""

import asyncio
import subprocess
import sys
import textwrap

import pytest

from cluck import aio
from cluck.errors import LockTimeout
from tests.cluck.client.servers import Cluster, SocketServer


@pytest.fixture
def server(tmp_path):
    with SocketServer(tmp_path / "socket", Cluster()) as server:
        yield server


def tickets(server):
    with server.lock:
        return list(server.cluster.state.table.tickets())


def test_a_task_that_is_cancelled_gives_its_lock_back(server):
    async def main():
        async with aio.connect(server.path) as locks:
            holds = asyncio.Event()

            async def hold():
                async with locks.lock("backup"):
                    holds.set()
                    await asyncio.sleep(40)

            async def wait():
                async with locks.lock("backup"):
                    raise AssertionError("it was never free")

            holder, waiter = asyncio.create_task(hold()), asyncio.create_task(wait())
            await holds.wait()
            while len(tickets(server)) < 2:
                await asyncio.sleep(0.001)
            for task in (waiter, holder):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert tickets(server) == []

    asyncio.run(main())


def test_a_task_that_is_cancelled_twice(server):
    """Once where it waits, and once more where it waits for its request to be withdrawn."""

    async def main():
        async with aio.connect(server.path) as locks, locks.lock("backup"):

            async def wait():
                async with locks.lock("backup"):
                    pass

            waiter = asyncio.create_task(wait())
            while len(tickets(server)) < 2:
                await asyncio.sleep(0.001)
            waiter.cancel()
            await asyncio.sleep(0)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            while len(tickets(server)) > 1:
                await asyncio.sleep(0.001)

    asyncio.run(main())


def test_timeouts_of_asyncio(server):
    async def main():
        async with aio.connect(server.path) as locks, aio.connect(server.path) as others, others.lock("backup"):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await locks.lock("backup").__aenter__()
            with pytest.raises(LockTimeout):
                await locks.lock("backup", timeout=0.05).__aenter__()
            assert len(tickets(server)) == 1

    asyncio.run(main())


@pytest.mark.parametrize("hold", [lambda locks: locks.lock("backup"), lambda locks: locks.candidate("backup")])
def test_a_task_that_is_cancelled_comes_out_where_the_lock_server_stands_still(server, monkeypatch, hold):
    monkeypatch.setattr("cluck.client.lock_steps.ANSWER_PATIENCE", 1000.0)
    monkeypatch.setattr("cluck.client.session_locks.ANSWER_PATIENCE", 1000.0)

    async def stop_and_be_cancelled(locks):
        async with asyncio.timeout(None) as limit, hold(locks):
            server.lock.acquire()
            limit.reschedule(0)
            await asyncio.sleep(1000)

    async def main():
        async with asyncio.timeout(20), aio.connect(server.path) as locks:
            with pytest.raises(TimeoutError):
                await stop_and_be_cancelled(locks)
            server.lock.release()
            while tickets(server):
                await asyncio.sleep(0.001)

    asyncio.run(main())


def test_many_tasks_take_turns(server):
    async def main():
        inside, turns = 0, 0

        async def work(locks):
            nonlocal inside, turns
            for _ in range(5):
                async with locks.lock("turn") as held:
                    assert not inside
                    inside += 1
                    turns += 1
                    held.check()
                    await asyncio.sleep(0)
                    inside -= 1

        async with aio.connect(server.path) as one, aio.connect(server.path) as two:
            await asyncio.gather(*(work(locks) for locks in (one, two) for _ in range(10)))
        assert turns == 100

    asyncio.run(main())


def test_no_trio_is_loaded():
    program = """
        import asyncio, sys
        import cluck

        async def main():
            try:
                async with cluck.aio.connect("/nowhere"):
                    pass
            except cluck.DaemonUnavailable:
                print("trio" in sys.modules)

        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "False\n"


def test_the_street_door():
    import cluck

    for name in cluck.__all__:
        assert getattr(cluck, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        cluck.nothing_like_it  # noqa: B018
