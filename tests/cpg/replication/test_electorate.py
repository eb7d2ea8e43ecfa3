"""The electorate is part of the state: ruling E9, one sentence after the other."""

from collections import Counter

import pytest
from msgspec.structs import replace

from cpg.events import Member
from cpg.replication.electorate import Electorate, View, Voters
from cpg.replication.replica import NOTICE_INTERVAL, Phase
from cpg.replication.wire import DurableRecord, MalformedMessage, Report, Round
from tests.cpg.replication.dictionary import CODEC, VERSION
from tests.cpg.replication.electorates import MISTAKES, World, Wrong
from tests.cpg.replication.orders import Order, decode, encode, started
from totem.configuration import Level


def of(*nodes, **options):
    return Electorate(dict.fromkeys(nodes, 1), **options)


FIVE = of(1, 2, 3, 4, 5)


def in_ring(order, *nodes):
    """Have these nodes in one ring, until everything is said."""
    order.ring(list(nodes))
    order.settle()


def named(server):
    return "\n".join(server.replica.differences)


# ---- the rule


def test_a_model_of_the_rule_loses_nothing():
    marks = Counter()
    for seed in range(200):
        world = World(seed)
        world.run()
        marks += Counter(world.marks)
    assert min(marks["changed"], marks["undone"], marks["born"]) > 20


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_model_of_a_rule_that_is_wrong_in_one_sentence_loses_something(mistake):
    with pytest.raises(Wrong):
        World(MISTAKES[mistake], mistake).run()


# ---- what it is


def test_the_same_electorate_is_the_same_bytes_and_one_of_a_set():
    one, two = Electorate({2: 1, 1: 3}, 1), Electorate({1: 3, 2: 1}, 1)
    assert list(one.votes) == [1, 2]
    assert {one, two} == {one}
    assert str(one) == "1 (3 votes), 2; a half with 1 is enough"
    assert str(of(1, 2, unsafe_half=True)) == "1, 2; any half is enough"


def test_a_tie_breaker_votes():
    with pytest.raises(ValueError, match="tie breaker: node 4 is none of the servers"):
        of(1, 2, tie_breaker=4)


def test_what_is_known_last_counts():
    former = Voters(7, 1, of(1, 2, 3), view=View(1, 4, 1))
    pending = former.changing(of(1, 2))
    assert [voters.rank for voters in (former, pending, pending.changed())] == sorted(
        voters.rank for voters in (former, pending, pending.changed())
    )
    assert former.confirmed(View(1, 5, 1)).rank > pending.changed().rank
    assert pending.undone().electorate == former.electorate
    assert not former.says_what(pending)
    assert former.says_what(former.confirmed(View(9, 9, 9)))


def test_a_record_covers_what_it_is_later_than():
    one = DurableRecord(1, 5.0, Voters(7, 1, of(1, 2, 3)))
    assert one.covers(DurableRecord(1, 5.0))
    assert not DurableRecord(1, 5.0).covers(one)
    later = one._replace(voters=one.voters.changing(of(1, 2)))
    assert later.covers(one)
    assert not one.covers(later)
    assert one.and_(later._replace(longest_promise=1.0)) == later


# ---- configuration counts at birth alone


def test_servers_that_are_configured_differently_give_no_birth():
    order = Order(3)
    order.restart(3, electorate=of(2, 3))
    in_ring(order, 1, 2, 3)
    assert not any(order[node].ready for node in (1, 2, 3))
    for node in (1, 2, 3):
        assert "a first start needs servers that agree" in order[node].why
    assert "node 3 is configured with other servers: 2, 3; here 1, 2, 3" in named(order[1])
    assert "nodes 1 2 are configured with other servers: 1, 2, 3; here 2, 3" in named(order[3])


def test_two_sets_of_servers_that_do_not_overlap_give_no_birth_beside_each_other():
    order = Order(2)
    for node in (3, 4):
        order.restart(node, electorate=of(3, 4))
    in_ring(order, 1, 2, 3, 4)
    assert not any(order[node].ready for node in (1, 2, 3, 4))


