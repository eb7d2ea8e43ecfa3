"""Well-formed packets with plausible lies, from members of the ring: no processor raises, grows, or is lost by them."""

import random
from dataclasses import replace
from functools import partial

import pytest

from totem import Config, RingId, State
from totem.config import MAX_NETMTU, MAX_NODES
from totem.configuration import NO_RING, Guarantee
from totem.ring_numbers import LIMIT, STEP, Claims
from totem.sequence import MASK, RANGE
from totem.testing.checkers import check
from totem.testing.cluster import Cluster
from totem.testing.corosync import CorosyncModel
from totem.wire import codec
from totem.wire.messages import CommitEntry, CommitToken, Hello, HoldCancel, Join, Mcast, MergeDetect, Token

NODES = (1, 2, 3)
MASK_64 = (1 << 64) - 1
FAR = (1 << 40, 1 << 62, LIMIT - 8, LIMIT, LIMIT + 1, MASK_64 - 3, MASK_64)
STATES = (State.OPERATIONAL, State.GATHER, State.COMMIT, State.RECOVERY)
NEAR = 1 << 20
"""Bound of the numbers in a ring whose numbers no node has lifted far."""


class Forger:
    """Makes packets that fit what one processor is doing at the moment, except for some of their fields."""

    def __init__(self, dice, machine):
        self.dice = dice
        self.machine = machine
        self.ring = dice.choice([machine.ring, machine.new_ring or machine.ring])
        self.sender = dice.choice([node_id for node_id in NODES if node_id != machine.node_id])
        near = RingId(dice.choice(NODES), self.ring.id.seq + dice.choice([0, 4, 8]))
        self.ring_id = dice.choice([self.ring.id, self.ring.id, self.ring.id, machine.ring_id, near])

    def seq(self):
        window, dice = self.ring.window, self.dice
        near = (window.aru + dice.randrange(-3, 5)) & MASK
        far = (window.released + dice.choice([RANGE - 80, RANGE - 1, RANGE])) & MASK
        return dice.choice([window.aru, window.high_seq, self.ring.safe_line, near, far, dice.getrandbits(32), 0, MASK])

    def ids(self, count):
        return tuple(self.dice.choice([*NODES, self.dice.randrange(1, 1 << 32)]) for _ in range(count))

    def token(self):
        dice = self.dice
        return Token(
            self.sender,
            self.ring_id,
            seq=self.seq(),
            token_seq=((self.ring.seen_token_seq or 0) + dice.choice([0, 1, 2, 100])) & MASK,
            aru=self.seq(),
            aru_holder=dice.choice([0, 9, *NODES]),
            backlog=dice.choice([0, 5, MASK]),
            fcc=dice.choice([0, 5, 51, MASK]),
            retransmit_flag=dice.choice([0, 0, 1, 7]),
            requests=[(self.ring_id, self.seq()) for _ in range(dice.choice([0, 3, 30]))],
        )

    def join(self):
        dice, machine = self.dice, self.machine
        first = dice.getrandbits(31)
        crowd = range(first, first + MAX_NODES - 3)
        candidates = dice.choice([machine.membership.candidates, NODES, self.ids(3), crowd])
        failed = dice.choice([machine.membership.failed, (), (machine.node_id,), self.ids(3)])
        ring_seq = dice.choice([self.ring.id.seq + dice.choice([0, 1, 1000]), dice.choice(FAR)])
        return Join(dice.choice([self.sender, 0]), self.sender, ring_seq, tuple(candidates), tuple(failed))

    def commit_token(self):
        dice, machine = self.dice, self.machine
        membership = machine.membership
        members = dice.choice([tuple(sorted(membership.candidates - membership.failed)) or NODES, NODES])
        entries = [
            CommitEntry(dice.choice([machine.ring.id, NO_RING]), self.seq(), self.seq(), dice.choice([0, 1, 9]))
            for _ in members
        ]
        index = dice.choice([0, len(members), members.index(machine.node_id) if machine.node_id in members else 0])
        far = RingId(members[0], dice.choice(FAR))
        ring_id = dice.choice([RingId(members[0], machine.numbers.highest + 4), self.ring_id, far])
        token_seq = machine.tokens.commit_token_seq + dice.randrange(9)
        return CommitToken(self.sender, token_seq, ring_id, members, entries, index)

    def multicast(self):
        dice = self.dice
        sizes = dice.choice([[5], [0], [3, 0, 4]])
        fragmented, continuation = dice.choice([0, 0, 1, 255]), dice.choice([0, 0, 1, 255])
        data = codec.frame(sizes, fragmented, continuation) + bytes(sum(sizes))
        return Mcast(
            self.sender, dice.choice([self.sender, 9]), self.seq(), self.ring_id, 0, dice.choice([0, 1]), data=data
        )

    def recovered(self):
        dice, old = self.dice, self.machine.ring.id
        hello = Hello(
            1,
            dice.getrandbits(64),
            old,
            self.seq(),
            self.ids(dice.choice([0, 1000])),
            MASK,
            MASK,
            daemon=False,
            window=dice.choice([0, 1, MASK]),
        )
        hello_data = codec.encode_hello(hello)
        inner = dice.choice(
            [
                Mcast(self.sender, self.sender, 0, NO_RING, data=dice.choice([hello_data, hello_data[:-1], b""])),
                Mcast(self.sender, dice.choice([*NODES, 9]), self.seq(), old, 0, 1, dice.random() < 0.2, b"nonsense"),
            ]
        )
        return Mcast(self.sender, self.sender, self.seq(), self.ring_id, encapsulated=True, data=codec.encode(inner))

    def merge_detect(self):
        return MergeDetect(self.sender, self.sender, self.ring_id)

    def hold_cancel(self):
        return HoldCancel(self.sender, self.ring_id)


