"""A stream by itself: order, bounds, callbacks against iteration, and the state after an exception."""

import random

import pytest

from cpg.events import Confchg, Member, Message, Quorum, Reason, TotemConfchg, Transitional
from cpg.stream import MESSAGE_OVERHEAD, SHARE, TURN, Stream
from totem.configuration import Level, RingId

ME, OTHER = Member(1, 100), Member(2, 200)
OWN_JOIN = Confchg((ME, OTHER), {}, {ME: Reason.JOIN})
OWN_LEAVE = Confchg((OTHER,), {ME: Reason.LEAVE}, {})
RING = TotemConfchg(RingId(1, 4), (1, 2))


def fill(stream, story):
    for step in story:
        if isinstance(step, list):
            sender, *payloads = step
            stream.messages(sender, Level.AGREED, payloads)
        else:
            stream.event(step)


STORY = [OWN_JOIN, RING, [OTHER, b"a", b"b"], Transitional((1,)), [ME, b"c"], Quorum(True, (1, 2)), [OTHER, b"d"]]
EVENTS = [
    OWN_JOIN,
    RING,
    Message(OTHER, b"a", Level.AGREED),
    Message(OTHER, b"b", Level.AGREED),
    Transitional((1,)),
    Message(ME, b"c", Level.AGREED),
    Quorum(True, (1, 2)),
    Message(OTHER, b"d", Level.AGREED),
]


def drain(stream):
    events = []
    while (event := stream.take()) is not None:
        events.append(event)
    return events


def test_events_come_one_by_one_in_order():
    stream = Stream(ME)
    fill(stream, STORY)
    assert drain(stream) == EVENTS
    assert not stream
    assert stream.waiting == 0


def test_a_batch_holds_what_waits():
    stream = Stream(ME)
    fill(stream, STORY)
    assert stream.take() == OWN_JOIN
    assert stream.take() == RING
    assert stream.take() == EVENTS[2]
    assert stream.take_batch() == EVENTS[3:]
    assert stream.take_batch() == []
    assert stream.waiting == 0


def test_a_batch_is_bounded():
    stream = Stream(ME)
    fill(stream, [[OTHER, b"%d" % k] for k in range(TURN + 1)])
    assert len(stream.take_batch()) == TURN
    assert len(stream.take_batch()) == 1


@pytest.mark.parametrize("is_called", [False, True])
def test_who_is_behind_is_given_more_at_a_time_and_catches_up(is_called):
    """A ring that brings two turns' worth in each turn leaves no program behind for good."""
    stream = Stream(ME)
    if is_called:
        stream.register(Message, lambda sender, data: None)
    most = 0
    for _ in range(200):
        fill(stream, [[OTHER, b"x"]] * (2 * TURN))
        stream.dispatch() if is_called else stream.take_batch()
        most = max(most, stream.waiting)
    assert most < 2 * SHARE * 2 * TURN * (MESSAGE_OVERHEAD + 1)


def test_callbacks_get_the_same_stream():
    stream = Stream(ME)
    seen = []
    stream.register(Message, lambda sender, data: seen.append(Message(sender, data, Level.AGREED)))
    stream.register(Confchg, lambda *parts: seen.append(Confchg(*parts)))
    stream.register(Transitional, lambda *parts: seen.append(Transitional(*parts)))
    stream.register(TotemConfchg, lambda *parts: seen.append(TotemConfchg(*parts)))
    stream.register(Quorum, lambda *parts: seen.append(Quorum(*parts)))
    fill(stream, STORY)
    assert stream.dispatch() is False
    assert seen == EVENTS
    assert stream.waiting == 0


def test_events_without_a_callback_pass_by():
    stream = Stream(ME)
    seen = []
    stream.register(Message, lambda sender, data: seen.append(data))
    fill(stream, STORY)
    stream.dispatch()
    assert seen == [b"a", b"b", b"c", b"d"]


def test_dispatch_takes_turns():
    stream = Stream(ME)
    seen = []
    stream.register(Message, lambda sender, data: seen.append(data))
    fill(stream, [[OTHER, b"x"]] * (TURN + 1))
    assert stream.dispatch() is True
    assert len(seen) == TURN
    assert stream.dispatch() is False
    assert len(seen) == TURN + 1


