"""The model of libknet 1.25 below a real Corosync node: its links, as they behave, quirks included.

It is no second implementation of `totem.links` but a likeness of libknet's threads, and shares with this package the
bytes (`totem.wire.knet`) and the configuration alone. Names are libknet's. It is tested by replaying captures of real
rings: what arrived at a real node goes in, and what comes out must be what that node sent.

    heartbeat    each 200 ms: pings that are due, links that are silent too long, once in five times the backoff
    pmtud        each 200 ms: discovery on links that are new or due, and then the data MTU of all; waits for answers
    rx           answers at once; counts pongs; data of reachable hosts, duplicates, fragments
    tx           to reachable hosts; numbers, fragments, copies by the link mode

What a reader of the documents would not expect, and the model does:

* A link is up with the pong after `pong_count` ones. From then on its host is reachable, with the smallest data MTU,
  before any discovery. A link keeps what was once discovered, also a failure, when it goes down and up.
* A pong that is late still keeps a link up; it only does not count for bringing one up.
* A forced ping's number moves the window like a packet's, and no packet has come with it.
* An answer to any probe ends the wait for the one that is under way. If its size is another one, that size is bad.
* What changes the reachable links of a host ends a discovery that is under way; it goes on 200 ms later.
* With a cipher, each wait that was in vain doubles the next ones, up to 128 times the timeout.
* A refused probe whose error another thread has read first names no MTU: then sizes are bisected.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Generator, Sequence
from math import inf
from typing import Final, NamedTuple, Protocol

from totem.config import CIPHER_BLOCK, HASHES, Config, Knet, LinkSettings
from totem.wire import knet
from totem.wire.knet import Fragment, Ping

KNET_THREADS_TIMERES: Final = 0.2
HEARTBEAT_WAKING: Final = 0.00017
"""Seconds that the thread of pings wakes late, and works, each time: seen in captures."""
PMTUD_WAKING: Final = 0.00013
"""The same of the thread of discoveries, which mostly has nothing to do."""
KNET_LINK_PONG_TIMEOUT_BACKOFF: Final = 10
KNET_LINK_PONG_TIMEOUT_LAT_MUL: Final = 2
KNET_LINK_PMTUD_CRYPTO_TIMEOUT_MULTIPLIER_MIN: Final = 2
KNET_LINK_PMTUD_CRYPTO_TIMEOUT_MULTIPLIER_MAX: Final = 128
KNET_PMTUD_SIZE: Final = 65535
KNET_PMTUD_MIN_MTU_V4: Final = 576
KNET_PMTUD_MIN_MTU_V6: Final = 1280
KNET_PMTUD_UDP_OVERHEAD: Final = 8
KNET_PMTUD_SCTP_OVERHEAD: Final = 28
KNET_PMTUD_OVERHEAD: Final = {4: 20, 6: 40}
KNET_HEADER_ALL_SIZE: Final = 26
KNET_CBUFFER_SIZE: Final = 4096
KNET_DEFRAG_BUFFERS: Final = 32
SEQ_MAX: Final = 65535
PMTUD_FAILSAFE: Final = 30
HEARTBEATS_PER_BACKOFF: Final = 5
ALL: Final = 0
"""Target of what is for all hosts."""
_TARGET: Final = slice(9, 13)
_ZLIB: Final = 1


class Sealing(Protocol):
    """How packets are protected: what `totem.links.crypto` makes, or the like."""

    def seal(self, packets: Sequence[bytes]) -> Sequence[bytes]:
        """Return what leaves for each packet."""

    def open(self, packets: Sequence[bytes]) -> Sequence[bytes | None]:
        """Return each packet, or None where it does not open."""


class Outgoing(NamedTuple):
    """Datagrams for one host over one link, in order."""

    link: int
    node_id: int
    datagrams: Sequence[bytes]


class Refused(NamedTuple):
    """The kernel has refused a probe. `mtu`: what it names; 0: another thread has read that."""

    mtu: int


class Answered(NamedTuple):
    """The answer to some probe has come."""


class TimedOut(NamedTuple):
    """No answer has come in time."""


class Aborted(NamedTuple):
    """The discovery is to be given up for now (EDEADLK)."""


Event = Refused | Answered | TimedOut | Aborted
Discovery = Generator[float, Event, int | None]
"""Yields until when it waits; returns the MTU for data, None where there is none."""


class _Defrag:
    """`struct knet_host_defrag_buf`."""

    __slots__ = ("frag_size", "last_update", "pieces", "seq")

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.pieces: dict[int, bytes] = {}
        self.last_update = 0.0


class _Link:
    """`struct knet_link`. Times in microseconds where libknet has them so."""

    def __init__(self, settings: LinkSettings, mtu: int) -> None:
        self.settings = settings
        self.ping_interval = settings.ping_interval
        self.pong_timeout = round(settings.ping_timeout * 1e6)
        self.connected = False
        self.transport_connected = True
        self.has_valid_mtu = True
        self.mtu = mtu
        self.ping_last = -inf
        self.pong_last: float | None = None
        self.received_pong = 0
        self.latency = 0
        self.latency_cur_samples = 0
        self.pong_timeout_backoff = KNET_LINK_PONG_TIMEOUT_BACKOFF
        self.pong_timeout_adj = self.pong_timeout * self.pong_timeout_backoff
        self.pmtud_last = -inf
        self.last_ping_size = 0
        self.last_recv_mtu = 0
        self.pmtud_crypto_timeout_multiplier = KNET_LINK_PMTUD_CRYPTO_TIMEOUT_MULTIPLIER_MIN


class _Host:
    """`struct knet_host`: another node, as this one sees it."""

    def __init__(self, host_id: int, links: dict[int, _Link]) -> None:
        self.host_id = host_id
        self.link = links
        self.active_links: list[int] = []
        self.reachable = False
        self.got_data = False
        self.untimed_rx_seq_num = 0
        self.timed_rx_seq_num = 0
        self.clear_cbuffers(0)

    def clear_cbuffers(self, rx_seq_num: int) -> None:
        self.rx_seq_num = rx_seq_num
        self.circular_buffer = bytearray(KNET_CBUFFER_SIZE)
        self.circular_buffer_defrag = bytearray(KNET_CBUFFER_SIZE)
        self.defrag_buf: dict[int, _Defrag] = {}

    def seq_num_lookup(self, seq_num: int, *, defrag: bool = False, clear: bool = False) -> bool:
        """Return whether a number is new; a number ahead moves the window."""
        self.rx_seq_num = self.rx_seq_num or seq_num
        if clear:
            self.clear_cbuffers(seq_num)
        self._reclaim_old_defrag_bufs()
        latest = self.rx_seq_num
        seq_dist = latest - seq_num if seq_num <= latest else SEQ_MAX - seq_num + latest
        head = seq_num % KNET_CBUFFER_SIZE
        if seq_dist < KNET_CBUFFER_SIZE:
            return not (self.circular_buffer_defrag if defrag else self.circular_buffer)[head]
        if seq_dist <= SEQ_MAX - KNET_CBUFFER_SIZE:
            self.circular_buffer = bytearray(KNET_CBUFFER_SIZE)
            self.circular_buffer_defrag = bytearray(KNET_CBUFFER_SIZE)
            self.rx_seq_num = seq_num
        tail = (self.rx_seq_num + 1) % KNET_CBUFFER_SIZE
        for marks in (self.circular_buffer, self.circular_buffer_defrag):
            if tail > head:
                marks[tail:] = bytes(KNET_CBUFFER_SIZE - tail)
                marks[: head + 1] = bytes(head + 1)
            else:
                marks[tail : head + 1] = bytes(head - tail + 1)
        self.rx_seq_num = seq_num
        return True

    def _reclaim_old_defrag_bufs(self) -> None:
        head = (self.rx_seq_num + 1) % (SEQ_MAX + 1)
        tail = (self.rx_seq_num - KNET_DEFRAG_BUFFERS - 1) % (SEQ_MAX + 1)
        for seq in list(self.defrag_buf):
            if (head <= seq <= tail) if tail > head else (seq >= head or seq <= tail):
                del self.defrag_buf[seq]

    def pckt_defrag(self, said: Fragment, data: bytes, now: float) -> bytes | None:
        """Take a fragment; return the whole packet when all have come."""
        buffer = self.defrag_buf.get(said.seq)
        if buffer is None:
            if not self.seq_num_lookup(said.seq, defrag=True):
                return None
            self.circular_buffer_defrag[said.seq % KNET_CBUFFER_SIZE] = 1
            if len(self.defrag_buf) == KNET_DEFRAG_BUFFERS:
                del self.defrag_buf[min(self.defrag_buf.values(), key=lambda entry: entry.last_update).seq]
            buffer = self.defrag_buf[said.seq] = _Defrag(said.seq)
        buffer.last_update = now
        if said.number in buffer.pieces:
            return None
        buffer.pieces[said.number] = data
        if len(buffer.pieces) < said.fragments:
            return None
        del self.defrag_buf[said.seq]
        return b"".join(buffer.pieces[number] for number in sorted(buffer.pieces))


class KnetModel:
    """libknet at one real node. Driven as `totem.links.machine.Links` is."""

    def __init__(
        self, config: Config, node_id: int, seal: Sealing, *, pmtud_phase: float = 0.0, heartbeats: int = 5
    ) -> None:
        """Begin with nobody reachable.

        Args:
            config: The ring's; its transport is knet.
            node_id: This node.
            seal: How packets are protected.
            pmtud_phase: Seconds by which the thread of discoveries wakes before that of the pings.
            heartbeats: Heartbeats since the last one that made the backoff smaller; the thread runs before links are
                configured.
        """
        assert config.knet is not None
        self.settings: Knet = config.knet
        self.host_id = node_id
        self.tx_seq_num = 0
        self.drops: Counter[str] = Counter()
        self._seal = seal
        self._other: tuple[Knet, Sealing] | None = None
        """A second configuration that is loaded."""
        self._overhead = {
            link.number: KNET_PMTUD_OVERHEAD[6 if ":" in config.nodes[0].address_on(link.number) else 4]
            + KNET_PMTUD_UDP_OVERHEAD
            for link in self.settings.links
        }
        self.hosts = {
            entry.node_id: _Host(
                entry.node_id,
                {
                    link.number: _Link(link, self.calc_max_data_outlen(self._least(link.number)))
                    for link in self.settings.links
                },
            )
            for entry in sorted(config.nodes, reverse=True)
            if entry.node_id != node_id
        }
        """In the order of libknet's list: the last one of the configuration first."""
        self._addresses = {
            (host_id, link): config.node(host_id).address_on(link)
            for host_id, host in self.hosts.items()
            for link in host.link
        }
        self.data_mtu = self.calc_min_mtu()
        self._heartbeat = inf
        self._heartbeats = heartbeats
        self._pmtud_phase = pmtud_phase
        self._pmtud_wake = inf
        """When the thread of discoveries wakes, or until when it waits."""
        self._pmtud: Generator[float, Event, None] | None = None
        """The round that is under way."""
        self._probing: tuple[int, int, int] | None = None
        """Host, link and size of the IP packet of the probe that waits for its answer."""
        self._pmtud_forcerun = False
        self._pmtud_abort = False
        self._now = 0.0
        """When the thread of discoveries was woken."""
        self._outgoing: list[Outgoing] = []

    # onwire.c

    @property
    def _sec_salt_size(self) -> int:
        return CIPHER_BLOCK if self.settings.cipher != "none" else 0

    @property
    def _sec_block_size(self) -> int:
        return CIPHER_BLOCK if self.settings.cipher != "none" else 0

    @property
    def _sec_hash_size(self) -> int:
        return HASHES[self.settings.hash] if self.settings.hash != "none" else 0

    def _least(self, link: int) -> int:
        is_v4 = self._overhead[link] == KNET_PMTUD_OVERHEAD[4] + KNET_PMTUD_UDP_OVERHEAD
        return (KNET_PMTUD_MIN_MTU_V4 if is_v4 else KNET_PMTUD_MIN_MTU_V6) - self._overhead[link]

    def calc_data_outlen(self, inlen: int) -> int:
        """Return the size that so much becomes on the wire."""
        padding = self._sec_block_size - inlen % self._sec_block_size if self._sec_block_size else 0
        return inlen + padding + self._sec_salt_size + self._sec_hash_size

    def calc_max_data_outlen(self, inlen: int) -> int:
        """Return how much user data there is room for in so much on the wire."""
        room = inlen - self._sec_salt_size - self._sec_hash_size
        if self._sec_block_size:
            room -= room % self._sec_block_size + 1
        return room - KNET_HEADER_ALL_SIZE

    def calc_min_mtu(self) -> int:
        """Return the data MTU while nothing is known."""
        return self.calc_max_data_outlen(KNET_PMTUD_MIN_MTU_V4 - KNET_PMTUD_OVERHEAD[6] - KNET_PMTUD_SCTP_OVERHEAD)

    # The driver.

    @property
    def deadline(self) -> float:
        """When `advance` is due."""
        return min(self._heartbeat, self._pmtud_wake)

    @property
    def is_discovering(self) -> bool:
        """Whether a round of discoveries has not ended."""
        return self._pmtud is not None

    def start(self, now: float) -> None:
        """Start the threads; the first pings come with the first heartbeat."""
        self._heartbeat = now + KNET_THREADS_TIMERES
        self._pmtud_wake = now + KNET_THREADS_TIMERES - self._pmtud_phase

    def advance(self, now: float) -> None:
        """Let the threads that wake run."""
        if now >= self._heartbeat:
            self._heartbeat = now + KNET_THREADS_TIMERES + HEARTBEAT_WAKING
            self._handle_heartbt(now)
        if now >= self._pmtud_wake:
            if self._pmtud is None:
                self._pmtud_abort = False
                force_run, self._pmtud_forcerun = self._pmtud_forcerun, False
                self._pmtud = self._handle_pmtud(force_run=force_run)
                self._go_on(None, now)
            else:
                self._go_on(TimedOut(), now)

    def delay(self, seconds: float) -> None:
        """Do nothing: libknet does not notice that it was stopped."""

    def take(self) -> list[Outgoing]:
        """Return what is to be sent, and start afresh."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def _put(self, link: int, host_id: int, packets: Sequence[bytes]) -> None:
        self._outgoing.append(Outgoing(link, host_id, self._seal.seal(packets)))

    # threads_heartbeat.c

    def _handle_heartbt(self, now: float) -> None:
        if self._heartbeats % HEARTBEATS_PER_BACKOFF == 0:
            self._heartbeats = 1
            for host in self.hosts.values():
                for link in host.link.values():
                    self._adjust_pong_timeout(link)
        else:
            self._heartbeats += 1
        self._send_pings(now, timed=True)

    @staticmethod
    def _adjust_pong_timeout(link: _Link) -> None:
        link.pong_timeout_backoff = max(1, link.pong_timeout_backoff - 1)
        link.pong_timeout_adj = (
            link.pong_timeout * link.pong_timeout_backoff + link.latency * KNET_LINK_PONG_TIMEOUT_LAT_MUL
        )

    def _send_pings(self, now: float, *, timed: bool) -> None:
        for host in self.hosts.values():
            for number, link in host.link.items():
                self._handle_check_each(host, number, link, now, timed=timed)

    def _handle_check_each(self, host: _Host, number: int, link: _Link, now: float, *, timed: bool) -> None:
        if not link.transport_connected:
            self._link_down(host, link, now)
            return
        pong_last = link.pong_last
        if now - link.ping_last >= link.ping_interval or not timed:
            ping = knet.ping(self.host_id, Ping(number, knet.stamp(round(now * 1e9)), self.tx_seq_num, timed))
            self._put(number, host.host_id, (ping,))
            link.ping_last = now
            link.last_ping_size = self.calc_data_outlen(len(ping))
        if pong_last is not None and (now - pong_last) * 1e6 >= link.pong_timeout_adj:
            self._link_down(host, link, now)

    def _link_down(self, host: _Host, link: _Link, now: float) -> None:
        link.pmtud_last = -inf
        link.received_pong = 0
        link.pong_last = None
        link.pong_timeout_backoff = KNET_LINK_PONG_TIMEOUT_BACKOFF
        if link.connected:
            link.connected = False
            self._host_dstcache_update(host, now)
            link.transport_connected = True

    def _link_up(self, host: _Host, link: _Link, now: float) -> None:
        link.connected = True
        self._host_dstcache_update(host, now)
        self.data_mtu = self.calc_min_mtu()
        if self._pmtud is None:
            self._pmtud_forcerun = True
        else:
            self._pmtud_reschedule(now)

    def _host_dstcache_update(self, host: _Host, now: float) -> None:
        best_priority = -1
        host.active_links = []
        for number, link in host.link.items():
            if not link.connected or not link.has_valid_mtu:
                continue
            if self.settings.link_mode != "passive":
                host.active_links.append(number)
            elif link.settings.priority > best_priority:
                host.active_links, best_priority = [number], link.settings.priority
        if not host.active_links:
            host.clear_cbuffers(0)
        host.reachable = bool(host.active_links)
        if self._pmtud is not None:
            self._pmtud_reschedule(now)

    # threads_pmtud.c

    def _pmtud_reschedule(self, now: float) -> None:
        self._pmtud_abort = True
        if self._probing is not None:
            self._go_on(Aborted(), now)

    def _go_on(self, event: Event | None, now: float) -> None:
        """Let the thread of discoveries run until it waits or sleeps."""
        assert self._pmtud is not None
        self._now = now
        self._probing = None
        try:
            self._pmtud_wake = next(self._pmtud) if event is None else self._pmtud.send(event)
        except StopIteration:
            self._pmtud = None
            self._pmtud_wake = now + KNET_THREADS_TIMERES + PMTUD_WAKING

    def _handle_pmtud(self, *, force_run: bool) -> Generator[float, Event, None]:
        """One round over all links; the thread sleeps after it."""
        lower_mtu = 0
        for host in self.hosts.values():
            for number, link in host.link.items():
                if not link.connected or not link.last_ping_size:
                    continue
                if self.settings.mtu:
                    link.mtu = self.calc_max_data_outlen(self.settings.mtu - self._overhead[number])
                elif force_run or self._now - link.pmtud_last >= self.settings.mtu_interval:
                    aborted = yield from self._handle_check_pmtud(host, number, link)
                    if aborted:
                        return
                if link.has_valid_mtu:
                    lower_mtu = min(lower_mtu or link.mtu, link.mtu)
        if lower_mtu:
            self.data_mtu = lower_mtu

    def _handle_check_pmtud(self, host: _Host, number: int, link: _Link) -> Generator[float, Event, bool]:
        """Discover the MTU of a link; return whether that was aborted."""
        mtu = yield from self._discover(host, number, link)
        if self._pmtud_abort and mtu is None:
            return True
        saved_valid = link.has_valid_mtu
        if mtu is not None:
            link.mtu = mtu
            link.pmtud_last = self._now
        link.has_valid_mtu = mtu is not None and mtu >= self.calc_min_mtu()
        if saved_valid != link.has_valid_mtu:
            self._host_dstcache_update_async(host)
        return False

    def _host_dstcache_update_async(self, host: _Host) -> None:
        """Update from the thread of discoveries itself: it goes on, and finds itself aborted at the next link."""
        running, self._pmtud = self._pmtud, None
        self._host_dstcache_update(host, self._now)
        self._pmtud = running
        self._pmtud_abort = True

    def _discover(self, host: _Host, number: int, link: _Link) -> Discovery:
        overhead, block = self._overhead[number], self._sec_block_size
        last_bad, last_good = 0, link.last_ping_size + overhead
        onwire_len = KNET_PMTUD_SIZE
        for _ in range(PMTUD_FAILSAFE):
            app_mtu_len = self.calc_max_data_outlen(onwire_len - overhead)
            onwire_len = self.calc_data_outlen(app_mtu_len + KNET_HEADER_ALL_SIZE) + overhead
            length = app_mtu_len + KNET_HEADER_ALL_SIZE
            if length < knet.PROBE_BYTES or not link.connected or not link.transport_connected or self._pmtud_abort:
                return None
            link.last_recv_mtu = 0
            timeout = link.pong_timeout_adj / 1e6
            if self._sec_hash_size:
                timeout *= link.pmtud_crypto_timeout_multiplier
            started = self._now
            self._probing = (host.host_id, number, onwire_len)
            self._put(number, host.host_id, (knet.probe(self.host_id, number, onwire_len, length),))
            event = yield started + timeout
            if isinstance(event, Aborted):
                return None
            kernel_mtu = 0
            if isinstance(event, Refused):
                kernel_mtu = event.mtu
                last_bad = kernel_mtu + 1 if kernel_mtu else onwire_len
            elif isinstance(event, TimedOut) and self._waits_longer(link):
                continue
            else:
                self._wait_shorter(link, event, self._now - started, timeout)
                if isinstance(event, TimedOut) or link.last_recv_mtu != onwire_len:
                    last_bad = onwire_len
                elif self._is_found(onwire_len, last_bad, last_good, block):
                    return self.calc_max_data_outlen(onwire_len - overhead)
                else:
                    last_good = onwire_len
            onwire_len = kernel_mtu or (last_good + last_bad) // 2
        return None

    def _waits_longer(self, link: _Link) -> bool:
        if not self._sec_hash_size:
            return False
        multiplier = link.pmtud_crypto_timeout_multiplier
        link.pmtud_crypto_timeout_multiplier = min(2 * multiplier, KNET_LINK_PMTUD_CRYPTO_TIMEOUT_MULTIPLIER_MAX)
        return link.pmtud_crypto_timeout_multiplier > multiplier

    def _wait_shorter(self, link: _Link, event: Event, waited: float, timeout: float) -> None:
        if self._sec_hash_size and isinstance(event, Answered) and waited < timeout / 2:
            link.pmtud_crypto_timeout_multiplier = max(
                link.pmtud_crypto_timeout_multiplier // 2, KNET_LINK_PMTUD_CRYPTO_TIMEOUT_MULTIPLIER_MIN
            )

    @staticmethod
    def _is_found(onwire_len: int, last_bad: int, last_good: int, block: int) -> bool:
        if block:
            return onwire_len + block >= KNET_PMTUD_SIZE or bool(last_bad and last_bad <= onwire_len + block)
        return onwire_len == KNET_PMTUD_SIZE or bool(last_bad and last_bad == onwire_len + 1) or last_bad == last_good

    # crypto.c

    def accept(self, settings: Knet, seal: Sealing) -> None:
        """Open what is sealed with another key, cipher or hash, too, and send as before."""
        self._other = settings, seal

    def use_accepted(self, now: float) -> None:
        """Send with what was accepted, and discover all links anew; what was used before is still opened."""
        if self._other is None:
            return
        former = self.settings, self._seal
        (self.settings, self._seal), self._other = self._other, former
        self.data_mtu = self.calc_min_mtu()
        if self._pmtud is None:
            self._pmtud_forcerun = True

    def drop_former(self) -> None:
        """Open nothing any more but what is sealed as this node seals."""
        self._other = None

    def _open(self, datagram: bytes) -> bytes | None:
        (packet,) = self._seal.open((datagram,))
        if packet is None and self._other is not None:
            (packet,) = self._other[1].open((datagram,))
        return packet

    # What the kernel says.

    def too_large(self, link: int, node_id: int, mtu: int, now: float) -> None:
        """Note that a packet of more than `mtu` bytes was refused (EMSGSIZE); 0: nobody has said how many pass."""
        probing = self._probing
        if probing is not None and probing[:2] == (node_id, link) and (not mtu or probing[2] > mtu):
            self._go_on(Refused(mtu), now)
        elif self._pmtud is None:
            self._pmtud_forcerun = True

    def unreachable(self, link: int, node_id: int, now: float) -> None:
        """Note that a machine has refused what was sent to a host over a link: it is down at the next heartbeat."""
        if self.hosts[node_id].link[link].connected:
            self.hosts[node_id].link[link].transport_connected = False

    # threads_tx.c

    def send(self, target: int, train: Sequence[bytes], now: float) -> None:
        """Send packets to one host, or to `ALL` others that are reachable, in order."""
        for packet in train:
            whom = target.to_bytes(4, "little")
            self._parse_recv_from_sock(target, packet[: _TARGET.start] + whom + packet[_TARGET.stop :], now)

    def _parse_recv_from_sock(self, target: int, packet: bytes, now: float) -> None:
        hosts = [host for host in self.hosts.values() if host.reachable and target in (ALL, host.host_id)]
        if not hosts:
            return
        mtu = self.data_mtu
        packet, compress = self._compressed(packet)
        self.tx_seq_num = self.tx_seq_num % SEQ_MAX + 1
        if self.tx_seq_num % (SEQ_MAX // 8) == 0:
            self._send_pings(now, timed=False)
        count = -(-len(packet) // mtu)
        datagrams = self._seal.seal(
            [
                knet.data_header(
                    self.host_id,
                    Fragment(self.tx_seq_num, compress, count, index + 1 if count > 1 else 0, 0),
                    for_all=target == ALL,
                )
                + packet[index * mtu : (index + 1) * mtu]
                for index in range(count)
            ]
        )
        for host in hosts:
            for link in self._dispatch_to_links(host):
                self._outgoing.append(Outgoing(link, host.host_id, datagrams))

    def _compressed(self, packet: bytes) -> tuple[bytes, int]:
        settings = self.settings
        if settings.compression != "zlib" or len(packet) <= settings.compression_threshold:
            return packet, 0
        smaller = zlib.compress(packet, settings.compression_level or zlib.Z_DEFAULT_COMPRESSION)
        return (smaller, _ZLIB) if len(smaller) < len(packet) else (packet, 0)

    def _dispatch_to_links(self, host: _Host) -> list[int]:
        if (
            self.settings.link_mode != "rr" or not host.active_links
        ):  # the pings before may have taken the last one down
            return host.active_links
        first, *others = host.active_links
        host.active_links = [*others, first]
        return [first]

    # threads_rx.c

    def receive(self, link: int, source: str, datagrams: Sequence[bytes], now: float) -> list[bytes]:
        """Take what has come from one address; return totem's packets, in order."""
        whole = []
        for packet in map(self._open, datagrams):
            if packet is None:
                self.drops["unable to decrypt"] += 1
                continue
            if len(packet) < knet.SHORTEST or packet[0] != knet.VERSION:
                self.drops["too short, or of another version"] += 1
                continue
            kind, host_id = packet[1], int.from_bytes(packet[2:4], "big")
            host = self.hosts.get(host_id)
            if host is None:
                self.drops["unknown host"] += 1
            elif kind & 0x80:
                self._receive_management(host, kind, packet, source, now)
            elif kind == knet.DATA and len(packet) > knet.DATA_HEADER:
                data = self._receive_data(host, packet, source, now)
                if data is not None:
                    whole.append(data)
        return whole

    def _receive_management(self, host: _Host, kind: int, packet: bytes, source: str, now: float) -> None:
        number = packet[6] % 8
        link = host.link.get(number)
        if link is None or self._addresses[host.host_id, number] != source:
            self.drops["rejected"] += 1
        elif len(packet) < (knet.PING_BYTES if kind in (knet.PING, knet.PONG) else knet.PROBE_BYTES):
            self.drops["too short, or of another version"] += 1  # libknet reads what was in the buffer before
        elif kind == knet.PING:
            self._receive_ping(host, knet.read_ping(packet))
            self._put(number, host.host_id, (knet.pong(self.host_id, packet),))
        elif kind == knet.PONG:
            self._receive_pong(host, link, knet.moment(knet.read_ping(packet).time), now)
        elif kind == knet.PROBE:
            self._put(number, host.host_id, (knet.probe_reply(self.host_id, packet),))
        elif kind == knet.PROBE_REPLY:
            link.last_recv_mtu = knet.read_probe(packet)[1]
            if self._probing is not None:
                self._go_on(Answered(), now)

    @staticmethod
    def _receive_ping(host: _Host, said: Ping) -> None:
        if not said.timed:
            wipe = False
            if said.seq != host.untimed_rx_seq_num:
                host.untimed_rx_seq_num = said.seq
                wipe, host.got_data = not host.got_data, False
            host.seq_num_lookup(said.seq, clear=wipe)
        elif said.seq != host.timed_rx_seq_num:
            host.timed_rx_seq_num = said.seq
            if said.seq == 0:
                host.seq_num_lookup(0, clear=True)

    def _receive_pong(self, host: _Host, link: _Link, sent: int, now: float) -> None:
        link.pong_last = now
        latency_last = (round(now * 1e9) - sent) // 1000
        if not 0 <= latency_last <= link.pong_timeout:
            return
        link.latency_cur_samples = min(link.latency_cur_samples + 1, link.settings.precision)
        samples = link.latency_cur_samples
        link.latency = (link.latency * (samples - 1) + latency_last) // samples
        if link.latency >= link.pong_timeout_adj or link.connected:
            return
        if link.received_pong >= link.settings.pong_count:
            self._link_up(host, link, now)
        else:
            link.received_pong += 1

    def _receive_data(self, host: _Host, packet: bytes, source: str, now: float) -> bytes | None:
        if all(self._addresses[host.host_id, number] != source for number in host.link):
            self.drops["unable to determine source link"] += 1
            return None
        if not host.reachable:
            self.drops["not reachable yet"] += 1
            return None
        said, data = knet.read_fragment(packet), packet[knet.DATA_HEADER :]
        host.got_data = True
        if not host.seq_num_lookup(said.seq):
            self.drops["already delivered"] += 1
            return None
        if said.fragments > 1:
            whole = host.pckt_defrag(said, data, now)
            if whole is None:
                return None
            data = whole
        if said.compression:
            data = zlib.decompress(data)
        if data[_TARGET] not in (bytes(4), self.host_id.to_bytes(4, "little")):
            self.drops["not for us"] += 1
            return None
        host.circular_buffer[said.seq % KNET_CBUFFER_SIZE] = 1
        return data
