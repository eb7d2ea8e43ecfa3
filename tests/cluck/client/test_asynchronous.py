"""Locks as programs on trio and on asyncio see them."""

import errno
import os
import socket

import anyio
import pytest
import trio
import trio.testing

import cpg
from cluck import blocking
from cluck.client.asynchronous import LAST_PATIENCE, PATIENCE, connect, over
from cluck.client.session_locks import ANSWER_PATIENCE, LEASE
from cluck.daemon.server import START_PATIENCE
from cluck.errors import (
    ConnectionLost,
    DaemonUnavailable,
    DeadlockError,
    KindMismatch,
    LockLost,
    LockTimeout,
    NotReady,
    OutcomeUnknown,
)
from cluck.protocol import Farewell, Goodbye
from cpg.local.client_socket import WELCOME_PATIENCE
from tests.cluck.client.loops import Cut, on_both_loops
from tests.cluck.client.servers import Cluster, Handed, SocketServer


@pytest.fixture
def cluster():
    return Cluster()


def to(cluster, clock=lambda: 0.0, *, reconnect=True):
    return over(Handed(cluster, clock), reconnect=reconnect, program="test")


def loses(why=None):
    """What the body of a lost lock comes to."""
    return pytest.raises(LockLost, match=why)


async def until(condition):
    while not condition():
        await anyio.sleep(0)


# ---- locks


@on_both_loops
async def test_a_lock_is_held_for_the_time_of_a_block(cluster):
    async with to(cluster) as locks:
        async with locks.lock("backup") as held:
            assert (held.name, cluster.holders(b"backup")) == (b"backup", [held.token])
            assert 0 < held.remaining() <= 5
            held.check()
        assert cluster.holders(b"backup") == []
        assert held.remaining() == 0
        with loses(r"given back"):
            held.check()
        async with locks.lock(b"backup") as again:
            assert again.token > held.token
    assert not cluster.state.requests.histories


@on_both_loops
async def test_a_lock_and_a_candidate_say_what_they_are(cluster):
    async with to(cluster) as locks:
        held = locks.lock("backup")
        assert repr(held) == "<Held: not asked for yet>"
        async with held:
            assert repr(held) == f"<Held: lock 'backup', held with token {held.token}>"
        assert repr(held) == "<Held: lock 'backup', not held>"
        async with locks.candidate("scheduler") as candidate:
            await until(lambda: candidate.is_leader)
            token = candidate.role.token
            assert repr(candidate) == f"<Candidate: election 'scheduler', leads with token {token}>"
        assert repr(candidate) == "<Candidate: election 'scheduler', does not lead>"


@on_both_loops
async def test_a_forked_process_cannot_tell_whether_it_holds_the_lock(cluster):
    async with to(cluster) as locks, locks.lock("backup") as held:
        child = os.fork()
        if not child:
            status = 1
            try:
                held.check()
            except RuntimeError:
                try:
                    locks.lock("another")
                    locks._check()
                except RuntimeError:
                    status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        held.check()


@on_both_loops
async def test_others_wait_in_their_order(cluster):
    order = []
    async with to(cluster) as locks, to(cluster) as others:

        async def take(whose, number):
            async with whose.lock("backup"):
                order.append(number)

        async with anyio.create_task_group() as tasks, locks.lock("backup"):
            for number in range(6):
                tasks.start_soon(take, (locks, others)[number % 2], number)
                await until(lambda number=number: cluster.waiting(b"backup") == number + 1)
            assert order == []
    assert order == [0, 1, 2, 3, 4, 5]


@on_both_loops
async def test_sharing_and_permits(cluster):
    async with to(cluster) as locks, to(cluster) as others:
        async with locks.shared("table") as one, others.shared("table") as two:
            assert cluster.holders(b"table") == [one.token, two.token]
            with pytest.raises(DeadlockError):
                await others.lock("table", timeout=0).__aenter__()
        async with locks.lock("table"):
            with pytest.raises(LockTimeout, match="others hold it"):
                await others.shared("table", timeout=0).__aenter__()
        async with locks.semaphore("slots", 2), locks.semaphore("slots", 2):
            with pytest.raises(LockTimeout, match="others hold it"):
                await locks.semaphore("slots", 2, timeout=0).__aenter__()
            with pytest.raises(KindMismatch, match="another number of permits"):
                await locks.semaphore("slots", 3).__aenter__()


