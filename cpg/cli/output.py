"""Standard input and output of the commands: neither stops the node when the other side is slow."""

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
    """Read what standard input has next, in a thread; nothing at its end. Raises `StreamFailed`."""
    with standard_stream("standard input"):
        return await trio.to_thread.run_sync(os.read, 0, READ_SIZE, abandon_on_cancel=True)


async def standard_input() -> AsyncGenerator[list[bytes], None]:
    """Read lines as they come, those that come together in one list."""
    rest = b""
    while chunk := await read():
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines
        if len(rest) > LARGEST_MESSAGE:  # not to be kept in memory until its end comes, if ever
            raise MessageTooLong(
                f"a line of standard input is longer than {LARGEST_MESSAGE} bytes, the most of a message"
            )
    if rest:
        yield [rest]


async def print_lines(lines: Iterable[str]) -> None:
    """Print lines."""
    await write("".join(f"{line}\n" for line in lines))


async def write(text: str) -> None:
    """Write text in a thread, so that a reader that is slow does not stop the node."""
    await trio.to_thread.run_sync(write_now, text, abandon_on_cancel=True)
