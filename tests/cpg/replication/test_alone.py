"""The replica knows no locks: its tests pass where there is no package `cluck`."""

import subprocess
import sys
from pathlib import Path

WITHOUT_LOCKS = """
import sys
from importlib.abc import MetaPathFinder

import pytest


class Forbidden(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "cluck":
            raise ModuleNotFoundError(f"{name} is forbidden here")


sys.meta_path.insert(0, Forbidden())
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_the_tests_of_the_replica_pass_without_locks():
    here = Path(__file__).parent
    options = ["-q", "-p", "no:cacheprovider", f"--ignore={__file__}", "-k", "not test_bug_is_killed"]
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_LOCKS, *options, str(here)],
        cwd=here.parents[2],
        capture_output=True,
        check=False,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
