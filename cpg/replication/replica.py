"""One server's copy of the state, from view to view: rulings E1 to E6.

A machine on the stream of the servers' group. Any change of who is there begins a round: the lowest member calls it,
and each server reports what it has. From then on all decide alike, by what was ordered alone
(`cpg.replication.view_decision`). The largest lineage is the base of all; servers with another state get the base's as
a snapshot. Where the nodes that have a state are a majority, the view is then primary, and commands are applied as they
come. What comes before is void, and its sender submits it again. A server that does not report is left out by order: it
counts for nothing in that view.

Applied is not final: an outcome may be reported when it is final (`cpg.replication.finality`). Number 0 is the view's
beginning itself: what the base has done already, and nobody was told, may be reported when that is final.

A state is born where all configured nodes are there, or a majority whose disks know their epoch
(`cpg.replication.durable_records`). That waits until the longest promise on record is over, unless nobody who was
promised anything can be alive.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol

from cpg.events import Confchg, Event, Member, Message, Quorum, Reason, TotemConfchg
from cpg.replication.application import State
from cpg.replication.durable_records import DurableRecords
from cpg.replication.electorate import ChangeVoters, Electorate, Voters
from cpg.replication.finality import Finality
from cpg.replication.identities import LARGEST_EPOCH, Boot, ServerId
from cpg.replication.round_limits import FORGIVENESS, MOST, RoundLimits
from cpg.replication.round_reports import RoundReports
from cpg.replication.view_decision import Base, Minority, StateBirth, ViewDecision, name, process, uncounted
from cpg.replication.wire import (
    Ack,
    Codec,
    Commands,
    DurableRecord,
    Exclude,
    Forgive,
    Lineage,
    MalformedMessage,
    NoServer,
    OtherVersion,
    Propose,
    Report,
    Round,
    RoundId,
    Snapshot,
    Stored,
    WireMessage,
    cut,
    digest,
)
from totem.configuration import Level

PATIENCE: Final = 3.0
"""Seconds that a round waits for a server that does not report."""
HASTE: Final = 0.5
"""Seconds that a round waits for a member that has never reported: it may be no server at all."""
LONGEST_LOADING: Final = 60.0
"""Seconds in which the base's state must have arrived."""
NOTICE_INTERVAL: Final = 1.0
"""Seconds between two notices to servers of another version."""
EPOCH_STEP: Final = 256
"""A proposed epoch is at most this much larger than what is known: by one, unless some were lost on the way."""

_BY_RING: Final = {Reason.NODEDOWN, Reason.NODEUP}
_ENDED: Final = {Reason.LEAVE, Reason.PROCDOWN}
"""Why a member goes whose process has left the group while its node stays in the ring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSettings:
    """What an administrator says of one server."""

    electorate: Electorate
    """Who is to decide in a cluster that is born now."""
    safe: bool = True
    """Its ring reports when a message is safe."""
    priority: int = 14
    """As a leader of the service, 1 to 14, the lowest first; 0: not to be one."""
    in_process: bool = True
    """Its clients live and end with it."""
    survivors: bool = False
    """Clients of an earlier life of this server may be alive."""
    usual_promise: float | None = None
    """Seconds of a promise that the disks know of from the beginning; None: what the application says."""
    boot: Boot | None = None
    """Of the machine that it is on, and all its clients; None where that is not known, or not so."""
    force_birth: bool = False
    """Begin anew with a majority that has no state, without waiting: an operator's word that nobody relies on any."""


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
    """What a replica reports, in order."""

    def on_applied(self, number: int, command: Any, server: ServerId, outcomes: list[Any]) -> None:
        """A command was applied, with these outcomes; they are not final yet."""

    def on_final(self, number: int) -> None:
        """Everything up to this number is final. Number 0 is first in each primary view."""

    def on_primary(self) -> None:
        """A primary view has begun: `state` may be another one, and numbers start anew."""

    def on_delivered(self, serial: int) -> None:
        """A message with own commands is in the order of this view, and is applied next."""

    def on_suspended(self) -> None:
        """The primary view has ended: what was not final may be lost."""

    def on_phase(self) -> None:
        """The view has come to another phase, or a majority's disks know more."""

    def on_server_ended(self, server: ServerId) -> None:
        """A server whose clients lived in its process has ended, and its node has not."""


