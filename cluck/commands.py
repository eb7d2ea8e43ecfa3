"""Commands to the replicated state of locks, and their outcomes: the nouns that all parts of this package share.

The group orders a command, and every lock server applies it. Its outcomes are the same everywhere. They concern the one
client that made the request, or all that observe. Both travel as msgpack arrays (`cpg.replication.wire`,
`cluck.protocol`). The annotations below are the limits of every field, in one place. What comes from outside is held to
them as it is decoded, and what is made here keeps to them.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final, NamedTuple

from msgspec import Meta, Struct

from cpg.replication.electorate import ChangeVoters
from cpg.replication.identities import Number, ServerId
from cpg.replication.wire import LONGEST_PROMISE

LARGEST_NAME: Final = 1024
"""Bytes of a lock's name."""
LEAST_LEASE: Final = 0.1
"""Seconds. A holder renews three times in a lease, and each renewal goes around the ring."""
LONGEST_LEASE: Final = LONGEST_PROMISE / 2
"""Seconds: 7 days, and as many of grace."""
LONGEST_AGE: Final = 1e10
"""Seconds: three hundred years."""
LARGEST_BLOB: Final = 64 * 1024
"""Bytes that a leader attaches to its leadership."""
LARGEST_PORT: Final = (1 << 16) - 1
LARGEST_ADDRESS: Final = 256
"""Bytes of a candidate's address."""
MOST_UNSETTLED: Final = 1024
"""Requests of a client that may be open, or answered and not settled."""

Name = Annotated[bytes, Meta(min_length=1, max_length=LARGEST_NAME)]
Lease = Annotated[float, Meta(ge=LEAST_LEASE, le=LONGEST_LEASE)]
Grace = Annotated[float, Meta(ge=0, le=LONGEST_LEASE)]
Seconds = Annotated[float, Meta(ge=0, le=LONGEST_AGE)]
Address = Annotated[bytes, Meta(max_length=LARGEST_ADDRESS)]
Port = Annotated[int, Meta(ge=0, le=LARGEST_PORT)]
Blob = Annotated[bytes, Meta(max_length=LARGEST_BLOB)]


class ClientId(NamedTuple):
    """A program: the lock server that admitted it first, and its number there. It may continue at another server."""

    server: ServerId
    number: Number


class Owner(NamedTuple):
    """One thread of control of a client: it holds and waits."""

    client: ClientId
    task: Number


class RequestId(NamedTuple):
    """A request; a client numbers its own from 1 on."""

    owner: Owner
    number: Number


class Mode(enum.IntEnum):
    """How a lock is requested."""

    EXCLUSIVE = 0
    SHARED = 1
    PRIORITY = 2
    """Exclusive, and in front of all shared requests that wait."""


class Why(enum.StrEnum):
    """Why a request was refused, or a lock was lost."""

    BUSY = "busy"
    """It would have had to wait, and was not to."""
    DEADLOCK = "deadlock"
    KIND = "kind"
    """The lock has another number of permits."""
    OVERFLOW = "overflow"
    """There are as many waiters or candidates as may be, for this or in all; or leaders have published as much as may
    be kept.
    """
    SETTLED = "settled"
    """A request that came again had its final answer already."""
    EXPIRED = "expired"
    """The lease ended without renewal."""
    FORCED = "forced"
    """An administrator took it."""
    GONE = "gone"
    """The client has ended, or its lock server has."""
    WITHDRAWN = "withdrawn"
    NOT_HELD = "not held"
    """The operation needs a lock, or a leadership, that the client does not have."""
    WRONG_LOCK = "wrong lock"
    """Others wait on the condition with another lock."""
    UNRECORDED = "unrecorded"
    """A majority's disks do not know of such a long lease, or of another epoch of tokens. Nothing was done, and the
    request may come again when they do.
    """


class _Value(Struct, frozen=True, array_like=True, gc=False):
    """The base of all commands and outcomes: values, and small on the wire."""


# ---- commands: locks


