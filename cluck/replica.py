"""One lock server's copy of the state, and when what it says may be told: rulings E1 to E6.

A machine on the stream of the lock servers' group. Whatever changes who is there begins a round: the lowest member
calls it, each reports what it has, and from then on all decide alike, by what was ordered alone. The largest lineage is
the base of all; who has something else gets it as a snapshot. Where the nodes that have a state are a majority, the
view is then primary and commands are applied as they come; what comes before is void, and who sent it says it again. A
server that does not report is left out by order: it counts for nothing in that view.

Applying is not telling. A command is final where it was delivered as SAFE, or where the ring has no SAFE, when servers
on a majority of nodes have acknowledged it before the next change. Number 0 is the view's beginning itself: what the
base has already done and nobody was told is told when that is final.

A state is born where all configured nodes are there, or a majority whose disks know their epoch; not before the longest
lease on record is over, unless nobody who was granted one can be alive.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from cluck.commands import Command, Outcome, Server
from cluck.electorate import Electorate
from cluck.state import State
from cluck.wire import (
    Ack,
    Commands,
    Exclude,
    Lineage,
    Malformed,
    Propose,
    Record,
    Report,
    Round,
    RoundId,
    Said,
    Snapshot,
    Stored,
    cut,
    decode,
    digest,
    encode,
    freeze,
    thaw,
)
from cpg.events import Confchg, Event, Member, Message, Quorum, Reason, TotemConfchg
from totem.configuration import Level

PATIENCE: Final = 3.0
"""Seconds that a round waits for a server that does not report."""
MOST_LEADERS: Final = 3

_BY_RING: Final = {Reason.NODEDOWN, Reason.NODEUP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an administrator says of one lock server."""

    electorate: Electorate
    safe: bool = True
    """Its ring tells when a message is safe."""
    priority: int = 14
    """As a leader of the service, 1 to 14, the lowest first; 0: not to be one."""
    in_process: bool = True
    """Its clients live and end with it."""
    survivors: bool = False
    """Clients of an earlier life of this server may be alive."""
    usual: float = 10.0
    """Seconds of a lease and its grace that the disks know of from the beginning."""
    force_birth: bool = False
    """Begin anew with a majority that has no state, without waiting: an operator's word that nobody holds anything."""


class Phase(enum.StrEnum):
    """How far a view has come."""

    ROUND = "round"
    """Servers are still to report."""
    LOADING = "loading"
    """Some get the base's state."""
    BIRTH = "birth"
    """There is no state to go on with: a new one is waited for."""
    MINORITY = "minority"
    """Too few are here."""
    PRIMARY = "primary"


class Listener(Protocol):
    """What a replica tells, in order."""

    def on_applied(self, number: int, command: Command, server: Server, outcomes: list[Outcome]) -> None:
        """A command was applied, and what came of it; not final yet."""

    def on_final(self, number: int) -> None:
        """Everything up to this number may be told. Number 0 is first in each primary view."""

    def on_primary(self) -> None:
        """A primary view has begun: `state` may be another one, and numbers start anew."""

    def on_delivered(self, serial: int) -> None:
        """A message with own commands is in the order of this view."""

    def on_suspended(self) -> None:
        """A change has begun: what was not final may be lost."""

    def on_phase(self) -> None:
        """The view has come to another phase."""

    def on_server_ended(self, server: Server) -> None:
        """A server whose clients lived in its process has ended, and its node has not."""


