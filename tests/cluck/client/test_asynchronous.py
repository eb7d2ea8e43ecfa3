"""What only programs on trio and on asyncio have: cancellation, bodies that are cancelled, and virtual time."""

import errno
import inspect
import os
import socket

import anyio
import pytest
import trio
import trio.testing

import cpg
from cluck import blocking
from cluck.client.asynchronous import connect, over
from cluck.client.session_locks import ANSWER_PATIENCE, LEASE
from cluck.client.steps import LAST_PATIENCE, PATIENCE
from cluck.daemon.server import START_PATIENCE
from cluck.errors import (
    ConnectionLost,
    DaemonUnavailable,
    NotReady,
    OutcomeUnknown,
)
from cluck.protocol import Farewell, Goodbye
from cpg.local.client_socket import WELCOME_PATIENCE
from tests.cluck.client.loops import Cut, on_both_loops
from tests.cluck.client.servers import Cluster, Handed, SocketServer
from tests.cluck.client.test_locks import loses


@pytest.fixture
def cluster():
    return Cluster()


def to(cluster, clock=lambda: 0.0, *, reconnect=True):
    return over(Handed(cluster, clock), reconnect=reconnect, program="test")


async def until(condition):
    while not condition():
        await anyio.sleep(0)


# ---- locks


@on_both_loops
async def test_a_forked_process_cannot_check_the_lock(cluster):
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


class ChildEndsError(Exception):
    pass


async def result(call):
    found = call()
    return await found if inspect.isawaitable(found) else found


async def refused(*calls):
    """Check that each call is refused in a forked process."""
    for call in calls:
        with pytest.raises(RuntimeError, match="belongs to the process before the fork"):
            await result(call)


@on_both_loops
async def test_a_forked_process_leaves_everything_to_its_parent(cluster, tmp_path):
    own, status = os.getpid(), 1
    with SocketServer(tmp_path / "socket", cluster) as server:
        try:
            async with (
                connect(server.path) as locks,
                locks.lock("backup", duration=60) as held,
                locks.condition("filled", lock="queue") as filled,
                locks.candidate("scheduler") as me,
                locks.observe("scheduler") as leaderships,
            ):
                await until(lambda: me.is_leader)
                acquired = await locks.lock("another").acquire()
                said = cluster.kinds_said
                child = os.fork()
                if not child:
                    await refused(held.check, held.remaining, held.renew, held.release, acquired.release)
                    await refused(locks.lock("third").acquire, filled.wait, filled.notify, filled.notify_all)
                    await refused(lambda: me.role, lambda: me.is_leader, lambda: me.publish(b""), me.resign)
                    await refused(leaderships.__anext__, me.roles().__anext__, locks.wait_ready, locks.status)
                    raise ChildEndsError
                assert os.waitpid(child, 0)[1] == 0
                assert [kind for kind in cluster.kinds_said[len(said) :] if kind not in ("Renew", "Pong")] == []
                with anyio.fail_after(10):
                    await held.renew()
                    await acquired.release()
                assert cluster.holders(b"backup") == [held.token]
                assert me.is_leader
        except ChildEndsError:
            status = 0
        finally:
            if os.getpid() != own:
                os._exit(status)


# ---- in virtual time


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


def test_a_wait_while_nobody_decides_is_logged(caplog):
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
@pytest.mark.parametrize("has_block", [False, True])
@on_both_loops
async def test_acquire_and_release_are_safe_wherever_they_are_cancelled(cluster, is_contended, has_block):
    reached = 0
    async with to(cluster) as locks, to(cluster) as others:

        async def program():
            if has_block:
                async with locks.lock("backup"):
                    await anyio.sleep(0)
            else:
                held = await locks.lock("backup").acquire()
                try:
                    await anyio.sleep(0)
                finally:
                    await held.release()
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


# ---- what runs while a candidate leads


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


# ---- connections that are lost


@on_both_loops
async def test_what_the_body_raises_is_the_context_where_the_connection_is_lost(cluster):
    transport = Handed(cluster)

    async def body():
        async with over(transport) as locks:
            transport.cut()
            with anyio.CancelScope(shield=True):
                await until(locks._has_ended)
            raise KeyError("in vain")

    with pytest.raises(ConnectionLost) as caught:
        await body()
    assert isinstance(caught.value.__context__, KeyError)


@on_both_loops
async def test_without_reconnecting_the_block_ends(cluster):
    transport = Handed(cluster)

    async def program():
        nonlocal held, me
        async with over(transport, reconnect=False) as locks, locks.lock("backup"), locks.candidate("scheduler") as me:
            held = await locks.lock("another").acquire()
            await until(lambda: me.is_leader)
            transport.cut()
            await anyio.sleep_forever()

    held, me = None, None
    with pytest.raises(ConnectionLost, match="cut"):
        await program()
    with loses("lock 'another': the connection was cut"):
        held.check()
    with loses("lock 'another': the connection was cut"):
        await held.release()
    assert me.why_ended == "the connection was cut"


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
def test_a_lost_lock_is_reported_at_its_deadline_where_the_lock_server_hangs(duration, lease):
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
            with Elapsed() as elapsed, loses("not held again, the lock server has not answered"):
                await wait(cluster, locks)
            assert elapsed.seconds <= 1 + PATIENCE + 2 * LAST_PATIENCE
            cluster.go_on()
            await until(lambda: cluster.state.table.locks == {})  # where the wait did not begin its lock is given back
            assert cluster.waiters(b"filled") == []

    in_virtual_time(program)


def test_another_waiter_is_notified_instead_of_one_that_cannot_be_reached():
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
