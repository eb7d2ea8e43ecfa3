"""Sessions without sockets: requests of real libraries, a full ring, and events that clients cannot get."""

import struct
from collections import Counter
from pathlib import Path

import pytest

from cpg.errors import AlreadyJoined, CorosyncLimit
from cpg.events import Confchg, Member, Quorum, Reason, TotemConfchg, Transitional
from cpg.libcpg.codes import Code
from cpg.libqb.cfg import Cfg
from cpg.libqb.cmap import Cmap
from cpg.libqb.groups import BATCH, EVENT_PIECE, Groups
from cpg.libqb.layout import MalformedRequest
from cpg.libqb.quorum import Quorums
from cpg.libqb.votequorum import Votes
from cpg.node.quorum import NodeVotes, QuorumStatus, Rules, State, Votequorum
from tests.cpg.libqb import client as raw
from tests.cpg.libqb.client import HEADER, join, leave, mcast, name, piece, request
from totem.config import Config, Knet, LinkSettings, NodeEntry
from totem.configuration import Guarantee, Level, RingId
from totem.errors import QueueFull
from totem.links.machine import LinkState
from totem.links.traffic import Amount
from totem.statistics import Counters, Statistics
from totem.wire.knet import DATA, PING, PONG, PROBE

PID = 7
OWN, OTHER = Member(1, PID), Member(2, 9)
RECORDED = [line.split() for line in (Path(__file__).parent / "requests.txt").read_text().splitlines()[1:]]


class FakeMembership:
    """A membership that notes its messages; it may have no room."""

    def __init__(self, name, pid, inbox):
        self.name, self.member, self.inbox = name, Member(1, pid), inbox
        self.sent = []
        self.joined = self.leaving = self.full = False
        self.reason = None

    def send(self, payloads, guarantee):
        if self.full:
            raise QueueFull("no room")
        self.sent.append((list(payloads), guarantee))

    def leave(self, reason=Reason.LEAVE):
        if not self.leaving:
            self.leaving, self.reason = True, reason

    def enter(self):
        self.joined = True
        self.inbox.event(Confchg((self.member,), {}, {self.member: Reason.JOIN}))
        self.inbox.event(TotemConfchg(RingId(1, 8), (1, 2)))


class FakeNode:
    """A node of a ring of two."""

    config = Config.for_nodes(2)
    node_id = 1
    ring_id = RingId(1, 8)
    node_ids = (1, 2)
    quorate = True
    groups = {}  # noqa: RUF012
    links = ()
    refuse = None

    def __init__(self):
        self.members = []
        self.kicks = 0
        self.expected = 2
        self.announced = []
        self._votes = Votequorum(1, Rules())

    @property
    def quorum(self):
        nodes = tuple(NodeVotes(node_id, 1, 2, State.MEMBER) for node_id in (1, 2))
        return QuorumStatus(True, self.expected, 2, 2, 2, ("two_node",), nodes)

    def _admit(self, name, pid, inbox):
        if self.refuse is not None:
            raise self.refuse
        self.members.append(FakeMembership(name, pid, inbox))
        return self.members[-1]

    def _send_soon(self):
        self.kicks += 1

    def _reopen_logs(self):
        pass

    def _announce(self, messages):
        self.announced += messages

    def statistics(self):
        counters = {field: getattr(Counters(), field) for field in Counters.__dataclass_fields__}
        return Statistics(
            **{
                **dict.fromkeys(Statistics.__dataclass_fields__, 0),
                **{key: value for key, value in counters.items() if key in Statistics.__dataclass_fields__},
            }
        )


