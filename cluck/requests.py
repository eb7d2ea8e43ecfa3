"""What has become of requests that may come again: each is done once while its client is remembered.

A client numbers its requests. One that was answered for good is remembered with its answer until the client says that
it will not come again (`settled`), or has ended, or its lock server has left the view: what comes again behind that is
new. A client may also call one settled that is still open, as a lock that it holds; the answer for good to that is
remembered until it calls more settled.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from operator import itemgetter
from typing import TypeVar

from msgspec import Struct, field

from cluck.commands import (
    Client,
    Ended,
    Notified,
    Number,
    Outcome,
    Published,
    Refused,
    RequestId,
    Server,
    Why,
    Woken,
)

Final = Refused | Ended | Notified | Woken | Published
"""Answers for good."""

AnyFinal = TypeVar("AnyFinal", Refused, Ended, Notified, Woken, Published)


class History(Struct, array_like=True):
    """What is remembered of one client."""

    server: Server
    """Through which it spoke last."""
    settled: Number = 0
    ended: dict[int, Final] = field(default_factory=dict)
    """The answer to each request that may come again, by its number."""


class Requests:
    """The histories of all clients whose lock servers are there."""

    def __init__(self) -> None:
        self.histories: dict[Client, History] = {}

    def recall(self, request: RequestId, settled: int, server: Server) -> Outcome | None:
        """Return the answer to a request that was answered before; None if it is new, or still open."""
        history = self._history(request, server)
        if settled > history.settled:
            history.settled = settled
            for number in [number for number in history.ended if number <= settled]:
                del history.ended[number]
        return self._answer(request, history)

    def refuse(self, request: RequestId, server: Server) -> Outcome:
        """Have a request that has not come yet refused when it does; return what has become of it."""
        history = self._history(request, server)
        return self._answer(request, history) or self.note(Refused(request, Why.WITHDRAWN))

    @staticmethod
    def _answer(request: RequestId, history: History) -> Outcome | None:
        answer = history.ended.get(request.number)
        return Refused(request, Why.SETTLED) if answer is None and request.number <= history.settled else answer

    def _history(self, request: RequestId, server: Server) -> History:
        history = self.histories.get(request.owner.client)
        if history is None:
            history = self.histories[request.owner.client] = History(server)
        history.server = server
        return history

    def note(self, outcome: AnyFinal) -> AnyFinal:
        """Remember an answer for good."""
        history = self.histories.get(outcome.request.owner.client)
        if history is not None:
            history.ended[outcome.request.number] = outcome
        return outcome

    def forget(self, client: Client) -> None:
        """A client has ended, or cannot be reached."""
        self.histories.pop(client, None)

    def stranded(self, servers: Collection[Server]) -> list[Client]:
        """The clients that spoke last through a server which is none of these, in their order."""
        return sorted(client for client, history in self.histories.items() if history.server not in servers)

    def image(self) -> list[tuple[Client, History]]:
        """All of it, in an order that is the same for histories that are the same."""
        return [
            (client, History(history.server, history.settled, dict(sorted(history.ended.items()))))
            for client, history in sorted(self.histories.items(), key=itemgetter(0))
        ]


class Places:
    """Where the open requests of one kind are: by request, and by client."""

    def __init__(self) -> None:
        self._names: dict[RequestId, bytes] = {}
        self._requests: dict[Client, set[RequestId]] = {}

    def __len__(self) -> int:
        return len(self._names)

    def put(self, request: RequestId, name: bytes) -> None:
        """A request is open in this place."""
        self._names[request] = name
        self._requests.setdefault(request.owner.client, set()).add(request)

    def __getitem__(self, request: RequestId) -> bytes:
        return self._names[request]

    def get(self, request: RequestId) -> bytes | None:
        """Return the place of a request, if it is open."""
        return self._names.get(request)

    def remove(self, request: RequestId) -> None:
        """A request is not open any more."""
        del self._names[request]
        client = request.owner.client
        requests = self._requests[client]
        requests.remove(request)
        if not requests:
            del self._requests[client]

    def of(self, clients: Iterable[Client]) -> list[tuple[bytes, list[RequestId]]]:
        """Return the places of these clients' requests in the order of their names, and the requests in each."""
        places: dict[bytes, list[RequestId]] = {}
        for request in sorted(request for client in clients for request in self._requests.get(client, ())):
            places.setdefault(self._names[request], []).append(request)
        return sorted(places.items())
