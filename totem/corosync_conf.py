"""Reader for Corosync's configuration files, corosync.conf(5).

A file is read in two steps: `_parse` makes a tree of sections as Corosync's own parser (exec/coroparse.c) would, and
`_Reader` turns the tree into a `Config`. A value that cannot be right is refused with file and line; a key that
nobody knows, or that has no effect here, is told as a warning beside the result, since a file may serve real
Corosync nodes and ours alike.

One key is ours: `ring0_port` in a node section, so that several nodes can live at one address.
"""

from __future__ import annotations

import grp
import ipaddress
import pwd
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from totem.addresses import is_local, resolve
from totem.config import (
    DEFAULT_PORT,
    IP_VERSIONS,
    TOKEN_COEFFICIENT_MS,
    TOKEN_MS,
    Config,
    Daemon,
    Logging,
    NodeEntry,
    Quorum,
    Reservation,
    UserRule,
    effective_token_ms,
)
from totem.errors import ConfigError

_T = TypeVar("_T")


class Loaded(NamedTuple):
    """What a file says: the settings, and what in it is strange but not wrong."""

    config: Config
    warnings: tuple[str, ...]


def load(path: str | PathLike[str]) -> Loaded:
    """Read a corosync.conf file, and the files in the folder uidgid.d beside it.

    `ConfigError` names file and line, an unreadable file is an `OSError`.
    """
    config, warnings = parse(_read_text(Path(path)), str(path))
    rules, further = _rules_beside(Path(path))
    return Loaded(replace(config, user_rules=(*config.user_rules, *rules)), (*warnings, *further))


class Section(NamedTuple):
    """What a file says to a program that has a section of its own in it, and is perhaps no node."""

    values: dict[str, Any]
    """Of its section: what is said there."""
    logging: Logging
    user_rules: tuple[UserRule, ...]
    votes: dict[int, int]
    """By node id: of the nodes whose ids are given."""
    is_ring: bool
    """Whether the file has a ring's settings: a section totem."""
    warnings: tuple[str, ...]


def load_section(path: str | PathLike[str], name: str, readers: Mapping[str, Callable[[str], Any]]) -> Section:
    """Read what concerns one program: the section `name`, logging, uidgid, and who has how many votes.

    `readers` has the section's keys; they raise ValueError with what is right. All else may be anything that Corosync
    understands. `ConfigError` names file and line, an unreadable file is an `OSError`.
    """
    reader = _Reader(str(path))
    section = reader.read_section(_tree_of(Path(path)), name, dict(readers))
    rules, warnings = _rules_beside(Path(path))
    return section._replace(user_rules=(*section.user_rules, *rules), warnings=(*section.warnings, *warnings))


def _rules_beside(path: Path) -> tuple[tuple[UserRule, ...], tuple[str, ...]]:
    """Read who may connect from the files in the folder uidgid.d; the warnings are second."""
    rules: list[UserRule] = []
    warnings: list[str] = []
    for file in sorted(path.parent.glob("uidgid.d/*")):
        if file.is_file():
            reader = _Reader(str(file))
            rules += reader.read_user_rules(_tree_of(file))
            warnings += reader.warnings
    return tuple(rules), tuple(warnings)


def _tree_of(path: Path) -> _Section:
    return _parse(_read_text(path), str(path))


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def parse(text: str, path: str) -> Loaded:
    """Read the text of a corosync.conf file; `path` is what errors and warnings call it."""
    reader = _Reader(path)
    return Loaded(reader.read(_parse(text, path)), tuple(reader.warnings))


def own_node(config: Config, node: int | str | None = None) -> int:
    """Tell which node this program is: the one asked for by id or name, else the one with an address of this machine.

    `ValueError` names the nodes there are, or the candidates where several addresses are this machine's.
    """
    if node is None:
        return _node_of_this_machine(config)
    for entry in config.nodes:
        if node in (entry.node_id, entry.name) or str(node) == str(entry.node_id):
            return entry.node_id
    raise ValueError(f"node {node} is not in the nodelist, which has {_names(config.nodes)}")


