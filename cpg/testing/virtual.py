"""Test an application: the same rings and groups, on a virtual network in virtual time, with faults from a seed.

A `World` has nodes, links between them and a seed, but no sockets. Its rings are `cpg.EmbeddedRing`s: an application
that gets one cannot tell the difference::

    async def test_my_application(autojump_clock):          # pytest-trio; or trio.run(..., clock=MockClock(...))
        world = cpg.testing.World(3, seed=7)
        async with world.open_ring(1) as one, world.open_ring(2) as two:
            ...
            world.partition({1}, {2, 3})
            await trio.sleep(10)                            # takes no time at all
            world.heal()

Time is trio's: with an autojumping `trio.testing.MockClock` it passes only while everybody waits. The seed decides what
the network does. Trio's scheduler decides what the programs do, and runs ready tasks in any order: two runs are alike,
not equal. A node is one process; the tasks of a node's program run on while it is paused.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager

import trio

from cpg.embedded import AnyRing, EmbeddedRing
from cpg.node.quorum import Rules, Votequorum
from cpg.ring import live
from totem.config import Config
from totem.configuration import Delivery, Guarantee, RingId
from totem.errors import RingLost
from totem.interruption import Interruption
from totem.labels import Envelope
from totem.links.machine import Links, LinkState
from totem.links.probing import Probing
from totem.processor import Processor
from totem.statistics import Statistics
from totem.testing.cluster import Cluster, SimulatedNode
from totem.testing.network import Conditions

__all__ = ["Conditions", "World"]

Deliver = Callable[[Iterator[Delivery]], None]

STORM_CONDITIONS = (
    Conditions(loss=0.1),
    Conditions(loss=0.3, reorder=0.2),
    Conditions(duplicate=0.1, reorder=0.1, straggle=0.02),
    Conditions(delay=0.01, jitter=0.01),
)


class World:
    """Nodes 1 to `count` and the network between them; everything uncertain comes from `seed`.

    `config`: of all nodes (default: Corosync's timeouts). `conditions`: what links do to datagrams (default: delay
    them).
    """

    def __init__(
        self, count: int, *, seed: object = 0, config: Config | None = None, conditions: Conditions | None = None
    ) -> None:
        self.config = config or Config.for_nodes(count)
        self._cluster = Cluster(
            count, seed=seed, config=self.config, conditions=conditions, application=self._application
        )
        self._dice = self._cluster.dice
        self._shells: dict[int, _Shell] = {}
        """Shells of the nodes that run."""
        self._clock_offset: float | None = None
        """The difference of trio's clock and the network's, once the first node has started."""
        self._barriers: dict[int, int] = {}
        """The expected votes that nodes have stored."""
        self._pumping = trio.Lock()
        self._sleep = trio.CancelScope()

    @asynccontextmanager
    async def open_ring(self, node: int, kind: type[AnyRing] = EmbeddedRing) -> AsyncGenerator[AnyRing, None]:  # type: ignore[assignment]
        """Start a node, as `cpg.open_ring` does. A later start of the same node is a restart: its store is kept."""
        shell = _Shell(self, self._cluster[node])
        votes = self._count_of_votes(node)
        async with live(kind(self.config, shell, pid=shell.node.incarnation + 1, votes=votes)) as ring:
            yield ring

    def _count_of_votes(self, node: int) -> Votequorum | None:
        if not self.config.quorum.provider:
            return None
        rules, _ = Rules.of(self.config, node)
        barriers = self._barriers
        return Votequorum(node, rules, barrier=barriers.get(node, 0), remember=lambda v: barriers.update({node: v}))

    # ---- faults

    def crash(self, node: int, steps: int = 0) -> None:
        """End a node's process now, or before the step after its next `steps` ones; its ring ends with `RingLost`.

        A step is the storing of a ring sequence, the sending of a datagram, or a delivery.
        """
        self._cluster[node].crash(steps)
        self._notice()

    def pause(self, node: int) -> None:
        """Pause a node: it neither receives, sends nor notices time, as with SIGSTOP."""
        self._cluster[node].pause()

    def resume(self, node: int) -> None:
        """Resume a paused node."""
        self._cluster[node].resume()
        self._notice()

    def partition(self, *parts: Collection[int]) -> None:
        """Cut all links between nodes that are not together in one of the parts, and restore the others."""
        self._cluster.network.partition(*parts)

    def cut(self, sources: Collection[int], targets: Collection[int], link: int | None = None) -> None:
        """Cut the links from the ones to the others, in this direction only.

        `link`: the number of a link of transport knet, to cut that one alone.
        """
        network = self._cluster.network if link is None else self._cluster.planes[link]
        network.cut(sources, targets)

    def set_conditions(self, conditions: Conditions, source: int | None = None, target: int | None = None) -> None:
        """Change what links do to datagrams: all of them, those of one source, to one target, or a single one."""
        self._cluster.network.set_conditions(conditions, source, target)

    def heal(self) -> None:
        """Restore all links as at the start."""
        self._cluster.network.heal()
        self._notice()

    async def storm(self, seconds: float) -> None:
        """Inject faults of all kinds but crashes, from the seed; at the end all is healed."""
        dice, nodes = self._dice, list(self._cluster.nodes)
        try:
            with trio.move_on_after(seconds):
                while True:
                    dice.choice((self._storm_partition, self._storm_conditions, self._storm_pause, self.heal))()
                    await trio.sleep(dice.uniform(0.01, 2 * self.config.token))
        finally:
            for node in nodes:
                self.resume(node)
            self.heal()

    def _storm_partition(self) -> None:
        part = {node for node in self._cluster.nodes if self._dice.random() < 0.5}
        self.partition(part, set(self._cluster.nodes) - part)

    def _storm_conditions(self) -> None:
        self.set_conditions(self._dice.choice(STORM_CONDITIONS))

    def _storm_pause(self) -> None:
        node = self._dice.choice(list(self._cluster.nodes))
        if self._cluster[node].paused:
            self.resume(node)
        else:
            self.pause(node)

    # ---- time

    async def _pump(self) -> None:
        """Run the network. One of the running nodes does it for all; when its ring ends, another one continues."""
        async with self._pumping:
            network = self._cluster.network
            if self._clock_offset is None:
                self._clock_offset = trio.current_time() - network.now
            while True:
                now = trio.current_time()
                while self._next_time() <= now:
                    network.step()
                network.run(max(network.now, now - self._clock_offset))
                self._look_after_shells()
                with trio.CancelScope(deadline=self._next_time()) as self._sleep:
                    await trio.sleep_forever()

    def _next_time(self) -> float:
        next_event = self._cluster.network.next_event
        return math.inf if next_event is None else next_event + (self._clock_offset or 0.0)

    def _notice(self) -> None:
        """Note a change to the network from outside of the pump."""
        self._look_after_shells()
        if (time := self._next_time()) < self._sleep.deadline:
            self._sleep.deadline = time

    def _look_after_shells(self) -> None:
        for shell in self._shells.values():
            if not shell.node.running:
                shell.ended.set()

    def _cause_of_death(self, node: SimulatedNode) -> str:
        name = f"{node.trace.process}: "
        failures = [text.removeprefix(name) for text in self._cluster.failures if text.startswith(name)]
        return failures[-1] if failures else f"node {node.node_id} has crashed"

    def _application(self, node: SimulatedNode) -> _Shell:
        return self._shells[node.node_id]


class _Shell:
    """The driver of one virtual node: a `cpg.embedded.Shell`, and the application of a `totem.testing.cluster.Node`."""

    keys = None

    def __init__(self, world: World, node: SimulatedNode) -> None:
        self.node = node
        self.processor = _Machine(node)
        self.ended = trio.Event()
        self.on_link: Callable[[LinkState], None] = lambda state: None
        self._world = world
        self._deliver: Deliver
        self._error: Exception | None = None

    async def run(self, deliver: Deliver) -> None:
        """Run the node's process until it is cancelled or crashes."""
        self._deliver = deliver
        self._world._shells[self.node.node_id] = self
        try:
            self.node.start()
            if (links := self.node.links or self.node.probing) is not None:
                links.on_link = lambda state: self.on_link(self._timed(state))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._world._pump)
                await self.ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            self.node.leave()
            del self._world._shells[self.node.node_id]
            self._world._notice()
        raise self._error or RingLost(self._world._cause_of_death(self.node))

    def on_delivery(self, delivery: Delivery) -> None:
        """Hand a delivery on; an exception of it ends this node, not the one whose turn it is."""
        if self._error is None:
            try:
                self._deliver(iter((delivery,)))
            except Exception as error:
                self._error = error
                self.ended.set()

    def reconfigure(self, config: Config) -> None:
        """Take another configuration."""
        self.node.reload(config)
        self._world._notice()

    def abandon(self) -> None:
        """Do nothing: a virtual node has no descriptors."""

    def kick(self) -> None:
        """Run a turn of the node, unless it is paused."""
        self.node.kick()
        self._world._notice()

    def statistics(self) -> Statistics:
        """Return the processor's counters."""
        return self.processor.real.statistics()

    def link_states(self) -> tuple[LinkState, ...]:
        """Return the links to other nodes."""
        links = self.node.links or self.node.probing
        if links is None or not isinstance(links.machine, Links | Probing):
            return ()
        return tuple(map(self._timed, links.machine.states()))

    def _timed(self, state: LinkState) -> LinkState:
        """Return a state on trio's clock."""
        return state._replace(since=state.since + (self._world._clock_offset or 0.0))


