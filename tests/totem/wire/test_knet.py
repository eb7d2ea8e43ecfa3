"""The bytes of knet: packets that real nodes have sent."""

import pytest

from totem.wire import knet
from totem.wire.knet import Fragment, Ping

PING = bytes.fromhex("01810001 0000 00 770d000000000000 3f8f883300000000 0000 01")
PONG = bytes.fromhex("01820001 0000 00 790d000000000000 7477e30b00000000 0000 01")
PROBE = bytes.fromhex("01830002 0000 00 dc05").ljust(1472, b"\0")
PROBE_REPLY = bytes.fromhex("01840001 0000 00 dc05")
MERGE_DETECT = bytes.fromhex("01000002 0000 0001 00 00 01 01 00 00")
TOKEN = bytes.fromhex("01000001 0000 0004 00 00 00 01 00 00")
FRAGMENTS = bytes.fromhex("01000001 0000 0009 00 00 01 02 01 00"), bytes.fromhex("01000001 0000 0009 00 00 01 02 02 00")


def test_a_ping_and_its_pong():
    said = knet.read_ping(PING)
    assert (said.link, said.seq, said.timed) == (0, 0, True)
    assert knet.moment(said.time) == 3447_864587583
    assert knet.ping(1, said) == PING
    assert knet.ping(1, Ping(0, knet.stamp(3447_864587583), 0, True)) == PING
    asked = knet.prefix(knet.PING, 2) + PONG[4:] + b"more"
    assert knet.pong(1, asked) == PONG


def test_a_probe_and_its_answer():
    assert knet.probe(2, 0, 1500, 1472) == PROBE
    assert knet.read_probe(PROBE) == (0, 1500)
    assert knet.probe_reply(1, PROBE) == PROBE_REPLY


@pytest.mark.parametrize(
    ("header", "host", "said", "for_all"),
    [
        (MERGE_DETECT, 2, Fragment(1, 0, 1, 0, 0), True),
        (TOKEN, 1, Fragment(4, 0, 1, 0, 0), False),
        (FRAGMENTS[0], 1, Fragment(9, 0, 2, 1, 0), True),
        (FRAGMENTS[1], 1, Fragment(9, 0, 2, 2, 0), True),
    ],
)
def test_data(header, host, said, for_all):
    assert knet.data_header(host, said, for_all=for_all) == header
    assert knet.read_fragment(header) == said
    assert header[: knet.PREFIX_BYTES] == knet.prefix(knet.DATA, host)


def test_whole_packets_of_one_train():
    assert knet.whole_headers(2, [1, 65535], for_all=True) == [
        MERGE_DETECT,
        knet.data_header(2, Fragment(65535, 0, 1, 0, 0), for_all=True),
    ]
