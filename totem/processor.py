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

The state of the membership protocol is a room (`totem.states`) that exists as long as the state lasts; here is what
outlives it: the installed ring and the one being formed, the two send queues, the candidates, and the obligations to
the old ring. `_enter` is the only assignment of a state and refuses what `TRANSITIONS` does not list.

Nothing that comes from the network raises: it is counted by cause and dropped. A bug of ours raises AssertionError,
and the others then treat this processor as failed.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from totem.config import ETHERNET_MTU, IP_UDP_HEADERS, MAX_NODES, Config
from totem.configuration import (
    Configuration,
    Delivery,
    Feature,
    Guarantee,
    Level,
    Messages,
    RegularConfiguration,
    RingId,
)
from totem.deafness import LeftOut
from totem.errors import MalformedDatagram, MessageTooLong, QueueFull
from totem.flow import RECEIVE_BUFFER, FlowControl, frames_that_fit
from totem.labels import Envelope
from totem.log_pacing import Seldom
from totem.packing import MAX_MESSAGE, Assembler, Packer
from totem.ring import Ring
from totem.ring_numbers import LIMIT, Claims, is_near
from totem.sequence import after, before, row, row_to, up_to
from totem.states.commit import Commit
from totem.states.gather import Gather
from totem.states.operational import Operational
from totem.states.recovery import Recovery
from totem.states.room import Room
from totem.states.table import TRANSITIONS, Cause, State
from totem.statistics import Counters, Statistics
from totem.timers import Timer, Timers
from totem.wire import codec
from totem.wire.codec import BEGINNING, GUARANTEE_OFFSET, MCAST_HEADER, Hello, Hint
from totem.wire.layout import FRAME_COMPACT, FRAME_PLAIN, MAX_DATAGRAM
from totem.wire.messages import CommitToken, HoldCancel, Join, MergeDetect, Message, Token

ALL = 0
"""Target of a datagram for every other node of the nodelist (0 is no node id)."""

FEATURES = Feature.COMPACT | Feature.ACCELERATED
"""Extensions of the protocol that this version has."""

LONGEST_FRAME = MAX_DATAGRAM - MCAST_HEADER
"""Bytes of the longest multicast that a Recovery can send again inside another one."""
_PENDING_LOOPBACK = 64
_PROOF = 3
"""So many datagrams with my node id prove a second node; one may be another node's, with a flipped bit (G15)."""
_AFTERLIFE = 5
"""For so many token and consensus timeouts packets of a former life are taken for late ones."""
_PATIENCE = 5
"""Consensus timeouts after which a node that nobody has answered says so."""
_PAUSE_FACTOR = 4
"""The token timeout of a pure ring is at least so many times its members' longest pause (rulings, F1)."""

_LONGER = 1.5
"""No rotation counts for more than so many times those before it: the rest is taken for the wait for a lost token."""
_ROTATIONS_TO_MISS = 2
_SOON = 0.005
"""A pure ring that does not rest sends its token again, for the first time, after so many rotations, and not within so
many seconds; then after twice as long each time (rulings, F4)."""

Trace = Callable[[str, str], None]
"""Called with what happened (`enter`, `drop`, `notice`) and to what."""


@dataclass(slots=True)
class Ready:
    """What must be done, in the order of the fields."""

    ring_seq: int | None
    """1. Make durable before anything is sent: a ring id must never be used twice, whatever crashes."""
    datagrams: list[tuple[int, list[bytes]]]
    """2. Send: (node id or `ALL`, frames). The frames of one visit are one train."""
    deliveries: Iterator[Delivery]
    """3. Hand on, all of it, before the next `receive`. Messages are assembled as they are asked for: whoever takes
    them may call `multicast`, `multicast_sync` and `sync_complete` between two of them."""
    failure: str | None
    """The ring cannot go on, and why; the processor is dead."""
    notices: list[str]
    """What an administrator should read."""


class Interruption(NamedTuple):
    """What has become of the ring that was complete last: for the administrator."""

    cause: Cause
    seconds: float
    """Since messages of it were ordered last."""
    departed: frozenset[int]
    """Who has said since then that it leaves, and was not heard again."""
    pause: float
    """Seconds for which this process was not run just before that, or since; 0: it was."""


