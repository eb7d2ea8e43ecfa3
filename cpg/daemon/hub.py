"""The daemon's clients, without I/O: the requests of each, what waits for each, and when one must be disconnected.

A client is a connection. Its requests are processed in their order. A request that has to wait (for room in the ring's
queue, for the end of an earlier membership of the same process) keeps those behind it waiting, and the server reads
nothing more from that client: so each sender is paced by itself. What has arrived and is not done, waiting records and
long messages that come in pieces, is bounded for all clients and for each user (`INCOMING_LIMIT`). Beyond that, clients
are not read from until there is room again.

What a client gets waits in its queue, which is bounded. A client that does not read is first not read from any more
(`is_behind`). It is disconnected when more waits than `client_limit`, or more than `total_limit` for all and most of it
for this one. Its groups see it as gone (procdown), its queue is discarded, and a goodbye with the reason takes its
place, for the time when it reads again.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from cpg.client.ipc import (
    VERSION,
    Farewell,
    Item,
    Kind,
    Malformed,
    Packed,
    Reader,
    Refusal,
    Wish,
    Writer,
    addressed,
    event_item,
    guarantee_of,
    head,
    link_item,
    messages_head,
    pack,
    unpack,
)
from cpg.contracts import Inbox
from cpg.errors import AlreadyJoined, CorosyncLimit, GroupReserved, TooManyGroups
from cpg.events import Confchg, Link, Member, Quorum, Reason, RingEvent, TotemConfchg, Transitional
from cpg.local.shares import furthest_behind, no_place
from cpg.node.membership import LocalMembership
from cpg.payloads import BATCH_BYTES, MESSAGE_COST
from totem.config import CLIENT_QUEUE
from totem.configuration import Level
from totem.errors import MessageTooLong, QueueFull, RingLost

if TYPE_CHECKING:
    from cpg.local.access import Access

TOTAL_LIMIT: Final = 512 << 20
"""Bytes that may wait for all clients."""
INCOMING_LIMIT: Final = 256 << 20
"""Bytes of requests of all clients that are not done."""
RECORD_COST: Final = 512 << 10
"""Bytes counted for one record whose requests wait: as objects they take more than the record's own bytes."""
SHARED: Final = 4096
"""Bytes from which on it pays to see whether a body waits for several clients."""
REQUEST_TURN: Final = 8
"""Queries, joins and leaves of one client that are processed in one turn of the ring: each may take a while."""
MOST_CLIENTS: Final = 8192
MOST_GROUPS: Final = 1024
"""Groups of one client."""


Order = Callable[[Callable[[object], None]], None]
"""Begins to carry out an order, and later calls its argument with the answer as values of JSON."""


class Port(Protocol):
    """The ring, as the hub needs it: `cpg.embedded.EmbeddedRing`."""

    @property
    def node_id(self) -> int:
        """The daemon's node."""

    def _admit(self, name: bytes, pid: int, inbox: Inbox) -> LocalMembership:
        """Join a group for a process."""


