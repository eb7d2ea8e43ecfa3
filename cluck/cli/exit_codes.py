"""The exit codes of `cluck`, and the error that ends a command with one."""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """The exit codes. They begin at 119, so that those of `cluck run` are rarely those of its command."""

    DONE = 0
    MISUSED = 119
    """Wrong usage."""
    LOST = 120
    """The lock was lost; the command was ended."""
    DEADLOCK = 121
    NOT_READY = 122
    """The lock servers are not ready, and did not become so in the given time."""
    REFUSED = 123
    """Refused as things are: another number of permits, too many waiters, no holder."""
    TIMEOUT = 124
    """Others held the lock for the given time."""
    FAILED = 125
    """There is no daemon, the connection was lost, or standard input or output cannot be used."""
    CANNOT_RUN = 126
    """The command exists and cannot be run, or cannot be supervised."""
    NO_COMMAND = 127
    """There is no such command."""
    SIGNALLED = 128
    """Plus the number of the signal that ended the command, or `cluck` while it waited."""


class CommandFailed(Exception):
    """The command ends with this text and this exit code."""

    def __init__(self, text: str, code: Exit) -> None:
        super().__init__(text)
        self.code = code
