"""A perfect ring below the engine: total order and configurations by decree, everything else as rough as allowed.

`World` keeps one log for each ring. Messages enter it when their node is drawn, each node is handed the log at its
own pace, and `reform` ends rings where it likes: every node that comes along with others gets the same messages as
they do, some of them behind the transitional configuration, and of a departed node's last messages perhaps not all
(extended virtual synchrony allows no more and no less). What a node has queued and not numbered stays queued, except
for sync messages. All draws come from one seed.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cpg.node.engine import Engine
from totem.configuration import (
    Guarantee,
    Level,
    Messages,
    RegularConfiguration,
    RingId,
    TransitionalConfiguration,
)
from totem.errors import MessageTooLong, QueueFull
from totem.labels import Envelope

LARGEST_FRAME = 6


class Entry(NamedTuple):
    sender: int
    message: bytes
    guarantee: Guarantee
    label: bytes = b""


@dataclass
class Ring:
    ring_id: RingId
    members: tuple[int, ...]
    compact: bool
    """Messages have labels, not headers."""
    log: list[Entry] = field(default_factory=list)


class Node:
    """One process, in the role of the Processor below its engine."""

    def __init__(self, world: World, node_id: int) -> None:
        self.world = world
        self.node_id = node_id
        self.queue: deque[tuple[bytes, Guarantee, Envelope | None]] = deque()
        self.sync_queue: deque[bytes] = deque()
        self.syncing = True
        self.ring: Ring | None = None
        self.position = 0
        self.engine = Engine(self, sync_limit=1.0)

    def multicast(
        self, messages: Sequence[bytes], guarantee: Guarantee = Guarantee.AGREED, envelope: Envelope | None = None
    ) -> None:
        if envelope is not None and max(map(len, messages), default=0) > envelope.largest:
            raise MessageTooLong
        added = [(message, guarantee, envelope) for message in messages]
        if sum(map(self._size, [*self.queue, *added])) > self.world.queue_limit:
            raise QueueFull
        self.queue.extend(added)

    @staticmethod
    def _size(queued: tuple[bytes, Guarantee, Envelope | None]) -> int:
        message, _, envelope = queued
        return len(message) + (envelope.header_size if envelope is not None else 0)

    def multicast_sync(self, messages: Sequence[bytes]) -> None:
        self.sync_queue.extend(messages)

    def sync_complete(self, ring_id: RingId) -> None:
        if self.ring is not None and ring_id == self.ring.ring_id:
            self.syncing = False

    # What the world does to it.

    @property
    def has_something_to_send(self) -> bool:
        return bool(self.sync_queue) or (bool(self.queue) and not self.syncing)

    @property
    def behind(self) -> bool:
        return self.ring is not None and self.position < len(self.ring.log)

    def originate(self, count: int) -> None:
        """Add the next messages to the ring's order."""
        assert self.ring is not None
        for _ in range(count):
            if self.sync_queue:
                entry = Entry(self.node_id, self.sync_queue.popleft(), Guarantee.AGREED)
            elif self.queue and not self.syncing:
                entry = self._entry(*self.queue.popleft())
            else:
                return
            self.ring.log.append(entry)

    def _entry(self, message: bytes, guarantee: Guarantee, envelope: Envelope | None) -> Entry:
        assert self.ring is not None
        if envelope is None:
            return Entry(self.node_id, message, guarantee)
        if self.ring.compact:
            return Entry(self.node_id, message, guarantee, envelope.label)
        return Entry(self.node_id, envelope[len(message)] + message, guarantee)

    def hand_over(self, entries: Iterable[Entry], *, transitional: bool = False) -> None:
        """Deliver in frames: consecutive messages of one sender and one guarantee, not too many."""
        assert self.ring is not None
        frame: list[Entry] = []
        for entry in [*entries, None]:
            if frame and (entry is None or self._begins_frame(frame, entry)):
                self._deliver_frame(frame, transitional=transitional)
                frame = []
            if entry is not None:
                frame.append(entry)

    def _begins_frame(self, frame: list[Entry], entry: Entry) -> bool:
        last = frame[-1]
        same = (last.sender, last.guarantee, last.label) == (entry.sender, entry.guarantee, entry.label)
        return not same or len(frame) == LARGEST_FRAME

    def _deliver_frame(self, frame: list[Entry], *, transitional: bool) -> None:
        level = Level.AGREED
        if frame[0].guarantee is Guarantee.SAFE:
            level = Level.TRANSITIONAL if transitional else Level.SAFE
        messages = [entry.message for entry in frame]
        sender, _, _, label = frame[0]
        self.engine.deliver([Messages(sender, self.ring.ring_id, self.position, level, messages, label)])

    def catch_up(self, end: int) -> None:
        """Deliver the log up to a place."""
        assert self.ring is not None
        start, self.position = self.position, end
        self.hand_over(self.ring.log[start:end])


