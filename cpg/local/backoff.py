"""Pauses between tries that grow: each twice as long as the one before, up to a limit."""

from __future__ import annotations


class Backoff:
    """The pauses of one series of tries, in seconds."""

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest = self._next = shortest
        self._longest = longest

    def next(self) -> float:
        """Return the pause before the next try."""
        pause = self._next
        self._next = min(2 * pause, self._longest)
        return pause

    def reset(self) -> None:
        """Begin again with the shortest pause."""
        self._next = self._shortest