def test_a_first_state_is_on_all_disks_before_it_is_used():
    """The disk of server 3 hangs. If it ended just then, it could be configured otherwise when it starts again."""
    order = Order(3)
    order[3].writes = False
    in_ring(order, 1, 2, 3)
    assert not order[1].ready
    assert order[1].why == "a first state is being stored"
    order[3].writes = True
    order.settle()
    assert order[1].ready


def test_a_first_state_that_was_prepared_needs_all_disks_still():
    """Servers 1 and 2 have stored it when the ring breaks: a majority, and yet no state was born."""
    order = Order(3)
    order[3].writes = False
    in_ring(order, 1, 2, 3)
    order.ring([1, 2], [3])
    order.settle()
    assert order[1].why == "a first start needs all servers: nothing from node 3"
    in_ring(order, 1, 2, 3)
    assert not order[1].ready
    order[3].writes = True
    order.settle()
    assert all(order[node].ready for node in (1, 2, 3))


def test_what_is_prepared_later_takes_the_place_of_what_a_disk_was_to_store():
    """Server 1 prepares a first state, and restarts without a record while the disk of 2 hangs."""
    order = Order(2)
    order[1].writes = order[2].writes = False
    in_ring(order, 1, 2)
    order.restart(1, keeps_disk=False)
    in_ring(order, 1, 2)
    order[2].writes = True
    order.settle()
    assert all(order[node].ready for node in (1, 2))
    assert order[1].record.voters.cluster == order[2].record.voters.cluster


def test_disks_that_know_of_different_clusters_that_were_prepared_begin_one():
    order = Order(3)
    for node, cluster in ((1, 7), (2, 9)):
        order[node].record = DurableRecord(1, 10.0, Voters(cluster, 1, order.electorate))
        order.restart(node)
    in_ring(order, 1, 2, 3)
    assert all(order[node].ready for node in (1, 2, 3))
    assert {order[node].record.voters.cluster for node in (1, 2, 3)} == {9}


def test_a_configuration_that_differs_later_is_named_and_changes_nothing():
    """Three servers decide; one of them, and two that come, are configured with five."""
    order = started()
    order[1].put()
    order.settle()
    order.ring([1, 2], [3])
    for node in (3, 4, 5):
        order.restart(node, electorate=FIVE)
    order.ring([1, 2], [3, 4, 5])
    order.settle()
    order[4].put()
    order.settle()
    assert (order[1].ready, order[4].ready) == (True, False)
    in_ring(order, 1, 2, 3, 4, 5)
    assert all(order[node].ready for node in (1, 2, 3, 4, 5))
    assert len(order[1].versions) == 1
    assert order[4].versions == []
    for node in (1, 4):
        assert "nodes 3 4 5 are configured with other servers: 1, 2, 3, 4, 5; that changes nothing" in named(
            order[node]
        )
    order.ring([1, 2], [3, 4, 5])
    order.settle()
    assert (order[1].ready, order[4].ready) == (True, False)


def test_a_disk_remembers_who_decides():
    order = started()
    for node in (1, 2, 3):
        order.restart(node, electorate=of(node))
    order.ring([1], [2], [3])
    order.settle()
    assert not any(order[node].ready for node in (1, 2, 3))
    in_ring(order, 1, 2, 3)
    order.pass_time(11)
    assert all(order[node].ready for node in (1, 2, 3))
    assert order[1].state.voters.electorate == order.electorate


def test_a_server_of_another_cluster_is_refused_by_name():
    order = started()
    for node in (4, 5):
        order.restart(node, electorate=of(4, 5))
    in_ring(order, 4, 5)
    assert order[4].ready
    in_ring(order, 1, 2, 3, 4, 5)
    order[1].put()
    order[4].put()
    order.settle()
    assert len(order[1].versions) == len(order[4].versions) == 1, "they are two clusters"
    assert {member.node_id for member in order[1].replica.servers} == {1, 2, 3}
    mine, other = (f"{order[node].state.voters.cluster:x}" for node in (1, 4))
    assert f"node 4 does not count here: it is of cluster {other}, and this is of cluster {mine}" in named(order[1])
    assert f"node 1 does not count here: it is of cluster {mine}, and this is of cluster {other}" in named(order[4])


