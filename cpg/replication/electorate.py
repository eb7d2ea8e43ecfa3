"""Which nodes decide: the servers that vote, and what is more than half of their votes (rulings E1 and E9).

What the ring calls quorum is a further condition and no substitute. `two_node` makes both halves of a ring quorate, and
a node whose server has died has no memory although it still votes.

The voters are part of the replicated state. Configuration counts where a cluster is born, and never again. During a
change of voters a majority of the former ones is needed as well as one of the new ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final, NamedTuple

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from cpg.arguments import flag, whole
from cpg.replication.identities import Number

MOST_VOTERS: Final = 384
"""Corosync's rings have no more members."""
LARGEST_NODE_ID: Final = (1 << 32) - 1
MOST_VOTES: Final = 1_000_000
"""Of one node."""

NodeId = Annotated[int, Meta(ge=0, le=LARGEST_NODE_ID)]
Votes = Annotated[int, Meta(ge=0, le=MOST_VOTES)]


def votes_of(what: str, votes: Mapping[int, int]) -> Mapping[int, int]:
    """Return the votes of nodes, by node id. Raises TypeError, ValueError."""
    for node_id, count in votes.items():
        whole(what, node_id, 0, LARGEST_NODE_ID)
        whole(f"{what}: votes of node {node_id}", count, 0, MOST_VOTES)
    return votes


def electorate_of(votes: Mapping[int, int], tie_breaker: int | None, unsafe_half: bool) -> Electorate:
    """Return the electorate that a program describes. Raises TypeError, ValueError."""
    electorate = Electorate(votes_of("votes", votes), tie_breaker, flag("unsafe_half", unsafe_half))
    if not any(electorate.votes.values()):
        raise ValueError("nobody votes: at least one server must have a vote")
    return electorate


class Electorate(Struct, frozen=True, array_like=True):
    """The votes of each server's node, and when an exact half of them is enough."""

    votes: Annotated[Mapping[NodeId, Votes], Meta(max_length=MOST_VOTERS)]
    """By node id, ascending."""
    tie_breaker: NodeId | None = None
    """The node with which an exact half is enough."""
    unsafe_half: bool = False
    """An exact half is always enough. Then two halves may both decide, and fencing tokens no longer grow over both."""

    def __post_init__(self) -> None:
        """Sort the votes, so that equal electorates are equal bytes. Raises `ValueError`."""
        force_setattr(self, "votes", dict(sorted(self.votes.items())))
        if self.tie_breaker is not None and self.tie_breaker not in self.votes:
            servers = ", ".join(map(str, self.votes))
            raise ValueError(f"tie breaker: node {self.tie_breaker} is none of the servers: {servers}")

    def __hash__(self) -> int:
        """Return a hash, so that electorates can be in sets."""
        return hash((*self.votes.items(), self.tie_breaker, self.unsafe_half))

    def is_quorum(self, node_ids: Collection[int]) -> bool:
        """Return whether these nodes decide."""
        present = sum(self.votes.get(node_id, 0) for node_id in set(node_ids))
        twice, everything = 2 * present, sum(self.votes.values())
        if twice == everything and present:
            return self.unsafe_half or self.tie_breaker in node_ids
        return twice > everything

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        votes = [{"node": node, "votes": votes} for node, votes in self.votes.items()]
        return {"votes": votes, "tie_breaker": self.tie_breaker, "unsafe_half": self.unsafe_half}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Electorate:
        """Return the electorate that `to_dict` has described."""
        votes = {one["node"]: one["votes"] for one in values["votes"]}
        return cls(votes, values["tie_breaker"], values["unsafe_half"])

    def is_in_force(self, voters: Mapping[str, Any]) -> bool:
        """Return whether these alone decide, where `voters` is what `status` reports of them."""
        return voters["former"] is None and Electorate.from_dict(voters) == self

    def __str__(self) -> str:
        votes = ", ".join(f"{node}" if n == 1 else f"{node} ({n} votes)" for node, n in self.votes.items())
        half = "any half" if self.unsafe_half else f"a half with {self.tie_breaker}"
        return votes if self.tie_breaker is None and not self.unsafe_half else f"{votes}; {half} is enough"


