"""Rings that break while sync runs: the next one completes it, and all end with the same lists."""

import random
from contextlib import asynccontextmanager

import pytest
import trio

from tests.interop.cast import Cast, ring_of
from tests.interop.test_membership import CHATTER, QUICK, long
from tests.interop.test_trials import OF_FLUSH

INSTALLED, SYNCED = "A new membership (", "Completed service synchronization"
"""What a real node logs when a sync begins and when it is complete."""


def count(ring, k, words):
    """In how many lines of its log the real node says this."""
    return sum(words in line for line in ring.log(k))


def aborted(ring, k):
    """How many syncs the real node has begun and not completed; the present one is among them if it runs."""
    return count(ring, k, INSTALLED) - count(ring, k, SYNCED)


@asynccontextmanager
async def new_ring(ring, *real):
    """What is done in this block makes a ring: wait until these real nodes have installed it.

    By their logs: a tool may wait for the end of sync.
    """
    before = {k: count(ring, k, INSTALLED) for k in real}
    yield
    with trio.fail_after(60):
        while any(count(ring, k, INSTALLED) == before[k] for k in real):
            await trio.sleep(0.05)


@pytest.mark.parametrize("deaf", [long(1), long(2)])
@pytest.mark.parametrize("real", [(1, 3), (1, 3, 4)], ids=["ours-goes", "theirs-goes"])
async def test_a_sync_is_broken_while_some_know_the_groups_already(mixed_ring, real, deaf):
    """The deaf node misses the barrier behind the groups of node 3; the others are done with groups, and wait for it.

    Meanwhile node 4 goes, comes back and, at the second time, dies: one sync breaks or two do, and the last ends well.
    """
    ring = mixed_ring(4, **QUICK)
    with trio.fail_after(240):
        async with trio.open_nursery() as nursery:
            programs = Cast(ring, nursery, real)
            await programs.start(1, 2, 3, 4)
            await programs.together(1, 2, 3, 4)
            for dies in (False, True):
                before = {k: aborted(ring, k) for k in (1, 3)}
                ring.network.drop(deaf, origin=3, kind="barrier")
                async with new_ring(ring, 1, 3):
                    ring.network.split((1, 2, 3), (4,))
                await programs.programs[4].until(ring_of(4))
                async with new_ring(ring, 1, 3):
                    ring.network.split((1, 2, 3, 4))
                if dies:
                    async with new_ring(ring, 1, 3):
                        await programs.kill(4)
                ring.network.heal()
                if dies:
                    await programs.start(4)
                await programs.together(1, 2, 3, 4)
                for k in (1, 3):
                    assert aborted(ring, k) > before[k] + dies, f"not so many syncs were broken at node {k}"
            await programs.check_health(1, 2, 3, 4, besides=OF_FLUSH)
            await programs.finish()


@pytest.mark.parametrize("syncs", [long(20)])
async def test_syncs_are_broken_at_any_moment(mixed_ring, syncs):
    """A network that loses tokens makes syncs long, and is cut and joined again at random until so many have broken."""
    ring = mixed_ring(3, **QUICK)
    dice = random.Random(syncs)
    with trio.fail_after(60 + 20 * syncs):
        async with trio.open_nursery() as nursery:
            programs = Cast(ring, nursery, (1, 3))
            await programs.start(1, 2, 3)
            await programs.together(1, 2, 3)
            await programs.say(CHATTER)
            while aborted(ring, 1) + aborted(ring, 3) < syncs:
                for k in (1, 2, 3):
                    ring.network.drop(k, kind="token", percent=10)
                for _ in range(2):
                    alone = dice.choice((1, 2, 3))
                    rest = {1, 2, 3} - {alone}
                    async with new_ring(ring, *rest - {2}):
                        ring.network.split(rest, {alone})
                    await trio.sleep(dice.uniform(0, 0.5))
                    async with new_ring(ring, 1, 3):
                        ring.network.split((1, 2, 3))
                    await trio.sleep(dice.uniform(0, 0.5))
                ring.network.heal()
                await programs.together(1, 2, 3)
            await programs.quiet()
            await programs.together(1, 2, 3)
            await programs.check_health(1, 2, 3, besides=OF_FLUSH)
            await programs.finish()
