"""Memory stays flat: over a thousand rings, and over messages without end."""

import gc
import random
import tracemalloc
from pathlib import Path

import totem
from totem import Config, Guarantee, Processor
from totem.configuration import Messages, RegularConfiguration
from totem.testing.cluster import Cluster

CORE = tracemalloc.Filter(True, f"{Path(totem.__file__).parent}/*")
KIT = tracemalloc.Filter(False, f"{Path(totem.__file__).parent}/testing/*")


def held():
    """Bytes that the core's own lines have allocated and that are still alive."""
    gc.collect()
    snapshot = tracemalloc.take_snapshot().filter_traces([CORE, KIT])
    return sum(statistic.size for statistic in snapshot.statistics("filename"))


def reform(cluster, dice, times):
    """Let one of three leave or crash and come back, while messages are on their way."""
    for _ in range(times):
        for node in cluster.running:
            node.try_send([node.compose(dice.choice([20, 5000]))], dice.choice(list(Guarantee)))
        node = cluster[dice.choice([2, 3])]
        dice.choice([node.crash, node.leave])()
        cluster.run_for(0.3)
        node.start()
        cluster.run_for(0.1)
        for each in cluster.nodes.values():
            each.trace.events.clear()
        cluster.traces.clear()


def test_memory_is_flat_over_a_thousand_rings():
    dice = random.Random(0)
    cluster = Cluster(3, config=Config.for_nodes(3, token=0.13, consensus=0.16))
    cluster.start()
    cluster.run_for(1)
    tracemalloc.start()
    try:
        reform(cluster, dice, 50)
        before = held()
        installed = cluster[1].machine.statistics().rings_installed
        reform(cluster, dice, 580)
        after = held()
    finally:
        tracemalloc.stop()
    assert cluster[1].machine.statistics().rings_installed - installed >= 1000
    assert after < before + 20_000, f"{before} bytes have become {after}"


def test_memory_is_flat_over_messages():
    """A ring of one, which works like any other."""
    machine = Processor(Config.for_nodes(1), 1, ring_seq=0, dice=random.Random(0))
    machine.start(0.0)
    delivered = 0
    message = bytes(100)

    def run(count):
        nonlocal delivered
        goal = delivered + count
        while delivered < goal:
            if machine.room > 10_000:
                machine.multicast([message] * 50, Guarantee.AGREED)
            for event in machine.take().deliveries:
                if isinstance(event, Messages):
                    delivered += len(event.messages)
                elif isinstance(event, RegularConfiguration):
                    machine.sync_complete(event.ring_id)
            machine.advance(0.0)

    tracemalloc.start()
    try:
        run(5_000)
        machine.take()
        before = held()
        run(50_000)
        after = held()
    finally:
        tracemalloc.stop()
    # The send queue may be filled up to its bound.
    assert after < before + machine.config.send_queue_bytes // 50
