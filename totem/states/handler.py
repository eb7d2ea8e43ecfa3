"""What all states have in common: a handler for each kind of message, which drops it unless the state takes it.

A handler carries only what its state needs, and vanishes when the state is left. What must outlive it (the installed
ring, the candidates, what is owed to the old ring) belongs to the processor.
"""

from __future__ import annotations

from totem.configuration import RingId
from totem.ring import Ring
from totem.states.context import StateContext
from totem.timers import Timer
from totem.transitions import Cause, State
from totem.wire import codec
from totem.wire.messages import CommitToken, HoldCancel, Join, MergeDetect, Row, Token


def rows_of(join: Join) -> tuple[Row, ...] | None:
    """Return the rows in a Join's hint; None if there are none."""
    hint = codec.decode_hint(join.hint) if join.hint else None
    return hint.rows if hint is not None else None


class StateHandler:
    """One state of one processor, from entering to leaving it."""

    state: State

    def __init__(self, processor: StateContext) -> None:
        self.processor = processor

    def leave(self) -> None:
        """Clean up before another handler (of the same state, too) takes over."""

    def on_token(self, token: Token, now: float) -> None:
        """Take a token."""
        self.processor.diagnostics.drop(f"token in {self.state.value}")

    def on_mcast(self, datagram: bytes) -> None:
        """Take a multicast of this ring. Hot."""
        filing = self.processor.filing
        assert filing is not None
        filing.window.insert(codec.mcast_seq(datagram), datagram)

    def on_foreign(self, origin: int, ring_id: RingId, cause: Cause, now: float) -> None:
        """Take a multicast or merge detect of another ring."""

    def on_join(self, join: Join, now: float) -> None:
        """Take a join or a leave."""

    def on_commit_token(self, token: CommitToken, now: float) -> None:
        """Take a commit token."""
        self.processor.diagnostics.drop(f"commit token in {self.state.value}")

    def on_merge_detect(self, message: MergeDetect, now: float) -> None:
        """Take the announcement of a ring."""
        if message.ring_id != self.processor.numbers.ring_id:
            self.on_foreign(message.origin, message.ring_id, Cause.MERGE_DETECTED, now)

    def on_hold_cancel(self, message: HoldCancel, now: float) -> None:
        """Take a member's call for the token, because it has new messages."""

    def on_timer(self, timer: Timer, now: float) -> None:
        """Do what a timer that this state armed is for."""

    def on_hearing(self, node_id: int, now: float) -> None:
        """Hear from the links machine that packets of a node pass again, or not any more."""

    def breaks_attempt(self, ring: Ring, join: Join) -> bool:
        """Return whether a Join means that the attempt to form a ring has broken for its sender.

        A leave always does: it carries the number of the ring that its sender was in when it left.
        """
        own_seq = self.processor.numbers.ring_id.seq
        if join.origin in ring.members and (join.is_leave or join.ring_seq >= own_seq):
            return True
        self.processor.diagnostics.drop("stale join")
        return False
