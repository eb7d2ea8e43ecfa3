"""What is said to the replicated state, and what comes of it: the nouns that all rooms of this floor share.

A command is ordered by the group and applied by every lock server; what it brings about are outcomes, which are the
same everywhere and concern the one client that made the request, or all that observe. Both travel as msgpack arrays
(`cpg.replication.wire`, `cluck.protocol`). The annotations below are the limits of every field, in one place: what
comes from outside is held to them as it is read, and what is made here keeps to them.
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
"""Seconds; a holder renews three times in a lease, and each renewal goes around the ring."""
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


class Client(NamedTuple):
    """A program: the lock server that admitted it first, and its number there. It may go on at another server."""

    server: ServerId
    number: Number


class Owner(NamedTuple):
    """One thread of control of a client: what holds and waits."""

    client: Client
    task: Number


class RequestId(NamedTuple):
    """A request; a client numbers its own from 1 on."""

    owner: Owner
    number: Number


class Mode(enum.IntEnum):
    """How a lock is asked for."""

    EXCLUSIVE = 0
    SHARED = 1
    PRIORITY = 2
    """Exclusive, in front of all that wait to share."""


class Why(enum.StrEnum):
    """Why a request was refused, or a lock was lost."""

    BUSY = "busy"
    """It was not to wait, and would have had to."""
    DEADLOCK = "deadlock"
    KIND = "kind"
    """The lock has another number of permits."""
    OVERFLOW = "overflow"
    """As many wait or stand as may, for this or in all; or leaders have published as much as may be kept."""
    SETTLED = "settled"
    """A request that came again had been answered for good."""
    EXPIRED = "expired"
    """The lease ended without renewal."""
    FORCED = "forced"
    """An administrator took it."""
    GONE = "gone"
    """The client has ended, or its lock server has."""
    WITHDRAWN = "withdrawn"
    NOT_HELD = "not held"
    """What was to be done needs a lock, or a leadership, that the client does not have."""
    WRONG_LOCK = "wrong lock"
    """Others wait on the condition with another lock."""
    UNRECORDED = "unrecorded"
    """A majority's disks do not know of so long a lease, or of another epoch of tokens: nothing was done, it may come
    again when they do."""


class _Value(Struct, frozen=True, array_like=True, gc=False):
    """What all of these have in common: they are values, and small on the wire."""


# ---- commands: locks


class Acquire(_Value, frozen=True, tag=1):
    """Ask for a lock."""

    request: RequestId
    name: Name
    mode: Mode = Mode.EXCLUSIVE
    permits: Number = 0
    """Of a semaphore; 0: a lock."""
    lease: Lease = 5.0
    """Seconds that a grant lasts without renewal."""
    grace: Grace = 5.0
    """Seconds behind the lease for the holder to come to an end; then the lock is taken."""
    waits: bool = True
    settled: Number = 0
    """All requests of this client up to this number have been answered for good, and will not come again."""


class Withdraw(_Value, frozen=True, tag=2):
    """Do not want any more what a request was for: leave the queue, or release what has been granted."""

    request: RequestId


class Release(_Value, frozen=True, tag=3):
    """Give back the lock that a request was granted under this token."""

    request: RequestId
    token: Number


class Renew(_Value, frozen=True, tag=4):
    """Go on holding it, or leading, for another lease."""

    request: RequestId
    token: Number


class Revoke(_Value, frozen=True, tag=5):
    """A lease comes to its end: ask for the lock, or have a leader's successor chosen. Void where it was renewed."""

    name: Name
    token: Number
    renewals: Number


class Expire(_Value, frozen=True, tag=6):
    """Lease and grace are over: take the lock, or the leadership. Void where a renewal came before."""

    name: Name
    token: Number
    renewals: Number


class Force(_Value, frozen=True, tag=7):
    """An administrator takes a lock from its holder."""

    name: Name
    token: Number


class Gone(_Value, frozen=True, tag=8):
    """A client has verifiably ended: its locks are free at once, it leads nothing, and it waits for nothing."""

    client: Client


class Still(_Value, frozen=True, tag=9):
    """A request still waits: the holder-to-be counts its lease from when it last said so (ruling E7). A lock that is
    free, and had waited for another epoch of tokens, is granted now."""

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
    """Those that had the lock for themselves reacquire it in front of all that wait to share."""
    settled: Number = 0


class EndWait(_Value, frozen=True, tag=22):
    """A waiter's time is over, or its task was cancelled. Void where it was woken before."""

    request: RequestId


# ---- commands: leaders


