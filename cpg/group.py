"""A process group as a program on trio or asyncio holds it: callbacks or iteration, send, flush, join and leave.

A `Group` is a thin shell around a `Stream`, which holds all that has to do with order, and a `Block`, which ends it in
order. Callbacks run in a task of the backend: an embedded ring, or a virtual one.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence, Set
from types import TracebackType
from typing import Any, Protocol, TypeVar

import anyio
import anyio.lowlevel

from cpg.arguments import BytesLike, octets, whole
from cpg.block import Block
from cpg.errors import NotSupported, OutcomeUnknown, SlowConsumer
from cpg.events import Confchg, Event, Member, Message, Quorum, Reason, TotemConfchg, Transitional
from cpg.loop_errors import busy, closed, would_block
from cpg.node.engine import Inbox
from cpg.node.pieces import LARGEST_MESSAGE
from cpg.stream import DEFAULT_LIMIT, Stream
from totem.configuration import Guarantee, RingId
from totem.errors import MessageTooLong, QueueFull, RingLost
from totem.text import quoted

LEAVE_PATIENCE = 5.0
"""Seconds that leaving waits for its place in the order; after that the others will notice the end of the node."""

BATCH_BYTES = 256 * 1024
"""A longer list enters the send queue in parts of about this size, since it may never fit as a whole."""

MESSAGE_COST = 256
"""Bytes reckoned for what the send queue adds to each message."""


class BestEffort(enum.Enum):
    """What a sender asks for who takes less where there is no more; the `level` of a message tells what was reached."""

    SAFE_OR_AGREED = enum.auto()
    """SAFE, or AGREED on a backend without SAFE (`open_corosync`)."""


OnMessage = TypeVar("OnMessage", bound=Callable[[Member, bytes], object])
OnConfchg = TypeVar(
    "OnConfchg", bound=Callable[[tuple[Member, ...], dict[Member, Reason], dict[Member, Reason]], object]
)
OnTransitional = TypeVar("OnTransitional", bound=Callable[[tuple[int, ...]], object])
OnTotemConfchg = TypeVar("OnTotemConfchg", bound=Callable[[RingId, tuple[int, ...]], object])
OnQuorum = TypeVar("OnQuorum", bound=Callable[[bool, tuple[int, ...]], object])


class Membership(Protocol):
    """One process in one group, as its backend has it."""

    def send(self, payloads: Sequence[bytes], guarantee: Guarantee) -> None:
        """Queue messages, all or none; QueueFull."""

    def leave(self) -> None:
        """Leave behind all that was sent; a second call does nothing."""


class Backend(Protocol):
    """What a group stands on: any kind of ring."""

    gives_safe: bool
    """Whether a message can be sent as SAFE."""

    @property
    def member(self) -> Member:
        """Who a group that is joined here is."""

    @property
    def joined(self) -> set[Group]:
        """The groups that this program is in, to be told (`Group.fail`) when there is no ring any more."""

    async def enter(self, name: bytes, inbox: Inbox) -> Membership:
        """Join; RingLost where there is no ring any more, AlreadyJoined."""

    def start_soon(self, task: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run a task that ends with the backend."""

    def send_soon(self) -> None:
        """Something was queued: let the ring have it."""

    async def wait_room(self, size: int) -> None:
        """Wait until the send queue has room for `size` bytes; those who wait are served in their order."""


