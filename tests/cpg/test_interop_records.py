"""The comparison of the tests with real nodes: good records pass, and each kind of mistake is found."""

from tests.interop.records import differences

A, B, C = (1, 11), (2, 22), (3, 33)
REAL = frozenset({1, 3})


def ring(number, *nodes):
    return {"event": "ring", "ring": [1, number], "members": list(nodes)}


def change(*members, joined=(), left=()):
    return {"event": "confchg", "members": list(map(list, members)), "joined": joined, "left": left}


def down(member):
    return [*member, "nodedown"]


def messages(sender, *names):
    return [{"event": "message", "sender": list(sender), "data": name} for name in names]


def sent(sender, *names):
    return [{"event": "sent", "sender": list(sender), "data": name} for name in names]


def found(**records):
    """Differences of records of node 1 (`one`), 2 and 3."""
    nodes = {"one": 1, "two": 2, "three": 3}
    return list(differences({(nodes[name], 0): events for name, events in records.items()}, REAL))


START = [ring(4, 1, 2), change(A, B)]
END = [ring(8, 1, 2)]


def test_equal_streams_pass():
    stream = [*START, *messages(A, "a", "b"), *messages(B, "c"), *END]
    assert not found(one=stream, two=stream)


def test_a_message_that_one_lacks_a_swap_and_a_doubled_one_are_found():
    a, b, c = messages(A, "a", "b", "c")
    right = [ring(4, 1, 2), change(A, B), *END, a, b, c, ring(12, 1, 2)]
    for wrong in ([a, c], [b, a, c], [a, b, b, c], [a, b], [b, c]):
        assert found(one=right, two=[*START, *END, *wrong, ring(12, 1, 2)])


def test_a_message_in_another_ring_is_found():
    a, b = messages(A, "a", "b")
    assert found(one=[*START, *END, a, ring(12, 1, 2), b], two=[*START, *END, ring(12, 1, 2), a, b])


def test_another_list_of_members_at_the_end_of_a_ring_is_found():
    with_c = [ring(4, 1, 2), change(A, B, C)]
    assert found(one=[*START, *END], two=[*with_c, *END])


def test_a_list_that_does_not_follow_from_the_one_before_is_found():
    assert found(one=[*START, change(A, joined=())])
    assert not found(one=[*START, change(A, left=[down(B)])])


def test_own_messages_out_of_turn_are_found():
    first, second = messages(A, "a", "b")
    assert found(one=[*START, *sent(A, "a", "b"), second, first])
    assert not found(one=[*START, *sent(A, "a", "b"), first, second])


def test_a_join_or_leave_that_is_reported_again_is_found():
    assert found(one=[*START, change(A, B, joined=[[*B, "join"]])])
    assert found(one=[*START, change(A, left=[down(B)]), change(A, left=[down(B)])])
    assert not found(one=[*START, change(A, left=[down(B)]), change(A, B, joined=[[*B, "join"]])])


def test_a_message_that_nobody_sent_is_found():
    assert found(one=[*START, *sent(B, "b"), *messages(B, "c")])
    assert not found(one=[*START, *sent(B, "b"), *messages(B, "b")])


def test_those_who_parted_may_differ():
    apart = found(
        one=[*START, *messages(A, "a"), ring(8, 1)],
        two=[*START, *messages(B, "b"), ring(12, 2)],
    )
    assert not apart
    told_as_down = found(
        one=[*START, *messages(A, "a"), change(A, left=[down(B)]), *END],
        two=[*START, *messages(B, "b"), change(B, left=[down(A)]), *END],
    )
    assert not told_as_down


def test_who_comes_to_a_ring_may_lack_the_first_messages_of_real_nodes_only():
    def stream(before, *events):
        return [ring(before, before), change(A, B), ring(8, 1, 2), *events, ring(12, 1, 2)]

    a, b, c = messages(A, "a", "b", "c")
    d, e = messages(B, "d", "e")
    assert not found(one=stream(1, a, b, d, c, e), two=stream(2, b, d, c, e))
    assert found(one=stream(1, a, b, d, c, e), two=stream(2, a, d, c, e)), "no first one"
    assert found(one=stream(1, a, b, d, c, e), two=stream(2, a, b, c, e)), "of our node"


def test_what_a_real_node_sent_in_the_ring_itself_nobody_may_lack():
    old, new = messages(A, "old", "new")
    sender = [ring(1, 1), change(A), *sent(A, "old"), ring(8, 1, 2), *sent(A, "new"), old, new, ring(12, 1, 2)]

    def comes(*events):
        return [ring(2, 2), change(A), ring(8, 1, 2), *events, ring(12, 1, 2)]

    assert not found(one=sender, two=comes(new))
    assert not found(one=sender, two=comes(old, new))
    assert found(one=sender, two=comes(old)), "it had the one before"
    assert found(one=sender, two=comes()), "they share none"


def test_who_came_between_two_pieces_may_lack_the_message_in_a_later_ring_too():
    """The ring in which it came broke before its sync was complete, so that nothing was sent there."""
    old, new = messages(A, "old", "new")
    sender = [ring(1, 1), change(A), *sent(A, "old"), ring(4, 1, 2), ring(8, 1, 2), *sent(A, "new"), old, new]
    other = [ring(2, 2), change(A), ring(4, 1, 2), ring(8, 1, 2), new]
    assert not found(one=sender, two=other)
    assert found(one=sender, two=[ring(1, 1), *other[1:]]), "it was there"


def test_who_joins_a_group_lacks_what_came_before():
    a, b, c = messages(B, "a", "b", "c")
    member = [ring(4, 1, 2), change(B), a, change(A, B, joined=[[*A, "join"]]), b, c, *END]
    joins = [change(A, B, joined=[[*A, "join"]]), ring(4, 1, 2)]
    assert not found(one=[*joins, b, c, *END], two=member)
    for wrong in ([a, b, c], [c], []):
        assert found(one=[*joins, *wrong, *END], two=member)


def test_who_came_to_the_next_ring_by_another_way_may_lack_the_message():
    """A real node that hung with half of a message sent continues alone, and meets the others in a new ring."""
    a, b = messages(A, "half", "whole")
    apart = change(A, left=[down(B)])
    again = change(A, B, joined=[[*B, "nodeup"]])
    met = [ring(16, 1, 2)]
    other = [ring(4, 1, 2), change(A, B), change(B, left=[down(A)]), ring(8, 2), change(A, B, joined=[[*A, "nodeup"]])]
    one = [ring(4, 1, 2), change(A, B), *sent(A, "half", "whole"), apart, again, *met, a, b, ring(20, 1, 2)]
    assert not found(one=one, two=[*other, *met, b, ring(20, 1, 2)])
    together = [ring(4, 1, 2), change(A, B), *sent(A, "half", "whole"), *met, a, b, ring(20, 1, 2)]
    assert found(one=together, two=[ring(4, 1, 2), change(A, B), *met, b, ring(20, 1, 2)])


def test_only_where_it_may_a_real_client_lacks_a_message_of_its_own():
    a, b, c = messages(A, "a", "b", "c")
    lost = [ring(4, 1, 2), change(A, B), *sent(A, "a", "b", "c"), a, c]
    swapped = [*lost[:-2], a, c, b]
    assert list(differences({(1, 0): lost}, REAL))
    assert not list(differences({(1, 0): lost}, REAL, lossy=True))
    assert list(differences({(2, 0): lost}, REAL, lossy=True)), "of ours"
    assert list(differences({(1, 0): swapped}, REAL, lossy=True)), "out of turn"
