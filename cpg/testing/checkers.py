"""The promises of closed process groups, as checks of the events that their members got.

A `Record` stands in a program's place as the inbox of one membership and notes everything. `check` reads the records of
a whole run, those of crashed processes included, and returns what is wrong:

begin     A stream begins with the own join and the present ring (with its quorum, if that is settled, and with the
          transitional event, if it is changing).
quorum    It is that of the last ring, and comes before the first message that was sent in it.
majority  Where each node has one vote and no option changes the rule, a ring is quorate exactly if it has more than
          half of the cluster's nodes.
end       Nothing comes behind the own leave.
chain     Each list of members is the one before, without those that left, with those that joined; ascending; one of
          the two, not both. A process that left and came back is in two changes.
place     Nodes go down and come up only behind a transitional event, first the ones, then the others, with no message
          between, and then the ring comes. By then all processes of nodes that did not come along are gone.
sender    Messages come from members.
own       A member gets its own messages, all and once and in the order sent.
together  Members whose nodes went from one ring to the next together get the same in between, and all members of a
          ring get the same up to its end, some perhaps less of it.
lists     When a ring has come, the lists of members are the same at all members, and of its nodes.

The words are those of ruling C5. In the run the same process must not join the same group twice in one ring: give it
another process id, or two stays cannot be told apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from cpg.events import Confchg, Event, Member, Message, Quorum, Reason, RingEvent, TotemConfchg, Transitional
from totem.configuration import Level, RingId
from totem.testing.checkers import Violation

_ACTIVATION = [Reason.NODEDOWN, Reason.NODEUP, Reason.PROCDOWN]
"""The order of the changes that a new ring brings."""


class Record:
    """The inbox of one membership: its events, and what it sent (the sender notes that in `sent`)."""

    def __init__(self, name: bytes, member: Member) -> None:
        self.name = name
        self.member = member
        self.events: list[Event] = []
        self.sent: list[bytes] = []

    def messages(self, sender: Member, level: Level, payloads: list[bytes]) -> None:
        """Note messages."""
        self.events += [Message(sender, payload, level) for payload in payloads]

    def event(self, event: Confchg | RingEvent) -> None:
        """Note an event that is not a message."""
        self.events.append(event)

    def __str__(self) -> str:
        return f"{self.name.decode(errors='replace')} at {self.member.node_id}/{self.member.pid}"


@dataclass(slots=True)
class _RingHistory:
    """A record's part in one ring: from `TotemConfchg`, or the own join, to the next `TotemConfchg`."""

    record: Record
    ring_id: RingId
    members: tuple[Member, ...] | None
    """When the ring came; None if the part begins with the own join."""
    events: list[Event] = field(default_factory=list)
    """Without `TotemConfchg`. Behind an own join in a ring that is changing, the transitional event comes again, and
    the quorum, which a part that begins so is without.
    """
    next_ring_id: RingId | None = None
    """None if the record ends here."""

    @property
    def regular(self) -> list[Event]:
        """Events before the ring began to change."""
        return list(takewhile(lambda event: not isinstance(event, Transitional), self.events))

    @property
    def along(self) -> tuple[int, ...]:
        """Nodes that go to the next ring with this one."""
        return next((event.node_ids for event in reversed(self.events) if isinstance(event, Transitional)), ())

    def place_in(self, events: Sequence[Event]) -> int | None:
        """Return where this part begins in one from the beginning of the ring; None if it is not in it."""
        if self.members is not None:
            return 0
        return events.index(self.events[0]) if self.events[0] in events else None


def check(records: Iterable[Record], *, foreign: Collection[int] = (), voters: int = 0) -> list[Violation]:
    """Return everything that is wrong in the records of one run.

    `foreign`: nodes of another make. Their records are checked one by one, and others' events about them are not
    compared: a node may miss messages of theirs that were sent when it joined the ring (ruling A10). `voters`: the
    nodes of the cluster, where each has one vote; 0 elsewhere.
    """
    violations: list[Violation] = []
    lines: defaultdict[tuple[bytes, RingId], list[_RingHistory]] = defaultdict(list)
    for record in records:
        violations += _check_alone(record, foreign)
        if voters:
            violations += _check_majority(record, voters)
        if record.member.node_id not in foreign:
            for line in _lines(record, foreign):
                lines[record.name, line.ring_id].append(line)
    for together in lines.values():
        violations += _check_lists(together)
        violations += _check_regular(together)
        violations += _check_moved_together(together)
    return violations


# One record by itself.


