"""Programs that join, send and leave groups at random: an application for simulated clusters.

`Programs` runs on every node of a `totem.testing.cluster.Cluster` (pass it as `application`), with an `Engine` there,
and records the events of each membership. At the end `check` checks all of them, those of crashed programs included::

    programs = Programs()
    cluster = Cluster(3, seed=7, application=programs)
    ...
    programs.rest()
    assert cluster.settle() and programs.check() == []

The checkers of the ring require that no two messages are equal. So each names the start of the node that sent it, and
has its own number: messages to groups in the payload, others in the padding of the exec header, which nobody reads.

The programs act when their node gets a delivery, so a world is as busy as its ring. After each start a node acts a
limited number of times, so that rings come to rest. A node that starts again uses the same process ids again. The
worlds' own messages, which are none of the executive layer's, are ignored.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from cpg.errors import CorosyncLimit
from cpg.events import Member
from cpg.node.engine import Engine
from cpg.node.membership import LocalMembership
from cpg.node.quorum import Rules, Votequorum
from cpg.node.wire import GROUP_A, GROUP_SYNC
from cpg.testing.checkers import Record, check
from totem.configuration import Delivery, Guarantee
from totem.errors import QueueFull
from totem.labels import Envelope, with_headers

if TYPE_CHECKING:
    from totem.testing.checkers import Violation
    from totem.testing.cluster import SimulatedNode

NAMES: Final = (b"chat", b"lock", bytes(range(1, 128)))
SIZES: Final = (0, 3, 3, 30, 30, 300, 3000)
MOST_DEEDS: Final = 150


class Programs:
    """The programs of a whole cluster, and their events."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.foreign: set[int] = set()
        """Nodes of another make."""
        self.voters = 0
        """Number of the cluster's nodes, where each has one vote."""
        self.resting = False

    def __call__(self, node: SimulatedNode) -> NodePrograms:
        """Start a node's programs."""
        self.voters = len(node.cluster.config.nodes)
        if node.foreign:
            self.foreign.add(node.node_id)
        return NodePrograms(node, self)

    def rest(self) -> None:
        """Send nothing more, so that everything that was sent can arrive."""
        self.resting = True

    busy = False
    """The programs answer nothing."""

    def check(self) -> list[Violation]:
        """Return everything that is wrong."""
        return check(self.records, foreign=self.foreign, voters=self.voters)


class Numbered:
    """A node, as the transport of an engine, that makes each message different from all others.

    With `labels`, messages of groups go as payloads, and their senders make them different.
    """

    def __init__(self, node: SimulatedNode, *, labels: bool = False) -> None:
        self.node_id = node.node_id
        self.sync_complete = node.sync_complete
        self._node = node
        self._labels = labels
        self._count = 0

    def multicast(
        self, messages: Sequence[bytes], guarantee: Guarantee = Guarantee.AGREED, envelope: Envelope | None = None
    ) -> None:
        """Queue messages."""
        if envelope is not None and self._labels:
            self._node.multicast(messages, guarantee, envelope)
            return
        if envelope is not None:
            messages = with_headers(messages, envelope)
        self._node.multicast([self._number(message, len(GROUP_A)) for message in messages], guarantee)

    def multicast_sync(self, messages: Sequence[bytes]) -> None:
        """Queue messages of sync."""
        self._node.multicast_sync(
            [self._number(message, len(GROUP_A if message.startswith(GROUP_A) else GROUP_SYNC)) for message in messages]
        )

    def _number(self, message: bytes, header: int) -> bytes:
        """Write the sender and a number into the two paddings, 4 bytes behind 4 each."""
        self._count += 1
        name = (self.node_id << 8 | self._node.incarnation).to_bytes(4, "little")
        count = self._count.to_bytes(4, "little")
        return b"".join((message[: header + 4], name, message[header + 8 : header + 12], count, message[header + 16 :]))


class NodePrograms:
    """The programs of one life of one node."""

    def __init__(self, node: SimulatedNode, programs: Programs) -> None:
        rules, _ = Rules.of(node.cluster.config, node.node_id)
        self.engine = Engine(Numbered(node, labels=True), votes=Votequorum(node.node_id, rules))
        self._programs = programs
        self._dice = random.Random(node.cluster.dice.getrandbits(64))
        self._eagerness = self._dice.choice((0.05, 0.3, 1.0))
        self._deeds = self._dice.randrange(MOST_DEEDS)
        self._memberships: list[tuple[LocalMembership, Record]] = []
        self._pids = 0
        self._incarnation = node.incarnation
        self._sent = 0
        self._foreign = node.foreign

    def on_delivery(self, delivery: Delivery) -> None:
        """Give the engine the delivery, then perhaps do something."""
        self.engine.deliver([delivery])
        if self._deeds and not self._programs.resting and self._dice.random() < self._eagerness:
            self._deeds -= 1
            self._act()

    def _act(self) -> None:
        self._memberships = [entry for entry in self._memberships if not entry[0].left]
        deed = self._dice.random()
        if deed < 0.15 or not self._memberships:
            self._join()
        elif deed < 0.25:
            self._dice.choice(self._memberships)[0].leave()
        else:
            self._send(*self._dice.choice(self._memberships))

    def _join(self) -> None:
        self._pids += 1
        record = Record(self._dice.choice(NAMES), Member(self.engine.node_id, self._pids))
        try:
            membership = self.engine.join(record.name, self._pids, record)
        except CorosyncLimit:
            return
        self._memberships.append((membership, record))
        self._programs.records.append(record)

    def _send(self, membership: LocalMembership, record: Record) -> None:
        if membership.leaving:
            return
        guarantee = Guarantee.AGREED if self._foreign else self._dice.choice(tuple(Guarantee))
        payloads = [self._compose() for _ in range(self._dice.choice((1, 1, 2, 10)))]
        try:
            membership.send(payloads, guarantee)
        except QueueFull:
            return
        record.sent += payloads

    def _compose(self) -> bytes:
        """Return a payload that is equal to no other."""
        self._sent += 1
        return b"%d.%d " % (self._incarnation, self._sent) + bytes(self._dice.choice(SIZES))
