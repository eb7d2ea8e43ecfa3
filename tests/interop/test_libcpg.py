"""Clients of ours on real nodes, through libcpg, beside clients in C: all that may happen to them and their daemon."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.cpg.processes import holds, members, run
from tests.cpg.ring_programs import PROGRAMS
from tests.interop.records import differences
from tests.interop.ring import MixedRing

PATIENCE = 60
TOKEN = 1000
LARGE = (16 << 20, 100, 1_047_552, 10, 1_047_553, 3 << 20, 1)


@pytest.fixture
async def ring(mixed_ring):
    """Three real nodes in a ring."""
    ring = mixed_ring(3, token=TOKEN)
    await whole(ring)
    return ring


async def whole(ring):
    """Have all nodes run and be in one ring."""
    places = tuple(ring.network.places)
    await ring.start_corosync(*(k for k in places if k not in ring.corosyncs))
    await ring.wait_ring(*places)


def at(ring, k):
    """Run `cpg` at a place to its end."""
    return partial(run, prefix=ring.place(k).command())


async def listen(ring, nursery, k):
    return await ring.start_program(nursery, k, "cpg", "listen", "chat", "--corosync", "--json")


async def sender(ring, nursery, k):
    """Start a program that sends the lines that are said to it."""
    return await ring.start_program(nursery, k, "cpg", "send", "chat", "--corosync", "--alone")


def texts(events):
    return [base64.b64decode(event["data"]).decode() for event in events if event["event"] == "message"]


def since(events, program):
    """What came after the join of a program, itself included."""
    for index, event in enumerate(events):
        if any(pid == program.process.pid for _, pid, _ in event.get("joined", ())):
            return events[index:]
    raise AssertionError("it has not joined")


def left(events, node, reason):
    """Processes of a node that went for that reason."""
    gone = [entry for event in events if event["event"] == "confchg" for entry in event["left"]]
    return [pid for at, pid, why in gone if (at, why) == (node, reason)]


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    with MixedRing(tmp_path_factory.mktemp("programs"), 2) as ring:
        trio.run(whole, ring)
        yield ring


@pytest.mark.parametrize("name", [program.__name__ for program in PROGRAMS])
def test_what_every_ring_can_do(two_nodes, name):
    command = two_nodes.place(1).command(sys.executable, "-m", "tests.interop.run_program", name)
    subprocess.run(command, check=True, timeout=PATIENCE)


async def test_listen_send_and_members(ring, nursery):
    one, three = [await listen(ring, nursery, k) for k in (1, 3)]
    await one.until(members(2))
    await three.until(members(2))
    assert await at(ring, 2)("send", "chat", "hello", "all", "--corosync") == (0, "", "")
    for listener in (one, three):
        await listener.until(lambda events: texts(events) == ["hello", "all"])
        await listener.until(members(2))
    code, out, _ = await at(ring, 2)("members", "--corosync", "--json")
    assert code == 0
    nodes, group = map(json.loads, out.splitlines())
    assert nodes["members"] == [1, 2, 3]
    assert group == {"group": "chat", "members": [[1, one.process.pid], [3, three.process.pid]]}
    assert sorted(ring.groups_at(1)["chat"]) == sorted([(one.process.pid, 1), (three.process.pid, 3)])
    assert [event["event"] for event in one.events[:3]] == ["confchg", "ring", "quorum"]
    assert one.events[-4:] == three.events[-4:]
    code, _, errors = await at(ring, 2)("send", "chat", "hello", "--safe", "--corosync")
    assert code == 1
    assert "SAFE_OR_AGREED" in errors
    assert await one.stop() == await three.stop() == 0
    await ring.check_health(1, 2, 3)


@pytest.mark.long
async def test_cpg_flood_and_cpgflood_see_one_order(ring, cpgflood):
    reports = []

    async def flood(k, *program):
        command = ring.place(k).command(*program, "-g", "bench", "-n", "6", "-t", "2")
        reports.append(json.loads((await trio.run_process(command, capture_stdout=True)).stdout))

    with trio.fail_after(2 * PATIENCE):
        async with trio.open_nursery() as nursery:
            for k in (1, 2, 3):
                nursery.start_soon(flood, k, cpgflood)
                nursery.start_soon(flood, k, sys.executable, "-m", "cpg", "flood", "--corosync")
    assert len({report["order"] for report in reports}) == 1, reports
    assert {report["confchgs"] for report in reports} == {0}
    assert {report["delivered"] for report in reports} == {sum(report["sent"] for report in reports)}
    assert all(report["sent"] for report in reports)


@pytest.mark.long
async def test_messages_of_16_mib_from_all_sides(ring, nursery):
    clients = {(k, "client"): await ring.start_client(nursery, k, "large") for k in (1, 2, 3)}
    for client in clients.values():
        await client.until(members(3))
    for client in clients.values():
        await client.say(f"send {' '.join(map(str, LARGE))}", "quiet")
    for client in clients.values():
        await client.until(holds("quiet"))
        await client.until(lambda events: sum(e["event"] == "message" for e in events) == 3 * len(LARGE))
        assert await client.finish() == 0
    assert not list(differences({name: client.events for name, client in clients.items()}, (1, 2, 3)))
    for client in clients.values():
        sent = [event["data"] for event in client.events if event["event"] == "sent"]
        assert [int(data.partition(":")[0]) for data in sent] == list(LARGE)
        for other in clients.values():
            got = [e["data"] for e in other.events if e["event"] == "message" and e["sender"][1] == client.process.pid]
            assert got == sent


async def test_a_client_that_is_killed_goes_down_as_a_process(ring, nursery):
    one, two = [await listen(ring, nursery, k) for k in (1, 2)]
    for listener in (one, two):
        await listener.until(members(2))
    two.signal(signal.SIGKILL)
    await one.until(members(1))
    assert left(one.events, 2, "procdown") == [two.process.pid]
    assert await one.stop() == 0


async def test_a_daemon_that_is_killed_takes_its_clients_with_it(ring, nursery):
    one, two, three = [await listen(ring, nursery, k) for k in (1, 2, 3)]
    for listener in (one, two, three):
        await listener.until(members(3))
    program = await sender(ring, nursery, 1)
    for listener in (one, two, three):
        await listener.until(members(4))
    await program.say(*map(str, range(1000)))
    ring.kill_corosync(3)
    await program.say(*map(str, range(1000, 2000)))
    with trio.fail_after(PATIENCE):
        assert await three.process.wait() == 1
    for listener in (one, two):
        await listener.until(members(3))
        assert left(listener.events, 3, "nodedown") == [three.process.pid]
        await listener.until(lambda events: len(texts(events)) == 2000)
        assert texts(listener.events) == [str(number) for number in range(2000)]
    assert since(one.events, program) == since(two.events, program)
    changes = [event for event in two.events if event["event"] != "message"]
    assert [event["event"] for event in changes[-3:]] == ["confchg", "ring", "quorum"]
    assert changes[-1]["quorate"]
    await whole(ring)
    again = await listen(ring, nursery, 3)
    await again.until(members(4))
    await one.until(members(4))
    assert await program.finish() == 0
    for listener in (one, two, again):
        assert await listener.stop() == 0


async def test_quorum_is_told_as_quorumtool_tells_it(ring, nursery):
    one = await listen(ring, nursery, 1)
    await one.until(holds("quorum", quorate=True, members=[1, 2, 3]))
    await ring.stop_corosync(3)
    await one.until(holds("quorum", quorate=True, members=[1, 2]))
    await ring.stop_corosync(2)
    await one.until(holds("quorum", quorate=False, members=[1]))
    rings = [event for event in one.events if event["event"] in ("ring", "quorum")]
    assert [event["event"] for event in rings] == ["ring", "quorum"] * (len(rings) // 2)
    assert [event["members"] for event in rings[::2]] == [event["members"] for event in rings[1::2]]
    representative, seq = rings[-2]["ring"]
    shown = ring.place(1).run("corosync-quorumtool", "-s", check=False)
    words = [line.split() for line in shown.splitlines()]
    assert ["Quorate:", "No"] in words
    assert ["Ring", "ID:", f"{representative}.{seq:x}"] in words
    code, out, _ = await at(ring, 1)("members", "--corosync", "--alone")
    assert code == 0
    assert out.splitlines()[1] == f"chat: 1:{one.process.pid}"
    await ring.start_program(nursery, 1, "cpg", "send", "chat", "late", "--corosync")
    await whole(ring)
    await one.until(lambda events: texts(events) == ["late"])
    assert await one.stop() == 0


async def test_a_daemon_that_stops_stops_nobody_and_loses_nothing(ring, nursery):
    one, three = [await listen(ring, nursery, k) for k in (1, 3)]
    program = await sender(ring, nursery, 3)
    for listener in (one, three):
        await listener.until(members(3))
    lines = [f"{number:04} {'x' * 100}" for number in range(5000)]
    await program.say(*lines[:2000])
    ring.corosyncs[3].send_signal(signal.SIGSTOP)
    await program.say(*lines[2000:])
    before, begin = cpu(program.process.pid), time.monotonic()
    await one.until(lambda events: left(events, 3, "nodedown"))
    assert cpu(program.process.pid) - before < 0.5 * (time.monotonic() - begin), "it spins"
    ring.corosyncs[3].send_signal(signal.SIGCONT)
    assert await program.finish() == 0
    await three.until(lambda events: texts(events)[-1:] == lines[-1:])
    assert texts(three.events) == lines
    await one.until(members(2))
    got = texts(one.events)
    assert got == [line for line in lines if line in set(got)], "in order, none twice; perhaps not those said alone"
    assert await at(ring, 3)("send", "chat", "back", "--corosync") == (0, "", "")
    for listener in (one, three):
        await listener.until(lambda events: texts(events)[-1:] == ["back"])
    assert await one.stop() == await three.stop() == 0


def cpu(pid):
    """Seconds of processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.long
