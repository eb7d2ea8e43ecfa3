"""The replicated state under random commands: simple judges watch it, and a twin made of its image does the same."""

import random

import pytest
from msgspec.msgpack import decode, encode

from cluck.commands import (
    Acquire,
    ClientId,
    Close,
    Commit,
    Depose,
    EndWait,
    Expire,
    Force,
    Gone,
    Mode,
    Next,
    Notify,
    Publish,
    Release,
    Renew,
    Request,
    RequestId,
    Resign,
    Revoke,
    Stand,
    Status,
    Still,
    Wait,
    Withdraw,
)
from cluck.state.elections import Stage
from cluck.state.machine import LockImage, LockState
from cpg.replication.identities import Boot, ServerId
from tests.cluck.state.bench import HERE, THERE, Bench
from tests.cluck.state.judges import ConditionJudge, ElectionJudge, Restarted, TicketJudge

YONDER = ServerId(1, 97)
CLIENTS = "ABCDEF"
LOCKS = {b"x": 0, b"y": 0, b"z": 0, b"semaphore": 2}
CONDITIONS = [b"full", b"empty"]
ELECTIONS = [b"one", b"two"]


class World:
    """A state, the clients that give it random commands, and its judges."""

    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.bench = Bench()
        self.tickets, self.conditions, self.elections = TicketJudge(), ConditionJudge(), ElectionJudge()
        self.asked = []
        """Return all requests that may come again."""
        self.counts = {}
        """The number of outcomes of each kind."""
        self.twin = LockState.of(decode(encode(self.state.image()), type=LockImage))

    @property
    def state(self):
        return self.bench.state

    def compare_twin(self):
        """It was made of an image some time ago, and has done the same since; now and then another one is made."""
        if self.dice.random() < 0.1:
            image = encode(self.state.image())
            assert encode(self.twin.image()) == image
            self.twin = LockState.of(decode(image, type=LockImage))

    def run(self, steps):
        for _ in range(steps):
            command = self.command()
            if command is not None:
                self.apply(command, self.dice.choice([HERE, HERE, THERE, YONDER]))
            if self.dice.random() < 0.01:
                self.keep(self.dice.sample([HERE, THERE, YONDER], 2))

    # ---- what is done and judged

    def apply(self, command, server):
        before = self.parts()
        is_new = not self.is_known(command)
        outcomes = self.bench.apply(command, server)
        assert self.twin.apply(command, server) == outcomes
        self.compare_twin()
        for outcome in outcomes:
            self.counts[type(outcome).__name__] = self.counts.get(type(outcome).__name__, 0) + 1
        if is_new:
            self.note_end(command)
            self.conditions.judge(self.state, command, outcomes, self.tickets)
        else:
            assert self.parts() == before, f"{command} came again"
        self.tickets.judge(self.state.table, outcomes)
        self.elections.judge(self.state, command, outcomes, is_new)
        if isinstance(command, Request) and command not in self.asked:
            self.asked.append(command)

    def note_end(self, command):
        if isinstance(command, Gone):
            self.drop(lambda request: request.owner.client == command.client)
            self.asked = [a for a in self.asked if a.request.owner.client != command.client]
        elif isinstance(command, Withdraw):
            self.drop(lambda request: request == command.request)

    def drop(self, is_dropped):
        self.conditions.drop(is_dropped)
        self.elections.drop(is_dropped)

    def keep(self, servers):
        """Have other servers gone; sometimes since their machine was restarted."""
        runs = {node: self.dice.randrange(3) for node in {server.node_id for server in servers}}
        boots = {server: Boot("machine", str(runs[server.node_id])) for server in servers if self.dice.random() < 0.8}
        ended = self.state._ended_with_machines(boots)
        stranded = self.state.requests.stranded(servers)
        outcomes = self.state.keep(servers, boots)
        assert self.twin.keep(servers, boots) == outcomes
        self.compare_twin()
        self.drop(lambda request: request.owner.client in {*stranded, *ended})
        self.conditions.compare(self.state)
        self.tickets.judge(self.state.table, outcomes)
        self.elections.judge(self.state, Restarted(ended), outcomes)
        for ticket in self.state.table.tickets():
            assert ticket.request.owner.client not in ended
            assert ticket.token or ticket.request.owner.client not in stranded

    def parts(self):
        """Return all but what is remembered of clients, which includes through whom they spoke last."""
        image = self.state.image()
        return encode([image.drawn, image.locks, image.conditions, image.elections])

    def is_known(self, command):
        """Return whether this is to be answered, and to change nothing."""
        if not isinstance(command, Request | Withdraw):
            return False
        history = self.state.requests.histories.get(command.request.owner.client)
        number = command.request.number
        if self.state.present(command.request):
            return not isinstance(command, Withdraw)
        return history is not None and (number in history.ended or number <= history.settled)

    # ---- what is asked

    def request(self):
        return self.bench.request(self.dice.choice(CLIENTS), self.dice.randrange(2))

    def settled(self, request):
        return max(0, request.number - self.dice.randrange(1, 8)) if self.dice.random() < 0.1 else 0

    def is_busy(self, owner):
        """A client that waits does nothing else."""
        waiting = [w.ticket for c in self.state.conditions.by_name.values() for w in c.waiters]
        return any(not t.token and t.request.owner == owner for t in [*self.state.table.tickets(), *waiting])

    def command(self):
        words = {
            self.acquire: 24,
            self.end: 14,
            self.wait: 16,
            self.notify: 8,
            self.end_wait: 2,
            self.stand: 4,
            self.election: 24,
            self.again: 6,
            self.withdraw: 4,
            self.gone: 1,
        }
        return self.dice.choices(list(words), list(words.values()))[0]()

    def acquire(self):
        request = self.request()
        if self.is_busy(request.owner):
            return None
        name, permits = self.dice.choice(list(LOCKS.items()))
        mode = self.dice.choice(list(Mode))
        self.tickets.kinds[request] = name, mode, permits
        waits = self.dice.random() < 0.8
        return Acquire(request, name, mode, permits, waits=waits, settled=self.settled(request))

    def held(self):
        held = [ticket for ticket in self.state.table.tickets() if ticket.token]
        return self.dice.choice(held) if held else None

    def end(self):
        ticket = self.held()
        if ticket is None:
            return None
        name, token, renewals = ticket.name, ticket.token, ticket.renewals
        return self.dice.choice(
            [
                Release(ticket.request, token),
                Release(ticket.request, token),
                Release(ticket.request, token - 1),
                Renew(ticket.request, token),
                Revoke(name, token, renewals),
                Expire(name, token, renewals),
                Force(name, token),
                Still(ticket.request),
            ]
        )

    def wait(self):
        ticket = self.held()
        if ticket is None:
            return None
        owner = ticket.request.owner if self.dice.random() < 0.95 else self.request().owner
        if self.is_busy(owner):
            return None
        request = self.bench.request(chr(owner.client.number), owner.task)
        name = ticket.name if self.dice.random() < 0.95 else b"x"
        reacquires = self.dice.random() < 0.7
        condition = self.dice.choice(CONDITIONS)
        return Wait(request, condition, name, ticket.token, reacquires, self.settled(request))

    def notify(self):
        everyone, priority = self.dice.random() < 0.3, self.dice.random() < 0.3
        return Notify(self.request(), self.dice.choice(CONDITIONS), everyone, priority)

    def end_wait(self):
        waits = [asked.request for asked in self.asked if isinstance(asked, Wait)]
        return EndWait(self.dice.choice(waits)) if waits else None

    def stand(self):
        request = self.request()
        address, port = self.dice.choice([b"", b"9", b"10"]), self.dice.randrange(2)
        return Stand(request, self.dice.choice(ELECTIONS), address, port, self.settled(request))

    def election(self):
        """Return mostly what the stage asks for, of the right candidate, for the right round."""
        name = self.dice.choice(ELECTIONS)
        election = self.state.elections.by_name.get(name)
        if election is None:
            return None
        round = election.round if self.dice.random() < 0.95 else election.round + self.dice.choice([-1, 1])
        if not election.candidates:
            return self.lease(election.tenure)
        anybody = self.dice.choice(election.candidates).request
        chosen = anybody if election.chosen is None or self.dice.random() < 0.1 else election.chosen
        running, interval = (self.dice.choice([0, 299, 300, 600]) for _ in range(2))
        to = self.dice.choice([None, anybody, RequestId(anybody.owner, 9999)])
        tenure = election.tenure
        token = tenure.token if tenure is not None and self.dice.random() < 0.9 else 5
        if tenure is not None and self.dice.random() < 0.2:
            return self.lease(tenure)
        usual = {
            Stage.ASKED: Status(anybody, round, float(running), float(interval)),
            Stage.CHOSEN: Next(name, round, chosen),
            Stage.NAMED: Commit(name, round, chosen),
            Stage.LED: Publish(
                self.bench.request(chr(chosen.owner.client.number)), name, token, self.dice.randbytes(2)
            ),
        }
        unusual = [*usual.values(), Close(name, round), Resign(chosen, token, to), Depose(name, round, chosen)]
        return usual[election.stage] if self.dice.random() < 0.6 else self.dice.choice(unusual)

    def lease(self, tenure):
        renewals = tenure.renewals - (self.dice.random() < 0.1)
        name, token = tenure.name, tenure.token
        return self.dice.choice(
            [Renew(tenure.request, token), Revoke(name, token, renewals), Expire(name, token, renewals)]
        )

    def again(self):
        asked = self.dice.choice(self.asked) if self.asked else None
        return None if asked is None or (not self.is_known(asked) and self.is_busy(asked.request.owner)) else asked

    def withdraw(self):
        return Withdraw(self.dice.choice(self.asked).request) if self.asked else None

    def gone(self):
        return Gone(ClientId(HERE, ord(self.dice.choice(CLIENTS))))


@pytest.mark.parametrize("seed", range(30))
def test_what_always_holds(seed):
    World(seed).run(600)


def test_random_worlds_see_everything():
    """A hunt cannot judge what it does not meet."""
    world = World(0)
    world.run(3000)
    rare = {
        "Published",
        "Rejected",
        "RoundOpened",
        "Chosen",
        "Leadership",
        "Lapsed",
        "Woken",
        "Notified",
        "Revoked",
        "Renewed",
    }
    assert all(world.counts.get(name, 0) > 20 for name in rare), world.counts


def test_nothing_is_left_when_all_have_gone():
    """A lock server runs for years."""
    world = World(0)
    world.run(1000)
    for who in CLIENTS:
        world.apply(Gone(ClientId(HERE, ord(who))), HERE)
    state = world.state
    image = state.image()
    assert (image.histories, image.locks, image.conditions, image.elections) == ([], [], [], [])
    parts = [state.requests, state.table, state.conditions, state.elections]
    parts += [part._places for part in parts[2:]]
    parts.append(state.elections._tenures)
    for part in parts:
        assert not any(value for value in vars(part).values() if isinstance(value, dict | int)), vars(part)
