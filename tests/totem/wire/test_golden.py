"""Packets of real nodes, written out: what each of them says, and that this package would write the same."""

import pytest

from tests.totem.wire.captures import CAPTURES, ring_datagrams
from tests.totem.wire.properties import check_datagram
from totem.configuration import RingId
from totem.wire import codec, schema
from totem.wire.messages import CommitEntry, CommitToken, HoldCancel, Join, MergeDetect, Token

PACKETS = {
    "join of node 1": (
        """
        70c00303 00010000 00000000 00010000 00020000 00000000 00050000 00000000
        00010000 00020000 00
        """,
        Join(sender=1, origin=1, ring_seq=5, candidates=(1, 2), failed=()),
    ),
    "leave of node 3": (
        """
        70c00303 00000000 00000000 00030000 00020000 00010000 000d0000 00000000
        00010000 00020000 00030000 00
        """,
        Join(sender=0, origin=3, ring_seq=13, candidates=(1, 2), failed=(3,)),
    ),
    "commit token, first entry filled": (
        """
        70c00304 00010000 00000000 00010000 00010000 00090000 00000000 00000000
        00010000 00020000 00010000 00020000 00010000 00050000 00000000 00080000
        00080000 00010000 00000000 00000000 00000000 00000000 00000000 00000000
        00
        """,
        CommitToken(
            sender=1,
            token_seq=1,
            ring_id=RingId(1, 9),
            members=(1, 2),
            entries=[CommitEntry(RingId(1, 5), aru=8, high_delivered=8, received_flag=1), CommitEntry()],
            index=1,
        ),
    ),
    "commit token, both entries filled": (
        """
        70c00304 00020000 00000000 00020000 00010000 00090000 00000000 00000000
        00020000 00020000 00010000 00020000 00010000 00050000 00000000 00080000
        00080000 00010000 00020000 00050000 00000000 00080000 00080000 00010000
        00
        """,
        CommitToken(
            sender=2,
            token_seq=2,
            ring_id=RingId(1, 9),
            members=(1, 2),
            entries=[
                CommitEntry(RingId(1, 5), aru=8, high_delivered=8, received_flag=1),
                CommitEntry(RingId(2, 5), aru=8, high_delivered=8, received_flag=1),
            ],
            index=2,
        ),
    ),
    "initial token, garbage in target_nodeid": (
        """
        70c00300 00010000 00000000 02000000 00000000 00ffffff ff010000 00010000
        00090000 00000000 00000000 00000000 00000000 00000000 00
        """,
        Token(sender=1, ring_id=RingId(1, 9), aru=0xFFFFFFFF, aru_holder=1),
    ),
    "token with three requests": (
        """
        70c00300 00030000 00000000 01ed0000 00330b00 00cb0000 00030000 00010000
        00270000 00000000 00000000 00010000 00000000 00030000 00010000 00270000
        00000000 00cc0000 00010000 00270000 00000000 00e30000 00010000 00270000
        00000000 00e60000 00
        """,
        Token(
            sender=3,
            ring_id=RingId(1, 0x27),
            seq=0xED,
            token_seq=0xB33,
            aru=0xCB,
            aru_holder=3,
            fcc=1,
            requests=[(RingId(1, 0x27), seq) for seq in (0xCC, 0xE3, 0xE6)],
        ),
    ),
    "merge detect of node 1, garbage in target_nodeid": (
        "70c00302 00010000 00b44f9f b7010000 00010000 00050000 00000000 00",
        MergeDetect(sender=1, origin=1, ring_id=RingId(1, 5)),
    ),
    "hold cancel": (
        "70c00305 00010000 00000000 00010000 000d0000 00000000 00",
        HoldCancel(sender=1, ring_id=RingId(1, 13)),
    ),
}

