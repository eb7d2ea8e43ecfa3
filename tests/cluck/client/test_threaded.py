"""Locks, conditions and leaders as threads see them, through a real socket."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import pytest

import cluck.blocking
from cluck.client import threaded
from cluck.client.requests import Follower
from cluck.errors import (
    ConnectionLost,
    DaemonUnavailable,
    DeadlockError,
    LeadershipLost,
    LockLost,
    LockTimeout,
    NotReady,
    OutcomeUnknown,
)
from cpg.replication.electorate import Electorate
from tests.cluck.client.servers import Cluster, SocketServer

PATIENCE = 20.0


class Server(SocketServer):
    """With what the tests do while they hold its lock."""

    def __getattr__(self, name):
        with self.lock:
            found = getattr(self.cluster, name)
        if not callable(found):
            return found

        def call(*args):
            with self.lock:
                return found(*args)

        return call


@pytest.fixture
def server(tmp_path):
    with Server(tmp_path / "socket", Cluster()) as server:
        yield server


@pytest.fixture
def connect(server):
    opened = []

    def connect(**options):
        locks = threaded.Locks(server.path, **{"clock": lambda: 0.0, **options})
        opened.append(locks)
        return locks

    yield connect
    for locks in opened:
        locks.close()


@pytest.fixture
def locks(connect):
    return connect()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def until(condition):
    paused, waited = threading.Event(), 0.0
    while not condition():
        paused.wait(0.001)
        waited += 0.001
        assert waited < PATIENCE


def test_a_lock_is_held_for_the_time_of_a_block(server, locks):
    with locks.lock("backup") as held:
        assert server.holders(b"backup") == [held.token]
        assert 0 < held.remaining() <= 5
        held.check()
        assert repr(held) == f"<Held: lock 'backup', held with token {held.token}>"
    assert server.holders(b"backup") == []
    with pytest.raises(LockLost, match="given back"):
        held.check()


def test_threads_exclude_each_other(server, locks, pool):
    inside, most = 0, 0

    def work():
        nonlocal inside, most
        for _ in range(10):
            with locks.lock("backup"):
                inside += 1
                most = max(most, inside)
                inside -= 1

    for done in [pool.submit(work) for _ in range(8)]:
        done.result(PATIENCE)
    assert most == 1


def test_timeouts(server, locks, connect):
    with connect().lock("backup"):
        with pytest.raises(LockTimeout, match="others hold it"):
            locks.lock("backup", timeout=0).__enter__()
        with pytest.raises(LockTimeout, match=r"within 0.01 s, 1 ticket was ahead"):
            locks.lock("backup", timeout=0.01).__enter__()
        assert server.waiting(b"backup") == 0
    with pytest.raises(ValueError, match="timeout=-1"):
        locks.lock("backup", timeout=-1).__enter__()


def test_each_thread_is_an_owner(server, locks, pool):
    with locks.lock("a"):
        with pytest.raises(DeadlockError):
            locks.lock("a").__enter__()
        other = pool.submit(lambda: locks.lock("a").__enter__())
        until(lambda: server.waiting(b"a") == 1)
    assert other.result(PATIENCE).token


def test_a_lost_lock_shows_where_one_looks_and_at_the_end_of_the_block(server, locks):
    def body():
        with locks.lock("backup") as held:
            server.force(b"backup")
            assert held.lost.wait(PATIENCE)
            with pytest.raises(LockLost):
                held.check()

    with pytest.raises(LockLost, match="an administrator took it"):
        body()


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
def test_what_the_body_raises_is_the_context_where_the_lock_is_lost(server, locks, hold):
    def body():
        with hold(locks) as held:
            server.force(b"backup")
            assert getattr(held, "held", held).lost.wait(PATIENCE)
            raise KeyError("in vain")

    with pytest.raises(LockLost, match="an administrator took it") as caught:
        body()
    assert isinstance(caught.value.__context__, KeyError)


def test_an_interrupt_goes_before_the_loss(server, locks):
    def body():
        with locks.lock("backup") as held:
            server.force(b"backup")
            assert held.lost.wait(PATIENCE)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        body()


def test_what_is_raised_for_the_loss_is_not_its_context_too(server, locks):
    def body():
        with locks.lock("backup") as held:
            server.force(b"backup")
            assert held.lost.wait(PATIENCE)
            try:
                held.check()
            except LockLost:
                raise KeyError("not finished") from None

    with pytest.raises(LockLost) as caught:
        body()
    assert caught.value.__context__ is None


def test_what_the_body_raises_comes_out(server, locks):
    def body():
        with locks.lock("backup"):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        body()
    assert server.holders(b"backup") == []


def test_a_lease_that_is_over_is_lost_by_the_own_clock(server, connect):
    now = 0.0
    server.cluster.clock = lambda: now
    locks = connect(clock=lambda: now)

    def body():
        nonlocal now
        with locks.lock("backup", duration=60) as held:
            now = 59.0
            held.check()
            held.renew()
            assert held.remaining() == pytest.approx(60, rel=0.002)
            now = 120.0

    with pytest.raises(LockLost, match="without renewal"):
        body()


def test_leases_are_renewed_by_the_thread_behind(server, tmp_path):
    with cluck.blocking.connect(server.path) as locks, locks.lock("backup"):
        until(lambda: "Renew" in server.kinds_said)


@pytest.fixture
def interruptible():
    """SIGINT is an exception, also where these tests run in the background of a shell, which has it ignored."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def interrupter(server):
    """A thread that interrupts this process when it waits for the lock."""

    def interrupt():
        until(lambda: server.waiting(b"backup") == 1)
        os.kill(os.getpid(), signal.SIGINT)

    return threading.Thread(target=interrupt)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_wait_leaves_nothing_behind(server, locks, connect):
    with connect().lock("backup"):
        thread = interrupter(server)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            locks.lock("backup", timeout=PATIENCE).__enter__()
        thread.join()
        assert server.waiting(b"backup") == 0


