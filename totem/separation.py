"""Separation: nodes that stay apart, because not all of them hear each other (rulings, F7).

When the rows have parted the candidates (`totem.rows`), the parts can still hear each other here and there. Each of
them would provoke the others for ever. So a node remembers who was parted from it and who did not hear whom, and
foresees what a new round would come to: only if that is another ring, it takes part in one, or begins one.

That a separated pair hears each other again is seen by the links machine of either, which then asks with a Join. Such
a Join counts only after a pause, which doubles each time that the nodes are parted again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import inf
from typing import Final, NamedTuple

from totem.config import Config
from totem.configuration import RingId
from totem.exclusions import Exclusion, Exclusions
from totem.hearing import Hearing
from totem.partition import partition
from totem.rows import Parting
from totem.wire.messages import Join, Row

_FIRST: Final = 4.0
_LONGEST: Final = 60.0
_MEMORY: Final = 60.0
"""Seconds of a pause, at first and at most, and after its end until it is forgotten."""
_MOST_NAMED: Final = 4
"""Nodes that are named in one line."""


def describe(lost: Iterable[tuple[int, int]]) -> str:
    """Return who does not hear whom, for the operator."""
    speakers: dict[int, list[int]] = {}
    for listener, speaker in lost:
        speakers.setdefault(listener, []).append(speaker)
    told = [f"node {listener} does not hear {name_nodes(heard)}" for listener, heard in speakers.items()]
    more = f", and {len(told) - _MOST_NAMED} more nodes" if len(told) > _MOST_NAMED else ""
    return ", ".join(told[:_MOST_NAMED]) + more


def name_nodes(node_ids: Collection[int]) -> str:
    """Return nodes as a text has them."""
    return f"node{'s' * (len(node_ids) > 1)} {', '.join(map(str, sorted(node_ids)))}"


class Apart(NamedTuple):
    """A node that stays apart."""

    lost: tuple[tuple[int, int], ...]
    """Pairs of it and a member of the ring: the first does not hear the second, as far as is known."""
    until: float
    """Until when it counts for no new round, by the processor's clock; in the past: whenever that leads to another."""


