"""Between datagrams and the nouns of `messages`.

A datagram may come from anyone. Each length and count is checked against the bytes at hand before it is used, and only
`MalformedDatagram` is raised. Fields that Corosync does not read (target_nodeid, bytes behind a packet) are not read
here either, and are written as zero.

The first half is the hot path: plain functions that read or write one multicast without building a noun. Apart from
`packet_type` and `check_mcast` they require that those two have been called.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import compress, count, repeat
from operator import itemgetter, lt, ne

from totem.configuration import Guarantee, RingId
from totem.errors import MalformedDatagram
from totem.wire import layout
from totem.wire.layout import (
    FRAME_COMPACT,
    FRAME_CONTROL,
    FRAME_PLAIN,
    HELLO_VERSION,
    MAGIC,
    MAX_DATAGRAM,
    MAX_PROCESSORS,
    MAX_REQUESTS,
    MESSAGE_ENCAPSULATED,
    MESSAGE_NOT_ENCAPSULATED,
    TYPE_COMMIT_TOKEN,
    TYPE_HOLD_CANCEL,
    TYPE_JOIN,
    TYPE_MCAST,
    TYPE_MERGE_DETECT,
    TYPE_TOKEN,
    VERSION,
)
from totem.wire.messages import (
    Ask,
    CommitEntry,
    CommitToken,
    Hello,
    Hint,
    HoldCancel,
    Join,
    Mcast,
    MergeDetect,
    Message,
    Row,
    Token,
)
from totem.wire.rows import decode_rows, encode_rows
from totem.wire.slices import equal_slices

__all__ = [
    "BEGINNING",
    "GUARANTEE_OFFSET",
    "HELLO_VERSION",
    "MCAST_HEADER",
    "MOST_MIDDLES",
    "RUN_HEADER",
    "TYPE_COMMIT_TOKEN",
    "TYPE_HOLD_CANCEL",
    "TYPE_JOIN",
    "TYPE_MCAST",
    "TYPE_MERGE_DETECT",
    "TYPE_TOKEN",
    "Ask",
    "Frame",
    "Hello",
    "Hint",
    "check_mcast",
    "control_frame",
    "decode",
    "decode_control",
    "decode_hello",
    "decode_hint",
    "encode",
    "encode_hello",
    "encode_hint",
    "frame",
    "frame_fragments",
    "frame_is_compact",
    "frame_is_control",
    "inner_mcast",
    "mcast_beginning",
    "mcast_guarantee",
    "mcast_is_encapsulated",
    "mcast_origin",
    "mcast_ring_id",
    "mcast_sender_and_origin",
    "mcast_seq",
    "mcast_seqs",
    "middle_frames",
    "middle_pieces",
    "next_fragment",
    "packet_type",
    "parse_frame",
    "parse_run_header",
    "ring_id_bytes",
    "run_header",
    "seal_mcast",
    "seal_train",
]

Frame = tuple[int, Sequence[bytes]]
"""What a multicast carries, before it has its number: the guarantee, and the parts of its body."""

MCAST_HEADER = layout.MCAST.size
GUARANTEE_OFFSET = 41
"""Position of the low byte of a multicast's guarantee: 0 for AGREED, not 0 for SAFE."""
_HEADER = layout.HEADER.size

