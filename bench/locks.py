"""Locks: how late and how many, ours beside etcd, Redis and ZooKeeper.

All servers run on loopback, each system's only while it is measured, in turns. Cases:

alone       One client takes and releases a lock that nobody else wants: from call to return, of the acquire alone and
            of both.
N clients   Each takes and releases one of 16 locks of its own after the other: how often in a second, all together.
contended   Clients in processes of their own want one lock without end: from the call of a release to the return of
            the next acquire, where that is another client's.
hand-over   Two processes: one holds a lock, the other waits for it, and for a while nothing happens; from the call of
            the release to the return of the acquire.

`bench.ours` and `bench.rivals` tell how each system's clients are run, and what its servers do for durability; they
keep their data in the folder for temporary files.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain, cycle, pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from bench.notes import Bench
from bench.ours import OURS
from bench.rivals import RIVALS, Client, System

SYSTEMS: Sequence[type[System]] = (*RIVALS, *OURS)
CLIENTS = (16, 64)
RIVALRY = 3
"""Clients that want one lock, each on a server of its own where there are so many."""
LOCKS = 16
"""Of each client."""
START = 0.5
"""Seconds for all clients to hear when they begin."""
WARM = 0.5
"""Seconds that they work before it counts."""
WAIT = 0.15
"""Seconds that a waiter waits: at etcd the first tenth of a second is slow."""

_processes = multiprocessing.get_context("spawn")  # threads of gRPC do not live through a fork


# ---- in the processes of clients


def serve(system: type[System], address: Any, places: Sequence[int], pipe: Connection) -> None:
    """Run clients, which do what is said at the other end of the pipe, and tell what comes of it, until it is None."""

    async def main() -> None:
        async with system.joined(address) as joined:
            clients = [system.client(joined) for _ in places]
            for client in clients:
                await client.open()
            pipe.send(None)
            while (order := await anyio.to_thread.run_sync(pipe.recv)) is not None:
                load, *arguments = order
                loads = [partial(load, *client, *arguments) for client in zip(clients, places, strict=True)]
                pipe.send(await all_of(system, loads))
            for client in reversed(clients):
                await client.close()

    anyio.run(main, backend=system.loop)


async def all_of(system: type[System], functions: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Call all at once, as tasks or in threads; one alone in the task that calls this, so that a lock may be taken in
    one order and given in the next where it is bound to a task.
    """
    if len(functions) == 1 and not system.are_threads:
        return [await functions[0]()]
    limiter = anyio.CapacityLimiter(len(functions))
    results: list[Any] = []

    async def run(function: Callable[[], Awaitable[Any]]) -> None:
        if system.are_threads:
            results.append(await anyio.to_thread.run_sync(anyio.run, function, limiter=limiter))
        else:
            results.append(await function())

    async with anyio.create_task_group() as tasks:
        for function in functions:
            tasks.start_soon(run, function)
    return results


async def time_alone(client: Client, place: int, start: float, end: float) -> list[tuple[float, float]]:
    """Take and release a lock; seconds of the acquire, and of both."""
    times = []
    await anyio.sleep(start - time.monotonic())
    while (called := time.monotonic()) < end:
        held = await client.acquire("alone")
        taken = time.monotonic()
        await client.release(held)
        times.append((called, taken - called, time.monotonic() - called))
    return [(acquire, both) for called, acquire, both in times if called >= start + WARM]


async def count(client: Client, place: int, start: float, end: float) -> int:
    """Take and release locks of one's own; how many times, from when it counts on."""
    done = number = 0
    await anyio.sleep(start - time.monotonic())
    while time.monotonic() < end:
        number += 1
        await client.release(await client.acquire(lock(place, number)))
        now = time.monotonic()
        done += start + WARM <= now < end
    return done


async def contend(client: Client, place: int, start: float, end: float) -> list[tuple[float, int]]:
    """Take and release the lock that all others want too; when each acquire returned, and to whom."""
    times = []
    await anyio.sleep(start - time.monotonic())
    while time.monotonic() < end:
        held = await client.acquire("contended")
        times.append((time.monotonic(), place))
        await client.release(held)
    return [(taken, place) for taken, place in times if taken >= start + WARM]


async def prepare(client: Client, place: int) -> None:
    """Take and release each of one's own locks once: the first time may cost more."""
    for number in range(LOCKS):
        await client.release(await client.acquire(lock(place, number)))


def lock(place: int, number: int) -> str:
    """One of a client's own locks."""
    return f"{place}-{number % LOCKS}"


async def take(client: Client, place: int) -> float:
    """Wait for the lock that goes from hand to hand; when it came."""
    held[place] = await client.acquire("handed over")
    return time.monotonic()


