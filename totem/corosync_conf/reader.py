"""The reader of corosync.conf: it turns the tree of sections into settings, and refuses what cannot be right."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn, TypeVar

from totem.config import (
    DEFAULT_KEY_FILE,
    DEFAULT_PORT,
    MAX_KEY,
    MOST_LINKS,
    TOKEN_COEFFICIENT_MS,
    TOKEN_MS,
    Config,
    Daemon,
    Knet,
    LinkSettings,
    Logging,
    NodeEntry,
    Quorum,
    Reservation,
    Scheduling,
    UserRule,
    effective_token_ms,
)
from totem.corosync_conf.survey import Survey
from totem.corosync_conf.syntax import BYTE_ORDER_MARK, SectionTree, Value, parse_tree, refuse
from totem.corosync_conf.values import (
    Readers,
    any_text,
    group_id,
    group_name,
    log_switch,
    number,
    one_of,
    small_number,
    user_id,
)
from totem.corosync_conf.vocabulary import (
    DAEMON,
    INTERFACE,
    KNET,
    KNET_FIELDS,
    KNET_INTERFACE,
    KNET_TOTEM,
    LINK_FIELDS,
    LOGGING,
    QUORUM,
    RING_ADDR,
    SCHEDULING,
    SYSTEM,
    TOTEM_NUMBERS,
    TOTEM_OURS,
    TOTEM_TEXTS,
    Words,
)
from totem.errors import AddressUnavailable, ConfigError

_T = TypeVar("_T")

Resolve = Callable[[str, str], str]
"""Returns the address of a host name, for an `ip_version`: `totem.addresses.resolve`."""
ReadKey = Callable[[str], bytes]
"""Returns the key in a file, perhaps with more than a key may have: `totem.key_file.read_key`."""
LONGEST_LINE = 510
"""Bytes that Corosync reads of a line."""


class Section(NamedTuple):
    """What a file says to a program that has a section of its own in it, and need not be a node."""

    values: dict[str, Any]
    """The values of its section."""
    logging: Logging
    scheduling: Scheduling
    user_rules: tuple[UserRule, ...]
    votes: dict[int, int]
    """By node id, of the nodes whose ids are given."""
    is_ring: bool
    """Whether the file has a section totem, which is a ring's settings."""
    warnings: tuple[str, ...]


