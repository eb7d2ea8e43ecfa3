"""The engine: everything of `cpg` on one node, on top of one Processor, without I/O.

The Processor's deliveries go through `Engine.deliver`. Frames of messages go to the hot function `_on_messages`, which
sorts payloads into the inboxes of the local memberships. All other exec messages go to the sync machine and the process
list, configurations to both. Messages of these machines go back through the Processor's two send streams.

The order that every member of a group sees (ruling C5), and where it comes from here:

    Transitional          `_on_transitional`: the ring is changing; sync, if it runs, is aborted
    messages left over    `_on_messages`
    Confchg ...           `_activate`: all nodes have sent their processes, `ProcessList` derives the changes
    TotemConfchg          `_activate`
    Quorum                `_sync_complete`
    new messages          held back by every sender's Processor until its `sync_complete`

Messages of local members go to the Processor directly, or wait for room in their outboxes (`cpg.node.membership`). One
outbox at a time sends a message in pieces.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cpg.contracts import Inbox
from cpg.errors import AlreadyJoined, CorosyncLimit
from cpg.events import Member, Quorum, RingEvent, TotemConfchg, Transitional
from cpg.node.groups import Change, ProcessList
from cpg.node.membership import KNOWN_HEADERS, LocalMembership
from cpg.node.pieces import Assembler
from cpg.node.quorum import Votequorum
from cpg.node.sync import Sync, SyncService
from cpg.node.wire import (
    KEY_IN_USE,
    LARGEST_NAME,
    MCAST_PREFIX,
    MOST_PROCESSES,
    PIECE_FIRST,
    SERVICE_CPG,
    SERVICE_VOTEQUORUM,
    Barrier,
    Downlist,
    ExecMessage,
    Joinlist,
    KeyPhase,
    Killnode,
    Mcast,
    Nodeinfo,
    PartialMcast,
    Procjoin,
    Procleave,
    Reconfigure,
    Reload,
    ServiceBuild,
    decode,
    decode_label,
)
from cpg.payloads import LARGEST_MESSAGE
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
from totem.errors import MalformedDatagram, QueueFull
from totem.labels import Envelope
from totem.text import quoted

COROSYNC_LARGEST_NAME: Final = LARGEST_NAME - 1
LARGEST_WAITING: Final = 4 * LARGEST_MESSAGE
"""Limit of the bytes of long messages in all outboxes together: their members send one after the other."""
COROSYNC_MOST_MEMBERS: Final = 128
"""Members of one group: Corosync's nodes have fixed arrays (ruling C7)."""


def check_name(name: bytes) -> None:
    """Raise ValueError unless this can be the name of a group."""
    if not 1 <= len(name) <= LARGEST_NAME:
        raise ValueError(f"a group name has 1 to {LARGEST_NAME} bytes, this one has {len(name)}")


def refuse_name_for_corosync(name: bytes) -> None:
    """Raise CorosyncLimit for a name that would break a Corosync node (ruling C7).

    NULs at the end do no harm: Pacemaker's names have one.
    """
    if len(name) > COROSYNC_LARGEST_NAME or b"\0" in name.rstrip(b"\0"):
        raise CorosyncLimit(
            f"group name {quoted(name)}: with a Corosync node in the ring at most {COROSYNC_LARGEST_NAME} bytes, and "
            "NUL at the end alone"
        )


def _namesakes(name: bytes) -> list[bytes]:
    """Return the names that are one name to a Corosync node, when it counts who came or left with a node: up to their
    NULs.
    """
    stem = name.rstrip(b"\0")
    return [stem.ljust(length, b"\0") for length in range(max(1, len(stem)), COROSYNC_LARGEST_NAME + 1)]


