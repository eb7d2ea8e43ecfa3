"""What a program may do on any kind of ring: the same programs run embedded, on a fake libcpg and on a real Corosync.

Each gets `open_ring`, which opens the ring of one node, and raises where the ring breaks a promise.
"""

# ruff: noqa: PT012 - the block that raises is the block under test

import pytest
import trio

import cpg

PROGRAMS = []
LARGEST_PLAIN = 1_047_552


def program(function):
    PROGRAMS.append(function)
    return function


async def messages(group, count):
    """Read so many messages, and the events between them."""
    found = []
    while len(found) < count:
        event = await anext(group)
        if type(event) is cpg.Message:
            found.append(event)
    return found


@program
async def a_stream_begins_with_the_own_join_the_ring_and_its_quorum(open_ring):
    async with open_ring() as ring, ring.join("chat") as group:
        assert group.members == (ring.member,)
        await group.send(b"first")
        own = cpg.Confchg((ring.member,), {}, {ring.member: cpg.Reason.JOIN})
        assert await anext(group) == own
        assert await anext(group) == cpg.TotemConfchg(ring.ring_id, ring.node_ids)
        event = await anext(group)
        if type(event) is cpg.Quorum:
            assert event.node_ids == ring.node_ids
            event = await anext(group)
        assert event == cpg.Message(ring.member, b"first", cpg.Level.AGREED)


@program
async def lists_of_several_tasks_stay_whole_and_in_order(open_ring):
    async with open_ring() as ring, ring.join("chat") as group:

        async def send(name):
            for start in range(0, 500, 100):
                await group.send([b"%s %d" % (name, number) for number in range(start, start + 100)])

        async with trio.open_nursery() as nursery:
            for name in (b"a", b"b", b"c"):
                nursery.start_soon(send, name)
        found = [event.data.split() for event in await messages(group, 1500)]
        for start in range(0, 1500, 100):
            assert len({name for name, _ in found[start : start + 100]}) == 1
        for name in (b"a", b"b", b"c"):
            assert [int(number) for other, number in found if other == name] == list(range(500))


@program
async def every_size_arrives_as_it_was(open_ring):
    sizes = [0, 1, 1999, 2000, 2001, LARGEST_PLAIN, 0, LARGEST_PLAIN + 1, 3, 16 << 20, 5]
    payloads = [bytes([number]) * size for number, size in enumerate(sizes)]
    async with open_ring() as ring, ring.join("chat") as group:
        await group.send(payloads)
        assert [event.data for event in await messages(group, len(sizes))] == payloads
        with pytest.raises(cpg.MessageTooLong):
            await group.send([b"good", bytes((16 << 20) + 1)])
        await group.send(b"last")
        assert (await anext(group)).data == b"last"


@program
async def two_groups_do_not_hear_each_other(open_ring):
    heard = {"one": [], "two": []}
    async with open_ring() as ring, ring.join("one") as one, ring.join("two") as two:
        one.on_message(lambda _, data: heard["one"].append(data))
        two.on_message(lambda _, data: heard["two"].append(data))
        for number in range(20):
            await one.send(b"one %d" % number)
            await two.send(b"two %d" % number)
        await one.flush()
        await two.flush()
        groups = await ring.list_groups()
        assert groups[b"one"] == groups[b"two"] == (ring.member,)
        assert list(groups) == sorted(groups)
    for name, data in heard.items():
        assert data == [f"{name} {number}".encode() for number in range(20)]


@program
async def a_group_is_joined_once_at_a_time(open_ring):
    async with open_ring() as ring:
        for _ in range(3):
            async with ring.join("chat") as group:
                with pytest.raises(cpg.AlreadyJoined):
                    async with ring.join("chat"):
                        raise AssertionError
                await group.send(b"still here")
                await group.flush()
        assert b"chat" not in await ring.list_groups()


@program
async def a_program_that_does_not_read_is_put_out_and_may_come_again(open_ring):
    async with open_ring() as ring:
        with pytest.raises(cpg.SlowConsumer):
            async with ring.join("chat", limit=10_000) as group:
                while True:
                    await group.send(bytes(1000))
        async with ring.join("chat") as group:
            await group.send(b"again")
            assert [event.data for event in await messages(group, 1)] == [b"again"]


@program
async def an_error_in_a_callback_comes_out_and_the_ring_goes_on(open_ring):
    async with open_ring() as ring:
        with pytest.raises(ZeroDivisionError):
            async with ring.join("chat") as group:
                group.on_message(lambda sender, data: 1 // 0)
                await group.send(b"bang")
                await trio.sleep_forever()
        async with ring.join("chat") as group:
            await group.send(b"again")
            assert [event.data for event in await messages(group, 1)] == [b"again"]


@program
async def what_was_sent_comes_back_before_the_own_leave(open_ring):
    seen = []
    async with open_ring() as ring:
        async with ring.join("chat") as group:
            group.on_message(lambda sender, data: seen.append(data))
            group.on_confchg(lambda members, left, joined: seen.append((left, joined)))
            await group.send([b"%d" % number for number in range(300)])
        own = ring.member
    assert seen[0] == ({}, {own: cpg.Reason.JOIN})
    assert seen[1:-1] == [b"%d" % number for number in range(300)]
    assert seen[-1] == ({own: cpg.Reason.LEAVE}, {})


@program
async def safe_is_safe_or_refused(open_ring):
    async with open_ring() as ring, ring.join("chat") as group:
        if ring.gives_safe:
            await group.send(b"safe", cpg.SAFE)
            level = cpg.Level.SAFE
        else:
            for send in (group.send_nowait, group.send):
                with pytest.raises(cpg.NotSupported, match="SAFE_OR_AGREED"):
                    await send(b"safe", cpg.SAFE)
            await group.send(b"safe", cpg.SAFE_OR_AGREED)
            level = cpg.Level.AGREED
        await group.send(b"best", cpg.SAFE_OR_AGREED)
        assert [(event.data, event.level) for event in await messages(group, 2)] == [(b"safe", level), (b"best", level)]


@program
async def a_full_queue_refuses_or_waits_and_loses_nothing(open_ring):
    async with open_ring() as ring, ring.join("chat") as group:
        lengths = []
        group.on_message(lambda _, data: lengths.append(len(data)))
        with pytest.raises(trio.WouldBlock):
            for _ in range(300):
                group.send_nowait(bytes(50_000))
        before = group._sent
        for _ in range(300 - before):
            await group.send(bytes(50_000))
        await group.flush()
        assert lengths == [50_000] * 300


@program
async def bad_names_are_refused(open_ring):
    async with open_ring() as ring:
        for name in (b"", bytes(129)):
            with pytest.raises(ValueError, match="1 to 128 bytes"):
                async with ring.join(name):
                    raise AssertionError
        async with ring.join(b"x" * 127) as group:
            await group.send(b"long name")
            await group.flush()


@program
async def a_ring_that_was_left_has_no_groups(open_ring):
    async with open_ring() as ring:
        await ring.wait_members(1)
    with pytest.raises(cpg.RingLost):
        async with ring.join("chat"):
            raise AssertionError
    with pytest.raises(cpg.RingLost):
        await ring.wait_members(1)
