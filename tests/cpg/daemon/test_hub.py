"""The hub and the sessions, without sockets: on rings in virtual time with faults, and against hostile clients."""

import contextlib
import random
import tracemalloc

import pytest
import trio
from trio.testing import MockClock

import cpg
from cpg.client.ipc import Kind, Packed, Reader, Wish, event_of, head, link_of, pack, send_head
from cpg.client.session import Session
from cpg.daemon.hub import Hub
from cpg.daemon.server import ServedRing
from cpg.local.access import Access
from cpg.payloads import split
from cpg.testing import World
from totem.configuration import Guarantee
from totem.errors import QueueFull

NAMES = [b"a", b"b"]


class Record:
    """The events of one membership, message by message (an inbox)."""

    def __init__(self):
        self.events = []

    def messages(self, sender, level, payloads):
        self.events += [cpg.Message(sender, payload, level) for payload in payloads]

    def event(self, event):
        self.events.append(event)


class Wire:
    """A session and its client at the hub; the test carries the records between them."""

    def __init__(self, hub, pid, uid=0):
        self.session = Session()
        self.client = hub.connect(pid, uid, uid)
        self.session.greet("test")
        self.hub = hub
        self.waits = False

    def move(self):
        """Carry all records, both ways; a request that waits is tried again the next time."""
        while self.session.writer.has_records() and not self.waits:
            self.client.receive(self.session.writer.record())
            self.waits = self.client.work() is not None
        if self.waits:
            self.waits = self.client.work() is not None
        while self.client.writer.has_records():
            self.session.receive(self.client.record())

    def cut(self):
        """End the connection."""
        self.hub.disconnect(self.client)


class Machine:
    """One node: its daemon's hub, clients, and a witness of each group beside them."""

    def __init__(self, ring, node, dice):
        self.ring = ring
        self.node = node
        self.dice = dice
        self.hub = Hub(ring, access=Access())
        ring._observe(self.hub.ring_event)
        self.wires = []
        self.records = []
        """(process id, group, record, whether it is still connected) of all memberships that ever were."""
        self.pids = 100
        self.witnesses = {name: Record() for name in NAMES}
        for number, (name, record) in enumerate(self.witnesses.items()):
            ring._admit(name, number, record)

    def act(self):
        """Do one of the things that programs do."""
        match self.dice.randrange(20):
            case 0 | 1 | 2 if len(self.wires) < 6:
                self.pids += 1
                wire = Wire(self.hub, self.pids)
                record = Record()
                name = self.dice.choice(NAMES)
                wire.membership = wire.session.join(name, record)
                self.wires.append(wire)
                self.records.append((self.pids, name, record, wire))
            case 3 if self.wires:
                self.dice.choice(self.wires).membership.leave()
            case 4 if self.wires:
                self.wires.pop(self.dice.randrange(len(self.wires))).cut()
            case _ if self.wires:
                membership = self.dice.choice(self.wires).membership
                lengths = self.dice.choices([0, 1, 64, 5000, 200_000], k=self.dice.randint(1, 5))
                if not membership.leaving:
                    payloads = [self.dice.randbytes(length) for length in lengths]
                    with contextlib.suppress(QueueFull):
                        for batch in split(payloads):
                            membership.send(batch, self.dice.choice(list(Guarantee)))
        for wire in self.wires:
            wire.move()
        self.ring._send_soon()

    def judge(self):
        """Each client got what the witness of its group got, from its own join to its own leave."""
        for pid, name, record, wire in self.records:
            member = cpg.Member(self.node, pid)
            stream = self.witnesses[name].events
            begin = place_of(stream, "joined", member)
            events = record.events
            if begin is None:
                assert not events
                continue
            end = place_of(stream, "left", member)
            wanted = [stream[begin], *ring_at(stream[:begin]), *stream[begin + 1 : None if end is None else end + 1]]
            assert events == wanted[: len(events)], (pid, name)
            if wire in self.wires:
                assert len(events) == len(wanted), (pid, name)


def ring_at(stream):
    """Return the events of the ring that a program gets at its join: the last ones, in their order."""
    ring = []
    for event in stream:
        match event:
            case cpg.TotemConfchg():
                ring = [event]
            case cpg.Quorum():
                ring = [e for e in ring if type(e) is not cpg.Quorum] + [event]
            case cpg.Transitional():
                ring.append(event)
    return ring


def place_of(stream, change, member):
    """Return the place where a member joined or left."""
    return next(
        (place for place, e in enumerate(stream) if type(e) is cpg.Confchg and member in getattr(e, change)), None
    )


