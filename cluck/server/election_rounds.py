"""What a lock server does for elections: it gives its candidates' statuses, names winners, and hurries late ones.

None of it decides: the replicated state takes commands in order, and refuses those that do not fit. The first leader of
the service hurries late ones; where that stands still, the next one does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from heapq import heappop, heappush
from typing import Final

from cluck.commands import (
    LONGEST_AGE,
    Chosen,
    ClientId,
    Close,
    Command,
    Commit,
    Depose,
    Lapsed,
    Leadership,
    Next,
    Rejected,
    RequestId,
    RoundOpened,
    Status,
)
from cluck.server.leases import STANDBY
from cluck.server.local_clients import LocalClient
from cluck.state.elections import Election, Stage
from cpg.replication.identities import ServerId

PATIENCE: Final = 1.0
"""Seconds that a round waits for statuses, and for its winner."""
STRIKES: Final = 3
"""Unanswered pings of a client whose candidates are not to be chosen."""


class ElectionRounds:
    """The open rounds, as one server sees them."""

    def __init__(self, server: ServerId, clients: Mapping[ClientId, LocalClient]) -> None:
        self._server = server
        self._clients = clients
        self._late: dict[bytes, tuple[float, Close | Depose]] = {}
        """By election: what is to be proposed, if nothing comes before, and when."""
        self._times: list[tuple[float, bytes]] = []
        """A heap of these times, and of some that do not count any more."""

    def reset(self) -> None:
        """Begin anew, with what is pending in the state."""
        self._late.clear()
        self._times.clear()

    def on_outcome(
        self, outcome: RoundOpened | Chosen | Leadership | Rejected | Lapsed, now: float
    ) -> Iterator[Command]:
        """Act on an outcome of an election; return the commands to submit."""
        match outcome:
            case RoundOpened(election, number, candidates):
                self._wait(now + PATIENCE, election, Close(election, number))
                yield from self._statuses(candidates, number, now)
            case Chosen(election, number, candidate, is_next):
                self._wait(now + 2 * PATIENCE, election, Depose(election, number, candidate))
                if self._runs(candidate):
                    yield (Commit if is_next else Next)(election, number, candidate)

    def _statuses(self, candidates: tuple[RequestId, ...], number: int, now: float) -> Iterator[Status]:
        for candidate in candidates:
            local = self._clients.get(candidate.owner.client)
            candidacy = local.candidates.get(candidate) if local is not None else None
            if candidacy is not None and self._runs(candidate):
                running = min(max(0.0, now - candidacy.since), LONGEST_AGE)
                yield Status(candidate, number, running, candidacy.restart_interval)

    def _runs(self, candidate: RequestId) -> bool:
        """Return whether a candidate is this server's, and answers."""
        local = self._clients.get(candidate.owner.client)
        return local is not None and local.send is not None and local.strikes < STRIKES

    def _wait(self, time: float, election: bytes, command: Close | Depose) -> None:
        self._late[election] = time, command
        heappush(self._times, (time, election))

    def deadline(self, rank: int) -> float:
        """Return when to call `due`, for the leader of the service of this rank."""
        return self._times[0][0] + rank * STANDBY if self._times else math.inf

    def due(self, now: float, elections: Mapping[bytes, Election], rank: int | None) -> Iterator[Command]:
        """Return what the leader of the service of this rank is to propose by now: 0 is the first; None: nobody
        proposes.
        """
        while self._times and self._times[0][0] + (rank or 0) * STANDBY <= now:
            time, name = heappop(self._times)
            since, command = self._late.get(name, (math.inf, None))
            if since != time or command is None:
                continue  # something has come in between
            election = elections.get(name)
            if election is None or election.round != command.round or election.stage is Stage.LED:
                del self._late[name]
                continue
            self._wait(now + PATIENCE, name, command)
            if rank is not None and not election.waits:
                yield command
