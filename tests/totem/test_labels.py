"""Labels: messages come with what their envelopes say, in either form, wherever they are cut; hostile ones do not."""

import random
from collections import Counter

import pytest

from totem.configuration import Guarantee
from totem.errors import MalformedDatagram
from totem.labels import LONGEST_LABEL, MOST_LABELS, Labels, Numbers, with_headers
from totem.packing import Assembler, Packer
from totem.wire import codec, layout, schema

FRAME_SIZE = 600
HEADER = bytes(codec.MCAST_HEADER)


class Envelope:
    """Headers that tell the label and the payload's length, always of one size."""

    header_size = 100
    largest = 1 << 19

    def __init__(self, label):
        self.label = label

    def __getitem__(self, length):
        return b"%8d" % length + self.label[:92].ljust(92, b".")


ENVELOPES = [Envelope(label) for label in (b"a", b"b", bytes(LONGEST_LABEL))]


class Ring:
    """One ring as a sender and one receiver see it."""

    def __init__(self, packer, assembler, *, compact):
        self.packer = packer
        self.assembler = assembler
        self.compact = compact
        self.sent, self.received = Labels(), Labels()
        self.told = []
        self.dropped = Counter()

    def cut(self, count=1 << 20, *, last=False):
        """Frames as (guarantee, bytes of a whole multicast with an empty header)."""
        frames = []
        while self.packer and len(frames) < count:
            guarantee, parts = self.packer.next_frame(last=last, numbers=self.sent.own if self.compact else None)
            frames.append((guarantee, HEADER + b"".join(parts)))
        return frames

    def take(self, frames):
        for guarantee, frame in frames:
            messages = self.assembler.take(1, frame, layout.FRAME_COMPACT if self.compact else layout.FRAME_PLAIN)
            runs = self.received.runs(1, frame, messages, self.drop) if self.compact else [(b"", messages)]
            self.told += [(guarantee, label, message) for label, run in runs for message in run]

    def drop(self, cause):
        self.dropped[cause] += 1


def ring(*, compact=True, frame_size=FRAME_SIZE):
    return Ring(Packer(frame_size), Assembler(), compact=compact)


def told_of(messages, guarantee, envelope, *, compact):
    """Return what a receiver is given of messages."""
    if envelope is None or not compact:
        whole = messages if envelope is None else with_headers(messages, envelope)
        return [(guarantee, b"", message) for message in whole]
    return [(guarantee, envelope.label, message) for message in messages]


def random_list(dice):
    messages = [dice.randbytes(dice.choice([0, 1, 5, 20, 100, 300, 500, 1500])) for _ in range(dice.randrange(8))]
    return messages, dice.choice(tuple(Guarantee)), dice.choice([None, *ENVELOPES])


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_what_goes_in_comes_out(seed, compact):
    dice = random.Random(seed)
    it = ring(compact=compact)
    expected = []
    for _ in range(20):
        queued = random_list(dice)
        it.packer.extend(*queued)
        expected += told_of(*queued, compact=compact)
        frames = it.cut(dice.randrange(4), last=dice.random() < 0.3)
        assert all(len(frame) <= FRAME_SIZE for _, frame in frames)
        it.take(frames)
    it.take(it.cut())
    assert it.told == expected
    assert not it.dropped
    assert (it.packer.queued_bytes, it.packer.queued_frames(compact=True), it.packer.queued_frames()) == (0, 0, 0)


@pytest.mark.parametrize("seed", range(60))
def test_a_change_of_ring_gives_what_waits_the_form_of_the_next_one(seed):
    """Each ring ends anywhere. What it has cut starts again; what it has numbered is delivered in its own form."""
    dice = random.Random(seed)
    packer, assembler = Packer(FRAME_SIZE), Assembler()
    unsent = []
    for _ in range(10):
        it = Ring(packer, assembler, compact=dice.random() < 0.6)
        for _ in range(4):
            messages, guarantee, envelope = random_list(dice)
            packer.extend(messages, guarantee, envelope)
            unsent += [(message, guarantee, envelope) for message in messages]
            it.take(it.cut(dice.randrange(6)))
        told = [entry for entry in it.told if entry != (0, b"", b"\0")]
        expected = [told_of([message], *rest, compact=it.compact)[0] for message, *rest in unsent[: len(told)]]
        assert told == expected
        assert not it.dropped
        unsent = unsent[len(told) :]
        packer.restart()


