"""What a lock server looks after by itself, every half second: what nobody brings up.

Places in queues, clients that are lost or do not answer, servers that have ended with theirs, tokens that run short.
"""

from __future__ import annotations

import math
from typing import Final

from cluck.canvass import Canvass
from cluck.clients import LocalClient
from cluck.commands import Client, Gone, Queued, RequestId, Server, Still, Withdraw
from cluck.outgoing import Outgoing
from cluck.protocol import Ping
from cluck.replica import Replica
from cluck.telling import Teller

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


class Upkeep:
    """What one server has to look after."""

    def __init__(
        self,
        replica: Replica,
        clients: dict[Client, LocalClient],
        outgoing: Outgoing,
        teller: Teller,
        now: float,
    ) -> None:
        self.deadline = now + TICK
        """When `advance` is to be called."""
        self.ended: set[Server] = set()
        """Lock servers that have ended with all their clients, as far as the state does not know it yet."""
        self._replica = replica
        self._clients = clients
        self._outgoing = outgoing
        self._teller = teller
        self._next_ping = now + PING

    def advance(self, now: float, *, is_first: bool) -> None:
        """Look after everything, if it is time; `is_first`: what one server proposes for all, this one does."""
        if now < self.deadline:
            return
        self.deadline = now + TICK
        self._teller.on_tick(now)
        self._look_after_the_lost(now)
        if now >= self._next_ping:
            self._next_ping = now + PING
            self._ping()
        if self._replica.is_primary:
            self._outgoing.refuse_unrecorded(now)
            self._tell_places(now)
            self._look_after_the_cluster(is_first=is_first)

    # ---- those who wait

    def _tell_places(self, now: float) -> None:
        """Tell those who wait of their places; those near the front say that they still do."""
        state = self._replica.state
        assert state is not None
        waiting = {}
        for local in self._clients.values():
            for request, known in local.open.items():
                ticket = state.table.ticket(request)
                if ticket is not None and not ticket.token:
                    waiting[request] = local, known, ticket
        moved = state.table.moved.copy()
        state.table.moved.clear()
        for name in dict.fromkeys(ticket.name for _, _, ticket in waiting.values()):
            lock = state.table.locks[name]
            for place, ticket in enumerate(lock.waiting):
                if ticket.request not in waiting:
                    continue
                local, known, _ = waiting[ticket.request]
                ahead = len(lock.holders) + place
                if name in moved and self._teller.is_resumed and known.ahead != ahead:
                    known.ahead = ahead
                    local.tell(Queued(ticket.request, ahead))
                if place < NEAR and local.put is not None and now - (known.sent or -math.inf) > ticket.lease / 3:
                    self._outgoing.say(Still(ticket.request))

    # ---- clients that are lost, or stuck

    def lose(self, local: LocalClient, now: float, *, dead: bool) -> None:
        """A client's connection has ended; `dead`: so has its process, or it has said goodbye."""
        local.put = None
        local.lost = now
        if dead or self._has_nothing(local):
            self._forget(local)

    def _look_after_the_lost(self, now: float) -> None:
        """Clients that have not come back wait for nothing any more; what they hold stays until it expires."""
        for local in list(self._clients.values()):
            if local.lost is None or now - local.lost <= RESUME:
                continue
            if self._has_nothing(local):
                self._forget(local)
            elif not local.is_given_up and self._replica.is_primary:
                local.is_given_up = True
                self._outgoing.say_all(Withdraw(request) for request in local.open if not self._is_granted(request))

    def _has_nothing(self, local: LocalClient) -> bool:
        """Whether nothing is lost with a client; it may still hold what an earlier life of this server granted."""
        if not local.is_known:
            return True
        state = self._replica.state if self._replica.is_primary else None
        return state is not None and not (local.open or local.held or state.table.has_tickets(local.client))

    def _is_granted(self, request: RequestId) -> bool:
        """Whether a client may rely on what it asked for: it may have been told by an earlier life of this server."""
        ticket = self._replica.ticket(request)
        return ticket is not None and ticket.token != 0

    def _forget(self, local: LocalClient) -> None:
        """A client is not there any more, and what it had is free."""
        self._clients.pop(local.client, None)
        if local.is_known:
            self._outgoing.say(Gone(local.client))

    def _ping(self) -> None:
        """Ask clients with candidates whether they run; have those replaced that lead and do not."""
        state = self._replica.state
        for local in self._clients.values():
            if not local.candidates:
                continue
            local.strikes += 1
            if local.strikes > STRIKES and state is not None and self._replica.is_primary:
                self._outgoing.say_all(Canvass.depose(local, state.leaders.elections))
            local.tell(Ping())

    # ---- for all servers

    def _look_after_the_cluster(self, *, is_first: bool) -> None:
        """Have more tokens in time, and clients forgotten that have ended with their server."""
        state = self._replica.state
        assert state is not None
        if is_first:
            if state.tokens.run_short:
                self._replica.begin_epoch()
            for server in self.ended:
                self._outgoing.say_all(Gone(client) for client in state.clients_of(server))
        self.ended = {server for server in self.ended if state.clients_of(server)}
