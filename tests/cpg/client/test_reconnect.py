"""A daemon that is restarted, and programs that connect again."""

import asyncio
import select

import pytest
import trio

import cpg
import cpg.aio


class Restarts:
    """A daemon that the test starts and stops."""

    def __init__(self, make_daemon, nursery):
        self._make = make_daemon
        self._nursery = nursery
        self._ended = trio.Event()
        self._ended.set()

    async def start(self):
        """Start it when the one before has ended."""
        await self._ended.wait()
        self.daemon = await self._nursery.start(self._run)

    async def _run(self, task_status):
        self._end, self._ended = trio.Event(), trio.Event()
        async with self._make().running() as daemon:
            task_status.started(daemon)
            await self._end.wait()
        self._ended.set()

    async def stop(self):
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
    async with cpg.connect(restarts.daemon.path) as ring, ring.join("chat") as group:
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
    async with cpg.connect(daemon.path) as ring, ring.join("chat") as group:
        await next_of(group, cpg.Quorum)
        daemon.ring._admit(b"chat", 4711, Gate(restarts, nursery))  # ends the daemon before it delivers
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
    """A member that ends the daemon at the first message, before its clients get it."""

    def __init__(self, restarts, nursery):
        self._restarts, self._nursery = restarts, nursery
        self._closed = False

    def messages(self, sender, level, payloads):
        if not self._closed:
            self._closed = True
            for client in list(self._restarts.daemon.hub.clients):
                client.writer.discard()
                client.ended = True
            self._nursery.start_soon(self._restarts.stop)

    def event(self, event):
        pass


async def test_a_group_can_be_left_meanwhile(restarts):
    async with cpg.connect(restarts.daemon.path) as ring:
        async with ring.join("chat") as group:
            await next_of(group, cpg.Quorum)
            await restarts.stop()
            await next_of(group, cpg.Transitional)
        await restarts.start()
        await ring.wait_quorate()
        assert await ring.list_groups() == {}


async def test_programs_end_as_they_should_while_there_is_no_daemon(restarts):
    async with cpg.connect(restarts.daemon.path) as ring, ring.join("chat") as group:
        await next_of(group, cpg.Quorum)
        await restarts.stop()
        await next_of(group, cpg.Transitional)
    await restarts.start()


async def test_on_asyncio(restarts):
    def program(path):
        async def main():
            async with cpg.aio.connect(path) as ring, ring.join("chat") as group:
                await next_of(group, cpg.Quorum)
                trio.from_thread.run(restarts.stop)
                assert type(await next_of(group, cpg.Transitional)) is cpg.Transitional
                trio.from_thread.run(restarts.start)
                await group.send(b"again")
                return (await next_of(group, cpg.Message)).data

        return asyncio.run(main())

    assert await trio.to_thread.run_sync(program, restarts.daemon.path) == b"again"


async def test_without_an_event_loop(restarts):
    def program(path):
        with cpg.CPG("chat", path=path) as chat:
            seen = []
            chat.on_message(lambda sender, data: seen.append(data))
            chat.on_confchg(lambda members, left, joined: seen.append((members, set(left), set(joined))))
            chat.on_transitional(seen.append)
            while chat.dispatch(0):
                pass
            own = chat.member
            assert seen == [((own,), set(), {own})]
            trio.from_thread.run(restarts.stop)
            while len(seen) < 3:
                assert chat.dispatch()
            assert seen[1:] == [(), ((), {own}, set())]
            assert not chat.dispatch(0.01)
            trio.from_thread.run(restarts.start)
            chat.send(b"again")
            assert chat.flush(20)
            while len(seen) < 5:
                assert chat.dispatch()
            assert seen[3:] == [((own,), set(), {own}), b"again"]

    await trio.to_thread.run_sync(program, restarts.daemon.path)


async def test_what_was_not_back_is_not_known_without_an_event_loop(restarts, nursery):
    def program(path):
        with cpg.CPG("chat", path=path) as chat:
            trio.from_thread.run_sync(restarts.daemon.ring._admit, b"chat", 4711, Gate(restarts, nursery))
            chat.send(b"lost or not")
            with pytest.raises(cpg.OutcomeUnknown, match="1 messages had not come back"):
                chat.flush(20)
            trio.from_thread.run(restarts.start)
            chat.send(b"not lost")
            assert chat.flush(20)

    await trio.to_thread.run_sync(program, restarts.daemon.path)


async def test_a_program_that_selects_is_woken_when_the_daemon_is_there_again(restarts):
    def program(path):
        with cpg.CPG("chat", path=path) as chat:
            seen = []
            chat.on_confchg(lambda members, left, joined: seen.append(set(joined)))

            def follow(count):
                while len(seen) < count:
                    assert select.select([chat], [], [], 20)[0]
                    chat.dispatch(0)

            follow(1)
            trio.from_thread.run(restarts.stop)
            follow(2)
            trio.from_thread.run(restarts.start)
            follow(3)
            assert seen == [{chat.member}, set(), {chat.member}]
            while chat.dispatch(0):
                pass
            assert not select.select([chat], [], [], 0.2)[0]

    await trio.to_thread.run_sync(program, restarts.daemon.path)
