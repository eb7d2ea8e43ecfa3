"""What lock servers say to each other in their group: msgpack, behind one byte of version.

    Round       somebody has seen a change: all are to say what they have
    Report      what one has, in answer to a round
    Exclude     one does not answer: the round goes on without it
    Snapshot    a part of the base's state, for those who have another
    Propose     a record (epoch, longest lease) to be made durable; in a round without a base, to begin anew
    Stored      it is
    Commands    what is to be done, in order
    Ack         all up to a number has been applied (only where the ring has no SAFE: ruling E4)
    Forgive     who has called as many rounds as a member may, may call others

Who says it is the message's sender; `start` tells its life. All are hostile until read: a malformed one is no message,
and a malformed command in a message no command.

Every version of this format begins with its byte of version, and takes one such byte alone for a notice: so servers of
two versions know of each other, and why they cannot be counted together.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from typing import Annotated, Final, NamedTuple

from msgspec import Meta, Raw, Struct, ValidationError
from msgspec.msgpack import Decoder, Encoder

from cluck.commands import Boot, Command, Epoch, Longest, Number
from cluck.replication.electorate import Electorate, View, Voters
from cluck.state.machine import Image, State
from totem.errors import TotemError

VERSION: Final = 5
LARGEST_VERSION: Final = 31
"""What begins with a larger byte, as text does, was said by no lock server of any version."""
PART: Final = 256 * 1024
"""Bytes of a part of a snapshot."""
MOST_PARTS: Final = 8192
MOST_EXCLUDED: Final = 4096

Checksum = Annotated[int, Meta(ge=0, lt=1 << 32)]
Drift = Annotated[float, Meta(ge=0, le=1)]


class Malformed(TotemError):
    """Not a message between lock servers; the text names what and where."""

    def __init__(self, text: str, rest: Commands | None = None) -> None:
        """`rest`: the message without the commands that are none, where everything else is as it should be."""
        super().__init__(text)
        self.rest = rest


class OtherVersion(Malformed):
    """A message of another version of this format, which a lock server may have said."""


class NoServer(Malformed):
    """A message that no lock server of any version says."""


class RoundId(NamedTuple):
    """A round: who called it, by its life, and its number there."""

    start: Number
    number: Number


class Lineage(NamedTuple):
    """How far a state has come: of two, the larger one has seen more of what anybody was told (rulings E2 to E4)."""

    epoch: Epoch
    ring_seq: Number
    """Of the last view in which it decided."""
    view: Number
    """Which one of that ring."""
    mark: Number
    """Commands of that view: applied, or, where the ring has no SAFE, acknowledged."""

    def is_of_view(self, other: Lineage) -> bool:
        """Whether both have decided last in the same view."""
        return self.primary == other.primary

    @property
    def primary(self) -> View:
        """The last view in which it decided."""
        return View(self.epoch, self.ring_seq, self.view)


class Record(NamedTuple):
    """What a lock server keeps on its disk."""

    epoch: Epoch
    """The largest it has known."""
    longest: Longest
    """Seconds of the longest lease and its grace that may have been granted."""
    voters: Voters | None = None
    """Who decides; None: that was never known."""

    def covers(self, other: Record) -> bool:
        """Whether who knows this knows all of the other."""
        return self.epoch >= other.epoch and self.longest >= other.longest and _covers(self.voters, other.voters)

    def and_(self, other: Record) -> Record:
        """All that both know; of two births that were prepared, this one's."""
        voters = other.voters if self.voters is None or _is_later(other.voters, self.voters) else self.voters
        return Record(max(self.epoch, other.epoch), max(self.longest, other.longest), voters)


def _is_later(voters: Voters | None, other: Voters) -> bool:
    return voters is not None and voters.rank > other.rank


def _covers(mine: Voters | None, other: Voters | None) -> bool:
    """Whether who knows `mine` knows all of the other, but when that was confirmed last, if it ever was."""
    if other is None or mine is None:
        return other is None
    if other.is_born and not mine.is_born:
        return False
    return mine.says_what(other) or mine.rank > other.rank


class Round(Struct, frozen=True, array_like=True, tag=1):
    """All are to say what they have."""

    id: RoundId


