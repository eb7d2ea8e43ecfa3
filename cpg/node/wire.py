"""Bytes and nouns of the executive layer: messages of Corosync's sync, CPG, cfg and votequorum services.

Every message starts with a group header that names one of two groups: "a" for the services' messages, "sync" for the
two of the sync service. The exec header follows, id and size, and the body with all members aligned to 8. Names in the
comments are Corosync's. Padding is sent as zero and ignored on receipt. A malformed message raises only
`MalformedDatagram`.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple

from cpg.events import Reason
from totem.configuration import RingId
from totem.errors import MalformedDatagram

GROUP_A: Final = bytes.fromhex("01 00 01 00 61")
GROUP_SYNC: Final = bytes.fromhex("01 00 04 00") + b"sync"

SERVICE_CFG: Final = 1
KEY_IN_USE: Final = 1
SERVICE_CPG: Final = 2
SERVICE_VOTEQUORUM: Final = 5

LARGEST_NAME: Final = 128
LARGEST_PLAIN: Final = 1_048_576 - 1024
"""Largest payload of one mcast, in bytes; libcpg cuts longer ones."""
MOST_PROCESSES: Final = (1_048_576 - len(GROUP_A) - 24) // 144
"""Largest number of processes in one joinlist: a message has at most 1 MiB."""

PIECE_FIRST: Final = 1
PIECE_CONTINUED: Final = 2
PIECE_LAST: Final = 3

_HEADER: Final = Struct("<i4xi4x")  # struct qb_ipc_request_header: id, size
_PROCJOIN: Final = Struct("<i4xi4x I4x128s I4x I4x")  # header, group_name, pid, reason
_JOINLIST: Final = Struct("<i4xi4xi4x")  # struct qb_ipc_response_header: id, size, error
_PROCESS: Final = Struct("<I4x I4x128s")  # struct join_list_entry: pid, group_name
_MCAST: Final = Struct("<i4xi4x I4x128s I4x I4x I4xQ")  # header, group_name, msglen, pid, source: nodeid, conn
_PARTIAL: Final = Struct("<i4xi4x I4x128s I4x I4x I4x I4x I4xQ")
#   header, group_name, msglen, fraglen, pid, type, source: nodeid, conn
_DOWNLIST: Final = Struct("<i4xi4x I4x I4x 384I")  # header, old_members, left_nodes, nodeids
_KILLNODE: Final = Struct("<i4xi4x I4x H6x256s")  # header, nodeid, reason: length, value
_RELOAD: Final = Struct("<i4xi4x I4xQ")  # header, source: nodeid, conn
_KEY_PHASE: Final = Struct("<i4xi4x I4x")  # header, phase
_NODEINFO: Final = Struct("<i4xi4x IIII")  # header, nodeid, votes, expected_votes, flags
_RECONFIGURE: Final = Struct("<i4xi4x IIB7x")  # header, nodeid, value, param
_BARRIER: Final = Struct("<i4xi4x IQ4x")  # header, ring_id
_SERVICE_BUILD: Final = Struct("<i4xi4x IQ4x i4x 128i")  # header, ring_id, service_list_entries, service_list
_LABEL: Final = Struct("<I")  # ours: pid, before the name

assert (_PROCJOIN.size, _MCAST.size, _PARTIAL.size, _DOWNLIST.size) == (168, 184, 200, 1568)
assert (_JOINLIST.size, _PROCESS.size, _KILLNODE.size) == (24, 144, 288)
assert (_NODEINFO.size, _RECONFIGURE.size, _BARRIER.size, _SERVICE_BUILD.size) == (32, 32, 32, 552)

_PROCJOIN_ID: Final = SERVICE_CPG << 16
_PROCLEAVE_ID: Final = SERVICE_CPG << 16 | 1
_JOINLIST_ID: Final = SERVICE_CPG << 16 | 2
_MCAST_ID: Final = SERVICE_CPG << 16 | 3
_DOWNLIST_ID: Final = SERVICE_CPG << 16 | 5
_PARTIAL_ID: Final = SERVICE_CPG << 16 | 6
_RELOAD_ID: Final = SERVICE_CFG << 16 | 3
_KEY_PHASE_ID: Final = SERVICE_CFG << 16 | 4
_KILLNODE_ID: Final = SERVICE_CFG << 16 | 1
_NODEINFO_ID: Final = SERVICE_VOTEQUORUM << 16
_RECONFIGURE_ID: Final = SERVICE_VOTEQUORUM << 16 | 1
_BARRIER_ID: Final = 0
_SERVICE_BUILD_ID: Final = 1

MCAST_PREFIX: Final = len(GROUP_A) + _MCAST.size
"""Bytes before the payload of an mcast: equal for all messages of one process, group and payload size."""

_MCAST_ID_BYTES: Final = GROUP_A + Struct("<i").pack(_MCAST_ID)

REASON_TO_WIRE: Final = {reason: number for number, reason in enumerate(Reason, start=1)}
_REASON_OF_LEAVE: Final = {2: Reason.LEAVE, 5: Reason.PROCDOWN}


class Procjoin(NamedTuple):
    """A process joins a group; its node is the message's originator."""

    name: bytes
    pid: int

    def encode(self) -> bytes:
        """Write the message, group header included, as all `encode` do."""
        return GROUP_A + _PROCJOIN.pack(
            _PROCJOIN_ID, _PROCJOIN.size, len(self.name), self.name, self.pid, REASON_TO_WIRE[Reason.JOIN]
        )


