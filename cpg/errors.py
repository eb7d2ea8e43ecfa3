"""Errors that closed process groups raise at the program, beside those of the ring (`totem.errors`).

All are raised before anything has changed.
"""

from __future__ import annotations

from totem.errors import TotemError


class AlreadyJoined(TotemError):
    """This process is in the group, or its leave has not been delivered yet."""


class NotJoined(TotemError):
    """The membership has been left: nothing can be sent for it any more."""


class CorosyncLimit(TotemError, ValueError):
    """Refused because a Corosync node in the ring would not survive it; in a ring without one it is possible."""


class GroupReserved(TotemError):
    """This user may not join that group; the text names what to do."""


class TooManyGroups(TotemError):
    """This program, its user, or all programs of the node are in as many groups as they may be."""


class OutcomeUnknown(TotemError):
    """The connection was lost before what was sent had come back: it may have been delivered, or not."""


class SlowConsumer(TotemError):
    """The program did not take its events in time and the group was left; join again, and begin with a snapshot.

    The bound is the group's `limit` in bytes: a ring never waits for one consumer.
    """


class NotSupported(TotemError):
    """The backend cannot do what was asked for; the text names what can be done instead."""


class CorosyncUnavailable(TotemError):
    """The Corosync of this machine cannot be used; the text names why, and what to do."""


class DaemonUnavailable(TotemError):
    """No daemon `cpgd` can be used; the text names why, and what to do."""
