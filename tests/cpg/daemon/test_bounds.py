"""The limits of all clients together, and of each user: places, groups, room for requests, waiting bytes."""

import contextlib
import random
import socket
import sys

import pytest
import trio

import cpg
from cpg.client.ipc import RECORD, Farewell, Kind, Packed, Refusal, head, send_head
from cpg.client.session import Session
from cpg.daemon import hub as hubs
from cpg.daemon import server as servers
from cpg.daemon.hub import Hub
from cpg.local.access import Access
from cpg.local.shares import Shares
from tests.cpg.daemon.test_hub import HELLO, Port, items_for
from tests.cpg.daemon.test_server import HELLO as GREETING
from tests.cpg.daemon.test_server import connected, exchange, memory, settled
from totem.config import UserRule
from totem.configuration import Guarantee

USERS = 1001, 1002, 1003, 1004
ROOT = 0


@pytest.fixture
def access():
    """Allow all users."""
    return Access([UserRule(uid=uid) for uid in USERS])


# ---- shares


def test_a_user_may_have_as_much_as_stays_for_others():
    shares = Shares(80, trusted={ROOT})

    def grab(uid):
        got = 0
        while shares.take(uid):
            got += 1
        return got

    assert [grab(uid) for uid in USERS] == [35, 17, 9, 4]  # half of 70, of 35, ...
    assert not shares.may_take(USERS[0])
    assert grab(ROOT) == 80 - 35 - 17 - 9 - 4
    assert shares.taken == shares.total == 80
    shares.give(USERS[0], 35)
    assert [grab(uid) for uid in (USERS[1], 1005, ROOT)] == [4, 10, 21]


def test_one_thing_is_for_everybody_as_long_as_there_is_room():
    shares = Shares(80, trusted={ROOT})
    assert shares.take(USERS[0], 60)
    assert not shares.take(USERS[0], 1)
    assert not shares.take(USERS[1], 11)
    assert shares.take(USERS[1], 10)
    assert not shares.take(USERS[2], 1)
    assert shares.take(ROOT, 10)
    shares.give(USERS[0], 60)
    assert shares.of(USERS[0]) == 0
    assert shares.take(USERS[0], 20)


@pytest.mark.parametrize("seed", range(20))
def test_shares_are_kept_whatever_is_taken_and_given(seed):
    dice = random.Random(seed)
    shares = Shares(1000, trusted={ROOT})
    held = {uid: [] for uid in (ROOT, *USERS)}
    for _ in range(2000):
        uid = dice.choice(list(held))
        if dice.random() < 0.6:
            amount = dice.randint(1, 200)
            if shares.take(uid, amount):
                held[uid].append(amount)
        elif held[uid]:
            shares.give(uid, held[uid].pop())
        assert shares.taken == sum(map(sum, held.values())) <= 1000
        assert {uid: shares.of(uid) for uid in held} == {uid: sum(amounts) for uid, amounts in held.items()}
        assert sum(shares.of(uid) for uid in USERS) <= 875


# ---- places and groups


def test_one_user_does_not_take_all_places(access):
    hub = Hub(Port(), access=access, most_clients=16)
    of_one = [hub.connect(pid, USERS[0], 0) for pid in range(20)]
    served = [client for client in of_one if not client.ended]
    assert len(served) == 7
    refused = of_one[-1]
    assert refused.farewell == (
        Farewell.FULL,
        "the daemon serves 7 programs, 7 of them of the user with uid 1001, who may have no more: end some, or try "
        "again later",
    )
    assert not hub.connect(50, USERS[1], 0).ended
    assert not any(hub.connect(pid, ROOT, 0).ended for pid in range(60, 68))
    assert hub.connect(70, ROOT, 0).ended
    hub.disconnect(refused)
    assert hub.connect(80, USERS[0], 0).ended  # it had no place to give back
    for client in served[:6]:
        hub.disconnect(client)
    assert not hub.connect(90, USERS[0], 0).ended


def test_who_may_not_connect_takes_no_place(access):
    hub = Hub(Port(), access=access, most_clients=8)
    for pid in range(100):
        assert hub.connect(pid, 1005, 0).farewell[0] is Farewell.ACCESS
    assert not hub.connect(200, USERS[0], 0).ended


def joins(client, names):
    """Join groups; return the refusals."""
    client.receive(b"\0" + b"".join(head(Kind.JOIN, handle, len(name)) + name for handle, name in names))
    while client.work() is not None:
        pass
    return [item for item in items_for(client) if item.kind is Kind.REFUSED]


