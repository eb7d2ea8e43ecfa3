"""Programs on asyncio: the same ring and groups, with no trio in the process."""

import asyncio
import subprocess
import sys
import textwrap

import pytest
import trio

import cpg.aio


async def on_asyncio(program, daemon):
    """Run a program on asyncio in a thread, beside the daemon."""
    return await trio.to_thread.run_sync(lambda: asyncio.run(program(daemon.path)))


async def test_messages_and_changes(daemon):
    async def program(path):
        async with cpg.aio.connect(path) as ring, ring.join("chat") as group:
            seen = []
            group.on_message(lambda sender, data: seen.append((sender, data)))
            group.on_confchg(lambda members, left, joined: seen.append((members, joined)))
            await group.send([b"one", b"two"])
            await group.flush()
            return ring.member, list(seen)

    member, seen = await on_asyncio(program, daemon)
    assert seen == [((member,), {member: cpg.Reason.JOIN}), (member, b"one"), (member, b"two")]


async def test_iteration_between_two_loops(daemon):
    async def program(path):
        async with cpg.aio.connect(path) as ring, ring.join("theirs") as group:
            async for event in group:
                if type(event) is cpg.Message:
                    return event.data, await ring.list_groups()

    async with trio.open_nursery() as nursery:
        result = []

        async def run():
            result.append(await on_asyncio(program, daemon))

        nursery.start_soon(run)
        while b"theirs" not in daemon.ring.groups:
            await trio.sleep(0.01)
        inbox = Silent()
        membership = daemon.ring._admit(b"theirs", 4711, inbox)
        membership.send([b"hello"])
        daemon.ring._send_soon()
    ((data, groups),) = result
    assert data == b"hello"
    assert cpg.Member(1, 4711) in groups[b"theirs"]


class Silent:
    def messages(self, sender, level, payloads):
        pass

    def event(self, event):
        pass


async def test_a_callback_that_raises_ends_the_block(daemon):
    async def program(path):
        async with cpg.aio.connect(path) as ring, ring.join("chat") as group:

            @group.on_message
            def _(sender, data):
                raise KeyError(data)

            await group.send(b"oops")
            await asyncio.sleep(40)

    with pytest.raises(KeyError, match="oops"):
        await on_asyncio(program, daemon)


async def test_a_full_queue_and_a_second_consumer_raise_asyncios_errors(daemon):
    async def program(path):
        async with cpg.aio.connect(path) as ring, ring.join("chat") as group:
            for error in (cpg.QueueFull, asyncio.QueueFull):
                with pytest.raises(error):
                    group.send_nowait([bytes(100_000)] * 100)
            group.__aiter__()
            with pytest.raises(cpg.StreamBusy, match="iterated"):
                group.on_message(print)

    await on_asyncio(program, daemon)


async def test_a_cancelled_task_leaves_in_order(daemon):
    async def program(path):
        joined = asyncio.Event()

        async def member():
            async with cpg.aio.connect(path) as ring, ring.join("chat"):
                joined.set()
                await asyncio.sleep(40)

        task = asyncio.create_task(member())
        await joined.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    await on_asyncio(program, daemon)
    assert b"chat" not in daemon.ring.groups


async def test_timeouts_of_asyncio(daemon):
    async def program(path):
        async with cpg.aio.connect(path) as ring:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await ring.wait_members(2)

    await on_asyncio(program, daemon)


async def test_a_daemon_that_ends(make_daemon):
    daemon = make_daemon()

    async def program(path):
        async with cpg.aio.connect(path, reconnect=False):
            await asyncio.sleep(40)

    async def expect():
        with pytest.raises(cpg.RingLost, match="told to end"):
            await on_asyncio(program, daemon)

    async with trio.open_nursery() as nursery, daemon.running():
        nursery.start_soon(expect)
        while not any(client.welcomed for client in daemon.hub.clients):
            await trio.sleep(0.01)


def test_no_trio_is_loaded():
    program = """
        import asyncio, sys
        import cpg

        async def main():
            try:
                async with cpg.aio.connect("/nowhere"):
                    pass
            except cpg.DaemonUnavailable:
                print("trio" in sys.modules)

        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, timeout=40
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", ["open_ring", "open_corosync"])
def test_what_needs_trio_says_so_on_asyncio(name):
    async def program():
        async with getattr(cpg, name)(*["/nowhere"][: name == "open_ring"]):
            pass

    with pytest.raises(RuntimeError, match=rf"^cpg.{name} runs on trio, not on asyncio: .* cpg.aio.connect"):
        asyncio.run(program())
