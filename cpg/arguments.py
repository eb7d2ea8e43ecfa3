"""Checks for the arguments of public calls: an error names what is wrong, and what would be right.

A wrong type is a `TypeError`, a value out of range a `ValueError`. Nothing has been done when either is raised.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any, Final, TypeVar

BytesLike = bytes | bytearray | memoryview
LARGEST_NUMBER: Final = (1 << 63) - 1
FOR_EVER: Final = 1e9
"""Seconds, thirty years: a longer wait has no end."""

AnyCallable = TypeVar("AnyCallable", bound=Callable[..., object])


def octets(what: str, value: object) -> bytes:
    """Return a `str`, encoded in UTF-8, or a bytes-like object as bytes."""
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{what}={value!r}: it cannot be written in UTF-8") from None
    if isinstance(value, BytesLike):
        return bytes(value)
    raise TypeError(f"{what}={value!r}: str or bytes, not {_kind(value)}")


def pathname(what: str, value: Any) -> Path:
    """Return a path. An empty one, which would be the present folder, is refused."""
    if value == "":
        raise ValueError(f"{what}='': a path, which has 1 character or more")
    try:
        return Path(value)
    except TypeError:
        raise TypeError(f"{what}={value!r}: a path (str or os.PathLike), not {_kind(value)}") from None


def whole(what: str, value: object, least: int, most: int = LARGEST_NUMBER) -> int:
    """Return a whole number within these limits."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what}={value!r}: a whole number, not {_kind(value)}")
    if not least <= value <= most:
        limit = f", up to {most}" if most < LARGEST_NUMBER or value > most else ""
        raise ValueError(f"{what}={value}: {least} or more{limit}")
    return value


def seconds(what: str, value: object, least: float = 0.0, most: float = math.inf) -> float:
    """Return a number of seconds within these limits."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{what}={value!r}: a number of seconds, not {_kind(value)}")
    number = float(value)
    if not least <= number <= most:
        limit = f", up to {most:g}" if most < math.inf else ""
        raise ValueError(f"{what}={value!r}: seconds, {least:g} or more{limit}")
    return number


def patience(what: str, value: object) -> float | None:
    """Return the seconds to wait; None for a wait without end."""
    if value is None:
        return None
    number = seconds(what, value)
    return number if number < FOR_EVER else None


def flag(what: str, value: object) -> bool:
    """Return a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{what}={value!r}: True or False, not {_kind(value)}")
    return value


def callback(what: str, value: AnyCallable) -> AnyCallable:
    """Return a callable."""
    if not callable(value):
        raise TypeError(f"{what}={value!r}: something to be called, not {_kind(value)}")
    return value


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__
