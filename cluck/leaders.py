"""Elections: who leads, said in total order; the selection is that of FastDFS's trackers (ruling E8).

Who stands in an election is a candidate, and one of the candidates leads. Where nobody does, a round asks them for
their statuses; the best of those that were ordered before the round was closed wins it. The winner is named (`Next`),
then it leads (`Commit`), with a fencing token larger than all before. The order of selection:

1. Who leads already. The leader is a field of this state, not of a status: it stays until its candidacy ends, it
   resigns, or it is deposed, and no round is opened before. So no round has a leader among those that it asks, and this
   criterion is met by there being no round.
2. The longer running time, then the shorter restart interval, both in whole steps of `STEP`, so that those who are
   about the same are the same to all.
3. The greater address, as bytes, then the greater port, then who has stood longer.

A round is known by its number, which grows as long as the election is known: what is said of another one is void. Who
comes during a round takes no part in it; who goes is not waited for. Who resigned or was deposed sits out the next
round, unless nobody else is there.

Those who observe are told of each leadership, and of its end before anything of the next one; of no end without a
leadership before.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Iterator
from operator import itemgetter
from typing import Final, NamedTuple

from msgspec import Struct, field

from cluck.commands import (
    Address,
    Asked,
    Blob,
    Chosen,
    Client,
    Close,
    Commit,
    Depose,
    LeaderOutcome,
    Leadership,
    Name,
    Next,
    Number,
    Port,
    Publish,
    Published,
    Refused,
    Rejected,
    RequestId,
    Resign,
    Stand,
    Standing,
    Status,
    Why,
    Withdraw,
)
from cluck.requests import Places, Requests
from cluck.tokens import Tokens

STEP: Final = 300
"""Seconds; FastDFS's trackers save their times so often."""
MOST_CANDIDATES: Final = 1_000
"""Of one election."""
MOST_STANDING: Final = 100_000
"""Candidates of all elections."""
MOST_ELECTIONS: Final = 10_000
MOST_PUBLISHED: Final = 64 * 1024 * 1024
"""Bytes that the leaders of all elections have attached."""


class Merits(NamedTuple):
    """What a candidate's status comes to; the greater one is preferred."""

    steps_running: int
    minus_steps_between: int


class Candidate(Struct, array_like=True, eq=False):
    """Who stands."""

    request: RequestId
    address: Address
    port: Port
    round: Number = 0
    """The last one that it was asked in."""
    merits: Merits | None = None
    """What it answered there."""


class Stage(enum.IntEnum):
    """How far an election is."""

    ASKED = 0
    """A round is open."""
    CHOSEN = 1
    """It was closed, and has a winner."""
    NAMED = 2
    """The winner, or the one that a leader wished for, is about to lead."""
    LED = 3


class Election(Struct, array_like=True, eq=False):
    """Those who stand, in the order in which they came, and who leads. Without candidates it is forgotten."""

    name: Name
    candidates: list[Candidate] = field(default_factory=list)
    round: Number = 0
    """The latest one."""
    stage: Stage = Stage.ASKED
    chosen: RequestId | None = None
    """Who is to lead, or leads."""
    token: Number = 0
    """Of the leadership; 0: nobody leads."""
    version: Number = 0
    """Of what the leader has attached; 0: nothing."""
    blob: Blob = b""

    def candidate(self, request: RequestId | None) -> Candidate | None:
        """Return who stands with this request."""
        return next((candidate for candidate in self.candidates if candidate.request == request), None)

    def asked(self) -> list[Candidate]:
        """Those who take part in the latest round."""
        return [candidate for candidate in self.candidates if candidate.round == self.round]

    def due(self) -> Asked | Chosen | Leadership:
        """What is to be told at this stage, also to who has not seen how the election came to it."""
        if self.chosen is None:
            missing = tuple(candidate.request for candidate in self.asked() if candidate.merits is None)
            return Asked(self.name, self.round, missing)
        if self.stage is Stage.LED:
            return self.leadership()
        return Chosen(self.name, self.round, self.chosen, is_next=self.stage is Stage.NAMED)

    def leadership(self) -> Leadership:
        """What those who observe are told."""
        leader = self.candidate(self.chosen)
        if leader is None or not self.token:
            return Leadership(self.name, None)
        return Leadership(self.name, leader.request, self.token, leader.address, leader.port, self.version, self.blob)


