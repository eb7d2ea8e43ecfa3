"""Three lock servers as processes of their own, and `cluck` on them: who holds a lock ends, in every way there is."""

import json
import os
import signal
import subprocess
import sys

import pytest
import trio

from cluck.client.asynchronous import connect
from cluck.errors import NotReady
from tests.cluck.cli.test_run_command import wait_for_children_to_end
from tests.cluck.daemon.processes import PATIENCE, Cluckd
from tests.cpg.processes import write_config

SHORT = ("--duration", "1", "--grace", "0.5")
GUARDED = 'echo "begin $CLUCK_TOKEN" >> {log}; trap "echo end $CLUCK_TOKEN >> {log}; exit 0" TERM; echo up; {then}'


class Cluster:
    """Some cluckds, each a node of one ring, and whatever `cluck` is started on them."""

    def __init__(self, folder, nodes=3):
        """`nodes`: how many there are in the configuration."""
        self.log = folder / "log"
        self.folder = folder
        self.config = write_config(folder, nodes)
        self.daemons = {}
        self._started = []

    async def start(self, *nodes, options=(), config=None):
        """Start the lock servers of these nodes, perhaps anew, and wait until all are ready."""
        for node in nodes:
            if node in self.daemons:
                await self.end(node)
            path = config or self.config
            self.daemons[node] = Cluckd(self.folder, node, "-c", path, "--node", node, *options).start()
        for node in nodes:
            await self.daemons[node].running()
            with trio.fail_after(PATIENCE):
                while (await self.cluck(node, "status"))[0]:
                    pass

    async def end(self, node):
        """End a node's lock server in order."""
        daemon = self.daemons.pop(node)
        await daemon.end()
        daemon.close()

    def popen(self, node, *arguments):
        """Start `cluck` at a node, with its standard input and output in the test's hand."""
        self._started.append(
            subprocess.Popen(
                [sys.executable, "-m", "cluck", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "CLUCKD_SOCKET": str(self.daemons[node].path)},
            )
        )
        return self._started[-1]

    async def cluck(self, node, *arguments):
        """Run `cluck` at a node to its end: exit code, output, errors."""
        return await ended(self.popen(node, *arguments))

    def run(self, node, *options, then="while :; do sleep 0.02; done"):
        """Start `cluck run` at a node, of a command that notes when it begins and ends."""
        script = GUARDED.format(log=self.log, then=then)
        return self.popen(node, "run", "backup", *options, "--", "sh", "-c", script)

    def noted(self):
        return [line.split()[0] for line in self.log.read_text().splitlines()]

    def tokens(self):
        return [int(line.split()[1]) for line in self.log.read_text().splitlines() if line.startswith("begin")]

    def elect(self, node, *options, then="while :; do sleep 0.02; done"):
        """Start `cluck elect` at a node, of a command that notes when it begins and ends."""
        script = GUARDED.format(log=self.log, then=then)
        return self.popen(node, "elect", "head", *options, "--", "sh", "-c", script)

    async def elections(self, node):
        """What a lock server knows of the election."""
        return json.loads((await self.cluck(node, "leaders", "--json"))[1])["elections"]

    async def until_standing(self, node, count):
        """Wait until so many are candidates."""
        with trio.fail_after(PATIENCE):
            while sum(len(election["candidates"]) for election in await self.elections(node)) < count:
                pass

    async def until_begun(self, count):
        """Wait until the command has begun so often."""
        with trio.fail_after(PATIENCE):
            while not self.log.exists() or self.noted().count("begin") < count:
                await trio.sleep(0.01)

    async def until_queued(self, node, count):
        """Wait until so many wait for the lock."""
        with trio.fail_after(PATIENCE):
            while True:
                _, out, _ = await self.cluck(node, "list", "--json")
                if sum(len(json.loads(line)["waiting"]) for line in out.splitlines()) == count:
                    return

    def close(self):
        for process in self._started:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                stream.close()
        for daemon in self.daemons.values():
            daemon.close()


async def line(process):
    with trio.fail_after(PATIENCE):
        return (await trio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True)).decode().strip()


async def ended(process):
    out, err = await trio.to_thread.run_sync(lambda: process.communicate(timeout=PATIENCE))
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def cluster(tmp_path):
    cluster = Cluster(tmp_path)
    try:
        await cluster.start(1, 2, 3)
        yield cluster
    finally:
        cluster.close()