@on_both_loops
async def test_a_timeout_means_what_it_says_and_leaves_nothing_behind(cluster):
    async with to(cluster) as locks, locks.lock("backup"):

        async def try_for_a_while():
            with pytest.raises(LockTimeout, match=r"within 0.01 s, 1 ticket was ahead"):
                await locks.lock("backup", timeout=0.01).__aenter__()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(try_for_a_while)
        assert cluster.waiting(b"backup") == 0


@on_both_loops
async def test_who_would_wait_for_itself_is_told_the_circle(cluster):
    async with to(cluster) as locks, locks.lock("a"):
        with pytest.raises(DeadlockError) as caught:
            await locks.lock("a").__aenter__()
        assert caught.value.cycle == (b"a",)

        async def other():
            async with locks.lock("b"), locks.lock("a"):
                pass

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            await until(lambda: cluster.waiting(b"a"))
            with pytest.raises(DeadlockError, match="around 'b', 'a'"):
                await locks.lock("b").__aenter__()
            tasks.cancel_scope.cancel()


@on_both_loops
async def test_wrong_arguments_are_refused_before_anything_is_said(cluster):
    async with to(cluster) as locks:
        for wrong in (
            lambda: locks.lock(""),
            lambda: locks.lock("x" * 1025),
            lambda: locks.lock("x", timeout=-1),
            lambda: locks.lock("x", duration=0),
            lambda: locks.lock("x", duration=8 * 86400),
            lambda: locks.lock("x", grace=-1),
        ):
            with pytest.raises(ValueError, match=r"name of|timeout=|duration=|grace="):
                await wrong().__aenter__()
        with pytest.raises(ValueError, match="permits=0"):
            locks.semaphore("x", 0)
    assert cluster.kinds_said == ["Hello", "Bye"]


# ---- locks that are lost


@on_both_loops
async def test_a_lost_lock_cancels_the_body_and_comes_out_as_it_is(cluster):
    async with to(cluster) as locks:
        with loses(r"an administrator took it") as caught:
            async with locks.lock("backup") as held:
                cluster.force(b"backup")
                await anyio.sleep_forever()
        assert held.lost.is_set()
        assert caught.value.__context__ is None
        with loses():
            held.check()


@on_both_loops
async def test_a_body_that_runs_on_and_one_that_fails_lose_it_too(cluster):
    async with to(cluster) as locks:
        with loses():
            async with locks.lock("backup"):
                cluster.force(b"backup")
        with loses() as caught:
            async with locks.lock("backup") as held:
                cluster.force(b"backup")
                with anyio.CancelScope(shield=True):
                    await held.lost.wait()
                raise KeyError("in vain")
        assert isinstance(caught.value.__context__, KeyError)


@on_both_loops
@pytest.mark.parametrize(
    "hold",
    [
        lambda locks: locks.shared("backup"),
        lambda locks: locks.semaphore("backup", 2),
        lambda locks: locks.condition("empty", lock="backup"),
    ],
    ids=["shared", "semaphore", "condition"],
)
async def test_what_the_body_raises_is_the_context_in_each_kind(cluster, hold):
    async with to(cluster) as locks:
        with loses() as caught:
            async with hold(locks) as held:
                cluster.force(b"backup")
                with anyio.CancelScope(shield=True):
                    await getattr(held, "held", held).lost.wait()
                raise KeyError("in vain")
        assert isinstance(caught.value.__context__, KeyError)


@on_both_loops
async def test_what_the_body_raises_comes_out_and_the_lock_is_given_back(cluster):
    async with to(cluster) as locks:
        with pytest.raises(KeyError, match="mine"):
            async with locks.lock("backup"):
                raise KeyError("mine")
        assert cluster.state.table.locks == {}


@on_both_loops
async def test_of_two_that_are_lost_the_outer_one_comes_out(cluster):
    async with to(cluster) as locks:
        with loses(r"lock 'outer'.*not in the part of the cluster that decides"):
            async with locks.lock("outer"), locks.lock("inner"):
                cluster.cut_off()
                await anyio.sleep_forever()
        assert cluster.state.table.locks
        cluster.merge()
        assert cluster.state.table.locks == {}


