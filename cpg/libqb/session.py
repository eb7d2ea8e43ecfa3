"""What the services share: a session for each connection, and a table of the requests that it answers.

A service lives as long as the node, and makes the sessions. A session gets its client's requests in their order and
returns the answers in that order. Events go to the client through `LibqbClient.send`. Sessions have no sockets and wait
for nothing: a session that cannot continue because the ring has no room says so (`stalled`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from struct import Struct
from typing import Any, ClassVar, Protocol

from cpg.contracts import Inbox
from cpg.events import Member, RingEvent
from cpg.libcpg.codes import Code
from cpg.libqb.layout import REQUEST, MalformedRequest, answer
from cpg.node.membership import LocalMembership
from cpg.node.quorum import QuorumStatus, Votequorum
from totem.config import Config
from totem.configuration import RingId
from totem.links.machine import LinkState
from totem.statistics import Statistics


class Node(Protocol):
    """The ring, as the services need it: an `EmbeddedRing`."""

    config: Config
    _votes: Votequorum | None
    """This node's count of votes."""

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
        """The members of all groups, by name in ascending order."""

    @property
    def links(self) -> tuple[LinkState, ...]:
        """The links to all other nodes; with transports udpu and udp to those of this package."""

    def statistics(self) -> Statistics:
        """Return the processor's counters."""

    def _admit(self, name: bytes, pid: int, inbox: Inbox) -> LocalMembership:
        """Join a group for a process."""

    def _send_soon(self) -> None:
        """Give the ring what was queued."""

    def _announce(self, messages: Sequence[bytes]) -> None:
        """Send an administrator's messages to all nodes."""

    async def _try_reload_everywhere(self) -> bool:
        """Have all nodes of the ring reload their configurations; return whether this one has. Why not is logged."""

    @property
    def _reopen_logs(self) -> Callable[[], None]:
        """Opens log files again by their names."""


class ClientBuffers(Protocol):
    """Files of a client in shared memory (`cpg.libqb.buffers`)."""

    def allocate(self, path: str) -> bool:
        """Register a file, which then gets its handle written into it."""

    def read(self, handle: int, offset: int, length: int) -> bytes:
        """Read a part of a file, or less."""

    def free(self, handle: int) -> bool:
        """Remove a file; return whether there was one."""


class LibqbClient(Protocol):
    """The other end of a connection, as its session sees it."""

    @property
    def buffers(self) -> ClientBuffers:
        """Its files for zero copy."""

    def may_join(self, name: bytes) -> bool:
        """Return whether its user may join a group; a refusal is logged."""

    def take_membership(self) -> bool:
        """Count it as a member of a group; return whether its user may have one more."""

    def give_membership(self) -> None:
        """Count it as a member no more."""

    def keep(self, size: int) -> bool:
        """Keep `size` bytes more for it; return False where its user has as many as it may have."""

    def drop(self, size: int) -> None:
        """Keep `size` bytes less."""

    def send(self, events: Sequence[bytes]) -> None:
        """Queue events, in order."""

    def end(self, reason: str, why: str) -> None:
        """End the connection soon, and log why: for errors of this client alone. `reason`: one word."""


class LibqbSession:
    """One connection to a service that answers each request at once."""

    requests: ClassVar[Mapping[int, tuple[Struct, Callable[..., bytes | None]]]]
    """By id: the layout of the whole request, and the method that gets the fields behind the header. It returns None
    where `task` makes the answer."""
    is_unfinished: bool = False
    """It keeps the beginning of something whose end has not arrived."""
    stalled: int = 0
    """Bytes for which the ring must have room before `resume` can continue; 0 where it need not be called."""

    task: Callable[[], Awaitable[bytes]] | None = None
    """What makes the answer to the last request, where that takes time."""

    def __init__(self, client: LibqbClient) -> None:
        self.client = client

    def take(self, requests: Sequence[bytes]) -> list[bytes]:
        """Process requests; return the answers. Raises MalformedRequest: then the connection must be ended."""
        answers = [self.answer(request) for request in requests]
        return [answer for answer in answers if answer is not None]

    def resume(self) -> list[bytes]:
        """Continue where there was no room; return the answers."""
        return []

    def answer(self, request: bytes) -> bytes | None:
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
        """Process an event of the ring."""

    def on_config(self) -> None:
        """Process another configuration."""

    def close(self) -> None:
        """Clean up: the client is gone."""


class Service(Protocol):
    """One of Corosync's services."""

    name: str
    """Name of its socket."""

    def open(self, client: LibqbClient) -> LibqbSession:
        """Open a connection."""

    def on_ring(self, event: RingEvent) -> None:
        """Process an event of the ring, before the sessions do."""
