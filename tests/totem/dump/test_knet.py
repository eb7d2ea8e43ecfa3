"""What `totem dump` makes of knet: every packet of every capture, with its key; and trains, copies, bounds."""

import json
import os
import random
from collections import Counter
from functools import cache
from heapq import merge

import pytest

from cpg.node.dump import LAYER
from tests.totem.dump.test_records import mcast, rebuilt, said, show, texts
from tests.totem.wire.knet_captures import CAPTURES, FILES, settings
from totem.config import HASHES, Knet
from totem.dump import captures, knet
from totem.dump.filters import TYPES, Filter
from totem.dump.jsonlines import to_json
from totem.dump.knet import KnetReader, clear_train
from totem.dump.network import Datagram, Reassembler
from totem.dump.records import FOREIGN, SEALED, UNOPENED, Reader
from totem.dump.summary import Summary
from totem.dump.text import Writer
from totem.links.crypto import seal_of
from totem.wire import knet as wire
from totem.wire.knet import Fragment, Ping

KEY = bytes(range(256))
LONG = 3000

each_capture = pytest.mark.parametrize("name", CAPTURES)
each_seal = pytest.mark.parametrize(
    "sealing",
    [
        Knet(),
        Knet(hash="sha1", key=KEY),
        Knet(cipher="aes128", hash="md5", key=KEY),
        Knet(cipher="aes256", hash="sha512", key=KEY),
    ],
    ids=lambda knet: f"{knet.cipher}-{knet.hash}",
)


def reader_of(sealing=None):
    seal = seal_of(sealing, os.urandom) if sealing is not None and sealing.is_sealed else None
    return Reader(range(5405, 5413), [LAYER], knet=KnetReader([seal] if seal is not None else []))


def packets(path):
    with path.open("rb") as file:
        yield from captures.packets(file)


@cache
def records(name, key=0):
    """Return all records of a capture, opened with one of its keys; with two links of both in order."""
    network, reader = Reassembler(), reader_of(settings(name)[key])
    found = []
    files = [packets(path) for path in FILES if path.name.split(".")[0] == name]
    for packet in merge(*files, key=lambda packet: packet.time):
        datagram = network.take(packet)
        if datagram is not None:
            found += reader.take(datagram)
    return [*found, *reader.finish()]


def datagram(payload, source="10.77.0.1", destination="10.77.0.2", *, time=1.0, port=5405, length=None):
    return Datagram(time, source, port, destination, port, payload, length or len(payload))


def data(node, seq, content, *, fragments=1, number=0, compression=0, channel=0):
    return wire.data_header(node, Fragment(seq, compression, fragments, number, channel), for_all=True) + content


