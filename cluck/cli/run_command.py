"""`cluck run` and `cluck elect`: a command that runs while a lock is held, or while a candidate leads.

Both run it in one way. The guardian is told each new deadline, so it ends the command by itself when the lease runs
out. An administrator may take a lock, and a lock server may leave the part that decides: both cancel the body of
`async with`, or of `run_while_leader`. The body ends the command before it is left, so neither the lock nor the
leadership is given back while the command runs.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from itertools import count
from typing import Final, NamedTuple

import trio

from cluck.cli.connect import connected
from cluck.cli.exit_codes import CommandFailed, Exit
from cluck.cli.supervised_command import FORWARDED, Guarded, Overdue, guarded
from cluck.client import asynchronous
from cluck.client.requests import Leader
from cluck.clock import boot_time
from cluck.errors import LockError, LockLost
from totem.streams import complain
from totem.text import quoted

RENEWALS: Final = 3
"""In the time of a lease; each tells the guardian the new deadline."""
_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class _Runner:
    """What signals find: the command that runs, or that there is none."""

    def __init__(self) -> None:
        self.guard: Guarded | None = None
        self.is_done = False
        """The command has ended by itself, and only what was held is still to be given back."""
        self.holding = trio.CancelScope()
        """In which a lock is kept on behind the command."""
        self.signal = 0
        """By which all was ended."""

    async def follow(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        """Pass signals on to the command; where none runs, end. None of those that end it leaves a lock held on."""
        async for number in signals:
            if number in _ENDING:
                self.holding.cancel()
            if self.guard is not None and self.guard.runs:
                self.guard.forward(number)
            elif number in _ENDING and not self.is_done:
                self.signal = number
                scope.cancel()


def _guarded(options: argparse.Namespace) -> AbstractAsyncContextManager[Guarded]:
    return guarded(options.command_line, options.grace, leaves_daemons=options.leave_daemons)


async def _under_signals(body: Callable[[_Runner], Awaitable[int]]) -> int:
    runner = _Runner()
    code: int = Exit.DONE
    heeded = [number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]
    with trio.open_signal_receiver(*heeded) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runner.follow, signals, nursery.cancel_scope)
            code = await body(runner)
            nursery.cancel_scope.cancel()
    return Exit.SIGNALLED + runner.signal if runner.signal else code


class _Right(NamedTuple):
    """By what the command may run: a lock that is held, or a leadership."""

    environment: Mapping[str, str]
    """What tells the command of it."""
    deadline: Callable[[], float]
    """Until when it lasts without renewal, on the boot-time clock; 0 where it is lost."""
    renew: Callable[[], Awaitable[None]]
    interval: float
    """Seconds from one to the next."""
    on_lost: Callable[[], None] = lambda: None
    """Called when it is lost, before the command is ended for that."""


async def run(options: argparse.Namespace) -> int:
    """`cluck run`."""

    async def body(runner: _Runner) -> int:
        async with _guarded(options) as runner.guard, connected(options.socket, options.timeout) as (locks, timeout):
            lock = locks.shared if options.shared else locks.lock
            wanted = lock(options.name, timeout=timeout, duration=options.duration, grace=options.grace)
            interval = options.duration / RENEWALS
            code: int = Exit.LOST
            try:
                async with wanted as held:
                    had_since = boot_time()
                    environment = _environment(options, "CLUCK_LOCK", held.token)
                    right = _Right(environment, lambda: held.deadline, held.renew, interval)
                    code = await _run_under(right, locks, runner, runner.guard)
                    with runner.holding:
                        await _hold_on(held, had_since + options.hold_at_least, interval)
            except LockLost as error:
                if not runner.is_done:
                    raise
                if boot_time() < had_since + options.hold_at_least:
                    complain("cluck", f"{error}, before --hold-at-least was over: others may run it too")
            return code

    return await _under_signals(body)


async def elect(options: argparse.Namespace) -> int:
    """`cluck elect`."""

    async def body(runner: _Runner) -> int:
        async with (
            asynchronous.connect(options.socket) as locks,
            locks.candidate(
                options.name,
                address=os.fsencode(options.address),
                port=options.port,
                duration=options.duration,
                grace=options.grace,
            ) as candidate,
        ):
            which, leaderships = f"election {quoted(options.name)}", count()

            async def lead(leader: Leader) -> int:
                if next(leaderships):
                    complain("cluck", f"{which}: this candidate leads again, with token {leader.token}")
                why_lost = ""

                def look_why() -> None:
                    nonlocal why_lost
                    if not candidate.is_leader:
                        unready = "" if locks.ready else f"; no leader is chosen here now: {locks.why_not_ready}"
                        why_lost = f"{candidate.why_ended}, and the command was ended{unready}"

                right = _Right(
                    environment=_environment(options, "CLUCK_ELECTION", leader.token),
                    deadline=lambda: candidate.deadline,
                    renew=trio.lowlevel.checkpoint,  # the client does, and one looks twice as often
                    interval=options.duration / RENEWALS / 2,
                    on_lost=look_why,
                )
                try:
                    async with _guarded(options) as runner.guard:
                        return await _run_under(right, locks, runner, runner.guard)
                except Overdue as error:
                    await candidate.resign()
                    why_lost = str(error)
                finally:
                    if why_lost:
                        complain("cluck", f"{which}, leadership with token {leader.token}: {why_lost}")
                await trio.sleep_forever()  # cancelled: it leads no more, and stands on

            return await candidate.run_while_leader(lead)

    return await _under_signals(body)


async def _run_under(right: _Right, locks: asynchronous.Locks, runner: _Runner, guard: Guarded) -> int:
    """Run the command until it ends; return its exit code. Cancelled, since the right to run it is lost, end it."""

    async def extend() -> None:
        while True:
            await trio.sleep(right.interval)
            with suppress(LockError):  # then the lease runs out, or its end comes out of the block
                await right.renew()
                if deadline := right.deadline():
                    guard.extend(deadline)
                guard.keep(locks.fileno())

    code, failure = 0, None
    try:
        guard.keep(locks.fileno())
        guard.start(right.environment, until=right.deadline())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(extend)
            try:
                code = await guard.ended()
                runner.is_done = True
            except CommandFailed as error:  # which is nothing where the right was lost in this moment, too
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return code
    except BaseException:
        right.on_lost()
        runner.is_done = False  # even if it has ended in this moment, by what is raised it begins anew, or that is told
        raise
    finally:
        await guard.end()


async def _hold_on(held: asynchronous.Held, until: float, interval: float) -> None:
    """Keep a lock whose command has ended until this boot-time."""
    while (rest := until - boot_time()) > 0:
        await trio.sleep(min(rest, interval))
        with suppress(LockError):
            await held.renew()


def _environment(options: argparse.Namespace, variable: str, token: int) -> dict[str, str]:
    return {variable: os.fsdecode(options.name), "CLUCK_TOKEN": str(token)}
