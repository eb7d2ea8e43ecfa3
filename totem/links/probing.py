"""Probing: who hears whom, and how large packets may be, between nodes of ours on transports udpu and udp.

Nodes of ours ping each other, members of one ring or not. Nodes of another make are sent nothing.

Pings that nothing depends on are *beats*: the other's next beat answers them, so that there is one datagram for each
path, direction and interval. All of a node leave together, and soon after those of the others: a node whose own are due
soon sends them with the first that it receives. So a node wakes a few times in an interval, however many nodes there
are. Where an answer is overdue, or a path is down, or a machine has refused something, pings are answered at once.

A path may carry less than the configuration says: a switch's port, a tunnel. Then large frames are lost and small ones
are not, and the ring stands still though its token moves. So each member looks for the MTU of its path to each other
one, as over knet (`path`). Probes tell the smallest result of their sender, so all members learn the ring's, each way,
and cut their frames to it.

    probing.ping(ours, now)              # these nodes are of ours, as far as is known
    probing.attend(members, now)         # a ring of ours was installed; empty: any other one
    probing.receive(datagram, now)       # whether it was one of these
    probing.unreachable(node_id, now)    # a machine has refused what was sent to a node
    probing.advance(now)                 # when `deadline` has come
    for node_id, datagram in probing.take(): ...
    for change in probing.take_changes(): ...
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from math import inf
from typing import Final

from totem.config import IP_UDP_HEADERS, MIN_NETMTU, Config, LinkSettings
from totem.exclusions import Exclusions
from totem.hearing import NEITHER, Hearing
from totem.links.machine import LinkChange, LinkState
from totem.links.path import Path, PathChange
from totem.links.pieces import Pieces, cut
from totem.links.trials import Trials
from totem.wire import probes
from totem.wire.probes import ProbePacket

SETTINGS: Final = LinkSettings(ping_interval=0.25, ping_timeout=1.0, pong_count=0)
"""A path is up with the first answer, and down after a second without one."""
DOUBT: Final = 0.5
"""Seconds without an answer after which pings follow each other quickly."""
EARLY: Final = 0.4
"""Share of the time between two beats by which one leaves earlier, to leave with others. Less than half, so that those
to a node that is watched do not make all others more frequent."""
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
"""Seconds after a refusal in which no other one counts, at first and at most: each time twice as long."""
SEARCH_INTERVAL: Final = 30.0
"""Seconds between two searches for the MTU, as over knet."""
PATIENCE: Final = 0.25
"""Seconds for the answer to a probe."""
LINK: Final = 0
"""The number of the only link."""


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
        self.on_whole: Callable[[bytes, float], None] = lambda datagram, now: None
        """Called with a datagram of totem that has come in pieces."""
        self.narrow: dict[int, int] = {}
        """Bytes of the longest datagram on each path that carries less than the configuration says, by node."""
        self._number = 0
        self._pieces: dict[int, Pieces] = {}
        self._node_id = node_id
        self._largest = config.netmtu
        self._headers = IP_UDP_HEADERS[config.ip_family]
        self._nodelist = frozenset(node.node_id for node in config.nodes)
        self._ours: Collection[int] = ()
        self._paths: dict[int, Path] = {}
        """To the other nodes that are of ours."""
        self._former: dict[int, Path] = {}
        """To those of the nodelist that have been of ours."""
        self._members: frozenset[int] = frozenset()
        """The other members, of a ring of ours alone."""
        self._came: dict[int, tuple[int, float]] = {}
        """The moment that each node's last ping or beat told, and when that came."""
        self._hearing: dict[int, Hearing] = {}
        """What was said last of each."""
        self._found: dict[int, int] = {}
        """What was found last for each node of the nodelist, in this ring or an earlier one."""
        self._named: dict[int, int] = {}
        """What the operator knows of each node."""
        self._told: dict[int, int] = {}
        """What each node has told of its paths last."""
        self._limit = config.netmtu
        self._early = inf
        """When beats may leave with others, at the earliest."""
        self._pauses = Exclusions[int](FIRST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE)
        """Of nodes whose machines' refusals do not count now."""
        self._outgoing: list[tuple[int, bytes]] = []
        self._changes: list[LinkChange] = []

    def reconfigure(self, config: Config, now: float) -> None:
        """Take another nodelist, which has all members of the ring."""
        self._nodelist = frozenset(node.node_id for node in config.nodes)
        self.ping(self._ours, now)
        for known in (self._former, self._found, self._named, self._told):
            for node_id in known.keys() - self._nodelist:
                del known[node_id]
        self._changes = [change for change in self._changes if change.node_id in self._nodelist]
        self._outgoing = [(node_id, datagram) for node_id, datagram in self._outgoing if node_id in self._nodelist]

    def ping(self, ours: Collection[int], now: float) -> None:
        """Ping these nodes, and nobody else, from now on."""
        self._ours = ours
        others = self._nodelist.intersection(ours) - {self._node_id}
        for node_id in self._paths.keys() - others:
            self._former[node_id] = path = self._paths.pop(node_id)
            self._came.pop(node_id, None)
            self._pieces.pop(node_id, None)
            self._pauses.forget(node_id)
            self.narrow.pop(node_id, None)
            self._note_change(node_id, path, path.stop(now))
            self._say_hearing(node_id, NEITHER, now)
        for node_id in sorted(others - self._paths.keys()):
            former = self._former.pop(node_id, None)
            self._paths[node_id] = path = former or self._new_path(now)
            path.resume(now)
        self.trials.keep(self._paths)
        self.advance(now)

    def _new_path(self, now: float) -> Path:
        path = Path(
            SETTINGS, fixed_mtu=0, mtu_interval=SEARCH_INTERVAL, patience=PATIENCE, first_backoff=1, doubt=DOUBT
        )
        path.start(now)
        return path

    def attend(self, members: Collection[int], now: float) -> None:
        """Cut frames to what the paths to these members carry, and to nobody else, from now on."""
        self._members = self._nodelist.intersection(members) - {self._node_id}
        self._set_limit()
        if self._found:
            self._tell()

    def check(self, now: float) -> None:
        """Look at once whether the paths carry what they did: a ring of ours stalls."""
        for node_id, path in self._paths.items() if self._members else ():
            path.check(now)
            self._probe(node_id, path, now)
        self._set_deadline()

    def states(self) -> tuple[LinkState, ...]:
        """Return the links to all other nodes of ours, by node; those that have left are down."""
        known = self._paths | self._former
        return tuple(self._state(node_id, known[node_id]) for node_id in sorted(known))

    def state(self, node_id: int) -> LinkState:
        """Return the link to a node that is or was of ours."""
        return self._state(node_id, self._path(node_id))

    def _path(self, node_id: int) -> Path:
        return self._paths.get(node_id) or self._former[node_id]

    def _state(self, node_id: int, path: Path) -> LinkState:
        mtu = path.mtu or path.last_mtu
        room = mtu - self._headers if mtu else 0
        times = (path.latency, path.shortest, path.longest)
        numbers = (path.samples, path.ups, path.downs)
        return LinkState(node_id, LINK, path.is_up, path.since, path.mtu, room, *times, *numbers, path.hears, {}, {})

    def paths(self, node_id: int) -> dict[int, Path]:
        """Return the only path to a node that is or was of ours, as `Links.paths` does."""
        return {LINK: self._path(node_id)}

    def delay(self, seconds: float) -> None:
        """Wait longer for answers, because this process has not listened for a while."""
        for path in self._paths.values():
            path.delay(seconds)
        self._set_deadline()

    def unreachable(self, node_id: int, now: float) -> None:
        """Note that the machine of a node, or one on the way, seems to refuse what is sent to it."""
        path = self._paths.get(node_id)
        if path is not None and not self._pauses.has(node_id, now):
            self._pauses.add(node_id, now)
            path.suspect(now)
            self.advance(now)

    def advance(self, now: float) -> None:
        """Do what is due."""
        for node_id, moment in self.trials.advance(now):
            self._send(ProbePacket(probes.PING, self._node_id, 0, moment), node_id)
        pinged = False
        for node_id, path in self._paths.items():
            if path.deadline <= now:
                self._note(node_id, path, path.advance(now))
                pinged |= self._ping(node_id, path, now)
                self._probe(node_id, path, now)
                self._note_hearing(node_id, path, now)
        if pinged:
            self._ping_all(now)
        self._set_deadline()

    def watch(self, watched: int, now: float) -> None:
        """Ping this node often from now on, and no other one; 0: none."""
        for node_id, path in self._paths.items():
            path.watch(now, closely=node_id == watched)
        self._set_deadline()

    def try_nodes(self, node_ids: Iterable[int], now: float) -> None:
        """Find out at once whether these nodes answer (`Trials.on_end`)."""
        for node_id in node_ids:
            if node_id in self._paths:
                self.trials.begin(node_id, now)
        self.advance(now)

    def take(self) -> list[tuple[int, bytes]]:
        """Return what is to be sent, each with its target, and start afresh."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def take_changes(self) -> list[LinkChange]:
        """Return what has become of links, and start afresh."""
        changes, self._changes = self._changes, []
        return changes

    def receive(self, datagram: bytes, now: float) -> bool:
        """Take a datagram, if it is one of these; return whether it is."""
        said = probes.decode(datagram)
        if said is None:
            return self._receive_piece(datagram, now)
        node_id = said.node_id
        path = self._paths.get(node_id)
        if path is None:
            return True
        if said.limit and self._told.get(node_id) != said.limit:
            self._told[node_id] = max(said.limit, MIN_NETMTU)
            self._set_limit()
        match said.kind:
            case probes.BEAT:
                self._on_beat(said, path, now)
            case probes.PING:
                self._came[node_id] = said.value, now
                self._send(ProbePacket(probes.PONG, self._node_id, 0, said.value), node_id)
                path.on_ping(now)
            case probes.PONG:
                self.trials.on_pong(node_id, said.value, now)
                self._note(node_id, path, path.on_pong(said.value, now))
            case probes.PROBE:
                self._send(ProbePacket(probes.REPLY, self._node_id, 0, said.value), node_id)
            case probes.REPLY:
                self._note(node_id, path, path.on_probe_reply(said.value, now))
        self._probe(node_id, path, now)
        self._note_hearing(node_id, path, now)
        self.deadline = min(self.deadline, path.deadline)  # one that has moved later costs a look
        return True

    def _receive_piece(self, datagram: bytes, now: float) -> bool:
        said = probes.decode_piece(datagram)
        if said is None:
            return False
        if said.node_id in self._paths:
            whole = self._pieces.setdefault(said.node_id, Pieces()).add(said, now)
            if whole is not None and not whole.startswith(probes.MAGIC):
                self.on_whole(whole, now)
        return True

    def cut(self, node_id: int, train: Iterable[bytes]) -> list[bytes]:
        """Return frames as they go to a node on a narrow path: those that it does not carry in pieces."""
        room = self.narrow[node_id]
        datagrams: list[bytes] = []
        for frame in train:
            if len(frame) <= room:
                datagrams.append(frame)
            else:
                self._number = (self._number + 1) % 2**32
                datagrams += cut(frame, self._number, self._node_id, room)
        return datagrams

    def _on_beat(self, said: ProbePacket, path: Path, now: float) -> None:
        self._came[said.node_id] = said.value, now
        path.on_ping(now)
        if said.answers:
            self._note(said.node_id, path, path.on_pong(said.answers, now, said.held))
        if now >= self._early:
            self._ping_all(now)
            self._set_deadline()

    def _ping_all(self, now: float) -> None:
        """Send beats that are due soon together with one that was due."""
        for node_id, path in self._paths.items():
            self._ping(node_id, path, now, EARLY)

    def _ping(self, node_id: int, path: Path, now: float, share: float = 0.0) -> bool:
        """Ping a node if that is due; return whether it was with a beat."""
        asked = path.due_ping(now, share)
        if asked is None:
            return False
        if path.needs_answer(now):
            self._send(ProbePacket(probes.PING, self._node_id, 0, asked), node_id)
            return False
        answers, came = self._came.get(node_id, (0, now))
        self._send(ProbePacket(probes.BEAT, self._node_id, 0, asked, answers, now - came), node_id)
        return True

    def _send(self, packet: ProbePacket, node_id: int, length: int = 0) -> None:
        if self._found:
            packet = packet._replace(limit=self._own_limit())
        self._outgoing.append((node_id, packet.encode(length)))

    def _note_hearing(self, node_id: int, path: Path, now: float) -> None:
        self._say_hearing(node_id, Hearing(path.hears, path.is_up), now)

    def _say_hearing(self, node_id: int, hearing: Hearing, now: float) -> None:
        if self._hearing.get(node_id, NEITHER) != hearing:
            self._hearing[node_id] = hearing
            self.on_hearing(node_id, hearing, now)

    # ---- the MTU

    def _probe(self, node_id: int, path: Path, now: float) -> None:
        while (size := path.due_probe()) is not None:
            path.sent_probe(now)
            if size > self._largest:
                path.refused(self._largest, now)  # as a machine with this MTU would
            else:
                self._send(ProbePacket(probes.PROBE, self._node_id, 0, size), node_id, size - self._headers)

    def _note(self, node_id: int, path: Path, change: PathChange | None) -> None:
        """Take what has become of a path, and what is known of it by now."""
        self._note_change(node_id, path, change)
        if path.mtu and (path.has_lost or not path.is_searching) and self._found.get(node_id) != path.mtu:
            self._found[node_id] = path.mtu
            self.narrow.pop(node_id, None)
            if path.mtu < self._largest:
                self.narrow[node_id] = path.mtu - self._headers
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

    def _note_change(self, node_id: int, path: Path, change: PathChange | None) -> None:
        if change is not None:
            self._changes.append(LinkChange(node_id, LINK, change, path.mtu, path.lasted))

    def _tell(self) -> None:
        """Tell all members what the own paths carry, in answers to no ping."""
        for node_id in sorted(self._members):
            self._send(ProbePacket(probes.PONG, self._node_id, 0, 0), node_id)

    def _own_limit(self) -> int:
        found = min((self._found.get(node_id, self._largest) for node_id in self._members), default=self._largest)
        return max(found, MIN_NETMTU)  # over a path that is narrower still, frames go in pieces

    def _set_limit(self) -> None:
        told = (self._told.get(node_id, self._largest) for node_id in self._members)
        limit = min((self._own_limit(), *told))
        if limit != self._limit:
            self._limit = limit
            self.on_limit(limit)

    def _set_deadline(self) -> None:
        paths = self._paths.values()
        self.deadline = min((self.trials.deadline, *[path.deadline for path in paths]))
        self._early = min([path.early_ping(EARLY) for path in paths], default=inf)
