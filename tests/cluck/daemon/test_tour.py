"""The walk of docs/locks-tour.md, as it stands there, with a shorter token timeout and shorter leases."""

import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import trio

from tests.cluck.daemon.processes import PATIENCE
from tests.totem.places import at_addresses

PAGE = (Path(__file__).parents[3] / "docs" / "locks-tour.md").read_text()
BLOCKS = re.findall(r"```\w*\n(.*?)```", PAGE, re.DOTALL)
SENTENCES = " ".join(PAGE.split())
RUN = {"cluck": ["-m", "cluck"], "cluckd": ["-m", "cluck.daemon"]}


class Walk:
    """What somebody who takes the walk has: places of this test alone, and the processes in the terminals."""

    def __init__(self, folder):
        self.folder = folder
        config = at_addresses(3)
        self._network = config.nodes[0].address.removesuffix(".1")
        self._port = config.port
        self._processes = []

    def block(self, beginning):
        """Return the only block that begins so, with the places of this test."""
        (text,) = (text for text in BLOCKS if text.startswith(beginning))
        text = text.replace("/tmp/tour", str(self.folder)).replace("ring.conf", str(self.folder / "ring.conf"))
        text = text.replace("127.0.0.", f"{self._network}.").replace("sleep 60", "exec sleep 1000")
        text = text.replace(
            "transport: udpu", f"transport: udpu\ntoken: 600\ninterface {{\nmcastport: {self._port}\n}}"
        )
        return text.replace("cluck run nightly", "cluck run nightly --duration 1 --grace 1")

    def start(self, line):
        """Start a command of the page."""
        program, *arguments = shlex.split(line)
        with open(self.folder / f"log{len(self._processes)}", "wb") as log:
            process = subprocess.Popen([sys.executable, *RUN[program], *arguments], stdout=log, stderr=log)
        self._processes.append((process, Path(log.name)))
        return process

    async def says(self, process, text):
        """Wait until a process has written this, in which a * stands for numbers; the last one of them."""
        ((_, log),) = (started for started in self._processes if started[0] is process)
        pattern = re.escape(text).replace(r"\*", r"([\d.]+)")
        with trio.fail_after(PATIENCE):
            while (found := re.search(pattern, log.read_text())) is None:
                await trio.sleep(0.02)
        return found.groups()[-1] if found.groups() else ""

    async def shows(self, shown):
        """Run a command that the page shows, until it writes what the page shows, but for the numbers."""
        command, _, expected = shown.removeprefix("$ ").partition("\n")
        program, *arguments = shlex.split(command)
        with trio.fail_after(PATIENCE):
            while True:
                done = await trio.run_process(
                    [sys.executable, *RUN[program], *arguments], capture_stdout=True, check=False
                )
                if _shape(done.stdout.decode()).startswith(_shape(expected)):
                    return
                await trio.sleep(0.1)

    async def runs(self, body):
        """Run lines of a program; what it has written."""
        program = "import trio\nimport cluck\nasync def main():\n" + textwrap.indent(body, "    ") + "trio.run(main)\n"
        with trio.fail_after(PATIENCE):
            done = await trio.run_process(
                [sys.executable, "-c", program], capture_stdout=True, capture_stderr=True, check=False
            )
        return (done.stdout + done.stderr).decode()

    def close(self):
        for process, _ in self._processes:
            process.kill()
            process.wait()


def _shape(text):
    return re.sub(r"\d[\d.]+", "*", text)


@pytest.fixture
def walk(tmp_path):
    walk = Walk(tmp_path)
    yield walk
    walk.close()


async def test_the_walk_goes_as_the_page_says(walk):
    (walk.folder / "ring.conf").write_text(walk.block("totem {"))
    lines = walk.block("cluckd").splitlines()
    while_two, with_three = re.search(r"The first two say `(.*?)`; with the third, `(.*?)`", SENTENCES).groups()
    daemons = [walk.start(line) for line in lines[:2]]
    for daemon in daemons:
        await walk.says(daemon, while_two)
    daemons.append(walk.start(lines[2]))
    for daemon in daemons:
        await walk.says(daemon, with_three)
    assert int(await walk.runs(walk.block("async with"))) > 0

    lines = walk.block("cluck run").splitlines()
    jobs = [walk.start(lines[0])]
    tokens = [int(await walk.says(jobs[0], "node 1 works, token *"))]
    jobs.append(walk.start(lines[1]))
    await walk.shows(f"$ cluck list --socket {walk.folder}/3\nnightly: 1 held, 1 waiting")
    jobs.append(walk.start(lines[2]))
    await walk.shows(walk.block("$ cluck list"))
    assert "LockTimeout" in await walk.runs(walk.block("async with"))

    jobs[0].kill()
    tokens.append(int(await walk.says(jobs[1], "node 2 works, token *")))
    daemons[1].kill()
    await walk.says(jobs[1], _shape(walk.block("cluck: lock")).strip())
    tokens.append(int(await walk.says(jobs[2], "node 3 works, token *")))
    assert tokens == sorted(set(tokens))
    daemons[0].kill()
    await walk.shows(walk.block("$ cluck status"))
