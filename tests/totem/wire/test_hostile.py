"""Whatever bytes come, only `MalformedDatagram` is raised, with one of a few known causes."""

import re
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.totem.wire import strategies
from tests.totem.wire.properties import check_blocks, check_datagram, check_frame, check_run_header
from tests.totem.wire.test_agreement import samples, seeded
from totem.configuration import NO_RING, RingId
from totem.errors import MalformedDatagram
from totem.wire import codec, layout
from totem.wire.messages import CommitEntry, CommitToken, HoldCancel, Join, Mcast, MergeDetect, Token

RING = RingId(1, 9)
FRAME = codec.frame([3], 0, 0) + b"abc"
TOKEN = codec.encode(Token(sender=1, ring_id=RING, requests=[(RING, 7)]))
MCAST = codec.encode(Mcast(sender=1, origin=1, seq=1, ring_id=RING, data=FRAME))
ENCAPSULATED = codec.encode(Mcast(sender=2, origin=2, seq=1, ring_id=RING, encapsulated=True, data=MCAST))
MERGE_DETECT = codec.encode(MergeDetect(sender=1, origin=1, ring_id=RING))
JOIN = codec.encode(Join(sender=1, origin=1, ring_seq=9, candidates=(1, 2), failed=(3,)))
COMMIT_TOKEN = codec.encode(
    CommitToken(sender=1, token_seq=1, ring_id=RING, members=(1, 2), entries=[CommitEntry(), CommitEntry()])
)
HOLD_CANCEL = codec.encode(HoldCancel(sender=1, ring_id=RING))
VALID = {
    "token": TOKEN,
    "mcast": MCAST,
    "encapsulated": ENCAPSULATED,
    "merge detect": MERGE_DETECT,
    "join": JOIN,
    "commit token": COMMIT_TOKEN,
    "hold cancel": HOLD_CANCEL,
}
HUGE = b"\xff\xff\xff\xff"
ONE_TOO_MANY = (layout.MAX_PROCESSORS + 1).to_bytes(4, "little")


def put(datagram: bytes, offset: int, data: bytes) -> bytes:
    return datagram[:offset] + data + datagram[offset + len(data) :]


