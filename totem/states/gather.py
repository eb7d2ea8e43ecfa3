"""Gather: find out who could be in the next ring (paper section 5.2; Corosync memb_join_process,
memb_state_gather_enter).

Every processor multicasts Joins: the nodes that it would have in the next ring (candidates), and those that it
considers failed. The sets only grow, so they become equal; a processor whose Join carries the same sets agrees. When
all candidates that have not failed agree, the lowest of them makes the commit token. A candidate that does not agree in
time has failed.

Candidates and failed nodes outlive this state: an attempt that breaks in Commit or Recovery goes on with them
(`totem.membership`).
"""

from __future__ import annotations

from totem.configuration import RingId
from totem.states.handler import StateHandler
from totem.timers import Timer
from totem.transitions import Cause, State
from totem.wire import codec
from totem.wire.codec import Hint
from totem.wire.messages import CommitEntry, CommitToken, Join


class Gather(StateHandler):
    """One round of Joins with the candidates that were known when it began."""

    state = State.GATHER

    def enter(self, now: float) -> None:
        """Begin a round: send a Join at once, then every join timeout."""
        processor = self.processor
        processor.membership.candidates.add(processor.node_id)
        self.agreed = {processor.node_id}
        self._may_be_alone = False
        timers = processor.timers
        timers.disarm_all()
        timers.arm(Timer.CONSENSUS, now + processor.consensus)
        self._announce(now)

    def _announce(self, now: float) -> None:
        """Send a Join, after a random delay where one is configured."""
        processor = self.processor
        delay = processor.config.send_join
        if delay:
            processor.timers.arm(Timer.SEND_JOIN, now + processor.dice.uniform(0, delay))
        else:
            self._send_join(now)

    def _send_join(self, now: float) -> None:
        processor = self.processor
        processor.timers.arm(Timer.JOIN, now + processor.config.join)
        processor.counters.joins_sent += 1
        config = processor.config
        hint = Hint(config.cluster_name, config.frame_size, processor.own_features, processor.told_nodelist)
        join = processor.membership.join(processor.numbers.ring_id.seq, codec.encode_hint(hint))
        processor.outbox.send_message_to_all(join)
        # Corosync nodes hear their own Joins; that is how a processor without company forms a ring of one.
        self._commit_if_agreed(now)

    def _commit_if_agreed(self, now: float) -> None:
        processor = self.processor
        membership = processor.membership
        members = membership.candidates - membership.failed
        if not members <= self.agreed:
            return
        if membership.receive_failed:
            self._go_alone(*membership.receive_failed)
            members = {processor.node_id}
        if members == {processor.node_id} != membership.candidates - membership.gone and not self._may_be_alone:
            self._hesitate(now)
        elif members and min(members) == processor.node_id:
            ring_seq = processor.numbers.next_seq(members)
            if ring_seq is None:
                processor.diagnostics.notice_sequences_used_up()
                return
            processor.commit(self._commit_token(tuple(sorted(members)), ring_seq), Cause.CONSENSUS, now)

    def _go_alone(self, reason: str, since: float) -> None:
        """Form a ring of one, because the others have agreed to go on without this node.

        This node hears the others again a little sooner than they hear it: whoever is not answered loses a consensus
        timeout.
        """
        processor = self.processor
        if processor.ring.pure:
            early = 3 * processor.config.consensus
            processor.left_out.add(processor.node_id, since, reason, early=early)
        processor.membership.go_alone()

    def _hesitate(self, now: float) -> None:
        """Wait before forming a ring of one when others have failed that did not leave.

        Joins that hold this node for failed are still on their way then, and each would make this node fail its sender.
        Because a ring of one costs no time, the nodes would provoke each other for ever. A random delay separates them.
        """
        processor = self.processor
        if not processor.timers.armed(Timer.ALONE):
            processor.timers.arm(Timer.ALONE, now + processor.dice.uniform(0, processor.config.join))

    def _commit_token(self, members: tuple[int, ...], ring_seq: int) -> CommitToken:
        processor = self.processor
        return CommitToken(
            sender=processor.node_id,
            token_seq=0,
            ring_id=RingId(processor.node_id, ring_seq),
            members=members,
            entries=[CommitEntry() for _ in members],
        )

    def on_join(self, join: Join, now: float) -> None:
        """Count the Join as agreement, ignore it, or take over the nodes that it names."""
        processor = self.processor
        membership = processor.membership
        if set(join.candidates) == membership.candidates and set(join.failed) == membership.failed:
            if not join.is_leave:
                self.agreed.add(join.origin)
                self._commit_if_agreed(now)
        elif membership.merge(join, processor.ring.members):
            cause = Cause.LEAVE_RECEIVED if join.is_leave else Cause.JOIN_MERGED
            processor.gather(cause, now)

    def on_foreign(self, origin: int, ring_id: RingId, cause: Cause, now: float) -> None:
        """Make the sender a candidate, because another ring can be heard."""
        if origin not in self.processor.membership.candidates:
            self.processor.membership.candidates.add(origin)
            self.processor.gather(cause, now)

    def on_commit_token(self, token: CommitToken, now: float) -> None:
        """Begin the ring of the commit token, if it is just the ring that this node has agreed to."""
        processor = self.processor
        if self._ignores_commit_token(token):
            processor.diagnostics.drop("commit token of another ring")
            return
        processor.commit(token, Cause.COMMIT_TOKEN, now)

    def _ignores_commit_token(self, token: CommitToken) -> bool:
        processor = self.processor
        members = token.members
        return (
            set(members) != processor.membership.candidates - processor.membership.failed
            or token.ring_id.seq <= processor.numbers.ring_id.seq
            or token.ring_id.representative != members[0]
            or token.index >= len(members)
            or not token.index  # mine to make, if I am the representative
            or members[token.index] != processor.node_id
        )

    def on_timer(self, timer: Timer, now: float) -> None:
        """Repeat the Join, or judge those who did not agree."""
        match timer:
            case Timer.JOIN:
                self._announce(now)
            case Timer.SEND_JOIN:
                self._send_join(now)
            case Timer.ALONE:
                self._may_be_alone = True
                self._commit_if_agreed(now)
            case Timer.CONSENSUS:
                self._judge(Cause.CONSENSUS_TIMEOUT, now)
            case Timer.TOKEN_LOSS:
                self._judge(Cause.TOKEN_LOST_IN_GATHER, now)

    def _judge(self, cause: Cause, now: float) -> None:
        """Consider the nodes that did not agree failed; if all did, give the representative a token timeout."""
        processor = self.processor
        membership = processor.membership
        silent = membership.candidates - membership.failed - self.agreed
        membership.failed |= silent
        if silent or cause is Cause.TOKEN_LOST_IN_GATHER:
            processor.gather(cause, now)
        else:
            self.agreed = {processor.node_id}
            processor.timers.arm(Timer.TOKEN_LOSS, now + processor.config.token)