LIES = (
    Forger.token,
    Forger.join,
    Forger.commit_token,
    Forger.multicast,
    Forger.recovered,
    Forger.merge_detect,
    Forger.hold_cancel,
)


@pytest.mark.parametrize("seed", range(12))
def test_plausible_lies_never_raise_and_cost_bounded_memory(seed):
    dice = random.Random(seed)
    cluster = Cluster(3, seed=seed, first_seq=dice.choice([0, MASK - 50]), config=Config.for_nodes(3, token=1.0))
    cluster.start()
    # Most lies about membership end the ring, so worlds differ in how many of these are told.
    weights = dice.choice([(3, 1, 1, 3, 3, 1, 1), (1, 0, 0.02, 0.02, 6, 0.02, 1), (1, 0.02, 0.1, 2, 6, 0, 1)])
    for _ in range(300):
        cluster.run_for(dice.choice([0.0001, 0.0005, 0.003, 0.02]))
        nodes = list(cluster.nodes.values())
        node = dice.choice([node for node in nodes if node.machine.state is State.RECOVERY] or nodes)
        if dice.random() < 0.03:
            node.crash()
            node.start()
        if dice.random() < 0.3:
            node.try_send([node.compose(dice.choice([10, 3000]))], dice.choice(list(Guarantee)))
        machine = node.machine
        if machine.state in (State.OPERATIONAL, State.RECOVERY) or dice.random() < 0.1:
            (lie,) = dice.choices(LIES, weights)
            node.receive(codec.encode(lie(Forger(dice, machine))))
        assert len(machine.membership.candidates | machine.membership.failed) <= MAX_NODES
        assert machine.membership.obligations <= set(machine.ring.members)
        assert len(machine.ring.window.frames) < RANGE
    assert cluster.settle(60)
    assert all(node.machine.ring.id.seq < NEAR > node.stored for node in cluster.nodes.values())
    # The lies are over: the ring keeps its promises to processes that have heard none of them.
    for node in cluster.nodes.values():
        node.crash()
    cluster.traces.clear()
    cluster.start()
    cluster.form()
    for node in cluster.nodes.values():
        node.send([node.compose(size) for size in (10, 3000)], dice.choice(list(Guarantee)))
    assert cluster.settle(10)
    assert not check(cluster.history(quiescent=True))


def formed(**settings):
    cluster = Cluster(3, config=Config.for_nodes(3, token=0.2, **settings))
    cluster.start()
    cluster.form()
    return cluster