MALFORMED = [
    ("short", b""),
    ("short", TOKEN[:12]),
    ("too long", TOKEN.ljust(65537, b"\0")),
    ("foreign magic", b"\0" * 60),
    ("swapped byte order", put(TOKEN, 0, b"\xc0\x70")),
    ("other version", put(TOKEN, 2, b"\x02")),
    ("unknown type", put(TOKEN, 3, b"\x06")),
    ("no sender", put(TOKEN, 5, bytes(4))),
    ("no sender", put(MERGE_DETECT, 5, bytes(4))),
    ("no sender", put(MERGE_DETECT, 13, bytes(4))),
    ("no sender", put(COMMIT_TOKEN, 5, bytes(4))),
    ("no sender", put(HOLD_CANCEL, 5, bytes(4))),
    ("short token", TOKEN[:56]),
    ("token with too many requests", put(TOKEN, 53, HUGE)),
    ("token with too many requests", put(TOKEN, 53, b"\x1f").ljust(600, b"\0")),
    ("token requests cut", TOKEN[:-1]),
    ("token requests cut", put(TOKEN, 53, b"\x1e")),
    ("short mcast", MCAST[:44]),
    ("mcast without sender", put(MCAST, 5, bytes(4))),
    ("mcast without sender", put(MCAST, 13, bytes(4))),
    ("mcast neither plain nor encapsulated", put(MCAST, 4, b"\0")),
    ("mcast neither plain nor encapsulated", put(MCAST, 4, b"\x03")),
    ("encapsulated mcast without inner mcast", ENCAPSULATED[:89]),
    ("encapsulated mcast without inner mcast", put(ENCAPSULATED, 45, b"\0")),
    ("encapsulated mcast without inner mcast", put(ENCAPSULATED, 48, b"\0")),
    ("encapsulated mcast with bad inner header", put(ENCAPSULATED, 49, b"\0")),
    ("encapsulated mcast with bad inner header", put(ENCAPSULATED, 50, bytes(4))),
    ("encapsulated mcast with bad inner header", put(ENCAPSULATED, 58, bytes(4))),
    ("short merge detect", MERGE_DETECT[:28]),
    ("short join", JOIN[:32]),
    ("join with too many processors", put(JOIN, 17, HUGE)),
    ("join with too many processors", put(JOIN, 21, HUGE)),
    ("join with too many processors", put(JOIN, 17, ONE_TOO_MANY).ljust(4000, b"\1")),
    ("join with too many processors", put(JOIN, 21, ONE_TOO_MANY).ljust(4000, b"\1")),
    ("join lists cut", JOIN[:-1]),
    ("join with node id 0", put(JOIN, 13, bytes(4))),
    ("join with node id 0", put(JOIN, 33, bytes(4))),
    ("join with node id 0", put(JOIN, 41, bytes(4))),
    ("short commit token", COMMIT_TOKEN[:40]),
    ("commit token with no or too many members", put(COMMIT_TOKEN, 37, bytes(4))),
    ("commit token with no or too many members", put(COMMIT_TOKEN, 37, HUGE)),
    ("commit token with no or too many members", put(COMMIT_TOKEN, 37, ONE_TOO_MANY).ljust(12000, b"\1")),
    ("commit token index out of range", put(COMMIT_TOKEN, 33, b"\x03")),
    ("commit token index out of range", put(COMMIT_TOKEN, 33, HUGE)),
    ("commit token entries cut", COMMIT_TOKEN[:-1]),
    ("commit token members out of order", put(COMMIT_TOKEN, 41, bytes(4))),
    ("commit token members out of order", put(COMMIT_TOKEN, 41, b"\x02")),
    ("commit token members out of order", put(COMMIT_TOKEN, 41, b"\x03")),
    ("short hold cancel", HOLD_CANCEL[:24]),
]
MALFORMED_FRAMES = [
    ("short frame", FRAME[:7]),
    ("other frame version", put(FRAME, 0, b"\1")),
    ("other frame version", put(FRAME, 2, b"\2")),
    ("other frame version", put(FRAME, 3, b"\1")),
    ("frame without pieces", codec.frame([], 0, 0)),
    ("frame lengths cut", FRAME[:9]),
    ("frame lengths cut", put(FRAME, 6, b"\xff\xff")),
    ("frame lengths do not fit", FRAME[:-1]),
    ("frame lengths do not fit", FRAME + b"d"),
    ("frame lengths do not fit", put(FRAME, 8, b"\xff\xff")),
]
CAUSES = {cause for cause, _ in MALFORMED} | {cause for cause, _ in MALFORMED_FRAMES} | {"short run header"}


@pytest.mark.parametrize("datagram", VALID.values(), ids=VALID)
def test_the_examples_are_valid_before_they_are_broken(datagram):
    assert check_datagram(datagram) is None


@pytest.mark.parametrize(("cause", "datagram"), MALFORMED, ids=[cause for cause, _ in MALFORMED])
def test_malformed(cause, datagram):
    with pytest.raises(MalformedDatagram) as caught:
        codec.decode(datagram)
    assert caught.value.cause == cause
    assert check_datagram(datagram) == cause


@pytest.mark.parametrize(("cause", "frame"), MALFORMED_FRAMES, ids=[cause for cause, _ in MALFORMED_FRAMES])
def test_malformed_frame(cause, frame):
    with pytest.raises(MalformedDatagram) as caught:
        codec.parse_frame(MCAST[:45] + frame)
    assert caught.value.cause == cause
    assert check_frame(frame) == cause


def test_a_compact_frame_is_malformed_where_the_ring_knows_none():
    with pytest.raises(MalformedDatagram, match="other frame version"):
        codec.parse_frame(MCAST[:45] + put(FRAME, 2, b"\1"))


