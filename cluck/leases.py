"""When leases end, as one lock server sees it: what it is to propose, and when (ruling E7).

A server counts a lease from when it delivered the grant or the renewal, and waits longer than any clock could be wrong;
the holder counted from before it sent its request, and less. What is proposed is void where a renewal came first, so
that nothing here decides anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import Final

from cluck.commands import Expire, Revoke
from cluck.tickets import Ticket

DRIFT: Final = 0.001
"""Clocks' rates differ by no more than this share."""
NOTICE: Final = 0.8
"""The share of a lease after which its holder is asked for the lock."""
STANDBY: Final = 5.0
"""Seconds by which each further leader proposes later than the one before."""
_SLACK: Final = 4096
"""Entries for what has ended already that are not worth a clean-up."""


def usable(lease: float) -> float:
    """How long a holder may rely on a lease, by its own clock."""
    return lease * (1 - DRIFT)


class Leases:
    """The tickets that hold locks, with when they were granted or renewed last."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[Ticket, float]] = {}
        """By token: the ticket, and when it was granted, or renewed last."""
        self._ends: list[tuple[float, int, int, bool]] = []
        """A heap: when, token, renewals, and whether it is the end, or the notice before."""

    def begin(self, ticket: Ticket, now: float) -> None:
        """A ticket was granted, or renewed. Hot."""
        self._held[ticket.token] = ticket, now
        heappush(self._ends, (now + NOTICE * ticket.lease * (1 + DRIFT), ticket.token, ticket.renewals, False))
        if len(self._ends) > 4 * len(self._held) + _SLACK:
            self._ends = [entry for entry in self._ends if self._is_valid(entry)]
            heapify(self._ends)

    def end(self, token: int) -> None:
        """It holds nothing any more. Hot."""
        self._held.pop(token, None)

    def has(self, token: int) -> bool:
        """Whether this token was seen to hold a lock."""
        return token in self._held

    def load(self, holders: Iterable[Ticket], now: float) -> None:
        """These hold locks now, and no others; of those that are new to this server it knows no more than that."""
        known = self._held
        self._held, self._ends = {}, []
        for ticket in holders:
            former, since = known.get(ticket.token, (None, now))
            self.begin(ticket, since if former is not None and former.renewals == ticket.renewals else now)

    def left(self, ticket: Ticket, now: float) -> float:
        """Seconds until a lease ends, without its grace."""
        _, since = self._held.get(ticket.token, (ticket, now))
        return since + ticket.lease - now

    def deadline(self, rank: int) -> float:
        """When `due` is to be asked again."""
        return self._ends[0][0] + rank * STANDBY if self._ends else math.inf

    def due(self, now: float, rank: int) -> Iterator[Revoke | Expire]:
        """What is to be proposed by now, by the leader of this rank: 0 is the first, the others stand by."""
        while self.deadline(rank) <= now:
            entry = heappop(self._ends)
            if not self._is_valid(entry):
                continue
            _, token, renewals, is_end = entry
            ticket, since = self._held[token]
            if is_end:
                yield Expire(ticket.name, token, renewals)
            else:
                yield Revoke(ticket.name, token, renewals)
                end = since + ticket.lease * (1 + DRIFT) + ticket.grace
                heappush(self._ends, (end, token, renewals, True))

    def _is_valid(self, entry: tuple[float, int, int, bool]) -> bool:
        held = self._held.get(entry[1])
        return held is not None and held[0].renewals == entry[2]
