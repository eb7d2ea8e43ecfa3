"""The window against a simple twin: a plain set of numbers."""

import random

import pytest

from totem.sequence import MASK, RANGE, after, distance
from totem.window import MessageWindow


class Twin:
    """The same promises, by counting everything again each time; offsets from `first` instead of wrapped numbers."""

    def __init__(self):
        self.held = {}
        self.ever = set()
        self.released = 0

    @property
    def aru(self):
        aru = self.released
        while aru + 1 in self.ever:
            aru += 1
        return aru

    def insert(self, offset, frame):
        if offset in self.ever or not self.released < offset < self.released + RANGE:
            return False
        self.ever.add(offset)
        self.held[offset] = frame
        return True

    def release(self, offset):
        self.released = max(self.released, offset)
        self.held = {o: f for o, f in self.held.items() if o > self.released}


@pytest.mark.parametrize("first", [0, 7, 2**31 - 100, 2**31 + 100, MASK - 100, MASK])
@pytest.mark.parametrize("seed", range(5))
def test_window_equals_its_dumb_twin(first, seed):
    dice = random.Random(seed)
    window, twin = MessageWindow(first), Twin()
    for _ in range(600):
        base = twin.aru
        offset = max(0, base + dice.choice([-3, 0, 1, 1, 1, 2, 3, 9, 40, RANGE, RANGE + 5]))
        seq = after(first, offset)
        frame = b"%d" % offset
        assert window.insert(seq, frame) == twin.insert(offset, frame)
        if dice.random() < 0.2:
            end = dice.randint(twin.released, twin.aru)
            window.release(after(first, end))
            twin.release(end)
        assert distance(first, window.aru) == twin.aru
        assert distance(first, window.released) == twin.released
        assert distance(first, window.high_seq) == max(twin.ever, default=0)
        high = max(twin.ever, default=0)
        assert [distance(first, s) for s in window.missing(window.high_seq)] == [
            o for o in range(twin.aru + 1, min(high, twin.aru + RANGE) + 1) if o not in twin.ever
        ]
        held = [(distance(first, s), f) for s, f in window.between(window.released, window.high_seq)]
        assert held == sorted(twin.held.items())


@pytest.mark.parametrize("first", [0, 7, 2**31 - 100, 2**31 + 100, MASK - 100, MASK])
@pytest.mark.parametrize("seed", range(5))
def test_many_at_once_are_as_one_by_one(first, seed):
    dice = random.Random(seed)
    window, one_by_one = MessageWindow(first), MessageWindow(first)
    for _ in range(200):
        start = distance(first, window.aru) + dice.choice([-3, 1, 1, 1, 2, 9, 40, RANGE - 4])
        offsets = [max(0, start + place) for place in range(dice.choice([1, 1, 2, 7, 30]))]
        if dice.random() < 0.2:
            dice.shuffle(offsets)
        if dice.random() < 0.2:
            del offsets[dice.randrange(len(offsets)) :: 2]
        seqs = [after(first, offset) for offset in offsets or [start]]
        frames = [dice.randbytes(2) for _ in seqs]
        window.insert_all(seqs, frames)
        for seq, frame in zip(seqs, frames, strict=True):
            one_by_one.insert(seq, frame)
        assert window.frames == one_by_one.frames
        assert (window.aru, window.high_seq) == (one_by_one.aru, one_by_one.high_seq)
        if dice.random() < 0.3:
            end = after(window.released, dice.randint(0, distance(window.released, window.aru)))
            window.release(end)
            one_by_one.release(end)


def test_release_below_what_is_released_changes_nothing():
    window = MessageWindow(0)
    window.insert(1, b"a")
    window.insert(2, b"b")
    window.release(2)
    window.release(1)
    assert window.released == 2
    assert not window.frames


def test_a_released_number_does_not_come_back():
    window = MessageWindow(0)
    window.insert(1, b"a")
    window.release(1)
    assert not window.insert(1, b"a")


def test_a_number_beyond_the_range_is_refused():
    window = MessageWindow(0)
    assert not window.insert(RANGE, b"")
    assert window.insert(RANGE - 1, b"")
