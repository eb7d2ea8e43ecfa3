"""What servers say to each other in their group: msgpack, behind one byte of version.

    Round       somebody has seen a change: all servers report what they have
    Report      what one server has, in answer to a round
    Exclude     a server does not answer: the round goes on without it
    Snapshot    a part of the base's state, for those that have another one
    Propose     a record (epoch, longest promise) to be made durable; in a round without a base, to begin anew
    Stored      that record is durable
    Commands    what is to be done, in order
    Ack         all up to a number was applied (only where the ring has no SAFE: ruling E4)
    Forgive     members that have called as many rounds as they may, may call others

A message's sender is its author; `start` names the author's life. All bytes are hostile until they are decoded. A
malformed message is no message, and a malformed command in a message is no command.

Every version of this format begins with its byte of version, and takes one such byte alone for a notice. So servers of
two versions know of each other, and why they do not count together.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from functools import reduce
from operator import or_
from typing import Annotated, Any, Final, Generic, NamedTuple, TypeVar

from msgspec import Meta, Raw, Struct, ValidationError
from msgspec.msgpack import Decoder, Encoder

from cpg.replication.application import LARGEST_VERSION, Application, State
from cpg.replication.electorate import Electorate, View, Voters
from cpg.replication.identities import Boot, Epoch, Number
from totem.errors import TotemError

PART: Final = 256 * 1024
"""Bytes of a part of a snapshot."""
MOST_PARTS: Final = 8192
MOST_EXCLUDED: Final = 4096
LONGEST_PROMISE: Final = 14 * 86400.0
"""Seconds."""

Checksum = Annotated[int, Meta(ge=0, lt=1 << 32)]
Promise = Annotated[float, Meta(ge=0, le=LONGEST_PROMISE)]
AnyCommand = TypeVar("AnyCommand")
Terms = TypeVar("Terms")


class MalformedMessage(TotemError):
    """Not a message between servers; the text names what and where."""

    def __init__(self, text: str, rest: Commands[Any] | None = None) -> None:
        """`rest`: the message without its malformed commands, where everything else is well-formed."""
        super().__init__(text)
        self.rest = rest


class OtherVersion(MalformedMessage):
    """A message of another version of this format, which a server may have sent."""


class NoServer(MalformedMessage):
    """A message that no server of any version sends."""


class RoundId(NamedTuple):
    """A round: the life of its caller, and its number there."""

    start: Number
    number: Number


class Lineage(NamedTuple):
    """How far a state has come. Of two, the larger one has seen more of what anybody was told (rulings E2 to E4)."""

    epoch: Epoch
    ring_seq: Number
    """Of the last view in which it decided."""
    view: Number
    """Counts the primary views of that ring."""
    mark: Number
    """Commands of that view: applied or, where the ring has no SAFE, acknowledged."""

    def is_of_view(self, other: Lineage) -> bool:
        """Return whether both have decided last in the same view."""
        return self.primary == other.primary

    @property
    def primary(self) -> View:
        """Return the last view in which it decided."""
        return View(self.epoch, self.ring_seq, self.view)


class DurableRecord(NamedTuple):
    """What a server keeps on its disk."""

    epoch: Epoch
    """The largest it has known."""
    longest_promise: Promise
    """Seconds for which programs may rely on what they were promised: `cpg.replication.application`."""
    voters: Voters | None = None
    """Who decides; None: that was never known."""

    def covers(self, other: DurableRecord) -> bool:
        """Return whether this record knows all that the other one does."""
        return (
            self.epoch >= other.epoch
            and self.longest_promise >= other.longest_promise
            and _covers(self.voters, other.voters)
        )

    def and_(self, other: DurableRecord) -> DurableRecord:
        """Return all that both know; of two births that were prepared, this one's."""
        voters = other.voters if self.voters is None or _is_later(other.voters, self.voters) else self.voters
        return DurableRecord(max(self.epoch, other.epoch), max(self.longest_promise, other.longest_promise), voters)


