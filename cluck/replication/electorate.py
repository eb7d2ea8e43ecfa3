"""Which nodes decide: the lock servers that vote, and what is more than half of their votes (rulings E1 and E9).

What the ring calls quorum is a further condition and no substitute: `two_node` makes both halves quorate, and a node
whose lock server has died has no memory although it still votes.

Who votes is part of the replicated state: configuration counts where a cluster is born, and never again. While it
changes a majority of the former voters is needed as well as one of the new ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final, NamedTuple

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from cpg.arguments import flag, whole

MOST_VOTERS: Final = 384
"""Corosync's rings have no more members."""
LARGEST_NODE_ID: Final = (1 << 32) - 1
MOST_VOTES: Final = 1_000_000
"""Of one node."""

NodeId = Annotated[int, Meta(ge=0, le=LARGEST_NODE_ID)]
Votes = Annotated[int, Meta(ge=0, le=MOST_VOTES)]
_Number = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


def votes_of(what: str, votes: Mapping[int, int]) -> Mapping[int, int]:
    """Return the votes of nodes, by their ids. Raises TypeError, ValueError."""
    for node_id, count in votes.items():
        whole(what, node_id, 0, LARGEST_NODE_ID)
        whole(f"{what}: votes of node {node_id}", count, 0, MOST_VOTES)
    return votes


def electorate_of(votes: Mapping[int, int], tie_breaker: int | None, unsafe_half: bool) -> Electorate:
    """Return who decides, as a program says it. Raises TypeError, ValueError."""
    electorate = Electorate(votes_of("votes", votes), tie_breaker, flag("unsafe_half", unsafe_half))
    if not any(electorate.votes.values()):
        raise ValueError("nobody votes: a lock server at least must have a vote")
    return electorate


class Electorate(Struct, frozen=True, array_like=True):
    """The votes of each lock server's node, and when an exact half of them is enough."""

    votes: Annotated[Mapping[NodeId, Votes], Meta(max_length=MOST_VOTERS)]
    """By node id, ascending."""
    tie_breaker: NodeId | None = None
    """The node with which an exact half is enough."""
    unsafe_half: bool = False
    """An exact half is always enough: two halves may both grant, and fencing tokens no longer grow over both."""

    def __post_init__(self) -> None:
        """Sort the votes: the same electorate is the same bytes. Raises `ValueError`."""
        force_setattr(self, "votes", dict(sorted(self.votes.items())))
        if self.tie_breaker is not None and self.tie_breaker not in self.votes:
            servers = ", ".join(map(str, self.votes))
            raise ValueError(f"tie breaker: node {self.tie_breaker} is none of the lock servers: {servers}")

    def __hash__(self) -> int:
        """Tell it from others in sets."""
        return hash((*self.votes.items(), self.tie_breaker, self.unsafe_half))

    def is_quorum(self, node_ids: Collection[int]) -> bool:
        """Whether these nodes decide."""
        present = sum(self.votes.get(node_id, 0) for node_id in set(node_ids))
        twice, everything = 2 * present, sum(self.votes.values())
        if twice == everything and present:
            return self.unsafe_half or self.tie_breaker in node_ids
        return twice > everything

    def shown(self) -> dict[str, Any]:
        """Return it as plain values."""
        votes = [{"node": node, "votes": votes} for node, votes in self.votes.items()]
        return {"votes": votes, "tie_breaker": self.tie_breaker, "unsafe_half": self.unsafe_half}

    @classmethod
    def of(cls, shown: Mapping[str, Any]) -> Electorate:
        """Read what `shown` says."""
        votes = {one["node"]: one["votes"] for one in shown["votes"]}
        return cls(votes, shown["tie_breaker"], shown["unsafe_half"])

    def is_in_force(self, shown: Mapping[str, Any]) -> bool:
        """Whether those who decide, as `status` shows them, are these, and these alone."""
        return shown["former"] is None and Electorate.of(shown) == self

    def __str__(self) -> str:
        votes = ", ".join(f"{node}" if n == 1 else f"{node} ({n} votes)" for node, n in self.votes.items())
        half = "any half" if self.unsafe_half else f"a half with {self.tie_breaker}"
        return votes if self.tie_breaker is None and not self.unsafe_half else f"{votes}; {half} is enough"


class View(NamedTuple):
    """A primary view; of two, the later one is larger."""

    epoch: _Number
    ring_seq: _Number
    """Of its ring."""
    number: _Number
    """Which one of that ring."""


UNBORN: Final = View(0, 0, 0)


class Voters(Struct, frozen=True, array_like=True):
    """Who decides in a cluster, and since when: what state and disks know of it (ruling E9)."""

    cluster: _Number
    """Drawn at random when the cluster was born."""
    version: _Number
    """Counts the changes."""
    electorate: Electorate
    former: Electorate | None = None
    """While a change is under way: the former one, of which a majority is needed, too."""
    view: View = UNBORN
    """The last primary view that went by it, as far as who knows this knows."""

    @property
    def is_born(self) -> bool:
        """Whether a primary view went by it; else it was prepared, and perhaps not on all disks."""
        return self.view != UNBORN

    @property
    def rank(self) -> tuple[View, int, bool]:
        """Of what two servers know, the larger one is later."""
        return self.view, self.version, self.former is None

    def says_what(self, other: Voters | None) -> bool:
        """Whether the other says the same, whenever that was confirmed last."""
        return other is not None and self.confirmed(other.view) == other

    @property
    def electorates(self) -> tuple[Electorate, ...]:
        """All that must agree."""
        return (self.electorate,) if self.former is None else (self.electorate, self.former)

    @property
    def voting(self) -> set[int]:
        """The nodes that have votes."""
        return {node_id for electorate in self.electorates for node_id, votes in electorate.votes.items() if votes}

    # ---- who is enough

    def is_quorum(self, node_ids: Collection[int]) -> bool:
        """Whether these nodes decide."""
        return all(electorate.is_quorum(node_ids) for electorate in self.electorates)

    def is_everyone(self, node_ids: Collection[int]) -> bool:
        """Whether all who vote are among these."""
        return not self.missing(node_ids)

    def missing(self, node_ids: Collection[int]) -> tuple[int, ...]:
        """Who votes and is not among these."""
        voters = {node_id for electorate in self.electorates for node_id in electorate.votes}
        return tuple(sorted(voters - set(node_ids)))

    # ---- changes

    def confirmed(self, view: View) -> Voters:
        """The same, as of a later view."""
        return Voters(self.cluster, self.version, self.electorate, self.former, view)

    def changing(self, electorate: Electorate) -> Voters:
        """Return what is true until the next electorate is in force."""
        return Voters(self.cluster, self.version + 1, electorate, self.electorate, self.view)

    def changed(self) -> Voters:
        """Return what is true once it is."""
        return Voters(self.cluster, self.version, self.electorate, None, self.view)

    def undone(self) -> Voters:
        """Return what is true where it cannot have come into force, and does not."""
        assert self.former is not None
        return Voters(self.cluster, self.version + 1, self.former, None, self.view)
