"""When a grant may be told, whose state is the base of all, and where a state is born: rulings E1 to E7, one by one."""

from dataclasses import replace

import pytest

from cluck.commands import Commit, Ended, Leadership, Owner, Refused, RequestId, Stand, Why
from cluck.protocol import Failed, Held, Leads, Observe, Renounced
from cluck.state.tokens import TOKENS_OF_AN_EPOCH
from cpg.events import Reason
from cpg.replication.electorate import Electorate, Voters
from cpg.replication.replica import PATIENCE, Phase
from cpg.replication.wire import Ack, Record, Report
from tests.cluck.server.orders import Order, decode, started
from totem.configuration import Level


def led_by_the_first():
    """Servers that have begun, 1 being the first leader."""
    order = Order()
    order[1].service.replica.settings = replace(order[1].service.replica.settings, priority=1)
    order.ring([1, 2, 3])
    order.settle()
    assert order[3].service.replica.leaders[0] == order[1].member
    return order


# ---- E1: who decides


def test_a_minority_grants_nothing():
    order = started()
    order.ring([1], [2, 3])
    order[1].acquire()
    order.settle()
    assert order[1].held == []
    assert order[1].service.replica.phase is Phase.MINORITY
    assert order[2].ready


def test_those_who_have_lost_their_memory_are_no_majority_for_a_state():
    """Servers 2 and 3 start anew while 1, cut off, serves a lease on: they must not grant at once what 1 granted."""
    order = started()
    order[1].acquire(lease=60.0)
    order.settle()
    (token,) = order[1].held
    order.ring([1], [2, 3])
    order.restart(2)
    order.restart(3)
    order.ring([2, 3])
    order[2].acquire()
    order.settle()
    assert order[2].held == []
    assert order[2].service.replica.phase is Phase.BIRTH
    order.pass_time(64)
    assert order[2].held == []
    order.pass_time(2)
    assert order[2].held[0] // TOKENS_OF_AN_EPOCH > token // TOKENS_OF_AN_EPOCH


def test_what_a_minority_remembers_is_no_base():
    """Servers 2 and 3 grant while 1 is cut off, and lose their memory: the state of 1 does not know of it."""
    order = started()
    order.ring([1], [2, 3])
    order.settle()
    order[2].acquire(lease=60.0)
    order.settle()
    (token,) = order[2].held
    for node in (2, 3):
        order.restart(node, survivors=True)
    order.ring([1, 2, 3])
    order[1].acquire()
    order.settle()
    assert order[1].held == []
    order.pass_time(66)
    assert order[1].held[0] > token


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


def test_a_second_server_on_a_node_takes_nothing_from_who_holds_locks_through_the_first():
    """It has no state yet; the node has one all the same."""
    order = started(1)
    order[1].acquire()
    order.settle()
    (token,) = order[1].held
    second = order.join(1, 2)
    second.acquire()
    order.settle()
    assert order[1].held == [token]
    assert second.held == []
    order[1].release(token)
    order.settle()
    assert second.held[0] > token


def test_second_servers_on_all_nodes_at_once_take_nothing_from_anybody():
    order = started()
    order[1].acquire()
    order.settle()
    (token,) = order[1].held
    for node in (1, 2, 3):
        order.join(node, 2)
    order.settle()
    assert order[1].held == [token]
    assert order[1, 2].state.table.holder(b"lock", token) is not None


# ---- E2: the base of all


def test_the_state_that_saw_more_is_the_base_and_others_get_it():
    order = started()
    order.ring([1, 2], [3])
    order.settle()
    order[1].acquire()
    order.settle()
    (token,) = order[1].held
    order.ring([2, 3], [1])
    order[3].acquire()
    order.settle()
    assert order[3].held == []
    assert order[3].state.table.holder(b"lock", token) is not None


def test_a_later_view_counts_for_more_than_many_commands_of_an_earlier_one():
    order = started()
    for name in (b"a", b"b", b"c", b"d"):
        order[1].acquire(name)
        order.deliver(order.said(1), [1], Level.TRANSITIONAL)  # a long tail that only 1 has
    order.ring([1], [2, 3])
    order.settle()
    order[2].acquire()
    order.settle()
    (token,) = order[2].held
    order.ring([1, 2, 3])
    order.settle()
    assert order[1].state.table.holder(b"lock", token) is not None


