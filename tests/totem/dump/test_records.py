"""Every datagram of every capture is explained, with no byte left over; and no bytes at all raise anything."""

import json
import random
import struct
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from cpg.node.dump import LAYER, explain
from cpg.node.schema import MESSAGE_A, MESSAGE_SYNC
from cpg.node.wire import GROUP_A, GROUP_SYNC, Mcast
from tests.totem.dump.writing import cooked, ipv4, opened, pcap, timed, udp
from tests.totem.wire import captures as reference
from totem.configuration import NO_RING, RingId
from totem.dump import captures, order
from totem.dump.filters import TYPES
from totem.dump.jsonlines import to_json
from totem.dump.network import COOKED, Datagram, Reassembler
from totem.dump.order import Order
from totem.dump.records import Reader, train
from totem.dump.summary import Summary
from totem.dump.text import Writer
from totem.wire import codec, messages, probes, schema
from totem.wire.evidence import Evidence, Saying
from totem.wire.probes import ProbePacket

OWN = sorted((Path(__file__).parent / "captures").glob("*.pcap.gz"))
CAPTURES = [*reference.CAPTURES, *OWN]
RING = RingId(1, 13)

each_capture = pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name.removesuffix(".pcap.gz"))


def read(file):
    """Return all records of an open capture, as far as it can be read."""
    network, reader = Reassembler(), Reader({5404, 5405}, [LAYER])
    found = []
    try:
        for packet in captures.packets(file):
            datagram = network.take(packet)
            if datagram is not None:
                found += reader.take(datagram)
    except captures.BadCapture:
        pass
    return [*found, *reader.finish()]


@cache
def records(path):
    with path.open("rb") as file:
        return read(file)


def take(*payloads, reader=None, destination="10.77.0.2"):
    reader = reader or Reader({5405}, [LAYER])
    return [
        record
        for payload in payloads
        for record in reader.take(Datagram(1.0, "10.77.0.1", 5405, destination, 5405, payload, len(payload)))
    ]


def mcast(seq, *pieces, sender=1, fragmented=0, continuation=0, ring_id=RING, encapsulated=None):
    data = codec.frame([len(piece) for piece in pieces], fragmented, continuation) + b"".join(pieces)
    return codec.encode(
        messages.Mcast(sender, sender, seq, ring_id, encapsulated=encapsulated is not None, data=encapsulated or data)
    )


def said(text, pid=7):
    return Mcast(b"chat", pid, text).encode(1)


def texts(found):
    return [explanation.text for record in found for _, explanation in record.messages]


# ---- captures of real rings


@each_capture
def test_nothing_in_the_captures_is_left_unexplained(path):
    for record in records(path):
        assert record.packet is not None
        assert record.kind in TYPES
        assert not record.faults
        assert record.frame is not None or record.hello is not None or record.kind != "mcast"
        assert not set(record.notes) - {"seen before", "reset frame"}
        for _, explanation in record.messages:
            assert explanation.name in LAYER.names
            assert explanation.fields is not None
            assert not explanation.fault


@pytest.mark.parametrize("path", reference.CAPTURES, ids=lambda path: path.name.removesuffix(".pcap.gz"))
def test_the_messages_are_those_that_the_tests_own_reader_finds(path):
    prefix = {b"a": GROUP_A, b"sync": GROUP_SYNC}
    expected = [
        (message.ring_id, message.seq, message.sender, prefix[message.group] + message.data)
        for message in reference.group_messages(path)
    ]
    found = [tuple(message)[:4] for record in records(path) for message, _ in record.messages]
    assert sorted(found) == sorted(expected)
    for ring_id in {ring_id for ring_id, *_ in expected}:
        numbers = [seq for found_in, seq, *_ in found if found_in == ring_id]
        assert numbers == sorted(numbers)


def from_json(value):
    """Return what `plain` was given, without its types: strings are bytes in hex."""
    if isinstance(value, dict):
        return {name: from_json(field) for name, field in value.items()}
    if isinstance(value, list):
        return [from_json(item) for item in value]
    return bytes.fromhex(value) if isinstance(value, str) else value


def rebuilt(packet):
    """Return the datagram of a packet's JSON."""
    fields = from_json(packet)
    if fields["header"]["type"] == codec.TYPE_MCAST:
        inner = fields["data"] if fields["header"]["encapsulated"] == 1 else fields
        if isinstance(inner["data"], dict):
            inner["data"] = schema.TotempgMcast.build(inner["data"])
    return schema.PACKETS[fields["header"]["type"]].build(fields)


