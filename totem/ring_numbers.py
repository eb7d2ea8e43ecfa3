"""Ring sequences: which ones are believed, from whom, and how long it takes.

A ring's sequence is above those of all its members, so whoever joins with a large one lifts that of all; and 64 bits
are counted through in one step if anybody may say anything. Yet a real ring may have any number: files are lost and
begin again with the clock, and a Corosync node counts on from whatever it has heard.

A number near one's own is believed at once: it costs nothing, since there is room for 2**31 such steps. One far above
is believed only of a node that is not in one's ring, and that has said so for as long as a token may take, and nothing
else; and what comes of it is one's own, on disk and in Joins, only when the commit token has been with all members: at
its representative when that is back, at the others, to whom anybody may have sent it, when the ring is installed.
"""

from __future__ import annotations

from collections.abc import Iterable

LIMIT = 1 << 63
"""No ring sequence above this is believed, used or stored: somebody must be able to count on from it."""
STEP = 1 << 32
"""What is nearer than this above one's own is believed at once. It holds all clocks' seconds until 2106."""


def is_near(ring_seq: int, own: int) -> bool:
    """Whether a sequence may be believed where one's own is `own`, without asking who says it."""
    return ring_seq <= min(own + STEP, LIMIT)


class Claims:
    """What other nodes say of themselves, as long as it is too far above to be believed at once."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        """Seconds for which a node must go on to say so."""
        self._claims: dict[int, tuple[int, float, float]] = {}
        """By node id: sequence, said since, said last."""

    def hear(self, origin: int, ring_seq: int, now: float) -> bool:
        """Take down what a node claims; says whether it has done so for long enough."""
        claimed, since, last = self._claims.get(origin, (ring_seq, now, now))
        if abs(ring_seq - claimed) > STEP or now - last > self._patience:
            since = now
        self._claims[origin] = ring_seq, since, now
        return now - since >= self._patience

    def forget(self, origin: int) -> None:
        """It says something else now."""
        self._claims.pop(origin, None)

    def highest(self, members: Iterable[int]) -> int:
        """The highest sequence that one of these claims and is believed to have; 0 if none does."""
        claims = (self._claims[member] for member in members if member in self._claims)
        return max((ring_seq for ring_seq, since, last in claims if last - since >= self._patience), default=0)
