"""Lock servers and clients that do random things: an application for simulated clusters.

`SimulatedLocks` runs on every node of a `totem.testing.cluster.Cluster` (pass it as `application`; `python -m
totem.testing.soak --application cluck.testing.world:SimulatedLocks`). A node has one lock server in the servers' group,
which stands on the executive layer. It may have programs beside it that are lock servers themselves, and clients
(`cluck.testing.actors`), which live with their server or outlive it. The seed chooses settings, faults and deeds. What
everybody was told is recorded in the cluster's own time, which no real program could know. It is judged at the end, by
`cluck.testing.checkers`. What only somebody who looks into the servers can see is judged here: that all came to the
same state, and that nobody waits in vain.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final

from msgspec.msgpack import encode

from cluck.commands import Command, Ended, Expire, Gone, Granted, Leadership, Outcome, RequestId, Resign, Withdraw
from cluck.server.service import Service
from cluck.state.elections import Stage
from cluck.state.machine import LockState
from cluck.testing.actors import ELECTIONS, Actor, Forced
from cluck.testing.checkers import Birth, End, Grant, Load, Order, Run, check
from cluck.testing.linearizability import Kind
from cpg.events import Event, Member, Message, Reason, Transitional
from cpg.node.engine import Engine
from cpg.node.membership import LocalMembership
from cpg.replication.electorate import ChangeVoters, Electorate, Voters
from cpg.replication.identities import Boot, ServerId
from cpg.replication.replica import PATIENCE, Phase, ReplicaSettings
from cpg.replication.wire import DurableRecord
from cpg.stream import Stream
from cpg.testing.world import Numbered
from totem.configuration import Delivery, Guarantee, Level
from totem.errors import QueueFull
from totem.testing.checkers import Violation

if TYPE_CHECKING:
    from totem.testing.cluster import SimulatedNode

GROUP: Final = b"cluck"
DISK: Final = (0.0, 0.001, 0.05)
"""Seconds that it takes to store something."""
MOST_DEEDS: Final = 400
MISCHIEF: Final = (0.0, 0.02, 0.2)
"""Probabilities of a fault just when a decision hangs: done but not reported, just reported, on its way to others."""
STOPS: Final = (0.0, 0.005, 0.03)
"""Probabilities that a client or a lock server is stopped when a client might do something."""
PAUSES: Final = (0.05, 0.5, 3.0)
"""Seconds for which a process, or a machine, stands still."""
REBOOTS: Final = 0.2
"""The probability that the machine has ended where a lock server begins anew: with it all clients that outlive servers.
"""
RESTARTS: Final = (0.0, 0.0, 0.01)
"""Probabilities that a restart of all lock servers in turn begins when a client might do something."""
STEP: Final = 0.05
"""Seconds between two looks whether the next one can be restarted."""
DIFFERING: Final = (0.0, 0.0, 0.3)
"""Probabilities that a lock server that begins is configured with other lock servers than most."""
CHANGES: Final = (0.0, 0.0, 0.02, 0.1)
"""Probabilities that an administrator changes the voters when a client might do something."""
COMPANY: Final = (0.0, 0.0, 0.01)
"""Probabilities that another program of a node becomes a lock server, too, when there is something to do."""
MOST_COMPANY: Final = 2
CALMS: Final = (0.0, 2.0, 6.0, 6.0)
"""Seconds for which clients still request things when the world makes no trouble any more. Until the last three of them
lock servers still make some: most grants happen here.
"""
RESTS: Final = (0.0, 0.0, 0.0, 7.0, 13.0)
"""Seconds for which a world's lock servers and clients continue when nothing new is requested."""
SERVER_STOOD: Final = "a lock server stood still"
CLIENT_STOOD: Final = "a client that held a lock stood still"
RING_STOOD: Final = "a ring's daemon stood still, and its clients did not"
REBOOTED: Final = "a machine was started anew on which clients had outlived their lock server"
RESTARTED: Final = "all lock servers were restarted in turn"
DIFFERED: Final = "a lock server was configured with others than those that decide"
CHANGED: Final = "others decide than before"
RARE: Final = frozenset((SERVER_STOOD, CLIENT_STOOD, RING_STOOD, REBOOTED, RESTARTED, DIFFERED, CHANGED))
FORGIVEN: Final = ("no state is left", "a first start", "each has its priority off")
"""Why lock servers that are enough may not decide."""
AN_ELECTION: Final = 6.0
"""Seconds after which an election that can have a leader must have one, in one view."""


