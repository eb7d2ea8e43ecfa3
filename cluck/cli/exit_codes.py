"""What all commands share: exit codes."""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """How `cluck` ends. From 119 on, so that what `cluck run` says is not taken for what its command said."""

    DONE = 0
    MISUSED = 119
    """Wrong usage."""
    LOST = 120
    """The lock was lost; the command was ended."""
    DEADLOCK = 121
    NOT_READY = 122
    """The lock servers are not ready, and were not in the given time."""
    REFUSED = 123
    """Not possible with what there is: another number of permits, as many wait as may, nobody holds it."""
    TIMEOUT = 124
    """The lock was held by others for the given time."""
    FAILED = 125
    """No daemon, or the connection was lost; standard input or output cannot be used."""
    CANNOT_RUN = 126
    """The command is there and cannot be run, or not guarded."""
    NO_COMMAND = 127
    """There is no such command."""
    SIGNALLED = 128
    """And the signal's number: of the command, or of `cluck` while it waits."""


class CommandFailed(Exception):
    """The command ends with this text and this exit code."""

    def __init__(self, text: str, code: Exit) -> None:
        super().__init__(text)
        self.code = code
