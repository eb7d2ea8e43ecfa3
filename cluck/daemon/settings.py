"""What a lock server is told: by the section cluckd of a file in corosync.conf's format, and by options, which win.

One file is enough: a ring's configuration may have the section beside its own, and a machine whose ring is another
daemon's has a small file with nothing else.
"""

from __future__ import annotations

import argparse
import enum
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from cluck.server.host import GROUP
from cpg.local.client_socket import default_socket
from cpg.node.wire import LARGEST_NAME
from totem.config import Logging, Scheduling, UserRule
from totem.corosync_conf import Section, load_section, number, one_of, switch
from totem.errors import ConfigError
from totem.store import default_directory

DEFAULT_FILE: Final = "/etc/cluckd.conf"
DEFAULT_PRIORITY: Final = 14
NOTHING: Final = Section({}, Logging(to_syslog=False), Scheduling(), (), {}, is_ring=False, warnings=())
"""What there is to say without a file."""


class Backend(enum.StrEnum):
    """What kind of ring the lock server stands on."""

    CPGD = "cpgd"
    """That of this machine's cpgd."""
    COROSYNC = "corosync"
    """That of this machine's Corosync."""
    RING = "ring"
    """It is a node itself."""


class Settings(NamedTuple):
    """Everything, with its defaults."""

    backend: Backend
    cpg_socket: str
    """Of cpgd; empty: the usual one."""
    servers: tuple[int, ...]
    """Node ids; empty: all of the nodelist."""
    priority: int
    """As a leader of the service, 1 to 14; 0: not to be one."""
    socket: Path
    state_dir: str
    tie_breaker: int | None
    unsafe_half: bool
    group: str
    config: str | None
    """The file; None where there is none."""
    votes: Mapping[int, int]
    """By node id, of the file's nodelist."""
    logging: Logging
    scheduling: Scheduling
    user_rules: tuple[UserRule, ...]
    warnings: tuple[str, ...]


def read(options: argparse.Namespace) -> Settings:
    """Read the file that the options name, or the usual one if it exists, and let options win.

    `ConfigError` names file and line, an unreadable file is an `OSError`.
    """
    path = options.config or (DEFAULT_FILE if os.path.exists(DEFAULT_FILE) else None)
    section = load_section(path, "cluckd", READERS) if path is not None else NOTHING
    said = dict(section.values)
    said |= {name: value for name in READERS if (value := getattr(options, name)) is not None}
    settings = Settings(
        backend=said.get("backend", Backend.RING if section.is_ring else Backend.CPGD),
        cpg_socket=said.get("cpg_socket", ""),
        servers=said.get("servers", ()),
        priority=said.get("priority", DEFAULT_PRIORITY),
        socket=Path(said.get("socket") or default_socket("cluckd")),
        state_dir=said.get("state_dir") or default_directory(),
        tie_breaker=said.get("tie_breaker"),
        unsafe_half=said.get("unsafe_half", False),
        group=said.get("group", GROUP),
        config=path,
        votes=section.votes,
        logging=section.logging,
        scheduling=section.scheduling,
        user_rules=section.user_rules,
        warnings=section.warnings,
    )
    if settings.backend is Backend.RING and path is None:
        raise ConfigError("backend ring: name the ring's configuration, cluckd -c FILE")
    if settings.backend is not Backend.RING and options.node is not None:
        raise ConfigError(f"--node is for a lock server that is a node itself (-c FILE), not on {settings.backend}")
    return settings


def backend(text: str) -> Backend:
    """Read the name of a backend."""
    return Backend(one_of(*Backend)(text))


def node_ids(text: str) -> tuple[int, ...]:
    """Read ids of nodes."""
    ids = tuple(number(part) for part in text.replace(",", " ").split())
    if not ids or len(set(ids)) < len(ids):
        raise ValueError("ids of nodes, each once, with commas or spaces between")
    return ids


def path(text: str) -> str:
    """Read a path."""
    if not text:
        raise ValueError("a path; without the setting it is the usual one")
    return text


def group(text: str) -> str:
    """Read the name of a group."""
    if not 1 <= len(os.fsencode(text)) <= LARGEST_NAME:
        raise ValueError(f"the name of a group, 1 to {LARGEST_NAME} bytes")
    return text


def priority(text: str) -> int:
    """Read a priority; off is 0."""
    if text == "off":
        return 0
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= DEFAULT_PRIORITY:
        raise ValueError(f"1 to {DEFAULT_PRIORITY}, or off")
    return int(text)


READERS: Final[dict[str, Callable[[str], Any]]] = {
    "backend": backend,
    "cpg_socket": path,
    "servers": node_ids,
    "priority": priority,
    "socket": path,
    "state_dir": path,
    "tie_breaker": number,
    "unsafe_half": switch,
    "group": group,
}
"""The keys of the section; options have the same names."""
