"""Elections: who leads, in total order; the selection is that of FastDFS's trackers (ruling E8).

One of the candidates of an election leads. Where none does, a round asks them for their statuses. The best of the
statuses that were ordered before the round was closed wins it. The winner is named (`Next`), then it leads (`Commit`),
with a fencing token larger than all before. The order of selection:

1. Who leads already. The leader is a field of this state, not of a status: it stays until its candidacy ends, it
   resigns, or it is deposed, and no round is opened before. So no round asks a leader, and this criterion is met by
   there being no round.
2. The longer running time, then the shorter restart interval, both in whole steps of `STEP`, so that candidates which
   are about the same are the same to all servers.
3. The greater address, as bytes, then the greater port, then who has been a candidate for longer.

A round is known by its number, which grows as long as the election is known: commands of another round have no effect.
A candidate that comes during a round takes no part in it; one that goes is not waited for. The last leader, or a
candidate that was deposed, sits out the next round, unless nobody else is there.

A leadership is held by a lease, as a lock is (ruling E10). A leader that renews it in time continues. Where a lease
comes to its end (`Revoke`), a successor is chosen meanwhile, in vain if the leader renews after all. A candidate that
cannot be reached leads no more, but may not know. So a `Tenure` lasts until its end is sure: the leader has resigned,
or has withdrawn, its client has verifiably ended, or lease and grace are over (`Expire`). The candidate that is named
next leads from then on; no earlier `Commit` counts. A candidate that comes back in time, and renews, leads on.

Observers are told of each leadership, and of its end before anything of the next one. They are told of no end without a
leadership before.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Iterator
from operator import itemgetter
from typing import Final, NamedTuple

from msgspec import Struct, field

from cluck.commands import (
    MOST_UNSETTLED,
    Address,
    Blob,
    Chosen,
    ClientId,
    Close,
    Commit,
    Depose,
    Expire,
    Grace,
    Lapsed,
    LeaderOutcome,
    Leadership,
    Lease,
    Name,
    Next,
    Port,
    Publish,
    Published,
    Refused,
    Rejected,
    Renew,
    Renewed,
    RequestId,
    Resign,
    Revoke,
    RoundOpened,
    Stand,
    Standing,
    Status,
    Why,
    Withdraw,
)
from cluck.state.request_history import Places, Pool, RequestHistory
from cluck.state.tokens import Tokens
from cpg.replication.identities import Number

STEP: Final = 300
"""Seconds: the interval at which FastDFS's trackers save their times."""
MOST_CANDIDATES: Final = 1_000
"""Of one election."""
MOST_STANDING: Final = 100_000
"""Candidates of all elections."""
MOST_OF_CLIENT: Final = MOST_UNSETTLED
"""Candidates of one client."""
MOST_ELECTIONS: Final = 10_000
MOST_PUBLISHED: Final = 64 * 1024 * 1024
"""Bytes that the leaders of all elections have attached."""


class Merits(NamedTuple):
    """What a candidate's status comes to; the greater one is preferred."""

    steps_running: int
    minus_steps_between: int


class ElectionCandidate(Struct, array_like=True, eq=False):
    """A candidate."""

    request: RequestId
    address: Address
    port: Port
    lease: Lease
    grace: Grace
    round: Number = 0
    """The last one in which it was asked."""
    merits: Merits | None = None
    """Its answer there."""


class Stage(enum.IntEnum):
    """How far an election is."""

    ASKED = 0
    """A round is open."""
    CHOSEN = 1
    """The round was closed, and has a winner."""
    NAMED = 2
    """The winner, or the candidate that a leader wished for, is about to lead, when nobody else does any more."""
    LED = 3
    """Somebody leads, and no successor is being chosen."""


class Tenure(Struct, array_like=True, eq=False):
    """A leadership, from its beginning until its end is sure."""

    request: RequestId
    """The candidate's."""
    name: Name
    """Of the election."""
    lease: Lease
    grace: Grace
    token: Number
    renewals: Number = 0
    is_ending: bool = False
    """It is no candidate any more, and so leads no more, but may not know. If it comes back in time, it leads on."""
    version: Number = 0
    """Of the data that the leader has attached; 0: none."""
    blob: Blob = b""


