"""All patterns of who hears whom among a few nodes: each is held for a while, then healed, and judged.

A *pattern* is a number: one bit for each ordered pair of nodes, set if the second hears the first. Of patterns that
differ only in the numbers of their nodes one is run, with numbers from a seed. A ring whose token still gets round must
stay as it is. Any other one must change once, into the parts that `totem.partition` names, and be quiet then. After
the healing all nodes must come together in one change, and be quiet.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import permutations

from totem.config import Config
from totem.partition import partition
from totem.testing.checkers import check
from totem.testing.cluster import Cluster
from totem.testing.network import Conditions
from totem.testing.reforms import Reforms

NODES = 5
"""So many nodes have 1,048,576 patterns, and 9,608 that differ in more than the numbers of nodes."""
HOLD = 20.0
"""Seconds for which a pattern stays, and after it the whole network."""
QUIET = 3.0
"""Seconds at the end of each in which nothing may be going on any more."""


@cache
def pairs(count: int) -> tuple[tuple[int, int], ...]:
    """Return the ordered pairs of nodes 0 to `count` - 1: the first is heard by the second."""
    return tuple((speaker, listener) for speaker in range(count) for listener in range(count) if speaker != listener)


@cache
def distinct_patterns(count: int = NODES) -> tuple[int, ...]:
    """Return the patterns that differ in more than the numbers of nodes: the lowest number of each class."""
    ordered = pairs(count)
    bits = len(ordered)
    place = {pair: index for index, pair in enumerate(ordered)}
    low_bits = bits // 2
    renumberings = []
    for order in permutations(range(count)):
        moved = [1 << place[order[speaker], order[listener]] for speaker, listener in ordered]
        renumberings.append((_sums(moved[:low_bits]), _sums(moved[low_bits:])))
    seen = bytearray(1 << bits)
    lowest = []
    for pattern in range(1 << bits):
        if not seen[pattern]:
            lowest.append(pattern)
            low, high = pattern & ((1 << low_bits) - 1), pattern >> low_bits
            for lows, highs in renumberings:
                seen[lows[low] | highs[high]] = 1
    return tuple(lowest)


def _sums(moved: Sequence[int]) -> list[int]:
    """Return, for each set of bits, where they come to together."""
    sums = [0]
    for bit in moved:
        sums += [earlier | bit for earlier in sums]
    return sums


@dataclass(frozen=True)
class PatternOutcome:
    """What has come of one pattern."""

    pattern: int
    changed: bool
    """Whether the ring had to change."""
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Patterns:
    """Settings that all runs share."""

    count: int = NODES
    seed: int = 0
    hold: float = HOLD
    verbose: bool = False

    def run_pattern(self, pattern: int) -> PatternOutcome:
        """Hold one pattern, heal it, and judge both."""
        return _PatternRun(self, pattern).run()

    def replay(self, pattern: int) -> str:
        """Return the command that shows one pattern again."""
        settings = f"--nodes {self.count} --seed {self.seed} --hold {self.hold:g}"
        return f"python -m totem.testing.hearing_patterns {settings} --verbose --pattern {pattern}"


class _PatternRun:
    """One cluster under one pattern."""

    def __init__(self, settings: Patterns, pattern: int) -> None:
        self._settings = settings
        self._pattern = pattern
        dice = random.Random(f"{settings.seed} {pattern}")
        self._ids = list(range(1, settings.count + 1))
        dice.shuffle(self._ids)
        timeouts = dice.choice([{}, {"token": 0.6, "consensus": 0.3}, {"token": 1.0}])
        conditions = Conditions(delay=dice.choice([0.0001, 0.0005, 0.002]))
        self._cluster = Cluster(
            settings.count,
            seed=f"{settings.seed} {pattern}",
            config=Config.for_nodes(settings.count, **timeouts),
            conditions=conditions,
            on_trace=self._print if settings.verbose else None,
        )
        self._faults: list[str] = []

    def _print(self, node: object, name: str, *details: object) -> None:
        if name != "drop":
            print(f"{self._cluster.now:9.4f} {getattr(node, 'node_id', '')} {name} {' '.join(map(str, details))}")

    def run(self) -> PatternOutcome:
        cluster = self._cluster
        cluster.start()
        cluster.form()
        cluster.run_for(3.0)
        heard = {
            node_id: {other for other in self._ids if other != node_id and self._hears(node_id, other)}
            for node_id in self._ids
        }
        for node_id in self._ids:
            cluster.network.cut([other for other in self._ids if other not in heard[node_id]], [node_id])
        order = sorted(self._ids)
        works = all(before in heard[after] for before, after in zip(order, order[1:] + order[:1], strict=True))
        same = dict.fromkeys(self._ids, 1)
        parts = [tuple(order)] if works else partition(heard, same, same)
        self._hold("cut", parts, at_most=0 if works else 1)
        cluster.network.heal()
        self._hold("healed", [tuple(order)], at_most=1 if len(parts) > 1 else 0)
        cluster.settle()
        self._faults += map(str, check(cluster.history(quiescent=True)))
        return PatternOutcome(self._pattern, not works, tuple(self._faults))

    def _hears(self, listener: int, speaker: int) -> bool:
        place = self._ids.index
        index = pairs(self._settings.count).index((place(speaker), place(listener)))
        return bool(self._pattern >> index & 1)

    def _hold(self, what: str, parts: Sequence[tuple[int, ...]], *, at_most: int) -> None:
        if self._settings.verbose:
            print(f"{self._cluster.now:9.4f} {what}: expected {parts}")
        whole = Reforms(self._cluster)
        self._cluster.run_for(self._settings.hold - QUIET)
        end = Reforms(self._cluster)
        self._cluster.run_for(QUIET)
        self._faults += (f"{what}: {fault}" for fault in whole.violations(parts, at_most=at_most))
        self._faults += (f"{what}: node {node_id} is not quiet" for node_id, count in end.counts().items() if count)


def run(settings: Patterns, chosen: Sequence[int], jobs: int = 1) -> Iterator[PatternOutcome]:
    """Run patterns, in any order."""
    if jobs == 1:
        yield from map(settings.run_pattern, chosen)
        return
    with multiprocessing.Pool(jobs) as pool:
        yield from pool.imap_unordered(partial(Patterns.run_pattern, settings), chosen, chunksize=2)


def main(arguments: list[str] | None = None) -> int:
    """Run patterns from the command line; return 1 if any was not as it must be."""
    parser = argparse.ArgumentParser(
        prog="python -m totem.testing.hearing_patterns", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--nodes", type=int, default=NODES, help=f"nodes ({NODES})")
    parser.add_argument("--seed", type=int, default=0, help="decides the numbers of the nodes, and the sample (0)")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="run N patterns instead of all")
    parser.add_argument("--pattern", type=int, metavar="P", help="run this one alone")
    parser.add_argument("--hold", type=float, default=HOLD, help=f"seconds for which each is held ({HOLD:g})")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--verbose", action="store_true", help="tell what happens")
    options = parser.parse_args(arguments)
    settings = Patterns(options.nodes, options.seed, options.hold, options.verbose)
    chosen = sample(options.nodes, options.seed, options.sample) if options.pattern is None else [options.pattern]
    done = changed = bad = 0
    started = told = time.perf_counter()
    for outcome in run(settings, chosen, 1 if options.verbose else options.jobs):
        done += 1
        changed += outcome.changed
        bad += bool(outcome.faults)
        for fault in outcome.faults[:5]:
            print(f"pattern {outcome.pattern}: {fault}")
        if outcome.faults:
            print(f"replay: {settings.replay(outcome.pattern)}", flush=True)
        if time.perf_counter() - told > 10:
            told = time.perf_counter()
            print(
                f"{done} of {len(chosen)} patterns, {bad} not as they must be, {done / (told - started):.1f}/s",
                flush=True,
            )
    print(f"{done} patterns, {changed} of them changed the ring, {bad} were not as they must be")
    return 1 if bad else 0


def sample(count: int, seed: int, size: int) -> list[int]:
    """Return so many of the distinct patterns, or all, in random order."""
    found = list(distinct_patterns(count))
    random.Random(f"sample {seed}").shuffle(found)
    return found[: size or None]


if __name__ == "__main__":
    sys.exit(main())
