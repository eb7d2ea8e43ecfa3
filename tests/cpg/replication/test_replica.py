"""Whose state is the base of all, what is final, and where a state is born: rulings E1 to E6, one by one."""

import pytest

from cpg.events import Reason
from cpg.replication.electorate import Electorate, Voters
from cpg.replication.replica import PATIENCE, Phase
from cpg.replication.wire import Ack, DurableRecord, Report
from tests.cpg.replication.dictionary import VERSIONS_OF_AN_EPOCH
from tests.cpg.replication.orders import Order, decode, led_by_the_first, started
from totem.configuration import Level

USUAL = 10.0
"""Seconds of the longest promise at first."""


# ---- E1: who decides


def test_a_minority_decides_nothing():
    order = started()
    order.ring([1], [2, 3])
    order[1].put()
    order.settle()
    assert order[1].versions == []
    assert order[1].replica.phase is Phase.MINORITY
    assert order[2].ready


def test_those_who_have_lost_their_memory_are_no_majority_for_a_state():
    """Servers 2 and 3 restart while 1, cut off, keeps a promise: they must not decide at once what 1 has decided."""
    order = started()
    order[1].put()
    order[1].replica.promise(65.0)
    order.settle()
    (version,) = order[1].versions
    order.ring([1], [2, 3])
    order.restart(2)
    order.restart(3)
    order.ring([2, 3])
    order[2].put()
    order.settle()
    assert order[2].versions == []
    assert order[2].replica.phase is Phase.BIRTH
    assert order[2].why == "promises of up to 65 s may be left of an earlier life"
    order.pass_time(64)
    assert order[2].versions == []
    order.pass_time(2)
    assert order[2].versions[0] // VERSIONS_OF_AN_EPOCH > version // VERSIONS_OF_AN_EPOCH


def test_what_a_minority_remembers_is_no_base():
    """Servers 2 and 3 decide while 1 is cut off, and lose their memory: the state of 1 does not know of it."""
    order = started()
    order.ring([1], [2, 3])
    order.settle()
    order[2].put()
    order[2].replica.promise(65.0)
    order.settle()
    (version,) = order[2].versions
    for node in (2, 3):
        order.restart(node, survivors=True)
    order.ring([1, 2, 3])
    order[1].put()
    order.settle()
    assert order[1].versions == []
    order.pass_time(66)
    assert order[1].versions[0] > version


def test_an_exact_half_decides_with_the_tie_breaker_alone():
    order = started(electorate=Electorate({1: 1, 2: 1}, tie_breaker=1))
    order.ring([1], [2])
    order.settle()
    assert (order[1].ready, order[2].ready) == (True, False)


def test_an_exact_half_of_two_does_not_decide():
    order = started(2)
    order.ring([1], [2])
    order.settle()
    assert not order[1].ready
    assert not order[2].ready


def test_votes_are_those_of_nodes_all_of_whose_servers_have_the_state():
    electorate = Electorate({1: 3, 2: 1, 3: 1})
    assert electorate.is_quorum({1})
    assert not electorate.is_quorum({2, 3})
    assert Voters(1, 1, electorate).missing({1}) == (2, 3)


def test_a_second_server_on_a_node_does_not_take_its_state_away():
    """It has no state yet; the node has one all the same."""
    order = started(1)
    order[1].put()
    order.settle()
    (version,) = order[1].versions
    second = order.join(1, 2)
    second.put()
    order.settle()
    assert second.has(version)
    assert second.versions == []
    second.put("another")
    order.settle()
    assert second.versions[0] > version


def test_second_servers_on_all_nodes_at_once_take_no_state_away():
    order = started()
    order[1].put()
    order.settle()
    (version,) = order[1].versions
    for node in (1, 2, 3):
        order.join(node, 2)
    order.settle()
    assert order[1, 2].has(version)


# ---- E2: the base of all


def test_the_state_that_saw_more_is_the_base_and_others_get_it():
    order = started()
    order.ring([1, 2], [3])
    order.settle()
    order[1].put()
    order.settle()
    (version,) = order[1].versions
    order.ring([2, 3], [1])
    order[3].put()
    order.settle()
    assert order[3].versions == []
    assert order[3].has(version)