async def let_time_pass(cluster):
    while True:
        await trio.sleep(0.5)
        cluster.advance()


def in_virtual_time(program):
    """Run a program on trio, whose clock is the leases' one."""

    async def run():
        cluster = Cluster(trio.current_time, ahead=1e6)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_time_pass, cluster)
            with trio.fail_after(1e5):
                await program(cluster)
            nursery.cancel_scope.cancel()

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_lease_without_duration_is_renewed_as_long_as_the_block_runs():
    async def program(cluster):
        async with to(cluster, trio.current_time) as locks:
            async with locks.lock("backup") as held:
                await trio.sleep(3600)
                assert held.remaining() > 3
            renewals = cluster.kinds_said.count("Renew")
            assert 3600 / 1.7 - 10 < renewals < 3600 / 1.6 + 10

    in_virtual_time(program)


def test_who_waits_while_nobody_decides_is_told_in_the_log(caplog):
    async def program(cluster):
        cluster.cut_off()
        async with to(cluster, trio.current_time) as locks, trio.open_nursery() as nursery:

            async def merge():
                await trio.sleep(30)
                cluster.merge()

            nursery.start_soon(merge)
            async with locks.lock("backup"):
                pass
            cluster.cut_off()
            await until(lambda: not locks.ready)
            nursery.start_soon(merge)
            await locks.wait_ready()

    in_virtual_time(program)
    waits, ready, awaits, ready_again = (
        record.getMessage() for record in caplog.records if record.name == "cluck.client.asynchronous"
    )
    assert waits.startswith("lock 'backup' waits, since the lock servers are not ready: the ring is not quorate")
    assert ready == ready_again == "the lock servers are ready again"
    assert awaits.startswith("this program waits, since the lock servers are not ready: the ring is not quorate")


def test_a_duration_ends_the_body():
    async def program(cluster):
        async with to(cluster, trio.current_time) as locks:
            began = trio.current_time()
            with loses(r"lease ended without renewal"):
                async with locks.lock("backup", duration=60):
                    await trio.sleep_forever()
            assert trio.current_time() - began == pytest.approx(60, rel=0.002)
            assert cluster.state.table.locks == {}

    in_virtual_time(program)


def test_a_duration_may_be_renewed():
    async def program(cluster):
        async with to(cluster, trio.current_time) as locks:
            began = trio.current_time()
            with loses():
                async with locks.lock("backup", duration=60) as held:
                    await trio.sleep(50)
                    await held.renew()
                    assert held.remaining() == pytest.approx(60, rel=0.002)
                    await trio.sleep_forever()
            assert trio.current_time() - began == pytest.approx(110, rel=0.002)
            with loses():
                await held.renew()

    in_virtual_time(program)


def test_notice_is_given_before_a_lease_ends():
    async def program(cluster):
        async with to(cluster, trio.current_time) as locks, locks.lock("backup", duration=60) as held:
            await held.unlocking.wait()
            assert 10 < held.remaining() < 13
            await held.renew()
            assert not held.unlocking.is_set()

    in_virtual_time(program)


def test_a_lease_that_ended_while_the_loop_stood_still_is_seen_when_the_block_ends():
    async def program(cluster):
        now = 0.0
        async with to(cluster, lambda: now) as locks:
            with loses(r"without renewal"):
                async with locks.lock("backup", duration=60) as held:
                    now += 61
                    with loses():
                        held.check()

    in_virtual_time(program)


# ---- cancellation


@pytest.mark.parametrize("is_contended", [False, True])
@on_both_loops
async def test_acquire_and_release_are_safe_wherever_they_are_cancelled(cluster, is_contended):
    reached = 0
    async with to(cluster) as locks, to(cluster) as others:

        async def program():
            async with locks.lock("backup"):
                await anyio.sleep(0)
            await anyio.sleep(0)

        async def hold():
            if is_contended:
                async with others.lock("backup"):
                    await until(lambda: cluster.waiting(b"backup") or not running)

        cut = Cut(0)
        while not reached or cut.was_reached:
            cut, running = Cut(reached), True
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hold)
                if is_contended:
                    await until(lambda: cluster.holders(b"backup"))
                await cut.run(program)
                running = False
            assert cluster.state.table.locks == {}, f"cancelled where it waits for the {reached}th time"
            reached += 1
    assert reached > 3


