"""A lock server without I/O: the replica, the clients of this machine, and what stands between the two.

A client's commands go to the group when the view is primary, and wait until then. What comes of them is told when it is
final. Whatever is open is kept, and said again after each change: all commands may be said twice. Nothing is decided by
a clock here; what a clock suggests (a lease is over, a candidate does not answer) is proposed, and order decides.

The shell hands in the group's events, what clients say, and the time; it sends what `take` gives, stores records, and
calls `advance` at `deadline`.
"""

from __future__ import annotations

import hmac
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from cluck.canvass import Canvass
from cluck.clients import Batch, Candidacy, Holding, LocalClient, Open, Untold
from cluck.commands import (
    Acquire,
    Asked,
    Chosen,
    Client,
    Command,
    Ended,
    Force,
    Gone,
    Granted,
    Leadership,
    Notify,
    Outcome,
    Publish,
    Queued,
    Refused,
    Rejected,
    Release,
    Renew,
    Renewed,
    RequestId,
    Resign,
    Revoked,
    Server,
    Stand,
    Standing,
    Still,
    Wait,
    Waiting,
    Why,
    Withdraw,
    Woken,
)
from cluck.leases import Leases, usable
from cluck.protocol import (
    MOST_UNSETTLED,
    VERSION,
    Ask,
    Bye,
    Downward,
    Failed,
    Farewell,
    Goodbye,
    Held,
    Hello,
    Ignore,
    Leads,
    Malformed,
    Observe,
    Ping,
    Pong,
    Readiness,
    Renounced,
    Upward,
    Welcome,
)
from cluck.replica import Phase, Replica, Settings
from cluck.shown import answer, answers
from cluck.tickets import Ticket
from cluck.wire import Record
from cpg.events import Event, Member

TICK: Final = 0.5
"""Seconds between two looks at what nobody brings up by itself."""
PING: Final = 1.0
"""Seconds between two questions to clients with candidates."""
STRIKES: Final = 3
"""Unanswered pings after which a candidate counts as stuck."""
NEAR: Final = 4
"""Those so far ahead in a queue keep saying that they wait, so that they can begin at once when it is their turn."""
RESUME: Final = 10.0
"""Seconds that a client has to come back before it waits for nothing any more."""
SHORT: Final = 1.0
"""Seconds of a change that clients are not told of as unreadiness."""
MOST_KEPT: Final = 100_000
"""Commands that wait for a primary view."""
LARGEST_BATCH: Final = 256
"""Commands in one message."""

_REQUESTS: Final = frozenset((Acquire, Wait, Notify, Stand, Publish))
"""Commands that are answered under their own request."""
_OF_ELECTIONS: Final = frozenset((Leadership, Asked, Chosen, Rejected))
"""Outcomes that are no answer to a request."""


