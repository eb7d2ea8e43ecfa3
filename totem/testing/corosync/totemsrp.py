"""The model of totemsrp, Corosync's single-ring protocol. Its faults are listed in the package's text."""

from __future__ import annotations

import enum
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from totem.config import Config
from totem.configuration import (
    NO_RING,
    Delivery,
    Guarantee,
    Level,
    Messages,
    RegularConfiguration,
    RingId,
    TransitionalConfiguration,
)
from totem.errors import MalformedDatagram, MessageTooLong, QueueFull
from totem.testing.corosync.sq import MASK, QUEUE_RTR_ITEMS_SIZE_MAX, SortQueue, sq_lt_compare, sq_lte_compare
from totem.testing.corosync.totempg import MESSAGE_SIZE_MAX, PG_HEADER, Totempg, iovec_of
from totem.wire import codec
from totem.wire.messages import CommitEntry, CommitToken, HoldCancel, Join, MergeDetect, Token

ALL = 0
"""Target of a multicast."""
LOOPBACK = 20e-6
"""Seconds that a packet to the node itself takes; `CorosyncModel.loopback` can be set to something else."""

JOIN_STORM = 20
"""Consecutive joins without news that are answered at once."""

RETRANSMIT_ENTRIES_MAX = 30
FRAME_SIZE_MAX = 65536
MCAST_HEADER = codec.MCAST_HEADER


def subtract(one: Iterable[int], other: Iterable[int]) -> list[int]:
    """Return what is in one set, in its order, and not in the other."""
    out = set(other)
    return [node_id for node_id in one if node_id not in out]


class MembState(enum.Enum):
    """`memb_state`, and what comes after a leave."""

    OPERATIONAL = enum.auto()
    GATHER = enum.auto()
    COMMIT = enum.auto()
    RECOVERY = enum.auto()
    LEFT = enum.auto()


class ModelTimer(enum.Enum):
    """The timers, by the setting that gives their length (`pause` is a fifth of token)."""

    PAUSE = "pause"
    TOKEN_RETRANSMIT = "token_retransmit"
    HOLD = "hold"
    MERGE = "merge"
    JOIN = "join"
    CONSENSUS = "consensus"
    TOKEN = "token"


@dataclass(slots=True)
class ModelReady:
    """What must be done: store, send, deliver, in this order; the same as the `Ready` of a `Processor`."""

    ring_seq: int | None
    datagrams: list[tuple[int, list[bytes]]]
    deliveries: Iterator[Delivery]
    failure: str | None = None


class _Mcast(NamedTuple):
    """A multicast on its way from totemsrp to totempg."""

    ring_id: RingId
    seq: int
    datagram: bytes


class _Change(NamedTuple):
    """A transitional configuration on its way: absent at a node's first ring."""

    configuration: TransitionalConfiguration | None
    left: tuple[int, ...]


_SWITCH_BUFFERS = object()
"""The call of totemsrp_waiting_trans_ack_cb(1) on its way."""