@on_both_loops
async def test_a_program_that_is_cancelled_as_a_whole_gives_its_locks_back_in_order(cluster):
    held, tickets = anyio.Event(), []

    async def program():
        async with to(cluster) as locks, locks.candidate("scheduler"), locks.lock("backup") as lock:
            tickets.append(lock._ticket)
            held.set()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(program)
        await held.wait()
        tasks.cancel_scope.cancel()
    assert cluster.kinds_said[-3:] == ["Release", "Withdraw", "Bye"]
    assert tickets[0].is_over
    assert tickets[0].failure is None, "the answer was not heard"
    assert cluster.state.table.locks == {}


@on_both_loops
async def test_a_cancelled_waiter_leaves_the_queue(cluster):
    async with to(cluster) as locks, locks.lock("backup"):
        with anyio.move_on_after(0.01):
            async with anyio.create_task_group() as tasks:

                async def wait():
                    await locks.lock("backup").__aenter__()

                tasks.start_soon(wait)
        assert cluster.waiting(b"backup") == 0


# ---- readiness, and connections that are lost


@on_both_loops
async def test_while_the_servers_decide_nothing(cluster):
    cluster.cut_off()
    async with to(cluster) as locks:
        assert (locks.ready, locks.why_not_ready) == (False, "the ring is not quorate, as node 1 is told")
        with pytest.raises(NotReady, match="not quorate"):
            await locks.lock("backup", timeout=0).__aenter__()
        with pytest.raises(NotReady, match="not quorate"):
            await locks.lock("backup", timeout=0.01).__aenter__()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(locks.wait_ready)
            await anyio.sleep(0)
            cluster.merge()
        assert (locks.ready, locks.why_not_ready) == (True, "")
        async with locks.lock("backup"):
            pass
        assert cluster.state.table.locks == {}


@on_both_loops
async def test_what_the_body_raises_is_the_context_where_the_connection_is_lost(cluster):
    transport = Handed(cluster)

    async def body():
        async with over(transport) as locks:
            transport.cut()
            with anyio.CancelScope(shield=True):
                await until(locks._ended)
            raise KeyError("in vain")

    with pytest.raises(ConnectionLost) as caught:
        await body()
    assert isinstance(caught.value.__context__, KeyError)


@on_both_loops
async def test_a_lock_outlives_its_connection(cluster):
    transport = Handed(cluster)
    async with over(transport, reconnect=True) as locks:
        async with locks.lock("backup") as held:
            transport.is_up = False
            transport.cut()
            await until(lambda: not locks.ready)
            assert "the connection was cut" in locks.why_not_ready
            transport.is_up = True
            held.check()
            await locks.wait_ready()
            assert cluster.holders(b"backup") == [held.token]
            held.check()
        assert cluster.state.table.locks == {}


@pytest.mark.parametrize("key", [None, b"key", b"another"])
@on_both_loops
async def test_who_waits_goes_on_waiting_at_the_next_connection(cluster, key):
    """At the same server, at one that knows its clients again, and at one that does not."""
    transport = Handed(cluster)
    async with over(transport, reconnect=True) as locks, anyio.create_task_group() as tasks:

        async def wait():
            async with locks.lock("backup") as held:
                assert cluster.holders(b"backup") == [held.token]

        async with locks.lock("backup"):
            tasks.start_soon(wait)
            await until(lambda: cluster.waiting(b"backup"))
            if key:
                cluster.restart(key=key)
                assert cluster.waiting(b"backup") == 0
            transport.cut()
            await until(lambda: cluster.kinds_said.count("Hello") == 2)
            await locks.wait_ready()
            await until(lambda: cluster.waiting(b"backup") == 1)
        if key == b"another":
            cluster.force(b"backup")  # what a client holds that nobody knows would end with its lease
    assert cluster.state.table.locks == {}


@on_both_loops
async def test_a_lock_that_was_taken_meanwhile_is_lost_with_the_next_connection(cluster):
    transport = Handed(cluster)
    async with over(transport, reconnect=True) as locks:
        with loses(r"an administrator took it"):
            async with locks.lock("backup"):
                transport.cut()
                cluster.force(b"backup")
                await anyio.sleep_forever()
        with loses(r"taken while there was no connection"):
            async with locks.lock("backup"):
                transport.cut()
                cluster.force(b"backup")
                cluster.restart()
                await anyio.sleep_forever()
        assert cluster.state.table.locks == {}