@pytest.mark.usefixtures("interruptible")
def test_a_signal_that_does_not_end_the_wait_is_heard_soon(server, locks, connect):
    """As one that comes just before Python waits; here the system gives it to another thread."""
    with connect().lock("backup"):
        thread = interrupter(server)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            thread.start()
            began = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                locks.lock("backup", timeout=PATIENCE).__enter__()
            assert time.monotonic() - began < PATIENCE / 2, "it was heard at the end of the time alone"
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        thread.join()


# ---- connections


def test_a_lock_outlives_its_connection(server, locks):
    with locks.lock("backup") as held:
        server.cut()
        until(lambda: server.kinds_said.count("Hello") == 2)
        assert locks.wait_ready(PATIENCE)
        held.check()
    assert server.holders(b"backup") == []


def test_who_waits_goes_on_waiting(server, locks, pool):
    with locks.lock("backup"):
        other = pool.submit(lambda: locks.lock("backup").__enter__())
        until(lambda: server.waiting(b"backup") == 1)
        server.restart()
        server.cut()
        until(lambda: server.waiting(b"backup") == 1)
        assert locks.wait_ready(PATIENCE)
    assert other.result(PATIENCE).token


def test_without_reconnecting(server, connect):
    locks = connect(reconnect=False)
    server.cut()
    until(lambda: not locks.ready)
    with pytest.raises(ConnectionLost, match="closed the connection"):
        locks.lock("backup").__enter__()


def test_while_the_servers_decide_nothing(server, locks):
    server.cut_off()
    until(lambda: not locks.ready)
    assert not locks.wait_ready(0.01)
    assert locks.why_not_ready == "the ring is not quorate, as node 1 is told"
    with pytest.raises(NotReady, match="not quorate"):
        locks.lock("backup", timeout=0.01).__enter__()
    server.merge()
    assert locks.wait_ready(PATIENCE)


def test_who_waits_while_nobody_decides_is_told_in_the_log(server, connect, pool, caplog, monkeypatch):
    monkeypatch.setattr("cluck.client.stalls.LOOK", 0.0)
    locks = connect()
    server.cut_off()
    waits = pool.submit(lambda: locks.lock("backup").__enter__())
    until(lambda: caplog.records)
    server.merge()
    waits.result(PATIENCE)
    told = [record.getMessage() for record in caplog.records if record.name == "cluck.client.threaded"]
    assert told[0].startswith("lock 'backup' waits, since the lock servers are not ready: the ring is not quorate")
    assert told[1:] == ["the lock servers are ready again"]


