"""The log of a ring's changes: one line for each, in virtual time."""

import logging
import re
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from cpg.change_log import INTERVAL, MOST, NOTHING, Changes, Line, Pace
from cpg.testing import World
from totem.config import Config, Quorum
from totem.configuration import RingId
from totem.errors import RingLost
from totem.interruption import Interruption
from totem.log_fields import fields_of
from totem.testing.cluster import Cluster
from totem.transitions import Cause

CONFIG = Config.for_nodes(3, quorum=Quorum(provider="corosync_votequorum"))


@pytest.fixture
async def world(caplog):
    """Three nodes, of which the first two run."""
    caplog.set_level(logging.INFO)
    world = World(3, config=CONFIG)
    async with running(world, 1), running(world, 2):
        await trio.sleep(2)
        yield world


@asynccontextmanager
async def running(world, node):
    async with world.open_ring(node) as ring:
        await ring.wait_members(node)
        yield ring


async def come_and_die(world, caplog):
    async with running(world, 3):
        caplog.clear()
        world.crash(3)
        await trio.sleep_forever()


def told(caplog, node):
    """Return what a node has logged since the last call: levels, and texts with `T` for times."""
    own = [(record.levelname, record.getMessage()) for record in caplog.records]
    caplog.clear()
    prefix = f"node {node}: "
    return [
        (level, re.sub(r"\d+\.\d{3} s", "T", text.removeprefix(prefix)))
        for level, text in own
        if text.startswith(prefix)
    ]


def told_to_programs(caplog, node):
    """Return the events that a node has logged since the last call, without the seconds, which must be positive."""
    own = [dict(fields_of(record)) for record in caplog.records]
    caplog.clear()
    events = [fields for fields in own if fields.pop("node", None) == node]
    assert all(0 <= fields.pop("seconds") < 60 for fields in events if "seconds" in fields)
    return events


NO_CHANGE = {"lost": (), "left": (), "came": (), "came_back": (), "pause": 0.0}


async def test_programs_get_the_same_as_fields(autojump_clock, world, caplog):
    votes = {"event": "quorum", "expected_votes": 3, "highest_expected": 3, "quorum": 2}
    came = {"event": "ring", "ring": "1.9", "members": (1, 2), **NO_CHANGE, "came": (2,), "cause": "join_received"}
    assert told_to_programs(caplog, 1) == [
        {"event": "ring", "ring": "1.5", "members": (1,)},
        {**votes, "quorate": False, "total_votes": 1},
        came,
        {**votes, "quorate": True, "total_votes": 2},
    ]
    async with running(world, 3):
        await trio.sleep(5)
        assert told_to_programs(caplog, 1) == [{**came, "ring": "1.d", "members": (1, 2, 3), "came": (3,)}]
    await trio.sleep(5)
    left = {**came, **NO_CHANGE, "ring": "1.11", "left": (3,), "cause": "leave_received"}
    assert told_to_programs(caplog, 1) == [left]
    world.pause(2)
    await trio.sleep(12)
    lost = {**came, **NO_CHANGE, "ring": "1.15", "members": (1,), "lost": (2,), "cause": "token_lost"}
    assert told_to_programs(caplog, 1)[0] == lost
    world.resume(2)
    await trio.sleep(5)
    back = told_to_programs(caplog, 2)[0]
    assert (back["members"], back["came_back"]) == ((1, 2), (1,))
    assert 10 < back["pause"] < 20


async def test_nodes_start_and_votes_become_enough(autojump_clock, world, caplog):
    assert told(caplog, 1) == [
        ("INFO", "ring 1.5 of node 1"),
        ("WARNING", "not quorate; votes: 1 of 3 expected, 2 needed"),
        ("INFO", "ring 1.9 of nodes 1 2; node 2 came; no ring for T: a processor would join"),
        ("INFO", "quorate; votes: 2 of 3 expected, 2 needed"),
    ]


async def test_a_node_comes_and_leaves(autojump_clock, world, caplog):
    caplog.clear()
    async with running(world, 3):
        await trio.sleep(5)  # in which nothing is logged
        came = "ring 1.d of nodes 1 2 3; node 3 came; no ring for T: a processor would join"
        assert told(caplog, 1) == [("INFO", came)]
    await trio.sleep(5)
    assert told(caplog, 1) == [("INFO", "ring 1.11 of nodes 1 2; node 3 left; no ring for T: a member leaves")]


async def test_a_node_dies_and_comes_back(autojump_clock, world, caplog):
    with pytest.raises(RingLost):
        await come_and_die(world, caplog)
    await trio.sleep(1)
    lost = "ring 1.11 of nodes 1 2; node 3 lost; no ring for T: a member's process has ended"
    assert told(caplog, 1) == [("WARNING", lost)]
    async with running(world, 3):
        await trio.sleep(1)
        assert told(caplog, 1)[0][1].startswith("ring 1.16 of nodes 1 2 3; node 3 came;")


