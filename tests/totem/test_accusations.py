"""Accusations: who goes where machines refuse datagrams, and who does not."""

from itertools import pairwise

import pytest

from totem.accusations import FIRST_PAUSE, FORGOTTEN, LONGEST_PAUSE, OPEN, REFUSED_LATELY, Accusations
from totem.config import Config
from totem.configuration import Feature, RingId
from totem.diagnostics import Diagnostics
from totem.flow import FlowControl
from totem.membership import Membership
from totem.outbox import Outbox
from totem.ring import Ring
from totem.statistics import Counters
from totem.timers import Timers
from totem.wire import evidence
from totem.wire.evidence import Evidence, Saying

TRIAL = 0.15
ID = RingId(1, 8)


class Member:
    """One member, with the parts of a processor that its accusations need."""

    def __init__(self, node_id, members, *, pure=True, features=Feature.TRIALS):
        self.node_id = node_id
        self.counters = Counters()
        self.diagnostics = Diagnostics(Config.for_nodes(max(members)), node_id, self.counters, None)
        self.membership = Membership(node_id, frozenset(members), self.diagnostics.drop)
        self.membership.install(members)
        self.outbox = Outbox(node_id, Timers())
        self.accusations = Accusations(node_id, self.membership, self.outbox, self.diagnostics)
        self.accusations.on_proof = self._on_proof
        self.proven = {}
        self.ring = Ring(ID, members, node_id, 0, FlowControl(50, 17), Config.for_nodes(3).timeouts)
        self.ring.pure, self.ring.features = pure, features
        self.accusations.begin_ring(self.ring)

    def _on_proof(self, proven, now):
        self.proven |= proven
        self.membership.failed.update(proven)


class Court:
    """Members that hear each other at once, and trials that last as long as those of the links machine."""

    def __init__(self, count=3, **kwargs):
        members = tuple(range(1, count + 1))
        self.members = {node_id: Member(node_id, members, **kwargs) for node_id in members}
        self.now = 100.0
        self.dead = set()
        self.deaf = set()
        """Pairs of a member and one that does not answer it."""
        self.trials = []
        """(when it ends, who tries, whom)."""
        self.tried = 0
        self.sent = 0
        self.lost = lambda sender, target, said: False

    def refuse(self, node_id, by):
        self.members[node_id].accusations.on_refusal(by, self.now)
        self._settle()

    def say(self, target, said):
        self.members[target].accusations.receive(said, self.now)
        self._settle()

    def run(self, seconds):
        end = self.now + seconds
        while self.trials and min(self.trials)[0] <= end:
            self.trials.sort()
            self.now, member, accused = self.trials.pop(0)
            self._end_trial(member, accused)
        self.now = end
        return self

    def _end_trial(self, member, accused):
        answered = not self._is_silent(member, accused)
        self.members[member].accusations.on_trial(accused, answered, self.now)
        self._settle()

    def _is_silent(self, member, accused):
        return accused in self.dead or (member, accused) in self.deaf

    def _settle(self):
        moved = True
        while moved:
            moved = False
            for member in self.members.values():
                for accused in member.accusations.take():
                    self.tried += 1
                    silent = self._is_silent(member.node_id, accused)
                    self.trials.append((self.now + (TRIAL if silent else 0.001), member.node_id, accused))
                for target, (datagram,) in member.outbox.take():
                    moved = True
                    self.sent += 1
                    said = evidence.decode(datagram)
                    if target not in self.dead and not self.lost(member.node_id, target, said):
                        self.members[target].accusations.receive(said, self.now)

    @property
    def out(self):
        """Whom each living member has put out."""
        return {node: set(member.proven) for node, member in self.members.items() if node not in self.dead}

    def notices(self, node_id):
        return self.members[node_id].diagnostics.take()


def of_death(court, *dead, to=None):
    """Let processes die, and what each survivor sends be refused."""
    court.dead.update(dead)
    for node_id in court.members:
        for gone in dead:
            if node_id not in court.dead and (to is None or node_id in to):
                court.refuse(node_id, gone)
    return court


