"""Users take turns at a daemon, so that the requests of one user's clients delay neither the ring nor other users.

All tasks of a daemon, the ring's among them, run one after another. The clients of a user, however many, are served for
a few milliseconds together before everybody else has had a turn. Where their messages wait for room in the ring, one of
them waits and the others queue behind it. So users get the room in turn.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Final

import trio

SLICE: Final = 0.005
"""Seconds for which the clients of one user are served before all other tasks have a turn."""


class Turns:
    """The turns of one kind of client."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock`: in seconds."""
        self.clock = clock
        self._spent: defaultdict[int, float] = defaultdict(float)
        """Seconds that each user has had in this turn."""
        self._waiting: defaultdict[int, trio.lowlevel.ParkingLot] = defaultdict(trio.lowlevel.ParkingLot)
        """Clients of each user that wait for the next turn."""
        self._news = trio.lowlevel.ParkingLot()
        self._lines: defaultdict[int, trio.Lock] = defaultdict(trio.Lock)

    def is_over(self, uid: int) -> bool:
        """Return whether the user has had its turn, or others of its clients wait: then wait for the `next`. Hot."""
        return self._spent[uid] > SLICE or bool(self._waiting[uid])

    def charge(self, uid: int, begun: float) -> None:
        """Count the time since `begun` for a user. Hot: once for each record."""
        self._spent[uid] += self.clock() - begun
        if self._spent[uid] <= SLICE:
            self._waiting[uid].unpark()

    async def next(self, uid: int) -> None:
        """Wait for the user's next turn, behind its other clients."""
        self._news.unpark()
        await self._waiting[uid].park()

    def line(self, uid: int) -> trio.Lock:
        """Return the lock that a client of the user holds while it waits for room in the ring."""
        return self._lines[uid]

    async def run(self) -> None:
        """Give users their turns, behind all other tasks, until cancelled."""
        while True:
            if not any(self._waiting.values()):
                await self._news.park()
            await trio.lowlevel.checkpoint()
            self._spent.clear()
            for waiting in self._waiting.values():
                waiting.unpark()
