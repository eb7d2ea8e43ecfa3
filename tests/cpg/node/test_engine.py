"""The engine on a perfect ring: the events that programs get, and their order."""

from functools import partial
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpg.errors import AlreadyJoined, CorosyncLimit, NotJoined
from cpg.events import Confchg, Member, Message, Quorum, Reason, TotemConfchg, Transitional
from cpg.node.engine import Engine
from cpg.node.wire import (
    GROUP_A,
    LARGEST_PLAIN,
    Barrier,
    Joinlist,
    KeyPhase,
    Killnode,
    Mcast,
    PartialMcast,
    Process,
    Procjoin,
    Procleave,
    Reload,
    ServiceBuild,
    mcast_label,
)
from cpg.payloads import LARGEST_MESSAGE
from cpg.testing.checkers import Record, check
from tests.cpg.node.oracle import Entry, World
from totem.configuration import NO_RING, Guarantee, Level, RegularConfiguration, RingId
from totem.errors import MessageTooLong, QueueFull

AGREED, SAFE = Level.AGREED, Level.SAFE


def world_of(*node_ids, seed=1, **options):
    """Nodes in one ring, synced."""
    world = World(seed, **options)
    world.start(*node_ids)
    world.reform(node_ids)
    world.run()
    return world


def join(world, node_id, pid=7, name=b"g"):
    """Join a program; return its membership, and the record of its events."""
    record = Record(name, Member(node_id, pid))
    return world[node_id].engine.join(name, pid, record), record


def programs(world, *node_ids):
    """One program at each node, all joined."""
    pairs = [join(world, node_id) for node_id in node_ids]
    world.run()
    for _, record in pairs:
        record.events.clear()
    return pairs


def send(pair, *payloads, guarantee=Guarantee.AGREED):
    membership, record = pair
    membership.send(payloads, guarantee)
    record.sent += payloads


def only(kind, record):
    return [event for event in record.events if isinstance(event, kind)]


def left(record):
    return [event.left for event in only(Confchg, record) if event.left]


def came(record):
    return [event.joined for event in only(Confchg, record) if event.joined]


# Joining and leaving.


def test_the_first_events_of_a_member_are_its_join_and_the_ring():
    world = world_of(1, 2)
    _, first = join(world, 1)
    world.run()
    _, second = join(world, 2)
    world.run()
    a, b = Member(1, 7), Member(2, 7)
    ring = TotemConfchg(world[1].ring.ring_id, (1, 2))
    assert first.events == [
        Confchg((a,), {}, {a: Reason.JOIN}),
        ring,
        Quorum(True, (1, 2)),
        Confchg((a, b), {}, {b: Reason.JOIN}),
    ]
    assert second.events == [Confchg((a, b), {}, {b: Reason.JOIN}), ring, Quorum(True, (1, 2))]


def test_a_join_is_accepted_before_the_first_ring_and_delivered_after_its_sync():
    world = World()
    world.start(1)
    membership, record = join(world, 1)
    membership.send([b"early"])
    assert world[1].engine.ring_id == NO_RING
    assert not membership.joined
    world.reform([1])
    world.run()
    assert membership.joined
    assert [type(event) for event in record.events] == [Confchg, TotemConfchg, Quorum, Message]


def test_the_last_event_of_a_member_is_its_leave():
    world = world_of(1, 2)
    (leaver, record), (_, other) = programs(world, 1, 2)
    leaver.send([b"last words"])
    leaver.leave()
    leaver.leave()
    with pytest.raises(NotJoined):
        leaver.send([b"more"])
    world.run()
    change = Confchg((Member(2, 7),), {Member(1, 7): Reason.LEAVE}, {})
    assert record.events == other.events == [Message(Member(1, 7), b"last words", AGREED), change]
    assert leaver.left
    assert not leaver.joined


def test_a_process_that_has_ended_is_reported_as_ended():
    world = world_of(1, 2)
    (dead, _), (_, other) = programs(world, 1, 2)
    dead.send([b"last words"])
    dead.leave(Reason.PROCDOWN)
    world.run()
    change = Confchg((Member(2, 7),), {Member(1, 7): Reason.PROCDOWN}, {})
    assert other.events == [Message(Member(1, 7), b"last words", AGREED), change]


