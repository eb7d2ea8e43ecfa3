"""What a lock server knows of each of its clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cluck.commands import ClientId, Command, Outcome, RequestId
from cluck.protocol import Downward

ADMINISTRATORS: Final = 0
"""The user that root and the daemon's user count as."""


@dataclass(slots=True)
class OpenRequest:
    """A request that has no final answer."""

    command: Command
    is_submitted: bool = False
    """It was sent to the group at least once."""
    sent: float | None = None
    """When the latest message about it was sent that came before its grant in the order (ruling E7)."""
    ahead: int | None = None
    """The place that the client was told last."""
    base: float | None = None
    """Once granted: from when on the holder counts."""
    late: int = 0
    """Number of times that its lease was over before the grant or a renewal of it was final."""


@dataclass(slots=True)
class Audience:
    """The candidates and observers of an election, of the clients of one server."""

    candidates: dict[RequestId, LocalClient] = field(default_factory=dict)
    observers: dict[ClientId, LocalClient] = field(default_factory=dict)


Audiences = dict[bytes, Audience]
"""By election, where there are any: so that no other client is looked at when one changes."""


@dataclass(slots=True, eq=False)
class LocalClient:
    """A program that is, or was a moment ago, connected to this server."""

    client: ClientId
    program: str
    send: Callable[[Downward], None] | None
    """None while the connection is lost."""
    user: int
    """With whom it shares what all clients may have."""
    is_behind: Callable[[], bool]
    """Returns whether it should read before more answers to its questions are made."""
    audiences: Audiences
    """Those of all clients."""
    is_known: bool = False
    """The group may have heard of it, through this server or an earlier life of it."""
    lost: float | None = None
    """When it was lost."""
    is_given_up: bool = False
    """It has not come back in time: it waits for nothing any more."""
    open: dict[RequestId, OpenRequest] = field(default_factory=dict)
    held: dict[int, RequestId] = field(default_factory=dict)
    """By token: what was granted, as far as the client was told."""
    observed: set[bytes] = field(default_factory=set)
    """Elections."""
    candidates: dict[RequestId, Candidacy] = field(default_factory=dict)
    strikes: int = 0
    """Pings in a row that it has not answered."""

    def stand(self, request: RequestId, candidacy: Candidacy) -> None:
        """Add a candidate."""
        self.candidates[request] = candidacy
        self.audiences.setdefault(candidacy.election, Audience()).candidates[request] = self

    def step_back(self, request: RequestId) -> None:
        """Remove this candidate, if it is one."""
        candidacy = self.candidates.pop(request, None)
        if candidacy is not None:
            del self.audiences[candidacy.election].candidates[request]
            self._forget_if_empty(candidacy.election)

    def observe(self, election: bytes) -> None:
        """Add an election to observe."""
        self.observed.add(election)
        self.audiences.setdefault(election, Audience()).observers[self.client] = self

    def ignore(self, election: bytes) -> None:
        """Observe an election no more."""
        if election in self.observed:
            self.observed.remove(election)
            del self.audiences[election].observers[self.client]
            self._forget_if_empty(election)

    def _forget_if_empty(self, election: bytes) -> None:
        audience = self.audiences[election]
        if not audience.candidates and not audience.observers:
            del self.audiences[election]

    def leave(self) -> None:
        """Leave all elections."""
        for request in list(self.candidates):
            self.step_back(request)
        for election in list(self.observed):
            self.ignore(election)

    def reply(self, message: Downward) -> None:
        """Send it a message, if it is connected."""
        if self.send is not None:
            self.send(message)


@dataclass(slots=True)
class Candidacy:
    """A candidate of the client, in an election."""

    election: bytes
    since: float
    """When its program started, on this server's clock."""
    restart_interval: float
    token: int = 0
    """While it was told that it leads."""


@dataclass(slots=True)
class Batch:
    """One message of commands to the group, until it is final."""

    commands: list[Command]
    sent: float
    number: int | None = None
    """Its place in the present view, once it is in the order."""


@dataclass(slots=True, frozen=True)
class PendingReply:
    """An outcome that is not final yet."""

    number: int
    outcome: Outcome
    base: float | None
    """Of a renewal, or a leadership that begins: when it was sent."""
