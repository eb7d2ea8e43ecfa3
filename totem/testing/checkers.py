"""Extended virtual synchrony as checks of traces: one function for each clause.

Each checker walks over a `History` (`totem.testing.history`) and yields what is wrong. The clauses are those of Moser,
Amir, Melliar-Smith and Agarwal, "Extended Virtual Synchrony" (ICDCS 1994), numbered in docs/testing.md. No checker
knows how a ring works.

Terms. *c* is a regular configuration; *com(c)* at a process is c and the transitional configuration that follows it
there. A message is *sent in* the configuration in which it got its number, which its deliveries tell. `Sent` in a trace
is the moment when the program handed it over. That may be earlier, and causality counts from it.

Two columns. In the *pure* one every process runs this package. In the *mixed* one some are *foreign*: Corosync, or a
model of it. For foreign processes:

- Their transitional configurations are not checked.
- SAFE in a transitional configuration is no promise, but a level that a process reports must hold.
- A process may lack the first messages of a foreign sender that was in the middle of a message when the process came.
- A foreign process that installs a ring too early may lack some messages (`History.early`). It may also confuse what is
  sent in a ring of foreign nodes alone with earlier messages, which then are not checked.

Each checker takes time linear in the length of the traces, but for the sorting of each ring's messages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from totem.configuration import Guarantee, Level, RegularConfiguration, RingId, TransitionalConfiguration
from totem.testing.history import HALF, MASK, Batch, History, Process, RingHistory, Segment, SentMessage


class Violation(NamedTuple):
    """A broken promise."""

    clause: str
    text: str

    def __str__(self) -> str:
        return f"clause {self.clause}: {self.text}"


def _lacking(
    history: History, segment: Segment, held: set[SentMessage], wanted: Iterable[SentMessage]
) -> list[SentMessage]:
    return [message for message in wanted if message not in held and not history.excused(segment, message)]


def basic_order(history: History) -> Iterator[str]:
    """1.1: no event happens before itself; a message is sent before it is delivered."""
    sent: set[SentMessage] = set()
    waiting: dict[SentMessage, list[Process]] = defaultdict(list)
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
    """1.3: a process delivers a message at most once, in the configuration in which it was sent or its transitional
    one."""
    for process, segments in history.segments.items():
        seen: set[SentMessage] = set()
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
    """2.1: a process is given only configurations that it is a member of."""
    for process, segments in history.segments.items():
        for segment in segments:
            if process.node_id not in segment.configuration.members:
                yield f"{process} installs {segment} without being a member"


def unique_configurations(history: History) -> Iterator[str]:
    """2.2: one identity, one configuration, everywhere; and a node's ring sequences grow, over restarts too.

    Also: a ring is reported as pure exactly where all its members run this package (rulings, A1).
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
    """3: a process delivers what it sent, in the same configuration or its transitional one, unless it fails."""
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
    first: dict[object, tuple[Segment, list[SentMessage]]] = {}
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


def _transitions(history: History, process: Process, segment: Segment) -> Iterator[tuple[object, list[SentMessage]]]:
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
    """5: a process delivers, before a message, all that its sender had sent or delivered before sending it."""
    for ring in history.rings.values():
        last_place: dict[tuple[Process, bool], SentMessage] = {}
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


def _last_known(ring: RingHistory, message: SentMessage) -> SentMessage | None:
    """Return the last message of this ring that the sender had been given when it handed this one over."""
    at = message.sent_at
    if at is None or not 0 < message.known <= len(at.messages) or at.ring_id != ring.ring_id or at.is_transitional:
        return None
    return at.messages[message.known - 1]


def _causal_holes(history: History, ring: RingHistory, segment: Segment) -> Iterator[str]:
    delivered = segment.community()
    if delivered == ring.order[: len(delivered)]:
        return
    held = set(delivered)
    end = max((message.place for message in delivered), default=0)
    holes = _lacking(history, segment, held, ring.order[:end])
    if not holes:
        return
    first_of_sender: dict[tuple[Process, bool], SentMessage] = {}
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
                if last is not None and (batch.seq - last.seq - 1) & MASK >= HALF:
                    yield f"{process} delivers number {batch.seq} behind {last.seq} in {segment}"
                last = batch
                frame = frames[batch.seq]
                if batch.messages != frame and not _is_part(batch.messages, frame):
                    yield f"number {batch.seq} of {batch.ring_id} is another frame at {process} than elsewhere"


def _is_part(part: list[SentMessage], whole: list[SentMessage]) -> bool:
    rest = iter(whole)
    return all(message in rest for message in part)


def no_holes(history: History) -> Iterator[str]:
    """6.2: no process delivers past a message of a member of its configuration without delivering that message."""
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


def _holes(history: History, ring: RingHistory, segment: Segment, held: set[SentMessage]) -> Iterator[str]:
    members = segment.configuration.members
    following = segment.following
    if segment.process.foreign and following and isinstance(following.configuration, RegularConfiguration):
        members = following.configuration.transitional  # where its transitional one began is not to be seen
    end = max((message.place for message in segment.messages if message.ring_id == ring.ring_id), default=0)
    wanted = [message for message in ring.order[:end] if message.sender.node_id in members]
    for message in _lacking(history, segment, held, wanted):
        yield f"{segment.process} delivers {ring.order[end]} past {message} in {segment}"


def safe_delivery(history: History) -> Iterator[str]:
    """7.1: if a process delivers a message as safe, each member of the configuration delivers it too, or fails.

    Also: what was sent as safe is delivered as safe, wherever that can be promised.
    """
    for ring in history.rings.values():
        claimed: dict[SentMessage, Segment] = {}
        claimed_here: dict[tuple[int, ...], dict[SentMessage, Segment]] = {}
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
    history: History, ring: RingHistory, members: Iterable[int], claims: dict[SentMessage, Segment]
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
    """7.2: a message delivered as safe in a regular configuration implies that all its members installed it."""
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
    """Return all that is wrong with a run, by all checkers; empty if it kept extended virtual synchrony."""
    return [Violation(clause, text) for clause, checker in CHECKERS.items() for text in checker(history)]
