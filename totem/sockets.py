"""UDP sockets of a node, and trains of datagrams through them.

Where the kernel can, datagrams of equal size (the last may be shorter) cross it in one call each way, by UDP_SEGMENT
and UDP_GRO.

The kernel is asked for refusals (IP_RECVERR): that nobody listens where a datagram was to go, or that it was too large
for the way. They wait in a queue of their own. The call that comes next on the socket, whatever it is for, fails with
such an error and does nothing else, so it must be repeated when the queue has been read.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
import sys
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from math import inf
from typing import Generic, NamedTuple, TypeVar

from totem.addresses import sockaddr
from totem.wire.slices import equal_slices

_log = logging.getLogger(__name__)

# Not in Python's socket module. <linux/udp.h>, <linux/in.h>, <linux/in6.h>, <linux/errqueue.h>,
# <asm-generic/socket.h>
UDP_SEGMENT = 103
UDP_GRO = 104
SO_MEMINFO = 55
SO_MEMINFO_DROPS = 8
_IP_MTU_DISCOVER = {socket.AF_INET: (socket.IPPROTO_IP, 10), socket.AF_INET6: (socket.IPPROTO_IPV6, 23)}
_PMTUDISC_PROBE = 3
_RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
_EXTENDED_ERROR = struct.Struct("=IBBBBII")  # errno, origin, type, code, pad, info, data
_ERROR_SPACE = socket.CMSG_SPACE(_EXTENDED_ERROR.size + 28)
_PORT_UNREACHABLE = {(errno.ECONNREFUSED, 2, 3, 3), (errno.ECONNREFUSED, 3, 1, 4)}
"""Error, origin (ICMP, ICMPv6), type and code by which a machine says that nobody listens."""
_FORCED = {socket.SO_RCVBUF: 33, socket.SO_SNDBUF: 32}
SYSCTL = {socket.SO_RCVBUF: "net.core.rmem_max", socket.SO_SNDBUF: "net.core.wmem_max"}
_PRIORITY_INTERACTIVE = 6

MAX_DATAGRAM = 65535
MAX_TRAIN_BYTES = 65507
MAX_TRAIN_FRAMES = 64
GRO_SPACE = socket.CMSG_SPACE(4)

MOST_REFUSALS = 64
"""Refusals that are read together."""
QUOTED = 64
"""Bytes of a refused datagram that are compared with what was sent."""
REMEMBERED = 32
"""Trains whose datagrams can be recognised in a refusal. One comes within a rotation of the token."""
COMPARE_INTERVAL = 0.01
"""Seconds between two times that refusals are compared with what was sent."""

Whose = TypeVar("Whose", bound=Hashable)

# Errors of the kernel for a train. Each frame may still pass by itself.
NO_TRAINS = {errno.EIO, errno.EOPNOTSUPP}
"""It or the network card cannot cut any."""
NOT_THIS_WAY = {errno.EINVAL, errno.EMSGSIZE}
"""It cuts none for this way while that seems to carry less: a single ICMP says so, which anybody can forge."""


def open_socket(node_id: int, address: str, port: int) -> socket.socket:
    """Open the socket of a node at one of its addresses.

    Raises `OSError` if the address is not this machine's, or the port is taken.
    """
    family, place = sockaddr(address, port)
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.bind(place)
    except OSError as error:
        sock.close()
        hint = {
            errno.EADDRNOTAVAIL: "this machine has no such address",
            errno.EADDRINUSE: "another process uses it (was the same node started twice?)",
        }.get(error.errno or 0, error.strerror)
        text = f"node {node_id} cannot listen at {address} port {port}: {hint}"
        raise OSError(error.errno, text) from None
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _PRIORITY_INTERACTIVE)
    return sock


def enlarge(sock: socket.socket, option: int, size: int) -> None:
    """Request a large buffer as `request_buffer` does, with a warning where it is smaller."""
    granted = request_buffer(sock, option, size)
    if granted < size:
        _log.warning(
            "socket buffer of %d bytes instead of %d, bursts may be lost: set %s to %d (sysctl -w)",
            granted,
            size,
            SYSCTL[option],
            size,
        )


def request_buffer(sock: socket.socket, option: int, size: int) -> int:
    """Request a large buffer: beyond the system's limit where this process may, else up to it; return its size."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _FORCED[option], size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, option, size)
    return sock.getsockopt(socket.SOL_SOCKET, option) // 2  # the kernel doubles it for its own use


def forbid_cutting(sock: socket.socket) -> None:
    """Have the kernel refuse packets that leave only in pieces, and cut none on the way."""
    sock.setsockopt(*_IP_MTU_DISCOVER[sock.family], _PMTUDISC_PROBE)


class Refusal(NamedTuple):
    """What the kernel says of a datagram that was sent earlier."""

    place: tuple[str, int]
    """The address and port to which it was sent."""
    is_of_size: bool
    """Whether it was too large for the way."""
    is_of_port: bool
    """Whether nobody listens there."""
    quoted: bytes
    """How it begins, as far as the refusal says."""


