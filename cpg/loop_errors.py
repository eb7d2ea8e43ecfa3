"""What the program's event loop calls things: the exceptions that its users know.

trio is asked for only where it runs, so that programs on asyncio, and those without any loop, never load it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import sniffio


def would_block() -> Exception:
    """Make what says that there is no room now: `trio.WouldBlock`, `asyncio.QueueFull`."""
    trio = _running_trio()
    error: Exception = trio.WouldBlock() if trio else asyncio.QueueFull()
    return error


def busy(text: str) -> Exception:
    """Make what says that somebody else uses this now: `trio.BusyResourceError`, `RuntimeError`."""
    trio = _running_trio()
    error: Exception = trio.BusyResourceError(text) if trio else RuntimeError(text)
    return error


def closed(text: str) -> Exception:
    """Make what says that this is not open: `trio.ClosedResourceError`, `RuntimeError`."""
    trio = _running_trio()
    error: Exception = trio.ClosedResourceError(text) if trio else RuntimeError(text)
    return error


def current_task() -> object:
    """Return the task that runs: of trio or asyncio, something that can be referred to weakly."""
    trio = _running_trio()
    task: object = trio.lowlevel.current_task() if trio else asyncio.current_task()
    return task


def _running_trio() -> Any:
    try:
        is_trio = "trio" in sys.modules and sniffio.current_async_library() == "trio"
    except sniffio.AsyncLibraryNotFoundError:
        is_trio = False
    return sys.modules["trio"] if is_trio else None
