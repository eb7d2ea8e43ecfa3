"""Order of 32-bit numbers across the wrap."""

import random

import pytest

from totem import sequence


def test_zero_follows_the_largest_number():
    assert sequence.before(0xFFFFFFFF, 0)
    assert not sequence.before(0, 0xFFFFFFFF)
    assert sequence.after(0xFFFFFFFF) == 0


@pytest.mark.parametrize("start", [0, 1, 0x7FFFFFF0, 0x80000000, 0xFFFFBF00, 0xFFFFFFFF])
def test_order_is_the_sign_of_the_difference_within_the_range(start):
    dice = random.Random(start)
    for _ in range(2000):
        # Corosync's comparison has a seam at 2**31 as well; a ring there compares like any other.
        a = (start + dice.randrange(sequence.RANGE)) & sequence.MASK
        b = (start + dice.randrange(sequence.RANGE)) & sequence.MASK
        difference = (b - a) & sequence.MASK
        assert sequence.before(a, b) == (0 < difference < 0x80000000)
        assert sequence.up_to(a, b) == (difference < 0x80000000)
        assert {sequence.earlier(a, b), sequence.later(a, b)} == {a, b}
        assert sequence.up_to(sequence.earlier(a, b), sequence.later(a, b))
        assert sequence.after(a, sequence.distance(a, b)) == b


@pytest.mark.parametrize("start", [0, 1, 0x7FFFFFF0, 0x80000000, 0x80000005, 0xFFFFBF00, 0xFFFFFFFF])
def test_a_row_leads_from_one_number_to_another(start):
    for count in (0, 1, 30, sequence.RANGE - 1):
        end = sequence.after(start, count)
        numbers = [sequence.after(start, steps) for steps in range(1, count + 1)]
        assert list(sequence.row(start, count)) == list(sequence.row_to(start, end)) == numbers
        assert not count or not sequence.row_to(end, start)
    assert not sequence.row_to(start, sequence.after(start, sequence.RANGE)), "no two live numbers lie so far apart"


def test_the_seam_of_corosyncs_comparison():
    """Corosync subtracts 65536 from both as soon as either is above 2**31 (exec/totemsrp.c, sq_lt_compare)."""
    assert sequence.before(0x7FFFFFFF, 0x80000001)
    assert not sequence.before(0x80000001, 0x7FFFFFFF)
    assert sequence.before(0xFFFFFFFF, 65535)
    assert not sequence.before(0xFFFFFFFF, 65536), "further apart than Corosync can compare"
