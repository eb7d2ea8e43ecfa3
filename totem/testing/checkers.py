"""Extended virtual synchrony as checks of traces: one function for each clause.

A `Trace` is what one process (one incarnation of a node) saw and did, in its order: configurations and messages it was
given, messages it sent. A `History` holds the traces of all processes of one run, read once; each checker then walks
over it and yields what is wrong. The clauses are those of Moser, Amir, Melliar-Smith and Agarwal, "Extended Virtual
Synchrony" (ICDCS 1994), numbered in docs/testing.md. No checker knows how a ring works.

Words. *c* is a regular configuration, *com(c)* at a process is c and the transitional configuration that follows it
there. A message is *sent in* the configuration in which it got its number, which its deliveries tell; `Sent` in a trace
is when the program handed it over, which may be earlier, and is what causality counts from.

Two columns. In the *pure* one every process is of our make. In the *mixed* one some are *foreign* (Corosync, or a model
of it): their transitional configurations are not looked at, SAFE in a transitional configuration is no promise (but
whoever tells a level must keep it), a process may lack the first messages of a foreign sender that was in the middle of
a message when the process came, and a foreign process that installs a ring too early may lack some (`History.early`),
and may confuse what a ring of foreign nodes only sends with what came before, which then is not looked at.

Each checker takes time linear in the length of the traces, but for the sorting of each ring's messages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
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

_MASK = 0xFFFFFFFF
_HALF = 0x80000000


class Process(NamedTuple):
    """One incarnation of a node."""

    node_id: int
    incarnation: int = 1
    foreign: bool = False
    """Not of our make: Corosync, or a model of it."""

    def __str__(self) -> str:
        life = f"'{self.incarnation}" if self.incarnation > 1 else ""
        return f"{self.node_id}{life}{'*' * self.foreign}"


class Sent(NamedTuple):
    """The program handed over messages, and they were accepted."""

    messages: tuple[bytes, ...]
    guarantee: Guarantee = Guarantee.AGREED
    sync: bool = False
    """In the sync stream; such messages may be dropped when their round is dead."""


Event = Sent | Delivery


@dataclass(slots=True)
class Trace:
    """What one process saw and did, in its order."""

    process: Process
    events: list[Event] = field(default_factory=list)
    ended: bool = False
    """It crashed, failed or left, after the last event."""


class Violation(NamedTuple):
    """A broken promise."""

    clause: str
    text: str

    def __str__(self) -> str:
        return f"clause {self.clause}: {self.text}"


@dataclass(slots=True, eq=False)
class Message:
    """One message of a run."""

    sender: Process
    order: int
    """Among the messages of its sender in its stream, from 0."""
    guarantee: Guarantee
    sync: bool
    sent_at: Segment | None
    """Where its sender was when it handed it over; None before its first configuration."""
    known: int
    """How many messages the sender had been given in `sent_at` by then."""
    ring_id: RingId | None = None
    """The configuration in which it was sent (numbered); None if nobody delivered it."""
    seq: int = 0
    place: int = -1
    """Its place among all messages sent in that configuration."""

    def __str__(self) -> str:
        return f"{'sync ' * self.sync}{'safe ' * self.guarantee}message {self.sender}#{self.order}"


class Batch(NamedTuple):
    """What one `Messages` of a trace tells."""

    messages: list[Message]
    level: Level
    ring_id: RingId
    seq: int


@dataclass(slots=True, eq=False)
class Segment:
    """One configuration at one process, and what it was given there."""

    process: Process
    configuration: Configuration
    number: int
    """How many configurations the process had before."""
    previous: Segment | None
    following: Segment | None = None
    batches: list[Batch] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    """Of all batches."""

    @property
    def ring_id(self) -> RingId:
        """Which regular configuration this is, or which one it follows."""
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

    def community(self) -> list[Message]:
        """What the process was given in com(c), for a regular c."""
        transitional = self.transitional
        return self.messages + transitional.messages if transitional and transitional.messages else self.messages

    def __str__(self) -> str:
        return name(self.configuration)


def name(configuration: Configuration) -> str:
    """A configuration in the text of a violation."""
    if isinstance(configuration, TransitionalConfiguration):
        return f"transitional {configuration.ring_id} to {configuration.next_ring_id} {configuration.members}"
    return f"regular {configuration.ring_id} {configuration.members}"


@dataclass(slots=True, eq=False)
class Ring:
    """One regular configuration, as all processes together saw it."""

    ring_id: RingId
    segments: dict[int, Segment] = field(default_factory=dict)
    """At each process that installed it, by node id."""
    frames: dict[int, list[Message]] = field(default_factory=dict)
    """The messages of each frame, as told by whoever was given most of them."""
    order: list[Message] = field(default_factory=list)
    """All messages that anyone was given as sent in it, in their order."""

    def put_in_order(self) -> None:
        """Give each message its place; numbers may have wrapped around."""
        first = next(iter(self.frames), 0)
        for seq in sorted(self.frames, key=lambda seq: (seq - first + _HALF) & _MASK):
            for message in self.frames[seq]:
                if message.place < 0:
                    message.place = len(self.order)
                    self.order.append(message)


class History:
    """All traces of a run, read once; what is wrong at first sight is in `flaws`, by clause.

    `quiescent`: nothing was on its way at the end, so what is still missing is lost. `early`: which foreign processes
    installed which ring before they had all that its recovery brought, because of counters left over from an attempt
    that broke (rulings, A3); they may lack messages of that ring, and of the one that they came from.
    """

    def __init__(
        self, traces: Iterable[Trace], *, quiescent: bool, early: Iterable[tuple[Process, RingId]] = ()
    ) -> None:
        traces = list(traces)
        self.quiescent = quiescent
        self.early = set(early)
        self.alive = {trace.process for trace in traces if not trace.ended}
        self.pure = not any(trace.process.foreign for trace in traces)
        """Which column is checked: no process is foreign."""
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
        self.messages: dict[bytes, Message] = {}
        self.sent: dict[Process, list[Message]] = {}
        """By sender, in the order in which they were handed over; both streams."""
        self.segments: dict[Process, list[Segment]] = {}
        self.steps: dict[Process, list[tuple[bool, list[Message]]]] = {}
        """(sent, which) for each sending and each delivery, in the process's order."""
        self.rings: dict[RingId, Ring] = {}
        for trace in self.traces:
            self._read_configurations_and_sent(trace)
        for trace in self.traces:
            self._read_deliveries(trace)
        for ring in self.rings.values():
            ring.put_in_order()

    def _without_misfiled(self, trace: Trace, sent: set[bytes]) -> Trace:
        """The trace without what misfiling did to a foreign process in a ring of foreign nodes that it installed early.

        A companion that installs in time multicasts while this process is still in Recovery, which files what is not
        encapsulated in the old ring's queue, delivers it out of that, and may put together over the hole what comes
        later. None of our nodes has a part in it.
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
                    message = Message(process, orders[event.sync], event.guarantee, event.sync, segment, known)
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
                    ring = self.rings.setdefault(event.ring_id, Ring(event.ring_id))
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
        frames = self.rings.setdefault(ring_id, Ring(ring_id)).frames
        if len(messages) > len(frames.setdefault(seq, messages)):
            frames[seq] = messages
        return Batch(messages, level, ring_id, seq)

    def excused(self, segment: Segment, message: Message) -> bool:
        """Whether this process may lack this message, as only foreign processes make others or themselves lack it."""
        return self._installed_early(segment) or self.came_in_the_middle(segment, message)

    def _installed_early(self, segment: Segment) -> bool:
        regular = segment.previous if segment.is_transitional else segment
        return regular is not None and any(
            ring is not None and (segment.process, ring.ring_id) in self.early
            for ring in (regular, regular.next_regular)
        )

    def came_in_the_middle(self, segment: Segment, message: Message) -> bool:
        """Whether this process may lack this message of a foreign sender (rulings, A10, on 6.2).

        It came to the sender's ring (or came along too early) while the sender was in the middle of a message, and
        lacks all messages of this stream of the sender's up to one.
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

    def lost_its_beginning(self, skipped: Message, message: Message) -> bool:
        """Whether nobody had to deliver a message of a foreign sender that ended, though one behind it was delivered.

        It was in the middle of that message when it went to the ring of the other one, where nobody but itself had the
        beginning (rulings, A10).
        """
        sender = skipped.sender
        began_before = skipped.sent_at is None or skipped.sent_at.ring_id != message.ring_id
        return sender.foreign and sender not in self.alive and began_before

    def _follows_a_dead_sync(self, first: Message) -> bool:
        """Whether the sender had a sync message before this one that came to nothing, perhaps half sent."""
        return first.sync and any(
            message.sync and message.order < first.order and message.ring_id is None
            for message in self.sent[first.sender]
        )


