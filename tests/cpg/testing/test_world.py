"""Random worlds on a perfect ring: groups keep their promises, and everything becomes quiet."""

import pytest

from cpg.events import Member, TotemConfchg
from cpg.node.engine import Engine
from cpg.node.groups import ProcessList
from cpg.node.membership import LocalMembership
from cpg.node.pieces import Assembler, Outgoing
from cpg.node.sync import Sync
from cpg.node.wire import Joinlist, Procleave, decode
from cpg.testing.checkers import Record, check
from tests.cpg.node.oracle import World
from totem.configuration import Guarantee
from totem.errors import QueueFull

NAMES = [b"chat", b"lock", b"x" * 127]


class Life:
    """A world with programs in it that join, send and leave at random."""

    def __init__(self, seed, *, nodes=4, pure=True):
        self.world = World(seed, queue_limit=6000, pure=pure, compact=seed % 4 > 0)
        self.dice = self.world.dice
        self.records: list[Record] = []
        self.memberships: dict[int, list[tuple[LocalMembership, Record]]] = {}
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
        """Do one random thing as a program."""
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
        """Crash and start nodes at random, and join the running ones in rings."""
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


def judge(life):
    """Return everything that is wrong with a world that has come to rest."""
    wrong = [str(violation) for violation in check(life.records)]
    nodes = [life.world[node_id] for node_id in life.ids]
    wrong += [f"node {node.node_id} waits for sync" for node in nodes if not node.engine.synced]
    wrong += [f"groups at {node.node_id}" for node in nodes if node.engine.groups != nodes[0].engine.groups]
    for node in nodes:
        statistics = node.engine.statistics()
        if statistics.malformed or statistics.unknown_senders or statistics.silent:
            wrong.append(f"node {node.node_id}: {statistics}")
    for memberships in life.memberships.values():
        for membership, record in memberships:
            own = [event for event in record.events if getattr(event, "sender", None) == record.member]
            if not membership.left and (not membership.joined or len(own) != len(record.sent)):
                wrong.append(f"{record}: told {len(own)} of {len(record.sent)} own messages")
    return wrong


def verdict(seed, *, pure):
    life = Life(seed, pure=pure)
    life.run(changes=12)
    return judge(life)


@pytest.mark.parametrize("seed", range(150))
def test_groups_keep_their_promises(seed):
    assert verdict(seed, pure=seed % 3 > 0) == []


@pytest.fixture
def small_pieces(monkeypatch):
    """Messages of more than 40 bytes go in pieces."""
    monkeypatch.setattr("cpg.node.membership.LARGEST_PLAIN", 40)
    monkeypatch.setattr("cpg.node.membership._Envelope.largest", 40)
    monkeypatch.setattr("cpg.node.pieces.LARGEST_PLAIN", 40)


@pytest.mark.parametrize("seed", range(100))
@pytest.mark.usefixtures("small_pieces")
def test_groups_keep_their_promises_with_messages_in_pieces(seed):
    assert verdict(seed, pure=True) == []


# Planted bugs: worlds like these find each of them.


def last_transitional_set_alone(patch):
    def on_transitional(self, members):
        self._staying = self._activated & frozenset(members)
        self._joinlists.clear()

    patch(ProcessList, "on_transitional", on_transitional)


def joinlists_of_an_aborted_sync_kept(patch):
    def on_transitional(self, members):
        self._staying &= frozenset(members)

    patch(ProcessList, "on_transitional", on_transitional)


def who_came_told_before_who_left(patch):
    def activate(self):
        changes = [*self._nodes_up(), *self._nodes_down(), *self._processes_down()]
        self._activated = self._staying = self._ring_members
        self._joinlists.clear()
        return changes

    patch(ProcessList, "activate", activate)


def restarted_nodes_not_left(patch):
    patch(ProcessList, "_left_nodes", lambda self: self._activated - self._ring_members)


