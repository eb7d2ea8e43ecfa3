"""Context: what a state needs of the processor that it belongs to."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from totem.config import Config
from totem.configuration import Feature, RingId
from totem.delivery import DeliveryQueue
from totem.diagnostics import Diagnostics
from totem.exclusions import Exclusions
from totem.hearing import Hearing
from totem.membership import Membership
from totem.outbox import Outbox
from totem.packing import Packer
from totem.patience import Patience
from totem.ring import Ring
from totem.ring_numbers import RingNumbers
from totem.rows import Rows
from totem.separation import Separation
from totem.statistics import Counters
from totem.timers import Timers
from totem.token_passing import TokenPassing
from totem.transitions import Cause
from totem.wire.messages import CommitToken, Join


class StateContext(Protocol):
    """A `totem.processor.Processor`, as its states see it: its settings, its parts, its rings and the transitions."""

    node_id: int
    config: Config
    dice: random.Random
    first_token_seq: int

    # Parts.
    counters: Counters
    timers: Timers
    diagnostics: Diagnostics
    outbox: Outbox
    tokens: TokenPassing
    delivery: DeliveryQueue
    numbers: RingNumbers
    membership: Membership
    rows: Rows
    separation: Separation
    ours: frozenset[int]
    hearing: dict[int, Hearing]
    left_out: Exclusions[int]

    # Rings, and the layer above.
    ring: Ring
    new_ring: Ring | None
    filing: Ring | None
    awaited_until: float
    syncing: bool

    on_stall: Callable[[float], None]

    @property
    def told_nodelist(self) -> frozenset[int]:
        """The nodelist as Joins tell it; empty where it is too long."""

    @property
    def stream(self) -> Packer:
        """The send queue that is allowed to send."""

    # What the hello says of this node.
    own_features: Feature
    largest_pause: float
    is_daemon: bool
    patience: Patience

    @property
    def consensus(self) -> float:
        """The consensus timeout of a round with the present candidates."""

    @property
    def own_window(self) -> int:
        """Frames that may wait for this processor; 0 if the windows are configured."""

    def note_health(self, now: float) -> None:
        """Ask the others for less patience after quiet."""

    # Transitions.

    def gather(self, cause: Cause, now: float) -> None:
        """Begin a round of Joins."""

    def gather_with(self, join: Join, cause: Cause, now: float) -> None:
        """Begin a round of Joins with what this Join names, and count it as the round's first."""

    def hear(self, join: Join, now: float) -> None:
        """Count a Join for the round that it has led to."""

    def give_up(self, node_id: int, reason: str, frame: bytes | None, now: float, *, pure: bool) -> None:
        """Go on without a member that does not receive, or is not received."""

    def commit(self, token: CommitToken, cause: Cause, now: float) -> None:
        """Begin to form the ring of this commit token."""

    def begin_ring(self, ring_id: RingId, members: tuple[int, ...]) -> None:
        """Make the ring of the commit token the one being formed."""

    def recover(self, token: CommitToken, now: float) -> None:
        """Exchange old messages on the new ring."""

    def install(self, ring: Ring, now: float) -> None:
        """Put the new ring in the old one's place."""
