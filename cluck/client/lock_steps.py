"""Locks and conditions that a program holds: what is the same in tasks and in threads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from cluck.client.requests import ClientTicket, Notice, OnQueued, Place
from cluck.client.session_locks import ANSWER_PATIENCE
from cluck.client.steps import LAST_PATIENCE, PATIENCE, BaseClient, Steps, Until, is_pressed, settle
from cluck.commands import MOST_UNSETTLED
from cluck.errors import LockLost
from cpg.arguments import flag, patience, whole
from cpg.errors import raise_instead

Submit = Callable[[int, Callable[[], None]], ClientTicket]
"""Submits a request for a lock, of an owner, with what to call when there is news of it."""


class BaseHeld(ABC):
    """A lock that a program holds, or will: made by `Locks.lock`, `Locks.shared` and `Locks.semaphore`.

    Hold it for the time of a block, or from `acquire` to `release`; once.
    """

    def __init__(
        self, client: BaseClient, name: bytes, submit: Submit, timeout: float | None, on_queued: OnQueued | None
    ) -> None:
        self.name = name
        """The lock's name."""
        self._client = client
        self._signal = client._new_signal()
        self._request = submit
        self._timeout = timeout
        self._place = Place(on_queued)
        self._latest: ClientTicket | None = None
        self._waits = False
        """A wait on a condition has released the lock, and acquires it again."""

    def __repr__(self) -> str:
        return f"<Held: {self._latest or 'not asked for yet'}>"

    @property
    def _ticket(self) -> ClientTicket:
        """The request by which the lock is held; another one after each wait on a condition."""
        if self._latest is None:
            raise RuntimeError("this lock has not been acquired yet: enter its block, or call `acquire`")
        return self._latest

    @_ticket.setter
    def _ticket(self, ticket: ClientTicket) -> None:
        self._latest = ticket

    @property
    def token(self) -> int:
        """The fencing token: larger than that of every earlier grant, of any lock.

        It changes with each wait on a condition, and is 0 during the wait.
        """
        return self._ticket.token

    @property
    def deadline(self) -> float:
        """When the lease ends if it is not renewed, in seconds of this machine's boot-time clock."""
        return self._ticket.deadline

    def remaining(self) -> float:
        """Return the seconds until the deadline; 0 where the lock is not held.

        Raises:
            RuntimeError: This is a forked process, which hears nothing of the lock.
        """
        self._client._check_process()
        left = self._ticket.deadline - self._client._clock()
        return max(left, 0.0) if self._ticket.is_held else 0.0

    def check(self) -> None:
        """Check that the lock is held, by the clock of this moment.

        Raises:
            LockLost: The lock is not held any more.
            RuntimeError: This is a forked process, which hears nothing of the lock.
        """
        client = self._client
        client._check_process()
        with client._lock:
            client._session.locks.check(self._ticket)

    @abstractmethod
    def _show(self) -> None:
        """Set the events that show the program whether the lock is lost, or should be released."""

    def _on_change(self) -> None:
        self._show()
        self._signal.wake()

    @property
    def _is_lost(self) -> bool:
        return isinstance(self._ticket.failure, LockLost)

    def _is_decided(self) -> bool:
        ticket = self._ticket
        self._place.report(ticket.ahead)
        return ticket.is_held or ticket.is_over or ticket.is_ending

    def _is_settled(self) -> bool:
        return self._ticket.is_settled or not self._client._session.ready

    # ---- steps

    def _acquire(self) -> Steps[None]:
        """Wait until the lock is held; raises why it is not, and then nothing is left behind."""
        client, session = self._client, self._client._session
        client._check()
        if self._latest is not None:
            raise RuntimeError("a lock is acquired once: call `lock` again for the next time")
        ticket = self._ticket = self._request(client._task(), self._on_change)
        is_tried = self._timeout == 0
        try:
            client._submit()
            if not is_tried or session.is_connected:
                yield Until(self._signal, self._is_decided, ANSWER_PATIENCE if is_tried else self._timeout)
        except BaseException:
            yield from self._withdraw()
            raise
        if not ticket.is_held:
            failure = ticket.failure or _given_up(ticket) or session.timed_out(ticket, self._timeout)
            yield from self._withdraw()
            raise failure

    def _release(self, outcome: BaseException | None = None) -> Steps[None]:
        """Release the lock and wait for the last answer, for as long as there is hope for it.

        `outcome` is what a block has raised. Raises `LockLost` in its place where the lock was lost.
        """
        if self._latest is None:
            return
        self._give_up()
        yield from settle(self._signal, self._is_settled, outcome)
        if self._ticket.failure is not None and self._is_lost and not is_pressed(outcome):
            raise_instead(self._ticket.failure, outcome)

    def _release_alone(self) -> Steps[None]:
        """Release the lock, not at the end of a block."""
        if self._waits:
            raise RuntimeError("a wait on a condition has released this lock already: `release` it after the wait")
        yield from self._release()

    def _withdraw(self) -> Steps[None]:
        """Give the lock up where no time is left: only the session hears a later answer."""
        self._give_up()
        yield Until(self._signal, self._is_settled, LAST_PATIENCE, is_shielded=True)

    def _give_up(self) -> None:
        self._client._session.locks.give_up(self._ticket)
        self._client._submit()
        self._signal.wake()

    def _renew(self) -> Steps[None]:
        self.check()
        ticket = self._ticket
        before = ticket.leases
        self._client._session.locks.renew(ticket)
        self._client._submit()
        yield Until(self._signal, lambda: ticket.leases > before or not ticket.is_held)
        self.check()


