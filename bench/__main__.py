"""`python -m bench`: measure ours beside whatever rivals are installed, and write RESULTS.md.

    python -m bench                              everything: about 20 minutes on a machine with two cores
    python -m bench --quick                      one short round, into bench/quick: to try it
    python -m bench --only latency,loss          some parts; the others keep the figures of their last run

As root, nodes live in namespaces, and Corosync takes part; otherwise ours use loopback. Nothing is left running.
"""

from __future__ import annotations

import argparse
import datetime
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from bench import history, plots, report
from bench.figures import summarize
from bench.history import HERE, Run
from bench.machine import machine, versions
from bench.notes import Bench
from bench.parts import PARTS, Part
from bench.rings import COROSYNC, INSTALL_COROSYNC, build_cpgflood, missing_corosync

ROUNDS, SECONDS = 5, 1.2
QUICK_ROUNDS, QUICK_SECONDS = 1, 0.5


def arguments() -> argparse.Namespace:
    """Read the command line."""
    listed = "\n".join(f"  {part.name:16}{part.title}{' (only when named)' * part.extra}" for part in PARTS)
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog=f"parts:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", type=_parts, default=[part for part in PARTS if not part.extra], metavar="PART,...")
    parser.add_argument("--rounds", type=int, help=f"of which medians are taken (default {ROUNDS})")
    parser.add_argument("--seconds", type=float, help=f"of each measurement (default {SECONDS})")
    parser.add_argument("--quick", action="store_true", help="one short round, kept apart from true runs")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for RESULTS.md, plots and history.jsonl")
    options = parser.parse_args()
    if (options.rounds or 1) < 1 or (options.seconds or 1) <= 0:
        parser.error("rounds and seconds must be more than 0")
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    options.seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    options.output = options.output or (HERE / "quick" if options.quick else HERE)
    return options


def _parts(text: str) -> list[Part]:
    known = {part.name: part for part in PARTS}
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
    return [known[name] for name in names]


def say(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


def rivals(folder: Path) -> tuple[Path | None, dict[str, str]]:
    """Build `cpgflood` if it can be had; what is not there otherwise."""
    if why := missing_corosync():
        return None, {COROSYNC: why}
    try:
        return build_cpgflood(folder), {}
    except subprocess.CalledProcessError as failure:
        last = failure.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return None, {COROSYNC: f"cpgflood cannot be built: {' '.join(last)}; {INSTALL_COROSYNC}"}


def measure(part: Part, options: argparse.Namespace, cpgflood: Path | None, missing: dict[str, str]) -> Run:
    """Run a part, to its end or until it fails."""
    bench = Bench(options.rounds, options.seconds, cpgflood, missing=dict(missing))
    at, load, start = datetime.datetime.now(datetime.UTC), os.getloadavg()[0], time.monotonic()
    failure = ""
    try:
        part.measure(bench)
    except Exception as error:
        traceback.print_exc()
        failure = describe(error)
    return Run(
        part=part.name,
        at=at.isoformat(timespec="seconds"),
        commit=history.commit(),
        machine=machine(),
        nice=os.getpriority(os.PRIO_PROCESS, 0),
        load=load,
        versions=versions(),
        rounds=bench.rounds,
        seconds=bench.seconds,
        took=round(time.monotonic() - start, 1),
        missing=bench.missing,
        failure=failure,
        figures=tuple(summarize(bench.samples)),
    )


def describe(error: BaseException) -> str:
    """Name an error, or the first one of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def write(folder: Path) -> dict[str, tuple[Run, Run | None]]:
    """Write RESULTS.md and the plots from the history; return what they show."""
    runs = history.last_two(history.read(folder / "history.jsonl"))
    shown = [part for part in PARTS if part.axis and part.name in runs and not plots.missing()]
    drawn = [name for part in shown for name in plots.draw(folder / "plots", part, runs[part.name][0])]
    (folder / "RESULTS.md").write_text(report.render(runs, drawn), encoding="utf-8")
    return runs


def end_in_order() -> None:
    """Have SIGTERM put everything away as SIGINT does, also where a shell has that ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def main() -> int:
    """Run the command line."""
    options = arguments()
    end_in_order()
    done: list[Part] = []
    failed: dict[str, str] = {}
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        cpgflood, missing = rivals(Path(folder))
        if why := plots.missing():
            missing["plots"] = why
        for place, part in enumerate(options.only, 1):
            minutes = (time.monotonic() - start) / 60
            say(f"[{place}/{len(options.only)}, {minutes:.1f} min] {part.title}")
            run = measure(part, options, cpgflood, missing)
            missing |= run.missing
            if run.failure:
                failed[part.name] = run.failure
            if not run.figures:
                continue
            history.append(options.output / "history.jsonl", run)
            runs = write(options.output)
            done.append(part)
    for part in done:
        print(report.section(part, *runs[part.name]))
    for name, why in missing.items():
        print(f"{name} is missing: {why}")
    for name, why in failed.items():
        print(f"{name} ended early: {why}")
    if lost := report.losses(runs[part.name] for part in done):
        print("Worse than the last run; rivals tell how much of it is the machine's:", *lost, sep="\n    ")
    print(f"{(time.monotonic() - start) / 60:.1f} minutes; {options.output / 'RESULTS.md'}")
    return 1 if failed else 0


if __name__ == "__main__":
    code: int | str = "stopped; what was complete is kept"
    try:
        code = main()
    except* KeyboardInterrupt:
        pass
    sys.exit(code)
