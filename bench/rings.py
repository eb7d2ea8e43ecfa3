"""Rings on this machine, of Corosync's nodes and of ours, and the programs that flood them.

Each node has a place of its own, in namespaces with a switch between them (`tests.interop.network`), where that can be
had; ours do with addresses of loopback otherwise. On a real node runs `cpgflood` (C, libcpg), on ours what `cpg flood`
does (`bench.node`). None is in real time (`sched_rr: no`), Corosync's nodes nor ours. A run counts only if all
processes have seen one order, every sender to its end, and no change of membership meanwhile.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import trio

from cpg.cli.flood import Plan
from tests.cpg.processes import Program
from tests.interop.network import Network, missing, unavailable
from tests.interop.ring import MixedRing

SOURCE = Path(__file__).parent.parent / "tests" / "interop" / "cpgflood.c"
COROSYNC = "Corosync"
ONE, ALL, ANYTHING = "one sender", "three senders", "all that comes"
"""What several tables and the goals name in the same way."""
INSTALL_COROSYNC = "as root: apt-get install corosync libcpg-dev gcc nftables iproute2 util-linux"
PATIENCE = 100
"""Seconds for an answer: more than the programs of a flood have."""
OPENING = 120
"""Seconds for programs to start, and for a ring to form."""

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """One way in which our rings are configured."""

    name: str
    totem: Sequence[str] = ()
    """Lines of that section."""
    transport: str = "udpu"


OURS = Setting("ours")
"""As users get it."""
PLAIN = Setting("ours, plain", ("window_size: 50", "max_messages: 17", "accelerated_window: 0", "compact_headers: no"))
"""As Corosync's nodes are: all that goes beyond them is switched off."""
SETTINGS = (OURS, PLAIN)
"""What is shown side by side. Another one needs no more than a line here."""


@dataclass(frozen=True, slots=True)
class Flood:
    """What a run gave."""

    reports: Sequence[Report]
    failures: Sequence[str]
    cpu: float
    """Seconds of processor time of all nodes."""

    @property
    def flaw(self) -> str:
        """Why it does not count; empty if it does."""
        if self.failures:
            return f"failed ({self.failures[0]})"
        if any(report["confchgs"] for report in self.reports):
            return "membership changed"
        if any(report["finished"] < len(self.reports) for report in self.reports):
            return "ended before it was complete"
        return "orders differ" if len({report["order"] for report in self.reports}) > 1 else ""

    @property
    def rate(self) -> float:
        """Messages a second, at the slowest."""
        return min((float(report["msgs_per_s"]) for report in self.reports), default=0.0)

    def latency(self, which: str) -> float:
        """Microseconds from send to delivery, where they are most."""
        return max((float(report["latency_us"][which]) for report in self.reports if "latency_us" in report), default=0)

    @property
    def cost(self) -> float:
        """Microseconds of processor time for one message at one node."""
        deliveries = sum(int(report["delivered"]) for report in self.reports)
        return self.cpu / deliveries * 1e6 if deliveries else 0.0


class Flooder(Protocol):
    """A program at a place."""

    async def flood(self, group: str, plan: Plan) -> Report:
        """Run its part of a flood."""


class Started:
    """A program that is started for each flood: `cpgflood`."""

    def __init__(self, command: Sequence[object]) -> None:
        self._command = command

    async def flood(self, group: str, plan: Plan) -> Report:
        options = ["-g", group, "-n", plan.members, "-t", plan.seconds, "-s", plan.size]
        options += ["-r", plan.rate] * bool(plan.rate) + ["-q"] * plan.quiet
        command = [str(part) for part in (*self._command, *options)]
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
        return dict(json.loads(done.stdout))


