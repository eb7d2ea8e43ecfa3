"""Answers to requests that may come again: each request is done once while its client is remembered.

A client numbers its requests. A final answer is remembered until the client says that the request will not come again
(`settled`), or has ended, or its lock server has left the view. What comes again after that is a new request. A client
may also call a request settled that is still open, such as a lock that it holds. The final answer to that one is
remembered until the client calls more settled.

A number is at most `MOST_UNSETTLED` beyond what the client has called settled. A request that is withdrawn before it
has come may be as much further: what it would have called settled is not known here then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from operator import itemgetter
from typing import Final, NamedTuple, TypeVar

from msgspec import Struct, field

from cluck.commands import MOST_UNSETTLED, ClientId, Ended, Notified, Outcome, Published, Refused, RequestId, Why, Woken
from cpg.replication.identities import Number, ServerId

Answer = Refused | Ended | Notified | Woken | Published
"""The final ones."""

AnyAnswer = TypeVar("AnyAnswer", Refused, Ended, Notified, Woken, Published)


MOST_CLIENTS: Final = 100_000
"""Clients whose requests may come again."""
MOST_ANSWERS: Final = 1_000_000
"""Answers that are remembered, of all clients."""


class Pool(NamedTuple):
    """A resource that all clients share, and how much of it is taken."""

    what: str
    most: int
    taken: int
    of: Callable[[ClientId], int]
    """Returns what a client has."""


class ClientHistory(Struct, array_like=True):
    """What is remembered of one client."""

    server: ServerId
    """The server through which it spoke last."""
    settled: Number = 0
    ended: dict[Number, Answer] = field(default_factory=dict)
    """The final answer to each request that may come again, by its number."""


class RequestHistory:
    """The histories of all clients whose lock servers are there."""

    def __init__(self) -> None:
        self.histories: dict[ClientId, ClientHistory] = {}
        self._answers = 0
        """The number of answers that are remembered."""

    def load(self, histories: Iterable[tuple[ClientId, ClientHistory]]) -> None:
        """Begin with these histories: those of a snapshot."""
        self.histories = dict(histories)
        self._answers = sum(len(history.ended) for history in self.histories.values())

    @property
    def answers(self) -> Pool:
        """Return the number of answers that are remembered, and how many may be."""
        return Pool("answers to be remembered", MOST_ANSWERS, self._answers, self._count)

    def _count(self, client: ClientId) -> int:
        history = self.histories.get(client)
        return len(history.ended) if history is not None else 0

    def recall(self, request: RequestId, settled: int, server: ServerId) -> Outcome | None:
        """Return the answer to a request that was answered before, or has no place; None if it is new, or open."""
        history = self._history(request, server)
        if history is None or self._answers >= MOST_ANSWERS:
            return Refused(request, Why.OVERFLOW)
        if settled > history.settled:
            history.settled = settled
            for number in [number for number in history.ended if number <= settled]:
                del history.ended[number]
                self._answers -= 1
        if request.number > history.settled + MOST_UNSETTLED:
            return Refused(request, Why.OVERFLOW)
        return self._answer(request, history)

    def refuse(self, request: RequestId, server: ServerId) -> Outcome:
        """Have a request that has not come yet refused when it does; return its outcome."""
        history, refused = self._history(request, server), Refused(request, Why.WITHDRAWN)
        if history is None or request.number > history.settled + 2 * MOST_UNSETTLED:
            return refused
        return self._answer(request, history) or self.note(refused)

    @staticmethod
    def _answer(request: RequestId, history: ClientHistory) -> Outcome | None:
        answer = history.ended.get(request.number)
        return Refused(request, Why.SETTLED) if answer is None and request.number <= history.settled else answer

    def _history(self, request: RequestId, server: ServerId) -> ClientHistory | None:
        """Return the history of a request's client; None where there is no place for another one."""
        history = self.histories.get(request.owner.client)
        if history is None:
            if len(self.histories) >= MOST_CLIENTS:
                return None
            history = self.histories[request.owner.client] = ClientHistory(server)
        history.server = server
        return history

    def note(self, outcome: AnyAnswer) -> AnyAnswer:
        """Remember a final answer."""
        history = self.histories.get(outcome.request.owner.client)
        if history is not None:
            self._answers += outcome.request.number not in history.ended
            history.ended[outcome.request.number] = outcome
        return outcome

    def forget(self, client: ClientId) -> None:
        """Forget a client that has ended, or cannot be reached."""
        history = self.histories.pop(client, None)
        if history is not None:
            self._answers -= len(history.ended)

    def stranded(self, servers: Collection[ServerId]) -> list[ClientId]:
        """Return the clients that spoke last through none of these servers, in their order."""
        return sorted(client for client, history in self.histories.items() if history.server not in servers)

    def image(self) -> list[tuple[ClientId, ClientHistory]]:
        """Return all histories; equal ones in equal order."""
        return [
            (client, ClientHistory(history.server, history.settled, dict(sorted(history.ended.items()))))
            for client, history in sorted(self.histories.items(), key=itemgetter(0))
        ]


class Places:
    """Where the open requests of one kind are: by request, and by client."""

    def __init__(self) -> None:
        self._names: dict[RequestId, bytes] = {}
        self._requests: dict[ClientId, set[RequestId]] = {}

    def __len__(self) -> int:
        return len(self._names)

    def count(self, client: ClientId) -> int:
        """Return the number of a client's requests."""
        return len(self._requests.get(client, ()))

    def add(self, request: RequestId, name: bytes) -> None:
        """Add an open request at a place."""
        self._names[request] = name
        self._requests.setdefault(request.owner.client, set()).add(request)

    def __getitem__(self, request: RequestId) -> bytes:
        return self._names[request]

    def get(self, request: RequestId) -> bytes | None:
        """Return the place of a request, if it is open."""
        return self._names.get(request)

    def remove(self, request: RequestId) -> None:
        """Remove a request that is not open any more."""
        del self._names[request]
        client = request.owner.client
        requests = self._requests[client]
        requests.remove(request)
        if not requests:
            del self._requests[client]

    def of(self, clients: Iterable[ClientId]) -> list[tuple[bytes, list[RequestId]]]:
        """Return the places of these clients' requests, by name, and the requests in each."""
        places: dict[bytes, list[RequestId]] = {}
        for request in sorted(request for client in clients for request in self._requests.get(client, ())):
            places.setdefault(self._names[request], []).append(request)
        return sorted(places.items())
