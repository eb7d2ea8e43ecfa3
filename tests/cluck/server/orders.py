"""Lock servers in an order that a test writes down by hand: who is told what, at which level, and when rings change.

It keeps to what extended virtual synchrony allows only as far as the test does. `settle` lets everything be said and
delivered that there is to say, as a calm ring would; `said` and `deliver` take the place of that where a test aims.
"""

import random
from itertools import count

from cluck.commands import Acquire, Ended, Owner, Release, Renew, RequestId, Stand, Withdraw
from cluck.protocol import VERSION, Held, Hello, Leads, Renounced, Welcome
from cluck.server.service import Service
from cluck.state.application import CODEC
from cpg.events import Confchg, Member, Message, Reason, TotemConfchg, Transitional
from cpg.replication.electorate import Electorate
from cpg.replication.replica import ReplicaSettings
from totem.configuration import Level, RingId

encode, decode, freeze = CODEC.encode, CODEC.decode, CODEC.freeze


class Server:
    """A lock server and one client of it, and what that was told."""

    def __init__(self, order, node_id, record=None, pid=1, **settings):
        self.order = order
        self.node_id = node_id
        self.member = Member(node_id, pid)
        self.record = record
        self.writes = True
        self.service = Service(
            self.member,
            ReplicaSettings(**{"electorate": order.electorate, "safe": order.safe, **settings}),
            record,
            dice=random.Random(f"{node_id} {next(order.lives)}"),
            now=order.now,
            key=b"of node %d" % node_id,
        )
        self.told = []
        self.connection = self.service.connect(self.told.append)
        self.connection.say([Hello(VERSION)], order.now)
        self.client = self.told[0].client
        self.numbers = 0

    @property
    def state(self):
        return self.service.replica.state

    @property
    def ready(self):
        return self.service.readiness[0]

    def say(self, said):
        self.connection.say([said], self.order.now)

    def acquire(self, name=b"lock", task=0, **options):
        self.numbers += 1
        request = RequestId(Owner(self.client, task), self.numbers)
        self.say(Acquire(request, name, **options))
        return request

    def stand(self, election=b"head", task=0, **options):
        self.numbers += 1
        request = RequestId(Owner(self.client, task), self.numbers)
        self.say(Stand(request, election, **options))
        return request

    def lose(self, *, dead=False):
        """The connection of its client ends."""
        self.connection.lost(self.order.now, dead=dead)

    def come_back(self, secret=None, former=None):
        """The client connects again; with another secret than its own nobody needs to believe it.

        `former`: an earlier life of this server, whose client it is.
        """
        former = former or self
        (welcome, *_) = former.of(Welcome)
        self.connection = self.service.connect(self.told.append)
        self.client = former.client
        self.say(Hello(VERSION, resumes=self.client, secret=welcome.secret if secret is None else secret))
        return self.of(Welcome)[-1]

    def release(self, token):
        self.say(Release(self.granted(token), token))

    def renew(self, token):
        self.say(Renew(self.granted(token), token))

    def granted(self, token):
        """The request that the client was told to be granted this token."""
        return next(said.request for said in self.of(Held) if said.token == token)

    def renew_lead(self):
        """Renew what its client was told last that it leads."""
        told = self.of(Leads)
        if told and told[-1].token:
            self.say(Renew(told[-1].candidate, told[-1].token))

    def withdraw(self, request):
        self.say(Withdraw(request))

    def said(self):
        """What it has to say to the group; its disk is quick, or stands still."""
        while self.writes and self.service.record_to_store is not None:
            self.record = self.service.record_to_store
            self.service.stored(self.record)
        return [(self.member, data) for data in self.service.take(self.order.now)]

    def hear(self, event):
        self.service.event(event, self.order.now)

    def of(self, kind):
        return [said for said in self.told if isinstance(said, kind)]

    @property
    def held(self):
        """The tokens that the client was told it holds, and does not know to be lost."""
        tokens = [said.token for said in self.of(Held)]
        lost = {said.token for said in self.told if isinstance(said, Ended | Renounced)}
        return [token for token in dict.fromkeys(tokens) if token not in lost]


class Order:
    """The lock servers of a cluster, and the rings that they are in."""

    def __init__(self, nodes=3, *, safe=True, electorate=None, **settings):
        self.now = 1000.0
        self.safe = safe
        self.electorate = electorate or Electorate(dict.fromkeys(range(1, nodes + 1), 1))
        self.lives = count()
        self.settings = settings
        self._ring_seq = 0
        """Of the ring that was formed last."""
        self.servers = {node_id: Server(self, node_id, **settings) for node_id in self.electorate.votes}
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
        self.servers[node_id] = Server(self, node_id, record, **{**self.settings, **settings})

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
        joined = self.servers[key] = Server(self, node_id, self.servers[node_id].record, pid, **self.settings)
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
        began = self.servers[node_id] = Server(self, node_id, ended.record, ended.member.pid + 1, **settings)
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
                if self.servers[node_id].service.deadline <= self.now:
                    self.servers[node_id].service.advance(self.now)
            self.settle()


def started(nodes=3, **options):
    """Servers of which all are in one ring, and grant."""
    order = Order(nodes, **options)
    order.ring(list(order.servers))
    order.settle()
    assert all(server.ready for server in order.servers.values())
    return order