def test_what_was_asked_for_during_a_change_is_done_after_it():
    order = started()
    request = order[1].acquire()
    lost = order.said(1)  # nobody gets it
    assert lost
    order.ring([1, 2], [3])
    order.settle()
    assert order[1].of(Held)[-1].request == request


def test_what_is_said_again_keeps_its_order():
    """A task gives a lock back and asks for it again; both are lost with the ring."""
    order = started()
    order[1].acquire()
    order.settle()
    order[1].release(order[1].held[0])
    order.said(1)
    order[1].acquire()
    order.said(1)
    order.ring([1, 2], [3])
    order.settle()
    assert len(order[1].held) == 1
    assert order[1].of(Refused) == []


def test_commands_that_come_before_the_round_is_over_are_done_at_its_end():
    order = started()
    request = order[1].acquire()
    messages = order.said(1)
    order.ring([1, 2, 3])
    order.deliver(messages, [1, 2, 3])  # it was sent before, and is ordered in the new ring
    order.settle()
    assert order[1].of(Held)[-1].request == request
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
        order[node].service.advance(order.now)
    for _ in range(6):
        messages = order.said(*awake)
        heard += messages
        order.deliver(messages, awake)
    assert order[1].ready
    assert not order[3].ready


def test_a_server_that_does_not_hand_over_its_state_is_left_out():
    """Server 1 reports that it has the base of all, and stands still."""
    order = led_by_the_first()
    order.ring([1, 2], [3])
    order.settle()
    order[2].acquire()
    order.settle()
    order.ring([1, 2, 3])
    for _ in range(3):
        order.deliver(order.said(1, 2, 3), [1, 2, 3])
        if order[2].service.replica.phase is Phase.LOADING:
            break
    assert order[2].service.replica.phase is Phase.LOADING
    awake = [2, 3]
    order.said(1)  # and it never comes

    def turn():
        order.deliver(order.said(*awake), awake)

    for _ in range(2):
        order.now += PATIENCE + 0.1
        for node in awake:
            order[node].service.advance(order.now)
        for _ in range(6):
            turn()
    assert order[2].ready
    assert order[3].ready
    assert order[3].state.table.holder(b"lock", order[2].held[0]) is not None


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
        order[node].service.advance(order.now)
    for _ in range(6):
        turn()
    assert order[1].ready
    order.deliver(everything, [3])  # it wakes
    assert not order[3].ready
    order.settle()
    assert all(order[node].ready for node in (1, 2, 3))


# ---- E2c: a state that can have no later one


def ended(order, *nodes, reason=Reason.PROCDOWN):
    """End servers whose nodes stay in the ring; who is left is told of each."""
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
    order[1].acquire(lease=60.0)
    order.settle()
    (token,) = order[1].held
    two, three = ended(order, 2, 3, reason=reason)
    assert order[1].service.replica.phase is Phase.MINORITY
    order.begin(2, two, [1])
    order.settle()
    assert order[1].ready, "a majority is there, and none of it can know of anything later"
    order.begin(3, three, [1, 2])
    order.settle()
    assert all(order[node].ready for node in (1, 2, 3))
    assert [ticket.token for ticket in order[3].state.table.locks[b"lock"].holders] == [token]
    order[3].acquire()
    order.settle()
    assert order[3].held == []


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
    """Servers 2 and 3 go on without 1, grant, and end; then they begin in the sight of 1."""
    order = started()
    two, three = order[2], order[3]
    two.writes = three.writes = False
    order.ring([1], [2, 3])
    order.settle()
    two.acquire()
    order.settle()
    (token,) = two.held
    order.ring([1, 2, 3])
    order.end(2, Reason.PROCDOWN)
    order.end(3, Reason.PROCDOWN)
    order.begin(2, two, [1])
    order.begin(3, three, [1, 2])
    order[1].acquire()
    order.settle()
    assert order[1].held == []
    assert order[1].service.replica.phase is Phase.BIRTH
    order.pass_time(12)
    assert order[1].held[0] > token