@dataclass(slots=True)
class RunHistory:
    """What is known of a whole run besides what clients were told."""

    outcomes: dict[tuple[object, int], dict[ServerId, int]] = field(default_factory=lambda: defaultdict(dict))
    """By view and number: the outcomes at each server, as checksums."""
    final: dict[object, int] = field(default_factory=dict)
    """By view: the number up to which somebody could report."""
    granted: dict[tuple[object, int], float] = field(default_factory=dict)
    """By view and token: when the first server granted it, whether that became final there or not."""


class SimulatedLocks:
    """The lock servers and clients of a whole cluster, and what they were told."""

    def __init__(self) -> None:
        self.history = RunHistory()
        self.run = Run()
        self.forced = Forced()
        self.disks: dict[int, DurableRecord] = {}
        """What each node's disk knows. Disks outlive everything, but one may be lost, unless its node decides alone."""
        self.outliving: dict[int, list[Actor]] = defaultdict(list)
        """Clients that do not live in their lock server's process."""
        self.boots: dict[int, int] = defaultdict(int)
        """How often each machine was restarted."""
        self.actors: list[Actor] = []
        self.nodes: list[NodeLocks] = []
        self.rested: float | None = None
        """Since when nothing new is requested."""
        self.electorate = Electorate({})
        """Who decides at first, as most lock servers are configured."""
        self.clusters: set[int] = set()
        """The clusters that were born."""
        self.safe: dict[int, bool] = {}
        self.in_process: dict[int, bool] = {}
        self.mischief = self.company = self.stops = self.restarts = 0.0
        self.marks: Counter[str] = Counter()
        """How often rare things happened."""
        self._restarting: list[int] | None = None
        """The nodes whose lock servers are still to be restarted in turn; None: nobody restarts any."""
        self.calm = self.rest_for = 0.0
        self._may_lose_disk = False

    def __call__(self, node: SimulatedNode) -> NodeLocks:
        """Begin a life of a node."""
        if not self.nodes:
            self._choose(node.cluster.dice, list(node.cluster.nodes))
        for former in self.nodes:
            if former.node is node:
                former.end()
        self._perhaps_reboot(node)
        others_know = not self.voters.is_quorum([node.node_id])
        if self._may_lose_disk and others_know and node.node_id in self.disks and node.cluster.dice.random() < 0.2:
            self._may_lose_disk = False
            del self.disks[node.node_id]
        life = NodeLocks(node, self)
        self.nodes.append(life)
        return life

    def _perhaps_reboot(self, node: SimulatedNode) -> None:
        clients = [actor for actor in self.outliving[node.node_id] if not actor.is_dead]
        if clients and node.cluster.dice.random() < REBOOTS:
            self.boots[node.node_id] += 1
            self.marks[REBOOTED] += 1
            for actor in clients:
                actor.die(is_known=True)

    def restart_in_turn(self) -> None:
        """Restart all lock servers, each when the one before grants again, as for a new version of them."""
        if self._restarting is None:
            self._restarting = sorted({life.node.node_id for life in self.nodes})
            self._restart_next(None, 0.0)

    def _restart_next(self, latest: NodeLocks | None, since: float) -> None:
        """Restart the next one, if the latest is there again, or has had its time."""
        assert self._restarting is not None
        network, now = self.nodes[0].node.cluster.network, self.nodes[0].now
        if latest is not None and latest.is_alive and not latest.is_ready and now < since + PATIENCE:
            network.at(now + STEP, self._restart_next, latest, since)
            return
        able = [life for life in self.nodes if life.can_restart]
        while self._restarting and self.may_trouble(now):
            node_id = self._restarting.pop(0)
            for life in able:
                if life.node.node_id == node_id:
                    life.restart()
                    network.at(now + STEP, self._restart_next, life, now)
                    return
        self.marks[RESTARTED] += not self._restarting
        self._restarting = None

    def _choose(self, dice: random.Random, ids: list[int]) -> None:
        """Choose the settings of a world."""
        kind = dice.random()
        self.mischief, self.company = dice.choice(MISCHIEF), dice.choice(COMPANY)
        self.stops, self.restarts = dice.choice(STOPS), dice.choice(RESTARTS)
        self.safe = {i: kind < 0.5 or (kind < 0.7 and dice.random() < 0.5) for i in ids}
        in_process = dice.choice((0.0, 0.5, 1.0))
        self.in_process = {i: dice.random() < in_process for i in ids}
        votes = dict.fromkeys(ids, 1) if dice.random() < 0.7 else {i: dice.choice((0, 1, 1, 2, 3)) for i in ids}
        votes[ids[0]] = max(votes[ids[0]], 1)
        self.electorate = Electorate(votes, tie_breaker=dice.choice([None, *ids]))
        self.calm, self.rest_for = dice.choice(CALMS), dice.choice(RESTS)
        self.differing, self.changes = dice.choice(DIFFERING), dice.choice(CHANGES)
        self._may_lose_disk = dice.random() < 0.3 and not self.changes and not self.differing

    def configured(self, node_id: int, dice: random.Random) -> Electorate:
        """Return the voters that one lock server is configured with. The first node is always one; for a first start
        most agree.
        """
        if dice.random() >= (self.differing if node_id in self.disks else self.differing / 8):
            return self.electorate
        return Electorate({i: n for i, n in self.electorate.votes.items() if i == self.first or dice.random() < 0.6})

    @property
    def first(self) -> int:
        """Return the first node: it is always a voter, so that there is one cluster."""
        return next(iter(self.electorate.votes))

    def another(self, dice: random.Random, electorate: Electorate) -> Electorate:
        """Return the next voters: the present ones, and up to two more or less."""
        votes = dict(electorate.votes)
        for _ in range(dice.choice((1, 1, 2))):
            node_id = dice.choice(list(self.electorate.votes))
            if node_id in votes and dice.random() < 0.5:
                del votes[node_id]
            else:
                votes[node_id] = dice.choice((1, 1, 2))
        return Electorate(votes, dice.choice([None, *votes]) if dice.random() < 0.3 else None)

    @property
    def voters(self) -> Voters:
        """Return who decides, as far as anybody knows."""
        known = [record.voters for record in self.disks.values()]
        for life in self.nodes:
            if life.is_alive and life.service is not None and life.service.replica.state is not None:
                known.append(life.service.replica.state.voters)
        found = [voters for voters in known if voters is not None]
        return max(found, key=lambda voters: voters.rank, default=Voters(0, 0, self.electorate))

    def is_calm(self, now: float) -> bool:
        """Return whether nothing new is to be requested."""
        return self.rested is not None and now >= self.rested + self.calm

    def may_trouble(self, now: float) -> bool:
        """Return whether there may be faults, all of which are over when nothing new is requested."""
        return self.rested is None or now < self.rested + self.calm - max(PAUSES)

    def is_quiet(self, now: float) -> bool:
        """Return whether lock servers do nothing more of their own accord."""
        return now >= self._quiet_from

    @property
    def _quiet_from(self) -> float:
        return inf if self.rested is None else self.rested + self.calm + self.rest_for

    def rest(self) -> None:
        """Make no trouble any more, and soon begin nothing new, so that everything under way can end."""
        self.rested = self.nodes[0].now if self.nodes else 0.0
        for actor in self.actors:
            actor.go_on()
        for life in self.nodes:
            life.go_on()

    @property
    def busy(self) -> bool:
        """Return whether a lock server still has something to say."""
        alive = [life for life in self.nodes if life.is_alive]
        return bool(alive) and (not self.is_quiet(alive[0].now) or any(life.is_busy for life in alive))

    def check(self) -> list[Violation]:
        """Return everything that is wrong."""
        for life in self.nodes:
            if not life.is_alive:
                life.end()
        for actor in self.actors:
            actor.write()
        self.run.operations.sort(key=lambda operation: operation.invoked)
        return [
            *check(self.run),
            *agreement(self.history),
            *(Violation("lock: clusters", f"{self.clusters} are several") for _ in range(len(self.clusters) > 1)),
            *(Violation("lock: liveness", text) for text in self.standstill()),
        ]

    def standstill(self) -> Iterable[str]:
        """Find servers that do not decide after the end of all faults, where enough are there."""
        alive = [life for life in self.nodes if life.is_alive]
        if self.voters.is_quorum([life.node.node_id for life in alive]) and all(life.service for life in alive):
            for life in alive:
                assert life.service is not None
                ready, why = life.service.readiness
                if ready:
                    yield from life.unanswered()
                    yield from self._waiting_in_vain(life.service)
                elif not any(reason in why for reason in FORGIVEN) and not self._has_prepared_another(life):
                    yield f"node {life.node.node_id}: {life.service.replica.phase}, {why}"

    def _has_prepared_another(self, life: NodeLocks) -> bool:
        """Return whether a node's disk knows of a first birth of another cluster than the one that was born.

        It may have been born where this node does not see it, so the node joins no other; an operator is told (E9b).
        """
        record = self.disks.get(life.node.node_id)
        prepared = record.voters if record is not None else None
        return prepared is not None and not prepared.is_born and prepared.cluster not in self.clusters

    def _waiting_in_vain(self, service: WatchedService) -> Iterable[str]:
        """Find locks that nobody holds and somebody waits for, and elections that nobody wins."""
        state = service.replica.state
        assert state is not None
        for name, lock in state.table.locks.items():
            if lock.first is not None and lock.admits(lock.first):
                yield f"{service.server}: {name!r} could be held by {lock.first}, which waits"
        if not service.replica.leaders:
            return
        ready = {actor.client for life in self.nodes for actor in life.clients if not actor.is_dead}
        for election in state.elections.by_name.values():
            can = [one.request for one in election.candidates if one.request.owner.client in ready]
            since = service.searches.get(election.name, inf)
            if can and min(self.rest_for, self._quiet_from - since) >= AN_ELECTION:
                yield f"{service.server}: nobody leads {election.name!r}, for which {can} stand"


