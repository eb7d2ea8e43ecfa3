"""Floods on rings in namespaces of this machine: `cpgflood` and `cpg flood`, whose reports must agree to count."""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import trio

from tests.interop.ring import MixedRing

SOURCE = Path(__file__).parent.parent / "tests" / "interop" / "cpgflood.c"
PATIENCE = 120

Report = dict[str, Any]


def read_options(name: str, purpose: str, *, rounds: int) -> tuple[int, str, list[str]]:
    """Read the command line: the rounds, the bytes of a message, and the options of the programs that flood."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=purpose)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seconds", default="3")
    parser.add_argument("--size", default="64", help="bytes of a message (64)")
    options = parser.parse_args()
    return options.rounds, options.size, ["-t", options.seconds, "-s", options.size]


def build_cpgflood(folder: str) -> str:
    """Compile `cpgflood` into a folder; return its path."""
    program = f"{folder}/cpgflood"
    subprocess.run(["cc", "-O2", "-o", program, SOURCE, "-lcpg", "-lpthread"], check=True)
    return program


async def flood(
    ring: MixedRing, commands: Mapping[int, Sequence[object]], senders: Sequence[int], options: Sequence[str]
) -> list[Report]:
    """Run a program at each place; return their reports, which must tell one order and no change of membership."""
    reports: list[Report] = []

    async def run(k: int) -> None:
        quiet = [] if k in senders else ["-q"]
        command = ring.place(k).command(*commands[k], "-g", "flood", "-n", len(commands), *options, *quiet)
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
        reports.append(json.loads(done.stdout))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for k in commands:
                nursery.start_soon(run, k)
    if len({report["order"] for report in reports}) > 1 or any(report["confchgs"] for report in reports):
        raise SystemExit(f"the ring changed, or orders differ: {reports}")
    return reports


def rate(reports: Sequence[Report]) -> float:
    """Messages a second, of the slowest."""
    return min(float(report["msgs_per_s"]) for report in reports)
