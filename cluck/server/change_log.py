"""What the log says of the lock servers: one line for each change of who decides, and none in between.

It names who came, who left in order, who is lost, who is missing, and how long nothing was decided. A view that is
given up before it decides is not logged, unless that lasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from cluck.server.replies import UNHEARD
from cpg.change_log import NOTHING, Line, Pace
from cpg.events import Confchg, Reason
from cpg.formatting import nodes
from cpg.replication.electorate import Electorate, Voters
from cpg.replication.replica import Phase, Replica
from totem.log_fields import event_fields

PATIENCE: Final = 5.0
"""Seconds that a change may take before the log says that nothing is decided."""


class ChangeLog:
    """What was logged last, and what has happened since."""

    def __init__(self, now: float) -> None:
        self._pace = Pace()
        self._present: tuple[int, ...] = ()
        self._why = ""
        """Why nothing is decided, as it was logged; empty: it is."""
        self._since: float | None = now
        """Since when nothing is decided."""
        self._left: set[int] = set()
        """Nodes whose servers have ended in order."""
        self._differences: tuple[str, ...] = ()
        self._voters: Voters | None = None
        """As they were seen last."""
        self._electorate: Electorate | None = None
        """The electorate that was in force last."""

    def confchg(self, confchg: Confchg) -> None:
        """Note a change of the group."""
        self._left |= {member.node_id for member, reason in confchg.left.items() if reason is Reason.LEAVE}
        self._left -= {member.node_id for member in confchg.joined}

    def news(self, replica: Replica[Any], unheard_since: float | None, now: float) -> Sequence[Line]:
        """Return the lines for what has changed. Hot: once for each turn.

        `unheard_since`: since when nothing comes back from the ring, where it does not seem to move.
        """
        if (
            replica.phase is Phase.PRIMARY
            and unheard_since is None
            and self._since is None
            and replica.differences is self._differences
            and replica.voters is self._voters
            and not self._pace.missed
        ):
            return ()
        view = self._pace.line(self._view(replica, unheard_since, now), now)
        return [line for line in (*self._who_differs(replica), self._who_votes(replica), view) if line.text]

    def _view(self, replica: Replica[Any], unheard_since: float | None, now: float) -> Line:
        if replica.phase is Phase.PRIMARY and unheard_since is None:
            return self._primary(replica, now) if self._since is not None else NOTHING
        if self._since is None:
            self._since = now if unheard_since is None else unheard_since
        is_settled = unheard_since is not None or replica.phase in (Phase.MINORITY, Phase.BIRTH)
        why = replica.why if unheard_since is None else UNHEARD
        if why == self._why or not (is_settled or (not self._why and now - self._since > PATIENCE)):
            return NOTHING
        self._why = why
        fields = event_fields("no_locks", phase=str(replica.phase), why=why)
        return Line(replica.phase is not Phase.BIRTH, f"no locks are granted: {why}", fields)

    def _who_differs(self, replica: Replica[Any]) -> Iterable[Line]:
        """Name who differs in what must be equal, once for as long as it is so."""
        former, self._differences = self._differences, replica.differences
        news = (text for text in replica.differences if text not in former)
        return [Line(True, text, event_fields("difference", why=text)) for text in news]

    def _who_votes(self, replica: Replica[Any]) -> Line:
        """Return a line that others decide than before, when that is in force."""
        voters = self._voters = replica.voters
        if replica.phase is not Phase.PRIMARY or voters is None or voters.former is not None:
            return NOTHING
        former, self._electorate = self._electorate, voters.electorate
        if former in (None, voters.electorate):
            return NOTHING
        text = f"the lock servers that vote are {voters.electorate} from now on, and no longer {former}"
        fields = event_fields("voters", version=voters.version, voters=str(voters.electorate), former=str(former))
        return Line(False, text, fields)

    def _primary(self, replica: Replica[Any], now: float) -> Line:
        former, present = self._present, _nodes(member.node_id for member in replica.servers)
        assert self._since is not None
        seconds, self._since, self._present = now - self._since, None, present
        if present == former and not self._why:
            return NOTHING
        voters = replica.voters
        assert voters is not None
        gone = set(former).difference(present)
        lost, left = _nodes(gone - self._left), _nodes(gone & self._left)
        came = _nodes(set(present).difference(former)) if former else ()
        missing = voters.missing(present)
        parts = [f"the lock servers of {nodes(present)} decide"]
        for who, what in ((lost, "lost"), (left, "left"), (came, "came"), (missing, "missing")):
            if who:
                parts.append(f"{nodes(who)} {what}")
        parts.append(f"nothing was decided for {seconds:.3f} s")
        self._left, self._why = set(), ""
        fields = event_fields(
            "lock_servers",
            members=present,
            lost=lost,
            left=left,
            came=came,
            missing=missing,
            seconds=round(seconds, 3),
        )
        return Line(bool(lost), "; ".join(parts), fields)


def _nodes(node_ids: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(node_ids)))
