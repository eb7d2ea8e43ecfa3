"""The service cmap: configuration and state as keys and values (exec/cmap.c). It can be read; one key can be written,
by which Corosync's administrators end the wait for all nodes.

It has the keys that Corosync's tools and programs around it read: those of the sections totem, nodelist and quorum,
`runtime.members`, `runtime.config.totem` and `runtime.votequorum`, and `stats.srp` and `stats.knet` (the links to other
nodes) in the map of statistics. What this node does not count is absent. Keys of the first map can be tracked; they
change with the ring.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from struct import Struct
from typing import Final, NamedTuple

from cpg.events import RingEvent, TotemConfchg
from cpg.libcpg.codes import Code
from cpg.libqb.layout import LARGEST, answer
from cpg.libqb.session import LibqbClient, LibqbSession, Node
from cpg.node.quorum import Param
from cpg.node.wire import Reconfigure
from totem.config import Knet, milliseconds
from totem.wire import knet

MOST_ITERATIONS: Final = 64
"""Iterations that may be open on one connection, and as many tracks."""
ENTRY_COST: Final = 256
"""Bytes counted for each key of an iteration, and its value."""

_NAME: Final = "H6x256s"  # mar_name_t
_KEY: Final = Struct(f"<i4xi4x {_NAME}")  # header, key_name
_SET: Final = Struct(f"<i4xi4x {_NAME} Q B7x B")  # header, key_name, value_len, type, first byte of the value
_GET: Final = Struct(f"<i4xi4x {_NAME} Q")  # header, key_name, value_len
_HANDLE: Final = Struct("<i4xi4x Q")  # header, iter_handle
_TRACK: Final = Struct(f"<i4xi4x {_NAME} i4x Q")  # header, key_name, track_type, track_inst_handle
_SET_MAP: Final = Struct("<i4xi4x i4x")  # header, map
_GOT: Final = Struct("<Q B7x")  # value_len, type; the value follows
_UINT64: Final = Struct("<Q")
_FOUND: Final = Struct(f"<{_NAME} Q B7x")  # key_name, value_len, type
_CHANGED: Final = Struct(f"<Q {_NAME} i4x B7x B7x QQ")
#   track_inst_handle, key_name, event, types of new and old value, their lengths; the values follow

SET, DELETE, GET, ADJUST, ITERATE, NEXT, ITERATED, TRACK, UNTRACK, SET_MAP = range(10)
ANSWER_SET_MAP: Final = 10  # all others have the number of their request
CHANGED: Final = 9
"""Id of the event."""
DEFAULT_MAP, STATS_MAP = 0, 1
CANCEL_WAIT_FOR_ALL: Final = "quorum.cancel_wait_for_all"
DELETED, MODIFIED, ADDED, PREFIX = 1, 2, 4, 8  # CMAP_TRACK_*
_KINDS: Final = {knet.DATA: "data", knet.PING: "ping", knet.PONG: "pong", knet.PROBE: "pmtu"}
"""What the statistics of links call each kind of packet."""
_NEVER: Final = 0xFFFFFFFF
"""The quickest ping of a link that has answered none."""


class Value(NamedTuple):
    """A value with its type (cmap_value_types_t)."""

    kind: int
    data: bytes


_Map = dict[str, Value]
_NOTHING: Final = Value(0, b"")
"""The value of a key that does not exist."""


class KeyChange(NamedTuple):
    """A change of a key."""

    kind: int
    key: str
    new: Value
    old: Value


class Track(NamedTuple):
    """The keys that a client tracks."""

    kinds: int
    key: str
    handle: int
    """The client's own handle."""

    def wants(self, change: KeyChange) -> bool:
        """Return whether this change is tracked."""
        is_meant = change.key.startswith(self.key) if self.kinds & PREFIX else change.key == self.key
        return bool(is_meant and change.kind & self.kinds)


def _integer(kind: int, layout: str) -> Callable[[int], Value]:
    pack = Struct(layout).pack
    return lambda value: Value(kind, pack(value))


uint8, uint32, uint64 = _integer(2, "<B"), _integer(6, "<I"), _integer(8, "<Q")


def string(text: str) -> Value:
    """Return a string, with a NUL at its end."""
    return Value(11, text.encode() + b"\0")


