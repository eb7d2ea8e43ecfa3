"""The server on real sockets: who is allowed, what calls return, and what no client can do to others."""

import contextlib
import gc
import logging
import os
import random
import socket
import struct
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

import cpg
from cpg.libcpg.codes import Code
from cpg.libqb import SERVICES, NameTaken, layout, names, serve, server
from cpg.libqb.session import LibqbSession
from cpg.local.access import Access
from cpg.local.shares import Shares
from tests.cpg.libqb import client as raw
from tests.cpg.libqb.client import RawClient, Refused, join, leave, mcast, name, piece, request, unique_prefix
from tests.cpg.processes import write_config
from totem.log_fields import fields_of

PID = 4711
CONFCHG, DELIVER, TOTEM_CONFCHG, DELIVER_PIECE = 4, 5, 13, 17
PIECE_SIZE = 1_047_552
TRUSTED = (os.geteuid(),)


@pytest.fixture
def prefix(monkeypatch):
    prefix = unique_prefix()
    for module in (server, names):
        monkeypatch.setattr(module, "address", lambda name: layout.address(prefix + name))
    return prefix


@pytest.fixture
def node(tmp_path, prefix):
    """Open a ring of one with a quorum provider, and serve its clients."""
    path = Path(write_config(tmp_path, 1))
    path.write_text(path.read_text() + "quorum {\n    provider: corosync_votequorum\n}\n")

    @asynccontextmanager
    async def run(
        may_connect=lambda uid, gid: True, may_join=lambda name, uid, gid: True, trusted=TRUSTED, access=None
    ):
        access = access or Access()
        access.trusted = trusted
        access.allows, access.may_join = may_connect, may_join
        async with cpg.open_ring(path) as ring, trio.open_nursery() as nursery:
            await nursery.start(partial(serve, ring, access=access))
            yield ring
            nursery.cancel_scope.cancel()

    return run


@pytest.fixture
def connect(prefix):
    return lambda service="cpg": RawClient(service, prefix)


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def folders():
    return set(Path("/dev/shm").glob(f"qb-{os.getpid()}-*"))


async def settled(condition):
    with trio.fail_after(raw.PATIENCE):
        while not condition():
            await trio.sleep(0.01)


def members(body):
    """Return members, left and joined of a confchg."""
    counts = [struct.unpack_from("<I", body, offset)[0] for offset in (136, 144, 152)]
    addresses = list(struct.iter_unpack("<I4xI4xI4x", body[160:]))
    assert len(addresses) == sum(counts)
    there, _, left = counts
    return addresses[:there], addresses[there : there + left], addresses[there + left :]


async def test_a_group_and_its_events(node, connect):
    async with node() as ring, connect() as one, connect() as two:
        assert await one.ask(join(b"chat", PID, flags=1)) == (0, Code.OK, b"")
        number, error, body = await one.event()
        assert (number, error) == (CONFCHG, Code.OK)
        assert body[:136] == name(b"chat")
        assert members(body) == ([(1, PID, 0)], [], [(1, PID, 1)])
        representative, seq, count, node_id = struct.unpack_from("<I4xQII", (await one.event())[2])
        assert ((representative, seq), count, node_id) == (ring.ring_id, 1, 1)
        assert await two.ask(join(b"chat", PID + 1)) == (0, Code.OK, b"")
        assert members((await one.event())[2]) == ([(1, PID, 0), (1, PID + 1, 0)], [], [(1, PID + 1, 1)])
        for payload in (b"hello", b"", bytes(60_000)):
            await two.send(mcast(payload))
        assert members((await two.event())[2]) == ([(1, PID, 0), (1, PID + 1, 0)], [], [(1, PID + 1, 1)])
        for client in (one, two):
            for payload in (b"hello", b"", bytes(60_000)):
                head = name(b"chat") + struct.pack("<I4xI4xI4x", len(payload), 1, PID + 1)
                assert await client.event() == (DELIVER, Code.OK, head + payload)
        assert await one.ask(leave(b"chat", PID)) == (1, Code.OK, b"")
        for client in (one, two):
            assert members((await client.event())[2]) == ([(1, PID + 1, 0)], [(1, PID, 2)], [])
        assert await one.ask(join(b"chat", PID)) == (0, Code.OK, b"")
        await one.until(CONFCHG)


