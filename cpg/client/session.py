"""A client's side of its connection to a daemon, without I/O: its groups, the ring's state, and its queries.

A `Session` processes records and makes records. Programs on trio, on asyncio and without a loop have thin shells around
it. What its memberships send waits in the session, bounded, until the shell has given it to the socket. Their events go
straight into the inboxes of their groups.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from cpg.client.ipc import (
    VERSION,
    Farewell,
    Item,
    Kind,
    Malformed,
    Reader,
    Refusal,
    Wish,
    Writer,
    event_of,
    head,
    level_of,
    link_of,
    pack,
    send_head,
    unpack,
)
from cpg.contracts import Inbox
from cpg.errors import (
    AlreadyJoined,
    CorosyncLimit,
    DaemonUnavailable,
    GroupReserved,
    NotJoined,
    SlowConsumer,
    TooManyGroups,
)
from cpg.events import Confchg, Link, Member, Quorum, Reason, RingEvent, TotemConfchg, Transitional
from cpg.payloads import split
from totem.configuration import NO_RING, Guarantee
from totem.errors import QueueFull, RingLost, TotemError
from totem.text import quoted

MOST_LINKS: Final = 4096
"""Links that a daemon may have: eight to each of more nodes than a ring has."""
SEND_QUEUE: Final = 1 << 20
"""Bytes that may wait for the daemon, all groups together (and one message that is longer alone)."""

_REFUSALS: Final[dict[int, type[Exception]]] = {
    Refusal.NAME: ValueError,
    Refusal.ALREADY_JOINED: AlreadyJoined,
    Refusal.LIMIT: CorosyncLimit,
    Refusal.RESERVED: GroupReserved,
    Refusal.FULL: TooManyGroups,
}
_FAREWELLS: Final[dict[int, type[TotemError]]] = {
    Farewell.ACCESS: DaemonUnavailable,
    Farewell.VERSION: DaemonUnavailable,
    Farewell.FULL: DaemonUnavailable,
    Farewell.SLOW: SlowConsumer,
}
"""All others raise RingLost."""


class WrongDaemon(DaemonUnavailable):
    """Not `cpgd` listens at the socket: that stays wrong until somebody names another socket."""


def _stranger(where: object, record: bytes, malformed: Malformed) -> WrongDaemon:
    """Return the error for a peer that is not the daemon: a lock server's first byte begins a list in msgpack."""
    is_cluckd = 0x90 <= record[0] <= 0x9F or record[0] in (0xDC, 0xDD)
    whose = "cluckd, the lock server," if is_cluckd else f"another program ({malformed})"
    remedy = "name the socket of cpgd (--socket, CPGD_SOCKET; for cluckd --cpg-socket)"
    return WrongDaemon(f"{whose} listens at {where}, not cpgd: {remedy}")


class RemoteMembership:
    """This process in one group of the daemon's ring (`cpg.contracts.Membership`)."""

    def __init__(self, session: Session, handle: int, name: bytes, inbox: Inbox) -> None:
        self.name = name
        self.inbox = inbox
        self.refusal: Exception | None = None
        """Why the daemon has not let this process in."""
        self.entered = False
        """The group's stream has begun."""
        self.members: tuple[Member, ...] = ()
        """The group's members, as reported last."""
        self.leaving = False
        self._session = session
        self._handle = handle

    def send(self, payloads: Sequence[bytes], guarantee: Guarantee) -> None:
        """Queue messages, all or none. Raises QueueFull, NotJoined after `leave`. Hot: once for each list."""
        if self.leaving:
            raise NotJoined(f"group {quoted(self.name)} has been left")
        lists = [pack(batch) for batch in split(payloads)]
        self._session.queue([(send_head(self._handle, guarantee, packed), packed.body) for packed in lists])

    def leave(self) -> None:
        """Leave behind all that was sent; a second call does nothing."""
        if not self.leaving:
            self.leaving = True
            self._session.writer.add(head(Kind.LEAVE, self._handle, 0))

    def move(self, session: Session, handle: int) -> None:
        """Become a membership of another session."""
        self._session, self._handle, self.entered = session, handle, False


