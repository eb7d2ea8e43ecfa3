"""Token passing: the token leaves for the next member, rests where a ring is idle, and is sent again when it is late.

Some rules make an idle ring cheap, a busy one fast, and a loss sure. They hold in a *pure* ring only: one in which all
members are Totem processors of this package. With a Corosync node in the ring, Corosync's rules apply.

- *Held-back frames.* Some frames leave behind the token, which already names their numbers (rulings, D2).
- *Rest.* The last sender keeps the token of an idle ring. A member with something to send calls for it (D7).
- *Early resend.* A token that does not come back within two rotations is sent again, long before Corosync's
  `token_retransmit` (F4). It is lost only if a copy was not answered either.
- *Signs of the token.* Only the member that has the token gives numbers. So a new number shows that the token was there
  a moment ago, and the wait for it begins anew. Members that are late one after the other make no loss (F5).

What is known of the ring's rotation outlives a ring; it belongs to the processor.
"""

from __future__ import annotations

from math import inf

from totem.config import ETHERNET_MTU, Config
from totem.outbox import Outbox
from totem.ring import Ring
from totem.sequence import after, up_to
from totem.statistics import Counters
from totem.timers import Timer, Timers
from totem.wire import codec
from totem.wire.messages import CommitToken, HoldCancel, Token

_LONGER = 1.5
"""A rotation counts for at most this multiple of those before it; the rest is the wait for a lost token."""
_ROTATIONS_TO_MISS = 2
_SOON = 0.005
"""A pure ring that does not rest first sends its token again after this many rotations, and at least this many
seconds. Each further wait is twice as long (rulings, F4)."""
_REST = 1.25
"""The same for a pure ring that rests: this multiple of the hold time, and what it waits where it does not rest."""
_COPIES = 16
"""The longest of these waits, as a share of the token timeout: so many copies must all be lost before the token is."""
_COPIES_TO_MISS = 2
"""A token is lost only when at least so many copies were not answered either."""
_COMMIT_AGAIN = 0.05
"""A commit token is first sent again after so many seconds, where all members seem to be ours. Each of them makes a
number durable before it passes it on."""
_LATE = 0.25
"""A token that comes later than this share of the token timeout after the last one has waited for somebody, and did
not rest (F5)."""


