"""Unheard: members that do not hear each other in a ring that works all the same, for the operator (rulings, F7).

They get each other's messages by retransmission, so nothing changes. A member that has died is not heard either, and
then the token stops: so nothing is said before the token has come round with the pair unheard for a while.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from totem.diagnostics import Diagnostics
from totem.hearing import Hearing

_SETTLED: Final = 2.0
"""Seconds in which the token still comes, until a pair is named."""


class Unheard:
    """The members of one ring with which packets do not pass both ways."""

    def __init__(self, diagnostics: Diagnostics) -> None:
        self._diagnostics = diagnostics
        self._members: Collection[int] = ()
        self._since: dict[int, tuple[float, Hearing]] = {}
        """Members that are not named yet: since when, and which direction is cut."""
        self._named: set[int] = set()

    def begin_ring(self, members: Collection[int]) -> None:
        """Forget the last ring."""
        self._members = members
        self._since.clear()
        self._named.clear()

    def note(self, node_id: int, hearing: Hearing, now: float) -> None:
        """Take who hears whom between this node and another one."""
        if node_id not in self._members:
            return
        if not all(hearing):
            if node_id not in self._named:
                since, _ = self._since.get(node_id, (now, hearing))
                self._since[node_id] = since, hearing
            return
        self._since.pop(node_id, None)
        if node_id in self._named:
            self._named.remove(node_id)
            self._diagnostics.remark_heard_again(node_id)

    def visit(self, now: float) -> None:
        """Name who has not been heard for a while; the token has come, so the ring works."""
        for node_id, (since, hearing) in [*self._since.items()]:
            if now - since >= _SETTLED:
                del self._since[node_id]
                self._named.add(node_id)
                self._diagnostics.notice_unheard(node_id, hearing)