def test_a_server_of_no_cluster_joins_none_of_two():
    order = started()
    for node in (4, 5):
        order.restart(node, electorate=of(4, 5))
    in_ring(order, 4, 5)
    order.restart(6, electorate=of(6))
    in_ring(order, 1, 2, 3, 4, 5, 6)
    assert not order[6].ready
    assert "it is of cluster" in named(order[6])


# ---- what must be equal


def test_servers_with_other_terms_do_not_count():
    order = started()
    order.restart(3)
    said = order[3].said

    def with_other_terms():
        for member, data in said():
            message = decode(data)
            yield member, encode(replace(message, terms="second schema")) if type(message) is Report else data

    order[3].said = with_other_terms
    in_ring(order, 1, 2, 3)
    assert [order[node].ready for node in (1, 2, 3)] == [True, True, False]
    assert "node 3 does not count here: it has the second schema, and this one the first schema" in named(order[1])
    assert "node 1 does not count here: it has the first schema, and this one the second schema" in named(order[3])
    in_ring(order, 2, 3)
    assert not order[2].ready


def test_a_ring_that_does_not_report_what_is_safe_is_named():
    order = started()
    order.restart(3, safe=False)
    in_ring(order, 1, 2, 3)
    assert order[1].ready
    assert "the ring of node 3 does not report what is safe: all use acknowledgements" in named(order[1])


# ---- formats


OTHER = bytes((VERSION + 1,))


def test_who_speaks_another_version_is_named_and_not_waited_for():
    order = started()
    order.ring([1, 2, 3])
    order.deliver(order.said(1), [1, 2])
    order.deliver([(order[3].member, OTHER + b"whatever")], [1, 2])
    order.deliver(order.said(1, 2), [1, 2])
    order.deliver(order.said(1, 2), [1, 2])
    assert order[1].ready
    assert named(order[1]).startswith(
        f"node 3 does not count here: it speaks version {VERSION + 1}, and this is version {VERSION}"
    )
    assert order[1].replica.phase is Phase.PRIMARY


def test_who_comes_with_another_version_is_named_at_once():
    order = started()
    order.deliver([(Member(4, 1), OTHER + b"whatever")] * 2, [1, 2, 3])
    assert order[1].ready
    assert named(order[1]).startswith(f"node 4 does not count here: it speaks version {VERSION + 1}, and this is")
    assert len(order[1].replica.differences) == 1


def test_who_speaks_another_version_is_not_left_to_call_a_round():
    order = started()
    order.deliver([(order[1].member, OTHER + b"whatever")], [2, 3])
    order.said(2, 3)
    order.ring([1, 2, 3])
    assert [type(decode(data)) for _, data in order.said(2)] == [Round]
    assert order.said(3) == []


def test_versions_name_themselves_to_each_other_once_in_a_while():
    order = started()
    foreign = (order[3].member, OTHER + b"whatever")
    order.deliver([foreign] * 3, [1])
    assert [data for _, data in order.said(1)] == [CODEC.notice]
    order.now += NOTICE_INTERVAL
    order.deliver([foreign], [1])
    assert [data for _, data in order.said(1)] == [CODEC.notice]
    order.now += NOTICE_INTERVAL
    order.deliver([(order[3].member, OTHER)], [1])
    assert order.said(1) == [], "a notice is not answered"


def test_a_notice_says_nothing_to_those_of_the_same_version():
    order = started()
    order.ring([1, 2, 3])
    order.deliver(order.said(1), [1, 2, 3])
    order.deliver([(order[3].member, CODEC.notice)], [1, 2, 3])
    order.settle()
    assert all(order[node].ready for node in (1, 2, 3))
    assert named(order[1]) == ""


def test_servers_of_two_versions_give_no_birth_together():
    order = Order(2)
    order.restart(3, electorate=of(1, 2))
    order.ring([1, 2, 3])
    order.deliver(order.said(1), [1, 2])
    order.deliver([(order[3].member, OTHER)], [1, 2])
    for _ in range(5):
        order.deliver(order.said(1, 2), [1, 2])
    assert "a first start needs servers that agree" in order[1].why


@pytest.mark.parametrize(
    "data", [b"", OTHER, OTHER + b"\xff", bytes((VERSION,)) + b"\xff", bytes((VERSION,)) + b"\x90"]
)
def test_what_cannot_be_read_is_malformed(data):
    with pytest.raises(MalformedMessage):
        decode(data)


