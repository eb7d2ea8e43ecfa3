"""Who is in which group on the whole ring, and how a change of ring changes it.

Every node keeps the same list of processes: a procjoin adds one, a procleave removes it, both in the total order. Sync
settles a change of ring: each node sends its own processes (joinlist), and at the activation every node derives the
same changes from them (wire-protocol 10.4, rulings C4 and C5), for each group in this order:

1. one change that removes all processes of nodes that left;
2. one that adds the processes that a joinlist names and that are not known;
3. one each for the known processes of other nodes that no joinlist names.

A node that crashed and came back before anyone noticed has left, though it is in the ring: its old ring id was not
ours, so it was in no transitional set. Hence *left* = the nodes of the last activation less the intersection of all
transitional sets since. With the last of those sets alone, a restart in the middle of an aborted sync would never be
reported. So its processes leave in 1 and come in 2, as others, even under the same process ids.

Programs see (node id, process id). Inside, each stay of a process in a group has a number, its incarnation: its place
in the order in which this node learnt of processes (ruling G10).

This module knows neither inboxes nor how messages are sent. Changes are its return values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cpg.events import Confchg, Member, Reason
from cpg.node.wire import Downlist, Joinlist, Process


class Change(NamedTuple):
    """A membership change of one group."""

    name: bytes
    confchg: Confchg


class ProcessList:
    """The process list of one node and its part in sync."""

    def __init__(self, node_id: int) -> None:
        self._node_id = node_id
        self._processes: dict[bytes, dict[Member, int]] = {}
        """Incarnation by group and member; a group without members is not here."""
        self._incarnations = 0
        self._ring_members: frozenset[int] = frozenset()
        self._activated: frozenset[int] = frozenset()
        """Members of the ring at the last activation."""
        self._staying: frozenset[int] = frozenset()
        """Those of them that have been in every configuration since."""
        self._joinlists: dict[int, tuple[Process, ...]] = {}

    def names(self) -> list[bytes]:
        """Return the names of groups with members, ascending."""
        return sorted(self._processes)

    def members(self, name: bytes) -> tuple[Member, ...]:
        """Return the members of a group in order of node id and pid."""
        return tuple(sorted(self._processes.get(name, ())))

    def incarnation(self, name: bytes, member: Member) -> int | None:
        """Return the number of this stay of the member, which no other stay has; None if it is not a member."""
        return self._processes.get(name, {}).get(member)

    def has_node(self, name: bytes, node_id: int) -> bool:
        """Return whether any process of the node is in the group: the test that its messages must pass (ruling C6)."""
        return any(member.node_id == node_id for member in self._processes.get(name, ()))

    @property
    def staying(self) -> tuple[int, ...]:
        """Nodes that have been with this one in every configuration since the last activation, ascending."""
        return tuple(sorted(self._staying))

    # The total order.

    def on_procjoin(self, name: bytes, member: Member) -> Change | None:
        """Add a process; one that is known already changes nothing."""
        if self.incarnation(name, member) is not None:
            return None
        return self._bring(name, {member: Reason.JOIN})

    def on_procleave(self, name: bytes, member: Member, reason: Reason) -> Change | None:
        """Remove a process; one that is not known changes nothing."""
        if self.incarnation(name, member) is None:
            return None
        return self._take(name, {member: reason})

    # Changes of ring.

    def on_transitional(self, members: Iterable[int]) -> None:
        """Note that the ring is changing and only these members stay together; messages of its sync are void."""
        self._staying &= frozenset(members)
        self._joinlists.clear()

    def on_regular(self, members: Iterable[int], transitional: Iterable[int]) -> None:
        """Note that a ring was installed; its sync begins."""
        self.on_transitional(transitional)
        self._ring_members = frozenset(members)

    def on_joinlist(self, sender: int, joinlist: Joinlist) -> None:
        """Note a member's processes; a later list of the same sender replaces it."""
        self._joinlists[sender] = joinlist.processes

    def sync_messages(self) -> list[bytes]:
        """Return this node's messages in sync: its view of who left, which nobody needs, and its processes, if any."""
        own = [
            Process(name, member.pid) for name, member in self._listed_by_member() if member.node_id == self._node_id
        ]
        messages = [Downlist(len(self._activated), tuple(sorted(self._left_nodes()))).encode()]
        if own:
            messages.append(Joinlist(tuple(own)).encode())
        return messages

    def activate(self) -> list[Change]:
        """Return the changes that follow from the processes of all members, each group's own in their order."""
        changes = [*self._nodes_down(), *self._nodes_up(), *self._processes_down()]
        self._activated = self._staying = self._ring_members
        self._joinlists.clear()
        return changes

    def _left_nodes(self) -> frozenset[int]:
        return self._activated - self._staying

    def _nodes_down(self) -> Iterable[Change]:
        left = self._left_nodes()
        for name in self.names():
            gone = {member: Reason.NODEDOWN for member in self.members(name) if member.node_id in left}
            if gone:
                yield self._take(name, gone)

    def _nodes_up(self) -> Iterable[Change]:
        arrivals: dict[bytes, set[Member]] = {}
        for name, member in self._told_by_others():
            if self.incarnation(name, member) is None:
                arrivals.setdefault(name, set()).add(member)
        for name in sorted(arrivals):
            yield self._bring(name, dict.fromkeys(sorted(arrivals[name]), Reason.NODEUP))

    def _processes_down(self) -> Iterable[Change]:
        told = set(self._told_by_others())
        for name, member in self._listed_by_member():
            if member.node_id != self._node_id and (name, member) not in told:
                yield self._take(name, {member: Reason.PROCDOWN})

    def _told_by_others(self) -> Iterable[tuple[bytes, Member]]:
        for sender, processes in self._joinlists.items():
            if sender != self._node_id:
                for name, pid in processes:
                    yield name, Member(sender, pid)

    def _listed_by_member(self) -> list[tuple[bytes, Member]]:
        listed = [(name, member) for name, members in self._processes.items() for member in members]
        return sorted(listed, key=lambda entry: (entry[1], entry[0]))

    def _bring(self, name: bytes, joined: dict[Member, Reason]) -> Change:
        group = self._processes.setdefault(name, {})
        for member in joined:
            self._incarnations += 1
            group[member] = self._incarnations
        return Change(name, Confchg(self.members(name), {}, joined))

    def _take(self, name: bytes, left: dict[Member, Reason]) -> Change:
        group = self._processes[name]
        for member in left:
            del group[member]
        if not group:
            del self._processes[name]
        return Change(name, Confchg(self.members(name), left, {}))