def _lacking(history: History, segment: Segment, held: set[Message], wanted: Iterable[Message]) -> list[Message]:
    return [message for message in wanted if message not in held and not history.excused(segment, message)]


def basic_order(history: History) -> Iterator[str]:
    """1.1: no event happens before itself; a message is sent before it is delivered."""
    sent: set[Message] = set()
    waiting: dict[Message, list[Process]] = defaultdict(list)
    position = dict.fromkeys(history.steps, 0)
    ready = list(history.steps)
    while ready:
        process = ready.pop()
        steps = history.steps[process]
        index = position[process]
        while index < len(steps):
            is_sent, messages = steps[index]
            if is_sent:
                sent.update(messages)
                for message in messages:
                    ready += waiting.pop(message, ())
            elif unsent := [message for message in messages if message not in sent]:
                waiting[unsent[0]].append(process)
                break
            index += 1
        position[process] = index
    for message, processes in waiting.items():
        yield f"{message} was delivered at {', '.join(map(str, processes))} before it was sent"


def basic_sent_once(history: History) -> Iterator[str]:
    """1.2: a message is sent once, in a regular configuration that its sender had installed."""
    yield from history.flaws["1.2"]
    for ring in history.rings.values():
        for message in ring.order:
            segment = ring.segments.get(message.sender.node_id)
            if segment is None or segment.process != message.sender:
                yield f"{message} was sent in {ring.ring_id}, which its sender never installed"