@each_capture
def test_json_rebuilds_every_byte(path):
    for record in records(path):
        line = json.loads(to_json(record))
        assert rebuilt(line["packet"]) == record.datagram.payload
        for (message, _), shown in zip(record.messages, line.get("messages", []), strict=True):
            declared = MESSAGE_A if message.data.startswith(GROUP_A) else MESSAGE_SYNC
            assert declared.build(from_json(shown["fields"])) == message.data


def test_own_captures_have_trains_hellos_hints_and_safe_messages():
    (path,) = OWN
    found = records(path)
    assert max(record.position[1] for record in found) == 17
    assert {record.hello.version for record in found if record.hello} == {1}
    assert {record.hint.version for record in found if record.hint} == {1}
    assert any(record.kind == "mcast" and record.packet.guarantee for record in found)
    lines = [explanation.text for record in found for _, explanation in record.messages]
    assert any("20000 bytes" in line for line in lines)
    assert any("after the crash" in line for line in lines)


def test_retransmissions_are_distinguished_from_copies():
    (losses,) = (path for path in CAPTURES if path.name.startswith("06-"))
    kinds = Counter((record.kind, record.copy) for record in records(losses))
    assert kinds["mcast", "retransmission"] == 13  # as many as are asked for
    assert sum(len(record.packet.rtr_list) for record in records(losses) if record.kind == "token") == 13
    assert not kinds["token", "copy"]


# ---- trains


def test_a_train_is_cut_where_the_first_frame_ends():
    frames = [mcast(1, bytes(100)), mcast(2, b"", bytes(98)), mcast(3, bytes(10))]
    assert train(b"".join(frames)) == frames
    assert [record.position for record in take(b"".join(frames))] == [(0, 3), (1, 3), (2, 3)]


def test_a_train_of_old_messages_and_one_behind_a_hello():
    old = mcast(9, bytes(100), ring_id=RingId(1, 9))
    encapsulated = [mcast(seq, encapsulated=old) for seq in (2, 3)]
    assert train(b"".join(encapsulated)) == encapsulated
    block = codec.encode_hello(messages.Hello(1, 0, RING, 0, (), 0, 1427, False, 0))
    hello = mcast(1, encapsulated=codec.encode(messages.Mcast(1, 1, 0, NO_RING, data=block)))
    shorter = mcast(4, encapsulated=mcast(9, b"", ring_id=RingId(1, 9)))
    assert train(hello + shorter) == [hello, shorter]
    assert train(hello) == [hello]


def test_what_only_looks_like_a_train_is_one_packet():
    whole = mcast(1, bytes(100))
    for payload in (
        whole,
        whole + b"more",
        whole + whole[:1] + b"x",
        whole[:60],
        codec.encode(messages.HoldCancel(1, RING)) * 2,
    ):
        assert train(payload) == [payload]


# ---- copies, order, fragments


def test_a_packet_for_all_is_shown_once_with_its_copies():
    join = codec.encode(messages.Join(1, 1, 5, (1, 2), ()))
    reader = Reader({5405}, [LAYER])
    first = take(join, mcast(1, said(b"a")), reader=reader)
    second = take(join, mcast(1, said(b"a")), reader=reader, destination="10.77.0.3")
    again = take(mcast(1, said(b"a")), reader=reader)
    assert [record.copy for record in (*first, *second, *again)] == ["", "", "copy", "copy", "retransmission"]
    assert len(texts(first)) == 1
    assert not texts(second) + texts(again)


def test_a_repeated_token_is_a_retransmission():
    token = codec.encode(messages.Token(1, RING, 5, 7, 5))
    assert [record.copy for record in take(token, token)] == ["", "retransmission"]


def test_a_multicast_waits_for_those_before_it():
    found = take(mcast(1, said(b"1")), mcast(3, said(b"3")), mcast(4, said(b"4")), mcast(2, said(b"2")))
    assert [len(record.messages) for record in found] == [1, 0, 0, 3]
    assert [message.seq for message, _ in found[-1].messages] == [2, 3, 4]


def test_what_all_have_is_not_waited_for():
    token = codec.encode(messages.Token(1, RING, 4, 7, 3))
    found = take(mcast(1, said(b"1")), mcast(3, said(b"3")), mcast(5, said(b"5")), token)
    assert [message.seq for message, _ in found[-1].messages] == [3]
    late = take(mcast(1, said(b"1")), mcast(3, said(b"3")), token, mcast(2, said(b"2")))
    assert [message.seq for message, _ in late[-1].messages] == [2]


