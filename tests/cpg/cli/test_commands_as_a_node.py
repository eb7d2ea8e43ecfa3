"""The command `cpg` as people and programs use it: processes on loopback, signals, formats, exit codes."""

import base64
import json
import os
import re
import signal
import sys
from functools import partial

import pytest
import trio

from tests.cpg.processes import PATIENCE, Program, holds, members, run, write_config

COMMANDS = ("demo", "listen", "send", "members", "groups", "quorum", "status", "top", "flood")


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path, 3)


def listen(config, node):
    return Program(["cpg", "listen", "chat", "-c", config, "--node", str(node), "--json"])


def ring_of(*node_ids):
    """Whether these are in the last ring."""

    def condition(events):
        rings = [event["members"] for event in events if event["event"] == "ring"]
        return bool(rings) and rings[-1] == list(node_ids)

    return condition


async def test_listen_and_send(config, nursery):
    one = await listen(config, 1).start(nursery)
    two = await listen(config, 2).start(nursery)
    await one.until(members(2))
    await two.until(members(2))
    code, out, _ = await run("send", "chat", "hello", "all of you", "-c", config, "--node", "3")
    assert (code, out) == (0, "")
    code, _, _ = await run("send", "chat", "--safe", "-c", config, "--node", "3", stdin=b"a line\nno end of line")
    assert code == 0
    for listener in (one, two):
        await listener.until(lambda events: sum(event["event"] == "message" for event in events) == 4)
        await listener.until(ring_of(1, 2))  # the sender's process leaves the group first, then its node the ring
    messages = [event for event in one.events if event["event"] == "message"]
    assert [base64.b64decode(m["data"]) for m in messages] == [b"hello", b"all of you", b"a line", b"no end of line"]
    assert [m["level"] for m in messages] == ["agreed", "agreed", "safe", "safe"]
    assert {m["sender"][0] for m in messages} == {3}
    assert messages[0].keys() == {"event", "sender", "level", "data"}

    own_join = one.events[0]
    pid = one.process.pid
    assert own_join["event"] == "confchg"
    assert [1, pid, "join"] in own_join["joined"]
    assert [1, pid] in own_join["members"]
    ring = one.events[1]
    assert ring == {"event": "ring", "ring": ring["ring"], "members": ring["members"]}
    assert len(ring["ring"]) == 2
    sender = messages[0]["sender"]
    others = [[1, one.process.pid], [2, two.process.pid]]
    assert {"event": "confchg", "members": [*others, sender], "left": [], "joined": [[*sender, "join"]]} in one.events
    assert {"event": "confchg", "members": others, "left": [[*sender, "leave"]], "joined": []} in one.events
    assert one.events[-12:] == two.events[-12:]
    assert await one.stop() == 0
    assert await two.stop() == 0


async def test_a_killed_listener_is_reported_as_nodedown(config, nursery):
    one = await listen(config, 1).start(nursery)
    two = await listen(config, 2).start(nursery)
    await one.until(members(2))
    two.signal(signal.SIGKILL)
    await one.until(members(1))
    await one.until(lambda events: events[-1]["event"] == "quorum")
    assert [event["event"] for event in one.events[-4:]] == ["transitional", "confchg", "ring", "quorum"]
    assert holds("confchg", left=[[2, two.process.pid, "nodedown"]])(one.events)
    assert await one.stop() == 0


async def test_a_reader_that_does_not_read_stops_nobody(config, nursery):
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "cpg", "listen", "chat", "-c", config, "--node", "1"]
    stuck = await nursery.start(partial(trio.run_process, command, stdout=writer, check=False))
    os.close(writer)
    two = await listen(config, 2).start(nursery)
    await two.until(members(2))
    code, _, _ = await run("send", "chat", "-c", config, "--node", "3", stdin=b"x" * 1000 + b"\n" + b"y\n" * 50_000)
    assert code == 0
    stuck.terminate()
    with trio.fail_after(PATIENCE):
        assert await stuck.wait() == 0
    os.close(reader)
    await two.until(members(1))
    await two.stop()