class Service:
    """One life of a lock server."""

    def __init__(
        self,
        member: Member,
        settings: Settings,
        record: Record | None,
        *,
        dice: random.Random,
        now: float,
        key: bytes = b"",
    ) -> None:
        """`record`: what the disk says. `key`: by which a later life knows this one's clients again; any bytes."""
        self.replica = Replica(member, dice.getrandbits(62), settings, record, self)
        self.server = self.replica.server
        self.leases = Leases()
        self.clients: dict[Client, LocalClient] = {}
        """Those of this server."""
        self._key = key or dice.randbytes(32)
        self.canvass = Canvass(self.server, self.clients)
        self._now = now
        self._numbers = 0
        self._pending: list[Command] = []
        """What is to be given to the group next, or when the view is primary."""
        self._gated: list[Acquire] = []
        """Requests whose leases are longer than what a majority's disks know of."""
        self._batches: dict[int, Batch] = {}
        """By serial number."""
        self._says_again = False
        self._sent: float | None = None
        """When the message was sent that is being applied, if it is this server's own."""
        self._untold: deque[Untold] = deque()
        self._is_resumed = False
        """Whether the clients were told what the view began with."""
        self._suspended: float | None = now
        """Since when the view is not primary and final."""
        self._told_ready: tuple[bool, str] = (False, "")
        self._moved: set[bytes] = set()
        """Locks whose queues have changed."""
        self._ended_servers: set[Server] = set()
        """Lock servers that have ended with all their clients."""
        self._next_tick = now + TICK
        self._next_ping = now + PING

    # ---- the group's side

    def event(self, event: Event, now: float) -> None:
        """Take the next event of the group's stream."""
        self._now = now
        self.replica.event(event, now)

    def take(self, now: float) -> list[bytes]:
        """Hand over what is to be multicast, in order."""
        if self.replica.is_primary:
            if self._says_again:
                self._says_again = False
                self._pending[:0] = self._what_is_open()
            for place in range(0, len(self._pending), LARGEST_BATCH):
                self._submit(self._pending[place : place + LARGEST_BATCH], now)
            self._pending.clear()
        return self.replica.take()

    def _submit(self, commands: list[Command], now: float) -> None:
        """Give commands to the group. Hot: once for each turn, and for each command."""
        for command in commands:
            if type(command) in _REQUESTS and (local := self.clients.get(command.request.owner.client)):  # type: ignore[union-attr]
                known = local.open.get(command.request)  # type: ignore[union-attr]
                if known is not None:
                    known.is_submitted = True
        self._batches[self.replica.submit(commands)] = Batch(commands, now)

    def _what_is_open(self) -> list[Command]:
        """Everything that may have been lost with the former view: what was in its order, then what may not have been.

        The latter stays in its own order, so that nobody asks for a lock before it has given back another one.
        """
        lost = [command for batch in self._batches.values() if batch.number is None for command in batch.commands]
        self._batches = {serial: batch for serial, batch in self._batches.items() if batch.number is not None}
        said = set(lost)
        known = (known for local in self.clients.values() for known in local.open.values() if known.is_submitted)
        return [open.command for open in known if open.command not in said] + lost

    @property
    def record_to_store(self) -> Record | None:
        """What is to be made durable; `stored` tells that it is."""
        return self.replica.record_to_store

    def stored(self, record: Record) -> None:
        """It is durable."""
        self.replica.stored(record)

    @property
    def has_untold(self) -> bool:
        """Whether something was done for a client of this server that may not be told yet."""
        return bool(self._untold)

    @property
    def is_busy(self) -> bool:
        """Whether something is under way that does not wait for a client, or for time to pass."""
        phase = self.replica.phase
        if phase is Phase.PRIMARY:
            return bool(self._pending or self._gated or self._batches) or not self._is_resumed or self.replica.is_busy
        return phase is not Phase.MINORITY

    @property
    def failure(self) -> str | None:
        """Why this server cannot go on."""
        return self.replica.failure

    # ---- the replica's side (`cluck.replica.Listener`)

    def on_delivered(self, serial: int) -> None:
        """A message of this server is in the order."""
        batch = self._batches.get(serial)
        self._sent = None
        if batch is not None:
            batch.number = self.replica.number
            self._sent = batch.sent

    def on_applied(self, number: int, command: Command, server: Server, outcomes: list[Outcome]) -> None:
        """A command was applied. Hot."""
        is_own = server == self.server
        sent = self._sent if is_own else None
        if sent is not None:
            self._note_sending(command, sent)
        for outcome in outcomes:
            kind = type(outcome)
            if kind is Granted:
                self._on_granted(outcome)  # type: ignore[arg-type]
            elif kind is Renewed:
                self._begin_lease(outcome.request)  # type: ignore[union-attr]
            elif kind is Ended:
                self.leases.end(outcome.token)  # type: ignore[union-attr]
            elif kind in _OF_ELECTIONS:
                self._pending += self.canvass.hear(outcome, self._now)  # type: ignore[arg-type]
                if kind is Leadership:
                    self._untold.append(Untold(number, outcome, None))
                continue
            if outcome.request.owner.client in self.clients:  # type: ignore[union-attr]
                self._untold.append(Untold(number, outcome, sent))
        name = getattr(command, "name", None)
        if name is not None:
            self._moved.add(name)

    def _note_sending(self, command: Command, sent: float) -> None:
        """Remember when the latest message on a ticket was sent that came before its grant."""
        if type(command) in (Acquire, Still, Wait):
            known = self._open(command.request)  # type: ignore[union-attr]
            if known is not None and known.base is None:
                ticket = self._ticket(command.request)  # type: ignore[union-attr]
                if ticket is None or not ticket.token or not self.leases.has(ticket.token):
                    known.sent = sent

    def _on_granted(self, outcome: Granted) -> None:
        known = self._open(outcome.request)
        if self.leases.has(outcome.token):
            return  # said again
        self._begin_lease(outcome.request)
        if known is None:
            return
        known.base = known.sent
        if known.ahead is not None:  # it has waited: ruling E7
            ticket = self._ticket(outcome.request)
            if ticket is not None:
                self._pending.append(Renew(ticket.name, ticket.token))

    def _begin_lease(self, request: RequestId) -> None:
        ticket = self._ticket(request)
        if ticket is not None and ticket.token:
            self.leases.begin(ticket, self._now)

    def on_final(self, number: int) -> None:
        """What was done up to here may be told."""
        if not self._is_resumed:
            self._is_resumed = True
            self._suspended = None
            self._tell_ready()
            self._tell_what_changed()
        while self._untold and self._untold[0].number <= number:
            untold = self._untold.popleft()
            self._tell(untold.outcome, untold.base)
        for serial in [serial for serial, batch in self._batches.items() if batch.number is not None]:
            if self._batches[serial].number <= number:  # type: ignore[operator]
                del self._batches[serial]

    def on_primary(self) -> None:
        """A view has begun whose state is the cluster's."""
        state = self.replica.state
        assert state is not None
        self._is_resumed = False
        self._says_again = True
        if not self.replica.was_there:  # what was granted here may never have been, and its token be another's
            self.leases = Leases()
        self.leases.load((ticket for ticket in state.table.tickets() if ticket.token), self._now)
        self._moved.update(state.table.locks)
        self.canvass.forget()
        for outcome in state.leaders.pending():
            self._pending += self.canvass.hear(outcome, self._now)

    def on_suspended(self) -> None:
        """The view has ended."""
        self._suspended = self._now
        self._untold.clear()
        for batch in self._batches.values():
            batch.number = None

    def on_phase(self) -> None:
        """The view is further, or a longer lease is on record."""
        replica = self.replica
        if replica.phase in (Phase.MINORITY, Phase.BIRTH):
            self._renounce()
            self._tell_ready()
        elif replica.is_primary and self._gated:
            gated, self._gated = self._gated, []
            for command in gated:
                self._queue(command)

    def on_server_ended(self, server: Server) -> None:
        """Another server has ended together with all its clients."""
        self._ended_servers.add(server)

    # ---- the clients' side

    def connect(self, put: Callable[[Downward], None], *, may_force: bool = True) -> Connection:
        """Begin with a client; `put` is told what is said to it, and must only queue."""
        return Connection(self, put, may_force=may_force)

    def welcome(self, hello: Hello, put: Callable[[Downward], None], now: float) -> LocalClient:
        """Know a client, perhaps again."""
        self._now = now
        client = hello.resumes
        is_known = client is not None and hmac.compare_digest(hello.secret, self._secret(client))
        if client is None or not is_known:
            self._numbers += 1
            client = Client(self.server, self._numbers)
        local = self.clients.get(client)
        if local is None:
            local = self.clients[client] = LocalClient(client, hello.program, put)
            local.is_known = client.server != self.server
        elif local.put is not None:
            local.put(Goodbye(Farewell.ENDING, "the same client has connected again"))
        local.put, local.lost, local.strikes, local.is_given_up = put, None, 0, False
        put(Welcome(VERSION, client, self._secret(client), now, is_known))
        put(Readiness(*self.readiness))
        return local

    def _secret(self, client: Client) -> bytes:
        return hmac.digest(self._key, repr(client).encode(), "sha256")

    def command(self, local: LocalClient, command: Command, now: float) -> None:
        """Do what a client asks for. Hot."""
        self._now = now
        local.is_known = True
        kind = type(command)
        if kind in _REQUESTS:
            self._request(local, command)
        elif kind is Withdraw:
            self._withdraw(local, command)  # type: ignore[arg-type]
        elif self._is_allowed(local, command):
            self._queue(command)

    def _request(self, local: LocalClient, command: Any) -> None:
        request: RequestId = command.request
        known = local.open.get(request)
        if known is None:
            if not self.replica.is_primary and type(command) is Acquire and not command.waits:
                local.tell(Failed(request, self.readiness[1], not_ready=True))
                return
            if request.number - command.settled > MOST_UNSETTLED or len(self._pending) >= MOST_KEPT:
                local.tell(Failed(request, "too many requests are open", not_ready=False))
                return
            local.open[request] = Open(command)
            if type(command) is Stand:
                since = self._now - command.running
                local.candidates.setdefault(request, Candidacy(command.election, since, command.restart_interval))
        if known is None or known.is_submitted:  # otherwise it waits here already, and may be withdrawn unheard
            self._queue(command)

    def _queue(self, command: Command) -> None:
        """Give a command to the group as soon as may be."""
        state = self.replica.state
        if type(command) is Acquire and state is not None and self.replica.is_primary:
            needed = command.lease + command.grace
            if needed > state.longest:
                self._gated.append(command)
                self.replica.lengthen(needed)
                return
        self._pending.append(command)

    def _withdraw(self, local: LocalClient, command: Withdraw) -> None:
        known = local.open.get(command.request)
        local.candidates.pop(command.request, None)
        if known is not None and not known.is_submitted:  # the group has never heard of it
            del local.open[command.request]
            self._pending = [other for other in self._pending if other is not known.command]
            self._gated = [other for other in self._gated if other is not known.command]
            local.tell(Refused(command.request, Why.WITHDRAWN))
        else:
            if known is not None and type(known.command) is Stand:
                del local.open[command.request]
            self._pending.append(command)

    def _is_allowed(self, local: LocalClient, command: Command) -> bool:
        """Whether what a client names is its own."""
        state = self.replica.state
        if state is not None and isinstance(command, Release | Renew):
            ticket = state.table.holder(command.name, command.token)
            if ticket is None and self.replica.is_primary and command.token not in local.held:
                nobody = RequestId((local.client, 0), 0)  # type: ignore[arg-type]
                local.tell(Ended(nobody, command.token, Why.EXPIRED))
            return ticket is None or ticket.request.owner.client == local.client
        if state is not None and isinstance(command, Resign):
            election = state.leaders.elections.get(command.election)
            return election is None or election.chosen in local.candidates
        return True

    def observe(self, local: LocalClient, election: bytes) -> None:
        """Tell a client of an election from now on."""
        local.observed.add(election)
        state = self.replica.state
        if state is not None and self.readiness[0] and not self._has_news_of(election):
            local.tell(state.leaders.of(election))
        else:
            local.tell(Leadership(election, None))

    def lost(self, local: LocalClient, now: float, *, dead: bool) -> None:
        """A client's connection has ended; `dead`: so has its process, or it has said goodbye."""
        self._now = now
        local.put = None
        local.lost = now
        if dead or self._has_nothing(local):
            self._forget(local)

    # ---- telling

    def _tell(self, outcome: Outcome, base: float | None) -> None:
        """Tell a client of this server what came of its request. Hot."""
        if type(outcome) is Leadership:
            self._tell_leadership(outcome)
            return
        request: RequestId = outcome.request  # type: ignore[union-attr]
        local = self.clients.get(request.owner.client)
        if local is None:
            return
        match outcome:
            case Granted(_, token):
                known = local.open.get(request)
                self._tell_held(local, request, token, known.base if known is not None else None)
            case Renewed(_, token, _):
                self._tell_held(local, request, token, base)
            case Queued(_, ahead):
                known = local.open.get(request)
                if known is not None and known.ahead != ahead:
                    known.ahead = ahead
                    local.tell(outcome)
            case Ended(_, token, _):
                local.held.pop(token, None)
                local.open.pop(request, None)
                local.tell(outcome)
            case Refused(_, Why.UNRECORDED):
                known = local.open.get(request)
                if known is not None:
                    self._queue(known.command)
            case Waiting() | Revoked():
                local.tell(outcome)
            case Standing():
                local.tell(outcome)
                self._tell_role(local, request)
            case Woken():
                known = local.open.get(request)
                if known is not None and not (isinstance(known.command, Wait) and known.command.reacquires):
                    del local.open[request]
                local.tell(outcome)
            case Asked() | Chosen() | Rejected():
                pass
            case _:
                local.open.pop(request, None)
                local.tell(outcome)

    def _tell_held(self, local: LocalClient, request: RequestId, token: int, base: float | None) -> None:
        """Tell a holder until when, if that is worth beginning with; otherwise renew first."""
        ticket = self._ticket(request)
        if ticket is None or ticket.token != token:
            return  # and its end is told next
        deadline = base + usable(ticket.lease) if base is not None else -math.inf
        if deadline <= self._now:
            self._pending.append(Renew(ticket.name, token))
            return
        local.open.pop(request, None)
        local.held[token] = Holding(request, ticket.name, ticket.lease)
        local.tell(Held(request, token, deadline))

    def _tell_role(self, local: LocalClient, candidate: RequestId) -> None:
        """Tell a candidate that leads still that it does, as it may have come back from a connection that was lost; not
        where something newer is to be told soon.
        """
        candidacy, state = local.candidates.get(candidate), self.replica.state
        if candidacy is None or state is None:
            return
        leadership = state.leaders.of(candidacy.election)
        if leadership.leader == candidate and not self._has_news_of(candidacy.election):
            candidacy.token = leadership.token
            local.tell(Leads(candidate, leadership.token))

    def _tell_leadership(self, leadership: Leadership) -> None:
        """Tell candidates of this server whether they lead, and all who observe; who does not any more is first."""
        for local in self.clients.values():
            for candidate, candidacy in local.candidates.items():
                if candidacy.election == leadership.election:
                    token = leadership.token if leadership.leader == candidate else 0
                    if candidacy.token and candidacy.token != token:
                        local.tell(Leads(candidate, 0))
                    if token and candidacy.token != token:
                        local.tell(Leads(candidate, token))
                    candidacy.token = token
            if leadership.election in local.observed:
                local.tell(leadership)

    def _tell_what_changed(self) -> None:
        """After a change: what clients were told they hold, and does not hold any more, and who leads.

        The state may be further than what is final; what it is further by is told when that is.
        """
        state = self.replica.state
        assert state is not None
        ends = {untold.outcome.token for untold in self._untold if type(untold.outcome) is Ended}
        for local in self.clients.values():
            for token, holding in list(local.held.items()):
                if token not in ends and state.table.holder(holding.name, token) is None:
                    del local.held[token]
                    local.tell(Ended(holding.request, token, Why.EXPIRED))
        elections = {name for local in self.clients.values() for name in local.observed}
        elections |= {c.election for local in self.clients.values() for c in local.candidates.values()}
        for election in sorted(elections):
            if not self._has_news_of(election):
                self._tell_leadership(state.leaders.of(election))

    def _has_news_of(self, election: bytes) -> bool:
        """Whether the state is further with an election than what is final, and that is told soon."""
        return any(
            type(untold.outcome) is Leadership and untold.outcome.election == election for untold in self._untold
        )

    def _renounce(self) -> None:
        """This server is not in the part that decides: what its clients hold and lead is not theirs any more."""
        for local in self.clients.values():
            for token, holding in list(local.held.items()):
                local.tell(Renounced(holding.request, token))
            local.held.clear()
            for candidate, candidacy in local.candidates.items():
                if candidacy.token:
                    candidacy.token = 0
                    local.tell(Leads(candidate, 0))
            for election in sorted(local.observed):
                local.tell(Leadership(election, None))

    @property
    def readiness(self) -> tuple[bool, str]:
        """Whether requests are answered now; if not, why."""
        is_ready = self.replica.is_primary and self._is_resumed
        return is_ready, "" if is_ready else self.replica.why or "what was decided is being made sure of"

    def _tell_ready(self) -> None:
        readiness = self.readiness
        if readiness != self._told_ready:
            self._told_ready = readiness
            for local in self.clients.values():
                local.tell(Readiness(*readiness))

    # ---- time

    @property
    def deadline(self) -> float:
        """When `advance` is to be called."""
        deadline = min(self.replica.deadline, self._next_tick)
        rank = self._rank
        if rank is not None:
            deadline = min(deadline, self.canvass.deadline, self.leases.deadline(rank))
        return deadline

    @property
    def _rank(self) -> int | None:
        """Which of the service's leaders this server is, 0 for the first; None: it is none, or there are none now."""
        replica = self.replica
        if not replica.is_primary or replica.member not in replica.leaders:
            return None
        return replica.leaders.index(replica.member)

    def advance(self, now: float) -> None:
        """Time has passed: propose what is due."""
        self._now = now
        self.replica.advance(now)
        rank = self._rank
        if rank is not None:
            self._pending += self.leases.due(now, rank)
        state = self.replica.state
        if state is not None and self.replica.is_primary:
            self._pending += self.canvass.due(now, state.leaders.elections, is_first=rank == 0)
        if now >= self._next_tick:
            self._next_tick = now + TICK
            self._tick(now, is_first=rank == 0)

    def _tick(self, now: float, *, is_first: bool) -> None:
        if self._suspended is not None and now - self._suspended > SHORT:
            self._tell_ready()
        self._look_after_the_lost(now)
        if now >= self._next_ping:
            self._next_ping = now + PING
            self._ping()
        state = self.replica.state
        if state is None or not self.replica.is_primary:
            return
        self._tell_places(now)
        if is_first:
            if state.tokens.run_short:
                self.replica.begin_epoch()
            for server in self._ended_servers:
                self._pending += [Gone(client) for client in state.clients_of(server)]
        self._ended_servers = {server for server in self._ended_servers if state.clients_of(server)}

    def _tell_places(self, now: float) -> None:
        """Tell those who wait of their places; those near the front say that they still do."""
        state = self.replica.state
        assert state is not None
        waiting = {}
        for local in self.clients.values():
            for request, known in local.open.items():
                ticket = state.table.ticket(request)
                if ticket is not None and not ticket.token:
                    waiting[request] = local, known, ticket
        moved, self._moved = self._moved, set()
        for name in {ticket.name for _, _, ticket in waiting.values()}:
            lock = state.table.locks[name]
            for place, ticket in enumerate(lock.waiting):
                if ticket.request not in waiting:
                    continue
                local, known, _ = waiting[ticket.request]
                ahead = len(lock.holders) + place
                if name in moved and self._is_resumed and known.ahead != ahead:
                    known.ahead = ahead
                    local.tell(Queued(ticket.request, ahead))
                if place < NEAR and local.put is not None and now - (known.sent or -math.inf) > ticket.lease / 3:
                    self._pending.append(Still(ticket.request))

    def _look_after_the_lost(self, now: float) -> None:
        """Clients that have not come back wait for nothing any more; what they hold stays until it expires."""
        for local in list(self.clients.values()):
            if local.lost is None or now - local.lost <= RESUME:
                continue
            if self._has_nothing(local):
                self._forget(local)
            elif not local.is_given_up and self.replica.is_primary:
                local.is_given_up = True
                self._pending += [Withdraw(request) for request in local.open if not self._is_granted(request)]

    def _has_nothing(self, local: LocalClient) -> bool:
        """Whether nothing is lost with a client; it may still hold what an earlier life of this server granted."""
        if not local.is_known:
            return True
        state = self.replica.state if self.replica.is_primary else None
        return state is not None and not (local.open or local.held or state.table.has_tickets(local.client))

    def _is_granted(self, request: RequestId) -> bool:
        """Whether a client may rely on what it asked for: it may have been told by an earlier life of this server."""
        ticket = self._ticket(request)
        return ticket is not None and ticket.token != 0

    def _forget(self, local: LocalClient) -> None:
        """A client is not there any more, and what it had is free."""
        self.clients.pop(local.client, None)
        if local.is_known:
            self._pending.append(Gone(local.client))

    def _ping(self) -> None:
        """Ask clients with candidates whether they run; have those replaced that lead and do not."""
        state = self.replica.state
        for local in self.clients.values():
            if not local.candidates:
                continue
            local.strikes += 1
            if local.strikes > STRIKES and state is not None and self.replica.is_primary:
                self._pending += self.canvass.depose(local, state.leaders.elections)
            local.tell(Ping())

    # ---- questions

    def answer(self, question: str) -> Any:
        """Return what is to be shown, as plain values; ValueError for a question that is none."""
        return answer(self, question, self._now)

    def ask(self, local: LocalClient, ask: Ask) -> None:
        """Answer a client's question."""
        for part in answers(self, ask, self._now):
            local.tell(part)

    def _open(self, request: RequestId) -> Open | None:
        local = self.clients.get(request.owner.client)
        return local.open.get(request) if local is not None else None

    def _ticket(self, request: RequestId) -> Ticket | None:
        state = self.replica.state
        return state.table.ticket(request) if state is not None else None


