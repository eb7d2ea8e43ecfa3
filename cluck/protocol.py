"""What a client and its lock server say to each other, and how it becomes bytes.

A record on the socket is a msgpack array of messages, at most `LARGEST_RECORD` bytes. Up go commands (`cluck.commands`;
a client may give those of `ClientCommand`, in its own name) and the upward messages below. Down come outcomes and the
downward messages below. The first message up is `Hello`, answered by `Welcome` or `Goodbye`. In a process that is a
lock server itself the same objects go from hand to hand.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Final

from msgspec import Meta, Struct, ValidationError
from msgspec.msgpack import Decoder, Encoder

from cluck.commands import (
    Acquire,
    ClientId,
    Ended,
    EndWait,
    Force,
    Leadership,
    Name,
    Notified,
    Notify,
    Publish,
    Published,
    Queued,
    Refused,
    Release,
    Renew,
    RequestId,
    Resign,
    Revoked,
    Seconds,
    Stand,
    Standing,
    Wait,
    Waiting,
    Withdraw,
    Woken,
)
from cpg.replication.electorate import ChangeVoters
from cpg.replication.identities import Number
from totem.errors import TotemError

VERSION: Final = 2
LARGEST_RECORD: Final = 128 * 1024
MOST_QUESTIONS: Final = 16
"""Questions of a client that may be open."""
LARGEST_QUESTION: Final = 64
"""Characters."""
MOST_OBSERVED: Final = 1024
"""Elections that a client may observe."""


class Malformed(TotemError):
    """The other side sent what this protocol does not allow; the text names what and where."""


class _Message(Struct, frozen=True, array_like=True, gc=False):
    """The base of all messages of this protocol."""


# ---- up


class Hello(_Message, frozen=True, tag=100):
    """A client connects; `resumes`: the client that it was before the connection was lost."""

    version: Number
    program: Annotated[str, Meta(max_length=128)] = ""
    """For people."""
    resumes: ClientId | None = None
    secret: Annotated[bytes, Meta(max_length=64)] = b""
    """The secret of its first `Welcome`, to resume with."""


class Pong(_Message, frozen=True, tag=101):
    """The client's tasks run."""


class Observe(_Message, frozen=True, tag=102):
    """Report the present and all later leaderships of an election."""

    election: Name


class Ignore(_Message, frozen=True, tag=103):
    """Report no more of an election."""

    election: Name


class Ask(_Message, frozen=True, tag=104):
    """Ask a question; the answer comes in one or several `Answer`."""

    number: Number
    question: Annotated[str, Meta(max_length=LARGEST_QUESTION)]
    """`status`, `tickets`, `leaders`, `elections`, `conditions`."""


class Bye(_Message, frozen=True, tag=105):
    """The client ends in order: what it still holds is free."""


class ReadClock(_Message, frozen=True, tag=106):
    """Report what your clock shows: a `Welcome` that was late has reported it badly."""


OfAdministrator = Force | ChangeVoters
ClientCommand = (
    Acquire | Withdraw | Release | Renew | Wait | Notify | EndWait | Stand | Resign | Publish | OfAdministrator
)
Upward = ClientCommand | Hello | Pong | Observe | Ignore | Ask | Bye | ReadClock


# ---- down


class Welcome(_Message, frozen=True, tag=100):
    """The client's name from now on."""

    version: Number
    client: ClientId
    secret: bytes
    clock: Seconds
    """The server's boot-time clock, between `Hello` and this: deadlines are times of this clock."""
    was_resumed: bool = False


class LockHeld(_Message, frozen=True, tag=101):
    """A lock is held, or still held, until a deadline on the server's clock (ruling E7).

    `deadline` is 0 where nothing is left of the lease that could be relied on: the client renews before it begins.
    """

    request: RequestId
    token: Number
    deadline: Seconds


class Readiness(_Message, frozen=True, tag=102):
    """Whether requests are answered now; if not, why. Reported at first, and at each change."""

    ready: bool
    why: str


class Ping(_Message, frozen=True, tag=103):
    """Are the client's tasks running?"""


class Answer(_Message, frozen=True, tag=104):
    """Part of an answer: JSON."""

    number: Number
    body: bytes
    is_last: bool


class Leads(_Message, frozen=True, tag=105):
    """A candidate of this client leads until a deadline on the server's clock (ruling E10); token 0: not any more.

    `deadline` is 0 where nothing is left of the lease that could be relied on: the client renews before it begins.
    """

    candidate: RequestId
    token: Number
    deadline: float = 0.0


class Farewell(enum.StrEnum):
    """Why a connection ends."""

    ACCESS = "access"
    VERSION = "version"
    MALFORMED = "malformed"
    SLOW = "slow"
    ENDING = "ending"
    FULL = "full"


class Goodbye(_Message, frozen=True, tag=106):
    """The last message to a client."""

    why: Farewell
    text: str


class Failed(_Message, frozen=True, tag=107):
    """A request was not given to the group, and has no effect: there is no room, or nobody decides and it was not to
    wait.
    """

    request: RequestId
    text: str
    not_ready: bool


class Renounced(_Message, frozen=True, tag=108):
    """What was held under this token cannot be relied on any more: this server is not in the part that decides."""

    request: RequestId
    token: Number


class Clock(_Message, frozen=True, tag=109):
    """The server's boot-time clock, between `ReadClock` and this."""

    clock: Seconds


ClientOutcome = Queued | Refused | Ended | Revoked | Waiting | Woken | Notified | Standing | Published | Leadership
Downward = ClientOutcome | Welcome | LockHeld | Readiness | Ping | Answer | Leads | Goodbye | Failed | Renounced | Clock

_encoder = Encoder()
_upward: Decoder[list[Any]] = Decoder(list[Upward])
_downward: Decoder[list[Any]] = Decoder(list[Downward])


def records(said: Sequence[Upward | Downward]) -> Iterator[bytes]:
    """Encode messages into as few records as possible."""
    record = _encoder.encode(said)
    if len(record) <= LARGEST_RECORD or len(said) == 1:
        yield record
    else:
        half = len(said) // 2
        yield from records(said[:half])
        yield from records(said[half:])


def held_to_limits(said: Sequence[Upward]) -> Iterable[Upward]:
    """Return the messages of a client in this very process, as if they had come as a record. Raises Malformed."""
    return _read(_encoder.encode(said), _upward)


def upward(record: bytes) -> Iterable[Upward]:
    """Decode a client's record. Raises Malformed."""
    return _read(record, _upward)


def downward(record: bytes) -> Iterable[Downward]:
    """Decode a server's record. Raises Malformed."""
    return _read(record, _downward)


def _read(record: bytes, decoder: Decoder[list[Any]]) -> list[Any]:
    try:
        return decoder.decode(record)
    except (ValidationError, ValueError) as error:
        raise Malformed(f"a record of {len(record)} bytes: {error}") from None