def read_with_the_schema(frames):
    """Return the whole messages and labels of frames, read by the reference alone."""
    numbers, told = {0: b""}, []
    begun = label = b""
    for frame in frames:
        fields = schema.TotempgMcast.parse(frame[codec.MCAST_HEADER :])
        pieces = list(fields.pieces)
        if fields.continuation:
            begun += pieces.pop(0)
            if fields.fragmented and not pieces:
                continue
            told.append((label, begun))
        begun = pieces.pop() if fields.fragmented else b""
        left, label = len(pieces), b""
        while pieces:
            if fields.type == layout.FRAME_COMPACT and left == len(pieces):
                run = schema.RunHeader.parse(pieces.pop(0))
                label = numbers[run.number] = run.label or numbers[run.number]
                left = len(pieces) - run.count
            else:
                told.append((label, pieces.pop(0)))
    return told


@pytest.mark.parametrize("seed", range(60))
def test_the_schema_reads_the_same(seed):
    dice = random.Random(seed)
    it = ring()
    for _ in range(30):
        it.packer.extend(*random_list(dice))
    frames = it.cut()
    it.take(frames)
    assert read_with_the_schema(frame for _, frame in frames) == [entry[1:] for entry in it.told]


def test_frames_of_small_messages_are_full_and_equal():
    it = ring(frame_size=1427)
    it.packer.extend([bytes(64)] * 500, Guarantee.AGREED, ENVELOPES[0])
    estimate = it.packer.queued_frames(compact=True)
    frames = [frame for _, frame in it.cut()]
    assert {len(frame) for frame in frames[1:-1]} == {1427}
    assert 500 / len(frames) >= 20
    assert estimate == pytest.approx(len(frames), abs=1)


def test_a_label_is_sent_once():
    it = ring()
    for _ in range(100):
        it.packer.extend([b"x" * 50], Guarantee.AGREED, ENVELOPES[2])
    assert sum(ENVELOPES[2].label in frame for _, frame in it.cut()) == 1


def test_messages_without_envelopes_alone_make_plain_frames():
    it, plain = ring(), ring(compact=False)
    for packer in (it.packer, plain.packer):
        packer.extend([bytes(500), b"", bytes(2000)], Guarantee.AGREED)
    assert it.cut() == plain.cut()


def test_more_labels_than_there_are_numbers():
    it = ring()
    envelopes = [Envelope(b"%d" % number) for number in range(2 * MOST_LABELS + 10)]
    for _ in range(2):
        for envelope in envelopes:
            it.packer.extend([b"of " + envelope.label], Guarantee.AGREED, envelope)
    it.take(it.cut())
    assert it.told == [(0, envelope.label, b"of " + envelope.label) for envelope in [*envelopes, *envelopes]]
    assert len(it.received._heard[1]) <= MOST_LABELS
    assert len(it.sent.own) <= MOST_LABELS + 1


def test_what_is_known_of_a_dead_ring_is_known_of_no_other():
    it = ring()
    it.packer.extend([b"one"], Guarantee.AGREED, ENVELOPES[0])
    it.take(it.cut())
    following = Ring(it.packer, it.assembler, compact=True)
    following.sent = it.sent  # which a correct sender does not
    it.packer.extend([b"two"], Guarantee.AGREED, ENVELOPES[0])
    following.take(following.cut())
    assert following.told == []
    assert following.dropped == {"messages with an unknown label": 1}


# Hostile frames: only what they themselves carry is dropped and counted.


def compact_frame(*pieces, fragmented=0, continuation=0):
    header = codec.frame(list(map(len, pieces)), fragmented, continuation, layout.FRAME_COMPACT)
    return HEADER + header + b"".join(pieces)