async def test_a_reader_that_has_gone(config, nursery):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "cpg", "members", "--alone", "-c", config, "--node", "1"]
    done = await trio.run_process(command, stdout=writer, capture_stderr=True, check=False)
    os.close(writer)
    assert done.returncode == 0
    assert b"Error" not in done.stderr


async def test_sigint_leaves_in_order_and_says_so(config, nursery):
    one = await listen(config, 1).start(nursery)
    two = await listen(config, 2).start(nursery)
    await one.until(members(2))
    two.signal(signal.SIGINT)
    assert await two.ended() == 0
    await one.until(holds("confchg", left=[[2, two.process.pid, "leave"]]))
    await one.stop()


async def test_send_waits_for_a_majority_unless_alone(config, nursery):
    code, _, _ = await run("send", "chat", "--alone", "-c", config, "--node", "1", "hello")
    assert code == 0
    waiting = await Program(["cpg", "send", "chat", "hello", "-c", config, "--node", "1"]).start(nursery)
    one = await listen(config, 2).start(nursery)
    await one.until(holds("ring", members=[1, 2]))  # the message may come before its join
    assert await waiting.ended() == 0
    await one.stop()


async def test_a_signal_while_sending(config, nursery):
    one = await listen(config, 1).start(nursery)
    two = await Program(["cpg", "send", "chat", "-c", config, "--node", "2"]).start(nursery)
    await one.until(members(2))
    two.signal(signal.SIGTERM)
    assert await two.ended() == 128 + signal.SIGTERM
    await one.until(holds("confchg", left=[[2, two.process.pid, "leave"]]))
    await one.stop()


async def test_a_line_without_an_end_is_not_kept_for_ever(config):
    with open("/dev/zero", "rb") as zeros:
        code, _, err = await run("send", "chat", "--alone", "-c", config, "--node", "1", stdin=zeros)
    assert code == 1
    assert "standard input is longer than" in err


async def test_members(config, nursery):
    one = await listen(config, 1).start(nursery)
    await one.until(members(1))
    code, out, _ = await run("members", "-c", config, "--node", "2")
    assert code == 0
    assert re.fullmatch(rf"ring 1\.[0-9a-f]+: nodes 1 2\nchat: 1:{one.process.pid}\n", out)
    code, out, _ = await run("members", "-c", config, "--node", "2", "--json")
    ring, group = map(json.loads, out.splitlines())
    assert (ring["event"], ring["members"]) == ("ring", [1, 2])
    assert group == {"group": "chat", "members": [[1, one.process.pid]]}
    await one.stop()


async def test_quorum(config, nursery):
    with open(config, "a", encoding="utf-8") as file:
        file.write("quorum {\n    provider: corosync_votequorum\n}\n")
    one = await listen(config, 1).start(nursery)
    code, out, _ = await run("quorum", "-c", config, "--node", "2")
    assert code == 0
    assert out == "quorate: nodes 1 2\nvotes: 2 of 3 expected, 2 needed\nnode 1: 1, member\nnode 2: 1, member\n"
    await one.until(lambda events: {"event": "quorum", "quorate": True, "members": [1, 2]} in events)
    await one.until(lambda events: events[-1] == {"event": "quorum", "quorate": False, "members": [1]})
    code, out, _ = await run("quorum", "-c", config, "--node", "2", "--json")
    figures = json.loads(out)
    assert (code, figures["quorate"], figures["total_votes"], figures["quorum"]) == (0, True, 2, 2)
    assert await one.stop() == 0