@on_both_loops
async def test_what_was_given_back_without_a_connection_is_given_back_with_the_next(cluster):
    transport = Handed(cluster)
    async with over(transport, reconnect=True) as locks:
        async with locks.lock("backup"):
            transport.is_up = False
            transport.cut()
            await until(lambda: not locks.ready)
        with pytest.raises(NotReady, match="no connection"):
            await locks.lock("other", timeout=0).__aenter__()
        assert cluster.holders(b"backup")
        transport.is_up = True
        await locks.wait_ready()
        await until(lambda: not cluster.holders(b"backup"))
        async with locks.lock("other", timeout=0):
            pass


@on_both_loops
async def test_a_program_that_ends_without_a_connection_waits_for_one_if_it_has_something_to_give_back(cluster):
    transport = Handed(cluster)

    async def reopen():
        await until(lambda: transport.tries > 1)
        transport.is_up = True

    async with anyio.create_task_group() as tasks:
        async with over(transport, reconnect=True) as locks, locks.lock("backup"):
            transport.is_up = False
            transport.cut()
            await until(lambda: not locks.ready)
            tasks.start_soon(reopen)
        assert cluster.kinds_said[-1] == "Bye"
        assert cluster.state.table.locks == {}


@on_both_loops
async def test_without_reconnecting_the_block_ends(cluster):
    transport = Handed(cluster)

    async def program():
        async with over(transport, reconnect=False) as locks, locks.lock("backup"):
            transport.cut()
            await anyio.sleep_forever()

    with pytest.raises(ConnectionLost, match="cut"):
        await program()


@on_both_loops
async def test_tasks_outside_of_the_block_hear_of_its_end(cluster):
    async def wait():
        with pytest.raises(ConnectionLost, match="closed its connection"):
            await locks.lock("backup").__aenter__()

    async with anyio.create_task_group() as tasks, to(cluster) as others, others.lock("backup"):
        async with to(cluster) as locks:
            tasks.start_soon(wait)
            await until(lambda: cluster.waiting(b"backup"))
        assert cluster.waiting(b"backup") == 0
    with pytest.raises(ConnectionLost, match="has been closed"):
        await locks.wait_ready()


@on_both_loops
async def test_a_goodbye_that_no_other_connection_would_better(cluster):
    transport = Handed(cluster)

    async def program():
        async with over(transport, reconnect=True) as locks, locks.lock("backup"):
            transport.hear(Goodbye(Farewell.VERSION, "your version is not spoken any more"))
            await anyio.sleep_forever()

    with pytest.raises(DaemonUnavailable, match="not spoken any more"):
        await program()


# ---- a lock server that stands still


class Elapsed:
    """Seconds that a block has taken."""

    def __enter__(self):
        self._begun = trio.current_time()
        return self

    def __exit__(self, *_):
        self.seconds = trio.current_time() - self._begun


@pytest.mark.parametrize(("timeout", "longest"), [(0, ANSWER_PATIENCE), (0.3, 0.3), (1, 1)])
def test_a_timeout_is_kept_where_the_lock_server_stands_still(timeout, longest):
    async def program(cluster):
        async with to(cluster, trio.current_time) as locks:
            cluster.stand_still()
            with Elapsed() as elapsed, pytest.raises(NotReady, match="the lock server has not answered"):
                await locks.lock("backup", timeout=timeout).__aenter__()
            assert longest <= elapsed.seconds <= longest + LAST_PATIENCE
            cluster.go_on()
            assert cluster.state.table.locks == {}
            async with locks.lock("backup", timeout=0):
                pass

    in_virtual_time(program)


def test_what_was_given_up_is_not_granted_to_a_client_that_has_ended():
    async def program(cluster):
        async with to(cluster, trio.current_time) as others, others.lock("backup"):
            with Elapsed() as elapsed:
                async with to(cluster, trio.current_time) as locks:
                    cluster.stand_still()
                    with pytest.raises(NotReady):
                        await locks.lock("backup", timeout=1).__aenter__()
            assert elapsed.seconds <= 1 + LAST_PATIENCE
            cluster.go_on()
            assert len(cluster.holders(b"backup")) == 1
            assert cluster.waiting(b"backup") == 0
        assert cluster.state.table.locks == {}

    in_virtual_time(program)


