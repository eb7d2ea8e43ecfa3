"""A ring whose member this process is: the engine, what drives it, and the groups that are joined there.

The shell of an `EmbeddedRing` (`totem.node` on sockets, `cpg.testing` on a virtual network) gives it, turn by turn,
what the processor delivers. The ring hands that to the engine. Then it wakes the tasks that wait for the first ring,
for other nodes, or for room in the send queue.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeVar

import trio

from cpg.arguments import pathname
from cpg.change_log import NOTHING, Changes, Line, Pace
from cpg.contracts import Inbox, OnTransitional
from cpg.events import Link, Member, Quorum, RingEvent, Transitional
from cpg.formatting import nodes, transport, transport_figures
from cpg.loop_errors import require_trio
from cpg.node.engine import Engine, EngineStatistics, Transport
from cpg.node.membership import LocalMembership
from cpg.node.quorum import QuorumStatus, Rules, Votequorum
from cpg.node.wire import KEY_IN_USE, KeyPhase, Reload
from cpg.ring import Ring, live
from totem.config import Config, Knet
from totem.configuration import Delivery, Guarantee, RingId
from totem.corosync_conf import ConfigFile, own_node
from totem.errors import AddressUnavailable, ConfigError, RingLost
from totem.interruption import Interruption
from totem.links.machine import LinkState
from totem.log_fields import event_fields, extra
from totem.node import Keys, Node
from totem.reconfiguration import changes
from totem.statistics import Statistics
from totem.store import default_directory, words, write_durably

_log = logging.getLogger(__name__)

SYNC_LIMIT = 2
"""Number of consensus timeouts after which a sync is stuck (ruling C4)."""


class Machine(Transport, Protocol):
    """The processor, as the ring needs it."""

    @property
    def room(self) -> int:
        """Bytes for which the send queue has room."""

    @property
    def stirred(self) -> bool:
        """Whether something was queued that must not wait for the next datagram or timer."""

    @property
    def is_operational(self) -> bool:
        """Whether there is a ring that works."""

    def interruption(self, now: float) -> Interruption | None:
        """Return what ended the ring that was complete last; None before the first ring, and while one works."""

    def restart_sync(self, silent: Iterable[int], now: float) -> bool:
        """Form the ring anew, without these members where that is allowed; return whether it was done."""


class Shell(Protocol):
    """The driver of a ring: `totem.node.Node`, or a virtual one."""

    on_link: Callable[[LinkState], None]
    """Called when the state of a link to another node has changed."""

    @property
    def processor(self) -> Machine:
        """The processor that it drives."""

    @property
    def keys(self) -> Keys | None:
        """Where keys change; None where nothing is ever sealed."""

    def reconfigure(self, config: Config) -> None:
        """Take another configuration. Raises `OSError`, and changes nothing, where it cannot be used here."""

    async def run(self, deliver: Callable[[Iterator[Delivery]], None]) -> None:
        """Take part until cancelled, then announce the leave. Raises `RingLost` where the ring cannot go on."""

    def abandon(self) -> None:
        """Close the descriptors of a forked process, and send nothing."""

    def kick(self) -> None:
        """Run a turn soon: something was queued in the processor."""

    def statistics(self) -> Statistics:
        """Return the counters of processor and network."""

    def link_states(self) -> tuple[LinkState, ...]:
        """Return the links to other nodes."""


class EmbeddedRing(Ring):
    """This process's place in a ring. Leaving the block announces the leave, so that the others need no timeout."""

    gives_safe = True
    _votes_file: VotesFile | None = None
    """Where the highest number of expected votes is kept."""
    _reopen_logs: Callable[[], None] = staticmethod(lambda: None)
    """Opens log files again by their names, in a daemon."""
    _file: ConfigFile | None = None
    """The configuration's; None where there is no file."""

    def __init__(self, config: Config, shell: Shell, *, pid: int, votes: Votequorum | None = None) -> None:
        """`votes`: the node's count of the cluster's votes, if a quorum provider is configured."""
        self.config = config
        machine = shell.processor
        super().__init__(Member(machine.node_id, pid))
        self._shell = shell
        shell.on_link = self._take_link
        self._machine = machine
        self._votes = votes
        self._engine = Engine(
            machine,
            sync_limit=SYNC_LIMIT * config.consensus,
            votes=votes,
            on_ring=self._on_ring,
            on_order=self._on_order,
        )
        self._noticed = (False, False, False)
        """After the last turn: whether the ring was synced, was quorate, and knew that this node leaves."""
        self._changes, self._pace = Changes(), Pace()
        self._observers: list[Callable[[RingEvent], object]] = []
        self._link_observers: list[Callable[[Link], object]] = []
        self._config_observers: list[Callable[[Config], object]] = []
        self._announcements: deque[tuple[bytes, Guarantee]] = deque()
        """Messages of administrators that wait for room."""
        self._link_times: dict[tuple[int, int], tuple[float, float]] = {}
        """Since when each link is as it is: on the event loop's clock, and since the epoch."""
        self._rest = trio.CancelScope()
        """The wait until the engine's deadline."""

    # ---- for programs

    @property
    def ring_id(self) -> RingId:
        """The present ring: its representative and its sequence number."""
        return self._engine.ring_id

    @property
    def node_ids(self) -> tuple[int, ...]:
        """The nodes of the present ring, ascending."""
        return self._engine.node_ids

    @property
    def quorate(self) -> bool:
        """Whether the present ring has the votes to act for the cluster; always true without a quorum provider."""
        return self._engine.quorate

    @property
    def quorum(self) -> QuorumStatus | None:
        """The figures behind `quorate`, as `corosync-quorumtool -s` shows them; None without a quorum provider."""
        return self._votes.status() if self._votes is not None else None

    @property
    def groups(self) -> dict[bytes, tuple[Member, ...]]:
        """The members of all groups of the ring, by name in ascending order."""
        return self._engine.groups

    async def list_groups(self) -> dict[bytes, tuple[Member, ...]]:
        """Return `groups`, as every kind of ring does."""
        await trio.lowlevel.checkpoint()
        return self.groups

    def statistics(self) -> Statistics:
        """Return the counters of processor and network, and what the processor holds, frozen."""
        return self._shell.statistics()

    @property
    def links(self) -> tuple[LinkState, ...]:
        """The links to all other nodes, by node and number: up or down, since when, MTU, latency.

        With transports `udpu` and `udp` those to nodes of this package. Times are of the event loop's clock.
        """
        return self._shell.link_states()

    def on_transitional(self, callback: OnTransitional) -> OnTransitional:
        """Call `callback(node_ids)` when a change of ring begins. A decorator; None removes the callback."""
        return self._register(Transitional, callback)

    async def reload(self, config: Config | str | PathLike[str] | None = None) -> tuple[str, ...]:
        """Take another configuration without leaving the ring; return what has changed, a text for each setting.

        `config`: as for `open_ring`; None: the file that the ring was opened with, read again. This concerns this node
        alone, so the other ones take theirs in any order. Raises `NotReloadable`, which names what takes a restart, and
        `ConfigError` and `OSError` as `open_ring` does. Then nothing has changed.
        """
        self._check()
        if not isinstance(config, Config):
            file = self._known_file() if config is None else ConfigFile(pathname("config", config))
            loaded = await trio.to_thread.run_sync(file.load, abandon_on_cancel=True)
            self._check()
            config = loaded.config
            for warning in loaded.warnings:
                _log.warning("%s", warning)
        else:
            await trio.lowlevel.checkpoint()
        return self._take_config(config, self.node_id)

    # ---- for groups (`cpg.contracts.Backend`), and for daemons that serve other processes

    async def _try_reload_everywhere(self) -> bool:
        """Do as `_reload_everywhere`, and log why it was refused here; return whether it was not."""
        with self._logged_refusal(self.node_id):
            await self._reload_everywhere()
            return True
        return False

    def _observe_config(self, observer: Callable[[Config], object]) -> Callable[[], None]:
        """Call `observer(config)` for each configuration that is taken later. It must not raise.

        Returns a function that ends this.
        """
        self._config_observers.append(observer)
        return partial(self._config_observers.remove, observer)

    async def _reload_everywhere(self) -> tuple[str, ...]:
        """Reload the file here, and have all other nodes of the ring reload theirs; return what has changed here.

        Raises what `reload` does; then nobody is asked.
        """
        changed = await self.reload()
        self._announce([Reload().encode()])
        return changed

    async def _enter(self, name: bytes, inbox: Inbox) -> LocalMembership:
        return self._admit(name, self.member.pid, inbox)

    def _admit(self, name: bytes, pid: int, inbox: Inbox) -> LocalMembership:
        """Join a group for a process of this machine that this process serves. Raises what `Engine.join` does."""
        self._check()
        return self._engine.join(name, pid, inbox)

    def _observe(self, observer: Callable[[RingEvent], object]) -> Callable[[], None]:
        """Call `observer(event)` for the ring's events, in their place between the groups' events.

        As with an `Inbox`, it must not raise, and must only queue. Returns a function that ends this.
        """
        self._observers.append(observer)
        return partial(self._observers.remove, observer)

    def _observe_links(self, observer: Callable[[Link], object]) -> None:
        """Call `observer(event)` for each link now, and for each change of one. It must not raise."""
        self._link_observers.append(observer)
        for event in self._present_links():
            observer(event)

    def _send_soon(self) -> None:
        """Give the ring what was queued. What waits for a token that is under way needs no turn."""
        if self._machine.stirred:
            self._shell.kick()

    # ---- for the shell

    def _engine_statistics(self) -> EngineStatistics:
        return self._engine.statistics()

    def _deliver(self, deliveries: Iterable[Delivery]) -> None:
        """Take what the processor delivers in one turn, which may be nothing."""
        engine = self._engine
        engine.deliver(deliveries)
        if engine.failure is not None:
            raise RingLost(engine.failure)
        if self._announcements:
            self._send_announcements()
        if self._senders:
            self._grant_room(self._machine.room)
        self._notice()

    def _on_ring(self, event: RingEvent) -> None:
        super()._on_ring(event)
        if type(event) is Quorum:
            self._log_change()
        for observer in tuple(self._observers):
            observer(event)

    def _on_order(self, sender: int, order: Reload | KeyPhase) -> None:
        """Do as Corosync's nodes do: all read their files at one place of the order, and then use the new key."""
        keys = self._shell.keys
        if isinstance(order, KeyPhase):
            if keys is not None:
                keys.use_accepted()
            return
        try:
            self._reload_on_order(sender)
        except AddressUnavailable:  # a name that is new, for which the ring must not wait
            self._start_soon(partial(self._reload_late, sender))
        else:
            self._use_keys()

    def _reload_on_order(self, sender: int) -> None:
        with self._logged_refusal(sender, AddressUnavailable):
            self._take_config(self._known_file().load_at_once().config, sender)

    async def _reload_late(self, sender: int) -> None:
        with self._logged_refusal(sender):
            loaded = await trio.to_thread.run_sync(self._known_file().load, abandon_on_cancel=True)
            self._take_config(loaded.config, sender)
        self._use_keys()

    @contextmanager
    def _logged_refusal(self, sender: int, *raised: type[Exception]) -> Iterator[None]:
        """Log why a configuration that all were asked to reload is not taken."""
        try:
            yield
        except raised:
            raise
        except (ConfigError, OSError) as error:
            why = words(error) if isinstance(error, OSError) else error
            text = "node %d: not reloaded, the former configuration stays in force: %s (node %d has asked for it)"
            _log.error(text, self.node_id, why, sender)

    def _use_keys(self) -> None:
        """Have all nodes use the key that was accepted last; a Corosync node in the ring says so by itself."""
        if self._key_waits and self._engine.pure:
            self._announce([KeyPhase(KEY_IN_USE).encode()], Guarantee.SAFE)

    @property
    def _key_waits(self) -> bool:
        """Whether another key is accepted, and not used yet."""
        keys = self._shell.keys
        return keys is not None and keys.has_accepted

    def _known_file(self) -> ConfigFile:
        if self._file is None:
            raise ConfigError("this program has made its configuration without a file: give it another one")
        return self._file

    def _take_config(self, config: Config, asker: int) -> tuple[str, ...]:
        """Take another configuration; return what has changed. Raises `NotReloadable` and `OSError`."""
        node_id = self.node_id
        changed = changes(self.config, config, node_id)
        if not changed:
            return ()
        self._shell.reconfigure(config)
        former, self.config = self.config, config
        if self._votes is not None:
            rules, warnings = Rules.of(config, node_id)
            for warning in warnings:
                _log.warning("%s", warning)
            if rules != Rules.of(former, node_id)[0]:
                self._announce(self._votes.reconfigure(rules))
        for change in changed:
            fields = event_fields("reloaded", node=node_id, source=asker, what=change)
            _log.info("node %d: reloaded: %s", node_id, change, extra=extra(fields))
        if config.knet is not None and former.knet is not None and _secrets(config.knet) != _secrets(former.knet):
            self._log_keys(config.knet, asker)
        for observer in tuple(self._config_observers):
            observer(config)
        return changed

    def _log_keys(self, knet: Knet, asker: int) -> None:
        fields = event_fields(
            "keys",
            node=self.node_id,
            source=asker,
            cipher=knet.cipher,
            hash=knet.hash,
            fingerprint=knet.fingerprint,
        )
        text = "node %d: keys change: %s; they are accepted, and used as soon as a reload of all nodes asks for it"
        _log.info(text, self.node_id, transport(transport_figures(self.config)), extra=extra(fields))

    def _announce(self, messages: Sequence[bytes], guarantee: Guarantee = Guarantee.AGREED) -> None:
        """Send an administrator's messages to all nodes, as soon as there is room for them."""
        self._announcements += [(message, guarantee) for message in messages]
        self._send_announcements()

    def _send_announcements(self) -> None:
        while self._announcements:
            message, guarantee = self._announcements[0]
            if len(message) > self._machine.room:
                return
            self._engine.multicast((message,), guarantee)
            self._announcements.popleft()
        self._send_soon()

    def _present_links(self) -> list[Link]:
        return [self._link_event(state) for state in self.links]

    def _take_link(self, state: LinkState) -> None:
        event = self._link_event(state)
        self._on_link(event)
        for observer in self._link_observers:
            observer(event)

    def _link_event(self, state: LinkState) -> Link:
        """Return a link's state as an event; the time of its last change stays the same with each."""
        key = state.node_id, state.link
        known = self._link_times.get(key)
        if known is None or known[0] != state.since:
            known = self._link_times[key] = state.since, time.time() - (trio.current_time() - state.since)
        return Link(*key, state.is_up, state.mtu, known[1])

    def _log_change(self) -> None:
        """Log a ring that is complete, and its votes. Its sync ends with this."""
        if not self._machine.is_operational:
            return  # left already, so it was never complete; the next one is logged with all changes
        engine, changes = self._engine, self._changes
        now = trio.current_time()
        interruption = self._machine.interruption(now)
        for line in (
            changes.ring(engine.ring_id, engine.node_ids, engine.transitional, interruption),
            changes.votes(self.quorum),
        ):
            self._log_line(self._pace.line(line, now))

    def _log_line(self, line: Line) -> None:
        if line.text:
            level = logging.WARNING if line.is_warning else logging.INFO
            _log.log(level, "node %d: %s", self.node_id, line.text, extra=extra(line.fields, node=self.node_id))

    def _notice(self) -> None:
        votes = self._votes
        noticed = (self._engine.synced, self._engine.quorate, votes is not None and votes.has_left)
        if noticed != self._noticed:
            self._noticed = noticed
            self._rest.cancel()  # a new ring has new deadlines
            self._wake()

    async def _watch_sync(self) -> None:
        """Log a sync that is stuck, with the silent nodes, and have the ring formed anew."""
        overdue = 0
        while True:
            with trio.CancelScope() as self._rest:
                await trio.sleep_until(min(self._engine.deadline, trio.current_time() + self.config.consensus))
            now = trio.current_time()
            self._engine.advance(now)
            self._notice()
            self._log_line(self._pace.line(NOTHING, now))
            if self._votes_file is not None:
                self._votes_file.store()
            statistics = self._engine.statistics()
            if statistics.syncs_overdue > overdue:
                overdue = statistics.syncs_overdue
                if self._shell.processor.restart_sync(statistics.silent, now):
                    text = f"sync is stuck, nothing from {nodes(statistics.silent)}: forming the ring anew"
                    self._shell.kick()
                else:
                    text = "sync has not ended: the ring was lost meanwhile, and no other one agreed on"
                fields = event_fields("sync_stuck", node=self.node_id, silent=statistics.silent)
                _log.warning("node %d: %s", self.node_id, text, extra=extra(fields))

    async def _take_part(self) -> None:
        await self._shell.run(self._deliver)

    def _abandon(self) -> None:
        self._shell.abandon()

    async def _send_farewell(self) -> None:
        votes = self._votes
        if votes is not None and self._engine.synced and (words := votes.farewell()):
            self._machine.multicast(words)
            self._shell.kick()
            await self._until(lambda: votes.has_left)

    def _is_complete(self) -> bool:
        return self._engine.synced

    def _jobs(self) -> list[Callable[[], Coroutine[Any, Any, object]]]:
        return [*super()._jobs(), self._watch_sync]


