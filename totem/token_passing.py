"""Token passing: the token leaves for the next member, rests where a ring is idle, and is sent again when it is late.

Three rules make an idle ring cheap and a busy one fast. They hold in a *pure* ring only: one in which all members are
Totem processors of this package. With a Corosync node in the ring, Corosync's rules apply.

- *Held-back frames.* Some frames leave behind the token, which already names their numbers (rulings, D2).
- *Rest.* The last sender keeps the token of an idle ring. A member with something to send calls for it (D7).
- *Early resend.* A token that does not come back within two rotations is sent again, long before Corosync's
  `token_retransmit` (F4).

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

_PAUSE_FACTOR = 4
"""The token timeout of a pure ring is at least this multiple of its members' longest pause (rulings, F1)."""
_LONGER = 1.5
"""A rotation counts for at most this multiple of those before it; the rest is the wait for a lost token."""
_ROTATIONS_TO_MISS = 2
_SOON = 0.005
"""A pure ring that does not rest first sends its token again after this many rotations, and at least this many
seconds. Each further wait is twice as long (rulings, F4)."""


class TokenPassing:
    """How one processor passes tokens and commit tokens on."""

    def __init__(self, config: Config, node_id: int, timers: Timers, counters: Counters, outbox: Outbox) -> None:
        self._config = config
        self._node_id = node_id
        self._timers = timers
        self._counters = counters
        self._outbox = outbox
        self.timeout = config.token
        """Seconds without a token after which it is lost."""
        self.rotation_time = 0.0
        """Smoothed seconds between two visits; 0 before the second."""
        self._last_visit = inf
        """Infinity where the time until the next visit is no rotation."""
        self._resend_after = config.token_retransmit
        """Seconds until the token is sent again if nothing comes."""
        self._call_again_after = 0.0
        """Seconds until the next call for a token that rests elsewhere."""
        self.commit_token_seq = 0
        """`token_seq` with which this node sent the commit token on."""

    def reconfigure(self, config: Config) -> None:
        """Take other timeouts: that of the token from the next ring on."""
        self._config = config

    def begin_ring(self, ring: Ring, largest_pause: float) -> None:
        """Set the token timeout of an installed ring; its members' longest pause stretches it (F1)."""
        self._last_visit = inf
        self.timeout = self._config.token
        if ring.pure and not self._config.token_configured:
            # A longer pause than the timeout has cost its node the ring anyway; it must not cost the others hours.
            pause = min(largest_pause, self._config.token)
            self.timeout = max(self._config.token, _PAUSE_FACTOR * pause)

    def note_visit(self, now: float) -> None:
        """Count an accepted visit of the token, and measure the rotation that it ends.

        A rotation that took much longer than those before it contains a lost token. If it counted in full, each loss
        would delay the detection of the next one.
        """
        self._counters.tokens_received += 1
        if self._last_visit < now:
            longest = max(_SOON, _LONGER * self.rotation_time)
            self.rotation_time += (min(now - self._last_visit, longest) - self.rotation_time) / 8
        self._last_visit = now

    @property
    def _overdue_after(self) -> float:
        """Seconds after which the token of a pure ring that does not rest should have come back (F4)."""
        return min(max(_SOON, _ROTATIONS_TO_MISS * self.rotation_time), self._config.token_retransmit)

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
        resend_after = self._config.token_retransmit
        if ring.token_held and ring.is_quiet(token):
            self._last_visit = inf  # it will rest, which is no rotation
        elif ring.pure:
            resend_after = self._overdue_after
        self._timers.arm(Timer.TOKEN_LOSS, now + self.timeout)
        self._arm_resend(resend_after, now)

    def rest(self, ring: Ring, token: Token, now: float) -> None:
        """Keep the token of an idle ring for a while."""
        ring.resting = token
        self._last_visit = inf
        self._timers.arm(Timer.TOKEN_HOLD, now + self._config.hold)
        self._timers.arm(Timer.TOKEN_LOSS, now + self.timeout)
        self._timers.disarm(Timer.TOKEN_RETRANSMIT)

    def resend(self, ring: Ring, now: float) -> None:
        """Send the last token or commit token again; a node that has it already drops the copy."""
        self._counters.tokens_sent += 1
        self._outbox.send(ring.successor, ring.last_token)
        self._arm_resend(min(2 * self._resend_after, self._config.token_retransmit), now)

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
            self._call_again_after = self._overdue_after
            self._timers.arm(Timer.CALL, -inf)

    def call(self, ring: Ring, now: float) -> None:
        """Ask the keeper of a pure ring to send the token on, and again if it does not come: the call may be lost."""
        self._outbox.send(ring.keeper, codec.encode(HoldCancel(self._node_id, ring.id)))
        self._timers.arm(Timer.CALL, now + self._call_again_after)
        self._call_again_after = min(2 * self._call_again_after, self._config.token_retransmit)

    # The commit token.

    def forward_commit_token(self, ring: Ring, token: CommitToken, now: float) -> None:
        """Pass a commit token on in the ring being formed."""
        token.token_seq = after(token.token_seq)
        token.sender = self._node_id
        self.commit_token_seq = token.token_seq
        ring.last_token = codec.encode(token)
        self._counters.commit_tokens_sent += 1
        self._outbox.send(ring.successor, ring.last_token)
        self._timers.arm(Timer.TOKEN_LOSS, now + self.timeout)
        self._arm_resend(self._config.token_retransmit, now)

    def has_gone_round(self, token: CommitToken) -> bool:
        """Return whether all other members have passed the commit token on since this node did (A8).

        A late copy from before has not gone round.
        """
        return up_to(after(self.commit_token_seq, len(token.members) - 1), token.token_seq)
