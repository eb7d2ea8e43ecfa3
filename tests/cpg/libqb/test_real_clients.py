"""Unmodified programs on our nodes: libcpg, through Python and C, and Corosync's own tools."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
import trio

from cpg.libcpg.codes import Code
from tests.cpg.libqb.conftest import HERE
from tests.cpg.libqb.ring import GUEST, RingOfOurs
from tests.cpg.processes import members
from tests.cpg.ring_programs import PROGRAMS
from tests.interop.ring import GLANCE
from tests.interop.test_libcpg import whole

PATIENCE = 60


@pytest.mark.parametrize("name", [program.__name__ for program in PROGRAMS])
def test_what_every_ring_can_do(two_nodes, name):
    """The programs that run embedded and on a Corosync, through its library."""
    command = two_nodes.place(1).command(sys.executable, "-m", "tests.interop.run_program", name)
    subprocess.run(command, check=True, timeout=PATIENCE)


def test_quorumtool(two_nodes):
    shown = two_nodes.place(2).run("corosync-quorumtool", "-s")
    for line in ("Quorum provider:  corosync_votequorum", "Nodes: +2", "Node ID: +2", "Quorate: +Yes", "Quorum: +2 "):
        assert re.search(f"^{line}", shown, re.MULTILINE), shown
    assert re.search(r"^Ring ID: +1\.[0-9a-f]+$", shown, re.MULTILINE), shown
    table = two_nodes.place(2).run("corosync-quorumtool", "-l")
    assert re.findall(r"^ +(\d+) +1 (\w+)( \(local\))?$", table, re.MULTILINE) == [
        ("1", "node1", ""),
        ("2", "node2", " (local)"),
    ]
    assert "10.77.0.1" in two_nodes.place(2).run("corosync-quorumtool", "-i")


def test_cfgtool(two_nodes):
    place = two_nodes.place(1)
    links = place.run("corosync-cfgtool", "-s")
    assert "Local node ID 1, transport udpu" in links
    assert links.count("\tconnected") == 1
    assert "nodeid: 2 reachable" in place.run("corosync-cfgtool", "-n")
    assert place.run("corosync-cfgtool", "-a", "2") == "10.77.0.2\n"


@pytest.mark.parametrize(
    ("settings", "mtu"),
    [({}, 1446), ({"links": 2, "secrets": ("aes256", "sha256")}, 1397)],
    ids=["one-link", "two-sealed-links"],
)
async def test_tools_show_links_of_knet_as_on_a_real_node(has_libraries, tmp_path, settings, mtu):
    """Node 1 is ours, node 2 is a Corosync, node 3 is not there: the tools say the same on both, from either side."""
    with RingOfOurs(tmp_path, 3, real=(2,), transport="knet", token=1000, **settings) as ring:
        await ring.start_corosync(1, 2)
        await ring.wait_ring(1, 2)
        address, links = ring.network.address, range(settings.get("links", 1))

        def expected(k, other):
            ways = [f"{link} udp ({address(k, link)}->{address(other, link)})" for link in links]
            states = {k: "localhost", other: "connected", 3: "disconnected"}
            nodes = "".join(f"\t\tnodeid:          {node}:\t{state}\n" for node, state in sorted(states.items()))
            return (
                f"Local node ID {k}, transport knet\nnodeid: {other} reachable\n"
                + "".join(f"   LINK: {way} enabled connected mtu: {mtu}\n" for way in ways)
                + "\n",
                f"Local node ID {k}, transport knet\n"
                + "".join(f"LINK ID {link} udp\n\taddr\t= {address(k, link)}\n\tstatus:\n{nodes}" for link in links),
            )

        def shown(k):
            return tuple(ring.place(k).run("corosync-cfgtool", option) for option in ("-n", "-s"))

        with trio.move_on_after(PATIENCE):  # until both have found the MTU
            while (shown(1), shown(2)) != (expected(1, 2), expected(2, 1)):
                await trio.sleep(GLANCE)
        assert (shown(1), shown(2)) == (expected(1, 2), expected(2, 1))
        assert "\tstatus\t= n31\n" in ring.place(1).run("corosync-cfgtool", "-s", "-b")
        assert "\tstatus\t= 3n1\n" in ring.place(2).run("corosync-cfgtool", "-s", "-b")
        assert ring.place(1).run("corosync-cfgtool", "-a", "2") == ring.place(2).run("corosync-cfgtool", "-a", "2")
        ours, theirs = ring.cmap(1, "stats.knet.node", "stats"), ring.cmap(2, "stats.knet.node", "stats")
        assert ours.keys() < {key.replace("node1", "node2") for key in theirs}
        assert ours["stats.knet.node2.link0.mtu"] == theirs["stats.knet.node1.link0.mtu"]
        assert ours["stats.knet.node2.link0.connected"] == "1"
        assert ours["stats.knet.node3.link0.connected"] == "0"
        for prefix in ("totem.", "nodelist.", "runtime.config.totem.interface.", "runtime.config.totem.knet"):
            known, real = ring.cmap(1, prefix), ring.cmap(2, prefix)
            own = {"nodelist.local_node_pos", *(f"totem.interface.{link}.bindnetaddr" for link in links)}
            common = (known.keys() & real.keys()) - own
            assert {key: known[key] for key in common} == {key: real[key] for key in common}
            assert common
        if len(links) > 1:
            ring.network.cut(2, 1)
            with trio.fail_after(PATIENCE):
                for k, other in ((1, 2), (2, 1)):
                    way = f"LINK: 1 udp ({address(k, 1)}->{address(other, 1)}) enabled mtu: {mtu}\n"
                    while way not in ring.place(k).run("corosync-cfgtool", "-n"):
                        await trio.sleep(GLANCE)
            assert ring.members_at(1) == ring.members_at(2) == (1, 2)
        ring.kill_corosync(2)
        with trio.fail_after(PATIENCE):
            while "nodeid: 2" in ring.place(1).run("corosync-cfgtool", "-n"):
                await trio.sleep(GLANCE)
        assert "nodeid:          2:\tdisconnected" in ring.place(1).run("corosync-cfgtool", "-s")


@pytest.mark.parametrize(
    "command",
    [
        "corosync-cmapctl -s totem.token u32 4",
        "corosync-cfgtool -k 2",
    ],
)
def test_what_would_change_something_is_refused(two_nodes, command):
    assert re.search("NOT_SUPPORTED|ACCESS|error = 19|error: 19", two_nodes.place(1).run(*command.split(), check=False))
    assert "Quorate:          Yes" in two_nodes.place(1).run("corosync-quorumtool", "-s")


def test_cmapctl(two_nodes):
    place = two_nodes.place(1)
    assert place.run("corosync-cmapctl", "-g", "quorum.provider") == "quorum.provider (str) = corosync_votequorum\n"
    assert "Can't get key" in place.run("corosync-cmapctl", "-g", "no.such.key", check=False)
    members = place.run("corosync-cmapctl", "-b", "runtime.members.")
    assert [line for line in members.splitlines() if ".status" in line] == [
        "runtime.members.1.status (str) = joined",
        "runtime.members.2.status (str) = joined",
    ]
    assert "stats.srp.operational_entered (u64) = " in place.run("corosync-cmapctl", "-m", "stats")
    assert place.run("corosync-cmapctl").count("\n") > 30


def test_cpgflood_sees_one_order_and_cpgtool_sees_it(two_nodes, compiled):
    flood = compiled(HERE.parents[1] / "interop" / "cpgflood.c")
    command = (flood, "-g", "bench", "-n", "2", "-t", "1")
    running = [subprocess.Popen(two_nodes.place(k).command(*command), stdout=subprocess.PIPE) for k in (1, 2)]
    reports = [json.loads(program.communicate(timeout=PATIENCE)[0]) for program in running]
    assert len({report["order"] for report in reports}) == 1, reports
    assert {report["confchgs"] for report in reports} == {0}
    assert {report["delivered"] for report in reports} == {sum(report["sent"] for report in reports)}
    assert all(report["sent"] > 100 for report in reports)
    deadline = time.monotonic() + PATIENCE
    while two_nodes.place(2).run("corosync-cpgtool").splitlines()[1:] != []:
        # A program that just ends is noticed by its node, which then says so in order.
        assert time.monotonic() < deadline


def test_the_calls_of_the_ruby_binding(two_nodes, compiled):
    """And zero copy."""
    assert two_nodes.place(1).run(compiled(HERE / "gem.c")) == "ok\n"


def test_a_program_that_sends_and_reads_nothing(two_nodes, compiled):
    """It is through with what fits into its bound; with more it is put out, and never told to try again for ever."""
    program = compiled(HERE / "bound.c")

    def send(count):
        command = two_nodes.place(1).command(program, str(count), "100000")
        done = subprocess.run(command, check=True, timeout=PATIENCE, stdout=subprocess.PIPE, text=True)
        return tuple(map(int, done.stdout.split()))

    assert send(200) == (200, Code.OK)
    sent, code = send(5000)
    assert 640 < sent < 5000
    assert code != Code.TRY_AGAIN
    assert any("ended: it does not read its events" in line for line in two_nodes.log(1))


def as_user(uid, *command):
    return ("setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", *command)


def test_users(two_nodes):
    place = two_nodes.place(1)
    assert place.run(*as_user(GUEST, "corosync-cpgtool")).startswith("Group Name")
    refused = place.run(*as_user(GUEST + 1, "corosync-cpgtool"), check=False)
    assert refused.rstrip().endswith(f"error {Code.ACCESS}")


@pytest.fixture
def three_nodes(has_libraries, tmp_path):
    """Three nodes in a ring that will break."""
    with RingOfOurs(tmp_path, 3, token=500) as ring:
        trio.run(whole, ring)
        yield ring


def changes(events, kind):
    """Processes that came (`joined`) or went (`left`), with the reasons, in order."""
    return [tuple(entry) for event in events if event["event"] == "confchg" for entry in event[kind]]


async def test_rings_that_break_and_heal(three_nodes, nursery):
    ring = three_nodes
    one, three = [await ring.start_program(nursery, k, "cpg", "listen", "chat", "--corosync", "--json") for k in (1, 3)]
    for listener in (one, three):
        await listener.until(members(2))
    ring.network.split({1, 2}, {3})
    for listener in (one, three):
        await listener.until(members(1))
    assert changes(one.events, "left") == [(3, three.process.pid, "nodedown")]
    assert changes(three.events, "left") == [(1, one.process.pid, "nodedown")]
    ring.network.heal()
    for listener in (one, three):
        await listener.until(members(2))
    assert changes(one.events, "joined")[-1] == (3, three.process.pid, "nodeup")
    assert changes(three.events, "joined")[-1] == (1, one.process.pid, "nodeup")
    three.signal(signal.SIGKILL)
    await one.until(members(1))
    assert changes(one.events, "left")[-1] == (3, three.process.pid, "procdown")
    assert await one.stop() == 0


def test_a_tool_that_tracks_keys(three_nodes):
    key = "runtime.members.3.status"
    command = three_nodes.place(1).command("stdbuf", "-oL", "corosync-cmapctl", "-t", key)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as tool:
        assert tool.stdout.readline() == 'Type "q" to finish\n'
        trio.run(three_nodes.stop_corosync, 3)
        assert tool.stdout.readline() == f"modify> {key} (str) = left\n"
        trio.run(whole, three_nodes)
        assert tool.stdout.readline() == f"modify> {key} (str) = joined\n"
        assert tool.communicate("q\n", timeout=PATIENCE) == ("", None)


async def test_the_end_of_a_node_is_the_end_of_its_clients(three_nodes, nursery):
    ring = three_nodes
    one, three = [await ring.start_program(nursery, k, "cpg", "listen", "chat", "--corosync", "--json") for k in (1, 3)]
    for listener in (one, three):
        await listener.until(members(2))
    await ring.stop_corosync(3)
    with trio.fail_after(PATIENCE):
        assert await three.process.wait() == 1
    await one.until(members(1))
    [(node, pid, reason)] = changes(one.events, "left")
    assert (node, pid) == (3, three.process.pid)
    assert reason in ("procdown", "nodedown")  # what comes first
    assert ring.place(3).run("ls", "/dev/shm") == ""
    await whole(ring)
    again = await ring.start_program(nursery, 3, "cpg", "listen", "chat", "--corosync", "--json")
    await one.until(members(2))
    assert changes(one.events, "joined")[-1] == (3, again.process.pid, "join")
    assert await one.stop() == await again.stop() == 0
