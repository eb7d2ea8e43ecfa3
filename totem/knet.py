"""The sockets of one node for transport knet, one for each link, and the machine that they serve (`totem.links`).

What is read goes to the machine, and what it has to say to that, such as a pong, leaves at once. Packets of totem go to
the node. A socket sends from the port of its link, to the configured place of the peer, wherever something came from.

The kernel's refusals are asked for (IP_RECVERR). They say that a packet is too large for the way, or that nobody
listens there; the machine finds out whether that is so.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import trio

from totem.addresses import sockaddr
from totem.config import Config, Knet
from totem.link_log import LinkLog
from totem.links.crypto import seal_of
from totem.links.machine import Departure, Links, LinkState
from totem.links.path import PAUSE
from totem.sockets import (
    GRO_SPACE,
    MAX_DATAGRAM,
    NO_TRAINS,
    UDP_GRO,
    UDP_SEGMENT,
    SentLately,
    apart,
    ask_for_refusals,
    enlarge,
    forbid_cutting,
    has_option,
    open_socket,
    overflows,
    read_refusals,
    runs,
    segments_of,
    switch_on,
)

_log = logging.getLogger(__name__)

BUFFER_BYTES = 8 << 20
"""Requested for each direction, as libknet does: a visit of a real node's token is hundreds of packets."""
# Not in Python's socket module. <linux/in.h>, <linux/in6.h>
_IP_MTU = {socket.AF_INET: (socket.IPPROTO_IP, 14), socket.AF_INET6: (socket.IPPROTO_IPV6, 24)}