class Processor:
    """The Totem single-ring protocol of one node.

    `ring_seq` is the ring sequence that the store holds (0 for a node that never ran); `dice` decides random delays.
    `first_seq` and `first_token_seq` are where a ring's numbers start: 0 on the wire, near 2**32 in tests of the
    wrap. `trace` hears of transitions and drops.
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
        trace: Trace | None = None,
    ) -> None:
        self.config = config
        self.node_id = node_id
        self.dice = dice
        self.first_seq = first_seq
        self.first_token_seq = first_token_seq
        self.trace = trace
        self.own_features = FEATURES
        if not config.compact_headers:
            self.own_features &= ~Feature.COMPACT
        if not config.accelerated_window:
            self.own_features &= ~Feature.ACCELERATED
        self.receive_buffer = RECEIVE_BUFFER
        """Bytes, as the kernel counts them, that may wait for this processor while it is busy."""
        self.counters = Counters()
        self.timers = Timers()
        self._room: Room = Room(self)
        self._room.state = State.STARTING

        # Rings. My ring id is that of the latest ring I have committed to, installed or not; multicasts that carry
        # it are filed in `filing`.
        self.ring_id = RingId(node_id, ring_seq + 1)
        self._first_ring_seq = self.ring_id.seq
        self._haunted_until = inf
        """Until then packets of a former life may come."""
        self._answers_by = inf
        """By then another node should have answered."""
        self._listed = frozenset(node.node_id for node in config.nodes)
        self.ring = self._new_ring(self.ring_id, ())
        self.new_ring: Ring | None = None
        self.filing: Ring | None = self.ring
        self._ring_id_bytes = self.ring.id_bytes
        self.highest_ring_seq = self.ring_id.seq
        """Of all that are believed."""
        self._claims = Claims(config.token)
        self._doubted: RingId | None = None
        """My ring id from before I took part in an attempt whose number is far above it, and until it is confirmed."""
        self.since = 0.0
        """When the ring was installed, or when it was left and none has been since."""
        self.commit_token_seq = 0
        """`token_seq` with which I sent the commit token on."""

        # Membership, kept over broken attempts.
        self.candidates: set[int] = {node_id}
        self.failed: set[int] = set()
        self._heard: set[int] = {node_id}
        """Who has sent a Join since my last install, and has not left."""
        self.gone: set[int] = set()
        """Who has left since then, in good order."""
        self._departed: set[int] = set()
        """Who has left since a ring was complete last."""
        self._interrupted: tuple[Cause, float] | None = None
        """Why that ring was given up, and when the last of it was heard."""
        self.obligations: set[int] = set()
        """Whose old messages I have promised to deliver, whatever becomes of the attempt (A6)."""
        self.receive_failed: tuple[str, float] | None = None
        """Why I have given myself up and shall go on alone, and since when."""
        self.left_out = LeftOut()
        self.stalled_by = 0
        """Who held the aru when the last Recovery since the install made no progress."""
        self._had_company = False

        # Sending.
        self.packer = Packer(config.frame_size)
        self.sync_packer = Packer(config.frame_size)
        self.syncing = True
        """The application's messages wait until what is above has finished its sync of the ring."""
        self._this_seqno = 0
        self._token_timeout = config.token
        self._resend_after = config.token_retransmit
        """Seconds until the token is sent again, if nothing comes."""
        self._call_again_after = 0.0
        """Seconds until a token that rests elsewhere is called for again."""
        self._max_frame = min(config.max_frame, LONGEST_FRAME)

        # Receiving.
        self._assembler = Assembler()
        self._sync_assembler = Assembler()
        self._delivered_ring_id: RingId | None = None
        """The ring whose regular configuration was handed on last; None once its sync is complete."""
        self._resuming = False
        self.stirred = False
        """Something was queued that must not wait for the next datagram or timer."""
        self.largest_pause = 0.0
        self._latest_pause = (-inf, 0.0)
        """When it ended, and how many seconds it took."""
        self._last_visit = inf
        self._rotation_time = 0.0
        self._sizes_named: set[int] = set()

        self._ring_seq_to_store: int | None = None
        self._datagrams: list[tuple[int, list[bytes]]] = []
        self._loopback: deque[bytes] = deque()
        self._pending: deque[tuple[Ring, list[bytes], Level] | Configuration] = deque()
        self._failure: str | None = None
        self._notices: list[str] = []
        self._seldom = Seldom[str]()
        """Of the notices that others can cause."""
        self._now = 0.0
        """The latest time that was told."""
        self._receivers = (
            self._receive_token,
            self._receive_mcast,
            self._receive_merge_detect,
            self._receive_join,
            self._receive_commit_token,
            self._receive_hold_cancel,
        )

    # What the shell calls.

    @property
    def deadline(self) -> float:
        """When `advance` is due next; infinity if nothing is armed."""
        return self.timers.earliest()

    @property
    def is_operational(self) -> bool:
        """Whether there is a ring, and it goes on."""
        return self.state is State.OPERATIONAL

    @property
    def state(self) -> State:
        """Where the processor is in the membership protocol."""
        return self._room.state

    @property
    def members(self) -> tuple[int, ...]:
        """Members of the installed ring, ascending; empty before the first."""
        return self.ring.members

    @property
    def pure(self) -> bool:
        """Whether all members of the installed ring are of this make."""
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
        return frames_that_fit(self.receive_buffer, self.config.max_frame)

    @property
    def burst(self) -> int:
        """Frames that may go to another member at once behind the token (D2).

        All others share the window, since what they send at the same time waits in the switch for that member, where
        room is bytes: a window of larger frames than Ethernet's has fewer.
        """
        config = self.config
        frames = config.accelerated_window * ETHERNET_MTU // max(ETHERNET_MTU, config.netmtu)
        return max(1, frames // max(1, len(self.ring.members) - 1))

    @property
    def room(self) -> int:
        """Bytes of messages that `multicast` accepts now."""
        return max(0, self.config.send_queue_bytes - self.packer.queued_bytes)

    def start(self, now: float) -> None:
        """Look for other processors; a ring of one comes into being at once if none answers."""
        self._now = now
        self._haunted_until = now + _AFTERLIFE * (self.config.token + self.config.consensus)
        self._answers_by = now + _PATIENCE * self.config.consensus
        self.gather(Cause.STARTED, now)

    def receive(self, datagram: bytes, now: float) -> None:
        """Take a datagram from the network. Nothing in it can raise; what is wrong is counted and dropped."""
        self.receive_all((datagram,), now)

    def receive_all(self, datagrams: Iterable[bytes], now: float) -> None:
        """Take the datagrams of one turn: first the multicasts of my ring, then the others in the order they came in.

        A multicast behind a token was sent by somebody who is further than I am, or before the token by somebody else:
        filed first, it is not missed on this visit. That delays the token by no more than the filing, since all that
        costs time, the delivery, comes behind it.

        Hot: one turn for each datagram. Plain multicasts of my ring, which are nearly all, are recognised by what
        stands before and behind their number, and filed by that; this is all that any state does with them.
        """
        self._now = now
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
        for datagram in others:
            if self._room.state is State.LEFT:
                return
            try:
                self._receivers[codec.packet_type(datagram)](datagram, now)
            except MalformedDatagram as fault:
                self._drop_malformed(fault.cause)

    def _drop_malformed(self, cause: str) -> None:
        self.drop(cause)
        if cause == "foreign magic":
            self.notice(
                cause,
                f"datagrams come to port {self.config.port} that no node of transport {self.config.transport} sends. "
                f"If other nodes use knet (which encryption needs): set their transport to {self.config.transport}",
            )

    def overdue(self, now: float) -> bool:
        """Whether this process has not been run for so long that its view is stale; call it on waking.

        If so, drain all sockets, `receive` everything, `advance`, `take`: until then Joins are dropped (they are as old
        as the pause) and neither the token nor the others are judged to be lost (rulings, F2).
        """
        deadline = self.deadline
        if deadline == -inf:  # what is to be done at once, a call for the token or one to myself, tells no delay
            deadline = self.timers.earliest_of_clock()
        late = now - deadline
        if late <= self._token_timeout / 2:
            return False
        self.counters.pauses += 1
        self.largest_pause = max(self.largest_pause, late)
        self._latest_pause = now, late
        self.come_back(now)
        return True

    def come_back(self, now: float) -> None:
        """This node has stood still, so that its view is stale: as after a pause, which `overdue` notices by itself."""
        self._resuming = True
        timers = self.timers
        for timer, grace in (
            (Timer.TOKEN_LOSS, self.config.token_retransmit),
            (Timer.CONSENSUS, self.config.consensus),
        ):
            if timers.deadline(timer) < now + grace:
                timers.arm(timer, now + grace)

    def advance(self, now: float) -> None:
        """Fire every timer that is due."""
        self._now = now
        if self._seldom:
            self._tell_counted()
        for _ in range(_PENDING_LOOPBACK):
            timer = self.timers.pop_due(now)
            if timer is None:
                return
            if timer is Timer.LOOPBACK:
                self._receive_loopback(now)
            else:
                self._room.on_timer(timer, now)

    def multicast(
        self,
        messages: Sequence[bytes],
        guarantee: Guarantee = Guarantee.AGREED,
        envelope: Envelope | None = None,
    ) -> None:
        """Queue messages of the application, to be delivered everywhere in this order.

        With an envelope they are payloads: receivers are given them with its label, or with headers before them, as
        the ring has it in which they get their numbers. What is bounded are their sizes with headers.

        Raises QueueFull if the bounded queue has no room for all of them, MessageTooLong if one has more than 1 MiB, or
        than the envelope allows; nothing is queued then. Hot: constant work for each call but for a sum and a maximum
        of lengths.
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
        """Queue messages of the sync of the ring that was handed on last; they go out before any of the application.

        When another ring has been installed meanwhile, that sync is dead and nothing is queued: the new ring's
        configuration is in line already.
        """
        if not self.syncing or self._delivered_ring_id != self.ring.id:
            return
        self.sync_packer.extend(messages, Guarantee.AGREED)
        if self.ring.token_held:
            self._cancel_hold()

    def sync_complete(self, ring_id: RingId) -> None:
        """What is above has finished its sync of this ring; of a ring that has been left since it means nothing."""
        if ring_id == self._delivered_ring_id:
            self._delivered_ring_id = None
        if ring_id == self.ring.id and self.syncing:
            self.syncing = False
            if self.is_operational:  # else this ring has been left before it was complete
                self._interrupted = None
                self._departed.clear()
            if self.ring.token_held and self.packer:
                self._cancel_hold()

    def interruption(self, now: float) -> Interruption | None:
        """What has become of the ring that was complete last; None before the first, and while it goes on."""
        if self._interrupted is None:
            return None
        cause, since = self._interrupted
        end, pause = self._latest_pause
        belongs = end >= since - self._token_timeout
        return Interruption(cause, now - since, frozenset(self._departed), pause if belongs else 0.0)

    def restart_sync(self, silent: Iterable[int], now: float) -> bool:
        """Form the ring anew, since the sync of what is above waits for these members (rulings, C4).

        In a pure ring it goes on without them. With a real node in it everybody is asked to come again: real nodes
        take over whom a member holds for failed, and what they lack may be their own word, which they say once a ring
        and may throw away. Says whether it was done.
        """
        silent = set(silent).intersection(self.ring.members) - {self.node_id}
        if not silent or not self.syncing or self.state is not State.OPERATIONAL:
            return False
        if self.ring.pure:
            self.failed |= silent
        self.gather(Cause.SYNC_STALLED, now)
        return True

    def leave(self, now: float) -> None:
        """Announce the leave, once (a second one would disturb real nodes: rulings, F3). The processor is dead then."""
        if self._room.state is State.LEFT:
            return
        others = tuple(sorted(self.candidates - {self.node_id}))
        failed = tuple(sorted(self.failed | {self.node_id}))
        self.send_message_to_all(Join(0, self.node_id, self.ring_id.seq, others, failed))
        self._end(Cause.LEAVING)

    def take(self) -> Ready:
        """Hand over what is ready, and start afresh."""
        self._resuming = self.stirred = False
        if self._room.state is State.OPERATIONAL:
            self.flush()
        ready = Ready(self._ring_seq_to_store, self._datagrams, self._deliveries(), self._failure, self._notices)
        self._ring_seq_to_store = None
        self._datagrams = []
        self._notices = []
        return ready

    def statistics(self) -> Statistics:
        """What has been counted since the start, and what is held now."""
        counters = self.counters
        return Statistics(
            state=self.state.value,
            since=self.since,
            left_out=self.left_out.all(),
            standstill=self.ring.standstill.reason,
            ring_id=self.ring.id,
            members=self.ring.members,
            pure=self.ring.pure,
            tokens_received=counters.tokens_received,
            tokens_sent=counters.tokens_sent,
            multicasts_received=counters.multicasts_received,
            multicasts_sent=counters.multicasts_sent,
            multicasts_behind_token=counters.multicasts_behind_token,
            retransmits_sent=counters.retransmits_sent,
            retransmits_requested=counters.retransmits_requested,
            joins_received=counters.joins_received,
            joins_sent=counters.joins_sent,
            commit_tokens_received=counters.commit_tokens_received,
            commit_tokens_sent=counters.commit_tokens_sent,
            token_retransmits=counters.token_retransmits,
            holds_cancelled=counters.holds_cancelled,
            rings_installed=counters.rings_installed,
            pauses=counters.pauses,
            largest_pause=self.largest_pause,
            messages_sent=counters.messages_sent,
            bytes_sent=counters.bytes_sent,
            drops=Statistics.freeze(counters.drops),
            entered=Statistics.freeze(counters.entered),
            queued_messages=len(self.packer),
            queued_bytes=self.packer.queued_bytes,
            window_frames=len(self.ring.window.frames),
            rotation_time=self._rotation_time,
        )

    # What comes in, by type.

    def _receive_mcast(self, datagram: bytes, now: float) -> None:
        """A multicast of another ring, an encapsulated one, or one that is too large or malformed."""
        codec.check_mcast(datagram)
        self.counters.multicasts_received += 1
        if datagram[25:37] == self._ring_id_bytes:
            self._receive_own_ring(datagram)
            return
        origin = codec.mcast_origin(datagram)
        ring_id = codec.mcast_ring_id(datagram)
        if origin == self.node_id and ring_id.seq < self.ring_id.seq:
            self.drop("own multicast of a former ring")  # somebody there has sent it again for one who lacked it
        elif not self._is_stranger(origin, ring_id.seq, now):
            self._room.on_foreign(origin, ring_id, Cause.FOREIGN_MULTICAST, now)

    def _receive_own_ring(self, datagram: bytes) -> None:
        """What every member would refuse in a Recovery, each refuses at first."""
        if self.filing is None:
            return
        if not self.filing.has_sent(datagram):
            self.drop("multicast of a non-member")
            return
        if not codec.mcast_is_encapsulated(datagram) and len(datagram) > LONGEST_FRAME:
            self.drop("multicast too long to be sent again")
            return
        if len(datagram) > self.config.max_frame:
            self._name_large_frame(datagram)
        self._room.on_mcast(datagram)

    def _receive_token(self, datagram: bytes, now: float) -> None:
        token = codec.decode(datagram)
        assert isinstance(token, Token)
        self._room.on_token(token, now)

    def _receive_merge_detect(self, datagram: bytes, now: float) -> None:
        message = codec.decode(datagram)
        assert isinstance(message, MergeDetect)
        if not self._is_stranger(message.origin, message.ring_id.seq, now):
            self._room.on_merge_detect(message, now)

    def _receive_join(self, datagram: bytes, now: float) -> None:
        join = codec.decode(datagram)
        assert isinstance(join, Join)
        self.counters.joins_received += 1
        if join.is_leave:
            self.left_out.end(join.origin)
        if self._resuming and not join.is_leave:
            self.drop("join older than my pause")
        elif (
            not self._is_stranger(join.origin, join.ring_seq, now)
            and self._hint_fits(join)
            and self._believes(join, now)
        ):
            for node_id in set(join.candidates).difference(join.failed):
                self.left_out.end(node_id)  # rather with it than at odds with a member
            if join.is_leave:
                self._heard.discard(join.origin)
                self.gone.add(join.origin)
                self._departed.add(join.origin)
            else:
                self._heard.add(join.origin)
                self.gone.discard(join.origin)
                self._departed.discard(join.origin)
            self._name_unlisted(join)
            self._room.on_join(join, now)

    def _receive_commit_token(self, datagram: bytes, now: float) -> None:
        token = codec.decode(datagram)
        assert isinstance(token, CommitToken)
        self.counters.commit_tokens_received += 1
        if token.ring_id.seq > LIMIT:
            self.drop("impossible ring sequence")
        else:
            self._room.on_commit_token(token, now)

    def _receive_hold_cancel(self, datagram: bytes, now: float) -> None:
        message = codec.decode(datagram)
        assert isinstance(message, HoldCancel)
        self._room.on_hold_cancel(message, now)

    def _receive_loopback(self, now: float) -> None:
        """What I sent to myself: the token of a ring of one."""
        if self._loopback:
            self.receive(self._loopback.popleft(), now)
        if self._loopback:
            self.timers.arm(Timer.LOOPBACK, -inf)

    def _is_stranger(self, origin: int, ring_seq: int, now: float) -> bool:
        """Whether a datagram of another ring comes from a node that cannot be a member; named once (G4).

        What I have sent in a former life comes late, or again from a neighbour; it names a ring below my first one. So
        do those of a double that began with a lower number; but they do not end.
        """
        if origin == self.node_id and ring_seq < self._first_ring_seq and now < self._haunted_until:
            self.drop("own packet of a former life")
            return True
        if origin == self.node_id:
            self.drop("duplicate node id")
            if self.counters.drops["duplicate node id"] >= _PROOF:
                self._name_double()
            return True
        if origin not in self._listed:
            self.drop("node not in the nodelist")
            text = f"node {origin} is heard but not in the nodelist; add it there, or give it another port"
            self.notice("not in the nodelist", text)
            return True
        if ring_seq > LIMIT:
            self.drop("impossible ring sequence")
            self.notice(
                "impossible ring sequence",
                f"node {origin} has a ring sequence that nobody can count on from, and is ignored: "
                f"stop it, and remove its file ringid_{origin}",
            )
            return True
        if origin in self.ring.members and not is_near(ring_seq, self._own_seq):
            self.drop("implausible ring sequence")  # it is in my ring, so it cannot have come so far
            return True
        if self.left_out.has(origin, now) or self.left_out.has(self.node_id, now):
            self.drop("node left out for a while")
            return True
        return False

    @property
    def _own_seq(self) -> int:
        """The ring sequence that is mine beyond doubt."""
        return (self._doubted or self.ring_id).seq

    def _believes(self, join: Join, now: float) -> bool:
        """Whether a Join's ring sequence is believed (rulings, G18)."""
        if is_near(join.ring_seq, self._own_seq):
            self._claims.forget(join.origin)
            self.highest_ring_seq = max(self.highest_ring_seq, join.ring_seq)
        elif not self._claims.hear(join.origin, join.ring_seq, now):
            self.drop("implausible ring sequence")
            return False
        return True

    def _name_double(self) -> None:
        text = (
            f"another node uses node id {self.node_id}, which is mine: it sent what I did not send. "
            f"Give each node an id of its own in the nodelist"
        )
        if self._had_company:
            self.notice("duplicate node id", text)
        else:
            self.fail(text)

    def _name_unlisted(self, join: Join) -> None:
        unlisted = set(join.candidates) - set(join.failed) - self._listed
        if unlisted:
            names = ", ".join(map(str, sorted(unlisted)))
            self.notice(
                "another nodelist",
                f"node {join.origin} would have {names} in the ring, which the nodelist here does not have: they will "
                "not agree. Have the same nodelist at all nodes",
            )

    def miss_company(self, now: float) -> None:
        """Tell the administrator if nobody has answered for long since the start, though others are listed."""
        if now >= self._answers_by and not self.counters.joins_received and len(self._listed) > 1:
            own = self.config.node(self.node_id)
            self._answers_by = inf
            self._tell(
                f"no other node has answered since the start: do they run, have their nodelists node {own.node_id} at "
                f"{own.address}, does a firewall stop UDP port {own.port}?"
            )

    def _hint_fits(self, join: Join) -> bool:
        """Whether what a Join says of its sender's settings fits mine; a Corosync node says nothing (D1)."""
        hint = codec.decode_hint(join.hint) if join.hint else None
        if hint is None:
            return True
        if hint.cluster_name != self.config.cluster_name:
            self.drop("node of another cluster")
            self.notice(
                "another cluster",
                f"node {join.origin} belongs to cluster {hint.cluster_name!r}, this node to "
                f"{self.config.cluster_name!r}: it is ignored. Set the same cluster_name, or another port",
            )
            return False
        if hint.frame_size > self.config.max_frame:
            self._name_frame_size(join.origin, hint.frame_size)
        return True

    def _name_large_frame(self, datagram: bytes) -> None:
        header = codec.MCAST_HEADER if codec.mcast_is_encapsulated(datagram) else 0
        if len(datagram) - header > self.config.max_frame:
            self._name_frame_size(codec.mcast_origin(datagram), len(datagram) - header)

    def _name_frame_size(self, origin: int, size: int) -> None:
        if origin not in self._sizes_named and len(self._sizes_named) < MAX_NODES:
            self._sizes_named.add(origin)
            self._tell(
                f"node {origin} sends frames of {size} bytes, larger than netmtu {self.config.netmtu} allows here "
                f"({self.config.max_frame}): set the same netmtu on all nodes"
            )

    # What the states call.

    def drop(self, cause: str) -> None:
        """Count something that was dropped."""
        self.counters.drops[cause] += 1
        if self.trace is not None:
            self.trace("drop", cause)

    def notice(self, cause: str, text: str) -> None:
        """Tell the administrator, or count it: of each cause one text a minute, since anybody may cause them."""
        self._tell_counted()
        if self._seldom.may_tell(cause, text, self._now):
            self._tell(text)

    def _tell_counted(self) -> None:
        for text, missed in self._seldom.counted(self._now):
            self._tell(f"{text} ({missed} times more in a minute)")

    def _tell(self, text: str) -> None:
        self._notices.append(text)
        if self.trace is not None:
            self.trace("notice", text)

    def give_up(self, node_id: int, reason: str, frame: bytes | None, now: float, *, pure: bool) -> None:
        """Go on without a member that does not receive, or is not received, which may be this one (A9).

        Where all are ours it stays away for a while: it would come back at once, and the next ring would stand still.
        """
        text = f"{reason}: the ring goes on without node {node_id}"
        if pure:
            text += f" for {self.left_out.next_term(node_id, now):.0f} s"
        text += ". Look for lost packets on its network"
        if frame is not None:
            packet = len(frame) + IP_UDP_HEADERS[self.config.ip_family]
            text += f", and whether all of it carries packets of {packet} bytes (netmtu {self.config.netmtu})"
        self._tell(text)  # each time: it ends a ring
        self.failed.add(node_id)
        if node_id == self.node_id:
            self.receive_failed = reason, now
        elif pure:
            self.left_out.add(node_id, now, reason)
        self.gather(Cause.FAILED_TO_RECEIVE, now)

    def go_alone(self) -> None:
        """The others have agreed to go on without me.

        I shall hear them a little sooner than they me: who is not answered loses a consensus timeout.
        """
        assert self.receive_failed is not None
        if self.ring.pure:
            reason, since = self.receive_failed
            self.left_out.add(self.node_id, since, reason, early=3 * self.config.consensus)
        self.receive_failed = None
        self.candidates = {self.node_id}
        self.failed = set()

    def fail(self, reason: str) -> None:
        """Give up for good."""
        self._failure = reason
        self._end(Cause.FAILED)

    def _end(self, cause: Cause) -> None:
        self._enter(Room(self), State.LEFT, cause)
        self.timers.disarm_all()
        self.filing = None

    def _enter(self, room: Room, state: State, cause: Cause) -> None:
        """The only change of state."""
        old = self._room.state
        assert TRANSITIONS[old].get(cause) is state, f"no way from {old} to {state} because {cause.value}"
        self.counters.entered[f"{state.value}: {cause.value}"] += 1
        if self.trace is not None:
            self.trace("enter", f"{state.value}: {cause.value}")
        self._room.leave()
        room.state = state
        self._room = room

    def gather(self, cause: Cause, now: float) -> None:
        """Begin a round of Joins; an attempt to form a ring is given up with it."""
        if self._interrupted is None and self._room.state is State.OPERATIONAL:
            self._interrupted = cause, now - self._token_timeout if cause is Cause.TOKEN_LOST else now
        if self.state in (State.STARTING, State.OPERATIONAL):
            self.since = now
        room = Gather(self)
        self._enter(room, State.GATHER, cause)
        if self._doubted is not None:
            self.ring_id, self._doubted = self._doubted, None
        if self.new_ring is not None:
            self.new_ring = None
            self.filing = None
        room.enter(now)

    def gather_with(self, join: Join, cause: Cause, now: float) -> None:
        """Begin a round of Joins with what this one knows, and hear it as its first."""
        self.merge(join)
        self.gather(Cause.LEAVE_RECEIVED if join.is_leave else cause, now)
        self.hear(join, now)

    def hear(self, join: Join, now: float) -> None:
        """Count a Join for the round that it has led to."""
        if self.state is State.GATHER:
            self._room.on_join(join, now)

    def knows_all_of(self, join: Join) -> bool:
        """Whether a Join names nobody, as candidate or as failed, whom I do not name myself."""
        return self.candidates.issuperset(join.candidates) and self.failed.issuperset(join.failed)

    def merge(self, join: Join) -> bool:
        """Take over whom a Join names (Corosync memb_join_process); False if that changes nothing.

        Corosync begins a new round also when the Join names failed nodes that it does not believe in, and so does its
        sender when it hears of that: a storm in which nobody is ever judged.
        """
        if join.origin in self.failed:
            return False
        if len(self._listed.union(self.candidates, self.failed, join.candidates, join.failed)) > MAX_NODES:
            self.drop("join that names too many processors")  # mine could not be sent any more
            return False
        known = len(self.candidates) + len(self.failed)
        self.candidates.update(join.candidates)
        if self.node_id in join.failed:
            self.failed.add(join.origin)
        elif join.origin in self.ring.members:
            self.failed.update(join.failed)
        else:
            # Of those whom I have not heard myself I know nothing better than this stranger. A node that starts while
            # another one leaves would otherwise disagree with the rest until the consensus timeout.
            self.failed.update(set(join.failed) - self._heard - set(self.ring.members))
        return len(self.candidates) + len(self.failed) > known

    def is_news_of_attempt(self, join: Join) -> bool:
        """Whether a Join that comes in Commit or Recovery means that the attempt has broken for its sender.

        A leave always does: it carries the number of the ring that its sender was in when it left.
        """
        assert self.new_ring is not None
        if join.origin in self.new_ring.members and (join.is_leave or join.ring_seq >= self.ring_id.seq):
            return True
        self.drop("stale join")
        return False

    def commit(self, token: CommitToken, cause: Cause, now: float) -> None:
        """Begin to form the ring of this commit token."""
        room = Commit(self)
        self._enter(room, State.COMMIT, cause)
        room.enter(token, now)

    def begin_ring(self, ring_id: RingId, members: tuple[int, ...]) -> None:
        """Make the ring of the commit token mine, and its number durable before anything more is sent.

        One that is far above mine may be anybody's word. It is not stored, and mine again is what was, unless its
        representative finds that all members take part, or the ring is installed here.
        """
        if not is_near(ring_id.seq, self.ring_id.seq):
            self._doubted = self.ring_id
        self.ring_id = ring_id
        self.new_ring = self.filing = self._new_ring(ring_id, members)
        self._ring_id_bytes = self.new_ring.id_bytes
        if self._doubted is None:
            self._confirm_ring()

    def next_ring_seq(self, members: Iterable[int]) -> int | None:
        """The sequence of the next ring of these members; None if the numbers are used up."""
        ring_seq = max(self.highest_ring_seq, self._claims.highest(members)) + 4
        if ring_seq <= LIMIT:
            return ring_seq
        text = "the ring sequences are used up: stop all nodes, and remove their files ringid_*"
        self.notice("no ring sequence", text)
        return None

    def _confirm_ring(self) -> None:
        self._doubted = None
        self._ring_seq_to_store = self.ring_id.seq
        self.highest_ring_seq = max(self.highest_ring_seq, self.ring_id.seq)

    def recover(self, token: CommitToken, now: float) -> None:
        """The commit token is full: bring the new ring into being.

        Its representative knows then that all members take part, since nobody else makes a commit token in its name.
        """
        assert self.new_ring is not None
        if self._doubted is not None and self.new_ring.is_representative:
            self._confirm_ring()
        room = Recovery(self)
        self._enter(room, State.RECOVERY, Cause.COMMIT_TOKEN_FULL)
        room.enter(token, now)

    def install(self, ring: Ring, largest_pause: float, now: float) -> None:
        """Put the new ring in the old one's place; its members' longest pause stretches the token timeout (F1)."""
        if self._doubted is not None:
            self._confirm_ring()
        self.ring = ring
        self.new_ring = None
        self.candidates = set(ring.members)
        self.failed = set()
        self._heard = {self.node_id}
        self.gone = set()
        self.obligations = set()
        self.receive_failed = None
        self.stalled_by = 0
        self._had_company = self._had_company or len(ring.members) > 1
        self.packer.restart()
        self.sync_packer.drop_unsent()
        self.syncing = True
        self._last_visit = inf
        self._token_timeout = self.config.token
        if ring.pure and not self.config.token_configured:
            # A longer pause than the timeout has cost its node the ring anyway; it must not cost the others hours.
            pause = min(largest_pause, self.config.token)
            self._token_timeout = max(self.config.token, _PAUSE_FACTOR * pause)
        self.counters.rings_installed += 1
        self.since = now
        room = Operational(self)
        self._enter(room, State.OPERATIONAL, Cause.RECOVERED)
        room.enter()

    def note_hellos(self, hellos: dict[int, Hello]) -> None:
        """Name members whose frames are larger than fits here."""
        for origin, hello in hellos.items():
            if hello.frame_size > self.config.max_frame:
                self._name_frame_size(origin, hello.frame_size)

    def note_visit(self, now: float) -> None:
        """Count an accepted visit of the token, and how long the last rotation took.

        One that took much longer than those before tells of a lost token: told in full, losses would have the next ones
        noticed later and later.
        """
        self.counters.tokens_received += 1
        if self._last_visit < now:
            longest = max(_SOON, _LONGER * self._rotation_time)
            self._rotation_time += (min(now - self._last_visit, longest) - self._rotation_time) / 8
        self._last_visit = now

    @property
    def _overdue_after(self) -> float:
        """Seconds after which the token of a pure ring that does not rest should have come back (F4)."""
        return min(max(_SOON, _ROTATIONS_TO_MISS * self._rotation_time), self.config.token_retransmit)

    def next_seqnos(self, count: int) -> Sequence[int]:
        """So many numbers of my own running count of multicasts, which nobody reads."""
        seqnos = row(self._this_seqno, count)
        self._this_seqno = after(self._this_seqno, count)
        return seqnos

    # Sending.

    def _send(self, target: int, datagram: bytes) -> None:
        if target == self.node_id:
            if len(self._loopback) < _PENDING_LOOPBACK:
                self._loopback.append(datagram)
                self.timers.arm(Timer.LOOPBACK, -inf)
        else:
            self._datagrams.append((target, [datagram]))

    def send_to_all(self, train: list[bytes]) -> None:
        """Send the frames of one visit to every other node."""
        self._datagrams.append((ALL, train))

    def send_message_to_all(self, message: Message) -> None:
        """Send one packet to every other node."""
        self._datagrams.append((ALL, [codec.encode(message)]))

    def send_join(self) -> None:
        """Tell all whom I would have in the next ring."""
        self.counters.joins_sent += 1
        hint = Hint(self.config.cluster_name, self.config.frame_size, self.own_features)
        self.send_message_to_all(
            Join(
                sender=self.node_id,
                origin=self.node_id,
                ring_seq=self.ring_id.seq,
                candidates=tuple(sorted(self.candidates)),
                failed=tuple(sorted(self.failed)),
                hint=codec.encode_hint(hint),
            )
        )

    def forward_commit_token(self, token: CommitToken, now: float) -> None:
        """Pass a commit token on to my successor in the ring being formed."""
        ring = self.new_ring
        assert ring is not None
        token.token_seq = after(token.token_seq)
        token.sender = self.node_id
        self.commit_token_seq = token.token_seq
        ring.last_token = codec.encode(token)
        self.counters.commit_tokens_sent += 1
        self._send(ring.successor, ring.last_token)
        self.timers.arm(Timer.TOKEN_LOSS, now + self._token_timeout)
        self._arm_resend(self.config.token_retransmit, now)

    def has_gone_round(self, token: CommitToken) -> bool:
        """Whether all others have passed the commit token on since I did: what comes late from before has not (A8)."""
        return up_to(after(self.commit_token_seq, len(token.members) - 1), token.token_seq)

    def forward_token(self, ring: Ring, token: Token, now: float) -> None:
        """Pass the token on."""
        token.token_seq = after(token.token_seq)
        token.sender = self.node_id
        ring.last_token = codec.encode(token)
        self.counters.tokens_sent += 1
        self._send(ring.successor, ring.last_token)
        if ring.held_back:
            self.counters.multicasts_behind_token += len(ring.held_back)
            burst = self.burst
            for start in range(0, len(ring.held_back), burst):
                self.send_to_all(ring.held_back[start : start + burst])
            ring.held_back = []
        resend_after = self.config.token_retransmit
        if ring.token_held and ring.is_quiet(token):
            self._last_visit = inf  # it will rest, which is no rotation
        elif ring.pure:
            resend_after = self._overdue_after
        self.timers.arm(Timer.TOKEN_LOSS, now + self._token_timeout)
        self._arm_resend(resend_after, now)

    def rest_token(self, ring: Ring, token: Token, now: float) -> None:
        """Keep the token of an idle ring for a while."""
        ring.resting = token
        self._last_visit = inf
        self.timers.arm(Timer.TOKEN_HOLD, now + self.config.hold)
        self.timers.arm(Timer.TOKEN_LOSS, now + self._token_timeout)
        self.timers.disarm(Timer.TOKEN_RETRANSMIT)

    def _arm_resend(self, seconds: float, now: float) -> None:
        self._resend_after = seconds
        self.timers.arm(Timer.TOKEN_RETRANSMIT, now + seconds)

    def resend_token(self, now: float) -> None:
        """Send the last token or commit token again; whoever has it already drops it."""
        ring = self.new_ring or self.ring
        if ring is self.ring and not ring.pure:
            self._make_harmless(ring)
        self.counters.tokens_sent += 1
        self._send(ring.successor, ring.last_token)
        self._arm_resend(min(2 * self._resend_after, self.config.token_retransmit), now)

    def _make_harmless(self, ring: Ring) -> None:
        """Let a copy of the token claim no more than what is safe.

        A Corosync node takes a copy for a second rotation before it notices, and forgets messages that only those
        before it have; when the token or they got no further, nobody behind it can ever have them (docs/trials.md).
        For whom the copy is the first, the aru is low for one rotation: mine to raise again, and nothing that I
        forwarded on this visit may count toward SAFE.
        """
        if ring.forwarded_aru is not None and before(ring.safe_line, ring.forwarded_aru):
            token = codec.decode(ring.last_token)
            assert isinstance(token, Token)
            token.aru = ring.forwarded_aru = ring.safe_line
            token.aru_holder = self.node_id
            ring.last_token = codec.encode(token)

    def _cancel_hold(self) -> None:
        """I have something to send while the token rests: have it move."""
        ring = self.ring
        if self._room.state is not State.OPERATIONAL:
            return
        self.stirred = True
        ring.token_held = False
        self.counters.holds_cancelled += 1
        if not ring.pure:
            self.send_message_to_all(HoldCancel(self.node_id, ring.id))  # which real nodes reset their counts for
            ring.unchanged = 0
        if ring.resting is not None:
            self.timers.arm(Timer.TOKEN_HOLD, -inf)
        elif ring.pure and ring.keeper != self.node_id:
            self._call_again_after = self._overdue_after
            self.timers.arm(Timer.CALL, -inf)

    def call_for_token(self, now: float) -> None:
        """Ask the keeper of a pure ring to send the token on, and again if it does not come: that may be lost, too."""
        ring = self.ring
        self._send(ring.keeper, codec.encode(HoldCancel(self.node_id, ring.id)))
        self.timers.arm(Timer.CALL, now + self._call_again_after)
        self._call_again_after = min(2 * self._call_again_after, self.config.token_retransmit)

    # Delivering.

    def flush(self) -> None:
        """Put what may be delivered on the installed ring in line: gapless, and no further than what is unsafe.

        Hot: once for each batch, with one look at each frame.
        """
        ring = self.ring
        window = ring.window
        if ring.delivered == window.aru:
            return
        frames = window.frames
        batch: list[bytes] = []
        for seq in row_to(ring.delivered, window.aru):
            frame = frames[seq]
            if frame[GUARANTEE_OFFSET] and before(ring.safe_line, seq):
                break
            batch.append(frame)
            ring.delivered = seq
        self.deliver_frames(ring, batch, Level.SAFE)

    def deliver_frames(self, ring: Ring, frames: list[bytes], safe_level: Level) -> None:
        """Put frames in line; SAFE messages among them are told as `safe_level`."""
        if frames:
            self._pending.append((ring, frames, safe_level))

    def deliver(self, configuration: Configuration) -> None:
        """Put a configuration in line."""
        self._pending.append(configuration)

    def _deliveries(self) -> Iterator[Delivery]:
        """Assemble and hand on what is in line; which stream a frame belongs to is known only then."""
        pending = self._pending
        while pending:
            item = pending.popleft()
            if isinstance(item, tuple):
                yield from self._assemble(*item)
            else:
                if isinstance(item, RegularConfiguration):
                    self._delivered_ring_id = item.ring_id
                    self._assembler.keep_only(item.transitional)
                    self._sync_assembler.keep_only(item.transitional)
                yield item

    def _assemble(self, ring: Ring, frames: list[bytes], safe_level: Level) -> Iterator[Messages]:
        """The messages of consecutive frames. Hot: one turn for each frame that begins or ends a message."""
        ring_id = ring.id
        labels = ring.labels
        newest = FRAME_PLAIN if labels is None else FRAME_COMPACT
        agreed = Level.AGREED
        place = 0
        while place < len(frames):
            assembler = self._assembler if self._delivered_ring_id is None else self._sync_assembler
            if middles := assembler.take_middles(frames, place):
                place += middles
                continue
            frame = frames[place]
            place += 1
            origin, seq = codec.mcast_origin_and_seq(frame)
            if codec.mcast_is_encapsulated(frame):
                continue  # belongs to the recovery of this ring
            try:
                messages = assembler.take(origin, frame, newest)
            except MalformedDatagram as fault:
                self.drop(fault.cause)
                continue
            level = safe_level if frame[GUARANTEE_OFFSET] else agreed
            if labels is None:
                if messages:
                    yield Messages(origin, ring_id, seq, level, messages)
                continue
            for label, run in labels.runs(origin, frame, messages, self.drop):
                yield Messages(origin, ring_id, seq, level, run, label)

    def _new_ring(self, ring_id: RingId, members: tuple[int, ...]) -> Ring:
        flow = FlowControl(self.config.window_size, self.config.max_messages)
        return Ring(ring_id, members, self.node_id, self.first_seq, flow)