def greeted(hub, pid, uid):
    client = hub.connect(pid, uid, 0)
    client.receive(b"\0" + HELLO)
    client.work()
    return client


def test_one_client_does_not_join_all_groups(access, monkeypatch):
    monkeypatch.setattr(hubs, "MOST_GROUPS", 5)
    hub = Hub(Port(), access=access)
    client = greeted(hub, 7, ROOT)
    (refused,) = joins(client, [(handle, b"%d" % handle) for handle in range(1, 7)])
    assert (refused.handle, refused.detail) == (6, Refusal.FULL)
    assert refused.body == b"process 7 is in 5 groups: no connection may be in more"
    assert not joins(greeted(hub, 8, ROOT), [(1, b"1")])


def test_one_user_does_not_join_all_groups(access):
    access.memberships = access.shares(16)
    hub = Hub(Port(), access=access)
    clients = [greeted(hub, pid, USERS[0]) for pid in range(10)]
    refused = [item for client in clients for item in joins(client, [(1, b"a"), (2, b"b")])]
    assert {item.detail for item in refused} == {Refusal.FULL}
    assert len(refused) == 20 - 7
    assert refused[0].body == (
        b"the programs of the user with uid 1001 are in 7 groups, of 7 that all programs of this node are in together: "
        b"no more for this user"
    )
    assert not joins(greeted(hub, 20, USERS[1]), [(1, b"a")])
    assert not joins(greeted(hub, 21, ROOT), [(handle, b"%d" % handle) for handle in range(1, 9)])
    for membership in hub.ring.memberships[:7]:  # all of the first user's leave
        membership.inbox.event(cpg.Confchg((), {membership.member: cpg.Reason.LEAVE}, {}))
    assert access.memberships.of(USERS[0]) == 0
    assert not joins(clients[0], [(3, b"c")])


def test_a_join_that_is_refused_takes_no_share(access):
    hub = Hub(Port(), access=access)
    joins(greeted(hub, 7, ROOT), [(1, b""), (2, b"a")])
    assert access.memberships.taken == 1


# ---- what waits for clients


def test_where_too_much_waits_the_user_with_most_is_disconnected(access):
    """It is not the one client with the most waiting bytes, since a user may have many clients."""
    hub = Hub(Port(), access=access, client_limit=10_000, total_limit=4500)
    many = [hub.connect(pid, USERS[0], 0) for pid in range(10)]
    one = hub.connect(50, USERS[1], 0)
    one.send(head(Kind.ASK, 0, 1000), bytes(1000))
    for client in many:
        client.send(head(Kind.ASK, 0, 300), bytes(300))
    many[3].send(head(Kind.ASK, 0, 400), bytes(400))
    assert not one.ended
    assert [client.ended for client in many].index(True) == 3
    assert sum(client.ended for client in many) == 1


# ---- what clients have sent


LONG = 1 << 20
"""Bytes of a message that comes in pieces."""


def long_records(size=LONG):
    """Make the records of a long message to the group of handle 1."""
    session = Session()
    session.writer.add(send_head(1, Guarantee.AGREED, Packed(1, 0x80, bytes(size))), bytes(size))
    records = []
    while session.writer.has_records():
        records.append(session.writer.record())
    return records


def begin(client, records):
    """Make a client send so many records, as the server does it; return how many were accepted."""
    for number, record in enumerate(records):
        if not client.admit(0.0):
            return number
        client.receive(record)
        client.work()
    return len(records)


def test_long_messages_that_have_begun_are_bounded_for_all_and_for_a_user(access):
    hub = Hub(Port(), access=access, incoming_limit=16 * LONG)
    records = long_records()
    clients = [greeted(hub, pid, USERS[0]) for pid in range(60)]
    for client in clients:
        joins(client, [(1, b"a")])
    taken = [begin(client, records[:-1]) for client in clients]
    assert taken.count(len(records) - 1) == 6  # less than half of seven eighths of the bound
    assert set(taken[6:]) <= {0, 1}
    assert hub.incoming.taken < 7 * LONG
    other, root = greeted(hub, 80, USERS[1]), greeted(hub, 81, ROOT)
    for client in (other, root):
        joins(client, [(1, b"b")])
        assert begin(client, records) == len(records)
    assert len(hub.ring.memberships[-1].sent) == 1
    clients[0].receive(records[-1])
    clients[0].work()
    assert hub.ring.memberships[0].sent == [bytes(LONG)]
    assert clients[6].admit(0.0)
    for client in (*clients, other, root):
        hub.disconnect(client)
    assert hub.incoming.taken == 0