def _check_alone(record: Record, foreign: Collection[int]) -> Iterator[Violation]:
    if not record.events:
        return
    yield from _check_begin(record)
    yield from _check_own(record)
    walk = _Walk(foreign)
    for place, event in enumerate(record.events):
        for clause, text in walk.take(event, first=place == 0):
            yield Violation(clause, f"{record}: {event}, event {place}: {text}")
        if isinstance(event, Confchg) and record.member in event.left and place + 1 < len(record.events):
            yield Violation("cpg end", f"{record}: {record.events[place + 1]} behind the own leave")
            return


class _Walk:
    """One record, read event by event."""

    def __init__(self, foreign: Collection[int]) -> None:
        self.foreign = foreign
        self.members: tuple[Member, ...] = ()
        self.greeted = False
        self.nodes: tuple[int, ...] = ()
        """Nodes of the last ring."""
        self.along: tuple[int, ...] | None = None
        """Nodes that come along, from a transitional event to the next ring."""
        self.up: set[Member] = set()
        """Members that came with the new ring."""
        self.latest: Reason | None = None
        """Reason of the new ring's latest change: after one no message may come."""

    def take(self, event: Event, *, first: bool) -> Iterator[tuple[str, str]]:
        match event:
            case Message(sender):
                if sender not in self.members and sender.node_id not in self.foreign:
                    yield "cpg sender", f"members are {self.members}"
                if self.latest is not None:
                    yield "cpg place", "among the changes of a new ring"
            case Confchg():
                before = [member for member in event.members if member not in event.joined] if first else self.members
                yield from _check_chain(before, event)
                yield from self._check_reason(next(iter((event.left or event.joined).items()), None))
                self.members = event.members
                self.up.update(member for member, reason in event.joined.items() if reason is Reason.NODEUP)
            case Transitional(node_ids):
                self.along, self.latest = node_ids, None
                self.up.clear()
            case Quorum(_, node_ids):
                if node_ids != self.nodes:
                    yield "cpg quorum", f"the ring has nodes {self.nodes}"
            case TotemConfchg(_, node_ids):
                yield from self._check_ring(node_ids)
                self.nodes = node_ids
                self.greeted, self.along, self.latest = True, None, None

    def _check_reason(self, change: tuple[Member, Reason] | None) -> Iterator[tuple[str, str]]:
        match change:
            case (member, (Reason.NODEDOWN | Reason.NODEUP) as reason):
                if self.along is None:
                    yield "cpg place", "no ring is going"
                elif reason is Reason.NODEDOWN and member.node_id in self.along:
                    yield "cpg place", "the node comes along"
                if self.latest is not None and _ACTIVATION.index(reason) < _ACTIVATION.index(self.latest):
                    yield "cpg place", f"behind {self.latest}"
                self.latest = reason

    def _check_ring(self, node_ids: tuple[int, ...]) -> Iterator[tuple[str, str]]:
        if any(member.node_id not in node_ids for member in self.members):
            yield "cpg lists", f"members are {self.members}"
        if self.along is None and self.greeted:
            yield "cpg place", "no transitional event before"
        if self.along is not None:
            lost = [m for m in self.members if m.node_id not in self.along and m not in self.up]
            if lost:
                yield "cpg place", f"{lost} are of nodes that did not come along, and are not in left"


def _check_majority(record: Record, voters: int) -> Iterator[Violation]:
    for event in record.events:
        if isinstance(event, Quorum) and event.quorate is not (2 * len(event.node_ids) > voters):
            yield Violation("cpg majority", f"{record}: {event}, of {voters} nodes")


def _check_begin(record: Record) -> Iterator[Violation]:
    first = record.events[0]
    if not isinstance(first, Confchg) or first.joined != {record.member: Reason.JOIN}:
        yield Violation("cpg begin", f"{record}: the stream begins with {first}, not with the own join")
    if len(record.events) > 1 and not isinstance(record.events[1], TotemConfchg):
        yield Violation("cpg begin", f"{record}: {record.events[1]} follows on the own join, not the ring")


def _check_own(record: Record) -> Iterator[Violation]:
    own = [event.data for event in record.events if isinstance(event, Message) and event.sender == record.member]
    last = record.events[-1]
    if isinstance(last, Confchg) and record.member in last.left:
        if own != record.sent:
            yield Violation("cpg own", f"{record}: got {len(own)} own messages, not the {len(record.sent)} sent")
    elif own != record.sent[: len(own)]:
        yield Violation("cpg own", f"{record}: the own messages are not those sent")