def test_a_process_is_in_a_group_once_and_may_come_again_when_its_leave_has_been_delivered():
    world = world_of(1)
    ((membership, _),) = programs(world, 1)
    with pytest.raises(AlreadyJoined):
        join(world, 1)
    membership.leave()
    with pytest.raises(AlreadyJoined):
        join(world, 1)
    world.run()
    again, record = join(world, 1)
    world.run()
    assert again.joined
    assert came(record) == [{Member(1, 7): Reason.JOIN}]


def test_processes_and_groups_of_one_node_are_kept_apart():
    world = world_of(1, 2)
    pairs = [join(world, 1, pid, name) for pid, name in [(7, b"g"), (8, b"g"), (7, b"h")]]
    world.run()
    for place, pair in enumerate(pairs):
        send(pair, b"%d" % place)
    world.run()
    told = [[(event.sender, event.data) for event in only(Message, record)] for _, record in pairs]
    assert told[0] == told[1] == [(Member(1, 7), b"0"), (Member(1, 8), b"1")]
    assert told[2] == [(Member(1, 7), b"2")]
    assert world[2].engine.groups == {b"g": (Member(1, 7), Member(1, 8)), b"h": (Member(1, 7),)}


@pytest.mark.parametrize("name", [b"", b"x" * 129])
def test_a_name_has_1_to_128_bytes(name):
    world = world_of(1)
    with pytest.raises(ValueError, match="1 to 128 bytes"):
        join(world, 1, name=name)


def test_what_a_corosync_node_cannot_stand_is_refused_while_one_is_in_the_ring():
    mixed = world_of(1, 2, pure=False)
    for name in (b"x" * 128, b"n\0ul", b"nul\0" * 2):
        with pytest.raises(CorosyncLimit):
            join(mixed, 1, name=name)
    for pid in range(64):
        join(mixed, 1, pid)
        join(mixed, 2, pid)
    mixed.run()
    with pytest.raises(CorosyncLimit, match="128 members"):
        join(mixed, 1, 99)
    for pid in range(64):
        for name in (b"nul", b"nul\0"):  # one name where a Corosync node counts those who come and leave with a node
            join(mixed, 1, pid, name)
    with pytest.raises(CorosyncLimit, match="128 members"):
        join(mixed, 1, 99, b"nul\0\0")
    join(mixed, 1, 99, b"\0")
    pure = world_of(1)
    for pid, name in enumerate([b"x" * 128, b"n\0ul", *[b"g"] * 129]):
        assert join(pure, 1, pid, name)


# Messages.


def test_all_members_get_the_same_messages_in_one_order():
    world = world_of(1, 2, 3)
    pairs = programs(world, 1, 2, 3)
    for turn in range(50):
        send(pairs[turn % 3], b"%d" % turn, b"+%d" % turn)
        world.run(steps=2)
    world.run()
    streams = [record.events for _, record in pairs]
    assert streams[0] == streams[1] == streams[2]
    assert len(streams[0]) == 100
    for _, record in pairs:
        assert [e.data for e in record.events if e.sender == record.member] == record.sent


@pytest.mark.parametrize("compact", [False, True])
def test_messages_of_every_size_arrive_as_they_were_sent(compact):
    world = world_of(1, compact=compact)
    ((membership, record),) = programs(world, 1)
    payloads = [bytes([size % 256]) * size for size in [0, 1, 2, 64, 0, 1400, 65536, LARGEST_PLAIN]]
    membership.send(payloads)
    world.run()
    assert [event.data for event in record.events] == payloads


@pytest.mark.parametrize("compact", [False, True])
def test_a_frame_is_handed_to_an_inbox_in_one_call_for_each_sender(compact):
    world = world_of(1, compact=compact)
    ((membership, record),) = programs(world, 1)
    calls = []
    record.messages = lambda sender, level, payloads: calls.append((sender, level, payloads))
    for _ in range(2):  # the first time the headers, or the label, are new
        calls.clear()
        membership.send([b"a", b"bb", b"a"])
        world[1].originate(3)
        world[1].catch_up(len(world[1].ring.log))
    assert calls == [(Member(1, 7), AGREED, [b"a", b"bb", b"a"])]