class Transport(Protocol):
    """The Processor (`totem.Processor`), as the engine needs it."""

    @property
    def node_id(self) -> int:
        """The node's id."""

    def multicast(
        self, messages: Sequence[bytes], guarantee: Guarantee = Guarantee.AGREED, envelope: Envelope | None = None
    ) -> None:
        """Queue separate messages; with an envelope they are payloads. QueueFull leaves nothing queued."""

    def multicast_sync(self, messages: Sequence[bytes]) -> None:
        """Queue messages that are sent while sync of the present ring runs."""

    def sync_complete(self, ring_id: RingId) -> None:
        """Allow application messages: sync of that ring is complete."""


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """Counters since the start, and the state of sync."""

    messages: int
    """Messages that the ring has delivered here: of all groups, wherever their members are, and between the nodes."""
    malformed: Mapping[str, int]
    """Dropped exec messages by cause."""
    unknown_senders: int
    """Messages dropped because their node has no process in the group."""
    syncs_started: int
    syncs_completed: int
    syncs_overdue: int
    """Syncs that took longer than `sync_limit`."""
    silent: tuple[int, ...]
    """Node ids that the present sync waits for; empty if none runs."""


class _Channel:
    """The inboxes for the messages of one member: those of the group's local members."""

    __slots__ = ("inboxes", "member")

    def __init__(self, member: Member, inboxes: tuple[Inbox, ...] | None) -> None:
        self.member = member
        self.inboxes = inboxes
        """None: the member's node has no process in the group, so its messages are dropped."""


_Route = tuple[bytes, int, _Channel]
"""A known mcast header, the length of messages with it, and the channel for their payloads."""
_NO_ROUTES: Final[dict[bytes, _Route]] = {}