class FakeClient:
    """A client that notes its events, and whether it was disconnected."""

    buffers = None

    def __init__(self):
        self.events = []
        self.ended = None
        self.memberships = 0
        self.kept = 0

    def may_join(self, name):
        return name != b"reserved"

    def keep(self, size):
        self.kept += size
        return self.kept <= 1 << 20

    def drop(self, size):
        self.kept -= size

    def take_membership(self):
        self.memberships += 1
        return self.memberships <= 1

    def give_membership(self):
        self.memberships -= 1

    def send(self, events):
        self.events += events

    def end(self, reason, why):
        self.ended = why

    def heard(self):
        """Ids of the events since the last time."""
        ids = [HEADER.unpack_from(event)[0] for event in self.events]
        self.events.clear()
        return ids


class FakeBuffers:
    def allocate(self, path):
        return path.startswith("/dev/shm/corosync_zerocopy-")

    def free(self, handle):
        return handle == 1

    def read(self, handle, offset, length):
        return b""


@pytest.fixture
def node():
    return FakeNode()


@pytest.fixture
def client():
    return FakeClient()


@pytest.fixture
def session(node, client):
    return Groups(node).open(client)


@pytest.fixture
def membership(node, session, client):
    """The session has joined "chat"."""
    assert codes(session.take([join(b"chat", PID)])) == [(0, Code.OK)]
    node.members[0].enter()
    client.events.clear()
    return node.members[0]


def codes(answers):
    return [(number, error) for number, _, error in map(HEADER.unpack_from, answers)]


KINDS = {"cpg": Groups, "quorum": Quorums, "votequorum": Votes, "cmap": Cmap, "cfg": Cfg}
EXPECTED = {
    ("cpg", 1): Code.NOT_EXIST,  # they come without what came before them
    ("cpg", 6): Code.LIBRARY,
    ("cpg", 7): Code.LIBRARY,
    ("cpg", 11): Code.NOT_EXIST,
    ("votequorum", 1): Code.INVALID_PARAM,
    ("cmap", 0): Code.ACCESS,
    ("cmap", 1): Code.ACCESS,
    ("cmap", 5): Code.BAD_HANDLE,
    ("cmap", 6): Code.BAD_HANDLE,
    **{("cfg", number): Code.NOT_SUPPORTED for number in (2, 3)},
}


@pytest.mark.parametrize(("service", "number", "recorded"), RECORDED, ids=[f"{row[0]}-{row[1]}" for row in RECORDED])
def test_what_real_libraries_send(node, client, service, number, recorded):
    client.buffers = FakeBuffers()
    answers = KINDS[service](node).open(client).take([bytes.fromhex(recorded)])
    if (service, number) in (("cpg", "2"), ("cfg", "7")):  # they are answered later
        assert answers == []
    else:
        [(_, size, error)] = map(HEADER.unpack_from, answers)
        assert size == len(answers[0])
        assert error == EXPECTED.get((service, int(number)), Code.OK)


def test_every_kind_of_request_was_recorded():
    recorded = {(service, int(number)) for service, number, _ in RECORDED}
    for service, kind in KINDS.items():
        known = set(kind(FakeNode()).open(FakeClient()).requests)
        unused = {"cfg": {0, 1, 4, 10, 11}, "votequorum": {4, *range(5, 10)}, "cmap": {3, 8}}
        assert known - unused.get(service, set()) <= {number for name, number in recorded if name == service}


def test_what_the_ring_has_no_room_for_waits_and_keeps_its_place(node, session, membership):
    membership.full = True
    assert session.take([mcast(b"a"), mcast(b"b"), request(raw.LOCAL_GET), mcast(b"c"), leave(b"chat", PID)]) == []
    assert session.stalled > 0
    assert session.take([request(raw.FINALIZE)]) == []
    assert session.resume() == []
    assert not membership.leaving
    membership.full = False
    assert codes(session.resume()) == [(7, Code.OK), (1, Code.OK), (12, Code.OK)]
    assert session.stalled == 0
    assert membership.sent == [([b"a", b"b"], Guarantee.AGREED), ([b"c"], Guarantee.AGREED)]
    assert membership.leaving