def test_the_level_that_was_reached_is_reported():
    world = world_of(1, 2)
    pair, _ = programs(world, 1, 2)
    send(pair, b"agreed")
    send(pair, b"safe", guarantee=Guarantee.SAFE)
    world.run()
    assert [(event.data, event.level) for event in pair[1].events] == [(b"agreed", AGREED), (b"safe", SAFE)]


def test_a_member_that_comes_or_goes_in_the_middle_of_a_frame_gets_its_part_of_it():
    world = world_of(1)
    (pair,) = programs(world, 1)
    other, record = Member(1, 8), Record(b"g", Member(1, 8))
    membership = world[1].engine.join(b"g", 8, record)
    membership.leave()
    world[1].queue.clear()
    mcast = partial(Mcast, b"g", 7)
    frame = [
        mcast(b"before").encode(1),
        Procjoin(b"g", 8).encode(),
        mcast(b"while").encode(1),
        Procleave(b"g", 8).encode(),
        mcast(b"behind").encode(1),
    ]
    world[1].hand_over(Entry(1, message, Guarantee.AGREED) for message in frame)
    assert [event.data for event in only(Message, record)] == [b"while"]
    assert left(record) == [{other: Reason.LEAVE}]
    assert [event.data for event in only(Message, pair[1])] == [b"before", b"while", b"behind"]


def test_messages_of_a_node_without_a_process_in_the_group_are_dropped_and_counted():
    world = world_of(1, 2)
    ((_, record),) = programs(world, 1)
    stranger = [Entry(2, Mcast(b"g", 7, b"x").encode(2), Guarantee.AGREED)]
    world[1].hand_over(stranger * 3)
    assert world[1].engine.statistics().unknown_senders == 3
    join(world, 2, pid=8)
    world.run()
    world[1].hand_over(stranger)  # Corosync's test is by node (ruling C6)
    assert [event.data for event in only(Message, record)] == [b"x"]
    assert world[1].engine.statistics().unknown_senders == 3


def test_a_full_queue_is_reported_to_the_sender_before_anything_is_queued():
    world = world_of(1, queue_limit=2000)
    ((membership, record),) = programs(world, 1)
    membership.send([bytes(1000)])
    with pytest.raises(QueueFull):
        membership.send([bytes(400), bytes(400)])
    membership.send([b"small"])
    world.run()
    assert [len(event.data) for event in record.events] == [1000, 5]


def test_joins_and_leaves_wait_for_room_by_themselves():
    world = world_of(1, queue_limit=1500)
    ((membership, _),) = programs(world, 1)
    membership.send([bytes(1300)])
    newcomer, record = join(world, 1, pid=8)
    membership.leave()
    with pytest.raises(QueueFull):
        newcomer.send([b"not before my join"])
    world.run()
    assert membership.left
    assert newcomer.joined
    newcomer.send([b"now"])
    world.run()
    assert [event.data for event in only(Message, record)] == [b"now"]


# Changes of ring (ruling C5).


def test_a_crash_is_delivered_as_transitional_messages_left_over_nodedown_ring_new_messages():
    world = world_of(1, 2, 3)
    first, second, third = programs(world, 1, 2, 3)
    old_ring = world[1].ring.ring_id
    send(third, b"from 3")
    world[3].originate(1)
    world[1].catch_up(len(world[1].ring.log))  # 2 will have it only when the ring has gone
    send(first, b"old ring")
    world[1].originate(1)
    send(second, b"new ring")
    world.kill(3)
    world.reform([1, 2])
    world.run()
    a, b, c = Member(1, 7), Member(2, 7), Member(3, 7)
    assert world[1].ring.ring_id != old_ring
    assert first[1].events == second[1].events
    assert first[1].events == [
        Message(c, b"from 3", AGREED),
        Message(a, b"old ring", AGREED),
        Transitional((1, 2)),
        Confchg((a, b), {c: Reason.NODEDOWN}, {}),
        TotemConfchg(world[1].ring.ring_id, (1, 2)),
        Quorum(True, (1, 2)),
        Message(b, b"new ring", AGREED),
    ]


