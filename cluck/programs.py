"""Lock servers and clients that do things at random: an application for simulated clusters.

`Locks` stands on every node of a `totem.testing.cluster.Cluster` (pass it as `application`; `python -m
totem.testing.soak --application cluck.programs:Locks`). A node has one lock server in the servers' group, which stands
on the executive layer, and some clients, which acquire, renew, release, forget and die at moments that the seed
chooses. What they were told is recorded in the cluster's own time, which no real program could know, and judged at the
end: `check`.
"""

from __future__ import annotations

import random
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Final

from msgspec.msgpack import encode

from cluck.commands import (
    Acquire,
    Command,
    Ended,
    Mode,
    Outcome,
    Owner,
    Refused,
    Release,
    Renew,
    RequestId,
    Server,
    Withdraw,
)
from cluck.electorate import Electorate
from cluck.protocol import VERSION, Bye, Downward, Failed, Held, Hello, Renounced, Upward, Welcome
from cluck.replica import Phase, Settings
from cluck.service import Connection, Service
from cluck.wire import Record
from cpg.engine import Engine, Membership
from cpg.events import Event, Member, Message, Transitional
from cpg.programs import Numbered
from cpg.stream import Stream
from totem.configuration import Delivery, Guarantee, Level
from totem.errors import QueueFull
from totem.testing.checkers import Violation

if TYPE_CHECKING:
    from totem.testing.cluster import Node

GROUP: Final = b"cluck"
NAMES: Final = (b"one", b"two", b"three")
LEASES: Final = (0.2, 0.5, 2.0)
DISK: Final = (0.0, 0.001, 0.05)
"""Seconds that it takes to store something."""
MOST_DEEDS: Final = 200
MISCHIEF: Final = (0.0, 0.02, 0.2)
"""How often a fault comes just when a decision hangs: done but not told, told a moment ago, on its way to others."""


@dataclass(slots=True)
class Hold:
    """That a client held a lock, as it was told, in true time."""

    name: bytes
    mode: Mode
    token: int
    since: float
    until: float
    """When it gave the lock back, or knew that it was lost; else the deadline that it was told."""
    who: str


@dataclass(slots=True)
class History:
    """What is known of a whole run."""

    holds: list[Hold] = field(default_factory=list)
    outcomes: dict[tuple[object, int], dict[Server, int]] = field(default_factory=lambda: defaultdict(dict))
    """By view and number: what came of it at each server, as checksums."""
    final: dict[object, int] = field(default_factory=dict)
    """By view: up to which number somebody could tell."""
    tokens: dict[int, tuple[bytes, RequestId]] = field(default_factory=dict)
    """Whom each token was told to."""
    twice: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)


class Locks:
    """The lock servers and clients of a whole cluster, and what they were told."""

    def __init__(self) -> None:
        self.history = History()
        self.disks: dict[int, Record] = {}
        """What each node's disk knows; disks outlive everything."""
        self.nodes: list[NodeLocks] = []
        self.resting = False
        self.safe: dict[int, bool] | None = None
        self.mischief = 0.0

    def __call__(self, node: Node) -> NodeLocks:
        """Begin a life of a node."""
        if self.safe is None:
            kind = node.cluster.dice.random()
            ids = list(node.cluster.nodes)
            self.mischief = node.cluster.dice.choice(MISCHIEF)
            self.safe = {i: kind < 0.5 or (kind < 0.7 and node.cluster.dice.random() < 0.5) for i in ids}
        life = NodeLocks(node, self)
        self.nodes.append(life)
        return life

    def rest(self) -> None:
        """Begin nothing new, so that what is under way can come to its end."""
        self.resting = True

    @property
    def busy(self) -> bool:
        """Whether a lock server still has something to say."""
        return any(life.is_busy for life in self.nodes if life.is_alive)

    def check(self) -> list[Violation]:
        """Everything that is wrong."""
        history = self.history
        return [
            *exclusion(history.holds),
            *growth(history.holds),
            *agreement(history),
            *(Violation("lock: one token, two holders", text) for text in history.twice),
            *(Violation("lock: liveness", text) for text in self.standstill()),
        ]

    def standstill(self) -> Iterable[str]:
        """After the end of all faults somebody must decide, where a majority could."""
        alive = [life for life in self.nodes if life.is_alive]
        if len(alive) * 2 > len(self.safe or ()) and all(life.service for life in alive):
            for life in alive:
                assert life.service is not None
                ready, why = life.service.readiness
                if ready:
                    yield from life.unanswered()
                elif "no state is left" not in why and "a first start" not in why:
                    yield f"node {life.node.node_id}: {life.service.replica.phase}, {why}"