class Election(Struct, array_like=True, eq=False):
    """One election: its candidates, in the order in which they came, and its leader. Without any it is forgotten."""

    name: Name
    candidates: list[ElectionCandidate] = field(default_factory=list)
    round: Number = 0
    """The latest one."""
    stage: Stage = Stage.ASKED
    chosen: RequestId | None = None
    """The next leader or, in the stage `LED`, the present one."""
    tenure: Tenure | None = None
    """The latest leadership, while it lasts."""

    def asked(self) -> list[ElectionCandidate]:
        """Return the candidates that take part in the latest round."""
        return [candidate for candidate in self.candidates if candidate.round == self.round]

    def missing(self) -> list[ElectionCandidate]:
        """Return those of them that have not answered."""
        return [candidate for candidate in self.asked() if candidate.merits is None]

    @property
    def waits(self) -> bool:
        """Return whether the next leader waits for the end of the leadership before."""
        return self.stage is Stage.NAMED and self.tenure is not None

    @property
    def led(self) -> Tenure | None:
        """Return the leadership of a candidate that leads still."""
        return self.tenure if self.tenure is not None and not self.tenure.is_ending else None


class Elections:
    """All elections of the cluster."""

    def __init__(self, tokens: Tokens, requests: RequestHistory) -> None:
        self.by_name: dict[bytes, Election] = {}
        self._tokens = tokens
        self._requests = requests
        self._places = Places()
        """Of candidates."""
        self._standing: dict[RequestId, ElectionCandidate] = {}
        """The same candidates."""
        self._missing: dict[bytes, int] = {}
        """The number of statuses that each open round waits for; by election."""
        self._tenures = Places()
        self._published = 0
        """Bytes that all leaders have attached."""

    def load(self, elections: Iterable[Election]) -> None:
        """Begin with these elections: those of a snapshot."""
        for election in elections:
            self.by_name[election.name] = election
            if election.tenure is not None:
                self._tenures.add(election.tenure.request, election.name)
                self._published += len(election.tenure.blob)
            for candidate in election.candidates:
                self._remember(candidate, election.name)
            self._missing[election.name] = len(election.missing())

    def _remember(self, candidate: ElectionCandidate, name: Name) -> None:
        self._places.add(candidate.request, name)
        self._standing[candidate.request] = candidate

    def present(self, request: RequestId) -> list[LeaderOutcome]:
        """Return the outcomes of a request so far, if it is a candidate. Hot."""
        return [] if self._places.get(request) is None else [Standing(request)]

    def of(self, name: bytes) -> Leadership:
        """Return who leads an election now."""
        election = self.by_name.get(name)
        tenure = election.led if election is not None else None
        leader = self._standing.get(tenure.request) if tenure is not None else None
        if tenure is None or leader is None:
            return Leadership(name, None)
        said = tenure.version, tenure.blob
        return Leadership(name, leader.request, tenure.token, leader.address, leader.port, *said)

    def _candidate(self, election: Election, request: RequestId | None) -> ElectionCandidate | None:
        """Return the candidate of an election with this request."""
        is_there = request is not None and self._places.get(request) == election.name
        return self._standing[request] if request is not None and is_there else None

    def _due(self, election: Election) -> RoundOpened | Chosen | Leadership:
        """Return the outcome of this stage, also for a server that has not seen how the election came to it."""
        if election.chosen is None:
            missing = tuple(candidate.request for candidate in election.missing())
            return RoundOpened(election.name, election.round, missing)
        if election.stage is Stage.LED:
            return self.of(election.name)
        return Chosen(election.name, election.round, election.chosen, is_next=election.stage is Stage.NAMED)

    def tenure(self, request: RequestId) -> Tenure | None:
        """Return the leadership of a candidate, while it lasts."""
        name = self._tenures.get(request)
        return self.by_name[name].tenure if name is not None else None

    def tenures(self) -> Iterator[Tenure]:
        """Return all leaderships that last."""
        return (election.tenure for election in self.by_name.values() if election.tenure is not None)

    def have_led(self, client: ClientId) -> bool:
        """Return whether something may be done in the name of a leader of this client."""
        return bool(self._tenures.of([client]))

    def pending(self) -> Iterator[RoundOpened | Chosen | Leadership]:
        """Return the outcomes that something is waited for after: statuses, or a winner."""
        for _, election in sorted(self.by_name.items()):
            if election.stage is not Stage.LED and election.candidates:
                yield self._due(election)

    # ---- candidates

    def places(self, election: bytes) -> Iterator[Pool]:
        """Return the number of candidates and how many there may be; where the election is a new one, of elections,
        too.
        """
        yield Pool("candidates", MOST_STANDING, len(self._places), self._places.count)
        if election not in self.by_name:
            yield Pool("elections", MOST_ELECTIONS, len(self.by_name), self._places.count)

    @property
    def attached(self) -> Pool:
        """Return the number of bytes that leaders have attached, and how many there may be."""
        return Pool("bytes that leaders attach", MOST_PUBLISHED, self._published, self._attached_by)

    def _attached_by(self, client: ClientId) -> int:
        led = (self.by_name[name].tenure for name, _ in self._tenures.of([client]))
        return sum(len(tenure.blob) for tenure in led if tenure is not None)

    def stand(self, command: Stand) -> Iterator[LeaderOutcome]:
        """Add a candidate; the first one of an election opens a round."""
        request, name = command.request, command.election
        election = self.by_name.get(name)
        if self._is_full(election, request.owner.client):
            yield self._requests.note(Refused(request, Why.OVERFLOW))
            return
        if election is None:
            election = self.by_name[name] = Election(name)
        is_first = not election.candidates
        candidate = ElectionCandidate(request, command.address, command.port, command.lease, command.grace)
        election.candidates.append(candidate)
        self._remember(candidate, name)
        yield Standing(request)
        if is_first:
            yield from self._open(election)

    def _is_full(self, election: Election | None, client: ClientId) -> bool:
        if len(self._places) >= MOST_STANDING or self._places.count(client) >= MOST_OF_CLIENT:
            return True
        if election is None:
            return len(self.by_name) >= MOST_ELECTIONS
        return len(election.candidates) >= MOST_CANDIDATES

    def withdraw(self, command: Withdraw) -> Iterator[LeaderOutcome]:
        """End the candidacy of a request, and its leadership: nothing is done by that any more."""
        name, request = self._places[command.request], command.request
        yield self._requests.note(Refused(request, Why.WITHDRAWN))
        yield from self._take_out(name, [request])
        if self._tenures.get(request) is not None:
            yield from self._lapse(self.by_name[name])

    def strand(self, clients: Iterable[ClientId]) -> Iterator[LeaderOutcome]:
        """End the candidacies of clients that cannot be reached; what they lead may last until it expires."""
        for name, requests in self._places.of(clients):
            yield from self._take_out(name, requests)

    def end(self, clients: Collection[ClientId]) -> Iterator[LeaderOutcome]:
        """End the candidacies and leaderships of clients that have verifiably ended."""
        yield from self.strand(clients)
        for name, _ in self._tenures.of(clients):
            yield from self._lapse(self.by_name[name])

    def _take_out(self, name: bytes, requests: Collection[RequestId]) -> Iterator[LeaderOutcome]:
        """End candidacies together, so that none of them is asked or chosen when another one ends."""
        election = self.by_name[name]
        for request in requests:
            self._places.remove(request)
            candidate = self._standing.pop(request)
            if candidate.round == election.round and candidate.merits is None:
                self._missing[name] -= 1
        gone = set(requests)
        election.candidates = [candidate for candidate in election.candidates if candidate.request not in gone]
        stage = election.stage
        if election.led is not None and election.led.request in gone:
            yield from self._step_down(election)
        if stage is Stage.ASKED:
            yield from self._close_if_answered(election)
        elif stage is not Stage.LED and election.chosen in gone:
            yield from self._open(election)

    # ---- rounds

    @staticmethod
    def _begin(election: Election, stage: Stage, chosen: RequestId | None = None) -> None:
        """Count a round."""
        election.round += 1
        election.stage, election.chosen = stage, chosen

    def _forget_if_over(self, election: Election) -> None:
        if not election.candidates and election.tenure is None:
            del self.by_name[election.name]
            self._missing.pop(election.name, None)

    def _open(self, election: Election, sits_out: RequestId | None = None) -> Iterator[LeaderOutcome]:
        """Ask the candidates, if there are any."""
        self._begin(election, Stage.ASKED)
        if not election.candidates:
            self._forget_if_over(election)
            return
        others = [candidate for candidate in election.candidates if candidate.request != sits_out]
        asked = others or election.candidates
        for candidate in asked:
            candidate.round, candidate.merits = election.round, None
        self._missing[election.name] = len(asked)
        yield self._due(election)

    def status(self, command: Status) -> Iterator[LeaderOutcome]:
        """Take a candidate's first answer in a round; the last missing answer closes it."""
        name = self._places.get(command.candidate)
        if name is None:
            return
        election = self.by_name[name]
        if election.stage is not Stage.ASKED or command.round != election.round:
            return
        candidate = self._standing[command.candidate]
        if candidate.round == election.round and candidate.merits is None:
            candidate.merits = Merits(int(command.running // STEP), -int(command.restart_interval // STEP))
            self._missing[name] -= 1
            yield from self._close_if_answered(election)

    def close(self, command: Close) -> Iterator[LeaderOutcome]:
        """Wait no longer for those that have not answered."""
        election = self.by_name.get(command.election)
        if election is not None and election.stage is Stage.ASKED and command.round == election.round:
            yield from self._close(election)

    def _close_if_answered(self, election: Election) -> Iterator[LeaderOutcome]:
        if not self._missing[election.name]:
            yield from self._close(election)

    def _close(self, election: Election) -> Iterator[LeaderOutcome]:
        """Choose the best of those that have answered; where nobody has, ask all candidates."""
        ranked = [
            ((candidate.merits, candidate.address, candidate.port), candidate.request)
            for candidate in election.asked()
            if candidate.merits is not None
        ]
        if not ranked:
            yield from self._open(election)
            return
        _, winner = max(ranked, key=itemgetter(0))  # of equals the first: it has been a candidate for longer
        election.stage, election.chosen = Stage.CHOSEN, winner
        yield self._due(election)

    # ---- leading

    def next(self, command: Next) -> Iterator[LeaderOutcome]:
        """Record that the winner of a round is about to lead."""
        election = self._meant(command)
        if election is None:
            yield Rejected(command.election, command.round, command.candidate)
        elif election.stage is Stage.CHOSEN:
            election.stage = Stage.NAMED
            yield self._due(election)

    def commit(self, command: Commit) -> Iterator[LeaderOutcome]:
        """Let the candidate lead that was named next, if nobody else does any more."""
        election = self._meant(command)
        if election is None or election.stage is Stage.CHOSEN:
            yield Rejected(command.election, command.round, command.candidate)
        elif election.stage is Stage.NAMED and not election.waits and self._tokens.is_left:
            leader = self._candidate(election, command.candidate)
            assert leader is not None, "who goes is not chosen any more"
            election.stage = Stage.LED
            token = self._tokens.draw()
            election.tenure = Tenure(leader.request, election.name, leader.lease, leader.grace, token)
            self._tenures.add(leader.request, election.name)
            yield self._due(election)

    def depose(self, command: Depose) -> Iterator[LeaderOutcome]:
        """Take the win of this round away from its winner."""
        election = self._meant(command)
        if election is not None and election.stage is not Stage.LED:
            yield from self._open(election, sits_out=command.candidate)

    def _meant(self, command: Next | Commit | Depose) -> Election | None:
        """Return the election, if this is its latest round and the candidate chosen there."""
        election = self.by_name.get(command.election)
        if election is None or (command.round, command.candidate) != (election.round, election.chosen):
            return None
        return election

    # ---- tenures

    def renew(self, command: Renew) -> Iterator[LeaderOutcome]:
        """Renew a leader's lease, if it is still a candidate; a successor is not wanted any more."""
        election = self._led(self._tenures.get(command.request), command.token)
        if election is None or election.tenure is None or self._candidate(election, command.request) is None:
            return
        tenure = election.tenure
        tenure.renewals += 1
        if election.stage is not Stage.LED:
            self._begin(election, Stage.LED, tenure.request)
        if tenure.is_ending:
            tenure.is_ending = False
            yield self.of(election.name)
        yield Renewed(tenure.request, tenure.token, tenure.renewals)

    def revoke(self, command: Revoke) -> Iterator[LeaderOutcome]:
        """Have a successor chosen for a leader whose lease comes to its end, if there is another candidate."""
        election = self._led(command.name, command.token, command.renewals)
        if election is not None and election.stage is Stage.LED and len(election.candidates) > 1:
            yield from self._open(election, sits_out=election.chosen)

    def expire(self, command: Expire) -> Iterator[LeaderOutcome]:
        """End a leadership whose lease and grace are over."""
        election = self._led(command.name, command.token, command.renewals)
        if election is not None:
            yield from self._step_down(election)
            yield from self._lapse(election)

    def resign(self, command: Resign) -> Iterator[LeaderOutcome]:
        """Let a leader lead no more; next is the candidate that it wishes for, or the winner of the next round."""
        election = self._led(self._tenures.get(command.request), command.token)
        if election is None:
            return
        wished = self._candidate(election, command.to)
        if election.led is not None and wished is not None and wished.request != election.led.request:
            yield from self._end_told(election.led)
            self._begin(election, Stage.NAMED, wished.request)
        else:
            yield from self._step_down(election)
        yield from self._lapse(election)

    def _step_down(self, election: Election) -> Iterator[LeaderOutcome]:
        """End a leadership, as far as the leader knows; have another one chosen, if no successor is looked for yet."""
        tenure = election.led
        if tenure is not None:
            yield from self._end_told(tenure)
            if election.stage is Stage.LED:
                yield from self._open(election, sits_out=tenure.request)

    @staticmethod
    def _end_told(tenure: Tenure) -> Iterator[LeaderOutcome]:
        tenure.is_ending = True
        yield Leadership(tenure.name, None)

    def _lapse(self, election: Election) -> Iterator[LeaderOutcome]:
        """End a leadership for sure, since nothing is done by it any more: the next one may begin."""
        tenure = election.tenure
        assert tenure is not None
        assert tenure.is_ending
        self._tenures.remove(tenure.request)
        self._published -= len(tenure.blob)
        election.tenure = None
        yield Lapsed(election.name, tenure.token)
        if election.stage is Stage.NAMED:
            yield self._due(election)
        self._forget_if_over(election)

    def publish(self, command: Publish) -> Iterator[LeaderOutcome]:
        """Attach data to a leadership. The leader's client must do so: all that observe know the token."""
        election = self._led(command.election, command.token)
        tenure = election.led if election is not None else None
        if election is None or tenure is None or tenure.request.owner.client != command.request.owner.client:
            yield self._requests.note(Refused(command.request, Why.NOT_HELD))
            return
        growth = len(command.blob) - len(tenure.blob)
        if self._published + growth > MOST_PUBLISHED:
            yield self._requests.note(Refused(command.request, Why.OVERFLOW))
            return
        self._published += growth
        tenure.version += 1
        tenure.blob = command.blob
        yield self._requests.note(Published(command.request, tenure.version))
        yield self.of(election.name)

    def _led(self, name: bytes | None, token: int, renewals: int | None = None) -> Election | None:
        """Return an election whose latest leadership lasts, and has this token and this number of renewals."""
        election = self.by_name.get(name) if name is not None else None
        tenure = election.tenure if election is not None else None
        if tenure is None or tenure.token != token or renewals not in (None, tenure.renewals):
            return None
        return election
