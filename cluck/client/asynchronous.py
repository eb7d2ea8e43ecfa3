"""Locks, conditions and leaders for programs on trio and on asyncio: `async with cluck.connect() as locks`.

A thin shell around `cluck.client.session`: it carries what is said between the session and a lock server, wakes the
tasks that wait, and cancels the bodies of locks that are lost. Who the lock server is, it does not know: a `Transport`
opens a `Line` to it, through the socket of `cluckd` here, within the process in `cluck.server.host`.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel

from cluck.client import session_elections
from cluck.client.requests import (
    Candidacy,
    Leader,
    Observation,
    OnQueued,
    Place,
    Request,
    Role,
    RolesTold,
    Tasks,
    Ticket,
    name_of,
)
from cluck.client.session import Session
from cluck.client.session_locks import ANSWER_PATIENCE, GRACE
from cluck.client.transport import CLUCKD, NoDaemon, Records
from cluck.clock import boot_time
from cluck.commands import MOST_UNSETTLED, Leadership, Mode, RequestId
from cluck.errors import ConnectionLost, LeadershipLost, LockError, LockLost, OutcomeUnknown
from cluck.protocol import Downward, Upward
from cluck.socket_path import default_socket
from cpg.arguments import callback, flag, octets, pathname, patience, whole
from cpg.block import Body, Waiters
from cpg.local.client_socket import FAREWELL_PATIENCE, READ_TURN, SHORTEST_PAUSE, own_name, reconnect_pauses
from cpg.loop_errors import current_task
from cpg.replication.electorate import electorate_of
from totem.text import quoted

_log = logging.getLogger(__name__)

Result = TypeVar("Result")
AnyRequest = TypeVar("AnyRequest", bound=Request)

LONGEST_REST: Final = 1.0
"""Seconds after which the clock of leases is looked at again: it goes on in a suspended machine, sleeps do not."""
PATIENCE: Final = 5.0
"""Seconds to wait until an administrator's change is seen, a cancelled waiter has its lock back, or a client that ends
has a connection. The end of a wait that is not answered by then loses its lock."""
LAST_PATIENCE: Final = 0.25
"""Seconds that a last answer is waited for where no time is left: behind a timeout, in a task that was cancelled."""


class Line(Protocol):
    """One connection to a lock server, which has not been told anything yet."""

    def say(self, said: Sequence[Upward]) -> None:
        """Give this to the server, in order, now or soon; never waits, and never raises where the server is gone."""

    async def receive(self) -> Iterable[Downward]:
        """Wait for what the server says next, in order.

        Raises `ConnectionLost` when that is nothing any more; another `LockError` where it is useless to try again.
        """

    async def carry(self) -> None:
        """Carry what `say` could not give to the server at once, until cancelled."""

    async def close(self) -> None:
        """Give to the server what it takes of what was said, and end. The caller bounds how long that takes."""


class Transport(Protocol):
    """The way to a lock server."""

    def clock(self) -> float:
        """Return the boot-time clock's seconds; in virtual time whatever goes with the sleeps of the event loop."""

    async def open(self) -> Line:
        """Make a connection. Raises `NoDaemon` where that may succeed later, another `LockError` where not."""


class SocketTransport:
    """The way to this machine's daemon."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def clock(self) -> float:
        """Return the boot-time clock's seconds."""
        return boot_time()

    async def open(self) -> SocketLine:
        """Make a connection."""
        return SocketLine(Records(CLUCKD.open(self._path), self._path))


class SocketLine:
    """A connection to a daemon."""

    def __init__(self, line: Records) -> None:
        self._line = line
        self._behind = Waiters()
        self._turn = 0

    def fileno(self) -> int:
        """The socket's descriptor; -1 where it is closed."""
        return self._line.sock.fileno()

    def say(self, said: Sequence[Upward]) -> None:
        """Give this to the server, now if the socket has room."""
        if not self._line.is_behind:
            self._line.say(said)
            if self._line.is_behind:
                self._behind.wake()
        else:
            self._line.say(said)

    async def receive(self) -> Iterable[Downward]:
        """Wait for the next record."""
        self._turn += 1
        if self._turn % READ_TURN == 0:
            await anyio.lowlevel.checkpoint()
        while (said := self._line.read()) is None:
            await anyio.wait_readable(self._line.sock)
        return said

    async def carry(self) -> None:
        """Write what the socket had no room for, as soon as it has."""
        while True:
            while not self._line.is_behind:
                await self._behind.wait()
            await anyio.wait_writable(self._line.sock)
            self._line.write()

    async def close(self) -> None:
        """Write what is left, and close the socket."""
        try:
            while self._line.is_behind:
                await anyio.wait_writable(self._line.sock)
                self._line.write()
        finally:
            self._line.close()


