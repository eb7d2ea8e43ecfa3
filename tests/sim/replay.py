"""Replays a capture of a real ring at the model of one of its nodes.

What the capture shows arriving at node K goes into the model, at the time when it was seen. What the model then sends
is compared with what the capture shows that K sent. The messages of K's programs are taken from the capture as well. A
frame is put into the model's queue when the token of K's answer shows that K had it queued: the answer's `backlog`
tells by how much K's queue has grown.

So everything that totemsrp itself decides is compared: joins, commit tokens with all their entries, tokens with all
their fields, and the bytes of multicasts, their numbers, and what is sent again. What depends on a timer's last
millisecond is not compared: how often the same packet was repeated.

Node K has the address 10.77.0.K in all captures. They were taken on the bridge between the nodes, so what a node sends
to itself is missing.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from tests.totem.wire.captures import ring_datagrams
from totem.config import Config
from totem.configuration import Delivery, RingId
from totem.testing.corosync import CorosyncModel
from totem.testing.corosync.sq import SortQueue
from totem.testing.corosync.totemsrp import ALL, MembState, ModelTimer
from totem.wire import codec
from totem.wire.messages import CommitToken, HoldCancel, Join, Mcast, MergeDetect, Message, Token

CAPTURES = Path(__file__).parents[1] / "totem" / "wire" / "captures"
MASK = 0xFFFFFFFF
LOOPBACK = 0.0009
"""Default delay of a starting node's packets to itself, as on the machine of the captures."""


@dataclass
class Packet:
    """A datagram of the capture."""

    time: float
    source: int
    destination: int
    datagram: bytes
    message: Message


Lost = Callable[[Packet], bool]


def _nothing(_: Packet) -> bool:
    return False


@dataclass
class Sent:
    """What one node has sent, by kind, in order, without repetitions of the same packet."""

    joins: list[Join] = field(default_factory=list)
    commit_tokens: list[tuple[int, CommitToken]] = field(default_factory=list)
    """With their targets."""
    tokens: list[tuple[int, Token]] = field(default_factory=list)
    """With their targets."""
    multicasts: list[bytes] = field(default_factory=list)
    merge_detects: set[RingId] = field(default_factory=set)
    hold_cancels: list[RingId] = field(default_factory=list)

    def add(self, target: int, datagram: bytes) -> None:
        match codec.decode(datagram):
            case Join() as join:
                if not self.joins or self.joins[-1] != join:
                    self.joins.append(join)
            case CommitToken() as commit_token:
                if (target, commit_token) not in self.commit_tokens:
                    self.commit_tokens.append((target, commit_token))
            case Token() as token:
                if (target, token) not in self.tokens[-3:]:
                    self.tokens.append((target, token))
            case Mcast():
                self.multicasts.append(datagram)
            case MergeDetect() as merge_detect:
                self.merge_detects.add(merge_detect.ring_id)
            case HoldCancel() as hold_cancel:
                self.hold_cancels.append(hold_cancel.ring_id)


def packets(capture: str) -> list[Packet]:
    """Return all packets of a capture; times begin at 0, the destination of multicast UDP is ALL."""
    datagrams = list(ring_datagrams(CAPTURES / f"{capture}.pcap.gz"))
    return [
        Packet(
            datagram.time - datagrams[0].time,
            _node_at(datagram.source),
            _node_at(datagram.destination),
            datagram.payload,
            codec.decode(datagram.payload),
        )
        for datagram in datagrams
    ]


def _node_at(address: str) -> int:
    return ALL if ip_address(address).is_multicast else int(address.rpartition(".")[2])


def _first_seqno(found: list[Packet], node_id: int) -> int:
    """Return `this_seqno` of the node's first multicast: the number that it has sent in its life."""
    for packet in found:
        mcast = packet.message
        if isinstance(mcast, Mcast) and packet.source == mcast.origin == node_id:
            return mcast.this_seqno
    return 0


