"""Compares a client's clock with its lock server's, by which deadlines are told: a part of `cluck.client.session`.

The two are compared at the welcome, and again where nothing seems to be left of a lease: a server that was slow to
welcome has told its clock badly, and all deadlines by it would come too early.
"""

from __future__ import annotations

from collections.abc import Callable

from cluck.client.open_requests import Book
from cluck.client.requests import Request
from cluck.protocol import Clock, ReadClock


class Comparison:
    """The two clocks."""

    def __init__(self, book: Book, clock: Callable[[], float]) -> None:
        """`clock`: the own boot-time clock, in seconds."""
        self._book = book
        self._clock = clock
        self._ahead = 0.0
        """What the own clock is ahead of the server's, at most."""
        self._late: dict[Request, Callable[[], None]] = {}
        """Those of whose leases nothing seemed to be left, and what is to be done when the server's clock is known."""
        self._read_at = 0.0
        """When it was asked for, on the own clock."""

    def on_welcome(self, greeted_at: float, clock: float) -> None:
        """A server has welcomed this client, and told its clock, some time behind the greeting."""
        self._ahead = greeted_at - clock
        self._late = {}

    def own(self, deadline: float) -> float:
        """Return a deadline on the own clock, never too late; 0 is none."""
        return deadline + self._ahead if deadline else 0.0

    def compare(self, request: Request, then: Callable[[], None]) -> None:
        """Have the server tell its clock again, then do this for a request of whose lease nothing seemed to be left."""
        if not self._late:
            self._read_at = self._clock()
            self._book.say(ReadClock())
        self._late[request] = then

    def on_clock(self, clock: Clock) -> None:
        """The server has told its clock."""
        self._ahead = max(self._ahead, self._read_at - clock.clock)
        late, self._late = self._late, {}
        for then in late.values():
            then()