def _node_of_this_machine(config: Config) -> int:
    candidates = [entry for entry in config.nodes if is_local(entry.address)]
    if not candidates:
        raise ValueError(f"no node of the nodelist has an address of this machine: {_names(config.nodes)}")
    if len(candidates) > 1:
        raise ValueError(f"several nodes have an address of this machine, say which: {_names(candidates)}")
    return candidates[0].node_id


def _names(nodes: tuple[NodeEntry, ...] | list[NodeEntry]) -> str:
    return ", ".join(f"{entry.node_id} ({entry.name}, {entry.address})" for entry in nodes)


# --- The tree -------------------------------------------------------------------------------------------------------


class _Value(NamedTuple):
    text: str
    line: int


@dataclass(slots=True)
class _Section:
    name: str
    """With the names of the sections around it: `totem.interface`; empty for the file itself."""
    line: int
    values: dict[str, _Value] = field(default_factory=dict)
    """As in Corosync the last of several values counts."""
    sections: list[_Section] = field(default_factory=list)

    def named(self, name: str) -> Iterator[_Section]:
        return (section for section in self.sections if section.name == name)


_BLANKS = " \t\r\n\xa0"  # Corosync takes the no-break space for a blank too


def _parse(text: str, path: str) -> _Section:
    """Make the tree of sections; one opening, closing or `key: value` a line, `#` at its beginning is a comment."""
    stack = [_Section("", 0)]
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip(_BLANKS)
        if not line or line.startswith("#"):
            continue
        section = stack[-1]
        if "{" in line:
            name, _, rest = line.partition("{")
            name = name.rstrip(_BLANKS + ":")
            if not name or rest:
                _wrong(path, number, "a section begins with its name and {, and nothing behind it")
            inner = _Section(f"{section.name}.{name}".lstrip("."), number)
            section.sections.append(inner)
            stack.append(inner)
        elif ":" in line:
            key, _, value = (part.strip(_BLANKS) for part in line.partition(":"))
            if not key:
                _wrong(path, number, "a key is missing before the colon")
            section.values[key] = _Value(value, number)
        elif line == "}":
            if len(stack) == 1:
                _wrong(path, number, "} closes nothing")
            stack.pop()
        else:
            _wrong(path, number, f"neither 'name {{' nor 'key: value' nor '}}': {line[:40]}")
    if len(stack) > 1:
        _wrong(path, stack[-1].line, f"section {stack[-1].name} is not closed by }}")
    return stack[0]


def _wrong(path: str, line: int, text: str) -> NoReturn:
    raise ConfigError(f"{path}:{line}: {text}")


# --- The values -----------------------------------------------------------------------------------------------------


def number(text: str) -> int:
    """Read a number."""
    if not (text.isascii() and text.isdigit()) or int(text) > 2**32 - 1:
        raise ValueError("a number from 0 to 4294967295")
    return int(text)


def _seconds(text: str) -> float:
    return number(text) / 1000


def switch(text: str) -> bool:
    """Read yes or no."""
    if text not in ("yes", "no"):
        raise ValueError("yes or no")
    return text == "yes"


def _digit_switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("0 or 1")
    return text == "1"


def _text(text: str) -> str:
    return text


def _group_name(text: str) -> str:
    if not 1 <= len(text.encode()) <= 128:
        raise ValueError("the name of a group, 1 to 128 bytes")
    return text


def _user(text: str) -> int:
    try:
        return number(text) if text.isdigit() else pwd.getpwnam(text).pw_uid
    except KeyError:
        raise ValueError("a user of this machine, or a number") from None


def _group(text: str) -> int:
    try:
        return number(text) if text.isdigit() else grp.getgrnam(text).gr_gid
    except KeyError:
        raise ValueError("a group of this machine, or a number") from None


def one_of(*choices: str) -> Callable[[str], str]:
    """Make the reader of one of some words."""

    def check(text: str) -> str:
        if text not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return text

    return check


_Readers = dict[str, Callable[[str], Any]]