async def test_one_that_goes_without_a_word_goes_down_behind_its_messages(node, connect):
    async with node(), connect() as one:
        await one.ask(join(b"chat", PID))
        async with connect() as two:
            await two.ask(join(b"chat", PID + 1))
            for _ in range(2):
                await one.until(CONFCHG)
            for number in range(5):
                await two.send(mcast(b"%d" % number))
        for number in range(5):
            assert (await one.event())[2].endswith(b"%d" % number)
        assert members((await one.event())[2]) == ([(1, PID, 0)], [(1, PID + 1, 5)], [])
        async with connect() as two:
            assert await two.ask(join(b"chat", PID + 1)) == (0, Code.OK, b"")
            await two.ask(request(raw.FINALIZE))
        for _ in range(2):
            body = (await one.until(CONFCHG))[2]
        assert members(body)[1] == [(1, PID + 1, 5)]


@pytest.mark.parametrize("size", [65_536, 65_537, 400_000, PIECE_SIZE])
async def test_a_long_message_is_sent_in_pieces(node, connect, size):
    async with node(), connect() as one:
        await one.ask(join(b"chat", PID))
        await one.until(CONFCHG)
        payload = random.Random(size).randbytes(size)
        await one.send(mcast(payload))
        assert await taken(one) == payload


async def taken(client):
    """Assemble a message as the library does."""
    number, _, body = await client.event()
    if number == DELIVER:
        return body[160:]
    parts = []
    while True:
        assert number == DELIVER_PIECE
        whole, length, node_id, pid, kind = struct.unpack_from("<I4xI4xI4xI4xI4x", body, 136)
        assert (node_id, pid, kind == 1) == (1, PID, not parts)
        parts.append(body[176:])
        assert len(parts[-1]) == length
        if kind == 3:
            payload = b"".join(parts)
            assert len(payload) == whole
            return payload
        number, _, body = await client.event()


async def test_a_message_that_comes_in_pieces(node, connect):
    payload = random.Random(1).randbytes(2 * PIECE_SIZE + 7)
    cuts = [payload[:PIECE_SIZE], payload[PIECE_SIZE : 2 * PIECE_SIZE], payload[2 * PIECE_SIZE :]]
    async with node(), connect() as one:
        assert await one.ask(piece(cuts[0], len(payload), 1)) == (18, Code.NOT_EXIST, b"")
        await one.ask(join(b"chat", PID))
        await one.until(CONFCHG)
        assert await one.ask(piece(b"", (16 << 20) + 1, 1)) == (18, Code.TOO_BIG, b"")
        assert await one.ask(piece(b"", (16 << 20) + 1, 2)) == (18, Code.INTERRUPT, b"")
        await one.ask(piece(cuts[2], len(payload), 1))  # it begins again
        for kind, part in enumerate(cuts, 1):
            assert await one.ask(piece(part, len(payload), kind)) == (18, Code.OK, b"")
        await one.send(mcast(b"behind it"))
        assert await taken(one) == payload
        assert await taken(one) == b"behind it"


async def test_what_join_and_leave_return(node, connect):
    async with node(), connect() as one, connect() as two:
        assert (await one.ask(leave(b"chat", PID)))[1] == Code.NOT_EXIST
        too_long = request(0, struct.pack("<I4x128s", 129, b"x") + struct.pack("<I4xI4x", PID, 0))
        assert (await one.ask(too_long))[1] == Code.NAME_TOO_LONG
        assert (await one.ask(join(b"", PID)))[1] == Code.INVALID_PARAM
        assert (await one.ask(join(b"chat", PID)))[1] == Code.OK
        assert (await one.ask(join(b"other", PID)))[1] == Code.EXIST
        assert (await two.ask(join(b"chat", PID)))[1] == Code.EXIST
        assert (await two.ask(join(b"other", PID)))[1] == Code.OK
        await one.until(CONFCHG)
        assert (await one.ask(leave(b"chat", PID)))[1] == Code.OK
        await one.until(CONFCHG)
        assert (await one.ask(leave(b"chat", PID)))[1] == Code.NOT_EXIST
        assert (await one.ask(join(b"x" * 128, PID)))[1] == Code.OK
        assert (await one.ask(request(raw.FINALIZE))) == (12, Code.OK, b"")