# Bound once, because an attribute look-up costs as much as the unpacking itself.
_PREFIXES = {struct.pack("<HBB", MAGIC, VERSION, kind): kind for kind in range(TYPE_HOLD_CANCEL + 1)}
_pack_prefix = layout.MCAST_PREFIX.pack
_pack_numbers = layout.MCAST_NUMBERS.pack
_SUFFIXES = [layout.MCAST_SUFFIX.pack(0, guarantee) for guarantee in Guarantee]
_pack_identity = layout.MCAST_ORIGINATED.pack
_IDENTITY = layout.MCAST_IDENTITY_BYTES
_unpack_identity = layout.MCAST_IDENTITY.unpack_from
BEGINNING = layout.MCAST_IDENTITY_BYTES.stop
"""Bytes at the beginning of a multicast that tell its kind and its sender."""
PLAIN_MCAST = struct.pack("<HBBB", MAGIC, VERSION, TYPE_MCAST, MESSAGE_NOT_ENCAPSULATED)
"""The first bytes of every multicast that is not encapsulated."""
_unpack_origin_and_seq = layout.MCAST_ORIGIN_AND_SEQ.unpack_from
_unpack_seq = layout.MCAST_SEQ.unpack_from
_unpack_origin = layout.MCAST_ORIGIN.unpack_from
_unpack_guarantee = layout.MCAST_GUARANTEE.unpack_from
_unpack_ring_id = layout.RING_ID.unpack_from
_unpack_frame = layout.FRAME.unpack_from
_FRAME = layout.FRAME.size
_FRAME_TYPE = MCAST_HEADER + 2
_CONTROL_TYPE = struct.pack("<H", FRAME_CONTROL)
_FRAGMENTED = MCAST_HEADER + 4
_CONTINUATION = MCAST_HEADER + 5
_COUNT = MCAST_HEADER + 6
_MIDDLE = MCAST_HEADER + _FRAME + 2
"""Position of the piece in a multicast of one piece."""
_MIDDLE_PIECE = itemgetter(slice(_MIDDLE, None))
_view: Callable[[bytes], memoryview] = memoryview  # by this name its type is plain to mypy inside `map`
MOST_MIDDLES = 64
"""Frames of a long message that are cut or taken apart together."""
RUN_HEADER = layout.RUN.size
"""Bytes of a run header that brings no label."""
_pack_run = layout.RUN.pack
_unpack_run = layout.RUN.unpack_from

_COUNTS = 512  # more pieces than a frame of an Ethernet's size can hold, but for empty ones
_PACK_FRAME = tuple(struct.Struct(f"{layout.FRAME.format}{count}H").pack for count in range(_COUNTS))
_UNPACK_LENGTHS = tuple(struct.Struct(f"<{count}H").unpack_from for count in range(_COUNTS))


def packet_type(datagram: bytes) -> int:
    """Return the type of a packet of our magic, version and byte order, at least as long as a header (HOT).

    Raises MalformedDatagram for anything else.
    """
    if _HEADER <= len(datagram) <= MAX_DATAGRAM:
        kind = _PREFIXES.get(datagram[:4])
        if kind is not None:
            return kind
    raise MalformedDatagram(_prefix_fault(datagram))


def _prefix_fault(datagram: bytes) -> str:
    if len(datagram) < _HEADER:
        return "short"
    if len(datagram) > MAX_DATAGRAM:
        return "too long"
    if datagram[:2] == MAGIC.to_bytes(2, "big"):
        return "swapped byte order"
    if datagram[:2] != MAGIC.to_bytes(2, "little"):
        return "foreign magic"
    return "other version" if datagram[2] != VERSION else "unknown type"


def check_mcast(datagram: bytes) -> None:
    """Raise MalformedDatagram unless a datagram of type mcast has a whole and sensible header (HOT).

    What is inside an encapsulated one is another matter (`inner_mcast`). It has its number all the same, and members
    that did not agree on which numbers exist would wait for each other.
    """
    if len(datagram) < MCAST_HEADER:
        raise MalformedDatagram("short mcast")
    encapsulated, sender, origin = _unpack_identity(datagram)
    if not sender or not origin:
        raise MalformedDatagram("mcast without sender")
    if encapsulated not in (MESSAGE_NOT_ENCAPSULATED, MESSAGE_ENCAPSULATED):
        raise MalformedDatagram("mcast neither plain nor encapsulated")


def inner_mcast(datagram: bytes) -> bytes:
    """Return the old multicast in an encapsulated one, its header checked as `check_mcast` does.

    It may itself be marked as encapsulated: a message that a Recovery brought is a message of its ring, and the next
    Recovery may have to bring it again. Raises MalformedDatagram.
    """
    inner = datagram[MCAST_HEADER:]
    if len(inner) < MCAST_HEADER or _PREFIXES.get(inner[:4]) != TYPE_MCAST:
        raise MalformedDatagram("encapsulated mcast without inner mcast")
    encapsulated, sender, origin = _unpack_identity(inner)
    if not sender or not origin or encapsulated not in (MESSAGE_ENCAPSULATED, MESSAGE_NOT_ENCAPSULATED):
        raise MalformedDatagram("encapsulated mcast with bad inner header")
    return inner


