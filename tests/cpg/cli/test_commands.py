"""The commands of `cpg` against a daemon: their output, and their errors without one."""

import json
import os
import pty
import re
import subprocess
import sys
from functools import partial

import pytest
import trio

import cpg
from cpg.cli import rings
from cpg.cli.status_text import rates, ring_lines
from cpg.cli.top import picture
from cpg.node.quorum import QuorumStatus
from cpg.status import ring_status
from tests.cpg.processes import run
from totem.configuration import RingId
from totem.rows import Parting
from totem.states.gather import Gather
from totem.transitions import Cause
from totem.wire.messages import Row

VOTES = "quorum {\n    provider: corosync_votequorum\n    expected_votes: 1\n}\n"


@pytest.fixture
async def voting(make_daemon, config):
    """A daemon that counts votes, one of which is enough."""
    with open(config, "a", encoding="utf-8") as file:
        file.write(VOTES)
    with trio.fail_after(40):
        async with make_daemon().running() as daemon:
            yield daemon


async def on(daemon, *arguments, stdin=b""):
    """Run a command at this daemon; return its output."""
    code, out, err = await run(*arguments, "--socket", str(daemon.path), stdin=stdin)
    assert code == 0, err
    return out


async def test_send_members_and_groups(voting):
    async with voting.connect() as ring, ring.join("chat") as group, ring.join("idle"):
        await on(voting, "send", "chat", "hello")
        assert b"hello" in [event.data async for event in first_message(group)]
        assert await on(voting, "groups") == "chat: 1\nidle: 1\n"
        lines = await on(voting, "groups", "--json")
        assert [*map(json.loads, lines.splitlines())] == [
            {"group": "chat", "count": 1},
            {"group": "idle", "count": 1},
        ]
        out = await on(voting, "members")
        assert out == f"ring {ring.ring_id}: node 1\nchat: 1:{os.getpid()}\nidle: 1:{os.getpid()}\n"


async def first_message(group):
    async for event in group:
        if isinstance(event, cpg.Message):
            yield event
            return


