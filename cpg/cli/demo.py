"""`cpg demo`: some node processes on this machine, one of them killed and restarted, and the same order everywhere.

It has three parts. A *member* is the process of one node (`python -m cpg.cli.demo FILE ID MEMBERS`): a small program as
a user would write it, which joins a group, sends the lines of its standard input and prints its events. The *run*
starts members, has them talk, kills one and restarts it, and at the end compares the events of each from its own join
on. The *display* (`cpg.cli.demo_display`) shows it.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from base64 import b64decode
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import trio

from cpg.embedded import open_ring
from cpg.formatting import to_json
from cpg.group import Group
from totem.store import words

GROUP = "demo"
TOKEN_MS = 1000
"""Short, so that a dead node is noticed soon; long enough for a machine that is busy."""
PACE = 0.12
"""Seconds between two messages of one node, on average."""
PATIENCE = 30.0
"""Seconds after which the run is abandoned."""

FAREWELL = "good night"
WORDS = (
    "almond apple apricot banana blueberry cashew cherry clementine coconut cranberry currant date elderberry fig "
    "grape guava hazelnut kiwi kumquat lemon lime lychee mango melon mulberry nectarine olive orange papaya peach "
    "pear persimmon pineapple plum pomegranate quince raspberry rhubarb satsuma strawberry tamarind walnut"
)

CONFIG = """\
totem {{
    version: 2
    cluster_name: demo
    transport: udpu
    token: {token}
    token_coefficient: 0
}}
system {{
    state_dir: {folder}
}}
nodelist {{
{nodes}}}
"""
NODE = """\
    node {{
        nodeid: {node}
        ring0_addr: 127.0.0.1
        ring0_port: {port}
    }}
