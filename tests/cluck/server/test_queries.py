"""Questions of clients: whatever they ask, and however often, one part of an answer is made in a turn."""

import json
from contextlib import suppress

import pytest

from cluck.protocol import (
    MOST_OBSERVED,
    MOST_QUESTIONS,
    VERSION,
    Answer,
    Ask,
    Hello,
    Ignore,
    Malformed,
    Observe,
)
from cluck.server import queries
from cluck.server.queries import PART
from tests.cluck.server.orders import started


def with_locks(count):
    """Return an order in which a client of server 1 holds this many locks, with long names."""
    order = started()
    for number in range(count):
        order[1].acquire(b"%04d" % number + bytes(900))
    order.settle()
    return order


def ask(server, *numbers, question="tickets"):
    server.connection.receive([Ask(number, question) for number in numbers], server.order.now)


def take(server, turns=1):
    """Return what was answered in this many turns."""
    before = len(server.of(Answer))
    for _ in range(turns):
        server.service.take(server.order.now)
    return server.of(Answer)[before:]


def test_an_answer_is_made_as_it_is_sent(monkeypatch):
    made = []
    holder = queries._holder
    monkeypatch.setattr(queries, "_holder", lambda *about: made.append(about) or holder(*about))
    order = with_locks(200)
    one = order[1]
    ask(one, 1)
    parts = []
    while one.service.deadline <= one.service.now:
        parts += take(one)
        assert sum(len(part.body) for part in parts) <= len(parts) * PART
        assert len(made) <= len(parts) * PART / 900
    assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert len(parts) > 2
    known = json.loads(b"".join(part.body for part in parts))
    assert known == one.service.answer("tickets")
    assert [lock["name"][:4] for lock in known] == [f"{number:04}" for number in range(200)]


def test_locks_that_come_and_go_meanwhile_are_shown_or_not():
    order = with_locks(200)
    one = order[1]
    ask(one, 1)
    take(one)
    for token in one.held[::2]:
        one.release(token)
    order.settle()
    while not one.of(Answer)[-1].is_last:
        take(one)
    parts = one.of(Answer)
    known = json.loads(b"".join(part.body for part in parts))
    assert 100 <= len(known) < 200


def test_clients_are_answered_in_turn():
    order = with_locks(200)
    one, other = order[1], []
    another = one.service.connect(other.append)
    another.receive([Hello(VERSION)], order.now)
    ask(one, *range(1, 9))
    another.receive([Ask(1, "status")], order.now)
    take(one, turns=1)
    assert len([part for part in (*one.told, *other) if isinstance(part, Answer)]) == 1
    take(one, turns=1)
    assert [part.number for part in other if isinstance(part, Answer)] == [1]


def test_a_client_that_does_not_read_is_sent_nothing_more():
    order = with_locks(200)
    one = order[1]
    local = one.service.clients[one.client]
    is_behind = True
    local.is_behind = lambda: is_behind
    ask(one, 1, 2)
    assert take(one, turns=9) == []
    assert one.service.deadline > order.now, "nothing is done in vain"
    is_behind = False
    assert take(one)


def test_a_client_has_a_limit_of_open_questions():
    order = with_locks(200)
    one = order[1]
    ask(one, *range(MOST_QUESTIONS))
    with suppress(Malformed):
        ask(one, 99)
        raise AssertionError("it has asked for too much")
    while not take(one)[-1].is_last:
        pass
    ask(one, 99)


def test_questions_end_with_their_connection():
    order = with_locks(200)
    one = order[1]
    ask(one, *range(MOST_QUESTIONS))
    one.lose()
    assert take(one, turns=3) == []
    one.come_back()
    ask(one, *range(MOST_QUESTIONS))
    assert len(take(one)) == 1


def test_what_is_no_question_is_answered():
    order = started()
    ask(order[1], 1, question="nonsense")
    (answer,) = take(order[1])
    assert "'nonsense' is no question" in json.loads(answer.body)["error"]


@pytest.mark.parametrize("question", ["tickets", "elections", "conditions", "leaders"])
def test_where_there_is_nothing_the_answer_is_a_list(question):
    order = started()
    assert isinstance(order[1].service.answer(question), list)


def test_a_client_observes_a_limited_number_of_elections():
    order = started()
    for number in range(MOST_OBSERVED):
        order[1].say(Observe(b"%d" % number))
    order[1].say(Observe(b"0"))
    with pytest.raises(Malformed, match="other elections observed"):
        order[1].say(Observe(b"another"))
    order[1].say(Ignore(b"0"))
    order[1].say(Observe(b"another"))