def test_when_rings_merge_each_side_sees_the_other_join():
    world = world_of(1, 2, 3, 4)
    pairs = programs(world, 1, 2, 3, 4)
    world.reform([1, 2], [3, 4])
    world.run()
    for _, record in pairs:
        record.events.clear()
    world.reform([1, 2, 3, 4])
    world.run()
    a, b, c, d = (Member(node, 7) for node in (1, 2, 3, 4))
    ring, quorum = TotemConfchg(world[1].ring.ring_id, (1, 2, 3, 4)), Quorum(True, (1, 2, 3, 4))
    up = Reason.NODEUP
    assert pairs[0][1].events == pairs[1][1].events
    assert pairs[0][1].events == [Transitional((1, 2)), Confchg((a, b, c, d), {}, {c: up, d: up}), ring, quorum]
    assert pairs[2][1].events == pairs[3][1].events
    assert pairs[2][1].events == [Transitional((3, 4)), Confchg((a, b, c, d), {}, {a: up, b: up}), ring, quorum]


def test_a_node_without_processes_is_reported_by_the_ring_alone():
    world = world_of(1)
    ((_, record),) = programs(world, 1)
    world.start(2)
    world.reform([1, 2])
    world.run()
    ring = TotemConfchg(world[1].ring.ring_id, (1, 2))
    assert record.events == [Transitional((1,)), ring, Quorum(True, (1, 2))]


def test_a_node_back_before_anyone_noticed_has_left_and_joined_with_the_same_pid():
    world = world_of(1, 2)
    (_, record), _ = programs(world, 1, 2)
    world.start(2)
    join(world, 2)
    world.reform([1, 2])
    world.run()
    a, b = Member(1, 7), Member(2, 7)
    assert record.events == [
        Transitional((1,)),
        Confchg((a,), {b: Reason.NODEDOWN}, {}),
        TotemConfchg(world[1].ring.ring_id, (1, 2)),
        Quorum(True, (1, 2)),
        Confchg((a, b), {}, {b: Reason.JOIN}),
    ]


def test_a_node_back_with_its_groups_already_joined_has_left_and_joined_in_one_sync():
    world = world_of(1, 2)
    (_, record), _ = programs(world, 1, 2)
    world.start(2)
    join(world, 2)
    world.reform([1], [2])
    for _ in range(1000):  # 2 is in its group in a ring of its own; 1 has not noticed anything of it
        if world[2].engine.groups:
            break
        world[2].originate(1)
        world[2].catch_up(len(world[2].ring.log))
    world.reform([1, 2])
    world.run()
    a, b = Member(1, 7), Member(2, 7)
    assert only(Confchg, record) == [
        Confchg((a,), {b: Reason.NODEDOWN}, {}),
        Confchg((a, b), {}, {b: Reason.NODEUP}),
    ]


def test_a_process_that_joins_while_the_ring_ends_sees_its_end_too():
    world = world_of(1, 2)
    _, old = join(world, 1)
    _, new = join(world, 2, pid=8)
    world[1].originate(1)
    world[1].catch_up(1 + world[1].position)
    world[2].catch_up(world[1].position)
    pair = (world[1].engine._local[b"g", 7], old)
    send(pair, b"unsafe", guarantee=Guarantee.SAFE)
    world[1].originate(1)
    world[2].originate(1)
    world.dice.choice = lambda places: places[0]  # the ring ends before the unsafe message
    world.reform([1, 2])
    a, b = Member(1, 7), Member(2, 8)
    gone = world[1].engine.ring_id
    assert old.events[-3:] == [
        Transitional((1, 2)),
        Message(a, b"unsafe", Level.TRANSITIONAL),
        Confchg((a, b), {}, {b: Reason.JOIN}),
    ]
    assert new.events == [
        Confchg((a, b), {}, {b: Reason.JOIN}),
        TotemConfchg(gone, (1, 2)),
        Quorum(True, (1, 2)),
        Transitional((1, 2)),
    ]


def test_programs_without_a_group_are_informed_of_the_ring():
    told = []
    world = World()
    world.start(1)
    world[1].engine = Engine(world[1], on_ring=told.append)
    world.reform([1])
    world.run()
    first = world[1].ring.ring_id
    world.start(2)
    world.reform([1, 2])
    world.run()
    assert told == [
        TotemConfchg(first, (1,)),
        Quorum(True, (1,)),
        Transitional((1,)),
        TotemConfchg(world[1].ring.ring_id, (1, 2)),
        Quorum(True, (1, 2)),
    ]