FRAME = codec.frame([3], 0, 0) + b"abc"
NOT_OF_A_MEMBER = [(2, 0), (0, 2), (0, 0), (2, 3), (3, 2), (9, 9), (2, 9), (9, 2)]


@pytest.mark.parametrize("encapsulated", [False, True])
@pytest.mark.parametrize(("sender", "origin"), NOT_OF_A_MEMBER)
def test_a_multicast_of_nobody_in_the_ring_is_refused_at_first(sender, origin, encapsulated):
    """It comes alone, in a batch, and on the path of what is not plain: a node that kept it would send it again in a
    Recovery."""
    cluster = formed()
    machine = cluster[1].machine
    ring = machine.ring
    seq = ring.window.aru + 5
    data = codec.encode(Mcast(2, 2, 1, ring.id, data=FRAME)) if encapsulated else FRAME
    lie = Mcast(sender, origin, seq, ring.id, 0, 0, encapsulated, data)
    good = [codec.encode(Mcast(3, 3, seq + step, ring.id, data=FRAME)) for step in (1, 2)]
    held = len(ring.window.frames)
    machine.receive(codec.encode(lie), cluster.now)
    machine.receive_all([good[0], codec.encode(lie), good[1]], cluster.now)
    assert ring.window.get(seq) is None
    assert len(ring.window.frames) == held + 2
    assert sum(machine.counters.drops.values()) == 2


def test_a_multicast_that_no_recovery_could_carry_is_refused_at_first():
    cluster = formed(netmtu=MAX_NETMTU)
    machine = cluster[1].machine
    seq = machine.ring.window.aru + 5
    longest = MAX_NETMTU - codec.MCAST_HEADER
    for size, held in ((longest + 1, False), (longest, True)):
        lie = Mcast(2, 2, seq, machine.ring.id, data=bytes(size - codec.MCAST_HEADER))
        machine.receive(codec.encode(lie), cluster.now)
        assert (machine.ring.window.get(seq) is not None) is held


@pytest.mark.parametrize("seed", range(4))
def test_what_one_takes_all_take_at_first_and_inside_another(seed):
    """Whatever is wrong with a multicast: no way into a window accepts more than another."""
    dice = random.Random(seed)
    cluster = formed()
    machine = cluster[1].machine
    ring = machine.ring
    for _ in range(500):
        lie = Mcast(2, 2, ring.window.aru + 1 + dice.randrange(50), ring.id, dice.getrandbits(32), data=FRAME)
        if dice.random() < 0.3:
            lie = replace(lie, encapsulated=True, data=codec.encode(replace(lie, encapsulated=dice.random() < 0.3)))
        datagram = bytearray(codec.encode(lie))
        for _ in range(dice.randrange(3)):
            datagram[dice.choice([*range(13), *range(13, 25), dice.randrange(len(datagram))])] = dice.randrange(256)
        datagram = bytes(datagram[: dice.choice([len(datagram), dice.randrange(len(datagram) + 1)])])
        verdicts = set()
        for batch in ([datagram], [datagram, good_frame(ring), datagram]):
            ring.window.frames.clear()
            ring.window.aru = ring.window.high_seq = ring.window.released = ring.delivered
            machine.receive_all(batch, cluster.now)
            verdicts.add(datagram in ring.window.frames.values())
        assert len(verdicts) == 1
        if verdicts == {True}:
            outer = codec.seal_mcast(3, 1, 0, ring.id_bytes, 0, True, [datagram])
            codec.check_mcast(outer)
            assert codec.inner_mcast(outer) == datagram
            assert cluster[3].machine.ring.has_sent(datagram)


def good_frame(ring):
    return codec.encode(Mcast(3, 3, ring.window.released + 60, ring.id, data=FRAME))


