"""Rings of live nodes for tests: processors under their shells, and a program that records what it is given."""

import errno
import random
from functools import partial

import trio

from totem.configuration import Guarantee, Messages, RegularConfiguration
from totem.errors import QueueFull
from totem.node import Node
from totem.processor import Processor
from totem.testing.history import Process, Sent, Trace


class MemoryStore:
    def __init__(self):
        self.ring_seq = 0
        self.is_full = False

    def store(self, ring_seq):
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device", "/state/ringid")
        self.ring_seq = max(self.ring_seq, ring_seq)


class Program:
    """The program on one node: completes every sync at once, and keeps a trace for the checkers."""

    def __init__(self, node, incarnation=1):
        self.node = node
        self.processor = node.processor
        self.trace = Trace(Process(self.processor.node_id, incarnation))
        self.received = []
        self._progress = trio.lowlevel.ParkingLot()

    def deliver(self, deliveries):
        for item in deliveries:
            self.trace.events.append(item)
            if isinstance(item, Messages):
                self.received += item.messages
            elif isinstance(item, RegularConfiguration):
                self.processor.sync_complete(item.ring_id)
        self._progress.unpark_all()

    async def run(self):
        await self.node.run(self.deliver)
        self.trace.ended = True

    async def send(self, *messages, guarantee=Guarantee.AGREED):
        while True:
            try:
                self.processor.multicast(messages, guarantee)
            except QueueFull:
                await self._progress.park()
            else:
                self.trace.events.append(Sent(messages, guarantee))
                self.node.kick()
                return

    async def until(self, condition):
        """Wait for a turn after which the condition holds."""
        while not condition():
            await self._progress.park()

    async def until_members(self, *node_ids):
        await self.until(lambda: self.processor.members == node_ids)


def on_network(network, config, node_id, store, incarnation=1):
    """Return a program on a node in a virtual network."""
    dice = random.Random(network.dice.getrandbits(32))
    processor = Processor(config, node_id, ring_seq=store.ring_seq, dice=dice)
    return Program(Node(processor, network.endpoint(node_id), store), incarnation)


def on_sockets(config, node_id, **options):
    """Return a program on a node on real sockets."""
    return Program(Node.open(config, node_id, **options))


async def together(programs):
    """Wait until all programs are in one ring of exactly their nodes."""
    node_ids = tuple(sorted(programs))
    async with trio.open_nursery() as nursery:
        for program in programs.values():
            nursery.start_soon(partial(program.until_members, *node_ids))
