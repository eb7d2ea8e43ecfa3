"""The log says who decides about locks: one line for each change, in virtual time."""

import logging
import re
from types import SimpleNamespace

import pytest
import trio

from cluck.commands import Ended, Force, Owner, RequestId, Resign, Stand
from cluck.protocol import Leads, LockHeld, Pong
from cluck.server.change_log import PATIENCE, ChangeLog
from cluck.server.replies import UNHEARD
from cpg.replication.electorate import Electorate, Voters
from cpg.replication.replica import Phase, ReplicaSettings
from cpg.testing import World
from tests.cluck.server.test_host import Memory, Talker, serving
from totem.errors import RingLost
from totem.log_fields import fields_of

PLENTY = 30
"""Seconds after which everything has settled."""


@pytest.fixture
async def world(caplog):
    """Three nodes, of which the first two run lock servers."""
    caplog.set_level(logging.INFO)
    world = World(3)
    world.disks = {node: Memory() for node in (1, 2, 3)}
    async with serving(world, 1, world.disks[1]), serving(world, 2, world.disks[2]):
        await trio.sleep(PLENTY)
        yield world


def told(caplog, node):
    """Return what a lock server has logged since the last time: levels, and texts with `T` for times."""
    own = [record for record in caplog.records if record.name == "cluck.server.host"]
    caplog.clear()
    prefix = f"node {node}: "
    return [
        (record.levelname, re.sub(r"\d+\.\d{3} s", "T", text.removeprefix(prefix)))
        for record in own
        if (text := record.getMessage()).startswith(prefix)
    ]


def told_to_programs(caplog, node):
    """Return the events that a lock server has logged since the last time, without the seconds, which must be there."""
    own = [dict(fields_of(record)) for record in caplog.records if record.name == "cluck.server.host"]
    caplog.clear()
    events = [fields for fields in own if fields.pop("node") == node]
    assert all(0 <= fields.pop("seconds") < 2 * PLENTY for fields in events if "seconds" in fields)
    return events


ALL_THREE = "the lock servers of nodes 1 2 3 decide; "
TWO = "the lock servers of nodes 1 2 decide; "
FEW = "no locks are granted: "


async def test_a_first_start(autojump_clock, world, caplog):
    waits = ("WARNING", f"{FEW}a first start needs all lock servers: nothing from node 3")
    assert told(caplog, 1) == [
        ("WARNING", f"{FEW}too few lock servers are here: nothing from node 2, 3"),
        waits,
    ]
    async with serving(world, 3, world.disks[3]):
        await trio.sleep(PLENTY)
        assert told(caplog, 1) == [
            ("INFO", f"{FEW}a first state is being stored"),
            ("INFO", f"{ALL_THREE}nothing was decided for T"),
        ]
    await trio.sleep(PLENTY)
    assert told(caplog, 1) == [("INFO", f"{TWO}node 3 left; node 3 missing; nothing was decided for T")]
    async with serving(world, 3, world.disks[3]):
        await trio.sleep(PLENTY)
        assert told(caplog, 1) == [("INFO", f"{ALL_THREE}node 3 came; nothing was decided for T")]
        assert told(caplog, 3) == []  # they are read once


async def test_programs_get_the_same_as_fields(autojump_clock, world, caplog):
    few, all_needed = told_to_programs(caplog, 1)
    why = "too few lock servers are here: nothing from node 2, 3"
    assert few == {"event": "no_locks", "phase": "minority", "why": why}
    assert all_needed["why"].startswith("a first start needs all lock servers")
    decide = {"event": "lock_servers", "members": (1, 2, 3), "lost": (), "left": (), "came": (), "missing": ()}
    two = {**decide, "members": (1, 2), "missing": (3,)}
    async with serving(world, 3, world.disks[3]):
        await trio.sleep(PLENTY)
        birth, first = told_to_programs(caplog, 1)
        assert (birth["event"], birth["phase"], first) == ("no_locks", "birth", decide)
    await trio.sleep(PLENTY)
    assert told_to_programs(caplog, 1) == [{**two, "left": (3,)}]
    with pytest.raises(RingLost):
        await come_and_die(world, caplog)
    await trio.sleep(PLENTY)
    assert told_to_programs(caplog, 1) == [{**two, "lost": (3,)}]
    async with serving(world, 3, world.disks[3], ReplicaSettings(electorate=Electorate({2: 1, 3: 1}))):
        await trio.sleep(PLENTY)
        difference, came = told_to_programs(caplog, 1)
    assert difference["event"] == "difference"
    assert difference["why"].startswith("node 3 is configured with other lock servers: 2, 3;")
    assert came == {**decide, "came": (3,)}


async def come_and_die(world, caplog):
    async with serving(world, 3, world.disks[3]):
        await trio.sleep(PLENTY)
        caplog.clear()
        world.crash(3)
        await trio.sleep_forever()


async def test_a_node_dies(autojump_clock, world, caplog):
    with pytest.raises(RingLost):
        await come_and_die(world, caplog)
    await trio.sleep(PLENTY)
    assert told(caplog, 2) == [("WARNING", f"{TWO}node 3 lost; node 3 missing; nothing was decided for T")]


async def test_a_node_is_cut_off(autojump_clock, world, caplog):
    async with serving(world, 3, world.disks[3]):
        await trio.sleep(PLENTY)
        caplog.clear()
        world.partition({1, 2}, {3})
        await trio.sleep(PLENTY)
        few = f"{FEW}too few lock servers are here: nothing from node 1, 2"
        assert told(caplog, 3) == [("WARNING", few)]
        world.heal()
        await trio.sleep(PLENTY)
        assert told(caplog, 3) == [("INFO", f"{ALL_THREE}nothing was decided for T")]


