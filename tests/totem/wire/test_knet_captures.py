"""Every packet that real rings sent over knet is understood, with nothing left over, and built again byte by byte."""

from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.totem.wire.knet_captures import CAPTURES, FOREIGN, of_kind, packets, settings
from totem.config import CIPHERS, HASHES
from totem.links.arrivals import Arrivals
from totem.links.compression import decompress
from totem.links.crypto import Sealed
from totem.wire import codec, knet

each_capture = pytest.mark.parametrize("name", CAPTURES)
IP_UDP = 28
SMALLEST_IP = 576 - 40 - 28
"""What libknet takes for the UDP payload of the smallest packet: under IPv6, and SCTP's header."""


def built_again(packet):
    """Build a packet from what the codec reads in it."""
    data = packet.data
    kind = data[1]
    if kind == knet.PING:
        return knet.ping(packet.source, knet.read_ping(data))
    if kind == knet.PONG:
        assert knet.read_ping(data).link == packet.link
        return knet.pong(packet.source, data)
    if kind == knet.PROBE:
        link, size = knet.read_probe(data)
        return knet.probe(packet.source, link, size, packet.knet.packet_room(size - IP_UDP))
    if kind == knet.PROBE_REPLY:
        return knet.probe_reply(packet.source, data)
    assert kind == knet.DATA
    return knet.data_header(packet.source, knet.read_fragment(data), for_all=bool(data[10])) + data[knet.DATA_HEADER :]


def data_of(name, source):
    """Yield what a node has sent on all links, each copy to each node: (packet, what its header says)."""
    for packet in of_kind(name, knet.DATA):
        if packet.source == source:
            yield packet, knet.read_fragment(packet.data)


def sources(name):
    return sorted({packet.source for packet in packets(name)})


def real(name):
    return [source for source in sources(name) if source != FOREIGN.get(name)]


def users_packets(name, source, target):
    """Return what `target` makes of all that `source` sends to it, and how many packets it has refused."""
    arrivals, whole, refused = Arrivals(), [], 0
    for packet in packets(name):
        if (packet.source, packet.target) != (source, target):
            continue
        data = packet.data
        if data[1] == knet.PING:
            arrivals.note_ping(knet.read_ping(data))
        if data[1] != knet.DATA:
            continue
        said, piece = knet.read_fragment(data), data[knet.DATA_HEADER :]
        if said.fragments > 1:
            made = arrivals.add(said, piece)
        else:
            made = piece if arrivals.is_new(said.seq) else None
            refused += made is None
        if made is not None:
            whole.append(decompress(said.compression, made) if said.compression else made)
    return whole, refused


def test_all_captures_are_there():
    assert len(CAPTURES) == 8
    assert sum(len(packets(name)) for name in CAPTURES) == 9652


@each_capture
def test_each_packet_says_who_sends_it_and_is_built_again(name):
    for packet in packets(name):
        assert knet.PREFIX.unpack_from(packet.data)[::2] == (knet.VERSION, packet.source)
        assert built_again(packet) == packet.data


@pytest.mark.parametrize("name", ["02-aes256-sha256", "07-key-change"])
def test_what_is_sealed_with_the_same_salt_is_the_same(name):
    """The state of CBC goes on from packet to packet, so the random bytes are chosen that make the salt of each."""
    for used in settings(name):
        begin = bytes(range(16))
        raw = Cipher(algorithms.AES(used.key[: CIPHERS[used.cipher]]), modes.ECB()).decryptor()
        randoms = iter([begin])
        seal = Sealed(used.cipher, used.hash, used.key, lambda size: next(randoms))  # noqa: B023 - used here only
        before = begin
        for packet in packets(name):
            if packet.knet.hash != used.hash:
                continue
            salt = raw.update(packet.sealed[:16])
            randoms = iter([bytes(a ^ b for a, b in zip(salt, before, strict=True))])
            (sealed,) = seal.seal((packet.data,))
            assert sealed == packet.sealed
            before = sealed[: -HASHES[used.hash]][-16:]


@each_capture
def test_fragments_make_packets_of_totem_and_none_is_left_over(name):
    for source in sources(name):
        for target in {packet.target for packet in packets(name) if packet.source == source}:
            whole, _ = users_packets(name, source, target)
            sent = [
                (packet.data[6:8], packet.link) for packet, said in data_of(name, source) if packet.target == target
            ]
            runs = len({seq for seq, _ in sent})
            if name != "01-plain":  # there node 2 starts again, and its numbers come twice
                assert len(whole) == runs
            for packet in whole:
                assert codec.encode(codec.decode(packet)) == packet[:9] + bytes(4) + packet[13:]
                assert int.from_bytes(packet[9:13], "little") in (0, target)


@pytest.mark.parametrize("source", [1, 2, 3])
def test_a_receiver_gets_everything_twice_in_active_mode(source):
    for target in {1, 2, 3} - {source}:
        copies = Counter(
            packet.data for packet, said in data_of("08-two-links-active", source) if packet.target == target
        )
        twice = [data for data, count in copies.items() if count == 2]
        assert len(twice) >= 16  # for a while one link alone was up
        _, refused = users_packets("08-two-links-active", source, target)
        assert refused >= len([data for data in twice if data[11] == 1])


@each_capture
def test_fragments_are_as_large_as_the_room_of_the_mtu_or_of_the_smallest_one(name):
    for source in real(name):
        for packet, said in data_of(name, source):
            rooms = {packet.knet.user_data_room(size) for size in (SMALLEST_IP, 1500 - IP_UDP)}
            size = len(packet.data) - knet.DATA_HEADER
            assert size in rooms if 0 < said.number < said.fragments else 0 < size <= max(rooms)


def test_both_rooms_are_among_them():
    sizes = {
        name: Counter(
            len(packet.data) - knet.DATA_HEADER for packet, said in data_of(name, 1) if 0 < said.number < said.fragments
        )
        for name in ("01-plain", "02-aes256-sha256")
    }
    assert set(sizes["01-plain"]) == {482, 1446}
    assert set(sizes["02-aes256-sha256"]) == {421, 1397}


@each_capture
def test_numbers_only_rise_and_none_is_zero(name):
    for source in real(name):
        seqs = [said.seq for _, said in data_of(name, source)]
        assert 0 not in seqs
        starts = 3 if (name, source) == ("01-plain", 2) else 1
        assert 1 + sum(after < seq for seq, after in pairwise(seqs)) == starts


@each_capture
def test_regular_pings_tell_the_last_number(name):
    for source in real(name):
        last = 0
        for packet in packets(name):
            if packet.source != source:
                continue
            if packet.data[1] == knet.DATA:
                last = knet.read_fragment(packet.data).seq
            elif packet.data[1] == knet.PING:
                said = knet.read_ping(packet.data)
                assert said.timed
                assert said.link == packet.link
                if said.seq == 0:  # it has just started
                    last = 0
                assert said.seq >= last  # what is lost on its way to the bridge has a number, too


@each_capture
def test_pongs_and_replies_answer_what_was_asked(name):
    asked = defaultdict(set)
    for packet in packets(name):
        kind, way = packet.data[1], (packet.link, packet.source, packet.target)
        if kind in (knet.PING, knet.PROBE):
            end = knet.PING_BYTES if kind == knet.PING else knet.PROBE_BYTES
            asked[way].add(bytes([kind + 1]) + packet.data[4:end])
        elif kind in (knet.PONG, knet.PROBE_REPLY):
            back = packet.link, packet.target, packet.source
            asked[back].remove(bytes([kind]) + packet.data[4:])
