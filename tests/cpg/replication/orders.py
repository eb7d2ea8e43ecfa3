"""Servers in an order that a test writes down by hand: who is told what, at which level, and when rings change.

It keeps to what extended virtual synchrony allows only as far as the test does. `settle` lets everything be said and
delivered that there is to say, as a calm ring would. `said` and `deliver` take the place of that where a test aims.
"""

import random
from dataclasses import replace
from itertools import count

from cpg.events import Confchg, Member, Message, Reason, TotemConfchg, Transitional
from cpg.replication.electorate import ChangeVoters, Electorate
from cpg.replication.replica import Replica, ReplicaSettings
from tests.cpg.replication.dictionary import CODEC, Put
from totem.configuration import Level, RingId

encode, decode, freeze = CODEC.encode, CODEC.decode, CODEC.freeze


class Server:
    """A server of the dictionary, what a program has asked it for, and what that was told."""

    def __init__(self, order, node_id, record=None, pid=1, **settings):
        self.order = order
        self.node_id = node_id
        self.member = Member(node_id, pid)
        self.record = record
        self.writes = True
        self.replica = Replica(
            CODEC,
            self.member,
            random.Random(f"{node_id} {next(order.lives)}").getrandbits(62),
            ReplicaSettings(**{"electorate": order.electorate, "safe": order.safe, **settings}),
            record=record,
            listener=self,
        )
        self.told = []
        self.final = -1
        """Up to which number all is final in this view."""
        self.ended = []
        self._numbers = 0
        self._asked = {}
        """By number: requests that are not answered."""
        self._to_submit = []
        self._unsent = []
        """Answers that are not final."""

    @property
    def state(self):
        return self.replica.state

    @property
    def ready(self):
        return self.replica.is_primary and self.final >= 0

    @property
    def why(self):
        return self.replica.why

    @property
    def deadline(self):
        return self.replica.deadline

    def advance(self):
        self.replica.advance(self.order.now)

    # ---- the program's side

    def put(self, key="key", **options):
        """Ask for a key to be set; return the number of the request."""
        self._numbers += 1
        self._asked[self._numbers] = put = Put(self.replica.server, self._numbers, key, **options)
        self._to_submit.append(put)
        return self._numbers

    def change_voters(self, electorate, version=None):
        self._to_submit.append(ChangeVoters(version or self.state.voters.version + 1, electorate))

    @property
    def versions(self):
        """Versions of what the program has set, as far as it was told."""
        return [answer.version for answer in self.told if answer.version]

    def has(self, version, key="key"):
        """Return whether its copy has this version."""
        return self.state.items.get(key, (None, 0))[1] == version

    # ---- the replica's side

    def on_applied(self, number, command, server, outcomes):
        if server == self.replica.server:
            self._unsent += [(number, answer) for answer in outcomes]

    def on_final(self, number):
        self.final = number
        while self._unsent and self._unsent[0][0] <= number:
            answer = self._unsent.pop(0)[1]
            if self._asked.pop(answer.number, None) is not None:
                self.told.append(answer)

    def on_primary(self):
        self.final = -1
        again = list(self._asked.values())
        self._to_submit = again + [command for command in self._to_submit if command not in again]

    def on_suspended(self):
        self.final = -1
        self._unsent.clear()

    def on_delivered(self, serial):
        pass

    def on_phase(self):
        pass

    def on_server_ended(self, server):
        self.ended.append(server)

    # ---- the group's side

    def hear(self, event):
        self.replica.event(event, self.order.now)

    def said(self):
        """What it has to say to the group; its disk is quick, or stands still."""
        while self.writes and self.replica.record_to_store is not None:
            self.record = self.replica.record_to_store
            self.replica.stored(self.record)
        return [(self.member, data) for data in self.take()]

    def take(self):
        """What it has to say to the group, whatever its disk does."""
        if self.replica.is_primary and self._to_submit:
            self.replica.submit(self._to_submit)
            self._to_submit = []
        return self.replica.take()