def test_a_later_view_counts_for_more_than_many_commands_of_an_earlier_one():
    order = started()
    for name in (b"a", b"b", b"c", b"d"):
        order[1].put(name)
        order.deliver(order.said(1), [1], Level.TRANSITIONAL)  # a long tail that only 1 has
    order.ring([1], [2, 3])
    order.settle()
    order[2].put()
    order.settle()
    (version,) = order[2].versions
    order.ring([1, 2, 3])
    order.settle()
    assert order[1].has(version)


def test_commands_that_come_before_the_round_is_over_are_done_at_its_end():
    order = started()
    request = order[1].put()
    messages = order.said(1)
    order.ring([1, 2, 3])
    order.deliver(messages, [1, 2, 3])  # it was sent before, and is ordered in the new ring
    order.settle()
    assert order[1].told[-1].number == request
    assert {digest_of(order[node]) for node in (1, 2, 3)} == {digest_of(order[1])}


def digest_of(server):
    return repr(server.state.image())


def test_a_server_that_does_not_report_is_left_out_by_order():
    order = started()
    order.ring([1, 2, 3])
    awake = [1, 2]
    for _ in range(3):
        order.deliver(order.said(*awake), [1, 2])  # 3 neither hears nor says anything
    assert not order[1].ready
    order.now += PATIENCE + 0.1
    heard = []
    for node in awake:
        order[node].advance()
    for _ in range(6):
        messages = order.said(*awake)
        heard += messages
        order.deliver(messages, awake)
    assert order[1].ready
    assert not order[3].ready


def test_a_server_that_does_not_hand_over_its_state_is_left_out():
    """Server 1 reports that it has the base of all, and hangs."""
    order = led_by_the_first()
    order.ring([1, 2], [3])
    order.settle()
    order[2].put()
    order.settle()
    order.ring([1, 2, 3])
    for _ in range(3):
        order.deliver(order.said(1, 2, 3), [1, 2, 3])
        if order[2].replica.phase is Phase.LOADING:
            break
    assert order[2].replica.phase is Phase.LOADING
    awake = [2, 3]
    order.said(1)  # and it never arrives

    def turn():
        order.deliver(order.said(*awake), awake)

    for _ in range(2):
        order.now += PATIENCE + 0.1
        for node in awake:
            order[node].advance()
        for _ in range(6):
            turn()
    assert order[2].ready
    assert order[3].ready
    assert order[3].has(order[2].versions[0])


def test_a_server_that_was_left_out_asks_to_be_counted_again():
    order = started()
    order.ring([1, 2, 3])
    everything = []

    def turn():
        messages = order.said(1, 2)
        everything.extend(messages)
        order.deliver(messages, [1, 2])

    for _ in range(3):
        turn()
    order.now += PATIENCE + 0.1
    for node in (1, 2):
        order[node].advance()
    for _ in range(6):
        turn()
    assert order[1].ready
    order.deliver(everything, [3])  # it continues
    assert not order[3].ready
    order.settle()
    assert all(order[node].ready for node in (1, 2, 3))


# ---- E2c: a state that can have no later one


def ended(order, *nodes, reason=Reason.PROCDOWN):
    """End servers whose nodes stay in the ring; the others are told of each."""
    servers = []
    for node in nodes:
        servers.append(order[node])
        order.end(node, reason)
        order.settle()
    return servers


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("reason", [Reason.PROCDOWN, Reason.LEAVE])
def test_a_majority_that_ended_in_sight_of_a_state_begins_with_it(safe, reason):
    order = started(safe=safe)
    order[1].put()
    order.settle()
    (version,) = order[1].versions
    two, three = ended(order, 2, 3, reason=reason)
    assert order[1].replica.phase is Phase.MINORITY
    order.begin(2, two, [1])
    order.settle()
    assert order[1].ready, "a majority is there, and none of it can know of anything later"
    order.begin(3, three, [1, 2])
    order.settle()
    assert all(order[node].ready for node in (1, 2, 3))
    assert order[3].has(version)
    order[3].put()
    order.settle()
    assert order[3].versions == []


