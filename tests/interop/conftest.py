"""Tests against the real daemon: skipped where it, or what builds its places, is not to be had."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.interop.network import missing, unavailable
from tests.interop.ring import MixedRing

HERE = Path(__file__).parent


def _reason_to_skip():
    absent = [program for program in ("corosync", "cc") if shutil.which(program) is None] + missing()
    if absent:
        return f"not installed: {', '.join(absent)} (apt-get install corosync libcpg-dev nftables iproute2 gcc)"
    return unavailable()


def pytest_addoption(parser):
    parser.addoption("--served", action="store_true", help="programs on our nodes are behind cpgd, not embedded")


def pytest_collection_modifyitems(items):
    ours = [item for item in items if HERE in item.path.parents]
    reason = _reason_to_skip() if ours else None
    for item in ours:
        item.add_marker(pytest.mark.corosync)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def mixed_ring(tmp_path, request):
    """Make rings, which are taken away when the test ends."""
    rings = []

    def make(count, **settings):
        settings = {"served": request.config.getoption("--served", default=False)} | settings
        ring = MixedRing(tmp_path / f"ring{len(rings)}", count, **settings)
        rings.append(ring)
        return ring

    yield make
    for ring in rings:
        ring.close()


@pytest.fixture(scope="session")
def cpgflood(tmp_path_factory):
    """The path of `cpgflood`, compiled."""
    path = tmp_path_factory.mktemp("cpgflood") / "cpgflood"
    subprocess.run(["cc", "-O2", "-o", path, HERE / "cpgflood.c", "-lcpg", "-lpthread"], check=True)
    return str(path)
