"""`cpg top`: the ring, its groups and the daemon's clients, each second; lines where the output is no terminal."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import termios
import time
import tty
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import aclosing, contextmanager
from typing import Any, Final

import trio

from cpg.cli.demo_display import is_terminal
from cpg.cli.rings import own_ring_of, status_source
from cpg.cli.status_text import Rates, Status, one_line, rates, ring_lines
from cpg.local.program import DONE, write_now
from cpg.local.standard_io import print_lines, write

INTERVAL: Final = 1.0
"""Seconds between two reports."""

_ENTER: Final = "\x1b[?1049h\x1b[?25l"
"""Switch to the other screen, without a cursor."""
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_BOLD, _RESET = "\x1b[1m", "\x1b[0m"


async def top(options: argparse.Namespace) -> int:
    """`cpg top`."""
    async with own_ring_of(options) as ring, aclosing(_reports(status_source(ring))) as looks:
        if is_terminal(sys.stdout):
            await _show_live(looks)
        else:
            async for status, measured in looks:
                await print_lines([f"{time.strftime('%H:%M:%S')}  {one_line(status, measured)}"])
    return DONE


async def _reports(ask: Callable[[], Awaitable[dict[str, Any]]]) -> AsyncGenerator[tuple[Status, Rates], None]:
    """Yield a report each second, with the rates since the last one."""
    before = await ask()
    while True:
        await trio.sleep(INTERVAL)
        after = await ask()
        yield after, rates(before, after)
        before = after


async def _show_live(looks: AsyncGenerator[tuple[Status, Rates], None]) -> None:
    with _screen():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_q, nursery.cancel_scope)
            await write(f"{_HOME}{_REST_OF_SCREEN}sampling for a second …")
            async for status, measured in looks:
                await write(picture(ring_lines(status, measured), shutil.get_terminal_size()))


async def _until_q(scope: trio.CancelScope) -> None:
    """Cancel the view when q is typed; without a keyboard a signal ends it."""
    while sys.stdin.isatty():
        await trio.lowlevel.wait_readable(sys.stdin.fileno())
        typed = os.read(sys.stdin.fileno(), 100)
        if not typed or b"q" in typed.lower():
            scope.cancel()
            return


@contextmanager
def _screen() -> Generator[None, None, None]:
    """Use the screen, and single keys of the keyboard, for the time of a block."""
    keyboard = sys.stdin.fileno() if sys.stdin.isatty() else None
    manners = termios.tcgetattr(keyboard) if keyboard is not None else None
    try:
        if keyboard is not None:
            tty.setcbreak(keyboard)
        write_now(_ENTER)
        yield
    finally:
        write_now(_LEAVE)
        if keyboard is not None and manners is not None:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, manners)


def picture(lines: list[str], size: tuple[int, int]) -> str:
    """Return lines that overwrite the screen, cut to its width and height; titles bold."""
    width, height = size
    if len(lines) > height - 1:
        lines = [*lines[: height - 2], f"  … and {len(lines) - height + 2} lines more: cpg status"]
    drawn = (_bold_title(line[:width]) + _REST_OF_LINE for line in lines)
    return _HOME + "\r\n".join(drawn) + _REST_OF_SCREEN


def _bold_title(line: str) -> str:
    if line[:1] in ("", " "):
        return line
    title, colon, rest = line.partition(": ")
    return f"{_BOLD}{title}{colon}{_RESET}{rest}"