class Session:
    """One connection's state, from the first record to the daemon's goodbye."""

    def __init__(self, where: object = "the socket") -> None:
        """`where`: the daemon's place, for errors."""
        self.on_ring: Callable[[RingEvent], None] = lambda event: None
        """Called with each event of the ring that every group gets."""
        self.on_link: Callable[[Link], None] = lambda event: None
        """Called with the state of each link of the daemon's node, and each change of one."""
        self.links: dict[tuple[int, int], Link] = {}
        """The links as they are now, by node id and number."""
        self.writer = Writer()
        """What waits for the socket."""
        self.member: Member | None = None
        """This process, as a member of groups; None until the daemon has welcomed it."""
        self.expected: Member | None = None
        """The member that it must be, since its groups know it as that one."""
        self.failure: TotemError | None = None
        """Why there is nothing more to come."""
        self.ring_id = NO_RING
        self.node_ids: tuple[int, ...] = ()
        self.quorum: Quorum | None = None
        """The quorum of the present ring; None until it is reported."""
        self.refused: list[RemoteMembership] = []
        """Memberships that the daemon has refused, for the shell to process."""
        self._where = where
        self._reader = Reader()
        self._memberships: dict[int, RemoteMembership] = {}
        self._handles = 0
        self._queries: set[int] = set()
        """Numbers of the queries whose reply is wanted."""
        self._replies: dict[int, Any] = {}
        self._actions: dict[Kind, Callable[[Item], None]] = {
            Kind.MESSAGES: self._on_messages,
            Kind.CONFCHG: self._on_event,
            Kind.RING: self._on_event,
            Kind.TRANSITIONAL: self._on_event,
            Kind.QUORUM: self._on_event,
            Kind.LINK: self._on_link,
            Kind.WELCOME: self._on_welcome,
            Kind.REFUSED: self._on_refused,
            Kind.ANSWER: self._on_reply,
            Kind.GOODBYE: self._on_goodbye,
        }

    # ---- down

    @property
    def room(self) -> int:
        """Bytes for which the send queue has room."""
        return SEND_QUEUE - self.writer.size

    def greet(self, name: str) -> None:
        """Queue the first record. `name` is shown to the administrator."""
        text = name.encode()[:256]
        self.writer.add(head(Kind.HELLO, 0, len(text), a=VERSION, b=Wish.LINKS), text)

    def join(self, name: bytes, inbox: Inbox) -> RemoteMembership:
        """Request to join a group; see the membership's `entered` and `refusal`."""
        membership = RemoteMembership(self, self._handles + 1, name, inbox)
        self._request_join(membership)
        return membership

    def lose_sight(self) -> None:
        """Report to all groups that the connection is lost: as a change of ring after which nobody is there."""
        self.node_ids = ()
        self._on_ring_event(Transitional(()))
        for membership in self._memberships.values():
            members, membership.members = membership.members, ()
            if members:
                membership.inbox.event(Transitional(()))
                membership.inbox.event(Confchg((), dict.fromkeys(members, Reason.NODEDOWN), {}))

    def inherit(self, lost: Session) -> None:
        """Join the groups of a session whose connection was lost; what follows is as after a first join."""
        for membership in lost._memberships.values():
            if not membership.leaving:
                membership.move(self, self._handles + 1)
                self._request_join(membership)

    def _request_join(self, membership: RemoteMembership) -> None:
        self._handles += 1
        self._memberships[self._handles] = membership
        self.writer.add(head(Kind.JOIN, self._handles, len(membership.name)), membership.name)

    def query(self, what: str) -> int:
        """Query the daemon; return the number under which `reply` has the reply, until `forget`."""
        self._handles += 1
        self._queries.add(self._handles)
        text = what.encode()
        self.writer.add(head(Kind.ASK, self._handles, len(text)), text)
        return self._handles

    def has_reply(self, number: int) -> bool:
        """Return whether the reply has come."""
        return number in self._replies

    def reply(self, number: int) -> Any:
        """Return a reply that has come."""
        return self._replies[number]

    def forget(self, number: int) -> None:
        """Discard a reply, whether it has come or is still to come."""
        self._queries.discard(number)
        self._replies.pop(number, None)

    def queue(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Queue messages, all or none. Raises QueueFull. An empty queue accepts one item of any length."""
        size = sum(len(item_head) + len(body) for item_head, body in items)
        if self.failure is not None:
            raise QueueFull("the connection to the daemon is lost")
        if self.writer.size + size > SEND_QUEUE and (len(items) > 1 or self.writer.has_records()):
            raise QueueFull(f"no room for {size} bytes: {self.writer.size} wait for the daemon")
        for item in items:
            self.writer.add(*item)

    # ---- up

    def receive(self, record: bytes) -> None:
        """Process a record; an empty one is the end of the connection.

        That end, and a malformed record, end the session with `failure`.
        """
        if not record:
            self.failure = self.failure or RingLost(
                "the daemon has closed the connection: it was ended, or has crashed"
            )
            return
        try:
            items = self._reader.items(record)
        except Malformed as malformed:
            if self.member is None:
                self.failure = _stranger(self._where, record, malformed)
            else:
                self.failure = RingLost(f"the daemon does not keep to the protocol: {malformed}")
            return
        try:
            for item in items:
                action = self._actions.get(item.kind)
                if action is None:
                    raise Malformed(f"an item {item.kind.name}, which a daemon does not send")
                action(item)
        except Malformed as malformed:
            self.failure = RingLost(f"the daemon does not keep to the protocol: {malformed}")

    def _on_messages(self, item: Item) -> None:
        membership = self._memberships.get(item.handle)
        if membership is not None:
            membership.inbox.messages(Member(item.a, item.b), level_of(item), unpack(item))

    def _on_event(self, item: Item) -> None:
        event = event_of(item)
        if not item.handle:
            if not isinstance(event, Confchg):
                self._on_ring_event(event)
            return
        membership = self._memberships.get(item.handle)
        if membership is None:
            return
        is_own = isinstance(event, Confchg) and self.member in event.left
        if is_own and membership.entered:
            del self._memberships[item.handle]
        membership.entered = True
        if isinstance(event, Confchg):
            membership.members = event.members
        membership.inbox.event(event)

    def _on_ring_event(self, event: RingEvent) -> None:
        if isinstance(event, TotemConfchg):
            self.ring_id, self.node_ids = event
        self.quorum = event if isinstance(event, Quorum) else None
        self.on_ring(event)

    def _on_link(self, item: Item) -> None:
        event = link_of(item)
        if (event.node_id, event.link) not in self.links and len(self.links) >= MOST_LINKS:
            raise Malformed(f"more than {MOST_LINKS} links")
        self.links[event.node_id, event.link] = event
        self.on_link(event)

    def _on_welcome(self, item: Item) -> None:
        if item.a != VERSION:
            raise Malformed(f"version {item.a} of the protocol, not {VERSION}")
        self.member = Member(item.b, item.c)
        if self.expected not in (None, self.member):
            self.failure = DaemonUnavailable(
                f"the daemon has become node {item.b}, where this process was {self.expected}"
            )

    def _on_refused(self, item: Item) -> None:
        membership = self._memberships.pop(item.handle, None)
        if membership is not None:
            kind = _REFUSALS.get(item.detail, TotemError)
            membership.refusal = kind(item.body.decode(errors="replace"))
            self.refused.append(membership)

    def _on_reply(self, item: Item) -> None:
        if item.handle not in self._queries:
            return
        try:
            self._replies[item.handle] = json.loads(item.body)
        except ValueError as error:
            raise Malformed(f"an answer that is no JSON: {error}") from None

    def _on_goodbye(self, item: Item) -> None:
        kind = _FAREWELLS.get(item.detail, RingLost)
        self.failure = kind(item.body.decode(errors="replace"))
