"""How many rounds each member may call, so that no member keeps the others from deciding (ruling E2e).

All members of the group must come to the same result: one that begins a round which others do not begin is lost to
them. So nothing counts here but what all are told in one order, since they formed a ring or since a server that came
has called its first round. Before that it says nothing else, and from then on it knows what the others know.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from cpg.events import Member

MOST: Final = 8
"""Rounds that a member may call until it is forgiven: further ones count for nothing."""
FORGIVENESS: Final = 60.0
"""Seconds until the others forgive it."""


class RoundLimits:
    """What one server knows of the rounds that were called, as all others do."""

    def __init__(self) -> None:
        self.restless: set[Member] = set()
        """The members that have called more rounds than they may."""
        self._numbers: dict[Member, int] = {}
        self._callers: set[Member] = set()
        """The members that have called any."""
        self._fresh: list[Member] = []
        """The members that have come and called none yet, in their order."""

    def on_ring(self) -> None:
        """Begin a ring: its members may know nothing of each other."""
        self._callers, self._fresh = set(), []

    def on_change(self, left: Collection[Member], joined: Collection[Member]) -> None:
        """Note that members have left, and others have come."""
        self._fresh = [member for member in self._fresh if member not in left] + sorted(joined)
        self._callers.difference_update(left)
        self.restless.difference_update(left)
        for member in self._numbers.keys() & left:
            del self._numbers[member]

    def count(self, member: Member) -> bool:
        """Count a round; return whether it begins. A member's first round has the counts of all others forgotten."""
        if member in self._fresh:  # those who came before it know what is new to it; those after it will call first
            self._fresh = self._fresh[self._fresh.index(member) + 1 :]
            self._callers = set()
        if member not in self._callers:
            self._callers.add(member)
            self._numbers, self.restless = {}, set()
        self._numbers[member] = 1 + self._numbers.get(member, 0)
        if self._numbers[member] > MOST:
            self.restless.add(member)
        return self._numbers[member] <= MOST

    def on_silent(self, member: Member) -> None:
        """Let a member that was left out of a round call one more, which it answers if it has come to again."""
        self._numbers[member] = max(self._numbers.get(member, 0), MOST - 1)

    def forgive(self, sender: Member, members: Collection[Member]) -> None:
        """Let the members of other nodes call rounds again; where all are of one node, the others of that node."""
        is_alone = all(member.node_id == sender.node_id for member in members)
        for member in self._numbers.keys() | self.restless:
            is_forgiven = member.node_id != sender.node_id or (is_alone and member != sender)
            if is_forgiven and self._numbers.pop(member, 0) <= MOST:
                self.restless.discard(member)

    def may(self, member: Member) -> bool:
        """Return whether the next round that a member calls begins."""
        return self._numbers.get(member, 0) < MOST

    @property
    def are_many(self) -> bool:
        """Return whether there is something to forgive."""
        return bool(self.restless) or max(self._numbers.values(), default=0) >= MOST - 1
