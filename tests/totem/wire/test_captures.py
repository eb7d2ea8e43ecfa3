"""Every datagram that real rings sent is understood, with nothing left over."""

from collections import Counter
from functools import cache
from itertools import pairwise

import pytest

from tests.totem.wire.captures import CAPTURES, frames_by_ring, group_messages, ring_datagrams
from tests.totem.wire.pcap import datagrams, ipv4
from tests.totem.wire.pcap import frames as ethernet_frames
from tests.totem.wire.properties import check_datagram
from totem.wire import codec, schema
from totem.wire.layout import MESSAGE_ENCAPSULATED, TYPE_JOIN, TYPE_MCAST
from totem.wire.messages import CommitToken, Mcast, Token

each_capture = pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name.removesuffix(".pcap.gz"))


@cache
def distinct(path):
    return dict.fromkeys(datagram.payload for datagram in ring_datagrams(path))


def test_all_sixteen_captures_are_there():
    assert len(CAPTURES) == 16
    assert sum(sum(1 for _ in ring_datagrams(path)) for path in CAPTURES) == 12839


@each_capture
def test_nothing_but_the_ring_talks_udp(path):
    assert list(ring_datagrams(path)) == list(datagrams(path))


@each_capture
def test_codec_and_schema_agree_and_the_codec_writes_ignored_fields_as_zero(path):
    for datagram in distinct(path):
        assert check_datagram(datagram) is None, datagram.hex(" ", 4)


@each_capture
def test_schema_rebuilds_every_datagram_garbage_included(path):
    for datagram in distinct(path):
        assert schema.build(schema.parse(datagram)) == datagram


@each_capture
def test_only_target_nodeid_differs_when_the_codec_writes_a_packet_again(path):
    for datagram in distinct(path):
        assert codec.encode(codec.decode(datagram)) == datagram[:9] + bytes(4) + datagram[13:]


@each_capture
def test_nothing_is_left_over_behind_a_packet(path):
    for packet in map(schema.parse, distinct(path)):
        assert not packet.get("rest")


@each_capture
def test_every_piece_belongs_to_a_whole_message_with_a_known_group(path):
    packets = [packet for ring in frames_by_ring(path).values() for _, packet in ring.values()]
    frames = [schema.TotempgMcast.parse(packet.data) for packet in packets]
    for packet, frame in zip(packets, frames, strict=True):
        assert schema.TotempgMcast.build(frame) == packet.data
    messages = list(group_messages(path))
    whole = sum(frame.msg_count for frame in frames) - sum(1 for frame in frames if frame.continuation)
    assert len(messages) == whole
    for message in messages:
        assert message.group in {b"a", b"sync"}
        assert int.from_bytes(message.data[8:12], "little") == len(message.data)


def test_every_type_of_packet_is_among_them():
    kinds = Counter(type(codec.decode(datagram)).__name__ for path in CAPTURES for datagram in distinct(path))
    assert set(kinds) == {"Token", "Mcast", "MergeDetect", "Join", "CommitToken", "HoldCancel"}


def test_garbage_is_among_them():
    garbage = Counter(
        codec.packet_type(datagram) for path in CAPTURES for datagram in distinct(path) if any(datagram[9:13])
    )
    assert garbage[TYPE_JOIN]
    assert not garbage[TYPE_MCAST]


def test_fragments_of_ip_packets_are_put_together():
    (recovery,) = (path for path in CAPTURES if path.name.startswith("07-"))
    fragments = [packet for _, frame in ethernet_frames(recovery) if (packet := ipv4(frame)) and packet.more]
    largest = [datagram for datagram in distinct(recovery) if len(datagram) == 1500]
    assert fragments
    assert {datagram[4] for datagram in largest} == {MESSAGE_ENCAPSULATED}


def test_losses_fill_the_request_list():
    (losses,) = (path for path in CAPTURES if path.name.startswith("06-"))
    tokens = [message for message in map(codec.decode, distinct(losses)) if isinstance(message, Token)]
    assert max(len(token.requests) for token in tokens) > 1


def test_a_commit_token_fills_as_it_goes_round():
    (joins,) = (path for path in CAPTURES if path.name.startswith("02-"))
    tokens = [message for message in map(codec.decode, distinct(joins)) if isinstance(message, CommitToken)]
    for token in tokens:
        filled = [entry.old_ring_id.seq != 0 for entry in token.entries]
        assert filled == [position < token.index for position in range(len(token.members))]


def test_fragment_numbers_wrap_from_255_to_1():
    (long,) = (path for path in CAPTURES if path.name.startswith("15-"))
    numbers = [
        codec.parse_frame(datagram)[0] for datagram in distinct(long) if codec.packet_type(datagram) == TYPE_MCAST
    ]
    assert max(numbers) == 255
    assert (255, 1) in pairwise(numbers)


def test_corosync_asks_for_no_guarantee():
    for path in CAPTURES:
        assert {m.guarantee for m in map(codec.decode, distinct(path)) if isinstance(m, Mcast)} == {0}
