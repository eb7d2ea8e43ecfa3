"""Conditions and elections as programs on trio and on asyncio see them."""

import anyio
import pytest

from cluck.client.asynchronous import over
from cluck.client.requests import Follower, Leader
from cluck.errors import LeadershipLost, WrongLock
from tests.cluck.client.loops import Cut, on_both_loops
from tests.cluck.client.servers import Cluster, Handed
from tests.cluck.client.test_asynchronous import loses, to, until


@pytest.fixture
def cluster():
    return Cluster()


# ---- conditions


@on_both_loops
async def test_waiters_are_woken_in_their_order(cluster):
    order = []
    async with to(cluster) as locks, anyio.create_task_group() as tasks:

        async def consume(number):
            async with locks.condition("filled", lock="queue") as filled:
                before = filled.held.token
                assert await filled.wait()
                assert cluster.holders(b"queue") == [filled.held.token]
                assert filled.held.token > before
                filled.held.check()
                order.append(number)

        for number in range(4):
            tasks.start_soon(consume, number)
            await until(lambda number=number: len(cluster.waiters(b"filled")) == number + 1)
        async with locks.condition("filled", lock="queue") as filled:
            assert await filled.notify(2) == 2
            assert order == []
        await until(lambda: len(order) == 2)
        async with locks.condition("filled", lock="queue") as filled:
            assert await filled.notify_all() == 2
            assert await filled.notify() == 0
    assert order == [0, 1, 2, 3]
    assert cluster.state.table.locks == {}


@on_both_loops
async def test_a_time_that_is_over(cluster):
    async with to(cluster) as locks, locks.condition("filled", lock="queue") as filled:
        assert not await filled.wait(0.01)
        assert cluster.holders(b"queue") == [filled.held.token]
        assert not await filled.wait_for(lambda: False, 0.01)
        assert await filled.wait_for(lambda: True, 0)
        filled.held.check()


@on_both_loops
async def test_without_having_the_lock_back(cluster):
    async with to(cluster) as locks, locks.condition("filled", lock="queue") as filled:
        assert not await filled.wait(0.01, reacquire=False)
        assert cluster.state.table.locks == {}
        with loses(r"given back"):
            filled.held.check()
        with loses(r"given back"):
            await filled.wait()


@on_both_loops
async def test_two_conditions_of_one_lock(cluster):
    async with to(cluster) as locks, anyio.create_task_group() as tasks:

        async def produce():
            async with locks.lock("queue") as held, locks.condition("filled", lock=held) as filled:
                await filled.notify()
                async with locks.condition("empty", lock=held) as empty:
                    assert await empty.wait()

        async with locks.lock("queue") as held, locks.condition("filled", lock=held) as filled:
            tasks.start_soon(produce)
            assert await filled.wait()
            async with locks.condition("empty", lock=held) as empty:
                await until(lambda: cluster.waiters(b"empty"))
                assert await empty.notify() == 1
    assert cluster.state.table.locks == {}


@on_both_loops
async def test_all_must_wait_with_one_lock(cluster):
    async with to(cluster) as locks, anyio.create_task_group() as tasks:

        async def wait():
            async with locks.condition("filled", lock="queue") as filled:
                await filled.wait()

        tasks.start_soon(wait)
        await until(lambda: cluster.waiters(b"filled"))
        async with locks.condition("filled", lock="other") as filled:
            token = filled.held.token
            with pytest.raises(WrongLock, match="with another lock"):
                await filled.wait()
            assert cluster.holders(b"other") == [token] == [filled.held.token]
            filled.held.check()
            await filled.notify()


@on_both_loops
async def test_a_lock_that_was_lost_before_the_wait(cluster):
    async with to(cluster) as locks:

        async def body():
            async with locks.condition("filled", lock="queue") as filled:
                cluster.force(b"queue")
                await filled.wait()

        with loses():
            await body()
        assert cluster.waiters(b"filled") == []


