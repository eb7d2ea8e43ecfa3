"""What all clients of a daemon may have together (places, groups, bytes), and how much of it each user.

A user may have as much as stays free for others. So the first one may take half, the next one half of the rest, and so
on: nobody can take everything, and who comes later finds something. One who has nothing may take one thing, as long as
there is room. Root and the daemon's own user may have all of it, and an eighth is for them alone.
What waits for clients cannot be refused, since it comes from others: where it is too much, who has most is put out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from typing import Final, Protocol, TypeVar

KEPT: Final = 8
"""The part of all that is kept for the trusted users: an eighth."""


class WaitingClient(Protocol):
    """A client, as far as it is behind with reading."""

    uid: int
    ended: bool
    """It has been put out already."""

    @property
    def size(self) -> int:
        """Bytes that wait for it."""


AnyClient = TypeVar("AnyClient", bound=WaitingClient)


def furthest_behind(clients: Iterable[AnyClient]) -> AnyClient | None:
    """Find who is to be put out: of the user for whom most waits, the client for which most does."""
    there = [client for client in clients if not client.ended]
    waiting: Counter[int] = Counter()
    for client in there:
        waiting[client.uid] += client.size
    return max(there, key=lambda client: (waiting[client.uid], client.size), default=None)


def leaves_room(total: int, taken: int, own: int, amount: int = 1) -> bool:
    """Whether a user who is not trusted, and has `own` of what is taken, may have so much more."""
    free = total - total // KEPT - taken - amount
    return free >= 0 and (not own or own + amount <= free)


class Shares:
    """Of one thing; a machine."""

    def __init__(self, total: int, trusted: Container[int]) -> None:
        """`total`: of what is counted, for all users; `trusted`: the users (uids) who may have all of it."""
        self.total = total
        self.taken = 0
        self._trusted = trusted
        self._of: Counter[int] = Counter()
        """What each user has."""

    def of(self, uid: int) -> int:
        """What a user has."""
        return self._of[uid]

    def may_take(self, uid: int, amount: int = 1) -> bool:
        """Whether a user may have so much more."""
        if uid in self._trusted:
            return self.taken + amount <= self.total
        return leaves_room(self.total, self.taken, self._of[uid], amount)

    def take(self, uid: int, amount: int = 1) -> bool:
        """Take something for a user; False, and nothing taken, where that would be more than it may have."""
        may = self.may_take(uid, amount)
        if may:
            self.taken += amount
            self._of[uid] += amount
        return may

    def give(self, uid: int, amount: int = 1) -> None:
        """Give something back."""
        self.taken -= amount
        self._of[uid] -= amount
        if not self._of[uid]:
            del self._of[uid]  # users come and go
