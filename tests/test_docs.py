"""What the documents show of the code is drawn from the code, and what they name is there."""

import argparse
import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cluck
import cpg
from cluck.cli.arguments import EXIT_CODES
from cluck.cli.arguments import parser as cluck_parser
from cluck.cli.exit_codes import Exit
from cluck.daemon.command import parser as cluckd_parser
from cluck.daemon.settings import READERS
from cluck.state.application import CODEC
from cpg.cli.arguments import parser as cpg_parser
from cpg.daemon.command import parser as cpgd_parser
from totem.cli.arguments import parser as totem_parser
from totem.states import diagram

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGES = ("totem", "cpg", "cluck")
PAGES = sorted(
    {*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "examples" / "README.md", ROOT / "bench" / "RESULTS.md"}
)


def test_the_state_diagram_is_drawn_from_the_transitions():
    text = (DOCS / "protocol.md").read_text()
    drawn = f"```mermaid\n{diagram.diagram()}\n```\n\n{diagram.table()}"
    assert drawn in text, "run python -m totem.states.diagram and put its output between the marks"


def modules(package):
    """Names of a package's folders and modules, but for the modules of its command lines and test kits."""
    for path in sorted((ROOT / package).rglob("*")):
        inner = path.relative_to(ROOT / package)
        if path.stem.startswith("__") or len(inner.parts) > 2 or "__pycache__" in inner.parts:
            continue
        if path.is_dir() and len(inner.parts) == 1:
            yield f"{path.name}/"
        elif path.suffix == ".py" and inner.parts[0] not in ("cli", "dump", "testing", "libqb", "states"):
            yield path.stem


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_stands_in_the_architecture(package):
    section = (DOCS / "architecture.md").read_text().split(f"\n## {package}\n")[1].split("\n## ")[0]
    assert not [name for name in modules(package) if f"`{name}`" not in section], "name them in docs/architecture.md"


WORDS = {
    "server": CODEC.application.server,
    "self._application.server": CODEC.application.server,
    "self._application.promises": CODEC.application.promises,
}
"""What the replica calls things where it replicates locks."""


def texts(path):
    """All text in a module's strings; of f-strings the parts, and the whole with the words of locks in between."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = (part.value for part in node.values)
            yield "".join(part if isinstance(part, str) else WORDS.get(ast.unparse(part), "\0") for part in parts)


SAID = [text for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")) for text in texts(path)]
OPERATING = (DOCS / "operating.md").read_text()
LOCKS = (DOCS / "locks.md").read_text()
SEEN = [
    seen
    for page in (OPERATING, LOCKS)
    for seen in re.findall(r"^\| `([^`]+)`", page.split("## Troubleshoot")[1], re.MULTILINE)
]


@pytest.mark.parametrize("text", SEEN)
def test_messages_that_operators_look_for_are_in_the_code(text):
    for part in filter(None, map(str.strip, text.split("…"))):
        assert any(part in said for said in SAID), f"nothing says {part!r}"


def events():
    """The fields of each event that the code logs."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "event_fields":
                    found.setdefault(node.args[0].value, set()).update(keyword.arg for keyword in node.keywords)
    return found


