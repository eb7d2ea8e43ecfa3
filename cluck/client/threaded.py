"""Locks, conditions and leaders for programs without an event loop: `cluck.blocking.connect()`.

    with cluck.blocking.connect() as locks:
        with locks.lock("backup", timeout=5) as held:
            for part in parts:
                held.check()
                copy(part, token=held.token)

Any thread may use what this gives; each is an owner of its own, for deadlocks to be seen. A thread behind them reads
the socket, renews leases and looks at the clock. Nothing can interrupt a thread from outside, so a lost lock ends no
block: `held.lost` is set, `held.check()` raises `LockLost`, and so does the end of the block.

A forked process must connect anew: what it inherits raises `RuntimeError` there. The locks stay the parent's. Where
that dies while a child has its connection too, they are free when their leases are over, rather than at once.
"""

from __future__ import annotations

import logging
import math
import os
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Self

from cluck.client import session_elections
from cluck.client.asynchronous import LAST_PATIENCE, LONGEST_REST, PATIENCE
from cluck.client.requests import (
    Candidacy,
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
from cluck.errors import ConnectionLost, LockError, LockLost, OutcomeUnknown
from cluck.socket_path import default_socket
from cpg.arguments import callback, flag, octets, pathname, patience, whole
from cpg.block import raise_instead
from cpg.client.threaded import longest_rest
from cpg.local.client_socket import (
    FAREWELL_PATIENCE,
    LONGEST_PAUSE,
    READ_TURN,
    SHORTEST_PAUSE,
    WELCOME_PATIENCE,
    own_name,
)
from cpg.replication.electorate import electorate_of
from totem.text import quoted

_log = logging.getLogger(__name__)


class Locks:
    """A client of the lock service: what `connect` gives. A context manager, which closes it.

    Names, times, and what is raised are those of `cluck.Locks`.
    """

    def __init__(
        self,
        path: Path,
        *,
        reconnect: bool = True,
        clock: Callable[[], float] = boot_time,
    ) -> None:
        self._path = path
        self._reconnect = reconnect
        self._clock = clock
        self._process = os.getpid()
        self._lock = threading.RLock()
        """Of everything below."""
        self._changed = threading.Condition(self._lock)
        self._session = Session(clock, self._on_change, _log.warning)
        self._tasks = Tasks()
        self._failure: LockError | None = None
        self._is_closed = self._is_gone = False
        self._welcome_until = 0.0
        self._next_try, self._pause = 0.0, SHORTEST_PAUSE
        self._line: Records | None = Records(CLUCKD.open(path), path)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._greet()
        self._thread = threading.Thread(target=self._run, name="cluck", daemon=True)
        self._thread.start()
        try:
            self._wait_for_welcome()
        except BaseException:
            self.close()
            raise

    def _wait_for_welcome(self) -> None:
        with self._lock:
            self._until(self._changed, lambda: self._session.is_connected or self._failure is not None)
            if self._failure is not None:
                raise self._failure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End in order: what is still held is free. A second call does nothing."""
        if not self._is_own:
            if self._line is not None:
                self._line.close()
            return
        with self._lock:
            self._until(self._changed, lambda: self._session.may_part, PATIENCE)
            self._is_closed = True
            self._session.close()
            self._say_soon()
            self._changed.notify_all()
            self._interrupt()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # ---- readiness, questions

    @property
    def ready(self) -> bool:
        """Whether the lock servers decide now, as far as this client has been told."""
        return self._session.ready

    @property
    def why_not_ready(self) -> str:
        """Why they do not; empty where they do."""
        with self._lock:
            return "" if self._session.ready else self._session.why_not_ready

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until the lock servers decide, at most so many seconds; says whether they do."""
        longest = patience("timeout", timeout)
        with self._using(), self._session.standstill.awaiting():
            is_over = self._until(self._changed, lambda: self._session.ready or self._has_ended(), longest)
            if is_over and not self._session.ready:
                self._check()
            return is_over

    def status(self) -> Any:
        """What the lock server says of itself: ready or not and why, its leaders, the quorum."""
        return self.ask("status")

    def tickets(self) -> Any:
        """All locks: who holds each with which token, who waits."""
        return self.ask("tickets")

    def ask(self, question: str) -> Any:
        """Ask the lock server for what it knows: "status", "tickets", "leaders", "elections", "conditions"."""
        return self._ask(question)

    def _ask(self, question: str, patience: float | None = None) -> Any:
        """Ask, and wait for the answer at most so many seconds; None where there is none by then."""
        with self._using():
            changed = self._condition()
            asked = self._session.ask(question, changed.notify_all)
            self._say_soon()
            try:
                self._until(changed, lambda: asked.is_answered or self._has_ended(), patience)
                if not asked.is_answered:
                    self._check()
            finally:
                self._session.forget(asked)
            return asked.answer if asked.is_answered else None

    def _see(self, question: str, is_so: Callable[[Any], bool]) -> bool:
        """Ask again and again until the answer is so; says whether it was, before that took too long."""
        pause, deadline = SHORTEST_PAUSE, time.monotonic() + PATIENCE
        while (rest := deadline - time.monotonic()) > 0:
            answer = self._ask(question, rest)
            if answer is not None and is_so(answer):
                return True
            time.sleep(pause)
            pause *= 2
        return False

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
    ) -> AbstractContextManager[Held]:
        """Hold a lock for the time of a block, alone; as `cluck.Locks.lock`, but for what the loss of it does:
        `LockLost` comes out at the end of the block, or of `held.check()`.
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
    ) -> AbstractContextManager[Held]:
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
    ) -> AbstractContextManager[Held]:
        """Hold one of so many permits, the same number wherever the name is used; else as `lock`."""
        wanted = whole("permits", permits, 1)
        return self._hold(name, timeout=timeout, duration=duration, grace=grace, permits=wanted, on_queued=on_queued)

    @contextmanager
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
    ) -> Iterator[Held]:
        wanted, longest = name_of(name), patience("timeout", timeout)
        with self._using():
            held = Held(self, self._condition(), on_queued)
            held._ticket = self._session.locks.acquire(
                self._task(),
                wanted,
                held._on_change,
                mode=mode,
                permits=permits,
                duration=duration,
                grace=grace,
                waits=longest != 0,
            )
            held._obtain(longest)
        try:
            yield held
        except Exception as outcome:
            held._give_back()
            held._raise_lost(outcome)
            raise
        except BaseException:
            held._give_back(LAST_PATIENCE)
            raise
        held._give_back()
        held._raise_lost(None)

    def force(self, name: str | bytes, token: int) -> None:
        """Take a lock from whoever holds it with this token; as `cluck.Locks.force`."""
        wanted, token = name_of(name), whole("token", token, 1)
        with self._using():
            self._session.locks.force(wanted, token)
            self._say_soon()

        def is_free(locks: Any) -> bool:
            return all(holder["token"] != token for lock in locks for holder in lock["holders"])

        if not self._see("tickets", is_free):
            raise OutcomeUnknown(
                f"lock {quoted(wanted)}: it is held with token {token} still; look at the tickets again"
            )

    def change_voters(
        self, votes: Mapping[int, int], *, tie_breaker: int | None = None, unsafe_half: bool = False
    ) -> None:
        """Have these lock servers decide from now on, as an administrator; as `cluck.Locks.change_voters`."""
        wanted, status = electorate_of(votes, tie_breaker, unsafe_half), self.status()
        with self._using():
            self._session.change_voters(wanted, status)
            self._say_soon()
        if not self._see("status", lambda status: wanted.is_in_force(status["voters"])):
            raise OutcomeUnknown(f"those who are to decide are not in force: {wanted}; look at the status again")

    # ---- conditions, leaders

    @contextmanager
    def condition(
        self,
        name: str | bytes,
        *,
        lock: str | bytes | Held,
        timeout: float | None = None,
        duration: float | None = None,
        grace: float = GRACE,
    ) -> Iterator[Condition]:
        """Hold a lock for the time of a block, in which to wait on a condition that goes with it, or to notify; as
        `cluck.Locks.condition`.
        """
        wanted = name_of(name)
        if isinstance(lock, Held):
            yield Condition(self, wanted, lock)
        else:
            with self.lock(lock, timeout=timeout, duration=duration, grace=grace) as held:
                yield Condition(self, wanted, held)

    @contextmanager
    def candidate(
        self,
        name: str | bytes,
        *,
        address: str | bytes = b"",
        port: int = 0,
        restart_interval: float = 0.0,
        duration: float = session_elections.LEASE,
        grace: float = session_elections.GRACE,
    ) -> Iterator[Candidate]:
        """Stand in an election for the time of a block; as `cluck.Locks.candidate`."""
        with self._using():
            candidate = Candidate(self, self._condition())
            candidate._candidacy = self._session.leaders.stand(
                self._task(),
                name_of(name),
                candidate._changed.notify_all,
                address=octets("address", address),
                port=port,
                restart_interval=restart_interval,
                duration=duration,
                grace=grace,
            )
            self._say_soon()
        try:
            candidate._enter()
            yield candidate
        finally:
            candidate._step_back()

    @contextmanager
    def observe(self, name: str | bytes) -> Iterator[Iterator[Leadership]]:
        """Look at an election: `with locks.observe("scheduler") as leaderships`, then `for leadership in leaderships`;
        as `cluck.Locks.observe`.
        """
        with self._using():
            changed = self._condition()
            observation = self._session.leaders.observe(name_of(name), changed.notify_all)
            self._say_soon()
        try:
            yield self._leaderships(observation, changed)
        finally:
            if self._is_own:
                with self._lock:
                    self._session.leaders.ignore(observation)
                    self._say_soon()

    def _leaderships(self, observation: Observation, changed: threading.Condition) -> Iterator[Leadership]:
        while True:
            with self._using():
                self._until(changed, lambda: observation.news or self._has_ended())
                if not observation.news:
                    self._check()
                leadership = observation.news.popleft()
            yield leadership

    # ---- the program's threads

    @property
    def _is_own(self) -> bool:
        """Whether this process has opened it, and was not forked since."""
        return self._process == os.getpid()

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Use the session: with the lock held. Raises if there is no connection any more, and will be none."""
        if not self._is_own:
            raise RuntimeError("this connection is that of the process that was forked: connect in this one anew")
        with self._lock:
            self._check()
            yield

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._is_closed:
            raise ConnectionLost("the connection to the lock server has been closed")

    def _has_ended(self) -> bool:
        return self._failure is not None or self._is_closed

    def _task(self) -> int:
        return self._tasks.number(threading.current_thread())

    def _condition(self) -> threading.Condition:
        return threading.Condition(self._lock)

    def _until(
        self, changed: threading.Condition, condition: Callable[[], object], patience: float | None = None
    ) -> bool:
        """Wait until the condition holds, at most so many seconds; says whether it does. With the lock held."""
        deadline = None if patience is None else time.monotonic() + patience
        while not condition():
            rest = math.inf if deadline is None else deadline - time.monotonic()
            if rest <= 0:
                return False
            changed.wait(min(rest, longest_rest()))
        return True

    def _answered(self, request: Request, changed: threading.Condition) -> None:
        """Wait for the answer to a request; raises why it is not what was wanted. With the lock held."""
        self._until(changed, lambda: request.is_over)
        if request.failure is not None:
            raise request.failure

    def _say_soon(self) -> None:
        """Give to the server what is to be said, as far as there is room. With the lock held."""
        said = self._session.take()
        if said and self._line is not None:
            self._line.say(said)
            if self._line.is_behind:
                self._interrupt()

    def _on_change(self) -> None:
        self._changed.notify_all()
        self._interrupt()

    def _interrupt(self) -> None:
        """Have the thread behind look again."""
        if not self._is_gone:
            os.eventfd_write(self._wake, 1)

    # ---- the thread behind

    def _run(self) -> None:
        try:
            while True:
                with self._lock:
                    rest = self._work()
                    if self._has_ended():
                        break
                self._poll(rest)
        finally:
            with self._lock:
                self._session.close()
                if self._line is not None:
                    self._part(self._line)
                self._is_gone = True
                os.close(self._wake)
                self._changed.notify_all()

    @staticmethod
    def _part(line: Records) -> None:
        """Give to the server what it takes of the last words, and close the connection."""
        poll = select.poll()
        poll.register(line.sock, select.POLLOUT)
        while line.is_behind and poll.poll(FAREWELL_PATIENCE * 1000):
            line.write()
        line.close()

    def _work(self) -> float:
        """Do everything that can be done now; the seconds after which there is more."""
        if self._line is None:
            self._try_again()
        if self._line is not None:
            self._exchange(self._line)
        if self._session.deadline <= self._clock():
            self._session.advance()
        self._say_soon()
        return self._rest()

    def _rest(self) -> float:
        rest = self._session.deadline - self._clock()
        rest = min(rest, LONGEST_REST) if rest < math.inf else longest_rest()
        if self._line is None:
            rest = min(rest, self._next_try - time.monotonic())
        elif not self._session.is_connected:
            rest = min(rest, self._welcome_until - time.monotonic())
        return max(rest, 0.0)

    def _exchange(self, line: Records) -> None:
        session = self._session
        line.write()
        try:
            for _ in range(READ_TURN):
                said = line.read()
                if said is None:
                    break
                session.receive(said)
                if session.failure is not None:
                    raise session.failure
        except LockError as error:
            self._lose(error)
        else:
            if not session.is_connected and time.monotonic() >= self._welcome_until:
                self._lose(CLUCKD.unanswered(self._path))

    def _lose(self, why: LockError) -> None:
        """The connection is lost; unless that is the end, another one is tried soon."""
        is_first = not self._session.was_welcomed
        self._pause = SHORTEST_PAUSE if self._session.is_connected else min(2 * self._pause, LONGEST_PAUSE)
        failure = self._session.lose(why)
        assert self._line is not None
        self._line.close()
        self._line = None
        if isinstance(failure, ConnectionLost | NoDaemon) and self._reconnect and not is_first:
            _log.warning("%s: reconnecting to %s", failure, self._path)
            self._next_try = time.monotonic() + self._pause
        else:
            self._fail(failure)

    def _fail(self, failure: LockError) -> None:
        self._failure = self._failure or failure
        self._session.close()
        self._changed.notify_all()

    def _try_again(self) -> None:
        """Make another connection, if there is a daemon and it is time to look."""
        if time.monotonic() < self._next_try:
            return
        try:
            self._line = Records(CLUCKD.open(self._path), self._path)
            self._greet()
        except NoDaemon:
            self._next_try = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        except LockError as error:
            self._fail(error)

    def _greet(self) -> None:
        self._session.greet(own_name())
        self._welcome_until = time.monotonic() + WELCOME_PATIENCE
        self._say_soon()

    def _poll(self, seconds: float) -> None:
        """Wait until there is something to read or write, or for so long, or somebody calls `_interrupt`."""
        poll = select.poll()
        line = self._line
        if line is not None:
            poll.register(line.sock, select.POLLIN | (select.POLLOUT if line.is_behind else 0))
        poll.register(self._wake, select.POLLIN)
        poll.poll(seconds * 1000)
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return