AnyRing = TypeVar("AnyRing", bound=EmbeddedRing)


@asynccontextmanager
async def open_ring(
    config: Config | str | PathLike[str], node: int | str | None = None
) -> AsyncGenerator[EmbeddedRing, None]:
    """Make this process a member of a ring: `async with cpg.open_ring("ring.conf", node=1) as ring`, on trio.

    `config` is the path of a file in corosync.conf's format, or a `totem.Config`. `node` is an id or a name of its
    nodelist; without it, the node whose address is this machine's. Raises `ConfigError` (names file and line, or the
    nodes in it), later `RingLost`. It raises `OSError`, which is no `TotemError`, where the node's address is not this
    machine's, its port is taken, or its state directory cannot be used.
    """
    require_trio("cpg.open_ring")
    async with live(prepare_ring(EmbeddedRing, config, node=node)) as ring:
        yield ring


def prepare_ring(
    kind: type[AnyRing],
    config: Config | str | PathLike[str],
    file: ConfigFile | None = None,
    *,
    node: int | str | None,
    daemon: bool = False,
) -> AnyRing:
    """Make a ring of this kind, which `live` enters. Raises the same errors as `open_ring`.

    `daemon`: nothing but the node runs in this process, so the others need not wait long for it.

    `file`: the configuration's, which is read again for a reload.
    """
    if not isinstance(config, Config):
        file = ConfigFile(pathname("config", config))
        config, warnings = file.load()
        for warning in warnings:
            _log.warning("%s", warning)
    shell = Node.open(config, own_node(config, node), daemon=daemon)
    node_id = shell.processor.node_id
    votes_file = VotesFile(Path(config.state_dir or default_directory(), f"ev_tracking_{node_id}"))
    ring = kind(config, shell, pid=os.getpid(), votes=_count_of_votes(config, node_id, votes_file))
    ring._votes_file = votes_file
    ring._file = file
    _log_transport(config, node_id)
    return ring


