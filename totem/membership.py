"""Membership: who could be in the next ring, as one processor knows it (Corosync's my_proc_list and my_failed_list).

The sets outlive an attempt that breaks: the next one goes on with them. They only grow until a ring is installed, so
that those of all processors become equal.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from totem.config import MAX_NODES
from totem.wire.messages import Join


class Membership:
    """Candidates for the next ring, and what is owed to the old one; `drop` counts Joins that cannot be used."""

    def __init__(self, node_id: int, nodelist: frozenset[int], drop: Callable[[str], None]) -> None:
        self._node_id = node_id
        self.nodelist = nodelist
        self._drop = drop
        self.had_company = False
        """A ring with other members has been installed."""
        self.candidates: set[int] = {node_id}
        self.failed: set[int] = set()
        self._heard: set[int] = {node_id}
        """Nodes that have sent a Join since the last install, and have not left."""
        self.gone: set[int] = set()
        """Nodes that have left since then, in good order."""
        self.obligations: set[int] = set()
        """Members whose old messages this node has promised to deliver, whatever becomes of the attempt (A6)."""
        self.receive_failed: tuple[str, float] | None = None
        """Why this node has given itself up and will go on alone, and since when."""
        self.stalled_by = 0
        """The node that held the aru when the last Recovery since the install made no progress."""

    @property
    def surviving(self) -> set[int]:
        """The candidates that have not failed."""
        return self.candidates - self.failed

    def install(self, members: Collection[int]) -> None:
        """Start afresh with the members of an installed ring."""
        self.had_company = self.had_company or len(members) > 1
        self.candidates = set(members)
        self.failed = set()
        self._heard = {self._node_id}
        self.gone = set()
        self.obligations = set()
        self.receive_failed = None
        self.stalled_by = 0

    def hear(self, join: Join) -> None:
        """Note that a node is there, or has left."""
        if join.is_leave:
            self._heard.discard(join.origin)
            self.gone.add(join.origin)
        else:
            self._heard.add(join.origin)
            self.gone.discard(join.origin)

    def knows_all_of(self, join: Join) -> bool:
        """Return whether this node names everybody that a Join names, as candidates and as failed."""
        return self.candidates.issuperset(join.candidates) and self.failed.issuperset(join.failed)

    def merge(self, join: Join, members: Collection[int]) -> bool:
        """Take over the nodes that a Join names (Corosync memb_join_process); return whether that changed anything.

        Corosync begins a new round also when the Join names failed nodes that it does not believe in. The sender does
        the same when it hears of that: a storm in which no node is ever judged.

        Args:
            join: The Join.
            members: The members of the installed ring, whose judgement counts.
        """
        if join.origin in self.failed:
            return False
        if len(self.nodelist.union(self.candidates, self.failed, join.candidates, join.failed)) > MAX_NODES:
            self._drop("join that names too many processors")  # this node's own could not be sent any more
            return False
        known = len(self.candidates) + len(self.failed)
        self.candidates.update(join.candidates)
        if self._node_id in join.failed:
            self.failed.add(join.origin)
        elif join.origin in members:
            self.failed.update(join.failed)
        else:
            # A stranger knows better of nodes that this one has not heard. A node that starts while another one leaves
            # would otherwise disagree with the rest until the consensus timeout.
            self.failed.update(set(join.failed) - self._heard - set(members))
        return len(self.candidates) + len(self.failed) > known

    def go_alone(self) -> None:
        """Form the next ring without the others, because they have agreed to go on without this node."""
        self.receive_failed = None
        self.candidates = {self._node_id}
        self.failed = set()

    def join(self, ring_seq: int, hint: bytes) -> Join:
        """Return the Join that tells the others whom this node would have in the next ring."""
        return self._join(self._node_id, ring_seq, self.candidates, self.failed, hint)

    def leave(self, ring_seq: int) -> Join:
        """Return the Join that announces that this node leaves."""
        return self._join(0, ring_seq, self.candidates - {self._node_id}, self.failed | {self._node_id})

    def _join(
        self, sender: int, ring_seq: int, candidates: Iterable[int], failed: Iterable[int], hint: bytes = b""
    ) -> Join:
        return Join(sender, self._node_id, ring_seq, tuple(sorted(candidates)), tuple(sorted(failed)), hint)
