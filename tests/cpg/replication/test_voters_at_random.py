"""Servers in an order of random changes: configured differently, cut off at any step, with other voters.

After each step every server that decides sets a key. Versions grow over everything, so two parts that both decide, or a
state that is lost, are found at once.
"""

from random import Random

import pytest

from cpg.events import Reason
from cpg.replication.electorate import Electorate
from cpg.replication.view_decision import ViewDecision
from tests.cpg.replication.orders import Order

STEPS = 60
PROMISE_OVER = 12.0
"""Seconds after which nobody relies on a promise of a former state."""


class World:
    """Servers, what they have reported, and what happens to them."""

    def __init__(self, seed):
        self.dice = dice = Random(seed)
        self.nodes = range(1, dice.choice((3, 4, 5, 6)) + 1)
        self.configured = [self.draw(self.nodes), self.draw(self.nodes)] if dice.random() < 0.7 else []
        self.configured.append(Electorate(dict.fromkeys(self.nodes, 1)))
        self.order = Order(safe=dice.random() < 0.6, electorate=self.configured[-1], survivors=True, in_process=False)
        self.latest = 0
        self.born = 0
        """The epoch of birth of the state that has reported a version last."""
        self.promised = []
        """Versions that must still be there, as no time has passed since."""
        self.versions = set()
        self.ends = dice.choice((0, 3, 9))
        """How often servers end of which the nodes stay."""

    def draw(self, nodes):
        """Draw voters; the first node is always one of them, so that no two clusters can begin."""
        dice = self.dice
        votes = {node: dice.choice((1, 1, 1, 2)) for node in nodes if node == 1 or dice.random() < 0.6}
        return Electorate(votes, dice.choice([None, *votes]) if dice.random() < 0.2 else None)

    # ---- steps

    def run(self):
        for node in self.nodes:
            self.start(node, alike=self.dice.random() < 0.97)
        self.order.ring(list(self.nodes))
        self.order.settle()
        for _ in range(STEPS):
            step = self.dice.choices(
                (self.cut, self.change, self.crash, self.end, self.begin, self.disk, self.wait, self.order.settle),
                (6, 6, 3, self.ends, 5, 3, 0.5, 6),
            )[0]
            step()
            self.probe()
        self.heal()

    def start(self, node, *, alike=False):
        self.order.restart(node, electorate=self.configured[-1] if alike else self.dice.choice(self.configured))

    def disk(self):
        """A disk stands still, or writes again."""
        server = self.order[self.dice.choice(self.nodes)]
        server.writes = not server.writes

    def change(self):
        """Somebody asks for other voters."""
        node = self.dice.choice(self.nodes)
        server = self.order[node]
        if server.ready and node in self.order.rings:
            voters = server.state.voters
            server.change_voters(self.others(voters.electorate))
            if self.dice.random() < 0.5:
                self.cut(node)
            elif self.dice.random() < 0.5:
                self.turn()
                self.cut()
            self.versions.add(voters.version)

    def others(self, electorate):
        votes = dict(electorate.votes)
        for _ in range(self.dice.choice((1, 2, 4))):
            node = self.dice.choice(self.nodes)
            if node in votes and len(votes) > 1 and self.dice.random() < 0.5:
                del votes[node]
            else:
                votes[node] = self.dice.choice((1, 1, 2))
        return Electorate(votes)

    def turn(self):
        """Some say what they have to say."""
        for node in self.dice.sample(list(self.order.rings), self.dice.randint(0, len(self.order.rings))):
            self.order.deliver(self.order.said(node), self.order.rings[node])

    def cut(self, speaker=None):
        """Rings break, while something that one has said comes to some alone."""
        dice, order = self.dice, self.order
        tails = []
        if order.rings:
            speaker = speaker or dice.choice(list(order.rings))
            ring = order.rings[speaker]
            hearers = {speaker, *dice.sample(ring, dice.randint(0, len(ring)))}
            tails = [(order.said(speaker), sorted(hearers) if dice.random() < 0.8 else [])]
        parts = {}
        for node in order.rings:
            parts.setdefault(dice.randrange(2) if dice.random() < 0.7 else 0, []).append(node)
        order.ring(*parts.values(), tails=tails)
        for _ in range(dice.choice((0, 1, 3))):
            self.turn()

    def crash(self):
        """A server ends without a word, and another life of it waits for a ring."""
        node = self.dice.choice(self.nodes)
        rest = [other for other in self.order.rings.pop(node, ()) if other != node]
        if rest:
            self.order.ring(rest)
        self.start(node)

    def end(self):
        """A server ends, its node stays in the ring, and another life of it begins there, or waits for a ring."""
        dice, order = self.dice, self.order
        nodes = [node for node, ring in order.rings.items() if len(ring) > 1]
        if nodes:
            node = dice.choice(nodes)
            ended, among = order[node], [other for other in order.rings[node] if other != node]
            order.end(node, dice.choice((Reason.PROCDOWN, Reason.LEAVE)))
            for _ in range(dice.choice((0, 1, 3))):
                self.turn()
            if dice.random() < 0.8:
                order.begin(node, ended, among, electorate=dice.choice(self.configured))
            else:
                order.servers[node] = ended
                self.start(node)

    def begin(self):
        """A server that has no ring comes into one."""
        out = [node for node in self.nodes if node not in self.order.rings]
        if out:
            node = self.dice.choice(out)
            ring = self.order.rings[self.dice.choice(list(self.order.rings))] if self.order.rings else []
            self.order.ring([*ring, node])

    def wait(self):
        """Let all promises end."""
        self.order.pass_time(PROMISE_OVER, step=1.0)
        self.promised.clear()

    # ---- what must be

    def probe(self):
        """Have every server that decides set a key."""
        order = self.order
        if self.dice.random() < 0.6:
            order.settle()
        for node in list(order.rings):
            server = order[node]
            if server.ready:
                request = server.put(f"key {self.latest}")
                for _ in range(4):
                    for other in order.rings[node]:
                        order.deliver(order.said(other), order.rings[node])
                self.judge(server, request)

    def judge(self, server, request):
        versions = [answer.version for answer in server.told if answer.number == request and answer.version]
        if not versions:
            return  # the view has ended meanwhile, or another request has set the key, unheard
        (version,) = versions
        assert version > self.latest, f"node {server.node_id} has set version {version}, after {self.latest}"
        born = server.replica.lineage.epoch
        assert born == self.born or not self.promised, f"{self.promised} are promised, and another state was born"
        self.latest, self.born = version, born
        self.promised.append(version)
        known = {version for _, version in server.state.items.values()}
        assert known.issuperset(self.promised), f"node {server.node_id} has lost {set(self.promised) - known}"

    def heal(self):
        """With all there, and all promises over, somebody decides, unless the first start never came to be."""
        for server in self.order.servers.values():
            server.writes = True
        self.order.ring(list(self.nodes))
        self.order.settle()
        self.wait()
        for node in self.nodes:
            server = self.order[node]
            assert server.ready or "a first start needs servers that agree" in server.why, f"node {node}: {server.why}"
        if self.order[1].state is not None:
            assert len({self.order[node].state.voters for node in self.nodes}) == 1
            assert self.order[1].state.voters.former is None


@pytest.mark.parametrize("seeds", [range(start, start + 25) for start in range(0, 100, 25)], ids=str)
def test_never_two_parts_decide_and_nothing_is_lost(seeds):
    for seed in seeds:
        World(seed).run()


def test_voters_change_in_random_worlds(monkeypatch):
    """And states are taken up that less than a majority has."""
    found, has_the_last = [], ViewDecision._has_the_last
    monkeypatch.setattr(ViewDecision, "_has_the_last", lambda view: found.append(has_the_last(view)) or found[-1])
    worlds = [World(seed) for seed in range(20)]
    for world in worlds:
        world.run()
    assert sum(found) > 5
    assert max(max(world.versions, default=0) for world in worlds) > 3
    assert {world.order.safe for world in worlds} == {True, False}