def test_a_client_that_does_not_end_a_message_is_disconnected_when_others_wait(access):
    hub = Hub(Port(), access=access, incoming_limit=16 * LONG)
    records = long_records()
    first, second, whole = (greeted(hub, pid, USERS[0]) for pid in (1, 2, 3))
    for number, client in enumerate((whole, first, second)):
        joins(client, [(1, b"a")])
        client.receive(records[0])
        assert client.admit(float(number))
    hub.ring.memberships[0].room = False
    begin(whole, records[1:])
    assert whole.held  # it waits for the ring: not to blame
    hub.drop_unfinished(1.0)
    assert not any(client.ended for client in (first, second, whole))
    hub.drop_unfinished(1.5)
    assert first.farewell == (
        Farewell.UNFINISHED,
        f"process 1 began a message of {LONG + 24} bytes and did not end it, while others wait for the room",
    )
    assert not second.ended
    assert not whole.ended


def test_records_that_wait_for_the_ring_are_bounded(access):
    hub = Hub(Port(), access=access, incoming_limit=16 * hubs.RECORD_COST)
    clients = [greeted(hub, pid, USERS[0]) for pid in range(20)]
    for client in clients:
        joins(client, [(1, b"a")])
    for membership in hub.ring.memberships:
        membership.room = False
    (record,) = long_records(10)
    assert sum(begin(client, [record]) for client in clients) == 7
    hub.ring.memberships[0].room = True
    assert clients[0].work() is None
    assert clients[7].admit(0.0)
    assert not clients[0].held


async def test_sixty_clients_half_way_through_a_message_harm_nobody(daemon, monkeypatch):
    """Their memory stays bounded, others are served, and a client that continues in time succeeds."""
    monkeypatch.setattr(servers, "ITEM_PATIENCE", 0.2)
    daemon.hub.incoming.total = 32 << 20
    records = long_records(16 << 20)
    before = memory()
    with contextlib.ExitStack() as stack:
        socks = []
        for _ in range(60):
            sock = stack.enter_context(connected(daemon.path))
            socks.append(sock)
            await trio.to_thread.run_sync(half_way, sock, records)
        await exchange(daemon)
        assert memory() - before < 80 << 20
        assert daemon.hub.incoming.taken <= 32 << 20
        async with daemon.connect() as ring, ring.join("well") as group:
            found = []
            group.on_message(lambda sender, data: found.append(len(data)))
            await group.send(bytes(16 << 20))
            await group.flush()
            assert found == [16 << 20]
        assert sum(client.ended for client in daemon.hub.clients) >= 1
    await settled(daemon)
    assert daemon.hub.incoming.taken == 0


def half_way(sock, records):
    """Send half of a message, as far as it is read."""
    sock.settimeout(0.05)
    with contextlib.suppress(OSError):
        sock.send(b"\0" + head(Kind.JOIN, 1, 4) + b"half")
        for record in records[:128]:
            sock.send(record)


# ---- descriptors


PROGRAM = """
import resource, sys, trio
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from cpg.daemon.command import main
sys.exit(main(sys.argv[1:]))
"""


async def test_clients_do_not_take_the_descriptors_that_the_ring_needs(config, tmp_path):
    path = tmp_path / "socket"
    command = [sys.executable, "-c", PROGRAM, "-c", config, "--node", "1", "--socket", str(path)]
    with trio.fail_after(60), contextlib.ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            process = await nursery.start(lambda task_status: trio.run_process(command, task_status=task_status))
            while not path.exists():
                await trio.sleep(0.01)
            async with cpg.connect(path) as ring:
                served = 0
                for _ in range(300):
                    sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                    sock.connect(str(path))
                    with contextlib.suppress(OSError):
                        sock.send(GREETING)
                        served += await trio.to_thread.run_sync(welcomed, sock)
                assert 32 < served < 128
                async with cpg.open_ring(config, 2):  # a new ring has its number stored
                    await ring.wait_members(2)
                await ring.wait_members(1)
            process.terminate()


def welcomed(sock):
    return sock.recv(RECORD)[1] == Kind.WELCOME
