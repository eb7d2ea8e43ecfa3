"""The model of a real node against real nodes: by captures, then by its own rules and faults."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import fields
from heapq import heappop, heappush

import pytest

from tests.sim.replay import CAPTURES, Packet, Replay, Sent, packets, put_into_ring
from tests.totem.wire.captures import frames_by_ring, group_messages
from totem.config import Config
from totem.configuration import (
    Delivery,
    Level,
    Messages,
    RegularConfiguration,
    RingId,
    TransitionalConfiguration,
)
from totem.errors import MessageTooLong, QueueFull
from totem.testing.corosync import CorosyncModel
from totem.testing.corosync.sq import sq_lt_compare, sq_lte_compare
from totem.testing.corosync.totempg import Assembly, Totempg, iovec_of
from totem.testing.corosync.totemsrp import ALL, JOIN_STORM, LOOPBACK, MembState
from totem.wire import codec
from totem.wire.messages import CommitEntry, CommitToken, HoldCancel, Join, Mcast, MergeDetect, Token

TWO = Config.for_nodes(2, token=1.0)
THREE = Config.for_nodes(3, token=1.65)
SMALL = Config.for_nodes(2, token=1.0, netmtu=600)


# Captures of real rings.


def _first_copies_of(source: int, after: int) -> Callable[[Packet], bool]:
    return lambda packet: isinstance(packet.message, Mcast) and packet.source == source and packet.message.seq > after


def _all_but_last_copies() -> Callable[[Packet], bool]:
    last = {
        packet.message.seq: packet.time
        for packet in packets("06-loss-retransmit")
        if packet.destination == 3 and isinstance(packet.message, Mcast)
    }
    return lambda packet: isinstance(packet.message, Mcast) and packet.time != last[packet.message.seq]


ALL_THREE = (1, 2, 3)
REPLAYS: dict[str, Callable[[], Replay]] = {
    "02 node 1 is joined": lambda: Replay.of_lone(
        "02-second-and-third-join", THREE, 1, ring_id=RingId(1, 5), aru=8, begin=0.0
    ),
    "02 node 2 starts": lambda: Replay.of_starting("02-second-and-third-join", THREE, 2),
    "02 node 3 starts": lambda: Replay.of_starting("02-second-and-third-join", THREE, 3),
    **{
        f"03 traffic at node {k}": lambda k=k: Replay.of_running("03-cpg-traffic", THREE, k, ALL_THREE)
        for k in ALL_THREE
    },
    **{
        f"04 leave, kill and return seen by node {k}": lambda k=k: Replay.of_running(
            "04-leave-kill-return", THREE, k, ALL_THREE
        )
        for k in (1, 2)
    },
    "04 node 3 before it leaves": lambda: Replay.of_running("04-leave-kill-return", THREE, 3, ALL_THREE, end=1.31),
    "04 node 3 returns after the leave": lambda: Replay.of_starting(
        "04-leave-kill-return", THREE, 3, begin=4.0, end=7.145, loopback=5e-5
    ),
    "04 node 3 returns after the kill": lambda: Replay.of_starting(
        "04-leave-kill-return", THREE, 3, begin=12.0, loopback=5e-5
    ),
    **{
        f"05 partition and merge seen by node {k}": lambda k=k: Replay.of_running(
            "05-partition-merge", THREE, k, ALL_THREE
        )
        for k in (1, 2)
    },
    "05 node 3 was alone": lambda: Replay.of_lone(
        "05-partition-merge", THREE, 3, ring_id=RingId(3, 0x23), aru=7, begin=6.785
    ),
    "06 losses seen by node 1": lambda: Replay.of_running("06-loss-retransmit", THREE, 1, ALL_THREE),
    "06 losses seen by node 2": lambda: Replay.of_running("06-loss-retransmit", THREE, 2, ALL_THREE),
    "06 losses at node 3": lambda: Replay.of_running(
        "06-loss-retransmit", THREE, 3, ALL_THREE, lost=_all_but_last_copies()
    ),
    "07 node 2 sends old messages again": lambda: Replay.of_running("07-kill-under-loss-recovery", THREE, 2, ALL_THREE),
    "07 node 3 has missed them": lambda: Replay.of_running(
        "07-kill-under-loss-recovery", THREE, 3, ALL_THREE, lost=_first_copies_of(1, 23)
    ),
    "08 node 1 starts": lambda: Replay.of_starting("08-udp-multicast", THREE, 1, end=5.6),
    "08 node 2 starts": lambda: Replay.of_starting("08-udp-multicast", THREE, 2, end=5.5),
    "09 node 1 starts": lambda: Replay.of_starting("09-no-quorum-provider", TWO, 1),
    "09 node 2 starts": lambda: Replay.of_starting("09-no-quorum-provider", TWO, 2, loopback=1e-4),
    "10 node 1 starts": lambda: Replay.of_starting("10-netmtu-600", SMALL, 1),
    "10 node 2 starts": lambda: Replay.of_starting("10-netmtu-600", SMALL, 2),
    "11 node 1 among nodes that end": lambda: Replay.of_running("11-cfg-reload-shutdown-killnode", THREE, 1, ALL_THREE),
    "11 node 2 until it is killed": lambda: Replay.of_running(
        "11-cfg-reload-shutdown-killnode", THREE, 2, ALL_THREE, end=2.2505
    ),
    "11 node 3 until it leaves": lambda: Replay.of_running(
        "11-cfg-reload-shutdown-killnode", THREE, 3, ALL_THREE, end=1.03
    ),
    "12 node 1 with a foreign node": lambda: Replay.of_running("12-foreign-node-joins", THREE, 1, (1, 2), held=True),
    "12 node 2 with a foreign node": lambda: Replay.of_running("12-foreign-node-joins", THREE, 2, (1, 2)),
    "13 node 2 with a foreign representative": lambda: Replay.of_running(
        "13-foreign-node-as-representative", THREE, 2, (2, 3)
    ),
    "13 node 3 with a foreign representative": lambda: Replay.of_running(
        "13-foreign-node-as-representative", THREE, 3, (2, 3)
    ),
    "14 node 3 gets old messages from a foreign node": lambda: Replay.of_running(
        "14-foreign-node-recovers-messages", THREE, 3, ALL_THREE, lost=_first_copies_of(1, 23)
    ),
    "14 node 1 until it is killed": lambda: Replay.of_running(
        "14-foreign-node-recovers-messages", THREE, 1, ALL_THREE, held=True, end=0.03
    ),
}


@pytest.mark.parametrize("name", REPLAYS)
def test_model_sends_what_the_real_node_sent(name: str) -> None:
    replay = REPLAYS[name]().run()
    for kind in fields(Sent):
        expected, sent = getattr(replay.expected, kind.name), getattr(replay.sent, kind.name)
        assert sent == expected, kind.name


class _Scripted(CorosyncModel):
    """A lone node: everything it sends comes back to it."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, 1, ring_seq=0, dice=random.Random(0))
        self.sent: list[tuple[float, bytes]] = []

    def _send_to_self(self, datagram: bytes) -> None:
        self.sent.append((self._now, datagram))
        super()._send_to_self(datagram)


