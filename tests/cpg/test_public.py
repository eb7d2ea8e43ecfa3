"""What programs find: the modules of the package, and what their editor offers for a ring and a group."""

import subprocess
import sys

import pytest

import cluck
import cpg
from cpg.libcpg.corosync import CorosyncRing

RING = {
    "gives_safe",
    "join",
    "list_groups",
    "member",
    "node_id",
    "node_ids",
    "on_link",
    "on_quorum",
    "on_totem_confchg",
    "quorate",
    "ring_id",
    "wait_members",
    "wait_quorate",
}
EMBEDDED = {"config", "groups", "links", "on_transitional", "quorum", "reload", "statistics"}
GROUP = {
    "batches",
    "flush",
    "member",
    "members",
    "name",
    "on_confchg",
    "on_message",
    "on_quorum",
    "on_totem_confchg",
    "on_transitional",
    "send",
    "send_nowait",
}


def shown(thing):
    return {name for name in dir(thing) if not name.startswith("_")}


async def test_rings_and_groups_show_what_programs_need(daemon, config):
    async with daemon.connect() as ring, ring.join("chat") as group:
        assert shown(ring) == RING | {"on_transitional", "path", "query"}
        assert shown(group) == GROUP
    async with cpg.open_ring(config, 2) as ring:
        assert shown(ring) == RING | EMBEDDED
    assert shown(CorosyncRing) == RING - {"member"}


@pytest.mark.parametrize("package", [cpg, cluck], ids=lambda package: package.__name__)
def test_names_that_are_loaded_when_they_are_used_are_listed(package):
    assert set(package.__all__) <= set(dir(package))


def test_modules_are_loaded_when_they_are_used():
    program = """if True:
        import sys, cpg
        rooms = ("cpg.aio", "cpg.testing", "cpg.blocking")
        print([room in sys.modules for room in rooms], "trio" in sys.modules)
        print(cpg.aio.connect is cpg.connect, cpg.blocking.CPG is cpg.CPG, cpg.testing.World.__name__)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=40)
    assert done.stdout.splitlines() == ["[False, False, False] False", "True True World"]