class Locks(Body):
    """A client of the lock service: what `cluck.connect` and `cluck.open` give.

    Every name is a `str` (in UTF-8) or bytes, 1 to 1,024 of them; every time is in seconds.
    """

    def __init__(self, transport: Transport, *, reconnect: bool, program: str) -> None:
        super().__init__()
        self._transport = transport
        self._reconnect = reconnect
        self._program = program
        self._line: Line
        self._session = Session(transport.clock, self._wake, _log.warning)
        self._tasks = Tasks()
        self._process = os.getpid()
        self._driving = anyio.CancelScope(shield=True)

    # ---- readiness

    @property
    def ready(self) -> bool:
        """Whether the lock servers decide now, as far as this client has been told."""
        return self._session.ready

    @property
    def why_not_ready(self) -> str:
        """Why they do not; empty where they do."""
        return "" if self._session.ready else self._session.why_not_ready

    def fileno(self) -> int:
        """The descriptor of the connection to `cluckd`; another one after each loss of the connection.

        The daemon takes a program for gone when all copies of it are closed: a process that guards what is done under
        a lock keeps one, and nobody is given the lock before it has ended.
        """
        line = self._line
        if not isinstance(line, SocketLine):
            raise ValueError("this client has no connection to a daemon: its lock server is in its own process")
        return line.fileno()

    async def wait_ready(self) -> None:
        """Wait until the lock servers decide."""
        await anyio.lowlevel.checkpoint()
        with self._session.standstill.awaiting():
            await self._until(lambda: self._session.ready or self._ended())
        self._check()

    # ---- locks

    def lock(
        self,
        name: str | bytes,
        *,
        timeout: float | None = None,
        duration: float | None = None,
        grace: float = GRACE,
        priority: bool = False,
        on_queued: OnQueued | None = None,
    ) -> AbstractAsyncContextManager[Held]:
        """Hold a lock for the time of a block, alone: `async with locks.lock("backup") as held`.

        Args:
            name: Of the lock.
            timeout: Seconds to wait for it; None: for ever, 0: try once. Where the lock server does not answer,
                that is seen a quarter of a second later; a try takes little more than a second then.
            duration: Seconds until the body is cancelled, unless `held.renew()` is called: 0.1 to 7 days; None: no end,
                a lease of 5 seconds is renewed while the block runs.
            grace: Seconds behind the lease until the lock is taken from a program that cannot be reached.
            priority: Go in front of all that wait to share it.
            on_queued: Called with the number of tickets ahead, of holders and waiters, when it has changed; at most
                twice a second. What it raises comes out, and nothing is waited for any more.

        Raises before the body begins: `LockTimeout`, `NotReady`, `DeadlockError`, `KindMismatch`, `Overflow`,
        `OutcomeUnknown`. A lock that is lost cancels the body, and `LockLost` comes out of the block.
        """
        mode = Mode.PRIORITY if flag("priority", priority) else Mode.EXCLUSIVE
        return self._hold(name, timeout=timeout, duration=duration, grace=grace, mode=mode, on_queued=on_queued)

    def shared(
        self,
        name: str | bytes,
        *,
        timeout: float | None = None,
        duration: float | None = None,
        grace: float = GRACE,
        on_queued: OnQueued | None = None,
    ) -> AbstractAsyncContextManager[Held]:
        """Hold a lock beside others that share it; else as `lock`."""
        return self._hold(name, timeout=timeout, duration=duration, grace=grace, mode=Mode.SHARED, on_queued=on_queued)

    def semaphore(
        self,
        name: str | bytes,
        permits: int,
        *,
        timeout: float | None = None,
        duration: float | None = None,
        grace: float = GRACE,
        on_queued: OnQueued | None = None,
    ) -> AbstractAsyncContextManager[Held]:
        """Hold one of so many permits, the same number wherever the name is used; else as `lock`."""
        wanted = whole("permits", permits, 1)
        return self._hold(name, timeout=timeout, duration=duration, grace=grace, permits=wanted, on_queued=on_queued)

    def _hold(
        self,
        name: str | bytes,
        *,
        timeout: float | None,
        duration: float | None,
        grace: float,
        mode: Mode = Mode.EXCLUSIVE,
        permits: int = 0,
        on_queued: OnQueued | None = None,
    ) -> Held:
        wanted, longest = name_of(name), patience("timeout", timeout)

        def ask(held: Held) -> Ticket:
            return self._session.locks.acquire(
                self._task(),
                wanted,
                held._on_change,
                mode=mode,
                permits=permits,
                duration=duration,
                grace=grace,
                waits=longest != 0,
            )

        return Held(self, ask, longest, on_queued)

    async def force(self, name: str | bytes, token: int) -> None:
        """Take a lock from whoever holds it with this token, as an administrator: it is lost there.

        Returns when it is not held under this token any more. Raises `OutcomeUnknown` where that cannot be seen.
        """
        wanted, token = name_of(name), whole("token", token, 1)
        self._check()
        self._session.locks.force(wanted, token)
        self._say_soon()
        pause = SHORTEST_PAUSE
        with anyio.move_on_after(PATIENCE):
            while any(holder["token"] == token for lock in await self.tickets() for holder in lock["holders"]):
                await anyio.sleep(pause)
                pause *= 2
            return
        raise OutcomeUnknown(f"lock {quoted(wanted)}: it is held with token {token} still; look at the tickets again")

    async def change_voters(
        self, votes: Mapping[int, int], *, tie_breaker: int | None = None, unsafe_half: bool = False
    ) -> None:
        """Have these lock servers decide from now on, as an administrator (docs/locks.md, "Who decides").

        Args:
            votes: Of each lock server's node, by its id. A majority of them must be there, and one of the former ones.
            tie_breaker: The node with which an exact half of the votes is enough.
            unsafe_half: An exact half is always enough: two halves may both grant a lock.

        Returns when that is in force. Raises `ValueError` for what cannot decide, `NotReady` where too few of them are
        there, `OutcomeUnknown` where it cannot be seen, or another change is under way.
        """
        wanted = electorate_of(votes, tie_breaker, unsafe_half)
        self._session.change_voters(wanted, await self.status())
        self._say_soon()
        pause = SHORTEST_PAUSE
        with anyio.move_on_after(PATIENCE):
            while not wanted.is_in_force((await self.status())["voters"]):
                await anyio.sleep(pause)
                pause *= 2
            return
        raise OutcomeUnknown(f"those who are to decide are not in force: {wanted}; look at the status again")

    # ---- conditions, leaders

    @asynccontextmanager
    async def condition(
        self,
        name: str | bytes,
        *,
        lock: str | bytes | Held,
        timeout: float | None = None,
        duration: float | None = None,
        grace: float = GRACE,
    ) -> AsyncGenerator[Condition, None]:
        """Hold a lock for the time of a block, in which to wait on a condition that goes with it, or to notify.

        Args:
            name: Of the condition.
            lock: Its lock, which the block holds as with `lock`; or one that is held already.
            timeout: Seconds to wait for the lock, as `lock` has it, and the other two also.
            duration: Seconds that it is held.
            grace: Seconds behind the lease.
        """
        wanted = name_of(name)
        if isinstance(lock, Held):
            yield Condition(self, wanted, lock)
        else:
            async with self.lock(lock, timeout=timeout, duration=duration, grace=grace) as held:
                yield Condition(self, wanted, held)

    @asynccontextmanager
    async def candidate(
        self,
        name: str | bytes,
        *,
        address: str | bytes = b"",
        port: int = 0,
        restart_interval: float = 0.0,
        duration: float = session_elections.LEASE,
        grace: float = session_elections.GRACE,
    ) -> AsyncGenerator[Candidate, None]:
        """Stand in an election for the time of a block; entered when the lock servers know the candidate.

        Args:
            name: Of the election.
            address: Where the others find this candidate, told to all that observe; up to 256 bytes.
            port: The same.
            restart_interval: Seconds from when this program's former life is known to have run last to its start, if
                it knows: of those that run for the same time, the one that was away for less is preferred.
            duration: Seconds that it leads without renewal, up to 7 days. It is renewed each third while the program
                runs; where that cannot be, it leads no more when they are over, by its own clock.
            grace: Seconds behind them for what it does as a leader to come to an end; then another one may lead.
        """
        self._check()
        candidate = Candidate(self)
        candidate._candidacy = self._session.leaders.stand(
            self._task(),
            name_of(name),
            candidate._on_change,
            address=octets("address", address),
            port=port,
            restart_interval=restart_interval,
            duration=duration,
            grace=grace,
        )
        self._say_soon()
        outcome: BaseException | None = None
        try:
            await candidate._until(lambda: candidate._candidacy.is_standing or candidate._candidacy.is_over)
            candidate._check()
            yield candidate
        except BaseException as error:
            outcome = error
            raise
        finally:
            candidate._over = True
            await candidate._step_back(outcome)

    @asynccontextmanager
    async def observe(self, name: str | bytes) -> AsyncGenerator[Leaderships, None]:
        """Look at an election: `async with locks.observe("scheduler") as leaderships`, then `async for`.

        The first is the present state. `leader` is None where nobody leads, or nobody knows; a leadership comes again
        with each blob that its leader publishes. Of more than 64 that wait, the oldest are missed.
        """
        self._check()
        waiters = Waiters()
        observation = self._session.leaders.observe(name_of(name), waiters.wake)
        self._say_soon()
        try:
            yield Leaderships(self, observation, waiters)
        finally:
            self._session.leaders.ignore(observation)
            self._say_soon()

    # ---- questions

    async def status(self) -> Any:
        """What the lock server says of itself: ready or not and why, its leaders, the quorum."""
        return await self.ask("status")

    async def tickets(self) -> Any:
        """All locks: who holds each with which token, who waits."""
        return await self.ask("tickets")

    async def ask(self, question: str) -> Any:
        """Ask the lock server for what it knows: "status", "tickets", "leaders", "elections", "conditions"."""
        self._check()
        waiters = Waiters()
        asked = self._session.ask(question, waiters.wake)
        self._say_soon()
        try:
            while not asked.is_answered:
                self._check()
                await waiters.wait()
        finally:
            self._session.forget(asked)
        return asked.answer

    # ---- the shell's side

    def _task(self) -> int:
        """The number of the task that runs: what holds and waits, where deadlocks are looked for."""
        return self._tasks.number(current_task())

    def _check(self) -> None:
        """Raise if there is no connection any more, and will be none, or it is another process's."""
        self._check_process()
        self._raise_failure()
        if self._over:
            raise ConnectionLost("the connection to the lock server has been closed: the block of `connect` has ended")

    def _check_process(self) -> None:
        """Raise in a process that was forked since."""
        if self._process != os.getpid():
            raise RuntimeError("this connection is that of the process that was forked: connect in this one anew")

    def _say_soon(self) -> None:
        said = self._session.take()
        if said:
            self._line.say(said)

    @asynccontextmanager
    async def _live(self) -> AsyncGenerator[Self, None]:
        self._line = await self._welcomed()
        outcome: BaseException | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._drive)
            try:
                with self._body:
                    yield self
            except BaseException as error:
                outcome = error  # not through the task group, which would wrap it
            try:  # otherwise locks would stay until they expire
                await _settled(self, lambda: self._session.may_part, PATIENCE, outcome)
            except BaseException as error:
                outcome = error
            self._over = True
            self._session.close()
            self._say_soon()
            self._driving.cancel()
        with anyio.move_on_after(FAREWELL_PATIENCE, shield=True):
            await self._line.close()
        self._raise_failure(outcome)
        if outcome is not None:
            raise outcome

    async def _welcomed(self) -> Line:
        """Open a connection and wait for the welcome; raises why there is none."""
        line = await self._transport.open()
        session = self._session
        try:
            session.greet(self._program)
            line.say(session.take())
            await CLUCKD.answered(partial(self._hear_welcome, line), partial(_log.warning, "%s"), self._transport)
            if session.failure is not None:
                raise session.failure
        except BaseException:
            with anyio.CancelScope(shield=True):
                await line.close()
            raise
        return line

    async def _hear_welcome(self, line: Line) -> None:
        while not self._session.is_connected and self._session.failure is None:
            self._session.receive(await line.receive())

    async def _drive(self) -> None:
        """Work until the block has ended, cancelled or not: locks are given back in order first."""
        with self._driving:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._converse)
                tasks.start_soon(self._watch_the_clock)

    async def _converse(self) -> None:
        """Take in what the server says, through as many connections as it takes."""
        try:
            while True:
                failure = self._session.lose(await self._hear_out())
                if not (isinstance(failure, ConnectionLost) and self._reconnect):
                    break
                _log.warning("%s: reconnecting to %s", failure, self._transport)
                await self._connect_again()
            self._fail(failure)
        except LockError as error:
            self._fail(error)
        self._session.close()

    async def _hear_out(self) -> LockError:
        """Take in what comes until nothing more does; return why."""
        session = self._session
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._line.carry)
            self._say_soon()
            try:
                while session.failure is None:
                    session.receive(await self._line.receive())
                    self._say_soon()
                failure = session.failure
            except LockError as error:
                failure = error
            tasks.cancel_scope.cancel()
        return failure

    async def _connect_again(self) -> None:
        await self._line.close()
        pauses = reconnect_pauses()
        while True:
            try:
                self._line = await self._welcomed()
                break
            except (NoDaemon, ConnectionLost):
                await anyio.sleep(pauses.next())
        _log.warning("connected to %s again", self._transport)

    async def _watch_the_clock(self) -> None:
        session = self._session
        while True:
            rest = session.deadline - self._transport.clock()
            if rest > 0:
                with anyio.move_on_after(None if rest == math.inf else min(rest, LONGEST_REST)):
                    await self._waiters.wait()
            else:
                session.advance()
                self._say_soon()
                await anyio.lowlevel.checkpoint()