class ConfReader:
    """Reads one file; keeps the lines of what it read, and the warnings."""

    def __init__(self, path: str, resolve: Resolve, read_key: ReadKey) -> None:
        self.survey = Survey(path)
        self._resolve_name = resolve
        self._read_key_file = read_key
        self._lines: dict[tuple[str, object], int] = {}
        """Where a setting was given, by its name and its node or link, if it is one's."""

    def read(self, text: str) -> Config:
        """Read a whole file."""
        root = self._parse(text)
        self.survey.check(root)
        try:
            return self._config(root)
        except ConfigError as error:
            self.survey.blame(error)

    def _config(self, root: SectionTree) -> Config:
        self._demand(root)
        totem, nodelist = self._only(root, "totem"), self._only(root, "nodelist")
        settings = self._read_totem(totem)
        if settings["transport"] == KNET:
            settings |= self._read_knet(totem, nodelist)
        else:
            self._refuse_secrets(totem)
            self._take(totem, "link_mode", KNET_TOTEM["link_mode"], "")  # without effect, but Corosync checks it
            settings |= self._read_interface(totem, settings["transport"])
        settings["nodes"] = self._read_nodes(nodelist, totem, settings)
        settings |= self._read_token(totem, len(settings["nodes"]))
        settings["quorum"] = Quorum(**self._read(self._only(root, "quorum"), QUORUM))
        settings["logging"] = self._read_logging(root)
        daemon = self._only(root, "cpgd")
        reserved = tuple(self._read_reserved(daemon))
        settings["daemon"] = Daemon(**self._read(daemon, DAEMON), reserved=reserved)
        settings["user_rules"] = tuple(self._user_rules(root))
        system = self._only(root, "system")
        settings |= self._read(system, SYSTEM)
        self._read(system, SCHEDULING)  # for the daemons: `Section.scheduling`
        try:
            return Config(**settings)
        except ConfigError as error:
            line = self._lines.get((error.setting, error.owner), totem.line)
            self._refuse(line, str(error))

    def _demand(self, root: SectionTree) -> None:
        """Refuse a file that has no ring's settings."""
        if not any(root.named("totem")):
            what = "has" if root.sections or root.values else "is empty, it has"
            self._refuse(
                1, f"this file {what} no section totem: a ring needs 'totem {{', with its transport, and a nodelist"
            )
        nodelists = list(root.named("nodelist"))
        if not nodelists:
            self._refuse(1, "this file has no section nodelist, with the nodes of the ring")
        for further in nodelists[1:]:
            self._refuse(
                further.line, "a second nodelist, which Corosync merges with the first, node by node: write only one"
            )

    def _parse(self, text: str) -> SectionTree:
        if text.startswith(BYTE_ORDER_MARK):
            self.survey.warn(1, "the file begins with a byte order mark, which Corosync does not ignore")
        for place, line in enumerate(text.split("\n"), start=1):
            if len(line.encode()) > LONGEST_LINE:
                self.survey.warn(place, f"Corosync refuses this line, which has more than {LONGEST_LINE} bytes")
        return parse_tree(text.removeprefix(BYTE_ORDER_MARK), self.survey.path)

    def read_section(self, text: str, name: str, readers: Readers) -> Section:
        """Read what concerns one program."""
        root = self._parse(text)
        self.survey.check_sections(root)
        try:
            return self._section(root, name, readers)
        except ConfigError as error:
            self.survey.blame(error)

    def _section(self, root: SectionTree, name: str, readers: Readers) -> Section:
        own = self._only(root, name)
        self.survey.check_keys(own, Words(frozenset(readers)))
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
        scheduling = Scheduling(**self._read(self._only(root, "system"), SCHEDULING))
        return Section(values, logging, scheduling, rules, votes, is_ring, tuple(self.survey.warnings))

    # Sections.

    def _only(self, outer: SectionTree, name: str) -> SectionTree:
        """Replace the sections of this name by one that has all their lines, perhaps none, and return it."""
        found = list(outer.named(name))
        merged = SectionTree(name, found[0].line if found else outer.line)
        for section in found:
            outer.sections.remove(section)
            merged.former += section.former + [
                (key, value) for key, value in merged.values.items() if key in section.values
            ]
            merged.values |= section.values
            merged.sections += section.sections
        outer.sections.append(merged)
        return merged

    def _read(self, section: SectionTree, readers: Readers) -> dict[str, Any]:
        """Return the known values of a section."""
        return {name: self._value(section, name, reader) for name, reader in readers.items() if name in section.values}

    def _take(self, section: SectionTree, name: str, reader: Callable[[str], _T], default: _T) -> _T:
        return self._value(section, name, reader) if name in section.values else default

    def _value(self, section: SectionTree, name: str, reader: Callable[[str], _T]) -> _T:
        text, line = section.values.pop(name)
        self._lines[name, None] = line
        try:
            return reader(text)
        except ValueError as right:
            self._refuse(line, f"{section.name}.{name}: '{text}' is wrong, it must be {right}")

    def _choice(self, section: SectionTree, name: str, default: bool) -> bool:
        """Return yes or no as Corosync reads it: anything else is the default."""
        text, line = section.values.pop(name, Value("", 0))
        self._lines[name, None] = line
        if line and text not in ("yes", "no"):
            word = "yes" if default else "no"
            self.survey.slip(
                line, f"{section.name}.{name}: '{text}' is read as {word}, as in Corosync: write yes or no"
            )
        return text == "yes" if text in ("yes", "no") else default

    def _read_logging(self, root: SectionTree) -> Logging:
        section = self._only(root, "logging")
        to_file = self._take(section, "to_file", log_switch, False)  # the former name
        return Logging(**{"to_logfile": to_file, **self._read(section, LOGGING)})

    # The totem section.

    def _refuse_secrets(self, totem: SectionTree) -> None:
        names = ("crypto_cipher", "crypto_hash")
        ciphers: dict[str, Value] = {name: totem.values.pop(name) for name in names if name in totem.values}
        secrets = [(name, value, "none") for name, value in ciphers.items() if value.text != "none"]
        if self._is_secauth_on(totem) and len(ciphers) < 2:
            secrets.append(("secauth", Value("on", self._lines["secauth", None]), "off"))
        for name, value, plain in secrets:
            self._refuse(
                value.line,
                f"totem.{name}: '{value.text}' is not supported: udpu and udp travel in plain text, here and in"
                f" Corosync. Write '{name}: {plain}', and use a private network",
            )

    def _is_secauth_on(self, totem: SectionTree) -> bool:
        """Return whether secauth is on. Corosync reads anything else as off."""
        text, line = totem.values.pop("secauth", Value("off", 0))
        self._lines["secauth", None] = line
        if text not in ("on", "off"):
            self.survey.slip(line, f"totem.secauth: '{text}' is read as off, as in Corosync")
        return text == "on"

    def _read_totem(self, totem: SectionTree) -> dict[str, Any]:
        self._take(totem, "version", one_of("2"), "2")
        # 0 asks for the default, as in Corosync.
        numbers = {name: value for name, value in self._read(totem, TOTEM_NUMBERS).items() if value}
        numbers |= self._read(totem, TOTEM_OURS)
        texts = self._read(totem, TOTEM_TEXTS)
        return {
            **numbers,
            "transport": KNET,
            **texts,
            "block_unlisted_ips": self._choice(totem, "block_unlisted_ips", default=True),
        }

    def _read_knet(self, totem: SectionTree, nodelist: SectionTree) -> dict[str, Any]:
        """Read what transport knet has of its own, and the port of its first link."""
        values = self._read(totem, KNET_TOTEM)
        self._complete_crypto(totem, values)
        key, source = self._read_key(values) if values.get("crypto_hash", "none") != "none" else (b"", "")
        if values.get("knet_compression_model") == "none":
            line = self._lines["knet_compression_model", None]
            self.survey.warn(line, "totem.knet_compression_model: Corosync refuses 'none', its default: leave it out")
        sections = self._link_sections(totem, nodelist)
        links = tuple(self._read_link(link, section) for link, section in sections.items())
        # 0 asks for the default, as in Corosync.
        given = {field: values[word] for word, field in KNET_FIELDS.items() if values.get(word)}
        return {
            "knet": Knet(links=links, key=key, key_source=source, **given),
            "port": links[0].port or DEFAULT_PORT + links[0].number,
            "ttl": max(self._take(section, "ttl", small_number, 1) for section in sections.values()),
        }

    def _complete_crypto(self, totem: SectionTree, values: dict[str, Any]) -> None:
        """Add what secauth means, and where to look for what is missing."""
        line = totem.line
        if self._is_secauth_on(totem):
            line = self._lines["secauth", None]
            for name, value in (("crypto_cipher", "aes256"), ("crypto_hash", "sha256")):
                values.setdefault(name, value)
        line = self._lines.get(("crypto_cipher", None), line)
        self._lines.setdefault(("crypto_hash", None), line)

    def _read_key(self, values: dict[str, Any]) -> tuple[bytes, str]:
        """Return the key, and where it comes from."""
        name = next((name for name in ("keyfile", "key") if name in values), "crypto_hash")
        self._lines["key", None] = line = self._lines[name, None]
        if name == "key":
            if "\ufffd" in values["key"]:
                self._refuse(line, "totem.key: it must be text in UTF-8; other bytes belong in a keyfile")
            return values["key"].encode() + b"\0", "totem.key"  # Corosync's key has the byte that ends a string in C
        path = values.get("keyfile", DEFAULT_KEY_FILE)
        try:
            key = self._read_key_file(path)
        except ConfigError as error:
            self._refuse(line, str(error))
        if len(key) > MAX_KEY:
            self.survey.warn(line, f"only the first {MAX_KEY} bytes of {path} are the key, as in Corosync")
        return key[:MAX_KEY], path

    def _link_sections(self, totem: SectionTree, nodelist: SectionTree) -> dict[int, SectionTree]:
        """Return the sections of all links, by number, ascending: those that nodes have addresses on."""
        nodes = nodelist.named("nodelist.node")
        links = {int(found[1]) for node in nodes for name in node.values if (found := RING_ADDR.fullmatch(name))}
        sections = {link: SectionTree("totem.interface", totem.line) for link in sorted(links or {0})}
        for section in list(totem.named("totem.interface")):
            link = self._take(section, "linknumber", small_number, 0)
            if link not in sections:
                self._refuse(section.line, f"interface of link {link}: no node has a ring{link}_addr")
            sections[link].values |= section.values  # several sections of a link are merged, as in Corosync
        return sections

    def _read_link(self, link: int, section: SectionTree) -> LinkSettings:
        if self._choice(section, "broadcast", default=False):
            line = self._lines["broadcast", None]
            self._refuse(line, "totem.interface.broadcast: leave it out, with knet it only changes Corosync's ports")
        if "mcastaddr" in section.values:
            line = section.values["mcastaddr"].line
            self.survey.warn(line, "totem.interface.mcastaddr has no effect with transport knet")
        values = self._read(section, {**KNET_INTERFACE, "mcastport": number})
        self._lines |= {(name, link): self._lines[name, None] for name in values}
        given = {field: values[word] for word, field in LINK_FIELDS.items() if word in values}
        return LinkSettings(link, **given)

    def _read_interface(self, totem: SectionTree, transport: str) -> dict[str, Any]:
        for section in totem.named("totem.interface"):
            if self._take(section, "linknumber", small_number, 0):
                self._refuse(self._lines["linknumber", None], "only link 0 is supported: several links need knet")
        interface = self._only(totem, "totem.interface")
        if self._choice(interface, "broadcast", default=False):
            line = self._lines["broadcast", None]
            if transport == "udp":
                self._refuse(line, "broadcast is not supported: write a mcastaddr")
            self.survey.warn(line, f"totem.interface.broadcast has no effect with transport {transport}")
        if self._take(interface, "knet_link_priority", small_number, 1) > 1:
            line = self._lines["knet_link_priority", None]
            self._refuse(line, f"totem.interface.knet_link_priority: leave it out with transport {transport}")
        port = self._take(interface, "mcastport", number, DEFAULT_PORT)
        return {"port": port, **self._read(interface, INTERFACE)}

    def _read_token(self, totem: SectionTree, node_count: int) -> dict[str, Any]:
        given = "token" in totem.values or "token_coefficient" in totem.values
        token = self._take(totem, "token", number, 0) or TOKEN_MS
        coefficient = self._take(totem, "token_coefficient", number, TOKEN_COEFFICIENT_MS)
        return {"token": effective_token_ms(token, coefficient, node_count) / 1000} if given else {}

    # The nodelist.

    def _read_nodes(self, nodelist: SectionTree, totem: SectionTree, settings: dict[str, Any]) -> tuple[NodeEntry, ...]:
        clear_high_bit = self._choice(totem, "clear_node_high_bit", default=False)
        default_version = "ipv4" if settings["transport"] == "udp" else "ipv6-4"
        ip_version = settings.get("ip_version", default_version)
        knet = settings.get("knet")
        return tuple(
            self._read_node(node, ip_version, settings["port"], clear_high_bit, knet)
            for node in nodelist.named("nodelist.node")
        )

    def _read_node(
        self, section: SectionTree, ip_version: str, port: int, clear_high_bit: bool, knet: Knet | None
    ) -> NodeEntry:
        lines = {name: value.line for name, value in section.values.items()}
        addresses = self._read_addresses(section, ip_version, knet)
        address = next(iter(addresses.values()))
        node_id = self._take(section, "nodeid", number, 0)
        if not node_id and knet:
            self._refuse(lines.get("nodeid", section.line), "with knet each node needs a nodeid, 1 to 65535")
        if len(addresses) > 1 and "name" not in lines:
            self._refuse(section.line, "with several links each node needs a name")
        if not node_id:
            node_id = self._node_id_of(address, clear_high_bit, section.line)
        node = NodeEntry(
            node_id=node_id,
            name=self._take(section, "name", any_text, "") or f"node{node_id}",
            address=address,
            port=self._take(section, "ring0_port", number, port),
            votes=self._take(section, "quorum_votes", number, 1),
            further=tuple((link, address) for link, address in addresses.items() if link),
        )
        words = ("nodeid", "name", "ring0_port", "quorum_votes", *(f"ring{link}_addr" for link in addresses))
        for name in words:
            self._lines[name, node] = lines.get(name, section.line)
        return node

    def _read_addresses(self, section: SectionTree, ip_version: str, knet: Knet | None) -> dict[int, str]:
        """Return the addresses of a node, by the number of the link, ascending."""
        links = [link.number for link in knet.links] if knet else [0]
        for name, value in section.values.items():
            found = RING_ADDR.fullmatch(name)
            if found and int(found[1]) >= MOST_LINKS:
                self._refuse(value.line, f"{name}: the number of a link is 0 to {MOST_LINKS - 1}")
            if found and int(found[1]) not in links:
                self._refuse(value.line, "only ring0_addr is supported: several links need knet")
        addresses: dict[int, str] = {}
        for link in links:
            name = f"ring{link}_addr"
            if name not in section.values:
                why = ", because other nodes have one" if links != [0] else ""
                self._refuse(section.line, f"a node needs a {name}{why}")
            line = section.values[name].line
            address = self._resolve(section, ip_version, name)
            for other in (other for other, taken in addresses.items() if taken == address):
                text = f"{section.name}.{name}: {address} is the address on link {other}, too: links need their own"
                self.survey.warn(line, text)
            addresses[link] = address
        return addresses

    def _resolve(self, section: SectionTree, ip_version: str, name: str) -> str:
        host, line = section.values.pop(name)
        try:
            return self._resolve_name(host, ip_version)
        except OSError as error:
            text = f"{name}: '{host}' is neither an address nor a host name: {error.strerror}"
            if error.errno == errno.EINVAL:
                self._refuse(line, text)
            raise AddressUnavailable(f"{self.survey.path}:{line}: {text}") from None

    def _node_id_of(self, address: str, clear_high_bit: bool, line: int) -> int:
        """Return the id of a node that has none: its IPv4 address as a number."""
        ip = ipaddress.ip_address(address)
        if ip.version == 6:
            self._refuse(line, f"a node with an IPv6 address ({address}) needs a nodeid")
        return int(ip) & 0x7FFFFFFF if clear_high_bit else int(ip)

    # Who may connect to the daemon.

    def _user_rules(self, root: SectionTree) -> Iterator[UserRule]:
        """Yield a rule for each line, which admits a user or the members of a group."""
        for section in root.named("uidgid"):
            for key in section.values:
                if key not in ("uid", "gid"):
                    self._refuse(section.values[key].line, f"uidgid.{key}: only uid and gid are allowed here")
            former = SectionTree(section.name, section.line)
            for key, value in section.former:
                former.values = {key: value}
                yield self._user_rule(former)
            yield self._user_rule(section)

    def _user_rule(self, section: SectionTree) -> UserRule:
        return UserRule(uid=self._take(section, "uid", user_id, None), gid=self._take(section, "gid", group_id, None))

    def _read_reserved(self, daemon: SectionTree) -> Iterator[Reservation]:
        for section in daemon.named("cpgd.reserved"):
            if "group" not in section.values:
                self._refuse(section.line, "a reserved group needs its name: a line group: NAME")
            yield Reservation(
                group=self._value(section, "group", group_name),
                uid=self._take(section, "uid", user_id, None),
                gid=self._take(section, "gid", group_id, None),
            )

    def read_user_rules(self, text: str) -> list[UserRule]:
        """Read a file of the folder uidgid.d, which has only rules."""
        root = self._parse(text)
        for section in root.sections:
            if section.name != "uidgid":
                self._refuse(section.line, f"section {section.name}: only uidgid is allowed in a file of this folder")
        for key, value in root.values.items():
            self._refuse(value.line, f"{key} is outside of a section uidgid")
        return list(self._user_rules(root))

    def _refuse(self, line: int, text: str) -> NoReturn:
        refuse(self.survey.path, line, text)
