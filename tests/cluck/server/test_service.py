"""What a lock server does for its clients: elections that it hurries on, leases, connections that end and come back."""

import math

import pytest
from msgspec.structs import replace

from cluck.commands import (
    Acquire,
    Close,
    Commit,
    Ended,
    Gone,
    Leadership,
    Next,
    Notify,
    Owner,
    Publish,
    Queued,
    Refused,
    Renew,
    RequestId,
    Resign,
    RoundOpened,
    Stand,
    Wait,
    Why,
)
from cluck.protocol import (
    VERSION,
    Clock,
    Failed,
    Hello,
    Ignore,
    Leads,
    LockHeld,
    Observe,
    Ping,
    Pong,
    ReadClock,
    Readiness,
)
from cluck.server.election_rounds import PATIENCE, ElectionRounds
from cluck.server.housekeeping import PING, RESUME, TICK
from cluck.server.leases import STANDBY, usable
from cluck.server.replies import MOST_LATE, SILENCE, UNHEARD
from cluck.state import elections
from cluck.state.application import DRIFT
from cluck.state.elections import Stage
from cluck.state.tokens import RESERVE, TOKENS_OF_AN_EPOCH
from cpg.events import Reason
from cpg.replication.electorate import ChangeVoters, Electorate
from cpg.replication.identities import Boot
from tests.cluck.server.orders import Server, decode, started
from tests.cluck.server.steps import steps


def commands(messages, *kinds):
    """Return the commands of these kinds in messages."""
    said = [command for _, data in messages for command in getattr(decode(data), "commands", ())]
    return [command for command in said if isinstance(command, kinds)]


def leader(order, node=1):
    """Return who leads, as a server knows it."""
    return order[node].state.elections.of(b"head").leader


def answer_pings(order, seconds, *nodes):
    """Let time pass in which only the clients of these servers answer, and lead on."""
    for _ in range(int(seconds / PING)):
        order.pass_time(PING)
        for node in nodes:
            order[node].say(Pong())
            order[node].renew_lead()
        order.settle()


def deliver_up_to(order, *kinds):
    """Deliver everything, up to messages with such commands; those are returned instead."""
    nodes = list(order.rings)
    for _ in range(100):
        messages = order.said(*nodes)
        if commands(messages, *kinds):
            return messages
        order.deliver(messages, nodes)
    raise AssertionError("nobody says it")


# ---- elections


def test_a_candidate_leads_and_all_observers_are_informed():
    order = started()
    order[3].say(Observe(b"head"))
    candidate = order[1].stand()
    order.settle()
    (leads,) = order[1].of(Leads)
    assert leads.candidate == candidate
    assert [(told.leader, told.token) for told in order[3].of(Leadership)] == [(None, 0), (candidate, leads.token)]
    order[1].withdraw(candidate)
    order.settle()
    assert order[3].of(Leadership)[-1].leader is None


def stood_in_turn(order, *nodes):
    """Have candidates stand one after the other, and return what each is told of."""
    candidates = []
    for node in nodes:
        candidates.append(order[node].stand())
        order.settle()
    return candidates


def test_who_does_not_answer_pings_is_not_chosen_and_not_waited_for_long():
    """3 has been a candidate for longer than 2, and would be preferred."""
    order = started()
    first, _, second = stood_in_turn(order, 1, 3, 2)
    answer_pings(order, 4, 1, 2)
    assert leader(order) == first
    order[1].withdraw(first)
    order.settle()
    assert leader(order) is None
    answer_pings(order, PATIENCE + 1, 2)
    assert leader(order) == second


def test_a_winner_that_does_not_come_is_replaced():
    """Its connection is lost after it has given its status, before it knows that it has won."""
    order = started()
    first, _, second = stood_in_turn(order, 1, 3, 2)
    order[1].withdraw(first)
    named = deliver_up_to(order, Next)
    order.deliver([message for message in named if not commands([message], Next)], [1, 2, 3])
    order[3].lose()
    answer_pings(order, 2 * PATIENCE + 1, 2)
    assert leader(order) is None or leader(order) == second
    answer_pings(order, 2, 2)
    assert leader(order) == second