class Held:
    """A lock that is held. Made by `Locks.lock` and its sisters."""

    def __init__(self, locks: Locks, changed: threading.Condition, on_queued: OnQueued | None = None) -> None:
        self._place = Place(on_queued)
        self.lost = threading.Event()
        """Set when the lock is lost; the block raises `LockLost` at its end."""
        self.unlocking = threading.Event()
        """Set while the lock should be given back: its lease comes to its end, and somebody may wait."""
        self._locks = locks
        self._changed = changed
        self._ticket: Ticket

    def __repr__(self) -> str:
        return f"<Held: {self._ticket}>"

    @property
    def name(self) -> bytes:
        """Of the lock."""
        return self._ticket.name

    @property
    def token(self) -> int:
        """The fencing token; as `cluck.client.asynchronous.Held.token`."""
        return self._ticket.token

    @property
    def deadline(self) -> float:
        """When the lease ends, on this machine's boot-time clock, if it is not renewed."""
        return self._ticket.deadline

    def remaining(self) -> float:
        """Seconds until the deadline; 0 where the lock is not held."""
        left = self._ticket.deadline - self._locks._clock()
        return max(left, 0.0) if self._ticket.is_held else 0.0

    def check(self) -> None:
        """Raise `LockLost` if the lock is not held any more, by the clock of this moment."""
        with self._locks._using():
            self._locks._session.locks.check(self._ticket)

    def renew(self) -> None:
        """Hold the lock for another `duration` from now on. Raises `LockLost` where it is too late for that."""
        locks = self._locks
        with locks._using():
            ticket = self._ticket
            locks._session.locks.check(ticket)
            before = ticket.leases
            locks._session.locks.renew(ticket)
            locks._say_soon()
            locks._until(self._changed, lambda: ticket.leases > before or not ticket.is_held)
            locks._session.locks.check(ticket)

    def _on_change(self) -> None:
        ticket = self._ticket
        if ticket.is_unlocking:
            self.unlocking.set()
        else:
            self.unlocking.clear()
        if isinstance(ticket.failure, LockLost):
            self.lost.set()
        self._changed.notify_all()

    def _is_decided(self) -> bool:
        self._place.tell(self._ticket.ahead)
        return self._ticket.is_held or self._ticket.is_over

    def _obtain(self, timeout: float | None) -> None:
        """Wait until the lock is held; raises why it is not, and then nothing is left behind. With the lock held."""
        locks, ticket, session = self._locks, self._ticket, self._locks._session
        is_tried = timeout == 0
        try:
            locks._say_soon()
            if not is_tried or session.is_connected:
                locks._until(self._changed, self._is_decided, ANSWER_PATIENCE if is_tried else timeout)
        except BaseException:
            self._give_back(LAST_PATIENCE)
            raise
        if ticket.is_held:
            return
        failure = ticket.failure or session.timed_out(ticket, timeout)
        self._give_back(LAST_PATIENCE)
        raise failure

    def _give_back(self, patience: float = ANSWER_PATIENCE) -> None:
        """Give the lock back, or want it no more, and wait so long for the last answer, as there is hope for it."""
        locks, ticket = self._locks, self._ticket
        if locks._is_own:
            with locks._lock:
                locks._session.locks.give_up(ticket)
                locks._say_soon()
                locks._until(self._changed, lambda: ticket.is_settled or not locks.ready, patience)

    def _raise_lost(self, outcome: Exception | None) -> None:
        """Raise that the lock was lost, if it was, instead of what the body has raised."""
        if isinstance(self._ticket.failure, LockLost) and self._locks._is_own:
            raise_instead(self._ticket.failure, outcome)