def _with_group(group: bytes, data: bytes) -> bytes:
    return struct.pack("<HH", 1, len(group)) + group + data


def test_a_lone_node_starts_as_in_capture_01() -> None:
    """Every packet comes in order, with sync's messages given when a real node's services give them."""
    capture = packets("01-single-start.lo")
    said: dict[int, list[bytes]] = {}
    for message in group_messages(CAPTURES / "01-single-start.lo.pcap.gz"):
        said.setdefault(message.seq, []).append(_with_group(message.group, message.data))
    answers = {2: said[3], 3: said[5] + said[6], 6: said[7], 7: said[8]}
    node = _Scripted(THREE)
    node.multicast_sync(said[1])
    node.start(0.0)
    while node.deadline <= 3.645:
        node.advance(node.deadline)
        for delivery in node.take().deliveries:
            match delivery:
                case RegularConfiguration(ring_id=RingId(1, 5), members=(1,), transitional=()):
                    node.multicast_sync(said[2])
                case Messages():
                    node.multicast_sync(answers.get(delivery.seq, []))
                case _:
                    pytest.fail(f"{delivery}")
    assert [codec.decode(datagram) for _, datagram in node.sent] == [packet.message for packet in capture]
    idle = [index for index, packet in enumerate(capture) if isinstance(packet.message, MergeDetect)]
    for index in idle:
        assert node.sent[index][0] == pytest.approx(capture[index].time, abs=0.01)


def _frames_and_messages(capture: str) -> Iterator[tuple[list[bytes], list[tuple[int, bytes]]]]:
    """Return each sender's frames in one ring, and the messages in them, from its first frame that begins with a
    message."""
    path = CAPTURES / f"{capture}.pcap.gz"
    whole = list(group_messages(path))
    for ring_id, by_seq in frames_by_ring(path).items():
        for sender in {packet.system_from for _, packet in by_seq.values()}:
            frames = {seq: packet.data for seq, (_, packet) in sorted(by_seq.items()) if packet.system_from == sender}
            first = min(seq for seq, frame in frames.items() if frame[5] == 0)
            messages = [
                _with_group(message.group, message.data)
                for message in whole
                if (message.ring_id, message.sender) == (ring_id, sender) and message.seq >= first
            ]
            yield [frame for seq, frame in frames.items() if seq >= first], messages


@pytest.mark.parametrize(
    ("capture", "netmtu"),
    [
        ("03-cpg-traffic", 1500),
        ("06-loss-retransmit", 1500),
        ("10-netmtu-600", 600),
        ("15-partial-mcast-1500000", 1500),
    ],
)
def test_messages_are_packed_as_in_captures(capture: str, netmtu: int) -> None:
    """Given to the packing layer in the same order, with the token at the same moments, they make the same frames."""
    fragments = 0
    for frames, messages in _frames_and_messages(capture):
        sent: list[bytes] = []
        totempg = Totempg(netmtu - 98, sent.append, lambda: 1)
        for message in messages:
            totempg.mcast_msg(iovec_of(message))
            staged = codec.frame(totempg._mcast_packed_msg_lens, 0, totempg._fragment_continuation)
            if len(sent) < len(frames) and staged + totempg._fragmentation_data == frames[len(sent)]:
                totempg.callback_token_received()
        assert sent == frames
        fragments += sum(frame[4] > 0 for frame in frames)
    assert fragments > 10


@pytest.mark.parametrize("capture", ["03-cpg-traffic", "10-netmtu-600", "15-partial-mcast-1500000"])
def test_messages_are_put_together_as_in_captures(capture: str) -> None:
    for frames, messages in _frames_and_messages(capture):
        totempg = Totempg(1402, lambda _: None, lambda: 1)
        assert [message for frame in frames for message in totempg.deliver(1, bytes(45) + frame)] == messages


# Rings of models.


