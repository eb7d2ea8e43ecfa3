"""Which nodes continue together, where not all of them hear each other."""

import random
from itertools import combinations

import pytest

from totem.partition import EXACT, partition
from totem.testing.hearing_patterns import distinct_patterns, pairs

FIVE = range(5)
PAIRS = list(combinations(FIVE, 2))


def parts_of(pairs_that_hear, nodes=FIVE, votes=None, rings=None):
    hearing = {node: set() for node in nodes}
    for one, other in pairs_that_hear:
        hearing[one].add(other)
        hearing[other].add(one)
    return partition(hearing, votes or dict.fromkeys(nodes, 1), rings or dict.fromkeys(nodes, 0))


def all_but(*missing, nodes=FIVE):
    return [pair for pair in combinations(nodes, 2) if pair not in missing]


def components(pairs_that_hear):
    found = {node: {node} for node in FIVE}
    for one, other in pairs_that_hear:
        if found[one] is not found[other]:
            found[one] |= found[other]
            for node in found[one]:
                found[node] = found[one]
    return {frozenset(nodes) for nodes in found.values()}


def test_all_that_hear_each_other_are_one_part():
    assert parts_of(all_but()) == [(0, 1, 2, 3, 4)]


def test_votes_count_before_size_and_size_before_the_old_ring_and_that_before_the_lowest():
    cut = all_but((0, 4))
    assert parts_of(cut) == [(0, 1, 2, 3), (4,)]
    assert parts_of(cut, rings={0: "a", 1: "b", 2: "b", 3: "b", 4: "b"}) == [(1, 2, 3, 4), (0,)]
    lone = [(1, 2), (1, 3), (2, 3), (1, 4), (2, 4), (3, 4)]
    assert parts_of(lone, votes={0: 5, 1: 1, 2: 1, 3: 1, 4: 1}) == [(0,), (1, 2, 3, 4)]
    assert parts_of([(0, 1), (2, 3), (3, 4), (2, 4)], votes={0: 3, 1: 0, 2: 1, 3: 1, 4: 1})[0] == (2, 3, 4)


def test_one_direction_is_not_enough():
    assert partition({1: {2}, 2: set()}, {1: 1, 2: 1}, {1: 0, 2: 0}) == [(1,), (2,)]


def test_the_choice_is_right_for_all_who_hear_each_other_among_five():
    """Also where a node knows no more than the nodes that some way leads to, it comes to the same parts."""
    for chosen in range(1 << len(PAIRS)):
        hears = [pair for index, pair in enumerate(PAIRS) if chosen >> index & 1]
        parts = parts_of(hears)
        assert sorted(node for part in parts for node in part) == list(FIVE)
        rest = set(FIVE)
        for part in parts:
            assert set(combinations(part, 2)) <= set(hears)
            larger = combinations(sorted(rest), len(part) + 1)
            assert not any(set(combinations(nodes, 2)) <= set(hears) for nodes in larger), (hears, part)
            rest -= set(part)
        for known in components(hears):
            own = [pair for pair in hears if known.issuperset(pair)]
            assert parts_of(own, nodes=sorted(known)) == [part for part in parts if known.issuperset(part)]


def test_all_patterns_of_who_hears_whom_among_five_have_a_choice():
    """The two directions of a pair come to one bit; each of the 1,024 results is looked at above."""
    ordered = pairs(5)
    both = [(1 << ordered.index(pair)) | (1 << ordered.index(pair[::-1])) for pair in PAIRS]
    reached = {
        sum(1 << index for index, bits in enumerate(both) if pattern & bits == bits) for pattern in range(1 << 20)
    }
    assert reached == set(range(1 << len(PAIRS)))


def test_so_many_patterns_differ_in_more_than_numbers():
    assert [len(distinct_patterns(count)) for count in (2, 3, 4, 5)] == [3, 16, 218, 9608]


@pytest.mark.parametrize("seed", range(40))
def test_of_sixteen_the_best_set_is_found(seed):
    dice = random.Random(seed)
    nodes = range(1, EXACT + 1)
    hears = [pair for pair in combinations(nodes, 2) if dice.random() < dice.choice([0.5, 0.8, 0.95])]
    votes = {node: dice.choice([0, 1, 1, 2]) for node in nodes}
    rings = {node: dice.randrange(3) for node in nodes}
    best = parts_of(hears, nodes, votes, rings)[0]
    assert rank(best, votes, rings) == max(
        rank(nodes_of, votes, rings) for size in range(1, 17) for nodes_of in complete_sets(hears, nodes, size)
    )


def rank(part, votes, rings):
    old = [rings[node] for node in part]
    return sum(votes[node] for node in part), len(part), max(map(old.count, old)), tuple(-node for node in part)


def complete_sets(hears, nodes, size):
    """Yield the sets of this size whose nodes all hear each other, node by node."""
    near = {node: {b for a, b in hears if a == node} for node in nodes}

    def grow(members, candidates):
        if len(members) == size:
            yield members
            return
        for node in sorted(candidates):
            yield from grow((*members, node), candidates & near[node])

    yield from grow((), set(nodes))


def test_beyond_sixteen_each_part_is_complete_and_cannot_grow():
    dice = random.Random(1)
    nodes = range(1, 25)
    hears = {pair for pair in combinations(nodes, 2) if dice.random() < 0.8}
    rest = set(nodes)
    for part in parts_of(hears, nodes):
        assert set(combinations(part, 2)) <= hears
        rest -= set(part)
        assert not any(all(tuple(sorted((node, member))) in hears for member in part) for node in rest)
    assert not rest


def test_the_pattern_with_most_sets_is_no_burden():
    """Sixteen nodes of which each triple does not hear each other: more sets than in any other pattern."""
    nodes = range(16)
    hears = [(a, b) for a, b in combinations(nodes, 2) if a // 3 != b // 3]
    assert parts_of(hears, nodes)[0] == (0, 3, 6, 9, 12, 15)
