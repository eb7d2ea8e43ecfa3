"""A ring whose member is the Corosync of this machine: its groups through libcpg, its quorum through libquorum.

The groups and their streams are those of every other ring (`cpg.group`), with these differences:

- No `Transitional` ever comes: libcpg does not report where a ring ends.
- No message is SAFE: libcpg accepts that wish and delivers AGREED (ruling B3), so it is refused here.
- `Quorum` comes from another service of Corosync, whose callbacks have no place among those of CPG (ruling C5). Here it
  comes behind the `TotemConfchg` of its ring, before the first message after that. Corosync has settled it by then, so
  all groups of all nodes see it in that place. A change within a ring (votes, expected votes) comes where it arrived,
  which may be elsewhere at another node.

A connection of libcpg can be in one group, so each group has its own, with two tasks: one hands on what arrives, in
bounded turns, the other sends what waits in the outbox. Calls that wait for the daemon run in threads, which are
abandoned if the daemon does not answer: nothing stops the program's event loop.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar, TypeVarTuple

import trio

from cpg.contracts import Inbox
from cpg.errors import AlreadyJoined, CorosyncUnavailable, GroupReserved, NotJoined
from cpg.events import Confchg, Member, Quorum, RingEvent, TotemConfchg
from cpg.libcpg.codes import Code
from cpg.libcpg.library import SEND_TURN, CallFailed, Cpg, Libraries, QuorumAt, QuorumService, ReceivedRun, load
from cpg.local.backoff import Backoff
from cpg.loop_errors import require_trio
from cpg.node.engine import check_name, refuse_name_for_corosync
from cpg.payloads import MESSAGE_COST
from cpg.ring import Ring, live
from totem.configuration import NO_RING, Guarantee, Level, RingId
from totem.errors import QueueFull, RingLost
from totem.text import quoted

CONNECT_PATIENCE = 30.0
"""Seconds that opening waits for a daemon that is starting, or does not answer."""
CLOSE_PATIENCE = 1.0
"""Seconds that closing a connection waits for the daemon; then its thread goes on alone."""
PROBE_INTERVAL = 5.0
"""Seconds between two checks whether the daemon is there: where its IPC uses sockets (`qb_ipc_type: socket`), its
connections do not show that a daemon was killed.
"""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.001, 0.064
"""Seconds before the next try while Corosync says to try again: doubled from the first to the second."""

SEND_QUEUE: Final = 4 << 20
"""Bytes that may wait for libcpg, all groups of a ring together (and one longer message alone)."""
RECEIVE_TURN: Final = 256
"""Callbacks taken from one connection before others get a turn."""
KNOWN_RINGS: Final = 16
"""Number of rings whose quorum is remembered, for groups that are behind."""

_AGAIN: Final = (Code.TRY_AGAIN, Code.INTERRUPT)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_threads = trio.CapacityLimiter(math.inf)
"""The limit of its own: threads that a hanging daemon holds must not be those that the program's other work needs."""