class Hub:
    """All clients of one daemon."""

    def __init__(
        self,
        ring: Port,
        *,
        access: Access,
        most_clients: int = MOST_CLIENTS,
        client_limit: int = CLIENT_QUEUE,
        total_limit: int = TOTAL_LIMIT,
        incoming_limit: int = INCOMING_LIMIT,
    ) -> None:
        """`access`: who may connect, and join which groups. Limits in bytes."""
        self.ring = ring
        self.access = access
        self._places = self.access.shares(most_clients)
        self.incoming = self.access.shares(incoming_limit)
        """Bytes of requests, complete or begun, that are not done."""
        self.has_given_room = False
        """Some of them were done: the server wakes clients that wait."""
        self.replies: Mapping[str, Callable[[], object]] = {}
        """The replies to queries, each as values of JSON."""
        self.order: Callable[[str], Order | None] = lambda question: None
        """Returns what carries out an order of root or the daemon's own user; None: it is none, but a query."""
        self.clients: set[Client] = set()
        self.written: set[Client] = set()
        """Clients for which something was queued since `take_written`."""
        self.client_limit = client_limit
        self.connected = 0
        """Number of clients since the start."""
        self.dropped = 0
        """Clients that were disconnected since they did not read."""
        self.waiting = 0
        """Bytes that wait for all clients; a body that waits for several counts for each."""
        self._total_limit = total_limit
        self._until_check = total_limit
        """Bytes that may be queued before `_check_total`."""
        self._stays: dict[tuple[bytes, int], _Stay] = {}
        """By group and process."""
        self._ring_events: list[RingEvent] = []
        """The present events of the ring, for new clients."""
        self._links: dict[tuple[int, int], Link] = {}
        """The present state of each link, by node id and number."""
        self._packed_of: list[bytes] = []
        self._packed = Packed(0, 0, b"")
        self._item_of: Confchg | RingEvent | None = None
        self._item = b"", b""

    # ---- clients come and go

    def connect(self, pid: int, uid: int, gid: int) -> Client:
        """Add a client: a process has connected."""
        self.connected += 1
        client = Client(self, pid, uid, gid, self.connected)
        self.clients.add(client)
        if not self.access.allows(uid, gid):
            client.dismiss(Farewell.ACCESS, self.access.refuse(pid, uid))
        elif self._places.take(uid):
            client.has_place = True
        else:
            client.dismiss(Farewell.FULL, no_place(self._places, uid))
        return client

    def disconnect(self, client: Client) -> None:
        """Remove a client: its connection has ended, and its process is gone from its groups."""
        client.end()
        if client.has_place:
            client.has_place = False
            self._places.give(client.uid)
        self.clients.discard(client)
        self.written.discard(client)

    def dismiss_all(self, text: str) -> None:
        """Send all clients the daemon's goodbye."""
        for client in self.clients:
            client.dismiss(Farewell.ENDING, text)

    def take_written(self) -> set[Client]:
        """Return the clients for which something was queued, once."""
        written, self.written = self.written, set()
        return written

    # ---- events of the ring

    def ring_event(self, event: RingEvent) -> None:
        """Send an event of the ring to all clients."""
        match event:
            case Transitional():
                self._ring_events = []
            case TotemConfchg():
                self._ring_events = [event]
            case Quorum():
                self._ring_events = [*self._ring_events[:1], event]
        for client in self.clients:
            if client.welcomed:
                client.send(*self.item(0, event))

    def link_event(self, event: Link) -> None:
        """Send the state of a link to the clients that wish for it."""
        self._links[event.node_id, event.link] = event
        for client in self.clients:
            if client.wishes & Wish.LINKS:
                client.send(*link_item(event))

    def send_ring_state(self, client: Client) -> None:
        """Send a new client the present state of the ring, and of the links if it wishes for that."""
        if client.wishes & Wish.LINKS:
            for link in self._links.values():
                client.send(*link_item(link))
        for event in self._ring_events:
            client.send(*self.item(0, event))

    def pack(self, payloads: list[bytes]) -> Packed:
        """Pack a run once, for all local members of the group. Hot: once for each run and client."""
        if payloads is not self._packed_of:
            self._packed_of, self._packed = payloads, pack(payloads)
        return self._packed

    def item(self, handle: int, event: Confchg | RingEvent) -> tuple[bytes, bytes]:
        """Return an event as an item, made once for all local members of the group."""
        if event is not self._item_of:
            self._item_of, self._item = event, event_item(0, event)
        item_head, body = self._item
        return addressed(item_head, handle), body

    # ---- requests of clients

    def join(self, client: Client, handle: int, name: bytes) -> bool:
        """Join a group for a client; return False if it must be tried again after a turn of the ring."""
        earlier = self._stays.get((name, client.pid))
        if earlier is not None and earlier.membership.leaving:
            return False
        stay = _Stay(self, client, handle)
        try:
            stay.membership = self._admit(client, name, stay)
        except AlreadyJoined as error:
            client.refuse(handle, Refusal.ALREADY_JOINED, error)
        except CorosyncLimit as error:
            client.refuse(handle, Refusal.LIMIT, error)
        except GroupReserved as error:
            client.refuse(handle, Refusal.RESERVED, error)
        except TooManyGroups as error:
            client.refuse(handle, Refusal.FULL, error)
        except ValueError as error:
            client.refuse(handle, Refusal.NAME, error)
        except RingLost as error:
            client.dismiss(Farewell.ENDING, str(error))
        else:
            self._stays[name, client.pid] = stay
            client.stays[handle] = stay
        return True

    def _admit(self, client: Client, name: bytes, stay: _Stay) -> LocalMembership:
        uid, memberships = client.uid, self.access.memberships
        if not self.access.may_join(name, uid, client.gid):
            raise GroupReserved(self.access.refuse_group(name, client.pid, uid))
        if len(client.stays) >= MOST_GROUPS:
            raise TooManyGroups(f"process {client.pid} is in {len(client.stays)} groups: no connection may be in more")
        if not memberships.take(uid):
            raise TooManyGroups(
                f"the programs of the user with uid {uid} are in {memberships.of(uid)} groups, of {memberships.taken} "
                "that all programs of this node are in together: no more for this user"
            )
        try:
            return self.ring._admit(name, client.pid, stay)
        except BaseException:
            memberships.give(uid)
            raise

    def forget(self, stay: _Stay) -> None:
        """Remove a membership that has ended."""
        self._stays.pop((stay.membership.name, stay.membership.member.pid), None)
        stay.client.stays.pop(stay.handle, None)
        self.access.memberships.give(stay.client.uid)

    def reply(self, question: str) -> bytes:
        """Return the reply to a query. Raises Malformed for an unknown one."""
        if question not in self.replies:
            raise Malformed(f"the unknown question {question[:40]!r}")
        return json.dumps(self.replies[question]()).encode()

    # ---- bounds

    def queued(self, client: Client, size: int) -> None:
        """Count `size` more bytes that wait for a client, and disconnect it at its limit."""
        self.waiting += size
        self.written.add(client)
        self._until_check -= size
        if client.writer.size > self.client_limit:
            self._drop(client, f"more than {self.client_limit} bytes waited for it")
        elif self._until_check < 0:
            self._check_total()

    def drop_unfinished(self, began_before: float) -> None:
        """Disconnect the client that has held room for a long message for longest, since before that time, if there is
        one.

        Only clients whose message is not complete: a complete one waits for the ring, which is not the client's fault.
        """
        holders = [client for client in self.clients if client.promised and client.held and not client.ended]
        oldest = min(holders, key=lambda client: client.began, default=None)
        if oldest is not None and oldest.began < began_before:
            begun = f"process {oldest.pid} began a message of {oldest.promised} bytes"
            oldest.dismiss(Farewell.UNFINISHED, f"{begun} and did not end it, while others wait for the room")

    def _check_total(self) -> None:
        """Check the bytes that wait for all clients; where they are too many, disconnect the client that is furthest
        behind.

        A body that waits for many clients is in memory once, and counts once. So the sum is not kept but computed, each
        time that as many bytes have been queued as were left the last time.
        """
        while (held := self._held()) > self._total_limit and (slowest := furthest_behind(self.clients)):
            self._drop(slowest, f"more than {self._total_limit} bytes waited for all clients, most of them for it")
        self._until_check = self._total_limit - held

    def _held(self) -> int:
        if self.waiting <= self._total_limit:
            return self.waiting
        shared = [body for client in self.clients for body in client.writer.bodies() if len(body) >= SHARED]
        once = {id(body): len(body) for body in shared}
        return self.waiting - sum(map(len, shared)) + sum(once.values())

    def _drop(self, client: Client, why: str) -> None:
        if not client.ended:
            self.dropped += 1
            client.dismiss(Farewell.SLOW, f"process {client.pid} did not read what its groups were sent: {why}")


