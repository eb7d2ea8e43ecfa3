"""Flow control: how many frames one processor may send on one visit of the token.

The token carries what all members sent in the last rotation (`fcc`) and how much they have queued (`backlog`); each
takes its share of the window in proportion to its queue (paper section 4.1.1, Corosync `fcc_calculate`). All fields
are unsigned 32-bit numbers.
"""

from __future__ import annotations

from totem.sequence import MASK
from totem.wire.messages import Token


class FlowControl:
    """One member's account in one ring."""

    __slots__ = ("_queued", "_sent", "max_messages", "window_size")

    def __init__(self, window_size: int, max_messages: int) -> None:
        self.window_size = window_size
        self.max_messages = max_messages
        self._sent = 0
        """Frames sent on the previous visit (`my_trc`)."""
        self._queued = 0
        """Frames queued at the previous visit (`my_pbl`)."""

    def allowed(self, token: Token, queued: int) -> int:
        """Frames that may be sent on this visit, with `queued` frames waiting now."""
        # Corosync computes window - fcc unsigned, so that a larger fcc lifts the limit there; here it closes it.
        allowed = max(0, min(self.max_messages, self.window_size - token.fcc))
        all_queued = (token.backlog + queued - self._queued) & MASK
        if all_queued:
            share = self.window_size * self._queued // all_queued
            if share > 0:
                allowed = min(allowed, share)
        return allowed

    def account(self, token: Token, sent: int, queued: int) -> None:
        """Write this visit into the token: `sent` frames, new and repeated, and `queued` still waiting."""
        token.fcc = (token.fcc + sent - self._sent) & MASK
        token.backlog = (token.backlog + queued - self._queued) & MASK
        self._sent = sent
        self._queued = queued
