"""A client's candidates, and the elections that it observes, without I/O: a part of `cluck.client.session`.

A leadership is held as a lock is (`cluck.client.session_locks`). It is renewed each third of its lease, and ends by the
own clock where no renewal came back in time, whatever the server says or does not say (ruling E10). It never begins
again under its token: a candidate that was silent remains one, and may lead under a new token. Tasks that run only
while a candidate leads are counted (`works`). The others hear that the leadership is over when these have ended, not
before.

A lock server that has candidates among its clients pings them each second. A client that does not answer three pings
is stuck, and its candidates are not chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from cluck.client.clock_comparison import Comparison
from cluck.client.open_requests import OpenRequests
from cluck.client.requests import ClientCandidacy, Observation, Publication, refusal
from cluck.commands import (
    LARGEST_BLOB,
    Leadership,
    Publish,
    Published,
    Refused,
    Renew,
    RequestId,
    Resign,
    Stand,
    Standing,
    Why,
    Withdraw,
)
from cluck.errors import LeadershipLost, LockError, Overflow
from cluck.protocol import MOST_OBSERVED, Ignore, Leads, Observe, Ping, Pong
from totem.text import quoted

LEASE: Final = 3.0
"""Seconds that a candidate leads without renewal, unless the program says otherwise."""
GRACE: Final = 1.0
"""Seconds after the lease, unless the program says otherwise."""
EXPIRED: Final = "its lease ended without renewal"
UNKNOWN: Final = "the lock server does not know this candidate any more"


class ClientElections:
    """The candidates of one client, and the elections that it observes."""

    def __init__(self, requests: OpenRequests, clock: Callable[[], float], comparison: Comparison) -> None:
        self.deadline = math.inf
        """The earliest time at which `advance` has something to do."""
        self.actions: Final[dict[type, Callable[[Any], None]]] = {
            Ping: self._on_ping,
            Standing: self._on_standing,
            Leads: self._on_leads,
            Published: self._on_published,
            Leadership: self._on_leadership,
        }
        self._requests = requests
        self._clock = clock
        self._comparison = comparison
        self._started = clock()
        self._observations: dict[bytes, list[Observation]] = {}

    # ---- time

    def advance(self) -> None:
        """Do what is due: renew leaderships, and end those whose renewals did not come back in time."""
        now = self._clock()
        for candidacy in self._requests.all(ClientCandidacy):
            if now >= candidacy.due:
                self._look(candidacy, now)
        self.deadline = min((candidacy.due for candidacy in self._requests.all(ClientCandidacy)), default=math.inf)

    def _look(self, candidacy: ClientCandidacy, now: float) -> None:
        if now >= candidacy.deadline:
            self._step_down(candidacy, EXPIRED)
        else:
            self._renew(candidacy, candidacy.leading)
            candidacy.next_renewal = now + candidacy.command.lease / 3

    def _renew(self, candidacy: ClientCandidacy, token: int) -> None:
        self._requests.submit(Renew(candidacy.id, token))

    def _on_ping(self, ping: Ping) -> None:
        self._requests.submit(Pong())

    # ---- candidates

    def stand(
        self,
        task: int,
        election: bytes,
        changed: Callable[[], None],
        *,
        address: bytes = b"",
        port: int = 0,
        restart_interval: float = 0.0,
        duration: float = LEASE,
        grace: float = GRACE,
    ) -> ClientCandidacy:
        """Stand as a candidate. The arguments are those of `cluck.commands.Stand` (`duration` is its lease)."""
        request = self._requests.next_id(task)
        command = Stand(
            request, election, address, port, restart_interval=restart_interval, lease=duration, grace=grace
        )
        candidacy = ClientCandidacy(command, changed, self._clock)
        return self._requests.begin(candidacy, self._stand(candidacy))

    def _stand(self, candidacy: ClientCandidacy) -> Stand:
        """Return a candidate's command, with what is true now."""
        running = self._clock() - self._started
        settled = min(self._requests.settled, candidacy.id.number - 1)
        candidacy.command = replace(candidacy.command, request=candidacy.id, running=running, settled=settled)
        return candidacy.command

    def step_back(self, candidacy: ClientCandidacy) -> None:
        """Withdraw a candidate, and end its leadership."""
        if not candidacy.is_over and not candidacy.is_ending:
            candidacy.is_ending = True
            self._step_down(candidacy, "it is not a candidate any more")
            self._submit_last(candidacy)

    def resign(self, candidacy: ClientCandidacy, to: RequestId | None) -> None:
        """End a leadership, in favour of another candidate or of whoever is next, and remain a candidate."""
        if not isinstance(to, RequestId | None):
            raise TypeError(f"to={to!r}: the id of a candidate, or None")
        token = candidacy.token
        if token:
            candidacy.resigns = Resign(candidacy.id, token, to)
            self._step_down(candidacy, "it was given up")
            self._submit_last(candidacy)

    def begin_work(self, candidacy: ClientCandidacy) -> None:
        """Count a task that runs only while this candidate leads; until `end_work` it may act as the leader."""
        candidacy.works += 1

    def end_work(self, candidacy: ClientCandidacy) -> None:
        """Count a task as ended."""
        candidacy.works -= 1
        self._submit_last(candidacy)

    def _submit_last(self, candidacy: ClientCandidacy) -> None:
        """Report the end of a leadership, when no task acts as the leader any more."""
        if not candidacy.works and not candidacy.is_over:
            if candidacy.is_ending:
                self._requests.submit(Withdraw(candidacy.id))
            elif candidacy.resigns is not None:
                self._requests.submit(candidacy.resigns)

    def publish(self, task: int, candidacy: ClientCandidacy, blob: bytes, changed: Callable[[], None]) -> Publication:
        """Attach a blob to the leadership.

        Raises:
            LeadershipLost: The candidate does not lead.
        """
        if len(blob) > LARGEST_BLOB:
            raise ValueError(f"{len(blob)} bytes to publish: {LARGEST_BLOB} is the most")
        token = candidacy.token
        if not token:
            raise _leadership_lost(candidacy)
        request = self._requests.next_id(task)
        command = Publish(request, candidacy.command.election, token, blob, self._requests.settled)
        publication = Publication(command, changed, candidacy)
        candidacy.publications.append(publication)
        return self._requests.begin(publication, command)

    def _on_standing(self, standing: Standing) -> None:
        candidacy = self._requests.find(standing.request, ClientCandidacy)
        if candidacy is not None:
            self._requests.mark_known(candidacy)
            candidacy.is_standing = True
            candidacy.changed()

    def _on_leads(self, leads: Leads) -> None:
        candidacy = self._requests.find(leads.candidate, ClientCandidacy)
        if candidacy is None or candidacy.is_ending:
            return
        if self._clock() >= candidacy.deadline:
            self._step_down(candidacy, EXPIRED)
        elif leads.token != candidacy.leading:
            self._step_down(candidacy, "its lock server has taken it back")
        if not leads.token:
            candidacy.resigns = None
        elif leads.token > candidacy.former:
            self._lead(candidacy, leads.token, self._comparison.own(leads.deadline))

    def _lead(self, candidacy: ClientCandidacy, token: int, deadline: float) -> None:
        """Lead until a deadline, or continue to; where it has passed already, begin with the next renewal."""
        if deadline <= self._clock():
            if not candidacy.leading:
                self._comparison.compare(candidacy, partial(self._begin_late, candidacy, token))
            return
        is_new = not candidacy.leading
        candidacy.leading = token
        candidacy.deadline = max(candidacy.deadline, deadline)
        candidacy.next_renewal = deadline - candidacy.command.lease * 2 / 3
        if candidacy.due < self.deadline:
            self.deadline = candidacy.due
            self._requests.changed()
        if is_new:
            candidacy.resigns = None
            candidacy.changed()

    def _begin_late(self, candidacy: ClientCandidacy, token: int) -> None:
        """Begin with the next renewal: nothing was left of the lease."""
        if token > candidacy.former and not (candidacy.leading or candidacy.is_ending or candidacy.is_over):
            self._renew(candidacy, token)

    def _step_down(self, candidacy: ClientCandidacy, why: str) -> None:
        """End a leadership: first the flag, then whoever follows the roles, then the publications."""
        if candidacy.leading:
            candidacy.why_ended = why
            candidacy.former, candidacy.leading = candidacy.leading, 0
            candidacy.deadline, candidacy.next_renewal = 0.0, math.inf
            candidacy.ends += 1
            candidacy.changed()
        for publication in list(candidacy.publications):
            self._requests.fail(publication, _leadership_lost(candidacy))

    def _on_published(self, published: Published) -> None:
        publication = self._requests.find(published.request, Publication)
        if publication is not None:
            publication.version = published.version
            self._requests.end(publication)

    def observe(self, election: bytes, changed: Callable[[], None]) -> Observation:
        """Observe an election from now on."""
        if election not in self._observations and len(self._observations) >= MOST_OBSERVED:
            raise Overflow(f"this client observes {MOST_OBSERVED} elections, which is as many as it may")
        observation = Observation(election, changed)
        others = self._observations.setdefault(election, [])
        if not others:
            self._requests.submit(Observe(election))
        elif others[0].last is not None:
            observation.update(others[0].last)
        others.append(observation)
        return observation

    def ignore(self, observation: Observation) -> None:
        """Stop observing."""
        others = self._observations[observation.election]
        others.remove(observation)
        if not others:
            del self._observations[observation.election]
            self._requests.submit(Ignore(observation.election))

    def observing(self) -> Iterator[Observation]:
        """Return all observations."""
        return (observation for some in list(self._observations.values()) for observation in list(some))

    def _on_leadership(self, leadership: Leadership) -> None:
        for observation in list(self._observations.get(leadership.election, ())):
            observation.update(leadership)

    # ---- ends

    def refused(self, request: ClientCandidacy | Publication, refused: Refused) -> None:
        """Take a refusal: the request will not be granted."""
        if isinstance(request, Publication):
            self._requests.fail(request, _leadership_lost(request.candidacy))
            return
        self._step_down(request, UNKNOWN)
        if request.is_ending:
            self._requests.end(request)
        elif refused.why in (Why.SETTLED, Why.WITHDRAWN):
            self._stand_again(request)
        else:
            self._requests.fail(request, refusal(f"election {quoted(request.command.election)}", refused))

    def failed(self, request: ClientCandidacy | Publication, failure: LockError) -> None:
        """Take a failure: the request was not sent to the group."""
        if isinstance(request, ClientCandidacy):
            self._step_down(request, str(failure))
        self._requests.fail(request, failure)

    # ---- connections

    def lose(self) -> None:
        """Note the loss of the connection: leaders lead until their deadlines, observers know of no leader."""
        for candidacy in self._requests.all(ClientCandidacy):
            candidacy.is_standing = False
        for observation in self.observing():
            observation.lose_sight()

    def close(self, why: str) -> None:
        """End with the client: no candidate leads any more."""
        for candidacy in self._requests.all(ClientCandidacy):
            self._step_down(candidacy, why)
        self.lose()

    def resume(self) -> None:
        """Submit again what is open."""
        self._resume_candidates()
        self._observe_again()

    def _resume_candidates(self) -> None:
        for candidacy in self._requests.all(ClientCandidacy):
            if not candidacy.is_ending:
                self._requests.submit(self._stand(candidacy))
                if candidacy.leading:
                    self._renew(candidacy, candidacy.leading)
                for publication in candidacy.publications:
                    self._requests.submit(publication.command)
            self._submit_last(candidacy)

    def begin_anew(self) -> None:
        """Make new candidates of those of a client that the server does not know."""
        for candidacy in self._requests.all(ClientCandidacy):
            self._step_down(candidacy, UNKNOWN)
            if candidacy.is_ending:
                self._requests.end(candidacy)
            else:
                self._stand_again(candidacy)
        self._observe_again()

    def _observe_again(self) -> None:
        for election in self._observations:
            self._requests.submit(Observe(election))

    def _stand_again(self, candidacy: ClientCandidacy) -> None:
        """Make a new candidate of one that is no candidate any more, against its will."""
        self._requests.forget(candidacy)
        candidacy.resigns = None
        candidacy.id = self._requests.new_id(candidacy.id.owner.task)
        self._requests.begin(candidacy, self._stand(candidacy))


def _leadership_lost(candidacy: ClientCandidacy) -> LeadershipLost:
    return LeadershipLost(f"election {quoted(candidacy.command.election)}: this candidate does not lead (any more)")
