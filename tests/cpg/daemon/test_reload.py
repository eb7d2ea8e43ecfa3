"""A running cpgd takes another configuration: by SIGHUP, by `cpg reload`; `cpgd --check` says what would change."""

import signal
import subprocess
import sys

import pytest
import trio

import cpg
from cpg.cli.demo import NODE, free_ports
from tests.cpg.daemon.test_command import Cpgd
from tests.cpg.processes import CONFIG, run


class File:
    """The configuration of one node, at addresses that all nodes of the test share."""

    def __init__(self, folder, ports, nodes, transport):
        folder.mkdir()
        self.folder, self._ports, self._transport = folder, ports, transport
        self.path = str(folder / "ring.conf")
        self.write(nodes)

    def write(self, nodes, more="", **settings):
        listed = [NODE.format(node=node, port=self._ports[node - 1]) for node in nodes]
        listed = [text.replace("127.0.0.1", f"127.0.0.{node}") for node, text in zip(nodes, listed, strict=True)]
        text = CONFIG.format(token=600, folder=self.folder, nodes="".join(listed))
        text = text.replace("transport: udpu", f"transport: {self._transport}")
        for name, value in settings.items():
            text = text.replace("totem {", f"totem {{\n    {name}: {value}", 1)
        (self.folder / "ring.conf").write_text(text + more)


class Machines:
    """Nodes with a daemon and a file each."""

    def __init__(self, folder, count, listed, transport="udpu"):
        ports = free_ports(count)
        self.files = {node: File(folder / f"n{node}", ports, listed, transport) for node in range(1, count + 1)}
        self.daemons = {}

    async def start(self, node):
        daemon = self.daemons[node] = Cpgd(self.files[node].path, self.files[node].folder, node)
        await daemon.notice()
        return daemon

    async def sighup(self, node):
        daemon = self.daemons[node]
        daemon.process.send_signal(signal.SIGHUP)
        assert await daemon.notice() == "RELOADING=1"
        assert await daemon.notice() == "READY=1"


@pytest.fixture
async def machines(tmp_path, request):
    machines = Machines(tmp_path, 3, [1, 2], getattr(request, "param", "udpu"))
    try:
        with trio.fail_after(60):
            for node in (1, 2):
                await machines.start(node)
            yield machines
    finally:
        for daemon in machines.daemons.values():
            daemon.close()


@pytest.mark.parametrize("machines", ["udpu", "udp", "knet"], indirect=True)
async def test_a_node_is_added_and_removed_while_others_talk(machines):
    """No message is lost, and there is no change of ring but when the node comes and when it goes."""
    async with cpg.connect(machines.daemons[1].path) as one, cpg.connect(machines.daemons[2].path) as two:
        await one.wait_members(2)
        await two.wait_members(2)
        async with one.join("chat") as sender, two.join("chat") as reader:
            seen, rings = [], []

            async def read():
                async for event in reader:
                    if isinstance(event, cpg.Message):
                        seen.append(int(event.data))
                    elif isinstance(event, cpg.TotemConfchg):
                        rings.append(event.node_ids)

            async def talk():
                for number in range(10**9):
                    await sender.send(b"%d" % number)
                    if number % 100 == 0:
                        await trio.sleep(0.001)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                nursery.start_soon(talk)
                for node in (2, 1, 3):
                    machines.files[node].write([1, 2, 3])
                await machines.sighup(2)
                await machines.sighup(1)
                await machines.start(3)
                await two.wait_members(3)
                code, log = await machines.daemons[3].end()
                assert code == 0, log
                while two.node_ids != (1, 2):
                    await trio.sleep(0.05)
                for node in (1, 2):
                    machines.files[node].write([1, 2])
                    await machines.sighup(node)
                count = len(seen)
                while len(seen) < count + 1000:
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
            assert rings[-2:] == [(1, 2, 3), (1, 2)]
            assert len(rings) <= 3  # the first is that of the join
            assert seen == list(range(seen[0], seen[0] + len(seen)))


async def test_cpg_reload_has_all_nodes_read_their_files(machines):
    for node in (1, 2, 3):
        machines.files[node].write([1, 2, 3])
    code, out, err = await run("reload", "--socket", str(machines.daemons[1].path))
    assert (code, err) == (0, "")
    assert "reloaded: node 3 (node3, 127.0.0.3) is added\n" in out
    code, out, _ = await run("reload", "--here", "--socket", str(machines.daemons[1].path))
    assert (code, out) == (0, "nothing has changed\n")
    await machines.start(3)
    async with cpg.connect(machines.daemons[2].path) as two:
        await two.wait_members(3)
    _, log = await machines.daemons[2].end()
    assert "node 2: reloaded: node 3 (node3, 127.0.0.3) is added" in log


async def test_what_takes_a_restart_is_refused_and_nothing_changes(machines):
    machines.files[1].write([1, 2, 3], netmtu=9000)
    code, out, err = await run("reload", "--socket", str(machines.daemons[1].path))
    assert (code, out) == (1, "")
    assert err == ("cpg: not reloaded: totem.netmtu is 1500 and would be 9000: this takes a restart of the node\n")
    machines.files[1].write([1, 2])
    code, out, _ = await run("reload", "--socket", str(machines.daemons[1].path))
    assert (code, out) == (0, "nothing has changed\n")
    _, log = await machines.daemons[1].end()
    assert "not reloaded, the former configuration stays in force: totem.netmtu is 1500" in log


async def test_the_check_says_what_a_reload_would_change(machines):
    def check():
        file, socket = machines.files[1].path, str(machines.daemons[1].path)
        command = [sys.executable, "-m", "cpg.daemon", "--check", "-c", file, "--node", "1", "--socket", socket]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return done.returncode, done.stdout.splitlines()[1:]

    async def checked():
        return await trio.to_thread.run_sync(check)

    assert await checked() == (0, ["cpgd runs with the same settings"])
    machines.files[1].write([1, 2, 3])
    assert await checked() == (0, ["a reload would change: node 3 (node3, 127.0.0.3) is added"])
    machines.files[1].write([1, 2], netmtu=9000)
    refusal = "totem.netmtu is 1500 and would be 9000: this takes a restart of the node"
    assert await checked() == (1, [f"cpgd, which runs, would not reload it: {refusal}"])


async def test_the_log_follows(machines, tmp_path):
    logfile = tmp_path / "log"
    machines.files[1].write([1, 2], f"logging {{\n    to_logfile: yes\n    logfile: {logfile}\n    debug: on\n}}\n")
    await machines.sighup(1)
    assert "reloaded: 1 changes" in logfile.read_text()