def test_a_message_in_pieces_is_answered_when_the_ring_has_it(session, membership):
    membership.full = True
    assert codes(session.take([piece(b"ab", 4, 1)])) == [(18, Code.OK)]
    assert session.take([piece(b"cd", 4, 3)]) == []
    membership.full = False
    assert codes(session.resume()) == [(18, Code.OK)]
    assert membership.sent == [([b"abcd"], Guarantee.AGREED)]


def test_batches_are_of_one_guarantee_and_bounded(session, membership):
    session.take([mcast(b"a"), mcast(b"b", 1), mcast(b"c", 3), mcast(b"d", 3), mcast(b"e", 2)])
    assert [(sorted(payloads), guarantee) for payloads, guarantee in membership.sent] == [
        ([b"a"], Guarantee.AGREED),
        ([b"b"], Guarantee.AGREED),
        ([b"c", b"d"], Guarantee.SAFE),
        ([b"e"], Guarantee.AGREED),
    ]
    membership.sent.clear()
    session.take([mcast(bytes(60_000))] * 10)
    assert sum(len(payloads) for payloads, _ in membership.sent) == 10
    assert all(sum(map(len, payloads)) <= BATCH + 60_000 for payloads, _ in membership.sent)


def test_multicasts_of_one_that_is_in_no_group_are_dropped(session, node):
    assert session.take([mcast(b"a"), request(raw.LOCAL_GET)]) != []
    session.take([join(b"chat", PID)])
    node.members[0].enter()
    session.take([leave(b"chat", PID), mcast(b"late")])
    assert node.members[0].sent == []


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (AlreadyJoined, Code.TRY_AGAIN),
        (CorosyncLimit, Code.NO_SPACE),
        (ValueError, Code.INVALID_PARAM),
    ],
)
def test_what_the_ring_refuses(session, node, refusal, code):
    node.refuse = refusal("it says why")  # made here, as it keeps the frames alive that it goes through
    assert codes(session.take([join(b"chat", PID)])) == [(0, code)]
    node.refuse = None
    assert codes(session.take([join(b"chat", PID)])) == [(0, Code.OK)]


def test_a_reserved_group_is_not_for_all(session):
    assert codes(session.take([join(b"reserved", PID)])) == [(0, Code.ACCESS)]
    assert codes(session.take([join(b"chat", PID)])) == [(0, Code.OK)]


def test_a_name_that_a_real_node_cannot_stand(session, node):
    node.refuse = CorosyncLimit("127 bytes, no NUL")
    for text in (b"x" * 128, b"a\0b"):
        assert codes(session.take([join(text, PID)])) == [(0, Code.NAME_TOO_LONG)]


def test_a_group_that_has_more_members_than_libcpg_has_room_for(node, client, session, membership):
    crowd = tuple(Member(2, pid) for pid in range(129))
    node.groups = {b"crowd": crowd}
    assert codes(Groups(node).open(client).take([join(b"crowd", PID)])) == [(0, Code.NO_SPACE)]
    [answer] = session.take([request(raw.MEMBERSHIP, name(b"crowd"))])
    assert codes([answer]) == [(3, Code.TOO_BIG)]
    assert answer[HEADER.size :] == bytes(8 + 384 * 24)
    membership.inbox.event(Confchg(crowd[:128], {}, {OTHER: Reason.JOIN}))
    assert client.heard() == [4]
    membership.inbox.event(Confchg(crowd, {}, {OTHER: Reason.JOIN}))
    assert client.heard() == []
    assert client.ended == "its group 'chat' has 129 members; libcpg has room for 128"


def test_a_ring_that_has_more_nodes_than_libcpg_has_room_for(client, session):
    session.on_ring(TotemConfchg(RingId(1, 12), tuple(range(1, 129))))
    assert client.heard() == [13]
    session.on_ring(TotemConfchg(RingId(1, 16), tuple(range(1, 130))))
    assert client.heard() == []


