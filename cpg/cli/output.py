"""Standard input and output of the commands: neither stops the node when the other side is slow."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Iterable
from typing import Final

import trio

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


def write_now(text: str) -> None:
    """Write past `sys.stdout`, whose lock a thread that is stuck here would keep at the end of the program.

    Raises `StreamFailed`; `BrokenPipeError` where nobody reads it any more.
    """
    rest = text.encode("utf-8", "backslashreplace")
    with standard_stream("standard output"):
        while rest:
            rest = rest[os.write(sys.stdout.fileno(), rest) :]