def exclusion(holds: list[Hold]) -> Iterable[Violation]:
    """No two that may not hold a lock together do so at any moment of true time."""
    for one, other in combinations(sorted(holds, key=lambda hold: hold.since), 2):
        if one.name == other.name and not one.mode == other.mode == Mode.SHARED and other.since < one.until:
            yield Violation("lock: exclusion", f"{one} and {other}")


def growth(holds: list[Hold]) -> Iterable[Violation]:
    """Who holds a lock later has a larger token."""
    by_name = defaultdict(list)
    for hold in sorted(holds, key=lambda hold: hold.token):
        by_name[hold.name].append(hold)
    for several in by_name.values():
        for one, other in pairwise(several):
            if other.until < one.since:
                yield Violation("lock: growth", f"{other} came before {one}")


def agreement(history: History) -> Iterable[Violation]:
    """What could be told somewhere has come of a command at all servers of the view that applied it."""
    for (view, number), sums in history.outcomes.items():
        if number <= history.final.get(view, -1) and len(set(sums.values())) > 1:
            yield Violation("lock: agreement", f"{view}, {number}: {sums}")


class WatchedService(Service):
    """A service that tells the history what came of each command."""

    history: History

    def on_applied(self, number: int, command: Command, server: Server, outcomes: list[Outcome]) -> None:
        """Write down a checksum."""
        sums = self.history.outcomes[self.replica.view_id, number]
        sums[self.server] = zlib.crc32(encode([command, outcomes]), sums.get(self.server, 0))
        super().on_applied(number, command, server, outcomes)

    def on_final(self, number: int) -> None:
        """Write it down."""
        view, final = self.replica.view_id, self.history.final
        final[view] = max(number, final.get(view, -1))
        super().on_final(number)


