"""Capture files of every format are read alike, and damaged ones are named."""

import gzip
import random

import pytest

from tests.totem.dump.writing import enhanced, interface, opened, pcap, section, simple, timed
from totem.dump.captures import LARGEST_PACKET, BadCapture, packets
from totem.dump.network import COOKED, ETHERNET

DATA = [bytes([number]) * (20 + number) for number in range(3)]
TIMED = timed(DATA, 1e9 + 0.25)
# No time of day, so that a test's name and the bytes that a seed damages are the same in every run.
COMPRESSED = gzip.compress(pcap(TIMED), mtime=0)


def read(data):
    return [(packet.time, packet.data) for packet in packets(opened(data))]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("nanoseconds", [False, True])
def test_pcap_of_either_order_and_clock(order, nanoseconds):
    assert read(pcap(TIMED, order=order, nanoseconds=nanoseconds)) == TIMED


@pytest.mark.parametrize("order", "<>")
def test_pcapng(order):
    data = section(order) + interface(order=order) + b"".join(enhanced(*packet, order=order) for packet in TIMED)
    assert read(data) == TIMED


def test_pcapng_interfaces_have_their_own_link_type_and_clock():
    nanoseconds = bytes.fromhex("09000100 09000000")
    binary = bytes.fromhex("09000100 8a000000")  # 2 to the -10
    later = bytes.fromhex("0e000800") + (100).to_bytes(8, "little")
    data = (
        section()
        + interface(options=nanoseconds)
        + interface(COOKED, options=binary)
        + interface(options=later)
        + enhanced(5.5, b"a", 0, unit=10**9)
        + enhanced(6.5, b"b", 1, unit=2**10)
        + enhanced(7.5, b"c", 2)
    )
    found = list(packets(opened(data)))
    assert [(packet.time, packet.interface) for packet in found] == [(5.5, 0), (6.5, 1), (107.5, 2)]
    assert [packet.link_type for packet in found] == [ETHERNET, COOKED, ETHERNET]


def test_pcapng_sections_begin_anew_and_unknown_blocks_are_passed():
    one = section() + interface() + enhanced(1, b"a") + interface() + bytes.fromhex("0b0000000c0000000c000000")
    other = section(">") + interface(COOKED, ">") + enhanced(2, b"b", order=">")
    assert [(packet.data, packet.link_type) for packet in packets(opened(one + other))] == [
        (b"a", ETHERNET),
        (b"b", COOKED),
    ]


def test_pcapng_simple_packets():
    whole, cut = packets(opened(section() + interface(snaplen=30) + simple(bytes(20)) + simple(bytes(30), 500)))
    assert (len(whole.data), whole.length) == (20, 20)
    assert (len(cut.data), cut.length) == (30, 500)


def test_gzipped():
    assert read(COMPRESSED) == TIMED


def test_a_packet_that_was_cut_says_so():
    (packet,) = packets(opened(pcap(TIMED[:1], lengths=[1500])))
    assert (len(packet.data), packet.length) == (20, 1500)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "magic number, at byte 0"),
        (b"\x7fELF....", "neither pcap nor pcapng: it begins with 7f 45 4c 46"),
        (pcap(TIMED)[:30], "in the middle of a packet's header, at byte 30"),
        (pcap(TIMED)[:-1], "in the middle of a packet, at byte"),
        (pcap([])[:20], "in the middle of the file's header"),
        (pcap([]) + bytes(8) + b"\xff" * 8, "a packet of 4294967295 bytes"),
        (COMPRESSED[:-9], "gzip"),
        (section()[:9], "a section's header"),
        (section()[:8] + bytes(20), "byte order mark 00 00 00 00"),
        (section() + bytes(8), "a block of 0 bytes"),
        (section() + interface()[:15], "in the middle of a block"),
        (section() + enhanced(1, b"a"), "interface 0, which is not described"),
        (section() + bytes.fromhex("0100000010000000 01000000 10000000"), "short interface"),
        (section() + interface() + bytes.fromhex("0600000010000000 01000000 10000000"), "short packet block"),
        (section() + interface() + enhanced(1, b"a").replace(b"\1\0\0\0", b"\7\0\0\0"), "a packet of 7 bytes"),
    ],
)
def test_a_damaged_file_is_named_with_the_place(data, text):
    with pytest.raises(BadCapture, match=text):
        list(packets(opened(data)))


def test_what_stands_before_the_damage_is_given():
    reading = packets(opened(pcap(TIMED)[:-1]))
    assert [next(reading).data, next(reading).data] == DATA[:2]


def test_no_bytes_raise_anything_else():
    dice = random.Random(4711)
    originals = [
        pcap(TIMED),
        pcap(TIMED, order=">"),
        section() + interface() + b"".join(enhanced(*packet) for packet in TIMED) + simple(b"abcd"),
        COMPRESSED,
    ]
    for _ in range(3000):
        data = bytearray(dice.choice(originals))
        for _ in range(dice.randint(1, 6)):
            data[dice.randrange(len(data))] = dice.choice((0, 1, 255, dice.randrange(256)))
        try:
            for packet in packets(opened(bytes(data))):
                assert len(packet.data) <= LARGEST_PACKET
        except BadCapture:
            pass
