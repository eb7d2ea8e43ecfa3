"""Ring sequences: which ones are believed, used and stored.

A ring's sequence is above those of all its members, so a node that joins with a large one lifts everybody's. If any
datagram were believed, one forged Join would use up all 64 bits. Yet a real ring may have any number: files are lost
and start again with the clock, and Corosync nodes count on from whatever they have heard.

A number near the node's own is believed at once: there is room for 2**31 such steps, so it costs nothing. One far above
is a *claim*. It is believed only of a node that is not in this ring, and that has claimed nothing else for as long as a
token may take.

The ring that is formed with a claim is in *doubt* until the commit token has visited all members. Its representative
knows that when the token is back. The others, to whom any node may have sent that token, know it when the ring is
installed. Until then the number is neither stored nor sent in Joins.
"""

from __future__ import annotations

from collections.abc import Iterable

from totem.configuration import RingId

LIMIT = 1 << 63
"""No ring sequence above this is believed, used or stored, so that there is always room to count on."""
STEP = 1 << 32
"""A sequence that is above the node's own by no more than this is believed at once. It holds all clocks' seconds until
2106."""


def is_near(ring_seq: int, own: int) -> bool:
    """Return whether a sequence may be believed where the node's own is `own`, whoever sends it."""
    return ring_seq <= min(own + STEP, LIMIT)


class Claims:
    """Sequences that other nodes claim, and that are too far above this node's own to be believed at once."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        """Seconds for which a node must repeat its claim."""
        self._claims: dict[int, tuple[int, float, float]] = {}
        """By node id: the sequence, when it was claimed first, and last."""

    def hear(self, origin: int, ring_seq: int, now: float) -> bool:
        """Note what a node claims; return whether it has claimed that for long enough."""
        claimed, since, last = self._claims.get(origin, (ring_seq, now, now))
        if abs(ring_seq - claimed) > STEP or now - last > self._patience:
            since = now
        self._claims[origin] = ring_seq, since, now
        return now - since >= self._patience

    def forget(self, origin: int) -> None:
        """Forget a node's claim, because it says something else now."""
        self._claims.pop(origin, None)

    def highest(self, members: Iterable[int]) -> int:
        """Return the highest believed claim of these members; 0 if there is none."""
        claims = (self._claims[member] for member in members if member in self._claims)
        return max((ring_seq for ring_seq, since, last in claims if last - since >= self._patience), default=0)


class RingNumbers:
    """The ring id of one node, and the ring sequences that it believes."""

    def __init__(self, ring_id: RingId, patience: float) -> None:
        self.ring_id = ring_id
        """The latest ring that this node has committed to, installed or not."""
        self.highest = ring_id.seq
        """The highest sequence that is believed."""
        self._claims = Claims(patience)
        self._confirmed: RingId | None = None
        """The ring id before the doubtful one; None while there is no doubt."""
        self._to_store: int | None = None

    @property
    def confirmed_seq(self) -> int:
        """The sequence of this node that is beyond doubt."""
        return (self._confirmed or self.ring_id).seq

    def believes(self, origin: int, ring_seq: int, now: float) -> bool:
        """Return whether the sequence in a Join is believed (rulings, G18)."""
        if is_near(ring_seq, self.confirmed_seq):
            self._claims.forget(origin)
            self.highest = max(self.highest, ring_seq)
            return True
        return self._claims.hear(origin, ring_seq, now)

    def next_seq(self, members: Iterable[int]) -> int | None:
        """Return the sequence of the next ring of these members; None if the numbers are used up."""
        ring_seq = max(self.highest, self._claims.highest(members)) + 4
        return ring_seq if ring_seq <= LIMIT else None

    def begin(self, ring_id: RingId) -> None:
        """Make the ring id of a commit token this node's, and durable before anything more is sent.

        An id that is far above this node's may be forged. It is not stored before it is confirmed.
        """
        if not is_near(ring_id.seq, self.ring_id.seq):
            self._confirmed = self.ring_id
        self.ring_id = ring_id
        if self._confirmed is None:
            self._adopt()

    def confirm(self) -> None:
        """End the doubt in the ring id, if there is any."""
        if self._confirmed is not None:
            self._confirmed = None
            self._adopt()

    def _adopt(self) -> None:
        self._to_store = self.ring_id.seq
        self.highest = max(self.highest, self.ring_id.seq)

    def retract(self) -> None:
        """Go back to the ring id before one that was not confirmed."""
        if self._confirmed is not None:
            self.ring_id, self._confirmed = self._confirmed, None

    def take(self) -> int | None:
        """Return the sequence that must be stored now, if there is one."""
        to_store, self._to_store = self._to_store, None
        return to_store