async def test_only_users_named_by_a_rule_join_a_reserved_group(node, connect, caplog):
    uids = {os.geteuid()}
    async with node(may_join=lambda name, uid, gid: name != b"cluck" or uid in uids), connect() as one:
        assert (await one.ask(join(b"cluck", PID)))[1] == Code.OK
        await one.until(CONFCHG)
        uids.clear()
        async with connect() as two:
            assert (await two.ask(join(b"cluck", PID + 1)))[1] == Code.ACCESS
            members_of = request(raw.MEMBERSHIP, name(b"cluck"))
            assert struct.unpack_from("<I", (await two.ask(members_of))[2]) == (1,)
            await two.send(mcast(b"from outside"))
            assert (await two.ask(join(b"chat", PID + 1)))[1] == Code.OK
        await one.send(mcast(b"from inside"))
        assert (await one.until(DELIVER))[2].endswith(b"from inside")
    assert (
        f"process {os.getpid()} of the user with uid {os.geteuid()} may not join the reserved group 'cluck'"
        in caplog.text
    )


async def test_membership_and_iteration(node, connect):
    async with node(), connect() as one, connect() as two:
        await one.ask(join(b"b", PID))
        await two.ask(join(b"a", PID))
        for client in (one, two):
            await client.until(CONFCHG)
        number, error, body = await one.ask(request(raw.MEMBERSHIP, name(b"b")))
        assert (number, error, len(body)) == (3, Code.OK, 8 + 384 * 24)
        assert struct.unpack_from("<I4xI4xI4xI", body) == (1, 1, PID, 0)
        assert (await one.ask(request(raw.LOCAL_GET)))[2] == struct.pack("<I4x", 1)
        expected = {1: [(b"a", 0, 0), (b"b", 0, 0)], 2: [(b"b", 1, PID)], 3: [(b"a", 1, PID), (b"b", 1, PID)]}
        for kind, entries in expected.items():
            handle = (await one.ask(request(raw.ITERATE, name(b"b") + struct.pack("<I4x", kind))))[2]
            found = []
            while (answer := await one.ask(request(raw.NEXT, handle)))[1] == Code.OK:
                length, text, node_id, pid = struct.unpack("<I4x128sII", answer[2])
                found.append((text[:length], node_id, pid))
            assert found == entries
            assert answer[1] == Code.NO_SECTIONS
            assert (await one.ask(request(raw.ITERATED, handle)))[1] == Code.OK
            assert (await one.ask(request(raw.NEXT, handle)))[1] == Code.LIBRARY
        for _ in range(64):
            assert (await one.ask(request(raw.ITERATE, name(b"") + struct.pack("<I4x", 3))))[1] == Code.OK
        assert (await one.ask(request(raw.ITERATE, name(b"") + struct.pack("<I4x", 3))))[1] == Code.NO_RESOURCES


async def test_who_is_not_let_in(node, connect):
    asked = []
    async with node(lambda uid, gid: bool(asked.append((uid, gid)))):
        for service in SERVICES:
            with pytest.raises(Refused) as refused:
                await connect(service).connect()
            assert refused.value.args == (13,)
    assert asked == [(os.geteuid(), os.getegid())] * len(SERVICES)
    assert not folders()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_requests_of_another_user_in_the_name_of_a_client(node, connect, prefix, caplog):
    script = """
import os, socket, sys
os.setresuid(65534, 65534, 65534)
stranger = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
stranger.sendto(bytes.fromhex(sys.argv[2]), b"\\0" + sys.argv[1].encode().ljust(107, b"\\0"))
"""
    async with node(), connect() as one:
        target = prefix + one.control.replace("-control", "") + "-request"
        forged = (sys.executable, "-c", script, target, join(b"evil", PID).hex())
        await trio.run_process(forged)
        assert (await one.ask(request(raw.LOCAL_GET)))[1] == Code.OK
        assert (await one.ask(join(b"good", PID)))[1] == Code.OK
        assert "somebody else sent in its name" in caplog.text
        failed = await trio.run_process(forged, check=False, capture_stderr=True)
        assert b"PermissionError" in failed.stderr  # now the kernel refuses it