class Replica(Generic[State]):
    """One life of one server in the group."""

    def __init__(
        self,
        codec: Codec[State],
        member: Member,
        start: int,
        settings: ReplicaSettings,
        *,
        record: DurableRecord | None,
        listener: Listener,
    ) -> None:
        """`codec`: the application's; `start` is drawn at random; `record`: what the disk says."""
        self.member = member
        self.server = ServerId(member.node_id, start)
        self.settings = settings
        self.state: State | None = None
        self.phase = Phase.ROUND
        self.why = "the group is being joined"
        """Why the view is not primary."""
        self.servers: dict[Member, ServerId] = {}
        """The servers that count in this view."""
        self.leaders: list[Member] = []
        """Of the service in this view: the first proposes, the others stand by."""
        self.differences: tuple[str, ...] = ()
        """Who differs from whom in what must be equal, or in who is to decide."""
        self.malformed = 0
        """Messages that could not be decoded, or came out of turn."""
        self.disk_fault = ""
        """Why records cannot be stored here now, and where; empty: they can."""
        self.number = 0
        """Messages with commands that were applied in this view."""
        self.was_there = False
        """In a primary view: all that its state has come to was applied here in its time."""
        self._codec = codec
        self._application = codec.application
        self._listener = listener
        self._records = DurableRecords(record)
        self._outbox: list[bytes] = []
        self._serial = 0
        """Of the last message with commands."""
        self._ring_seq: int | None = None
        self._quorate = True
        self._members: tuple[Member, ...] = ()
        self._known: set[Member] = set()
        """The members that have ever reported, and so are servers."""
        self._in_process: dict[Member, ServerId] = {}
        """The members whose clients live and end with them."""
        self._foreign: set[Member] = set()
        """Members whose last message was of another version: they call no round that could be decoded."""
        self._silent_until = -math.inf
        """No notice to those of another version before."""
        self._of_reports: tuple[str, ...] = ()
        """Who differs from whom, of those that count."""
        self._uncounted: dict[Member, str] = {}
        """Members that do not count, and why."""
        self._due = math.inf
        """When the phase has something to do."""
        self._round: RoundReports | None = None
        """The present round, which has made the present view if it is over."""
        self._decision: ViewDecision | None = None
        """What the round has come to; None: it is not over."""
        self._rounds = 0
        """Rounds that this server has called."""
        self._round_is_due = False
        """Somebody was told to call a round since the last change."""
        self._round_began = -math.inf
        """When the present round was heard of."""
        self._is_call_void = False
        """The round that this server has called last counts for nothing."""
        self._limits = RoundLimits()
        self._forgive_at = math.inf
        """When to say that others may call rounds again."""
        self._stated: bool | None = None
        """What was said of quorum in this round."""
        self._owner: Member | None = None
        """Who has the base's state, for those that have another one."""
        self._parts: list[Snapshot] = []
        """Of that state, which is on its way here."""
        self._loading_until = math.inf
        self._is_last = False
        """Since the last primary view no server has gone but by ending in the sight of this one (ruling E2c)."""
        self._finality: Finality | None = None
        """Of this primary view, or of the last one: as far as it came, so far is the state. None: there is no state."""

    # ---- in

    def event(self, event: Event, now: float) -> None:
        """Take the next event of the group's stream."""
        if type(event) is Message:
            self._on_message(event, now)
        elif type(event) is Confchg:
            self._on_confchg(event, now)
        elif type(event) is TotemConfchg:
            is_known = self._ring_seq is None and self._round_is_due
            if self._ring_seq is not None:
                self._limits.on_ring()
            self._ring_seq = event.ring_id.seq
            if not is_known:  # at the own join the round was begun with the `Confchg`
                known = self._known | {self.member}
                among = known if len(known) > 1 else set(self._members)
                self._change(now, min(among - self._foreign, default=self.member))
        elif type(event) is Quorum:
            self._quorate = event.quorate
            if self._stated not in (None, event.quorate):
                self._call_round()

    def submit(self, commands: list[Any]) -> int:
        """Have commands ordered, as one message; return its serial number.

        They are void if the view is not primary when their message arrives: not applied, and not reported. Submit in
        `Listener.on_primary` what was not reported as final. It may have been applied before, so it may come again.
        """
        self._serial += 1
        self._send(Commands(self.server.start, self._serial, commands))
        return self._serial

    def promise(self, longest: float) -> None:
        """Have a majority's disks know of a promise that is longer than any before; the state's grows when they do."""
        if self.state is not None and self.is_primary:
            self._propose(self._record(self.state)._replace(longest_promise=longest))

    def begin_epoch(self) -> None:
        """Have the next epoch begin when a majority's disks know of it. One that a disk knows already will do."""
        if self.state is not None and self.is_primary:
            known = self._record(self.state)
            epoch = max(self._records.merged(known).epoch, known.epoch + 1)
            if epoch <= LARGEST_EPOCH:
                self._propose(known._replace(epoch=epoch))

    def unstored(self, what: str, record: DurableRecord) -> str:
        """Say that what a record knows must be on a majority's disks first, and on whose disks it is not."""
        knowing = self._records.covering(record)
        text = f"{what} must be on the disks of a majority of the {self._application.server}s first"
        if silent := self._nodes_beside(knowing):
            text += f", and is not stored at node {silent}"
        return f"{text}; here: {self.disk_fault}" if self.disk_fault else text

    def _nodes_beside(self, members: set[Member]) -> str:
        """Name the nodes of the other servers of this view."""
        return ", ".join(map(str, sorted({member.node_id for member in self.servers.keys() - members})))

    @property
    def record_to_store(self) -> DurableRecord | None:
        """Return what is to be made durable; then call `stored`."""
        return self._records.to_store

    def stored(self, record: DurableRecord) -> None:
        """Take note that `record_to_store` is durable."""
        self._records.on_stored(record)
        self._send(Stored(record))

    def take(self) -> list[bytes]:
        """Hand over what is to be multicast, in order."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def advance(self, now: float) -> None:
        """Do what is due by now."""
        if now >= self._forgive_at:
            self._forgive_at = math.inf
            if self._limits.are_many:
                self._send(Forgive())
                self._watch_limits(now)
        if now < self._due:
            return
        self._due = math.inf
        if self._is_open:
            late = self._round_began + PATIENCE
            self._due = late if now < late else now + PATIENCE
            self._hurry(now)
        elif self.phase is Phase.LOADING:
            self._hurry_owner()
            self._due = now + PATIENCE
        elif self.phase is Phase.BIRTH:
            self._propose_birth()
            self._due = now + PATIENCE

    def _hurry(self, now: float) -> None:
        """Go on without members that do not call the round, or do not report."""
        if self._round is None:
            self._call_round()
        elif self.member in self._round.reports:
            is_late = now >= self._round_began + PATIENCE
            known = self._round.known
            silent = [member for member in self._round.silent if is_late or (known and member not in known)]
            if silent:
                self._send(Exclude(self._round.id, [(*member,) for member in silent]))
            if is_late:
                self._show(self._round, self._round.decision(self.member, without=self._round.silent))

    def _show(self, of_round: RoundReports, decision: ViewDecision) -> None:
        """Show what the round comes to where nobody else reports, if those that have reported cannot decide."""
        verdict = decision.verdict()
        if isinstance(verdict, Minority) and verdict.why != self.why:
            self._take_over(of_round, decision)
            self._enter(Phase.MINORITY, verdict.why)

    def _hurry_owner(self) -> None:
        """Go on without the owner of the base's state, which does not hand it over."""
        assert self._round is not None
        assert self._owner is not None
        if self._owner != self.member:
            self.why = f"the state of {process(self._owner)} does not arrive: it hangs"
            self._send(Exclude(self._round.id, [(*self._owner,)]))

    @property
    def deadline(self) -> float:
        """Return when to call `advance`."""
        return min(self._due, self._forgive_at)

    @property
    def is_primary(self) -> bool:
        """Return whether commands are applied as they come."""
        return self.phase is Phase.PRIMARY

    @property
    def lineage(self) -> Lineage | None:
        """Return how far its state has come, as far as that counts; None: it has none."""
        return self._finality.lineage if self._finality is not None else None

    @property
    def voters(self) -> Voters | None:
        """Return who decides, as far as this server knows; None: it knows nothing but its configuration."""
        if self.state is not None:
            return self.state.voters
        return self._records.on_disk.voters if self._records.on_disk is not None else None

    @property
    def view_id(self) -> RoundId | None:
        """Return the view's name: the round that made it."""
        return self._round.id if self._round is not None else None

    @property
    def is_busy(self) -> bool:
        """Return whether, in a primary view, it waits for a disk, or for its own acknowledgement."""
        is_ack_under_way = self._finality is not None and self._finality.is_ack_under_way
        return self.record_to_store is not None or is_ack_under_way

    # ---- changes

    def _on_confchg(self, confchg: Confchg, now: float) -> None:
        self._members = confchg.members
        self._foreign &= set(confchg.members)
        has_lost = not self._known.isdisjoint(confchg.left)
        self._known.difference_update(confchg.left)
        newcomers = [member for member, reason in confchg.joined.items() if reason is Reason.JOIN]
        self._limits.on_change(confchg.left, newcomers)
        for member in self._uncounted.keys() & confchg.left:
            del self._uncounted[member]
        self._name_differences()
        for member, reason in confchg.left.items():
            if reason not in _ENDED:
                self._is_last = False
            server = self._in_process.pop(member, None)
            if server is not None and reason in _ENDED:
                self._listener.on_server_ended(server)
        if _BY_RING & {*confchg.left.values(), *confchg.joined.values()}:
            self._suspend("a new ring is being formed")  # and its `TotemConfchg` follows
        elif self.member in confchg.joined:
            self._change(now, self.member)
        elif has_lost:
            self._change(now, min(self._known | {self.member}))
        # any other member that has come is no server before it says so, and then it calls a round itself

    def _change(self, now: float, caller: Member) -> None:
        """Begin a round, as other servers are there than before."""
        self._suspend("servers have not reported yet")
        self._round_is_due = True
        if self.member == caller:
            self._call_round()
        self._due = now + PATIENCE

    def _suspend(self, why: str) -> None:
        if self.phase is Phase.PRIMARY:
            self._listener.on_suspended()
        self._round = None
        self._decision = None
        self._round_is_due = False
        self._stated = None
        self._parts = []
        self._records.forget_view()
        self._enter(Phase.ROUND, why)
        self._due = math.inf

    def _call_round(self) -> None:
        self._rounds += 1
        self._send(Round(RoundId(self.server.start, self._rounds)))

    def _enter(self, phase: Phase, why: str = "") -> None:
        self.phase = phase
        self.why = why
        self._listener.on_phase()

    # ---- messages

    def _on_message(self, message: Message, now: float) -> None:
        try:
            said = self._codec.decode(message.data)
        except MalformedMessage as malformed:
            if malformed.rest is None:
                self._on_unreadable(message, malformed, now)
                return
            self.malformed += 1
            said = malformed.rest
        sender = message.sender
        if type(said) is Commands:
            self._on_commands(sender, said)
        elif type(said) is Ack:
            self._on_ack(sender, said)
        else:
            self._on_rare(sender, said, now)
        if message.level is Level.SAFE and self.phase is Phase.PRIMARY:
            assert self._finality is not None
            if self._finality.on_safe(self.number):
                self._listener.on_final(self.number)

    def _on_unreadable(self, message: Message, malformed: MalformedMessage, now: float) -> None:
        """Do not wait for a server whose message cannot be decoded, and name it; tell another version of this one.

        That notice is a message of one byte, which is not answered: otherwise two versions would never fall silent. A
        message that no server sends makes nobody a server.
        """
        if message.data == self._codec.notice:
            return
        self.malformed += 1
        sender = message.sender
        if isinstance(malformed, OtherVersion):
            self._foreign.add(sender)
            if len(message.data) > len(self._codec.notice) and now >= self._silent_until:
                self._silent_until = now + NOTICE_INTERVAL
                self._outbox.append(self._codec.notice)
            self._uncounted[sender] = uncounted(name(sender, self._members), str(malformed))
        elif isinstance(malformed, NoServer) and sender not in self._known:
            server = self._application.server
            self._uncounted[sender] = f"{process(sender)} is no {server}, and sends to the {server}s' group"
        self._name_differences()
        if self._round is not None and self._is_open:
            if isinstance(malformed, NoServer):
                self._round.pass_over(sender)
            else:
                self._round.refuse(sender, str(malformed))
            if self._round.is_complete:
                self._conclude(self._round, now)

    def _name_differences(self) -> None:
        """Name who differs from whom, who does not count, and who calls rounds without end."""
        restless = (f"{process(member)} calls one round after another" for member in self._limits.restless)
        named = {*self._of_reports, *self._uncounted.values(), *(f"{who}: {MOST} a minute count" for who in restless)}
        if named != set(self.differences):
            self.differences = tuple(sorted(named))

    def _on_rare(self, sender: Member, said: WireMessage, now: float) -> None:
        match said:
            case Round():
                self._on_round(sender, said, now)
            case Report():
                self._on_report(sender, said, now)
            case Exclude():
                self._on_exclude(sender, said, now)
            case Snapshot():
                self._on_snapshot(sender, said, now)
            case Propose():
                self._on_propose(sender, said)
            case Stored():
                self._on_stored(sender, said)
            case Forgive():
                self._on_forgive(sender)

    def _round_of(self, round_id: RoundId | None) -> RoundReports | None:
        """Return the round that a message speaks of; None: it is not the present one, and the message is void."""
        return self._round if self._round is not None and self._round.id == round_id else None

    # ---- rounds

    def _on_round(self, sender: Member, said: Round, now: float) -> None:
        """Begin a round, whatever there was before; but one member does not keep the others from deciding."""
        is_counted = self._limits.count(sender)
        self._watch_limits(now)
        if not is_counted:
            self._is_call_void |= sender == self.member
            return
        self._is_call_void = False
        self._suspend("servers have not reported yet")
        self._round = RoundReports(said.id, self._members, self._ring_seq or 0, self._application)
        self._stated = self._quorate
        self._round_began = now
        has_strangers = not self._known.issuperset(self._members)
        self._due = now + (HASTE if has_strangers else PATIENCE)
        self._send(self._report(said.id))

    def _report(self, round_id: RoundId) -> Report[Any]:
        """Return what this server has."""
        state, settings = self.state, self.settings
        return Report(
            round=round_id,
            start=self.server.start,
            lineage=self.lineage,
            digest=digest(self._codec.freeze(state) if state is not None else b""),
            record=self._records.on_disk,
            voters=state.voters if state is not None else None,
            configured=settings.electorate,
            terms=self._application.terms,
            survivors=settings.survivors,
            safe=settings.safe,
            priority=settings.priority,
            in_process=settings.in_process,
            quorate=self._quorate,
            force_birth=settings.force_birth,
            boot=settings.boot,
            known=[(*member,) for member in sorted(self._known)],
            is_last=self._is_last,
        )

    def _on_report(self, sender: Member, said: Report[Any], now: float) -> None:
        present = self._round_of(said.round)
        if present is None or not self._is_open or sender in present.excluded:
            return
        self._known.add(sender)
        present.add(sender, said)
        self._foreign.discard(sender)
        if said.in_process:
            self._in_process[sender] = ServerId(sender.node_id, said.start)
        if present.is_complete:
            self._conclude(present, now)

    def _on_exclude(self, sender: Member, said: Exclude, now: float) -> None:
        present = self._round_of(said.round)
        if present is None:
            return
        members = {Member(*numbers) for numbers in said.members}
        if self._is_open:
            excluded = present.exclude(sender, members)
            for member in excluded:
                self._limits.on_silent(member)
            self._watch_limits(now)
            if self.member in excluded:
                self._call_round()  # this one has come to again: it wants to count
            if present.is_complete:
                self._conclude(present, now)
        elif self.phase is Phase.LOADING and self._owner in members and sender in self.servers:
            self._on_owner_called_silent(sender, self._owner, present, now)

    def _on_owner_called_silent(self, sender: Member, owner: Member, present: RoundReports, now: float) -> None:
        """Go on without an owner that does not hand over the base's state, once enough servers say so."""
        assert self._decision is not None
        why = "it has the latest state, and does not hand it over"
        if present.exclude_owner(sender, owner, self._decision, why):
            self._conclude(present, now)
            if owner == self.member:
                self._call_round()

    @property
    def _is_open(self) -> bool:
        """Return whether the present round is not over yet."""
        return self._decision is None

    def _conclude(self, present: RoundReports, now: float) -> None:
        """Go on as all do, since nobody is waited for any more, or one does not count any more."""
        self._decision = decision = present.decision(self.member)
        self._parts = []
        self._take_over(present, decision)
        match decision.verdict():
            case Minority(why):
                self._enter(Phase.MINORITY, why)
            case Base() as base:
                self._begin_with(base, decision, now)
            case StateBirth() as birth:
                self._wait_for(birth, now)

    def _watch_limits(self, now: float) -> None:
        """Name who calls rounds without end; forgive others in time, by order, though each has a clock of its own."""
        self._name_differences()
        if self._limits.are_many:
            self._forgive_at = min(self._forgive_at, now + FORGIVENESS)

    def _on_forgive(self, sender: Member) -> None:
        """Count rounds of others again. If this one's last did not count, and is forgiven, it calls another one."""
        self._limits.forgive(sender, self._members)
        self._name_differences()
        if self._is_call_void and self._limits.may(self.member):
            self._is_call_void = False
            self._call_round()

    def _take_over(self, of_round: RoundReports, decision: ViewDecision) -> None:
        """Take from a round who is there."""
        self.servers = decision.servers
        self.leaders = decision.leaders
        self._of_reports = decision.differences()
        here = {member: why for member, why in self._uncounted.items() if member not in of_round.reports}
        self._uncounted = {**here, **decision.uncounted}
        self._name_differences()

    def _begin_with(self, base: Base, decision: ViewDecision, now: float) -> None:
        self.was_there = base.was_there
        self._owner = base.owner
        if base.is_everywhere:
            assert self.state is not None
            self._go_on_with(self.state, decision, now)
            return
        self._enter(
            Phase.LOADING, f"the state of node {base.owner.node_id} is being sent to servers that have another one"
        )
        self._due = now + PATIENCE
        self._loading_until = now + LONGEST_LOADING
        if base.owner == self.member:
            assert self.state is not None
            assert self._round is not None
            for part in cut(self._codec.freeze(self.state), self._round.id):
                self._send(part)

    def _on_snapshot(self, sender: Member, said: Snapshot, now: float) -> None:
        present, decision = self._round_of(said.round), self._decision
        if present is None or decision is None or self.phase is not Phase.LOADING or sender != self._owner:
            return
        if said.part != len(self._parts):
            self.malformed += 1
            return
        self._parts.append(said)
        if now < self._loading_until:
            self._due = now + PATIENCE
        if len(self._parts) < said.parts:
            return
        try:
            state = self._codec.thaw(self._parts, present.reports[sender].digest)
        except MalformedMessage as malformed:
            self._refuse_owner(f"its state cannot be read: {malformed}", now)
            return
        self._go_on_with(state, decision, now)

    def _go_on_with(self, state: State, decision: ViewDecision, now: float) -> None:
        """Begin the view with the base's state, if it is what was reported; until then all keep their own."""
        if why := decision.why_not(state):
            self._refuse_owner(why, now)
            return
        self.state = state
        self._become_primary(decision, decision.epoch)

    def _refuse_owner(self, why: str, now: float) -> None:
        """Go on without the state that was to be the base, and without its owner."""
        assert self._round is not None
        assert self._owner is not None
        self._round.without_state[self._owner] = why
        self._conclude(self._round, now)

    # ---- the primary view

    def _become_primary(self, decision: ViewDecision, epoch: int) -> None:
        """Begin to apply commands, with the base's state: they count from this place in the order on."""
        state, ring_seq = self.state, self._ring_seq
        assert state is not None
        assert ring_seq is not None
        self._parts = []
        self._records.proposed = None
        lineage = decision.lineage(epoch, ring_seq)
        state.voters = decision.voters.confirmed(lineage.primary)
        self._finality = Finality(lineage, self.member, is_safe=decision.is_safe, is_quorum=self._is_quorum)
        self.number = 0
        self._due = math.inf
        state.keep(set(self.servers.values()), decision.boots)
        for member, record in decision.records.items():
            self._records.hear(member, record)
        self._is_last = True
        self._enter(Phase.PRIMARY)
        self._heed_voters(state)
        self._listener.on_primary()
        self._acknowledge()

    def _is_quorum(self, members: Collection[Member]) -> bool:
        """Return whether these decide, in a primary view."""
        assert self._decision is not None
        assert self.state is not None
        return self._decision.is_quorum(members, self.state.voters)

    def _on_commands(self, sender: Member, said: Commands[Any]) -> None:
        if self.phase is Phase.PRIMARY:
            server = self.servers.get(sender)
            if server is not None and server.start == said.start:
                self._apply(sender, server, said)
                self._acknowledge()

    def _apply(self, sender: Member, server: ServerId, said: Commands[Any]) -> None:
        """Apply the commands of one message. Hot: once for each message, and for each command in it."""
        state = self.state
        assert state is not None
        self.number = number = self.number + 1
        if sender == self.member:
            self._listener.on_delivered(said.serial)
        on_applied, voters = self._listener.on_applied, state.voters
        for command in said.commands:
            if type(command) is ChangeVoters:
                self._change_voters(command, state)
                on_applied(number, command, server, [])
            else:
                on_applied(number, command, server, state.apply(command, server))
        assert self._finality is not None
        self._finality.on_applied(number)
        if state.voters is not voters:
            self._heed_voters(state)

    def _change_voters(self, command: ChangeVoters, state: State) -> None:
        """Begin to need a majority of the next voters as well, if one has the state here (ruling E9)."""
        assert self._decision is not None
        state.voters = state.voters.after(command, self._decision.present)

    def _acknowledge(self) -> None:
        """Say how far this server is, where that is how the others learn it."""
        if self._finality is not None and self._round is not None and self._finality.begin_ack(self.number):
            self._send(Ack(self._round.id, self.number))

    def _on_ack(self, sender: Member, said: Ack) -> None:
        """Note how far a server is. Only what it says in this very view counts (ruling E4)."""
        if self._round_of(said.round) is None or self.phase is not Phase.PRIMARY or sender not in self.servers:
            return
        assert self._finality is not None
        is_news = self._finality.on_ack(sender, said.number)
        self._acknowledge()
        if is_news:
            self._listener.on_final(self._finality.number)

    # ---- records, and birth

    def _propose(self, record: DurableRecord) -> None:
        if self._records.propose(record):
            self._send(Propose(record))

    def _on_propose(self, sender: Member, said: Propose) -> None:
        if sender not in self.servers or not self._is_sensible(said):
            return
        if said.birth is not None:
            self._records.proposed = said.record
            self._records.store(said.record)
        else:
            assert self.state is not None
            self._records.store(said.record._replace(voters=self.state.voters))

    def _is_sensible(self, said: Propose) -> bool:
        """Return whether a record is to be stored now, and its epoch one to which servers come from here."""
        if said.birth is not None:
            if self._round_of(said.birth) is None or self._decision is None or self.phase is not Phase.BIRTH:
                return False
            expected = self._decision.record_of_birth(self._usual_promise)
            return said.record._replace(longest_promise=expected.longest_promise) == expected
        if self.phase is not Phase.PRIMARY:
            return False
        assert self.state is not None
        known = self._records.merged(self._record(self.state))
        return said.record.epoch <= known.epoch + EPOCH_STEP

    def _on_stored(self, sender: Member, said: Stored) -> None:
        records = self._records
        if self._round is None:
            return
        records.hear(sender, said.record)
        if self.phase is Phase.PRIMARY:
            self._take_records()
        elif (
            self.phase is Phase.BIRTH
            and self._decision is not None
            and records.proposed is not None
            and records.is_known(records.proposed, self._decision.can_begin)
        ):
            self._give_birth(self._decision, records.proposed)

    @staticmethod
    def _record(state: State) -> DurableRecord:
        """Return what a disk is to know of a state."""
        return DurableRecord(state.epoch, state.longest_promise, state.voters)

    def _heed_voters(self, state: State) -> None:
        """Have the disk know who decides. A change is in force once majorities of both have it on disk.

        All servers of the view have the state then. Only what is ordered counts, so that all come to it at one place.
        """
        voters = state.voters
        if voters.former is not None and self._records.are_known(voters, self._is_quorum):
            state.voters = voters.changed()
        if self._decision is not None:
            self._of_reports = self._decision.differences(state.voters)
            self._name_differences()
        self._records.remember(self._record(state))

    def _take_records(self) -> None:
        """Go on with what a majority's disks know of by now."""
        state, known = self.state, self._records.known(self._is_quorum)
        assert state is not None
        self._heed_voters(state)
        if known is not None:
            state.begin_epoch(known.epoch)
            state.longest_promise = max(state.longest_promise, known.longest_promise)
            self._listener.on_phase()

    def _wait_for(self, birth: StateBirth, now: float) -> None:
        """Begin anew, since there is no state to go on with, when nobody relies on one any more."""
        left = f"{self._application.promises} of up to {birth.after:g} s may be left of an earlier life"
        self._enter(Phase.BIRTH, left if birth.after else "a first state is being stored")
        self._due = now + birth.after + birth.rank * PATIENCE
        if self._due == now:
            self.advance(now)

    def _propose_birth(self) -> None:
        """Have all store what a new state begins with; name those that do not."""
        assert self._round is not None
        assert self._decision is not None
        proposed = self._records.proposed
        if proposed is None:
            self._send(Propose(self._decision.record_of_birth(self._usual_promise), self._round.id))
            return
        silent = self._nodes_beside(self._records.covering(proposed))
        self._enter(Phase.BIRTH, f"a first state is not stored at node {silent}")

    @property
    def _usual_promise(self) -> float:
        usual = self.settings.usual_promise
        return self._application.usual_promise if usual is None else usual

    def _give_birth(self, decision: ViewDecision, record: DurableRecord) -> None:
        self.was_there = False
        state = self.state = self._application.create(record.epoch, decision.voters)
        state.longest_promise = record.longest_promise
        self._become_primary(decision, record.epoch)

    # ---- out

    def _send(self, said: WireMessage) -> None:
        self._outbox.append(self._codec.encode(said))
