"""Locks, conditions and leaders for programs without an event loop: `cluck.blocking.connect()`.

    with cluck.blocking.connect() as locks:
        with locks.lock("backup", timeout=5) as held:
            for part in parts:
                held.check()
                copy(part, token=held.token)

Any thread may use these objects; each thread is an owner of its own, for deadlocks to be detected. A background thread
reads the socket, renews leases and watches the clock. Nothing can interrupt a thread from outside, so a lost lock ends
no block: `held.lost` is set, `held.check()` raises `LockLost`, and so does the end of the block.

A forked process must connect anew: what it inherits raises `RuntimeError` there. The locks stay the parent's. If the
parent dies while a child has its connection too, they are free when their leases are over, rather than at once.

The logic is in `cluck.client.steps` and its neighbours; `ThreadedLocks._run` drives it in a thread.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cluck.client.client_steps import BaseLocks
from cluck.client.election_steps import BaseCandidate, BaseLeaderships
from cluck.client.lock_steps import BaseCondition, BaseHeld, Submit
from cluck.client.requests import OnQueued, Role, RoleCursor
from cluck.client.steps import BaseClient, Countdown, Progress, Result, Steps, Until
from cluck.client.thread_connection import ThreadConnection
from cluck.client.transport import CLUCKD
from cluck.clock import boot_time
from cluck.commands import Leadership, RequestId
from cluck.errors import LockError
from cpg.arguments import callback, flag, pathname, patience
from cpg.local.client_socket import SILENCE, default_socket
from cpg.local.thread_waits import longest_wait
from totem.process import process_check

_log = logging.getLogger(__name__)


class Bell(threading.Condition):
    """Wakes the threads that wait for a change."""

    def wake(self) -> None:
        """Wake all that wait now. With the lock held."""
        self.notify_all()


class ThreadedHeld(BaseHeld):
    """A lock that is held: `cluck.Held` for threads. Made by `ThreadedLocks.lock` and the like."""

    _client: ThreadedLocks

    def __init__(
        self, client: BaseClient, name: bytes, submit: Submit, timeout: float | None, on_queued: OnQueued | None
    ) -> None:
        super().__init__(client, name, submit, timeout, on_queued)
        self.lost = threading.Event()
        """Set when the lock is lost; the block raises `LockLost` at its end."""
        self.unlocking = threading.Event()
        """Set while the lock should be released: its lease will end, and somebody may wait."""

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._client._run_own(self._release(error))

    def acquire(self) -> Self:
        """Wait for the lock, and return it, held; as `cluck.Held.acquire`."""
        self._client._run(self._acquire())
        return self

    def release(self) -> None:
        """Release the lock that `acquire` has acquired; as `cluck.Held.release`."""
        self._client._run(self._release_alone())

    def renew(self) -> None:
        """Hold the lock for another `duration` from now on; as `cluck.Held.renew`."""
        self._client._run(self._renew())

    def _show(self) -> None:
        if self._ticket.is_unlocking:
            self.unlocking.set()
        else:
            self.unlocking.clear()
        if self._is_lost:
            self.lost.set()


class ThreadedCondition(BaseCondition[ThreadedHeld]):
    """A condition variable: `cluck.Condition` for threads. Made by `ThreadedLocks.condition`."""

    _client: ThreadedLocks

    def __enter__(self) -> Self:
        if self._owns_lock:
            self.held.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._owns_lock:
            self.held.__exit__(kind, error, _)

    def wait(self, timeout: float | None = None, *, reacquire: bool = True) -> bool:
        """Release the lock and wait for a notification, in one step; as `cluck.Condition.wait`.

        What that does where a task is cancelled, this does where a signal's handler raises.
        """
        return self._client._run(self._wait(timeout, reacquire))

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until a predicate holds; as `cluck.Condition.wait_for`."""
        callback("predicate", predicate)
        rest = Countdown(patience("timeout", timeout), time.monotonic)
        while not predicate():
            if rest.left == 0:
                return False
            self.wait(rest.left)
        return True

    def notify(self, n: int = 1, *, priority: bool = False) -> int:
        """Wake the `n` that wait longest; as `cluck.Condition.notify`."""
        return self._client._run(self._notify(n, everyone=False, priority=priority))

    def notify_all(self, *, priority: bool = False) -> int:
        """Wake all that wait; otherwise like `notify`."""
        return self._client._run(self._notify(1, everyone=True, priority=priority))


class ThreadedCandidate(BaseCandidate):
    """A candidate in an election: `cluck.Candidate` for threads. Made by `ThreadedLocks.candidate`."""

    _client: ThreadedLocks

    def __enter__(self) -> Self:
        self._client._run(self._enter())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._client._run_own(self._step_back(error))

    def wait_leader(self, timeout: float | None = None) -> bool:
        """Wait until this candidate leads, for `timeout` seconds at most; return whether it does."""
        return self._client._run(self._wait_leader(patience("timeout", timeout)))

    def roles(self) -> Iterator[Role]:
        """Iterate over its roles: `for role in candidate.roles()`; as `cluck.Candidate.roles`."""
        cursor = RoleCursor(self._candidacy)
        while (role := self._client._run(self._next_role(cursor))) is not None:
            yield role

    def publish(self, blob: bytes) -> int:
        """Attach a blob to this leadership; as `cluck.Candidate.publish`."""
        return self._client._run(self._publish(blob))

    def resign(self, to: RequestId | None = None) -> None:
        """Give up the leadership and remain a candidate; as `cluck.Candidate.resign`."""
        self._give_up_leadership(to)