@pytest.mark.parametrize(
    ("service", "datagram"),
    [
        ("cpg", b""),
        ("cpg", b"short"),
        ("cpg", mcast(b"data")[:-1]),
        ("cpg", mcast(b"data")[:30]),
        ("cpg", piece(b"data", 4, 4)),
        ("cpg", piece(b"data", 3, 1)),
        ("cpg", join(b"chat", PID)[:-8]),
        ("cpg", request(0)),
        ("cmap", request(2, bytes(8))),
        ("quorum", request(1)),
        ("votequorum", request(3)),
        ("cfg", request(9)),
    ],
)
async def test_a_request_that_is_malformed_ends_its_connection_alone(node, connect, caplog, service, datagram):
    async with node(), connect() as other, connect(service) as bad:
        await other.ask(join(b"chat", PID))
        if service == "cpg":
            assert (await bad.ask(join(b"bad", PID)))[1] == Code.OK
            await bad.until(CONFCHG)
        await bad.send(datagram)
        await bad.ended()
        assert f"{service} client of process {os.getpid()}, user {os.geteuid()}: ended: " in caplog.text
        await other.until(CONFCHG)
        assert (await other.ask(request(raw.LOCAL_GET)))[1] == Code.OK
    assert not folders()


async def test_what_is_left_of_a_client_that_has_gone_may_be_malformed(node, connect, monkeypatch):
    async with node() as ring, connect() as one:
        await one.ask(join(b"chat", PID))
        bad = await connect().connect()
        await bad.ask(join(b"bad", PID + 1))
        monkeypatch.setattr(server.Turns, "is_over", lambda turns, uid: True)
        monkeypatch.setattr(server.Turns, "next", lambda turns, uid: trio.sleep(0.1))
        await bad.send(mcast(b"data")[:-1])
        bad.close()  # which is noticed before that is read
        await settled(lambda: ring.groups.keys() == {b"chat"} and len(folders()) == 1)


async def test_requests_that_are_not_known_are_refused(node, connect):
    async with node():
        for service in SERVICES:
            async with connect(service) as one:
                assert await one.ask(request(99, bytes(8))) == (0, Code.INVALID_PARAM, b"")


async def test_a_client_that_does_not_read_its_events_is_disconnected(node, connect, monkeypatch, caplog):
    monkeypatch.setattr(server, "EVENT_LIMIT", 1 << 20)
    async with node(), connect() as one, connect() as deaf:
        await one.ask(join(b"chat", PID))
        await deaf.ask(join(b"chat", PID + 1))
        for _ in range(2):
            await one.until(CONFCHG)
        heard = []
        for number in range(100):  # the kernel holds some megabytes
            await one.send(mcast(bytes([number]) * 50_000))
            heard.append(await one.event())
            while heard[-1][0] != DELIVER:
                heard.append(await one.event())
        assert [event[2][-1] for event in heard if event[0] == DELIVER] == list(range(100))
        [change] = [event for event in heard if event[0] == CONFCHG]
        assert members(change[2]) == ([(1, PID, 0)], [(1, PID + 1, 5)], [])
        await deaf.ended()
        assert "ended: it does not read its events" in caplog.text


async def test_a_client_that_is_behind_may_not_multicast(node, connect, monkeypatch):
    monkeypatch.setattr(server, "EVENTS_ENOUGH", 1 << 18)
    monkeypatch.setattr(server, "READ_PATIENCE", 1000)
    async with node(), connect() as one, connect() as late:
        await one.ask(join(b"chat", PID))
        await late.ask(join(b"chat", PID + 1))
        for _ in range(2):
            await one.until(CONFCHG)
        assert late.flow == 0
        for _ in range(80):  # the kernel holds some megabytes
            await one.send(mcast(bytes(50_000)))
            await one.until(DELIVER)
        await settled(lambda: late.flow == 2)
        assert one.flow == 0
        assert (await late.ask(request(raw.LOCAL_GET)))[1] == Code.OK
        for _ in range(80):
            await late.until(DELIVER)
        await settled(lambda: late.flow == 0)