BARRIER = bytes.fromhex(
    """
    70c00301 02020000 00000000 00020000 00060000 00050000 00020000 00050000
    00000000 00000000 00000000 00000000 00000001 00280001 00040073 796e6300
    00000000 00000020 00000000 00000002 00000005 00000000 00000000 000000
    """
)
THREE_MESSAGES = bytes.fromhex(
    """
    70c00301 02020000 00000000 00020000 00080000 00070000 00020000 00050000
    00000000 00000000 00000000 00000000 00000003 00250025 00280001 00010061
    00000500 00000000 20000000 00000000 02000000 01000000 03000000 08000000
    01000100 61000005 00000000 00200000 00000000 00000000 00000000 00000000
    00000000 00010004 0073796e 63000000 00000000 00200000 00000000 00020000
    00050000 00000000 00000000 00
    """
)
PROCJOIN_HEAD = bytes.fromhex(
    """
    70c00301 02010000 00000000 00010000 00170000 00160000 00010000 000d0000
    00000000 00000000 00000000 00000000 00000001 00ad0001 00010061 00000200
    00000000 a8000000 00000000 04000000 00000000 64656d6f
    """
)
PROCJOIN_TAIL = bytes.fromhex("b7310000 00000000 01000000 00000000")
PROCJOIN = PROCJOIN_HEAD + bytes(228 - len(PROCJOIN_HEAD) - len(PROCJOIN_TAIL)) + PROCJOIN_TAIL
ENCAPSULATED_HEAD = bytes.fromhex(
    """
    70c00301 01020000 00000000 00020000 00010000 008f0100 00020000 00340000
    00000000 00000000 00000000 0070c003 01020100 00000000 00000100 00001800
    00000f00 00000100 00003000 00000000 00000000 00000000 00000000 00000100
    0300ad00 2101a603
    """
)


@pytest.mark.parametrize(("text", "message"), PACKETS.values(), ids=PACKETS)
def test_packet(text, message):
    datagram = bytes.fromhex(text)
    assert codec.decode(datagram) == message
    assert codec.encode(message) == datagram[:9] + bytes(4) + datagram[13:]
    assert schema.build(schema.parse(datagram)) == datagram
    assert check_datagram(datagram) is None


@pytest.mark.parametrize(
    ("datagram", "origin", "seq", "this_seqno", "ring_id"),
    [
        (BARRIER, 2, 6, 5, RingId(2, 5)),
        (THREE_MESSAGES, 2, 8, 7, RingId(2, 5)),
        (PROCJOIN, 1, 0x17, 0x16, RingId(1, 0xD)),
    ],
    ids=["barrier", "three messages", "procjoin"],
)
def test_multicast_is_sealed_to_the_same_bytes(datagram, origin, seq, this_seqno, ring_id):
    fragmented, continuation, pieces = codec.parse_frame(datagram)
    body = [codec.frame([len(piece) for piece in pieces], fragmented, continuation), *pieces]
    ring_bytes = codec.ring_id_bytes(ring_id)
    assert codec.seal_mcast(origin, seq, this_seqno, ring_bytes, 0, False, body) == datagram
    assert check_datagram(datagram) is None


def test_a_sync_message_has_the_group_sync():
    (message,) = map(schema.GroupHeader.parse, codec.parse_frame(BARRIER)[2])
    assert message.group_name == [b"sync"]
    assert len(message.message) == 32


def test_three_messages_in_one_frame():
    fragmented, continuation, pieces = codec.parse_frame(THREE_MESSAGES)
    assert (fragmented, continuation) == (0, 0)
    assert [len(piece) for piece in pieces] == [37, 37, 40]
    assert [schema.GroupHeader.parse(piece).group_name for piece in pieces] == [[b"a"], [b"a"], [b"sync"]]


def test_an_encapsulated_multicast_carries_the_whole_old_one():
    (datagram,) = {
        datagram.payload
        for path in CAPTURES
        for datagram in ring_datagrams(path)
        if datagram.payload.startswith(ENCAPSULATED_HEAD)
    }
    outer = codec.decode(datagram)
    assert (outer.sender, outer.seq, outer.ring_id, outer.encapsulated) == (2, 1, RingId(2, 0x34), True)
    inner = codec.decode(outer.data)
    assert (inner.sender, inner.seq, inner.ring_id, inner.encapsulated) == (1, 0x18, RingId(1, 0x30), False)
    assert check_datagram(datagram) is None
    assert check_datagram(outer.data) is None


def test_golden_packets_are_in_the_captures():
    heard = {datagram.payload for path in CAPTURES for datagram in ring_datagrams(path)}
    for datagram in (BARRIER, THREE_MESSAGES, PROCJOIN, *(bytes.fromhex(text) for text, _ in PACKETS.values())):
        assert datagram in heard, datagram.hex(" ", 4)
