"""Compact frames, as `totem dump` explains them: the labels' numbers, the payloads, and what is wrong with them."""

import json
import random

import pytest

from cpg.node.dump import LAYER
from cpg.node.wire import Procjoin, mcast_label, mcast_prefix
from tests.totem.dump.test_records import RING, rebuilt, said, take, texts
from totem.configuration import Guarantee
from totem.dump.jsonlines import to_json
from totem.dump.records import Reader
from totem.dump.text import Writer
from totem.labels import Labels
from totem.packing import Packer
from totem.wire import codec, layout, messages


class Envelope:
    header_size, largest = 189, 1 << 19

    def __init__(self, name, pid):
        self.label = mcast_label(name, pid)
        self.name, self.pid = name, pid

    def __getitem__(self, length):
        return mcast_prefix(self.name, self.pid, length, 1)


CHAT, LOCK = Envelope(b"chat", 7), Envelope(b"lock", 8)


def sent(*lists, labels=None):
    """Return the multicasts, from number 1 on, of a sender that has queued these (payloads, envelope)."""
    packer, labels = Packer(600), labels or Labels()
    for payloads, envelope in lists:
        packer.extend(payloads, Guarantee.AGREED, envelope)
    datagrams = []
    while packer:
        guarantee, parts = packer.next_frame(last=False, numbers=labels.own)
        seq = len(datagrams) + 1
        datagrams.append(
            codec.seal_mcast(1, seq, seq, codec.ring_id_bytes(RING), guarantee, encapsulated=False, body_parts=parts)
        )
    return datagrams


def compact(*pieces):
    header = codec.frame([len(piece) for piece in pieces], 0, 0, layout.FRAME_COMPACT)
    return codec.encode(messages.Mcast(1, 1, 1, RING, data=header + b"".join(pieces)))


def test_payloads_are_explained_as_what_they_stand_for():
    (record,) = take(*sent(([b"one", b"two"], CHAT), ([Procjoin(b"lock", 8).encode()], None), ([b"three"], LOCK)))
    lines = list(Writer().lines(record))
    assert lines[0].endswith("mcast 1  ring 1.d seq 1 compact runs 1*:2 0:1 2*:1")
    assert lines[1:] == [
        '    cpg.mcast  "chat" pid 7: 3 bytes "one"',
        '    cpg.mcast  "chat" pid 7: 3 bytes "two"',
        '    cpg.procjoin  "lock" pid 8 reason join',
        '    cpg.mcast  "lock" pid 8: 5 bytes "three"',
    ]
    assert [explanation.group for _, explanation in record.messages] == [b"chat", b"chat", b"lock", b"lock"]


def test_messages_in_several_frames_and_frames_out_of_order():
    payloads = [bytes([65 + n]) * 250 for n in range(8)]
    frames = sent((payloads, CHAT), ([b"l" * 2000], LOCK), ([b"end"], CHAT))
    assert len(frames) > 6
    expected = [f'"chat" pid 7: 250 bytes "{chr(65 + n) * 60}"…' for n in range(8)]
    expected += [f'"lock" pid 8: 2000 bytes "{"l" * 60}"…', '"chat" pid 7: 3 bytes "end"']
    assert texts(take(*frames)) == expected
    assert texts(take(frames[0], *frames[:0:-1])) == expected


def test_json_has_the_label_and_rebuilds_every_byte():
    found = take(*sent(([b"one"] * 300, CHAT)))
    lines = [json.loads(to_json(record)) for record in found]
    assert [rebuilt(line["packet"]) for line in lines] == [record.datagram.payload for record in found]
    first = lines[0]["messages"][0]
    assert (first["name"], first["group"], first["label"]) == ("cpg.mcast", "chat", mcast_label(b"chat", 7).hex())
    assert first["fields"] == {"pid": 7, "group_name": b"chat".hex(), "message": b"one".hex()}


def test_a_capture_that_begins_later_does_not_know_the_label():
    labels = Labels()
    sent(([b"before"], CHAT), labels=labels)
    assert texts(take(*sent(([b"now"], CHAT), labels=labels))) == ["3 bytes with a label that was sent before"]


def test_without_the_layers_above_a_label_is_bytes():
    assert texts(take(*sent(([b"now"], CHAT)), reader=Reader({5405}, []))) == [f"3 bytes with the label {CHAT.label!r}"]


@pytest.mark.parametrize(
    ("pieces", "fault"),
    [
        ((codec.run_header(1, 1) + CHAT.label, b"fine", b"x"), "short run header"),
        ((codec.run_header(1, 1) + CHAT.label, b"fine", codec.run_header(1, 2), b"x"), "run of too few messages"),
    ],
)
def test_what_a_node_would_drop_is_a_fault(pieces, fault):
    (record,) = take(compact(*pieces))
    assert record.faults == [fault]
    assert texts([record]) == ['"chat" pid 7: 4 bytes "fine"']


@pytest.mark.parametrize("label", [b"\1\0\0\0", b"\1", b"\1\0\0\0" + bytes(129)])
def test_a_label_that_is_none_of_cpg(label):
    (record,) = take(compact(codec.run_header(1, 1) + label, b"payload"))
    ((_, explanation),) = record.messages
    assert explanation.fault in {"short label", "group name length"}


def test_nothing_raises():
    dice = random.Random(1)
    reader = Reader({5405}, [LAYER])
    frames = sent(([b"one"] * 100, CHAT), ([b"l" * 2000], LOCK), ([said(b"plain")], None))
    for seq in range(2000):
        data = bytearray(dice.choice(frames))
        data[17:21] = seq.to_bytes(4, "little")
        for _ in range(dice.choice((0, 1, 3))):
            data[dice.randrange(45, min(len(data), 200))] = dice.choice((0, 1, 2, 255))
        for record in take(bytes(data), reader=reader):
            list(Writer().lines(record))
            to_json(record)