class Report(Struct, frozen=True, array_like=True, tag=2):
    """What a lock server has, in answer to a round."""

    round: RoundId
    start: Number
    lineage: Lineage | None
    """None: no state."""
    digest: Checksum
    """Of the state."""
    record: Record | None
    """None: its disk knows of no epoch."""
    voters: Voters | None
    """As its state has it."""
    configured: Electorate
    """What its configuration says, which counts at birth."""
    drift: Drift
    """By which share clocks may differ: what it counts leases with."""
    survivors: bool
    """Clients of an earlier life of this server may still hold what they were granted."""
    safe: bool
    """Its ring tells when a message is safe."""
    priority: Number
    """As a leader of the service, 1 first; 0: not to be one."""
    in_process: bool
    """Its clients live and end with it."""
    quorate: bool
    """What its ring says."""
    force_birth: bool
    """An operator says that nobody holds anything any more."""
    boot: Boot | None = None
    """Of the machine that it is on, and all its clients."""
    known: Annotated[list[tuple[Number, Number]], Meta(max_length=MOST_EXCLUDED)] = []
    """Node id and process id of each member that has ever reported here."""
    is_last: bool = False
    """Since its last primary view no lock server has gone but by ending in its sight (ruling E2c)."""

    @property
    def known_voters(self) -> list[Voters]:
        """What its state and its disk say of who decides."""
        said = (self.voters, self.record.voters if self.record is not None else None)
        return [voters for voters in said if voters is not None]

    @property
    def cluster(self) -> int | None:
        """Of which it is; None: of none yet."""
        known = self.known_voters
        return known[0].cluster if known else None


class Exclude(Struct, frozen=True, array_like=True, tag=3):
    """The round goes on without these, who do not answer."""

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
    """Make this record durable; with a round, to begin anew there once enough have."""

    record: Record
    birth: RoundId | None = None


class Stored(Struct, frozen=True, array_like=True, tag=6):
    """This record, or more than it, is durable here."""

    record: Record


class Commands(Struct, frozen=True, array_like=True, tag=7):
    """What is to be done, in order."""

    start: Number
    serial: Number
    """Counts the messages of this kind of one server."""
    commands: list[Command]


class Ack(Struct, frozen=True, array_like=True, tag=8):
    """All up to a number has been applied in the view that this round made."""

    round: RoundId
    number: Number


class Forgive(Struct, frozen=True, array_like=True, tag=9):
    """Rounds that members of other nodes have called count no more."""


class _Sealed(Struct, frozen=True, array_like=True, tag=7):
    """`Commands` whose commands are not read yet."""

    start: Number
    serial: Number
    commands: list[Raw]


Said = Round | Report | Exclude | Snapshot | Propose | Stored | Commands | Ack | Forgive

_encoder = Encoder()
_decoder: Decoder[Said] = Decoder(Said)
_sealed: Decoder[_Sealed] = Decoder(_Sealed)
_commands: Decoder[Command] = Decoder(Command)
_images: Decoder[Image] = Decoder(Image)
_VERSION_BYTE: Final = bytes((VERSION,))
NOTICE: Final = _VERSION_BYTE
"""What a server says to those who speak another version: which one it speaks."""


def encode(said: Said) -> bytes:
    """Write a message. Hot."""
    return _VERSION_BYTE + _encoder.encode(said)


def decode(data: bytes) -> Said:
    """Read a message. Raises Malformed. Hot."""
    if data[:1] != _VERSION_BYTE:
        if not data or not 0 < data[0] <= LARGEST_VERSION:
            raise NoServer(f"a message of {len(data)} bytes that no lock server says")
        raise OtherVersion(f"it speaks version {data[0]}, and this is version {VERSION}: install the same release")
    try:
        return _decoder.decode(memoryview(data)[1:])
    except (ValidationError, ValueError) as error:
        raise Malformed(f"a message of {len(data)} bytes: {error}", _rest(data)) from None


def _rest(data: bytes) -> Commands | None:
    """Read commands one by one: what somebody else has asked for is not lost with what cannot be read."""
    try:
        sealed = _sealed.decode(memoryview(data)[1:])
    except (ValidationError, ValueError):
        return None
    commands = []
    for raw in sealed.commands:
        with suppress(ValidationError, ValueError):
            commands.append(_commands.decode(raw))
    return Commands(sealed.start, sealed.serial, commands)


# ---- snapshots


def freeze(image: Image) -> bytes:
    """Write a whole state."""
    return _encoder.encode(image)


def digest(frozen: bytes) -> int:
    """Tell states apart."""
    return zlib.crc32(frozen)


def cut(frozen: bytes, round_id: RoundId) -> list[Snapshot]:
    """Cut a state into parts."""
    checksum = digest(frozen)
    bodies = [frozen[place : place + PART] for place in range(0, len(frozen), PART)]
    return [Snapshot(round_id, part, len(bodies), checksum, body) for part, body in enumerate(bodies)]


def thaw(parts: list[Snapshot], checksum: int) -> State:
    """Read the state of this checksum from its parts. Raises Malformed."""
    frozen = b"".join(part.body for part in parts)
    what = f"a snapshot of {len(frozen)} bytes"
    if digest(frozen) != checksum:
        raise Malformed(f"{what} with a wrong checksum")
    try:
        state = State.of(_images.decode(frozen))
    except (ValidationError, ValueError) as error:
        raise Malformed(f"{what}: {error}") from None
    if freeze(state.image()) != frozen:
        raise Malformed(f"{what} that is not what a state looks like")
    return state
