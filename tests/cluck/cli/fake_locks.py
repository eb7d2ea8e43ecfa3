"""`cluck` on a client of the lock service that is played: `python -m tests.cluck.cli.fake_locks ARGUMENTS`.

In the environment: FAKE_ERROR, the error that the lock raises; FAKE_LOSE, a descriptor at whose end the lock is lost;
FAKE_MUTE, set where no renewal is answered; FAKE_TELL, set where each is told on standard error; FAKE_ID, by which the
processes of the command are known; FAKE_LEAST, seconds that the lock is to be held at least. When the lock is given
back, standard error says so, and what of the command still runs.
"""

import os
import sys
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from cluck import errors
from cluck.cli import main
from cluck.client import asynchronous
from cluck.client.requests import Leader

TOKEN = 4294967297


def running(mark):
    """The command lines of what runs under a lock, with this FAKE_ID in its environment; who has ended does not."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if {f"FAKE_ID={mark}".encode(), f"CLUCK_TOKEN={TOKEN}".encode()} <= set(environment):
                found.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip())
    return list(filter(None, found))  # a zombie has none


class Held:
    token = TOKEN

    def __init__(self, duration):
        self.duration = duration
        self.since = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.deadline = time.clock_gettime(time.CLOCK_BOOTTIME) + duration

    def age(self):
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.since

    def remaining(self):
        return max(0.0, self.deadline - time.clock_gettime(time.CLOCK_BOOTTIME))

    async def renew(self):
        if "FAKE_MUTE" in os.environ:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        if "FAKE_TELL" in os.environ:
            print("renewed", file=sys.stderr)
        self.deadline = time.clock_gettime(time.CLOCK_BOOTTIME) + self.duration


class Candidate:
    """Leads at once, and again when its first leadership is lost."""

    def __init__(self, duration):
        self.held = Held(duration)
        self.is_leader = False
        self.why_ended = ""

    @property
    def deadline(self):
        return self.held.deadline if self.is_leader else 0.0

    async def resign(self):
        await trio.lowlevel.checkpoint()
        self.is_leader, self.why_ended = False, "it was given up"

    async def run_while_leader(self, fn):
        async def lose():
            await trio.lowlevel.wait_readable(int(os.environ["FAKE_LOSE"]))
            self.is_leader, self.why_ended = False, "it was lost"
            body.cancel()

        self.is_leader = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose)
            with trio.CancelScope() as body:
                code = await fn(Leader(TOKEN))
            nursery.cancel_scope.cancel()
        if not body.cancelled_caught:
            return code
        self.is_leader = True
        return await fn(Leader(TOKEN + 1))


class Locks:
    def fileno(self):
        return 0

    @asynccontextmanager
    async def lock(self, name, *, timeout, grace, duration=1000.0):
        if error := os.environ.get("FAKE_ERROR"):
            if error == "wait":
                print("waiting", flush=True)
                await trio.sleep_forever()
            kind = getattr(errors, error)
            raise kind("so it is", ()) if kind is errors.DeadlockError else kind("so it is")
        held = Held(duration)
        lost = False
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as body:

                async def lose():
                    nonlocal lost
                    if descriptor := os.environ.get("FAKE_LOSE"):
                        await trio.lowlevel.wait_readable(int(descriptor))
                    else:
                        await trio.sleep(held.remaining())
                        while held.remaining() > 0:
                            await trio.sleep(held.remaining())
                    lost = True
                    body.cancel()

                nursery.start_soon(lose)
                try:
                    yield held
                finally:
                    if not lost:
                        is_early = held.age() < float(os.environ.get("FAKE_LEAST", "0"))
                        print(
                            "given back",
                            *["too early"] * is_early,
                            *running(os.environ.get("FAKE_ID", "")),
                            file=sys.stderr,
                        )
            nursery.cancel_scope.cancel()
        if lost:
            raise errors.LockLost("it was lost")

    shared = lock

    ready = False
    why_not_ready = "nobody is here"

    @asynccontextmanager
    async def candidate(self, name, *, address, port, duration, grace):
        yield Candidate(duration)


@asynccontextmanager
async def connect(socket=None):
    yield Locks()


if __name__ == "__main__":
    asynchronous.connect = connect
    sys.exit(main())
