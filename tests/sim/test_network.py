"""The simulated network does what its links say, and the same for the same seed."""

from __future__ import annotations

import random

import pytest

from totem.testing.network import Conditions, Network, Storm, flip_or_cut, spoil_header

STEADY = Conditions(delay=0.001, jitter=0.0)


class Listener:
    """A network of three nodes, and what arrived at each."""

    def __init__(self, conditions: Conditions = STEADY, seed: int = 1) -> None:
        self.network = Network((1, 2, 3), random.Random(seed), conditions)
        self.heard: dict[int, list[tuple[float, bytes]]] = {1: [], 2: [], 3: []}
        for node in self.heard:
            self.network.attach(node, lambda datagram, node=node: self.hear(node, datagram))

    def hear(self, node: int, datagram: bytes) -> None:
        self.heard[node].append((self.network.now, datagram))

    def send(self, source: int, target: int, count: int = 1) -> list[bytes]:
        datagrams = [k.to_bytes(100, "little") for k in range(count)]
        for datagram in datagrams:
            self.network.send(source, target, datagram)
        return datagrams

    def arrived(self, node: int) -> list[bytes]:
        self.network.run(self.network.now + 10)
        return [datagram for _, datagram in self.heard[node]]


def test_a_quiet_link_delays_and_keeps_the_order() -> None:
    listener = Listener()
    sent = listener.send(1, 2, 5)
    assert listener.arrived(2) == sent
    assert {time for time, _ in listener.heard[2]} == {0.001}


def test_jitter_keeps_the_order() -> None:
    listener = Listener(Conditions(delay=0.001, jitter=0.01))
    sent = listener.send(1, 2, 50)
    assert listener.arrived(2) == sent
    assert len({time for time, _ in listener.heard[2]}) > 1


@pytest.mark.parametrize(
    ("conditions", "low", "high"),
    [
        (Conditions(loss=0.3), 600, 800),
        (Conditions(loss=1.0), 0, 0),
        (Conditions(duplicate=0.3), 1200, 1400),
        (Conditions(straggle=0.3), 1200, 1400),
    ],
)
def test_loss_and_copies(conditions: Conditions, low: int, high: int) -> None:
    listener = Listener(conditions)
    listener.send(1, 2, 1000)
    assert low <= len(listener.arrived(2)) <= high


def test_reordering_lets_others_overtake_and_loses_nothing() -> None:
    listener = Listener(Conditions(delay=0.001, reorder=0.2))
    sent = listener.send(1, 2, 200)
    arrived = listener.arrived(2)
    assert arrived != sent
    assert sorted(arrived) == sorted(sent)


@pytest.mark.parametrize("damage", [flip_or_cut, spoil_header])
def test_corruption_changes_datagrams(damage: object) -> None:
    listener = Listener(Conditions(corrupt=1.0, damage=damage))  # type: ignore[arg-type]
    sent = listener.send(1, 2, 100)
    arrived = listener.arrived(2)
    assert len(arrived) == 100
    assert all(before != after for before, after in zip(sent, arrived, strict=True))
    assert {len(datagram) for datagram in arrived} != {100}


def test_a_cut_is_one_way_until_it_heals() -> None:
    listener = Listener()
    listener.network.cut([1], [2, 3])
    listener.send(1, 2)
    listener.send(2, 1)
    assert (listener.arrived(2), len(listener.arrived(1))) == ([], 1)
    listener.network.heal()
    assert listener.send(1, 2) == listener.arrived(2)


def test_a_partition_leaves_groups_and_a_node_to_itself() -> None:
    listener = Listener()
    listener.network.partition([1, 2], [3])
    for target in (1, 2, 3):
        listener.send(1, target)
    listener.send(3, 3)
    assert [len(listener.arrived(node)) for node in (1, 2, 3)] == [1, 1, 1]


def test_a_clogged_node_gets_all_later() -> None:
    listener = Listener()
    listener.network.clog(2)
    sent = listener.send(1, 2, 3)
    assert listener.arrived(2) == []
    listener.network.unclog(2)
    assert listener.arrived(2) == sent


def test_swizzle_clog_ends() -> None:
    listener = Listener()
    listener.network.swizzle_clog(1.0)
    listener.network.run(0.5)
    assert any(link.clogged is not None for links in listener.network.links.values() for link in links.values())
    listener.network.run(1.0)
    assert all(link.clogged is None for links in listener.network.links.values() for link in links.values())


def test_conditions_of_one_link() -> None:
    listener = Listener()
    listener.network.set_conditions(Conditions(loss=1.0), source=1, target=2)
    listener.send(1, 2)
    listener.send(1, 3)
    assert [len(listener.arrived(node)) for node in (2, 3)] == [0, 1]


def test_filters_swallow() -> None:
    listener = Listener()
    listener.network.filters.append(lambda source, target, datagram: target == 2)
    listener.network.broadcast(1, b"x")
    assert [len(listener.arrived(node)) for node in (1, 2, 3)] == [0, 0, 1]


def test_the_seed_decides() -> None:
    worst = Conditions(jitter=0.01, loss=0.2, duplicate=0.2, reorder=0.2, straggle=0.1, corrupt=0.1)
    first, second, other = (Listener(worst, seed) for seed in (1, 1, 2))
    for listener in (first, second, other):
        listener.send(1, 2, 100)
        listener.arrived(2)
    assert first.heard == second.heard
    assert first.heard != other.heard


def test_a_storm_ends_the_story() -> None:
    listener = Listener()
    network = listener.network
    network.limit = 1000
    for node in (1, 2, 3):
        network.attach(node, lambda datagram, node=node: network.broadcast(node, datagram))  # type: ignore[misc]
    network.broadcast(1, b"x")
    with pytest.raises(Storm, match="1000 events"):
        network.run(1)