class Ring:
    """Models on a network that delivers after a tenth of a millisecond, except what `lose` drops."""

    DELAY = 1e-4

    def __init__(self, count: int, config: Config | None = None, **settings: int) -> None:
        self.config = config or Config.for_nodes(count, token=1.0)
        self.settings = settings
        self.now = 0.0
        self.lose: Callable[[int, int, bytes], bool] = lambda source, target, datagram: False
        self.models: dict[int, CorosyncModel] = {}
        self.stored = dict.fromkeys(range(1, count + 1), 0)
        self.seen: dict[int, list[Delivery]] = {}
        self.sent: list[tuple[float, int, int, bytes]] = []
        self.sync_at_once = True
        self._flying: list[tuple[float, int, int, int, bytes]] = []

    def start(self, *node_ids: int) -> None:
        for node_id in node_ids or self.stored:
            self.models[node_id] = CorosyncModel(
                self.config, node_id, ring_seq=self.stored[node_id], dice=random.Random(0), **self.settings
            )
            self.seen[node_id] = []
            self.models[node_id].start(self.now)
            self.perform(node_id)

    def crash(self, node_id: int) -> None:
        del self.models[node_id]

    def perform(self, node_id: int) -> None:
        while True:
            ready = self.models[node_id].take()
            self.stored[node_id] = ready.ring_seq or self.stored[node_id]
            for target, train in ready.datagrams:
                for datagram in train:
                    self.sent.append((self.now, node_id, target, datagram))
                    for receiver in self.stored if target == ALL else (target,):
                        if receiver != node_id and not self.lose(node_id, receiver, datagram):
                            flight = (self.now + self.DELAY, len(self.sent), receiver, node_id, datagram)
                            heappush(self._flying, flight)
            deliveries = False
            for delivery in ready.deliveries:
                deliveries = True
                self.seen[node_id].append(delivery)
                if self.sync_at_once and isinstance(delivery, RegularConfiguration):
                    self.models[node_id].sync_complete(delivery.ring_id)
            if not deliveries:
                return

    def multicast(self, node_id: int, *messages: bytes) -> None:
        self.models[node_id].multicast(messages)
        self.perform(node_id)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        end = self.now + seconds
        while not until():
            waking = min(self.models, key=lambda node_id: self.models[node_id].deadline, default=0)
            wake = self.models[waking].deadline if waking else end
            arrival = self._flying[0][0] if self._flying else float("inf")
            if min(wake, arrival) > end:
                self.now = end
                return
            if arrival <= wake:
                self.now, _, receiver, _, datagram = heappop(self._flying)
                if receiver in self.models:
                    self.models[receiver].receive(datagram, self.now)
                    self.perform(receiver)
            else:
                self.now = max(self.now, wake)  # what was sent in between calls may already have come back
                self.models[waking].advance(self.now)
                self.perform(waking)

    def formed(self, *node_ids: int) -> bool:
        return all(
            self.models[node_id].members == node_ids and self.models[node_id].state is MembState.OPERATIONAL
            for node_id in node_ids
        )

    def form(self, *node_ids: int) -> None:
        self.start(*(node_id for node_id in node_ids if node_id not in self.models))
        self.run(20.0, lambda: self.formed(*node_ids))
        assert self.formed(*node_ids)
        self.run(0.1)

    def messages(self, node_id: int) -> list[bytes]:
        return [
            message
            for delivery in self.seen[node_id]
            if isinstance(delivery, Messages)
            for message in delivery.messages
        ]

    def packets(self, kind: type, since: float = 0.0) -> list[tuple[float, int, object]]:
        decoded = [(time, source, codec.decode(datagram)) for time, source, _, datagram in self.sent]
        return [(time, source, packet) for time, source, packet in decoded if type(packet) is kind and time >= since]


def test_two_and_then_three_nodes_form_a_ring() -> None:
    ring = Ring(3)
    ring.form(1, 2)
    two = ring.models[1].ring_id
    assert ring.models[2].ring_id == two == RingId(1, 9)
    ring.form(1, 2, 3)
    assert {model.ring_id for model in ring.models.values()} == {RingId(1, 13)}
    assert set(ring.stored.values()) == {13}
    assert ring.seen[1][-2:] == [
        TransitionalConfiguration(two, (1, 2), RingId(1, 13)),
        RegularConfiguration(RingId(1, 13), (1, 2, 3), (1, 2), pure=False, features=0),
    ]
    assert ring.seen[3][-1] == RegularConfiguration(RingId(1, 13), (1, 2, 3), (3,), pure=False, features=0)


def test_messages_are_delivered_everywhere_in_one_order_and_on_receipt() -> None:
    ring = Ring(3)
    ring.form(1, 2, 3)
    sent = [b"%d from %d" % (k, node_id) * 40 for k in range(50) for node_id in (1, 2, 3)]
    for message in sent:
        ring.multicast(int(message.split(b" from ")[1][:1]), message)
    ring.run(1.0)
    assert sorted(ring.messages(1)) == sorted(sent)
    assert ring.messages(2) == ring.messages(1) == ring.messages(3)
    levels = {delivery.level for delivery in ring.seen[1] if isinstance(delivery, Messages)}
    assert levels == {Level.AGREED}


def test_a_missing_message_is_asked_for_at_the_fifth_visit() -> None:
    ring = Ring(3)
    ring.form(1, 2, 3)
    begin, lost = ring.now, []

    def lose_once(source: int, target: int, datagram: bytes) -> bool:
        if target == 3 and codec.packet_type(datagram) == codec.TYPE_MCAST and not lost:
            lost.append(codec.mcast_seq(datagram))
            return True
        return False

    ring.lose = lose_once
    ring.multicast(1, b"lost", b"x" * 2000)
    ring.run(0.02)
    visits = [token for _, source, token in ring.packets(Token, begin) if source == 3 and token.seq >= lost[0]]
    asking = [lost[0] in (seq for _, seq in token.requests) for token in visits]
    assert asking.index(True) == 4
    assert ring.models[1].stats["mcast_retx"] == 1
    assert ring.messages(3) == ring.messages(1) == [b"lost", b"x" * 2000]


def test_what_a_dead_node_sent_is_delivered_by_all_before_its_end() -> None:
    """Capture 07: node 3 hears nothing of node 1, which dies; node 2 has it all."""
    ring = Ring(3)
    ring.form(1, 2, 3)
    ring.lose = lambda source, target, datagram: (
        (source, target) == (1, 3) and codec.packet_type(datagram) == codec.TYPE_MCAST
    )
    ring.multicast(1, *(b"%d" % k * 900 for k in range(5)))
    ring.run(0.0015)
    ring.crash(1)
    assert len(ring.messages(2)) == 5
    assert ring.messages(3) == []
    ring.run(20.0, lambda: ring.formed(2, 3))
    assert ring.seen[3][-6:] == ring.seen[2][-6:]
    assert [type(delivery) for delivery in ring.seen[3][-3:]] == [
        Messages,
        TransitionalConfiguration,
        RegularConfiguration,
    ]
    assert ring.messages(3) == ring.messages(2)
    encapsulated = [packet for _, _, packet in ring.packets(Mcast) if packet.encapsulated]
    assert {packet.sender for packet in encapsulated} == {2}
    assert {codec.mcast_origin(packet.data) for packet in encapsulated} == {1}


