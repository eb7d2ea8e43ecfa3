"""Lock servers and holders as real processes on a real ring, which are killed, stopped and cut off: no lost update.

Two holders on each of three nodes make a number in a store larger, which checks fencing tokens and sees lost updates.
What holders wrote down is checked as well: that nobody relied on the lock at one time with another, and that all of it
together is what one lock would have said.
"""

import random
import signal
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cluck.testing.checkers import Holding, Run, check
from cluck.testing.linearizability import EXCLUSIVE, Operation, Outcome, What
from tests.cluck.daemon.token_store import Store
from tests.interop.cast import last
from tests.interop.holder import DURATION, now
from tests.interop.ring import GLANCE, PATIENCE
from tests.interop.test_membership import QUICK

NODES = (1, 2, 3)
EACH = 2
"""Holders of a node."""
NAME = "counter"
ROUNDS = 10
"""Of faults, in the long version; each kind comes once more."""
AT_ONCE = 3
"""Writes after which others have gone on."""


class Cluster:
    """Lock servers, holders and the store."""

    def __init__(self, ring, nursery, folder, backend):
        self.ring = ring
        self.store = Store()
        self.folder = folder
        self.holders = {}
        """By node and number."""
        self.servers = {}
        self._backend = backend
        self._nursery = nursery
        self._past = []
        """Programs that were killed, and when."""

    async def start(self):
        """Start everything; return when everybody has written."""
        await self._nursery.start(self.store.serve, self.folder / "store")
        if self._backend == "corosync":
            await self.ring.start_corosync(*NODES)
        for k in NODES:
            await self.start_server(k)
        for k in NODES:
            for number in range(EACH):
                await self.start_holder(k, number)
        await self.all_write()

    async def start_server(self, k):
        """Start a lock server, perhaps again."""
        self._socket(k).unlink(missing_ok=True)
        options = {"corosync": ("--backend", "corosync"), "ring": ("--node", k)}[self._backend]
        paths = ("-c", self.ring.config[k], "--socket", self._socket(k), "--state-dir", self.folder / f"state{k}")
        self.servers[k] = await self.ring.start_program(self._nursery, k, "cluck.daemon", *paths, *options)
        with trio.fail_after(PATIENCE):
            while not self._socket(k).exists():
                await trio.sleep(GLANCE)

    def _socket(self, k):
        return self.folder / f"cluckd{k}"

    async def start_holder(self, k, number):
        """Start a holder, perhaps another one in the place of one that was killed."""
        sockets = (self._socket(k), self.folder / "store")
        program = await self.ring.start_program(self._nursery, k, "tests.interop.holder", *sockets, NAME)
        self.holders[k, number] = program

    # ---- what is done to them

    async def freeze(self, k, number):
        """Have a holder stop between reading and writing."""
        holder = self.holders[k, number]
        mark = len(holder.events)
        await holder.say("freeze")
        await holder.until(lambda events: last(events[mark:], "freezes"))
        return len(holder.events)

    async def thaw(self, k, number, mark):
        """Have it go on, and expect that the store refuses what it writes."""
        holder = self.holders[k, number]
        holder.signal(signal.SIGCONT)
        await holder.until(lambda events: len(events) > mark)
        assert holder.events[mark]["event"] == "refused"

    async def kill_holder(self, k, number):
        """SIGKILL, and another one in its place."""
        holder = self.holders.pop((k, number))
        self._past.append((holder, now()))
        holder.signal(signal.SIGKILL)
        await holder.ended()
        await self.start_holder(k, number)

    async def kill_server(self, k):
        """SIGKILL."""
        server = self.servers.pop(k)
        server.signal(signal.SIGKILL)
        await server.ended()

    async def stand_still(self, program, seconds):
        """SIGSTOP for a while."""
        program.signal(signal.SIGSTOP)
        await trio.sleep(seconds)
        program.signal(signal.SIGCONT)

    async def goes_on(self):
        """Wait until some have written."""
        goal = len(self.store.writes) + AT_ONCE
        with trio.fail_after(PATIENCE):
            while len(self.store.writes) < goal:
                await trio.sleep(GLANCE)

    async def all_write(self):
        """Wait until each holder has written once more."""
        marks = {key: len(holder.events) for key, holder in self.holders.items()}
        for key, holder in self.holders.items():
            await holder.until(lambda events, mark=marks[key]: last(events[mark:], "wrote"))

    # ---- what became of it

    async def finish(self):
        """End all holders, and check everything."""
        for holder in self.holders.values():
            assert await holder.finish() == 0
        for server in self.servers.values():
            server.signal(signal.SIGTERM)
            assert await server.ended() == 0
        assert not self.store.lost
        assert self.store.value == len(self.store.writes)
        run = Run()
        for number, holder in enumerate(self.holders.values()):
            _read(run, f"holder {number}", holder.events)
        for number, (holder, killed) in enumerate(self._past):
            _read(run, f"dead {number}", holder.events, killed)
        assert not check(run)
        told = sum(event["event"] == "wrote" for holder in self.holders.values() for event in holder.events)
        assert len(run.holdings) >= told > 0


