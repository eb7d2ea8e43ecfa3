"""What a processor counts, and the frozen record in which a user gets it.

Docstrings give the names of Corosync's `stats.srp.*` keys where they mean the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from totem.config import Timeouts
from totem.configuration import RingId
from totem.exclusions import Exclusion
from totem.separation import Apart


@dataclass(slots=True)
class Counters:
    """The running counts of one processor, since its start."""

    tokens_received: int = 0
    tokens_sent: int = 0
    multicasts_received: int = 0
    multicasts_sent: int = 0
    multicasts_behind_token: int = 0
    retransmits_sent: int = 0
    retransmits_requested: int = 0
    joins_received: int = 0
    joins_sent: int = 0
    commit_tokens_received: int = 0
    commit_tokens_sent: int = 0
    token_retransmits: int = 0
    holds_cancelled: int = 0
    rings_installed: int = 0
    pauses: int = 0
    messages_sent: int = 0
    bytes_sent: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    entered: Counter[str] = field(default_factory=Counter)

    def frozen(self) -> dict[str, Any]:
        """Return a read-only copy of all counts, by their names."""
        counts = {count.name: getattr(self, count.name) for count in fields(self)}
        return counts | {name: MappingProxyType(dict(counts[name])) for name in ("drops", "entered")}


@dataclass(frozen=True, slots=True)
class Statistics:
    """A processor at one moment: what it counted since its start, and what it holds now."""

    state: str
    since: float
    """When the ring was installed or, in any state but operational, when it was left; by the processor's clock."""
    left_out: Mapping[int, Exclusion]
    """Nodes that were excluded because they did not receive; at such a node itself, all others."""
    apart: Mapping[int, Apart]
    """Nodes that this one is parted from, because not all of them hear each other (`totem.separation`)."""
    asks_at: float
    """Until when this node does not ask nodes that are apart for a new round, after it has asked in vain."""
    standstill: str
    """Which member does not receive what, while the ring waits for it for seconds; otherwise empty."""
    ring_id: RingId
    members: tuple[int, ...]
    pure: bool
    """Whether all members are Totem processors of this package."""
    tokens_received: int
    """Accepted visits of the token, so rotations of the ring (`orf_token_rx`)."""
    tokens_sent: int
    """`orf_token_tx`."""
    multicasts_received: int
    """`mcast_rx`: datagrams, duplicates included."""
    multicasts_sent: int
    """`mcast_tx`: frames sent for the first time."""
    multicasts_behind_token: int
    """Those of them that left behind the token, in an accelerated ring."""
    retransmits_sent: int
    """`mcast_retx`: frames sent again, because other members missed them."""
    retransmits_requested: int
    """Frames that this processor missed and requested, each request counted."""
    joins_received: int
    joins_sent: int
    commit_tokens_received: int
    commit_tokens_sent: int
    token_retransmits: int
    """Number of times that the last token was sent again because nothing had come."""
    holds_cancelled: int
    rings_installed: int
    pauses: int
    """Number of times that this process was not run for longer than half the token timeout."""
    largest_pause: float
    """Seconds of the longest of them."""
    messages_sent: int
    bytes_sent: int
    """Bytes of the messages accepted for sending, headers of the layers above included."""
    drops: Mapping[str, int]
    """Datagrams and frames dropped, by cause."""
    entered: Mapping[str, int]
    """Number of times that a state was entered, by cause: the gathers among them say why the ring changed."""
    queued_messages: int
    queued_bytes: int
    window_frames: int
    """Frames held until all members have them."""
    timeouts: Timeouts
    """Those in force in the ring."""
    timeouts_because: str
    """Why it has these; empty before the first ring."""
    rotation_time: float
    """Smoothed seconds between two visits of the token while it does not rest; 0 before the second visit.

    It grows slowly: one rotation counts for at most half as long again as those before it.
    """
