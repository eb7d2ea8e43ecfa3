"""How much all clients of a daemon may have together (places, groups, bytes), and how much of it each user.

A user may have as much as stays free for others. So the first user may take half, the next one half of the rest, and so
on: nobody can take everything, and later users find something. A user who has nothing may take one thing, as long as
there is room. Root and the daemon's own user may have all of it, and an eighth is for them alone.

Bytes that wait for clients cannot be refused, since they come from others: where they are too many, the client with the
most is disconnected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from typing import Final, Protocol, TypeVar

KEPT: Final = 8
"""The trusted users' own part is one of this many: an eighth."""


class WaitingClient(Protocol):
    """A client that may be behind with reading."""

    uid: int
    ended: bool
    """It has been disconnected already."""

    @property
    def size(self) -> int:
        """Bytes that wait for it."""


AnyClient = TypeVar("AnyClient", bound=WaitingClient)


def furthest_behind(clients: Iterable[AnyClient]) -> AnyClient | None:
    """Return the client to be disconnected: of the user with the most waiting bytes, the client with the most."""
    there = [client for client in clients if not client.ended]
    waiting: Counter[int] = Counter()
    for client in there:
        waiting[client.uid] += client.size
    return max(there, key=lambda client: (waiting[client.uid], client.size), default=None)


def leaves_room(total: int, taken: int, own: int, amount: int = 1) -> bool:
    """Return whether a user who is not trusted, and has `own` of what is taken, may have `amount` more."""
    free = total - total // KEPT - taken - amount
    return free >= 0 and (not own or own + amount <= free)


class Shares:
    """The shares of one thing; a machine."""

    def __init__(self, total: int, trusted: Container[int]) -> None:
        """`total`: for all users together; `trusted`: the users (uids) who may have all of it."""
        self.total = total
        self.taken = 0
        self._trusted = trusted
        self._of: Counter[int] = Counter()
        """The amount that each user has."""

    def of(self, uid: int) -> int:
        """Return the amount that a user has."""
        return self._of[uid]

    def may_take(self, uid: int, amount: int = 1) -> bool:
        """Return whether a user may have `amount` more."""
        if uid in self._trusted:
            return self.taken + amount <= self.total
        return leaves_room(self.total, self.taken, self._of[uid], amount)

    def take(self, uid: int, amount: int = 1) -> bool:
        """Take an amount for a user; return False, and take nothing, where that would be too much."""
        may = self.may_take(uid, amount)
        if may:
            self.taken += amount
            self._of[uid] += amount
        return may

    def give(self, uid: int, amount: int = 1) -> None:
        """Give an amount back."""
        self.taken -= amount
        self._of[uid] -= amount
        if not self._of[uid]:
            del self._of[uid]  # users come and go


def no_place(places: Shares, uid: int) -> str:
    """Return the text for a user that has as many programs at the daemon as it may have."""
    return (
        f"the daemon serves {places.taken} programs, {places.of(uid)} of them of the user with uid {uid}, who may have "
        "no more: end some, or try again later"
    )