class KnetEndpoint:
    """The open sockets of the node `node_id` of a ring over knet.

    Raises `OSError` if one of its addresses is not this machine's, or a port is taken.
    """

    def __init__(
        self, config: Config, node_id: int, *, trains: bool = True, clock: Callable[[], float] = trio.current_time
    ) -> None:
        assert config.knet is not None
        self.links = Links(config, node_id, seal_of(config.knet, os.urandom))
        self._secrets = _secrets(config.knet)
        """What was accepted last."""
        self._node_id = node_id
        self._clock = clock
        self._sockets: dict[int, socket.socket] = {}
        self._places: dict[tuple[int, int], tuple[object, ...]] = {}
        """Where a link leads to, by link and node id."""
        self._nodes: dict[int, dict[object, int]] = {}
        """The node ids, by link and address as the kernel writes it."""
        self._sources: dict[str, str] = {}
        """The addresses of the configuration, as the kernel writes them."""
        self.on_link: Callable[[LinkState], None] = lambda state: None
        """Called when the state of a link has changed; it must only queue."""
        self.on_refusal: Callable[[int, float], None] = lambda node_id, now: None
        """Called when the machine of a node has refused what was sent to it, because nobody listens there."""
        self._sent = SentLately[tuple[int, int, bool]]()
        """Refusals are by link and node id, with whether it is the port where nobody listens."""
        self._link_log = LinkLog(node_id, self.links.paths)
        self._poll = select.epoll()
        try:
            self._set_nodes(config)
        except OSError:
            self.close()
            raise
        self.trains_out = trains and all(has_option(sock, UDP_SEGMENT) for sock in self._sockets.values())
        self.trains_in = trains and all(switch_on(sock, UDP_GRO) for sock in self._sockets.values())

    def reconfigure(self, config: Config, now: float) -> None:
        """Take other nodes, links, addresses and settings. Another key is accepted, too, and used by `use_accepted`.

        Raises `OSError`, and changes nothing, where an address cannot be used here, or a port is taken.
        """
        assert config.knet is not None
        settings = config.knet
        seal = seal_of(settings, os.urandom) if _secrets(settings) != self._secrets else None
        former = set(self._sockets)
        self._set_nodes(config)
        if self.trains_in:
            for link in self._sockets.keys() - former:
                switch_on(self._sockets[link], UDP_GRO)
        self.links.reconfigure(config, now)
        if seal is not None:
            self._secrets = _secrets(settings)
            self.links.accept(settings, seal)
        self._link_log.retain(self._places_by_node())
        self._flush(now)

    def _places_by_node(self) -> set[tuple[int, int]]:
        return {(node_id, link) for link, node_id in self._places}

    def _set_nodes(self, config: Config) -> None:
        """Open and close sockets, as there are links, and know the places of all nodes."""
        own = config.node(self._node_id)
        places = {
            (link, node.node_id): sockaddr(*config.place_on(node, link))[1]
            for link in config.link_numbers
            for node in config.nodes
        }
        opened: dict[int, socket.socket] = {}
        try:
            for link in config.link_numbers:
                if link not in self._sockets:
                    opened[link] = open_socket(self._node_id, *config.place_on(own, link))
        except OSError:
            for sock in opened.values():
                sock.close()
            raise
        for sock in opened.values():
            self._prepare(sock)
        for link in self._sockets.keys() - {*config.link_numbers}:
            sock = self._sockets.pop(link)
            self._poll.unregister(sock)
            sock.close()
        self._sockets = {link: opened.get(link) or self._sockets[link] for link in config.link_numbers}
        self._places = dict(places)
        self._nodes = {link: {} for link in config.link_numbers}
        self._sources = {}
        for (link, node_id), place in places.items():
            self._nodes[link][place[0]] = node_id
            self._sources[place[0]] = config.node(node_id).address_on(link)

    def _prepare(self, sock: socket.socket) -> None:
        enlarge(sock, socket.SO_RCVBUF, BUFFER_BYTES)
        enlarge(sock, socket.SO_SNDBUF, BUFFER_BYTES)
        forbid_cutting(sock)  # or probes would lie
        ask_for_refusals(sock)
        self._poll.register(sock, select.EPOLLIN)

    @property
    def drops(self) -> Counter[str]:
        """Datagrams lost on the way out or refused on the way in, by cause; the counter may be shared with others."""
        return self.links.drops

    @drops.setter
    def drops(self, drops: Counter[str]) -> None:
        self.links.drops = drops

    @property
    def notice(self) -> Callable[[str, str], None]:
        """Called with what an operator should know, each time."""
        return self.links.notice

    @notice.setter
    def notice(self, notice: Callable[[str, str], None]) -> None:
        self.links.notice = notice

    @property
    def deadline(self) -> float:
        """When `advance` is due."""
        return min(self._sent.deadline, self.links.deadline)

    def fileno(self) -> int:
        """Return the descriptor that is readable when datagrams wait."""
        return self._poll.fileno()

    async def wait_readable(self) -> None:
        """Wait until `drain` would return something."""
        await trio.lowlevel.wait_readable(self)

    @property
    def has_accepted(self) -> bool:
        """Whether a key is accepted that is not used yet."""
        return self.links.has_accepted

    def use_accepted(self) -> None:
        """Seal with them from now on."""
        now = self._clock()
        self.links.use_accepted(now)
        self._flush(now)

    def start(self, now: float) -> None:
        """Begin to look for the other nodes."""
        self.links.start(now)
        self._flush(now)

    def advance(self, now: float) -> None:
        """Do what is due on the links."""
        late = now - self.links.deadline
        if late > PAUSE:
            self.links.delay(late)
        for link, node_id, is_of_port in self._sent.refusing(now):
            if is_of_port:
                self.on_refusal(node_id, now)
            self.links.unreachable(link, node_id, now)
        self.links.advance(now)
        self._flush(now)
        self._link_log.advance(now)

    def check(self, now: float) -> None:
        """Look at once whether all links carry what they did: the ring stalls."""
        self.links.check(now)
        self._flush(now)

    def watch(self, node_id: int, now: float) -> None:
        """Ping this node often from now on; 0: none."""
        self.links.watch(node_id, now)

    def try_nodes(self, node_ids: Iterable[int], now: float) -> None:
        """Find out at once whether nodes answer."""
        self.links.try_nodes(node_ids, now)
        self._flush(now)

    def send(self, target: int, train: Sequence[bytes]) -> None:
        """Send packets, in order, to one node or to all others that can be reached."""
        now = self._clock()
        self.links.send(target, train, now)
        self._flush(now)

    def drain(self, limit: int) -> list[bytes]:
        """Receive what has arrived, until about `limit` datagrams on each link."""
        now = self._clock()
        packets: list[bytes] = []
        for link, sock in self._sockets.items():
            for source, datagrams in self._read(link, sock, limit):
                packets += self.links.receive(link, source, datagrams, now)
        self._flush(now)
        return packets

    @property
    def receive_buffer(self) -> int:
        """The bytes that may wait to be received, as the kernel counts them."""
        return min(sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) for sock in self._sockets.values())

    def link_states(self) -> tuple[LinkState, ...]:
        """Return the links to all other nodes, by node and number."""
        return self.links.states()

    def overflows(self) -> int:
        """Return the number of datagrams that the kernel dropped because a receive buffer was full."""
        return sum(map(overflows, self._sockets.values()))

    def close(self) -> None:
        """Close all sockets."""
        self._poll.close()
        for sock in self._sockets.values():
            sock.close()

    # Receiving.

    def _read(self, link: int, sock: socket.socket, limit: int) -> Iterator[tuple[str, Sequence[bytes]]]:
        """Yield what has come, by its source. Hot."""
        recvmsg, sources = sock.recvmsg, self._sources
        count = 0
        while count < limit:
            try:
                train, ancillary, _, place = recvmsg(MAX_DATAGRAM, GRO_SPACE)
            except BlockingIOError:
                if not count:
                    self._read_refusals(link, sock)  # what has woken this node may be one of these
                return
            except OSError:
                if not self._read_refusals(link, sock):
                    return
                continue
            datagrams = apart(train, ancillary[0][2]) if ancillary else (train,)
            count += len(datagrams)
            yield sources.get(place[0], place[0]), datagrams

    # Sending.

    def _flush(self, now: float) -> None:
        """Send what the machine has ready, and tell it what the kernel says to that."""
        while departures := self.links.take():
            self._remember(departures)
            for departure in departures:
                self._depart(departure, now)
        for change in self.links.take_changes():
            self._link_log.note(change, now)
            self.on_link(self.links.state(change.node_id, change.link))

    def _remember(self, departures: Sequence[Departure]) -> None:
        """Remember what leaves: a train to all nodes once, and single datagrams together."""
        single: list[bytes] = []
        former: Sequence[bytes] = ()
        for departure in departures:
            datagrams = departure.datagrams
            if len(datagrams) == 1:
                single += datagrams
            elif datagrams is not former:
                former = datagrams
                self._sent.note(datagrams)
        if single:
            self._sent.note(single)

    def _depart(self, departure: Departure, now: float) -> None:
        sock = self._sockets[departure.link]
        place = self._places[departure.link, departure.node_id]
        datagrams = departure.datagrams
        for run in runs(datagrams, MAX_DATAGRAM) if len(datagrams) > 1 and self.trains_out else (datagrams,):
            if len(run) > 1 and self.trains_out and self._send_run(sock, run, place):
                continue
            for datagram in run:
                self._send_one(sock, departure, datagram, place, now)

    def _send_run(self, sock: socket.socket, run: Sequence[bytes], place: tuple[object, ...]) -> bool:
        """Send a run in one call; return whether the kernel has taken it."""
        try:
            sock.sendmsg(run, segments_of(len(run[0])), 0, place)
        except OSError as error:
            if error.errno in NO_TRAINS:
                _log.info("packets go out one by one: the kernel refuses trains (%s)", error.strerror)
                self.trains_out = False
            return False
        return True

    def _send_one(
        self, sock: socket.socket, departure: Departure, datagram: bytes, place: tuple[object, ...], now: float
    ) -> None:
        """Send a datagram; once more where the kernel has told of an earlier one instead of sending it."""
        for _ in range(2):
            try:
                sock.sendto(datagram, place)
                return
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    self._read_refusals(departure.link, sock)
                    mtu = _largest_to(place, sock.family)
                    self.links.too_large(departure.link, departure.node_id, mtu, now)
                    return
                if not self._read_refusals(departure.link, sock):
                    self.drops[f"not sent: {errno.errorcode.get(error.errno or 0, 'unknown')}"] += 1
                    return

    def _read_refusals(self, link: int, sock: socket.socket) -> bool:
        """Read what the kernel tells of datagrams that were sent earlier; return whether there was any."""
        refusals = read_refusals(sock)
        nodes = self._nodes[link]
        for refusal in refusals:
            node_id = nodes.get(refusal.place[0])
            if node_id is not None and not refusal.is_of_size:
                self._sent.refuse((link, node_id, refusal.is_of_port), refusal.quoted)
        return bool(refusals)


def _secrets(settings: Knet) -> tuple[str, str, bytes]:
    return settings.cipher, settings.hash, settings.key


def mtu_to(address: str, port: int) -> int:
    """Return the size of the largest IP packet that leaves this machine for a place; 0 where nobody can say."""
    family, place = sockaddr(address, port)
    return _largest_to(place, family)


def _largest_to(place: tuple[object, ...], family: int) -> int:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(place)
            return probe.getsockopt(*_IP_MTU[socket.AddressFamily(family)])
        except OSError:
            return 0
