"""What the reports of one round come to: rulings E1, E2, E5 and E9.

Each server collects the same reports in the same order. So all come to the same verdict: too few servers are here, or
there is a state to go on with, or a new one is to be born. Nothing is done about it here.

Only servers of one cluster and with equal terms count together. Those that differ each decide among their own, and at
most one of these parts has a majority.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from cpg.events import Member
from cpg.formatting import nodes
from cpg.replication.application import Application, StateMachine
from cpg.replication.electorate import Electorate, Voters
from cpg.replication.identities import LARGEST_EPOCH, Boot, ServerId
from cpg.replication.wire import DurableRecord, Lineage, Report

MOST_LEADERS: Final = 3
BELIEVED: Final = 1 << 16
"""An epoch that one node alone knows is at most this much larger than all that others know."""
BELIEVED_VIEWS: Final = 1 << 32
"""The same for the numbers of views, and of changes of voters."""


@dataclass(frozen=True, slots=True)
class Minority:
    """The members present do not decide."""

    why: str


@dataclass(frozen=True, slots=True)
class Base:
    """There is a state to go on with."""

    owner: Member
    """Who gives it to those that have another one."""
    is_everywhere: bool
    """All servers have it already."""
    was_there: bool
    """This server has it, and has come to it by applying all of it in its time."""


@dataclass(frozen=True, slots=True)
class StateBirth:
    """There is no state, and enough servers are here to begin anew."""

    after: float
    """Seconds until nobody relies on a promise of a former state."""
    rank: int
    """This server's place among those that propose it: the next one does if the first does not."""


Verdict = Minority | Base | StateBirth


def servers_known(reports: Mapping[Member, Report[Any]]) -> set[Member]:
    """Return the members that are servers, as far as those that have reported know."""
    return {Member(*numbers) for report in reports.values() for numbers in report.known}


