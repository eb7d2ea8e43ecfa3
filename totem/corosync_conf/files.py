"""Files of corosync.conf, and the files in the folder uidgid.d beside them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from totem.addresses import resolve
from totem.config import Config, UserRule
from totem.corosync_conf.reader import ConfReader, ReadKey, Resolve, Section
from totem.corosync_conf.syntax import decode
from totem.key_file import read_key


class Loaded(NamedTuple):
    """What a file says: the settings, and warnings about what is strange but not wrong."""

    config: Config
    warnings: tuple[str, ...]


def load(path: str | PathLike[str], *, resolve: Resolve = resolve) -> Loaded:
    """Read a corosync.conf file, and the files in the folder uidgid.d beside it. Waits for host names to resolve.

    Raises `ConfigError`, which names file and line. For a name that does not resolve it is `AddressUnavailable`, a kind
    of `ConfigError`. For a file that cannot be read it is `OSError`.
    """
    config, warnings = parse(_read_text(Path(path)), str(path), resolve=resolve)
    rules, further = _rules_beside(Path(path))
    return Loaded(replace(config, user_rules=(*config.user_rules, *rules)), (*warnings, *further))


class ConfigFile:
    """A file that is read again while a ring runs."""

    def __init__(self, path: str | PathLike[str], *, resolve: Resolve = resolve) -> None:
        self.path = str(path)
        self._resolve = resolve
        self._known: dict[tuple[str, str], str] = {}

    def load(self) -> Loaded:
        """Read the file as `load` does. A name that does not resolve now has the address that it had last."""
        return load(self.path, resolve=self._ask)

    def load_at_once(self) -> Loaded:
        """Read the file without waiting for a name: one that is new is an `AddressUnavailable`."""
        return load(self.path, resolve=self._recall)

    def _ask(self, host: str, ip_version: str) -> str:
        try:
            self._known[host, ip_version] = self._resolve(host, ip_version)
        except OSError:
            if (host, ip_version) not in self._known:
                raise
        return self._known[host, ip_version]

    def _recall(self, host: str, ip_version: str) -> str:
        known = self._known.get((host, ip_version))
        if known is not None:
            return known
        try:
            ip_address(host)
        except ValueError:
            raise OSError(errno.EAGAIN, "it has not been looked up yet") from None
        return self._ask(host, ip_version)


def load_section(path: str | PathLike[str], name: str, readers: Mapping[str, Callable[[str], Any]]) -> Section:
    """Read what concerns one program: the section `name`, logging, uidgid, and the votes of the nodes.

    `readers` has the section's keys; they raise ValueError with what is right. All else may be anything that Corosync
    understands. Raises `ConfigError`, which names file and line, and `OSError` for a file that cannot be read.
    """
    text = _read_text(Path(path))
    reader = ConfReader(str(path), resolve, read_key)
    section = reader.read_section(text, name, dict(readers))
    rules, warnings = _rules_beside(Path(path))
    return section._replace(user_rules=(*section.user_rules, *rules), warnings=(*section.warnings, *warnings))


def _rules_beside(path: Path) -> tuple[tuple[UserRule, ...], tuple[str, ...]]:
    """Return who may connect, from the files in the folder uidgid.d, and the warnings about them."""
    rules: list[UserRule] = []
    warnings: list[str] = []
    for file in sorted(path.parent.glob("uidgid.d/*")):
        if file.is_file():
            reader = ConfReader(str(file), resolve, read_key)
            rules += reader.read_user_rules(_read_text(file))
            warnings += reader.survey.warnings
    return tuple(rules), tuple(warnings)


def parse(text: str, path: str, *, resolve: Resolve = resolve, read_key: ReadKey = read_key) -> Loaded:
    """Read the text of a corosync.conf file; `path` is what errors and warnings call it."""
    reader = ConfReader(path, resolve, read_key)
    return Loaded(reader.read(text), tuple(reader.survey.warnings))


def _read_text(path: Path) -> str:
    return decode(path.read_bytes(), str(path))
