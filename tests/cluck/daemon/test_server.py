"""The daemon `cluckd`: its life, its clients and their ends, its errors."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import cluck.blocking
import cpg
from cluck.commands import Ended, Force, Owner, Refused, Release, RequestId, Resign, Stand
from cluck.daemon import command
from cluck.daemon.hub import Hub
from cluck.daemon.server import Server
from cluck.daemon.settings import Backend
from cluck.errors import DaemonUnavailable
from cluck.protocol import (
    VERSION,
    Answer,
    Ask,
    Bye,
    Farewell,
    Goodbye,
    Hello,
    Leads,
    LockHeld,
    Ping,
    Readiness,
    Welcome,
)
from cpg.local.access import Access
from cpg.local.lifecycle import Life
from cpg.replication.electorate import ChangeVoters, Electorate
from tests.cluck.daemon.processes import Cluckd
from tests.cpg.processes import write_config
from totem.config import UserRule
from totem.errors import RingLost
from totem.log_fields import fields_of


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path, 1)


@pytest.fixture
async def cluckd(tmp_path, config):
    daemon = Cluckd(tmp_path, 1, "-c", config).start()
    with trio.fail_after(60):
        await daemon.running()
        yield daemon
    daemon.close()


async def test_its_life_as_a_service_manager_sees_it(tmp_path, config):
    daemon = Cluckd(tmp_path, 1, "-c", config).start()
    assert await daemon.notice() == f"READY=1\nSTATUS=node 1 serves {daemon.path}"
    speaker = await daemon.speaker().greet()
    code, log = await daemon.end()
    assert code == 0
    assert await daemon.notice() == "STOPPING=1"
    assert (await speaker.hear(Goodbye)).why is Farewell.ENDING
    assert f"node 1 serves programs at {daemon.path}; lock servers: node 1" in log
    assert "the lock server has ended" in log
    assert not daemon.path.exists()
    daemon.close()


async def test_what_is_reloaded(cluckd, config):
    with open(config, "a", encoding="utf-8") as file:
        file.write("cluckd {\n    priority: 15\n}\n")
    await cluckd.reload()
    os.unlink(config)
    await cluckd.reload()
    code, log = await cluckd.end()
    assert code == 0
    assert f"not reloaded, the former configuration stays in force: {config}: No such file" in log
    assert "cluckd.priority: '15' is wrong, it must be 1 to 14, or off" in log


async def test_one_that_is_a_node_itself_reloads_its_ring(cluckd, config):
    with open(config, encoding="utf-8") as file:
        text = file.read()
    with open(config, "w", encoding="utf-8") as file:
        file.write(text.replace("totem {", "totem {\n    join: 60", 1))
    await cluckd.reload()
    with open(config, "w", encoding="utf-8") as file:
        file.write(text.replace("totem {", "totem {\n    netmtu: 9000", 1))
    await cluckd.reload()
    code, log = await cluckd.end()
    assert code == 0
    assert "reloaded: totem.join: 60 ms instead of 50 ms" in log
    assert "totem.netmtu is 1500 and would be 9000: this takes a restart of the node" in log


async def test_a_lock_is_held_waited_for_and_passed_on(cluckd):
    one, two = await cluckd.speaker().greet(), await cluckd.speaker().greet()
    request = one.acquire(b"backup")
    held = await one.hear(LockHeld)
    assert held.request == request
    two.acquire(b"backup")
    one.say(Release(held.request, held.token))
    assert (await one.hear(Ended)).why is None
    assert (await two.hear(LockHeld)).token > held.token


async def test_each_beginning_and_end_of_a_leadership_is_logged(cluckd):
    one = await cluckd.speaker().greet()
    candidate = RequestId(Owner(one.welcome.client, 1), 1)
    one.say(Stand(candidate, b"boss"))
    expected = []
    for _ in range(3):
        while not (leads := await one.hear(Leads)).token:
            pass
        one.say(Resign(candidate, leads.token))
        expected += [f"leads, token {leads.token}", f"leads no more, token {leads.token}"]
    assert (await one.hear(Leads)).token == 0
    _, log = await cluckd.end()
    logged = [line.partition("election boss: client 1 (test) ")[2] for line in log.splitlines() if "boss" in line]
    assert logged[:6] == expected


CHILD = """
import sys, trio
from tests.cluck.daemon.processes import Speaker
from cluck.protocol import LockHeld