class Held(Body):
    """A lock that is held, for the time of one block. Made by `Locks.lock` and its sisters."""

    def __init__(
        self, locks: Locks, ask: Callable[[Held], Ticket], timeout: float | None, on_queued: OnQueued | None
    ) -> None:
        super().__init__()
        self._locks = locks
        self._ask = ask
        self._timeout = timeout
        self._place = Place(on_queued)
        self._is_used = False
        self._ticket: Ticket
        self._lost: anyio.Event | None = None
        self._unlocking: anyio.Event | None = None

    def __repr__(self) -> str:
        return f"<Held: {self._ticket if self._is_used else 'not asked for yet'}>"

    async def __aenter__(self) -> Self:
        """Wait for the lock. Hot, as `__aexit__`: no scope and no event that is not needed."""
        self._locks._check()
        if self._is_used:
            raise RuntimeError("a lock is asked for anew for each block: call `lock` again")
        self._is_used = True
        self._ticket = self._ask(self)
        await self._obtain(self._timeout)
        self._body.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Give the lock back; what ended the body goes on, unless that was its loss."""
        outcome = error
        try:
            if self._body.__exit__(kind, error, traceback):
                outcome = None
        except BaseException as rest:  # what is left of a group of exceptions
            outcome = rest
        if _is_pressed(outcome):
            await self._withdraw()
        else:
            await self._give_back()
            self._raise_failure(outcome)
        if outcome is not None and outcome is not error:
            raise outcome
        return outcome is None

    @property
    def name(self) -> bytes:
        """Of the lock."""
        return self._ticket.name

    @property
    def token(self) -> int:
        """The fencing token: larger than that of every grant before, of any lock. Another one after each wait on a
        condition; 0 while that waits.
        """
        return self._ticket.token

    @property
    def deadline(self) -> float:
        """When the lease ends, on this machine's boot-time clock, if it is not renewed."""
        return self._ticket.deadline

    def remaining(self) -> float:
        """Seconds until the deadline; 0 where the lock is not held."""
        left = self._ticket.deadline - self._locks._transport.clock()
        return max(left, 0.0) if self._ticket.is_held else 0.0

    def check(self) -> None:
        """Raise `LockLost` if the lock is not held any more, by the clock of this moment; `RuntimeError` in a forked
        process, which is told nothing of it.
        """
        self._locks._check_process()
        self._locks._session.locks.check(self._ticket)

    @property
    def lost(self) -> anyio.Event:
        """Set when the lock is lost; the body is cancelled then."""
        if self._lost is None:
            self._lost = anyio.Event()
            self._tell()
        return self._lost

    @property
    def unlocking(self) -> anyio.Event:
        """Set when the lock should be given back now: its lease comes to its end, and somebody may wait."""
        if self._unlocking is None:
            self._unlocking = anyio.Event()
            self._tell()
        return self._unlocking

    async def renew(self) -> None:
        """Hold the lock for another `duration` from now on. Raises `LockLost` where it is too late for that."""
        await anyio.lowlevel.checkpoint()
        self.check()
        ticket = self._ticket
        before = ticket.leases
        self._locks._session.locks.renew(ticket)
        self._locks._say_soon()
        await self._until(lambda: ticket.leases > before or not ticket.is_held)
        self.check()

    def _on_change(self) -> None:
        failure = self._ticket.failure
        if failure is not None and isinstance(failure, LockLost):
            self._fail(failure)
        self._tell()
        self._wake()

    def _tell(self) -> None:
        """Set the events that the program has asked for, or have a new one where it is over what one was set for."""
        ticket = self._ticket
        if self._lost is not None and isinstance(ticket.failure, LockLost):
            self._lost.set()
        if self._unlocking is not None:
            if ticket.is_unlocking:
                self._unlocking.set()
            elif self._unlocking.is_set():
                self._unlocking = anyio.Event()

    def _is_decided(self) -> bool:
        self._place.tell(self._ticket.ahead)
        return self._ticket.is_held or self._ticket.is_over

    async def _obtain(self, timeout: float | None) -> None:
        """Wait until the lock is held; raises why it is not, and then nothing is left behind."""
        ticket, session = self._ticket, self._locks._session
        self._locks._say_soon()
        is_tried = timeout == 0
        try:
            if timeout is None:
                await self._until(self._is_decided)
            elif session.is_connected or not is_tried:
                with anyio.move_on_after(ANSWER_PATIENCE if is_tried else timeout):
                    await self._until(self._is_decided)
        except BaseException:
            await self._withdraw()
            raise
        if ticket.is_held:
            return
        if ticket.failure is None:
            failure = session.timed_out(ticket, timeout)
            await self._withdraw()
            raise failure
        raise ticket.failure

    async def _give_back(self) -> None:
        """Give the lock back, and wait for the last answer as long as there is hope for it."""
        self._give_up()
        try:
            await self._until(self._is_settled)
        except BaseException:
            await _a_moment(self, self._is_settled)
            raise

    async def _withdraw(self) -> None:
        """Want the lock no more where no time is left: the session hears a later answer alone."""
        self._give_up()
        await _a_moment(self, self._is_settled)

    def _give_up(self) -> None:
        self._locks._session.locks.give_up(self._ticket)
        self._locks._say_soon()

    def _is_settled(self) -> bool:
        return self._ticket.is_settled or not self._locks.ready


