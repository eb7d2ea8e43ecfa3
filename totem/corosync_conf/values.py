"""The values of corosync.conf: a function for each kind of value, which raises ValueError with what is right."""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Callable
from typing import Any

from totem.config import CIPHERS, COMPRESSIONS

Readers = dict[str, Callable[[str], Any]]
"""The keys of a section, and how their values are read."""


def number(text: str) -> int:
    """Read a number."""
    if not re.fullmatch(r"[+-]?0*[0-9]{1,10}", text, re.ASCII) or not 0 <= int(text) <= 2**32 - 1:
        raise ValueError("a number from 0 to 4294967295")
    return int(text)


def integer(text: str) -> int:
    """Read a number of 32 bits, which may be negative."""
    if not re.fullmatch(r"[+-]?0*[0-9]{1,10}", text, re.ASCII) or not -(2**31) <= int(text) < 2**31:
        raise ValueError("a number from -2147483648 to 2147483647")
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


def whole_path(text: str) -> str:
    """Read the path of a file. Corosync looks for others than whole ones in its state directory."""
    if not text.startswith("/"):
        raise ValueError("the whole path of a file, from / on")
    return text


def any_text(text: str) -> str:
    """Read any text."""
    return text


def cipher(text: str) -> str:
    """Read a cipher of transport knet; the newest libknet has a second name for each."""
    name = re.sub(r"^aes-(128|192|256)(-cbc)?$", r"aes\1", text)
    if name not in ("none", *CIPHERS):
        raise ValueError(f"one of none, {', '.join(CIPHERS)}")
    return name


def compression(text: str) -> str:
    """Read a compression model of transport knet."""
    if text in ("lz4", "lz4hc", "lzo2", "zstd"):
        raise ValueError("zlib at all nodes, or left out: this package cannot read what others would send")
    return one_of("none", *COMPRESSIONS)(text)


def knet_transport(text: str) -> str:
    """Read the protocol below knet."""
    if text != "udp":
        raise ValueError("udp, or left out: sctp is not supported")
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