def basic_delivered_once(history: History) -> Iterator[str]:
    """1.3: a process delivers a message at most once, in the configuration in which it was sent or its transitional."""
    for process, segments in history.segments.items():
        seen: set[Message] = set()
        for segment in segments:
            ring_id = segment.ring_id
            for message in segment.messages:
                if message in seen:
                    yield f"{process} delivers {message} again in {segment}"
                elif message.ring_id != ring_id:
                    yield f"{process} delivers {message}, sent in {message.ring_id}, in {segment}"
                seen.add(message)


def basic_content(history: History) -> Iterator[str]:
    """1.4: what is delivered was sent, by that sender, byte for byte."""
    yield from history.flaws["1.4"]


def own_configurations(history: History) -> Iterator[str]:
    """2.1: a process is told only of configurations that it is a member of."""
    for process, segments in history.segments.items():
        for segment in segments:
            if process.node_id not in segment.configuration.members:
                yield f"{process} installs {segment} without being a member"


def unique_configurations(history: History) -> Iterator[str]:
    """2.2: one identity, one configuration, everywhere; and a node's ring sequences grow, over restarts too.

    Also that a ring is told as pure where all its members are of our make, and nowhere else (rulings, A1).
    """
    yield from history.flaws["2.2"]
    foreign = history.foreign_nodes
    known: dict[object, tuple[object, Segment]] = {}
    highest: dict[int, RingId] = {}
    for process, segments in history.segments.items():
        for segment in segments:
            configuration = segment.configuration
            key: object
            content: object
            if isinstance(configuration, RegularConfiguration):
                key = configuration.ring_id
                content = configuration.members
                if not process.foreign:
                    key, content = (key, "of our make"), (content, configuration.pure, configuration.features)
                    if configuration.pure is not foreign.isdisjoint(configuration.members):
                        yield f"{process} is told that {segment} is {'' if configuration.pure else 'not '}pure"
                last = highest.get(process.node_id)
                if last is not None and configuration.ring_id.seq <= last.seq:
                    yield f"{process} installs {configuration.ring_id} after {last}"
                highest[process.node_id] = configuration.ring_id
                if configuration.ring_id.representative != min(configuration.members, default=0):
                    yield f"{process} installs {segment}, whose representative is not its lowest member"
            else:
                key = (configuration.ring_id, configuration.next_ring_id)
                content = configuration.members
            other_content, other = known.setdefault(key, (content, segment))
            if other_content != content:
                yield f"{process} has {configuration}, but {other.process} has {other.configuration}"


