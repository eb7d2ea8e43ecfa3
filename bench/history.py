"""What was measured when: a file with one line for each run of a part, from which all else is drawn.

So parts may be run by themselves: what is shown of each is its last run, beside the one before on the same machine.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.figures import Figure

HERE = Path(__file__).parent
WRITTEN = ("RESULTS.md", "history.jsonl", "plots")
"""What a bench itself writes into this folder."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one part."""

    part: str
    at: str
    """Date and time, UTC."""
    commit: str
    machine: str
    nice: int
    load: float
    """Processes that ran before it began, the average of a minute."""
    versions: Mapping[str, str]
    rounds: int
    seconds: float
    """Of each measurement."""
    took: float
    missing: Mapping[str, str]
    """Rivals that were not there, and how they come."""
    figures: tuple[Figure, ...]
    failure: str = ""
    """Why it ended early, with what it had measured until then; empty if it did not."""

    def compares_with(self, other: Run) -> bool:
        """Whether it makes sense to put their figures side by side."""
        return (self.part, self.machine, self.nice) == (other.part, other.machine, other.nice)


def append(file: Path, run: Run) -> None:
    """Add a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        print(json.dumps(asdict(run), ensure_ascii=False), file=lines)


def read(file: Path) -> list[Run]:
    """All runs, the last one last; none if there is no file. Lines that an older form of it had are passed over."""
    if not file.exists():
        return []
    found = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    return [
        Run(**line | {"figures": tuple(Figure(**one) for one in line["figures"])})
        for line in found
        if "figures" in line
    ]


def last_two(runs: Iterable[Run]) -> dict[str, tuple[Run, Run | None]]:
    """Of each part the last run, and the last one before that compares with it."""
    found: dict[str, tuple[Run, Run | None]] = {}
    runs = list(runs)
    for place, run in enumerate(runs):
        earlier = [other for other in runs[:place] if run.compares_with(other)]
        found[run.part] = (run, earlier[-1] if earlier else None)
    return found


def commit() -> str:
    """The commit that is measured, with a mark if files have changed since; empty outside of a work tree."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", ":/", *(f":(exclude){name}" for name in WRITTEN))
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + "-dirty" * bool(changed)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True)
    return done.stdout.strip()
