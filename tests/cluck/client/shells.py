"""The same programs on all shells: in tasks of trio, in tasks of asyncio, and in threads.

A program is a coroutine function. In threads each of its tasks is a thread, which runs a coroutine that never waits:
what it awaits are calls of `cluck.blocking`, made at once.
"""

import functools
import inspect
import threading
import time
from contextlib import asynccontextmanager, contextmanager

import anyio
import pytest

from cluck.client import asynchronous, threaded
from tests.cluck.client.servers import Cluster, Handed, SocketServer

PATIENCE = 20.0
"""Seconds after which a program hangs."""


def on_all_shells(program):
    """Make a test of a coroutine function, which is called with the shell and its fixtures."""

    @pytest.mark.parametrize("shell", [Trio, Asyncio, Threads], ids=["trio", "asyncio", "threads"])
    @functools.wraps(program)
    def test(shell, tmp_path, **fixtures):
        if "tmp_path" in wanted:
            fixtures["tmp_path"] = tmp_path
        shell(tmp_path).run(program, fixtures)

    wanted = inspect.signature(program).parameters
    names = {**wanted, "tmp_path": inspect.Parameter("tmp_path", inspect.Parameter.POSITIONAL_OR_KEYWORD)}
    test.__signature__ = inspect.Signature(names.values())
    del test.__wrapped__
    return test


class Shell:
    """Clients, the cluster of lock servers that they connect to, and time."""

    now = 0.0
    """What the clock of leases shows, to clients and to lock servers."""

    def clock(self):
        return self.now

    def stop_order(self):
        """Let nothing be ordered any more."""
        getattr(self.cluster, "cluster", self.cluster).is_stopped = True

    def resume_order(self):
        getattr(self.cluster, "cluster", self.cluster).is_stopped = False
        self.cluster.settle()


class _EventLoop(Shell):
    """Tasks of one event loop, and lock servers in the same loop."""

    def __init__(self, tmp_path):
        self.cluster = Cluster(self.clock)
        self._transports = []

    def run(self, program, fixtures):
        async def main():
            with anyio.fail_after(PATIENCE):
                await program(self, **fixtures)

        anyio.run(main, backend=self.backend)

    def connect(self, *, reconnect=True):
        transport = Handed(self.cluster, self.clock)
        self._transports.append(transport)
        return asynchronous.over(transport, reconnect=reconnect, program="test")

    def cut(self):
        """Break all connections."""
        for transport in self._transports:
            transport.cut()

    def go_away(self):
        """Break all connections, and let nobody connect."""
        for transport in self._transports:
            transport.is_up = False
        self.cut()

    def come_back(self):
        """Let clients connect again."""
        for transport in self._transports:
            transport.is_up = True

    @staticmethod
    def tasks():
        return anyio.create_task_group()

    @staticmethod
    async def until(condition):
        while not condition():
            await anyio.sleep(0)

    @staticmethod
    async def end_by_loss(held):
        """Be in a body that ends as the lock is lost."""
        await anyio.sleep_forever()

    @staticmethod
    async def see_loss(held):
        """See that the lock is lost, in a body that goes on."""
        with anyio.CancelScope(shield=True):
            await held.lost.wait()


class Trio(_EventLoop):
    backend = "trio"


class Asyncio(_EventLoop):
    backend = "asyncio"


class Threads(Shell):
    """Threads, and lock servers behind a socket."""

    def __init__(self, tmp_path):
        self._path = tmp_path / "socket"
        self._hidden = tmp_path / "hidden"
        self._opened = []
        self.cluster = LockedServer(self._path, Cluster(self.clock))

    def run(self, program, fixtures):
        with self.cluster, self._closing():
            _Thread(program, self, **fixtures).outcome()

    @contextmanager
    def _closing(self):
        try:
            yield
        finally:
            if self._hidden.exists():
                self.come_back()
            for locks in self._opened:
                locks.close()

    @asynccontextmanager
    async def connect(self, *, reconnect=True):
        locks = threaded.ThreadedLocks(self._path, reconnect=reconnect, clock=self.clock)
        self._opened.append(locks)
        with locks:
            yield AsTasks(locks)

    def cut(self):
        """Break all connections; returns when the lock server has noticed."""
        self.cluster.cut()

    def go_away(self):
        self._path.rename(self._hidden)
        self.cut()

    def come_back(self):
        self._hidden.rename(self._path)

    @staticmethod
    @asynccontextmanager
    async def tasks():
        group = _Threads()
        try:
            yield group
        finally:
            group.join()

    @staticmethod
    async def until(condition):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.001)

    @staticmethod
    async def end_by_loss(held):
        assert held.lost.wait(PATIENCE)

    see_loss = end_by_loss


class LockedServer(SocketServer):
    """A server, with what the tests do while they hold its lock."""

    def cut(self):
        with self.lock:
            cut = set(self._socks)
        super().cut()
        while cut & self._socks:
            time.sleep(0.001)

    def __getattr__(self, name):
        with self.lock:
            found = getattr(self.cluster, name)
        if not callable(found):
            return found

        def call(*args, **options):
            with self.lock:
                return found(*args, **options)

        return call


class _Thread(threading.Thread):
    def __init__(self, program, *args, **options):
        super().__init__(daemon=True)
        self._call = functools.partial(program, *args, **options)
        self._error = None
        self.start()

    def run(self):
        try:
            self._call().send(None)
        except StopIteration:
            return
        except BaseException as error:
            self._error = error
        else:
            self._error = AssertionError("this waits in an event loop")

    def outcome(self):
        self.join(PATIENCE)
        assert not self.is_alive(), "it hangs"
        if self._error is not None:
            raise self._error


class _Threads:
    def __init__(self):
        self._threads = []

    def start_soon(self, program, *args):
        self._threads.append(_Thread(program, *args))

    def join(self):
        for thread in self._threads:
            thread.outcome()


class AsTasks:
    """Something of `cluck.blocking`, with the calls of its counterpart for tasks."""

    def __init__(self, real):
        self.real = real

    def __repr__(self):
        return repr(self.real)

    def __getattr__(self, name):
        found = getattr(self.real, name)
        if not callable(found):
            return _as_tasks(found)

        def call(*args, **options):
            options = {name: _real(value) for name, value in options.items()}
            return _as_tasks(found(*map(_real, args), **options))

        async def wait(*args, **options):
            return call(*args, **options)

        counterpart = getattr(_COUNTERPARTS[type(self.real)], name)
        return wait if inspect.iscoroutinefunction(counterpart) else call

    async def __aenter__(self):
        return _as_tasks(self.real.__enter__())

    async def __aexit__(self, *outcome):
        return self.real.__exit__(*outcome)

    def __aiter__(self):
        return self

    async def __anext__(self):
        for found in self.real:
            return found
        raise StopAsyncIteration


_COUNTERPARTS = {
    threaded.ThreadedLocks: asynchronous.Locks,
    threaded.ThreadedHeld: asynchronous.Held,
    threaded.ThreadedCondition: asynchronous.Condition,
    threaded.ThreadedCandidate: asynchronous.Candidate,
    threaded.ThreadedLeaderships: asynchronous.Leaderships,
}


def _real(value):
    return value.real if isinstance(value, AsTasks) else value


def _as_tasks(found):
    return AsTasks(found) if type(found) in _COUNTERPARTS or inspect.isgenerator(found) else found
