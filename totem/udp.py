"""The sockets of one node, for transports udpu and udp, IPv4 and IPv6.

One socket is bound to the node's own address and port. It sends everything, and receives everything that is sent to
this node alone. With udpu that is all: a multicast is one copy for each other node of the nodelist, up or not. With udp
a second socket receives the multicast group.

Real nodes send multicasts from other ports, and look at no source port. This package sends all from one port, so that a
network card keeps multicasts and the token behind them in order.

Frames leave the core as trains: all that one visit of the token sends. Where the kernel can, frames of equal size (the
last may be shorter) cross it in one call each way, by UDP_SEGMENT and UDP_GRO. A frame and destination then takes 0.2
µs, instead of 3.5 µs to send and 1.2 µs to receive. On the wire they are ordinary datagrams.

A datagram that cannot be sent is counted and forgotten: the protocol repairs it as it repairs any loss. Where a machine
refuses what was sent to it, the node is told in its next turn (`on_refusal`). Only `wait_readable` waits.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

import trio

from totem.addresses import interface_index, is_local, sockaddr
from totem.config import Config, NodeEntry
from totem.link_log import LinkLog
from totem.links.machine import LinkState
from totem.links.path import PAUSE
from totem.links.probing import LINK, Probing
from totem.sockets import (
    GRO_SPACE,
    MAX_DATAGRAM,
    NO_TRAINS,
    NOT_THIS_WAY,
    UDP_GRO,
    UDP_SEGMENT,
    SentLately,
    apart,
    ask_for_refusals,
    enlarge,
    has_option,
    open_socket,
    overflows,
    read_refusals,
    runs,
    segments_of,
    switch_on,
)

_log = logging.getLogger(__name__)

ALL = 0
"""Target of a multicast: all other nodes of the nodelist."""

BUFFER_BYTES = 16 * 136192
"""Requested for each direction, as Corosync does."""


class UdpEndpoint:
    """The open sockets of the node `node_id` of a ring.

    Raises `OSError` if its address is not this machine's or its port is taken (most likely by a second process with the
    same node id).
    """

    def __init__(self, config: Config, node_id: int, *, trains: bool = True) -> None:
        own = config.node(node_id)
        self._node_id = node_id
        self.drops: Counter[str] = Counter()
        """Datagrams lost on the way out or refused on the way in, by cause; the counter may be shared with others."""
        self.notice: Callable[[str, str], None] = lambda cause, text: None
        """Called with what an operator should know, each time."""
        self.on_link: Callable[[LinkState], None] = lambda state: None
        """Called when the state of the link to another node of this package has changed; it must only queue."""
        self.on_refusal: Callable[[int, float], None] = lambda node_id, now: None
        """Called when the machine of a node has refused what was sent to it, because nobody listens there."""
        self.probing = Probing(config, node_id)
        """Who hears whom among nodes of ours, and what the paths between them carry."""
        self._link_log = LinkLog(node_id, self.probing.paths)
        self._sent = SentLately[int]()
        self._largest_segment = config.max_datagram
        self._set_nodes(config)
        self._socket = open_socket(own.node_id, own.address, own.port)
        ask_for_refusals(self._socket)
        self._own_place = self._socket.getsockname()
        self._sockets = [self._socket]
        self._group: socket.socket | None = None
        self._poll: select.epoll | None = None
        if config.transport == "udp":
            try:
                self._join_group(config, own)
            except OSError:
                self.close()
                raise
        for sock in self._sockets:
            enlarge(sock, socket.SO_RCVBUF, BUFFER_BYTES)
        enlarge(self._socket, socket.SO_SNDBUF, BUFFER_BYTES)
        self.trains_out = trains and has_option(self._socket, UDP_SEGMENT)
        self.trains_in = trains and all(switch_on(sock, UDP_GRO) for sock in self._sockets)
        self._read = self._read_trains if self.trains_in else self._read_plain

    def _set_nodes(self, config: Config) -> None:
        others = [node for node in config.nodes if node.node_id != self._node_id]
        places = {node.node_id: sockaddr(node.address, node.port)[1] for node in others}
        addresses = {sockaddr(node.address, 0)[1][0] for node in config.nodes}
        self._places = places
        self._nodes = {place[:2]: node_id for node_id, place in places.items()}
        """The node ids, by address and port."""
        self._everybody = list(places.values())
        self._listed = addresses if config.block_unlisted_ips else None

    def reconfigure(self, config: Config, now: float) -> None:
        """Take another nodelist. Raises `OSError`, and changes nothing, where an address cannot be used here."""
        self._set_nodes(config)
        if self._group is not None:
            self._reach_group(config)
        self.probing.reconfigure(config, now)
        self._link_log.retain({(node_id, LINK) for node_id in self._places})
        self._flush(now)

    def fileno(self) -> int:
        """Return the descriptor that is readable when datagrams wait."""
        return (self._poll or self._socket).fileno()

    async def wait_readable(self) -> None:
        """Wait until `drain` would return something."""
        await trio.lowlevel.wait_readable(self)

    @property
    def deadline(self) -> float:
        """When `advance` is due."""
        return min(self._sent.deadline, self.probing.deadline)

    def start(self, now: float) -> None:
        """Do nothing: all nodes of the nodelist are sent to."""

    def advance(self, now: float) -> None:
        """Do what is due."""
        late = now - self.probing.deadline
        if late > PAUSE:
            self.probing.delay(late)
        for node_id in self._sent.refusing(now):
            self.on_refusal(node_id, now)
            self.probing.unreachable(node_id, now)
        self.probing.advance(now)
        self._link_log.advance(now)
        self._flush(now)

    def ping(self, ours: Collection[int], now: float) -> None:
        """Ping these nodes, all of which are of this package."""
        self.probing.ping(ours, now)
        self._flush(now)

    def check(self, now: float) -> None:
        """Look at once whether the paths carry what they did: the ring stalls."""
        self.probing.check(now)
        self._flush(now)

    def watch(self, node_id: int, now: float) -> None:
        """Ping this node often from now on; 0: none."""
        self.probing.watch(node_id, now)

    def try_nodes(self, node_ids: Iterable[int], now: float) -> None:
        """Find out at once whether nodes answer."""
        self.probing.try_nodes(node_ids, now)
        self._flush(now)

    def attend(self, members: Collection[int], now: float) -> None:
        """Look for what the paths to these members carry, all of which are of this package."""
        self.probing.attend(members, now)
        self._flush(now)

    def hear(self, datagram: bytes, now: float) -> bool:
        """Take a datagram that is none of totem's; return whether it is a probe or an answer to one."""
        is_mine = self.probing.receive(datagram, now)
        self._flush(now)
        return is_mine

    def _flush(self, now: float) -> None:
        """Send what the machine has ready, and tell people what has become of links."""
        outgoing = self.probing.take()
        if outgoing:
            self._sent.note([datagram for _, datagram in outgoing])
        for node_id, datagram in outgoing:
            self._send_plain((self._places[node_id],), (datagram,))
        for change in self.probing.take_changes():
            self._link_log.note(change, now)
            self.on_link(self.probing.state(change.node_id))

    def send(self, target: int, train: Sequence[bytes]) -> None:
        """Send frames, in order, to one node or to `ALL` others."""
        self._sent.note(train)
        narrow = self.probing.narrow
        if narrow and len(max(train, key=len)) > min(narrow.values()) and (target == ALL or target in narrow):
            self._send_around(target, train)
        elif target == ALL:
            self._send_train(self._everybody, train)
        elif target in self._places:
            self._send_train((self._places[target],), train)
        else:
            self.drops["unknown target"] += len(train)

    def _send_around(self, target: int, train: Sequence[bytes]) -> None:
        """Send frames, in pieces to the nodes whose paths do not carry them whole."""
        narrow = self.probing.narrow
        has_all = target == ALL and self._group is not None
        if has_all:
            self._send_train(self._everybody, train)
        elif target == ALL:
            self._send_train([place for node_id, place in self._places.items() if node_id not in narrow], train)
        for node_id in narrow if target == ALL else (target,):
            frames = [frame for frame in train if len(frame) > narrow[node_id]] if has_all else train
            pieces = self.probing.cut(node_id, frames)
            self._sent.note(pieces)
            self._send_train((self._places[node_id],), pieces)

    def _send_train(self, places: Sequence[tuple[object, ...]], train: Sequence[bytes]) -> None:
        if not self.trains_out or len(train) == 1:
            self._send_plain(places, train)
            return
        for run in runs(train, self._largest_segment):
            if len(run) == 1 or not self.trains_out:
                self._send_plain(places, run)
            else:
                self._send_run(places, run)

    def drain(self, limit: int) -> list[bytes]:
        """Receive what has arrived, multicasts first, until about `limit` datagrams of either kind."""
        own = self._read(self._socket, limit)
        if self._group is None:
            return own
        # Read later but handed on earlier: the multicasts that a token followed are here by now.
        return self._read(self._group, limit) + own

    @property
    def receive_buffer(self) -> int:
        """The bytes that may wait to be received, as the kernel counts them."""
        return min(sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) for sock in self._sockets)

    def link_states(self) -> tuple[LinkState, ...]:
        """Return the links to all nodes that are or were of this package, by node."""
        return self.probing.states()

    def overflows(self) -> int:
        """Return the number of datagrams that the kernel dropped because a receive buffer was full."""
        return sum(map(overflows, self._sockets))

    def close(self) -> None:
        """Close all sockets."""
        if self._poll:
            self._poll.close()
        for sock in self._sockets:
            sock.close()

    # Sending.

    def _send_plain(self, places: Sequence[tuple[object, ...]], train: Sequence[bytes]) -> None:
        sendto = self._socket.sendto
        for place in places:
            for frame in train:
                try:
                    sendto(frame, place)
                except OSError:
                    self._send_again(frame, place)

    def _send_again(self, frame: bytes, place: tuple[object, ...]) -> None:
        """Send a frame that has failed once, which may have been for what was sent before it."""
        self._read_refusals()
        try:
            self._socket.sendto(frame, place)
        except OSError as error:
            self._give_up(error, 1)

    def _send_run(self, places: Sequence[tuple[object, ...]], run: list[bytes]) -> None:
        segment = segments_of(len(run[0]))
        for place in places:
            try:
                self._send_once_more_if_refused(run, segment, place)
            except OSError as error:
                if error.errno in NOT_THIS_WAY:
                    self._send_plain((place,), run)
                    continue
                if error.errno in NO_TRAINS:
                    _log.info("frames go out one by one: the kernel refuses trains (%s)", error.strerror)
                    self.trains_out = False
                    self._send_plain(places[places.index(place) :], run)
                    return
                self._give_up(error, len(run))

    def _send_once_more_if_refused(
        self, run: list[bytes], segment: list[tuple[int, int, bytes]], place: tuple[object, ...]
    ) -> None:
        try:
            self._socket.sendmsg(run, segment, 0, place)
        except OSError:
            self._read_refusals()
            self._socket.sendmsg(run, segment, 0, place)

    def _give_up(self, error: OSError, count: int) -> None:
        self._count("not sent", error, count)
        self._read_refusals()  # the kernel may have queued this error, too, which would wake this node for ever

    def _read_refusals(self) -> bool:
        """Read what the kernel says of what was sent earlier; return whether there was anything."""
        refusals = read_refusals(self._socket)
        for refusal in refusals:
            node_id = self._nodes.get(refusal.place)
            if refusal.is_of_port and node_id is not None:
                self._sent.refuse(node_id, refusal.quoted)
        return bool(refusals)

    def _count(self, what: str, error: OSError, count: int) -> None:
        self.drops[f"{what}: {errno.errorcode.get(error.errno or 0, 'unknown')}"] += count

    # Receiving.

    def _read_plain(self, sock: socket.socket, limit: int) -> list[bytes]:
        datagrams: list[bytes] = []
        recvfrom = sock.recvfrom
        for _ in range(limit):
            try:
                datagram, source = recvfrom(MAX_DATAGRAM)
            except BlockingIOError:
                break
            except OSError as error:
                if self._read_refusals():
                    continue
                self._count("not received", error, 1)
                break
            if self._is_welcome(source):
                datagrams.append(datagram)
        return datagrams

    def _read_trains(self, sock: socket.socket, limit: int) -> list[bytes]:
        datagrams: list[bytes] = []
        recvmsg = sock.recvmsg
        for _ in range(limit):
            try:
                train, ancillary, _, source = recvmsg(MAX_DATAGRAM, GRO_SPACE)
            except BlockingIOError:
                break
            except OSError as error:
                if self._read_refusals():
                    continue
                self._count("not received", error, 1)
                break
            if not self._is_welcome(source):
                continue
            if ancillary:
                datagrams += apart(train, ancillary[0][2])
            else:
                datagrams.append(train)
            if len(datagrams) >= limit:
                break
        return datagrams

    def _is_welcome(self, source: tuple[object, ...]) -> bool:
        if source == self._own_place:
            return False  # the group gives a node its own multicasts back; the core needs none
        if self._listed is None or source[0] in self._listed:
            return True
        self.drops["unlisted address"] += 1
        self.notice(
            "unlisted address",
            f"datagrams come from {source[0]}, which is not in the nodelist, and are dropped: "
            f"add the node there to the nodelist of all nodes, or give it another port",
        )
        return False

    # Multicast.

    def _reach_group(self, config: Config) -> None:
        """Send multicasts to the group; without other nodes on this machine, its own copies are not needed."""
        family, place = sockaddr(config.mcastaddr, config.port)
        self._everybody = [place]
        loop = any(is_local(node.address) for node in config.nodes if node.node_id != self._node_id)
        if family == socket.AF_INET6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, loop)
        else:
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, loop)

    def _join_group(self, config: Config, own: NodeEntry) -> None:
        family, place = sockaddr(config.mcastaddr, config.port)
        group = self._group = socket.socket(family, socket.SOCK_DGRAM)
        self._sockets.append(group)
        self._reach_group(config)
        group.setblocking(False)
        group.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the other nodes of this machine listen too
        group.bind(place)
        set_option = self._socket.setsockopt
        if family == socket.AF_INET6:
            index = interface_index(own.address)
            membership = socket.inet_pton(family, place[0]) + index.to_bytes(4, sys.byteorder)
            group.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
            set_option(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            set_option(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, config.ttl)
        else:
            interface = socket.inet_aton(own.address)
            group.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(place[0]) + interface)
            set_option(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
            set_option(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, config.ttl)
        self._poll = select.epoll()
        for sock in self._sockets:
            self._poll.register(sock, select.EPOLLIN)
