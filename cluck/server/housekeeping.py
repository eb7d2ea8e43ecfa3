"""What a lock server looks after every half second, since no event brings it up.

Places in queues, clients that are lost or do not answer, servers that have ended with theirs, and tokens that run
short.
"""

from __future__ import annotations

import math
from typing import Final

from cluck.commands import ClientId, Gone, Queued, RequestId, Still, Withdraw
from cluck.protocol import Ping
from cluck.server.leases import STANDBY
from cluck.server.local_clients import LocalClient
from cluck.server.replies import Replies
from cluck.server.submissions import Submissions
from cluck.state.machine import LockState
from cpg.replication.identities import ServerId
from cpg.replication.replica import Replica

TICK: Final = 0.5
"""Seconds between two looks."""
PING: Final = 1.0
"""Seconds between two pings of clients with candidates."""
NEAR: Final = 4
"""Waiters at most this far from the front keep saying that they wait, so that they can begin at once when granted."""
RESUME: Final = 10.0
"""Seconds in which a client must come back, or it waits for nothing any more."""


class Housekeeping:
    """The housekeeping of one server."""

    def __init__(
        self,
        replica: Replica[LockState],
        clients: dict[ClientId, LocalClient],
        submissions: Submissions,
        replies: Replies,
        now: float,
    ) -> None:
        self.deadline = now + TICK
        """When `advance` is to be called."""
        self._ended: dict[ServerId, float] = {}
        """Lock servers that have ended with all their clients, as far as the state does not know it yet, and when."""
        self._short_since: float | None = None
        """When tokens were seen to run short."""
        self._replica = replica
        self._clients = clients
        self._submissions = submissions
        self._replies = replies
        self._next_ping = now + PING

    def advance(self, now: float, rank: int | None) -> None:
        """Look after everything, if it is time; `rank`: among the service's leaders, who propose for all."""
        if now < self.deadline:
            return
        self.deadline = now + TICK
        self._replies.on_tick(now)
        self._look_after_the_lost(now)
        if now >= self._next_ping:
            self._next_ping = now + PING
            self._ping()
        if self._replica.is_primary:
            self._submissions.refuse_unrecorded(now)
            self._tell_places(now)
            self._look_after_the_cluster(now, rank)

    # ---- those who wait

    def _tell_places(self, now: float) -> None:
        """Tell waiters their places; those near the front say that they still wait."""
        state = self._replica.state
        assert state is not None
        moved = state.table.moved.copy()
        state.table.moved.clear()
        names: dict[bytes, None] = {}
        for client in self._clients.values():
            for request in client.open:
                ticket = state.table.ticket(request)
                if ticket is not None and not ticket.token:
                    names[ticket.name] = None
        for name in names:
            lock = state.table.locks[name]
            is_told = name in moved and self._replies.is_resumed
            for place, ticket in enumerate(lock.waiting if is_told else lock.nearest(NEAR)):
                local = self._clients.get(ticket.request.owner.client)
                known = local.open.get(ticket.request) if local is not None else None
                if local is None or known is None:
                    continue
                ahead = len(lock.holders) + place
                if is_told and known.ahead != ahead:
                    known.ahead = ahead
                    local.reply(Queued(ticket.request, ahead))
                if place < NEAR and local.send is not None and now - (known.sent or -math.inf) > ticket.lease / 3:
                    self._submissions.submit(Still(ticket.request))

    # ---- clients that are lost, or stuck

    def lose(self, local: LocalClient, now: float, *, dead: bool) -> None:
        """End a client's connection; `dead`: its process has ended as well, or it has said goodbye."""
        local.send = None
        local.lost = now
        if dead or self._has_nothing(local):
            self._forget(local)

    def _look_after_the_lost(self, now: float) -> None:
        """Withdraw the requests of clients that have not come back; what they hold stays until it expires."""
        for local in list(self._clients.values()):
            if local.lost is None or now - local.lost <= RESUME:
                continue
            if self._has_nothing(local):
                self._forget(local)
            elif not local.is_given_up and self._replica.is_primary:
                kept = {request for request in local.open if self._is_granted(request)}
                local.is_given_up = not kept
                self._submissions.submit_all(Withdraw(request) for request in local.open if request not in kept)

    def _has_nothing(self, local: LocalClient) -> bool:
        """Return whether nothing is lost with a client; it may still hold what an earlier life of it granted."""
        if not local.is_known:
            return True
        state = self._replica.state if self._replica.is_primary else None
        if state is None or local.open or local.held:
            return False
        return not (state.table.has_tickets(local.client) or state.elections.have_led(local.client))

    def _is_granted(self, request: RequestId) -> bool:
        """Return whether a client may rely on a request's grant: an earlier life may have reported it."""
        state = self._replica.state
        leased = state.lease_of(request) if state is not None else None
        return leased is not None and leased.token != 0

    def _forget(self, local: LocalClient) -> None:
        """Forget a client that is not there any more, and free what it had."""
        self._clients.pop(local.client, None)
        local.leave()
        self._submissions.forget(local)
        if local.is_known:
            self._submissions.submit(Gone(local.client))

    def _ping(self) -> None:
        """Ping clients with candidates: those that do not answer are not chosen."""
        for local in self._clients.values():
            if local.candidates:
                local.strikes += 1
                local.reply(Ping())

    # ---- for all servers

    def on_server_ended(self, server: ServerId, now: float) -> None:
        """Note that another server has ended together with all its clients."""
        self._ended[server] = now

    def _look_after_the_cluster(self, now: float, rank: int | None) -> None:
        """Have more tokens in time, and clients forgotten that have ended with their server."""
        state = self._replica.state
        assert state is not None
        self._short_since = (self._short_since or now) if state.tokens.run_short else None
        if self._short_since is not None and self._is_turn(self._short_since, now, rank):
            self._replica.begin_epoch()
        for server, since in list(self._ended.items()):
            clients = state.clients_of(server)
            if not clients:
                del self._ended[server]
            elif self._is_turn(since, now, rank):
                self._submissions.submit_all(map(Gone, clients))

    @staticmethod
    def _is_turn(since: float, now: float, rank: int | None) -> bool:
        """Return whether the leader of this rank is to propose by now what has been due since then."""
        return rank is not None and since + rank * STANDBY <= now