# ---- changes


def ask(order, node, electorate, version=None):
    """Have a program of this node's server ask for a change."""
    order[node].change_voters(electorate, version)


def change(order, node, electorate):
    """Change the voters."""
    ask(order, node, electorate)
    order.settle()
    assert order[node].state.voters.former is None
    assert order[node].state.voters.electorate == electorate


def test_no_state_is_born_while_a_client_of_who_does_not_vote_may_rely_on_a_promise():
    """Server 1 votes no more and is cut off; its client was promised something when all who vote begin anew."""
    order = started(2)
    change(order, 2, of(2))
    order[1].put()
    order.settle()
    assert len(order[1].versions) == 1
    order.restart(2)
    in_ring(order, 2)
    order[2].put()
    order.pass_time(9)
    assert order[2].versions == []
    order.pass_time(2)
    assert len(order[2].versions) == 1


def begin_change(order, nodes, electorate, stored=()):
    """Apply a change in a ring of these nodes; only some of their disks have it, and nobody has heard of these yet."""
    for node in nodes:
        order[node].writes = node in stored
    ask(order, nodes[0], electorate)
    order.deliver(order.said(nodes[0]), nodes)
    assert all(order[node].state.voters.former is not None for node in nodes)
    order.said(*stored)


def turn(order, nodes, stored=()):
    """Deliver what these have to say in turn; only some of their disks write."""
    for node in nodes:
        order[node].writes = node in stored
        order.deliver(order.said(node), nodes)


def write(order):
    """Have all disks write again."""
    for server in order.servers.values():
        server.writes = True


def holding(nodes=3, **options):
    """Return a cluster, and the version of what server 1 has set."""
    order = started(nodes, **options)
    order[1].put()
    order.settle()
    return order, order[1].versions[0]


def come(order, node, *others, **settings):
    """Have a new node begin its server, in a ring with the others."""
    order.restart(node, **settings)
    in_ring(order, *others, node)


@pytest.mark.parametrize("safe", [True, False])
def test_from_three_to_five_and_back_nothing_is_lost(safe):
    order, version = holding(safe=safe)
    for node in (4, 5):
        nodes = range(1, node)
        come(order, node, *nodes, electorate=FIVE)
        change(order, node, of(*nodes, node))
    order.ring([1, 2], [3, 4, 5])
    order.settle()
    assert [order[node].ready for node in (1, 3)] == [False, True]
    in_ring(order, 1, 2, 3, 4, 5)
    for node in (2, 3):
        rest = [other for other in order.rings if other != node]
        change(order, 4, of(*rest))
        order.rings.pop(node)
        in_ring(order, *rest)
    assert sorted(order.rings) == [1, 4, 5]
    assert order[4].has(version)
    order.ring([1, 5], [4])
    order.settle()
    assert order[1].ready


def test_a_rolling_restart_with_another_configuration_changes_nothing_and_loses_nothing():
    order, version = holding()
    for node in (3, 2, 1):
        rest = [other for other in (1, 2, 3) if other != node]
        order.ring(rest, [node])
        order.restart(node, electorate=of(1, 2, 3, 4))
        in_ring(order, *rest)
        assert all(order[other].ready for other in rest)
        in_ring(order, 1, 2, 3)
        assert all(order[other].ready for other in (1, 2, 3))
    assert order[1].state.epoch == 1
    assert order[1].has(version)
    assert order[1].state.voters.version == 1


def test_a_change_takes_effect_when_majorities_of_both_have_it_on_disk():
    order, _ = holding()
    for node in (4, 5):
        come(order, node, *range(1, node))
    everyone = [1, 2, 3, 4, 5]
    begin_change(order, everyone, of(3, 4, 5))
    turn(order, everyone, stored=[1, 4, 5])  # of the former only one
    turn(order, everyone)
    assert {order[node].state.voters.version for node in everyone} == {2}
    assert {order[node].state.voters.former for node in everyone} == {of(1, 2, 3)}
    turn(order, everyone, stored=[2])
    turn(order, everyone)
    assert {order[node].state.voters.former for node in everyone} == {None}


