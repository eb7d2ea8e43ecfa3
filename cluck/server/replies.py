"""What a lock server tells its clients: the final outcomes of their requests, and the effects of a change.

An outcome is noted when its command is applied, and reported when it is final. One that was only noted when a view ends
is never reported.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from typing import Final, NamedTuple

from cluck.commands import (
    Chosen,
    ClientId,
    Ended,
    Granted,
    Lapsed,
    Leadership,
    Outcome,
    Queued,
    Refused,
    Rejected,
    Release,
    Renew,
    Renewed,
    RequestId,
    Revoked,
    RoundOpened,
    Standing,
    Wait,
    Waiting,
    Why,
    Woken,
)
from cluck.protocol import Failed, Leads, LockHeld, Readiness, Renounced
from cluck.server.leases import usable
from cluck.server.local_clients import Audience, Audiences, LocalClient, PendingReply
from cluck.server.queries import name_as_text
from cluck.server.submissions import Submissions
from cluck.state.elections import Tenure
from cluck.state.lock_table import Ticket
from cluck.state.machine import LockState
from cpg.replication.replica import Phase, Replica
from totem.log_fields import Fields, event_fields
from totem.text import printable

SILENCE: Final = 3.0
"""Seconds without any message back from the ring after which something is wrong with it."""
UNHEARD: Final = "this server's messages do not come back from the ring: see `cpg status` here"
MOST_LATE: Final = 5
"""Renewals of a lock that come too late for its client to be told of it, after which it is released."""
SHORT: Final = 1.0
"""Seconds of a change that clients are not told of."""


class _Led(NamedTuple):
    """A leadership of a client of this server."""

    client: LocalClient
    token: int


class LeadershipNews(NamedTuple):
    """A leadership of a client of this server has begun, or ended."""

    election: bytes
    text: str
    fields: Fields
    user: int
    """The user whose client it is."""


class Replies:
    """Outcomes that are to be reported to the clients of one server, and what these know of its readiness."""

    def __init__(
        self,
        replica: Replica[LockState],
        clients: Mapping[ClientId, LocalClient],
        audiences: Audiences,
        submissions: Submissions,
        now: float,
    ) -> None:
        self.is_resumed = False
        """Whether the clients were told what the view began with."""
        self._replica = replica
        self._clients = clients
        self._audiences = audiences
        self._submissions = submissions
        self._pending: deque[PendingReply] = deque()
        self._news: Counter[bytes] = Counter()
        """The number of leaderships among them, by election: there the state is further than what was reported."""
        self._suspended: float | None = now
        """Since when the view is not primary and final."""
        self.unheard_since: float | None = None
        """Since when the ring does not seem to move; None: it does."""
        self._reported: tuple[bool, str] = (False, "")
        self._led: dict[bytes, _Led] = {}
        """Elections that clients of this server lead, as the administrator was told."""
        self._leadership_news: list[LeadershipNews] = []

    @property
    def has_pending_replies(self) -> bool:
        """Return whether something was done that may not be reported yet."""
        return bool(self._pending)

    # ---- the view

    def note(self, number: int, outcome: Outcome, base: float | None) -> None:
        """Note an outcome that is to be reported when it is final. Hot.

        `base`: of a renewal, or of a leadership that begins: when it was sent.
        """
        self._pending.append(PendingReply(number, outcome, base))
        if type(outcome) is Leadership:
            self._news[outcome.election] += 1

    def on_final(self, number: int, now: float) -> None:
        """Report what was done up to here."""
        if not self.is_resumed:
            self.is_resumed = True
            self._suspended = None
            self.report_readiness()
            self._report_changes(now)
        while self._pending and self._pending[0].number <= number:
            pending = self._pending.popleft()
            self._reply(pending.outcome, pending.base, now)

    def on_primary(self) -> None:
        """Begin a view, of which nothing is final yet."""
        self.is_resumed = False

    def on_suspended(self, now: float) -> None:
        """End the view: what is not final may be lost."""
        self._suspended = now
        self._pending.clear()
        self._news.clear()

    def _report_changes(self, now: float) -> None:
        """Report, after a change, what is not held any more of what clients were told they hold, and who leads.

        The state may be further than what is final; that difference is reported when it is final.
        """
        state = self._replica.state
        assert state is not None
        ends = {pending.outcome.token for pending in self._pending if type(pending.outcome) is Ended}
        for local in self._clients.values():
            for token, request in list(local.held.items()):
                if token not in ends and state.table.held(request, token) is None:
                    del local.held[token]
                    local.reply(Ended(request, token, Why.EXPIRED))
        elections = self._audiences.keys() | self._led.keys()
        for election in sorted(elections - self._news.keys()):
            self._report_leadership(state.elections.of(election), None, now)

    def renounce(self) -> None:
        """Tell clients that what they hold and lead is not theirs any more: this server is not in the part that
        decides.
        """
        for local in self._clients.values():
            for token, request in local.held.items():
                local.reply(Renounced(request, token))
            local.held.clear()
            for candidate, candidacy in local.candidates.items():
                if candidacy.token:
                    candidacy.token = 0
                    local.reply(Leads(candidate, 0))
            for election in sorted(local.observed):
                local.reply(Leadership(election, None))
        for election, led in self._led.items():
            self._note_led(election, led, "leads no more, since this server does not decide", leads=False)
        self._led.clear()

    # ---- readiness

    @property
    def readiness(self) -> tuple[bool, str]:
        """Return whether requests are answered now; if not, why."""
        replica = self._replica
        if self.unheard_since is not None:
            return False, UNHEARD
        is_ready = self._is_final
        why = "" if is_ready else replica.why or "what was decided is not final yet"
        if replica.phase is Phase.BIRTH and replica.disk_fault:
            why += f"; here nothing can be stored: {replica.disk_fault}"
        return is_ready, why

    @property
    def _is_final(self) -> bool:
        """Whether the state is that of a primary view, all of whose beginning is final."""
        return self._replica.is_primary and self.is_resumed

    def report_readiness(self) -> None:
        """Tell all clients whether requests are answered now, if that has changed."""
        readiness = self.readiness
        if readiness != self._reported:
            self._reported = readiness
            for local in self._clients.values():
                local.reply(Readiness(*readiness))

    def on_tick(self, now: float) -> None:
        """Report a change, or a silence, that has lasted long enough."""
        since = self._submissions.unheard_since
        former, self.unheard_since = self.unheard_since, since if since is not None and now - since > SILENCE else None
        if (former is None) != (self.unheard_since is None):
            self.report_readiness()
        if self._suspended is not None and now - self._suspended > SHORT:
            self.report_readiness()

    # ---- one by one

    def observe(self, local: LocalClient, election: bytes) -> None:
        """Report an election to a client from now on."""
        local.observe(election)
        state = self._replica.state
        # Also where the ring does not seem to move: when it does again, nothing would tell of the leader once more.
        if state is not None and self._is_final and election not in self._news:
            local.reply(state.elections.of(election))
        else:
            local.reply(Leadership(election, None))

    def _reply(self, outcome: Outcome, base: float | None, now: float) -> None:
        """Report an outcome to the client of this server that made the request. Hot."""
        if type(outcome) is Leadership:
            self._news[outcome.election] -= 1
            if not self._news[outcome.election]:
                del self._news[outcome.election]
            self._report_leadership(outcome, base, now)
            return
        request: RequestId = outcome.request  # type: ignore[union-attr]
        local = self._clients.get(request.owner.client)
        if local is None:
            return
        match outcome:
            case Granted(_, token):
                known = local.open.get(request)
                self._reply_held(local, request, token, known.base if known is not None else None, now)
            case Renewed(_, token, _):
                if request in local.candidates:
                    self._reply_leader(local, request, token, base, now)
                else:
                    self._reply_held(local, request, token, base, now)
            case Queued(_, ahead):
                known = local.open.get(request)
                if known is not None and known.ahead != ahead:
                    known.ahead = ahead
                    local.reply(outcome)
            case Ended(_, token, _):
                local.held.pop(token, None)
                local.open.pop(request, None)
                local.reply(outcome)
            case Refused(_, Why.UNRECORDED):
                known = local.open.get(request)
                if known is not None:
                    self._submissions.submit_request(known.command)
            case Waiting() | Revoked():
                local.reply(outcome)
            case Standing():
                local.reply(outcome)
                self._reply_role(local, request, now)
            case Woken():
                known = local.open.get(request)
                if known is not None and not (isinstance(known.command, Wait) and known.command.reacquires):
                    del local.open[request]
                local.reply(outcome)
            case RoundOpened() | Chosen() | Rejected() | Lapsed():
                pass
            case _:
                local.open.pop(request, None)
                if type(outcome) is Refused:
                    local.step_back(request)
                local.reply(outcome)

    def _reply_held(self, local: LocalClient, request: RequestId, token: int, base: float | None, now: float) -> None:
        """Tell a holder its deadline; where nothing of the lease is left, renew first."""
        state = self._replica.state
        ticket = state.table.ticket(request) if state is not None else None
        if ticket is None or ticket.token != token:
            return  # its end is reported next
        deadline = _deadline(ticket, base)
        if deadline <= now:
            self._renew_first(local, ticket, is_late=base is not None)
            return
        local.open.pop(request, None)
        local.held[token] = request
        local.reply(LockHeld(request, token, deadline))

    def _renew_first(self, local: LocalClient, ticket: Ticket, *, is_late: bool) -> None:
        """Renew a lock of which its client was not told yet; release it if the ring is always slower than its lease."""
        request, token = ticket.request, ticket.token
        known = local.open.get(request)
        if known is not None:
            known.late += is_late
            if known.late > MOST_LATE:
                del local.open[request]
                self._submissions.submit(Release(request, token))
                text = f"its lease of {ticket.lease:g} s is over before a grant is final here: ask for a longer one"
                is_wait = isinstance(known.command, Wait)
                local.reply(Ended(request, token, Why.EXPIRED) if is_wait else Failed(request, text, not_ready=True))
                return
        self._submissions.submit(Renew(request, token))

    def _reply_leader(
        self, local: LocalClient, candidate: RequestId, token: int, base: float | None, now: float
    ) -> None:
        """Tell a leader its deadline; where nothing of the lease is left, the client is to renew before it begins."""
        state = self._replica.state
        assert state is not None
        tenure = state.elections.tenure(candidate)
        if tenure is None or tenure.token != token or tenure.is_ending:
            return  # its end is reported next
        deadline = _deadline(tenure, base)
        local.candidates[candidate].token = token
        local.reply(Leads(candidate, token, deadline if deadline > now else 0.0))

    def _reply_role(self, local: LocalClient, candidate: RequestId, now: float) -> None:
        """Tell a candidate that still leads that it does, as it may have come back from a connection that was lost. Do
        not where something newer is to be reported soon.
        """
        candidacy, state = local.candidates.get(candidate), self._replica.state
        if candidacy is None or state is None:
            return
        leadership = state.elections.of(candidacy.election)
        if leadership.leader == candidate and candidacy.election not in self._news:
            self._reply_leader(local, candidate, leadership.token, None, now)

    def _report_leadership(self, leadership: Leadership, base: float | None, now: float) -> None:
        """Tell candidates of this server whether they lead, and all observers who does; first the one that leads no
        more.
        """
        self._note_leader(leadership)
        audience = self._audiences.get(leadership.election, Audience())
        leader, token = leadership.leader, leadership.token
        for candidate, local in audience.candidates.items():
            candidacy = local.candidates[candidate]
            if candidacy.token and (candidate, candidacy.token) != (leader, token):
                candidacy.token = 0
                local.reply(Leads(candidate, 0))
        if leader is not None and leader in audience.candidates:
            local = audience.candidates[leader]
            if local.candidates[leader].token != token:
                self._reply_leader(local, leader, token, base, now)
        for local in audience.observers.values():
            local.reply(leadership)

    def _note_leader(self, leadership: Leadership) -> None:
        """Note for the administrator that a client of this server leads, or does not any more."""
        election, token = leadership.election, leadership.token
        former = self._led.pop(election, None)
        leader = self._clients.get(leadership.leader.owner.client) if leadership.leader is not None else None
        now = _Led(leader, token) if leader is not None else None
        if former is not None and (now is None or token != former.token):
            self._note_led(election, former, "leads no more", leads=False)
        if now is not None:
            self._led[election] = now
            if former is None or token != former.token:
                self._note_led(election, now, "leads", leads=True)

    def _note_led(self, election: bytes, led: _Led, what: str, *, leads: bool) -> None:
        client = led.client
        text = f"client {client.client.number} ({printable(client.program.encode())}) {what}, token {led.token}"
        fields = event_fields(
            "leadership",
            node=self._replica.member.node_id,
            election=name_as_text(election),
            leads=leads,
            client=client.client.number,
            client_program=client.program,
            token=led.token,
            decides=self._replica.is_primary,
        )
        self._leadership_news.append(LeadershipNews(election, text, fields, client.user))

    def take_leadership_news(self) -> list[LeadershipNews]:
        """Hand over what has happened to elections since the last time."""
        news, self._leadership_news = self._leadership_news, []
        return news


def _deadline(leased: Ticket | Tenure, base: float | None) -> float:
    """Return until when a lease may be relied on that was requested at this time; never where that is not known."""
    return base + usable(leased.lease) if base is not None else -math.inf
