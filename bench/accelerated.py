"""The accelerated ring beside the plain one, in virtual time: what passing the token early is worth on real links.

Nodes with the real Processor, on a switch (`totem.testing.network.SwitchedNetwork`), each with one CPU that takes the
time of `Costs` for all it does, in the order in which `totem.node` does it. A message fills a frame. One seed decides
everything, so the figures change only with the code.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from statistics import fmean
from typing import NamedTuple

from bench.notes import Bench
from totem.config import Config
from totem.configuration import Delivery, Guarantee, Messages, RegularConfiguration
from totem.node import BURST, LOOKS, SLICE
from totem.outbox import ALL
from totem.processor import Processor
from totem.testing.network import Cables, SwitchedNetwork
from totem.wire.codec import MCAST_HEADER

NODES = 3
TRANSPORTS = ("udpu", "udp")
COROSYNCS, CHOSEN = (50, 17), (0, 0)
WINDOWS = (COROSYNCS, (200, 50), (1000, 400), CHOSEN)
"""`window_size` and `max_messages`; what is not configured the ring chooses."""
SHARES = (10, 50, 80)
PLAIN, ACCELERATED = "plain", "accelerated"
SECONDS = 0.1
"""Of virtual time, for each figure."""
METHOD = f"""\
{NODES} nodes on a switch with 1 Gbit/s to each, in virtual time; each frame and token costs their CPUs what it was
measured to (`bench.accelerated.Costs`), a message fills a frame of 1,427 bytes. `saturated`: the queues are never
empty. The loads are parts of what the plain ring carries; the messages come at random, and latency is the mean from
the send to the delivery at each node. `udpu` is a copy for each node, `udp` is multicast."""

_CONTROL = 1000
"""Bytes: a larger datagram is a frame."""
_FRAME_HEADER = 8 + 2
_QUEUED = 500
"""Messages in the queue of a sender that floods."""


class Costs(NamedTuple):
    """Seconds of a CPU, measured as processor time on one core of a virtual machine, Python 3.11.

    `token`, `seal`, `file` and `deliver` with processors, engines and streams as in `bench.core`; the others with
    `UdpEndpoint` on loopback, in a task of trio.
    """

    wake: float = 10e-6
    """From the interrupt to the process; assumed."""
    turn: float = 8e-6
    """trio's wait, epoll, the first read that finds nothing more."""
    read: float = 3e-6
    """One datagram, or one train of them."""
    file: float = 0.9e-6
    """A frame: cut from its train, put into the window."""
    token: float = 10e-6
    """A visit."""
    seal: float = 2.5e-6
    """A frame of one's own."""
    send: float = 4e-6
    """One call: a train, or the token, to one place."""
    deliver: float = 4e-6
    """A frame with its message: assembled, through group and stream, to the program."""
    queue: float = 1e-6
    """A message that the program sends."""


COSTS = Costs()


class Machine:
    """A node of the ring, and its CPU."""

    def __init__(self, node_id: int, config: Config, network: SwitchedNetwork, took: Callable[[bytes], None]) -> None:
        self.processor = Processor(config, node_id, ring_seq=0, dice=random.Random(node_id))
        self._network = network
        self._config = config
        self._took = took
        self._inbox: list[bytes] = []
        self.outbox: list[bytes] = []
        self._work: Iterator[float] | None = None
        self._peers = [other for other in network.links if other != node_id]
        self.guarantee = Guarantee.AGREED
        self.refill: Callable[[], None] = lambda: None
        network.attach(node_id, self._hear)
        self.processor.start(0.0)
        self._wake()

    # What happens to it.

    def _hear(self, datagram: bytes) -> None:
        self._inbox.append(datagram)
        self._wake()

    def send(self, message: bytes) -> None:
        """Have the program send a message."""
        self.outbox.append(message)
        self._wake()

    def _wake(self) -> None:
        if self._work is None:
            self._work = self._turns()
            self._network.at(self._network.now + COSTS.wake, self._go_on)

    def _go_on(self) -> None:
        assert self._work is not None
        pause = next(self._work, None)
        if pause is not None:
            self._network.at(self._network.now + pause, self._go_on)
            return
        self._work = None
        if self.processor.deadline < float("inf"):
            self._network.at(max(self.processor.deadline, self._network.now), self._on_time)

    def _on_time(self) -> None:
        if self.processor.deadline <= self._network.now:
            self._wake()

    # What it does: each yield is time that it takes.

    def _turns(self) -> Iterator[float]:
        more = True
        while more:
            yield COSTS.turn
            yield from self._turn()
            more = bool(self._inbox or self.outbox) or self.processor.deadline <= self._network.now

    def _turn(self) -> Iterator[float]:
        processor = self.processor
        self.refill()
        if self.outbox:
            yield COSTS.queue * len(self.outbox)
            processor.multicast(self.outbox, self.guarantee)
            self.outbox = []
        yield from self._read()
        if processor.deadline <= self._network.now:
            processor.advance(self._network.now)
        while (yield from self._hand_over()):
            pass

    def _hand_over(self) -> Generator[float, None, bool]:
        """Whether anything was handed on."""
        deliveries = yield from self._perform()
        count = 0
        while some := list(islice(deliveries, SLICE)):
            count += 1
            for delivery in some:
                self._deliver(delivery)
            yield COSTS.deliver * len(some)
            if self._inbox and count <= LOOKS:
                yield from self._read()
                yield from self._perform()
        return count > 0

    def _read(self) -> Iterator[float]:
        batch = self._inbox[:BURST]
        del self._inbox[:BURST]
        tokens = self.processor.counters.tokens_received
        frames = sum(len(datagram) > _CONTROL for datagram in batch)
        yield COSTS.read * (1 + len(batch) - frames) + COSTS.file * frames
        self.processor.receive_all(batch, self._network.now)
        yield COSTS.token * (self.processor.counters.tokens_received - tokens)

    def _perform(self) -> Generator[float, None, Iterator[Delivery]]:
        ready = self.processor.take()
        for target, train in ready.datagrams:
            if target == ALL:
                yield COSTS.seal * len(train)
            if target == ALL and self._config.transport == "udp":
                yield COSTS.send
                for frame in train:
                    self._network.broadcast(self.processor.node_id, frame)
                continue
            for place in self._peers if target == ALL else (target,):
                yield COSTS.send
                for frame in train:
                    self._network.send(self.processor.node_id, place, frame)
        return ready.deliveries

    def _deliver(self, delivery: Delivery) -> None:
        if isinstance(delivery, RegularConfiguration):
            self.processor.sync_complete(delivery.ring_id)
        elif isinstance(delivery, Messages):
            for message in delivery.messages:
                self._took(message)


