"""The sync machine by itself (wire-protocol 8.3, ruling C4)."""

import math

from cpg.node.sync import Sync, SyncService
from cpg.node.wire import Barrier, ServiceBuild, decode
from totem.configuration import RingId

RING = RingId(1, 8)
OLD_RING = RingId(1, 4)


class Bench:
    """A sync machine and its actions, in order; the services' messages are their names."""

    def __init__(self, *services, limit=1.0):
        self.done = []
        self.sync = Sync(
            {service: self.service(service) for service in services},
            send=lambda messages: self.done.extend(map(self.noun, messages)),
            complete=lambda ring_id: self.done.append(("complete", ring_id)),
            limit=limit,
        )

    def service(self, number):
        return SyncService(
            messages=lambda: [b"said %d" % number],
            activate=lambda: self.done.append(("activate", number)),
        )

    @staticmethod
    def noun(message):
        return decode(message) or message

    def take(self):
        done, self.done = self.done, []
        return done

    def build(self, *services, of, ring=RING):
        self.sync.on_service_build(of, ServiceBuild(ring, services))

    def barrier(self, *, of, ring=RING):
        self.sync.on_barrier(of, Barrier(ring))


def started(*services, members=(1, 2), **options):
    bench = Bench(*services, **options)
    bench.sync.start(RING, members)
    bench.take()
    return bench


def test_the_services_of_a_new_ring_are_in_ascending_order():
    bench = Bench(5, 2)
    bench.sync.start(RING, (1, 2))
    assert bench.take() == [ServiceBuild(RING, (2, 5))]


def test_the_first_turn_begins_when_all_members_have_sent_theirs():
    bench = started(2)
    bench.build(2, of=1)
    assert bench.take() == []
    bench.build(2, of=2)
    assert bench.take() == [b"said 2", Barrier(RING)]


def test_services_take_turns_in_lock_step_and_unknown_ones_cost_a_barrier():
    bench = started(2, 5)
    bench.build(2, 5, of=1)
    bench.build(0, 2, 3, of=2)
    assert bench.take() == [Barrier(RING)]  # 0
    bench.barrier(of=1)
    assert bench.take() == []
    bench.barrier(of=2)
    assert bench.take() == [b"said 2", Barrier(RING)]
    bench.barrier(of=2)
    bench.barrier(of=1)
    assert bench.take() == [("activate", 2), Barrier(RING)]  # 3
    bench.barrier(of=1)
    bench.barrier(of=2)
    assert bench.take() == [b"said 5", Barrier(RING)]
    bench.barrier(of=1)
    bench.barrier(of=2)
    assert bench.take() == [("activate", 5), ("complete", RING)]
    assert bench.sync.silent == ()


def test_nobody_with_a_service_means_complete_at_once():
    bench = started(members=(1,))
    bench.build(of=1)
    assert bench.take() == [("complete", RING)]


def test_messages_of_another_ring_and_of_strangers_are_ignored():
    bench = started(2)
    bench.build(2, of=1)
    bench.build(2, of=2, ring=OLD_RING)
    bench.build(2, of=3)
    assert bench.take() == []
    bench.build(2, of=2)
    bench.take()
    bench.barrier(of=1)
    bench.barrier(of=2, ring=OLD_RING)
    bench.barrier(of=3)
    assert bench.take() == []
    bench.barrier(of=2)
    assert bench.take() == [("activate", 2), ("complete", RING)]


def test_a_repeated_message_counts_once():
    bench = started(2)
    bench.build(2, of=1)
    bench.build(2, of=1)
    bench.build(2, of=2)
    bench.take()
    bench.build(7, of=2)
    bench.barrier(of=1)
    bench.barrier(of=1)
    assert bench.take() == []
    bench.barrier(of=2)
    assert bench.take() == [("activate", 2), ("complete", RING)]


def test_a_barrier_before_the_first_turn_is_void():
    bench = started(2)
    bench.build(2, of=2)
    bench.barrier(of=2)
    bench.build(2, of=1)
    bench.barrier(of=1)
    bench.take()
    assert bench.sync.silent == (2,)


def test_a_member_is_heard_behind_its_service_build_of_this_ring_until_the_ring_goes():
    bench = started(2)
    assert not bench.sync.heard(2)
    bench.build(2, of=2, ring=OLD_RING)
    assert not bench.sync.heard(2)
    bench.build(2, of=2)
    assert bench.sync.heard(2)
    assert not bench.sync.heard(1)
    bench.sync.abort()
    assert not bench.sync.heard(2)


def test_an_aborted_round_leaves_nothing_behind():
    for progress in range(5):
        bench = started(2)
        steps = [
            lambda bench: bench.build(2, of=1),
            lambda bench: bench.build(2, of=2),
            lambda bench: bench.barrier(of=1),
            lambda bench: bench.barrier(of=2),
        ]
        for step in steps[:progress]:
            step(bench)
        bench.sync.abort()
        bench.take()
        for step in steps:
            step(bench)
        assert bench.take() == []
        bench.sync.start(RingId(1, 12), (1, 2))
        assert bench.take() == [ServiceBuild(RingId(1, 12), (2,))]
        assert bench.sync.silent == (1, 2)
        for step in steps:
            step(bench)
        assert bench.take() == []


def test_silent_members_are_known_in_both_phases():
    bench = started(2, members=(1, 2, 3))
    bench.build(2, of=2)
    assert bench.sync.silent == (1, 3)
    bench.build(2, of=1)
    bench.build(2, of=3)
    assert bench.sync.silent == (1, 2, 3)
    bench.barrier(of=3)
    assert bench.sync.silent == (1, 2)


def test_a_round_is_overdue_once_when_it_takes_longer_than_the_limit():
    bench = started(2, limit=2.0)
    sync = bench.sync
    assert sync.deadline == -math.inf
    sync.advance(100.0)
    assert (sync.deadline, sync.overdue) == (102.0, 0)
    sync.advance(101.9)
    assert (sync.deadline, sync.overdue) == (102.0, 0)
    sync.advance(102.0)
    assert (sync.deadline, sync.overdue) == (math.inf, 1)
    sync.advance(200.0)
    assert sync.overdue == 1


def test_a_round_that_ends_in_time_is_not_overdue():
    bench = started(2, members=(1,))
    bench.sync.advance(100.0)
    bench.build(2, of=1)
    bench.barrier(of=1)
    assert bench.sync.deadline == math.inf
    bench.sync.advance(1000.0)
    assert (bench.sync.started, bench.sync.completed, bench.sync.overdue) == (1, 1, 0)


def test_a_new_round_has_its_own_time():
    bench = started(2)
    bench.sync.advance(100.0)
    bench.sync.start(RingId(1, 12), (1, 2))
    bench.sync.advance(150.0)
    assert bench.sync.deadline == 151.0
