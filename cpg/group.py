"""A process group as a program on trio or asyncio holds it: callbacks or iteration, send, flush, join and leave.

A `Group` is a thin shell around a `Stream`, which holds all that has to do with order, and a `Block`, which ends it in
order. Callbacks run in a task of the backend: an embedded ring, a daemon's, Corosync's or a virtual one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from types import TracebackType

import anyio
import anyio.lowlevel

from cpg.arguments import BytesLike, octets, whole
from cpg.block import Block
from cpg.contracts import Backend, Membership, OnConfchg, OnMessage, OnQuorum, OnTotemConfchg, OnTransitional
from cpg.errors import NotJoined, OutcomeUnknown, SlowConsumer, StreamBusy
from cpg.events import Confchg, Event, Member, Message, Quorum, TotemConfchg, Transitional
from cpg.loop_errors import of_loop
from cpg.payloads import BATCH_BYTES, Guarantee, cost, payloads_of, ring_guarantee, split
from cpg.stream import DEFAULT_LIMIT, Stream
from totem import configuration
from totem.errors import QueueFull, RingLost
from totem.text import quoted

LEAVE_PATIENCE = 5.0
"""Seconds that leaving waits for its place in the order; after that the others will notice the end of the node."""


class Group(Block):
    """One process's place in a closed group: `async with ring.join("chat") as group`.

    Consume the stream either by callbacks (`on_message`, `on_confchg`, …) or by iteration (`async for event in group`,
    or `group.batches()` for speed). It begins with the `Confchg` of the own join. Delivery begins at the first
    checkpoint of the body, so callbacks that are registered before that miss nothing. Every member sees the same
    messages and changes in the same order, its own included::

        async with ring.join("chat") as group:

            @group.on_message
            def _(sender: cpg.Member, message: bytes) -> None:
                print(sender.node_id, message)

            await group.send(b"hello")
            await group.flush()

    Each kind of event has one callback: a second one raises `StreamBusy`, None removes the present one. An exception of
    a callback cancels the body and comes out of the `async with`, after the group was left in order.

    Events that are not consumed wait, up to `limit` bytes. Beyond that the group is left, and `SlowConsumer` comes out:
    a program that only sends should register a callback. At the end of the body the own messages and the own leave
    still come back.
    """

    def __init__(self, backend: Backend, name: str | bytes, *, limit: int = DEFAULT_LIMIT) -> None:
        self.name = name
        self._encoded = octets("name", name)
        self.member = backend.member
        """This process, as a member of the group."""
        self._backend = backend
        busy = partial(of_loop, StreamBusy)
        super().__init__(Stream(self.member, limit=whole("limit", limit, 0), notify=self._wake, busy=busy))
        self._membership: Membership | None = None
        self._sending = anyio.Lock()
        self._sent = 0
        """Own messages that have come back or can still come."""
        self._lost = 0
        """Own messages that may not come back, which `flush` has still to report."""
        self._breaks = 0
        """The stream's breaks that these two numbers take into account."""
        self._iterating = False

    @property
    def members(self) -> tuple[Member, ...]:
        """The members in ascending order, at the place in the stream that the program has reached."""
        return self._stream.members

    # ---- the block

    def _is_of(self, membership: Membership) -> bool:
        return self._membership is membership

    async def __aenter__(self) -> Group:
        if self._membership is not None:
            raise RuntimeError(f"group {quoted(self.name)}: a block is entered once; join again for another")
        self._membership = await self._backend._enter(self._encoded, self._stream)
        self._backend._joined.add(self)
        self._backend._send_soon()
        try:
            await self._until(lambda: self._stream.joined or self._failure is not None)
            self._raise_failure()
        except BaseException:
            self._over = True
            await self._leave()
            raise
        self._body.__enter__()
        self._backend._start_soon(self._run_callbacks)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        was_ours = bool(self._body.__exit__(kind, error, trace))
        self._over = error is not None
        await self._leave()
        self._raise_failure(error)
        return was_ours

    async def _leave(self) -> None:
        """Announce the leave behind all that was sent, and wait for it in the stream; this is also the last flush.

        In a forked process it does neither: the group is its parent's.
        """
        assert self._membership is not None
        if self._is_own() and not isinstance(self._failure, RingLost):
            self._membership.leave()
            self._backend._send_soon()
        try:
            with anyio.move_on_after(LEAVE_PATIENCE, shield=True):
                await self._until(self._has_left)
        finally:  # asyncio's tasks can be cancelled here all the same
            self._over = True
            self._backend._joined.discard(self)
            self._stream.close()
            self._wake()

    def _has_left(self) -> bool:
        if isinstance(self._failure, RingLost) or not self._is_own():
            return True
        wanted_by_callbacks = self._stream.has_callbacks and not self._over and self._failure is None
        return self._stream.left and not (wanted_by_callbacks and self._stream)

    def _wake(self) -> None:
        if self._stream.overflowed and self._failure is None:
            limit = self._stream.limit
            self._fail(SlowConsumer(f"group {quoted(self.name)}: more than {limit} bytes wait for the program"))
        if self._stream.breaks > self._breaks:
            self._breaks = self._stream.breaks
            self._lost += self._sent - self._stream.own_arrived
            self._sent = self._stream.own_arrived
        super()._wake()

    # ---- callbacks

    def on_message(self, callback: OnMessage) -> OnMessage:
        """Call `callback(sender, data)` for each message. A decorator, as the other four; None removes the callback."""
        return self._register(Message, callback)

    def on_confchg(self, callback: OnConfchg) -> OnConfchg:
        """Call `callback(members, left, joined)` when the group's members change."""
        return self._register(Confchg, callback)

    def on_transitional(self, callback: OnTransitional) -> OnTransitional:
        """Call `callback(node_ids)` when a change of ring begins; libcpg (`open_corosync`) never reports that."""
        return self._register(Transitional, callback)

    def on_totem_confchg(self, callback: OnTotemConfchg) -> OnTotemConfchg:
        """Call `callback(ring_id, node_ids)` when a ring is installed, behind the group's own changes."""
        return self._register(TotemConfchg, callback)

    def on_quorum(self, callback: OnQuorum) -> OnQuorum:
        """Call `callback(quorate, node_ids)` when the ring reports whether it is quorate."""
        return self._register(Quorum, callback)

    # ---- iteration

    def __aiter__(self) -> Group:
        self._stream.iterate()
        return self

    async def __anext__(self) -> Event:
        await self._checkpoint_if_waiting()
        while (event := self._stream.take()) is None:
            await self._arrival()
        return event

    def batches(self) -> Batches:
        """Iterate over lists of events: all that has come since the last list, or an eighth of it if that is much."""
        self._stream.iterate()
        return Batches(self)

    async def _next_batch(self) -> list[Event]:
        await self._checkpoint_if_waiting()
        while not (batch := self._stream.take_batch()):
            await self._arrival()
        return batch

    async def _checkpoint_if_waiting(self) -> None:
        """Let other tasks run if an event is here already; otherwise the wait for one does."""
        if self._stream:
            await anyio.lowlevel.checkpoint()

    async def _arrival(self) -> None:
        self._check_process()
        if self._ended():
            raise StopAsyncIteration
        if self._iterating:
            raise of_loop(StreamBusy, "another task waits for the next event of this group")
        self._iterating = True
        try:
            await self._until(lambda: bool(self._stream) or self._ended())
        finally:
            self._iterating = False

    # ---- sending

    async def send(self, data: BytesLike | Iterable[BytesLike], guarantee: Guarantee = Guarantee.AGREED) -> None:
        """Queue one message, or several that are delivered in order with none of this group object's between.

        Waits while the send queue is full and returns when all is in it; `flush` waits for delivery. A call that is
        cancelled while it waits may have queued a first part of a long list. Raises MessageTooLong before anything is
        queued, and NotSupported for SAFE on a backend without it (`SAFE_OR_AGREED` accepts AGREED there).
        """
        payloads, wanted = payloads_of(data), ring_guarantee(guarantee, gives_safe=self._backend.gives_safe)
        self._check_process()
        await anyio.lowlevel.checkpoint_if_cancelled()
        if not await self._send_at_once(payloads, wanted):
            async with self._sending:
                for batch in split(payloads):
                    await self._send_batch(batch, wanted)

    async def _send_at_once(self, payloads: list[bytes], guarantee: configuration.Guarantee) -> bool:
        """Send if no other task waits and there is room: the message is on its way before other tasks run."""
        if self._sending.locked() or cost(payloads) > BATCH_BYTES:
            return False
        try:
            self._queue(payloads, guarantee)
        except QueueFull:
            return False
        await anyio.lowlevel.cancel_shielded_checkpoint()
        return True

    async def _send_batch(self, batch: Sequence[bytes], guarantee: configuration.Guarantee) -> None:
        while True:
            try:
                self._queue(batch, guarantee)
            except QueueFull:
                # A message longer than the queue goes in pieces; it is accepted when those before it are gone.
                await self._backend._wait_room(min(cost(batch), BATCH_BYTES))
            else:
                return

    def send_nowait(self, data: BytesLike | Iterable[BytesLike], guarantee: Guarantee = Guarantee.AGREED) -> None:
        """Queue one message or a list as `send` does, or queue nothing and raise `QueueFull`.

        On trio that is also a `trio.WouldBlock`, on asyncio an `asyncio.QueueFull`.
        """
        payloads, wanted = payloads_of(data), ring_guarantee(guarantee, gives_safe=self._backend.gives_safe)
        if self._sending.locked():
            raise of_loop(QueueFull, f"group {quoted(self.name)}: another task waits for room in the send queue")
        try:
            self._queue(payloads, wanted)
        except QueueFull as full:
            raise of_loop(QueueFull, str(full)) from None

    def _queue(self, payloads: Sequence[bytes], guarantee: configuration.Guarantee) -> None:
        self._check_process()
        if self._failure is not None:
            self._raise_failure()
        if self._membership is None:
            raise of_loop(NotJoined, f"group {quoted(self.name)} is not joined: use `async with`")
        try:
            self._membership.send(payloads, guarantee)
        except NotJoined as left:
            raise of_loop(NotJoined, str(left)) from None
        self._sent += len(payloads)
        self._backend._send_soon()

    async def flush(self) -> None:
        """Wait until all that was sent so far has come back, and callbacks, if there are any, have got it.

        Raises `OutcomeUnknown` where the connection to a daemon was lost before, and has been or will be made again.
        """
        self._check_process()
        sent, stream = self._sent, self._stream
        await anyio.lowlevel.checkpoint()
        await self._until(
            lambda: (
                (stream.own_taken if stream.has_callbacks else stream.own_arrived) >= sent
                or self._lost
                or self._ended()
            )
        )
        self._raise_failure()
        if self._lost:
            lost, self._lost = self._lost, 0
            raise OutcomeUnknown(
                f"group {quoted(self.name)}: {lost} messages had not come back when the connection was lost"
            )


class Batches:
    """The stream of a group as lists of events: `async for batch in group.batches()`."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def __aiter__(self) -> Batches:
        return self

    async def __anext__(self) -> list[Event]:
        return await self._group._next_batch()
