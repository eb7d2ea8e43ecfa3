"""The links in virtual time: what `totem.knet` and `totem.udp` are on sockets.

Each link is a network of its own (`totem.testing.network.Planes`), with its own conditions. A computer refuses packets
above its MTU and names it; what lies between computers loses what is too large for it (`Conditions.longest`) and
says nothing. Where no process runs, the computer refuses what comes, as the kernel does by ICMP.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from totem.config import IP_UDP_HEADERS, Config, Knet
from totem.links.arrivals import NUMBERS, WINDOW
from totem.links.crypto import Seal
from totem.links.machine import LinkChange, Links, LinkState
from totem.links.path import PAUSE, PathChange
from totem.links.probing import Probing
from totem.processor import Processor
from totem.testing.network import Network, Planes
from totem.wire import knet, probes

DELIVERED_TWICE = "link delivered twice"
"""Counted where a packet has come out of the links a second time."""
IP_UDP = IP_UDP_HEADERS[4]


class Arrival(NamedTuple):
    """A datagram, and from which node over which link it has come."""

    link: int
    source: int
    datagram: bytes


class Departing(Protocol):
    """Datagrams that are to be sent over one link, in order."""

    @property
    def link(self) -> int:
        """The number of the link."""

    @property
    def node_id(self) -> int:
        """Whom they are for."""

    @property
    def datagrams(self) -> Sequence[bytes]:
        """In order."""


class LinksMachine(Protocol):
    """`totem.links.machine.Links`, or the model of libknet."""

    @property
    def deadline(self) -> float:
        """When `advance` is due."""

    def start(self, now: float) -> None:
        """Begin to look for the other nodes."""

    def advance(self, now: float) -> None:
        """Do what is due."""

    def delay(self, seconds: float) -> None:
        """Wait longer for answers, because the process did not listen."""

    def accept(self, settings: Knet, seal: Seal) -> None:
        """Open what is sealed with another key, cipher or hash, too."""

    def use_accepted(self, now: float) -> None:
        """Send with what was accepted."""

    def take(self) -> Sequence[Departing]:
        """Return what is to be sent."""

    def send(self, target: int, train: Sequence[bytes], now: float) -> None:
        """Send packets of totem."""

    def receive(self, link: int, source: str, datagrams: Sequence[bytes], now: float) -> list[bytes]:
        """Take datagrams from an address; return packets of totem."""

    def too_large(self, link: int, node_id: int, mtu: int, now: float) -> None:
        """Note that a packet of more than `mtu` bytes was refused."""

    def unreachable(self, link: int, node_id: int, now: float) -> None:
        """Note that a machine has refused what was sent to it."""


class SimulatedProbing:
    """The links machine of one process on transport udpu or udp."""

    def __init__(self, probing: Probing, network: Network, node_id: int, processor: Processor) -> None:
        self.machine = probing
        self.on_link: Callable[[LinkState], None] = lambda state: None
        """Called when the state of a link has changed."""
        self._network = network
        self._node_id = node_id
        self._processor = processor
        self._pinged = processor.ours
        self._attended = processor.ring
        probing.on_limit = processor.limit_frames
        probing.notice = processor.diagnostics.notice
        probing.on_hearing = processor.note_hearing
        probing.trials.on_end = processor.on_trial
        processor.on_foreign = self._hear
        processor.on_stall = self._check
        probing.on_whole = processor.receive

    @property
    def deadline(self) -> float:
        """When `advance` is due."""
        return self.machine.deadline

    def advance(self, now: float) -> None:
        """Do what is due, as the shell does."""
        late = now - self.machine.deadline
        if late > PAUSE:
            self.machine.delay(late)
        if late >= 0:
            self.machine.advance(now)
        processor = self._processor
        if processor.ours is not self._pinged:
            self._pinged = processor.ours
            self.machine.ping(processor.ours, now)
        if processor.ring is not self._attended:
            self._attended = processor.ring
            self.machine.attend(processor.members if processor.pure else (), now)
            self.machine.watch(processor.watched, now)
        self._flush()

    def reconfigure(self, config: Config) -> None:
        """Take another nodelist."""
        self.machine.reconfigure(config, self._network.now)
        self._flush()

    def cut(self, node_id: int, datagram: bytes) -> list[bytes]:
        """Return a datagram as it goes to a node: in pieces where its path is too narrow."""
        return self.machine.cut(node_id, (datagram,)) if node_id in self.machine.narrow else [datagram]

    def on_refusal(self, node_id: int, now: float) -> None:
        """Hear that the machine of a node has refused a datagram."""
        self.machine.unreachable(node_id, now)
        self._flush()

    def try_nodes(self, node_ids: Iterable[int], now: float) -> None:
        """Find out at once whether nodes answer."""
        self.machine.try_nodes(node_ids, now)
        self._flush()

    def _check(self, now: float) -> None:
        self.machine.check(now)
        self._flush()

    def _hear(self, datagram: bytes, now: float) -> bool:
        is_mine = self.machine.receive(datagram, now)
        self._flush()
        return is_mine

    def _flush(self) -> None:
        for node_id, datagram in self.machine.take():
            self._network.send_probe(self._node_id, node_id, datagram)
        for change in self.machine.take_changes():
            self.on_link(self.machine.state(change.node_id))


class _Numbers:
    """The numbers of packets that came out of the links of one process: each once, until their sender is forgotten."""

    def __init__(self, marks: Counter[str]) -> None:
        self._marks = marks
        self._delivered: dict[int, set[int]] = {}
        self._latest: dict[int, int] = {}
        self._told: dict[int, tuple[int, int]] = {}
        """By sender: when its latest ping left, and the number that it told."""

    def forget(self, source: int) -> None:
        """Begin afresh: a link to the node has gone down, or it has started again, or is far ahead."""
        self._delivered[source] = set()
        self._latest.pop(source, None)

    def note(self, arrival: Arrival, *, delivers: bool) -> None:
        """Take a datagram, and whether a packet has come out with it."""
        source, packet = arrival.source, arrival.datagram
        if packet[1:2] == bytes((knet.PING,)) and len(packet) >= knet.PING_BYTES:
            said = knet.read_ping(packet)
            told = knet.moment(said.time), said.seq
            before = self._told.setdefault(source, told)
            if told > before:
                self._told[source] = told
            has_restarted = told > before and 0 < (before[1] - said.seq) % NUMBERS < NUMBERS // 2
            if not said.timed or not said.seq or has_restarted:
                self.forget(source)
        if not delivers:
            return
        seq = int.from_bytes(packet[knet.SEQ_AT], "big")
        ahead = (seq - self._latest.setdefault(source, seq)) % NUMBERS
        if WINDOW <= ahead <= NUMBERS - WINDOW:
            self.forget(source)
        if ahead < NUMBERS // 2:
            self._latest[source] = seq
        delivered = self._delivered.setdefault(source, set())
        self._marks[DELIVERED_TWICE] += seq in delivered
        delivered.add(seq)


class SimulatedLinks:
    """The links of one process."""

    def __init__(
        self, machine: LinksMachine, planes: Planes, config: Config, node_id: int, mtus: Mapping[int, int]
    ) -> None:
        """`config` has all computers. `mtus`: bytes of the largest IP packet that this one sends, by the link."""
        self.machine = machine
        self.on_link: Callable[[LinkState], None] = lambda state: None
        """Called when the state of a link of this package has changed."""
        self._planes = planes
        self._config = config
        self._node_id = node_id
        self._mtus = mtus
        self.marks: Counter[str] = Counter()
        """What has become of links of this package, and what they have dropped."""
        self._found: dict[tuple[int, int], int] = {}
        """The MTU that was found last, by node and link."""
        self._is_clear = config.knet is not None and not config.knet.is_sealed
        self._pieces: list[bytes] = []
        """The fragments, up to now, of the packet that is leaving."""
        self._numbers: _Numbers | None = None
        """What has been delivered, where that can be seen."""
        if isinstance(machine, Links):
            machine.drops = self.marks
            if self._is_clear:
                self._numbers = _Numbers(self.marks)

    @property
    def deadline(self) -> float:
        """When `advance` is due."""
        return self.machine.deadline

    def start(self, now: float) -> None:
        """Begin to look for the other nodes."""
        self.machine.start(now)
        self._flush(lambda: None)

    def advance(self, now: float, step: Callable[[], None]) -> None:
        """Do what is due, as the shell does; `step` is called before each datagram leaves."""
        late = now - self.machine.deadline
        if late > PAUSE:
            self.machine.delay(late)
        self.machine.advance(now)
        self._flush(step)

    def check(self, now: float) -> None:
        """Look at once whether all links carry what they did."""
        if isinstance(self.machine, Links):
            self.machine.check(now)
            self._flush(lambda: None)

    def watch(self, node_id: int, now: float) -> None:
        """Look often whether a node answers."""
        if isinstance(self.machine, Links):
            self.machine.watch(node_id, now)

    def receive(self, arrivals: Iterable[Arrival | bytes], step: Callable[[], None]) -> list[bytes]:
        """Return what comes out of the links. Bytes alone are a packet of totem that has come already."""
        packets: list[bytes] = []
        filters, now = self._planes.filters, self._planes.now
        for arrival in arrivals:
            if isinstance(arrival, bytes):
                packets.append(arrival)
                continue
            source = self._config.node(arrival.source).address_on(arrival.link)
            received = self.machine.receive(arrival.link, source, (arrival.datagram,), now)
            if self._numbers is not None:
                self._numbers.note(arrival, delivers=bool(received))
            if self._is_seen(arrival.datagram):
                packets += received
                continue
            packets += [
                packet
                for packet in received
                if packet.startswith(probes.MAGIC)
                or not any(swallows(arrival.source, self._node_id, packet) for swallows in filters)
            ]
        self._flush(step)
        return packets

    def _is_seen(self, datagram: bytes) -> bool:
        """Return whether filters see a packet as it leaves: data in clear."""
        return (
            self._is_clear
            and len(datagram) > knet.DATA_HEADER
            and datagram[1] == knet.DATA
            and not datagram[knet.COMPRESSION_AT]
        )

    def _swallows(self, target: int, datagram: bytes) -> bool:
        """Return whether a filter swallows a datagram: a packet, or the last fragment of one."""
        if not self._planes.filters or not self._is_seen(datagram):
            return False
        said = knet.read_fragment(datagram)
        if said.number <= 1:
            self._pieces.clear()
        self._pieces.append(datagram[knet.DATA_HEADER :])
        if said.number and said.number < said.fragments:
            return False
        packet = b"".join(self._pieces)
        return not packet.startswith(probes.MAGIC) and any(
            swallows(self._node_id, target, packet) for swallows in self._planes.filters
        )

    def send(self, target: int, train: Sequence[bytes], step: Callable[[], None]) -> None:
        """Send packets of totem."""
        self.machine.send(target, train, self._planes.now)
        self._flush(step)

    def try_nodes(self, node_ids: Iterable[int], now: float) -> None:
        """Find out at once whether nodes answer."""
        assert isinstance(self.machine, Links)
        self.machine.try_nodes(node_ids, now)
        self._flush(lambda: None)

    def on_refusal(self, link: int, node_id: int) -> None:
        """Hear that the machine of a node has refused a datagram."""
        self.machine.unreachable(link, node_id, self._planes.now)
        self._flush(lambda: None)

    def reconfigure(self, config: Config) -> None:
        """Take another configuration."""
        assert isinstance(self.machine, Links)
        self.machine.reconfigure(config, self._planes.now)
        self._flush(lambda: None)

    def use_accepted(self) -> None:
        """Send with the key, cipher and hash that were accepted."""
        self.machine.use_accepted(self._planes.now)
        self._flush(lambda: None)

    def _flush(self, step: Callable[[], None]) -> None:
        while departures := self.machine.take():
            for departure in departures:
                plane, mtu = self._planes.planes[departure.link], self._mtus[departure.link]
                for datagram in departure.datagrams:
                    if len(datagram) + IP_UDP > mtu:
                        self.machine.too_large(departure.link, departure.node_id, mtu, self._planes.now)
                        continue
                    step()
                    if not self._swallows(departure.node_id, datagram):
                        plane.send(self._node_id, departure.node_id, datagram)
        if isinstance(self.machine, Links):
            for change in self.machine.take_changes():
                self._mark(change)
                self.on_link(self.machine.state(change.node_id, change.link))

    def _mark(self, change: LinkChange) -> None:
        what = change.what.value
        if self._numbers is not None and change.what is PathChange.DOWN:
            self._numbers.forget(change.node_id)
        if change.what is PathChange.MTU:
            before = self._found.get((change.node_id, change.link), 0)
            self._found[change.node_id, change.link] = change.mtu
            what = "carries nothing" if not change.mtu else "carries less" if change.mtu < before else "carries more"
        self.marks[f"link {what}"] += 1
