"""Packing and assembly: what goes in comes out, wherever it is cut."""

import random
from itertools import pairwise

import pytest

from totem.configuration import Guarantee
from totem.errors import MalformedDatagram
from totem.packing import Assembler, Packer
from totem.wire import codec
from totem.wire.codec import next_fragment

FRAME_SIZE = 200
HEADER = bytes(codec.MCAST_HEADER)
NUMBERS = range(1, 10_000)


def cut(packer, frames=None, *, last=False):
    """Return frames as (guarantee, bytes of a whole multicast with an empty header), until the queue is empty."""
    out = []
    while packer and (frames is None or len(out) < frames):
        guarantee, parts = packer.next_frame(last=last)
        out.append((guarantee, HEADER + b"".join(parts)))
    return out


def assemble(frames, assembler=None):
    assembler = assembler or Assembler()
    return [message for _, frame in frames for message in assembler.take(1, frame)]


def random_messages(dice, count):
    return [bytes(dice.randbytes(dice.choice([0, 1, 5, 20, 143, 144, 145, 146, 147, 148, 700]))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(30))
def test_what_goes_in_comes_out(seed):
    dice = random.Random(seed)
    packer = Packer(FRAME_SIZE)
    sent, frames = [], []
    for _ in range(20):
        messages = random_messages(dice, dice.randrange(6))
        packer.extend(messages, Guarantee.AGREED)
        sent += messages
        frames += cut(packer, dice.randrange(4), last=dice.random() < 0.3)
    frames += cut(packer)
    assert all(len(frame) <= FRAME_SIZE for _, frame in frames)
    assert assemble(frames) == sent
    assert packer.queued_bytes == 0
    assert packer.queued_frames() == 0


@pytest.mark.parametrize("seed", range(30))
def test_many_frames_at_once_are_those_that_come_one_by_one(seed):
    dice = random.Random(seed)
    packer, one_by_one = Packer(FRAME_SIZE), Packer(FRAME_SIZE)
    for _ in range(40):
        messages = random_messages(dice, dice.randrange(4))
        for each in (packer, one_by_one):
            each.extend(messages, Guarantee(len(messages) % 2))
        most = dice.choice([0, 1, 2, 5, 50])
        singles = []
        while one_by_one and len(singles) < most:
            singles.append(one_by_one.next_frame(last=len(singles) + 1 == most))
        assert [(level, b"".join(parts)) for level, parts in packer.next_frames(most)] == [
            (level, b"".join(parts)) for level, parts in singles
        ]
        assert (len(packer), packer.queued_bytes) == (len(one_by_one), one_by_one.queued_bytes)
        assert packer.queued_frames() == one_by_one.queued_frames()
        if dice.random() < 0.1:
            packer.restart()
            one_by_one.restart()


def disorder(dice, multicasts):
    """Lose some, repeat some, cut some, and change bytes of some."""
    for frame in multicasts:
        fault = dice.choice(["none"] * 200 + ["lost", "twice", "cut", "changed"])
        if fault == "cut":
            yield frame[: dice.randrange(codec.MCAST_HEADER, len(frame))]
        elif fault == "changed":
            place = dice.randrange(codec.MCAST_HEADER, min(len(frame), codec.MCAST_HEADER + 12))
            yield frame[:place] + bytes([dice.randrange(256)]) + frame[place + 1 :]
        elif fault != "lost":
            yield from [frame] * (1 + (fault == "twice"))


@pytest.mark.parametrize("seed", range(60))
def test_middles_of_long_messages_taken_together_are_as_one_by_one(seed):
    """From any senders, in any order: the same messages, dropped and thrown away at the same places."""
    dice = random.Random(seed)
    trains = []
    for sender in (1, 2, 3):
        packer = Packer(FRAME_SIZE)
        packer.extend([dice.randbytes(dice.choice([5, 90, 700, 3000, 60_000])) for _ in range(8)], Guarantee.AGREED)
        frames = packer.next_frames(10_000)
        trains.append(codec.seal_train(sender, NUMBERS[: len(frames)], NUMBERS[: len(frames)], bytes(12), frames))
    mixed = []
    while any(trains):
        train = dice.choice(trains)
        count = dice.choice([1, 3, 40, 200])
        mixed += train[:count]
        del train[:count]
    multicasts = list(disorder(dice, mixed))

    def take(assembler, frame, got):
        try:
            got += assembler.take(codec.mcast_origin(frame), frame)
        except MalformedDatagram as fault:
            got.append(fault.cause)

    singly, together = [], []
    assembler = Assembler()
    for frame in multicasts:
        take(assembler, frame, singly)
    assembler, taken = Assembler(), 0
    while multicasts:
        size = dice.choice([50, 300])
        batch, multicasts = multicasts[:size], multicasts[size:]
        place = 0
        while place < len(batch):
            if middles := assembler.take_middles(batch, place):
                place += middles
                taken += middles
            else:
                take(assembler, batch[place], together)
                place += 1
    assert together == singly
    assert taken


def test_frames_of_a_visit_are_full_and_equal():
    packer = Packer(1427)
    packer.extend([bytes(253)] * 100, Guarantee.AGREED)
    sizes = [len(frame) for _, frame in cut(packer)]
    assert set(sizes[:-1]) == {1427}


def test_the_last_frame_of_a_visit_ends_with_a_whole_message():
    packer = Packer(FRAME_SIZE)
    packer.extend([bytes(60)] * 4, Guarantee.AGREED)
    _, parts = packer.next_frame(last=True)
    fragmented, _, pieces = codec.parse_frame(HEADER + b"".join(parts))
    assert (fragmented, len(pieces)) == (0, 2)


def test_safe_and_agreed_never_share_a_frame():
    packer = Packer(FRAME_SIZE)
    for guarantee in (Guarantee.AGREED, Guarantee.SAFE, Guarantee.SAFE, Guarantee.AGREED):
        packer.extend([b"%d" % guarantee], guarantee)
    frames = cut(packer)
    assert [guarantee for guarantee, _ in frames] == [0, 1, 0]
    assert [assemble([frame]) for frame in frames] == [[b"0"], [b"1", b"1"], [b"0"]]


def test_a_fragmented_message_has_the_level_of_the_frame_with_its_last_piece():
    packer = Packer(FRAME_SIZE)
    packer.extend([bytes(400)], Guarantee.SAFE)
    assert [guarantee for guarantee, _ in cut(packer)] == [0, 0, 1]


def test_fragment_numbers_run_from_1_to_255_and_begin_again():
    packer = Packer(FRAME_SIZE)
    packer.extend([bytes(145 * 600)], Guarantee.AGREED)
    heads = [codec.parse_frame(frame)[:2] for _, frame in cut(packer)]
    assert all(second[1] == first[0] for first, second in pairwise(heads))
    numbers = [fragmented for fragmented, _ in heads[:-1]]
    assert numbers[:256] == [*range(1, 256), 1]
    assert next_fragment(255) == 1


@pytest.mark.parametrize("seen", range(4))
@pytest.mark.parametrize("cut_after", [1, 2])
def test_a_message_that_was_cut_starts_again_for_everybody(cut_after, seen):
    """A reset frame makes a member that saw the start, one that throws away and one that just joined agree (C2)."""
    packer = Packer(FRAME_SIZE)
    long = bytes(range(256)) * 2
    packer.extend([long, b"next"], Guarantee.AGREED)
    before = cut(packer, cut_after)
    packer.restart()
    after = cut(packer)
    assembler = Assembler()
    assemble(before[:seen] if seen < 3 else before[1:], assembler)
    assert assemble(after, assembler) == [long, b"next"]


def test_nothing_is_sent_twice_when_nothing_was_cut():
    packer = Packer(FRAME_SIZE)
    packer.extend([b"one"], Guarantee.AGREED)
    cut(packer)
    packer.restart()
    packer.extend([b"two"], Guarantee.AGREED)
    assert assemble(cut(packer)) == [b"two"]


def test_dropping_a_half_sent_message_makes_receivers_start_afresh():
    packer = Packer(FRAME_SIZE)
    packer.extend([bytes(400), b"dead"], Guarantee.AGREED)
    assembler = Assembler()
    assemble(cut(packer, 1), assembler)
    packer.drop_unsent()
    packer.extend([b"alive"], Guarantee.AGREED)
    assert assemble(cut(packer), assembler) == [b"alive"]


def test_after_a_gap_everything_is_thrown_away_up_to_a_frame_that_ends_whole():
    """Corosync's receivers also lose what is packed behind the tail (wire document 7.3); all members must lose the
    same."""
    packer = Packer(FRAME_SIZE)
    packer.extend([bytes(400), b"behind the tail"], Guarantee.AGREED)
    packer_frames = cut(packer)
    packer.extend([b"later"], Guarantee.AGREED)
    assembler = Assembler()
    assert assemble(packer_frames[1:], assembler) == []
    assert assemble(cut(packer), assembler) == [b"later"]


def test_an_unfinished_message_of_a_departed_sender_is_forgotten():
    packer = Packer(FRAME_SIZE)
    packer.extend([bytes(400)], Guarantee.AGREED)
    first, second, third = cut(packer)
    assembler = Assembler()
    assembler.take(1, first[1])
    assembler.keep_only([2, 3])
    assert assemble([second, third], assembler) == []
    packer.extend([b"whole"], Guarantee.AGREED)
    assert assemble(cut(packer), assembler) == [b"whole"]


def test_a_message_longer_than_any_is_not_collected():
    """A hostile sender that never ends its message costs a bounded buffer."""
    assembler = Assembler()
    piece = bytes(1300)
    fragment = 0
    for _ in range(2000):
        frame = HEADER + codec.frame([len(piece)], next_fragment(fragment), fragment) + piece
        assert assembler.take(1, frame) == []
        fragment = next_fragment(fragment)
    assert assembler.take(1, HEADER + codec.frame([1], 0, fragment) + b"x") == []


def test_a_message_longer_than_any_is_not_collected_where_its_middles_come_together():
    frames = [(Guarantee.AGREED, [codec.frame([1300], next_fragment(0), 0), bytes(1300)])]
    fragment = 1
    for _ in range(2000):
        frames.append((Guarantee.AGREED, [codec.frame([1300], next_fragment(fragment), fragment), bytes(1300)]))
        fragment = next_fragment(fragment)
    train = codec.seal_train(1, NUMBERS[: len(frames)], NUMBERS[: len(frames)], bytes(12), frames)
    assembler = Assembler()
    assert assembler.take(1, train[0]) == []
    assert assembler.take_middles(train, 1) == codec.MOST_MIDDLES
    place, most = 1 + codec.MOST_MIDDLES, 0
    while place < len(train):
        if middles := assembler.take_middles(train, place):
            place += middles
        else:
            assert assembler.take(1, train[place]) == []
            place += 1
        most = max(most, len(assembler._streams[1].parts))
    assert 500 < most < 1000
    assert not assembler._streams[1].parts
    assert assembler.take_middles(train, 1) == 0
    assert assembler.take(1, HEADER + codec.frame([1], 0, fragment) + b"x") == []


def test_empty_pieces_of_an_endless_message_cost_no_memory():
    assembler = Assembler()
    continuation = 0
    for _ in range(1000):
        fragmented = next_fragment(continuation)
        assert not assembler.take(1, HEADER + codec.frame([0], fragmented, continuation))
        continuation = fragmented
    assert not assembler._streams[1].parts
    assert assembler.take(1, HEADER + codec.frame([2], 0, continuation) + b"ab") == [b"ab"]