@pytest.mark.parametrize("seed", range(12))
def test_clients_get_what_their_node_is_delivered(seed):
    trio.run(world_of_clients, seed, clock=MockClock(autojump_threshold=0))


async def world_of_clients(seed):
    world = World(3, seed=seed)
    dice = random.Random(seed)
    async with (
        world.open_ring(1, ServedRing) as one,
        world.open_ring(2, ServedRing) as two,
        world.open_ring(3, ServedRing) as three,
    ):
        machines = [Machine(ring, node, dice) for node, ring in enumerate((one, two, three), 1)]
        for step in range(200):
            dice.choice(machines).act()
            await trio.sleep(dice.choice([0.001, 0.01, 0.05]))
            if step % 40 == 20:
                node = dice.randint(1, 3)
                world.partition({node}, {1, 2, 3} - {node})
            if step % 40 == 39:
                world.heal()
        for _ in range(100):
            await trio.sleep(0.2)
            for machine in machines:
                for wire in machine.wires:
                    wire.move()
                machine.ring._send_soon()
        for machine in machines:
            machine.judge()
            assert machine.hub.waiting == 0
            for wire in machine.wires:
                wire.cut()
        assert sum(len(record.events) for machine in machines for _, _, record, _ in machine.records) > 200
        await trio.sleep(5)
        assert not one.groups.keys() - NAMES
        for machine in machines:
            assert not machine.hub._stays


class Port:
    """A ring on which every membership is accepted and gets no events."""

    node_id = 1

    def __init__(self):
        self.memberships = []

    def _admit(self, name, pid, inbox):
        if not name:
            raise ValueError("a group name has 1 to 128 bytes, this one has 0")
        membership = Membership(name, pid, inbox)
        self.memberships.append(membership)
        return membership


class Membership:
    def __init__(self, name, pid, inbox):
        self.name, self.inbox, self.member = name, inbox, cpg.Member(1, pid)
        self.sent, self.leaving, self.reason = [], False, None
        self.room = True

    def send(self, payloads, guarantee):
        if not self.room:
            raise QueueFull("no room")
        self.sent += payloads

    def leave(self, reason=cpg.Reason.LEAVE):
        self.leaving = True
        self.reason = self.reason or reason


@pytest.fixture
def hub():
    return Hub(Port(), access=Access())


HELLO = head(Kind.HELLO, 0, 0, a=1)


def items_for(client):
    reader = Reader()
    found = []
    while client.writer.has_records():
        found += reader.items(client.record())
    return found


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (head(Kind.JOIN, 1, 1) + b"a", "JOIN before HELLO"),
        (HELLO + HELLO, "HELLO for a second time"),
        (HELLO + head(Kind.WELCOME, 0, 0), "WELCOME, which a client does not send"),
        (HELLO + head(Kind.JOIN, 0, 1) + b"a", "handle 0"),
        (HELLO + head(Kind.JOIN, 1, 1) + b"a" + head(Kind.JOIN, 1, 1) + b"b", "handle 1, which is in use"),
        (HELLO + head(Kind.ASK, 1, 3) + b"why", "unknown question 'why'"),
        (HELLO + b"garbage", "in place of an item's head"),
    ],
)
def test_a_client_that_breaks_the_protocol_is_informed_and_disconnected(hub, record, text):
    client, other = hub.connect(7, 0, 0), hub.connect(8, 0, 0)
    client.receive(b"\0" + record)
    client.work()
    goodbye = items_for(client)[-1]
    assert goodbye.kind is Kind.GOODBYE
    assert text in goodbye.body.decode()
    assert "process 7" in goodbye.body.decode()
    assert client.ended
    assert not other.ended
    assert hub.waiting == 0


def test_a_client_of_another_version_learns_which(hub):
    client = hub.connect(7, 0, 0)
    client.receive(b"\0" + head(Kind.HELLO, 0, 0, a=99))
    client.work()
    (goodbye,) = items_for(client)
    assert goodbye.body.decode() == (
        "the daemon speaks version 1 of its protocol, this program 99: install the same version of both"
    )


def test_only_clients_that_wish_for_links_are_sent_them(hub):
    """Older ones would end, at an item that they do not know."""
    up, down = cpg.Link(2, 0, True, 1500, 5.0), cpg.Link(2, 0, False, 0, 7.0)
    hub.link_event(up)
    clients = [hub.connect(pid, 0, 0) for pid in (7, 8, 9)]
    for client, wishes in zip(clients, (0, Wish.LINKS, 0xFFFFFFFF), strict=True):
        client.receive(b"\0" + head(Kind.HELLO, 0, 0, a=1, b=wishes))
        client.work()
    hub.link_event(down)
    older, newer, latest = ([item for item in items_for(client) if item.kind is Kind.LINK] for client in clients)
    assert older == []
    assert [link_of(item) for item in newer] == [link_of(item) for item in latest] == [up, down]


