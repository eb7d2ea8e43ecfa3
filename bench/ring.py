"""Nodes as processes on this machine, over UDP on loopback: throughput and latency of a whole ring.

    python -m bench.ring [--nodes 3] [--netmtu 1500] [--seconds 3] [--sizes 64,...] [--windows 50/17,...] [--safe]

Each row is one run of `cpg flood` in as many processes as there are nodes, at one size, with one sender or with all, at
Corosync's windows (`window_size` 50, `max_messages` 17) and at wide ones. A rate counts only if the processes' digests
agree and no membership changed, and is that of the slowest node. Latencies are from the send to the delivery, at the
node where they are largest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.history import append
from cpg.demo import NODE, free_ports
from totem.corosync_conf import load
from totem.udp import UdpEndpoint

CONFIG = """\
totem {{
    version: 2
    cluster_name: bench
    transport: udpu
    netmtu: {netmtu}
    window_size: {window_size}
    max_messages: {max_messages}
}}
system {{
    state_dir: {folder}
}}
nodelist {{
{nodes}}}
"""
SIZES = (64, 1000, 8000, 65536)
WINDOWS = "50/17,1000/400"
PACES = ((1, 200.0), (0, 1000.0))
"""Senders (0: all) and messages a second of each, for latencies."""


class Bench:
    """Runs of one ring."""

    def __init__(self, nodes: int, netmtu: int, seconds: float, *, safe: bool, folder: Path) -> None:
        self.nodes = nodes
        self._options = ["-g", "bench", "-n", str(nodes), "-t", str(seconds), *(["--safe"] if safe else [])]
        self._config = folder / "ring.conf"
        self._settings = {"netmtu": netmtu, "folder": folder, "nodes": self._listed(nodes)}

    @staticmethod
    def _listed(nodes: int) -> str:
        return "".join(NODE.format(node=node, port=port) for node, port in enumerate(free_ports(nodes), 1))

    def configure(self, windows: str) -> None:
        """Write the ring's file, with these windows from here on."""
        window_size, max_messages = windows.split("/")
        self._config.write_text(CONFIG.format(window_size=window_size, max_messages=max_messages, **self._settings))

    def has_trains(self) -> bool:
        """Whether the kernel takes the frames of a visit in one call."""
        endpoint = UdpEndpoint(load(self._config).config, 1)
        endpoint.close()
        return endpoint.trains_out and endpoint.trains_in

    def run(self, senders: int, size: int, rate: float = 0.0) -> list[dict[str, object]]:
        """Flood once; return the reports of all nodes."""
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "cpg", "flood", *self._options, "-s", str(size)]
                + (["-r", str(rate)] if rate else [])
                + (["-q"] if node > senders else [])
                + ["-c", str(self._config), "--node", str(node)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for node in range(1, self.nodes + 1)
        ]
        reports = [json.loads(process.communicate()[0]) for process in processes]
        agree = len({report["order"] for report in reports}) == 1 and not any(r["confchgs"] for r in reports)
        if not agree:
            print("   the next row does not count: digests differ or membership changed")
        return reports


def throughput(bench: Bench, sizes: Sequence[int], windows: Sequence[str], figures: dict[str, float | str]) -> None:
    """Print the table of throughput."""
    print(f"\n{'windows':>10}{'senders':>8}{'bytes':>8}{'msgs/s':>12}{'MB/s':>8}  level")
    for window in windows:
        bench.configure(window)
        for senders in (1, bench.nodes):
            for size in sizes:
                slowest = min(bench.run(senders, size), key=lambda report: report["msgs_per_s"])
                rate = int(str(slowest["msgs_per_s"]))
                row = f"{window:>10}{senders:8}{size:8}{rate:12,}{rate * size / 1e6:8.1f}  {slowest['level']}"
                print(row, flush=True)
                figures[f"{window} {senders}x{size}_msgs_per_s"] = rate


def latency(bench: Bench, figures: dict[str, float | str]) -> None:
    """Print the table of latencies, of the node where they are largest."""
    print(f"\n{'senders':>8}{'each':>8}{'p50 us':>8}{'p99 us':>8}{'max us':>8}")
    for some, rate in PACES:
        senders = some or bench.nodes
        reports = bench.run(senders, 64, rate)
        worst = {name: max(report["latency_us"][name] for report in reports) for name in ("p50", "p99", "max")}
        print(f"{senders:8}{rate:7.0f}/s" + "".join(f"{micros:8}" for micros in worst.values()), flush=True)
        figures[f"{senders}x{rate:.0f}_p50_us"] = worst["p50"]


def main() -> None:
    """Print the tables, and keep the main figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--netmtu", type=int, default=1500)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row")
    parser.add_argument("--sizes", type=lambda text: [int(size) for size in text.split(",")], default=SIZES)
    parser.add_argument(
        "--windows", type=lambda text: text.split(","), default=WINDOWS, help="window_size/max_messages"
    )
    parser.add_argument("--safe", action="store_true", help="send with the guarantee SAFE")
    options = parser.parse_args()
    figures: dict[str, float | str] = {"nodes": options.nodes, "netmtu": options.netmtu}
    print(f"{options.nodes} processes, UDP over loopback, netmtu {options.netmtu}")
    with tempfile.TemporaryDirectory(prefix="cpg-bench-") as folder:
        bench = Bench(options.nodes, options.netmtu, options.seconds, safe=options.safe, folder=Path(folder))
        bench.configure(options.windows[0])
        print("frames of a visit " + ("cross the kernel as trains" if bench.has_trains() else "go one by one"))
        latency(bench, figures)
        throughput(bench, options.sizes, options.windows, figures)
    append("ring", figures)


if __name__ == "__main__":
    main()
