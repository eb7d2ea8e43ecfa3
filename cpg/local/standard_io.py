"""Standard input and output of the commands: neither blocks the node when the other side is slow."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterable
from typing import Final

import trio

from cpg.local.program import write_now
from cpg.payloads import LARGEST_MESSAGE
from totem.errors import MessageTooLong
from totem.streams import standard_stream

READ_SIZE: Final = 65536


async def read() -> bytes:
    """Read the next bytes of standard input, in a thread; empty at its end. Raises `StreamFailed`."""
    with standard_stream("standard input"):
        return await trio.to_thread.run_sync(os.read, 0, READ_SIZE, abandon_on_cancel=True)


async def standard_input() -> AsyncGenerator[list[bytes], None]:
    """Read lines as they arrive; lines that arrive together come in one list."""
    rest = b""
    while chunk := await read():
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines
        if len(rest) > LARGEST_MESSAGE:  # do not keep it in memory until its end, which may never come
            raise MessageTooLong(
                f"a line of standard input is longer than {LARGEST_MESSAGE} bytes, the most of a message"
            )
    if rest:
        yield [rest]


async def print_lines(lines: Iterable[str]) -> None:
    """Print lines."""
    await write("".join(f"{line}\n" for line in lines))


async def write(text: str) -> None:
    """Write text in a thread, so that a slow reader does not block the node."""
    await trio.to_thread.run_sync(write_now, text, abandon_on_cancel=True)
