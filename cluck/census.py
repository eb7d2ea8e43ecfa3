"""What the reports of one round come to: rulings E1, E2 and E5.

Each server collects the same reports in the same order, and so all come to the same verdict: too few are here, or there
is a state to go on with, or a new one is to be born. Nothing is done about it here.
"""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import dataclass
from typing import Final

from cluck.commands import LARGEST_EPOCH, Server
from cluck.electorate import Electorate
from cluck.wire import Lineage, Record, Report, RoundId
from cpg.events import Member

MOST_LEADERS: Final = 3


@dataclass(frozen=True, slots=True)
class Minority:
    """Who is here does not decide."""

    why: str


@dataclass(frozen=True, slots=True)
class Base:
    """There is a state to go on with."""

    owner: Member
    """Who gives it to those that have another."""
    is_everywhere: bool
    """All have it already."""
    was_there: bool
    """This server does, and has come to it by applying all of it in its time."""


@dataclass(frozen=True, slots=True)
class Birth:
    """There is no state, and enough are here to begin anew."""

    after: float
    """Seconds until nobody relies on what was granted before."""
    rank: int
    """This server's place among those who propose it: the next one if the first does not."""


Verdict = Minority | Base | Birth


class Census:
    """One round: who has reported what, and who is left out."""

    def __init__(self, round_id: RoundId, members: tuple[Member, ...], electorate: Electorate) -> None:
        """`members`: all who are in the group during the round, and in the view that it makes."""
        self.id = round_id
        self.excluded: set[Member] = set()
        self._members = members
        self._electorate = electorate
        self._reports: dict[Member, Report] = {}

    # ---- in

    def add(self, member: Member, report: Report) -> None:
        """A server has reported."""
        self._reports[member] = report

    def exclude(self, members: Set[Member]) -> Set[Member]:
        """Go on without those of them that have not reported; these are returned."""
        silent = members - self._reports.keys()
        self.excluded |= silent
        return silent

    # ---- who is there

    def has_report_of(self, member: Member) -> bool:
        """Whether it has reported."""
        return member in self._reports

    @property
    def silent(self) -> list[Member]:
        """Those who are waited for."""
        return [member for member in self._members if member not in self._reports and member not in self.excluded]

    @property
    def is_complete(self) -> bool:
        """Whether nobody is waited for any more."""
        return bool(self._reports) and not self.silent

    @property
    def servers(self) -> dict[Member, Server]:
        """The lives of those who have reported."""
        return {member: Server(member.node_id, report.start) for member, report in self._reports.items()}

    @property
    def leaders(self) -> list[Member]:
        """Who leads the service: by priority, then by what each drew when it started."""
        able = [(report.priority, report.start, member) for member, report in self._reports.items() if report.priority]
        return [member for _, _, member in sorted(able)[:MOST_LEADERS]]

    @property
    def is_safe(self) -> bool:
        """Whether all learn from their rings when a message is safe."""
        return all(report.safe for report in self._reports.values())

    def is_quorum(self, members: Collection[Member]) -> bool:
        """Whether these decide."""
        return self._electorate.is_quorum(self._nodes(members))

    def _nodes(self, members: Collection[Member]) -> set[int]:
        """The nodes all of whose servers are among these: such a node is there, or knows, whichever of them is left."""
        chosen = set(members)
        return {member.node_id for member in chosen} - {
            member.node_id for member in self._members if member not in chosen
        }

    # ---- what follows

    def verdict(self, member: Member) -> Verdict:
        """Decide what the view is, as all do alike; `member`: who asks."""
        reports = self._reports
        present = self._nodes(reports)
        with_state = {member.node_id for member, report in reports.items() if report.lineage is not None}
        if member in self.excluded:
            return Minority("the others went on without this server, which did not answer")
        if not all(report.quorate for report in reports.values()):
            return Minority("the ring is not quorate")
        if not self._electorate.is_quorum(present):
            return Minority(f"too few lock servers are here: nothing from node {self._missing(present)}")
        if not self.leaders:
            return Minority("no lock server here may lead: each has its priority off")
        if self._electorate.is_quorum(with_state):
            return self._base(member)
        return self._birth(member, present)

    def _missing(self, present: Collection[int]) -> str:
        return ", ".join(map(str, self._electorate.missing(present)))

    @property
    def _lineages(self) -> dict[Member, Lineage]:
        return {member: report.lineage for member, report in self._reports.items() if report.lineage is not None}

    def _base(self, member: Member) -> Base:
        """The largest lineage is the base of all."""
        lineages, leaders = self._lineages, self.leaders
        best = max(lineages.values())
        owners = [owner for owner, lineage in lineages.items() if lineage == best]
        owner = min(owners, key=lambda owner: (owner not in leaders[:1], owner))
        having = {has for has in lineages if self._reports[has].digest == self._reports[owner].digest}
        return Base(
            owner,
            is_everywhere=having == self._reports.keys(),
            was_there=member in having and lineages[member].is_of_view(best),
        )

    @property
    def epoch(self) -> int:
        """In which the base was born."""
        return max(self._lineages.values()).epoch

    def lineage(self, epoch: int, ring_seq: int) -> Lineage:
        """Of a state that was born in this epoch, at the beginning of the view that the round makes on this ring."""
        views = [lineage.view for lineage in self._lineages.values() if lineage.ring_seq == ring_seq]
        return Lineage(epoch, ring_seq, max(views, default=0) + 1, 0)

    def _birth(self, member: Member, present: Collection[int]) -> Birth | Minority:
        """Nobody has what was told before: begin anew, if all or enough know that, and when nobody relies on it."""
        reports = self._reports.values()
        is_everyone = self._electorate.is_everyone(present)
        recorded = [member for member, report in self._reports.items() if report.record is not None]
        longest = max((record.longest for record in self._records), default=0.0)
        if any(record.epoch >= LARGEST_EPOCH for record in self._records):
            return Minority(f"the epochs of fencing tokens have come to their end, {LARGEST_EPOCH}")
        if any(report.force_birth for report in reports) or (
            is_everyone and not any(report.survivors or report.lineage is not None for report in reports)
        ):
            longest = 0.0
        elif not is_everyone and not self.is_quorum(recorded):
            what = "no state is left" if self._nodes(recorded) else "a first start needs all lock servers"
            return Minority(f"{what}: nothing from node {self._missing(present)}")
        return Birth(longest, sorted(self._reports).index(member))

    @property
    def _records(self) -> list[Record]:
        return [report.record for report in self._reports.values() if report.record is not None]

    def record_of_birth(self, usual: float) -> Record:
        """An epoch above all that anybody here knows of; `usual`: the longest lease where no disk knows of any."""
        known = self._records
        epoch = 1 + max((record.epoch for record in known), default=0)
        return Record(epoch, max((record.longest for record in known), default=usual))