@pytest.mark.parametrize("seed", range(50))
def test_a_failing_callback_has_had_its_event_and_no_other_is_touched(seed):
    dice = random.Random(seed)
    stream = Stream(ME)
    numbers = iter(range(1000))
    story = []
    while len(story) < 40:
        run = [b"%d" % next(numbers) for _ in range(dice.randint(1, 6))]
        story.append([dice.choice((ME, OTHER)), *run])
    expected = [payload for _, *run in story for payload in run]
    seen = []

    def on_message(sender, data):
        seen.append(data)
        if dice.random() < 0.2:
            raise ZeroDivisionError

    stream.register(Message, on_message)
    fill(stream, story)
    more = True
    while more:
        try:
            more = stream.dispatch()
        except ZeroDivisionError:
            more = True
    assert seen == expected
    assert stream.waiting == 0
    assert stream.own_taken == stream.own_arrived == sum(len(run) for who, *run in story if who == ME)


def test_a_failing_confchg_callback_has_had_its_event():
    stream = Stream(ME)
    seen = []

    def on_confchg(members, left, joined):
        raise ZeroDivisionError

    stream.register(Confchg, on_confchg)
    stream.register(Message, lambda sender, data: seen.append(data))
    fill(stream, [OWN_JOIN, [OTHER, b"a"]])
    with pytest.raises(ZeroDivisionError):
        stream.dispatch()
    assert stream.dispatch() is False
    assert seen == [b"a"]


def test_callbacks_and_iteration_exclude_each_other():
    stream = Stream(ME, busy=LookupError)
    stream.register(Message, print)
    with pytest.raises(LookupError, match="callbacks"):
        stream.iterate()
    stream = Stream(ME, busy=LookupError)
    stream.iterate()
    stream.iterate()
    with pytest.raises(LookupError, match="iterated"):
        stream.register(Message, print)


def test_an_async_callback_is_refused_with_advice():
    async def on_message(sender, data):
        raise AssertionError

    with pytest.raises(TypeError, match=r"'on_message' is an async function.*async for event in group"):
        Stream(ME).register(Message, on_message)


def test_members_are_those_at_the_place_reached():
    stream = Stream(ME)
    fill(stream, [OWN_JOIN, [OTHER, b"a"], Confchg((ME,), {OTHER: Reason.LEAVE}, {})])
    assert stream.members == (ME, OTHER)  # known on entering, before anything is taken
    stream.take()
    stream.take()
    assert stream.members == (ME, OTHER)
    stream.take()
    assert stream.members == (ME,)


def test_the_bound_ends_the_stream_but_not_the_watch_for_the_own_leave():
    stream = Stream(ME, limit=10 * MESSAGE_OVERHEAD)
    fill(stream, [OWN_JOIN, [OTHER, b"x" * 8 * MESSAGE_OVERHEAD]])
    assert not stream.overflowed
    fill(stream, [[OTHER, b""]])
    assert stream.overflowed
    assert drain(stream) == []
    fill(stream, [[OTHER, b"y"]])
    assert drain(stream) == []
    assert not stream.left
    stream.event(OWN_LEAVE)
    assert stream.left


def test_what_was_taken_makes_room():
    stream = Stream(ME, limit=4 * MESSAGE_OVERHEAD)
    for _ in range(100):
        fill(stream, [[OTHER, b"x" * 10, b"y" * 10]])
        assert len(drain(stream)) == 2
    assert not stream.overflowed


def test_own_messages_are_counted_on_arrival_and_when_taken():
    stream = Stream(ME)
    fill(stream, [[ME, b"a", b"b"], [OTHER, b"c"], [ME, b"d"]])
    assert (stream.own_arrived, stream.own_taken) == (3, 0)
    stream.register(Message, lambda sender, data: None)
    stream.dispatch()
    assert (stream.own_arrived, stream.own_taken) == (3, 3)


def test_what_somebody_may_wait_for_is_notified():
    notices = []
    stream = Stream(ME, limit=10 * MESSAGE_OVERHEAD, notify=lambda: notices.append(bool(stream)))
    fill(stream, [[OTHER, b"first in an empty stream"], [OTHER, b"no news"], [ME, b"own"], RING])
    assert notices == [True] * 3
    drain(stream)
    fill(stream, [[OTHER, b"first again"], [OTHER, bytes(1000)]])
    assert notices == [True] * 4 + [False]
    assert stream.overflowed
