"""The parts of the bench: what each measures, and of whom.

A part is given a `Bench` and notes samples; what is made of them is not its business. All rings of a part stand beside
each other and are measured in turns, run by run; those that are not measured are idle meanwhile.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from bench import accelerated, clients, codec, core, detection, locks, replicated, rings
from bench.notes import Bench
from bench.rings import ALL, ANYTHING, ONE, OURS, SETTINGS, Flood, Ring, Setting
from cpg.cli.flood import Plan
from tests.interop.network import unavailable


@dataclass(frozen=True, slots=True)
class Part:
    """One part."""

    name: str
    title: str
    method: str
    measure: Callable[[Bench], None]
    axis: str = ""
    """What figures stand at; empty: there is no axis, and no plot."""
    extra: bool = False
    """Whether it is measured only when it is named."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of run."""

    what: str
    senders: int
    """So many of the places, the first ones."""
    size: int = 64
    rate: float = 0.0
    """Messages a second of each sender; 0: as many as go."""
    at: float | None = None

    def plan(self, bench: Bench) -> Plan:
        """What the programs do; for twice the time where latencies are few."""
        return Plan(members=0, seconds=bench.seconds * (2 if self.rate else 1), size=self.size, rate=self.rate)


def note_flood(bench: Bench, case: Case, ring: Ring, flood: Flood) -> None:
    """Keep what a run says: a rate, or latencies."""
    if case.rate:
        for which in ("p50", "p99"):
            bench.note(case.what, ring.name, f"µs, {which}", flood.latency(which), at=case.at, flaw=flood.flaw)
    else:
        bench.note(case.what, ring.name, "messages/s", flood.rate, at=case.at, flaw=flood.flaw)
    if case.at == case.size:
        bench.note(case.what, ring.name, "MB/s", flood.rate * case.size / 1e6, at=case.at, flaw=flood.flaw)


async def compare(bench: Bench, cases: Sequence[Case], members: Sequence[Ring]) -> None:
    """All cases on all rings, in turns."""
    for _ in bench.turns():
        for case in cases:
            for ring in members:
                note_flood(bench, case, ring, await ring.flood(range(1, case.senders + 1), case.plan(bench)))


async def three_nodes(bench: Bench, stack: AsyncExitStack, settings: Sequence[Setting] = SETTINGS) -> list[Ring]:
    """Rings of three: Corosync's if it can be had, and ours in these settings."""
    found: list[Ring] = []
    if bench.cpgflood:
        found.append(await stack.enter_async_context(rings.corosync(bench.cpgflood)))
    for setting in settings:
        found.append(await stack.enter_async_context(rings.embedded(setting)))
    return found


SIZES = (64, 1024, 8192, 65536)
LOADS = ((ONE, 1, 200), (ALL, 3, 100), (ALL, 3, 1000), (ALL, 3, 3000))
"""Who sends, and messages a second of each."""
LOSSES = (0, 1, 5)
LOST = {ANYTHING: None, "messages, no tokens": "mcast"}
COUNTS = (2, 4, 8, 16, 32)
FEW = 8
"""Nodes. Where more of them send as fast as they may, it is the machine's scheduler that is measured."""
COST = "µs of CPU for a message at a node"


async def throughput(bench: Bench) -> None:
    cases = [Case(what, senders, size, at=size) for what, senders in ((ONE, 1), (ALL, 3)) for size in SIZES]
    async with AsyncExitStack() as stack:
        await compare(bench, cases, await three_nodes(bench, stack))


async def latency(bench: Bench) -> None:
    cases = [Case(what, senders, rate=rate, at=senders * rate) for what, senders, rate in LOADS]
    async with AsyncExitStack() as stack:
        await compare(bench, cases, await three_nodes(bench, stack))