def test_only_the_first_leader_of_the_service_hurries_elections():
    order = started()
    order[1].stand()
    order.settle()
    order[1].lose()
    order[2].stand()
    order.settle()
    proposed = []
    for _ in range(12):
        order.now += 0.5
        for node in (1, 2, 3):
            order[node].service.advance(order.now)
        messages = order.said(1, 2, 3)
        proposed += [sender for sender, data in messages if commands([(sender, data)], Close)]
        order.deliver(messages, [1, 2, 3])
        order[2].say(Pong())
        order.settle()
    assert set(proposed) <= {order[1].service.replica.leaders[0]}


def test_a_leader_that_comes_back_learns_that_it_leads_when_it_has_renewed():
    order = started()
    order[1].stand()
    order.settle()
    (leads,) = order[1].of(Leads)
    order[1].lose()
    order.now += 1
    order[1].come_back()
    order[1].told.clear()
    order[1].numbers -= 1
    order[1].stand()
    order.settle()
    assert order[1].of(Leads) == [replace(leads, deadline=0.0)]
    order[1].renew_lead()
    order.settle()
    assert order[1].of(Leads)[1:] == [replace(leads, deadline=order.now + usable(3.0))]


def test_a_server_that_hurries_nobody_remembers_no_elections_that_are_over():
    """The fourth server proposes nothing, and nothing that it hears accumulates there."""
    order = started(4)
    (fourth,) = {server.node_id for server in order.servers.values()} - {
        member.node_id for member in order[1].service.replica.leaders
    }
    for number in range(5):
        candidate = order[1].stand(b"election %d" % number)
        deliver_up_to(order, Commit)  # and it is lost
        order[1].withdraw(candidate)
        order.settle()
    order.pass_time(2)
    assert order[fourth].service.election_rounds.deadline(0) == math.inf


# ---- leases of leaders


def stand_still(order, stopped, seconds, *, step=0.25):
    """Let time pass in which one server does nothing; the clients of the others answer, and lead on."""
    others = [node for node in order.rings if node != stopped]
    end = order.now + seconds
    while order.now < end:
        order.now += step
        for node in others:
            order[node].service.advance(order.now)
            order[node].say(Pong())
            order[node].renew_lead()
        order.settle(*others)
        yield order.now


def test_a_leader_counts_from_when_its_server_asked():
    order = started()
    order[1].stand()
    messages = deliver_up_to(order, Commit)
    asked, order.now = order.now, order.now + 1
    order.deliver(messages, [1, 2, 3])
    order.settle()
    assert [leads.deadline for leads in order[1].of(Leads)] == [asked + usable(3.0)]
    order[1].renew_lead()
    messages = deliver_up_to(order, Renew)
    asked, order.now = order.now, order.now + 1
    order.deliver(messages, [1, 2, 3])
    assert order[1].of(Leads)[-1].deadline == asked + usable(3.0)


def test_what_a_leader_publishes_is_no_renewal():
    """Its server tells it after a change, with what was published, that it still leads."""
    order = started(safe=False)
    candidate = order[1].stand()
    order.settle()
    token = order[1].of(Leads)[0].token
    order.ring([1], [2], [3])
    order.settle()
    order[1].told.clear()
    order[1].say(Publish(candidate._replace(number=2), b"head", token, b"plan"))
    order.ring([1, 2, 3])
    for _ in range(10):  # all say that at once, so that it is done before the view's beginning is final
        order.deliver(order.said(1, 2, 3), [1, 2, 3])
    assert order[1].state.elections.of(b"head").blob == b"plan"
    assert order[1].of(Leads) == [Leads(candidate, token, 0.0)]


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_leader_whose_server_stands_still_is_followed_when_its_lease_is_over(rank):
    """Whichever of the service's leaders that is; its client hears nothing, and leads until its deadline."""
    order = started()
    stopped = order[1].service.replica.leaders[rank].node_id
    others = [node for node in (1, 2, 3) if node != stopped]
    order[stopped].stand()
    order.settle()
    for node in others:
        order[node].stand()
    order.settle()
    began, (leads,) = order.now, order[stopped].of(Leads)
    times = (now for now in stand_still(order, stopped, 20) if any(order[node].of(Leads) for node in others))
    followed = next(times, math.inf)
    assert followed >= began + 3 * (1 + DRIFT) + 1
    assert followed <= began + 3 * (1 + DRIFT) + 1 + STANDBY + 0.25
    assert leads.deadline < followed
    (next_one,) = (order[node].of(Leads)[0] for node in others if order[node].of(Leads))
    assert next_one.token > leads.token


