"""Recovery: the new ring carries what its members miss of their old rings (paper section 5.4; rulings, part A).

The new ring's token goes round as in Operational, but its multicasts carry whole multicasts of the old rings. When no
member has anything left to send, and all have received all of it, all members install the new ring in the same
rotation. The rule for that is Corosync's in every ring (A3), with counters that start at 0 with every attempt.

Before the old messages each node of this package sends a *hello* (A1). It is an old message of ring (0, 0), which
Corosync nodes take for one of another ring. The hellos precede every install, so all members know the same of each
other at that moment: which of them run this package, what all can do, up to where the old ring was safe, and whose
messages a member must deliver.

What an attempt has brought of the old ring stays when the attempt breaks (A5).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import reduce

from totem.configuration import NO_RING, Guarantee, Level, RegularConfiguration, TransitionalConfiguration
from totem.errors import MalformedDatagram
from totem.patience import of_older_version
from totem.ring import Ring
from totem.sequence import MASK, after, earlier, later, up_to
from totem.states.ordering import Ordering, describe
from totem.transitions import Cause, State
from totem.wire import codec
from totem.wire.codec import Frame, Hello
from totem.wire.messages import CommitEntry, CommitToken, Join, Mcast, Token

_LONGEST_PAUSE_MS = 24 * 3600 * 1000
_BUSY_VISITS = 2
"""Visits on which the queue counts as not empty: that clears most left-over counters of real nodes (A3)."""


def _inner(frame: bytes) -> bytes | None:
    """Return the old multicast in one of the new ring; None if there is no valid one."""
    if not codec.mcast_is_encapsulated(frame):
        return None
    try:
        return codec.inner_mcast(frame)
    except MalformedDatagram:
        return None


class Recovery(Ordering):
    """One attempt to form a new ring."""

    state = State.RECOVERY

    def enter(self, token: CommitToken, now: float) -> None:
        """Find out which members come along from this node's old ring, and what they owe each other."""
        processor = self.processor
        ring = processor.new_ring
        assert ring is not None
        self.new_ring = ring
        self.old_ring = processor.ring
        entries = dict(zip(token.members, token.entries, strict=True))
        self.transitional = tuple(
            member
            for member in self.old_ring.members
            if member in entries and entries[member].old_ring_id == self.old_ring.id
        )
        self.to_rebroadcast: deque[tuple[int | None, bytes]] = deque()
        """(old seq, old multicast); a hello has no seq."""
        self.heard: set[int] = set()
        """Old messages that another member has sent on the new ring."""
        self.token_started = False
        self.received = False
        self.install_seq = 0
        self._flag_set_by_me = False
        self._visits = 0
        self._quiet_visits = 0
        self._complete_rotations = 0
        self._progress = (ring.window.aru, ring.window.aru)
        self._progress_at = now
        self._queue_hello()
        self._queue_old_messages([entries[member] for member in self.transitional])
        processor.tokens.forward_commit_token(ring, token, now)

    def _queue_hello(self) -> None:
        processor = self.processor
        hello = Hello(
            version=codec.HELLO_VERSION,
            features=processor.own_features,
            old_ring_id=self.old_ring.id,
            safe_line=self.old_ring.safe_line,
            obligations=tuple(sorted(processor.membership.obligations)),
            largest_pause_ms=min(round(processor.largest_pause * 1000), _LONGEST_PAUSE_MS),
            frame_size=processor.config.frame_size,
            daemon=processor.is_daemon,
            window=processor.own_window,
            ask=processor.patience.ask,
        )
        inner = Mcast(processor.node_id, processor.node_id, 0, NO_RING, data=codec.encode_hello(hello))
        self.to_rebroadcast.append((None, codec.encode(inner)))

    def _queue_old_messages(self, entries: list[CommitEntry]) -> None:
        """Queue everything above the lowest aru, if any member lacks anything: all members that have it send it."""
        if all(entry.received_flag for entry in entries):
            return
        low = reduce(earlier, (entry.aru for entry in entries))
        window = self.old_ring.window
        self.to_rebroadcast.extend(window.between(later(low, window.released), window.high_seq))

    def ring(self) -> Ring:
        """Return the ring being formed."""
        return self.new_ring

    def leave(self) -> None:
        """File what this attempt has brought of the old ring, whether it ends well or not."""
        if self.processor.ring is self.old_ring:
            for frame in self.new_ring.window.frames.values():
                self._file(frame)

    def _file(self, frame: bytes) -> None:
        """Put an old message that came encapsulated into the old ring's window."""
        inner = self._old_message(frame)
        if inner is not None:
            self.old_ring.window.insert(codec.mcast_seq(inner), inner)

    def _old_message(self, frame: bytes) -> bytes | None:
        """Return the multicast of this node's old ring that this one carries, if any."""
        inner = _inner(frame)
        if inner is None or codec.mcast_ring_id(inner) != self.old_ring.id or not self.old_ring.has_sent(inner):
            return None
        return inner

    def on_mcast(self, datagram: bytes) -> None:
        """File by ring id alone: a plain message of a member that installed earlier is the new ring's, too (A4)."""
        is_new = self.new_ring.window.insert(codec.mcast_seq(datagram), datagram)
        if is_new and (inner := self._old_message(datagram)) is not None:
            self.heard.add(codec.mcast_seq(inner))

    def on_commit_token(self, token: CommitToken, now: float) -> None:
        """Make the commit token the first token, when it is back at the representative for the second time."""
        processor = self.processor
        ring = self.new_ring
        if (
            not ring.is_representative
            or self.token_started
            or token.ring_id != ring.id
            or token.index != len(ring.members)
            or not processor.tokens.has_gone_round(token)
        ):
            processor.diagnostics.drop("repeated commit token")
            return
        self.token_started = True
        self._flag_set_by_me = True
        first = ring.window.aru
        start = Token(
            sender=ring.node_id,
            ring_id=ring.id,
            seq=first,
            token_seq=processor.first_token_seq,
            aru=(first - 1) & MASK,
            aru_holder=ring.node_id,
            retransmit_flag=1,
        )
        processor.tokens.forward(ring, start, now)

    def queued_frames(self) -> int:
        """Return the number of old messages and hellos that this node has still to send."""
        return len(self.to_rebroadcast)

    def multicast(self, token: Token, allowed: int) -> int:
        """Send old messages inside new ones, except those that another member has sent already (A8)."""
        processor = self.processor
        queue = self.to_rebroadcast
        frames: list[Frame] = []
        while queue and len(frames) < allowed:
            old_seq, inner = queue.popleft()
            if old_seq is None or old_seq not in self.heard:
                frames.append((Guarantee.AGREED, [inner]))
        train = self.seal(token, frames, encapsulated=True)
        if train:
            processor.outbox.send_to_all(train)
        return len(train)

    def conclude_visit(self, token: Token, now: float) -> bool:
        """Count as Corosync does, to the letter, with the queue held non-empty on the first two visits (A3)."""
        self._visits += 1
        if self.to_rebroadcast or self._visits <= _BUSY_VISITS:
            if not token.retransmit_flag:
                token.retransmit_flag = 1
                self._flag_set_by_me = True
        elif token.retransmit_flag and self._flag_set_by_me:
            token.retransmit_flag = 0
            self._flag_set_by_me = False
        self._quiet_visits = 0 if token.retransmit_flag else self._quiet_visits + 1
        aru = self.new_ring.window.aru
        if self._quiet_visits == 2:
            self.install_seq = token.seq
        if self._quiet_visits >= 2 and not self.received and up_to(self.install_seq, aru):
            self.received = True
            self.processor.membership.obligations = self._obliged()
        if self._quiet_visits >= 3 and up_to(self.install_seq, token.aru):
            self._complete_rotations += 1
        else:
            self._complete_rotations = 0
        if self._complete_rotations == 2:
            self._install(now)
            return True
        return self._makes_progress(token, now)

    def _makes_progress(self, token: Token, now: float) -> bool:
        """Return whether anything has advanced within the consensus timeout; give the ring up otherwise (A4).

        What goes back and forth has not advanced: a forged token may go round beside the true one.
        """
        seq, aru = self._progress
        progress = (later(seq, token.seq), later(aru, token.aru))
        if progress != self._progress:
            self._progress = progress
            self._progress_at = now
        elif now - self._progress_at > self.processor.config.consensus:
            self._give_up_attempt(token, now)
            return False
        return True

    def _give_up_attempt(self, token: Token, now: float) -> None:
        """Try again with all members; a pure ring goes on without the one that two attempts have waited for (A9)."""
        processor = self.processor
        holder, again = token.aru_holder, processor.membership.stalled_by
        frame = self.new_ring.window.get(after(token.aru))
        processor.membership.stalled_by = holder
        if holder and holder == again and frame is not None and self.is_pure():
            processor.give_up(holder, describe(self.new_ring, holder, frame), frame, now, pure=True)
        else:
            processor.gather(Cause.RECOVERY_STALLED, now)

    def is_pure(self) -> bool:
        """Return whether all members of the new ring have sent a hello, as far as this node has heard."""
        return self._hellos().keys() >= set(self.new_ring.members)

    def _recovered(self) -> Iterator[bytes]:
        """Yield the gapless encapsulated multicasts, from the ring's first number on."""
        window = self.new_ring.window
        for _, frame in window.between(window.released, window.aru):
            if not codec.mcast_is_encapsulated(frame):
                return
            yield frame

    def _hellos(self) -> dict[int, Hello]:
        """Return the hellos of the new ring's members, by node id."""
        hellos = {}
        for frame in self._recovered():
            inner = _inner(frame)
            if inner is not None and codec.mcast_ring_id(inner) == NO_RING:
                hello = codec.decode_hello(inner[codec.MCAST_HEADER :])
                if hello is not None:
                    hellos[codec.mcast_origin(frame)] = hello
        return hellos

    def _obliged(self) -> set[int]:
        """Return the members whose old messages are delivered past a gap (A6).

        Corosync's nodes deliver those of the members that come along; where one of them does, all must. In a pure ring
        the members count, too, to which a member has been obliged in an attempt that broke for some.
        """
        hellos = self._hellos()
        obliged = set(self.transitional)
        if all(member in hellos for member in self.transitional):
            obliged.update(*(hellos[member].obligations for member in self.transitional))
        return obliged.intersection(self.old_ring.members)

    def _install(self, now: float) -> None:
        """Deliver the rest of the old ring and both configurations, and install the new ring, in one step."""
        processor = self.processor
        old, new = self.old_ring, self.new_ring
        hellos = self._hellos()
        obliged = self._obliged()
        recovered = list(self._recovered())
        for frame in recovered:
            self._file(frame)
        new.delivered = after(new.window.released, len(recovered))
        processor.diagnostics.check_frame_sizes(hellos)
        new.pure = all(member in hellos for member in new.members)
        if new.pure:
            new.agree(hellos[member].features for member in new.members)
        if old.members:
            self._deliver_old_messages(hellos, obliged)
        processor.delivery.add_configuration(
            RegularConfiguration(
                ring_id=new.id,
                members=new.members,
                transitional=self.transitional,
                pure=new.pure,
                features=new.features,
            )
        )
        for member, hello in hellos.items():
            new.asks[member] = hello.ask or of_older_version(processor.config, hello.largest_pause_ms)
        window = self._chosen_window(hellos)
        if window:
            new.flow.choose(window, len(new.members))
        processor.install(new, now)

    def _chosen_window(self, hellos: dict[int, Hello]) -> int:
        """Return the smallest window of the members; 0 where one has configured windows or is a Corosync node (D4)."""
        members = self.new_ring.members
        return min(hellos[member].window for member in members) if hellos.keys() >= set(members) else 0

    def _deliver_old_messages(self, hellos: dict[int, Hello], obliged: set[int]) -> None:
        """Deliver up to the first gap or unsafe message in the old configuration, the rest after the transitional one
        (A7)."""
        processor = self.processor
        old = self.old_ring
        all_ours = all(member in hellos for member in self.transitional)
        for member in self.transitional:
            if member in hellos and hellos[member].old_ring_id == old.id:
                old.safe_line = later(old.safe_line, hellos[member].safe_line)
        delivery = processor.delivery
        delivery.flush(old)
        delivery.add_configuration(TransitionalConfiguration(old.id, self.transitional, self.new_ring.id))
        window = old.window
        rest: list[bytes] = []
        expected = after(old.delivered)
        past_gap = False
        for seq, frame in window.between(old.delivered, window.high_seq):
            past_gap = past_gap or seq != expected
            expected = after(seq)
            if not past_gap or codec.mcast_origin(frame) in obliged:
                rest.append(frame)
        delivery.add_frames(old, rest, Level.TRANSITIONAL if all_ours else Level.AGREED)

    def on_join(self, join: Join, now: float) -> None:
        """Give the attempt up if a member of the ring being formed has gone back to Gather."""
        processor = self.processor
        if self.breaks_attempt(self.new_ring, join) and not self.was_given_up_by(join, now):
            processor.gather_with(join, Cause.JOIN_IN_RECOVERY, now)
