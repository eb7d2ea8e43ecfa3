"""Command lines: the parser of all commands, readers of values, and a check before argparse sees the line."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

_ANYWHERE: Final = ("-h", "--help", "--version")


class CommandParser(argparse.ArgumentParser):
    """A parser whose help keeps the line breaks of descriptions and examples."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, formatter_class=argparse.RawDescriptionHelpFormatter)


def option_before_command(program: str, arguments: Sequence[str]) -> str | None:
    """Return an error where the line begins with an option of a command, whose value argparse would take for the
    command.
    """
    first = arguments[0].partition("=")[0] if arguments else ""
    if not first.startswith("-") or any(option.startswith(first) for option in _ANYWHERE):
        return None
    return f"{first} stands before the command: options stand behind it, {program} COMMAND … {first} …"


def path(text: str) -> str:
    """Read a path; an empty one usually is an unset variable."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: leave the option out for the usual one")
    return text


def number(text: str) -> float:
    """Read a number; anything else becomes nan, which is in no range."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def integer(lowest: int, highest: int) -> Callable[[str], int]:
    """Return a reader of whole numbers within these limits."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number between {lowest} and {highest}")
        return value

    return read


def seconds(lowest: float, highest: float = math.inf) -> Callable[[str], float]:
    """Return a reader of lengths of time."""

    def read(text: str) -> float:
        value = number(text)
        if not lowest <= value <= highest or value == math.inf:
            bounds = f"{lowest:g} to {highest:g}" if highest < math.inf else f"{lowest:g} or more"
            raise argparse.ArgumentTypeError(f"{text} is not a number of seconds, {bounds}")
        return value

    return read
