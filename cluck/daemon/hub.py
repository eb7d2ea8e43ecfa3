"""The daemon's clients, without I/O: what waits for each, and when one has to go.

What a client is told waits until the end of the turn, and then goes into as few records as there can be. A client that
does not read is first not read from any more (`is_behind`); when more waits than `client_limit`, or than `total_limit`
for all and most of it for this one, it is put out: what waits is thrown away, and a goodbye with the reason takes its
place. What it holds stays its own until the lease ends, as with every connection that is lost.
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
"""Bytes that may wait for all of them."""
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
        """Clients that were put out since they did not read."""
        self.waiting = 0
        """Bytes that wait for all."""
        self._total_limit = total_limit
        self._told: set[Client] = set()

    def connect(self, pid: int, uid: int, gid: int) -> Client:
        """A process has connected."""
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
        """A connection has ended."""
        client.ended = True
        client.discard()
        if client.has_place:
            client.has_place = False
            self._places.give(client.uid)
        self.clients.discard(client)
        self._told.discard(client)

    def dismiss_all(self, text: str) -> None:
        """The daemon ends, or is no lock server any more."""
        for client in list(self.clients):
            client.dismiss(Farewell.ENDING, text)

    def take_written(self) -> list[Client]:
        """Those that were told something since the last time, with what waits for them as records."""
        told, self._told = self._told, set()
        for client in told:
            client.pack()
        while self.waiting > self._total_limit and (slowest := furthest_behind(self.clients)):
            self._drop(slowest, f"more than {self._total_limit} bytes waited for all clients, most of them for it")
            told.add(slowest)
        return list(told)

    def told(self, client: Client) -> None:
        """Something is to be written for a client."""
        self._told.add(client)

    def check(self, client: Client) -> None:
        """Put a client out for which too much waits."""
        if client.size > self.client_limit:
            self._drop(client, f"more than {self.client_limit} bytes waited for it")

    def _drop(self, client: Client, why: str) -> None:
        self.dropped += 1
        client.dismiss(Farewell.SLOW, f"process {client.pid} did not read what it was told: {why}")


class Client:
    """One connection: what waits for it (a `cpg.local.client_socket.Outbox`)."""

    def __init__(self, hub: Hub, pid: int, uid: int, gid: int) -> None:
        self.pid = pid
        self.uid = uid
        self.gid = gid
        self.ended = False
        """It has been told goodbye, or is gone: nothing is done for it any more."""
        self.farewell: Goodbye | None = None
        """Why it was told goodbye."""
        self.has_place = False
        """It counts among those who are served."""
        self.size = 0
        """Bytes in records that wait."""
        self._hub = hub
        self._said: list[Downward] = []
        self._records: deque[bytes] = deque()

    @property
    def is_behind(self) -> bool:
        """Whether so much waits for it that it should read before it asks for more."""
        return self.size > self._hub.client_limit // 4

    def put(self, said: Downward) -> None:
        """Tell it something. Hot: once for each outcome."""
        if self.ended:
            return
        self._said.append(said)
        if type(said) is Goodbye:
            self.ended = True
            self.farewell = said
        self._hub.told(self)

    def dismiss(self, why: Farewell, text: str) -> None:
        """Tell it goodbye, instead of all that waits."""
        if not self.ended:
            self.discard()
            self.put(Goodbye(why, text))
            self.pack()

    def pack(self) -> None:
        """Make records of what it was told."""
        if self._said:
            said, self._said = self._said, []
            for record in records(said):
                self._count(len(record))
                self._records.append(record)
            if not self.ended:
                self._hub.check(self)

    def has_records(self) -> bool:
        """Whether something waits."""
        return bool(self._records)

    def record(self) -> bytes:
        """Take the next record."""
        record = self._records.popleft()
        self._count(-len(record))
        return record

    def discard(self) -> None:
        """Discard what waits."""
        self._said.clear()
        self._records.clear()
        self._count(-self.size)

    def _count(self, size: int) -> None:
        self.size += size
        self._hub.waiting += size