class ThreadedLeaderships(BaseLeaderships):
    """The leaderships of an election: `for leadership in leaderships`. Made by `ThreadedLocks.observe`."""

    _client: ThreadedLocks

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Leadership:
        return self._client._run(self._next())


class ThreadedLocks(BaseLocks[ThreadedHeld, ThreadedCondition, ThreadedCandidate, ThreadedLeaderships]):
    """A client of the lock service, made by `cluck.blocking.connect`. A context manager, which closes it.

    Names, times and errors are those of `cluck.Locks`.
    """

    _signal: Bell
    _held = ThreadedHeld
    _condition = ThreadedCondition
    _candidate = ThreadedCandidate
    _leaderships = ThreadedLeaderships

    def __init__(self, path: Path, *, reconnect: bool = True, clock: Callable[[], float] = boot_time) -> None:
        lock = threading.RLock()
        super().__init__(
            clock=clock,
            now=time.monotonic,
            lock=lock,
            new_signal=lambda: Bell(lock),
            warn=_log.warning,
            is_own=process_check(),
        )
        self._path = path
        self._connection = ThreadConnection(
            path, self._session, clock, lock, has_ended=self._has_ended, fail=self._fail, reconnect=reconnect
        )
        self._connection.start()
        try:
            self._run(self._welcomed())
        except BaseException:
            self.close()
            raise

    def _welcomed(self) -> Steps[None]:
        if not (yield Until(self._signal, self._is_answered, SILENCE)):
            _log.warning("%s", CLUCKD.silence(SILENCE, self._path))
            yield Until(self._signal, self._is_answered)
        if self._failure is not None:
            raise self._failure

    def _is_answered(self) -> bool:
        return self._session.is_connected or self._failure is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._end(error)

    def close(self) -> None:
        """End in order: what is still held is free. A second call does nothing."""
        self._end(None)

    def _end(self, outcome: BaseException | None) -> None:
        if self._is_own():
            self._run(self._close(outcome))
            self._connection.stop()
        else:
            self._connection.abandon()

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until the lock servers decide, for `timeout` seconds at most; return whether they do."""
        return self._run(self._wait_ready(patience("timeout", timeout)))

    def status(self) -> Any:
        """Return what the lock server reports of itself; as `cluck.Locks.status`."""
        return self.query("status")

    def tickets(self) -> Any:
        """Return all locks; as `cluck.Locks.tickets`."""
        return self.query("tickets")

    def query(self, question: str) -> Any:
        """Return the lock server's answer to a question; as `cluck.Locks.query`."""
        return self._run(self._query(question))

    def force(self, name: str | bytes, token: int) -> None:
        """Take a lock from whoever holds it with this token; as `cluck.Locks.force`."""
        self._run(self._force(name, token))

    def change_voters(
        self, votes: Mapping[int, int], *, tie_breaker: int | None = None, unsafe_half: bool = False
    ) -> None:
        """Have these lock servers decide from now on; as `cluck.Locks.change_voters`."""
        self._run(self._change_voters(votes, tie_breaker, unsafe_half))

    # ---- the program's threads

    def _run(self, steps: Steps[Result]) -> Result:
        """Run steps in this thread, with the lock held. What a signal's handler raises goes through them."""
        self._check_process()
        progress = Progress(steps)
        with self._lock:
            while not progress.is_over:
                try:
                    while progress.goes_on():
                        progress.holds = self._met(progress.until)
                except BaseException as error:
                    progress.interrupt(error)
        return progress.result

    def _run_own(self, steps: Steps[None]) -> None:
        """Run what ends a block: in a forked process, to which nothing of it belongs, that is nothing."""
        if self._is_own():
            self._run(steps)

    def _met(self, until: Until) -> bool:
        """Wait; return whether the condition holds. With the lock held, which others have while this waits."""
        bell, rest = until.signal, Countdown(until.patience, time.monotonic)
        assert isinstance(bell, Bell)
        while not until.holds():
            if rest.left == 0:
                return False
            bell.wait(longest_wait() if rest.left is None else min(rest.left, longest_wait()))
        return True

    def _task(self) -> int:
        return self._tasks.number(threading.current_thread())

    def _submit(self) -> None:
        self._connection.submit()

    def _on_change(self) -> None:
        super()._on_change()
        self._connection.interrupt()

    def _fail(self, failure: LockError) -> None:
        self._failure = self._failure or failure
        self._session.close(self._failure)
        self._signal.wake()


def connect(socket: str | os.PathLike[str] | None = None, *, reconnect: bool = True) -> ThreadedLocks:
    """Be a client of this machine's lock server `cluckd`: `with cluck.blocking.connect() as locks`.

    Args:
        socket: The path of the daemon's socket, if it is not the usual one (`$CLUCKD_SOCKET`, else /run/cluckd/socket).
        reconnect: Whether to wait for a daemon that has ended, as `cluck.connect` does. Without it everything raises
            `ConnectionLost`.

    Raises:
        DaemonUnavailable: No daemon runs, or it refuses this user, or it does not answer within 30 seconds.
    """
    flag("reconnect", reconnect)
    return ThreadedLocks(
        pathname("socket", socket) if socket is not None else default_socket("cluckd"), reconnect=reconnect
    )