class NodeLocks:
    """One life of one node: the executive layer, a lock server, clients."""

    def __init__(self, node: Node, locks: Locks) -> None:
        self.node = node
        self.engine = Engine(Numbered(node))
        self.service: WatchedService | None = None
        self.locks = locks
        self._incarnation = node.incarnation
        self._dice = random.Random(node.cluster.dice.getrandbits(64))
        self._stream: Stream | None = None
        self._membership: Membership | None = None
        self._outbox: list[bytes] = []
        self._storing: Record | None = None
        self._disk = self._dice.choice(DISK)
        self._pids = 0
        self._timer = 0.0
        self._clients: list[Actor] = []
        self._deeds = self._dice.randrange(MOST_DEEDS)
        self._pace = self._dice.choice((0.005, 0.02, 0.1))
        assert locks.safe is not None
        self._safe = locks.safe[node.node_id]

    @property
    def now(self) -> float:
        """The cluster's time, which is every node's clock."""
        return self.node.cluster.now

    @property
    def is_alive(self) -> bool:
        """Whether this life still lasts."""
        return self.node.running and self.node.incarnation == self._incarnation

    @property
    def is_busy(self) -> bool:
        """Whether something is under way."""
        return self.service is None or bool(self._outbox) or self._storing is not None or self.service.is_busy

    # ---- the node's side

    def on_delivery(self, delivery: Delivery) -> None:
        """Let the engine have it, then the lock server, then the clients."""
        self.engine.deliver([delivery])
        if self.engine.synced and self._membership is None:
            self._join()
        self._pump()

    def _join(self) -> None:
        self._pids += 1
        member = Member(self.node.node_id, self._pids)
        self._stream = Stream(member)
        self._membership = self.engine.join(GROUP, member.pid, self._stream)
        settings = Settings(
            electorate=Electorate(dict.fromkeys(self.node.cluster.nodes, 1)),
            safe=self._safe,
            usual=0.7,
            priority=self._dice.choice((1, 14, 14)),
        )
        record = self.locks.disks.get(self.node.node_id)
        self.service = WatchedService(member, settings, record, dice=self._dice, now=self.now)
        self.service.history = self.locks.history
        self._outbox.clear()
        self._storing = None
        self._clients = [Actor(self) for _ in range(self._dice.choice((1, 2, 4)))]
        self._at(self._pace, self._act)

    def _pump(self) -> None:
        service, stream = self.service, self._stream
        if service is None or stream is None:
            return
        while batch := stream.take_batch():
            for event in batch:
                if (shown := self._as_told(event)) is not None:
                    service.event(shown, self.now)
        holds = len(self.locks.history.holds)
        for actor in self._clients:
            actor.hear()
        self._work()
        hangs = service.has_untold or service.replica.phase in (Phase.LOADING, Phase.BIRTH)
        if hangs or len(self.locks.history.holds) > holds:
            self._perhaps_do_mischief()

    def _perhaps_do_mischief(self) -> None:
        """Have a fault come now, and be mended some time later."""
        dice, cluster, me = self._dice, self.node.cluster, self.node.node_id
        if self.locks.resting or dice.random() >= self.locks.mischief:
            return
        others = [node_id for node_id in cluster.nodes if node_id != me]
        match dice.randrange(5):
            case 0 | 1:
                cluster.network.partition([me], others)
            case 2:
                few = dice.sample(others, dice.randrange(len(others)))
                cluster.network.partition([me, *few], [node_id for node_id in others if node_id not in few])
            case 3:
                self.node.crash(dice.randint(1, 30))
            case 4:
                cluster.network.cut([me], dice.sample(others, dice.randint(1, len(others))))
        cluster.network.at(self.now + dice.choice((0.05, 0.5, 1.0, 3.0)), cluster.network.heal)

    def _as_told(self, event: Event) -> Event | None:
        """What a ring without SAFE tells."""
        if self._safe:
            return event
        if isinstance(event, Transitional):
            return None
        return event._replace(level=Level.AGREED) if isinstance(event, Message) else event

    def _work(self) -> None:
        """Send and store what the lock server wants to, and wake it in time."""
        service, membership = self.service, self._membership
        assert service is not None
        assert membership is not None
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
        self.locks.disks[self.node.node_id] = record
        if service is self.service:
            service.stored(record)
            self._work_again()

    def _on_time(self, deadline: float) -> None:
        if deadline == self._timer and self.service is not None:
            self._timer = 0.0
            if not self.locks.resting:
                self.service.advance(self.now)
            elif self.service.replica.phase is not Phase.PRIMARY:  # what is under way may go on
                self.service.replica.advance(self.now)
            self._pump()
            self.node.kick()

    def _at(self, delay: float, action: object, *arguments: object) -> None:
        """Do something later, if the node lives then; a paused one does it when it goes on."""
        self.node.cluster.network.at(self.now + delay, self._if_alive, action, *arguments)

    def _if_alive(self, action: object, *arguments: object) -> None:
        if self.is_alive:
            if self.node.paused:
                self._at(0.01, action, *arguments)
            else:
                action(*arguments)  # type: ignore[operator]

    # ---- the clients' side

    def unanswered(self) -> Iterable[str]:
        """The requests of clients that the state does not know, although nothing is under way."""
        for actor in self._clients:
            yield from actor.unanswered()

    def _act(self) -> None:
        """Let a client do something."""
        if self._membership is not None and not self._membership.left:
            if self._deeds and not self.locks.resting:
                self._deeds -= 1
                self._dice.choice(self._clients).act(self._dice)
            self._pump()
            self.node.kick()
        self._at(self._dice.expovariate(1 / self._pace), self._act)


