"""Errors that closed process groups raise, beside those of the ring (`totem.errors`).

All are raised before anything has changed.
"""

from __future__ import annotations

from typing import NoReturn

from totem.errors import TotemError


class AlreadyJoined(TotemError):
    """This process is in the group, or its leave has not been delivered yet."""


class NotJoined(TotemError):
    """The group is not joined, or has been left: nothing can be sent to it. On trio also a `ClosedResourceError`."""


class StreamBusy(TotemError, RuntimeError):
    """The stream has a consumer: callbacks, an iteration, or another task that waits for the next event.

    A kind of event has one callback; register None to remove it. On trio this is also a `BusyResourceError`.
    """


class CorosyncLimit(TotemError, ValueError):
    """Refused because a Corosync node in the ring would not survive it; a ring without such a node allows it."""


class GroupReserved(TotemError):
    """This user may not join the group; the text says what to do."""


class TooManyGroups(TotemError):
    """This program, its user, or all programs of the node are in as many groups as they may be."""


class ServiceError(TotemError):
    """Base of the errors that programs get from a service: `cluck.LockError` is this class.

    It is here since lock servers and `cpgd` share some of these errors.
    """


class OutcomeUnknown(ServiceError):
    """The connection was lost before the answer, or own messages, came back: they may have taken effect, or not.

    Look before you send or request it again.
    """


class SlowConsumer(TotemError):
    """The program did not take its events in time, so the group was left. Join again and begin with a snapshot.

    The bound is the group's `limit` in bytes: a ring never waits for one consumer.
    """


class NotSupported(TotemError):
    """The backend cannot do this; the text names the alternative."""


class CorosyncUnavailable(TotemError):
    """The Corosync of this machine cannot be used; the text says why, and what to do."""


class DaemonUnavailable(ServiceError):
    """No daemon (`cpgd`, `cluckd`) can be used; the text says why, and what to do."""


def raise_instead(failure: BaseException, outcome: BaseException | None) -> NoReturn:
    """Raise a failure instead of what the body has raised, which becomes its context.

    A cancellation does not become the context: that of the body was our own doing. Neither does an exception that the
    body raised because of the failure: each would be the other's context.
    """
    context = failure.__context__
    if isinstance(outcome, Exception) and not _has_in_context(outcome, failure):
        context = outcome
    try:
        raise failure
    finally:
        failure.__context__ = context


def _has_in_context(error: BaseException | None, other: BaseException) -> bool:
    while error is not None and error is not other:
        error = error.__context__
    return error is not None
