"""Pauses between tries."""

from cpg.local.backoff import Backoff


def test_pauses_double_up_to_a_limit_and_begin_again():
    pauses = Backoff(0.5, 3.0)
    assert [pauses.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    pauses.reset()
    assert pauses.next() == 0.5