@pytest.mark.parametrize("parts", [([1, 2], [3, 4, 5]), ([3, 4, 5], [1, 2])])
def test_until_then_both_majorities_decide(parts):
    order, _ = holding()
    for node in (4, 5):
        come(order, node, *range(1, node))
    begin_change(order, [1, 2, 3, 4, 5], of(3, 4, 5), stored=[1, 2])
    order.ring(*parts)
    order.settle()
    assert not any(order[node].ready for node in (1, 2, 3, 4, 5))
    assert "nothing from node" in order[1].why
    in_ring(order, 1, 2, 3)
    assert not order[1].ready
    in_ring(order, 1, 3, 4)
    assert order[1].ready


def test_a_majority_of_both_is_needed_to_report_without_safe():
    order = started(safe=False)
    for node in (4, 5):
        come(order, node, *range(1, node))
    everyone = [1, 2, 3, 4, 5]
    begin_change(order, everyone, of(3, 4, 5))
    for _ in range(3):
        turn(order, everyone)
    order[1].put()
    order.deliver(order.said(1), everyone)
    for node in (1, 2, 4):
        order.deliver(order.said(node), everyone)
    assert order[1].versions == []
    order.deliver(order.said(5), everyone)
    assert len(order[1].versions) == 1


@pytest.mark.parametrize("stored", [(), (2,), (3,), (1, 2, 4)])
def test_a_view_that_has_both_majorities_finishes_the_change(stored):
    order, version = holding()
    come(order, 4, 1, 2, 3)
    begin_change(order, [1, 2, 3, 4], of(1, 2, 3, 4), stored)
    write(order)
    order.ring([1, 2, 4], [3])
    order.settle()
    voters = order[1].state.voters
    assert (voters.electorate, voters.former, voters.version) == (of(1, 2, 3, 4), None, 2)
    assert order[4].has(version)
    order.ring([1, 3], [2, 4])
    order.settle()
    assert not order[1].ready, "who was away learns of it"
    assert order[3].state is not None


def test_a_view_without_the_new_ones_undoes_what_no_majority_of_the_former_ones_has_on_disk():
    order, version = holding()
    for node in (4, 5, 6):
        come(order, node, *range(1, node))
    begin_change(order, [1, 2, 3, 4, 5, 6], of(4, 5, 6), stored=[3, 4, 5, 6])
    order.ring([1, 2], [3], [4, 5, 6])
    order.settle()
    assert [order[node].ready for node in (1, 3, 4)] == [True, False, False]
    write(order)
    voters = order[1].state.voters
    assert (voters.electorate, voters.former, voters.version) == (of(1, 2, 3), None, 3)
    in_ring(order, 1, 2, 3, 4, 5, 6)
    assert {order[node].state.voters.electorate for node in (1, 3, 4)} == {of(1, 2, 3)}
    assert order[4].has(version)


def test_what_a_majority_of_the_former_ones_has_on_disk_is_not_undone():
    order, _ = holding()
    for node in (4, 5, 6):
        come(order, node, *range(1, node))
    begin_change(order, [1, 2, 3, 4, 5, 6], of(4, 5, 6), stored=[2, 3])
    order.ring([1, 2], [3], [4, 5, 6])
    order.settle()
    assert not any(order[node].ready for node in (1, 3, 4))


def test_a_change_is_void_where_those_who_are_to_decide_are_not_there():
    order, _ = holding()
    ask(order, 1, of(1, 4, 5))
    order.settle()
    assert order[1].state.voters.electorate == of(1, 2, 3)
    assert order[1].state.voters.former is None


@pytest.mark.parametrize("version", [1, 3, 7])
def test_a_change_is_void_that_is_not_the_next(version):
    order, _ = holding()
    ask(order, 1, of(1, 2), version)
    order.settle()
    assert order[1].state.voters.electorate == of(1, 2, 3)


def test_one_change_at_a_time():
    order, _ = holding()
    begin_change(order, [1, 2, 3], of(1, 2))
    ask(order, 1, of(1, 2, 3))
    ask(order, 2, of(2, 3), version=2)
    turn(order, [1, 2, 3])
    assert order[1].state.voters.version == 2
    write(order)
    order.settle()
    assert order[1].state.voters.electorate == of(1, 2)


