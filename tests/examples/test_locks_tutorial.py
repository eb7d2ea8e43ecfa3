"""The programs of the locks' tutorial and of the README run as they stand, and print what stands below them."""

import ast
import os
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import cluck
import cpg.testing
from tests.cluck.daemon.processes import PATIENCE, Cluckd
from tests.cpg.processes import write_config
from tests.examples.test_programs import Program

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(
    r"```python\n(.*?)```\n(?:\n```\n(.*?)```\n)?", (ROOT / "docs" / "locks-tutorial.md").read_text(), re.DOTALL
)
PROGRAMS = [(program, shown) for program, shown in BLOCKS if program.startswith("import")]
(OBSERVER,) = (shown for shown in PROGRAMS if "locks.observe" in shown[0])
(CANDIDATE,) = (shown for shown in PROGRAMS if "locks.candidate" in shown[0])
(EMBEDDED,) = (shown for shown in PROGRAMS if "cluck.open" in shown[0])
CLIENTS = [shown for shown in PROGRAMS if shown not in (OBSERVER, CANDIDATE, EMBEDDED)]
(TEST,) = (program for program, _ in BLOCKS if "async def test_" in program)
(README,) = re.findall(r"```python\n(import cluck.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def essence(text):
    """What is printed, but for tokens and the order of lines that two tasks print."""
    return sorted(re.sub(r"\d{10,}", "TOKEN", text).splitlines())


@pytest.fixture(scope="module")
def cluckd(tmp_path_factory):
    """A lock server on a ring of its own, for all programs here."""
    folder = tmp_path_factory.mktemp("cluckd")
    daemon = Cluckd(folder, 1, "-c", write_config(folder, 1), "--node", 1).start()
    assert select.select([daemon.notices], [], [], PATIENCE)[0]
    yield daemon
    daemon.close()


def run(program, cluckd=None, folder=None):
    """Run a program to its end; return what it has printed."""
    environment = {**os.environ, "CLUCKD_SOCKET": str(cluckd.path)} if cluckd else None
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("program", "shown"), CLIENTS, ids=[f"{number}" for number in range(len(CLIENTS))])
def test_programs_print_what_is_shown(cluckd, program, shown):
    printed = run(program, cluckd)
    if shown:
        assert essence(printed) == essence(shown)
    else:
        assert "token" in printed or "refused" in printed


async def test_an_observer_sees_what_the_leader_publishes(cluckd, nursery):
    observer = await Program(nursery, "-c", OBSERVER[0], CLUCKD_SOCKET=str(cluckd.path)).start()
    await observer.until("nobody leads")
    printed = await trio.to_thread.run_sync(run, CANDIDATE[0], cluckd)
    assert essence(printed) == essence(CANDIDATE[1])
    await observer.until("nobody leads", 2)
    assert observer.lines == OBSERVER[1].splitlines()
    nursery.cancel_scope.cancel()


def test_a_program_is_a_lock_server_itself(tmp_path):
    write_config(tmp_path, 1)
    assert "working with token" in run(EMBEDDED[0], folder=tmp_path)


async def test_the_test_that_is_shown_passes(autojump_clock):
    names = {"cluck": cluck, "cpg": cpg, "pytest": pytest, "trio": trio}
    exec(compile(TEST, "locks-tutorial.md", "exec"), names)
    await names["test_a_cut_off_holder_loses_its_lock"](autojump_clock)


def test_the_readmes_lock_runs(cluckd):
    assert len(README.strip().splitlines()) <= 15
    assert re.fullmatch(r"backup runs here only, with token \d+\n", run(README, cluckd))


def test_nothing_that_is_shown_is_left_out():
    assert len(BLOCKS) == len(PROGRAMS) + 1


def test_every_error_is_explained():
    page = (ROOT / "docs" / "locks-tutorial.md").read_text()
    table = page.split("## What errors mean")[1].split("\n## ")[0]
    explained = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    tree = ast.parse((ROOT / "cluck" / "errors.py").read_text())
    raised = {node.name for node in tree.body if isinstance(node, ast.ClassDef)} - {"LockError"}
    public = {name for name in cluck.__all__ if name != "LockError" and issubclass_of_lock_error(name)}
    assert explained == public >= raised


def issubclass_of_lock_error(name):
    """Return whether a public name is an error that programs are told."""
    thing = getattr(cluck, name)
    return isinstance(thing, type) and issubclass(thing, cluck.LockError)
