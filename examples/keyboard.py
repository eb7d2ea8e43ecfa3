"""The argument, standard input and Ctrl-C for programs on trio."""

import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable

import trio

import cpg


def run(main: Callable[[str], Awaitable[object]], usage: str) -> None:
    """Run a program with its one argument; `usage` names it.

    Ctrl-C leaves its groups in order and ends it with exit code 130. An error of the ring, as a daemon that does not
    run, is one line and exit code 1. A wrong number of arguments is the usage and exit code 2.
    """
    if len(sys.argv) != 2:
        print(f"usage: {usage}", file=sys.stderr)
        sys.exit(2)
    interrupted, failure = False, None
    try:
        trio.run(main, sys.argv[1])
    except* KeyboardInterrupt:
        interrupted = True
    except* cpg.TotemError as errors:
        failure = errors
    if interrupted:
        sys.exit(130)
    if failure is not None:
        sys.exit(str(_first(failure)))


def _first(errors: BaseException) -> BaseException:
    """Return the first error of a group, which may hold other groups."""
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return errors


async def lines() -> AsyncGenerator[str, None]:
    """Read lines of standard input, without their ends; other tasks run meanwhile.

    Bytes that are not UTF-8 are replaced.
    """
    rest = b""
    while chunk := await trio.to_thread.run_sync(os.read, 0, 4096, abandon_on_cancel=True):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