def told_by(*frames):
    it = ring()
    it.take([(0, frame) for frame in frames])
    return [entry[1:] for entry in it.told], dict(it.dropped)


GOOD = [Numbers().run_header(b"good", 1), b"good"]
HOSTILE = {
    "unknown number": ([codec.run_header(7, 1), b"bad"], "messages with an unknown label", True),
    "unknown number of many": ([codec.run_header(7, 3), b"x", b"y", b"z"], "messages with an unknown label", True),
    "number out of range": (
        [codec.run_header(MOST_LABELS + 1, 1) + b"label", b"bad"],
        "messages with an unknown label",
        True,
    ),
    "label too long, for a number in use": (
        [codec.run_header(1, 1) + bytes(LONGEST_LABEL + 1), b"bad"],
        "messages with an unknown label",
        True,
    ),
    "count too large": ([codec.run_header(0, 0xFFFF), b"bad"], "run of too few messages", False),
    "short run header": ([b"\1\0\0", b"bad"], "short run header", False),
    "empty run header": ([b"", b"bad"], "short run header", False),
}


@pytest.mark.parametrize(("pieces", "cause", "goes_on"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_runs_harm_only_themselves(pieces, cause, goes_on):
    good = (b"good", b"good")
    told, dropped = told_by(compact_frame(*GOOD, *pieces, *GOOD), compact_frame(*GOOD))
    assert told == ([good] * 3 if goes_on else [good] * 2)
    assert dropped == {cause: 1}


def test_a_run_header_for_nothing_is_nothing():
    assert told_by(compact_frame(codec.run_header(9, 0), codec.run_header(0, 0))) == ([], {})


def test_an_unfinished_message_with_an_unknown_label_is_dropped_when_it_is_whole():
    begun = compact_frame(codec.run_header(7, 0), b"head", fragmented=1)
    rest = compact_frame(b"tail", *GOOD, continuation=1)
    assert told_by(begun, rest) == ([(b"good", b"good")], {"messages with an unknown label": 1})


def test_a_message_that_nothing_begins_has_no_label_and_leaves_none_behind():
    begun = compact_frame(codec.run_header(1, 0) + b"label", b"head", fragmented=1)
    plain = HEADER + codec.frame([1], 0, 0) + b"x"
    told, dropped = told_by(begun, plain, compact_frame(b"tail", *GOOD, continuation=1), compact_frame(*GOOD))
    assert (b"label", b"tail") not in told
    assert (b"label", b"headtail") not in told
    assert not dropped


def test_compact_frames_are_malformed_in_a_ring_that_knows_none():
    it = ring(compact=False)
    with pytest.raises(MalformedDatagram, match="other frame version"):
        it.take([(0, compact_frame(*GOOD))])
    it.packer.extend([bytes(2000)], Guarantee.AGREED, ENVELOPES[0])
    it.take(it.cut())
    assert it.told == [(0, b"", ENVELOPES[0][2000] + bytes(2000))]


@pytest.mark.parametrize("seed", range(200))
def test_random_frames_break_nothing(seed):
    """Nor do they leave anything behind that affects another sender's messages."""
    dice = random.Random(seed)
    it = ring()
    for _ in range(100):
        pieces = [
            codec.run_header(dice.randrange(3), dice.randrange(4)) + dice.choice([b"", b"", b"label"])
            if dice.random() < 0.5
            else dice.randbytes(dice.randrange(6))
            for _ in range(dice.randint(1, 6))
        ]
        frame = compact_frame(*pieces, fragmented=dice.randrange(3), continuation=dice.randrange(3))
        for label, run in it.received.runs(2, frame, it.assembler.take(2, frame, layout.FRAME_COMPACT), it.drop):
            assert run
            assert label in (b"", b"label")
    it.packer.extend([b"fine"] * 40, Guarantee.AGREED, ENVELOPES[0])
    it.take(it.cut())
    assert it.told == [(0, b"a", b"fine")] * 40
