"""The engine: everything of `cpg` on one node, on top of one Processor, without I/O.

What the Processor delivers goes through `Engine.deliver`: frames of messages to the hot function `_on_messages`,
which sorts payloads into the inboxes of the local memberships; all other exec messages to the sync machine and the
process list; configurations to both. What the machines answer goes back through the Processor's two send streams.

The order that every member of a group sees (ruling C5), and where it comes from here:

    Transitional          `_on_transitional`: the ring is going; sync, if it runs, is aborted
    messages left over    `_on_messages`
    Confchg ...           `_activate`: all nodes have told their processes, `Groups` derives the changes
    TotemConfchg          `_activate`
    (Quorum)              `_sync_complete`: with the next version's votes
    new messages          held back by every sender's Processor until its `sync_complete`

A membership is in four steps: accepted (`Engine.join`), joined (its procjoin was delivered), leaving (`leave`), left
(its procleave was delivered). Its inbox hears of the two steps between the second and the fourth, and all between.
What one membership sends is one stream: procjoin, messages, procleave (ruling C6). What does not fit into the
Processor's bounded queue at once (joins and leaves, which are never refused, and whatever is longer than one message
may be) waits in its outbox; of all the outboxes one at a time sends a message in pieces.
"""

from __future__ import annotations

import enum
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cpg.errors import AlreadyJoined, CorosyncLimit, NotJoined
from cpg.events import Confchg, Member, RingEvent, TotemConfchg, Transitional
from cpg.groups import Change, Groups
from cpg.pieces import LARGEST_MESSAGE, Assembler, Outgoing
from cpg.sync import Service, Sync
from cpg.wire import (
    LARGEST_NAME,
    LARGEST_PLAIN,
    MCAST_PREFIX,
    MOST_PROCESSES,
    PIECE_FIRST,
    SERVICE_CPG,
    Barrier,
    Downlist,
    ExecMessage,
    Joinlist,
    Killnode,
    Mcast,
    PartialMcast,
    Procjoin,
    Procleave,
    ServiceBuild,
    decode,
    mcast_prefix,
)
from totem.configuration import (
    NO_RING,
    Delivery,
    Guarantee,
    Level,
    Messages,
    RegularConfiguration,
    RingId,
    TransitionalConfiguration,
)
from totem.errors import MalformedDatagram, MessageTooLong, QueueFull

COROSYNC_LARGEST_NAME: Final = LARGEST_NAME - 1
COROSYNC_MOST_MEMBERS: Final = 128
"""Of one group: Corosync's nodes have fixed arrays (ruling C7)."""

KNOWN_HEADERS: Final = 1024
"""Bound on each cache of mcast headers: they differ by sender, group and payload size."""


class Transport(Protocol):
    """What the engine needs of a `totem.Processor`."""

    @property
    def node_id(self) -> int:
        """The node's id."""

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
        """Consecutive messages of one sender, at most those of one frame. The list is shared: do not change it."""

    def event(self, event: Confchg | RingEvent) -> None:
        """Anything that is not a message, in its place between the messages."""


class _Step(enum.Enum):
    ACCEPTED = enum.auto()
    JOINED = enum.auto()
    LEFT = enum.auto()


_Waiting = tuple[list[bytes], Guarantee] | Outgoing
"""What an outbox holds: messages that the ring's queue can take at once, or one to be sent in pieces."""


class _Headers(dict[int, bytes]):
    """What stands before the payload of a member's messages, by payload size."""

    def __init__(self, name: bytes, member: Member) -> None:
        self._name = name
        self._member = member

    def __missing__(self, length: int) -> bytes:
        if length > LARGEST_PLAIN:
            raise MessageTooLong(f"{length} bytes do not fit into one mcast")
        if len(self) >= KNOWN_HEADERS:
            self.clear()
        header = self[length] = mcast_prefix(self._name, self._member.pid, length, self._member.node_id)
        return header


