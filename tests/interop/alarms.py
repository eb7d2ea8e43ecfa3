"""Three nodes of ours under full load, which are disturbed and none of which fails: no ring may change.

    python -m tests.interop.alarms --minutes 60              # as root
    python -m tests.interop.alarms --minutes 60 --embedded   # programs instead of daemons

Daemons: each second one stands still for 0.2 s (SIGSTOP), and each loses 5 % of what comes. Programs: one of them holds
its interpreter for 0.5 s, once in ten seconds. In both cases four processes beside them use all the processor that they
get. A program at each node sends as much as the ring takes, and tells of rings.

Each change is a line, as it comes, with what the node has logged last; the closing line counts changes. It exits with 1
if there were any, or if a node came to its end.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import trio

from tests.interop.network import DIE_WITH_US, run_if_possible
from tests.interop.ring import MixedRing

NODES = (1, 2, 3)
PAUSE, EACH = 0.2, 1.0
"""Seconds: of a pause, and from one to the next."""
LOSS = 5
"""Percent."""
BUSY = 4
HOLD = 0.5
REPORT = 60
"""Seconds between two lines that tell how far it is."""


def busy(stack):
    """Use all the processor, until the block ends."""
    for _ in range(BUSY):
        process = subprocess.Popen([*DIE_WITH_US, "sh", "-c", "while :; do :; done"])
        stack.callback(process.wait)
        stack.callback(process.kill)


class Alarms:
    """A ring, its programs, and the changes that they were told of."""

    def __init__(self, ring, nursery):
        self.ring = ring
        self.programs = {}
        self.nodes = {}
        """The processes that are the nodes."""
        self._nursery = nursery

    async def start(self, *, embedded):
        """Start all nodes and programs; return when they are together."""
        for k in NODES:
            if embedded:
                hold = ("--hold", HOLD) if k == NODES[-1] else ()
                where = ("-c", self.ring.config[k], "--node", k, *hold)
            else:
                self.nodes[k] = await self.ring.start_daemon(self._nursery, k)
                where = ("--socket", self.ring.socket(k))
            command = ("tests.interop.loader", *where)
            program = await self.ring.start_program(self._nursery, k, *command, log=self.ring.log_path(k))
            self.programs[k] = program
            self.nodes.setdefault(k, program)
        for program in self.programs.values():
            await program.until(self._is_whole)

    @staticmethod
    def _is_whole(events):
        rings = [event["members"] for event in events if event["event"] == "ring"]
        return bool(rings) and rings[-1] == list(NODES)

    async def pause(self):
        """Have nodes stand still, one after the other."""
        while True:
            node = self.nodes[random.choice(NODES)]
            node.signal(signal.SIGSTOP)
            await trio.sleep(PAUSE)
            node.signal(signal.SIGCONT)
            await trio.sleep(EACH - PAUSE)

    async def watch(self, seconds):
        """Tell of changes for so long; return how many there were."""
        start = time.monotonic()
        changes = 0
        counts = dict.fromkeys(NODES, 0)
        for program in self.programs.values():
            program.events.clear()
        while (passed := time.monotonic() - start) < seconds:
            await trio.sleep(1)
            for k, program in self.programs.items():
                events, program.events[:] = program.events[:], []
                for event in events:
                    if event["event"] == "ring":
                        changes += 1
                        print(f"{passed:8.1f} s  node {k}: ring of {event['members']}", flush=True)
                        print(*self.ring.log(k)[-3:], sep="\n", flush=True)
                    else:
                        counts[k] = event["count"]
                if program.process.returncode is not None:
                    raise OSError(f"the program at node {k} has ended")
            if passed % REPORT < 1:
                print(f"{passed:8.1f} s  {changes} changes, messages so far {counts}", flush=True)
        assert all(counts.values()), f"no load: {counts}"
        return changes


async def run(options):
    """Run it; return the exit code."""
    with (
        tempfile.TemporaryDirectory() as folder,
        MixedRing(Path(folder) / "ring", len(NODES), token=None, transport=options.transport, logs=True) as ring,
        ExitStack() as stack,
    ):
        async with trio.open_nursery() as nursery:
            alarms = Alarms(ring, nursery)
            await alarms.start(embedded=options.embedded)
            busy(stack)
            if not options.embedded:
                ring.network.one_by_one()
                for k in NODES:
                    ring.network.drop(k, percent=LOSS)
                nursery.start_soon(alarms.pause)
            changes = await alarms.watch(60 * options.minutes)
            nursery.cancel_scope.cancel()
    print(f"{changes} changes in {options.minutes:g} minutes")
    return 1 if changes else 0


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop.alarms", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--embedded", action="store_true", help="programs that are nodes, one holds the interpreter")
    parser.add_argument("--transport", default="udpu", help="udpu, udp or knet (udpu)")
    return run_if_possible(run, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
