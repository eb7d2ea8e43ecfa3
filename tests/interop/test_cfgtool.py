"""What an administrator tells a ring by corosync-cfgtool, as far as it concerns our nodes."""

import pytest
import trio

from tests.interop.cast import Cast
from tests.interop.ring import GLANCE, PATIENCE
from tests.interop.test_membership import CHATTER, QUICK, cast, long
from tests.interop.test_trials import OF_FLUSH


@pytest.mark.parametrize(("times", "load"), [(1, ""), long(10, CHATTER)], ids=["once", "ten-times-at-work"])
async def test_a_real_node_ends_one_of_ours(mixed_ring, capfd, times, load):
    """`corosync-cfgtool -k`: ours says who did it and ends with an error, and the others go on without it."""
    ring = mixed_ring(3, **QUICK)
    with trio.fail_after(60 + 30 * times):
        async with trio.open_nursery() as nursery:
            programs = Cast(ring, nursery, (1, 3))
            await programs.start(1, 3)
            for time in range(times):
                teller = (1, 3)[time % 2]
                await programs.start(2)
                await programs.together(1, 2, 3)
                if load:
                    await programs.say(load)
                    await programs.heard(100)
                ended = programs.programs.pop(2)
                programs.past.append((2, ended.events))
                ring.place(teller).run("corosync-cfgtool", "-k", "2")
                assert await ended.ended() == 1
                assert f"an administrator at node {teller} ended this node" in capfd.readouterr().err
                await programs.quiet()
                await programs.together(1, 3)
            await programs.start(2)
            await programs.together(1, 2, 3)
            await programs.check_health(1, 2, 3)
            await programs.finish()


@pytest.mark.parametrize("victim", [long(1), long(3)])
async def test_a_real_node_is_shut_down(mixed_ring, victim):
    """`corosync-cfgtool -H`: it leaves in order, so that nobody waits for its token, and can come back."""
    ring = mixed_ring(3)
    others = sorted({1, 2, 3} - {victim})
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        await programs.say(CHATTER, *others)
        await programs.heard(100)
        program = programs.programs.pop(victim)
        programs.past.append((victim, program.events))
        ring.place(victim).run("corosync-cfgtool", "-H")
        daemon = ring.corosyncs.pop(victim)
        with trio.fail_after(PATIENCE):
            while daemon.poll() is None:
                await trio.sleep(GLANCE)
        assert daemon.returncode == 0
        assert await program.ended() == 1
        await programs.together(*others)
        await programs.start(victim)
        await programs.together(1, 2, 3)
        await programs.quiet()
        await programs.together(1, 2, 3)
        for k in set(others) - {2}:
            assert not [line for line in ring.log(k) if "Token has not been received" in line]
        await programs.check_health(1, 2, 3, besides=OF_FLUSH)
