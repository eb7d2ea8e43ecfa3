"""The bytes of knet are what the schema says, valid or not, and in what real nodes have sent."""

import pytest
from construct import ConstructError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.totem.wire.knet_captures import CAPTURES, packets
from tests.totem.wire.strategies import mutated
from totem.wire import knet, schema
from totem.wire.knet import Fragment, Ping

seeded = settings(derandomize=True, deadline=None, max_examples=300, database=None)
hosts = st.integers(0, 65535)
bytes_ = st.integers(0, 255)
pings = st.builds(Ping, bytes_, st.binary(min_size=16, max_size=16), hosts, st.booleans())
fragments = st.builds(Fragment, hosts, bytes_, bytes_, bytes_, st.integers(-128, 127))


def parsed(packet):
    form = schema.knet_format(packet)
    read = form.parse(packet)
    assert form.build(read) == packet
    return read


def agree(packet):
    """Check that both read the same; what is no packet for the schema is none for the receiver either."""
    try:
        read = parsed(packet)
    except ConstructError:
        version, kind = packet[:1], packet[1:2]
        known = {knet.DATA: knet.DATA_HEADER, knet.PING: knet.PING_BYTES, knet.PONG: knet.PING_BYTES}
        known |= {knet.PROBE: knet.PROBE_BYTES, knet.PROBE_REPLY: knet.PROBE_BYTES}
        assert version != bytes([knet.VERSION]) or not kind or len(packet) < known.get(kind[0], 1 << 20)
        return
    kind = read.header.kh_type
    assert knet.PREFIX.unpack_from(packet) == (knet.VERSION, kind, read.header.kh_node)
    if kind == knet.DATA:
        said = knet.read_fragment(packet)
        assert said == Fragment(
            read.khp_data_seq_num,
            read.khp_data_compress,
            read.khp_data_frag_num,
            read.khp_data_frag_seq,
            read.khp_data_channel,
        )
        assert packet[knet.DATA_HEADER :] == read.khp_data_userdata
    elif kind in (knet.PING, knet.PONG):
        assert knet.read_ping(packet) == Ping(
            read.khp_ping_link, read.khp_ping_time, read.khp_ping_seq_num, bool(read.khp_ping_timed)
        )
    else:
        assert knet.read_probe(packet) == (read.khp_pmtud_link, read.khp_pmtud_size)


@pytest.mark.parametrize("name", CAPTURES)
def test_captures(name):
    for data in dict.fromkeys(packet.data for packet in packets(name)):
        agree(data)


def samples():
    """Return one captured packet of each type and length."""
    found = {}
    for name in CAPTURES:
        for packet in packets(name):
            found.setdefault((packet.data[1], len(packet.data)), packet.data)
    return list(found.values())


@seeded
@given(hosts, pings)
def test_pings_and_pongs(host, said):
    for packet in (knet.ping(host, said), knet.pong(host, knet.ping(1, said))):
        read = parsed(packet)
        assert (read.header.kh_node, read.khp_ping_timed) == (host, said.timed)
        agree(packet)


@seeded
@given(hosts, bytes_, hosts, st.integers(9, 1472))
def test_probes_and_their_answers(host, link, size, length):
    probe = knet.probe(host, link, size, length)
    assert parsed(probe).khp_pmtud_data == bytes(length - 9)
    assert not parsed(knet.probe_reply(host, probe)).khp_pmtud_data
    agree(probe)


@seeded
@given(hosts, fragments, st.booleans(), st.binary(max_size=40))
def test_data(host, said, for_all, data):
    packet = knet.data_header(host, said, for_all=for_all) + data
    assert parsed(packet).khp_data_bcast == for_all
    agree(packet)


@seeded
@given(mutated(st.sampled_from(samples())))
def test_mutated_captures(packet):
    agree(packet)


@seeded
@given(st.binary(max_size=60))
def test_any_bytes(packet):
    agree(packet)
