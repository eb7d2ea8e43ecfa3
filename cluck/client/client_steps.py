"""A client of the lock service: what is the same in tasks and in threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from cluck.client import session_elections
from cluck.client.election_steps import BaseCandidate, BaseLeaderships
from cluck.client.lock_steps import AnyHeld, BaseCondition, BaseHeld
from cluck.client.requests import ClientTicket, OnQueued, name_of
from cluck.client.session_locks import GRACE
from cluck.client.steps import FIRST_LOOK, PATIENCE, BaseClient, Countdown, Steps, Until, settle
from cluck.commands import LARGEST_ADDRESS, LARGEST_PORT, LEAST_LEASE, LONGEST_AGE, LONGEST_LEASE, Mode
from cluck.errors import OutcomeUnknown
from cpg.arguments import flag, octets, patience, seconds, whole
from cpg.replication.electorate import electorate_of
from totem.text import quoted

AnyCondition = TypeVar("AnyCondition", bound=BaseCondition[Any])
AnyCandidate = TypeVar("AnyCandidate", bound=BaseCandidate)
AnyLeaderships = TypeVar("AnyLeaderships", bound=BaseLeaderships)


class BaseLocks(BaseClient, Generic[AnyHeld, AnyCondition, AnyCandidate, AnyLeaderships]):
    """The client: what makes locks, conditions, candidates and observers, of the classes that its shell names."""

    _held: type[AnyHeld]
    _condition: type[AnyCondition]
    _candidate: type[AnyCandidate]
    _leaderships: type[AnyLeaderships]

    # ---- readiness

    @property
    def ready(self) -> bool:
        """Whether the lock servers decide now, as far as this client knows."""
        return self._session.ready

    @property
    def why_not_ready(self) -> str:
        """Why the lock servers do not decide; empty where they do."""
        with self._lock:
            return "" if self._session.ready else self._session.why_not_ready

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
    ) -> AnyHeld:
        """Return a lock to hold alone: `async with locks.lock("backup") as held`; in threads, `with`.

        A program that cannot use a block calls `acquire` and `release` of what is returned. A lock that is lost
        cancels the body of an `async with`, and `LockLost` comes out of the block; a thread's block runs to its end,
        and raises `LockLost` there.

        Args:
            name: The lock's name, 1 to 1,024 bytes; a `str` is encoded in UTF-8.
            timeout: Seconds to wait for the lock. None waits for ever, 0 tries once. Where the lock server does not
                answer, the wait ends a quarter of a second later; a try takes little more than a second then.
            duration: Seconds until the lock is lost, unless `held.renew()` is called: 0.1 to 7 days. None sets no end:
                a lease of 5 seconds is renewed while the lock is held.
            grace: Seconds between the end of the lease and the moment when the lock is taken from a program that
                cannot be reached.
            priority: Go ahead of all that wait to share the lock.
            on_queued: Called with the number of tickets ahead, of holders and waiters, when it has changed; at most
                twice a second. An exception that it raises ends the wait and is raised.

        Raises:
            LockTimeout: The lock was not free in time. This and all that follow are raised before the body begins.
            NotReady: The lock servers do not decide, and did not begin to in time.
            DeadlockError: The wait would be for the program itself, through others.
            KindMismatch: The name is in use with a number of permits.
            Overflow: As many wait as may.
            OutcomeUnknown: The request was refused after a loss of the connection.
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
    ) -> AnyHeld:
        """Return a lock to hold beside others that share it; otherwise like `lock`."""
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
    ) -> AnyHeld:
        """Return one of a semaphore's permits to hold; otherwise like `lock`.

        Args:
            name: The semaphore's name.
            permits: The number of permits, the same wherever the name is used.
            timeout: Seconds to wait; like `lock`, as the rest.
            duration: Seconds until the permit is lost.
            grace: Seconds after the lease.
            on_queued: Called with the number of tickets ahead.
        """
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
        on_queued: OnQueued | None,
    ) -> AnyHeld:
        wanted, longest = name_of(name), patience("timeout", timeout)
        lease = None if duration is None else seconds("duration", duration, LEAST_LEASE, LONGEST_LEASE)
        rest = seconds("grace", grace, 0.0, LONGEST_LEASE)

        def submit(task: int, changed: Callable[[], None]) -> ClientTicket:
            return self._session.locks.acquire(
                task,
                wanted,
                changed,
                mode=mode,
                permits=permits,
                duration=lease,
                grace=rest,
                waits=longest != 0,
            )

        return self._held(self, wanted, submit, longest, on_queued)

    # ---- conditions, elections

    def condition(
        self,
        name: str | bytes,
        *,
        lock: str | bytes | AnyHeld,
        timeout: float | None = None,
        duration: float | None = None,
        grace: float = GRACE,
    ) -> AnyCondition:
        """Return a condition to wait on, or to notify, in a block that holds its lock.

        Example: `async with locks.condition("filled", lock="queue") as filled`; in threads, `with`.

        Args:
            name: The condition's name.
            lock: The name of its lock, which the block acquires and releases; or a lock that is held already.
            timeout: Seconds to wait for the lock; like `lock`, as the rest.
            duration: Seconds until the lock is lost.
            grace: Seconds after the lease.
        """
        wanted = name_of(name)
        if isinstance(lock, BaseHeld):
            return self._condition(self, wanted, lock, owns_lock=False)
        held = self.lock(lock, timeout=timeout, duration=duration, grace=grace)
        return self._condition(self, wanted, held, owns_lock=True)

    def candidate(
        self,
        name: str | bytes,
        *,
        address: str | bytes = b"",
        port: int = 0,
        restart_interval: float = 0.0,
        duration: float = session_elections.LEASE,
        grace: float = session_elections.GRACE,
    ) -> AnyCandidate:
        """Return a candidate, which stands in an election for the time of a block.

        The block is entered when the lock servers know the candidate.

        Args:
            name: The election's name.
            address: Where others find this candidate, reported to all observers; up to 256 bytes.
            port: The port there, reported too.
            restart_interval: Seconds between the last time when this program's former life is known to have run and its
                start, if the program knows. Among candidates that run for the same time, the one that was away for
                less is preferred.
            duration: Seconds of a leadership without renewal, up to 7 days. It is renewed each third while the program
                runs. Where that fails, the leadership ends when they are over, by the candidate's own clock.
            grace: Seconds after the lease for the leader's work to end; then another candidate may lead.
        """
        wanted, where = name_of(name), octets("address", address)
        if len(where) > LARGEST_ADDRESS:
            raise ValueError(f"address={where!r}: {len(where)} bytes, and {LARGEST_ADDRESS} is the most")
        whole("port", port, 0, LARGEST_PORT)
        interval = seconds("restart_interval", restart_interval, 0.0, LONGEST_AGE)
        lease = seconds("duration", duration, LEAST_LEASE, LONGEST_LEASE)
        rest = seconds("grace", grace, 0.0, LONGEST_LEASE)
        return self._candidate(
            self,
            lambda task, changed: self._session.elections.stand(
                task,
                wanted,
                changed,
                address=where,
                port=port,
                restart_interval=interval,
                duration=lease,
                grace=rest,
            ),
        )

    def observe(self, name: str | bytes) -> AnyLeaderships:
        """Return the leaderships of an election, to iterate over in a block.

        Example: `async with locks.observe("scheduler") as leaderships`, then `async for leadership in leaderships`; in
        threads without `async`.

        The first leadership is the present state. Its `leader` is None where nobody leads, or nobody knows. A
        leadership comes again with each blob that its leader publishes. If more than 64 wait, the oldest are dropped.

        Args:
            name: The election's name.
        """
        return self._leaderships(self, name_of(name))

    # ---- steps

    def _wait_ready(self, longest: float | None = None) -> Steps[bool]:
        with self._session.standstill.awaiting():
            yield Until(self._signal, lambda: self._session.ready or self._has_ended(), longest)
        self._check()
        return self._session.ready

    def _query(self, question: str, longest: float | None = None) -> Steps[Any]:
        """Return the lock server's answer; None where none has come in time."""
        self._check()
        signal = self._new_signal()
        pending = self._session.query(question, signal.wake)
        try:
            self._submit()
            yield Until(signal, lambda: pending.is_answered or self._has_ended(), longest)
        finally:
            self._session.forget(pending)
        if pending.is_answered:
            return pending.answer
        self._check()
        return None

    def _force(self, name: str | bytes, token: int) -> Steps[None]:
        wanted, token = name_of(name), whole("token", token, 1)
        self._check()
        self._session.locks.force(wanted, token)
        self._submit()

        def is_free(locks: Any) -> bool:
            return all(holder["token"] != token for lock in locks for holder in lock["holders"])

        if not (yield from self._see("tickets", is_free)):
            raise OutcomeUnknown(
                f"lock {quoted(wanted)}: it is still held with token {token}; look at the tickets again"
            )

    def _change_voters(self, votes: Mapping[int, int], tie_breaker: int | None, unsafe_half: bool) -> Steps[None]:
        wanted = electorate_of(votes, tie_breaker, unsafe_half)
        self._session.change_voters(wanted, (yield from self._query("status")))
        self._submit()
        if not (yield from self._see("status", lambda status: wanted.is_in_force(status["voters"]))):
            raise OutcomeUnknown(f"those who are to decide are not in force: {wanted}; look at the status again")

    def _see(self, question: str, is_so: Callable[[Any], bool]) -> Steps[bool]:
        """Repeat a question until the answer is so; returns whether it was in time."""
        patience, pause = Countdown(PATIENCE, self._now), FIRST_LOOK
        while left := patience.left:
            answer = yield from self._query(question, left)
            if answer is not None and is_so(answer):
                return True
            yield Until(self._new_signal(), _never, pause)
            pause *= 2
        return False

    def _close(self, outcome: BaseException | None) -> Steps[None]:
        """End in order, after a block that has ended by `outcome`: the servers free what is still held.

        A client that the servers may count as a holder waits for a connection first: otherwise its locks would stay
        until their leases end.
        """
        try:
            yield from settle(self._signal, lambda: self._session.may_part, outcome, PATIENCE)
        finally:
            self._is_over = True
            self._session.close()
            self._submit()
            self._signal.wake()


def _never() -> bool:
    return False
