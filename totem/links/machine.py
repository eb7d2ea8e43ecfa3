"""All links of a node over knet: where a packet goes, what has come, and who can be reached.

    links.start(now)
    packets = links.receive(link, source, datagrams, now)    # what the socket of a link has read
    links.send(target, train, now)                           # what the processor sends
    if links.deadline <= now:
        links.advance(now)
    for departure in links.take(): ...                       # what the sockets are to send
    links.too_large(...), links.unreachable(...)             # what the kernel says to that

A node is *reachable* over the paths that can be used (`path`). Only to those is data sent. Whatever comes is opened
before anything in it is believed, and comes from the address that its sender has on a link.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Final, NamedTuple

from totem.config import IP_UDP_HEADERS, Config, Knet
from totem.hearing import NEITHER, Hearing
from totem.links.arrivals import NUMBERS, Arrivals
from totem.links.compression import MODELS, Unusable, compress, decompress
from totem.links.crypto import Seal
from totem.links.keyring import Keyring
from totem.links.path import Path, PathChange
from totem.links.traffic import Amount
from totem.links.trials import Trials
from totem.outbox import ALL
from totem.wire import knet
from totem.wire.knet import Fragment, Ping

FORCED_EVERY: Final = 8191
"""Data packets after which pings tell the number to those that were sent none of them."""
STRANGE: Final = 3
"""Packets in a row that do not open, from one address, until that is reported: a real node sends a damaged one when its
key changes."""
SMALLEST_ROOM: Final = 421
"""Bytes of user data that a packet always has room for (IP packets of 576 bytes, sealed)."""
_TARGET: Final = slice(9, 13)
"""Position of the node that one of totem's packets is for."""
_FOR_ALL: Final = bytes(4)
_SHORTEST_PACKET: Final = 13
"""Bytes of totem's header."""


class Departure(NamedTuple):
    """Datagrams that are to be sent over one path, in order."""

    link: int
    node_id: int
    datagrams: Sequence[bytes]
    probes: int = 0
    """The IP packet's size where it is a probe for it."""


class LinkChange(NamedTuple):
    """What has become of a link to another node."""

    node_id: int
    link: int
    what: PathChange
    mtu: int
    """Bytes of the largest IP packet that passes; 0: not known."""
    lasted: float
    """Seconds for which the state before has lasted."""


class LinkState(NamedTuple):
    """A link to another node, as it is now."""

    node_id: int
    link: int
    is_up: bool
    """Whether the node answers over it."""
    since: float
    """When it came up, went down, or was first tried: on the clock of `now`."""
    mtu: int
    """Bytes of the largest IP packet that passes, as far as is known; 0: none does."""
    room: int
    """Bytes of user data in such a packet, over a link that is down in those of before: the MTU as Corosync has it."""
    latency: float
    """Smoothed seconds there and back."""
    shortest: float
    longest: float
    """Seconds of the quickest and of the slowest ping that was answered in time; infinite and 0: none was."""
    samples: int
    """Number of pings over which that is smoothed."""
    ups: int
    """Number of times that it came up."""
    downs: int
    """Number of times that it went down."""
    hears: bool
    """Whether anything comes from the node over it; of a link that is down: what this node sends is lost."""
    sent: Mapping[int, Amount]
    """By the kind of packet (`totem.wire.knet`), as it leaves. Answers to probes are not counted, as in libknet."""
    received: Mapping[int, Amount]
    """The same, once opened. Answers to probes count as probes."""


class _Peer:
    """Another node."""

    __slots__ = ("arrivals", "chosen", "has_answered", "hearing", "node_id", "paths", "turn")

    def __init__(self, node_id: int, paths: dict[int, Path]) -> None:
        self.node_id = node_id
        self.paths = paths
        """By the number of the link."""
        self.chosen: tuple[int, ...] = ()
        """The links over which data goes, in the order of turns for `rr`."""
        self.turn = 0
        self.hearing = NEITHER
        self.arrivals = Arrivals()
        self.has_answered = False
        """Whether it has answered a ping of this process."""