class Stand(_Value, frozen=True, tag=40):
    """Be a candidate in an election, until withdrawn; the request is the candidate's name from then on."""

    request: RequestId
    election: Name
    address: Address = b""
    port: Port = 0
    running: Seconds = 0.0
    """Seconds since the candidate's program has started, as this was sent."""
    restart_interval: Seconds = 0.0
    """Seconds from when its former life was last known to run to that start; 0: there was none."""
    lease: Lease = 3.0
    """Seconds that it leads without renewal, once it does."""
    grace: Grace = 1.0
    """Seconds behind the lease for a leader to come to an end; then another one may lead."""
    settled: Number = 0


class Status(_Value, frozen=True, tag=41):
    """A candidate's answer in a round, in seconds; its server gives it."""

    candidate: RequestId
    round: Number
    running: Seconds
    """How long it has been up."""
    restart_interval: Seconds
    """How long it had been down before; 0 where that is not known."""


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
    """It leads. Rejected unless it is who was named next; without effect while the leadership before it lasts."""

    election: Name
    round: Number
    candidate: RequestId


class Resign(_Value, frozen=True, tag=45):
    """A leader leads no more, and nothing is done in its name, but it goes on standing."""

    request: RequestId
    """Of the candidate that leads."""
    token: Number
    to: RequestId | None = None
    """Who is to be next, if that is another candidate."""


class Depose(_Value, frozen=True, tag=46):
    """The winner of a round does not come: another one is to lead. Void once it leads."""

    election: Name
    round: Number
    candidate: RequestId


class Publish(_Value, frozen=True, tag=47):
    """A leader attaches something to its leadership that others are told."""

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
"""Those that are answered, and may come again."""
OfClient = Request | Withdraw | Release | Renew | EndWait | Resign
"""What is done in the name of its `request`'s client; the other commands are the lock servers' own."""


# ---- outcomes


class Granted(_Value, frozen=True, tag=1):
    """A request has its lock."""

    request: RequestId
    token: Number


class Queued(_Value, frozen=True, tag=2):
    """A request waits."""

    request: RequestId
    ahead: Number
    """How many tickets are before it, those of holders included."""


class Refused(_Value, frozen=True, tag=3):
    """A request will not get what it is for."""

    request: RequestId
    why: Why
    circle: tuple[bytes, ...] = ()
    """Of a deadlock: the locks, each held by who waits for the next one."""


class Ended(_Value, frozen=True, tag=4):
    """A lock is not held any more: given back (`why` is None), or lost."""

    request: RequestId
    token: Number
    why: Why | None


class Revoked(_Value, frozen=True, tag=5):
    """The holder should give the lock back now."""

    request: RequestId
    token: Number


class Renewed(_Value, frozen=True, tag=6):
    """The holder, or the leader, has another lease."""

    request: RequestId
    token: Number
    renewals: Number


class Waiting(_Value, frozen=True, tag=20):
    """A request waits on a condition; the lock has been released."""

    request: RequestId


class Woken(_Value, frozen=True, tag=21):
    """A waiter of a condition does not wait any more; where it reacquires, its lock follows."""

    request: RequestId
    notified: bool
    """False: its time was over."""


class Notified(_Value, frozen=True, tag=22):
    """So many waiters were woken."""

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
    """Who is to lead: its server is to name it next; where it has been (`is_next`), the server is to commit it."""

    election: Name
    round: Number
    candidate: RequestId
    is_next: bool


class Leadership(_Value, frozen=True, tag=43):
    """Who leads now, for all that observe; also when a blob was published."""

    election: Name
    leader: RequestId | None
    token: Number = 0
    address: bytes = b""
    port: int = 0
    version: Number = 0
    """Of the blob; 0: none in this leadership."""
    blob: bytes = b""


class Published(_Value, frozen=True, tag=44):
    """A blob is attached."""

    request: RequestId
    version: Number


class Rejected(_Value, frozen=True, tag=45):
    """A `Next` or `Commit` that the state of the election does not bear out; it changed nothing.

    This is no `Refused` of the candidate's request, which goes on standing all the same.
    """

    election: Name
    round: Number
    candidate: RequestId


class Lapsed(_Value, frozen=True, tag=46):
    """Nobody acts any more by the leadership with this token: the next one may begin."""

    election: Name
    token: Number


LockOutcome = Granted | Queued | Refused | Ended | Revoked | Renewed
ConditionOutcome = LockOutcome | Waiting | Woken | Notified
LeaderOutcome = Refused | Renewed | Standing | RoundOpened | Chosen | Leadership | Published | Rejected | Lapsed
Outcome = ConditionOutcome | LeaderOutcome