def test_what_still_waits_at_the_end_is_given():
    reader = Reader({5405}, [LAYER])
    take(mcast(1, said(b"1")), mcast(3, said(b"3")), reader=reader)
    (end,) = reader.finish()
    assert end.kind == "end"
    assert texts([end]) == ['"chat" pid 7: 1 byte "3"']


def test_fragments_are_joined_across_sync_messages():
    message = said(b"x" * 90)
    found = take(
        mcast(1, message[:50], fragmented=7),
        mcast(2, said(b"sync"), said(b"begun")[:40], fragmented=1),
        mcast(3, said(b"begun")[40:], continuation=1),
        mcast(4, message[50:], said(b"next"), continuation=7),
    )
    assert [text.rpartition(" ")[2] for text in texts(found)] == ['"sync"', '"begun"', f'"{"x" * 60}"…', '"next"']


def test_a_fragment_whose_beginning_is_missing_spoils_nothing_else():
    found = take(
        mcast(5, b"the rest", said(b"whole"), continuation=3),
        mcast(6, b"the middle", continuation=9, fragmented=10),
        mcast(7, b"its end", continuation=10),
        mcast(8, said(b"after")),
    )
    assert [text.rpartition(" ")[2] for text in texts(found)] == ['"whole"', '"after"']


def test_a_reset_frame_is_named_and_drops_what_was_begun():
    message = said(b"cut")
    found = take(
        mcast(1, message[:50], fragmented=1),
        mcast(2, b"\0", continuation=2),
        mcast(3, message[50:], continuation=1),
        mcast(4, message),
    )
    assert found[1].notes == ["reset frame"]
    assert texts(found) == ['"chat" pid 7: 3 bytes "cut"']


def test_an_old_message_in_recovery_counts_once():
    new = RingId(1, 17)
    reader = Reader({5405}, [LAYER])
    missing, known = mcast(2, said(b"missing")), mcast(3, said(b"known"))
    before = take(mcast(1, said(b"first")), known, reader=reader)
    recovered = take(
        mcast(1, encapsulated=missing, ring_id=new), mcast(2, encapsulated=known, ring_id=new), reader=reader
    )
    assert [message.seq for record in before for message, _ in record.messages] == [1]
    assert [(message.ring_id, message.seq) for message, _ in recovered[0].messages] == [(RING, 2), (RING, 3)]
    assert recovered[1].notes == ["seen before"]


def test_a_straggler_of_another_group_is_named():
    (record,) = take(mcast(1, bytes.fromhex("01000300") + b"own" + b"data"))
    assert texts([record]) == ["for 'own': 4 bytes"]


def test_everything_kept_has_a_bound():
    found = Order()
    frame = schema.TotempgMcast.parse(codec.frame([1000], 1, 0) + bytes(1000))
    for sender in range(1, 3 * order.MOST_SENDERS):
        found.add(RingId(sender, 1), 1, sender, frame)
        found.add(RING, 2 * sender, sender, frame)
    assert len(found._chains) <= order.MOST_SENDERS
    assert len(found._rings) <= order.MOST_RINGS
    for ring in found._rings.values():
        assert len(ring._held) <= order.MOST_HELD
        assert len(ring._seen) <= order.MOST_REMEMBERED
    assert found._chained_bytes == sum(
        len(part) for chains in found._chains.values() for chain in chains.values() for part in chain
    )


def test_a_message_without_end_is_given_up():
    found = Order()
    piece = bytes(60000)
    for seq in range(1, 60):
        number = (seq - 1) % 255 + 1
        frame = schema.TotempgMcast.parse(codec.frame([len(piece)], number, number - 1) + piece)
        assert found.add(RING, seq, 1, frame) == []
        assert found._chained_bytes <= order.LARGEST_MESSAGE
    assert found._chained_bytes == 0


# ---- what cannot be read


@pytest.mark.parametrize(
    ("payload", "kind", "cause"),
    [
        (b"", "foreign", "short"),
        (b"sealed, or anything", "foreign", "sealed or not knet"),
        (bytes.fromhex("c070030000000001") + bytes(60), "foreign", "swapped byte order"),
        (bytes.fromhex("70c00400") + bytes(60), "foreign", "other version"),
        (bytes.fromhex("70c00309") + bytes(60), "foreign", "unknown type"),
        (codec.encode(messages.Token(1, RING))[:50], "token", "short token"),
        (codec.encode(messages.Join(1, 1, 5, (1, 2), ()))[:-1], "join", "join lists cut"),
        (mcast(1, b"a")[:40], "mcast", "short mcast"),
        (mcast(1, b"a") + b"b", "mcast", "frame lengths do not fit"),
        (mcast(1, encapsulated=mcast(2, encapsulated=mcast(3, b""))), "mcast", "encapsulated in an encapsulated mcast"),
    ],
)
def test_malformed_packets_are_named_by_the_causes_of_the_core(payload, kind, cause):
    (record,) = take(payload)
    assert (record.kind, record.faults) == (kind, [cause])
    assert any(cause in line for line in Writer().lines(record))
    assert json.loads(to_json(record))["faults"] == [cause]


