"""What documents left open, tried in rings of real Corosync nodes and ours; docs/corosync.md tells what was found."""

import random
import re

import pytest
import trio

from tests.interop.cast import Cast, last, ring_of
from tests.interop.test_membership import CHATTER, QUICK, cast, long, said

OF_FLUSH = "Discarding (JOIN|LEAVE) message during flush"
"""What real nodes say to each other's Joins as well."""
OF_PIECES = "can't mcast to group chat state:3, error:16"
"""What a real node says where a ring comes between two pieces (CS_ERR_INTERRUPT); its client sends all again."""


def statistics(ring, k):
    """The counters of the real node's membership machine."""
    values = ring.cmap(k, "stats.srp.", "stats")
    return {key.removeprefix("stats.srp."): int(value) for key, value in values.items() if value.isdigit()}


def rewrite(ring, k, old, new):
    """Change the configuration of one place."""
    text = ring.config[k].read_text()
    assert old in text, text
    ring.config[k].write_text(text.replace(old, new))


async def logged(ring, k, pattern):
    """Wait until the real node has logged this."""
    with trio.fail_after(60):
        while not any(re.search(pattern, line) for line in ring.log(k)):
            await trio.sleep(0.1)


@pytest.mark.parametrize("transport", ["udpu", long("udp")])
async def test_ipv6(mixed_ring, transport):
    ring = mixed_ring(3, transport=transport, ipv6=True, **QUICK)
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        await programs.say("send 1 1000 100000")
        await programs.kill(2)
        await programs.together(1, 3)
        await programs.start(2)
        await programs.together(1, 2, 3)
        await ring.check_health(1, 2, 3, besides=OF_FLUSH)


@pytest.mark.parametrize(
    ("places", "real"), [long(7, (1, 3, 5, 7)), long(10, (1, 2, 4, 5, 6, 8, 9, 10))], ids=["7", "10"]
)
async def test_many_nodes_start_at_once(mixed_ring, places, real):
    ring = mixed_ring(places)
    everybody = tuple(range(1, places + 1))
    async with cast(ring, real) as programs:
        await programs.start(*everybody)
        await programs.together(*everybody)
        before = {k: ring.rings_at(k) for k in real}
        await programs.say("send 1 1000 100000")
        await programs.together(*everybody)
        assert {k: ring.rings_at(k) for k in real} == before, "the ring changed, though nothing had happened to it"
        await ring.check_health(*everybody, besides=OF_FLUSH)


@pytest.mark.parametrize("rounds", [long(2)])
async def test_recoveries_break_and_the_ring_comes_back(mixed_ring, rounds):
    """Tokens and commit tokens are lost while messages are on their way, so that recoveries break in all places."""
    ring = mixed_ring(3, **QUICK)
    with trio.fail_after(60 + 30 * rounds):
        async with trio.open_nursery() as nursery:
            programs = Cast(ring, nursery, (1, 3))
            await programs.start(1, 2, 3)
            await programs.together(1, 2, 3)
            await programs.say(CHATTER)
            for _ in range(rounds):
                before = sum(broken(ring, k) for k in (1, 3))
                for k in (1, 2, 3):
                    ring.network.drop(k, kind="token", percent=60)
                    ring.network.drop(k, kind="commit", percent=30)
                while sum(broken(ring, k) for k in (1, 3)) == before:
                    await trio.sleep(0.1)
                ring.network.heal()
                await programs.together(1, 2, 3)
            await programs.quiet()
            await programs.together(1, 2, 3)
            await ring.check_health(1, 2, 3, besides=OF_FLUSH)
            await programs.finish()


def broken(ring, k):
    """How many attempts at a ring the real node has seen break."""
    counters = statistics(ring, k)
    return counters["commit_token_lost"] + counters["recovery_token_lost"]


@pytest.mark.parametrize("rounds", [3, long(100)])
async def test_long_messages_are_cut_by_changes(mixed_ring, rounds):
    """All send messages of up to 1 MiB while the third node goes and comes; none of ours is lost, none comes twice.

    Real nodes lose some of their own, also where all are real: the same at everybody (docs/corosync.md).
    """
    ring = mixed_ring(3, **QUICK)
    with trio.fail_after(60 + 30 * rounds):
        async with trio.open_nursery() as nursery:
            programs = Cast(ring, nursery, (1, 3))
            await programs.start(1, 2, 3)
            await programs.together(1, 2, 3)
            await programs.say("chatter 3 500000 1047000")
            for _ in range(rounds):
                ring.network.split((1, 2), (3,))
                for part in ((1, 2), (3,)):
                    for k in part:
                        await programs.programs[k].until(ring_of(*part))
                ring.network.heal()
                for k in (1, 2, 3):
                    await programs.programs[k].until(ring_of(1, 2, 3))
            await programs.say("hush")
            await programs.together(1, 2, 3)
            assert not programs.lost(2)
            await ring.check_health(1, 2, 3, besides=f"No buffer space available|{OF_FLUSH}")
            await programs.finish(lossy=True)