def _is_later(voters: Voters | None, other: Voters) -> bool:
    return voters is not None and voters.rank > other.rank


def _covers(mine: Voters | None, other: Voters | None) -> bool:
    """Return whether `mine` knows all of the other, but when that was confirmed last, if it ever was."""
    if other is None or mine is None:
        return other is None
    if other.is_born and not mine.is_born:
        return False
    return mine.says_what(other) or mine.rank > other.rank


class Round(Struct, frozen=True, array_like=True, tag=1):
    """All servers are to report what they have."""

    id: RoundId


class Report(Struct, Generic[Terms], frozen=True, array_like=True, tag=2):
    """What a server has, in answer to a round."""

    round: RoundId
    start: Number
    lineage: Lineage | None
    """None: no state."""
    digest: Checksum
    """Of the state."""
    record: DurableRecord | None
    """None: its disk knows of no epoch."""
    voters: Voters | None
    """As its state has them."""
    configured: Electorate
    """What its configuration says, which counts at birth."""
    terms: Terms
    """What the application needs to be equal at all servers."""
    survivors: bool
    """Clients of an earlier life of this server may still rely on what they were promised."""
    safe: bool
    """Its ring reports when a message is safe."""
    priority: Number
    """As a leader of the service, 1 first; 0: not to be one."""
    in_process: bool
    """Its clients live and end with it."""
    quorate: bool
    """What its ring says."""
    force_birth: bool
    """An operator says that nobody relies on a promise any more."""
    boot: Boot | None = None
    """Of the machine that it is on, and all its clients."""
    known: Annotated[list[tuple[Number, Number]], Meta(max_length=MOST_EXCLUDED)] = []
    """Node id and process id of each member that has ever reported here."""
    is_last: bool = False
    """Since its last primary view no server has gone but by ending in its sight (ruling E2c)."""

    @property
    def known_voters(self) -> list[Voters]:
        """Return what its state and its disk say of who decides."""
        said = (self.voters, self.record.voters if self.record is not None else None)
        return [voters for voters in said if voters is not None]

    @property
    def cluster(self) -> int | None:
        """Return its cluster; None: it is of none yet."""
        known = self.known_voters
        return known[0].cluster if known else None


class Exclude(Struct, frozen=True, array_like=True, tag=3):
    """The round goes on without these, which do not answer."""

    round: RoundId
    members: Annotated[list[tuple[Number, Number]], Meta(max_length=MOST_EXCLUDED)]
    """Node id and process id of each."""


class Snapshot(Struct, frozen=True, array_like=True, tag=4):
    """A part of the base's state."""

    round: RoundId
    part: Number
    parts: Annotated[int, Meta(ge=1, le=MOST_PARTS)]
    checksum: Checksum
    """Of all parts together: CRC-32."""
    body: Annotated[bytes, Meta(max_length=PART)]


class Propose(Struct, frozen=True, array_like=True, tag=5):
    """Make this record durable; with a round, to begin anew there once enough servers have."""

    record: DurableRecord
    birth: RoundId | None = None


class Stored(Struct, frozen=True, array_like=True, tag=6):
    """This record, or more than it, is durable here."""

    record: DurableRecord


class Commands(Struct, Generic[AnyCommand], frozen=True, array_like=True, tag=7):
    """What is to be done, in order."""

    start: Number
    serial: Number
    """Counts the messages of this kind of one server."""
    commands: list[AnyCommand]


class Ack(Struct, frozen=True, array_like=True, tag=8):
    """All up to a number was applied in the view that this round made."""

    round: RoundId
    number: Number


class Forgive(Struct, frozen=True, array_like=True, tag=9):
    """The rounds that members of other nodes have called count no more."""


class _Sealed(Struct, frozen=True, array_like=True, tag=7):
    """`Commands` whose commands are not decoded yet."""

    start: Number
    serial: Number
    commands: list[Raw]