@pytest.mark.parametrize("count", [2, 3, 8, 16])
def test_a_process_that_ended_is_out_at_all_others_as_soon_as_the_trials_are_over(count):
    court = of_death(Court(count), count)
    court.run(TRIAL - 0.01)
    assert not any(court.out.values())
    court.run(0.02)
    assert court.out == {node: {count} for node in range(1, count)}


def test_who_was_refused_tells_the_others_which_begin_at_once():
    court = of_death(Court(3), 3, to=[1])
    assert [(member, accused) for _, member, accused in court.trials] == [(1, 3), (2, 3)]


def test_one_that_was_not_refused_itself_confirms_nothing():
    court = of_death(Court(3), 3, to=[1]).run(OPEN)
    assert court.out == {1: set(), 2: set()}


def test_one_that_is_not_answered_and_refused_later_confirms_then():
    court = of_death(Court(3), 3, to=[1]).run(0.5)
    court.refuse(2, 3)
    assert court.out == {1: {3}, 2: {3}}


def test_a_refusal_shortly_before_the_trial_counts_because_kernels_limit_them():
    court = Court(3)
    court.refuse(2, 3)
    court.run(0.2)
    assert court.out[2] == set(), "it was answered"
    court = Court(3)
    court.dead.add(3)
    court.members[2].accusations._refused[3] = court.now - REFUSED_LATELY / 2
    court.refuse(1, 3)
    assert court.run(TRIAL).out == {1: {3}, 2: {3}}
    court = Court(3)
    court.dead.add(3)
    court.members[2].accusations._refused[3] = court.now - REFUSED_LATELY * 1.1
    court.refuse(1, 3)
    assert court.run(OPEN).out == {1: set(), 2: set()}


def test_one_that_answers_anybody_stays():
    court = Court(4)
    court.deaf = {(1, 3), (2, 3)}
    court.refuse(1, 3)
    court.refuse(2, 3)
    assert not any(court.run(OPEN).out.values())
    assert "though it answers node 4: a firewall between the two rejects it" in court.notices(1)[-1]
    assert "node 3 answers this node, though its machine seems to refuse what node 1 sends" in court.notices(4)[0]


def test_a_firewall_that_rejects_for_ever_costs_a_trial_a_minute():
    court = Court(5)
    court.deaf = {(1, 3)}
    for _ in range(36_000):
        court.refuse(1, 3)
        court.run(0.1)
    assert not any(court.out.values())
    assert court.tried / 4 < 70
    assert court.sent / court.tried < 5


def test_who_died_after_a_false_accusation_is_out_as_soon_as_others_notice():
    court = Court(4)
    court.deaf = {(1, 3)}
    court.refuse(1, 3)
    court.run(0.01)
    of_death(court, 3, to=[2, 4]).run(TRIAL)
    assert court.out[2] == court.out[4] == {3}


def test_forged_refusals_cost_few_trials():
    court = Court(3)
    for _ in range(60_000):
        court.refuse(1, 3)
        court.run(0.001)
    assert not any(court.out.values())
    assert court.tried < 2 * 8


def test_two_of_three_that_ended_leave_a_ring_of_one():
    court = of_death(Court(3), 2, 3).run(TRIAL)
    assert court.out == {1: {2, 3}}


def test_who_has_left_already_is_nobody_who_could_confirm():
    court = Court(3)
    court.members[1].membership.gone.add(2)
    of_death(court, 2, 3, to=[1]).run(TRIAL)
    assert court.out == {1: {3}}


def test_all_of_several_that_ended_are_out():
    court = of_death(Court(8), 3, 5, 7).run(TRIAL)
    assert court.out == {node: {3, 5, 7} for node in (1, 2, 4, 6, 8)}


