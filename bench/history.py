"""The file to which every bench appends a line, so that a loss is seen: bench/history.jsonl."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

FILE = Path(__file__).parent / "history.jsonl"


def append(bench: str, figures: Mapping[str, float | str]) -> None:
    """Add one line: when, which commit, which Python, and the figures."""
    line = {
        "bench": bench,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "python": platform.python_version(),
        **figures,
    }
    with FILE.open("a") as file:
        print(json.dumps(line), file=file)


def commit() -> str:
    """The commit that is measured, with a mark if files have changed since; empty outside of a work tree."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=FILE.parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