def _check_chain(before: Sequence[Member], event: Confchg) -> Iterator[tuple[str, str]]:
    members, left, joined = event
    if list(members) != sorted({*before} - {*left} | {*joined}):
        yield "cpg chain", f"does not follow from members {before}"
    if bool(left) == bool(joined):
        yield "cpg chain", "is not one change"
    if not {*left} <= {*before} or {*joined} & {*before}:
        yield "cpg chain", "takes whom it has not, or brings whom it has"
    if list(left) != sorted(left) or list(joined) != sorted(joined):
        yield "cpg chain", "is not in order"


# Records beside each other.


def _lines(record: Record, foreign: Collection[int]) -> Iterator[_RingHistory]:
    """Return the record cut at its rings, without events about foreign members."""
    if len(record.events) < 2 or not isinstance(record.events[1], TotemConfchg):
        return
    line = _RingHistory(record, record.events[1].ring_id, None)
    members: tuple[Member, ...] = ()
    for event in _without(foreign, [record.events[0], *record.events[2:]]):
        if isinstance(event, TotemConfchg):
            line.next_ring_id = event.ring_id
            yield line
            line = _RingHistory(record, event.ring_id, members)
            continue
        if isinstance(event, Quorum) and line.members is None:
            continue
        if isinstance(event, Confchg):
            members = event.members
        line.events.append(event)
    yield line


def _without(foreign: Collection[int], events: Iterable[Event]) -> Iterator[Event]:
    for event in events:
        match event:
            case Message(sender) if sender.node_id in foreign:
                continue
            case Confchg(members, left, joined) if foreign:
                ours = Confchg(
                    tuple(member for member in members if member.node_id not in foreign),
                    {member: reason for member, reason in left.items() if member.node_id not in foreign},
                    {member: reason for member, reason in joined.items() if member.node_id not in foreign},
                )
                if ours.left or ours.joined:
                    yield ours
            case _:
                yield event


def _check_lists(lines: list[_RingHistory]) -> Iterator[Violation]:
    full = [line for line in lines if line.members is not None]
    for line in full[1:]:
        if line.members != full[0].members:
            yield Violation(
                "cpg lists",
                f"ring {line.ring_id}: members {line.members} at {line.record}, {full[0].members} at {full[0].record}",
            )


def _check_regular(lines: list[_RingHistory]) -> Iterator[Violation]:
    """Up to the end of the ring all get the same, some less."""
    longest = max(lines, key=lambda line: (line.members is not None, len(line.regular)))
    reference = longest.regular
    for line in lines:
        theirs = _as_told_to(line, reference)
        place = line.place_in(theirs)
        if place is not None and not _is_prefix(line.regular, theirs[place:]):
            yield _difference(line, longest)


def _check_moved_together(lines: list[_RingHistory]) -> Iterator[Violation]:
    """Members that went to the next ring together get the same to the last event."""
    moved: defaultdict[RingId, list[_RingHistory]] = defaultdict(list)
    for line in lines:
        if line.next_ring_id is not None:
            moved[line.next_ring_id].append(line)
    for together in moved.values():
        for line in together:
            companions = [other for other in together if _together(line, other) or _together(other, line)]
            longest = max(companions or [line], key=lambda other: (other.members is not None, len(other.events)))
            if not _is_rest_of(line, longest):
                yield _difference(line, longest)


def _together(line: _RingHistory, other: _RingHistory) -> bool:
    """Return whether the one knows that the other's node goes along with it."""
    return other.record.member.node_id in line.along


def _is_rest_of(line: _RingHistory, whole: _RingHistory) -> bool:
    """Return whether a part is all of another one, or its rest from the own join on."""
    theirs = _as_told_to(line, whole.events)
    place = line.place_in(theirs)
    if place is None:
        return False
    events = line.events
    if any(isinstance(event, Transitional) for event in theirs[:place]):
        events = [events[0], *events[2:]]  # a new member gets the transitional event once more
    return events == theirs[place:]


def _as_told_to(line: _RingHistory, events: list[Event]) -> list[Event]:
    """Return another one's events in the ring, as this part would have them."""
    if line.members is not None:
        return events
    return [event for event in events if not isinstance(event, Quorum)]


def _is_prefix(one: Sequence[Event], other: Sequence[Event]) -> bool:
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def _difference(line: _RingHistory, other: _RingHistory) -> Violation:
    place = next(
        (place for place, (one, two) in enumerate(zip(line.events, other.events, strict=False)) if one != two),
        min(len(line.events), len(other.events)),
    )
    return Violation(
        "cpg together",
        f"ring {line.ring_id}: {line.record} and {other.record} got different events, "
        f"from event {place} of {len(line.events)} and {len(other.events)} on",
    )
