"""The house is a test: who may import whom, what a machine may not touch, and that nothing public is unexplained."""

import ast
import graphlib
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("totem", "cpg", "cluck")
    for path in sorted((ROOT / package).rglob("*.py"))
}

# Modules that only re-export what others define, or start a program.
DOORS = {"cpg.aio", "cpg.blocking", "cluck.aio", "cluck.blocking"} | {
    name for name, path in MODULES.items() if path.name in ("__init__.py", "__main__.py")
}
# Rooms with I/O, a clock or an event loop; all others but the doors are machines, wires or plain values.
SHELLS = {
    "totem.node",
    "totem.process",
    "totem.key_file",
    "totem.knet",
    "totem.link_log",
    "totem.sockets",
    "totem.udp",
    "totem.store",
    "totem.streams",
    "totem.addresses",
    "totem.corosync_conf.files",
    "totem.corosync_conf.this_node",
    "totem.cli.arguments",
    "totem.cli.entry_point",
    "totem.cli.keygen",
    "totem.dump.command",
    "totem.dump.live",
    "totem.testing.detection",
    "totem.testing.hearing_patterns",
    "totem.testing.soak",
    "totem.testing.transcript",
    "cluck.embedded",
    "cluck.server.host",
    "cluck.server.store",
    "cpg.group",
    "cpg.block",
    "cpg.client.threaded",
    "cpg.loop_errors",
    "cpg.embedded",
    "cpg.ring",
    "cpg.client.asynchronous",
    "cpg.libcpg.corosync",
    "cpg.local.access",
    "cpg.daemon.command",
    "cpg.daemon.orders",
    "cpg.local.lifecycle",
    "cpg.local.client_socket",
    "cpg.local.log",
    "cpg.local.log_pacing",
    "cpg.local.program",
    "cpg.local.scheduling",
    "cpg.daemon.server",
    "cpg.local.server_socket",
    "cpg.local.start",
    "cpg.daemon.status",
    "cpg.local.thread_waits",
    "cpg.local.timer",
    "cpg.local.turns",
    "cpg.libcpg.library",
    "cpg.testing.virtual",
    "cpg.cli.arguments",
    "cpg.cli.commands",
    "cpg.cli.doctor.command",
    "cpg.cli.doctor.inside",
    "cpg.cli.doctor.listening",
    "cpg.cli.doctor.machine",
    "cpg.cli.doctor.outside",
    "cpg.local.standard_io",
    "cpg.cli.rings",
    "cpg.cli.entry_point",
    "cpg.cli.top",
    "cpg.__main__",
    "cpg.cli.demo",
    "cpg.cli.flood",
    "cpg.cli.demo_display",
    "cluck.client.threaded",
    "cluck.client.asynchronous",
    "cluck.client.async_connection",
    "cluck.client.links",
    "cluck.client.thread_connection",
    "cluck.clock",
    "cluck.client.transport",
    "cpg.libqb.buffers",
    "cpg.libqb.names",
    "cpg.libqb.server",
    "cluck.cli.arguments",
    "cluck.cli.commands",
    "cluck.cli.supervised_command",
    "cluck.cli.supervisor",
    "cluck.cli.entry_point",
    "cluck.cli.run_command",
    "cluck.cli.connect",
    "cluck.daemon.backends",
    "cluck.daemon.command",
    "cluck.daemon.processes",
    "cluck.daemon.server",
    "cluck.daemon.settings",
}
IMPURE = {"time", "os", "socket", "threading", "logging", "select", "subprocess", "signal", "trio", "asyncio", "anyio"}
STRUCT_ROOMS = (
    "totem.wire",
    "totem.store",
    "totem.udp",
    "totem.sockets",
    "totem.dump",
    "totem.testing.corosync",
    "cpg.node.dump",
    "cpg.node.wire",
    "cpg.node.schema",
    "cpg.cli.flood",
    "cpg.client.ipc",
    "cpg.local.server_socket",
    "cpg.libqb",
)


# What still breaks a rule. An entry that is needed no more fails the test: remove it.
KNOWN_IMPORTS_OF_SHELLS: set[tuple[str, str]] = set()
KNOWN_CIRCLES: set[str] = set()
KNOWN_CLASS_NAMES_USED_TWICE: set[tuple[str, str]] = set()


