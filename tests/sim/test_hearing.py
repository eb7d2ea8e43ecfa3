"""Who hears whom in a simulated ring, on each transport, and what machines refuse."""

from __future__ import annotations

import pytest

from totem.config import Config
from totem.hearing import Hearing
from totem.processor import Processor
from totem.testing.cluster import Cluster
from totem.testing.corosync.totemsrp import CorosyncModel
from totem.testing.network import REFUSAL_BURST

BOTH, MUTE, NEITHER = Hearing(True, True), Hearing(True, False), Hearing(False, False)
TRANSPORTS = pytest.mark.parametrize("transport", ["udpu", "udp", "knet"])


def ring(count: int, transport: str = "udpu", **options: object) -> Cluster:
    config = Config.for_nodes(count, transport=transport)
    cluster = Cluster(count, config=config, **options)  # type: ignore[arg-type]
    cluster.start()
    cluster.form()
    cluster.run_for(12.0)  # over knet a path that has just come up is given longer
    return cluster


def processor(cluster: Cluster, node_id: int) -> Processor:
    machine = cluster[node_id].machine
    assert isinstance(machine, Processor)
    return machine


@TRANSPORTS
def test_members_hear_each_other_and_notice_a_direction_that_is_cut(transport: str) -> None:
    cluster = ring(3, transport)
    for node_id in (1, 2, 3):
        assert processor(cluster, node_id).ours == {1, 2, 3} - {node_id}
        assert processor(cluster, node_id).hearing == dict.fromkeys({1, 2, 3} - {node_id}, BOTH)
    cluster.network.cut({3}, {1})
    assert cluster.run_until(lambda: processor(cluster, 1).hearing[3] == NEITHER, 5.0)
    assert cluster.run_until(lambda: processor(cluster, 3).hearing[1] == MUTE, 5.0)
    assert processor(cluster, 2).hearing == {1: BOTH, 3: BOTH}
    cluster.network.heal()
    assert cluster.run_until(lambda: processor(cluster, 1).hearing[3] == processor(cluster, 3).hearing[1] == BOTH, 5.0)


@TRANSPORTS
def test_a_machine_refuses_for_a_dead_process_unless_it_is_silent(transport: str) -> None:
    def seconds(*, silent: bool) -> float:
        cluster = ring(3, transport)
        if silent:
            cluster.network.silent.add(3)
        cluster[3].crash()
        began = cluster.now
        assert cluster.run_until(lambda: not processor(cluster, 1).hearing[3].is_heard, 10.0)
        return cluster.now - began

    assert seconds(silent=False) < seconds(silent=True) - 0.1


@TRANSPORTS
def test_who_is_behind_a_link_that_rejects_does_not_hear(transport: str) -> None:
    cluster = ring(3, transport)
    cluster.network.reject({1}, {3})
    assert cluster.run_until(lambda: not processor(cluster, 1).hearing[3].is_heard, 2.0)
    cluster.network.heal()
    assert cluster.run_until(lambda: processor(cluster, 1).hearing[3] == BOTH, 5.0)


def test_refusals_are_as_rare_as_those_of_linux() -> None:
    cluster = Cluster(2)
    refused: list[float] = []
    cluster.network.attach_refusals(1, lambda node_id: refused.append(cluster.now))
    for _ in range(1000):
        cluster.network.send(1, 2, b"to nobody")
        cluster.run_for(0.01)
    assert REFUSAL_BURST + 8 <= len(refused) <= REFUSAL_BURST + 10


def test_a_node_of_another_make_is_sent_nothing_of_ours() -> None:
    cluster = ring(4, makers={3: CorosyncModel})
    assert processor(cluster, 1).ours == {2, 4}
    assert processor(cluster, 1).hearing == {2: BOTH, 4: BOTH}
    cluster[2].leave()
    cluster.form()
    assert processor(cluster, 1).ours == {4}


def test_who_comes_back_as_another_make_is_ours_no_more() -> None:
    cluster = ring(3)
    cluster[3].crash()
    cluster.network.silent.add(3)
    cluster[3]._maker, cluster[3].foreign = CorosyncModel, True
    cluster.network.cut({1, 2}, {3})  # it is sent pings until its first Join
    cluster[3].start()
    cluster.run_for(1.0)
    assert processor(cluster, 1).ours == {2}
    cluster.network.heal()
    cluster.form()
    assert processor(cluster, 1).hearing == {2: BOTH, 3: NEITHER}