async def main():
    speaker = await Speaker(sys.argv[1]).greet()
    speaker.acquire(b"backup", lease=600.0, grace=600.0)
    await speaker.hear(LockHeld)
    print("held", flush=True)
    {then}

trio.run(main)
"""


def child(cluckd, then):
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(then=then), str(cluckd.path)], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    return process


@pytest.mark.parametrize(
    ("then", "end"),
    [
        ("await trio.sleep_forever()", lambda process: process.kill()),
        ("speaker.close(); sys.stdin.read()", lambda process: process.stdin.close()),
    ],
    ids=["killed", "ended long after its connection"],
)
async def test_what_a_dead_process_held_is_free_at_once(cluckd, then, end):
    process = child(cluckd, then)
    two = await cluckd.speaker().greet()
    two.acquire(b"backup")
    end(process)
    await two.hear(LockHeld)
    process.wait()
    process.stdout.close()
    process.stdin.close()


async def test_what_a_live_process_held_is_kept_without_its_connection(cluckd):
    one, two = await cluckd.speaker().greet(), await cluckd.speaker().greet()
    one.acquire(b"backup", lease=600.0)
    held = await one.hear(LockHeld)
    one.close()
    two.acquire(b"backup", waits=False)
    assert (await two.hear(Refused)).why == "busy"
    again = cluckd.speaker()
    await again.greet(one.welcome.client, one.welcome.secret)
    assert again.welcome.was_resumed
    two.acquire(b"backup")
    again.say(Release(held.request, held.token))
    assert (await two.hear(LockHeld)).token > held.token


async def test_a_restart_does_not_forget_the_epoch(cluckd):
    """Of a single server the state is lost, but not the epoch: later tokens are larger."""
    one = await cluckd.speaker().greet()
    one.acquire(b"backup")
    held = await one.hear(LockHeld)
    await cluckd.end(signal.SIGKILL)
    await cluckd.start("--force-birth").running()  # else it waits for the longest lease there may have been
    two = await cluckd.speaker().greet()
    two.acquire(b"backup")
    assert (await two.hear(LockHeld)).token >> 32 > held.token >> 32


async def test_force_is_recorded(cluckd):
    one, two = await cluckd.speaker().greet(), await cluckd.speaker().greet()
    one.acquire(b"back\nup")
    held = await one.hear(LockHeld)
    two.say(Force(b"back\nup", held.token))
    assert (await one.hear(Ended)).why == "forced"
    _, log = await cluckd.end()
    assert rf"lock back\nup is taken by force from the holder of token {held.token}, by process {os.getpid()}" in log
    assert f"of the user with uid {os.geteuid()}" in log


async def test_programs_read_of_force(tmp_path, config):
    """And of who changes the voters, and who is put out: each line is an object, whatever a lock is called."""
    with open(config, "a", encoding="utf-8") as file:
        file.write("logging {\n    to_syslog: no\n    format: json\n}\n")
    with closing(Cluckd(tmp_path, 1, "-c", config)) as daemon:
        await daemon.start().running()
        one, two = await daemon.speaker().greet(), await daemon.speaker().greet()
        one.acquire(b"back\nup")
        held = await one.hear(LockHeld)
        two.say(Force(b"back\nup", held.token))
        assert (await one.hear(Ended)).why == "forced"
        one.say(ChangeVoters(2, Electorate({1: 1})))
        one.say(Ask(1, "status"))
        await one.hear(Answer)
        two.say(Hello(VERSION))
        await two.hear(Goodbye)
        _, log = await daemon.end()
    lines = [json.loads(line) for line in log.splitlines()]
    assert {line["program"] for line in lines} == {"cluckd"}
    events = {line["event"]: line for line in lines if "event" in line}
    lock, who = {"lock": "back\nup", "token": held.token}, {"pid": os.getpid(), "uid": os.geteuid()}
    assert events["force_request"].items() >= {**lock, **who, "allowed": True}.items()
    assert events["lock_forced"].items() >= {**lock, "node": 1, "by_node": 1}.items()
    assert events["voters_request"].items() >= {**who, "version": 2, "voters": "1", "allowed": True}.items()
    assert events["client_ended"].items() >= {**who, "reason": "malformed", "level": "info"}.items()
    assert events["client_ended"]["why"] in events["client_ended"]["message"]
    assert events["client_ended"]["client_program"] == "test"
    assert events["ring"]["members"] == [1]


FORCING = """
import os, trio
from tests.cluck.daemon.processes import Speaker
from cluck.commands import Force
from cluck.protocol import Goodbye

