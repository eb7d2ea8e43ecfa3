"""A program that is a lock server itself: `async with cluck.open(ring) as locks`.

Its locks end with it: they are released at once when the program leaves, or when its process ends while its node runs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from os import PathLike

import anyio

from cluck.client.asynchronous import Locks, over
from cluck.clock import boot_time
from cluck.errors import ConnectionLost
from cluck.protocol import Bye, Downward, Upward, held_to_limits
from cluck.server.host import GROUP, Host, Store
from cluck.server.store import Disk, this_boot
from cpg.arguments import callback, pathname, whole
from cpg.block import Waiters
from cpg.embedded import EmbeddedRing
from cpg.errors import raise_instead
from cpg.replication.electorate import Electorate, votes_of
from cpg.replication.replica import ReplicaSettings
from cpg.ring import Ring
from totem.store import default_directory


@asynccontextmanager
async def open(
    ring: Ring,
    *,
    servers: Collection[int] | Mapping[int, int] | None = None,
    priority: int = 14,
    group: str = GROUP,
    store: Store | str | PathLike[str] | None = None,
    clock: Callable[[], float] = boot_time,
) -> AsyncGenerator[Locks, None]:
    """Be one of the cluster's lock servers, and its client: `async with cluck.open(ring) as locks`, on trio or asyncio.

    Args:
        ring: A ring of any kind: `cpg.open_ring`, `cpg.connect`, `cpg.open_corosync`, or a virtual one.
        servers: The node ids of all lock servers, or a mapping with the votes of each. More than half of the votes
            decide. It must be the same at all servers when the cluster begins. Later the servers know the voters
            (`Locks.change_voters`), and this argument has no effect. None: the whole nodelist of `cpg.open_ring`'s
            configuration, with its votes.
        priority: The server's rank as a leader of the service, 1 first, up to 14; 0: never a leader.
        group: The name of the servers' group.
        store: The folder for what must outlive restarts: epochs of tokens, and the voters. None: the folder of ring
            sequences. It may also be a `cluck.server.host.Store`; one that forgets makes each restart a new server,
            for tests.
        clock: The clock of leases, in seconds; `trio.current_time` in virtual time.

    Raises:
        ValueError: `servers` is missing.
        OSError: Nothing can be stored.
        RingLost: The ring is lost. Other errors of a group's block are raised too.
    """
    whole("priority", priority, 0, 14)
    callback("clock", clock)
    electorate = Electorate(_votes(ring, servers))
    settings = ReplicaSettings(electorate=electorate, safe=ring.gives_safe, priority=priority, boot=this_boot())
    if store is None or isinstance(store, str | PathLike):
        folder = default_directory() if store is None else str(pathname("store", store))
        store = Disk(folder, ring.node_id, group)
    outcome: BaseException | None = None
    async with ring.join(group) as joined:
        server = _Server(Host(joined, settings, store, clock=clock))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run)
            try:
                async with over(server) as locks:
                    yield locks
            except BaseException as error:
                outcome = error  # not through the task group, which would wrap it
            server.stop()
        if server.failure is not None:
            raise_instead(server.failure, outcome)
        if outcome is not None:
            raise outcome


def _votes(ring: Ring, servers: Collection[int] | Mapping[int, int] | None) -> Mapping[int, int]:
    if servers is not None:
        votes = servers if isinstance(servers, Mapping) else dict.fromkeys(servers, 1)
        return votes_of("servers", votes)
    if isinstance(ring, EmbeddedRing):
        return {node.node_id: node.votes for node in ring.config.nodes}
    raise ValueError("which nodes have lock servers? Only the program knows here: cluck.open(ring, servers=[1, 2, 3])")


class _Server:
    """The lock server of this process, as a `cluck.client.links.Transport`."""

    def __init__(self, host: Host) -> None:
        self.failure: BaseException | None = None
        self._host = host
        self._serving = anyio.CancelScope(shield=True)
        self._links: list[_Link] = []

    def __str__(self) -> str:
        return "the lock server of this process"

    async def run(self) -> None:
        """Serve until stopped, cancelled or not: locks are released in order first. A failure ends the client."""
        try:
            with self._serving:
                await self._host.run()
        except Exception as failure:
            while isinstance(failure, ExceptionGroup) and len(failure.exceptions) == 1:
                failure = failure.exceptions[0]
            self.failure = failure
            for link in self._links:
                link.end()

    def stop(self) -> None:
        """Stop serving clients."""
        self._serving.cancel()

    def clock(self) -> float:
        """Return the clock of leases."""
        return self._host.clock()

    async def open(self) -> _Link:
        """Open a connection."""
        link = _Link(self._host)
        self._links.append(link)
        return link


class _Link:
    """A connection within the process (`cluck.client.links.Link`)."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._received: list[Downward] = []
        self._arrived = Waiters()
        self._has_ended = False
        self._connection = host.connect(self._deliver)

    def _deliver(self, record: Downward) -> None:
        self._received.append(record)
        self._arrived.wake()

    def send(self, records: Sequence[Upward]) -> None:
        """Send these to the server."""
        if not self._has_ended:
            self._connection.receive(list(held_to_limits(records)), self._host.clock())
            self._host.work_soon()

    async def receive(self) -> Iterable[Downward]:
        """Wait for what the server sends next."""
        while not self._received:
            if self._has_ended:
                raise ConnectionLost("the lock server of this process has ended")
            await self._arrived.wait()
        received, self._received = self._received, []
        return received

    async def carry(self) -> None:
        """Wait for ever: `send` delivers at once, so there is nothing to do."""
        await anyio.sleep_forever()

    def abandon(self) -> None:
        """Do nothing: there is no descriptor."""

    async def close(self) -> None:
        """End the connection; the server releases what is still held."""
        if not self._has_ended:
            self._connection.receive([Bye()], self._host.clock())
            self._host.work()

    def end(self) -> None:
        """Note that the server has ended."""
        self._has_ended = True
        self._arrived.wake()
