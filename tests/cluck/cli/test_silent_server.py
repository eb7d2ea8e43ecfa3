"""The commands of `cluck` at a lock server that falls silent."""

import argparse
from contextlib import asynccontextmanager

import pytest
import trio

from cluck.cli import commands
from cluck.cli.exit_codes import CommandFailed, Exit
from cluck.client import asynchronous
from cluck.errors import DaemonUnavailable


class Silent:
    ready = True

    async def query(self, question):
        await trio.sleep_forever()

    async def status(self):
        await self.query("status")

    async def wait_ready(self):
        await trio.lowlevel.checkpoint()


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    @asynccontextmanager
    async def connect(socket):
        yield Silent()

    monkeypatch.setattr(asynchronous, "connect", connect)


COMMANDS = ["unlock", "list_locks", "status", "voters", "tie_breaker", "leaders", "info", "wait"]


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_lock_server_that_falls_silent(autojump_clock, capsys, name):
    options = argparse.Namespace(socket=None, name=b"x", change=None, half=1, timeout=None, leader=False, token=None)
    with pytest.raises(DaemonUnavailable, match="cluckd has not answered for 30 s: "):
        await getattr(commands, name)(options)
    assert trio.current_time() == 30
    assert capsys.readouterr().err.startswith("cluck: cluckd has not answered for 3 s: ")


async def test_a_change_that_is_waited_for_at_a_silent_lock_server(autojump_clock):
    options = argparse.Namespace(socket=None, name=b"x", timeout=2.0, leader=False)
    with pytest.raises(CommandFailed, match="has not answered for 1 s") as failed:
        await commands.wait(options)
    assert failed.value.code == Exit.FAILED
