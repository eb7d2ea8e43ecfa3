"""The display of the demo: columns that scroll in a terminal, or plain lines elsewhere."""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from textwrap import wrap
from typing import Any, TextIO

from cpg.cli.demo import DemoProcess, text_of
from totem.streams import standard_stream

ROWS = 14
"""Rows of a column, where the terminal is high enough."""
NARRATION = 9
NARROWEST = 14
FRAMES_A_SECOND = 25

RESET, BOLD, DIM, RED, GREEN, YELLOW = "\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m"
SPEAKERS = tuple(f"\x1b[38;5;{colour}m" for colour in (75, 214, 120, 213, 87, 229, 203, 147))
"""One colour for each node."""


def display_for(out: TextIO) -> PlainDisplay | TerminalDisplay:
    """Return the display that suits the output."""
    return TerminalDisplay(out) if is_terminal(out) else PlainDisplay(out)


def is_terminal(out: TextIO) -> bool:
    """Return whether the output goes to a terminal where drawing works."""
    return out.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class PlainDisplay:
    """One line for each event, with the time since the start."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._start = time.monotonic()

    def narrate(self, text: str) -> None:
        """Print what happens."""
        self._print(f"== {text}")

    def conclude(self, text: str, *, good: bool) -> None:
        """Print how the run has ended."""
        self._print(f"== {text}")

    def enter(self, life: DemoProcess) -> None:
        """Print nothing: a process has no events at its start."""

    def show(self, life: DemoProcess, event: dict[str, Any]) -> None:
        """Print an event of a process."""
        self._print(f"{life.name + ':':22} {describe(event)[1]}")

    def close(self) -> None:
        """Do nothing."""

    def _print(self, text: str) -> None:
        with standard_stream("standard output"):
            print(f"{time.monotonic() - self._start:6.2f} s  {text}", file=self._out, flush=True)


class TerminalDisplay:
    """A column for each node, the latest event at the bottom, so that equal events stand side by side."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._start = self._drawn = time.monotonic()
        self._height = 0
        self._columns: dict[int, _Column] = {}
        self._narration: deque[str] = deque(maxlen=NARRATION)
        out.write("\x1b[?25l")  # no cursor

    def narrate(self, text: str) -> None:
        """Add a line below the columns."""
        for line in wrap(text, shutil.get_terminal_size().columns - 10):
            self._narration.append(f"{DIM}{time.monotonic() - self._start:5.1f} s{RESET}  {line}")
        self._draw()

    def conclude(self, text: str, *, good: bool) -> None:
        """Add how the run has ended."""
        self.narrate(f"{BOLD}{GREEN if good else RED}{text}{RESET}")

    def enter(self, life: DemoProcess) -> None:
        """Begin the column of a process, in the place of its node's former one."""
        self._columns[life.node] = _Column(life)
        self._draw()

    def show(self, life: DemoProcess, event: dict[str, Any]) -> None:
        """Add a line to the column of the process's node."""
        self._columns[life.node].add(event)
        if time.monotonic() - self._drawn > 1 / FRAMES_A_SECOND:
            self._draw()

    def close(self) -> None:
        """Draw the last state, and show the cursor again."""
        self._draw()
        self._out.write("\x1b[?25h")
        self._out.flush()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        width, height = shutil.get_terminal_size()
        columns = [self._columns[node] for node in sorted(self._columns)]
        room = max(2, width // (NARROWEST + 2))
        shown = columns if len(columns) <= room else [*columns[: room - 1], columns[-1]]
        rows = max(4, min(ROWS, height - NARRATION - 5))
        span = min(30, width // max(1, len(shown)) - 2)
        pictures = [column.picture(rows, span) for column in shown]
        lines = ["  ".join(cells) for cells in zip(*pictures, strict=True)]
        if len(shown) < len(columns):
            lines.append(f"{DIM}and {len(columns) - len(shown)} more{RESET}")
        lines += ["", *self._narration]
        up = f"\x1b[{self._height}A" if self._height else ""
        self._out.write(up + "".join(f"\x1b[2K{line}\n" for line in lines) + "\x1b[J")
        self._out.flush()
        self._height = len(lines)


class _Column:
    """The events of one process."""

    def __init__(self, life: DemoProcess) -> None:
        self.life = life
        self._count = 0
        self._lines: deque[tuple[str, str]] = deque(maxlen=ROWS)

    def add(self, event: dict[str, Any]) -> None:
        self._count += event["event"] == "message"
        self._lines.append(describe(event))

    def picture(self, rows: int, width: int) -> list[str]:
        """Return the column: a head, `rows` lines, a foot."""
        life = self.life
        dead = life.state == "killed"
        mark = f"{RED}✕" if dead else f"{GREEN}●"
        colour = DIM if dead else speaker(life.node)
        state = f"pid {life.process.pid}" if life.state == "here" else life.state
        head = f"{mark}{RESET} {colour}{BOLD}{fit(f'node {life.node}', 8)}{RESET}{DIM}{fit(state, width - 10)}{RESET}"
        lines = list(self._lines)[-rows:]
        body = [" " * width] * (rows - len(lines))
        body += [f"{DIM if dead else style}{fit(text, width)}{RESET}" for style, text in lines]
        foot = f"{DIM}{fit(f'{self._count} messages', width)}{RESET}"
        return [head, f"{DIM}{'─' * width}{RESET}", *body, f"{DIM}{'─' * width}{RESET}", foot]


def describe(event: dict[str, Any]) -> tuple[str, str]:
    """Return colour and text of an event."""
    match event:
        case {"event": "message", "sender": [node, _]}:
            return speaker(node), f"{node}: {text_of(event)}"
        case {"event": "confchg", "left": left, "joined": joined}:
            changes = [f"- node {node} ({reason})" for node, _, reason in left]
            changes += [f"+ node {node} ({reason})" for node, _, reason in joined]
            return RED + BOLD if left else GREEN + BOLD, " ".join(changes)
        case {"event": "ring", "members": members}:
            return DIM, f"○ ring of {' '.join(map(str, members))}"
        case {"event": "transitional", "members": members}:
            return YELLOW, f"~ {' '.join(map(str, members))} stay together"
        case _:
            return DIM, event["event"]


def speaker(node: int) -> str:
    """Return a node's colour."""
    return SPEAKERS[(node - 1) % len(SPEAKERS)]


def fit(text: str, width: int) -> str:
    """Cut or fill a text to a width."""
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"
