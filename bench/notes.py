"""What every part of the bench is given: how much to measure, and where to write down what comes of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.figures import Key, Sample, number


@dataclass
class Bench:
    """What the parts share: how much is measured, where samples go, and which rivals are there."""

    rounds: int
    seconds: float
    """Of each measurement."""
    cpgflood: Path | None = None
    """The program, if rings of Corosync can be had."""
    samples: list[Sample] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """What is not there: why, and how it comes."""

    def note(self, what: str, system: str, unit: str, value: float, *, at: float | None = None, flaw: str = "") -> None:
        """Keep a sample, and show it."""
        self.samples.append(Sample(Key(what, at, system, unit), value, flaw))
        place = f"{what}, {number(at)}" if at is not None else what
        flawed = f"   does not count: {flaw}" * bool(flaw)
        print(f"    {place}: {system}: {number(value)} {unit}{flawed}", file=sys.stderr, flush=True)

    def turns(self) -> Iterator[int]:
        """The rounds, shown as they begin."""
        for turn in range(1, self.rounds + 1):
            print(f"  round {turn} of {self.rounds}", file=sys.stderr, flush=True)
            yield turn
