"""An allowed client that says anything, and members of the servers' group that do: others keep what they have.

It is not enough that nothing is raised. The state must be a possible one, and the same at all servers. Honest clients
must hold and lead what they did.
"""

import random
from collections import Counter
from itertools import count
from typing import get_args

import pytest
from msgspec.msgpack import encode as packed
from msgspec.structs import replace

from cluck.commands import ClientId, Command, EndWait, Owner, Release, Renew, RequestId, Resign, Wait, Withdraw
from cluck.protocol import VERSION, ClientCommand, Hello, Malformed, Upward, records, upward
from cluck.state.application import CODEC
from cpg.events import Member
from cpg.replication.electorate import Voters
from cpg.replication.identities import ServerId
from cpg.replication.replica import PATIENCE
from cpg.replication.wire import Commands, Exclude, Forgive, Report, Round, RoundId, Snapshot
from tests.cluck.server.orders import decode, encode, started
from tests.cluck.state.invariants import check
from tests.cpg.replication.values import Beyond, Spoiler

NAMES = [b"honest1", b"honest2", b"honest3", b"x", b"y", b"head", b"other"]
LEASE = 86400.0
KINDS = get_args(ClientCommand)
THEFTS = (Release, Renew, Withdraw, EndWait, Resign)


class Honest:
    """A client of each server: it holds a lock, waits for one that another holds, and leads or stands."""

    def __init__(self, order):
        self.order = order
        self.held = {node: order[node].acquire(b"honest%d" % node, lease=LEASE) for node in (1, 2, 3)}
        order.settle()
        self.tokens = {node: order[node].held[0] for node in (1, 2, 3)}
        self.waiting = {node: order[node].acquire(b"honest%d" % (node % 3 + 1), task=1) for node in (1, 2, 3)}
        self.guards = {node: order[node].acquire(b"guard%d" % node, task=3, lease=LEASE) for node in (1, 2, 3)}
        order.settle()
        self.asleep = {}
        for node, guard in self.guards.items():
            server = order[node]
            server.numbers += 1
            request = self.asleep[node] = RequestId(guard.owner, server.numbers)
            server.say(Wait(request, b"bell%d" % node, b"guard%d" % node, server.state.table.ticket(guard).token))
        order.settle()
        self.standing = {node: order[node].stand(b"head", task=2, lease=LEASE) for node in (1, 2, 3)}
        order.settle()
        self.leader = order[2].state.elections.of(b"head")
        assert self.leader.leader in self.standing.values()

    def check(self):
        """Assert that they have what they had, at every server, and that nobody was told otherwise."""
        order = self.order
        images = {packed(order[node].state.image()) for node in (1, 2, 3)}
        assert len(images) == 1, "the servers have come apart"
        for node in (1, 2, 3):
            state, server = order[node].state, order[node]
            assert server.ready
            assert self.tokens[node] in server.held
            assert state.table.ticket(self.held[node]).renewals == 0
            assert self.asleep[node] in state.conditions._waiters
            assert state.table.held(self.held[node], self.tokens[node]) is not None
            assert state.table.ticket(self.waiting[node]) is not None
            assert state.elections.present(self.standing[node])
            assert state.elections.of(b"head") == self.leader
        check(order[1].state)