async def test_a_program_ends_though_its_daemon_is_stopped(ring, nursery):
    one = await listen(ring, nursery, 1)
    await one.until(members(1))
    ring.corosyncs[1].send_signal(signal.SIGSTOP)
    assert await one.stop() == 0
    ring.corosyncs[1].send_signal(signal.SIGCONT)


async def test_the_ring_changes_under_load(ring, nursery):
    """Sync holds senders up again and again: nothing is lost or doubled, and the order is one."""
    one, two = [await listen(ring, nursery, k) for k in (1, 2)]
    programs = [await sender(ring, nursery, k) for k in (1, 2)]
    for listener in (one, two):
        await listener.until(members(4))
    said = [[f"{k} {number}" for number in range(6000)] for k in (1, 2)]

    async def talk(program, lines):
        for start in range(0, len(lines), 50):
            await program.say(*lines[start : start + 50])
            await trio.sleep(0.02)
        assert await program.finish() == 0

    async with trio.open_nursery() as talking:
        for program, lines in zip(programs, said, strict=True):
            talking.start_soon(talk, program, lines)
        for _ in range(3):
            await ring.stop_corosync(3)
            await ring.wait_ring(1, 2)
            await whole(ring)
    for listener in (one, two):
        await listener.until(lambda events: len(texts(events)) >= 12_000)
    assert texts(one.events) == texts(two.events)
    for lines in said:
        assert [text for text in texts(one.events) if text in set(lines)] == lines
    assert sum(event["event"] == "ring" for event in one.events) >= 7
    assert await one.stop() == await two.stop() == 0


