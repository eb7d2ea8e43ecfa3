"""Probing: who hears whom, and how large packets may be, between nodes of ours on transports udpu and udp.

Nodes of ours ping each other, members of one ring or not. Nodes of another make are sent nothing.

A path may carry less than the configuration says: a switch's port, a tunnel. Then large frames are lost and small ones
are not, and the ring stands still though its token moves. So each member looks for the MTU of its path to each other
one, as over knet (`path`). Probes tell the smallest result of their sender, so all members learn the ring's, each way,
and cut their frames to it.

    probing.ping(ours, now)              # these nodes are of ours, as far as is known
    probing.attend(members, now)         # a ring of ours was installed; empty: any other one
    probing.receive(datagram, now)       # whether it was one of these
    probing.advance(now)                 # when `deadline` has come
    for node_id, datagram in probing.take(): ...
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from math import inf
from typing import Final

from totem.config import IP_UDP_HEADERS, MIN_NETMTU, Config, LinkSettings
from totem.hearing import NEITHER, Hearing
from totem.links.path import Path
from totem.links.trials import Trials
from totem.wire import probes

SETTINGS: Final = LinkSettings(ping_interval=0.25, ping_timeout=1.0, pong_count=0)
"""A path is up with the first answer, and down after a second without one."""
SEARCH_INTERVAL: Final = 30.0
"""Seconds between two searches, as over knet."""
PATIENCE: Final = 0.25
"""Seconds for the answer to a probe."""


class Probing:
    """The paths of one node to the others of ours."""

    def __init__(self, config: Config, node_id: int) -> None:
        self.deadline = inf
        """When `advance` is due."""
        self.on_limit: Callable[[int], None] = lambda size: None
        """Called with the largest IP packet that all paths of the ring carry, when that has changed."""
        self.notice: Callable[[str, str], None] = lambda cause, text: None
        """Called with what an operator should know, each time."""
        self.on_hearing: Callable[[int, Hearing, float], None] = lambda node_id, hearing, now: None
        """Called when it changes who hears whom between this node and another one."""
        self.trials = Trials()
        self._node_id = node_id
        self._largest = config.netmtu
        self._headers = IP_UDP_HEADERS[config.ip_family]
        self._nodelist = frozenset(node.node_id for node in config.nodes)
        self._paths: dict[int, Path] = {}
        """To the other nodes of ours."""
        self._ours: Collection[int] = ()
        self._members: frozenset[int] = frozenset()
        """The other members, of a ring of ours alone."""
        self._hearing: dict[int, Hearing] = {}
        """What was said last of each."""
        self._found: dict[int, int] = {}
        """What was found last for each node of the nodelist, in this ring or an earlier one."""
        self._named: dict[int, int] = {}
        """What the operator knows of each node."""
        self._told: dict[int, int] = {}
        """What each node has told of its paths last."""
        self._limit = config.netmtu
        self._outgoing: list[tuple[int, bytes]] = []

    def reconfigure(self, config: Config, now: float) -> None:
        """Take another nodelist, which has all members of the ring."""
        self._nodelist = frozenset(node.node_id for node in config.nodes)
        for known in (self._found, self._named, self._told):
            for node_id in known.keys() - self._nodelist:
                del known[node_id]
        self.ping(self._ours, now)

    def ping(self, ours: Collection[int], now: float) -> None:
        """Ping these nodes, and nobody else, from now on."""
        self._ours = ours
        others = self._nodelist.intersection(ours) - {self._node_id}
        for node_id in self._paths.keys() - others:
            del self._paths[node_id]
            self._say_hearing(node_id, NEITHER, now)
        for node_id in sorted(others - self._paths.keys()):
            self._paths[node_id] = path = Path(
                SETTINGS, fixed_mtu=0, mtu_interval=SEARCH_INTERVAL, patience=PATIENCE, first_backoff=1
            )
            path.start(now)
        self.advance(now)

    def attend(self, members: Collection[int], now: float) -> None:
        """Cut frames to what the paths to these members carry, and to nobody else, from now on."""
        self._members = self._nodelist.intersection(members) - {self._node_id}
        self._set_limit()
        if self._found:
            self._tell()

    def delay(self, seconds: float) -> None:
        """Wait longer for answers, because this process has not listened for a while."""
        for path in self._paths.values():
            path.delay(seconds)
        self._set_deadline()

    def unreachable(self, node_id: int, now: float) -> None:
        """Note that the machine of a node, or one on the way, seems to refuse what is sent to it."""
        if (path := self._paths.get(node_id)) is not None:
            path.suspect(now)
            self.advance(now)

    def advance(self, now: float) -> None:
        """Do what is due."""
        for node_id, moment in self.trials.advance(now):
            self._send(node_id, probes.PING, moment)
        for node_id, path in self._paths.items():
            if path.deadline <= now:
                path.advance(now)
                self._note(node_id, path)
                if (asked := path.due_ping(now)) is not None:
                    self._send(node_id, probes.PING, asked)
                self._probe(node_id, path, now)
                self._note_hearing(node_id, path, now)
        self._set_deadline()

    def watch(self, watched: int, now: float) -> None:
        """Ping this node often from now on, and no other one; 0: none."""
        for node_id, path in self._paths.items():
            path.watch(now, closely=node_id == watched)
        self._set_deadline()

    def try_nodes(self, node_ids: Iterable[int], now: float) -> None:
        """Find out at once whether these nodes answer (`Trials.on_end`)."""
        for node_id in node_ids:
            if node_id in self._nodelist:
                self.trials.begin(node_id, now)
        self.advance(now)

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
            return True
        if said.limit and self._told.get(said.node_id) != said.limit:
            self._told[said.node_id] = max(said.limit, MIN_NETMTU)
            self._set_limit()
        match said.kind:
            case probes.PING:
                self._send(said.node_id, probes.PONG, said.value)
                path.on_ping(now)
            case probes.PONG:
                self.trials.on_pong(said.node_id, said.value, now)
                path.on_pong(said.value, now)
                self._note(said.node_id, path)
                self._probe(said.node_id, path, now)
            case probes.PROBE:
                self._send(said.node_id, probes.REPLY, said.value)
            case probes.REPLY:
                path.on_probe_reply(said.value, now)
                self._note(said.node_id, path)
                self._probe(said.node_id, path, now)
        self._note_hearing(said.node_id, path, now)
        self.deadline = min(self.deadline, path.deadline)  # one that has moved later costs a look
        return True

    def _note_hearing(self, node_id: int, path: Path, now: float) -> None:
        self._say_hearing(node_id, Hearing(path.hears, path.is_up), now)

    def _say_hearing(self, node_id: int, hearing: Hearing, now: float) -> None:
        if self._hearing.get(node_id, NEITHER) != hearing:
            self._hearing[node_id] = hearing
            self.on_hearing(node_id, hearing, now)

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
        for node_id in sorted(self._members):
            self._send(node_id, probes.PONG, 0)

    def _own_limit(self) -> int:
        return min((self._found.get(node_id, self._largest) for node_id in self._members), default=self._largest)

    def _set_limit(self) -> None:
        told = (self._told.get(node_id, self._largest) for node_id in self._members)
        limit = min((self._own_limit(), *told))
        if limit != self._limit:
            self._limit = limit
            self.on_limit(limit)

    def _set_deadline(self) -> None:
        self.deadline = min((path.deadline for path in self._paths.values()), default=inf)
        self.deadline = min(self.deadline, self.trials.deadline)
