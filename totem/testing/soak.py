"""Random worlds, one for each seed: `python -m totem.testing.soak --seeds 0:1000`.

A world is a cluster that lives through some dozens of random events: messages of all sizes, crashes between any two
steps, restarts, pauses, leaves, partitions, deaf and mute links, storms of loss and delay. Its settings come from the
seed, too, and are often unusually small. In some worlds not all nodes of this package know labels.

Over knet (`--transport knet`) links fail one by one, lose by direction and by size, and change their MTU. In some
worlds packets are signed or encrypted, or compressed, and keys change.

In the end the network heals. Then the nodes must form one ring and deliver what there is. The checkers judge the
traces, in the mixed column where a model of a Corosync node is among the nodes (`--mixed`, see `Neighbour`). Such
worlds have Corosync's own merge timeout and idle count.

The closing line is `N worlds, M membership changes, V violations`; a change is a ring that a process installed. A
violation names its clause, its seed and the command that replays it. Branches of the protocol that a batch should have
reached (`SOMETIMES`) and did not are listed, too.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf
from typing import Protocol

from totem.config import ETHERNET_MTU, Config, Knet, LinkSettings
from totem.configuration import Guarantee, Messages, RegularConfiguration, RingId
from totem.links.crypto import seal_of
from totem.processor import Processor
from totem.testing.checkers import Violation, check
from totem.testing.cluster import AnswerAtOnce, Application, BarrierSync, Cluster, Maker, SimulatedNode, Stamp
from totem.testing.corosync import CorosyncModel
from totem.testing.corosync.knet import KnetModel
from totem.testing.forger import Forger
from totem.testing.history import History, Process
from totem.testing.link_checks import LossWatch, WireWatch, check_paths, is_searching
from totem.testing.network import Conditions, Plane, flip_or_cut, spoil_header
from totem.testing.simulated_links import DELIVERED_TWICE, SimulatedLinks
from totem.transitions import TRANSITIONS, Cause
from totem.wire import codec
from totem.wire.messages import Token

HEALED = Conditions()
_MOST_EVENTS = 1_000_000
_MOST_ANSWERS = 100
_LONGEST_REST = 40.0
"""Seconds within which programs come to rest once everything is healed."""
_MOST_SIZES = 14
"""Sizes that one search for an MTU tries."""
_KEY_CHANGE = 0.2
"""Seconds in which all nodes change their keys."""
_LONGEST_DISCOVERY = 400.0
"""Seconds for which a real node may wait for the answer to one probe that was lost, where packets are sealed."""
_HOMEMADE_DEATH = "no room for a frame"
"""A Corosync node's death when sync messages of many dead rounds have filled its own queue; no other node can help."""
_NEAR_WRAP = (1 << 32) - 100
_SHARE_OF_LIARS = 0.15
_SHARE_OF_NARROW_PORTS = 0.15

SOMETIMES = frozenset(
    f"enter {state.value}: {cause.value}"
    for ways in TRANSITIONS.values()
    for cause, state in ways.items()
    if cause not in (Cause.FAILED, Cause.SYNC_STALLED)
) | {
    "told as safe",
    "told as transitional",
    "messages past a gap",
    "drop repeated token",
    "drop stale join",
    "drop multicast of a former ring",
    "numbers wrapped around",
    "frames behind the token",
    "told with a label",
    "drop implausible ring sequence",
    "drop impossible ring sequence",
    "drop multicast of a non-member",
    "drop node left out for a while",
}
"""What some world of a large batch must reach."""
SOMETIMES_OVER_KNET = frozenset(
    {
        "link up",
        "link down",
        "link carries less",
        "link carries nothing",
        "link dropped: knet packet that has come before",
        "link dropped: sealed otherwise",
        "key changed",
    }
)
"""The same, of what only transport knet has."""


@dataclass(slots=True)
class Outcome:
    """The result of one world."""

    seed: int
    rings: int = 0
    installs: int = 0
    deliveries: int = 0
    virtual_seconds: float = 0.0
    violations: list[Violation] = field(default_factory=list)
    marks: Counter[str] = field(default_factory=Counter)


class Neighbour(CorosyncModel):
    """The model of a real node in random worlds.

    It is without the one fault that loses messages for good, which no other node can repair (docs/trials.md, 9). It
    reports when counters left over from a broken attempt make it install a ring before it has all of the recovery.
    """

    frees_on_repeated_tokens = False

    def _recovery_visit(self, token: Token) -> None:
        super()._recovery_visit(token)
        if self.state.name == "OPERATIONAL" and self.my_aru != token.seq and self._trace is not None:
            self._trace("early", str(self.my_ring_id))


