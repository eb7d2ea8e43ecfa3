"""What is common to the services: a session for each connection, a table of the requests that it answers.

A service lives as long as the node, and makes the sessions. A session is told its client's requests in their order and
gives the answers in that order; what it tells the client without being asked goes through `LibqbClient.tell`. Sessions
have no sockets and wait for nothing: one that cannot go on because the ring has no room says so (`stalled`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from struct import Struct
from typing import Any, ClassVar, Protocol

from cpg.contracts import Inbox
from cpg.events import Member, RingEvent
from cpg.libcpg.codes import Code
from cpg.libqb.layout import REQUEST, MalformedRequest, answer
from cpg.node.membership import LocalMembership
from cpg.node.quorum import QuorumStatus
from totem.config import Config
from totem.configuration import RingId
from totem.statistics import Statistics


class Node(Protocol):
    """What the services need of a ring: an `EmbeddedRing` is one."""

    config: Config

    @property
    def node_id(self) -> int:
        """The node that the clients are on."""

    @property
    def ring_id(self) -> RingId:
        """The present ring."""

    @property
    def node_ids(self) -> tuple[int, ...]:
        """The nodes of the present ring, ascending."""

    @property
    def quorate(self) -> bool:
        """Whether the present ring may act for the cluster."""

    @property
    def quorum(self) -> QuorumStatus | None:
        """The figures behind that; None without a quorum provider."""

    @property
    def groups(self) -> dict[bytes, tuple[Member, ...]]:
        """Whoever is in which group, by name in ascending order."""

    def statistics(self) -> Statistics:
        """What the processor has counted."""

    def _admit(self, name: bytes, pid: int, inbox: Inbox) -> LocalMembership:
        """Join a group for a process."""

    def _send_soon(self) -> None:
        """Something was queued: let the ring have it."""


class ClientBuffers(Protocol):
    """Files of a client in shared memory (`cpg.libqb.buffers`)."""

    def allocate(self, path: str) -> bool:
        """Take in a file, which then has its handle written into it."""

    def read(self, handle: int, offset: int, length: int) -> bytes:
        """Read a part of a file, or less."""

    def free(self, handle: int) -> bool:
        """Remove a file; whether there was one."""


class LibqbClient(Protocol):
    """The other end of a connection, as its session sees it."""

    @property
    def buffers(self) -> ClientBuffers:
        """For its zero copy."""

    def may_join(self, name: bytes) -> bool:
        """Whether its user may join a group; a refusal is logged."""

    def take_membership(self) -> bool:
        """Count it among those in a group; whether its user may have one more."""

    def give_membership(self) -> None:
        """It is in its group no more."""

    def keep(self, size: int) -> bool:
        """Have so many bytes more kept for it; False where its user has as many as it may have."""

    def drop(self, size: int) -> None:
        """So many bytes are not kept any more."""

    def tell(self, events: Sequence[bytes]) -> None:
        """Queue events, in order."""

    def end(self, reason: str, why: str) -> None:
        """End the connection soon, and log why. For what only this client cannot stand. `reason`: one word."""


class LibqbSession:
    """One connection to a service that answers each request at once."""

    requests: ClassVar[Mapping[int, tuple[Struct, Callable[..., bytes]]]]
    """By id: the layout of the whole request, and the method that is given what follows the header."""
    is_unfinished: bool = False
    """It keeps the beginning of something whose end has not come."""
    stalled: int = 0
    """Bytes for which the ring must have room before `resume` can get on; 0 where it need not be called."""

    def __init__(self, client: LibqbClient) -> None:
        self.client = client

    def take(self, requests: Sequence[bytes]) -> list[bytes]:
        """Handle requests; what is to be answered. Raises MalformedRequest: then the connection must be ended."""
        return [self.answer(request) for request in requests]

    def resume(self) -> list[bytes]:
        """Go on where there was no room; what is to be answered."""
        return []

    def answer(self, request: bytes) -> bytes:
        """Answer one request."""
        if len(request) < REQUEST.size:
            raise MalformedRequest(f"{len(request)} bytes are no request")
        request_id, size = REQUEST.unpack_from(request)
        if size != len(request):
            raise MalformedRequest(f"request {request_id} says that it has {size} bytes and has {len(request)}")
        known = self.requests.get(request_id)
        if known is None:
            return answer(0, code=Code.INVALID_PARAM)
        layout, handler = known
        if size < layout.size:
            raise MalformedRequest(f"request {request_id} has {size} bytes, not {layout.size}")
        fields: tuple[Any, ...] = layout.unpack_from(request)
        return handler(self, *fields[2:])

    def on_ring(self, event: RingEvent) -> None:
        """Hear of a change of ring or quorum."""

    def close(self) -> None:
        """Clean up: the client has gone."""


class Service(Protocol):
    """One of Corosync's services."""

    name: str
    """Of its socket."""

    def open(self, client: LibqbClient) -> LibqbSession:
        """Begin a connection."""

    def on_ring(self, event: RingEvent) -> None:
        """Hear of a change of ring or quorum, before the sessions do."""
