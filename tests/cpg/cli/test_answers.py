"""Daemons that stand still: people are told so soon, and what waits for an answer ends."""

import socket
from pathlib import Path

import pytest
import trio

import cluck
import cpg
from cpg.cli.answers import answered
from cpg.cli.rings import groups_of, quorum_status, status_source
from cpg.client.asynchronous import DaemonRing


@pytest.fixture
def deaf(tmp_path):
    """A socket whose daemon takes in nobody."""
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
    text = f"at {deaf} has not answered for {{}} s: it is starting, or stands still: look at "
    assert text.format(30) in str(failed.value)
    (warning,) = caplog.messages
    assert text.format(3) in warning


async def test_an_answer_that_comes_late(autojump_clock, capsys):
    async def ask():
        await trio.sleep(5)
        return "answer"

    assert await answered("cpg", ask, lambda seconds: f"silent for {seconds}", ValueError) == "answer"
    assert trio.current_time() == 8
    assert capsys.readouterr().err == "cpg: silent for 3.0\n"


class Silent(DaemonRing):
    path = Path("/run/silent")

    def __init__(self):
        pass

    async def ask(self, question):
        await trio.sleep_forever()


@pytest.mark.parametrize("ask", [groups_of, quorum_status, lambda ring: status_source(ring)()])
async def test_a_daemon_that_falls_silent(autojump_clock, capsys, ask):
    with pytest.raises(cpg.DaemonUnavailable, match="the daemon at /run/silent has not answered for 30 s: "):
        await ask(Silent())
    assert capsys.readouterr().err.startswith("cpg: the daemon at /run/silent has not answered for 3 s: ")