def told_with_a_number(machine, ring_seq):
    """Return one datagram of each kind that has a ring sequence, from node 2, as well formed as it can be."""
    ring_id, other = RingId(1, ring_seq), RingId(2, ring_seq)
    members = tuple(sorted(machine.membership.candidates - machine.membership.failed | {machine.node_id}))
    place = members.index(machine.node_id)
    entries = [CommitEntry(other, 5, 5, 1) for _ in members]
    return [
        Join(2, 2, ring_seq, tuple(machine.membership.candidates), tuple(machine.membership.failed)),
        Join(2, 2, ring_seq, (2,), ()),
        Join(0, 2, ring_seq, NODES, (2,)),
        CommitToken(2, 1, RingId(members[0], ring_seq), members, entries, place),
        CommitToken(2, 1, RingId(members[0], ring_seq), members, entries, len(members)),
        CommitToken(2, 9, machine.ring_id, members, entries, len(members)),
        Token(2, ring_id, 9, 9, 9),
        Token(2, machine.ring_id, 1, (machine.ring.seen_token_seq or 0) + 1, requests=[(other, 1)] * 30),
        MergeDetect(2, 2, other),
        MergeDetect(2, 2, ring_id),
        HoldCancel(2, ring_id),
        Mcast(2, 2, 9, other, data=FRAME),
        Mcast(2, 2, 9, machine.ring_id, 0, 0, True, codec.encode(Mcast(2, 2, 9, other, data=FRAME))),
    ]


@pytest.mark.parametrize("to", [(1,), (3,), (1, 2, 3)])
@pytest.mark.parametrize(
    "state", [State.OPERATIONAL, State.GATHER, State.COMMIT, State.RECOVERY], ids=lambda s: s.value
)
@pytest.mark.parametrize("away", [False, True], ids=["of a member", "of one who is away"])
def test_no_number_in_one_datagram_ends_a_ring_or_lifts_its_own(away, state, to):
    for ring_seq in (1 << 62, LIMIT, MASK_64):
        for kind in range(13):
            cluster = formed(merge=0.03)
            if away:
                cluster[2].crash()
                assert cluster.run_until(partial(cluster.one_ring, 1, 3), 5)
            if state is not State.OPERATIONAL:
                cluster.network.silent.add(2)  # its end is not seen at once: the others wait for it in Gather
                cluster[2].start() if away else cluster[2].crash()
            machine = cluster[to[0]].machine
            assert cluster.run_until(lambda: machine.state is state, 5)  # noqa: B023
            for node_id in to:
                if cluster[node_id].running:
                    lie = told_with_a_number(cluster[node_id].machine, ring_seq)[kind]
                    cluster[node_id].receive(codec.encode(lie))
            if not cluster[2].running:
                cluster[2].start()
            assert cluster.settle(5), f"{cluster}: {lie}"
            assert all(node.machine.ring_id.seq < NEAR > node.stored for node in cluster.nodes.values()), f"{lie}"


@pytest.mark.parametrize("rings", [({1, 2}, {3}), ({1}, {2, 3}), ({2}, {1, 3})])
@pytest.mark.parametrize("stored", [1_800_000_000, STEP + 99, 1 << 50, 1 << 62])
@pytest.mark.parametrize("real", [(), (1,), (2,), (3,), (1, 3)])
def test_a_ring_with_large_numbers_is_joined(stored, rings, real):
    """It is of this package or Corosync's, as its representative or not; those with small numbers are apart at
    first."""
    cluster = Cluster(3, config=Config.for_nodes(3, token=0.2, merge=0.03), makers=dict.fromkeys(real, CorosyncModel))
    for node_id in rings[0]:
        cluster[node_id].stored = stored
    cluster.network.partition(*rings)
    cluster.start()
    assert cluster.run_until(lambda: all(cluster.one_ring(*ring) for ring in rings), 5)
    cluster.network.heal()
    assert cluster.settle(10)
    assert all(stored < node.machine.ring_id.seq < stored + NEAR for node in cluster.nodes.values())
    assert all(stored < node.stored for node in cluster.nodes.values())


@pytest.mark.parametrize("liar", [1, 2])
def test_a_real_node_that_believes_everything_is_followed(liar):
    """It lifts its own number by what it has heard, and claims it as long as it lives."""
    cluster = Cluster(3, config=Config.for_nodes(3, token=0.2, merge=0.03), makers={1: CorosyncModel})
    cluster.start()
    cluster.form()
    cluster[1].receive(codec.encode(Join(liar, liar, 1 << 60, NODES, ())))
    assert cluster.settle(10)
    cluster[2].crash()
    cluster[2].start()
    assert cluster.settle(10)


