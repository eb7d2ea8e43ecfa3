"""A program of this package, as its shell sees it: exit codes, the version, the one error behind a failure."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from totem.streams import standard_stream

DEFAULT_CONFIG: Final = "/etc/corosync/corosync.conf"

DONE, FAILED, MISUSED, SIGNALLED = 0, 1, 2, 128
"""Exit codes; a program that a signal ends adds the signal's number to the last one."""


def own_version() -> str:
    """Return the installed version."""
    try:
        return version("totem-cpg")
    except PackageNotFoundError:
        return "from a source tree that is not installed"


def sole(error: BaseException) -> BaseException:
    """Unwrap an exception that is alone in a group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def write_now(text: str) -> None:
    """Write to standard output past `sys.stdout`: a thread that hangs here would keep its lock at the program's end.

    Raises `StreamFailed`, and `BrokenPipeError` where nobody reads the output any more.
    """
    rest = text.encode("utf-8", "backslashreplace")
    with standard_stream("standard output"):
        while rest:
            rest = rest[os.write(sys.stdout.fileno(), rest) :]
