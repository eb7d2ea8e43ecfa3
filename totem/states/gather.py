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

from dataclasses import replace

from totem.configuration import RingId
from totem.states.handler import StateHandler, rows_of
from totem.timers import Timer
from totem.transitions import Cause, State
from totem.wire import codec
from totem.wire.codec import Hint
from totem.wire.messages import CommitEntry, CommitToken, Join

_SOONER = 5
"""A Join that others wait for leaves after this part of the join timeout."""


class Gather(StateHandler):
    """One round of Joins with the candidates that were known when it began."""

    state = State.GATHER

    def enter(self, now: float) -> None:
        """Begin a round: send a Join at once, then every join timeout."""
        processor = self.processor
        membership = processor.membership
        membership.candidates.add(processor.node_id)
        self.agreed = {processor.node_id}
        if self._has_rows():
            self.agreed |= processor.rows.agreeing(membership.candidates, membership.failed)
        self._may_be_alone = False
        self._has_waited = False
        timers = processor.timers
        timers.disarm_all()
        # A round that begins early must not cost a member that is late: in the ring it had as long as this.
        timers.arm(Timer.CONSENSUS, max(now + processor.consensus, processor.awaited_until))
        processor.rows.expect(membership.candidates, processor.consensus, now)
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
        rows = processor.rows.publish(processor.hearing, now)
        hint = Hint(
            config.cluster_name, config.frame_size, processor.own_features, nodelist=processor.told_nodelist, rows=rows
        )
        join = processor.membership.join(processor.numbers.ring_id.seq, codec.encode_hint(hint))
        processor.outbox.send_message_to_all(join)
        # Corosync nodes hear their own Joins; that is how a processor without company forms a ring of one.
        self._proceed(now)

    def _proceed(self, now: float) -> None:
        """Go by the rows, if they lead to another set than all candidates; else form the ring if all agree."""
        processor = self.processor
        candidates = processor.membership.surviving
        rows = processor.rows
        if not rows.abandoned and len(candidates) > 1 and processor.node_id in candidates:
            part = rows.decide(processor.membership.candidates, processor.membership.failed, now)
            if part is not None and part != candidates:
                processor.membership.failed |= candidates - part
                processor.gather(Cause.NOT_ALL_HEAR, now)
                return
            if rows.covers(candidates) and rows.has_news(now):
                self._announce_soon(now)
        self._commit_if_agreed(now)

    def _announce_soon(self, now: float) -> None:
        """Send a Join before it is due, because others wait for the rows; several that come at once share it."""
        timers, config = self.processor.timers, self.processor.config
        soon = now + config.join / _SOONER
        if not timers.armed(Timer.SEND_JOIN) and timers.deadline(Timer.JOIN) > soon:
            timers.arm(Timer.SEND_JOIN, soon)

    def _commit_if_agreed(self, now: float) -> None:
        processor = self.processor
        membership = processor.membership
        members = membership.surviving
        if not members <= self.agreed or self._awaits_rows(members, now):
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
            self._commit(self._commit_token(tuple(sorted(members)), ring_seq), Cause.CONSENSUS, now)

    def _awaits_rows(self, members: set[int], now: float) -> bool:
        """Return whether all members have rows, but these do not say yet that all hear each other."""
        rows = self.processor.rows
        if rows.abandoned or self.processor.node_id not in members:
            return False
        return rows.covers(members) and not rows.is_complete(members, now)

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
        if not join.is_leave:
            processor.rows.hear(join, rows_of(join), now)
        if set(join.candidates) == membership.candidates and set(join.failed) == membership.failed:
            if not join.is_leave:
                self.agreed.add(join.origin)
                self._proceed(now)
        elif membership.merge(self._without_parted(join, now), processor.ring.members):
            cause = Cause.LEAVE_RECEIVED if join.is_leave else Cause.JOIN_MERGED
            processor.gather(cause, now)
        else:
            self._proceed(now)

    def _without_parted(self, join: Join, now: float) -> Join:
        """Return a Join without the failed nodes about which this node decides by itself."""
        if join.is_leave or not self._has_rows():
            return join
        return replace(join, failed=self.processor.rows.unexplained(join, now))

    def on_foreign(self, origin: int, ring_id: RingId, cause: Cause, now: float) -> None:
        """Make the sender a candidate, because another ring can be heard."""
        processor = self.processor
        candidates = processor.membership.candidates
        separation = processor.separation
        if origin not in candidates and separation.admits(
            origin, separation.apart, processor.membership.surviving, now
        ):
            candidates.add(origin)
            processor.gather(cause, now)

    def on_commit_token(self, token: CommitToken, now: float) -> None:
        """Begin the ring of the commit token, if it is just the ring that this node has agreed to."""
        processor = self.processor
        if self._ignores_commit_token(token):
            processor.diagnostics.drop("commit token of another ring")
            return
        self._commit(token, Cause.COMMIT_TOKEN, now)

    def _commit(self, token: CommitToken, cause: Cause, now: float) -> None:
        processor = self.processor
        processor.separation.part(processor.rows.parting(token.members, now))
        processor.commit(token, cause, now)

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
        silent = membership.surviving - self.agreed
        if cause is Cause.CONSENSUS_TIMEOUT and self._has_rows():
            silent = {node_id for node_id in silent if processor.rows.is_silent(node_id, now)}
            if not silent:
                self._await_decision(now)
                return
        membership.failed |= silent
        if silent or cause is Cause.TOKEN_LOST_IN_GATHER:
            processor.gather(cause, now)
        else:
            self.agreed = {processor.node_id}
            processor.timers.arm(Timer.TOKEN_LOSS, now + processor.config.token)

    def _has_rows(self) -> bool:
        rows = self.processor.rows
        candidates = self.processor.membership.surviving
        return not rows.abandoned and len(candidates) > 1 and rows.applies(candidates)

    def _await_decision(self, now: float) -> None:
        """Wait as long again for the rows, which decide about who is heard at all; then go by Corosync's rules."""
        processor = self.processor
        processor.rows.abandoned = self._has_waited
        self._has_waited = True
        processor.timers.arm(Timer.CONSENSUS, now + processor.consensus)
