"""What one user's programs may take of what all clients have together."""

import pytest

from cluck.commands import Acquire, Owner, Publish, RequestId, Stand, Wait
from cluck.protocol import VERSION, Failed, Hello, Leads, LockHeld
from cluck.state import conditions, elections, lock_table, request_history
from tests.cluck.server.orders import started


class Program:
    """A client of a user."""

    def __init__(self, order, user, node=1):
        self.told = []
        self.order = order
        self.connection = order[node].service.connect(self.told.append, user=user)
        self.connection.receive([Hello(VERSION)], order.now)
        self.owner = Owner(self.told[0].client, 0)
        self.number = 0

    def say(self, kind, *fields, **more):
        self.number += 1
        self.connection.receive([kind(RequestId(self.owner, self.number), *fields, **more)], self.order.now)
        self.order.settle()

    def name(self, number):
        """Return a name that no other program has."""
        return b"%d of %d" % (number, self.owner.client.number)

    def of(self, kind):
        return [said for said in self.told if type(said) is kind]

    @property
    def failed(self):
        return self.of(Failed)


def acquire(program, number):
    program.say(Acquire, program.name(number))


def stand(program, number):
    program.say(Stand, program.name(number))


def wait(program, number):
    acquire(program, number)
    held = program.of(LockHeld)[-1]
    program.say(Wait, program.name(number), program.name(number), held.token)


CASES = [
    (lock_table, "MOST_TICKETS", acquire, "places at locks"),
    (conditions, "MOST_WAITERS", wait, "places at conditions"),
    (elections, "MOST_STANDING", stand, "candidates"),
    (elections, "MOST_ELECTIONS", stand, "elections"),
]


@pytest.mark.parametrize(("room", "most", "ask", "what"), CASES, ids=[what for *_, what in CASES])
def test_no_user_takes_all_of_what_is_for_everybody(monkeypatch, room, most, ask, what):
    monkeypatch.setattr(room, most, 80)
    order = started()
    greedy = [Program(order, 1000), Program(order, 1000)]
    for number in range(40):
        for program in greedy:
            ask(program, number)
    text = f"the programs of this user have as much as stays free for others: {what}"
    assert {failed.text for program in greedy for failed in program.failed} == {text}
    assert sum(len(program.failed) for program in greedy) == 80 - 35, "half of what is not kept for administrators"
    other = Program(order, 1001)
    ask(other, 0)
    assert not other.failed
    administrator = Program(order, 0)
    for number in range(40):
        ask(administrator, number)
    assert not administrator.failed


def test_one_user_of_several_servers_leaves_something(monkeypatch):
    monkeypatch.setattr(lock_table, "MOST_TICKETS", 80)
    order = started()
    for node in (1, 2, 3):
        program = Program(order, 1000, node)
        for number in range(60):
            acquire(program, number)
    other = Program(order, 1001)
    acquire(other, 0)
    assert not other.failed


def test_leaders_of_one_user_do_not_attach_all_that_may_be(monkeypatch):
    monkeypatch.setattr(elections, "MOST_PUBLISHED", 8000)
    order = started()
    program, other = Program(order, 1000), Program(order, 1001)
    for one, count in ((program, 8), (other, 1)):
        for number in range(count):
            stand(one, number)
            one.say(Publish, one.name(number), one.of(Leads)[-1].token, bytes(1000))
    text = "the programs of this user have as much as stays free for others: bytes that leaders attach"
    assert [failed.text for failed in program.failed] == [text] * 4
    assert not other.failed


def test_answers_to_one_user_do_not_fill_the_room(monkeypatch):
    monkeypatch.setattr(request_history, "MOST_ANSWERS", 80)
    order = started()
    Program(order, 0).say(Acquire, b"lock")
    program, other = Program(order, 1000), Program(order, 1001)
    for one, count in ((program, 60), (other, 1)):
        for _ in range(count):
            one.say(Acquire, b"lock", waits=False)
    assert len(program.failed) == 60 - 35
    assert not other.failed
