"""The settings of a lock server: section cluckd of a file in corosync.conf's format, overridden by options.

One file is enough. A ring's configuration may have this section beside its own. A machine whose ring belongs to another
daemon has a small file with nothing else.
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
NO_FILE: Final = Section({}, Logging(to_syslog=False), Scheduling(), (), {}, is_ring=False, warnings=())
"""The section where there is no file."""


class Backend(enum.StrEnum):
    """The kind of ring that the lock server uses."""

    CPGD = "cpgd"
    """The ring of this machine's cpgd."""
    COROSYNC = "corosync"
    """The ring of this machine's Corosync."""
    RING = "ring"
    """The lock server is a node itself."""


class Settings(NamedTuple):
    """All settings, with defaults filled in."""

    backend: Backend
    cpg_socket: str
    """The socket of cpgd; empty: the usual one."""
    servers: tuple[int, ...]
    """Node ids; empty: all of the nodelist."""
    priority: int
    """The rank as a leader of the service, 1 to 14; 0: never a leader."""
    socket: Path
    state_dir: str
    tie_breaker: int | None
    unsafe_half: bool
    group: str
    config: str | None
    """The file; None where there is none."""
    votes: Mapping[int, int]
    """The votes of the file's nodelist, by node id."""
    logging: Logging
    scheduling: Scheduling
    user_rules: tuple[UserRule, ...]
    warnings: tuple[str, ...]


def read(options: argparse.Namespace) -> Settings:
    """Read the file that the options name, or the usual one if it exists, and apply the options to it.

    Raises `ConfigError` with file and line, and `OSError` for an unreadable file.
    """
    path = options.config or (DEFAULT_FILE if os.path.exists(DEFAULT_FILE) else None)
    section = load_section(path, "cluckd", READERS) if path is not None else NO_FILE
    values = dict(section.values)
    values |= {name: value for name in READERS if (value := getattr(options, name)) is not None}
    settings = Settings(
        backend=values.get("backend", Backend.RING if section.is_ring else Backend.CPGD),
        cpg_socket=values.get("cpg_socket", ""),
        servers=values.get("servers", ()),
        priority=values.get("priority", DEFAULT_PRIORITY),
        socket=Path(values.get("socket") or default_socket("cluckd")),
        state_dir=values.get("state_dir") or default_directory(),
        tie_breaker=values.get("tie_breaker"),
        unsafe_half=values.get("unsafe_half", False),
        group=values.get("group", GROUP),
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
    """Read node ids."""
    ids = tuple(number(part) for part in text.replace(",", " ").split())
    if not ids or len(set(ids)) < len(ids):
        raise ValueError("node ids, each once, separated by commas or spaces")
    return ids


def path(text: str) -> str:
    """Read a path."""
    if not text:
        raise ValueError("a path; leave the setting out for the usual one")
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
