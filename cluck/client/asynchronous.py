"""Locks, conditions and leaders for programs on trio and on asyncio: `async with cluck.connect() as locks`.

The logic is in `cluck.client.steps` and its neighbours; `run` drives it in a task. What is here belongs to event loops:
connections and reconnecting, cancellation, and the bodies of blocks, which are cancelled when their locks are lost. A
`Transport` (`cluck.client.links`) leads to the lock server: through the socket of `cluckd`, or within the process.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc
import anyio.lowlevel

from cluck.client.async_connection import AsyncConnection
from cluck.client.client_steps import BaseLocks
from cluck.client.election_steps import BaseCandidate, BaseLeaderships, Stand
from cluck.client.links import SocketLink, SocketTransport, Transport
from cluck.client.lock_steps import BaseCondition, BaseHeld, Submit
from cluck.client.requests import Leader, OnQueued, Role, RoleCursor
from cluck.client.steps import BaseClient, Countdown, Progress, Result, Steps, Until
from cluck.commands import Leadership, RequestId
from cluck.errors import LeadershipLost, LockError
from cpg.arguments import callback, flag, pathname, patience
from cpg.block import Waiters
from cpg.errors import raise_instead
from cpg.local.client_socket import default_socket, own_name
from cpg.loop_errors import current_task
from totem.process import process_check
from totem.text import quoted

_log = logging.getLogger(__name__)


async def run(steps: Steps[Result]) -> Result:
    """Run steps in this task. An exception that ends a wait goes through them: they clean up first."""
    progress = Progress(steps)
    while not progress.is_over:
        try:
            while progress.goes_on():  # hot: no coroutine where the condition holds already, and no checkpoint
                progress.holds = bool(progress.until.holds()) or await _met(progress.until)
        except BaseException as error:
            progress.interrupt(error)
    return progress.result


async def _met(until: Until) -> bool:
    """Wait; return whether the condition holds. Hot: no scope that is not needed."""
    if until.patience is None:
        await _holds(until)
        return True
    with anyio.move_on_after(until.patience, shield=until.is_shielded):
        await _holds(until)
    return bool(until.holds())


async def _holds(until: Until) -> None:
    signal = until.signal
    assert isinstance(signal, Waiters)
    while not until.holds():
        await signal.wait()


def _left_behind(
    scope: anyio.CancelScope,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
) -> bool:
    """Leave the scope of a block in a forked process, where nothing else of the block is to end.

    Trio expects that each scope is left. On asyncio no scope can be left: no event loop runs in a forked process.
    """
    try:
        return bool(scope.__exit__(kind, error, traceback))
    except RuntimeError:
        return False


class Held(BaseHeld):
    """A lock that is held, for the time of a block, or from `acquire` to `release`. Made by `Locks.lock` and the like.

    A lock that is lost cancels the body of its block, and `LockLost` comes out of the block as it is.
    """

    _client: Locks

    def __init__(
        self, client: BaseClient, name: bytes, submit: Submit, timeout: float | None, on_queued: OnQueued | None
    ) -> None:
        super().__init__(client, name, submit, timeout, on_queued)
        self._body = anyio.CancelScope()
        self._lost: anyio.Event | None = None
        self._unlocking: anyio.Event | None = None

    async def __aenter__(self) -> Self:
        await run(self._acquire())
        self._body.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not self._client._is_own():
            return _left_behind(self._body, kind, error, traceback)
        outcome = error
        try:
            if self._body.__exit__(kind, error, traceback):
                outcome = None
        except BaseException as rest:  # what is left of a group of exceptions
            outcome = rest
        await run(self._release(outcome))
        if outcome is not None and outcome is not error:
            raise outcome
        return outcome is None

    async def acquire(self) -> Self:
        """Wait for the lock, for a program that cannot use a block: call `release` when its work is done.

        No body is cancelled when the lock is lost: look at `lost`, or call `check`. A lock that is not released is free
        when the client ends. A call that is cancelled leaves nothing behind.

        Returns:
            This lock, which is held. Raises what entering a block raises (`Locks.lock`).
        """
        await self._client._run(self._acquire())
        return self

    async def release(self) -> None:
        """Release the lock that `acquire` has acquired. Does nothing where it was not acquired, or is released.

        An `acquire` of this object that still waits in another task raises `LockLost`.

        Raises:
            LockLost: The lock was lost before.
            RuntimeError: Another task waits on a condition with this lock.
        """
        await self._client._run(self._release_alone())

    async def renew(self) -> None:
        """Hold the lock for another `duration` from now on.

        Raises:
            LockLost: It is too late for that.
        """
        await self._client._call(self._renew())

    @property
    def lost(self) -> anyio.Event:
        """Set when the lock is lost; never in a forked process."""
        if self._lost is None:
            self._lost = anyio.Event()
            self._show_acquired()
        return self._lost

    @property
    def unlocking(self) -> anyio.Event:
        """Set when the lock should be released now: its lease will end, and somebody may wait."""
        if self._unlocking is None:
            self._unlocking = anyio.Event()
            self._show_acquired()
        return self._unlocking

    def _show_acquired(self) -> None:
        if self._latest is not None:
            self._show()

    def _show(self) -> None:
        """Set the events that the program uses; replace one whose reason is over."""
        if self._is_lost:
            self._body.cancel()
            if self._lost is not None:
                self._lost.set()
        if self._unlocking is not None:
            if self._ticket.is_unlocking:
                self._unlocking.set()
            elif self._unlocking.is_set():
                self._unlocking = anyio.Event()


class Condition(BaseCondition[Held]):
    """A condition variable, for a program that holds its lock. Made by `Locks.condition`."""

    _client: Locks

    async def __aenter__(self) -> Self:
        if self._owns_lock:
            await self.held.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return self._owns_lock and await self.held.__aexit__(kind, error, traceback)

    async def wait(self, timeout: float | None = None, *, reacquire: bool = True) -> bool:
        """Release the lock and wait for a notification, in one step; the lock is held again when this returns.

        A task that is cancelled meanwhile waits for the lock for up to five seconds more, so that its body ends with
        it. If it had been notified, another waiter is notified in its place.

        Args:
            timeout: Seconds to wait for a notification; the wait for the lock comes on top. None: for ever.
            reacquire: Whether to acquire the lock again; without it the block holds nothing any more.

        Returns:
            Whether it was notified. The lock has another token then.

        Raises:
            LockLost: The lock was lost before, or cannot be acquired again, or its block has ended. So it is where the
                lock server does not answer for five seconds after `timeout`.
            WrongLock: Others wait with another lock. The lock is still held, as after `NotReady`.
            OutcomeUnknown: Without `reacquire`, the lock server has not answered for five seconds after `timeout`.
                Another waiter is notified if this one was.
        """
        return await self._client._call(self._wait(timeout, reacquire))

    async def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until a predicate holds.

        Args:
            predicate: Called with the lock held.
            timeout: Seconds after which to give up; None: never.

        Returns:
            Whether the predicate holds.
        """
        callback("predicate", predicate)
        rest = Countdown(patience("timeout", timeout), self._client._now)
        while not predicate():
            if rest.left == 0:
                return False
            await self.wait(rest.left)
        return True

    async def notify(self, n: int = 1, *, priority: bool = False) -> int:
        """Wake the `n` that wait longest, or as many as there are.

        Args:
            n: The number of waiters to wake.
            priority: Have them go ahead of all that wait to share the lock.

        Returns:
            The number of waiters that were woken.

        Raises:
            OutcomeUnknown: The lock server was restarted before it answered; waiters may have been woken.
            LockLost: The lock was lost before the answer came; waiters may have been woken.
        """
        return await self._client._run(self._notify(n, everyone=False, priority=priority))

    async def notify_all(self, *, priority: bool = False) -> int:
        """Wake all that wait; otherwise like `notify`."""
        return await self._client._run(self._notify(1, everyone=True, priority=priority))


