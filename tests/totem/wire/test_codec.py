"""What the other tests of the codec do not reach: the sender's side, frames of odd sizes, this package's own blocks."""

import pytest

from totem.configuration import NO_RING, RingId
from totem.wire import codec, layout
from totem.wire.messages import CommitEntry, CommitToken, Hello, Hint, Join, Mcast, Token

RING = RingId(1, 9)
RING_BYTES = codec.ring_id_bytes(RING)
HELLO = Hello(
    version=codec.HELLO_VERSION,
    features=3,
    old_ring_id=RingId(1, 5),
    safe_line=77,
    obligations=(1, 2),
    window=800,
    largest_pause_ms=12,
    frame_size=1427,
    daemon=False,
)
HINT = Hint(cluster_name="Zürich", frame_size=1427, features=3)


@pytest.mark.parametrize("encapsulated", [False, True])
def test_seal_writes_what_encode_writes(encapsulated):
    inner = codec.seal_mcast(1, 1, 0, RING_BYTES, 0, False, [b"body"])
    sealed = codec.seal_mcast(7, 5, 4, RING_BYTES, 1, encapsulated, [inner])
    mcast = Mcast(
        sender=7, origin=7, seq=5, ring_id=RING, this_seqno=4, guarantee=1, encapsulated=encapsulated, data=inner
    )
    assert sealed == codec.encode(mcast)
    assert codec.decode(sealed) == mcast


def test_the_sender_s_own_count_wraps():
    sealed = codec.seal_mcast(1, 1, (1 << 32) + 5, RING_BYTES, 0, False, [])
    assert codec.decode(sealed).this_seqno == 5


@pytest.mark.parametrize("count", [1, 2, 511, 512, 513, 2000])
def test_frames_of_any_number_of_pieces(count):
    pieces = [bytes([number % 251]) * (number % 5) for number in range(count)]
    header = codec.frame([len(piece) for piece in pieces], 3, 2)
    assert len(header) == 8 + 2 * count
    assert codec.parse_frame(b"".join((header, *pieces)), 0) == (3, 2, pieces)


def test_the_largest_lists_can_be_written_and_read():
    everybody = tuple(range(1, layout.MAX_PROCESSORS + 1))
    for message in (
        Join(sender=1, origin=1, ring_seq=1, candidates=everybody, failed=everybody),
        CommitToken(sender=1, token_seq=1, ring_id=RING, members=everybody, entries=[CommitEntry() for _ in everybody]),
        Token(sender=1, ring_id=RING, requests=[(RING, seq) for seq in range(layout.MAX_REQUESTS)]),
    ):
        assert codec.decode(codec.encode(message)) == message
    assert codec.decode_hello(codec.encode_hello(HELLO)) == HELLO


def test_what_we_write_ourselves_is_within_the_limits():
    too_many = tuple(range(1, layout.MAX_PROCESSORS + 2))
    for message in (
        Join(sender=1, origin=1, ring_seq=1, candidates=too_many, failed=()),
        CommitToken(sender=1, token_seq=1, ring_id=RING, members=too_many, entries=[CommitEntry()] * len(too_many)),
        CommitToken(sender=1, token_seq=1, ring_id=RING, members=(1, 2), entries=[CommitEntry()]),
        Token(sender=1, ring_id=RING, requests=[(RING, 1)] * 31),
    ):
        with pytest.raises(AssertionError):
            codec.encode(message)


def test_a_hello_travels_as_an_inner_multicast_of_no_ring():
    inner = codec.seal_mcast(2, 0, 0, codec.ring_id_bytes(NO_RING), 0, False, [codec.encode_hello(HELLO)])
    outer = codec.seal_mcast(2, 1, 0, RING_BYTES, 0, True, [inner])
    received = codec.decode(codec.decode(outer).data)
    assert (received.ring_id, received.seq, received.origin) == (NO_RING, 0, 2)
    assert codec.decode_hello(received.data) == HELLO


def test_a_hello_of_a_later_version_can_be_read():
    block = codec.encode_hello(HELLO)
    later = block[:4] + b"\x02\x00" + layout.TAG.pack(999, 3) + b"new" + block[6:] + layout.TAG.pack(1000, 0)
    assert codec.decode_hello(later) == Hello(
        version=2,
        features=HELLO.features,
        old_ring_id=HELLO.old_ring_id,
        safe_line=HELLO.safe_line,
        obligations=HELLO.obligations,
        window=HELLO.window,
        largest_pause_ms=HELLO.largest_pause_ms,
        frame_size=HELLO.frame_size,
        daemon=HELLO.daemon,
    )


@pytest.mark.parametrize(
    ("decode", "block"),
    [(codec.decode_hello, codec.encode_hello(HELLO)), (codec.decode_hint, codec.encode_hint(HINT))],
    ids=["hello", "hint"],
)
def test_a_block_is_read_whole_or_not_at_all(decode, block):
    assert decode(block) is not None
    assert not any(decode(block[:length]) for length in range(len(block)))
    assert decode(b"?" + block[1:]) is None
    assert decode(block + b"?") is None
    assert decode(block + layout.TAG.pack(999, 5000) + bytes(5000)) is None  # longer than any of ours


def test_a_hint_is_no_hello():
    assert codec.decode_hello(codec.encode_hint(HINT)) is None
    assert codec.decode_hint(codec.encode_hello(HELLO)) is None


def test_a_hint_travels_behind_the_lists_of_a_join():
    join = Join(sender=1, origin=1, ring_seq=1, candidates=(1,), failed=(), hint=codec.encode_hint(HINT))
    assert codec.decode_hint(codec.decode(codec.encode(join)).hint) == HINT


def test_a_cluster_name_that_is_no_text_is_no_hint():
    block = codec.encode_hint(HINT)
    assert codec.decode_hint(block.replace("ü".encode(), b"\xff\xff")) is None