def test_malformed_messages_are_named_too():
    message = bytearray(said(b"hello"))
    message[5 + 16] = 200  # length of the group's name
    (record,) = take(mcast(1, bytes(message), said(b"hello")[:-1], b"\1"))
    faults = [explanation.fault for _, explanation in record.messages]
    assert faults == ["group name length", "exec size", "short group header"]
    assert sum("malformed" in line for line in Writer().lines(record)) == 3


def test_a_packet_that_the_capture_cut_says_so():
    payload = mcast(1, said(b"hello"))
    for size in (4, 20, 60):
        (record,) = Reader({5405}, [LAYER]).take(Datagram(1, "a", 5405, "b", 5405, payload[:size], len(payload)))
        assert record.kind == "mcast"
        assert record.faults == []
        assert record.notes == [f"cut by the capture: {size} of {len(payload)} bytes"]


def test_a_ring_is_found_at_any_port_and_other_things_only_where_asked_for():
    token = codec.encode(messages.Token(1, RING))
    reader = Reader({5405}, [])
    assert [r.kind for r in reader.take(Datagram(1, "a", 9, "b", 9, token, len(token)))] == ["token"]
    assert list(reader.take(Datagram(1, "a", 9, "b", 9, b"dns", 3))) == []
    assert [r.kind for r in reader.take(Datagram(1, "a", 9, "b", 5405, b"dns", 3))] == ["foreign"]
    picky = Reader({7}, [], only_ports=True)
    assert list(picky.take(Datagram(1, "a", 9, "b", 9, token, len(token)))) == []


def show(found):
    """All that is done with records."""
    writers = (Writer(), Writer(colour=True, hexdump=True, every_token=True))
    summary = Summary()
    for record in found:
        summary.add(record)
        to_json(record, hexdump=True)
        for writer in writers:
            for line in writer.lines(record):
                assert line.isprintable() or writer is not writers[0]
                assert "\n" not in line
    for writer in writers:
        list(writer.finish())
    list(summary.lines({}))
    json.dumps(summary.as_dict({}))


@pytest.mark.parametrize("seed", range(12))
def test_no_mutation_of_a_capture_raises(seed):
    dice = random.Random(seed)
    payloads = [record.datagram.payload for path in CAPTURES for record in records(path)]
    for _ in range(5):
        mutated = []
        for payload in dice.choices(payloads, k=60):
            data = bytearray(payload)
            for _ in range(dice.choice((0, 1, 1, 3, 20))):
                data[dice.randrange(len(data))] = dice.choice((0, 1, 127, 128, 255, dice.randrange(256)))
            mutated.append(bytes(data[: dice.choice((len(data), dice.randrange(len(data) + 1)))]))
        datagrams = [Datagram(n / 100, "10.77.0.1", 5405, "10.77.0.2", 5405, d, len(d)) for n, d in enumerate(mutated)]
        reader = Reader({5405}, [LAYER])
        show([record for datagram in datagrams for record in reader.take(datagram)] + list(reader.finish()))


@pytest.mark.parametrize("seed", range(12))
def test_no_mutation_of_a_file_raises(seed):
    dice = random.Random(seed)
    ip = [ipv4(udp(record.datagram.payload)) for record in records(CAPTURES[seed])[:40]]
    data = bytearray(pcap(timed([cooked(packet) for packet in ip]), COOKED))
    for _ in range(40):
        for _ in range(dice.choice((1, 5, 50))):
            data[dice.randrange(24, len(data))] = dice.choice((0, 1, 17, 255, dice.randrange(256)))
        show(read(opened(bytes(data))))


def test_no_message_raises():
    dice = random.Random(1)
    whole = sorted({message.data[:2000] for path in CAPTURES for r in records(path) for message, _ in r.messages})
    kinds = {}
    for data in whole:
        kinds.setdefault(data[:12], []).append(data)
    for _ in range(4000):
        data = bytearray(dice.choice(dice.choice(list(kinds.values()))))
        for _ in range(dice.choice((1, 2, 5))):
            data[dice.randrange(min(len(data), dice.choice((30, 60, 400, 2000))))] = dice.choice((0, 1, 127, 128, 255))
        explain(bytes(data[: dice.choice((len(data), dice.randrange(len(data))))]))


