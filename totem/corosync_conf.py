"""Reader for Corosync's configuration files, corosync.conf(5).

A file is read in two steps: `_parse` makes a tree of sections as Corosync's own parser (exec/coroparse.c) would, and
`_Reader` turns the tree into a `Config`. A value that cannot be right is refused with file and line; a word that
nobody knows, or that has no effect here, is told as a warning beside the result, since a file may serve real
Corosync nodes and ours alike, and Corosync takes any word. A word that is nearly a known one, and a comment behind a
value, look like slips of the pen. They stand in front of an error, since they may be its cause.

Some keys are ours, among them `ring0_port` in a node section, so that several nodes can live at one address.
"""

from __future__ import annotations

import difflib
import errno
import grp
import ipaddress
import pwd
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn, TypeVar

from totem.addresses import is_local, resolve
from totem.config import (
    DEFAULT_PORT,
    IP_VERSIONS,
    TOKEN_COEFFICIENT_MS,
    TOKEN_MS,
    TRANSPORTS,
    Config,
    Daemon,
    Logging,
    NodeEntry,
    Quorum,
    Reservation,
    Scheduling,
    UserRule,
    effective_token_ms,
)
from totem.errors import AddressUnavailable, ConfigError

_T = TypeVar("_T")


class Loaded(NamedTuple):
    """What a file says: the settings, and what in it is strange but not wrong."""

    config: Config
    warnings: tuple[str, ...]


Resolve = Callable[[str, str], str]
"""Gives the address of a host name, for an `ip_version`: `totem.addresses.resolve`."""


def load(path: str | PathLike[str], *, resolve: Resolve = resolve) -> Loaded:
    """Read a corosync.conf file, and the files in the folder uidgid.d beside it. Takes as long as names do.

    Raises `ConfigError`, which names file and line, and of which `AddressUnavailable` is the kind for a name that does
    not resolve; `OSError` for a file that cannot be read.
    """
    config, warnings = parse(_read_text(Path(path)), str(path), resolve=resolve)
    rules, further = _rules_beside(Path(path))
    return Loaded(replace(config, user_rules=(*config.user_rules, *rules)), (*warnings, *further))


class Section(NamedTuple):
    """What a file says to a program that has a section of its own in it, and is perhaps no node."""

    values: dict[str, Any]
    """Of its section: what is said there."""
    logging: Logging
    scheduling: Scheduling
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
    text = _read_text(Path(path))
    reader = _Reader(str(path))
    section = reader.read_section(text, name, dict(readers))
    rules, warnings = _rules_beside(Path(path))
    return section._replace(user_rules=(*section.user_rules, *rules), warnings=(*section.warnings, *warnings))


def _rules_beside(path: Path) -> tuple[tuple[UserRule, ...], tuple[str, ...]]:
    """Read who may connect from the files in the folder uidgid.d; the warnings are second."""
    rules: list[UserRule] = []
    warnings: list[str] = []
    for file in sorted(path.parent.glob("uidgid.d/*")):
        if file.is_file():
            reader = _Reader(str(file))
            rules += reader.read_user_rules(_read_text(file))
            warnings += reader.warnings
    return tuple(rules), tuple(warnings)


def _read_text(path: Path) -> str:
    """Read a file as Corosync would, which looks at bytes; what has zeros in it is no text."""
    data = path.read_bytes()
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        _wrong(str(path), line, "this is no text: it has a zero byte here (UTF-8 is meant, not UTF-16)")
    return _LONE_BLANK.sub(b" ", data).decode(errors="replace")


def parse(text: str, path: str, *, resolve: Resolve = resolve) -> Loaded:
    """Read the text of a corosync.conf file; `path` is what errors and warnings call it."""
    reader = _Reader(path, resolve)
    return Loaded(reader.read(text), tuple(reader.warnings))


def own_node(config: Config, node: int | str | None = None) -> int:
    """Tell which node this program is: the one asked for by id or name, else the one with an address of this machine.

    `ConfigError` names the nodes there are, or the candidates where several addresses are this machine's.
    """
    if node is None:
        return _node_of_this_machine(config)
    for entry in config.nodes:
        if node in (entry.node_id, entry.name) or str(node) == str(entry.node_id):
            return entry.node_id
    raise ConfigError(f"node {node} is not in the nodelist, which has {_names(config.nodes)}", setting="node")


