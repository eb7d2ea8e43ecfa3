"""The two families of errors: `MalformedDatagram` for what other nodes do, and `TotemError` for what the program does.

Bytes from the network can only cause `MalformedDatagram`, which never leaves `Processor.receive`. Wrong use by the
program raises a `TotemError` before anything has changed.
"""

from __future__ import annotations


class MalformedDatagram(Exception):
    """A datagram that no correct node sends. It is counted under `cause`, a short fixed text."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class TotemError(Exception):
    """Base of the errors that this package raises at the program."""


class QueueFull(TotemError):
    """The bounded send queue has no room for all of the messages; nothing was queued. Wait, then retry."""


class MessageTooLong(TotemError, ValueError):
    """A message exceeds what a ring can carry; nothing was queued."""


class ConfigError(TotemError, ValueError):
    """A setting is wrong; the text names the file, the line, the setting and what would be right."""

    def __init__(self, text: str, *, setting: str = "", owner: object = None) -> None:
        super().__init__(text)
        self.setting = setting
        self.owner = owner
        """The nodelist's entry or the number of the link whose setting it is; None for those of the whole ring."""


class AddressUnavailable(ConfigError):
    """A name does not resolve, or no address is this machine's.

    That may change, for example while a machine boots, so programs may wait and retry.
    """


class NotReloadable(ConfigError):
    """A setting that cannot change while the node runs; the text names it. Nothing has changed."""


class RingLost(TotemError):
    """This node's part in the ring has ended, for the reason that the text gives; start again to come back."""


def of_process_before_fork(what: str) -> RuntimeError:
    """Build the error for a process that uses what the process it was forked from has opened, such as "ring"."""
    return RuntimeError(f"this {what} belongs to the process before the fork: open one of its own in this process")