async def loss(bench: Bench) -> None:
    if why := unavailable():
        bench.missing["loss of datagrams"] = why
        return
    async with AsyncExitStack() as stack:
        members = await three_nodes(bench, stack)
        for _ in bench.turns():
            for percent in LOSSES:
                for what, kind in LOST.items():
                    for ring in members:
                        ring.lose(percent, kind)
                        case = Case(what, 1, at=percent)
                        note_flood(bench, case, ring, await ring.flood([1], case.plan(bench)))
                        ring.lose(0)


async def nodes(bench: Bench) -> None:
    for count in COUNTS:
        async with AsyncExitStack() as stack:
            members: list[Ring] = []
            if bench.cpgflood:
                members.append(await stack.enter_async_context(rings.corosync(bench.cpgflood, count)))
            ours = await stack.enter_async_context(rings.embedded(OURS, count, opened=False))
            members.append(ours)
            for _ in bench.turns():
                bench.note("forming", ours.name, "s", await ours.open(), at=count)
                for what, senders in ((ONE, 1), *([("all send", count)] if count <= FEW else [])):
                    for ring in members:
                        case = Case(what, senders, at=count)
                        await ring.settle()
                        flood = await ring.flood(range(1, senders + 1), case.plan(bench))
                        note_flood(bench, case, ring, flood)
                        bench.note(what, ring.name, COST, flood.cost, at=count, flaw=flood.flaw)
                await ours.close()


async def daemon(bench: Bench) -> None:
    cases = [Case(what, senders) for what, senders in ((ONE, 1), (ALL, 3))]
    cases += [Case("200/s", 1, rate=200), Case("3 × 1,000/s", 3, rate=1000)]
    async with AsyncExitStack() as stack:
        members = await three_nodes(bench, stack, settings=())
        members += await stack.enter_async_context(rings.served(bench.cpgflood))
        await compare(bench, cases, members)


async def idle(bench: Bench) -> None:
    async with AsyncExitStack() as stack:
        members = await three_nodes(bench, stack, settings=(OURS,))
        members += (await stack.enter_async_context(rings.served(None)))[:1]
        await trio.sleep(2)  # what starting and forming has left to do
        for _ in bench.turns():
            before, start = [ring.cpu() for ring in members], trio.current_time()
            await trio.sleep(2 * bench.seconds)
            took = trio.current_time() - start
            for ring, spent in zip(members, before, strict=True):
                bench.note("a node", ring.name, "% of a core", (ring.cpu() - spent) / len(ring) / took * 100)


async def knet(bench: Bench) -> None:
    sizes = (64, 1024, 65536)
    with tempfile.NamedTemporaryFile(prefix="bench-key-") as key:
        key.write(os.urandom(256))
        key.flush()
        sealed = ("crypto_cipher: aes256", "crypto_hash: sha256", f"keyfile: {key.name}")
        for how, totem in (("in clear", ()), ("sealed", sealed)):
            cases = [
                Case(f"{what}, {how}", senders, size, at=size)
                for what, senders in ((ONE, 1), (ALL, 3))
                for size in sizes
            ]
            async with AsyncExitStack() as stack:
                members: list[Ring] = []
                if bench.cpgflood:
                    real = rings.corosync(bench.cpgflood, totem=totem, transport="knet")
                    members.append(await stack.enter_async_context(real))
                members.append(await stack.enter_async_context(rings.embedded(Setting(OURS.name, totem, "knet"))))
                await compare(bench, cases, members)


async def mixed(bench: Bench) -> None:
    if bench.cpgflood is None:
        return
    async with AsyncExitStack() as stack:
        members = await three_nodes(bench, stack, settings=())
        members.append(await stack.enter_async_context(rings.mixed(bench.cpgflood)))
        places = {"a real one sends": (1,), "the third sends": (3,), "all send": (1, 2, 3)}
        for _ in bench.turns():
            for what, senders in places.items():
                for ring in members:
                    case = Case(what, len(senders))
                    note_flood(bench, case, ring, await ring.flood(senders, case.plan(bench)))


