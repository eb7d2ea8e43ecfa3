"""Compares a client's clock with its lock server's, which counts the deadlines: a part of `cluck.client.session`.

The clocks are compared at the welcome, and again where nothing seems to be left of a lease. A server that welcomed late
has reported its clock badly: all deadlines that are computed from it would come too early.
"""

from __future__ import annotations

from collections.abc import Callable

from cluck.client.open_requests import OpenRequests
from cluck.client.requests import Request
from cluck.protocol import Clock, ReadClock


class Comparison:
    """The two clocks."""

    def __init__(self, requests: OpenRequests, clock: Callable[[], float]) -> None:
        """`clock`: the own boot-time clock, in seconds."""
        self._requests = requests
        self._clock = clock
        self._ahead = 0.0
        """The most seconds that the own clock can be ahead of the server's."""
        self._late: dict[Request, Callable[[], None]] = {}
        """Requests whose leases seemed to be over, and what to call when the server's clock is known."""
        self._read_at = 0.0
        """When the server's clock was requested, on the own clock."""

    def on_welcome(self, greeted_at: float, clock: float) -> None:
        """Take the clock from a server's welcome, which it has read some time after the greeting."""
        self._ahead = greeted_at - clock
        self._late = {}

    def own(self, deadline: float) -> float:
        """Return a deadline on the own clock, never too late. 0 is no deadline."""
        return deadline + self._ahead if deadline else 0.0

    def compare(self, request: Request, then: Callable[[], None]) -> None:
        """Read the server's clock again, then call this for a request whose lease seemed to be over."""
        if not self._late:
            self._read_at = self._clock()
            self._requests.submit(ReadClock())
        self._late[request] = then

    def on_clock(self, clock: Clock) -> None:
        """Take the server's clock, and call what waits for it."""
        self._ahead = max(self._ahead, self._read_at - clock.clock)
        late, self._late = self._late, {}
        for then in late.values():
            then()
