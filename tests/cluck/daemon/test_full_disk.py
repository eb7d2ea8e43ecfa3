"""Lock servers whose disks are full live, refuse what needs the disk with its path, and go on when there is room."""

import errno
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from cluck.commands import Owner, Release, RequestId, Resign, Stand
from cluck.protocol import Failed, Leads, LockHeld, Ping, Pong
from cluck.state.tokens import TOKENS_OF_AN_EPOCH
from cpg.testing import World
from tests.cluck.daemon.processes import PATIENCE, Cluckd
from tests.cluck.server.test_host import Memory, Talker, serving
from tests.cpg.daemon.full_disk import can_mount, empty, fill, on_own_disk
from tests.cpg.processes import write_config
from totem.log_fields import fields_of

PLENTY = 20
"""Seconds after which everything has settled."""
LONG = 1000.0
"""Seconds of a lease that is longer than any before."""


class Disk(Memory):
    """A disk that may be full."""

    def __init__(self, node):
        super().__init__()
        self.is_full = False
        self.path = f"/disk{node}/cluck"

    async def save(self, record):
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device", self.path)
        await super().save(record)


class Cluster:
    """Three nodes with lock servers and their disks."""

    def __init__(self):
        self.world = World(3)
        self.disks = {node: Disk(node) for node in (1, 2, 3)}
        self.hosts = {}

    @asynccontextmanager
    async def running(self, *full):
        """They are started for the time of a block; these disks are full from the beginning."""
        self.fill(*full)
        async with AsyncExitStack() as stack:
            for node in self.disks:
                self.hosts[node] = await stack.enter_async_context(serving(self.world, node, self.disks[node]))
            await trio.sleep(PLENTY)
            yield self

    def fill(self, *nodes):
        for node, disk in self.disks.items():
            disk.is_full = node in nodes

    def talker(self, node):
        return Talker(self.hosts[node])

    def ready(self):
        return [host.service.readiness for host in self.hosts.values()]


async def test_one_full_disk_keeps_nobody_from_a_longer_lease(autojump_clock):
    async with Cluster().running() as cluster:
        client = cluster.talker(1)
        cluster.fill(1)
        client.acquire(b"lock", lease=LONG)
        await client.hear(LockHeld)


async def test_what_a_majority_cannot_store_is_refused_and_all_else_goes_on(autojump_clock, caplog):
    async with Cluster().running() as cluster:
        client = cluster.talker(1)
        caplog.clear()
        cluster.fill(1, 2)
        refused = client.acquire(b"lock", lease=LONG)
        client.acquire(b"other")
        await client.hear(LockHeld)
        failed = await client.hear(Failed)
        assert (failed.request, failed.not_ready) == (refused, True)
        assert "on the disks of a majority of the lock servers first, and is not stored at node 1, 2" in failed.text
        assert failed.text.endswith("here: /disk1/cluck: No space left on device")
        await trio.sleep(600)
        assert cluster.hosts[1].service.answer("status")["disk"] == "/disk1/cluck: No space left on device"
        faults = [text for text in caplog.messages if "until the disk can be written" in text]
        assert sorted(fault.split(":")[0] for fault in faults) == ["node 1", "node 2"]
        assert all(fault.endswith("/cluck: No space left on device") for fault in faults)
        fault = {"event": "disk_fault", "what": "lock_records", "fault": "/disk1/cluck: No space left on device"}
        assert {**fault, "node": 1} in map(fields_of, caplog.records)

        cluster.fill()
        await trio.sleep(PLENTY)
        client.acquire(b"lock", lease=LONG)
        await client.hear(LockHeld)
        assert cluster.hosts[1].service.answer("status")["disk"] == ""
        assert sum("records are stored again" in text for text in caplog.messages) == 2
        assert {"event": "disk_recovered", "what": "lock_records", "node": 1} in map(fields_of, caplog.records)


def stand(client, election):
    client.count += 1
    request = RequestId(Owner(client.client, 0), client.count)
    client.say(Stand(request, election))
    return request


async def answer_pings(client):
    while True:
        await client.hear(Ping)
        client.say(Pong())


