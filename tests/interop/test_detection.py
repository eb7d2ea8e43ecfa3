"""Rings of our daemons, no timeout configured: who is dead is out, whatever its machine says, and nobody else is.

How soon, `python -m bench --only detection` measures.
"""

import ctypes
import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.interop import partial
from tests.interop.cast import Cast, last, ring_of
from tests.interop.test_membership import long

PATIENCE = 120
CHATTER = "chatter 100 41 3000"
TRANSPORTS = pytest.mark.parametrize("transport", ["udpu", long("udp"), long("knet")])
FORGED_RATE, FORGED = 1000, 5000


class Company:
    """Daemons with programs, and what these were told since a mark."""

    def __init__(self, ring, programs):
        self.ring = ring
        self.network = ring.network
        self.programs = programs
        self._marks = {}

    async def start(self, *nodes):
        """Start them; go on when they hear each other and talk."""
        await self.programs.start(*nodes)
        await self.programs.together(*nodes)
        await self.programs.say(CHATTER)
        await self.programs.heard(100)
        self.mark()

    def mark(self):
        """Forget what they were told until now."""
        self._marks = {k: len(program.events) for k, program in self.programs.programs.items()}

    def told(self, k):
        """What the program on node K was told since then."""
        return self.programs.programs[k].events[self._marks[k] :]

    def rings(self, k):
        """The members of the rings among that."""
        return [tuple(event["members"]) for event in self.told(k) if event["event"] == "ring"]

    async def until_ring(self, *nodes):
        """Wait until all of them have this ring."""
        for k in nodes:
            await self.programs.programs[k].until(ring_of(*nodes))

    def check_unharmed(self, *nodes):
        """Assert that none of these was ever told that another one is gone."""
        for k in nodes:
            assert all(set(nodes) <= set(ring) for ring in self.rings(k)), f"node {k}: {self.rings(k)}"


@pytest.fixture
def company(mixed_ring):
    """Make such companies, in a block."""

    @asynccontextmanager
    async def make(count, *, start=None, patience=PATIENCE, **settings):
        ring = mixed_ring(count, token=None, served=True, **settings)
        with trio.fail_after(patience):
            async with trio.open_nursery() as nursery:
                programs = Cast(ring, nursery, ())
                found = Company(ring, programs)
                await found.start(*(start or range(1, count + 1)))
                yield found
                await programs.quiet()
                await programs.together(*sorted(programs.programs))
                await programs.finish()

    return make


# ---- who is dead


@TRANSPORTS
@pytest.mark.parametrize("victim", [3, long(1)])
async def test_a_killed_daemon_is_out_and_comes_back(company, transport, victim):
    others = {1, 2, 3} - {victim}
    async with company(3, transport=transport) as nodes:
        await nodes.programs.kill(victim)
        await nodes.until_ring(*others)
        await nodes.programs.start(victim)
        await nodes.programs.together(1, 2, 3)
        nodes.check_unharmed(*others)


@TRANSPORTS
async def test_a_silent_machine_is_out_and_comes_back(company, transport):
    async with company(3, transport=transport) as nodes:
        nodes.network.unplug(3)
        await nodes.until_ring(1, 2)
        nodes.network.plug(3)
        await nodes.programs.together(1, 2, 3)
        nodes.check_unharmed(1, 2)


@TRANSPORTS
async def test_where_the_port_of_a_dead_daemon_is_held_open_silence_decides(company, transport):
    async with company(3, transport=transport) as nodes:
        held = copies_of_sockets(nodes.programs.daemons[3].process.pid)
        await nodes.programs.kill(3)
        await nodes.until_ring(1, 2)
        for descriptor in held:
            os.close(descriptor)
        await nodes.programs.start(3)
        await nodes.programs.together(1, 2, 3)
        nodes.check_unharmed(1, 2)


def copies_of_sockets(pid):
    """Copies of all UDP sockets of a process, as a child has that it forks."""
    libc = ctypes.CDLL(None, use_errno=True)
    lines = Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]
    links = {f"socket:[{line.split()[9]}]" for line in lines}
    process = os.pidfd_open(pid)
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(path) in links:
            descriptor = libc.syscall(PIDFD_GETFD, process, int(path.name), 0)
            assert descriptor >= 0, os.strerror(ctypes.get_errno())
            found.append(descriptor)
    os.close(process)
    assert found
    return found


PIDFD_GETFD = 438
"""The number of this call on all machines."""