def test_an_accusation_that_was_lost_begins_with_the_confirmation():
    court = Court(3)
    court.lost = lambda sender, target, said: said.saying is Saying.ACCUSES
    of_death(court, 3, to=[1]).run(TRIAL)
    assert [(member, accused) for _, member, accused in court.trials] == [(2, 3)]
    court.refuse(2, 3)
    assert court.run(TRIAL).out == {1: {3}, 2: {3}}


@pytest.mark.parametrize("settings", [{"pure": False}, {"features": Feature.COMPACT}])
def test_in_a_ring_with_others_nobody_is_accused(settings):
    court = of_death(Court(3, **settings), 3).run(OPEN)
    assert not any(court.out.values())
    assert not court.sent
    assert not court.tried


def test_the_next_ring_begins_afresh():
    court = of_death(Court(3), 3, to=[1])
    for member in court.members.values():
        member.accusations.begin_ring(member.ring)
    assert not any(court.run(OPEN).out.values())
    court.refuse(1, 3)
    court.refuse(2, 3)
    assert court.run(TRIAL).out == {1: {3}, 2: {3}}


def test_a_false_accuser_is_harmless_bounded_and_named_once():
    court = Court(3)
    for _ in range(3_000):
        for saying in (Saying.ACCUSES, Saying.CONFIRMS):
            court.say(2, Evidence(saying, 1, 3, ID))
        court.run(0.001)
    assert not any(court.out.values())
    assert court.members[2].counters.drops["accusation too soon after another one"] > 5_000
    assert court.tried < 6
    (notice,) = court.notices(2)
    assert "node 3 answers this node" in notice


def test_a_false_accuser_alone_does_not_put_out_one_that_is_paused():
    court = Court(3)
    court.deaf = {(2, 3)}
    for saying in (Saying.ACCUSES, Saying.CONFIRMS):
        court.say(2, Evidence(saying, 1, 3, ID))
    assert not any(court.run(OPEN).out.values())


def test_what_is_said_of_another_ring_is_dropped():
    court = Court(3)
    court.say(2, Evidence(Saying.CONFIRMS, 1, 3, RingId(1, 4)))
    assert not court.tried


@pytest.mark.parametrize(
    "said",
    [
        Evidence(Saying.CONFIRMS, 9, 3, ID),
        Evidence(Saying.CONFIRMS, 2, 3, ID),
        Evidence(Saying.CONFIRMS, 1, 2, ID),
        Evidence(Saying.CONFIRMS, 1, 9, ID),
        Evidence(Saying.CONFIRMS, 1, 1, ID),
    ],
)
def test_what_says_nothing_about_another_member_is_dropped(said):
    court = Court(3)
    court.say(2, said)
    assert not court.tried
    assert court.members[2].counters.drops["evidence about no other member"] == 1


def test_pauses_grow_and_are_forgotten():
    court = Court(3)
    begun = []
    while court.now < 100 + 400:
        before = court.tried
        court.refuse(1, 3)
        if court.tried > before:
            begun.append(court.now)
        court.run(0.25)
    gaps = [later - earlier for earlier, later in pairwise(begun)]
    assert gaps[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert max(gaps) <= LONGEST_PAUSE + 0.25
    court.run(LONGEST_PAUSE + FORGOTTEN + 1)
    for _ in range(2):
        before = court.tried
        court.refuse(1, 3)
        assert court.tried == before + 2
        court.run(FIRST_PAUSE)


def test_evidence_is_what_it_was_and_leaves_room_for_the_target_of_knet():
    for saying in Saying:
        said = Evidence(saying, 3, 0xFFFFFFFF, RingId(2, 1 << 60))
        datagram = said.encode()
        assert evidence.decode(datagram) == said
        assert datagram[9:13] == bytes(4)
        assert evidence.decode(datagram[:9] + b"\x01\x02\x03\x04" + datagram[13:]) == said
        assert evidence.decode(datagram + b"\0") is None
    assert evidence.decode(b"TtmL\x01\x13".ljust(33, b"\0")) is None