def _log_transport(config: Config, node_id: int) -> None:
    figures = transport_figures(config)
    fields = event_fields(
        "transport",
        node=node_id,
        transport=config.transport,
        cipher=figures["cipher"],
        hash=figures["hash"],
        fingerprint=figures["fingerprint"],
    )
    _log.info("node %d: %s", node_id, transport(figures), extra=extra(fields))


def _count_of_votes(config: Config, node_id: int, votes_file: VotesFile) -> Votequorum | None:
    """Make the node's count of votes, if it takes part in quorum."""
    if not config.quorum.provider:
        return None
    rules, warnings = Rules.of(config, node_id)
    for warning in warnings:
        _log.warning("%s", warning)
    if not rules.tracking:
        return Votequorum(node_id, rules)
    return Votequorum(node_id, rules, barrier=votes_file.load(), remember=votes_file.remember)


def _secrets(knet: Knet) -> tuple[str, str, bytes]:
    return knet.cipher, knet.hash, knet.key


class VotesFile:
    """The file with the highest number of expected votes that a node has seen, in the folder of ring sequences."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unstored: int | None = None
        self._is_failing = False

    def load(self) -> int:
        """Return the stored number; 0 if there is none."""
        return int.from_bytes(self._path.read_bytes()[:4], "little") if self._path.exists() else 0

    def remember(self, votes: int) -> None:
        """Make the number durable, now if the disk can be written: until then a restart would count fewer votes."""
        self._unstored = votes
        self.store()

    def store(self) -> None:
        """Try again to store what could not be stored. A failure is logged once."""
        if self._unstored is None:
            return
        try:
            write_durably(str(self._path), self._unstored.to_bytes(4, "little"))
        except OSError as error:
            if not self._is_failing:
                text, fault = "the expected votes cannot be stored, so a restart may count with fewer: %s", words(error)
                _log.error(text, fault, extra=extra(event_fields("disk_fault", what="expected_votes", fault=fault)))
            self._is_failing = True
            return
        self._unstored = None
        if self._is_failing:
            self._is_failing = False
            fields = event_fields("disk_recovered", what="expected_votes")
            _log.warning("the expected votes are stored again in %s", self._path, extra=extra(fields))
