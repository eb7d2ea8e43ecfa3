"""A group on a backend that is only a list (`fake_ring`), in virtual time."""

# ruff: noqa: PT012 - the block that raises is the block under test

import pytest
import trio

import cpg.group
from cpg.errors import SlowConsumer
from cpg.events import Confchg, Member, Message, Reason
from cpg.group import Group
from tests.cpg.fake_ring import RING, FakeRing
from totem.configuration import Level
from totem.errors import MessageTooLong, RingLost

ONE, TWO = Member(1, 1001), Member(2, 1002)
OWN_JOIN = Confchg((ONE,), {}, {ONE: Reason.JOIN})
OWN_LEAVE = Confchg((), {ONE: Reason.LEAVE}, {})


@pytest.fixture
async def ring(nursery):
    ring = FakeRing()
    nursery.start_soon(ring.run)
    return ring


@pytest.fixture
def node(ring, nursery):
    return ring.node(nursery)


@pytest.fixture
def other(ring, node, nursery):
    return ring.node(nursery)


async def test_entering_waits_for_the_own_join_which_is_the_first_event(node, autojump_clock):
    async with Group(node, "chat") as group:
        assert group.members == (ONE,)
        assert [await anext(group), await anext(group)] == [OWN_JOIN, RING]


async def test_callbacks_registered_before_the_first_checkpoint_miss_nothing(node, autojump_clock):
    seen = []
    async with Group(node, "chat") as group:
        group.send_nowait(b"early")

        @group.on_message
        def _(sender, message):
            seen.append((sender, message))

        @group.on_confchg
        def _(members, left, joined):
            seen.append(Confchg(members, left, joined))

        @group.on_totem_confchg
        def _(ring_id, node_ids):
            seen.append((ring_id, node_ids))

        assert seen == []
        await group.flush()
        assert seen == [OWN_JOIN, RING, (ONE, b"early")]


async def test_leaving_delivers_own_messages_and_the_own_leave_to_callbacks(node, autojump_clock):
    seen = []
    async with Group(node, "chat") as group:
        group.on_message(lambda sender, message: seen.append(message))
        group.on_confchg(lambda *confchg: seen.append(confchg))
        await group.send(b"last")
    assert seen == [OWN_JOIN, b"last", OWN_LEAVE]


async def test_events_wait_for_the_first_callback(node, autojump_clock):
    seen = []
    async with Group(node, "chat") as group:
        await group.send(b"one")
        await trio.sleep(1)
        group.on_message(lambda sender, message: seen.append(message))
        await trio.sleep(1)
        assert seen == [b"one"]


async def test_two_members_see_the_same(node, other, autojump_clock):
    async with Group(node, "chat") as one, Group(other, "chat") as two:
        await one.send([b"a", b"b"])
        await two.send(b"c")
        await two.flush()
        ours = [await anext(one) for _ in range(6)]
        theirs = [await anext(two) for _ in range(5)]
    assert ours[3:] == theirs[2:]
    assert [event.data for event in theirs[2:]] == [b"a", b"b", b"c"]
    assert ours[2] == theirs[0] == Confchg((ONE, TWO), {}, {TWO: Reason.JOIN})


async def test_batches_are_lists_of_the_same_events(node, autojump_clock):
    async with Group(node, "chat") as group:
        await group.send([b"a", b"b"])
        seen = []
        async for batch in group.batches():
            assert isinstance(batch, list)
            seen += batch
            if len(seen) == 4:
                break
        assert seen == [OWN_JOIN, RING, Message(ONE, b"a", Level.AGREED), Message(ONE, b"b", Level.AGREED)]


async def test_callbacks_and_iteration_exclude_each_other(node, autojump_clock):
    async with Group(node, "chat") as group:
        group.on_message(print)
        with pytest.raises(trio.BusyResourceError, match="callbacks"):
            async for _ in group:
                pass
        with pytest.raises(trio.BusyResourceError, match="callbacks"):
            group.batches()
    async with Group(node, "chat") as group:
        async for _ in group:
            break
        with pytest.raises(trio.BusyResourceError, match="iterated"):
            group.on_message(print)


async def test_a_second_callback_is_refused_until_the_first_one_is_removed(node, autojump_clock):
    seen = []
    async with Group(node, "chat") as group:
        group.on_message(lambda sender, data: seen.append(("first", data)))
        with pytest.raises(cpg.StreamBusy, match="a callback for Message already; register None first"):
            group.on_message(print)
        await group.send(b"one")
        await group.flush()
        group.on_message(None)
        group.on_message(lambda sender, data: seen.append(("second", data)))
        await group.send(b"two")
        await group.flush()
    assert seen == [("first", b"one"), ("second", b"two")]


async def test_errors_of_the_loop_are_those_of_the_package(ring, node, autojump_clock):
    ring.capacity = 10
    async with Group(node, "chat") as group:
        with pytest.raises(cpg.QueueFull) as full:
            group.send_nowait(bytes(11))
        assert isinstance(full.value, trio.WouldBlock)
        assert repr(full.value).startswith("QueueFull(")
    with pytest.raises(cpg.NotJoined):
        Group(node, "chat").send_nowait(b"x")


