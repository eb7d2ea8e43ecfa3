"""What a client does, as steps that wait: the one logic of clients in tasks and in threads.

Steps are a generator. It yields what it waits for, an `Until`, and is sent whether that came in time. A driver runs
steps, in a task (`cluck.client.asynchronous.run`) or in a thread (`cluck.client.threaded.ThreadedLocks._run`). An
exception that ends a wait, a cancellation or an interrupt by a signal, is thrown into the steps. They give back what
they hold, with waits that are shielded and short, and let the exception pass.

`BaseClient` is what the steps need of a client. Locks and conditions are in `lock_steps`, elections in
`election_steps`, the client's own steps in `client_steps`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from cluck.client.requests import Tasks
from cluck.client.session import Session
from cluck.errors import ConnectionLost, LockError
from cpg.errors import raise_instead
from totem.errors import of_process_before_fork

Result = TypeVar("Result")

PATIENCE: Final = 5.0
"""Seconds to wait until an administrator's change is seen, a cancelled waiter has its lock back, or a client that ends
has a connection. The end of a wait that is not answered by then loses its lock."""
LAST_PATIENCE: Final = 0.25
"""Seconds to wait for a last answer where no time is left: after a timeout, in a task that was cancelled."""
FIRST_LOOK: Final = 0.05
"""Seconds between the first two looks at an administrator's change; each later interval is twice as long."""
LONGEST_REST: Final = 1.0
"""Seconds after which the clock of leases is read again: it runs on in a suspended machine, sleeps do not."""


class Signal(Protocol):
    """Wakes whoever waits for a change. Each shell has its own kind."""

    def wake(self) -> None:
        """Wake all that wait now."""


class Until(NamedTuple):
    """A wait: until a condition holds, for a number of seconds at most."""

    signal: Signal
    """The condition is evaluated again after each of its wakes."""
    holds: Callable[[], object]
    patience: float | None = None
    """Seconds; None: for ever."""
    is_shielded: bool = False
    """No cancellation ends this wait."""


Steps = Generator[Until, bool | None, Result]
"""Steps that return a result. Each `yield` gives whether the condition holds."""


class Progress(Generic[Result]):
    """Steps that run, for a driver: how far they are, and what comes next."""

    __slots__ = ("_error", "_steps", "holds", "is_over", "result", "until")

    def __init__(self, steps: Steps[Result]) -> None:
        self.until: Until
        """What they wait for."""
        self.holds: bool | None = None
        """Whether the last condition holds."""
        self.is_over = False
        self.result: Result
        """What they have returned, when they are over."""
        self._steps = steps
        self._error: BaseException | None = None

    def goes_on(self) -> bool:
        """Run the steps up to their next wait; return whether there is one. Raises what they raise."""
        error, self._error = self._error, None
        try:
            self.until = self._steps.send(self.holds) if error is None else self._steps.throw(error)
        except StopIteration as done:
            self.is_over, self.result = True, done.value
        return not self.is_over

    def interrupt(self, error: BaseException) -> None:
        """Have the steps see an exception, when they go on. Raises it where it has come out of them."""
        if getgeneratorstate(self._steps) == GEN_CLOSED:
            raise error
        self._error = error


class Countdown:
    """A number of seconds, and what is left of them."""

    def __init__(self, seconds: float | None, now: Callable[[], float]) -> None:
        """Begin to count. `seconds`: None is for ever; `now` is the clock."""
        self._now = now
        self._end = None if seconds is None else now() + seconds

    @property
    def left(self) -> float | None:
        """The seconds that are left, at least 0; None: no end."""
        return None if self._end is None else max(self._end - self._now(), 0.0)


class BaseClient(ABC):
    """A client of the lock service, as its locks, conditions and candidates see it."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        now: Callable[[], float],
        lock: AbstractContextManager[object],
        new_signal: Callable[[], Signal],
        warn: Callable[[str], None],
        is_own: Callable[[], bool],
    ) -> None:
        """Begin without a connection.

        Args:
            clock: The clock of leases, in seconds.
            now: The clock of timeouts, in seconds.
            lock: Entered while the session is used.
            new_signal: Makes a signal of the shell's kind.
            warn: Called with what the program's log is to report.
            is_own: Returns whether this process has opened the client, and was not forked since.
        """
        self._is_own = is_own
        """Nothing of the client belongs to a forked process: every call raises `RuntimeError` there, and the ends of
        blocks send nothing."""
        self._clock = clock
        self._now = now
        self._lock = lock
        self._new_signal = new_signal
        self._signal = new_signal()
        """Wakes whoever waits for a change of the client itself."""
        self._session = Session(clock, self._on_change, warn)
        self._tasks = Tasks()
        self._failure: LockError | None = None
        """Why there is no connection any more, and will be none."""
        self._is_over = False
        """The client was closed."""

    # ---- what each shell has

    @abstractmethod
    def _submit(self) -> None:
        """Give to the lock server what the session has for it, as far as there is room."""

    @abstractmethod
    def _task(self) -> int:
        """Return the number of the task or thread that runs: an owner of locks, for deadlocks to be detected."""

    # ---- what all have

    def _check_process(self) -> None:
        """Raise `RuntimeError` in a process that was forked after this client was opened."""
        if not self._is_own():
            raise of_process_before_fork("connection")

    def _on_change(self) -> None:
        self._signal.wake()

    @contextmanager
    def _using(self) -> Iterator[Session]:
        """Use the session for something that waits for nothing."""
        self._check_process()
        with self._lock:
            yield self._session

    def _has_ended(self) -> bool:
        return self._is_over or self._failure is not None

    def _check(self) -> None:
        """Raise if there is no connection any more, and will be none, or if it belongs to another process."""
        self._check_process()
        if self._failure is not None:
            raise_instead(self._failure, None)
        if self._is_over:
            raise ConnectionLost("the connection to the lock server has been closed")


def is_pressed(outcome: BaseException | None) -> bool:
    """Return whether no time is left for last answers: a block has ended by a cancellation or an interrupt."""
    return outcome is not None and not isinstance(outcome, Exception)


def settle(
    signal: Signal,
    is_settled: Callable[[], object],
    outcome: BaseException | None = None,
    patience: float | None = None,
) -> Steps[None]:
    """Wait until something is settled after a block that has ended by `outcome`; a moment where no time is left."""
    moment = Until(signal, is_settled, LAST_PATIENCE, is_shielded=True)
    if is_pressed(outcome):
        yield moment
        return
    try:
        yield Until(signal, is_settled, patience)
    except BaseException:
        yield moment
        raise
