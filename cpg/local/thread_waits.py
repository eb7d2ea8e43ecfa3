"""How long a thread may wait at once, in the clients of daemons that have no event loop."""

from __future__ import annotations

import threading
from typing import Final

LONGEST_WAIT: Final = 3600.0
"""Seconds after which a longer wait checks again: the system's calls have limits."""
LONGEST_DEAFNESS: Final = 1.0
"""The same in the main thread: a signal that comes just before a wait is handled only behind the wait."""


def longest_wait() -> float:
    """Return the seconds that this thread may wait before it checks its condition and signals again."""
    return LONGEST_DEAFNESS if threading.current_thread() is threading.main_thread() else LONGEST_WAIT