class World:
    """Nodes and their rings. `pure`: of the next configurations; with `compact`, pure rings know labels."""

    def __init__(self, seed: int = 0, *, queue_limit: int = 4 << 20, pure: bool = True, compact: bool = True) -> None:
        self.dice = random.Random(seed)
        self.queue_limit = queue_limit
        self.pure = pure
        self.compact = compact
        self.nodes: dict[int, Node] = {}
        self._ring_seq = 0

    def __getitem__(self, node_id: int) -> Node:
        return self.nodes[node_id]

    def start(self, *node_ids: int) -> None:
        """Start new processes at these nodes, in no ring yet; the former ones have crashed."""
        for node_id in node_ids:
            self.nodes[node_id] = Node(self, node_id)

    def kill(self, *node_ids: int) -> None:
        for node_id in node_ids:
            del self.nodes[node_id]

    def reform(self, *components: Iterable[int]) -> None:
        """End all rings of these nodes; each component becomes a ring of its own. Crashed nodes must be gone before."""
        rings = []
        for component in components:
            members = tuple(sorted(component))
            self._ring_seq += 4
            rings.append(Ring(RingId(members[0], self._ring_seq), members, self.pure and self.compact))
        for ring in rings:
            for along in self._transitional_sets(ring.members):
                self._move(along, ring)

    def _transitional_sets(self, members: tuple[int, ...]) -> list[tuple[int, ...]]:
        sets: dict[object, list[int]] = {}
        for node_id in members:
            ring = self.nodes[node_id].ring
            sets.setdefault(ring.ring_id if ring is not None else node_id, []).append(node_id)
        return [tuple(along) for along in sets.values()]

    def _move(self, along: tuple[int, ...], ring: Ring) -> None:
        old = self.nodes[along[0]].ring
        if old is not None:
            self._end_old_ring(along, old, ring)
        for node_id in along:
            node = self.nodes[node_id]
            node.ring, node.position = ring, 0
            node.syncing = True
            node.sync_queue.clear()
            transitional = along if old is not None else ()
            node.engine.deliver(
                [RegularConfiguration(ring.ring_id, ring.members, transitional, pure=self.pure, features=0)]
            )

    def _end_old_ring(self, along: tuple[int, ...], old: Ring, ring: Ring) -> None:
        log = old.log
        gap = self.dice.randint(max(self.nodes[node_id].position for node_id in along), len(log))
        while gap < len(log) and log[gap].sender in along:
            gap += 1  # what members sent themselves they have
        # Only an unsafe SAFE message keeps those behind it waiting for the transitional configuration.
        start = max(self.nodes[node_id].position for node_id in along)
        unsafe = [place for place in range(start, gap) if log[place].guarantee is Guarantee.SAFE]
        marker = self.dice.choice([*unsafe, gap])
        rest = [*log[marker:gap], *(entry for entry in log[gap:] if entry.sender in along)]
        for node_id in along:
            node = self.nodes[node_id]
            node.catch_up(marker)
            node.engine.deliver([TransitionalConfiguration(old.ring_id, along, ring.ring_id)])
            node.hand_over(rest, transitional=True)

    def step(self) -> bool:
        """Make one draw: some node sends or gets something; return False if there is nothing to do."""
        senders = [node for node in self.nodes.values() if node.ring is not None and node.has_something_to_send]
        receivers = [node for node in self.nodes.values() if node.behind]
        if not senders and not receivers:
            return False
        drawn = self.dice.randrange(len(senders) + len(receivers))
        if drawn < len(senders):
            senders[drawn].originate(self.dice.randint(1, 4))
        else:
            node = receivers[drawn - len(senders)]
            node.catch_up(self.dice.randint(node.position + 1, len(node.ring.log)))
        return True

    def run(self, steps: int | None = None) -> None:
        """Make so many draws, or until all is quiet."""
        while steps is None or steps > 0:
            if not self.step():
                # A large message goes on when its node's driver has had a turn.
                for node in self.nodes.values():
                    node.engine.deliver([])
                if not any(node.has_something_to_send for node in self.nodes.values() if node.ring is not None):
                    return
            steps = None if steps is None else steps - 1