async def main():
    os.setuid(65534)  # here, since this interpreter may not be for everybody
    speaker = await Speaker("{path}").greet()
    speaker.say(Force(b"backup", {token}))
    print((await speaker.hear(Goodbye)).text)

trio.run(main)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="to be another user needs root")
async def test_force_is_for_administrators(tmp_path, config):
    with open(config, "a", encoding="utf-8") as file:
        file.write("uidgid {\n    uid: 65534\n}\n")
    daemon = Cluckd(tmp_path, 1, "-c", config)
    with tempfile.TemporaryDirectory() as folder, closing(daemon):
        os.chmod(folder, 0o755)
        daemon.path = Path(folder, "socket")
        await daemon.start().running()
        one = await daemon.speaker().greet()
        one.acquire(b"backup")
        held = await one.hear(LockHeld)
        text = FORCING.format(path=daemon.path, token=held.token)
        done = await trio.run_process([sys.executable, "-c", text], capture_stdout=True)
        assert b"the user with uid 65534 may not take locks by force: run as root" in done.stdout
        one.say(Release(held.request, held.token))
        assert (await one.hear(Ended)).why is None
        _, log = await daemon.end()
        assert "of the user with uid 65534: refused" in log


@pytest.mark.parametrize(
    ("said", "why", "text"),
    [
        ([b"\x93"], Farewell.MALFORMED, "a record of 1 bytes"),
        ([b"x" * (128 * 1024 + 1)], Farewell.MALFORMED, "a record of 131073 bytes"),
        ([Bye()], Farewell.MALFORMED, "Bye in place of Hello"),
        ([Hello(VERSION + 1)], Farewell.VERSION, "install the same release"),
        ([Hello(VERSION, "test"), Hello(VERSION)], Farewell.MALFORMED, "a second Hello"),
    ],
)
async def test_a_client_that_breaks_the_protocol_is_sent_goodbye(cluckd, said, why, text):
    other = await cluckd.speaker().greet()
    speaker = cluckd.speaker()
    if isinstance(said[0], bytes):
        speaker.sock.setblocking(True)
        speaker.sock.send(said[0])
        speaker.sock.setblocking(False)
    else:
        speaker.say(*said)
    goodbye = await speaker.hear(Goodbye)
    assert goodbye.why is why
    assert text in goodbye.text
    assert await speaker.hear(Goodbye) is None
    other.acquire(b"it goes on")
    await other.hear(LockHeld)
    _, log = await cluckd.end()
    program = "test" if len(said) == 2 else "a program without a name"
    assert f"({program}, process {os.getpid()} of the user with uid {os.geteuid()})" in log


async def test_nobody_speaks_for_others(cluckd):
    one, two = await cluckd.speaker().greet(), await cluckd.speaker().greet()
    two.welcome = one.welcome
    two.acquire(b"backup")
    assert "in another client's name" in (await two.hear(Goodbye)).text