@on_both_loops
async def test_waiting_is_safe_wherever_it_is_cancelled(cluster):
    """Whoever is cancelled holds nothing, waits for nothing, and passes on what it was told."""
    reached, passed_on = 0, 0
    async with to(cluster) as locks, to(cluster) as others:
        cut = Cut(0)

        async def program():
            async with locks.condition("filled", lock="queue") as filled:
                await filled.wait()

        async def second():
            nonlocal passed_on
            async with others.condition("filled", lock="queue") as filled:
                passed_on += await filled.wait(0.02)

        async def meet(cut):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cut.run, program)
                await until(lambda: cluster.waiters(b"filled") or cut.was_reached)
                tasks.start_soon(second)
                await until(lambda: len(cluster.waiters(b"filled")) == 2 or cut.was_reached)
                async with others.condition("filled", lock="queue") as filled:
                    await filled.notify()

        while not reached or cut.was_reached:
            cut = Cut(reached)
            await meet(cut)
            assert cluster.state.table.locks == {}, f"cancelled where it waits for the {reached}th time"
            assert cluster.waiters(b"filled") == []
            reached += 1
    assert reached > 6
    assert passed_on > 0


@on_both_loops
async def test_a_notified_waiter_that_is_cancelled_passes_it_on(cluster):
    async with to(cluster) as locks, anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()
        woken = []

        async def first():
            with scope:
                async with locks.condition("filled", lock="queue") as filled:
                    await filled.wait()
            assert scope.cancelled_caught

        async def second():
            async with locks.condition("filled", lock="queue") as filled:
                woken.append(await filled.wait())

        tasks.start_soon(first)
        await until(lambda: len(cluster.waiters(b"filled")) == 1)
        tasks.start_soon(second)
        await until(lambda: len(cluster.waiters(b"filled")) == 2)
        async with locks.condition("filled", lock="queue") as filled:
            assert await filled.notify() == 1
            scope.cancel()
            await anyio.sleep(0.01)
            assert woken == []
        await until(lambda: woken)
    assert woken == [True]


@on_both_loops
async def test_a_waiter_goes_on_waiting_at_the_next_connection(cluster):
    transport = Handed(cluster)
    async with over(transport, reconnect=True) as locks, to(cluster) as others, anyio.create_task_group() as tasks:
        woken = []

        async def wait():
            async with locks.condition("filled", lock="queue") as filled:
                woken.append(await filled.wait())

        tasks.start_soon(wait)
        await until(lambda: cluster.waiters(b"filled"))
        transport.cut()
        await until(lambda: cluster.kinds_said.count("Wait") == 2)
        assert len(cluster.waiters(b"filled")) == 1
        async with others.condition("filled", lock="queue") as filled:
            assert await filled.notify() == 1
    assert woken == [True]


@on_both_loops
async def test_a_wait_that_was_purged_loses_its_lock(cluster):
    transport = Handed(cluster)
    async with over(transport, reconnect=True) as locks:

        async def wait():
            async with locks.condition("filled", lock="queue") as filled:
                await filled.wait()

        async def restart():
            await until(lambda: cluster.waiters(b"filled"))
            cluster.restart()
            transport.cut()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(restart)
            with loses(r"not held any more"):
                await wait()


# ---- leaders


@on_both_loops
async def test_a_leader_and_those_who_look_at_it(cluster):
    async with to(cluster) as locks, to(cluster) as others, others.observe("scheduler") as leaderships:
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


@on_both_loops
async def test_roles_are_told_in_pairs_from_the_present_one_on(cluster):
    async with to(cluster) as locks:
        async with locks.candidate("scheduler") as me:
            await until(lambda: me.is_leader)
            roles = me.roles()
            assert await anext(roles) == me.role
            former = me.role
            for _ in range(3):
                await me.resign()
                assert not me.is_leader
                await until(lambda: me.is_leader)
            assert await anext(roles) == Follower()
            assert await anext(roles) == me.role
            assert await anext(me.roles()) == me.role
            assert isinstance(former, Leader)
        assert [role async for role in roles] == [Follower()]


