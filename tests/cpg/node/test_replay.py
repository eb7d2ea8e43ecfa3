"""The engine in the place of each real node of the captures: it sends in sync what the real node sent.

The order of messages, the configurations and the transitional sets come from the captures. The engine's output is its
own node's downlist and joinlist. So this compares the process list with Corosync's over starts, crashes, restarts,
partitions and merges.
"""

from collections import defaultdict

import pytest

from cpg.node.engine import Engine
from cpg.node.wire import GROUP_A, GROUP_SYNC, Barrier, Downlist, Joinlist, ServiceBuild, decode
from tests.totem.wire.captures import CAPTURES, group_messages, ring_datagrams
from totem.configuration import Guarantee, Level, Messages, RegularConfiguration, RingId, TransitionalConfiguration
from totem.wire import codec
from totem.wire.messages import CommitToken

THROW_AWAY_NODE = {"12": 3, "13": 1, "14": 2}
"""Captures with a node of another make, whose downlists are wrong."""

LEFT_ALONE = {("08", RingId(1, 13)): {1: RingId(1, 9)}}
"""Rings of one that a node did not start with: their commit tokens do not show."""


class Story:
    """A capture as its nodes saw it."""

    def __init__(self, path):
        self.messages = defaultdict(list)
        for message in group_messages(path):
            header = GROUP_A if message.group == b"a" else GROUP_SYNC
            ring_id = RingId(*message.ring_id)
            batch = Messages(message.sender, ring_id, message.seq, Level.AGREED, [header + message.data])
            self.messages[ring_id].append(batch)
        self.old_rings = {}
        """Each member's old ring, by ring."""
        for datagram in ring_datagrams(path):
            if codec.packet_type(datagram.payload) == codec.TYPE_COMMIT_TOKEN:
                self._note(codec.decode(datagram.payload))
        for ring_id, batches in self.messages.items():
            # Other rings of one, and what was before the capture began.
            alone = LEFT_ALONE.get((path.name[:2], ring_id))
            self.old_rings.setdefault(ring_id, alone or {batch.sender: RingId(0, 0) for batch in batches})
        for old in list(self.old_rings.values()):
            for node, ring_id in old.items():
                if ring_id.seq > 1:  # a node that never ran comes with 1, which is no ring
                    self.old_rings.setdefault(ring_id, {}).setdefault(node, RingId(0, 0))

    def _note(self, token):
        assert isinstance(token, CommitToken)
        if all(entry.old_ring_id.representative for entry in token.entries):
            entries = zip(token.members, token.entries, strict=True)
            self.old_rings[token.ring_id] = {node: entry.old_ring_id for node, entry in entries}

    def shows_sync(self, ring_id):
        return any(isinstance(decode(batch.messages[0]), ServiceBuild) for batch in self.messages[ring_id])

    def said(self, node, ring_id):
        return [decode(batch.messages[0]) for batch in self.messages[ring_id] if batch.sender == node]

    def lives(self):
        """Each life of each node: its rings in order, with those who came along into each."""
        for node in sorted({node for old in self.old_rings.values() for node in old}):
            rings = []
            for ring_id in sorted(self.old_rings, key=lambda ring_id: ring_id.seq):
                old = self.old_rings[ring_id]
                if node not in old:
                    continue
                if rings and old[node] != rings[-1][0]:
                    yield node, rings
                    rings = []
                along = tuple(other for other in old if rings and old[other] == rings[-1][0])
                rings.append((ring_id, along))
            yield node, rings


def only(kind, nouns):
    return [noun for noun in nouns if isinstance(noun, kind)]


class Recorded:
    """A processor that only notes what the engine sends in sync."""

    def __init__(self, node_id):
        self.node_id = node_id
        self.said = []
        self.completed = []

    def multicast(self, messages, guarantee=Guarantee.AGREED):
        raise AssertionError("nobody has joined here")

    def multicast_sync(self, messages):
        self.said += map(decode, messages)

    def sync_complete(self, ring_id):
        self.completed.append(ring_id)


def replay(story, node, rings):
    """Run an engine through one life of a node; return what it sent in sync, by ring."""
    processor = Recorded(node)
    engine = Engine(processor)
    for ring_id, along in rings:
        processor.said.clear()
        members = tuple(story.old_rings[ring_id])
        if along:
            engine.deliver([TransitionalConfiguration(engine.ring_id, along, ring_id)])
        engine.deliver([RegularConfiguration(ring_id, members, along, pure=False, features=0)])
        if not story.shows_sync(ring_id):
            nouns = [ServiceBuild(ring_id, (2,)), Barrier(ring_id)]
            engine.deliver(Messages(m, ring_id, 1, Level.AGREED, [n.encode()]) for n in nouns for m in members)
        engine.deliver(story.messages[ring_id])
        yield ring_id, list(processor.said)
        assert engine.synced
        assert not engine.statistics().malformed


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name.removesuffix(".pcap.gz"))
def test_the_engine_says_in_sync_what_the_real_node_said(path):
    story = Story(path)
    for node, rings in story.lives():
        began_before = not story.shows_sync(rings[0][0])
        for ring_id, ours in replay(story, node, rings):
            if not story.shows_sync(ring_id):
                continue
            theirs = story.said(node, ring_id)
            assert only(Barrier, ours) == only(Barrier, theirs)
            if node != THROW_AWAY_NODE.get(path.name[:2]):
                assert only(Downlist, ours) == only(Downlist, theirs)
            if not began_before:  # else it may have processes that the capture does not show
                assert only(Joinlist, ours) == only(Joinlist, theirs)


def test_the_engine_that_an_administrator_names_stops():
    (path,) = (path for path in CAPTURES if path.name.startswith("11"))
    batches = [batch for ring in Story(path).messages.values() for batch in ring]
    failures = {}
    for node in (1, 2, 3):
        engine = Engine(Recorded(node))
        engine.deliver(batches)
        failures[node] = engine.failure
    assert failures[1] is failures[3] is None
    assert failures[2].startswith("an administrator at node 1 ended this node")
