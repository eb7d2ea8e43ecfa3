"""A ring as a program holds it, whatever it stands on: the groups joined there, who waits for what, how it ends.

`cpg.embedded` has the ring whose member this process is, `cpg.libcpg.corosync` the one whose member the Corosync of
this machine is. Callbacks run in tasks of their own, between two turns of what drives the ring.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
import anyio.abc
import anyio.lowlevel

from cpg.arguments import whole
from cpg.block import Block
from cpg.events import Member, Quorum, RingEvent, TotemConfchg
from cpg.group import Group, Membership, OnQuorum, OnTotemConfchg
from cpg.loop_errors import busy
from cpg.node.membership import Inbox
from cpg.stream import DEFAULT_LIMIT, Stream
from totem.configuration import RingId
from totem.errors import RingLost

FAREWELL_PATIENCE = 1.0
"""Seconds that the last words of a process that leaves may take."""


class Ring(Block, ABC):
    """A place in a ring, and the groups that are joined there.

    Entered when the first ring is known, perhaps a ring of one: a node that starts is alone for some milliseconds, and
    `wait_members` is for programs that need company. A ring that cannot go on ends the block with `RingLost`, which
    names the reason. It is the `cpg.group.Backend` of its groups.
    """

    gives_safe: bool
    """Whether a message can be sent as SAFE."""

    def __init__(self, member: Member) -> None:
        self.member = member
        """Who this process is in the groups that it joins."""
        self.joined: set[Group] = set()
        """The groups that this program is in."""
        super().__init__(Stream(member, notify=self._wake, busy=busy))
        self._tasks: anyio.abc.TaskGroup
        self._driving = anyio.CancelScope(shield=True)
        self._senders: deque[tuple[int, anyio.Event]] = deque()
        """Who waits for how much room in the send queue."""

    # ---- the program's side

    @property
    def node_id(self) -> int:
        """The node that this process is on."""
        return self.member.node_id

    @property
    @abstractmethod
    def ring_id(self) -> RingId:
        """The present ring: its representative and its sequence number."""

    @property
    @abstractmethod
    def node_ids(self) -> tuple[int, ...]:
        """The nodes of the present ring, ascending."""

    @abstractmethod
    async def list_groups(self) -> dict[bytes, tuple[Member, ...]]:
        """Whoever is in which group, anywhere in the ring; by name in ascending order."""

    @property
    @abstractmethod
    def quorate(self) -> bool:
        """Whether the present ring has the votes to act for the cluster, as far as that has been told; always true
        where no quorum provider is configured.
        """

    async def wait_quorate(self) -> None:
        """Wait until the ring is quorate."""
        await anyio.lowlevel.checkpoint()
        await self._until(lambda: self.quorate or self._ended())
        self._check()

    async def wait_members(self, count: int) -> None:
        """Wait until the ring has at least `count` nodes."""
        wanted = whole("count", count, 0)
        await anyio.lowlevel.checkpoint()
        await self._until(lambda: (self._is_complete() and len(self.node_ids) >= wanted) or self._ended())
        self._check()

    def join(self, name: str | bytes, *, limit: int = DEFAULT_LIMIT) -> Group:
        """Name a group to be joined with `async with`: 1 to 128 bytes, a `str` in UTF-8.

        `limit` is how many bytes may wait for this program before it is put out (`SlowConsumer`).
        """
        return Group(self, name, limit=limit)

    def on_totem_confchg(self, callback: OnTotemConfchg) -> OnTotemConfchg:
        """Have `callback(ring_id, node_ids)` called for the present ring and each later one. A decorator."""
        return self._register(TotemConfchg, callback)

    def on_quorum(self, callback: OnQuorum) -> OnQuorum:
        """Have `callback(quorate, node_ids)` called for the present ring and each change. A decorator."""
        return self._register(Quorum, callback)

    # ---- the groups' side (`cpg.group.Backend`)

    @abstractmethod
    async def enter(self, name: bytes, inbox: Inbox) -> Membership:
        """Join a group."""

    @abstractmethod
    def send_soon(self) -> None:
        """Something was queued: let the ring have it."""

    def start_soon(self, task: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run a task that ends with the ring."""
        self._tasks.start_soon(task)

    async def wait_room(self, size: int) -> None:
        """Wait for a turn after which the send queue has room for `size` bytes."""
        granted = anyio.Event()
        place = (size, granted)
        self._senders.append(place)
        try:
            await granted.wait()
        except BaseException:
            if place in self._senders:
                self._senders.remove(place)
            raise
        self._check()

    def _check(self) -> None:
        """Raise if there is no ring any more."""
        self._raise_failure()
        if self._over:
            raise RingLost("the ring has been left")

    # ---- the driver's side

    @abstractmethod
    async def _take_part(self) -> None:
        """Drive the ring until cancelled, then leave in order; raises `RingLost` where the ring cannot go on."""

    @abstractmethod
    def _is_complete(self) -> bool:
        """Whether the present ring and its groups are known."""

    async def _say_farewell(self) -> None:
        """Say what the others should know before this process leaves."""

    def _jobs(self) -> list[Callable[[], Coroutine[Any, Any, object]]]:
        return [self._drive, self._run_callbacks]

    def _grant_room(self, room: float) -> None:
        """Let those go on who have waited longest, as far as there is room for them."""
        while self._senders and self._senders[0][0] <= room:
            size, granted = self._senders.popleft()
            room -= size
            granted.set()

    def _on_ring(self, event: RingEvent) -> None:
        if not self._stream.has_callbacks and type(event) is TotemConfchg:
            self._stream.clear()  # who asks later begins with the present ring
        self._stream.event(event)

    async def _drive(self) -> None:
        """Drive the ring until the block has ended, cancelled or not: its groups are left in order first."""
        try:
            with self._driving:
                await self._take_part()
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
    async def live(self) -> AsyncGenerator[Self, None]:
        """Take part in the ring for the time of a block, which is entered when the first ring is complete."""
        outcome: BaseException | None = None
        async with anyio.create_task_group() as self._tasks:
            for task in self._jobs():
                self._tasks.start_soon(task)
            try:
                with self._body:
                    await self._until(lambda: self._is_complete() or self._ended())
                    if not self._ended():
                        yield self
            except BaseException as error:
                outcome = error  # not through the nursery, which would wrap it
            self._over = True
            self._end_groups(RingLost("the ring has been left"))
            with anyio.move_on_after(FAREWELL_PATIENCE, shield=True):
                await self._say_farewell()
            self._driving.cancel()
            self._tasks.cancel_scope.shield = True
            self._tasks.cancel_scope.cancel()
        self._raise_failure(outcome)
        if outcome is not None:
            raise outcome