@pytest.mark.parametrize("real", [long((1, 3)), long((2,))], ids=str)
async def test_messages_in_pieces_are_cut_by_changes(mixed_ring, real):
    """A real client and one of ours send messages of 16 MiB while node 3 goes and comes, until some were cut."""
    ring = mixed_ring(3, **QUICK)
    dice = random.Random(3)
    with trio.fail_after(400):
        async with trio.open_nursery() as nursery:
            programs = Cast(ring, nursery, real)
            await programs.start(1, 2, 3)
            await programs.together(1, 2, 3)
            while min(cut_by_rings(programs.programs[k].events) for k in (1, 2)) < 6:
                for parts in (((1, 2), (3,)), ((1, 2, 3),)):
                    await programs.say(f"send {16 << 20}", 1, 2)
                    await trio.sleep(dice.uniform(0, 0.5))
                    ring.network.split(*parts)
                    for part in parts:
                        for k in part:
                            await programs.programs[k].until(ring_of(*part))
                await programs.quiet()
                await programs.together(1, 2, 3)
            for k in (1, 2):
                own = [event["data"] for event in programs.programs[k].events if event["event"] == "sent"]
                for witness in (1, 2):
                    assert own == given(programs.programs[witness].events, k)
            await ring.check_health(1, 2, 3, besides=f"{OF_FLUSH}|{OF_PIECES}")
            await programs.finish()


def given(events, node):
    """What a member was given of the member at a node."""
    return [event["data"] for event in events if event["event"] == "message" and event["sender"][0] == node]


def cut_by_rings(events):
    """How many of its own messages a member sent in one ring and was given in another one."""
    rings, sent, cut = 0, {}, 0
    for event in events:
        match event["event"]:
            case "ring":
                rings += 1
            case "sent":
                sent[event["data"]] = rings
            case "message":
                cut += sent.get(event["data"], rings) != rings
    return cut


@pytest.mark.parametrize("deaf", [long(1), 2, long(3)])
async def test_a_node_that_gets_tokens_but_no_messages(mixed_ring, deaf, capfd):
    """It gives itself up, and the others go on; theirs and ours say so (ruling A9).

    It would come back at once, and break the others' ring before they can use it: it is cut off as soon as it is named.
    """
    ring = mixed_ring(3, token=1000, totem=("token_coefficient: 0", "fail_recv_const: 50"))
    others = sorted({1, 2, 3} - {deaf})
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        mark = len(programs.programs[others[0]].events)
        ring.network.drop(deaf, kind="mcast")
        await programs.say("chatter 50 100 2000", *others)
        if deaf == 2:
            await said(capfd, "node 2 gets the token but not the messages")
        else:
            await logged(ring, deaf, "FAILED TO RECEIVE")
        ring.network.split(set(others), {deaf})
        await programs.programs[others[0]].until(lambda events: last(events[mark:], "ring"))
        ring.network.heal()
        await programs.together(1, 2, 3)
        await programs.quiet()
        await programs.together(1, 2, 3)
        await ring.check_health(1, 2, 3, besides=f"FAILED TO RECEIVE|{OF_FLUSH}")


async def test_a_ring_of_theirs_takes_one_of_ours_while_it_runs(mixed_ring):
    """The nodelist grows by `corosync-cfgtool -R`; nobody is restarted."""
    ring = mixed_ring(3, **QUICK)
    entry = f"node {{\n    nodeid: 3\n    name: node3\n    ring0_addr: {ring.network.address(3)}\n}}\n"
    whole = {k: ring.config[k].read_text() for k in (1, 2)}
    for k in whole:
        rewrite(ring, k, entry, "")
    async with cast(ring, (1, 2)) as programs:
        await programs.start(1, 2)
        await programs.together(1, 2)
        for k, text in whole.items():
            ring.config[k].write_text(text)
        before = ring.rings_at(1)
        ring.place(1).run("corosync-cfgtool", "-R")
        assert ring.rings_at(1) == before
        await programs.start(3)
        await programs.together(1, 2, 3)
        await ring.check_health(1, 2, 3, besides=OF_FLUSH)


async def test_knet_at_the_real_nodes_is_named(mixed_ring, capfd):
    ring = mixed_ring(2, **QUICK)
    rewrite(ring, 1, "transport: udpu", "transport: knet")
    async with cast(ring, (1,)) as programs:
        await programs.start(1, 2)
        await said(capfd, "datagrams come to port 5405 that no node of transport udpu sends")


async def test_a_different_netmtu(mixed_ring, capfd):
    """Each takes what the other sends, and ours says what is wrong."""
    ring = mixed_ring(3, **QUICK)
    rewrite(ring, 2, "version: 2", "version: 2\n    netmtu: 1200")
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        await programs.say("send 1000 10000 100000")
        await programs.together(1, 2, 3)
        await said(capfd, "set the same netmtu on all nodes")
        await ring.check_health(1, 2, 3, besides=OF_FLUSH)
