"""What is measured: samples of single runs, the figures that come of them, and what has changed since another time."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

MORE_IS_BETTER = frozenset({"messages/s", "locks/s", "MB/s"})
"""Units. Of all others (times, costs) less is better."""
NOISE = 0.1
"""Changes by less than this part are none."""


class Key(NamedTuple):
    """What a figure tells, of whom."""

    what: str
    at: float | None
    """Its place on the axis of its part: a size, a load; None where there is no axis."""
    system: str
    unit: str


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run gave."""

    key: Key
    value: float
    flaw: str = ""
    """Why it does not count; empty if it does."""


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of the runs that count, or of all where none does; and between which values they lie."""

    what: str
    at: float | None
    system: str
    unit: str
    value: float
    low: float
    high: float
    runs: int
    flaw: str = ""
    """How many runs do not count, and why; empty if all do. A figure with a flaw does not count."""

    @property
    def key(self) -> Key:
        return Key(self.what, self.at, self.system, self.unit)


def summarize(samples: Iterable[Sample]) -> list[Figure]:
    """One figure for each key, in the order in which they came first."""
    found: dict[Key, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.key, []).append(sample)
    return [_figure(key, runs) for key, runs in found.items()]


def _figure(key: Key, runs: list[Sample]) -> Figure:
    flaws = Counter(run.flaw for run in runs if run.flaw)
    values = [run.value for run in runs if not run.flaw] or [run.value for run in runs]
    flaw = "; ".join(f"{count} of {len(runs)} runs: {why}" for why, count in flaws.items())
    return Figure(*key, statistics.median(values), min(values), max(values), len(runs), flaw)


@dataclass(frozen=True, slots=True)
class Change:
    """From one figure to another one of the same key."""

    ratio: float
    better: bool
    sure: bool
    """Whether it is more than noise: the ranges of several rounds are apart, and the medians by a tenth."""


def change(now: Figure, before: Figure | None) -> Change | None:
    """What has changed; None where one of them does not count or is nothing."""
    if before is None or now.flaw or before.flaw or not before.value:
        return None
    ratio = now.value / before.value
    apart = min(now.runs, before.runs) > 1 and (now.low > before.high or now.high < before.low)
    return Change(ratio, (ratio > 1) == (now.unit in MORE_IS_BETTER), apart and abs(ratio - 1) > NOISE)


def percent(part: float) -> str:
    """Write a part of one."""
    return f"{part * 100:.0f} %"


def number(value: float) -> str:
    """Write a number with three digits, or all before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
