"""Rights: what a client says is done in its own name alone, and by every lock server alike."""

from typing import get_args

import pytest
from msgspec.msgpack import encode

from cluck.commands import (
    Acquire,
    Command,
    EndWait,
    Notify,
    OfClient,
    Owner,
    Publish,
    Release,
    Renew,
    RequestId,
    Resign,
    Stand,
    Wait,
    Withdraw,
)
from cluck.protocol import ClientCommand, Malformed, upward
from cpg.replication.identities import ServerId
from tests.cluck.server.orders import started
from tests.cluck.state.bench import FIRST, HERE, Bench
from tests.cluck.test_commands import examples

ELSEWHERE = ServerId(2, 96)


def name(kind):
    return kind.__name__


class Scene:
    """A holds one lock and leads; B waits for the lock; C waits on a condition."""

    def __init__(self):
        self.bench = bench = Bench()
        self.candidate, _ = bench.stand("A")
        bench.elect(self.candidate)
        self.holding, granted = bench.acquire("A")
        self.token = granted[0].token
        self.waiting, _ = bench.acquire("B")
        self.wait = bench.acquire_and_wait("C", lock="other")
        self.other, granted = bench.acquire("A", "third")
        self.other_token = granted[0].token

    def command(self, kind):
        """Return a command that A, B or C may give."""
        new = self.bench.request("A")
        return {
            Acquire: Acquire(new, b"new"),
            Wait: Wait(new, b"condition", b"third", self.other_token),
            Notify: Notify(new, b"condition"),
            Stand: Stand(new, b"election"),
            Publish: Publish(new, b"election", FIRST, b"blob"),
            Withdraw: Withdraw(self.waiting),
            Release: Release(self.holding, self.token),
            Renew: Renew(self.holding, self.token),
            EndWait: EndWait(self.wait),
            Resign: Resign(self.candidate, FIRST),
        }[kind]

    @property
    def image(self):
        return encode(self.bench.state.image())


@pytest.mark.parametrize("kind", get_args(OfClient), ids=name)
def test_what_comes_in_a_clients_name_from_another_node_is_void(kind):
    scene = Scene()
    before = scene.image
    assert scene.bench.apply(scene.command(kind), ELSEWHERE) == []
    assert scene.image == before
    outcomes = scene.bench.apply(scene.command(kind), HERE)
    assert outcomes, "from its own node it is done"


@pytest.mark.parametrize("kind", [Release, Renew])
def test_a_token_that_is_known_or_guessed_is_no_right(kind):
    """Anybody who looks at the table sees tokens, and knows those that come next."""
    scene = Scene()
    before = scene.image
    mallory = scene.bench.request("M")
    for token in (scene.token, scene.other_token, FIRST, 0):
        for request in (mallory, scene.waiting, scene.wait):
            assert scene.bench.apply(kind(request, token)) == []
    assert scene.image == before


def test_a_token_that_comes_next_is_no_right():
    """It was guessed before anybody had it: no server knows whose it is when it comes from the client."""
    order = started()
    order[1].acquire(b"present")
    order.settle()
    (token,) = order[1].held
    request = order[2].acquire(b"own")
    order[3].acquire(b"wanted")
    for guess in range(token, token + 5):
        order[2].say(Release(request, guess))
        order[2].say(Renew(request, guess))
    order.settle()
    assert order[1].held == [token]
    (granted,) = order[3].held
    assert order[2].state.table.holder(b"wanted", granted).renewals == 0


def test_behind_a_restart_a_server_believes_no_more_than_before():
    order = started(in_process=False, survivors=True)
    order[1].acquire(lease=600.0)
    order.settle()
    (token,) = order[1].held
    order.restart(2)
    mine = RequestId(Owner(order[2].client, 0), 1)
    theirs = RequestId(Owner(order[1].client, 0), 1)
    for command in (Release(theirs, token), Renew(theirs, token), Withdraw(theirs), EndWait(theirs)):
        with pytest.raises(Malformed):
            order[2].say(command)
    order[2].say(Release(mine, token))
    order.ring([1, 2, 3])
    order.settle()
    assert order[1].state.table.holder(b"lock", token) is not None


@pytest.mark.parametrize("kind", [kind for kind in get_args(Command) if kind not in get_args(ClientCommand)], ids=name)
def test_what_lock_servers_propose_is_not_taken_from_clients(kind):
    record = encode([example for example in examples() if type(example) is kind])
    with pytest.raises(Malformed, match="Invalid value"):
        upward(record)


def test_all_that_clients_say_is_in_somebodys_name_but_what_administrators_do():
    anonymous = [kind for kind in get_args(ClientCommand) if kind not in get_args(OfClient)]
    assert [kind.__name__ for kind in anonymous] == ["Force", "ChangeVoters"]
