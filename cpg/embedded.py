"""A ring whose member this process is: the engine, what drives it, and the groups that stand on it.

A `Ring` is told by its shell (`totem.node` on sockets, `cpg.testing` on a virtual network), turn by turn, what the
processor delivers. It hands that to the engine and then lets those go on who wait: for the first ring, for company, for
room in the send queue. Callbacks run in tasks of their own, between two turns of the shell.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from os import PathLike
from typing import Protocol

import trio

from cpg.block import Block
from cpg.engine import Engine, Inbox, Membership, Transport
from cpg.events import Member, RingEvent, TotemConfchg, Transitional
from cpg.group import Group, OnTotemConfchg, OnTransitional
from cpg.lines import nodes
from cpg.stream import DEFAULT_LIMIT, Stream
from totem.config import Config
from totem.configuration import Delivery, RingId
from totem.corosync_conf import load, own_node
from totem.errors import RingLost
from totem.node import Node
from totem.statistics import Statistics

_log = logging.getLogger(__name__)

SYNC_LIMIT = 2
"""A sync that takes longer than so many consensus timeouts is stuck (ruling C4)."""


class Machine(Transport, Protocol):
    """What a ring needs of its processor."""

    @property
    def room(self) -> int:
        """Bytes for which the send queue has room."""

    def exclude(self, node_ids: Iterable[int], now: float) -> bool:
        """Go on without these members, if that is allowed."""


class Shell(Protocol):
    """What drives a ring: `totem.node.Node`, or a virtual one."""

    @property
    def processor(self) -> Machine:
        """What it drives."""

    async def run(self, deliver: Callable[[Iterator[Delivery]], None]) -> None:
        """Take part until cancelled, then announce the leave; raises `RingLost` where the ring cannot go on."""

    def kick(self) -> None:
        """Something was queued in the processor."""

    def statistics(self) -> Statistics:
        """What processor and network have counted."""


class Ring(Block):
    """This process's place in a ring, and the groups it joins there.

    Entered when the first ring is complete, perhaps a ring of one: a node that starts is alone for some milliseconds,
    and `wait_members` is for programs that need company. A ring that cannot go on ends the block with `RingLost`, which
    names the reason. Leaving the block announces the leave, so that the others need no timeout.
    """

    def __init__(self, config: Config, shell: Shell, *, pid: int) -> None:
        self.config = config
        machine = shell.processor
        self.node_id = machine.node_id
        self.member = Member(self.node_id, pid)
        """Who this process is in the groups that it joins."""
        self.joined: set[Group] = set()
        """The groups that this program is in."""
        super().__init__(Stream(self.member, notify=self._wake, busy=trio.BusyResourceError))
        self._shell = shell
        self._machine = machine
        self._nursery: trio.Nursery
        self._driving = trio.CancelScope(shield=True)
        self._engine = Engine(machine, sync_limit=SYNC_LIMIT * config.consensus, on_ring=self._on_ring)
        self._synced = False
        self._senders: deque[tuple[int, trio.Event]] = deque()
        """Who waits for how much room in the send queue."""

    # ---- the program's side

    @property
    def ring_id(self) -> RingId:
        """The present ring: its representative and its sequence number."""
        return self._engine.ring_id

    @property
    def node_ids(self) -> tuple[int, ...]:
        """The nodes of the present ring, ascending."""
        return self._engine.node_ids

    @property
    def groups(self) -> dict[bytes, tuple[Member, ...]]:
        """Whoever is in which group, anywhere in the ring; by name in ascending order."""
        return self._engine.groups

    def statistics(self) -> Statistics:
        """Return what the processor has counted and what it holds, frozen."""
        return self._shell.statistics()

    async def wait_members(self, count: int) -> None:
        """Wait until the ring has at least `count` nodes."""
        await trio.lowlevel.checkpoint()
        await self._until(lambda: (self._engine.synced and len(self.node_ids) >= count) or self._ended())
        self._check()

    def join(self, name: str | bytes, *, limit: int = DEFAULT_LIMIT) -> Group:
        """Name a group to be joined with `async with`: 1 to 128 bytes, a `str` in UTF-8.

        `limit` is how many bytes may wait for this program before it is put out (`SlowConsumer`).
        """
        return Group(self, name, limit=limit)

    def on_totem_confchg(self, callback: OnTotemConfchg) -> OnTotemConfchg:
        """Have `callback(ring_id, node_ids)` called for the present ring and each later one. A decorator."""
        return self._register(TotemConfchg, callback)

    def on_transitional(self, callback: OnTransitional) -> OnTransitional:
        """Have `callback(node_ids)` called when a change of ring begins."""
        return self._register(Transitional, callback)

    # ---- the groups' side (`cpg.group.Backend`)

    def enter(self, name: bytes, inbox: Inbox) -> Membership:
        """Join a group."""
        self._check()
        return self._engine.join(name, self.member.pid, inbox)

    def start_soon(self, task: Callable[[], Awaitable[object]]) -> None:
        """Run a task that ends with the ring."""
        self._nursery.start_soon(task)

    def send_soon(self) -> None:
        """Something was queued: let the ring have it."""
        self._shell.kick()

    async def wait_room(self, size: int) -> None:
        """Wait for a turn of the shell after which the send queue has room for `size` bytes."""
        granted = trio.Event()
        place = (size, granted)
        self._senders.append(place)
        try:
            await granted.wait()
        except trio.Cancelled:
            if place in self._senders:
                self._senders.remove(place)
            raise
        self._check()

    def _check(self) -> None:
        """Raise if there is no ring any more."""
        self._raise_failure()
        if self._over:
            raise RingLost("the ring has been left")

    # ---- the shell's side

    def deliver(self, deliveries: Iterable[Delivery]) -> None:
        """Take what the processor delivers in one turn, be it nothing."""
        engine = self._engine
        engine.deliver(deliveries)
        if engine.failure is not None:
            raise RingLost(engine.failure)
        if self._senders:
            self._grant_room()
        if engine.synced is not self._synced:
            self._synced = engine.synced
            self._wake()

    def _grant_room(self) -> None:
        room = self._machine.room
        while self._senders and self._senders[0][0] <= room:
            size, granted = self._senders.popleft()
            room -= size
            granted.set()

    def _on_ring(self, event: RingEvent) -> None:
        if not self._stream.has_callbacks and type(event) is TotemConfchg:
            self._stream.clear()  # who asks later begins with the present ring
        self._stream.event(event)

    async def _watch_sync(self) -> None:
        """Tell the administrator of a sync that is stuck and who is silent; go on without them where allowed."""
        overdue = 0
        while True:
            await trio.sleep(self.config.consensus)
            now = trio.current_time()
            self._engine.advance(now)
            statistics = self._engine.statistics()
            if statistics.syncs_overdue > overdue:
                overdue = statistics.syncs_overdue
                _log.warning("node %d: sync is stuck, nothing from %s", self.node_id, nodes(statistics.silent))
                if self._shell.processor.exclude(statistics.silent, now):
                    self._shell.kick()

    async def _drive(self) -> None:
        """Drive the ring until the block has ended, cancelled or not: its groups are left in order first."""
        try:
            with self._driving:
                await self._shell.run(self.deliver)
        except Exception as error:
            self.fail(error)

    def fail(self, failure: BaseException) -> None:
        """End the block with `failure`, and those of its groups."""
        super().fail(failure)
        self._end_groups(failure if isinstance(failure, RingLost) else RingLost(f"{failure!r}"))

    def _end_groups(self, reason: RingLost) -> None:
        for group in list(self.joined):
            group.fail(reason)
        while self._senders:
            self._senders.popleft()[1].set()

    @asynccontextmanager
    async def live(self) -> AsyncGenerator[Ring, None]:
        """Take part in the ring for the time of a block, which is entered when the first sync is complete."""
        outcome: BaseException | None = None
        async with trio.open_nursery() as self._nursery:
            for task in (self._drive, self._watch_sync, self._run_callbacks):
                self._nursery.start_soon(task)
            try:
                with self._body:
                    await self._until(lambda: self._engine.synced or self._ended())
                    if not self._ended():
                        yield self
            except BaseException as error:
                outcome = error  # not through the nursery, which would wrap it
            self._over = True
            self._end_groups(RingLost("the ring has been left"))
            self._driving.cancel()
            self._nursery.cancel_scope.shield = True
            self._nursery.cancel_scope.cancel()
        self._raise_failure()
        if outcome is not None:
            raise outcome


@asynccontextmanager
async def open_ring(config: Config | str | PathLike[str], node: int | str | None = None) -> AsyncGenerator[Ring, None]:
    """Make this process a member of a ring: `async with cpg.open_ring("ring.conf", node=1) as ring`.

    `config` is the path of a file in corosync.conf's format, or a `totem.Config`. `node` is an id or a name of its
    nodelist; left out, the node whose address is this machine's. Raises `ConfigError` (names file and line),
    `ValueError` (which node?), `OSError` (its address or its state directory cannot be had), later `RingLost`.
    """
    if not isinstance(config, Config):
        config, warnings = load(config)
        for warning in warnings:
            _log.warning("%s", warning)
    async with Ring(config, Node.open(config, own_node(config, node)), pid=os.getpid()).live() as ring:
        yield ring