def test_a_round_is_closed_although_the_first_leader_of_the_service_stands_still():
    """And a candidate of its own, which does not answer."""
    order = started()
    first, second, _ = (member.node_id for member in order[1].service.replica.leaders)
    (candidate,) = stood_in_turn(order, second)
    stood_in_turn(order, first, second)
    order[second].withdraw(candidate)
    list(stand_still(order, first, PATIENCE + STANDBY + 0.25))
    chosen = leader(order, second)
    assert chosen is not None
    assert chosen.owner.client == order[second].client


def test_a_leader_that_was_taken_for_lost_learns_it_and_leads_again_under_another_token():
    order = started()
    order[3].stand()
    order.settle()
    (leads,) = order[3].of(Leads)
    list(stand_still(order, 3, 6))
    order.pass_time(1)
    assert order[3].of(Leads)[1] == replace(leads, token=0, deadline=0.0)
    assert order[3].of(Leads)[2].token > leads.token


def test_a_leader_behind_a_lost_node_is_followed_when_its_lease_is_over_and_not_before():
    order = started()
    _, second = stood_in_turn(order, 3, 1)
    end = order.now + 3 * (1 + DRIFT) + 1
    order.ring([1, 2], [3])
    order.settle()
    assert order[3].of(Leads)[-1].token == 0
    assert leader(order) is None
    answer_pings(order, 3, 1)
    order.pass_time(end - order.now - 0.001)
    assert leader(order) is None
    order.pass_time(0.001)
    assert leader(order) == second


FORMER = Boot("machine", "1")


def restarted(order, boot):
    """Node 3 was lost, with a client that held a lock for long and led; it comes back on this run of a machine."""
    order[3].stand()
    order[3].acquire(lease=60.0)
    order.settle()
    first, _ = stood_in_turn(order, 1, 2)
    order[1].acquire()
    order.ring([1, 2], [3])
    order.settle()
    order.restart(3, boot=boot)
    order.ring([1, 2, 3])
    order.settle()
    return first


@pytest.mark.parametrize("safe", [True, False])
def test_where_a_machine_runs_anew_its_locks_and_leaderships_are_free_at_once(safe):
    order = started(safe=safe, boot=FORMER)
    next_one = restarted(order, Boot("machine", "2"))
    assert len(order[1].held) == 1
    assert leader(order) == next_one


@pytest.mark.parametrize(
    ("former", "boot"),
    [(FORMER, FORMER), (FORMER, Boot("another machine", "2")), (FORMER, None), (None, Boot("machine", "2"))],
    ids=["the same run", "another machine", "not told", "not known before"],
)
def test_what_does_not_prove_that_a_machine_runs_anew_frees_nothing(former, boot):
    order = started(boot=former)
    restarted(order, boot)
    assert order[1].held == []
    assert leader(order) is None


def test_which_machines_runs_are_remembered_for_those_who_have_clients():
    order = started(boot=FORMER)
    former = order[3].service.server
    restarted(order, Boot("machine", "2"))
    boots = order[1].state.boots
    assert former not in boots
    assert set(boots) == {server.service.server for server in order.servers.values()}


def test_a_leader_whose_program_has_ended_is_followed_at_once():
    order = started()
    _, second = stood_in_turn(order, 3, 1)
    order[3].lose(dead=True)
    order.settle()
    assert leader(order) == second


def test_who_is_next_waits_for_the_end_of_a_long_lease():
    order = started()
    order[3].stand(lease=20.0)
    order.settle()
    order[1].stand()
    order.settle()
    order.ring([1, 2], [3])
    order.settle()
    election = order[1].state.elections.by_name[b"head"]
    round = election.round
    answer_pings(order, 20, 1)
    assert election.waits
    assert election.round == round, "nobody is asked again for that"
    answer_pings(order, 2, 1)
    assert order[1].of(Leads)


def test_a_client_that_is_lost_while_it_leads_leads_to_the_end_of_its_lease():
    order = started()
    candidate = order[3].stand(lease=60.0)
    order.settle()
    order[3].lose()
    order.pass_time(RESUME + 5)
    assert leader(order) == candidate
    order.pass_time(60)
    assert order[1].state.elections.by_name == {}
    assert order[3].client not in order[3].service.clients


