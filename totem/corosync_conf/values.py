"""The values of corosync.conf: a function for each kind of value, which raises ValueError with what is right."""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Callable
from typing import Any

Readers = dict[str, Callable[[str], Any]]
"""The keys of a section, and how their values are read."""


def number(text: str) -> int:
    """Read a number."""
    if not re.fullmatch(r"[+-]?0*[0-9]{1,10}", text, re.ASCII) or not 0 <= int(text) <= 2**32 - 1:
        raise ValueError("a number from 0 to 4294967295")
    return int(text)


def seconds(text: str) -> float:
    """Read a number of milliseconds."""
    return number(text) / 1000


def small_number(text: str) -> int:
    """Read a number of one byte."""
    if number(text) > 255:
        raise ValueError("a number from 0 to 255")
    return number(text)


def switch(text: str) -> bool:
    """Read yes or no."""
    if text not in ("yes", "no"):
        raise ValueError("yes or no")
    return text == "yes"


def nice_value(text: str) -> int:
    """Read a priority of the scheduler."""
    if text in ("max", "min"):
        return -20 if text == "max" else 19
    try:
        value = int(text)
    except ValueError:
        value = 20
    if not -20 <= value < 20:
        raise ValueError("max, min, or a nice value from -20 to 19")
    return value


def log_switch(text: str) -> bool:
    """Read yes or no, which the section logging may also write as on or off."""
    if text not in ("yes", "on", "no", "off"):
        raise ValueError("yes or no")
    return text in ("yes", "on")


def digit_switch(text: str) -> bool:
    """Read 1 or 0."""
    try:
        return small_number(text) != 0
    except ValueError:
        raise ValueError("0 or 1") from None


def any_text(text: str) -> str:
    """Read any text."""
    return text


def group_name(text: str) -> str:
    """Read the name of a closed process group."""
    if not 1 <= len(text.encode()) <= 128:
        raise ValueError("the name of a group, 1 to 128 bytes")
    return text


def user_id(text: str) -> int:
    """Read a user of this machine, by name or number."""
    try:
        return number(text) if text.isdigit() else pwd.getpwnam(text).pw_uid
    except KeyError:
        raise ValueError("a user of this machine, or a number") from None


def group_id(text: str) -> int:
    """Read a group of this machine's users, by name or number."""
    try:
        return number(text) if text.isdigit() else grp.getgrnam(text).gr_gid
    except KeyError:
        raise ValueError("a group of this machine, or a number") from None


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a function that reads one of these words."""

    def check(text: str) -> str:
        if text not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return text

    return check
