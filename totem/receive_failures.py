"""Deafness: a member gets the token but not what others send, and the ring waits for it (rulings, A9).

While somebody lacks a message the aru stands still, and its holder says who that is. How long that may last is counted
in visits, as Corosync counts, and in seconds, since a ring with nothing else to do rests between them.

Who has the message may judge. The holder is deaf, if it has reached anybody but its originator; if not, the originator
is not heard, which it finds out by nobody else's having judged before. A holder that nobody judges gives itself up.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

_BY_VISITS = 1.0
"""Seconds that the aru must stand still at least, however many visits a fast ring makes."""
_BY_TIME = 4.0
_FEW_VISITS = 20
"""Seconds, and visits, after which it has stood still for long, however few visits a resting ring makes."""

_FIRST = 10.0
_LONGEST = 300.0
"""Seconds for which a deaf node is left out, at first and at most: twice as long each time."""
_MEMORY = 600.0
"""Who has been deaf again within so many seconds of its return is left out for longer."""


class AruStall:
    """For how long the aru of a ring has stood still, as one member sees it."""

    __slots__ = ("_since", "_visits", "by_visits", "lasts", "reason")

    def __init__(self) -> None:
        self._since = 0.0
        self._visits = 0
        self.by_visits = 0.0
        """How many times what may be has passed, as Corosync counts; 0 while the aru moves."""
        self.lasts = 0.0
        """The same in visits or in seconds, whichever is more."""
        self.reason = ""
        """Who does not receive what, where that takes long."""

    def end(self, now: float) -> None:
        """The aru has moved, or nobody lacks anything."""
        self._since = now
        self._visits = 0
        self.by_visits = self.lasts = 0.0
        self.reason = ""

    def note_visit(self, limit: int, now: float) -> None:
        """Count a visit on which the same member holds the same aru; `limit` is `fail_recv_const`."""
        self._visits += 1
        seconds = now - self._since
        self.by_visits = min(self._visits / limit if limit else inf, seconds / _BY_VISITS)
        by_time = seconds / _BY_TIME if self._visits >= _FEW_VISITS else 0.0
        self.lasts = max(self.by_visits, by_time)


class Exclusion(NamedTuple):
    """A node that is left out of the ring."""

    until: float
    """By the processor's clock."""
    seconds: float
    """So long in all."""
    reason: str


class Exclusions:
    """Who is left out of the ring for a while, since it did not receive; on its own side everybody else."""

    def __init__(self) -> None:
        self._absences: dict[int, Exclusion] = {}

    def next_term(self, node_id: int, now: float) -> float:
        """Seconds for which a node would be left out now."""
        last = self._absences.get(node_id)
        if last is None or now - last.until > _MEMORY:
            return _FIRST
        return min(2 * last.seconds, _LONGEST)

    def add(self, node_id: int, now: float, reason: str, early: float = 0.0) -> None:
        """Leave a node out from now on, for a term that may end up to `early` seconds before its time."""
        seconds = self.next_term(node_id, now)
        self._absences[node_id] = Exclusion(now + seconds - min(early, seconds / 5), seconds, reason)

    def has(self, node_id: int, now: float) -> bool:
        """Whether a node is left out."""
        absence = self._absences.get(node_id)
        return absence is not None and now < absence.until

    def end(self, node_id: int) -> None:
        """Let a node come back: it has left in good order, or another member takes it in."""
        absence = self._absences.get(node_id)
        if absence is not None:
            self._absences[node_id] = absence._replace(until=0.0)

    def all(self) -> dict[int, Exclusion]:
        """Whoever has been left out, by node id."""
        return dict(self._absences)