class Group(Block):
    """One process's place in a closed group: `async with ring.join("chat") as group`.

    Take the stream either by callbacks (`on_message`, `on_confchg`, …) or by iteration (`async for event in group`, or
    `group.batches()` for speed). It begins with the `Confchg` of the own join, and its delivery begins at the first
    checkpoint of the body, so that callbacks registered before miss nothing. Every member sees the same messages and
    changes in the same order, the own ones included::

        async with ring.join("chat") as group:

            @group.on_message
            def _(sender: cpg.Member, message: bytes) -> None:
                print(sender.node_id, message)

            await group.send(b"hello")
            await group.flush()

    An exception in a callback cancels the body and comes out of the `async with`, after the group was left in order.
    What is not consumed waits, up to `limit` bytes; then the group is left and `SlowConsumer` comes out: a program that
    only sends should register a callback. At the end of the body the own messages and the own leave still come back.
    """

    def __init__(self, backend: Backend, name: str | bytes, *, limit: int = DEFAULT_LIMIT) -> None:
        self.name = name
        self._encoded = octets("name", name)
        self.member = backend.member
        """Who this process is in the group."""
        self._backend = backend
        super().__init__(Stream(self.member, limit=whole("limit", limit, 0), notify=self._wake, busy=busy))
        self._membership: Membership | None = None
        self._sending = anyio.Lock()
        self._sent = 0
        """Own messages that have come back or can still come."""
        self._lost = 0
        """Own messages of which `flush` has still to tell that they may not come back."""
        self._breaks = 0
        """Of the stream, as far as these two reckon with them."""
        self._iterating = False

    @property
    def members(self) -> tuple[Member, ...]:
        """The members in ascending order, at the place in the stream that the program has reached."""
        return self._stream.members

    def is_of(self, membership: Membership) -> bool:
        """Whether this is the group of a membership, for the backend."""
        return self._membership is membership

    # ---- the block

    async def __aenter__(self) -> Group:
        if self._membership is not None:
            raise RuntimeError(f"group {quoted(self.name)}: a block is entered once; join again for another")
        self._membership = await self._backend.enter(self._encoded, self._stream)
        self._backend.joined.add(self)
        self._backend.send_soon()
        try:
            await self._until(lambda: self._stream.joined or self._failure is not None)
            self._raise_failure()
        except BaseException:
            self._over = True
            await self._leave()
            raise
        self._body.__enter__()
        self._backend.start_soon(self._run_callbacks)
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
        """Announce the leave behind all that was sent, and wait for it in the stream: this is also the last flush."""
        assert self._membership is not None
        if not isinstance(self._failure, RingLost):
            self._membership.leave()
            self._backend.send_soon()
        try:
            with anyio.move_on_after(LEAVE_PATIENCE, shield=True):
                await self._until(self._has_left)
        finally:  # asyncio's tasks can be cancelled here all the same
            self._over = True
            self._backend.joined.discard(self)
            self._stream.close()
            self._wake()

    def _has_left(self) -> bool:
        if isinstance(self._failure, RingLost):
            return True
        wanted_by_callbacks = self._stream.has_callbacks and not self._over and self._failure is None
        return self._stream.left and not (wanted_by_callbacks and self._stream)

    def _wake(self) -> None:
        if self._stream.overflowed and self._failure is None:
            limit = self._stream.limit
            self.fail(SlowConsumer(f"group {quoted(self.name)}: more than {limit} bytes wait for the program"))
        if self._stream.breaks > self._breaks:
            self._breaks = self._stream.breaks
            self._lost += self._sent - self._stream.own_arrived
            self._sent = self._stream.own_arrived
        super()._wake()

    # ---- callbacks

    def on_message(self, callback: OnMessage) -> OnMessage:
        """Have `callback(sender, data)` called for each message. A decorator, like the other four."""
        return self._register(Message, callback)

    def on_confchg(self, callback: OnConfchg) -> OnConfchg:
        """Have `callback(members, left, joined)` called when the group's members change."""
        return self._register(Confchg, callback)

    def on_transitional(self, callback: OnTransitional) -> OnTransitional:
        """Have `callback(node_ids)` called when a change of ring begins; libcpg (`open_corosync`) never tells that."""
        return self._register(Transitional, callback)

    def on_totem_confchg(self, callback: OnTotemConfchg) -> OnTotemConfchg:
        """Have `callback(ring_id, node_ids)` called when a ring is installed, behind the group's own changes."""
        return self._register(TotemConfchg, callback)

    def on_quorum(self, callback: OnQuorum) -> OnQuorum:
        """Have `callback(quorate, node_ids)` called when the ring has told whether it is quorate."""
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
        """Iterate over lists of events: all that has come since the last list; of much at most an eighth."""
        self._stream.iterate()
        return Batches(self)

    async def _next_batch(self) -> list[Event]:
        await self._checkpoint_if_waiting()
        while not (batch := self._stream.take_batch()):
            await self._arrival()
        return batch

    async def _checkpoint_if_waiting(self) -> None:
        """Let others run if an event is here already; otherwise the wait for one does."""
        if self._stream:
            await anyio.lowlevel.checkpoint()

    async def _arrival(self) -> None:
        if self._ended():
            raise StopAsyncIteration
        if self._iterating:
            raise busy("another task waits for the next event of this group")
        self._iterating = True
        try:
            await self._until(lambda: bool(self._stream) or self._ended())
        finally:
            self._iterating = False

    # ---- sending

    async def send(
        self, data: BytesLike | Iterable[BytesLike], guarantee: Guarantee | BestEffort = Guarantee.AGREED
    ) -> None:
        """Queue one message, or several that are delivered in order with none of this group object's between.

        Waits while the send queue is full and returns when all is in it; `flush` waits for delivery. Cancelled while it
        waits, it may have queued a first part of a long list. Raises before anything is queued: MessageTooLong, and
        NotSupported for SAFE on a backend that does not have it (`SAFE_OR_AGREED` takes what there is).
        """
        payloads, guarantee = payloads_of(data), self._guarantee(guarantee)
        await anyio.lowlevel.checkpoint_if_cancelled()
        if not await self._send_at_once(payloads, guarantee):
            async with self._sending:
                for batch in split(payloads):
                    await self._send_batch(batch, guarantee)

    async def _send_at_once(self, payloads: list[bytes], guarantee: Guarantee) -> bool:
        """Send if nobody is before us and there is room: the message is on its way before other tasks run."""
        if self._sending.locked() or _cost(payloads) > BATCH_BYTES:
            return False
        try:
            self._queue(payloads, guarantee)
        except QueueFull:
            return False
        await anyio.lowlevel.cancel_shielded_checkpoint()
        return True

    async def _send_batch(self, batch: Sequence[bytes], guarantee: Guarantee) -> None:
        while True:
            try:
                self._queue(batch, guarantee)
            except QueueFull:
                # A message longer than the queue goes in pieces; it is taken when those before it are gone.
                await self._backend.wait_room(min(_cost(batch), BATCH_BYTES))
            else:
                return

    def send_nowait(
        self, data: BytesLike | Iterable[BytesLike], guarantee: Guarantee | BestEffort = Guarantee.AGREED
    ) -> None:
        """Queue one message or a list as `send` does, or queue nothing and raise `trio.WouldBlock`, on asyncio
        `asyncio.QueueFull`."""
        payloads, guarantee = payloads_of(data), self._guarantee(guarantee)
        if self._sending.locked():
            raise would_block()
        try:
            self._queue(payloads, guarantee)
        except QueueFull:
            raise would_block() from None

    def _guarantee(self, wanted: Guarantee | BestEffort) -> Guarantee:
        """What to send with (ruling B3: nothing is weakened in silence)."""
        if not isinstance(wanted, BestEffort | Guarantee):
            raise TypeError(f"guarantee={wanted!r}: cpg.AGREED, cpg.SAFE or cpg.SAFE_OR_AGREED")
        if isinstance(wanted, BestEffort):
            return Guarantee.SAFE if self._backend.gives_safe else Guarantee.AGREED
        if wanted is Guarantee.SAFE and not self._backend.gives_safe:
            raise NotSupported(
                "SAFE: this ring delivers messages in order, but cannot tell when all nodes have one; "
                "send with guarantee=cpg.SAFE_OR_AGREED to take that"
            )
        return wanted

    def _queue(self, payloads: Sequence[bytes], guarantee: Guarantee) -> None:
        if self._failure is not None:
            self._raise_failure()
        if self._membership is None:
            raise closed(f"group {quoted(self.name)} is not joined: use `async with`")
        self._membership.send(payloads, guarantee)
        self._sent += len(payloads)
        self._backend.send_soon()

    async def flush(self) -> None:
        """Wait until all that was sent so far has come back, and has been given to the callbacks if there are any.

        Raises `OutcomeUnknown` where the connection was lost before (`cpg.connect(reconnect=True)`).
        """
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


