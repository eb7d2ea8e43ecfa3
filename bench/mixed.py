"""A ring of three Corosync nodes, and one of two and one of ours, in turns: what their clients and ours see.

    python -m bench.mixed [--rounds 3] [--seconds 3] [--size 64]          # as root, with Corosync and a C compiler

Both rings live in namespaces of this machine, and one stands still while the other is measured. Programs on Corosync's
nodes are `cpgflood` (C, libcpg), ours is `cpg flood`. A rate counts only if all digests agree and no membership
changed, and is that of the slowest node; the table has medians, and ratios to three real nodes.
"""

from __future__ import annotations

import signal
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import trio

from bench.flooding import build_cpgflood, flood, rate, read_options
from bench.history import append
from tests.interop.ring import MixedRing

PLACES = (1, 2, 3)
ONE, ALL = "three real nodes, one sends", "three real nodes, all send"
CASES = {
    ONE: ((1, 2, 3), (1,)),
    "2 + 1, a real one sends": ((1, 2), (1,)),
    "2 + 1, ours sends": ((1, 2), (3,)),
    ALL: ((1, 2, 3), PLACES),
    "2 + 1, all send": ((1, 2), PLACES),
}


def commands(ring: MixedRing, real: tuple[int, ...], program: str) -> dict[int, tuple[object, ...]]:
    """What runs at each place."""
    ours = (sys.executable, "-m", "cpg", "flood")
    return {k: (program,) if k in real else (*ours, "-c", ring.config[k], "--node", k) for k in PLACES}


async def measure(rounds: int, options: list[str]) -> dict[str, float]:
    """Run all cases, in turns; return the medians."""
    rates: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        program = build_cpgflood(name)
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
                rates[case].append(rate(await flood(ring, commands(ring, real, program), senders, options)))
                _signal(ring, signal.SIGSTOP)
                print(f"round {number + 1}: {case}: {rates[case][-1]:,.0f}/s", file=sys.stderr, flush=True)
    return {case: statistics.median(values) for case, values in rates.items()}


def _signal(ring: MixedRing, number: int) -> None:
    for process in ring.corosyncs.values():
        process.send_signal(number)


def main() -> None:
    """Run the command line."""
    rounds, size, options = read_options("mixed", __doc__.splitlines()[0], rounds=3)
    medians = trio.run(measure, rounds, options)
    for case, median in medians.items():
        reference = medians[ALL if len(CASES[case][1]) > 1 else ONE]
        print(f"{case:32} {median:>10,.0f}/s   {median / reference:.2f}")
    append("mixed", {"size": size, **medians})


if __name__ == "__main__":
    main()
