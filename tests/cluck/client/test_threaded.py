"""What only threads have: the thread behind them, signals, and objects that live outside of blocks."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import pytest

import cluck.blocking
from cluck.client import client_steps, election_steps, lock_steps, session_locks
from cluck.client.threaded import ThreadedLocks
from cluck.errors import (
    ConnectionLost,
    DaemonUnavailable,
    LockLost,
    NotReady,
    OutcomeUnknown,
)
from tests.cluck.client.servers import Cluster
from tests.cluck.client.shells import LockedServer

PATIENCE = 20.0


@pytest.fixture
def server(tmp_path):
    with LockedServer(tmp_path / "socket", Cluster()) as server:
        yield server


@pytest.fixture
def connect(server):
    opened = []

    def connect(**options):
        locks = ThreadedLocks(server.path, **{"clock": lambda: 0.0, **options})
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


def test_an_interrupt_goes_before_the_loss(server, locks):
    def body():
        with locks.lock("backup") as held:
            server.force(b"backup")
            assert held.lost.wait(PATIENCE)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
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


def test_without_reconnecting(server, connect):
    locks = connect(reconnect=False)
    server.cut()
    until(lambda: not locks.ready)
    with pytest.raises(ConnectionLost, match="closed the connection"):
        locks.lock("backup").__enter__()


def test_without_reconnecting_everything_names_the_cause(server, connect, pool):
    locks = connect(reconnect=False)
    held = locks.lock("backup").acquire()
    with connect().lock("queue"), locks.candidate("scheduler") as me:
        assert me.wait_leader(PATIENCE)
        waits = pool.submit(locks.lock("queue").acquire)
        until(lambda: server.waiting(b"queue") == 1)
        server.cut()
        why = "the lock server has closed the connection"
        with pytest.raises(ConnectionLost, match=why):
            waits.result(PATIENCE)
    for call in (held.check, held.renew, held.release):
        with pytest.raises(LockLost, match=f"lock 'backup': {why}"):
            call()
    assert me.why_ended.startswith(why)


def test_the_servers_are_waited_for_as_long_as_is_said(server, locks):
    server.cut_off()
    until(lambda: not locks.ready)
    assert not locks.wait_ready(0.01)
    server.merge()
    assert locks.wait_ready(PATIENCE)


def test_a_wait_while_nobody_decides_is_logged(server, connect, pool, caplog, monkeypatch):
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
                for call in (held.check, held.remaining, held.renew, held.release):
                    with pytest.raises(RuntimeError):
                        call()
                status = 0
            finally:
                held.__exit__(None, None, None)
                locks.close()
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        held.check()
        assert server.holders(b"backup") == [held.token]
    assert server.holders(b"backup") == []


# ---- a lock server that stands still


def set_patience(monkeypatch, name, seconds):
    for module in (lock_steps, election_steps, client_steps, session_locks):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, seconds)


@pytest.fixture
def endless(monkeypatch):
    """Make a patience endless."""
    return lambda name: set_patience(monkeypatch, name, threading.TIMEOUT_MAX)


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


def test_blocks_end_where_the_lock_server_stands_still(server, connect, pool, endless):
    endless("PATIENCE")
    locks = connect(clock=time.monotonic)
    while_stopped(server, pool, lambda: locks.lock("backup"), lambda: None)
    while_stopped(server, pool, lambda: locks.candidate("scheduler"), lambda: None)
    until(lambda: server.holders(b"backup") == server.candidates(b"scheduler") == [])


@pytest.mark.parametrize(
    ("reacquire", "kind", "why"),
    [(True, LockLost, "not held again, the lock server"), (False, OutcomeUnknown, "may have been notified")],
)
def test_a_wait_has_an_end_where_the_lock_server_stands_still(
    server, locks, pool, *, monkeypatch, reacquire, kind, why
):
    set_patience(monkeypatch, "PATIENCE", 0.0)

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


# ---- leaders


def test_a_leadership_is_waited_for(server, locks, connect):
    with locks.candidate("scheduler") as me:
        assert me.wait_leader(PATIENCE)
        with connect().candidate("scheduler") as other:
            assert not other.wait_leader(0.01)
            me.resign(to=other.id)
            assert other.wait_leader(PATIENCE)
    assert not me.wait_leader(PATIENCE)