def _node_of_this_machine(config: Config) -> int:
    candidates = [entry for entry in config.nodes if is_local(entry.address)]
    if not candidates:
        text = f"no node of the nodelist has an address of this machine: {_names(config.nodes)}"
        raise AddressUnavailable(text, setting="node")
    if len(candidates) > 1:
        text = f"several nodes have an address of this machine, say which: {_names(candidates)}"
        raise ConfigError(text, setting="node")
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
    former: list[tuple[str, _Value]] = field(default_factory=list)
    """The others of several, by key."""
    sections: list[_Section] = field(default_factory=list)

    @property
    def own_name(self) -> str:
        """Its name alone."""
        return self.name.rpartition(".")[2]

    def named(self, name: str) -> Iterator[_Section]:
        return (section for section in self.sections if section.name == name)


_BYTE_ORDER_MARK = "\ufeff"
_BLANKS = " \t\r\n\xa0"
_LONE_BLANK = re.compile(rb"(?<![\x80-\xff])\xa0")
"""Corosync takes the byte of Latin-1's no-break space for a blank, too."""


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
            if not value and not section.name and key in _WORDS[""].sections:
                _wrong(path, number, f"'{key}:' begins no section, '{key} {{' does")
            if key in section.values:
                section.former.append((key, section.values[key]))
            section.values[key] = _Value(value, number)
        elif line.startswith("}"):
            if line != "}":
                _wrong(path, number, f"nothing may stand behind }}: {line[:40]!r}")
            if len(stack) == 1:
                _wrong(path, number, "} closes nothing")
            stack.pop()
        else:
            _wrong(path, number, f"neither 'name {{' nor 'key: value' nor '}}': {line[:40]!r}")
    if len(stack) > 1:
        section = stack[-1]
        swallowed = (inner for inner in section.sections if inner.own_name in _WORDS[""].sections)
        where = next((f" before {inner.own_name} in line {inner.line}" for inner in swallowed), "")
        _wrong(path, section.line, f"section {section.name} begins here and is not closed by }}{where}")
    return stack[0]


def _wrong(path: str, line: int, text: str) -> NoReturn:
    raise ConfigError(f"{path}:{line}: {text}")


# --- The values -----------------------------------------------------------------------------------------------------


def number(text: str) -> int:
    """Read a number."""
    if not re.fullmatch(r"[+-]?0*[0-9]{1,10}", text, re.ASCII) or not 0 <= int(text) <= 2**32 - 1:
        raise ValueError("a number from 0 to 4294967295")
    return int(text)


def _seconds(text: str) -> float:
    return number(text) / 1000


def _small(text: str) -> int:
    if number(text) > 255:
        raise ValueError("a number from 0 to 255")
    return number(text)


def switch(text: str) -> bool:
    """Read yes or no."""
    if text not in ("yes", "no"):
        raise ValueError("yes or no")
    return text == "yes"


def _nice_value(text: str) -> int:
    if text in ("max", "min"):
        return -20 if text == "max" else 19
    try:
        value = int(text)
    except ValueError:
        value = 20
    if not -20 <= value < 20:
        raise ValueError("max, min, or a nice value from -20 to 19")
    return value


def _log_switch(text: str) -> bool:
    if text not in ("yes", "on", "no", "off"):
        raise ValueError("yes or no")
    return text in ("yes", "on")


def _digit_switch(text: str) -> bool:
    try:
        return _small(text) != 0
    except ValueError:
        raise ValueError("0 or 1") from None


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


def _transport(text: str) -> str:
    if text not in (*TRANSPORTS, _KNET):
        raise ValueError(" or ".join(TRANSPORTS))
    return text


