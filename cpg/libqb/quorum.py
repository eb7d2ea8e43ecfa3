"""The service quorum: whether the ring may act for the cluster, and its nodes (exec/vsf_quorum.c).

A client may have one of two models. The first gets quorum; the second also each new ring, with the nodes that joined
and left it, and whole ids of rings.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from cpg.events import Quorum, RingEvent, TotemConfchg, Transitional
from cpg.libcpg.codes import Code
from cpg.libqb.layout import answer, uint32s
from cpg.libqb.session import LibqbClient, LibqbSession, Node
from totem.configuration import RingId

_PLAIN: Final = Struct("<i4xi4x")  # header
_TRACK: Final = Struct("<i4xi4x I4x")  # header, track_flags
_MODEL: Final = Struct("<i4xi4x I4x")  # header, model
_UINT32: Final = Struct("<I4x")
_V0: Final = Struct("<i4x Q I")  # quorate, ring_seq, view_list_entries; the list has no gap before it
_V1: Final = Struct("<i4x I4xQ I")  # quorate, ring_id, view_list_entries
_NODELIST: Final = Struct("<I4xQ I4x I4x I")  # ring_id, member, joined and left list entries

GET_QUORATE, TRACK_START, TRACK_STOP, GET_TYPE, MODEL_GET_TYPE = range(5)
ANSWER_GET_QUORATE, ANSWER_TRACK_START, ANSWER_TRACK_STOP, NOTIFICATION, ANSWER_GET_TYPE = range(5)
ANSWER_MODEL_GET_TYPE, QUORUM_NOTIFICATION, NODELIST_NOTIFICATION = range(5, 8)

CURRENT, CHANGES, CHANGES_ONLY = 1, 2, 4  # CS_TRACK_*
FREE, SET = 0, 1  # QUORUM_FREE: no provider


class Quorums:
    """The service."""

    name = "quorum"

    def __init__(self, node: Node) -> None:
        self.node = node
        self.joined: tuple[int, ...] = ()
        """Nodes that joined with the last ring,"""
        self.left: tuple[int, ...] = ()
        """and those that left: a node that was away unnoticed has done both."""
        self._members = node.node_ids
        self._staying = set(node.node_ids)

    def open(self, client: LibqbClient) -> QuorumSession:
        """Open a connection."""
        return QuorumSession(client, self)

    def on_ring(self, event: RingEvent) -> None:
        """Find the nodes that joined and left."""
        if isinstance(event, Transitional):
            self._staying = set(event.node_ids)
        elif isinstance(event, TotemConfchg):
            self.left = tuple(node_id for node_id in self._members if node_id not in self._staying)
            stayed = self._staying.intersection(self._members)
            self.joined = tuple(node_id for node_id in event.node_ids if node_id not in stayed)
            self._members = event.node_ids
            self._staying = set(event.node_ids)


class QuorumSession(LibqbSession):
    """One connection."""

    def __init__(self, client: LibqbClient, service: Quorums) -> None:
        super().__init__(client)
        self._service = service
        self._node = service.node
        self._model = 0
        self._tracking = False

    def _on_get_quorate(self) -> bytes:
        return answer(ANSWER_GET_QUORATE, _UINT32.pack(self._node.quorate))

    def _on_track_start(self, flags: int) -> bytes:
        node = self._node
        if flags & (CURRENT | CHANGES):
            self._send_nodes(node.ring_id, node.node_ids, (), ())
            self._send_quorum(Quorum(node.quorate, node.node_ids))
        if self._tracking:
            return answer(ANSWER_TRACK_START, code=Code.EXIST)
        self._tracking = bool(flags & (CHANGES | CHANGES_ONLY))
        return answer(ANSWER_TRACK_START)

    def _on_track_stop(self) -> bytes:
        self._tracking = False
        return answer(ANSWER_TRACK_STOP)

    def _on_get_type(self) -> bytes:
        return answer(ANSWER_GET_TYPE, _UINT32.pack(self._type()))

    def _on_model_get_type(self, model: int) -> bytes:
        if model not in (0, 1):
            return answer(ANSWER_MODEL_GET_TYPE, _UINT32.pack(self._type()), Code.INVALID_PARAM)
        self._model = model
        return answer(ANSWER_MODEL_GET_TYPE, _UINT32.pack(self._type()))

    def _type(self) -> int:
        return FREE if self._node.quorum is None else SET

    requests = {  # noqa: RUF012 - a ClassVar of the base
        GET_QUORATE: (_PLAIN, _on_get_quorate),
        TRACK_START: (_TRACK, _on_track_start),
        TRACK_STOP: (_PLAIN, _on_track_stop),
        GET_TYPE: (_PLAIN, _on_get_type),
        MODEL_GET_TYPE: (_MODEL, _on_model_get_type),
    }

    def on_ring(self, event: RingEvent) -> None:
        """Send the change to a client that tracks it."""
        if not self._tracking:
            return
        if isinstance(event, TotemConfchg):
            self._send_nodes(event.ring_id, event.node_ids, self._service.joined, self._service.left)
        elif isinstance(event, Quorum):
            self._send_quorum(event)

    def _send_nodes(
        self, ring_id: RingId, members: tuple[int, ...], joined: tuple[int, ...], left: tuple[int, ...]
    ) -> None:
        if self._model == 1:
            head = _NODELIST.pack(*ring_id, len(members), len(joined), len(left))
            self.client.send([answer(NODELIST_NOTIFICATION, head + uint32s((*members, *joined, *left)) + bytes(4))])

    def _send_quorum(self, quorum: Quorum) -> None:
        representative, seq = self._node.ring_id
        quorate, members = quorum
        if self._model == 1:
            head = _V1.pack(quorate, representative, seq, len(members))
            self.client.send([answer(QUORUM_NOTIFICATION, head + uint32s(members) + bytes(4))])
        else:
            head = _V0.pack(quorate, seq, len(members))
            self.client.send([answer(NOTIFICATION, head + uint32s(members) + bytes(4))])
