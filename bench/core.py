"""Processors wired by lists, no sockets and no heap: what the machines themselves can do, in one process.

The senders' queues are kept filled for some seconds, and the messages counted that *every* node was delivered. `totem`
is the Processor alone, `cpg` has an engine, a group and a stream above it.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable

from bench.notes import Bench
from cpg.events import Member
from cpg.node.engine import Engine
from cpg.stream import Stream
from totem.config import Config
from totem.configuration import Delivery, Messages, RegularConfiguration
from totem.errors import QueueFull
from totem.outbox import ALL
from totem.processor import Processor

GROUP_HEADER = b"\x01\x00\x01\x00a"
LIST_BYTES = 32 * 1024


class Bare:
    """A node that has only a processor."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self.delivered = 0

    def deliver(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            if isinstance(delivery, Messages):
                self.delivered += len(delivery.messages)
            elif isinstance(delivery, RegularConfiguration):
                self.processor.sync_complete(delivery.ring_id)

    def sender(self, size: int) -> Callable[[], None]:
        messages = [GROUP_HEADER + bytes(size)] * max(1, LIST_BYTES // size)
        return lambda: self.processor.multicast(messages)


class Grouped:
    """A node with an engine, and one member of a group."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self.delivered = 0
        self.engine = Engine(processor)
        self.stream = Stream(Member(processor.node_id, 1))
        self.membership = self.engine.join(b"bench", 1, self.stream)

    def deliver(self, deliveries: Iterable[Delivery]) -> None:
        self.engine.deliver(deliveries)
        while batch := self.stream.take_batch():
            self.delivered += len(batch)

    def sender(self, size: int) -> Callable[[], None]:
        payloads = [bytes(size)] * max(1, LIST_BYTES // size)
        return lambda: self.membership.send(payloads)


Node = Bare | Grouped


class Wires:
    """Nodes and the datagrams between them, in one queue."""

    def __init__(self, count: int, make: type[Node], *, compact: bool = True) -> None:
        config = Config.for_nodes(count, compact_headers=compact)
        self.nodes = {
            node_id: make(Processor(config, node_id, ring_seq=0, dice=random.Random(node_id)))
            for node_id in range(1, count + 1)
        }
        self._queue: deque[tuple[int, bytes]] = deque()
        for node_id, node in self.nodes.items():
            node.processor.start(time.perf_counter())
            self._perform(node_id)
        while any(len(node.processor.members) < count or node.processor.syncing for node in self.nodes.values()):
            self.step()

    def step(self) -> None:
        """Hand on what is in the queue, or let the node with the next deadline have its time."""
        now = time.perf_counter()
        if not self._queue:
            for node_id, node in self.nodes.items():
                if node.processor.deadline <= now:
                    node.processor.advance(now)
                self._perform(node_id)
            return
        arrived, self._queue = self._queue, deque()
        for node_id, node in self.nodes.items():
            node.processor.receive_all([datagram for target, datagram in arrived if target == node_id], now)
            self._perform(node_id)

    def _perform(self, node_id: int) -> None:
        node = self.nodes[node_id]
        ready = node.processor.take()
        for target, train in ready.datagrams:
            for receiver in self.nodes if target == ALL else (target,):
                if receiver != node_id:
                    self._queue.extend((receiver, frame) for frame in train)
        node.deliver(ready.deliveries)


NODES = 3
KINDS: tuple[tuple[str, type[Node], bool], ...] = (
    ("totem", Bare, True),
    ("cpg", Grouped, True),
    ("cpg, Corosync's headers", Grouped, False),
)
SIZES = (64, 1000, 16000)
SHARE = 0.3
"""Of the seconds that other parts measure: nothing here waits for anything."""


def rate(make: type[Node], senders: int, size: int, seconds: float, *, compact: bool = True) -> float:
    """Return messages a second delivered at every node."""
    wires = Wires(NODES, make, compact=compact)
    nodes = list(wires.nodes.values())
    send = [node.sender(size) for node in nodes[:senders]]
    before = min(node.delivered for node in nodes)
    start = time.perf_counter()
    while (took := time.perf_counter() - start) < seconds:
        for sender in send:
            try:
                while True:
                    sender()
            except QueueFull:
                pass
        for _ in range(20):
            wires.step()
    return (min(node.delivered for node in nodes) - before) / took


def measure(bench: Bench) -> None:
    """Note the rates of both floors, with one sender and with all."""
    for _ in bench.turns():
        for name, make, compact in KINDS:
            for what, senders in (("one sender", 1), ("three senders", NODES)):
                for size in SIZES:
                    speed = rate(make, senders, size, bench.seconds * SHARE, compact=compact)
                    bench.note(what, name, "messages/s", speed, at=size)