def _given_up(ticket: ClientTicket) -> LockLost | None:
    """Return the error of a call that waits for a lock which another task or thread gives up; None: nobody has."""
    if not ticket.is_ending:
        return None
    return LockLost(f"{ticket.subject}: it was given up during the wait, by `release` or by the end of its block")


AnyHeld = TypeVar("AnyHeld", bound=BaseHeld)


class BaseCondition(Generic[AnyHeld]):
    """A condition variable, for a program that holds its lock. Made by `Locks.condition`."""

    def __init__(self, client: BaseClient, name: bytes, held: AnyHeld, *, owns_lock: bool) -> None:
        """`owns_lock`: the condition's block acquires and releases the lock."""
        self.name = name
        """The condition's name."""
        self.held = held
        """Its lock."""
        self._client = client
        self._owns_lock = owns_lock

    def _wait(self, timeout: float | None, reacquire: bool) -> Steps[bool]:
        longest = patience("timeout", timeout)
        flag("reacquire", reacquire)
        client, held, locks = self._client, self.held, self._client._session.locks
        if held._waits:
            raise RuntimeError("another wait on a condition has released this lock already")
        held.check()
        former = held._ticket
        ticket = locks.wait(client._task(), former, self.name, held._on_change, reacquires=reacquire)
        held._ticket, held._waits = ticket, True
        try:
            client._submit()
            yield Until(held._signal, lambda: ticket.is_heard or ticket.is_ending, longest)
            if not ticket.is_ending:
                locks.end_wait(ticket)
                client._submit()
            if (yield Until(held._signal, lambda: ticket.is_heard or ticket.is_ending, PATIENCE)):
                yield Until(held._signal, held._is_decided)
            else:
                locks.lose_wait(ticket)
                client._submit()
        except BaseException:
            yield from self._leave(ticket)
            raise
        finally:
            held._waits = False
            if former.is_held:
                held._ticket = former
        if failure := ticket.failure or _given_up(ticket):
            raise failure
        return bool(ticket.notified)

    def _leave(self, ticket: ClientTicket) -> Steps[None]:
        """End a wait that was cancelled.

        The total order decides whether it was notified; then another waiter is, in its place. The lock is acquired
        again if that is possible in time.
        """
        client, held, session = self._client, self.held, self._client._session
        session.locks.end_wait(ticket)
        client._submit()
        if (yield Until(held._signal, lambda: ticket.is_heard or not session.ready, LAST_PATIENCE, is_shielded=True)):
            yield Until(held._signal, lambda: held._is_decided() or not session.ready, PATIENCE, is_shielded=True)
        if ticket.notified:
            session.locks.notify(client._task(), self.name, held._signal.wake, everyone=False, priority=False)
            client._submit()
        if not held._is_decided():
            yield from held._withdraw()

    def _notify(self, count: int, *, everyone: bool, priority: bool) -> Steps[int]:
        flag("priority", priority)
        whole("n", count, 0, MOST_UNSETTLED)
        client = self._client
        client._check()
        notices = [self._notice(everyone=everyone, priority=priority) for _ in range(count)]
        client._submit()
        for notice in notices:
            yield from self._noticed(notice)
        return sum(notice.count for notice in notices)

    def _noticed(self, notice: Notice) -> Steps[None]:
        yield Until(self.held._signal, lambda: notice.is_over or self.held._is_lost)
        if not notice.is_over:
            self.held.check()
        if notice.failure is not None:
            raise notice.failure

    def _notice(self, *, everyone: bool, priority: bool) -> Notice:
        client, changed = self._client, self.held._signal.wake
        return client._session.locks.notify(client._task(), self.name, changed, everyone=everyone, priority=priority)
