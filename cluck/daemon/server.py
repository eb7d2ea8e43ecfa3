"""The daemon's sockets: connections, requests and replies, between the lock server and the kernel.

The lock server learns of the end of a connection at once. It learns of the end of the process as soon as that is known,
and then releases its locks. A process that runs on without its connection keeps them until the lease ends.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from cluck.commands import Force
from cluck.daemon.hub import MOST_CLIENTS, Client, Hub
from cluck.daemon.processes import Process
from cluck.protocol import LARGEST_RECORD, Farewell, Malformed, OfAdministrator, Upward, upward
from cluck.server.host import Host
from cluck.server.queries import name_as_text
from cluck.server.replies import LeadershipNews
from cpg.embedded import EmbeddedRing
from cpg.local.access import Access
from cpg.local.client_socket import READ_TURN
from cpg.local.lifecycle import descriptors_for_clients
from cpg.local.server_socket import BEHIND_INTERVAL, Connection, Peer, accept, all_written
from cpg.local.turns import Turns
from totem.errors import TotemError
from totem.log_fields import event_fields, extra
from totem.text import printable

_log = logging.getLogger(__name__)

GOODBYE_PATIENCE: Final = 60.0
"""Seconds that a goodbye waits for a client that does not read."""
START_PATIENCE: Final = 10.0
"""Seconds that a client waits for a starting daemon until that knows whether it has a ring."""
DESCRIPTORS: Final = 3
"""Descriptors for each client: its connection, its process, and one more process whose connection is gone."""
MOST_WATCHED: Final = 1024
"""Processes without a connection whose end is waited for."""
MOST_OF_ELECTIONS: Final = 10
"""Log lines a minute about the leaderships of one user's clients."""

_NOT_LOGGED: Final = (Farewell.ENDING, Farewell.ACCESS)
"""Reasons that do not concern one client, or have a log line of their own."""