def test_a_join_that_cannot_be_is_refused_and_the_client_stays(hub):
    client = hub.connect(7, 0, 0)
    client.receive(b"\0" + HELLO + head(Kind.JOIN, 1, 0) + head(Kind.JOIN, 2, 1) + b"a")
    assert client.work() is None
    assert [item.kind for item in items_for(client)] == [Kind.WELCOME, Kind.REFUSED]
    assert [membership.name for membership in hub.ring.memberships] == [b"a"]


def test_a_client_that_is_gone_leaves_as_down(hub):
    client = hub.connect(7, 0, 0)
    client.receive(b"\0" + HELLO + head(Kind.JOIN, 1, 1) + b"a")
    client.work()
    hub.disconnect(client)
    assert hub.ring.memberships[0].reason is cpg.Reason.PROCDOWN
    assert not hub.clients


def test_of_many_slow_clients_the_slowest_goes():
    hub = Hub(Port(), access=Access(), client_limit=10_000, total_limit=1000)
    slow, slower = hub.connect(7, 0, 0), hub.connect(8, 0, 0)
    slower.send(head(Kind.ASK, 0, 600), bytes(600))
    slow.send(head(Kind.ASK, 0, 500), bytes(500))
    assert slower.ended
    assert not slow.ended
    assert "more than 1000 bytes waited for all clients, most of them for it" in slower.farewell[1]
    assert hub.waiting == slow.writer.size + slower.writer.size


def test_a_list_that_would_never_fit_is_refused(hub):
    client = hub.connect(7, 0, 0)
    packed = pack([bytes(10_000)] * 100)
    client.receive(b"\0" + HELLO + head(Kind.JOIN, 1, 1) + b"a")
    client.work()
    session = Session()
    session.writer.add(send_head(1, Guarantee.AGREED, packed), packed.body)
    while session.writer.has_records():
        client.receive(session.writer.record())
    client.work()
    assert "a list of 100 messages" in client.farewell[1]


def test_no_records_raise_anything(hub):
    dice = random.Random(4711)
    good = [
        HELLO,
        head(Kind.JOIN, 1, 1) + b"a",
        head(Kind.LEAVE, 1, 0),
        head(Kind.ASK, 1, 6) + b"groups",
        send_head(1, Guarantee.SAFE, pack([b"x", b"yz"])) + pack([b"x", b"yz"]).body,
    ]
    hub.replies = {"groups": list}
    for number in range(3000):
        client = hub.connect(number, 0, 0)
        client.receive(b"\0" + HELLO)
        for _ in range(4):
            record = bytearray(b"\0" + b"".join(dice.choices(good, k=3)))
            for _ in range(dice.randint(0, 2)):
                record[dice.randrange(len(record))] = dice.choice((0, 1, 255, dice.randrange(256)))
            client.receive(bytes(record))
            client.work()
        items_for(client)
        hub.disconnect(client)
    assert hub.waiting == 0
    assert not hub.clients


def test_a_list_of_very_many_is_refused_before_it_is_taken_apart(hub):
    client = hub.connect(7, 0, 0)
    client.receive(b"\0" + HELLO + head(Kind.JOIN, 1, 1) + b"a")
    client.work()
    session = Session()
    packed = Packed(8 << 20, 0x80, bytes(8 << 20))
    session.writer.add(send_head(1, Guarantee.AGREED, packed), packed.body)
    while session.writer.has_records():
        client.receive(session.writer.record())
    tracemalloc.start()
    client.work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "a list of 8388608 messages" in client.farewell[1]
    assert peak < 1 << 20


def test_whatever_a_session_accepts_a_daemon_takes(hub):
    wire = Wire(hub, 7)
    membership = wire.session.join(b"a", Record())
    wire.move()
    payloads = [bytes(10_000)] * 90
    membership.send(payloads, Guarantee.AGREED)
    wire.move()
    membership.send([b""] * 4000, Guarantee.AGREED)
    wire.move()
    assert wire.client.farewell is None
    assert hub.ring.memberships[0].sent == payloads + [b""] * 4000


