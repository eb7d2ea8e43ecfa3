"""Who decides, as an administrator changes it: real daemons, and a job that holds a lock all the time."""

import json
import os
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
import trio

from cluck.cli.status_text import voters_lines
from tests.cluck.cli.test_whole import Cluster, ended, line
from tests.cluck.daemon.processes import Cluckd


@pytest.fixture
async def five(tmp_path):
    """Five nodes in the configuration, of which three have lock servers."""
    cluster = Cluster(tmp_path, 5)
    try:
        await cluster.start(1, 2, 3, options=("--servers", "1,2,3"))
        yield cluster
    finally:
        cluster.close()


async def status(cluster, node):
    return json.loads((await cluster.cluck(node, "status", "--json"))[1])


def voters(known):
    return [one["node"] for one in known["voters"]["votes"]]


async def test_servers_that_are_configured_differently_never_decide_beside_each_other(five):
    one = five.run(1, "--duration", "30")
    assert await line(one) == "up"
    await five.start(3, options=("--servers", "1,2,3,4,5"))
    await five.start(4, 5, options=("--servers", "1,2,3,4,5"))
    assert (await ended(five.run(4, "--timeout", "0")))[0] == 124
    for node in (1, 4):
        known = await status(five, node)
        assert voters(known) == [1, 2, 3]
        difference = "nodes 3 4 5 are configured with other lock servers: 1, 2, 3, 4, 5; that changes nothing, "
        assert difference + "those in force are 1, 2, 3; `cluck voters` changes them" in known["differences"]
        assert difference in (await five.cluck(node, "status"))[1]
        assert difference in five.daemons[node].logged()
    one.terminate()
    assert (await ended(one))[0] == 0
    assert five.noted() == ["begin", "end"]
    for node in (1, 2):
        await five.daemons[node].end()
    assert not (await status(five, 4))["ready"], "three of five by their configuration, one of three in truth"


async def test_nodes_come_and_go_by_the_book_and_nobody_loses_a_lock(tmp_path):
    """Node 4 into all files, and the daemons restarted in turn; then its server, and its vote; and back."""
    cluster = Cluster(tmp_path, 4)
    files = {}
    for count in (3, 4):
        text = Path(cluster.config).read_text()
        files[count] = str(tmp_path / f"{count}.conf")
        Path(files[count]).write_text(text if count == 4 else text[: text.rindex("    node {")] + "}\n")
    with closing(cluster):
        await cluster.start(1, 2, 3, config=files[3])
        one = cluster.run(1, "--duration", "60")
        assert await line(one) == "up"
        for node in (3, 2, 1):
            await cluster.start(node, config=files[4])
        await cluster.start(4, config=files[4])
        assert voters(await status(cluster, 4)) == [1, 2, 3]
        code, out, _ = await cluster.cluck(2, "voters", "add", "4")
        assert code == 0
        assert out.startswith("voters: 1, 2, 3, 4; version 2 of cluster ")
        assert (await cluster.cluck(4, "voters"))[1] == out
        assert (await cluster.cluck(4, "voters", "remove", "4"))[0] == 0
        await cluster.end(4)
        for node in (3, 2, 1):
            await cluster.start(node, config=files[3])
        known = await status(cluster, 3)
        assert (voters(known), known["voters"]["version"], known["differences"]) == ([1, 2, 3], 3, [])
        assert known["epoch"] == 1, "the state was handed over all the time"
        assert (await ended(cluster.run(3, "--timeout", "0")))[0] == 124
        one.terminate()
        assert (await ended(one))[0] == 0
        assert cluster.noted() == ["begin", "end"]


async def test_what_cannot_be_changed_is_refused_with_the_reason(five):
    code, _, err = await five.cluck(1, "voters", "add", "4")
    assert code == 0, err  # one of four may be away
    told = "node 4 has no lock server now: its votes are missing until one is started there; to undo this: "
    assert err == f"cluck: {told}cluck voters remove 4\n"
    code, _, err = await five.cluck(1, "voters", "add", "5", "--votes", "9")
    assert code == 122
    assert "too few of those are there that are to decide: nothing from node 4, 5" in err
    code, _, err = await five.cluck(1, "voters", "remove", "7")
    assert (code, "node 7 is not a voter; the voters are 1, 2, 3, 4" in err) == (123, True)
    code, _, err = await five.cluck(1, "voters", "add")
    assert (code, "which node? cluck voters add NODE" in err) == (119, True)
    code, _, err = await five.cluck(1, "tie-breaker", "7")
    assert code == 123
    code, out, _ = await five.cluck(1, "tie-breaker", "2")
    assert (code, out.splitlines()[0]) == (0, out.splitlines()[0])
    assert out.startswith("voters: 1, 2, 3, 4; a half with 2 is enough; version 3 of cluster ")
    code, out, _ = await five.cluck(3, "tie-breaker", "any", "--json")
    assert (code, json.loads(out)["unsafe_half"], json.loads(out)["tie_breaker"]) == (0, True, None)
    code, out, _ = await five.cluck(1, "tie-breaker", "none")
    assert out.startswith("voters: 1, 2, 3, 4; version 5 of cluster ")
    assert "version 5 of the electorate is requested, 1, 2, 3, 4, by process" in five.daemons[1].logged()


CHANGING = """
import os, trio
from tests.cluck.daemon.processes import Speaker
from cluck.commands import ChangeVoters
from cpg.replication.electorate import Electorate
from cluck.protocol import Goodbye

async def main():
    os.setuid(65534)  # here, since this interpreter may not be for everybody
    speaker = await Speaker("{path}").greet()
    speaker.say(ChangeVoters(2, Electorate({{1: 2}})))
    print((await speaker.hear(Goodbye)).text)

trio.run(main)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="to be another user needs root")
async def test_who_decides_is_for_administrators(tmp_path):
    cluster = Cluster(tmp_path, 1)
    with open(cluster.config, "a", encoding="utf-8") as file:
        file.write("uidgid {\n    uid: 65534\n}\n")
    daemon = Cluckd(tmp_path, 1, "-c", cluster.config)
    with tempfile.TemporaryDirectory() as folder, closing(daemon):
        os.chmod(folder, 0o755)
        daemon.path = Path(folder, "socket")
        await daemon.start().running()
        await daemon.speaker().greet()
        text = CHANGING.format(path=daemon.path)
        done = await trio.run_process([sys.executable, "-c", text], capture_stdout=True)
        assert b"the user with uid 65534 may not change the voters: run as root" in done.stdout
        _, log = await daemon.end()
        assert "of the user with uid 65534: refused" in log


def test_what_is_under_way_is_printed():
    now = {"votes": [{"node": 1, "votes": 1}, {"node": 2, "votes": 2}], "tie_breaker": None, "unsafe_half": False}
    shown = {"cluster": "c1", "version": 2, **now, "former": {**now, "tie_breaker": 1}}
    assert list(voters_lines(shown)) == [
        "voters: 1, 2 (2 votes); version 2 of cluster c1",
        "a majority of the former voters is needed too, until majorities of both know the new ones: 1, 2 (2 votes); "
        "a half with 1 is enough",
    ]
    assert list(voters_lines({**shown, "version": 0})) == ["voters when the cluster begins: 1, 2 (2 votes)"]
