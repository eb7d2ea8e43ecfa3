"""The simulated machines: what a crash takes and leaves, what a pause keeps, in which order a driver acts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from totem.config import Config
from totem.configuration import Guarantee, Level, Messages, RegularConfiguration, RingId
from totem.errors import QueueFull
from totem.flow import kernel_bytes
from totem.labels import Envelope
from totem.testing.cluster import AnswerAtOnce, Cluster, SimulatedNode
from totem.testing.history import Process, Sent

RING = RegularConfiguration(RingId(1, 5), (1, 2), (), pure=True, features=0)


class Script:
    """A processor that has things ready as the test says, and records what is done to it."""

    def __init__(self, config: Config, node_id: int, *, ring_seq: int, dice: random.Random, **_: Any) -> None:
        self.node_id = node_id
        self.ring_seq = ring_seq
        self.deadline = float("inf")
        self.calls: list[Any] = []
        self.ready: list[Any] = []
        self.late = False
        self.state = SimpleNamespace(name="OPERATIONAL")
        self.members = (1, 2)
        self.ring_id = RING.ring_id

    def start(self, now: float) -> None:
        self.calls.append("start")

    def receive_all(self, datagrams: Iterable[bytes], now: float) -> None:
        self.calls += datagrams

    def overdue(self, now: float) -> bool:
        return self.late

    def advance(self, now: float) -> None:
        self.calls.append(("advance", now))
        self.deadline = float("inf")

    def multicast(
        self, messages: Sequence[bytes], guarantee: Guarantee = Guarantee.AGREED, envelope: Envelope | None = None
    ) -> None:
        if len(messages) > 3:
            raise QueueFull("full")
        self.calls.append(("multicast", list(messages)))

    def multicast_sync(self, messages: Sequence[bytes]) -> None:
        self.calls.append(("sync", list(messages)))

    def sync_complete(self, ring_id: RingId) -> None:
        self.calls.append(("synced", ring_id))

    def leave(self, now: float) -> None:
        self.calls.append("leave")

    def take(self) -> Any:
        return self.ready.pop(0) if self.ready else ready()


def ready(
    ring_seq: int | None = None,
    datagrams: Sequence[tuple[int, list[bytes]]] = (),
    deliveries: Sequence[Any] = (),
    failure: str | None = None,
) -> Any:
    return SimpleNamespace(ring_seq=ring_seq, datagrams=datagrams, deliveries=iter(deliveries), failure=failure)


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(3, makers={1: Script, 2: Script, 3: Script})
    cluster.start()
    return cluster


def script(cluster: Cluster, node_id: int) -> Script:
    machine = cluster[node_id].machine
    assert isinstance(machine, Script)
    return machine


def full_ready() -> Any:
    return ready(9, [(0, [b"to all"]), (2, [b"one", b"two"])], [RING])


def test_the_driver_stores_sends_and_delivers(cluster: Cluster) -> None:
    script(cluster, 1).ready = [full_ready()]
    cluster[1].turn()
    assert cluster[1].stored == 9
    assert cluster[1].trace.events == [RING]
    cluster.run_for(1)
    assert script(cluster, 2).calls == ["start", b"to all", b"one", b"two"]
    assert script(cluster, 3).calls == ["start", b"to all"]
    assert script(cluster, 1).calls == ["start", ("synced", RING.ring_id)]


@pytest.mark.parametrize(
    ("steps", "stored", "heard", "told"),
    [
        (1, 0, ([], []), 0),
        (2, 9, ([], []), 0),
        (3, 9, ([b"to all"], []), 0),
        (4, 9, ([b"to all"], [b"to all"]), 0),
        (5, 9, ([b"to all", b"one"], [b"to all"]), 0),
        (6, 9, ([b"to all", b"one", b"two"], [b"to all"]), 0),
        (7, 9, ([b"to all", b"one", b"two"], [b"to all"]), 1),
    ],
)
def test_a_crash_strikes_between_any_two_steps(
    cluster: Cluster, steps: int, stored: int, heard: tuple[list[bytes], list[bytes]], told: int
) -> None:
    cluster[1].crash(steps)
    script(cluster, 1).ready = [full_ready()]
    cluster[1].turn()
    cluster.run_for(1)
    assert cluster[1].running is (steps == 7)
    assert cluster[1].stored == stored
    assert (script(cluster, 2).calls[1:], script(cluster, 3).calls[1:]) == heard
    assert len(cluster[1].trace.events) == told


def test_a_restart_has_the_store_and_nothing_else(cluster: Cluster) -> None:
    script(cluster, 1).ready = [full_ready()]
    cluster[1].turn()
    before = script(cluster, 1)
    cluster[1].crash()
    cluster[2].machine = None
    cluster.network.send(3, 1, b"to the dead")
    cluster.run_for(1)
    cluster[1].start()
    assert script(cluster, 1) is not before
    assert script(cluster, 1).ring_seq == 9
    assert script(cluster, 1).calls == ["start"]
    assert [str(trace.process) for trace in cluster.traces] == ["1*", "2*", "3*", "1'2*"]
    assert cluster.traces[0].ended
    cluster[1].crash()
    cluster.lose_store(1)
    cluster[1].start()
    assert script(cluster, 1).ring_seq == 1_000_000_000


def test_timers_fire_once_when_they_are_due(cluster: Cluster) -> None:
    script(cluster, 1).deadline = 5.0
    cluster[1].turn()
    script(cluster, 1).deadline = 7.0  # it has moved meanwhile
    cluster.run_for(20)
    assert script(cluster, 1).calls == ["start", ("advance", 7.0)]


def test_what_comes_in_a_pause_waits_and_comes_before_timers(cluster: Cluster) -> None:
    script(cluster, 1).deadline = 1.0
    cluster[1].turn()
    cluster[1].pause()
    for k in range(80):
        cluster.network.send(2, 1, bytes([k]))
    cluster.run_for(3)
    assert script(cluster, 1).calls == ["start"]
    script(cluster, 1).late = True
    cluster[1].resume()
    assert script(cluster, 1).calls[1:] == [bytes([k]) for k in range(80)] + [("advance", 3.0)]


def test_a_socket_buffer_is_bounded(cluster: Cluster) -> None:
    cluster[1].pause()
    for _ in range(300):
        cluster.network.send(2, 1, bytes(1000))
    cluster.run_for(1)
    cluster[1].resume()
    assert len(script(cluster, 1).calls) == 1 + SimulatedNode.SOCKET_BUFFER // kernel_bytes(1000) + 1


def test_a_leave_is_sent_before_the_end(cluster: Cluster) -> None:
    machine = script(cluster, 1)
    machine.ready = [ready(datagrams=[(0, [b"bye"])])]
    cluster[1].leave()
    cluster.run_for(1)
    assert machine.calls == ["start", "leave"]
    assert script(cluster, 2).calls == ["start", b"bye"]
    assert not cluster[1].running


def test_what_cannot_go_on_is_named(cluster: Cluster) -> None:
    script(cluster, 1).ready = [ready(failure="no way")]
    cluster[1].turn()
    assert cluster.failures == ["1*: no way"]
    assert not cluster[1].running


def test_the_assertion_of_a_foreign_node_ends_it_alone(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(datagrams: Sequence[bytes], now: float) -> None:
        raise AssertionError("a real node dies")

    monkeypatch.setattr(script(cluster, 1), "receive_all", die)
    cluster.network.send(2, 1, b"x")
    cluster.run_for(1)
    assert cluster.failures == ["1*: a real node dies"]


def test_the_application_sends_between_deliveries(cluster: Cluster) -> None:
    """What it asks for between two deliveries takes effect before the next, and all is taken before the node waits."""

    class Eager(AnswerAtOnce):
        def on_delivery(self, delivery: Any) -> None:
            super().on_delivery(delivery)
            if isinstance(delivery, Messages):
                self._node.multicast([b"answer"], Guarantee.SAFE)

    cluster.application = Eager
    cluster[1].crash()
    cluster[1].start()
    machine = script(cluster, 1)

    def deliveries() -> Iterator[Any]:
        yield RING
        machine.calls.append("between")
        yield Messages(2, RING.ring_id, 1, Level.AGREED, [b"question"])

    machine.ready = [ready(deliveries=deliveries()), ready(datagrams=[(2, [b"answer"])])]  # type: ignore[arg-type]
    cluster[1].turn()
    cluster.run_for(1)
    assert machine.calls[1:] == [("synced", RING.ring_id), "between", ("multicast", [b"answer"])]
    assert cluster[1].trace.events[-1] == Sent((b"answer",), Guarantee.SAFE)
    assert script(cluster, 2).calls[1:] == [b"answer"]


def test_a_full_queue_leaves_no_trace(cluster: Cluster) -> None:
    assert cluster[1].try_send([b"x"])
    assert not cluster[1].try_send([b"x"] * 4)
    assert cluster[1].trace.events == [Sent((b"x",))]


@pytest.mark.parametrize("size", [0, 13, 14, 100, 70_000, 1 << 20])
def test_messages_are_unique_and_of_their_size(size: int) -> None:
    node = Cluster(1)[1]
    messages = {node.compose(size) for _ in range(300 if size < 1000 else 5)}
    assert {len(message) for message in messages} == {max(13, size)}
    assert len(messages) == (300 if size < 1000 else 5)


def test_real_processors_form_a_ring_and_settle() -> None:
    cluster = Cluster(3)
    cluster.start()
    cluster.form()
    cluster[1].send([cluster[1].compose(10)])
    assert cluster.settle()
    assert [len(cluster.delivered(node_id)) for node_id in (1, 2, 3)] == [4, 4, 4]
    assert cluster.traces[0].process == Process(1)


def test_nothing_settles_without_a_common_ring() -> None:
    cluster = Cluster(2, config=Config.for_nodes(2, token=0.2))
    cluster.network.cut([1], [2])
    cluster.start()
    assert not cluster.settle(5)