class Leaders:
    """All elections of the cluster."""

    def __init__(self, tokens: Tokens, requests: Requests) -> None:
        self.elections: dict[bytes, Election] = {}
        self._tokens = tokens
        self._requests = requests
        self._places = Places()
        self._published = 0
        """Bytes of all blobs."""

    def load(self, elections: Iterable[Election]) -> None:
        """Begin with these elections: those of a snapshot."""
        for election in elections:
            self.elections[election.name] = election
            self._published += len(election.blob)
            for candidate in election.candidates:
                self._places.put(candidate.request, election.name)

    def present(self, request: RequestId) -> list[LeaderOutcome]:
        """What has become of a request so far, if it stands. Hot."""
        return [] if self._places.get(request) is None else [Standing(request)]

    def of(self, name: bytes) -> Leadership:
        """Who leads an election now."""
        election = self.elections.get(name)
        return election.leadership() if election is not None else Leadership(name, None)

    def pending(self) -> Iterator[Asked | Chosen | Leadership]:
        """What is waited for where nobody leads: statuses, or a winner."""
        for _, election in sorted(self.elections.items()):
            if election.stage is not Stage.LED:
                yield election.due()

    # ---- candidates

    def stand(self, command: Stand) -> Iterator[LeaderOutcome]:
        """Take a new candidate; the first one of an election opens a round."""
        request, name = command.request, command.election
        election = self.elections.get(name)
        if self._is_full(election):
            yield self._requests.note(Refused(request, Why.OVERFLOW))
            return
        is_first = election is None
        if election is None:
            election = self.elections[name] = Election(name)
        election.candidates.append(Candidate(request, command.address, command.port))
        self._places.put(request, name)
        yield Standing(request)
        if is_first:
            yield from self._open(election)

    def _is_full(self, election: Election | None) -> bool:
        if len(self._places) >= MOST_STANDING:
            return True
        if election is None:
            return len(self.elections) >= MOST_ELECTIONS
        return len(election.candidates) >= MOST_CANDIDATES

    def withdraw(self, command: Withdraw) -> Iterator[LeaderOutcome]:
        """End the candidacy of a request that stands."""
        yield self._requests.note(Refused(command.request, Why.WITHDRAWN))
        yield from self._take_out(self._places[command.request], [command.request])

    def end(self, clients: Iterable[Client]) -> Iterator[LeaderOutcome]:
        """These clients have ended, or cannot be reached: they stand no more."""
        for name, requests in self._places.of(clients):
            yield from self._take_out(name, requests)

    def _take_out(self, name: bytes, requests: Collection[RequestId]) -> Iterator[LeaderOutcome]:
        """End candidacies together, so that none of them is asked or chosen when another one ends."""
        election = self.elections[name]
        for request in requests:
            self._places.remove(request)
        gone = set(requests)
        election.candidates = [candidate for candidate in election.candidates if candidate.request not in gone]
        if election.stage is Stage.ASKED:
            yield from self._close_if_answered(election)
        elif election.chosen in gone:
            yield from self._replace(election)

    # ---- rounds

    def _begin(self, election: Election, stage: Stage, chosen: RequestId | None = None) -> None:
        """Count a round, in which nobody leads."""
        self._published -= len(election.blob)
        election.round += 1
        election.stage, election.chosen = stage, chosen
        election.token, election.version, election.blob = 0, 0, b""

    def _open(self, election: Election, sits_out: RequestId | None = None) -> Iterator[LeaderOutcome]:
        """Ask the candidates; forget an election that has none."""
        self._begin(election, Stage.ASKED)
        if not election.candidates:
            del self.elections[election.name]
            return
        others = [candidate for candidate in election.candidates if candidate.request != sits_out]
        for candidate in others or election.candidates:
            candidate.round, candidate.merits = election.round, None
        yield election.due()

    def status(self, command: Status) -> Iterator[LeaderOutcome]:
        """Take a candidate's answer, the first one that it gives in a round; the last missing one closes it."""
        name = self._places.get(command.candidate)
        if name is None:
            return
        election = self.elections[name]
        if election.stage is not Stage.ASKED or command.round != election.round:
            return
        for candidate in election.asked():
            if candidate.request == command.candidate and candidate.merits is None:
                candidate.merits = Merits(int(command.running // STEP), -int(command.restart_interval // STEP))
                yield from self._close_if_answered(election)

    def close(self, command: Close) -> Iterator[LeaderOutcome]:
        """Wait no longer for those that have not answered."""
        election = self.elections.get(command.election)
        if election is not None and election.stage is Stage.ASKED and command.round == election.round:
            yield from self._close(election)

    def _close_if_answered(self, election: Election) -> Iterator[LeaderOutcome]:
        if all(candidate.merits is not None for candidate in election.asked()):
            yield from self._close(election)

    def _close(self, election: Election) -> Iterator[LeaderOutcome]:
        """Choose the best of those that have answered; where nobody has, ask all that stand now."""
        ranked = [
            ((candidate.merits, candidate.address, candidate.port), candidate.request)
            for candidate in election.asked()
            if candidate.merits is not None
        ]
        if not ranked:
            yield from self._open(election)
            return
        _, winner = max(ranked, key=itemgetter(0))  # of equals the first: who has stood longer
        election.stage, election.chosen = Stage.CHOSEN, winner
        yield election.due()

    # ---- leading

    def next(self, command: Next) -> Iterator[LeaderOutcome]:
        """Record that the winner of a round is about to lead."""
        election = self._meant(command)
        if election is None:
            yield Rejected(command.election, command.round, command.candidate)
        elif election.stage is Stage.CHOSEN:
            election.stage = Stage.NAMED
            yield election.due()

    def commit(self, command: Commit) -> Iterator[LeaderOutcome]:
        """Let the one lead that was named next."""
        election = self._meant(command)
        if election is None or election.stage is Stage.CHOSEN:
            yield Rejected(command.election, command.round, command.candidate)
        elif election.stage is Stage.NAMED:
            election.stage = Stage.LED
            election.token = self._tokens.draw()
            yield election.due()

    def depose(self, command: Depose) -> Iterator[LeaderOutcome]:
        """Take the leadership, or the win, from who has it from this round."""
        election = self._meant(command)
        if election is not None:
            yield from self._replace(election, sits_out=command.candidate)

    def _meant(self, command: Next | Commit | Depose) -> Election | None:
        """Return the election, if this is its latest round and who was chosen there."""
        election = self.elections.get(command.election)
        if election is None or (command.round, command.candidate) != (election.round, election.chosen):
            return None
        return election

    def resign(self, command: Resign) -> Iterator[LeaderOutcome]:
        """Let a leader lead no more, and the one that it wishes for come next, or whoever wins the next round."""
        election = self._led(self._places.get(command.request), command.token)
        if election is None or election.chosen != command.request:
            return
        leader, wished = election.chosen, election.candidate(command.to)
        if wished is None or wished.request == leader:
            yield from self._replace(election, sits_out=leader)
        else:
            yield Leadership(election.name, None)
            self._begin(election, Stage.NAMED, wished.request)
            yield election.due()

    def _replace(self, election: Election, sits_out: RequestId | None = None) -> Iterator[LeaderOutcome]:
        """Have another one chosen."""
        if election.stage is Stage.LED:
            yield Leadership(election.name, None)
        yield from self._open(election, sits_out)

    def publish(self, command: Publish) -> Iterator[LeaderOutcome]:
        """Attach something to a leadership. It takes the leader's client, too: all that observe know the token."""
        election, client = self._led(command.election, command.token), command.request.owner.client
        if election is None or election.chosen is None or election.chosen.owner.client != client:
            yield self._requests.note(Refused(command.request, Why.NOT_HELD))
            return
        growth = len(command.blob) - len(election.blob)
        if self._published + growth > MOST_PUBLISHED:
            yield self._requests.note(Refused(command.request, Why.OVERFLOW))
            return
        self._published += growth
        election.version += 1
        election.blob = command.blob
        yield self._requests.note(Published(command.request, election.version))
        yield election.due()

    def _led(self, name: bytes | None, token: int) -> Election | None:
        """Return an election, if it is led under this token."""
        election = self.elections.get(name) if name is not None else None
        return election if election is not None and election.stage is Stage.LED and election.token == token else None
