"""The shell: the sockets of libqb's IPC, three tasks for each client, and nothing left behind.

A client connects to the stream socket of a service and sends a request to connect; the kernel says who it is. It gets
the names of a control file and of two pairs of datagram sockets: one pair for requests and answers, one for events. The
stream stays open, and its end is the client's end; what the client had sent before is still processed.

Of the control file, only the flow control of requests matters here: while that is closed, the library refuses
multicasts with TRY_AGAIN. The counters beside it are for libqb's own server and are read by no client. The file is
written, never mapped: a client can truncate it, and with it a mapping.

Names of abstract sockets can be seen and used by everybody on the machine. So until the sockets are connected, when the
kernel keeps all others out, requests are accepted from the client's user alone.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import tempfile
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from cpg.events import RingEvent
from cpg.libqb.buffers import Buffers
from cpg.libqb.cfg import Cfg
from cpg.libqb.cmap import Cmap
from cpg.libqb.groups import Groups
from cpg.libqb.layout import (
    CONNECT,
    CONTROL_SIZE,
    FLOW_CLOSED,
    FLOW_OFFSET,
    FLOW_OPEN,
    LARGEST,
    MalformedRequest,
    address,
    check_connect,
    connected,
    refused,
)
from cpg.libqb.names import NameTaken, owner_of
from cpg.libqb.quorum import Quorums
from cpg.libqb.session import LibqbSession, Service
from cpg.libqb.votequorum import Votes
from cpg.local.access import Access
from cpg.local.lifecycle import descriptors_for_clients
from cpg.local.shares import furthest_behind, no_place
from cpg.local.turns import Turns
from totem.errors import RingLost
from totem.log_fields import event_fields

if TYPE_CHECKING:
    from cpg.embedded import EmbeddedRing

_log = logging.getLogger(__name__)

SERVICES: Final = ("cpg", "quorum", "votequorum", "cmap", "cfg")
_KINDS: Final[dict[str, Callable[[EmbeddedRing], Service]]] = {
    "cpg": Groups,
    "quorum": Quorums,
    "votequorum": Votes,
    "cmap": Cmap,
    "cfg": Cfg,
}

MOST_CLIENTS: Final = 1024
"""Limit of connections; fewer where the process may not have so many descriptors."""
MOST_UNWELCOME: Final = 64
"""Limit of connections of users who may not connect, until they are told so."""
DESCRIPTORS: Final = 4
"""Descriptors of each connection."""
HELLO_PATIENCE: Final = 10.0
"""Seconds in which a client must send its request to connect."""
TURN: Final = 64
"""Requests of one client that are read before others get a turn,"""
TURN_BYTES: Final = 256 * 1024
"""and their bytes."""
EVENT_TURN: Final = 64
"""Events that are sent to one client before others get a turn."""
EVENT_LIMIT: Final = 64 << 20
"""Bytes that may wait for a client to read them; at more its connection is ended."""
EVENTS_OF_ALL: Final = 512 << 20
"""Bytes that may wait for all clients."""
KEPT_FOR_ALL: Final = 256 << 20
"""Bytes that the sessions of all clients may keep: iterations, and messages that come in pieces."""
PIECE_PATIENCE: Final = 10.0
"""Seconds in which a message in pieces must arrive, where others wait for room."""
EVENTS_ENOUGH: Final = 1 << 20
"""Bytes that may wait for a client until its own multicasts are refused, as long as it reads;"""
READ_PATIENCE: Final = 0.2
"""seconds after which a client that has not read counts as not reading. It may send on then, up to `EVENT_LIMIT`, as
with Corosync: there are programs that send everything before they read anything.
"""
EVENT_COST: Final = 64
"""Bytes counted for each event beside its own."""
SHARED_MEMORY: Final = "/dev/shm"
"""The folder of libqb's files."""

_CREDENTIALS: Final = Struct("iII")  # struct ucred: pid, uid, gid


class _Peer(NamedTuple):
    pid: int
    uid: int
    gid: int


