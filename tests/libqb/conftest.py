"""Rings of our nodes that answer libqb's clients, each in a place of its own on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from ctypes.util import find_library
from pathlib import Path

import pytest

from tests.interop.network import missing
from tests.interop.ring import GLANCE, PATIENCE, MixedRing

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


class Nodes:
    """Nodes of ours in places 1 to N, as `tests.libqb.runner` starts them."""

    def __init__(self, folder, count, **settings):
        self.ring = MixedRing(folder, count, **settings)
        self.processes = {}

    def start(self, *places):
        """Start nodes; return when all that run, real ones too, are in one ring."""
        for k in places:
            command = (sys.executable, "-m", "tests.libqb.runner", self.ring.config[k], k)
            with (self.ring.folder / f"log{k}").open("a") as log:
                self.processes[k] = subprocess.Popen(
                    self.place(k).command(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
                )
        for k in places:
            assert self.processes[k].stdout.readline() == b"ready\n", self.log(k)
        self.wait_ring(*self.processes, *self.ring.corosyncs)

    def wait_ring(self, *members):
        """Wait until these nodes have each other in their ring."""
        deadline = time.monotonic() + PATIENCE
        for k in members:
            while self.ring.members_at(k) != tuple(sorted(members)):
                assert time.monotonic() < deadline, self.log(k)
                time.sleep(GLANCE)

    def place(self, k):
        """Place K, to run commands in."""
        return self.ring.place(k)

    def log(self, k):
        """What a node has logged."""
        return (self.ring.folder / f"log{k}").read_text()

    def stop(self, k):
        """Have a node leave."""
        process = self.processes.pop(k)
        with process.stdout:
            process.stdin.close()
            assert process.wait(PATIENCE) == 0, self.log(k)

    def kill(self, k):
        """End a node with SIGKILL."""
        process = self.processes.pop(k)
        with process.stdin, process.stdout:
            process.kill()
            process.wait()

    def close(self):
        """End all, and see that nothing is left."""
        left = [*self.processes]
        try:
            for k in left:
                self.stop(k)
            for k in left:
                assert "Traceback" not in self.log(k)
                assert self.place(k).run("ls", "/dev/shm") == ""
        finally:
            for k in [*self.processes]:
                self.kill(k)
            self.ring.close()


@pytest.fixture(scope="session")
def has_libraries():
    """Skip where real clients cannot be had."""
    reason = reason_to_skip()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def two_nodes(has_libraries, tmp_path_factory):
    """Two nodes in a ring."""
    nodes = Nodes(tmp_path_factory.mktemp("nodes"), 2)
    try:
        nodes.start(1, 2)
        yield nodes
    finally:
        nodes.close()


@pytest.fixture(scope="session")
def compiled(has_libraries, tmp_path_factory):
    """Compile a program in C against libcpg; return its path."""
    folder = tmp_path_factory.mktemp("programs")

    def compile_program(source):
        path = folder / source.stem
        subprocess.run(["cc", "-O2", "-o", path, source, "-lcpg", "-lpthread"], check=True)
        return str(path)

    return compile_program
