"""The daemon's clients, without I/O: what waits for each, and when one is disconnected.

Messages to a client wait until the end of the turn, and then go into as few records as possible. A client that does not
read is handled in two steps. First the daemon reads no more requests from it (`is_behind`). Then it is disconnected:
when more than `client_limit` waits for it, or more than `total_limit` for all clients and most of it for this one. What
waits is discarded, and a goodbye with the reason takes its place. The client keeps its locks until the lease ends, as
with every lost connection.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from cluck.protocol import Downward, Farewell, Goodbye, records
from cpg.local.shares import furthest_behind, no_place

if TYPE_CHECKING:
    from cpg.local.access import Access

CLIENT_LIMIT: Final = 16 << 20
"""Bytes that may wait for a client."""
TOTAL_LIMIT: Final = 256 << 20
"""Bytes that may wait for all clients."""
MOST_CLIENTS: Final = 8192


class Hub:
    """All clients of one daemon."""

    def __init__(
        self,
        access: Access,
        *,
        most_clients: int = MOST_CLIENTS,
        client_limit: int = CLIENT_LIMIT,
        total_limit: int = TOTAL_LIMIT,
    ) -> None:
        """`access`: who may connect. Limits in bytes."""
        self._access = access
        self._places = self._access.shares(most_clients)
        self.clients: set[Client] = set()
        self.client_limit = client_limit
        self.dropped = 0
        """Clients that were disconnected since they did not read."""
        self.waiting = 0
        """Bytes that wait for all clients."""
        self._total_limit = total_limit
        self._written: set[Client] = set()
        """Clients for which something was queued since `take_written`."""

    def connect(self, pid: int, uid: int, gid: int) -> Client:
        """Add a client: a process has connected."""
        client = Client(self, pid, uid, gid)
        self.clients.add(client)
        if not self._access.allows(uid, gid):
            client.dismiss(Farewell.ACCESS, self._access.refuse(pid, uid))
        elif self._places.take(uid):
            client.has_place = True
        else:
            client.dismiss(Farewell.FULL, no_place(self._places, uid))
        return client

    def disconnect(self, client: Client) -> None:
        """Remove a client: its connection has ended."""
        client.ended = True
        client.discard()
        if client.has_place:
            client.has_place = False
            self._places.give(client.uid)
        self.clients.discard(client)
        self._written.discard(client)

    def dismiss_all(self, text: str) -> None:
        """Send all clients goodbye: the daemon ends, or has no lock server any more."""
        for client in list(self.clients):
            client.dismiss(Farewell.ENDING, text)

    def take_written(self) -> list[Client]:
        """Return the clients for which something was queued, once, with their messages packed into records."""
        written, self._written = self._written, set()
        for client in written:
            client.pack()
        while self.waiting > self._total_limit and (slowest := furthest_behind(self.clients)):
            self._drop(slowest, f"more than {self._total_limit} bytes waited for all clients, most of them for it")
            written.add(slowest)
        return list(written)

    def queued(self, client: Client) -> None:
        """Note that something was queued for a client."""
        self._written.add(client)

    def check(self, client: Client) -> None:
        """Disconnect a client for which too much waits."""
        if client.size > self.client_limit:
            self._drop(client, f"more than {self.client_limit} bytes waited for it")

    def _drop(self, client: Client, why: str) -> None:
        self.dropped += 1
        client.dismiss(Farewell.SLOW, f"process {client.pid} did not read its messages: {why}")


class Client:
    """One connection, with the messages that wait for it (a `cpg.local.client_socket.Outbox`)."""

    def __init__(self, hub: Hub, pid: int, uid: int, gid: int) -> None:
        self.pid = pid
        self.uid = uid
        self.gid = gid
        self.ended = False
        """Whether it was sent goodbye, or is gone: nothing is done for it any more."""
        self.farewell: Goodbye | None = None
        """The goodbye that was sent."""
        self.has_place = False
        """Whether it has one of the places for clients."""
        self.size = 0
        """Bytes of the records that wait."""
        self._hub = hub
        self._messages: list[Downward] = []
        self._records: deque[bytes] = deque()

    @property
    def is_behind(self) -> bool:
        """Whether so much waits that the client must read before its next request is read."""
        return self.size > self._hub.client_limit // 4

    def send(self, message: Downward) -> None:
        """Queue a message. Hot: once for each outcome."""
        if self.ended:
            return
        self._messages.append(message)
        if type(message) is Goodbye:
            self.ended = True
            self.farewell = message
        self._hub.queued(self)

    def dismiss(self, why: Farewell, text: str) -> None:
        """Send goodbye, instead of everything that waits."""
        if not self.ended:
            self.discard()
            self.send(Goodbye(why, text))
            self.pack()

    def pack(self) -> None:
        """Pack the messages into records."""
        if self._messages:
            messages, self._messages = self._messages, []
            for record in records(messages):
                self._count(len(record))
                self._records.append(record)
            if not self.ended:
                self._hub.check(self)

    def has_records(self) -> bool:
        """Return whether a record waits."""
        return bool(self._records)

    def record(self) -> bytes:
        """Take the next record."""
        record = self._records.popleft()
        self._count(-len(record))
        return record

    def discard(self) -> None:
        """Discard what waits."""
        self._messages.clear()
        self._records.clear()
        self._count(-self.size)

    def _count(self, size: int) -> None:
        self.size += size
        self._hub.waiting += size
