"""What an administrator tells a ring by corosync-cfgtool, as far as it concerns our nodes."""

from tests.interop.test_membership import QUICK, cast


async def test_a_real_node_ends_one_of_ours(mixed_ring, capfd):
    """`corosync-cfgtool -k`: ours says who did it and ends with an error, and the others go on without it."""
    ring = mixed_ring(3, **QUICK)
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        ended = programs.programs.pop(2)
        programs.past.append((2, ended.events))
        ring.place(1).run("corosync-cfgtool", "-k", "2")
        assert await ended.ended() == 1
        assert "an administrator at node 1 ended this node" in capfd.readouterr().err
        await programs.together(1, 3)
        await programs.start(2)
        await programs.together(1, 2, 3)
        await programs.check_health(1, 2, 3)