_KNET = "knet"
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
    "cluster_name": _text,
    "transport": _transport,
    "ip_version": one_of(*IP_VERSIONS),
    "compact_headers": switch,
}
_INTERFACE: _Readers = {
    "mcastaddr": _text,
    "ttl": _small,
}
_QUORUM: _Readers = {
    "provider": one_of("corosync_votequorum"),
    "expected_votes": number,
    **dict.fromkeys(("two_node", "wait_for_all", "auto_tie_breaker", "last_man_standing"), _digit_switch),
    **dict.fromkeys(("allow_downscale", "expected_votes_tracking"), _digit_switch),
    "auto_tie_breaker_node": _text,
    "last_man_standing_window": _seconds,
}
_FACILITIES = (
    *("daemon", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"),
    *("auth", "authpriv", "cron", "ftp", "kern", "lpr", "mail", "news", "syslog", "user", "uucp"),
)
_LOGGING: _Readers = {
    **dict.fromkeys(("to_stderr", "to_syslog", "to_logfile"), _log_switch),
    "logfile": _text,
    "syslog_facility": one_of(*_FACILITIES),
    "timestamp": one_of("off", "on", "hires"),
    "format": one_of("text", "json"),
    "debug": one_of("off", "on", "trace"),
}
_SYSTEM: _Readers = {
    "state_dir": _text,
}
_SCHEDULING: _Readers = {
    "sched_rr": switch,
    "priority": _nice_value,
}
_DAEMON: _Readers = {
    "socket": _text,
    "libqb": switch,
    "client_queue": number,
}


class _Words(NamedTuple):
    """What is known in a section."""

    taken: frozenset[str]
    """Keys that have an effect here."""
    idle: frozenset[str] = frozenset()
    """Corosync's keys that have no bearing on what a ring does: read over in silence. Those of knet are, too."""
    undone: Mapping[str, str] = MappingProxyType({})
    """Corosync's keys, and sections, that have an effect there and none here, and why."""
    sections: frozenset[str] = frozenset()

    @property
    def keys(self) -> frozenset[str]:
        """All of them."""
        return self.taken | self.idle | self.undone.keys()


_WORDS = {
    "": _Words(
        frozenset(),
        sections=frozenset(("totem", "nodelist", "quorum", "logging", "system", "uidgid", "cpgd"))
        | {"resources", "nozzle", "service", "pload", "cluckd"},
    ),
    "totem": _Words(
        frozenset((*_TOTEM_NUMBERS, *_TOTEM_OURS, *_TOTEM_TEXTS, "version", "token", "token_coefficient"))
        | {"clear_node_high_bit", "block_unlisted_ips", "crypto_cipher", "crypto_hash", "secauth"},
        frozenset(("config_version", "crypto_model", "keyfile", "key", "threads", "token_warning", "link_mode"))
        | {"ip_dscp", "max_network_delay"},
        {
            "nodeid": "a node's id stands in the nodelist",
            "heartbeat_failures_allowed": "the token alone tells of failures",
            "cancel_token_hold_on_retransmit": "it is no",
        },
        frozenset(("interface",)),
    ),
    "totem.interface": _Words(
        frozenset((*_INTERFACE, "linknumber", "mcastport", "broadcast")),
        frozenset(("ringnumber",)),
        {"bindnetaddr": "a node binds to its ring0_addr"},
        frozenset(("member",)),
    ),
    "nodelist": _Words(frozenset(), sections=frozenset(("node",))),
    "nodelist.node": _Words(frozenset(("ring0_addr", "ring0_port", "nodeid", "name", "quorum_votes"))),
    "quorum": _Words(frozenset(_QUORUM), frozenset(("leaving_timeout", "votes")), {"device": "it gives no votes"}),
    "logging": _Words(
        frozenset((*_LOGGING, "to_file")),
        frozenset(("fileline", "function_name", "blackbox")),
        dict.fromkeys(("logfile_priority", "syslog_priority", "syslog_level"), "all from info on is written"),
        frozenset(("logger_subsys", "logging_daemon")),
    ),
    "system": _Words(
        frozenset(_SYSTEM) | frozenset(_SCHEDULING),
        frozenset(("qb_ipc_type", "move_to_root_cgroup", "allow_knet_handle_fallback")),
    ),
    "cpgd": _Words(frozenset(_DAEMON), sections=frozenset(("reserved",))),
    "cpgd.reserved": _Words(frozenset(("group", "uid", "gid"))),
}
"""The sections that are read, by their names. Others have any words."""


_OF_KNET = re.compile(r"knet_|ring[1-9][0-9]*_addr$")


def _near(word: str, known: Iterable[str]) -> str:
    """Give a hint at the known word that is nearly the same; empty if there is none."""
    return "".join(f" (did you mean {found}?)" for found in difflib.get_close_matches(word.lower(), known, 1, 0.75))


class _Reader:
    """Turns one tree into a Config; keeps the lines of what it read, and the warnings."""

    def __init__(self, path: str, resolve: Resolve = resolve) -> None:
        self.path = path
        self.warnings: list[str] = []
        self._resolve_name = resolve
        self._slips: list[tuple[int, str]] = []
        """Those of them that are slips of the pen, most likely, by line: an error may come of them."""
        self._lines: dict[tuple[str, object], int] = {}
        """Where a setting was given, by its name and, in the nodelist, its node."""

    def read(self, text: str) -> Config:
        """Read a whole file."""
        root = self._parse(text)
        self._survey(root)
        try:
            return self._config(root)
        except ConfigError as error:
            self._blame(error)

    def _config(self, root: _Section) -> Config:
        self._demand(root)
        totem = self._only(root, "totem")
        self._refuse_secrets(totem)
        settings = self._read_totem(totem)
        settings |= self._read_interface(totem, settings["transport"])
        settings["nodes"] = self._read_nodes(self._only(root, "nodelist"), totem, settings)
        settings |= self._read_token(totem, len(settings["nodes"]))
        settings["quorum"] = Quorum(**self._read(self._only(root, "quorum"), _QUORUM))
        settings["logging"] = self._read_logging(root)
        daemon = self._only(root, "cpgd")
        reserved = tuple(self._read_reserved(daemon))
        settings["daemon"] = Daemon(**self._read(daemon, _DAEMON), reserved=reserved)
        settings["user_rules"] = tuple(self._user_rules(root))
        system = self._only(root, "system")
        settings |= self._read(system, _SYSTEM)
        self._read(system, _SCHEDULING)  # which is for the daemons: `Section.scheduling`
        try:
            return Config(**settings)
        except ConfigError as error:
            line = self._lines.get((error.setting, error.node), totem.line)
            self._refuse(line, str(error))

    def _demand(self, root: _Section) -> None:
        """Refuse a file that is none of a ring."""
        if not any(root.named("totem")):
            what = "has" if root.sections or root.values else "is empty, it has"
            self._refuse(
                1, f"this file {what} no section totem: a ring needs 'totem {{', with its transport, and a nodelist"
            )
        nodelists = list(root.named("nodelist"))
        if not nodelists:
            self._refuse(1, "this file has no section nodelist, with the nodes of the ring")
        for further in nodelists[1:]:
            self._refuse(further.line, "a second nodelist, which Corosync lays over the first, node by node: have one")

    def _blame(self, error: ConfigError) -> NoReturn:
        """Raise an error, behind the slips of the pen that it may come of."""
        if not self._slips:
            raise error
        first = [text for _, text in sorted(self._slips)[:2]]
        raise type(error)("; ".join([*first, str(error)]), setting=error.setting, node=error.node) from None

    def read_section(self, text: str, name: str, readers: _Readers) -> Section:
        """Read what concerns one program."""
        root = self._parse(text)
        self._survey_sections(root)
        try:
            return self._section(root, name, readers)
        except ConfigError as error:
            self._blame(error)

    def _section(self, root: _Section, name: str, readers: _Readers) -> Section:
        own = self._only(root, name)
        self._survey_keys(own, _Words(frozenset(readers)))
        values = self._read(own, readers)
        logging = self._read_logging(root)
        rules = tuple(self._user_rules(root))
        is_ring = any(root.named("totem"))
        nodes = [node for nodelist in root.named("nodelist") for node in nodelist.named("nodelist.node")]
        votes = {
            self._value(node, "nodeid", number): self._take(node, "quorum_votes", number, 1)
            for node in nodes
            if "nodeid" in node.values
        }
        scheduling = Scheduling(**self._read(self._only(root, "system"), _SCHEDULING))
        return Section(values, logging, scheduling, rules, votes, is_ring, tuple(self.warnings))

    # Words.

    def _parse(self, text: str) -> _Section:
        if text.startswith(_BYTE_ORDER_MARK):
            self._warn(1, "the file begins with a byte order mark, which Corosync does not read over")
        return _parse(text.removeprefix(_BYTE_ORDER_MARK), self.path)

    def _survey(self, section: _Section) -> None:
        """Warn of all that has no effect, and of what is meant otherwise than written, most likely."""
        words = _WORDS.get(section.name)
        if words is not None:
            self._survey_keys(section, words)
            self._survey_sections(section)
            for inner in section.sections:
                self._survey(inner)

    def _survey_keys(self, section: _Section, words: _Words) -> None:
        for key, value in section.values.items():
            place = f"{section.name}.{key}" if section.name else f"{key} outside all sections"
            if key in words.taken:
                self._survey_value(place, value)
            elif key in words.undone:
                self._warn(value.line, f"{place} has no effect here: {words.undone[key]}")
            elif not _OF_KNET.match(key) and key not in words.idle:
                self._survey_unknown(place, key, value.line, words)
        for key, value in section.former:
            last = section.values[key].line
            self._warn(value.line, f"{section.name}.{key} has no effect, since line {last} has it again")

    def _survey_unknown(self, place: str, key: str, line: int, words: _Words) -> None:
        hint = _near(key, words.keys)
        at_home = next((name for name, others in _WORDS.items() if key in others.taken), "")
        if not hint and at_home:
            hint = f" (it belongs into section {at_home})"
        text = f"{place} is not known here and has no effect{hint}"
        if hint:
            self._slip(line, text)
        else:
            self._warn(line, text)

    def _survey_value(self, place: str, value: _Value) -> None:
        text = value.text
        if comment := re.search(r"\s(#.*)", text):
            self._slip(
                value.line, f"{place} has '{comment[1]}' in its value, as at Corosync: comments have lines of their own"
            )
        elif len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
            self._slip(value.line, f"{place} has quotes in its value, as at Corosync: leave them out")

    def _survey_sections(self, section: _Section) -> None:
        words = _WORDS[section.name]
        for inner in section.sections:
            if inner.own_name in words.undone:
                self._warn(inner.line, f"section {inner.name} has no effect here: {words.undone[inner.own_name]}")
            elif inner.own_name in words.sections:
                continue
            elif inner.own_name in _WORDS[""].sections:
                text = (
                    f"section {inner.own_name} stands inside {section.name} and has no effect: a }} is missing before"
                )
                self._slip(inner.line, text)
            else:
                text = f"section {inner.name} is not known here and has no effect"
                hint = _near(inner.own_name, words.sections)
                if hint:
                    self._slip(inner.line, text + hint)
                else:
                    self._warn(inner.line, text)

    # Sections.

    def _only(self, outer: _Section, name: str) -> _Section:
        """Take the sections of this name out of the tree, as one; empty if there is none."""
        found = list(outer.named(name))
        merged = _Section(name, found[0].line if found else outer.line)
        for section in found:
            outer.sections.remove(section)
            merged.former += section.former + [
                (key, value) for key, value in merged.values.items() if key in section.values
            ]
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

    def _choice(self, section: _Section, name: str, default: bool) -> bool:
        """Take yes or no as Corosync does, for which anything else is the default."""
        text, line = section.values.pop(name, _Value("", 0))
        self._lines[name, None] = line
        if line and text not in ("yes", "no"):
            word = "yes" if default else "no"
            self._slip(line, f"{section.name}.{name}: '{text}' is taken for {word}, as at Corosync: write yes or no")
        return text == "yes" if text in ("yes", "no") else default

    def _read_logging(self, root: _Section) -> Logging:
        section = self._only(root, "logging")
        to_file = self._take(section, "to_file", _log_switch, False)  # the former name
        return Logging(**{"to_logfile": to_file, **self._read(section, _LOGGING)})

    # The totem section.

    def _refuse_secrets(self, totem: _Section) -> None:
        names = ("crypto_cipher", "crypto_hash")
        ciphers: dict[str, _Value] = {name: totem.values.pop(name) for name in names if name in totem.values}
        secauth = totem.values.pop("secauth", _Value("off", 0))
        secrets = [(name, value, "none") for name, value in ciphers.items() if value.text != "none"]
        if secauth.text == "on" and len(ciphers) < 2:
            secrets.append(("secauth", secauth, "off"))
        elif secauth.text not in ("on", "off"):
            self._slip(secauth.line, f"totem.secauth: '{secauth.text}' is taken for off, as at Corosync")
        for name, value, plain in secrets:
            self._refuse(
                value.line,
                f"totem.{name}: '{value.text}' is not supported: udpu and udp travel in plain text, here and in"
                f" Corosync. Write '{name}: {plain}', and keep the network to yourself",
            )

    def _read_totem(self, totem: _Section) -> dict[str, Any]:
        self._take(totem, "version", one_of("2"), "2")
        # 0 asks for the default, as in Corosync.
        numbers = {name: value for name, value in self._read(totem, _TOTEM_NUMBERS).items() if value}
        numbers |= self._read(totem, _TOTEM_OURS)
        texts = self._read(totem, _TOTEM_TEXTS)
        if texts.get("transport", _KNET) == _KNET:
            self._refuse(
                self._lines.get(("transport", None), totem.line),
                "totem.transport is knet (which is also what a missing line means): not supported yet,"
                " write 'transport: udpu' at all nodes, or udp for multicast",
            )
        return {**numbers, **texts, "block_unlisted_ips": self._choice(totem, "block_unlisted_ips", default=True)}

    def _read_interface(self, totem: _Section, transport: str) -> dict[str, Any]:
        for section in totem.named("totem.interface"):
            if self._take(section, "linknumber", _small, 0):
                self._refuse(self._lines["linknumber", None], "only link 0: several links need knet")
        interface = self._only(totem, "totem.interface")
        if self._choice(interface, "broadcast", default=False):
            line = self._lines["broadcast", None]
            if transport == "udp":
                self._refuse(line, "broadcast is not supported: write a mcastaddr")
            self._warn(line, f"totem.interface.broadcast has no effect with transport {transport}")
        port = self._take(interface, "mcastport", number, DEFAULT_PORT)
        return {"port": port, **self._read(interface, _INTERFACE)}

    def _read_token(self, totem: _Section, node_count: int) -> dict[str, Any]:
        given = "token" in totem.values or "token_coefficient" in totem.values
        token = self._take(totem, "token", number, 0) or TOKEN_MS
        coefficient = self._take(totem, "token_coefficient", number, TOKEN_COEFFICIENT_MS)
        return {"token": effective_token_ms(token, coefficient, node_count) / 1000} if given else {}

    # The nodelist.

    def _read_nodes(self, nodelist: _Section, totem: _Section, settings: dict[str, Any]) -> tuple[NodeEntry, ...]:
        clear_high_bit = self._choice(totem, "clear_node_high_bit", default=False)
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
        for name, line in lines.items():
            if _OF_KNET.match(name):
                self._refuse(line, "only ring0_addr: several links need knet, which is not supported")
        address = self._resolve(section, ip_version)
        node_id = self._take(section, "nodeid", number, 0)
        if not node_id:
            node_id = self._node_id_of(address, clear_high_bit, section.line)
        node = NodeEntry(
            node_id=node_id,
            name=self._take(section, "name", _text, "") or f"node{node_id}",
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
            return self._resolve_name(host, ip_version)
        except OSError as error:
            text = f"ring0_addr: '{host}' is neither an address nor a host name: {error.strerror}"
            if error.errno == errno.EINVAL:
                self._refuse(line, text)
            raise AddressUnavailable(f"{self.path}:{line}: {text}") from None

    def _node_id_of(self, address: str, clear_high_bit: bool, line: int) -> int:
        """Make the id of a node that has none: its IPv4 address as a number."""
        ip = ipaddress.ip_address(address)
        if ip.version == 6:
            self._refuse(line, f"a node with an IPv6 address ({address}) needs a nodeid")
        return int(ip) & 0x7FFFFFFF if clear_high_bit else int(ip)

    # Who may connect to the daemon.

    def _user_rules(self, root: _Section) -> Iterator[UserRule]:
        """Each line lets somebody in, the members of the group or the user."""
        for section in root.named("uidgid"):
            for key in section.values:
                if key not in ("uid", "gid"):
                    self._refuse(section.values[key].line, f"uidgid.{key}: only uid and gid may stand here")
            former = _Section(section.name, section.line)
            for key, value in section.former:
                former.values = {key: value}
                yield self._user_rule(former)
            yield self._user_rule(section)

    def _user_rule(self, section: _Section) -> UserRule:
        return UserRule(uid=self._take(section, "uid", _user, None), gid=self._take(section, "gid", _group, None))

    def _read_reserved(self, daemon: _Section) -> Iterator[Reservation]:
        for section in daemon.named("cpgd.reserved"):
            if "group" not in section.values:
                self._refuse(section.line, "a reserved group needs its name: a line group: NAME")
            yield Reservation(
                group=self._value(section, "group", _group_name),
                uid=self._take(section, "uid", _user, None),
                gid=self._take(section, "gid", _group, None),
            )

    def read_user_rules(self, text: str) -> list[UserRule]:
        """Read a file of the folder uidgid.d, which has nothing else."""
        root = self._parse(text)
        for section in root.sections:
            if section.name != "uidgid":
                self._refuse(section.line, f"section {section.name}: only uidgid may stand in a file of this folder")
        for key, value in root.values.items():
            self._refuse(value.line, f"{key} stands outside of a section uidgid")
        return list(self._user_rules(root))

    # What is wrong, and what is only strange.

    def _slip(self, line: int, text: str) -> None:
        self._warn(line, text)
        self._slips.append((line, self.warnings[-1]))

    def _warn(self, line: int, text: str) -> None:
        self.warnings.append(f"{self.path}:{line}: {text}")

    def _refuse(self, line: int, text: str) -> NoReturn:
        _wrong(self.path, line, text)