def test_past_a_gap_only_messages_of_those_that_stay_are_delivered() -> None:
    ring = Ring(3)
    ring.form(1, 2, 3)
    old_ring, hidden = ring.models[1].ring_id, ring.models[1].my_high_seq_received + 1
    ring.lose = lambda source, target, datagram: (
        codec.packet_type(datagram) == codec.TYPE_MCAST
        and (codec.mcast_ring_id(datagram), codec.mcast_seq(datagram)) == (old_ring, hidden)
    )
    ring.multicast(1, b"lost", b"a" * 1380, b"of the dead" * 90, b"b" * 1300)
    ring.run(0.0008)
    ring.multicast(2, b"of the living")
    ring.run(0.01)
    ring.crash(1)
    ring.run(20.0, lambda: ring.formed(2, 3))
    for node_id in (2, 3):
        *_, transitional, messages, regular = ring.seen[node_id]
        assert isinstance(transitional, TransitionalConfiguration)
        assert isinstance(messages, Messages)
        assert (messages.sender, messages.messages) == (2, [b"of the living"])
        assert isinstance(regular, RegularConfiguration)


def test_a_leave_needs_no_timeout() -> None:
    ring = Ring(3)
    ring.form(1, 2, 3)
    begin = ring.now
    ring.models[2].leave(ring.now)
    ring.perform(2)
    assert ring.models[2].state is MembState.LEFT
    ring.run(1.0, lambda: ring.formed(1, 3))
    assert ring.now - begin < 0.02
    [(_, _, leave)] = [found for found in ring.packets(Join, begin) if found[1] == 2]
    assert (leave.sender, leave.origin, leave.candidates, leave.failed) == (0, 2, (1, 3), (2,))


def test_parts_of_a_ring_go_on_alone_and_merge() -> None:
    ring = Ring(3)
    ring.form(1, 2, 3)
    ring.lose = lambda source, target, datagram: (source == 3) != (target == 3)
    ring.run(20.0, lambda: ring.formed(1, 2) and ring.formed(3))
    ring.multicast(1, b"here")
    ring.multicast(3, b"there")
    ring.run(1.0)
    ring.lose = lambda source, target, datagram: False
    begin = ring.now
    ring.run(5.0, lambda: ring.formed(1, 2, 3))
    assert ring.now - begin < 0.5
    assert {found[1] for found in ring.packets(MergeDetect, begin)} <= {1, 3}
    assert ring.messages(1) == ring.messages(2) == [b"here"]
    assert ring.messages(3) == [b"there"]


def test_a_long_queue_goes_out_by_seventeens() -> None:
    ring = Ring(3)
    ring.form(1, 2, 3)
    ring.multicast(2, *(b"%d" % k * 700 for k in range(10, 71)))
    begin = ring.now
    ring.run(0.1)
    visits, count = [], 0
    for datagram in [datagram for time, source, _, datagram in ring.sent if time >= begin and source == 2]:
        kind = codec.packet_type(datagram)
        count += kind == codec.TYPE_MCAST
        if kind == codec.TYPE_TOKEN:
            visits.append(count)
            count = 0
    assert [count for count in visits if count] == [17, 17, 17, 10]


def test_an_idle_token_is_held_until_somebody_has_news() -> None:
    ring = Ring(3)
    ring.form(1, 2, 3)
    ring.run(3.0)
    begin = ring.now
    ring.run(3.0)
    rotations = sum(source == 1 for _, source, _ in ring.packets(Token, begin))
    assert rotations == int(3.0 / ring.config.hold)
    begin = ring.now
    ring.multicast(3, b"news")
    ring.multicast(3, b"more news")
    ring.run(0.01)
    assert ring.packets(HoldCancel, begin) == [(begin, 3, HoldCancel(3, ring.models[3].ring_id))]
    assert ring.messages(1) == [b"news", b"more news"]


def test_a_deaf_node_gives_itself_up() -> None:
    config = Config.for_nodes(3, token=1.0, fail_recv_const=20)
    ring = Ring(3, config)
    ring.form(1, 2, 3)
    ring.lose = lambda source, target, datagram: (
        target == 3 and source != 3 and codec.packet_type(datagram) == codec.TYPE_MCAST
    )
    ring.multicast(1, b"unheard")
    ring.run(5.0, lambda: ring.formed(1, 2) and ring.formed(3))
    assert ring.formed(1, 2)
    assert ring.formed(3)
    assert ring.messages(3) == []
    assert ring.now < 1.0


@pytest.mark.parametrize("first_seq", [0, 2**32 - 300, 2**31 - 300])
def test_numbers_may_wrap_while_messages_flow(first_seq: int) -> None:
    ring = Ring(3, first_seq=first_seq, first_token_seq=first_seq)
    ring.form(1, 2, 3)
    for k in range(20):
        for node_id in (1, 2, 3):
            ring.multicast(node_id, *(b"%d %d" % (k, j) * 200 for j in range(17)))
        ring.run(0.05)
    assert len(ring.messages(1)) == 20 * 51
    assert ring.messages(2) == ring.messages(1) == ring.messages(3)


# What a real node does otherwise than it should.


def _in_recovery(ring: Ring, *node_ids: int) -> bool:
    return all(ring.models[node_id].state is MembState.RECOVERY for node_id in node_ids)


def _lose_tokens_of_next_ring(old_ring: RingId, passed: int) -> Callable[[int, int, bytes], bool]:
    """Lose all tokens of the ring after `old_ring` but the first ones; nothing of later rings."""
    seen: list[RingId] = []

    def lose(source: int, target: int, datagram: bytes) -> bool:
        token = codec.decode(datagram)
        if not isinstance(token, Token) or token.ring_id == old_ring:
            return False
        seen.append(token.ring_id)
        return token.ring_id == seen[0] and len(seen) > passed

    return lose