def mcast_seq(datagram: bytes) -> int:
    """Return the number of a multicast in its ring's total order (HOT)."""
    (seq,) = _unpack_seq(datagram)
    return seq  # type: ignore[no-any-return]


def mcast_seqs(datagrams: Iterable[bytes]) -> list[int]:
    """Return the numbers of many multicasts (HOT)."""
    return [seq for (seq,) in map(_unpack_seq, datagrams)]


def mcast_sender_and_origin(datagram: bytes) -> tuple[int, int]:
    """Return the node ids of a multicast's sender and of its originator."""
    _, sender, origin = _unpack_identity(datagram)
    return sender, origin


def mcast_beginning(node_id: int) -> bytes:
    """Return the first `BEGINNING` bytes of the plain multicasts of a node."""
    return PLAIN_MCAST[:4] + _pack_identity(MESSAGE_NOT_ENCAPSULATED, node_id, 0, node_id)


def mcast_origin(datagram: bytes) -> int:
    """Return the node id of the originator of a multicast (HOT)."""
    (origin,) = _unpack_origin(datagram)
    return origin  # type: ignore[no-any-return]


def mcast_origin_and_seq(datagram: bytes) -> tuple[int, int]:
    """Return the originator of a multicast and its number, in one (HOT)."""
    return _unpack_origin_and_seq(datagram)


def mcast_ring_id(datagram: bytes) -> RingId:
    """Return the ring in which a multicast has its number."""
    return RingId._make(_unpack_ring_id(datagram, layout.MCAST_RING_ID_OFFSET))


def mcast_guarantee(datagram: bytes) -> int:
    """Return the guarantee that the messages of a multicast were sent with; always 0 from Corosync (HOT)."""
    (guarantee,) = _unpack_guarantee(datagram)
    return guarantee  # type: ignore[no-any-return]


def mcast_is_encapsulated(datagram: bytes) -> bool:
    """Return whether a multicast carries a whole old one instead of a frame (HOT)."""
    return datagram[4] == MESSAGE_ENCAPSULATED


def ring_id_bytes(ring_id: RingId) -> bytes:
    """Return the 12 bytes of a ring id, equal to `datagram[25:37]` of its multicasts."""
    return layout.RING_ID.pack(*ring_id)


@lru_cache(maxsize=64)
def _around_numbers(node_id: int, ring_bytes: bytes, encapsulated: bool) -> tuple[bytes, Sequence[bytes]]:
    """Return the bytes before the numbers in a multicast's header and, by guarantee, those behind them."""
    marker = MESSAGE_ENCAPSULATED if encapsulated else MESSAGE_NOT_ENCAPSULATED
    prefix = _pack_prefix(MAGIC, VERSION, TYPE_MCAST, marker, node_id, 0, node_id)
    return prefix, [ring_bytes + suffix for suffix in _SUFFIXES]


def seal_mcast(  # noqa: PLR0917 - by position, like the fields
    node_id: int,
    seq: int,
    this_seqno: int,
    ring_bytes: bytes,
    guarantee: int,
    encapsulated: bool,
    body_parts: Sequence[bytes],
) -> bytes:
    """Return the multicast that carries `body_parts`, back to back, as number `seq` of the ring of `ring_bytes`.

    `this_seqno` may grow without bound: only its low 32 bits travel, and no node reads them.
    """
    numbers = [seq], [this_seqno & 0xFFFFFFFF]
    (datagram,) = seal_train(node_id, *numbers, ring_bytes, [(guarantee, body_parts)], encapsulated=encapsulated)
    return datagram


def seal_train(
    node_id: int,
    seqs: Iterable[int],
    seqnos: Iterable[int],
    ring_bytes: bytes,
    frames: Iterable[Frame],
    *,
    encapsulated: bool = False,
) -> list[bytes]:
    """Return the multicasts of many bodies, each a guarantee and its parts, with these numbers (HOT)."""
    prefix, suffixes = _around_numbers(node_id, ring_bytes, encapsulated)
    join = b"".join
    return [
        join([prefix, numbers, suffixes[guarantee], *parts])
        for numbers, (guarantee, parts) in zip(map(_pack_numbers, seqs, seqnos), frames, strict=True)
    ]