class Procleave(NamedTuple):
    """A process leaves a group, or has ended while it was in it."""

    name: bytes
    pid: int
    reason: Reason = Reason.LEAVE

    def encode(self) -> bytes:
        """Write the message."""
        return GROUP_A + _PROCJOIN.pack(
            _PROCLEAVE_ID, _PROCJOIN.size, len(self.name), self.name, self.pid, REASON_TO_WIRE[self.reason]
        )


class Process(NamedTuple):
    """An entry of a joinlist."""

    name: bytes
    pid: int


class Joinlist(NamedTuple):
    """All processes of the sending node, sent in sync."""

    processes: tuple[Process, ...]

    def encode(self) -> bytes:
        """Write the message."""
        size = _JOINLIST.size + _PROCESS.size * len(self.processes)
        entries = [_PROCESS.pack(pid, len(name), name) for name, pid in self.processes]
        return b"".join((GROUP_A, _JOINLIST.pack(_JOINLIST_ID, size, 0), *entries))


class Downlist(NamedTuple):
    """The nodes that the sending node reports as gone, in sync; receivers only compare."""

    old_members: int
    left: tuple[int, ...]

    def encode(self) -> bytes:
        """Write the message."""
        node_ids = self.left + (0,) * (384 - len(self.left))
        return GROUP_A + _DOWNLIST.pack(_DOWNLIST_ID, _DOWNLIST.size, self.old_members, len(self.left), *node_ids)


class Mcast(NamedTuple):
    """A message to a group."""

    name: bytes
    pid: int
    payload: bytes

    def encode(self, node_id: int) -> bytes:
        """Write the message; `node_id` is the sender's, for a field that no receiver reads."""
        return mcast_prefix(self.name, self.pid, len(self.payload), node_id) + self.payload


class PartialMcast(NamedTuple):
    """A piece of a message that is too long for one mcast."""

    name: bytes
    pid: int
    whole_length: int
    piece: int
    """`PIECE_FIRST`, `PIECE_CONTINUED` or `PIECE_LAST`."""
    payload: bytes

    def encode(self, node_id: int) -> bytes:
        """Write the message; `node_id` as in `Mcast`."""
        length = len(self.payload)
        header = _PARTIAL.pack(
            _PARTIAL_ID,
            _PARTIAL.size + length,
            len(self.name),
            self.name,
            self.whole_length,
            length,
            self.pid,
            self.piece,
            node_id,
            0,
        )
        return b"".join((GROUP_A, header, self.payload))


class ServiceBuild(NamedTuple):
    """The services that the sending node syncs in this ring."""

    ring_id: RingId
    services: tuple[int, ...]

    def encode(self) -> bytes:
        """Write the message."""
        ids = self.services + (0,) * (128 - len(self.services))
        return GROUP_SYNC + _SERVICE_BUILD.pack(
            _SERVICE_BUILD_ID, _SERVICE_BUILD.size, *self.ring_id, len(self.services), *ids
        )


