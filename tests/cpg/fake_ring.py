"""A backend of groups without a ring: all groups live in this program, and a list gives the order."""

from __future__ import annotations

import trio

from cpg.errors import NotJoined
from cpg.events import Confchg, Member, Reason, TotemConfchg
from totem.configuration import Guarantee, Level, RingId
from totem.errors import QueueFull, RingLost

RING = TotemConfchg(RingId(1, 4), (1, 2, 3))


class FakeRing:
    """The order of one group, seen by the nodes that `node()` gives."""

    def __init__(self, capacity=1_000_000):
        self.capacity = capacity
        self.queued = []  # (membership, payloads or None for a leave)
        self.memberships = []
        self.held = False
        self.nodes = []

    def node(self, nursery):
        node = FakeNode(self, len(self.nodes) + 1, nursery)
        self.nodes.append(node)
        return node

    @property
    def size(self):
        return sum(sum(map(len, payloads)) for _, payloads in self.queued if isinstance(payloads, list))

    def queue(self, membership, what):
        self.queued.append((membership, what))

    async def run(self):
        while True:
            await trio.sleep(0.001)
            if not self.held:
                self.turn()

    def turn(self):
        queued, self.queued = self.queued, []
        for membership, what in queued:
            if what == "join":
                self.memberships.append(membership)
                self.confchg({}, {membership.member: Reason.JOIN})
                membership.inbox.event(RING)
            elif what == "leave":
                self.confchg({membership.member: Reason.LEAVE}, {})
                self.memberships.remove(membership)
            else:
                for other in self.memberships:
                    other.inbox.messages(membership.member, Level.AGREED, what)
        for node in self.nodes:
            node.room.unpark_all()

    def confchg(self, left, joined):
        members = tuple(sorted(m.member for m in self.memberships if m.member not in left))
        for other in self.memberships:
            other.inbox.event(Confchg(members, left, joined))


class FakeNode:
    """One node: a `cpg.contracts.Backend`."""

    gives_safe = True

    def __init__(self, ring, node_id, nursery):
        self.ring = ring
        self.member = Member(node_id, 1000 + node_id)
        self._joined = set()
        self.room = trio.lowlevel.ParkingLot()
        self._start_soon = nursery.start_soon
        self.lost = None
        self.kicks = 0

    async def _enter(self, name, inbox):
        if self.lost:
            raise RingLost(self.lost)
        return FakeMembership(self.ring, self.member, inbox)

    def lose(self, reason):
        self.lost = reason
        for group in list(self._joined):
            group._fail(RingLost(reason))

    def _send_soon(self):
        self.kicks += 1

    async def _wait_room(self, size):
        while self.ring.size + size > self.ring.capacity:
            await self.room.park()


class FakeMembership:
    def __init__(self, ring, member, inbox):
        self.ring, self.member, self.inbox = ring, member, inbox
        self.gone = False
        ring.queue(self, "join")

    def send(self, payloads, guarantee=Guarantee.AGREED):
        if self.gone:
            raise NotJoined
        if self.ring.size + sum(map(len, payloads)) > self.ring.capacity:
            raise QueueFull
        self.ring.queue(self, list(payloads))

    def leave(self):
        if not self.gone:
            self.gone = True
            self.ring.queue(self, "leave")