async def replicated_logs(bench: Bench) -> None:
    cases = [Case(ONE, 1), Case("200/s", 1, rate=200)]
    async with AsyncExitStack() as stack:
        members: list[Ring] = []
        if why := replicated.missing():
            bench.missing["PySyncObj"] = why
        else:
            members.append(await stack.enter_async_context(replicated.ring()))
        members.append(await stack.enter_async_context(rings.embedded()))
        await compare(bench, cases, members)


def _on_trio(measure: Callable[[Bench], Coroutine[Any, Any, None]]) -> Callable[[Bench], None]:
    return lambda bench: trio.run(measure, bench)


PARTS: Sequence[Part] = (
    Part(
        "throughput",
        "Throughput by size",
        """\
Three nodes, MTU 1,500. Senders multicast as fast as they may; the rate is what the slowest node was delivered.""",
        _on_trio(throughput),
        axis="bytes",
    ),
    Part(
        "latency",
        "Latency by load",
        """\
Three nodes, messages of 64 bytes, AGREED. From the send to the delivery, at the node where it takes longest.""",
        _on_trio(latency),
        axis="messages a second, all together",
    ),
    Part(
        "knet",
        "Over knet",
        """\
Three nodes, MTU 1,500, transport knet with one link, in clear and sealed with aes256 and sha256.""",
        _on_trio(knet),
        axis="bytes",
    ),
    Part(
        "loss",
        "Throughput by loss",
        """\
Three nodes, one sends messages of 64 bytes. Each node loses a part of the datagrams that come, at random (nftables): of
all, or of all but tokens, each of which is waited for until it is sent again. Trains of frames are cut at their senders
(`gso_max_segs 1`), also where nothing is lost, so that single frames are lost and not trains.""",
        _on_trio(loss),
        axis="% of datagrams lost",
    ),
    Part(
        "nodes",
        "Number of nodes",
        """\
All on this machine, messages of 64 bytes. Cost is the processor time of all nodes, divided by the messages and the
nodes; of Corosync that of its daemons alone, of ours that of the whole program. Forming is from the opening of the last
node's sockets until every node has the ring of all.""",
        _on_trio(nodes),
        axis="nodes",
    ),
    Part(
        "daemon",
        "Through the daemon",
        """\
Three daemons with one client each, messages of 64 bytes; `cpgflood` is the same program on Corosync and on ours.""",
        _on_trio(daemon),
    ),
    Part(
        "idle",
        "Idle",
        "Three nodes without clients, default timers: the processor time of a node.",
        _on_trio(idle),
    ),
    Part(
        "log",
        "Replicated logs",
        """\
Three nodes, one sends messages of 64 bytes: at PySyncObj the leader, with up to 2,000 commands on their way, in batches
for the rate, one by one for the latency (that to the leader's own application), all in memory.""",
        _on_trio(replicated_logs),
    ),
    Part("locks", "Locks", locks.METHOD, locks.measure),
    Part(
        "core",
        "The machines alone",
        """\
Three processors wired by lists in one process, without sockets: messages a second that every node was delivered.
`totem` is the ring alone, `cpg` has groups above it.""",
        core.measure,
        axis="bytes",
    ),
    Part("accelerated", "The accelerated ring", accelerated.METHOD, accelerated.measure),
    Part("codec", "Hot functions", "Each by itself: nanoseconds for a message or a call.", codec.measure),
    Part(
        "mixed",
        "Mixed rings",
        "Two Corosync nodes and one of ours beside three Corosync nodes, messages of 64 bytes.",
        _on_trio(mixed),
        extra=True,
    ),
    Part("detection", "Detection of faults", detection.METHOD, _on_trio(detection.measure), axis="nodes", extra=True),
    Part(
        "detection-knet",
        "Detection of faults, over knet",
        "The same, with one link of transport knet in clear.",
        _on_trio(partial(detection.measure, transport="knet")),
        axis="nodes",
        extra=True,
    ),
    Part("clients", "Many clients of a daemon", clients.METHOD, _on_trio(clients.measure), extra=True),
)
