"""What programs are told of links, in each kind of ring: `on_link`."""

import asyncio
import time

import pytest
import trio

import cpg
from cpg.cli.status_text import rates, ring_lines
from tests.cpg.conftest import Daemon
from tests.totem.places import knet_at_addresses

PATIENCE = 40


@pytest.fixture
def over_knet(tmp_path):
    return knet_at_addresses(2, token=0.6, state_dir=str(tmp_path))


class Seen(list):
    """The links that a program was told of, and what it waits for."""

    def note(self, *link):
        self.append(cpg.Link(*link))

    @property
    def states(self):
        """Up or down, each once."""
        states = [link.up for link in self]
        return [state for place, state in enumerate(states) if states[place - 1 : place] != [state]]

    async def until(self, *states):
        with trio.fail_after(PATIENCE):
            while self.states != list(states):
                await trio.sleep(0.02)

    async def until_mtu(self):
        with trio.fail_after(PATIENCE):
            while self[-1].mtu <= 1500:
                await trio.sleep(0.02)


async def test_an_embedded_ring(over_knet):
    before = time.time()
    async with cpg.open_ring(over_knet, 1) as one:
        seen, late = Seen(), Seen()
        one.on_link(seen.note)
        await seen.until(False)
        async with cpg.open_ring(over_knet, 2):
            await seen.until(False, True)
            await seen.until_mtu()
            up = seen[-1]
            one.on_link(None)
            one.on_link(late.note)
            await late.until(True)
            assert late == [up]
            (state,) = one.links
            assert (state.node_id, state.link, state.is_up, state.mtu) == up[:4]
        await late.until(True, False)
    first, down = seen[0], late[-1]
    assert {(link.node_id, link.link) for link in seen + late} == {(2, 0)}
    assert [link.mtu for link in (first, down)] == [0, 0]
    assert up.mtu > 1500
    assert before - 1 < first.since < up.since < down.since < time.time() + 1
    assert len({link.since for link in seen if link.up}) == 1


async def test_an_embedded_ring_on_udpu(config):
    """A node is known from its first Join on; one that has left is down."""
    async with cpg.open_ring(config, 1) as one:
        seen, late = Seen(), Seen()
        one.on_link(seen.note)
        assert one.links == ()
        async with cpg.open_ring(config, 2) as two:
            await seen.until(True)
            with trio.fail_after(PATIENCE):
                while one.links[0].mtu < 1500 or two.links[0].mtu < 1500:
                    await trio.sleep(0.02)
            one.on_link(None)
            one.on_link(late.note)
        await late.until(True, False)
        (state,) = one.links
        assert (state.node_id, state.link, state.is_up, state.hears, state.downs) == (2, 0, False, False, 1)


async def test_through_the_daemon(over_knet, tmp_path):
    async with Daemon(over_knet, 1, tmp_path / "socket").running() as daemon:
        seen, later, blocking, on_asyncio = Seen(), Seen(), Seen(), Seen()
        over = trio.Event()

        def block(path):
            chat = cpg.CPG(path=path)
            chat.on_link(blocking.note)
            chat.connect()
            while not over.is_set():
                chat.dispatch(0.05)
            chat.finalize()

        async def await_links(path):
            async with cpg.connect(path) as ring:
                ring.on_link(on_asyncio.note)
                while not over.is_set():
                    await asyncio.sleep(0.05)

        async with trio.open_nursery() as nursery, daemon.connect() as ring:
            nursery.start_soon(trio.to_thread.run_sync, block, daemon.path)
            nursery.start_soon(trio.to_thread.run_sync, lambda: asyncio.run(await_links(daemon.path)))
            ring.on_link(seen.note)
            for each in (seen, blocking, on_asyncio):
                await each.until(False)
            async with cpg.open_ring(over_knet, 2):
                for each in (seen, blocking, on_asyncio):
                    await each.until(False, True)
                    await each.until_mtu()
                status = await ring.query("status")
                async with daemon.connect() as another:
                    another.on_link(later.note)
                    await later.until(True)
            for each in (seen, blocking, on_asyncio):
                await each.until(False, True, False)
            over.set()
        assert seen[-1] == blocking[-1] == on_asyncio[-1]
        assert later[0].mtu == status["links"][0]["mtu"] > 1500
        assert later[0].since == next(link.since for link in seen if link.up)
        assert (status["links"][0]["up"], status["links"][0]["address"]) == (True, over_knet.nodes[1].address)
        assert any("  to node 2  link 0  " in line for line in ring_lines(status, rates(status, status)))


async def test_a_client_that_reconnects_is_told_anew(over_knet, tmp_path):
    seen = Seen()
    daemon = Daemon(over_knet, 1, tmp_path / "socket")

    async def run(task_status):
        with trio.CancelScope() as scope:
            async with daemon.running():
                task_status.started(scope)
                await trio.sleep_forever()
        ended.set()

    ended = trio.Event()
    async with cpg.open_ring(over_knet, 2), trio.open_nursery() as nursery:
        first = await nursery.start(run)
        async with cpg.connect(daemon.path) as ring:
            ring.on_link(seen.note)
            await seen.until(False, True)
            first.cancel()
            await ended.wait()
            second = await nursery.start(run)
            await seen.until(False, True, False, True)
        second.cancel()


async def test_a_blocking_program_is_told_when_it_registers(over_knet, tmp_path):
    async with Daemon(over_knet, 1, tmp_path / "socket").running() as daemon:

        def block(path):
            seen = Seen()
            with cpg.CPG("chat", path=path) as chat:
                chat.on_link(seen.note)
                chat.dispatch(PATIENCE)
                assert seen.states == [False]
                chat.on_link(None)
                chat.on_confchg(lambda *change: seen.append(change))
                while len(seen) < 2:
                    chat.dispatch(PATIENCE)

        await trio.to_thread.run_sync(block, daemon.path)


async def test_rings_over_udpu_have_no_links(daemon):
    seen = Seen()
    async with daemon.connect() as ring, ring.join("chat") as group:
        ring.on_link(seen.note)
        daemon.ring.on_link(seen.note)
        await group.send(b"one")
        await group.flush()
    assert daemon.ring.links == ()
    assert seen == []
