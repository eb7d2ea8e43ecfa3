"""Trials: nodes that are pinged in quick succession, to find out soon whether they answer (rulings, F6).

Only the answer to a ping of the trial counts: what a process has sent before it died may still wait here to be read. A
trial is over with its first answer, or after `SECONDS` without one. It takes `FEWEST` pings at least, so that of a node
that was paused itself goes on when that node does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import inf
from typing import Final

SECONDS: Final = 0.14
INTERVAL: Final = 0.02
"""Seconds between two pings, and for the answer to the last one."""
FEWEST: Final = 4
_ROUNDING: Final = INTERVAL / 2


class _Trial:
    __slots__ = ("asked", "due", "until")

    def __init__(self, now: float) -> None:
        self.asked: set[int] = set()
        """The moments that its pings have told."""
        self.due = now
        """When the next ping is to be sent, or the trial is over."""
        self.until = now + SECONDS - _ROUNDING


class Trials:
    """The trials of one node."""

    def __init__(self) -> None:
        self.deadline = inf
        """When `advance` is due."""
        self.on_end: Callable[[int, bool, float], None] = lambda node_id, answered, now: None
        """Called when a trial is over, with whether the node has answered."""
        self._trials: dict[int, _Trial] = {}

    def begin(self, node_id: int, now: float) -> None:
        """Try a node; one that is on trial already goes on."""
        self._trials.setdefault(node_id, _Trial(now))
        self._set_deadline()

    def keep(self, node_ids: Collection[int]) -> None:
        """Forget the trials of all other nodes, without a word."""
        self._trials = {node_id: trial for node_id, trial in self._trials.items() if node_id in node_ids}
        self._set_deadline()

    def advance(self, now: float) -> list[tuple[int, int]]:
        """Return who is to be pinged now, each with the moment that the ping tells; end the trials that are over."""
        pings: list[tuple[int, int]] = []
        silent: list[int] = []
        for node_id, trial in self._trials.items():
            if trial.due > now:
                continue
            if now >= trial.until and len(trial.asked) >= FEWEST:
                silent.append(node_id)
                continue
            trial.due = now + INTERVAL
            moment = round(now * 1e9)
            trial.asked.add(moment)
            pings.append((node_id, moment))
        for node_id in silent:
            self._end(node_id, answered=False, now=now)
        self._set_deadline()
        return pings

    def on_pong(self, node_id: int, moment: int, now: float) -> None:
        """Take the answer to the ping of a moment."""
        trial = self._trials.get(node_id)
        if trial is not None and moment in trial.asked:
            self._end(node_id, answered=True, now=now)
            self._set_deadline()

    def _end(self, node_id: int, *, answered: bool, now: float) -> None:
        del self._trials[node_id]
        self.on_end(node_id, answered, now)

    def _set_deadline(self) -> None:
        self.deadline = min((trial.due for trial in self._trials.values()), default=inf)
