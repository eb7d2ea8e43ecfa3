"""On what is measured: the machine, and the versions of all that takes part."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PROGRAMS = {
    "Corosync": ("corosync", "-v"),
    "etcd": ("etcd", "--version"),
    "Redis": ("redis-server", "--version"),
    "Java": ("java", "-version"),
}
_PACKAGES = ("trio", "pysyncobj", "grpcio", "redis", "hiredis", "kazoo")
_JARS = Path("/usr/share/java")
_NUMBER = re.compile(r"\d+\.\d[\w.]*")


def machine() -> str:
    """Processor, cores that may be used, memory."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    name = model[1] if model else platform.machine()
    return f"{name}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB"


def versions() -> dict[str, str]:
    """Of whatever is installed."""
    found = {"Linux": platform.release(), platform.python_implementation(): platform.python_version()}
    for name, command in _PROGRAMS.items():
        if shutil.which(command[0]):
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            number = _NUMBER.search(done.stdout + done.stderr)
            found[name] = number[0] if number else "unknown"
    for jar in _JARS.glob("zookeeper-[0-9]*.jar"):
        found["ZooKeeper"] = jar.stem.removeprefix("zookeeper-")
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
