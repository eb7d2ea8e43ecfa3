"""What descends from a process: signalled once each, whatever its groups and sessions are; caught however it forks."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections import Counter

import pytest

from cluck.cli import supervisor
from cluck.cli.exit_codes import CommandFailed, Exit
from cluck.cli.supervised_command import supervised

PROCESS_TREE = r"""
import os, signal, sys
from cluck.cli.supervisor import ProcessTree, adopt_orphans

HEARD, END = signal.SIGRTMIN, signal.SIGRTMIN + 1  # which are queued, however often they come
signal.pthread_sigmask(signal.SIG_BLOCK, {HEARD, END})
heard, hears = os.pipe()

def live(*descendants):
    for begin, rest in descendants:
        if not os.fork():
            begin()
            live(*rest)
    os.write(hears, b"lives %d\n" % os.getpid())
    while signal.sigwait({HEARD, END}) == HEARD:
        os.write(hears, b"heard %d\n" % os.getpid())
    os._exit(0)

def become_orphan():
    if os.fork():
        os._exit(0)

adopt_orphans()
if not os.fork():
    os.setpgid(0, 0)
    live((os.setsid, [(os.getpid, [])]), (os.setpgrp, []), (become_orphan, [(os.setsid, [])]), (os.getpid, []))
told = os.fdopen(heard)
for _ in range(7):
    print(told.readline(), end="")
tree = ProcessTree(None, None)
assert not tree.signal(HEARD)
assert not tree.signal(END)
while not tree.has_ended():
    list(tree.reap())
os.close(hears)
print(told.read(), end="")
"""


def test_each_is_signalled_once():
    done = subprocess.run([sys.executable, "-c", PROCESS_TREE], capture_output=True, text=True, check=True, timeout=30)
    told = Counter(done.stdout.splitlines())
    living = [line.removeprefix("lives ") for line in told if line.startswith("lives ")]
    assert len(living) == 7
    assert told == Counter(f"{what} {pid}" for what in ("lives", "heard") for pid in living)


@pytest.mark.parametrize(
    ("attribute", "text"),
    [
        ("sys.executable", "the process that supervises the command, {place}, cannot be started: Permission denied: "),
        ("supervisor.__file__", "the process that supervises the command has failed, see the error above"),
    ],
)
async def test_a_supervisor_that_cannot_be_run(tmp_path, monkeypatch, attribute, text):
    place = tmp_path / "python"
    place.touch(0o600)
    if attribute == "supervisor.__file__":
        place.write_text("import sys; sys.exit('so it is')")
    monkeypatch.setattr(f"cluck.cli.supervised_command.{attribute}", str(place))
    with pytest.raises(CommandFailed) as failed:  # noqa: PT012
        async with supervised(["true"], 1.0, leaves_daemons=False) as one:
            one.keep(0)
            one.start({})
            await one.ended()
    assert text.format(place=place) in str(failed.value)
    assert failed.value.code == Exit.CANNOT_RUN


def test_a_chain_of_forks_is_caught():
    """Each process of it lives for a moment."""
    chain = "import os\nprint('up', flush=True)\nwhile True:\n    os.fork() and os._exit(0)"
    command = [sys.executable, "-m", "tests.cluck.cli.fake_locks", "run", "x", "--grace", "0.1", "--", sys.executable]
    done = subprocess.run([*command, "-c", chain], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "up\n", "given back\n")


TELLS_SIGNALS = r"""
import os, signal
signal.signal(signal.SIGTERM, lambda number, frame: os.write(1, b"TERM\n"))
signal.signal(signal.SIGWINCH, lambda number, frame: os._exit(os.write(1, b"WINCH\n")))
os.write(1, b"up\n")
while True:
    signal.pause()
"""


def test_a_command_gets_one_signal_though_both_end_it():
    """The supervisor ends it by the clock, and is told to by `cluck run` behind that."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, supervisor.__file__, str(there.fileno()), "1000", "all", sys.executable, "-c"]
    with (
        here,
        subprocess.Popen([*command, TELLS_SIGNALS], pass_fds=[there.fileno()], stdout=subprocess.PIPE) as process,
    ):
        there.close()
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        here.send(json.dumps({"start": {}}).encode())
        assert process.stdout.readline() == b"up\n"
        here.send(json.dumps({"until": now}).encode())
        assert process.stdout.readline() == b"TERM\n"
        here.send(json.dumps({"until": now}).encode())
        here.send(json.dumps({"signal": signal.SIGWINCH}).encode())
        assert process.stdout.read() == b"WINCH\n"
        assert json.loads(here.recv(supervisor.RECORD))["started"]
        assert json.loads(here.recv(supervisor.RECORD)) == {"ended": 6, "overdue": True}