async def test_send_and_members_wait_for_a_majority_of_the_nodelist(daemon, make_daemon):
    """A ring of one is no majority, though without a quorum provider every ring is quorate."""
    assert await on(daemon, "members", "--alone")
    printed = []

    async def members():
        printed.append(await on(daemon, "members"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(members)
        while not daemon.hub.clients:
            await trio.sleep(0.01)
        async with make_daemon(2).running():
            while not printed:
                await trio.sleep(0.01)
    assert re.fullmatch(r"ring 1\.[0-9a-f]+: nodes 1 2\n", printed[0])


async def test_quorum_has_the_figures_of_the_node(voting):
    out = await on(voting, "quorum")
    assert out == "quorate: node 1\nvotes: 1 of 1 expected, 1 needed\nnode 1: 1, member\n"
    told = json.loads(await on(voting, "quorum", "--json"))
    assert (told["quorate"], told["quorum"], told["members"]) == (True, 1, [1])
    async with voting.connect() as ring:
        assert QuorumStatus.of(await ring.query("quorum")) == voting.ring.quorum


async def test_a_ring_that_never_forms_is_not_quorate(voting, monkeypatch):
    """A ring that is being formed is not quorate, whatever the last one was."""
    monkeypatch.setattr(rings, "HINT_DELAY", 0.3)
    monkeypatch.setattr(Gather, "enter", lambda room, now: None)  # nobody is heard, and no timeout comes
    voting.ring._shell.processor.gather(Cause.TOKEN_LOST, trio.current_time())
    async with voting.connect() as ring:
        await ring.wait_quorate()
        assert not await rings.is_quorate(ring)


async def test_quorum_without_a_provider(daemon):
    assert await on(daemon, "quorum") == "quorate: node 1\n"


async def test_status(voting):
    async with voting.connect() as ring, ring.join("chat") as group:
        group.on_message(lambda sender, data: None)
        await group.send([b"one", b"two"])
        await group.flush()
        out = await on(voting, "status")
        told = json.loads(await on(voting, "status", "--json"))
    assert f"node 1 (node1), process {os.getpid()}, up 0:00:" in out
    assert re.search(rf"\nring {voting.ring.ring_id}: operational for 0:00:0\d, quorate\n", out)
    port = voting.ring.config.nodes[0].port
    assert re.search(rf"  1  node1  127\.0\.0\.1:{port} *\n  2  node2  127\.0\.0\.1:\d+ +absent\n", out)
    assert "votes: 1 of 1 expected, 1 needed\n" in out
    assert "gathers: 1\n  1  the processor started\n" in out
    assert "clients: 2\n" in out
    assert out.endswith("groups: 1\n  chat  1\n")
    assert re.search(r"token: \d+ rotations/s", out)
    assert told["ring"] == list(voting.ring.ring_id)
    assert told["rates"].keys() == {"rotations", "messages", "sent", "bytes_sent"}
    assert told["rates"]["rotations"] > 0
    own = told["clients"][0]
    assert (own["pid"], own["groups"], own["sent"], own["received"]) == (os.getpid(), ["chat"], 2, 2)
    assert told["clients"][1]["name"] == "cpg"


async def test_a_ring_that_is_being_formed_is_not_quorate(voting, monkeypatch):
    """It orders nothing, whatever the last one was; the status says since when."""
    ring = voting.ring
    now = trio.current_time()
    assert (ring_status(ring, now, now)["state"], ring_status(ring, now, now)["quorate"]) == ("operational", True)
    monkeypatch.setattr(Gather, "enter", lambda room, now: None)
    ring._shell.processor.gather(Cause.TOKEN_LOST, now)
    told = ring_status(ring, now, now + 5)
    assert (told["state"], told["state_seconds"], told["quorate"]) == ("gather", 5, False)
    assert "gather for 0:00:05, not quorate\n" in "\n".join([*ring_lines(told | {"waiting": 0}, rates(told, told)), ""])


async def test_status_names_a_node_that_does_not_receive(voting):
    ring = voting.ring
    machine, now = ring._shell.processor, trio.current_time()
    assert (ring_status(ring, now, now)["standstill"], ring_status(ring, now, now)["left_out"]) == ("", [])
    machine.ring.stall.reason = "node 2 gets nothing"
    machine.left_out.add(1, now, "what it did")
    machine.left_out.add(2, now - 99, "long ago")
    told = ring_status(ring, now, now + 3)
    assert told["left_out"] == [{"node": 1, "seconds": 7, "reason": "what it did"}]
    text = "\n".join(ring_lines(told | {"waiting": 0}, rates(told, told)))
    assert "\nthe ring makes no progress: node 2 gets nothing\n" in text
    assert "\nthis node is left out for another 7 s: what it did\n" in text


async def test_status_names_nodes_that_stay_apart_and_who_does_not_hear_whom(voting):
    ring = voting.ring
    machine, now = ring._shell.processor, trio.current_time()
    told = ring_status(ring, now, now)
    assert (told["apart"], told["asks_in"]) == ([], 0)
    none = frozenset()
    row = Row(2, 1, 1, 1, RingId(1, 8), frozenset({3}), frozenset({1}), none, none)
    own = row._replace(node_id=1, hears=frozenset({2}), lacks=none)
    machine.separation.part(Parting({1: own, 2: row}, [(2,)], ((2, 1),)))
    machine.separation.install((1,), (), now)
    machine.separation.ask(now)
    told = ring_status(ring, now, now + 1)
    assert told["apart"] == [{"node": 2, "seconds": 3, "reason": "node 2 does not hear node 1", "lost": ((2, 1),)}]
    text = "\n".join(ring_lines(told | {"waiting": 0}, rates(told, told)))
    assert "\nnode 2 stays apart: node 2 does not hear node 1; tried again in 3 s at the earliest\n" in text
    assert "\nthis node asks for no other ring for 3 s\n" in text


async def test_rates_are_what_happened_between_two_looks(daemon):
    async with daemon.connect() as ring, ring.join("chat") as group:
        group.on_message(lambda sender, data: None)
        before = await ring.query("status")
        await group.send([b"12345"] * 50)
        await group.flush()
        after = await ring.query("status")
        async with daemon.connect():
            later = await ring.query("status")
    after["uptime"] = later["uptime"] = before["uptime"] + 2
    measured = rates(before, after)
    assert measured.messages == measured.sent == 25
    assert measured.bytes_sent > 25 * 5
    assert measured.clients == {1: (25, 25)}
    assert rates(after, later).clients.keys() == {1, 2}
    busy_first = [line.split()[2] for line in ring_lines(later, rates(before, later))[-4:-2]]
    assert busy_first == ["25", "0"]


async def test_status_shows_what_is_wrong(daemon):
    async with daemon.connect() as ring:
        told = await ring.query("status")
    told |= {"silent": [2], "dropped": 3, "pure": False, "groups": {"\x1b[2J": 1}}
    told["counters"] |= {"pauses": 2, "largest_pause": 1.25, "drops": {"unlisted address": 7, "foreign magic": 70}}
    text = "\n".join(ring_lines(told, rates(told, told)))
    assert "votes: not counted, no quorum provider is configured\n" in text
    assert "sync waits for node 2\n" in text
    assert "pauses: 2, the longest 1.2 s\n" in text
    assert "dropped: 77\n  70  foreign magic\n   7  unlisted address\n" in text
    assert "with nodes of another make\n" in text
    assert "3 disconnected since they did not read" in text
    assert "\x1b" not in text


async def test_status_shows_links(daemon):
    async with daemon.connect() as ring:
        told = await ring.query("status")
    assert told["links"] == []
    link = {"node": 2, "link": 0, "address": "10.77.0.2", "up": True, "seconds": 62.9, "mtu": 1500, "latency": 0.00021}
    link["heard"] = True
    told["links"] = [link, link | {"link": 1, "address": "10.78.0.2", "up": False, "heard": False, "mtu": 0}]
    text = "\n".join(ring_lines(told, rates(told, told)))
    assert (
        "\nlinks: 2, 1 down\n"
        "  to node 2  link 0  10.77.0.2  up for 0:01:02    packets of 1500 bytes  0.21 ms\n"
        "  to node 2  link 1  10.78.0.2  down for 0:01:02\n"
    ) in text
    assert "up for 0:01:02  carries nothing  0.21 ms" in "\n".join(
        ring_lines(told | {"links": [link | {"mtu": 0}]}, rates(told, told))
    )
    assert "down for 0:01:02, but heard\n" in "\n".join(
        ring_lines(told | {"links": [link | {"up": False}]}, rates(told, told))
    )


async def test_status_of_an_embedded_node(config, daemon):
    code, out, _ = await run("status", "-c", config, "--node", "2")
    assert code == 0
    assert "node 2 (node2)" in out
    assert "clients" not in out


async def test_top_in_a_terminal_ends_with_q(daemon):
    """It uses the other screen and single keys, and restores both."""
    ours, theirs = pty.openpty()
    manners = settings(theirs)
    command = [sys.executable, "-m", "cpg", "top", "--socket", str(daemon.path)]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                command,
                stdin=theirs,
                stdout=theirs,
                check=False,
                env={**os.environ, "TERM": "xterm"},
            )
        )
        shown = b""
        while b"clients" not in shown:
            await trio.lowlevel.wait_readable(ours)
            shown += os.read(ours, 65536)
        os.write(ours, b"q")
        assert await process.wait() == 0
    while not shown.endswith(b"\x1b[?1049l"):
        await trio.lowlevel.wait_readable(ours)
        shown += os.read(ours, 65536)
    assert shown.startswith(b"\x1b[?1049h")
    assert b"\x1b[1mnode 1 (node1)" in shown
    assert b"\x1b[1mtoken: \x1b[0m" in shown
    assert settings(theirs) == manners
    os.close(ours)
    os.close(theirs)