@pytest.mark.parametrize("flags", [0, 1])
def test_the_first_ring_is_sent_to_clients_that_request_it(node, client, session, flags):
    session.take([join(b"chat", PID, flags)])
    node.members[0].enter()
    assert client.heard() == [4] + [13] * flags
    node.members[0].inbox.event(TotemConfchg(RingId(1, 12), (1,)))  # is told to all, by `on_ring`
    assert client.heard() == []


def test_one_that_goes_is_out_of_its_group_and_gets_no_more(client, session, membership):
    session.close()
    assert (membership.leaving, membership.reason) == (True, Reason.PROCDOWN)
    membership.inbox.messages(OWN, Level.AGREED, [b"late"])
    membership.inbox.event(Confchg((), {OWN: Reason.PROCDOWN}, {}))
    assert client.heard() == []


def test_one_that_goes_after_its_leave_has_left(session, membership):
    session.take([leave(b"chat", PID)])
    session.close()
    assert membership.reason is Reason.LEAVE
    assert membership.leaving


def test_messages_keep_their_order_whatever_their_length(client, membership):
    membership.inbox.messages(OTHER, Level.AGREED, [b"a", bytes(EVENT_PIECE + 1), b"", bytes(EVENT_PIECE)])
    sizes = [len(event) for event in client.events]
    assert sizes == [185, 200 + EVENT_PIECE, 201, 184, 184 + EVENT_PIECE]
    assert client.heard() == [5, 17, 17, 5, 5]


def test_a_request_that_is_malformed_changes_nothing(session, membership):
    with pytest.raises(MalformedRequest, match="a multicast of 44 bytes says 45"):
        session.take([mcast(b"good"), mcast(b"bad!!")[:-1]])
    assert membership.sent == []


# ---- quorum, votequorum, cmap


def track(flags):
    return request(1, struct.pack("<I4x", flags))


def test_nodes_that_join_and_leave_a_ring(node, client):
    service = Quorums(node)
    session = service.open(client)
    session.take([request(4, struct.pack("<I4x", 1)), track(4)])
    rings = [  # who stays, who is in the new ring, who joined, who left
        ((1, 2), (1, 2, 3), (3,), ()),
        ((1, 2), (1, 2), (), (3,)),
        ((1,), (1, 2), (2,), (2,)),  # 2 was away unnoticed
    ]
    for staying, members, joined, left in rings:
        for event in (Transitional(staying), TotemConfchg(RingId(1, 12), members)):
            service.on_ring(event)
            session.on_ring(event)
        [event] = client.events
        client.events.clear()
        counts = struct.unpack_from("<I4xI4xI", event, 40)
        assert counts == (len(members), len(joined), len(left))
        assert struct.unpack_from(f"<{sum(counts)}I", event, 60) == members + joined + left


def test_who_tracks_quorum_and_who_does_not(node, client):
    service = Quorums(node)
    session = service.open(client)
    change = Quorum(False, (1,))
    session.on_ring(change)
    assert client.heard() == []
    assert codes(session.take([track(1), track(2), track(2)])) == [(1, Code.OK), (1, Code.OK), (1, Code.EXIST)]
    assert client.heard() == [3, 3, 3]
    session.on_ring(change)
    assert struct.unpack_from("<i4xQII", client.events[0], 24) == (0, 8, 1, 1)
    assert client.heard() == [3]
    session.take([request(2)])
    session.on_ring(change)
    assert client.heard() == []


def test_who_tracks_votes(node, client):
    session = Votes(node).open(client)
    session.take([request(3, struct.pack("<QI4x", 99, 4))])
    session.on_ring(TotemConfchg(RingId(1, 12), (1, 2)))
    session.on_ring(Quorum(True, (1, 2)))
    assert client.heard() == [5, 3]
    node.expected = 3
    session.on_ring(Quorum(True, (1, 2)))
    assert struct.unpack_from("<QI", client.events[1], 24) == (99, 3)
    assert client.heard() == [3, 4]