def test_while_sync_runs_messages_are_accepted_and_wait():
    world = world_of(1, 2)
    first, second = programs(world, 1, 2)
    world.reform([1, 2])
    assert not world[1].engine.synced
    send(first, b"waits")
    join(world, 1, pid=8)
    world.run()
    assert world[1].engine.synced
    assert [type(event) for event in second[1].events] == [Transitional, TotemConfchg, Quorum, Message, Confchg]


def test_a_full_application_queue_does_not_stop_sync():
    world = world_of(1, 2, queue_limit=1500)
    pair, _ = programs(world, 1, 2)
    send(pair, bytes(1300))
    world.reform([1, 2])
    with pytest.raises(QueueFull):
        send(pair, bytes(1300))
    world.run()
    assert world[1].engine.synced
    assert len(only(Message, pair[1])) == 1


def test_a_stuck_sync_is_reported_with_who_is_awaited():
    world = world_of(1, 2)
    engine = world[1].engine
    assert engine.deadline == float("inf")
    world.reform([1, 2])
    engine.advance(50.0)
    assert engine.deadline == 51.0
    world[1].originate(1)
    world[1].catch_up(1)
    engine.advance(51.0)
    statistics = engine.statistics()
    assert (statistics.syncs_overdue, statistics.silent) == (1, (2,))
    world.run()
    assert engine.statistics().silent == ()


# Sync that is broken off (ruling C4). The number of steps says how far it gets.

STEPS = range(0, 60, 3)


@pytest.mark.parametrize("steps", STEPS)
def test_a_node_that_joins_and_dies_in_any_phase_of_sync_leaves_no_ghost(steps):
    world = world_of(1, 2, seed=steps)
    pairs = programs(world, 1, 2)
    world.start(3)
    join(world, 3)
    world.reform([3])
    world.run()
    assert world[3].engine.groups
    world.reform([1, 2, 3])
    world.run(steps)
    world.kill(3)
    world.reform([1, 2])
    world.run()
    assert pairs[0][1].events == pairs[1][1].events
    ghosts = came(pairs[0][1]), left(pairs[0][1])
    assert ghosts in [([], []), ([{Member(3, 7): Reason.NODEUP}], [{Member(3, 7): Reason.NODEDOWN}])]
    assert world[1].engine.groups == world[2].engine.groups == {b"g": (Member(1, 7), Member(2, 7))}


@pytest.mark.parametrize("steps", STEPS)
def test_a_node_that_restarts_with_the_same_pid_in_any_phase_of_sync_has_left_and_joined(steps):
    world = world_of(1, 2, 3, seed=steps)
    pairs = programs(world, 1, 2, 3)
    for _ in range(2):
        world.start(3)
        join(world, 3)
        world.reform([1, 2, 3])
        world.run(steps)
    world.run()
    told = pairs[0][1]
    c = Member(3, 7)
    assert told.events == pairs[1][1].events
    changes = [{**event.left, **event.joined} for event in only(Confchg, told)]
    assert changes[0] == {c: Reason.NODEDOWN}
    assert changes[-1] == {c: Reason.JOIN}
    assert len(changes) in (2, 4)
    assert world[1].engine.groups == world[3].engine.groups == {b"g": (Member(1, 7), Member(2, 7), c)}


@pytest.mark.parametrize("steps", STEPS)
def test_a_member_that_dies_and_returns_in_any_phase_of_the_sync_that_reports_it(steps):
    world = world_of(1, 2, 3, seed=steps)
    pairs = programs(world, 1, 2, 3)
    world.kill(3)
    world.reform([1, 2])
    world.run(steps)
    world.start(3)
    join(world, 3)
    world.reform([3])
    world.run()
    world.reform([1, 2, 3])
    world.run()
    told = pairs[0][1]
    assert told.events == pairs[1][1].events
    assert left(told) == [{Member(3, 7): Reason.NODEDOWN}]
    assert came(told) == [{Member(3, 7): Reason.NODEUP}]


def raw(world, node_id, sender, *messages):
    world[node_id].hand_over(
        Entry(sender, noun if isinstance(noun, bytes) else noun.encode(), Guarantee.AGREED) for noun in messages
    )