def _read(run, who, events, killed=None):
    """Make records of what a holder wrote down."""
    if killed is not None:
        run.died[who] = killed
    turns = [place for place, event in enumerate(events) if event["event"] == "asks"]
    for first, end in zip(turns, [*turns[1:], len(events)], strict=True):
        turn = {event["event"]: event for event in events[first:end]}
        asks, holds = turn["asks"]["at"], turn.get("holds")
        name = NAME.encode()
        if holds is None:
            until = asks + DURATION
            run.operations.append(Operation(who, name, What.ACQUIRE, asks, asks, Outcome.UNKNOWN, until=until))
            continue
        token, deadline = holds["token"], holds["deadline"]
        run.operations.append(Operation(who, name, What.ACQUIRE, asks, holds["at"], Outcome.OK, token, until=deadline))
        back = turn.get("gave back")
        if back is not None and back["sure"]:
            called = turn["gives back"]["at"]
            run.operations.append(Operation(who, name, What.RELEASE, called, back["at"], Outcome.OK, token))
        else:  # its session gives it back where it can, but for the time that the process was busy or stood still
            free = max(turn[what]["at"] for what in ("holds", "freezes", "wrote", "refused") if what in turn)
            if not {"wrote", "refused"} & turn.keys():
                free = killed
            if free is not None:
                run.operations.append(Operation(who, name, What.RELEASE, free, free, Outcome.UNKNOWN, token))
        ends = [turn[what]["at"] for what in ("gives back", "lost") if what in turn]
        until = min([deadline, *ends, *([killed] if killed is not None else [])])
        run.holdings.append(Holding(who, name, EXCLUSIVE, token, holds["at"], until))


@asynccontextmanager
async def cluster(ring, backend):
    """All of it, checked at the end."""
    with tempfile.TemporaryDirectory(prefix="cluck-") as folder:  # names of sockets must be short
        async with trio.open_nursery() as nursery:
            cluster = Cluster(ring, nursery, Path(folder), backend)
            await cluster.start()
            yield cluster
            await cluster.all_write()
            await cluster.finish()
            nursery.cancel_scope.cancel()


async def holder_dies(locks, dice):
    await locks.kill_holder(*dice.choice(list(locks.holders)))


async def holder_stands_still(locks, dice):
    await locks.stand_still(locks.holders[dice.choice(list(locks.holders))], dice.uniform(0.1, 2 * DURATION))


async def holder_is_too_late(locks, dice):
    key = dice.choice(list(locks.holders))
    mark = await locks.freeze(*key)
    await locks.goes_on()
    await locks.thaw(*key, mark)


async def servers_die(locks, dice):
    """One, two, or all."""
    dying = dice.sample(NODES, dice.randint(1, len(NODES)))
    for k in dying:
        await locks.kill_server(k)
    await trio.sleep(dice.uniform(0, 2))
    for k in dying:
        await locks.start_server(k)


async def server_stands_still(locks, dice):
    await locks.stand_still(locks.servers[dice.choice(NODES)], dice.uniform(0.1, 4))


async def network_is_cut(locks, dice):
    """Into a majority and the rest, or so that there is no majority."""
    alone = dice.sample(NODES, dice.choice([1, 3]))
    locks.ring.network.split(set(NODES) - set(alone), *({k} for k in alone))
    await trio.sleep(dice.uniform(0.1, 5))
    locks.ring.network.heal()


async def corosync_dies(locks, dice):
    """Its lock server finds it again."""
    k = dice.choice(NODES)
    locks.ring.kill_corosync(k)
    await trio.sleep(dice.uniform(0, 3))
    await locks.ring.start_corosync(k)


async def corosync_stands_still(locks, dice):
    process = locks.ring.corosyncs[dice.choice(NODES)]
    process.send_signal(signal.SIGSTOP)
    await trio.sleep(dice.uniform(0.1, 4))
    process.send_signal(signal.SIGCONT)


FAULTS = (holder_dies, holder_stands_still, holder_is_too_late, servers_die, server_stands_still, network_is_cut)
OF_COROSYNC = (corosync_dies, corosync_stands_still)
BACKENDS = pytest.mark.parametrize("backend", ["ring", "corosync"])


@BACKENDS
async def test_no_update_is_lost(mixed_ring, backend):
    """A holder dies, one stands still for longer than its lease, and one is cut off while it does."""
    ring = mixed_ring(3, served=False, **QUICK)
    async with cluster(ring, backend) as locks:
        await locks.freeze(1, 0)
        await locks.kill_holder(1, 0)
        await locks.goes_on()
        mark = await locks.freeze(2, 0)
        await locks.goes_on()
        await locks.thaw(2, 0, mark)
        mark = await locks.freeze(3, 0)
        ring.network.split((1, 2), (3,))
        await locks.goes_on()
        await locks.thaw(3, 0, mark)
        ring.network.heal()
        await locks.all_write()


@BACKENDS
@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
async def test_no_update_is_lost_whatever_happens(mixed_ring, backend, seed):
    ring = mixed_ring(3, served=False, **QUICK)
    dice = random.Random(seed)
    faults = FAULTS + (OF_COROSYNC if backend == "corosync" else ())
    async with cluster(ring, backend) as locks:
        for fault in dice.choices(faults, k=ROUNDS) + dice.sample(faults, len(faults)):
            await fault(locks, dice)
            await locks.all_write()