class Candidate(BaseCandidate):
    """A candidate in an election, for the time of a block. Made by `Locks.candidate`."""

    _client: Locks

    def __init__(self, client: BaseClient, stand: Stand) -> None:
        super().__init__(client, stand)
        self._runs: dict[anyio.CancelScope, int] = {}
        """What runs while this candidate leads, under which token."""

    async def __aenter__(self) -> Self:
        await self._client._run(self._enter())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._client._is_own():
            await self._client._run(self._step_back(error))

    def roles(self) -> Roles:
        """Iterate over its roles, the present one first: `async for role in candidate.roles()`.

        Each leadership is followed by a `Follower`. A slow program misses whole leaderships, but never the end of one
        that it has seen.
        """
        return Roles(self)

    async def publish(self, blob: bytes) -> int:
        """Attach a blob to this leadership, reported to all observers.

        Args:
            blob: Up to 64 KiB.

        Returns:
            The version of what is published: 1 for the first of a leadership.

        Raises:
            LeadershipLost: This candidate does not lead, or does not any more; it may have been published then.
        """
        return await self._client._call(self._publish(blob))

    async def resign(self, to: RequestId | None = None) -> None:
        """Give up the leadership and remain a candidate. Does nothing where it does not lead.

        What runs by `run_while_leader` is cancelled; another candidate may lead when that has ended.

        Args:
            to: The `id` of the candidate to lead next, if it still stands; None: the order of selection decides.
        """
        await anyio.lowlevel.checkpoint()
        self._give_up_leadership(to)

    async def run_while_leader(self, fn: Callable[[Leader], Awaitable[Result]]) -> Result:
        """Run `fn(leader)` whenever this candidate leads, and cancel it when the leadership ends.

        Args:
            fn: A coroutine function. What it raises comes out as it is.

        Returns:
            What `fn` returns, as soon as it returns while this candidate leads.

        Raises:
            LeadershipLost: The candidate's block has ended.
        """
        callback("fn", fn)
        while True:
            if not await self._client._call(self._wait_leader()):
                election = quoted(self._candidacy.command.election)
                raise LeadershipLost(f"election {election}: the candidate's block has ended")
            leader = self.role
            if not isinstance(leader, Leader):
                continue
            scope = anyio.CancelScope()
            self._runs[scope] = leader.token
            self._client._session.elections.begin_work(self._candidacy)
            try:
                with scope:
                    return await fn(leader)
            finally:
                del self._runs[scope]
                if self._client._is_own():
                    self._client._session.elections.end_work(self._candidacy)
                    self._client._submit()

    def _on_change(self) -> None:
        for scope, token in self._runs.items():
            if token != self._candidacy.token:
                scope.cancel()
        super()._on_change()