class Barrier(NamedTuple):
    """The sending node has sent all for the service whose turn it is."""

    ring_id: RingId

    def encode(self) -> bytes:
        """Write the message."""
        return GROUP_SYNC + _BARRIER.pack(_BARRIER_ID, _BARRIER.size, *self.ring_id)


class Killnode(NamedTuple):
    """An administrator's order to end a node at once. We obey it and never send it."""

    node_id: int
    reason: str


class Reload(NamedTuple):
    """An administrator's order to all nodes, to read their configurations again."""

    def encode(self) -> bytes:
        """Write the message; nobody waits at a connection for its return."""
        return GROUP_A + _RELOAD.pack(_RELOAD_ID, _RELOAD.size, 0, 0)


class KeyPhase(NamedTuple):
    """A step of the change of keys behind a `Reload`."""

    phase: int
    """`KEY_IN_USE`: the sender seals with the new key as soon as this comes back to it; 2: it drops the old one."""

    def encode(self) -> bytes:
        """Write the message."""
        return GROUP_A + _KEY_PHASE.pack(_KEY_PHASE_ID, _KEY_PHASE.size, self.phase)


class Nodeinfo(NamedTuple):
    """A node's votes, or those of its quorum device (node id 0)."""

    node_id: int
    votes: int
    expected_votes: int
    flags: int

    def encode(self) -> bytes:
        """Write the message."""
        return GROUP_A + _NODEINFO.pack(_NODEINFO_ID, _NODEINFO.size, *self)


class Reconfigure(NamedTuple):
    """An administrator's change of votes, at run time."""

    node_id: int
    value: int
    param: int

    def encode(self) -> bytes:
        """Write the message."""
        return GROUP_A + _RECONFIGURE.pack(_RECONFIGURE_ID, _RECONFIGURE.size, *self)


ExecMessage = (
    Procjoin
    | Procleave
    | Joinlist
    | Downlist
    | Mcast
    | PartialMcast
    | ServiceBuild
    | Barrier
    | Killnode
    | Reload
    | KeyPhase
    | Nodeinfo
    | Reconfigure
)


def mcast_prefix(name: bytes, pid: int, length: int, node_id: int) -> bytes:
    """Return all bytes of an mcast before a payload of `length` bytes."""
    return GROUP_A + _MCAST.pack(_MCAST_ID, _MCAST.size + length, len(name), name, length, pid, node_id, 0)


def mcast_label(name: bytes, pid: int) -> bytes:
    """Return, in short, what all mcasts of one process to one group share: the content of `mcast_prefix`."""
    return _LABEL.pack(pid) + name


def decode_label(label: bytes) -> tuple[bytes, int]:
    """Return name and pid of a label. Raises MalformedDatagram."""
    if len(label) <= _LABEL.size:
        raise MalformedDatagram("short label")
    (pid,) = _LABEL.unpack_from(label)
    name = label[_LABEL.size :]
    return _name(len(name), name), pid


def is_mcast(message: bytes) -> bool:
    """Return whether `decode` would see the message as an mcast or a malformed one."""
    return message.startswith(_MCAST_ID_BYTES)


def decode(message: bytes) -> ExecMessage | None:
    """Read a message as totem delivers it; return None for other groups, services and functions, which are ignored.

    Raises MalformedDatagram. Excess bytes behind a message of fixed size are ignored, as Corosync does.
    """
    if message.startswith(GROUP_A):
        body, decoders = message[len(GROUP_A) :], _DECODERS
    elif message.startswith(GROUP_SYNC):
        body, decoders = message[len(GROUP_SYNC) :], _SYNC_DECODERS
    else:
        return None
    if len(body) < _HEADER.size:
        raise MalformedDatagram("short exec header")
    exec_id, size = _HEADER.unpack_from(body)
    decoder = decoders.get(exec_id)
    if decoder is None:
        return None
    least, read = decoder
    if size != len(body) or size < least.size:
        raise MalformedDatagram("exec size")
    return read(body)


def _name(length: int, padded: bytes) -> bytes:
    if length > LARGEST_NAME:
        raise MalformedDatagram("group name length")
    return padded[:length]


def _decode_procjoin(body: bytes) -> Procjoin:
    _, _, length, name, pid, _ = _PROCJOIN.unpack_from(body)
    return Procjoin(_name(length, name), pid)


