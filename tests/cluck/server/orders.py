"""Lock servers in an order that a test writes down by hand, as those of `tests.cpg.replication.orders`."""

import random

from cluck.commands import Acquire, Ended, Owner, Release, Renew, RequestId, Stand, Withdraw
from cluck.protocol import VERSION, Hello, Leads, LockHeld, Renounced, Welcome
from cluck.server.service import Service
from cluck.state.application import CODEC
from cpg.events import Member
from cpg.replication.replica import ReplicaSettings
from tests.cpg.replication import orders as replicas

encode, decode, freeze = CODEC.encode, CODEC.decode, CODEC.freeze


class Server:
    """A lock server, one client of it, and what that client was told."""

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
        self.connection.receive([Hello(VERSION)], order.now)
        self.client = self.told[0].client
        self.numbers = 0

    @property
    def replica(self):
        return self.service.replica

    @property
    def state(self):
        return self.replica.state

    @property
    def ready(self):
        return self.service.readiness[0]

    def say(self, said):
        self.connection.receive([said], self.order.now)

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
        """End the connection of its client."""
        self.connection.lost(self.order.now, dead=dead)

    def come_back(self, secret=None, former=None):
        """Connect the client again; with another secret than its own no server needs to believe it.

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
        """Return the request that was granted this token, as the client was told."""
        return next(said.request for said in self.of(LockHeld) if said.token == token)

    def renew_lead(self):
        """Renew the leadership that its client was told last."""
        told = self.of(Leads)
        if told and told[-1].token:
            self.say(Renew(told[-1].candidate, told[-1].token))

    def withdraw(self, request):
        self.say(Withdraw(request))

    @property
    def deadline(self):
        return self.service.deadline

    def advance(self):
        self.service.advance(self.order.now)

    def said(self):
        """Return what it has to say to the group; its disk is quick, or hangs."""
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
        """Return the tokens that the client was told it holds, and does not know to be lost."""
        tokens = [said.token for said in self.of(LockHeld)]
        lost = {said.token for said in self.told if isinstance(said, Ended | Renounced)}
        return [token for token in dict.fromkeys(tokens) if token not in lost]


class Order(replicas.Order):
    """The lock servers of a cluster, and the rings that they are in."""

    Server = Server


def started(nodes=3, **options):
    """Return lock servers all of which are in one ring, and grant."""
    return replicas.started(nodes, order=Order, **options)


def led_by_the_first():
    """Return lock servers that have begun, of which 1 is the first leader."""
    return replicas.led_by_the_first(Order)
