"""The service votequorum: the votes of the nodes, and an administrator's changes of them (exec/votequorum.c).

We have no quorum device.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from cpg.events import Quorum, RingEvent, TotemConfchg
from cpg.libcpg.codes import Code
from cpg.libqb.layout import answer, uint32s
from cpg.libqb.quorum import CHANGES, CHANGES_ONLY, CURRENT
from cpg.libqb.session import LibqbClient, LibqbSession, Node
from cpg.node.quorum import NodeVotes, Param, QuorumStatus, State, Votequorum
from cpg.node.wire import Reconfigure
from totem.configuration import RingId

_PLAIN: Final = Struct("<i4xi4x")  # header
_GET_INFO: Final = Struct("<i4xi4x I4x")  # header, nodeid
_SET_EXPECTED: Final = Struct("<i4xi4x I4x")  # header, expected_votes
_SET_VOTES: Final = Struct("<i4xi4x II")  # header, votes, nodeid
_TRACK: Final = Struct("<i4xi4x Q I4x")  # header, context, track_flags
_INFO: Final = Struct("<9I 255s 5x")
#   nodeid, state, votes, expected_votes, highest_expected, total_votes, quorum, flags, qdevice_votes, qdevice_name
_QUORUM: Final = Struct("<I4x Q I4x")  # quorate, context, node_list_entries
_NODE: Final = Struct("<II")  # struct votequorum_node: nodeid, state
_NODELIST: Final = Struct("<Q I4xQ I4x")  # context, ring_id, node_list_entries
_EXPECTED: Final = Struct("<Q I4x")  # context, expected_votes

GET_INFO, SET_EXPECTED, SET_VOTES, TRACK_START, TRACK_STOP = range(5)
DEVICE_REQUESTS: Final = range(5, 10)
STATUS, ANSWER_GET_INFO, _, QUORUM_NOTIFICATION, EXPECTED_NOTIFICATION, NODELIST_NOTIFICATION = range(6)

IS_QUORATE: Final = 2
OPTIONS: Final = {
    "two_node": 1,
    "wait_for_all": 4,
    "last_man_standing": 8,
    "auto_tie_breaker": 16,
    "allow_downscale": 32,
}
STATES: Final = {State.MEMBER: 1, State.DEAD: 2, State.LEAVING: 3}


class Votes:
    """The service, of a ring with a quorum provider only."""

    name = "votequorum"

    def __init__(self, node: Node) -> None:
        self.node = node

    def open(self, client: LibqbClient) -> VotesSession:
        """Open a connection."""
        return VotesSession(client, self.node)

    def on_ring(self, event: RingEvent) -> None:
        """Do nothing: the sessions send the event."""


class VotesSession(LibqbSession):
    """One connection."""

    def __init__(self, client: LibqbClient, node: Node) -> None:
        super().__init__(client)
        self._node = node
        self._tracking = False
        self._context = 0
        self._expected = self._status().expected_votes

    def _status(self) -> QuorumStatus:
        status = self._node.quorum
        assert status is not None, "the service is not offered without a quorum provider"
        return status

    def _count(self) -> Votequorum:
        count = self._node._votes
        assert count is not None, "the service is not offered without a quorum provider"
        return count

    def _on_get_info(self, node_id: int) -> bytes:
        status = self._status()
        wanted = node_id or self._node.node_id
        for node in status.nodes:
            if node.node_id == wanted:
                return answer(ANSWER_GET_INFO, _info(status, node))
        return answer(ANSWER_GET_INFO, bytes(_INFO.size), Code.NOT_EXIST)

    def _on_track_start(self, context: int, flags: int) -> bytes:
        if flags & (CURRENT | CHANGES):
            self._send_nodes(context, self._node.ring_id, self._node.node_ids)
            self._send_quorum(context)
        if self._tracking:
            return answer(STATUS, code=Code.EXIST)
        self._tracking = bool(flags & (CHANGES | CHANGES_ONLY))
        self._context = context
        return answer(STATUS)

    def _on_track_stop(self) -> bytes:
        code = Code.OK if self._tracking else Code.NOT_EXIST
        self._tracking = False
        return answer(STATUS, code=code)

    def _on_set_expected(self, votes: int) -> bytes:
        if not self._count().may_expect(votes):
            return answer(STATUS, code=Code.INVALID_PARAM)
        self._node._announce([Reconfigure(self._node.node_id, votes, Param.EXPECTED_VOTES).encode()])
        return answer(STATUS)

    def _on_set_votes(self, votes: int, node_id: int) -> bytes:
        if node_id not in (node.node_id for node in self._status().nodes):
            return answer(STATUS, code=Code.NAME_NOT_FOUND)
        if not self._count().may_have(node_id, votes):
            return answer(STATUS, code=Code.INVALID_PARAM)
        self._node._announce([Reconfigure(node_id, votes, Param.NODE_VOTES).encode()])
        return answer(STATUS)

    def _on_device(self) -> bytes:
        return answer(STATUS, code=Code.NOT_SUPPORTED)

    requests = {  # noqa: RUF012 - a ClassVar of the base
        GET_INFO: (_GET_INFO, _on_get_info),
        TRACK_START: (_TRACK, _on_track_start),
        TRACK_STOP: (_PLAIN, _on_track_stop),
        SET_EXPECTED: (_SET_EXPECTED, _on_set_expected),
        SET_VOTES: (_SET_VOTES, _on_set_votes),
        **dict.fromkeys(DEVICE_REQUESTS, (_PLAIN, _on_device)),
    }

    def on_ring(self, event: RingEvent) -> None:
        """Send the change to a client that tracks it."""
        if not self._tracking:
            return
        if isinstance(event, TotemConfchg):
            self._send_nodes(self._context, event.ring_id, event.node_ids)
        elif isinstance(event, Quorum):
            self._send_quorum(self._context)
            expected = self._status().expected_votes
            if expected != self._expected:
                self._expected = expected
                self.client.send([answer(EXPECTED_NOTIFICATION, _EXPECTED.pack(self._context, expected))])

    def _send_nodes(self, context: int, ring_id: RingId, members: tuple[int, ...]) -> None:
        head = _NODELIST.pack(context, *ring_id, len(members))
        self.client.send([answer(NODELIST_NOTIFICATION, head + uint32s(members))])

    def _send_quorum(self, context: int) -> None:
        status = self._status()
        nodes = b"".join(_NODE.pack(node.node_id, STATES[node.state]) for node in status.nodes)
        head = _QUORUM.pack(status.quorate, context, len(status.nodes))
        self.client.send([answer(QUORUM_NOTIFICATION, head + nodes)])


def _info(status: QuorumStatus, node: NodeVotes) -> bytes:
    flags = IS_QUORATE * status.quorate + sum(OPTIONS[option] for option in status.options)
    return _INFO.pack(
        node.node_id,
        STATES[node.state],
        node.votes,
        node.expected_votes,
        status.highest_expected,
        status.total_votes,
        status.quorum,
        flags,
        0,
        b"",
    )
