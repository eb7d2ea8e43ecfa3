"""Stand-ins for what a node drives and is driven by."""

import errno
import heapq
from math import inf

import trio

from totem.processor import Ready
from totem.statistics import Counters
from totem.transitions import State


class FakeProcessor:
    """Does what the test says, and records what is asked of it in `calls`."""

    node_id = 1
    ring = config = None
    watched = 0
    ours = frozenset()

    def __init__(self):
        self.calls = []
        self.counters = Counters()
        self.state = State.OPERATIONAL
        self.deadline = inf
        self.ready = []
        """What the next calls of `take` return."""
        self.paused = False
        self.turns = 0
        self.on_advance = lambda now: None

    def start(self, now):
        self.calls.append(("start", now))

    def overdue(self, now):
        self.turns += 1
        return self.paused

    def come_back(self, now):
        self.calls.append(("come back", now))

    def receive_all(self, datagrams, now):
        self.calls += [("receive", datagram) for datagram in datagrams]

    def advance(self, now):
        self.calls.append(("advance", now))
        self.deadline = inf
        self.on_advance(now)

    def leave(self, now):
        self.calls.append(("leave", now))
        self.promise(datagrams=[(0, [b"leave"])])

    def promise(self, ring_seq=None, datagrams=(), deliveries=(), failure=None, notices=()):
        self.ready.append(Ready(ring_seq, list(datagrams), iter(deliveries), failure, list(notices)))

    def take(self):
        return self.ready.pop(0) if self.ready else Ready(None, [], iter(()), None, [])


class FakeEndpoint:
    """A network of one: what is put in `waiting` arrives."""

    def __init__(self, calls):
        self.calls = calls
        self.waiting = []
        self.limits = []
        self.deadline = inf
        self._readable = trio.lowlevel.ParkingLot()

    def arrive(self, *datagrams):
        self.waiting += datagrams
        self._readable.unpark_all()

    async def wait_readable(self):
        await trio.lowlevel.checkpoint()
        while not self.waiting:
            await self._readable.park()

    def start(self, now):
        pass

    def advance(self, now):
        self.calls.append(("endpoint advances", now))
        self.deadline = inf

    def reconfigure(self, config, now):
        self.calls.append(("endpoint reconfigures", config))

    def drain(self, limit):
        self.limits.append(limit)
        drained, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return drained

    def send(self, target, train):
        self.calls.append(("send", target, list(train)))

    def watch(self, node_id, now):
        pass

    def try_nodes(self, node_ids, now):
        self.calls.append(("try", node_ids))

    def link_states(self):
        return ()

    def overflows(self):
        return 7

    def close(self):
        self.calls.append(("close",))


class FakeStore:
    def __init__(self, calls):
        self.calls = calls
        self.is_full = False

    def store(self, ring_seq):
        self.calls.append(("store", ring_seq))
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device", "/state/ringid_1")


class TerribleNetwork:
    """Loses, doubles, delays and so reorders datagrams at random, on trio's clock."""

    def __init__(self, dice, *, loss=0.0, doubles=0.0, delay=0.001):
        self.dice = dice
        self.loss, self.doubles, self.delay = loss, doubles, delay
        self.endpoints = []
        self.cut = set()
        """Pairs of a sender and a receiver that does not hear it."""
        self._flying = []
        self._count = 0
        self._wake = trio.lowlevel.ParkingLot()

    def endpoint(self, node_id):
        endpoint = TerribleEndpoint(self, node_id)
        self.endpoints.append(endpoint)
        return endpoint

    def send(self, source, target, datagram):
        if (source.node_id, target.node_id) in self.cut or self.dice.random() < self.loss:
            return
        for _ in range(2 if self.dice.random() < self.doubles else 1):
            self._count += 1
            due = trio.current_time() + self.dice.uniform(0, self.delay)
            heapq.heappush(self._flying, (due, self._count, target, datagram))
        self._wake.unpark_all()

    async def run(self):
        """Deliver what is due, for ever."""
        while True:
            while not self._flying:
                await self._wake.park()
            with trio.move_on_at(self._flying[0][0]):
                await self._wake.park()  # by something that may be due earlier
            while self._flying and self._flying[0][0] <= trio.current_time():
                _, _, target, datagram = heapq.heappop(self._flying)
                if target in self.endpoints:
                    target.arrive(datagram)


class TerribleEndpoint(FakeEndpoint):
    """One node's place in a `TerribleNetwork`."""

    def __init__(self, network, node_id):
        super().__init__([])
        self.node_id = node_id
        self._network = network

    def send(self, target, train):
        for other in list(self._network.endpoints):
            if other is not self and target in (0, other.node_id):
                for frame in train:
                    self._network.send(self, other, frame)

    def overflows(self):
        return 0

    def close(self):
        self._network.endpoints.remove(self)