def test_counters_of_a_broken_recovery_are_left_over() -> None:
    """The next attempt is installed on the second and third visits, not on the fourth: the fault of ruling A3."""
    ring = Ring(3)
    ring.form(1, 2, 3)
    ring.lose = _lose_tokens_of_next_ring(ring.models[1].ring_id, passed=5)
    ring.crash(3)
    ring.run(20.0, lambda: _in_recovery(ring, 1, 2))
    broken = ring.models[1].ring_id
    ring.run(20.0, lambda: ring.models[1].ring_id != broken and _in_recovery(ring, 1, 2))
    assert [ring.models[node_id].my_retrans_flg_count for node_id in (1, 2)] == [2, 3]
    begin = ring.now
    ring.run(1.0, lambda: ring.formed(1, 2))
    assert len(ring.packets(Token, begin)) == 1 + 2 + 3


def test_what_a_broken_recovery_brought_is_forgotten() -> None:
    ring = Ring(3)
    ring.form(1, 2, 3)
    ring.lose = lambda source, target, datagram: (
        (source, target) == (1, 3) and codec.packet_type(datagram) == codec.TYPE_MCAST
    )
    ring.multicast(1, b"a" * 1300, b"b" * 1300)
    ring.run(0.0015)
    ring.lose = _lose_tokens_of_next_ring(ring.models[1].ring_id, passed=2)
    ring.crash(1)
    three = ring.models[3]
    ring.run(20.0, lambda: three.state is MembState.RECOVERY and three.my_aru == 2)
    assert len(three.recovery_sort_queue.items) == 2
    ring.run(20.0, lambda: three.state is MembState.GATHER)
    assert three.my_aru == 0
    ring.run(20.0, lambda: three.state is MembState.RECOVERY)
    assert not three.recovery_sort_queue.items
    *_, (_, _, commit_token) = [found for found in ring.packets(CommitToken) if found[1] == 3]
    assert [entry.aru for entry in commit_token.entries] == [2, 0]
    ring.run(20.0, lambda: ring.formed(2, 3))
    assert ring.messages(3) == ring.messages(2) == [b"a" * 1300, b"b" * 1300]


def _node_in_recovery() -> tuple[CorosyncModel, RingId]:
    """Return node 2 of a ring that is being formed with node 1, which this test plays."""
    model = CorosyncModel(TWO, 2, ring_seq=0, dice=random.Random(0))
    model.loopback = 1.0
    model.start(0.0)
    model.receive(codec.encode(Join(1, 1, 5, (1, 2), ())), 0.0)
    ring_id = RingId(1, 9)
    entries = [CommitEntry(RingId(1, 5), 3, 3, 1), CommitEntry(RingId(0, 0))]
    model.receive(codec.encode(CommitToken(1, 1, ring_id, (1, 2), entries, index=1)), 0.0)
    assert model.state is MembState.COMMIT
    [(_, [passed_on])] = [sent for sent in model.take().datagrams if sent[0] == 1]
    full = codec.decode(passed_on)
    assert isinstance(full, CommitToken)
    assert (full.token_seq, full.index) == (2, 2)
    full.token_seq = 3
    model.receive(codec.encode(full), 0.0)
    assert model.state is MembState.RECOVERY
    return model, ring_id


def _mcast(sender: int, ring_id: RingId, seq: int, body: bytes = b"m", *, encapsulated: bool = False) -> bytes:
    frame = body if encapsulated else codec.frame([len(body)], 0, 0) + body
    return codec.seal_mcast(sender, seq, 0, codec.ring_id_bytes(ring_id), 0, encapsulated, [frame])


def _visit(model: CorosyncModel, **token: int) -> Token:
    """Give node 2 the token; return what it passes on."""
    model.receive(codec.encode(Token(1, model.ring_id, **token)), 0.0)
    answer = codec.decode(model.take().datagrams[-1][1][0])
    assert isinstance(answer, Token)
    return answer


def test_a_plain_message_in_recovery_is_filed_into_the_old_queue() -> None:
    """Neighbours that install earlier do this to a real node, and it cannot finish when they still wait for it."""
    model, ring_id = _node_in_recovery()
    model.receive(_mcast(1, ring_id, 1), 0.0)
    assert list(model.regular_sort_queue.items) == [1]
    assert not model.recovery_sort_queue.items
    for token_seq in range(0, 40, 2):
        answer = _visit(model, seq=1, token_seq=token_seq, aru=1)
        model.receive(_mcast(1, ring_id, 1), 0.0)
        assert (answer.aru, answer.aru_holder) == (0, 2)
    assert answer.requests == [(ring_id, 1)]
    assert model.state is MembState.RECOVERY


def test_a_hole_in_the_recovery_queue_stays_after_install() -> None:
    """All up to the highest message there is released: the hole can be neither filled nor asked for."""
    model, ring_id = _node_in_recovery()
    for token_seq in (0, 2):
        _visit(model, seq=0, token_seq=token_seq, aru=0)
    assert model.my_install_seq == 0
    model.receive(_mcast(1, ring_id, 1), 0.0)
    model.receive(_mcast(1, ring_id, 2, _mcast(1, RingId(1, 5), 3), encapsulated=True), 0.0)
    for token_seq in range(4, 40, 2):
        answer = _visit(model, seq=2, token_seq=token_seq, aru=2)
        model.receive(_mcast(1, ring_id, 1), 0.0)
        assert (answer.aru, answer.aru_holder, answer.requests) == (0, 2, [])
    assert model.state is MembState.OPERATIONAL
    assert (model.my_aru, model.my_high_delivered) == (0, 2)


