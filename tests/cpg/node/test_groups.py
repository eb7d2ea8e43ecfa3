"""The process list by itself (wire-protocol 10.3 and 10.4, rulings C4, C5 and G10)."""

import pytest

from cpg.events import Confchg, Member, Reason
from cpg.node.groups import Change, ProcessList
from cpg.node.wire import Downlist, Joinlist, Process, decode

A, B, C, D = Member(1, 10), Member(1, 20), Member(2, 10), Member(3, 10)


def joined(*members, name=b"g"):
    """The list of node 1 in an activated ring of 1, 2 and 3, with these processes."""
    groups = ProcessList(1)
    groups.on_regular((1, 2, 3), ())
    groups.activate()
    for member in members:
        groups.on_procjoin(name, member)
    return groups


def tell(groups, **processes):
    """Joinlists: `tell(groups, n2=[(b"g", 10)])`."""
    for node, listed in processes.items():
        groups.on_joinlist(int(node[1:]), Joinlist(tuple(Process(name, pid) for name, pid in listed)))


def next_ring(groups, members, transitional):
    groups.on_transitional(transitional)
    groups.on_regular(members, transitional)


def said(groups):
    return list(map(decode, groups.sync_messages()))


# 10.3: the process list.


def test_a_join_is_reported_with_the_members_in_order():
    groups = joined(D, A)
    assert groups.on_procjoin(b"g", C) == Change(b"g", Confchg((A, C, D), {}, {C: Reason.JOIN}))
    assert groups.members(b"g") == (A, C, D)


def test_a_join_of_a_known_process_is_ignored():
    groups = joined(A)
    assert groups.on_procjoin(b"g", A) is None


@pytest.mark.parametrize("reason", [Reason.LEAVE, Reason.PROCDOWN])
def test_a_leave_is_reported_with_its_reason_and_the_members_left(reason):
    groups = joined(A, C)
    assert groups.on_procleave(b"g", C, reason) == Change(b"g", Confchg((A,), {C: reason}, {}))


def test_a_leave_of_an_unknown_process_is_ignored():
    groups = joined(A)
    assert groups.on_procleave(b"g", C, Reason.LEAVE) is None
    assert groups.on_procleave(b"h", A, Reason.LEAVE) is None


def test_groups_differ_by_all_bytes_of_their_names():
    groups = joined(A)
    groups.on_procjoin(b"g\0", C)
    assert groups.members(b"g") == (A,)
    assert groups.names() == [b"g", b"g\0"]


def test_a_group_without_members_is_no_group():
    groups = joined(A)
    groups.on_procleave(b"g", A, Reason.LEAVE)
    assert groups.names() == []
    assert groups.members(b"g") == ()


def test_a_node_is_known_in_a_group_by_any_of_its_processes():
    groups = joined(A, C)
    assert groups.has_node(b"g", 1)
    assert groups.has_node(b"g", 2)
    assert not groups.has_node(b"g", 3)
    assert not groups.has_node(b"h", 1)


def test_each_stay_under_the_same_name_is_another_incarnation():
    groups = joined(A)
    first = groups.incarnation(b"g", A)
    groups.on_procleave(b"g", A, Reason.LEAVE)
    assert groups.incarnation(b"g", A) is None
    groups.on_procjoin(b"g", A)
    assert groups.incarnation(b"g", A) not in {None, first}


# 10.4: what is said in sync.


def test_a_starting_node_has_no_members_of_before_and_no_processes():
    groups = ProcessList(1)
    groups.on_regular((1, 2), ())
    assert said(groups) == [Downlist(0, ())]


def test_the_downlist_has_the_former_ring_and_the_nodes_that_left_it():
    groups = joined()
    next_ring(groups, (1, 2, 4), (1, 2))
    assert said(groups) == [Downlist(3, (3,))]


def test_the_joinlist_has_own_processes_alone_by_pid():
    groups = joined(B, A, C)
    groups.on_procjoin(b"f", B)
    assert said(groups)[1:] == [Joinlist((Process(b"g", 10), Process(b"f", 20), Process(b"g", 20)))]


# 10.4: what follows from it.


def test_processes_of_nodes_that_left_go_in_one_change_for_each_group():
    groups = joined(A, C, D, Member(3, 5))
    groups.on_procjoin(b"f", D)
    groups.on_procjoin(b"f", A)
    next_ring(groups, (1, 2), (1, 2))
    tell(groups, n2=[(b"g", 10)])
    assert groups.activate() == [
        Change(b"f", Confchg((A,), {D: Reason.NODEDOWN}, {})),
        Change(b"g", Confchg((A, C), {Member(3, 5): Reason.NODEDOWN, D: Reason.NODEDOWN}, {})),
    ]


