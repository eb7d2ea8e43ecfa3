"""The program cpgd: its life, its errors, its signals."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import cpg
from cpg.cli.demo import free_ports
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
    assert "reloaded: nothing has changed" in log
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


@pytest.fixture
def sealed(config, tmp_path):
    """A configuration of one node over knet, with two links, and its key."""
    key = tmp_path / "authkey"
    key.write_bytes(bytes(range(256)))
    key.chmod(0o400)
    port = free_ports(1)[0]
    text = Path(config).read_text(encoding="utf-8")
    totem = text.replace(
        "transport: udpu",
        f"crypto_cipher: aes256\n    crypto_hash: sha256\n    keyfile: {key}\n"
        f"    interface {{\n        mcastport: {port}\n    }}",
    ).partition("nodelist {")[0]
    node = "nodeid: 1\nname: one\nring0_addr: 127.0.0.1\nring1_addr: 127.0.0.2\n"
    Path(config).write_text(f"{totem}nodelist {{\nnode {{\n{node}}}\n}}\n", encoding="utf-8")
    return config


SEALED = "transport knet, encrypted with aes256, signed with sha256, key 40aff2e9d2d8922e of "


async def test_a_check_names_what_seals_the_ring_and_the_key_only_by_its_fingerprint(sealed, tmp_path):
    done = await cpgd_fails("-c", sealed, "--check")
    assert done.stdout == f"{sealed} can be used: this is node 1 (one) of node 1; {SEALED}{tmp_path}/authkey\n"
    assert (done.returncode, done.stderr) == (0, "")


async def test_a_check_of_a_key_that_others_can_read(sealed, tmp_path):
    key = tmp_path / "authkey"
    key.chmod(0o644)
    done = await cpgd_fails("-c", sealed, "--check")
    line = 1 + Path(sealed).read_text(encoding="utf-8").splitlines().index(f"    keyfile: {key}")
    assert done.returncode == 2
    assert f"{sealed}:{line}: the key file {key} has mode 0644, so that others than its owner can read" in done.stderr
    with pytest.raises(cpg.ConfigError, match=rf":{line}: the key file {key} has mode 0644"):
        async with cpg.open_ring(sealed):
            pass


async def test_a_check_of_an_address_on_a_further_link(sealed):
    text = Path(sealed).read_text(encoding="utf-8").replace("127.0.0.2", "192.0.2.1")
    Path(sealed).write_text(text, encoding="utf-8")
    done = await cpgd_fails("-c", sealed, "--check")
    assert done.returncode != 0
    assert "node 1: this machine has no address 192.0.2.1" in done.stderr


async def test_what_seals_the_ring_is_in_log_and_status(sealed, tmp_path):
    cpgd = Cpgd(sealed, tmp_path)
    with trio.fail_after(40):
        await cpgd.notice()
        code, out, _ = await run("status", "--socket", str(cpgd.path))
        assert (code, f"\n{SEALED}{tmp_path}/authkey\n" in out) == (0, True)
        code, out, _ = await run("status", "--json", "--socket", str(cpgd.path))
        assert json.loads(out)["transport"] == {
            "name": "knet",
            "cipher": "aes256",
            "hash": "sha256",
            "fingerprint": "40aff2e9d2d8922e",
            "key_source": f"{tmp_path}/authkey",
        }
        code, log = await cpgd.end()
    assert code == 0
    assert f"node 1: {SEALED}{tmp_path}/authkey\n" in log
    cpgd.close()


async def test_a_socket_in_a_folder_that_is_not_there_is_refused(config, tmp_path):
    """One that was mistyped is not made."""
    place = tmp_path / "mistyped" / "socket"
    done = await cpgd_fails("-c", config, "--node", "1", "--socket", str(place))
    assert done.returncode == 1
    assert f"there is no folder {place.parent}: the daemon's socket {place}" in done.stderr
    assert not place.parent.exists()
