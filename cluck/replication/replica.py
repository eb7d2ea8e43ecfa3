"""One lock server's copy of the state, from view to view: rulings E1 to E6.

A machine on the stream of the lock servers' group. Whatever changes who is there begins a round: the lowest member
calls it, each reports what it has, and from then on all decide alike, by what was ordered alone
(`cluck.replication.view_decision`). The largest lineage is the base of all; who has something else gets it as a
snapshot. Where the nodes that have a state are a majority, the view is then primary and commands are applied as they
come; what comes before is void, and who sent it says it again. A server that does not report is left out by order: it
counts for nothing in that view.

Applying is not telling: what is applied may be told when it is final (`cluck.replication.finality`). Number 0 is the
view's beginning itself: what the base has already done and nobody was told is told when that is final.

A state is born where all configured nodes are there, or a majority whose disks know their epoch
(`cluck.replication.durable_records`); not before the longest lease on record is over, unless nobody who was granted one
can be alive.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Protocol

from cluck.commands import LARGEST_EPOCH, Boot, Command, Outcome, RequestId, Server
from cluck.replication.durable_records import Records
from cluck.replication.electorate import Electorate, Voters
from cluck.replication.finality import Finality
from cluck.replication.round_limits import FORGIVENESS, MOST, Calls
from cluck.replication.view_decision import Base, Birth, Census, Minority, name, process, uncounted
from cluck.server.leases import DRIFT
from cluck.state.lock_table import Ticket
from cluck.state.machine import State
from cluck.wire import (
    NOTICE,
    Ack,
    Commands,
    Exclude,
    Forgive,
    Lineage,
    Malformed,
    NoServer,
    OtherVersion,
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
LONGEST_LOADING: Final = 60.0
"""Seconds that the base's state may take on its way."""
NOTICE_INTERVAL: Final = 1.0
"""Seconds between two notices to those who speak another version."""

EPOCH_STEP: Final = 256
"""By so much a proposed epoch is larger than what is known, at most: it is by one, unless some were lost on the way."""

HASTE: Final = 0.5
"""Seconds that a round waits for a member that has never reported: it may be no lock server at all."""

