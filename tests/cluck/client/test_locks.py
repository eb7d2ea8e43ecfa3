"""Locks as programs see them, in tasks of trio and asyncio, and in threads."""

import gc
import weakref

import pytest

from cluck.client import client_steps
from cluck.errors import ConnectionLost, DeadlockError, KindMismatch, LockLost, LockTimeout, NotReady, OutcomeUnknown
from cpg.replication.electorate import Electorate
from tests.cluck.client.shells import on_all_shells


def loses(why=None):
    """What the body of a lost lock comes to."""
    return pytest.raises(LockLost, match=why)


def waits(cluster, number):
    return lambda: cluster.waiting(b"backup") == number


# ---- in blocks


@on_all_shells
async def test_a_lock_is_held_for_the_time_of_a_block(shell):
    cluster = shell.cluster
    async with shell.connect() as locks:
        async with locks.lock("backup") as held:
            assert (held.name, cluster.holders(b"backup")) == (b"backup", [held.token])
            assert 0 < held.remaining() <= 5
            held.check()
        assert cluster.holders(b"backup") == []
        assert held.remaining() == 0
        with loses(r"has been released"):
            held.check()
        async with locks.lock(b"backup") as again:
            assert again.token > held.token
    await shell.until(lambda: not cluster.state.requests.histories)


@on_all_shells
async def test_a_released_lock_is_freed_without_the_garbage_collector(shell):
    async with shell.connect() as locks:
        gc.disable()
        try:
            held = locks.lock("backup")
            async with held:
                pass
            held = weakref.ref(held)
            await shell.until(lambda: held() is None)
        finally:
            gc.enable()


@on_all_shells
async def test_a_lock_and_a_candidate_say_what_they_are(shell):
    async with shell.connect() as locks:
        held = locks.lock("backup")
        assert repr(held) == "<Held: not asked for yet>"
        async with held:
            assert repr(held) == f"<Held: lock 'backup', held with token {held.token}>"
        assert repr(held) == "<Held: lock 'backup', not held>"
        candidate = locks.candidate("scheduler")
        assert repr(candidate) == "<Candidate: does not stand yet>"
        async with candidate:
            await shell.until(lambda: candidate.is_leader)
            token = candidate.role.token
            assert repr(candidate) == f"<Candidate: election 'scheduler', leads with token {token}>"
        assert repr(candidate) == "<Candidate: election 'scheduler', does not lead>"


@on_all_shells
async def test_others_wait_in_their_order(shell):
    order = []
    async with shell.connect() as locks, shell.connect() as others:

        async def take(whose, number):
            async with whose.lock("backup"):
                order.append(number)

        async with shell.tasks() as tasks, locks.lock("backup"):
            for number in range(6):
                tasks.start_soon(take, (locks, others)[number % 2], number)
                await shell.until(waits(shell.cluster, number + 1))
            assert order == []
    assert order == [0, 1, 2, 3, 4, 5]


@on_all_shells
async def test_sharing_and_permits(shell):
    async with shell.connect() as locks, shell.connect() as others:
        async with locks.shared("table") as one, others.shared("table") as two:
            assert shell.cluster.holders(b"table") == [one.token, two.token]
            with pytest.raises(DeadlockError):
                await others.lock("table", timeout=0).acquire()
        async with locks.lock("table"):
            with pytest.raises(LockTimeout, match="others hold it"):
                await others.shared("table", timeout=0).acquire()
        async with locks.semaphore("slots", 2), locks.semaphore("slots", 2):
            with pytest.raises(LockTimeout, match="others hold it"):
                await locks.semaphore("slots", 2, timeout=0).acquire()
            with pytest.raises(KindMismatch, match="another number of permits"):
                await locks.semaphore("slots", 3).acquire()


@on_all_shells
async def test_a_timeout_means_what_it_says_and_leaves_nothing_behind(shell):
    async with shell.connect() as locks, shell.connect() as others, others.lock("backup"):
        with pytest.raises(LockTimeout, match="others hold it"):
            await locks.lock("backup", timeout=0).acquire()
        with pytest.raises(LockTimeout, match=r"within 0.01 s, 1 ticket was ahead"):
            await locks.lock("backup", timeout=0.01).acquire()
        with pytest.raises(LockTimeout, match=r"within 0.01 s, 1 ticket was ahead"):
            async with locks.lock("backup", timeout=0.01):
                raise AssertionError("it was never free")
        assert shell.cluster.waiting(b"backup") == 0


