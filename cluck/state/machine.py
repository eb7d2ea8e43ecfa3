"""The replicated state of locks, as one machine.

`apply` takes the commands in the order of the group and returns the outcomes of each. `keep` is the effect of a change
of the servers. Both are functions of the state alone, so that all servers stay the same. `image` is the whole state in
canonical form, for a server that comes, and to compare.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from operator import attrgetter, itemgetter
from typing import Any, Final, get_args

from msgspec import Struct

from cluck.commands import (
    Acquire,
    ClientId,
    Close,
    Command,
    Commit,
    Depose,
    EndWait,
    Expire,
    Force,
    Gone,
    Name,
    Next,
    Notify,
    OfClient,
    Outcome,
    Publish,
    Refused,
    Release,
    Renew,
    Request,
    RequestId,
    Resign,
    Revoke,
    Stand,
    Status,
    Still,
    Wait,
    Why,
    Withdraw,
)
from cluck.state.conditions import ConditionQueue, Conditions
from cluck.state.elections import Election, Elections, Tenure
from cluck.state.lock_table import Lock, LockTable, Ticket
from cluck.state.request_history import ClientHistory, RequestHistory
from cluck.state.tokens import Drawn, Tokens
from cpg.replication.electorate import Voters
from cpg.replication.identities import Boot, Epoch, ServerId
from cpg.replication.wire import Promise

_REQUESTS: Final = frozenset(get_args(Request))
_OF_CLIENT: Final = frozenset(get_args(OfClient))


class LockImage(Struct, array_like=True):
    """The whole of a state."""

    epoch: Epoch
    drawn: Drawn
    longest_promise: Promise
    voters: Voters
    histories: list[tuple[ClientId, ClientHistory]]
    boots: list[tuple[ServerId, Boot]]
    locks: list[tuple[Name, Lock]]
    conditions: list[tuple[Name, ConditionQueue]]
    elections: list[Election]


class LockState:
    """Locks, conditions, elections, and the requests that may come again."""

    def __init__(self, epoch: int, voters: Voters) -> None:
        """Begin an empty state; `epoch` is larger than that of every state before (ruling E6)."""
        self.voters = voters
        """Who decides."""
        self.boots: dict[ServerId, Boot] = {}
        """The run of the machine that each server, and all its clients, are on or were on; for servers that have
        clients.
        """
        self.tokens = Tokens(epoch)
        self.longest_promise = 0.0
        """Seconds of the longest lease and its grace that may be granted: a majority's disks know of it (ruling E5)."""
        self.requests = RequestHistory()
        self.table = LockTable(self.tokens, self.requests)
        self.conditions = Conditions(self.table, self.requests)
        self.elections = Elections(self.tokens, self.requests)
        table, conditions, elections = self.table, self.conditions, self.elections
        self._actions: Final[dict[type, Callable[[Any], Iterator[Outcome]]]] = {
            Acquire: self._acquire,
            Release: table.release,
            Renew: self._renew,
            Revoke: self._revoke,
            Expire: self._expire,
            Force: table.force,
            Gone: self._gone,
            Still: table.still,
            Wait: conditions.wait,
            Notify: conditions.notify,
            EndWait: conditions.end,
            Stand: self._stand,
            Status: elections.status,
            Close: elections.close,
            Next: elections.next,
            Commit: elections.commit,
            Resign: elections.resign,
            Depose: elections.depose,
            Publish: elections.publish,
        }

    @property
    def epoch(self) -> int:
        """Return the epoch of the tokens."""
        return self.tokens.epoch

    def begin_epoch(self, epoch: int) -> None:
        """Draw tokens of a later epoch from now on."""
        self.tokens.begin(epoch)

    def apply(self, command: Command, server: ServerId) -> list[Outcome]:
        """Apply the next command of the order, which came through this server; return its outcomes, in order. Hot.

        A request that comes again changes nothing: it is answered with its present outcome, also where it is open. A
        command in a client's name has no effect where it comes from another node than the client's own.
        """
        kind = type(command)
        if kind in _OF_CLIENT:
            request: RequestId = command.request  # type: ignore[union-attr]
            if request.owner.client.server.node_id != server.node_id:
                return []
            if kind is Withdraw:
                return list(self._withdraw(command, server))  # type: ignore[arg-type]
            if kind in _REQUESTS:
                answer = self.requests.recall(request, command.settled, server)  # type: ignore[union-attr]
                if present := self.present(request):
                    return present
                if answer is not None:
                    return [answer]
        return list(self._actions[kind](command))

    def present(self, request: RequestId) -> list[Outcome]:
        """Return the outcomes of an open request so far; nothing if it is not open. Hot."""
        return list(self.table.present(request) or self.conditions.present(request) or self.elections.present(request))

    def keep(self, servers: Collection[ServerId], boots: Mapping[ServerId, Boot]) -> list[Outcome]:
        """Go on with these servers alone, some of which are known to be on these machines with all their clients.

        Clients that spoke through other servers do not wait any more and are no candidates; what they hold and lead
        lasts until it expires. Clients whose machine runs anew have ended.
        """
        ended = self._ended_with_machines(boots)
        outcomes = [*self._end(ended)]
        clients = self.requests.stranded(servers)
        outcomes += self._leave(clients, self.table.purge(clients), self.elections.strand(clients))
        having = {client.server for client in self._clients()}
        self.boots = {
            server: boot for server, boot in {**self.boots, **boots}.items() if server in having or server in servers
        }
        return outcomes

    def _ended_with_machines(self, boots: Mapping[ServerId, Boot]) -> list[ClientId]:
        """Return the clients whose machines run anew, in their order (ruling E10)."""
        runs = {(server.node_id, boot.machine): boot.run for server, boot in boots.items()}
        ended = {
            server
            for server, boot in self.boots.items()
            if runs.get((server.node_id, boot.machine), boot.run) != boot.run
        }
        return sorted(client for client in self._clients() if client.server in ended)

    def _clients(self) -> set[ClientId]:
        """Return all clients that are remembered."""
        known = set(self.requests.histories)
        known.update(ticket.request.owner.client for ticket in self.table.tickets())
        known.update(tenure.request.owner.client for tenure in self.elections.tenures())
        return known

    def clients_of(self, server: ServerId) -> list[ClientId]:
        """Return the clients that this server admitted and that are still remembered, in their order."""
        return sorted(client for client in self._clients() if client.server == server)

    def lease_of(self, request: RequestId) -> Ticket | Tenure | None:
        """Return the ticket or the leadership of a request, which is held by a lease. Hot."""
        ticket = self.table.ticket(request)
        return ticket if ticket is not None else self.elections.tenure(request)

    def leased(self) -> Iterator[Ticket | Tenure]:
        """Return all that is held by a lease: locks and leaderships."""
        yield from (ticket for ticket in self.table.tickets() if ticket.token)
        yield from self.elections.tenures()

    # ---- what concerns several parts

    def _acquire(self, command: Acquire) -> Iterator[Outcome]:
        return self.table.acquire(command) if self._is_recorded(command) else self._unrecorded(command)

    def _stand(self, command: Stand) -> Iterator[Outcome]:
        return self.elections.stand(command) if self._is_recorded(command) else self._unrecorded(command)

    def _is_recorded(self, command: Acquire | Stand) -> bool:
        """Return whether a majority's disks know of its lease, and of the epoch of the token that it would get."""
        return command.lease + command.grace <= self.longest_promise and self.tokens.is_left

    @staticmethod
    def _unrecorded(command: Acquire | Stand) -> Iterator[Outcome]:
        yield Refused(command.request, Why.UNRECORDED)

    def _renew(self, command: Renew) -> Iterator[Outcome]:
        """Renew a lock or a leadership. Their tokens are one series, so that at most one of the two knows this one."""
        yield from self.table.renew(command)
        yield from self.elections.renew(command)

    def _revoke(self, command: Revoke) -> Iterator[Outcome]:
        yield from self.table.revoke(command)
        yield from self.elections.revoke(command)

    def _expire(self, command: Expire) -> Iterator[Outcome]:
        yield from self.table.expire(command)
        yield from self.elections.expire(command)

    def _withdraw(self, command: Withdraw, server: ServerId) -> Iterator[Outcome]:
        request = command.request
        for part in (self.table, self.conditions, self.elections):
            if part.present(request):
                yield from part.withdraw(command)
                return
        yield self.requests.refuse(request, server)  # it may come yet

    def _gone(self, command: Gone) -> Iterator[Outcome]:
        yield from self._end([command.client])

    def _end(self, clients: Collection[ClientId]) -> Iterator[Outcome]:
        """End clients that have verifiably ended."""
        yield from self._leave(clients, self.table.end_clients(clients), self.elections.end(clients))

    def _leave(self, clients: Collection[ClientId], *parts: Iterable[Outcome]) -> Iterator[Outcome]:
        """Forget clients; `parts`: what that does to their tickets, and to elections."""
        self.conditions.drop(clients)
        for outcomes in parts:
            yield from outcomes
        for client in clients:
            self.requests.forget(client)

    # ---- as a whole

    def image(self) -> LockImage:
        """Return the whole state; equal states have equal images."""
        return LockImage(
            self.tokens.epoch,
            self.tokens.drawn,
            self.longest_promise,
            self.voters,
            self.requests.image(),
            sorted(self.boots.items()),
            sorted(self.table.locks.items(), key=itemgetter(0)),
            sorted(self.conditions.by_name.items(), key=itemgetter(0)),
            sorted(self.elections.by_name.values(), key=attrgetter("name")),
        )

    @classmethod
    def of(cls, image: LockImage) -> LockState:
        """Return the state of an image, which belongs to it from then on."""
        state = cls(image.epoch, image.voters)
        state.tokens.drawn = image.drawn
        state.longest_promise = image.longest_promise
        state.requests.load(image.histories)
        state.boots = dict(image.boots)
        state.table.load(dict(image.locks))
        state.conditions.load(dict(image.conditions))
        state.elections.load(image.elections)
        return state