class Condition:
    """A condition, for who holds its lock. Made by `Locks.condition`."""

    def __init__(self, locks: Locks, name: bytes, held: Held) -> None:
        self.name = name
        self.held = held
        """Its lock."""
        self._locks = locks

    async def wait(self, timeout: float | None = None, *, reacquire: bool = True) -> bool:
        """Give the lock back, and wait to be notified, in one step; hold the lock again when this returns.

        Args:
            timeout: Seconds to wait for a notification; that for the lock comes on top. None: for ever.
            reacquire: Whether to have the lock back; without it the block holds nothing any more.

        Returns whether it was notified. The lock has another token then. Raises `LockLost` where the lock was lost
        before, or cannot be had back; `WrongLock` where others wait with another lock, and `NotReady`: the lock is
        held still. Where the lock server does not answer for five seconds behind `timeout`, the lock is lost; without
        `reacquire` that is an `OutcomeUnknown`, and another waiter is notified if this one was.

        A task that is cancelled meanwhile waits for the lock for up to five seconds more, so that its body ends with
        it; if it had been notified, another waiter is in its place.
        """
        longest = patience("timeout", timeout)
        flag("reacquire", reacquire)
        await anyio.lowlevel.checkpoint()
        held, session = self.held, self._locks._session
        held.check()
        former = held._ticket
        ticket = session.locks.wait(self._locks._task(), former, self.name, held._on_change, reacquires=reacquire)
        held._ticket = ticket
        self._locks._say_soon()
        try:
            with anyio.move_on_after(longest):
                await held._until(lambda: ticket.is_heard)
            session.locks.end_wait(ticket)
            self._locks._say_soon()
            with anyio.move_on_after(PATIENCE):
                await held._until(lambda: ticket.is_heard)
            if ticket.is_heard:
                await held._until(held._is_decided)
            else:
                session.locks.lose_wait(ticket)
                self._locks._say_soon()
        except BaseException:
            await self._leave(ticket)
            raise
        finally:
            if former.is_held:
                held._ticket = former
        if ticket.failure is not None:
            raise ticket.failure
        return bool(ticket.notified)

    async def _leave(self, ticket: Ticket) -> None:
        """A waiter was cancelled: have order decide what it was told, and have the lock back, if that can be."""
        held, session = self.held, self._locks._session
        session.locks.end_wait(ticket)
        self._locks._say_soon()
        with anyio.move_on_after(LAST_PATIENCE, shield=True) as patience:
            await held._until(lambda: ticket.is_heard or not session.ready)
            patience.deadline = anyio.current_time() + PATIENCE
            await held._until(lambda: held._is_decided() or not session.ready)
        if ticket.notified:
            session.locks.notify(self._locks._task(), self.name, held._wake, everyone=False, priority=False)
            self._locks._say_soon()
        if not held._is_decided():
            await held._withdraw()

    async def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until a predicate holds, which is called with the lock held; says whether it does.

        Args:
            predicate: What is waited for.
            timeout: Seconds after which to give up; None: never.
        """
        callback("predicate", predicate)
        longest = patience("timeout", timeout)
        deadline = None if longest is None else anyio.current_time() + longest
        while not predicate():
            rest = None if deadline is None else deadline - anyio.current_time()
            if rest is not None and rest <= 0:
                return False
            await self.wait(rest)
        return True

    async def notify(self, n: int = 1, *, priority: bool = False) -> int:
        """Wake the `n` that wait longest, or as many as there are; returns how many that were.

        `priority` has them go in front of all that wait to share the lock. Raises `OutcomeUnknown` where the lock
        server was restarted before it answered.
        """
        return sum(await self._notify(n, everyone=False, priority=priority))

    async def notify_all(self, *, priority: bool = False) -> int:
        """Wake all that wait; else as `notify`."""
        return sum(await self._notify(1, everyone=True, priority=priority))

    async def _notify(self, count: int, *, everyone: bool, priority: bool) -> list[int]:
        flag("priority", priority)
        whole("n", count, 0, MOST_UNSETTLED)
        self._locks._check()
        session, waiters, task = self._locks._session, Waiters(), self._locks._task()
        notices = [
            session.locks.notify(task, self.name, waiters.wake, everyone=everyone, priority=priority)
            for _ in range(count)
        ]
        self._locks._say_soon()
        return [(await _answered(notice, waiters)).count for notice in notices]


class Candidate(Body):
    """A candidate in an election. Made by `Locks.candidate`."""

    def __init__(self, locks: Locks) -> None:
        super().__init__()
        self._locks = locks
        self._candidacy: Candidacy
        self._runs: dict[anyio.CancelScope, int] = {}
        """What runs while this candidate leads, under which token."""

    def __repr__(self) -> str:
        return f"<Candidate: {self._candidacy}>"

    @property
    def id(self) -> RequestId:
        """By which the others know this candidate: the `leader` of a `Leadership`."""
        return self._candidacy.id

    @property
    def role(self) -> Role:
        """Whether it leads, by the clock of this moment."""
        return self._candidacy.role

    @property
    def is_leader(self) -> bool:
        """Whether it leads, by the clock of this moment."""
        return self._candidacy.token != 0

    @property
    def deadline(self) -> float:
        """Until when it leads, on this machine's boot-time clock, if it is not renewed; 0 where it does not."""
        return self._candidacy.deadline

    @property
    def why_ended(self) -> str:
        """Why its last leadership has ended; empty where none has."""
        return self._candidacy.why_ended

    def roles(self) -> Roles:
        """Iterate over its roles: `async for role in candidate.roles()`; the present one, then each change.

        A `Follower` comes first, or behind a `Leader`; who is slow misses whole leaderships, never the end of one that
        it was told of.
        """
        return Roles(self)

    async def publish(self, blob: bytes) -> int:
        """Attach something to this leadership, up to 64 KiB, that all who observe are told; returns its version.

        Raises `LeadershipLost` where this candidate does not lead, or does not any more: it may have been published
        then.
        """
        await anyio.lowlevel.checkpoint()
        self._check()
        waiters = Waiters()
        publication = self._locks._session.leaders.publish(
            self._locks._task(), self._candidacy, octets("blob", blob), waiters.wake
        )
        self._locks._say_soon()
        return (await _answered(publication, waiters)).version

    async def resign(self, to: RequestId | None = None) -> None:
        """Lead no more, and stand on. Does nothing where it does not lead.

        What runs by `run_while_leader` is cancelled, and another one may lead when that has come to its end.

        Args:
            to: The candidate that is to be next (its `id`), if it still stands; else the order of selection decides.
        """
        await anyio.lowlevel.checkpoint()
        self._locks._session.leaders.resign(self._candidacy, to)
        self._locks._say_soon()

    async def run_while_leader(self, fn: Callable[[Leader], Awaitable[Result]]) -> Result:
        """Run `fn(leader)` whenever this candidate leads, cancel it when that ends; returns what it returns.

        Where `fn` comes to its end while this candidate leads, so does this. What it raises comes out as it is.
        """
        callback("fn", fn)
        while True:
            await anyio.lowlevel.checkpoint()
            await self._until(lambda: self._candidacy.token or self._has_ended())
            if self._has_ended():
                self._check()
                election = quoted(self._candidacy.command.election)
                raise LeadershipLost(f"election {election}: the candidate's block has ended")
            leader = Leader(self._candidacy.token)
            scope = anyio.CancelScope()
            self._runs[scope] = leader.token
            self._locks._session.leaders.begin_work(self._candidacy)
            try:
                with scope:
                    return await fn(leader)
            finally:
                del self._runs[scope]
                self._locks._session.leaders.end_work(self._candidacy)
                self._locks._say_soon()

    def _has_ended(self) -> bool:
        return self._candidacy.is_over or self._over

    def _on_change(self) -> None:
        for scope, token in self._runs.items():
            if token != self._candidacy.token:
                scope.cancel()
        self._wake()

    def _check(self) -> None:
        self._locks._check()
        if self._candidacy.failure is not None:
            raise self._candidacy.failure

    async def _step_back(self, outcome: BaseException | None) -> None:
        locks, candidacy = self._locks, self._candidacy
        locks._session.leaders.step_back(candidacy)
        locks._say_soon()
        await _settled(self, lambda: candidacy.is_over or not locks.ready, ANSWER_PATIENCE, outcome)


