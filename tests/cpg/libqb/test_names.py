"""Somebody else has the names of libqb's services before the daemon starts."""

import os
import re
import socket
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import pytest
import trio

import cpg
from cpg.daemon import command
from cpg.daemon.status import LibqbState
from cpg.libcpg.codes import Code
from cpg.libqb import layout, names, server
from cpg.local.access import Access
from tests.cpg.libqb import client as raw
from tests.cpg.libqb.client import RawClient, request, unique_prefix
from tests.cpg.processes import write_config
from totem.config import Daemon
from totem.corosync_conf import load

NOBODY = 65534
HOLDER = """
import os, socket, sys
os.setuid({uid})
sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
sock.bind({address!r})
{then}
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def prefix(monkeypatch):
    prefix = unique_prefix()
    monkeypatch.setattr(command, "NAMES_PAUSE", 0.01)
    for module in (server, names):
        monkeypatch.setattr(module, "address", lambda name: layout.address(prefix + name))
    return prefix


def holder(prefix, uid, then):
    """Start a process of a user that has the name of a service, and listens there or not."""
    text = HOLDER.format(uid=uid, address=layout.address(prefix + "cpg"), then=then)
    process = subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


def end(process):
    process.stdin.close()
    process.wait()
    process.stdout.close()


def ring_of_one(tmp_path, libqb):
    config, _ = load(write_config(tmp_path, 1))
    return cpg.open_ring(replace(config, daemon=Daemon(libqb=libqb)))


@pytest.mark.skipif(os.geteuid() != 0, reason="to be another user needs root")
@pytest.mark.parametrize("then", ["sock.listen()", "sock.listen(0)", "pass"])
@pytest.mark.parametrize("libqb", [True, None])
async def test_a_foreign_user_is_named_and_outwaited(tmp_path, prefix, caplog, then, libqb):
    process = holder(prefix, NOBODY, then)
    state = LibqbState()
    with trio.fail_after(raw.PATIENCE):
        async with ring_of_one(tmp_path, libqb) as ring, trio.open_nursery() as served:
            await command._serve_libqb(ring, Access(), state, served)
            assert re.search(
                rf"is taken by process {process.pid} \(python.*\) of the user with uid {NOBODY}$", state.lacks
            )
            (error,) = [record for record in caplog.records if record.levelname == "ERROR"]
            assert state.lacks in error.getMessage()
            await trio.sleep(0.1)  # many tries
            assert not state.serves
            end(process)
            while not state.serves:
                await trio.sleep(0.01)
            async with RawClient("cpg", prefix) as client:
                assert (await client.ask(request(raw.LOCAL_GET)))[1] == Code.OK
            assert state.lacks is None
            assert caplog.text.count("programs that use libcpg are not served") == 1
            served.cancel_scope.cancel()


@pytest.mark.parametrize("libqb", [True, None])
async def test_a_corosync_keeps_its_names_unless_they_are_wanted(tmp_path, prefix, caplog, libqb):
    """A Corosync that starts again must find them."""
    state = LibqbState()
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as other:
        other.bind(layout.address(prefix + "cpg"))
        other.listen()
        async with ring_of_one(tmp_path, libqb) as ring, trio.open_nursery() as served:
            await command._serve_libqb(ring, Access(), state, served)
            (level,) = [record.levelname for record in caplog.records if "are not served" in record.getMessage()]
            assert level == ("ERROR" if libqb else "WARNING")
            assert len(served.child_tasks) == bool(libqb)
            assert f"process {os.getpid()} " in state.lacks
            served.cancel_scope.cancel()


def test_a_name_that_nobody_has(prefix):
    assert names.owner_of("cpg") is None
    assert "a process that cannot be seen from here" in str(names.NameTaken("cpg", None))