@pytest.mark.parametrize("hold", [lambda locks: locks.lock("backup"), lambda locks: locks.candidate("backup")])
@pytest.mark.parametrize("is_had", [False, True])
def test_a_cancelled_task_comes_out_where_the_lock_server_stands_still(hold, is_had):
    async def program(cluster):
        async with to(cluster, trio.current_time) as locks:
            if not is_had:
                cluster.stand_still()
            with Elapsed() as elapsed, trio.move_on_after(1):
                async with hold(locks):
                    cluster.stand_still()
                    await trio.sleep_forever()
            assert elapsed.seconds <= 1 + LAST_PATIENCE
            cluster.go_on()
            assert cluster.state.table.locks == {}
            assert cluster.candidates(b"backup") == []

    in_virtual_time(program)


@pytest.mark.parametrize("hold", [lambda locks: locks.lock("backup"), lambda locks: locks.candidate("backup")])
def test_a_block_ends_where_the_lock_server_stands_still(hold):
    async def program(cluster):
        async with to(cluster, trio.current_time) as locks:
            async with hold(locks):
                cluster.stand_still()
                begun = trio.current_time()
            assert trio.current_time() - begun <= ANSWER_PATIENCE
            cluster.go_on()
            assert cluster.state.table.locks == {}
            assert cluster.candidates(b"backup") == []

    in_virtual_time(program)


@pytest.mark.parametrize(("duration", "lease"), [(None, LEASE), (60, 60)])
def test_a_lost_lock_is_told_at_its_deadline_where_the_lock_server_stands_still(duration, lease):
    async def program(cluster):
        async with to(cluster, trio.current_time) as locks:
            with Elapsed() as elapsed, loses(r"without renewal"):
                async with locks.lock("backup", duration=duration):
                    cluster.stand_still()
                    await trio.sleep_forever()
            assert elapsed.seconds == pytest.approx(lease, rel=0.002)

    in_virtual_time(program)


@pytest.mark.parametrize("is_heard", [False, True])
def test_a_wait_on_a_condition_has_an_end_where_the_lock_server_stands_still(is_heard):
    """Whether it is known to have begun or not."""

    async def wait(cluster, locks):
        async with locks.condition("filled", lock="queue") as filled, trio.open_nursery() as nursery:

            async def stop():
                await trio.sleep(0.5)
                cluster.stand_still()

            if is_heard:
                nursery.start_soon(stop)
            else:
                cluster.stand_still()
            await filled.wait(1)

    async def program(cluster):
        async with to(cluster, trio.current_time) as locks:
            with Elapsed() as elapsed, loses("not had back, the lock server has not answered"):
                await wait(cluster, locks)
            assert elapsed.seconds <= 1 + PATIENCE + 2 * LAST_PATIENCE
            cluster.go_on()
            await until(lambda: cluster.state.table.locks == {})  # where the wait did not begin its lock is given back
            assert cluster.waiters(b"filled") == []

    in_virtual_time(program)


def test_another_waiter_is_notified_in_the_place_of_one_that_could_not_be_told():
    async def program(cluster):
        async with to(cluster, trio.current_time) as locks, trio.open_nursery() as nursery:

            async def wait(timeout):
                async with locks.condition("filled", lock="queue") as filled:
                    assert await filled.wait(timeout, reacquire=False)

            async def wait_for_a_second():
                with pytest.raises(OutcomeUnknown, match="may have been notified"):
                    await wait(1)

            nursery.start_soon(wait_for_a_second)
            await until(lambda: len(cluster.waiters(b"filled")) == 1)
            nursery.start_soon(wait, None)
            await until(lambda: len(cluster.waiters(b"filled")) == 2)
            async with locks.condition("filled", lock="queue", duration=60) as filled:
                cluster.stand_still()
                with trio.move_on_after(0.5):
                    await filled.notify()
                await trio.sleep(2 * PATIENCE)
                cluster.go_on()

    in_virtual_time(program)


def test_a_client_that_ends_does_not_wait_for_a_connection_to_give_back_what_is_over():
    async def program(cluster):
        transport = Handed(cluster, trio.current_time)
        with Elapsed() as elapsed, loses("without renewal"):
            async with over(transport, reconnect=True) as locks, locks.lock("backup", duration=60):
                transport.is_up = False
                transport.cut()
                await trio.sleep_forever()
        assert elapsed.seconds == pytest.approx(60, rel=0.002)

    in_virtual_time(program)


