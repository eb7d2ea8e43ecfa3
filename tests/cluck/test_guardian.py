"""What descends from a process: signalled once each, whatever its groups and sessions are; caught however it forks."""

import subprocess
import sys
from collections import Counter

FAMILY = r"""
import os, signal, sys
from cluck.cli.guardian import Family, adopt_orphans

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
family = Family(None, None)
assert not family.signal(HEARD)
assert not family.signal(END)
while not family.is_gone():
    list(family.bury())
os.close(hears)
print(told.read(), end="")
"""


def test_each_is_signalled_once():
    done = subprocess.run([sys.executable, "-c", FAMILY], capture_output=True, text=True, check=True, timeout=30)
    told = Counter(done.stdout.splitlines())
    living = [line.removeprefix("lives ") for line in told if line.startswith("lives ")]
    assert len(living) == 7
    assert told == Counter(f"{what} {pid}" for what in ("lives", "heard") for pid in living)


def test_a_chain_of_forks_is_caught():
    """Each process of it lives for a moment."""
    chain = "import os\nprint('up', flush=True)\nwhile True:\n    os.fork() and os._exit(0)"
    command = [sys.executable, "-m", "tests.cluck.fake_locks", "run", "x", "--grace", "0.1", "--", sys.executable]
    done = subprocess.run([*command, "-c", chain], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "up\n", "given back\n")