class Driven:
    """A program that takes orders: `bench.node`, or another one that answers in the same way."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._owes = ""
        """An order that was not answered in time: what comes later must not be taken for the answer to another one."""

    async def flood(self, group: str, plan: Plan) -> Report:
        order = asdict(plan)
        del order["guarantee"]  # always the default
        return await self.ask({"group": group, **order})

    async def ask(self, order: Mapping[str, object], answers: int = 1) -> Report:
        """Give an order, and wait for so many answers; return them in one."""
        events, ended = self.program.events, self.program.process.returncode
        if self._owes or ended is not None:
            raise OSError(f"did not answer {self._owes}" if ended is None else f"ended with {ended}")
        events.clear()
        self._owes = json.dumps(order)
        await self.program.say(self._owes)
        await self.program.until(lambda events: len(events) >= answers, PATIENCE)
        self._owes = ""
        return {key: value for answer in events for key, value in answer.items()}


class Ring:
    """A ring, and a program at each of its places."""

    _names = itertools.count(1)

    def __init__(self, name: str, network: Any, flooders: Mapping[int, Flooder], nodes: Sequence[int]) -> None:
        """`nodes`: the process ids of its nodes."""
        self.name = name
        self.network = network
        self._flooders = flooders
        self._nodes = nodes

    def __len__(self) -> int:
        return len(self._flooders)

    def cpu(self) -> float:
        """Seconds of processor time that all nodes have used."""
        return sum(_cpu(pid) for pid in self._nodes)

    async def flood(self, senders: Sequence[int], plan: Plan) -> Flood:
        """Run all programs once."""
        group = f"flood{next(self._names)}"
        reports: list[Report] = []
        failures: list[str] = []
        before = self.cpu()

        async def run(k: int, flooder: Flooder) -> None:
            part = replace(plan, members=len(self), quiet=k not in senders)
            try:
                with trio.fail_after(PATIENCE + 1):
                    reports.append(await flooder.flood(group, part))
            except trio.BrokenResourceError:
                failures.append(f"node {k} has ended")
            except (AssertionError, trio.TooSlowError):
                failures.append(f"node {k} did not answer within {PATIENCE} s")
            except (OSError, ValueError, subprocess.CalledProcessError) as failure:
                failures.append(f"node {k}: {str(failure)[:200]}")

        async with trio.open_nursery() as nursery:
            for k, flooder in self._flooders.items():
                nursery.start_soon(run, k, flooder)
        return Flood(reports, failures, self.cpu() - before)

    async def settle(self) -> None:
        """Wait until all nodes are in one ring, which others that were busy may have cost them."""

    def lose(self, percent: int, kind: str | None = None) -> None:
        """Have every place lose a part of the datagrams of a kind (or of all) from now on, and each frame by itself."""
        self.network.heal()
        self.network.one_by_one()
        if percent:
            for k in self.network.places:
                self.network.drop(k, kind=kind, percent=percent)


def _cpu(pid: int) -> float:
    """Seconds of processor time of a process; none if it is gone, which its flood tells."""
    with suppress(OSError):
        return time.clock_gettime(~pid << 3 | 2)  # what clock_getcpuclockid(3) makes of it
    return 0.0


# ---- what can be had here


def missing_corosync() -> str:
    """What is needed for rings of Corosync and not there, and how it comes; empty if nothing is missing."""
    absent = [program for program in ("corosync", "cc") if shutil.which(program) is None] + missing()
    return f"not installed: {', '.join(absent)}; {INSTALL_COROSYNC}" if absent else unavailable()


def build_cpgflood(folder: Path) -> Path:
    """Compile `cpgflood` into a folder; raises CalledProcessError where libcpg's headers are missing."""
    program = folder / "cpgflood"
    subprocess.run(["cc", "-O2", "-o", program, SOURCE, "-lcpg", "-lpthread"], check=True, capture_output=True)
    return program


class _Here:
    """A place without namespaces."""

    def command(self, *command: object) -> list[str]:
        return [*map(str, command)]


class Loopback:
    """In the place of a network: addresses of loopback, others for each ring of each process."""

    _blocks = itertools.count(1)

    def __init__(self, count: int, *, ipv6: bool = False, mtu: int = 1500) -> None:
        self.address = f"127.{64 + os.getpid() % 128}.{next(self._blocks)}.{{}}".format
        self.places = {k: _Here() for k in range(1, count + 1)}

    def close(self) -> None:
        """Nothing is left behind."""


