"""What programs of both makes in one group wrote down, compared: one order, for all that stayed together.

libcpg does not tell where a ring ends, so what is compared are stretches from one ring to the next. Two members whose
nodes went through a stretch together (both had the ring, both went on to the same next one, and neither was told that
the other's node was gone) must have seen the same messages in it, and the same changes of the group at its end.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import combinations


@dataclass
class Stretch:
    """What one member was told from one ring to the next."""

    node_id: int
    ring: tuple[int, int]
    came_from: tuple[int, int] | None
    told: dict[tuple[int, int], set]
    """All rings that the member was told of, in its life, with the nodes that were down at the end of each."""
    messages: list = field(default_factory=list)
    gone: set = field(default_factory=set)
    """Nodes that were told as down at its end."""
    joins: dict[int, int] = field(default_factory=dict)
    """By node: how many messages there were before its last process joined."""
    members: list | None = None
    """The group's last list."""
    next_ring: tuple[int, int] | None = None


def stretches(node_id, events):
    """Cut what a member wrote down at its rings."""
    told = _told(events)
    stretch = Stretch(node_id, next(iter(told)), None, told) if told else None
    first = True
    for event in events:
        match event["event"]:
            case "ring" if first:
                first = False
            case "ring":
                stretch.next_ring = tuple(event["ring"])
                yield stretch
                stretch = Stretch(node_id, stretch.next_ring, stretch.ring, told, members=stretch.members)
            case "message":
                stretch.messages.append((tuple(event["sender"]), event["data"]))
            case "confchg":
                stretch.members = event["members"]
                stretch.joins |= {node: len(stretch.messages) for node, *_ in event["joined"]}
                stretch.gone |= {node for node, _, reason in event["left"] if reason == "nodedown"}
    if stretch is not None:
        yield stretch


def _told(events):
    """The rings that a member was told of, in their order, with the nodes that were told as down at the end of each."""
    told = {}
    down = set()
    for event in events:
        match event["event"]:
            case "ring":
                down = told.setdefault(tuple(event["ring"]), set())
            case "confchg":
                down |= {node for node, _, reason in event["left"] if reason == "nodedown"}
    return told


def differences(records, real, *, lossy=False):
    """Compare what members wrote down: `records` by (node id, anything), `real` the Corosync nodes. Yields texts.

    `lossy`: clients of real nodes may have lost messages of their own.
    """
    by_ring = defaultdict(list)
    sent_in = _sent_in(records)
    senders = {sender for sender, _ in sent_in}
    for (node_id, name), events in records.items():
        yield from _alone((node_id, name), events, lossy=lossy and node_id in real)
        yield from _never_sent((node_id, name), events, senders, sent_in)
        for stretch in stretches(node_id, events):
            by_ring[stretch.ring].append(((node_id, name), stretch))
    for ring, lines in by_ring.items():
        for (name, one), (other_name, two) in combinations(lines, 2):
            if one.next_ring != two.next_ring or one.node_id in two.gone or two.node_id in one.gone:
                continue
            if one.next_ring is not None and one.members != two.members:
                yield f"ring {ring}: {name} ends with {one.members}, {other_name} with {two.members}"
            if _shared(one, two, real, sent_in) != _shared(two, one, real, sent_in):
                yield f"ring {ring}: {name} and {other_name}: {_first_difference(one, two)}"


def _shared(one, two, real, sent_in):
    """The messages of one that the other should have too.

    Who was not there while a real node was in the middle of a message lacks what that node sent up to it (ruling A10);
    nor was who came to the next ring by another way. Who joined the group later lacks what came before that.
    """
    messages = one.messages[one.joins.get(two.node_id, 0) if two.came_from is None else 0 :]
    theirs = set(two.messages)
    begun, shared = set(), []
    for sender, data in messages:
        may_lack = _may_lack(one, two, sender[0], sent_in.get((sender, data)))
        excused = sender[0] in real and sender not in begun and may_lack
        if not excused or (sender, data) in theirs:
            begun.add(sender)
            shared.append((sender, data))
    return shared


def _may_lack(one, two, sender, rings):
    """Whether a message may have begun where two was not: `rings` are those of its sender since it was sent."""
    if rings is None:
        return one.came_from is None or one.came_from != two.came_from
    for ring, down in rings.items():
        if ring == one.ring:
            return False
        if ring not in two.told or two.node_id in down or sender in two.told[ring]:
            return True
    return False


def _first_difference(one, two):
    pairs = enumerate(zip(one.messages, two.messages, strict=False))
    place = next((place for place, (a, b) in pairs if a != b), min(len(one.messages), len(two.messages)))
    here, there = (side.messages[place : place + 2] for side in (one, two))
    counts = f"{len(one.messages)} and {len(two.messages)} messages"
    return f"{counts}, different from number {place} on: {here}, {there}"


def _sent_in(records):
    """By sender and data what the sender was told of rings (as `_told`), from that on in which it sent the message."""
    sent = {}
    for events in records.values():
        rings = [*_told(events).items()]
        count = 0
        for event in events:
            match event["event"]:
                case "ring":
                    count += 1
                case "sent":
                    sent.setdefault((tuple(event["sender"]), event["data"]), dict(rings[max(0, count - 1) :]))
    return sent


def _never_sent(name, events, senders, sent_in):
    for event in events:
        if event["event"] == "message":
            sender = tuple(event["sender"])
            if sender in senders and (sender, event["data"]) not in sent_in:
                yield f"{name} was given {event['data']} of {sender}, which has never sent it"


def _alone(name, events, *, lossy):
    """What one member's own record tells: nothing twice, own messages in the order sent, lists that chain."""
    seen = set()
    members = None
    sent = [(tuple(event["sender"]), event["data"]) for event in events if event["event"] == "sent"]
    all_sent = set(sent)
    own = 0
    for event in events:
        match event["event"]:
            case "message":
                message = (tuple(event["sender"]), event["data"])
                if message in seen:
                    yield f"{name} was given {message} twice"
                seen.add(message)
                if message in sent[own : None if lossy else own + 1]:
                    own = sent.index(message, own) + 1
                elif message in all_sent:
                    yield f"{name} was given its own {message} out of turn"
            case "confchg":
                left, joined = ([tuple(change[:2]) for change in event[key]] for key in ("left", "joined"))
                now = {tuple(member) for member in event["members"]}
                if members is not None and now != (members - set(left)) | set(joined):
                    yield f"{name}: {event} does not follow from {sorted(members)}"
                if members is not None and (not members.issuperset(left) or members.intersection(joined)):
                    yield f"{name}: {event} tells of a join or leave for the second time"
                members = now