def test_a_round_goes_on_whatever_the_leader_publishes():
    """The round is one for a successor, and somebody does not answer in it."""
    order = started()
    stood_in_turn(order, 1, 2, 3)
    order.pass_time(2)
    order[2].lose()
    order.now += 0.5
    for node in (1, 2, 3):
        order[node].service.advance(order.now)
    order.settle()
    election = order[1].state.elections.by_name[b"head"]
    assert election.stage is Stage.ASKED
    order[1].numbers += 1
    order[1].say(
        Publish(RequestId(Owner(order[1].client, 0), order[1].numbers), b"head", order[1].of(Leads)[0].token, b"plan")
    )
    order[3].say(Pong())
    order.settle()
    order.pass_time(PATIENCE + 0.25)
    assert election.stage is Stage.NAMED


def test_what_a_server_that_has_ended_leaves_is_free_although_the_first_leader_stands_still():
    order = started()
    stopped = order[1].service.replica.leaders[0].node_id
    node = next(node for node in (1, 2, 3) if node != stopped)
    beside = order.join(node, 77)
    order.settle()
    assert order[1].service.replica.leaders[0].node_id == stopped
    beside.acquire()
    order.settle()
    order.end((node, 77), Reason.PROCDOWN)
    order.settle()
    assert order[node].state.table.locks
    list(stand_still(order, stopped, STANDBY + TICK))
    assert order[node].state.table.locks == {}


def test_an_epoch_begins_although_the_first_leader_stands_still():
    order = started()
    stopped = order[1].service.replica.leaders[0].node_id
    for server in order.servers.values():
        server.state.tokens.drawn = TOKENS_OF_AN_EPOCH - RESERVE
    epoch = order[1].state.tokens.epoch
    list(stand_still(order, stopped, 5))
    assert {server.state.tokens.epoch for server in order.servers.values()} == {epoch + 1}


def test_epochs_begin_in_a_view_in_which_something_else_was_stored_before():
    order = started()
    for node in (1, 2, 3):
        order[node].acquire(str(node).encode(), lease=1000.0 * node)
        order.settle()
    epoch = order[1].state.tokens.epoch
    for count in (1, 2):
        for server in order.servers.values():
            server.state.tokens.drawn = TOKENS_OF_AN_EPOCH - RESERVE
        order.pass_time(5)
        assert {server.state.tokens.epoch for server in order.servers.values()} == {epoch + count}


# ---- leases


def test_a_change_of_the_ring_gives_nobody_more_time():
    order = started()
    order[3].acquire(lease=5.0, grace=1.0)
    order.settle()
    order.ring([1, 2], [3])
    order.settle()
    order[1].acquire()
    order.pass_time(4)
    order.ring([1, 2])
    order.settle()
    order.pass_time(1.5)
    assert order[1].held == []
    order.pass_time(1)
    assert len(order[1].held) == 1


def test_where_the_first_leader_stands_still_another_one_proposes_what_is_over():
    order = started()
    _, second, third = (member.node_id for member in order[1].service.replica.leaders)
    order[third].acquire(lease=5.0, grace=0.0)
    order.settle()
    order[second].acquire()
    order.settle()
    end = order.now + 5 + STANDBY
    while order.now < end + 2:
        order.now += 0.5
        for node in (second, third):
            order[node].service.advance(order.now)
        order.settle()
        assert order[second].held == [] or order.now > end
    assert len(order[second].held) == 1


# ---- connections


def test_a_client_that_comes_back_is_known_by_its_secret_alone():
    order = started()
    order[1].acquire()
    order.settle()
    order[1].lose()
    assert order[1].come_back(b"guessed").client != order[1].client
    assert not order[1].of(Ended)
    assert order[1].come_back().was_resumed


def test_a_client_that_does_not_come_back_waits_for_nothing_any_more_and_holds_to_the_end_of_its_lease():
    order = started()
    order[1].acquire(b"held", lease=60.0)
    order[2].acquire(b"wanted", lease=60.0)
    order.settle()
    waiting = order[1].acquire(b"wanted")
    order.settle()
    order[1].lose()
    order.pass_time(RESUME - 1)
    assert order[3].state.table.ticket(waiting) is not None
    order.pass_time(2)
    assert order[3].state.table.ticket(waiting) is None
    assert order[3].state.table.holder(b"held", order[1].held[0]) is not None