class Membership:
    """One local process in one group, from the acceptance of its join to the delivery of its leave.

    Its inbox gets first the `Confchg` of the own join, then `TotemConfchg` of the present ring, then the group's
    stream, and last the `Confchg` with the own leave; nothing after that.
    """

    def __init__(self, engine: Engine, name: bytes, pid: int, inbox: Inbox) -> None:
        self.name = name
        self.member = Member(engine.node_id, pid)
        self.inbox = inbox
        self._engine = engine
        self._headers = _Headers(name, self.member)
        self._step = _Step.ACCEPTED
        self.leaving = False
        """`leave` has been called: nothing more can be sent."""
        self._outbox: deque[_Waiting] = deque()

    @property
    def joined(self) -> bool:
        """Whether the own join has been delivered and the own leave has not."""
        return self._step is _Step.JOINED

    @property
    def left(self) -> bool:
        """Whether the own leave has been delivered: the inbox gets nothing more."""
        return self._step is _Step.LEFT

    @property
    def members(self) -> tuple[Member, ...]:
        """Who is in the group at this point of the order, in order of node id and pid."""
        return self._engine.members(self.name)

    def send(self, payloads: Sequence[bytes], guarantee: Guarantee = Guarantee.AGREED) -> None:
        """Queue separate messages of this member, in order and with none of its others between.

        All or nothing: QueueFull (try again after the engine's next `deliver`), MessageTooLong (more than
        LARGEST_MESSAGE), NotJoined after `leave`. Accepted from the join call on. A list with a message that is too
        long for one mcast is taken at once and given to the ring bit by bit; until that is done, further calls raise
        QueueFull.
        """
        if self.leaving:
            raise NotJoined(f"group {self.name!r} has been left")
        if self._outbox:
            raise QueueFull("earlier messages of this member still wait for room")
        headers = self._headers
        try:
            self._engine.multicast([headers[len(payload)] + payload for payload in payloads], guarantee)
        except MessageTooLong:
            self._put(self._chunks(payloads, guarantee))

    def leave(self) -> None:
        """Leave behind all that was sent: never refused, waits for room by itself. A second call does nothing."""
        if not self.leaving:
            self.leaving = True
            self._put([([Procleave(self.name, self.member.pid).encode()], Guarantee.AGREED)])

    # The engine's side.

    def enter(self) -> None:
        """Announce the join."""
        self._put([([Procjoin(self.name, self.member.pid).encode()], Guarantee.AGREED)])

    def _put(self, messages: Iterable[_Waiting]) -> None:
        self._outbox.extend(messages)
        self._engine.wait_for_room(self)

    def _chunks(self, payloads: Sequence[bytes], guarantee: Guarantee) -> list[_Waiting]:
        chunks: list[_Waiting] = []
        chunk: list[bytes] = []
        room = 0
        for payload in payloads:
            length = len(payload)
            if length > LARGEST_MESSAGE:
                raise MessageTooLong(f"a message of {length} bytes; the limit is {LARGEST_MESSAGE}")
            if length > LARGEST_PLAIN:
                chunks.append(Outgoing(self.name, self.member, bytes(payload), guarantee))
                room = 0
                continue
            room -= length + MCAST_PREFIX
            if room < 0:
                chunk = []
                chunks.append((chunk, guarantee))
                room = LARGEST_PLAIN - length
            chunk.append(self._headers[length] + payload)
        return chunks

    @property
    def outgoing(self) -> Outgoing | None:
        """The message in pieces that is first in the outbox, if it is one; perhaps all its pieces are on their way."""
        first = self._outbox[0] if self._outbox else None
        return first if isinstance(first, Outgoing) else None

    def push(self, *, cut: bool) -> bool:
        """Give the ring what it has room for; whether nothing waits any more. `cut`: pieces are allowed to go."""
        while self._outbox:
            waiting = self._outbox[0]
            if not isinstance(waiting, Outgoing):
                messages, guarantee = waiting
            elif cut and not waiting.handed_over:
                messages, guarantee = [waiting.piece()], waiting.guarantee
            else:
                return False  # handed over, it must come back whole before others follow: a new ring may cut it
            try:
                self._engine.multicast(messages, guarantee)
            except QueueFull:
                return False
            if isinstance(waiting, Outgoing):
                waiting.advance()
            else:
                self._outbox.popleft()
        return True

    def piece_came_back(self, *, first: bool, whole: bool) -> None:
        """A piece of this member's was delivered to this node: the first of a message, or the one that completes it."""
        if self.outgoing is not None:
            self.outgoing.begun = self.outgoing.begun or first
            if whole:
                self._outbox.popleft()

    def entered(self) -> None:
        """The own join has been delivered."""
        self._step = _Step.JOINED

    def ended(self) -> None:
        """The own leave has been delivered."""
        self._step = _Step.LEFT


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
    """Node ids for which the present sync waits; empty when none runs."""