def frame(lengths: Sequence[int], fragmented: int, continuation: int, kind: int = FRAME_PLAIN) -> bytes:
    """Return the totempg header, 8 + 2n bytes, of a frame of pieces with these lengths (HOT).

    `fragmented` is 0 if the last piece ends a message, else this fragment's number, 1 to 255. `continuation` is that
    number of the frame which the first piece continues, 0 if it begins a message.
    """
    count = len(lengths)
    if count < _COUNTS:
        return _PACK_FRAME[count](0, kind, fragmented, continuation, count, *lengths)
    return layout.FRAME.pack(0, kind, fragmented, continuation, count) + struct.pack(f"<{count}H", *lengths)


def next_fragment(number: int, steps: int = 1) -> int:
    """Return the fragment number `steps` after `number`: 1 to 255, then 1 again."""
    return (number + steps - 1) % 255 + 1


_NEXT_FRAGMENT = tuple(map(next_fragment, range(256)))


@lru_cache(maxsize=64)
def _middle_headers(size: int) -> Sequence[bytes]:
    """Return the headers of frames of one piece of `size` bytes that neither begins nor ends a message.

    They are in order of `continuation`, and beyond the last one as they follow it.
    """
    numbers = (*range(256), *range(1, MOST_MIDDLES))
    return [frame([size], _NEXT_FRAGMENT[number], number) for number in numbers]


def middle_frames(message: bytes, start: int, size: int, count: int, continuation: int) -> Iterator[Frame]:
    """Return the next `count` frames, at most MOST_MIDDLES, of a message from `start` on, each one piece of `size`
    bytes.

    None of them ends the message. `continuation` is that of the first of them, not 0. (HOT)
    """
    headers = _middle_headers(size)[continuation : continuation + count]
    return zip(repeat(Guarantee.AGREED), zip(headers, equal_slices(message, start, size, count), strict=True))


@lru_cache(maxsize=64)
def _middles(sender: int, size: int) -> tuple[Callable[[bytes], tuple[bytes, bytes]], Sequence[tuple[bytes, bytes]]]:
    """Return how to read sender and header of a middle frame of this size, and by `continuation` the right header.

    Datagrams of another size raise `struct.error`.
    """
    identity = _pack_identity(MESSAGE_NOT_ENCAPSULATED, sender, 0, sender)
    before, between = _IDENTITY.start, MCAST_HEADER - _IDENTITY.stop
    layout_of_both = struct.Struct(f"<{before}x{len(identity)}s{between}x{_MIDDLE - MCAST_HEADER}s{size - _MIDDLE}x")
    return layout_of_both.unpack, [(identity, header) for header in _middle_headers(size - _MIDDLE)]


def middle_pieces(datagrams: Sequence[bytes], start: int, sender: int, continuation: int) -> list[memoryview]:
    """Return the pieces of the multicasts from `start` on that only continue a message of this sender (HOT).

    `continuation`: what the first of them must have, not 0. Ends before the first one that is anything else, and after
    MOST_MIDDLES. The pieces are views, because they are copied once more anyway.
    """
    first = datagrams[start]
    if len(first) <= _MIDDLE or first[_COUNT] != 1 or first[_FRAGMENTED] != _NEXT_FRAGMENT[continuation]:
        return []  # nothing is kept for the many sizes of frames that end a message
    read, wanted = _middles(sender, len(first))
    end = start + MOST_MIDDLES
    differs = map(ne, map(read, datagrams[start:end]), wanted[continuation : continuation + MOST_MIDDLES])
    places = count(start)
    try:
        end = next(compress(places, differs), min(end, len(datagrams)))
    except struct.error:  # another size; its place has been taken, too
        end = next(places) - 1
    return list(map(_MIDDLE_PIECE, map(_view, datagrams[start:end])))


def frame_is_compact(datagram: bytes) -> bool:
    """Return whether the frame in a multicast has run headers (HOT)."""
    return datagram[_FRAME_TYPE] == FRAME_COMPACT


def frame_fragments(datagram: bytes) -> tuple[int, int]:
    """Return `fragmented` and `continuation` of the frame in a multicast (HOT)."""
    return datagram[_FRAGMENTED], datagram[_CONTINUATION]


def run_header(number: int, count: int) -> bytes:
    """Return the header of `count` messages with the label of this number; the label itself may follow it (HOT)."""
    return _pack_run(number, count)