class Programs(Protocol):
    """The programs on the nodes of one world: makes each process's application, and has promises of its own."""

    def __call__(self, node: SimulatedNode) -> Application:
        """Return the application of a new process."""

    def rest(self) -> None:
        """Send nothing more unasked: the world is about to settle."""

    @property
    def busy(self) -> bool:
        """Return whether something is still under way that makes them send."""

    def check(self) -> list[Violation]:
        """Return the violations of their promises."""


class World:
    """One seed's cluster and what happens to it."""

    def __init__(
        self,
        seed: int,
        counts: range,
        makers: Iterable[Maker] = (),
        *,
        programs: Programs | None = None,
        links: range | None = None,
        verbose: bool = False,
    ) -> None:
        """`links`: how many links of transport knet to choose from; None: transport udpu."""
        self.seed = seed
        self._links_dice = random.Random(f"links {seed}")
        self._over_knet = links is not None
        self._key_changed = -inf
        self.dice = dice = random.Random(f"world {seed}")
        self.marks: Counter[str] = Counter()
        self.early: set[tuple[Process, RingId]] = set()
        self.programs = programs
        self.verbose = verbose
        count = dice.choice(counts)
        makers = list(makers)
        self.config = self._choose_config(count, mixed=bool(makers))
        if links is not None:
            self.config = self._put_over_knet(self.config, count, links, mixed=bool(makers))
        self.cluster = Cluster(
            count,
            seed=seed,
            config=self.config,
            conditions=HEALED,
            application=programs or dice.choice((AnswerAtOnce, BarrierSync)),
            makers=self._choose_makers(count, makers),
            first_seq=dice.choice((0, 0, 0, _NEAR_WRAP)),
            first_token_seq=dice.choice((0, 0, 0, _NEAR_WRAP)),
            on_trace=self._on_trace,
        )
        self._choose_extensions(random.Random(f"extensions {seed}"))
        self.cluster.network.limit = _MOST_EVENTS * (3 if self._over_knet else 1)
        if not makers:
            self._slow_down()
        self.pace = dice.choice((0.005, 0.03, 0.1, 0.5)) * self.config.token
        """Mean time between two events."""
        self.safe = dice.choice((0.0, 0.3, 1.0))
        """Share of messages that are sent as SAFE."""
        self._stamps = [Stamp(number) for number in range(4)]
        self._stamper = random.Random(f"stamps {seed}")
        self._forger: Forger | None = None
        self._malice = random.Random(f"malice {seed}")
        self.faults: list[tuple[Callable[[], None], float]] = [
            (self._crash, 1.0),
            (self._partition, 1.5),
            (self._cut_one_way, 0.5),
            (self._thin_multicasts, 0.7),
            (self._pause, 0.7),
            (self._swizzle, 0.3),
            (self._leave, 0.3),
            (self._weather, 1.0),
        ]
        if programs is None:
            self._add_malice(pure=not makers)
        self._wire_watch: WireWatch | None = None
        if links is not None:
            self._wire_watch = WireWatch(self.cluster)
            self.cluster.first_number = self._links_dice.choice((0, 0, 8000, 65400))
            self.pace = self._links_dice.choice((0.03, 0.1, 0.3, 1.0)) * self.config.token
            self.faults += [
                (self._cut_link, 2.0),
                (self._cut_link_one_way, 1.0),
                (self._spoil_link, 1.0),
                (self._shrink_link, 1.0),
                (self._change_mtu, 1.0),
            ]
            if self._is_sealed:
                self.faults.append((self._change_key, 1.0))
        self.cures: list[tuple[Callable[[], None], float]] = [
            (self._start, 2.0),
            (self._resume, 1.0),
            (self._heal, 2.0),
        ]

    def _choose_config(self, count: int, *, mixed: bool) -> Config:
        dice = self.dice
        return Config.for_nodes(
            count,
            token=dice.choice((0.15, 0.2, 0.4)),
            join=dice.choice((0.03, 0.05)),
            send_join=dice.choice((0.0, 0.0, 0.01)),
            merge=0.2 if mixed else dice.choice((0.03, 0.2)),
            netmtu=dice.choice((576, 1500, 1500, 9000)),
            **self._choose_windows(mixed=mixed),
            miss_count_const=dice.choice((1, 5)),
            # Corosync counts idle visits in Recovery, too. With small constants it holds the token there, or announces
            # a ring that its neighbours have not installed yet, and rings disturb each other for ever.
            seqno_unchanged_const=30 if mixed else dice.choice((1, None, 30)),
            fail_recv_const=dice.choice((30, 2500)),
            send_queue_bytes=1 << 20,
        )

    def _put_over_knet(self, config: Config, count: int, links: range, *, mixed: bool) -> Config:
        """Choose links, and how packets are protected."""
        dice = self._links_dice
        token = dice.choice((0.5, 1.0) if mixed else (0.2, 0.4, 1.0))  # libknet looks each 0.2 s
        interval = 0.0 if mixed else dice.choice((0.0, 0.03, 0.05))
        cipher, hash_name = dice.choice((("none", "none"),) * 3 + (("aes256", "sha256"), ("none", "sha256")))
        chosen = Knet(
            links=tuple(
                LinkSettings(
                    number,
                    priority=dice.choice((1, 1, 10)),
                    ping_interval=interval,
                    ping_timeout=dice.choice((3, 6)) * interval,
                    pong_count=2 if mixed else dice.choice((1, 2, 5)),
                )
                for number in range(dice.choice(links))
            ),
            link_mode=dice.choice(("passive", "active", "rr")),
            cipher=cipher,
            hash=hash_name,
            key=dice.randbytes(128) if hash_name != "none" else b"",
            mtu_interval=dice.choice((1.0, 2.0, 5.0)),
            compression=dice.choice(("none", "none", "none", "zlib")),
        )
        settings = {
            name: getattr(config, name)
            for name in (
                *("join", "send_join", "merge", "window_size", "max_messages", "miss_count_const"),
                *("seqno_unchanged_const", "fail_recv_const", "send_queue_bytes"),
            )
        }
        if not config.windows_configured:
            del settings["window_size"], settings["max_messages"]
        # Large frames in copies, over and over to a node that cannot hear them, are more than a simulation can bear.
        netmtu = dice.choice((1500, 1500, 9000, 9000 if chosen.link_mode == "active" else 65536))
        return Config.for_nodes(count, transport="knet", token=token, netmtu=netmtu, knet=chosen, **settings)

    def _choose_extensions(self, dice: random.Random) -> None:
        """Give each extension to all, some or none of this package's nodes, and each node its own accelerated
        window."""
        share = dice.choice((1.0, 1.0, 0.7, 0.0))
        for node in self.cluster.nodes.values():
            window = dice.choice((1, 4, 64, 4096)) if dice.random() < share else 0
            node.config = replace(self.config, accelerated_window=window)
        share = dice.choice((1.0, 1.0, 0.7, 0.0))
        for node in self.cluster.nodes.values():
            node.config = replace(node.config, compact_headers=dice.random() < share)

    def _choose_windows(self, *, mixed: bool) -> dict[str, int]:
        """Choose configured windows, often unusually small ones; or none, where the nodes may choose."""
        window_size, max_messages = self.dice.choice((1, 4, 50, 0, 200)), self.dice.choice((1, 3, 17, 17, 50))
        return {"window_size": window_size, "max_messages": max_messages} if window_size or mixed else {}

    def _slow_down(self) -> None:
        """Make some nodes busy with each datagram for a while, and change how much may wait for them."""
        dice = random.Random(f"labour {self.seed}")
        for node in self.cluster.nodes.values():
            node.socket_buffer = dice.choice((212_992, node.SOCKET_BUFFER, 4 << 20))
            node.labour = dice.choice((0.0, 0.0, 0.00003, 0.0003))

    def _choose_makers(self, count: int, makers: list[Maker]) -> dict[int, Maker]:
        if not makers:
            return {}
        foreign = self.dice.sample(range(1, count + 1), self.dice.randint(1, count - 1))
        return {node_id: self.dice.choice(makers) for node_id in foreign}

    def _add_malice(self, *, pure: bool) -> None:
        """In some worlds add a host that forges datagrams, in some a port that is too narrow for large frames."""
        if self._malice.random() < _SHARE_OF_LIARS:
            self._forger = Forger(self._malice, pure=pure)
        if self._malice.random() < _SHARE_OF_NARROW_PORTS:
            self.faults.append((self._narrow, 1.0))

    # The story.

    def run(self) -> Outcome:
        """Run the random events, heal the network, and judge the traces."""
        violations = []
        try:
            self._live()
            if not self._come_together():
                violations.append(Violation("liveness", f"no common ring that delivers all: {self.cluster}"))
            deaths = [text for text in self.cluster.failures if _HOMEMADE_DEATH not in text]
            violations += [Violation("failure", text) for text in deaths]
        except Exception:  # a bug of ours, of the processor's or of this kit, is a finding as well
            violations.append(Violation("exception", traceback.format_exc()))
        else:
            history = History(self.cluster.traces, quiescent=not violations, early=self.early)
            self._mark(history)
            violations += check(history)
            violations += self.programs.check() if self.programs else []
            if self._wire_watch is not None:
                violations += self._wire_watch.check()
                if twice := self.marks[DELIVERED_TWICE]:
                    violations.append(Violation("links", f"packets were delivered twice: {twice}"))
                violations += [] if violations else self._check_links()
        return self._outcome(violations)

    def _live(self) -> None:
        self._tell(f"{len(self.cluster.nodes)} nodes, {self.config}")
        for node in self.cluster.nodes.values():
            if self.dice.random() < 0.9:
                node.start()
                self.cluster.run_for(self.dice.choice((0.0, 0.001, self.config.token)))
        if self.dice.random() < 0.8:
            limit = 4 * self.config.token + 3 * self._over_knet
            self.cluster.run_until(self.cluster.one_ring, limit, self.config.token / 20)
        happenings = (self._burst, self._fault, self._strike, self._break_attempt, self._cure)
        for _ in range(self.dice.randint(10, 60)):
            self.dice.choices(happenings, (5, 2, 3, 1, 4))[0]()
            if self._forger is not None:
                self._forge(self._forger)
            self.cluster.run_for(self.dice.expovariate(1 / self.pace))

    def _come_together(self) -> bool:
        if self.programs is not None:
            self.programs.rest()  # before a node goes on: programs may make trouble, too
        self._heal()
        for node in self.cluster.nodes.values():
            node.disarm()
            node.resume()
            if not node.running and (self.dice.random() < 0.8 or not self.cluster.running):
                node.start()
        limit = 30 * (self.config.token + self.config.consensus) + self._longest_absence()
        limit += self._longest_discovery()
        if self.programs is None:
            return self.cluster.settle(limit)
        # Settle more than once, because what they wait for may make them send something, and that may change the ring.
        for _ in range(_MOST_ANSWERS):
            if not self.cluster.settle(limit):
                return False
            if not self.programs.busy and self.cluster.settle(limit) and not self.programs.busy:
                return True
            self.cluster.run_for(max(self.config.token, _LONGEST_REST / _MOST_ANSWERS))
        return False

    # What happens.

    def _tell(self, what: str) -> None:
        if self.verbose:
            print(f"{self.cluster.now:10.6f} {what}")

    def _any_running(self) -> SimulatedNode | None:
        running = self.cluster.running
        return self.dice.choice(running) if running else None

    def _some(self) -> list[int]:
        ids = list(self.cluster.nodes)
        return self.dice.sample(ids, self.dice.randint(1, len(ids) - 1))

    def _size(self) -> int:
        dice = self.dice
        kind = dice.random()
        if kind < 0.7:
            return dice.randrange(200)
        if kind < 0.95:
            return dice.randrange(3 * self.config.max_frame)
        frames = min(self.config.window_size, self.config.max_messages)
        if kind < 0.998 or frames < 17:
            return dice.randrange(10 * frames * self.config.max_frame) & 0xFFFFF
        return 1 << 20

    def _burst(self) -> None:
        node = self._any_running()
        if node is None or node.paused:
            return
        for _ in range(self.dice.choice((1, 1, 3, 10))):
            if not node.running:  # its armed crash has struck
                return
            sizes = [self._size() for _ in range(self.dice.choice((1, 1, 2, 8)))]
            guarantee = Guarantee.SAFE if not node.foreign and self.dice.random() < self.safe else Guarantee.AGREED
            if self._stamper.random() < 0.2:
                node.try_send([node.compose(size) for size in sizes], guarantee)
            else:
                stamp = self._stamper.choice(self._stamps)
                payloads = [node.compose(min(size, stamp.largest), b"") for size in sizes]
                node.try_send(payloads, guarantee, stamp)

    def _crash(self) -> None:
        if (node := self._any_running()) is not None:
            steps = self.dice.choice((0, 0, self.dice.randint(1, 10), self.dice.randint(1, 100)))
            self._tell(f"crash {node.node_id} after {steps} steps")
            node.crash(steps)

    def _start(self) -> None:
        down = [node for node in self.cluster.nodes.values() if not node.running]
        if down:
            node = self.dice.choice(down)
            if not node.foreign and self.dice.random() < 0.1:
                self.cluster.lose_store(node.node_id)
            self._tell(f"start {node.node_id}")
            node.start()

    def _leave(self) -> None:
        node = self._any_running()
        if node is not None and not node.paused:
            self._tell(f"leave {node.node_id}")
            node.leave()

    def _pause(self) -> None:
        if (node := self._any_running()) is not None:
            self._tell(f"pause {node.node_id}")
            node.pause()

    def _resume(self) -> None:
        for node in self.cluster.nodes.values():
            if node.paused and self.dice.random() < 0.7:
                self._tell(f"resume {node.node_id}")
                node.resume()

    def _partition(self) -> None:
        ids = list(self.cluster.nodes)
        self.dice.shuffle(ids)
        cuts = sorted({0, len(ids), *(self.dice.randrange(len(ids)) for _ in range(self.dice.choice((1, 1, 2))))})
        groups = [ids[start:end] for start, end in pairwise(cuts)]
        self._tell(f"partition {groups}")
        self.cluster.network.partition(*groups)

    def _cut_one_way(self) -> None:
        sources, targets = self._some(), self._some()
        self._tell(f"cut {sources} to {targets}")
        self.cluster.network.cut(sources, targets)

    def _thin_multicasts(self) -> None:
        """Let some nodes get all tokens, but only some multicasts or none, until the next general healing."""
        victims = self._some() if self.dice.random() < 0.5 else list(self.cluster.nodes)
        chance = self.dice.choice((0.2, 0.5, 0.8, 1.0))
        self._tell(f"lose {chance} of the multicasts to {victims}")

        def swallows(source: int, target: int, datagram: bytes) -> bool:
            is_multicast = len(datagram) > codec.MCAST_HEADER and datagram[3] == codec.TYPE_MCAST
            return is_multicast and target in victims and self.dice.random() < chance

        self.cluster.network.filters.append(swallows)

    def _fault(self) -> None:
        self._choose(self.faults)

    def _cure(self) -> None:
        self._choose(self.cures)

    def _strike(self) -> None:
        """Let something happen while messages are on their way."""
        for _ in range(self.dice.randint(1, 3)):
            self._burst()
        self._run_some(60)
        self._fault()

    def _break_attempt(self) -> None:
        """Let something happen in the middle of forming a ring, or right after it."""
        self.dice.choice((self._strike, self._cure))()
        if self.cluster.run_until(self._is_forming, self.config.token + self.config.consensus, 0.001):
            self._run_some(20 * len(self.cluster.nodes))
            self._tell("break the attempt")
            self._fault()

    def _choose(self, choices: list[tuple[Callable[[], None], float]]) -> None:
        actions, weights = zip(*choices, strict=True)
        self.dice.choices(actions, weights)[0]()

    def _run_some(self, most: int) -> None:
        """Run up to `most` events."""
        for _ in range(self.dice.randrange(most)):
            if self.cluster.network.next_event is not None:
                self.cluster.network.step()

    def _is_forming(self) -> bool:
        return any(node.machine and node.machine.state.name == "RECOVERY" for node in self.cluster.running)

    def _forge(self, forger: Forger) -> None:
        """Send some forged datagrams to some nodes, soon, in whatever state they are then."""
        for _ in range(self._malice.choice((0, 1, 1, 5))):
            node = self._malice.choice(list(self.cluster.nodes.values()))
            self.cluster.network.at(
                self.cluster.now + self._malice.expovariate(1 / self.pace), self._send_forgery, forger, node
            )

    @staticmethod
    def _send_forgery(forger: Forger, node: SimulatedNode) -> None:
        if isinstance(node.machine, Processor) and not node.paused:
            node.receive(forger.forge(node.machine))

    def _narrow(self) -> None:
        """Let a port lose large frames until the next general healing; sometimes long enough to be noticed."""
        port, longest = self.dice.choice(list(self.cluster.nodes)), self.dice.choice((200, 600, 1300))
        self._tell(f"the port of {port} carries no more than {longest} bytes")

        def swallows(source: int, target: int, datagram: bytes) -> bool:
            return port in (source, target) and len(datagram) > longest

        self.cluster.network.filters.append(swallows)
        self._burst()
        self.cluster.run_for(self._malice.choice((0.0, 2.0, 6.0)))

    def _longest_absence(self) -> float:
        """Return the longest time for which a node is still excluded because it did not receive."""
        machines = [node.machine for node in self.cluster.running if isinstance(node.machine, Processor)]
        absences = [
            absence.until
            for machine in machines
            for absent in (machine.left_out.all(), machine.separation.pauses())
            for absence in absent.values()
        ]
        return max([until - self.cluster.now for until in absences] + [0.0])

    # Links of transport knet.

    @property
    def _is_sealed(self) -> bool:
        """Whether any damage is noticed."""
        return self.config.knet is not None and self.config.knet.is_sealed

    def _choose_plane(self) -> tuple[int, Plane]:
        number = self._links_dice.choice(list(self.cluster.planes))
        return number, self.cluster.planes[number]

    def _cut_link(self) -> None:
        number, plane = self._choose_plane()
        ones = self._some()
        others = [node_id for node_id in self.cluster.nodes if node_id not in ones]
        self._tell(f"link {number}: cut {ones} from {others}")
        plane.cut(ones, others)
        plane.cut(others, ones)

    def _cut_link_one_way(self) -> None:
        number, plane = self._choose_plane()
        sources, targets = self._some(), self._some()
        self._tell(f"link {number}: cut {sources} to {targets}")
        plane.cut(sources, targets)

    def _spoil_link(self) -> None:
        dice = self._links_dice
        number, plane = self._choose_plane()
        conditions = Conditions(
            loss=dice.choice((0.05, 0.3, 0.9)), reorder=dice.choice((0.0, 0.2)), duplicate=dice.choice((0.0, 0.2))
        )
        source, target = dice.choice((None, *self.cluster.nodes)), dice.choice((None, *self.cluster.nodes))
        self._tell(f"link {number}: {conditions} from {source or 'all'} to {target or 'all'}")
        plane.set_conditions(conditions, source, target)

    def _shrink_link(self) -> None:
        """Let a link lose what is larger than some size, one way or both, and say nothing."""
        dice = self._links_dice
        number, plane = self._choose_plane()
        longest = dice.choice((200, 548, 1000, 1300))
        node_id = dice.choice(list(self.cluster.nodes))
        self._tell(f"link {number}: {node_id} is heard, and hears, no more than {longest} bytes")
        for way in dice.choice((("source",), ("target",), ("source", "target"))):
            plane.set_conditions(Conditions(longest=longest), **{way: node_id})
        self._burst()
        self.cluster.run_for(dice.choice((0.0, 1.0, 6.0)))

    def _change_mtu(self) -> None:
        dice = self._links_dice
        number, _ = self._choose_plane()
        node = dice.choice(list(self.cluster.nodes.values()))
        node.mtus[number] = dice.choice((576, 1000, 1280, 1500, 9000))
        self._tell(f"link {number}: the MTU of {node.node_id} is {node.mtus[number]}")

    def _check_links(self) -> list[Violation]:
        """Let the links of a settled ring find what they carry, and send something."""
        cluster = self.cluster
        assert self.config.knet is not None
        if any(node.foreign for node in cluster.running) and self._is_sealed:
            return []  # a real node may still wait for the answer to a probe, for minutes
        cluster.run_for(HEALED.straggle_time)  # copies from before would be taken for copies
        # A search that began before may still find that nothing passes.
        cluster.run_until(
            lambda: not is_searching(cluster) and not check_paths(cluster), self._longest_discovery(), 0.5
        )
        violations = check_paths(cluster)
        if violations or self.config.knet.link_mode == "rr" or any(node.labour for node in cluster.running):
            return violations  # with rr frames may come behind the token that names them
        watch = LossWatch(cluster)
        for node in cluster.running:
            node.try_send([node.compose(size) for size in (10, 1000, 5000)])
            cluster.run_for(0.1)
        return watch.check(copies=self.config.knet.link_mode == "active")

    def _longest_discovery(self) -> float:
        """Return the longest time for which links may still be short of what they carry, once everything is healed."""
        knet = self.config.knet
        if knet is None:
            return 0.0
        if not any(node.foreign for node in self.cluster.nodes.values()):
            patience = max(link.ping_timeout for link in knet.links) * (2 if self._is_sealed else 1)
            return knet.mtu_interval + 2 * _MOST_SIZES * patience + 5
        return _LONGEST_DISCOVERY if self._is_sealed else 60

    def _change_key(self) -> None:
        """Change key, cipher and hash as an operator does: first all accept what comes, then all use it."""
        if self.cluster.now < self._key_changed + 2 * _KEY_CHANGE:
            return
        self._key_changed = self.cluster.now
        dice = self._links_dice
        cipher, hash_name = dice.choice((("aes256", "sha256"), ("none", "sha256"), ("aes128", "sha512")))
        key = dice.randbytes(128)
        self._tell(f"change the key: {cipher}, {hash_name}")
        self.marks["key changed"] += 1
        for node in self.cluster.nodes.values():
            knet = node.config.knet
            assert knet is not None
            new = replace(knet, cipher=cipher, hash=hash_name, key=key)
            node.config = replace(node.config, knet=new)
            if node.links is not None:
                node.links.machine.accept(new, seal_of(new, self.cluster.dice.randbytes))
                self.cluster.network.at(self.cluster.now + _KEY_CHANGE / 2 * dice.random(), self._use_key, node.links)
                self.cluster.network.at(self.cluster.now + _KEY_CHANGE, self._drop_key, node.links)

    @staticmethod
    def _use_key(links: SimulatedLinks) -> None:
        links.use_accepted()

    @staticmethod
    def _drop_key(links: SimulatedLinks) -> None:
        if isinstance(links.machine, KnetModel):
            links.machine.drop_former()

    def _heal(self) -> None:
        self._tell("heal")
        for node in self.cluster.nodes.values():
            node.mtus.update(dict.fromkeys(node.mtus, ETHERNET_MTU))
        self.cluster.network.filters.clear()
        self.cluster.network.heal()

    def _swizzle(self) -> None:
        self._tell("swizzle")
        self.cluster.network.swizzle_clog(self.dice.choice((1, 3)) * self.config.token)

    def _weather(self) -> None:
        dice = self.dice
        conditions = Conditions(
            delay=dice.choice((0.0001, 0.0005, 0.003)),
            jitter=dice.choice((0.0, 0.0002, 0.003)),
            loss=dice.choice((0.0, 0.0, 0.01, 0.1, 0.3)),
            duplicate=dice.choice((0.0, 0.0, 0.1)),
            reorder=dice.choice((0.0, 0.0, 0.1)),
            straggle=dice.choice((0.0, 0.0, 0.05)),
            corrupt=dice.choice((0.0, 0.0, 0.05)),
            damage=flip_or_cut if self._is_sealed else spoil_header,
        )
        everywhere = dice.random() < 0.5
        node_id = None if everywhere else dice.choice(list(self.cluster.nodes))
        self._tell(f"{conditions} from {node_id or 'all'}")
        self.cluster.network.set_conditions(conditions, source=node_id)

    # Sums.

    def _on_trace(self, node: SimulatedNode, name: str, what: str) -> None:
        if name == "early" and node.machine is not None:
            self.early.add((node.trace.process, node.machine.ring_id))
            what = "install of a Corosync node"
        if name in ("enter", "drop", "early"):
            self.marks[f"{name} {what}"] += 1
        if self.verbose:
            self._tell(f"  {node.node_id} {name} {what}")

    def _mark(self, history: History) -> None:
        """Look for rare events that only the traces show."""
        for node in self.cluster.running:
            if isinstance(node.machine, Processor):
                self.marks["frames behind the token"] += node.machine.counters.multicasts_behind_token
        self.marks["told with a label"] += self.cluster.labelled
        for links in (self.cluster.link_marks, *(node.links.marks for node in self.cluster.running if node.links)):
            for what, count in links.items():
                self.marks[what if what.startswith("link ") else f"link dropped: {what}"] += count
        for ring in history.rings.values():
            for segment in ring.segments.values():
                last = None
                for part in (segment, segment.transitional):
                    for batch in part.batches if part else ():
                        self.marks[f"told as {batch.level.value}"] += 1
                        self.marks["numbers wrapped around"] += last is not None and batch.seq < last.seq
                        last = batch
                held = segment.community()
                self.marks["messages past a gap"] += held != ring.order[: len(held)]

    def _outcome(self, violations: list[Violation]) -> Outcome:
        outcome = Outcome(self.seed, violations=violations, marks=self.marks, virtual_seconds=self.cluster.now)
        rings = set()
        for trace in self.cluster.traces:
            for event in trace.events:
                if isinstance(event, Messages):
                    outcome.deliveries += len(event.messages)
                elif isinstance(event, RegularConfiguration):
                    rings.add(event.ring_id)
                    outcome.installs += 1
        outcome.rings = len(rings)
        return outcome


