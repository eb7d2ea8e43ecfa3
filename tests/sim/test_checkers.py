"""The checkers, tested themselves: a good story passes, and each mutation of it is caught by the clause it breaks.

The story. Three nodes form ring A. Node 3 is cut off: 1 and 2 go on in B, 3 goes on alone in C, crashes, starts again
alone in D, and joins the others in E. In A message 1#1 is delivered as safe at 1 and 2, and only as transitional at 3.
2#2 is transitional at 1 and 2. 3#1 is lost except at 3 itself, so that 1#2 comes past a gap.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import pytest

from totem.configuration import (
    Guarantee,
    Level,
    Messages,
    RegularConfiguration,
    RingId,
    TransitionalConfiguration,
)
from totem.testing.checkers import CHECKERS, check
from totem.testing.cluster import BarrierSync, Cluster
from totem.testing.history import Event, History, Process, Sent, Trace

AGREED, SAFE = Guarantee.AGREED, Guarantee.SAFE
ring_a, ring_b, ring_c, ring_d, ring_e = RingId(1, 4), RingId(1, 8), RingId(3, 12), RingId(3, 13), RingId(1, 20)


def regular(ring_id: RingId, members: tuple[int, ...], transitional: tuple[int, ...] = ()) -> RegularConfiguration:
    return RegularConfiguration(ring_id, members, transitional, pure=True, features=0)


A, B, C = regular(ring_a, (1, 2, 3)), regular(ring_b, (1, 2), (1, 2)), regular(ring_c, (3,), (3,))
D, E, E3 = regular(ring_d, (3,)), regular(ring_e, (1, 2, 3), (1, 2)), regular(ring_e, (1, 2, 3), (3,))
AB, AC = TransitionalConfiguration(ring_a, (1, 2), ring_b), TransitionalConfiguration(ring_a, (3,), ring_c)
BE, DE = TransitionalConfiguration(ring_b, (1, 2), ring_e), TransitionalConfiguration(ring_d, (3,), ring_e)


def sent(*texts: str, guarantee: Guarantee = AGREED) -> Sent:
    return Sent(tuple(text.encode() for text in texts), guarantee)


def got(ring_id: RingId, seq: int, *texts: str, level: Level = Level.AGREED) -> Messages:
    return Messages(int(texts[0][0]), ring_id, seq, level, [text.encode() for text in texts])


def story(first_seq: int = 0) -> list[Trace]:
    def at(ring_id: RingId, seq: int, *texts: str, level: Level = Level.AGREED) -> Messages:
        return got(ring_id, (first_seq + seq) % 2**32, *texts, level=level)

    common = [
        at(ring_a, 1, "1#0"),
        at(ring_a, 2, "2#0", "2#1"),
        at(ring_a, 3, "3#0", level=Level.SAFE),
    ]
    one_and_two = [
        at(ring_a, 4, "1#1", level=Level.SAFE),
        AB,
        at(ring_a, 5, "2#2", level=Level.TRANSITIONAL),
        at(ring_a, 7, "1#2"),
        B,
        at(ring_b, 1, "1#3"),
        at(ring_b, 2, "2#3"),
        BE,
        E,
        at(ring_e, 1, "1#4", level=Level.SAFE),
        at(ring_e, 2, "3'2#0"),
    ]
    events_1: list[Event] = [A, sent("1#0"), *common, sent("1#1", guarantee=SAFE), sent("1#2"), *one_and_two]
    events_1.insert(events_1.index(B) + 1, sent("1#3"))
    events_1.insert(events_1.index(E) + 1, sent("1#4", guarantee=SAFE))
    events_2: list[Event] = [A, common[0], sent("2#0", "2#1"), *common[1:], sent("2#2", guarantee=SAFE), *one_and_two]
    events_2.insert(events_2.index(B) + 2, sent("2#3"))
    events_3: list[Event] = [
        sent("3#0", guarantee=SAFE),
        A,
        *common,
        sent("3#1"),
        AC,
        at(ring_a, 4, "1#1", level=Level.TRANSITIONAL),
        at(ring_a, 6, "3#1"),
        C,
        sent("3#2"),
        at(ring_c, 1, "3#2"),
        sent("3#3"),
    ]
    events_3_again: list[Event] = [D, DE, E3, sent("3'2#0"), *one_and_two[-2:]]
    return [
        Trace(Process(1), events_1),
        Trace(Process(2), events_2),
        Trace(Process(3), events_3, ended=True),
        Trace(Process(3, 2), events_3_again),
    ]


def broken_clauses(traces: list[Trace], *, quiescent: bool = True) -> set[str]:
    return {violation.clause for violation in check(History(traces, quiescent=quiescent))}


@pytest.mark.parametrize("first_seq", [0, 2**32 - 4])
@pytest.mark.parametrize("quiescent", [False, True])
def test_a_good_story_passes(first_seq: int, quiescent: bool) -> None:
    assert check(History(story(first_seq), quiescent=quiescent)) == []


def find(trace: Trace, text: str) -> int:
    """Return where a trace delivers this message."""
    return next(
        index
        for index, event in enumerate(trace.events)
        if isinstance(event, Messages) and text.encode() in event.messages
    )


def find_sent(trace: Trace, text: str) -> int:
    return next(
        index for index, event in enumerate(trace.events) if isinstance(event, Sent) and text.encode() in event.messages
    )


Mutation = Callable[[list[Trace]], None]
MUTATIONS: list[tuple[str, str, Mutation]] = []


def breaks(clause: str) -> Callable[[Mutation], Mutation]:
    """Register a mutation that the checker of this clause must catch."""

    def register(mutation: Mutation) -> Mutation:
        MUTATIONS.append((clause, mutation.__name__, mutation))
        return mutation

    return register


@breaks("1.1")
def delivered_before_it_is_sent(traces: list[Trace]) -> None:
    events = traces[0].events
    events.insert(find(traces[0], "1#0") + 1, events.pop(find_sent(traces[0], "1#0")))


@breaks("1.1")
def each_sends_what_the_other_must_have_first(traces: list[Trace]) -> None:
    one, two = traces[0], traces[1]
    for trace, own in ((one, "1#3"), (two, "2#3")):
        last = max(find(trace, "1#3"), find(trace, "2#3"))
        trace.events.insert(last, trace.events.pop(find_sent(trace, own)))
    two.events[find(two, "1#3") : find(two, "2#3") + 1] = [
        two.events[find(two, "2#3")],
        two.events[find_sent(two, "2#3")],
        two.events[find(two, "1#3")],
    ]
    del two.events[find_sent(two, "2#3")]
    two.events.insert(find(two, "1#3") + 1, sent("2#3"))


@breaks("1.2")
def sent_twice(traces: list[Trace]) -> None:
    traces[1].events.insert(find_sent(traces[1], "2#2"), sent("2#0"))


@breaks("1.2")
def sent_in_a_ring_that_its_sender_never_installed(traces: list[Trace]) -> None:
    for trace in traces[:2]:
        trace.events.insert(find(trace, "2#3") + 1, got(ring_b, 3, "3#3"))


@breaks("1.2")
def sent_in_two_rings(traces: list[Trace]) -> None:
    events = traces[1].events
    events[find(traces[1], "1#3")] = got(ring_a, 1, "1#3")


@breaks("1.3")
def delivered_twice(traces: list[Trace]) -> None:
    events = traces[1].events
    events.insert(find(traces[1], "2#0") + 1, events[find(traces[1], "1#0")])


@breaks("1.3")
def delivered_twice_at_once(traces: list[Trace]) -> None:
    events = traces[0].events
    events[find(traces[0], "1#4")] = got(ring_e, 1, "1#4", "1#4", level=Level.SAFE)


@breaks("1.3")
def delivered_in_the_next_configuration(traces: list[Trace]) -> None:
    events = traces[1].events
    events.insert(events.index(B), events.pop(find(traces[1], "1#2")))


@breaks("1.4")
def delivered_without_being_sent(traces: list[Trace]) -> None:
    del traces[0].events[find_sent(traces[0], "1#3")]


@breaks("1.4")
def delivered_with_a_wrong_byte(traces: list[Trace]) -> None:
    traces[1].events[find(traces[1], "1#3")] = got(ring_b, 1, "1#?")


@breaks("1.4")
def delivered_as_somebody_elses(traces: list[Trace]) -> None:
    events = traces[0].events
    index = find(traces[0], "2#3")
    events[index] = got(ring_b, 2, "2#3")._replace(sender=1)


@breaks("2.1")
def told_of_a_ring_of_others(traces: list[Trace]) -> None:
    traces[1].events[traces[1].events.index(B)] = regular(ring_b, (1,), (1, 2))


@breaks("2.2")
def other_members_under_the_same_id(traces: list[Trace]) -> None:
    traces[1].events[traces[1].events.index(B)] = regular(ring_b, (1, 2, 3), (1, 2))


@breaks("2.2")
def other_transitional_members(traces: list[Trace]) -> None:
    traces[1].events[traces[1].events.index(AB)] = TransitionalConfiguration(ring_a, (2,), ring_b)


@breaks("2.2")
def features_told_differently(traces: list[Trace]) -> None:
    traces[1].events[traces[1].events.index(B)] = RegularConfiguration(ring_b, (1, 2), (1, 2), True, 1)


@breaks("2.2")
def a_ring_of_our_own_told_as_mixed(traces: list[Trace]) -> None:
    for trace in traces[:2]:
        trace.events[trace.events.index(B)] = RegularConfiguration(ring_b, (1, 2), (1, 2), False, 0)


@breaks("2.2")
def a_ring_id_used_again_after_a_restart(traces: list[Trace]) -> None:
    events = traces[3].events
    events[0] = C
    events[1] = TransitionalConfiguration(ring_c, (3,), ring_e)


@breaks("2.2")
def a_lower_ring_sequence_after_a_restart(traces: list[Trace]) -> None:
    events = traces[3].events
    events[0] = regular(RingId(3, 11), (3,))
    events[1] = TransitionalConfiguration(RingId(3, 11), (3,), ring_e)


@breaks("2.3")
def delivered_before_the_configuration(traces: list[Trace]) -> None:
    events = traces[1].events
    events.insert(events.index(B), events.pop(find(traces[1], "1#3")))


@breaks("2.3")
def delivered_before_any_configuration(traces: list[Trace]) -> None:
    events = traces[1].events
    events.insert(0, events.pop(find(traces[1], "1#0")))


@breaks("2.3")
def sent_after_the_end_of_its_configuration(traces: list[Trace]) -> None:
    events = traces[0].events
    events.insert(events.index(AB) + 1, events.pop(find_sent(traces[0], "1#2")))


@breaks("2.4")
def no_transitional_configuration(traces: list[Trace]) -> None:
    traces[1].events.remove(AB)


@breaks("2.4")
def no_regular_configuration_in_between(traces: list[Trace]) -> None:
    traces[1].events.remove(B)


@breaks("2.4")
def transitional_leads_elsewhere(traces: list[Trace]) -> None:
    for trace in traces[:2]:
        trace.events[trace.events.index(AB)] = TransitionalConfiguration(ring_a, (1, 2), RingId(1, 12))


@breaks("2.4")
def transitional_has_members_of_neither(traces: list[Trace]) -> None:
    for trace in traces[:2]:
        trace.events[trace.events.index(BE)] = TransitionalConfiguration(ring_b, (1, 2, 3), ring_e)


@breaks("2.4")
def came_along_with_one_from_another_ring(traces: list[Trace]) -> None:
    for trace in traces[:2]:
        events = trace.events
        events[events.index(E)] = regular(ring_e, (1, 2, 3), (1, 2, 3))


@breaks("2.5")
def one_stays_behind_at_the_end(traces: list[Trace]) -> None:
    del traces[1].events[traces[1].events.index(BE) :]


@breaks("3")
def own_message_never_delivered(traces: list[Trace]) -> None:
    for trace in traces:
        trace.events[:] = [event for event in trace.events if not is_delivery(event, "3'2#0")]


@breaks("3")
def own_message_left_out(traces: list[Trace]) -> None:
    del traces[0].events[find(traces[0], "1#2")]


@breaks("4")
def one_of_those_who_go_together_lacks_a_message(traces: list[Trace]) -> None:
    del traces[1].events[find(traces[1], "1#2")]


@breaks("4")
def one_has_it_only_after_the_transitional_configuration(traces: list[Trace]) -> None:
    events = traces[1].events
    events.insert(events.index(AB), events.pop(find(traces[1], "1#1")))


@breaks("4")
def one_lacks_a_message_at_the_end(traces: list[Trace]) -> None:
    del traces[1].events[find(traces[1], "3'2#0")]


@breaks("5")
def delivered_without_what_its_sender_had(traces: list[Trace]) -> None:
    del traces[2].events[find(traces[2], "1#0")]


@breaks("5")
def delivered_without_an_earlier_one_of_its_sender(traces: list[Trace]) -> None:
    for trace in traces[:2]:
        del trace.events[find(trace, "1#1")]


@breaks("5")
def delivered_though_nobody_has_an_earlier_one(traces: list[Trace]) -> None:
    for trace in traces[:3]:
        trace.events[:] = [event for event in trace.events if not is_delivery(event, "1#1")]


@breaks("5")
def answer_ordered_before_the_question(traces: list[Trace]) -> None:
    for trace in traces[:3]:
        first, second = find(trace, "1#0"), find(trace, "2#0")
        trace.events[first] = got(ring_a, 2, "1#0")
        trace.events[second] = got(ring_a, 1, "2#0", "2#1")


@breaks("6.1")
def two_swapped(traces: list[Trace]) -> None:
    events = traces[1].events
    first, second = find(traces[1], "2#0"), find(traces[1], "3#0")
    events[first], events[second] = events[second], events[first]


@breaks("6.1")
def two_swapped_in_one_frame(traces: list[Trace]) -> None:
    events = traces[2].events
    events[find(traces[2], "2#0")] = got(ring_a, 2, "2#1", "2#0")


@breaks("6.1")
def another_number_at_one(traces: list[Trace]) -> None:
    events = traces[1].events
    events[find(traces[1], "2#3")] = got(ring_b, 3, "2#3")


@breaks("6.2")
def a_hole_in_a_regular_configuration(traces: list[Trace]) -> None:
    del traces[2].events[find(traces[2], "2#0")]


@breaks("6.2")
def a_hole_of_a_member_in_a_transitional_configuration(traces: list[Trace]) -> None:
    for trace in traces[:2]:
        trace.events[find(trace, "1#2")] = got(ring_a, 8, "1#2")
        trace.events.insert(find(trace, "1#2") + 1, got(ring_a, 9, "1#2b"))
    traces[0].events.insert(find_sent(traces[0], "1#2") + 1, sent("1#2b"))
    traces[2].events.insert(traces[2].events.index(C), got(ring_a, 8, "1#2"))
    for trace in traces[:2]:
        del trace.events[find(trace, "1#2")]


@breaks("7.1")
def safe_but_one_lacks_it(traces: list[Trace]) -> None:
    del traces[2].events[find(traces[2], "1#1")]


@breaks("7.1")
def transitional_but_one_that_came_along_lacks_it(traces: list[Trace]) -> None:
    del traces[1].events[find(traces[1], "2#2")]


@breaks("7.1")
def told_as_safe_in_a_transitional_configuration(traces: list[Trace]) -> None:
    events = traces[1].events
    events[find(traces[1], "2#2")] = got(ring_a, 5, "2#2", level=Level.SAFE)


@breaks("7.1")
def told_as_transitional_in_a_regular_configuration(traces: list[Trace]) -> None:
    events = traces[1].events
    events[find(traces[1], "1#1")] = got(ring_a, 4, "1#1", level=Level.TRANSITIONAL)


@breaks("7.1")
def sent_as_safe_and_told_as_agreed(traces: list[Trace]) -> None:
    events = traces[1].events
    events[find(traces[1], "1#1")] = got(ring_a, 4, "1#1")


@breaks("7.2")
def safe_in_a_ring_that_one_never_installed(traces: list[Trace]) -> None:
    del traces[2].events[:]


def is_delivery(event: Event, text: str) -> bool:
    return isinstance(event, Messages) and text.encode() in event.messages


@pytest.mark.parametrize(
    ("clause", "mutation"), [pytest.param(*entry[::2], id=f"{entry[0]}-{entry[1]}") for entry in MUTATIONS]
)
def test_each_mutation_is_caught(clause: str, mutation: Mutation) -> None:
    traces = story()
    mutation(traces)
    assert clause in broken_clauses(traces)


def test_each_clause_has_a_mutation() -> None:
    assert {clause for clause, _, _ in MUTATIONS} == set(CHECKERS)


def test_a_failed_process_is_excused() -> None:
    traces = story()
    del traces[2].events[find(traces[2], "3#0") :]  # it may fail in the middle of A, with safe messages still to come
    assert broken_clauses(traces) == set()


def foreign(traces: list[Trace], node_id: int) -> None:
    for trace in traces:
        if trace.process.node_id == node_id:
            trace.process = trace.process._replace(foreign=True)
    for trace in traces:
        trace.events[:] = [
            dataclasses.replace(event, pure=node_id not in event.members)
            if isinstance(event, RegularConfiguration)
            else event
            for event in trace.events
        ]
        if trace.process.foreign:
            trace.events[:] = [
                event._replace(level=Level.AGREED) if isinstance(event, Messages) else event for event in trace.events
            ]


class TestMixedColumn:
    """What the mixed column lets pass, and what it does not."""

    def test_a_good_story_passes(self) -> None:
        traces = story()
        foreign(traces, 2)
        assert broken_clauses(traces) == set()

    def test_where_a_foreign_process_sees_its_transitional_configuration_does_not_matter(self) -> None:
        traces = story()
        foreign(traces, 2)
        traces[1].events.remove(AB)
        assert broken_clauses(traces) == set()

    def test_safe_may_be_delivered_as_agreed_in_a_transitional_configuration_only(self) -> None:
        traces = story()
        foreign(traces, 2)
        events = traces[0].events
        events[find(traces[0], "2#2")] = got(ring_a, 5, "2#2")
        assert broken_clauses(traces) == set()
        events[find(traces[0], "1#1")] = got(ring_a, 4, "1#1")
        assert broken_clauses(traces) == {"7.1"}

    def test_equal_sets_hold_for_foreign_processes(self) -> None:
        traces = story()
        foreign(traces, 2)
        del traces[1].events[find(traces[1], "1#2")]
        assert "4" in broken_clauses(traces)

    def test_a_foreign_process_that_installed_too_early_may_lack_messages_but_no_safe_ones(self) -> None:
        traces = story()
        foreign(traces, 2)
        early = [(traces[1].process, ring_b)]
        del traces[1].events[find(traces[1], "1#2")]
        assert check(History(traces, quiescent=True, early=early)) == []
        assert "4" in broken_clauses(traces)
        traces = story()
        foreign(traces, 2)
        del traces[1].events[find(traces[1], "1#1")]
        violations = check(History(traces, quiescent=True, early=early))
        assert {violation.clause for violation in violations} == {"7.1"}

    def test_what_misfiling_does_in_a_ring_of_foreign_nodes_only_is_not_looked_at(self) -> None:
        def confused() -> list[Trace]:
            traces = story()
            foreign(traces, 2)
            for trace in traces[:2]:
                trace.events[find(trace, "2#2")] = got(ring_a, 5, "2#2")
            del traces[1].events[find(traces[1], "1#3")]
            traces[1].events.insert(traces[1].events.index(AB), got(ring_b, 1, "1#3"))
            traces[1].events.insert(find(traces[1], "2#3"), got(ring_b, 2, "1? put together over a hole"))
            return traces

        traces = confused()
        early = [(traces[1].process, ring_b)]
        violations = check(History(traces, quiescent=True, early=early))
        assert {violation.clause for violation in violations} >= {"1.3", "1.4"}, "one of our nodes has a part in it"
        foreign(traces, 1)
        assert {"1.3", "1.4"} <= broken_clauses(traces), "it was not early"
        assert check(History(traces, quiescent=True, early=early)) == []
        traces[1].events.insert(find(traces[1], "2#3"), got(ring_a, 7, "1#2"))
        violations = check(History(traces, quiescent=True, early=early))
        assert {violation.clause for violation in violations} >= {"1.3"}, "another ring's message comes twice"

    def test_a_joiner_may_lack_what_a_foreign_sender_had_begun_before(self) -> None:
        traces = story()
        for trace in traces[:2]:
            trace.events.insert(find(trace, "3'2#0") + 1, got(ring_e, 3, "2#4"))
        traces[1].events.insert(traces[1].events.index(BE), sent("2#4"))
        assert "4" in broken_clauses(traces)
        foreign(traces, 2)
        assert broken_clauses(traces) == set()

    def test_what_a_foreign_sender_that_ended_had_begun_in_an_earlier_ring_may_be_lost_to_all(self) -> None:
        def lost() -> list[Trace]:
            """3' sends a message in D, the other in E, and only the second one is delivered."""
            traces = story()
            traces[3].events.insert(traces[3].events.index(D) + 1, sent("3'2#9"))
            traces[3].ended = True
            return traces

        traces = lost()
        assert "5" in broken_clauses(traces)
        foreign(traces, 3)
        assert "5" not in broken_clauses(traces)
        traces[3].ended = False
        assert "5" in broken_clauses(traces), "it lives, and never delivered it"
        traces = lost()
        traces[3].events.remove(sent("3'2#9"))
        traces[3].events.insert(traces[3].events.index(E3) + 1, sent("3'2#9"))
        foreign(traces, 3)
        assert "5" in broken_clauses(traces), "it was begun in the ring where it was lost"

    def test_a_joiner_may_not_lack_what_a_foreign_sender_began_later(self) -> None:
        traces = story()
        for trace in traces[:2]:
            trace.events.append(got(ring_e, 3, "2#4"))
        traces[1].events.insert(traces[1].events.index(E) + 1, sent("2#4"))
        foreign(traces, 2)
        assert "4" in broken_clauses(traces)