def parse_run_header(piece: bytes) -> tuple[int, int, bytes]:
    """Return number, count and label of a run header; the label is empty if it brings none (HOT).

    Raises MalformedDatagram if it is too short.
    """
    if len(piece) < RUN_HEADER:
        raise MalformedDatagram("short run header")
    number, count = _unpack_run(piece)
    return number, count, piece[RUN_HEADER:]


def parse_frame(datagram: bytes, offset: int = MCAST_HEADER, newest: int = FRAME_PLAIN) -> tuple[int, int, list[bytes]]:
    """Return `fragmented`, `continuation` and the pieces of the totempg frame that begins at `offset` (HOT).

    `newest` is the largest type of frame that may come in the ring. Raises MalformedDatagram for another type, and
    unless there is a piece and the pieces fill the rest of the datagram exactly.
    """
    lengths_at = offset + _FRAME
    size = len(datagram)
    if size < lengths_at:
        raise MalformedDatagram("short frame")
    version, kind, fragmented, continuation, count = _unpack_frame(datagram, offset)
    if version or kind > newest:
        raise MalformedDatagram("other frame version")
    if not count:
        raise MalformedDatagram("frame without pieces")
    start = lengths_at + 2 * count
    if size < start:
        raise MalformedDatagram("frame lengths cut")
    if count < _COUNTS:
        lengths = _UNPACK_LENGTHS[count](datagram, lengths_at)
    else:
        lengths = struct.unpack_from(f"<{count}H", datagram, lengths_at)
    if start + sum(lengths) != size:
        raise MalformedDatagram("frame lengths do not fit")
    pieces = []
    for length in lengths:
        end = start + length
        pieces.append(datagram[start:end])
        start = end
    return fragmented, continuation, pieces


def decode(datagram: bytes) -> Message:
    """Return the noun in a datagram.

    Bytes behind the packet are tolerated, as Corosync does; behind a join's lists they are its `hint`. Raises
    MalformedDatagram.
    """
    return _DECODERS[packet_type(datagram)](datagram)


def _sender(datagram: bytes) -> int:
    sender: int = layout.NODE_ID.unpack_from(datagram, 5)[0]
    if not sender:
        raise MalformedDatagram("no sender")
    return sender


def _node_ids(datagram: bytes, offset: int, count: int) -> tuple[int, ...]:
    return struct.unpack_from(f"<{count}I", datagram, offset)


def _decode_token(datagram: bytes) -> Token:
    requests_at = _HEADER + layout.TOKEN.size
    if len(datagram) < requests_at:
        raise MalformedDatagram("short token")
    seq, token_seq, aru, aru_holder, representative, ring_seq, backlog, fcc, retransmit_flag, count = (
        layout.TOKEN.unpack_from(datagram, _HEADER)
    )
    if count > MAX_REQUESTS:
        raise MalformedDatagram("token with too many requests")
    end = requests_at + count * layout.REQUEST.size
    if len(datagram) < end:
        raise MalformedDatagram("token requests cut")
    return Token(
        sender=_sender(datagram),
        ring_id=RingId(representative, ring_seq),
        seq=seq,
        token_seq=token_seq,
        aru=aru,
        aru_holder=aru_holder,
        backlog=backlog,
        fcc=fcc,
        retransmit_flag=retransmit_flag,
        requests=[
            (RingId(rep, of_ring), missing)
            for rep, of_ring, missing in layout.REQUEST.iter_unpack(datagram[requests_at:end])
        ],
    )


def _decode_mcast(datagram: bytes) -> Mcast:
    check_mcast(datagram)
    if mcast_is_encapsulated(datagram):
        inner_mcast(datagram)
    _, _, _, encapsulated, sender, _, origin, seq, this_seqno, ring_bytes, _, guarantee = layout.MCAST.unpack_from(
        datagram
    )
    return Mcast(
        sender=sender,
        origin=origin,
        seq=seq,
        ring_id=RingId._make(_unpack_ring_id(ring_bytes)),
        this_seqno=this_seqno,
        guarantee=guarantee,
        encapsulated=encapsulated == MESSAGE_ENCAPSULATED,
        data=datagram[MCAST_HEADER:],
    )