def settings(terminal):
    return subprocess.run(["stty", "-g"], stdin=terminal, capture_output=True, check=True).stdout


async def test_top_into_a_pipe_is_a_line_each_second(daemon):
    command = [sys.executable, "-m", "cpg", "top", "--socket", str(daemon.path)]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    text = b""
    while text.count(b"\n") < 2:
        text += await process.stdout.receive_some()
    process.terminate()
    assert await process.wait() == 0
    for line in text.decode().splitlines():
        assert re.match(r"\d\d:\d\d:\d\d  ring 1\.\w+  node 1  operational  \d+ rotations/s  ", line)
    await process.stdout.aclose()


def test_a_picture_fits_the_terminal():
    drawn = picture([f"line {number}: and more" for number in range(50)], (10, 6))
    rows = re.sub(r"\x1b\[\??[0-9]*[a-zA-Z]", "", drawn).split("\r\n")
    assert rows == ["line 0: an", "line 1: an", "line 2: an", "line 3: an", "  … and 46 lines more: cpg status"[:10]]


async def test_a_daemon_that_ends_ends_a_command_with_its_reason(make_daemon):
    daemon = make_daemon()
    ended = []

    async def listen():
        ended.append(await run("listen", "chat", "--socket", str(daemon.path)))

    async with trio.open_nursery() as nursery, daemon.running():
        nursery.start_soon(listen)
        while b"chat" not in daemon.ring.groups:
            await trio.sleep(0.01)
    code, _, err = ended[0]
    assert (code, err) == (1, "cpg: the daemon of node 1 has been told to end\n")


