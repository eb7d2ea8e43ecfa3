"""The service cpg: processes in closed process groups (exec/cpg.c, ipc_cpg.h).

A connection is in at most one group. Its multicasts have no answer. Messages for which the ring has no room stay in the
session, which processes nothing more until there is room: so nothing is lost or overtaken. A message too long for one
request comes in pieces and goes to the ring as one. A message too long for a datagram is sent to the client in pieces,
which the library assembles.

A connection whose own leave was delivered gets nothing more of the group, and can join again, as the manual says
(Corosync 3.1.7 itself does not do that).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final

from cpg.errors import AlreadyJoined, CorosyncLimit
from cpg.events import Confchg, Member, Reason, RingEvent, TotemConfchg
from cpg.libcpg.codes import Code
from cpg.libqb.layout import LARGEST, MalformedRequest, answer, uint32s
from cpg.libqb.session import LibqbClient, LibqbSession, Node
from cpg.node.membership import LocalMembership
from cpg.node.wire import LARGEST_NAME, PIECE_CONTINUED, PIECE_FIRST, PIECE_LAST, REASON_TO_WIRE
from cpg.payloads import LARGEST_MESSAGE, MESSAGE_COST
from totem.configuration import Guarantee, Level
from totem.errors import QueueFull
from totem.text import quoted

MOST_MEMBERS: Final = 128
"""Largest number of members of a group, and of nodes of a ring, for the library: it has arrays of this size on its
stack.
"""
MOST_ITERATIONS: Final = 64
"""Iterations that may be open on one connection."""
ENTRY_COST: Final = 128
"""Bytes counted for each entry of an iteration."""
BATCH: Final = 128 * 1024
"""Bytes given to the ring at once: a batch is accepted as a whole or not at all."""
EVENT_PIECE: Final = 64 * 1024
"""Bytes of a message in one event: datagrams of this size pass whatever the machine's limits are."""
KNOWN_HEADS: Final = 1024

_JOIN: Final = Struct("<i4xi4x I4x128s I4x I4x")  # header, group_name, pid, flags
_LEAVE: Final = Struct("<i4xi4x I4x128s I4x")  # header, group_name, pid
_MCAST: Final = Struct("<i4xi4x8x I4x I4x")  # header (of an answer), guarantee, msglen
_PARTIAL: Final = Struct("<i4xi4x8x I4x I4x I4x I4x")  # header (of an answer), guarantee, msglen, fraglen, type
_MEMBERSHIP: Final = Struct("<i4xi4x I4x128s")  # header, group_name
_PLAIN: Final = Struct("<i4xi4x")  # header
_ITERATE: Final = Struct("<i4xi4x I4x128s I4x")  # header, group_name, iteration_type
_ITERATION: Final = Struct("<i4xi4x Q")  # header, iteration_handle

_ALLOCATE: Final = Struct("<i4xi4x Q 128s")  # header, map_size, path_to_file
_FREE: Final = Struct("<i4xi4x QQ")  # header, map_size, server_address
_EXECUTE: Final = Struct("<i4xi4x Q")  # header, server_address

_DELIVER: Final = Struct("<i4xi4xi4x I4x128s I4x I4x I4x")  # header, group_name, msglen, nodeid, pid
_DELIVER_PIECE: Final = Struct("<i4xi4xi4x I4x128s I4x I4x I4x I4x I4x")
#   header, group_name, msglen, fraglen, nodeid, pid, type
_CONFCHG: Final = Struct("<I4x128s I4x I4x I4x")  # group_name, member, joined and left list entries
_ADDRESS: Final = Struct("<I4x I4x I4x")  # mar_cpg_address_t: nodeid, pid, reason
_TOTEM_CONFCHG: Final = Struct("<I4xQ I")  # ring_id, member_list_entries; the list has no gap before it
_MEMBERS: Final = Struct("<I4x 9216s")  # member_count, member_list: 384 addresses
_UINT32: Final = Struct("<I4x")
_UINT64: Final = Struct("<Q")
_DESCRIPTION: Final = Struct("<I4x128s II")  # group, nodeid, pid

