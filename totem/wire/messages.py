"""The nouns of totemsrp: one class for each packet that travels on a ring.

Field names follow the papers; the docstrings name Corosync's field where it differs. Multicasts are so frequent that
the hot path reads single fields from the bytes (`codec.mcast_seq` and its kin) and never builds a `Mcast`. `Hello` and
`Hint` are this package's own: real nodes pass them along without reading them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from totem.configuration import NO_RING, RingId


@dataclass(slots=True)
class Token:
    """The regular token (`orf_token`): order, reliability and flow control of one ring."""

    sender: int
    """Node id of the last forwarder (header `nodeid`)."""
    ring_id: RingId
    seq: int = 0
    token_seq: int = 0
    aru: int = 0
    aru_holder: int = 0
    """The node that lowered `aru`; 0 if none did (`aru_addr`)."""
    backlog: int = 0
    fcc: int = 0
    retransmit_flag: int = 0
    """Recovery: some member still has old messages to send (`retrans_flg`)."""
    requests: list[tuple[RingId, int]] = field(default_factory=list)
    """Missing messages (`rtr_list`), at most 30."""


@dataclass(slots=True)
class Mcast:
    """A multicast: one frame of packed messages, or in recovery a whole old multicast inside a new one."""

    sender: int
    """Header `nodeid`: equal to `origin` in everything that real nodes are known to send."""
    origin: int
    """Originator (`system_from`)."""
    seq: int
    ring_id: RingId
    this_seqno: int = 0
    guarantee: int = 0
    encapsulated: bool = False
    data: bytes = b""


@dataclass(slots=True)
class Join:
    """The nodes that a processor would have in the next ring, and those that it considers failed (`memb_join`)."""

    sender: int
    """Header `nodeid`; 0 in a leave message."""
    origin: int
    """`system_from`: also set in a leave message."""
    ring_seq: int
    candidates: tuple[int, ...]
    """`proc_list`, as sent."""
    failed: tuple[int, ...]
    hint: bytes = b""
    """Bytes behind the lists: none from Corosync, a `Hint` block from this package; never an authority."""

    @property
    def is_leave(self) -> bool:
        """Whether this announces that its origin leaves."""
        return self.sender == 0


@dataclass(slots=True)
class CommitEntry:
    """One member's entry in the commit token, all zero until that member has filled it."""

    old_ring_id: RingId = NO_RING
    aru: int = 0
    high_delivered: int = 0
    received_flag: int = 0


@dataclass(slots=True)
class CommitToken:
    """The token of the Commit phase (`memb_commit_token`)."""

    sender: int
    token_seq: int
    ring_id: RingId
    """The ring being formed."""
    members: tuple[int, ...]
    """`addr`: ascending, which is the ring's order."""
    entries: list[CommitEntry]
    """As many as members."""
    index: int = 0
    """`memb_index`: entries filled so far."""
    retransmit_flag: int = 0


@dataclass(slots=True)
class MergeDetect:
    """Sent by the representative of an idle ring, so that rings that hear each other merge."""

    sender: int
    origin: int
    ring_id: RingId


@dataclass(slots=True)
class HoldCancel:
    """Sent by a node with new messages while the representative holds the token of an idle ring."""

    sender: int
    ring_id: RingId


class Ask(NamedTuple):
    """For how long a member asks the others to wait for it before the ring is broken (`totem.patience`)."""

    milliseconds: int
    """The token timeout that it needs."""
    reason: int
    """Why (`totem.patience.Reason`)."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What a node of this package says of itself in each Recovery, as a message of the new ring that all members order.

    It travels as the data of an encapsulated multicast whose inner header has the ring id `NO_RING` and seq 0, which
    real nodes drop silently (ruling A1).
    """

    version: int
    """Version of the block: it grows when tags are added."""
    features: int
    """Bit set of the extensions that the node supports; unknown bits are kept."""
    old_ring_id: RingId
    safe_line: int
    """Number up to which the messages of the old ring are known to be safe (ruling A7)."""
    obligations: tuple[int, ...]
    """Node ids whose old-ring messages the node must deliver past a gap (ruling A6)."""
    largest_pause_ms: int
    frame_size: int
    """Bytes of the largest datagram that the node sends in plain."""
    daemon: bool
    """Whether nothing but this node runs in the process."""
    window: int
    """Frames that may wait for the node while it does not read; 0 if its windows are configured (D4)."""
    ask: Ask | None = None
    """For how long the others should wait for the node; None from older versions (F1)."""


class Row(NamedTuple):
    """Whom one node hears while it looks for the next ring (`totem.rows`)."""

    node_id: int
    incarnation: int
    """Which life of the node this is; later ones have higher numbers."""
    number: int
    """Which row of this life; one more with each Join."""
    votes: int
    """The node's votes, as its own configuration has them."""
    ring_id: RingId
    """The ring that it was in."""
    hears: frozenset[int]
    """Nodes whose Joins have come lately."""
    lacks: frozenset[int]
    """Nodes from which none comes, though others pass on what they say. Of all others nothing is known."""
    linked: frozenset[int]
    """Nodes with which packets pass both ways, as the links machine says."""
    unlinked: frozenset[int]
    """Nodes with which they do not, at least in one direction."""

    @property
    def sets(self) -> tuple[frozenset[int], ...]:
        """The four sets of nodes, in the order of the wire."""
        return self.hears, self.lacks, self.linked, self.unlinked


@dataclass(frozen=True, slots=True)
class Hint:
    """What a node of this package says of itself behind the lists of a join: order never depends on it (D1)."""

    cluster_name: str
    frame_size: int
    features: int
    nodelist: frozenset[int] = frozenset()
    """The nodes that it knows; empty from older versions, and where there are too many."""
    rows: tuple[Row, ...] | None = None
    """Who hears whom, as far as the node knows; None from older versions, and where there are too many nodes."""


Message = Token | Mcast | Join | CommitToken | MergeDetect | HoldCancel
