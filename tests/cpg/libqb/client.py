"""A libqb client under a test's control: what the library does on sockets, without its checks."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress

import trio

HELLO = struct.pack("<i4xi4xI4x", -1, 24, 1 << 20)
HEADER = struct.Struct("<i4xi4xi4x")
CONTROL = struct.Struct("<6i")
PATIENCE = 20


def request(number, body=b""):
    """Return a request: header, and body."""
    return struct.pack("<i4xi4x", number, 16 + len(body)) + body


def name(text):
    """Return a mar_cpg_name_t."""
    return struct.pack("<I4x128s", len(text), text)


def join(group, pid, flags=0):
    return request(0, name(group) + struct.pack("<I4xI4x", pid, flags))


def leave(group, pid):
    return request(1, name(group) + struct.pack("<I4x", pid))


def mcast(payload, guarantee=2):
    return struct.pack("<i4xi4x8xI4xI4x", 2, 40 + len(payload), guarantee, len(payload)) + payload


def piece(payload, whole, kind):
    return struct.pack("<i4xi4x8xI4xI4xI4xI4x", 12, 56 + len(payload), 2, whole, len(payload), kind) + payload


MEMBERSHIP, LOCAL_GET, ITERATE, NEXT, ITERATED, FINALIZE = range(3, 9)


class Refused(Exception):
    """The server answered with an errno."""


class RawClient:
    """A connection to a service. `prefix`: before the names of all its abstract sockets."""

    def __init__(self, service, prefix=""):
        self.service = service
        self._prefix = prefix
        self._sockets = []

    def _address(self, name):
        return b"\0" + (self._prefix + name).encode().ljust(107, b"\0")

    async def connect(self):
        """Send the request to connect, and connect the sockets."""
        try:
            await self._connect()
        except BaseException:
            self.close()
            raise
        return self

    async def _connect(self):
        self.stream = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sockets.append(self.stream)
        await self.stream.connect(self._address(self.service))
        await self.stream.send(HELLO)
        answer = b""
        while len(answer) < 12328:
            more = await self.stream.recv(12328 - len(answer))
            if not more:
                raise ConnectionResetError("no answer to the hello")
            answer += more
        _, _, error, kind, _, _, control, base, _ = struct.unpack("<i4xi4xi4xiIQ4096s4096s4096s", answer)
        if error:
            raise Refused(-error)
        assert kind == 0
        self.control = control.rstrip(b"\0").decode()
        base = base.rstrip(b"\0").decode()
        self.requests = self._pair(base + "-response", base + "-request")
        self.events = self._pair(base + "-event", base + "-event-tx")

    def _pair(self, ours, theirs):
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        made.bind(self._address(ours))
        made.connect(self._address(theirs))
        self._sockets.append(made)
        return trio.socket.from_stdlib_socket(made)

    async def send(self, datagram):
        await self.requests.send(datagram)

    async def ask(self, datagram):
        """Send a request and return its answer: id, error, and body."""
        await self.requests.send(datagram)
        with trio.fail_after(PATIENCE):
            return _parsed(await self.requests.recv(1 << 21))

    async def event(self):
        """Return the next event, like an answer; None for the end."""
        with trio.fail_after(PATIENCE):
            event = await self.events.recv(1 << 21)
        return _parsed(event) if event else None

    async def until(self, number):
        """Skip events until one with this id."""
        while (event := await self.event()) is not None:
            if event[0] == number:
                return event
        raise AssertionError("it has ended")

    async def ended(self):
        """Wait until the server has ended the connection."""
        with trio.fail_after(PATIENCE), suppress(ConnectionError):
            while await self.stream.recv(100):
                pass

    @property
    def flow(self):
        """The flow control of requests."""
        with open(self.control, "rb") as file:
            return CONTROL.unpack(file.read())[1]

    def close(self):
        """Disconnect without a leave."""
        for each in self._sockets:
            each.close()

    async def __aenter__(self):
        return await self.connect()

    async def __aexit__(self, *_):
        self.close()


def _parsed(datagram):
    number, size, error = HEADER.unpack_from(datagram)
    assert size == len(datagram)
    return number, error, datagram[HEADER.size :]


def unique_prefix():
    """For the sockets of one test, as long as this process lives."""
    return f"test-{os.getpid()}-{os.urandom(4).hex()}-"