def test_the_initial_token_is_sent_once_for_any_commit_token_in_recovery() -> None:
    """A copy of the first rotation's last commit token that comes late is taken for the end of the second."""
    model = CorosyncModel(TWO, 1, ring_seq=0, dice=random.Random(0))
    model.loopback = 1.0
    model.start(0.0)
    for _ in range(2):
        model.receive(codec.encode(Join(2, 2, 1, (1, 2), ())), 0.0)
    [*_, (target, [first])] = model.take().datagrams
    returned = codec.decode(first)
    assert isinstance(returned, CommitToken)
    assert (target, returned.token_seq, returned.ring_id) == (2, 1, RingId(1, 5))
    returned.token_seq, returned.index = 2, 2
    for _ in range(3):
        model.receive(codec.encode(returned), 0.0)
    sent = [codec.decode(train[0]) for _, train in model.take().datagrams]
    assert [(type(packet), packet.token_seq) for packet in sent] == [(CommitToken, 3), (Token, 0)]
    assert sent[1] == Token(1, RingId(1, 5), aru=0xFFFFFFFF, aru_holder=1)


def test_duplicates_of_a_token_count_as_idle_visits_and_free_messages() -> None:
    model = CorosyncModel(THREE, 1, ring_seq=0, dice=random.Random(0))
    ring_id = RingId(1, 13)
    put_into_ring(model, 0.0, Token(3, ring_id, seq=5, token_seq=9, aru=5), [1, 2, 3])
    model.receive(_mcast(2, ring_id, 6), 0.0)
    token = codec.encode(Token(3, ring_id, seq=6, token_seq=9, aru=6))
    model.receive(token, 0.0)
    assert (model.my_seq_unchanged, model.last_released) == (0, 5)
    model.receive(token, 0.0)
    assert (model.my_seq_unchanged, model.last_released) == (1, 6)
    for _ in range(30):
        model.receive(token, 0.0)
    assert model.my_token_held
    assert len(model.take().datagrams) == 1


@pytest.mark.parametrize("fault", [True, False])
def test_a_token_that_comes_twice_costs_messages(fault: bool) -> None:
    """At a copy of the token, node 2 frees what node 3 has never got and no other node will have."""
    ring = Ring(3)
    ring.form(1, 2, 3)
    ring.models[2].frees_on_repeated_tokens = fault
    sent = []

    def lose_once_sent(source: int, target: int, datagram: bytes) -> bool:
        if codec.packet_type(datagram) == codec.TYPE_MCAST:
            sent.append(datagram)
        return bool(sent) and 3 in (source, target)

    ring.lose = lose_once_sent
    ring.multicast(1, b"seen by two")
    ring.run(ring.config.token_retransmit + 0.01)
    assert ring.messages(2) == [b"seen by two"]
    ring.crash(1)
    ring.lose = lambda source, target, datagram: False
    ring.run(20.0, lambda: ring.formed(2, 3))
    assert ring.seen[2][-1] == ring.seen[3][-1]
    assert ring.seen[2][-1].transitional == (2, 3)
    assert ring.messages(3) == ([] if fault else [b"seen by two"])


def test_a_join_after_a_pause_is_thrown_away_with_all_behind_it() -> None:
    model = CorosyncModel(TWO, 2, ring_seq=0, dice=random.Random(0))
    put_into_ring(model, 0.0, Token(1, RingId(1, 9), token_seq=9), [1, 2])
    message = _mcast(1, RingId(1, 9), 1)
    join = codec.encode(Join(1, 1, 99, (1, 2), ()))
    assert not model.overdue(0.4)
    assert model.overdue(0.6)
    model.receive(message, 0.6)
    model.receive(join, 0.6)
    model.receive(_mcast(1, RingId(1, 9), 2), 0.6)
    model.advance(0.6)
    assert model.state is MembState.OPERATIONAL
    assert model.my_aru == 1
    assert not model.overdue(0.6)
    model.receive(join, 0.6)
    assert model.state is MembState.GATHER


def test_what_is_left_in_staging_goes_out_in_the_next_stream() -> None:
    """The queue is full when the token comes, so the tail of a message stays behind and is sent among sync messages."""
    model = CorosyncModel(TWO, 2, ring_seq=0, dice=random.Random(0))
    put_into_ring(model, 0.0, Token(1, RingId(1, 9), token_seq=9), [1, 2])
    model.multicast([b"head" * 300, b"tail" * 100])
    tail = bytes(model.totempg._fragmentation_data)
    assert b"tail" * 90 not in tail
    model.new_message_queue.extend([b""] * (model.message_queue_max - len(model.new_message_queue)))
    model.totempg.callback_token_received()
    assert bytes(model.totempg._fragmentation_data) == tail
    model.waiting_trans_ack = True
    model.multicast_sync([b"sync"])
    model.totempg.callback_token_received()
    [frame] = model.new_message_queue_trans
    assert (frame[4], frame[5], frame[12:]) == (0, 1, tail + b"sync")


def test_clients_wait_until_sync_is_complete_and_no_longer() -> None:
    ring = Ring(2)
    ring.sync_at_once = False
    ring.start(1)
    ring.run(0.1)
    ring.multicast(1, b"early")
    ring.run(0.1)
    assert ring.messages(1) == []
    ring.models[1].multicast_sync([b"sync"])
    ring.perform(1)
    ring.run(0.1)
    assert ring.messages(1) == [b"sync"]
    ring.models[1].sync_complete(RingId(1, 1))
    assert ring.models[1].waiting_trans_ack
    ring.models[1].sync_complete(ring.models[1].ring_id)
    ring.perform(1)
    ring.run(0.1)
    assert ring.messages(1) == [b"sync", b"early"]


def test_a_message_cut_by_a_configuration_change_goes_on_with_its_next_fragment() -> None:
    ring = Ring(3)
    ring.form(1, 2)
    long, short = b"long" * 200_000, b"short"
    ring.multicast(1, long, short)
    ring.run(0.001)
    assert ring.messages(2) == []
    ring.form(1, 2, 3)
    ring.run(0.5)
    assert ring.messages(1) == ring.messages(2) == [long, short]
    assert ring.messages(3) == [short]