def _decode_merge_detect(datagram: bytes) -> MergeDetect:
    if len(datagram) < _HEADER + layout.MERGE_DETECT.size:
        raise MalformedDatagram("short merge detect")
    origin, representative, ring_seq = layout.MERGE_DETECT.unpack_from(datagram, _HEADER)
    if not origin:
        raise MalformedDatagram("no sender")
    return MergeDetect(_sender(datagram), origin, RingId(representative, ring_seq))


def _decode_join(datagram: bytes) -> Join:
    lists_at = _HEADER + layout.JOIN.size
    if len(datagram) < lists_at:
        raise MalformedDatagram("short join")
    origin, candidate_count, failed_count, ring_seq = layout.JOIN.unpack_from(datagram, _HEADER)
    if candidate_count > MAX_PROCESSORS or failed_count > MAX_PROCESSORS:
        raise MalformedDatagram("join with too many processors")
    failed_at = lists_at + candidate_count * layout.NODE_ID.size
    end = failed_at + failed_count * layout.NODE_ID.size
    if len(datagram) < end:
        raise MalformedDatagram("join lists cut")
    candidates = _node_ids(datagram, lists_at, candidate_count)
    failed = _node_ids(datagram, failed_at, failed_count)
    if not origin or 0 in candidates or 0 in failed:
        raise MalformedDatagram("join with node id 0")
    return Join(
        sender=layout.NODE_ID.unpack_from(datagram, 5)[0],
        origin=origin,
        ring_seq=ring_seq,
        candidates=candidates,
        failed=failed,
        hint=datagram[end:],
    )


def _decode_commit_token(datagram: bytes) -> CommitToken:
    members_at = _HEADER + layout.COMMIT_TOKEN.size
    if len(datagram) < members_at:
        raise MalformedDatagram("short commit token")
    token_seq, representative, ring_seq, retransmit_flag, index, count = layout.COMMIT_TOKEN.unpack_from(
        datagram, _HEADER
    )
    if not 1 <= count <= MAX_PROCESSORS:
        raise MalformedDatagram("commit token with no or too many members")
    if index > count:
        raise MalformedDatagram("commit token index out of range")
    entries_at = members_at + count * layout.NODE_ID.size
    end = entries_at + count * layout.COMMIT_ENTRY.size
    if len(datagram) < end:
        raise MalformedDatagram("commit token entries cut")
    members = _node_ids(datagram, members_at, count)
    if not members[0] or not all(map(lt, members, members[1:])):
        raise MalformedDatagram("commit token members out of order")
    return CommitToken(
        sender=_sender(datagram),
        token_seq=token_seq,
        ring_id=RingId(representative, ring_seq),
        members=members,
        entries=[
            CommitEntry(RingId(rep, old_seq), aru, high_delivered, received_flag)
            for rep, old_seq, aru, high_delivered, received_flag in layout.COMMIT_ENTRY.iter_unpack(
                datagram[entries_at:end]
            )
        ],
        index=index,
        retransmit_flag=retransmit_flag,
    )


def _decode_hold_cancel(datagram: bytes) -> HoldCancel:
    if len(datagram) < _HEADER + layout.RING_ID.size:
        raise MalformedDatagram("short hold cancel")
    return HoldCancel(_sender(datagram), RingId._make(_unpack_ring_id(datagram, _HEADER)))


_DECODERS = (
    _decode_token,
    _decode_mcast,
    _decode_merge_detect,
    _decode_join,
    _decode_commit_token,
    _decode_hold_cancel,
)


def encode(message: Message) -> bytes:
    """Return the datagram of a noun, ignored fields zero."""
    match message:
        case Token():
            return _encode_token(message)
        case Mcast():
            return _encode_mcast(message)
        case MergeDetect():
            body = layout.MERGE_DETECT.pack(message.origin, *message.ring_id)
            return _header(TYPE_MERGE_DETECT, message.sender) + body
        case Join():
            return _encode_join(message)
        case CommitToken():
            return _encode_commit_token(message)
        case HoldCancel():
            return _header(TYPE_HOLD_CANCEL, message.sender) + ring_id_bytes(message.ring_id)


def _header(kind: int, sender: int) -> bytes:
    return layout.HEADER.pack(MAGIC, VERSION, kind, 0, sender, 0)