class _Channel:
    """Where the messages of one member go: the inboxes of the group's local members."""

    __slots__ = ("inboxes", "member")

    def __init__(self, member: Member, inboxes: tuple[Inbox, ...] | None) -> None:
        self.member = member
        self.inboxes = inboxes
        """None: the member's node has no process in the group, so the messages are dropped."""


_Route = tuple[bytes, int, _Channel]
"""An mcast header as it was seen, the length of messages that have it, and where their payloads go."""
_NO_ROUTES: Final[dict[bytes, _Route]] = {}


class Engine:
    """Everything of `cpg` on one node, without I/O: routes the deliveries of a Processor, sends down to it.

    The driver gives it each `Ready`'s deliveries, also when there are none (what waits for room goes on then), and
    calls `advance` when `deadline` has come.
    """

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
        self.node_id = processor.node_id
        self.failure: str | None = None
        """Why this node must stop (killed by the administrator); None while it may go on."""
        self.ring_id = NO_RING
        """The last ring whose groups are known (that of the last `TotemConfchg`); NO_RING before the first."""
        self.node_ids: tuple[int, ...] = ()
        """Members of that ring."""
        self.synced = False
        """Whether sync of the installed ring is complete: false before the first ring and during each change."""
        self.multicast = processor.multicast
        self._processor = processor
        self._on_ring = on_ring
        self._groups = Groups(self.node_id)
        self._sync = Sync(
            {SERVICE_CPG: Service(self._groups.sync_messages, self._activate)},
            send=processor.multicast_sync,
            complete=self._sync_complete,
            limit=sync_limit,
        )
        self._assembler = Assembler()
        self._configuration: RegularConfiguration | None = None
        """The installed ring, synced or not."""
        self._transitional: Transitional | None = None
        """What was told last, until `TotemConfchg` ends it."""
        self._local: dict[tuple[bytes, int], Membership] = {}
        self._waiting: deque[Membership] = deque()
        """Memberships with something in their outbox, by turn."""
        self._routes: dict[int, dict[bytes, _Route]] = {}
        """By node id and header bytes; emptied whenever a group changes."""
        self._channels: dict[tuple[bytes, Member], _Channel] = {}
        self._malformed: Counter[str] = Counter()
        self._unknown_senders = 0

    @property
    def deadline(self) -> float:
        """When `advance` wants to be called: seconds on the clock of its `now`, or inf."""
        return self._sync.deadline

    @property
    def groups(self) -> dict[bytes, tuple[Member, ...]]:
        """All groups that have members anywhere in the ring, by name in ascending order."""
        return {name: self._groups.members(name) for name in self._groups.names()}

    def members(self, name: bytes) -> tuple[Member, ...]:
        """Who is in a group, in order of node id and pid; empty for one that nobody is in."""
        return self._groups.members(name)

    def statistics(self) -> EngineStatistics:
        """A frozen record of the counters."""
        return EngineStatistics(
            malformed=dict(self._malformed),
            unknown_senders=self._unknown_senders,
            syncs_started=self._sync.started,
            syncs_completed=self._sync.completed,
            syncs_overdue=self._sync.overdue,
            silent=self._sync.silent,
        )

    def advance(self, now: float) -> None:
        """Watch over the duration of sync."""
        self._sync.advance(now)

    # Going down: joins, and the turns of what waits for room.

    def join(self, name: bytes, pid: int, inbox: Inbox) -> Membership:
        """A local process joins a group; accepted also before the first ring and while sync runs.

        ValueError for an empty or too long name, AlreadyJoined, CorosyncLimit (127 bytes, no NUL, 128 members while a
        Corosync node is in the ring; ruling C7).
        """
        if not 1 <= len(name) <= LARGEST_NAME:
            raise ValueError(f"a group name has 1 to {LARGEST_NAME} bytes, this one has {len(name)}")
        if (name, pid) in self._local:
            raise AlreadyJoined(f"process {pid} is in group {name!r} already")
        if len(self._local) >= MOST_PROCESSES:
            raise CorosyncLimit(f"a node can have at most {MOST_PROCESSES} memberships")
        if self._configuration is not None and not self._configuration.pure:
            self._refuse_what_corosync_cannot_stand(name)
        membership = self._local[name, pid] = Membership(self, name, pid, inbox)
        membership.enter()
        return membership

    def _refuse_what_corosync_cannot_stand(self, name: bytes) -> None:
        if len(name) > COROSYNC_LARGEST_NAME or b"\0" in name:
            raise CorosyncLimit(
                f"group name {name!r}: with a Corosync node in the ring at most {COROSYNC_LARGEST_NAME} bytes, no NUL"
            )
        members = set(self.members(name))
        members.update(membership.member for membership in self._local.values() if membership.name == name)
        if len(members) >= COROSYNC_MOST_MEMBERS:
            raise CorosyncLimit(f"group {name!r} has {len(members)} members: no more with a Corosync node in the ring")

    def wait_for_room(self, membership: Membership) -> None:
        """The membership has something in its outbox: it gets its turns until that is empty."""
        if membership not in self._waiting:
            self._waiting.append(membership)
        self._push()

    def _push(self) -> None:
        cut = True
        for membership in tuple(self._waiting):
            if membership.push(cut=cut):
                self._waiting.remove(membership)
            elif membership.outgoing is not None:
                cut = False

    # Coming up.

    def deliver(self, deliveries: Iterable[Delivery]) -> None:
        """Take everything that the Processor delivers, in order; never raises for what is in the messages."""
        for delivery in deliveries:
            if isinstance(delivery, Messages):
                self._on_messages(delivery)
            elif isinstance(delivery, TransitionalConfiguration):
                self._on_transitional(delivery)
            else:
                self._on_regular(delivery)
        if self._waiting:
            self._push()

    def _on_messages(self, batch: Messages) -> None:
        """Hot: runs for every message. What it does for one mcast after another of the same member and size is two
        comparisons, a slice and an append. A header that differs costs a look-up, one that was never seen a decoding.
        """
        sender, _, _, level, messages = batch
        routes = self._routes.get(sender, _NO_ROUTES)
        prefix, length, channel = b"", -1, None
        payloads: list[bytes] = []
        for message in messages:
            if len(message) != length or not message.startswith(prefix):
                route = routes.get(message[:MCAST_PREFIX])
                if route is None or route[1] != len(message):
                    if channel is not None:
                        self._hand_over(channel, level, payloads)
                        prefix, length, channel = b"", -1, None
                    route = self._on_unknown(sender, level, message)
                    routes = self._routes.get(sender, _NO_ROUTES)
                    if route is None:
                        continue
                prefix, length, its_channel = route
                if its_channel is not channel:
                    if channel is not None:
                        self._hand_over(channel, level, payloads)
                    channel, payloads = its_channel, []
            payloads.append(message[MCAST_PREFIX:])
        if channel is not None:
            self._hand_over(channel, level, payloads)

    def _hand_over(self, channel: _Channel, level: Level, payloads: list[bytes]) -> None:
        if channel.inboxes is None:
            self._unknown_senders += len(payloads)
            return
        for inbox in channel.inboxes:
            inbox.messages(channel.member, level, payloads)

    def _on_unknown(self, sender: int, level: Level, message: bytes) -> _Route | None:
        """A message whose header is not known: learn the route of an mcast, handle everything else."""
        try:
            decoded = decode(message)
        except MalformedDatagram as malformed:
            self._malformed[malformed.cause] += 1
            return None
        if isinstance(decoded, Mcast):
            routes = self._routes.setdefault(sender, {})
            if len(routes) >= KNOWN_HEADERS:
                routes.clear()
            prefix = message[:MCAST_PREFIX]
            channel = self._channel(decoded.name, Member(sender, decoded.pid))
            route = routes[prefix] = (prefix, len(message), channel)
            return route
        if decoded is not None:
            self._on_exec(sender, level, decoded)
        return None

    def _channel(self, name: bytes, member: Member) -> _Channel:
        channel = self._channels.get((name, member))
        if channel is None:
            inboxes = None
            if self._groups.has_node(name, member.node_id):
                inboxes = tuple(membership.inbox for membership in self._joined(name))
            channel = _Channel(member, inboxes)
            if len(self._channels) >= KNOWN_HEADERS:
                self._channels.clear()
            self._channels[name, member] = channel
        return channel

    def _joined(self, name: bytes) -> list[Membership]:
        return [membership for membership in self._local.values() if membership.name == name and membership.joined]

    def _on_exec(self, sender: int, level: Level, message: ExecMessage) -> None:
        match message:
            case Procjoin(name, pid):
                self._on_procjoin(name, Member(sender, pid))
            case Procleave(name, pid, reason):
                change = self._groups.on_procleave(name, Member(sender, pid), reason)
                if change is not None:
                    self._tell(change)
            case PartialMcast():
                self._on_partial(Member(sender, message.pid), level, message)
            case ServiceBuild():
                self._sync.on_service_build(sender, message)
            case Barrier() if self._sync.heard(sender):
                self._sync.on_barrier(sender, message)
            case Joinlist() if self._sync.heard(sender):
                self._groups.on_joinlist(sender, message)
            case Killnode(node_id, reason) if node_id == self.node_id:
                self.failure = f"an administrator at node {sender} ended this node: {reason}"
            case Downlist():
                pass  # everybody derives who left from what it has seen itself

    def _on_procjoin(self, name: bytes, member: Member) -> None:
        change = self._groups.on_procjoin(name, member)
        if change is None:
            return
        own = self._own(name, member)
        if own is not None:
            own.entered()
        self._tell(change)
        if own is not None:
            own.inbox.event(TotemConfchg(self.ring_id, self.node_ids))
            # Here `Quorum` follows with the next version.
            if self._transitional is not None:
                own.inbox.event(self._transitional)

    def _tell(self, change: Change) -> None:
        name, confchg = change
        self._routes.clear()
        self._channels.clear()
        self._assembler.forget(name, confchg.left)
        for membership in self._joined(name):
            membership.inbox.event(confchg)
        for member in confchg.left:
            own = self._own(name, member)
            if own is not None:
                del self._local[name, member.pid]
                own.ended()

    def _tell_all(self, event: RingEvent) -> None:
        self._on_ring(event)
        for membership in list(self._local.values()):
            if membership.joined:
                membership.inbox.event(event)

    def _on_partial(self, member: Member, level: Level, piece: PartialMcast) -> None:
        channel = self._channel(piece.name, member)
        if channel.inboxes is None:
            self._unknown_senders += 1
            return
        payload = None
        try:
            payload = self._assembler.add(member, piece)
        except MalformedDatagram as malformed:
            self._malformed[malformed.cause] += 1
        if payload is not None:
            self._hand_over(channel, level, [payload])
        own = self._own(piece.name, member)
        if own is not None:
            own.piece_came_back(first=piece.piece == PIECE_FIRST, whole=payload is not None)

    def _own(self, name: bytes, member: Member) -> Membership | None:
        return self._local.get((name, member.pid)) if member.node_id == self.node_id else None

    # Changes of ring.

    def _on_transitional(self, configuration: TransitionalConfiguration) -> None:
        self.synced = False
        self._sync.abort()
        self._groups.on_transitional(configuration.members)
        if self.ring_id != NO_RING:
            self._transitional = Transitional(self._groups.staying)
            self._tell_all(self._transitional)

    def _on_regular(self, configuration: RegularConfiguration) -> None:
        self.synced = False
        self._configuration = configuration
        self._groups.on_regular(configuration.members, configuration.transitional)
        if configuration.pure:
            self._assembler.clear()
        for membership in self._waiting:
            if membership.outgoing is not None:
                membership.outgoing.new_ring(pure=configuration.pure)
        self._sync.start(configuration.ring_id, configuration.members)

    def _activate(self) -> None:
        """The groups of the new ring are known to all: tell what has become of them (ruling C5)."""
        assert self._configuration is not None, "sync runs in a ring"
        changes = self._groups.activate()
        self.ring_id = self._configuration.ring_id
        self.node_ids = self._configuration.members
        self._transitional = None
        for change in changes:
            self._tell(change)
        self._tell_all(TotemConfchg(self.ring_id, self.node_ids))

    def _sync_complete(self, ring_id: RingId) -> None:
        # Here `Quorum` is told with the next version, when votequorum's turn in sync has come before.
        self.synced = True
        self._processor.sync_complete(ring_id)