class Acquire(_Value, frozen=True, tag=1):
    """Request a lock."""

    request: RequestId
    name: Name
    mode: Mode = Mode.EXCLUSIVE
    permits: Number = 0
    """Of a semaphore; 0: a lock."""
    lease: Lease = 5.0
    """Seconds that a grant lasts without renewal."""
    grace: Grace = 5.0
    """Seconds after the lease in which the holder must come to an end; then the lock is taken."""
    waits: bool = True
    settled: Number = 0
    """All requests of this client up to this number have their final answers, and will not come again."""


class Withdraw(_Value, frozen=True, tag=2):
    """Give a request up: leave the queue, or release what was granted."""

    request: RequestId


class Release(_Value, frozen=True, tag=3):
    """Release the lock that a request was granted under this token."""

    request: RequestId
    token: Number


class Renew(_Value, frozen=True, tag=4):
    """Hold a lock, or lead, for another lease."""

    request: RequestId
    token: Number


class Revoke(_Value, frozen=True, tag=5):
    """A lease comes to its end: ask for the lock, or have a successor of the leader chosen. No effect if renewed."""

    name: Name
    token: Number
    renewals: Number


class Expire(_Value, frozen=True, tag=6):
    """Lease and grace are over: take the lock, or the leadership. No effect where a renewal came before."""

    name: Name
    token: Number
    renewals: Number


class Force(_Value, frozen=True, tag=7):
    """An administrator takes a lock from its holder."""

    name: Name
    token: Number


class Gone(_Value, frozen=True, tag=8):
    """A client has verifiably ended: its locks are free at once, it leads nothing, and it waits for nothing."""

    client: ClientId


class Still(_Value, frozen=True, tag=9):
    """A request still waits: once granted, it counts its lease from when it last said so (ruling E7). A lock that is
    free, and had waited for another epoch of tokens, is granted now.
    """

    request: RequestId


# ---- commands: conditions


class Wait(_Value, frozen=True, tag=20):
    """Release a lock and wait on a condition, in one step."""

    request: RequestId
    condition: Name
    lock: Name
    token: Number
    reacquires: bool = True
    settled: Number = 0


class Notify(_Value, frozen=True, tag=21):
    """Wake one waiter of a condition, or all of them."""

    request: RequestId
    condition: Name
    everyone: bool = False
    priority: bool = False
    """Waiters that had the lock exclusively reacquire it in front of all shared requests that wait."""
    settled: Number = 0


class EndWait(_Value, frozen=True, tag=22):
    """A waiter's time is over, or its task was cancelled. No effect where it was woken before."""

    request: RequestId


# ---- commands: leaders


class Stand(_Value, frozen=True, tag=40):
    """Be a candidate in an election, until withdrawn; the request is the candidate's name from then on."""

    request: RequestId
    election: Name
    address: Address = b""
    port: Port = 0
    running: Seconds = 0.0
    """Seconds since the candidate's program started, when this was sent."""
    restart_interval: Seconds = 0.0
    """Seconds from when its former life was last known to run until that start; 0: there was none."""
    lease: Lease = 3.0
    """Seconds that it leads without renewal, once it does."""
    grace: Grace = 1.0
    """Seconds after the lease in which a leader must come to an end; then another one may lead."""
    settled: Number = 0


class Status(_Value, frozen=True, tag=41):
    """A candidate's answer in a round; its server gives it."""

    candidate: RequestId
    round: Number
    running: Seconds
    """Seconds since it started."""
    restart_interval: Seconds
    """Seconds that it had been down before; 0 where that is not known."""


class Close(_Value, frozen=True, tag=42):
    """Wait no longer for statuses in a round. Where none has come, another round begins."""

    election: Name
    round: Number


class Next(_Value, frozen=True, tag=43):
    """The winner of a round is about to lead. Rejected unless it is the winner."""

    election: Name
    round: Number
    candidate: RequestId


class Commit(_Value, frozen=True, tag=44):
    """The winner leads. Rejected unless it was named next; without effect while the leadership before it lasts."""

    election: Name
    round: Number
    candidate: RequestId


class Resign(_Value, frozen=True, tag=45):
    """A leader leads no more, and nothing is done in its name, but it remains a candidate."""

    request: RequestId
    """Of the candidate that leads."""
    token: Number
    to: RequestId | None = None
    """The next leader, if that is to be another candidate."""


