"""Rings of a running Corosync, on a fake libcpg: what every ring can do, and what only a daemon can do to clients."""

# ruff: noqa: PT012 - the block that raises is the block under test

import ctypes
import json
import os

import pytest
import trio

import cpg
from cpg import cli
from cpg.libcpg import corosync, library
from cpg.libcpg.codes import Code
from tests.cpg.libcpg.fake_corosync import (
    JOIN,
    LARGEST_ATOMIC,
    LEAVE,
    NODEDOWN,
    NODEUP,
    PROCDOWN,
    FakeCorosync,
    _addresses,
    _ids,
)
from tests.cpg.processes import write_config
from tests.cpg.ring_programs import PROGRAMS

OTHER, THIRD = (2, 700), (3, 800)
PATIENCE = 20


@pytest.fixture
def daemon(monkeypatch):
    daemon = FakeCorosync(os.getpid())
    monkeypatch.setattr(corosync, "load", lambda: daemon.libraries)
    yield daemon
    daemon.running.set()


@pytest.fixture
def own():
    return cpg.Member(1, os.getpid())


async def read(group, count):
    with trio.fail_after(PATIENCE):
        return [await anext(group) for _ in range(count)]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
async def test_on_libcpg(daemon, program):
    with trio.fail_after(PATIENCE):
        await program(cpg.open_corosync)
    assert not daemon.clients
    assert not daemon.trackers
    assert not daemon.groups


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
async def test_embedded(tmp_path, program):
    config = write_config(tmp_path, 1)
    with trio.fail_after(PATIENCE):
        await program(lambda: cpg.open_ring(config, 1))


async def test_the_stream_of_a_ring_that_changes(daemon, own):
    async with cpg.open_corosync() as ring, ring.join("chat") as group:
        daemon.add(b"chat", THIRD, JOIN)
        daemon.add(b"chat", OTHER, NODEUP)
        daemon.change(8, (1, 2, 3), True)
        daemon.deliver(b"chat", OTHER, b"hello")
        daemon.remove(b"chat", THIRD, OTHER, NODEDOWN)
        daemon.change(12, (1,), False)
        await group.send(b"alone")
        events = await read(group, 12)
        assert events[3:] == [
            cpg.Confchg((own, THIRD), {}, {THIRD: cpg.Reason.JOIN}),
            cpg.Confchg((own, OTHER, THIRD), {}, {OTHER: cpg.Reason.NODEUP}),
            cpg.TotemConfchg(cpg.RingId(1, 8), (1, 2, 3)),
            cpg.Quorum(True, (1, 2, 3)),
            cpg.Message(OTHER, b"hello", cpg.Level.AGREED),
            cpg.Confchg((own,), dict.fromkeys((OTHER, THIRD), cpg.Reason.NODEDOWN), {}),
            cpg.TotemConfchg(cpg.RingId(1, 12), (1,)),
            cpg.Quorum(False, (1,)),
            cpg.Message(own, b"alone", cpg.Level.AGREED),
        ]
        assert list(events[8].left) == [OTHER, THIRD], "in order of node and process"
        assert (ring.ring_id, ring.node_ids, ring.quorate) == ((1, 12), (1,), False)


async def test_reasons_of_processes(daemon, own):
    async with cpg.open_corosync() as ring, ring.join("chat") as group:
        daemon.add(b"chat", (1, 5), JOIN)
        daemon.add(b"chat", (1, 6), JOIN)
        daemon.remove(b"chat", (1, 5), LEAVE)
        daemon.remove(b"chat", (1, 6), PROCDOWN)
        events = await read(group, 7)
        assert [event.left for event in events[-2:]] == [{(1, 5): cpg.Reason.LEAVE}, {(1, 6): cpg.Reason.PROCDOWN}]


# ---- quorum, which another service tells


