"""Reports waits for lock servers that are not ready: a line in the log when a wait lasts, another at its end.

Without it a program in the smaller part of a cluster would wait in silence, for ever if it has set no timeout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Final

from cluck.client.open_requests import OpenRequests
from cluck.client.requests import ClientCandidacy, ClientTicket

LOOK: Final = 1.0
"""Seconds between two looks. What waits at two of them is reported."""


class Standstill:
    """Looks at what waits, for as long as there is a lock server that is not ready."""

    def __init__(self, requests: OpenRequests, clock: Callable[[], float], warn: Callable[[str], None] | None) -> None:
        """`warn` is called with each line; None: nothing is reported."""
        self.deadline = math.inf
        """When to look, on the own clock."""
        self._requests = requests
        self._clock = clock
        self._warn = warn
        self._has_waited = self._is_reported = False
        self._awaiting = 0

    @contextmanager
    def awaiting(self) -> Generator[None, None, None]:
        """Count the program as waiting for the lock servers, for the time of a block."""
        self._awaiting += 1
        try:
            yield
        finally:
            self._awaiting -= 1

    def begin(self) -> None:
        """Begin to look: the lock servers are not ready."""
        if self.deadline == math.inf and self._warn is not None:
            self.deadline = self._clock() + LOOK

    def end(self, *, ready: bool) -> None:
        """Stop looking: the lock servers are ready, or the connection is lost, which is reported in another way."""
        self.deadline = math.inf
        self._has_waited = False
        if ready and self._is_reported and self._warn is not None:
            self._is_reported = False
            self._warn("the lock servers are ready again")

    def look(self, why: str) -> None:
        """Look, if it is time. `why`: the reason why the lock servers are not ready."""
        if self._clock() < self.deadline:
            return
        waiting = next(self._waiting(), None)
        if waiting is not None and self._has_waited and not self._is_reported and self._warn is not None:
            self._is_reported = True
            self._warn(f"{waiting} waits, since the lock servers are not ready: {why}; see cluck status")
        self._has_waited = waiting is not None
        self.deadline = self._clock() + LOOK

    def _waiting(self) -> Iterator[str]:
        for ticket in self._requests.all(ClientTicket):
            if not (ticket.is_held or ticket.is_ending):
                yield ticket.subject
        for candidacy in self._requests.all(ClientCandidacy):
            if not (candidacy.token or candidacy.is_ending):
                yield candidacy.subject
        if self._awaiting:
            yield "this program"