def test_who_lies_for_a_member_all_the_time_lifts_no_number():
    """The true node is heard as soon as it matters; for one that is down no node passes the commit token on."""
    for down in (True, False):
        cluster = formed(merge=0.03)
        if down:
            cluster[2].crash()
        for _ in range(2000):
            cluster.run_for(0.002)
            for node_id in (1, 3):
                machine = cluster[node_id].machine
                lie = Join(
                    2,
                    2,
                    LIMIT - 8,
                    tuple(sorted(machine.membership.candidates)),
                    tuple(sorted(machine.membership.failed)),
                )
                cluster[node_id].receive(codec.encode(lie))
        if down:
            cluster[2].start()
        assert cluster.settle(10)
        assert all(node.machine.ring_id.seq < NEAR > node.stored for node in cluster.nodes.values())


def test_a_far_number_that_nobody_confirms_is_forgotten():
    cluster = formed()
    cluster.network.silent.add(2)  # its token is missed, and nobody knows more
    cluster[2].crash()
    node, machine = cluster[3], cluster[3].machine
    assert cluster.run_until(lambda: machine.state is State.GATHER, 5)
    before = machine.ring_id, node.stored
    node.receive(codec.encode(CommitToken(1, 1, RingId(1, 1 << 50), NODES, [CommitEntry()] * 3, 2)))
    assert machine.state is State.COMMIT
    assert cluster.run_until(lambda: machine.state is State.GATHER, 5)
    assert (machine.ring_id, node.stored) == before


def test_nobody_stays_away_because_somebody_only_says_that_it_is_deaf():
    """A healthy ring takes it back at once; a forged judgement is no reason to exclude it."""
    cluster = formed(merge=0.03)
    for lie in (Join(2, 2, cluster[1].machine.ring_id.seq, NODES, (3,)), Join(3, 3, 999, NODES, (3,))):
        for node_id in NODES:
            cluster[node_id].receive(codec.encode(lie))
        assert cluster.settle(2)
        assert not any(node.machine.left_out.all() for node in cluster.nodes.values())


def test_a_whole_round_of_forged_commit_tokens_lifts_no_number():
    cluster = formed(merge=0.03)
    cluster.network.silent.add(2)  # its token is missed, and nobody knows more
    cluster[2].crash()
    node, machine = cluster[3], cluster[3].machine
    assert cluster.run_until(lambda: machine.state is State.GATHER, 5)
    forged = CommitToken(1, 1, RingId(1, LIMIT - 8), NODES, [CommitEntry(machine.ring.id)] * 3, 2)
    node.receive(codec.encode(forged))
    node.receive(codec.encode(replace(forged, token_seq=9, index=3)))
    assert machine.state is State.RECOVERY
    cluster[2].start()
    assert cluster.settle(5)
    assert all(each.machine.ring_id.seq < NEAR > each.stored for each in cluster.nodes.values())


def test_a_claim_holds_while_it_is_repeated():
    claims = Claims(1.0)
    assert not claims.hear(2, 1 << 50, 10.0)
    assert not claims.hear(2, (1 << 50) + 4, 10.9)
    assert claims.highest([2, 3]) == 0
    assert claims.hear(2, (1 << 50) + 8, 11.0)
    assert claims.highest([2, 3]) == (1 << 50) + 8
    assert claims.highest([3]) == 0
    assert not claims.hear(2, 1 << 60, 11.1), "it says something else"
    assert not claims.hear(2, 1 << 60, 12.2), "it has been silent for too long"
    assert claims.hear(2, 1 << 60, 13.2)
    claims.forget(2)
    assert claims.highest([2]) == 0


def test_numbers_that_are_used_up_are_named_and_nothing_is_sent():
    cluster = Cluster(1)
    cluster[1].stored = LIMIT - 3
    cluster.start()
    cluster.run_for(10)
    machine = cluster[1].machine
    assert machine.state is State.GATHER
    assert not machine.counters.commit_tokens_sent