def payloads_of(data: BytesLike | Iterable[BytesLike]) -> list[bytes]:
    """Return what is to be sent as messages. Hot: for each send.

    Raises MessageTooLong, and TypeError for what is no bytes and no list of such.
    """
    if isinstance(data, BytesLike):
        data = (data,)
    elif type(data) is not list:  # what else it may be takes longer to find out
        _check_listed(data)
    payloads = [payload if type(payload) is bytes else _payload(payload) for payload in data]
    if payloads and len(max(payloads, key=len)) > LARGEST_MESSAGE:
        raise MessageTooLong(
            f"a message of {len(max(payloads, key=len))} bytes: {LARGEST_MESSAGE} is the most that a group carries"
        )
    return payloads


def _check_listed(data: Iterable[BytesLike]) -> None:
    if isinstance(data, str):
        raise TypeError("a message is bytes-like, or a list of such: encode the str")
    if isinstance(data, Mapping | Set) or not isinstance(data, Iterable):
        raise TypeError(f"a message is bytes-like, or a list of such, not {type(data).__name__}: {data!r:.80}")


def _payload(payload: BytesLike) -> bytes:
    try:
        return bytes(memoryview(payload))
    except TypeError:
        raise TypeError(f"a message is bytes-like, not {type(payload).__name__}: {payload!r:.80}") from None


def _cost(payloads: Sequence[bytes]) -> int:
    """Bytes that the send queue will need, from above."""
    return sum(map(len, payloads)) + MESSAGE_COST * len(payloads)


def split(payloads: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Cut a list into parts that fit the send queue; nearly always it is one."""
    if _cost(payloads) <= BATCH_BYTES:
        if payloads:
            yield payloads
        return
    batch: list[bytes] = []
    cost = 0
    for payload in payloads:
        if batch and cost + len(payload) + MESSAGE_COST > BATCH_BYTES:
            yield batch
            batch, cost = [], 0
        batch.append(payload)
        cost += len(payload) + MESSAGE_COST
    yield batch
