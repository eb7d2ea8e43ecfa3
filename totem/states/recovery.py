"""Recovery: the new ring carries what its members miss of their old rings (paper section 5.4; rulings, part A).

The new ring's token goes round as in Operational, but its multicasts carry whole multicasts of the old rings. When
nobody has anything left to send, and everybody has received all of it, all members install the new ring in the same
rotation. When that is, is Corosync's rule in every ring (A3), kept with counters that start at 0 with every attempt.

In front of the old messages each node of this make sends a *hello* (A1): an old message of ring (0, 0), which Corosync
nodes take for one of somebody else's ring. The hellos precede everybody's install, so at that moment all know the
same of each other: who is of this make, what all can do, up to where the old ring was safe, and whose messages
somebody has promised to deliver.

What an attempt has brought of the old ring stays when the attempt breaks (A5).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import reduce

from totem.configuration import NO_RING, Guarantee, Level, RegularConfiguration, TransitionalConfiguration
from totem.errors import MalformedDatagram
from totem.ring import Ring
from totem.sequence import MASK, after, earlier, later, up_to
from totem.states.ordering import Ordering, describe
from totem.transitions import Cause, State
from totem.wire import codec
from totem.wire.codec import Frame, Hello
from totem.wire.messages import CommitEntry, CommitToken, Join, Mcast, Token

_LONGEST_PAUSE_MS = 24 * 3600 * 1000
_BUSY_VISITS = 2
"""My queue counts as not empty on so many visits: that takes back most left-over counters of real nodes (A3)."""


def _inner(frame: bytes) -> bytes | None:
    """The old multicast in one of the new ring; None if there is none that makes sense."""
    if not codec.mcast_is_encapsulated(frame):
        return None
    try:
        return codec.inner_mcast(frame)
    except MalformedDatagram:
        return None


class Recovery(Ordering):
    """One attempt to bring a new ring into being."""

    state = State.RECOVERY

    def enter(self, token: CommitToken, now: float) -> None:
        """Find out who comes along from my old ring, and what we owe each other."""
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
        """(old seq, old multicast), a hello having no seq."""
        self.heard: set[int] = set()
        """Old messages that somebody has sent on the new ring."""
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
            daemon=False,
            window=processor.own_window,
        )
        inner = Mcast(processor.node_id, processor.node_id, 0, NO_RING, data=codec.encode_hello(hello))
        self.to_rebroadcast.append((None, codec.encode(inner)))

    def _queue_old_messages(self, entries: list[CommitEntry]) -> None:
        """Everything above the lowest aru, if anybody lacks anything: all who have it send it."""
        if all(entry.received_flag for entry in entries):
            return
        low = reduce(earlier, (entry.aru for entry in entries))
        window = self.old_ring.window
        self.to_rebroadcast.extend(window.between(later(low, window.released), window.high_seq))

    def ring(self) -> Ring:
        """The ring that is coming into being."""
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
        """The multicast of my old ring that this one carries, if any."""
        inner = _inner(frame)
        if inner is None or codec.mcast_ring_id(inner) != self.old_ring.id or not self.old_ring.has_sent(inner):
            return None
        return inner

    def on_mcast(self, datagram: bytes) -> None:
        """File by ring id alone: a plain message of a member that installed before me is the new ring's, too (A4)."""
        is_new = self.new_ring.window.insert(codec.mcast_seq(datagram), datagram)
        if is_new and (inner := self._old_message(datagram)) is not None:
            self.heard.add(codec.mcast_seq(inner))

    def on_commit_token(self, token: CommitToken, now: float) -> None:
        """The commit token is back at the representative for the second time: it becomes the first token."""
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
        """Old messages and the hello that I have still to send."""
        return len(self.to_rebroadcast)

    def multicast(self, token: Token, allowed: int) -> int:
        """Send old messages inside new ones, except those that somebody else has sent already (A8)."""
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
        """Corosync's counting, to the letter, with the queue held non-empty on the first two visits (A3)."""
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
        """Whether anything has come further within the consensus timeout; the ring is given up otherwise (A4).

        What goes back and forth has not: a forged token may go round beside the true one.
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
        """Try again with everybody; but among ours alone without whom two attempts have waited for (A9)."""
        processor = self.processor
        holder, again = token.aru_holder, processor.membership.stalled_by
        frame = self.new_ring.window.get(after(token.aru))
        processor.membership.stalled_by = holder
        if holder and holder == again and frame is not None and self.is_pure():
            processor.give_up(holder, describe(self.new_ring, holder, frame), frame, now, pure=True)
        else:
            processor.gather(Cause.RECOVERY_STALLED, now)

    def is_pure(self) -> bool:
        """Whether all members of the new ring have said hello, as far as I have heard."""
        return self._hellos().keys() >= set(self.new_ring.members)

    def _recovered(self) -> Iterator[bytes]:
        """The gapless encapsulated multicasts, from the ring's first number on."""
        window = self.new_ring.window
        for _, frame in window.between(window.released, window.aru):
            if not codec.mcast_is_encapsulated(frame):
                return
            yield frame

    def _hellos(self) -> dict[int, Hello]:
        """Who of the new ring's members has said hello, and what."""
        hellos = {}
        for frame in self._recovered():
            inner = _inner(frame)
            if inner is not None and codec.mcast_ring_id(inner) == NO_RING:
                hello = codec.decode_hello(inner[codec.MCAST_HEADER :])
                if hello is not None:
                    hellos[codec.mcast_origin(frame)] = hello
        return hellos

    def _obliged(self) -> set[int]:
        """Whose old messages are delivered past a gap (A6).

        Corosync's nodes deliver those of the members that come along; where one of them does, all must. Among our
        own nodes also those that a member has once been obliged to, in an attempt that broke for some.
        """
        hellos = self._hellos()
        obliged = set(self.transitional)
        if all(member in hellos for member in self.transitional):
            obliged.update(*(hellos[member].obligations for member in self.transitional))
        return obliged.intersection(self.old_ring.members)

    def _install(self, now: float) -> None:
        """Deliver what is left of the old ring, both configurations, and put the new ring in its place: one step."""
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
        pauses = (hellos[member].largest_pause_ms for member in new.members if member in hellos)
        window = min(hellos[member].window for member in new.members) if new.pure else 0
        if window:
            new.flow.choose(window, len(new.members))
        processor.install(new, max(pauses, default=0) / 1000, now)

    def _deliver_old_messages(self, hellos: dict[int, Hello], obliged: set[int]) -> None:
        """Up to the first gap or unsafe message in the old configuration; the rest after the transitional one (A7)."""
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
        """A member of the ring being formed has gone back to Gather."""
        processor = self.processor
        if self.breaks_attempt(self.new_ring, join) and not self.is_my_deafness(join, now):
            processor.gather_with(join, Cause.JOIN_IN_RECOVERY, now)