def _decode_procleave(body: bytes) -> Procleave:
    _, _, length, name, pid, reason = _PROCJOIN.unpack_from(body)
    # A reason that is not one of a leave still removes the process from the list, as in Corosync's nodes.
    return Procleave(_name(length, name), pid, _REASON_OF_LEAVE.get(reason, Reason.LEAVE))


def _decode_joinlist(body: bytes) -> Joinlist:
    if (len(body) - _JOINLIST.size) % _PROCESS.size:
        raise MalformedDatagram("joinlist size")
    entries = _PROCESS.iter_unpack(memoryview(body)[_JOINLIST.size :])
    return Joinlist(tuple(Process(_name(length, name), pid) for pid, length, name in entries))


def _decode_mcast(body: bytes) -> Mcast:
    _, _, name_length, name, length, pid, _, _ = _MCAST.unpack_from(body)
    if length != len(body) - _MCAST.size:
        raise MalformedDatagram("mcast length")
    return Mcast(_name(name_length, name), pid, body[_MCAST.size :])


def _decode_partial(body: bytes) -> PartialMcast:
    _, _, name_length, name, whole_length, length, pid, piece, _, _ = _PARTIAL.unpack_from(body)
    if length != len(body) - _PARTIAL.size:
        raise MalformedDatagram("partial mcast length")
    if piece not in (PIECE_FIRST, PIECE_CONTINUED, PIECE_LAST):
        raise MalformedDatagram("partial mcast type")
    return PartialMcast(_name(name_length, name), pid, whole_length, piece, body[_PARTIAL.size :])


def _decode_downlist(body: bytes) -> Downlist:
    _, _, old_members, count, *node_ids = _DOWNLIST.unpack_from(body)
    if count > len(node_ids):
        raise MalformedDatagram("downlist count")
    return Downlist(old_members, tuple(node_ids[:count]))


def _decode_killnode(body: bytes) -> Killnode:
    _, _, node_id, length, text = _KILLNODE.unpack_from(body)
    return Killnode(node_id, text[:length].rstrip(b"\0").decode("utf-8", "replace"))


def _decode_reload(body: bytes) -> Reload:
    return Reload()


def _decode_key_phase(body: bytes) -> KeyPhase:
    return KeyPhase(*_KEY_PHASE.unpack_from(body)[2:])


def _decode_nodeinfo(body: bytes) -> Nodeinfo:
    return Nodeinfo(*_NODEINFO.unpack_from(body)[2:])


def _decode_reconfigure(body: bytes) -> Reconfigure:
    return Reconfigure(*_RECONFIGURE.unpack_from(body)[2:])


def _decode_service_build(body: bytes) -> ServiceBuild:
    _, _, representative, seq, count, *ids = _SERVICE_BUILD.unpack_from(body)
    if not 0 <= count <= len(ids):
        raise MalformedDatagram("service count")
    return ServiceBuild(RingId(representative, seq), tuple(ids[:count]))


def _decode_barrier(body: bytes) -> Barrier:
    _, _, representative, seq = _BARRIER.unpack_from(body)
    return Barrier(RingId(representative, seq))


_Decoders = dict[int, tuple[Struct, Callable[[bytes], ExecMessage]]]

_DECODERS: Final[_Decoders] = {
    _PROCJOIN_ID: (_PROCJOIN, _decode_procjoin),
    _PROCLEAVE_ID: (_PROCJOIN, _decode_procleave),
    _JOINLIST_ID: (_JOINLIST, _decode_joinlist),
    _MCAST_ID: (_MCAST, _decode_mcast),
    _DOWNLIST_ID: (_DOWNLIST, _decode_downlist),
    _PARTIAL_ID: (_PARTIAL, _decode_partial),
    _KILLNODE_ID: (_KILLNODE, _decode_killnode),
    _RELOAD_ID: (_RELOAD, _decode_reload),
    _KEY_PHASE_ID: (_KEY_PHASE, _decode_key_phase),
    _NODEINFO_ID: (_NODEINFO, _decode_nodeinfo),
    _RECONFIGURE_ID: (_RECONFIGURE, _decode_reconfigure),
}
_SYNC_DECODERS: Final[_Decoders] = {
    _BARRIER_ID: (_BARRIER, _decode_barrier),
    _SERVICE_BUILD_ID: (_SERVICE_BUILD, _decode_service_build),
}