class Ring:
    """One ring's run."""

    def __init__(self, transport: str, windows: tuple[int, int], system: str, cables: Cables | None = None) -> None:
        config = Config.for_nodes(NODES, transport=transport, window_size=windows[0], max_messages=windows[1])
        if system == PLAIN:
            config = replace(config, accelerated_window=0)
        self.network = SwitchedNetwork(range(1, NODES + 1), random.Random("cables"), cables)
        self.machines = [Machine(node, config, self.network, self._took) for node in range(1, NODES + 1)]
        self._size = config.frame_size - MCAST_HEADER - _FRAME_HEADER
        self._sent: list[float] = []
        self._latencies: list[float] = []
        while any(len(machine.processor.members) < NODES or machine.processor.syncing for machine in self.machines):
            self.network.run(self.network.now + 0.01)
        self._ring_id = self.machines[0].processor.ring.id

    def _message(self) -> bytes:
        self._sent.append(self.network.now)
        return (len(self._sent) - 1).to_bytes(self._size, "little")

    def _took(self, message: bytes) -> None:
        self._latencies.append(self.network.now - self._sent[int.from_bytes(message[:8], "little")])

    def flood(self, senders: int = NODES) -> float:
        """Messages a second that a node is delivered while the queues of so many are full."""
        for machine in self.machines[:senders]:
            machine.refill = partial(self._refill, machine)
            machine.send(self._message())
        return len(self._measure()) / SECONDS / NODES

    def _refill(self, machine: Machine) -> None:
        machine.outbox += [self._message() for _ in range(_QUEUED - len(machine.processor.packer))]

    def pace(self, rate: float, guarantee: Guarantee) -> float:
        """The mean latency in seconds, with `rate` messages a second of all nodes together."""
        dice = random.Random("pace")
        for machine in self.machines:
            machine.guarantee = guarantee
            self._send_sometime(machine, rate / NODES, dice)
        return fmean(self._measure())

    def _send_sometime(self, machine: Machine, rate: float, dice: random.Random) -> None:
        def send() -> None:
            machine.send(self._message())
            self._send_sometime(machine, rate, dice)

        self.network.at(self.network.now + dice.expovariate(rate), send)

    def _measure(self) -> list[float]:
        self.network.run(self.network.now + SECONDS / 5)
        self._latencies.clear()
        self.network.run(self.network.now + SECONDS)
        assert all(machine.processor.ring.id == self._ring_id for machine in self.machines), "the ring broke"
        return self._latencies


def saturated(transport: str, windows: tuple[int, int]) -> str:
    """What a row of throughput is called."""
    chosen = f"windows {windows[0]}/{windows[1]}" if any(windows) else "windows as it chooses"
    return f"saturated, {transport}, {chosen}"


def loaded(transport: str, guarantee: Guarantee, share: int) -> str:
    """What a row of latency is called."""
    return f"{guarantee.name}, {transport}, load {share} %"


def measure(bench: Bench) -> None:
    """Note both rings' rates at all windows, and their latencies at Corosync's."""
    for transport in TRANSPORTS:
        for windows in WINDOWS:
            for system in (PLAIN, ACCELERATED):
                rate = Ring(transport, windows, system).flood()
                bench.note(saturated(transport, windows), system, "messages/s", rate)
        full = Ring(transport, COROSYNCS, PLAIN).flood()
        for guarantee in Guarantee:
            for share in SHARES:
                for system in (PLAIN, ACCELERATED):
                    latency = Ring(transport, COROSYNCS, system).pace(full * share / 100, guarantee)
                    bench.note(loaded(transport, guarantee, share), system, "µs", latency * 1e6)