async def test_three_floods_agree(config):
    reports = []

    async def flood(node, *options):
        code, out, err = await run("flood", "-g", "b", "-n", "3", "-t", "0.5", *options, "-c", config, "--node", node)
        assert code == 0, err
        reports.append(json.loads(out))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood, "1")
        nursery.start_soon(flood, "2", "-s", "1000", "--safe")
        nursery.start_soon(flood, "3", "-q")
    assert len({(r["order"], r["delivered"], r["level"]) for r in reports}) == 1
    assert sum(r["sent"] for r in reports) == reports[0]["delivered"] > 0
    assert {r["finished"] for r in reports} == {3}
    assert {r["confchgs"] for r in reports} == {0}
    assert reports[0].keys() == {
        *("node", "sent", "delivered", "seconds", "msgs_per_s", "MB_per_s", "order", "confchgs", "finished"),
        *("try_again", "level"),
    }


async def test_a_paced_flood_reports_latencies(tmp_path):
    config = write_config(tmp_path, 1)
    code, out, _ = await run("flood", "-g", "b", "-n", "1", "-t", "0.2", "-r", "100", "-c", config)
    report = json.loads(out)
    assert code == 0
    assert (report["sent"], report["delivered"], report["level"]) == (20, 20, "agreed")
    assert report["latency_us"].keys() == {"p50", "p99", "max"}


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["listen", "chat", "-c", "/no/such/ring.conf"], 2, "/no/such/ring.conf: No such file.*-c"),
        (["listen", "chat", "-c", "{config}", "--node", "9"], 2, "node 9 is not in the nodelist.*--node"),
        (["listen", "chat", "-c", "{config}"], 2, "name one.*--node"),
        (["listen", "", "-c", "{config}", "--node", "1"], 2, "GROUP: a group name has 1 to 128 bytes, this one has 0"),
        (["send", "\N{SNOWMAN}" * 43, "hi", "-c", "{config}", "--node", "1"], 2, "GROUP: a group name.*has 129"),
        (["listen"], 2, "GROUP"),
        (["send"], 2, "required: GROUP\n"),
        (["members", "--socket", ""], 2, "--socket: the path is empty"),
        (["members", "-c", ""], 2, "--config: the path is empty"),
        (["--socket", "g1", "status"], 2, "--socket stands before the command: options stand behind it, cpg COMMAND"),
        (["flood", "-g", "b", "-n", "1", "-t", "5m"], 2, "--seconds: 5m is not a number of seconds above 0"),
        (["flood", "-g", "b", "-n", "1", "-r", "fast"], 2, "--rate: fast is not a rate"),
        (["flood", "-g", "b", "-n", "one"], 2, "--members: one is not a whole number between 1 and"),
        (["flood", "-g", "b", "-n", "1", "-s", "3"], 2, "not a whole number between 16 and"),
        (["flood", "-g", "b", "-n", "1", "-t", "-1"], 2, "--seconds: -1 is not"),
        (["flood", "-g", "b", "-n", "1", "-t", "nan"], 2, "--seconds: nan is not"),
        (["flood", "-g", "b", "-n", "1", "-r", "-5"], 2, "--rate: -5 is not"),
        (["demo", "--nodes", "1"], 2, "not a whole number between 2 and"),
    ],
)
async def test_errors_say_what_to_do(config, arguments, code, text):
    result, out, err = await run(*(argument.format(config=config) for argument in arguments))
    assert (result, out) == (code, "")
    assert re.search(text, err, re.DOTALL), err


async def test_a_bad_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "bad.conf"
    nodes = "nodelist {\n  node {\n    nodeid: 1\n    ring0_addr: 127.0.0.1\n  }\n}\n"
    path.write_text("totem {\n  version: 2\n  transport: udpu\n  token: never\n}\n" + nodes)
    code, _, err = await run("members", "-c", str(path))
    assert code == 2
    assert "bad.conf:4" in err


async def test_a_port_that_is_taken(config, nursery):
    one = await listen(config, 1).start(nursery)
    await one.until(members(1))
    code, _, err = await run("listen", "chat", "-c", config, "--node", "1")
    assert code == 1
    assert "started twice" in err
    await one.stop()


async def test_version_and_help():
    assert (await run("--version"))[1].startswith("cpg 0.")
    for command in ([], *([name] for name in COMMANDS)):
        code, out, _ = await run(*command, "--help")
        assert code == 0
        assert "examples:" in out