class Known:
    """Values that mean something here, for a maker to choose from."""

    def __init__(self, dice, order, client):
        self.dice = dice
        self.order = order
        self.client = client
        """Returns the client in whose name to speak, mostly."""
        self.numbers = count(1)

    @property
    def by_type(self):
        return {RequestId: self.request, ClientId: self.any_client}

    def any_client(self):
        clients = [self.order[node].client for node in (1, 2, 3)]
        return self.dice.choice([self.client(), *clients, None])

    def request(self):
        """Return a request of this client, old or new; sometimes of another one."""
        state = self.order[2].state
        if self.dice.random() < 0.05:
            known = [*state.table._tickets, *state.elections._places._names, *state.conditions._waiters]
            return self.dice.choice([*known, None])
        number = next(self.numbers) if self.dice.random() < 0.5 else self.dice.randint(0, next(self.numbers))
        return RequestId(Owner(self.client(), self.dice.randrange(2)), number)

    def settle(self, command):
        """Give fields a meaning that are no nouns of their own: names, tokens, and what is settled."""
        state = self.order[2].state
        choices = {}
        for field in command.__struct_fields__:
            if field in ("name", "election", "condition", "lock"):
                choices[field] = self.dice.choice(NAMES)
            elif field == "token":
                tokens = [ticket.token for ticket in state.table.tickets() if ticket.token]
                tokens += [tenure.token for tenure in state.elections.tenures()]
                drawn = state.tokens.epoch * (1 << 32) + state.tokens.drawn
                choices[field] = self.dice.choice([*tokens, drawn + 1, drawn + self.dice.randrange(9), 0])
            elif field in ("settled", "permits") and self.dice.random() < 0.9:
                choices[field] = self.dice.choice([0, 0, 0, 1, 2])
            elif field in ("lease", "grace") and self.dice.random() < 0.9:
                choices[field] = self.dice.choice([1.0, 5.0])
            elif field == "round" and command.__class__.__name__ != "Round":
                choices[field] = self.dice.choice([1, 2, 3])
        if type(command) is Wait:
            own = [ticket for ticket in state.table.tickets() if ticket.token and self._is_own(ticket.request)]
            if own and self.dice.random() < 0.9:
                held = self.dice.choice(own)
                choices |= {"lock": held.name, "token": held.token}
        return replace(command, **choices)

    def _is_own(self, request):
        return request.owner.client == self.client()


class Mallory:
    """A client that may connect, and is no administrator."""

    def __init__(self, order, dice, kinds):
        """`kinds`: of its commands, mostly."""
        self.order = order
        self.dice = dice
        self.kinds = kinds
        self.heard = Counter()
        self.known = Known(dice, order, lambda: self.client)
        self.maker = Spoiler(dice, self.known.by_type)
        self.refused = 0
        self.connect()

    def connect(self):
        told = []

        def put(said):
            told.append(said)
            self.heard[type(said).__name__] += 1

        self.connection = self.order[1].service.connect(put, may_force=False, user=1000)
        self.connection.receive([Hello(VERSION)], self.order.now)
        self.client = told[0].client
        self.known.numbers = count(1)

    def say(self):
        """Say something, as a record that its server reads."""
        kind = self.dice.choice(self.kinds if self.dice.random() < 0.9 else get_args(Upward))
        said = self.known.settle(self.maker.make(kind))
        if self.dice.random() < 0.05 and kind in THEFTS:
            said = self.theft(kind)
        if self.dice.random() < 0.05:
            said = self.dice.choice([self.maker.make(self.dice.choice(get_args(Command))), self._spoiled(kind)])
        try:
            for record in records([said]):
                self.connection.receive(list(upward(record)), self.order.now)
        except Malformed:
            self.refused += 1
            self.connection.lost(self.order.now, dead=False)
            self.connect()

    def theft(self, kind):
        """Return what another client could say of something that it has."""
        state = self.order[2].state
        if kind is EndWait:
            return EndWait(self.dice.choice(list(state.conditions._waiters)))
        if kind is Resign:
            tenure = self.dice.choice(list(state.elections.tenures()))
            return Resign(tenure.request, tenure.token)
        ticket = self.dice.choice([ticket for ticket in state.table.tickets() if ticket.token])
        return Withdraw(ticket.request) if kind is Withdraw else kind(ticket.request, ticket.token)

    def _spoiled(self, kind):
        try:
            return self.maker.spoil(kind)
        except Beyond:
            return None


def hunt_as_a_client(seed, kinds=KINDS):
    """Play an allowed client, which says these kinds of commands mostly; return it."""
    dice, order = random.Random(seed), started()
    honest = Honest(order)
    mallory = Mallory(order, dice, kinds)
    for step in range(300):
        mallory.say()
        if dice.random() < 0.5:
            order.settle()
        if dice.random() < 0.01:
            order.ring([1, 2, 3])
        if dice.random() < 0.02:
            order.pass_time(0.5)
        if step % 10 == 0:
            order.settle()
            honest.check()
    assert mallory.refused > 5
    order.settle()
    honest.check()
    return mallory


@pytest.mark.parametrize("seed", range(12))
def test_an_allowed_client_says_anything(seed):
    hunt_as_a_client(seed)


def test_what_an_allowed_client_says_comes_to_something():
    """Otherwise it would be no hunt."""
    heard = Counter()
    for seed in range(12):
        heard += hunt_as_a_client(seed).heard
    answers = ("LockHeld", "Queued", "Refused", "Ended", "Waiting", "Notified", "Standing", "Failed", "Leadership")
    assert not [answer for answer in answers if heard[answer] < 5], heard