class Connection:
    """One connection of one client."""

    def __init__(self, service: Service, put: Callable[[Downward], None], *, may_force: bool) -> None:
        self._service = service
        self._put = put
        self._may_force = may_force
        self.local: LocalClient | None = None
        """Whose it is, once it has said hello."""

    def say(self, said: Sequence[Upward], now: float) -> None:
        """Take what the client says. Raises Malformed."""
        for upward in said:
            if self.local is None:
                self._greet(upward, now)
            else:
                self._hear(self.local, upward, now)

    def _greet(self, upward: Upward, now: float) -> None:
        if not isinstance(upward, Hello):
            raise Malformed(f"{type(upward).__name__} in place of Hello")
        if upward.version != VERSION:
            text = f"client of version {upward.version}, lock server of version {VERSION}: install the same release"
            self._put(Goodbye(Farewell.VERSION, text))
            return
        self.local = self._service.welcome(upward, self._put, now)

    def _hear(self, local: LocalClient, upward: Upward, now: float) -> None:
        service = self._service
        match upward:
            case Pong():
                local.strikes = 0
            case Observe(election):
                service.observe(local, election)
            case Ignore(election):
                local.observed.discard(election)
            case Ask():
                service.ask(local, upward)
            case Bye():
                self.lost(now, dead=True)
            case Hello():
                raise Malformed("a second Hello")
            case _:
                self._check(local, upward)
                service.command(local, upward, now)

    def _check(self, local: LocalClient, command: Any) -> None:
        request = getattr(command, "request", None)
        if request is not None and request.owner.client != local.client:
            raise Malformed(f"{type(command).__name__} in another client's name")
        if isinstance(command, Force) and not self._may_force:
            raise Malformed("only an administrator takes locks by force")

    def lost(self, now: float, *, dead: bool) -> None:
        """The connection has ended; again with `dead` once the client's process is known to have ended, too."""
        local = self.local
        if local is not None and local.put in (self._put, None):
            self._service.lost(local, now, dead=dead)
