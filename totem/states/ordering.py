"""One visit of the token: what Operational and Recovery share (paper section 4; Corosync message_handler_orf_token).

On each visit a processor answers requests for messages that other members miss, multicasts its own, and lowers or
raises the aru. Then it requests what it misses itself, and passes the token on. Deliveries wait until the token is on
its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from totem.config import REAL_REST_AFTER
from totem.configuration import RingId
from totem.ring import Ring
from totem.sequence import RANGE, after, before, distance, row
from totem.states.handler import StateHandler
from totem.timers import Timer
from totem.transitions import Cause, State
from totem.wire import codec
from totem.wire.codec import Frame
from totem.wire.layout import MAX_REQUESTS
from totem.wire.messages import HoldCancel, Join, Token

_MISSES_COUNTED = 512
"""Holes that are examined on one visit."""
_ORIGINATORS_TURN = 1.5
_HOLDERS_TURN = 2.0
_BELIEVED = 0.5
"""Multiples of the limit. After the first two the originator and the holder give themselves up. The third must have
passed before another member's judgement is believed (rulings, A9)."""


def describe(ring: Ring, holder: int, frame: bytes | None) -> str:
    """Return which member does not receive what; `frame` is what it lacks, if that is here."""
    lacks = f"node {holder} gets the token but not the messages of"
    if frame is None:
        return f"{lacks} the others (FAILED TO RECEIVE)"
    origin = codec.mcast_origin(frame)
    return f"{lacks} node {origin} in frames of {len(frame)} bytes (FAILED TO RECEIVE)"