@pytest.mark.parametrize("command", [["listen", "chat"], ["status"], ["top"], ["groups"]], ids=lambda words: words[0])
async def test_without_a_daemon_both_remedies_are_named(tmp_path, command):
    code, out, err = await run(*command, "--socket", str(tmp_path / "nothing"))
    assert (code, out) == (1, "")
    assert re.search(
        rf"no daemon listens at {tmp_path}/nothing: start it \(cpgd.*or be a node without it \(-c FILE", err
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--node", "1", "--socket", "x"], "--node: not allowed with argument --socket"),
        (["-c", "ring.conf", "--socket", "x"], "--socket: not allowed with argument -c"),
        (["--corosync", "--socket", "x"], "--socket: not allowed with argument --corosync"),
    ],
)
async def test_one_ring_is_to_be_named(arguments, text):
    code, _, err = await run("groups", *arguments)
    assert code == 2
    assert text in err


@pytest.mark.parametrize(("to", "told"), [(">/dev/full", "No space left on device"), (">&-", "it is closed")])
@pytest.mark.parametrize("command", ["members", "quorum", "status", "listen chat"])
async def test_an_output_error_ends_a_command_with_one_line(voting, command, to, told):
    line = f"exec {sys.executable} -m cpg {command} --socket {voting.path} {to}"
    done = await trio.run_process(["sh", "-c", line], capture_stderr=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (1, f"cpg: standard output: {told}\n")


async def test_messages_that_cannot_be_read_end_a_command_with_one_line(voting):
    line = f"exec {sys.executable} -m cpg send chat --alone --socket {voting.path} <&-"
    done = await trio.run_process(["sh", "-c", line], capture_stderr=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (1, "cpg: standard input: it is closed\n")


@pytest.mark.parametrize("program", [["cpg", "status"], ["cpg.daemon"]])
def test_the_usual_place_is_shown_whatever_the_environment_names(program):
    shown = subprocess.run(
        [sys.executable, "-m", *program, "--help"],
        env={**os.environ, "CPGD_SOCKET": "/else/where", "XDG_RUNTIME_DIR": ""},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "/else/where" not in shown
    assert "$CPGD_SOCKET, else /run/cpgd/socket" in " ".join(shown.split())