@pytest.mark.parametrize("quorum_first", [False, True])
async def test_quorum_stands_behind_its_ring_whichever_is_reported_first(daemon, quorum_first):
    async with cpg.open_corosync() as ring, ring.join("chat") as group:
        for seq in range(8, 64, 4):
            daemon.change(seq, (1, 2), seq % 8 == 0, quorum_first=quorum_first)
            daemon.deliver(b"chat", OTHER, b"%d" % seq)
        events = (await read(group, 3 + 14 * 3))[3:]
        for index, seq in enumerate(range(8, 64, 4)):
            assert events[3 * index : 3 * index + 3] == [
                cpg.TotemConfchg(cpg.RingId(1, seq), (1, 2)),
                cpg.Quorum(seq % 8 == 0, (1, 2)),
                cpg.Message(OTHER, b"%d" % seq, cpg.Level.AGREED),
            ]


async def test_quorum_of_another_ring_is_not_reported(daemon):
    async with cpg.open_corosync() as ring, ring.join("chat") as group:
        for client in daemon.clients.values():
            client.tell(("totem", (1, 8), (1, 2)))
        daemon.deliver(b"chat", OTHER, b"what has become of it?")
        daemon.deliver(b"chat", OTHER, b"and now?")
        events = await read(group, 6)
        assert [type(event) for event in events[3:]] == [cpg.TotemConfchg, cpg.Message, cpg.Message]
        daemon.ring = (1, 8), (1, 2)
        daemon.tell_quorum()
        assert await read(group, 1) == [cpg.Quorum(True, (1, 2))]


async def test_quorum_that_changes_within_a_ring_is_reported_once(daemon):
    told = []
    async with cpg.open_corosync() as ring, ring.join("chat") as group:
        ring.on_quorum(lambda *quorum: told.append(quorum))
        group.on_quorum(lambda *quorum: told.append(quorum))
        for quorate in (True, False, False, True):
            daemon.quorum = quorate
            daemon.tell_quorum()
        with trio.fail_after(PATIENCE):
            while len(told) < 6:
                await trio.sleep(0.01)
        await group.send(b"")
        await group.flush()
    assert sorted(told) == sorted(2 * [(True, (1,)), (False, (1,)), (True, (1,))])


async def test_waiting_for_quorum(daemon):
    daemon.quorum = False
    async with cpg.open_corosync() as ring:
        assert not ring.quorate
        with trio.move_on_after(0.05) as waiting:
            await ring.wait_quorate()
        assert waiting.cancelled_caught
        daemon.change(8, (1, 2), True)
        with trio.fail_after(PATIENCE):
            await ring.wait_quorate()
            await ring.wait_members(2)
        assert ring.quorate


async def test_without_a_quorum_provider_every_ring_is_quorate(daemon):
    daemon.has_provider = False
    async with cpg.open_corosync() as ring, ring.join("chat") as group:
        assert ring.quorate
        daemon.change(8, (1, 2), False)
        events = await read(group, 5)
        assert events[1:] == [
            cpg.TotemConfchg(cpg.RingId(1, 4), (1,)),
            cpg.Quorum(True, (1,)),
            cpg.TotemConfchg(cpg.RingId(1, 8), (1, 2)),
            cpg.Quorum(True, (1, 2)),
        ]


async def test_callbacks_of_the_ring_begin_with_the_present_one(daemon):
    seen = []
    async with cpg.open_corosync() as ring:
        daemon.change(8, (1, 2), True)
        await ring.wait_members(2)
        ring.on_totem_confchg(lambda *told: seen.append(told))
        ring.on_quorum(lambda *told: seen.append(told))
        daemon.change(12, (1,), False)
        with trio.fail_after(PATIENCE):
            while len(seen) < 4:
                await trio.sleep(0.01)
    assert seen == [((1, 8), (1, 2)), (True, (1, 2)), ((1, 12), (1,)), (False, (1,))]