def test_a_client_that_comes_back_in_time_waits_on():
    order = started()
    order[2].acquire(b"wanted", lease=60.0)
    order.settle()
    waiting = order[1].acquire(b"wanted")
    order.settle()
    order[1].lose()
    order.pass_time(RESUME - 1)
    order[1].come_back()
    order.pass_time(5)
    assert order[3].state.table.ticket(waiting) is not None
    order[2].release(order[2].held[0])
    order.settle()
    assert {held.request for held in order[1].of(LockHeld)} == {waiting}  # again, if it renews as it begins


def outlived():
    """The client of server 1 holds a lock for a minute, and its server has been restarted."""
    order = started(in_process=False)
    request = order[1].acquire(lease=60.0)
    order.settle()
    former = order[1]
    order.restart(1)
    return order, former, request


def test_what_an_earlier_life_of_its_server_granted_a_client_outlives_its_connection():
    order, former, request = outlived()
    order.ring([1, 2, 3])
    order.settle()
    order[1].come_back(former=former)
    order[1].lose()
    order.pass_time(RESUME + 2)
    assert order[2].state.table.ticket(request) is not None
    order.pass_time(60)
    assert order[2].state.table.ticket(request) is None
    assert not order[1].service.clients.keys() & {former.client}


def test_a_client_that_asked_whether_it_still_holds_and_was_lost_unheard_holds():
    order, former, request = outlived()
    order.ring([1], [2, 3])
    order.settle()
    order[1].come_back(former=former)
    order[1].say(Acquire(request, b"lock", lease=60.0))
    order[1].lose()
    order.pass_time(RESUME + 2)
    order.ring([1, 2, 3])
    while not order[1].service.replica.is_primary:
        order.deliver(order.said(1, 2, 3), [1, 2, 3])
    order[1].service.advance(order.now + 1)
    order.settle()
    assert order[2].state.table.ticket(request) is not None


def test_a_client_that_was_away_while_its_server_was_cut_off_still_holds():
    order = started()
    request = order[1].acquire(lease=60.0)
    order.settle()
    order[1].lose()
    order.ring([1], [2, 3])
    order.pass_time(RESUME + 2)
    order.ring([1, 2, 3])
    order.pass_time(2)
    assert order[2].state.table.ticket(request) is not None


@pytest.mark.parametrize("reason", [Reason.LEAVE, Reason.PROCDOWN])
def test_clients_that_lived_in_a_server_that_has_ended_free_their_locks_at_once(reason):
    order = started()
    other = order.join(1, 2)
    order.settle()
    other.acquire()
    order.settle()
    order[2].acquire()
    order.settle()
    order.end((1, 2), reason)
    order.settle()
    order.pass_time(1)
    assert len(order[2].held) == 1


def test_clients_of_a_daemon_that_has_ended_may_be_alive():
    order = started(in_process=False)
    other = order.join(1, 2)
    order.settle()
    other.acquire(lease=5.0, grace=0.0)
    order.settle()
    order[2].acquire()
    order.settle()
    order.end((1, 2), Reason.PROCDOWN)
    order.settle()
    order.pass_time(4.5)
    assert order[2].held == []
    order.pass_time(1)
    assert len(order[2].held) == 1


def test_what_a_client_asks_again_after_its_goodbye_is_nobodys():
    order = started()
    request = order[1].acquire()
    order.settle()
    order[1].lose(dead=True)
    order.settle()
    assert order[2].state.clients_of(order[1].service.server) == []
    assert order[2].state.table.ticket(request) is None


@pytest.mark.parametrize("again", [0, 1, 2])
def test_what_was_withdrawn_before_the_group_heard_of_it_never_comes(again):
    """However often its client came back and requested it again."""
    order = started()
    order[1].acquire(b"held")
    order.settle()
    order.ring([1], [2, 3])
    order.settle()
    request = order[1].acquire()
    for _ in range(again):
        order[1].lose()
        order[1].come_back()
        order[1].say(Acquire(request, b"lock"))
    order[1].withdraw(request)
    assert [refused.request for refused in order[1].of(Refused)] == [request]
    order.ring([1, 2, 3])
    order.settle()
    assert order[2].state.table.ticket(request) is None


