"""The code in the tutorial is in the programs, or runs as it is."""

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import trio

from cpg.testing import World

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
SHOWN = re.findall(r"```python\n(.*?)```", TUTORIAL, re.DOTALL)
PARTS = [text for text in SHOWN if text.startswith(" ")]
WHOLE = [text for text in SHOWN if text.startswith(("import", "with"))]


def essence(text):
    """Return lines without annotations and docstrings, which the tutorial leaves out."""
    tree = ast.parse(textwrap.dedent(text))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
            for argument in node.args.args:
                argument.annotation = None
            if ast.get_docstring(node):
                del node.body[0]
    return ast.unparse(tree).splitlines()


def program_lines():
    for path in (ROOT / "examples").glob("*.py"):
        yield path.name, [line.strip() for line in essence(path.read_text())]


def is_within(part, lines):
    wanted = [line.strip() for line in part]
    return any(lines[start : start + len(wanted)] == wanted for start in range(len(lines)))


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.strip().splitlines()[0][:40])
def test_what_is_shown_is_in_a_program(part):
    assert any(is_within(essence(part), lines) for _, lines in program_lines())


@pytest.mark.parametrize("program", WHOLE, ids=["trio", "blocking"])
async def test_whole_programs_run(daemon, program):
    if "import cpg" not in program:
        program = "import cpg\n" + program
    done = await trio.run_process(
        [sys.executable, "-c", program],
        env={"CPGD_SOCKET": str(daemon.path)},
        stdin=subprocess.DEVNULL,
        capture_stdout=True,
    )
    assert b"hello" in done.stdout


def test_nothing_that_is_shown_is_left_out():
    assert len(PARTS) == 5
    assert len(WHOLE) == 2
    assert len(SHOWN) == 8, "the eighth is the test of the last part, which stands in the docstring of cpg.testing"
    assert "world.partition({1}, {2, 3})" in sys.modules[World.__module__].__doc__
