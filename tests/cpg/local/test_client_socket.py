"""Daemons that hang: the user is told soon, and every wait for an answer ends."""

import socket
from pathlib import Path

import pytest
import trio

import cluck
import cpg
from cpg.cli.rings import groups_of, quorum_status, status_source
from cpg.client.asynchronous import DaemonRing
from cpg.local.client_socket import LocalDaemon


@pytest.fixture
def deaf(tmp_path):
    """Return a socket whose daemon accepts no connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        yield tmp_path / "socket"


@pytest.mark.parametrize("module", [cpg, cluck])
async def test_a_daemon_that_does_not_welcome_anybody(deaf, caplog, autojump_clock, module):
    with pytest.raises((cpg.DaemonUnavailable, cluck.DaemonUnavailable)) as failed:
        async with module.connect(deaf):
            pass
    assert trio.current_time() == 30
    text = f"at {deaf} has not answered for {{}} s: it is starting, or hangs"
    assert text.format(30) in str(failed.value)
    (warning,) = caplog.messages
    assert text.format(3) in warning


async def test_an_answer_that_comes_late(autojump_clock):
    async def ask():
        await trio.sleep(5)
        return "answer"

    warnings = []
    assert await LocalDaemon("late", "").answered(ask, warnings.append) == "answer"
    assert trio.current_time() == 8
    assert warnings == ["late has not answered for 3 s: it is starting, or hangs; see its log"]


class Silent(DaemonRing):
    path = Path("/run/silent")

    def __init__(self):
        pass

    async def query(self, what):
        await trio.sleep_forever()


@pytest.mark.parametrize("ask", [groups_of, quorum_status, lambda ring: status_source(ring)()])
async def test_a_daemon_that_falls_silent(autojump_clock, capsys, ask):
    with pytest.raises(cpg.DaemonUnavailable, match="cpgd at /run/silent has not answered for 30 s: "):
        await ask(Silent())
    assert capsys.readouterr().err.startswith("cpg: cpgd at /run/silent has not answered for 3 s: ")