async def test_one_task_iterates(node, nursery, autojump_clock):
    async with Group(node, "chat") as group:
        await anext(group)
        await anext(group)
        nursery.start_soon(anext, group)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError, match="another task"):
            await anext(group)
        await group.send(b"for the other task")
        await group.flush()


async def test_async_callbacks_are_refused(node, autojump_clock):
    async with Group(node, "chat") as group:
        with pytest.raises(TypeError, match="async for"):

            @group.on_message
            async def _(sender, message):
                raise AssertionError


async def test_a_callbacks_exception_cancels_the_body_and_comes_out_as_it_is(ring, node, other, autojump_clock):
    boom = ValueError("boom")
    seen = []

    def on_message(sender, message):
        seen.append(message)
        if message == b"bad":
            raise boom

    async with Group(other, "chat") as bystander:
        with pytest.raises(ValueError, match="boom") as caught:
            async with Group(node, "chat") as group:
                group.on_message(on_message)
                await group.send([b"good", b"bad", b"behind"])
                await trio.sleep_forever()
        assert caught.value is boom
        assert boom.__context__ is None
        assert seen == [b"good", b"bad"]
        last = None
        while not (isinstance(last, Confchg) and last.left):
            last = await anext(bystander)
        assert last == Confchg((TWO,), {ONE: Reason.LEAVE}, {})
        await bystander.send(b"going on")
        assert (await anext(bystander)).data == b"going on"


async def test_what_the_body_raises_is_the_context_of_a_callbacks_exception(node, autojump_clock):
    boom = ValueError("boom")

    def on_message(sender, message):
        raise boom

    with pytest.raises(ValueError, match="boom"):
        async with Group(node, "chat") as group:
            group.on_message(on_message)
            with trio.CancelScope(shield=True):
                await group.send(b"bad")
                while not group._ended():
                    await trio.sleep(0.01)
            raise KeyError("in vain")
    assert isinstance(boom.__context__, KeyError)


async def test_a_callback_that_fails_while_leaving_still_comes_out(node, autojump_clock):
    def on_message(sender, message):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with Group(node, "chat") as group:
            group.on_message(on_message)
            group.send_nowait(b"late")


async def test_the_bodys_exception_comes_out_as_it_is_and_the_group_is_left(ring, node, autojump_clock):
    seen = []
    with pytest.raises(KeyError):
        async with Group(node, "chat") as group:
            group.on_message(lambda sender, message: seen.append(message))
            await group.send(b"unread")
            raise KeyError
    assert ring.memberships == []
    assert seen == []


async def test_cancelling_the_body_leaves_in_order(ring, node, autojump_clock):
    with trio.move_on_after(1) as scope:
        async with Group(node, "chat"):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert ring.memberships == []
    assert node._joined == set()


async def test_cancelling_while_entering_leaves_in_order(ring, node, autojump_clock):
    ring.held = True
    with trio.move_on_after(1) as scope:
        async with Group(node, "chat"):
            raise AssertionError
    assert scope.cancelled_caught
    ring.turn()
    assert ring.memberships == []
    assert node._joined == set()


async def test_leaving_is_bounded_in_time(ring, node, autojump_clock):
    start = trio.current_time()
    async with Group(node, "chat"):
        ring.held = True
    assert trio.current_time() - start == pytest.approx(cpg.group.LEAVE_PATIENCE, abs=0.1)


async def test_a_slow_consumer_is_removed_in_order(ring, node, other, autojump_clock):
    async with Group(other, "chat") as fast:
        fast.on_message(lambda sender, message: None)
        with pytest.raises(SlowConsumer, match=r"'chat'.*5000 bytes"):
            async with Group(node, "chat", limit=5000):
                for _ in range(10):
                    await fast.send(bytes(1000))
                await trio.sleep_forever()
        assert [membership.member for membership in ring.memberships] == [TWO]
        await fast.send(b"going on")
        await fast.flush()


async def test_a_lost_ring_ends_the_body_with_the_reason(ring, node, autojump_clock):
    with pytest.raises(RingLost, match="socket gone"):
        async with Group(node, "chat"):
            ring.held = True
            node.lose("socket gone")
            await trio.sleep_forever()
    assert node._joined == set()
    with pytest.raises(RingLost):
        async with Group(node, "chat"):
            raise AssertionError


async def test_a_ring_lost_while_entering(ring, node, nursery, autojump_clock):
    ring.held = True

    async def lose():
        await trio.sleep(1)
        node.lose("killed")

    nursery.start_soon(lose)
    with pytest.raises(RingLost, match="killed"):
        async with Group(node, "chat"):
            raise AssertionError