def within_configuration(history: History) -> Iterator[str]:
    """2.3: what a process sends and delivers in a configuration lies between its beginning and its end there."""
    yield from history.flaws["2.3"]
    for process, segments in history.segments.items():
        for segment in segments:
            for batch in segment.batches:
                if batch.ring_id != segment.ring_id:
                    yield f"{process} delivers number {batch.seq} of {batch.ring_id} in {segment}"
    for ring in history.rings.values():
        for message in ring.order:
            segment_then, segment_sent = message.sent_at, ring.segments.get(message.sender.node_id)
            if segment_then is None or segment_sent is None or segment_sent.process != message.sender:
                continue
            if segment_then.number > segment_sent.number:
                yield f"{message} was handed over in {segment_then}, but sent in {segment_sent} before it"
            if message.sync and segment_then is not segment_sent and not message.sender.foreign:
                yield f"{message} of the dead sync of {segment_then} was sent in {segment_sent}"


def alternation(history: History) -> Iterator[str]:
    """2.4: regular and transitional alternate; a transitional one joins what its members come from and go to."""
    for process, segments in history.segments.items():
        if process.foreign:
            continue
        for segment in segments:
            yield from _alternates(segment)
    for ring in history.rings.values():
        for segment in ring.segments.values():
            previous = segment.previous_regular
            if previous is None or not isinstance(segment.configuration, RegularConfiguration):
                continue
            if segment.process.foreign:
                continue
            for member in segment.configuration.transitional:
                companion = ring.segments.get(member)
                if companion is None:
                    continue
                origin = companion.previous_regular
                if origin is None or origin.ring_id != previous.ring_id:
                    yield (
                        f"{segment.process} came to {segment} from {previous} with {companion.process}, "
                        f"which came from {origin}"
                    )


def _alternates(segment: Segment) -> Iterator[str]:
    process, configuration, previous = segment.process, segment.configuration, segment.previous
    if isinstance(configuration, TransitionalConfiguration):
        if previous is None or previous.is_transitional or previous.ring_id != configuration.ring_id:
            yield f"{process}: {segment} follows {previous}"
        elif not set(configuration.members) <= set(previous.configuration.members):
            yield f"{process}: {segment} has members that {previous} has not"
        return
    if previous is None:
        if configuration.transitional:
            yield f"{process}: the first configuration {segment} has a transitional part {configuration.transitional}"
        return
    origin = previous.configuration
    if not isinstance(origin, TransitionalConfiguration) or origin.next_ring_id != configuration.ring_id:
        yield f"{process}: {segment} follows {previous}"
    elif origin.members != configuration.transitional:
        yield f"{process}: {segment} says it came with {configuration.transitional}, but {previous}"
    elif not set(origin.members) <= set(configuration.members):
        yield f"{process}: {previous} has members that {segment} has not"


def final_configurations(history: History) -> Iterator[str]:
    """2.5: at a quiescent end, all members of a process's last configuration have it as their last, or failed."""
    if not history.quiescent:
        return
    last = {process: history.segments[process][-1] for process in history.alive if history.segments[process]}
    alive = {process.node_id: process for process in history.alive}
    for process, segment in last.items():
        for member in segment.configuration.members:
            other = alive.get(member)
            if other is None:
                continue
            theirs = last.get(other)
            if theirs is None or theirs.configuration.ring_id != segment.ring_id or theirs.is_transitional:
                yield f"{process} ends in {segment}, but {other} in {theirs}"


def self_delivery(history: History) -> Iterator[str]:
    """3: what a process sent it delivers, in the same configuration or its transitional, unless it fails."""
    for process, messages in history.sent.items():
        segments = history.segments[process]
        own = {message for segment in segments for message in segment.messages if message.sender == process}
        if len(own) == len(messages):
            continue
        settled = history.quiescent and process in history.alive
        for message in messages:
            if message in own:
                continue
            if message.ring_id is not None:
                segment = history.rings[message.ring_id].segments.get(process.node_id)
                if segment is not None and segment.process == process and segment.next_regular is not None:
                    yield f"{process} left {segment} without delivering its own {message}"
                    continue
            if settled and (not message.sync or message.sent_at is segments[-1]):
                yield f"{process} never delivered its own {message}"


def failure_atomicity(history: History) -> Iterator[str]:
    """4: processes that go together from one configuration to the next delivered the same messages in it."""
    first: dict[object, tuple[Segment, list[Message]]] = {}
    for process, segments in history.segments.items():
        for segment in segments:
            for key, messages in _transitions(history, process, segment):
                other, theirs = first.setdefault(key, (segment, messages))
                if messages == theirs:
                    continue
                held, held_there = set(messages), set(theirs)
                for message in _lacking(history, segment, held, theirs):
                    yield f"{process} lacks {message} in {segment}, which {other.process} delivered and went along"
                for message in _lacking(history, other, held_there, messages):
                    yield f"{other.process} lacks {message} in {other}, which {process} delivered and went along"


