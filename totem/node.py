"""The trio shell: drives one Processor on the sockets of one node.

Every turn is the same. It reads what has arrived, gives it to the processor, lets it fire what is due, and does what it
asks for, in the order of `Ready`: store, send, deliver. Turns are synchronous, so nothing else runs between two
deliveries of one turn. A program that holds the interpreter too long is a pause. It is noticed (`Processor.overdue`),
and everything that waits in the sockets is heard before any timeout is believed (rulings, F2).

Three tasks ask for turns: one when datagrams arrive, one when the processor's deadline comes, one when the program has
queued something. Their costs decide how they are made:

- A cancel scope for each packet would cost more than the packet. So the sleeper's scope is moved only when the deadline
  moves earlier. Mostly the deadline moves later, and the sleeper wakes for nothing once in a token timeout.
- A wait for the socket is a checkpoint. So one wait for each burst of datagrams lets all other tasks run as well.

A ring's number that cannot be stored must not leave this node, nor anything of that ring (rulings, G17). Until it can
be stored, the node stands still like a paused one: it receives, sends and delivers nothing, and the others go on
without it.
"""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Protocol

import trio

from totem.config import Config
from totem.configuration import Delivery
from totem.errors import RingLost, of_process_before_fork
from totem.knet import KnetEndpoint
from totem.links.machine import LinkState
from totem.log_fields import event_fields, extra
from totem.process import process_check
from totem.processor import Processor
from totem.statistics import Statistics
from totem.store import LONGEST_PAUSE, SHORTEST_PAUSE, RingStore, default_directory, words
from totem.transitions import State
from totem.udp import UdpEndpoint

_log = logging.getLogger(__name__)

BURST = 256
"""Datagrams that one turn reads; the token is passed on only at the end of a turn."""
SLICE = 4
"""Deliveries (each the messages of one frame) between two looks for the token."""
LOOKS = 16
"""Number of times that one turn looks for the token while it delivers."""
ROUNDS = 16
"""Number of times that one turn fires timers that are due at once, as in a ring of one, before other tasks may run."""
STANDING_STILL = "out of the ring until its disk can be written"
"""The state that statistics report meanwhile."""

Deliver = Callable[[Iterator[Delivery]], None]
"""Takes one batch of deliveries, all of it, also an empty one; may send meanwhile."""


class Endpoint(Protocol):
    """What a node needs of a network: `totem.udp.UdpEndpoint`, or a worse one in tests."""

    async def wait_readable(self) -> None:
        """Wait until there is something to drain."""

    @property
    def deadline(self) -> float:
        """When `advance` is due."""

    def start(self, now: float) -> None:
        """Begin to look for the other nodes."""

    def advance(self, now: float) -> None:
        """Do what is due."""

    def reconfigure(self, config: Config, now: float) -> None:
        """Take another configuration. Raises `OSError`, and changes nothing, where an address cannot be used here."""

    def drain(self, limit: int) -> list[bytes]:
        """Receive what has arrived, about `limit` datagrams at most."""

    def send(self, target: int, train: Sequence[bytes]) -> None:
        """Send datagrams to one node or to all others (0); never raises for what the network does."""

    def watch(self, node_id: int, now: float) -> None:
        """Look often whether a node answers, and no other one; 0: none."""

    def try_nodes(self, node_ids: Iterable[int], now: float) -> None:
        """Find out at once whether nodes answer (`Processor.on_trial`)."""

    on_link: Callable[[LinkState], None]
    """Called when the state of a link to another node has changed."""

    def link_states(self) -> tuple[LinkState, ...]:
        """Return the links to other nodes."""

    def overflows(self) -> int:
        """Return the number of datagrams lost because this node did not read fast enough."""

    def close(self) -> None:
        """Release everything."""


class Keys(Protocol):
    """Where keys change: `totem.knet.KnetEndpoint`."""

    @property
    def has_accepted(self) -> bool:
        """Whether a key is accepted that is not used yet."""

    def use_accepted(self) -> None:
        """Seal with it from now on."""


