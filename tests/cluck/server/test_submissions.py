"""What clients say to a server while nobody decides: what matters is kept and done later, the rest takes no room."""

import pytest
from msgspec.structs import replace

from cluck.commands import (
    MOST_UNSETTLED,
    Acquire,
    Ended,
    EndWait,
    Force,
    Gone,
    Owner,
    Publish,
    Refused,
    Release,
    Renew,
    RequestId,
    Resign,
    Withdraw,
)
from cluck.protocol import VERSION, Failed, Hello
from cluck.server import submissions
from cluck.server.submissions import MOST_FOLLOWUPS
from cpg.replication.wire import Commands
from tests.cluck.server.orders import decode, started


def cut_off(order):
    order.ring([1], [2, 3])
    order.settle()
    return order[1].service._submissions


def holding():
    """A client of server 1 holds a lock, which one of server 2 waits for."""
    order = started()
    request = order[1].acquire(lease=600.0)
    order.settle()
    order[2].acquire()
    order.settle()
    return order, request, order[1].held[0]


def other(server):
    """Another client of a server."""
    told = []
    connection = server.service.connect(told.append)
    connection.receive([Hello(VERSION)], server.order.now)
    return connection, told[0].client


def test_what_is_said_again_and_again_is_kept_once():
    order, request, token = holding()
    kept = cut_off(order)
    for command in (Renew(request, token), EndWait(request), Release(request, token), Withdraw(request)):
        for _ in range(1000):
            order[1].say(replace(command))
    assert [type(command) for command in kept._waiting.values()] == [Renew, EndWait, Release, Withdraw]
    order.ring([1, 2, 3])
    order.settle()
    assert order[2].held, "and it is done when there is somebody to do it"


def test_what_is_said_of_nothing_is_not_kept_and_answered():
    order, request, token = holding()
    kept = cut_off(order)
    for number in range(1000):
        made_up = RequestId(request.owner, 7000 + number)
        for command in (Renew(made_up, token), Release(made_up, token), Withdraw(made_up), Resign(made_up, token)):
            order[1].say(command)
    assert not kept._waiting
    assert not kept._shares.taken
    assert [withdrawn.request.number for withdrawn in order[1].of(Refused)] == [*range(7000, 8000)]
    assert [ended.request.number for ended in order[1].of(Ended)] == sorted([*range(7000, 8000)] * 2)


def test_a_candidate_that_the_group_may_have_heard_of_is_withdrawn_there():
    order = started()
    request = order[1].stand()
    order.said(1)  # and nobody hears it
    cut_off(order)
    order[1].withdraw(request)
    order.ring([1, 2, 3])
    order.settle()
    assert not order[1].state.elections.present(request)
    assert order[1].of(Refused)[-1].request == request


def test_a_server_without_a_state_keeps_a_limited_number_of_words_of_a_client():
    """It cannot know yet what matters: a former life may have granted it."""
    order = started(in_process=False, survivors=True)
    order.restart(1)
    for number in range(1, 2 * MOST_FOLLOWUPS):
        order[1].say(Withdraw(RequestId(Owner(order[1].client, 0), number)))
    connection, client = other(order[1])
    connection.receive([Withdraw(RequestId(Owner(client, 0), 1))], order.now)
    assert len(order[1].service._submissions._waiting) == MOST_FOLLOWUPS + 1


def test_there_is_room_for_so_much_of_all(monkeypatch):
    monkeypatch.setattr(submissions, "MOST_KEPT", 5)
    order, request, token = holding()
    order[1].stand()
    order.settle()
    kept = cut_off(order)
    requests = [order[1].acquire(b"%d" % number) for number in range(8)]
    order[1].say(Renew(request, token))
    order[1].say(Force(b"lock", token))
    assert kept._shares.taken == len(kept._waiting) == 5
    assert [failed.request for failed in order[1].of(Failed)] == requests[5:]
    order[1].withdraw(requests[0])
    order[1].say(Renew(request, token))
    assert kept._shares.taken == len(kept._waiting) == 5


def test_no_user_takes_all_the_room(monkeypatch):
    monkeypatch.setattr(submissions, "MOST_KEPT", 80)
    order = started()
    kept = cut_off(order)
    failed = {}
    for user in (1000, 1000, 1001, 0):
        told = []
        connection = order[1].service.connect(told.append, user=user)
        connection.receive([Hello(VERSION)], order.now)
        for number in range(1, 60):
            request = RequestId(Owner(told[0].client, 0), number)
            connection.receive([Acquire(request, b"%d" % number)], order.now)
        failed[user] = [said for said in told if isinstance(said, Failed)]
    assert kept._shares.of(1000) == 35
    assert 0 < kept._shares.of(1001) < 35
    assert kept._shares.of(0) > 10, "some of it is kept for administrators"
    assert len(kept._waiting) == 80
    assert failed[1000]


def test_what_is_long_takes_more_room():
    order = started()
    candidate = order[1].stand()
    order.settle()
    token = order[1].state.elections.of(b"head").token
    kept = cut_off(order)
    requests = [RequestId(candidate.owner, candidate.number + number) for number in range(1, 301)]
    for request in requests:
        order[1].say(Publish(request, b"head", token, bytes(64 * 1024)))
    assert kept._shares.taken == 300 * 65
    order.ring([1, 2, 3])
    sizes = [len(data) for _, data in _all_said(order) if isinstance(decode(data), Commands)]
    assert sum(sizes) > 300 * 64 * 1024
    assert max(sizes) < 1 << 20, "a message that is too long would end the server"
    assert not kept._shares.taken


def _all_said(order):
    """Return everything that is said from now on, until nothing more is."""
    said = []
    while messages := order.said(1, 2, 3):
        said += messages
        order.deliver(messages, [1, 2, 3])
    return said


def test_a_client_has_a_limit_of_open_requests_whatever_it_calls_settled():
    order = started()
    cut_off(order)
    for number in range(1, 2 * MOST_UNSETTLED):
        order[1].say(Acquire(RequestId(Owner(order[1].client, 0), number), b"%d" % number, settled=number - 1))
    assert len(order[1].service.clients[order[1].client].open) == MOST_UNSETTLED
    assert len(order[1].of(Failed)) == MOST_UNSETTLED - 1


@pytest.mark.parametrize("dead", [False, True])
def test_of_those_that_come_and_go_unheard_nothing_is_left(dead):
    order = started()
    kept = cut_off(order)
    for _ in range(10):
        connection, client = other(order[1])
        request = RequestId(Owner(client, 0), 1)
        connection.receive([Acquire(request, b"lock")], order.now)
        connection.lost(order.now, dead=dead)
    assert not kept._waiting
    assert order[1].service.clients.keys() == {order[1].client}
    order.ring([1, 2, 3])
    for _, data in _all_said(order):
        said = decode(data)
        assert not isinstance(said, Commands) or not any(isinstance(command, Gone) for command in said.commands)
    assert not order[2].state.table.locks


def test_what_was_given_to_the_group_of_a_client_that_is_gone_ends_with_it():
    order, request, _ = holding()
    cut_off(order)
    order[1].lose(dead=True)
    order.ring([1, 2, 3])
    order.settle()
    assert order[2].held
    assert order[2].state.table.ticket(request) is None
