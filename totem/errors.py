"""The two families of errors: theirs (`MalformedDatagram`) and ours (`TotemError`).

Bytes from the network can only cause `MalformedDatagram`, which never leaves `Processor.receive`. Wrong use by the
program causes a `TotemError`, raised before anything has changed.
"""

from __future__ import annotations


class MalformedDatagram(Exception):  # noqa: N818 - it names what came in, it is not the program's error
    """A datagram that no correct node sends. `cause` is a short fixed text, under which it is counted."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class TotemError(Exception):
    """Base of the errors that this package raises at the program."""


class QueueFull(TotemError):  # noqa: N818
    """The bounded send queue has no room for all of the messages; nothing was queued. Wait, then try again."""


class MessageTooLong(TotemError, ValueError):  # noqa: N818
    """A message exceeds what a ring can carry; nothing was queued."""


class ConfigError(TotemError, ValueError):
    """A setting is wrong; the text names the file, the line, the setting and what would be right."""