class Roles:
    """The roles of a candidate: `async for role in candidate.roles()`."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate
        self._cursor = RoleCursor(candidate._candidacy)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Role:
        role = await self._candidate._client._call(self._candidate._next_role(self._cursor))
        if role is None:
            raise StopAsyncIteration
        return role


class Leaderships(BaseLeaderships):
    """The leaderships of an election: `async for leadership in leaderships`. Made by `Locks.observe`."""

    _client: Locks

    async def __aenter__(self) -> Self:
        self._begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Leadership:
        return await self._client._call(self._next())


class _Body:
    """The body of a client's block, which is cancelled when there is no connection any more."""

    def __init__(self, client: Locks) -> None:
        self._client = client

    def __enter__(self) -> None:
        self._client._body.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not self._client._is_own():
            return _left_behind(self._client._body, kind, error, traceback)
        return bool(self._client._body.__exit__(kind, error, traceback))


class Locks(BaseLocks[Held, Condition, Candidate, Leaderships]):
    """A client of the lock service, made by `cluck.connect` and `cluck.open`.

    Names are `str` (encoded in UTF-8) or bytes, of 1 to 1,024 bytes; times are in seconds.
    """

    _signal: Waiters
    _held = Held
    _condition = Condition
    _candidate = Candidate
    _leaderships = Leaderships

    def __init__(self, transport: Transport, *, reconnect: bool, program: str) -> None:
        super().__init__(
            clock=transport.clock,
            now=anyio.current_time,
            lock=nullcontext(),
            new_signal=Waiters,
            warn=_log.warning,
            is_own=process_check(),
        )
        self._body = anyio.CancelScope()
        self._connection = AsyncConnection(
            transport, self._session, self._signal, self._fail, reconnect=reconnect, program=program
        )

    def fileno(self) -> int:
        """Return the descriptor of the connection to `cluckd`; another one after each loss of the connection.

        The daemon takes a program for gone when all copies of it are closed. A process that guards what is done under
        a lock keeps one: nobody is granted the lock before that process has ended.
        """
        link = self._connection.link
        if not isinstance(link, SocketLink):
            raise ValueError("this client has no connection to a daemon: its lock server is in its own process")
        return link.fileno()

    async def wait_ready(self) -> None:
        """Wait until the lock servers decide."""
        await self._call(self._wait_ready())

    async def status(self) -> Any:
        """Return what the lock server reports of itself: whether it is ready, why not, its leaders, the quorum."""
        return await self.query("status")

    async def tickets(self) -> Any:
        """Return all locks: who holds each with which token, and who waits."""
        return await self.query("tickets")

    async def query(self, question: str) -> Any:
        """Return the lock server's answer to a question.

        Args:
            question: "status", "tickets", "leaders", "elections" or "conditions".
        """
        return await self._run(self._query(question))

    async def force(self, name: str | bytes, token: int) -> None:
        """Take a lock from whoever holds it with this token, as an administrator: the holder loses it.

        Returns when the lock is not held with this token any more.

        Raises:
            OutcomeUnknown: That is not seen within five seconds.
        """
        await self._run(self._force(name, token))

    async def change_voters(
        self, votes: Mapping[int, int], *, tie_breaker: int | None = None, unsafe_half: bool = False
    ) -> None:
        """Have these lock servers decide from now on, as an administrator (docs/locks.md, "Who decides").

        Returns when that is in force.

        Args:
            votes: The votes of each lock server, by its node id. A majority of them must be present, and one of those
                that decided before.
            tie_breaker: The node with which an exact half of the votes is enough.
            unsafe_half: Whether an exact half is always enough. Then two halves may both grant a lock.

        Raises:
            ValueError: These cannot decide.
            NotReady: Too few of them are present.
            OutcomeUnknown: It is not seen in force within five seconds, or another change is under way.
        """
        await self._run(self._change_voters(votes, tie_breaker, unsafe_half))

    # ---- the shell's side

    def _task(self) -> int:
        return self._tasks.number(current_task())

    async def _run(self, steps: Steps[Result]) -> Result:
        """Run steps in this task. Raise `RuntimeError` in a forked process."""
        self._check_process()
        return await run(steps)

    async def _call(self, steps: Steps[Result]) -> Result:
        """Run the steps of a call that is always a checkpoint."""
        self._check_process()
        await anyio.lowlevel.checkpoint()
        return await run(steps)

    def _submit(self) -> None:
        self._connection.submit()

    def _fail(self, failure: LockError) -> None:
        """End the block; the first failure comes out of it."""
        if self._failure is None:
            self._failure = failure
            self._body.cancel()
        self._signal.wake()

    @asynccontextmanager
    async def _live(self) -> AsyncGenerator[Self, None]:
        await self._connection.open()
        outcome: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._connection.keep)
                try:
                    with _Body(self):
                        yield self
                except BaseException as error:
                    outcome = error  # not through the task group, which would wrap it
                if self._is_own():
                    try:
                        await run(self._close(outcome))
                    except BaseException as error:
                        outcome = error
                else:
                    self._connection.abandon()
                self._connection.stop()
        except RuntimeError:  # asyncio: no event loop runs in a forked process, and no task group can end
            if self._is_own():
                raise
        if self._is_own():
            await self._connection.close()
        if self._failure is not None:
            raise_instead(self._failure, outcome)
        if outcome is not None:
            raise outcome