def joinlist_without_those_who_joined_last(patch):
    original = ProcessList.sync_messages

    def sync_messages(self):
        messages = original(self)
        if len(messages) > 1:
            processes = decode(messages[1]).processes
            messages[1] = Joinlist(processes[:-1]).encode()
        return messages

    patch(ProcessList, "sync_messages", sync_messages)


def one_barrier_not_awaited(patch):
    def on_barrier(self, sender, message):
        if message.ring_id == self.ring_id and self._turns:
            self._barriers.add(sender)
            if len(self._barriers) >= max(1, len(self._members) - 1):
                self._services[self._turns.pop(0)].activate()
                self._take_turn()

    patch(Sync, "on_barrier", on_barrier)


def one_service_build_not_awaited(patch):
    def on_service_build(self, sender, message):
        if message.ring_id == self.ring_id and not self._turns:
            self._heard.add(sender)
            self._merged.update(message.services)
            if len(self._heard) >= max(1, len(self._members) - 1):
                self._turns = sorted(self._merged)
                self._take_turn()

    patch(Sync, "on_service_build", on_service_build)


def messages_go_out_while_sync_runs(patch):
    original = Engine._on_regular

    def on_regular(self, configuration):
        original(self, configuration)
        self._processor.sync_complete(configuration.ring_id)

    patch(Engine, "_on_regular", on_regular)


def routes_kept_when_a_group_changes(patch):
    def tell(self, change):
        routes, channels = dict(self._routes), dict(self._channels)
        original(self, change)
        self._routes.update(routes)
        self._channels.update(channels)

    original = Engine._deliver_change
    patch(Engine, "_deliver_change", tell)


def join_not_delivered_before_its_event(patch):
    def on_procjoin(self, name, member):
        change = self._groups.on_procjoin(name, member)
        own = self._local.get((name, member.pid)) if member.node_id == self.node_id else None
        if change is not None:
            self._deliver_change(change)
        if change is not None and own is not None:
            own.entered()

    patch(Engine, "_on_procjoin", on_procjoin)


def ring_told_before_its_changes(patch):
    def activate(self):
        changes = self._groups.activate()
        self.ring_id, self.node_ids = self._configuration.ring_id, self._configuration.members
        self._transitional = None
        self._deliver_event(TotemConfchg(self.ring_id, self.node_ids))
        for change in changes:
            self._deliver_change(change)

    patch(Engine, "_activate", activate)


def leave_overtakes_what_waits(patch):
    def leave(self):
        if not self.leaving:
            self.leaving = True
            self._outbox.appendleft(([Procleave(self.name, self.member.pid).encode()], Guarantee.AGREED, None))
            self._queue([])

    patch(LocalMembership, "leave", leave)


def message_cut_by_a_new_ring_not_begun_again(patch):
    patch(Outgoing, "new_ring", lambda self, *, pure: None)


def message_cut_by_a_new_ring_begun_again_where_receivers_kept_it(patch):
    patch(Assembler, "clear", lambda self: None)


PLANTED = [
    last_transitional_set_alone,
    joinlists_of_an_aborted_sync_kept,
    who_came_told_before_who_left,
    restarted_nodes_not_left,
    joinlist_without_those_who_joined_last,
    one_barrier_not_awaited,
    one_service_build_not_awaited,
    messages_go_out_while_sync_runs,
    routes_kept_when_a_group_changes,
    join_not_delivered_before_its_event,
    ring_told_before_its_changes,
    leave_overtakes_what_waits,
    message_cut_by_a_new_ring_not_begun_again,
    message_cut_by_a_new_ring_begun_again_where_receivers_kept_it,
]


@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.__name__)
@pytest.mark.usefixtures("small_pieces")
def test_a_planted_bug_is_found(bug, monkeypatch):
    bug(monkeypatch.setattr)
    assert any(found(seed) for seed in range(60)), "no world has found it"


def found(seed):
    try:
        return verdict(seed, pure=True)
    except (AssertionError, KeyError, IndexError):
        return True
