"""A program of this package, as its shell sees it: exit codes, signals, the version, the error behind a failure."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import trio

from totem.streams import standard_stream

DEFAULT_CONFIG: Final = "/etc/corosync/corosync.conf"

DONE, FAILED, MISUSED, SIGNALLED = 0, 1, 2, 128
"""Exit codes; a program that a signal ends adds the signal's number to the last one."""


def own_version() -> str:
    """Return the installed version."""
    try:
        return version("totem-cpg")
    except PackageNotFoundError:
        return "from a source tree that is not installed"


def sole(error: BaseException) -> BaseException:
    """Unwrap an exception that is alone in a group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


async def run_command(options: argparse.Namespace, explain: Callable[[BaseException], int]) -> int:
    """Run a command and return its exit code. `explain` reports an error and returns its exit code."""
    try:
        code: int = await options.command(options)
    except Exception as error:
        return explain(sole(error))
    return code


async def run_until_signal(options: argparse.Namespace, explain: Callable[[BaseException], int]) -> int:
    """Run a command as `run_command` does, and cancel it when SIGINT or SIGTERM comes.

    The exit code then is `options.signalled`, or names the signal if that is None.
    """
    code = DONE
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal code
                async for number in signals:
                    code = options.signalled if options.signalled is not None else SIGNALLED + number
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            code = await run_command(options, explain)
            nursery.cancel_scope.cancel()
    return code


def write_now(text: str) -> None:
    """Write to standard output past `sys.stdout`: a thread that hangs here would keep its lock at the program's end.

    Raises `StreamFailed`, and `BrokenPipeError` where nobody reads the output any more.
    """
    rest = text.encode("utf-8", "backslashreplace")
    with standard_stream("standard output"):
        while rest:
            rest = rest[os.write(sys.stdout.fileno(), rest) :]