def test_what_a_member_says_before_its_service_build_is_of_a_dead_round():
    world = world_of(1)
    ((_, record),) = programs(world, 1)
    ring_id = RingId(1, 999)
    world[1].engine.deliver([RegularConfiguration(ring_id, (1, 2), (1,), pure=False, features=0)])
    ghost, real = Joinlist((Process(b"g", 66),)), Joinlist((Process(b"g", 1),))
    raw(world, 1, 2, ghost, Barrier(RingId(1, 998)), Barrier(ring_id), ServiceBuild(ring_id, (2,)), real)
    raw(world, 1, 1, ServiceBuild(ring_id, (2,)), Barrier(ring_id))
    assert not came(record)
    raw(world, 1, 2, Barrier(ring_id))
    assert came(record) == [{Member(2, 1): Reason.NODEUP}]


def test_sync_that_is_complete_behind_the_transitional_configuration_is_void():
    world = world_of(1, 2)
    pair, _ = programs(world, 1, 2)
    world.reform([1, 2])
    world[1].originate(1)
    world[1].catch_up(1)
    world[2].originate(1)
    world.kill(2)
    world.reform([1])
    world.run()
    assert [type(event) for event in pair[1].events] == [Transitional, Transitional, Confchg, TotemConfchg, Quorum]


# Messages in pieces.

LARGE = bytes(range(256)) * 8192 + b"the end"  # three pieces
assert 2 * LARGEST_PLAIN < len(LARGE) < 3 * LARGEST_PLAIN


def test_a_large_message_arrives_whole_and_in_order():
    world = world_of(1, 2)
    first, second = programs(world, 1, 2)
    send(first, b"before", LARGE, b"behind")
    with pytest.raises(QueueFull):
        first[0].send([b"too early"])
    first[0].leave()
    world.run()
    assert first[1].events == second[1].events
    assert [event.data for event in only(Message, first[1])] == [b"before", LARGE, b"behind"]
    assert left(first[1]) == [{Member(1, 7): Reason.LEAVE}]


def test_the_largest_message_is_carried_and_a_larger_one_refused_before_anything_is_queued():
    world = world_of(1)
    ((membership, record),) = programs(world, 1)
    largest = bytes(LARGEST_MESSAGE)
    with pytest.raises(MessageTooLong):
        membership.send([b"not sent", largest + b"x"])
    membership.send([largest])
    world.run()
    assert record.events == [Message(Member(1, 7), largest, AGREED)]


def test_large_messages_of_several_members_do_not_mix_and_others_go_on():
    world = world_of(1, 2)
    pairs = [*programs(world, 1, 2), join(world, 1, pid=8)]
    world.run()
    for place, pair in enumerate(pairs):
        send(pair, LARGE + b"%d" % place)
    small, record = join(world, 1, pid=9)
    world.run(steps=5)
    small.send([b"small"])
    record.sent.append(b"small")
    world.run()
    assert {event.data[-1:] for event in only(Message, pairs[0][1])} == {b"0", b"1", b"2", b"l"}
    assert check([*(record for _, record in pairs[2:]), record]) == []


def test_a_process_that_joins_in_the_middle_of_a_large_message_gets_it():
    world = world_of(1, 2)
    (first,) = programs(world, 1)
    send(first, LARGE)
    world[1].originate(1)
    _, newcomer = join(world, 2)
    world[2].originate(1)
    world.run()
    data = [event.data for event in only(Message, newcomer)]
    assert data == [LARGE]


@pytest.mark.parametrize("originated", range(4))
@pytest.mark.parametrize("pure", [True, False])
def test_a_large_message_across_a_change_of_ring_is_delivered_once(originated, pure):
    world = world_of(1, 2, 3, queue_limit=2 * LARGEST_PLAIN + 1000, pure=pure)
    first, second, _ = programs(world, 1, 2, 3)
    send(first, LARGE, b"behind")
    for _ in range(originated):
        world[1].originate(1)
        world[1].engine.deliver([])  # there is room for the next piece
    world[2].catch_up(len(world[2].ring.log))
    world.start(4)
    world.kill(3)
    _, newcomer = join(world, 4)
    world.reform([1, 2, 4])
    world.run()
    for _, record in (first, second):
        assert [event.data for event in only(Message, record)] == [LARGE, b"behind"]
    # Where all are ours, a node that is new in the ring misses nothing that is told in it.
    told_in_new_ring = first[1].events.index(Message(Member(1, 7), LARGE, AGREED)) > first[1].events.index(
        next(event for event in first[1].events if isinstance(event, TotemConfchg))
    )
    assert told_in_new_ring == (originated < 3)
    joined = first[1].events.index(Confchg((Member(1, 7), Member(2, 7), Member(4, 7)), {}, {Member(4, 7): Reason.JOIN}))
    if pure:
        assert only(Message, newcomer) == [e for e in first[1].events[joined:] if isinstance(e, Message)]


