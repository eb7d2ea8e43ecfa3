"""Votes: whether a ring may act for the cluster, by the rules of Corosync's votequorum.

Each node sends its votes and the number that it expects in all, in each sync and when an administrator changes them.
Each node counts for itself. A ring is quorate with more than half of the highest number that a member expects; options
of the configuration change that rule (votequorum(5)). A number of expected votes that a node has received stays in
force, whatever its configuration says: that keeps two halves of a cluster from counting differently.

The rules follow exec/votequorum.c of Corosync 3.1, so that all members of a ring get the same figures. Two differences
are intended: sums do not wrap (there the quorum does at eight bits, votes at 32), and a node that is not a member of
the ring is not believed. We have no quorum device, but messages of other nodes about theirs count as there.

The machine has no clock: the window of `last_man_standing` starts at the first `advance` after it began.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from cpg.node.wire import Nodeinfo, Reconfigure
from totem.config import Config

DEVICE = 0
"""The node id under which the votes of a quorum device are sent."""
MOST_VOTES = 2**32 - 1
"""The largest number that fits into a message."""


class Flag(enum.IntFlag):
    """What a node reports about itself."""

    QUORATE = 1
    LEAVING = 2
    WAITING = 4
    """It waits until all nodes have been there at once."""
    FIRST = 8
    """It has seen no other node so far."""


class State(enum.StrEnum):
    """A node's state, as others see it."""

    MEMBER = "member"
    DEAD = "dead"
    LEAVING = "leaving"
    """It has announced its leave, and may be counted out (`allow_downscale`)."""


class Param(enum.IntEnum):
    """What an administrator may change at run time."""

    EXPECTED_VOTES = 1
    NODE_VOTES = 2
    CANCEL_WAIT_FOR_ALL = 3


class NodeVotes(NamedTuple):
    """One node of the cluster, as far as it is known."""

    node_id: int
    votes: int
    expected_votes: int
    state: State


class QuorumStatus(NamedTuple):
    """The figures, as `corosync-quorumtool -s` shows them."""

    quorate: bool
    expected_votes: int
    """Expected by this node."""
    highest_expected: int
    """The highest number that a member expects."""
    total_votes: int
    """Of all members."""
    quorum: int
    """Number of votes that are needed."""
    options: tuple[str, ...]
    """Options in force, by their names in the configuration."""
    nodes: tuple[NodeVotes, ...]
    """In ascending order."""

    @classmethod
    def of(cls, values: Sequence[Any]) -> QuorumStatus:
        """Rebuild the figures from values of JSON, which are lists and strings."""
        quorate, expected, highest, total, quorum, options, nodes = values
        votes = (NodeVotes(node_id, votes, expected, State(state)) for node_id, votes, expected, state in nodes)
        return cls(quorate, expected, highest, total, quorum, tuple(options), tuple(votes))


@dataclass(frozen=True, slots=True)
class Rules:
    """The quorum section of one node, resolved."""

    votes: int = 1
    expected_votes: int = 1
    two_node: bool = False
    wait_for_all: bool = False
    tie_breaker: str | tuple[int, ...] = ""
    """`lowest`, `highest`, node ids in order of preference, or empty."""
    last_man_standing: bool = False
    window: float = 10.0
    """Seconds of `last_man_standing`."""
    allow_downscale: bool = False
    tracking: bool = False
    """Whether the highest number of expected votes ever seen outlives a restart."""

    @classmethod
    def of(cls, config: Config, node_id: int) -> tuple[Rules, list[str]]:
        """Read a node's rules, with warnings about options that exclude each other; Corosync drops one of them, too."""
        section = config.quorum
        warnings = []
        listed = sum(node.votes for node in config.nodes)
        two_node, tie_breaker = section.two_node, section.tie_breaker
        wait_for_all = section.waits_for_all
        if two_node and tie_breaker:
            warnings.append("quorum: two_node does not go with auto_tie_breaker, and is left out")
            two_node = False
        if tie_breaker and listed % 2 and not wait_for_all:
            warnings.append("quorum: auto_tie_breaker needs wait_for_all where votes are odd, and is left out")
            tie_breaker = ""
        tracking = section.expected_votes_tracking or section.allow_downscale
        rules = cls(
            votes=next((node.votes for node in config.nodes if node.node_id == node_id), 1),
            expected_votes=listed if tracking else section.expected_votes or listed,  # Corosync's first start, too
            two_node=two_node,
            wait_for_all=wait_for_all,
            tie_breaker=tie_breaker,
            last_man_standing=section.last_man_standing,
            window=section.last_man_standing_window,
            allow_downscale=section.allow_downscale,
            tracking=tracking,
        )
        return rules, warnings


