"""A process that was forked inside a block: it can send nothing, and its end leaves its parent in the groups."""

import os
import sys
import textwrap

import pytest
import trio

import cpg
from cpg.libcpg import corosync
from tests.cpg.libcpg.fake_corosync import FakeCorosync

FORKS = """
    import os, sys
    import anyio, cpg
    from cpg import aio

    PARENT = os.getpid()

    async def run(main):
        try:
            await main()
        finally:
            if os.getpid() != PARENT:
                print("the child has ended its blocks", flush=True)
                os._exit(0)  # not through the loop, which it shares with its parent

    async def refused(call, *arguments):
        try:
            await call(*arguments)
        except RuntimeError as error:
            assert "before the fork" in str(error), error
        else:
            print(call.__name__, "is not refused", flush=True)

    async def fork(ring, group, seen):
        "Fork; the child tries all that writes, and goes through the ends of the blocks."
        await group.send(b"before")
        await group.flush()
        child = os.fork()
        if not child:
            await refused(group.send, b"from the child")
            await refused(group.flush)
            await refused(ring.join("another").__aenter__)
            await refused(getattr(ring, "query", ring.wait_quorate), *["status"] * hasattr(ring, "query"))
            try:
                group.send_nowait(b"from the child")
            except RuntimeError:
                print("the child is refused", flush=True)
            raise SystemExit
        os.waitpid(child, 0)
        await anyio.sleep(0.3)
        await group.send(b"behind")
        with anyio.fail_after(10):
            await group.flush()
        assert group.members == (group.member,), group.members
        assert seen == [b"before", b"behind"], seen
        print("the parent is a member", flush=True)
"""
OUTPUT = b"the child is refused\nthe child has ended its blocks\nthe parent is a member\n"
AT_A_DAEMON = """
    async def main():
        connect = cpg.connect if sys.argv[2] == "trio" else aio.connect
        async with connect(sys.argv[1]) as ring, ring.join("chat") as group:
            seen = []
            group.on_message(lambda sender, data: seen.append(data))
            await fork(ring, group, seen)

    anyio.run(run, main, backend=sys.argv[2])
"""
NODES = """
    async def main():
        async with cpg.open_ring(sys.argv[1], 1) as one, cpg.open_ring(sys.argv[1], 2) as two:
            await one.wait_members(2)
            await two.wait_members(2)
            async with one.join("chat") as group:
                seen, ring_id = [], one.ring_id
                group.on_message(lambda sender, data: seen.append(data))
                await fork(one, group, seen)
                assert one.ring_id == two.ring_id == ring_id

    anyio.run(run, main, backend="trio")
"""


async def both(program, *arguments):
    with trio.fail_after(40):
        done = await trio.run_process(
            [sys.executable, "-c", textwrap.dedent(FORKS + program), *map(str, arguments)],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, OUTPUT), done.stderr.decode()


@pytest.mark.parametrize("loop", ["trio", "asyncio"])
async def test_at_a_daemon(daemon, loop):
    await both(AT_A_DAEMON, daemon.path, loop)


async def test_nodes(config):
    await both(NODES, config)


async def test_at_corosync(monkeypatch):
    fake = FakeCorosync(os.getpid())
    monkeypatch.setattr(corosync, "load", lambda: fake.libraries)
    child = None
    try:
        async with cpg.open_corosync() as ring, ring.join("chat") as group:
            seen = []
            group.on_message(lambda sender, data: seen.append(data))
            child = os.fork()
            if not child:
                fake.calls = []
                with pytest.raises(RuntimeError, match="before the fork"):
                    await group.send(b"from the child")
                with pytest.raises(RuntimeError, match="before the fork"):
                    await ring.list_groups()
                raise SystemExit
            assert os.waitpid(child, 0)[1] == 0
            await group.send(b"from the parent")
            with trio.fail_after(10):
                await group.flush()
            assert seen == [b"from the parent"]
    except BaseException as error:
        if child == 0:
            os._exit(not (isinstance(error, SystemExit) and len(fake.clients) == 1))
        raise
    finally:
        if child == 0:
            os._exit(2)
        fake.running.set()
