"""What paths carry in a ring of ours on udpu or udp: found each way, told to all, named once."""

import heapq
import random
from math import inf

import pytest

from totem.config import MIN_NETMTU, Config
from totem.hearing import Hearing
from totem.links.probing import Probing
from totem.wire import probes
from totem.wire.probes import ProbePacket

HEADERS = 28


class Ring:
    """Members, and what is between them."""

    def __init__(self, count=3, **settings):
        self.config = Config.for_nodes(count, **settings)
        self.now = 0.0
        self.carries = {}
        """The largest IP packet, by (source, target), where it is less than the configuration says."""
        self.limits = {}
        self.hearing = {}
        self.notices = []
        self.sent = 0
        self.times = []
        """When datagrams were sent."""
        self.loss = 0.0
        self.dice = random.Random(1)
        self.members = {node.node_id: self._member(node.node_id) for node in self.config.nodes}
        self._flying = []
        self._order = 0

    def _member(self, node_id):
        probing = Probing(self.config, node_id)
        probing.on_limit = lambda limit: self.limits.__setitem__(node_id, limit)
        probing.on_hearing = lambda other, hearing, now: self.hearing.__setitem__((node_id, other), hearing)
        probing.notice = lambda cause, text: self.notices.append((node_id, text))
        return probing

    def form(self, *members):
        for node_id in members:
            self.members[node_id].ping(members, self.now)
            self.members[node_id].attend(members, self.now)
        return self

    def run(self, seconds):
        end = self.now + seconds
        while True:
            self._flush()
            due = min([self._flying[0][0] if self._flying else inf, *(one.deadline for one in self.members.values())])
            if due > end:
                break
            self.now = max(self.now, due)
            while self._flying and self._flying[0][0] <= self.now:
                _, _, target, datagram = heapq.heappop(self._flying)
                assert self.members[target].receive(datagram, self.now)
            for probing in self.members.values():
                if probing.deadline <= self.now:
                    probing.advance(self.now)
        self.now = end

    def _flush(self):
        for source, probing in self.members.items():
            for target, datagram in probing.take():
                self.sent += 1
                self.times.append(self.now)
                if self.loss and self.dice.random() < self.loss:
                    continue
                if len(datagram) + HEADERS <= self.carries.get((source, target), inf):
                    self._order += 1
                    heapq.heappush(self._flying, (self.now + 0.001, self._order, target, datagram))


def test_paths_that_carry_what_they_should_change_nothing():
    ring = Ring().form(1, 2, 3)
    ring.run(100)
    assert ring.limits == {}
    assert ring.notices == []
    assert 3 * 2 * 4 * 100 * 0.9 < ring.sent < 3 * 2 * 4 * 100 * 1.1, "four beats a second on each path each way"


@pytest.mark.parametrize("count", [3, 16])
def test_beats_of_all_nodes_leave_together_and_answer_each_other(count):
    ring = Ring(count)
    for node_id in ring.members:
        ring.run(0.037)  # they start at different times
        ring.members[node_id].ping(ring.members, ring.now)
    ring.run(3)
    ring.times.clear()
    ring.run(10)
    assert len({round(time, 2) for time in ring.times}) < 2 * 85, "eight moments a second, of 64 beats"
    (state, *_) = ring.members[1].states()
    assert state.latency == pytest.approx(0.002, rel=0.1), "the time that an answer was kept is no latency"
    assert all(hearing == Hearing(True, True) for hearing in ring.hearing.values())


def test_loss_makes_no_path_go_down():
    ring = Ring(4).form(1, 2, 3, 4)
    ring.run(1)
    ring.loss = 0.1
    ring.run(600)
    assert all(state.downs == 0 for probing in ring.members.values() for state in probing.states())


def test_a_path_is_down_after_a_second_without_an_answer_and_pinged_quickly_before():
    ring = Ring(2).form(1, 2)
    ring.run(2)
    ring.carries = {(1, 2): 0}
    ring.times.clear()
    cut = ring.now
    ring.run(2)
    (state,) = ring.members[1].states()
    assert not state.is_up
    assert 0.7 < state.since - cut < 1.3
    asked = [time for time in ring.times if state.since - 0.5 < time < state.since]
    assert len(asked) > 10


@pytest.mark.parametrize("ways", [[(1, 2)], [(1, 2), (2, 1)], [(3, 1), (3, 2)]])
@pytest.mark.parametrize("size", [600, 1300, 1499])
def test_a_narrow_path_is_found_one_way_too_named_and_told_to_all(ways, size):
    ring = Ring()
    ring.carries = dict.fromkeys(ways, size)
    ring.form(1, 2, 3)
    ring.run(1)
    assert all(limit <= size for limit in ring.limits.values()), "at once"
    assert len(ring.limits) >= 1
    ring.run(20)
    assert ring.limits == {1: size, 2: size, 3: size}
    notices = sorted(ring.notices)
    assert [node_id for node_id, _ in notices] == [source for source, _ in ways]
    for (_, target), (_, text) in zip(ways, notices, strict=True):
        assert f"do not reach node {target}" in text
        assert f"set netmtu to {size}" in text
    ring.run(100)
    assert len(ring.notices) == len(ways)


