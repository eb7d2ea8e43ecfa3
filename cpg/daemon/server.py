"""The daemon's sockets: connections, requests and events, between the hub and the kernel.

What the ring delivers in one turn is written to all clients at the end of that turn, in as few records as possible. A
client whose socket is full has a task that waits for it; everybody else goes on.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from cpg.client.ipc import RECORD, Farewell
from cpg.daemon.hub import Client, Hub
from cpg.embedded import EmbeddedRing
from cpg.local.client_socket import READ_TURN
from cpg.local.server_socket import BEHIND_INTERVAL, Connection, Peer, accept, all_written
from cpg.local.turns import Turns
from cpg.ring import live
from totem.configuration import Delivery
from totem.errors import RingLost

ITEM_PATIENCE: Final = 10.0
"""Seconds in which a long message must arrive, where others wait for room."""
GOODBYE_PATIENCE: Final = 600.0
"""Seconds that a goodbye waits for a client that does not read."""

_SAID_ELSEWHERE: Final = (Farewell.ENDING, Farewell.ACCESS)
"""Reasons that do not concern one client, or have a log line of their own."""


class ServedRing(EmbeddedRing):
    """The daemon's place in the ring: it gives the hub the events, and writes to clients when a turn is over."""

    hub: Hub | None = None
    write: Callable[[], None] = staticmethod(lambda: None)

    def _deliver(self, deliveries: Iterable[Delivery]) -> None:
        """Take what the processor delivers in one turn, and hand it on."""
        super()._deliver(deliveries)
        self.write()

    def _fail(self, failure: BaseException) -> None:
        """End the ring, and send all clients the reason."""
        if self.hub is not None:
            self.hub.dismiss_all(f"node {self.node_id}: {failure}")
            self.write()
        super()._fail(failure)


class Server:
    """The clients' connections of one daemon."""

    def __init__(self, ring: ServedRing, hub: Hub) -> None:
        self._ring = ring
        self._hub = hub
        self._access = hub.access
        self._connections: dict[Client, Connection] = {}
        self._turns = Turns()
        self._lines: dict[int, trio.lowlevel.ParkingLot] = {}
        """Clients that wait for room for their requests, by user."""
        ring.hub = hub
        ring.write = self.write
        ring._observe(hub.ring_event)
        ring._observe_links(hub.link_event)

    async def accept(self, listener: socket.socket) -> None:
        """Accept clients until cancelled; their connections end with this."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._turns.run)
            await accept(listener, self._serve_one, self._access.paced_log)

    def write(self) -> None:
        """Write what was queued since the last time. Hot: once for each turn of the ring."""
        for client in self._hub.take_written():
            connection = self._connections.get(client)
            if connection is not None:
                connection.write()

    async def farewell(self, text: str) -> None:
        """Send all clients goodbye, and wait for those that read."""
        self._hub.dismiss_all(text)
        self.write()
        await all_written(self._connections.values())

    async def _serve_one(self, sock: socket.socket, peer: Peer) -> None:
        client = self._hub.connect(*peer)
        connection = self._connections[client] = Connection(sock, client, RECORD)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.write_on)
                with suppress(RingLost):  # `farewell` sends all clients the reason
                    await self._read(connection, client)
                    await self._see_off(connection, client)
                nursery.cancel_scope.cancel()
        finally:
            del self._connections[client]
            self._hub.disconnect(client)
            self._let_go_on()
            self._ring._send_soon()
            self.write()

    async def _read(self, connection: Connection, client: Client) -> None:
        """Process the client's requests until it is gone, or was sent goodbye."""
        turns = self._turns
        while not client.ended:
            for _ in range(READ_TURN):
                if turns.is_over(client.uid):
                    await turns.next(client.uid)
                if not client.admit(trio.current_time()):
                    await self._admitted(client)
                record = connection.read()
                if record is None:
                    break
                if not record:
                    return
                begun = turns.clock()
                client.receive(record)
                need = client.work()
                turns.charge(client.uid, begun)
                if need is not None:
                    await self._work_on(client, need)
            self._ring._send_soon()
            self.write()
            self._let_go_on()
            while client.is_behind and not client.ended:
                await trio.sleep(BEHIND_INTERVAL)
            if record is None:
                await trio.lowlevel.wait_readable(connection.sock)
            else:
                await trio.lowlevel.checkpoint()

    async def _work_on(self, client: Client, need: int | None) -> None:
        """Process requests for which there was no room; of each user one client waits for room."""
        turns = self._turns
        while need is not None:
            self._ring._send_soon()
            self.write()
            if need:
                async with turns.line(client.uid):
                    need = client.work()  # there may be room by now
                    if need:
                        await self._ring._wait_room(need)
            else:
                await self._ring._wait_room(0)
            if turns.is_over(client.uid):
                await turns.next(client.uid)
            begun = turns.clock()
            need = client.work()
            turns.charge(client.uid, begun)

    async def _admitted(self, client: Client) -> None:
        """Wait until there is room for a client's requests. A client that holds room and does not go on is
        disconnected.
        """
        line = self._lines.setdefault(client.uid, trio.lowlevel.ParkingLot())
        while not client.admit(trio.current_time()) and not client.ended:
            with trio.move_on_after(ITEM_PATIENCE) as patience:
                await line.park()
            if patience.cancelled_caught:
                self._hub.drop_unfinished(trio.current_time() - ITEM_PATIENCE)
                self._let_go_on()
        line.unpark()  # the next client in the line may find room, too

    def _let_go_on(self) -> None:
        """Wake clients that wait for room, if there is more: the first one of each user."""
        if self._hub.has_given_room:
            self._hub.has_given_room = False
            for line in self._lines.values():
                line.unpark()

    async def _see_off(self, connection: Connection, client: Client) -> None:
        """Let a client read its goodbye."""
        if client.farewell is None:
            return
        why, text = client.farewell
        if why not in _SAID_ELSEWHERE:
            self._access.log_goodbye(
                logging.WARNING, why.name.lower(), text, pid=client.pid, uid=client.uid, program=client.name
            )
        self.write()
        with trio.move_on_after(GOODBYE_PATIENCE):
            await connection.written()


@asynccontextmanager
async def serve(listener: socket.socket, ring: ServedRing, hub: Hub) -> AsyncGenerator[Server, None]:
    """Take part in the ring and serve the clients of a socket for the time of a block.

    Entered when the first ring is complete; clients that come earlier wait. Raises `RingLost`.
    """
    server = Server(ring, hub)
    async with live(ring), trio.open_nursery() as nursery:
        nursery.start_soon(server.accept, listener)
        yield server
        await server.farewell(f"the daemon of node {ring.node_id} has been told to end")
        nursery.cancel_scope.cancel()
