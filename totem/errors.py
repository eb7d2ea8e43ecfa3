"""The two families of errors: theirs (`MalformedDatagram`) and ours (`TotemError`).

Bytes from the network can only cause `MalformedDatagram`, which never leaves `Processor.receive`. Wrong use by the
program causes a `TotemError`, raised before anything has changed.
"""

from __future__ import annotations


class MalformedDatagram(Exception):
    """A datagram that no correct node sends. `cause` is a short fixed text, under which it is counted."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class TotemError(Exception):
    """Base of the errors that this package raises at the program."""


class QueueFull(TotemError):
    """The bounded send queue has no room for all of the messages; nothing was queued. Wait, then try again."""


class MessageTooLong(TotemError, ValueError):
    """A message exceeds what a ring can carry; nothing was queued."""


class ConfigError(TotemError, ValueError):
    """A setting is wrong; the text names the file, the line, the setting and what would be right."""

    def __init__(self, text: str, *, setting: str = "", node: object = None) -> None:
        super().__init__(text)
        self.setting = setting
        self.node = node
        """The nodelist's entry where the setting is a node's."""


class AddressUnavailable(ConfigError):
    """A name does not resolve, or no address is this machine's: perhaps it will be so later, as while a machine boots.

    Programs may wait and try again.
    """


class RingLost(TotemError):
    """This node's part in the ring has ended for the reason that the text gives; start afresh to come back."""