def _encode_token(token: Token) -> bytes:
    assert len(token.requests) <= MAX_REQUESTS
    body = layout.TOKEN.pack(
        token.seq,
        token.token_seq,
        token.aru,
        token.aru_holder,
        *token.ring_id,
        token.backlog,
        token.fcc,
        token.retransmit_flag,
        len(token.requests),
    )
    requests = [layout.REQUEST.pack(*ring_id, seq) for ring_id, seq in token.requests]
    return b"".join((_header(TYPE_TOKEN, token.sender), body, *requests))


def _encode_mcast(mcast: Mcast) -> bytes:
    header = layout.MCAST.pack(
        MAGIC,
        VERSION,
        TYPE_MCAST,
        MESSAGE_ENCAPSULATED if mcast.encapsulated else MESSAGE_NOT_ENCAPSULATED,
        mcast.sender,
        0,
        mcast.origin,
        mcast.seq,
        mcast.this_seqno,
        ring_id_bytes(mcast.ring_id),
        0,
        mcast.guarantee,
    )
    return header + mcast.data


def _encode_join(join: Join) -> bytes:
    node_ids = join.candidates + join.failed
    assert max(len(join.candidates), len(join.failed)) <= MAX_PROCESSORS
    body = layout.JOIN.pack(join.origin, len(join.candidates), len(join.failed), join.ring_seq)
    lists = struct.pack(f"<{len(node_ids)}I", *node_ids)
    return b"".join((_header(TYPE_JOIN, join.sender), body, lists, join.hint))


def _encode_commit_token(token: CommitToken) -> bytes:
    count = len(token.members)
    assert 1 <= count == len(token.entries) <= MAX_PROCESSORS
    body = layout.COMMIT_TOKEN.pack(token.token_seq, *token.ring_id, token.retransmit_flag, token.index, count)
    members = struct.pack(f"<{count}I", *token.members)
    entries = [
        layout.COMMIT_ENTRY.pack(*entry.old_ring_id, entry.aru, entry.high_delivered, entry.received_flag)
        for entry in token.entries
    ]
    return b"".join((_header(TYPE_COMMIT_TOKEN, token.sender), body, members, *entries))


# This package's own blocks: a magic, a version, then tagged values in any order, to the end. A reader skips the tags
# that it does not know and needs all of those that it knows, so a later version adds tags and never changes one.


def encode_hello(hello: Hello) -> bytes:
    """Return the tagged block that is the data of a hello's inner multicast."""
    return _encode_block(
        layout.HELLO_MAGIC,
        hello.version,
        {
            layout.TAG_FEATURES: layout.U64.pack(hello.features),
            layout.TAG_FRAME_SIZE: layout.U32.pack(hello.frame_size),
            layout.TAG_OLD_RING_ID: ring_id_bytes(hello.old_ring_id),
            layout.TAG_SAFE_LINE: layout.U32.pack(hello.safe_line),
            layout.TAG_OBLIGATIONS: _packed_ids(hello.obligations),
            layout.TAG_LARGEST_PAUSE_MS: layout.U32.pack(hello.largest_pause_ms),
            layout.TAG_DAEMON: layout.FLAG.pack(hello.daemon),
            layout.TAG_WINDOW: layout.U32.pack(hello.window),
            **_ask_value(hello.ask),
        },
    )


def _ask_value(ask: Ask | None) -> dict[int, bytes]:
    return {layout.TAG_ASK: layout.ASK.pack(*ask)} if ask is not None else {}


def _ask(values: dict[int, bytes]) -> Ask | None:
    return Ask._make(layout.ASK.unpack(values[layout.TAG_ASK])) if layout.TAG_ASK in values else None


def decode_hello(block: bytes) -> Hello | None:
    """Return the hello in the data of an inner multicast, or None if there is no readable one."""
    try:
        version, values = _decode_block(layout.HELLO_MAGIC, block)
        obligations = layout.NODE_ID.iter_unpack(values[layout.TAG_OBLIGATIONS])
        return Hello(
            version=version,
            features=layout.U64.unpack(values[layout.TAG_FEATURES])[0],
            old_ring_id=RingId._make(layout.RING_ID.unpack(values[layout.TAG_OLD_RING_ID])),
            safe_line=layout.U32.unpack(values[layout.TAG_SAFE_LINE])[0],
            obligations=tuple(node_id for (node_id,) in obligations),
            largest_pause_ms=layout.U32.unpack(values[layout.TAG_LARGEST_PAUSE_MS])[0],
            frame_size=layout.U32.unpack(values[layout.TAG_FRAME_SIZE])[0],
            daemon=layout.FLAG.unpack(values[layout.TAG_DAEMON])[0],
            window=layout.U32.unpack(values[layout.TAG_WINDOW])[0],
            ask=_ask(values),
        )
    except _UNREADABLE:
        return None