async def test_the_next_one_goes_on_where_the_holder_is_killed(cluster):
    one = cluster.run(1, "--duration", "600")
    assert await line(one) == "up"
    two = cluster.run(2, then="exit 3")
    await cluster.until_queued(3, 1)
    one.kill()  # its command with it, which has no time to note its end
    assert (await ended(two))[0] == 3
    assert cluster.noted() == ["begin", "begin"]
    assert cluster.tokens() == sorted(set(cluster.tokens()))


async def test_a_lock_is_not_passed_on_before_the_group_is_dead(cluster):
    """Here the supervisor takes its time."""
    one = cluster.run(1, "--duration", "600", then="echo $PPID; exec sleep 1000")
    assert await line(one) == "up"
    supervisor = int(await line(one))
    os.kill(supervisor, signal.SIGSTOP)
    one.kill()
    one.wait()
    assert (await ended(cluster.run(2, "--timeout", "0")))[0] == 124
    os.kill(supervisor, signal.SIGCONT)
    assert (await ended(cluster.run(2, "--timeout", "20", then="exit 3")))[0] == 3


async def test_the_next_one_goes_on_where_the_holders_node_is_lost(cluster):
    one = cluster.run(1, "--duration", "1", "--grace", "1")
    assert await line(one) == "up"
    two = cluster.run(2, then="exit 3")
    await cluster.until_queued(3, 1)
    await cluster.daemons[1].end(signal.SIGKILL)
    code, _, err = await ended(one)
    assert code == 120
    assert "its lease ended without renewal" in err
    assert (await ended(two))[0] == 3
    assert cluster.noted() == ["begin", "end", "begin"]
    assert cluster.tokens() == sorted(set(cluster.tokens()))


async def test_nothing_is_left_of_what_was_given_up_while_the_lock_server_stood_still(tmp_path):
    cluster = Cluster(tmp_path, 1)
    try:
        await cluster.start(1)
        one = cluster.run(1, *SHORT)
        assert await line(one) == "up"
        async with connect(cluster.daemons[1].path) as locks:
            cluster.daemons[1].process.send_signal(signal.SIGSTOP)
            with pytest.raises(NotReady, match="the lock server has not answered"):
                await locks.lock("other", timeout=0.1).__aenter__()
            code, _, err = await ended(one)
            assert (code, "its lease ended without renewal" in err) == (120, True)
            cluster.daemons[1].process.send_signal(signal.SIGCONT)
            async with locks.lock("other", timeout=PATIENCE), locks.lock("backup", timeout=PATIENCE):
                assert cluster.noted() == ["begin", "end"]
    finally:
        cluster.close()


async def test_a_lock_server_that_starts_again_costs_nobody_a_lock(cluster):
    one = cluster.run(1, "--duration", "30")
    assert await line(one) == "up"
    await cluster.daemons[1].end(signal.SIGKILL)
    await cluster.daemons[1].start().running()
    two = cluster.run(2, "--timeout", "0")
    assert (await ended(two))[0] == 124
    one.terminate()
    assert (await ended(one))[0] == 0
    assert cluster.noted() == ["begin", "end"]
    assert (await ended(cluster.run(3, "--timeout", "20", then="exit 4")))[0] == 4


async def test_a_minority_grants_nothing_and_ends_what_runs(cluster):
    one = cluster.run(1)
    assert await line(one) == "up"
    for node in (2, 3):
        await cluster.daemons[node].end(signal.SIGKILL)
    code, _, err = await ended(one)
    assert code == 120
    assert "is not in the part of the cluster that decides" in err
    assert cluster.noted() == ["begin", "end"]
    code, out, _ = await cluster.cluck(1, "status")
    assert code == 122
    assert out.startswith("not ready: ")
    assert "missing: 2 3" in out
    for command in ("list", "leaders", "info", "voters"):
        code, out, err = await cluster.cluck(1, command)
        assert code == 122
        assert err.startswith("cluck: this lock server does not decide now, and what it shows may be outdated: too few")
    code, _, err = await cluster.cluck(1, "unlock", "--force", "backup")
    assert (code, err.startswith("cluck: this lock server does not decide now")) == (122, True)
    code, _, err = await cluster.cluck(1, "wait", "backup", "--timeout", "0.1")
    assert (code, err.startswith("cluck: this lock server does not decide now: too few")) == (122, True)
    code, _, err = await cluster.cluck(1, "run", "backup", "--timeout", "0", "--", "true")
    assert code == 122
    assert err.startswith("cluck: lock 'backup': too few lock servers are here: nothing from node 2, 3")
    assert err.endswith("; see cluck status\n")
    waiting = cluster.popen(1, "run", "backup", "--", "true")
    told = await trio.to_thread.run_sync(waiting.stderr.readline)
    assert told.decode().startswith("cluck: lock 'backup' waits, since the lock servers are not ready: too few")
    waiting.terminate()
    await ended(waiting)


