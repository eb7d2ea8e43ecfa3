"""The check of clients' histories: valid ones pass, broken ones do not, and a simple twin agrees on small ones."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluck.testing.linearizability import EXCLUSIVE, SHARED, Kind, Operation, Outcome, What, check_operations, fit
from tests.cluck.testing.histories import KINDS, LEASE, LOCK, Model, is_history, spoil

ACQUIRE, RELEASE, RENEW = What.ACQUIRE, What.RELEASE, What.RENEW
OK, BUSY, LOST, UNKNOWN, WITHDRAWN = Outcome.OK, Outcome.BUSY, Outcome.LOST, Outcome.UNKNOWN, Outcome.WITHDRAWN
TWO = Kind(permits=2)


def acquire(who, invoked, returned, outcome=OK, token=0, *, kind=EXCLUSIVE, until=None):
    until = invoked + LEASE if until is None else until
    return Operation(who, LOCK, ACQUIRE, invoked, returned, outcome, token, kind, until)


def release(who, invoked, returned, token, outcome=OK):
    return Operation(who, LOCK, RELEASE, invoked, returned, outcome, token)


def renew(who, invoked, returned, token, outcome=OK):
    return Operation(who, LOCK, RENEW, invoked, returned, outcome, token, until=invoked + LEASE)


def is_fine(*operations, died=None):
    verdict = not list(check_operations(operations, died))
    assert verdict == is_history(list(operations), died or {})
    return verdict


def test_what_fits():
    assert fit([EXCLUSIVE])
    assert fit([SHARED] * 5)
    assert fit([TWO] * 2)
    assert not fit([TWO] * 3)
    assert not fit([EXCLUSIVE] * 2)
    assert not fit([SHARED, EXCLUSIVE])
    assert not fit([TWO, Kind(permits=3)])


GOOD = {
    "one after the other": [acquire("A", 0, 1, OK, 1), release("A", 2, 3, 1), acquire("B", 4, 5, OK, 2)],
    "who waits is granted during the release": [
        acquire("A", 0, 1, OK, 1),
        acquire("B", 0, 3, OK, 2),
        release("A", 2, 4, 1),
    ],
    "the lease is over": [acquire("A", 0, 1, OK, 1), acquire("B", 2, 6, OK, 2), release("A", 7, 8, 1, LOST)],
    "the holder has ended": [acquire("A", 0, 1, OK, 1), acquire("B", 2, 4, OK, 2)],
    "perhaps it was released": [acquire("A", 0, 1, OK, 1), release("A", 2, 2, 1, UNKNOWN), acquire("B", 2, 3, OK, 2)],
    "a release without answer has effect late": [
        acquire("A", 0, 1, OK, 1),
        release("A", 2, 2, 1, UNKNOWN),
        acquire("B", 3, 4, BUSY),
        acquire("B", 4.5, 5, OK, 2),
    ],
    "busy while another releases": [acquire("A", 0, 1, OK, 1), release("A", 2, 4, 1), acquire("B", 3, 5, BUSY)],
    "busy with one that does not know": [acquire("A", 0, 0, UNKNOWN), acquire("B", 2, 3, BUSY)],
    "busy with one that is withdrawn": [acquire("A", 0, 4, WITHDRAWN), acquire("B", 2, 3, BUSY)],
    "readers": [
        acquire("A", 0, 1, OK, 1, kind=SHARED),
        acquire("B", 2, 3, OK, 2, kind=SHARED),
        acquire("C", 4, 5, BUSY),
    ],
    "permits": [
        acquire("A", 0, 1, OK, 1, kind=TWO),
        acquire("B", 2, 3, OK, 2, kind=TWO),
        acquire("C", 4, 5, BUSY, kind=TWO),
    ],
    "renewed": [acquire("A", 0, 1, OK, 1), renew("A", 4, 4.5, 1), acquire("B", 7, 8, BUSY), release("A", 8.5, 9, 1)],
    "lost while another takes it": [acquire("A", 0, 1, OK, 1), release("admin", 2, 6, 1), renew("A", 3, 4, 1, LOST)],
    "of two permits the one that is known to be lost was taken": [
        acquire("A", 0, 1, OK, 1, kind=TWO),
        acquire("B", 0, 1, OK, 2, kind=TWO),
        acquire("C", 6, 7, OK, 3, kind=TWO),
        renew("B", 8, 8.5, 2, LOST),
        acquire("D", 9, 10, BUSY, kind=TWO),
    ],
    "of two permits the one that is released makes room": [
        acquire("A", 0, 1, OK, 1, kind=TWO),
        acquire("B", 0, 1, OK, 2, kind=TWO, until=20),
        release("B", 5.5, 9, 2),
        acquire("C", 6, 7, OK, 3, kind=TWO),
        acquire("D", 9.5, 10, BUSY, kind=TWO),
    ],
    "of two releases the one that returns first makes room": [
        acquire("A", 0, 1, OK, 1, kind=TWO, until=20),
        acquire("B", 0, 1, OK, 2, kind=TWO, until=20),
        release("A", 5, 12, 1),
        release("B", 5.5, 8, 2),
        acquire("C", 6, 7, OK, 3, kind=TWO, until=20),
        acquire("D", 9, 10, BUSY, kind=TWO),
    ],
    "forced": [
        acquire("A", 0, 1, OK, 1),
        release("admin", 2, 3, 1),
        acquire("B", 3.5, 4, OK, 2),
        renew("A", 5, 6, 1, LOST),
    ],
}
BAD = {
    "two holders": [acquire("A", 0, 1, OK, 1), acquire("B", 2, 3, OK, 2)],
    "two holders, one of whom says so later": [
        acquire("A", 0, 1, OK, 1),
        acquire("B", 2, 7, OK, 2),
        release("A", 8, 9, 1),
    ],
    "a token goes back": [acquire("A", 0, 1, OK, 2), release("A", 2, 3, 2), acquire("B", 4, 5, OK, 1)],
    "a token comes twice": [acquire("A", 0, 1, OK, 1), release("A", 2, 3, 1), acquire("B", 4, 5, OK, 1)],
    "busy though free": [acquire("A", 0, 1, BUSY)],
    "busy though released": [acquire("A", 0, 1, OK, 1), release("A", 2, 3, 1), acquire("B", 4, 5, BUSY)],
    "busy with one that was withdrawn before": [acquire("A", 0, 1, WITHDRAWN), acquire("B", 2, 3, BUSY)],
    "busy before anybody": [acquire("B", 0, 1, BUSY), acquire("A", 2, 2, UNKNOWN)],
    "lost too early": [acquire("A", 0, 1, OK, 1), renew("A", 2, 3, 1, LOST)],
    "lost before a renewed lease is over": [
        acquire("A", 0, 1, OK, 1),
        renew("A", 4, 4.5, 1),
        acquire("B", 6, 7, OK, 2),
        release("A", 8, 9, 1, LOST),
    ],
    "lost before a lease is over that a renewal did not make shorter": [
        acquire("A", 0, 1, OK, 1, until=10),
        renew("A", 1, 2, 1),
        acquire("B", 7, 8, OK, 2),
    ],
    "perhaps released, but later": [
        acquire("A", 0, 1, OK, 1),
        acquire("B", 2, 3, OK, 2),
        release("A", 4, 4, 1, UNKNOWN),
    ],
    "released twice": [acquire("A", 0, 1, OK, 1), release("A", 2, 3, 1), release("A", 4, 5, 1)],
    "a writer beside readers": [acquire("A", 0, 1, OK, 1, kind=SHARED), acquire("C", 2, 3, OK, 2)],
    "a reader beside a writer": [acquire("A", 0, 1, OK, 1), acquire("C", 2, 3, OK, 2, kind=SHARED)],
    "more than permits": [acquire(who, at, at + 0.5, OK, at + 1, kind=TWO) for at, who in enumerate("ABC")],
    "busy though a permit is free": [acquire("A", 0, 1, OK, 1, kind=TWO), acquire("C", 2, 3, BUSY, kind=TWO)],
}


@pytest.mark.parametrize("name", GOOD)
def test_what_a_lock_may_say(name):
    assert is_fine(*GOOD[name], died={"A": 3} if name == "the holder has ended" else None)


@pytest.mark.parametrize("name", BAD)
def test_what_no_lock_says(name):
    assert not is_fine(*BAD[name])


def test_a_holder_that_ends_later_is_no_excuse():
    assert not is_fine(acquire("A", 0, 1, OK, 1), acquire("B", 2, 3, OK, 2), died={"A": 3.5})


def test_locks_are_looked_at_apart():
    one = acquire("A", 0, 1, OK, 1)
    assert not list(check_operations([one, replace(acquire("B", 2, 3, OK, 2), name=b"other")]))


def test_a_record_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="no outcome of this"):
        release("A", 0, 1, 1, BUSY)
    with pytest.raises(ValueError, match="without a token"):
        acquire("A", 0, 1)
    with pytest.raises(ValueError, match="returned before"):
        acquire("A", 1, 0, OK, 1)


def test_a_violation_says_what_was_held_and_what_could_not_be():
    (violation,) = check_operations(BAD["two holders"])
    assert violation.clause == "lock history"
    assert "1 of 2 operations" in violation.text
    assert "held by A: acquire exclusive 1 ok" in violation.text
    assert "B: acquire exclusive 2 ok" in violation.text


@pytest.mark.parametrize("trouble", [0, 0.1, 0.5])
@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_what_the_model_does_passes(kinds, trouble):
    for seed in range(200):
        operations, died = Model(random.Random(seed), kinds, trouble=trouble).run(60)
        assert not list(check_operations(operations, died)), f"seed {seed}"


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 1 << 32), trouble=st.sampled_from([0, 0.3, 0.6]), changes=st.integers(0, 3))
def test_the_dumb_twin_says_the_same(kinds, seed, trouble, changes):
    dice = random.Random(seed)
    operations, died = Model(dice, kinds, clients=3, trouble=trouble).run(7)
    for _ in range(changes):
        operations = spoil(dice, operations)
    assert (not list(check_operations(operations, died))) == is_history(operations, died)


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_long_histories(kinds):
    """Thousands of operations of many clients at once; and one that is wrong in the middle of them is found."""
    operations, died = Model(random.Random(1), kinds, clients=64, trouble=0.02).run(4000)
    assert not list(check_operations(operations, died))
    granted = [one for one in operations if one.what is ACQUIRE and one.outcome is OK]
    one, other = granted[len(granted) // 2 : len(granted) // 2 + 2]
    swapped = {one: replace(one, token=other.token), other: replace(other, token=one.token)}
    if one.invoked > other.returned or other.invoked > one.returned:
        assert list(check_operations([swapped.get(each, each) for each in operations], died))