async def test_a_ring_reported_before_the_own_join_comes_behind_it(daemon, own):
    async with cpg.open_corosync() as ring:
        daemon.answers["cpg_join"] += [Code.TRY_AGAIN] * 4
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def join():
                async with ring.join("chat") as group:
                    await group.send(b"here")
                    events = await read(group, 4)
                assert [type(event) for event in events] == [cpg.Confchg, cpg.TotemConfchg, cpg.Quorum, cpg.Message]
                assert events[1].ring_id == (1, 8)

            with trio.fail_after(PATIENCE):
                while not daemon.clients:
                    await trio.sleep(0)
            daemon.change(8, (1, 2), True)
            for client in daemon.clients.values():
                client.initial_ring_told = True


async def test_an_entry_that_is_cancelled_leaves_when_it_has_joined(daemon, monkeypatch):
    monkeypatch.setattr(cpg.group, "LEAVE_PATIENCE", 0.02)
    async with cpg.open_corosync() as ring:
        daemon.answers["cpg_join"] += [Code.TRY_AGAIN] * 4
        with trio.move_on_after(PATIENCE) as entry:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ring.join("chat").__aenter__)
                while not daemon.clients:
                    await trio.sleep(0)
                [client] = daemon.clients.values()
                client.held = True
                while not ring._memberships:  # cancelled before, it would close the connection at once
                    await trio.sleep(0.001)
                entry.cancel()
        client.release()
        with trio.fail_after(PATIENCE):
            while daemon.groups or daemon.clients:
                await trio.sleep(0.001)
        assert daemon.calls["cpg_leave"] == 1


# ---- try again


@pytest.mark.parametrize("code", [Code.TRY_AGAIN, Code.INTERRUPT])
@pytest.mark.parametrize("sizes", [[10] * 200, [10, LARGEST_ATOMIC + 1, 20, 5 * LARGEST_ATOMIC, 30]])
async def test_what_is_refused_is_sent_again_in_its_place(daemon, code, sizes):
    payloads = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    refusals = [code, code, Code.OK, code] * 3
    daemon.on_cpg_mcast_joined = refusing(daemon.on_cpg_mcast_joined, refusals)
    async with cpg.open_corosync() as ring, ring.join("chat") as group:
        got = []
        group.on_message(lambda sender, data: got.append(data))
        await group.send(payloads)
        with trio.fail_after(PATIENCE):
            await group.flush()
        assert got == payloads
    assert not refusals


def refusing(call, codes):
    """Refuse with these codes first, and act at each OK."""

    def refuse(*arguments):
        code = codes.pop(0) if codes else Code.OK
        return code if code != Code.OK else call(*arguments)

    return refuse


async def test_opening_joining_and_leaving_are_tried_again(daemon):
    for name in ("cpg_model_initialize", "quorum_model_initialize", "cpg_join", "cpg_leave", "quorum_trackstart"):
        daemon.answers[name] += [Code.TRY_AGAIN] * 3
    async with cpg.open_corosync() as ring, ring.join("chat") as group:
        await group.send(b"here")
        await group.flush()
    assert not any(daemon.answers.values())


async def test_nothing_is_sent_into_a_socket_that_is_full(daemon):
    """Where libqb would spin until a stopped daemon reads."""
    async with cpg.open_corosync() as ring, ring.join("chat") as group:
        group.on_message(lambda sender, data: None)
        [client] = daemon.clients.values()
        client.ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                client.ours.send(bytes(1000))
        await group.send([b"x"] * 1000)
        await trio.sleep(0.05)
        assert not daemon.calls["cpg_mcast_joined"]
        client.theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                client.theirs.recv(65536)
        client.theirs.setblocking(True)
        with trio.fail_after(PATIENCE):
            await group.flush()
        assert daemon.calls["cpg_mcast_joined"] == 1000