class Store(Protocol):
    """Where the ring sequence is kept: `totem.store.RingStore`."""

    def store(self, ring_seq: int) -> None:
        """Make the sequence durable before returning. Raises an `OSError` that names the file."""


class Node:
    """One node of a ring: a processor, a network, a store. `run` starts it."""

    def __init__(self, processor: Processor, endpoint: Endpoint, store: Store) -> None:
        self.processor = processor
        self._endpoint = endpoint
        self._store = store
        self.keys: Keys | None = None
        """Where keys change; None where packets are never sealed."""
        self._deliver: Deliver
        self._is_own = process_check()
        self._attend: Callable[[Collection[int], float], None] = lambda members, now: None
        """Told the members of each ring of ours that is installed, and nobody for any other one."""
        self._ping: Callable[[Collection[int], float], None] = lambda ours, now: None
        """Told which nodes are of this package."""
        self._attended = processor.ring
        self._config = processor.config
        """What the endpoint goes by."""
        self._pinged = processor.ours
        self._in_turn = True
        """Whether a turn is running, or `run` is not: then a kick does nothing."""
        self._kicked = False
        """Whether a kick has made a turn, and no other task has run since."""
        self._kicked_again = False
        self._kicks = trio.lowlevel.ParkingLot()
        self._sleep = trio.CancelScope()
        self._life = trio.CancelScope()
        self._error: Exception | None = None
        self._failure: str | None = None
        self._finished = False
        self._unstored: int | None = None
        """The ring sequence for which this node stands still."""
        self._changes_of_standing = trio.lowlevel.ParkingLot()
        self._comes_back = False
        """Whether it has stood still since the last turn."""

    @classmethod
    def open(cls, config: Config, node_id: int, *, trains: bool = True, daemon: bool = False) -> Node:
        """Make a node on UDP sockets, with its ring sequence in the folder that the configuration names.

        `daemon`: nothing but the node runs in this process.

        Raises `OSError` if the node's address or the folder is not available.
        """
        store = RingStore(config.state_dir or default_directory(), node_id)
        # The sockets come first: they detect a node that is started twice before the second one touches the first one's
        # file.
        kind = KnetEndpoint if config.transport == "knet" else UdpEndpoint
        endpoint = kind(config, node_id, trains=trains)
        try:
            processor = Processor(config, node_id, ring_seq=store.load(), dice=random.Random(), daemon=daemon)
        except BaseException:
            endpoint.close()
            raise
        endpoint.on_refusal = processor.on_refusal
        processor.on_stall = endpoint.check
        endpoint.drops = processor.counters.drops
        endpoint.notice = processor.diagnostics.notice
        processor.receive_buffer = endpoint.receive_buffer
        node = cls(processor, endpoint, store)
        if isinstance(endpoint, KnetEndpoint):
            node.keys = endpoint
            endpoint.links.on_hearing = processor.note_hearing
            endpoint.links.trials.on_end = processor.on_trial
        else:
            node._probe_with(endpoint)
        return node

    def _probe_with(self, endpoint: UdpEndpoint) -> None:
        """Look for who hears whom and what paths carry among nodes of ours, and cut frames to it."""
        processor = self.processor
        self._attend, self._ping = endpoint.attend, endpoint.ping
        endpoint.probing.on_hearing = processor.note_hearing
        endpoint.probing.on_whole = processor.receive
        endpoint.probing.trials.on_end = processor.on_trial
        endpoint.probing.on_limit = processor.limit_frames
        endpoint.probing.notice = processor.diagnostics.notice
        processor.on_foreign = endpoint.hear

    async def run(self, deliver: Deliver, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part in the ring until `leave` or cancellation; both announce the leave to the others.

        `deliver` is called with each batch. Raises `RingLost` if the ring cannot go on, and whatever `deliver` raises,
        unwrapped.
        """
        self._deliver = deliver
        try:
            with self._life:
                now = trio.current_time()
                self._endpoint.start(now)
                self.processor.start(now)
                self._turn()
                async with trio.open_nursery() as nursery:
                    for task in (self._listen, self._keep_time, self._follow_kicks, self._store_again):
                        nursery.start_soon(task)
                    task_status.started()
        finally:
            self._finish()
        if self._error is not None:
            raise self._error

    def kick(self) -> None:
        """Note that something was queued in the processor: a resting token must be called for at once.

        The first kick makes a turn immediately; others make one together, once other tasks have run.
        """
        if self._in_turn:
            return
        if self._kicked:
            self._kicked_again = True
            return
        self._kicked = True
        self._kicks.unpark()
        self._turn()

    def reconfigure(self, config: Config) -> None:
        """Take another configuration, which `reconfiguration.changes` has accepted (`Processor.reconfigure`).

        Raises `OSError`, and changes nothing, where an address of it cannot be used here.
        """
        now = trio.current_time()
        self._endpoint.reconfigure(self.processor.with_members(config), now)
        self.processor.reconfigure(config)
        self._config = self.processor.config
        self._sleep.deadline = min(self._sleep.deadline, self._deadline)

    def leave(self) -> None:
        """End `run` in good order."""
        self._life.cancel()

    def abandon(self) -> None:
        """Close the descriptors of a forked process, and send nothing: the node is its parent's."""
        self._in_turn = self._finished = True
        self._endpoint.close()

    def statistics(self) -> Statistics:
        """Return the processor's record, with what the sockets have dropped among its drops."""
        if not self._finished:
            self._count_overflows()
        statistics = self.processor.statistics()
        return statistics if self._unstored is None else replace(statistics, state=STANDING_STILL)

    @property
    def on_link(self) -> Callable[[LinkState], None]:
        """Called, within a turn, when the state of a link to another node has changed; it must only queue."""
        return self._endpoint.on_link

    @on_link.setter
    def on_link(self, on_link: Callable[[LinkState], None]) -> None:
        self._endpoint.on_link = on_link

    def link_states(self) -> tuple[LinkState, ...]:
        """Return the links to all other nodes, by node and number; on udpu and udp to those of this package."""
        return self._endpoint.link_states()

    def _count_overflows(self) -> None:
        if overflows := self._endpoint.overflows():
            self.processor.counters.drops["receive buffer overflow"] = overflows

    # The tasks.

    async def _listen(self) -> None:
        while True:
            await self._endpoint.wait_readable()
            if self._unstored is not None:
                await self._until_stored()
            self._turn()

    async def _keep_time(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._deadline) as self._sleep:
                await trio.sleep_forever()
            if self._unstored is not None:
                await self._until_stored()
            if self._deadline <= trio.current_time():
                self._turn()

    @property
    def _deadline(self) -> float:
        """When a turn is due: hot."""
        return min(self.processor.deadline, self._endpoint.deadline)

    async def _follow_kicks(self) -> None:
        while True:
            while not self._kicked:
                await self._kicks.park()
            self._kicked = False
            if self._kicked_again:
                self._turn()

    async def _store_again(self) -> None:
        """Store what could not be stored, as soon as that is possible again."""
        while True:
            while self._unstored is None:
                await self._changes_of_standing.park()
            began, pause = trio.current_time(), SHORTEST_PAUSE
            while not self._stores(self._unstored):
                await trio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            self._unstored = None
            self._comes_back = True
            seconds = trio.current_time() - began
            node_id = self.processor.node_id
            fields = event_fields("disk_recovered", node=node_id, what="ring_sequence")
            _log.warning("node %d: its disk can be written again, after %.1f s", node_id, seconds, extra=extra(fields))
            self._changes_of_standing.unpark_all()
            self._turn()

    async def _until_stored(self) -> None:
        while self._unstored is not None:
            await self._changes_of_standing.park()

    # A turn.

    def _turn(self) -> None:
        """Run a turn. An error ends `run`, whichever task asked for the turn. Hot: once for each burst of datagrams."""
        if self._error is not None or self._unstored is not None:
            return
        if not self._is_own():
            self._error = of_process_before_fork("ring")
            self._life.cancel()
            return
        self._in_turn = True
        self._kicked_again = False
        try:
            self._read_and_act(trio.current_time())
        except Exception as error:
            self._error = error
            self._life.cancel()
        finally:
            self._in_turn = False
        deadline = self._deadline
        if deadline < self._sleep.deadline:  # noqa: PLR1730 - to set it costs more than to look
            self._sleep.deadline = deadline

    def _read_and_act(self, now: float) -> None:
        processor = self.processor
        if self._comes_back:
            self._comes_back = False
            processor.come_back(now)
            limit = sys.maxsize
        else:
            limit = sys.maxsize if processor.overdue(now) else BURST
        endpoint = self._endpoint
        processor.receive_all(endpoint.drain(limit), now)
        if endpoint.deadline <= now:
            endpoint.advance(now)
        if processor.ours is not self._pinged:
            self._pinged = processor.ours
            self._ping(processor.ours, now)
        if processor.ring is not self._attended:
            self._attended = processor.ring
            if processor.config is not self._config:  # a node that was removed has left
                self._config = processor.config
                endpoint.reconfigure(processor.config, now)
            self._attend(processor.members if processor.pure else (), now)
            endpoint.watch(processor.watched, now)
        for _ in range(ROUNDS):
            if processor.deadline <= now:
                processor.advance(now)
            self._hand_over()
            if processor.deadline > now or self._unstored is not None:
                break

    def _hand_over(self) -> None:
        """Do what the processor asks for, and what it asks for because of that, until a batch is empty.

        The empty batch is delivered, too: it tells programs that wait for room in the send queue.
        """
        more = True
        while more:
            deliveries = self._perform()
            first = next(deliveries, None)
            more = first is not None
            self._deliver(self._watchful(first, deliveries) if first is not None else deliveries)
            if self._failure is not None:
                raise RingLost(self._failure)

    def _perform(self) -> Iterator[Delivery]:
        """Store and send what is ready; return what there is to deliver."""
        ready = self.processor.take()
        for notice in ready.notices:
            _log.warning("node %d: %s", self.processor.node_id, notice)
        for remark in ready.remarks:
            _log.info("node %d: %s", self.processor.node_id, remark)
        self._failure = ready.failure
        if ready.ring_seq is not None and not self._stores(ready.ring_seq):
            return iter(())  # what was to be sent counts as lost on its way, and what is to be delivered waits
        for target, train in ready.datagrams:
            self._endpoint.send(target, train)
        if ready.trials:
            self._endpoint.try_nodes(ready.trials, trio.current_time())
        return ready.deliveries

    def _stores(self, ring_seq: int) -> bool:
        """Make the sequence durable; if that is not possible, log it once, and stand still until it is. Return whether
        it is."""
        try:
            self._store.store(ring_seq)
        except OSError as error:
            if self._unstored is None:
                node_id, fault = self.processor.node_id, words(error)
                _log.error(
                    "node %d: out of the ring, because the sequence of a new ring cannot be stored: %s; "
                    "it comes back as soon as that is possible",
                    node_id,
                    fault,
                    extra=extra(event_fields("disk_fault", node=node_id, what="ring_sequence", fault=fault)),
                )
                self._unstored = ring_seq
                self._changes_of_standing.unpark_all()
            return False
        return True

    def _watchful(self, first: Delivery, deliveries: Iterator[Delivery]) -> Iterator[Delivery]:
        """Yield deliveries, and look for the token between every few: the ring must not wait for the application.

        What comes meanwhile is delivered after what is queued. It looks only on an installed ring, and a bounded number
        of times, because other tasks must run, too.
        """
        looks = LOOKS
        for count, delivery in enumerate(chain((first,), deliveries)):
            if looks and not count % SLICE and self.processor.state is State.OPERATIONAL:
                looks -= 1
                self._look()
            yield delivery

    def _look(self) -> None:
        datagrams = self._endpoint.drain(BURST)
        if datagrams:
            self.processor.receive_all(datagrams, trio.current_time())
            self._perform()

    def _finish(self) -> None:
        if not self._is_own():
            self.abandon()
            return
        self._in_turn = True
        if self._error is None:
            self.processor.leave(trio.current_time())
            if self._unstored is None:
                for target, train in self.processor.take().datagrams:
                    self._endpoint.send(target, train)
        self._count_overflows()
        self._finished = True
        self._endpoint.close()