def test_all_that_end_in_sight_before_the_next_view_decides_were_with_the_state_all_the_same():
    order = started()
    two, three = order[2], order[3]
    order.end(2, Reason.PROCDOWN)
    order.end(3, Reason.PROCDOWN)
    order.settle()
    order.begin(2, two, [1])
    order.begin(3, three, [1, 2])
    order.settle()
    assert order[1].ready


def test_a_state_of_which_one_was_cut_off_may_not_be_the_last():
    """Servers 2 and 3 continue without 1, decide, and end; then they begin in the sight of 1."""
    order = started()
    two, three = order[2], order[3]
    two.writes = three.writes = False
    order.ring([1], [2, 3])
    order.settle()
    two.put()
    order.settle()
    (version,) = two.versions
    order.ring([1, 2, 3])
    order.end(2, Reason.PROCDOWN)
    order.end(3, Reason.PROCDOWN)
    order.begin(2, two, [1])
    order.begin(3, three, [1, 2])
    order[1].put()
    order.settle()
    assert order[1].versions == []
    assert order[1].replica.phase is Phase.BIRTH
    order.pass_time(12)
    assert order[1].versions[0] > version


def test_a_state_of_which_others_were_cut_off_between_two_views_may_not_be_the_last():
    """Server 1 sees 5 end, and loses 2, 3 and 4 before the next view; these continue, decide, and end."""
    order = started(5)
    for node in (2, 3, 4):
        order[node].writes = False
    order.end(5, Reason.PROCDOWN)
    order.ring([1], [2, 3, 4])
    order.settle()
    order[2].put()
    order.settle()
    assert len(order[2].versions) == 1
    for node in (2, 3, 4):
        order.restart(node)
    order.ring([1, 2, 3, 4])
    order[1].put()
    order.settle()
    assert order[1].versions == []


def test_a_state_is_not_the_last_where_a_disk_knows_of_another_birth():
    order = started()
    two, three = ended(order, 2, 3)
    two.record = two.record._replace(epoch=two.record.epoch + 1)
    order.begin(2, two, [1])
    order.begin(3, three, [1, 2])
    order.settle()
    assert order[1].replica.phase is Phase.BIRTH


def test_a_state_is_not_the_last_where_no_majority_has_its_disks():
    order = started()
    two, three = ended(order, 2, 3)
    two.record = three.record = None
    order.begin(2, two, [1])
    order.begin(3, three, [1, 2])
    order.settle()
    assert not order[1].ready


# ---- E3: with SAFE


def test_nothing_is_reported_that_is_not_known_to_be_everywhere():
    order = started()
    order[1].put()
    order.ring([1], [2, 3], tails=[(order.said(1), [1])])
    assert order[1].versions == []
    order[2].put()
    order.settle(2, 3)
    assert len(order[2].versions) == 1
    order.settle()
    assert order[1].versions == []


def test_what_one_server_could_report_is_applied_by_all_that_get_it_late():
    """Server 1 has it as safe and reports it; 2 and 3 get it in their transitional configuration only."""
    order = started()
    order[1].put()
    messages = order.said(1)
    order.deliver(messages, [1])
    (version,) = order[1].versions
    order.ring([1], [2, 3], tails=[(messages, [2, 3])])
    order[2].put()
    order.settle(2, 3)
    assert order[2].versions == []
    assert order[2].has(version)


@pytest.mark.parametrize("parts", [([1, 2], [3]), ([1, 3], [2]), ([1, 2, 3],)])
def test_tails_that_were_not_reported_merge_in_any_way(parts):
    order = started()
    order[1].put()
    order[2].put()
    order[3].put()
    tails = [(order.said(1), [1]), (order.said(2), [2]), (order.said(3), [3])]
    order.ring([1], [2], [3], tails=tails)
    order.settle()
    assert all(order[node].versions == [] for node in (1, 2, 3))
    order.ring(*parts)
    order.settle()
    assert sum(len(order[node].versions) for node in (1, 2, 3)) == 1


def test_the_beginning_of_a_view_is_reported_when_it_is_safe():
    """Server 1 has done more than was reported, and is the base; it may be alone in knowing that the view has begun."""
    order = started()
    order[1].put()
    order.ring([1], [2, 3], tails=[(order.said(1), [1])])
    order.settle(1)
    order.ring([1, 2], [3])
    messages = []
    for _ in range(2):  # the round and the reports are known to both
        messages = order.said(1, 2)
        order.deliver(messages, [1, 2])
    snapshot = order.said(1, 2)
    assert snapshot
    order.deliver(snapshot, [1], Level.TRANSITIONAL)
    assert order[1].versions == []
    order.ring([2, 3], [1])
    order[2].put()
    order.settle(2, 3)
    assert len(order[2].versions) == 1
    assert order[1].versions == []