STRANGERS = [Member(4, 9), Member(1, 9), Member(2, 9)]


@pytest.mark.parametrize("seed", range(12))
def test_a_member_that_is_no_server_says_anything(seed):
    """Except that it is one: its node decides who may join the group."""
    dice, order = random.Random(seed), started()
    honest = Honest(order)
    sender = dice.choice(STRANGERS)
    lives = [order[node].service.server.start for node in (1, 2, 3)]
    known = Known(dice, order, lambda: ClientId(ServerId(sender.node_id, dice.choice(lives)), 1))
    maker = Spoiler(dice, known.by_type)
    kinds = [kind for kind in CODEC.kinds if kind.__name__ not in ("Round", "Report")]
    for step in range(300):
        kind = dice.choice([Commands[Command], *kinds])
        try:
            said = maker.make(kind) if dice.random() < 0.8 else maker.spoil(kind)
        except Beyond:
            continue
        if type(said) is Commands:
            commands = [known.settle(maker.make(dice.choice(get_args(Command)))) for _ in range(dice.randrange(4))]
            said = Commands(dice.choice(lives), 1, commands)
        elif hasattr(said, "round") and dice.random() < 0.5:
            said = replace(said, round=order[1].service.replica.view_id)
        order.deliver([(sender, encode(said))], [1, 2, 3])
        if step % 10 == 0:
            order.settle()
            honest.check()
    order.settle()
    honest.check()


@pytest.mark.parametrize("seed", range(12))
def test_a_member_reports_anything(seed):
    """Except that others decide, or that no ring is quorate: it calls rounds, and hands over what is no state."""
    dice, order = random.Random(seed), started()
    honest = Honest(order)
    sender = dice.choice(STRANGERS)
    maker = Spoiler(dice, {Voters: lambda: order[1].state.voters})
    refused = 0
    for _ in range(40):
        if dice.random() < 0.3:
            order.ring([1, 2, 3])
            rounds = order.said(1)
        else:
            rounds = [(sender, encode(Round(RoundId(5, dice.randrange(1 << 60)))))]
        order.deliver(rounds, [1, 2, 3])
        reports = order.said(1, 2, 3)
        known = next((said for _, data in reports if isinstance(said := decode(data), Report)), None)
        if known is not None:
            made = replace(
                maker.make(Report[CODEC.application.terms_type]),
                round=known.round,
                quorate=True,
                terms=known.terms,
                known=[],
            )
            lineage = order[1].service.replica.lineage
            near = lineage._replace(ring_seq=lineage.ring_seq + dice.randrange(2), view=dice.randrange(1 << 33))
            made = replace(made, lineage=dice.choice([made.lineage, near]), record=dice.choice([made.record, None]))
            order.deliver([(sender, encode(made))], [1, 2, 3])
        order.deliver(reports, [1, 2, 3])
        for _ in range(dice.randrange(3)):
            kind = dice.choice((Snapshot, Exclude, Forgive))
            said = maker.make(kind)
            if kind is not Forgive:
                said = replace(said, round=order[1].service.replica.view_id)
            order.deliver([(sender, encode(said))], [1, 2, 3])
        order.pass_time(2 * PATIENCE)
        refused += "does not count here" in str(order[1].service.replica.differences)
        honest.check()
    assert refused > 5


@pytest.mark.parametrize("seed", range(12))
def test_a_server_says_any_commands(seed):
    """It may end what others have. But all servers do the same, and the state remains a possible one."""
    dice, order = random.Random(seed), started()
    Honest(order)
    start = order[2].service.server.start
    known = Known(dice, order, lambda: order[2].client)
    maker = Spoiler(dice, known.by_type)
    for _ in range(200):
        commands = []
        for _ in range(dice.randrange(6)):
            kind = dice.choice(get_args(Command))
            spoiled = dice.random() < 0.1
            try:
                commands.append(maker.spoil(kind) if spoiled else known.settle(maker.make(kind)))
            except Beyond:
                continue
        order.deliver([(order[2].member, encode(Commands(start, 1 << 40, commands)))], [1, 2, 3])
        images = {packed(order[node].state.image()) for node in (1, 2, 3)}
        assert len(images) == 1, "the servers have come apart"
        check(order[1].state)
    order.settle()
    assert all(order[node].ready for node in (1, 2, 3))