_BY_RING: Final = {Reason.NODEDOWN, Reason.NODEUP}
_ENDED: Final = {Reason.LEAVE, Reason.PROCDOWN}
"""Why a member goes whose process has left the group while its node stays in the ring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an administrator says of one lock server."""

    electorate: Electorate
    """Who is to decide in a cluster that is born now."""
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
    boot: Boot | None = None
    """Of the machine that it is on, and all its clients; None where that is not known, or not so."""
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
        self.differences: tuple[str, ...] = ()
        """Who differs from whom in what must be equal, or in who is to decide."""
        self.malformed = 0
        self.disk_fault = ""
        """Why records cannot be stored here now, and where; empty: they can."""
        self.number = 0
        """Messages with commands that were applied in this view."""
        self._is_last = False
        """Since the last primary view no lock server has gone but by ending in the sight of this one (ruling E2c)."""
        self.was_there = False
        """In a primary view: all that its state has come to was applied here in its time."""
        self._listener = listener
        self._records = Records(record)
        self._outbox: list[bytes] = []
        self._rounds = 0
        self._serial = 0
        self._members: tuple[Member, ...] = ()
        self._known: set[Member] = set()
        """The members that have ever reported, and so are lock servers."""
        self._in_process: dict[Member, Server] = {}
        """The members whose clients live and end with them."""
        self._ring_seq: int | None = None
        self._quorate = True
        self._round_is_due = False
        """Somebody was told to call a round since the last change."""
        self._round_began = -math.inf
        """When the present round was heard of."""
        self._is_open = True
        """The present round is not over yet."""
        self._due = math.inf
        """When the phase has something to do."""
        self._calls = Calls()
        self._forgive_at = math.inf
        """When to say that others may call rounds again."""
        self._is_call_void = False
        """The round that this server has called last counts for nothing."""
        self._stated: bool | None = None
        """What was said of quorum in this round."""
        self._census: Census | None = None
        """Of this round, and of the view that it makes."""
        self._owner: Member | None = None
        """Who has the base's state, for those who have another."""
        self._parts: list[Snapshot] = []
        """Of that, which is on its way here."""
        self._loading_until = math.inf
        self._foreign: set[Member] = set()
        """Those who have spoken another version last: they call no round that could be read."""
        self._silent_until = -math.inf
        """No notice to those who speak another version before."""
        self._of_reports: tuple[str, ...] = ()
        """Who differs from whom, of those who count."""
        self._uncounted: dict[Member, str] = {}
        """Members that do not count, and why."""
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
                self._calls.on_ring()
            self._ring_seq = event.ring_id.seq
            if not is_known:  # at the own join the round was begun with the `Confchg`
                known = self._known | {self.member}
                among = known if len(known) > 1 else set(self._members)
                self._change(now, min(among - self._foreign, default=self.member))
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
            self._propose(self._record(self.state)._replace(longest=longest))

    def unrecorded(self, longest: float) -> str:
        """Say whose disks do not know of so long a lease, or of the epoch whose tokens are needed."""
        if self.state is not None and not self.state.tokens.is_left:
            record = self._record(self.state)
            knowing = self._records.covering(record._replace(epoch=record.epoch + 1))
            needed = "the fencing tokens of this epoch are used up: the next one"
        else:
            knowing = self._records.knowing(longest)
            needed = f"a lease of {longest:g} s with its grace"
        text = f"{needed} must be on the disks of a majority of the lock servers first"
        if silent := self._nodes_beside(knowing):
            text += f", and is not stored at node {silent}"
        return f"{text}; here: {self.disk_fault}" if self.disk_fault else text

    def _nodes_beside(self, members: set[Member]) -> str:
        """Name the nodes of the other servers of this view."""
        return ", ".join(map(str, sorted({member.node_id for member in self.servers.keys() - members})))

    def begin_epoch(self) -> None:
        """Have tokens of a later epoch: this one's run short. One that a disk knows of already is good enough."""
        if self.state is not None and self.is_primary:
            known = self._record(self.state)
            epoch = max(self._records.merged(known).epoch, known.epoch + 1)
            if epoch <= LARGEST_EPOCH:
                self._propose(known._replace(epoch=epoch))

    @property
    def record_to_store(self) -> Record | None:
        """What is to be made durable; then `stored` is to be called."""
        return self._records.to_store

    def stored(self, record: Record) -> None:
        """`record_to_store` is durable."""
        self._records.on_stored(record)
        self._say(Stored(record))

    def take(self) -> list[bytes]:
        """Hand over what is to be multicast, in order."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def advance(self, now: float) -> None:
        """Time has passed."""
        if now >= self._forgive_at:
            self._forgive_at = math.inf
            if self._calls.are_many:
                self._say(Forgive())
                self._watch_calls(now)
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
        """Go on without who does not call the round, or does not report."""
        if self._census is None:
            self._call_round()
        elif self._census.has_report_of(self.member):
            is_late = now >= self._round_began + PATIENCE
            known = self._census.known
            silent = [member for member in self._census.silent if is_late or (known and member not in known)]
            if silent:
                self._say(Exclude(self._census.id, [(*member,) for member in silent]))
            if is_late:
                self._show(self._census.without_silent())

    def _show(self, census: Census) -> None:
        """Tell what the round comes to where nobody else reports, if those who do cannot decide."""
        verdict = census.verdict()
        if isinstance(verdict, Minority) and verdict.why != self.why:
            self._take_over(census)
            self._enter(Phase.MINORITY, verdict.why)

    def _hurry_owner(self) -> None:
        """Go on without who has the base's state, and does not hand it over."""
        assert self._census is not None
        assert self._owner is not None
        if self._owner != self.member:
            self.why = f"the state of {process(self._owner)} does not come: it stands still"
            self._say(Exclude(self._census.id, [(*self._owner,)]))

    @property
    def deadline(self) -> float:
        """When `advance` wants to be called."""
        return min(self._due, self._forgive_at)

    @property
    def is_primary(self) -> bool:
        """Whether commands are applied as they come."""
        return self.phase is Phase.PRIMARY

    @property
    def lineage(self) -> Lineage | None:
        """How far its state has come, as far as that counts; None: it has none."""
        return self._finality.lineage if self._finality is not None else None

    @property
    def voters(self) -> Voters | None:
        """Who decides, as far as this server knows; None: it knows nothing but its configuration."""
        if self.state is not None:
            return self.state.voters
        return self._records.on_disk.voters if self._records.on_disk is not None else None

    @property
    def view_id(self) -> RoundId | None:
        """The view's name: the round that made it."""
        return self._census.id if self._census is not None else None

    @property
    def is_busy(self) -> bool:
        """In a primary view: whether it waits for a disk, or for its own acknowledgement."""
        is_ack_under_way = self._finality is not None and self._finality.is_ack_under_way
        return self.record_to_store is not None or is_ack_under_way

    def ticket(self, request: RequestId) -> Ticket | None:
        """Return the ticket of a request, if the state has one."""
        return self.state.table.ticket(request) if self.state is not None else None

    # ---- changes

    def _on_confchg(self, confchg: Confchg, now: float) -> None:
        self._members = confchg.members
        self._foreign &= set(confchg.members)
        has_lost = not self._known.isdisjoint(confchg.left)
        self._known.difference_update(confchg.left)
        newcomers = [member for member, reason in confchg.joined.items() if reason is Reason.JOIN]
        self._calls.on_change(confchg.left, newcomers)
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
            self._suspend("a new ring is being told")  # and its `TotemConfchg` follows
        elif self.member in confchg.joined:
            self._change(now, self.member)
        elif has_lost:
            self._change(now, min(self._known | {self.member}))
        # whoever else has come is no lock server before it says so, and then it calls a round itself

    def _change(self, now: float, caller: Member) -> None:
        """Who is there has changed: begin a round."""
        self._suspend("servers are still to report")
        self._round_is_due = True
        if self.member == caller:
            self._call_round()
        self._due = now + PATIENCE

    def _suspend(self, why: str) -> None:
        if self.phase is Phase.PRIMARY:
            self._listener.on_suspended()
        self._census = None
        self._round_is_due = False
        self._stated = None
        self._is_open = True
        self._parts = []
        self._records.forget_view()
        self._enter(Phase.ROUND, why)
        self._due = math.inf

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
        except Malformed as malformed:
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

    def _on_unreadable(self, message: Message, malformed: Malformed, now: float) -> None:
        """A server cannot be understood: it is not waited for, and named. One of another version is told of this one.

        What it is told is a message of a byte, which is not answered, or two versions would never fall silent. What no
        lock server says makes nobody one.
        """
        if message.data == NOTICE:
            return
        self.malformed += 1
        sender = message.sender
        if isinstance(malformed, OtherVersion):
            self._foreign.add(sender)
            if len(message.data) > len(NOTICE) and now >= self._silent_until:
                self._silent_until = now + NOTICE_INTERVAL
                self._outbox.append(NOTICE)
            self._uncounted[sender] = uncounted(name(sender, self._members), str(malformed))
        elif isinstance(malformed, NoServer) and sender not in self._known:
            self._uncounted[sender] = f"{process(sender)} is no lock server, and speaks in the lock servers' group"
        self._name_differences()
        census = self._census
        if census is not None and self._is_open:
            if isinstance(malformed, NoServer):
                census.pass_over(sender)
            else:
                census.refuse(sender, str(malformed))
            if census.is_complete:
                self._conclude(census, now)

    def _name_differences(self) -> None:
        """Name who differs from whom, who does not count, and who calls rounds without end."""
        restless = (f"{process(member)} calls one round after another" for member in self._calls.restless)
        named = {*self._of_reports, *self._uncounted.values(), *(f"{who}: {MOST} a minute count" for who in restless)}
        if named != set(self.differences):
            self.differences = tuple(sorted(named))

    def _on_rare(self, sender: Member, said: Said, now: float) -> None:
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

    def _census_of(self, round_id: RoundId | None) -> Census | None:
        """Find what a message speaks of; None: it speaks of another round than the present one, and is void."""
        census = self._census
        return census if census is not None and census.id == round_id else None

    # ---- rounds

    def _on_round(self, sender: Member, said: Round, now: float) -> None:
        """A round begins, whatever there was before; but one member does not keep the others from deciding."""
        is_counted = self._calls.count(sender)
        self._watch_calls(now)
        if not is_counted:
            self._is_call_void |= sender == self.member
            return
        self._is_call_void = False
        self._suspend("servers are still to report")
        self._census = Census(said.id, self._members, self.member, self._ring_seq or 0)
        self._stated = self._quorate
        self._round_began = now
        has_strangers = not self._known.issuperset(self._members)
        self._due = now + (HASTE if has_strangers else PATIENCE)
        frozen = freeze(self.state.image()) if self.state is not None else b""
        self._say(
            Report(
                round=said.id,
                start=self.server.start,
                lineage=self.lineage,
                digest=digest(frozen),
                record=self._records.on_disk,
                voters=self.state.voters if self.state is not None else None,
                configured=self.settings.electorate,
                drift=DRIFT,
                survivors=self.settings.survivors,
                safe=self.settings.safe,
                priority=self.settings.priority,
                in_process=self.settings.in_process,
                quorate=self._quorate,
                force_birth=self.settings.force_birth,
                boot=self.settings.boot,
                known=[(*member,) for member in sorted(self._known)],
                is_last=self._is_last,
            )
        )

    def _on_report(self, sender: Member, said: Report, now: float) -> None:
        census = self._census_of(said.round)
        if census is None or not self._is_open or sender in census.excluded:
            return
        self._known.add(sender)
        census.add(sender, said)
        self._foreign.discard(sender)
        if said.in_process:
            self._in_process[sender] = Server(sender.node_id, said.start)
        if census.is_complete:
            self._conclude(census, now)

    def _on_exclude(self, sender: Member, said: Exclude, now: float) -> None:
        census = self._census_of(said.round)
        if census is None:
            return
        members = {Member(*numbers) for numbers in said.members}
        if self._is_open:
            excluded = census.exclude(sender, members)
            for member in excluded:
                self._calls.on_silent(member)
            self._watch_calls(now)
            if self.member in excluded:
                self._call_round()  # this one has come to again: it wants to count
            if census.is_complete:
                self._conclude(census, now)
        elif self.phase is Phase.LOADING and self._owner in members and sender in self.servers:
            self._on_owner_called_silent(sender, self._owner, census, now)

    def _on_owner_called_silent(self, sender: Member, owner: Member, census: Census, now: float) -> None:
        """Go on without who does not hand over the base's state, once enough say so."""
        others = census.exclude_owner(sender, owner, "it has the latest state, and does not hand it over")
        if others is not census:
            self._conclude(others, now)
            if owner == self.member:
                self._call_round()

    def _conclude(self, census: Census, now: float) -> None:
        """The last has reported, or one does not count any more: go on as all do."""
        self._is_open = False
        self._census = census
        self._parts = []
        self._take_over(census)
        match census.verdict():
            case Minority(why):
                self._enter(Phase.MINORITY, why)
            case Base() as base:
                self._begin_with(base, census, now)
            case Birth() as birth:
                self._wait_for(birth, now)

    def _watch_calls(self, now: float) -> None:
        """Name who calls rounds without end; forgive others in time, by order, though each has a clock of its own."""
        self._name_differences()
        if self._calls.are_many:
            self._forgive_at = min(self._forgive_at, now + FORGIVENESS)

    def _on_forgive(self, sender: Member) -> None:
        """Rounds of others count again. If this one's last did not, and is forgiven, it calls another one."""
        self._calls.forgive(sender, self._members)
        self._name_differences()
        if self._is_call_void and self._calls.may(self.member):
            self._is_call_void = False
            self._call_round()

    def _take_over(self, census: Census) -> None:
        """Have who is there from a round."""
        self.servers = census.servers
        self.leaders = census.leaders
        self._of_reports = census.differences()
        here = {member: why for member, why in self._uncounted.items() if not census.has_report_of(member)}
        self._uncounted = {**here, **census.uncounted}
        self._name_differences()

    def _begin_with(self, base: Base, census: Census, now: float) -> None:
        self.was_there = base.was_there
        self._owner = base.owner
        if base.is_everywhere:
            assert self.state is not None
            self._go_on_with(self.state, census, now)
            return
        self._enter(Phase.LOADING, f"the state of node {base.owner.node_id} is on its way to those who have another")
        self._due = now + PATIENCE
        self._loading_until = now + LONGEST_LOADING
        if base.owner == self.member:
            assert self.state is not None
            for part in cut(freeze(self.state.image()), census.id):
                self._say(part)

    def _on_snapshot(self, sender: Member, said: Snapshot, now: float) -> None:
        census = self._census_of(said.round)
        if census is None or self.phase is not Phase.LOADING or sender != self._owner:
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
            state = thaw(self._parts, census.digest_of(sender))
        except Malformed as malformed:
            self._refuse_owner(f"its state cannot be read: {malformed}", census, now)
            return
        self._go_on_with(state, census, now)

    def _go_on_with(self, state: State, census: Census, now: float) -> None:
        """Begin the view with the base's state, if it is what was reported; until then all keep their own."""
        if why := census.why_not(state):
            self._refuse_owner(why, census, now)
            return
        self.state = state
        self._become_primary(census, census.epoch)

    def _refuse_owner(self, why: str, census: Census, now: float) -> None:
        """Go on without the state that was to be the base, and without who has it."""
        assert self._owner is not None
        self._conclude(census.without_state_of(self._owner, why), now)

    # ---- the primary view

    def _become_primary(self, census: Census, epoch: int) -> None:
        """The state is the base's, and this the place in the order from which on commands count."""
        state, ring_seq = self.state, self._ring_seq
        assert state is not None
        assert ring_seq is not None
        self._parts = []
        self._records.proposed = None
        lineage = census.lineage(epoch, ring_seq)
        state.voters = census.voters.confirmed(lineage.primary)
        self._finality = Finality(lineage, self.member, is_safe=census.is_safe, is_quorum=self._is_quorum)
        self.number = 0
        self._due = math.inf
        state.keep(set(self.servers.values()), census.boots)
        state.here = census.present
        for member, record in census.records.items():
            self._records.hear(member, record)
        self._is_last = True
        self._enter(Phase.PRIMARY)
        self._heed_voters(state)
        self._listener.on_primary()
        self._acknowledge()

    def _is_quorum(self, members: Collection[Member]) -> bool:
        """Whether these decide, in a primary view."""
        assert self._census is not None
        assert self.state is not None
        return self._census.is_quorum(members, self.state.voters)

    def _on_commands(self, sender: Member, said: Commands) -> None:
        if self.phase is Phase.PRIMARY:
            server = self.servers.get(sender)
            if server is not None and server.start == said.start:
                self._apply(sender, server, said)
                self._acknowledge()

    def _apply(self, sender: Member, server: Server, said: Commands) -> None:
        """Apply what one message of a server says. Hot: once for each message, and for each command in it."""
        state = self.state
        assert state is not None
        self.number = number = self.number + 1
        if sender == self.member:
            self._listener.on_delivered(said.serial)
        on_applied, voters = self._listener.on_applied, state.voters
        for command in said.commands:
            on_applied(number, command, server, state.apply(command, server))
        assert self._finality is not None
        self._finality.on_applied(number)
        if state.voters is not voters:
            self._heed_voters(state)

    def _acknowledge(self) -> None:
        """Say how far this server is, where that is how the others learn it."""
        if self._finality is not None and self._census is not None and self._finality.begin_ack(self.number):
            self._say(Ack(self._census.id, self.number))

    def _on_ack(self, sender: Member, said: Ack) -> None:
        """A server is so far. Only what it says in this very view counts (ruling E4)."""
        if self._census_of(said.round) is None or self.phase is not Phase.PRIMARY or sender not in self.servers:
            return
        assert self._finality is not None
        is_news = self._finality.on_ack(sender, said.number)
        self._acknowledge()
        if is_news:
            self._listener.on_final(self._finality.number)

    # ---- records, and birth

    def _propose(self, record: Record) -> None:
        if self._records.propose(record):
            self._say(Propose(record))

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
        """Whether a record is to be stored now, and its epoch one to which servers come from here."""
        if said.birth is not None:
            census = self._census_of(said.birth) if self.phase is Phase.BIRTH else None
            expected = census.record_of_birth(self.settings.usual) if census is not None else None
            return expected is not None and said.record._replace(longest=expected.longest) == expected
        if self.phase is not Phase.PRIMARY:
            return False
        assert self.state is not None
        known = self._records.merged(self._record(self.state))
        return said.record.epoch <= known.epoch + EPOCH_STEP

    def _on_stored(self, sender: Member, said: Stored) -> None:
        census, records = self._census, self._records
        if census is None:
            return
        records.hear(sender, said.record)
        if self.phase is Phase.PRIMARY:
            self._take_records()
        elif (
            self.phase is Phase.BIRTH
            and records.proposed is not None
            and records.is_known(records.proposed, census.can_begin)
        ):
            self._give_birth(census, records.proposed)

    @staticmethod
    def _record(state: State) -> Record:
        """What a disk is to know of a state."""
        return Record(state.tokens.epoch, state.longest, state.voters)

    def _heed_voters(self, state: State) -> None:
        """Have the disk know who decides; others do once majorities of both have that on disk: all here have the state.

        Only what is ordered counts, so that all servers of the view come to it at one place.
        """
        voters = state.voters
        if voters.former is not None and self._records.are_known(voters, self._is_quorum):
            state.voters = voters.changed()
        if self._census is not None:
            self._of_reports = self._census.differences(state.voters)
            self._name_differences()
        self._records.remember(self._record(state))

    def _take_records(self) -> None:
        """Go on with what a majority's disks know of by now."""
        state, known = self.state, self._records.known(self._is_quorum)
        assert state is not None
        self._heed_voters(state)
        if known is not None:
            state.tokens.begin(known.epoch)
            state.longest = max(state.longest, known.longest)
            self._listener.on_phase()

    def _wait_for(self, birth: Birth, now: float) -> None:
        """There is no state to go on with: begin anew when nobody relies on one any more."""
        left = f"leases of up to {birth.after:g} s may be left of an earlier life"
        self._enter(Phase.BIRTH, left if birth.after else "a first state is being stored")
        self._due = now + birth.after + birth.rank * PATIENCE
        if self._due == now:
            self.advance(now)

    def _propose_birth(self) -> None:
        """Have all store what a new state begins with; name those that do not."""
        assert self._census is not None
        proposed = self._records.proposed
        if proposed is None:
            self._say(Propose(self._census.record_of_birth(self.settings.usual), self._census.id))
            return
        silent = self._nodes_beside(self._records.covering(proposed))
        self._enter(Phase.BIRTH, f"a first state is not stored at node {silent}")

    def _give_birth(self, census: Census, record: Record) -> None:
        self.was_there = False
        state = self.state = State(record.epoch, census.voters)
        state.longest = record.longest
        self._become_primary(census, record.epoch)

    # ---- out

    def _say(self, said: Said) -> None:
        self._outbox.append(encode(said))