def imports(path):
    """All modules that a file imports while the program runs, not those for type checkers alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for inner in ast.walk(node):
                if isinstance(inner, ast.ImportFrom | ast.Import):
                    inner.names = []
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                found.add(module if module in MODULES else node.module)
    return found


IMPORTS = {name: imports(path) for name, path in MODULES.items()}
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}


def tops(name):
    return {module.partition(".")[0] for module in IMPORTS[name]}


def in_room(name, rooms):
    return any(name == room or name.startswith(room + ".") for room in rooms)


@pytest.mark.parametrize("name", MODULES)
def test_doors_open_downwards(name):
    if name.startswith("totem"):
        assert "cpg" not in tops(name)
    if not name.startswith("cluck"):
        assert "cluck" not in tops(name)
    assert "tests" not in tops(name)


@pytest.mark.parametrize("name", MODULES)
def test_a_machine_has_no_clock_no_dice_no_socket_and_no_log(name):
    if name not in SHELLS:
        assert not tops(name) & IMPURE


def test_a_machine_imports_no_shell():
    machines = MODULES.keys() - SHELLS - DOORS
    found = {(name, shell) for name in machines for shell in IMPORTS[name] & SHELLS}
    assert found == KNOWN_IMPORTS_OF_SHELLS


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_the_rooms_of_a_package_import_each_other_in_no_circle(package):
    """A room is a module, or a folder with all that is in it."""

    def room(name):
        return name.removeprefix(package + ".").partition(".")[0]

    inside = [name for name in MODULES if name.startswith(package + ".")]
    rooms = {room(name): set() for name in inside}
    for name in inside:
        rooms[room(name)].update(
            room(other) for other in IMPORTS[name] if other in inside and room(other) != room(name)
        )
    try:
        graphlib.TopologicalSorter(rooms).prepare()
        circle = []
    except graphlib.CycleError as error:
        circle = error.args[1]
    assert bool(circle) == (package in KNOWN_CIRCLES), circle


@pytest.mark.parametrize("name", MODULES)
def test_structs_stay_in_the_wire_rooms(name):
    if not in_room(name, STRUCT_ROOMS):
        assert not tops(name) & {"struct", "construct"}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("totem.states.")])
def test_a_state_does_not_know_the_others(name):
    states = {f"totem.states.{state}" for state in ("gather", "commit", "recovery", "operational")}
    assert not (IMPORTS[name] - {name}) & states


@pytest.mark.parametrize("name", MODULES)
def test_the_schemas_are_for_reference_and_tests_and_to_be_shown(name):
    users = ("totem.wire", "totem.dump", "totem.testing", "cpg.node.schema", "cpg.node.dump")
    if not in_room(name, users):
        assert not IMPORTS[name] & {"totem.wire.schema", "cpg.node.schema"}


@pytest.mark.parametrize("name", MODULES)
def test_the_test_kit_is_not_needed_to_run(name):
    kit = (
        "totem.testing",
        "cpg.testing",
        "cpg.testing.checkers",
        "cluck.testing.world",
        "cluck.testing.checkers",
        "cluck.testing.linearizability",
    )
    if not in_room(name, kit):
        assert not any(module.startswith("totem.testing") for module in IMPORTS[name])


def test_a_class_name_is_used_once_in_a_package():
    names = Counter(
        (name.partition(".")[0], node.name)
        for name, path in MODULES.items()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    )
    assert {name for name, count in names.items() if count > 1} == KNOWN_CLASS_NAMES_USED_TWICE


def test_every_shell_exists():
    assert not SHELLS - set(MODULES), "a room in the list is gone"


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name):
    assert ast.get_docstring(ast.parse(MODULES[name].read_text()))


def test_the_project_speaks_of_itself_alone():
    """No path of a machine where it was made."""
    pattern = re.compile(r"(?<![\w.])/(work|root|home)/\w")
    for path in [*MODULES.values(), *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "Makefile", ROOT / ".ci/run"]:
        assert not pattern.search(path.read_text()), path