def lived() -> list[Trace]:
    """Traces of a real cluster that has seen some changes."""
    cluster = Cluster(4, seed="checkers", application=BarrierSync)
    cluster.start()
    cluster.form()
    for step in range(12):
        for node in cluster.running:
            sizes = [cluster.dice.randrange(3000) for _ in range(3)]
            node.send([node.compose(size) for size in sizes], Guarantee(step % 2))
        cluster.run_for(0.002)
        if step == 5:
            cluster.network.partition([1, 2, 3], [4])
            cluster.run_until(lambda: cluster.one_ring(1, 2, 3), 30)
        if step == 8:
            cluster[2].crash()
            cluster.network.heal()
    assert cluster.settle()
    return cluster.traces


def test_any_random_mutation_of_a_real_story_is_caught() -> None:
    """Drop, repeat, swap or move over a configuration: whatever is done to a delivery, some clause is broken.

    This is done at nodes 1 and 3, which stay together all the time; a node alone may lack what comes last.
    """
    traces = lived()
    assert check(History(traces, quiescent=True)) == []
    dice = random.Random(1)
    for _ in range(150):
        mutated = [Trace(trace.process, list(trace.events), trace.ended) for trace in traces]
        trace = dice.choice([trace for trace in mutated if trace.process.node_id in (1, 3)])
        events = trace.events
        deliveries = [index for index, event in enumerate(events) if isinstance(event, Messages)]
        index = dice.choice(deliveries)
        kind = dice.choice(["drop", "repeat", "swap", "move"])
        if kind == "drop":
            del events[index]
        elif kind == "repeat":
            events.insert(dice.choice(deliveries), events[index])
        elif kind == "swap":
            other = dice.choice(deliveries)
            if other == index:
                continue
            events[index], events[other] = events[other], events[index]
        else:
            configurations = [k for k, event in enumerate(events) if not isinstance(event, Messages | Sent)]
            border = dice.choice(configurations)
            if not any(min(index, border) < k < max(index, border) for k in deliveries):
                continue
            moved = events.pop(index)
            events.insert(border, moved)
        assert check(History(mutated, quiescent=True)), f"{kind} at {index} of {trace.process}"