class Client:
    """One connection: its requests, its groups, and what waits for it."""

    def __init__(self, hub: Hub, pid: int, uid: int, gid: int, number: int) -> None:
        self.pid = pid
        self.uid = uid
        self.gid = gid
        self.number = number
        """Its place in the order of connections."""
        self.name = ""
        """Its own name."""
        self.writer = Writer()
        self.stays: dict[int, _Stay] = {}
        """Its groups by its handles."""
        self.has_place = False
        """It counts as one of the clients that are served."""
        self.welcomed = False
        self.wishes = Wish(0)
        self.ended = False
        """It has been sent goodbye, or is gone: nothing is done for it any more."""
        self.farewell: tuple[Farewell, str] | None = None
        """Why it was sent goodbye."""
        self.sent = 0
        """Messages it has sent."""
        self.received = 0
        """Messages queued for it."""
        self.held = 0
        """Bytes of its requests that count among those not done."""
        self.began = 0.0
        """When it got that room, on the clock of `admit`."""
        self._hub = hub
        self._reader = Reader()
        self._requests: deque[Item] = deque()

    @property
    def size(self) -> int:
        """Bytes that wait for it."""
        return self.writer.size

    @property
    def is_behind(self) -> bool:
        """Whether so much waits for it that it should read before it sends more."""
        return self.writer.size > self._hub.client_limit // 4

    @property
    def promised(self) -> int:
        """Bytes of a long message that has begun to arrive."""
        return self._reader.promised

    def admit(self, now: float) -> bool:
        """Return whether it may be read from: there is room for a record, and for a long message that has begun."""
        incoming = self._hub.incoming
        if not self.promised:
            return not incoming.taken or incoming.may_take(self.uid, RECORD_COST)
        if not self.held and incoming.take(self.uid, self.promised):
            self.held, self.began = self.promised, now
        return self.held > 0

    # ---- requests

    def receive(self, record: bytes) -> None:
        """Add a record, whose requests `work` processes. A malformed one ends the client."""
        if self.ended:
            return
        try:
            self._requests += self._reader.items(record)
        except Malformed as malformed:
            self.dismiss(Farewell.MALFORMED, f"process {self.pid} sent {malformed}")

    def work(self) -> int | None:
        """Process requests until one has to wait; return for how many bytes of room, 0 for a turn of the ring.

        None when all are done.
        """
        turn = REQUEST_TURN
        while self._requests and not self.ended:
            request = self._requests[0]
            if request.kind is not Kind.SEND:
                if not turn:
                    return 0
                turn -= 1
            try:
                need = self._do(request)
            except Malformed as malformed:
                self.dismiss(Farewell.MALFORMED, f"process {self.pid} sent {malformed}")
                break
            if need is not None:
                if not self.held and self._hub.incoming.take(self.uid, RECORD_COST):
                    self.held = RECORD_COST
                return need
            if not self.ended:
                self._requests.popleft()
        if self.held and not self.promised:
            self._give_room()
        return None

    def _give_room(self) -> None:
        self._hub.incoming.give(self.uid, self.held)
        self._hub.has_given_room = True
        self.held = 0

    def _do(self, request: Item) -> int | None:
        if request.kind is Kind.SEND and self.welcomed:
            return self._send(request)
        if (request.kind is Kind.HELLO) is self.welcomed:
            raise Malformed(f"{request.kind.name} {'for a second time' if self.welcomed else 'before HELLO'}")
        match request.kind:
            case Kind.HELLO:
                self._greet(request)
            case Kind.JOIN:
                return self._join(request)
            case Kind.LEAVE:
                stay = self.stays.get(request.handle)
                if stay is not None:
                    stay.membership.leave()
            case Kind.ASK:
                self._ask(request.handle, request.body.decode(errors="replace"))
            case _:
                raise Malformed(f"an item {request.kind.name}, which a client does not send")
        return None

    def _ask(self, handle: int, question: str) -> None:
        hub = self._hub
        begin = hub.order(question)
        if begin is None:
            self._answer(handle, hub.reply(question))
        elif self.uid in hub.access.trusted:
            begin(lambda answer: self._answer(handle, json.dumps(answer).encode()))
        else:
            text = f"only root and the daemon's own user may do that, not the user with uid {self.uid}"
            self._answer(handle, json.dumps({"changed": [], "refused": text}).encode())

    def _answer(self, handle: int, text: bytes) -> None:
        if not self.ended:
            self.send(head(Kind.ANSWER, handle, len(text)), text)

    def _greet(self, request: Item) -> None:
        if request.a != VERSION:
            self.dismiss(
                Farewell.VERSION,
                f"the daemon speaks version {VERSION} of its protocol, this program {request.a}: "
                "install the same version of both",
            )
            return
        self.name = request.body[:256].decode(errors="replace")
        self.welcomed, self.wishes = True, Wish(request.b)
        self.send(head(Kind.WELCOME, 0, 0, a=VERSION, b=self._hub.ring.node_id, c=self.pid))
        self._hub.send_ring_state(self)

    def _join(self, request: Item) -> int | None:
        if not request.handle or request.handle in self.stays:
            raise Malformed(f"JOIN with the handle {request.handle}, which is in use")
        return None if self._hub.join(self, request.handle, request.body) else 0

    def _send(self, request: Item) -> int | None:
        """Send a list of messages. Hot: once for each list."""
        stay = self.stays.get(request.handle)
        if stay is None or stay.membership.leaving:
            return None  # it has been removed from the group, and will hear of that
        cost = len(request.body) + MESSAGE_COST * request.c
        if request.c > 1 and cost > 2 * BATCH_BYTES:
            raise Malformed(f"a list of {request.c} messages, {len(request.body)} bytes: send it in parts")
        payloads = unpack(request)
        try:
            stay.membership.send(payloads, guarantee_of(request))
        except QueueFull:
            return min(cost, BATCH_BYTES)
        except MessageTooLong as error:
            raise Malformed(str(error)) from None
        self.sent += len(payloads)
        return None

    # ---- its queue

    def send(self, item_head: bytes, body: bytes = b"") -> None:
        """Queue an item."""
        if not self.ended:
            self.writer.add(item_head, body)
            self._hub.queued(self, len(item_head) + len(body))

    def record(self) -> bytes:
        """Return the next record for its socket; call this only if something waits."""
        size = self.writer.size
        record = self.writer.record()
        self._hub.waiting -= size - self.writer.size
        return record

    def refuse(self, handle: int, why: Refusal, error: Exception) -> None:
        """Refuse a join."""
        text = str(error).encode()
        self.send(head(Kind.REFUSED, handle, len(text), detail=why), text)

    # ---- its end

    def dismiss(self, why: Farewell, text: str) -> None:
        """Send it goodbye instead of all that waits; its process is gone from its groups."""
        if self.ended:
            return
        self.end()
        self.farewell = why, text
        body = text.encode()
        self.writer.add(head(Kind.GOODBYE, 0, len(body), detail=why), body)
        self._hub.waiting += self.writer.size
        self._hub.written.add(self)

    def has_records(self) -> bool:
        """Return whether something waits for it."""
        return self.writer.has_records()

    def discard(self) -> None:
        """Discard what waits: it cannot be sent."""
        self._hub.waiting -= self.writer.size
        self.writer.discard()

    def end(self) -> None:
        """Do nothing more for it; its groups see its process as gone."""
        self.discard()
        self.ended = True
        self._requests.clear()
        self._reader = Reader()
        if self.held:
            self._give_room()
        for stay in list(self.stays.values()):
            stay.membership.leave(Reason.PROCDOWN)


class _Stay:
    """A client in a group: the engine's events, for the client's queue (an `Inbox`)."""

    membership: LocalMembership

    def __init__(self, hub: Hub, client: Client, handle: int) -> None:
        self.client = client
        self.handle = handle
        self._hub = hub

    def messages(self, sender: Member, level: Level, payloads: list[bytes]) -> None:
        """Queue a run of messages. Hot: once for each run."""
        client = self.client
        if client.ended:
            return
        packed = self._hub.pack(payloads)
        client.received += packed.number
        client.send(messages_head(self.handle, level, sender, packed), packed.body)

    def event(self, event: Confchg | RingEvent) -> None:
        """Queue any other event; the own leave is the last."""
        self.client.send(*self._hub.item(self.handle, event))
        if isinstance(event, Confchg) and self.membership.member in event.left:
            self._hub.forget(self)