class ViewDecision:
    """What the reports of a round come to, for one member."""

    def __init__(
        self,
        member: Member,
        members: tuple[Member, ...],
        ring_seq: int,
        application: Application[Any],
        *,
        reports: Mapping[Member, Report[Any]],
        excluded: Set[Member],
        unreadable: Mapping[Member, str],
        without_state: Mapping[Member, str],
    ) -> None:
        """`member`: the one that asks; the others are as in `cpg.replication.round_reports.RoundReports`."""
        self._member = member
        self._members = members
        self._ring_seq = ring_seq
        self._application = application
        self._all = reports
        self._excluded = excluded
        self._unreadable = unreadable
        self._without_state = without_state

    # ---- who counts

    @cached_property
    def _reports(self) -> dict[Member, Report[Any]]:
        """The reports of those that count together with the one that asks."""
        believed = {member: report for member, report in self._all.items() if member not in self._refused}
        mine = believed.get(self._member)
        if mine is None:
            return {}
        return {member: report for member, report in believed.items() if self._side(report) == self._side(mine)}

    @cached_property
    def _refused(self) -> dict[Member, str]:
        """The servers that do not count for what they say that they have, and why."""
        return {**self._unbelieved(), **self._without_state}

    def _unbelieved(self) -> dict[Member, str]:
        """Return the servers that report what cannot be, and why.

        What follows from such a number could not be decoded, or never be exceeded. A majority's disks know of an epoch
        before it is used, so that nobody is far ahead of all others.
        """
        unbelieved = {}
        for what, step in (("epoch", BELIEVED), ("view", BELIEVED_VIEWS), ("version", BELIEVED_VIEWS)):
            numbers = {member: self._largest(what, report) for member, report in self._all.items()}
            of_nodes: dict[int, int] = {}
            for member, number in numbers.items():
                of_nodes[member.node_id] = max(number, of_nodes.get(member.node_id, 0))
            second, first = sorted([0, 0, *of_nodes.values()])[-2:]
            for member, number in numbers.items():
                known = second if of_nodes[member.node_id] == first else first
                if number > known + step:
                    unbelieved[member] = f"it knows of {what} {number}, and no other node of one above {known}"
        for member, report in self._all.items():
            if report.lineage is not None and report.lineage.ring_seq > self._ring_seq:
                rings = f"{report.lineage.ring_seq}, and this is {self._ring_seq}"
                unbelieved[member] = f"it has decided in a ring that is still to come, {rings}"
        return unbelieved

    def _largest(self, what: str, report: Report[Any]) -> int:
        """Return the largest of those of its numbers that others go on from."""
        lineage, voters = report.lineage, report.known_voters
        match what:
            case "epoch":
                said = [known.view.epoch for known in voters]
                said += [known.epoch for known in (lineage, report.record) if known is not None]
            case "view":
                said = [lineage.view] if lineage is not None and lineage.ring_seq == self._ring_seq else []
            case _:
                said = [known.version for known in voters]
        return max(said, default=0)

    def why_not(self, state: StateMachine) -> str:
        """Return why a state is not the base that was reported; empty: it is. No state is older than its birth."""
        if state.epoch < self.epoch or state.epoch > self._latest_epoch + BELIEVED:
            return f"it has come to epoch {state.epoch}, and was born in {self.epoch}"
        return ""

    @property
    def _latest_epoch(self) -> int:
        return max(self._largest("epoch", report) for report in self._reports.values())

    def _side(self, report: Report[Any]) -> tuple[int | None, Any]:
        """Return the key of those that count together: cluster and terms. A server of no cluster yet joins the one that
        is here.

        Where none was born yet, disks may know of several that were prepared: all are of one side.
        """
        is_any_born = any(voters.is_born for other in self._all.values() for voters in other.known_voters)
        clusters = {other.cluster for other in self._all.values() if other.cluster is not None}
        is_sure = report.cluster is None and len(clusters) == 1
        cluster = clusters.pop() if is_sure else report.cluster
        return cluster if is_any_born else None, report.terms

    @cached_property
    def _known(self) -> Voters | None:
        """The latest voters that are known here; None: nothing was ever decided."""
        known = [voters for report in self._reports.values() for voters in report.known_voters]
        return max(known, key=lambda voters: (voters.rank, voters.cluster), default=None)

    @property
    def _was_born(self) -> bool:
        """Whether a state was born: servers that do not vote may have had clients, and some of these may be alive."""
        return self._known is not None and self._known.is_born

    @property
    def _is_prepared(self) -> bool:
        """Whether a first birth was begun and, as far as is known here, came to nothing."""
        return self._known is not None and not self._was_born

    @cached_property
    def voters(self) -> Voters:
        """Who decides."""
        known = self._known
        if known is None:
            reports = self._reports
            return Voters(reports[min(reports)].start, 1, reports[self._member].configured)
        if self._cannot_have_changed(known):
            return known.undone()
        return known

    def _cannot_have_changed(self, known: Voters) -> bool:
        """Return whether a change that is under way cannot be finished here, and was finished nowhere else.

        It comes into force when a majority of the former voters has it on disk. Here so few disks know of it that no
        majority can have it.
        """
        former, with_state = known.former, self._with_state
        if former is None or known.is_quorum(with_state) or not former.is_quorum(with_state):
            return False
        knowing = {
            member.node_id
            for member, report in self._reports.items()
            if report.record is not None and known.says_what(report.record.voters)
        }
        return not former.is_quorum(former.votes.keys() - (self.present - knowing))

    @property
    def present(self) -> set[int]:
        """The nodes that count."""
        return self._nodes(self._reports)

    @property
    def _with_state(self) -> set[int]:
        having = {member.node_id for member, report in self._reports.items() if report.lineage is not None}
        return having & self.present

    @property
    def servers(self) -> dict[Member, ServerId]:
        """The lives of those that count."""
        return {member: ServerId(member.node_id, report.start) for member, report in self._reports.items()}

    @property
    def boots(self) -> dict[ServerId, Boot]:
        """The runs of the machines that those that count, and all their clients, are on."""
        return {
            ServerId(member.node_id, report.start): report.boot
            for member, report in self._reports.items()
            if report.boot is not None
        }

    @property
    def records(self) -> dict[Member, DurableRecord]:
        """What the disks of those that count know."""
        return {member: report.record for member, report in self._reports.items() if report.record is not None}

    @property
    def leaders(self) -> list[Member]:
        """Who leads the service: by priority, then by what each drew when it started; one of each node first.

        So the servers of one node alone do not have all places, whatever they report.
        """
        reports = self._reports.items()
        return self._ranked([(report.priority, report.start, member) for member, report in reports if report.priority])

    @staticmethod
    def _ranked(able: list[tuple[int, int, Member]]) -> list[Member]:
        of_nodes, ranked = Counter[int](), []
        for priority, start, member in sorted(able):
            ranked.append((of_nodes[member.node_id], priority, start, member))
            of_nodes[member.node_id] += 1
        return [member for *_, member in sorted(ranked)[:MOST_LEADERS]]

    @property
    def is_safe(self) -> bool:
        """Whether all learn from their rings when a message is safe."""
        return all(report.safe for report in self._reports.values())

    def is_quorum(self, members: Collection[Member], voters: Voters) -> bool:
        """Return whether these decide, where those are the voters."""
        return voters.is_quorum(self._nodes(members))

    def may_exclude(self, members: Collection[Member]) -> bool:
        """Return whether these decide by themselves, by what was reported so far."""
        return bool(self._reports) and self.is_quorum(members, self.voters)

    def can_begin(self, members: Collection[Member]) -> bool:
        """Return whether a state is born once these have stored it: all voters where none ever was, as all are there.

        One that does not know of it could be configured otherwise when it starts again, and begin with others.
        """
        is_first = (self._known is None or self._is_prepared) and self.voters.is_everyone(self.present)
        stored = self._nodes(members)
        return self.voters.is_everyone(stored) if is_first else self.voters.is_quorum(stored)

    def _nodes(self, members: Collection[Member]) -> set[int]:
        """Return the nodes all of whose servers are among these, and count: then no other server of it knows better."""
        chosen = self._reports.keys() & members
        return {member.node_id for member in chosen} - {
            member.node_id for member in self._members if member not in chosen and member in self._servers_here
        }

    @cached_property
    def _servers_here(self) -> set[Member]:
        """The members of which anybody knows that they are servers: other members of the group do not matter."""
        return servers_known(self._all) | self._all.keys() | self._unreadable.keys()

    # ---- who differs

    def differences(self, voters: Voters | None = None) -> tuple[str, ...]:
        """Return who differs from whom in what, in the words of the one that asks.

        `voters`: who decides by now, where that has changed since.
        """
        mine = self._reports.get(self._member)
        if mine is None:
            return ()
        voters = voters or self.voters
        named = []
        configured: dict[str, set[int]] = {}
        unsafe: set[int] = set()
        for member, report in self._all.items():
            if member not in self._reports:
                continue
            if not report.safe:
                unsafe.add(member.node_id)
            if what := self._configured_otherwise(report.configured, mine.configured, voters):
                configured.setdefault(what, set()).add(member.node_id)
        for what, who in configured.items():
            are = "are" if len(who) > 1 else "is"
            others = f"other {self._application.server}s"
            named.append(f"{nodes(tuple(sorted(who)))} {are} configured with {others}: {what}")
        if unsafe and any(report.safe for report in self._reports.values()):
            rings = f"the ring of {nodes(tuple(sorted(unsafe)))}"
            named.append(f"{rings} does not report what is safe: all use acknowledgements (ruling E4)")
        return tuple(sorted(named))

    @property
    def uncounted(self) -> dict[Member, str]:
        """Who does not count together with the one that asks, and why."""
        named = {member: uncounted(name(member, self._members), why) for member, why in self._unreadable.items()}
        for member, report in self._all.items():
            if why := self._refused.get(member, ""):
                named[member] = uncounted(process(member), why)
            elif member not in self._reports and self._member in self._reports:
                named[member] = uncounted(name(member, self._members), self._reason(report, self._all[self._member]))
        return named

    def _reason(self, report: Report[Any], mine: Report[Any]) -> str:
        """Return why one that is there does not count here."""
        if report.terms != mine.terms:
            return self._application.name_difference(report.terms, mine.terms)
        return f"it is of {_cluster(report)}, and this is of {_cluster(mine)}"

    def _configured_otherwise(self, theirs: Electorate, mine: Electorate, voters: Voters) -> str:
        """Return with which other servers a server is configured; empty: with those that count."""
        if self._known is None:
            return f"{theirs}; here {mine}" if theirs != mine else ""
        if theirs in voters.electorates:
            return ""
        how = self._application.how_to_change_voters
        return f"{theirs}; that changes nothing, those in force are {voters.electorate}{how and f'; {how}'}"

    # ---- what follows

    def verdict(self) -> Verdict:
        """Decide what the view is, as all do alike."""
        if self._member in self._excluded:
            return Minority("the others continue without this server, which did not answer")
        if self._member in self._refused:
            return Minority(f"the others continue without this server: {self._refused[self._member]}")
        voters, server = self.voters, self._application.server
        apart = [member.node_id for member, report in self._voting.items() if not report.quorate]
        if apart:
            return Minority(f"the ring is not quorate, as node {', '.join(map(str, sorted(apart)))} reports")
        if self._known is None and self._is_mixed():
            named = sorted({*self.differences(voters), *self.uncounted.values()})
            return Minority(f"a first start needs {server}s that agree: {'; '.join(named)}")
        if not voters.is_quorum(self.present):
            return Minority(f"too few {server}s are here: nothing from node {self._missing}")
        if not self.leaders:
            return Minority(f"no {server} here may lead: each has its priority off")
        without = [process(member) for member in sorted(self._refused) if member.node_id in voters.voting]
        if voters.is_quorum(self._with_state) or (not without and self._has_the_last()):
            return self._base()
        if without:
            return Minority(f"too few have a state without {', '.join(without)}, whose state cannot be had: end it")
        return self._birth()

    def _is_mixed(self) -> bool:
        """Return whether not all who are in the group could begin together."""
        configured = {report.configured for report in self._all.values()}
        return len(configured) > 1 or len(self._reports) < len(self._all) or bool(self._unreadable)

    @property
    def _missing(self) -> str:
        return ", ".join(map(str, self.voters.missing(self.present)))

    @property
    def _lineages(self) -> dict[Member, Lineage]:
        """How far those that vote have come: all that anybody was told is with a majority of them."""
        return {member: report.lineage for member, report in self._voting.items() if report.lineage is not None}

    @cached_property
    def _voting(self) -> dict[Member, Report[Any]]:
        """The reports of nodes that vote: what others say of state and quorum changes nothing."""
        voting = self.voters.voting
        return {member: report for member, report in self._reports.items() if member.node_id in voting}

    def _has_the_last(self) -> bool:
        """Return whether there can be no state later than one that is here (ruling E2c).

        All who had it, too, have ended in the sight of one that has it; and no disk of a majority knows of another
        birth.
        """
        if not self._lineages or not self.is_quorum(self.records, self.voters):
            return False
        best = max(self._lineages.values())
        is_alone = self.voters.former is None and all(record.epoch <= best.epoch for record in self.records.values())
        return is_alone and any(
            report.is_last and report.lineage == best and report.voters == self.voters
            for report in self._voting.values()
        )

    def _base(self) -> Base:
        """The largest lineage is the base of all."""
        member, lineages, leaders = self._member, self._lineages, self.leaders
        best = max(lineages.values())
        owners = [owner for owner, lineage in lineages.items() if lineage == best]
        owner = min(owners, key=lambda owner: (owner not in leaders[:1], owner))
        of_owner = self._reports[owner].digest
        having = {
            has: report.lineage
            for has, report in self._reports.items()
            if report.lineage is not None and report.digest == of_owner
        }
        return Base(
            owner,
            is_everywhere=having.keys() == self._reports.keys(),
            was_there=member in having and having[member].is_of_view(best),
        )

    @property
    def epoch(self) -> int:
        """In which the base was born."""
        return max(self._lineages.values()).epoch

    def lineage(self, epoch: int, ring_seq: int) -> Lineage:
        """Return the lineage of a state born in this epoch, as the view begins that the round makes on this ring."""
        views = [lineage.view for lineage in self._lineages.values() if lineage.ring_seq == ring_seq]
        return Lineage(epoch, ring_seq, max(views, default=0) + 1, 0)

    def _birth(self) -> StateBirth | Minority:
        """Begin anew, since no server has what was told before: if all or enough know that, and nobody relies on it.

        What disks of the former format know had no servers without a vote: there all who vote can tell.
        """
        reports = self._reports.values()
        is_everyone = self.voters.is_everyone(self.present)
        records = self.records.values()
        longest = max((record.longest_promise for record in records), default=0.0)
        if any(record.epoch >= LARGEST_EPOCH for record in records):
            return Minority(f"the epochs have come to their end, {LARGEST_EPOCH}")
        if any(report.force_birth for report in self._voting.values()) or (
            is_everyone
            and not self._was_born
            and not any(report.survivors or report.lineage is not None for report in reports)
        ):
            longest = 0.0
        elif not is_everyone and (self._is_prepared or not self.is_quorum(self.records, self.voters)):
            is_first = self._is_prepared or not self._nodes(self.records)
            what = f"a first start needs all {self._application.server}s" if is_first else "no state is left"
            return Minority(f"{what}: nothing from node {self._missing}")
        return StateBirth(longest, sorted(self._reports).index(self._member))

    def record_of_birth(self, usual: float) -> DurableRecord:
        """Return a record with an epoch above all that anybody here knows of.

        `usual`: the longest promise where no disk knows of any.
        """
        known = self.records.values()
        epoch = 1 + max((record.epoch for record in known), default=0)
        return DurableRecord(epoch, max((record.longest_promise for record in known), default=usual), self.voters)


def uncounted(who: str, why: str) -> str:
    """Name a server that does not count, and why."""
    return f"{who} does not count here: {why}"


def process(member: Member) -> str:
    """Name a member of the group."""
    return f"process {member.pid} of node {member.node_id}"


def name(member: Member, members: Collection[Member]) -> str:
    """Name a member by its node, where that has no other one of these."""
    is_alone = all(other == member or other.node_id != member.node_id for other in members)
    return f"node {member.node_id}" if is_alone else process(member)


def _cluster(report: Report[Any]) -> str:
    return "no cluster yet" if report.cluster is None else f"cluster {report.cluster:x}"
