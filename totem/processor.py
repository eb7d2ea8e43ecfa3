"""Processor: one processor's view of the ring, without socket, clock, thread or dice of its own.

Datagrams and time go in, datagrams and deliveries come out::

    processor.start(now)
    while True:
        ...wait until a datagram is here or processor.deadline has come...
        everything = processor.overdue(now)         # this process was paused: drain the sockets to the end first
        for datagram in drain(everything):
            processor.receive(datagram, now)
        if processor.deadline <= now:
            processor.advance(now)
        ready = processor.take()
        ...store ready.ring_seq, send ready.datagrams, hand on ready.deliveries: in this order...

A state of the membership protocol is a handler (`totem.states`) that exists as long as the state lasts. The processor
holds what outlives a state: the installed ring and the one being formed, the two send queues, and its parts:

- `membership`: candidates and failed nodes; `admission`: who may become one; `rows`: which of them hear each other;
- `unheard`: members that do not hear each other, for the operator;
- `separation`: the nodes from which this one was parted because not all hear each other;
- `numbers`: ring ids, stored and believed;
- `tokens`: how the token is passed on; `outbox`: the datagrams to send;
- `accusations`: members whose machine refuses datagrams;
- `delivery`: what the application is given; `diagnostics`: what the operator is told.

No part knows the processor. States know it as `totem.states.context.StateContext`. `_enter` is the only assignment of a
state, and refuses what `TRANSITIONS` does not list.

Nothing that comes from the network raises: it is counted by cause and dropped. A bug of ours raises AssertionError,
and the other members then treat this processor as failed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from totem.accusations import Accusations
from totem.admission import DUPLICATE_NODE_ID, Admission
from totem.config import Config, Timeouts
from totem.configuration import Delivery, Feature, Guarantee, RingId
from totem.delivery import DeliveryQueue
from totem.diagnostics import Diagnostics, Trace
from totem.errors import MalformedDatagram, MessageTooLong, QueueFull
from totem.exclusions import Exclusions
from totem.flow import RECEIVE_BUFFER, FlowControl, frames_that_fit
from totem.hearing import Hearing
from totem.interruption import Interruption, InterruptionRecord
from totem.labels import Envelope
from totem.membership import Membership
from totem.nodelists import MOST_TOLD, Nodelists
from totem.outbox import MOST_OWN, Outbox
from totem.packing import MAX_MESSAGE, Packer
from totem.patience import Patience, choose
from totem.reconfiguration import with_members
from totem.ring import Ring
from totem.ring_numbers import LIMIT, RingNumbers
from totem.rows import Rows
from totem.separation import Separation, describe, name_nodes
from totem.states.commit import Commit
from totem.states.gather import Gather
from totem.states.handler import StateHandler
from totem.states.operational import Operational
from totem.states.recovery import Recovery
from totem.statistics import Counters, Statistics
from totem.timers import Timer, Timers
from totem.token_passing import TokenPassing
from totem.transitions import TRANSITIONS, Cause, State
from totem.unheard import Unheard
from totem.wire import codec, evidence
from totem.wire.codec import BEGINNING, MCAST_HEADER, Hint
from totem.wire.messages import Ask, CommitToken, HoldCancel, Join, MergeDetect, Token

FEATURES = Feature.COMPACT | Feature.ACCELERATED | Feature.TRIALS | Feature.PATIENCE
"""Extensions of the protocol that this version has."""

_FORMING = 4
"""Members of a ring that form another one wait for its tokens this multiple of the token timeout: each of them makes a
number durable."""


@dataclass(slots=True)
class Ready:
    """What must be done, in the order of the fields."""

    ring_seq: int | None
    """1. Make durable before anything is sent: a ring id must never be used twice, whatever crashes."""
    datagrams: list[tuple[int, list[bytes]]]
    """2. Send: (node id or `ALL`, frames). The frames of one visit are one train."""
    deliveries: Iterator[Delivery]
    """3. Deliver all of it before the next `receive`. Messages are assembled as they are asked for: the receiver may
    call `multicast`, `multicast_sync` and `sync_complete` between two of them."""
    failure: str | None
    """Why the ring cannot go on; the processor is dead then."""
    notices: list[str]
    """What an operator should read."""
    trials: tuple[int, ...] = ()
    """4. Nodes that the links machine is to try at once; it answers with `Processor.on_trial`."""
    remarks: Sequence[str] = ()
    """What an operator may like to read."""


class Processor:
    """The Totem single-ring protocol of one node.

    `ring_seq` is the ring sequence that the store holds (0 for a node that never ran); `dice` decides random delays.
    `first_seq` and `first_token_seq` are where a ring's numbers start: 0 on the wire, near 2**32 in tests of the
    wrap. `daemon`: nothing but the node runs in the process, so it needs less patience (`totem.patience`). `trace` is
    called with each transition, drop and notice.
    """

    def __init__(
        self,
        config: Config,
        node_id: int,
        *,
        ring_seq: int,
        dice: random.Random,
        first_seq: int = 0,
        first_token_seq: int = 0,
        daemon: bool = False,
        trace: Trace | None = None,
    ) -> None:
        self.config = config
        """What this node goes by: it has all members, those too that were removed and have not left yet."""
        self._configured = config
        self.node_id = node_id
        self.dice = dice
        self.first_seq = first_seq
        self.first_token_seq = first_token_seq
        self.is_daemon = daemon
        self.patience = Patience(config, daemon=daemon)
        self.own_features = FEATURES
        if not config.compact_headers:
            self.own_features &= ~Feature.COMPACT
        if not config.accelerated_window:
            self.own_features &= ~Feature.ACCELERATED
        self.on_foreign: Callable[[bytes, float], bool] = lambda datagram, now: False
        """Called with each datagram that is none of totem's; returns whether it is the shell's."""
        self.on_stall: Callable[[float], None] = lambda now: None
        """Called when the token moves but a member gets no frames, so that the links may carry less than before."""
        self.receive_buffer = RECEIVE_BUFFER
        """Bytes, as the kernel counts them, that may wait for this processor while it is busy."""
        self.ours: frozenset[int] = frozenset()
        """The other nodes that are of this package: members of a pure ring, and those whose Joins carry a hint."""
        self.hearing: dict[int, Hearing] = {}
        """Who hears whom, as the links machine says. Of a node that is not in it nothing is known."""

        # Parts.
        ring_id = RingId(node_id, ring_seq + 1)
        self.counters = Counters()
        self.timers = Timers()
        self.diagnostics = Diagnostics(config, node_id, self.counters, trace)
        self.outbox = Outbox(node_id, self.timers)
        self.tokens = TokenPassing(config, node_id, self.timers, self.counters, self.outbox)
        self.delivery = DeliveryQueue(self.diagnostics.drop, self._take_ask)
        self.numbers = RingNumbers(ring_id, config.token)
        self.left_out = Exclusions[int]()
        self._admission = Admission(config, node_id, ring_id.seq, self.left_out)
        self._nodelists = Nodelists()
        self.membership = Membership(node_id, self._admission.nodelist, self.diagnostics.drop)
        self.rows = Rows(config, node_id, ring_id.seq)
        self.separation = Separation(config, node_id, self.hearing)
        self._unheard = Unheard(self.diagnostics)
        self.accusations = Accusations(node_id, self.membership, self.outbox, self.diagnostics)
        self.accusations.on_proof = self._on_proof
        self._interruption = InterruptionRecord()
        self._handler: StateHandler = StateHandler(self)
        self._handler.state = State.STARTING

        # Rings.
        self.ring = self._new_ring(ring_id, ())
        self.new_ring: Ring | None = None
        self.filing: Ring | None = self.ring
        """The ring in whose window multicasts with `_ring_id_bytes` are filed."""
        self._ring_id_bytes = self.ring.id_bytes
        self._remarked = config.timeouts
        """Those of the ring of which the operator was told last."""
        self.since = 0.0
        """When the ring was installed, or when it was left and none has been since."""
        self.awaited_until = -inf
        """Until when the members of the ring that was left would have been waited for in it (rulings, F1)."""

        # Sending.
        self.packer = Packer(config.frame_size)
        self.sync_packer = Packer(config.frame_size)
        self.syncing = True
        """The application's messages wait until the layer above has finished its sync of the ring."""
        self.stirred = False
        """Something was queued that must not wait for the next datagram or timer."""

        # Receiving.
        self._longest_frame = config.longest_packet - MCAST_HEADER
        """Bytes of the longest multicast that a Recovery can send again inside another one."""
        self._max_frame = min(config.max_frame, self._longest_frame)
        self._resuming = False
        """This process was paused, and has not heard yet what came meanwhile."""
        self.largest_pause = 0.0
        self._failure: str | None = None
        self._receivers = (
            *(self._receive_token, self._receive_mcast, self._receive_merge_detect, self._receive_join),
            *(self._receive_commit_token, self._receive_hold_cancel),
        )

    def _new_ring(self, ring_id: RingId, members: tuple[int, ...]) -> Ring:
        flow = FlowControl(self.config.window_size, self.config.max_messages)
        return Ring(ring_id, members, self.node_id, self.first_seq, flow, self.config.timeouts)

    # What the shell reads.

    @property
    def deadline(self) -> float:
        """When `advance` is due next; infinity if nothing is armed."""
        return self.timers.earliest()

    @property
    def state(self) -> State:
        """Where the processor is in the membership protocol."""
        return self._handler.state

    @property
    def is_operational(self) -> bool:
        """Whether there is a ring, and it goes on."""
        return self._handler.state is State.OPERATIONAL

    @property
    def ring_id(self) -> RingId:
        """The latest ring that this node has committed to, installed or not."""
        return self.numbers.ring_id

    @property
    def members(self) -> tuple[int, ...]:
        """Members of the installed ring, ascending; empty before the first."""
        return self.ring.members

    @property
    def pure(self) -> bool:
        """Whether all members of the installed ring are Totem processors of this package."""
        return self.ring.pure

    @property
    def features(self) -> Feature:
        """The extensions that all members of the installed ring have."""
        return self.ring.features

    @property
    def own_window(self) -> int:
        """Frames that may wait for this processor, for the hello; 0 if the windows are configured (D4)."""
        if self.config.windows_configured:
            return 0
        return frames_that_fit(self.receive_buffer, self.config.usual_frame)

    @property
    def room(self) -> int:
        """Bytes of messages that `multicast` accepts now."""
        return max(0, self.config.send_queue_bytes - self.packer.queued_bytes)

    def limit_frames(self, packet: int) -> None:
        """Cut frames to what IP packets of this many bytes carry, which is at most what the configuration says."""
        config = self.config
        frame_size = min(config.frame_size, packet - (config.packet_size - config.frame_size))
        self.packer.limit(frame_size)
        self.sync_packer.limit(frame_size)

    def interruption(self, now: float) -> Interruption | None:
        """Return what has become of the ring that was complete last; None before the first, and while it goes on."""
        return self._interruption.interruption(now, self.ring.timeouts.token)

    @property
    def consensus(self) -> float:
        """The consensus timeout of a round with the present candidates.

        It is a ring's own only among its members, as long as none of them has come back as a Corosync node (F1).
        """
        candidates = self.membership.candidates
        if candidates.issubset(self.ring.members) and self._seem_ours(candidates):
            return self.ring.timeouts.consensus
        return self.config.consensus

    def _seem_ours(self, node_ids: Iterable[int]) -> bool:
        """Return whether all these nodes are ours, as far as this one has heard."""
        return self.ours.issuperset(set(node_ids) - {self.node_id})

    def statistics(self) -> Statistics:
        """Return what has been counted since the start, and what is held now."""
        return Statistics(
            **self.counters.frozen(),
            state=self.state.value,
            since=self.since,
            left_out=self.left_out.all(),
            apart=self.separation.report(),
            asks_at=self.separation.asks_at(),
            standstill=self.ring.stall.reason,
            ring_id=self.ring.id,
            members=self.ring.members,
            pure=self.ring.pure,
            largest_pause=self.largest_pause,
            timeouts=self.ring.timeouts,
            timeouts_because=self.ring.because,
            queued_messages=len(self.packer),
            queued_bytes=self.packer.queued_bytes,
            window_frames=len(self.ring.window.frames),
            rotation_time=self.tokens.rotation_time,
        )

    # What the shell calls.

    def start(self, now: float) -> None:
        """Look for other processors; a ring of one is formed at once if none answers."""
        self.diagnostics.start(now)
        self.patience.start(now)
        self._admission.start(now)
        self.gather(Cause.STARTED, now)

    def receive(self, datagram: bytes, now: float) -> None:
        """Take a datagram from the network. Nothing in it can raise; what is wrong is counted and dropped."""
        self.receive_all((datagram,), now)

    def receive_all(self, datagrams: Iterable[bytes], now: float) -> None:
        """Take the datagrams of one turn: first this ring's multicasts, then the others in the order they came in.

        A multicast that arrives behind the token was sent by a member further on, or before the token by another one.
        Filed first, it is not missing on this visit. That delays the token only by the filing, because delivery, which
        is what costs time, comes behind the token.

        Hot: one turn for each datagram. Nearly all datagrams are plain multicasts of this ring. They are recognised by
        the bytes before and behind their number, and filed by that; no state does anything else with them.
        """
        self.diagnostics.now = now
        mine: list[bytes] = []
        others: list[bytes] = []
        filing = self.filing
        beginnings = filing.beginnings if filing is not None else frozenset()
        for datagram in datagrams:
            if (
                datagram[25:37] == self._ring_id_bytes
                and datagram[:BEGINNING] in beginnings
                and MCAST_HEADER <= len(datagram) <= self._max_frame
            ):
                mine.append(datagram)
            else:
                others.append(datagram)
        if mine:
            assert filing is not None
            self.counters.multicasts_received += len(mine)
            filing.window.insert_all(codec.mcast_seqs(mine), mine)
            if filing.pure and self._handler.state is State.OPERATIONAL:
                self.tokens.note_frames(filing, now)
        for datagram in others:
            if self._handler.state is State.LEFT:
                return
            try:
                self._receivers[codec.packet_type(datagram)](datagram, now)
            except MalformedDatagram as fault:
                if (said := evidence.decode(datagram)) is not None:
                    self.accusations.receive(said, now)
                elif not self.on_foreign(datagram, now):
                    self.diagnostics.drop_malformed(fault.cause)

    def note_hearing(self, node_id: int, hearing: Hearing, now: float) -> None:
        """Take from the links machine who hears whom between this node and another one; called when that changes."""
        self.hearing[node_id] = hearing
        self.separation.note_hearing(node_id, hearing, now)
        self._unheard.note(node_id, hearing, now)
        self._handler.on_hearing(node_id, now)

    def overdue(self, now: float) -> bool:
        """Return whether this process has not been run for so long that its view is stale; call it on waking.

        If so, drain all sockets, `receive` everything, `advance`, `take`. Until then Joins are dropped, because they
        are as old as the pause. Neither the token nor other nodes are judged to be lost meanwhile (rulings, F2).
        """
        deadline = self.deadline
        if deadline == -inf:  # what is due at once, a call for the token or one to this node itself, shows no delay
            deadline = self.timers.earliest_of_clock()
        late = now - deadline
        if self.patience.note_delay(late, now):
            self._choose_timeouts()
        if late <= self._timeouts.token / 2:
            return False
        self.counters.pauses += 1
        self.largest_pause = max(self.largest_pause, late)
        self._interruption.note_pause(now, late)
        self.come_back(now)
        return True

    def come_back(self, now: float) -> None:
        """Treat this node's view as stale, because it took no turn for a while; `overdue` calls it after a pause."""
        self._resuming = True
        self.rows.come_back(now)
        timers = self.timers
        for timer, grace in (
            (Timer.TOKEN_LOSS, self._timeouts.token_retransmit),
            (Timer.CONSENSUS, self.consensus),
        ):
            if timers.deadline(timer) < now + grace:
                timers.arm(timer, now + grace)

    @property
    def _timeouts(self) -> Timeouts:
        """The timeouts of the ring that is being formed, or of the installed one."""
        return (self.new_ring or self.ring).timeouts

    def note_health(self, now: float) -> None:
        """Ask the others for less patience after quiet, and name members that are not heard; the token has come."""
        self._unheard.visit(now)
        if self.patience.advance(now):
            self._choose_timeouts()

    def _take_ask(self, ring: Ring, origin: int, ask: Ask) -> None:
        """Wait for a member as long as it asks; its message has come to this place of the order."""
        if ring is self.ring and origin != self.node_id:
            ring.asks[origin] = ask
            self._choose_timeouts()

    def _choose_timeouts(self) -> None:
        """Choose the timeouts of the installed ring by what its members ask for (F1)."""
        ring = self.ring
        if ring.pure:
            ring.asks[self.node_id] = self.patience.ask
        former = ring.timeouts.token
        ring.timeouts, ring.because = choose(self.config, ring.asks if ring.pure else None, len(ring.members))
        if self.is_operational:
            if ring.timeouts.token > former:
                self.tokens.wait_longer(ring, ring.timeouts.token - former, self.diagnostics.now)
            if ring.timeouts != self._remarked:
                self._remarked = ring.timeouts
                self.diagnostics.remark_timeouts(ring.timeouts, ring.because)

    def advance(self, now: float) -> None:
        """Fire every timer that is due."""
        self.diagnostics.advance(now)
        for _ in range(MOST_OWN):
            timer = self.timers.pop_due(now)
            if timer is None:
                return
            if timer is Timer.LOOPBACK:
                self._receive_own(now)
            else:
                self._handler.on_timer(timer, now)

    @property
    def watched(self) -> int:
        """The member that this node is to ping often, so that its end is noticed while the token rests; 0: none."""
        return self.ring.successor if self.accusations.is_active else 0

    def on_refusal(self, node_id: int, now: float) -> None:
        """Take the kernel's refusal of a datagram that this node has sent to another one."""
        self.diagnostics.now = now
        if self.state is not State.LEFT:
            self.accusations.on_refusal(node_id, now)

    def on_trial(self, node_id: int, answered: bool, now: float) -> None:
        """Take how the trial of a node has ended (`Ready.trials`)."""
        self.diagnostics.now = now
        if self.state is not State.LEFT:
            self.accusations.on_trial(node_id, answered, now)

    def take(self) -> Ready:
        """Return what is ready, and start afresh."""
        self._resuming = self.stirred = False
        if self._handler.state is State.OPERATIONAL:
            self.delivery.flush(self.ring)
        ring_seq, datagrams, notices = self.numbers.take(), self.outbox.take(), self.diagnostics.take()
        trials, remarks = self.accusations.take(), self.diagnostics.take_remarks()
        return Ready(ring_seq, datagrams, self.delivery.take(), self._failure, notices, trials, remarks)

    def leave(self, now: float) -> None:
        """Announce the leave, once (a second one would disturb real nodes: rulings, F3). The processor is dead then."""
        if self._handler.state is State.LEFT:
            return
        self.outbox.send_message_to_all(self.membership.leave(self.ring_id.seq))
        self._end(Cause.LEAVING)

    def reconfigure(self, config: Config) -> None:
        """Take another configuration, which `reconfiguration.changes` has accepted; no ring changes for it.

        In a pure ring, members that it lacks remain known until they have left, and are not let in again. Beside a real
        node they are dropped at once, as there.
        """
        self._go_by(self.with_members(config))
        self._configured = config
        self._nodelists.forget()

    @property
    def told_nodelist(self) -> frozenset[int]:
        """The nodelist as Joins tell it; empty where it is too long."""
        nodelist = self._admission.nodelist
        return nodelist if len(nodelist) <= MOST_TOLD else frozenset()

    def with_members(self, config: Config) -> Config:
        """Return what this node would go by under another configuration: it has the members of now."""
        members = set(self.ring.members if self.ring.pure else ())
        if self.new_ring is not None:
            members.update(self.new_ring.members)
        return with_members(config, self.config, members)

    def _go_by(self, config: Config) -> None:
        self.config = config
        self.diagnostics.reconfigure(config)
        self.tokens.reconfigure(config)
        self.patience.reconfigure(config)
        self._choose_timeouts()
        self._admission.reconfigure(config)
        self.membership.nodelist = self._admission.nodelist
        self.rows.reconfigure(config)
        self.separation.reconfigure(config)
        self.ours &= self._admission.nodelist
        if config.knet is not None:
            self.limit_frames(config.packet_size)

    # What the layer above calls.

    def multicast(
        self,
        messages: Sequence[bytes],
        guarantee: Guarantee = Guarantee.AGREED,
        envelope: Envelope | None = None,
    ) -> None:
        """Queue messages of the application, to be delivered everywhere in this order.

        With an envelope the messages are payloads. Receivers get them with its label, or with headers before them, as
        the ring has it in which they get their numbers. The bounds hold for their sizes with headers.

        Raises QueueFull if the queue has no room for all of them, and MessageTooLong if one has more than 1 MiB, or
        more than the envelope allows; nothing is queued then. Hot: constant work for each call but for a sum and a
        maximum of lengths.
        """
        if not messages:
            return
        sizes = list(map(len, messages))
        size = sum(sizes)
        largest = MAX_MESSAGE
        if envelope is not None:
            size += envelope.header_size * len(sizes)
            largest = envelope.largest
        if max(sizes) > largest:
            raise MessageTooLong(f"a message of {max(sizes)} bytes; a ring carries at most {largest} in one")
        if size > self.config.send_queue_bytes - self.packer.queued_bytes:
            raise QueueFull(
                f"{size} bytes do not fit in the send queue: {self.room} of {self.config.send_queue_bytes} are free"
            )
        self.packer.extend(messages, guarantee, envelope)
        self.counters.messages_sent += len(messages)
        self.counters.bytes_sent += size
        if self.ring.token_held and not self.syncing:
            self._cancel_hold()

    def multicast_sync(self, messages: Sequence[bytes]) -> None:
        """Queue messages of the sync of the ring that was delivered last; they go out before any of the application.

        If another ring has been installed meanwhile, that sync is dead and nothing is queued: the new ring's
        configuration is queued for delivery already.
        """
        if not self.syncing or self.delivery.syncing_ring_id != self.ring.id:
            return
        self.sync_packer.extend(messages, Guarantee.AGREED)
        if self.ring.token_held:
            self._cancel_hold()

    def sync_complete(self, ring_id: RingId) -> None:
        """Let the application's messages go out: the layer above has finished its sync of this ring.

        For a ring that has been left since, it means nothing.
        """
        if ring_id == self.delivery.syncing_ring_id:
            self.delivery.syncing_ring_id = None
        if ring_id == self.ring.id and self.syncing:
            self.syncing = False
            if self.is_operational:  # else this ring has been left before it was complete
                self._interruption.end()
            if self.ring.token_held and self.packer:
                self._cancel_hold()

    def restart_sync(self, silent: Iterable[int], now: float) -> bool:
        """Form the ring again, because the sync of the layer above waits for these members (rulings, C4).

        A pure ring goes on without them. With a real node in the ring, all members are asked to come again. Real nodes
        take over whom a member holds for failed. What they lack may also be their own message, which they send once a
        ring and may throw away. Return whether it was done.
        """
        silent = set(silent).intersection(self.ring.members) - {self.node_id}
        if not silent or not self.syncing or self.state is not State.OPERATIONAL:
            return False
        if self.ring.pure:
            self.membership.failed |= silent
        self.gather(Cause.SYNC_STALLED, now)
        return True

    def _cancel_hold(self) -> None:
        if self._handler.state is State.OPERATIONAL:
            self.stirred = True
            self.tokens.cancel_hold(self.ring)

    # What comes in, by type.

    def _receive_mcast(self, datagram: bytes, now: float) -> None:
        """Take a multicast of another ring, an encapsulated one, or one that is too large or malformed."""
        codec.check_mcast(datagram)
        self.counters.multicasts_received += 1
        if datagram[25:37] == self._ring_id_bytes:
            self._receive_own_ring(datagram)
            return
        origin = codec.mcast_origin(datagram)
        ring_id = codec.mcast_ring_id(datagram)
        if origin == self.node_id and ring_id.seq < self.ring_id.seq:
            # A member there sent it again for one that lacked it.
            self.diagnostics.drop("own multicast of a former ring")
        elif not self._refuses(origin, ring_id.seq, now):
            self._handler.on_foreign(origin, ring_id, Cause.FOREIGN_MULTICAST, now)

    def _receive_own_ring(self, datagram: bytes) -> None:
        """Refuse at once what every member would refuse in a Recovery."""
        if self.filing is None:
            return
        if not self.filing.has_sent(datagram):
            self.diagnostics.drop("multicast of a non-member")
            return
        is_encapsulated = codec.mcast_is_encapsulated(datagram)
        if not is_encapsulated and len(datagram) > self._longest_frame:
            self.diagnostics.drop("multicast too long to be sent again")
            return
        if len(datagram) > self.config.max_frame:
            size = len(datagram) - (MCAST_HEADER if is_encapsulated else 0)
            self.diagnostics.check_frame_size(codec.mcast_origin(datagram), size)
        self._handler.on_mcast(datagram)

    def _receive_token(self, datagram: bytes, now: float) -> None:
        token = codec.decode(datagram)
        assert isinstance(token, Token)
        self._handler.on_token(token, now)

    def _receive_merge_detect(self, datagram: bytes, now: float) -> None:
        message = codec.decode(datagram)
        assert isinstance(message, MergeDetect)
        if not self._refuses(message.origin, message.ring_id.seq, now):
            self._handler.on_merge_detect(message, now)

    def _receive_join(self, datagram: bytes, now: float) -> None:
        join = codec.decode(datagram)
        assert isinstance(join, Join)
        self.counters.joins_received += 1
        hint = codec.decode_hint(join.hint) if join.hint else None
        self._note_make(join.origin, hint)
        if hint is not None and hint.rows:
            self.rows.note_arrival(join.origin, hint.rows)
        if join.is_leave:
            self.left_out.end(join.origin)
        if self._resuming and not join.is_leave:
            self.diagnostics.drop("join older than my pause")
            return
        if hint is not None and join.origin in self._admission.nodelist:
            self._nodelists.hear(join.origin, hint.nodelist)
        if self._refuses(join.origin, join.ring_seq, now) or not self._hint_fits(join.origin, hint):
            return
        if not self.numbers.believes(join.origin, join.ring_seq, now):
            self.diagnostics.drop("implausible ring sequence")
            return
        if not join.is_leave:
            self.accusations.on_join(join.origin, is_ours=join.origin in self.ours)
        for node_id in set(join.candidates).difference(join.failed):
            self.left_out.end(node_id)  # taken back, which is better than to disagree with a member
        self.membership.hear(join)
        self._interruption.hear(join)
        unlisted = set(join.candidates) - set(join.failed) - self._admission.nodelist
        if unlisted:
            self.diagnostics.notice_other_nodelist(join, unlisted)
        if hint is not None and not join.is_leave:
            self._keep_out(join, unlisted)
        self._handler.on_join(join, now)

    def _keep_out(self, join: Join, unlisted: set[int]) -> None:
        """Count nodes as failed that are not in the nodelists of all members of this ring of ours."""
        ring = self.ring
        if not ring.pure:
            return
        if join.origin in ring.members:
            others = {*join.candidates, *self.membership.candidates}.difference(ring.members)
            unlisted = unlisted | self._nodelists.unlisted_by(join.origin, others)
        self.membership.failed |= unlisted.difference(ring.members)

    def _receive_commit_token(self, datagram: bytes, now: float) -> None:
        token = codec.decode(datagram)
        assert isinstance(token, CommitToken)
        self.counters.commit_tokens_received += 1
        if token.ring_id.seq > LIMIT:
            self.diagnostics.drop("impossible ring sequence")
        else:
            self._handler.on_commit_token(token, now)

    def _receive_hold_cancel(self, datagram: bytes, now: float) -> None:
        message = codec.decode(datagram)
        assert isinstance(message, HoldCancel)
        self._handler.on_hold_cancel(message, now)

    def _receive_own(self, now: float) -> None:
        """Take what this node sent to itself: the token of a ring of one."""
        own = self.outbox.own
        if own:
            self.receive(own.popleft(), now)
        if own:
            self.timers.arm(Timer.LOOPBACK, -inf)

    def _refuses(self, origin: int, ring_seq: int, now: float) -> bool:
        """Return whether a datagram of another ring is dropped because its sender cannot be a member."""
        cause = self._admission.refusal(origin, ring_seq, self.ring.members, self.numbers.confirmed_seq, now)
        if not cause:
            return self._lacks_or_is_lacked(origin)
        self.diagnostics.drop(cause)
        text = self.diagnostics.explanation(cause, origin)
        if cause == DUPLICATE_NODE_ID and not self.membership.had_company:
            if text:
                self.fail(text)
        elif text:
            self.diagnostics.notice(cause, text)
        return True

    def _lacks_or_is_lacked(self, origin: int) -> bool:
        """Return whether a node is kept out of this ring of ours because nodelists differ."""
        ring = self.ring
        lack = None
        if ring.pure and origin not in ring.members:
            lack = self._nodelists.lack(origin, ring.members)
        if lack is None:
            return False
        self.diagnostics.drop("node that not all nodelists have")
        self.diagnostics.notice_lack(lack, origin)
        if self.state is not State.OPERATIONAL:
            self.membership.failed.add(origin)
        return True

    def _note_make(self, origin: int, hint: Hint | None) -> None:
        """Note whether the sender of a Join is a processor of this package. Who leaves says nothing of itself."""
        is_ours = hint is not None and hint.cluster_name == self.config.cluster_name
        if is_ours == (origin in self.ours) or origin == self.node_id:
            return
        if not is_ours:
            self.ours -= {origin}
        elif origin in self._admission.nodelist:
            self.ours |= {origin}

    def _hint_fits(self, origin: int, hint: Hint | None) -> bool:
        """Return whether the settings that a Join's hint names fit this node's; a Corosync node sends none (D1)."""
        if hint is None:
            return True
        if hint.cluster_name != self.config.cluster_name:
            self.diagnostics.drop("node of another cluster")
            self.diagnostics.notice_other_cluster(origin, hint.cluster_name)
            return False
        self.diagnostics.check_frame_size(origin, hint.frame_size)
        return True

    # What the states call.

    @property
    def stream(self) -> Packer:
        """The send queue that is allowed to send."""
        return self.sync_packer if self.syncing else self.packer

    def gather(self, cause: Cause, now: float) -> None:
        """Begin a round of Joins; an attempt to form a ring is given up with it."""
        if self.is_operational:
            token_loss = self.timers.deadline(Timer.TOKEN_LOSS)
            self.awaited_until = token_loss if self.ring.pure and token_loss < inf else -inf
            lost = cause is Cause.TOKEN_LOST
            self._interruption.begin(cause, now - self.ring.timeouts.token if lost else now)
        if self.state in (State.STARTING, State.OPERATIONAL):
            self.since = now
        if self.state is not State.GATHER:
            self.rows.begin(self.ring.id)
        handler = Gather(self)
        self._enter(handler, State.GATHER, cause)
        self.numbers.retract()
        if self.new_ring is not None:
            self.new_ring = None
            self.filing = None
        handler.enter(now)

    def gather_with(self, join: Join, cause: Cause, now: float) -> None:
        """Begin a round of Joins with what this Join names, and count it as the round's first."""
        self.membership.merge(join, self.ring.members)
        self.gather(Cause.LEAVE_RECEIVED if join.is_leave else cause, now)
        self.hear(join, now)

    def hear(self, join: Join, now: float) -> None:
        """Count a Join for the round that it has led to."""
        if self.state is State.GATHER:
            self._handler.on_join(join, now)

    def give_up(self, node_id: int, reason: str, frame: bytes | None, now: float, *, pure: bool) -> None:
        """Go on without a member that does not receive, or is not received, which may be this one (A9).

        A pure ring leaves it out for a while: it would come back at once, and the next ring would stall, too.
        """
        term = self.left_out.next_term(node_id, now) if pure else None
        self.diagnostics.report_given_up(node_id, reason, term, frame)
        self.membership.failed.add(node_id)
        if node_id == self.node_id:
            self.membership.receive_failed = reason, now
        elif pure:
            self.left_out.add(node_id, now, reason)
        self.gather(Cause.FAILED_TO_RECEIVE, now)

    def _on_proof(self, proven: dict[int, list[int]], now: float) -> None:
        """Go on without members whose processes have ended (F6)."""
        for node_id, confirming in proven.items():
            self.diagnostics.report_ended(node_id, confirming)
        self.membership.failed.update(proven)
        self.gather(Cause.PROCESS_ENDED, now)

    def commit(self, token: CommitToken, cause: Cause, now: float) -> None:
        """Begin to form the ring of this commit token."""
        handler = Commit(self)
        self._enter(handler, State.COMMIT, cause)
        handler.enter(token, now)

    def begin_ring(self, ring_id: RingId, members: tuple[int, ...]) -> None:
        """Make the ring of the commit token the one being formed."""
        self.numbers.begin(ring_id)
        self.new_ring = self.filing = self._new_ring(ring_id, members)
        self._ring_id_bytes = self.new_ring.id_bytes
        self.new_ring.seems_pure = self._seem_ours(members)
        if self.ring.pure and self.new_ring.seems_pure and set(members).issubset(self.ring.members):
            token = min(self.config.token, _FORMING * self.ring.timeouts.token)
            self.new_ring.timeouts = self.new_ring.timeouts._replace(token=token)

    def recover(self, token: CommitToken, now: float) -> None:
        """Exchange old messages on the new ring: the commit token has been filled by all.

        That tells its representative that all members take part, because nobody else makes a commit token in its name.
        """
        assert self.new_ring is not None
        if self.new_ring.is_representative:
            self.numbers.confirm()
        handler = Recovery(self)
        self._enter(handler, State.RECOVERY, Cause.COMMIT_TOKEN_FULL)
        handler.enter(token, now)

    def install(self, ring: Ring, now: float) -> None:
        """Put the new ring in the old one's place."""
        self.numbers.confirm()
        self.ring = ring
        self.new_ring = None
        if self.config is not self._configured:  # some have been kept as members, and may have left
            self._go_by(self.with_members(self._configured))
        if ring.pure:
            self.ours |= set(ring.members) - {self.node_id}
        absent = self.membership.candidates.difference(ring.members, self.membership.gone) & self.ours
        unwilling = {
            node_id
            for node_id in absent
            if node_id in self.separation.apart or (node_id in self.hearing and all(self.hearing[node_id]))
        }
        if lost := self.separation.install(ring.members, unwilling if ring.pure else (), now):
            others = {node_id for pair in lost for node_id in pair}.difference(ring.members)
            self.diagnostics.notice_parted(describe(lost), name_nodes(others))
        for node_id in [*self.separation.apart]:
            if self._nodelists.lack(node_id, ring.members):
                self.separation.forget(node_id)  # it is kept out until a file is reloaded, whoever hears it
        self.ours |= set(self.separation.apart)  # some of them only through others, which have passed their rows on
        self.membership.install(ring.members)
        self.tokens.begin_ring()
        self.accusations.begin_ring(ring)
        self._unheard.begin_ring(ring.members if ring.pure else ())
        self.packer.restart()
        self.sync_packer.drop_unsent()
        self.syncing = True
        self.counters.rings_installed += 1
        self.since = now
        handler = Operational(self)
        self._enter(handler, State.OPERATIONAL, Cause.RECOVERED)
        self._choose_timeouts()
        handler.enter()

    def fail(self, reason: str) -> None:
        """Give up for good."""
        self._failure = reason
        self._end(Cause.FAILED)

    def _end(self, cause: Cause) -> None:
        self._enter(StateHandler(self), State.LEFT, cause)
        self.timers.disarm_all()
        self.filing = None

    def _enter(self, handler: StateHandler, state: State, cause: Cause) -> None:
        """Change the state; there is no other place that does."""
        old = self._handler.state
        assert TRANSITIONS[old].get(cause) is state, f"no way from {old} to {state} because {cause.value}"
        self.diagnostics.enter(state, cause)
        self._handler.leave()
        handler.state = state
        self._handler = handler