class Replay:
    """A node of a capture, from `begin` to `end` seconds, played by a model.

    `lost` tells which packets the capture shows but the node did not get, where the capture's README reports losses.
    """

    def __init__(self, capture: list[Packet], model: CorosyncModel, begin: float, end: float, lost: Lost) -> None:
        self.model = model
        self.node_id = model.node_id
        self.expected = Sent()
        self.sent = Sent()
        self.deliveries: list[Delivery] = []
        self.stored: list[int] = []
        span = [packet for packet in capture if begin <= packet.time <= end]
        self._end = end if end < float("inf") else max(packet.time for packet in span)
        sent = list(map(self._noted, self._one_copy(span)))
        arriving = [packet for packet in span if self._arrives(packet) and not lost(packet)]
        cancels = [packet for packet in sent if isinstance(packet.message, HoldCancel)]
        self._events = sorted(arriving + cancels, key=lambda packet: packet.time)
        self._own = self._frames(sent)
        self._answers = {
            (packet.message.ring_id, packet.message.token_seq): packet.message
            for packet in sent
            if isinstance(packet.message, Token)
        }

    @classmethod
    def of_starting(
        cls,
        capture: str,
        config: Config,
        node_id: int,
        *,
        begin: float = 0.0,
        end: float = float("inf"),
        loopback: float = LOOPBACK,
    ) -> Replay:
        """Play the node from its first start after `begin`: the first join in which it knows itself alone."""
        found = packets(capture)
        for packet in found:
            join = packet.message
            if packet.time >= begin and isinstance(join, Join) and join.origin == node_id:
                assert join.candidates == (node_id,)
                break
        model = CorosyncModel(config, node_id, ring_seq=join.ring_seq - 1, dice=random.Random(0))
        model.loopback = loopback
        replay = cls(found, model, packet.time, end, _nothing)
        model.start(packet.time)
        return replay

    @classmethod
    def of_running(
        cls,
        capture: str,
        config: Config,
        node_id: int,
        members: Iterable[int],
        *,
        held: bool = False,
        end: float = float("inf"),
        lost: Lost = _nothing,
    ) -> Replay:
        """Play the node from the first token that comes to it; `held`: the ring was idle before."""
        found = packets(capture)
        for packet in found:
            token = packet.message
            if packet.destination == node_id and isinstance(token, Token):
                break
        model = CorosyncModel(config, node_id, ring_seq=0, dice=random.Random(0))
        put_into_ring(model, packet.time, token, list(members), held=held)
        model.global_seqno = _first_seqno(found, node_id)
        return cls(found, model, packet.time, end, lost)

    @classmethod
    def of_lone(cls, capture: str, config: Config, node_id: int, *, ring_id: RingId, aru: int, begin: float) -> Replay:
        """Play the node from `begin`, when it is the only member of this ring, and there are `aru` messages."""
        model = CorosyncModel(config, node_id, ring_seq=ring_id.seq - 5, dice=random.Random(0))
        model.start(begin - 1)
        for _ in range(aru):
            model._totemsrp_mcast(codec.frame([1], 0, 0) + b"x")
        while model.deadline < begin:
            model.advance(model.deadline)
            list(model.take().deliveries)
        assert (model.ring_id, model.my_aru) == (ring_id, aru)
        found = packets(capture)
        model.global_seqno = _first_seqno([packet for packet in found if packet.time >= begin], node_id)
        return cls(found, model, begin, float("inf"), _nothing)

    def _arrives(self, packet: Packet) -> bool:
        return packet.destination in (self.node_id, ALL) and packet.source != self.node_id

    def _one_copy(self, span: list[Packet]) -> list[Packet]:
        """Yield what the node sent: of each multicast the copy to the same other node."""
        other = min(node.node_id for node in self.model.config.nodes if node.node_id != self.node_id)
        return [
            packet
            for packet in span
            if packet.source == self.node_id
            and (packet.destination in (other, ALL) or isinstance(packet.message, Token | CommitToken))
        ]

    def _noted(self, packet: Packet) -> Packet:
        to_one = isinstance(packet.message, Token | CommitToken)
        self.expected.add(packet.destination if to_one else ALL, packet.datagram)
        return packet

    def _frames(self, sent: list[Packet]) -> dict[RingId, deque[bytes]]:
        """Return the frames of the node's programs, by ring, in order."""
        frames: dict[RingId, dict[int, bytes]] = {}
        for packet in sent:
            mcast = packet.message
            if isinstance(mcast, Mcast) and mcast.origin == self.node_id and not mcast.encapsulated:
                frames.setdefault(mcast.ring_id, {}).setdefault(mcast.seq, mcast.data)
        return {ring_id: deque(by_seq.values()) for ring_id, by_seq in frames.items()}

    def run(self) -> Replay:
        for packet in self._events:
            self._pass_time(packet.time)
            if packet.source == self.node_id:
                self.model._token_hold_cancel_send()  # what a program's message does first
            else:
                if isinstance(packet.message, Token):
                    self._give_frames(packet.message)
                self.model.receive(packet.datagram, packet.time)
            self._collect()
        self._pass_time(self._end)
        return self

    def _pass_time(self, until: float) -> None:
        while self.model.deadline <= until:
            if self.model.members == (self.node_id,) and self.model.state is MembState.OPERATIONAL:
                self._give_all_frames()
            self.model.advance(self.model.deadline)
            self._collect()

    def _give_all_frames(self) -> None:
        """Queue all frames: while the node is alone its tokens are not in the capture, so all may go out at once."""
        self.model._queue_use.extend(self._own.pop(self.model.ring_id, ()))

    def _give_frames(self, token: Token) -> None:
        """Put frames in the queue so that it is as long as the real one at this visit."""
        model = self.model
        answer = self._answers.get((token.ring_id, (token.token_seq + 1) & MASK))
        if answer is None or token.ring_id != model.ring_id or model.state is not MembState.OPERATIONAL:
            return
        frames = self._own.get(token.ring_id, deque())
        backlog = (answer.backlog - token.backlog + model.my_pbl) & MASK
        while frames and len(model._queue_use) < backlog:
            model._queue_use.append(frames.popleft())

    def _collect(self) -> None:
        ready = self.model.take()
        if ready.ring_seq is not None:
            self.stored.append(ready.ring_seq)
        for target, train in ready.datagrams:
            for datagram in train:
                self.sent.add(target, datagram)
        self.deliveries += ready.deliveries


def put_into_ring(model: CorosyncModel, now: float, token: Token, members: list[int], *, held: bool = False) -> None:
    """Put a model into a ring as if it had been there for a while, in good order, when this token comes."""
    model.start(now)
    model._loopback.clear()
    model._timers = {ModelTimer.PAUSE: model._timers[ModelTimer.PAUSE]}
    model.my_ring_id = model.my_old_ring_id = model._installed = model._delivered = token.ring_id
    model.token_ring_id_seq = token.ring_id.seq
    model.my_memb_list = list(members)
    model.my_proc_list = list(members)
    model.my_new_memb_list = list(members)
    model.state = MembState.OPERATIONAL
    model.orf_token_discard = False
    model.waiting_trans_ack = False
    model.my_token_seq = (token.token_seq - 1) & MASK
    model.my_aru = model.my_high_seq_received = model.my_high_delivered = token.aru
    model.my_last_aru = model.last_released = model.my_last_seq = token.aru
    model.regular_sort_queue = SortQueue(token.aru + 1)
    model.my_seq_unchanged = model.config.rest_after(pure=False) + 1 if held else 0
    model.my_token_held = held
    model._token_target = members[(members.index(model.node_id) + 1) % len(members)]
    model.take()
