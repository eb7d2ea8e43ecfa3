"""What the figures are to reach, each beside a rival's of the same run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench import accelerated
from bench.accelerated import ACCELERATED, PLAIN, TRANSPORTS, WINDOWS
from bench.detection import COUNTS, FOLLOWERS, KILLED, KILLED_LOADED, MAXIMUM, MEDIAN, SERVED, SILENT
from bench.figures import Figure, Key, number, percent
from bench.replicated import NAME as PYSYNCOBJ
from bench.rings import ALL, ANYTHING, COROSYNC, CPGD, ONE, OURS
from totem.configuration import Guarantee

Figures = Mapping[tuple[str, Key], Figure]
"""By part and key."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One row of the table."""

    what: str
    part: str
    key: Key
    rival: str = COROSYNC
    least: float | None = None
    """Times the rival's."""
    most: float | None = None
    """Times the rival's."""
    limit: float | None = None
    """At most this much, whatever the rival has."""
    share: float = 0.0
    """At least this part of the own figure where `at` is 0."""

    def text(self) -> str:
        """What is to be reached."""
        if self.limit is not None:
            return f"at most {number(self.limit)} {self.key.unit}"
        if self.share:
            return f"{percent(self.share)} of ours without loss, and above the rival's"
        if self.most is not None:
            return "no worse" if self.most == 1 else f"at most {number(self.most)} times"
        return f"{number(self.least or 0)} times"


@dataclass(frozen=True, slots=True)
class Score:
    """What became of a goal."""

    goal: Goal
    rival: Figure | None
    ours: Figure | None
    base: Figure | None

    @property
    def ratio(self) -> float | None:
        """Ours to the rival's, where both count."""
        if self.ours is None or self.rival is None or self.ours.flaw or self.rival.flaw or not self.rival.value:
            return None
        return self.ours.value / self.rival.value

    @property
    def share(self) -> float | None:
        """Ours to ours without loss, where that is asked for and both count."""
        if not self.goal.share or self.ours is None or self.base is None or self.ours.flaw or self.base.flaw:
            return None
        return self.ours.value / self.base.value if self.base.value else None

    @property
    def verdict(self) -> str:
        """Whether it is reached."""
        goal = self.goal
        if self.ours is None:
            return "not measured"
        if self.ours.flaw:
            return "does not count"
        if goal.limit is not None:
            return _yes(self.ours.value <= goal.limit)
        if self.ratio is None:
            return "no rival's figure that counts"
        if goal.share:
            return _yes(self.share is not None and self.share >= goal.share and self.ratio > 1)
        if goal.most is not None:
            return _yes(self.ratio <= goal.most)
        return _yes(self.ratio >= (goal.least or 0))


def _yes(reached: bool) -> str:
    return "yes" if reached else "**no**"


def score(goals: Sequence[Goal], figures: Figures) -> list[Score]:
    """Hold goals against figures."""
    return [
        Score(
            goal,
            figures.get((goal.part, goal.key._replace(system=goal.rival))),
            figures.get((goal.part, goal.key)),
            figures.get((goal.part, goal.key._replace(at=0))) if goal.share else None,
        )
        for goal in goals
    ]


def _rate(what: str, part: str, row: str, least: float, *, at: float | None = None, system: str = OURS.name) -> Goal:
    return Goal(what, part, Key(row, at, system, "messages/s"), least=least)


def _delays(what: str, row: str, at: float) -> list[Goal]:
    return [
        Goal(f"{what}, {which}", "latency", Key(row, at, OURS.name, f"µs, {which}"), most=1) for which in ("p50", "p99")
    ]


def _faster(row: str, least: float) -> Goal:
    return Goal(f"accelerated: {row}", "accelerated", Key(row, None, ACCELERATED, "messages/s"), PLAIN, least=least)


def _sooner(row: str, most: float) -> Goal:
    return Goal(f"accelerated: {row}", "accelerated", Key(row, None, ACCELERATED, "µs"), PLAIN, most=most)


def _noticed(what: str, unit: str, limits: Sequence[float]) -> list[Goal]:
    """What is measured in rings of all sizes."""
    return [
        Goal(
            f"{what}, {count} nodes, {unit.partition(', ')[2]}", "detection", Key(what, count, CPGD, unit), limit=limit
        )
        for count, limit in zip(COUNTS, limits, strict=True)
    ]


def _followed(what: str, limit: float) -> Goal:
    return Goal(FOLLOWERS[what], "detection", Key(FOLLOWERS[what], SERVED, CPGD, MAXIMUM), limit=limit)


GOALS: Sequence[Goal] = (
    _rate("64 B, one sender, embedded", "throughput", ONE, 5, at=64),
    _rate("64 B, three senders, embedded", "throughput", ALL, 5, at=64),
    _rate("1 KiB, one sender", "throughput", ONE, 3, at=1024),
    _rate("8 KiB, one sender", "throughput", ONE, 6, at=8192),
    _rate("64 KiB, one sender", "throughput", ONE, 6, at=65536),
    _rate("64 KiB, three senders", "throughput", ALL, 30, at=65536),
    _rate("64 B through the daemon, one sends", "daemon", ONE, 2.5, system=CPGD),
    _rate("64 B through the daemon, three send", "daemon", ALL, 2.5, system=CPGD),
    *_delays("AGREED latency at 200/s", ONE, 200),
    *_delays("AGREED latency at 3 × 1,000/s", ALL, 3000),
    *(
        _rate(f"over knet, {how}, {size} B, {what}", "knet", f"{what}, {how}", least, at=size)
        for how in ("in clear", "sealed")
        for size, least in ((64, 5), (1024, 2))
        for what in (ONE, ALL)
    ),
    Goal("1 % random loss", "loss", Key(ANYTHING, 1, OURS.name, "messages/s"), share=0.7),
    Goal("5 % random loss", "loss", Key(ANYTHING, 5, OURS.name, "messages/s"), share=0.4),
    Goal("a replicated log, PySyncObj", "log", Key(ONE, None, OURS.name, "messages/s"), PYSYNCOBJ, least=20),
    *(_faster(accelerated.saturated(transport, windows), 1.25) for transport in TRANSPORTS for windows in WINDOWS),
    *(
        _sooner(accelerated.loaded(transport, guarantee, 50), 0.8)
        for transport in TRANSPORTS
        for guarantee in Guarantee
    ),
    Goal("idle, default timers", "idle", Key("a node", None, OURS.name, "% of a core"), limit=1),
    Goal("32 members form, from the last socket's opening", "nodes", Key("forming", 32, OURS.name, "s"), limit=5),
    *_noticed(KILLED, MEDIAN, (0.3, 0.5, 0.8)),
    *_noticed(KILLED_LOADED, MEDIAN, (0.3, 0.5, 0.8)),
    *_noticed(SILENT, MEDIAN, (0.8, 1.2, 2.0)),
    *_noticed(SILENT, MAXIMUM, (1.3, 1.8, 2.8)),
    _followed("lead", 5),
    _followed("lock", 6),
)
