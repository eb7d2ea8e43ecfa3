"""Lines of standard input for programs on trio, that other tasks do not wait for."""

import os
from collections.abc import AsyncGenerator

import trio


async def lines() -> AsyncGenerator[str, None]:
    """Read lines, without their ends, until the end of standard input."""
    rest = b""
    while chunk := await trio.to_thread.run_sync(os.read, 0, 4096, abandon_on_cancel=True):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode()