class Separation:
    """The nodes that one node has been parted from."""

    def __init__(self, config: Config, node_id: int, hearing: Mapping[int, Hearing]) -> None:
        self._node_id = node_id
        self._hearing = hearing
        self._members = frozenset((node_id,))
        self._apart: dict[int, Row] = {}
        """The nodes of the other parts, with their latest rows."""
        self._parted: dict[int, Row] = {}
        """Those that were parted from it since the last ring."""
        self._lost: tuple[tuple[int, int], ...] = ()
        """For what reason: who does not hear whom."""
        self._hears: dict[tuple[int, int], bool] = {}
        """Whether the first node hears the second one, as their rows have told last."""
        self.changed = -inf
        """When the links machine has told something new."""
        self._pauses = Exclusions[int](_FIRST, _LONGEST, _MEMORY)
        """By node. That of this node itself is for its own asking in vain."""

        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Take another nodelist, and other votes."""
        self._votes = {node.node_id: node.votes for node in config.nodes}
        for node_id in self._apart.keys() - self._votes.keys():
            self.forget(node_id)

    @property
    def apart(self) -> Collection[int]:
        """The nodes that this one has been parted from."""
        return self._apart.keys()

    def pauses(self) -> dict[int, Exclusion]:
        """Return all pauses, by node."""
        return self._pauses.all()

    def report(self) -> dict[int, Apart]:
        """Return the nodes that are apart, and why."""
        lost = [pair for pair, hears in self._hears.items() if not hears and not self._members.isdisjoint(pair)]
        return {
            node_id: Apart(tuple(sorted(pair for pair in lost if node_id in pair)), self._pauses.until(node_id))
            for node_id in self._apart
        }

    def asks_at(self) -> float:
        """Return until when this node does not ask for a new round, because it has asked in vain."""
        return self._pauses.until(self._node_id)

    def part(self, parting: Parting) -> None:
        """Note who is parted from the ring that this node is about to form. Each part will have a ring of its own."""
        for part in parting.parts:
            for node_id in part:
                self._parted[node_id] = parting.rows[node_id]._replace(ring_id=RingId(part[0], 0))
        self._learn(parting.rows.values())
        self._lost = tuple(sorted({*self._lost, *parting.lost}))

    def install(self, members: Collection[int], unwilling: Collection[int], now: float) -> tuple[tuple[int, int], ...]:
        """Note which ring was formed; return which nodes do not hear which, where that has parted nodes from it.

        Args:
            members: The members.
            unwilling: Nodes that were to be members, can be reached, and did not take part.
            now: In seconds.
        """
        lost = tuple(pair for pair in self._lost if len(set(members).intersection(pair)) == 1)
        for node_id, row in self._parted.items():
            self._apart[node_id] = row
            if node_id not in members:
                self._pauses.add(node_id, now, describe(pair for pair in lost if node_id in pair))
        for node_id in unwilling:
            none: frozenset[int] = frozenset()
            unknown = Row(node_id, 0, 0, self._vote(node_id), RingId(node_id, 0), none, none, none, none)
            self._apart.setdefault(node_id, unknown)
            if not self._pauses.has(node_id, now):
                self._pauses.add(node_id, now, "it did not take part")
        self._parted = {}
        self._lost = ()
        if not self._members.issuperset(members):
            self._pauses.end(self._node_id)  # whoever asked, it was not in vain
        self._members = frozenset(members)
        for node_id in members:
            self._apart.pop(node_id, None)
        return lost

    def learn(self, join: Join, rows: Iterable[Row] | None) -> None:
        """Take what a node that is apart says in a Join."""
        told = {row.node_id: row for row in rows or ()}
        own, known = told.get(join.origin), self._apart.get(join.origin)
        if own is None or known is None or own.incarnation != known.incarnation or join.is_leave:
            self.forget(join.origin)  # it has been started anew, or is of another make
            return
        later = {
            node_id: row
            for node_id, row in told.items()
            if node_id in self._apart and row[1:3] > self._apart[node_id][1:3]
        }
        self._apart.update(later)
        self._learn(later.values())
        self._hears[self._node_id, join.origin] = True
        for node_id in self._apart.keys() & set(join.failed):
            if not self._is_audible(node_id):
                self.forget(node_id)  # it is not in the other ring any more

    def _learn(self, rows: Collection[Row]) -> None:
        """Take what rows tell. What the links machine says of a link is older than what Joins say."""
        for row in rows:
            for other in row.unlinked:
                self._hears[row.node_id, other] = False
            for other in row.linked:
                self._hears[row.node_id, other] = self._hears[other, row.node_id] = True
        for row in rows:
            for other in row.lacks:
                self._hears[row.node_id, other] = False
            for other in row.hears:
                self._hears[row.node_id, other] = True

    def note_hearing(self, node_id: int, hearing: Hearing, now: float) -> None:
        """Take from the links machine who hears whom between this node and another one."""
        self.changed = now
        self._hears[self._node_id, node_id] = hearing.hears
        if hearing.hears:
            self._hears[node_id, self._node_id] = hearing.is_heard

    def forget(self, node_id: int) -> None:
        """Treat a node as any other one: it has left, has been started anew, or is of another make."""
        if self._apart.pop(node_id, None) is not None:
            self._pauses.end(node_id)
            for pair in [pair for pair in self._hears if node_id in pair]:
                del self._hears[pair]

    # What a new round would come to.

    def admits(self, origin: int, others: Collection[int], members: Collection[int], now: float) -> bool:
        """Return whether a round with a node, and with these others, would lead to another ring with it.

        A node that names this one knows of no reason against it. It will learn that reason in a round, if there is one.
        """
        if origin not in self._apart:
            return True
        if self._node_id in others and all(self._hear_each_other(origin, member) for member in members):
            return True
        if self._pauses.has(origin, now):
            return False
        return origin in self.foresee({origin, *others}, members)

    def newcomers(self, others: Iterable[int], members: Collection[int]) -> frozenset[int]:
        """Return the nodes, of those apart and these others, with which this one would be together after a round."""
        return self.foresee({*self._apart, *others}, members) - set(members)

    def _is_audible(self, node_id: int) -> bool:
        hearing = self._hearing.get(node_id)
        return hearing is None or hearing.hears

    def foresee(self, others: Iterable[int], members: Collection[int]) -> frozenset[int]:
        """Return the part that this node would be in. Members hear each other: their ring works."""
        nodes = {*members, *others}
        together = frozenset(members)
        graph = {
            node_id: {
                other
                for other in nodes - {node_id}
                if together.issuperset((node_id, other)) or self._hear_each_other(node_id, other)
            }
            for node_id in nodes
        }
        rings = {node_id: self._ring(node_id, together) for node_id in nodes}
        parts = partition(graph, {node_id: self._vote(node_id) for node_id in nodes}, rings)
        return frozenset(next(part for part in parts if self._node_id in part))

    def _ring(self, node_id: int, together: frozenset[int]) -> object:
        if node_id in together:
            return "this"
        row = self._apart.get(node_id)
        return row.ring_id if row is not None else node_id

    def _vote(self, node_id: int) -> int:
        row = self._apart.get(node_id)
        return row.votes if row is not None else self._votes.get(node_id, 0)

    def _hear_each_other(self, one: int, other: int) -> bool:
        if self._node_id in (one, other):
            hearing = self._hearing.get(other if one == self._node_id else one)
            if hearing is not None and all(hearing):
                return True
        if self._apart.keys().isdisjoint((one, other)):
            return True
        return self._hears.get((one, other), True) and self._hears.get((other, one), True)

    # Asking.

    def may_ask_at(self, nodes: Collection[int]) -> float:
        """Return when this node may ask these nodes for a new round."""
        paused = self._apart.keys() & set(nodes)
        return max((self._pauses.until(node_id) for node_id in (self._node_id, *paused)), default=0.0)

    def ask(self, now: float) -> None:
        """Note that this node asks; if in vain, it waits before it asks again."""
        self._pauses.add(self._node_id, now, "asked")
