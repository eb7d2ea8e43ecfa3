"""Lines of the log about links: which link, to whom, up or down, since when, what it carries; paced."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple

from totem.links.machine import LinkChange
from totem.links.path import Path, PathChange
from totem.log_fields import event_fields, extra
from totem.log_pacing import RateLimiter

_log = logging.getLogger(__name__)

MOST_LINES: Final = 3
"""Lines about one link in a minute, of each kind; the others are counted."""


class _Line(NamedTuple):
    level: int
    text: str
    change: LinkChange


class LinkLog:
    """What one node logs of its links."""

    def __init__(self, node_id: int, paths: Callable[[int], Mapping[int, Path]]) -> None:
        """`paths`: those to another node, by the number of the link."""
        self._node_id = node_id
        self._paths = paths
        self._pace = RateLimiter[_Line]()
        self._unlogged_mtus: set[tuple[int, int]] = set()
        """The node ids and links whose MTU has changed in a search that has not ended."""

    def retain(self, links: Collection[tuple[int, int]]) -> None:
        """Forget all but these node ids and links."""
        self._unlogged_mtus.intersection_update(links)

    def note(self, change: LinkChange, now: float) -> None:
        """Log what has become of a link."""
        node_id, link = change.node_id, change.link
        if change.what is PathChange.MTU:
            self._unlogged_mtus.add((node_id, link))
            return
        self._unlogged_mtus.discard((node_id, link))
        paths = self._paths(node_id)
        if change.what is PathChange.UP:
            self._log_line(logging.INFO, change, f"is up, after {change.lasted:.1f} s down", now)
            if paths[link].is_searching:
                self._unlogged_mtus.add((node_id, link))
            return
        text = f"is down, after {change.lasted:.1f} s up"
        left = [str(number) for number, path in paths.items() if path.is_usable]
        if len(left) == 1:
            text += f": node {node_id} is reached over link {left[0]}"
        elif left:
            text += f": node {node_id} is reached over links {' '.join(left)}"
        elif paths[link].is_stopped:
            text += f": node {node_id} has left, or is of another make"
            self._log_line(logging.INFO, change, text, now)
            return
        elif paths[link].is_refused:
            text += f": node {node_id} does not answer, and its machine refuses packets, as if nobody listened there"
        elif any(path.hears_only(now) for path in paths.values()):
            text += f": node {node_id} is heard, but answers nothing, as if it did not hear this node"
        else:
            text += f": node {node_id} cannot be reached"
        self._log_line(logging.WARNING, change, text, now)

    def advance(self, now: float) -> None:
        """Log the MTUs whose search has ended, and what was only counted."""
        for node_id, link in [*self._unlogged_mtus]:
            path = self._paths(node_id)[link]
            if path.is_searching:
                continue
            self._unlogged_mtus.discard((node_id, link))
            nothing = "carries nothing: no probe of any size is answered"
            text = f"carries packets of {path.mtu} bytes" if path.mtu else nothing
            change = LinkChange(node_id, link, PathChange.MTU, path.mtu, 0.0)
            self._log_line(logging.INFO if path.mtu else logging.WARNING, change, text, now)
        for line, missed in self._pace.summaries(now):
            self._write(line, f" ({missed} times more in a minute)", unlogged=missed)

    def _log_line(self, level: int, change: LinkChange, text: str, now: float) -> None:
        """Log a line now, or count it: a link may come and go as often as it likes."""
        line = _Line(level, f"link {change.link} to node {change.node_id} {text}", change)
        if self._pace.allows((change.node_id, change.link, change.what), line, now, MOST_LINES):
            self._write(line)

    def _write(self, line: _Line, more: str = "", **counts: int) -> None:
        change = line.change
        fields = event_fields(
            "link", node=self._node_id, peer=change.node_id, link=change.link, state=change.what.value, mtu=change.mtu
        )
        _log.log(line.level, "node %d: %s%s", self._node_id, line.text, more, extra=extra(fields, **counts))
