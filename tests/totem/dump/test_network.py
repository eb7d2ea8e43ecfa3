"""From packets of every link layer to datagrams, with fragments put together, and with a bound on all that is kept."""

import random

import pytest

from tests.totem.dump.writing import (
    cooked,
    cooked_2,
    ethernet,
    fragments,
    ipv4,
    ipv6,
    ipv6_fragment,
    loopback,
    udp,
)
from tests.totem.wire.captures import CAPTURES
from tests.totem.wire.pcap import datagrams, frames
from totem.dump import network
from totem.dump.captures import Packet
from totem.dump.network import Reassembler

PAYLOAD = bytes(range(200))


def packet(data, link=network.ETHERNET, time=1.0, length=None, **where):
    return Packet(time, link, data, length or len(data), where.get("interface", 0), where.get("direction", 0))


def taken(*packets):
    reader = Reassembler()
    return [datagram for one in packets if (datagram := reader.take(one))]


@pytest.mark.parametrize(
    ("link", "wrap"),
    [
        (network.ETHERNET, ethernet),
        (network.ETHERNET, lambda ip: ethernet(ip, [0x8100])),
        (network.ETHERNET, lambda ip: ethernet(ip, [0x88A8, 0x8100])),
        (network.COOKED, cooked),
        (network.COOKED_2, cooked_2),
        (network.RAW, bytes),
        (12, bytes),
        (network.NULL, loopback),
        (network.NULL, lambda ip: loopback(ip, ">")),
        (network.LOOP, lambda ip: loopback(ip, ">")),
    ],
)
@pytest.mark.parametrize("version", [4, 6])
def test_every_link_layer(link, wrap, version):
    ip = ipv4(udp(PAYLOAD)) if version == 4 else ipv6(udp(PAYLOAD))
    (datagram,) = taken(packet(wrap(ip), link))
    addresses = ("10.77.0.1", "10.77.0.2") if version == 4 else ("fd00::1", "fd00::2")
    assert (datagram.source, datagram.destination) == addresses
    assert (datagram.source_port, datagram.destination_port) == (5405, 5405)
    assert (datagram.payload, datagram.length) == (PAYLOAD, 200)


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name.removesuffix(".pcap.gz"))
def test_the_captures_read_as_the_tests_own_reader_reads_them(path):
    found = taken(*(packet(data, time=time) for time, data in frames(path)))
    plain = [(d.time, d.source, d.source_port, d.destination, d.destination_port, d.payload) for d in found]
    assert plain == [
        (d.time, d.source, d.source_port, d.destination, d.destination_port, d.payload) for d in datagrams(path)
    ]


def test_padding_of_short_frames_is_no_payload():
    (datagram,) = taken(packet(ethernet(ipv4(udp(b"x"))) + bytes(20)))
    assert datagram.payload == b"x"


def test_a_packet_that_the_card_shall_cut_has_no_length():
    (datagram,) = taken(packet(ethernet(ipv4(udp(PAYLOAD), total=0))))
    assert datagram.payload == PAYLOAD


@pytest.mark.parametrize("seed", range(5))
def test_ipv4_fragments_in_any_order(seed):
    pieces = fragments(udp(PAYLOAD), 48)
    random.Random(seed).shuffle(pieces)
    (datagram,) = taken(*(packet(ethernet(piece)) for piece in pieces))
    assert datagram.payload == PAYLOAD


def test_ipv6_fragments_behind_other_extension_headers():
    whole = udp(PAYLOAD)
    hop_by_hop = bytes([44, 0]) + bytes(6)
    first = ipv6(hop_by_hop + ipv6_fragment(whole[:96], 5, 0, True), following=0)
    second = ipv6(ipv6_fragment(whole[96:], 5, 96, False), following=44)
    (datagram,) = taken(packet(ethernet(second)), packet(ethernet(first)))
    assert datagram.payload == PAYLOAD


def test_fragments_of_several_datagrams_do_not_mix():
    one, other = fragments(udp(PAYLOAD), 104, identity=1), fragments(udp(PAYLOAD[::-1]), 104, identity=2)
    order = [one[0], other[0], other[1], one[1]]
    assert [d.payload for d in taken(*(packet(ethernet(piece)) for piece in order))] == [PAYLOAD[::-1], PAYLOAD]


def test_a_cut_fragment_leaves_what_is_before_it():
    first, second = fragments(udp(PAYLOAD), 104)
    cut = packet(ethernet(first)[:60], length=len(ethernet(first)))
    (datagram,) = taken(cut, packet(ethernet(second)))
    assert datagram.payload == PAYLOAD[: 60 - 14 - 20 - 8]
    assert datagram.length == 200


def test_a_cut_packet_shows_its_length():
    data = ethernet(ipv4(udp(PAYLOAD)))
    (datagram,) = taken(packet(data[:100], length=len(data)))
    assert (datagram.payload, datagram.length) == (PAYLOAD[:58], 200)


def test_waiting_fragments_have_a_bound():
    reader = Reassembler()
    for identity in range(3 * network.MOST_FRAGMENTED):
        reader.take(packet(ethernet(fragments(udp(PAYLOAD), 104, identity)[0])))
    assert reader.unfinished == network.MOST_FRAGMENTED
    assert reader.ignored["datagrams whose fragments did not all come"] == 2 * network.MOST_FRAGMENTED
    for _ in range(network.MOST_FRAGMENTS + 1):
        reader.take(packet(ethernet(fragments(udp(PAYLOAD), 104, 9999)[0])))
    assert reader.ignored["datagrams in too many fragments"] == 1


def test_a_datagram_on_its_way_through_a_machine_counts_once():
    data = ipv4(udp(PAYLOAD))
    seen = [
        packet(cooked_2(data, number, direction), network.COOKED_2) for number, direction in ((1, 3), (2, 0), (3, 4))
    ]
    assert len(taken(*seen)) == 1


def test_a_datagram_that_is_sent_again_counts_again():
    data = packet(ethernet(ipv4(udp(PAYLOAD))))
    assert len(taken(data, data)) == 2
    one, other = (packet(cooked_2(ipv4(udp(PAYLOAD)), number), network.COOKED_2) for number in (1, 2))
    assert len(taken(one, other._replace(time=one.time + 1))) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        ethernet(ipv4(udp(PAYLOAD), protocol=6)),
        ethernet(ipv4(b"short")),
        ethernet(ipv4(udp(PAYLOAD)))[:20],
        bytes(12) + b"\x08\x06" + bytes(28),
        ethernet(b"\x41" + bytes(40)),
        ethernet(ipv6(b"", following=0)),
    ],
)
def test_what_is_no_udp_is_passed_over(data):
    assert taken(packet(data)) == []


def test_a_link_type_that_is_not_read_is_counted():
    reader = Reassembler()
    assert reader.take(packet(b"abc", 105)) is None
    assert reader.ignored == {"packets of link type 105, which is not read": 1}