class _Machine:
    """The processor of a virtual node: it may be gone at any time, and then discards what it gets."""

    def __init__(self, node: SimulatedNode) -> None:
        self.node_id = node.node_id
        self._node = node

    @property
    def real(self) -> Processor:
        """The processor itself."""
        machine = self._node.machine
        if not isinstance(machine, Processor):
            raise RingLost(f"node {self.node_id} does not run")
        return machine

    @property
    def room(self) -> int:
        """Bytes for which the send queue has room."""
        return self.real.room

    @property
    def stirred(self) -> bool:
        """Whether something was queued that must not wait."""
        return self._node.running and self.real.stirred

    @property
    def is_operational(self) -> bool:
        """Whether there is a ring that works."""
        return self._node.running and self.real.is_operational

    def interruption(self, now: float) -> Interruption | None:
        """Return what ended the ring that was complete last; the time is the network's."""
        return self.real.interruption(self._node.cluster.now) if self._node.running else None

    def restart_sync(self, silent: Iterable[int], now: float) -> bool:
        """Form the ring anew; the time is the network's."""
        return self._node.running and self.real.restart_sync(silent, self._node.cluster.now)

    def multicast(
        self, messages: Sequence[bytes], guarantee: Guarantee = Guarantee.AGREED, envelope: Envelope | None = None
    ) -> None:
        """Queue messages."""
        if self._node.running:
            self._node.multicast(messages, guarantee, envelope)

    def multicast_sync(self, messages: Sequence[bytes]) -> None:
        """Queue messages of sync."""
        if self._node.running:
            self._node.multicast_sync(messages)

    def sync_complete(self, ring_id: RingId) -> None:
        """Allow application messages: sync of that ring is complete."""
        if self._node.running:
            self._node.sync_complete(ring_id)