class CorosyncModel:
    """One real node, as far as the wire and the delivered messages show it; see the package's text.

    `dice` is not needed. `first_seq` and `first_token_seq` are SEQNO_START_MSG and SEQNO_START_TOKEN, which are 0 in a
    real node.
    """

    pure = False
    features = 0
    loopback = LOOPBACK
    frees_on_repeated_tokens = True
    """Whether the model has the one fault that other nodes cannot repair: a token that comes twice is taken for two
    rotations. Then messages are freed that other nodes lack, and these never get them. A world that must keep all
    promises goes without it."""

    def __init__(
        self,
        config: Config,
        node_id: int,
        *,
        ring_seq: int,
        dice: random.Random,
        first_seq: int = 0,
        first_token_seq: int = 0,
        trace: Callable[[str, str], None] | None = None,
    ) -> None:
        self.config = config
        self.node_id = node_id
        self.deadline = float("inf")
        self.stats: Counter[str] = Counter()
        self._trace = trace
        self._start_msg = first_seq
        self._start_token = first_token_seq

        # Ids and lists.
        self.state = MembState.OPERATIONAL
        self.my_ring_id = RingId(node_id, ring_seq + 1)
        self.my_old_ring_id = self.my_ring_id
        self.token_ring_id_seq = self.my_ring_id.seq
        self.my_proc_list: list[int] = []
        self.my_failed_list: list[int] = []
        self.consensus_list: set[int] = set()
        self.my_memb_list: list[int] = []
        self.my_new_memb_list: list[int] = []
        self.my_trans_memb_list: list[int] = []
        self.failed_to_recv = False
        self._fruitless_joins = 0

        # The two rings.
        self.regular_sort_queue = SortQueue(first_seq)
        self.recovery_sort_queue = SortQueue(first_seq)
        self.my_aru = first_seq
        self.my_high_seq_received = first_seq
        self.my_high_delivered = first_seq
        self.last_released = first_seq
        self.old_ring_state_saved = False
        self.old_ring_state_aru = first_seq
        self.old_ring_state_high_seq_received = first_seq

        # Recovery.
        self.commit_token: CommitToken
        self.my_install_seq = first_seq
        self.my_set_retrans_flg = False
        self.my_retrans_flg_count = 0
        self.my_rotation_counter = 0
        self.originated_orf_token = False

        # The token.
        self.orf_token_discard = False
        self.orf_token_retransmit = b""
        self.my_token_seq = (first_token_seq - 1) & MASK
        self.my_last_seq = 0
        self.my_last_aru = 0
        self.my_seq_unchanged = 0
        self.my_token_held = False
        self.my_aru_count = 0
        self.my_trc = self.my_pbl = self.my_cbl = 0
        self.global_seqno = 0

        # What waits for the token.
        net_mtu = config.netmtu - 2 * MCAST_HEADER
        self.message_queue_max = 4 * MESSAGE_SIZE_MAX // net_mtu
        self.new_message_queue: deque[bytes] = deque()
        self.new_message_queue_trans: deque[bytes] = deque()
        self.retrans_message_queue: deque[bytes] = deque()
        self.waiting_trans_ack = True
        self.totempg = Totempg(net_mtu - PG_HEADER, self._totemsrp_mcast, self._totemsrp_avail)
        self._held_back: deque[bytes] = deque()
        """Messages of clients that are told to try again until sync is complete."""
        self._installed: RingId | None = None
        """Ring of the last regular configuration that totemsrp has passed on."""
        self._delivered: RingId | None = None
        """Ring of the last regular configuration that has reached the application."""

        # The shell's side.
        self._started = False
        self._now = 0.0
        self._timers: dict[ModelTimer, float] = {}
        self._pause_timestamp = 0.0
        self._flushing = False
        self._token_target = node_id
        self._loopback: deque[tuple[float, bytes]] = deque()
        """Packets to itself, each with the time at which it arrives."""
        self._ring_seq: int | None = None
        self._datagrams: list[tuple[int, list[bytes]]] = []
        self._deliverable: deque[object] = deque()
        self._handlers: dict[type, Callable[..., None]] = {
            Token: self._message_handler_orf_token,
            MergeDetect: self._message_handler_memb_merge_detect,
            Join: self._message_handler_memb_join,
            CommitToken: self._message_handler_memb_commit_token,
            HoldCancel: self._message_handler_token_hold_cancel,
        }
        self._expired: dict[ModelTimer, Callable[[], None]] = {
            ModelTimer.PAUSE: self._timer_function_pause,
            ModelTimer.TOKEN_RETRANSMIT: self._timer_function_token_retransmit,
            ModelTimer.HOLD: self._timer_function_token_hold_retransmit,
            ModelTimer.MERGE: self._timer_function_merge_detect,
            ModelTimer.JOIN: self._timer_function_gather_join,
            ModelTimer.CONSENSUS: self._memb_state_consensus_timeout_expired,
            ModelTimer.TOKEN: self._timer_function_orf_token,
        }

    # The interface of a Processor.

    @property
    def ring_id(self) -> RingId:
        """The present ring's id, also of an attempt."""
        return self.my_ring_id

    @property
    def members(self) -> tuple[int, ...]:
        """Members of the installed ring."""
        return tuple(self.my_memb_list)

    @property
    def room(self) -> int:
        """Bytes of one message that would be accepted now."""
        frames = self.message_queue_max - len(self.new_message_queue) - self._frames_held_back()
        return max(0, frames * self.totempg.bytes_a_frame - 1)

    def start(self, now: float) -> None:
        """Find the interface up, load the ring id, and look for others."""
        self._now = now
        self._started = True
        self._timer_function_pause()
        self._memb_state_gather_enter("interface change")
        self._settle()

    def receive_all(self, datagrams: Iterable[bytes], now: float) -> None:
        """Take datagrams in the order in which they came."""
        for datagram in datagrams:
            self.receive(datagram, now)

    def receive(self, datagram: bytes, now: float) -> None:
        """Take a datagram."""
        self._now = now
        self._receive_own()
        self._receive(datagram)
        self._settle()

    def overdue(self, now: float) -> bool:
        """Return whether the process was not scheduled for more than half the token timeout.

        The first join that is received then is thrown away, and everything after it until `advance`.
        """
        return self._started and now - self._pause_timestamp > self.config.token / 2

    def advance(self, now: float) -> None:
        """Fire the timers that are due."""
        self._now = now
        self._flushing = False
        self._receive_own()
        timers = self._timers
        while timers:
            timer = min(timers, key=timers.__getitem__)
            if timers[timer] > now:
                break
            del timers[timer]
            self._expired[timer]()
        self._settle()

    def multicast(self, messages: Sequence[bytes], guarantee: Guarantee = Guarantee.AGREED) -> None:
        """Queue messages of clients; raise QueueFull, with nothing queued, if there is no room for all.

        While sync runs a real node lets its clients retry; the model holds the messages back for them.
        """
        if any(len(message) > MESSAGE_SIZE_MAX for message in messages):
            raise MessageTooLong(f"more than {MESSAGE_SIZE_MAX} bytes in one message kill a Corosync node")
        frames = sum(map(self.totempg.frames_for, map(len, messages)))
        if frames + self._frames_held_back() + len(self.new_message_queue) > self.message_queue_max:
            raise QueueFull
        self._held_back.extend(messages)
        self._let_clients_send()
        self._settle()

    def multicast_sync(self, messages: Sequence[bytes]) -> None:
        """Queue messages of the sync layer."""
        for message in messages:
            self._mcast(message)
        self._settle()

    def sync_complete(self, ring_id: RingId) -> None:
        """Leave the trans queue and the trans buffers, each only if it still serves that ring."""
        if ring_id == self._delivered:
            self.totempg.waiting_transack = False
        if ring_id == self._installed:
            self.waiting_trans_ack = False
            self._let_clients_send()
        self._settle()

    def leave(self, now: float) -> None:
        """Announce the leave, and end."""
        self._now = now
        if not self._started or self.state is MembState.LEFT:
            return
        active = subtract(self.my_proc_list, (self.node_id,))
        self._merge(self.my_failed_list, (self.node_id,))
        leave = Join(0, self.node_id, self.my_ring_id.seq, tuple(active), tuple(self.my_failed_list))
        self._mcast_send(codec.encode(leave))
        self.state = MembState.LEFT
        self._started = False
        self._timers.clear()
        self._loopback.clear()
        self._settle()

    def take(self) -> ModelReady:
        """Return what is ready."""
        ready = ModelReady(self._ring_seq, self._datagrams, self._deliver())
        self._ring_seq = None
        self._datagrams = []
        return ready

    def _deliver(self) -> Iterator[Delivery]:
        while self._deliverable:
            match self._deliverable.popleft():
                case _Mcast() as mcast:
                    sender = codec.mcast_origin(mcast.datagram)
                    messages = self.totempg.deliver(sender, mcast.datagram)
                    if messages:
                        yield Messages(sender, mcast.ring_id, mcast.seq, Level.AGREED, messages)
                case _Change(configuration, left):
                    if configuration:
                        yield configuration
                    self.totempg.drop_assemblies(left)
                case RegularConfiguration() as configuration:
                    self._delivered = configuration.ring_id
                    yield configuration
                case _:
                    self.totempg.waiting_transack = True

    # Around the machine: packets, timers, clients.

    def _settle(self) -> None:
        self.deadline = min(self._timers.values(), default=float("inf"))
        if self._loopback:
            self.deadline = min(self.deadline, self._loopback[0][0])

    def _reset(self, timer: ModelTimer) -> None:
        self._timers[timer] = self._now + (
            self.config.token / 5 if timer is ModelTimer.PAUSE else getattr(self.config, timer.value)
        )

    def _cancel(self, timer: ModelTimer) -> None:
        self._timers.pop(timer, None)

    def _receive_own(self) -> None:
        while self._loopback and self._loopback[0][0] <= self._now:
            self._receive(self._loopback.popleft()[1])

    def _receive(self, datagram: bytes) -> None:
        if not self._started or self._flushing:
            return
        try:
            if codec.packet_type(datagram) == codec.TYPE_MCAST:
                if len(datagram) < MCAST_HEADER:  # all that a real node looks at
                    raise MalformedDatagram("short mcast")
                self._message_handler_mcast(datagram)
            else:
                message = codec.decode(datagram)
                self._handlers[type(message)](message)
        except MalformedDatagram as malformed:
            self.stats[malformed.cause] += 1

    def _mcast_send(self, datagram: bytes) -> None:
        self._datagrams.append((ALL, [datagram]))
        self._send_to_self(datagram)

    def _token_send(self, datagram: bytes) -> None:
        if self._token_target == self.node_id:
            self._send_to_self(datagram)
        else:
            self._datagrams.append((self._token_target, [datagram]))

    def _send_to_self(self, datagram: bytes) -> None:
        self._loopback.append((self._now + self.loopback, datagram))

    def _tell(self, what: str) -> None:
        if self._trace is not None:
            self._trace("corosync", what)

    def _assert(self, condition: bool, text: str) -> None:
        if not condition:
            raise AssertionError(f"real node {self.node_id} dies: {text} ({self.state.name}, ring {self.my_ring_id})")

    def _frames_held_back(self) -> int:
        return sum(map(self.totempg.frames_for, map(len, self._held_back)))

    def _let_clients_send(self) -> None:
        while not self.waiting_trans_ack and self._held_back:
            if self.totempg.frames_for(len(self._held_back[0])) > self._totemsrp_avail():
                return
            self._mcast(self._held_back.popleft())

    def _mcast(self, message: bytes) -> None:
        self._token_hold_cancel_send()
        self.totempg.mcast_msg(iovec_of(message))

    # Queues.

    @property
    def _queue_use(self) -> deque[bytes]:
        return self.new_message_queue_trans if self.waiting_trans_ack else self.new_message_queue

    @property
    def _sort_queue(self) -> SortQueue:
        return self.recovery_sort_queue if self.state is MembState.RECOVERY else self.regular_sort_queue

    def _totemsrp_mcast(self, frame: bytes) -> None:
        self._queue_use.append(frame)

    def _totemsrp_avail(self) -> int:
        return self.message_queue_max - len(self._queue_use)

    def _backlog_get(self) -> int:
        if self.state is MembState.RECOVERY:
            return len(self.retrans_message_queue)
        return len(self._queue_use) if self.state is MembState.OPERATIONAL else 0

    def _update_aru(self) -> None:
        items = self._sort_queue.items
        for _ in range((self.my_high_seq_received - self.my_aru) & MASK):
            if (self.my_aru + 1) & MASK not in items:
                break
            self.my_aru = (self.my_aru + 1) & MASK

    def _messages_free(self, token_aru: int) -> None:
        release_to = token_aru
        for bound in (self.my_last_aru, self.my_high_delivered):
            if sq_lt_compare(bound, release_to):
                release_to = bound
        if sq_lt_compare(release_to, self.last_released):
            return
        range_ = (release_to - self.last_released) & MASK
        self._assert(range_ < QUEUE_RTR_ITEMS_SIZE_MAX, f"{range_} messages to free at once")
        self.regular_sort_queue.release(release_to)
        self.last_released = release_to

    def _messages_deliver_to_app(self, end_point: int, deliver_memb_list: Sequence[int] | None = None) -> None:
        """Deliver up to the first gap; past gaps, but only what members of the list sent, if there is one."""
        first = self.my_high_delivered
        range_ = (end_point - first) & MASK
        self._assert(range_ < QUEUE_RTR_ITEMS_SIZE_MAX, f"{range_} messages to deliver at once")
        queue = self.regular_sort_queue
        for i in range(1, range_ + 1):
            seq = (first + i) & MASK
            if not queue.in_range(seq):
                break
            datagram = queue.items.get(seq)
            if datagram is None and deliver_memb_list is None:
                break
            self.my_high_delivered = seq
            if datagram is None:
                continue
            if deliver_memb_list is None or codec.mcast_origin(datagram) in deliver_memb_list:
                self._deliverable.append(_Mcast(codec.mcast_ring_id(datagram), seq, datagram))

    # Multicasts.

    def _message_handler_mcast(self, datagram: bytes) -> None:
        ring_id = codec.mcast_ring_id(datagram)
        if ring_id != self.my_ring_id:
            self._foreign_message(codec.mcast_origin(datagram))
            return
        encapsulated = codec.mcast_is_encapsulated(datagram)
        sort_queue = self.recovery_sort_queue if encapsulated else self.regular_sort_queue
        seq = codec.mcast_seq(datagram)
        if self.state is MembState.RECOVERY and not encapsulated:
            self.stats["plain message in recovery"] += 1
        if sort_queue.in_range(seq) and seq not in sort_queue.items:
            if sq_lt_compare(self.my_high_seq_received, seq):
                self.my_high_seq_received = seq
            sort_queue.add(seq, datagram)
        self._update_aru()
        if self.state is MembState.OPERATIONAL:
            self._messages_deliver_to_app(self.my_high_seq_received)

    def _foreign_message(self, system_from: int) -> None:
        if self.state is MembState.OPERATIONAL or (
            self.state is MembState.GATHER and system_from not in self.my_proc_list
        ):
            self._merge(self.my_proc_list, (system_from,))
            self._memb_state_gather_enter("foreign message")
        else:
            self.stats["rx_msg_dropped"] += 1

    def _message_handler_memb_merge_detect(self, merge_detect: MergeDetect) -> None:
        if merge_detect.ring_id != self.my_ring_id:
            self._foreign_message(merge_detect.origin)

    # The token.

    def _message_handler_orf_token(self, token: Token) -> None:
        if self.orf_token_discard:
            return
        # Faults kept: what follows is done for duplicates and tokens of other rings as well.
        if token.seq == self.my_last_seq:
            self.my_seq_unchanged += 1
            if ModelTimer.MERGE not in self._timers:
                self._reset(ModelTimer.MERGE)
        else:
            self.my_seq_unchanged = 0
            self._cancel(ModelTimer.MERGE)
            self._cancel(ModelTimer.HOLD)
        self.my_last_seq = token.seq
        representative = self.my_ring_id.representative == self.node_id
        self.my_token_held = self.my_seq_unchanged >= self.config.rest_after(pure=False) + representative
        repeated = token.ring_id != self.my_ring_id or sq_lte_compare(token.token_seq, self.my_token_seq)
        if self.state is MembState.OPERATIONAL and (not repeated or self.frees_on_repeated_tokens):
            self._messages_free(token.aru)
        if repeated:
            self.stats["token dropped"] += 1
            return
        self._token_visit(token, forward=not (representative and self.my_token_held))

    def _token_visit(self, token: Token, *, forward: bool) -> None:
        self._let_clients_send()
        self.totempg.callback_token_received()
        last_aru, self.my_last_aru = self.my_last_aru, token.aru

        transmits_allowed = self._fcc_calculate(token)
        mcasted_retransmit = self._orf_token_rtr(token, transmits_allowed)
        transmits_allowed = self._fcc_rtr_limit(token, transmits_allowed - mcasted_retransmit)
        mcasted_regular = self._orf_token_mcast(token, transmits_allowed)
        self._fcc_token_update(token, mcasted_retransmit + mcasted_regular)

        if sq_lt_compare(self.my_aru, token.aru) or token.aru_holder in (self.node_id, 0):
            token.aru = self.my_aru
            token.aru_holder = 0 if token.aru == token.seq else self.node_id
        if token.aru == last_aru and token.aru_holder:
            self.my_aru_count += 1
        else:
            self.my_aru_count = 0
        if self.my_aru_count > self.config.fail_recv_const and token.aru_holder == self.node_id:
            self.failed_to_recv = True
            self._merge(self.my_failed_list, (self.node_id,))
            self._memb_state_gather_enter("failed to receive")
            return

        self.my_token_seq = token.token_seq
        token.token_seq = (token.token_seq + 1) & MASK
        if self.state is MembState.RECOVERY:
            self._recovery_visit(token)
        self._orf_token_send(token, forward=forward)
        if self.state is MembState.OPERATIONAL:
            self._messages_deliver_to_app(self.my_high_seq_received)
        self._reset(ModelTimer.TOKEN)
        self._reset(ModelTimer.TOKEN_RETRANSMIT)
        if self.my_ring_id.representative == self.node_id and self.my_token_held:
            self._reset(ModelTimer.HOLD)

    def _recovery_visit(self, token: Token) -> None:
        if self.retrans_message_queue:
            if not token.retransmit_flag:
                token.retransmit_flag = 1
                self.my_set_retrans_flg = True
        elif token.retransmit_flag and self.my_set_retrans_flg:
            token.retransmit_flag = 0
            self.my_set_retrans_flg = False
        self.my_retrans_flg_count = 0 if token.retransmit_flag else self.my_retrans_flg_count + 1
        if self.my_retrans_flg_count == 2:
            self.my_install_seq = token.seq
        if self.my_retrans_flg_count >= 3 and sq_lte_compare(self.my_install_seq, token.aru):
            self.my_rotation_counter += 1
        else:
            self.my_rotation_counter = 0
        if self.my_rotation_counter == 2:
            self._memb_state_operational_enter()
            self.my_rotation_counter = 0
            self.my_retrans_flg_count = 0

    def _orf_token_send(self, token: Token, *, forward: bool) -> None:
        token.sender = self.node_id
        self.orf_token_retransmit = codec.encode(token)
        if forward:
            self._token_send(self.orf_token_retransmit)

    def _orf_token_send_initial(self) -> None:
        self.my_set_retrans_flg = bool(self.retrans_message_queue)
        token = Token(
            sender=self.node_id,
            ring_id=self.my_ring_id,
            seq=self._start_msg,
            token_seq=self._start_token,
            aru=(self._start_msg - 1) & MASK,
            aru_holder=self.node_id,
            retransmit_flag=int(self.my_set_retrans_flg),
        )
        self._orf_token_send(token, forward=True)

    def _fcc_calculate(self, token: Token) -> int:
        window_size = self.config.window_size
        transmits_allowed = min(self.config.max_messages, (window_size - token.fcc) & MASK)
        self.my_cbl = self._backlog_get()
        divisor = (token.backlog + self.my_cbl - self.my_pbl) & MASK
        if divisor:
            backlog_calc = (window_size * self.my_pbl & MASK) // divisor
            if backlog_calc:
                transmits_allowed = min(transmits_allowed, backlog_calc)
        return transmits_allowed

    def _fcc_rtr_limit(self, token: Token, transmits_allowed: int) -> int:
        ahead = QUEUE_RTR_ITEMS_SIZE_MAX - transmits_allowed - self.config.window_size
        self._assert(ahead >= 0, "window larger than the sort queue")
        if sq_lt_compare((self.last_released + ahead) & MASK, token.seq):
            return 0
        return transmits_allowed

    def _fcc_token_update(self, token: Token, msgs_transmitted: int) -> None:
        token.fcc = (token.fcc + msgs_transmitted - self.my_trc) & MASK
        token.backlog = (token.backlog + self.my_cbl - self.my_pbl) & MASK
        self.my_trc = msgs_transmitted
        self.my_pbl = self.my_cbl

    def _orf_token_rtr(self, token: Token, transmits_allowed: int) -> int:
        """Send again what other nodes request, then request what is missing here; return the number sent."""
        sort_queue = self._sort_queue
        kept = []
        mcasted = 0
        for ring_id, seq in token.requests:
            stored = sort_queue.items.get(seq) if sort_queue.in_range(seq) else None
            if mcasted < transmits_allowed and ring_id == self.my_ring_id and stored is not None:
                self._mcast_send(stored)
                self.stats["mcast_retx"] += 1
                mcasted += 1
            else:
                kept.append((ring_id, seq))
        token.requests = kept

        range_ = (token.seq - self.my_aru) & MASK
        self._assert(range_ < QUEUE_RTR_ITEMS_SIZE_MAX, f"{range_} messages between aru and the token's seq")
        for i in range(1, range_ + 1):
            seq = (self.my_aru + i) & MASK
            if len(kept) >= RETRANSMIT_ENTRIES_MAX or not sort_queue.in_range(seq):
                break
            if seq in sort_queue.items:
                continue
            sort_queue.miss_count[seq] += 1
            if sort_queue.miss_count[seq] < self.config.miss_count_const:
                continue
            if all(seq != requested for _, requested in kept):
                kept.append((self.my_ring_id, seq))
        return mcasted

    def _orf_token_mcast(self, token: Token, transmits_allowed: int) -> int:
        recovery = self.state is MembState.RECOVERY
        if recovery:
            self._reset(ModelTimer.TOKEN_RETRANSMIT)
        queue = self.retrans_message_queue if recovery else self._queue_use
        sort_queue = self._sort_queue
        ring_bytes = codec.ring_id_bytes(self.my_ring_id)
        mcasted = 0
        while queue and mcasted < transmits_allowed:
            token.seq = (token.seq + 1) & MASK
            datagram = codec.seal_mcast(
                self.node_id, token.seq, self.global_seqno, ring_bytes, 0, recovery, [queue.popleft()]
            )
            self.global_seqno += 1
            sort_queue.add(token.seq, datagram)
            self._mcast_send(datagram)
            self.my_high_seq_received = token.seq
            mcasted += 1
        self._update_aru()
        return mcasted

    def _token_retransmit(self) -> None:
        if self.orf_token_retransmit:
            self._token_send(self.orf_token_retransmit)

    def _token_hold_cancel_send(self) -> None:
        if self.my_token_held:
            self.my_token_held = False
            self._mcast_send(codec.encode(HoldCancel(self.node_id, self.my_ring_id)))

    def _message_handler_token_hold_cancel(self, hold_cancel: HoldCancel) -> None:
        if hold_cancel.ring_id == self.my_ring_id:
            self.my_seq_unchanged = 0
            if self.my_ring_id.representative == self.node_id:
                self._timer_function_token_retransmit()

    # Timers.

    def _timer_function_pause(self) -> None:
        self._pause_timestamp = self._now
        self._reset(ModelTimer.PAUSE)

    def _timer_function_token_retransmit(self) -> None:
        if self.state is not MembState.GATHER:
            self._token_retransmit()
            self._reset(ModelTimer.TOKEN_RETRANSMIT)

    def _timer_function_token_hold_retransmit(self) -> None:
        if self.state in (MembState.OPERATIONAL, MembState.RECOVERY):
            self._token_retransmit()

    def _timer_function_merge_detect(self) -> None:
        if self.state is MembState.OPERATIONAL and self.my_ring_id.representative == self.node_id:
            self._mcast_send(codec.encode(MergeDetect(self.node_id, self.node_id, self.my_ring_id)))

    def _timer_function_gather_join(self) -> None:
        self._memb_join_message_send()
        self._reset(ModelTimer.JOIN)

    def _timer_function_orf_token(self) -> None:
        self.stats[f"{self.state.name.lower()}_token_lost"] += 1
        if self.state is MembState.GATHER:
            self._memb_state_consensus_timeout_expired()
            self._memb_state_gather_enter("consensus timeout")
        elif self.state is MembState.RECOVERY:
            self._old_ring_state_restore()
            self._memb_state_gather_enter("token lost in recovery")
        else:
            self._memb_state_gather_enter(f"token lost in {self.state.name.lower()}")

    # Gather.

    @staticmethod
    def _merge(set_: list[int], subset: Iterable[int]) -> None:
        for node_id in subset:
            if node_id not in set_:
                set_.append(node_id)

    def _memb_state_gather_enter(self, gather_from: str) -> None:
        self.orf_token_discard = True
        self.originated_orf_token = False
        self._merge(self.my_proc_list, (self.node_id,))
        self._memb_join_message_send()
        self._reset(ModelTimer.JOIN)
        self._reset(ModelTimer.CONSENSUS)
        for timer in (ModelTimer.TOKEN_RETRANSMIT, ModelTimer.TOKEN, ModelTimer.MERGE):
            self._cancel(timer)
        self.consensus_list = {self.node_id}
        self.state = MembState.GATHER
        self.stats["gather_entered"] += 1
        self._tell(f"gather: {gather_from}")

    def _memb_join_message_send(self) -> None:
        join = Join(
            sender=self.node_id,
            origin=self.node_id,
            ring_seq=self.my_ring_id.seq,
            candidates=tuple(self.my_proc_list),
            failed=tuple(self.my_failed_list),
        )
        self._mcast_send(codec.encode(join))

    def _memb_consensus_agreed(self) -> bool:
        token_memb = subtract(self.my_proc_list, self.my_failed_list)
        agreed = self.consensus_list.issuperset(token_memb)
        self._assert(bool(token_memb) or self.failed_to_recv, "nobody is left in its membership")
        return agreed

    def _memb_state_consensus_timeout_expired(self) -> None:
        self.stats["consensus_timeouts"] += 1
        if self._memb_consensus_agreed():
            self.consensus_list = {self.node_id}
            self._reset(ModelTimer.TOKEN)
        else:
            self._merge(self.my_failed_list, subtract(self.my_proc_list, self.consensus_list))
            self._memb_state_gather_enter("consensus timeout")

    def _message_handler_memb_join(self, join: Join) -> None:
        if self.overdue(self._now):
            self._flushing = True
            self._loopback.clear()
            return
        self.token_ring_id_seq = max(self.token_ring_id_seq, join.ring_seq)
        match self.state:
            case MembState.OPERATIONAL:
                if not self._ignore_join_under_operational(join):
                    self._memb_join_process(join)
            case MembState.GATHER:
                self._memb_join_process(join)
            case MembState.COMMIT:
                if self._join_concerns_attempt(join):
                    self._memb_join_process(join)
                    self._memb_state_gather_enter("join during commit")
            case MembState.RECOVERY:
                if self._join_concerns_attempt(join):
                    self._memb_join_process(join)
                    self._old_ring_state_restore()
                    self._memb_state_gather_enter("join during recovery")

    def _ignore_join_under_operational(self, join: Join) -> bool:
        if self.node_id in join.failed:
            return True
        return join.origin in self.my_memb_list and join.ring_seq < self.my_ring_id.seq

    def _join_concerns_attempt(self, join: Join) -> bool:
        return join.origin in self.my_new_memb_list and join.ring_seq >= self.my_ring_id.seq

    def _memb_join_process(self, join: Join) -> None:
        proc_list, failed_list = set(join.candidates), set(join.failed)
        equal = proc_list == set(self.my_proc_list) and failed_list == set(self.my_failed_list)
        if equal:
            if not join.is_leave:
                self.consensus_list.add(join.origin)
            agreed = self._memb_consensus_agreed()
            if agreed and self.failed_to_recv:
                self.failed_to_recv = False
                self.my_proc_list = [self.node_id]
                self.my_failed_list = []
                self._memb_state_commit_token_create()
                return
            if agreed and self.node_id == min(subtract(self.my_proc_list, self.my_failed_list)):
                self._memb_state_commit_token_create()
                return
        elif not (
            (proc_list <= set(self.my_proc_list) and failed_list <= set(self.my_failed_list))
            or join.origin in self.my_failed_list
        ):
            before = len(self.my_proc_list) + len(self.my_failed_list)
            self._merge(self.my_proc_list, join.candidates)
            if self.node_id in failed_list:
                self._merge(self.my_failed_list, (join.origin,))
            elif join.origin in self.my_memb_list:
                self._merge(self.my_failed_list, join.failed)
            if not self._storms(fruitless=before == len(self.my_proc_list) + len(self.my_failed_list)):
                self._memb_state_gather_enter("merge during join")
            return
        if self.state is MembState.OPERATIONAL:
            self._memb_state_gather_enter("join during operational")

    def _storms(self, *, fruitless: bool) -> bool:
        """Return whether to end a storm of joins, which a real node would not do."""
        if not fruitless or self.state is not MembState.GATHER:
            self._fruitless_joins = 0
            return False
        self._fruitless_joins += 1
        if self._fruitless_joins <= JOIN_STORM:
            return False
        self.stats["join storm"] += 1
        return True

    # Commit.

    def _memb_state_commit_token_create(self) -> None:
        addr = tuple(sorted(subtract(self.my_proc_list, self.my_failed_list)))
        self.commit_token = CommitToken(
            sender=self.node_id,
            token_seq=self._start_token,
            ring_id=RingId(self.node_id, self.token_ring_id_seq + 4),
            members=addr,
            entries=[CommitEntry(NO_RING) for _ in addr],
        )
        self._memb_state_commit_enter()

    def _memb_state_commit_enter(self) -> None:
        self._old_ring_state_save()
        commit_token = self.commit_token
        self._memb_state_commit_token_update(commit_token)
        self._token_target = commit_token.members[commit_token.index % len(commit_token.members)]
        self._memb_state_commit_token_send(commit_token)
        self._cancel(ModelTimer.JOIN)
        self._cancel(ModelTimer.CONSENSUS)
        self.my_ring_id = commit_token.ring_id
        self._ring_seq = self.my_ring_id.seq
        self.token_ring_id_seq = self.my_ring_id.seq
        self.state = MembState.COMMIT
        self.stats["commit_entered"] += 1
        self._reset(ModelTimer.TOKEN)
        self._reset(ModelTimer.TOKEN_RETRANSMIT)
        self.my_trc = self.my_pbl = self.my_cbl = 0
        self._tell(f"commit: ring {self.my_ring_id}")

    def _old_ring_state_save(self) -> None:
        if not self.old_ring_state_saved:
            self.old_ring_state_saved = True
            self.my_old_ring_id = self.my_ring_id
            self.old_ring_state_aru = self.my_aru
            self.old_ring_state_high_seq_received = self.my_high_seq_received

    def _old_ring_state_restore(self) -> None:
        self.my_aru = self.old_ring_state_aru
        self.my_high_seq_received = self.old_ring_state_high_seq_received

    def _memb_state_commit_token_update(self, commit_token: CommitToken) -> None:
        self._assert(commit_token.index < len(commit_token.members), "a full commit token, but it never entered commit")
        self.my_new_memb_list = list(commit_token.members)
        entry = commit_token.entries[commit_token.index]
        entry.old_ring_id = self.my_old_ring_id
        entry.aru = self.old_ring_state_aru
        entry.high_delivered = self.my_high_delivered
        entry.received_flag = int(self.my_aru == self.my_high_seq_received)
        mates = [
            other
            for other in commit_token.entries[: commit_token.index + 1]
            if other.old_ring_id == self.my_old_ring_id
        ]
        high_aru = entry.aru
        for mate in mates:
            if sq_lt_compare(high_aru, mate.aru):
                high_aru = mate.aru
        for mate in mates:
            if sq_lt_compare(mate.aru, high_aru):
                mate.received_flag = 0
        commit_token.index += 1

    def _memb_state_commit_token_send(self, commit_token: CommitToken) -> None:
        commit_token.token_seq = (commit_token.token_seq + 1) & MASK
        commit_token.sender = self.node_id
        self.orf_token_retransmit = codec.encode(commit_token)
        self._token_send(self.orf_token_retransmit)
        self._reset(ModelTimer.TOKEN_RETRANSMIT)

    def _message_handler_memb_commit_token(self, commit_token: CommitToken) -> None:
        match self.state:
            case MembState.GATHER:
                expected = set(subtract(self.my_proc_list, self.my_failed_list))
                if set(commit_token.members) == expected and commit_token.ring_id.seq > self.my_ring_id.seq:
                    self.commit_token = commit_token
                    self._memb_state_commit_enter()
            case MembState.COMMIT:
                full = commit_token.index == len(commit_token.members)
                if full and commit_token.ring_id.seq == self.my_ring_id.seq:
                    self._memb_state_recovery_enter(commit_token)
            case MembState.RECOVERY:
                if self.my_ring_id.representative == self.node_id and not self.originated_orf_token:
                    self.originated_orf_token = True
                    self._orf_token_send_initial()
                    self._reset(ModelTimer.TOKEN)
                    self._reset(ModelTimer.TOKEN_RETRANSMIT)

    # Recovery.

    def _memb_state_recovery_enter(self, commit_token: CommitToken) -> None:
        self.orf_token_discard = False
        self.recovery_sort_queue = SortQueue(self._start_msg)
        self.retrans_message_queue.clear()
        self._memb_state_commit_token_send(commit_token)
        self.my_token_seq = (self._start_token - 1) & MASK
        mates = {
            member: entry
            for member, entry in zip(commit_token.members, commit_token.entries, strict=True)
            if member in self.my_memb_list and entry.old_ring_id == self.my_old_ring_id
        }
        self.my_trans_memb_list = [member for member in self.my_memb_list if member in mates]
        if not all(entry.received_flag for entry in mates.values()):
            self._originate_old_messages(mates.values())
        self.my_aru = self._start_msg
        self.my_aru_count = 0
        self.my_seq_unchanged = 0
        self.my_high_seq_received = self._start_msg
        self.my_install_seq = self._start_msg
        self.last_released = self._start_msg
        self._reset(ModelTimer.TOKEN)
        self._reset(ModelTimer.TOKEN_RETRANSMIT)
        self.state = MembState.RECOVERY
        self.stats["recovery_entered"] += 1
        self._tell(f"recovery: ring {self.my_ring_id}, {len(self.retrans_message_queue)} old messages")

    def _originate_old_messages(self, mates: Iterable[CommitEntry]) -> None:
        low_ring_aru = self.old_ring_state_high_seq_received
        for entry in mates:
            if sq_lt_compare(entry.aru, low_ring_aru):
                low_ring_aru = entry.aru
        range_ = (self.old_ring_state_high_seq_received - low_ring_aru) & MASK
        self._assert(range_ < QUEUE_RTR_ITEMS_SIZE_MAX, f"{range_} messages to recover")
        for i in range(1, range_ + 1):
            old = self.regular_sort_queue.items.get((low_ring_aru + i) & MASK)
            if old is not None:
                self._assert(
                    len(old) + MCAST_HEADER <= FRAME_SIZE_MAX,
                    f"a multicast of {len(old)} bytes does not fit in its buffers with another header before it",
                )
                self.retrans_message_queue.append(old)

    def _memb_state_operational_enter(self) -> None:
        self.originated_orf_token = False
        self.consensus_list = set()
        self.old_ring_state_saved = False
        self._deliver_messages_from_recovery_to_regular()
        self._messages_deliver_to_app(self.old_ring_state_high_seq_received)

        old_memb_list, self.my_memb_list = self.my_memb_list, list(self.my_new_memb_list)
        self.my_set_retrans_flg = False
        transitional = tuple(self.my_trans_memb_list)
        change = TransitionalConfiguration(self.my_old_ring_id, transitional, self.my_ring_id)
        left = tuple(subtract(old_memb_list, transitional))
        self._deliverable.append(_Change(change if old_memb_list else None, left))
        self.waiting_trans_ack = True
        self._messages_deliver_to_app(self.old_ring_state_high_seq_received, transitional)
        self._deliverable.append(_SWITCH_BUFFERS)
        self._deliverable.append(
            RegularConfiguration(self.my_ring_id, self.members, transitional, pure=False, features=0)
        )
        self._installed = self.my_ring_id

        # Fault kept: from here on a hole in the recovery queue can be neither filled nor asked for.
        self.regular_sort_queue = self.recovery_sort_queue
        self.recovery_sort_queue = SortQueue(self._start_msg)
        self.my_last_aru = self._start_msg
        self.my_proc_list = list(self.my_new_memb_list)
        self.my_failed_list = []
        highest = self.my_high_seq_received
        while highest != self._start_msg and highest not in self.regular_sort_queue.items:
            highest = (highest - 1) & MASK
        self.stats["installed over a hole"] += highest != self.my_aru
        self.my_high_delivered = highest
        self.regular_sort_queue.release(highest)
        self.last_released = highest

        self.state = MembState.OPERATIONAL
        self.stats["operational_entered"] += 1
        self._timer_function_pause()
        self.my_old_ring_id = self.my_ring_id
        self._tell(f"operational: ring {self.my_ring_id} of {self.members}")

    def _deliver_messages_from_recovery_to_regular(self) -> None:
        items = self.recovery_sort_queue.items
        for i in range(1, ((self.my_aru - self._start_msg) & MASK) + 1):
            datagram = items.get((self._start_msg + i) & MASK)
            if datagram is None or not codec.mcast_is_encapsulated(datagram):
                continue
            inner = datagram[MCAST_HEADER:]
            seq = codec.mcast_seq(inner)
            if codec.mcast_ring_id(inner) != self.my_old_ring_id or seq in self.regular_sort_queue.items:
                continue
            self.regular_sort_queue.add(seq, inner)
            if sq_lt_compare(self.old_ring_state_high_seq_received, seq):
                self.old_ring_state_high_seq_received = seq