async def test_an_administrator_takes_a_lock(cluster):
    one = cluster.run(1)
    assert await line(one) == "up"
    code, out, _ = await cluster.cluck(2, "unlock", "--force", "backup")
    assert code == 0
    assert out.startswith("taken from client 1:")
    code, _, err = await ended(one)
    assert (code, "an administrator took it" in err) == (120, True)
    code, _, err = await cluster.cluck(2, "unlock", "--force", "backup")
    assert (code, err) == (123, "cluck: nobody holds lock 'backup'\n")
    assert "lock backup is taken by force" in cluster.daemons[2].logged()


async def test_a_lock_for_a_shell_script(cluster):
    one = cluster.popen(1, "lock", "backup")
    token = int(await line(one))
    _, out, _ = await cluster.cluck(2, "list", "backup")
    assert f"token {token}" in out
    waiting = cluster.popen(3, "wait", "backup", "--change")
    while waiting.poll() is None:  # it may not have looked when the lock is passed on for the first time
        await give_back(one)
        one = cluster.popen(2, "lock", "backup")
        token = int(await line(one))
        with trio.move_on_after(1):
            await trio.to_thread.run_sync(waiting.wait, abandon_on_cancel=True)
    assert (await ended(waiting))[0] == 0
    await give_back(one)
    assert (await cluster.cluck(2, "list"))[1] == ""


async def give_back(lock):
    lock.stdin.close()
    with trio.fail_after(PATIENCE):
        await trio.to_thread.run_sync(lock.wait, abandon_on_cancel=True)
    assert lock.returncode == 0


async def test_a_short_job_is_done_on_one_machine_by_clocks_that_differ(cluster):
    job = ("run", "nightly", "--timeout", "0", "--hold-at-least", "1000", "--", "echo", "done")
    one = cluster.popen(1, *job)
    assert await line(one) == "done"
    with trio.fail_after(PATIENCE):
        await trio.to_thread.run_sync(wait_for_children_to_end, one.pid)
    for late in (2, 3, 1):
        assert (await cluster.cluck(late, *job))[:2] == (124, "")
    one.terminate()
    assert (await ended(one))[0] == 0


async def test_a_name_is_nothing_to_a_terminal(cluster):
    name = b"one\n\x1b[31mtwo\xff".decode(errors="surrogateescape")
    one = cluster.popen(1, "lock", name)
    token = int(await line(one))
    shown = r"one\n\x1b[31mtwo\xff"
    assert (await cluster.cluck(2, "list"))[1].splitlines()[0] == f"{shown}: 1 held, 0 waiting"
    code, _, err = await cluster.cluck(3, "run", name, "--timeout", "0", "--", "true")
    assert (code, err) == (124, f"cluck: lock '{shown}': others hold it, or wait for it\n")
    code, _, err = await cluster.cluck(3, "wait", name, "--change", "--timeout", "0.1")
    assert (code, err) == (124, f"cluck: '{shown}' has not changed hands in 0.1 s\n")
    code, _, err = await cluster.cluck(3, "unlock", "--force", name, "--token", "1")
    assert (code, err) == (123, f"cluck: nobody holds lock '{shown}' with token 1\n")
    assert (await cluster.cluck(3, "unlock", "--force", name, "--token", str(token)))[0] == 0
    assert f"lock {shown} is taken by force" in cluster.daemons[3].logged()
    code, _, err = await ended(one)
    assert (code, err) == (120, f"cluck: lock '{shown}' with token {token}: an administrator took it\n")


async def test_a_lock_is_shared(cluster):
    one = cluster.run(1, "--shared")
    assert await line(one) == "up"
    assert (await ended(cluster.run(2, "--shared", "--timeout", "0", then="exit 3")))[0] == 3
    assert (await ended(cluster.run(3, "--timeout", "0")))[0] == 124