def agreement(history: RunHistory) -> Iterable[Violation]:
    """Find commands that could be reported somewhere, and had other outcomes at another server of the view."""
    for (view, number), sums in history.outcomes.items():
        if number <= history.final.get(view, -1) and len(set(sums.values())) > 1:
            yield Violation("lock: agreement", f"{view}, {number}: {sums}")


class WatchedService(Service):
    """A service that records the outcomes of each command, and what of it became final."""

    def watch(self, locks: SimulatedLocks) -> None:
        """Record there from now on."""
        self.history = locks.history
        self.run = run = locks.run
        self._locks = locks
        self.order = Order(self.server)
        self.cuts = 0
        """How often it was cut off, or took over another state."""
        self.searches: dict[bytes, float] = {}
        """By election without a leader: since when one is looked for in this primary view."""
        run.orders.append(self.order)
        self._live: dict[int, bytes] = {}
        """By token: the locks that are held."""
        self._not_final: list[tuple[int, Grant | End | Load]] = []
        self._leading: dict[bytes, int] = {}
        """By election: the leader's token."""
        self._former: LockState | None = None
        self._voters: Voters | None = None
        self._is_born = False
        """The state of the view was born in it."""

    def on_primary(self) -> None:
        """Record what is held."""
        super().on_primary()
        state = self.replica.state
        assert state is not None
        self.searches.clear()
        self._note_searches(state)
        self._locks.clusters.add(state.voters.cluster)
        self._locks.marks[DIFFERED] += self.replica.settings.electorate != state.voters.electorate
        self._note_voters(state)
        if self._is_born:
            self.run.births.append(Birth(state.tokens.epoch, self.replica.view_id, self._now))
        self.cuts += state is not self._former
        self._former = state
        held = [ticket for ticket in state.table.tickets() if ticket.token]
        self._live = {ticket.token: ticket.name for ticket in held}
        grants = tuple(self._grant(state, ticket.request, ticket.token, self._now) for ticket in held)
        self._not_final = [(0, Load(grants))]
        self._leading = {name: state.elections.of(name).token for name in ELECTIONS}

    def _note_voters(self, state: LockState) -> None:
        """Note that the voters have changed."""
        former, voters = self._voters, state.voters
        self._voters = voters
        if former is not None and former.former is not None and voters.former is None:
            self._locks.marks[CHANGED] += former.electorate == voters.electorate

    def change_voters(self, dice: random.Random) -> None:
        """Change the voters, as an administrator does."""
        voters = self.replica.voters
        if voters is not None:
            self._submissions.submit(ChangeVoters(voters.version + 1, self._locks.another(dice, voters.electorate)))

    def on_phase(self) -> None:
        """Count how often it is cut off."""
        phase = self.replica.phase
        self.cuts += phase in (Phase.MINORITY, Phase.BIRTH)
        if self.replica.state is not None and self.replica.is_primary:
            self._note_voters(self.replica.state)
        self._is_born = phase is Phase.BIRTH or (phase is Phase.PRIMARY and self._is_born)
        super().on_phase()

    def _grant(self, state: LockState, request: RequestId, token: int, at: float) -> Grant:
        ticket = state.table.ticket(request)
        assert ticket is not None
        kind = Kind.of(ticket.mode, state.table.locks[ticket.name].permits)
        return Grant(ticket.name, token, request, kind, at)

    def on_applied(self, number: int, command: Command, server: ServerId, outcomes: list[Outcome]) -> None:
        """Record a checksum, and what has changed."""
        sums = self.history.outcomes[self.replica.view_id, number]
        sums[self.server] = zlib.crc32(encode([command, outcomes]), sums.get(self.server, 0))
        self._follow(number, command, outcomes)
        super().on_applied(number, command, server, outcomes)
        assert self.replica.state is not None
        self._note_voters(self.replica.state)
        self._note_searches(self.replica.state)

    def _note_searches(self, state: LockState) -> None:
        """Note which elections look for a leader, and since when."""
        unled = (election.name for election in state.elections.by_name.values() if election.stage is not Stage.LED)
        self.searches = {name: self.searches.get(name, self._now) for name in unled}

    def _follow(self, number: int, command: Command, outcomes: Sequence[Outcome]) -> None:
        state = self.replica.state
        assert state is not None
        for outcome in outcomes:
            match outcome:
                case Granted(request, token) if token not in self._live:
                    at = self.history.granted.setdefault((self.replica.view_id, token), self._now)
                    grant = self._grant(state, request, token, at)
                    self._live[token] = grant.name
                    self._not_final.append((number, grant))
                case Ended(_, token) if token in self._live:
                    self._not_final.append((number, End(self._live.pop(token), token)))
                case Leadership(election, _, token):
                    former = self._leading.get(election, 0)
                    if former not in (0, token) and isinstance(command, Resign | Expire | Withdraw | Gone):
                        self.run.yielded.add(former)
                    self._leading[election] = token

    def on_final(self, number: int) -> None:
        """Record it."""
        view, final = self.replica.view_id, self.history.final
        final[view] = max(number, final.get(view, -1))
        while self._not_final and self._not_final[0][0] <= number:
            self.order.events.append(self._not_final.pop(0)[1])
        super().on_final(number)

    def on_suspended(self) -> None:
        """Give up what is not final; what was not acknowledged, as behind a gap, nobody counts (ruling E4)."""
        self._not_final.clear()
        lineage = self.replica.lineage
        for number in range(lineage.mark + 1 if lineage is not None else 1, self.replica.number + 1):
            self.history.outcomes[self.replica.view_id, number].pop(self.server, None)
        super().on_suspended()


