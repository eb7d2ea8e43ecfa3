"""A cluster under virtual time: Processors on a simulated network, with crashes, restarts, pauses and partitions.

A `SimulatedNode` is a machine: it has an id, a store that survives crashes, and at most one running process. The
process is one `Processor` with an `Application` above it. A node drives its processor exactly as the real shells do:
datagrams in, timers that are due, then what is ready, in the order store, send, deliver. A crash may strike between any
two of these steps, and also between two sends of one step (`SimulatedNode.crash(steps)`).

Everything that a process is given or asks for is recorded in its `Trace`; the checkers judge traces alone.

One seed decides everything: the network's dice and each processor's dice come from it, and nothing else is random.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from totem.config import ETHERNET_MTU, MOST_LINKS, Config
from totem.configuration import Delivery, Guarantee, Messages, RegularConfiguration, RingId
from totem.errors import QueueFull
from totem.flow import kernel_bytes
from totem.labels import Envelope, with_headers
from totem.links.crypto import seal_of
from totem.links.machine import Links
from totem.links.probing import Probing
from totem.packing import MAX_MESSAGE
from totem.processor import Processor, Ready
from totem.reconfiguration import changes
from totem.ring import Ring
from totem.testing.corosync.knet import KnetModel
from totem.testing.history import History, Process, Sent, Trace
from totem.testing.network import Conditions, Network, Plane, Planes
from totem.testing.simulated_links import Arrival, LinksMachine, SimulatedLinks, SimulatedProbing
from totem.wire import probes

MOST_REFUSALS = 64
"""Refusals that a kernel keeps for a process that does not read them."""
GROUP_HEADER = b"\x01\x00\x01\x00a"
SYNC_HEADER = b"\x01\x00\x04\x00sync"
SHORTEST = len(SYNC_HEADER) + 8
"""Bytes of the shortest message that a node makes: group header and its name."""
_FILLER = random.Random(0).randbytes(1 << 14)


Maker = Callable[..., Any]
"""`Processor`, or a class with the same constructor and methods."""


class Application(Protocol):
    """The layer above a processor."""

    def on_delivery(self, delivery: Delivery) -> None:
        """Take the next delivery; methods of the node such as `multicast` may be called here."""


class Stamp:
    """An envelope of this kit's messages, whose payloads are composed without a header."""

    header_size = SHORTEST
    largest = MAX_MESSAGE - SHORTEST

    def __init__(self, number: int) -> None:
        self.label = b"stamp %d" % number
        self._header = GROUP_HEADER + self.label.rjust(SHORTEST - len(GROUP_HEADER))

    def __getitem__(self, length: int, /) -> bytes:
        return self._header


class AnswerAtOnce:
    """The application without a sync of its own: each ring is ready when it is installed."""

    def __init__(self, node: SimulatedNode) -> None:
        self._node = node

    def on_delivery(self, delivery: Delivery) -> None:
        """Report sync complete."""
        if isinstance(delivery, RegularConfiguration):
            self._node.sync_complete(delivery.ring_id)


class BarrierSync:
    """A small sync service: each member sends a message of two frames, then confirms that all have sent theirs.

    Only what names the present ring counts, and a confirmation only after its sender's first message (rulings, C4).
    """

    TELL, CONFIRM = b"T", b"C"

    def __init__(self, node: SimulatedNode) -> None:
        self._node = node
        self._ring = b""
        self._ring_id = RingId(0, 0)
        self._members: frozenset[int] = frozenset()
        self._told: set[int] = set()
        self._confirmed: set[int] = set()

    def on_delivery(self, delivery: Delivery) -> None:
        """Follow one sync; a new ring begins a new one."""
        if isinstance(delivery, RegularConfiguration):
            self._ring_id = delivery.ring_id
            self._ring = str(delivery.ring_id).encode()
            self._members = frozenset(delivery.members)
            self._told.clear()
            self._confirmed.clear()
            self._send(self.TELL, self._node.config.max_frame)
        elif isinstance(delivery, Messages) and delivery.ring_id == self._ring_id and self._ring:
            for message in delivery.messages:
                if message.startswith(SYNC_HEADER):
                    self._take(delivery.sender, message[SHORTEST:])

    def _send(self, kind: bytes, size: int = 0) -> None:
        self._node.multicast_sync([self._node.compose(size, SYNC_HEADER, kind + self._ring + b" ")])

    def _take(self, sender: int, text: bytes) -> None:
        kind, ring = text[:1], text[1:].partition(b" ")[0]
        if ring != self._ring:
            return
        if kind == self.TELL:
            self._told.add(sender)
            if self._told == self._members:
                self._send(self.CONFIRM)
        elif sender in self._told:
            self._confirmed.add(sender)
            if self._confirmed == self._members:
                self._ring = b""
                self._node.sync_complete(self._ring_id)


