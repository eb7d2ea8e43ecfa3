"""Receive failures: a member gets the token but not what others send, and the ring waits for it (rulings, A9).

While a member lacks a message the aru stalls, and its holder in the token names that member. The limit for that is
counted in visits, as Corosync counts. It is counted in seconds, too, because a ring with nothing else to do rests
between visits.

A member that has the message may judge. If the message has reached any member but its originator, the holder of the aru
fails to receive. If not, the originator is not heard; it concludes that from the fact that no other member judged
before. A holder that no member judges gives itself up.
"""

from __future__ import annotations

from math import inf

_BY_VISITS = 1.0
"""Seconds for which the aru must stall at least, however many visits a fast ring makes."""
_BY_TIME = 4.0
_FEW_VISITS = 20
"""Seconds, and visits, after which a stall is long, however few visits a resting ring makes."""

_SEARCH_VISITS = 10
"""Visits for which the aru must stall until the links look anew for what they carry: by then, what a member lacks has
been sent again and again."""
_SEARCH_AGAIN = 1.0
"""Seconds until they look once more."""
_YOUNG = 0.5
"""Seconds of a stall in which the token does not rest, because a search may end it."""


class AruStall:
    """How long the aru of a ring has stalled, as one member sees it."""

    __slots__ = ("_began", "_searched", "_since", "_visits", "by_visits", "lasts", "reason")

    def __init__(self) -> None:
        self._since = 0.0
        self._began = self._searched = -inf
        self._visits = 0
        self.by_visits = 0.0
        """The stall as a multiple of the limit, as Corosync counts it; 0 while the aru moves."""
        self.lasts = 0.0
        """The same in visits or in seconds, whichever is more."""
        self.reason = ""
        """Which member does not receive what, if the stall is long."""

    def end(self, now: float) -> None:
        """Note that the aru has moved, or that no member lacks anything."""
        self._since = now
        self._visits = 0
        self.by_visits = self.lasts = 0.0
        self.reason = ""

    def note_visit(self, limit: int, now: float) -> None:
        """Count a visit on which the same member holds the same aru; `limit` is `fail_recv_const`."""
        if not self._visits:
            self._began = now
        self._visits += 1
        seconds = now - self._since
        self.by_visits = min(self._visits / limit if limit else inf, seconds / _BY_VISITS)
        by_time = seconds / _BY_TIME if self._visits >= _FEW_VISITS else 0.0
        self.lasts = max(self.by_visits, by_time)

    def calls_for_search(self, now: float) -> bool:
        """Return whether the links are to look anew for what they carry; once in a second of a stall."""
        if self._visits < _SEARCH_VISITS or now < self._searched + _SEARCH_AGAIN:
            return False
        self._searched = now
        return True

    def is_young(self, now: float) -> bool:
        """Return whether a stall has begun that a search may end."""
        return bool(self._visits) and now < self._began + _YOUNG