class NodeLocks:
    """One life of one node: the executive layer, a lock server, clients.

    Or the life of one more program on that node (`beside`) that is a lock server itself.
    """

    def __init__(self, node: SimulatedNode, locks: SimulatedLocks, beside: NodeLocks | None = None) -> None:
        self.node = node
        self.engine: Engine = beside.engine if beside is not None else Engine(Numbered(node))
        self.service: WatchedService | None = None
        self.locks = locks
        self._incarnation = node.incarnation
        self._dice = random.Random(node.cluster.dice.getrandbits(64))
        self._stream: Stream | None = None
        self._membership: LocalMembership | None = None
        self._outbox: list[bytes] = []
        self._storing: DurableRecord | None = None
        self._disk = self._dice.choice(DISK)
        self._company: list[NodeLocks] = []
        """The other programs on this node."""
        self._may_have_company = beside is None
        self._pids = 1000 * (len(beside._company) + 1) if beside is not None else 0
        self._timer = 0.0
        self.clients: list[Actor] = []
        self._is_stopped = False
        """The lock server's process is stopped."""
        self._waiting: list[Callable[[], None]] = []
        """What it does when it continues: it reads its clients' messages, and acts on the time."""
        self._is_apart = self._dice.random() < 0.3
        """The ring is another process's: only that one stops when the node is paused."""
        self._deeds = self._dice.randrange(MOST_DEEDS)
        self._pace = self._dice.choice((0.005, 0.02, 0.1))
        self._safe = locks.safe[node.node_id]
        self._in_process = locks.in_process[node.node_id] or beside is not None

    @property
    def now(self) -> float:
        """Return the cluster's time, which is every node's clock."""
        return self.node.cluster.now

    @property
    def is_alive(self) -> bool:
        """Return whether this life still lasts."""
        return self.node.running and self.node.incarnation == self._incarnation

    @property
    def is_busy(self) -> bool:
        """Return whether something is under way."""
        is_still = self._is_stopped or any(actor.is_stopped for actor in self.clients)
        return (
            is_still or self.service is None or bool(self._outbox) or self._storing is not None or self.service.is_busy
        )

    # ---- the node's side

    def on_delivery(self, delivery: Delivery) -> None:
        """Deliver it to the engine, then to the lock servers, then to their clients."""
        self.engine.deliver([delivery])
        for life in (self, *self._company):
            life._take_up()

    def _take_up(self) -> None:
        if self.engine.synced and self._membership is None:
            self._join()
            self._at(self._pace, self._act, of_clients=True)
        self._pump()

    def _join(self) -> None:
        self._pids += 1
        member = Member(self.node.node_id, self._pids)
        self._stream = Stream(member)
        self._membership = self.engine.join(GROUP, member.pid, self._stream)
        settings = ReplicaSettings(
            electorate=self.locks.configured(self.node.node_id, self._dice),
            safe=self._safe,
            usual_promise=0.7,
            priority=self._dice.choice((0, 1, 14, 14)),
            in_process=self._in_process,
            boot=Boot(f"machine {self.node.node_id}", f"run {self.locks.boots[self.node.node_id]}"),
            survivors=not self._in_process,
        )
        record = self.locks.disks.get(self.node.node_id)
        key = b"" if self._in_process else b"of node %d" % self.node.node_id
        self.service = WatchedService(member, settings, record, dice=self._dice, now=self.now, key=key)
        self.service.watch(self.locks)
        self._outbox.clear()
        self._storing = None
        self._begin_clients(self.service)

    def _begin_clients(self, service: WatchedService) -> None:
        """Begin clients: new ones and those that have outlived their former lock server."""
        self.clients = self.locks.outliving[self.node.node_id] if not self._in_process else []
        for actor in self.clients:
            actor.lose(tells=False)
        for _ in range(self._dice.choice((1, 2, 4)) - len(self.clients)):
            actor = Actor(len(self.locks.actors), self.locks.run, self.locks.forced, self._clock)
            self.locks.actors.append(actor)
            actor.may_vanish = not self._in_process
            self.clients.append(actor)
        for actor in self.clients:
            if not (actor.is_dead or actor.is_stopped):
                self._connect(actor, service)

    def _connect(self, actor: Actor, service: WatchedService) -> None:
        def post(action: Callable[[], None]) -> None:
            if service is self.service:
                self._when_it_goes_on(action)

        actor.connect(service, lambda: service.cuts, post)

    def _when_it_goes_on(self, action: Callable[[], None]) -> None:
        if self._is_stopped:
            self._waiting.append(action)
        else:
            action()

    def _clock(self) -> float:
        return self.node.cluster.now

    def end(self) -> None:
        """End this life, with the clients that lived in the process; others notice that it has ended."""
        service, self.service = self.service, None
        self._is_stopped = False
        self._waiting.clear()
        for actor in self.clients if service is not None else ():
            if self._in_process:
                actor.die(is_known=True)
            else:
                actor.lose(tells=False)

    def _have_company(self) -> None:
        """Begin another program of this node."""
        other = NodeLocks(self.node, self.locks, beside=self)
        self._company.append(other)
        self.locks.nodes.append(other)
        other._take_up()

    # ---- processes that stand still, and begin anew

    def stop(self) -> None:
        """Stop the lock server's process, with all that lives in it, as SIGSTOP does."""
        if self.service is not None and not self._is_stopped:
            self._is_stopped = True
            self.locks.marks[SERVER_STOOD] += 1
            for actor in self.clients if self._in_process else ():
                actor.stop()
            self.node.cluster.network.at(self.now + self._dice.choice(PAUSES), self._go_on, self.service)

    def _go_on(self, service: WatchedService) -> None:
        if service is self.service:
            self.go_on()

    def go_on(self) -> None:
        """Continue, as SIGCONT does: what has waited comes first."""
        if self._is_stopped and self.is_alive:
            self._is_stopped = False
            waiting, self._waiting = self._waiting, []
            for action in waiting:
                if self.service is not None:
                    action()
            for actor in self.clients if self._in_process else ():
                actor.go_on()
            self._pump()
            self.node.kick()

    def _stop_client(self) -> None:
        """Stop the process of a client, one that holds a lock if there is any."""
        able = [actor for actor in self.clients if not (actor.is_stopped or actor.is_dead)]
        holders = [actor for actor in able if actor.is_holding]
        if able and not self._in_process:
            actor = self._dice.choice(holders or able)
            self.locks.marks[CLIENT_STOOD] += actor.is_holding
            actor.stop()
            self.node.cluster.network.at(self.now + self._dice.choice(PAUSES), actor.go_on)

    @property
    def is_ready(self) -> bool:
        """Return whether its lock server grants."""
        return self.service is not None and self.service.readiness[0]

    @property
    def can_restart(self) -> bool:
        """Return whether its lock server is there, and can leave the group."""
        membership = self._membership
        is_there = self.is_alive and not self.node.paused and self.service is not None and not self._is_stopped
        return is_there and membership is not None and not membership.left and not membership.leaving

    def restart(self) -> None:
        """Leave the group, with all that lives in this process, and join anew."""
        assert self._membership is not None
        self.end()
        self._outbox.clear()
        self._membership.leave(self._dice.choice((Reason.LEAVE, Reason.PROCDOWN)))
        self._at(0.1, self._join_again)

    def _join_again(self) -> None:
        if self._membership is not None and self._membership.left:
            self._join()
            self._pump()
        else:
            self._at(0.1, self._join_again)
        self.node.kick()

    def _pump(self) -> None:
        service, stream = self.service, self._stream
        if service is None or stream is None or self._is_stopped:
            return
        while batch := stream.take_batch():
            for event in batch:
                if (shown := self._as_told(event)) is not None:
                    service.event(shown, self.now)
        told = self._told
        for actor in self.clients:
            if actor.has_news:
                actor.hear(is_calm=self.locks.is_calm(self.now), is_quiet=self.locks.is_quiet(self.now))
        self._work()
        phase, is_storing = service.replica.phase, self._storing is not None
        hangs = service.has_pending_replies or is_storing or phase in (Phase.LOADING, Phase.BIRTH)
        if (hangs or self._told != told) and self.locks.may_trouble(self.now):
            self._perhaps_do_mischief()
            if self._told > told and self._dice.random() < 10 * self.locks.stops:
                self._stop_client()

    @property
    def _told(self) -> tuple[int, ...]:
        """Return a number that grows with what clients are told and act upon."""
        return sum(actor.granted for actor in self.clients), len(self.locks.run.roles)

    def _perhaps_do_mischief(self) -> None:
        """Have a fault happen now, and be mended some time later."""
        dice, cluster, me = self._dice, self.node.cluster, self.node.node_id
        if dice.random() >= self.locks.mischief:
            return
        others = [node_id for node_id in cluster.nodes if node_id != me]
        match dice.randrange(10):
            case 0 | 1:
                cluster.network.partition([me], others)
            case 2:
                few = dice.sample(others, dice.randrange(len(others)))
                cluster.network.partition([me, *few], [node_id for node_id in others if node_id not in few])
            case 3 if self.locks.rested is None:  # later nobody would start it again
                self.node.crash(dice.randint(1, 30))
            case 4:
                cluster.network.cut([me], dice.sample(others, dice.randint(1, len(others))))
            case 5:
                self.node.pause()
                cluster.network.at(self.now + dice.choice(PAUSES), self._resume)
            case 6:
                self.stop()
            case _:
                self._stop_client()
        cluster.network.at(self.now + dice.choice((0.05, 0.5, 1.0, 3.0)), cluster.network.heal)

    def _resume(self) -> None:
        if self.is_alive:
            self.node.resume()

    def _as_told(self, event: Event) -> Event | None:
        """Return the events as a ring without SAFE reports them."""
        if self._safe:
            return event
        if isinstance(event, Transitional):
            return None
        return event._replace(level=Level.AGREED) if isinstance(event, Message) else event

    def _work(self) -> None:
        """Send and store what the lock server wants to, and wake it in time."""
        service, membership = self.service, self._membership
        if service is None or membership is None:
            return  # it leaves
        if service.record_to_store is not None and self._storing is None:
            self._storing = service.record_to_store
            self._at(self._disk, self._stored, service)
        self._outbox += service.take(self.now)
        guarantee = Guarantee.SAFE if self._safe else Guarantee.AGREED
        while self._outbox and not membership.leaving:
            try:
                membership.send(self._outbox[:1], guarantee)
            except QueueFull:
                self._at(0.01, self._work_again)
                break
            del self._outbox[0]
        deadline = max(service.deadline, self.now + 0.001)
        if self._timer <= self.now or deadline < self._timer:
            self._timer = deadline
            self._at(deadline - self.now, self._on_time, deadline)

    def _work_again(self) -> None:
        self._work()
        self.node.kick()

    def _stored(self, service: WatchedService) -> None:
        record, self._storing = self._storing, None
        assert record is not None
        self.locks.disks[self.node.node_id] = record.and_(self.locks.disks.get(self.node.node_id, record))
        if service is self.service:
            service.stored(record)
            self._work_again()

    def _on_time(self, deadline: float) -> None:
        if deadline == self._timer and self.service is not None:
            self._timer = 0.0
            if not self.locks.is_quiet(self.now):
                self.service.advance(self.now)
            elif self.service.replica.phase is not Phase.PRIMARY:  # what is under way may continue
                self.service.replica.advance(self.now)
            self._pump()
            self.node.kick()

    def _at(self, delay: float, action: Callable[..., None], *arguments: object, of_clients: bool = False) -> None:
        """Do something later, if the process lives then; one that is stopped does it when it continues.

        `of_clients`: in their processes, if they have any.
        """
        self.node.cluster.network.at(self.now + delay, self._if_alive, of_clients, action, *arguments)

    def _if_alive(self, of_clients: bool, action: Callable[..., None], *arguments: object) -> None:
        if not self.is_alive:
            return
        if self.node.paused and self._is_apart:
            self.locks.marks[RING_STOOD] += 1
        if self.node.paused and not self._is_apart:
            self._at(0.01, action, *arguments, of_clients=of_clients)
        elif of_clients and not self._in_process:
            action(*arguments)
        else:
            self._when_it_goes_on(partial(action, *arguments))

    # ---- the clients' side

    def unanswered(self) -> Iterable[str]:
        """Return the clients' requests that the state does not know, although nothing is under way."""
        for actor in self.clients:
            yield from actor.unanswered()

    def _act(self) -> None:
        """Have a client do something."""
        if self.service is not None and self._membership is not None and not self._membership.left:
            if self._deeds and not self.locks.is_calm(self.now):
                self._deeds -= self._dice.choice(self.clients).act(self._dice)
                if self.locks.may_trouble(self.now):
                    self._perhaps_trouble()
            self._pump()
            self.node.kick()
        self._let_clients_be()
        self._at(self._dice.expovariate(1 / self._pace), self._act, of_clients=True)

    def _perhaps_trouble(self) -> None:
        """Stop processes, or restart them, now and then."""
        dice, locks = self._dice, self.locks
        if dice.random() < 0.003 and self.can_restart:
            self.restart()
        elif self._may_have_company and dice.random() < locks.company:
            self._may_have_company = len(self._company) + 1 < MOST_COMPANY
            self._have_company()
        elif dice.random() < locks.changes and self.service is not None:
            self.service.change_voters(dice)
        elif dice.random() < locks.stops / 5:
            self.stop()
        elif dice.random() < locks.stops:
            self._stop_client()
        elif dice.random() < locks.restarts:
            locks.restart_in_turn()

    def _let_clients_be(self) -> None:
        """Have clients act on the time that their lock server does not call, and find it again if they have lost it."""
        if self.service is None or self.locks.is_quiet(self.now):
            return
        for actor in self.clients:
            if self._is_stopped and actor.has_news:
                actor.hear()
            can_connect = not (actor.is_dead or actor.is_stopped or actor.is_connected or self._is_stopped)
            if can_connect and self._dice.random() < 0.1:
                self._connect(actor, self.service)
