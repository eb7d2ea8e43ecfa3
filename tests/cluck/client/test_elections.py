"""Elections as programs see them, in tasks of trio and asyncio, and in threads."""

import pytest

from cluck.client.requests import Follower, Leader
from cluck.errors import ConnectionLost, LeadershipLost
from tests.cluck.client.shells import on_all_shells


@on_all_shells
async def test_a_leader_and_those_who_look_at_it(shell):
    async with (
        shell.connect() as locks,
        shell.connect() as others,
        others.observe("scheduler") as leaderships,
    ):
        assert (await anext(leaderships)).leader is None
        async with locks.candidate("scheduler", address="10.0.0.1", port=80) as me:
            async for role in me.roles():
                if isinstance(role, Leader):
                    break
            assert me.is_leader
            assert me.role == role
            leadership = await anext(leaderships)
            assert (leadership.leader, leadership.token) == (me.id, role.token)
            assert (leadership.address, leadership.port, leadership.version) == (b"10.0.0.1", 80, 0)
            assert await me.publish(b"plan") == 1
            assert await me.publish(b"another") == 2
            assert [(await anext(leaderships)).blob for _ in range(2)] == [b"plan", b"another"]
            async with others.observe("scheduler") as later:
                assert (await anext(later)).blob == b"another"
            with pytest.raises(ValueError, match="65537 bytes"):
                await me.publish(bytes(65537))
        assert (await anext(leaderships)).leader is None
        with pytest.raises(LeadershipLost):
            await me.publish(b"late")


@on_all_shells
async def test_roles_are_reported_in_pairs_from_the_present_one_on(shell):
    async with shell.connect() as locks:
        async with locks.candidate("scheduler") as me:
            await shell.until(lambda: me.is_leader)
            roles = me.roles()
            assert await anext(roles) == me.role
            former = me.role
            for _ in range(3):
                await me.resign()
                assert not me.is_leader
                await shell.until(lambda: me.is_leader)
            assert await anext(roles) == Follower()
            assert await anext(roles) == me.role
            assert await anext(me.roles()) == me.role
            assert isinstance(former, Leader)
        assert [role async for role in roles] == [Follower()]


@on_all_shells
async def test_a_leader_that_is_cut_off_leads_again_when_its_lease_is_over(shell):
    cluster = shell.cluster
    async with shell.connect() as locks, locks.candidate("scheduler") as me:
        await shell.until(lambda: me.is_leader)
        roles, former = me.roles(), me.role
        assert await anext(roles) == former
        cluster.cut_off()
        assert await anext(roles) == Follower()
        with pytest.raises(LeadershipLost):
            await me.publish(b"late")
        cluster.merge()
        shell.now += 5  # nobody leads before the lease is over
        cluster.advance()
        await shell.until(lambda: me.is_leader)
        assert me.role.token > former.token


@on_all_shells
async def test_a_leader_without_a_connection_steps_down_at_its_deadline(shell):
    """First the flag is cleared, then whoever follows is told, then what was under way ends."""
    cluster, seen = shell.cluster, []
    async with shell.connect() as locks, locks.candidate("scheduler") as me:
        await shell.until(lambda: me.is_leader)
        former = me.role

        async def publish():
            with pytest.raises(LeadershipLost):
                await me.publish(b"plan")
            seen.append(me.is_leader)

        shell.stop_order()
        async with shell.tasks() as tasks:
            tasks.start_soon(publish)
            await shell.until(lambda: "Publish" in cluster.kinds_said)
            shell.go_away()
            await shell.until(lambda: not locks.ready)
            assert me.role == former
            shell.now += 3
            assert me.role == Follower(), "by the clock, before anybody is told"
        assert seen == [False]
        shell.resume_order()
        shell.come_back()
        await shell.until(lambda: locks.ready)
        shell.now += 3
        cluster.advance()
        await shell.until(lambda: me.is_leader)
        assert me.role.token > former.token


@on_all_shells
async def test_another_one_leads_when_the_leader_resigns(shell):
    async with shell.connect() as locks, shell.connect() as others, locks.candidate("scheduler") as one:
        await shell.until(lambda: one.is_leader)
        await others.query("elections")
        async with others.candidate("scheduler") as two, others.candidate("scheduler") as three:
            assert not two.is_leader
            await one.resign(to=three.id)
            await shell.until(lambda: three.is_leader)
            assert not one.is_leader
            await two.resign()
            assert three.is_leader
            await three.resign(to=one.id)
            await shell.until(lambda: one.is_leader)


@on_all_shells
async def test_a_slow_observer_misses_the_oldest_and_the_lost_know_nothing(shell):
    async with (
        shell.connect() as locks,
        locks.candidate("scheduler") as me,
        shell.connect() as observers,
        observers.observe("scheduler") as leaderships,
    ):
        await shell.until(lambda: me.is_leader)
        for number in range(100):
            await me.publish(b"%d" % number)
        await observers.status()  # behind all that it was told
        told = [(await anext(leaderships)).version for _ in range(64)]
        assert told == list(range(37, 101))
        shell.go_away()
        assert (await anext(leaderships)).leader is None
        shell.come_back()
        leadership = await anext(leaderships)
        assert (leadership.leader, leadership.blob) == (me.id, b"99")


@on_all_shells
async def test_an_observer_is_informed_of_the_end_of_the_client(shell):
    async with shell.connect() as locks, locks.observe("scheduler") as leaderships:
        assert (await anext(leaderships)).leader is None
    with pytest.raises(ConnectionLost, match="has been closed"):
        await anext(leaderships)