async def test_no_daemon(mixed_ring):
    ring = mixed_ring(1)
    code, _, errors = await at(ring, 1)("members", "--corosync")
    assert code == 1
    assert "no Corosync runs on this machine" in errors


@pytest.mark.long
async def test_a_daemon_with_sockets_for_its_ipc(mixed_ring, nursery):
    """Where the end of a daemon that is killed does not show at its connections."""
    ring = mixed_ring(1, totem=["}", "system {", "qb_ipc_type: socket"])
    await whole(ring)
    one = await listen(ring, nursery, 1)
    assert await at(ring, 1)("send", "chat", "hello", "--corosync") == (0, "", "")
    await one.until(lambda events: texts(events) == ["hello"])
    ring.kill_corosync(1)
    with trio.fail_after(PATIENCE):
        assert await one.process.wait() == 1


AS_NOBODY = """\
import os, trio, cpg
async def main():
    try:
        async with cpg.open_corosync() as ring:
            print(ring.node_ids)
    except cpg.CorosyncUnavailable as error:
        print(error)
os.setgroups([]), os.setgid(65534), os.setuid(65534)  # not before the imports: nobody may not read them everywhere
trio.run(main)
"""


async def test_a_user_that_is_refused_does_what_the_error_says(mixed_ring):
    ring = mixed_ring(1)
    await whole(ring)
    error = ring.place(1).run(sys.executable, "-c", AS_NOBODY)
    for advice in ("refuses the user with uid 65534", "/etc/corosync/uidgid.d", "uid: 65534", "corosync-cfgtool -R"):
        assert advice in error
    uidgid = ring.config[1].parent / "uidgid.d"
    uidgid.mkdir()
    (uidgid / "tests").write_text("uidgid {\n    uid: 65534\n}\n")
    ring.place(1).run("corosync-cfgtool", "-R")
    assert ring.place(1).run(sys.executable, "-c", AS_NOBODY) == "(1,)\n"