# ---- E4: without SAFE


def agreed(nodes=3):
    return started(nodes, safe=False)


def test_without_safe_a_majority_must_have_acknowledged():
    order = agreed()
    order[1].put()
    order.deliver(order.said(1), [1, 2, 3])
    order.deliver(order.said(1), [1, 2, 3])  # its own acknowledgement alone
    assert order[1].versions == []
    order.deliver(order.said(2), [1, 2, 3])
    assert len(order[1].versions) == 1


def test_acknowledgements_of_another_view_are_void():
    order = agreed()
    order[1].put()
    order.deliver(order.said(1), [1, 2, 3])
    mine, late = order.said(1), order.said(2)
    assert type(decode(late[0][1])) is Ack
    order.ring([1, 2], [3])
    while not order[1].replica.is_primary:
        order.deliver(order.said(1, 2), [1, 2])
    request = order[1].put("other")
    order.deliver(order.said(1), [1])  # and nobody else
    order.deliver(mine + late, [1])  # they say of the view before what this one needs
    assert [answer for answer in order[1].told if answer.number == request] == []


def test_the_mark_is_what_was_acknowledged_and_not_what_was_applied():
    """Server 3 has applied a command that it got past a gap; its state is no base for what 1 has reported."""
    order = agreed()
    order[3].put("tail")
    order.deliver(order.said(3), [3])
    order[3].put("tail 2")
    order.deliver(order.said(3), [3])
    order.said(3)  # its acknowledgements get nowhere
    order[1].put()
    order.deliver(order.said(1), [1, 2])
    for _ in range(3):
        order.deliver(order.said(1, 2), [1, 2])
    (version,) = order[1].versions
    order.ring([2, 3], [1])
    order.settle(2, 3)
    assert order[3].has(version)
    assert order[2].has(version)


def test_one_server_without_safe_makes_the_rule_that_of_all():
    order = Order()
    order.servers[3].replica.settings = type(order[3].replica.settings)(electorate=order.electorate, safe=False)
    order.ring([1, 2, 3])
    order.settle()
    order[1].put()
    order.deliver(order.said(1), [1, 2, 3])
    assert order[1].versions == []
    order.settle()
    assert len(order[1].versions) == 1


# ---- E5, E6: birth, epochs, versions


def first_voters(order):
    """Return the voters of a cluster that is born now."""
    return Voters(order[1].replica.server.start, 1, order.electorate)


def test_a_first_state_needs_all():
    order = Order()
    order.ring([1, 2])
    order.settle()
    assert not order[1].ready
    assert "node 3" in order[1].why
    order.ring([1, 2, 3])
    order.settle()
    assert order[1].ready


def test_all_that_start_again_begin_with_another_epoch():
    order = started()
    order[1].put()
    order.settle()
    (version,) = order[1].versions
    for node in (1, 2, 3):
        order.restart(node)
    order.ring([1, 2, 3])
    order[2].put()
    order.pass_time(11)
    assert order[2].versions[0] // VERSIONS_OF_AN_EPOCH == version // VERSIONS_OF_AN_EPOCH + 1


@pytest.mark.parametrize("survivors", [True, False])
def test_all_that_start_again_wait_for_the_longest_promise(survivors):
    """Also where no server's clients have survived: servers that do not vote may have had some."""
    order = started()
    for node in (1, 2, 3):
        order.restart(node, survivors=survivors)
    order.ring([1, 2, 3])
    order[2].put()
    order.settle()
    assert order[2].versions == []
    order.pass_time(9)
    assert order[2].versions == []
    order.pass_time(3)
    assert len(order[2].versions) == 1


