"""Probing: how large packets may be between members of a ring of ours alone, on transports udpu and udp.

A path may carry less than the configuration says: a switch's port, a tunnel. Then large frames are lost and small ones
are not, and the ring stands still though its token moves. So each member looks for the MTU of its path to each other
one, as over knet (`path`). Probes tell the smallest result of their sender, so all members learn the ring's, each way,
and cut their frames to it.

    probing.attend(members, now)         # a ring of ours was installed; empty: any other one
    probing.receive(datagram, now)       # whether it was one of these
    probing.advance(now)                 # when `deadline` has come
    for node_id, datagram in probing.take(): ...
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import inf
from typing import Final

from totem.config import IP_UDP_HEADERS, MIN_NETMTU, Config, LinkSettings
from totem.links.path import Path
from totem.wire import probes

SETTINGS: Final = LinkSettings(ping_interval=5.0, ping_timeout=12.0, pong_count=0)
"""A path is up with the first answer. The interval is long, because only the MTU is looked for."""
SEARCH_INTERVAL: Final = 30.0
"""Seconds between two searches, as over knet."""
PATIENCE: Final = 0.25
"""Seconds for the answer to a probe."""


class Probing:
    """The paths of one node to the members of its ring."""

    def __init__(self, config: Config, node_id: int) -> None:
        self.deadline = inf
        """When `advance` is due."""
        self.on_limit: Callable[[int], None] = lambda size: None
        """Called with the largest IP packet that all paths of the ring carry, when that has changed."""
        self.notice: Callable[[str, str], None] = lambda cause, text: None
        """Called with what an operator should know, each time."""
        self._node_id = node_id
        self._largest = config.netmtu
        self._headers = IP_UDP_HEADERS[config.ip_family]
        self._nodelist = frozenset(node.node_id for node in config.nodes)
        self._paths: dict[int, Path] = {}
        """To the other members of the ring."""
        self._found: dict[int, int] = {}
        """What was found last for each node of the nodelist, in this ring or an earlier one."""
        self._named: dict[int, int] = {}
        """What the operator knows of each node."""
        self._told: dict[int, int] = {}
        """What each node has told of its paths last."""
        self._limit = config.netmtu
        self._outgoing: list[tuple[int, bytes]] = []

    def reconfigure(self, config: Config) -> None:
        """Take another nodelist, which has all members of the ring."""
        self._nodelist = frozenset(node.node_id for node in config.nodes)
        for known in (self._found, self._named, self._told):
            for node_id in known.keys() - self._nodelist:
                del known[node_id]

    def attend(self, members: Collection[int], now: float) -> None:
        """Look at the paths to these members, and to nobody else, from now on."""
        others = self._nodelist.intersection(members) - {self._node_id}
        self._paths = {node_id: self._new_path(now) for node_id in sorted(others)}
        self._set_limit()
        if self._found:
            self._tell()
        self.advance(now)

    def _new_path(self, now: float) -> Path:
        path = Path(SETTINGS, fixed_mtu=0, mtu_interval=SEARCH_INTERVAL, patience=PATIENCE)
        path.start(now)
        return path

    def advance(self, now: float) -> None:
        """Do what is due."""
        for node_id, path in self._paths.items():
            if path.deadline <= now:
                path.advance(now)
                self._note(node_id, path)
                if (asked := path.due_ping(now)) is not None:
                    self._send(node_id, probes.PING, asked)
                self._probe(node_id, path, now)
        self._set_deadline()

    def take(self) -> list[tuple[int, bytes]]:
        """Return what is to be sent, each with its target, and start afresh."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def receive(self, datagram: bytes, now: float) -> bool:
        """Take a datagram, if it is one of these; return whether it is."""
        said = probes.decode(datagram)
        if said is None:
            return False
        path = self._paths.get(said.node_id)
        if path is None:
            return True  # its ring is another one
        if said.limit and self._told.get(said.node_id) != said.limit:
            self._told[said.node_id] = max(said.limit, MIN_NETMTU)
            self._set_limit()
        match said.kind:
            case probes.PING:
                self._send(said.node_id, probes.PONG, said.value)
                path.heed(now)
            case probes.PONG:
                path.on_pong(said.value, now)
                self._note(said.node_id, path)
                self._probe(said.node_id, path, now)
            case probes.PROBE:
                self._send(said.node_id, probes.REPLY, said.value)
            case probes.REPLY:
                path.on_probe_reply(said.value, now)
                self._note(said.node_id, path)
                self._probe(said.node_id, path, now)
        self.deadline = min(self.deadline, path.deadline)  # one that has moved later costs a look
        return True

    def _send(self, node_id: int, kind: int, value: int, length: int = 0) -> None:
        own = self._own_limit() if self._found else 0
        self._outgoing.append((node_id, probes.ProbePacket(kind, self._node_id, own, value).encode(length)))

    def _probe(self, node_id: int, path: Path, now: float) -> None:
        while (size := path.due_probe()) is not None:
            path.sent_probe(now)
            if size > self._largest:
                path.refused(self._largest, now)  # as a machine with this MTU would
            else:
                self._send(node_id, probes.PROBE, size, size - self._headers)

    def _note(self, node_id: int, path: Path) -> None:
        """Take what is known of a path by now."""
        if path.mtu and (path.has_lost or not path.is_searching) and self._found.get(node_id) != path.mtu:
            self._found[node_id] = path.mtu
            self._set_limit()
            self._tell()
        if path.is_searching or not path.mtu or self._named.get(node_id, self._largest) == path.mtu:
            return
        self._named[node_id] = path.mtu
        if path.mtu < self._largest:
            self.notice(
                f"narrow path to {node_id}",
                f"packets of {self._largest} bytes (netmtu) do not reach node {node_id}, the largest that do have "
                f"{path.mtu}: all nodes of the ring cut their frames to that. Have the links on the way carry "
                f"{self._largest} bytes, or set netmtu to {path.mtu} at all nodes",
            )

    def _tell(self) -> None:
        """Tell all members what the own paths carry, in answers to no ping."""
        for node_id in self._paths:
            self._send(node_id, probes.PONG, 0)

    def _own_limit(self) -> int:
        return min((self._found.get(node_id, self._largest) for node_id in self._paths), default=self._largest)

    def _set_limit(self) -> None:
        told = (self._told.get(node_id, self._largest) for node_id in self._paths)
        limit = min((self._own_limit(), *told))
        if limit != self._limit:
            self._limit = limit
            self.on_limit(limit)

    def _set_deadline(self) -> None:
        self.deadline = min((path.deadline for path in self._paths.values()), default=inf)