@on_both_loops
async def test_a_leader_without_a_connection_steps_down_at_its_deadline():
    """First the flag is cleared, then whoever follows is told, then what was under way ends."""
    now = [0.0]
    cluster = Cluster(lambda: now[0])
    transport = Handed(cluster, lambda: now[0])
    seen = []
    async with over(transport, reconnect=True) as locks, locks.candidate("scheduler") as me:
        await until(lambda: me.is_leader)
        former = me.role

        async def publish():
            with pytest.raises(LeadershipLost):
                await me.publish(b"plan")
            seen.append(me.is_leader)

        cluster.is_stopped = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            await until(lambda: "Publish" in cluster.kinds_said)
            transport.is_up = False
            transport.cut()
            await until(lambda: transport.tries)
            assert me.role == former
            now[0] += 3
            assert me.role == Follower(), "by the clock, before anybody is told"
        assert seen == [False]
        cluster.is_stopped = False
        transport.is_up = True
        await until(lambda: locks.ready)
        now[0] += 3
        cluster.advance()
        await until(lambda: me.is_leader)
        assert me.role.token > former.token


@on_both_loops
async def test_another_one_leads_when_the_leader_resigns(cluster):
    async with to(cluster) as locks, to(cluster) as others, locks.candidate("scheduler") as one:
        await until(lambda: one.is_leader)
        await others.ask("elections")
        async with others.candidate("scheduler") as two, others.candidate("scheduler") as three:
            assert not two.is_leader
            await one.resign(to=three.id)
            await until(lambda: three.is_leader)
            assert not one.is_leader
            await two.resign()
            assert three.is_leader
            await three.resign(to=one.id)
            await until(lambda: one.is_leader)


@on_both_loops
async def test_run_while_leader():
    runs, now = [], [0.0]
    cluster = Cluster(lambda: now[0])
    async with over(Handed(cluster, lambda: now[0])) as locks, locks.candidate("scheduler") as me:

        async def work(leader):
            runs.append(leader.token)
            if len(runs) == 2:
                return "done"
            try:
                cluster.cut_off()
                await anyio.sleep_forever()
            finally:
                assert not me.is_leader
                cluster.merge()
                now[0] += 5  # nobody leads before the lease is over
                cluster.advance()

        assert await me.run_while_leader(work) == "done"
        assert len(runs) == 2

        async def fail(leader):
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            await me.run_while_leader(fail)


@on_both_loops
async def test_the_next_one_leads_when_what_runs_has_ended(cluster):
    async with (
        to(cluster) as locks,
        to(cluster) as others,
        locks.candidate("scheduler") as one,
        others.candidate("scheduler") as two,
        anyio.create_task_group() as tasks,
    ):

        async def work(leader):
            seen.append("begun")
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    for _ in range(20):
                        await anyio.lowlevel.checkpoint()
                        assert not one.is_leader
                        assert not two.is_leader
                seen.append("ended")

        seen = []
        tasks.start_soon(one.run_while_leader, work)
        await until(lambda: seen)
        await one.resign()
        assert seen == ["begun"]
        await until(lambda: two.is_leader)
        assert seen == ["begun", "ended"]
        tasks.cancel_scope.cancel()


@on_both_loops
async def test_standing_is_safe_wherever_it_is_cancelled(cluster):
    reached, cut = 0, Cut(0)
    async with to(cluster) as locks:

        async def program():
            async with locks.candidate("scheduler") as me:
                await me.run_while_leader(lambda leader: me.publish(b"plan"))

        while not reached or cut.was_reached:
            cut = Cut(reached)
            await cut.run(program)
            assert cluster.state.elections.by_name.get(b"scheduler") is None or not cluster.candidates(b"scheduler")
            reached += 1
    assert reached > 3


@on_both_loops
async def test_a_slow_observer_misses_the_oldest_and_the_lost_know_nothing(cluster):
    transport = Handed(cluster)
    async with (
        over(transport, reconnect=True) as observers,
        observers.observe("scheduler") as leaderships,
        to(cluster) as locks,
        locks.candidate("scheduler") as me,
    ):
        await until(lambda: me.is_leader)
        for number in range(100):
            await me.publish(b"%d" % number)
        told = [(await anext(leaderships)).version for _ in range(64)]
        assert told == list(range(37, 101))
        transport.is_up = False
        transport.cut()
        assert (await anext(leaderships)).leader is None
        transport.is_up = True
        leadership = await anext(leaderships)
        assert (leadership.leader, leadership.blob) == (me.id, b"99")