class Actor:
    """One client."""

    def __init__(self, home: NodeLocks) -> None:
        self._home = home
        assert home.service is not None
        self._told: list[Downward] = []
        self._connection: Connection = home.service.connect(self._told.append)
        self._connection.say([Hello(VERSION)], home.now)
        (welcome, *_) = self._told
        self._told.clear()
        assert isinstance(welcome, Welcome)
        self.client = welcome.client
        self._numbers = 0
        self._open: dict[RequestId, Acquire] = {}
        self._held: dict[int, tuple[Acquire, Hold]] = {}
        self._is_dead = False

    def _say(self, said: Upward) -> None:
        self._connection.say([said], self._home.now)

    def hear(self) -> None:
        """Take what was told."""
        told, now = list(self._told), self._home.now
        self._told.clear()
        if self._is_dead:
            return
        for said in told:
            match said:
                case Held(request, token, deadline):
                    self._on_held(request, token, deadline)
                case Ended(request, token) | Renounced(request, token):
                    self._open.pop(request, None)
                    self._give_up(token)
                    if isinstance(said, Renounced):
                        self._say(Release(b"?", token))
                case Refused(request) | Failed(request):
                    self._open.pop(request, None)
                case _:
                    pass
        for token, (_, hold) in list(self._held.items()):
            if hold.until <= now and not self._home.locks.resting:  # the deadline has come
                self._give_up(token)
                self._say(Release(hold.name, token))

    def _on_held(self, request: RequestId, token: int, deadline: float) -> None:
        now, history = self._home.now, self._home.locks.history
        former = history.tokens.setdefault(token, (b"", request))
        if former[1] != request:
            history.twice.append(f"{token}: {former[1]} and {request}")
        if token in self._held:
            self._held[token][1].until = max(self._held[token][1].until, deadline)
            return
        command = self._open.pop(request, None)
        if command is None or deadline <= now:
            self._say(Withdraw(request))
            return
        hold = Hold(command.name, command.mode, token, now, deadline, str(request))
        history.holds.append(hold)
        self._held[token] = command, hold

    def _give_up(self, token: int) -> None:
        held = self._held.pop(token, None)
        if held is not None:
            held[1].until = min(held[1].until, self._home.now)

    def unanswered(self) -> Iterable[str]:
        """What was asked for, is wanted still, and stands in no queue."""
        service = self._home.service
        assert service is not None
        state = service.replica.state
        assert state is not None
        for request in self._open if not self._is_dead else ():
            if state.table.ticket(request) is None:
                yield f"{request} was never answered"

    def act(self, dice: random.Random) -> None:
        """Do something."""
        if self._is_dead:
            return
        self.hear()
        deed = dice.random()
        if deed < 0.45 and not self._open:
            self._acquire(dice)
        elif deed < 0.8 and self._held:
            token = dice.choice(list(self._held))
            name = self._held[token][0].name
            if dice.random() < 0.6:
                self._give_up(token)
                self._say(Release(name, token))
            else:
                self._say(Renew(name, token))
        elif deed < 0.9 and self._open:
            request = dice.choice(list(self._open))
            del self._open[request]
            self._say(Withdraw(request))
        elif deed < 0.92:
            self._die(dice)

    def _acquire(self, dice: random.Random) -> None:
        self._numbers += 1
        request = RequestId(Owner(self.client, dice.randrange(2)), self._numbers)
        settled = min((open.number for open in self._open), default=self._numbers) - 1
        command = Acquire(
            request,
            dice.choice(NAMES),
            dice.choice(tuple(Mode)),
            lease=dice.choice(LEASES),
            grace=dice.choice((0.0, 0.1)),
            waits=dice.random() < 0.8,
            settled=settled,
        )
        self._open[request] = command
        self._say(command)

    def _die(self, dice: random.Random) -> None:
        """End: so that it is noticed, or not."""
        dead = dice.random() < 0.7
        if dead:
            for token in list(self._held):
                self._give_up(token)
        self._is_dead = True
        if dead and dice.random() < 0.5:
            self._say(Bye())
        else:
            self._connection.lost(self._home.now, dead=dead)
