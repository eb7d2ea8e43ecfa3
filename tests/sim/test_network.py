"""The simulated network does what its links say, and the same for the same seed."""

from __future__ import annotations

import random

import pytest

from totem.testing.network import Cables, Conditions, Network, Storm, SwitchedNetwork, flip_or_cut, spoil_header

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


class Switched(Listener):
    """The same three on a switch; 100 bytes take 1 ms on a cable, and 2 ms in between."""

    def __init__(self, buffer: int = 10_000) -> None:
        cables = Cables(rate=100_000, delay=0.002, overhead=0, buffer=buffer)
        self.network: SwitchedNetwork = SwitchedNetwork((1, 2, 3), random.Random(1), cables)
        self.heard = {1: [], 2: [], 3: []}
        for node in self.heard:
            self.network.attach(node, lambda datagram, node=node: self.hear(node, datagram))

    def times(self, node: int) -> list[float]:
        self.arrived(node)
        return [round(time, 6) for time, _ in self.heard[node]]


def test_on_a_cable_datagrams_come_one_after_the_other() -> None:
    listener = Switched()
    sent = listener.send(1, 2, 3)
    assert listener.times(2) == [0.004, 0.005, 0.006]
    assert [datagram for _, datagram in listener.heard[2]] == sent


def test_a_switch_makes_the_copies_of_a_multicast() -> None:
    listener = Switched()
    for _ in range(2):
        listener.network.broadcast(1, bytes(100))
    assert listener.times(2) == listener.times(3) == [0.004, 0.005]
    assert not listener.heard[1]


def test_two_senders_share_the_cable_of_a_third() -> None:
    listener = Switched()
    listener.send(1, 3, 2)
    listener.send(2, 3, 2)
    assert listener.times(3) == [0.004, 0.005, 0.006, 0.007]


def test_what_a_switch_cannot_keep_is_lost() -> None:
    listener = Switched(buffer=250)
    listener.send(1, 3, 10)
    listener.send(2, 3, 10)
    assert len(listener.arrived(3)) == 20 - listener.network.overruns
    assert listener.network.overruns > 5


def test_a_cut_link_carries_nothing_on_a_switch() -> None:
    listener = Switched()
    listener.network.partition([1, 2], [3])
    listener.network.broadcast(1, bytes(100))
    assert listener.times(2) == [0.004]
    assert not listener.heard[3]
