"""What a client has open: its requests, their numbers, and what is to be said about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from cluck.client.requests import Request
from cluck.commands import MOST_UNSETTLED, Client, Owner, RequestId
from cluck.errors import ConnectionLost, LockError, Overflow
from cluck.protocol import Upward

AnyRequest = TypeVar("AnyRequest", bound=Request)


class Book:
    """The open requests of one client, and its outgoing words."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.changed = changed
        """Called when there is something new for the shell."""
        self.client: Client | None = None
        """Who the client is; None until the first welcome."""
        self.is_connected = False
        """What is said goes to a server; what is open is said again when there is one."""
        self.is_closed = False
        self.said: list[Upward] = []
        """What the shell has not taken."""
        self._number = 0
        self._open: dict[int, Request] = {}
        """By number, which ascends."""
        self._unknown: dict[int, Request] = {}
        """Those of which the replicated state may not have heard yet."""

    def say(self, said: Upward) -> None:
        """Say it, if somebody is there."""
        if self.is_connected:
            self.said.append(said)

    # ---- numbers

    def next(self, task: int) -> RequestId:
        """Return the number of a new request. Raises `Overflow`, `ConnectionLost` where the client has ended."""
        if self.is_closed:
            raise ConnectionLost("the program has closed its connection to the lock server")
        if len(self._open) >= MOST_UNSETTLED:
            raise Overflow(f"this client has {MOST_UNSETTLED} requests open, which is as many as it may")
        return self.draw(task)

    def draw(self, task: int) -> RequestId:
        """Return a new number for a request that is open."""
        assert self.client is not None, "requests come behind the first welcome"
        self._number += 1
        return RequestId(Owner(self.client, task), self._number)

    @property
    def settled(self) -> int:
        """All requests up to this one are answered for good, or known, in a command that is being made.

        What the state knows it recognizes as long as that is open; otherwise who holds a lock for long could not ask
        for more than `MOST_UNSETTLED` other things.
        """
        return next(iter(self._unknown), self._number) - 1

    # ---- requests

    def begin(self, request: AnyRequest, command: Upward) -> AnyRequest:
        """Open a request."""
        self._open[request.id.number] = self._unknown[request.id.number] = request
        self.say(command)
        return request

    def know(self, request: Request) -> None:
        """The replicated state has it."""
        self._unknown.pop(request.id.number, None)

    def forget(self, request: Request) -> None:
        """It is not open under its number any more."""
        self._unknown.pop(request.id.number, None)
        self._open.pop(request.id.number, None)

    def end(self, request: Request) -> None:
        """It was answered for good."""
        self.forget(request)
        request.is_over = True
        request.close()
        request.changed()

    def fail(self, request: Request, failure: LockError) -> None:
        """It will not come to what was wanted."""
        request.failure = request.failure or failure
        self.end(request)

    def find(self, request: RequestId, kind: type[AnyRequest]) -> AnyRequest | None:
        """Return a request of a kind, if it is open."""
        found = self._open.get(request.number)
        return found if isinstance(found, kind) and found.id == request else None

    def all(self, kind: type[AnyRequest]) -> Iterator[AnyRequest]:
        """Return the open requests of a kind, in their order."""
        return (request for request in list(self._open.values()) if isinstance(request, kind))