def test_members_in_cmap(node):
    service = Cmap(node)
    for members in ((1,), (1, 2), (1, 2)):
        service.on_ring(TotemConfchg(RingId(1, 12), members))
    values = service.values(0)
    assert values["runtime.members.1.join_count"].data == struct.pack("<I", 1)
    assert values["runtime.members.2.join_count"].data == struct.pack("<I", 2)
    service.on_ring(TotemConfchg(RingId(1, 16), (1,)))
    assert service.values(0)["runtime.members.2.status"].data == b"left\0"
    assert Counter(key.partition(".")[0] for key in service.values(1)) == {"stats": 10}


@pytest.fixture
def knet(node):
    """The node is one of three over knet, with two links; link 1 to node 2 and all to node 3 are down."""
    nodes = tuple(NodeEntry(k, f"node{k}", f"10.77.0.{k}", 5405, further=((1, f"10.78.0.{k}"),)) for k in (1, 2, 3))
    links = Knet(links=(LinkSettings(0), LinkSettings(1)))
    node.config = Config(nodes=nodes, cluster_name="c", transport="knet", token=1.0, knet=links)
    none = dict.fromkeys((DATA, PING, PONG, PROBE), Amount(0, 0))
    sent = none | {DATA: Amount(5, 4000), PING: Amount(2, 160)}
    received = none | {PROBE: Amount(1, 1423)}
    node.links = tuple(
        LinkState(
            k, link, (k, link) == (2, 0), 5.0, 1500, 1446, 0.000321, 0.0001, 0.0006, 7, 1, 0, True, sent, received
        )
        for k in (2, 3)
        for link in (0, 1)
    )
    return node


def strings(data, size):
    return [data[start : start + size].rstrip(b"\0") for start in range(0, len(data), size)]


def test_links_of_knet_in_cfg(knet, client):
    session = Cfg(knet).open(client)
    (rings,) = session.take([request(0)])
    assert struct.unpack_from("<I", rings, 24) == (2,)
    assert strings(rings[32 : 32 + 2048], 128)[:3] == [b"0 10.77.0.1", b"1 10.78.0.1", b""]
    assert strings(rings[32 + 2048 :], 512)[:3] == [b"n31", b"n11", b""]
    for node_id, expected in ((1, (1, (1, 1, 65535))), (2, (1, (1, 0, 1446))), (3, (0, (0, 0, 1446)))):
        (status,) = session.take([request(9, struct.pack("<I4xI4x", node_id, 1))])
        reachable, (first, second, mtu) = expected
        assert struct.unpack_from("<IIB", status, 24) == (1, node_id, reachable)
        for link, connected in enumerate((first, second)):
            at = 40 + link * 520
            assert struct.unpack_from("<3BxI", status, at) == (1, connected, 0, mtu)
            places = strings(status[at + 8 : at + 520], 256)
            assert places == [f"10.{77 + link}.0.1".encode(), f"10.{77 + link}.0.{node_id}".encode()]
    (addresses,) = session.take([request(5, struct.pack("<I4x", 3))])
    assert struct.unpack_from("<II", addresses, 24) == (2, 2)
    assert strings(addresses[32:], 16) == [b"\x0a\x4d\0\3", b"\x0a\x4e\0\3"]


def test_links_of_udpu(node, client):
    """Each node's own link, where its state is known; nothing in the statistics, which are knet's."""
    session = Cfg(node).open(client)
    for is_up in (True, False):
        node.links = (LinkState(2, 0, is_up, 5.0, 1500, 1472, 0.1, 0.1, 0.1, 7, 1, 0, True, {}, {}),)
        (status,) = session.take([request(9, struct.pack("<I4xI4x", 2, 1))])
        assert struct.unpack_from("<IIB", status, 24) == (1, 2, is_up)
        assert struct.unpack_from("<3B", status, 40) == (1, is_up, 0)
    (rings,) = session.take([request(0)])
    assert strings(rings[32 + 2048 :], 512)[:2] == [b"OK", b""]
    assert not [name for name in Cmap(node).values(1) if name.startswith("stats.knet")]