_TOTEM_NUMBERS: _Readers = {
    **dict.fromkeys(("token_retransmit", "hold", "join", "send_join", "consensus", "merge", "downcheck"), _seconds),
    **dict.fromkeys(("token_retransmits_before_loss_const", "fail_recv_const", "seqno_unchanged_const"), number),
    **dict.fromkeys(("miss_count_const", "window_size", "max_messages", "netmtu"), number),
}
_TOTEM_OURS: _Readers = {
    "accelerated_window": number,
}
"""Of these 0 is a value."""
_TOTEM_TEXTS: _Readers = {
    **dict.fromkeys(("cluster_name", "transport"), _text),
    "ip_version": one_of(*IP_VERSIONS),
    **dict.fromkeys(("block_unlisted_ips", "compact_headers"), switch),
}
_INTERFACE: _Readers = {
    "mcastaddr": _text,
    "ttl": number,
}
_QUORUM: _Readers = {
    "provider": one_of("corosync_votequorum"),
    "expected_votes": number,
    **dict.fromkeys(("two_node", "wait_for_all", "auto_tie_breaker", "last_man_standing"), _digit_switch),
    **dict.fromkeys(("allow_downscale", "expected_votes_tracking"), _digit_switch),
    "auto_tie_breaker_node": _text,
    "last_man_standing_window": _seconds,
}
_LOGGING: _Readers = {
    **dict.fromkeys(("to_stderr", "to_syslog", "to_logfile"), switch),
    **dict.fromkeys(("logfile", "syslog_facility"), _text),
    "timestamp": one_of("off", "on", "hires"),
    "debug": one_of("off", "on", "trace"),
}

_DAEMON: _Readers = {
    "socket": _text,
    "libqb": switch,
    "client_queue": number,
}

# Corosync's keys that have no bearing on what a ring does: read over in silence.
_IDLE_KEYS = {
    "totem": {
        "config_version",
        "crypto_model",
        "keyfile",
        "key",
        "threads",
        "token_warning",
        "link_mode",
        "ip_dscp",
        "max_network_delay",
    },
    "totem.interface": {"ringnumber", "member"},
    "quorum": {"leaving_timeout", "votes"},
    "logging": {"fileline", "function_name", "blackbox", "logfile_priority", "syslog_priority"},
    "system": {"qb_ipc_type", "sched_rr", "priority", "move_to_root_cgroup", "allow_knet_handle_fallback"},
}
_IDLE_SECTIONS = {"resources", "nozzle", "service", "pload", "logging.logger_subsys", "cluckd"}

_KNOWN_SECTIONS = _IDLE_SECTIONS | {
    "totem",
    "totem.interface",
    "nodelist",
    "nodelist.node",
    "quorum",
    "logging",
    "system",
    "uidgid",
    "cpgd",
    "cpgd.reserved",
}