def test_a_view_that_does_not_come_to_decide_is_logged_once():
    """Nobody is missing, but something is not answered."""
    changes = ChangeLog(0.0)
    replica = SimpleNamespace(phase=Phase.ROUND, why="servers have not reported yet", differences=(), voters=None)
    assert not changes.news(replica, None, PATIENCE)
    assert texts(changes.news(replica, None, PATIENCE + 1)) == [f"{FEW}servers have not reported yet"]
    replica.why = "the state of node 1 is being sent to servers that have another one"
    assert not changes.news(replica, None, PATIENCE + 1000)


def deciding(electorate):
    """A server that decides."""
    servers = [SimpleNamespace(node_id=node) for node in electorate.votes]
    voters = Voters(1, 1, electorate)
    return SimpleNamespace(phase=Phase.PRIMARY, why="", differences=(), servers=servers, voters=voters)


def texts(lines):
    return [line.text for line in lines]


def test_a_ring_that_does_not_move_is_logged_once_and_then_for_how_long():
    changes, replica = ChangeLog(0.0), deciding(Electorate({1: 1}))
    decide = "the lock servers of node 1 decide; nothing was decided for "
    assert texts(changes.news(replica, None, 1.0)) == [f"{decide}1.000 s"]
    assert texts(changes.news(replica, 10.0, 14.0)) == [f"{FEW}{UNHEARD}"]
    assert not changes.news(replica, 10.0, 1000.0)
    assert texts(changes.news(replica, None, 1000.0)) == [f"{decide}990.000 s"]
    assert not changes.news(replica, None, 1001.0)


def test_a_change_of_voters_is_logged_when_it_is_in_force():
    changes, replica = ChangeLog(0.0), deciding(Electorate({1: 1, 2: 1}))
    assert len(changes.news(replica, None, 1.0)) == 1
    replica.voters = replica.voters.changing(Electorate({1: 1, 2: 1, 3: 1}))
    assert not changes.news(replica, None, 2.0)
    replica.voters = replica.voters.changed()
    text = "the lock servers that vote are 1, 2, 3 from now on, and no longer 1, 2"
    assert texts(changes.news(replica, None, 3.0)) == [text]
    assert not changes.news(replica, None, 4.0)


async def test_who_is_configured_otherwise_is_named_once(autojump_clock, world, caplog):
    async with serving(world, 3, world.disks[3]):
        await trio.sleep(PLENTY)
    await trio.sleep(PLENTY)
    told(caplog, 1)
    other = ReplicaSettings(electorate=Electorate({2: 1, 3: 1}))
    async with serving(world, 3, world.disks[3], other):
        await trio.sleep(PLENTY)
        named = "node 3 is configured with other lock servers: 2, 3; that changes nothing, those in force are 1, 2, 3"
        named += "; `cluck voters` changes them"
        assert told(caplog, 1)[0] == ("WARNING", named)
        assert told(caplog, 1) == []


async def test_a_leadership_is_logged_at_the_server_of_its_client(autojump_clock, world, caplog):
    async with serving(world, 3, world.disks[3]) as three, trio.open_nursery() as nursery:
        await trio.sleep(PLENTY)
        one = Talker(three)
        nursery.start_soon(answer_pings, one)
        caplog.clear()
        candidate = RequestId(Owner(one.client, 0), 1)
        one.say(Stand(candidate, b"he\nad"))
        leads = await one.hear(Leads)
        await trio.sleep(1)
        fields = {"event": "leadership", "node": 3, "election": "he\nad"}
        leading = {"leads": True, "client": 1, "client_program": "", "token": leads.token, "decides": True}
        assert elections_for_programs(caplog) == [{**fields, **leading}]
        assert elections(caplog) == [rf"election he\nad: client 1 () leads, token {leads.token}"]
        one.say(Resign(candidate, leads.token))
        again = await one.hear(Leads)
        while not again.token:
            again = await one.hear(Leads)
        await trio.sleep(0.1)
        assert elections(caplog) == [
            rf"election he\nad: client 1 () leads no more, token {leads.token}",
            rf"election he\nad: client 1 () leads, token {again.token}",
        ]
        world.partition({1, 2}, {3})
        await trio.sleep(PLENTY)
        ended = {**leading, "leads": False, "token": again.token, "decides": False}
        assert elections_for_programs(caplog) == [{**fields, **ended}]
        text = rf"election he\nad: client 1 () leads no more, since this server does not decide, token {again.token}"
        assert elections(caplog) == [text]
        nursery.cancel_scope.cancel()


async def answer_pings(talker):
    while True:
        await trio.sleep(1)
        talker.say(Pong())


def elections_for_programs(caplog):
    """Return the same for programs; `elections` forgets them."""
    return [fields_of(record) for record in caplog.records if record.getMessage().startswith("election ")]


def elections(caplog):
    """Return what was logged of elections since the last time."""
    texts = [text for text in caplog.messages if text.startswith("election ")]
    caplog.clear()
    return texts


async def test_a_lock_taken_by_force_is_logged_at_every_server(autojump_clock, world, caplog):
    async with serving(world, 3, world.disks[3]) as three:
        await trio.sleep(PLENTY)
        one = Talker(three)
        one.acquire(b"back\nup")
        held = await one.hear(LockHeld)
        caplog.clear()
        one.say(Force(b"back\nup", held.token))
        await one.hear(Ended)
        await trio.sleep(1)
        for node in (1, 2, 3):
            (record,) = (record for record in caplog.records if fields_of(record)["node"] == node)
            fields = {"event": "lock_forced", "node": node, "lock": "back\nup", "token": held.token, "by_node": 3}
            assert fields_of(record) == fields
            assert r"lock 'back\nup' was taken by force" in record.getMessage()
