"""What comes from one other node: numbers, duplicates, fragments."""

import random

import pytest

from totem.links.arrivals import MOST_UNFINISHED, NUMBERS, WINDOW, Arrivals
from totem.wire.knet import LARGEST_USER_DATA, Fragment, Ping


def following(seq, steps=1):
    """The number that many packets later; 0 is none."""
    for _ in range(steps):
        seq = seq % (NUMBERS - 1) + 1
    return seq


def ping(seq, *, timed=True):
    return Ping(0, bytes(16), seq, timed)


@pytest.mark.parametrize("first", [1, 4096, 65530])
def test_each_number_comes_once(first):
    arrivals, seqs = Arrivals(), [first]
    for _ in range(300):
        seqs.append(following(seqs[-1]))
    assert all(arrivals.is_new(seq) for seq in seqs)
    assert not any(arrivals.is_new(seq) for seq in seqs)


def test_numbers_may_come_in_any_order_within_the_window():
    seqs = list(range(1, 2000))
    random.Random(1).shuffle(seqs)
    arrivals = Arrivals()
    assert all(arrivals.is_new(seq) for seq in [1, *(seq for seq in seqs if seq != 1)])
    assert not any(arrivals.is_new(seq) for seq in seqs)


def test_a_gap_can_be_filled_later():
    arrivals = Arrivals()
    assert arrivals.is_new(1)
    assert arrivals.is_new(WINDOW - 1)
    assert arrivals.is_new(2)
    assert not arrivals.is_new(2)


def test_a_number_far_away_begins_a_new_window():
    arrivals = Arrivals()
    assert arrivals.is_new(40000)
    assert arrivals.is_new(3)
    assert arrivals.is_new(4)
    assert not arrivals.is_new(3)


def test_marks_of_an_earlier_round_do_not_count():
    arrivals = Arrivals()
    seq = 1
    for _ in range(3 * WINDOW):
        assert arrivals.is_new(seq)
        seq = following(seq)


def test_a_node_that_starts_again_is_heard_behind_its_ping():
    arrivals = Arrivals()
    arrivals.note_ping(ping(0))
    assert arrivals.is_new(1)
    assert arrivals.is_new(2)
    arrivals.note_ping(ping(2))
    assert not arrivals.is_new(1)
    arrivals.note_ping(ping(0))
    assert arrivals.is_new(1)
    arrivals.note_ping(ping(1))
    assert not arrivals.is_new(1)


def test_a_node_that_starts_again_is_noticed_although_its_pings_with_0_were_lost():
    arrivals = Arrivals()

    def tells(seq, time, *, timed=True):
        arrivals.note_ping(Ping(0, time.to_bytes(8, "little") + bytes(8), seq, timed))

    tells(350, 1)
    tells(400, 3)
    assert all(arrivals.is_new(seq) for seq in range(1, 500))
    tells(350, 1)  # a copy of an old one
    tells(380, 2, timed=False)  # one that was overtaken
    tells(450, 4)  # it left before the last data, which has overtaken it
    assert not arrivals.is_new(20), "nothing has told of a new process"
    tells(20, 5)
    assert arrivals.is_new(20)
    assert not arrivals.is_new(20)
    tells(30, 6)
    assert not arrivals.is_new(20)


def test_numbers_that_have_gone_round_are_no_restart():
    arrivals = Arrivals()
    arrivals.note_ping(ping(65500))
    assert arrivals.is_new(65535)
    arrivals.note_ping(Ping(0, b"\1" + bytes(15), 20, timed=True))
    assert not arrivals.is_new(65535)


def test_a_forced_ping_keeps_an_idle_node_near():
    arrivals = Arrivals()
    assert arrivals.is_new(5)
    for seq in range(8191, 65535, 8191):
        arrivals.note_ping(ping(seq, timed=False))
    assert arrivals.is_new(65535)
    assert arrivals.is_new(5)
    assert not arrivals.is_new(5)


# ---- fragments


