"""A client's candidates, and the elections that it looks at, without I/O: a part of `cluck.client.session`.

A leadership is held as a lock is (`cluck.client.session_locks`): renewed each third of its lease, and over by the own
clock where no renewal came back in time, whatever the server says or does not say (ruling E10). It never begins again
under its token: who was silent stands on, and is told of a new one. What runs only while a candidate leads is counted
(`works`): the others are told that its leadership is over when that has come to its end, not before.

A lock server that has candidates among its clients pings them each second. Three that are not answered mean that the
client is stuck, and it is not chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from cluck.client.clock_comparison import Comparison
from cluck.client.open_requests import Book
from cluck.client.requests import Candidacy, Observation, Publication, refusal
from cluck.client.session_locks import checked
from cluck.commands import (
    LARGEST_ADDRESS,
    LARGEST_BLOB,
    LARGEST_PORT,
    LEAST_LEASE,
    LONGEST_AGE,
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
from cpg.arguments import seconds, whole
from totem.text import quoted

LEASE: Final = 3.0
"""Seconds that a candidate leads without renewal, if nothing else is asked for."""
GRACE: Final = 1.0
"""Seconds behind the lease, if nothing else is asked for."""
EXPIRED: Final = "its lease ended without renewal"
UNKNOWN: Final = "the lock server does not know this candidate any more"


class Candidacies:
    """The candidates of one client."""

    def __init__(self, book: Book, clock: Callable[[], float], comparison: Comparison) -> None:
        self.deadline = math.inf
        """When `advance` has something to do, at the earliest."""
        self.actions: Final[dict[type, Callable[[Any], None]]] = {
            Ping: self._on_ping,
            Standing: self._on_standing,
            Leads: self._on_leads,
            Published: self._on_published,
            Leadership: self._on_leadership,
        }
        self._book = book
        self._clock = clock
        self._comparison = comparison
        self._started = clock()
        self._observations: dict[bytes, list[Observation]] = {}

    # ---- time

    def advance(self) -> None:
        """Do what is due: renew, and lead no more where no renewal came back in time."""
        now = self._clock()
        for candidacy in self._book.all(Candidacy):
            if now >= candidacy.due:
                self._look(candidacy, now)
        self.deadline = min((candidacy.due for candidacy in self._book.all(Candidacy)), default=math.inf)

    def _look(self, candidacy: Candidacy, now: float) -> None:
        if now >= candidacy.deadline:
            self._step_down(candidacy, EXPIRED)
        else:
            self._renew(candidacy, candidacy.leading)
            candidacy.next_renewal = now + candidacy.command.lease / 3

    def _renew(self, candidacy: Candidacy, token: int) -> None:
        self._book.say(Renew(candidacy.id, token))

    def _on_ping(self, ping: Ping) -> None:
        self._book.say(Pong())

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
    ) -> Candidacy:
        """Be a candidate; the arguments are those of `cluck.commands.Stand` (`duration`: its lease)."""
        if len(address) > LARGEST_ADDRESS:
            raise ValueError(f"address={address!r}: {len(address)} bytes, and {LARGEST_ADDRESS} is the most")
        whole("port", port, 0, LARGEST_PORT)
        interval = seconds("restart_interval", restart_interval, 0.0, LONGEST_AGE)
        lease, grace = checked("duration", duration, LEAST_LEASE), checked("grace", grace, 0.0)
        request = self._book.next(task)
        command = Stand(request, election, address, port, restart_interval=interval, lease=lease, grace=grace)
        candidacy = Candidacy(command, changed, self._clock)
        return self._book.begin(candidacy, self._stand(candidacy))

    def _stand(self, candidacy: Candidacy) -> Stand:
        """Say of a candidate what is true now."""
        running = self._clock() - self._started
        settled = min(self._book.settled, candidacy.id.number - 1)
        candidacy.command = replace(candidacy.command, request=candidacy.id, running=running, settled=settled)
        return candidacy.command

    def step_back(self, candidacy: Candidacy) -> None:
        """Be no candidate any more, and no leader."""
        if not candidacy.is_over and not candidacy.is_ending:
            candidacy.is_ending = True
            self._step_down(candidacy, "it is no candidate any more")
            self._say_last(candidacy)

    def resign(self, candidacy: Candidacy, to: RequestId | None) -> None:
        """Lead no more, in favour of another candidate or of whoever is next, and stand on."""
        if not isinstance(to, RequestId | None):
            raise TypeError(f"to={to!r}: the id of a candidate, or None")
        token = candidacy.token
        if token:
            candidacy.resigns = Resign(candidacy.id, token, to)
            self._step_down(candidacy, "it was given up")
            self._say_last(candidacy)

    def begin_work(self, candidacy: Candidacy) -> None:
        """Something begins that runs only while this candidate leads; until `end_work` it may act in its name."""
        candidacy.works += 1

    def end_work(self, candidacy: Candidacy) -> None:
        """It has come to its end."""
        candidacy.works -= 1
        self._say_last(candidacy)

    def _say_last(self, candidacy: Candidacy) -> None:
        """Say that nothing is done by a leadership any more, when that is so."""
        if not candidacy.works and not candidacy.is_over:
            if candidacy.is_ending:
                self._book.say(Withdraw(candidacy.id))
            elif candidacy.resigns is not None:
                self._book.say(candidacy.resigns)

    def publish(self, task: int, candidacy: Candidacy, blob: bytes, changed: Callable[[], None]) -> Publication:
        """Attach something to the leadership. Raises `LeadershipLost` where there is none."""
        if len(blob) > LARGEST_BLOB:
            raise ValueError(f"{len(blob)} bytes to publish: {LARGEST_BLOB} is the most")
        token = candidacy.token
        if not token:
            raise _leadership_lost(candidacy)
        request = self._book.next(task)
        command = Publish(request, candidacy.command.election, token, blob, self._book.settled)
        publication = Publication(command, changed, candidacy)
        candidacy.publications.append(publication)
        return self._book.begin(publication, command)

    def _on_standing(self, standing: Standing) -> None:
        candidacy = self._book.find(standing.request, Candidacy)
        if candidacy is not None:
            self._book.know(candidacy)
            candidacy.is_standing = True
            candidacy.changed()

    def _on_leads(self, leads: Leads) -> None:
        candidacy = self._book.find(leads.candidate, Candidacy)
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

    def _lead(self, candidacy: Candidacy, token: int, deadline: float) -> None:
        """Lead, or lead on, until then; where that is over already, begin with the next renewal."""
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
            self._book.changed()
        if is_new:
            candidacy.resigns = None
            candidacy.changed()

    def _begin_late(self, candidacy: Candidacy, token: int) -> None:
        """Nothing was left of the lease."""
        if token > candidacy.former and not (candidacy.leading or candidacy.is_ending or candidacy.is_over):
            self._renew(candidacy, token)

    def _step_down(self, candidacy: Candidacy, why: str) -> None:
        """Lead no more: first the flag, then who follows it, then what was to be published."""
        if candidacy.leading:
            candidacy.why_ended = why
            candidacy.former, candidacy.leading = candidacy.leading, 0
            candidacy.deadline, candidacy.next_renewal = 0.0, math.inf
            candidacy.ends += 1
            candidacy.changed()
        for publication in list(candidacy.publications):
            self._book.fail(publication, _leadership_lost(candidacy))

    def _on_published(self, published: Published) -> None:
        publication = self._book.find(published.request, Publication)
        if publication is not None:
            publication.version = published.version
            self._book.end(publication)

    def observe(self, election: bytes, changed: Callable[[], None]) -> Observation:
        """Look at an election from now on."""
        if election not in self._observations and len(self._observations) >= MOST_OBSERVED:
            raise Overflow(f"this client observes {MOST_OBSERVED} elections, which is as many as it may")
        observation = Observation(election, changed)
        others = self._observations.setdefault(election, [])
        if not others:
            self._book.say(Observe(election))
        elif others[0].last is not None:
            observation.tell(others[0].last)
        others.append(observation)
        return observation

    def ignore(self, observation: Observation) -> None:
        """Look no more."""
        others = self._observations[observation.election]
        others.remove(observation)
        if not others:
            del self._observations[observation.election]
            self._book.say(Ignore(observation.election))

    def observing(self) -> Iterator[Observation]:
        """Return all that look."""
        return (observation for some in list(self._observations.values()) for observation in list(some))

    def _on_leadership(self, leadership: Leadership) -> None:
        for observation in list(self._observations.get(leadership.election, ())):
            observation.tell(leadership)

    # ---- ends

    def refused(self, request: Candidacy | Publication, refused: Refused) -> None:
        """A request will not get what it is for."""
        if isinstance(request, Publication):
            self._book.fail(request, _leadership_lost(request.candidacy))
            return
        self._step_down(request, UNKNOWN)
        if request.is_ending:
            self._book.end(request)
        elif refused.why in (Why.SETTLED, Why.WITHDRAWN):
            self._stand_again(request)
        else:
            self._book.fail(request, refusal(f"election {quoted(request.command.election)}", refused))

    def failed(self, request: Candidacy | Publication, failure: LockError) -> None:
        """A request was not given to the group."""
        if isinstance(request, Candidacy):
            self._step_down(request, str(failure))
        self._book.fail(request, failure)

    # ---- connections

    def lose(self) -> None:
        """The connection was lost: who leads does so until its deadline; who looks knows of nobody."""
        for candidacy in self._book.all(Candidacy):
            candidacy.is_standing = False
        for observation in self.observing():
            observation.lose_sight()

    def close(self) -> None:
        """The client ends: nobody leads."""
        for candidacy in self._book.all(Candidacy):
            self._step_down(candidacy, "the client has ended")
        self.lose()

    def resume(self) -> None:
        """Say again what is open."""
        self._stand_on()
        self._observe_again()

    def _stand_on(self) -> None:
        for candidacy in self._book.all(Candidacy):
            if not candidacy.is_ending:
                self._book.say(self._stand(candidacy))
                if candidacy.leading:
                    self._renew(candidacy, candidacy.leading)
                for publication in candidacy.publications:
                    self._book.say(publication.command)
            self._say_last(candidacy)

    def begin_anew(self) -> None:
        """The server does not know this client: its candidates are other ones."""
        for candidacy in self._book.all(Candidacy):
            self._step_down(candidacy, UNKNOWN)
            if candidacy.is_ending:
                self._book.end(candidacy)
            else:
                self._stand_again(candidacy)
        self._observe_again()

    def _observe_again(self) -> None:
        for election in self._observations:
            self._book.say(Observe(election))

    def _stand_again(self, candidacy: Candidacy) -> None:
        """Make a new candidate of one that is none any more, and still wants to be."""
        self._book.forget(candidacy)
        candidacy.resigns = None
        candidacy.id = self._book.draw(candidacy.id.owner.task)
        self._book.begin(candidacy, self._stand(candidacy))


def _leadership_lost(candidacy: Candidacy) -> LeadershipLost:
    return LeadershipLost(f"election {quoted(candidacy.command.election)}: this candidate does not lead (any more)")