"""


class DemoFailed(Exception):
    """The demo could not be completed."""


# ---- a member: the process of one node


async def member(path: str, node: int, members: int) -> None:
    """Join the group when `members` nodes are there, and send the lines of standard input until it ends."""
    async with open_ring(path, node) as ring:
        await ring.wait_members(members)
        async with ring.join(GROUP) as group, trio.open_nursery() as nursery:
            nursery.start_soon(_print_events, group)
            async with aclosing(_lines(trio.lowlevel.FdStream(os.dup(0)))) as lines:
                async for line in lines:
                    await group.send(line)
            nursery.cancel_scope.cancel()


async def _print_events(group: Group) -> None:
    async for event in group:
        print(to_json(event), flush=True)


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncGenerator[bytes, None]:
    rest = b""
    async for chunk in stream:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


# ---- the run


@dataclass(eq=False)
class DemoProcess:
    """One process of a node, from its start to its end, and its events."""

    node: int
    number: int
    """1 for a node's first process."""
    process: trio.Process
    state: str = "starting"
    """Then `here`, and in the end `killed` or `gone`."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """All events, as `cpg listen --json` prints them."""
    story: list[str] = field(default_factory=list)
    """Messages and membership changes, which must be the same everywhere."""
    members: int = 0
    farewells: int = 0

    @property
    def name(self) -> str:
        """The name that people read."""
        return f"node {self.node}" if self.number == 1 else f"node {self.node} (restarted)"


class Display(Protocol):
    """The display of the run."""

    def narrate(self, text: str) -> None:
        """Show what happens."""

    def conclude(self, text: str, *, good: bool) -> None:
        """Show how the run has ended."""

    def enter(self, life: DemoProcess) -> None:
        """Show that a process starts."""

    def show(self, life: DemoProcess, event: dict[str, Any]) -> None:
        """Show an event of a process."""


class DemoRun:
    """One run of the demo: its steps, and its processes."""

    def __init__(self, nodes: int, display: Display, folder: Path) -> None:
        self.processes: list[DemoProcess] = []
        self._nodes = nodes
        self._display = display
        self._folder = folder
        self._dice = random.Random()
        self._changed = trio.lowlevel.ParkingLot()
        self._failure: Exception | None = None
        self._nursery: trio.Nursery

    async def run(self) -> bool:
        """Run the demo; return whether all processes got the same events."""
        self._write_config()
        try:
            async with trio.open_nursery() as self._nursery:
                try:
                    await self._steps()
                except (DemoFailed, BrokenPipeError) as failure:
                    self._fail(failure)
                self._nursery.cancel_scope.cancel()
        finally:
            await self._end_all()
        if self._failure is not None:
            raise self._failure
        return self._verdict()

    async def _end_all(self) -> None:
        with trio.CancelScope(shield=True):
            for life in self.processes:
                life.process.kill()
                await life.process.wait()

    def _fail(self, failure: Exception) -> None:
        self._failure = self._failure or failure
        self._nursery.cancel_scope.cancel()

    async def _steps(self) -> None:
        count, narrate = self._nodes, self._display.narrate
        narrate(f"{count} processes start, each a node of one ring.")
        for node in range(1, count + 1):
            await self._start(node)
        await self._until(lambda: all(life.members == count for life in self._cast()))

        narrate("All send at once, and everybody gets everything in the same order.")
        async with self._talk():
            await trio.sleep(2.5)
            victim = self.processes[-1]
            narrate(f"{victim.name} is killed with SIGKILL. Nobody is informed.")
            killed = trio.current_time()
            victim.state = "killed"
            victim.process.kill()
            await self._until(lambda: all(life.members == count - 1 for life in self._cast()))
            narrate(f"{trio.current_time() - killed:.1f} s later the others have agreed that it is gone.")
            await trio.sleep(1.5)
            narrate(f"{victim.name} starts again.")
            await self._start(victim.node)
            await self._until(lambda: all(life.members == count for life in self._cast()))
            narrate("It is back, and from its join on it gets what the others get.")
            await trio.sleep(2.5)

        narrate("All leave.")
        for life in self._cast():
            await self._send(life, FAREWELL)
        await self._until(lambda: all(life.farewells == count for life in self._cast()))

    def _cast(self) -> list[DemoProcess]:
        return [life for life in self.processes if life.state in ("starting", "here")]

    def _write_config(self) -> None:
        nodes = "".join(NODE.format(node=node, port=port) for node, port in enumerate(free_ports(self._nodes), 1))
        config = CONFIG.format(token=TOKEN_MS, folder=self._folder, nodes=nodes)
        (self._folder / "ring.conf").write_text(config)

    async def _start(self, node: int) -> None:
        number = 1 + sum(life.node == node for life in self.processes)
        arguments = [str(self._folder / "ring.conf"), str(node), str(self._nodes)]
        with open(self._folder / f"node{node}.{number}.log", "wb") as log:
            try:
                process = await trio.lowlevel.open_process(
                    [sys.executable, "-m", "cpg.cli.demo", *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                )
            except OSError as error:
                raise DemoFailed(f"the process of node {node} cannot be started: {words(error)}") from None
        life = DemoProcess(node, number, process)
        self.processes.append(life)
        self._display.enter(life)
        self._nursery.start_soon(self._follow, life)

    async def _follow(self, life: DemoProcess) -> None:
        assert life.process.stdout is not None
        async with aclosing(_lines(life.process.stdout)) as lines:
            async for line in lines:
                try:
                    self._note(life, json.loads(line))
                except BrokenPipeError as gone:  # nobody reads the output any more
                    self._fail(gone)
        if life.state != "killed":
            log = self._folder / f"node{life.node}.{life.number}.log"
            self._fail(DemoFailed(f"{life.name} ended too early:\n{log.read_text()[-2000:]}"))

    def _note(self, life: DemoProcess, event: dict[str, Any]) -> None:
        life.events.append(event)
        if life.state == "starting":
            life.state = "here"
        if event["event"] == "confchg":
            life.members = len(event["members"])
        if event["event"] == "message":
            life.farewells += text_of(event) == FAREWELL
        if event["event"] in ("confchg", "message"):
            life.story.append(json.dumps(event))
        self._display.show(life, event)
        self._changed.unpark_all()

    async def _until(self, condition: Callable[[], bool]) -> None:
        with trio.move_on_after(PATIENCE):
            while not condition():
                await self._changed.park()
            return
        raise DemoFailed(f"no event any more, after {PATIENCE:.0f} s")

    async def _send(self, life: DemoProcess, text: str) -> None:
        assert life.process.stdin is not None
        with suppress(trio.BrokenResourceError):  # its end is noticed elsewhere
            await life.process.stdin.send_all(text.encode() + b"\n")

    @asynccontextmanager
    async def _talk(self) -> AsyncGenerator[None, None]:
        """Make the running processes talk for the time of a block."""
        talking = trio.CancelScope()
        self._nursery.start_soon(partial(self._talk_in, talking))
        yield
        talking.cancel()

    async def _talk_in(self, scope: trio.CancelScope) -> None:
        words = WORDS.split()
        with scope:
            for number in itertools.count(1):
                cast = [life for life in self._cast() if life.state == "here"]
                await trio.sleep(self._dice.expovariate(len(cast) / PACE))
                life = self._dice.choice(cast)
                if life.state == "here":
                    await self._send(life, f"{number} {self._dice.choice(words)}")

    # ---- the verdict

    def _verdict(self) -> bool:
        reference = max(self._cast(), key=lambda life: len(life.story))
        complaints = [text for life in self.processes if (text := difference(reference, life))]
        for text in complaints:
            self._display.conclude(text, good=False)
        if not complaints:
            total = sum(event["event"] == "message" for event in reference.events)
            text = f"All saw the same sequence: {total} messages and every change of the group."
            self._display.conclude(text, good=True)
        return not complaints


def difference(reference: DemoProcess, life: DemoProcess) -> str:
    """Compare the events of two processes while both were there; return an empty text if there is no difference."""
    ours, theirs = reference.story, life.story
    if ours[0] in theirs:
        theirs = theirs[theirs.index(ours[0]) :]
    elif theirs and theirs[0] in ours:
        ours = ours[ours.index(theirs[0]) :]
    else:
        return f"{reference.name} and {life.name} did not see each other's join."
    same = next((k for k, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other), None)
    if same is None:
        same = min(len(ours), len(theirs))
    rest = theirs[same:]
    wrong: object = rest or same < len(ours)
    if life.state == "killed":
        # Events that it alone got at its very end are no violation (AGREED), but their order must be the same.
        wrong = set(rest) & set(ours)
    return f"{life.name} differs from {reference.name} after {same} events of {len(ours)}." if wrong else ""


def text_of(event: dict[str, Any]) -> str:
    """Return the text of a message event."""
    return b64decode(event["data"]).decode()


def free_ports(count: int) -> list[int]:
    """Find UDP ports of 127.0.0.1 that nobody uses."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


async def demo(nodes: int, display: Display) -> bool:
    """Run the demo with this number of nodes; return whether all saw the same sequence."""
    with tempfile.TemporaryDirectory(prefix="cpg-demo-") as folder:
        return await DemoRun(nodes, display, Path(folder)).run()


if __name__ == "__main__":
    trio.run(member, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
