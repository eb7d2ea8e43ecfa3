"""The checkers are checked: clean records pass, and each violation is found under its name."""

import copy

import pytest

from cpg.events import Confchg, Member, Message, Quorum, Reason, TotemConfchg, Transitional
from cpg.testing.checkers import Record, check
from tests.cpg.node.test_engine import join, send, world_of
from totem.configuration import Level, RingId

A, B, C = Member(1, 7), Member(2, 7), Member(3, 7)


@pytest.fixture(scope="module")
def clean():
    """Return records of three members through a crash and a restart: A, B, and C twice."""
    world = world_of(1, 2, 3)
    pairs = [join(world, node_id) for node_id in (1, 2, 3)]
    world.run()

    def talk(*speakers):
        for turn in range(12):
            send(speakers[turn % len(speakers)], b"%d" % len(speakers[turn % len(speakers)][1].sent))
            world.run(steps=3)
        world.run()

    talk(*pairs)
    world.kill(3)
    world.reform([1, 2])
    talk(*pairs[:2])
    world.start(3)
    pairs.append(join(world, 3))
    world.reform([1, 2, 3])
    talk(pairs[0], pairs[1], pairs[3])
    pairs[1][0].leave()
    world.run()
    return [record for _, record in pairs]


@pytest.fixture
def records(clean):
    return copy.deepcopy(clean)


def clauses(records):
    return {violation.clause.removeprefix("cpg ") for violation in check(records)}


def find(record, kind, number=0):
    return [place for place, event in enumerate(record.events) if isinstance(event, kind)][number]


def test_clean_records_pass(records):
    assert check(records) == []
    assert {type(event) for record in records for event in record.events} == {
        Message,
        Confchg,
        Transitional,
        TotemConfchg,
        Quorum,
    }


def test_majority(records):
    assert not any(violation.clause == "cpg majority" for violation in check(records, voters=3))
    place = find(records[0], Quorum)
    records[0].events[place] = records[0].events[place]._replace(quorate=False)
    assert "cpg majority" in {violation.clause for violation in check(records, voters=3)}


def test_quorum_of_another_ring(records):
    place = find(records[0], Quorum)
    records[0].events[place] = records[0].events[place]._replace(node_ids=(1, 9))
    assert "quorum" in clauses(records)


def test_nothing_is_wrong_with_nothing():
    assert check([]) == []
    assert check([Record(b"g", A)]) == []


def test_records_of_different_groups_have_nothing_to_do_with_each_other(records):
    for number, record in enumerate(records):
        record.name = b"%d" % number
    assert check(records) == []


def begins_with_another(record):
    record.events.insert(0, Confchg((B,), {}, {B: Reason.JOIN}))


def begins_without_ring(record):
    del record.events[1]


@pytest.mark.parametrize("damage", [begins_with_another, begins_without_ring])
def test_begin(records, damage):
    damage(records[0])
    assert "begin" in clauses(records)


def test_end(records):
    records[1].events.append(Message(A, b"too late", Level.AGREED))
    assert "end" in clauses(records)


def members_not_following(record):
    place = find(record, Confchg, 1)
    record.events[place] = record.events[place]._replace(members=(A, B, C, Member(4, 4)))


def members_unsorted(record):
    place = find(record, Confchg, 1)
    record.events[place] = record.events[place]._replace(members=record.events[place].members[::-1])


def left_and_joined_at_once(record):
    place = find(record, Confchg, -1)
    record.events[place] = Confchg((A, C), {B: Reason.LEAVE, C: Reason.NODEDOWN}, {C: Reason.JOIN})


def nobody_came_or_went(record):
    place = find(record, Confchg, 1)
    record.events.insert(place + 1, Confchg(record.events[place].members, {}, {}))


def took_whom_it_had_not(record):
    place = find(record, Confchg, -1)
    members = record.events[place].members
    record.events.insert(place + 1, Confchg(members, {Member(9, 9): Reason.LEAVE}, {}))


@pytest.mark.parametrize(
    "damage",
    [members_not_following, members_unsorted, left_and_joined_at_once, nobody_came_or_went, took_whom_it_had_not],
)
def test_chain(records, damage):
    damage(records[0])
    assert "chain" in clauses(records)


def nodedown_before_transitional(record):
    place = find(record, Transitional)
    down = next(p for p, e in enumerate(record.events) if isinstance(e, Confchg) and Reason.NODEDOWN in e.left.values())
    record.events.insert(place, record.events.pop(down))


def message_among_the_changes(record):
    down = next(p for p, e in enumerate(record.events) if isinstance(e, Confchg) and Reason.NODEDOWN in e.left.values())
    record.events.insert(down + 1, record.events[down - 2])


def ring_without_transitional(record):
    del record.events[find(record, Transitional)]