class _Reader:
    """Turns one tree into a Config; keeps the lines of what it read, and the warnings."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.warnings: list[str] = []
        self._lines: dict[tuple[str, object], int] = {}
        """Where a setting was given, by its name and, in the nodelist, its node."""

    def read(self, root: _Section) -> Config:
        totem = self._only(root, "totem")
        self._refuse_secrets(totem)
        settings = self._read_totem(totem)
        settings |= self._read_interface(totem)
        settings["nodes"] = self._read_nodes(self._only(root, "nodelist"), totem, settings)
        settings |= self._read_token(totem, len(settings["nodes"]))
        settings["quorum"] = Quorum(**self._read(self._only(root, "quorum"), _QUORUM))
        settings["logging"] = Logging(**self._read(self._only(root, "logging"), _LOGGING))
        daemon = self._only(root, "cpgd")
        reserved = tuple(self._read_reserved(daemon))
        settings["daemon"] = Daemon(**self._read(daemon, _DAEMON), reserved=reserved)
        settings["user_rules"] = tuple(self._read_user_rules(root))
        settings |= self._read(self._only(root, "system"), {"state_dir": _text})
        self._warn_of_leftovers(root)
        try:
            return Config(**settings)
        except ConfigError as error:
            line = self._lines.get((error.setting, error.node), totem.line)
            self._refuse(line, str(error))

    def read_section(self, root: _Section, name: str, readers: _Readers) -> Section:
        """Read what concerns one program."""
        own = self._only(root, name)
        values = self._read(own, readers)
        logging = Logging(**self._read(self._only(root, "logging"), _LOGGING))
        rules = tuple(self._read_user_rules(root))
        is_ring = any(root.named("totem"))
        nodes = [node for nodelist in root.named("nodelist") for node in nodelist.named("nodelist.node")]
        votes = {
            self._value(node, "nodeid", number): self._take(node, "quorum_votes", number, 1)
            for node in nodes
            if "nodeid" in node.values
        }
        for key, value in own.values.items():
            self._warn(value.line, f"{name}.{key} is not known here and has no effect")
        return Section(values, logging, rules, votes, is_ring, tuple(self.warnings))

    # Sections. What has been read is taken out of the tree, so that what is left over can be warned of.

    def _only(self, outer: _Section, name: str) -> _Section:
        """Take the sections of this name out of the tree, as one; empty if there is none."""
        found = list(outer.named(name))
        merged = _Section(name, found[0].line if found else outer.line)
        for section in found:
            outer.sections.remove(section)
            merged.values |= section.values
            merged.sections += section.sections
        outer.sections.append(merged)
        return merged

    def _read(self, section: _Section, readers: _Readers) -> dict[str, Any]:
        """Take the known values out of a section."""
        return {name: self._value(section, name, reader) for name, reader in readers.items() if name in section.values}

    def _take(self, section: _Section, name: str, reader: Callable[[str], _T], default: _T) -> _T:
        return self._value(section, name, reader) if name in section.values else default

    def _value(self, section: _Section, name: str, reader: Callable[[str], _T]) -> _T:
        text, line = section.values.pop(name)
        self._lines[name, None] = line
        try:
            return reader(text)
        except ValueError as right:
            self._refuse(line, f"{section.name}.{name}: '{text}' is wrong, it must be {right}")

    # The totem section.

    def _refuse_secrets(self, totem: _Section) -> None:
        for name, plain in (("crypto_cipher", "none"), ("crypto_hash", "none"), ("secauth", "off")):
            text, line = totem.values.pop(name, _Value(plain, 0))
            if text != plain:
                self._refuse(
                    line,
                    f"totem.{name}: '{text}' is not supported: udpu and udp travel in plain text, here and in"
                    f" Corosync. Write '{name}: {plain}', and keep the network to yourself",
                )

    def _read_totem(self, totem: _Section) -> dict[str, Any]:
        self._take(totem, "version", one_of("2"), "2")
        # 0 asks for the default, as in Corosync.
        numbers = {name: value for name, value in self._read(totem, _TOTEM_NUMBERS).items() if value}
        numbers |= self._read(totem, _TOTEM_OURS)
        texts = self._read(totem, _TOTEM_TEXTS)
        if texts.get("transport", "knet") == "knet":
            self._refuse(
                self._lines.get(("transport", None), totem.line),
                "totem.transport is knet (which is also what a missing line means): not supported yet,"
                " write 'transport: udpu' at all nodes, or udp for multicast",
            )
        return numbers | texts

    def _read_interface(self, totem: _Section) -> dict[str, Any]:
        for further in list(totem.named("totem.interface"))[1:]:
            self._refuse(further.line, "only one interface: several links need knet, which is not supported")
        interface = self._only(totem, "totem.interface")
        if self._take(interface, "linknumber", number, 0):
            self._refuse(self._lines["linknumber", None], "only link 0: several links need knet")
        if self._take(interface, "broadcast", switch, False):
            self._refuse(self._lines["broadcast", None], "broadcast is not supported: write a mcastaddr")
        if bindnetaddr := interface.values.pop("bindnetaddr", None):
            self._warn(bindnetaddr.line, "bindnetaddr has no effect: a node binds to its ring0_addr")
        port = self._take(interface, "mcastport", number, DEFAULT_PORT)
        return {"port": port, **self._read(interface, _INTERFACE)}

    def _read_token(self, totem: _Section, node_count: int) -> dict[str, Any]:
        given = "token" in totem.values or "token_coefficient" in totem.values
        token = self._take(totem, "token", number, 0) or TOKEN_MS
        coefficient = self._take(totem, "token_coefficient", number, TOKEN_COEFFICIENT_MS)
        return {"token": effective_token_ms(token, coefficient, node_count) / 1000} if given else {}

    # The nodelist.

    def _read_nodes(self, nodelist: _Section, totem: _Section, settings: dict[str, Any]) -> tuple[NodeEntry, ...]:
        clear_high_bit = self._take(totem, "clear_node_high_bit", switch, False)
        default_version = "ipv4" if settings["transport"] == "udp" else "ipv6-4"
        ip_version = settings.get("ip_version", default_version)
        port = settings["port"]
        return tuple(
            self._read_node(node, ip_version, port, clear_high_bit) for node in nodelist.named("nodelist.node")
        )

    def _read_node(self, section: _Section, ip_version: str, port: int, clear_high_bit: bool) -> NodeEntry:
        lines = {name: value.line for name, value in section.values.items()}
        if "ring0_addr" not in lines:
            self._refuse(section.line, "a node needs a ring0_addr")
        if "ring1_addr" in lines:
            self._refuse(lines["ring1_addr"], "only ring0_addr: several links need knet, which is not supported")
        address = self._resolve(section, ip_version)
        node_id = self._take(section, "nodeid", number, 0)
        if "nodeid" not in lines:
            node_id = self._node_id_of(address, clear_high_bit, section.line)
        node = NodeEntry(
            node_id=node_id,
            name=self._take(section, "name", _text, f"node{node_id}"),
            address=address,
            port=self._take(section, "ring0_port", number, port),
            votes=self._take(section, "quorum_votes", number, 1),
        )
        for name in ("nodeid", "name", "ring0_addr", "ring0_port", "quorum_votes"):
            self._lines[name, node] = lines.get(name, section.line)
        return node

    def _resolve(self, section: _Section, ip_version: str) -> str:
        host, line = section.values.pop("ring0_addr")
        try:
            return resolve(host, ip_version)
        except OSError as error:
            self._refuse(line, f"ring0_addr: '{host}' is neither an address nor a host name: {error.strerror}")

    def _node_id_of(self, address: str, clear_high_bit: bool, line: int) -> int:
        """Make the id of a node that has none: its IPv4 address as a number."""
        ip = ipaddress.ip_address(address)
        if ip.version == 6:
            self._refuse(line, f"a node with an IPv6 address ({address}) needs a nodeid")
        return int(ip) & 0x7FFFFFFF if clear_high_bit else int(ip)

    # Who may connect to the daemon.

    def _read_user_rules(self, root: _Section) -> Iterator[UserRule]:
        for section in root.named("uidgid"):
            yield UserRule(
                uid=self._take(section, "uid", _user, None),
                gid=self._take(section, "gid", _group, None),
            )

    def _read_reserved(self, daemon: _Section) -> Iterator[Reservation]:
        for section in daemon.named("cpgd.reserved"):
            if "group" not in section.values:
                self._refuse(section.line, "a reserved group needs its name: a line group: NAME")
            yield Reservation(
                group=self._value(section, "group", _group_name),
                uid=self._take(section, "uid", _user, None),
                gid=self._take(section, "gid", _group, None),
            )

    def read_user_rules(self, root: _Section) -> Iterator[UserRule]:
        """Read a file of the folder uidgid.d, which has nothing else."""
        yield from self._read_user_rules(root)
        self._warn_of_leftovers(root)

    # What is wrong, and what is only strange.

    def _warn_of_leftovers(self, section: _Section) -> None:
        if section.name in _IDLE_SECTIONS:
            return
        for name, value in section.values.items():
            if not (name.startswith("knet_") or name in _IDLE_KEYS.get(section.name, ())):
                place = f"{section.name}.{name}" if section.name else f"{name} outside all sections"
                self._warn(value.line, f"{place} is not known here and has no effect")
        for inner in section.sections:
            if inner.name not in _KNOWN_SECTIONS:
                self._warn(inner.line, f"section {inner.name} is not known here and has no effect")
            else:
                self._warn_of_leftovers(inner)

    def _warn(self, line: int, text: str) -> None:
        self.warnings.append(f"{self.path}:{line}: {text}")

    def _refuse(self, line: int, text: str) -> NoReturn:
        _wrong(self.path, line, text)
