"""Client processes on three daemons, and on three Corosyncs: how many messages they see, and how late.

    python -m bench.daemon [--rounds 5] [--seconds 3] [--size 64]          # as root, with Corosync and a C compiler

All rings live in namespaces of this machine and take turns; those that are not measured stand still. `cpgflood` (C,
libcpg) runs on Corosync and, unchanged, on our daemons (libqb's IPC); `cpg flood` on our daemons' own socket. A rate
counts only if all digests agree and no membership changed, and is that of the slowest node. Latencies are those from
send to delivery at all three nodes together: the worst node's p50 and p99. The table has medians over the rounds.
"""

from __future__ import annotations

import signal
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import trio

from bench.flooding import Report, build_cpgflood, flood, rate, read_options
from bench.history import append
from tests.interop.ring import MixedRing

PLACES = (1, 2, 3)
COROSYNC, OURS, LIBCPG = "Corosync, cpgflood", "cpgd, cpg flood", "cpgd, cpgflood"
SETTLE = 4.0
"""Seconds after a ring that stood still goes on: it is formed anew."""


class Setting:
    """A ring with a program for each place."""

    def __init__(self, ring: MixedRing, program: Callable[[int], Sequence[object]]) -> None:
        self.ring = ring
        self.commands = {k: program(k) for k in PLACES}
        self.daemons: list[Callable[[int], object]] = []
        """What takes signals."""

    def signal(self, number: int) -> None:
        """To all its nodes."""
        for daemon in self.daemons:
            daemon(number)

    async def flood(self, senders: Sequence[int], options: Sequence[str]) -> list[Report]:
        """Run the programs once, while all other rings stand still."""
        self.signal(signal.SIGCONT)
        await trio.sleep(SETTLE)
        reports = await flood(self.ring, self.commands, senders, options)
        self.signal(signal.SIGSTOP)
        return reports


async def set_up(nursery: trio.Nursery, stack: ExitStack, folder: Path) -> dict[str, Setting]:
    """Start the rings; all stand still."""
    cpgflood = build_cpgflood(str(folder))

    def own(ring: MixedRing) -> Callable[[int], Sequence[object]]:
        return lambda k: (sys.executable, "-m", "cpg", "flood", "--socket", ring.socket(k))

    real = stack.enter_context(MixedRing(folder / "corosync", 3))
    await real.start_corosync(*PLACES)
    await real.wait_ring(*PLACES)
    settings = {COROSYNC: Setting(real, lambda k: (cpgflood,))}
    settings[COROSYNC].daemons = [process.send_signal for process in real.corosyncs.values()]
    settings[COROSYNC].signal(signal.SIGSTOP)
    served = stack.enter_context(MixedRing(folder / "cpgd", 3, served=True, daemon=("libqb: yes",)))
    programs = [await served.start_daemon(nursery, k) for k in PLACES]
    for name, program in ((OURS, own(served)), (LIBCPG, lambda k: (cpgflood,))):
        settings[name] = Setting(served, program)
        settings[name].daemons = [daemon.signal for daemon in programs]
    settings[OURS].signal(signal.SIGSTOP)
    return settings


CASES: Mapping[str, tuple[Sequence[int], Sequence[str]]] = {
    "one sends": ((1,), ()),
    "three send": (PLACES, ()),
    "200/s": ((1,), ("-r", "200")),
    "3 x 1,000/s": (PLACES, ("-r", "1000")),
}


async def measure(rounds: int, options: Sequence[str]) -> dict[str, dict[str, float]]:
    """Run all cases on all rings, in turns; return the medians by case and ring."""
    found: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            settings = await set_up(nursery, stack, Path(name))
            for number in range(rounds):
                for case, (senders, more) in CASES.items():
                    for ring, setting in settings.items():
                        reports = await setting.flood(senders, [*options, *more])
                        for what, value in figures(case, reports).items():
                            found[what][ring].append(value)
                            print(f"round {number + 1}: {what}: {ring}: {value:,.0f}", file=sys.stderr, flush=True)
            for setting in settings.values():
                setting.signal(signal.SIGKILL)
            nursery.cancel_scope.cancel()
    return {what: {ring: statistics.median(v) for ring, v in values.items()} for what, values in found.items()}


def figures(case: str, reports: list[Report]) -> dict[str, float]:
    """What a run says: a rate, or latencies in microseconds."""
    if "latency_us" not in reports[0]:
        return {f"{case}, messages/s": rate(reports)}
    return {
        f"{case}, {which} in us": max(float(report["latency_us"][which]) for report in reports)
        for which in ("p50", "p99")
    }


def main() -> None:
    """Run the command line."""
    rounds, size, options = read_options("daemon", __doc__.splitlines()[0], rounds=5)
    medians = trio.run(measure, rounds, options)
    print(f"{'':28}" + "".join(f"{ring:>28}" for ring in (COROSYNC, OURS, LIBCPG)))
    for what, values in medians.items():
        cells = (f"{value:,.0f} ({value / values[COROSYNC]:.2f})" for value in values.values())
        print(f"{what:28}" + "".join(f"{cell:>28}" for cell in cells))
    append("daemon", {"size": size, **medians})


if __name__ == "__main__":
    main()
