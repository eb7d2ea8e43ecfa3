"""Sequences that are too far above a node's own to be believed at once (rulings, G18)."""

from totem.ring_numbers import Claims

FAR = 1 << 50


def test_a_far_number_counts_when_it_has_been_repeated():
    claims = Claims(0.2)
    assert not claims.hear(2, FAR, 1.0)
    assert not claims.hear(2, FAR, 1.1)
    assert claims.highest((2, 3)) == 0
    assert claims.hear(2, FAR, 1.25)
    assert claims.highest((2, 3)) == FAR


def test_who_says_something_else_or_was_silent_begins_anew():
    claims = Claims(0.2)
    claims.hear(2, FAR, 1.0)
    assert not claims.hear(2, 2 * FAR, 1.15)
    assert not claims.hear(2, 2 * FAR, 1.5)
    claims.forget(2)
    assert not claims.hear(2, 2 * FAR, 1.6)