class Replica:
    """One life of one lock server in the group."""

    def __init__(
        self, member: Member, start: int, settings: Settings, record: Record | None, listener: Listener
    ) -> None:
        """`start` is drawn at random; `record`: what the disk says."""
        self.member = member
        self.server = Server(member.node_id, start)
        self.settings = settings
        self.state: State | None = None
        self.phase = Phase.ROUND
        self.why = "the group is being joined"
        """Why the view is not primary."""
        self.servers: dict[Member, Server] = {}
        """Who has reported in this view."""
        self.leaders: list[Member] = []
        """Of the service in this view: the first proposes, the others stand by."""
        self.record_to_store: Record | None = None
        """What is to be made durable; then `stored` is to be called."""
        self.deadline = math.inf
        """When `advance` wants to be called."""
        self.malformed = 0
        self.failure: str | None = None
        """Why this server cannot go on."""
        self.number = 0
        """Messages with commands that were applied in this view."""
        self.was_there = False
        """In a primary view: all that its state has come to was applied here in its time."""
        self._listener = listener
        self._record = record
        self._outbox: list[bytes] = []
        self._rounds = 0
        self._serial = 0
        self._members: tuple[Member, ...] = ()
        self._in_process: dict[Member, Server] = {}
        """The members whose clients live and end with them."""
        self._ring_seq: int | None = None
        self._quorate = True
        self._round_is_due = False
        """Somebody was told to call a round since the last change."""
        self._stated: bool | None = None
        """What was said of quorum in this round."""
        # of the view
        self._round: RoundId | None = None
        self._since = 0.0
        """When its round was called, as it was delivered here."""
        self._reports: dict[Member, Report] = {}
        self._excluded: set[Member] = set()
        self._parts: list[Snapshot] = []
        self._lineage: Lineage | None = None
        self._safe = True
        self._acks: dict[Member, int] = {}
        self._ack_under_way = False
        self._final = -1
        self._stored: dict[Member, Record] = {}
        self._proposed: Record | None = None

    # ---- in

    def event(self, event: Event, now: float) -> None:
        """Take the next event of the group's stream."""
        if type(event) is Message:
            self._on_message(event, now)
        elif type(event) is Confchg:
            self._on_confchg(event, now)
        elif type(event) is TotemConfchg:
            is_known = self._ring_seq is None and self._round_is_due
            self._ring_seq = event.ring_id.seq
            if not is_known:  # at the own join the round was begun with the `Confchg`
                self._change(now)
        elif type(event) is Quorum:
            self._quorate = event.quorate
            if self._stated not in (None, event.quorate):
                self._call_round()

    def submit(self, commands: list[Command]) -> int:
        """Have commands ordered, as one message; its serial number."""
        self._serial += 1
        self._say(Commands(self.server.start, self._serial, commands))
        return self._serial

    def lengthen(self, longest: float) -> None:
        """Have a majority's disks know of a lease that is longer than `state.longest`; that grows when they do."""
        if self.state is not None and self.is_primary:
            self._propose(Record(self.state.tokens.epoch, longest))

    def begin_epoch(self) -> None:
        """Have tokens of a later epoch: this one's run short."""
        if self.state is not None and self.is_primary and self._proposed is None:
            self._propose(Record(self._merged(Record(self.state.tokens.epoch, 0.0)).epoch + 1, self.state.longest))

    def stored(self, record: Record) -> None:
        """`record_to_store` is durable."""
        self._record = record
        if self.record_to_store == record:
            self.record_to_store = None
        self._say(Stored(record))

    def take(self) -> list[bytes]:
        """Hand over what is to be multicast, in order."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def advance(self, now: float) -> None:
        """Time has passed."""
        if now < self.deadline:
            return
        self.deadline = math.inf
        if self.phase is Phase.ROUND:
            self._hurry()
            self.deadline = now + PATIENCE
        elif self.phase is Phase.LOADING:
            self._call_round()  # who has the base's state does not say it, and will not report either
            self.deadline = now + PATIENCE
        elif self.phase is Phase.BIRTH:
            self._propose_birth()

    def _hurry(self) -> None:
        """Go on without who does not call the round, or does not report."""
        if self._round is None:
            self._call_round()
        elif self.member in self._reports:
            silent = [(*member,) for member in self._members if not self._has_reported(member)]
            self._say(Exclude(self._round, silent))

    @property
    def is_primary(self) -> bool:
        """Whether commands are applied as they come."""
        return self.phase is Phase.PRIMARY

    @property
    def view_id(self) -> RoundId | None:
        """The view's name: the round that made it."""
        return self._round

    @property
    def is_busy(self) -> bool:
        """Whether it waits for a disk, or for its own acknowledgement."""
        return self.record_to_store is not None or self._ack_under_way

    @property
    def is_final(self) -> bool:
        """Whether the present view is known to last: what its base has done may be told."""
        return self._final >= 0

    # ---- changes

    def _on_confchg(self, confchg: Confchg, now: float) -> None:
        self._members = confchg.members
        for member, reason in confchg.left.items():
            server = self._in_process.pop(member, None)
            if server is not None and reason in (Reason.LEAVE, Reason.PROCDOWN):
                self._listener.on_server_ended(server)
        if not _BY_RING & {*confchg.left.values(), *confchg.joined.values()}:
            self._change(now)
        else:
            self._suspend("a new ring is being told")  # and its `TotemConfchg` follows

    def _change(self, now: float) -> None:
        """Who is there has changed: begin a round."""
        self._suspend("servers are still to report")
        self._round_is_due = True
        if self._members and self._members[0] == self.member:
            self._call_round()
        self.deadline = now + PATIENCE

    def _suspend(self, why: str) -> None:
        if self.phase is Phase.PRIMARY:
            self._listener.on_suspended()
        self._round = None
        self._round_is_due = False
        self._stated = None
        self._reports = {}
        self._excluded = set()
        self._forget_view()
        self._enter(Phase.ROUND, why)
        self.deadline = math.inf

    def _forget_view(self) -> None:
        self._parts = []
        self._acks = {}
        self._ack_under_way = False
        self._final = -1
        self._stored = {}
        self._proposed = None

    def _call_round(self) -> None:
        self._rounds += 1
        self._say(Round(RoundId(self.server.start, self._rounds)))

    def _enter(self, phase: Phase, why: str = "") -> None:
        self.phase = phase
        self.why = why
        self._listener.on_phase()

    # ---- messages

    def _on_message(self, message: Message, now: float) -> None:
        try:
            said = decode(message.data)
        except Malformed:
            self.malformed += 1
            return
        sender = message.sender
        if type(said) is Commands:
            self._on_commands(sender, said)
        elif type(said) is Ack:
            self._on_ack(sender, said)
        else:
            self._on_rare(sender, said, now)
        if message.level is Level.SAFE and self._safe and self.phase is Phase.PRIMARY:
            self._finalize(self.number)

    def _on_rare(self, sender: Member, said: Said, now: float) -> None:
        match said:
            case Round():
                self._on_round(said, now)
            case Report():
                self._on_report(sender, said, now)
            case Exclude():
                self._on_exclude(said, now)
            case Snapshot():
                self._on_snapshot(said, now)
            case Propose():
                self._on_propose(said)
            case Stored():
                self._on_stored(sender, said)

    # ---- rounds

    def _on_round(self, said: Round, now: float) -> None:
        """A round begins, whatever there was before."""
        self._suspend("servers are still to report")
        self._round = said.id
        self._since = now
        self._stated = self._quorate
        self.deadline = now + PATIENCE
        frozen = freeze(self.state.image()) if self.state is not None else b""
        self._say(
            Report(
                round=said.id,
                start=self.server.start,
                lineage=self._lineage,
                digest=digest(frozen),
                record=self._record,
                survivors=self.settings.survivors,
                safe=self.settings.safe,
                priority=self.settings.priority,
                in_process=self.settings.in_process,
                quorate=self._quorate,
                force_birth=self.settings.force_birth,
            )
        )

    def _on_report(self, sender: Member, said: Report, now: float) -> None:
        if said.round != self._round or self.phase is not Phase.ROUND or sender in self._excluded:
            return
        self._reports[sender] = said
        if said.in_process:
            self._in_process[sender] = Server(sender.node_id, said.start)
        self._conclude_if_complete(now)

    def _on_exclude(self, said: Exclude, now: float) -> None:
        if said.round != self._round or self.phase is not Phase.ROUND:
            return
        silent = {Member(*numbers) for numbers in said.members} - set(self._reports)
        self._excluded |= silent
        if self.member in silent:
            self._call_round()  # this one has come to again: it wants to count
        self._conclude_if_complete(now)

    def _has_reported(self, member: Member) -> bool:
        return member in self._reports or member in self._excluded

    def _conclude_if_complete(self, now: float) -> None:
        """When the last has reported all decide alike what this view is."""
        if not self._reports or not all(map(self._has_reported, self._members)):
            return
        reports = self._reports
        self.servers = {member: Server(member.node_id, report.start) for member, report in reports.items()}
        self.leaders = self._rank(reports)
        self._safe = all(report.safe for report in reports.values())
        electorate = self.settings.electorate
        present = self._nodes(reports)
        with_state = {member.node_id for member, report in reports.items() if report.lineage is not None}
        if self.member in self._excluded:
            self._enter(Phase.MINORITY, "the others went on without this server, which did not answer")
        elif not all(report.quorate for report in reports.values()):
            self._enter(Phase.MINORITY, "the ring is not quorate")
        elif not electorate.is_quorum(present):
            missing = ", ".join(map(str, electorate.missing(present)))
            self._enter(Phase.MINORITY, f"too few lock servers are here: nothing from node {missing}")
        elif not self.leaders:
            self._enter(Phase.MINORITY, "no lock server here may lead: each has its priority off")
        elif electorate.is_quorum(with_state):
            self._begin_with_base(now)
        else:
            self._wait_for_birth(present, now)

    @staticmethod
    def _rank(reports: dict[Member, Report]) -> list[Member]:
        """Who leads the service: by priority, then by what each drew when it started."""
        able = [(report.priority, report.start, member) for member, report in reports.items() if report.priority]
        return [member for _, _, member in sorted(able)[:MOST_LEADERS]]

    def _nodes(self, members: Collection[Member] | Iterator[Member]) -> set[int]:
        """The nodes all of whose servers are among these: such a node is there, or knows, whichever of them is left."""
        chosen = set(members)
        return {member.node_id for member in chosen} - {
            member.node_id for member in self._members if member not in chosen
        }

    def _begin_with_base(self, now: float) -> None:
        lineages = {member: report.lineage for member, report in self._reports.items() if report.lineage is not None}
        best = max(lineages.values())
        owners = [member for member, lineage in lineages.items() if lineage == best]
        owner = min(owners, key=lambda member: (member not in self.leaders[:1], member))
        wanted = self._reports[owner].digest
        mine = self._reports[self.member]
        self.was_there = mine.digest == wanted and mine.lineage is not None and mine.lineage.is_of_view(best)
        if all(report.lineage and report.digest == wanted for report in self._reports.values()):
            self._become_primary(best)
            return
        self._enter(Phase.LOADING, f"the state of node {owner.node_id} is on its way to those who have another")
        self.deadline = now + PATIENCE
        if owner == self.member:
            assert self.state is not None
            assert self._round is not None
            for part in cut(freeze(self.state.image()), self._round):
                self._say(part)

    def _on_snapshot(self, said: Snapshot, now: float) -> None:
        if said.round != self._round or self.phase is not Phase.LOADING:
            return
        if said.part != len(self._parts):
            self.malformed += 1
            return
        self._parts.append(said)
        self.deadline = now + PATIENCE
        if len(self._parts) < said.parts:
            return
        try:
            image = thaw(self._parts)
        except Malformed as malformed:
            self.failure = f"the state of the other lock servers cannot be read: {malformed}"
            return
        self.state = State.of(image)
        lineages = [report.lineage for report in self._reports.values() if report.lineage is not None]
        self._become_primary(max(lineages))

    # ---- the primary view

    def _become_primary(self, base: Lineage) -> None:
        """The state is the base's, and this the place in the order from which on commands count."""
        state, ring_seq = self.state, self._ring_seq
        assert state is not None
        assert ring_seq is not None
        views = [
            report.lineage.view
            for report in self._reports.values()
            if report.lineage is not None and report.lineage.ring_seq == ring_seq
        ]
        self._forget_view()
        self._lineage = Lineage(base.epoch, ring_seq, max(views, default=0) + 1, 0)
        self.number = 0
        self.deadline = math.inf
        state.keep(set(self.servers.values()))
        self._remember_record()
        self._enter(Phase.PRIMARY)
        self._listener.on_primary()
        self._acknowledge()

    def _remember_record(self) -> None:
        """Have the disk know at least what the state knows, for a later birth."""
        assert self.state is not None
        record = self._merged(Record(self.state.tokens.epoch, self.state.longest))
        if record != self._record:
            self.record_to_store = record

    def _merged(self, record: Record) -> Record:
        known = [known for known in (self._record, self.record_to_store) if known is not None]
        return Record(
            max([record.epoch, *(one.epoch for one in known)]), max([record.longest, *(one.longest for one in known)])
        )

    def _on_commands(self, sender: Member, said: Commands) -> None:
        if self.phase is Phase.PRIMARY:
            self._apply(sender, said)
            self._acknowledge()

    def _apply(self, sender: Member, said: Commands) -> None:
        """Apply what one message says. Hot: once for each message, and for each command in it."""
        state = self.state
        assert state is not None
        self.number = number = self.number + 1
        server = Server(sender.node_id, said.start)
        if server == self.server:
            self._listener.on_delivered(said.serial)
        on_applied = self._listener.on_applied
        for command in said.commands:
            on_applied(number, command, server, state.apply(command, server))
        if self._safe:
            self._mark(number)

    def _mark(self, number: int) -> None:
        assert self._lineage is not None
        self._lineage = self._lineage._replace(mark=number)

    # ---- what may be told

    def _finalize(self, number: int) -> None:
        if number > self._final:
            self._final = number
            self._listener.on_final(number)

    def _acknowledge(self) -> None:
        """Where the ring has no SAFE: say how far this server is, once what it said last is back."""
        if not self._safe and not self._ack_under_way and self.phase is Phase.PRIMARY:
            assert self._round is not None
            if self._acks.get(self.member, -1) < self.number:
                self._ack_under_way = True
                self._say(Ack(self._round, self.number))

    def _on_ack(self, sender: Member, said: Ack) -> None:
        """A server is so far. Only what it says in this very view counts (ruling E4)."""
        if said.round != self._round or self.phase is not Phase.PRIMARY or self._safe or sender not in self.servers:
            return
        self._acks[sender] = said.number
        if sender == self.member:
            self._ack_under_way = False
            self._mark(said.number)
            self._acknowledge()
        mine = self._acks.get(self.member, -1)
        for number in sorted({min(mine, acked) for acked in self._acks.values()}, reverse=True):
            if number <= self._final:
                break
            nodes = self._nodes(member for member, acked in self._acks.items() if acked >= number)
            if self.settings.electorate.is_quorum(nodes):
                self._finalize(number)
                break

    # ---- records, and birth

    def _wait_for_birth(self, present: set[int], now: float) -> None:
        """Nobody has what was told before: begin anew, if all or enough know that, and when nobody relies on it."""
        reports = self._reports.values()
        is_everyone = self.settings.electorate.is_everyone(present)
        recorded = self._nodes(member for member, report in self._reports.items() if report.record is not None)
        longest = max((report.record.longest for report in reports if report.record is not None), default=0.0)
        if any(report.force_birth for report in reports) or (
            is_everyone and not any(report.survivors or report.lineage is not None for report in reports)
        ):
            longest = 0.0
        elif not is_everyone and not self.settings.electorate.is_quorum(recorded):
            missing = ", ".join(map(str, self.settings.electorate.missing(present)))
            what = "no state is left" if recorded else "a first start needs all lock servers"
            self._enter(Phase.MINORITY, f"{what}: nothing from node {missing}")
            return
        left = f"leases of up to {longest:g} s may be left of an earlier life"
        self._enter(Phase.BIRTH, left if longest else "a first state is being stored")
        rank = sorted(self._reports).index(self.member)
        self.deadline = now + longest + rank * PATIENCE
        if self.deadline == now:
            self.advance(now)

    def _propose_birth(self) -> None:
        """Begin anew, with an epoch above all that anybody here knows of."""
        known = [report.record for report in self._reports.values() if report.record is not None]
        epoch = 1 + max((record.epoch for record in known), default=0)
        longest = max((record.longest for record in known), default=self.settings.usual)
        self._say(Propose(Record(epoch, longest), self._round))

    def _propose(self, record: Record) -> None:
        if self._proposed is None or self._proposed < record:
            self._proposed = record
            self._say(Propose(record))

    def _on_propose(self, said: Propose) -> None:
        is_birth = self.phase is Phase.BIRTH and said.birth is not None and said.birth == self._round
        if is_birth:
            self._proposed = said.record
        elif not (self.phase is Phase.PRIMARY and said.birth is None):
            return
        self.record_to_store = self._merged(said.record)

    def _on_stored(self, sender: Member, said: Stored) -> None:
        if sender not in self.servers or self.phase not in (Phase.BIRTH, Phase.PRIMARY):
            return
        former = self._stored.get(sender, Record(0, 0.0))
        self._stored[sender] = Record(max(former.epoch, said.record.epoch), max(former.longest, said.record.longest))
        if self.phase is Phase.PRIMARY:
            self._take_records()
        elif self._proposed is not None and self._is_known(self._proposed):
            self._give_birth(self._proposed)

    def _is_known(self, record: Record) -> bool:
        """Whether a majority's disks know of a record."""
        nodes = self._nodes(
            member
            for member, stored in self._stored.items()
            if stored.epoch >= record.epoch and stored.longest >= record.longest
        )
        return self.settings.electorate.is_quorum(nodes)

    def _take_records(self) -> None:
        """Go on with what a majority's disks know of by now."""
        state = self.state
        assert state is not None
        for stored in sorted(self._stored.values(), reverse=True):
            if self._is_known(stored):
                state.tokens.begin(stored.epoch)
                state.longest = max(state.longest, stored.longest)
                self._listener.on_phase()
                return

    def _give_birth(self, record: Record) -> None:
        self.was_there = False
        state = self.state = State(record.epoch)
        state.longest = record.longest
        self._become_primary(Lineage(record.epoch, 0, 0, 0))

    # ---- out

    def _say(self, said: Said) -> None:
        self._outbox.append(encode(said))