async def serve(
    ring: EmbeddedRing,
    *,
    access: Access,
    services: Sequence[str] = SERVICES,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer Corosync's client libraries on this machine until cancelled: `await nursery.start(partial(serve, ...))`.

    Call it in the ring's block, on trio. `access` says which users may connect, and join which groups; others get
    EACCES. `services` are some of `SERVICES`; votequorum is left out where the ring has no quorum provider, as Corosync
    does.

    Raises `NameTaken` where a service's name is taken: a Corosync runs here, or somebody else has it.
    """
    server = _Server(ring, access)
    with ExitStack() as stack:
        listeners = []
        for name in services:
            if name != "votequorum" or ring.quorum is not None:
                listeners.append((stack.enter_context(_listen(name)), server.add(_KINDS[name](ring))))
        stack.callback(ring._observe(server.on_ring))
        stack.callback(ring._observe_config(lambda _: server.on_config()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(access.paced_log.keep_logging_counts)
            nursery.start_soon(server.turns.run)
            for listener, service in listeners:
                nursery.start_soon(server.accept, nursery, listener, service)
            task_status.started()


def _listen(name: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    try:
        listener.bind(address(name))
    except OSError as error:
        listener.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise NameTaken(name, owner_of(name)) from None
    listener.listen(socket.SOMAXCONN)
    return listener


class _Server:
    """The services of one node, and the clients of all of them."""

    def __init__(self, ring: EmbeddedRing, access: Access) -> None:
        self.ring = ring
        self.access = access
        self.buffer = memoryview(bytearray(LARGEST + 1))
        """Buffer for one request at a time, one byte longer than any may be."""
        self.turns = Turns()
        self.kept = access.shares(KEPT_FOR_ALL)
        """Bytes that sessions keep."""
        self.waiting = 0
        """Bytes of events that wait for all clients."""
        self._services: list[Service] = []
        self._connections: dict[_Connection, None] = {}
        self._places = access.shares(min(MOST_CLIENTS, descriptors_for_clients() // (2 * DESCRIPTORS)))
        """Places of users who may connect, also before their request to connect."""
        self._unwelcome = 0
        """Number of connections of other users."""

    def add(self, service: Service) -> Service:
        """Add a service, which gets the ring's events."""
        self._services.append(service)
        return service

    def on_ring(self, event: RingEvent) -> None:
        """Give an event of the ring to the services and their clients."""
        for service in self._services:
            service.on_ring(event)
        for connection in self._connections:
            connection.session.on_ring(event)

    def on_config(self) -> None:
        """Tell the services and their clients of another configuration."""
        for service in self._services:
            if isinstance(service, Cmap):
                service.on_config()
        for connection in self._connections:
            connection.session.on_config()

    def queued(self, size: int) -> None:
        """Count bytes that wait for clients; at too many, disconnect the clients that are furthest behind."""
        self.waiting += size
        while self.waiting > EVENTS_OF_ALL and (slowest := furthest_behind(self._connections)):
            slowest.end("slow", f"more than {EVENTS_OF_ALL} bytes of events wait for all clients, most of them for it")

    def drop_unfinished(self) -> None:
        """Disconnect the client that has kept the beginning of a message for longest, if that is too long: others wait
        for room.
        """
        unfinished = [each for each in self._connections if each.session.is_unfinished and not each.ended]
        oldest = min(unfinished, key=lambda each: each.kept_since, default=None)
        if oldest is not None and oldest.kept_since < trio.current_time() - PIECE_PATIENCE:
            oldest.end("unfinished", "it began a message in pieces and did not end it, while others wait for the room")

    def log_end(self, whose: str, peer: _Peer, reason: str, why: str) -> None:
        """Log that a client was disconnected: each user can cause a line a minute for each reason."""
        fields = event_fields("client_ended", reason=reason, pid=peer.pid, uid=peer.uid, why=why)
        self.access.paced_log.warning((reason, peer.uid), "%s: ended: %s", whose, why, fields=fields)

    async def accept(self, nursery: trio.Nursery, listener: socket.socket, service: Service) -> None:
        """Accept the clients of one service."""
        paced_log = self.access.paced_log
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                stream, _ = listener.accept()
            except BlockingIOError:
                continue
            except OSError as error:  # the machine has no descriptors left; ours are counted
                text = "node %d: cannot take in a client of %s: %s"
                paced_log.warning("descriptors", text, self.ring.node_id, service.name, error)
                await trio.sleep(0.1)
                continue
            peer = _Peer(
                *_CREDENTIALS.unpack(stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
            )
            welcome = self.access.allows(peer.uid, peer.gid)
            if self._places.take(peer.uid) if welcome else self._unwelcome < MOST_UNWELCOME:
                self._unwelcome += not welcome
                nursery.start_soon(self._attend, trio.socket.from_stdlib_socket(stream), peer, welcome, service)
                continue
            text = "node %d: one more client of libqb is refused: %s"
            paced_log.warning(("full", peer.uid), text, self.ring.node_id, no_place(self._places, peer.uid))
            with stream, suppress(OSError):
                stream.setblocking(False)
                stream.send(refused(errno.EMFILE))

    async def _attend(self, stream: trio.socket.SocketType, peer: _Peer, welcome: bool, service: Service) -> None:
        """Serve one client to its end."""
        whose = f"node {self.ring.node_id}: {service.name} client of process {peer.pid}, user {peer.uid}"
        try:
            with stream:
                await self._hear_hello(stream)
                if welcome:
                    await self._connect(stream, peer, service, whose)
                else:
                    self.access.refuse(peer.pid, peer.uid)
                    await stream.send(refused(errno.EACCES))
        except MalformedRequest as malformed:
            self.log_end(whose, peer, "malformed", str(malformed))
        except trio.TooSlowError:
            self.log_end(whose, peer, "silent", "it has said nothing")
        except OSError as error:
            _log.debug("%s: gone: %s", whose, error)
        finally:
            if welcome:
                self._places.give(peer.uid)
            else:
                self._unwelcome -= 1

    async def _hear_hello(self, stream: trio.socket.SocketType) -> None:
        hello = b""
        with trio.fail_after(HELLO_PATIENCE):
            while len(hello) < CONNECT.size:
                more = await stream.recv(CONNECT.size - len(hello))
                if not more:
                    raise ConnectionResetError("it went without a word")
                hello += more
        check_connect(hello)

    async def _connect(self, stream: trio.socket.SocketType, peer: _Peer, service: Service, whose: str) -> None:
        try:
            places = _Places(service.name, peer)
        except OSError as error:
            self.access.paced_log.warning(("refused", peer.uid), "%s: refused: %s", whose, error)
            await stream.send(refused(error.errno or errno.EIO))
            return
        with places:
            connection = _Connection(self, stream, peer, places, whose)
            connection.session = service.open(connection)
            self._connections[connection] = None
            try:
                await stream.send(connected(places.control_path, places.base))
                await connection.run()
            finally:
                del self._connections[connection]
                connection.close()


class _Places:
    """A connection's files on the machine: a folder with the control file, and two datagram sockets."""

    def __init__(self, service: str, peer: _Peer) -> None:
        with ExitStack() as stack:
            folder = tempfile.mkdtemp(prefix=f"qb-{os.getpid()}-{peer.pid}-", dir=SHARED_MEMORY)
            stack.callback(_ignoring, os.rmdir, folder)
            self.base = f"{folder}/qb-{service}"
            self.control_path = f"{folder}/qb-control-{service}"
            self._control = os.open(self.control_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            stack.callback(_ignoring, os.unlink, self.control_path)
            stack.callback(os.close, self._control)
            os.pwrite(self._control, bytes(CONTROL_SIZE), 0)
            if peer.uid != os.geteuid():
                os.chown(self._control, peer.uid, peer.gid)
                os.chown(folder, peer.uid, peer.gid)
            self.requests = stack.enter_context(_datagrams(self.base + "-request"))
            self.requests.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self.events = stack.enter_context(_datagrams(self.base + "-event-tx"))
            self._stack = stack.pop_all()

    def set_flow(self, *, closed: bool) -> None:
        """Make the library refuse multicasts, or accept them."""
        with suppress(OSError):  # the file is the client's, too
            os.pwrite(self._control, FLOW_CLOSED if closed else FLOW_OPEN, FLOW_OFFSET)

    def connect(self) -> None:
        """Let only the client send here; it has bound its sockets."""
        self.requests.connect(address(self.base + "-response"))
        self.events.connect(address(self.base + "-event"))

    def __enter__(self) -> _Places:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _ignoring(remove: Callable[[str], None], path: str) -> None:
    with suppress(OSError):  # the library removes it as well
        remove(path)


def _datagrams(name: str) -> socket.socket:
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        datagrams.setblocking(False)
        datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
        datagrams.bind(address(name))
    except OSError:
        datagrams.close()
        raise
    return datagrams


class _Connection:
    """One client: the `LibqbClient` of its session."""

    session: LibqbSession

    def __init__(
        self, server: _Server, stream: trio.socket.SocketType, peer: _Peer, places: _Places, whose: str
    ) -> None:
        self.buffers = Buffers(peer.uid)
        self.uid = peer.uid
        self.ended = False
        """Nothing more is sent to the client."""
        self.size = 0
        """Bytes of events that wait."""
        self.kept_since = 0.0
        """Time when its session began to keep something, other than beside the beginning of a message."""
        self._kept = 0
        """Bytes that its session keeps."""
        self._peer = peer
        self._server = server
        self._access = server.access
        self._ring = server.ring
        self._buffer = server.buffer
        self._stream = stream
        self._places = places
        self._whose = whose
        self._scope = trio.CancelScope()
        self._gone = False
        """The client has ended; what it sent is still processed."""
        self._connected = trio.Event()
        self._strangers = True
        """Whether somebody else may have sent what is read."""
        self._events: deque[bytes] = deque()
        self._reads = True
        """Whether the client has read lately, or nothing waits for it."""
        self._news = trio.lowlevel.ParkingLot()
        self._is_closed = False
        """Whether the flow of multicasts is closed."""

    # ---- the session's side

    def may_join(self, name: bytes) -> bool:
        """Return whether its user may join a group; a refusal is logged."""
        pid, uid, gid = self._peer
        if not self._access.may_join(name, uid, gid):
            self._access.refuse_group(name, pid, uid)
            return False
        return True

    def keep(self, size: int) -> bool:
        """Keep `size` bytes more for it; return False where its user has as many as it may have."""
        if not self._server.kept.take(self.uid, size):
            self._server.drop_unfinished()
            return False
        self._kept += size
        if not self.session.is_unfinished:
            self.kept_since = trio.current_time()
        return True

    def drop(self, size: int) -> None:
        """Keep `size` bytes less."""
        self._kept -= size
        self._server.kept.give(self.uid, size)

    def take_membership(self) -> bool:
        """Count it as a member of a group; return whether its user may have one more."""
        return self._access.memberships.take(self.uid)

    def give_membership(self) -> None:
        """Count it as a member no more."""
        self._access.memberships.give(self.uid)

    def send(self, events: Sequence[bytes]) -> None:
        """Queue events. Hot: once for each frame."""
        if self.ended or not events:
            return
        size = sum(map(len, events)) + EVENT_COST * len(events)
        self.size += size
        if not self._events:
            self._news.unpark()
        self._events.extend(events)
        self._server.queued(size)
        if self.size > EVENT_LIMIT:
            self.end("slow", f"it does not read its events: {len(self._events)} wait, {self.size} bytes")
        elif not self.ended:
            self._regulate()

    def end(self, reason: str, why: str) -> None:
        """End the connection soon."""
        if not self.ended:
            self._server.log_end(self._whose, self._peer, reason, why)
        self._stop()  # also where it has gone by itself, and its last request is malformed

    def _stop(self) -> None:
        self._stop_sending()
        self._scope.cancel()

    def _stop_sending(self) -> None:
        self.ended = True
        self._events.clear()
        self._sent(self.size)

    def _sent(self, size: int) -> None:
        self.size -= size
        self._server.waiting -= size

    def _regulate(self) -> None:
        """Close the flow of multicasts while the ring has no room for them, or the client is behind with reading."""
        enough = EVENTS_ENOUGH // 2 if self._is_closed else EVENTS_ENOUGH
        closed = self.session.stalled > 0 or (self._reads and self.size > enough)
        if closed != self._is_closed:
            self._is_closed = closed
            self._places.set_flow(closed=closed)

    # ---- the tasks

    async def run(self) -> None:
        """Serve the client to its end."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                for task in (self._watch, self._receive, self._send):
                    nursery.start_soon(self._guarded, task)

    async def _guarded(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except MalformedRequest as malformed:
            self.end("malformed", str(malformed))
        except OSError as error:
            _log.debug("%s: gone: %s", self._whose, error)
            self._stop()
        except RingLost:
            self._stop()

    async def _watch(self) -> None:
        """Wait for the client's end."""
        with suppress(ConnectionError):
            while await self._stream.recv(64):
                pass  # the library sends nothing more here
        self._gone = True
        self._stop_sending()
        trio.lowlevel.notify_closing(self._places.requests)

    async def _receive(self) -> None:
        """Process requests, which may be more than the ring has room for."""
        with suppress(trio.ClosedResourceError):
            while not self._gone:
                await trio.lowlevel.wait_readable(self._places.requests)
                if self._server.turns.is_over(self.uid):
                    await self._server.turns.next(self.uid)
                await self._handle(self._read())
        while requests := self._read():
            await self._handle(requests)
        self._stop()

    async def _handle(self, requests: list[bytes]) -> None:
        session, turns = self.session, self._server.turns
        begun = turns.clock()
        self._answer(session.take(requests))
        if session.task is not None:
            task, session.task = session.task, None
            self._answer([await task()])
        while session.stalled:
            self._regulate()
            async with turns.line(self.uid):
                self._answer(session.resume())  # there may be room by now
                if session.stalled:
                    await self._ring._wait_room(session.stalled)
                    begun = turns.clock()
                    self._answer(session.resume())
        if self._is_closed:
            self._regulate()
        turns.charge(self.uid, begun)

    def _answer(self, answers: Iterable[bytes]) -> None:
        for answer in answers:
            if not self._gone:
                try:
                    self._places.requests.send(answer)
                except BlockingIOError:
                    raise MalformedRequest("it asks and does not read the answers") from None

    def _read(self) -> list[bytes]:
        """Read the requests of one turn. Hot: once for each request."""
        if self._strangers:
            return self._read_carefully()
        receive, buffer = self._places.requests.recv_into, self._buffer
        requests: list[bytes] = []
        room = TURN_BYTES
        with suppress(BlockingIOError):
            for _ in range(TURN):
                size = receive(buffer)
                requests.append(bytes(buffer[:size]))
                room -= size
                if room < 0:
                    break
        return requests

    def _read_carefully(self) -> list[bytes]:
        """Read while others than the client can send here, or while their datagrams may still be in the queue."""
        requests: list[bytes] = []
        space = socket.CMSG_SPACE(_CREDENTIALS.size)
        for _ in range(TURN):
            try:
                size, credentials, _, _ = self._places.requests.recvmsg_into([self._buffer], space)
            except BlockingIOError:
                if self._connected.is_set():
                    self._strangers = False
                    self._places.requests.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
                break
            if [_Peer(*_CREDENTIALS.unpack(data)).uid for _, _, data in credentials] != [self.uid]:
                text = "%s: somebody else sent in its name"
                self._access.paced_log.warning(("stranger", self.uid), text, self._whose)
                continue
            if not self._connected.is_set():
                self._places.connect()
                self._connected.set()
            requests.append(bytes(self._buffer[:size]))
        return requests

    async def _send(self) -> None:
        """Send events."""
        await self._connected.wait()
        events, datagrams = self._events, self._places.events
        while True:
            if not events:
                await self._news.park()
            if self._send_turn():
                await trio.lowlevel.checkpoint()
            else:
                await self._read_on(datagrams)

    async def _read_on(self, datagrams: socket.socket) -> None:
        """Wait until the client has read something, and note where that takes long."""
        with trio.move_on_after(READ_PATIENCE):
            await trio.lowlevel.wait_writable(datagrams)
            return
        self._reads = False
        self._regulate()
        await trio.lowlevel.wait_writable(datagrams)
        self._reads = True
        self._regulate()

    def _send_turn(self) -> bool:
        """Send until the client's queue is full, or others want a turn; return whether it is the latter. Hot."""
        events, send = self._events, self._places.events.send
        sent = 0
        try:
            for _ in range(min(len(events), EVENT_TURN)):
                send(events[0])
                sent += len(events.popleft()) + EVENT_COST
        except BlockingIOError:
            return False
        finally:
            if not self.ended:
                self._sent(sent)
            if self._is_closed:
                self._regulate()
        return True

    def close(self) -> None:
        """Clean up, and inform a client that is still there."""
        self._stop_sending()
        self.session.close()
        self.drop(self._kept)
        self._places.set_flow(closed=False)  # else the library says for ever to try again
        self.buffers.close()
        if self._connected.is_set() and not self._gone:
            with suppress(OSError):
                self._places.events.send(b"")  # the end for the library; a waiting client wakes up