class Order:
    """The servers of a cluster, and the rings that they are in."""

    Server = Server

    def __init__(self, nodes=3, *, safe=True, electorate=None, **settings):
        self.now = 1000.0
        self.safe = safe
        self.electorate = electorate or Electorate(dict.fromkeys(range(1, nodes + 1), 1))
        self.lives = count()
        self.settings = settings
        self._ring_seq = 0
        """Of the ring that was formed last."""
        self.servers = {node_id: self.Server(self, node_id, **settings) for node_id in self.electorate.votes}
        self.rings = {}
        """Of each node: the nodes of its ring."""
        self._lost = {}
        """Of each node: the members of its ring that it has lost since."""

    def __getitem__(self, node_id):
        return self.servers[node_id]

    @property
    def level(self):
        return Level.SAFE if self.safe else Level.AGREED

    def restart(self, node_id, *, keeps_disk=True, **settings):
        """A node's server starts anew, or for the first time, in no ring yet."""
        record = self.servers[node_id].record if keeps_disk and node_id in self.servers else None
        for other in self.rings.pop(node_id, ()):
            self.rings[other] = [node for node in self.rings.get(other, ()) if node != node_id]
            self._lost.setdefault(other, {})[self.servers[node_id].member] = Reason.NODEDOWN
        self._lost.pop(node_id, None)
        self.servers[node_id] = self.Server(self, node_id, record, **{**self.settings, **settings})

    # ---- messages

    def said(self, *node_ids):
        """What these have to say, each in its order."""
        return [message for node_id in node_ids for message in self.servers[node_id].said()]

    def deliver(self, messages, to, level=None):
        """Tell these messages to these nodes."""
        for sender, data in messages:
            for node_id in to:
                self.servers[node_id].hear(Message(sender, data, level or self.level))

    def settle(self, *node_ids):
        """Let all be said and delivered in the rings of these nodes, or everywhere."""
        nodes = node_ids or tuple(self.rings)
        for _ in range(200):
            quiet = True
            for node_id in nodes:
                messages = self.said(node_id)
                if messages:
                    quiet = False
                    self.deliver(messages, self.rings[node_id])
            if quiet:
                return
        raise AssertionError("they go on talking")

    # ---- changes

    def ring(self, *parts, tails=()):
        """Form these rings; `tails`: (messages, nodes) that are delivered before, in the transitional configuration."""
        for node_id in {node for part in parts for node in part}:
            former = set(self.rings.get(node_id, ())) or {node_id}
            (new,) = (part for part in parts if node_id in part)
            if self.safe:
                self.servers[node_id].hear(Transitional(tuple(sorted(former & set(new)))))
        for messages, nodes in tails:
            self.deliver(messages, nodes, Level.TRANSITIONAL if self.safe else Level.AGREED)
        for part in parts:
            self._install(part)

    def join(self, node_id, pid):
        """Another server comes on a node, and is in its ring from then on; it is known by node and pid."""
        key = (node_id, pid)
        joined = self.servers[key] = self.Server(self, node_id, self.servers[node_id].record, pid, **self.settings)
        nodes = [*self.rings[node_id], key]
        members = tuple(sorted(self.servers[node].member for node in nodes))
        for node in nodes:
            self.rings[node] = nodes
            self.servers[node].hear(Confchg(members, {}, {joined.member: Reason.JOIN}))
        joined.hear(TotemConfchg(RingId(1, self._ring_seq), tuple(sorted({member.node_id for member in members}))))
        return joined

    def begin(self, node_id, ended, among, **settings):
        """A server begins behind one that has ended, in the ring of these nodes, in which its own node has stayed."""
        settings = {**self.settings, **settings}
        began = self.servers[node_id] = self.Server(self, node_id, ended.record, ended.member.pid + 1, **settings)
        nodes = [*among, node_id]
        members = tuple(sorted(self.servers[node].member for node in nodes))
        for node in nodes:
            self.rings[node] = nodes
            self.servers[node].hear(Confchg(members, {}, {began.member: Reason.JOIN}))
        began.hear(TotemConfchg(RingId(1, self._ring_seq), tuple(sorted(nodes))))

    def end(self, key, reason):
        """A server ends, and its node goes on."""
        member = self.servers.pop(key).member
        nodes = [node for node in self.rings.pop(key) if node != key]
        members = tuple(sorted(self.servers[node].member for node in nodes))
        for node in nodes:
            self.rings[node] = nodes
            self.servers[node].hear(Confchg(members, {member: reason}, {}))

    def _install(self, part):
        self._ring_seq = seq = self._ring_seq + 1
        members = tuple(sorted(self.servers[node_id].member for node_id in part))
        for node_id in part:
            former = set(self.rings.get(node_id, ()))
            left = {self.servers[old].member: Reason.NODEDOWN for old in sorted(former - set(part))}
            left |= self._lost.pop(node_id, {})
            joined = {member: Reason.NODEUP for member in members if member.node_id not in former}
            server = self.servers[node_id]
            if left or joined:
                server.hear(Confchg(members, left, joined))
            server.hear(TotemConfchg(RingId(min(part), seq), tuple(sorted(part))))
        for node_id in part:
            self.rings[node_id] = sorted(part)

    def pass_time(self, seconds, step=0.25):
        """Let time pass in steps, in each of which all is said that is to be."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step)
            for node_id in tuple(self.rings):
                if self.servers[node_id].deadline <= self.now:
                    self.servers[node_id].advance()
            self.settle()


def started(nodes=3, *, order=Order, **options):
    """Return servers all of which are in one ring, and decide."""
    order = order(nodes, **options)
    order.ring(list(order.servers))
    order.settle()
    assert all(server.ready for server in order.servers.values())
    return order


def led_by_the_first(order=Order):
    """Return servers that have begun, of which 1 is the first leader."""
    order = order()
    order[1].replica.settings = replace(order[1].replica.settings, priority=1)
    order.ring([1, 2, 3])
    order.settle()
    assert order[3].replica.leaders[0] == order[1].member
    return order
