"""Random worlds on a perfect ring: whatever happens, groups keep what they promise, and all becomes quiet."""

import pytest

from cpg.checkers import Record, check
from cpg.engine import Membership
from cpg.events import Member
from tests.cpg.oracle import World
from totem.configuration import Guarantee
from totem.errors import QueueFull

NAMES = [b"chat", b"lock", b"x" * 127]


class Life:
    """A world with programs in it that join, send and leave at random."""

    def __init__(self, seed, *, nodes=4, pure=True):
        self.world = World(seed, queue_limit=6000, pure=pure)
        self.dice = self.world.dice
        self.records: list[Record] = []
        self.memberships: dict[int, list[tuple[Membership, Record]]] = {}
        self.pids: dict[int, int] = {}
        self.sent = 0
        self.ids = range(1, nodes + 1)

    def start(self, node_id):
        self.world.start(node_id)
        self.memberships[node_id] = []
        self.pids[node_id] = 0  # a node that starts again has the same process ids again

    def kill(self, node_id):
        self.world.kill(node_id)
        del self.memberships[node_id]

    def act(self):
        """One random deed of a program."""
        node_id = self.dice.choice(list(self.memberships))
        memberships = self.memberships[node_id]
        memberships[:] = [entry for entry in memberships if not entry[0].left]
        deed = self.dice.random()
        if deed < 0.2 or not memberships:
            self._join(node_id)
        elif deed < 0.3:
            self.dice.choice(memberships)[0].leave()
        else:
            self._send(*self.dice.choice(memberships))

    def _join(self, node_id):
        self.pids[node_id] += 1
        name, pid = self.dice.choice(NAMES), self.pids[node_id]
        record = Record(name, Member(node_id, pid))
        membership = self.world[node_id].engine.join(name, pid, record)
        self.memberships[node_id].append((membership, record))
        self.records.append(record)

    def _send(self, membership, record):
        if membership.leaving:
            return
        payloads = [
            b"%d" % (self.sent + place) * self.dice.choice([1, 1, 30]) for place in range(self.dice.randint(1, 5))
        ]
        self.sent += len(payloads)
        try:
            membership.send(payloads, self.dice.choice([Guarantee.AGREED, Guarantee.SAFE]))
        except QueueFull:
            return
        record.sent += payloads

    def reform(self):
        """Some nodes die, some start, and the living come together in rings at random."""
        for node_id in self.ids:
            fate = self.dice.random()
            if node_id in self.memberships and fate < 0.15:
                self.kill(node_id)
            if node_id not in self.memberships and fate < 0.6:
                self.start(node_id)
        living = list(self.memberships)
        self.dice.shuffle(living)
        cut = self.dice.choice([0, 0, 0, self.dice.randint(0, len(living))])
        self.world.reform(*(part for part in (living[:cut], living[cut:]) if part))

    def run(self, changes):
        for _ in range(changes):
            self.reform()
            for _ in range(self.dice.choice([0, 3, 10, 40, 200])):
                if self.memberships and self.dice.random() < 0.3:
                    self.act()
                self.world.run(steps=self.dice.randint(0, 3))
        for node_id in self.ids:
            if node_id not in self.memberships:
                self.start(node_id)
        self.world.reform(self.ids)
        self.world.run()


@pytest.mark.parametrize("seed", range(150))
def test_groups_keep_their_promises(seed):
    life = Life(seed, pure=seed % 3 > 0)
    life.run(changes=12)
    assert check(life.records) == []
    nodes = [life.world[node_id] for node_id in life.ids]
    assert all(node.engine.synced for node in nodes)
    assert all(node.engine.groups == nodes[0].engine.groups for node in nodes)
    statistics = [node.engine.statistics() for node in nodes]
    assert not any(one.malformed or one.unknown_senders or one.silent for one in statistics)
    for memberships in life.memberships.values():
        for membership, record in memberships:
            assert membership.left or membership.joined
            own = [event for event in record.events if getattr(event, "sender", None) == record.member]
            assert len(own) == len(record.sent)