WireMessage = Round | Report[Any] | Exclude | Snapshot | Propose | Stored | Commands[Any] | Ack | Forgive


def digest(frozen: bytes) -> int:
    """Return the checksum by which states are told apart."""
    return zlib.crc32(frozen)


def cut(frozen: bytes, round_id: RoundId) -> list[Snapshot]:
    """Cut an encoded state into parts."""
    checksum = digest(frozen)
    bodies = [frozen[place : place + PART] for place in range(0, len(frozen), PART)]
    return [Snapshot(round_id, part, len(bodies), checksum, body) for part, body in enumerate(bodies)]


class Codec(Generic[State]):
    """Encodes and decodes the messages of one application."""

    def __init__(self, application: Application[State]) -> None:
        self.notice: Final = bytes((application.version,))
        """What a server says to those of another version: which one is its own."""
        self.kinds: Final = (
            Round,
            Report[application.terms_type],  # type: ignore[name-defined]
            Exclude,
            Snapshot,
            Propose,
            Stored,
            Commands[application.command],  # type: ignore[name-defined]
            Ack,
            Forgive,
        )
        self.application = application
        self._encoder = Encoder()
        self._decoder: Decoder[WireMessage] = Decoder(reduce(or_, self.kinds))
        self._sealed: Decoder[_Sealed] = Decoder(_Sealed)
        self._commands: Decoder[Any] = Decoder(application.command)
        self._images: Decoder[Any] = Decoder(application.image)

    def encode(self, said: WireMessage) -> bytes:
        """Encode a message. Hot."""
        return self.notice + self._encoder.encode(said)

    def decode(self, data: bytes) -> WireMessage:
        """Decode a message. Raises MalformedMessage. Hot."""
        if data[:1] != self.notice:
            raise self._foreign(data)
        try:
            return self._decoder.decode(memoryview(data)[1:])
        except (ValidationError, ValueError) as error:
            raise MalformedMessage(f"a message of {len(data)} bytes: {error}", self._rest(data)) from None

    def _foreign(self, data: bytes) -> MalformedMessage:
        if not data or not 0 < data[0] <= LARGEST_VERSION:
            return NoServer(f"a message of {len(data)} bytes that no {self.application.server} sends")
        own = self.application.version
        return OtherVersion(f"it speaks version {data[0]}, and this is version {own}: install the same release")

    def _rest(self, data: bytes) -> Commands[Any] | None:
        """Decode commands one by one, so that one that is malformed takes no other with it."""
        try:
            sealed = self._sealed.decode(memoryview(data)[1:])
        except (ValidationError, ValueError):
            return None
        commands = []
        for raw in sealed.commands:
            with suppress(ValidationError, ValueError):
                commands.append(self._commands.decode(raw))
        return Commands(sealed.start, sealed.serial, commands)

    # ---- snapshots

    def freeze(self, state: State) -> bytes:
        """Encode a whole state."""
        return self._encoder.encode(state.image())

    def thaw(self, parts: list[Snapshot], checksum: int) -> State:
        """Decode the state of this checksum from its parts. Raises MalformedMessage."""
        frozen = b"".join(part.body for part in parts)
        what = f"a snapshot of {len(frozen)} bytes"
        if digest(frozen) != checksum:
            raise MalformedMessage(f"{what} with a wrong checksum")
        try:
            state = self.application.restore(self._images.decode(frozen))
            again = self.freeze(state)
        except (ValidationError, ValueError) as error:
            raise MalformedMessage(f"{what}: {error}") from None
        except MemoryError:  # of this server alone: the others may have room
            raise
        except Exception as error:  # it comes to all servers at one place of the order, and must not end them all
            raise MalformedMessage(f"{what}: no state can be made of it: {type(error).__name__}: {error}") from error
        if again != frozen:
            raise MalformedMessage(
                f"{what} that is not what a state looks like: `restore` makes a state of another image"
            )
        return state
