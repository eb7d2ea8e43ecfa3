"""The engine: closed process groups on top of one Processor (signatures; the insides follow)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cpg.events import Confchg, Member, RingEvent
from totem.configuration import Delivery, Guarantee, Level, RingId

LARGEST_PLAIN = 1_047_552
"""Payload bytes that travel in one message (1 MiB - 1024, as in libcpg); longer ones are cut into pieces."""
LARGEST_MESSAGE = 16 * 1024 * 1024
"""Payload bytes of the longest message that can be sent or received."""


class Transport(Protocol):
    """What the engine needs of a `totem.Processor`."""

    node_id: int

    def multicast(self, messages: Sequence[bytes], guarantee: Guarantee = Guarantee.AGREED) -> None:
        """Queue separate messages; QueueFull leaves nothing queued."""

    def multicast_sync(self, messages: Sequence[bytes]) -> None:
        """Queue messages that go out while sync of the present ring runs."""

    def sync_complete(self, ring_id: RingId) -> None:
        """Sync of that ring is complete: application messages may go out."""


class Inbox(Protocol):
    """Where the engine puts what one local membership is told; it must not raise and need not be quick to consume.

    Called while deliveries are handed on: it may call `Membership.send` and `leave`, and only queue for the rest.
    """

    def messages(self, sender: Member, level: Level, payloads: list[bytes]) -> None:
        """Consecutive messages of one sender; one call for each frame. The list is shared: do not change it."""

    def event(self, event: Confchg | RingEvent) -> None:
        """Anything that is not a message, in its place between the messages."""


class Membership:
    """One local process in one group, from the acceptance of its join to the delivery of its leave.

    Its inbox gets first the `Confchg` of the own join, then `TotemConfchg` of the present ring, then the group's
    stream, and last the `Confchg` with the own leave; nothing after that.
    """

    name: bytes
    member: Member

    @property
    def joined(self) -> bool:
        """Whether the own join has been delivered and the own leave has not."""
        raise NotImplementedError

    @property
    def left(self) -> bool:
        """Whether the own leave has been delivered: the inbox gets nothing more."""
        raise NotImplementedError

    @property
    def members(self) -> tuple[Member, ...]:
        """Who is in the group at this point of the order, in order of node id and pid."""
        raise NotImplementedError

    def send(self, payloads: Sequence[bytes], guarantee: Guarantee = Guarantee.AGREED) -> None:
        """Queue separate messages of this member, in order and with none of its others between.

        All or nothing: QueueFull (try again after the engine's next `deliver`), MessageTooLong (more than
        LARGEST_MESSAGE), NotJoined after `leave`. Accepted from the join call on.
        """
        raise NotImplementedError

    def leave(self) -> None:
        """Leave behind all that was sent: never refused, waits for room by itself. A second call does nothing."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """Counters since the start, and the state of sync."""

    malformed: Mapping[str, int]
    """Dropped exec messages by cause."""
    unknown_senders: int
    """Messages dropped because their node has no process in the group."""
    syncs_started: int
    syncs_completed: int
    syncs_overdue: int
    """Syncs that took longer than `sync_limit`."""
    silent: tuple[int, ...]
    """Node ids for which the present sync waits; empty when it is complete."""


class Engine:
    """Everything of `cpg` on one node, without I/O: routes the deliveries of a Processor, sends down to it.

    The driver gives it each `Ready`'s deliveries, also when there are none (a large message that waits for room goes on
    then), and calls `advance` when `deadline` has come.
    """

    deadline: float
    """When `advance` wants to be called: seconds on the clock of its `now`, or inf."""
    failure: str | None
    """Why this node must stop (killed by the administrator); None while it may go on."""

    def __init__(
        self,
        processor: Transport,
        *,
        sync_limit: float = math.inf,
        on_ring: Callable[[RingEvent], None] = lambda event: None,
    ) -> None:
        """`sync_limit`: seconds after which sync counts as stuck (twice the consensus timeout, ruling C4).

        `on_ring` is told what every group is told of the ring, for programs without a group.
        """
        raise NotImplementedError

    @property
    def ring_id(self) -> RingId:
        """The last ring whose groups are known (that of the last `TotemConfchg`); NO_RING before the first."""
        raise NotImplementedError

    @property
    def node_ids(self) -> tuple[int, ...]:
        """Members of that ring."""
        raise NotImplementedError

    @property
    def synced(self) -> bool:
        """Whether sync of the installed ring is complete: false before the first ring and during each change."""
        raise NotImplementedError

    @property
    def groups(self) -> dict[bytes, tuple[Member, ...]]:
        """All groups that have members anywhere in the ring, by name in ascending order."""
        raise NotImplementedError

    def join(self, name: bytes, pid: int, inbox: Inbox) -> Membership:
        """A local process joins a group; accepted also before the first ring and while sync runs.

        ValueError for an empty or too long name, AlreadyJoined, CorosyncLimit (127 bytes, no NUL, 128 members while a
        Corosync node is in the ring; ruling C7).
        """
        raise NotImplementedError

    def deliver(self, deliveries: Iterable[Delivery]) -> None:
        """Take everything that the Processor delivers, in order; never raises for what is in the messages."""
        raise NotImplementedError

    def advance(self, now: float) -> None:
        """Watch over the duration of sync."""
        raise NotImplementedError

    def statistics(self) -> EngineStatistics:
        """A frozen record of the counters."""
        raise NotImplementedError
