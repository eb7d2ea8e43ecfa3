"""`cluck run` and `cluck elect`: a command that runs while a lock is held, or while a candidate leads.

Both run it in the same way. The supervisor gets each new deadline, so it ends the command by itself when the lease runs
out. An administrator may take a lock, and a lock server may leave the part of the cluster that decides. Both cancel the
body of `async with`, or of `run_while_leader`. The body ends the command before it is left. So neither the lock nor the
leadership is released while the command runs.
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

from cluck.cli.connect import connect_in_time
from cluck.cli.exit_codes import CommandFailed, Exit
from cluck.cli.supervised_command import FORWARDED, Overdue, SupervisedCommand, supervised
from cluck.client import asynchronous
from cluck.client.requests import Leader
from cluck.clock import boot_time
from cluck.errors import LockError, LockLost
from totem.streams import complain
from totem.text import quoted

RENEWALS: Final = 3
"""Number of renewals in the time of a lease; each gives the supervisor the new deadline."""
_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class _SignalTarget:
    """What a signal is for: the command, or `cluck` itself where none runs."""

    def __init__(self) -> None:
        self.command: SupervisedCommand | None = None
        self.is_done = False
        """Whether the command has ended by itself, so that only the lock or leadership is still to be released."""
        self.hold_scope = trio.CancelScope()
        """In which a lock is kept after the command has ended."""
        self.signal = 0
        """The signal that has ended everything; 0: none."""

    async def follow(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        """Forward signals to the command; where none runs, end. A signal that ends a program ends `--hold-at-least`."""
        async for number in signals:
            if number in _ENDING:
                self.hold_scope.cancel()
            if self.command is not None and self.command.is_running:
                self.command.forward(number)
            elif number in _ENDING and not self.is_done:
                self.signal = number
                scope.cancel()


def _supervised(options: argparse.Namespace) -> AbstractAsyncContextManager[SupervisedCommand]:
    return supervised(options.command_line, options.grace, leaves_daemons=options.leave_daemons)


async def _with_signals(body: Callable[[_SignalTarget], Awaitable[int]]) -> int:
    target = _SignalTarget()
    code: int = Exit.DONE
    handled = [number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]
    with trio.open_signal_receiver(*handled) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(target.follow, signals, nursery.cancel_scope)
            code = await body(target)
            nursery.cancel_scope.cancel()
    return Exit.SIGNALLED + target.signal if target.signal else code


class _Lease(NamedTuple):
    """What the command runs under: a lock, or a leadership."""

    environment: Mapping[str, str]
    """Variables for the command."""
    deadline: Callable[[], float]
    """The end without renewal, on the boot-time clock; 0 if it is lost."""
    renew: Callable[[], Awaitable[None]]
    interval: float
    """Seconds between two renewals."""
    on_lost: Callable[[], None] = lambda: None
    """Called when it is lost, before the command is ended."""


async def run(options: argparse.Namespace) -> int:
    """`cluck run`."""

    async def body(target: _SignalTarget) -> int:
        async with (
            _supervised(options) as target.command,
            connect_in_time(options.socket, options.timeout) as (locks, timeout),
        ):
            lock = locks.shared if options.shared else locks.lock
            wanted = lock(options.name, timeout=timeout, duration=options.duration, grace=options.grace)
            interval = options.duration / RENEWALS
            code: int = Exit.LOST
            try:
                async with wanted as held:
                    granted = boot_time()
                    environment = _environment(options, "CLUCK_LOCK", held.token)
                    lease = _Lease(environment, lambda: held.deadline, held.renew, interval)
                    code = await _run_with_lease(lease, locks, target, target.command)
                    with target.hold_scope:
                        await _hold_until(held, granted + options.hold_at_least, interval)
            except LockLost as error:
                if not target.is_done:
                    raise
                if boot_time() < granted + options.hold_at_least:
                    complain("cluck", f"{error}, before --hold-at-least was over: others may run the command too")
            return code

    return await _with_signals(body)


async def elect(options: argparse.Namespace) -> int:
    """`cluck elect`."""

    async def body(target: _SignalTarget) -> int:
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

                def note_loss() -> None:
                    nonlocal why_lost
                    if not candidate.is_leader:
                        unready = "" if locks.ready else f"; no leader is chosen here now: {locks.why_not_ready}"
                        why_lost = f"{candidate.why_ended}, and the command was ended{unready}"

                lease = _Lease(
                    environment=_environment(options, "CLUCK_ELECTION", leader.token),
                    deadline=lambda: candidate.deadline,
                    renew=trio.lowlevel.checkpoint,  # the client renews; this only reads the deadline, twice as often
                    interval=options.duration / RENEWALS / 2,
                    on_lost=note_loss,
                )
                try:
                    async with _supervised(options) as target.command:
                        return await _run_with_lease(lease, locks, target, target.command)
                except Overdue as error:
                    await candidate.resign()
                    why_lost = str(error)
                finally:
                    if why_lost:
                        complain("cluck", f"{which}, leadership with token {leader.token}: {why_lost}")
                await trio.sleep_forever()  # until cancelled: it leads no more, and remains a candidate

            return await candidate.run_while_leader(lead)

    return await _with_signals(body)


async def _run_with_lease(
    lease: _Lease, locks: asynchronous.Locks, target: _SignalTarget, command: SupervisedCommand
) -> int:
    """Run the command until it ends, and return its exit code. If cancelled, because the lease is lost, end it."""

    async def extend() -> None:
        while True:
            await trio.sleep(lease.interval)
            with suppress(LockError):  # then the lease runs out, or the block raises its end
                await lease.renew()
                if deadline := lease.deadline():
                    command.extend(deadline)
                command.keep(locks.fileno())

    code, failure = 0, None
    try:
        command.keep(locks.fileno())
        command.start(lease.environment, until=lease.deadline())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(extend)
            try:
                code = await command.ended()
                target.is_done = True
            except CommandFailed as error:  # which does not count if the lease is lost at the same time
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return code
    except BaseException:
        lease.on_lost()
        target.is_done = False  # even if it has just ended: the error starts it again, or is reported
        raise
    finally:
        await command.end()


async def _hold_until(held: asynchronous.Held, until: float, interval: float) -> None:
    """Keep a lock until this boot-time, after its command has ended."""
    while (left := until - boot_time()) > 0:
        await trio.sleep(min(left, interval))
        with suppress(LockError):
            await held.renew()


def _environment(options: argparse.Namespace, variable: str, token: int) -> dict[str, str]:
    return {variable: os.fsdecode(options.name), "CLUCK_TOKEN": str(token)}
