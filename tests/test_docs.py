"""What the documents show of the code is drawn from the code, and what they name is there."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluck.cli.arguments import EXIT_CODES, parser
from cluck.cli.common import Exit
from cluck.daemon.settings import READERS
from tests.cpg.cli.test_commands_as_a_node import COMMANDS
from totem.states import diagram

DOCS = Path(__file__).parent.parent / "docs"


def test_the_state_diagram_is_drawn_from_the_transitions():
    text = (DOCS / "protocol.md").read_text()
    drawn = f"```mermaid\n{diagram.diagram()}\n```\n\n{diagram.table()}"
    assert drawn in text, "run python -m totem.states.diagram and put its output between the marks"


def test_every_room_stands_in_the_architecture():
    text = (DOCS / "architecture.md").read_text()
    for package in ("totem", "cpg"):
        for path in (DOCS.parent / package).iterdir():
            if path.is_dir() or path.suffix == ".py":
                name = path.stem + "/" * path.is_dir()
                assert path.stem.startswith("__") or f"`{name}`" in text, f"{package}: {name}"


def texts(path):
    """All text in a module's strings, the parts of f-strings each for itself."""
    return [
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


SAID = [
    text
    for package in ("totem", "cpg", "cluck")
    for path in sorted((DOCS.parent / package).rglob("*.py"))
    for text in texts(path)
]
OPERATING = (DOCS / "operating.md").read_text()
LOCKS = (DOCS / "locks.md").read_text()
SEEN = [
    seen
    for page in (OPERATING, LOCKS)
    for seen in re.findall(r"^\| `([^`]+)`", page.split("## Troubleshoot")[1], re.MULTILINE)
]


@pytest.mark.parametrize("text", SEEN)
def test_what_operators_are_told_to_look_for_is_said_by_the_code(text):
    for part in filter(None, map(str.strip, text.split("…"))):
        assert any(part in said for said in SAID), f"nothing says {part!r}"


def events():
    """The fields of each event that the code logs."""
    found = {}
    for package in ("totem", "cpg", "cluck"):
        for path in sorted((DOCS.parent / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "event_fields":
                    found.setdefault(node.args[0].value, set()).update(keyword.arg for keyword in node.keywords)
    return found


def test_the_events_of_the_log_are_all_told_of():
    table = OPERATING.split("| `event` | fields |")[1].split("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.MULTILINE))
    told = {name: set(re.findall(r"`(\w+)`", fields)) - {"node"} for name, fields in rows.items()}
    logged = {name: fields - {"node"} for name, fields in events().items()}  # which is added to the lines of changes
    assert told == logged
    assert not {"time", "level", "program", "message", "event"} & set.union(*logged.values())


def test_the_commands_for_operators_exist():
    for command in re.findall(r"^cpg (\w+)", OPERATING, re.MULTILINE):
        assert command in COMMANDS


def test_the_commands_for_locks_exist_and_all_are_told_of():
    described = {action.dest: action for action in parser()._actions}["what"].choices
    assert set(re.findall(r"^cluck ([\w-]+)", LOCKS, re.MULTILINE)) == set(described)


def test_the_settings_of_lock_servers_are_all_told_of():
    table = LOCKS.split("| `cluckd` | default |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(READERS)


def test_the_exit_codes_of_cluck_are_all_told_of():
    table = LOCKS.split("### Exit codes")[1].split("\n\n")[1]
    codes = [code.value for code in Exit if code is not Exit.SIGNALLED]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == codes
    assert all(f"  {code} " in EXIT_CODES for code in codes)


def test_pages_that_are_linked_exist():
    for page in (*DOCS.glob("*.md"), *DOCS.parent.glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("name", ["cpgd", "cluckd"])
def test_the_service_is_one_for_systemd(tmp_path, name):
    service = (DOCS.parent / "contrib" / f"{name}.service").read_text()
    unit = tmp_path / f"{name}.service"
    unit.write_text(service.replace(f"/usr/local/bin/{name}", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