class Ordering(StateHandler):
    """A state in which the token of a formed ring goes round."""

    def ring(self) -> Ring:
        """Return the ring whose token it is."""
        raise NotImplementedError

    def queued_frames(self) -> int:
        """Return the number of frames that wait for the token."""
        raise NotImplementedError

    def multicast(self, token: Token, allowed: int) -> int:
        """Send up to `allowed` frames, count them into `token.seq`, return their number."""
        raise NotImplementedError

    def is_pure(self) -> bool:
        """Return whether all members are known to be Totem processors of this package."""
        raise NotImplementedError

    def conclude_visit(self, token: Token, now: float) -> bool:
        """Do what the state does before the token is passed on; return False if the ring has been given up."""
        raise NotImplementedError

    def on_token(self, token: Token, now: float) -> None:
        """Handle one visit. A foreign, repeated or impossible token is dropped before any other effect (A8)."""
        processor = self.processor
        ring = self.ring()
        dropped = self._ignores_token(ring, token)
        if dropped:
            processor.diagnostics.drop(dropped)
            return
        processor.tokens.note_visit(ring, now)
        processor.timers.disarm(Timer.TOKEN_HOLD)
        processor.timers.disarm(Timer.CALL)
        ring.resting = None
        self._note_activity(ring, token, now)
        self._use(ring, token, now)
        self._request_missing(ring, token)
        if self._gives_up_a_member(ring, token, now):
            return
        ring.note_visit(token)
        ring.seen_token_seq = token.token_seq
        if not self.conclude_visit(token, now):
            return
        if self._may_rest(ring, token, now):
            processor.tokens.rest(ring, token, now)
        else:
            processor.tokens.forward(ring, token, now)

    def _use(self, ring: Ring, token: Token, now: float) -> None:
        """Send what other members request, and what is queued here."""
        flow = ring.flow
        allowed = flow.allowed(token, self.queued_frames(), now)
        resent = self._answer_requests(ring, token, allowed)
        allowed -= resent
        if distance(ring.window.released, token.seq) + allowed + flow.window_size > RANGE:
            allowed = 0  # a real node's queue would overflow
        sent = self.multicast(token, allowed) if allowed else 0
        flow.account(token, resent + sent, self.queued_frames(), len(ring.held_back))
        self._update_aru(ring, token)

    def seal(self, token: Token, frames: Sequence[Frame], *, encapsulated: bool = False) -> list[bytes]:
        """Make frames into multicasts with the token's next numbers, and keep them in the ring's window. Hot."""
        count = len(frames)
        if not count:
            return []
        processor = self.processor
        ring = self.ring()
        seqs, seqnos = row(token.seq, count), processor.outbox.next_seqnos(count)
        train = codec.seal_train(ring.node_id, seqs, seqnos, ring.id_bytes, frames, encapsulated=encapsulated)
        ring.window.insert_all(seqs, train)
        token.seq = after(token.seq, count)
        processor.counters.multicasts_sent += count
        return train

    @staticmethod
    def _may_rest(ring: Ring, token: Token, now: float) -> bool:
        """Return whether the token may stay here until a member has something to send.

        A forged token may say for ever that the ring is not quiet; it counts no longer than in Corosync, or half a
        second, in which a pure ring finds out what its links carry.
        """
        if not ring.token_held or ring.keeper != ring.node_id:
            return False
        if ring.is_quiet(token):
            return True
        return ring.unchanged > REAL_REST_AFTER and not (ring.pure and ring.stall.is_young(now))

    def _go_on(self, now: float) -> None:
        """Pass on a token that rests here; what was queued meanwhile goes first.

        It is the same visit still. The token has not gone round, so this is no second visit for the safe line.
        """
        ring = self.ring()
        token, ring.resting = ring.resting, None
        if token is not None:
            self.processor.tokens.note_delay(ring, now)
            self.processor.timers.disarm(Timer.TOKEN_HOLD)
            self._use(ring, token, now)
            ring.note_forwarded(token)
            if self.conclude_visit(token, now):
                self.processor.tokens.forward(ring, token, now)

    @staticmethod
    def _ignores_token(ring: Ring, token: Token) -> str:
        """Return why the token must be dropped; empty if it is the next one of this ring."""
        if token.ring_id != ring.id:
            return "token of another ring"
        if ring.seen_token_seq is not None and not before(ring.seen_token_seq, token.token_seq):
            return "repeated token"
        if (
            distance(ring.window.released, token.seq) >= RANGE
            or distance(token.aru, token.seq) >= RANGE
            or token.fcc >= RANGE
            or (token.aru_holder and token.aru_holder not in ring.members)
        ):
            # The sender's copy, which comes again, may be whole. If this one were believed, it could stop the ring for
            # good.
            return "token out of range"
        return ""

    def _note_activity(self, ring: Ring, token: Token, now: float) -> None:
        """Count visits without new messages, which let an idle ring rest.

        In a pure ring the last sender keeps the token, because it is usually the next one to send.
        """
        processor = self.processor
        timers = processor.timers
        if token.seq == ring.previous_seq:
            ring.unchanged += 1
            if not timers.armed(Timer.MERGE_DETECT):
                timers.arm(Timer.MERGE_DETECT, now + processor.config.merge)
        else:
            ring.unchanged = 0
            timers.disarm(Timer.MERGE_DETECT)
        ring.previous_seq = token.seq
        latest = ring.window.get(token.seq) if ring.pure else None
        if latest is not None and not codec.mcast_is_encapsulated(latest):
            sender = codec.mcast_origin(latest)
            ring.last_sender = sender if sender in ring.members else 0
        # The representative counts one visit more where it is not the sender: the others must know before it that the
        # token rests.
        idle = processor.config.rest_after(pure=ring.pure) + (not ring.last_sender and ring.is_representative)
        # A recovery is never idle: it waits for its rotations.
        ring.token_held = ring.unchanged >= idle and self.state is State.OPERATIONAL

    def _answer_requests(self, ring: Ring, token: Token, allowed: int) -> int:
        """Multicast again what other members miss and is held here; the rest stays in the token's list."""
        if not token.requests:
            return 0
        kept: list[tuple[RingId, int]] = []
        train: list[bytes] = []
        for ring_id, seq in token.requests:
            frame = ring.window.get(seq) if ring_id == ring.id and len(train) < allowed else None
            if frame is None:
                kept.append((ring_id, seq))
            else:
                train.append(frame)
        token.requests = kept
        if train:
            self.processor.counters.retransmits_sent += len(train)
            self.processor.outbox.send_to_all(train)
        return len(train)

    @staticmethod
    def _update_aru(ring: Ring, token: Token) -> None:
        """Lower the aru to this member's; raise it if this member had lowered it, or none had (Corosync's rule)."""
        aru = ring.window.aru
        if before(aru, token.aru) or token.aru_holder in (ring.node_id, 0):
            token.aru = aru
            token.aru_holder = 0 if aru == token.seq else ring.node_id

    def _request_missing(self, ring: Ring, token: Token) -> None:
        """Request missing messages: in a pure ring after a whole rotation, else after five visits."""
        if ring.window.aru == token.seq:
            ring.misses = {}
            return
        config = self.processor.config
        needed = 2 if ring.pure else config.miss_count_const
        misses = {seq: ring.misses.get(seq, 0) + 1 for seq in islice(ring.window.missing(token.seq), _MISSES_COUNTED)}
        ring.misses = misses
        room = MAX_REQUESTS - len(token.requests)
        if room <= 0:
            return
        asked = {seq for ring_id, seq in token.requests if ring_id == ring.id}
        wanted = (seq for seq, count in misses.items() if count >= needed and seq not in asked)
        requests = [(ring.id, seq) for seq in islice(wanted, room)]
        self.processor.counters.retransmits_requested += len(requests)
        token.requests += requests

    def _gives_up_a_member(self, ring: Ring, token: Token, now: float) -> bool:
        """Return whether a member has held the aru for so long that the ring has gone on without one (A9)."""
        stall = ring.stall
        if token.aru_holder == 0 or token.aru != ring.forwarded_aru:
            if ring.pure and stall.lasts:  # all must learn what is safe by now before the token rests
                ring.unchanged, ring.token_held = -1, False
            stall.end(now)
            return False
        stall.note_visit(self.processor.config.fail_recv_const, now)
        if stall.calls_for_search(now):
            self.processor.on_stall(now)
        if stall.lasts <= 1:
            return False
        frame = ring.window.get(after(token.aru))
        stall.reason = describe(ring, token.aru_holder, frame)
        pure = self.is_pure()
        failing = self._judge(ring, token.aru_holder, frame, pure=pure)
        if failing == ring.node_id and frame is not None:
            stall.reason += ", nor does any other node"
        if failing:
            self.processor.give_up(failing, stall.reason, frame, now, pure=pure)
        elif not pure and self.state is State.OPERATIONAL:
            text = f"{stall.reason}: the ring waits until it gives itself up"
            self.processor.diagnostics.notice("stall", text)
        return bool(failing)

    @staticmethod
    def _judge(ring: Ring, holder: int, frame: bytes | None, *, pure: bool) -> int:
        """Return the member without which the ring must go on, if this member must say so; 0 if there is none.

        Where there are real nodes a holder names itself, as theirs does. Otherwise the members before it have had their
        turn.
        """
        stall, me = ring.stall, ring.node_id
        if not pure:
            return me if holder == me and stall.by_visits > 1 else 0
        if frame is None:
            return me if holder == me and stall.lasts > _HOLDERS_TURN else 0
        if codec.mcast_origin(frame) != me or len(ring.members) == 2:
            return holder
        return me if stall.lasts > _ORIGINATORS_TURN else 0

    def was_given_up_by(self, join: Join, now: float) -> bool:
        """Return whether a member has judged that this one does not receive; exclude others that it has judged.

        That counts only while this member sees itself that the aru stalls, because any node can claim that another has
        failed.
        """
        processor = self.processor
        ring = self.ring()
        if ring.stall.lasts < _BELIEVED or join.is_leave or join.origin not in ring.members or not self.is_pure():
            return False
        failing = set(join.failed).intersection(ring.members)
        if ring.node_id in failing:
            processor.give_up(
                ring.node_id, f"node {join.origin} reports (FAILED TO RECEIVE) of this node", None, now, pure=True
            )
            processor.hear(join, now)
            return True
        for node_id in failing:
            processor.left_out.add(node_id, now, f"node {join.origin} reports (FAILED TO RECEIVE) of it")
        return False

    def on_hold_cancel(self, message: HoldCancel, now: float) -> None:
        """Make the token move again."""
        ring = self.ring()
        if message.ring_id != ring.id:
            self.processor.diagnostics.drop("hold cancel of another ring")
            return
        ring.unchanged = -1 if ring.pure else 0  # the next visit is not one at which it may rest
        ring.token_held = False
        self._go_on(now)

    def on_timer(self, timer: Timer, now: float) -> None:
        """Send the token again, or handle its loss."""
        processor = self.processor
        match timer:
            case Timer.TOKEN_HOLD:
                self._go_on(now)
            case Timer.CALL:
                processor.tokens.call(self.ring(), now)
            case Timer.TOKEN_RETRANSMIT:
                processor.counters.token_retransmits += 1
                processor.tokens.resend(self.ring(), now)
            case Timer.TOKEN_LOSS:
                operational = self.state is State.OPERATIONAL
                if not operational:
                    processor.gather(Cause.TOKEN_LOST_IN_RECOVERY, now)
                elif processor.tokens.is_lost(self.ring(), now):
                    processor.gather(Cause.TOKEN_LOST, now)
