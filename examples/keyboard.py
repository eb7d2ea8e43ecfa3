"""Standard input and Ctrl-C for programs on trio."""

import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable

import trio


def run(main: Callable[..., Awaitable[object]], *arguments: str) -> None:
    """Run a program; Ctrl-C leaves its groups in order and ends it with exit code 130."""
    interrupted = False
    try:
        trio.run(main, *arguments)
    except* KeyboardInterrupt:
        interrupted = True
    if interrupted:
        sys.exit(130)


async def lines() -> AsyncGenerator[str, None]:
    """Read lines of standard input, without their ends; other tasks run meanwhile."""
    rest = b""
    while chunk := await trio.to_thread.run_sync(os.read, 0, 4096, abandon_on_cancel=True):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode()
