"""The survey of a corosync.conf: warnings about all that has no effect, or most likely means something else.

An unknown word is no error, because a file may serve Corosync nodes and this package alike, and Corosync takes any
word. A word that is nearly a known one, and a comment behind a value, are *slips of the pen*. They stand in front of
an error, because they may be its cause.
"""

from __future__ import annotations

import re
from typing import NoReturn

from totem.corosync_conf.syntax import FILE_SECTIONS, SectionTree, Value
from totem.corosync_conf.vocabulary import WORDS, Words, near
from totem.errors import ConfigError


class Survey:
    """The warnings about one file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.warnings: list[str] = []
        self._slips: list[tuple[int, str]] = []
        """The warnings that are slips of the pen, by line."""

    def check(self, section: SectionTree) -> None:
        """Warn of all that has no effect in a section, and of what most likely means something else."""
        words = WORDS.get(section.name)
        if words is not None:
            self.check_keys(section, words)
            self.check_sections(section)
            for inner in section.sections:
                self.check(inner)

    def check_keys(self, section: SectionTree, words: Words) -> None:
        """Warn of keys that have no effect in a section, and of values that look like slips of the pen."""
        for key, value in section.values.items():
            place = f"{section.name}.{key}" if section.name else f"{key} outside all sections"
            if key in words.taken:
                self._check_value(place, value)
            elif key in words.undone:
                self.warn(value.line, f"{place} has no effect here: {words.undone[key]}")
            elif key not in words.idle:
                self._check_unknown(place, key, value.line, words)
        for key, value in section.former:
            last = section.values[key].line
            self.warn(value.line, f"{section.name}.{key} has no effect, because line {last} repeats it")

    def _check_unknown(self, place: str, key: str, line: int, words: Words) -> None:
        hint = near(key, words.keys)
        at_home = next((name for name, others in WORDS.items() if key in others.taken), "")
        if not hint and at_home:
            hint = f" (it belongs in section {at_home})"
        text = f"{place} is not known here and has no effect{hint}"
        if hint:
            self.slip(line, text)
        else:
            self.warn(line, text)

    def _check_value(self, place: str, value: Value) -> None:
        text = value.text
        if comment := re.search(r"\s(#.*)", text):
            shown = "#…" if place == "totem.key" else comment[1]  # no part of a key is for a log
            self.slip(
                value.line,
                f"{place} has '{shown}' in its value, as in Corosync: put comments on lines of their own",
            )
        elif len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
            self.slip(value.line, f"{place} has quotes in its value, as in Corosync: remove them")

    def check_sections(self, section: SectionTree) -> None:
        """Warn of the sections inside this one that have no effect."""
        words = WORDS[section.name]
        for inner in section.sections:
            if inner.own_name in words.undone:
                self.warn(inner.line, f"section {inner.name} has no effect here: {words.undone[inner.own_name]}")
            elif inner.own_name in words.sections:
                continue
            elif inner.own_name in FILE_SECTIONS:
                text = (
                    f"section {inner.own_name} stands inside {section.name} and has no effect: a }} is missing before"
                )
                self.slip(inner.line, text)
            else:
                text = f"section {inner.name} is not known here and has no effect"
                hint = near(inner.own_name, words.sections)
                if hint:
                    self.slip(inner.line, text + hint)
                else:
                    self.warn(inner.line, text)

    def slip(self, line: int, text: str) -> None:
        """Warn of a slip of the pen."""
        self.warn(line, text)
        self._slips.append((line, self.warnings[-1]))

    def warn(self, line: int, text: str) -> None:
        """Add a warning."""
        self.warnings.append(f"{self.path}:{line}: {text}")

    def blame(self, error: ConfigError) -> NoReturn:
        """Raise an error, after the slips of the pen that may have caused it."""
        if not self._slips:
            raise error
        first = [text for _, text in sorted(self._slips)[:2]]
        raise type(error)("; ".join([*first, str(error)]), setting=error.setting, owner=error.owner) from None
