"""Which run of which machine this is, where the system says so, and where it does not."""

import pytest

from cluck.server import store
from cluck.server.store import this_boot
from cpg.replication.identities import Boot

MACHINE = "3d1219c7c4c5404aaa1f6d2a48adfda4"


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Return what the system says, where that is not the machine's own."""

    def say(machine, run):
        for name, text in ("_MACHINE_ID", machine), ("_BOOT_ID", run):
            path = tmp_path / name
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_text(text + "\n")
            monkeypatch.setattr(store, name, path)

    return say


def test_a_machine_and_its_run(system):
    system(MACHINE, "a run")
    assert this_boot() == Boot(MACHINE, "a run")


@pytest.mark.parametrize(
    ("machine", "run"), [(None, "a run"), ("", "a run"), ("uninitialized", "a run"), (MACHINE, None), (MACHINE, "")]
)
def test_where_the_system_does_not_say(system, machine, run):
    """As in many containers."""
    system(machine, run)
    assert this_boot() is None
