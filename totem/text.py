"""Show text that somebody else has chosen: nothing in it is a new line, or a command to a terminal."""

from __future__ import annotations


def printable(text: str | bytes) -> str:
    """Give text as it is, and what a terminal might take for a command, or is no text, with backslashes."""
    if not isinstance(text, str):
        text = bytes(text).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(name: str | bytes) -> str:
    """Give a name for a sentence, within quotes."""
    return f"'{printable(name)}'"