def fragments(seq, data, size, compression=0):
    count = -(-len(data) // size)
    return [
        (Fragment(seq, compression, count, number + 1, 0), data[number * size : (number + 1) * size])
        for number in range(count)
    ]


@pytest.mark.parametrize("order", ["as sent", "reversed", "doubled"])
def test_fragments_become_the_packet(order):
    data = random.Random(2).randbytes(10000)
    pieces = fragments(7, data, 482)
    if order == "reversed":
        pieces.reverse()
    if order == "doubled":
        pieces = [piece for piece in pieces for _ in range(2)]
    arrivals = Arrivals()
    wholes = [whole for said, piece in pieces if (whole := arrivals.add(said, piece)) is not None]
    assert wholes == [data]
    assert all(arrivals.add(said, piece) is None for said, piece in pieces)
    assert not arrivals.is_new(7)


@pytest.mark.parametrize(
    "said", [Fragment(7, 0, 0, 1, 0), Fragment(7, 0, 2, 0, 0), Fragment(7, 0, 2, 3, 0), Fragment(7, 0, 255, 1, 0)]
)
def test_impossible_fragments_are_dropped(said):
    arrivals = Arrivals()
    assert arrivals.add(said, b"x") is None
    first, second = fragments(7, b"abcd", 2)
    assert arrivals.add(*first) is None
    assert arrivals.add(*second) == b"abcd"


def test_fragments_that_contradict_others_are_dropped():
    arrivals = Arrivals()
    first, second = fragments(7, b"abcd", 2)
    arrivals.add(*first)
    assert arrivals.add(Fragment(7, 0, 3, 2, 0), b"xx") is None
    assert arrivals.add(Fragment(7, 1, 2, 2, 0), b"xx") is None
    assert arrivals.add(*second) == b"abcd"


def test_unfinished_packets_have_a_bound():
    arrivals = Arrivals()
    pieces = {seq: fragments(seq, b"abcd", 2) for seq in range(1, MOST_UNFINISHED + 2)}
    for first, _ in pieces.values():
        arrivals.add(*first)
    assert arrivals.add(*pieces[1][1]) is None, "the oldest was given up"
    assert arrivals.add(*pieces[1][0]) is None, "and is not begun again"
    assert all(arrivals.add(*pieces[seq][1]) == b"abcd" for seq in range(2, MOST_UNFINISHED + 2))


def test_a_packet_has_a_largest_size():
    arrivals = Arrivals()
    assert arrivals.add(Fragment(1, 0, 2, 1, 0), bytes(LARGEST_USER_DATA)) is None
    assert arrivals.add(Fragment(1, 0, 2, 2, 0), b"x") is None


def test_a_packet_given_up_long_ago_does_not_hide_another_one():
    """Number 4,097 has the mark that number 1 had in the window before."""
    arrivals = Arrivals()
    arrivals.add(*fragments(1, b"abcd", 2)[0])
    assert arrivals.is_new(WINDOW + 1000)
    assert arrivals.is_new(WINDOW + 1)


@pytest.mark.parametrize("first", [3, 30_000, 62_000])
def test_fragments_of_several_packets_may_mix_whatever_number_is_the_first(first):
    arrivals = Arrivals()
    one, other = fragments(first, b"abcd", 2), fragments(first + 1, b"efgh", 2)
    assert arrivals.add(*one[0]) is None
    assert arrivals.add(*other[0]) is None
    assert arrivals.add(*one[1]) == b"abcd"
    assert arrivals.add(*other[1]) == b"efgh"


def test_fragments_of_an_earlier_round_are_not_mixed_in():
    arrivals = Arrivals()
    arrivals.add(*fragments(7, b"abcd", 2)[0])
    seq = 7
    for _ in range(NUMBERS - 2):
        seq = following(seq)
        assert arrivals.is_new(seq)
    first, second = fragments(7, b"efgh", 2)
    assert arrivals.add(*second) is None
    assert arrivals.add(*first) == b"efgh"


def test_fragments_far_back_are_dropped():
    arrivals = Arrivals()
    (first, second), (again, _) = fragments(7, b"abcd", 2), fragments(8, b"efgh", 2)
    assert arrivals.add(*first) is None
    assert arrivals.is_new(8 + MOST_UNFINISHED)
    assert arrivals.add(*second) is None
    assert arrivals.add(*again) is None, "the last one that may still begin"
    assert arrivals.is_new(9 + MOST_UNFINISHED)
    assert arrivals.add(*fragments(8, b"efgh", 2)[1]) is None
