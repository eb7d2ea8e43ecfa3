"""The daemon's sockets: who connects, what they say and what they are told, between the lock server and the kernel.

A connection that ends is told to the lock server at once; that its process has ended, too, as soon as that is known,
and then its locks are free. For a process that goes on without its connection, they are kept until the lease ends.
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
from cpg.local.access import Access
from cpg.local.client_socket import FAREWELL_PATIENCE, READ_TURN
from cpg.local.lifecycle import descriptors_for_clients
from cpg.local.server_socket import BEHIND_INTERVAL, Connection, Peer, accept
from cpg.local.turns import Turns
from totem.errors import TotemError
from totem.log_fields import event_fields, extra
from totem.text import printable

_log = logging.getLogger(__name__)

GOODBYE_PATIENCE: Final = 60.0
"""Seconds that a goodbye waits for a client that does not read."""
START_PATIENCE: Final = 10.0
"""Seconds that a client waits for a daemon that was started just now to know whether it has a ring."""
DESCRIPTORS: Final = 3
"""Of each client: its connection and its process, and one more process whose connection is gone."""
MOST_WATCHED: Final = 1024
"""Processes without their connections whose end is waited for."""
MOST_OF_ELECTIONS: Final = 10
"""Lines a minute about the leaderships of one user's clients."""

_SAID_ELSEWHERE: Final = (Farewell.ENDING, Farewell.ACCESS)
"""What is no news of one client, or has a line of its own."""