def test_all_wait_where_one_still_has_a_state_that_is_no_base():
    """Its clients may rely on what they were promised."""
    order = started(2)
    order[1].put()
    order[1].replica.promise(65.0)
    order.settle()
    order.restart(2)
    order.ring([1, 2])
    order[2].put()
    order.settle()
    assert order[2].versions == []
    order.pass_time(64)
    assert order[2].versions == []
    order.pass_time(3)
    assert len(order[2].versions) == 1


def test_an_operator_may_say_that_nobody_holds_anything():
    order = started()
    for node in (1, 2):
        order.restart(node, keeps_disk=False, force_birth=node == 2)
    order.ring([1, 2])
    order.settle()
    assert order[1].ready


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_tokens_grow_over_a_restart_of_all_with_any_one_disk_lost(lost):
    order = started()
    order[1].put()
    order.settle()
    (version,) = order[1].versions
    for node in (1, 2, 3):
        order.restart(node, keeps_disk=node != lost)
    order.ring([1, 2, 3])
    order[1].put()
    order.pass_time(11)
    assert order[1].versions[0] > version


def test_an_epoch_is_on_a_majority_of_disks_before_its_first_token():
    order = Order()
    order.ring([1, 2, 3])
    order[1].put()
    for _ in range(10):
        for node in (1, 2, 3):
            messages = [(order[node].member, data) for data in order[node].take()]
            order.deliver(messages, [1, 2, 3])
    assert {order[node].replica.record_to_store for node in (1, 2, 3)} == {DurableRecord(1, 10.0, first_voters(order))}
    assert not order[1].ready
    order.deliver(order.said(1), [1, 2, 3])
    assert not order[1].ready
    order.settle()
    assert len(order[1].versions) == 1


def test_a_longer_promise_is_on_a_majority_of_disks_before_it_may_be_given():
    order = started()
    order[1].replica.promise(120.0)
    order.deliver([(order[1].member, data) for data in order[1].take()], [1, 2, 3])
    assert order[1].replica.record_to_store == DurableRecord(1, 120.0, order[1].state.voters)
    assert order[1].state.longest_promise == USUAL
    order.settle()
    assert order[1].state.longest_promise == 120.0
    assert [order[node].record[:2] for node in (1, 2, 3)] == [(1, 120.0)] * 3


def test_a_shorter_promise_that_is_proposed_next_does_not_displace_a_longer_one():
    order = started()
    order[1].replica.promise(60.0)
    order[2].replica.promise(30.0)
    order.deliver(order.said(1) + order.said(2), [1, 2, 3])
    order.settle()
    assert {order[node].state.longest_promise for node in (1, 2, 3)} == {60.0}


def test_an_epoch_begins_when_a_majority_of_disks_knows_of_it():
    order = started()
    order[1].replica.begin_epoch()
    order[2].replica.begin_epoch()
    order.deliver([(order[1].member, data) for data in order[1].take()], [1, 2, 3])
    assert order[1].state.epoch == 1
    order.settle()
    assert {order[node].state.epoch for node in (1, 2, 3)} == {2}


def test_it_is_said_on_whose_disks_something_is_not():
    order = started()
    order[3].writes = False
    order[1].replica.disk_fault = "full"
    order[1].replica.promise(60.0)
    order.settle()
    text = "it must be on the disks of a majority of the servers first, and is not stored at node 3; here: full"
    assert order[1].replica.unstored("it", DurableRecord(0, 60.0)) == text


# ---- what belongs to servers


def test_what_belongs_to_a_server_that_is_gone_is_given_up():
    order = started()
    order[3].put(is_ephemeral=True)
    order.settle()
    order.ring([1, 2])
    del order.rings[3]
    order[1].put()
    order.settle()
    assert len(order[1].versions) == 1


def test_it_is_reported_that_a_server_has_ended_together_with_its_clients():
    order = started()
    (three,) = ended(order, 3)
    assert order[1].ended == [three.replica.server]


# ---- what servers report


def test_reports_say_what_they_should():
    order = started()
    order.ring([1, 2, 3])
    order.deliver(order.said(1), [1, 2, 3])
    (report,) = (decode(data) for _, data in order.said(2))
    assert isinstance(report, Report)
    assert report.lineage == (1, 1, 1, 0)
    assert report.record[:2] == (1, 10.0)
    assert report.voters == report.record.voters.confirmed((1, 1, 1))
    assert report.configured == report.voters.electorate == order.electorate