def test_links_of_knet_in_cmap(knet):
    service = Cmap(knet)
    values, statistics = service.values(0), service.values(1)
    assert values["totem.transport"].data == b"knet\0"
    assert values["nodelist.node.2.ring1_addr"].data == b"10.78.0.3\0"
    assert values["runtime.members.1.ip"].data == b"r(0) ip(10.77.0.1) r(1) ip(10.78.0.1) \0"
    assert values["totem.interface.1.mcastport"].data == struct.pack("<I", 5406)
    assert values["runtime.config.totem.interface.1.knet_ping_timeout"].data == struct.pack("<I", 500)
    prefix = "stats.knet.node2.link0."
    sent = {"data": (5, 4000), "ping": (2, 160), "total": (7, 4160)}
    received = {"pmtu": (1, 1423), "total": (1, 1423)}
    found = {key.removeprefix(prefix): value.data for key, value in statistics.items() if key.startswith(prefix)}
    assert found == {
        "enabled": b"\1",
        "connected": b"\1",
        "mtu": struct.pack("<I", 1446),
        "latency_min": struct.pack("<I", 100),
        "latency_max": struct.pack("<I", 600),
        "latency_ave": struct.pack("<I", 321),
        "latency_samples": struct.pack("<I", 7),
        "up_count": struct.pack("<I", 1),
        "down_count": struct.pack("<I", 0),
    } | {
        f"{way}_{kind}_{what}": struct.pack("<Q", amounts.get(kind, (0, 0))[position])
        for way, amounts in (("tx", sent), ("rx", received))
        for kind in ("data", "ping", "pong", "pmtu", "total")
        for position, what in enumerate(("packets", "bytes"))
    }


def test_links_that_begin_above_zero(knet, client):
    nodes = tuple(
        NodeEntry(k, f"node{k}", f"10.78.0.{k}", 5406, further=((1, f"10.78.0.{k}"), (3, f"10.79.0.{k}")))
        for k in (1, 2, 3)
    )
    links = Knet(links=(LinkSettings(1), LinkSettings(3)))
    knet.config = Config(nodes=nodes, cluster_name="c", transport="knet", knet=links)
    values = Cmap(knet).values(0)
    found = {key: value.data for key, value in values.items() if key.startswith("nodelist.node.0.ring")}
    assert found == {"nodelist.node.0.ring1_addr": b"10.78.0.1\0", "nodelist.node.0.ring3_addr": b"10.79.0.1\0"}
    assert values["runtime.members.1.ip"].data == b"r(1) ip(10.78.0.1) r(3) ip(10.79.0.1) \0"


def test_keys_that_are_tracked(node, client):
    service = Cmap(node)
    session = service.open(client)
    key = struct.pack("<H6x256s", 23, b"runtime.members.2.statu")
    prefix = request(7, key + struct.pack("<i4xQ", 8 | 4 | 2, 99))
    exact = request(7, key + struct.pack("<i4xQ", 4 | 2, 98))
    answers = session.take([prefix, exact, request(9, struct.pack("<i4x", 1))])
    assert codes(answers) == [(7, Code.OK), (7, Code.OK), (10, Code.BUSY)]
    assert codes(session.take([request(7, key + struct.pack("<i4xQ", 16, 1))])) == [(7, Code.INVALID_PARAM)]
    for members, changes in (((1,), [(2, b"left\0joined\0")]), ((1,), []), ((1, 2), [(2, b"joined\0left\0")])):
        event = TotemConfchg(RingId(1, 12), members)
        service.on_ring(event)
        session.on_ring(event)
        assert [(struct.unpack_from("<i", told, 296)[0], told[336:]) for told in client.events] == changes
        assert all(struct.unpack_from("<Q", told, 24) == (99,) for told in client.events)
        client.events.clear()
    handle = answers[0][HEADER.size :]
    assert codes(session.take([request(8, handle), request(8, handle)])) == [(8, Code.OK), (8, Code.BAD_HANDLE)]