class Links:
    """The links of one node. Nothing that comes from the network raises: it is counted by cause and dropped."""

    def __init__(self, config: Config, node_id: int, seal: Seal) -> None:
        """Begin with nobody reachable.

        Args:
            config: The ring's; its transport is knet.
            node_id: This node.
            seal: How packets are protected.
        """
        assert config.knet is not None
        settings = config.knet
        self.drops: Counter[str] = Counter()
        """Datagrams refused, by cause; the counter may be shared with others."""
        self.notice: Callable[[str, str], None] = lambda cause, text: None
        """Called with what an operator should know, each time."""
        self.on_hearing: Callable[[int, Hearing, float], None] = lambda node_id, hearing, now: None
        """Called when it changes who hears whom between this node and another one."""
        self.trials = Trials()
        self.deadline = inf
        """When `advance` is due."""
        self._node_id = node_id
        self._keys = Keyring(settings, seal, self._on_keys)
        self._has_started = False
        self._unopened: Counter[str] = Counter()
        """Packets that did not open since the last one that did, by source."""
        self._peers: dict[int, _Peer] = {}
        self._sources: dict[tuple[int, int], str] = {}
        """The addresses of the peers, by node and link."""
        self._set_nodes(config, 0.0)
        self._own_target = node_id.to_bytes(4, "little")
        self._seq = 0
        self._room = SMALLEST_ROOM
        """Bytes of user data in a packet, for all that are reachable."""
        self._departures: list[Departure] = []
        self._changes: list[LinkChange] = []

    # ---- what is configured

    def reconfigure(self, config: Config, now: float) -> None:
        """Take other nodes, links, addresses and settings; what stays as it is stays up. Keys change by `accept`."""
        assert config.knet is not None
        self._keys.reconfigure(config.knet)
        self._set_nodes(config, now)
        self.trials.keep(self._peers)
        self._departures = [one for one in self._departures if (one.node_id, one.link) in self._sources]
        self._changes = [one for one in self._changes if (one.node_id, one.link) in self._sources]
        for peer in self._peers.values():
            self._choose(peer)
        self._set_room()
        if self._has_started:
            self.advance(now)

    def _set_nodes(self, config: Config, now: float) -> None:
        assert config.knet is not None
        self._mode = config.knet.link_mode
        self._headers = {link.number: IP_UDP_HEADERS[_family(config, link.number)] for link in config.knet.links}
        self._checks_source = config.block_unlisted_ips
        former, self._peers = self._peers, {}
        known, self._sources = self._sources, {}
        for entry in config.nodes:
            if entry.node_id == self._node_id:
                continue
            self._peers[entry.node_id] = peer = former.get(entry.node_id) or _Peer(entry.node_id, {})
            for link in config.link_numbers:
                self._sources[entry.node_id, link] = address = entry.address_on(link)
                if known.get((entry.node_id, link)) != address:
                    peer.paths.pop(link, None)  # another path
            self._set_paths(peer, config.knet, now)
        self._data = {knet.prefix(knet.DATA, node_id): peer for node_id, peer in self._peers.items()}
        """The peers, by how their data packets begin."""
        self._data_from: dict[str, dict[bytes, _Peer]] = {}
        """The same, by the address from which the packets may come."""
        for (node_id, _), address in self._sources.items():
            begin = knet.prefix(knet.DATA, node_id)
            self._data_from.setdefault(address, {})[begin] = self._data[begin]
        self._paths_from = {
            (link, address): self._peers[node_id].paths[link] for (node_id, link), address in self._sources.items()
        }
        """The paths, by the link and the address from which their packets come."""

    def _set_paths(self, peer: _Peer, settings: Knet, now: float) -> None:
        former, peer.paths = peer.paths, {}
        for link in settings.links:
            patience = link.ping_timeout * (2 if settings.is_sealed else 1)
            path = former.get(link.number)
            if path is None:
                path = Path(link, fixed_mtu=settings.mtu, mtu_interval=settings.mtu_interval, patience=patience)
                if self._has_started:
                    path.start(now)
            else:
                path.reconfigure(link, fixed_mtu=settings.mtu, mtu_interval=settings.mtu_interval, patience=patience)
            peer.paths[link.number] = path

    # ---- what is asked

    def paths(self, node_id: int) -> dict[int, Path]:
        """Return the paths to another node, by the number of the link."""
        return self._peers[node_id].paths

    def state(self, node_id: int, link: int) -> LinkState:
        """Return a link to another node."""
        return self._state(node_id, link, self._peers[node_id].paths[link])

    def states(self) -> tuple[LinkState, ...]:
        """Return the links to all other nodes, by node and number."""
        return tuple(
            self._state(peer.node_id, link, path) for peer in self._peers.values() for link, path in peer.paths.items()
        )

    def _state(self, node_id: int, link: int, path: Path) -> LinkState:
        mtu = path.mtu or path.last_mtu
        room = self._keys.settings.user_data_room(mtu - self._headers[link]) if mtu else 0
        times = (path.latency, path.shortest, path.longest)
        numbers = (path.samples, path.ups, path.downs)
        traffic = (path.sent.amounts(), path.received.amounts())
        return LinkState(node_id, link, path.is_up, path.since, path.mtu, room, *times, *numbers, path.hears, *traffic)

    def is_reachable(self, node_id: int) -> bool:
        """Return whether data can be sent to another node."""
        return bool(self._peers[node_id].chosen)

    def take(self) -> list[Departure]:
        """Return what is to be sent, and start afresh."""
        departures, self._departures = self._departures, []
        return departures

    def take_changes(self) -> list[LinkChange]:
        """Return what has become of links, and start afresh."""
        changes, self._changes = self._changes, []
        return changes

    # ---- time

    def start(self, now: float) -> None:
        """Begin to ping all other nodes."""
        self._has_started = True
        for peer in self._peers.values():
            for path in peer.paths.values():
                path.start(now)
        self.advance(now)

    def advance(self, now: float) -> None:
        """Do what is due: pings, lost links, searches for the MTU."""
        for node_id, moment in self.trials.advance(now):
            for link in self._peers[node_id].paths:
                self._ping(self._peers[node_id], link, moment, timed=True)
        for peer in self._peers.values():
            for link, path in peer.paths.items():
                if path.deadline <= now:
                    self._note(peer, link, path.advance(now), now)
                    if (asked := path.due_ping(now)) is not None:
                        self._ping(peer, link, asked, timed=True)
                    self._probe(peer, link, path, now)
                    self._note_hearing(peer, now)
        self._set_deadline()

    def delay(self, seconds: float) -> None:
        """Wait longer for answers, because this process has not listened for a while."""
        for peer in self._peers.values():
            for path in peer.paths.values():
                path.delay(seconds)
        self._set_deadline()

    def _set_deadline(self) -> None:
        self.deadline = min(
            (path.deadline for peer in self._peers.values() for path in peer.paths.values()),
            default=inf,
        )
        self.deadline = min(self.deadline, self.trials.deadline)

    def _heed(self, path: Path) -> None:
        """Take over a deadline that has moved earlier. One that has moved later costs a look, less than all do."""
        self.deadline = min(self.deadline, path.deadline)

    def _ping(self, peer: _Peer, link: int, moment: int, *, timed: bool) -> None:
        """Send a ping.

        It tells 0 until the peer has answered, whatever was sent to others meanwhile. So no peer is sent data before it
        has heard that this process is a new one.
        """
        seq = self._seq if peer.has_answered or not timed else 0
        packet = knet.ping(self._node_id, Ping(link, knet.stamp(moment), seq, timed))
        self._send_alone(peer, link, packet, knet.PING)

    def _send_alone(self, peer: _Peer, link: int, packet: bytes, kind: int, probes: int = 0) -> None:
        """Send what is no data."""
        sealed = self._keys.seal((packet,))
        self._departures.append(Departure(link, peer.node_id, sealed, probes))
        if kind != knet.PROBE_REPLY:
            peer.paths[link].sent.add(kind, 1, len(sealed[0]))

    def _probe(self, peer: _Peer, link: int, path: Path, now: float) -> None:
        size = path.due_probe()
        if size is None:
            return
        path.sent_probe(now)
        length = self._keys.settings.packet_room(size - self._headers[link])
        packet = knet.probe(self._node_id, link, size, length)
        self._send_alone(peer, link, packet, knet.PROBE, size)

    def _note(self, peer: _Peer, link: int, change: PathChange | None, now: float) -> None:
        """Act on a change of a path."""
        if change is None:
            return
        path = peer.paths[link]
        self._choose(peer)
        if change is PathChange.DOWN and not any(path.is_up for path in peer.paths.values()):
            peer.arrivals.forget()
        self._set_room()
        self._changes.append(LinkChange(peer.node_id, link, change, path.mtu, path.lasted))

    def _choose(self, peer: _Peer) -> None:
        """Choose the links over which data goes to a node."""
        usable = [(-path.settings.priority, number) for number, path in peer.paths.items() if path.is_usable]
        usable.sort()
        numbers = tuple(number for _, number in usable)
        peer.chosen = numbers[:1] if self._mode == "passive" else numbers

    def _note_hearing(self, peer: _Peer, now: float) -> None:
        paths = peer.paths.values()
        hearing = Hearing(any(path.hears for path in paths), any(path.is_up for path in paths))
        if hearing != peer.hearing:
            peer.hearing = hearing
            self.on_hearing(peer.node_id, hearing, now)

    def _set_room(self) -> None:
        rooms = [
            self._keys.settings.user_data_room(path.mtu - self._headers[number])
            for peer in self._peers.values()
            for number, path in peer.paths.items()
            if path.is_usable
        ]
        self._room = max(min(rooms, default=SMALLEST_ROOM), 1)

    # ---- keys that change

    def accept(self, settings: Knet, seal: Seal) -> None:
        """Accept packets that are sealed otherwise, too (`Keyring.accept`)."""
        self._keys.accept(settings, seal)

    @property
    def has_accepted(self) -> bool:
        """Whether something is accepted that is not used yet."""
        return self._keys.has_accepted

    def use_accepted(self, now: float) -> None:
        """Seal with what was accepted last from now on, if that is not done yet."""
        self._keys.use_accepted(now)

    def _on_keys(self, now: float) -> None:
        """Find out anew how much user data a packet has room for."""
        self._set_room()
        for peer in self._peers.values():
            for link, path in peer.paths.items():
                path.search(now)
                self._probe(peer, link, path, now)
        self._set_deadline()

    def check(self, now: float) -> None:
        """Look at once whether all paths carry what they did: the ring stalls."""
        for peer in self._peers.values():
            for link, path in peer.paths.items():
                path.check(now)
                self._probe(peer, link, path, now)
        self._set_deadline()

    # ---- what the kernel says

    def too_large(self, link: int, node_id: int, mtu: int, now: float) -> None:
        """Note that packets of more than `mtu` bytes cannot leave for a node over a link."""
        if (node_id, link) not in self._sources:
            return  # removed meanwhile
        peer = self._peers[node_id]
        path = peer.paths[link]
        path.refused(mtu, now)
        self._probe(peer, link, path, now)
        self._set_deadline()

    def unreachable(self, link: int, node_id: int, now: float) -> None:
        """Note that the machine of a node, or one on the way, seems to refuse what is sent to it over a link."""
        if (node_id, link) in self._sources:  # else it was removed meanwhile
            self._peers[node_id].paths[link].suspect(now)
            self.advance(now)

    def watch(self, watched: int, now: float) -> None:
        """Ping this node often from now on, and no other one; 0: none."""
        for node_id, peer in self._peers.items():
            for path in peer.paths.values():
                path.watch(now, closely=node_id == watched)
        self._set_deadline()

    def try_nodes(self, node_ids: Iterable[int], now: float) -> None:
        """Find out at once whether these nodes answer, over any link (`Trials.on_end`)."""
        for node_id in node_ids:
            if node_id in self._peers:
                self.trials.begin(node_id, now)
        self.advance(now)

    # ---- sending

    def send(self, target: int, train: Sequence[bytes], now: float) -> None:
        """Send packets of totem to one node, or to `ALL` others that are reachable, in order."""
        if target == ALL:
            peers: Iterable[_Peer] = [peer for peer in self._peers.values() if peer.chosen]
        else:
            peer = self._peers.get(target)
            if peer is None:
                self.drops["unknown target"] += len(train)
                return
            peers = [peer] if peer.chosen else ()
            whom = target.to_bytes(4, "little")
            train = [frame[: _TARGET.start] + whom + frame[_TARGET.stop :] for frame in train]
        if not peers:
            return
        before = self._seq
        sealed = self._keys.seal(self._packets(train, for_all=target == ALL))
        size = sum(map(len, sealed))
        for peer in peers:
            for link in self._ways(peer):
                self._departures.append(Departure(link, peer.node_id, sealed))
                peer.paths[link].sent.add(knet.DATA, len(sealed), size)
        if before // FORCED_EVERY != self._seq // FORCED_EVERY or self._seq < before:
            self._tell_number(now)

    def _ways(self, peer: _Peer) -> tuple[int, ...]:
        if self._mode != "rr" or len(peer.chosen) < 2:
            return peer.chosen
        peer.turn = (peer.turn + 1) % len(peer.chosen)
        return (peer.chosen[peer.turn],)

    def _packets(self, train: Sequence[bytes], *, for_all: bool) -> list[bytes]:
        """Build the packets of user packets. Hot: most are whole, and all of one train."""
        room = self._room
        if self._keys.settings.compression == "none" and len(max(train, key=len)) <= room:
            headers = knet.whole_headers(self._node_id, self._next_seqs(len(train)), for_all=for_all)
            return [header + frame for header, frame in zip(headers, train, strict=True)]
        packets: list[bytes] = []
        for seq, frame in zip(self._next_seqs(len(train)), train, strict=True):
            data, compression = self._compressed(frame)
            count = -(-len(data) // room)
            for number in range(count):
                said = Fragment(seq, compression, count, number + 1 if count > 1 else 0, 0)
                piece = data[number * room : (number + 1) * room]
                packets.append(knet.data_header(self._node_id, said, for_all=for_all) + piece)
        return packets

    def _compressed(self, frame: bytes) -> tuple[bytes, int]:
        settings = self._keys.settings
        if settings.compression == "none" or len(frame) <= settings.compression_threshold:
            return frame, 0
        smaller = compress(settings.compression, settings.compression_level, frame)
        return (smaller, MODELS[settings.compression]) if len(smaller) < len(frame) else (frame, 0)

    def _next_seqs(self, count: int) -> list[int]:
        """Return the next numbers of data packets; 0 is none."""
        first = self._seq + 1
        self._seq = last = first + count - 1
        if last < NUMBERS:
            return list(range(first, last + 1))
        self._seq = last - NUMBERS + 1
        return [*range(first, NUMBERS), *range(1, self._seq + 1)]

    def _tell_number(self, now: float) -> None:
        for peer in self._peers.values():
            for link in peer.paths:
                self._ping(peer, link, round(now * 1e9), timed=False)

    # ---- receiving

    def receive(self, link: int, source: str, datagrams: Sequence[bytes], now: float) -> list[bytes]:
        """Take what has come to the socket of a link from one address; return totem's packets, in order. Hot."""
        data = self._data_from.get(source) if self._checks_source else self._data
        if data is None:
            self.drops["unlisted address"] += len(datagrams)
            self.notice(
                "unlisted address",
                f"datagrams come from {source}, which is not in the nodelist, and are dropped: "
                f"add the node there to the nodelist of all nodes, or give it another port",
            )
            return []
        packets: list[bytes] = []
        own = self._own_target
        has_opened = False
        opened = self._keys.open(datagrams, now)
        others = others_size = 0
        for packet in opened:
            if packet is None:
                self._drop_sealed(source)
                others += 1
                continue
            has_opened = True
            peer = data.get(packet[: knet.PREFIX_BYTES])
            if peer is None:
                self._receive_other(link, source, packet, now)
                others += 1
                others_size += len(packet)
                continue
            if len(packet) <= knet.DATA_HEADER or packet[knet.CHANNEL_AT]:
                self.drops["knet packet too short, or of another channel"] += 1
                continue
            if packet[knet.FRAGMENTS_AT] == 1 and not packet[knet.COMPRESSION_AT]:
                if not peer.arrivals.is_new(int.from_bytes(packet[knet.SEQ_AT], "big")):
                    self.drops["knet packet that has come before"] += 1
                    continue
                whole: bytes | None = packet[knet.DATA_HEADER :]
            else:
                whole = self._assemble(peer, packet)
            if whole is None:
                continue
            if len(whole) < _SHORTEST_PACKET:
                self.drops["knet packet too short, or of another channel"] += 1
            elif whole[_TARGET] in (_FOR_ALL, own):
                packets.append(whole)
            else:
                self.drops["packet for another node"] += 1
        if self._unopened and has_opened:
            self._unopened.pop(self._known(source), None)
        if others < len(opened) and (path := self._paths_from.get((link, source))) is not None:
            size = sum(map(len, filter(None, opened))) - others_size
            path.received.add(knet.DATA, len(opened) - others, size)
        return packets

    def _assemble(self, peer: _Peer, packet: bytes) -> bytes | None:
        said = knet.read_fragment(packet)
        data = packet[knet.DATA_HEADER :]
        whole: bytes | None = None
        if said.fragments > 1:
            whole = peer.arrivals.add(said, data)
        elif peer.arrivals.is_new(said.seq):
            whole = data
        if whole is None or not said.compression:
            return whole
        try:
            return decompress(said.compression, whole)
        except Unusable as error:
            self.drops["knet packet that cannot be decompressed"] += 1
            self.notice("compression", f"node {peer.node_id} sends what cannot be decompressed here: {error}")
            return None

    def _known(self, source: str) -> str:
        """Return an address of the nodelist, or what stands for all others: there is no end of those."""
        return source if source in self._data_from else "an unlisted address"

    def _drop_sealed(self, source: str) -> None:
        self.drops["sealed otherwise"] += 1
        who = self._known(source)
        self._unopened[who] += 1
        if self._unopened[who] < STRANGE:
            return
        settings = self._keys.settings
        mine = f"crypto_cipher {settings.cipher}, crypto_hash {settings.hash}, the key of {settings.key_source}"
        self.notice(
            f"sealed otherwise by {who}",
            f"datagrams from {source} do not open with what is configured here ({mine}), and are dropped: "
            f"the two must be the same at all nodes; compare the key files (sha256sum)",
        )

    def _receive_other(self, link: int, source: str, packet: bytes, now: float) -> None:
        """Take a packet that is no data of a peer."""
        if len(packet) < knet.SHORTEST:
            self.drops["knet packet too short"] += 1
            return
        version, kind, node_id = knet.PREFIX.unpack_from(packet)
        peer = self._peers.get(node_id)
        if version != knet.VERSION:
            self.drops["knet packet of another version"] += 1
            self.notice(
                f"another version by {self._known(source)}",
                f"datagrams from {source} are not packets of knet as this node reads them, and are dropped: most "
                f"likely it encrypts, and here crypto_cipher is {self._keys.settings.cipher}: "
                f"set the same at all nodes",
            )
        elif peer is None:
            is_own = node_id == self._node_id
            self.drops["knet packet of this node" if is_own else "knet packet of an unknown node"] += 1
        elif kind == knet.DATA:
            self.drops["address of another node"] += 1
        elif kind in (knet.PING, knet.PONG) and len(packet) >= knet.PING_BYTES:
            said = knet.read_ping(packet)
            if self._is_path(peer, said.link, source):
                peer.paths[said.link].received.add(kind, 1, len(packet))
                self._on_ping(peer, said, packet, now) if kind == knet.PING else self._on_pong(peer, said, now)
        elif kind in (knet.PROBE, knet.PROBE_REPLY) and len(packet) >= knet.PROBE_BYTES:
            number, size = knet.read_probe(packet)
            if self._is_path(peer, number, source):
                peer.paths[number].received.add(knet.PROBE, 1, len(packet))
                if kind == knet.PROBE:
                    self._send_alone(peer, number, knet.probe_reply(self._node_id, packet), knet.PROBE_REPLY)
                else:
                    self._on_probe_reply(peer, number, size, now)
        else:
            self.drops["knet packet of an unknown kind"] += 1

    def _is_path(self, peer: _Peer, link: int, source: str) -> bool:
        expected = self._sources.get((peer.node_id, link))
        if expected is None:
            self.drops["knet packet of an unknown link"] += 1
        elif self._checks_source and expected != source:
            self.drops["address of another node"] += 1
        else:
            return True
        return False

    def _on_ping(self, peer: _Peer, said: Ping, packet: bytes, now: float) -> None:
        self._send_alone(peer, said.link, knet.pong(self._node_id, packet), knet.PONG)
        peer.arrivals.note_ping(said)
        path = peer.paths[said.link]
        path.on_ping(now)
        self._heed(path)
        self._note_hearing(peer, now)

    def _on_pong(self, peer: _Peer, said: Ping, now: float) -> None:
        path = peer.paths[said.link]
        asked = knet.moment(said.time)
        self.trials.on_pong(peer.node_id, asked, now)
        self._note(peer, said.link, path.on_pong(asked, now), now)
        peer.has_answered |= path.pongs > 0
        self._probe(peer, said.link, path, now)
        self._heed(path)
        self._note_hearing(peer, now)

    def _on_probe_reply(self, peer: _Peer, link: int, size: int, now: float) -> None:
        path = peer.paths[link]
        self._note(peer, link, path.on_probe_reply(size, now), now)
        self._probe(peer, link, path, now)
        self._heed(path)


def _family(config: Config, link: int) -> int:
    return 6 if ":" in config.nodes[0].address_on(link) else 4
