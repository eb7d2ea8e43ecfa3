"""Show text that another party has chosen: nothing in it is a new line, or a command to a terminal."""

from __future__ import annotations


def printable(text: str | bytes) -> str:
    """Return text with backslash escapes for what a terminal might take for a command, and for what is no text."""
    if not isinstance(text, str):
        text = bytes(text).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(name: str | bytes) -> str:
    """Return a name in quotes, for a sentence."""
    return f"'{printable(name)}'"
