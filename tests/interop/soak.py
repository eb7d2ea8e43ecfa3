"""Faults at random on a ring of real Corosync nodes and ours, for as long as asked; order and health are checked.

    python -m tests.interop.soak --minutes 20                  # as root, with Corosync installed
    python -m tests.interop.soak --places 3 --real 1,2 --seed 7
    python -m tests.interop.soak --minutes 10 --calm           # no faults: then no ring may change
    python -m tests.interop.soak --libqb                       # the real nodes are ours too, under real libcpg
    python -m tests.interop.soak --transport knet --links 2 --secrets aes256-sha256

A line tells of each fault, the closing line of all: `N faults, R rings, D differences`. It exits with 1 where members
that stayed together saw different things, a ring did not come together again, or a real node complained.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import trio

from tests.cpg.libqb.ring import RingOfOurs
from tests.interop.cast import Cast
from tests.interop.ring import MixedRing

CHATTER = "chatter 10 41 3000"
LOAD = "chatter 100 41 3000"
"""When nothing else happens."""
SETTINGS = {"token": 1000, "totem": ("token_coefficient: 0",)}
CAUSED_HERE = "FAILED TO RECEIVE|Discarding (JOIN|LEAVE) message during flush"
"""What real nodes may complain of, since it is what is done to them."""

PROGRAM_IS_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class Soak:
    """One ring and what happens to it."""

    def __init__(self, ring, programs, seed):
        self.ring = ring
        self.programs = programs
        self.dice = random.Random(seed)
        self.places = tuple(ring.config)
        self.faults = 0
        self.started = time.monotonic()

    def _tell(self, what):
        self.faults += 1
        print(f"{time.monotonic() - self.started:8.1f} s  {what}", flush=True)

    async def live(self, seconds):
        """Do it."""
        await self.programs.start(*self.places)
        await self.programs.together(*self.places)
        await self.programs.say(CHATTER)
        kinds = [self._kill, self._kill, self._leave, self._stand_still, self._split, self._lose, self._cut]
        if len(self.ring.network.links) > 1:
            kinds += [self._cut_link, self._cut_link]
        while time.monotonic() - self.started < seconds:
            await self.dice.choice(kinds)()
            await self.programs.together(*self.places)
            await self.programs.heard(self.dice.randrange(100))
            self._check_daemons()
        await self.programs.quiet()
        await self.programs.together(*self.places)
        await self.programs.check_health(*self.places, besides=CAUSED_HERE)

    async def load(self, seconds):
        """Send and do no harm; what real nodes count of changes must stay as it is."""
        await self.programs.start(*self.places)
        await self.programs.together(*self.places)
        before = self._counters()
        await self.programs.say(LOAD)
        while time.monotonic() - self.started < seconds:
            await self.programs.heard(2_000)
            print(f"{time.monotonic() - self.started:8.1f} s  {self._counters()}", flush=True)
        await self.programs.quiet()
        await self.programs.together(*self.places)
        after = self._counters()
        assert before == after, f"real nodes counted {before} at first, {after} at the end"
        await self.programs.check_health(*self.places)

    def _counters(self):
        """How often real nodes gathered, installed a ring, lost a token or found no consensus, all together."""
        keys = ("gather_entered", "operational_entered", "operational_token_lost", "consensus_timeouts")
        counted = [self.ring.cmap(k, "stats.srp.", "stats") for k in self.ring.corosyncs]
        return {key: sum(int(one[f"stats.srp.{key}"]) for one in counted) for key in keys}

    def _check_daemons(self):
        """Before the next fault, which would start a dead one again as if it had been its victim."""
        dead = [k for k, daemon in self.ring.corosyncs.items() if daemon.poll() is not None]
        assert not dead, f"the real nodes {dead} have ended, and nobody has killed them"

    def _victim(self):
        victim = self.dice.choice(self.places)
        make = "Corosync" if victim in self.programs.real else "ours"
        return victim, [k for k in self.places if k != victim], f"{victim} ({make})"

    async def _come_back(self, victim):
        await self.programs.start(victim)
        await self.programs.together(*self.places)
        await self.programs.say(CHATTER, victim)

    async def _kill(self):
        victim, rest, name = self._victim()
        self._tell(f"kill {name}")
        await self.programs.kill(victim)
        if self.dice.random() < 0.7:
            await self.programs.together(*rest)
        await self._come_back(victim)

    async def _leave(self):
        victim, rest, name = self._victim()
        self._tell(f"{name} leaves")
        await self.programs.leave(victim)
        if self.dice.random() < 0.7:
            await self.programs.together(*rest)
        await self._come_back(victim)

    async def _stand_still(self):
        victim, _, name = self._victim()
        seconds = self.dice.choice((0.5, 2, 5))
        self._tell(f"{name} stands still for {seconds} s")
        self.programs.pause(victim)
        await trio.sleep(seconds)
        self.programs.resume(victim)

    async def _split(self):
        places = list(self.places)
        self.dice.shuffle(places)
        cut = self.dice.randrange(1, len(places))
        parts = sorted(places[:cut]), sorted(places[cut:])
        seconds = self.dice.choice((0.5, 3, 6))
        self._tell(f"{parts[0]} and {parts[1]} apart for {seconds} s")
        self.ring.network.split(*parts)
        await trio.sleep(seconds)
        self.ring.network.heal()

    async def _lose(self):
        percent, kind = self.dice.choice((5, 20)), self.dice.choice((None, "mcast", "token", "commit", "join"))
        if self.ring.network.sealed:
            kind = None
        self._tell(f"lose {percent} % of the {kind or 'datagram'}s for 4 s")
        for k in self.places:
            self.ring.network.drop(k, percent=percent, kind=kind)
        await trio.sleep(4)
        self.ring.network.heal()

    async def _cut(self):
        source, target = self.dice.sample(self.places, 2)
        self._tell(f"{target} does not hear {source} for 3 s")
        self.ring.network.drop(target, source=source)
        await trio.sleep(3)
        self.ring.network.heal()

    async def _cut_link(self):
        victim, _, name = self._victim()
        link = self.dice.choice(self.ring.network.links)
        ways = self.dice.choice(({}, {"hears": True}, {"is_heard": True}))
        seconds = self.dice.choice((0.5, 3, 6))
        self._tell(f"link {link} of {name} is cut for {seconds} s{', but ' * bool(ways)}{' '.join(ways)}")
        self.ring.network.cut(victim, link, **ways)
        await trio.sleep(seconds)
        self.ring.network.heal()


async def soak(options):
    """Run it; return the exit code."""
    real = tuple(int(k) for k in options.real.split(","))
    kind = RingOfOurs if options.libqb else MixedRing
    settings = {} if options.calm else dict(SETTINGS)
    settings["transport"] = options.transport
    if options.transport == "knet":
        settings |= {"links": options.links, "link_mode": options.link_mode}
        settings["secrets"] = options.secrets.split("-") if options.secrets else None
    with (
        tempfile.TemporaryDirectory() as folder,
        kind(Path(folder) / "ring", options.places, **settings) as ring,
    ):
        if not options.calm:
            ring.network.one_by_one()
        async with trio.open_nursery() as nursery:
            programs = Cast(ring, nursery, real)
            run = Soak(ring, programs, options.seed)
            failure = None
            try:
                await (run.load if options.calm else run.live)(60 * options.minutes)
            except (AssertionError, OSError, trio.TooSlowError, *PROGRAM_IS_GONE) as error:
                failure = error
            differences = programs.differences()
            for difference in differences[:10]:
                print(difference)
            if differences and options.records:
                options.records.write_text(json.dumps(programs.records()))
            rings = len({tuple(e["ring"]) for _, events in programs.records() for e in events if e["event"] == "ring"})
            nursery.cancel_scope.cancel()
    if failure is not None:
        print(f"failed: {type(failure).__name__}: {failure}")
    print(f"{run.faults} faults, {rings} rings, {len(differences)} differences")
    return 1 if differences or failure else 0


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--places", type=int, default=5)
    parser.add_argument("--calm", action="store_true", help="only load, no faults")
    parser.add_argument("--libqb", action="store_true", help="ours for the real nodes, with programs that use libcpg")
    parser.add_argument("--real", default="1,3,5", help="places with real nodes (1,3,5)")
    parser.add_argument("--transport", default="udpu", help="udpu, udp or knet (udpu)")
    parser.add_argument("--secrets", help="CIPHER-HASH, with knet (none)")
    parser.add_argument("--links", type=int, default=1, help="with knet (1)")
    parser.add_argument("--link-mode", default="passive", help="passive, active or rr, with several links (passive)")
    parser.add_argument("--records", type=Path, help="a file for what all programs wrote down, if they differ")
    return trio.run(soak, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