def test_the_queue_is_bounded() -> None:
    ring = Ring(2)
    ring.form(1, 2)
    model = ring.models[1]
    room = model.room
    assert room > 4_000_000
    with pytest.raises(MessageTooLong):
        model.multicast([bytes(2**20 + 1)])
    with pytest.raises(QueueFull):
        model.multicast([bytes(2**20)] * 5)
    assert model.room == room
    model.multicast([bytes(2**20)] * 3)
    assert room - model.room > 3_000_000
    ring.perform(1)
    ring.run(10.0)
    assert ring.messages(2) == [bytes(2**20)] * 3
    assert model.room == room


# Putting messages together.


def test_assembly_of_whole_and_cut_messages() -> None:
    assembly = Assembly()
    assert assembly.take(1, 0, [b"one", b"two", b"th"]) == [b"one", b"two"]
    assert assembly.take(2, 1, [b"r"]) == []
    assert assembly.take(3, 2, [b"ee", b"fo"]) == [b"three"]
    assert assembly.take(4, 3, [b"ur", b"five", b"si"]) == [b"four", b"five"]
    assert assembly.take(0, 4, [b"x", b"seven"]) == [b"six", b"seven"]


def _totempg_with(*frames: tuple[int, int, list[bytes]]) -> tuple[Totempg, list[bytes]]:
    totempg = Totempg(1402, lambda _: None, lambda: 1)
    return totempg, [
        message
        for fragmented, continuation, pieces in frames
        for message in totempg.deliver(
            7, bytes(45) + codec.frame([*map(len, pieces)], fragmented, continuation) + b"".join(pieces)
        )
    ]


@pytest.mark.parametrize(
    ("frames", "delivered"),
    [
        # Joined in the middle of a message: all is dropped, up to and including the next frame with an end.
        ([(4, 3, [b"cut"]), (0, 4, [b"end", b"packed behind"]), (0, 0, [b"next"])], [b"next"]),
        ([(0, 4, [b"end", b"packed behind"]), (0, 0, [b"next"])], [b"next"]),
        ([(2, 1, [b"end", b"whole", b"head"]), (0, 2, [b"tail", b"whole"]), (0, 0, [b"next"])], [b"next"]),
        # A new message that begins there is lost as well, though throwing away ends with its first fragment.
        ([(5, 4, [b"cut"]), (1, 5, [b"end", b"a"]), (2, 1, [b"b"]), (0, 2, [b"c"]), (0, 0, [b"next"])], [b"next"]),
        # A fragment missing in the middle.
        ([(1, 0, [b"a"]), (3, 2, [b"c"]), (0, 3, [b"d"]), (0, 0, [b"next"])], [b"next"]),
        # A reset frame, neither 0 nor what is expected, ends every such state, in a node that is in good order too.
        ([(1, 0, [b"a"]), (0, 9, [b"!"]), (0, 0, [b"next"])], [b"next"]),
        ([(0, 9, [b"!"]), (0, 0, [b"next"])], [b"next"]),
        ([(4, 3, [b"cut"]), (0, 9, [b"!"]), (0, 0, [b"next"])], [b"next"]),
        # The sender begins again without one: two messages are lost, or one.
        ([(2, 1, [b"a"]), (1, 0, [b"a"]), (0, 1, [b"b"]), (0, 0, [b"next"])], [b"next"]),
        ([(1, 0, [b"a"]), (0, 0, [b"lost"]), (0, 0, [b"next"])], [b"next"]),
    ],
)
def test_throwing_away(frames: list[tuple[int, int, list[bytes]]], delivered: list[bytes]) -> None:
    assert _totempg_with(*frames)[1] == delivered


def test_the_two_sets_of_buffers_do_not_mix_and_are_dropped_together() -> None:
    totempg, _ = _totempg_with((1, 0, [b"he"]))
    totempg.waiting_transack = True
    assert totempg.deliver(7, bytes(45) + codec.frame([4], 0, 0) + b"sync") == [b"sync"]
    assert totempg.deliver(7, bytes(45) + codec.frame([1], 1, 0) + b"s") == []
    totempg.waiting_transack = False
    assert totempg.deliver(7, bytes(45) + codec.frame([3], 0, 1) + b"llo") == [b"hello"]
    totempg.drop_assemblies([7])
    totempg.waiting_transack = True
    assert totempg.deliver(7, bytes(45) + codec.frame([1], 0, 1) + b"c") == []


@pytest.mark.parametrize("frame", [b"", bytes(7), codec.frame([5], 0, 0) + b"four", codec.frame([], 0, 0)])
def test_a_frame_that_does_not_fit_is_ignored(frame: bytes) -> None:
    assert Totempg(1402, lambda _: None, lambda: 1).deliver(7, bytes(45) + frame) == []


# What kills a real node.


def test_a_message_of_more_than_a_mebibyte_kills() -> None:
    totempg = Totempg(1402, lambda _: None, lambda: 1)
    piece = codec.frame([60_000], 1, 0) + bytes(60_000)
    assert totempg.deliver(7, bytes(45) + piece) == []
    for _ in range(17):
        assert totempg.deliver(7, bytes(45) + codec.frame([60_000], 1, 1) + bytes(60_000)) == []
    with pytest.raises(AssertionError, match="overruns the assembly buffer"):
        totempg.deliver(7, bytes(45) + codec.frame([60_000], 1, 1) + bytes(60_000))


def test_a_full_commit_token_kills_who_never_entered_commit() -> None:
    model = CorosyncModel(TWO, 2, ring_seq=0, dice=random.Random(0))
    model.start(0.0)
    model.receive(codec.encode(Join(1, 1, 5, (1, 2), ())), 0.0)
    entries = [CommitEntry(RingId(1, 5), 3, 3, 1), CommitEntry(RingId(2, 5), 3, 3, 1)]
    with pytest.raises(AssertionError, match="never entered commit"):
        model.receive(codec.encode(CommitToken(1, 3, RingId(1, 9), (1, 2), entries, index=2)), 0.0)


