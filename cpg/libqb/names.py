"""Owners of the names of abstract sockets: anybody on the machine may take a free one."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

from cpg.libqb.layout import address

_CREDENTIALS: Final = Struct("iII")  # struct ucred: pid, uid, gid


class Owner(NamedTuple):
    """The process that has a name."""

    pid: int
    uid: int

    def __str__(self) -> str:
        command = "?"
        with suppress(OSError):
            command = Path("/proc", str(self.pid), "comm").read_text(errors="replace").strip()
        return f"process {self.pid} ({command}) of the user with uid {self.uid}"


class NameTaken(OSError):
    """The name of a service is taken: by a Corosync, by a daemon like this, or by somebody else."""

    def __init__(self, name: str, owner: Owner | None) -> None:
        who = owner or "a process that cannot be seen from here"
        super().__init__(errno.EADDRINUSE, f"the abstract socket '{name}' is taken by {who}")
        self.owner = owner
        """None where it cannot be seen."""


def owner_of(name: str) -> Owner | None:
    """Return the owner of a stream socket's name: the listening socket says it, else the files in /proc."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address(name))
        except OSError:
            return _holder(name)
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(credentials)
    return Owner(pid, uid)


def _holder(name: str) -> Owner | None:
    """Find the process that has the socket open, among those that this one may inspect."""
    shown = address(name).decode().replace("\0", "@")
    links = set()
    for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if fields[7:] == [shown]:
            links.add(f"socket:[{fields[6]}]")
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(os.readlink(descriptor) in links for descriptor in (process / "fd").iterdir()):
                return Owner(int(process.name), process.stat().st_uid)
    return None
