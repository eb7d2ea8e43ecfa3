"""The programs of the tutorial, as people start them: processes on a daemon, or with another line for the ring."""

import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 40


class Program:
    """A process that reads and prints lines."""

    def __init__(self, nursery, *command, **surroundings):
        self.lines = []
        self._nursery = nursery
        self._command = [sys.executable, *map(str, command)]
        self._surroundings = {"env": {**os.environ, **surroundings}}
        self._news = trio.lowlevel.ParkingLot()
        self.ended = trio.Event()

    async def start(self):
        run = partial(trio.run_process, self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=False)
        self.process = await self._nursery.start(partial(run, **self._surroundings, deliver_cancel=kill))
        self._nursery.start_soon(self._read)
        return self

    async def _read(self):
        rest = b""
        async with self.process.stdout as output:
            async for chunk in output:
                *lines, rest = (rest + chunk).split(b"\n")
                self.lines += [line.decode() for line in lines]
                self._news.unpark_all()
        self.ended.set()

    async def until(self, pattern, count=1):
        """Wait until so many lines match."""
        with trio.move_on_after(PATIENCE):
            while sum(bool(re.fullmatch(pattern, line)) for line in self.lines) < count:
                await self._news.park()
            return
        raise AssertionError(f"{pattern} did not come {count} times in {self.lines}")

    async def say(self, *lines):
        await self.process.stdin.send_all("".join(f"{line}\n" for line in lines).encode())

    async def finish(self):
        """End its input, and wait for its end."""
        await self.process.stdin.aclose()
        with trio.fail_after(PATIENCE):
            await self.ended.wait()
            return await self.process.wait()


async def kill(process):
    process.kill()


@pytest.fixture
def start(nursery, daemon):
    """Start an example on the daemon."""

    async def start(name, *arguments):
        return await Program(nursery, EXAMPLES / f"{name}.py", *arguments, CPGD_SOCKET=str(daemon.path)).start()

    return start


async def test_chat(start):
    one, two = await start("chat", "room"), await start("chat", "room")
    await one.until(r".* is here, one of 2")
    await two.until(r".* is here, one of 2")
    await one.say("hello", "all")
    await two.until(rf"1:{one.process.pid} says all")
    assert await two.finish() == 0
    await one.until(rf"1:{two.process.pid} has gone \(leave\)")
    assert await one.finish() == 0
    talk = [f"1:{one.process.pid} says {word}" for word in ("hello", "all")]
    assert [line for line in one.lines if "says" in line] == talk
    assert [line for line in two.lines if "says" in line] == talk


async def test_jobs_are_shared_out_and_done_though_workers_die(start, daemon):
    workers = [await start("jobs", "work") for _ in range(3)]
    while len(daemon.ring.groups.get(b"work", ())) < 3:
        await trio.sleep(0.01)
    await workers[0].say(*(f"job {number}" for number in range(100)))
    await workers[2].until("done: .*")
    workers[2].process.send_signal(signal.SIGKILL)
    await workers[2].ended.wait()
    await workers[0].say(*(f"job {number}" for number in range(100, 200)))
    wanted = {f"done: job {number}" for number in range(200)}
    with trio.fail_after(PATIENCE):
        while {line for worker in workers for line in worker.lines} != wanted:
            await trio.sleep(0.01)
    assert all(len(worker.lines) > 10 for worker in workers[:2])


async def test_the_dictionary_of_who_comes_later(start):
    one = await start("dictionary", "shared")
    await one.say("apple=red", "banana=yellow")
    await one.until("banana is yellow")
    two = await start("dictionary", "shared")
    await two.say("apple", "apple=green", "cherry")
    await two.until("cherry is None")
    assert two.lines == ["apple is red", "apple is green", "cherry is None"]
    await one.say("date=brown", "apple")  # what one sets itself comes behind what two has set
    await one.until("apple is green")
    assert await one.finish() == 0
    assert await two.finish() == 0


async def test_a_leader_on_asyncio(start):
    one = await start("leader", "leaders")
    await one.until(rf"1:{one.process.pid} leads, that is me")
    two = await start("leader", "leaders")
    await two.until(r"1:\d+ leads(, that is me)?")
    first, second = sorted((one, two), key=lambda program: program.process.pid)
    await second.until(rf"1:{first.process.pid} leads")
    first.process.send_signal(signal.SIGKILL)
    await second.until(rf"1:{second.process.pid} leads, that is me", 1 if second is two else 2)


@pytest.mark.parametrize("name", ["chat", "jobs", "dictionary", "leader"])
def test_wrong_use_is_one_line(tmp_path, name):
    program, env = EXAMPLES / f"{name}.py", {**os.environ, "CPGD_SOCKET": str(tmp_path / "nothing")}
    wrong = (((), 2, f"usage: python examples/{name}.py "), (("group",), 1, "no daemon listens at "))
    for arguments, code, line in wrong:
        command = [sys.executable, program, *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.returncode == code
        assert re.fullmatch(f"{line}.*\n", done.stderr), done.stderr


async def test_lines_that_are_not_utf_8(start):
    one = await start("chat", "room")
    await one.until(r".* is here, one of 1")
    await one.process.stdin.send_all(b"caf\xe9\nmore\n")
    await one.until(r".* says caf\ufffd")
    await one.until(r".* says more")
    assert await one.finish() == 0


@pytest.mark.parametrize("name", ["chat", "jobs", "dictionary", "leader"])
async def test_ctrl_c_ends_without_a_traceback(daemon, name):
    env = {**os.environ, "CPGD_SOCKET": str(daemon.path)}
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "interrupted"]

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            process = await trio.lowlevel.open_process(
                command, env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            errors = []

            async def read():
                async for chunk in process.stderr:
                    errors.append(chunk)

            nursery.start_soon(read)
            while not daemon.ring.groups.get(b"interrupted"):
                await trio.sleep(0.01)
            await trio.sleep(0.2)
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
    assert not errors
    assert not daemon.ring.groups.get(b"interrupted")


@pytest.mark.parametrize("name", ["chat", "jobs", "dictionary"])
async def test_another_line_takes_another_ring(nursery, config, name):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert 'cpg.open_ring("ring.conf"), cpg.open_corosync()' in text
    embedded = Path(config).with_name("example.py")
    embedded.write_text(text.replace("cpg.connect()", f'cpg.open_ring("{config}", node=1)'))
    program = await Program(nursery, embedded, "group", PYTHONPATH=str(EXAMPLES)).start()
    await program.say("word")
    await program.until(".*word.*")
