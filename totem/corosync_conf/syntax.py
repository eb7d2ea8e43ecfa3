"""The syntax of corosync.conf: sections, keys and values, as Corosync's own parser reads them (exec/coroparse.c)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

from totem.errors import ConfigError

FILE_SECTIONS = frozenset(("totem", "nodelist", "quorum", "logging", "system", "uidgid", "cpgd")) | {
    *("resources", "nozzle", "service", "pload", "cluckd"),
}
"""Names of the sections that a file may have outside all others."""
BYTE_ORDER_MARK = "\ufeff"
_BLANKS = " \t\r\n\xa0"
_LONE_BLANK = re.compile(rb"(?<![\x80-\xff])\xa0")
"""Corosync takes the byte of Latin-1's no-break space for a blank, too."""


class Value(NamedTuple):
    """The value of a key."""

    text: str
    line: int


@dataclass(slots=True)
class SectionTree:
    """A section, with all that is in it."""

    name: str
    """The name with those of the sections around it, such as `totem.interface`; empty for the file itself."""
    line: int
    values: dict[str, Value] = field(default_factory=dict)
    """The last of several values counts, as in Corosync."""
    former: list[tuple[str, Value]] = field(default_factory=list)
    """The other values of keys that have several."""
    sections: list[SectionTree] = field(default_factory=list)

    @property
    def own_name(self) -> str:
        """The name without those of the sections around it."""
        return self.name.rpartition(".")[2]

    def named(self, name: str) -> Iterator[SectionTree]:
        """Return the sections inside this one that have a name."""
        return (section for section in self.sections if section.name == name)


def decode(data: bytes, path: str) -> str:
    """Return the text of a file as Corosync reads it, which looks at bytes; a file with zero bytes is refused."""
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        refuse(path, line, "this is not text: it has a zero byte here (use UTF-8, not UTF-16)")
    return _LONE_BLANK.sub(b" ", data).decode(errors="replace")


def parse_tree(text: str, path: str) -> SectionTree:
    """Return the tree of sections.

    A line opens or closes a section, or is `key: value`; a line that begins with `#` is a comment.
    """
    stack = [SectionTree("", 0)]
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip(_BLANKS)
        if not line or line.startswith("#"):
            continue
        section = stack[-1]
        if "{" in line:
            name, _, rest = line.partition("{")
            name = name.rstrip(_BLANKS + ":")
            if not name or rest:
                refuse(path, number, "a section begins with its name and {, and nothing after it")
            inner = SectionTree(f"{section.name}.{name}".lstrip("."), number)
            section.sections.append(inner)
            stack.append(inner)
        elif ":" in line:
            key, _, value = (part.strip(_BLANKS) for part in line.partition(":"))
            if not key:
                refuse(path, number, "a key is missing before the colon")
            if not value and not section.name and key in FILE_SECTIONS:
                refuse(path, number, f"'{key}:' does not begin a section, '{key} {{' does")
            if key in section.values:
                section.former.append((key, section.values[key]))
            section.values[key] = Value(value, number)
        elif line.startswith("}"):
            if line != "}":
                refuse(path, number, f"nothing may follow }}: {line[:40]!r}")
            if len(stack) == 1:
                refuse(path, number, "} closes nothing")
            stack.pop()
        else:
            refuse(path, number, f"neither 'name {{' nor 'key: value' nor '}}': {line[:40]!r}")
    if len(stack) > 1:
        section = stack[-1]
        swallowed = (inner for inner in section.sections if inner.own_name in FILE_SECTIONS)
        where = next((f" before {inner.own_name} in line {inner.line}" for inner in swallowed), "")
        refuse(path, section.line, f"section {section.name} begins here and is not closed by }}{where}")
    return stack[0]


def refuse(path: str, line: int, text: str) -> NoReturn:
    """Raise `ConfigError` with file and line."""
    raise ConfigError(f"{path}:{line}: {text}")
