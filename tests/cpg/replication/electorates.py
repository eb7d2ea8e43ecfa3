"""A small model of a cluster whose electorate changes (ruling E9), without anything else of a server.

Servers vote, crash, lose their state, and keep a disk. A ring's order is a list; each member has delivered some of it,
and what it said itself before it leaves. What majorities have acknowledged in a view is reported, which is the harder
rule (E4). A `Wrong` is raised in two cases: something that was reported is not in the state of a later view, or a state
is born while promises are still reported. Each of `MISTAKES` is a rule that is wrong in one sentence of E9.
"""

import random
from dataclasses import dataclass, replace

MISTAKES = {
    "only the former majority is needed": 182,
    "disks need not know": 20,
    "the new ones' disks suffice": 46,
    "configuration wins over state": 874,
    "who was removed forgets": 874,
    "undo whatever disks say": 258,
    "change what is changing": 560,
}
"""With the first world in which each loses something."""


@dataclass(frozen=True)
class Known:
    """What is known of who decides."""

    version: int
    view: tuple
    votes: tuple
    former: tuple | None = None

    @property
    def rank(self):
        return self.view, self.version, self.former is None

    @property
    def content(self):
        return self.version, self.votes, self.former


def is_quorum(votes, nodes):
    return 2 * sum(n for node, n in votes if node in nodes) > sum(n for _, n in votes)


class Wrong(Exception):
    """Something was lost."""


class Server:
    """One server, and its disk."""

    def __init__(self, node):
        self.node = node
        self.is_up = True
        self.disk = None
        self.lose()

    def lose(self):
        """End a life."""
        self.has_state = False
        self.log = ()
        self.lineage = self.known = self.to_write = self.view = None
        self.enter(None)

    def enter(self, view):
        self.view = view
        self.place = self.count = 0
        self.stored = {}
        self.acknowledged = {}

    @property
    def latest(self):
        said = [known for known in (self.known if self.has_state else None, self.disk) if known]
        return max(said, key=lambda known: known.rank, default=None)


class View:
    """A ring, and the view on it if it is primary."""

    def __init__(self, number, members):
        self.number = number
        self.members = members
        self.order = []
        self.is_primary = False
        self.begins_since = None
        self.known = None
        self.base = ()
        self.epoch = 0