@pytest.mark.long
@TRANSPORTS
async def test_a_daemon_that_is_restarted_at_once_has_left_and_joined(company, transport):
    async with company(3, transport=transport) as nodes:
        before = nodes.programs.programs[3].process.pid
        await nodes.programs.kill(3)
        await nodes.programs.start(3)
        await nodes.programs.together(1, 2, 3)
        now = nodes.programs.programs[3].process.pid
        for k in (1, 2):
            changes = [event for event in nodes.told(k) if event["event"] == "confchg"]
            left = [process[1] for event in changes for process in event["left"]]
            joined = [process[1] for event in changes for process in event["joined"]]
            assert (left, joined) == ([before], [now])
        nodes.check_unharmed(1, 2)


@pytest.mark.long
async def test_a_daemon_that_stands_still_is_out_and_comes_back(company):
    async with company(3) as nodes:
        nodes.programs.pause(3)
        await nodes.until_ring(1, 2)
        nodes.programs.resume(3)
        await nodes.programs.together(1, 2, 3)
        nodes.check_unharmed(1, 2)


# ---- who is accused, and lives


@TRANSPORTS
async def test_nobody_is_out_where_a_firewall_rejects_some_datagrams(company, transport):
    async with company(3, transport=transport) as nodes:
        nodes.network.reject(2, 1, percent=5)
        nodes.network.reject(1, 3, percent=5)
        await nodes.programs.heard(2000)
        assert refused(nodes.ring.place(1)), "the firewall has rejected nothing"
        assert not any(nodes.rings(k) for k in (1, 2, 3))
        nodes.network.heal()


@pytest.mark.long
@pytest.mark.parametrize(("source", "target"), [(1, 3), (4, 1)])
async def test_nobody_is_out_where_a_firewall_rejects_what_one_says_to_one_that_is_no_neighbour(
    company, source, target
):
    async with company(5) as nodes:
        nodes.network.reject(target, source)
        await nodes.programs.heard(3000)
        assert not any(nodes.rings(k) for k in range(1, 6))
        nodes.network.heal()


@pytest.mark.long
@TRANSPORTS
@pytest.mark.parametrize(("source", "target"), [(1, 2), (2, 1), (3, 1)])
async def test_where_a_firewall_rejects_what_a_neighbour_says_the_third_node_is_never_alone(
    company, transport, source, target
):
    third = ({1, 2, 3} - {source, target}).pop()
    async with company(3, transport=transport) as nodes:
        nodes.network.reject(target, source)
        await nodes.programs.programs[third].until(lambda events: last(events[nodes._marks[third] :], "ring"))
        await nodes.programs.heard(500, third)
        assert all(third in ring and len(ring) > 1 for ring in nodes.rings(third)), nodes.rings(third)
        nodes.network.heal()
        await nodes.programs.together(1, 2, 3)


@pytest.mark.parametrize("transport", ["udpu", long("udp")])
async def test_forged_refusals_put_nobody_out_and_hide_nobody_that_is_dead(company, transport):
    """Nodes 1 to 3 are told of each other, and of the absent node 4 on whose machine the forger is."""
    async with company(4, start=(1, 2, 3), transport=transport) as nodes, trio.open_nursery() as nursery:

        async def forge(count):
            addresses = [nodes.network.address(k) for k in (1, 2, 3, 4)]
            command = ("tests.interop.forger", 5405, FORGED_RATE, count, *addresses)
            return await nodes.ring.start_program(nursery, 4, *command)

        forger = await forge(FORGED)
        await forger.until(lambda events: last(events, "forged"))
        assert refused(nodes.ring.place(1)), "forged refusals have reached no socket"
        assert not any(nodes.rings(k) for k in (1, 2, 3))
        forger = await forge(100 * FORGED)
        await nodes.programs.kill(3)
        await nodes.until_ring(1, 2)
        forger.signal(signal.SIGKILL)
        await forger.ended()
        nodes.check_unharmed(1, 2)


def refused(place):
    """How many refusals the kernel of a place was told of."""
    names, values = (line.split() for line in place.run("cat", "/proc/net/snmp").splitlines() if "Icmp:" in line)
    return int(values[names.index("InDestUnreachs")])


# ---- who hears only some


@pytest.mark.long
@pytest.mark.parametrize("name", partial.CASES)
async def test_where_not_all_hear_each_other_the_ring_changes_once(mixed_ring, name):
    ring = mixed_ring(5, token=None, served=True)
    with trio.fail_after(6 * partial.SECONDS):
        async with partial.whole(ring) as case:
            assert not [fault async for fault in partial.CASES[name](case, partial.SECONDS)]