@dataclass(frozen=True, slots=True)
class Worlds:
    """Settings that all worlds of one run share."""

    counts: range
    """Numbers of nodes to choose from."""
    mixed: bool = False
    links: range | None = None
    """Numbers of links of transport knet to choose from; None: transport udpu."""
    application: str = ""
    """`MODULE:NAME` of a callable that makes a world's `Programs`; empty for the small ones of this kit."""
    verbose: bool = False

    def run_world(self, seed: int) -> Outcome:
        """Run the world of one seed."""
        makers: list[Maker] = [Neighbour] if self.mixed else []
        programs = None
        if self.application:
            module, _, name = self.application.partition(":")
            programs = getattr(importlib.import_module(module), name)()
        return World(seed, self.counts, makers, programs=programs, links=self.links, verbose=self.verbose).run()

    def run(self, seeds: range, jobs: int = 1) -> Iterator[Outcome]:
        """Run the worlds of many seeds, in any order."""
        if jobs == 1:
            yield from map(self.run_world, seeds)
            return
        with multiprocessing.Pool(jobs) as pool:
            yield from pool.imap_unordered(self.run_world, seeds, chunksize=4)

    def replay(self, seed: int) -> str:
        """Return the command that shows one world again."""
        application = f" --application {self.application}" if self.application else ""
        if self.links is not None:
            application += f" --transport knet --links {self.links[0]}:{self.links[-1]}"
        return (
            f"python -m totem.testing.soak --nodes {self.counts[0]}:{self.counts[-1]}{' --mixed' * self.mixed}"
            f"{application} --verbose --seeds {seed}:{seed + 1}"
        )


