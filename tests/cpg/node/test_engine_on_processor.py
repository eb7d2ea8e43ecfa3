"""Engines on real Processors under virtual time: the floors fit together."""

import random

import pytest

from cpg.events import Confchg, Member, Message, Reason, TotemConfchg, Transitional
from cpg.node.engine import Engine
from cpg.testing.checkers import Record
from cpg.testing.world import Programs
from totem.config import Config
from totem.configuration import Guarantee, Level
from totem.testing.checkers import check
from totem.testing.cluster import Cluster
from totem.testing.corosync import CorosyncModel
from totem.testing.network import Conditions


class OneProgram:
    """An application with one member of one group on each node."""

    def __init__(self, node):
        self.engine = Engine(node)
        self.record = Record(b"g", Member(node.node_id, 7))
        self.membership = self.engine.join(b"g", 7, self.record)

    def on_delivery(self, delivery):
        self.engine.deliver([delivery])

    def only(self, kind):
        return [event for event in self.record.events if isinstance(event, kind)]


def cluster_of(count, **options):
    cluster = Cluster(count, application=OneProgram, **options)
    cluster.start()
    cluster.form()
    assert cluster.run_until(
        lambda: all(len(program(cluster, n).engine.members(b"g")) == count for n in cluster.nodes), 5
    )
    return cluster


def program(cluster, node_id):
    return cluster[node_id]._application


def send(cluster, node_id, *payloads, guarantee=Guarantee.AGREED):
    program(cluster, node_id).membership.send(payloads, guarantee)
    cluster[node_id].kick()


A, B, C = Member(1, 7), Member(2, 7), Member(3, 7)


def test_three_nodes_deliver_the_same_events():
    cluster = cluster_of(3)
    for node_id in (1, 2, 3):
        program(cluster, node_id).record.events.clear()
    for turn in range(30):
        send(cluster, turn % 3 + 1, b"%d" % turn)
    send(cluster, 2, b"safe", guarantee=Guarantee.SAFE)
    cluster.settle()
    stories = [program(cluster, node_id).record.events for node_id in (1, 2, 3)]
    assert stories[0] == stories[1] == stories[2]
    assert len(stories[0]) == 31
    assert Message(B, b"safe", Level.SAFE) in stories[0]


def test_a_crash_and_a_return_with_the_same_pid():
    cluster = cluster_of(3)
    for node_id in (1, 2):
        program(cluster, node_id).record.events.clear()
    cluster[3].crash()
    cluster.form(1, 2)
    cluster.settle()
    gone = cluster[1].machine.ring_id
    cluster.start(3)
    cluster.form()
    cluster.settle()
    ring = cluster[1].machine.ring_id
    first, second = program(cluster, 1), program(cluster, 2)
    assert first.record.events == second.record.events
    assert first.record.events[:3] == [
        Transitional((1, 2)),
        Confchg((A, B), {C: Reason.NODEDOWN}, {}),
        TotemConfchg(gone, (1, 2)),
    ]
    assert first.only(TotemConfchg)[-1] == TotemConfchg(ring, (1, 2, 3))
    assert [event.joined for event in first.only(Confchg)[1:]] in ([{C: Reason.JOIN}], [{C: Reason.NODEUP}])


def test_a_partition_and_a_merge():
    cluster = cluster_of(3)
    for node_id in (1, 2, 3):
        program(cluster, node_id).record.events.clear()
    cluster.network.partition([1, 2], [3])
    assert cluster.run_until(lambda: cluster.one_ring(1, 2) and cluster.one_ring(3), 30)
    cluster.run_for(1)
    send(cluster, 3, b"alone")
    send(cluster, 1, b"together")
    cluster.run_for(1)
    cluster.network.heal()
    cluster.form()
    cluster.settle()
    majority, minority = program(cluster, 1), program(cluster, 3)
    assert majority.record.events == program(cluster, 2).record.events
    assert majority.only(Confchg) == [
        Confchg((A, B), {C: Reason.NODEDOWN}, {}),
        Confchg((A, B, C), {}, {C: Reason.NODEUP}),
    ]
    assert minority.only(Confchg) == [
        Confchg((C,), {A: Reason.NODEDOWN, B: Reason.NODEDOWN}, {}),
        Confchg((A, B, C), {}, {A: Reason.NODEUP, B: Reason.NODEUP}),
    ]
    assert [event.data for event in majority.only(Message)] == [b"together"]
    assert [event.data for event in minority.only(Message)] == [b"alone"]


def test_a_large_message_across_a_crash():
    cluster = cluster_of(3)
    payload = random.Random(1).randbytes(3_000_000)
    send(cluster, 1, payload, b"behind")
    cluster.run_for(0.02)
    cluster[3].crash()
    cluster.form(1, 2)
    cluster.settle()
    for node_id in (1, 2):
        assert [event.data for event in program(cluster, node_id).only(Message)] == [payload, b"behind"]


def live(seed, *, foreign):
    """A random world with programs on every node, healed in the end."""
    dice = random.Random(seed)
    count = dice.randint(3, 4)
    programs = Programs()
    makers = (
        dict.fromkeys(dice.sample(range(1, count + 1), dice.randint(1, count - 1)), CorosyncModel) if foreign else {}
    )
    config = Config.for_nodes(count, token=0.2, join=0.05, merge=0.1)
    cluster = Cluster(count, seed=seed, config=config, application=programs, makers=makers)
    cluster.start()
    cluster.run_for(1)
    nodes = list(cluster.nodes.values())
    for _ in range(12):
        node = dice.choice(nodes)
        deed = dice.random()
        if deed < 0.4:
            node.crash(dice.choice((0, 5, 50))) if node.running else node.start()
        elif deed < 0.6:
            ids = dice.sample(list(cluster.nodes), count)
            cut = dice.randint(0, count)
            cluster.network.partition(ids[:cut], ids[cut:])
        elif deed < 0.8:
            cluster.network.heal()
        elif deed < 0.9:
            cluster.network.set_conditions(Conditions(loss=0.1, duplicate=0.05))
        else:
            node.leave()
        cluster.run_for(dice.choice((0.01, 0.1, 0.3, 1)))
    cluster.network.heal(Conditions())
    for node in nodes:
        node.disarm()
        if not node.running:
            node.start()
    return cluster, programs


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("foreign", [False, True], ids=["pure", "mixed"])
def test_groups_keep_their_promises_on_a_real_ring(seed, foreign):
    cluster, programs = live(seed, foreign=foreign)
    programs.rest()
    assert cluster.settle()
    assert cluster.settle()  # what had no room in a send queue before
    assert programs.check() == []
    if not foreign:
        assert check(cluster.history(quiescent=True)) == []
    for node in cluster.running:
        engine = node._application.engine
        assert engine.synced
        assert engine.node_ids == tuple(cluster.nodes)
        assert not engine.statistics().unknown_senders
