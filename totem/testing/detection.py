"""How soon a silent machine is noticed, and whether a late one is left alone: `python -m totem.testing.detection`.

    --what load       daemons under load, random pauses of 200 ms, loss: no ring may change
    --what embedded   one of three nodes is embedded in a program that holds the interpreter for 500 ms now and then
    --what silent     a machine falls silent: seconds until all others have the ring without it

A world is one seed: a ring, its network and what happens to it. Worlds run in parallel processes. The closing line
counts the simulated hours, and the rings that changed without a reason; each names the command that replays it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from totem.config import Config
from totem.testing.cluster import Cluster, SimulatedNode
from totem.testing.network import Conditions

PAUSE, HELD = 0.2, 0.5
"""Seconds of a pause of a daemon, and of a program that holds the interpreter."""
LOSS: Final = 0.05
_WORLD = {"load": 120.0, "embedded": 1200.0, "silent": 0.0}
"""Simulated seconds of a world."""
_EVERY: Final = 0.01
"""Seconds between two sendings of the load."""
_SIZES: Final = (3, 8, 16)
_LONGEST: Final = 60.0
"""Seconds within which a silent machine must be out."""


class Result(NamedTuple):
    """What has become of one world."""

    seed: int
    nodes: int
    seconds: float
    """Simulated; of a silent machine, those until it was out."""
    changes: int
    """Rings that were formed without a reason."""
    story: str = ""
    """What happened before the first of them."""


class LateRing:
    """A ring under load, and what disturbs it."""

    def __init__(self, what: str, seed: int, *, nodes: int = 0, loss: float | None = None) -> None:
        self.seed = seed
        self.dice = dice = random.Random(f"detection {what} {seed}")
        count = nodes or (3 if what == "embedded" else dice.choice((3, 3, 3, 5, 8)))
        delay = 0.0005 if what == "silent" else dice.choice((0.0005, 0.002, 0.005))
        if loss is None:
            loss = 0.0 if what == "silent" else LOSS
        self.cluster = Cluster(
            count,
            seed=f"detection {seed}",
            # The token is not configured. Narrow windows make few datagrams of a full load.
            config=Config.for_nodes(count, window_size=count, max_messages=2),
            conditions=Conditions(delay=delay, jitter=delay / 2, loss=loss),
            daemons=True,
            on_trace=self._on_trace,
        )
        self.story: list[str] = []
        if what == "embedded":
            self.cluster[dice.randint(1, count)].is_daemon = False
        self.cluster.start()
        self.cluster.form()
        self.cluster.run_for(1.0)

    def _on_trace(self, node: SimulatedNode, what: str, detail: str) -> None:
        if what == "enter":
            self._note(f"node {node.node_id}: {detail}")

    def _note(self, text: str) -> None:
        self.story.append(f"{self.cluster.now:.3f} {text}")
        del self.story[:-60]

    def load(self, share: float = 1.0) -> None:
        """Keep a share of the nodes sending, and forget what they have delivered."""
        cluster = self.cluster
        for node in cluster.running:
            assert node.machine is not None
            if not node.paused and not node.machine.packer and self.dice.random() < share:
                node.try_send([node.compose(100)])
            node.trace.events.clear()
        cluster.network.at(cluster.now + _EVERY, self.load, share)

    def pause(self, seconds: float, gap: float, nodes: list[SimulatedNode]) -> None:
        """Pause one of the nodes now and then, `gap` seconds in the mean between the beginnings."""
        node = self.dice.choice(nodes)
        if node.running and not node.paused:
            self._note(f"node {node.node_id} is not run for {seconds} s")
            node.pause()
            self.cluster.network.at(self.cluster.now + seconds, node.resume)
        wait = self.dice.expovariate(1 / gap)
        self.cluster.network.at(self.cluster.now + wait, self.pause, seconds, gap, nodes)

    def run(self, seconds: float) -> Result:
        """Let time pass, and count the rings that change."""
        cluster = self.cluster
        before = self._rings()
        end = cluster.now + seconds
        while cluster.now < end and self._rings() == before:
            cluster.run_for(min(1.0, end - cluster.now))
        changes = self._rings() - before
        return Result(self.seed, len(cluster.nodes), seconds, int(changes > 0), "\n".join(self.story[-30:]))

    def _rings(self) -> int:
        return max(node.machine.counters.rings_installed for node in self.cluster.running if node.machine is not None)


def under_load(seed: int) -> Result:
    """Run daemons under load, with pauses of any of them, loss, and work that takes its time."""
    world = LateRing("load", seed)
    for node in world.cluster.nodes.values():
        node.labour = world.dice.choice((0.0, 0.0001, 0.0005))
    world.load(world.dice.choice((1.0, 1.0, 0.1, 0.0)))
    world.pause(PAUSE, world.dice.choice((0.5, 1.0, 5.0)), list(world.cluster.nodes.values()))
    return world.run(_WORLD["load"])


def embedded(seed: int) -> Result:
    """Run one program that holds the interpreter among two daemons."""
    world = LateRing("embedded", seed)
    (program,) = (node for node in world.cluster.nodes.values() if not node.is_daemon)
    world.load(world.dice.choice((0.1, 0.01, 0.0)))
    world.pause(HELD, world.dice.choice((3.0, 30.0, 300.0)), [program])
    return world.run(_WORLD["embedded"])


def silent(seed: int, *, nodes: int = 0, loss: float | None = None) -> Result:
    """Cut one machine off, and measure until all others have the ring without it."""
    world = LateRing("silent", seed, nodes=nodes or _SIZES[seed % len(_SIZES)], loss=loss)
    cluster = world.cluster
    world.load(world.dice.choice((1.0, 0.0)))
    cluster.run_for(1 + world.dice.random())
    victim = world.dice.choice(list(cluster.nodes))
    others = [node_id for node_id in cluster.nodes if node_id != victim]
    cluster.network.partition(others, [victim])
    began = cluster.now
    found = cluster.run_until(lambda: cluster.one_ring(*others), _LONGEST, 0.002)
    return Result(seed, len(cluster.nodes), cluster.now - began, int(not found), "\n".join(world.story))


KINDS: dict[str, Callable[[int], Result]] = {"load": under_load, "embedded": embedded, "silent": silent}


def _print_times(results: list[Result]) -> None:
    times: dict[int, list[float]] = defaultdict(list)
    for result in results:
        times[result.nodes].append(result.seconds)
    for nodes, seconds in sorted(times.items()):
        print(
            f"{nodes} nodes: a silent machine is out after {statistics.median(seconds):.2f} s in the median of "
            f"{len(seconds)}, {max(seconds):.2f} s at most"
        )


def main(arguments: list[str] | None = None) -> int:
    """Run many worlds; return 1 if a ring has changed without a reason."""
    parser = argparse.ArgumentParser(prog="python -m totem.testing.detection", description=__doc__.splitlines()[0])
    parser.add_argument("--what", choices=tuple(KINDS), default="load", help="what happens (load)")
    parser.add_argument("--hours", type=float, default=1.0, help="simulated hours, of load and embedded (1)")
    parser.add_argument("--worlds", type=int, default=60, help="number of worlds, of silent (60)")
    parser.add_argument("--seed", type=int, default=0, help="of the first world (0)")
    parser.add_argument("--loss", type=float, help="share of datagrams that are lost, of silent (0)")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="processes (1)")
    options = parser.parse_args(arguments)
    kind = KINDS[options.what]
    count = options.worlds
    if options.what == "silent":
        kind = partial(silent, loss=options.loss)
    else:
        count = max(1, round(options.hours * 3600 / _WORLD[options.what]))
    began, results = time.perf_counter(), []
    with multiprocessing.Pool(options.jobs) as pool:
        for result in pool.imap_unordered(kind, range(options.seed, options.seed + count)):
            results.append(result)
            if result.changes:
                print(f"seed {result.seed}, {result.nodes} nodes:\n{result.story}")
                again = f"--what {options.what} --seed {result.seed} --hours 0 --worlds 1"
                print(f"replay: python -m totem.testing.detection {again}", flush=True)
    changes = sum(result.changes for result in results)
    if options.what == "silent":
        _print_times(results)
    hours = sum(result.seconds for result in results) / 3600
    print(
        f"{len(results)} worlds, {hours:.2f} simulated hours in {time.perf_counter() - began:.0f} s of {options.jobs} "
        f"processes: {changes} rings changed without a reason"
    )
    return 1 if changes else 0


if __name__ == "__main__":
    sys.exit(main())
