"""Rings of our nodes that answer libqb's clients, each in a place of its own on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from ctypes.util import find_library
from pathlib import Path

import pytest
import trio

from tests.cpg.libqb.ring import RingOfOurs
from tests.interop.network import missing
from tests.interop.test_libcpg import whole

TOOLS = ("corosync-cpgtool", "corosync-quorumtool", "corosync-cfgtool", "corosync-cmapctl")
HERE = Path(__file__).parent


def reason_to_skip():
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [program for program in ("cc", *TOOLS) if shutil.which(program) is None] + missing()
    absent += [f"lib{name}" for name in ("cpg", "quorum") if find_library(name) is None]
    if absent:
        return (
            f"not installed: {', '.join(absent)} (apt-get install corosync libcpg-dev libquorum5 nftables iproute2 gcc)"
        )
    try:
        subprocess.run(["unshare", "--net", "--mount", "true"], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        return f"no namespaces here: {error.stderr.decode().strip()}"
    return None


@pytest.fixture(scope="session")
def has_libraries():
    """Skip where there are no real clients."""
    reason = reason_to_skip()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def two_nodes(has_libraries, tmp_path_factory):
    """Two nodes in a ring."""
    with RingOfOurs(tmp_path_factory.mktemp("nodes"), 2) as ring:
        trio.run(whole, ring)
        yield ring


@pytest.fixture(scope="session")
def compiled(has_libraries, tmp_path_factory):
    """Compile a program in C against libcpg; return its path."""
    folder = tmp_path_factory.mktemp("programs")

    def compile_program(source):
        path = folder / source.stem
        subprocess.run(["cc", "-O2", "-o", path, source, "-lcpg", "-lpthread"], check=True)
        return str(path)

    return compile_program