def test_who_decides_is_changed(server, locks):
    with locks.lock("backup") as held:
        locks.change_voters({1: 2, 2: 1}, tie_breaker=1)
        assert dict(server.state.voters.electorate.votes) == {1: 2, 2: 1}
        assert server.state.voters.electorate.tie_breaker == 1
        with pytest.raises(NotReady, match="that are to decide: nothing from node 7"):
            locks.change_voters({1: 1, 7: 2})
        locks.change_voters({1: 1, 2: 1, 3: 1})
        held.check()
    assert server.state.voters.version == 3
    server.cut_off()
    with pytest.raises(NotReady, match="the lock servers decide nothing now"):
        locks.change_voters({1: 1})
    server.merge()


def test_a_change_of_who_decides_that_is_not_seen_in_force(server, locks, monkeypatch):
    monkeypatch.setattr(threaded, "PATIENCE", 0.0)
    monkeypatch.setattr(Electorate, "is_in_force", lambda *_: False)
    with pytest.raises(OutcomeUnknown, match="are not in force: 1; look at the status again"):
        locks.change_voters({1: 1})


def test_closing_frees_everything_and_wakes_everybody(server, connect, pool):
    locks = connect()
    held = locks.lock("backup")
    held.__enter__()
    other = pool.submit(lambda: locks.lock("backup").__enter__())
    until(lambda: server.waiting(b"backup") == 1)
    locks.close()
    locks.close()
    with pytest.raises(ConnectionLost):
        other.result(PATIENCE)
    until(lambda: server.holders(b"backup") == [])
    with pytest.raises(ConnectionLost, match="has been closed"):
        locks.status()


def test_no_daemon(tmp_path):
    with pytest.raises(DaemonUnavailable, match="no daemon listens"):
        cluck.blocking.connect(tmp_path / "nobody")
    with pytest.raises(ValueError, match="socket='': a path"):
        cluck.blocking.connect("")


def test_a_daemon_of_another_version(server, monkeypatch):
    monkeypatch.setattr("cluck.client.session.VERSION", 99)
    with pytest.raises(DaemonUnavailable, match="install the same release"):
        cluck.blocking.connect(server.path)


def test_a_forked_process_leaves_the_lock_alone(server, locks):
    with locks.lock("backup") as held:
        child = os.fork()
        if not child:
            status = 1
            try:
                held.check()
            except RuntimeError:
                status = 0
            finally:
                held._give_back()
                locks.close()
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        held.check()
        assert server.holders(b"backup") == [held.token]
    assert server.holders(b"backup") == []


# ---- a lock server that stands still


@pytest.fixture
def endless(monkeypatch):
    """Make a patience of this module endless."""
    return lambda name: monkeypatch.setattr(threaded, name, threading.TIMEOUT_MAX)


def while_stopped(server, pool, begin, then):
    """Stop the server when `begin` has come to its `yield`, and let `then` run; returns what that does."""
    begun, is_stopped = threading.Event(), threading.Event()

    def run():
        with begin():
            begun.set()
            assert is_stopped.wait(PATIENCE)
            then()

    done = pool.submit(run)
    assert begun.wait(PATIENCE)
    with server.lock:
        is_stopped.set()
        return done.result(PATIENCE)


@pytest.mark.parametrize(("timeout", "others"), [(0, ["PATIENCE"]), (0.01, ["PATIENCE", "ANSWER_PATIENCE"])])
def test_a_timeout_is_kept_where_the_lock_server_stands_still(server, locks, pool, *, endless, timeout, others):
    for name in others:
        endless(name)
    with pytest.raises(NotReady, match="the lock server has not answered"):
        while_stopped(server, pool, nullcontext, lambda: locks.lock("backup", timeout=timeout).__enter__())
    with locks.lock("backup", timeout=PATIENCE) as held:
        assert server.holders(b"backup") == [held.token]


def test_an_interrupt_comes_out_where_the_lock_server_stands_still(server, locks, pool, endless):
    endless("ANSWER_PATIENCE")

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        while_stopped(server, pool, lambda: locks.lock("backup"), interrupt)
    until(lambda: server.holders(b"backup") == [])


def test_a_lost_lock_is_not_given_back_to_a_lock_server_that_stands_still(server, connect, pool, endless):
    endless("ANSWER_PATIENCE")
    now = 0.0
    locks = connect(clock=lambda: now)

    def wait():
        nonlocal now
        now = 61.0

    with pytest.raises(LockLost, match="without renewal"):
        while_stopped(server, pool, lambda: locks.lock("backup", duration=60), wait)
    until(lambda: server.holders(b"backup") == [])