async def test_a_flood_leaves_turns_to_others(daemon):
    async with cpg.open_corosync() as ring, ring.join("chat", limit=10_000_000) as group:
        for number in range(3000):
            daemon.clients[max(daemon.clients)].events.append(("deliver", OTHER, b"%d" % number))
        daemon.clients[max(daemon.clients)].theirs.send(bytes(3000))
        most, before = 0, daemon.calls["cpg_dispatch"]
        found = []
        while len(found) < 3000:
            await trio.lowlevel.checkpoint()
            most = max(most, daemon.calls["cpg_dispatch"] - before)
            before = daemon.calls["cpg_dispatch"]
            if group._stream:
                found += [event for event in group._stream.take_batch() if type(event) is cpg.Message]
        assert [int(message.data) for message in found] == list(range(3000))
        assert 100 < most <= 1000  # two turns: trio may give the reader both between two of ours


# ---- a daemon that is not there, ends, or stops


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (Code.LIBRARY, "no Corosync runs on this machine .*CS_ERR_LIBRARY.*systemctl start"),
        (Code.ACCESS, rf"refuses the user with uid {os.geteuid()}.*uidgid"),
        (Code.NO_SPACE, "cannot be used .*CS_ERR_NO_SPACE"),
        (99, "cannot be used .*error 99"),
    ],
)
@pytest.mark.parametrize("name", ["cpg_model_initialize", "quorum_model_initialize", "quorum_trackstart"])
async def test_a_daemon_that_cannot_be_used(daemon, name, code, text):
    daemon.answers[name].append(code)
    with pytest.raises(cpg.CorosyncUnavailable, match=text):
        async with cpg.open_corosync():
            raise AssertionError
    assert not daemon.clients
    assert not daemon.trackers


def test_a_library_that_is_missing_or_old():
    with pytest.raises(cpg.CorosyncUnavailable, match=r"libnone.so.0 cannot be loaded .*install"):
        library._load("libnone.so.0", {})
    with pytest.raises(cpg.CorosyncUnavailable, match=r"libc.so.6 is too old .*quorum_model_initialize.*3\.1"):
        library._load("libc.so.6", {"quorum_model_initialize": []})


async def test_a_daemon_that_dies_ends_ring_and_groups(daemon):
    ended = []
    with pytest.raises(cpg.RingLost, match=r"connection to Corosync on this machine is lost .*Open the ring again"):
        async with cpg.open_corosync() as ring:
            try:
                async with ring.join("chat") as group, ring.join("other"):
                    await group.send(b"here")
                    await group.flush()
                    daemon.die()
                    await trio.sleep(PATIENCE)
            except cpg.RingLost as error:
                ended.append(error)
            await trio.sleep(PATIENCE)
    assert len(ended) == 1


async def test_a_daemon_whose_death_does_not_show_is_missed(daemon, monkeypatch):
    monkeypatch.setattr(corosync, "PROBE_INTERVAL", 0.01)
    with pytest.raises(cpg.RingLost, match=r"is lost .quorum_getquorate: CS_ERR_LIBRARY"):
        async with cpg.open_corosync() as ring, ring.join("chat"):
            await trio.sleep(0.05)
            daemon.die(visibly=False)
            await trio.sleep(PATIENCE)


@pytest.mark.parametrize("what", ["join", "list_groups", "send"])
async def test_a_daemon_that_dies_meanwhile(daemon, what):
    with pytest.raises(cpg.RingLost, match="is lost"):
        async with cpg.open_corosync() as ring, ring.join("chat") as group:
            daemon.die()
            match what:
                case "join":
                    await ring.join("other").__aenter__()
                case "list_groups":
                    await ring.list_groups()
                case "send":
                    await group.send([bytes(1000)] * 10_000)
                    await group.flush()


async def test_listing_groups_is_tried_again_and_may_fail(daemon):
    async with cpg.open_corosync() as ring, ring.join("chat") as group:
        daemon.answers["cpg_iteration_next"].append(Code.TRY_AGAIN)
        assert await ring.list_groups() == {b"chat": (group.member,)}
        daemon.answers["cpg_iteration_next"].append(Code.LIBRARY)
        with pytest.raises(cpg.RingLost, match="cpg_iteration_next: CS_ERR_LIBRARY"):
            await ring.list_groups()
    assert not daemon._iterations


async def beat(beats):
    while True:
        await trio.sleep(0.001)
        beats.append(None)