@on_all_shells
async def test_a_request_that_would_wait_for_itself_is_refused_with_the_circle(shell):
    """Each task and each thread is an owner of its own."""
    async with shell.connect() as locks, shell.tasks() as tasks, locks.lock("a"):
        with pytest.raises(DeadlockError) as caught:
            await locks.lock("a").acquire()
        assert caught.value.cycle == (b"a",)

        async def other():
            async with locks.lock("b"), locks.lock("a"):
                pass

        tasks.start_soon(other)
        await shell.until(lambda: shell.cluster.waiting(b"a"))
        with pytest.raises(DeadlockError, match="around 'b', 'a'"):
            await locks.lock("b").acquire()


@on_all_shells
async def test_wrong_arguments_are_refused_before_anything_is_said(shell):
    async with shell.connect() as locks:
        for wrong in (
            lambda: locks.lock(""),
            lambda: locks.lock("x" * 1025),
            lambda: locks.lock("x", timeout=-1),
            lambda: locks.lock("x", duration=0),
            lambda: locks.lock("x", duration=8 * 86400),
            lambda: locks.lock("x", grace=-1),
            lambda: locks.condition("x", lock="y", duration=0),
            lambda: locks.candidate("x", duration=0),
            lambda: locks.candidate("x", duration=1e9),
            lambda: locks.candidate("x", grace=-1),
            lambda: locks.candidate("x", grace=float("nan")),
            lambda: locks.candidate("x", port=-1),
            lambda: locks.candidate("x", address="x" * 257),
            lambda: locks.candidate("x", restart_interval=-1),
        ):
            with pytest.raises(ValueError, match=r"name of|timeout=|duration=|grace=|port=|address=|restart_interval="):
                wrong()
        with pytest.raises(ValueError, match="permits=0"):
            locks.semaphore("x", 0)
    await shell.until(lambda: shell.cluster.kinds_said == ["Hello", "Bye"])


@on_all_shells
async def test_what_the_body_raises_comes_out_and_the_lock_is_given_back(shell):
    async with shell.connect() as locks:
        with pytest.raises(KeyError, match="mine"):
            async with locks.lock("backup"):
                raise KeyError("mine")
        assert shell.cluster.state.table.locks == {}


# ---- from `acquire` to `release`


@on_all_shells
async def test_a_lock_is_held_from_acquire_to_release(shell):
    cluster = shell.cluster
    async with shell.connect() as locks:
        for lock in (locks.lock("backup"), locks.shared("backup"), locks.semaphore("slots", 2)):
            held = await lock.acquire()
            assert cluster.holders(held.name) == [held.token] == [lock.token]
            held.check()
            assert not held.lost.is_set()
            await held.release()
            assert cluster.state.table.locks == {}
            await held.release()
            with loses(r"has been released"):
                held.check()
            with pytest.raises(RuntimeError, match="acquired once"):
                await held.acquire()


@on_all_shells
async def test_a_request_that_is_released_while_it_waits(shell):
    lock = None

    async def acquire():
        with loses("lock 'backup': it was given up during the wait, by `release`"):
            await lock.acquire()

    async with shell.connect() as locks, shell.connect() as others, others.lock("backup") as held:
        for timeout in (None, 20):
            async with shell.tasks() as tasks:
                lock = locks.lock("backup", timeout=timeout)
                tasks.start_soon(acquire)
                await shell.until(waits(shell.cluster, 1))
                await lock.release()
                assert shell.cluster.waiting(b"backup") == 0
        assert shell.cluster.holders(b"backup") == [held.token]


@on_all_shells
async def test_a_lock_that_was_not_acquired(shell):
    async with shell.connect() as locks, shell.connect() as others, others.lock("backup"):
        lock = locks.lock("backup", timeout=0)
        for use in (lock.check, lock.remaining, lambda: lock.token):
            with pytest.raises(RuntimeError, match="not been acquired yet"):
                use()
        assert not lock.lost.is_set()
        await lock.release()
        with pytest.raises(LockTimeout):
            await lock.acquire()
        await lock.release()
        assert len(shell.cluster.holders(b"backup")) == 1


@on_all_shells
async def test_a_lost_lock_shows_before_it_is_released_and_then(shell):
    async with shell.connect() as locks:
        held = await locks.lock("backup").acquire()
        shell.cluster.force(b"backup")
        await shell.until(held.lost.is_set)
        with loses(r"an administrator took it"):
            held.check()
        with loses(r"an administrator took it"):
            await held.release()


@on_all_shells
async def test_a_lock_may_be_released_within_its_block(shell):
    async with shell.connect() as locks, locks.lock("backup") as held:
        await held.release()
        assert shell.cluster.holders(b"backup") == []
        async with locks.lock("backup"):
            pass


@on_all_shells
async def test_what_was_not_released_is_given_back_at_the_end_of_the_client(shell):
    async with shell.connect() as locks:
        held = await locks.lock("backup").acquire()
        assert shell.cluster.holders(b"backup") == [held.token]
    await shell.until(lambda: shell.cluster.state.table.locks == {})
    with loses(r"closed its connection"):
        await held.release()