async def test_an_answer_comes_in_parts(cluckd):
    one = await cluckd.speaker().greet()
    for number in range(100):
        one.acquire(b"%03d" % number + bytes(900))
        await one.hear(LockHeld)
    one.say(Ask(1, "tickets"))
    parts = [await one.hear(Answer)]
    while not parts[-1].is_last:
        parts.append(await one.hear(Answer))
    assert len(parts) > 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("-c", "/nowhere/ring.conf"), "/nowhere/ring.conf: No such file"),
        (("-c", "CONFIG", "--node", "9"), "node 9 is not in the nodelist"),
        (("--priority", "15"), "argument --priority: '15' is wrong, it must be 1 to 14, or off"),
        (("--servers", "1,1"), "it must be node ids, each once"),
        (("--backend", "zookeeper"), "it must be one of cpgd, corosync, ring"),
        (("--backend", "ring"), "name the ring's configuration"),
        (("-c", "CONFIG", "--tie-breaker", "3"), "tie_breaker: node 3 is not one of the lock servers: 1"),
        (("--node", "1"), "--node is for a lock server that is a node itself (-c FILE), not on cpgd"),
        (("--state-dir", ""), "argument --state-dir: '' is wrong, it must be a path"),
        (("--cpg-socket", ""), "argument --cpg-socket: '' is wrong, it must be a path"),
        (("--socket", ""), "argument --socket: '' is wrong, it must be a path"),
        (("--group", ""), "argument --group: '' is wrong, it must be the name of a group"),
        (("-c", ""), "argument -c/--config: the path is empty"),
        (("--bad",), "unrecognized arguments"),
    ],
)
async def test_what_cannot_be_used_is_named(config, tmp_path, arguments, text):
    arguments = [config if argument == "CONFIG" else argument for argument in arguments]
    done = await trio.run_process(
        [sys.executable, "-m", "cluck.daemon", *arguments, "--socket", tmp_path / "socket", "--state-dir", tmp_path],
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == 2
    assert text in done.stderr.decode()


@pytest.mark.parametrize("options", [("-c", "CONFIG"), ()], ids=["with a file", "without"])
async def test_what_may_get_better_by_itself_is_another_exit_code(config, tmp_path, options):
    """A service manager starts it again then."""
    options = [config if option == "CONFIG" else option for option in options]
    first = Cluckd(tmp_path, 1, "--cpg-socket", tmp_path / "nowhere").start()
    await first_to_come(first)
    second = Cluckd(tmp_path, 1, *options)
    second.folder = tmp_path / "second"
    second.folder.mkdir()
    second.start()
    assert await trio.to_thread.run_sync(second.process.wait, 20) == 1
    assert f"another daemon listens there: the daemon's socket {first.path}" in second.logged()
    second.close()
    first.close()


async def test_a_disk_that_cannot_be_used_is_another_exit_code(config, tmp_path):
    done = await trio.run_process(
        [
            sys.executable,
            "-m",
            "cluck.daemon",
            "-c",
            config,
            "--socket",
            tmp_path / "socket",
            "--state-dir",
            "/proc/no",
        ],
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == 1
    assert "the folder /proc/no for what lock servers remember" in done.stderr.decode()


async def test_who_comes_while_it_starts_is_welcomed_when_there_is_a_ring(tmp_path, config):
    daemon = Cluckd(tmp_path, 1, "-c", config).start()
    speaker = await first_to_come(daemon)
    await speaker.greet()
    assert await daemon.end() == (0, daemon.logged())
    daemon.close()


async def first_to_come(daemon):
    """A client that connects as soon as somebody listens."""
    with trio.fail_after(60):
        while True:
            try:
                return daemon.speaker()
            except (FileNotFoundError, ConnectionRefusedError):
                await trio.sleep(0.001)


async def test_without_a_ring_it_says_so_once_and_waits(tmp_path):
    daemon = Cluckd(tmp_path, 1, "--cpg-socket", tmp_path / "nowhere").start()
    for _ in range(3):
        speaker = await first_to_come(daemon)
        goodbye = await speaker.hear(Goodbye)
        assert goodbye.why is Farewell.ENDING
        assert "this machine's lock server has no ring: no daemon listens at" in goodbye.text
    code, log = await daemon.end()
    assert code == 0
    assert log.count("no lock server until there is a ring: no daemon listens at") == 1
    assert "goodbye" not in log
    daemon.close()


async def test_a_disk_that_cannot_be_used_is_waited_for(autojump_clock, monkeypatch, caplog):
    tries = []

    async def stand(settings, options, server, life):
        tries.append(server.why)
        if len(tries) < 5:
            raise ExceptionGroup("", [OSError(errno.ENOSPC, "No space left on device", "/state/cluck_1.key")])

    monkeypatch.setattr(command, "_serve_ring", stand)
    await command._serve(SimpleNamespace(backend=Backend.CPGD), None, Server(Access()), Life())
    assert set(tries[1:]) == {"/state/cluck_1.key: No space left on device"}
    text = "no lock server until its disk can be used: /state/cluck_1.key: No space left on device"
    assert caplog.messages == [text]
    assert fields_of(caplog.records[0]) == {"event": "waiting", "why": text}
    tries.clear()
    with pytest.raises(ExceptionGroup):
        await command._serve(SimpleNamespace(backend=Backend.RING), None, Server(Access()), Life())


async def ring_ends_behind(life):
    """A lock server that was told to end, whose ring was faster."""
    await life.lived()
    raise RingLost("the daemon has been told to end")


async def ring_ends_with(life):
    """A lock server whose ring ends in the moment in which it is told to end itself."""
    with trio.CancelScope() as scope:
        life.end()
        scope.cancel()
        await life.lived()
    raise RingLost("the daemon has been told to end")


@pytest.mark.parametrize("stand", [ring_ends_behind, ring_ends_with])
async def test_it_ends_also_where_its_ring_ends_with_it(autojump_clock, monkeypatch, stand):
    monkeypatch.setattr(command, "_serve_ring", lambda settings, options, server, life: stand(life))
    life = Life()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            settings = SimpleNamespace(backend=Backend.CPGD)
            nursery.start_soon(command._serve, settings, None, Server(Access()), life)
            await wait_all_tasks_blocked()
            life.end()


class Cpgd:
    """A cpgd of its own process."""

    def __init__(self, config, folder):
        self.path = folder / "cpgd"
        self._command = [sys.executable, "-m", "cpg.daemon", "-c", config, "--node", "1", "--socket", str(self.path)]

    def start(self):
        self.process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.mark.parametrize("behind_cpgd", [False, True])
async def test_a_group_that_everybody_may_join_is_warned_of(tmp_path, config, behind_cpgd):
    with open(config, "a", encoding="utf-8") as file:
        file.write("cpgd {\n    reserved {\n        group: kept\n    }\n}\n")
    cpgd = Cpgd(config, tmp_path)
    ring = ["-c", config]
    if behind_cpgd:
        cpgd.start()
        ring = ["--cpg-socket", cpgd.path]
    try:
        for group, is_open in (("mine", True), ("kept", False), ("cluck", False)):
            daemon = Cluckd(tmp_path, group, *ring, "--group", group)
            with closing(daemon):
                await daemon.start().running()
                _, log = await daemon.end()
                assert (
                    "all users whom the ring's daemons let in may join the lock servers' group mine" in log
                ) is is_open
    finally:
        if behind_cpgd:
            cpgd.kill()


async def outcome_of(*arguments):
    done = await trio.run_process([sys.executable, "-m", *map(str, arguments)], capture_stderr=True, check=False)
    return done.returncode, done.stderr.decode()


async def test_a_socket_of_the_other_daemon_is_named(tmp_path, config):
    cpgd = Cpgd(config, tmp_path).start()
    try:
        with closing(Cluckd(tmp_path, 1, "--cpg-socket", cpgd.path)) as daemon:
            await daemon.start().running()
            is_cluckd = f"cluckd, the lock server, listens at {daemon.path}, not cpgd: name the socket of cpgd"
            code, err = await outcome_of("cpg", "status", "--socket", daemon.path)
            assert (code, is_cluckd in err) == (1, True), err
            with pytest.raises(cpg.DaemonUnavailable, match="cluckd, the lock server, listens at "):
                cpg.CPG("chat", path=daemon.path)
            code, err = await outcome_of(
                "cluck.daemon",
                *("--cpg-socket", daemon.path, "--socket", tmp_path / "other", "--state-dir", tmp_path),
            )
            assert (code, f"cpg_socket: {is_cluckd}" in err) == (2, True), err
            is_cpgd = f"cpgd, the daemon of groups, listens at {cpgd.path}, not cluckd: name the socket of cluckd"
            code, err = await outcome_of("cluck", "list", "--socket", cpgd.path)
            assert (code, err.startswith(f"cluck: {is_cpgd}")) == (125, True), err
            with pytest.raises(DaemonUnavailable, match="cpgd, the daemon of groups, listens at "):
                cluck.blocking.connect(cpgd.path)
    finally:
        cpgd.kill()


async def test_a_socket_of_another_program_is_named(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(tmp_path / "other"))
        other.listen()
        code, err = await outcome_of("cluck", "list", "--socket", tmp_path / "other")
        assert (code, err.startswith(f"cluck: another program listens at {tmp_path}/other, not cluckd")) == (
            125,
            True,
        )
        code, err = await outcome_of("cpg", "status", "--socket", tmp_path / "other")
        assert (code, err.startswith(f"cpg: another program listens at {tmp_path}/other, not cpgd")) == (1, True)


async def test_it_begins_anew_where_its_cpgd_does(tmp_path, config):
    cpgd = Cpgd(config, tmp_path).start()
    daemon = Cluckd(tmp_path, 1, "--cpg-socket", cpgd.path).start()
    try:
        await daemon.running()  # also where it was there before its cpgd
        one = await daemon.speaker().greet()
        one.acquire(b"backup")
        held = await one.hear(LockHeld)
        cpgd.kill()
        assert (await one.hear(Goodbye)).why is Farewell.ENDING
        cpgd.start()
        await daemon.running()
        again = daemon.speaker()
        again.say(Hello(VERSION, "test", one.welcome.client, one.welcome.secret))
        assert (await again.hear(Welcome)).client == one.welcome.client
        assert not (await again.hear(Readiness)).ready  # nobody has the state, and the lease may be relied on
        assert held.token >> 32 == 1
        code, log = await daemon.end()
        assert code == 0
        assert "no lock server until there is a ring: " in log
        assert log.count("node 1 serves programs at") == 2
    finally:
        daemon.close()
        cpgd.kill()


def test_one_user_takes_neither_all_places_nor_the_room_of_others():
    access = Access([UserRule(uid=uid) for uid in (1001, 1002)])
    hub = Hub(access, most_clients=16, total_limit=2000)
    of_one = [hub.connect(pid, 1001, 0) for pid in range(20)]
    assert [client.ended for client in of_one].count(False) == 7
    assert of_one[-1].farewell.why is Farewell.FULL
    assert "the daemon serves 7 programs, 7 of them of the user with uid 1001" in of_one[-1].farewell.text
    other = hub.connect(50, 1002, 0)
    assert not other.ended
    assert not hub.connect(51, 0, 0).ended
    assert hub.connect(52, 1003, 0).farewell.why is Farewell.ACCESS
    hub.take_written()
    for client in hub.clients:
        while client.has_records():
            client.record()
    other.send(Readiness(False, "x" * 500))
    for client in of_one[:7]:
        client.send(Readiness(False, "x" * 300))
    hub.take_written()
    assert not other.ended
    assert any(client.ended for client in of_one[:7])
    for client in of_one[:3]:
        hub.disconnect(client)
    assert not hub.connect(60, 1001, 0).ended


def test_a_client_that_does_not_read_is_disconnected_with_a_goodbye():
    hub = Hub(Access(), client_limit=1000, total_limit=1500)
    slow, other = hub.connect(1, 0, 0), hub.connect(2, 0, 0)
    for _ in range(100):
        slow.send(Readiness(False, "x" * 8))
    other.send(Ping())
    assert set(hub.take_written()) == {slow, other}
    assert (slow.ended, other.ended, hub.dropped) == (True, False, 1)
    assert "more than 1000 bytes waited for it" in slow.farewell.text
    slow.send(Ping())
    slow.record()
    assert not slow.has_records()
    for _ in range(8):
        third = hub.connect(3, 0, 0)
        third.send(Readiness(False, "x" * 900))
        hub.take_written()
    assert hub.waiting <= 1500
    assert any(client.farewell and "all clients, most of them for it" in client.farewell.text for client in hub.clients)
