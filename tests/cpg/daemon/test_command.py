"""The program cpgd: its life, its errors, its signals."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
import trio

import cpg
from tests.cpg.processes import run

NOWHERE = "/nowhere/ring.conf"


class Cpgd:
    """A cpgd of its own process, with what a service manager gives it."""

    def __init__(self, config, folder, node=1, prefix=()):
        """`prefix`: a command that runs its arguments as a command, as the same process."""
        self.path = folder / "socket"
        self.notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notices.bind(str(folder / "notify"))
        self.notices.setblocking(False)
        self.process = subprocess.Popen(
            [
                *prefix,
                *(sys.executable, "-m", "cpg.daemon"),
                *("-c", config, "--node", str(node), "--socket", str(self.path)),
            ],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify")},
        )

    async def notice(self):
        """Return the next notification of the service manager."""
        await trio.lowlevel.wait_readable(self.notices)
        return self.notices.recv(1000).decode()

    async def end(self, number=signal.SIGTERM):
        """Send it a signal; return its exit code and its log."""
        self.process.send_signal(number)
        return await trio.to_thread.run_sync(self._ended)

    def _ended(self):
        _, log = self.process.communicate(timeout=20)
        return self.process.returncode, log

    def close(self):
        self.process.kill()
        self.process.communicate()
        self.notices.close()


@pytest.fixture
async def cpgd(config, tmp_path):
    cpgd = Cpgd(config, tmp_path)
    with trio.fail_after(40):
        yield cpgd
    cpgd.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_its_life_as_a_service_manager_sees_it(cpgd, number):
    assert await cpgd.notice() == f"READY=1\nSTATUS=node 1 serves {cpgd.path}"
    async with cpg.connect(cpgd.path) as ring:
        assert ring.node_ids == (1,)
    code, log = await cpgd.end(number)
    assert code == 0
    assert await cpgd.notice() == "STOPPING=1"
    assert f"node 1 serves programs at {cpgd.path}; the ring has node 1" in log
    assert "node 1 has left" in log
    assert not cpgd.path.exists()


async def test_what_is_reloaded(cpgd, config):
    await cpgd.notice()
    cpgd.process.send_signal(signal.SIGHUP)
    assert await cpgd.notice() == "RELOADING=1"
    assert await cpgd.notice() == "READY=1"
    with open(config, "a", encoding="utf-8") as file:
        file.write("uidgid {\n    uid: nobody in particular\n}\n")
    cpgd.process.send_signal(signal.SIGHUP)
    assert await cpgd.notice() == "RELOADING=1"
    assert await cpgd.notice() == "READY=1"
    os.unlink(config)
    cpgd.process.send_signal(signal.SIGHUP)
    assert await cpgd.notice() == "RELOADING=1"
    assert await cpgd.notice() == "READY=1"
    code, log = await cpgd.end()
    assert code == 0
    assert f"not reloaded, the former configuration stays in force: {config}: No such file" in log
    assert "reloaded: who may connect" in log
    assert "not reloaded, the former configuration stays in force" in log
    assert "a user of this machine, or a number" in log


async def test_commands_find_it_by_the_environment(cpgd, monkeypatch):
    await cpgd.notice()
    monkeypatch.setenv("CPGD_SOCKET", str(cpgd.path))
    code, out, _ = await run("send", "chat", "hello", "--alone")
    assert (code, out) == (0, "")
    code, out, _ = await run("members", "--json", "--alone")
    assert json.loads(out.splitlines()[0])["members"] == [1]


async def test_a_ring_that_is_lost_is_an_exit_code(config, tmp_path):
    done = await cpgd_fails("-c", config, "--node", "1", "--socket", str(tmp_path))
    assert done.returncode == 1
    assert "something that is no socket is in the way" in done.stderr
    assert str(tmp_path) in done.stderr


async def test_a_second_daemon_is_an_exit_code_with_which_it_is_started_again(cpgd, config):
    await cpgd.notice()
    done = await cpgd_fails("-c", config, "--node", "2", "--socket", str(cpgd.path))
    assert done.returncode == 1
    assert f"another daemon listens there: the daemon's socket {cpgd.path}" in done.stderr
    done = await cpgd_fails("-c", config, "--node", "1", "--socket", f"{cpgd.path}2")
    assert done.returncode == 1
    assert "another process uses it" in done.stderr


async def test_a_disk_that_cannot_be_used_is_an_exit_code_with_which_it_is_started_again(config, tmp_path):
    with open(config, encoding="utf-8") as file:
        text = file.read()
    with open(config, "w", encoding="utf-8") as file:
        file.write(text.replace(f"state_dir: {tmp_path}", "state_dir: /proc/nowhere"))
    done = await cpgd_fails("-c", config, "--node", "1", "--socket", str(tmp_path / "socket"))
    assert done.returncode == 1
    assert "ring sequences cannot be kept in /proc/nowhere: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("-c", NOWHERE), f"{NOWHERE}: No such file"),
        (("-c", "CONFIG", "--node", "9"), "node 9 is not in the nodelist"),
        (("-c", "CONFIG", "--socket", "x" * 200), "name a shorter one"),
        (("--bad",), "unrecognized arguments"),
    ],
)
async def test_what_cannot_be_used_is_named(config, tmp_path, arguments, text):
    arguments = [config if argument == "CONFIG" else argument for argument in arguments]
    done = await cpgd_fails("--socket", str(tmp_path / "socket"), *arguments)
    assert done.returncode == 2
    assert text in done.stderr


async def cpgd_fails(*arguments):
    return await trio.to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-m", "cpg.daemon", *arguments], capture_output=True, text=True, check=False, timeout=20
        )
    )


async def test_a_socket_in_a_folder_that_is_not_there_is_refused(config, tmp_path):
    """One that was mistyped is not made."""
    place = tmp_path / "mistyped" / "socket"
    done = await cpgd_fails("-c", config, "--node", "1", "--socket", str(place))
    assert done.returncode == 1
    assert f"there is no folder {place.parent}: the daemon's socket {place}" in done.stderr
    assert not place.parent.exists()
