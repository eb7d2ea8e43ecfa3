"""A ring of three Corosync nodes, and one of two and one of ours, in turns: what their clients and ours see.

    python -m bench.mixed [--rounds 3] [--seconds 3] [--size 64]          # as root, with Corosync and a C compiler

Both rings live in namespaces of this machine, and one stands still while the other is measured. Programs on Corosync's
nodes are `cpgflood` (C, libcpg), ours is `cpg flood`. A rate counts only if all digests agree and no membership
changed, and is that of the slowest node; the table has medians, and ratios to three real nodes.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import trio

from bench.history import append
from tests.interop.ring import MixedRing

SOURCE = Path(__file__).parent.parent / "tests" / "interop" / "cpgflood.c"
PLACES = (1, 2, 3)
ONE, ALL = "three real nodes, one sends", "three real nodes, all send"
CASES = {
    ONE: ((1, 2, 3), (1,)),
    "2 + 1, a real one sends": ((1, 2), (1,)),
    "2 + 1, ours sends": ((1, 2), (3,)),
    ALL: ((1, 2, 3), PLACES),
    "2 + 1, all send": ((1, 2), PLACES),
}


async def flood(
    ring: MixedRing, real: tuple[int, ...], senders: tuple[int, ...], program: str, options: list[str]
) -> float:
    """Run it once; return messages a second at the slowest node."""
    reports: list[dict[str, float | str]] = []

    async def run(k: int) -> None:
        ours = (sys.executable, "-m", "cpg", "flood", "-c", ring.config[k], "--node", k)
        quiet = [] if k in senders else ["-q"]
        command = (program,) if k in real else ours
        done = await trio.run_process(
            ring.place(k).command(*command, "-g", "flood", "-n", len(PLACES), *options, *quiet),
            capture_stdout=True,
            capture_stderr=True,
        )
        reports.append(json.loads(done.stdout))

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            for k in PLACES:
                nursery.start_soon(run, k)
    if len({report["order"] for report in reports}) > 1 or any(report["confchgs"] for report in reports):
        raise SystemExit(f"the ring changed, or orders differ: {reports}")
    return min(float(report["msgs_per_s"]) for report in reports)


async def measure(rounds: int, options: list[str]) -> dict[str, float]:
    """Run all cases, in turns; return the medians."""
    rates: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        program = f"{name}/cpgflood"
        subprocess.run(["cc", "-O2", "-o", program, SOURCE, "-lcpg", "-lpthread"], check=True)
        rings = {}
        for real in ((1, 2, 3), (1, 2)):
            ring = rings[real] = stack.enter_context(MixedRing(Path(name, str(len(real))), 3))
            await ring.start_corosync(*real)
            await ring.wait_ring(*real)
            _signal(ring, signal.SIGSTOP)
        for number in range(rounds):
            for case, (real, senders) in CASES.items():
                ring = rings[real]
                _signal(ring, signal.SIGCONT)
                await trio.sleep(5)  # a ring that stood still is formed anew
                await ring.wait_ring(*real)
                rates[case].append(await flood(ring, real, senders, program, options))
                _signal(ring, signal.SIGSTOP)
                print(f"round {number + 1}: {case}: {rates[case][-1]:,.0f}/s", file=sys.stderr, flush=True)
    return {case: statistics.median(values) for case, values in rates.items()}


def _signal(ring: MixedRing, number: int) -> None:
    for process in ring.corosyncs.values():
        process.send_signal(number)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.mixed", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", default="3")
    parser.add_argument("--size", default="64", help="bytes of a message (64)")
    arguments = parser.parse_args()
    medians = trio.run(measure, arguments.rounds, ["-t", arguments.seconds, "-s", arguments.size])
    for case, rate in medians.items():
        reference = medians[ALL if len(CASES[case][1]) > 1 else ONE]
        print(f"{case:32} {rate:>10,.0f}/s   {rate / reference:.2f}")
    append("mixed", {"size": arguments.size, **medians})


if __name__ == "__main__":
    main()
