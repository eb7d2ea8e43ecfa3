"""A ring as a program holds it, whatever its backend: the groups joined there, who waits for what, how it ends.

`cpg.embedded` has the ring whose member this process is. `cpg.client.asynchronous` has the one whose member is the
daemon of this machine, `cpg.libcpg.corosync` the one whose member is its Corosync. Callbacks run in tasks of their own,
between two turns of what drives the ring.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel

from cpg.arguments import whole
from cpg.block import Block
from cpg.contracts import Inbox, JoinedGroup, Membership, OnLink, OnQuorum, OnTotemConfchg
from cpg.errors import StreamBusy
from cpg.events import Link, Member, Quorum, RingEvent, TotemConfchg
from cpg.group import Group
from cpg.loop_errors import of_loop
from cpg.stream import DEFAULT_LIMIT, Stream
from totem.configuration import RingId
from totem.errors import RingLost

FAREWELL_PATIENCE = 1.0
"""Seconds that the last messages of a process that leaves may take."""


class Ring(Block, ABC):
    """A place in a ring, and the groups that are joined there.

    Entered when the first ring is known, perhaps a ring of one: a node that starts is alone for some milliseconds, and
    programs that need company call `wait_members`. A ring that cannot go on ends the block with `RingLost`, which names
    the reason. It is the `cpg.contracts.Backend` of its groups.
    """

    gives_safe: bool
    """Whether a message can be sent as SAFE."""

    def __init__(self, member: Member) -> None:
        self.member = member
        """This process, as a member of the groups that it joins."""
        self._joined: set[JoinedGroup] = set()
        super().__init__(Stream(member, notify=self._wake, busy=partial(of_loop, StreamBusy)))
        self._tasks: anyio.abc.TaskGroup
        self._driving = anyio.CancelScope(shield=True)
        self._senders: deque[tuple[int, anyio.Event]] = deque()
        """Senders that wait for room in the send queue, with the number of bytes."""

    # ---- for programs

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
        """Return the members of all groups of the ring, by name in ascending order."""

    @property
    @abstractmethod
    def quorate(self) -> bool:
        """Whether the present ring has the votes to act for the cluster, as far as that was reported.

        Always true where no quorum provider is configured.
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
        """Return a group to be joined with `async with`; its name has 1 to 128 bytes, a `str` in UTF-8.

        `limit`: bytes that may wait for this program. Beyond that the group is left (`SlowConsumer`).
        """
        return Group(self, name, limit=limit)

    def on_totem_confchg(self, callback: OnTotemConfchg) -> OnTotemConfchg:
        """Call `callback(ring_id, node_ids)` for the present ring and each later one.

        A decorator; None removes the callback.
        """
        return self._register(TotemConfchg, callback)

    def on_quorum(self, callback: OnQuorum) -> OnQuorum:
        """Call `callback(quorate, node_ids)` for the present ring and each change. A decorator."""
        return self._register(Quorum, callback)

    def on_link(self, callback: OnLink) -> OnLink:
        """Call `callback(node_id, link, up, mtu, since)` for each link to another node, and each change. A decorator.

        See `Link` for the arguments.
        """
        registered = self._register(Link, callback)
        if callback is not None:
            for event in self._present_links():
                self._stream.event(event)
        return registered

    # ---- for groups (`cpg.contracts.Backend`)

    @abstractmethod
    async def _enter(self, name: bytes, inbox: Inbox) -> Membership: ...

    @abstractmethod
    def _send_soon(self) -> None: ...

    def _start_soon(self, task: Callable[[], Coroutine[Any, Any, object]]) -> None:
        self._tasks.start_soon(task)

    async def _wait_room(self, size: int) -> None:
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
        """Raise if there is no ring any more, or it belongs to the process before a fork."""
        self._check_process()
        self._raise_failure()
        if self._over:
            raise RingLost("the ring has been left")

    # ---- for the driver

    @abstractmethod
    async def _take_part(self) -> None:
        """Drive the ring until cancelled, then leave in order. Raises `RingLost` where the ring cannot go on."""

    @abstractmethod
    def _is_complete(self) -> bool:
        """Return whether the present ring and its groups are known."""

    @abstractmethod
    def _abandon(self) -> None:
        """Close the descriptors of a forked process, and write nothing: the ring is its parent's.

        The loop's watch on a descriptor is shared with the parent, too. Of a closed one the loop cannot end it.
        """

    async def _send_farewell(self) -> None:
        """Send what the others should know before this process leaves."""

    def _jobs(self) -> list[Callable[[], Coroutine[Any, Any, object]]]:
        return [self._drive, self._run_callbacks]

    def _grant_room(self, room: float) -> None:
        """Wake the senders that have waited longest, as far as there is room for them."""
        while self._senders and self._senders[0][0] <= room:
            size, granted = self._senders.popleft()
            room -= size
            granted.set()

    def _on_ring(self, event: RingEvent) -> None:
        if not self._stream.has_callbacks and type(event) is TotemConfchg:
            self._stream.clear()  # a callback that is registered later begins with the present ring
        self._stream.event(event)

    def _present_links(self) -> Iterable[Link]:
        """Return the links as they are now."""
        return ()

    def _on_link(self, event: Link) -> None:
        if self._stream.wants(Link):
            self._stream.event(event)

    async def _drive(self) -> None:
        """Drive the ring until the block has ended, cancelled or not: its groups are left in order first."""
        try:
            with self._driving:
                await self._take_part()
        except Exception as error:
            self._fail(error)

    def _fail(self, failure: BaseException) -> None:
        """End the block with `failure`, and the blocks of its groups."""
        super()._fail(failure)
        self._end_groups(failure if isinstance(failure, RingLost) else RingLost(f"{failure!r}"))

    def _end_groups(self, reason: RingLost) -> None:
        for group in list(self._joined):
            group._fail(reason)
        while self._senders:
            self._senders.popleft()[1].set()


AnyRing = TypeVar("AnyRing", bound=Ring)


@asynccontextmanager
async def live(ring: AnyRing) -> AsyncGenerator[AnyRing, None]:
    """Take part in a ring for the time of a block, which is entered when the first ring is complete."""
    outcome: BaseException | None = None
    async with anyio.create_task_group() as ring._tasks:
        for task in ring._jobs():
            ring._tasks.start_soon(task)
        try:
            with ring._body:
                await ring._until(lambda: ring._is_complete() or ring._ended())
                if not ring._ended():
                    yield ring
        except BaseException as error:
            outcome = error  # not through the task group, which would wrap it
        ring._over = True
        ring._end_groups(RingLost("the ring has been left"))
        if ring._is_own():
            with anyio.move_on_after(FAREWELL_PATIENCE, shield=True):
                await ring._send_farewell()
        else:
            ring._abandon()
        ring._driving.cancel()
        ring._tasks.cancel_scope.shield = True
        ring._tasks.cancel_scope.cancel()
    ring._raise_failure(outcome)
    if outcome is not None:
        raise outcome
