"""The replicated state: all that the lock servers have in common, as one machine.

`apply` takes the commands in the order of the group and says what comes of each; `keep` is what a change of the servers
does. Both are functions of the state alone, so that all servers stay the same; `image` is the whole of it, canonical,
for a server that comes, and to compare.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

from msgspec import Struct

from cluck.commands import (
    Acquire,
    Client,
    Command,
    Expire,
    Force,
    Gone,
    Number,
    Outcome,
    Refused,
    Release,
    Renew,
    RequestId,
    Revoke,
    Server,
    Still,
    Why,
    Withdraw,
)
from cluck.requests import History, Requests
from cluck.tickets import Lock, Table
from cluck.tokens import Tokens


class Image(Struct, array_like=True):
    """All of a state."""

    epoch: Number
    drawn: Number
    longest: float
    histories: list[tuple[Client, History]]
    locks: list[tuple[bytes, Lock]]


class State:
    """Locks, conditions, elections, and the requests that may come again."""

    def __init__(self, epoch: int) -> None:
        """Give birth to an empty one; `epoch` is larger than that of every state before (ruling E6)."""
        self.tokens = Tokens(epoch)
        self.longest = 0.0
        """Seconds of the longest lease and its grace that may be granted: a majority's disks know of it (ruling E5)."""
        self.requests = Requests()
        self.table = Table(self.tokens, self.requests)
        table = self.table
        self._actions: Final[dict[type, Callable[[Any], Iterator[Outcome]]]] = {
            Acquire: self._acquire,
            Withdraw: table.withdraw,
            Release: table.release,
            Renew: table.renew,
            Revoke: table.revoke,
            Expire: table.expire,
            Force: table.force,
            Gone: self._gone,
            Still: lambda command: iter(()),
        }

    def apply(self, command: Command, server: Server) -> list[Outcome]:
        """Do the next command of the order, which came through this server; what comes of it, in order. Hot."""
        request: RequestId | None = getattr(command, "request", None)
        if request is not None and (settled := getattr(command, "settled", None)) is not None:
            answer = self.requests.recall(request, settled, server)
            if answer is not None:
                return [answer]
        elif type(command) is Withdraw and self.table.ticket(command.request) is None:
            return [self.requests.refuse(command.request, server)]  # it may come yet
        return list(self._actions[type(command)](command))

    def keep(self, servers: Collection[Server]) -> list[Outcome]:
        """Only these servers are there: those who spoke through others wait for nothing any more."""
        return [outcome for client in self.requests.stranded(servers) for outcome in self._purge(client)]

    # ---- what concerns several parts

    def _acquire(self, command: Acquire) -> Iterator[Outcome]:
        if command.lease + command.grace > self.longest:
            yield Refused(command.request, Why.UNRECORDED)
        else:
            yield from self.table.acquire(command)

    def _gone(self, command: Gone) -> Iterator[Outcome]:
        yield from self.table.end_client(command.client)
        self.requests.forget(command.client)

    def _purge(self, client: Client) -> Iterator[Outcome]:
        yield from self.table.purge_client(client)
        self.requests.forget(client)

    # ---- as a whole

    def image(self) -> Image:
        """All of it; the same for states that are the same."""
        histories = sorted(self.requests.histories.items(), key=lambda item: item[0])
        return Image(self.tokens.epoch, self.tokens.drawn, self.longest, histories, sorted(self.table.locks.items()))

    @classmethod
    def of(cls, image: Image) -> State:
        """Make the state of an image, which is its own from then on."""
        state = cls(image.epoch)
        state.tokens.drawn = image.drawn
        state.longest = image.longest
        state.requests.histories = dict(image.histories)
        state.table.load(dict(image.locks))
        return state
