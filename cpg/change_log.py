"""The log of a node's rings for the administrator: one line for each change, whatever it took to get there.

A line says who joined, who left in order and who is lost, why the former ring ended, how long there was none, and
whether the votes suffice. A ring that ends before its sync is complete gets no line. Where rings break all the time,
the lines are paced (`Pace`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from cpg.formatting import nodes, votes
from totem.configuration import RingId
from totem.interruption import Interruption
from totem.log_fields import NO_FIELDS, Fields, event_fields

if TYPE_CHECKING:
    from cpg.node.quorum import QuorumStatus


class Line(NamedTuple):
    """One line of the log."""

    is_warning: bool
    text: str
    """Empty if there is nothing to log."""
    fields: Fields = NO_FIELDS
    """The same for programs."""


NOTHING: Final = Line(False, "")
MOST: Final = 10
INTERVAL: Final = 60.0
"""Seconds in which at most `MOST` lines are logged. Of further lines the last is logged as soon as possible."""


class Pace:
    """A limit that keeps frequent changes from filling the log."""

    def __init__(self) -> None:
        self._told: deque[float] = deque(maxlen=MOST)
        """Times of logged lines."""
        self._held = NOTHING
        self.missed = 0
        """Lines that were not logged, the held one included."""

    def line(self, line: Line, now: float) -> Line:
        """Return what may be logged now: this line, if it has a text, or one that was held."""
        if line.text:
            self._held = line
            self.missed += 1
        if not self.missed or (len(self._told) == MOST and now - self._told[0] < INTERVAL):
            return NOTHING
        self._told.append(now)
        held, before = self._held, self.missed - 1
        self.missed = 0
        if not before:
            return held
        changes = "1 change before it was" if before == 1 else f"{before} changes before it were"
        return Line(held.is_warning, f"{held.text} ({changes} not logged)", {**held.fields, "unlogged": before})


class Changes:
    """The changes, compared with those that were logged last."""

    def __init__(self) -> None:
        self._node_ids: tuple[int, ...] = ()
        self._ring_id: RingId | None = None
        self._quorate: bool | None = None

    def ring(
        self,
        ring_id: RingId,
        node_ids: tuple[int, ...],
        transitional: Collection[int],
        interruption: Interruption | None,
    ) -> Line:
        """Return the line for a ring whose sync is complete, once; `transitional`: the nodes that came to it with this
        one.
        """
        if ring_id == self._ring_id:
            return NOTHING
        former, self._node_ids, self._ring_id = self._node_ids, node_ids, ring_id
        parts = [f"ring {ring_id} of {nodes(node_ids)}"]
        if interruption is None or not former:  # the first one
            return Line(False, parts[0], event_fields("ring", ring=str(ring_id), members=node_ids))
        gone = set(former).difference(node_ids)
        lost, left = _ascending(gone - interruption.departed), _ascending(gone & interruption.departed)
        came = _ascending(set(node_ids).difference(former))
        again = _ascending(set(node_ids).difference(came, transitional))
        for who, what in ((lost, "lost"), (left, "left"), (came, "came"), (again, "came back")):
            if who:
                parts.append(f"{nodes(who)} {what}")
        if not (gone or came or again):
            parts.append("the same nodes")
        parts.append(f"no ring for {interruption.seconds:.3f} s: {interruption.cause.value}")
        if interruption.pause:
            parts.append(f"this process was not run for {interruption.pause:.1f} s")
        fields = event_fields(
            "ring",
            ring=str(ring_id),
            members=node_ids,
            lost=lost,
            left=left,
            came=came,
            came_back=again,
            seconds=round(interruption.seconds, 3),
            cause=interruption.cause.name.lower(),
            pause=round(interruption.pause, 1),
        )
        return Line(bool(lost or again or interruption.pause), "; ".join(parts), fields)

    def votes(self, status: QuorumStatus | None) -> Line:
        """Return the line for votes that suffice, or do not any more; None: nobody counts them."""
        if status is None or status.quorate == self._quorate:
            return NOTHING
        self._quorate = status.quorate
        fields = event_fields(
            "quorum",
            quorate=status.quorate,
            total_votes=status.total_votes,
            expected_votes=status.expected_votes,
            highest_expected=status.highest_expected,
            quorum=status.quorum,
        )
        return Line(not status.quorate, f"{'' if status.quorate else 'not '}quorate; {votes(status)}", fields)


def _ascending(node_ids: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(node_ids))
