"""The service cfg: the state of the node's links, the addresses of nodes, reload, and new log files (exec/cfg.c).

Other orders of an administrator (shutdown, the end of another node) are answered NOT_SUPPORTED.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from struct import Struct
from typing import Final

from cpg.events import RingEvent
from cpg.libcpg.codes import Code
from cpg.libqb.layout import answer
from cpg.libqb.session import LibqbClient, LibqbSession, Node
from totem.config import MCAST_HEADER, NodeEntry

_PLAIN: Final = Struct("<i4xi4x")  # header
_NODE: Final = Struct("<i4xi4x I4x")  # header, nodeid
_NODE_STATUS: Final = Struct("<i4xi4x I4x I4x")  # header, nodeid, version
_UINT32: Final = Struct("<I4x")
_RINGS: Final = Struct("<I4x 2048s 8192s")  # interface_count, interface_name: 16 of 128, interface_status: 16 of 512
_STATUS: Final = Struct("<II 6B2x")
#   struct corosync_cfg_node_status_v1: version, nodeid, reachable, remote, external, onwire_min, _max, _ver
_LINK: Final = Struct("<3Bx I 256s256s")  # enabled, connected, dynconnected, mtu, src_ipaddr, dst_ipaddr
_ADDRESSES: Final = Struct("<II")  # family, num_addrs; the addresses follow
_NAME_BYTES: Final = 128
_STATUS_BYTES: Final = 512
_ADDRESS_BYTES: Final = 16

RING_STATUS, RING_REENABLE, KILL_NODE, TRY_SHUTDOWN, REPLY_TO_SHUTDOWN, GET_NODE_ADDRESSES = range(6)
LOCAL_GET, RELOAD, REOPEN_LOGS, NODE_STATUS, TRACK_START, TRACK_STOP = range(6, 12)
ANSWER_RING_STATUS, ANSWER_GET_NODE_ADDRESSES, ANSWER_LOCAL_GET, ANSWER_NODE_STATUS = 0, 11, 12, 16
ANSWER_TRACK_START, ANSWER_TRACK_STOP, ANSWER_RELOAD, ANSWER_REOPEN_LOGS = 2, 3, 14, 15
NOT_SUPPORTED: Final = {
    RING_REENABLE: 1,
    KILL_NODE: 8,
    TRY_SHUTDOWN: 9,
    REPLY_TO_SHUTDOWN: 13,
}
"""Requests, and the ids of their answers."""

VERSION: Final = 1  # CFG_NODE_STATUS_V1
MOST_LINKS: Final = 8
OWN_MTU: Final = 65535
"""The MTU of a node's link to itself, in Corosync over knet."""
FAMILIES: Final = {4: 2, 6: 10}  # AF_INET, AF_INET6


class Cfg:
    """The service."""

    name = "cfg"

    def __init__(self, node: Node) -> None:
        self.node = node

    def open(self, client: LibqbClient) -> CfgSession:
        """Open a connection."""
        return CfgSession(client, self.node)

    def on_ring(self, event: RingEvent) -> None:
        """Do nothing: clients query."""


def _refuse(answer_id: int) -> Callable[..., bytes]:
    return lambda _: answer(answer_id, code=Code.NOT_SUPPORTED)


