"""Settings that differ between our node and real ones: what comes of it, and what our node says about it."""

import pytest

from tests.interop.cast import ring_of
from tests.interop.test_membership import CHATTER, QUICK, cast, long
from tests.interop.test_trials import OF_FLUSH, logged, rewrite, said, statistics

BLOCKS = pytest.mark.parametrize("blocks", [long(True), long(False)], ids=["block", "no-block"])
"""`block_unlisted_ips`: the default, or no."""


def strike(ring, k, *places):
    """Take place K out of the nodelist of others."""
    for place in places:
        address = ring.network.address(k)
        rewrite(ring, place, f"node {{\n    nodeid: {k}\n    name: node{k}\n    ring0_addr: {address}\n}}\n", "")


def let_in(ring, *places):
    """Have these take datagrams from anywhere."""
    for place in places:
        rewrite(ring, place, "version: 2", "version: 2\n    block_unlisted_ips: no")


@BLOCKS
async def test_ours_is_not_in_their_nodelist(mixed_ring, capfd, blocks):
    """It asks whether it is; with `block_unlisted_ips: no` it makes them form their ring over and over."""
    ring = mixed_ring(3, **QUICK)
    strike(ring, 2, 1, 3)
    if not blocks:
        let_in(ring, 1, 3)
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 3)
        await programs.together(1, 3)
        before = programs.rings_at(1)
        await programs.start(2)
        await said(capfd, "no other node has answered since the start: .* their nodelists have node 2 at 10.77.0.2")
        if blocks:
            await logged(ring, 1, "debug .* Packet rejected from 10.77.0.2")
            assert programs.rings_at(1) == before, "a node that is not let in has disturbed the ring"
        else:
            await programs.programs[1].until(lambda events: programs.rings_at(1) > before + 2)
        await programs.kill(2)
        await programs.together(1, 3)


@BLOCKS
async def test_a_real_node_is_not_in_our_nodelist(mixed_ring, capfd, blocks):
    """It is named; when it has been added, and ours starts again, all come together."""
    ring = mixed_ring(3, **QUICK)
    whole = ring.config[2].read_text()
    strike(ring, 3, 2)
    if not blocks:
        let_in(ring, 2)
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 3)
        await programs.together(1, 3)
        await programs.start(2)
        heard = "datagrams come from 10.77.0.3, which is not in" if blocks else "node 3 is heard but not in"
        await said(capfd, f"(?s)(?=.*{heard} the nodelist)(?=.*node 1 names 3 for the ring)")
        await programs.kill(2)
        await programs.together(1, 3)
        ring.config[2].write_text(whole)
        await programs.start(2)
        await programs.together(1, 2, 3)
        await ring.check_health(1, 2, 3, besides=OF_FLUSH)


@pytest.mark.parametrize("transport", [long("udpu"), long("udp")])
async def test_another_cluster_name(mixed_ring, capfd, transport):
    """Real nodes never tell it: with udpu nothing is different, with udp it makes another multicast group."""
    ring = mixed_ring(3, transport=transport, **QUICK)
    rewrite(ring, 2, "cluster_name: interop", "cluster_name: other")
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        if transport == "udpu":
            await programs.together(1, 2, 3)
            await ring.check_health(1, 2, 3)
        else:
            await said(capfd, "no other node has answered since the start")
            await programs.together(1, 3)


def token_losses(ring):
    """How often the real node 1 has waited for the token in vain."""
    return statistics(ring, 1)["operational_token_lost"]


@pytest.mark.parametrize(("ours", "theirs"), [long(1000, 3000), long(3000, 1000)])
async def test_other_token_timeouts(mixed_ring, ours, theirs):
    """The shortest decides, of those who wait for the token; as long as it comes nothing happens."""
    ring = mixed_ring(3, **QUICK)
    for k in (1, 2, 3):
        rewrite(ring, k, "token: 1000", f"token: {ours if k == 2 else theirs}")
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        before = programs.rings_at(1)
        await programs.say(CHATTER)
        await programs.heard(2000)
        assert programs.rings_at(1) == before, "the ring changed, though nothing had happened to it"
        for victim in (2, 3):
            others = tuple(sorted({1, 2, 3} - {victim}))
            lost = token_losses(ring)
            programs.pause(victim)
            for k in others:
                await programs.programs[k].until(ring_of(*others))
            if ours < theirs and victim == 3:
                assert token_losses(ring) == lost, "the real node has waited for the token to the end itself"
            programs.resume(victim)
            await programs.together(1, 2, 3)
            await programs.kill(victim)
            await programs.together(*others)
            await programs.start(victim)
            await programs.together(1, 2, 3)
            await programs.say(CHATTER, victim)
        await programs.quiet()
        await programs.together(1, 2, 3)
        await ring.check_health(1, 2, 3, besides=OF_FLUSH)
