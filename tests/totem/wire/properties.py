"""What must hold for any bytes at all: the codec and the reference accept the same and read the same.

Used by the property tests and by the fuzz target.
"""

from __future__ import annotations

from construct import ConstructError, Container

from totem.configuration import RingId
from totem.errors import MalformedDatagram
from totem.wire import codec, layout, schema
from totem.wire.messages import CommitEntry, CommitToken, HoldCancel, Join, Mcast, MergeDetect, Message, Token


def check_datagram(datagram: bytes) -> str | None:
    """Check all that is promised of `decode` and its kin; return the cause if the datagram is malformed."""
    try:
        message = codec.decode(datagram)
    except MalformedDatagram as malformed:
        assert len(datagram) > layout.MAX_DATAGRAM or reference(datagram) is None, "only the schema accepts it"
        return malformed.cause
    packet = reference(datagram)
    assert packet is not None, "only the codec accepts it"
    assert message == noun(packet)
    assert codec.packet_type(datagram) == packet.header.type
    assert codec.encode(message) == schema.build(without_ignored(packet))
    if packet.header.type == layout.TYPE_MCAST:
        check_mcast(datagram, packet)
    return None


def check_mcast(datagram: bytes, packet: Container) -> None:
    """Check that the functions of the hot path read what the reference reads."""
    codec.check_mcast(datagram)
    assert codec.mcast_seq(datagram) == packet.seq
    assert codec.mcast_origin(datagram) == packet.system_from
    assert codec.mcast_guarantee(datagram) == packet.guarantee
    assert datagram[codec.GUARANTEE_OFFSET] == packet.guarantee & 0xFF
    assert codec.mcast_ring_id(datagram) == ring_id(packet.ring_id)
    assert codec.ring_id_bytes(ring_id(packet.ring_id)) == datagram[25:37]
    assert codec.mcast_is_encapsulated(datagram) == (packet.header.encapsulated == layout.MESSAGE_ENCAPSULATED)
    if not codec.mcast_is_encapsulated(datagram):
        check_frame(datagram, codec.MCAST_HEADER)
    # What is accepted at first is accepted from a Recovery, too.
    outer = codec.seal_mcast(1, 1, 0, datagram[25:37], 0, True, [datagram])
    codec.check_mcast(outer)
    assert codec.inner_mcast(outer) == datagram


def check_frame(datagram: bytes, offset: int = 0) -> str | None:
    """Check `parse_frame` and `frame` against the reference; return the cause if the frame is malformed."""
    try:
        expected = schema.TotempgMcast.parse(datagram[offset:])
    except ConstructError:
        expected = None
    try:
        fragmented, continuation, pieces = codec.parse_frame(datagram, offset, layout.FRAME_COMPACT)
    except MalformedDatagram as malformed:
        assert expected is None, "only the schema accepts it"
        return malformed.cause
    assert expected is not None, "only the codec accepts it"
    assert (fragmented, continuation) == (expected.fragmented, expected.continuation)
    assert pieces == list(expected.pieces)
    header = codec.frame([len(piece) for piece in pieces], fragmented, continuation, expected.type)
    assert b"".join((header, *pieces)) == datagram[offset:]
    for piece in pieces:
        check_run_header(piece)
    return None


def check_run_header(piece: bytes) -> str | None:
    """Check `parse_run_header` and `run_header` against the reference; return the cause if the piece is malformed."""
    try:
        expected = schema.RunHeader.parse(piece)
    except ConstructError:
        expected = None
    try:
        number, count, label = codec.parse_run_header(piece)
    except MalformedDatagram as malformed:
        assert expected is None, "only the schema accepts it"
        return malformed.cause
    assert expected is not None, "only the codec accepts it"
    assert (number, count, label) == (expected.number, expected.count, expected.label)
    assert codec.run_header(number, count) + label == piece
    return None


def check_blocks(block: bytes) -> None:
    """Check that this package's own blocks, if they can be read, are written so that they read the same."""
    hello = codec.decode_hello(block)
    if hello is not None:
        assert codec.decode_hello(codec.encode_hello(hello)) == hello
    hint = codec.decode_hint(block)
    if hint is not None:
        assert codec.decode_hint(codec.encode_hint(hint)) == hint


def reference(datagram: bytes) -> Container | None:
    """Return the packet as the schema reads it, or None if it does not."""
    try:
        return schema.parse(datagram)
    except ConstructError:
        return None


def without_ignored(packet: Container) -> Container:
    """Return the packet with zeros in all fields that no node reads."""
    packet = Container(packet)
    packet.header = Container(packet.header, target_nodeid=0)
    if packet.header.type == layout.TYPE_MCAST:
        packet.node_id = 0
    else:
        packet.header.encapsulated = 0
        if packet.header.type != layout.TYPE_JOIN:
            packet.rest = b""
    return packet


def ring_id(container: Container) -> RingId:
    return RingId(container.rep, container.seq)


def noun(packet: Container) -> Message:
    """Return the noun of a packet that the schema has read."""
    return _NOUNS[packet.header.type](packet)


def _token(packet: Container) -> Token:
    return Token(
        sender=packet.header.nodeid,
        ring_id=ring_id(packet.ring_id),
        seq=packet.seq,
        token_seq=packet.token_seq,
        aru=packet.aru,
        aru_holder=packet.aru_addr,
        backlog=packet.backlog,
        fcc=packet.fcc,
        retransmit_flag=packet.retrans_flg,
        requests=[(ring_id(item.ring_id), item.seq) for item in packet.rtr_list],
    )


def _mcast(packet: Container) -> Mcast:
    encapsulated = packet.header.encapsulated == layout.MESSAGE_ENCAPSULATED
    return Mcast(
        sender=packet.header.nodeid,
        origin=packet.system_from,
        seq=packet.seq,
        ring_id=ring_id(packet.ring_id),
        this_seqno=packet.this_seqno,
        guarantee=packet.guarantee,
        encapsulated=encapsulated,
        data=schema.InnerMcast.build(packet.data) if encapsulated else packet.data,
    )


def _merge_detect(packet: Container) -> MergeDetect:
    return MergeDetect(packet.header.nodeid, packet.system_from, ring_id(packet.ring_id))


def _join(packet: Container) -> Join:
    return Join(
        sender=packet.header.nodeid,
        origin=packet.system_from,
        ring_seq=packet.ring_seq,
        candidates=tuple(packet.proc_list),
        failed=tuple(packet.failed_list),
        hint=packet.rest,
    )


def _commit_token(packet: Container) -> CommitToken:
    return CommitToken(
        sender=packet.header.nodeid,
        token_seq=packet.token_seq,
        ring_id=ring_id(packet.ring_id),
        members=tuple(packet.addr),
        entries=[
            CommitEntry(ring_id(entry.ring_id), entry.aru, entry.high_delivered, entry.received_flg)
            for entry in packet.memb_entry
        ],
        index=packet.memb_index,
        retransmit_flag=packet.retrans_flg,
    )


def _hold_cancel(packet: Container) -> HoldCancel:
    return HoldCancel(packet.header.nodeid, ring_id(packet.ring_id))


_NOUNS = {
    layout.TYPE_TOKEN: _token,
    layout.TYPE_MCAST: _mcast,
    layout.TYPE_MERGE_DETECT: _merge_detect,
    layout.TYPE_JOIN: _join,
    layout.TYPE_COMMIT_TOKEN: _commit_token,
    layout.TYPE_HOLD_CANCEL: _hold_cancel,
}