assert (_JOIN.size, _LEAVE.size, _MCAST.size, _PARTIAL.size, _ITERATE.size) == (168, 160, 40, 56, 160)
assert (_DELIVER.size, _DELIVER_PIECE.size, _ADDRESS.size) == (184, 200, 24)

# Ids of requests
JOIN, LEAVE, MCAST, MEMBERSHIP, LOCAL_GET, ITERATE, NEXT, ITERATED, FINALIZE = range(9)
ALLOCATE, FREE, EXECUTE, PARTIAL_MCAST = range(9, 13)
# and of answers and events, which are not the same.
ANSWER_JOIN, ANSWER_LEAVE, ANSWER_MCAST, ANSWER_MEMBERSHIP, CONFCHG, DELIVER = range(6)
ANSWER_LOCAL_GET, ANSWER_ITERATE, ANSWER_NEXT, ANSWER_ITERATED, ANSWER_FINALIZE, TOTEM_CONFCHG = 7, 9, 10, 11, 12, 13
ANSWER_ALLOCATE, ANSWER_FREE, ANSWER_EXECUTE, DELIVER_PIECE, ANSWER_PIECE = range(14, 19)

_MCAST_ID: Final = Struct("<i").pack(MCAST)
_PARTIAL_ID: Final = Struct("<i").pack(PARTIAL_MCAST)

TELL_FIRST_RING: Final = 1  # CPG_MODEL_V1_DELIVER_INITIAL_TOTEM_CONF
BUFFER_OFFSET: Final = 16  # sizeof(struct coroipcs_zc_header): where the multicast is in a file of zero copy
NAMES, ONE_GROUP, ALL = 1, 2, 3  # cpg_iteration_type_t
SAFE: Final = 3  # CPG_TYPE_SAFE; Corosync takes it for agreed, as the other types are

_Entry = tuple[bytes, int, int]
"""Entry of an iteration: group, node, pid."""


class Groups:
    """The service."""

    name = "cpg"

    def __init__(self, node: Node) -> None:
        self.node = node
        self.processes: set[tuple[bytes, int]] = set()
        """Processes in a group through a connection that is open."""

    def open(self, client: LibqbClient) -> GroupSession:
        """Open a connection."""
        return GroupSession(client, self)

    def on_ring(self, event: RingEvent) -> None:
        """Do nothing: the sessions send the event."""


