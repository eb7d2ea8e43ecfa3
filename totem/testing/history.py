"""What happened in a run, as its processes saw it: the record that the checkers judge.

A `Trace` is what one process (one incarnation of a node) saw and did, in its order: the configurations and messages
that it was given, and those that it sent. A `History` holds the traces of all processes of one run, read once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from totem.configuration import (
    Configuration,
    Delivery,
    Guarantee,
    Level,
    Messages,
    RegularConfiguration,
    RingId,
    TransitionalConfiguration,
)

MASK = 0xFFFFFFFF
HALF = 0x80000000


class Process(NamedTuple):
    """One incarnation of a node."""

    node_id: int
    incarnation: int = 1
    foreign: bool = False
    """Whether it is Corosync, or a model of it, and not this package."""

    def __str__(self) -> str:
        life = f"'{self.incarnation}" if self.incarnation > 1 else ""
        return f"{self.node_id}{life}{'*' * self.foreign}"


class Sent(NamedTuple):
    """The program handed over messages, and they were accepted."""

    messages: tuple[bytes, ...]
    guarantee: Guarantee = Guarantee.AGREED
    sync: bool = False
    """Whether it is in the sync stream; such messages may be dropped when their round is dead."""


Event = Sent | Delivery


@dataclass(slots=True)
class Trace:
    """What one process saw and did, in its order."""

    process: Process
    events: list[Event] = field(default_factory=list)
    ended: bool = False
    """Whether it crashed, failed or left after the last event."""


@dataclass(slots=True, eq=False)
class SentMessage:
    """One message of a run."""

    sender: Process
    order: int
    """Its place among the messages of its sender in its stream, from 0."""
    guarantee: Guarantee
    sync: bool
    sent_at: Segment | None
    """Where its sender was when it handed the message over; None before its first configuration."""
    known: int
    """Number of messages that the sender had been given in `sent_at` by then."""
    ring_id: RingId | None = None
    """The configuration in which it was sent (numbered); None if no process delivered it."""
    seq: int = 0
    place: int = -1
    """Its place among all messages sent in that configuration."""

    def __str__(self) -> str:
        return f"{'sync ' * self.sync}{'safe ' * self.guarantee}message {self.sender}#{self.order}"


class Batch(NamedTuple):
    """The content of one `Messages` of a trace."""

    messages: list[SentMessage]
    level: Level
    ring_id: RingId
    seq: int


@dataclass(slots=True, eq=False)
class Segment:
    """One configuration at one process, and what it was given there."""

    process: Process
    configuration: Configuration
    number: int
    """Number of configurations that the process had before."""
    previous: Segment | None
    following: Segment | None = None
    batches: list[Batch] = field(default_factory=list)
    messages: list[SentMessage] = field(default_factory=list)
    """The messages of all batches."""

    @property
    def ring_id(self) -> RingId:
        """The regular configuration that this is, or that it follows."""
        return self.configuration.ring_id

    @property
    def is_transitional(self) -> bool:
        """Whether it is a transitional configuration."""
        return isinstance(self.configuration, TransitionalConfiguration)

    @property
    def transitional(self) -> Segment | None:
        """The transitional configuration that follows this regular one."""
        following = self.following
        return following if following is not None and following.is_transitional else None

    @property
    def next_regular(self) -> Segment | None:
        """The regular configuration that the process installed next."""
        following = self.transitional or self
        return following.following

    @property
    def previous_regular(self) -> Segment | None:
        """The regular configuration that the process came from."""
        previous = self.previous
        return previous.previous if previous is not None and previous.is_transitional else previous

    def community(self) -> list[SentMessage]:
        """Return what the process was given in com(c), for a regular c."""
        transitional = self.transitional
        return self.messages + transitional.messages if transitional and transitional.messages else self.messages

    def __str__(self) -> str:
        return name(self.configuration)


def name(configuration: Configuration) -> str:
    """Return a configuration as the text of a violation has it."""
    if isinstance(configuration, TransitionalConfiguration):
        return f"transitional {configuration.ring_id} to {configuration.next_ring_id} {configuration.members}"
    return f"regular {configuration.ring_id} {configuration.members}"


@dataclass(slots=True, eq=False)
class RingHistory:
    """One regular configuration, as all processes together saw it."""

    ring_id: RingId
    segments: dict[int, Segment] = field(default_factory=dict)
    """By node id: its segment at each process that installed it."""
    frames: dict[int, list[SentMessage]] = field(default_factory=dict)
    """The messages of each frame, from the process that was given most of them."""
    order: list[SentMessage] = field(default_factory=list)
    """All messages that any process was given as sent in it, in their order."""

    def put_in_order(self) -> None:
        """Give each message its place; numbers may have wrapped around."""
        first = next(iter(self.frames), 0)
        for seq in sorted(self.frames, key=lambda seq: (seq - first + HALF) & MASK):
            for message in self.frames[seq]:
                if message.place < 0:
                    message.place = len(self.order)
                    self.order.append(message)


class History:
    """All traces of a run, read once; what is wrong at first sight is in `flaws`, by clause.

    `quiescent`: nothing was on its way at the end, so what is still missing is lost. `early`: foreign processes with a
    ring that they installed before they had all that its recovery brought, because of counters left over from a broken
    attempt (rulings, A3). They may lack messages of that ring, and of the one that they came from.
    """

    def __init__(
        self, traces: Iterable[Trace], *, quiescent: bool, early: Iterable[tuple[Process, RingId]] = ()
    ) -> None:
        traces = list(traces)
        self.quiescent = quiescent
        self.early = set(early)
        self.alive = {trace.process for trace in traces if not trace.ended}
        self.pure = not any(trace.process.foreign for trace in traces)
        """Whether the pure column is checked: no process is foreign."""
        self.foreign_nodes = {trace.process.node_id for trace in traces if trace.process.foreign}
        if self.early:
            sent = {
                content
                for trace in traces
                for event in trace.events
                if isinstance(event, Sent)
                for content in event.messages
            }
            traces = [self._without_misfiled(trace, sent) for trace in traces]
        self.traces = traces
        self.flaws: dict[str, list[str]] = defaultdict(list)
        self.messages: dict[bytes, SentMessage] = {}
        self.sent: dict[Process, list[SentMessage]] = {}
        """By sender, in the order in which they were handed over; both streams."""
        self.segments: dict[Process, list[Segment]] = {}
        self.steps: dict[Process, list[tuple[bool, list[SentMessage]]]] = {}
        """(sent, which) for each sending and each delivery, in the process's order."""
        self.rings: dict[RingId, RingHistory] = {}
        for trace in self.traces:
            self._read_configurations_and_sent(trace)
        for trace in self.traces:
            self._read_deliveries(trace)
        for ring in self.rings.values():
            ring.put_in_order()

    def _without_misfiled(self, trace: Trace, sent: set[bytes]) -> Trace:
        """Return a trace without the effects of misfiling in a ring of foreign nodes that was installed early.

        A companion that installs in time multicasts while this process is still in Recovery. This process files what is
        not encapsulated in the old ring's queue, delivers it from there, and may join what comes later over the hole.
        No node of this package takes part in that.
        """
        installed = {
            event.ring_id: index
            for index, event in enumerate(trace.events)
            if isinstance(event, RegularConfiguration)
            and (trace.process, event.ring_id) in self.early
            and self.foreign_nodes.issuperset(event.members)
        }
        events: list[Event] = []
        for index, event in enumerate(trace.events):
            if isinstance(event, Messages) and event.ring_id in installed:
                contents = [content for content in event.messages if content in sent]
                if index > installed[event.ring_id] and contents:
                    events.append(event._replace(messages=contents))
            else:
                events.append(event)
        return replace(trace, events=events)

    def _read_configurations_and_sent(self, trace: Trace) -> None:
        process = trace.process
        segments = self.segments[process] = []
        sent = self.sent[process] = []
        orders = [0, 0]
        segment: Segment | None = None
        known = 0
        for event in trace.events:
            if isinstance(event, Messages):
                known += len(event.messages)
            elif isinstance(event, Sent):
                for content in event.messages:
                    message = SentMessage(process, orders[event.sync], event.guarantee, event.sync, segment, known)
                    orders[event.sync] += 1
                    if content in self.messages:
                        self.flaws["1.2"].append(f"{message} was sent before as {self.messages[content]}")
                    self.messages[content] = message
                    sent.append(message)
            elif not (trace.process.foreign and isinstance(event, TransitionalConfiguration)):
                following = Segment(process, event, len(segments), segment)
                if segment is not None:
                    segment.following = following
                segment = following
                known = 0
                segments.append(segment)
                if isinstance(event, RegularConfiguration):
                    ring = self.rings.setdefault(event.ring_id, RingHistory(event.ring_id))
                    if process.node_id in ring.segments:
                        self.flaws["2.2"].append(f"{process} installs {event.ring_id}, which its node had before")
                    ring.segments[process.node_id] = segment

    def _read_deliveries(self, trace: Trace) -> None:
        process = trace.process
        steps = self.steps[process] = []
        segments = iter(self.segments[process])
        sent = iter(self.sent[process])
        segment: Segment | None = None
        for event in trace.events:
            if isinstance(event, Messages):
                batch = self._read_batch(process, event)
                steps.append((False, batch.messages))
                if segment is None:
                    self.flaws["2.3"].append(f"{process} was given messages before its first configuration")
                    continue
                segment.batches.append(batch)
                segment.messages += batch.messages
            elif isinstance(event, Sent):
                steps.append((True, [next(sent) for _ in event.messages]))
            elif not (trace.process.foreign and isinstance(event, TransitionalConfiguration)):
                segment = next(segments)

    def _read_batch(self, process: Process, event: Messages) -> Batch:
        sender, ring_id, seq, level, contents, _ = event
        messages = []
        for content in contents:
            message = self.messages.get(content)
            if message is None or message.sender.node_id != sender:
                what = f"{len(content)} bytes {content[:24].hex()}…" if message is None else message
                self.flaws["1.4"].append(f"{process} was given, as from {sender}, what that never sent: {what}")
                continue
            messages.append(message)
            if message.ring_id is None:
                message.ring_id = ring_id
                message.seq = seq
            elif message.ring_id != ring_id:
                self.flaws["1.2"].append(
                    f"{message} was sent in {message.ring_id}, but {process} was given it as sent in {ring_id}"
                )
            elif message.seq != seq:
                self.flaws["6.1"].append(
                    f"{message} has number {message.seq} in {ring_id}, but at {process} number {seq}"
                )
        frames = self.rings.setdefault(ring_id, RingHistory(ring_id)).frames
        if len(messages) > len(frames.setdefault(seq, messages)):
            frames[seq] = messages
        return Batch(messages, level, ring_id, seq)

    def excused(self, segment: Segment, message: SentMessage) -> bool:
        """Return whether this process may lack this message, as only foreign processes cause."""
        return self._installed_early(segment) or self.came_in_the_middle(segment, message)

    def _installed_early(self, segment: Segment) -> bool:
        regular = segment.previous if segment.is_transitional else segment
        return regular is not None and any(
            ring is not None and (segment.process, ring.ring_id) in self.early
            for ring in (regular, regular.next_regular)
        )

    def came_in_the_middle(self, segment: Segment, message: SentMessage) -> bool:
        """Return whether this process may lack this message of a foreign sender (rulings, A10, on 6.2).

        The process came to the sender's ring (or came along too early) while the sender was in the middle of a message.
        It lacks all messages of this stream of the sender's up to one.
        """
        if not message.sender.foreign or message.ring_id is None:
            return False
        ring = self.rings[message.ring_id]
        theirs = ring.segments.get(message.sender.node_id)
        mine: Segment | None = segment.previous if segment.is_transitional else segment
        if theirs is None or mine is None:
            return False
        held = set(mine.community())
        missing = []
        for candidate in ring.order:
            if candidate.sender == message.sender and candidate.sync == message.sync:
                if candidate in held:
                    break
                missing.append(candidate)
        if message not in missing:
            return False
        together = theirs
        while mine and theirs and mine.ring_id == theirs.ring_id:
            together = theirs
            if (segment.process, mine.ring_id) in self.early:
                break
            mine, theirs = mine.previous_regular, theirs.previous_regular
        cut = missing[0].sent_at
        return cut is None or cut.number < together.number or self._follows_a_dead_sync(missing[0])

    def lost_its_beginning(self, skipped: SentMessage, message: SentMessage) -> bool:
        """Return whether no process had to deliver a skipped message of a foreign sender that ended, though a later one
        was.

        The sender was in the middle of that message when it went to the ring of the other one, where only itself had
        the beginning (rulings, A10).
        """
        sender = skipped.sender
        began_before = skipped.sent_at is None or skipped.sent_at.ring_id != message.ring_id
        return sender.foreign and sender not in self.alive and began_before

    def _follows_a_dead_sync(self, first: SentMessage) -> bool:
        """Return whether the sender had an earlier sync message that came to nothing, perhaps half sent."""
        return first.sync and any(
            message.sync and message.order < first.order and message.ring_id is None
            for message in self.sent[first.sender]
        )
