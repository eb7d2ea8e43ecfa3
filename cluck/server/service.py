"""A lock server without I/O: the replica, the clients of this machine, and what stands between the two.

A client's commands go to the group when the view is primary, and wait until then. What comes of them is told when it is
final. Whatever is open is kept, and said again after each change: all commands may be said twice. Nothing is decided by
a clock here; what a clock suggests (a lease is over, a candidate does not answer) is proposed, and order decides.

The shell hands in the group's events, what clients say, and the time; it sends what `take` gives, stores records, and
calls `advance` at `deadline`.
"""

from __future__ import annotations

import hmac
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from msgspec import json

from cluck.commands import (
    MOST_UNSETTLED,
    Acquire,
    Asked,
    Chosen,
    Client,
    Command,
    Ended,
    EndWait,
    Force,
    Granted,
    Lapsed,
    Leadership,
    Outcome,
    Refused,
    Rejected,
    Release,
    Renew,
    Renewed,
    RequestId,
    Resign,
    Stand,
    Still,
    Wait,
    Why,
    Withdraw,
)
from cluck.protocol import (
    VERSION,
    Ask,
    Downward,
    Failed,
    Farewell,
    Goodbye,
    Hello,
    Readiness,
    Welcome,
)
from cluck.server import shares
from cluck.server.connection import Connection
from cluck.server.election_rounds import Canvass
from cluck.server.housekeeping import Upkeep
from cluck.server.leases import Leases
from cluck.server.local_clients import Audiences, Candidacy, LocalClient, Open
from cluck.server.queries import Inquiries, pieces
from cluck.server.replies import LedNews, Teller
from cluck.server.submissions import REQUESTS, Outgoing
from cluck.state.application import CODEC
from cluck.state.lock_table import Ticket
from cpg.events import Event, Member, Message
from cpg.replication.identities import Server
from cpg.replication.replica import Phase, Replica, ReplicaSettings
from cpg.replication.wire import Record

MOST_FORCED: Final = 64
"""Told of one turn."""
_SPENT: Final = 0.01
"""Who has waited for a larger part of the lease, since it last said so, renews as it begins."""
_OF_ELECTIONS: Final = frozenset((Leadership, Lapsed, Asked, Chosen, Rejected))
"""Outcomes that are no answer to a request."""


