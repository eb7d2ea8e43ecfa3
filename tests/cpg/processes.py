"""Node processes on loopback for tests: configuration files, commands, members under the test's control."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from functools import partial

import trio

from cpg.cli.demo import NODE, free_ports

CONFIG = """\
totem {{
    version: 2
    cluster_name: tests
    transport: udpu
    token: {token}
    token_coefficient: 0
}}
system {{
    state_dir: {folder}
    sched_rr: no
}}
nodelist {{
{nodes}}}
"""
PATIENCE = 40


def write_config(folder, count, token=600):
    """Write ring.conf for nodes at 127.0.0.1 into a folder; return its path."""
    nodes = "".join(NODE.format(node=node, port=port) for node, port in enumerate(free_ports(count), 1))
    path = folder / "ring.conf"
    path.write_text(CONFIG.format(token=token, folder=folder, nodes=nodes))
    return str(path)


async def run(*arguments, stdin=b"", prefix=()):
    """Run `cpg` to its end; return exit code, output, errors. `prefix`: a command that runs its arguments."""
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            [*prefix, sys.executable, "-m", "cpg", *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            stdin=stdin,
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


class Program:
    """A process of a Python module that prints JSON lines, which are kept."""

    def __init__(self, arguments, prefix=(), log=None):
        """`prefix`: a command that runs its arguments as a command, as the same process. `log`: a file for errors."""
        self.command = [*prefix, sys.executable, "-m", *map(str, arguments)]
        self.events = []
        self._log = log
        self._ended = trio.Event()
        self._news = trio.lowlevel.ParkingLot()

    async def start(self, nursery):
        """Start it; it is killed when the nursery ends."""
        with self._log.open("ab") if self._log else nullcontext() as log:
            self.process = await nursery.start(
                partial(
                    trio.run_process,
                    self.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    check=False,
                    deliver_cancel=_kill,
                )
            )
        nursery.start_soon(self._read)
        return self

    async def _read(self):
        rest = b""
        async with self.process.stdin, self.process.stdout:
            async for chunk in self.process.stdout:
                *lines, rest = (rest + chunk).split(b"\n")
                self.events += [json.loads(line) for line in lines]
                self._news.unpark_all()
        self._ended.set()

    async def until(self, condition, patience=PATIENCE):
        """Wait until `condition` holds of the events."""
        with trio.move_on_after(patience):
            while not condition(self.events):
                await self._news.park()
            return
        changes = [event for event in self.events if event.get("event") not in ("message", "sent")]
        raise AssertionError(
            f"{condition.__qualname__} did not come: {len(self.events)} events, the last {self.events[-3:]}, "
            f"changes {changes[-8:]}"
        )

    async def say(self, *lines):
        """Write lines to its standard input."""
        await self.process.stdin.send_all(b"".join(line.encode() + b"\n" for line in lines))

    async def finish(self):
        """End its standard input; return its exit code when it has ended and everything is read."""
        await self.process.stdin.aclose()
        return await self.ended()

    async def ended(self):
        """Wait until it has ended and everything is read; return its exit code."""
        with trio.fail_after(PATIENCE):
            await self._ended.wait()
            return await self.process.wait()

    def signal(self, number):
        """Send it a signal."""
        os.kill(self.process.pid, number)

    async def stop(self):
        """End it as a service manager would; return its exit code."""
        self.signal(signal.SIGTERM)
        with trio.fail_after(PATIENCE):
            return await self.process.wait()


async def _kill(process):
    process.kill()


def members(count):
    """Return whether the last change of the group left so many members."""

    def condition(events):
        changes = [event for event in events if event["event"] == "confchg"]
        return bool(changes) and len(changes[-1]["members"]) == count

    return condition


def holds(kind, **fields):
    """Return whether there is an event of this kind with these fields."""

    def condition(events):
        return any(event["event"] == kind and fields.items() <= event.items() for event in events)

    return condition
