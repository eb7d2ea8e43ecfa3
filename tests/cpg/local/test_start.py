"""A daemon starts on a machine without a network yet: it waits, logs that once, and can be ended."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from cpg.local.start import ring_in_time
from tests.cluck.daemon.processes import Cluckd
from tests.cpg.daemon.test_command import Cpgd
from tests.cpg.processes import write_config
from totem.errors import AddressUnavailable, ConfigError
from totem.log_fields import fields_of

UNKNOWN = "not-there-yet.invalid"
LATE = "192.0.2.77"
"""An address of the range for documentation: no machine has it."""


class Network:
    """The results of a start's steps, one after the other."""

    def __init__(self, *found):
        self.found = list(found)

    def load(self):
        return self.meet(("config", ("strange",)))

    def prepare(self, config, file):
        return self.meet("ring")

    def meet(self, result):
        if self.found and isinstance(self.found[0], tuple) == isinstance(result, tuple):
            raise self.found.pop(0)[0] if isinstance(result, tuple) else self.found.pop(0)
        return result


NO_NAME = (AddressUnavailable("ring.conf:9: beta is no host name"),)
NO_ADDRESS = AddressUnavailable("no node of the nodelist has an address of this machine")
TENTATIVE = OSError(errno.EADDRNOTAVAIL, "node 1 cannot listen at fd00::1 port 5405: this machine has no such address")


async def test_names_and_addresses_are_waited_for_and_each_is_said_once(autojump_clock, caplog):
    caplog.set_level("INFO")
    network = Network(NO_NAME, NO_NAME, NO_NAME, NO_ADDRESS, NO_ADDRESS, TENTATIVE, TENTATIVE)
    assert await ring_in_time(network.prepare, network) == "ring"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"waiting for the network: {NO_NAME[0]}"),
        ("WARNING", f"waiting for the network: {NO_ADDRESS}"),
        ("WARNING", f"waiting for the network: {TENTATIVE.strerror}"),
        ("WARNING", "strange"),
        ("INFO", "it is there, after 7 s"),
    ]
    assert fields_of(caplog.records[0]) == {"event": "waiting", "why": f"waiting for the network: {NO_NAME[0]}"}


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("ring.conf:3: wrong"),
        OSError(errno.EADDRINUSE, "a process has it already"),
        OSError(errno.ENOTDIR, "Not a directory"),
    ],
)
async def test_what_does_not_come_by_itself_is_not_waited_for(autojump_clock, error):
    network = Network(error)
    with pytest.raises(type(error)) as caught:
        await ring_in_time(network.prepare, network)
    assert caught.value is error


def without(config, address):
    """Replace a node's address by one that is not there."""
    with open(config, encoding="utf-8") as file:
        text = file.read()
    with open(config, "w", encoding="utf-8") as file:
        file.write(text.replace("ring0_addr: 127.0.0.1", f"ring0_addr: {address}", 1))
    return config


@pytest.mark.parametrize("address", [UNKNOWN, LATE])
async def test_waiting_daemons_end_on_request(tmp_path, address):
    config = without(write_config(tmp_path, 1), address)
    cpgd = Cpgd(config, tmp_path)
    with trio.fail_after(60):
        assert (await cpgd.notice()).startswith("STATUS=waiting for the network: ")
        cpgd.process.send_signal(1)  # SIGHUP
        assert (await cpgd.notice()) == "RELOADING=1"
        code, log = await cpgd.end()
    assert code == 0
    assert log.count("waiting for the network: ") == 1
    assert address in log
    cpgd.close()

    cluckd = Cluckd(tmp_path, 1, "-c", config, "--node", "1").start()
    assert (await cluckd.notice()).startswith("STATUS=waiting for the network: ")
    code, log = await cluckd.end()
    assert code == 0
    assert log.count("waiting for the network: ") == 1
    cluckd.close()


def check(config, *options):
    command = [sys.executable, "-m", "cpg.daemon", "-c", config, "--check", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("address", "options", "text"),
    [
        (UNKNOWN, (), f"'{UNKNOWN}' is neither an address nor a host name"),
        (LATE, (), "no node of the nodelist has an address of this machine"),
        (LATE, ("--node", "1"), f"node 1: this machine has no address {LATE}"),
    ],
)
def test_a_check_does_not_wait(tmp_path, address, options, text):
    code, _, err = check(without(write_config(tmp_path, 1), address), *options)
    assert code == 2
    assert text in err


def keep_in(config, folder):
    text = Path(config).read_text()
    Path(config).write_text(text.replace(f"state_dir: {Path(config).parent}\n", f"state_dir: {folder}\n"))


@pytest.mark.parametrize("place", ["/proc/no/such", "{config}/below"])
def test_a_check_of_a_folder_that_cannot_be_written(tmp_path, place):
    config = write_config(tmp_path, 1)
    folder = place.format(config=config)
    keep_in(config, folder)
    code, out, err = check(config)
    assert (code, out) == (1, "")
    assert f"ring sequences cannot be kept in {folder}: " in err


def test_a_check_leaves_no_folder(tmp_path):
    config = write_config(tmp_path, 1)
    keep_in(config, tmp_path / "a" / "b")
    assert check(config)[0] == 0
    assert sorted(tmp_path.iterdir()) == [Path(config)]


def test_a_check_of_what_can_be_used(tmp_path):
    config = write_config(tmp_path, 2)
    with open(config, "a", encoding="utf-8") as file:
        file.write("strange {\n}\n")
    code, out, err = check(config, "--node", "2")
    assert (code, out) == (
        0,
        f"{config} can be used: this is node 2 (node2) of nodes 1 2; transport udpu, in plain text\n",
    )
    assert "strange" in err


@pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own needs root")
async def test_an_address_that_comes_late(tmp_path):
    config = without(write_config(tmp_path, 1), LATE)
    cpgd = Cpgd(config, tmp_path, prefix=("unshare", "-n", "--", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"))
    with trio.fail_after(60):
        assert (await cpgd.notice()).startswith("STATUS=waiting for the network: ")
        enter = ["nsenter", "-t", str(cpgd.process.pid), "-n", "ip"]
        await trio.run_process([*enter, "addr", "add", f"{LATE}/32", "dev", "lo"])
        assert (await cpgd.notice()).startswith("READY=1")
        code, log = await cpgd.end()
    assert code == 0
    assert "it is there, after" in log
    cpgd.close()