def test_pieces_of_a_node_that_died_are_forgotten():
    world = world_of(1, 2, pure=False)
    first, second = programs(world, 1, 2)
    send(second, LARGE)
    world[2].originate(2)
    world[1].catch_up(len(world[1].ring.log))
    world.start(2)
    join(world, 2)
    world.reform([1, 2])
    world.run()
    raw(world, 1, 2, PartialMcast(b"g", 7, len(LARGE), 3, LARGE[2 * LARGEST_PLAIN :]).encode(2))
    assert only(Message, first[1]) == []


def test_a_sender_that_begins_again_is_heard_from_there():
    world = world_of(1, 2)
    ((_, record),) = programs(world, 1)
    join(world, 2)
    world.run()
    piece = partial(PartialMcast, b"g", 7)
    raw(world, 1, 2, piece(6, 1, b"in").encode(2), piece(6, 2, b"te").encode(2))
    raw(world, 1, 2, piece(5, 1, b"fr").encode(2), piece(5, 2, b"es").encode(2), piece(5, 3, b"h").encode(2))
    assert [event.data for event in only(Message, record)] == [b"fresh"]


@pytest.mark.parametrize(
    ("pieces", "cause"),
    [
        ([(6, 1, b"abcd"), (6, 3, b"efg")], "partial mcast beyond its length"),
        ([(6, 1, b"abcd"), (6, 3, b"e")], "partial mcast short of its length"),
        ([(LARGEST_MESSAGE + 1, 1, b"a")], "partial mcast too long"),
    ],
)
def test_wrong_pieces_are_counted_and_forgotten(pieces, cause):
    world = world_of(1, 2)
    ((_, record),) = programs(world, 1)
    join(world, 2)
    world.run()
    for whole, kind, data in pieces:
        raw(world, 1, 2, PartialMcast(b"g", 7, whole, kind, data).encode(2))
    raw(world, 1, 2, PartialMcast(b"g", 7, 6, 3, b"fg").encode(2))
    assert world[1].engine.statistics().malformed == {cause: 1}
    assert only(Message, record) == []


def test_unfinished_messages_of_one_node_are_bounded():
    world = world_of(1, 2)
    programs(world, 1)
    join(world, 2)
    world.run()
    for pid in range(20000):
        raw(world, 1, 2, PartialMcast(b"g", pid, 1, 1, b"").encode(2))
    assert world[1].engine.statistics().malformed["too many partial mcasts at once"] > 3000


# What comes from others.


def test_an_administrators_order_is_for_the_node_that_it_names():
    world = world_of(1, 2)
    order = GROUP_A + bytes.fromhex("0100010000000000 2001000000000000 0200000000000000 0400000000000000") + b"test"
    order = order.ljust(len(GROUP_A) + 288, b"\0")
    for node_id in (1, 2):
        raw(world, node_id, 1, order)
    assert world[1].engine.failure is None
    assert world[2].engine.failure == "an administrator at node 1 ended this node: test"


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(st.data())
def test_hostile_messages_neither_raise_nor_touch_the_groups_of_others(data):
    world = world_of(1, 2)
    (_, record), _ = programs(world, 1, 2)
    samples = [
        Mcast(b"g", 7, b"payload").encode(3),
        PartialMcast(b"g", 7, 2_000_000, 1, b"first").encode(3),
        Procjoin(b"g", 1).encode(),
        Procleave(b"g", 7).encode(),
        Joinlist((Process(b"g", 1),)).encode(),
        ServiceBuild(world[1].ring.ring_id, (2,)).encode(),
        Barrier(world[1].ring.ring_id).encode(),
    ]
    messages = []
    for _ in range(data.draw(st.integers(1, 8))):
        message = bytearray(data.draw(st.sampled_from(samples)))
        for _ in range(data.draw(st.integers(0, 4))):
            message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
        messages.append(bytes(message[: data.draw(st.integers(0, 2 * len(message)))]))
    raw(world, 1, 3, *messages)
    assert {Member(1, 7), Member(2, 7)} <= set(world[1].engine.members(b"g"))
    assert not left(record)
    assert world[1].engine.synced


