"""The bytes of knet, the layer below totem of Corosync's usual transport (libknet of kronosnet, protocol version 1).

Host ids and sequence numbers are big endian. What only comes back to its sender, the time of a ping and the size of a
probe, is in the sender's order; this package writes little endian. Everything here is one UDP payload after decryption
(`totem.links.crypto`).

    header         version 1, type, host id of the sender, two bytes of padding
    ping, pong     link, the sender's clock, the number of its last data packet, whether it is regular
    probe, reply   link, the size of the IP packet that is tried; a probe is filled up to it
    data           number, compression, padding, whether for all, fragments, which of them, channel; then user data
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

VERSION: Final = 1
DATA: Final = 0x00
PING: Final = 0x81
PONG: Final = 0x82
PROBE: Final = 0x83
PROBE_REPLY: Final = 0x84

SHORTEST: Final = 7
"""Bytes of the shortest packet that anybody reads."""
PREFIX: Final = Struct(">BBH")  # version, type, host id
PREFIX_BYTES: Final = PREFIX.size
_PAD: Final = bytes(2)

_PING: Final = Struct(">B16sHB")  # link, time, seq, timed
_PROBE: Final = Struct("<BH")  # link, size: in the order of the one that probes
_DATA: Final = Struct(">HBBBBBb")  # seq, compress, pad, bcast, frag_num, frag_seq, channel

PING_BYTES: Final = PREFIX.size + len(_PAD) + _PING.size
PROBE_BYTES: Final = PREFIX.size + len(_PAD) + _PROBE.size
DATA_HEADER: Final = PREFIX.size + len(_PAD) + _DATA.size
LARGEST_HEADER: Final = PING_BYTES
"""Real nodes leave room for the largest header, also in data packets."""
MOST_FRAGMENTS: Final = 254
LARGEST_USER_DATA: Final = 65536

SEQ_AT: Final = slice(6, 8)
COMPRESSION_AT: Final = 8
FRAGMENTS_AT: Final = 11
FRAGMENT_AT: Final = 12
CHANNEL_AT: Final = 13

assert PING_BYTES == 26
assert PROBE_BYTES == 9
assert DATA_HEADER == 14


_STAMP: Final = Struct("<qq")  # seconds, nanoseconds


def stamp(nanoseconds: int) -> bytes:
    """Return a moment of the sender's clock as a ping has it."""
    return _STAMP.pack(*divmod(nanoseconds, 1_000_000_000))


def moment(time: bytes) -> int:
    """Return the moment that a pong brings back, in nanoseconds."""
    seconds, nanoseconds = _STAMP.unpack(time)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


class Ping(NamedTuple):
    """A ping, or a pong, which repeats what the ping said."""

    link: int
    time: bytes
    """16 bytes, which mean something to the sender of the ping alone."""
    seq: int
    """The number of the sender's last data packet; 0: it has sent none."""
    timed: bool
    """Whether it is regular, and measures the time there and back; else it only tells the number."""


class Fragment(NamedTuple):
    """A data packet: a user packet, or one of its fragments."""

    seq: int
    compression: int
    """The number of the model by which the whole user packet is compressed; 0: none."""
    fragments: int
    number: int
    """Which one of the fragments, from 1 on; 0 where there is one alone."""
    channel: int


def prefix(kind: int, host: int) -> bytes:
    """Return the first four bytes of a packet."""
    return PREFIX.pack(VERSION, kind, host)


def ping(host: int, said: Ping) -> bytes:
    """Build a ping."""
    return prefix(PING, host) + _PAD + _PING.pack(said.link, said.time, said.seq, said.timed)


def read_ping(packet: bytes) -> Ping:
    """Read a ping or a pong of at least `PING_BYTES` bytes."""
    link, time, seq, timed = _PING.unpack_from(packet, 6)
    return Ping(link, time, seq, bool(timed))


def pong(host: int, asked: bytes) -> bytes:
    """Build the answer to a ping: the same, from another host."""
    return prefix(PONG, host) + asked[PREFIX_BYTES:PING_BYTES]


def probe(host: int, link: int, size: int, length: int) -> bytes:
    """Build a probe for IP packets of a size, which is filled up to a length."""
    return (prefix(PROBE, host) + _PAD + _PROBE.pack(link, size)).ljust(length, b"\0")


def read_probe(packet: bytes) -> tuple[int, int]:
    """Read link and size of a probe, or of the answer to one, of at least `PROBE_BYTES` bytes."""
    link, size = _PROBE.unpack_from(packet, 6)
    return link, size


def probe_reply(host: int, asked: bytes) -> bytes:
    """Build the answer to a probe."""
    return prefix(PROBE_REPLY, host) + asked[PREFIX_BYTES:PROBE_BYTES]


def data_header(host: int, said: Fragment, *, for_all: bool) -> bytes:
    """Build what stands before user data."""
    return (
        prefix(DATA, host)
        + _PAD
        + _DATA.pack(said.seq, said.compression, 0, for_all, said.fragments, said.number, said.channel)
    )


def read_fragment(packet: bytes) -> Fragment:
    """Read the header of a data packet of at least `DATA_HEADER` bytes."""
    seq, compression, _, _, fragments, number, channel = _DATA.unpack_from(packet, 6)
    return Fragment(seq, compression, fragments, number, channel)


def whole_headers(host: int, seqs: list[int], *, for_all: bool) -> list[bytes]:
    """Build the headers of user packets that are in one piece and not compressed. Hot."""
    begin = prefix(DATA, host) + _PAD
    end = data_header(host, Fragment(0, 0, 1, 0, 0), for_all=for_all)[8:]
    return [b"".join((begin, seq.to_bytes(2, "big"), end)) for seq in seqs]