class Server:
    """The clients' connections of one daemon."""

    def __init__(self, access: Access) -> None:
        self.why = "it is starting"
        """Why there is no lock server now: see `lacks`."""
        self._host: Host | None = None
        self._has_started = trio.Event()
        self._access = access
        self._connections: dict[Client, Connection] = {}
        self._turns = Turns()
        self._listening: dict[Client, trio.CancelScope] = {}
        """To those who have not been told goodbye."""
        descriptors = descriptors_for_clients()
        self._watched = access.shares(min(MOST_WATCHED, descriptors // DESCRIPTORS))
        self.hub = Hub(access, most_clients=min(MOST_CLIENTS, descriptors // DESCRIPTORS))

    @asynccontextmanager
    async def standing(self, host: Host) -> AsyncGenerator[None, None]:
        """Serve clients by this lock server for the time of a block; others are told goodbye, with the reason."""
        self._host = host
        host.worked = self.write
        host.log_of_election = self._log_of_election
        self._has_started.set()
        try:
            yield
        finally:
            self._host = None
            self.lacks("it ends")
            await self._farewell("the lock server has ended, or its ring")

    def _log_of_election(self, news: LeadershipNews) -> None:
        """Log that a leadership has begun or ended: clients can have that as often as they like."""
        cause, name, text = ("election", news.user), printable(news.election), "election %s: %s"
        self._access.paced_log.log(
            logging.INFO, cause, text, name, news.text, fields=news.fields, most=MOST_OF_ELECTIONS
        )

    def lacks(self, why: str) -> None:
        """There is no lock server for now, and why."""
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
                    self._listening[client].cancel()

    async def _farewell(self, text: str) -> None:
        """Tell all clients that this is no lock server any more, and wait for those that read."""
        self.hub.dismiss_all(text)
        self.write()
        with trio.move_on_after(FAREWELL_PATIENCE, shield=True):
            for connection in list(self._connections.values()):
                await connection.written()

    async def _serve_one(self, sock: socket.socket, peer: Peer) -> None:
        process = Process(sock, peer.pid)
        client = self.hub.connect(*peer)
        connection = self._connections[client] = Connection(sock, client, LARGEST_RECORD)
        listening = self._listening[client] = trio.CancelScope()
        line: Line | None = None
        try:
            if not client.ended:
                host = await self._started()
                if host is None:
                    client.dismiss(Farewell.ENDING, f"this machine's lock server has no ring: {self.why}")
                else:
                    line = Line(host, client, may_force=peer.uid in self._access.trusted)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.write_on)
                if line is not None:
                    with listening:
                        await self._read(connection, client, line)
                await self._see_off(connection, client, line)
                nursery.cancel_scope.cancel()
        finally:
            del self._connections[client], self._listening[client]
            self.hub.disconnect(client)
            sock.close()
            if line is not None:
                line.lost(dead=process.has_ended)
            if line is None or not line.is_open:
                process.close()
        if line is not None and line.is_open:
            await self._watch(process, line, peer.uid)

    async def _watch(self, process: Process, line: Line, uid: int) -> None:
        """Tell when a process that has lost its connection has ended."""
        try:
            if self._watched.take(uid):
                try:
                    await process.ended()
                finally:
                    self._watched.give(uid)
                line.lost(dead=True)
        finally:
            process.close()

    async def _started(self) -> Host | None:
        """The lock server, if there is one; a daemon that is just starting has a moment to make it."""
        with trio.move_on_after(START_PATIENCE):
            await self._has_started.wait()
        return self._host

    async def _read(self, connection: Connection, client: Client, line: Line) -> None:
        """Hand on what the client says until it is gone, or is told goodbye."""
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
                self._say(client, line, record)
                turns.charge(client.uid, begun)
            while (client.is_behind or line.is_behind) and not client.ended:
                await trio.sleep(BEHIND_INTERVAL)
            if record is not None or client.ended:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(connection.sock)

    async def _see_off(self, connection: Connection, client: Client, line: Line | None) -> None:
        """Let a client that was told goodbye read that."""
        if (goodbye := client.farewell) is not None:
            if goodbye.why not in _SAID_ELSEWHERE:
                reason, why, program = str(goodbye.why), goodbye.text, line.program if line is not None else ""
                self._access.log_goodbye(logging.INFO, reason, why, pid=client.pid, uid=client.uid, program=program)
            self.write()
            with trio.move_on_after(GOODBYE_PATIENCE):
                await connection.written()

    def _say(self, client: Client, line: Line, record: bytes) -> None:
        try:
            said = list(upward(record))
            for one in said:
                if isinstance(one, OfAdministrator):
                    self._record_administrator(client, one, allowed=line.may_force)
            line.say(said)
        except Malformed as malformed:
            client.dismiss(Farewell.MALFORMED, f"process {client.pid} sent {malformed}")
        except _Forbidden as forbidden:
            client.dismiss(Farewell.ACCESS, str(forbidden))

    def _record_administrator(self, client: Client, command: OfAdministrator, *, allowed: bool) -> None:
        """Log who does what only administrators may. Raises `_Forbidden`, before anything was done."""
        pid, uid = client.pid, client.uid
        if isinstance(command, Force):
            done = f"lock {printable(command.name)} is taken by force from the holder of token {command.token}"
            forbidden = "may not take locks by force: run as root, or as the daemon's user"
            lock, token = name_as_text(command.name), command.token
            fields = event_fields("force_request", lock=lock, token=token, allowed=allowed, pid=pid, uid=uid)
        else:
            done = f"version {command.version} of the electorate is asked for, {command.electorate}"
            forbidden = "may not change who decides: run as root, or as the daemon's user"
            version, voters = command.version, str(command.electorate)
            fields = event_fields("voters_request", version=version, voters=voters, allowed=allowed, pid=pid, uid=uid)
        text, who = "%s, by process %d of the user with uid %d", (done, pid, uid)
        if not allowed:
            self._access.paced_log.warning(("force", uid), text + ": refused", *who, fields=fields)
            raise _Forbidden(f"the user with uid {uid} {forbidden} (uid {os.geteuid()})")
        _log.warning(text, *who, extra=extra(fields))


class _Forbidden(Exception):
    """What a client asks for is not for its user."""


class Line:
    """A connection, as the lock server has it."""

    def __init__(self, host: Host, client: Client, *, may_force: bool) -> None:
        self.may_force = may_force
        self._host = host
        user = 0 if may_force else client.uid
        self._line = host.connect(client.put, may_force=may_force, user=user, is_behind=lambda: client.is_behind)

    @property
    def program(self) -> str:
        """What the client calls itself; empty where it has not said that."""
        local = self._line.local
        return local.program if local is not None else ""

    @property
    def is_behind(self) -> bool:
        """Whether what clients say has to wait for room in the ring."""
        return self._host.is_behind

    @property
    def is_open(self) -> bool:
        """Whether the lock server keeps something for this client, who has lost its connection."""
        local = self._line.local
        return local is not None and local.send is None and self._host.service.clients.get(local.client) is local

    def say(self, said: Sequence[Upward]) -> None:
        """Take what the client says. Raises Malformed."""
        self._line.receive(said, self._host.clock())
        self._work()

    def lost(self, *, dead: bool) -> None:
        """The connection has ended; again with `dead` once the client's process is known to have ended, too."""
        self._line.lost(self._host.clock(), dead=dead)
        self._work()

    def _work(self) -> None:
        with suppress(TotemError):  # the ring was lost, which ends the host
            self._host.work_soon()