def test_caches_of_headers_are_bounded():
    world = world_of(1, compact=False)
    ((membership, record),) = programs(world, 1)
    for size in range(3000):
        membership.send([bytes(size)])
        world.run()
    engine = world[1].engine
    assert [len(event.data) for event in record.events] == list(range(3000))
    assert 0 < len(membership._envelope) <= 1024
    assert sum(map(len, engine._routes.values())) <= 1024


def labelled(label, *payloads, sender=2):
    return [Entry(sender, payload, Guarantee.AGREED, label) for payload in payloads]


def test_payloads_with_a_label_are_messages_of_its_process_to_its_group():
    world = world_of(1, 2)
    (_, record), _ = programs(world, 1, 2)
    world[1].hand_over(labelled(mcast_label(b"g", 9), b"a", b"b"))
    assert record.events == [Message(Member(2, 9), b"a", AGREED), Message(Member(2, 9), b"b", AGREED)]


def test_payloads_follow_the_members_that_their_group_has_at_their_place():
    world = world_of(1)
    (pair,) = programs(world, 1)
    other, record = join(world, 1, pid=8)
    world[1].queue.clear()
    label = mcast_label(b"g", 7)
    world[1].hand_over(labelled(label, b"before", sender=1))
    for noun, payload in ((Procjoin(b"g", 8), b"while"), (Procleave(b"g", 8), b"behind")):
        raw(world, 1, 1, noun)
        world[1].hand_over(labelled(label, payload, sender=1))
    assert [event.data for event in only(Message, record)] == [b"while"]
    assert [event.data for event in only(Message, pair[1])] == [b"before", b"while", b"behind"]
    assert other.left


def test_payloads_of_a_node_without_a_process_in_the_group_are_dropped_and_counted():
    world = world_of(1, 2)
    ((_, record),) = programs(world, 1)
    world[1].hand_over(labelled(mcast_label(b"g", 7), b"x", b"y"))
    assert not record.events
    assert world[1].engine.statistics().unknown_senders == 2


@pytest.mark.parametrize(
    ("label", "cause"),
    [(b"1", "short label"), (bytes(4), "short label"), (bytes(4 + 129), "group name length")],
)
def test_payloads_with_a_label_that_says_nothing_are_dropped_and_counted(label, cause):
    world = world_of(1, 2)
    (_, record), _ = programs(world, 1, 2)
    world[1].hand_over(labelled(label, b"x"))
    assert not record.events
    assert world[1].engine.statistics().malformed == {cause: 1}


def test_caches_of_labels_are_bounded():
    world = world_of(1, 2)
    (_, record), _ = programs(world, 1, 2)
    for pid in range(3000):
        world[1].hand_over(labelled(mcast_label(b"g", pid), b"%d" % pid))
    assert [(event.sender.pid, event.data) for event in record.events] == [(pid, b"%d" % pid) for pid in range(3000)]
    assert 0 < len(world[1].engine._labelled) <= 1024


def test_killnode_is_read_and_never_written():
    assert not hasattr(Killnode, "encode")


def test_orders_to_all_nodes_are_handed_on_with_their_sender():
    world, orders = world_of(1, 2), []
    world[1].engine._on_order = lambda sender, order: orders.append((sender, order))
    reload = GROUP_A + pack("<i4xi4x I4xQ", 1 << 16 | 3, 32, 2, 0)
    phases = [GROUP_A + pack("<i4xi4x I4x", 1 << 16 | 4, 24, phase) for phase in (1, 2)]
    world[1].hand_over([Entry(2, message, Guarantee.AGREED) for message in (reload, *phases)])
    assert orders == [(2, Reload()), (2, KeyPhase(1))]
