"""Which process this is: what a process has opened belongs to it alone, not to one that is forked from it.

A fork copies rings, connections and locks into the new process. None of them may be used there: each asks, with the
function that it got from `process_check` when it was made.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import ClassVar


class _Process:
    """A process, from its start or its fork on."""

    current: ClassVar[_Process]


_Process.current = _Process()


def process_check() -> Callable[[], bool]:
    """Return a function that returns whether it is called in this process, not in one that was forked from it.

    Hot: it asks the kernel for nothing.
    """
    own = _Process.current
    return lambda: _Process.current is own


def _begin_in_fork() -> None:
    _Process.current = _Process()


os.register_at_fork(after_in_child=_begin_in_fork)