def control_frame(ask: Ask) -> list[bytes]:
    """Return the parts of the frame that tells all members for how long a member asks."""
    block = _encode_block(layout.CONTROL_MAGIC, layout.CONTROL_VERSION, _ask_value(ask))
    return [frame([len(block)], 0, 0, FRAME_CONTROL), block]


def frame_is_control(datagram: bytes) -> bool:
    """Return whether a multicast carries a control block of the ring layer."""
    return datagram[_FRAME_TYPE : _FRAME_TYPE + 2] == _CONTROL_TYPE


def decode_control(datagram: bytes) -> Ask | None:
    """Return what the sender of a control block asks for, or None if it cannot be read or asks for nothing."""
    try:
        _, _, pieces = parse_frame(datagram, newest=FRAME_CONTROL)
        _, values = _decode_block(layout.CONTROL_MAGIC, pieces[0])
        return _ask(values)
    except (*_UNREADABLE, MalformedDatagram):
        return None


def encode_hint(hint: Hint) -> bytes:
    """Return the tagged block that goes behind a join's lists."""
    return _encode_block(
        layout.HINT_MAGIC,
        layout.HINT_VERSION,
        {
            layout.TAG_FEATURES: layout.U64.pack(hint.features),
            layout.TAG_FRAME_SIZE: layout.U32.pack(hint.frame_size),
            layout.TAG_CLUSTER_NAME: hint.cluster_name.encode(),
            **({layout.TAG_NODELIST: _packed_ids(sorted(hint.nodelist))} if hint.nodelist else {}),
            **({layout.TAG_ROWS: encode_rows(hint.rows)} if hint.rows is not None else {}),
        },
    )


def _packed_ids(ids: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(ids)}I", *ids)


@lru_cache(maxsize=4)
def decode_hint(block: bytes) -> Hint | None:
    """Return the hint behind a join's lists, or None if there is no readable one."""
    try:
        _, values = _decode_block(layout.HINT_MAGIC, block)
        return Hint(
            cluster_name=values[layout.TAG_CLUSTER_NAME].decode(),
            frame_size=layout.U32.unpack(values[layout.TAG_FRAME_SIZE])[0],
            features=layout.U64.unpack(values[layout.TAG_FEATURES])[0],
            nodelist=frozenset(one for (one,) in layout.NODE_ID.iter_unpack(values.get(layout.TAG_NODELIST, b""))),
            rows=_rows(values.get(layout.TAG_ROWS, b"")),
        )
    except _UNREADABLE:
        return None


def _rows(value: bytes) -> tuple[Row, ...] | None:
    try:
        return decode_rows(value)
    except struct.error:
        return None


_UNREADABLE = (KeyError, UnicodeDecodeError, struct.error)
"""Raised where a tag is missing, a name is no text, or a value or the block itself is not valid."""


def _encode_block(magic: bytes, version: int, values: dict[int, bytes]) -> bytes:
    parts = [layout.BLOCK.pack(magic, version)]
    for tag, value in values.items():
        parts += (layout.TAG.pack(tag, len(value)), value)
    block = b"".join(parts)
    assert len(block) <= layout.MAX_BLOCK
    return block


def _decode_block(magic: bytes, block: bytes) -> tuple[int, dict[int, bytes]]:
    found, version = layout.BLOCK.unpack_from(block)
    if found != magic or len(block) > layout.MAX_BLOCK:
        raise struct.error("another block")
    values: dict[int, bytes] = {}
    offset = layout.BLOCK.size
    while offset < len(block):
        tag, length = layout.TAG.unpack_from(block, offset)
        offset += layout.TAG.size
        values[tag] = block[offset : offset + length]
        offset += length
    if offset > len(block):
        raise struct.error("the last value is cut")
    return version, values