class Totals:
    """The sums over a batch, and how they are printed."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.told = self.started
        self.worlds = 0
        self.rings = 0
        self.installs = 0
        self.deliveries = 0
        self.violations = 0
        self.virtual_seconds = 0.0
        self.marks: Counter[str] = Counter()

    def add(self, outcome: Outcome) -> None:
        """Count one world."""
        self.worlds += 1
        self.rings += outcome.rings
        self.installs += outcome.installs
        self.deliveries += outcome.deliveries
        self.violations += len(outcome.violations)
        self.virtual_seconds += outcome.virtual_seconds
        self.marks += outcome.marks

    def tell_progress(self) -> None:
        """Print a line from time to time."""
        now = time.perf_counter()
        if now - self.told >= 5:
            self.told = now
            print(f"{self.line()} so far; {self.rates()}", flush=True)

    def line(self) -> str:
        """Return the closing line."""
        return f"{self.worlds} worlds, {self.rings} membership changes, {self.violations} violations"

    def rates(self) -> str:
        """Return the rates of the run."""
        seconds = time.perf_counter() - self.started
        return (
            f"{self.worlds / seconds:.1f} worlds/s, {self.rings / seconds:.0f} membership changes/s, "
            f"{self.installs / seconds:.0f} installs/s, {self.deliveries / seconds:.0f} deliveries/s, "
            f"{self.virtual_seconds / seconds:.1f} virtual s/s"
        )

    def never(self, *, over_knet: bool) -> list[str]:
        """Return what should have been reached and was not."""
        sometimes = SOMETIMES | SOMETIMES_OVER_KNET if over_knet else SOMETIMES
        return sorted(sometimes - {mark for mark, count in self.marks.items() if count})


def _numbers(text: str) -> range:
    first, colon, end = text.partition(":")
    return range(int(first), int(end) if colon else int(first) + 1)


def _counts(text: str) -> range:
    first, colon, last = text.partition(":")
    return range(int(first), int(last if colon else first) + 1)


def main(arguments: list[str] | None = None) -> int:
    """Run a batch from the command line; return 1 if anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m totem.testing.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=_numbers, default=range(100), metavar="A:B", help="from A to below B")
    parser.add_argument("--nodes", type=_counts, default=range(3, 8), metavar="N|A:B", help="nodes, from A to B (3:7)")
    parser.add_argument("--mixed", action="store_true", help="some of the nodes are models of Corosync")
    parser.add_argument("--transport", choices=("udpu", "knet"), default="udpu", help="what carries the ring (udpu)")
    parser.add_argument(
        "--links", type=_counts, default=range(1, 4), metavar="N|A:B", help="links of transport knet, from A to B (1:3)"
    )
    parser.add_argument("--application", default="", metavar="MODULE:NAME", help="what runs on the nodes, see Programs")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--verbose", action="store_true", help="tell what happens in each world")
    options = parser.parse_args(arguments)
    totals = Totals()
    worlds = Worlds(
        options.nodes,
        mixed=options.mixed,
        links=options.links if options.transport == "knet" else None,
        application=options.application,
        verbose=options.verbose,
    )
    for outcome in worlds.run(options.seeds, 1 if options.verbose else options.jobs):
        totals.add(outcome)
        for violation in outcome.violations[:5]:
            print(f"seed {outcome.seed}: {violation}")
        if outcome.violations:
            print(f"{len(outcome.violations)} violations; replay: {worlds.replay(outcome.seed)}", flush=True)
        totals.tell_progress()
    if totals.worlds >= 1000 and (never := totals.never(over_knet=worlds.links is not None)):
        print(f"never reached: {'; '.join(never)}")
    print(totals.rates())
    print(totals.line())
    return 1 if totals.violations else 0


if __name__ == "__main__":
    sys.exit(main())