def test_a_long_message_waits_for_many_clients_and_counts_once(hub):
    clients = [hub.connect(pid, 0, 0) for pid in range(40)]
    for client in clients:
        client.receive(b"\0" + HELLO + head(Kind.JOIN, 1, 1) + b"a")
        client.work()
    payloads = [bytes(16 << 20)]
    for membership in hub.ring.memberships:
        membership.inbox.messages(cpg.Member(1, 1), cpg.Level.AGREED, payloads)
    for client in clients:
        client.record()  # has begun to be told: the rest is still the same body
        client.record()
    assert not any(client.ended for client in clients)
    for membership in hub.ring.memberships:
        membership.inbox.messages(cpg.Member(1, 1), cpg.Level.AGREED, [bytes(16 << 20)])
        if hub.dropped:
            break
    else:
        pytest.fail("656 MiB waited for clients")
    assert sum(client.ended for client in clients) == 1


def test_a_change_is_written_once_for_all_members(hub):
    clients = [hub.connect(pid, 0, 0) for pid in range(3)]
    for client in clients:
        client.receive(b"\0" + HELLO + head(Kind.JOIN, client.pid + 7, 1) + b"a")
        client.work()
        items_for(client)
    change = cpg.Confchg((cpg.Member(1, 1),), {}, {cpg.Member(1, 1): cpg.Reason.JOIN})
    for membership in hub.ring.memberships:
        membership.inbox.event(change)
    assert len({id(body) for client in clients for body in client.writer.bodies()}) == 1
    for client in clients:
        (item,) = items_for(client)
        assert (item.handle, event_of(item)) == (client.pid + 7, change)


def test_long_messages_that_wait_are_bounded_together():
    trio.run(world_of_long_messages, clock=MockClock(autojump_threshold=0))


async def world_of_long_messages():
    world = World(2, seed=1)
    async with world.open_ring(1, ServedRing) as one, world.open_ring(2, ServedRing):
        hub = Hub(one, access=Access())
        one._observe(hub.ring_event)
        wire = Wire(hub, 100)
        records = [Record() for _ in range(8)]
        memberships = [wire.session.join(b"%d" % number, record) for number, record in enumerate(records)]
        wire.move()
        payload = bytes(16 << 20)
        for membership in memberships:
            body = pack([payload])
            wire.session.writer.add(send_head(membership._handle, Guarantee.AGREED, body), body.body)
        wire.move()
        assert wire.waits
        assert sum(membership.waiting for membership in one._engine._waiting) == 64 << 20
        while not all(type(record.events[-1]) is cpg.Message for record in records if record.events):
            one._send_soon()
            await trio.sleep(0.1)
            wire.move()
        assert len(wire.session._memberships) == 8
        wire.cut()


def test_a_client_that_asks_a_lot_leaves_the_ring_its_turns(hub):
    asked = []
    hub.replies = {"status": lambda: asked.append(1)}
    client = hub.connect(7, 0, 0)
    client.receive(b"\0" + HELLO + (head(Kind.ASK, 1, 6) + b"status") * 100)
    turns = 0
    while (need := client.work()) is not None:
        assert need == 0
        assert len(asked) <= 8 * (turns := turns + 1)
    assert len(asked) == 100
    assert turns > 10


@pytest.mark.parametrize("seed", range(4))
def test_who_leaves_and_joins_again_waits_for_no_more_than_the_ring(seed):
    trio.run(world_of_returns, seed, clock=MockClock(autojump_threshold=0))


async def world_of_returns(seed):
    world = World(2, seed=seed)
    async with world.open_ring(1, ServedRing) as one, world.open_ring(2, ServedRing):
        hub = Hub(one, access=Access())
        one._observe(hub.ring_event)
        wire = Wire(hub, 100)
        records = [Record() for _ in range(12)]
        for number, record in enumerate(records):
            membership = wire.session.join(b"a", record)
            await carried(wire, one)
            membership.send([bytes(2 << 20)], Guarantee.AGREED)  # in pieces: the leave waits behind them
            await carried(wire, one)
            if number % 4 == 1:
                world.partition({1}, {2})
            if number % 4 == 3:
                world.heal()
            if record is not records[-1]:
                membership.leave()
        for _ in range(100):
            await carried(wire, one)
            await trio.sleep(0.1)
        own = cpg.Member(1, 100)
        for record in records[:-1]:
            assert place_of(record.events, "joined", own) == 0
            assert place_of(record.events, "left", own) == len(record.events) - 1
        for record in records:
            assert sum(type(event) is cpg.Message for event in record.events) == 1
        assert one.groups == {b"a": (own,)}
        wire.cut()


async def carried(wire, ring):
    """Run the ring until all requests of a client are done."""
    with trio.fail_after(60):
        wire.move()
        while wire.waits or wire.session.writer.has_records():
            ring._send_soon()
            await trio.sleep(0.01)
            wire.move()
