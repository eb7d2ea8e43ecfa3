"""Corosync's client libraries: libcpg and libquorum, bound with ctypes after /usr/include/corosync.

`Cpg` is one connection to the CPG service, which can be in one group; `QuorumService` is one to the quorum service.
Callbacks of the libraries become the events of `cpg.events` (and `ReceivedRun`, `QuorumAt`), which `dispatch` returns.
Codes other than CS_OK become `CallFailed`.

Which calls may block the program decides who may call them (read in libqb 2.0 and libcpg 3.1):

- `dispatch`, and `multicast` of a message that fits one datagram of the IPC, never wait for the daemon, with one
  exception. Each of them puts a byte into a socket, and libqb spins while that is full, as it is when a stopped daemon
  has not read some hundred. So call `multicast` only when `fd` is writable, and at most `SEND_TURN` times.
- All others wait for the daemon's answer, without a limit: call them in a thread (`blocking` in their docstrings). A
  lock keeps two of them on one connection apart; `dispatch` may run beside them.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char, c_int, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from typing import Any, Final, NamedTuple

from cpg.errors import CorosyncUnavailable
from cpg.events import Confchg, Member, Quorum, Reason, TotemConfchg
from cpg.libcpg.codes import Code
from totem.configuration import RingId
from totem.process import process_check

SEND_TURN: Final = 64
"""Number of messages that certainly fit into the socket of a writable connection."""

LARGEST_NAME: Final = 128
MOST_MEMBERS: Final = 128
"""Members of a group in a callback: the library itself has no room for more."""
MOST_NODES: Final = 384

_MODEL_V1: Final = 1
_DELIVER_INITIAL_TOTEM_CONF: Final = 1
_ONE_NONBLOCKING: Final = 4
_TYPE_AGREED: Final = 2
_ITERATE_ALL: Final = 3
_TRACK_CHANGES: Final = 2
_QUORUM_FREE: Final = 0

_KNOWN_CODES: Final = frozenset(Code)
_REASONS: Final = {
    1: Reason.JOIN,
    2: Reason.LEAVE,
    3: Reason.NODEDOWN,
    4: Reason.NODEUP,
    5: Reason.PROCDOWN,
}


class CallFailed(Exception):
    """A call did not return CS_OK."""

    def __init__(self, function: str, code: int) -> None:
        name = f"CS_ERR_{Code(code).name}" if code in _KNOWN_CODES else f"error {code}"
        super().__init__(f"{function}: {name}")
        self.code = code


class ReceivedRun(NamedTuple):
    """Consecutive messages of one sender."""

    sender: Member
    payloads: list[bytes]


class QuorumAt(NamedTuple):
    """The quorum, and the ring that it belongs to."""

    ring_id: RingId
    quorum: Quorum


# ---- the structures and prototypes of corosync/cpg.h and corosync/quorum.h


class _Name(Structure):
    _fields_ = (("length", c_uint32), ("value", c_char * LARGEST_NAME))


class _Address(Structure):
    _fields_ = (("nodeid", c_uint32), ("pid", c_uint32), ("reason", c_uint32))


class _RingId(Structure):
    _fields_ = (("nodeid", c_uint32), ("seq", c_uint64))


class _Description(Structure):
    _fields_ = (("group", _Name), ("nodeid", c_uint32), ("pid", c_uint32))


class _Iovec(Structure):
    _fields_ = (("base", c_void_p), ("length", c_size_t))


_Addresses = POINTER(_Address)
_Ids = POINTER(c_uint32)

_ON_DELIVER = CFUNCTYPE(None, c_uint64, POINTER(_Name), c_uint32, c_uint32, c_void_p, c_size_t)
_ON_CONFCHG = CFUNCTYPE(
    None, c_uint64, POINTER(_Name), _Addresses, c_size_t, _Addresses, c_size_t, _Addresses, c_size_t
)
_ON_TOTEM_CONFCHG = CFUNCTYPE(None, c_uint64, _RingId, c_uint32, _Ids)
_ON_QUORUM = CFUNCTYPE(None, c_uint64, c_uint32, _RingId, c_uint32, _Ids)
_ON_NODELIST = CFUNCTYPE(None, c_uint64, _RingId, c_uint32, _Ids, c_uint32, _Ids, c_uint32, _Ids)


class _CpgModel(Structure):
    _fields_ = (
        ("model", c_int),
        ("on_deliver", _ON_DELIVER),
        ("on_confchg", _ON_CONFCHG),
        ("on_totem_confchg", _ON_TOTEM_CONFCHG),
        ("flags", c_uint),
    )


class _QuorumModel(Structure):
    _fields_ = (("model", c_int), ("on_quorum", _ON_QUORUM), ("on_nodelist", _ON_NODELIST))


_LIBCPG: Final[dict[str, list[Any]]] = {
    "cpg_model_initialize": [POINTER(c_uint64), c_int, POINTER(_CpgModel), c_void_p],
    "cpg_finalize": [c_uint64],
    "cpg_fd_get": [c_uint64, POINTER(c_int)],
    "cpg_max_atomic_msgsize_get": [c_uint64, POINTER(c_uint32)],
    "cpg_local_get": [c_uint64, POINTER(c_uint)],
    "cpg_dispatch": [c_uint64, c_int],
    "cpg_join": [c_uint64, POINTER(_Name)],
    "cpg_leave": [c_uint64, POINTER(_Name)],
    "cpg_mcast_joined": [c_uint64, c_int, POINTER(_Iovec), c_uint],
    "cpg_iteration_initialize": [c_uint64, c_int, POINTER(_Name), POINTER(c_uint64)],
    "cpg_iteration_next": [c_uint64, POINTER(_Description)],
    "cpg_iteration_finalize": [c_uint64],
}
_LIBQUORUM: Final[dict[str, list[Any]]] = {
    "quorum_model_initialize": [POINTER(c_uint64), c_int, POINTER(_QuorumModel), POINTER(c_uint32), c_void_p],
    "quorum_finalize": [c_uint64],
    "quorum_fd_get": [c_uint64, POINTER(c_int)],
    "quorum_dispatch": [c_uint64, c_int],
    "quorum_trackstart": [c_uint64, c_uint],
    "quorum_getquorate": [c_uint64, POINTER(c_int)],
}


class Libraries(NamedTuple):
    """The libraries libcpg and libquorum."""

    cpg: Any
    quorum: Any


def load() -> Libraries:
    """Load the libraries. Raises CorosyncUnavailable where they are missing or older than Corosync 3.1."""
    return Libraries(_load("libcpg.so.4", _LIBCPG), _load("libquorum.so.5", _LIBQUORUM))


def _load(name: str, functions: dict[str, list[Any]]) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(name)
        for function, argtypes in functions.items():
            getattr(library, function).argtypes = argtypes
    except OSError as error:
        raise CorosyncUnavailable(
            f"{name} cannot be loaded ({error}): install Corosync's client libraries "
            "(Debian: libcpg4 and libquorum5; Fedora: corosynclib)"
        ) from None
    except AttributeError as error:
        raise CorosyncUnavailable(f"{name} is too old ({error}): Corosync 3.1 or newer is needed") from None
    return library


# ---- connections


class _LibraryConnection:
    """One connection to a service of the daemon. Its events are collected while `dispatch` runs.

    An exception in a callback, also the ValueError for an impossible event, comes out of `dispatch`: no exception can
    pass through the library.
    """

    def __init__(self, library: Any, service: str) -> None:
        self.fd = -1
        self.is_own = process_check()
        """Returns whether this process has opened it, not the process before a fork."""
        self._library = library
        self._service = service
        self._handle = c_uint64()
        self._open = False
        self._blocking = threading.Lock()
        self._events: list[Any] = []
        self._trouble: BaseException | None = None

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code != Code.OK:
            raise CallFailed(function, code)

    def abandon(self) -> None:
        """Close the descriptor of a forked process. The library would end the parent's connection."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self._open = False

    def open(self) -> None:
        """Connect; blocking."""
        with self._blocking:
            self._initialize()
            self._open = True
            fd = c_int()
            self._call(f"{self._service}_fd_get", self._handle, byref(fd))
            self.fd = fd.value

    def _initialize(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Disconnect; blocking. A second call does nothing, nor does one where `open` has failed."""
        with self._blocking:
            if self._open:
                self._open = False
                getattr(self._library, f"{self._service}_finalize")(self._handle)

    def dispatch(self, limit: int) -> list[Any]:
        """Return the events of at most `limit` callbacks."""
        dispatch = getattr(self._library, f"{self._service}_dispatch")
        for _ in range(limit):
            code = dispatch(self._handle, _ONE_NONBLOCKING)
            if code != Code.OK:
                if code == Code.TRY_AGAIN:
                    break
                raise CallFailed(f"{self._service}_dispatch", code)
        if self._trouble is not None:
            raise self._trouble
        events, self._events = self._events, []
        return events

    def _guarded(self, prototype: Any, callback: Callable[..., None]) -> Any:
        def guarded(*arguments: Any) -> None:
            try:
                callback(*arguments)
            except BaseException as error:  # also a KeyboardInterrupt, which would be lost
                self._trouble = error

        return prototype(guarded)


class Cpg(_LibraryConnection):
    """A connection to the CPG service, in one group or none. Events: `ReceivedRun`, `Confchg`, `TotemConfchg`."""

    def __init__(self, library: Any) -> None:
        super().__init__(library, "cpg")
        self.largest_atomic = 0
        """Bytes of the longest message that is not sent in fragments."""
        self._run = ReceivedRun(Member(0, 0), [])
        """The last event, if it is one."""
        self._model = _CpgModel(
            _MODEL_V1,
            self._guarded(_ON_DELIVER, self._on_deliver),
            self._guarded(_ON_CONFCHG, self._on_confchg),
            self._guarded(_ON_TOTEM_CONFCHG, self._on_totem_confchg),
            _DELIVER_INITIAL_TOTEM_CONF,
        )

    def _initialize(self) -> None:
        self._call("cpg_model_initialize", byref(self._handle), _MODEL_V1, byref(self._model), None)
        size = c_uint32()
        self._call("cpg_max_atomic_msgsize_get", self._handle, byref(size))
        self.largest_atomic = size.value

    def local_node_id(self) -> int:
        """Return the id of this node; blocking."""
        node_id = c_uint()
        with self._blocking:
            self._call("cpg_local_get", self._handle, byref(node_id))
        return node_id.value

    def join(self, name: bytes) -> None:
        """Join a group; blocking. EXIST: this process is in it. TRY_AGAIN: also while its leave is under way."""
        with self._blocking:
            self._call("cpg_join", self._handle, byref(_Name(len(name), name)))

    def leave(self, name: bytes) -> None:
        """Leave the group; blocking. Call it only after the own join has arrived: before, the library retries in a
        tight loop.
        """
        with self._blocking:
            self._call("cpg_leave", self._handle, byref(_Name(len(name), name)))

    def multicast(self, payload: bytes) -> None:
        """Send a message to the group. TRY_AGAIN: nothing was sent.

        For messages longer than `largest_atomic` it is blocking: the library cuts them. TRY_AGAIN and INTERRUPT (a
        process joined or left meanwhile) then mean that no receiver will assemble the message.
        """
        base = ctypes.cast(ctypes.c_char_p(payload), c_void_p)
        self._call("cpg_mcast_joined", self._handle, _TYPE_AGREED, byref(_Iovec(base, len(payload))), 1)

    def multicast_fragments(self, payload: bytes) -> None:
        """Send a message of any length; blocking."""
        with self._blocking:
            self.multicast(payload)

    def groups(self) -> dict[bytes, tuple[Member, ...]]:
        """Return the members of all groups, by name in ascending order; blocking."""
        found: dict[bytes, set[Member]] = {}
        iteration = c_uint64()
        with self._blocking:
            self._call("cpg_iteration_initialize", self._handle, _ITERATE_ALL, None, byref(iteration))
            try:
                entry = _Description()
                while True:
                    self._call("cpg_iteration_next", iteration, byref(entry))
                    found.setdefault(_name(entry.group), set()).add(Member(entry.nodeid, entry.pid))
            except CallFailed as failure:
                if failure.code != Code.NO_SECTIONS:
                    raise
            finally:
                self._library.cpg_iteration_finalize(iteration)
        return {name: tuple(sorted(found[name])) for name in sorted(found)}

    def _on_deliver(self, _: int, name: Any, node_id: int, pid: int, data: int | None, length: int) -> None:
        """Collect a message. Hot: once for each message."""
        sender, payloads = self._run
        if length and not data:
            raise ValueError(f"a message of {length} bytes, but none of them")
        payload = ctypes.string_at(data, length) if data else b""
        events = self._events
        if events and events[-1] is self._run and sender == (node_id, pid):
            payloads.append(payload)
        else:
            self._run = ReceivedRun(Member(node_id, pid), [payload])
            events.append(self._run)

    def _on_confchg(self, _: int, name: Any, members: Any, count: int, *changes: Any) -> None:
        here = _addresses(members, count)
        left, left_count, joined, joined_count = changes
        self._events.append(
            Confchg(
                tuple(sorted({member for member, _ in here})),
                _changes(_addresses(left, left_count)),
                _changes(_addresses(joined, joined_count)),
            )
        )

    def _on_totem_confchg(self, _: int, ring_id: Any, count: int, members: Any) -> None:
        self._events.append(TotemConfchg(RingId(ring_id.nodeid, ring_id.seq), _node_ids(members, count)))


class QuorumService(_LibraryConnection):
    """A connection to the quorum service, with the events `TotemConfchg` for rings and `QuorumAt` for their quorum."""

    def __init__(self, library: Any) -> None:
        super().__init__(library, "quorum")
        self.has_provider = False
        """Whether Corosync counts votes; where it does not, every ring is quorate."""
        self._model = _QuorumModel(
            _MODEL_V1, self._guarded(_ON_QUORUM, self._on_quorum), self._guarded(_ON_NODELIST, self._on_nodelist)
        )

    def _initialize(self) -> None:
        kind = c_uint32()
        self._call("quorum_model_initialize", byref(self._handle), _MODEL_V1, byref(self._model), byref(kind), None)
        self.has_provider = kind.value != _QUORUM_FREE

    def track(self) -> None:
        """Request the present ring and its quorum, and all later ones; blocking."""
        with self._blocking:
            self._call("quorum_trackstart", self._handle, _TRACK_CHANGES)

    def probe(self) -> None:
        """Raise CallFailed if the daemon is gone; blocking."""
        with self._blocking:
            if self._open:
                self._call("quorum_getquorate", self._handle, byref(c_int()))

    def _on_quorum(self, _: int, quorate: int, ring_id: Any, count: int, members: Any) -> None:
        quorum = Quorum(bool(quorate), _node_ids(members, count))
        self._events.append(QuorumAt(RingId(ring_id.nodeid, ring_id.seq), quorum))

    def _on_nodelist(self, _: int, ring_id: Any, count: int, members: Any, *changes: Any) -> None:
        self._events.append(TotemConfchg(RingId(ring_id.nodeid, ring_id.seq), _node_ids(members, count)))


def _name(name: Any) -> bytes:
    if name.length > LARGEST_NAME:
        raise ValueError(f"a group name of {name.length} bytes")
    return ctypes.string_at(ctypes.addressof(name) + _Name.value.offset, name.length)


def _addresses(addresses: Any, count: int) -> list[tuple[Member, int]]:
    if count > MOST_MEMBERS or (count and not addresses):
        raise ValueError(f"a list of {count} members")
    return [(Member(address.nodeid, address.pid), address.reason) for address in (addresses[:count] if count else ())]


def _changes(addresses: list[tuple[Member, int]]) -> dict[Member, Reason]:
    for _, reason in addresses:
        if reason not in _REASONS:
            raise ValueError(f"a change of membership for reason {reason}")
    return {member: _REASONS[reason] for member, reason in sorted(addresses)}


def _node_ids(node_ids: Any, count: int) -> tuple[int, ...]:
    if count > MOST_NODES or (count and not node_ids):
        raise ValueError(f"a ring of {count} nodes")
    return tuple(sorted(set(node_ids[:count]))) if count else ()