def test_a_token_too_far_ahead_kills() -> None:
    model = CorosyncModel(TWO, 2, ring_seq=0, dice=random.Random(0))
    put_into_ring(model, 0.0, Token(1, RingId(1, 9), token_seq=9), [1, 2])
    with pytest.raises(AssertionError, match="16384 messages between aru and the token's seq"):
        model.receive(codec.encode(Token(1, RingId(1, 9), seq=16384, token_seq=9)), 0.0)


def test_a_multicast_without_room_for_a_second_header_kills_in_recovery() -> None:
    ring = Ring(3, Config.for_nodes(3, token=1.0, netmtu=65507))
    ring.form(1, 2, 3)
    ring.lose = lambda source, target, datagram: target == 3 and codec.packet_type(datagram) == codec.TYPE_MCAST
    two = ring.models[2]
    two.receive(_mcast(1, two.ring_id, 1, bytes(65_450)), ring.now)
    ring.crash(1)
    ring.lose = lambda source, target, datagram: False
    with pytest.raises(AssertionError, match="does not fit in its buffers"):
        ring.run(20.0, lambda: ring.formed(2, 3))


# Joins.


def test_joins_without_news_are_answered_at_once_but_not_for_ever() -> None:
    """Two nodes that do this to each other would never stop, and their consensus timers never expire."""
    model = _operational(members=(2,), seq=5)
    model.receive(codec.encode(Join(1, 1, 5, (1, 2, 3), (3,))), 0.0)
    assert (model.my_proc_list, model.my_failed_list) == ([2, 1, 3], [])
    for k in range(1, 40):
        model.take()
        model.receive(codec.encode(Join(1, 1, 5, (1, 2, 3), (3,))), k * 0.001)
        answers = [codec.decode(train[0]) for _, train in model.take().datagrams]
        assert answers == ([Join(2, 2, 5, (2, 1, 3), ())] if k <= JOIN_STORM else [])
    assert model.stats["join storm"] == 39 - JOIN_STORM


def _operational(*, members: tuple[int, ...] = (1, 2, 3), seq: int = 13) -> CorosyncModel:
    model = CorosyncModel(THREE, 2, ring_seq=0, dice=random.Random(0))
    put_into_ring(model, 0.0, Token(1, RingId(members[0], seq), token_seq=9), list(members))
    return model


@pytest.mark.parametrize(
    ("join", "proc_list", "failed_list"),
    [
        (Join(1, 1, 13, (1, 2, 3), ()), [1, 2, 3], []),  # nothing new, but somebody has left the ring
        (Join(1, 1, 12, (1, 2, 3), ()), None, None),  # stale
        (Join(4, 4, 1, (4,), ()), [1, 2, 3, 4], []),
        (Join(4, 4, 1, (4, 5), (1,)), [1, 2, 3, 4, 5], []),  # a stranger's failed list is not believed
        (Join(1, 1, 13, (1, 2, 3), (3,)), [1, 2, 3], [3]),  # a member's is
        (Join(1, 1, 13, (1, 2, 3), (2,)), None, None),  # not about ourselves
        (Join(0, 3, 13, (1, 2), (3,)), [1, 2, 3], [3]),  # a leave
        (Join(0, 4, 13, (1, 2), (4,)), [1, 2, 3], []),  # of one who is no member: a gather for nothing
    ],
)
def test_joins_while_operational(join: Join, proc_list: list[int] | None, failed_list: list[int] | None) -> None:
    model = _operational()
    model.receive(codec.encode(join), 0.0)
    if proc_list is None:
        assert model.state is MembState.OPERATIONAL
    else:
        assert (model.state, model.my_proc_list, model.my_failed_list) == (MembState.GATHER, proc_list, failed_list)


def test_who_holds_us_for_failed_is_held_for_failed() -> None:
    model = _operational()
    model.receive(codec.encode(Join(1, 1, 13, (1, 2, 3), ())), 0.0)
    model.receive(codec.encode(Join(3, 3, 13, (1, 2, 3, 4), (2,))), 0.0)
    assert (model.my_proc_list, model.my_failed_list) == ([1, 2, 3, 4], [3])
    model.receive(codec.encode(Join(3, 3, 13, (1, 2, 3, 4, 5), ())), 0.0)
    assert model.my_proc_list == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", [Mcast, MergeDetect])
def test_foreign_packets_add_their_sender(kind: type) -> None:
    model = _operational()
    foreign = RingId(4, 5)

    def packet(sender: int) -> bytes:
        if kind is Mcast:
            return _mcast(sender, foreign, 1)
        return codec.encode(MergeDetect(sender, sender, foreign))

    model.receive(packet(4), 0.0)
    assert (model.state, model.my_proc_list) == (MembState.GATHER, [1, 2, 3, 4])
    model.take()
    model.receive(packet(4), 0.0)
    assert model.take().datagrams == []
    model.receive(packet(5), 0.0)
    assert model.my_proc_list == [1, 2, 3, 4, 5]
    assert len(model.take().datagrams) == 1


def test_malformed_datagrams_are_counted_and_dropped() -> None:
    model = _operational()
    dice = random.Random(1)
    for length in range(200):
        model.receive(dice.randbytes(length), 0.0)
    assert model.stats["short"] + model.stats["foreign magic"] == 200
    assert model.state is MembState.OPERATIONAL


@pytest.mark.parametrize(
    ("a", "b", "before"),
    [
        (1, 2, True),
        (2, 1, False),
        (5, 5, False),
        (0xFFFFFFFF, 0, True),
        (0, 0xFFFFFFFF, False),
        (2**31, 2**31 + 9, True),
    ],
)
def test_sequence_numbers_are_compared_with_rollover(a: int, b: int, before: bool) -> None:
    assert sq_lt_compare(a, b) is before
    assert sq_lte_compare(a, b) is (before or a == b)


def test_own_packets_come_back_a_moment_later() -> None:
    model = CorosyncModel(TWO, 1, ring_seq=0, dice=random.Random(0))
    model.start(1.0)
    assert model.state is MembState.GATHER
    assert model.deadline == pytest.approx(1.0 + LOOPBACK)
    model.advance(model.deadline)
    assert model.state is MembState.COMMIT
