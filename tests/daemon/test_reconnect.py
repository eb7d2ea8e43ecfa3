"""A daemon that is restarted, and programs that asked to be connected again."""

import asyncio

import pytest
import trio

import cpg
import cpg.aio


class Restarts:
    """A daemon that runs, is ended, and runs again, at the test's word."""

    def __init__(self, make_daemon, nursery):
        self._make = make_daemon
        self._nursery = nursery

    async def start(self):
        self.daemon = await self._nursery.start(self._run)

    async def _run(self, task_status):
        with trio.CancelScope() as self._scope:
            async with self._make().running() as daemon:
                self._end = trio.Event()
                task_status.started(daemon)
                await self._end.wait()
        self._ended.set()

    async def stop(self):
        self._ended = trio.Event()
        self._end.set()
        await self._ended.wait()


@pytest.fixture
async def restarts(make_daemon, nursery):
    with trio.fail_after(40):
        restarts = Restarts(make_daemon, nursery)
        await restarts.start()
        yield restarts
        await restarts.stop()


async def next_of(group, kind):
    async for event in group:
        if type(event) is kind:
            return event


async def test_groups_are_left_and_joined_again(restarts):
    async with cpg.connect(restarts.daemon.path, reconnect=True) as ring, ring.join("chat") as group:
        own = ring.member
        rings = []
        ring.on_totem_confchg(lambda ring_id, node_ids: rings.append(ring_id))
        await next_of(group, cpg.Quorum)
        await restarts.stop()
        assert await anext(group) == cpg.Transitional(())
        assert await anext(group) == cpg.Confchg((), {own: cpg.Reason.NODEDOWN}, {})
        assert (group.members, ring.node_ids, ring.quorate) == ((), (), False)
        await restarts.start()
        assert await anext(group) == cpg.Confchg((own,), {}, {own: cpg.Reason.JOIN})
        assert type(await anext(group)) is cpg.TotemConfchg
        await ring.wait_quorate()
        await group.send(b"here again")
        assert (await next_of(group, cpg.Message)).data == b"here again"
        assert len(set(rings)) == 2


async def test_a_sender_waits_and_a_flush_that_cannot_know_says_so(restarts, nursery):
    daemon = restarts.daemon
    async with cpg.connect(daemon.path, reconnect=True) as ring, ring.join("chat") as group:
        await next_of(group, cpg.Quorum)
        daemon.ring.admit(b"chat", 4711, Gate(restarts, nursery))  # ends the daemon before it delivers
        await group.send(b"lost or not")
        with pytest.raises(cpg.OutcomeUnknown, match="1 messages had not come back"):
            await group.flush()
        sent = trio.Event()

        async def send():
            await group.send(b"waited")
            sent.set()

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        assert not sent.is_set()
        await restarts.start()
        await sent.wait()
        await group.flush()
        while (await next_of(group, cpg.Message)).data != b"waited":
            pass


class Gate:
    """A member that ends the daemon at the first message, before its clients are told of it."""

    def __init__(self, restarts, nursery):
        self._restarts, self._nursery = restarts, nursery
        self._closed = False

    def messages(self, sender, level, payloads):
        if not self._closed:
            self._closed = True
            for client in list(self._restarts.daemon.hub.clients):
                client.writer.clear()
                client.ended = True
            self._nursery.start_soon(self._restarts.stop)

    def event(self, event):
        pass


async def test_a_group_can_be_left_meanwhile(restarts):
    async with cpg.connect(restarts.daemon.path, reconnect=True) as ring:
        async with ring.join("chat") as group:
            await next_of(group, cpg.Quorum)
            await restarts.stop()
            await next_of(group, cpg.Transitional)
        await restarts.start()
        await ring.wait_quorate()
        assert await ring.list_groups() == {}


async def test_programs_end_as_they_should_while_there_is_no_daemon(restarts):
    async with cpg.connect(restarts.daemon.path, reconnect=True) as ring, ring.join("chat") as group:
        await next_of(group, cpg.Quorum)
        await restarts.stop()
        await next_of(group, cpg.Transitional)
    await restarts.start()


async def test_on_asyncio(restarts):
    def program(path):
        async def main():
            async with cpg.aio.connect(path, reconnect=True) as ring, ring.join("chat") as group:
                await next_of(group, cpg.Quorum)
                trio.from_thread.run(restarts.stop)
                assert type(await next_of(group, cpg.Transitional)) is cpg.Transitional
                trio.from_thread.run(restarts.start)
                await group.send(b"again")
                return (await next_of(group, cpg.Message)).data

        return asyncio.run(main())

    assert await trio.to_thread.run_sync(program, restarts.daemon.path) == b"again"
