"""Processors wired by lists, no sockets and no heap: what the machines themselves can do, in one process.

    python -m bench.core [--nodes 3] [--seconds 1]

Each row keeps the senders' queues filled for some seconds and counts the messages that *every* node was delivered. `us`
is the time of one node for one message, sending and receiving taken together. `totem` is the Processor alone, `cpg` has
an engine, a group and a stream above it.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import deque
from collections.abc import Callable, Iterable

from bench.history import append
from cpg.engine import Engine
from cpg.events import Member
from cpg.stream import Stream
from totem.config import Config
from totem.configuration import Delivery, Messages, RegularConfiguration
from totem.errors import QueueFull
from totem.processor import ALL, Processor

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

    def __init__(self, count: int, make: type[Node]) -> None:
        config = Config.for_nodes(count)
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
        for _ in range(len(self._queue)):
            target, datagram = self._queue.popleft()
            self.nodes[target].processor.receive(datagram, now)
        for node_id in self.nodes:
            self._perform(node_id)

    def _perform(self, node_id: int) -> None:
        node = self.nodes[node_id]
        ready = node.processor.take()
        for target, train in ready.datagrams:
            for receiver in self.nodes if target == ALL else (target,):
                if receiver != node_id:
                    self._queue.extend((receiver, frame) for frame in train)
        node.deliver(ready.deliveries)


def measure(make: type[Node], count: int, senders: int, size: int, seconds: float) -> tuple[float, float]:
    """Return messages a second delivered at every node, and microseconds for each node and message."""
    wires = Wires(count, make)
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
    rate = (min(node.delivered for node in nodes) - before) / took
    return rate, 1e6 / rate / count


def main() -> None:
    """Print the table, and keep its main figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    options = parser.parse_args()
    figures: dict[str, float | str] = {}
    print(f"{options.nodes} processors in one process\n")
    print(f"{'':8}{'senders':>8}{'bytes':>8}{'msgs/s':>12}{'us':>8}{'MB/s':>8}")
    for name, make in (("totem", Bare), ("cpg", Grouped)):
        for senders in (1, options.nodes):
            for size in (64, 1000, 16000):
                rate, micros = measure(make, options.nodes, senders, size, options.seconds)
                print(f"{name:8}{senders:8}{size:8}{rate:12,.0f}{micros:8.2f}{rate * size / 1e6:8.1f}", flush=True)
                figures[f"{name}_{senders}x{size}_msgs_per_s"] = round(rate)
    append("core", figures)


if __name__ == "__main__":
    main()