def _transitions(history: History, process: Process, segment: Segment) -> Iterator[tuple[object, list[Message]]]:
    following = segment.following
    if following is None:
        if history.quiescent and process in history.alive:
            yield (segment.ring_id, "the end"), segment.messages
        return
    if segment.is_transitional:
        yield (segment.ring_id, following.ring_id, "transitional"), segment.messages
        return
    if following.is_transitional:
        after = following.configuration
        assert isinstance(after, TransitionalConfiguration)
        yield (segment.ring_id, after.next_ring_id, "regular"), segment.messages
    if not history.pure and (target := segment.next_regular) is not None:
        yield (segment.ring_id, target.ring_id), segment.community()


def causal_delivery(history: History) -> Iterator[str]:
    """5: whoever delivers a message delivered before it all that its sender had sent or delivered before sending it."""
    for ring in history.rings.values():
        last_place: dict[tuple[Process, bool], Message] = {}
        for message in ring.order:
            before = last_place.get((message.sender, message.sync))
            if before is not None and before.order > message.order:
                yield f"{message} comes behind {before} in {ring.ring_id}"
            last_place[message.sender, message.sync] = message
            known = _last_known(ring, message)
            if known is not None and known.place >= message.place:
                yield f"{message} was sent by one who had {known}, but comes before it in {ring.ring_id}"
        for segment in ring.segments.values():
            yield from _causal_holes(history, ring, segment)
    for messages in history.sent.values():
        skipped = None
        for message in messages:
            if message.sync:
                continue
            if message.ring_id is None:
                skipped = skipped or message
            elif skipped is not None and not history.lost_its_beginning(skipped, message):
                yield f"{message} was delivered, but nobody delivered {skipped}"
                break


def _last_known(ring: Ring, message: Message) -> Message | None:
    """The last message of this ring that the sender had been given when it handed this one over."""
    at = message.sent_at
    if at is None or not message.known or at.ring_id != ring.ring_id or at.is_transitional:
        return None
    return at.messages[message.known - 1]


def _causal_holes(history: History, ring: Ring, segment: Segment) -> Iterator[str]:
    delivered = segment.community()
    if delivered == ring.order[: len(delivered)]:
        return
    held = set(delivered)
    end = max((message.place for message in delivered), default=0)
    holes = _lacking(history, segment, held, ring.order[:end])
    if not holes:
        return
    first_of_sender: dict[tuple[Process, bool], Message] = {}
    for hole in holes:
        first_of_sender.setdefault((hole.sender, hole.sync), hole)
    for message in delivered:
        own = first_of_sender.get((message.sender, message.sync))
        if own is not None and own.place < message.place:
            yield f"{segment.process} delivers {message} without {own} in {segment}"
        known = _last_known(ring, message)
        if known is not None and known.place >= holes[0].place:
            yield f"{segment.process} delivers {message} without {holes[0]} in {segment}, which its sender had"


def total_order(history: History) -> Iterator[str]:
    """6.1: there is one order of all messages and configurations that all processes follow."""
    yield from history.flaws["6.1"]
    for process, segments in history.segments.items():
        for segment in segments:
            frames = history.rings[segment.ring_id].frames
            before = segment.previous if segment.is_transitional else None
            last = before.batches[-1] if before is not None and before.batches else None
            for batch in segment.batches:
                if batch.ring_id != segment.ring_id:
                    continue
                if last is not None and (batch.seq - last.seq - 1) & _MASK >= _HALF:
                    yield f"{process} delivers number {batch.seq} behind {last.seq} in {segment}"
                last = batch
                frame = frames[batch.seq]
                if batch.messages != frame and not _is_part(batch.messages, frame):
                    yield f"number {batch.seq} of {batch.ring_id} is another frame at {process} than elsewhere"


def _is_part(part: list[Message], whole: list[Message]) -> bool:
    rest = iter(whole)
    return all(message in rest for message in part)


def no_holes(history: History) -> Iterator[str]:
    """6.2: nobody delivers past a message of a member of the configuration where it is, without delivering that."""
    for ring in history.rings.values():
        for segment in ring.segments.values():
            held = segment.messages
            if held != ring.order[: len(held)]:
                yield from _holes(history, ring, segment, set(held))
            transitional = segment.transitional
            if transitional is not None and transitional.messages:
                community = segment.community()
                if community != ring.order[: len(community)]:
                    yield from _holes(history, ring, transitional, set(community))