class _Crash(BaseException):
    """The armed crash of a node strikes; nothing of the processor may catch it."""


def _kernel_bytes(datagram: Arrival | bytes) -> int:
    return kernel_bytes(len(datagram if isinstance(datagram, bytes) else datagram.datagram))


class SimulatedNode:
    """One machine of a cluster: its id and its store, and the process that runs on it, if any."""

    SOCKET_BUFFER = 425_984
    """Bytes that the kernel keeps for a process without privileges that does not read; more is lost."""
    DRAIN_BUDGET = 64
    """Datagrams that a shell takes at once, unless its processor was paused."""

    def __init__(self, cluster: Cluster, node_id: int, maker: Maker, *, foreign: bool) -> None:
        self.cluster = cluster
        self.config = cluster.config
        self._peers: list[int] = []
        self._peers_of: Config | None = None
        """The configuration of these."""
        self._config = cluster.config
        """What the process goes by: it has all members of its ring, too."""
        self.node_id = node_id
        self.foreign = foreign
        self.is_daemon = False
        """Whether nothing but the node runs in its process."""
        self.stored = 0
        """The ring sequence in the store."""
        self.incarnation = 0
        self.machine: Processor | None = None
        self.paused = False
        self.trace = Trace(Process(node_id, 0, foreign))
        self._application: Application
        self._maker = maker
        self._network = cluster.network
        self.mtus = dict.fromkeys(range(MOST_LINKS), ETHERNET_MTU)
        """Bytes of the largest IP packet that leaves this computer, by the number of the link."""
        self.links: SimulatedLinks | None = None
        """Those of the process, with transport knet."""
        self.probing: SimulatedProbing | None = None
        """The links machine of a process of this package, with transports udpu and udp."""
        self._inbox: deque[Arrival | bytes] = deque()
        self._inbox_bytes = 0
        self.socket_buffer = self.SOCKET_BUFFER
        """In bytes, as the kernel counts them."""
        self.labour = 0.0
        """Seconds of work for each datagram; what comes meanwhile waits in the socket."""
        self.overflows = 0
        """Datagrams that found the socket's buffer full."""
        self._working = False
        """Whether `_work` will be called."""
        self._wake = float("inf")
        """When the network calls `_on_timer` next."""
        self._refusals: list[tuple[int, int]] = []
        """What the kernel has to tell: links, and nodes whose machines have refused something."""
        self._watched_in: Ring | None = None
        """The ring as of which a member is watched over knet."""
        self._fuse = 0
        """Steps until the armed crash strikes; 0 if none is armed."""
        self._composed = 0
        self._asked = False
        """Whether the application has asked for something since the last `take`."""
        if isinstance(self._network, Planes):
            for number, plane in self._network.planes.items():
                plane.attach_with_source(node_id, partial(self._receive_on, number))
                plane.attach_refusals(node_id, partial(self.on_refusal, number))
        else:
            self._network.attach_with_source(node_id, self._receive_from)
            self._network.attach_refusals(node_id, partial(self.on_refusal, 0))

    @property
    def running(self) -> bool:
        """Whether a process runs here, even a paused one."""
        return self.machine is not None

    # Life.

    def start(self) -> None:
        """Run a new process on what the store holds."""
        assert self.machine is None, f"node {self.node_id} runs already"
        cluster = self.cluster
        self.incarnation += 1
        self.trace = Trace(Process(self.node_id, self.incarnation, self.foreign))
        cluster.traces.append(self.trace)
        self.machine = self._maker(
            self.config,
            self.node_id,
            ring_seq=self.stored,
            dice=random.Random(cluster.dice.getrandbits(64)),
            first_seq=cluster.first_seq,
            first_token_seq=cluster.first_token_seq,
            trace=self._on_trace if cluster.on_trace else None,
            **({"daemon": True} if self.is_daemon else {}),
        )
        self._config = self.config
        self.machine.receive_buffer = self.socket_buffer
        self.links = cluster.open_links(self)
        self.probing = cluster.open_probing(self)
        self._application = cluster.application(self)
        self._composed = 0
        self._fuse = 0
        if self.links is not None:
            self.links.start(self._network.now)
        self.machine.start(self._network.now)
        self.turn()

    def reload(self, config: Config) -> tuple[str, ...]:
        """Take another configuration, as after a reload of the file; return what changes."""
        changed = changes(self.config, config, self.node_id)
        self.config = config
        if self.machine is not None:
            if (below := self.links or self.probing) is not None:
                below.reconfigure(self.machine.with_members(config))
            self.machine.reconfigure(config)
            self._config = self.machine.config
        return changed

    def _receivers(self, target: int) -> Sequence[int]:
        """Return where a datagram goes, without links: to the nodes that this one knows."""
        if self._peers_of is not self._config:
            self._peers_of = self._config
            self._peers = [entry.node_id for entry in self._config.nodes if entry.node_id != self.node_id]
        if not target:
            return self._peers
        return (target,) if target in self._peers else ()

    def _follow_config(self) -> None:
        """Forget the places of removed nodes that have left."""
        machine = self.machine
        if machine is None or self.foreign or machine.config is self._config:
            return
        self._config = machine.config
        if (below := self.links or self.probing) is not None:
            below.reconfigure(self._config)

    def crash(self, steps: int = 0) -> None:
        """End the process with all it holds in memory: now, or before the step after the next `steps` ones."""
        if steps:
            self._fuse = steps
        elif self.machine is not None:
            self._end()

    def disarm(self) -> None:
        """Cancel an armed crash."""
        self._fuse = 0

    def leave(self) -> None:
        """End the process in good order."""
        if self.machine is not None:
            self.machine.leave(self._network.now)
            self.turn()
            self._end()

    def pause(self) -> None:
        """Stop the process as SIGSTOP does: datagrams and timers wait."""
        self.paused = self.running

    def resume(self) -> None:
        """Let the process continue, as the shells do after a pause: what waits comes before a timeout is believed."""
        if not self.paused:
            return
        self.paused = False
        while self.machine is not None:
            count = len(self._inbox) if self.machine.overdue(self._network.now) else self.DRAIN_BUDGET
            self.turn([self._inbox.popleft() for _ in range(min(count, len(self._inbox)))])
            if not self._inbox:
                break
        self._inbox_bytes = 0

    def _fail(self, reason: str) -> None:
        self.cluster.failures.append(f"{self.trace.process}: {reason}")
        self._end()

    def _end(self) -> None:
        if self.links is not None:
            self.cluster.link_marks += self.links.marks
        self.machine = self.links = self.probing = None
        self.trace.ended = True
        self.paused = False
        self._wake = float("inf")
        self._refusals.clear()
        self._inbox.clear()
        self._inbox_bytes = 0

    # What the outside world does to the process.

    def receive(self, datagram: bytes) -> None:
        """Take a datagram from the network; with transport knet, a packet that has come out of the links."""
        self._take(datagram)

    def _receive_from(self, source: int, datagram: bytes) -> None:
        if self.machine is None:
            self._network.refuse(source, self.node_id)
        else:
            assert not (self.foreign and datagram.startswith(probes.MAGIC)), "a probe to a node of another make"
            self._take(datagram)

    def _receive_on(self, link: int, source: int, datagram: bytes) -> None:
        if self.machine is None:
            self.cluster.planes[link].refuse(source, self.node_id)
        else:
            self._take(Arrival(link, source, datagram))

    def _take(self, datagram: Arrival | bytes) -> None:
        machine = self.machine
        if machine is None:
            return
        if self.paused or self.labour or self._inbox:
            if self._inbox_bytes < self.socket_buffer:
                self._inbox.append(datagram)
                self._inbox_bytes += _kernel_bytes(datagram)
            else:
                self.overflows += 1
            self._begin_work()
            return
        machine.overdue(self._network.now)
        self.turn((datagram,))

    def _begin_work(self) -> None:
        if self._inbox and not self._working and not self.paused:
            self._working = True
            self._network.at(self._network.now + self.labour, self._work)

    def _work(self) -> None:
        """Finish the oldest datagram."""
        self._working = False
        machine = self.machine
        if machine is not None and self._inbox and not self.paused:
            datagram = self._inbox.popleft()
            self._inbox_bytes -= _kernel_bytes(datagram)
            machine.overdue(self._network.now)
            self.turn((datagram,))
            self._begin_work()

    def _on_timer(self, time: float) -> None:
        # Deadlines mostly move later; then an early call finds nothing due and asks for another one.
        machine = self.machine
        if time != self._wake or machine is None:
            return
        self._wake = float("inf")
        if not self.paused:
            machine.overdue(self._network.now)
            self.turn()

    def send(
        self, messages: Sequence[bytes], guarantee: Guarantee = Guarantee.AGREED, envelope: Envelope | None = None
    ) -> None:
        """Multicast from outside of a delivery. Raises what the processor raises, QueueFull above all."""
        self.multicast(messages, guarantee, envelope)
        self.turn()

    def try_send(
        self, messages: Sequence[bytes], guarantee: Guarantee = Guarantee.AGREED, envelope: Envelope | None = None
    ) -> bool:
        """Multicast from outside of a delivery; return whether the queue had room."""
        try:
            self.send(messages, guarantee, envelope)
        except QueueFull:
            return False
        return True

    def compose(self, size: int, header: bytes = GROUP_HEADER, text: bytes = b"") -> bytes:
        """Return a message that is equal to no other, of `size` bytes or as many as it needs."""
        self._composed += 1
        name = self.node_id << 48 | self.incarnation << 32 | self._composed
        message = header + name.to_bytes(8, "little") + text
        missing = size - len(message)
        if missing <= 0:
            return message
        start = self._composed % 251
        return message + (_FILLER * (1 + missing // (len(_FILLER) - 256)))[start : start + missing]

    def kick(self) -> None:
        """Do what was asked of the processor from outside of a delivery."""
        if self.running and not self.paused:
            self.turn()

    # What the application may call.

    def multicast(
        self, messages: Sequence[bytes], guarantee: Guarantee = Guarantee.AGREED, envelope: Envelope | None = None
    ) -> None:
        """Give messages to the processor, and record them in the trace, with their headers if they have an envelope."""
        assert self.machine is not None
        whole = tuple(messages)
        if envelope is not None:
            self.cluster.envelopes[self.node_id, envelope.label] = envelope
            whole = tuple(with_headers(messages, envelope))
        if self.foreign:
            self.machine.multicast(whole, guarantee)
        else:
            self.machine.multicast(messages, guarantee, envelope)
        self.trace.events.append(Sent(whole, guarantee))
        self._asked = True

    def multicast_sync(self, messages: Sequence[bytes]) -> None:
        """Give sync messages to the processor, and record them in the trace."""
        assert self.machine is not None
        self.machine.multicast_sync(messages)
        self.trace.events.append(Sent(tuple(messages), Guarantee.AGREED, sync=True))
        self._asked = True

    def sync_complete(self, ring_id: RingId) -> None:
        """Report that the application has finished its sync of a ring."""
        assert self.machine is not None
        self.machine.sync_complete(ring_id)
        self._asked = True

    # The driver.

    def turn(self, datagrams: Sequence[Arrival | bytes] = ()) -> None:
        """Do as the shells do on waking: take what came, fire timers, do what is ready until there is no more."""
        machine = self.machine
        assert machine is not None
        now, links, probing = self._network.now, self.links, self.probing
        try:
            if links is not None:
                datagrams = links.receive(datagrams, self._step)
            machine.receive_all(datagrams, now)  # type: ignore[arg-type]
            if self._refusals:
                self._follow_refusals()
            if links is not None and links.deadline <= now:
                links.advance(now, self._step)
            if links is not None and isinstance(machine, Processor) and machine.ring is not self._watched_in:
                self._watched_in = machine.ring
                links.watch(machine.watched, now)
            if probing is not None:
                probing.advance(now)
            if machine.deadline <= now:
                machine.advance(now)
            self._follow_config()
            self._asked = True
            while self._asked and self.machine is not None:
                self._asked = False
                self._perform(machine.take())
        except _Crash:
            self._end()
        except AssertionError as death:
            if not self.foreign:
                raise
            self._fail(str(death))
        deadline = machine.deadline
        if (below := links or probing) is not None:
            deadline = min(deadline, below.deadline)
        if self.machine is not None and deadline < self._wake:
            self._wake = max(deadline, now)
            self._network.at(self._wake, self._on_timer, self._wake)

    def on_refusal(self, link: int, node_id: int) -> None:
        """Be told by the kernel that another node's machine has refused a datagram of this one."""
        if self.machine is not None and len(self._refusals) < MOST_REFUSALS:
            self._refusals.append((link, node_id))
            self.kick()

    def _follow_refusals(self) -> None:
        refusals, self._refusals = self._refusals, []
        now = self._network.now
        for link, node_id in refusals:
            if self.links is not None:
                self.links.on_refusal(link, node_id)
            elif self.probing is not None:
                self.probing.on_refusal(node_id, now)
            if isinstance(self.machine, Processor):
                self.machine.on_refusal(node_id, now)

    def _perform(self, ready: Ready) -> None:
        network = self._network
        if ready.ring_seq is not None:
            if self._fuse:
                self._burn()
            self.stored = ready.ring_seq
        if isinstance(self.machine, Processor) and ready.trials and (below := self.links or self.probing) is not None:
            below.try_nodes(ready.trials, network.now)
        for target, train in ready.datagrams:
            if self.links is not None:
                self.links.send(target, train, self._step)
                continue
            for datagram in train:
                for receiver in self._receivers(target):
                    if self._fuse:
                        self._burn()
                    pieces = self.probing.cut(receiver, datagram) if self.probing is not None else [datagram]
                    for piece in pieces:
                        if piece.startswith(probes.MAGIC):
                            network.send_probe(self.node_id, receiver, piece)
                        else:
                            network.send(self.node_id, receiver, piece)
        events = self.trace.events
        for delivery in ready.deliveries:
            if self._fuse:
                self._burn()
            if isinstance(delivery, Messages):
                self._write_down(delivery)
            else:
                events.append(delivery)
            self._application.on_delivery(delivery)
        if ready.failure is not None:
            self._fail(ready.failure)

    def _write_down(self, delivery: Messages) -> None:
        """Record messages in the trace as they were sent: with headers, and those of one frame together.

        That includes those of the frame that come after what the application sent on the first one. A process is given
        a part of a frame only if it crashes there, so nothing that is judged depends on it.
        """
        events = self.trace.events
        if delivery.label:
            self.cluster.labelled += len(delivery.messages)
            envelope = self.cluster.envelopes[delivery.sender, delivery.label]
            delivery = delivery._replace(messages=with_headers(delivery.messages, envelope), label=b"")
        place = len(events) - 1
        while place >= 0 and isinstance(events[place], Sent):
            place -= 1
        last = events[place] if place >= 0 else None
        if isinstance(last, Messages) and last[:4] == delivery[:4]:
            events[place] = last._replace(messages=last.messages + delivery.messages)
        else:
            events.append(delivery)

    def _step(self) -> None:
        if self._fuse:
            self._burn()

    def _burn(self) -> None:
        self._fuse -= 1
        if not self._fuse:
            raise _Crash

    def _on_trace(self, name: str, *details: Any) -> None:
        assert self.cluster.on_trace is not None
        self.cluster.on_trace(self, name, *details)


class _Drain:
    """A last message of each member of a ring: when all have all of these, no older message is on its way."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ring_id = cluster.installed_ring
        self._unsent = {node: node.compose(0) for node in cluster.running}
        self._missing = {node: set(self._unsent.values()) for node in self._unsent}
        self._read = {node: len(node.trace.events) for node in self._unsent}

    @property
    def complete(self) -> bool:
        """Whether all nodes have all of them."""
        return not any(self._missing.values())

    def is_over(self) -> bool:
        """Send what has not been sent yet, look for what has come; return whether it is complete, or the ring has
        changed."""
        if self._cluster.installed_ring != self._ring_id:
            return True
        for node, message in list(self._unsent.items()):
            if node.try_send([message], Guarantee.AGREED if node.foreign else Guarantee.SAFE):
                del self._unsent[node]
        for node, missing in self._missing.items():
            events = node.trace.events
            for position in range(self._read[node], len(events)):
                event = events[position]
                if isinstance(event, Messages):
                    missing.difference_update(event.messages)
            self._read[node] = len(events)
        return self.complete


class Cluster:
    """Nodes 1 to `count` on one network, none of them started.

    `makers` gives some nodes another implementation (the model of a Corosync node); what runs there is judged as a
    foreign process.
    """

    def __init__(
        self,
        count: int,
        *,
        seed: object = 0,
        config: Config | None = None,
        conditions: Conditions | None = None,
        application: Callable[[SimulatedNode], Application] = AnswerAtOnce,
        makers: Mapping[int, Maker] | None = None,
        first_seq: int = 0,
        first_token_seq: int = 0,
        on_trace: Callable[..., None] | None = None,
        daemons: bool = False,
    ) -> None:
        """`daemons`: nothing but the node runs in each process of this package (`SimulatedNode.is_daemon`)."""
        self.config = config or Config.for_nodes(count)
        self.dice = random.Random(f"{seed}")
        self.network = self._make_network(count, conditions)
        self.application = application
        self.first_seq = first_seq
        self.first_token_seq = first_token_seq
        self.on_trace = on_trace
        """Called with (node, name, details…) for what processors of this package trace."""
        self.traces: list[Trace] = []
        """The traces of all processes, in the order of their starts."""
        self.failures: list[str] = []
        """The processes that could not go on, and why. A foreign one dies of its own assertions."""
        makers = makers or {}
        self.nodes = {
            node_id: SimulatedNode(self, node_id, makers.get(node_id, Processor), foreign=node_id in makers)
            for node_id in range(1, count + 1)
        }
        for node in self.nodes.values():
            node.is_daemon = daemons and not node.foreign
        self.envelopes: dict[tuple[int, bytes], Envelope] = {}
        """All envelopes that were used, by node id and label."""
        self.labelled = 0
        """Messages that were delivered with a label."""
        self.first_number = 0
        """The number of the last data packet that the first process of each node has sent over knet, as it seems."""
        self.link_marks: Counter[str] = Counter()
        """What has become of the links of processes that have ended, and what they have dropped."""
        self._losses = 0

    def _make_network(self, count: int, conditions: Conditions | None) -> Network:
        dice = random.Random(self.dice.getrandbits(64))
        if self.config.knet is None:
            return Network(range(1, count + 1), dice, conditions)
        return Planes(range(1, count + 1), dice, conditions, [link.number for link in self.config.knet.links])

    def __getitem__(self, node_id: int) -> SimulatedNode:
        return self.nodes[node_id]

    @property
    def planes(self) -> dict[int, Plane]:
        """The networks of the links of transport knet, by number."""
        assert isinstance(self.network, Planes)
        return self.network.planes

    def open_links(self, node: SimulatedNode) -> SimulatedLinks | None:
        """Make the links of a new process; None where the transport has none."""
        if not isinstance(self.network, Planes):
            return None
        assert node.config.knet is not None
        maker: Callable[..., LinksMachine] = KnetModel if node.foreign else Links
        machine = maker(node.config, node.node_id, seal_of(node.config.knet, self.dice.randbytes))
        if isinstance(machine, Links) and isinstance(node.machine, Processor):
            machine.on_hearing = node.machine.note_hearing
            machine.trials.on_end = node.machine.on_trial
        if node.incarnation == 1:  # later ones begin with 0, which is how the others notice them
            if isinstance(machine, Links):
                machine._seq = self.first_number
            elif isinstance(machine, KnetModel):
                machine.tx_seq_num = self.first_number
        links = SimulatedLinks(machine, self.network, self.config, node.node_id, node.mtus)
        if isinstance(node.machine, Processor):
            node.machine.on_stall = links.check
        return links

    def open_probing(self, node: SimulatedNode) -> SimulatedProbing | None:
        """Make the links machine of a new process; None over knet, which has another one, and for real nodes."""
        if isinstance(self.network, Planes) or not isinstance(node.machine, Processor):
            return None
        return SimulatedProbing(Probing(node.config, node.node_id), self.network, node.node_id, node.machine)

    @property
    def now(self) -> float:
        """The virtual time in seconds."""
        return self.network.now

    @property
    def running(self) -> list[SimulatedNode]:
        """Nodes with a process, paused ones included."""
        return [node for node in self.nodes.values() if node.machine is not None]

    def start(self, *node_ids: int) -> None:
        """Start these nodes, or all; a restart is the same."""
        for node_id in node_ids or self.nodes:
            self.nodes[node_id].start()

    def lose_store(self, node_id: int) -> None:
        """Lose a stopped node's store. It will start from the wall clock, which is beyond all that has been used."""
        assert not self.nodes[node_id].running
        self._losses += 1
        self.nodes[node_id].stored = self._losses * 1_000_000_000

    # Time.

    def run_for(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.network.run(self.now + seconds)

    def run_until(self, predicate: Callable[[], object], limit: float, every: float = 0.0) -> bool:
        """Let time pass until the predicate holds, at most `limit` seconds; return whether it does.

        It is called after each event, or only after each `every` seconds.
        """
        end = self.now + limit
        network = self.network
        while not predicate():
            next_event = network.next_event
            if next_event is None or next_event > end:
                network.run(end)
                return bool(predicate())
            if every:
                network.run(min(end, max(next_event, self.now + every)))
            else:
                network.step()
        return True

    # What tests ask for.

    @property
    def installed_ring(self) -> RingId | None:
        """Return the one ring that exactly the running nodes are on; None if there is no such ring."""
        nodes = self.running
        return nodes[0].machine.ring_id if self.one_ring() else None  # type: ignore[union-attr]

    def one_ring(self, *node_ids: int) -> bool:
        """Return whether exactly these nodes, by default all running ones, are together on one installed ring."""
        ids = tuple(sorted(node_ids)) or tuple(node.node_id for node in self.running)
        machines = [self.nodes[node_id].machine for node_id in ids]
        return bool(machines) and all(
            machine is not None
            and machine.state.name == "OPERATIONAL"
            and machine.members == ids
            and machine.ring_id == machines[0].ring_id  # type: ignore[union-attr]
            for machine in machines
        )

    def form(self, *node_ids: int, limit: float = 60.0) -> None:
        """Run until these nodes, or all that run, form one ring."""
        assert self.run_until(lambda: self.one_ring(*node_ids), limit), f"no ring after {limit} s: {self}"

    def settle(self, limit: float = 60.0) -> bool:
        """Run until all running nodes are one ring and all that was sent is delivered; return whether that happened."""
        end = self.now + limit
        every = self.config.token / 20
        while self.run_until(self.one_ring, end - self.now, every) and self.now < end:
            drain = _Drain(self)
            self.run_until(drain.is_over, end - self.now, every)
            if drain.complete:
                return True
        return False

    def delivered(self, node_id: int) -> list[bytes]:
        """Return all messages that the present or last process of a node has been given, in order."""
        events = self.nodes[node_id].trace.events
        return [message for event in events if isinstance(event, Messages) for message in event.messages]

    def configurations(self, node_id: int) -> Iterator[Delivery]:
        """Return all configurations that the present or last process of a node has been given, in order."""
        for event in self.nodes[node_id].trace.events:
            if not isinstance(event, Messages | Sent):
                yield event

    def history(self, *, quiescent: bool) -> History:
        """Return what the checkers judge."""
        return History(self.traces, quiescent=quiescent)

    def __str__(self) -> str:
        return ", ".join(
            f"{node.node_id}: "
            + (f"{node.machine.state.name} {node.machine.ring_id} {node.machine.members}" if node.machine else "down")
            + (" paused" if node.paused else "")
            for node in self.nodes.values()
        )
