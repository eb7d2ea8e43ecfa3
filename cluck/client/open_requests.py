"""The requests that a client has open: their numbers, and what is to be submitted about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from cluck.client.requests import Request
from cluck.commands import MOST_UNSETTLED, ClientId, Owner, RequestId
from cluck.errors import ConnectionLost, LockError, Overflow
from cluck.protocol import Upward

AnyRequest = TypeVar("AnyRequest", bound=Request)


class OpenRequests:
    """The open requests of one client, and its outgoing records."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.changed = changed
        """Called when there is something new for the shell."""
        self.client: ClientId | None = None
        """Who the client is; None until the first welcome."""
        self.is_connected = False
        """Whether records go to a server. Open requests are submitted again with the next connection."""
        self.is_closed = False
        self.why_closed = "the program has closed its connection to the lock server"
        """Why no request can be answered, when it is closed."""
        self.outgoing: list[Upward] = []
        """The records that the shell has not taken."""
        self._number = 0
        self._open: dict[int, Request] = {}
        """By number, ascending."""
        self._unknown: dict[int, Request] = {}
        """Those that the replicated state may not have seen yet."""

    def submit(self, record: Upward) -> None:
        """Submit a record, if there is a connection."""
        if self.is_connected:
            self.outgoing.append(record)

    # ---- numbers

    def next_id(self, task: int) -> RequestId:
        """Return the id of a new request.

        Raises:
            ConnectionLost: The client has ended.
            Overflow: As many requests are open as may be.
        """
        if self.is_closed:
            raise ConnectionLost(self.why_closed)
        if len(self._open) >= MOST_UNSETTLED:
            raise Overflow(f"this client has {MOST_UNSETTLED} requests open, which is as many as it may")
        return self.new_id(task)

    def new_id(self, task: int) -> RequestId:
        """Return a new id for a request that is open already."""
        assert self.client is not None, "requests come after the first welcome"
        self._number += 1
        return RequestId(Owner(self.client, task), self._number)

    @property
    def settled(self) -> int:
        """The number up to which all requests are answered for good, or known, for a command that is being made.

        The state recognizes known requests for as long as they are open. Without them a client that holds a lock for
        long could make only `MOST_UNSETTLED` other requests.
        """
        return next(iter(self._unknown), self._number) - 1

    # ---- requests

    def begin(self, request: AnyRequest, command: Upward) -> AnyRequest:
        """Open a request and submit its command."""
        self._open[request.id.number] = self._unknown[request.id.number] = request
        self.submit(command)
        return request

    def mark_known(self, request: Request) -> None:
        """Note that the replicated state has seen a request."""
        self._unknown.pop(request.id.number, None)

    def forget(self, request: Request) -> None:
        """Close a request under its number; it may be opened again under another."""
        self._unknown.pop(request.id.number, None)
        self._open.pop(request.id.number, None)

    def end(self, request: Request) -> None:
        """Close a request that was answered for good."""
        self.forget(request)
        request.is_over = True
        request.close()
        request.changed()
        request.changed = _nothing  # no circle with what waits for it, which only the garbage collector would free

    def fail(self, request: Request, failure: LockError) -> None:
        """Close a request that will not be granted. An earlier failure is kept."""
        request.failure = request.failure or failure
        self.end(request)

    def find(self, request: RequestId, kind: type[AnyRequest]) -> AnyRequest | None:
        """Return an open request of a kind; None if there is none with this id."""
        found = self._open.get(request.number)
        return found if isinstance(found, kind) and found.id == request else None

    def all(self, kind: type[AnyRequest]) -> Iterator[AnyRequest]:
        """Return the open requests of a kind, in their order."""
        return (request for request in list(self._open.values()) if isinstance(request, kind))


def _nothing() -> None:
    """Do nothing: a request that is over does not change."""