def test_a_state_of_which_others_were_cut_off_between_two_views_may_not_be_the_last():
    """Server 1 sees 5 end, and loses 2, 3 and 4 before the next view; these go on, grant, and end."""
    order = started(5)
    for node in (2, 3, 4):
        order[node].writes = False
    order.end(5, Reason.PROCDOWN)
    order.ring([1], [2, 3, 4])
    order.settle()
    order[2].acquire()
    order.settle()
    assert len(order[2].held) == 1
    for node in (2, 3, 4):
        order.restart(node)
    order.ring([1, 2, 3, 4])
    order[1].acquire()
    order.settle()
    assert order[1].held == []


def test_a_state_is_not_the_last_where_a_disk_knows_of_another_birth():
    order = started()
    two, three = ended(order, 2, 3)
    two.record = two.record._replace(epoch=two.record.epoch + 1)
    order.begin(2, two, [1])
    order.begin(3, three, [1, 2])
    order.settle()
    assert order[1].service.replica.phase is Phase.BIRTH


def test_a_state_is_not_the_last_where_no_majority_has_its_disks():
    order = started()
    two, three = ended(order, 2, 3)
    two.record = three.record = None
    order.begin(2, two, [1])
    order.begin(3, three, [1, 2])
    order.settle()
    assert not order[1].ready


# ---- E3: with SAFE


def test_nothing_is_told_that_is_not_known_to_be_everywhere():
    order = started()
    order[1].acquire()
    order.ring([1], [2, 3], tails=[(order.said(1), [1])])
    assert order[1].held == []
    order[2].acquire()
    order.settle(2, 3)
    assert len(order[2].held) == 1
    order.settle()
    assert order[1].held == []


def test_what_somebody_could_tell_is_done_by_all_that_get_it_late():
    """Server 1 has it as safe and tells; 2 and 3 get it in their transitional configuration only."""
    order = started()
    order[1].acquire()
    messages = order.said(1)
    order.deliver(messages, [1])
    (token,) = order[1].held
    order.ring([1], [2, 3], tails=[(messages, [2, 3])])
    order[2].acquire()
    order.settle(2, 3)
    assert order[2].held == []
    assert order[2].state.table.holder(b"lock", token) is not None


@pytest.mark.parametrize("parts", [([1, 2], [3]), ([1, 3], [2]), ([1, 2, 3],)])
def test_tails_that_nobody_was_told_of_merge_in_any_way(parts):
    order = started()
    order[1].acquire()
    order[2].acquire()
    order[3].acquire()
    tails = [(order.said(1), [1]), (order.said(2), [2]), (order.said(3), [3])]
    order.ring([1], [2], [3], tails=tails)
    order.settle()
    assert all(order[node].held == [] for node in (1, 2, 3))
    order.ring(*parts)
    order.settle()
    assert sum(len(order[node].held) for node in (1, 2, 3)) == 1


def test_what_a_view_begins_with_is_told_when_its_beginning_is_safe():
    """Server 1 has done more than was told, and is the base; it may be alone in knowing that the view has begun."""
    order = started()
    order[1].acquire()
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
    assert order[1].held == []
    order.ring([2, 3], [1])
    order[2].acquire()
    order.settle(2, 3)
    assert len(order[2].held) == 1
    assert order[1].held == []


# ---- E4: without SAFE


def agreed(nodes=3):
    return started(nodes, safe=False)


def test_without_safe_a_majority_must_have_acknowledged():
    order = agreed()
    order[1].acquire()
    order.deliver(order.said(1), [1, 2, 3])
    order.deliver(order.said(1), [1, 2, 3])  # its own acknowledgement alone
    assert order[1].held == []
    order.deliver(order.said(2), [1, 2, 3])
    assert len(order[1].held) == 1


def test_acknowledgements_of_another_view_are_void():
    order = agreed()
    order[1].acquire()
    order.deliver(order.said(1), [1, 2, 3])
    mine, late = order.said(1), order.said(2)
    assert type(decode(late[0][1])) is Ack
    order.ring([1, 2], [3])
    while not order[1].service.replica.is_primary:
        order.deliver(order.said(1, 2), [1, 2])
    order[1].acquire(b"other")
    order.deliver(order.said(1), [1])  # and nobody else
    order.deliver(mine + late, [1])  # they say of the view before what is needed in this one
    assert [said for said in order[1].of(Held) if said.request.number == 2] == []