def test_a_client_without_requests_is_unknown_to_the_group():
    """Otherwise clients that come and go while this server is cut off would accumulate."""
    order = started()
    order.ring([1], [2, 3])
    order.settle()
    for dead in (False, True):
        connection = order[1].service.connect(lambda said: None)
        connection.receive([Hello(VERSION)], order.now)
        connection.lost(order.now, dead=dead)
    assert order[1].service.clients.keys() == {order[1].client}
    order.ring([1, 2, 3])
    while messages := order.said(1, 2, 3):
        assert not commands(messages, Gone)
        order.deliver(messages, [1, 2, 3])


def test_nobody_is_asked_for_pongs_that_does_not_stand():
    order = started()
    order[1].stand()
    order.pass_time(3)
    assert order[1].of(Ping)
    assert not order[2].of(Ping)


def test_the_place_in_a_queue_is_reported_when_it_changes_and_not_again():
    order = started()
    order[2].acquire()
    order[3].acquire()
    order.settle()
    order[1].acquire()
    order.settle()
    order.pass_time(3)
    assert [queued.ahead for queued in order[1].of(Queued)] == [2]
    order[2].release(order[2].held[0])
    order.pass_time(3)
    assert [queued.ahead for queued in order[1].of(Queued)] == [2, 1]


def test_a_client_gets_the_clock():
    order = started()
    order.now += 7
    order[1].say(ReadClock())
    assert order[1].of(Clock) == [Clock(order.now)]


@pytest.mark.parametrize("say", [Server.release, Server.renew])
def test_what_is_said_of_a_lock_that_was_lost_meanwhile_is_answered(say):
    """It waited until the view was primary again, and by then the lease had ended."""
    order = started()
    order[1].acquire(lease=2.0, grace=0.0)
    order.settle()
    (token,) = order[1].held
    order.ring([1], [2, 3])
    say(order[1], token)
    order.pass_time(3)
    order.ring([1, 2, 3])
    order.settle()
    assert [(ended.token, ended.why) for ended in order[1].of(Ended)] == [(token, Why.EXPIRED)]


def test_a_candidate_that_renews_a_leadership_that_is_over_stands_on():
    """Also where another state is born, which its server has to tell it again."""
    order = started()
    request = order[1].stand()
    order.settle()
    order[1].say(Renew(request, order[1].of(Leads)[-1].token - 1))
    order.settle()
    for node in (2, 3):
        order.restart(node)
    order.ring([1, 2, 3])
    order.pass_time(20)
    assert order[1].ready
    assert order[2].state.elections.present(request)


def test_a_withdrawal_is_answered_whatever_there_was():
    order = started()
    order[2].acquire()
    order.settle()
    waiting = order[1].acquire()
    order.settle()
    order[1].withdraw(waiting)
    order.settle()
    assert order[1].of(Refused)[-1].why is Why.WITHDRAWN
    order[1].withdraw(waiting)
    order.settle()
    assert len(order[1].of(Refused)) == 2


# ---- what elections cost


def have_clients(order, count):
    """Have this many clients of the first server, each a candidate in an election of its own, and an observer of it."""
    for number in range(count):
        heard = []
        connection = order[1].service.connect(heard.append)
        connection.receive([Hello(VERSION)], order.now)
        request = RequestId(Owner(heard[0].client, 0), 1)
        election = b"%d" % number
        connection.receive([Observe(election), Stand(request, election)], order.now)
        order.settle()


def test_a_change_of_who_leads_is_no_matter_of_other_elections():
    """The work for one election does not grow with the clients that are in others. The work at a view's beginning does
    not grow with the square of them.
    """

    def cost(count):
        order = started()
        have_clients(order, count)
        first = order[1].stand()
        order.settle()
        order[1].say(Observe(b"head"))
        token = order[1].of(Leads)[-1].token
        resigned = steps(lambda: (order[1].say(Resign(first, token)), order.settle()))
        assert order[1].of(Leads)[-1].token > token
        return resigned, steps(lambda: (order.ring([1, 2, 3]), order.settle()))

    (few, few_in_view), (many, many_in_view) = cost(10), cost(80)
    assert many < 1.1 * few
    assert many_in_view < 10 * few_in_view


def test_to_observe_costs_the_same_however_much_is_not_final_yet():
    def cost(count):
        order = started()
        for number in range(count):
            order[1].service._replies.note(1_000_000, Leadership(b"%d" % number, None), None)
        return steps(lambda: order[1].say(Observe(b"head")))

    assert cost(1000) == cost(10)