def test_blocks_end_where_the_lock_server_stands_still(server, locks, pool, endless):
    endless("PATIENCE")
    while_stopped(server, pool, lambda: locks.lock("backup"), lambda: None)
    while_stopped(server, pool, lambda: locks.candidate("scheduler"), lambda: None)
    until(lambda: server.holders(b"backup") == server.candidates(b"scheduler") == [])


@pytest.mark.parametrize(
    ("reacquire", "kind", "why"),
    [(True, LockLost, "not had back, the lock server"), (False, OutcomeUnknown, "may have been notified")],
)
def test_a_wait_has_an_end_where_the_lock_server_stands_still(
    server, locks, pool, *, monkeypatch, reacquire, kind, why
):
    monkeypatch.setattr(threaded, "PATIENCE", 0.0)

    def wait():
        with pytest.raises(kind, match=why):
            filled.wait(0.01, reacquire=reacquire)

    @contextmanager
    def hold():
        nonlocal filled
        with locks.condition("filled", lock="queue") as filled:
            yield

    filled = None
    with pytest.raises(LockLost) if reacquire else nullcontext():
        while_stopped(server, pool, hold, wait)
    until(lambda: server.holders(b"queue") == server.waiters(b"filled") == [])


def test_who_notifies_is_told_that_the_lock_is_lost_where_the_lock_server_stands_still(server, connect, pool):
    now, filled = 0.0, None
    locks = connect(clock=lambda: now)

    @contextmanager
    def hold():
        nonlocal filled
        with locks.condition("filled", lock="queue", duration=60) as filled:
            yield

    def notify():
        nonlocal now
        notified = pool.submit(filled.notify)
        now = 61.0
        with pytest.raises(LockLost, match="without renewal"):
            notified.result(PATIENCE)

    with pytest.raises(LockLost, match="without renewal"):
        while_stopped(server, pool, hold, notify)


def test_what_an_administrator_wants_is_looked_for_in_vain_where_the_lock_server_stands_still(
    server, locks, pool, monkeypatch
):
    monkeypatch.setattr(threaded, "PATIENCE", 0.01)
    with pytest.raises(OutcomeUnknown, match="look at the tickets again"):
        while_stopped(server, pool, nullcontext, lambda: locks.force("backup", 1))


# ---- conditions


def test_a_condition(server, locks, pool):
    def consume():
        with locks.condition("filled", lock="queue") as filled:
            before = filled.held.token
            assert filled.wait()
            return before < filled.held.token

    consumers = [pool.submit(consume) for _ in range(3)]
    until(lambda: len(server.waiters(b"filled")) == 3)
    with locks.condition("filled", lock="queue") as filled:
        assert filled.notify() == 1
        assert filled.notify_all() == 2
        assert filled.notify() == 0
    assert all(consumer.result(PATIENCE) for consumer in consumers)
    assert server.holders(b"queue") == []


def test_a_condition_that_nobody_notifies(server, locks):
    with locks.condition("filled", lock="queue") as filled:
        assert filled.wait(0.01) is False
        assert server.holders(b"queue") == [filled.held.token]
        assert filled.wait_for(lambda: False, 0.01) is False
        assert filled.wait_for(lambda: True)
        assert filled.wait(0.01, reacquire=False) is False
        assert server.holders(b"queue") == []


# ---- leaders


def test_leaders(server, locks, connect):
    with connect().observe("scheduler") as leaderships:
        assert next(leaderships).leader is None
        with locks.candidate("scheduler", address="10.0.0.1", port=80) as me:
            assert me.wait_leader(PATIENCE)
            roles = me.roles()
            assert next(roles).token == me.role.token
            leadership = next(leaderships)
            assert (leadership.leader, leadership.address, leadership.port) == (me.id, b"10.0.0.1", 80)
            assert me.publish(b"plan") == 1
            assert next(leaderships).blob == b"plan"
            server.cut_off()
            assert next(roles) == Follower()
            with pytest.raises(LeadershipLost):
                me.publish(b"late")
            server.merge()
            server.cluster.clock = lambda: 5.0  # nobody leads before the lease is over
            server.advance()
            assert me.wait_leader(PATIENCE)
            me.resign()
            assert me.wait_leader(PATIENCE)