def test_the_mark_is_what_was_acknowledged_and_not_what_was_applied():
    """Server 3 has applied a command that it got past a gap; its state is no base for what 1 was told."""
    order = agreed()
    order[3].acquire(b"tail")
    tail = order.said(3)
    order.deliver(tail, [3])
    order[3].acquire(b"tail 2")
    order.deliver(order.said(3), [3])
    order.said(3)  # its acknowledgements get nowhere
    order[1].acquire()
    order.deliver(order.said(1), [1, 2])
    for _ in range(3):
        order.deliver(order.said(1, 2), [1, 2])
    (token,) = order[1].held
    order.ring([2, 3], [1])
    request = order[3].acquire()
    order.settle(2, 3)
    assert not order[3].state.table.ticket(request).token
    assert order[2].state.table.holder(b"lock", token) is not None


def test_one_server_without_safe_makes_the_rule_that_of_all():
    order = Order()
    order.servers[3].service.replica.settings = type(order[3].service.replica.settings)(
        electorate=order.electorate, safe=False
    )
    order.ring([1, 2, 3])
    order.settle()
    order[1].acquire()
    order.deliver(order.said(1), [1, 2, 3])
    assert order[1].held == []
    order.settle()
    assert len(order[1].held) == 1


# ---- E5, E6: birth, epochs, tokens


def first_voters(order):
    """Who decides in a cluster that is born now."""
    return Voters(order[1].service.server.start, 1, order.electorate)


def test_a_first_state_needs_all():
    order = Order()
    order.ring([1, 2])
    order.settle()
    assert not order[1].ready
    assert "node 3" in order[1].service.readiness[1]
    order.ring([1, 2, 3])
    order.settle()
    assert order[1].ready


def test_all_that_start_again_begin_with_another_epoch():
    order = started()
    order[1].acquire()
    order.settle()
    (token,) = order[1].held
    for node in (1, 2, 3):
        order.restart(node)
    order.ring([1, 2, 3])
    order[2].acquire()
    order.pass_time(11)
    assert order[2].held[0] // TOKENS_OF_AN_EPOCH == token // TOKENS_OF_AN_EPOCH + 1


@pytest.mark.parametrize("survivors", [True, False])
def test_all_that_start_again_wait_for_the_longest_lease(survivors):
    """Also where nobody's clients have survived: servers that do not vote may have had some."""
    order = started()
    for node in (1, 2, 3):
        order.restart(node, survivors=survivors)
    order.ring([1, 2, 3])
    order[2].acquire()
    order.settle()
    assert order[2].held == []
    order.pass_time(9)
    assert order[2].held == []
    order.pass_time(3)
    assert len(order[2].held) == 1


def test_all_wait_where_one_still_has_a_state_that_is_no_base():
    """Its clients may rely on what they were granted, above all one whose connection is lost."""
    order = started(2)
    order[1].acquire(lease=60.0)
    order.settle()
    order[1].connection.lost(order.now, dead=False)
    order.restart(2)
    order.ring([1, 2])
    order[2].acquire()
    order.settle()
    assert order[2].held == []
    order.pass_time(64)
    assert order[2].held == []
    order.pass_time(3)
    assert len(order[2].held) == 1


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
    order[1].acquire()
    order.settle()
    (token,) = order[1].held
    for node in (1, 2, 3):
        order.restart(node, keeps_disk=node != lost)
    order.ring([1, 2, 3])
    order[1].acquire()
    order.pass_time(11)
    assert order[1].held[0] > token


def test_an_epoch_is_on_a_majority_of_disks_before_its_first_token():
    order = Order()
    order.ring([1, 2, 3])
    order[1].acquire()
    for _ in range(10):
        for node in (1, 2, 3):
            messages = [(order[node].member, data) for data in order[node].service.take(order.now)]
            order.deliver(messages, [1, 2, 3])
    assert {order[node].service.record_to_store for node in (1, 2, 3)} == {Record(1, 10.0, first_voters(order))}
    assert not order[1].ready
    order.deliver(order.said(1), [1, 2, 3])
    assert not order[1].ready
    order.settle()
    assert len(order[1].held) == 1