async def test_the_ring_holds_senders_back_and_loses_nothing(node, connect):
    count, size = 300, 50_000
    async with node(), connect() as one:
        await one.ask(join(b"chat", PID))
        await one.until(CONFCHG)

        async def send():
            for number in range(count):
                await one.send(mcast(number.to_bytes(2, "little") + bytes(size)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            for number in range(count):
                assert (await one.until(DELIVER))[2][160:162] == number.to_bytes(2, "little")


async def test_the_flow_is_open_when_a_connection_ends(node, connect, monkeypatch):
    """Else the library looks at that alone, and says for ever to try again."""
    monkeypatch.setattr(server, "EVENTS_ENOUGH", 1 << 18)
    monkeypatch.setattr(server, "READ_PATIENCE", 1000)
    async with node(), connect() as one, connect() as late:
        await one.ask(join(b"chat", PID))
        await late.ask(join(b"chat", PID + 1))
        for _ in range(80):  # the kernel holds some megabytes
            await one.send(mcast(bytes(50_000)))
            await one.until(DELIVER)
        await settled(lambda: late.flow == 2)
        with Path(late.control).open("rb") as control:
            await late.send(mcast(b"data")[:-1])
            await late.ended()
            assert raw.CONTROL.unpack(control.read())[1] == 0


async def test_one_that_sends_and_does_not_read_is_taken_up_to_its_bound(node, connect, monkeypatch, caplog):
    """As in Corosync: otherwise a program that retries until it succeeds would do so for ever."""
    monkeypatch.setattr(server, "EVENTS_ENOUGH", 1 << 18)
    monkeypatch.setattr(server, "EVENT_LIMIT", 4 << 20)
    monkeypatch.setattr(server, "READ_PATIENCE", 0.05)
    async with node(), connect() as one, connect() as deaf:
        await deaf.ask(join(b"alone", PID))
        await one.ask(join(b"chat", PID + 1))
        await one.until(CONFCHG)
        taken = was_refused = 0
        with trio.fail_after(raw.PATIENCE):
            while "ended" not in caplog.text:
                if deaf.flow:  # the library would say TRY_AGAIN
                    was_refused += 1
                    await trio.sleep(0.001)
                else:
                    with contextlib.suppress(ConnectionError):
                        await deaf.send(mcast(bytes(50_000)))
                        taken += 1
        assert was_refused
        assert taken * 50_000 > 4 << 20
        assert "ended: it does not read its events" in caplog.text
        (fields,) = (fields_of(record) for record in caplog.records if "ended" in record.getMessage())
        assert fields.items() >= {"event": "client_ended", "reason": "slow", "pid": os.getpid()}.items()
        await deaf.ended()
        await one.send(mcast(b"still here"))
        assert (await one.until(DELIVER))[2].endswith(b"still here")


async def test_of_many_that_do_not_read_the_user_with_most_is_disconnected(node, connect, monkeypatch, caplog):
    monkeypatch.setattr(server, "EVENTS_OF_ALL", 1 << 20)
    async with node(), connect() as one:
        await one.ask(join(b"chat", PID))
        await one.until(CONFCHG)
        deaf = [await connect().connect() for _ in range(4)]
        for number, client in enumerate(deaf, 1):
            await client.ask(join(b"chat", PID + number))
            await one.until(CONFCHG)
        for number in range(150):  # the kernel holds some megabytes
            await one.send(mcast(bytes([number]) * 50_000))
            assert (await one.until(DELIVER))[2][-1] == number
        assert "bytes of events wait for all clients, most of them for it" in caplog.text
        for client in deaf:
            client.close()


async def test_one_user_does_not_take_all_connections(node, connect, monkeypatch, caplog):
    monkeypatch.setattr(server, "MOST_CLIENTS", 8)
    async with node(trusted=()):
        clients = [await connect().connect() for _ in range(3)]
        with pytest.raises((Refused, ConnectionError)):
            await connect().connect()
        assert "the daemon serves 3 programs, 3 of them of the user with uid" in caplog.text
        clients.pop().close()
        await settled(lambda: len(folders()) == 2)
        clients.append(await connect().connect())
        for client in clients:
            client.close()


async def test_messages_in_pieces_are_bounded_and_their_ends_awaited(node, connect, monkeypatch, caplog):
    monkeypatch.setattr(server, "KEPT_FOR_ALL", 800_000)
    whole = 400_000
    async with node(trusted=()), connect() as one, connect() as two, connect("cmap") as other:
        for number, client in enumerate((one, two)):
            await client.ask(join(b"chat", PID + number))
            await client.until(CONFCHG)
        assert (await one.ask(piece(bytes(1000), whole, 1)))[1] == Code.OK
        assert (await two.ask(piece(bytes(1000), whole, 1)))[1] == Code.TRY_AGAIN  # the library hands that on
        assert (await two.ask(piece(bytes(1000), whole, 2)))[1] == Code.INTERRUPT
        assert (await other.ask(request(4, bytes(264))))[1] == Code.NO_RESOURCES  # an iteration
        assert (await one.ask(piece(bytes(2000), whole, 1)))[1] == Code.OK  # it begins again
        monkeypatch.setattr(server, "PIECE_PATIENCE", 0)
        assert (await two.ask(piece(bytes(1000), whole, 1)))[1] == Code.TRY_AGAIN
        await one.ended()
        assert "ended: it began a message in pieces and did not end it" in caplog.text
        for _ in range(3):
            assert (await two.ask(piece(bytes(whole // 2), whole, 1)))[1] == Code.OK
            assert (await two.ask(piece(bytes(whole // 2), whole, 3)))[1] == Code.OK
            for _ in range(7):  # of 64 KiB
                await two.until(DELIVER_PIECE)
        handles = [(await other.ask(request(4, bytes(264))))[2] for _ in range(2)]
        for handle in handles:
            assert (await other.ask(request(6, handle)))[1] == Code.OK
        assert (await two.ask(piece(b"", whole, 1)))[1] == Code.OK


async def test_memberships_are_shared_by_the_users(node, connect):
    access = Access()
    access.memberships = Shares(3, ())
    async with node(access=access):
        async with connect() as one, connect() as two:
            assert (await one.ask(join(b"chat", PID)))[1] == Code.OK
            assert (await two.ask(join(b"chat", PID + 1)))[1] == Code.NO_RESOURCES
            await one.until(CONFCHG)
            await one.ask(leave(b"chat", PID))
            await one.until(CONFCHG)
            assert (await two.ask(join(b"chat", PID + 1)))[1] == Code.OK
        await settled(lambda: not access.memberships.taken)  # also of one that goes without a word


async def test_the_end_of_the_server_is_reported(node, connect):
    one = connect()
    async with node():
        await one.connect()
        await one.ask(request(raw.LOCAL_GET))
    assert await one.event() is None
    await one.ended()
    one.close()
    assert not folders()


async def test_a_name_that_is_taken(node):
    async with node() as ring:
        with pytest.raises(NameTaken, match="the abstract socket 'cpg' is taken by process") as caught:
            await serve(ring, access=Access())
        assert caught.value.owner == (os.getpid(), os.geteuid())


async def test_too_many_clients(node, connect, monkeypatch):
    monkeypatch.setattr(server, "MOST_CLIENTS", 3)
    async with node():
        clients = [await connect().connect() for _ in range(3)]
        with pytest.raises((Refused, ConnectionError)):
            await connect().connect()
        clients.pop().close()
        with trio.fail_after(raw.PATIENCE):
            while len(clients) < 3:
                try:
                    clients.append(await connect().connect())
                except (Refused, ConnectionError):
                    await trio.sleep(0.01)
        for client in clients:
            client.close()


async def test_users_who_may_not_connect_take_no_place_of_those_who_may(node, connect, monkeypatch):
    monkeypatch.setattr(server, "MOST_UNWELCOME", 2)
    welcome = True
    async with node(lambda uid, gid: welcome), connect() as before:
        welcome = False
        streams = []
        for _ in range(3):
            stream = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            await stream.connect(connect()._address("cpg"))
            streams.append(stream)
        with trio.fail_after(raw.PATIENCE):
            assert len(await streams[2].recv(1 << 14)) == 12328
        welcome = True
        async with connect() as after:
            for client in (before, after):
                assert (await client.ask(request(raw.LOCAL_GET)))[1] == Code.OK
        for stream in streams:
            stream.close()


async def test_one_that_says_no_hello(node, connect, monkeypatch, caplog):
    monkeypatch.setattr(server, "HELLO_PATIENCE", 0.05)
    async with node():
        for words in (b"", b"x" * 24):
            stream = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            await stream.connect(connect()._address("cmap"))
            await stream.send(words)
            with trio.fail_after(raw.PATIENCE):
                assert await stream.recv(1) == b""
            stream.close()
    assert "ended: it has said nothing" in caplog.text
    assert "ended: a connection begins with id -1" in caplog.text


async def test_who_comes_again_and_again_does_not_fill_the_log(node, connect, caplog):
    welcome = False
    async with node(lambda uid, gid: welcome):
        for _ in range(50):
            with pytest.raises(Refused):
                await connect().connect()
        welcome = True
        for _ in range(50):
            stream = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            await stream.connect(connect()._address("cpg"))
            await stream.send(b"x" * 24)
            with trio.fail_after(raw.PATIENCE):
                assert await stream.recv(1) == b""
            stream.close()
    assert caplog.text.count("may not connect (uidgid)") == 1
    assert caplog.text.count("a connection begins with id -1") == 1


KNOWN = {"cpg": range(14), "quorum": range(6), "votequorum": range(11), "cmap": range(11), "cfg": range(13)}


def noise(dice, service):
    """A request, or something like it."""
    size = dice.choice((0, 8, 16, 24, 136, 144, 152, 272, dice.randrange(300)))
    body = dice.randbytes(size) if dice.random() < 0.5 else bytes(size)
    if service == "cpg" and dice.random() < 0.3:
        whole = dice.randrange(1 << 25)
        return dice.choice((mcast(body), join(body[:128], PID), piece(body, whole, 1), piece(body, len(body), 3)))
    number = dice.choice(KNOWN[service]) if dice.random() < 0.9 else dice.randrange(1 << 31)
    datagram = request(number, body)
    if dice.random() < 0.1:
        datagram = datagram[: dice.randrange(len(datagram))] + dice.randbytes(dice.randrange(20))
    return datagram


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("seed", range(2))
async def test_five_thousand_requests_of_noise(node, connect, service, seed, caplog):
    caplog.set_level(logging.ERROR)
    dice = random.Random(f"{service} {seed}")
    async with node() as ring, connect() as witness:
        await witness.ask(join(b"witness", PID))
        await witness.until(CONFCHG)
        sent = 0
        while sent < 5000:
            async with connect(service) as bad:
                bad.requests.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
                for _ in range(dice.randrange(1, 400)):
                    try:
                        with trio.fail_after(raw.PATIENCE):
                            await bad.send(noise(dice, service))
                    except OSError:
                        break
                    sent += 1
                    for each in (bad.requests, bad.events):
                        while _drained(each):
                            pass
        await witness.send(mcast(b"still here"))
        while not (await witness.until(DELIVER))[2].endswith(b"still here"):
            pass
        await settled(lambda: list(ring.groups) == [b"witness"])
        await settled(lambda: len(folders()) == 1)
    assert not folders()


async def be_hostile(connect, dice, until):
    """Connect again and again, also into the group of others, and do anything."""
    while not until.is_set():
        service = dice.choice(["cpg", "cpg", *SERVICES])
        with contextlib.suppress(OSError, Refused, trio.TooSlowError):
            async with connect(service) as bad:
                reads = dice.random() < 0.5
                if service == "cpg":
                    await bad.send(join(dice.choice([b"well", b"other"]), dice.choice([PID, dice.randrange(1 << 16)])))
                for _ in range(dice.randrange(200)):
                    datagram = noise(dice, service)
                    if service == "cpg" and dice.random() < 0.7:
                        datagram = mcast(dice.randbytes(dice.choice([0, 10, 1000, 50_000])))
                    with trio.fail_after(0.1):
                        await bad.send(datagram)
                    for each in (bad.requests, bad.events) if reads else ():
                        while _drained(each):
                            pass


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_clients_do_others_are_served(node, connect, seed, monkeypatch):
    """Their messages arrive, each sender's in its order, in one order for all, and their memberships last."""
    monkeypatch.setattr(server, "EVENT_LIMIT", 16 << 20)
    monkeypatch.setattr(server, "EVENTS_OF_ALL", 24 << 20)
    monkeypatch.setattr(server, "KEPT_FOR_ALL", 8 << 20)
    dice = random.Random(seed)
    done = trio.Event()
    streams = [], []

    async def take_part(client, number, stream):
        for step in range(100):
            await client.send(mcast(b"%d: %d" % (number, step)))
            while not (stream and stream[-1][1].endswith(b"%d: %d" % (number, step))):
                kind, _, body = await client.event()
                if kind in (CONFCHG, DELIVER, DELIVER_PIECE):
                    stream.append((kind, body))

    async with node() as ring, connect() as one, connect() as two:
        for number, client in enumerate((one, two)):
            await client.ask(join(b"well", PID + number))
            await client.until(CONFCHG)
        await one.until(CONFCHG)  # the other's
        async with trio.open_nursery() as hostile:
            for _ in range(6):
                hostile.start_soon(be_hostile, connect, random.Random(dice.random()), done)
            async with trio.open_nursery() as good:
                for number, client in enumerate((one, two)):
                    good.start_soon(take_part, client, number, streams[number])
            done.set()
        both = min(map(len, streams))
        assert streams[0][:both] == streams[1][:both]
        for number, stream in enumerate(streams):
            own = [body[160:] for kind, body in stream if kind == DELIVER and body[144:160] == sender(PID + number)]
            assert [data for data in own if data.startswith(b"%d: " % number)] == [
                b"%d: %d" % (number, step) for step in range(100)
            ]
            assert not {(1, PID), (1, PID + 1)} & {
                member[:2] for kind, body in stream if kind == CONFCHG for member in members(body)[1]
            }
        await settled(lambda: list(ring.groups) == [b"well"] and len(ring.groups[b"well"]) == 2)
    assert not folders()


def sender(pid):
    """Return nodeid and pid of a delivered message."""
    return struct.pack("<I4xI4x", 1, pid)


def _drained(datagrams):
    try:
        return datagrams._sock.recv(1 << 21)
    except BlockingIOError:
        return b""


async def test_a_thousand_abrupt_ends_leave_nothing(node, connect):
    dice = random.Random(3)
    async with node() as ring, connect() as witness:
        await witness.ask(join(b"witness", PID))
        await witness.until(CONFCHG)
        before = descriptors()

        async def come_and_go(number):
            client = connect(dice.choice(SERVICES))
            stage = dice.randrange(4)
            try:
                await client.connect()
                if stage and client.service == "cpg":
                    await client.send(join(b"crowd", number))
                    if stage > 1:
                        await client.send(mcast(b"gone"))
                    if stage > 2:
                        await client.event()
            finally:
                client.close()

        for start in range(0, 1000, 20):
            async with trio.open_nursery() as nursery:
                for number in range(start, start + 20):
                    nursery.start_soon(come_and_go, number)
        await settled(lambda: list(ring.groups) == [b"witness"])
        await settled(lambda: len(folders()) == 1)
        await settled(lambda: descriptors() == before)
        assert (await witness.ask(request(raw.LOCAL_GET)))[1] == Code.OK
        gc.collect()
        assert sum(isinstance(each, LibqbSession) for each in gc.get_objects()) == 1