class Server:
    """The clients' connections of one daemon."""

    def __init__(self, access: Access) -> None:
        self.why = "it is starting"
        """The reason why there is no lock server now: see `set_unavailable`."""
        self.node: EmbeddedRing | None = None
        """The ring of which this process is a node itself."""
        self._host: Host | None = None
        self._has_started = trio.Event()
        self._access = access
        self._connections: dict[Client, Connection] = {}
        self._turns = Turns()
        self._reading: dict[Client, trio.CancelScope] = {}
        """The scopes that read requests, of clients that were not sent goodbye."""
        descriptors = descriptors_for_clients()
        self._watched = access.shares(min(MOST_WATCHED, descriptors // DESCRIPTORS))
        self.hub = Hub(access, most_clients=min(MOST_CLIENTS, descriptors // DESCRIPTORS))

    @asynccontextmanager
    async def serving(self, host: Host) -> AsyncGenerator[None, None]:
        """Serve clients with this lock server for the time of a block; at its end send them goodbye."""
        self._host = host
        host.worked = self.write
        host.log_of_election = self._log_of_election
        self._has_started.set()
        try:
            yield
        finally:
            self._host = None
            self.set_unavailable("it ends")
            await self._farewell("the lock server has ended, or its ring")

    def _log_of_election(self, news: LeadershipNews) -> None:
        """Log that a leadership has begun or ended, paced: clients can cause that as often as they like."""
        cause, name, text = ("election", news.user), printable(news.election), "election %s: %s"
        self._access.paced_log.log(
            logging.INFO, cause, text, name, news.text, fields=news.fields, most=MOST_OF_ELECTIONS
        )

    def set_unavailable(self, why: str) -> None:
        """Note that there is no lock server now, and the reason."""
        self.why = why
        self._has_started.set()

    async def accept(self, listener: socket.socket) -> None:
        """Accept clients until cancelled; their connections end with this."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._turns.run)
            await accept(listener, self._serve_one, self._access.paced_log)

    def write(self) -> None:
        """Write what was queued since the last time. Hot: once for each turn."""
        for client in self.hub.take_written():
            connection = self._connections.get(client)
            if connection is not None:
                connection.write()
                if client.ended:
                    self._reading[client].cancel()

    async def _farewell(self, text: str) -> None:
        """Send all clients goodbye, and wait for those that read."""
        self.hub.dismiss_all(text)
        self.write()
        await all_written(self._connections.values())

    async def _serve_one(self, sock: socket.socket, peer: Peer) -> None:
        process = Process(sock, peer.pid)
        client = self.hub.connect(*peer)
        connection = self._connections[client] = Connection(sock, client, LARGEST_RECORD)
        reading = self._reading[client] = trio.CancelScope()
        link: HostLink | None = None
        try:
            if not client.ended:
                host = await self._started()
                if host is None:
                    client.dismiss(Farewell.ENDING, f"this machine's lock server has no ring: {self.why}")
                else:
                    link = HostLink(host, client, may_force=peer.uid in self._access.trusted)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.write_on)
                if link is not None:
                    with reading:
                        await self._read(connection, client, link)
                await self._see_off(connection, client, link)
                nursery.cancel_scope.cancel()
        finally:
            del self._connections[client], self._reading[client]
            self.hub.disconnect(client)
            sock.close()
            if link is not None:
                link.lost(dead=process.has_ended)
            if link is None or not link.is_open:
                process.close()
        if link is not None and link.is_open:
            await self._watch(process, link, peer.uid)

    async def _watch(self, process: Process, link: HostLink, uid: int) -> None:
        """Wait until a process that has lost its connection has ended, and tell the lock server."""
        try:
            if self._watched.take(uid):
                try:
                    await process.ended()
                finally:
                    self._watched.give(uid)
                link.lost(dead=True)
        finally:
            process.close()

    async def _started(self) -> Host | None:
        """Return the lock server, if there is one; wait for it while the daemon is starting."""
        with trio.move_on_after(START_PATIENCE):
            await self._has_started.wait()
        return self._host

    async def _read(self, connection: Connection, client: Client, link: HostLink) -> None:
        """Process the client's requests until it is gone, or was sent goodbye."""
        turns = self._turns
        while not client.ended:
            for _ in range(READ_TURN):
                if turns.is_over(client.uid):
                    await turns.next(client.uid)
                begun = turns.clock()
                record = connection.read()
                if record is None:
                    break
                if not record:
                    return
                self._receive(client, link, record)
                turns.charge(client.uid, begun)
            while (client.is_behind or link.is_behind) and not client.ended:
                await trio.sleep(BEHIND_INTERVAL)
            if record is not None or client.ended:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(connection.sock)

    async def _see_off(self, connection: Connection, client: Client, link: HostLink | None) -> None:
        """Let a client read its goodbye."""
        if (goodbye := client.farewell) is not None:
            if goodbye.why not in _NOT_LOGGED:
                reason, why, program = str(goodbye.why), goodbye.text, link.program if link is not None else ""
                self._access.log_goodbye(logging.INFO, reason, why, pid=client.pid, uid=client.uid, program=program)
            self.write()
            with trio.move_on_after(GOODBYE_PATIENCE):
                await connection.written()

    def _receive(self, client: Client, link: HostLink, record: bytes) -> None:
        try:
            requests = list(upward(record))
            for request in requests:
                if isinstance(request, OfAdministrator):
                    self._log_administrator(client, request, allowed=link.may_force)
            link.receive(requests)
        except Malformed as malformed:
            client.dismiss(Farewell.MALFORMED, f"process {client.pid} sent {malformed}")
        except _Forbidden as forbidden:
            client.dismiss(Farewell.ACCESS, str(forbidden))

    def _log_administrator(self, client: Client, command: OfAdministrator, *, allowed: bool) -> None:
        """Log a command for administrators, with its client. Raises `_Forbidden` before anything is done."""
        pid, uid = client.pid, client.uid
        if isinstance(command, Force):
            done = f"lock {printable(command.name)} is taken by force from the holder of token {command.token}"
            forbidden = "may not take locks by force: run as root, or as the daemon's user"
            lock, token = name_as_text(command.name), command.token
            fields = event_fields("force_request", lock=lock, token=token, allowed=allowed, pid=pid, uid=uid)
        else:
            done = f"version {command.version} of the electorate is requested, {command.electorate}"
            forbidden = "may not change the voters: run as root, or as the daemon's user"
            version, voters = command.version, str(command.electorate)
            fields = event_fields("voters_request", version=version, voters=voters, allowed=allowed, pid=pid, uid=uid)
        text, who = "%s, by process %d of the user with uid %d", (done, pid, uid)
        if not allowed:
            self._access.paced_log.warning(("force", uid), text + ": refused", *who, fields=fields)
            raise _Forbidden(f"the user with uid {uid} {forbidden} (uid {os.geteuid()})")
        _log.warning(text, *who, extra=extra(fields))


class _Forbidden(Exception):
    """The user of a client may not do what it requests."""


class HostLink:
    """The link between a client and the lock server."""

    def __init__(self, host: Host, client: Client, *, may_force: bool) -> None:
        self.may_force = may_force
        self._host = host
        user = 0 if may_force else client.uid
        self._connection = host.connect(client.send, may_force=may_force, user=user, is_behind=lambda: client.is_behind)

    @property
    def program(self) -> str:
        """The client's own name; empty if it has not sent one."""
        local = self._connection.local
        return local.program if local is not None else ""

    @property
    def is_behind(self) -> bool:
        """Whether requests of clients have to wait for room in the ring."""
        return self._host.is_behind

    @property
    def is_open(self) -> bool:
        """Whether the lock server keeps something for this client, whose connection is lost."""
        local = self._connection.local
        return local is not None and local.send is None and self._host.service.clients.get(local.client) is local

    def receive(self, requests: Sequence[Upward]) -> None:
        """Process requests of the client. Raises Malformed."""
        self._connection.receive(requests, self._host.clock())
        self._work()

    def lost(self, *, dead: bool) -> None:
        """Report that the connection has ended; again with `dead`, once the client's process is known to have ended."""
        self._connection.lost(self._host.clock(), dead=dead)
        self._work()

    def _work(self) -> None:
        with suppress(TotemError):  # the ring was lost, which ends the host
            self._host.work_soon()