def _holes(history: History, ring: Ring, segment: Segment, held: set[Message]) -> Iterator[str]:
    members = segment.configuration.members
    following = segment.following
    if segment.process.foreign and following and isinstance(following.configuration, RegularConfiguration):
        members = following.configuration.transitional  # where its transitional one began is not to be seen
    end = max((message.place for message in segment.messages if message.ring_id == ring.ring_id), default=0)
    wanted = [message for message in ring.order[:end] if message.sender.node_id in members]
    for message in _lacking(history, segment, held, wanted):
        yield f"{segment.process} delivers {ring.order[end]} past {message} in {segment}"


def safe_delivery(history: History) -> Iterator[str]:
    """7.1: what one process is told as safe in a configuration, each member of it delivers too, or it fails.

    Also that what was sent as safe is told as such, wherever that can be promised.
    """
    for ring in history.rings.values():
        claimed: dict[Message, Segment] = {}
        claimed_here: dict[tuple[int, ...], dict[Message, Segment]] = {}
        for segment in ring.segments.values():
            for part in (segment, segment.transitional):
                if part is None:
                    continue
                for batch in part.batches:
                    if batch.level is Level.AGREED:
                        yield from _weakened(history, part, batch)
                    elif batch.level is Level.SAFE:
                        if part.is_transitional:
                            yield f"{part.process} was told {batch.messages[0]} as safe in {part}"
                        claimed.update(dict.fromkeys(batch.messages, part))
                    else:
                        if not part.is_transitional:
                            yield f"{part.process} was told {batch.messages[0]} as transitional in {part}"
                        here = claimed_here.setdefault(part.configuration.members, {})
                        here.update(dict.fromkeys(batch.messages, part))
        members = next((segment.configuration.members for segment in ring.segments.values()), ())
        if claimed:
            yield from _broken_claims(history, ring, members, claimed)
        for some, claims in claimed_here.items():
            yield from _broken_claims(history, ring, some, claims)


def _weakened(history: History, segment: Segment, batch: Batch) -> Iterator[str]:
    if segment.process.foreign or (segment.is_transitional and not history.pure):
        return
    for message in batch.messages:
        if message.guarantee is Guarantee.SAFE:
            yield f"{segment.process} was told {message} as agreed in {segment}"


def _broken_claims(
    history: History, ring: Ring, members: Iterable[int], claims: dict[Message, Segment]
) -> Iterator[str]:
    for member in members:
        segment = ring.segments.get(member)
        if segment is None:
            continue
        going_on = segment.next_regular is not None
        settled = history.quiescent and segment.process in history.alive
        if not going_on and not settled:
            continue
        for message in claims.keys() - set(segment.community()):
            if not history.came_in_the_middle(segment, message):
                claim = claims[message]
                yield f"{claim.process} was told {message} as safe in {claim}, but {segment.process} never delivers it"


def safe_installed(history: History) -> Iterator[str]:
    """7.2: what a process is told as safe in a regular configuration tells that all its members installed it."""
    for ring in history.rings.values():
        for segment in ring.segments.values():
            if not any(batch.level is Level.SAFE for batch in segment.batches):
                continue
            for member in segment.configuration.members:
                if member not in ring.segments:
                    yield f"{segment.process} was told of safe messages in {segment}, which {member} never installed"
            break


Checker = Callable[[History], Iterator[str]]

CHECKERS: dict[str, Checker] = {
    "1.1": basic_order,
    "1.2": basic_sent_once,
    "1.3": basic_delivered_once,
    "1.4": basic_content,
    "2.1": own_configurations,
    "2.2": unique_configurations,
    "2.3": within_configuration,
    "2.4": alternation,
    "2.5": final_configurations,
    "3": self_delivery,
    "4": failure_atomicity,
    "5": causal_delivery,
    "6.1": total_order,
    "6.2": no_holes,
    "7.1": safe_delivery,
    "7.2": safe_installed,
}
"""One for each clause."""


def check(history: History) -> list[Violation]:
    """All that is wrong with a run, by all checkers; empty if it kept extended virtual synchrony."""
    return [Violation(clause, text) for clause, checker in CHECKERS.items() for text in checker(history)]
