"""What the reports of one round come to: rulings E1, E2, E5 and E9.

Each server collects the same reports in the same order, and so all come to the same verdict: too few are here, or there
is a state to go on with, or a new one is to be born. Nothing is done about it here.

Only those count together who are of one cluster and count alike. Who are not each decide among their own, and at most
one of these parts has a majority.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from cluck.commands import LARGEST_EPOCH, Boot, Server
from cluck.replication.electorate import Electorate, Voters
from cluck.state.machine import State
from cluck.wire import Lineage, Record, Report, RoundId
from cpg.events import Member
from cpg.formatting import nodes

MOST_LEADERS: Final = 3
BELIEVED: Final = 1 << 16
"""By so much an epoch of which one node alone knows is larger than all that others know of, at most."""
BELIEVED_VIEWS: Final = 1 << 32
"""The same for the numbers of views and of changes of who decides."""


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

    def __init__(self, round_id: RoundId, members: tuple[Member, ...], member: Member, ring_seq: int) -> None:
        """`members`: all who are in the group during the round, and in the view that it makes; `member`: who asks."""
        self.id = round_id
        self.excluded: set[Member] = set()
        self._members = members
        self._member = member
        self._ring_seq = ring_seq
        self._all: dict[Member, Report] = {}
        self._unreadable: dict[Member, str] = {}
        """Those who have said what cannot be read, and why."""
        self._strangers: set[Member] = set()
        """Those who have said what no lock server says."""
        self._refused: dict[Member, str] = {}
        """Those whose state cannot be had, and why."""
        self._callers: dict[Member, set[Member]] = {}
        """Who calls whom silent."""

    def _copy(self, member: Member) -> Census:
        """The same round, as another one asks, or as it goes on."""
        other = Census(self.id, self._members, member, self._ring_seq)
        other.excluded = self.excluded.copy()
        other._all = self._all
        other._unreadable = self._unreadable
        other._strangers = self._strangers
        other._refused = self._refused
        other._callers = self._callers
        return other

    def without_state_of(self, member: Member, why: str) -> Census:
        """Go on without a server that has said that it has a state, which cannot be had."""
        other = self._copy(self._member)
        other._refused = {**self._refused, member: why}
        return other

    def without_silent(self) -> Census:
        """What would come of it, if nobody else reported."""
        other = self._copy(self._member)
        other.excluded.update(self.silent)
        return other

    # ---- in

    def add(self, member: Member, report: Report) -> None:
        """A server has reported."""
        self._all[member] = report
        self._unreadable.pop(member, None)
        self._callers.pop(member, None)

    def refuse(self, member: Member, why: str) -> None:
        """A server has said what cannot be read: unless it reports, it is not waited for, and does not count."""
        if member not in self._all:
            self._unreadable[member] = why

    def pass_over(self, member: Member) -> None:
        """A member has said what no lock server says: unless it reports, it is not waited for."""
        self._strangers.add(member)

    def exclude(self, caller: Member, members: Set[Member]) -> Set[Member]:
        """Go on without those of them that have not reported, and that enough call silent; these are returned.

        Enough decide by themselves, as far as has been reported. Else whoever calls a round, and all others silent at
        once, would keep them from deciding.
        """
        seen = self._copy(caller)
        silent = {member for member in members & {*self.silent} if seen._is_agreed(caller, member)}
        self.excluded |= silent
        return silent

    def exclude_owner(self, caller: Member, owner: Member, why: str) -> Census:
        """Go on without a server that does not hand over its state, once enough say so."""
        return self.without_state_of(owner, why) if self._is_agreed(caller, owner) else self

    def _is_agreed(self, caller: Member, silent: Member) -> bool:
        callers = self._callers.setdefault(silent, set())
        callers.add(caller)
        return bool(self._reports) and self.is_quorum(callers, self.voters)

    # ---- who is there

    def has_report_of(self, member: Member) -> bool:
        """Whether it has reported."""
        return member in self._all

    @property
    def silent(self) -> list[Member]:
        """Those who are waited for."""
        heard = self._all.keys() | self.excluded | self._unreadable.keys() | self._strangers
        return [member for member in self._members if member not in heard]

    @property
    def is_complete(self) -> bool:
        """Whether nobody is waited for any more."""
        return bool(self._all) and not self.silent

    # ---- once it is complete: who counts

    @cached_property
    def _reports(self) -> dict[Member, Report]:
        """Those who count together with who asks."""
        believed = {member: report for member, report in self._all.items() if member not in self.refused}
        mine = believed.get(self._member)
        if mine is None:
            return {}
        return {member: report for member, report in believed.items() if self._side(report) == self._side(mine)}

    @cached_property
    def refused(self) -> dict[Member, str]:
        """Those who do not count for what they say that they have, and why."""
        return {**self._unbelieved(), **self._refused}

    def _unbelieved(self) -> dict[Member, str]:
        """Those who report what cannot be, and why: what is made of it could not be read, or never be outdone.

        A majority's disks know of an epoch before it is used, so that nobody is far ahead of all others.
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

    def _largest(self, what: str, report: Report) -> int:
        """The largest of those of its numbers that others go on from."""
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

    def digest_of(self, member: Member) -> int:
        """The checksum of the state that it has, as it has reported."""
        return self._all[member].digest

    def why_not(self, state: State) -> str:
        """Why a state is not the base that was reported; empty: it is. None was born after its tokens were drawn."""
        if state.tokens.epoch < self.epoch or state.tokens.epoch > self._latest_epoch + BELIEVED:
            return f"its tokens are of epoch {state.tokens.epoch}, and it was born in {self.epoch}"
        return ""

    @property
    def _latest_epoch(self) -> int:
        return max(self._largest("epoch", report) for report in self._reports.values())

    def _side(self, report: Report) -> tuple[int | None, float]:
        """Who are of one cluster and count leases alike; who is of none yet joins the one that is here.

        Where none was born yet disks may know of several that were prepared: all are of one side.
        """
        is_any_born = any(voters.is_born for other in self._all.values() for voters in other.known_voters)
        clusters = {other.cluster for other in self._all.values() if other.cluster is not None}
        is_sure = report.cluster is None and len(clusters) == 1
        cluster = clusters.pop() if is_sure else report.cluster
        return cluster if is_any_born else None, report.drift

    @cached_property
    def _known(self) -> Voters | None:
        """What is known last of who decides; None: nothing was decided ever."""
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
        """Whether a change that is under way cannot be finished here, and so few disks know of it that it was nowhere.

        It comes into force when a majority of the former voters has it on disk.
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
    def servers(self) -> dict[Member, Server]:
        """The lives of those who count."""
        return {member: Server(member.node_id, report.start) for member, report in self._reports.items()}

    @property
    def boots(self) -> dict[Server, Boot]:
        """The runs of the machines that those who count, and all their clients, are on."""
        return {
            Server(member.node_id, report.start): report.boot
            for member, report in self._reports.items()
            if report.boot is not None
        }

    @property
    def records(self) -> dict[Member, Record]:
        """What their disks know."""
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
        """Whether these decide, where those are the voters."""
        return voters.is_quorum(self._nodes(members))

    def can_begin(self, members: Collection[Member]) -> bool:
        """Whether a state is born once these have stored it: all where there was never any, as all are there.

        One that does not know of it could be configured otherwise when it starts again, and begin with others.
        """
        is_first = (self._known is None or self._is_prepared) and self.voters.is_everyone(self.present)
        stored = self._nodes(members)
        return self.voters.is_everyone(stored) if is_first else self.voters.is_quorum(stored)

    def _nodes(self, members: Collection[Member]) -> set[int]:
        """The nodes all of whose servers are among these, and count: then it is there, or knows, whoever is left."""
        chosen = self._reports.keys() & members
        return {member.node_id for member in chosen} - {
            member.node_id for member in self._members if member not in chosen and member in self._lock_servers
        }

    @cached_property
    def _lock_servers(self) -> set[Member]:
        """Those of whom anybody knows that they are lock servers: other members of the group do not matter."""
        return self.known | self._all.keys() | self._unreadable.keys()

    @property
    def known(self) -> set[Member]:
        """Those of whom those who have reported know that they are lock servers."""
        return {Member(*numbers) for report in self._all.values() for numbers in report.known}

    # ---- who differs

    def differences(self, voters: Voters | None = None) -> tuple[str, ...]:
        """Who differs from whom in what, as who asks is to name it.

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
            named.append(f"{nodes(tuple(sorted(who)))} {are} configured with other lock servers: {what}")
        if unsafe and any(report.safe for report in self._reports.values()):
            rings = f"the ring of {nodes(tuple(sorted(unsafe)))}"
            named.append(f"{rings} does not tell what is safe: all go by acknowledgements (ruling E4)")
        return tuple(sorted(named))

    @property
    def uncounted(self) -> dict[Member, str]:
        """Who does not count together with who asks, and why."""
        named = {member: uncounted(name(member, self._members), why) for member, why in self._unreadable.items()}
        for member, report in self._all.items():
            if why := self.refused.get(member, ""):
                named[member] = uncounted(process(member), why)
            elif member not in self._reports and self._member in self._reports:
                named[member] = uncounted(name(member, self._members), self._reason(report, self._all[self._member]))
        return named

    @staticmethod
    def _reason(report: Report, mine: Report) -> str:
        """Why one that is there does not count here."""
        if report.drift != mine.drift:
            drifts = f"{report.drift:g}, and this one's of {mine.drift:g}"
            return f"its leases allow for a drift of clocks of {drifts}"
        return f"it is of {_cluster(report)}, and this is of {_cluster(mine)}"

    def _configured_otherwise(self, theirs: Electorate, mine: Electorate, voters: Voters) -> str:
        """With which other lock servers a server is configured; empty: with those that count."""
        if self._known is None:
            return f"{theirs}; here {mine}" if theirs != mine else ""
        if theirs in voters.electorates:
            return ""
        return f"{theirs}; that changes nothing, those in force are {voters.electorate}; `cluck voters` changes them"

    # ---- what follows

    def verdict(self) -> Verdict:
        """Decide what the view is, as all do alike."""
        if self._member in self.excluded:
            return Minority("the others went on without this server, which did not answer")
        if self._member in self.refused:
            return Minority(f"the others go on without this server: {self.refused[self._member]}")
        voters = self.voters
        apart = [member.node_id for member, report in self._voting.items() if not report.quorate]
        if apart:
            return Minority(f"the ring is not quorate, as node {', '.join(map(str, sorted(apart)))} is told")
        if self._known is None and self._is_mixed():
            named = sorted({*self.differences(voters), *self.uncounted.values()})
            return Minority(f"a first start needs lock servers that agree: {'; '.join(named)}")
        if not voters.is_quorum(self.present):
            return Minority(f"too few lock servers are here: nothing from node {self._missing}")
        if not self.leaders:
            return Minority("no lock server here may lead: each has its priority off")
        without = [process(member) for member in sorted(self.refused) if member.node_id in voters.voting]
        if voters.is_quorum(self._with_state) or (not without and self._has_the_last()):
            return self._base()
        if without:
            return Minority(f"too few have a state without {', '.join(without)}, whose state cannot be had: end it")
        return self._birth()

    def _is_mixed(self) -> bool:
        """Whether not all who are in the group could begin together."""
        configured = {report.configured for report in self._all.values()}
        return len(configured) > 1 or len(self._reports) < len(self._all) or bool(self._unreadable)

    @property
    def _missing(self) -> str:
        return ", ".join(map(str, self.voters.missing(self.present)))

    @property
    def _lineages(self) -> dict[Member, Lineage]:
        """How far those who vote have come: all that anybody was told is with a majority of them."""
        return {member: report.lineage for member, report in self._voting.items() if report.lineage is not None}

    @cached_property
    def _voting(self) -> dict[Member, Report]:
        """Those of nodes that vote: what others say of state and quorum changes nothing."""
        voting = self.voters.voting
        return {member: report for member, report in self._reports.items() if member.node_id in voting}

    def _has_the_last(self) -> bool:
        """Whether there can be no state later than one that is here (ruling E2c).

        All who had it, too, have ended in the sight of who has it; and no disk of a majority knows of another birth.
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
        """Of a state that was born in this epoch, at the beginning of the view that the round makes on this ring."""
        views = [lineage.view for lineage in self._lineages.values() if lineage.ring_seq == ring_seq]
        return Lineage(epoch, ring_seq, max(views, default=0) + 1, 0)

    def _birth(self) -> Birth | Minority:
        """Nobody has what was told before: begin anew, if all or enough know that, and when nobody relies on it.

        What disks of the former format know had no servers without a vote: there all who vote can tell.
        """
        reports = self._reports.values()
        is_everyone = self.voters.is_everyone(self.present)
        records = self.records.values()
        longest = max((record.longest for record in records), default=0.0)
        if any(record.epoch >= LARGEST_EPOCH for record in records):
            return Minority(f"the epochs of fencing tokens have come to their end, {LARGEST_EPOCH}")
        if any(report.force_birth for report in self._voting.values()) or (
            is_everyone
            and not self._was_born
            and not any(report.survivors or report.lineage is not None for report in reports)
        ):
            longest = 0.0
        elif not is_everyone and (self._is_prepared or not self.is_quorum(self.records, self.voters)):
            is_first = self._is_prepared or not self._nodes(self.records)
            what = "a first start needs all lock servers" if is_first else "no state is left"
            return Minority(f"{what}: nothing from node {self._missing}")
        return Birth(longest, sorted(self._reports).index(self._member))

    def record_of_birth(self, usual: float) -> Record:
        """An epoch above all that anybody here knows of; `usual`: the longest lease where no disk knows of any."""
        known = self.records.values()
        epoch = 1 + max((record.epoch for record in known), default=0)
        return Record(epoch, max((record.longest for record in known), default=usual), self.voters)


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


def _cluster(report: Report) -> str:
    return "no cluster yet" if report.cluster is None else f"cluster {report.cluster:x}"