def ask_for_refusals(sock: socket.socket) -> None:
    """Have the kernel keep refusals for `read_refusals`."""
    sock.setsockopt(*_RECVERR[sock.family], 1)


def read_refusals(sock: socket.socket) -> list[Refusal]:
    """Read what the kernel says of datagrams that were sent earlier, the oldest `MOST_REFUSALS` at most."""
    refusals: list[Refusal] = []
    while len(refusals) < MOST_REFUSALS:
        try:
            quoted, ancillary, _, place = sock.recvmsg(QUOTED, _ERROR_SPACE, socket.MSG_ERRQUEUE)
        except OSError:
            break
        said = [data for _, _, data in ancillary if len(data) >= _EXTENDED_ERROR.size]
        code, origin, kind, subkind, *_ = _EXTENDED_ERROR.unpack_from(said[0]) if said else (0, 0, 0, 0)
        is_of_port = (code, origin, kind, subkind) in _PORT_UNREACHABLE
        refusals.append(Refusal(place[:2] if place else ("", 0), code == errno.EMSGSIZE, is_of_port, quoted))
    return refusals


class SentLately(Generic[Whose]):
    """The datagrams that were sent last, and refusals. One that quotes none of these datagrams is forged, or late.

    To compare costs far more than to read. So refusals wait, and are compared together, a hundred times a second at
    most: a flood of forged ones must keep the node from nothing else.
    """

    __slots__ = ("_next", "_refused", "_trains", "note")

    def __init__(self) -> None:
        self._trains: deque[Sequence[bytes]] = deque(maxlen=REMEMBERED)
        self.note = self._trains.append
        """Remember datagrams that are sent. Hot: once for each train."""
        self._refused: dict[Whose, set[bytes]] = {}
        """What is quoted as refused, by whom, and not compared yet."""
        self._next = -inf
        """When it may be compared."""

    @property
    def deadline(self) -> float:
        """When `refusing` is due; infinity if no refusal waits."""
        return self._next if self._refused else inf

    def refuse(self, whose: Whose, quoted: bytes) -> None:
        """Take a refusal."""
        quotes = self._refused.setdefault(whose, set())
        if len(quotes) < MOST_REFUSALS:
            quotes.add(quoted)

    def refusing(self, now: float) -> list[Whose]:
        """Return who has refused what was sent, and start afresh; nobody before it is due."""
        if now < self.deadline:
            return []
        refused, self._refused = self._refused, {}
        self._next = now + COMPARE_INTERVAL
        beginnings = {datagram[:QUOTED] for train in self._trains for datagram in train}
        return [whose for whose, quotes in refused.items() if not quotes.isdisjoint(beginnings)]


def has_option(sock: socket.socket, option: int) -> bool:
    """Return whether the kernel knows an option of UDP sockets."""
    try:
        sock.getsockopt(socket.SOL_UDP, option)
    except OSError:
        return False
    return True


def switch_on(sock: socket.socket, option: int) -> bool:
    """Switch an option of UDP sockets on; return whether the kernel knows it."""
    try:
        sock.setsockopt(socket.SOL_UDP, option, 1)
    except OSError:
        return False
    return True


def runs(train: Sequence[bytes], largest: int) -> Iterator[list[bytes]]:
    """Cut a train into what one call takes: frames of equal size, of which the last may be shorter.

    A frame larger than `largest` goes alone, because IP never fragments segments (ruling D6).
    """
    start = 0
    while start < len(train):
        size = len(train[start])
        most = min(MAX_TRAIN_FRAMES, MAX_TRAIN_BYTES // size) if size <= largest else 1
        run = list(train[start : start + most])
        sizes = list(map(len, run))
        if sizes.count(size) < len(sizes):
            equal = next(place for place, other in enumerate(sizes) if other != size)
            del run[equal + (sizes[equal] < size) :]
        yield run
        start += len(run)


def segments_of(size: int) -> list[tuple[int, int, bytes]]:
    """Return the ancillary data with which a train of datagrams of this size leaves."""
    return [(socket.SOL_UDP, UDP_SEGMENT, size.to_bytes(2, sys.byteorder))]


def apart(train: bytes, size_as_said: bytes) -> Sequence[bytes]:
    """Return the datagrams of a train that came, whose size the kernel says. Hot."""
    size = int.from_bytes(size_as_said, sys.byteorder)
    whole = len(train) // size
    datagrams = equal_slices(train, 0, size, whole)
    return datagrams if whole * size == len(train) else (*datagrams, train[whole * size :])


def overflows(sock: socket.socket) -> int:
    """Return the number of datagrams that the kernel dropped because the receive buffer was full."""
    figures = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * (SO_MEMINFO_DROPS + 1))
    return int.from_bytes(figures[-4:], sys.byteorder)