def test_a_removed_server_remembers_that_it_was_removed():
    """Servers 1 and 2 are two of three by their configuration, and 2 does not vote any more."""
    order, _ = holding()
    change(order, 1, of(1, 3))
    assert order[2].record.voters.electorate == of(1, 3)
    order.ring([1], [2], [3])
    order.settle()
    order.restart(2)
    order.ring([1, 2], [3])
    order.settle()
    assert not order[1].ready
    order.restart(2)
    order.ring([1], [2])
    order.settle()
    assert "nothing from node 1, 3" in order[2].why


def test_a_server_that_was_away_while_it_was_removed_learns_of_it():
    order, _ = holding()
    order.ring([1, 2], [3])
    order.settle()
    change(order, 1, of(1, 2))
    order.restart(3)
    in_ring(order, 1, 3)
    assert not order[1].ready
    assert not order[3].ready


def test_a_change_that_was_given_up_while_a_server_was_away_binds_nobody():
    """Server 3 alone has heard of a change, and has it on disk; the others continue without, and change otherwise."""
    order, _ = holding()
    for node in (4, 5):
        come(order, node, *range(1, node))
    ask(order, 3, of(4, 5))
    order.deliver(order.said(3), [3], Level.TRANSITIONAL)
    assert order[3].state.voters.former is not None
    order.ring([1, 2, 4, 5], [3], tails=[(order.said(3), [3])])
    order.settle()
    assert order[3].record.voters.former is not None
    assert order[1].state.voters.version == 1
    order.ring([1, 2], [3, 4, 5])  # 4 and 5 would be enough by what 3 knows
    order.settle()
    assert [order[node].ready for node in (1, 4)] == [True, False]
    order.restart(3)
    in_ring(order, 1, 2, 3)
    assert order[1].ready
    assert order[1].state.voters.version == 1
    assert order[3].record.voters.former is None


def test_a_birth_needs_the_disks_of_both_majorities():
    order, _ = holding()
    for node in (4, 5):
        come(order, node, *range(1, node))
    begin_change(order, [1, 2, 3, 4, 5], of(3, 4, 5), stored=[1, 2, 3, 4, 5])
    for node in (1, 2, 3, 4, 5):
        order.restart(node, survivors=True)
    in_ring(order, 1, 2)
    assert order[1].replica.phase is Phase.MINORITY
    in_ring(order, 1, 2, 4)
    assert order[1].replica.phase is Phase.MINORITY
    in_ring(order, 1, 2, 4, 5)
    assert order[1].replica.phase is Phase.BIRTH
    order.pass_time(700)
    assert order[1].ready
    assert order[1].state.voters.electorate == of(3, 4, 5)
    assert order[1].state.voters.former is None


def test_votes_and_the_tie_breaker_are_changed_alike():
    order, _ = holding(2)
    change(order, 1, of(1, 2, tie_breaker=2))
    order.ring([1], [2])
    order.settle()
    assert (order[1].ready, order[2].ready) == (False, True)
    in_ring(order, 1, 2)
    change(order, 1, Electorate({1: 3, 2: 1}))
    order.ring([1], [2])
    order.settle()
    assert (order[1].ready, order[2].ready) == (True, False)


def test_a_longer_promise_is_known_by_majorities_of_both():
    order, _ = holding()
    for node in (4, 5):
        come(order, node, *range(1, node))
    everyone = [1, 2, 3, 4, 5]
    begin_change(order, everyone, of(3, 4, 5))
    order[1].replica.promise(5000.0)
    for stored, is_known in (((1, 2), False), ((5,), False), ((4,), True)):
        for _ in range(3):
            turn(order, everyone, stored)
        assert (order[1].state.longest_promise == 5000.0) == is_known


def test_who_is_configured_otherwise_is_counted_anew_when_others_vote():
    order = started()
    order.restart(4, electorate=of(1, 2, 3, 4))
    in_ring(order, 1, 2, 3, 4)
    assert "node 4 is configured with other servers" in named(order[1])
    change(order, 1, of(1, 2, 3, 4))
    for node in (1, 4):
        assert "nodes 1 2 3 are configured with other servers: 1, 2, 3; that changes nothing" in named(order[node])
        assert "node 4" not in named(order[node])
