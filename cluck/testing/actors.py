"""Clients of lock servers that do random things in simulated clusters, and record what they requested and were told.

An `Actor` is one client: a real `Session` whose connection is a list. It requests locks and semaphores, waits on
conditions and notifies, is a candidate and observes elections. It loses its connection and comes back, stops answering,
and ends: whatever the dice say. `cluck.testing.world` gives it lock servers; `Actor.write` puts everything into a
`Run`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Final, NamedTuple

from cluck.client.requests import ClientCandidacy, ClientTicket, Notice, Observation
from cluck.client.session import Session
from cluck.commands import ClientId, Ended, Leadership, Mode, Refused, RequestId, Why
from cluck.errors import ConnectionLost
from cluck.protocol import Bye, Downward, Goodbye, Pong, Upward
from cluck.server.connection import Connection
from cluck.server.service import Service
from cluck.testing.checkers import ConditionWait, Holding, LeaderTenure, Notification, Role, Run, Sight, Waited
from cluck.testing.linearizability import Kind, Operation, Outcome, What
from cpg.replication.identities import ServerId

LOCKS: Final = (b"one", b"two", b"three")
SEMAPHORES: Final = (b"pair", b"few")
CONDITIONS: Final = (b"news", b"room")
ELECTIONS: Final = (b"head", b"tail")
LEASES: Final = (0.2, 0.5, 2.0)
GRACES: Final = (0.0, 0.1)
MOST_OPEN: Final = 4
"""Locks that one client requests, or has, at a time."""
TASKS: Final = 2


Post = Callable[[Callable[[], None]], None]
"""Does something at a lock server: at once, or when that continues."""


def _at_once(action: Callable[[], None]) -> None:
    action()


class Era(NamedTuple):
    """A time in which a client's lock server was there and cut off from nothing: another era ends what is certain."""

    connection: int
    """Counts the lock servers that it has had, and the times without one."""
    cuts: int


class Memory(NamedTuple):
    """The memory of lock servers for a client's requests: with another one they may be done a second time."""

    server: ServerId | None
    """The server through which it speaks: when it leaves the view, the others forget what its clients requested."""
    cuts: int


@dataclass(slots=True, eq=False)
class Asked:
    """A lock that a client requested."""

    ticket: ClientTicket
    who: Hashable
    kind: Kind
    invoked: float
    era: Era
    memory: Memory
    request: RequestId
    is_wait: bool = False
    token: int = 0
    since: float = inf
    """When it was told that it has the lock."""
    until: float = 0.0
    """The latest deadline that it was told."""
    ended: float = inf
    """When it released the lock, or was told of the loss."""
    release_era: tuple[Era, object] | None = None
    """When it was released: in which era and view."""
    given_up: float = inf
    """When it was given up; if it had the lock without knowing, that may be free from then on."""
    is_written: bool = False

    @property
    def unheard_until(self) -> float:
        """Until when it keeps the lock at least, if it ever had it, where it was not told of that."""
        return min(self.invoked + self.ticket.lease, self.given_up)


@dataclass(slots=True, eq=False)
class Awaited:
    """A wait on a condition."""

    ticket: ClientTicket
    who: Hashable
    condition: bytes
    invoked: float
    reacquires: bool
    era: Era
    waiting: float = inf
    left: float = inf
    ended: float = inf
    is_certain: bool = True
    """Its server was cut off from nothing while it waited."""
    is_passed_on: bool = False
    """It was given up before it was notified: its session has notified another waiter in its place."""


@dataclass(slots=True, eq=False)
class Noticed:
    """A notification."""

    notice: Notice
    who: Hashable
    invoked: float
    era: Era
    memory: Memory
    returned: float = inf
    is_certain: bool = True
    may_be_double: bool = False
    """It may have been submitted twice."""


@dataclass(slots=True, eq=False)
class Stood:
    """A candidate."""

    candidacy: ClientCandidacy
    request: RequestId
    stood: float
    token: int = 0
    since: float = inf
    """When it was told that it leads under this token."""
    until: float = 0.0
    """The latest deadline that it was told."""


@dataclass(slots=True)
class Forced:
    """Which locks administrators took, and when they called."""

    calls: dict[int, float] = field(default_factory=dict)
    """By token."""


