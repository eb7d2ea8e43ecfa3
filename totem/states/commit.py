"""Commit: the commit token's first rotation (paper section 5.3; Corosync memb_state_commit_enter).

On its first rotation each member writes into the commit token from which ring it comes and how far it has received. On
the second all members read what all have written, and enter Recovery. The ring's sequence number is stored durably
before the token leaves, so that no restart can use it again. From here on, late messages of the old ring are refused:
what this member wrote into the token must stay true.
"""

from __future__ import annotations

from totem.sequence import before, later
from totem.states.handler import StateHandler
from totem.timers import Timer
from totem.transitions import Cause, State
from totem.wire.messages import CommitEntry, CommitToken, Join


class Commit(StateHandler):
    """Between the first and the second visit of a commit token."""

    state = State.COMMIT

    def enter(self, token: CommitToken, now: float) -> None:
        """Fill in this member's entry and pass the token on."""
        processor = self.processor
        processor.begin_ring(token.ring_id, token.members)
        processor.timers.disarm_all()
        self._fill_entry(token)
        token.index += 1
        assert processor.new_ring is not None
        processor.tokens.forward_commit_token(processor.new_ring, token, now)

    def _fill_entry(self, token: CommitToken) -> None:
        """Fill in this member's entry by Corosync's formulas: real nodes read and overwrite these fields (A2)."""
        old = self.processor.ring
        window = old.window
        entries = token.entries
        entries[token.index] = CommitEntry(old.id, window.aru, old.delivered, int(window.aru == window.high_seq))
        mine = [entry for entry in entries[: token.index + 1] if entry.old_ring_id == old.id]
        highest = mine[0].aru
        for entry in mine:
            highest = later(highest, entry.aru)
        for entry in mine:
            if before(entry.aru, highest):
                entry.received_flag = 0

    def on_commit_token(self, token: CommitToken, now: float) -> None:
        """Enter Recovery with a token that all members have filled."""
        processor = self.processor
        ring = processor.new_ring
        assert ring is not None
        if (
            token.ring_id != ring.id
            or token.members != ring.members
            or token.index != len(ring.members)
            or token.entries[ring.members.index(processor.node_id)].old_ring_id != processor.ring.id
            or not processor.tokens.has_gone_round(token)
        ):
            processor.diagnostics.drop("commit token of another ring")
            return
        processor.recover(token, now)

    def on_join(self, join: Join, now: float) -> None:
        """Give the attempt up if a member of the ring being formed has gone back to Gather, or never took part.

        A member that names more nodes than were agreed on here has not agreed, and waits for others. Corosync goes on
        until the commit token is lost; going back at once saves all members a token timeout.
        """
        processor = self.processor
        ring = processor.new_ring
        assert ring is not None
        has_not_agreed = join.origin in ring.members and not processor.membership.knows_all_of(join)
        if has_not_agreed or self.breaks_attempt(ring, join):
            processor.gather_with(join, Cause.JOIN_IN_COMMIT, now)

    def on_timer(self, timer: Timer, now: float) -> None:
        """Send the commit token again, or give the attempt up."""
        processor = self.processor
        match timer:
            case Timer.TOKEN_RETRANSMIT:
                assert processor.new_ring is not None
                processor.tokens.resend(processor.new_ring, now)
            case Timer.TOKEN_LOSS:
                processor.gather(Cause.TOKEN_LOST_IN_COMMIT, now)