@asynccontextmanager
async def places_of(count: int, **settings: Any) -> AsyncIterator[tuple[MixedRing, trio.Nursery]]:
    """Places with a nursery for what runs there, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        network = Loopback if unavailable() else Network
        with MixedRing(Path(folder), count, debug="off", network=network, **settings) as places:
            async with trio.open_nursery() as nursery:
                yield places, nursery
                nursery.cancel_scope.cancel()


# ---- rings


def _cpgflood(places: MixedRing, program: Path, numbers: Iterable[int]) -> dict[int, Flooder]:
    return {k: Started(places.place(k).command(program)) for k in numbers}


class Real(Ring):
    """Programs on Corosync's nodes."""

    def __init__(self, places: MixedRing, cpgflood: Path) -> None:
        nodes = [process.pid for process in places.corosyncs.values()]
        super().__init__(COROSYNC, places.network, _cpgflood(places, cpgflood, places.config), nodes)
        self._places = places

    async def settle(self) -> None:
        with trio.fail_after(OPENING):
            await self._places.wait_ring(*self._places.config)


@asynccontextmanager
async def corosync(cpgflood: Path, count: int = 3, **settings: Any) -> AsyncIterator[Ring]:
    """Real nodes; `settings` are those of `MixedRing`."""
    async with places_of(count, **settings) as (places, _):
        await places.start_corosync(*places.config)
        ring = Real(places, cpgflood)
        await ring.settle()
        yield ring


class Embedded(Ring):
    """Programs that are nodes themselves."""

    def __init__(self, name: str, network: Any, drivers: Mapping[int, Driven]) -> None:
        super().__init__(name, network, drivers, [driver.program.process.pid for driver in drivers.values()])
        self._drivers = drivers

    async def open(self) -> float:
        """Open all nodes; return the seconds from the last one's sockets to the complete ring."""
        answers = await self._all({"open": len(self)}, 2)
        return float(max(answer["formed"] for answer in answers) - max(answer["opening"] for answer in answers))

    async def close(self) -> None:
        """Have all leave."""
        await self._all({"close": True}, 1)

    async def _all(self, order: Mapping[str, object], answers: int) -> list[Report]:
        found = []

        async def ask(driver: Driven) -> None:
            found.append(await driver.ask(order, answers))

        with trio.fail_after(OPENING):
            async with trio.open_nursery() as nursery:
                for driver in self._drivers.values():
                    nursery.start_soon(ask, driver)
        return found


@asynccontextmanager
async def embedded(setting: Setting = OURS, count: int = 3, *, opened: bool = True) -> AsyncIterator[Embedded]:
    """Ours, each in the program that floods. `opened`: whether the ring is formed already."""
    async with places_of(count, totem=setting.totem, transport=setting.transport) as (places, nursery):
        drivers = {
            k: Driven(await places.start_program(nursery, k, "bench.node", "-c", config, "--node", k))
            for k, config in places.config.items()
        }
        ring = Embedded(setting.name, places.network, drivers)
        if opened:
            await ring.open()
        yield ring


CPGD, LIBCPG = "cpgd", "cpgd, through libcpg"


@asynccontextmanager
async def served(cpgflood: Path | None) -> AsyncIterator[list[Ring]]:
    """Our daemons, with a client of each: of their own socket, and the unchanged `cpgflood`, if it is there."""
    async with places_of(3, served=True, daemon=("libqb: yes",) if cpgflood else ()) as (places, nursery):
        daemons = [await places.start_daemon(nursery, k) for k in places.config]
        drivers = {
            k: Driven(await places.start_program(nursery, k, "bench.node", "--socket", places.socket(k)))
            for k in places.config
        }
        for driver in drivers.values():
            await driver.ask({"open": len(drivers)}, 2)
        nodes = [daemon.process.pid for daemon in daemons]
        rings = [Ring(CPGD, places.network, drivers, nodes)]
        if cpgflood:
            rings.append(Ring(LIBCPG, places.network, _cpgflood(places, cpgflood, places.config), nodes))
        yield rings


MIXED = "2 Corosync, 1 ours"


@asynccontextmanager
async def mixed(cpgflood: Path) -> AsyncIterator[Ring]:
    """Real nodes at 1 and 2, and ours at 3."""
    async with places_of(3) as (places, nursery):
        await places.start_corosync(1, 2)
        ours = Driven(await places.start_program(nursery, 3, "bench.node", "-c", places.config[3], "--node", 3))
        await ours.ask({"open": 3}, 2)
        flooders = {**_cpgflood(places, cpgflood, (1, 2)), 3: ours}
        nodes = [process.pid for process in places.corosyncs.values()]
        yield Ring(MIXED, places.network, flooders, [*nodes, ours.program.process.pid])