@pytest.mark.parametrize("node", [1, 2, 3])
def test_the_size_and_pace_of_a_ring_show_at_one_node_too(node):
    (losses,) = (path for path in CAPTURES if path.name.startswith("06-"))
    summary = Summary()
    for record in records(losses):
        if f"10.77.0.{node}" in (record.datagram.source, record.datagram.destination):
            summary.add(record)
    (ring,) = summary.rings.values()
    assert ring.size == 3
    assert ring.rotations_per_second == pytest.approx(57.7, abs=0.2)


def test_messages_that_waited_show_where_they_come_from():
    reader = Reader({5405}, [LAYER])
    (*_, last) = take(mcast(1, said(b"1")), mcast(3, said(b"3"), sender=2), mcast(2, said(b"2")), reader=reader)
    lines = list(Writer().lines(last))
    assert lines[1:] == [
        '    cpg.mcast  "chat" pid 7: 1 byte "2"',
        '    ring 1.d seq 3 of 2: cpg.mcast  "chat" pid 7: 1 byte "3"',
    ]


def test_a_change_of_votes():
    header = struct.pack("<i4xi4x", 0x50001, 32)
    # As a real node sent it, garbage behind it included.
    body = struct.pack("<IIB", 1, 3, 1) + bytes.fromhex("000000fc7f0000")
    (record,) = take(mcast(1, GROUP_A + header + body))
    ((_, explanation),) = record.messages
    assert explanation.name == "votequorum.reconfigure"
    assert explanation.text == "node 1 expected_votes 3"
    assert MESSAGE_A.build(explanation.fields) == GROUP_A + header + body


@pytest.mark.parametrize(
    ("packet", "kind", "note"),
    [
        (ProbePacket(probes.PING, 3, 0, 5), "ping", "what passes is not known yet"),
        (ProbePacket(probes.PONG, 3, 1500, 5), "pong", "1500 bytes pass to all"),
        (ProbePacket(probes.BEAT, 3, 1500, 5, 4, 0.1), "ping", "1500 bytes pass to all"),
        (ProbePacket(probes.PROBE, 3, 1300, 1400), "probe", "packets of 1400 bytes; 1300 bytes pass to all"),
        (ProbePacket(probes.REPLY, 3, 0, 1400), "probe_reply", "packets of 1400 bytes; what passes is not known yet"),
    ],
)
def test_probes_between_members_are_told(packet, kind, note):
    (record,) = take(packet.encode(100))
    assert (record.kind, record.node, record.notes, record.faults) == (kind, 3, [note], [])
    assert any(note in line for line in Writer().lines(record))
    assert json.loads(to_json(record))["type"] == kind


@pytest.mark.parametrize(
    ("saying", "text"),
    [
        (Saying.ACCUSES, "accuses 2, ring 1.8"),
        (Saying.HEARS, "is answered by 2, ring 1.8"),
        (Saying.CONFIRMS, "is refused and not answered by 2, ring 1.8"),
    ],
)
def test_what_members_say_of_an_accused_one_is_told(saying, text):
    (record,) = take(Evidence(saying, 3, 2, RingId(1, 8)).encode())
    assert (record.kind, record.node, record.notes, record.faults) == ("evidence", 3, [text], [])
    assert any(text in line for line in Writer().lines(record))
    assert json.loads(to_json(record))["type"] == "evidence"


def test_pieces_of_a_datagram_are_named():
    (record,) = take(probes.piece(3, 17, 1, 3, b"part"))
    assert (record.kind, record.node, record.faults) == ("fragment", 3, [])
    assert record.notes == ["part 2 of 3 of datagram 17"]
    assert json.loads(to_json(record))["type"] == "fragment"


def test_the_rows_of_a_join_are_in_words():
    row = messages.Row(3, 7, 2, 1, RING, frozenset({1}), frozenset({2}), frozenset({1}), frozenset({2}))
    hint = codec.encode_hint(messages.Hint("example", 1400, 0, rows=(row, row._replace(node_id=1, hears=frozenset()))))
    (record,) = take(codec.encode(messages.Join(3, 3, 13, (1, 2, 3), (), hint)))
    text = "\n".join(Writer().lines(record))
    assert ", cluster_name example, rows 2\n" in text
    assert f"3: row 2 of life 7, from ring {RING}, votes 1, hears 1, not 2, links to 1, no link to 2\n" in text
    assert "1: row 2 of life 7" in text
    assert not record.notes