def test_a_client_that_is_cancelled_waits_a_moment_for_a_connection():
    async def program(cluster):
        transport = Handed(cluster, trio.current_time)
        with Elapsed() as elapsed, trio.move_on_after(1):
            async with over(transport, reconnect=True) as locks, locks.lock("backup", duration=60):
                transport.is_up = False
                transport.cut()
                await trio.sleep_forever()
        assert elapsed.seconds <= 1 + LAST_PATIENCE

    in_virtual_time(program)


# ---- what there is to see and to do for an administrator


@on_both_loops
async def test_questions_and_force(cluster):
    async with to(cluster) as locks, to(cluster) as administrators:
        assert (await locks.status())["ready"] is True
        with loses(r"administrator"):
            async with locks.lock("backup") as held:
                (ticket,) = await administrators.tickets()
                assert (ticket["name"], ticket["holders"][0]["token"]) == ("backup", held.token)
                await administrators.force("backup", held.token)
                await anyio.sleep_forever()


@on_both_loops
async def test_who_decides_is_changed(cluster):
    async with to(cluster) as locks, locks.lock("backup") as held:
        await locks.change_voters({1: 2, 2: 1}, tie_breaker=1)
        assert dict(cluster.state.voters.electorate.votes) == {1: 2, 2: 1}
        with pytest.raises(NotReady, match="that are to decide: nothing from node 7"):
            await locks.change_voters({1: 1, 7: 2})
        held.check()


# ---- through a socket


@on_both_loops
async def test_through_a_socket(cluster, tmp_path):
    with SocketServer(tmp_path / "socket", cluster) as server:
        async with connect(tmp_path / "socket") as locks:
            async with locks.lock("backup", duration=60) as held:
                with server.lock:
                    assert cluster.holders(b"backup") == [held.token]
                server.cut()
                await until(lambda: cluster.kinds_said.count("Hello") == 2)
                await locks.wait_ready()
                held.check()
            with server.lock:
                assert cluster.state.table.locks == {}


@on_both_loops
async def test_no_daemon(tmp_path):
    with pytest.raises(DaemonUnavailable, match=r"no daemon listens at .*: start it \(cluckd"):
        await connect(tmp_path / "socket").__aenter__()


@on_both_loops
@pytest.mark.parametrize("socket", [5, b"/run/cluckd/socket", ""])
async def test_the_path_of_a_socket_is_looked_at(socket):
    with pytest.raises((TypeError, ValueError), match=r"socket=.*: a path"):
        await connect(socket).__aenter__()


def at_a_daemon_that_takes_in_nobody(path):
    """Wait there in as many connections as may; returns what is to be closed."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen(0)
    waiting = [listener]
    error = 0
    while error != errno.EAGAIN:
        waiting.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        waiting[-1].setblocking(False)
        error = waiting[-1].connect_ex(str(path))
    return waiting


@pytest.mark.parametrize(
    ("connect", "kind"),
    [
        (lambda path: anyio.run(connect(path).__aenter__), DaemonUnavailable),
        (blocking.connect, DaemonUnavailable),
        (lambda path: anyio.run(cpg.connect(path).__aenter__), cpg.DaemonUnavailable),
        (lambda path: cpg.CPG("group", path=path), cpg.DaemonUnavailable),
    ],
    ids=["cluck", "cluck.blocking", "cpg", "cpg.blocking"],
)
def test_a_daemon_that_takes_in_nobody_is_not_waited_for(tmp_path, connect, kind):
    waiting = at_a_daemon_that_takes_in_nobody(tmp_path / "socket")
    with pytest.raises(kind, match=r"accepts no connection.*: is it stopped\?"):
        connect(tmp_path / "socket")
    for sock in waiting:
        sock.close()


def test_a_welcome_is_waited_for_as_long_as_is_said_and_longer_than_a_daemon_takes_to_start():
    for function in (connect, blocking.connect):
        assert f" {WELCOME_PATIENCE:.0f} seconds" in " ".join(function.__doc__.split())
    assert START_PATIENCE < WELCOME_PATIENCE