def test_a_longer_lease_is_on_a_majority_of_disks_before_it_is_granted():
    order = started()
    order[1].acquire(lease=100.0, grace=20.0)
    order.deliver([(order[1].member, data) for data in order[1].service.take(order.now)], [1, 2, 3])
    assert order[1].service.record_to_store == Record(1, 120.0, order[1].state.voters)
    assert order[1].held == []
    order.settle()
    assert len(order[1].held) == 1
    assert [order[node].record[:2] for node in (1, 2, 3)] == [(1, 120.0)] * 3


# ---- E7: leases


def test_a_holder_counts_from_before_it_asked_and_the_group_from_when_it_granted():
    order = started()
    asked = order.now
    order[1].acquire()
    messages = order.said(1)
    order.now += 1.0
    order.deliver(messages, [1, 2, 3])
    (held,) = order[1].of(Held)
    assert held.deadline == pytest.approx(asked + 5 * 0.999)
    order.pass_time(10.0)
    assert order[1].held == [held.token]
    order.pass_time(0.5)
    assert order[1].of(Ended)[-1].why is Why.EXPIRED


def test_who_has_waited_begins_at_once_if_it_has_said_lately_that_it_waits():
    order = started()
    order[1].acquire(lease=5.0)
    order[2].acquire(lease=5.0)
    order.settle()
    (first,) = order[1].held
    for _ in range(10):
        order.pass_time(1.0)
        order[1].renew(first)
    order.settle()
    order.now += 0.5
    order[1].release(first)
    order.deliver(order.said(1), [1, 2, 3])
    (held,) = order[2].of(Held)
    assert order.now < held.deadline <= order.now + 5.0
    order.settle()
    assert order[2].of(Held)[-1].deadline > held.deadline, "and has renewed at once"


def test_who_has_hardly_waited_does_not_renew_as_it_begins():
    order = started()
    order[1].acquire(lease=60.0)
    order[2].acquire(lease=60.0)
    order.settle()
    asked, order.now = order.now, order.now + 0.5
    order[1].release(*order[1].held)
    order.settle()
    (held,) = order[2].of(Held)
    assert asked + 59.9 < held.deadline < asked + 60.0


def test_a_waiter_that_has_not_said_so_renews_before_it_begins():
    order = started()
    order[1].acquire(lease=60.0)
    order.settle()
    order[2].acquire(lease=1.0)
    order.settle()
    (first,) = order[1].held
    order.now += 30.0
    order[1].release(first)
    order.deliver(order.said(1), [1, 2, 3])
    assert order[2].held == []
    order.settle()
    assert order[2].of(Held)[0].deadline == pytest.approx(order.now + 0.999)


def test_a_grant_that_never_was_says_nothing_of_the_lease_of_another_one_with_its_token():
    """Server 1, which proposes what is due, did for itself alone what the others did later for somebody else."""
    order = led_by_the_first()
    order[1].acquire(lease=5.0, grace=0.0)
    order.ring([1], [2, 3], tails=[(order.said(1), [1])])
    order.settle()
    order.pass_time(3)
    order[2].acquire(lease=5.0, grace=0.0)
    order.settle()
    (held,) = order[2].of(Held)
    order.ring([1, 2, 3])
    order.settle()
    while order.now < held.deadline - 0.3:
        order.pass_time(0.25)
    assert order[2].of(Ended) == []
    order.pass_time(4)
    assert [ended.why for ended in order[2].of(Ended)] == [Why.EXPIRED]


def test_a_renewal_in_time_keeps_the_lock():
    order = started()
    order[1].acquire()
    order.settle()
    (token,) = order[1].held
    for _ in range(5):
        order.pass_time(3.0)
        order[1].renew(token)
    order.settle()
    assert order[1].held == [token]


# ---- what is lost


def test_a_holder_in_the_minority_is_told_at_once():
    order = started()
    order[1].acquire(lease=60.0)
    order.settle()
    (token,) = order[1].held
    order.ring([1], [2, 3])
    order.settle()
    assert order[1].of(Renounced)[-1].token == token
    assert order[1].held == []