@pytest.mark.parametrize("length", range(codec.RUN_HEADER))
def test_a_short_run_header(length):
    with pytest.raises(MalformedDatagram, match="short run header"):
        codec.parse_run_header(bytes(length))
    assert check_run_header(bytes(length)) == "short run header"


def test_every_cause_has_an_example_and_is_documented():
    source = Path(codec.__file__).read_text()
    fault = source[source.index("def _prefix_fault") : source.index("def check_mcast")]
    in_source = set(re.findall(r'MalformedDatagram\("([^"]+)"\)', source))
    in_source |= set(re.findall(r'(?:return|else) "([^"]+)"', fault))
    assert in_source == CAUSES
    document = (Path(codec.__file__).parents[2] / "docs" / "wire.md").read_text()
    assert [cause for cause in sorted(CAUSES) if f"`{cause}`" not in document] == []


@pytest.mark.parametrize("datagram", VALID.values(), ids=VALID)
def test_truncated_at_each_length(datagram):
    for length in range(len(datagram)):
        assert check_datagram(datagram[:length]) or datagram[3] == layout.TYPE_MCAST


def test_captures_truncated_at_each_length():
    for datagram in samples():
        header_end = 45 if datagram[3] == layout.TYPE_MCAST else len(datagram)
        for length in range(len(datagram)):
            try:
                codec.decode(datagram[:length])
            except MalformedDatagram as malformed:
                assert malformed.cause in CAUSES  # noqa: PT017
            else:
                assert length >= header_end
                if not codec.mcast_is_encapsulated(datagram):
                    with pytest.raises(MalformedDatagram, match="frame"):
                        codec.parse_frame(datagram[:length])


@seeded
@given(st.binary(max_size=200))
@example(b"\x70\xc0\x03\x01" * 40)
def test_random_bytes(data):
    assert check_datagram(data) in CAUSES


@seeded
@given(st.integers(0, 5), st.binary(max_size=200))
def test_random_bytes_behind_a_good_prefix(kind, data):
    check_datagram(struct.pack("<HBB", layout.MAGIC, layout.VERSION, kind) + data)


@seeded
@given(st.binary(max_size=80))
def test_random_frames_and_blocks(data):
    check_frame(data)
    check_blocks(data)
    check_blocks(layout.HELLO_MAGIC + data)
    check_blocks(layout.HINT_MAGIC + data)


@seeded
@given(strategies.mutated(st.sampled_from(samples())))
def test_mutated_captures_in_the_functions_of_the_hot_path(datagram):
    try:
        if codec.packet_type(datagram) == layout.TYPE_MCAST:
            codec.check_mcast(datagram)
            codec.mcast_seq(datagram)
            codec.parse_frame(datagram)
    except MalformedDatagram as malformed:
        assert malformed.cause in CAUSES  # noqa: PT017


def test_nothing_is_allocated_for_a_count_that_cannot_be():
    counts = [(17, JOIN), (21, JOIN), (53, TOKEN), (37, COMMIT_TOKEN)]
    tracemalloc.start()
    for offset, original in counts:
        with pytest.raises(MalformedDatagram):
            codec.decode(put(original, offset, HUGE))
    with pytest.raises(MalformedDatagram):
        codec.parse_frame(put(MCAST, 51, HUGE[:2]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 1024


def test_encapsulation_in_encapsulation_costs_no_depth():
    """A valid header is looked for once inside, however often it is repeated."""
    nested = MCAST
    while len(nested) < 60000:
        nested = ENCAPSULATED[:45] + nested
    assert codec.decode(nested).data == nested[45:]
    assert check_datagram(nested) is None


def test_only_a_join_may_be_sent_by_nobody():
    assert codec.decode(put(JOIN, 5, bytes(4))).is_leave


def test_no_ring_is_no_reason_to_drop_an_inner_multicast():
    hello = codec.seal_mcast(2, 0, 0, codec.ring_id_bytes(NO_RING), 0, False, [b"block"])
    outer = codec.seal_mcast(2, 1, 0, codec.ring_id_bytes(RING), 0, True, [hello])
    codec.check_mcast(outer)
    assert codec.decode(outer).data == hello
