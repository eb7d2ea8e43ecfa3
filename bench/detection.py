"""How long it takes until what has failed is out: from the fault until the last survivor's program has the new list.

Each node is a daemon in namespaces of its own, with a program beside it (`bench.watcher`). No timeout is configured,
and none is in real time. One ring stands at a time: first ours, then Corosync's. After each try the victim comes back.
All of it takes forty minutes, most of which are Corosync's timeouts.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from bench.contender import GRACE, LEASE
from bench.notes import Bench
from bench.rings import COROSYNC, CPGD, places_of
from tests.interop.network import unavailable
from tests.interop.ring import GLANCE, MixedRing

COUNTS = (3, 8, 16)
TRIES = 4
"""Of ours in a round. Corosync has one: its timers say how long it takes."""
LOAD = 480
"""Messages a second, of all programs together."""
PATIENCE = 90
"""Seconds for a ring to change, and to be whole again."""
CALM = (1.0, 2.0)
"""Between so many seconds lies a try behind what changed last, so that it meets any state of an idle ring."""
MEDIAN, MAXIMUM = "s, median", "s, maximum"
USUAL = "all members are daemons"
"""Why a ring has the shortest timeouts (`totem.patience`)."""
SETTLING = 300
"""Seconds to come to these."""
KILLED, KILLED_LOADED, SILENT = "SIGKILL, idle", "SIGKILL, loaded", "link cut, silently"
FOLLOWERS = {"lock": "machine dead → next holder", "lead": "machine dead → next leader"}
"""What becomes of a lock and of an election, by what `bench.contender` wants."""
SERVED = 3
"""Lock servers."""

METHOD = f"""\
From a fault until the last survivor's program has the list without the victim. A daemon is killed (SIGKILL; loaded: all
programs together send {LOAD} messages of 200 bytes a second), or the link of a machine is cut at the switch, where
nobody is told. No timeout is configured; where ours are longer for a while because a busy machine did not run a node,
that is waited for. The victims are chosen at random, and come back before the next try. The next holder of a lock
(lease {LEASE:.0f} s, grace {GRACE:.0f} s) and the next leader of an election follow one whose machine is cut off;
{SERVED} `cluckd` are the lock servers, each beside its daemon, on Corosync's ring too. Corosync has one try for {TRIES}
of ours."""


class Nodes(ABC):
    """Daemons of one make, with a program at each."""

    name: str

    def __init__(self, places: MixedRing, nursery: trio.Nursery) -> None:
        self.places = places
        self.network = places.network
        self._nursery = nursery
        self._watchers: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.places.config)

    @abstractmethod
    async def start_daemons(self, numbers: Iterable[int]) -> None:
        """Start daemons; return when they answer."""

    @abstractmethod
    def kill_daemon(self, k: int) -> None:
        """End one with SIGKILL."""

    @abstractmethod
    async def settle(self) -> None:
        """Wait until the ring has its usual timeouts, after processes that start have kept nodes from running."""

    @abstractmethod
    def watcher(self, k: int) -> Sequence[object]:
        """The command line of the program at K."""

    async def start(self, *numbers: int) -> None:
        """Start daemons and programs."""
        await self.start_daemons(numbers)
        for k in numbers:
            self._watchers[k] = await self.places.start_program(self._nursery, k, *self.watcher(k))

    async def whole(self) -> None:
        """Wait until all programs have all, and for a moment more."""
        await self._all_have(tuple(self.places.config), dict.fromkeys(self._watchers, 0))
        await trio.sleep(random.uniform(*CALM))

    async def _all_have(self, nodes: tuple[int, ...], marks: dict[int, int]) -> None:
        wanted = list(nodes)
        for k, mark in marks.items():

            def has_it(events: list[Any], mark: int = mark) -> bool:
                return len(events) > mark and events[-1]["nodes"] == wanted

            await self._watchers[k].until(has_it, PATIENCE)

    async def send(self, rate: float) -> None:
        """Have all programs together send so much."""
        for watcher in self._watchers.values():
            await watcher.say(f"{rate / len(self)}")

    async def fail(self, victim: int, fault: Callable[[int], None]) -> tuple[float, str]:
        """Do something to a node; return how long it took until it was out, and what else happened."""
        survivors = tuple(k for k in self.places.config if k != victim)
        marks = {k: len(self._watchers[k].events) for k in survivors}
        start = time.monotonic()
        fault(victim)
        await self._all_have(survivors, marks)
        told = {k: self._watchers[k].events[mark:] for k, mark in marks.items()}
        lists = [event["nodes"] for events in told.values() for event in events]
        flaw = "" if all(nodes == list(survivors) for nodes in lists) else "others were out, too"
        return max(events[-1]["at"] for events in told.values()) - start, flaw

    def kill(self, victim: int) -> None:
        """End a daemon with SIGKILL; its program ends with it."""
        self.kill_daemon(victim)
        del self._watchers[victim]

    async def come_back(self, victim: int) -> None:
        """Start what was killed, or plug in what was cut off; wait until all are together."""
        if self.is_running(victim):
            self.network.plug(victim)
        else:
            await self.start(victim)
        await self.whole()

    @abstractmethod
    def lock_server(self, k: int) -> Sequence[object]:
        """The options of a lock server on the daemon at K."""

    @abstractmethod
    def is_running(self, k: int) -> bool:
        """Whether there is a daemon at K."""


class Ours(Nodes):
    """`cpgd` at each place."""

    name = CPGD

    def __init__(self, places: MixedRing, nursery: trio.Nursery) -> None:
        super().__init__(places, nursery)
        self._daemons: dict[int, Any] = {}

    async def start_daemons(self, numbers: Iterable[int]) -> None:
        async def start(k: int) -> None:
            self._daemons[k] = await self.places.start_daemon(self._nursery, k)

        async with trio.open_nursery() as starting:
            for k in numbers:
                starting.start_soon(start, k)

    def kill_daemon(self, k: int) -> None:
        self._daemons.pop(k).signal(signal.SIGKILL)

    def is_running(self, k: int) -> bool:
        return k in self._daemons

    def watcher(self, k: int) -> Sequence[object]:
        return ("bench.watcher", "--socket", self.places.socket(k))

    async def settle(self) -> None:
        first = next(iter(self.places.config))
        command = ("-m", "cpg", "status", "--json", "--socket", self.places.socket(first))
        shown = USUAL
        with trio.move_on_after(SETTLING):
            while True:
                done = await trio.run_process(
                    self.places.place(first).command(sys.executable, *command), capture_stdout=True
                )
                why = json.loads(done.stdout)["timeouts"]["because"]
                if why == USUAL:
                    return
                if why != shown:
                    print(f"    waits until the timeouts are the usual ones: {why}", file=sys.stderr, flush=True)
                    shown = why
                await trio.sleep(10)

    def lock_server(self, k: int) -> Sequence[object]:
        return ("--backend", "cpgd", "--cpg-socket", self.places.socket(k))


class Real(Nodes):
    """Corosync at each place, with programs that use libcpg."""

    name = COROSYNC

    async def start_daemons(self, numbers: Iterable[int]) -> None:
        await self.places.start_corosync(*numbers)

    def kill_daemon(self, k: int) -> None:
        self.places.kill_corosync(k)

    def is_running(self, k: int) -> bool:
        return k in self.places.corosyncs

    def watcher(self, k: int) -> Sequence[object]:
        return ("bench.watcher", "--corosync")

    async def settle(self) -> None:
        """It always has them."""

    def lock_server(self, k: int) -> Sequence[object]:
        return ("--backend", "corosync")


class Contenders:
    """Lock servers beside a ring's daemons, and at each a program that wants a lock, or to lead."""

    def __init__(self, nodes: Nodes, nursery: trio.Nursery, what: str) -> None:
        self._nodes = nodes
        self._nursery = nursery
        self._what = what
        self._programs: dict[int, Any] = {}

    async def start(self) -> None:
        """Start all; return when one has what all want."""
        places = self._nodes.places
        servers = ("--servers", ",".join(map(str, places.config)), "--force-birth")
        for k in places.config:
            folder = places.folder / f"{self._what}{k}"
            folder.mkdir()
            options = (*self._nodes.lock_server(k), *servers, "--socket", folder / "socket", "--state-dir", folder)
            log = folder / "log"
            await places.start_program(self._nursery, k, "cluck.daemon", *options, "--group", self._what, log=log)
            with trio.fail_after(PATIENCE):
                while not (folder / "socket").exists():
                    await trio.sleep(GLANCE)
            contender = ("bench.contender", folder / "socket", self._what)
            self._programs[k] = await places.start_program(self._nursery, k, *contender, log=log)
        await self._ready()
        with trio.fail_after(PATIENCE):
            while not self._told():
                await trio.sleep(GLANCE)

    async def _ready(self) -> None:
        for program in self._programs.values():
            mark = len(program.events)
            await program.say("ready")

            def is_ready(events: list[Any], mark: int = mark) -> bool:
                return any("ready" in event for event in events[mark:])

            await program.until(is_ready, PATIENCE)

    def _told(self) -> list[tuple[float, int]]:
        """When somebody began to have it, and where; the last one last."""
        programs = self._programs.items()
        return sorted((event["at"], k) for k, program in programs for event in program.events if "at" in event)

    async def follow(self) -> float:
        """Cut the machine off whose program has it; return how long it takes until another one has it."""
        _, victim = self._told()[-1]
        start = time.monotonic()
        self._nodes.network.unplug(victim)
        with trio.fail_after(PATIENCE):
            while not (after := [at for at, k in self._told() if at > start and k != victim]):
                await trio.sleep(GLANCE)
        await self._nodes.come_back(victim)
        await self._ready()
        return after[0] - start


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to a node."""

    what: str
    cuts: bool = False
    """Its link; else its daemon is killed."""
    load: float = 0.0


FAULTS = (Fault(KILLED), Fault(KILLED_LOADED, load=LOAD), Fault(SILENT, cuts=True))


@asynccontextmanager
async def formed(kind: type[Nodes], count: int, transport: str) -> AsyncIterator[Nodes]:
    """A whole ring."""
    async with places_of(count, transport=transport, token=None, logs=True) as (places, nursery):
        nodes = kind(places, nursery)
        await nodes.start(*places.config)
        await nodes.whole()
        yield nodes


async def try_once(nodes: Nodes, fault: Fault, dice: random.Random) -> tuple[float, str]:
    """Strike a node down and have it come back."""
    victim = dice.choice(list(nodes.places.config))
    if fault.load:
        await nodes.send(fault.load)
        await trio.sleep(1)
    found = await nodes.fail(victim, nodes.network.unplug if fault.cuts else nodes.kill)
    await nodes.send(0)
    await nodes.come_back(victim)
    return found


async def measure(bench: Bench, transport: str = "udpu", counts: Sequence[int] = COUNTS) -> None:
    """Note all faults, in rings of each size, ours and Corosync's."""
    if why := unavailable():
        bench.missing["detection of faults"] = why
        return
    kinds: list[tuple[type[Nodes], int]] = [(Ours, TRIES)]
    if bench.cpgflood:
        kinds.append((Real, 1))
    for count in counts:
        for kind, tries in kinds:
            dice = random.Random(count)
            async with formed(kind, count, transport) as nodes:
                for fault in FAULTS:
                    await nodes.settle()
                    found = []
                    for _ in bench.turns():
                        for _ in range(tries):
                            found.append(await try_once(nodes, fault, dice))
                            seconds, flaw = found[-1]
                            bench.note(fault.what, nodes.name, MEDIAN, seconds, at=count, flaw=flaw)
                    seconds, flaw = max(found)
                    bench.note(fault.what, nodes.name, MAXIMUM, seconds, at=count, flaw=flaw)
                if count == SERVED:
                    for what in FOLLOWERS:
                        await measure_followers(bench, nodes, what, tries)


async def measure_followers(bench: Bench, nodes: Nodes, what: str, tries: int) -> None:
    """Note who has a lock, or leads, next."""
    slowest = 0.0
    async with trio.open_nursery() as nursery:
        contenders = Contenders(nodes, nursery, what)
        await contenders.start()
        for _ in bench.turns():
            for _ in range(tries):
                seconds = await contenders.follow()
                bench.note(FOLLOWERS[what], nodes.name, MEDIAN, seconds, at=len(nodes))
                slowest = max(slowest, seconds)
        bench.note(FOLLOWERS[what], nodes.name, MAXIMUM, slowest, at=len(nodes))
        nursery.cancel_scope.cancel()
