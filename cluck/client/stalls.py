"""What a program is told where it waits for lock servers that are not ready: a line when that lasts, one at its end.

Without it a program in the smaller part of a cluster would wait in silence, for ever if it has set no timeout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Final

from cluck.client.open_requests import Book
from cluck.client.requests import Candidacy, Ticket

LOOK: Final = 1.0
"""Seconds between two looks; what waits at two of them is told of."""


class Standstill:
    """Looks at what waits, as long as there is a lock server and it is not ready."""

    def __init__(self, book: Book, clock: Callable[[], float], warn: Callable[[str], None] | None) -> None:
        """`warn` is called with each line; None: nobody is told."""
        self.deadline = math.inf
        """When to look, on the own clock."""
        self._book = book
        self._clock = clock
        self._warn = warn
        self._has_waited = self._is_told = False
        self._awaiting = 0

    @contextmanager
    def awaiting(self) -> Generator[None, None, None]:
        """Wait for the lock servers to be ready, for the time of a block."""
        self._awaiting += 1
        try:
            yield
        finally:
            self._awaiting -= 1

    def begin(self) -> None:
        """The lock servers are not ready."""
        if self.deadline == math.inf and self._warn is not None:
            self.deadline = self._clock() + LOOK

    def end(self, *, ready: bool) -> None:
        """They are ready, or there is no connection, of which the program is told in another way."""
        self.deadline = math.inf
        self._has_waited = False
        if ready and self._is_told and self._warn is not None:
            self._is_told = False
            self._warn("the lock servers are ready again")

    def look(self, why: str) -> None:
        """Look, if it is time; `why`: they are not ready."""
        if self._clock() < self.deadline:
            return
        waiting = next(self._waiting(), None)
        if waiting is not None and self._has_waited and not self._is_told and self._warn is not None:
            self._is_told = True
            self._warn(f"{waiting} waits, since the lock servers are not ready: {why}; see cluck status")
        self._has_waited = waiting is not None
        self.deadline = self._clock() + LOOK

    def _waiting(self) -> Iterator[str]:
        for ticket in self._book.all(Ticket):
            if not (ticket.is_held or ticket.is_ending):
                yield ticket.subject
        for candidacy in self._book.all(Candidacy):
            if not (candidacy.token or candidacy.is_ending):
                yield candidacy.subject
        if self._awaiting:
            yield "this program"
