"""How much of a primary view is known to last, so that its outcomes may be reported: rulings E3 and E4.

A command is final where it was delivered as SAFE. Where the rings have no SAFE, it is final when servers on a majority
of nodes have acknowledged it in this very view.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from cpg.events import Member
from cpg.replication.wire import Lineage


class Finality:
    """How far one view has come, at one server. Messages are counted; number 0 is the view's beginning itself."""

    def __init__(
        self, lineage: Lineage, member: Member, *, is_safe: bool, is_quorum: Callable[[Collection[Member]], bool]
    ) -> None:
        """`lineage`: the view's; `is_safe`: its rings report what is safe; `is_quorum`: whether members decide."""
        self.number = -1
        """All up to here is final."""
        self.is_ack_under_way = False
        """This server has acknowledged something that is not in the order yet."""
        self._lineage = lineage
        self._member = member
        self._is_safe = is_safe
        self._is_quorum = is_quorum
        self._mark = 0
        self._acks: dict[Member, int] = {}

    @property
    def lineage(self) -> Lineage:
        """Return how far the state has come, as far as that counts for the choice of a base."""
        return self._lineage._replace(mark=self._mark)

    def on_applied(self, number: int) -> None:
        """Note that a message was applied. Hot: once for each."""
        if self._is_safe:
            self._mark = number

    def on_safe(self, number: int) -> bool:
        """Note that all up to here is safe; return whether that makes more of it final. Hot: once for each message."""
        return self._is_safe and self._rise(number)

    def _rise(self, number: int) -> bool:
        if number <= self.number:
            return False
        self.number = number
        return True

    def begin_ack(self, number: int) -> bool:
        """Return whether to acknowledge up to here: without SAFE, once the last acknowledgement has come back."""
        if self._is_safe or self.is_ack_under_way or self._acks.get(self._member, -1) >= number:
            return False
        self.is_ack_under_way = True
        return True

    def on_ack(self, sender: Member, number: int) -> bool:
        """Note how far a server of the view is; return whether that makes more final."""
        if self._is_safe:
            return False
        self._acks[sender] = number
        if sender == self._member:
            self.is_ack_under_way = False
            self._mark = number
        mine = self._acks.get(self._member, -1)
        for reached in sorted({min(mine, acked) for acked in self._acks.values()}, reverse=True):
            if reached <= self.number:
                break
            if self._is_quorum([member for member, acked in self._acks.items() if acked >= reached]):
                return self._rise(reached)
        return False