class CfgSession(LibqbSession):
    """One connection."""

    def __init__(self, client: LibqbClient, node: Node) -> None:
        super().__init__(client)
        self._node = node

    def _on_ring_status(self) -> bytes:
        numbers = self._node.config.link_numbers
        own = self._node.config.node(self._node.node_id)
        names = b"".join(f"{link} {own.address_on(link)}".encode().ljust(_NAME_BYTES, b"\0") for link in numbers)
        status = b"".join(self._status(link).ljust(_STATUS_BYTES, b"\0") for link in numbers)
        return answer(ANSWER_RING_STATUS, _RINGS.pack(len(numbers), names, status))

    def _status(self, number: int) -> bytes:
        """Return the state of a link: as Corosync over knet a character for each node, 1 enabled, 3 connected too."""
        node = self._node
        if node.config.knet is None:
            return b"OK"
        up = {link.node_id: link.is_up for link in node.links if link.link == number}
        listed = sorted(entry.node_id for entry in node.config.nodes)
        return b"".join(b"n" if node_id == node.node_id else b"3" if up[node_id] else b"1" for node_id in listed)

    def _on_node_status(self, node_id: int, version: int) -> bytes:
        if version != VERSION:
            return answer(ANSWER_NODE_STATUS, _UINT32.pack(version), Code.NOT_SUPPORTED)
        config = self._node.config
        listed = [entry for entry in config.nodes if entry.node_id == node_id]
        if config.knet is not None:
            links = {link: self._link(entry, link) for entry in listed for link in config.link_numbers}
            reachable = any(is_up for is_up, _ in links.values())
        else:
            # To a node of this package there is a link whose state is known; of any other one, whether it is a member.
            up = {link.node_id: link.is_up for link in self._node.links}
            reachable = up.get(node_id, node_id in self._node.node_ids)
            # As Corosync over udpu: the one link comes from the requested node, and leads nowhere;
            # and its MTU is without the bytes that frames need for themselves.
            mtu = config.netmtu - 2 * MCAST_HEADER
            only = [_LINK.pack(1, reachable, 0, mtu, entry.address.encode(), b"") for entry in listed]
            links = dict(enumerate((reachable, link) for link in only))
        status = _STATUS.pack(VERSION, node_id, reachable, 0, 0, 0, 0, 0)
        every = b"".join(links.get(link, (False, bytes(_LINK.size)))[1] for link in range(MOST_LINKS))
        return answer(ANSWER_NODE_STATUS, status + every)

    def _link(self, entry: NodeEntry, number: int) -> tuple[bool, bytes]:
        """Return whether a link to a node is up, and what is answered of it."""
        node = self._node
        source = node.config.node(node.node_id).address_on(number).encode()
        place = source, entry.address_on(number).encode()
        if entry.node_id == node.node_id:
            return True, _LINK.pack(1, 1, 0, OWN_MTU, *place)
        state = next(state for state in node.links if (state.node_id, state.link) == (entry.node_id, number))
        return state.is_up, _LINK.pack(1, state.is_up, 0, state.room, *place)

    def _on_get_node_addresses(self, node_id: int) -> bytes:
        try:
            entry = self._node.config.node(node_id or self._node.node_id)
        except KeyError:
            return answer(ANSWER_GET_NODE_ADDRESSES, _ADDRESSES.pack(0, 0) + bytes(_ADDRESS_BYTES), Code.NOT_EXIST)
        addresses = [ip_address(entry.address_on(link)) for link in self._node.config.link_numbers]
        head = _ADDRESSES.pack(FAMILIES[addresses[0].version], len(addresses))
        packed = b"".join(address.packed.ljust(_ADDRESS_BYTES, b"\0") for address in addresses)
        return answer(ANSWER_GET_NODE_ADDRESSES, head + packed)

    def _on_local_get(self) -> bytes:
        return answer(ANSWER_LOCAL_GET, _UINT32.pack(self._node.node_id))

    def _on_reload(self) -> None:
        self.task = self._reload

    async def _reload(self) -> bytes:
        """Reload everywhere. As at Corosync the answer is whether it was done here; why not is in the log."""
        is_done = await self._node._try_reload_everywhere()
        return answer(ANSWER_RELOAD, code=Code.OK if is_done else Code.INVALID_PARAM)

    def _on_reopen_logs(self) -> bytes:
        self._node._reopen_logs()
        return answer(ANSWER_REOPEN_LOGS)

    def _on_track_start(self) -> bytes:
        return answer(ANSWER_TRACK_START)  # no event follows: shutdowns are not requested here

    def _on_track_stop(self) -> bytes:
        return answer(ANSWER_TRACK_STOP)

    requests = {  # noqa: RUF012 - a ClassVar of the base
        RING_STATUS: (_PLAIN, _on_ring_status),
        NODE_STATUS: (_NODE_STATUS, _on_node_status),
        GET_NODE_ADDRESSES: (_NODE, _on_get_node_addresses),
        LOCAL_GET: (_PLAIN, _on_local_get),
        RELOAD: (_PLAIN, _on_reload),
        REOPEN_LOGS: (_PLAIN, _on_reopen_logs),
        TRACK_START: (_PLAIN, _on_track_start),
        TRACK_STOP: (_PLAIN, _on_track_stop),
        **{request: (_PLAIN, _refuse(reply)) for request, reply in NOT_SUPPORTED.items()},
    }
