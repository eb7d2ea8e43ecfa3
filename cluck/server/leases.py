"""When leases end, as one lock server sees it: what it is to propose, and when (ruling E7).

A server counts a lease from when it delivered the grant or the renewal, and waits longer than any clock could be wrong.
The holder counts from before it sent its request, and less. A proposal has no effect where a renewal came first, so
nothing here decides anything. A leadership is held by a lease as a lock is (ruling E10).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import Final

from cluck.commands import Expire, Revoke
from cluck.state.application import DRIFT
from cluck.state.elections import Tenure
from cluck.state.lock_table import Ticket

NOTICE: Final = 0.8
"""The share of a lease after which its holder is asked for the lock."""
STANDBY: Final = 1.0
"""Seconds by which each further leader of the service proposes later than the one before it."""
_SLACK: Final = 4096
"""Entries for leases that have ended which are not worth a clean-up."""


def usable(lease: float) -> float:
    """Return how long a holder may rely on a lease, by its own clock."""
    return lease * (1 - DRIFT)


class Leases:
    """Locks and leaderships that are held, with when they were granted or renewed last."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[Ticket | Tenure, float]] = {}
        """By token: what is held, and when it was granted or renewed last."""
        self._ends: list[tuple[float, int, int, bool]] = []
        """A heap: when, token, renewals, and whether it is the end, or the notice before."""

    def begin(self, leased: Ticket | Tenure, now: float) -> None:
        """Note that something was granted, or renewed. Hot."""
        self._held[leased.token] = leased, now
        heappush(self._ends, (now + NOTICE * leased.lease * (1 + DRIFT), leased.token, leased.renewals, False))
        if len(self._ends) > 4 * len(self._held) + _SLACK:
            self._ends = [entry for entry in self._ends if self._is_valid(entry)]
            heapify(self._ends)

    def end(self, token: int) -> None:
        """Note that it is not held any more. Hot."""
        self._held.pop(token, None)

    def has(self, token: int) -> bool:
        """Return whether something was seen to be held under this token."""
        return token in self._held

    def load(self, held: Iterable[Ticket | Tenure], now: float) -> None:
        """Begin with what is held now, and nothing else; leases that are new to this server begin now."""
        known = self._held
        self._held, self._ends = {}, []
        for leased in held:
            former, since = known.get(leased.token, (None, now))
            self.begin(leased, since if former is not None and former.renewals == leased.renewals else now)

    def left(self, leased: Ticket | Tenure, now: float) -> float:
        """Return the seconds until a lease ends, without its grace."""
        _, since = self._held.get(leased.token, (leased, now))
        return since + leased.lease - now

    def deadline(self, rank: int) -> float:
        """Return when to call `due` again."""
        return self._ends[0][0] + rank * STANDBY if self._ends else math.inf

    def due(self, now: float, rank: int) -> Iterator[Revoke | Expire]:
        """Return what the leader of this rank is to propose by now: 0 is the first, the others stand by."""
        while self.deadline(rank) <= now:
            entry = heappop(self._ends)
            if not self._is_valid(entry):
                continue
            _, token, renewals, is_end = entry
            leased, since = self._held[token]
            if is_end:
                yield Expire(leased.name, token, renewals)
            else:
                yield Revoke(leased.name, token, renewals)
                end = since + leased.lease * (1 + DRIFT) + leased.grace
                heappush(self._ends, (end, token, renewals, True))

    def _is_valid(self, entry: tuple[float, int, int, bool]) -> bool:
        held = self._held.get(entry[1])
        return held is not None and held[0].renewals == entry[2]