async def test_opening_gives_up_a_daemon_that_does_not_answer(daemon, monkeypatch, nursery):
    monkeypatch.setattr(corosync, "CONNECT_PATIENCE", 0.1)
    monkeypatch.setattr(corosync, "CLOSE_PATIENCE", 0.02)
    beats = []
    nursery.start_soon(beat, beats)
    daemon.running.clear()
    with pytest.raises(cpg.CorosyncUnavailable, match="has not answered"):
        async with cpg.open_corosync():
            raise AssertionError
    assert len(beats) > 5, "the program went on meanwhile"
    daemon.running.set()
    with trio.fail_after(PATIENCE):
        while daemon.clients or daemon.calls["cpg_finalize"] == 0:
            await trio.sleep(0.01)
    nursery.cancel_scope.cancel()


async def test_opening_can_be_cancelled(daemon, monkeypatch):
    monkeypatch.setattr(corosync, "CLOSE_PATIENCE", 0.02)
    daemon.running.clear()
    with trio.move_on_after(0.05) as scope:
        async with cpg.open_corosync():
            raise AssertionError
    assert scope.cancelled_caught
    daemon.running.set()
    with trio.fail_after(PATIENCE):
        while daemon.clients or daemon.trackers or not daemon.calls["cpg_finalize"]:
            await trio.sleep(0.01)


async def test_a_stopped_daemon_stops_nothing_else(daemon, monkeypatch, nursery):
    monkeypatch.setattr(cpg.group, "LEAVE_PATIENCE", 0.05)
    monkeypatch.setattr(corosync, "CLOSE_PATIENCE", 0.02)
    beats = []
    nursery.start_soon(beat, beats)
    async with cpg.open_corosync() as ring:
        async with ring.join("chat") as group:
            await group.send(bytes(3 * LARGEST_ATOMIC))
            await group.flush()
            daemon.running.clear()
        with trio.move_on_after(0.05):
            await ring.list_groups()
    assert len(beats) > 5, "the program went on meanwhile"
    daemon.running.set()
    with trio.fail_after(PATIENCE):
        while daemon.clients or daemon.trackers:
            await trio.sleep(0.01)
    nursery.cancel_scope.cancel()


async def test_a_group_can_be_joined_again_at_once_however_long_closing_takes(daemon):
    daemon.slow["cpg_finalize"] = 0.05
    async with cpg.open_corosync() as ring:
        for _ in range(3):
            async with ring.join("chat") as group:
                await group.send(b"here")


async def test_another_ring_object_of_this_process_is_the_same_process(daemon):
    async with cpg.open_corosync() as one, cpg.open_corosync() as two, one.join("chat") as group:
        with pytest.raises(cpg.AlreadyJoined, match=f"process {os.getpid()} is in group"):
            async with two.join("chat"):
                raise AssertionError
        async with two.join("other"):
            assert await one.list_groups() == {b"chat": (group.member,), b"other": (group.member,)}


async def test_a_group_that_is_reserved_for_others(daemon):
    async with cpg.open_corosync() as ring:
        daemon.answers["cpg_join"].append(Code.ACCESS)
        with pytest.raises(cpg.GroupReserved, match=rf"group 'chat' is reserved, .* uid {os.geteuid()} may not join"):
            async with ring.join("chat"):
                raise AssertionError
        async with ring.join("chat"):
            pass


# ---- the commands


def test_commands(daemon, capfd):
    def run(*arguments):
        code = cli.main(arguments)
        out, errors = capfd.readouterr()
        return code, out, errors

    assert run("send", "chat", "hello", "--corosync") == (0, "", "")
    daemon.add(b"chat", OTHER, NODEUP)
    assert run("members", "--corosync") == (0, "ring 1.4: node 1\nchat: 2:700\n", "")
    code, _, errors = run("send", "chat", "hello", "--corosync", "--safe")
    assert code == 1
    assert "SAFE_OR_AGREED" in errors
    code, out, _ = run("flood", "-g", "bench", "-n", "1", "-t", "0.1", "--corosync")
    report = json.loads(out)
    assert code == 0
    assert report["delivered"] == report["sent"] > 0
    daemon.answers["cpg_model_initialize"].append(Code.LIBRARY)
    code, _, errors = run("members", "--corosync")
    assert code == 1
    assert errors.startswith("cpg: no Corosync runs on this machine")


