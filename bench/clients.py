"""A thousand clients on one daemon; and what ten that do not read do to another one.

Three daemons on loopback. First: so many clients, each in a group of its own, join, exchange a message and leave; their
time, and the daemon's memory. Then, in turns, the latencies of a program that sends 200 messages a second while another
sends 2 MB a second to its own group: alone there, and with ten that do not read and are put out meanwhile.
"""

from __future__ import annotations

import signal
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

import cpg
from bench.notes import Bench
from bench.rings import OURS
from tests.cpg.processes import Program, write_config

METHOD = """\
A thousand clients, each in a group of its own on one daemon of three: what each costs. Then a program that sends 200
messages a second beside one that floods another group with 2 MB a second: alone there, and with ten that do not read
and are put out meanwhile."""
CLIENTS = 1000
RATE = 200
SLOW = 10
FLOOD = [bytes(1000)] * 20
FLOOD_INTERVAL = 0.01
"""Seconds: so 2 MB a second, which fill a slow client's queue in half a second."""
QUEUE = "cpgd {\n    client_queue: 1000000\n}\n"


@asynccontextmanager
async def daemons(folder: Path) -> AsyncGenerator[tuple[list[Path], list[Any]], None]:
    """Three daemons; their sockets and processes."""
    config = write_config(folder, 3, token=3000)
    with open(config, "a", encoding="ascii") as file:
        file.write(QUEUE)
    paths = [folder / f"s{k}" for k in (1, 2, 3)]
    async with trio.open_nursery() as nursery:
        programs = []
        for k, path in enumerate(paths, 1):
            command = ("cpg.daemon", "-c", config, "--node", k, "--socket", path)
            programs.append(await Program(command).start(nursery))
            while not path.exists():
                await trio.sleep(0.05)
        async with cpg.connect(paths[0], reconnect=False) as ring:
            await ring.wait_members(3)
        yield paths, programs
        nursery.cancel_scope.cancel()


def memory(pid: int) -> int:
    """Bytes of a process's memory."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * 4096


async def many(path: Path, pid: int, count: int) -> dict[str, float]:
    """All join, exchange, leave; seconds and bytes for each client."""
    before = memory(pid)
    joined = exchanged = 0
    all_joined, all_exchanged = trio.Event(), trio.Event()
    limiter = trio.CapacityLimiter(64)  # so many at a time come and go

    async def client(number: int) -> None:
        nonlocal joined, exchanged
        async with cpg.connect(path, reconnect=False) as ring, ring.join(f"group {number}") as group:
            group.on_message(lambda sender, data: None)
            joined += 1
            if joined == count:
                all_joined.set()
            await all_joined.wait()
            await group.send(b"%d" % number)
            await group.flush()
            exchanged += 1
            if exchanged == count:
                all_exchanged.set()
            await all_exchanged.wait()
            await limiter.acquire_on_behalf_of(number)
        limiter.release_on_behalf_of(number)

    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(client, number)
        await all_joined.wait()
        at_join, held = time.perf_counter(), memory(pid)
        await all_exchanged.wait()
        at_exchange = time.perf_counter()
    end = time.perf_counter()
    return {
        "join": (at_join - start) / count * 1e3,
        "exchange a message": (at_exchange - at_join) / count * 1e3,
        "leave": (end - at_exchange) / count * 1e3,
        "memory": (held - before) / count / 1e3,
    }


async def latency(path: Path, seconds: float) -> tuple[float, int]:
    """p99 in seconds from a send to its delivery, and the changes of membership meanwhile."""
    times: list[float] = []
    changes = -1  # the first is the own join
    rings = -1
    async with cpg.connect(path, reconnect=False) as ring, ring.join("quick") as group:
        group.on_message(lambda sender, data: times.append(time.perf_counter() - float(data)))

        @group.on_totem_confchg
        def _(ring_id: cpg.RingId, node_ids: tuple[int, ...]) -> None:
            nonlocal rings
            rings += 1

        @group.on_confchg
        def _(members: object, left: object, joined: object) -> None:
            nonlocal changes
            changes += 1

        end = trio.current_time() + seconds
        while trio.current_time() < end:
            await group.send(b"%f" % time.perf_counter())
            await trio.sleep(1 / RATE)
        await group.flush()
        seen = changes + rings
    return statistics.quantiles(times, n=100)[98], seen


@asynccontextmanager
async def flood(path: Path, readers: int) -> AsyncGenerator[None, None]:
    """A program sends as much in all runs; beside it are so many that do not read, until they are put out."""
    async with trio.open_nursery() as nursery, cpg.connect(path, reconnect=False) as ring, ring.join("flood") as group:
        gone = 0

        @group.on_confchg
        def _(members: object, left: dict[cpg.Member, cpg.Reason], joined: object) -> None:
            nonlocal gone
            gone += len(left)

        group.on_message(lambda sender, data: None)
        stopped = [Program(("tests.interop.member", "flood", "--socket", path)) for _ in range(readers)]
        for program in stopped:
            await program.start(nursery)
        for program in stopped:
            await program.until(lambda events: any(event["event"] == "quorum" for event in events))
            program.signal(signal.SIGSTOP)

        async def send() -> None:
            while True:
                await group.send(FLOOD)
                await trio.sleep(FLOOD_INTERVAL)

        nursery.start_soon(send)
        yield
        while gone < readers:
            await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


async def measure(bench: Bench) -> None:
    """Note what a client costs, and how late messages are beside those that do not read."""
    with tempfile.TemporaryDirectory(prefix="cpgd-") as name:
        async with daemons(Path(name)) as (paths, programs):
            for what, cost in (await many(paths[0], programs[0].process.pid, CLIENTS)).items():
                bench.note(what, OURS.name, "kB a client" if what == "memory" else "ms a client", cost)
            for _ in bench.turns():
                for what, readers in (("alone", 0), (f"beside {SLOW} that do not read", SLOW)):
                    async with flood(paths[0], readers):
                        p99, changes = await latency(paths[0], 2 * bench.seconds)
                    flaw = "membership changed" if changes else ""
                    bench.note(what, OURS.name, "ms, p99", p99 * 1e3, flaw=flaw)
