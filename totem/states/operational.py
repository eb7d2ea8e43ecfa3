"""Operational: an installed ring orders messages (paper section 4).

Messages of the application go out once the layer above has finished its sync of the ring. Until then only the sync
stream is sent, which has a queue and reassembly of its own (rulings, C1).
"""

from __future__ import annotations

from totem.configuration import Feature, Guarantee, RingId
from totem.ring import Ring
from totem.states.handler import rows_of
from totem.states.ordering import Ordering
from totem.timers import Timer
from totem.transitions import Cause, State
from totem.wire import codec
from totem.wire.codec import Frame
from totem.wire.messages import Join, MergeDetect, Token

_SETTLED = 0.6
"""Seconds in which the links machine finds out about all other nodes, once it has found out about one."""


class Operational(Ordering):
    """On the installed ring, from its install to the next Gather."""

    state = State.OPERATIONAL

    def enter(self) -> None:
        """Let the visit of the token arm all timers. A member counts idle visits only from here on."""
        processor = self.processor
        processor.timers.disarm_all()
        processor.ring.unchanged = 0
        self._waiting: set[int] = set()
        """Nodes that were heard, and that a ring will be formed with soon."""
        if newcomers := processor.separation.newcomers((), processor.ring.members):
            processor.timers.arm(Timer.ASK, processor.separation.may_ask_at(newcomers))

    def ring(self) -> Ring:
        """Return the installed ring."""
        return self.processor.ring

    def is_pure(self) -> bool:
        """Return whether all members are known to be Totem processors of this package."""
        return self.processor.ring.pure

    def queued_frames(self) -> int:
        """Return the number of frames that wait in the stream that is allowed to send."""
        labels = self.processor.ring.labels
        return self.processor.stream.queued_frames(compact=labels is not None)

    def multicast(self, token: Token, allowed: int) -> int:
        """Cut frames from the queue and give them their numbers; what is not held back leaves as one train. Hot."""
        processor = self.processor
        stream = processor.stream
        tells = processor.tokens.was_late or processor.patience.is_untold
        if not stream and not tells:
            return 0
        ring = processor.ring
        numbers = ring.labels.own if ring.labels is not None else None
        control = self._tell_patience() if tells else []
        train = self.seal(token, [*control, *stream.next_frames(allowed - len(control), numbers)])
        at_once = max(0, len(train) - self._held_back(token, len(train)))
        ring.held_back = train[at_once:]
        if at_once:
            processor.outbox.send_to_all(train[:at_once])
        return len(train)

    def _tell_patience(self) -> list[Frame]:
        """Tell all members for how long this one asks to be waited for, where that has changed.

        It is told where the token has come late, too: with its number the frame shows where the token is (F5).
        """
        processor = self.processor
        processor.tokens.was_late = processor.patience.is_untold = False
        if Feature.PATIENCE not in processor.ring.features:
            return []
        return [(Guarantee.AGREED, codec.control_frame(processor.patience.ask))]

    def _held_back(self, token: Token, count: int) -> int:
        """Return how many of a visit's frames leave behind the token, which names their numbers already (D2).

        The successor then sends while this member's frames are still on the wire. No member requests them before they
        have been sent, because a frame is requested only after a whole rotation. At least one burst leaves so. Where
        each node gets its own copies, as many frames leave so as the other members send meanwhile. This member's cable
        then serves each of them only part of the time, so frames do not pile up in the switch. A multicast reaches all
        members at once.

        Frames are not held back where the last rotation and this visit have no more frames than the ring has members.
        Then no member waits for the token, and holding back would make a frame safe one rotation later: the successor,
        which cannot have it yet, lowers the aru.
        """
        processor = self.processor
        ring = processor.ring
        busy = token.fcc + count
        if processor.syncing or busy <= len(ring.members) or Feature.ACCELERATED not in ring.features:
            return 0
        burst = processor.tokens.burst(ring)
        if processor.config.transport == "udp":
            return burst
        return max(burst, ring.flow.sent_by_others(token))

    def conclude_visit(self, token: Token, now: float) -> bool:
        """Deliver what has become safe, and forget what all members have."""
        self.processor.note_health(now)
        self.processor.delivery.flush(self.processor.ring)
        self.processor.ring.release_safe()
        return True

    def on_foreign(self, origin: int, ring_id: RingId, cause: Cause, now: float) -> None:
        """Begin a round of Joins, because another ring can be heard."""
        processor = self.processor
        ring = processor.ring
        if origin in ring.members and ring_id.seq < ring.id.seq:
            # This is late or repeated: a member that has gone elsewhere since has a higher ring.
            processor.diagnostics.drop("multicast of a former ring")
            return
        separation = processor.separation
        if not separation.admits(origin, separation.apart, ring.members, now):
            processor.diagnostics.drop("multicast of a node that not all hear")
            return
        if ring.pure and self._may_hear_more(now):
            self._wait_for(origin, now)
            return
        processor.membership.candidates.add(origin)
        processor.gather(cause, now)

    def on_join(self, join: Join, now: float) -> None:
        """Find out who could be in the next ring, because a processor joins or leaves."""
        processor = self.processor
        if self.was_given_up_by(join, now):
            return
        dropped = self._ignores_join(join)
        if dropped:
            processor.diagnostics.drop(dropped)
            return
        if not join.is_leave and processor.separation.apart and join.origin not in processor.ring.members:
            self._consider(join, now)
            return
        cause = Cause.LEAVE_RECEIVED if join.is_leave else Cause.JOIN_RECEIVED
        processor.gather_with(join, cause, now)

    def _ignores_join(self, join: Join) -> str:
        processor = self.processor
        if processor.node_id in join.failed:
            return "join that holds me for failed"
        is_member = join.origin in processor.ring.members
        if is_member and join.ring_seq < processor.numbers.ring_id.seq:
            return "stale join"
        if join.is_leave and not is_member:
            return "leave of a non-member"
        return ""

    # Where nodes are apart, because not all hear each other.

    def _consider(self, join: Join, now: float) -> None:
        """Follow the Join of a non-member if that leads to another ring with it."""
        processor = self.processor
        separation, members = processor.separation, processor.ring.members
        rows = rows_of(join)
        names_me = processor.node_id in join.candidates
        if join.origin not in separation.apart and rows is not None and not names_me and self._may_hear_more(now):
            self._wait_for(join.origin, now)
            return
        separation.learn(join, rows)
        others = set(join.candidates).difference(join.failed).union(row.node_id for row in rows or ())
        if separation.admits(join.origin, others, members, now):
            processor.gather_with(join, Cause.JOIN_RECEIVED, now)
        else:
            processor.diagnostics.drop("join of a node that not all hear")

    def on_hearing(self, node_id: int, now: float) -> None:
        """Look soon whether a round would lead to another ring, if a node that is apart can be heard again."""
        if node_id in self.processor.separation.apart:
            self._look_at(now + _SETTLED)

    def _may_hear_more(self, now: float) -> bool:
        """Return whether the links machine may be about to find that more nodes of ours can be reached."""
        processor = self.processor
        if now - processor.separation.changed < _SETTLED:
            return True
        absent = processor.ours.difference(processor.ring.members)
        return any(node_id not in processor.hearing or not all(processor.hearing[node_id]) for node_id in absent)

    def _wait_for(self, node_id: int, now: float) -> None:
        """Begin a round with a node, when others that may have come within reach with it are heard, too."""
        self._waiting.add(node_id)
        self._look_at(now + _SETTLED)

    def _look_at(self, moment: float) -> None:
        timers = self.processor.timers
        timers.arm(Timer.ASK, min(moment, timers.deadline(Timer.ASK)))

    def _look(self, now: float) -> None:
        """Begin a round of Joins if it would lead to another ring, after the pause for that."""
        processor = self.processor
        separation = processor.separation
        newcomers = separation.newcomers(self._waiting, processor.ring.members)
        if not newcomers:
            return
        due = separation.may_ask_at(newcomers)
        if due > now:
            self._look_at(due)
            return
        separation.ask(now)
        processor.membership.candidates |= newcomers
        processor.gather(Cause.HEARD_AGAIN, now)

    def on_timer(self, timer: Timer, now: float) -> None:
        """Announce the ring while it is idle, so that rings which can hear each other merge."""
        processor = self.processor
        ring = processor.ring
        if timer is Timer.TOKEN_RETRANSMIT and not ring.pure:
            ring.limit_last_token()
        if timer is Timer.ASK:
            self._look(now)
        elif timer is not Timer.MERGE_DETECT:
            super().on_timer(timer, now)
        elif ring.is_representative:
            processor.outbox.send_message_to_all(MergeDetect(processor.node_id, processor.node_id, ring.id))
            processor.diagnostics.report_if_unanswered(now)