class Condition:
    """A condition, for who holds its lock. Made by `Locks.condition`."""

    def __init__(self, locks: Locks, name: bytes, held: Held) -> None:
        self.name = name
        self.held = held
        """Its lock."""
        self._locks = locks

    def wait(self, timeout: float | None = None, *, reacquire: bool = True) -> bool:
        """Give the lock back, and wait to be notified, in one step; hold the lock again when this returns.

        Arguments, what is returned and raised are those of `cluck.Condition.wait`; what that does where a task
        is cancelled, this does where a signal's handler raises.
        """
        locks, held = self._locks, self.held
        session, longest = locks._session, patience("timeout", timeout)
        flag("reacquire", reacquire)
        with locks._using():
            session.locks.check(held._ticket)
            former = held._ticket
            ticket = session.locks.wait(locks._task(), former, self.name, held._on_change, reacquires=reacquire)
            held._ticket = ticket
            locks._say_soon()
            try:
                locks._until(held._changed, lambda: ticket.is_heard, longest)
                session.locks.end_wait(ticket)
                locks._say_soon()
                if locks._until(held._changed, lambda: ticket.is_heard, PATIENCE):
                    locks._until(held._changed, held._is_decided)
                else:
                    session.locks.lose_wait(ticket)
                    locks._say_soon()
            except BaseException:
                self._leave(ticket)
                raise
            finally:
                if former.is_held:
                    held._ticket = former
            if ticket.failure is not None:
                raise ticket.failure
            return bool(ticket.notified)

    def _leave(self, ticket: Ticket) -> None:
        """A waiter was interrupted: have order decide what it was told, and have the lock back, if that can be."""
        locks, held = self._locks, self.held
        session = locks._session
        session.locks.end_wait(ticket)
        locks._say_soon()
        if locks._until(held._changed, lambda: ticket.is_heard or not session.ready, LAST_PATIENCE):
            locks._until(held._changed, lambda: held._is_decided() or not session.ready, PATIENCE)
        if ticket.notified:
            session.locks.notify(locks._task(), self.name, held._changed.notify_all, everyone=False, priority=False)
            locks._say_soon()
        if not held._is_decided():
            held._give_back(LAST_PATIENCE)

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until a predicate holds, which is called with the lock held; says whether it does.

        Args:
            predicate: What is waited for.
            timeout: Seconds after which to give up; None: never.
        """
        callback("predicate", predicate)
        longest = patience("timeout", timeout)
        deadline = None if longest is None else time.monotonic() + longest
        while not predicate():
            rest = None if deadline is None else deadline - time.monotonic()
            if rest is not None and rest <= 0:
                return False
            self.wait(rest)
        return True

    def notify(self, n: int = 1, *, priority: bool = False) -> int:
        """Wake the `n` that wait longest, or as many as there are; as `cluck.Condition.notify`.

        Raises `LockLost` where the lock is lost before the answer comes; they may have been notified.
        """
        return self._notify(n, everyone=False, priority=priority)

    def notify_all(self, *, priority: bool = False) -> int:
        """Wake all that wait; else as `notify`."""
        return self._notify(1, everyone=True, priority=priority)

    def _notify(self, count: int, *, everyone: bool, priority: bool) -> int:
        locks = self._locks
        flag("priority", priority)
        whole("n", count, 0, MOST_UNSETTLED)
        with locks._using():
            held, task = self.held, locks._task()
            changed = held._changed
            notices = [
                locks._session.locks.notify(task, self.name, changed.notify_all, everyone=everyone, priority=priority)
                for _ in range(count)
            ]
            locks._say_soon()
            locks._until(changed, lambda: held.lost.is_set() or all(notice.is_over for notice in notices))
            for notice in notices:
                if not notice.is_over:
                    locks._session.locks.check(held._ticket)
                locks._answered(notice, changed)
            return sum(notice.count for notice in notices)


class Candidate:
    """A candidate in an election. Made by `Locks.candidate`."""

    def __init__(self, locks: Locks, changed: threading.Condition) -> None:
        self._locks = locks
        self._changed = changed
        self._candidacy: Candidacy
        self._is_over = False

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

    def wait_leader(self, timeout: float | None = None) -> bool:
        """Wait until this candidate leads, at most so many seconds; says whether it does."""
        longest = patience("timeout", timeout)
        with self._locks._using():
            self._locks._until(self._changed, lambda: self.is_leader or self._has_ended(), longest)
            if self._has_ended():
                self._check()
            return self.is_leader

    def roles(self) -> Iterator[Role]:
        """Iterate over its roles: `for role in candidate.roles()`; as `cluck.client.asynchronous.Candidate.roles`."""
        told = RolesTold(self._candidacy)
        while True:
            with self._locks._using():
                self._locks._until(self._changed, lambda: told.has_news or self._has_ended())
                if not told.has_news:
                    self._check()
                    return
                role = told.take()
            yield role

    def publish(self, blob: bytes) -> int:
        """Attach something to this leadership; as `cluck.client.asynchronous.Candidate.publish`."""
        locks = self._locks
        with locks._using():
            changed = locks._condition()
            publication = locks._session.leaders.publish(
                locks._task(), self._candidacy, octets("blob", blob), changed.notify_all
            )
            locks._say_soon()
            locks._answered(publication, changed)
            return publication.version

    def resign(self, to: RequestId | None = None) -> None:
        """Lead no more, and stand on; as `cluck.client.asynchronous.Candidate.resign`."""
        locks = self._locks
        with locks._using():
            locks._session.leaders.resign(self._candidacy, to)
            locks._say_soon()

    def _has_ended(self) -> bool:
        return self._candidacy.is_over or self._is_over

    def _check(self) -> None:
        self._locks._check()
        if self._candidacy.failure is not None:
            raise self._candidacy.failure

    def _enter(self) -> None:
        with self._locks._using():
            self._locks._until(self._changed, lambda: self._candidacy.is_standing or self._candidacy.is_over)
            self._check()

    def _step_back(self) -> None:
        locks = self._locks
        if locks._is_own:
            with locks._lock:
                self._is_over = True
                locks._session.leaders.step_back(self._candidacy)
                locks._say_soon()
                self._changed.notify_all()
                locks._until(self._changed, lambda: self._candidacy.is_over or not locks.ready, ANSWER_PATIENCE)


def connect(socket: str | os.PathLike[str] | None = None, *, reconnect: bool = True) -> Locks:
    """Be a client of this machine's lock server `cluckd`: `with cluck.blocking.connect() as locks`.

    Args:
        socket: The path of the daemon's socket, if it is not `default_socket()` (`$CLUCKD_SOCKET`).
        reconnect: Wait for a daemon that has ended; as `cluck.connect`. Without it everything raises `ConnectionLost`.

    Raises `DaemonUnavailable` where no daemon runs, or refuses this user, or answers within 30 seconds; as
    `cluck.connect`.
    """
    flag("reconnect", reconnect)
    return Locks(pathname("socket", socket) if socket is not None else default_socket(), reconnect=reconnect)