@dataclass(slots=True)
class _Node:
    votes: int = 0
    expected_votes: int = 0
    flags: int = 0
    state: State = State.DEAD


@dataclass(slots=True)
class _Ring:
    members: tuple[int, ...] = ()
    previous: tuple[int, ...] = field(default=())
    """Members of the ring before."""


class Votequorum:
    """One node's count of the votes."""

    def __init__(
        self, node_id: int, rules: Rules, *, barrier: int = 0, remember: Callable[[int], None] = lambda votes: None
    ) -> None:
        """`barrier`: the last argument of `remember`, over restarts: the highest number of expected votes ever seen."""
        self.quorate = False
        self.deadline = math.inf
        """When `advance` must be called."""
        self._node_id = node_id
        self._rules = rules
        self._last_man_standing = rules.last_man_standing
        self._remember = remember
        self._barrier = barrier
        expected = (barrier if rules.tracking else 0) or rules.expected_votes
        self._us = _Node(rules.votes, expected, Flag.FIRST, State.MEMBER)
        self._nodes = {node_id: self._us}
        self._device_votes = 0
        self._ring = _Ring()
        self._floor = expected
        """Expected votes below which `allow_downscale` does not go."""
        self._lowest = self._highest = 0
        """Members when the ring was quorate last; 0 before that, so that halves that start apart are not quorate."""
        self._quorum = 0
        self._set_waiting(rules.wait_for_all)
        self._recalculate()

    # Messages of this node.

    def messages(self) -> list[bytes]:
        """Return the messages for sync: its votes, and those of a quorum device."""
        return [self._nodeinfo(), Nodeinfo(DEVICE, self._device_votes, 0, 0).encode()]

    def farewell(self) -> list[bytes]:
        """Return the messages to be sent before leaving in order."""
        if not self._rules.allow_downscale:
            return []
        self._us.flags |= Flag.LEAVING
        return [self._nodeinfo()]

    @property
    def has_left(self) -> bool:
        """Whether all members know that this node leaves."""
        return self._us.state is State.LEAVING

    def _nodeinfo(self) -> bytes:
        us = self._us
        return Nodeinfo(self._node_id, us.votes, us.expected_votes, us.flags).encode()

    # Events.

    def new_ring(self, members: Sequence[int]) -> None:
        """Note that a ring is installed; its sync begins."""
        ring = self._ring
        if len(members) > 1:
            self._us.flags &= ~Flag.FIRST
        gone = set(ring.members).difference(members)
        for node_id in gone.intersection(self._nodes):
            self._nodes[node_id].state = State.DEAD
        if self._last_man_standing and self._starts_window(len(members), bool(gone)):
            self.deadline = -math.inf  # the next `advance` sets the time
        self._ring = _Ring(tuple(members), ring.members)

    def _starts_window(self, members: int, gone: bool) -> bool:
        if members >= self._quorum and gone:
            return True
        return members <= self._quorum and bool(self._rules.tie_breaker) and self._has_member(self._lowest)

    def activate(self) -> None:
        """Count: the votes of all members have been delivered."""
        self._recalculate()

    def on_nodeinfo(self, sender: int, info: Nodeinfo) -> None:
        """Note a member's votes, or those of its quorum device."""
        if sender not in self._ring.members or info.node_id not in (sender, DEVICE):
            return
        node = self._nodes.get(sender)
        if info.node_id == DEVICE:
            if node is not None:
                self._on_device(node, info.votes)
            return
        if node is None:
            self._forget_the_dead()
            node = self._nodes[sender] = _Node()
        before = (node.votes, node.expected_votes, node.flags, node.state)
        leaving = bool(info.flags & Flag.LEAVING)
        allow_decrease = leaving
        node.votes, node.flags = info.votes, info.flags
        node.state = State.LEAVING if leaving else State.MEMBER
        if not self.quorate and info.flags & Flag.QUORATE:
            allow_decrease = True
            self._us.expected_votes = info.expected_votes
        told = info.flags & Flag.QUORATE or self._rules.tracking
        node.expected_votes = info.expected_votes if told else self._us.expected_votes
        if self._last_man_standing and node.votes > 1:
            self._last_man_standing = False  # it is for clusters where every node has one vote
            self.deadline = math.inf
        after = (node.votes, node.expected_votes, node.flags, node.state)
        if node is self._us or info.flags & Flag.FIRST or before != after:
            self._recalculate(allow_decrease=allow_decrease, by_nodes=leaving)
        # Not the flags in the message: those of this node may have changed with the count.
        if self._rules.wait_for_all and node.flags & Flag.QUORATE and not node.flags & Flag.WAITING:
            self._set_waiting(False)

    def _on_device(self, teller: _Node, votes: int) -> None:
        before = self._device_votes
        believed = not self.quorate and teller.flags & Flag.QUORATE
        self._device_votes = votes if believed else max(before, votes)
        if self._device_votes != before:
            self._recalculate()

    def _forget_the_dead(self) -> None:
        """Forget nodes beyond the size of a ring, and keep those that were members of the last one."""
        known = {*self._ring.members, *self._ring.previous, self._node_id}
        self._nodes = {node_id: node for node_id, node in self._nodes.items() if node_id in known}

    def on_reconfigure(self, change: Reconfigure) -> None:
        """Apply an administrator's change, made at any node."""
        match change.param:
            case Param.EXPECTED_VOTES:
                self._expect(change.value)
                self._floor = change.value
                if self._rules.tracking:
                    self._us.expected_votes = max(self._us.expected_votes, self._barrier)
                self._recalculate(allow_decrease=True)
            case Param.NODE_VOTES if change.node_id in self._nodes:
                self._nodes[change.node_id].votes = change.value
                self._recalculate(allow_decrease=True)
            case Param.CANCEL_WAIT_FOR_ALL:
                self._set_waiting(False)
                self._recalculate()

    def reconfigure(self, rules: Rules) -> list[bytes]:
        """Take the votes, the expected votes and `two_node` of another configuration, and what follows from these.

        Return the messages by which all members learn it. Everything counts as soon as they are delivered here.
        """
        us = self._us
        before = us.votes, us.expected_votes
        self._rules = replace(
            self._rules,
            votes=rules.votes,
            expected_votes=rules.expected_votes,
            two_node=rules.two_node,
            wait_for_all=rules.wait_for_all,
            tie_breaker=rules.tie_breaker,
        )
        us.votes = rules.votes
        us.expected_votes = self._floor = (self._barrier if rules.tracking else 0) or rules.expected_votes
        if not rules.wait_for_all:
            self._set_waiting(False)
        messages = self.messages()
        if us.votes != before[0]:
            messages.append(Reconfigure(self._node_id, us.votes, Param.NODE_VOTES).encode())
        if us.expected_votes != before[1]:
            messages.append(Reconfigure(self._node_id, us.expected_votes, Param.EXPECTED_VOTES).encode())
        return messages

    def may_expect(self, votes: int) -> bool:
        """Return whether an administrator may set the number of expected votes to this."""
        total = self._total() + self._device_votes
        needed = max((votes + 2) // 2, (total + 2) // 2)
        return total <= votes <= MOST_VOTES and not (self.quorate and needed > total)

    def may_have(self, node_id: int, votes: int) -> bool:
        """Return whether an administrator may give a known node this number of votes."""
        node = self._nodes[node_id]
        total = self._total() + self._device_votes
        if node.state is State.MEMBER:
            total += votes - node.votes
        expected = max((member.expected_votes for member in self._members()), default=0)
        needed = max((expected + 2) // 2, (total + 2) // 2)
        return total // 2 <= needed <= total <= MOST_VOTES

    def advance(self, now: float) -> None:
        """Start the window of `last_man_standing`, or end it: then only the remaining members are expected."""
        if now < self.deadline:
            return
        if self.deadline == -math.inf:
            self.deadline = now + self._rules.window
            return
        self.deadline = math.inf
        if self.quorate:
            self._recalculate(allow_decrease=True, by_nodes=True)

    # The count.

    def _members(self) -> list[_Node]:
        return [node for node in self._nodes.values() if node.state is State.MEMBER]

    def _has_member(self, node_id: int) -> bool:
        node = self._nodes.get(node_id)
        return node is not None and node.state is State.MEMBER

    def _set_waiting(self, waiting: bool) -> None:
        self._waiting = waiting
        self._us.flags = self._us.flags | Flag.WAITING if waiting else self._us.flags & ~Flag.WAITING

    def _expect(self, votes: int) -> None:
        if votes:
            for node in self._members():
                node.expected_votes = votes

    def _recalculate(self, *, allow_decrease: bool = False, by_nodes: bool = False) -> None:
        """`by_nodes`: expect as many votes as there are members now."""
        us, members = self._us, self._members()
        total = self._total()
        us.expected_votes = max(us.expected_votes, min(total + self._device_votes, MOST_VOTES))
        if self._rules.tracking and us.expected_votes > self._barrier:
            self._barrier = us.expected_votes
            self._remember(self._barrier)
        expected = len(members) + bool(self._device_votes) if by_nodes else 0
        self._quorum = self._needed(total, expected, allow_decrease=allow_decrease)
        self._expect(expected)
        self._judge(total)

    def _total(self) -> int:
        return sum(node.votes for node in self._members())

    def _needed(self, total: int, expected: int, *, allow_decrease: bool) -> int:
        members = self._members()
        if self._rules.two_node and len(members) <= 2:
            return 1
        if not expected:
            expected = max((node.expected_votes for node in members), default=0)
        elif self._rules.allow_downscale and allow_decrease:
            expected = max(self._floor, expected)
        needed = max((expected + 2) // 2, (total + 2) // 2)
        return needed if allow_decrease else max(self._quorum, needed)

    def _judge(self, total: int) -> None:
        us, rules = self._us, self._rules
        if rules.wait_for_all and self._waiting:
            if total != us.expected_votes:
                return
            self._set_waiting(False)
        quorate = total >= self._quorum
        if quorate:
            present = [node_id for node_id in self._nodes if self._has_member(node_id)]
            self._lowest, self._highest = min([*present, self._node_id]), max([*present, self._node_id])
        quorate = quorate or self._wins_tie(total)
        self.quorate = quorate
        us.flags = us.flags | Flag.QUORATE if quorate else us.flags & ~Flag.QUORATE
        if rules.wait_for_all:
            self._set_waiting(not quorate)

    def _wins_tie(self, total: int) -> bool:
        """Return whether this half of the cluster goes on (`auto_tie_breaker`)."""
        preference, ring = self._rules.tie_breaker, self._ring
        if not preference or total != self._us.expected_votes // 2:
            return False
        if len(ring.previous) - len(ring.members) >= self._quorum:
            return False  # the others may be quorate
        if preference == "lowest":
            return self._has_member(self._lowest)
        if preference == "highest":
            return self._has_member(self._highest)
        for node_id in preference:
            if node_id in ring.members:
                return True
            if node_id in ring.previous:
                return False  # it may be in the other half
        return False

    # Queries.

    def status(self) -> QuorumStatus:
        """Return the present figures."""
        us, rules = self._us, self._rules
        options = {
            "two_node": rules.two_node,
            "wait_for_all": rules.wait_for_all,
            "last_man_standing": self._last_man_standing,
            "auto_tie_breaker": bool(rules.tie_breaker),
            "allow_downscale": rules.allow_downscale,
        }
        return QuorumStatus(
            self.quorate,
            us.expected_votes,
            max((node.expected_votes for node in self._members()), default=0),
            self._total(),
            self._quorum,
            tuple(name for name, is_set in options.items() if is_set),
            tuple(
                NodeVotes(node_id, node.votes, node.expected_votes, node.state)
                for node_id, node in sorted(self._nodes.items())
            ),
        )