async def test_a_node_is_cut_off_and_votes_are_too_few(autojump_clock, world, caplog):
    caplog.clear()
    world.partition({1}, {2})
    await trio.sleep(12)
    assert told(caplog, 1) == [
        ("WARNING", "ring 1.d of node 1; node 2 lost; no ring for T: the token was lost on the installed ring"),
        ("WARNING", "not quorate; votes: 1 of 3 expected, 2 needed"),
    ]
    world.heal()
    await trio.sleep(5)
    (level, ring), quorum = told(caplog, 1)
    assert level == "INFO"
    assert re.fullmatch(r"ring \S+ of nodes 1 2; node 2 came; no ring for T: .*", ring)
    assert quorum == ("INFO", "quorate; votes: 2 of 3 expected, 2 needed")


async def test_a_node_that_was_away_so_briefly_that_no_ring_was_without_it(autojump_clock, world, caplog):
    """Its groups have ended nevertheless."""
    with pytest.raises(RingLost):
        await come_and_die(world, caplog)
    async with running(world, 3):
        await trio.sleep(10)
        (change,) = told(caplog, 1)
        assert change[0] == "WARNING"
        assert "of nodes 1 2 3; node 3 came back; no ring for" in change[1]


async def test_a_ring_that_breaks_and_comes_again_as_it_was(autojump_clock, world, caplog):
    caplog.clear()
    world.pause(2)
    await trio.sleep(4.5)
    world.resume(2)
    await trio.sleep(5)
    assert told(caplog, 1) == [
        ("INFO", "ring 1.d of nodes 1 2; the same nodes; no ring for T: the token was lost on the installed ring")
    ]


async def test_a_node_that_stood_still_says_so_with_the_ring_that_comes_of_it(autojump_clock, world, caplog):
    world.pause(2)
    await trio.sleep(12)
    caplog.clear()
    world.resume(2)
    await trio.sleep(5)
    assert not [text for text in caplog.messages if text.startswith("node 1:") and "not run" in text]
    ((level, text),) = told(caplog, 2)
    assert level == "WARNING"
    assert re.search(r"node 1 came back; no ring for T: .*; this process was not run for 1\d\.\d s$", text)

    await trio.sleep(60)
    async with running(world, 3):  # a later change has nothing to do with it
        await trio.sleep(5)
        ((level, text),) = told(caplog, 2)
        assert (level, "not run" in text) == ("INFO", False)


def test_nobody_came_to_the_first_ring_of_a_node():
    cause = Interruption(Cause.JOIN_RECEIVED, 0.0, frozenset(), 0.0)
    assert Changes().ring(RingId(3, 4), (2, 3), (3,), cause)[:2] == (False, "ring 3.4 of nodes 2 3")


def test_the_log_of_a_ring_does_not_end_with_the_sync_of_one_that_was_left():
    cluster = Cluster(2)
    cluster.start()
    cluster.run_for(10)
    machine = cluster.nodes[1].machine
    machine.syncing = True
    machine.gather(Cause.TOKEN_LOST, cluster.now)
    machine.sync_complete(machine.ring.id)
    assert machine.interruption(cluster.now).cause is Cause.TOKEN_LOST


async def test_a_ring_that_breaks_all_the_time_does_not_fill_the_log(autojump_clock, world, caplog):
    """The last line is logged nevertheless, with the number of those that were not."""
    await trio.sleep(INTERVAL)
    caplog.clear()
    for _ in range(3 * MOST):
        async with running(world, 3):
            await trio.sleep(0.1)
        await trio.sleep(0.1)
    assert len(told(caplog, 1)) == MOST
    await trio.sleep(INTERVAL)
    (fields,) = (fields_of(record) for record in caplog.records if record.getMessage().startswith("node 1: "))
    assert (fields["left"], fields["unlogged"]) == ((3,), 5 * MOST - 1)
    ((_, last),) = told(caplog, 1)
    assert re.search(rf"of nodes 1 2; node 3 left; .* \({5 * MOST - 1} changes before it were not logged\)$", last), (
        last
    )


def test_one_change_that_was_not_logged_is_counted_in_the_singular():
    pace = Pace()
    for _ in range(MOST + 2):
        pace.line(Line(False, "a change"), 0.0)
    assert pace.line(NOTHING, INTERVAL).text == "a change (1 change before it was not logged)"
    assert pace.line(NOTHING, 2 * INTERVAL) is NOTHING


async def test_a_sync_that_is_stuck_is_logged_with_the_silent_nodes(autojump_clock, world, caplog, monkeypatch):
    async with running(world, 3) as ring:
        statistics = replace(ring._engine_statistics(), syncs_overdue=1, silent=(1, 2))
        monkeypatch.setattr(ring._engine, "statistics", lambda: statistics)
        caplog.clear()
        await trio.sleep(2 * CONFIG.consensus)  # in which it is looked at
        assert told_to_programs(caplog, 3) == [{"event": "sync_stuck", "silent": (1, 2)}]