class Service:
    """One life of a lock server."""

    def __init__(
        self,
        member: Member,
        settings: ReplicaSettings,
        record: Record | None,
        *,
        dice: random.Random,
        now: float,
        key: bytes = b"",
    ) -> None:
        """`record`: what the disk says. `key`: by which a later life knows this one's clients again; any bytes."""
        self.replica = Replica(CODEC, member, dice.getrandbits(62), settings, record=record, listener=self)
        self.server = self.replica.server
        self.leases = Leases()
        self.clients: dict[Client, LocalClient] = {}
        """Those of this server."""
        self._audiences: Audiences = {}
        self.forced: deque[tuple[Force, Server]] = deque(maxlen=MOST_FORCED)
        """What was taken by force, and through which server, for the shell to tell."""
        self._key = key or dice.randbytes(32)
        self.canvass = Canvass(self.server, self.clients)
        self._now = now
        self._numbers = 0
        self._outgoing = Outgoing(self.replica, self.clients)
        self._inquiries = Inquiries(self)
        self._teller = Teller(self.replica, self.clients, self._audiences, self._outgoing, now)
        self._upkeep = Upkeep(self.replica, self.clients, self._outgoing, self._teller, now)

    # ---- the group's side

    def event(self, event: Event, now: float) -> None:
        """Take the next event of the group's stream."""
        self._now = now
        if type(event) is Message and event.sender == self.replica.member:
            self._outgoing.on_heard()
        self.replica.event(event, now)
        if self._teller.unheard_since is not None:
            self._teller.on_tick(now)  # the ring moves again

    def take(self, now: float) -> list[bytes]:
        """Hand over what is to be multicast, in order."""
        self._now = now
        if self._inquiries.are_open:
            self._inquiries.advance()
        if self.replica.is_primary:
            self._outgoing.give(now)
        messages = self.replica.take()
        if messages:
            self._outgoing.on_given(len(messages), now)
        return messages

    @property
    def record_to_store(self) -> Record | None:
        """What is to be made durable; `stored` tells that it is."""
        return self.replica.record_to_store

    def stored(self, record: Record) -> None:
        """It is durable."""
        self.replica.stored(record)

    def take_led_news(self) -> list[LedNews]:
        """Hand over what the administrator should know of elections that clients of this server lead or led."""
        return self._teller.take_led_news()

    @property
    def has_untold(self) -> bool:
        """Whether something was done for a client of this server that may not be told yet."""
        return self._teller.has_untold

    @property
    def is_busy(self) -> bool:
        """Whether something is under way that does not wait for a client, or for time to pass."""
        phase = self.replica.phase
        if phase is Phase.PRIMARY:
            return self._outgoing.is_busy or not self._teller.is_resumed or self.replica.is_busy
        return phase is not Phase.MINORITY

    # ---- the replica's side (`cpg.replication.replica.Listener`)

    def on_delivered(self, serial: int) -> None:
        """A message of this server is in the order."""
        self._outgoing.on_delivered(serial)

    def on_applied(self, number: int, command: Command, server: Server, outcomes: list[Outcome]) -> None:
        """A command was applied. Hot."""
        is_own = server == self.server
        sent = self._outgoing.sent if is_own else None
        if sent is not None:
            self._note_sending(command, sent)
        if not outcomes and is_own and type(command) in (Release, Renew):
            self._note_lost(number, command)  # type: ignore[arg-type]
        for outcome in outcomes:
            kind = type(outcome)
            if kind is Granted:
                self._on_granted(outcome)  # type: ignore[arg-type]
            elif kind is Renewed:
                self._begin_lease(outcome.request)  # type: ignore[union-attr]
            elif kind is Ended:
                self.leases.end(outcome.token)  # type: ignore[union-attr]
                if type(command) is Force:
                    self.forced.append((command, server))
            elif kind in _OF_ELECTIONS:
                self._on_election(number, outcome, sent)
                continue
            if outcome.request.owner.client in self.clients:  # type: ignore[union-attr]
                self._teller.note(number, outcome, sent)

    def _on_election(self, number: int, outcome: Any, sent: float | None) -> None:
        self._outgoing.say_all(self.canvass.hear(outcome, self._now))
        if isinstance(outcome, Leadership):
            begins = outcome.leader is not None and not self.leases.has(outcome.token)
            if begins:
                self._begin_lease(outcome.leader)  # type: ignore[arg-type]
            self._teller.note(number, outcome, sent if begins else None)
        elif isinstance(outcome, Lapsed):
            self.leases.end(outcome.token)

    def _note_lost(self, number: int, command: Release | Renew) -> None:
        """What a client speaks of is not held any more. A candidate knows by its own clock, and stands on."""
        local = self.clients.get(command.request.owner.client)
        if local is not None and command.request not in local.candidates:
            self._teller.note(number, Ended(command.request, command.token, Why.EXPIRED), None)

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
            if ticket is not None and (known.base is None or self._now - known.base > _SPENT * ticket.lease):
                self._outgoing.say(Renew(ticket.request, ticket.token))

    def _ticket(self, request: RequestId) -> Ticket | None:
        state = self.replica.state
        return state.table.ticket(request) if state is not None else None

    def _begin_lease(self, request: RequestId) -> None:
        state = self.replica.state
        assert state is not None
        leased = state.lease_of(request)
        if leased is not None and leased.token:
            self.leases.begin(leased, self._now)

    def on_final(self, number: int) -> None:
        """What was done up to here may be told."""
        self._teller.on_final(number, self._now)
        self._outgoing.on_final(number)

    def on_primary(self) -> None:
        """A view has begun whose state is the cluster's."""
        state = self.replica.state
        assert state is not None
        self._teller.on_primary()
        self._outgoing.on_primary()
        if not self.replica.was_there:  # what was granted here may never have been, and its token be another's
            self.leases = Leases()
        self.leases.load(state.leased(), self._now)
        state.table.moved.update(state.table.locks)
        self.canvass.forget()
        for outcome in state.leaders.pending():
            self._outgoing.say_all(self.canvass.hear(outcome, self._now))

    def on_suspended(self) -> None:
        """The view has ended."""
        self._teller.on_suspended(self._now)
        self._outgoing.on_suspended()

    def on_phase(self) -> None:
        """The view is further, or a longer lease is on record."""
        if self.replica.phase in (Phase.MINORITY, Phase.BIRTH):
            self._teller.renounce()
            self._teller.tell_ready()
        elif self.replica.is_primary:
            self._outgoing.ask_again()

    def on_server_ended(self, server: Server) -> None:
        """Another server has ended together with all its clients."""
        self._upkeep.on_server_ended(server, self._now)

    # ---- the clients' side

    def connect(
        self,
        put: Callable[[Downward], None],
        *,
        may_force: bool = True,
        user: int = 0,
        is_behind: Callable[[], bool] = lambda: False,
    ) -> Connection:
        """Begin with a client.

        Args:
            put: Told what is said to the client; it must only queue.
            may_force: The client is an administrator.
            user: With whom it shares what all clients may have; 0: an administrator.
            is_behind: Whether so much is queued that answers to questions wait.
        """
        return Connection(self, put, user, is_behind, may_force=may_force)

    def welcome(
        self, hello: Hello, put: Callable[[Downward], None], user: int, is_behind: Callable[[], bool], now: float
    ) -> LocalClient:
        """Know a client, perhaps again."""
        self._now = now
        client = hello.resumes
        is_known = client is not None and hmac.compare_digest(hello.secret, self._secret(client))
        if client is None or not is_known:
            self._numbers += 1
            client = Client(self.server, self._numbers)
        local = self.clients.get(client)
        if local is None:
            local = self.clients[client] = LocalClient(client, hello.program, put, user, is_behind, self._audiences)
            local.is_known = client.server != self.server
        elif local.put is not None:
            local.put(Goodbye(Farewell.ENDING, "the same client has connected again"))
        local.user, local.is_behind = user, is_behind
        local.put, local.lost, local.strikes, local.is_given_up = put, None, 0, False
        put(Welcome(VERSION, client, self._secret(client), now, is_known))
        put(Readiness(*self.readiness))
        return local

    def _secret(self, client: Client) -> bytes:
        return hmac.digest(self._key, repr(client).encode(), "sha256")

    def command(self, local: LocalClient, command: Command, now: float) -> None:
        """Do what a client asks for. Hot."""
        self._now = now
        kind = type(command)
        if kind in REQUESTS:
            self._request(local, command)
        elif kind is Withdraw:
            self._withdraw(local, command)  # type: ignore[arg-type]
        elif kind is Force:
            if self._outgoing.has_room(local, command):
                self._outgoing.say_for(local, command)
        else:
            if kind in (Release, Renew):
                self._tell_if_lost(local, command)  # type: ignore[arg-type]
            self._hear(local, command)  # type: ignore[arg-type]

    def _request(self, local: LocalClient, command: Any) -> None:
        request: RequestId = command.request
        known = local.open.get(request)
        if known is None:
            if not self.replica.is_primary and type(command) is Acquire and not command.waits:
                local.tell(Failed(request, self.readiness[1], not_ready=True))
                return
            is_far = request.number - command.settled > MOST_UNSETTLED
            if is_far or len(local.open) >= MOST_UNSETTLED or not self._outgoing.has_room(local, command):
                local.tell(Failed(request, "too many requests are open", not_ready=False))
                return
            if what := self._what_lacks(local, command):
                text = f"the programs of this user have as much as stays free for others: {what}"
                local.tell(Failed(request, text, not_ready=False))
                return
            local.open[request] = Open(command)
            if type(command) is Stand:
                since = self._now - command.running
                if request not in local.candidates:
                    local.stand(request, Candidacy(command.election, since, command.restart_interval))
        if known is None or known.is_submitted:  # otherwise it waits here already, and may be withdrawn unheard
            self._outgoing.ask(command, local)

    def _what_lacks(self, local: LocalClient, command: Command) -> str:
        state = self.replica.state
        return shares.what_lacks(state, command, local, self.clients.values()) if state is not None else ""

    def _withdraw(self, local: LocalClient, command: Withdraw) -> None:
        known = local.open.get(command.request)
        local.step_back(command.request)
        if known is not None and not known.is_submitted:  # the group has never heard of it
            del local.open[command.request]
            self._outgoing.take_back(known.command)
            local.tell(Refused(command.request, Why.WITHDRAWN))
        elif known is None:
            self._hear(local, command)
        else:
            if type(known.command) is Stand:
                del local.open[command.request]
            self._outgoing.hear(local, command)

    def _hear(self, local: LocalClient, command: Withdraw | Release | Renew | EndWait | Resign) -> None:
        """Have the group hear what is said of a former request; one that nobody knows is over at once. Hot."""
        if self.replica.is_primary or self._outgoing.may_matter(local, command.request):
            self._outgoing.hear(local, command)
        elif type(command) is Withdraw:
            local.tell(Refused(command.request, Why.WITHDRAWN))
        elif type(command) in (Release, Renew):
            local.tell(Ended(command.request, command.token, Why.EXPIRED))  # type: ignore[union-attr]

    def _tell_if_lost(self, local: LocalClient, command: Release | Renew) -> None:
        """Answer at once where a lock is not held, and the client was not told here that it is."""
        state = self.replica.state
        if state is None or not self.replica.is_primary or command.token in local.held:
            return
        leased = state.lease_of(command.request)
        if leased is None or leased.token != command.token:
            local.tell(Ended(command.request, command.token, Why.EXPIRED))

    def observe(self, local: LocalClient, election: bytes) -> None:
        """Tell a client of an election from now on."""
        self._teller.observe(local, election)

    def lost(self, local: LocalClient, now: float, *, dead: bool) -> None:
        """A client's connection has ended; `dead`: so has its process, or it has said goodbye."""
        self._now = now
        self._upkeep.lose(local, now, dead=dead)

    @property
    def unheard_since(self) -> float | None:
        """Since when nothing comes back from a ring that does not seem to move; None: it does."""
        return self._teller.unheard_since

    @property
    def readiness(self) -> tuple[bool, str]:
        """Whether requests are answered now; if not, why."""
        return self._teller.readiness

    # ---- time

    @property
    def deadline(self) -> float:
        """When `advance` is to be called."""
        if self._inquiries.are_open and self._inquiries.are_due:
            return self._now
        deadline = min(self.replica.deadline, self._upkeep.deadline)
        rank = self._rank
        if rank is not None:
            deadline = min(deadline, self.canvass.deadline(rank), self.leases.deadline(rank))
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
            self._outgoing.say_all(self.leases.due(now, rank))
        state = self.replica.state
        if state is not None and self.replica.is_primary:
            self._outgoing.say_all(self.canvass.due(now, state.leaders.elections, rank))
        self._upkeep.advance(now, rank)

    # ---- questions

    def answer(self, question: str) -> Any:
        """Return what is to be shown, as plain values."""
        return json.decode(b"".join(pieces(self, question)))

    def ask(self, local: LocalClient, ask: Ask) -> None:
        """Answer a client's question, in this turn and those to come. Raises Malformed."""
        self._inquiries.ask(local, ask)

    @property
    def now(self) -> float:
        """The time, as far as it was told."""
        return self._now

    def _open(self, request: RequestId) -> Open | None:
        local = self.clients.get(request.owner.client)
        return local.open.get(request) if local is not None else None