class Actor:
    """One client, through all its connections."""

    def __init__(self, number: int, run: Run, forced: Forced, clock: Callable[[], float]) -> None:
        self.is_dead = False
        self.is_stopped = False
        """As by SIGSTOP: it reads and does nothing, and its connection stays."""
        self.granted = 0
        """The number of its locks, and ends of waits, that it was told of."""
        self.may_vanish = True
        """It may end unseen; not where it lives in its lock server's process, which tells it everything that it loses.
        """
        self._number = number
        self._run = run
        self._forced = forced
        self._clock = clock
        self._session = Session(clock, _nothing)
        self._service: Service | None = None
        self._connection: Connection | None = None
        self._cuts: Callable[[], int] = int
        self._post: Post = _at_once
        self._connections = 0
        self._told: list[tuple[Downward, object]] = []
        """With the view in which it was said."""
        self._is_stuck = False
        self._is_cut_off = False
        """Its connection was lost, and it has not noticed yet."""
        self._asked: list[Asked] = []
        self._awaited: list[Awaited] = []
        self._noticed: list[Noticed] = []
        self._stood: list[Stood] = []
        self._observations: dict[bytes, Observation] = {}
        self._sights: dict[bytes, Leadership] = {}
        self._ends: dict[int, Why | None] = {}
        """Of tokens: why they ended, as it was told first."""
        self._refusals: dict[RequestId, Why] = {}

    @property
    def now(self) -> float:
        """Return the true time."""
        return self._clock()

    @property
    def client(self) -> ClientId | None:
        """Return its name at lock servers; None: it has no connection."""
        return self._connection.local.client if self._connection is not None and self._connection.local else None

    @property
    def is_connected(self) -> bool:
        """Return whether there is a connection to a lock server, as far as the client knows."""
        return self._connection is not None

    @property
    def is_holding(self) -> bool:
        """Return whether it was told that it holds a lock, and still holds it as far as it knows."""
        return bool(self._held())

    @property
    def _era(self) -> Era:
        return Era(self._connections, self._cuts())

    @property
    def _memory(self) -> Memory:
        return Memory(self._service.server if self._service is not None else None, self._cuts())

    # ---- the connection

    def connect(self, service: Service, cuts: Callable[[], int], post: Post = _at_once) -> None:
        """Find a lock server.

        Args:
            service: The lock server.
            cuts: Returns how often it was cut off from those that decide.
            post: Has it read this client's messages, when it can.
        """
        self._connections += 1
        self._service, self._cuts, self._post = service, cuts, post
        told: list[tuple[Downward, object]] = []
        self._told = told
        self._connection = service.connect(lambda said: told.append((said, service.replica.view_id)))
        self._sights.clear()
        self._session.greet("actor")
        self.hear()

    def lose(self, *, tells: bool = True) -> None:
        """Lose the connection; `tells`: the lock server notices."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._connections += 1
            if tells:
                self._post(lambda: connection.lost(self.now, dead=False))
            if self.is_stopped:
                self._is_cut_off = True  # it reads first what it was told before, when it continues
            else:
                self._notice_loss()

    def _notice_loss(self) -> None:
        self._told = []
        self._session.lose(ConnectionLost("so the dice say"))
        self._look(None)

    def stop(self) -> None:
        """Stop, as by SIGSTOP."""
        self.is_stopped = True

    def go_on(self) -> None:
        """Continue, as by SIGCONT."""
        self.is_stopped = False
        if self._is_cut_off and not self.is_dead:
            self._is_cut_off = False
            self._read()
            self._notice_loss()
        self.hear()

    def die(self, *, is_known: bool, dice: random.Random | None = None) -> None:
        """End; `is_known`: the lock server is told, and may take what the client holds."""
        self.is_dead = True
        now = self.now
        if is_known and (self._number, 0) not in self._run.died:
            self._run.died.update(((self._number, task), now) for task in range(TASKS))
            for asked in self._asked:
                asked.ended = min(asked.ended, now)
            for stood in self._stood:
                stood.until = min(stood.until, now)
        connection, self._connection = self._connection, None
        if connection is not None and dice is not None:
            if is_known and dice.random() < 0.5:
                self._post(lambda: connection.receive([Bye()], self.now))
            else:
                self._post(lambda: connection.lost(self.now, dead=is_known))

    @property
    def has_news(self) -> bool:
        """Return whether it was told something, or time has come for something."""
        return bool(self._told) or self.now >= self._session.deadline

    def hear(self, *, is_calm: bool = False, is_quiet: bool = False) -> None:
        """Take in what was told, and submit what follows from it and, unless all is quiet, from time."""
        if self.is_dead or self.is_stopped:
            return
        self._is_stuck = self._is_stuck and not is_calm
        for _ in range(20):
            if self._read():
                self.lose(tells=False)
                return
            if not is_quiet:
                self._session.advance()
            self._look(None)
            said_up = [said for said in self._session.take() if not (self._is_stuck and isinstance(said, Pong))]
            if (connection := self._connection) is not None and said_up:
                self._post(partial(self._say, connection, said_up))
            if not self._told:
                return

    def _read(self) -> bool:
        """Take in what was told; return whether a farewell was the last of it."""
        told = list(self._told)
        self._told.clear()
        for said, view in told:
            self._note(said)
            self._session.receive([said])
            self._look(view)
            if isinstance(said, Goodbye):
                return True
        return False

    def _say(self, connection: Connection, said: list[Upward]) -> None:
        connection.receive(said, self.now)

    def _note(self, said: Downward) -> None:
        match said:
            case Ended(_, token, why):
                self._ends.setdefault(token, why)
            case Refused(request, why):
                self._refusals[request] = why
            case Leadership(election) if election in self._observations:
                self._sights[election] = said
                observer = self._number, self._connections, id(self._observations[election])
                self._run.sights.append(Sight(observer, election, said.leader, said.token))

    # ---- what comes of what was asked

    def _look(self, view: object) -> None:
        for asked in self._asked:
            self._look_at_lock(asked)
        for awaited in self._awaited:
            self._look_at_wait(awaited)
        for noticed in self._noticed:
            self._look_at_notice(noticed)
        for stood in self._stood:
            self._look_at_candidate(stood, view)
        self._asked = [asked for asked in self._asked if not asked.is_written]

    def _look_at_lock(self, asked: Asked) -> None:
        ticket, now = asked.ticket, self.now
        if ticket.id != asked.request:  # requested again in another name, or lost unheard
            self._note_unheard(asked)
            asked.request = ticket.id
        if asked.ended == inf and ticket.is_held:
            if asked.since == inf:
                asked.since, asked.token = now, ticket.token
                self.granted += 1
                if asked.memory != self._memory:  # requested again in the same name, and forgotten meanwhile
                    self._note_unheard(asked)
            asked.until = max(asked.until, ticket.deadline)
        elif asked.since < inf and asked.ended == inf:
            asked.ended = min(now, asked.until)
            if self._ends.get(asked.token) not in (Why.EXPIRED, Why.GONE):
                self._operate(asked, What.RELEASE, Outcome.UNKNOWN, invoked=now)
        if ticket.is_over:
            self._write_lock(asked)

    def _note_unheard(self, asked: Asked) -> None:
        """It may have held the lock, and lost it, without its knowledge, before it was requested again."""
        self._operate(asked, What.ACQUIRE, Outcome.UNKNOWN, until=asked.unheard_until)

    def _write_lock(self, asked: Asked) -> None:
        """Record a lock that is over."""
        if asked.is_written:
            return
        asked.is_written = True
        if asked.since == inf:
            self._operate(asked, What.ACQUIRE, self._why_not(asked), until=asked.unheard_until)
            return
        self._operate(asked, What.ACQUIRE, Outcome.OK, returned=asked.since, until=asked.until)
        ended = min(asked.ended, asked.until, self._forced.calls.get(asked.token, inf))
        self._run.holdings.append(
            Holding(asked.who, asked.ticket.name, asked.kind, asked.token, asked.since, max(asked.since, ended))
        )
        if asked.release_era is not None:
            self._operate(asked, What.RELEASE, self._released(asked), invoked=asked.ended)

    def _why_not(self, asked: Asked) -> Outcome:
        is_certain = asked.era == self._era and not asked.is_wait and not self.is_dead
        if not is_certain or not asked.ticket.is_over:
            return Outcome.UNKNOWN
        why = self._refusals.get(asked.request)
        if asked.ticket.is_ending:
            return Outcome.WITHDRAWN
        if why is Why.BUSY:
            return Outcome.BUSY
        return Outcome.FAILED if why not in (Why.WITHDRAWN, Why.SETTLED) else Outcome.UNKNOWN

    def _released(self, asked: Asked) -> Outcome:
        """Record a release; behind a change it may have had effect although it is said to have come too late."""
        if self.is_dead or not asked.ticket.is_over or asked.token not in self._ends:
            return Outcome.UNKNOWN
        if self._ends[asked.token] is None:
            return Outcome.OK
        return Outcome.LOST if asked.release_era == self._release_era else Outcome.UNKNOWN

    @property
    def _release_era(self) -> tuple[Era, object]:
        return self._era, self._service.replica.view_id if self._service is not None else None

    def _operate(
        self,
        asked: Asked,
        what: What,
        outcome: Outcome,
        *,
        invoked: float | None = None,
        returned: float | None = None,
        until: float = 0.0,
    ) -> None:
        self._run.operations.append(
            Operation(
                asked.who,
                asked.ticket.name,
                what,
                asked.invoked if invoked is None else invoked,
                self.now if returned is None else returned,
                outcome,
                asked.token if outcome is Outcome.OK or what is not What.ACQUIRE else 0,
                asked.kind,
                until,
            )
        )

    def _look_at_notice(self, noticed: Noticed) -> None:
        if noticed.returned == inf:
            noticed.may_be_double = noticed.memory != self._memory
            if noticed.notice.is_over:
                noticed.returned = self.now
                noticed.is_certain = noticed.era == self._era and noticed.notice.failure is None

    def _look_at_wait(self, awaited: Awaited) -> None:
        ticket = awaited.ticket
        if ticket.is_waiting and awaited.waiting == inf:
            awaited.waiting = self.now
        if awaited.ended == inf:
            awaited.is_certain = awaited.is_certain and awaited.era == self._era
            if ticket.notified is not None:
                awaited.ended = self.now
                awaited.is_passed_on = ticket.notified and ticket.is_ending
                self.granted += 1

    def _look_at_candidate(self, stood: Stood, view: object) -> None:
        candidacy = stood.candidacy
        election, token = candidacy.command.election, candidacy.token
        if token != stood.token:
            if stood.token:
                self._run.roles.append(Role(stood.request, election, 0, self.now))
                self._write_tenure(stood)
            if token:
                self._run.roles.append(Role(candidacy.id, election, token, self.now, stood.stood, view))
            stood.token, stood.since, stood.until = token, self.now, 0.0
        stood.until = max(stood.until, candidacy.deadline)
        if candidacy.id != stood.request:
            stood.request, stood.stood = candidacy.id, self.now

    def _write_tenure(self, stood: Stood) -> None:
        """Record that it does not lead any more, as far as it knows."""
        until = min(self.now, stood.until)
        election = stood.candidacy.command.election
        self._run.tenures.append(LeaderTenure(stood.request, election, stood.token, stood.since, until))

    # ---- deeds

    def act(self, dice: random.Random) -> bool:
        """Do something, if that makes sense: rarely where nobody answers."""
        if self.is_dead or self.is_stopped:
            return False
        self.hear()
        is_worth_while = self._session.ready or dice.random() < 0.1
        if self._connection is None or not self._session.is_connected or not is_worth_while:
            return False
        deeds: tuple[tuple[Callable[[random.Random], None], float], ...] = (
            (self._acquire, 6.0),
            (self._give_back, 5.0),
            (self._renew, 1.5),
            (self._give_up, 1.0),
            (self._force, 0.2),
            (self._wait, 2.0),
            (self._end_wait, 0.7),
            (self._notify, 2.0),
            (self._stand, 0.6),
            (self._lead, 1.2),
            (self._observe, 0.5),
            (self._stick, 0.2),
            (self._break, 0.4),
            (self._end, 0.3),
        )
        actions, weights = zip(*deeds, strict=True)
        dice.choices(actions, weights)[0](dice)
        self.hear()
        return True

    def _who(self, task: int) -> Hashable:
        return self._number, task

    def _acquire(self, dice: random.Random) -> None:
        if len(self._asked) >= MOST_OPEN:
            return
        permits = 0
        name, mode = dice.choice(LOCKS), dice.choice(tuple(Mode))
        if dice.random() < 0.25:
            name = dice.choice(SEMAPHORES)
            permits = len(name) - 2 + (dice.random() < 0.05)
            mode = Mode.EXCLUSIVE
        self.ask(
            dice.randrange(TASKS),
            name,
            mode=mode,
            permits=permits,
            duration=None if dice.random() < 0.02 else dice.choice(LEASES),
            grace=dice.choice(GRACES),
            waits=dice.random() < 0.8,
        )

    def ask(
        self,
        task: int,
        name: bytes,
        *,
        mode: Mode = Mode.EXCLUSIVE,
        permits: int = 0,
        duration: float | None = None,
        grace: float = 0.0,
        waits: bool = True,
    ) -> None:
        """Request a lock, as `cluck.client.session_locks` does."""
        ticket = self._session.locks.acquire(
            task, name, _nothing, mode=mode, permits=permits, duration=duration, grace=grace, waits=waits
        )
        self._asked.append(
            Asked(ticket, self._who(task), Kind.of(mode, permits), self.now, self._era, self._memory, ticket.id)
        )

    def _held(self) -> list[Asked]:
        return [asked for asked in self._asked if asked.ticket.is_held and asked.ended == inf]

    def _give_back(self, dice: random.Random) -> None:
        if held := self._held():
            asked = dice.choice(held)
            asked.ended, asked.release_era = self.now, self._release_era
            self._session.locks.give_up(asked.ticket)

    def _renew(self, dice: random.Random) -> None:
        if held := self._held():
            self._session.locks.renew(dice.choice(held).ticket)

    def _give_up(self, dice: random.Random) -> None:
        if waiting := [asked for asked in self._asked if asked.since == inf and not asked.ticket.is_ending]:
            asked = dice.choice(waiting)
            for awaited in self._awaited:
                if awaited.ticket is asked.ticket:
                    awaited.left = min(awaited.left, self.now)
            asked.given_up = self.now
            self._session.locks.give_up(asked.ticket)

    def _force(self, dice: random.Random) -> None:
        if held := self._held():
            asked = dice.choice(held)
            self._forced.calls.setdefault(asked.token, self.now)
            self._operate(asked, What.RELEASE, Outcome.UNKNOWN, invoked=self.now)
            self._session.locks.force(asked.ticket.name, asked.token)

    def _wait(self, dice: random.Random) -> None:
        held = [asked for asked in self._held() if not asked.kind.permits and not asked.ticket.is_passing]
        if not held:
            return
        asked = dice.choice(held)
        asked.ended, asked.release_era = self.now, (Era(-1, 0), None)
        who, (_, task), reacquires = asked.who, asked.ticket.id.owner, dice.random() < 0.7
        condition = CONDITIONS[0] if asked.ticket.name == LOCKS[0] or dice.random() < 0.1 else CONDITIONS[1]
        ticket = self._session.locks.wait(task, asked.ticket, condition, _nothing, reacquires=reacquires)
        self._awaited.append(Awaited(ticket, who, condition, self.now, reacquires, self._era))
        if reacquires:
            self._asked.append(
                Asked(ticket, who, asked.kind, self.now, self._era, self._memory, ticket.id, is_wait=True)
            )

    def _end_wait(self, dice: random.Random) -> None:
        if waiting := [one for one in self._awaited if one.ended == inf and not one.ticket.is_over]:
            awaited = dice.choice(waiting)
            awaited.left = min(awaited.left, self.now)
            self._session.locks.end_wait(awaited.ticket)

    def _notify(self, dice: random.Random) -> None:
        task, everyone = dice.randrange(TASKS), dice.random() < 0.3
        notice = self._session.locks.notify(
            task, dice.choice(CONDITIONS), _nothing, everyone=everyone, priority=dice.random() < 0.3
        )
        self._noticed.append(Noticed(notice, self._who(task), self.now, self._era, self._memory))

    def _standing(self) -> list[Stood]:
        return [one for one in self._stood if not (one.candidacy.is_over or one.candidacy.is_ending)]

    def _stand(self, dice: random.Random) -> None:
        if len(self._standing()) < 2:
            interval = dice.choice((0.0, 0.1, 3.0))
            election = dice.choice(ELECTIONS)
            candidacy = self._session.elections.stand(
                dice.randrange(TASKS),
                election,
                _nothing,
                restart_interval=interval,
                duration=dice.choice(LEASES),
                grace=dice.choice(GRACES),
            )
            self._stood.append(Stood(candidacy, candidacy.id, self.now))

    def _lead(self, dice: random.Random) -> None:
        """Publish, resign, or withdraw."""
        standing = self._standing()
        if not standing:
            return
        candidacy = dice.choice(standing).candidacy
        deed = dice.random()
        if deed < 0.4 and candidacy.token:
            self._session.elections.publish(0, candidacy, dice.randbytes(dice.randrange(9)), _nothing)
        elif deed < 0.7 and candidacy.token:
            others = [role.who for role in self._run.roles[-9:] if isinstance(role.who, RequestId)]
            to = dice.choice([None, *others])
            self._session.elections.resign(candidacy, to)
        elif deed > 0.8:
            self._session.elections.step_back(candidacy)

    def _observe(self, dice: random.Random) -> None:
        election = dice.choice(ELECTIONS)
        observation = self._observations.pop(election, None)
        if observation is not None and dice.random() < 0.3:
            self._session.elections.ignore(observation)
            self._sights.pop(election, None)
        else:
            self._observations[election] = observation or self._session.elections.observe(election, _nothing)

    def _stick(self, dice: random.Random) -> None:
        """Stop answering pings, or begin again."""
        self._is_stuck = not self._is_stuck

    def _break(self, dice: random.Random) -> None:
        """Lose the connection, and come back at once or later; the lock server may notice only when it comes back."""
        service, cuts, post = self._service, self._cuts, self._post
        self.lose(tells=dice.random() < 0.8)
        if service is not None and dice.random() < 0.6:
            self.connect(service, cuts, post)

    def _end(self, dice: random.Random) -> None:
        self.die(is_known=dice.random() < 0.7 or not self.may_vanish, dice=dice)

    # ---- the end

    def write(self) -> None:
        """Record what is not over when the run ends."""
        for asked in list(self._asked):
            self._write_lock(asked)
        for awaited in self._awaited:
            self._write_wait(awaited)
        for noticed in self._noticed:
            self._look_at_notice(noticed)
            command, is_certain = noticed.notice.command, noticed.returned < inf and noticed.is_certain
            count = noticed.notice.count if is_certain else None
            args = noticed.who, command.condition, noticed.invoked, noticed.returned, count
            self._run.notifies.append(Notification(*args, everyone=command.everyone))
            if noticed.may_be_double:
                self._run.notifies.append(Notification(*args, everyone=command.everyone))

    def _write_wait(self, awaited: Awaited) -> None:
        ticket = awaited.ticket
        args = awaited.who, awaited.condition, awaited.invoked
        if awaited.is_passed_on:
            outcome = Waited.UNKNOWN
            passed = Notification(awaited.who, awaited.condition, awaited.ended, inf, None, everyone=False)
            self._run.notifies.append(passed)
        elif ticket.notified is not None:
            outcome = Waited.WOKEN if ticket.notified else Waited.OVER
        elif not self.is_dead and awaited.is_certain and not ticket.is_over:
            outcome = Waited.STILL
        else:
            outcome = Waited.UNKNOWN
        if outcome is Waited.WOKEN or (outcome is not Waited.UNKNOWN and awaited.is_certain):
            times = awaited.waiting, awaited.left, awaited.ended
            self._run.waits.append(ConditionWait(*args, outcome, *times, awaited.reacquires, self._is_settled(awaited)))
        if outcome is Waited.UNKNOWN or not awaited.is_certain:  # it may have been woken before, too
            self._run.waits.append(ConditionWait(*args, Waited.UNKNOWN, awaited.waiting))

    def _is_settled(self, awaited: Awaited) -> bool:
        ticket, state = awaited.ticket, self._service.replica.state if self._service is not None else None
        is_ready = self._connection is not None and self._service is not None and self._service.readiness[0]
        if self.is_dead or not is_ready or state is None or ticket.leases or ticket.is_over:
            return True
        return bool(state.table.present(ticket.id))

    def unanswered(self) -> Iterable[str]:
        """Return what was requested and is still wanted, and in no queue of the state, though nothing is under way."""
        service = self._service
        if self.is_dead or self._connection is None or service is None or service.replica.state is None:
            return
        state = service.replica.state
        for asked in self._asked:
            if asked.since == inf and not asked.ticket.is_over and not state.present(asked.request):
                yield f"{asked.request} was never answered"
        for noticed in self._noticed:
            if not noticed.notice.is_over:
                yield f"{noticed.notice.command} was never answered"
        for stood in self._standing():
            if not state.elections.present(stood.request):
                yield f"{stood.candidacy.command} is no candidate"
        for stood in self._standing():
            leadership = state.elections.of(stood.candidacy.command.election)
            known = stood.candidacy.leading, stood.candidacy.former
            leads = leadership.leader == stood.request
            if leadership.token not in known if leads else stood.token:  # it may have stepped down by its own clock
                yield f"{stood.request} was told {stood.token}, although it is {leadership}"
        for election in self._observations:
            leadership, told = state.elections.of(election), self._sights.get(election)
            if told is None or (told.leader, told.token) != (leadership.leader, leadership.token):
                yield f"an observer was told {told}, although it is {leadership}"


def _nothing() -> None:
    """Do nothing on a change: actors look for what is new themselves."""