@pytest.mark.parametrize("option", [("--node", "1"), ("-c", "ring.conf")])
def test_corosync_knows_its_configuration_itself(option, capsys):
    with pytest.raises(SystemExit) as exited:
        cli.main(["members", "--corosync", *option])
    assert exited.value.code == 2
    assert "not allowed with argument --corosync" in capsys.readouterr().err


# ---- what no correct library calls back with


@pytest.mark.parametrize(
    ("function", "arguments", "text"),
    [
        ("on_deliver", (None, 2, 700, None, 5), "5 bytes, but none"),
        ("on_confchg", (None, _addresses([(1, 1, 0)] * 129), 129, None, 0, None, 0), "list of 129 members"),
        ("on_confchg", (None, None, 1 << 40, None, 0, None, 0), "list of 1099511627776 members"),
        ("on_confchg", (None, None, 1, None, 0, None, 0), "list of 1 members"),
        ("on_confchg", (None, None, 0, _addresses([(2, 700, 0)]), 1, None, 0), "reason 0"),
        ("on_confchg", (None, None, 0, None, 0, _addresses([(2, 700, 6)]), 1), "reason 6"),
        ("on_totem_confchg", (library._RingId(1, 8), 385, _ids([1])), "ring of 385 nodes"),
        ("on_totem_confchg", (library._RingId(1, 8), 1, None), "ring of 1 nodes"),
    ],
)
async def test_callbacks_that_cannot_be(daemon, function, arguments, text):
    with pytest.raises(cpg.RingLost, match=text):
        async with cpg.open_corosync() as ring, ring.join("chat"):
            [client] = daemon.clients.values()
            client.tell(("raw", function, *arguments))
            await trio.sleep(PATIENCE)


@pytest.mark.parametrize(
    ("function", "arguments", "text"),
    [
        ("on_quorum", (1, library._RingId(1, 8), 385, _ids([1])), "ring of 385 nodes"),
        ("on_nodelist", (library._RingId(1, 8), 1, None, 0, None, 0, None), "ring of 1 nodes"),
    ],
)
async def test_quorum_callbacks_that_cannot_be(daemon, function, arguments, text):
    with pytest.raises(cpg.RingLost, match=text):
        async with cpg.open_corosync():
            [tracker] = daemon.trackers.values()
            tracker.tell(("raw", function, *arguments))
            await trio.sleep(PATIENCE)


def test_an_interrupt_in_a_callback_is_not_lost(daemon, monkeypatch):
    class Interrupt(BaseException):
        pass

    def interrupt(*_):
        raise Interrupt

    monkeypatch.setattr(library.Cpg, "_on_deliver", interrupt)
    connection = library.Cpg(daemon)
    connection.open()
    connection.join(b"chat")
    daemon.deliver(b"chat", OTHER, b"data")
    with pytest.raises(Interrupt):
        connection.dispatch(10)
    connection.close()


async def test_a_process_that_is_disconnected_is_informed(daemon):
    with pytest.raises(cpg.RingLost, match="removed from group 'chat'"):
        async with cpg.open_corosync() as ring, ring.join("chat"):
            daemon.remove(b"chat", ring.member, PROCDOWN)
            await trio.sleep(PATIENCE)


def test_the_structures_are_as_large_as_those_of_the_headers():
    sizes = {
        library._Name: 132,
        library._Address: 12,
        library._RingId: 16,
        library._Description: 140,
        library._Iovec: 16,
        library._CpgModel: 40,
        library._QuorumModel: 24,
    }
    assert {structure: ctypes.sizeof(structure) for structure in sizes} == sizes