class GroupSession(LibqbSession):
    """One connection: an `Inbox` of the engine once it has joined."""

    def __init__(self, client: LibqbClient, service: Groups) -> None:
        super().__init__(client)
        self._node = service.node
        self._processes = service.processes
        self._membership: LocalMembership | None = None
        self._wants_first_ring = False
        self._closed = False
        self._iterations: dict[int, tuple[Iterator[_Entry], int]] = {}
        """What is left of each iteration, and the bytes that it counts for."""
        self._handles = itertools.count(1)
        self._heads: dict[Member, _Heads] = {}
        # From the client to the ring:
        self._backlog: deque[bytes] = deque()
        """Requests that are not processed yet."""
        self._unsent: list[bytes] = []
        """Messages for which the ring had no room."""
        self._guarantee = Guarantee.AGREED
        """The guarantee of these messages."""
        self._owed = b""
        """The answer that is due when the ring has accepted the message."""
        self._pieces: list[bytes] | None = None
        """Pieces of a message that comes in pieces."""
        self._missing = 0
        """Bytes of it that have not arrived."""
        self._kept = 0
        """Bytes that it counts for, until the ring has it."""

    # ---- requests

    def take(self, requests: Sequence[bytes]) -> list[bytes]:
        """Process requests as far as the ring has room; return the answers."""
        self._backlog.extend(requests)
        return self.resume() if not self.stalled else []

    def resume(self) -> list[bytes]:
        """Continue where there was no room; return the answers."""
        answers: list[bytes] = []
        backlog = self._backlog
        while self._hand_over(answers) and backlog:
            kind = backlog[0][:4]
            if kind == _MCAST_ID:
                self._gather()
            elif reply := self._on_piece(backlog.popleft()) if kind == _PARTIAL_ID else self.answer(backlog.popleft()):
                answers.append(reply)
        return answers

    def _hand_over(self, answers: list[bytes]) -> bool:
        """Give the ring the gathered messages; return whether it had room."""
        if self._unsent:
            assert self._membership is not None, "nothing is gathered for nobody"
            try:
                self._membership.send(self._unsent, self._guarantee)
            except QueueFull:
                self.stalled = min(sum(map(len, self._unsent)) + MESSAGE_COST * len(self._unsent), BATCH)
                return False
            self._node._send_soon()
            self._unsent = []
            if self._kept and not self.is_unfinished:
                self._forget_pieces()
        self.stalled = 0
        if self._owed:
            answers.append(self._owed)
            self._owed = b""
        return True

    def _gather(self) -> None:
        """Gather consecutive multicasts of one guarantee. Hot: once for each message."""
        backlog, unsent, room, level = self._backlog, self._unsent, BATCH, -1
        unpack, header = _MCAST.unpack_from, _MCAST.size
        while backlog and room > 0:
            request = backlog[0]
            if request[:4] != _MCAST_ID:
                break
            if len(request) < header:
                raise MalformedRequest(f"a multicast of {len(request)} bytes, without its header")
            _, size, guarantee, length = unpack(request)
            if size != len(request) or length != size - header:
                raise MalformedRequest(f"a multicast of {len(request)} bytes says {size}, with {length} of data")
            if level not in (guarantee, -1):
                break
            level = guarantee
            room -= length + MESSAGE_COST
            unsent.append(request[header:])
            backlog.popleft()
        self._guarantee = Guarantee.SAFE if level == SAFE else Guarantee.AGREED
        if not self._may_send():
            unsent.clear()  # as Corosync does: nobody waits for an answer

    def _may_send(self) -> bool:
        return self._membership is not None and not self._membership.leaving

    def _on_piece(self, request: bytes) -> bytes:
        """Add a piece of a long message; return an empty answer if that comes later."""
        if len(request) < _PARTIAL.size:
            raise MalformedRequest(f"a piece of {len(request)} bytes, without its header")
        _, size, guarantee, whole, length, kind = _PARTIAL.unpack_from(request)
        if size != len(request) or length != size - _PARTIAL.size:
            raise MalformedRequest(f"a piece of {len(request)} bytes says {size}, with {length} of data")
        if kind not in (PIECE_FIRST, PIECE_CONTINUED, PIECE_LAST):
            raise MalformedRequest(f"a piece of type {kind}")
        if not self._may_send():
            return answer(ANSWER_PIECE, code=Code.NOT_EXIST)
        if kind == PIECE_FIRST:
            self._forget_pieces()
            if whole > LARGEST_MESSAGE:
                return answer(ANSWER_PIECE, code=Code.TOO_BIG)
            if not self.client.keep(whole):
                return answer(ANSWER_PIECE, code=Code.TRY_AGAIN)
            self._pieces, self._missing, self._kept = [], whole, whole
        if self._pieces is None:
            return answer(ANSWER_PIECE, code=Code.INTERRUPT)
        self._pieces.append(request[_PARTIAL.size :])
        self._missing -= length
        if self._missing < 0 or (self._missing > 0 and kind == PIECE_LAST):
            raise MalformedRequest(f"a message of {whole} bytes in pieces of others")
        if kind == PIECE_LAST:
            self._send_one(b"".join(self._pieces), guarantee, answer(ANSWER_PIECE))
            self._pieces = None
            return b""
        return answer(ANSWER_PIECE)

    @property
    def is_unfinished(self) -> bool:  # type: ignore[override]
        """Whether a message has begun to arrive in pieces."""
        return self._pieces is not None

    def _forget_pieces(self) -> None:
        self.client.drop(self._kept)
        self._pieces, self._kept = None, 0

    def _on_join(self, length: int, name: bytes, pid: int, flags: int) -> bytes:
        return answer(ANSWER_JOIN, code=self._join(length, name[:length], pid, flags))

    def _join(self, length: int, name: bytes, pid: int, flags: int) -> Code:
        if length > LARGEST_NAME:
            return Code.NAME_TOO_LONG
        if self._membership is not None:
            return Code.BUSY if self._membership.leaving else Code.EXIST
        if (name, pid) in self._processes:
            return Code.EXIST
        if not self.client.may_join(name):
            return Code.ACCESS
        if len(self._node.groups.get(name, ())) >= MOST_MEMBERS:
            return Code.NO_SPACE
        if not self.client.take_membership():
            return Code.NO_RESOURCES
        code = self._enter(name, pid)
        if code is not Code.OK:
            self.client.give_membership()
            return code
        self._wants_first_ring = bool(flags & TELL_FIRST_RING)
        self._processes.add((name, pid))
        self._node._send_soon()
        return Code.OK

    def _enter(self, name: bytes, pid: int) -> Code:
        try:
            self._membership = self._node._admit(name, pid, self)
        except AlreadyJoined:
            return Code.TRY_AGAIN  # its leave is on its way
        except CorosyncLimit:
            is_name = len(name) == LARGEST_NAME or b"\0" in name.rstrip(b"\0")
            return Code.NAME_TOO_LONG if is_name else Code.NO_SPACE
        except ValueError:
            return Code.INVALID_PARAM  # an empty name
        return Code.OK

    def _on_leave(self, *_: object) -> bytes:
        return answer(ANSWER_LEAVE, code=self._leave())

    def _leave(self) -> Code:
        membership = self._membership
        if membership is None or membership.leaving:
            return Code.NOT_EXIST
        if not membership.joined:
            return Code.BUSY
        membership.leave()
        self._node._send_soon()
        return Code.OK

    def _on_membership(self, length: int, name: bytes) -> bytes:
        members = self._node.groups.get(name[:length], ())
        if len(members) > MOST_MEMBERS:
            return answer(ANSWER_MEMBERSHIP, _MEMBERS.pack(0, b""), Code.TOO_BIG)
        return answer(ANSWER_MEMBERSHIP, _MEMBERS.pack(len(members), _addresses(members)))

    def _on_local_get(self) -> bytes:
        return answer(ANSWER_LOCAL_GET, _UINT32.pack(self._node.node_id))

    def _on_iterate(self, length: int, name: bytes, kind: int) -> bytes:
        if len(self._iterations) >= MOST_ITERATIONS:
            return answer(ANSWER_ITERATE, _UINT64.pack(0), Code.NO_RESOURCES)
        groups = self._node.groups
        entries: list[_Entry]
        if kind == NAMES:
            entries = [(group, 0, 0) for group in groups]
        else:
            chosen = [name[:length]] if kind == ONE_GROUP else groups
            entries = [(group, *member) for group in chosen for member in groups.get(group, ())]
        cost = ENTRY_COST * len(entries)
        if not self.client.keep(cost):
            return answer(ANSWER_ITERATE, _UINT64.pack(0), Code.NO_RESOURCES)
        handle = next(self._handles)
        self._iterations[handle] = iter(entries), cost
        return answer(ANSWER_ITERATE, _UINT64.pack(handle))

    def _on_next(self, handle: int) -> bytes:
        entry, code = (b"", 0, 0), Code.OK
        iteration = self._iterations.get(handle)
        if iteration is None:
            code = Code.LIBRARY
        elif (following := next(iteration[0], None)) is not None:
            entry = following
        else:
            code = Code.NO_SECTIONS
        name, node_id, pid = entry
        return answer(ANSWER_NEXT, _DESCRIPTION.pack(len(name), name, node_id, pid), code)

    def _on_iterated(self, handle: int) -> bytes:
        iteration = self._iterations.pop(handle, None)
        if iteration is None:
            return answer(ANSWER_ITERATED, code=Code.LIBRARY)
        self.client.drop(iteration[1])
        return answer(ANSWER_ITERATED)

    def _on_allocate(self, _: int, path: bytes) -> bytes:
        taken = self.client.buffers.allocate(path.partition(b"\0")[0].decode("utf-8", "replace"))
        return answer(ANSWER_ALLOCATE, code=Code.OK if taken else Code.NO_RESOURCES)

    def _on_free(self, _: int, handle: int) -> bytes:
        return answer(ANSWER_FREE, code=Code.OK if self.client.buffers.free(handle) else Code.BAD_HANDLE)

    def _on_execute(self, handle: int) -> bytes:
        """Send the content of a file; the answer is due when the ring has accepted it."""
        if not self._may_send():
            return answer(ANSWER_MCAST, code=Code.NOT_EXIST)
        head = self.client.buffers.read(handle, BUFFER_OFFSET, _MCAST.size)
        if len(head) < _MCAST.size:
            return answer(ANSWER_MCAST, code=Code.BAD_HANDLE)
        _, _, guarantee, length = _MCAST.unpack(head)
        if length > LARGEST:
            return answer(ANSWER_MCAST, code=Code.TOO_BIG)
        payload = self.client.buffers.read(handle, BUFFER_OFFSET + _MCAST.size, length)
        if len(payload) < length:
            return answer(ANSWER_MCAST, code=Code.INVALID_PARAM)
        self._send_one(payload, guarantee, answer(ANSWER_MCAST))
        return b""

    def _send_one(self, payload: bytes, guarantee: int, owed: bytes) -> None:
        self._unsent = [payload]
        self._guarantee = Guarantee.SAFE if guarantee == SAFE else Guarantee.AGREED
        self._owed = owed

    def _on_finalize(self) -> bytes:
        self._forget()
        return answer(ANSWER_FINALIZE)

    requests = {  # noqa: RUF012 - a ClassVar of the base
        JOIN: (_JOIN, _on_join),
        LEAVE: (_LEAVE, _on_leave),
        MEMBERSHIP: (_MEMBERSHIP, _on_membership),
        LOCAL_GET: (_PLAIN, _on_local_get),
        ITERATE: (_ITERATE, _on_iterate),
        NEXT: (_ITERATION, _on_next),
        ITERATED: (_ITERATION, _on_iterated),
        FINALIZE: (_PLAIN, _on_finalize),
        ALLOCATE: (_ALLOCATE, _on_allocate),
        FREE: (_FREE, _on_free),
        EXECUTE: (_EXECUTE, _on_execute),
    }

    def close(self) -> None:
        """Remove the client's process from the group, if it has not left: the client is gone."""
        self._closed = True
        self._forget()
        if self._membership is not None:
            self._membership.leave(Reason.PROCDOWN)
            self._node._send_soon()

    def _forget(self) -> None:
        if self._membership is not None:
            self._processes.discard((self._membership.name, self._membership.member.pid))

    # ---- events: the inbox of the engine

    def messages(self, sender: Member, level: Level, payloads: list[bytes]) -> None:
        """Send messages to the client. Hot: once for each frame, and within for each message."""
        if self._closed:
            return
        heads = self._heads.get(sender)
        if heads is None:
            assert self._membership is not None, "only members get messages"
            if len(self._heads) >= KNOWN_HEADS:
                self._heads.clear()
            heads = self._heads[sender] = _Heads(self._membership.name, sender)
        if max(map(len, payloads)) <= EVENT_PIECE:
            self.client.send([heads[len(payload)] + payload for payload in payloads])
        else:
            self.client.send([event for payload in payloads for event in heads.cut(payload)])

    def event(self, event: Confchg | RingEvent) -> None:
        """Send a change of the group to the client."""
        if isinstance(event, Confchg) and self._membership is not None and self._membership.member in event.left:
            self.client.give_membership()
        if self._closed:
            return
        if isinstance(event, Confchg):
            self._on_confchg(event)
        elif isinstance(event, TotemConfchg) and self._wants_first_ring:
            self._wants_first_ring = False
            self._send_ring(event)  # later ones come by `on_ring`, as to those who have not joined

    def _on_confchg(self, confchg: Confchg) -> None:
        membership = self._membership
        assert membership is not None, "only members get changes"
        if max(len(confchg.members), len(confchg.joined), len(confchg.left)) > MOST_MEMBERS:
            count = len(confchg.members)
            self.client.end(
                "limit", f"its group {quoted(membership.name)} has {count} members; libcpg has room for {MOST_MEMBERS}"
            )
            return
        self.client.send([_confchg(membership.name, confchg)])
        for member in confchg.left:
            self._heads.pop(member, None)
        if membership.member in confchg.left:
            self._forget()
            self._membership = None
            self._heads.clear()

    def on_ring(self, event: RingEvent) -> None:
        """Send a new ring to the client, also if it is in no group."""
        if isinstance(event, TotemConfchg):
            self._send_ring(event)

    def _send_ring(self, ring: TotemConfchg) -> None:
        if len(ring.node_ids) <= MOST_MEMBERS:
            body = _TOTEM_CONFCHG.pack(*ring.ring_id, len(ring.node_ids)) + uint32s(ring.node_ids) + bytes(4)
            self.client.send([answer(TOTEM_CONFCHG, body)])