async def test_send_waits_for_room_and_keeps_lists_together(ring, node, autojump_clock):
    ring.capacity = 400_000
    big = [b"a%d" % k + bytes(10_000) for k in range(100)]  # more than the queue holds
    async with Group(node, "chat") as group:
        async with trio.open_nursery() as tasks:
            tasks.start_soon(group.send, big)
            await trio.testing.wait_all_tasks_blocked()
            tasks.start_soon(group.send, b"between")
            with pytest.raises(trio.WouldBlock):
                group.send_nowait(b"now")
        await group.flush()
        seen = []
        while len(seen) < 101:
            event = await anext(group)
            if isinstance(event, Message):
                seen.append(event.data)
    assert seen == [*big, b"between"]


async def test_send_nowait_is_all_or_nothing(ring, node, autojump_clock):
    ring.capacity = 100
    async with Group(node, "chat") as group:
        with pytest.raises(trio.WouldBlock):
            group.send_nowait([bytes(60), bytes(60)])
        group.send_nowait([bytes(60), bytes(40)])
        with pytest.raises(trio.WouldBlock):
            group.send_nowait(b"x")
        await group.flush()
        group.send_nowait(b"x")
        await group.flush()


async def test_bytes_like_things_are_sent_and_an_empty_list_is_nothing(node, autojump_clock):
    async with Group(node, "chat") as group:
        await group.send(bytearray(b"a"))
        await group.send([memoryview(b"b"), b"c"])
        await group.send([])
        await group.send(b"")
        await group.flush()
        events = [await anext(group) for _ in range(6)]
    assert [event.data for event in events[2:]] == [b"a", b"b", b"c", b""]
    assert all(type(event.data) is bytes for event in events[2:])


async def test_text_is_no_message(node, autojump_clock):
    async with Group(node, "chat") as group:
        with pytest.raises(TypeError, match="encode"):
            await group.send("text")


@pytest.mark.parametrize("data", [5, [b"a", 5], [b"a", None], [b"a", "text"], {}, {b"a": 1}, {b"a"}, "text", None])
async def test_what_is_no_bytes_is_no_message(data, node, autojump_clock):
    async with Group(node, "chat") as group:
        for send in (group.send, group.send_nowait):
            with pytest.raises(TypeError, match="a message is bytes-like"):
                await send(data)
        await group.send(b"end")
        await group.flush()
        assert [event.data for event in [await anext(group) for _ in range(3)][2:]] == [b"end"]


@pytest.mark.parametrize("name", [5, True, None, ["chat"]])
async def test_a_number_is_no_name(name, node, autojump_clock):
    with pytest.raises(TypeError, match="str or bytes"):
        Group(node, name)


async def test_wrong_arguments_are_named_before_anything_is_done(node, autojump_clock):
    for limit, error in ((1.5, TypeError), (-1, ValueError), (None, TypeError)):
        with pytest.raises(error, match="limit="):
            Group(node, "chat", limit=limit)
    async with Group(node, "chat") as group:
        with pytest.raises(TypeError, match="guarantee='safe'"):
            await group.send(b"message", "safe")
        with pytest.raises(TypeError, match="callback=5"):
            group.on_message(5)
        group.on_message(lambda sender, message: None)
        await group.flush()


async def test_a_group_is_entered_once(node, autojump_clock):
    async with Group(node, "chat") as group:
        with pytest.raises(RuntimeError, match="entered once"):
            async with group:
                raise AssertionError


async def test_too_long_a_message_is_refused_before_anything_is_sent(ring, node, monkeypatch, autojump_clock):
    monkeypatch.setattr(cpg.payloads, "LARGEST_MESSAGE", 1000)
    async with Group(node, "chat") as group:
        with pytest.raises(MessageTooLong, match=r"1001 bytes.*1000"):
            await group.send([b"short", bytes(1001)])
        assert ring.queued == []


async def test_sending_is_a_checkpoint_and_sends_nothing_when_cancelled(ring, node, autojump_clock):
    async with Group(node, "chat") as group:
        with trio.testing.assert_checkpoints():
            await group.send(b"a")
        with trio.testing.assert_checkpoints():
            await group.flush()
        with trio.testing.assert_checkpoints():
            await anext(group)
        with trio.CancelScope() as scope:
            scope.cancel()
            await group.send(b"b")
        assert ring.queued == []


async def test_sending_outside_of_the_block(node, autojump_clock):
    group = Group(node, "chat")
    with pytest.raises(trio.ClosedResourceError):
        group.send_nowait(b"x")


async def test_iteration_ends_with_the_block(node, nursery, autojump_clock):
    ends = trio.Event()

    async def iterate(group):
        async for _ in group:
            pass
        ends.set()

    async with Group(node, "chat") as group:
        nursery.start_soon(iterate, group)
        await trio.testing.wait_all_tasks_blocked()
    await ends.wait()


async def test_every_send_kicks_the_driver(node, autojump_clock):
    async with Group(node, "chat") as group:
        before = node.kicks
        await group.send([b"a", b"b"])
        group.send_nowait(b"c")
        assert node.kicks == before + 2