class Roles:
    """What a candidate is, and becomes: `async for role in candidate.roles()`."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate
        self._told = RolesTold(candidate._candidacy)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Role:
        candidate, told = self._candidate, self._told
        await anyio.lowlevel.checkpoint()
        await candidate._until(lambda: told.has_news or candidate._has_ended())
        if not told.has_news:
            candidate._check()
            raise StopAsyncIteration
        return told.take()


class Leaderships:
    """Who leads an election, and will: `async for leadership in leaderships`."""

    def __init__(self, locks: Locks, observation: Observation, waiters: Waiters) -> None:
        self._locks = locks
        self._observation = observation
        self._waiters = waiters

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Leadership:
        await anyio.lowlevel.checkpoint()
        while not self._observation.news:
            self._locks._check()
            await self._waiters.wait()
        return self._observation.news.popleft()


def _is_pressed(outcome: BaseException | None) -> bool:
    """Whether no time is left for last answers: what a block has come to is a cancellation, or an interrupt."""
    return outcome is not None and not isinstance(outcome, Exception)


async def _settled(
    body: Body, is_settled: Callable[[], object], patience: float, outcome: BaseException | None
) -> None:
    """Wait so long for what is to be settled behind a block that has come to this; a moment where no time is left."""
    if _is_pressed(outcome):
        await _a_moment(body, is_settled)
        return
    try:
        with anyio.move_on_after(patience):
            await body._until(is_settled)
    except BaseException:
        await _a_moment(body, is_settled)
        raise


async def _a_moment(body: Body, is_settled: Callable[[], object]) -> None:
    """Wait for a last answer where no time is left, in a task that is cancelled, too."""
    with anyio.move_on_after(LAST_PATIENCE, shield=True):
        await body._until(is_settled)


async def _answered(request: AnyRequest, waiters: Waiters) -> AnyRequest:
    """Wait for the answer to a request; raises why it is not what was wanted."""
    while not request.is_over:
        await waiters.wait()
    if request.failure is not None:
        raise request.failure
    return request


@asynccontextmanager
async def over(transport: Transport, *, reconnect: bool = False, program: str = "") -> AsyncGenerator[Locks, None]:
    """Be a client over any transport, for the time of a block; else as `connect`."""
    async with Locks(transport, reconnect=reconnect, program=program)._live() as locks:
        yield locks


@asynccontextmanager
async def connect(
    socket: str | os.PathLike[str] | None = None, *, reconnect: bool = True
) -> AsyncGenerator[Locks, None]:
    """Be a client of this machine's lock server `cluckd`: `async with cluck.connect() as locks`, on trio or asyncio.

    Args:
        socket: The path of the daemon's socket, if it is not `default_socket()` (`$CLUCKD_SOCKET`).
        reconnect: Wait for a daemon that has ended. Locks that are held stay good until their deadline meanwhile, who
            leads does not any more, what waits goes on waiting. Without it the block ends with `ConnectionLost`.

    Raises `DaemonUnavailable` where no daemon runs, or refuses this user, or answers within 30 seconds: one that begins
    takes up to ten, until it knows whether it has a ring.
    """
    flag("reconnect", reconnect)
    transport = SocketTransport(pathname("socket", socket) if socket is not None else default_socket())
    async with over(transport, reconnect=reconnect, program=own_name()) as locks:
        yield locks
