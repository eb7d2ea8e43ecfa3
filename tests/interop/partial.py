"""Five daemons that do not all hear each other: how often the ring changes at each of them.

    python -m tests.interop.partial                        # as root: all cases, about eight minutes
    python -m tests.interop.partial --seconds 20 one-way deaf

one-way, both-ways   nodes 1 and 2, neighbours, are cut; later healed
apart                nodes 1 and 4, no neighbours, are cut both ways; later healed
flaps                the link between nodes 1 and 2 goes and comes each second
deaf                 node 3 hears nobody; later it does

A line tells of each case: how many changes each node has seen, of how many that it may. It exits with 1 where there
were more, or where those that should be together were not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests.interop.cast import Cast, last, ring_of
from tests.interop.network import run_if_possible
from tests.interop.ring import MixedRing

NODES = (1, 2, 3, 4, 5)
SECONDS = 60
"""For which a fault lasts, and in which nothing more may change behind the one change."""
FLAPS_MOST = 8
CHATTER = "chatter 20 41 3000"


class Case:
    """A ring of five, and what it was told since it was whole."""

    def __init__(self, ring, programs):
        self.network = ring.network
        self.programs = programs
        self._marks = {}
        self.mark()

    def mark(self):
        """Count from now on."""
        self._marks = {k: len(program.events) for k, program in self.programs.programs.items()}

    def rings(self, k):
        """The members of each ring that the program on node K was told of."""
        events = self.programs.programs[k].events[self._marks[k] :]
        return [tuple(event["members"]) for event in events if event["event"] == "ring"]

    def changes(self):
        """How many there were at each node."""
        return [len(self.rings(k)) for k in NODES]

    def now(self, k):
        """The members of the ring that the program on node K was told of last."""
        return tuple(last(self.programs.programs[k].events, "ring")["members"])

    async def heal(self):
        """Mend all; return the changes until all are together, and for a while behind that."""
        self.mark()
        self.network.heal()
        for k in NODES:
            await self.programs.programs[k].until(ring_of(*NODES), 2 * SECONDS)
        await trio.sleep(SECONDS / 10)
        return self.changes()


async def cut(case, seconds, *ways):
    """Cut ways between nodes; yields the faults that were found."""
    for source, target in ways:
        case.network.drop(target, source=source)
    await trio.sleep(seconds)
    changes = case.changes()
    print(f"    cut {ways}: changes {changes} of 1, rings now {[case.now(k) for k in NODES]}", flush=True)
    if max(changes) > 1:
        yield f"more than one change: {[case.rings(k) for k in NODES]}"
    large = max((case.now(k) for k in NODES), key=len)
    if len(large) < 4:
        yield f"the largest ring is {large}"
    if any(case.now(k) != large for k in large):
        yield f"the members of {large} have other rings: {[case.now(k) for k in NODES]}"
    healed = await case.heal()
    print(f"    healed: changes {healed} of 1", flush=True)
    if max(healed) > 1:
        yield f"more than one change when healed: {[case.rings(k) for k in NODES]}"


async def flaps(case, seconds):
    """A link that goes and comes each second."""
    for _ in range(round(seconds / 2)):
        case.network.drop(1, source=2)
        case.network.drop(2, source=1)
        await trio.sleep(1)
        case.network.undo(1)
        case.network.undo(2)
        await trio.sleep(1)
    changes = case.changes()
    print(f"    changes {changes} of {FLAPS_MOST}", flush=True)
    if max(changes) > FLAPS_MOST:
        yield f"more than {FLAPS_MOST} changes: {[case.rings(k) for k in NODES]}"
    await case.heal()


async def deaf(case, seconds):
    """A node that hears nobody."""
    case.network.drop(3)
    await trio.sleep(seconds)
    changes = case.changes()
    others = tuple(k for k in NODES if k != 3)
    print(f"    changes {changes} of 1, rings now {[case.now(k) for k in NODES]}", flush=True)
    if any(case.rings(k) != [others] for k in others):
        yield f"the others did not change once, to {others}: {[case.rings(k) for k in NODES]}"
    healed = await case.heal()
    print(f"    healed: changes {healed} of 1", flush=True)
    if max(healed) > 1:
        yield f"more than one change when healed: {[case.rings(k) for k in NODES]}"


CASES = {
    "one-way": lambda case, seconds: cut(case, seconds, (1, 2)),
    "both-ways": lambda case, seconds: cut(case, seconds, (1, 2), (2, 1)),
    "apart": lambda case, seconds: cut(case, seconds, (1, 4), (4, 1)),
    "flaps": flaps,
    "deaf": deaf,
}


@asynccontextmanager
async def whole(ring):
    """Five daemons of a ring that are together, each with a program that sends now and then."""
    async with trio.open_nursery() as nursery:
        programs = Cast(ring, nursery, ())
        await programs.start(*NODES)
        await programs.together(*NODES)
        await programs.say(CHATTER)
        yield Case(ring, programs)
        nursery.cancel_scope.cancel()


async def run(options):
    """Run the cases; return the exit code."""
    found = 0
    for name in options.cases or CASES:
        print(name, flush=True)
        settings = {"token": None, "served": True, "transport": options.transport, "logs": True}
        with (
            tempfile.TemporaryDirectory() as folder,
            MixedRing(Path(folder) / "ring", len(NODES), **settings) as ring,
        ):
            async with whole(ring) as case:
                async for fault in CASES[name](case, options.seconds):
                    found += 1
                    print(f"    FAULT: {fault}", flush=True)
    print(f"{found} faults")
    return 1 if found else 0


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop.partial", description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(CASES)} (all)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for which a fault lasts ({SECONDS})")
    parser.add_argument("--transport", default="udpu", help="udpu, udp or knet (udpu)")
    return run_if_possible(run, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