async def _in_thread(call: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """Make a call that may block; when cancelled, abandon it."""
    return await trio.to_thread.run_sync(call, *arguments, abandon_on_cancel=True, limiter=_threads)


async def _insist(call: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """Make a call that may block, again and again while Corosync says to try again."""
    pauses = Backoff(SHORTEST_PAUSE, LONGEST_PAUSE)
    while True:
        try:
            return await _in_thread(call, *arguments)
        except CallFailed as failure:
            if failure.code not in _AGAIN:
                raise
        await trio.sleep(pauses.next())


async def _open(connection: Cpg | QuorumService) -> None:
    """Open a connection, or leave nothing open."""
    try:
        await _insist(connection.open)
    except BaseException:
        await _close(connection)
        raise


async def _close(connection: Cpg | QuorumService) -> None:
    if not connection.is_own():
        connection.abandon()
        return
    with trio.move_on_after(CLOSE_PATIENCE, shield=True):
        await _in_thread(connection.close)


class _RingsDelivered:
    """The rings, and their quorum, that one stream has got, each once and in its place."""

    def __init__(self, deliver: Callable[[RingEvent], None]) -> None:
        self.ring: TotemConfchg | None = None
        self.quorum: Quorum | None = None
        """The quorum of that ring; None until it arrives."""
        self._deliver = deliver

    def on_ring(self, ring: TotemConfchg) -> None:
        if ring != self.ring:
            self.ring, self.quorum = ring, None
            self._deliver(ring)

    def on_quorum(self, quorum: Quorum) -> None:
        if quorum != self.quorum:
            self.quorum = quorum
            self._deliver(quorum)


class CorosyncRing(Ring):
    """The ring of this machine's Corosync, and the groups that this program joins there.

    A Corosync that ends, or closes the connection, ends the block with `RingLost`.
    """

    gives_safe = False

    def __init__(self, libraries: Libraries, quorum_service: QuorumService, member: Member) -> None:
        super().__init__(member)
        self._libraries = libraries
        self._quorum_service = quorum_service
        self._delivered = _RingsDelivered(self._on_ring)
        self._quorums: dict[RingId, Quorum] = {}
        """The last quorum of the latest rings."""
        self._memberships: set[_CorosyncMembership] = set()
        self._queued = 0
        self._idle = trio.lowlevel.ParkingLot()
        """Memberships that have nothing to send."""

    # ---- the program's side

    @property
    def ring_id(self) -> RingId:
        """The present ring: its representative and its sequence number."""
        return self._delivered.ring.ring_id if self._delivered.ring else NO_RING

    @property
    def node_ids(self) -> tuple[int, ...]:
        """The nodes of the present ring, ascending."""
        return self._delivered.ring.node_ids if self._delivered.ring else ()

    @property
    def quorate(self) -> bool:
        """Whether the present ring has the votes to act for the cluster, as far as Corosync has reported."""
        return self._delivered.quorum is not None and self._delivered.quorum.quorate

    async def list_groups(self) -> dict[bytes, tuple[Member, ...]]:
        """Return the members of all groups of the ring, by name in ascending order."""
        self._check_process()
        connection = Cpg(self._libraries.cpg)
        try:
            await _open(connection)
            return await _insist(connection.groups)
        except CallFailed as failure:
            raise _lost(failure) from None
        finally:
            await _close(connection)

    # ---- the groups' side (`cpg.group.Backend`)

    async def _enter(self, name: bytes, inbox: Inbox) -> _CorosyncMembership:
        """Join a group. Raises AlreadyJoined also where another ring object of this process has joined it."""
        self._check()
        check_name(name)
        refuse_name_for_corosync(name)
        connection = Cpg(self._libraries.cpg)
        is_open = False
        try:
            await _open(connection)
            is_open = True
            await _insist(connection.join, name)
            self._check()
        except BaseException as error:
            await _close(connection)
            if not isinstance(error, CallFailed):
                raise
            if error.code == Code.EXIST:
                raise AlreadyJoined(f"process {self.member.pid} is in group {quoted(name)} already") from None
            if error.code == Code.ACCESS and is_open:
                raise GroupReserved(
                    f"the group {quoted(name)} is reserved, and the user with uid {os.geteuid()} may not join "
                    "it: the node's log says what to do"
                ) from None
            raise _lost(error) from None
        membership = _CorosyncMembership(self, connection, name, inbox)
        self._memberships.add(membership)
        self._tasks.start_soon(membership.run)
        return membership

    def _send_soon(self) -> None:
        """Give libcpg what was queued."""
        self._idle.unpark_all()

    # ---- the memberships' side

    def _take_room(self, size: int, *, alone: bool) -> None:
        """Count `size` bytes in the queue. Raises QueueFull. `alone`: one message, which an empty queue accepts."""
        if self._queued + size > SEND_QUEUE and not (alone and not self._queued):
            raise QueueFull(f"no room for {size} bytes: {self._queued} wait for Corosync")
        self._queued += size

    def _give_room(self, size: int) -> None:
        """Count bytes that have left the queue."""
        self._queued -= size
        self._grant_room(SEND_QUEUE - self._queued)

    def _quorum_of(self, ring: TotemConfchg) -> Quorum | None:
        """Return the quorum of this ring, if it is known."""
        if not self._quorum_service.has_provider:
            return Quorum(True, ring.node_ids)
        return self._quorums.get(ring.ring_id)

    def _read_quorum(self) -> None:
        """Process the events of the quorum service."""
        for event in self._quorum_service.dispatch(RECEIVE_TURN):
            if type(event) is TotemConfchg:
                self._delivered.on_ring(event)
            else:
                self._note(event)
            for delivered in (self._delivered, *(membership.delivered for membership in self._memberships)):
                self._place_quorum(delivered)
        self._wake()

    def _note(self, said: QuorumAt) -> None:
        self._quorums[said.ring_id] = said.quorum
        if len(self._quorums) > KNOWN_RINGS:
            del self._quorums[next(iter(self._quorums))]

    def _place_quorum(self, delivered: _RingsDelivered) -> None:
        """Give a stream the quorum of its present ring, if it is known."""
        if delivered.ring is not None and (quorum := self._quorum_of(delivered.ring)) is not None:
            delivered.on_quorum(quorum)

    def _lose(self, failure: Exception) -> None:
        """End the ring: the connection to Corosync is lost."""
        self._fail(_lost(failure))

    # ---- the driver's side

    def _abandon(self) -> None:
        for connection in (self._quorum_service, *(membership.connection for membership in self._memberships)):
            connection.abandon()

    async def _take_part(self) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(self._quorum_service.fd)
                self._check_process()
                self._read_quorum()
        except (CallFailed, ValueError) as failure:
            self._lose(failure)
        finally:
            for membership in self._memberships:
                membership.scope.cancel()
            await _close(self._quorum_service)

    async def _probe(self) -> None:
        try:
            while True:
                await trio.sleep(PROBE_INTERVAL)
                self._check_process()
                await _insist(self._quorum_service.probe)
        except CallFailed as failure:
            self._lose(failure)
        except RuntimeError as failure:  # a forked process: the connection is its parent's
            self._fail(failure)

    def _jobs(self) -> list[Callable[[], Coroutine[Any, Any, object]]]:
        return [*super()._jobs(), self._probe]

    def _is_complete(self) -> bool:
        return self._delivered.quorum is not None


class _CorosyncMembership:
    """This process in one group: a connection of its own, and what waits to be sent on it."""

    def __init__(self, ring: CorosyncRing, connection: Cpg, name: bytes, inbox: Inbox) -> None:
        self.scope = trio.CancelScope(shield=True)
        """The scope that ends it, in order or not."""
        self.delivered = _RingsDelivered(inbox.event)
        self._ring = ring
        self.connection = connection
        self._name = name
        self._inbox = inbox
        self._outbox: deque[bytes] = deque()
        self._leaving = False
        self._joined = False
        self._early: TotemConfchg | None = None
        """The latest ring that the connection reported before the own join."""
        self._own_leave: Confchg | None = None
        """Delivered when the connection is closed: until then Corosync refuses the process that joins again."""

    def send(self, payloads: Sequence[bytes], guarantee: Guarantee) -> None:
        """Queue messages, all or none. Raises QueueFull, NotJoined after `leave`."""
        if self._leaving:
            raise NotJoined(f"group {quoted(self._name)} has been left")
        self._ring._take_room(sum(map(_cost, payloads)), alone=len(payloads) == 1)
        self._outbox.extend(payloads)

    def leave(self) -> None:
        """Leave behind all that was sent; a second call does nothing."""
        self._leaving = True

    async def run(self) -> None:
        """Take part in the group until the own leave has arrived, or the ring ends."""
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._guarded, self._receive)
                nursery.start_soon(self._guarded, self._send)
        self._ring._memberships.discard(self)
        self._ring._give_room(sum(map(_cost, self._outbox)))
        await _close(self.connection)
        if self._own_leave is not None:
            self._inbox.event(self._own_leave)

    async def _guarded(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except (CallFailed, ValueError) as failure:
            self._ring._lose(failure)
        except RuntimeError as failure:  # a forked process: the connection is its parent's
            self._ring._fail(failure)

    # ---- in

    async def _receive(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self.connection.fd)
            self._ring._check_process()
            for event in self.connection.dispatch(RECEIVE_TURN):
                if type(event) is ReceivedRun:
                    self._on_messages(event)
                elif type(event) is Confchg:
                    self._on_confchg(event)
                else:
                    self._on_ring(event)

    def _on_messages(self, run: ReceivedRun) -> None:
        """Deliver a run of messages. Hot: once for each sender of a turn."""
        if self.delivered.quorum is None:
            self._ring._read_quorum()  # it has arrived, and its place is here
        self._inbox.messages(run.sender, Level.AGREED, run.payloads)

    def _on_confchg(self, confchg: Confchg) -> None:
        own = self._ring.member
        if own in confchg.left:
            if not self._leaving:
                raise ValueError(f"this process was removed from group {quoted(self._name)}")
            self._own_leave = confchg
            self.scope.cancel()
            return
        self._inbox.event(confchg)
        if own in confchg.joined and not self._joined:
            self._joined = True
            self._ring._idle.unpark_all()  # it may be leaving
            if self._early is not None:
                self._on_ring(self._early)

    def _on_ring(self, ring: TotemConfchg) -> None:
        """Deliver a ring, but behind the own join: a connection reports rings before that too, in no certain order."""
        if not self._joined:
            self._early = ring
            return
        self.delivered.on_ring(ring)
        self._ring._place_quorum(self.delivered)

    # ---- out

    async def _send(self) -> None:
        pauses = Backoff(SHORTEST_PAUSE, LONGEST_PAUSE)
        while not (self._leaving and self._joined and not self._outbox):
            if not self._outbox:
                await self._ring._idle.park()
                continue
            await trio.lowlevel.wait_writable(self.connection.fd)
            self._ring._check_process()
            if await self._send_turn():
                pauses.reset()
            else:
                await trio.sleep(pauses.next())
        await _insist(self.connection.leave, self._name)

    async def _send_turn(self) -> bool:
        """Send until libcpg accepts no more, for one turn at most; return whether anything was sent."""
        outbox, sent = self._outbox, 0
        try:
            for _ in range(min(len(outbox), SEND_TURN)):
                payload = outbox[0]
                if len(payload) <= self.connection.largest_atomic:
                    self.connection.multicast(payload)
                else:
                    await _in_thread(self.connection.multicast_fragments, payload)
                outbox.popleft()
                sent += _cost(payload)
        except CallFailed as failure:
            if failure.code not in _AGAIN:
                raise
        if sent:
            self._ring._give_room(sent)
        return sent > 0


def _cost(payload: bytes) -> int:
    return len(payload) + MESSAGE_COST


def _lost(failure: Exception) -> RingLost:
    return RingLost(
        f"the connection to Corosync on this machine is lost ({failure}): Corosync has ended, or has "
        "disconnected this program; its log says why. Open the ring again when it runs"
    )


def _unavailable(failure: CallFailed) -> CorosyncUnavailable:
    if failure.code == Code.ACCESS:
        return CorosyncUnavailable(
            f"Corosync refuses the user with uid {os.geteuid()}: run as root, or let it in with a file in "
            f"/etc/corosync/uidgid.d that says `uidgid {{ uid: {os.geteuid()} }}`, each word on its line, and "
            "`corosync-cfgtool -R`"
        )
    if failure.code == Code.LIBRARY:
        return CorosyncUnavailable(f"no Corosync runs on this machine ({failure}): start it (systemctl start corosync)")
    return CorosyncUnavailable(f"Corosync on this machine cannot be used ({failure})")


@asynccontextmanager
async def open_corosync() -> AsyncGenerator[CorosyncRing, None]:
    """Take part in the ring of the Corosync that runs on this machine: `async with cpg.open_corosync() as ring`.

    Raises `CorosyncUnavailable` where it does not run or answer, refuses this user, or its libraries are missing; later
    `RingLost`.
    """
    require_trio("cpg.open_corosync")
    ring = await _connect(load())
    async with live(ring):
        yield ring


async def _connect(libraries: Libraries) -> CorosyncRing:
    quorum_service = QuorumService(libraries.quorum)
    try:
        with trio.fail_after(CONNECT_PATIENCE):
            member = Member(await _local_node_id(libraries), os.getpid())
            await _open(quorum_service)
            await _insist(quorum_service.track)
    except BaseException as error:
        await _close(quorum_service)
        if isinstance(error, CallFailed):
            raise _unavailable(error) from None
        if isinstance(error, trio.TooSlowError):
            raise CorosyncUnavailable(
                f"Corosync on this machine has not answered for {CONNECT_PATIENCE:.0f} s: it is stopped, or starts"
            ) from None
        raise
    return CorosyncRing(libraries, quorum_service, member)


async def _local_node_id(libraries: Libraries) -> int:
    connection = Cpg(libraries.cpg)
    try:
        await _open(connection)
        return await _insist(connection.local_node_id)
    finally:
        await _close(connection)
