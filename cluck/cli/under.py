"""`cluck run` and `cluck elect`: a command that runs while a lock is held, or while a candidate leads.

The guardian is told each new deadline, so it ends the command by itself when the lease runs out. What is lost before
(taken by an administrator, or the lock server has left the part that decides) cancels the body of `async with`, which
ends the command before it is left: the lock is never given back while the command runs.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import Final

import trio

from cluck import client
from cluck.asked import Leader
from cluck.cli.common import CommandFailed, Exit
from cluck.cli.guarded import FORWARDED, Guarded, guarded
from cluck.clock import boot_time
from cluck.errors import LockError, LockLost

RENEWALS: Final = 3
"""In the time of a lease."""
LOOKS: Final = 10
"""At whether a leader's lease was renewed, in its time."""
RETURN_PATIENCE: Final = 5.0
"""Seconds that a lock whose command has ended waits for a lock server to be given back to."""
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


async def run(options: argparse.Namespace) -> int:
    """`cluck run`."""

    async def body(runner: _Runner) -> int:
        async with (
            _guarded(options) as runner.guard,
            client.connect(options.socket) as locks,
        ):
            lock = locks.shared if options.shared else locks.lock
            wanted = lock(options.name, timeout=options.timeout, duration=options.duration, grace=options.grace)
            code: int = Exit.LOST
            try:
                async with wanted as held:
                    had_since = boot_time()
                    code = await _run_held(locks, held, runner.guard, options)
                    runner.is_done = True
                    with runner.holding:
                        await _hold_on(held, had_since + options.hold_at_least, options.duration / RENEWALS)
                    await _see_lock_server(locks, held)
            except LockLost as error:
                if not runner.is_done:
                    raise
                if boot_time() < had_since + options.hold_at_least:
                    print(f"cluck: {error}, before --hold-at-least was over: others may run it too", file=sys.stderr)
            return code

    return await _under_signals(body)


async def _run_held(locks: client.Locks, held: client.Held, guard: Guarded, options: argparse.Namespace) -> int:
    """Run the command until it ends; cancelled, since the lock is lost, end it."""
    try:
        guard.keep(locks.fileno())
        guard.start(_environment(options, "CLUCK_LOCK", held.token), until=_deadline(held))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_renew, locks, held, guard, options.duration / RENEWALS)
            code = await guard.ended()
            nursery.cancel_scope.cancel()
        return code
    finally:
        await guard.end()


async def _renew(locks: client.Locks, held: client.Held, guard: Guarded, interval: float) -> None:
    while True:
        await trio.sleep(interval)
        with suppress(LockError):  # then the lease runs out, or its end comes out of the block
            await held.renew()
            guard.extend(_deadline(held))
            guard.keep(locks.fileno())


async def _hold_on(held: client.Held, until: float, interval: float) -> None:
    """Keep a lock whose command has ended until this boot-time."""
    while (rest := until - boot_time()) > 0:
        await trio.sleep(min(rest, interval))
        with suppress(LockError):
            await held.renew()


async def _see_lock_server(locks: client.Locks, held: client.Held) -> None:
    """Let a lock server that is away for a moment come back: if it is not told that the lock is free, others wait for
    the end of the lease."""
    with trio.move_on_after(min(held.remaining(), RETURN_PATIENCE)):
        await locks.wait_ready()


def _deadline(held: client.Held) -> float:
    return boot_time() + held.remaining()


async def elect(options: argparse.Namespace) -> int:
    """`cluck elect`."""

    async def body(runner: _Runner) -> int:
        async with (
            client.connect(options.socket) as locks,
            locks.candidate(
                options.name,
                address=os.fsencode(options.address),
                port=options.port,
                duration=options.duration,
                grace=options.grace,
            ) as candidate,
        ):
            roles = candidate.roles()
            while True:
                async with _guarded(options) as runner.guard:
                    environment = _environment(options, "CLUCK_ELECTION", await _leadership(roles))
                    runner.guard.keep(locks.fileno())
                    runner.guard.start(environment, until=candidate.deadline)
                    extending = partial(_extend, locks, candidate, runner.guard, options.duration / LOOKS)
                    code = await _run_leading(roles, runner.guard, extending)
                    if code is not None:
                        runner.is_done = True
                        return code
                await candidate.resign()  # it may lead still, where the guardian has ended the command

    return await _under_signals(body)


async def _leadership(roles: client.Roles) -> int:
    """Wait until this candidate leads; return the token."""
    async for role in roles:
        if isinstance(role, Leader):
            return role.token
    raise AssertionError("a candidate stands until its block ends")


async def _run_leading(roles: client.Roles, guard: Guarded, extending: Callable[[], Awaitable[None]]) -> int | None:
    """Let the command run until it ends, or this candidate leads no more: then end it, and return None."""
    code: int | None = None

    async def follow() -> None:
        nonlocal code
        try:
            code = await guard.ended()
        except CommandFailed as failure:
            if failure.code != Exit.LOST:
                raise
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            nursery.start_soon(extending)
            await anext(roles)  # which is that it does not lead
            nursery.cancel_scope.cancel()
        return code
    finally:
        await guard.end()


async def _extend(locks: client.Locks, candidate: client.Candidate, guard: Guarded, interval: float) -> None:
    while True:
        await trio.sleep(interval)
        guard.extend(candidate.deadline)
        guard.keep(locks.fileno())


def _environment(options: argparse.Namespace, variable: str, token: int) -> dict[str, str]:
    return {variable: os.fsdecode(options.name), "CLUCK_TOKEN": str(token)}
