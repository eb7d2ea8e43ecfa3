"""Outbox: the datagrams that a processor sends, in the order in which they must leave.

A datagram to this node itself, such as the token of a ring of one, does not leave: it waits here for the next turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf

from totem.sequence import after, row
from totem.timers import Timer, Timers
from totem.wire import codec
from totem.wire.messages import Message

ALL = 0
"""Target of a datagram for every other node of the nodelist (0 is no node id)."""
MOST_OWN = 64
"""Datagrams to this node itself that may wait."""


class Outbox:
    """What has been sent since the last `take`."""

    __slots__ = ("_datagrams", "_node_id", "_seqno", "_timers", "own")

    def __init__(self, node_id: int, timers: Timers) -> None:
        self._node_id = node_id
        self._timers = timers
        self._seqno = 0
        self._datagrams: list[tuple[int, list[bytes]]] = []
        self.own: deque[bytes] = deque()
        """Datagrams to this node itself."""

    def send(self, target: int, datagram: bytes) -> None:
        """Send a datagram to one node, which may be this one."""
        if target != self._node_id:
            self._datagrams.append((target, [datagram]))
        elif len(self.own) < MOST_OWN:
            self.own.append(datagram)
            self._timers.arm(Timer.LOOPBACK, -inf)

    def send_to_all(self, train: list[bytes]) -> None:
        """Send the frames of one visit to every other node."""
        self._datagrams.append((ALL, train))

    def send_message_to_all(self, message: Message) -> None:
        """Send one packet to every other node."""
        self._datagrams.append((ALL, [codec.encode(message)]))

    def next_seqnos(self, count: int) -> Sequence[int]:
        """Return the next `count` numbers of this node's running count of multicasts, which no node reads."""
        seqnos = row(self._seqno, count)
        self._seqno = after(self._seqno, count)
        return seqnos

    def take(self) -> list[tuple[int, list[bytes]]]:
        """Return the datagrams to other nodes, and start afresh."""
        datagrams, self._datagrams = self._datagrams, []
        return datagrams