class World:
    """One random course of events."""

    def __init__(self, seed, mistake=None):
        self.dice = dice = random.Random(seed)
        self.mistake = mistake
        self.now = 0
        self.told = []
        """What was reported, and in which view."""
        self.latest_epoch = 0
        self.marks = {"changed": 0, "undone": 0, "born": 0}
        count = dice.choice((3, 4, 5, 6))
        nodes = range(1, count + 1)
        self.servers = {node: Server(node) for node in nodes}
        self.weights = dice.random() < 0.5
        votes = self.draw(dice.sample(nodes, dice.randint(1, count)))
        self.files = {
            node: votes if dice.random() < 0.5 else self.draw(dice.sample(nodes, dice.randint(1, count)))
            for node in nodes
        }
        self.views = [View(1, set(nodes))]
        self.views[0].epoch = 1
        for server in self.servers.values():
            server.enter(self.views[0])
        for node, _ in votes:
            self.servers[node].disk = Known(1, (0, 0), votes)
        self.begin(self.views[0], list(self.servers.values()), (), Known(1, (1, 1), votes))

    def draw(self, nodes):
        return tuple(sorted((node, self.dice.choice((1, 1, 2, 3)) if self.weights else 1) for node in nodes))

    def decides(self, known, nodes):
        if known.former is None:
            return is_quorum(known.votes, nodes)
        if self.mistake == "only the former majority is needed":
            return is_quorum(known.former, nodes)
        return is_quorum(known.votes, nodes) and is_quorum(known.former, nodes)

    # ---- views

    def change_rings(self):
        dice = self.dice
        touched = [server for server in self.servers.values() if server.is_up and dice.random() < 0.7]
        parts = {}
        for server in touched:
            parts.setdefault(dice.randrange(3) if dice.random() < 0.5 else 0, []).append(server)
        for part in parts.values():
            for server in part:
                self.leave(server)
            self.form(part)

    def leave(self, server):
        """Deliver what a server has said itself; what is said from then on is for another ring."""
        view = server.view
        own = [place for place, (_, node, _) in enumerate(view.order) if node == server.node] if view else []
        while own and server.place <= own[-1]:
            place, whole = server.place, len(view.order)
            self.deliver(server)
            del view.order[whole:]
            if server.place == place:
                break
        server.view = None

    def form(self, part):
        view = View(len(self.views) + 1, {server.node for server in part})
        self.views.append(view)
        for server in part:
            server.enter(view)
        known = self.known_to(part)
        if known is None:
            return
        having = {server.node for server in part if server.has_state}
        if self.can_undo(known, part, having):
            known = Known(known.version + 1, known.view, known.former)
            self.marks["undone"] += 1
        if self.decides(known, having):
            best = max((server for server in part if server.has_state), key=lambda server: server.lineage)
            for what, _ in self.told:
                if what not in best.log:
                    raise Wrong(f"view {view.number} does not know of {what}")
            view.epoch = best.lineage[0]
            self.begin(view, part, best.log, known)
        elif self.decides(known, {server.node for server in part if server.disk}):
            view.known, view.begins_since = known, self.now

    def known_to(self, part):
        said = [server.latest for server in part]
        if self.mistake == "configuration wins over state":
            said = [server.latest if server.has_state else Known(1, (0, 0), self.files[server.node]) for server in part]
        return max((known for known in said if known), key=lambda known: known.rank, default=None)

    def can_undo(self, known, part, having):
        if known.former is None or self.decides(known, having) or not is_quorum(known.former, having):
            return False
        without = {server.node for server in part if not (server.disk and server.disk.content == known.content)}
        may_have = {node for node, _ in known.former} - without
        return not is_quorum(known.former, may_have) or self.mistake == "undo whatever disks say"

    def begin(self, view, part, log, known):
        """Install the state, at all or, where the ring breaks just then, at some."""
        view.is_primary, view.base = True, log
        known = replace(known, view=(view.epoch, view.number))
        breaks = self.dice.random() < 0.2
        for server in part:
            if breaks and self.dice.random() < 0.5:
                server.view = None
                continue
            server.has_state, server.log, server.known = True, log, known
            server.lineage = (view.epoch, view.number, 0)
            server.stored = {other.node: other.disk for other in part}
            if server.disk is None or server.disk.content != known.content:
                server.to_write = known
            self.settle(server)

    def be_born(self, view):
        """End the longest promise of a state that nobody has any more; servers in an older view have noticed."""
        part = [server for server in self.servers.values() if server.is_up and server.view is view]
        if {server.node for server in part} != view.members:
            return
        if any(self.asked(what) >= view.begins_since for what, _ in self.told):
            raise Wrong(f"a birth in view {view.number}, and somebody was told of grants meanwhile")
        for server in self.servers.values():
            if server.view is not None and server.view.number < view.number:
                self.leave(server)
        view.begins_since, view.epoch, self.told = None, view.number, []
        self.marks["born"] += 1
        self.begin(view, part, (), view.known)

    @staticmethod
    def asked(what):
        return what[0] if isinstance(what, tuple) else what

    # ---- the order

    def deliver(self, server):
        """Deliver the next message of its ring to a server."""
        view = server.view
        is_there = view is not None and view.is_primary and server.has_state and server.lineage[1] == view.number
        if not is_there or server.place >= len(view.order):
            return
        kind, node, what = view.order[server.place]
        server.place += 1
        if kind == "stored":
            server.stored[node] = what
            self.settle(server)
        elif kind == "acknowledge":
            server.acknowledged[node] = what
            if node == server.node:
                server.lineage = (view.epoch, view.number, what)
            self.tell(server)
        else:
            server.count += 1
            server.log += (what,)
            view.order.append(("acknowledge", server.node, server.count))
            if kind == "change":
                self.change(server, what[1], what[2])

    def change(self, server, version, votes):
        known, view = server.known, server.view
        is_free = known.former is None or (self.mistake == "change what is changing" and votes == known.former)
        if is_free and version == known.version + 1 and is_quorum(votes, view.members):
            server.known = server.to_write = Known(version, (view.epoch, view.number), votes, known.votes)
            self.settle(server)

    def settle(self, server):
        """Let the next voters decide, once both majorities' disks know: all in the view have the state."""
        known = server.known
        if known.former is None:
            return
        knowing = {node for node, disk in server.stored.items() if disk and disk.content == known.content}
        if self.mistake == "disks need not know":
            knowing = server.view.members
        needed = [known.votes, known.former]
        if self.mistake == "the new ones' disks suffice":
            needed = [known.votes]
        if all(is_quorum(votes, knowing) for votes in needed):
            self.marks["changed"] += 1
            server.known = server.to_write = replace(known, former=None)

    def tell(self, server):
        """Report what majorities have acknowledged, this server among them."""
        view, mine = server.view, server.acknowledged.get(server.node, 0)
        reached = {min(mine, count) for count in server.acknowledged.values()}
        for count in sorted(reached, reverse=True):
            if self.decides(server.known, {node for node, n in server.acknowledged.items() if n >= count}):
                self.tell_all(view, server.log[: len(view.base) + count])
                return

    def tell_all(self, view, log):
        told = {what for what, _ in self.told}
        for what in log:
            if what in told:
                continue
            if view.epoch < self.latest_epoch:
                raise Wrong(f"{what} was told in epoch {view.epoch}, after {self.latest_epoch}")
            self.latest_epoch = view.epoch
            self.told.append((what, view.number))
            for later in self.views[view.number :]:
                if later.is_primary and later.epoch >= view.epoch and what not in later.base:
                    raise Wrong(f"{what} was told in view {view.number}, and view {later.number} does not know")

    # ---- what happens

    def run(self, steps=600):
        for _ in range(steps):
            self.now += 1
            self.step(self.dice.choice(list(self.servers.values())))

    def step(self, server):
        dice, view = self.dice, server.view
        is_primary = view is not None and view.is_primary and server.has_state
        what = dice.choices(
            ("rings", "crash", "start", "change", "ask", "write", "birth", "deliver"),
            (3, 1.5, 5.5, 7, 8, 12, 1, 62),
        )[0]
        if what == "rings":
            self.change_rings()
        elif what == "crash":
            server.is_up = False
            server.lose()
        elif what == "start" and not server.is_up:
            server.is_up = True
            is_out = server.disk is not None and server.node not in dict(server.disk.votes)
            if is_out and self.mistake == "who was removed forgets":
                server.disk = Known(1, (0, 0), self.files[server.node])
        elif what == "change" and is_primary:
            view.order.append(("change", server.node, (self.now, server.known.version + 1, self.others(server.known))))
        elif what == "ask" and is_primary:
            view.order.append(("ask", server.node, self.now))
        elif what == "write" and server.to_write is not None:
            if server.disk is None or server.disk.rank <= server.to_write.rank:
                server.disk = server.to_write
            server.to_write = None
            if view is not None:
                view.order.append(("stored", server.node, server.disk))
        elif what == "birth" and view is not None and view.begins_since is not None:
            if self.now - view.begins_since > 20:
                self.be_born(view)
        elif what == "deliver":
            for _ in range(dice.choice((2, 5, 20))):
                self.deliver(server)

    def others(self, known):
        """Draw the next voters."""
        dice, votes = self.dice, dict(known.votes)
        if known.former is not None and dice.random() < 0.5:
            return known.former
        for _ in range(dice.choice((1, 1, 2, 4))):
            node = dice.choice(list(self.servers))
            if node in votes and len(votes) > 1 and dice.random() < 0.5:
                del votes[node]
            else:
                votes[node] = dice.choice((1, 1, 2, 3)) if self.weights else 1
        return tuple(sorted(votes.items()))
