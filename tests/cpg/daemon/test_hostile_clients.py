"""Allowed clients that do whatever they can, beside programs whose service must go on: everything, in order.

There are no sockets; the rings run in virtual time, and the same seed gives the same course.
"""

import random
from collections import Counter

import pytest
import trio
from trio.testing import MockClock

import cpg
from cpg.client.ipc import RECORD, Farewell, Kind, Packed, head, pack, send_head
from cpg.client.session import Session
from cpg.daemon.hub import Hub
from cpg.daemon.server import ServedRing
from cpg.local.access import Access
from cpg.testing import World
from tests.cpg.daemon.test_hub import Record, Wire, place_of
from totem.config import UserRule
from totem.configuration import Guarantee

HOSTILE, USER = 1005, 1001
NAMES = [b"well", b"other", b"cluck", b"", b"x" * 128, b"x" * 129, b"\0", b"nul\0"]
SIZES = [0, 1, 64, 5000, 70_000, 300_000]


class Hostile:
    """A client of the hub, as the server has it, and what it does."""

    def __init__(self, hub, pid, dice, farewells):
        self.hub = hub
        self.dice = dice
        self.pid = pid
        self.farewells = farewells
        self.reads = dice.random() < 0.5
        self.is_rude = dice.random() < 0.5
        """Return whether it breaks the protocol; others stay longer, and take what they can."""
        self.is_stuck = False
        """In the middle of a long message."""
        self.client = hub.connect(pid, HOSTILE, HOSTILE)
        self.waiting = False
        self.handle = 0
        self.records = []
        self.say(head(Kind.HELLO, 0, 4, a=1) + b"evil")

    def say(self, items):
        self.records.append(b"\0" + items)

    def item(self):
        dice = self.dice
        handle = dice.choice([0, 1, 2, 3, 4, 99, 2**32 - 1])
        match dice.randrange(10):
            case 0 | 1 | 2:
                name = dice.choice(NAMES) if dice.random() < 0.8 else dice.randbytes(dice.randrange(1, 20))
                return head(Kind.JOIN, handle, len(name)) + name
            case 3:
                return head(Kind.LEAVE, handle, 0)
            case 4:
                question = dice.choice([b"groups", b"status", b"quorum", b"secrets"])
                return head(Kind.ASK, handle, len(question)) + question
            case 5:
                return head(dice.choice(list(Kind)), handle, 0, detail=dice.randrange(256), a=dice.randrange(3))
            case _:
                packed = pack([dice.randbytes(dice.choice(SIZES[:4])) for _ in range(dice.randint(1, 4))])
                return send_head(handle, dice.choice(list(Guarantee)), packed) + packed.body

    def long(self):
        """The records of a long message: all, or only the first."""
        payload = bytes(self.dice.choice(SIZES[3:]) * self.dice.randint(1, 10))
        session = Session()
        session.writer.add(send_head(1, Guarantee.AGREED, Packed(1, 0x80, payload)), payload)
        records = []
        while session.writer.has_records():
            records.append(session.writer.record())
        return records[: self.dice.choice([1, len(records) // 2 + 1, len(records)])]

    def ask_in(self):
        """Join a group, the well-behaved one's first."""
        self.handle += 1
        name = NAMES[0] if self.handle == 1 else self.dice.randbytes(2)
        self.say(head(Kind.JOIN, self.handle, len(name)) + name)

    def greed(self):
        """Send a long message, or begin one and stop there."""
        self.ask_in()
        records = self.long()
        self.records += records
        self.is_stuck = bool(records[-1][0] & 2)

    def act(self, now):
        """Do something, or disconnect and connect again."""
        dice = self.dice
        if self.client.farewell:
            self.farewells[self.client.farewell[0]] += 1
        if self.client.ended or dice.random() < 0.01:
            self.hub.disconnect(self.client)
            self.__init__(self.hub, self.pid, dice, self.farewells)
        match dice.randrange(12):
            case _ if self.is_stuck:
                pass
            case 0 if not self.is_rude:
                self.greed()
            case 0:
                self.records += self.long()
            case 1 if self.is_rude:
                record = bytearray(b"\0" + self.item())
                record[dice.randrange(len(record))] = dice.randrange(256)
                self.records.append(bytes(record))
            case 2 if self.is_rude:
                self.records.append(dice.choice([b"\2", b"\3", b"\1"]) + dice.randbytes(RECORD - 1))
            case _ if self.is_rude:
                self.say(b"".join(self.item() for _ in range(dice.randint(1, 30)))[: RECORD - 1])
            case _:
                self.ask_in()
                packed = pack([dice.randbytes(dice.choice(SIZES[:4])) for _ in range(dice.randint(1, 4))])
                self.say(send_head(dice.randint(1, self.handle), Guarantee.AGREED, packed) + packed.body)
        while self.records and not self.waiting and self.client.admit(now):
            self.client.receive(self.records.pop(0))
            self.waiting = self.client.work() is not None
        if self.waiting:
            self.waiting = self.client.work() is not None
        while self.reads and self.client.writer.has_records():
            self.client.record()


@pytest.mark.parametrize("seed", range(5))
def test_whatever_allowed_clients_do_others_are_served(seed):
    trio.run(world_with_hostile_clients, seed, clock=MockClock(autojump_threshold=0))


async def world_with_hostile_clients(seed):
    world = World(2, seed=seed)
    dice = random.Random(seed)
    async with world.open_ring(1, ServedRing) as one, world.open_ring(2) as two:
        access = Access([UserRule(uid=HOSTILE), UserRule(uid=USER)])
        hub = Hub(
            one, access=access, most_clients=64, client_limit=4 << 20, total_limit=8 << 20, incoming_limit=16 << 20
        )
        hub.replies = {"groups": lambda: list(map(repr, one.groups)), "status": dict, "quorum": dict}
        one._observe(hub.ring_event)
        far = Record()
        two._admit(b"well", 1, far)
        wires, records = [], []
        for pid, uid in ((11, 0), (12, USER), (13, USER)):
            wire = Wire(hub, pid, uid)
            records.append(Record())
            wire.membership = wire.session.join(b"well", records[-1])
            wires.append(wire)
        for _ in range(50):
            await carry(one, two, wires)
        members = {cpg.Member(1, 11), cpg.Member(1, 12), cpg.Member(1, 13), cpg.Member(2, 1)}
        assert set(one.groups[b"well"]) == members
        farewells = Counter()
        hostiles = [Hostile(hub, pid, dice, farewells) for pid in range(100, 140)]
        for step in range(150):
            for hostile in dice.sample(hostiles, 20):
                hostile.act(trio.current_time())
                hub.drop_unfinished(trio.current_time() - 2)
                assert hub.incoming.taken <= 16 << 20
                assert hub._held() <= 12 << 20  # the bound, and one message more
            for wire in wires:
                wire.membership.send([b"%d:%d" % (wire.client.pid, step)], dice.choice(list(Guarantee)))
            await carry(one, two, wires)
            if step in (60, 120):
                world.partition({1}, {2})
            if step in (70, 130):
                world.heal()
        assert farewells.keys() == {Farewell.FULL, Farewell.MALFORMED, Farewell.SLOW, Farewell.UNFINISHED}
        for hostile in hostiles:
            hub.disconnect(hostile.client)
        for _ in range(200):
            await carry(one, two, wires)
        for wire, record in zip(wires, records, strict=True):
            assert wire.client.farewell is None
            assert place_of(record.events, "left", cpg.Member(1, wire.client.pid)) is None
            told = [event.data for event in record.events if type(event) is cpg.Message]
            for pid in (11, 12, 13):
                assert [data for data in told if data.startswith(b"%d:" % pid)] == [
                    b"%d:%d" % (pid, step) for step in range(150)
                ]
        streams = [stream(record, cpg.Member(1, 13)) for record in records]
        assert streams[0] == streams[1] == streams[2]
        assert set(one.groups[b"well"]) == set(two.groups[b"well"]) == members
        assert set(one.groups) == {b"well"}
        assert (hub.incoming.taken, access.memberships.taken, len(hub.clients)) == (0, 3, 3)
        for wire in wires:
            wire.cut()


def stream(record, last):
    """The messages and changes behind the join of the one that came last."""
    begin = place_of(record.events, "joined", last) + 1
    return [event for event in record.events[begin:] if type(event) in (cpg.Message, cpg.Confchg)]


async def carry(one, two, wires):
    """Run the rings, and let well-behaved programs send and read."""
    one._send_soon()
    two._send_soon()
    await trio.sleep(0.05)
    for wire in wires:
        wire.move()