class Cmap:
    """The service."""

    name = "cmap"

    def __init__(self, node: Node) -> None:
        self.node = node
        self._joins: dict[int, int] = {}
        """Number of times that each node has joined the ring since this service began."""
        self._members: tuple[int, ...] = ()
        self._note(node.node_ids)
        self.changes: list[KeyChange] = []
        """Changes that the last event of the ring has made."""
        self._known = self.values(DEFAULT_MAP)

    def open(self, client: LibqbClient) -> CmapSession:
        """Open a connection."""
        return CmapSession(client, self)

    def on_ring(self, event: RingEvent) -> None:
        """Count the joins, and find the changes."""
        if isinstance(event, TotemConfchg):
            self._note(event.node_ids)
        self.on_config()

    def on_config(self) -> None:
        """Find the changes."""
        known, self._known = self._known, self.values(DEFAULT_MAP)
        self.changes = list(_changes(known, self._known))

    def _note(self, members: tuple[int, ...]) -> None:
        for node_id in set(members).difference(self._members):
            self._joins[node_id] = self._joins.get(node_id, 0) + 1
        self._members = members

    def values(self, which: int) -> _Map:
        """Return all keys and values of a map at this moment, by key in ascending order."""
        found: Iterator[tuple[str, Value]]
        if which == STATS_MAP:
            found = self._statistics()
        else:
            found = itertools.chain(self._totem(), self._nodelist(), self._quorum(), self._runtime())
        return dict(sorted(found))

    def _totem(self) -> Iterator[tuple[str, Value]]:
        config = self.node.config
        yield "totem.version", uint32(2)
        yield "totem.cluster_name", string(config.cluster_name)
        yield "totem.transport", string(config.transport)
        yield "totem.ip_version", string(config.ip_version)
        yield "totem.netmtu", uint32(config.netmtu)
        if config.knet is not None:
            yield from self._knet(config.knet)
        times = ("token", "token_retransmit", "hold", "join", "send_join", "consensus", "merge", "downcheck")
        for name in times:
            yield f"runtime.config.totem.{name}", uint32(milliseconds(getattr(config, name)))
        for name in ("token_retransmits_before_loss_const", "window_size", "max_messages", "miss_count_const"):
            yield f"runtime.config.totem.{name}", uint32(getattr(config, name))

    def _knet(self, settings: Knet) -> Iterator[tuple[str, Value]]:
        own = self.node.config.node(self.node.node_id)
        yield "totem.crypto_cipher", string(settings.cipher)
        yield "totem.crypto_hash", string(settings.hash)
        yield "totem.link_mode", string(settings.link_mode)
        runtime = "runtime.config.totem."
        yield runtime + "knet_mtu", uint32(settings.mtu)
        yield runtime + "knet_pmtud_interval", uint32(round(settings.mtu_interval))
        yield runtime + "knet_compression_model", string(settings.compression)
        for link in settings.links:
            prefix = f"totem.interface.{link.number}."
            yield prefix + "bindnetaddr", string(own.address_on(link.number))
            yield prefix + "mcastport", uint32(self.node.config.place_on(own, link.number)[1])
            yield f"runtime.config.{prefix}knet_ping_interval", uint32(milliseconds(link.ping_interval))
            yield f"runtime.config.{prefix}knet_ping_timeout", uint32(milliseconds(link.ping_timeout))

    def _nodelist(self) -> Iterator[tuple[str, Value]]:
        for position, entry in enumerate(self.node.config.nodes):
            prefix = f"nodelist.node.{position}."
            yield prefix + "nodeid", uint32(entry.node_id)
            yield prefix + "name", string(entry.name)
            for link, address in self.node.config.addresses_of(entry):
                yield f"{prefix}ring{link}_addr", string(address)
            yield prefix + "quorum_votes", uint32(entry.votes)
            if entry.node_id == self.node.node_id:
                yield "nodelist.local_node_pos", uint32(position)

    def _quorum(self) -> Iterator[tuple[str, Value]]:
        section, status = self.node.config.quorum, self.node.quorum
        if status is None:
            return
        yield "quorum.provider", string(section.provider)
        if section.expected_votes:
            yield "quorum.expected_votes", uint32(section.expected_votes)
        members = self.node.node_ids
        yield "runtime.votequorum.this_node_id", uint32(self.node.node_id)
        yield "runtime.votequorum.lowest_node_id", uint32(min(members))
        yield "runtime.votequorum.highest_node_id", uint32(max(members))
        yield "runtime.votequorum.two_node", uint8("two_node" in status.options)

    def _runtime(self) -> Iterator[tuple[str, Value]]:
        config = self.node.config
        listed = {entry.node_id: config.addresses_of(entry) for entry in config.nodes}
        for node_id, joins in self._joins.items():
            prefix = f"runtime.members.{node_id}."
            yield prefix + "config_version", uint64(0)
            places = listed.get(node_id, ((0, ""),))
            yield prefix + "ip", string("".join(f"r({link}) ip({address}) " for link, address in places))
            yield prefix + "join_count", uint32(joins)
            yield prefix + "status", string("joined" if node_id in self._members else "left")

    def _statistics(self) -> Iterator[tuple[str, Value]]:
        counted = self.node.statistics()
        for name, value in {
            "orf_token_tx": counted.tokens_sent,
            "orf_token_rx": counted.tokens_received,
            "memb_join_tx": counted.joins_sent,
            "memb_join_rx": counted.joins_received,
            "mcast_tx": counted.multicasts_sent,
            "mcast_retx": counted.retransmits_sent,
            "mcast_rx": counted.multicasts_received,
            "memb_commit_token_tx": counted.commit_tokens_sent,
            "memb_commit_token_rx": counted.commit_tokens_received,
            "operational_entered": counted.rings_installed,
        }.items():
            yield f"stats.srp.{name}", uint64(value)
        yield from self._link_statistics()

    def _link_statistics(self) -> Iterator[tuple[str, Value]]:
        for state in self.node.links if self.node.config.knet is not None else ():
            prefix = f"stats.knet.node{state.node_id}.link{state.link}."
            yield prefix + "enabled", uint8(1)
            yield prefix + "connected", uint8(state.is_up)
            yield prefix + "mtu", uint32(state.room)
            yield prefix + "latency_min", uint32(round(state.shortest * 1e6) if state.samples else _NEVER)
            yield prefix + "latency_max", uint32(round(state.longest * 1e6))
            yield prefix + "latency_ave", uint32(round(state.latency * 1e6))
            yield prefix + "latency_samples", uint32(state.samples)
            yield prefix + "up_count", uint32(state.ups)
            yield prefix + "down_count", uint32(state.downs)
            for way, amounts in (("tx", state.sent), ("rx", state.received)):
                for kind, name in _KINDS.items():
                    amount = amounts[kind]
                    yield f"{prefix}{way}_{name}_packets", uint64(amount.packets)
                    yield f"{prefix}{way}_{name}_bytes", uint64(amount.size)
                yield f"{prefix}{way}_total_packets", uint64(sum(amount.packets for amount in amounts.values()))
                yield f"{prefix}{way}_total_bytes", uint64(sum(amount.size for amount in amounts.values()))