async def test_tokens_that_are_used_up_end_nobody_and_come_with_the_room_for_an_epoch(autojump_clock):
    """Nothing is granted meanwhile, neither to who waits nor to candidates; what is held is given back."""
    async with Cluster().running() as cluster, trio.open_nursery() as nursery:
        one, two = cluster.talker(1), cluster.talker(2)
        nursery.start_soon(answer_pings, one)
        one.acquire(b"long", lease=LONG)
        await one.hear(LockHeld)  # so its server has had something stored in this view before
        one.acquire(b"lock")
        held = await one.hear(LockHeld)
        waiting = two.acquire(b"lock")
        stand(one, b"head")
        leads = await one.hear(Leads)
        states = [host.service.replica.state for host in cluster.hosts.values()]
        cluster.fill(1, 2)
        for state in states:
            state.tokens.drawn = TOKENS_OF_AN_EPOCH - 1
        one.say(Release(held.request, held.token))
        one.say(Resign(leads.candidate, leads.token))
        refused = [one.acquire(b"other"), stand(one, b"other")]
        for request in refused:
            failed = await one.hear(Failed)
            assert (failed.request, failed.not_ready) == (request, True)
            assert failed.text == (
                "the fencing tokens of this epoch are used up: the next one must be on the disks of a majority of the "
                "lock servers first, and is not stored at node 1, 2; here: /disk1/cluck: No space left on device"
            )
        assert {state.tokens.epoch for state in states} == {1}
        assert not any(state.table.locks[b"lock"].holders for state in states)
        assert not any(state.elections.of(b"head").leader for state in states)

        cluster.fill()
        granted, led = await two.hear(LockHeld), await one.hear(Leads)
        while not led.token:  # it was told of its resignation
            led = await one.hear(Leads)
        assert (granted.request, led.candidate) == (waiting, leads.candidate)
        assert min(granted.token, led.token) > 2 * TOKENS_OF_AN_EPOCH
        assert {state.tokens.epoch for state in states} == {2}
        nursery.cancel_scope.cancel()


async def test_a_first_state_that_a_disk_cannot_store_says_so_and_comes_when_there_is_room(autojump_clock):
    """All disks must have it: a server that began anew without it could be configured otherwise (ruling E5)."""
    async with Cluster().running(1) as cluster:
        assert not any(ready for ready, _ in cluster.ready())
        assert cluster.ready()[0][1].endswith("; here nothing can be stored: /disk1/cluck: No space left on device")
        assert {why for _, why in cluster.ready()[1:]} == {"a first state is not stored at node 1"}
        cluster.fill()
        await trio.sleep(PLENTY)
        assert all(ready for ready, _ in cluster.ready())


async def test_one_full_disk_keeps_nobody_from_a_later_state(autojump_clock):
    cluster = Cluster()
    async with cluster.running():
        assert all(ready for ready, _ in cluster.ready())
    async with cluster.running(1):
        assert all(ready for ready, _ in cluster.ready())


async def test_a_later_state_that_a_majority_cannot_store_comes_when_there_is_room(autojump_clock):
    cluster = Cluster()
    async with cluster.running():
        assert all(ready for ready, _ in cluster.ready())
    async with cluster.running(1, 2):
        assert not any(ready for ready, _ in cluster.ready())
        cluster.fill(1)
        await trio.sleep(PLENTY)
        assert all(ready for ready, _ in cluster.ready())


@pytest.mark.skipif(not can_mount(), reason="a disk of its own needs root, and leave to mount")
async def test_cluckd_lives_on_a_full_disk(tmp_path):
    config = write_config(tmp_path, 1)
    state = tmp_path / "state1"
    state.mkdir()
    daemon = Cluckd(tmp_path, 1, "-c", config, prefix=on_own_disk(state)).start()
    try:
        await daemon.running()
        client = await daemon.speaker().greet()
        fill(daemon.process, state)
        request = client.acquire(b"lock", lease=LONG)
        failed = await client.hear(Failed)
        assert failed.request == request
        assert f"here: {state}/cluck_1: No space left on device" in failed.text
        client.acquire(b"lock")
        await client.hear(LockHeld)
        empty(daemon.process, state)
        with trio.fail_after(PATIENCE):
            while "records are stored again" not in daemon.logged():
                await trio.sleep(0.1)
        client.acquire(b"other", lease=LONG)
        await client.hear(LockHeld)
        code, log = await daemon.end()
    finally:
        daemon.close()
    assert code == 0
    assert log.count("No space left on device") == 1
