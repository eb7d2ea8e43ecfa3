"""A lock server without I/O: the replica, the clients of this machine, and the steps between the two.

A client's commands go to the group when the view is primary, and wait until then. Their outcomes are reported when they
are final. Open commands are kept, and submitted again after each change: every command may come twice. No clock decides
anything here. What a clock suggests (a lease is over, a candidate does not answer) is proposed, and order decides.

The shell hands in the group's events, the clients' messages, and the time. It sends what `take` returns, stores
records, and calls `advance` at `deadline`.
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
    Chosen,
    ClientId,
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
    RoundOpened,
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
from cluck.server.election_rounds import ElectionRounds
from cluck.server.housekeeping import Housekeeping
from cluck.server.leases import Leases
from cluck.server.local_clients import Audiences, Candidacy, LocalClient, OpenRequest
from cluck.server.queries import Queries, pieces
from cluck.server.replies import LeadershipNews, Replies
from cluck.server.submissions import REQUESTS, Submissions
from cluck.state.application import CODEC
from cluck.state.lock_table import Ticket
from cpg.events import Event, Member, Message
from cpg.replication.electorate import ChangeVoters
from cpg.replication.identities import ServerId
from cpg.replication.replica import Phase, Replica, ReplicaSettings
from cpg.replication.wire import DurableRecord

MOST_FORCED: Final = 64
"""Forced releases that one turn reports."""
_SPENT: Final = 0.01
"""A waiter renews as it begins if a larger share of the lease has passed since it last said that it waits."""
_OF_ELECTIONS: Final = frozenset((Leadership, Lapsed, RoundOpened, Chosen, Rejected))
"""Outcomes that are no answer to a request."""


class Service:
    """One life of a lock server."""

    def __init__(
        self,
        member: Member,
        settings: ReplicaSettings,
        record: DurableRecord | None,
        *,
        dice: random.Random,
        now: float,
        key: bytes = b"",
    ) -> None:
        """`record`: what the disk says. `key`: by which a later life recognizes this one's clients; any bytes."""
        self.replica = Replica(CODEC, member, dice.getrandbits(62), settings, record=record, listener=self)
        self.server = self.replica.server
        self.leases = Leases()
        self.clients: dict[ClientId, LocalClient] = {}
        """The clients of this server."""
        self._audiences: Audiences = {}
        self.forced: deque[tuple[Force, ServerId]] = deque(maxlen=MOST_FORCED)
        """Locks that were taken by force, and through which server, for the shell to log."""
        self._key = key or dice.randbytes(32)
        self.election_rounds = ElectionRounds(self.server, self.clients)
        self._now = now
        self._numbers = 0
        self._submissions = Submissions(self.replica, self.clients)
        self._queries = Queries(self)
        self._replies = Replies(self.replica, self.clients, self._audiences, self._submissions, now)
        self._housekeeping = Housekeeping(self.replica, self.clients, self._submissions, self._replies, now)

    # ---- the group's side

    def event(self, event: Event, now: float) -> None:
        """Take the next event of the group's stream."""
        self._now = now
        if type(event) is Message and event.sender == self.replica.member:
            self._submissions.on_returned()
        self.replica.event(event, now)
        if self._replies.unheard_since is not None:
            self._replies.on_tick(now)  # the ring moves again

    def take(self, now: float) -> list[bytes]:
        """Hand over what is to be multicast, in order."""
        self._now = now
        if self._queries.are_open:
            self._queries.advance()
        if self.replica.is_primary:
            self._submissions.flush(now)
        messages = self.replica.take()
        if messages:
            self._submissions.on_sent(len(messages), now)
        return messages

    @property
    def record_to_store(self) -> DurableRecord | None:
        """What is to be made durable; then `stored` is to be called."""
        return self.replica.record_to_store

    def stored(self, record: DurableRecord) -> None:
        """Take note that it is durable."""
        self.replica.stored(record)

    def take_leadership_news(self) -> list[LeadershipNews]:
        """Hand over what the administrator should know of elections that clients of this server lead or led."""
        return self._replies.take_leadership_news()

    @property
    def has_pending_replies(self) -> bool:
        """Return whether something was done for a client of this server that may not be reported yet."""
        return self._replies.has_pending_replies

    @property
    def is_busy(self) -> bool:
        """Return whether something is under way that does not wait for a client, or for time to pass."""
        phase = self.replica.phase
        if phase is Phase.PRIMARY:
            return self._submissions.is_busy or not self._replies.is_resumed or self.replica.is_busy
        return phase is not Phase.MINORITY

    # ---- the replica's side (`cpg.replication.replica.Listener`)

    def on_delivered(self, serial: int) -> None:
        """Take note that a message of this server is in the order, and is applied next."""
        self._submissions.on_delivered(serial)

    def on_applied(self, number: int, command: Command, server: ServerId, outcomes: list[Outcome]) -> None:
        """Act on a command that was applied, and its outcomes. Hot."""
        is_own = server == self.server
        sent = self._submissions.sent if is_own else None
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
                self._replies.note(number, outcome, sent)

    def _on_election(self, number: int, outcome: Any, sent: float | None) -> None:
        self._submissions.submit_all(self.election_rounds.on_outcome(outcome, self._now))
        if isinstance(outcome, Leadership):
            begins = outcome.leader is not None and not self.leases.has(outcome.token)
            if begins:
                self._begin_lease(outcome.leader)  # type: ignore[arg-type]
            self._replies.note(number, outcome, sent if begins else None)
        elif isinstance(outcome, Lapsed):
            self.leases.end(outcome.token)

    def _note_lost(self, number: int, command: Release | Renew) -> None:
        """Tell a client that what it speaks of is not held any more. A candidate knows by its own clock, and remains
        one.
        """
        local = self.clients.get(command.request.owner.client)
        if local is not None and command.request not in local.candidates:
            self._replies.note(number, Ended(command.request, command.token, Why.EXPIRED), None)

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
            return  # it came again
        self._begin_lease(outcome.request)
        if known is None:
            return
        known.base = known.sent
        if known.ahead is not None:  # it has waited: ruling E7
            ticket = self._ticket(outcome.request)
            if ticket is not None and (known.base is None or self._now - known.base > _SPENT * ticket.lease):
                self._submissions.submit(Renew(ticket.request, ticket.token))

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
        """Report what was done up to here."""
        self._replies.on_final(number, self._now)
        self._submissions.on_final(number)

    def on_primary(self) -> None:
        """Begin a view whose state is the cluster's."""
        state = self.replica.state
        assert state is not None
        self._replies.on_primary()
        self._submissions.on_primary()
        if not self.replica.was_there:  # what was granted here may never have been, and its token may be another's
            self.leases = Leases()
        self.leases.load(state.leased(), self._now)
        state.table.moved.update(state.table.locks)
        self.election_rounds.reset()
        for outcome in state.elections.pending():
            self._submissions.submit_all(self.election_rounds.on_outcome(outcome, self._now))

    def on_suspended(self) -> None:
        """End the view."""
        self._replies.on_suspended(self._now)
        self._submissions.on_suspended()

    def on_phase(self) -> None:
        """Act on another phase of the view, or on a longer lease on record."""
        if self.replica.phase in (Phase.MINORITY, Phase.BIRTH):
            self._replies.renounce()
            self._replies.report_readiness()
        elif self.replica.is_primary:
            self._submissions.retry_gated()

    def on_server_ended(self, server: ServerId) -> None:
        """Note that another server has ended together with all its clients."""
        self._housekeeping.on_server_ended(server, self._now)

    # ---- the clients' side

    def connect(
        self,
        send: Callable[[Downward], None],
        *,
        may_force: bool = True,
        user: int = 0,
        is_behind: Callable[[], bool] = lambda: False,
    ) -> Connection:
        """Begin with a client.

        Args:
            send: Called with each message to the client; it must only queue.
            may_force: The client is an administrator.
            user: With whom it shares what all clients may have; 0: an administrator.
            is_behind: Returns whether so much is queued that answers to questions wait.
        """
        return Connection(self, send, user, is_behind, may_force=may_force)

    def welcome(
        self, hello: Hello, send: Callable[[Downward], None], user: int, is_behind: Callable[[], bool], now: float
    ) -> LocalClient:
        """Admit a client, or recognize it."""
        self._now = now
        client = hello.resumes
        is_known = client is not None and hmac.compare_digest(hello.secret, self._secret(client))
        if client is None or not is_known:
            self._numbers += 1
            client = ClientId(self.server, self._numbers)
        local = self.clients.get(client)
        if local is None:
            local = self.clients[client] = LocalClient(client, hello.program, send, user, is_behind, self._audiences)
            local.is_known = client.server != self.server
        elif local.send is not None:
            local.send(Goodbye(Farewell.ENDING, "the same client has connected again"))
        local.user, local.is_behind = user, is_behind
        local.send, local.lost, local.strikes, local.is_given_up = send, None, 0, False
        send(Welcome(VERSION, client, self._secret(client), now, is_known))
        send(Readiness(*self.readiness))
        return local

    def _secret(self, client: ClientId) -> bytes:
        server = client.server  # these words are those of earlier releases, whose clients may resume here
        words = f"Client(server=Server(node_id={server.node_id}, start={server.start}), number={client.number})"
        return hmac.digest(self._key, words.encode(), "sha256")

    def command(self, local: LocalClient, command: Command, now: float) -> None:
        """Do what a client requests. Hot."""
        self._now = now
        kind = type(command)
        if kind in REQUESTS:
            self._request(local, command)
        elif kind is Withdraw:
            self._withdraw(local, command)  # type: ignore[arg-type]
        elif kind is Force or kind is ChangeVoters:
            if self._submissions.has_room(local, command):
                self._submissions.submit_for(local, command)
        else:
            if kind in (Release, Renew):
                self._reply_if_lost(local, command)  # type: ignore[arg-type]
            self._follow_up(local, command)  # type: ignore[arg-type]

    def _request(self, local: LocalClient, command: Any) -> None:
        request: RequestId = command.request
        known = local.open.get(request)
        if known is None:
            if not self.replica.is_primary and type(command) is Acquire and not command.waits:
                local.reply(Failed(request, self.readiness[1], not_ready=True))
                return
            is_far = request.number - command.settled > MOST_UNSETTLED
            if is_far or len(local.open) >= MOST_UNSETTLED or not self._submissions.has_room(local, command):
                local.reply(Failed(request, "too many requests are open", not_ready=False))
                return
            if what := self._what_lacks(local, command):
                text = f"the programs of this user have as much as stays free for others: {what}"
                local.reply(Failed(request, text, not_ready=False))
                return
            local.open[request] = OpenRequest(command)
            if type(command) is Stand:
                since = self._now - command.running
                if request not in local.candidates:
                    local.stand(request, Candidacy(command.election, since, command.restart_interval))
        if known is None or known.is_submitted:  # otherwise it waits here already, unheard
            self._submissions.submit_request(command, local)

    def _what_lacks(self, local: LocalClient, command: Command) -> str:
        state = self.replica.state
        return shares.what_lacks(state, command, local, self.clients.values()) if state is not None else ""

    def _withdraw(self, local: LocalClient, command: Withdraw) -> None:
        known = local.open.get(command.request)
        local.step_back(command.request)
        if known is not None and not known.is_submitted:  # the group has never heard of it
            del local.open[command.request]
            self._submissions.cancel(known.command)
            local.reply(Refused(command.request, Why.WITHDRAWN))
        elif known is None:
            self._follow_up(local, command)
        else:
            if type(known.command) is Stand:
                del local.open[command.request]
            self._submissions.submit_followup(local, command)

    def _follow_up(self, local: LocalClient, command: Withdraw | Release | Renew | EndWait | Resign) -> None:
        """Submit what is said of a former request; where nobody knows that request, it is answered at once. Hot."""
        if self.replica.is_primary or self._submissions.may_matter(local, command.request):
            self._submissions.submit_followup(local, command)
        elif type(command) is Withdraw:
            local.reply(Refused(command.request, Why.WITHDRAWN))
        elif type(command) in (Release, Renew):
            local.reply(Ended(command.request, command.token, Why.EXPIRED))  # type: ignore[union-attr]

    def _reply_if_lost(self, local: LocalClient, command: Release | Renew) -> None:
        """Answer at once where a lock is not held, and the client was not told here that it is."""
        state = self.replica.state
        if state is None or not self.replica.is_primary or command.token in local.held:
            return
        leased = state.lease_of(command.request)
        if leased is None or leased.token != command.token:
            local.reply(Ended(command.request, command.token, Why.EXPIRED))

    def observe(self, local: LocalClient, election: bytes) -> None:
        """Report an election to a client from now on."""
        self._replies.observe(local, election)

    def lost(self, local: LocalClient, now: float, *, dead: bool) -> None:
        """End a client's connection; `dead`: its process has ended as well, or it has said goodbye."""
        self._now = now
        self._housekeeping.lose(local, now, dead=dead)

    @property
    def unheard_since(self) -> float | None:
        """Return since when nothing comes back from a ring that does not seem to move; None: it does."""
        return self._replies.unheard_since

    @property
    def readiness(self) -> tuple[bool, str]:
        """Return whether requests are answered now; if not, why."""
        return self._replies.readiness

    # ---- time

    @property
    def deadline(self) -> float:
        """When `advance` is to be called."""
        if self._queries.are_open and self._queries.are_due:
            return self._now
        deadline = min(self.replica.deadline, self._housekeeping.deadline)
        rank = self._rank
        if rank is not None:
            deadline = min(deadline, self.election_rounds.deadline(rank), self.leases.deadline(rank))
        return deadline

    @property
    def _rank(self) -> int | None:
        """This server's rank among the leaders of the service, 0 for the first; None: it is none, or there are none
        now.
        """
        replica = self.replica
        if not replica.is_primary or replica.member not in replica.leaders:
            return None
        return replica.leaders.index(replica.member)

    def advance(self, now: float) -> None:
        """Propose what is due by now."""
        self._now = now
        self.replica.advance(now)
        rank = self._rank
        if rank is not None:
            self._submissions.submit_all(self.leases.due(now, rank))
        state = self.replica.state
        if state is not None and self.replica.is_primary:
            self._submissions.submit_all(self.election_rounds.due(now, state.elections.by_name, rank))
        self._housekeeping.advance(now, rank)

    # ---- questions

    def answer(self, question: str) -> Any:
        """Return the answer to a question, as plain values."""
        return json.decode(b"".join(pieces(self, question)))

    def query(self, local: LocalClient, query: Ask) -> None:
        """Answer a client's question, in this turn and those to come. Raises Malformed."""
        self._queries.add(local, query)

    @property
    def now(self) -> float:
        """Return the time, as far as it was handed in."""
        return self._now

    def _open(self, request: RequestId) -> OpenRequest | None:
        local = self.clients.get(request.owner.client)
        return local.open.get(request) if local is not None else None