def cut(node, seq, content, size):
    count = -(-len(content) // size)
    return [
        data(node, seq, content[number * size : (number + 1) * size], fragments=count, number=number + 1)
        for number in range(count)
    ]


# ---- captures of real rings


@each_capture
def test_nothing_in_the_captures_is_left_unexplained(name):
    for record in records(name):
        assert record.kind in TYPES | {"end"}
        assert record.faults == [] or (name == "07-key-change" and record.faults == [UNOPENED])
        if record.kind not in {*knet.KINDS, FOREIGN, "end"}:
            assert record.packet is not None
            assert rebuilt(json.loads(to_json(record))["packet"]) == record.datagram.payload
        for _, explanation in record.messages:
            assert not explanation.fault
            assert explanation.name in LAYER.names


@each_capture
def test_every_pong_and_reply_has_its_question(name):
    answers = [record for record in records(name) if record.kind in (knet.PONG, knet.PROBE_REPLY)]
    assert len(answers) > 10
    for record in answers:
        assert 0 < record.knet.values["after"] < 0.01
        assert record.knet.values["to"] != record.node


def test_each_half_of_a_key_change_opens_with_its_key():
    before, after = (Counter(record.faults == [UNOPENED] for record in records("07-key-change", key)) for key in (0, 1))
    assert before[False] + after[False] == sum(before.values()) == sum(after.values())


def test_what_is_sealed_is_one_line_without_a_key():
    (path,) = (path for path in FILES if path.name.startswith("02-"))
    network, reader = Reassembler(), reader_of()
    found = [
        record for packet in packets(path) if (datagram := network.take(packet)) for record in reader.take(datagram)
    ]
    assert {(record.kind, *record.faults) for record in found} == {(FOREIGN, SEALED)}
    writer = Writer()
    lines = [line for record in found for line in writer.lines(record)]
    assert f"malformed: {SEALED} (80 bytes)" in lines[0]
    assert len([*lines, *writer.finish()]) == 3  # the first one, its bytes, and the number of the others


def test_copies_over_two_links_are_copies():
    found = [record for record in records("08-two-links-active") if record.packet is not None]
    kinds = Counter((record.kind, record.copy) for record in found)
    firsts = Counter((record.node, record.knet.values["seq"]) for record in found if not record.copy)
    assert set(firsts.values()) == {1}
    assert kinds["mcast", ""] == 39
    assert kinds["token", "copy"] == 288  # those of link 0, whose file ends earlier
    assert not any(copy == "retransmission" for _, copy in kinds)


def test_links_are_learned_from_pings():
    links = Counter(record.knet.link for record in records("06-two-links-passive") if record.packet is not None)
    assert set(links) == {0, 1}


# ---- one datagram after the other


def test_a_pong_tells_the_time_since_its_ping():
    reader = reader_of()
    asked = wire.ping(1, Ping(3, wire.stamp(5_000_000_007), 9, True))
    (ping,) = reader.take(datagram(asked))
    (pong,) = reader.take(datagram(wire.pong(2, asked), "10.77.0.2", "10.77.0.1", time=1.25))
    assert (ping.kind, ping.node, ping.knet.link) == ("ping", 1, 3)
    assert pong.knet.values == {"seq": 9, "timed": True, "clock_ns": 5_000_000_007, "to": 1, "after": 0.25}
    lines = [line for record in (ping, pong) for line in Writer().lines(record)]
    assert lines[0].endswith("ping 1  link 3 packets sent 9")
    assert lines[1].endswith("pong 2  link 3, 250.000 ms after the ping of 1")
    assert json.loads(to_json(pong))["knet"]["after"] == 0.25


def test_a_probe_and_its_reply():
    reader = reader_of()
    asked = wire.probe(1, 0, 1500, 1472)
    (probe,) = reader.take(datagram(asked))
    (reply,) = reader.take(datagram(wire.probe_reply(2, asked), "10.77.0.2", "10.77.0.1", time=1.001))
    lines = [line for record in (probe, reply) for line in Writer().lines(record)]
    assert lines[0].endswith("probe 1  link 0 size 1500")
    assert lines[1].endswith("probe reply 2  link 0 size 1500, 1.000 ms after the probe of 1")


def test_fragments_in_any_order_and_from_several_copies():
    whole = mcast(1, said(b"x" * LONG))
    one, two, three = cut(1, 7, whole, 1200)
    reader = reader_of()
    places = [(three, "10.77.0.2"), (one, "10.77.0.3"), (one, "10.77.0.2"), (two, "10.77.0.2"), (two, "10.77.0.3")]
    found = [record for piece, place in places for record in reader.take(datagram(piece, destination=place))]
    kinds = ["fragment", "fragment", "fragment", "mcast", "fragment"]
    assert [(record.kind, record.copy) for record in found] == list(
        zip(kinds, ["", "", "copy", "", "copy"], strict=True)
    )
    assert found[3].datagram.payload == whole
    assert "packet 7 in 3 fragments, ring 1.d seq 1" in next(Writer().lines(found[3]))
    assert reader.knet.unfinished == 0


@pytest.mark.parametrize("model", ["zlib", "lzma", "bzip2"])
def test_compressed_packets(model):
    compress = __import__({"bzip2": "bz2"}.get(model, model)).compress
    content = compress(mcast(1, said(b"x" * LONG)))
    (record,) = reader_of().take(datagram(data(1, 7, content, compression=knet.MODELS[model])))
    assert texts([record])[0].startswith(f'"chat" pid 7: {LONG} bytes')
    assert record.knet.values["compression"] == model


def test_what_does_not_decompress_is_a_fault():
    found = list(reader_of().take(datagram(data(1, 7, b"no zlib", compression=1))))
    found += reader_of().take(datagram(data(1, 7, b"lz4", compression=2)))
    assert [record.kind for record in found] == [FOREIGN, FOREIGN]
    assert all(record.faults[0].startswith("not decompressed: ") for record in found)


@pytest.mark.parametrize(
    ("payload", "kind", "fault"),
    [
        (wire.ping(1, Ping(0, bytes(16), 0, True))[:20], "ping", "short ping"),
        (wire.probe(1, 0, 1500, 9)[:8], "probe", "short probe"),
        (data(1, 7, b""), FOREIGN, "short data"),
        (data(1, 7, b"x", fragments=3, number=4), "fragment", "fragment number"),
        (data(1, 7, b"x", fragments=255, number=3), "fragment", "fragment number"),
        (data(1, 7, b"x", fragments=0), "fragment", "fragment number"),
        (data(1, 7, b"x", channel=1), FOREIGN, "another channel than totem's"),
        (data(1, 7, b"no packet of totem's, but as long as one"), FOREIGN, "foreign magic"),
    ],
)
def test_malformed_packets_are_named(payload, kind, fault):
    (record,) = reader_of().take(datagram(payload))
    assert (record.kind, record.node or 1, record.faults) == (kind, 1, [fault])
    show([record])


def test_a_node_that_starts_again_has_new_numbers():
    reader = reader_of()
    whole = [mcast(1, said(b"a"))]
    counted = [whole[0], mcast(2, said(b"b"))]
    first = list(reader.take(datagram(data(1, 1, counted[0]))))
    reader.knet.take(datagram(wire.ping(1, Ping(0, bytes(16), 0, True))), is_expected=True)
    second = list(reader.take(datagram(data(1, 1, counted[1]))))
    assert texts(first + second) == ['"chat" pid 7: 1 byte "a"', '"chat" pid 7: 1 byte "b"']
    again = list(reader.take(datagram(data(1, 2, counted[1]))))
    assert [record.copy for record in again] == ["retransmission"]


def test_repeated_pings_and_fragments_are_counted():
    reader, writer = reader_of(), Writer()
    lines = []

    def feed(*payloads):
        for payload in payloads:
            for record in reader.take(datagram(payload)):
                lines.extend(writer.lines(record))

    feed(*(wire.ping(1, Ping(0, wire.stamp(number), 5, True)) for number in range(4)))
    feed(*cut(1, 7, mcast(1, said(b"x" * LONG)), 500))
    assert [line.split(" ", 1)[1].partition(" in 0.")[0] for line in lines[:5]] == [
        "10.77.0.1:5405 > 10.77.0.2:5405  ping 1  link 0 packets sent 5",
        "10.77.0.1:5405 > 10.77.0.2:5405  ping 1  link 0 packets sent 5",
        "… 2 more pings,",
        "10.77.0.1:5405 > 10.77.0.2:5405  fragment 1  link 0 packet 7 fragment 1 of 7",
        "… 5 more fragments,",
    ]
    assert "mcast 1  link 0 packet 7 in 7 fragments, ring" in lines[5]
    shown = []
    for number in range(4):
        (record,) = reader.take(datagram(wire.ping(1, Ping(0, wire.stamp(9 + number), 5, True))))
        shown += Writer(every_token=True).lines(record)
    assert len(shown) == 4


def test_filters():
    found = records("08-two-links-active")
    only = [shown for record in found if (shown := Filter(links=(1,), types=("ping", "mcast")).apply(record))]
    assert {(record.kind, record.knet.link) for record in only} == {("ping", 1), ("mcast", 1)}


def test_the_summary_has_links():
    summary = Summary()
    for record in records("05-zlib"):
        summary.add(record)
    links = summary.as_dict({})["summary"]["links"]
    assert {(link["from"], link["to"]) for link in links} == {(a, b) for a in (1, 2, 3) for b in (1, 2, 3) if a != b}
    assert all(link["mtu"] == 1500 and 0 < link["mean"] <= link["longest"] < 0.001 for link in links)
    assert any("link 0, 1 to 2: 19 pongs after 0.142 ms" in line for line in summary.lines({}))


# ---- trains


@each_seal
def test_trains_are_cut(sealing):
    pieces = cut(1, 1, mcast(1, said(b"x" * LONG)), 1021)
    frames = [data(1, seq, mcast(seq, said(b"short"))) for seq in range(3, 6)]
    reader = reader_of(sealing)
    seal = seal_of(sealing, os.urandom)
    found = []
    for train in (pieces, frames):
        found += reader.take(datagram(b"".join(seal.seal(train))))
    assert [record.position for record in found] == [(0, 4), (1, 4), (2, 4), (3, 4), (0, 3), (1, 3), (2, 3)]
    assert {record.knet.is_sealed for record in found} == {sealing.is_sealed}
    assert [record.kind for record in found] == ["fragment"] * 3 + ["mcast"] * 4


def test_one_packet_is_no_train():
    for payload in (wire.ping(1, Ping(0, bytes(16), 0, True)), data(1, 1, mcast(1, said(b"a" * LONG)))):
        assert clear_train(payload) == [payload]
    assert clear_train(wire.probe(1, 0, 1500, 1472)) == [wire.probe(1, 0, 1500, 1472)]


def test_a_ping_and_a_pong_may_be_one_train():
    ping = wire.ping(1, Ping(0, wire.stamp(1), 3, True))
    pong = wire.pong(1, wire.ping(2, Ping(0, wire.stamp(2), 4, True)))
    assert [record.kind for record in reader_of().take(datagram(ping + pong))] == ["ping", "pong"]


def test_after_some_strangers_no_more_trains_are_looked_for(monkeypatch):
    reader = KnetReader([seal_of(Knet(cipher="aes256", hash="sha256", key=KEY), os.urandom)])
    opened = []
    monkeypatch.setattr(reader, "_open_one", opened.append)
    for _ in range(knet.MOST_SCANS):
        assert reader.take(datagram(os.urandom(200)), is_expected=True) == []
    del opened[:]
    reader.take(datagram(os.urandom(200)), is_expected=True)
    assert len(opened) == 1
    assert reader.refused == knet.MOST_SCANS + 1


def test_strangers_do_not_end_the_search_for_trains():
    sealing = Knet(cipher="aes256", hash="sha256", key=KEY)
    reader, seal = reader_of(sealing), seal_of(sealing, os.urandom)
    for _ in range(knet.MOST_SCANS):
        list(reader.take(datagram(os.urandom(200))))
    pieces = seal.seal(cut(1, 1, mcast(1, said(b"x" * LONG)), 1021))
    assert [record.kind for record in reader.take(datagram(b"".join(pieces)))] == [FOREIGN]
    list(reader.take(datagram(pieces[0])))
    assert len(list(reader.take(datagram(b"".join(pieces))))) == 4


# ---- keys


@each_seal
def test_clear_packets_are_shown_also_with_a_key(sealing):
    clear = wire.ping(1, Ping(0, bytes(16), 0, True))
    (record,) = reader_of(sealing).take(datagram(clear))
    assert (record.kind, record.knet.is_sealed) == ("ping", False)


@pytest.mark.parametrize("name", HASHES)
def test_what_is_signed_alone_is_read_without_the_key(name):
    seal = seal_of(Knet(hash=name, key=KEY), os.urandom)
    ping, probe, *fragments = (
        wire.ping(1, Ping(0, bytes(16), 0, True)),
        wire.probe(1, 0, 1500, 1000),
        *cut(1, 1, mcast(1, said(b"x" * LONG)), 1021),
    )
    reader = reader_of()
    found = [record for packet in seal.seal([ping, probe, *fragments]) for record in reader.take(datagram(packet))]
    found += reader.take(datagram(b"".join(seal.seal(cut(1, 2, mcast(2, said(b"y" * LONG)), 1021)))))
    kinds = ["fragment"] * 3 + ["mcast"]
    assert [record.kind for record in found] == ["ping", "probe", *kinds, *kinds]
    assert not [record.faults + record.notes for record in found if record.faults + record.notes]


def test_what_the_capture_cut():
    sealing = Knet(cipher="aes256", hash="sha256", key=KEY)
    (sealed,) = seal_of(sealing, os.urandom).seal([data(1, 1, mcast(1, said(b"a" * 200)))])
    (record,) = reader_of(sealing).take(datagram(sealed[:90], length=len(sealed)))
    assert record.kind == FOREIGN
    reader = reader_of(sealing)
    reader.knet.take(datagram(sealed[:90], length=len(sealed)), is_expected=True)
    assert reader.knet.refused == 0
    one, *_ = cut(1, 7, mcast(1, said(b"x" * 200)), 200)
    (part,) = reader_of().take(datagram(one[:100], length=len(one)))
    assert (part.kind, part.faults, part.notes) == ("fragment", [], ["cut by the capture: 100 of 214 bytes"])


def test_knet_elsewhere_must_look_like_it():
    reader = reader_of()
    assert [r.kind for r in reader.take(datagram(wire.ping(1, Ping(0, bytes(16), 0, True)), port=7000))] == ["ping"]
    assert list(reader.take(datagram(b"\1\0\0\1\0\0 something else", port=7000))) == []
    assert list(reader.take(datagram(b"", port=7000))) == []


# ---- bounds


def test_everything_kept_has_a_bound():
    reader = KnetReader()
    piece = bytes(60000)
    for number in range(2 * knet.MOST_PACKETS):
        node, seq = number % 50 + 1, number % 65535 + 1
        fragment = data(node, seq, piece if number < 1000 else b"x", fragments=9, number=1)
        reader.take(datagram(fragment), is_expected=True)
        reader.take(
            datagram(wire.ping(node, Ping(number % 8, wire.stamp(number), 1, True)), str(number)), is_expected=True
        )
        assert reader._waiting_bytes <= knet.MOST_UNFINISHED_BYTES
    assert reader._waiting_bytes == sum(
        len(piece) for packet in reader._packets.values() for piece in packet.pieces.values()
    )
    assert len(reader._packets) <= knet.MOST_PACKETS
    assert len(reader._asked) <= knet.MOST_ASKED
    assert len(reader._ways) <= knet.MOST_PLACES
    assert len(reader._links) <= knet.MOST_PLACES
    assert reader.unfinished == 2 * knet.MOST_PACKETS


@pytest.mark.parametrize("seed", range(8))
def test_no_mutation_of_a_capture_raises(seed):
    dice = random.Random(seed)
    sealing = Knet(cipher="aes256", hash="sha256", key=KEY)
    seal = seal_of(sealing, os.urandom)
    contents = [
        payload
        for name in ("01-plain", "05-zlib", "08-two-links-rr")
        for path in FILES
        if path.name.startswith(name)
        for packet in packets(path)
        if (found := Reassembler().take(packet)) and (payload := found.payload)
    ]
    reader = reader_of(dice.choice((None, sealing)))
    found = []
    for payload in dice.choices(contents, k=400):
        changed = bytearray(payload)
        for _ in range(dice.choice((0, 1, 1, 3, 20))):
            changed[dice.randrange(min(len(changed), dice.choice((16, 5000))))] = dice.choice((0, 1, 127, 128, 255))
        mutated = bytes(changed[: dice.choice((len(changed), dice.randrange(len(changed) + 1)))])
        if dice.random() < 0.3:
            mutated = seal.seal([mutated])[0]
        found += reader.take(datagram(mutated, length=len(mutated) + dice.choice((0, 0, 0, 9))))
    show([*found, *reader.finish()])