class Depose(_Value, frozen=True, tag=46):
    """The winner of a round does not come: another one is to lead. No effect once it leads."""

    election: Name
    round: Number
    candidate: RequestId


class Publish(_Value, frozen=True, tag=47):
    """A leader attaches data to its leadership, which observers are told."""

    request: RequestId
    election: Name
    token: Number
    blob: Blob
    settled: Number = 0


LockCommand = Acquire | Withdraw | Release | Renew | Revoke | Expire | Force | ChangeVoters | Gone | Still
ConditionCommand = Wait | Notify | EndWait
LeaderCommand = Stand | Status | Close | Next | Commit | Resign | Depose | Publish
Command = LockCommand | ConditionCommand | LeaderCommand
Request = Acquire | Wait | Notify | Stand | Publish
"""Commands that are answered, and may come again."""
OfClient = Request | Withdraw | Release | Renew | EndWait | Resign
"""Commands in the name of their `request`'s client; the others are the lock servers' own."""


# ---- outcomes


class Granted(_Value, frozen=True, tag=1):
    """A request has its lock."""

    request: RequestId
    token: Number


class Queued(_Value, frozen=True, tag=2):
    """A request waits."""

    request: RequestId
    ahead: Number
    """The number of tickets before it, those of holders included."""


class Refused(_Value, frozen=True, tag=3):
    """A request is refused for good."""

    request: RequestId
    why: Why
    circle: tuple[bytes, ...] = ()
    """Of a deadlock: the locks, each held by the waiter for the next one."""


class Ended(_Value, frozen=True, tag=4):
    """A lock is not held any more: released (`why` is None), or lost."""

    request: RequestId
    token: Number
    why: Why | None


class Revoked(_Value, frozen=True, tag=5):
    """The holder should release the lock now."""

    request: RequestId
    token: Number


class Renewed(_Value, frozen=True, tag=6):
    """The holder, or the leader, has another lease."""

    request: RequestId
    token: Number
    renewals: Number


class Waiting(_Value, frozen=True, tag=20):
    """A request waits on a condition; its lock was released."""

    request: RequestId


class Woken(_Value, frozen=True, tag=21):
    """A waiter of a condition waits no more. Where it reacquires, its lock follows."""

    request: RequestId
    notified: bool
    """False: its time was over."""


class Notified(_Value, frozen=True, tag=22):
    """The number of waiters that were woken."""

    request: RequestId
    count: Number


class Standing(_Value, frozen=True, tag=40):
    """A request is a candidate."""

    request: RequestId


class RoundOpened(_Value, frozen=True, tag=41):
    """A round is open: the server of each of these candidates is to give its status."""

    election: Name
    round: Number
    candidates: tuple[RequestId, ...]


class Chosen(_Value, frozen=True, tag=42):
    """The next leader: its server is to name it; where that was done (`is_next`), the server is to commit it."""

    election: Name
    round: Number
    candidate: RequestId
    is_next: bool


class Leadership(_Value, frozen=True, tag=43):
    """Who leads now, for all observers; also when data was published."""

    election: Name
    leader: RequestId | None
    token: Number = 0
    address: bytes = b""
    port: int = 0
    version: Number = 0
    """Of the data; 0: none in this leadership."""
    blob: bytes = b""


class Published(_Value, frozen=True, tag=44):
    """Data was attached."""

    request: RequestId
    version: Number


class Rejected(_Value, frozen=True, tag=45):
    """A `Next` or `Commit` does not fit the state of the election, and changed nothing.

    This is no `Refused` of the candidate's request, which remains a candidate.
    """

    election: Name
    round: Number
    candidate: RequestId


class Lapsed(_Value, frozen=True, tag=46):
    """Nobody acts by the leadership of this token any more: the next one may begin."""

    election: Name
    token: Number


LockOutcome = Granted | Queued | Refused | Ended | Revoked | Renewed
ConditionOutcome = LockOutcome | Waiting | Woken | Notified
LeaderOutcome = Refused | Renewed | Standing | RoundOpened | Chosen | Leadership | Published | Rejected | Lapsed
Outcome = ConditionOutcome | LeaderOutcome