# ---- locks that are lost


@on_all_shells
async def test_a_lost_lock_comes_out_of_the_block_as_it_is(shell):
    async with shell.connect() as locks:
        with loses(r"an administrator took it") as caught:
            async with locks.lock("backup") as held:
                shell.cluster.force(b"backup")
                await shell.end_by_loss(held)
        assert held.lost.is_set()
        assert caught.value.__context__ is None
        with loses():
            held.check()


@on_all_shells
async def test_a_body_that_comes_to_its_end_loses_it_too(shell):
    async with shell.connect() as locks:
        with loses():
            async with locks.lock("backup") as held:
                shell.cluster.force(b"backup")
                await shell.see_loss(held)


@on_all_shells
@pytest.mark.parametrize(
    "hold",
    [
        lambda locks: locks.lock("backup"),
        lambda locks: locks.shared("backup"),
        lambda locks: locks.semaphore("backup", 2),
        lambda locks: locks.condition("empty", lock="backup"),
    ],
    ids=["lock", "shared", "semaphore", "condition"],
)
async def test_what_the_body_raises_is_the_context_where_the_lock_is_lost(shell, hold):
    async with shell.connect() as locks:
        with loses(r"an administrator took it") as caught:
            async with hold(locks) as held:
                shell.cluster.force(b"backup")
                await shell.see_loss(getattr(held, "held", held))
                raise KeyError("in vain")
        assert isinstance(caught.value.__context__, KeyError)


@on_all_shells
async def test_what_is_raised_for_the_loss_is_not_its_context_too(shell):
    async def body(locks):
        async with locks.lock("backup") as held:
            shell.cluster.force(b"backup")
            await shell.see_loss(held)
            try:
                held.check()
            except LockLost:
                raise KeyError("not finished") from None

    async with shell.connect() as locks:
        with loses() as caught:
            await body(locks)
        assert caught.value.__context__ is None


@on_all_shells
async def test_of_two_that_are_lost_the_outer_one_comes_out(shell):
    async with shell.connect() as locks:
        with loses(r"lock 'outer'.*not in the part of the cluster that decides"):
            async with locks.lock("outer") as outer, locks.lock("inner"):
                shell.cluster.cut_off()
                await shell.end_by_loss(outer)
        assert shell.cluster.state.table.locks
        shell.cluster.merge()
        await shell.until(lambda: shell.cluster.state.table.locks == {})


@on_all_shells
async def test_a_lease_that_is_over_is_lost_by_the_own_clock(shell):
    async with shell.connect() as locks:
        with loses(r"without renewal"):
            async with locks.lock("backup", duration=60) as held:
                shell.now += 59
                held.check()
                await held.renew()
                assert held.remaining() == pytest.approx(60, rel=0.002)
                shell.now += 61
                with loses():
                    held.check()


# ---- readiness, and connections that are lost


@on_all_shells
async def test_while_the_servers_decide_nothing(shell):
    cluster = shell.cluster
    cluster.cut_off()
    async with shell.connect() as locks:
        await shell.until(lambda: locks.why_not_ready == "the ring is not quorate, as node 1 reports")
        assert not locks.ready
        with pytest.raises(NotReady, match="not quorate"):
            await locks.lock("backup", timeout=0).acquire()
        with pytest.raises(NotReady, match="not quorate"):
            await locks.lock("backup", timeout=0.01).acquire()
        async with shell.tasks() as tasks:
            tasks.start_soon(locks.wait_ready)
            cluster.merge()
        assert (locks.ready, locks.why_not_ready) == (True, "")
        async with locks.lock("backup"):
            pass
        assert cluster.state.table.locks == {}


@on_all_shells
async def test_a_lock_outlives_its_connection(shell):
    async with shell.connect() as locks:
        async with locks.lock("backup") as held:
            shell.go_away()
            await shell.until(lambda: not locks.ready)
            assert locks.why_not_ready.startswith("there is no connection to a lock server: ")
            shell.come_back()
            held.check()
            await locks.wait_ready()
            assert shell.cluster.holders(b"backup") == [held.token]
            held.check()
        assert shell.cluster.state.table.locks == {}


@on_all_shells
@pytest.mark.parametrize("key", [None, b"key", b"another"])
async def test_who_waits_goes_on_waiting_at_the_next_connection(shell, key):
    """At the same server, at one that knows its clients again, and at one that does not."""
    cluster = shell.cluster
    async with shell.connect() as locks, shell.tasks() as tasks:

        async def wait():
            async with locks.lock("backup") as held:
                assert cluster.holders(b"backup") == [held.token]

        async with locks.lock("backup"):
            tasks.start_soon(wait)
            await shell.until(waits(cluster, 1))
            if key:
                cluster.restart(key=key)
                assert cluster.waiting(b"backup") == 0
            shell.cut()
            await shell.until(lambda: cluster.kinds_said.count("Hello") == 2)
            await locks.wait_ready()
            await shell.until(waits(cluster, 1))
        if key == b"another":
            cluster.force(b"backup")  # what a client holds that nobody knows would end with its lease
    assert cluster.state.table.locks == {}