@pytest.mark.parametrize("damage", [nodedown_before_transitional, message_among_the_changes, ring_without_transitional])
def test_place(records, damage):
    damage(records[0])
    assert "place" in clauses(records)


def test_up_before_down():
    ring, next_ring = TotemConfchg(RingId(1, 4), (1, 2)), TotemConfchg(RingId(1, 8), (1, 2))
    record = Record(b"g", A)
    up = Confchg((A, B, Member(2, 8)), {}, {Member(2, 8): Reason.NODEUP})
    down = Confchg((A, Member(2, 8)), {B: Reason.NODEDOWN}, {})
    record.events = [
        Confchg((A, B), {}, {A: Reason.JOIN}),
        ring,
        Transitional((1,)),
        up,
        down,
        next_ring,
    ]
    assert clauses([record]) == {"place"}


def test_sender(records):
    for record in records[:2]:
        record.events[-1:-1] = [Message(Member(2, 99), b"who?", Level.AGREED)]
    records[3].events[-1:-1] = [Message(Member(2, 99), b"who?", Level.AGREED)]
    assert clauses(records) == {"sender"}


def own_lost(record):
    del record.events[max(p for p, e in enumerate(record.events) if isinstance(e, Message) and e.sender == B)]


def own_twice(record):
    place = max(p for p, e in enumerate(record.events) if isinstance(e, Message) and e.sender == B)
    record.events.insert(place, record.events[place])


def never_sent(record):
    record.sent.pop()


@pytest.mark.parametrize("damage", [own_lost, own_twice, never_sent])
def test_own(records, damage):
    damage(records[1])
    assert "own" in clauses(records)


def message_lost(record):
    del record.events[find(record, Message, 2)]


def message_twice(record):
    place = find(record, Message, 2)
    record.events.insert(place, record.events[place])


def messages_exchanged(record):
    places = [find(record, Message, 2), find(record, Message, 3)]
    one, two = (record.events[place] for place in places)
    assert one != two
    record.events[places[0]], record.events[places[1]] = two, one


def payload_changed(record):
    place = find(record, Message, 2)
    record.events[place] = record.events[place]._replace(data=b"?")


def level_changed(record):
    place = find(record, Message, 2)
    record.events[place] = record.events[place]._replace(level=Level.SAFE)


def last_message_of_the_ring_lost(record):
    place = find(record, Transitional)
    while not isinstance(record.events[place], Message):
        place -= 1
    del record.events[place]


def message_behind_the_transitional(record):
    place = find(record, Transitional)
    record.events[place - 1], record.events[place] = record.events[place], record.events[place - 1]


def others_along(record):
    record.events[find(record, Transitional)] = Transitional((1,))


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    "damage",
    [
        message_lost,
        message_twice,
        messages_exchanged,
        payload_changed,
        level_changed,
        last_message_of_the_ring_lost,
        message_behind_the_transitional,
        others_along,
    ],
)
def test_together(records, damage, number):
    damage(records[number])
    assert "together" in clauses(records)


def test_a_dead_member_may_have_got_less(records):
    while len(records[2].events) > 3:
        records[2].events.pop()
        assert check(records) == []


def test_a_dead_member_must_not_have_got_other_things(records):
    records[2].events[-1] = records[2].events[-1]._replace(data=b"?")
    assert clauses(records) & {"together", "own"}


def test_lists(records):
    place = find(records[3], TotemConfchg)
    ring = records[3].events[place]
    records[0].events = [event._replace(node_ids=(1, 2)) if event == ring else event for event in records[0].events]
    assert "lists" not in clauses(records)
    place = find(records[0], TotemConfchg, 0)
    records[0].events[place] = records[0].events[place]._replace(node_ids=(2, 3))
    assert "lists" in clauses(records)


def test_lists_of_different_members():
    rings = TotemConfchg(RingId(1, 4), (1, 2)), TotemConfchg(RingId(1, 8), (1, 2))
    one, two = Record(b"g", A), Record(b"g", B)
    one.events = [Confchg((A,), {}, {A: Reason.JOIN}), rings[0], Transitional((1,)), rings[1]]
    two.events = [Confchg((B,), {}, {B: Reason.JOIN}), rings[0], Transitional((2,)), rings[1]]
    assert clauses([one, two]) == {"lists"}


def test_of_foreign_members_only_their_own_deliveries_are_judged(records):
    message_lost(records[1])
    first = find(records[0], Message)
    while records[0].events[first].sender != B:
        first += 1
    del records[0].events[first]
    assert "together" in clauses(records)
    assert check(records, foreign=[2]) == []
    records[1].events.append(Message(A, b"too late", Level.AGREED))
    assert {violation.clause for violation in check(records, foreign=[2])} == {"cpg end"}