class Engine:
    """Everything of `cpg` on one node, without I/O: routes the deliveries of a Processor, sends down to it.

    The driver gives it each `Ready`'s deliveries, also when there are none (messages that wait for room go on then),
    and calls `advance` at `deadline`.
    """

    def __init__(
        self,
        processor: Transport,
        *,
        sync_limit: float = math.inf,
        votes: Votequorum | None = None,
        on_ring: Callable[[RingEvent], None] = lambda event: None,
        on_order: Callable[[int, Reload | KeyPhase], None] = lambda sender, order: None,
    ) -> None:
        """`sync_limit`: seconds after which sync counts as stuck (twice the consensus timeout, ruling C4).

        `votes`: this node's count of the cluster's votes; without one every ring is quorate. `on_ring` gets the ring's
        events that every group gets, for programs without a group. `on_order` gets an administrator's orders to all
        nodes, with the node that has sent each.
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
        self._on_order = on_order
        self._votes = votes
        self._quorum: Quorum | None = None
        """The last reported quorum of this ring; None until its sync is complete."""
        self._groups = ProcessList(self.node_id)
        services = {SERVICE_CPG: SyncService(self._groups.sync_messages, self._activate)}
        if votes is not None:
            services[SERVICE_VOTEQUORUM] = SyncService(votes.messages, votes.activate)
        self._sync = Sync(
            services,
            send=processor.multicast_sync,
            complete=self._sync_complete,
            limit=sync_limit,
        )
        self._assembler = Assembler()
        self._configuration: RegularConfiguration | None = None
        """The installed ring, synced or not."""
        self._transitional: Transitional | None = None
        """The last `Transitional`, until `TotemConfchg` ends it."""
        self._local: dict[tuple[bytes, int], LocalMembership] = {}
        self._waiting: deque[LocalMembership] = deque()
        """Memberships with something in their outbox, in the order of their turns."""
        self._routes: dict[int, dict[bytes, _Route]] = {}
        """By node id and header bytes; emptied whenever a group changes."""
        self._channels: dict[tuple[bytes, Member], _Channel] = {}
        self._labelled: dict[tuple[int, bytes], _Channel] = {}
        """By node id and label; emptied with the channels."""
        self._messages = 0
        self._malformed: Counter[str] = Counter()
        self._unknown_senders = 0

    @property
    def deadline(self) -> float:
        """When `advance` must be called: seconds on the clock of its `now`, or inf."""
        return min(self._sync.deadline, self._votes.deadline if self._votes is not None else math.inf)

    @property
    def quorate(self) -> bool:
        """Whether the ring had the votes to act for the cluster when that was reported last."""
        return self._quorum is not None and self._quorum.quorate

    @property
    def groups(self) -> dict[bytes, tuple[Member, ...]]:
        """All groups that have members anywhere in the ring, by name in ascending order."""
        return {name: self._groups.members(name) for name in self._groups.names()}

    @property
    def pure(self) -> bool:
        """Whether all members of the installed ring are of this package."""
        return self._configuration is not None and self._configuration.pure

    @property
    def transitional(self) -> tuple[int, ...]:
        """Members of the installed ring that have come to it together with this node."""
        return self._configuration.transitional if self._configuration is not None else ()

    def members(self, name: bytes) -> tuple[Member, ...]:
        """Return the members of a group, in order of node id and pid; empty for a group without members."""
        return self._groups.members(name)

    def statistics(self) -> EngineStatistics:
        """Return a frozen record of the counters."""
        return EngineStatistics(
            messages=self._messages,
            malformed=dict(self._malformed),
            unknown_senders=self._unknown_senders,
            syncs_started=self._sync.started,
            syncs_completed=self._sync.completed,
            syncs_overdue=self._sync.overdue,
            silent=self._sync.silent,
        )

    def advance(self, now: float) -> None:
        """Check the duration of sync, and the deadlines of the count of votes."""
        self._sync.advance(now)
        if self._votes is not None:
            self._votes.advance(now)
            self._deliver_quorum()

    # Down: joins, and the turns of memberships that wait for room.

    def join(self, name: bytes, pid: int, inbox: Inbox) -> LocalMembership:
        """Join a group for a local process; accepted also before the first ring and while sync runs.

        Raises ValueError for an empty or too long name, AlreadyJoined, and CorosyncLimit: while a Corosync node is in
        the ring, a name has at most 127 bytes with NUL at the end alone, and a group 128 members (ruling C7).
        """
        check_name(name)
        if (name, pid) in self._local:
            raise AlreadyJoined(f"process {pid} is in group {quoted(name)} already")
        if len(self._local) >= MOST_PROCESSES:
            raise CorosyncLimit(f"a node can have at most {MOST_PROCESSES} memberships")
        if self._configuration is not None and not self._configuration.pure:
            self._refuse_what_corosync_cannot_stand(name)
        membership = self._local[name, pid] = LocalMembership(self, name, pid, inbox)
        membership.enter()
        return membership

    def _refuse_what_corosync_cannot_stand(self, name: bytes) -> None:
        refuse_name_for_corosync(name)
        names = set(_namesakes(name))
        members = {(namesake, member) for namesake in names for member in self.members(namesake)}
        local = {membership for membership in self._local.values() if membership.name in names}
        members.update((membership.name, membership.member) for membership in local)
        if len(members) >= COROSYNC_MOST_MEMBERS:
            raise CorosyncLimit(
                f"group {quoted(name)} has {len(members)} members: no more with a Corosync node in the ring"
            )

    def check_room(self, size: int) -> None:
        """Raise QueueFull if `size` more bytes of long messages would be too many to hold."""
        waiting = sum(membership.waiting for membership in self._waiting)
        if waiting and waiting + size > LARGEST_WAITING:
            raise QueueFull(f"{waiting} bytes of long messages wait already")

    def wait_for_room(self, membership: LocalMembership) -> None:
        """Give the membership its turns until its outbox is empty."""
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

    # Up: deliveries.

    def deliver(self, deliveries: Iterable[Delivery]) -> None:
        """Process all deliveries of the Processor, in order; never raises for the content of messages."""
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
        """Sort payloads into inboxes. Hot: runs for every message; payloads with a label need no look at each of them.

        For one mcast after another of the same member and size it does two comparisons, a slice and an append. A header
        that differs costs a look-up, one that was never seen a decoding.
        """
        sender, _, _, level, messages, label = batch
        self._messages += len(messages)
        if label:
            to = self._labelled.get((sender, label)) or self._on_unknown_label(sender, label)
            if to is not None:
                self._hand_over(to, level, messages)
            return
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

    def _on_unknown_label(self, sender: int, label: bytes) -> _Channel | None:
        try:
            name, pid = decode_label(label)
        except MalformedDatagram as malformed:
            self._malformed[malformed.cause] += 1
            return None
        channel = self._labelled[sender, label] = self._channel(name, Member(sender, pid))
        return channel

    def _hand_over(self, channel: _Channel, level: Level, payloads: list[bytes]) -> None:
        if channel.inboxes is None:
            self._unknown_senders += len(payloads)
            return
        for inbox in channel.inboxes:
            inbox.messages(channel.member, level, payloads)

    def _on_unknown(self, sender: int, level: Level, message: bytes) -> _Route | None:
        """Handle a message with an unknown header: learn the route of an mcast, process everything else."""
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
                self._labelled.clear()
            self._channels[name, member] = channel
        return channel

    def _joined(self, name: bytes) -> list[LocalMembership]:
        return [membership for membership in self._local.values() if membership.name == name and membership.joined]

    def _on_exec(self, sender: int, level: Level, message: ExecMessage) -> None:
        match message:
            case Procjoin(name, pid):
                self._on_procjoin(name, Member(sender, pid))
            case Procleave(name, pid, reason):
                change = self._groups.on_procleave(name, Member(sender, pid), reason)
                if change is not None:
                    self._deliver_change(change)
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
            case Reload():
                self._on_order(sender, message)
            case KeyPhase(phase) if phase == KEY_IN_USE:
                self._on_order(sender, message)
            case Nodeinfo() if self._votes is not None:
                self._votes.on_nodeinfo(sender, message)
                self._deliver_quorum()
            case Reconfigure() if self._votes is not None:
                self._votes.on_reconfigure(message)
                self._deliver_quorum()
            case Downlist():
                pass  # every node derives who left from its own configurations

    def _on_procjoin(self, name: bytes, member: Member) -> None:
        change = self._groups.on_procjoin(name, member)
        if change is None:
            return
        own = self._own(name, member)
        if own is not None:
            own.entered()
        self._deliver_change(change)
        if own is not None:
            own.inbox.event(TotemConfchg(self.ring_id, self.node_ids))
            if self._quorum is not None:
                own.inbox.event(self._quorum)
            if self._transitional is not None:
                own.inbox.event(self._transitional)

    def _deliver_change(self, change: Change) -> None:
        name, confchg = change
        self._routes.clear()
        self._channels.clear()
        self._labelled.clear()
        self._assembler.forget(name, confchg.left)
        for membership in self._joined(name):
            membership.inbox.event(confchg)
        for member in confchg.left:
            own = self._own(name, member)
            if own is not None:
                del self._local[name, member.pid]
                own.ended()

    def _deliver_event(self, event: RingEvent) -> None:
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

    def _own(self, name: bytes, member: Member) -> LocalMembership | None:
        return self._local.get((name, member.pid)) if member.node_id == self.node_id else None

    # Changes of ring.

    def _on_transitional(self, configuration: TransitionalConfiguration) -> None:
        self.synced = False
        self._sync.abort()
        self._groups.on_transitional(configuration.members)
        if self.ring_id != NO_RING:
            self._transitional = Transitional(self._groups.staying)
            self._deliver_event(self._transitional)

    def _on_regular(self, configuration: RegularConfiguration) -> None:
        self.synced = False
        self._configuration = configuration
        self._groups.on_regular(configuration.members, configuration.transitional)
        if configuration.pure:
            self._assembler.clear()
        for membership in self._waiting:
            if membership.outgoing is not None:
                membership.outgoing.new_ring(pure=configuration.pure)
        if self._votes is not None:
            self._votes.new_ring(configuration.members)
        self._sync.start(configuration.ring_id, configuration.members)

    def _activate(self) -> None:
        """Deliver the changes of the groups, which all nodes of the new ring know now (ruling C5)."""
        assert self._configuration is not None, "sync runs in a ring"
        changes = self._groups.activate()
        self.ring_id = self._configuration.ring_id
        self.node_ids = self._configuration.members
        self._transitional = self._quorum = None
        for change in changes:
            self._deliver_change(change)
        self._deliver_event(TotemConfchg(self.ring_id, self.node_ids))

    def _deliver_quorum(self) -> None:
        """Deliver whether the ring is quorate, if that is settled and has changed."""
        quorum = Quorum(self._votes is None or self._votes.quorate, self.node_ids)
        if self.synced and quorum != self._quorum:
            self._quorum = quorum
            self._deliver_event(quorum)

    def _sync_complete(self, ring_id: RingId) -> None:
        self.synced = True
        self._deliver_quorum()
        self._processor.sync_complete(ring_id)