class _Heads(dict[int, bytes]):
    """Heads of one sender's messages, by length."""

    def __init__(self, name: bytes, sender: Member) -> None:
        self._name = name
        self._sender = sender

    def __missing__(self, length: int) -> bytes:
        if len(self) >= KNOWN_HEADS:
            self.clear()
        size = _DELIVER.size + length
        head = self[length] = _DELIVER.pack(DELIVER, size, Code.OK, len(self._name), self._name, length, *self._sender)
        return head

    def cut(self, payload: bytes) -> Iterator[bytes]:
        """Make the events for one message, of any length."""
        whole = len(payload)
        if whole <= EVENT_PIECE:
            yield self[whole] + payload
            return
        for offset in range(0, whole, EVENT_PIECE):
            piece = payload[offset : offset + EVENT_PIECE]
            kind = PIECE_CONTINUED
            if offset == 0:
                kind = PIECE_FIRST
            elif offset + EVENT_PIECE >= whole:
                kind = PIECE_LAST
            size = _DELIVER_PIECE.size + len(piece)
            lengths = (whole, len(piece))
            head = _DELIVER_PIECE.pack(
                DELIVER_PIECE, size, Code.OK, len(self._name), self._name, *lengths, *self._sender, kind
            )
            yield head + piece


def _addresses(members: Sequence[Member]) -> bytes:
    return b"".join(_ADDRESS.pack(node_id, pid, 0) for node_id, pid in members)


def _with_reasons(changed: dict[Member, Reason]) -> bytes:
    return b"".join(_ADDRESS.pack(node_id, pid, REASON_TO_WIRE[reason]) for (node_id, pid), reason in changed.items())


def _confchg(name: bytes, confchg: Confchg) -> bytes:
    members, left, joined = confchg
    head = _CONFCHG.pack(len(name), name, len(members), len(joined), len(left))
    return answer(CONFCHG, head + _addresses(members) + _with_reasons(left) + _with_reasons(joined))
