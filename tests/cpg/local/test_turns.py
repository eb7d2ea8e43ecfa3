"""Users are served in turn, whatever the number of their clients and requests."""

import contextlib
import fcntl
import socket
import struct
import termios
from collections import Counter

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import cpg
from cpg.client.ipc import RECORD, pack, send_head
from cpg.local.turns import SLICE, Turns
from tests.cpg.daemon.test_server import HELLO, settled
from totem.configuration import Guarantee

GREEDY, MODEST = 1001, 1002


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


async def serve(turns, uid, cost, served):
    """Serve a client that always has requests, as a server does."""
    for _ in range(5):
        if turns.is_over(uid):
            await turns.next(uid)
        begun = turns.clock()
        turns.clock.now += cost
        turns.charge(uid, begun)
        served[uid] += 1
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("cost", [SLICE / 50, SLICE / 2, 3 * SLICE])
async def test_between_two_turns_of_the_others_a_user_has_a_slice(cost):
    turns = Turns(Clock())
    served = Counter()
    longest = 0.0
    async with trio.open_nursery() as everything, trio.open_nursery() as clients:
        everything.start_soon(turns.run)
        for _ in range(200):
            clients.start_soon(serve, turns, GREEDY, cost, served)
        for _ in range(3):
            clients.start_soon(serve, turns, MODEST, cost, served)
        while served[GREEDY] < 1000:
            before = turns.clock.now
            await trio.lowlevel.checkpoint()  # another task, such as the ring's
            longest = max(longest, turns.clock.now - before)
        everything.cancel_scope.cancel()
    assert longest <= 6 * (SLICE + cost)  # in two passes of the event loop
    assert served == {GREEDY: 1000, MODEST: 15}


async def test_no_client_of_a_user_is_left_behind_by_its_others():
    turns = Turns(Clock())
    turns.clock.now = 1.0
    turns.charge(GREEDY, 0.0)
    order = []

    async def client(number):
        assert turns.is_over(GREEDY)
        await turns.next(GREEDY)
        order.append(number)
        turns.charge(GREEDY, turns.clock())

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(client, number)
            await wait_all_tasks_blocked()
        assert not turns.is_over(MODEST)
        nursery.start_soon(turns.run)
        while len(order) < 20:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert sorted(order) == list(range(20))
    assert all(abs(place - number) < 10 for place, number in enumerate(order))


def greeted(path, stack):
    """Return a client that was welcomed."""
    sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    sock.connect(str(path))
    sock.setblocking(False)
    sock.send(HELLO)
    return sock


def flood(sock):
    """Fill its socket with records that are full of messages for no group."""
    item = send_head(99, Guarantee.AGREED, pack([b""]))
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(b"\0" + item * ((RECORD - 1) // len(item)))


def is_read(sock):
    """Return whether the other side has read everything."""
    return not struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]


async def test_a_flood_of_requests_leaves_the_ring_and_others_their_turns(daemon):
    """Without turns, the node's ring has one turn for hundreds of records: one or two messages pass meanwhile."""
    with contextlib.ExitStack() as stack:
        async with cpg.open_ring(daemon.config, 2) as other, other.join("well") as group:
            group.on_message(lambda sender, data: None)
            await other.wait_members(2)
            socks = [greeted(daemon.path, stack) for _ in range(100)]
            while sum(client.welcomed for client in daemon.hub.clients) < 100:
                await trio.sleep(0.01)
            for sock in socks:
                flood(sock)
            messages = 0
            while not all(map(is_read, socks)):
                await group.send(b"on")
                await group.flush()
                messages += 1
            assert messages > 20
    await settled(daemon)