def test_a_server_whose_messages_do_not_come_back_is_not_ready():
    """For example, the daemon of its ring hangs: the view is what it was, and nobody says that it is of no use."""
    order = started()
    server = order[1]

    def stand_still(seconds):
        server.service.take(order.now)  # and none of it is delivered
        for _ in range(int(seconds / TICK)):
            order.now += TICK
            server.service.advance(order.now)

    stand_still(2 * SILENCE)
    assert server.ready, "nothing was said"
    server.acquire()
    stand_still(SILENCE)
    assert server.ready
    stand_still(TICK)
    assert server.service.readiness == (False, UNHEARD)
    assert server.told[-1] == Readiness(False, UNHEARD)
    order.ring([1, 2, 3])
    order.settle()
    assert server.ready
    assert server.of(Readiness)[-1] == Readiness(True, "")
    assert len(server.held) == 1


def test_an_observer_learns_who_leads_while_the_ring_stands_still():
    order = started()
    order[1].stand()
    order.settle()
    server = order[2]
    server.acquire()
    held_up = server.service.take(order.now)
    order.now += SILENCE + 2 * TICK
    server.service.advance(order.now)
    assert server.service.readiness == (False, UNHEARD)
    server.say(Observe(b"head"))
    assert server.of(Leadership)[-1].leader is not None
    order.deliver([(server.member, data) for data in held_up], [1, 2, 3])
    assert server.ready, "what was said has come back"


@pytest.mark.parametrize("waits", [False, True])
def test_a_lock_whose_lease_is_always_over_before_its_grant_is_final_is_released(waits):
    order = started()
    request = order[1].acquire(b"lock", lease=0.2)
    if waits:
        order.settle()
        wait = Wait(request._replace(number=2), b"news", b"lock", order[1].held[0])
        order[1].say(wait)
        order.settle()
        request = wait.request
        order[2].say(Notify(RequestId(Owner(order[2].client, 0), 1), b"news"))
    turns = 0
    while said := order.said(1, 2):
        order.now += 0.3
        order.deliver(said, [1, 2, 3])
        turns += 1
        assert turns < 100
    assert turns > MOST_LATE
    assert request not in {held.request for held in order[1].of(LockHeld)}
    assert order[3].state.table.ticket(request) is None
    if waits:
        assert order[1].of(Ended)[-2:][0].why is Why.EXPIRED
    else:
        (failed,) = order[1].of(Failed)
        assert failed.request == request
        assert failed.not_ready
        assert "its lease of 0.2 s is over" in failed.text
    order[2].numbers = 1
    order[2].acquire(b"lock")
    order.settle()
    assert order[2].held


def test_when_a_round_is_late_costs_the_same_however_many_are_open():
    server = started()[1].service.server

    def cost(count):
        rounds = ElectionRounds(server, {})
        for number in range(count):
            list(rounds.on_outcome(RoundOpened(b"%d" % number, 1, ()), now=float(number)))
        return steps(lambda: (rounds.deadline(0), list(rounds.due(0.5, {}, 0))))

    assert cost(1000) == cost(10)


def test_nothing_is_kept_of_elections_that_no_client_has_to_do_with_any_more(monkeypatch):
    monkeypatch.setattr(elections, "MOST_CANDIDATES", 1)
    order = started()
    service = order[1].service
    one = order[1].stand()
    order.settle()
    other = order[1].stand()
    order.settle()
    assert order[1].of(Refused) == [Refused(other, Why.OVERFLOW)]
    (local,) = service.clients.values()
    assert local.candidates.keys() == service._audiences[b"head"].candidates.keys() == {one}
    order[1].say(Observe(b"another"))
    order[1].say(Observe(b"head"))
    order[1].withdraw(one)
    order[1].say(Ignore(b"another"))
    order.settle()
    assert service._audiences.keys() == {b"head"}
    order[1].lose(dead=True)
    assert service._audiences == service.clients == {}


def test_a_change_of_voters_that_is_asked_for_while_nobody_decides_waits():
    order = started()
    order.ring([1], [2, 3])
    order.settle()
    order[1].say(ChangeVoters(2, Electorate({1: 1, 2: 1})))
    order.ring([1, 2, 3])
    order.settle()
    assert order[3].state.voters.electorate == Electorate({1: 1, 2: 1})