def test_the_events_of_the_log_are_all_documented():
    table = OPERATING.split("| `event` | fields |")[1].split("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.MULTILINE))
    told = {name: set(re.findall(r"`(\w+)`", fields)) - {"node"} for name, fields in rows.items()}
    logged = {name: fields - {"node"} for name, fields in events().items()}  # which is added to the lines of changes
    assert told == logged
    assert not {"time", "level", "program", "message", "event"} & set.union(*logged.values())


def choices(parser):
    """The commands of a command line."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return commands.choices


def options(parser):
    """All long options of a command line, those of its commands included."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from options(command)
        yield from (option for option in action.option_strings if option.startswith("--"))


@pytest.mark.parametrize(
    ("program", "parser"), [("cpg", cpg_parser()), ("cluck", cluck_parser()), ("totem", totem_parser())]
)
def test_all_commands_are_documented_and_no_others(program, parser):
    named = set(re.findall(rf"^{program} ([\w-]+)", (DOCS / "commands.md").read_text(), re.MULTILINE))
    assert named == set(choices(parser))
    for page in (OPERATING, LOCKS):
        assert set(re.findall(rf"^{program} ([\w-]+)", page, re.MULTILINE)) <= named


def test_the_commands_for_locks_are_all_documented():
    assert set(re.findall(r"^cluck ([\w-]+)", LOCKS, re.MULTILINE)) == set(choices(cluck_parser()))


def test_the_options_of_cluck_are_all_documented():
    told = set(re.findall(r"--[\w-]+", LOCKS)) | {"--help", "--version"}
    assert set(options(cluck_parser())) <= told


@pytest.mark.parametrize("page", ["commands", "operating", "locks", "locks-tour", "tutorial", "dump"])
def test_the_options_that_are_shown_exist(page):
    known = {"--help", "--user", "--scope", "--all"}.union(
        *(options(parser()) for parser in (cpg_parser, cluck_parser, cpgd_parser, cluckd_parser, totem_parser))
    )
    lines = re.findall(r"(?:^|`|    )((?:cpg|cpgd|cluck|cluckd|totem) [^`\n]*)", (DOCS / f"{page}.md").read_text())
    shown = {option for line in lines for option in re.findall(r" (--[\w-]+)", line.split(" -- ")[0])}
    assert shown <= known


def test_the_settings_of_lock_servers_are_all_documented():
    table = LOCKS.split("| `cluckd` | default |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(READERS)


def test_the_exit_codes_of_cluck_are_all_documented():
    table = LOCKS.split("### Exit codes")[1].split("\n\n")[1]
    codes = [code.value for code in Exit if code is not Exit.SIGNALLED]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == codes
    assert all(f"  {code} " in EXIT_CODES for code in codes)


def anchors(page):
    """What code hosts, and mkdocs, make of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading) for heading in re.findall(r"^#+ (.*)", text, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page):
    """The pages, files and anchors that a page links to."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
        yield (page.parent / target).resolve() if target else page, anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_linked_exists(page):
    for target, anchor in links(page):
        assert target.is_file(), target
        assert not anchor or anchor in anchors(target), f"{target.name}#{anchor}"


@pytest.mark.parametrize("page", [DOCS / "index.md", ROOT / "mkdocs.yml"], ids=lambda page: page.name)
def test_all_pages_can_be_reached(page):
    if page.suffix == ".md":
        reached = {target for target, _ in links(page)} | {page}
        reached |= {target for linked in reached for target, _ in links(linked) if linked.name == "README.md"}
    else:
        reached = {ROOT / name for name in re.findall(r"([\w/.-]+\.md)$", page.read_text(), re.MULTILINE)}
    assert not set(PAGES) - reached


def test_the_readme_links_to_all_groups_of_pages():
    reached = {target for target, _ in links(ROOT / "README.md")}
    assert not {page for page in PAGES if page.parent.name != "decisions"} - reached - {ROOT / "README.md"}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_reference_has_the_package(package):
    assert f"\n::: {package}\n" in (DOCS / "reference" / f"{package}.md").read_text()


@pytest.mark.parametrize("public", [name for name in cluck.__all__ if name not in ("aio", "blocking")])
def test_the_public_names_of_cluck_are_documented(public):
    tutorial = (DOCS / "locks-tutorial.md").read_text()
    assert public in tutorial
    thing = getattr(cluck, public)
    if thing in (cluck.Locks, cluck.Held, cluck.Condition, cluck.Candidate):
        names = [name for name in dir(thing) if not name.startswith("_")]
        assert not [name for name in names if name not in tutorial]


def test_the_errors_of_cpg_are_explained():
    table = (DOCS / "tutorial.md").read_text().split("## What errors mean")[1].split("\n## ")[0]
    explained = {
        name for row in re.findall(r"^\| (.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    public = [getattr(cpg, name) for name in cpg.__all__]
    errors = {thing.__name__ for thing in public if isinstance(thing, type) and issubclass(thing, cpg.TotemError)}
    assert explained == errors - {"TotemError"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("name", ["cpgd", "cluckd"])
def test_the_service_is_one_for_systemd(tmp_path, name):
    service = (ROOT / "contrib" / f"{name}.service").read_text()
    unit = tmp_path / f"{name}.service"
    unit.write_text(service.replace(f"/usr/local/bin/{name}", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
