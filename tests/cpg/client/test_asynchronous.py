"""Programs on trio and asyncio at a daemon, cancelled at any moment."""

import asyncio
import os

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import cpg
import cpg.aio


async def test_long_lists_at_once_are_no_misuse(daemon):
    async with daemon.connect() as ring, ring.join("chat") as group:
        seen = []
        group.on_message(lambda sender, data: seen.append(data))
        group.send_nowait([bytes(10_000)] * 90)
        await group.flush()
        group.send_nowait([b""] * 4000)
        await group.flush()
    assert seen == [bytes(10_000)] * 90 + [b""] * 4000


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 1_047_552, 1_047_553, 16 << 20])
async def test_messages_of_all_sizes(daemon, size):
    async with daemon.connect() as ring, ring.join(b"\0" * 128) as group, ring.join("1") as other:
        seen = []
        group.on_message(lambda sender, data: seen.append(data))
        other.on_message(lambda sender, data: seen.append(data))
        payload = os.urandom(size)
        await group.send(payload)
        await group.flush()
        await other.send([b"before", payload, b"behind"], cpg.SAFE)
        await other.flush()
        with pytest.raises(cpg.MessageTooLong):
            await other.send(bytes((16 << 20) + 1))
        assert seen == [payload, b"before", payload, b"behind"]


async def test_a_group_that_was_left_is_closed_for_trio(daemon):
    async with daemon.connect() as ring:
        group = ring.join("chat")
        for _ in range(2):
            with pytest.raises(cpg.NotJoined) as before:
                await group.send(b"before the block, and behind it")
            assert isinstance(before.value, trio.ClosedResourceError)
            if group._membership is None:
                async with group:
                    pass


async def test_senders_that_wait_go_on_also_if_those_before_them_have_given_up(daemon):
    async with daemon.connect() as ring:
        unsent, ring._records.unsent = ring._records.unsent, b"\0"  # as if the socket were full
        granted = []

        async def sender(number):
            await ring._wait_room(300_000)
            granted.append(number)

        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as givers_up:
                async with trio.open_nursery() as patience:
                    for number in range(3):
                        patience.start_soon(sender, number)
                    await wait_all_tasks_blocked()
                    for number in range(3, 9):
                        nursery.start_soon(sender, number)
                    await wait_all_tasks_blocked()
                    ring._records.unsent = unsent
                    ring._wake_senders()
                    givers_up.cancel()
            with trio.fail_after(5):
                while not {3, 4, 5, 6, 7, 8} <= set(granted):
                    await trio.sleep(0.01)


async def test_an_answer_that_nobody_waits_for_is_not_kept(daemon):
    async with daemon.connect() as ring:
        for _ in range(20):
            with trio.move_on_after(0):
                await ring.query("status")
        await ring.query("status")
        session = ring._session
        assert (session._replies, session._queries) == ({}, set())


async def life(ring, seen):
    """Everything that a program may wait for."""
    async with ring.join("chat") as group:
        await group.send([bytes(10_000)] * 300)
        await group.flush()
        async for event in group:
            seen.append(event)
            if type(event) is cpg.Message:
                break
        await ring.list_groups()
        await ring.wait_members(1)
        async with ring.join("other") as other:
            other.on_message(lambda sender, data: seen.append(data))
            await other.send(b"x")
            await other.flush()


class CancelAt(trio.abc.Instrument):
    """Cancel a scope when its task waits for the n-th time."""

    def __init__(self, number, scope):
        self.task = trio.lowlevel.current_task()
        self.rests = 0
        self._number, self._scope = number, scope

    def after_task_step(self, task):
        if task is self.task:
            self.rests += 1
            if self.rests == self._number:
                self._scope.cancel()


async def test_cancelled_at_every_rest_nothing_is_left_behind(daemon):
    number, ended = 0, False
    async with daemon.connect() as ring:
        while not ended:
            number += 1
            with trio.CancelScope() as scope:
                instrument = CancelAt(number, scope)
                trio.lowlevel.add_instrument(instrument)
                try:
                    await life(ring, [])
                    ended = True
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            await ring.list_groups()
            assert not ring._joined
            assert not ring._senders
        with trio.fail_after(5):
            while daemon.ring.groups or daemon.hub._stays:
                await trio.sleep(0.01)
        assert not ring._session._memberships
    assert number > 10


async def test_connections_cancelled_at_every_rest(daemon):
    number, ended = 0, False
    while not ended:
        number += 1
        with trio.CancelScope() as scope:
            instrument = CancelAt(number, scope)
            trio.lowlevel.add_instrument(instrument)
            try:
                async with daemon.connect() as ring:
                    await life(ring, [])
                ended = True
            finally:
                trio.lowlevel.remove_instrument(instrument)
        await nobody_is_left(daemon)
    assert number > 10


def cancelled_on_asyncio(daemon, *, twice):
    """Run programs on asyncio whose task is cancelled (perhaps again) at its n-th wait, for all n."""
    rings = []

    class Counted:
        """Drive a coroutine, and cancel its task at its n-th wait."""

        def __init__(self, coroutine, number):
            self._coroutine, self._number = coroutine, number
            self.rests = 0

        def __await__(self):
            return self

        def __iter__(self):
            return self

        def __next__(self):
            return self.send(None)

        def send(self, value):
            return self._rest(self._coroutine.send, value)

        def throw(self, *error):
            return self._rest(self._coroutine.throw, *error)

        def close(self):
            self._coroutine.close()

        def _rest(self, go_on, *arguments):
            found = go_on(*arguments)
            self.rests += 1
            if self.rests == self._number or (twice and self.rests == self._number + 1):
                asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
            return found

    async def program(number):
        async def whole():
            async with cpg.aio.connect(daemon.path) as ring:
                rings.append(ring)
                await life(ring, [])

        counted = Counted(whole(), number)

        async def drive():
            await counted

        task = asyncio.create_task(drive())
        try:
            await asyncio.wait_for(asyncio.shield(task), 10)
        except asyncio.CancelledError:
            return False
        finally:
            left = [other for other in asyncio.all_tasks() if other is not asyncio.current_task()]
            assert not left, left
        return counted.rests < number

    number = 0
    while True:
        number += 1
        if asyncio.run(program(number)):
            return number
        assert not any(ring._joined for ring in rings)
        trio.from_thread.run(nobody_is_left, daemon)


async def nobody_is_left(daemon):
    with trio.fail_after(5):
        while daemon.ring.groups or daemon.hub.clients:
            await trio.sleep(0.001)


@pytest.mark.parametrize("twice", [False, True])
async def test_asyncio_tasks_cancelled_at_every_rest(daemon, twice):
    assert await trio.to_thread.run_sync(lambda: cancelled_on_asyncio(daemon, twice=twice)) > 10