def test_processes_that_nobody_knew_come_in_one_change_for_each_group():
    groups = joined(A)
    next_ring(groups, (1, 2, 3), (1,))
    tell(groups, n3=[(b"h", 1), (b"g", 30)], n2=[(b"g", 40), (b"g", 4)], n1=[(b"g", 99)])
    new = {Member(2, 4): Reason.NODEUP, Member(2, 40): Reason.NODEUP, Member(3, 30): Reason.NODEUP}
    changes = groups.activate()
    assert changes == [
        Change(b"g", Confchg((A, *new), {}, new)),
        Change(b"h", Confchg((Member(3, 1),), {}, {Member(3, 1): Reason.NODEUP})),
    ]
    assert list(changes[0].confchg.joined) == sorted(new)


def test_known_processes_of_others_that_nobody_lists_go_one_by_one():
    groups = joined(A, C, Member(2, 11), D)
    next_ring(groups, (1, 2, 3), (1, 2, 3))
    tell(groups, n3=[(b"g", 10)])
    assert groups.activate() == [
        Change(b"g", Confchg((A, Member(2, 11), D), {C: Reason.PROCDOWN}, {})),
        Change(b"g", Confchg((A, D), {Member(2, 11): Reason.PROCDOWN}, {})),
    ]


def test_the_three_kinds_of_changes_come_in_their_order():
    groups = joined(A, C, Member(2, 11), D)
    next_ring(groups, (1, 2, 3), (1, 2))
    tell(groups, n3=[(b"g", 10)], n2=[(b"g", 10)])
    assert [change.confchg.left or change.confchg.joined for change in groups.activate()] == [
        {D: Reason.NODEDOWN},
        {D: Reason.NODEUP},
        {Member(2, 11): Reason.PROCDOWN},
    ]


def test_own_processes_never_depend_on_what_is_said():
    groups = joined(A, B)
    next_ring(groups, (1, 2), (1,))
    tell(groups, n1=[], n2=[])
    assert groups.activate() == []
    assert groups.members(b"g") == (A, B)


def test_a_node_back_before_anyone_noticed_has_left_and_come_with_the_same_pid():
    groups = joined(A, C)
    before = groups.incarnation(b"g", C)
    next_ring(groups, (1, 2, 3), (1, 3))
    tell(groups, n2=[(b"g", 10)])
    assert groups.activate() == [
        Change(b"g", Confchg((A,), {C: Reason.NODEDOWN}, {})),
        Change(b"g", Confchg((A, C), {}, {C: Reason.NODEUP})),
    ]
    assert groups.incarnation(b"g", C) != before


def test_a_node_back_inside_an_aborted_sync_has_left_and_come():
    groups = joined(A, C)
    next_ring(groups, (1, 3), (1, 3))  # 2 is gone; this sync is aborted
    next_ring(groups, (1, 2, 3), (1, 3))  # 2 is back
    tell(groups, n2=[(b"g", 10)])
    assert [change.confchg.left or change.confchg.joined for change in groups.activate()] == [
        {C: Reason.NODEDOWN},
        {C: Reason.NODEUP},
    ]


def test_a_node_that_restarted_and_came_along_from_an_aborted_ring_has_left_and_come():
    groups = joined(A, C)
    next_ring(groups, (1, 2, 3), (1, 3))  # 2 has restarted; this sync is aborted
    next_ring(groups, (1, 2), (1, 2))  # 1 and 2 come along together
    tell(groups, n2=[(b"g", 10)])
    assert said(groups)[0] == Downlist(3, (2, 3))
    assert [change.confchg.left or change.confchg.joined for change in groups.activate()] == [
        {C: Reason.NODEDOWN},
        {C: Reason.NODEUP},
    ]


def test_after_an_activation_only_what_came_since_counts():
    groups = joined(A, C)
    next_ring(groups, (1, 2, 3), (1, 3))
    tell(groups, n2=[(b"g", 10)])
    groups.activate()
    next_ring(groups, (1, 2, 3), (1, 2, 3))
    tell(groups, n2=[(b"g", 10)])
    assert groups.activate() == []


def test_what_was_said_in_an_aborted_sync_is_void():
    groups = joined(A)
    next_ring(groups, (1, 4), (1,))
    tell(groups, n4=[(b"g", 7)])
    next_ring(groups, (1,), (1,))
    assert groups.activate() == []


def test_a_later_joinlist_replaces_an_earlier_one():
    groups = joined(A)
    next_ring(groups, (1, 2), (1,))
    tell(groups, n2=[(b"g", 1), (b"g", 2)])
    tell(groups, n2=[(b"g", 3)])
    (change,) = groups.activate()
    assert list(change.confchg.joined) == [Member(2, 3)]


def test_who_stays_is_the_intersection_since_the_activation():
    groups = joined()
    assert groups.staying == (1, 2, 3)
    groups.on_transitional((1, 2))
    assert groups.staying == (1, 2)
    groups.on_regular((1, 2, 3), (1, 2))
    groups.on_transitional((1, 3))
    assert groups.staying == (1,)
