"""Rings of real Corosync nodes and ours: who is first, who comes, who goes, who is lost; always one order."""

import re
from contextlib import asynccontextmanager
from itertools import cycle

import pytest
import trio
import trio.testing

from tests.interop.cast import Cast, company_of, last, ring_of

PATIENCE = 120
QUICK = {"token": 1000, "totem": ("token_coefficient: 0",)}
"""Timeouts for tests that wait for them."""
CHATTER = "chatter 200 100 4000"


def long(*values):
    """A set of parameters for `make interop` only."""
    return pytest.param(*values, marks=pytest.mark.long)


VICTIMS = pytest.mark.parametrize("victim", [1, 2, long(3)])
"""Node 2 of three is ours, so a victim is the real representative, ours, or a real node with a higher id."""


async def said(capfd, pattern):
    """Wait until one of our nodes has written this to its standard error."""
    text = ""
    with trio.move_on_after(60):
        while not re.search(pattern, text):
            await trio.sleep(0.1)
            text += capfd.readouterr().err
        return
    pytest.fail(f"ours never said {pattern!r}, but: {text}")


@asynccontextmanager
async def cast(ring, real):
    """Programs on a ring whose places `real` have Corosync; at the end what they wrote down is checked."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            programs = Cast(ring, nursery, real)
            yield programs
            await programs.finish()


@pytest.mark.parametrize("real", [(1, 2), (1, 3), (2, 3), (1,), (2,), (3,)], ids=str)
async def test_a_ring_comes_together(mixed_ring, real):
    ring = mixed_ring(3)
    async with cast(ring, real) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        await programs.say("send 1 10 100 1000 10000 100000")
        await programs.together(1, 2, 3)
        await programs.check_health(1, 2, 3)


@pytest.mark.parametrize("ours", [(1,), long((2, 3)), long((3,)), long((1, 2))], ids=str)
async def test_real_nodes_join_a_ring_of_ours_at_work(mixed_ring, ours):
    ring = mixed_ring(3)
    real = [k for k in (1, 2, 3) if k not in ours]
    async with cast(ring, real) as programs:
        await programs.start(*ours)
        await programs.together(*ours)
        before = programs.rings_at(ours[0])
        await programs.say(CHATTER)
        await programs.heard(200)
        for count, k in enumerate(real, 1):
            await programs.start(k)
            await programs.together(*sorted([*ours, *real[:count]]))
            await programs.heard(200)
        await programs.quiet()
        await programs.together(1, 2, 3)
        await programs.check_health(1, 2, 3)
        assert programs.rings_at(ours[0]) == before + len(real), "the ring changed when nobody came"


@pytest.mark.parametrize(
    ("transport", "real"),
    [
        ("udpu", (1, 2)),
        ("udp", (1, 2)),
        long("udpu", (2, 3)),
        long("udp", (2, 3)),
        long("knet", (1, 2)),
        long("knet", (2, 3)),
    ],
    ids=str,
)
async def test_nodes_join_a_ring_at_work_and_leave_it(mixed_ring, transport, real):
    ring = mixed_ring(3, transport=transport)
    ours, theirs = {1, 2, 3}.difference(real).pop(), real[0]
    async with cast(ring, real) as programs:
        await programs.start(*real)
        await programs.together(*real)
        before = programs.rings_at(real[1])
        await programs.say(CHATTER)
        for _ in range(2):
            await programs.start(ours)
            await programs.together(1, 2, 3)
            await programs.heard(200)
            await programs.leave(ours)
            await programs.together(*real)
        await programs.start(ours)
        await programs.together(1, 2, 3)
        await programs.leave(theirs)
        await programs.together(*sorted({1, 2, 3} - {theirs}))
        await programs.start(theirs)
        await programs.together(1, 2, 3)
        await programs.quiet()
        await programs.together(1, 2, 3)
        await programs.check_health(
            1, 2, 3, besides="Discarding (JOIN|LEAVE) message during flush"
        )  # theirs do that to each other
        changes = 7
        assert programs.rings_at(real[1]) == before + changes, "the ring changed when nobody came or left"


@VICTIMS
async def test_a_node_is_killed_and_comes_back(mixed_ring, victim):
    ring = mixed_ring(3, **QUICK)
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        await programs.say(CHATTER)
        await programs.heard(200)
        await programs.kill(victim)
        await programs.together(*sorted({1, 2, 3} - {victim}))
        await programs.heard(200)
        await programs.start(victim)
        await programs.together(1, 2, 3)
        await programs.quiet()
        await programs.together(1, 2, 3)
        await programs.check_health(1, 2, 3)


@VICTIMS
async def test_a_node_stands_still_for_longer_than_the_token_timeout(mixed_ring, victim):
    ring = mixed_ring(3, **QUICK)
    others = sorted({1, 2, 3} - {victim})
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        await programs.say(CHATTER)
        await programs.heard(200)
        programs.pause(victim)
        for k in others:
            await programs.programs[k].until(ring_of(*others))
        await programs.heard(200, *others)
        programs.resume(victim)
        await programs.together(1, 2, 3)
        await programs.quiet()
        await programs.together(1, 2, 3)
        await programs.check_health(1, 2, 3)


@pytest.mark.parametrize("parts", [((1, 2), (3,)), long(((1, 3), (2,))), long(((1,), (2, 3)))], ids=str)
async def test_a_partition_and_a_merge_with_messages_on_their_way(mixed_ring, parts):
    ring = mixed_ring(3, **QUICK)
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        await programs.say(CHATTER)
        await programs.heard(200)
        for _ in range(2):
            ring.network.split(*parts)
            for part in parts:
                await programs.together(*part)
                await programs.heard(100, *part)
            ring.network.heal()
            await programs.together(1, 2, 3)
            await programs.heard(100)
        await programs.quiet()
        await programs.together(1, 2, 3)
        await programs.check_health(1, 2, 3)


@pytest.mark.parametrize("transport", ["udpu", long("knet")])
@pytest.mark.parametrize(("lost", "poor"), [(1, 2), long(3, 2), (2, 1), long(2, 3)], ids=str)
async def test_what_a_lost_node_sent_is_recovered_from_those_who_have_it(mixed_ring, transport, lost, poor):
    """One node gets no messages, only tokens, and the sender dies: the third one has what it needs.

    No more than fit into one visit of the token: what the poor one asks for again takes the place of new frames.
    """
    ring = mixed_ring(3, transport=transport, **QUICK)
    rich = ({1, 2, 3} - {lost, poor}).pop()
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        ring.network.drop(poor, kind="mcast")
        await programs.say("send" + 20 * " 600", lost)
        await programs.programs[rich].until(_has_all_of_600)
        await programs.kill(lost)
        ring.network.heal()
        await programs.together(*sorted({1, 2, 3} - {lost}))
        assert _has_all_of_600(programs.programs[poor].events)


def _has_all_of_600(events):
    return sum(event["event"] == "message" and event["data"].startswith("600:") for event in events) == 20


@pytest.mark.parametrize("netmtu", [long(600), 1500, long(9000)])
async def test_messages_of_all_sizes(mixed_ring, netmtu):
    ring = mixed_ring(3, totem=(f"netmtu: {netmtu}",), mtu=max(1500, netmtu))
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        before = ring.rings_at(1)
        sizes = [0, 1, 2, *range(netmtu - 250, netmtu, 10), 3 * netmtu, 70_000, 1_047_552, 1_047_553, 3_000_000]
        await programs.say(f"send {' '.join(map(str, sizes))}")
        await programs.together(1, 2, 3)
        await programs.say(f"send {16 << 20}", 1, 2)
        await programs.together(1, 2, 3)
        assert ring.rings_at(1) == before, "the ring changed, though nothing had happened to it"
        await programs.check_health(1, 2, 3)


async def test_a_network_that_loses_packets(mixed_ring):
    ring = mixed_ring(3, **QUICK)
    ring.network.one_by_one()
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        for k in (1, 2, 3):
            ring.network.drop(k, percent=5)
        await programs.say("chatter 50 100 4000")
        await programs.heard(1000)
        await programs.quiet()
        ring.network.heal()
        await programs.together(1, 2, 3)
        await programs.check_health(1, 2, 3)


@pytest.mark.parametrize(("source", "target"), [(1, 2), long(2, 1), long(2, 3), long(1, 3)], ids=str)
async def test_a_cut_in_one_direction(mixed_ring, source, target):
    """One node does not hear another: whatever rings come of it, all is well afterwards."""
    ring = mixed_ring(3, **QUICK)
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        await programs.say(CHATTER)
        await programs.heard(100)
        ring.network.drop(target, source=source)
        bystander = ({1, 2, 3} - {source, target}).pop()
        mark = len(programs.programs[bystander].events)
        await programs.programs[bystander].until(lambda events: last(events[mark:], "ring"))
        ring.network.heal()
        await programs.together(1, 2, 3)
        await programs.quiet()
        await programs.together(1, 2, 3)
        await programs.check_health(1, 2, 3, besides="FAILED TO RECEIVE")


@pytest.mark.parametrize("sender", [1, long(3)])
async def test_a_port_of_the_switch_whose_mtu_becomes_small(mixed_ring, capfd, sender):
    """The token passes and large frames do not: they go in pieces, and the ring says why, and does not change (D6).

    One message alone, since a train of frames is one packet on these links, which passes whatever their MTU is.
    """
    ring = mixed_ring(3, **QUICK)
    async with cast(ring, ()) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        before = programs.rings_at(1)
        ring.network.narrow(3, 1300)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(programs.heard, 1)
            await trio.testing.wait_all_tasks_blocked()
            await programs.say("send 1350", sender)
        await said(capfd, r"do not reach node \d, the largest that do have 130\d: all nodes of the ring cut")
        ring.network.narrow(3, 1500)
        await programs.together(1, 2, 3)
        assert programs.rings_at(1) == before, "the ring changed"


async def test_frames_shrink_to_what_a_port_of_the_switch_carries(mixed_ring, capfd):
    """A port that was narrow before the ring was formed costs no member, and what does not pass is named."""
    ring = mixed_ring(3, **QUICK)
    ring.network.narrow(3, 1300)
    ring.network.one_by_one()
    async with cast(ring, ()) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        await said(capfd, r"do not reach node 3, the largest that do have 1300: all nodes of the ring cut")
        before = programs.rings_at(1)
        await programs.say("send 1350 70000 1350")
        await programs.together(1, 2, 3)
        assert programs.rings_at(1) == before, "the ring changed"


@pytest.mark.long
async def test_five_nodes_come_and_go_for_two_minutes(mixed_ring):
    ring = mixed_ring(5, **QUICK)
    end = trio.current_time() + 120
    with trio.fail_after(600):
        async with trio.open_nursery() as nursery:
            programs = Cast(ring, nursery, (1, 3, 5))
            await programs.start(1, 2, 3, 4, 5)
            await programs.together(1, 2, 3, 4, 5)
            await programs.say(CHATTER)
            victims = cycle((1, 2, 3, 4, 5, 2, 4))
            while trio.current_time() < end:
                victim = next(victims)
                rest = [k for k in (1, 2, 3, 4, 5) if k != victim]
                await programs.heard(100)
                await programs.kill(victim)
                await programs.together(*rest)
                await programs.start(victim)
                await programs.programs[victim].until(company_of(1, 2, 3, 4, 5))
                await programs.say(CHATTER, victim)
                await programs.together(1, 2, 3, 4, 5)
            await programs.quiet()
            await programs.together(1, 2, 3, 4, 5)
            await programs.check_health(1, 2, 3, 4, 5)
            await programs.finish()


async def test_one_of_ours_is_added_to_a_running_cluster(mixed_ring):
    """The steps of docs/corosync.md."""
    ring = mixed_ring(3)
    whole = {k: path.read_text() for k, path in ring.config.items()}
    for k in (1, 2):
        ring.config[k].write_text(re.sub(r"node \{\n    nodeid: 3\n[^}]*\}\n", "", whole[k]))
    async with cast(ring, (1, 2)) as programs:
        await programs.start(1, 2)
        await programs.together(1, 2)
        assert "nodelist.node.2.nodeid" not in ring.cmap(1, "nodelist.")
        for k in (1, 2):
            ring.config[k].write_text(whole[k])
        ring.place(1).run("corosync-cfgtool", "-R")
        await programs.start(3)
        await programs.together(1, 2, 3)
        await ring.check_health(1, 2, 3)