async def give(client: Client, place: int) -> float:
    """Release it; when that was asked for."""
    called = time.monotonic()
    await client.release(held.pop(place))
    return called


held: dict[int, Any] = {}
"""What a process's clients hold from one order to the next."""


# ---- what is measured

Found = list[tuple[str, str, float]]
"""What, its unit, its value."""


@contextmanager
def clients(system: type[System], address: Any, total: int, processes: int) -> Iterator[list[Connection]]:
    """So many clients in so many processes; gives the pipes to these."""
    with ExitStack() as stack:
        pipes = []
        for number in range(max(processes, system.least_processes)):
            ours, theirs = _processes.Pipe()
            places = range(number, total, processes) if number < processes else range(0)
            process = _processes.Process(target=serve, args=(system, address, places, theirs), daemon=True)
            process.start()
            theirs.close()  # so that its end is seen
            stack.push(partial(_end, process))
            pipes.append(ours)
        for pipe in pipes:
            pipe.recv()
        yield pipes[:processes]
        for pipe in pipes:
            pipe.send(None)


def _end(process: Any, failure: object, *_: object) -> None:
    """Wait for a process, which waits for orders itself where something has failed."""
    if failure is not None:
        process.kill()
    process.join()


def ask(pipes: Sequence[Connection], load: Callable[..., Any], *arguments: float) -> list[Any]:
    """Have all clients do something; what each of them says."""
    for pipe in pipes:
        pipe.send((load, *arguments))
    return [said for pipe in pipes for said in pipe.recv()]


def times(seconds: float) -> tuple[float, float]:
    """When clients begin and end, so that they are measured for so many seconds."""
    start = time.monotonic() + START
    return start, start + WARM + seconds


def alone(system: type[System], address: Any, seconds: float) -> Found:
    with clients(system, address, 1, 1) as pipes:
        (found,) = ask(pipes, time_alone, *times(seconds))
    acquires, boths = zip(*found, strict=True)
    return percentiles("alone, acquire", acquires) + percentiles("alone, acquire and release", boths)


def many(total: int, system: type[System], address: Any, seconds: float) -> Found:
    with clients(system, address, total, system.processes) as pipes:
        ask(pipes, prepare)
        done = sum(ask(pipes, count, *times(seconds)))
    return [(f"{total} clients, acquire and release", "locks/s", done / seconds)]


def contended(system: type[System], address: Any, seconds: float) -> Found:
    with clients(system, address, RIVALRY, RIVALRY) as pipes:
        found = sorted(chain.from_iterable(ask(pipes, contend, *times(seconds))))
    between = [later - before for (before, giver), (later, taker) in pairwise(found) if giver != taker]
    return percentiles(f"contended by {RIVALRY}, hand-over", between)


def hand_over(system: type[System], address: Any, seconds: float) -> Found:
    found = []
    with clients(system, address, 2, 2) as both:
        ask(both[:1], take)
        end = time.monotonic() + seconds
        for holder, waiter in cycle((both, both[::-1])):
            waiter.send((take,))
            time.sleep(WAIT)
            assert not waiter.poll(), "two hold the lock"
            holder.send((give,))
            (given,), (taken,) = holder.recv(), waiter.recv()
            found.append(taken - given)
            if time.monotonic() >= end:
                ask([waiter], give)
                break
    return percentiles("hand-over after a pause", found)


def percentiles(what: str, seconds: Sequence[float]) -> Found:
    """Their p50 and p99, in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return [(what, "ms, p50", cuts[49] * 1e3), (what, "ms, p99", cuts[98] * 1e3)]


CASES: Sequence[Callable[[type[System], Any, float], Found]] = (
    alone,
    *(partial(many, total) for total in CLIENTS),
    contended,
    hand_over,
)


METHOD = """\
Three servers of each system on loopback (Redis: one), each system's only while it is measured. Alone: one client, a
lock that nobody else wants. N clients: each takes and releases locks of its own; how often in a second, all together.
Hand-over: from the call of the release in one process to the return of the acquire in another, of a lock that all want
without end, and of one for which another waits while nothing happens. etcd and ZooKeeper sync
each lock to the disk; Redis is a single server that keeps them in memory; ours keep them in the memory of all three."""


def measure(bench: Bench) -> None:
    """Note all cases of all systems that are there, in turns."""
    for system in SYSTEMS:
        if why := system.missing():
            bench.missing[system.name] = f"{why} not there; {system.install}"
    there = [system for system in SYSTEMS if not system.missing()]
    for _ in bench.turns():
        for system in there:
            with tempfile.TemporaryDirectory(prefix="locks-") as folder, system.servers(Path(folder)) as address:
                for case in CASES:
                    for what, unit, value in case(system, address, bench.seconds):
                        bench.note(what, system.name, unit, value)
