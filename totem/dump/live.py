"""Packets as they pass the interfaces of this machine: a packet socket, which binds no port and consumes nothing.

The kernel cuts the link layer off and passes up UDP alone. It reports a machine's own packets on the loopback twice,
going out and coming in; the outgoing ones are dropped here, as tcpdump does.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Iterator

from totem.dump.captures import Packet
from totem.dump.network import RAW
from totem.errors import TotemError

# Not in Python's socket module. <linux/if_packet.h>, <linux/if_ether.h>, <asm-generic/socket.h>
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_ETH_P_ALL = 3
_ARPHRD_LOOPBACK = 772
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35

_LARGEST = 1 << 17
_BUFFER_BYTES = 16 << 20
_TIME = struct.Struct("@ll")
_COUNTS = struct.Struct("@II")

# Classic BPF: accept UDP over IPv4, and over IPv6 also what may be UDP after extension headers. Each line: code, jump
# if true, jump if false, value.
_FILTER = (
    (0x30, 0, 0, 0),  # load the byte at 0
    (0x54, 0, 0, 0xF0),  # its high half
    (0x15, 0, 2, 0x40),  # IPv4?
    (0x30, 0, 0, 9),  # load the protocol
    (0x15, 7, 8, 17),  # UDP?
    (0x15, 0, 7, 0x60),  # IPv6?
    (0x30, 0, 0, 6),  # load the next header
    (0x15, 4, 0, 17),  # UDP?
    (0x15, 3, 0, 44),  # a fragment?
    (0x15, 2, 0, 0),  # hop-by-hop options?
    (0x15, 1, 0, 43),  # routing?
    (0x15, 0, 1, 60),  # destination options?
    (0x06, 0, 0, _LARGEST),  # take it
    (0x06, 0, 0, 0),  # leave it
)


class NoCapture(TotemError):
    """Packets cannot be captured here."""


class Sniffer:
    """Captures at one interface, or at all (an empty name), until `stop`. Raises NoCapture."""

    def __init__(self, interface: str = "") -> None:
        self._interface = interface
        self._numbers: dict[str, int] = {}
        """Numbers of the interfaces at which packets were seen."""
        try:
            # From here on it captures at all interfaces, if it is bound to none.
            protocol = 0 if interface else socket.htons(_ETH_P_ALL)
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, protocol)
        except PermissionError:
            raise NoCapture(
                "capturing packets needs the capability CAP_NET_RAW: run as root, or give a capture file "
                "(tcpdump -w FILE udp)"
            ) from None
        except OSError as error:
            raise NoCapture(f"no packet socket: {error.strerror}") from None
        self._wake, self._alarm = os.pipe()
        os.set_blocking(self._alarm, False)
        try:
            self._open(interface)
        except OSError as error:
            self.close()
            raise NoCapture(f"interface {interface or 'any'}: {error.strerror}") from None

    def _open(self, interface: str) -> None:
        instructions = b"".join(struct.pack("@HBBI", *line) for line in _FILTER)
        program = ctypes.create_string_buffer(instructions)
        self._socket.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(_FILTER), ctypes.addressof(program))
        )
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        except PermissionError:  # no CAP_NET_ADMIN: up to the system's limit
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        if interface:
            self._socket.bind((interface, _ETH_P_ALL))
        self._socket.setblocking(False)

    def packets(self) -> Iterator[Packet]:
        """Yield packets as they pass; after `stop`, those that passed before it, and end."""
        while not select.select([self._wake], [], [], 0)[0]:
            select.select([self._socket.fileno(), self._wake], [], [])
            packet = self._receive()
            if packet is not None:
                yield packet
        end = time.time()
        while (packet := self._receive()) is not None and packet.time <= end:
            yield packet

    def _receive(self) -> Packet | None:
        """Return the next packet, if there is one."""
        while True:
            try:
                data, ancillary, _, (name, _, direction, hardware, *_) = self._socket.recvmsg(
                    _LARGEST, socket.CMSG_SPACE(_TIME.size)
                )
            except BlockingIOError:
                return None
            except OSError as error:
                raise NoCapture(f"interface {self._interface or 'any'}: {error.strerror}") from error
            if direction != socket.PACKET_OUTGOING or hardware != _ARPHRD_LOOPBACK:
                break
        seconds, nanoseconds = _TIME.unpack(ancillary[0][2])
        number = self._numbers.setdefault(name, len(self._numbers))
        return Packet(seconds + nanoseconds * 1e-9, RAW, data, len(data), number, direction)

    def stop_on(self, *signals: signal.Signals) -> None:
        """Stop when one of these signals comes."""
        for number in signals:
            signal.signal(number, lambda *_: self.stop())

    def stop(self) -> None:
        """End `packets`; may be called from a signal handler or another thread."""
        os.write(self._alarm, b"\0")

    def dropped(self) -> int:
        """Return the number of packets for which the kernel had no room since the last call."""
        counts = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _COUNTS.size)
        drops: int = _COUNTS.unpack(counts)[1]
        return drops

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        os.close(self._wake)
        os.close(self._alarm)