class ChangeVoters(Struct, frozen=True, array_like=True, gc=False, tag=10):
    """A command: have others decide, from this version on. It has no effect if it is not the next one, or during a
    change.

    It is a command of every application, and leaves that tag to no other one.
    """

    version: Number
    electorate: Electorate


class View(NamedTuple):
    """A primary view; of two, the later one is larger."""

    epoch: Number
    ring_seq: Number
    """Of its ring."""
    number: Number
    """Counts the primary views of that ring."""


UNBORN: Final = View(0, 0, 0)


class Voters(Struct, frozen=True, array_like=True):
    """Who decides in a cluster, and since when: what the state and the disks know of it (ruling E9)."""

    cluster: Number
    """Drawn at random when the cluster was born."""
    version: Number
    """Counts the changes."""
    electorate: Electorate
    former: Electorate | None = None
    """During a change: the former electorate, of which a majority is needed, too."""
    view: View = UNBORN
    """The last primary view that went by these voters, as far as the owner of this value knows."""

    @property
    def is_born(self) -> bool:
        """Return whether a primary view went by them. Otherwise they were prepared, and perhaps not on all disks."""
        return self.view != UNBORN

    @property
    def rank(self) -> tuple[View, int, bool]:
        """Return the key by which voters are compared; a larger one is later."""
        return self.view, self.version, self.former is None

    def says_what(self, other: Voters | None) -> bool:
        """Return whether both are the same but for the view that confirmed them last."""
        return other is not None and self.confirmed(other.view) == other

    @property
    def electorates(self) -> tuple[Electorate, ...]:
        """Return all electorates that must agree."""
        return (self.electorate,) if self.former is None else (self.electorate, self.former)

    @property
    def voting(self) -> set[int]:
        """Return the nodes that have votes."""
        return {node_id for electorate in self.electorates for node_id, votes in electorate.votes.items() if votes}

    # ---- who is enough

    def is_quorum(self, node_ids: Collection[int]) -> bool:
        """Return whether these nodes decide."""
        return all(electorate.is_quorum(node_ids) for electorate in self.electorates)

    def is_everyone(self, node_ids: Collection[int]) -> bool:
        """Return whether these include all voters."""
        return not self.missing(node_ids)

    def missing(self, node_ids: Collection[int]) -> tuple[int, ...]:
        """Return the voters that are not among these."""
        voters = {node_id for electorate in self.electorates for node_id in electorate.votes}
        return tuple(sorted(voters - set(node_ids)))

    # ---- changes

    def confirmed(self, view: View) -> Voters:
        """Return the same voters, confirmed by a later view."""
        return Voters(self.cluster, self.version, self.electorate, self.former, view)

    def after(self, command: ChangeVoters, here: Collection[int]) -> Voters:
        """Return the voters behind a command; `here`: the nodes whose servers are in the view, with the state.

        From then on a majority of both electorates is needed. So the command has no effect unless one is here.
        """
        is_next = self.former is None and command.version == self.version + 1
        if is_next and command.electorate != self.electorate and command.electorate.is_quorum(here):
            return self.changing(command.electorate)
        return self

    def changing(self, electorate: Electorate) -> Voters:
        """Return the voters until the next electorate is in force."""
        return Voters(self.cluster, self.version + 1, electorate, self.electorate, self.view)

    def changed(self) -> Voters:
        """Return the voters once the next electorate is in force."""
        return Voters(self.cluster, self.version, self.electorate, None, self.view)

    def undone(self) -> Voters:
        """Return the voters where the change cannot have come into force, and does not."""
        assert self.former is not None
        return Voters(self.cluster, self.version + 1, self.former, None, self.view)
