"""This machine, as the operating system describes it: interfaces, routes, neighbours, who uses a port."""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from totem.addresses import sockaddr

_PATIENCE: Final = 5.0
"""Seconds for a command of the system."""
_TIME_ERROR: Final = 5
"""What adjtimex(2) returns where the clock is not synchronized."""
_TIMEX_BYTES: Final = 512
"""More than a `struct timex` has."""


class Interface(NamedTuple):
    """A network interface."""

    name: str
    mtu: int
    is_up: bool
    """Whether it is on, and has a carrier."""
    addresses: tuple[str, ...]


class Holder(NamedTuple):
    """A process that uses a port."""

    pid: int
    words: tuple[str, ...]
    """Its command line."""


class ThisMachine:
    """Questions to this machine. `None` is the answer where there is none, for lack of a program or a privilege."""

    def run(self, *command: str) -> str | None:
        """Return the output of a command that succeeds."""
        if shutil.which(command[0]) is None:
            return None
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    def values(self, *command: str) -> list[Any] | None:
        """Return the output of a command that prints a list in JSON."""
        text = self.run(*command)
        if text is None:
            return None
        values = json.loads(text or "[]")
        return values if isinstance(values, list) else [values]

    def has(self, program: str) -> bool:
        """Return whether a program is installed."""
        return shutil.which(program) is not None

    def interfaces(self) -> list[Interface] | None:
        """Return all interfaces."""
        values = self.values("ip", "-j", "address")
        if values is None:
            return None
        return [
            Interface(
                value["ifname"],
                value["mtu"],
                {"UP", "LOWER_UP"} <= set(value["flags"]),
                tuple(entry["local"] for entry in value.get("addr_info", ()) if "local" in entry),
            )
            for value in values
            if value
        ]

    def route(self, address: str, source: str) -> str | None:
        """Return the interface through which packets from an own address leave; None if there is no way."""
        plain, _, interface = address.partition("%")
        if interface:
            return interface
        values = self.values("ip", "-j", "route", "get", plain, *(("from", source) if source else ()))
        return values[0].get("dev") if values else None

    def rules(self) -> list[dict[str, Any]] | None:
        """Return the rules of nftables."""
        text = self.run("nft", "-j", "list", "ruleset")
        return list(json.loads(text)["nftables"]) if text else None

    def has_legacy_rules(self) -> bool:
        """Return whether there may be rules of iptables that nftables does not show."""
        for path in ("/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"):
            with suppress(OSError):
                if "filter" in Path(path).read_text(encoding="ascii"):
                    return True
        return False

    def binds(self, address: str, port: int) -> int:
        """Return the error of a try to use a port of an address; 0 if it is free."""
        family, place = sockaddr(address, port)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(place)
            except OSError as error:
                return error.errno or errno.EINVAL
        return 0

    def holders(self, address: str, port: int) -> list[Holder]:
        """Return the processes that use a UDP port of an address, as far as this user may see them."""
        wanted = {f"socket:[{inode}]" for inode in _sockets(address, port)}
        return [Holder(pid, _command_line(pid)) for pid in _processes() if wanted & _open_files(pid)]

    def policy_of(self, pid: int) -> int | None:
        """Return the policy with which a process is scheduled."""
        with suppress(OSError):
            return os.sched_getscheduler(pid)
        return None

    def clock_is_synchronized(self) -> bool | None:
        """Return whether something disciplines the clock."""
        if Path("/run/systemd/timesync/synchronized").exists():
            return True
        libc = ctypes.CDLL(None, use_errno=True)
        state = libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))  # modes 0: only read
        return None if state < 0 else state != _TIME_ERROR


def _sockets(address: str, port: int) -> Iterator[int]:
    """Yield the inodes of the sockets that have a port of an address."""
    wanted = ipaddress.ip_address(address.partition("%")[0])
    for path in ("/proc/net/udp", "/proc/net/udp6"):
        with suppress(OSError):
            for line in Path(path).read_text(encoding="ascii").splitlines()[1:]:
                _, place, *rest = line.split()
                found, _, number = place.partition(":")
                if int(number, 16) == port and _address(found) in (wanted, _address("0" * len(found))):
                    yield int(rest[7])


def _address(digits: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Read an address of /proc/net: words in the order of the processor's bytes."""
    packed = b"".join(
        socket.ntohl(int(word, 16)).to_bytes(4, "big") if word else b"" for word in re.findall("." * 8, digits)
    )
    return ipaddress.ip_address(packed)


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _open_files(pid: int) -> set[str]:
    found = set()
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def _command_line(pid: int) -> tuple[str, ...]:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        return tuple(word.decode("utf-8", "backslashreplace") for word in words)
    return ()