def _changes(old: _Map, new: _Map) -> Iterator[KeyChange]:
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if before is None and after is not None:
            yield KeyChange(ADDED, key, after, _NOTHING)
        elif after is None and before is not None:
            yield KeyChange(DELETED, key, _NOTHING, before)
        elif before is not None and after is not None and before != after:
            yield KeyChange(MODIFIED, key, after, before)


class CmapSession(LibqbSession):
    """One connection."""

    def __init__(self, client: LibqbClient, service: Cmap) -> None:
        super().__init__(client)
        self._service = service
        self._map = DEFAULT_MAP
        self._iterations: dict[int, tuple[Iterator[tuple[str, Value]], int]] = {}
        """What is left of each iteration, and the bytes that it counts for."""
        self._tracks: dict[int, Track] = {}
        self._handles = itertools.count(1)

    def _on_get(self, length: int, name: bytes, room: int) -> bytes:
        value = self._service.values(self._map).get(_text(length, name))
        if value is None:
            return answer(GET, _GOT.pack(0, 0), Code.NOT_EXIST)
        if room > LARGEST - len(answer(GET, _GOT.pack(0, 0))) or 0 < room < len(value.data):
            return answer(GET, _GOT.pack(0, 0), Code.INVALID_PARAM)
        return answer(GET, _GOT.pack(len(value.data), value.kind) + (value.data.ljust(room, b"\0") if room else b""))

    def _on_set(self, length: int, name: bytes, _: int, kind: int, value: int) -> bytes:
        node = self._service.node
        if self._map != DEFAULT_MAP or _text(length, name) != CANCEL_WAIT_FOR_ALL or node.quorum is None:
            return answer(SET, code=Code.ACCESS)
        if kind == uint8(0).kind and value:
            node._announce([Reconfigure(node.node_id, 0, Param.CANCEL_WAIT_FOR_ALL).encode()])
        return answer(SET)

    def _on_iterate(self, length: int, prefix: bytes) -> bytes:
        if len(self._iterations) >= MOST_ITERATIONS:
            return answer(ITERATE, _UINT64.pack(0), Code.NO_RESOURCES)
        begin = _text(length, prefix)
        values: Mapping[str, Value] = self._service.values(self._map)
        found = [(key, value) for key, value in values.items() if key.startswith(begin)]
        cost = ENTRY_COST * len(found)
        if not self.client.keep(cost):
            return answer(ITERATE, _UINT64.pack(0), Code.NO_RESOURCES)
        handle = next(self._handles)
        self._iterations[handle] = iter(found), cost
        return answer(ITERATE, _UINT64.pack(handle))

    def _on_next(self, handle: int) -> bytes:
        iteration = self._iterations.get(handle)
        if iteration is None:
            return answer(NEXT, bytes(_FOUND.size), Code.BAD_HANDLE)
        found = next(iteration[0], None)
        if found is None:
            return answer(NEXT, bytes(_FOUND.size), Code.NO_SECTIONS)
        key, value = found
        return answer(NEXT, _FOUND.pack(len(key), key.encode(), len(value.data), value.kind))

    def _on_iterated(self, handle: int) -> bytes:
        iteration = self._iterations.pop(handle, None)
        if iteration is None:
            return answer(ITERATED, code=Code.BAD_HANDLE)
        self.client.drop(iteration[1])
        return answer(ITERATED)

    def _on_track(self, length: int, name: bytes, kinds: int, own_handle: int) -> bytes:
        code = Code.OK
        if self._map != DEFAULT_MAP:
            code = Code.NOT_SUPPORTED
        elif kinds & ~(DELETED | MODIFIED | ADDED | PREFIX) or not (length or kinds & PREFIX):
            code = Code.INVALID_PARAM
        elif len(self._tracks) >= MOST_ITERATIONS:
            code = Code.NO_RESOURCES
        if code != Code.OK:
            return answer(TRACK, _UINT64.pack(0), code)
        handle = next(self._handles)
        self._tracks[handle] = Track(kinds, _text(length, name), own_handle)
        return answer(TRACK, _UINT64.pack(handle))

    def _on_untrack(self, handle: int) -> bytes:
        track = self._tracks.pop(handle, None)
        if track is None:
            return answer(UNTRACK, _UINT64.pack(0), Code.BAD_HANDLE)
        return answer(UNTRACK, _UINT64.pack(track.handle))

    def _on_set_map(self, which: int) -> bytes:
        if self._iterations or self._tracks:
            return answer(ANSWER_SET_MAP, code=Code.BUSY)
        if which not in (DEFAULT_MAP, STATS_MAP):
            return answer(ANSWER_SET_MAP, code=Code.NOT_EXIST)
        self._map = which
        return answer(ANSWER_SET_MAP)

    requests = {  # noqa: RUF012 - a ClassVar of the base
        SET: (_SET, _on_set),
        DELETE: (_KEY, lambda *_: answer(DELETE, code=Code.ACCESS)),
        GET: (_GET, _on_get),
        ADJUST: (_KEY, lambda *_: answer(ADJUST, code=Code.ACCESS)),
        ITERATE: (_KEY, _on_iterate),
        NEXT: (_HANDLE, _on_next),
        ITERATED: (_HANDLE, _on_iterated),
        TRACK: (_TRACK, _on_track),
        UNTRACK: (_HANDLE, _on_untrack),
        SET_MAP: (_SET_MAP, _on_set_map),
    }

    def on_ring(self, event: RingEvent) -> None:
        """Send the changes of tracked keys."""
        self.on_config()

    def on_config(self) -> None:
        """Send the changes of tracked keys."""
        for track in self._tracks.values():
            self.client.send([_changed(track, change) for change in self._service.changes if track.wants(change)])


def _changed(track: Track, change: KeyChange) -> bytes:
    kind, key, new, old = change
    lengths = (len(new.data), len(old.data))
    head = _CHANGED.pack(track.handle, len(key), key.encode(), kind, new.kind, old.kind, *lengths)
    return answer(CHANGED, head + new.data + old.data)


def _text(length: int, name: bytes) -> str:
    return name[:length].decode("utf-8", "replace")