@asynccontextmanager
async def over(transport: Transport, *, reconnect: bool = False, program: str = "") -> AsyncGenerator[Locks, None]:
    """Be a client over any transport, for the time of a block; otherwise like `connect`."""
    async with Locks(transport, reconnect=reconnect, program=program)._live() as locks:
        yield locks


@asynccontextmanager
async def connect(
    socket: str | os.PathLike[str] | None = None, *, reconnect: bool = True
) -> AsyncGenerator[Locks, None]:
    """Be a client of this machine's lock server `cluckd`: `async with cluck.connect() as locks`, on trio or asyncio.

    Args:
        socket: The path of the daemon's socket, if it is not the usual one (`$CLUCKD_SOCKET`, else /run/cluckd/socket).
        reconnect: Whether to wait for a daemon that has ended. Meanwhile locks and leaderships stay good until their
            deadlines, and requests go on waiting. Without it the block ends with `ConnectionLost`.

    Raises:
        DaemonUnavailable: No daemon runs, or it refuses this user, or it does not answer within 30 seconds. A daemon
            that starts takes up to ten, until it knows whether it has a ring.
    """
    flag("reconnect", reconnect)
    transport = SocketTransport(pathname("socket", socket) if socket is not None else default_socket("cluckd"))
    async with over(transport, reconnect=reconnect, program=own_name()) as locks:
        yield locks
