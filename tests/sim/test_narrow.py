"""A path that becomes narrow while the ring runs: found at once, named, and nothing is lost (faults, B3)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from totem.config import Config
from totem.configuration import Guarantee
from totem.links.machine import Links
from totem.links.probing import Probing
from totem.processor import Processor
from totem.testing.cluster import Cluster, SimulatedNode

LARGE = 1350
NARROW = 1300


def ring(transport: str) -> tuple[Cluster, list[tuple[int, str]]]:
    said: list[tuple[int, str]] = []

    def on_trace(node: SimulatedNode, what: str, detail: str) -> None:
        if what == "notice":
            said.append((node.node_id, detail))

    cluster = Cluster(3, config=Config.for_nodes(3, transport=transport), on_trace=on_trace)
    cluster.start()
    cluster.form()
    cluster.run_for(3)
    return cluster, said


def narrow(cluster: Cluster, source: int | None, target: int | None) -> None:
    planes = cluster.planes.values() if cluster.config.knet is not None else (cluster.network,)
    for network in planes:
        network.set_conditions(replace(network.conditions, longest=NARROW - 28), source, target)


def mtu_of(cluster: Cluster, source: int, target: int) -> int:
    node = cluster[source]
    below = node.links or node.probing
    assert below is not None
    machine = below.machine
    assert isinstance(machine, Links | Probing)
    return machine.paths(target)[0].mtu


def rings_installed(cluster: Cluster) -> list[int]:
    machines = [node.machine for node in cluster.running]
    return [machine.counters.rings_installed for machine in machines if isinstance(machine, Processor)]


@pytest.mark.parametrize("transport", ["udpu", "udp", "knet"])
@pytest.mark.parametrize(("source", "target"), [(1, 3), (None, 3), (3, None)])
def test_a_path_that_becomes_narrow_costs_a_second(transport: str, source: int | None, target: int | None) -> None:
    cluster, said = ring(transport)
    before = rings_installed(cluster)
    narrow(cluster, source, target)
    messages = []
    for node in cluster.running:
        messages += [node.compose(LARGE) for _ in range(3)]
        node.send(messages[-3:], Guarantee.SAFE)
    sent = cluster.now
    assert cluster.run_until(lambda: all(set(messages) <= set(cluster.delivered(k)) for k in (1, 2, 3)), 5.0)
    assert cluster.now - sent < 0.6
    here, there = source or 1, target or 1
    assert cluster.run_until(lambda: mtu_of(cluster, here, there) == NARROW, 10.0)
    assert rings_installed(cluster) == before
    if transport != "knet":
        cluster.run_for(2.0)
        assert any(f"the largest that do have {NARROW}" in text for _, text in said)
        assert cluster.one_ring()
        for node in cluster.running:
            assert isinstance(node.machine, Processor)
            assert node.machine.packer._capacity < NARROW - 28 - 45


@pytest.mark.parametrize("transport", ["udpu", "knet"])
def test_a_path_that_is_repaired_carries_all_again(transport: str) -> None:
    cluster, _ = ring(transport)
    narrow(cluster, 1, 3)
    cluster[1].send([cluster[1].compose(LARGE) for _ in range(3)])
    assert cluster.run_until(lambda: mtu_of(cluster, 1, 3) == NARROW, 10.0)
    cluster.network.heal()
    assert cluster.run_until(lambda: mtu_of(cluster, 1, 3) == 1500, 100.0)
    assert cluster.settle()


def test_loss_alone_makes_no_frames_smaller_for_good() -> None:
    cluster, said = ring("udpu")
    cluster.network.set_conditions(replace(cluster.network.conditions, loss=0.1))
    for _ in range(300):
        for node in cluster.running:
            node.try_send([node.compose(LARGE)])
        cluster.run_for(0.1)
    cluster.network.heal()
    cluster.run_for(2.0)
    assert [text for _, text in said if "netmtu" in text] == []
