"""A host with a listed address that sends forged datagrams: for random worlds, and for tests with a target.

What it claims about membership can cost a ring, and none of the promises. What it claims with an unknown sender or with
impossible numbers costs nothing. It does not forge what a member itself could have said about the order of a ring: a
token, or a multicast in its name. Without authentication nothing tells those from true ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from totem.configuration import RingId
from totem.processor import Processor
from totem.ring_numbers import LIMIT, STEP
from totem.wire import codec
from totem.wire.messages import CommitEntry, CommitToken, HoldCancel, Join, Mcast, MergeDetect, Message

_FRAME = codec.frame([4], 0, 0) + b"lies"


class Forger:
    """Makes datagrams that fit what a processor is doing at the moment, but with false contents."""

    def __init__(self, dice: random.Random, *, pure: bool) -> None:
        self._dice = dice
        self._kinds: list[Callable[[Processor, int], Message]] = [
            self._join,
            self._leave,
            self._merge_detect,
            self._hold_cancel,
            self._foreign_multicast,
            self._multicast_of_nobody,
        ]
        if pure:  # a real node dies of a full one that it has not seen before, which ours would pass on
            self._kinds.append(self._commit_token)

    def forge(self, machine: Processor) -> bytes:
        """Return a forged datagram for a processor, in the name of another node of its nodelist."""
        others = [node.node_id for node in machine.config.nodes if node.node_id != machine.node_id]
        return codec.encode(self._dice.choice(self._kinds)(machine, self._dice.choice(others)))

    def _near(self, machine: Processor) -> int:
        return max(1, machine.ring_id.seq + self._dice.choice((-8, -4, 0, 1, 4, 100)))

    def _far(self) -> int:
        return self._dice.choice((2 * STEP, 1 << 48, 1 << 62, LIMIT - 4, LIMIT, LIMIT + 1, (1 << 64) - 1))

    def _some(self, machine: Processor) -> tuple[int, ...]:
        ids = [node.node_id for node in machine.config.nodes]
        return tuple(self._dice.sample(ids, self._dice.randint(0, len(ids))))

    def _join(self, machine: Processor, name: int) -> Join:
        ring_seq = self._dice.choice((self._near(machine), self._far()))
        candidates = self._dice.choice((tuple(machine.membership.candidates), self._some(machine), (name,)))
        failed = self._dice.choice((tuple(machine.membership.failed), self._some(machine), (name,), (machine.node_id,)))
        return Join(name, name, ring_seq, candidates, failed)

    def _leave(self, machine: Processor, name: int) -> Join:
        return Join(0, name, self._dice.choice((self._near(machine), self._far())), self._some(machine), (name,))

    def _commit_token(self, machine: Processor, name: int) -> CommitToken:
        members = tuple(sorted(machine.membership.candidates - machine.membership.failed | {machine.node_id}))
        place = self._dice.choice((members.index(machine.node_id), len(members)))
        entries = [CommitEntry(machine.ring.id, 9, 9, self._dice.randrange(2)) for _ in members]
        return CommitToken(name, self._dice.randrange(9), RingId(members[0], self._far()), members, entries, place)

    def _merge_detect(self, machine: Processor, name: int) -> MergeDetect:
        return MergeDetect(name, name, RingId(name, self._dice.choice((self._near(machine), self._far()))))

    def _hold_cancel(self, machine: Processor, name: int) -> HoldCancel:
        return HoldCancel(name, machine.ring.id)

    def _foreign_multicast(self, machine: Processor, name: int) -> Mcast:
        ring_id = RingId(name, self._dice.choice((self._near(machine), self._far())))
        if ring_id == machine.ring_id:  # in its own ring that would be the word of a member
            ring_id = RingId(name, ring_id.seq + 1)
        return Mcast(name, name, 5, ring_id, data=_FRAME)

    def _multicast_of_nobody(self, machine: Processor, name: int) -> Mcast:
        ring = self._dice.choice((machine.ring, machine.new_ring or machine.ring))
        sender, origin = self._dice.choice(((name, 0), (0, name), (0, 0), (name, machine.node_id), (999, 999)))
        encapsulated = self._dice.random() < 0.3
        inner = Mcast(sender, origin, 5, machine.ring.id, data=_FRAME)
        seq = ring.window.aru + self._dice.randint(1, 30) & 0xFFFFFFFF
        return Mcast(sender, origin, seq, ring.id, 0, 0, encapsulated, codec.encode(inner) if encapsulated else _FRAME)
