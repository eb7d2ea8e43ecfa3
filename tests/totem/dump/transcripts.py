"""Transcripts of `totem dump`: a first line `$ totem dump …`, and what it printed (times are UTC).

`python -m tests.totem.dump.transcripts` renews them all: read what it writes as if somebody else had written it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
ALL = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


def retell(written):
    """Return the transcript as it goes today."""
    command = written.partition("\n")[0]
    dollar, totem, *arguments = shlex.split(command)
    assert (dollar, totem) == ("$", "totem")
    done = subprocess.run(
        [sys.executable, "-m", "totem", *arguments],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "TZ": "UTC"},
        text=True,
    )
    assert not done.stderr
    assert done.returncode == 0
    return f"{command}\n{done.stdout}"


if __name__ == "__main__":
    for path in ALL:
        path.write_text(retell(path.read_text()))