def test_what_was_found_counts_in_the_next_ring_until_more_is_found():
    ring = Ring()
    ring.carries = {(1, 2): 1300}
    ring.form(1, 2, 3)
    ring.run(20)
    ring.form(1, 3)
    ring.run(0.1)
    assert ring.limits[1] == ring.limits[3] == 1500
    ring.form(1, 2, 3)
    ring.run(0.1)
    assert ring.limits == {1: 1300, 2: 1300, 3: 1300}
    ring.carries = {}
    ring.run(60)
    assert ring.limits == {1: 1500, 2: 1500, 3: 1500}


def test_a_path_that_becomes_narrow_is_found_with_the_next_search():
    ring = Ring().form(1, 2, 3)
    ring.run(10)
    ring.carries = {(2, 3): 1400}
    ring.run(60)
    assert ring.limits == {1: 1400, 2: 1400, 3: 1400}


def test_in_a_ring_with_others_nothing_is_sent():
    ring = Ring().form(1, 2, 3)
    ring.run(10)
    for probing in ring.members.values():
        probing.attend((), ring.now)
        probing.ping((), ring.now)
    ring.sent = 0
    ring.run(100)
    assert ring.sent == 0
    assert all(probing.deadline == inf for probing in ring.members.values())


def test_strangers_are_not_answered_and_limits_have_a_floor():
    ring = Ring().form(1, 2)
    ring.run(1)
    probing = ring.members[1]
    assert not probing.receive(b"TtmX" + bytes(40), ring.now)
    assert not probing.receive(ProbePacket(probes.PING, 2, 0, 0).encode()[:-1], ring.now)
    assert not probing.receive(b"TtmL\1\x09" + bytes(40), ring.now)
    assert probing.receive(ProbePacket(probes.PING, 3, 20, 0).encode(), ring.now)
    assert probing.receive(ProbePacket(probes.PING, 77, 20, 0).encode(), ring.now)
    assert probing.take() == []
    assert ring.limits == {}
    assert probing.receive(ProbePacket(probes.PING, 2, 20, 0).encode(), ring.now)
    assert ring.limits == {1: MIN_NETMTU}


def test_a_packet_is_what_it_was():
    for packet in (ProbePacket(probes.PING, 2**32 - 1, 1500, 123456789), ProbePacket(probes.PROBE, 1, 0, 1500)):
        assert probes.decode(packet.encode()) == packet
        assert probes.decode(packet.encode(1472)) == packet
        assert len(packet.encode(1472)) == 1472


def test_who_hears_whom_is_known_each_way():
    ring = Ring().form(1, 2, 3)
    ring.run(1)
    both, deaf, mute = Hearing(True, True), Hearing(False, False), Hearing(True, False)
    assert ring.hearing == {(a, b): both for a in (1, 2, 3) for b in (1, 2, 3) if a != b}
    ring.carries = {(1, 2): 0}
    ring.run(3)
    assert (ring.hearing[1, 2], ring.hearing[2, 1]) == (mute, deaf), "who hears nothing answers nothing"
    assert ring.hearing[1, 3] == ring.hearing[3, 1] == both
    ring.carries = {}
    ring.run(1)
    assert ring.hearing[1, 2] == ring.hearing[2, 1] == both


def test_a_refusal_opens_a_trial_that_an_answer_ends():
    ring = Ring().form(1, 2, 3)
    ring.run(1)
    ring.members[1].unreachable(2, ring.now)
    ring.run(1)
    assert ring.hearing[1, 2] == Hearing(True, True)
    ring.carries = {(1, 2): 0, (2, 1): 0}
    ring.members[1].unreachable(2, ring.now)
    ring.run(0.3)
    assert not ring.hearing[1, 2].is_heard
    ring.members[1].unreachable(77, ring.now)


def test_frames_are_never_cut_smaller_than_the_smallest_netmtu_which_goes_in_pieces_over_what_carries_less():
    ring = Ring()
    ring.carries = {(1, 2): 300}
    ring.form(1, 2, 3)
    ring.run(20)
    assert ring.limits == dict.fromkeys((1, 2, 3), MIN_NETMTU)
    frame = bytes(MIN_NETMTU - HEADERS)
    pieces = ring.members[1].cut(2, [frame])
    assert max(map(len, pieces)) <= 300 - HEADERS
    whole = []
    ring.members[2].on_whole = lambda datagram, now: whole.append(datagram)
    for piece in pieces:
        ring.members[2].receive(piece, ring.now)
    assert whole == [frame]


def test_one_that_comes_back_as_a_node_of_another_make_is_tried_no_more():
    ring = Ring().form(1, 2, 3)
    ring.run(2)
    probing = ring.members[1]
    probing.try_nodes([3], ring.now)
    probing.take()
    probing.ping((1, 2), ring.now)
    probing.try_nodes([3], ring.now)
    for count in range(10):
        probing.advance(ring.now + 0.02 * count)
    assert {target for target, _ in probing.take()} <= {2}
