"""Rows: who hears whom among the nodes that look for the next ring, as one of them knows it (rulings, F7).

Each node tells in its Joins whom it hears, its *row*, and passes on the rows of the others that it knows. So nodes that
cannot hear each other know of each other, too, as long as any way leads between them. From equal rows all compute the
same parts (`totem.partition`).

Two nodes are in one part only if each hears the other. What a node says of itself counts more than what others say of
it; so a row that is forged in another's name decides only about nodes that its reader does not hear, and with which it
could form no ring. Like the failed nodes of a Join it can cost a ring, and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import inf
from typing import Any, NamedTuple

from totem.config import Config
from totem.configuration import RingId
from totem.hearing import Hearing
from totem.partition import partition
from totem.ring_numbers import LIMIT
from totem.wire.messages import Join, Row
from totem.wire.rows import MOST_ROWS

_MISSED = 2
"""A node is not heard when it has sent so many Joins that have reached others and not this one."""
_WINDOW = 3.5
"""Join timeouts for which a node counts as heard after a Join."""
_RELAYED = 2
"""Join timeouts more, until a row that others pass on is old."""
_SILENT = 0.75
"""The same as a share of the consensus timeout, where that is longer: who is late says nothing, either."""
_MOST_NUMBERS = 1 << 31
"""A row has no higher number, so that its node can always have a later one."""


class Parting(NamedTuple):
    """The nodes from which the members of a ring are parted."""

    rows: dict[int, Row]
    """All rows, by node."""
    parts: list[tuple[int, ...]]
    """The parts that those nodes go into."""
    lost: tuple[tuple[int, int], ...]
    """Pairs of a member and one of those nodes: the first does not hear the second."""


class Rows:
    """The rows of one Gather, at one node."""

    def __init__(self, config: Config, node_id: int, incarnation: int) -> None:
        self._node_id = node_id
        self._incarnation = incarnation
        self._number = 0
        self.reconfigure(config)
        self._ring_id = RingId(node_id, incarnation)
        self._rows: dict[int, Row] = {}
        self._advanced: dict[int, float] = {}
        """When a row of a node has come that was later than the one before."""
        self._heard: dict[int, float] = {}
        """When a Join has come from a node itself."""
        self._hears: dict[int, bool] = {}
        """Whether this node hears another one, as far as that is known. Of a silent one it is what it was."""
        self._since: dict[int, float] = {}
        """Since when a node is expected to be heard."""
        self._reached: dict[int, tuple[int, int]] = {}
        """Incarnation and number of the last row that has come from each node itself, in whatever state."""
        self._told: dict[int, dict[int, Row]] = {}
        """The rows in the last Join of each node, by node."""
        self._named: dict[int, tuple[frozenset[int], frozenset[int]]] = {}
        """The candidates and the failed nodes in it."""
        self._strangers: set[int] = set()
        """Nodes whose last Join had no rows."""
        self._published: dict[int, object] = {}
        self.abandoned = False
        """The rows have not led to a decision in time: go by Corosync's rules."""

    def reconfigure(self, config: Config) -> None:
        """Take another nodelist, other votes, and another join timeout."""
        votes = {node.node_id: node.votes for node in config.nodes}
        self._nodelist = frozenset(votes)
        self._votes = votes.get(self._node_id, 1)
        self._window = _WINDOW * config.join
        """Seconds for which a node is heard after a Join, or expected before it is not."""
        self._shortest_fresh = self._fresh = (_WINDOW + _RELAYED) * config.join

    def begin(self, ring_id: RingId) -> None:
        """Forget all rows: this node begins to look for another ring than its present one."""
        self._ring_id = ring_id
        kept: tuple[dict[int, Any], ...] = (self._rows, self._advanced, self._heard, self._hears, self._since)
        for by_node in (*kept, self._told, self._named, self._published):
            by_node.clear()
        self._strangers.clear()
        self.abandoned = False

    def expect(self, nodes: Iterable[int], consensus: float, now: float) -> None:
        """Expect to hear these nodes from now on, if it did not before; the consensus timeout is this."""
        self._fresh = max(self._shortest_fresh, _SILENT * consensus)
        for node_id in self._nodelist.intersection(nodes) - {self._node_id}:
            self._since.setdefault(node_id, now)

    def come_back(self, now: float) -> None:
        """Hear anew for a while, because this process was paused and dropped what came meanwhile."""
        self._since = dict.fromkeys(self._since, now)

    # What comes in, and what goes out.

    def hear(self, join: Join, rows: Collection[Row] | None, now: float) -> None:
        """Take a Join and its rows; None if it has none."""
        origin = join.origin
        self._heard[origin] = now
        self._named[origin] = frozenset(join.candidates), frozenset(join.failed)
        self._since.setdefault(origin, now)
        if rows is None:
            self._strangers.add(origin)
            return
        self._strangers.discard(origin)
        first = origin not in self._told
        self._told[origin] = {row.node_id: row for row in rows}
        for row in rows:
            if row.incarnation > LIMIT or row.number > _MOST_NUMBERS or row.node_id not in self._nodelist:
                continue
            if row.node_id == self._node_id:
                self._outdo(row)
            elif row.node_id == origin:
                self._take(row, now, anyway=first)
            elif now - self._heard.get(row.node_id, -inf) > self._window:
                self._take(row, now)

    def note_arrival(self, origin: int, rows: Collection[Row]) -> None:
        """Note that a Join has come, whatever becomes of it."""
        for row in rows:
            if row.node_id == origin:
                self._reached[origin] = row[1:3]

    def _is_unheard(self, node_id: int) -> bool:
        """Return whether others hear more of a node than this one, or it goes on without this one, as it has said.

        How long nothing has come says little: any node may be late, or form the ring already. But what a node sends
        comes here before others can have passed it on.
        """
        if node_id in self._named and self._node_id in self._named[node_id][1]:
            return True
        row = self._rows.get(node_id)
        if row is None:
            return False
        incarnation, number = self._reached.get(node_id, (row.incarnation, 0))
        return row.incarnation != incarnation or row.number >= number + _MISSED

    def _take(self, row: Row, now: float, *, anyway: bool = False) -> None:
        known = self._rows.get(row.node_id)
        if known is None or anyway or row[1:3] > known[1:3]:
            self._rows[row.node_id] = row
            self._advanced[row.node_id] = now

    def _outdo(self, row: Row) -> None:
        """Let the next own row be later than one that is passed on, of a former life or forged."""
        self._incarnation, self._number = max((self._incarnation, self._number), row[1:3])

    def publish(self, hearing: dict[int, Hearing], now: float) -> tuple[Row, ...] | None:
        """Return all rows for a Join, the own one first; None if there are too many nodes."""
        if len(self._since) >= MOST_ROWS:
            return None
        self._number += 1
        self._published = self._contents(self._since, now)
        known = self._since.keys() | {self._node_id}
        told = hearing.keys() & self._nodelist
        if len(known | told) > MOST_ROWS:
            told &= known
        linked = frozenset(node_id for node_id in told if all(hearing[node_id]))
        own = self._own(now)._replace(linked=linked, unlinked=frozenset(told - linked))
        return own, *(_limited(row, known) for row in self._rows.values() if row.node_id in known)

    def has_news(self, now: float) -> bool:
        """Return whether the last Join did not say what is known by now."""
        return self._contents(self._since, now) != self._published

    def _own(self, now: float) -> Row:
        for node_id, since in self._since.items():
            heard = self._heard.get(node_id, -inf)
            if now - heard <= self._window:
                self._hears[node_id] = True
            elif now - since >= self._window and self._is_unheard(node_id) and not self.is_silent(node_id, now):
                self._hears[node_id] = False
        hears = frozenset(node_id for node_id, heard in self._hears.items() if heard)
        none: frozenset[int] = frozenset()
        head = (self._node_id, self._incarnation, self._number, self._votes, self._ring_id)
        return Row(*head, hears, frozenset(self._hears.keys() - hears), none, none)

    # What follows from them.

    def applies(self, candidates: Collection[int]) -> bool:
        """Return whether none of these is known to tell no rows, as Corosync's nodes do."""
        return len(candidates) <= MOST_ROWS and self._strangers.isdisjoint(candidates)

    def covers(self, candidates: Iterable[int]) -> bool:
        """Return whether the rows of all candidates are known."""
        return self._rows.keys() >= set(candidates) - {self._node_id}

    def is_complete(self, candidates: Collection[int], now: float) -> bool:
        """Return whether all of these are known to hear each other."""
        rows = self._all(candidates, now)
        return all(rows[node_id].hears >= set(candidates) - {node_id} for node_id in candidates)

    def is_silent(self, node_id: int, now: float) -> bool:
        """Return whether nobody from whom word comes hears this node: it is dead, paused or far away."""
        return now - self._advanced.get(node_id, -inf) > self._fresh

    def decide(self, candidates: Collection[int], failed: Collection[int], now: float) -> frozenset[int] | None:
        """Return the part that this node continues with; None while that is not certain.

        Everybody's row must be there, and say of every other candidate whether it is heard. And all of the part must
        have told the same rows, and the same candidates.

        Args:
            candidates: All of them.
            failed: Those that have failed.
            now: In seconds.
        """
        everybody = frozenset(candidates).difference(failed)
        if not self.covers(everybody) or any(
            self.is_silent(node_id, now) for node_id in everybody if node_id != self._node_id
        ):
            return None
        rows = self._all(everybody, now)
        if not all(row.hears | row.lacks | {node_id} >= everybody for node_id, row in rows.items()):
            return None
        part = frozenset(next(part for part in _parts(rows) if self._node_id in part))
        before = frozenset(candidates), frozenset(failed)
        after = frozenset(candidates), frozenset(failed) | (everybody - part)
        if any(self._named[node_id] not in (before, after) for node_id in part - {self._node_id}):
            return None
        return part if self._say_the_same(part, everybody, now) else None

    def agreeing(self, candidates: Collection[int], failed: Collection[int]) -> set[int]:
        """Return the nodes that have told rows, and that name the same candidates and failed nodes."""
        same = frozenset(candidates), frozenset(failed)
        return {node_id for node_id, named in self._named.items() if named == same and node_id in self._rows}

    def unexplained(self, join: Join, now: float) -> tuple[int, ...]:
        """Return the nodes that a Join holds for failed, without those that its sender is only parted from.

        About these each node decides by itself. A node on the way to its decision may name some of them only.
        """
        known = self._all({*self._rows, self._node_id}, now)
        if join.origin not in known:
            return join.failed
        rows = {node_id: row._replace(hears=frozenset(known.keys() - row.lacks)) for node_id, row in known.items()}
        part = next(part for part in _parts(rows) if join.origin in part)
        parted = {node_id for node_id in rows.keys() - set(part) if not self._is_lost(node_id, now)}
        return tuple(node_id for node_id in join.failed if node_id not in parted)

    def _is_lost(self, node_id: int, now: float) -> bool:
        return node_id != self._node_id and self.is_silent(node_id, now)

    def parting(self, members: Collection[int], now: float) -> Parting:
        """Return which nodes the rows part from the members of a ring.

        Other members may have decided that, and this one followed them.
        """
        rows = self._all({*self._rows, self._node_id}, now)
        parts = [
            tuple(node_id for node_id in part if node_id not in members)
            for part in _parts(rows)
            if self._node_id not in part
        ]
        others = {node_id for part in parts for node_id in part}
        lost = [
            (listener, speaker)
            for one in members
            for other in others
            for listener, speaker in ((one, other), (other, one))
            if listener in rows and speaker in rows[listener].lacks
        ]
        return Parting(rows, [part for part in parts if part], tuple(sorted(lost)))

    def _say_the_same(self, part: frozenset[int], candidates: frozenset[int], now: float) -> bool:
        mine = self._contents(candidates, now)
        for node_id in part - {self._node_id}:
            told = self._told.get(node_id, {})
            if not told.keys() >= candidates or any(
                _content(told[other], candidates) != mine[other] for other in candidates
            ):
                return False
        return True

    def _all(self, candidates: Iterable[int], now: float) -> dict[int, Row]:
        own = self._own(now)
        return {node_id: own if node_id == self._node_id else self._rows[node_id] for node_id in candidates}

    def _contents(self, nodes: Collection[int], now: float) -> dict[int, object]:
        rows = {
            **{node_id: self._rows[node_id] for node_id in nodes if node_id in self._rows},
            self._node_id: self._own(now),
        }
        return {node_id: _content(row, nodes) for node_id, row in rows.items()}


def _parts(rows: dict[int, Row]) -> list[tuple[int, ...]]:
    return partition(
        {node_id: row.hears for node_id, row in rows.items()},
        {node_id: row.votes for node_id, row in rows.items()},
        {node_id: row.ring_id for node_id, row in rows.items()},
    )


def _content(row: Row, nodes: Collection[int]) -> object:
    """Return what a row says of these nodes, without its number."""
    return row.votes, row.ring_id, row.hears.intersection(nodes), row.lacks.intersection(nodes)


def _limited(row: Row, nodes: Collection[int]) -> Row:
    return row._replace(
        **{name: getattr(row, name).intersection(nodes) for name in ("hears", "lacks", "linked", "unlinked")}
    )