class TokenPassing:
    """How one processor passes tokens and commit tokens on."""

    def __init__(self, config: Config, node_id: int, timers: Timers, counters: Counters, outbox: Outbox) -> None:
        self._config = config
        self._node_id = node_id
        self._timers = timers
        self._counters = counters
        self._outbox = outbox
        self.rotation_time = 0.0
        """Smoothed seconds between two visits; 0 before the second."""
        self._last_visit = inf
        """Infinity where the time until the next visit is no rotation."""
        self._resend_after = config.token_retransmit
        """Seconds until the token is sent again if nothing comes."""
        self._passed_on = inf
        """When this node's part of the last visit ended."""
        self._copies = 0
        """Number of times that the last token was sent again."""
        self.was_late = False
        """Whether the token came late to this visit."""
        self._call_again_after = 0.0
        """Seconds until the next call for a token that rests elsewhere."""
        self.commit_token_seq = 0
        """`token_seq` with which this node sent the commit token on."""

    def reconfigure(self, config: Config) -> None:
        """Take another configuration."""
        self._config = config

    def begin_ring(self) -> None:
        """Begin with an installed ring."""
        self._last_visit = self._passed_on = inf

    def note_visit(self, ring: Ring, now: float) -> None:
        """Count an accepted visit of the token, and measure the rotation that it ends.

        A rotation that took much longer than those before it contains a lost token. If it counted in full, each loss
        would delay the detection of the next one.
        """
        self._counters.tokens_received += 1
        self.note_delay(ring, now)
        if self._last_visit < now:
            longest = max(_SOON, _LONGER * self.rotation_time)
            self.rotation_time += (min(now - self._last_visit, longest) - self.rotation_time) / 8
        self._last_visit = now

    def note_delay(self, ring: Ring, now: float) -> None:
        """Note whether the token has waited for somebody since this node passed it on, which is for others to know."""
        timeouts = ring.timeouts
        self.was_late = now - self._passed_on > max(_LATE * timeouts.token, _REST * timeouts.hold)

    def note_frames(self, ring: Ring, now: float) -> None:
        """Wait for the token anew if numbers are new: it was with their sender a moment ago (F5). Hot."""
        newest = ring.window.high_seq
        if newest != ring.newest:
            ring.newest = newest
            if self._timers.armed(Timer.TOKEN_LOSS):
                self._timers.arm(Timer.TOKEN_LOSS, now + ring.timeouts.token)

    def is_lost(self, ring: Ring, now: float) -> bool:
        """Return whether the token is lost now that its time is over; otherwise wait for the answer to a copy.

        A process that was late may have sent the first copy just now.
        """
        if not ring.pure or self._copies >= _COPIES_TO_MISS:
            return True
        self._copies = _COPIES_TO_MISS
        self._timers.arm(Timer.TOKEN_LOSS, now + self._longest_wait(ring))
        return False

    def wait_longer(self, ring: Ring, seconds: float, now: float) -> None:
        """Postpone the loss of the token, because a member has asked for it.

        Who asks for more and for less in turn is waited for no longer than who asks for most.
        """
        deadline = self._timers.deadline(Timer.TOKEN_LOSS)
        if deadline < inf:
            longest = max(deadline, now + ring.timeouts.token)
            self._timers.arm(Timer.TOKEN_LOSS, min(deadline + seconds, longest))

    def _overdue_after(self, ring: Ring) -> float:
        """Return the seconds after which the token of a pure ring that does not rest should have come back (F4)."""
        return min(max(_SOON, _ROTATIONS_TO_MISS * self.rotation_time), ring.timeouts.token_retransmit)

    @staticmethod
    def _longest_wait(ring: Ring) -> float:
        """Return the longest time between two copies of the token."""
        retransmit = ring.timeouts.token_retransmit
        if not (ring.pure or ring.seems_pure):
            return retransmit
        return min(retransmit, ring.timeouts.token / _COPIES)

    def burst(self, ring: Ring) -> int:
        """Return the number of frames that may go to another member at once behind the token (D2).

        The other members share the window, because what they send at the same time waits in the switch for the same
        member. A switch's buffers are bytes, so frames larger than Ethernet's get a smaller window.
        """
        config = self._config
        frames = config.accelerated_window * ETHERNET_MTU // max(ETHERNET_MTU, config.packet_size)
        return max(1, frames // max(1, len(ring.members) - 1))

    # The token.

    def forward(self, ring: Ring, token: Token, now: float) -> None:
        """Pass the token on, and send what was held back behind it."""
        token.token_seq = after(token.token_seq)
        token.sender = self._node_id
        ring.last_token = codec.encode(token)
        self._counters.tokens_sent += 1
        self._outbox.send(ring.successor, ring.last_token)
        if ring.held_back:
            self._counters.multicasts_behind_token += len(ring.held_back)
            burst = self.burst(ring)
            for start in range(0, len(ring.held_back), burst):
                self._outbox.send_to_all(ring.held_back[start : start + burst])
            ring.held_back = []
        resend_after = ring.timeouts.token_retransmit
        if ring.token_held and ring.is_quiet(token):
            self._last_visit = inf  # it will rest, which is no rotation
            if ring.pure:
                resend_after = min(resend_after, _REST * ring.timeouts.hold + self._overdue_after(ring))
        elif ring.pure or ring.seems_pure:
            resend_after = self._overdue_after(ring)
        ring.newest = ring.window.high_seq
        self._copies = 0
        self._passed_on = now
        self._timers.arm(Timer.TOKEN_LOSS, now + ring.timeouts.token)
        self._arm_resend(resend_after, now)

    def rest(self, ring: Ring, token: Token, now: float) -> None:
        """Keep the token of an idle ring for a while."""
        ring.resting = token
        self._last_visit = inf
        self._timers.arm(Timer.TOKEN_HOLD, now + ring.timeouts.hold)
        self._timers.arm(Timer.TOKEN_LOSS, now + ring.timeouts.token)
        self._timers.disarm(Timer.TOKEN_RETRANSMIT)

    def resend(self, ring: Ring, now: float) -> None:
        """Send the last token or commit token again; a node that has it already drops the copy."""
        self._counters.tokens_sent += 1
        self._copies += 1
        self._outbox.send(ring.successor, ring.last_token)
        self._arm_resend(min(2 * self._resend_after, self._longest_wait(ring)), now)

    def _arm_resend(self, seconds: float, now: float) -> None:
        self._resend_after = seconds
        self._timers.arm(Timer.TOKEN_RETRANSMIT, now + seconds)

    def cancel_hold(self, ring: Ring) -> None:
        """Make a token that rests move, because this node has something to send."""
        ring.token_held = False
        self._counters.holds_cancelled += 1
        if not ring.pure:
            # Corosync nodes reset their counts when this comes.
            self._outbox.send_message_to_all(HoldCancel(self._node_id, ring.id))
            ring.unchanged = 0
        if ring.resting is not None:
            self._timers.arm(Timer.TOKEN_HOLD, -inf)
        elif ring.pure and ring.keeper != self._node_id:
            self._call_again_after = self._overdue_after(ring)
            self._timers.arm(Timer.CALL, -inf)

    def call(self, ring: Ring, now: float) -> None:
        """Ask the keeper of a pure ring to send the token on, and again if it does not come: the call may be lost."""
        self._outbox.send(ring.keeper, codec.encode(HoldCancel(self._node_id, ring.id)))
        self._timers.arm(Timer.CALL, now + self._call_again_after)
        self._call_again_after = min(2 * self._call_again_after, self._longest_wait(ring))

    # The commit token.

    def forward_commit_token(self, ring: Ring, token: CommitToken, now: float) -> None:
        """Pass a commit token on in the ring being formed."""
        token.token_seq = after(token.token_seq)
        token.sender = self._node_id
        self.commit_token_seq = token.token_seq
        ring.last_token = codec.encode(token)
        self._counters.commit_tokens_sent += 1
        self._outbox.send(ring.successor, ring.last_token)
        self._timers.arm(Timer.TOKEN_LOSS, now + ring.timeouts.token)
        self._arm_resend(_COMMIT_AGAIN if ring.seems_pure else ring.timeouts.token_retransmit, now)

    def has_gone_round(self, token: CommitToken) -> bool:
        """Return whether all other members have passed the commit token on since this node did (A8).

        A late copy from before has not gone round.
        """
        return up_to(after(self.commit_token_seq, len(token.members) - 1), token.token_seq)
