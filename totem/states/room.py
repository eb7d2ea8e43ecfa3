"""What all states have in common: the doors of a room, each of which drops what comes unless the state opens it.

A room carries only what its state needs and vanishes when the state is left. What must outlive it (the installed
ring, the candidates, what is owed to the old ring) belongs to the processor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from totem.configuration import RingId
from totem.states.table import Cause, State
from totem.timers import Timer
from totem.wire import codec
from totem.wire.messages import CommitToken, HoldCancel, Join, MergeDetect, Token

if TYPE_CHECKING:
    from totem.processor import Processor


class Room:
    """One state of one processor, from entering to leaving it."""

    state: State

    def __init__(self, processor: Processor) -> None:
        self.processor = processor

    def leave(self) -> None:
        """Called before another room (of the same state, too) takes over."""

    def on_token(self, token: Token, now: float) -> None:
        """A token came."""
        self.processor.drop(f"token in {self.state.value}")

    def on_mcast(self, datagram: bytes) -> None:
        """A multicast of my ring came. Hot."""
        filing = self.processor.filing
        assert filing is not None
        filing.window.insert(codec.mcast_seq(datagram), datagram)

    def on_foreign(self, origin: int, ring_id: RingId, cause: Cause, now: float) -> None:
        """A multicast or merge detect of another ring came."""

    def on_join(self, join: Join, now: float) -> None:
        """A join or a leave came."""

    def on_commit_token(self, token: CommitToken, now: float) -> None:
        """A commit token came."""
        self.processor.drop(f"commit token in {self.state.value}")

    def on_merge_detect(self, message: MergeDetect, now: float) -> None:
        """A ring announced itself."""
        if message.ring_id != self.processor.ring_id:
            self.on_foreign(message.origin, message.ring_id, Cause.MERGE_DETECTED, now)

    def on_hold_cancel(self, message: HoldCancel, now: float) -> None:
        """A member has new messages and would have the token move."""

    def on_timer(self, timer: Timer, now: float) -> None:
        """A timer that this state armed is due."""