async def test_candidates_take_turns(cluster):
    script = 'echo "$CLUCK_ELECTION $CLUCK_TOKEN"; sleep 1000'
    one = cluster.popen(1, "elect", "boss", "--address", "10.0.0.1", "--port", "80", "--", "sh", "-c", script)
    name, first = (await line(one)).split()
    assert name == "boss"
    two = cluster.popen(2, "elect", "boss", "--", "sh", "-c", 'echo "$CLUCK_TOKEN"; exit 6')
    waiting = cluster.popen(3, "wait", "boss", "--leader", "--change", "--json")
    await cluster.until_standing(3, 2)
    _, out, _ = await cluster.cluck(3, "leaders")
    assert "boss: 1:" in out
    assert "(10.0.0.1:80)" in out
    strange = cluster.popen(3, "elect", "a\nb", "--address", "\x1b[2J", "--", "sh", "-c", "echo up; exec sleep 1000")
    assert await line(strange) == "up"
    assert r"(\x1b[2J:0)" in next(
        text for text in (await cluster.cluck(3, "leaders"))[1].splitlines() if r"a\nb" in text
    )
    one.terminate()
    assert (await ended(one))[0] == 128 + signal.SIGTERM
    code, out, _ = await ended(two)
    assert code == 6
    assert int(out) > int(first)
    assert json.loads((await ended(waiting))[1])["token"] != int(first)
    _, out, _ = await cluster.cluck(3, "info")
    assert json.loads(out).keys() == {"status", "tickets", "leaders", "elections", "conditions"}


async def test_another_one_leads_when_the_leaders_machine_stands_still_and_not_before_its_command_has_ended(cluster):
    """Its daemon and `cluck` are stopped; its supervisor has ended the command when the lease was over."""
    one = cluster.elect(1, *SHORT)
    assert await line(one) == "up"
    two = cluster.elect(2, *SHORT)
    await cluster.until_standing(3, 2)
    cluster.daemons[1].process.send_signal(signal.SIGSTOP)
    one.send_signal(signal.SIGSTOP)
    await cluster.until_begun(2)
    assert cluster.noted() == ["begin", "end", "begin"]
    cluster.daemons[1].process.send_signal(signal.SIGCONT)
    one.send_signal(signal.SIGCONT)
    await cluster.until_standing(3, 2)
    two.send_signal(signal.SIGTERM)
    await cluster.until_begun(3)
    first, second, third = cluster.tokens()
    assert first < second < third, "who was silent leads again by another token"


async def test_another_one_leads_although_the_lock_server_of_the_leader_stands_still(cluster):
    one = cluster.elect(1, *SHORT)
    assert await line(one) == "up"
    two = cluster.elect(2, *SHORT)
    await cluster.until_standing(3, 2)
    cluster.daemons[1].process.send_signal(signal.SIGSTOP)
    assert await line(two) == "up"
    assert cluster.noted() == ["begin", "end", "begin"]
    cluster.daemons[1].process.send_signal(signal.SIGCONT)
    await cluster.until_standing(3, 2)


async def test_a_lock_server_that_starts_again_costs_nobody_a_leadership(cluster):
    one = cluster.elect(1, "--duration", "30")
    assert await line(one) == "up"
    cluster.elect(2)
    await cluster.until_standing(3, 2)
    await cluster.start(1)
    with trio.fail_after(PATIENCE):
        while (await cluster.elections(3))[0]["token"] == 0:
            pass
    assert [(await cluster.elections(3))[0]["token"]] == cluster.tokens()
    assert cluster.noted() == ["begin"]


IGNORES = """
exec 9>>{folder}/alive
flock -n 9 || echo overlap >> {log}
trap "" TERM
while :; do sleep 0.02; done
"""
"""A leader's work that does not end by SIGTERM, and notes where that of a former leader still lives."""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_the_next_leader_begins_when_nothing_of_the_former_is_left(cluster, number):
    """Its lock server, which is its node too, is killed or stopped; its command ignores SIGTERM."""
    ignores = IGNORES.format(folder=cluster.log.parent, log=cluster.log)
    one = cluster.elect(1, "--duration", "1", "--grace", "4", then=ignores)
    assert await line(one) == "up"
    two = cluster.elect(2, *SHORT, then=ignores)
    await cluster.until_standing(3, 2)
    cluster.daemons[1].process.send_signal(number)
    await cluster.until_begun(2)
    assert await line(two) == "up"
    two.kill()
    await ended(two)
    assert cluster.noted() == ["begin", "begin"]
    assert one.poll() is None  # it stands on, as soon as there is a lock server


async def test_a_leadership_is_not_given_up_before_all_has_ended(cluster):
    """What the command leaves running has the grace."""
    lock = f"exec 9>>{cluster.log.parent}/alive; flock -n 9 || echo overlap >> {cluster.log}; "
    one = cluster.elect(1, "--grace", "1", then=lock + "setsid sleep 1000 & echo up; read -r go_on; exit 4")
    assert [await line(one), await line(one)] == ["up", "up"]
    two = cluster.elect(2, then=lock + "exit 5")
    await cluster.until_standing(3, 2)
    one.stdin.write(b"\n")
    one.stdin.flush()
    assert (await ended(one))[0] == 4
    assert (await ended(two))[0] == 5
    assert cluster.noted() == ["begin", "begin"]
