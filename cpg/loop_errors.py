"""Errors of this package that are also what the program's event loop calls them, and the loop's current task.

A full queue raises `cpg.QueueFull` everywhere. Programs on trio may catch it as `trio.WouldBlock`, programs on asyncio
as `asyncio.QueueFull`. A loop is never imported here, only looked up where it runs: programs without trio do not load
it.
"""

from __future__ import annotations

import sys
from typing import Any, Final, TypeVar

import sniffio

from cpg.errors import NotJoined, StreamBusy
from totem.errors import QueueFull

AnyError = TypeVar("AnyError", bound=Exception)

_NAMES: Final[dict[type[Exception], dict[str, str]]] = {
    QueueFull: {"trio": "WouldBlock", "asyncio": "QueueFull"},
    StreamBusy: {"trio": "BusyResourceError"},
    NotJoined: {"trio": "ClosedResourceError"},
}
"""What each loop calls these errors."""
_BOTH: Final[dict[tuple[type[Exception], str], Any]] = {}
"""The classes with both bases, made when they are first needed."""


def of_loop(kind: type[AnyError], text: str) -> AnyError:
    """Build an error of this kind that is also the running loop's own."""
    library = _library()
    name = _NAMES[kind].get(library)
    if name is None:
        return kind(text)
    if (kind, library) not in _BOTH:
        bases = (kind, getattr(sys.modules[library], name))
        _BOTH[kind, library] = type(kind.__name__, bases, {"__module__": kind.__module__, "__doc__": kind.__doc__})
    error: AnyError = _BOTH[kind, library](text)
    return error


def require_trio(call: str) -> None:
    """Raise a RuntimeError that names the alternative, unless trio runs."""
    library = _library()
    if library != "trio":
        where = f"not on {library}" if library else "and no event loop is running"
        raise RuntimeError(
            f"{call} runs on trio, {where}: use trio, or the daemon cpgd with cpg.aio.connect (asyncio) or cpg.CPG "
            "(no event loop)"
        )


def current_task() -> object:
    """Return the task that runs on trio or asyncio; weak references to it are possible."""
    library = _library()
    loop: Any = sys.modules[library]
    task: object = loop.lowlevel.current_task() if library == "trio" else loop.current_task()
    return task


def _library() -> str:
    """Return the name of the running event loop; empty where none runs."""
    try:
        return sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        return ""