def test_a_lock_behind_a_lost_node_is_free_after_lease_and_grace_and_not_before():
    order = started()
    order[3].acquire(lease=5.0, grace=2.0)
    order.settle()
    order.ring([1, 2])
    del order.rings[3]
    order[1].acquire()
    order.pass_time(6.9)
    assert order[1].held == []
    order.pass_time(0.6)
    assert len(order[1].held) == 1


def test_a_waiter_behind_a_lost_node_is_granted_nothing():
    order = started()
    for node in (1, 3, 2):
        order[node].acquire()
        order.settle()
    order.ring([1, 2])
    del order.rings[3]
    order.settle()
    order[1].release(order[1].held[0])
    order.settle()
    assert len(order[2].held) == 1


def test_a_process_that_has_ended_frees_its_locks_at_once():
    order = started()
    order[1].acquire(lease=600.0)
    order[2].acquire()
    order.settle()
    order[1].connection.lost(order.now, dead=True)
    order.settle()
    assert len(order[2].held) == 1


def test_a_connection_that_is_lost_frees_its_locks_with_their_leases():
    order = started()
    order[1].acquire()
    order[2].acquire()
    order.settle()
    order[1].connection.lost(order.now, dead=False)
    order.pass_time(9.9)
    assert order[2].held == []
    order.pass_time(0.5)
    assert len(order[2].held) == 1


def test_who_does_not_wait_is_told_that_nothing_is_decided_now():
    order = started()
    order.ring([1], [2, 3])
    order.settle()
    request = order[1].acquire(waits=False)
    assert order[1].of(Failed)[-1].request == request
    assert order[1].of(Failed)[-1].not_ready


def test_a_request_of_the_minority_is_kept_and_done_after_the_merge():
    order = started()
    order.ring([1], [2, 3])
    order.settle()
    order[1].acquire()
    order.settle()
    order.ring([1, 2, 3])
    order.settle()
    assert len(order[1].held) == 1


def test_a_request_that_is_withdrawn_before_it_was_given_to_the_group_is_gone():
    order = started()
    order.ring([1], [2, 3])
    order.settle()
    request = order[1].acquire()
    order[1].withdraw(request)
    assert order[1].told[-1].why is Why.WITHDRAWN
    order.ring([1, 2, 3])
    order.settle()
    assert order[1].state.table.ticket(request) is None


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


# ---- what is told at the end of a change


def test_what_was_given_back_during_a_change_is_not_told_as_lost():
    """The release is applied before what the view began with is final: it is told when it is, and as what it was."""
    order = started(5, safe=False)
    order[2].acquire()
    order.settle()
    order.ring([1, 2, 3, 4, 5])
    order[2].release(order[2].held[0])
    order.settle()
    assert [ended.why for ended in order[2].of(Ended)] == [None]


def test_who_leads_is_told_behind_a_change_only_when_it_is_final():
    """The commit is applied before what the view began with is final: nobody hears of it until it is final, too."""
    order = started(5, safe=False)
    order[2].say(Stand(RequestId(Owner(order[2].client, 0), 1), b"head"))
    order[2].say(Observe(b"head"))
    held_back = []
    while not held_back:
        messages = order.said(1, 2, 3, 4, 5)
        held_back = [message for message in messages if _commits(message[1])]
        order.deliver([message for message in messages if message not in held_back], [1, 2, 3, 4, 5])
    order.ring([1, 2, 3, 4, 5])  # and it is said again
    final = []
    watched, on_final = order[2].service, order[2].service.on_final

    def note(number):
        on_final(number)
        final.append((number, len(order[2].of(Leads))))

    watched.on_final = note
    order.settle()
    assert final[0] == (0, 0)
    assert final[-1][1] == 1
    assert [told.leader is not None for told in order[2].of(Leadership)][-1]


def _commits(data):
    said = decode(data)
    return any(isinstance(command, Commit) for command in getattr(said, "commands", ()))


# ---- records


def test_a_shorter_lease_that_is_proposed_next_does_not_displace_a_longer_one():
    """Two servers ask at the same time that disks know of long leases; both are granted."""
    order = started(usual=1.0)
    order[1].acquire(b"long", lease=60.0)
    order[2].acquire(b"short", lease=30.0)
    proposals = order.said(1) + order.said(2)
    order.deliver(proposals, [1, 2, 3])
    order.settle()
    assert len(order[1].held) == 1
    assert len(order[2].held) == 1
