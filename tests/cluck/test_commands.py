"""The commands of locks: an example of each, and the limits that all of them are held to."""

import random
from typing import get_args

import pytest

from cluck.commands import (
    Acquire,
    ClientId,
    Close,
    Command,
    Commit,
    Depose,
    EndWait,
    Expire,
    Force,
    Gone,
    Next,
    Notify,
    Owner,
    Publish,
    Release,
    Renew,
    RequestId,
    Resign,
    Revoke,
    Stand,
    Status,
    Still,
    Wait,
    Withdraw,
)
from cluck.protocol import ClientCommand, Malformed, held_to_limits, records, upward
from cluck.state.application import CODEC
from cpg.replication.electorate import ChangeVoters, Electorate
from cpg.replication.identities import ServerId
from cpg.replication.wire import Commands, MalformedMessage
from tests.cpg.replication.values import Maker, Spoiler

encode, decode = CODEC.encode, CODEC.decode
CLIENT = ClientId(ServerId(1, 2), 3)
REQUEST = RequestId(Owner(CLIENT, 4), 5)


def examples():
    """Return one command of each kind."""
    return [
        Acquire(REQUEST, b"lock"),
        Withdraw(REQUEST),
        Release(REQUEST, 6),
        Renew(REQUEST, 6),
        Revoke(b"lock", 6, 0),
        Expire(b"lock", 6, 0),
        Force(b"lock", 6),
        ChangeVoters(2, Electorate({1: 1, 2: 3}, 2)),
        Gone(CLIENT),
        Still(REQUEST),
        Wait(REQUEST, b"condition", b"lock", 6),
        Notify(REQUEST, b"condition"),
        EndWait(REQUEST),
        Stand(REQUEST, b"election"),
        Status(REQUEST, 1, 2.0, 3.0),
        Close(b"election", 1),
        Next(b"election", 1, REQUEST),
        Commit(b"election", 1, REQUEST),
        Resign(REQUEST, 6),
        Depose(b"election", 1, REQUEST),
        Publish(REQUEST, b"election", 6, b"blob"),
    ]


def name(kind):
    return kind.__name__


def test_there_is_an_example_of_each():
    assert {type(example) for example in examples()} == set(get_args(Command))


@pytest.mark.parametrize("kind", get_args(Command), ids=name)
def test_what_is_within_the_limits_is_read_by_every_server(kind):
    """So nothing that a lock server makes from what it has decoded can be malformed to another one."""
    maker = Maker(random.Random(kind.__name__))
    for _ in range(100):
        said = Commands(1, 2, [maker.make(kind)])
        assert decode(encode(said)) == said


@pytest.mark.parametrize("kind", get_args(Command), ids=name)
def test_what_is_beyond_a_limit_is_no_command_and_harms_no_other(kind):
    spoiler = Spoiler(random.Random(kind.__name__))
    before, after = examples()[0], examples()[-1]
    for _ in range(200):
        spoiled = spoiler.spoil(kind)
        with pytest.raises(MalformedMessage) as malformed:
            decode(encode(Commands(1, 2, [before, spoiled, after])))
        assert malformed.value.rest == Commands(1, 2, [before, after]), spoiled


@pytest.mark.parametrize("kind", get_args(ClientCommand), ids=name)
def test_a_client_is_held_to_the_same_limits_wherever_it_lives(kind):
    maker, spoiler = (made(random.Random(kind.__name__)) for made in (Maker, Spoiler))
    for _ in range(100):
        command = maker.make(kind)
        assert list(held_to_limits([command])) == [command]
        spoiled = spoiler.spoil(kind)
        for entry in (held_to_limits, lambda said: upward(b"".join(records(said)))):
            with pytest.raises(Malformed):
                list(entry([spoiled]))


WITH_FIELDS = [kind for kind in CODEC.kinds if name(kind) not in ("Commands", "Forgive")]


@pytest.mark.parametrize("kind", WITH_FIELDS, ids=name)
def test_messages_between_servers_have_limits_too(kind):
    maker, spoiler = (made(random.Random(kind.__name__)) for made in (Maker, Spoiler))
    for _ in range(100):
        said = maker.make(kind)
        assert decode(encode(said)) == said
        with pytest.raises(MalformedMessage) as malformed:
            decode(encode(spoiler.spoil(kind)))
        assert malformed.value.rest is None


def test_a_message_with_a_malformed_head_is_ignored():
    for head in ((-1, 2), (1, "2"), (1, 1 << 63)):
        with pytest.raises(MalformedMessage) as malformed:
            decode(encode(Commands(*head, examples())))
        assert malformed.value.rest is None
