"""Our lock service, as `bench.locks` measures it.

cluckd      Three daemons, each a node of the ring itself. Clients are tasks on asyncio, `cluck.aio`, and share a
            connection in each process, as etcd's do.
in process  Three programs that are nodes and lock servers themselves, `cluck.open`; clients are tasks in these.

Nothing is synced to a disk for a lock: it is in the memory of every server, and granted when all nodes have it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cluck
import cluck.aio
import cpg
from bench.rivals import LEASE, NODES, Client, System, running
from cpg.cli.demo import NODE, free_ports

RING = """
totem {{
    version: 2
    cluster_name: bench
    transport: udpu
}}
nodelist {{
{nodes}}}
system {{
    state_dir: {folder}
    sched_rr: no
}}
"""
DAEMON = (sys.executable, "-m", "cluck.daemon", "-c")


def ring(folder: Path) -> Path:
    """Write a ring's configuration."""
    path = folder / "ring.conf"
    nodes = "".join(NODE.format(node=node, port=port) for node, port in enumerate(free_ports(NODES), 1))
    path.write_text(RING.format(nodes=nodes, folder=folder))
    return path


class OurClient(Client):
    """A task's locks; the connection is the process's."""

    def __init__(self, locks: Any) -> None:
        self._locks = locks

    async def open(self) -> None:
        await self._locks.wait_ready()

    async def acquire(self, name: str) -> Any:
        block = self._locks.lock(name, duration=LEASE)
        await block.__aenter__()
        return block

    async def release(self, held: Any) -> None:
        await held.__aexit__(None, None, None)

    async def close(self) -> None:
        pass


def claim(folder: Path) -> int:
    """The lowest number that no other process of this folder has now."""
    for number in range(1, NODES + 1):
        path = folder / f"claim{number}"
        try:
            owner = int(path.read_text())
            os.kill(owner, 0)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            path.unlink(missing_ok=True)
        try:
            with path.open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            continue
        return number
    raise RuntimeError("more processes than nodes")


class Cluckd(System):
    name = "cluckd"
    are_threads = False

    @staticmethod
    @contextmanager
    def servers(folder: Path) -> Iterator[Path]:
        path = ring(folder)
        sockets = [folder / f"socket{number}" for number in range(1, NODES + 1)]
        commands = [
            [*DAEMON, path, "--node", number, "--socket", place, "--state-dir", folder / f"state{number}"]
            for number, place in enumerate(sockets, 1)
        ]
        with running(commands, sockets, folder):
            yield folder

    @classmethod
    @asynccontextmanager
    async def joined(cls, address: Path) -> AsyncIterator[Any]:
        number = claim(address)
        async with cluck.aio.connect(address / f"socket{number}") as locks:
            yield locks
        (address / f"claim{number}").unlink()

    @staticmethod
    def client(address: Any) -> OurClient:
        return OurClient(address)


class InProcess(System):
    name = "in process"
    are_threads = False
    loop = "trio"
    processes = NODES
    least_processes = NODES

    @staticmethod
    @contextmanager
    def servers(folder: Path) -> Iterator[Path]:
        ring(folder)
        yield folder

    @classmethod
    @asynccontextmanager
    async def joined(cls, address: Path) -> AsyncIterator[Any]:
        number = claim(address)
        # A store of its own each time: a cluster that starts again waits until leases of its former life are over.
        with TemporaryDirectory(dir=address) as store:
            async with cpg.open_ring(address / "ring.conf", number) as node, cluck.open(node, store=store) as locks:
                await locks.wait_ready()
                yield locks
        (address / f"claim{number}").unlink()

    @staticmethod
    def client(address: Any) -> OurClient:
        return OurClient(address)


OURS = (Cluckd, InProcess)