@on_all_shells
@pytest.mark.parametrize(("restarts", "why"), [(False, "an administrator took it"), (True, "there was no connection")])
async def test_a_lock_that_was_taken_meanwhile_is_lost_with_the_next_connection(shell, restarts, why):
    async with shell.connect() as locks:
        with loses(why):
            async with locks.lock("backup") as held:
                shell.go_away()
                shell.cluster.force(b"backup")
                if restarts:
                    shell.cluster.restart()
                shell.come_back()
                await shell.end_by_loss(held)
        await shell.until(lambda: shell.cluster.state.table.locks == {})


@on_all_shells
async def test_what_was_given_back_without_a_connection_is_given_back_with_the_next(shell):
    cluster = shell.cluster
    async with shell.connect() as locks:
        async with locks.lock("backup"):
            shell.go_away()
            await shell.until(lambda: not locks.ready)
        with pytest.raises(NotReady, match="no connection"):
            await locks.lock("other", timeout=0).acquire()
        assert cluster.holders(b"backup")
        shell.come_back()
        await locks.wait_ready()
        await shell.until(lambda: not cluster.holders(b"backup"))
        async with locks.lock("other", timeout=0):
            pass


@on_all_shells
async def test_a_program_that_ends_without_a_connection_waits_for_one_if_it_has_something_to_give_back(shell):
    ended = False

    async def reopen():
        await shell.until(lambda: ended)
        shell.come_back()

    async with shell.tasks() as tasks:
        async with shell.connect() as locks, locks.lock("backup"):
            shell.go_away()
            await shell.until(lambda: not locks.ready)
            tasks.start_soon(reopen)
            ended = True
        await shell.until(lambda: shell.cluster.kinds_said[-1] == "Bye")
        assert shell.cluster.state.table.locks == {}


@on_all_shells
async def test_a_waiter_is_informed_of_the_end_of_the_client(shell):
    cluster = shell.cluster

    async def wait():
        with pytest.raises(ConnectionLost, match="closed its connection"):
            await locks.lock("backup").acquire()

    async with shell.tasks() as tasks, shell.connect() as others, others.lock("backup"):
        async with shell.connect() as locks:
            tasks.start_soon(wait)
            await shell.until(waits(cluster, 1))
        await shell.until(waits(cluster, 0))
    for call in (locks.wait_ready, locks.status):
        with pytest.raises(ConnectionLost, match="has been closed"):
            await call()


# ---- what there is to see and to do for an administrator


@on_all_shells
async def test_questions_and_force(shell):
    async with shell.connect() as locks, shell.connect() as administrators:
        assert (await locks.status())["ready"] is True
        with loses(r"administrator"):
            async with locks.lock("backup") as held:
                (ticket,) = await administrators.tickets()
                assert (ticket["name"], ticket["holders"][0]["token"]) == ("backup", held.token)
                await administrators.force("backup", held.token)
                await shell.end_by_loss(held)


@on_all_shells
async def test_who_decides_is_changed(shell):
    async with shell.connect() as locks, locks.lock("backup") as held:
        await locks.change_voters({1: 2, 2: 1}, tie_breaker=1)
        assert dict(shell.cluster.state.voters.electorate.votes) == {1: 2, 2: 1}
        assert shell.cluster.state.voters.electorate.tie_breaker == 1
        with pytest.raises(NotReady, match="that are to decide: nothing from node 7"):
            await locks.change_voters({1: 1, 7: 2})
        await locks.change_voters({1: 1, 2: 1, 3: 1})
        held.check()
        assert shell.cluster.state.voters.version == 3
    shell.cluster.cut_off()
    async with shell.connect() as locks:
        with pytest.raises(NotReady, match="the lock servers decide nothing now"):
            await locks.change_voters({1: 1})


@on_all_shells
async def test_what_an_administrator_wants_and_does_not_see(shell, monkeypatch):
    monkeypatch.setattr(client_steps, "PATIENCE", 0.01)
    monkeypatch.setattr(Electorate, "is_in_force", lambda *_: False)
    async with shell.connect() as locks:
        with pytest.raises(OutcomeUnknown, match="are not in force: 1; look at the status again"):
            await locks.change_voters({1: 1})
        with loses("administrator"):
            async with locks.lock("backup") as held:
                shell.stop_order()
                with pytest.raises(OutcomeUnknown, match="look at the tickets again"):
                    await locks.force("backup", held.token)
                shell.resume_order()
                await shell.end_by_loss(held)
