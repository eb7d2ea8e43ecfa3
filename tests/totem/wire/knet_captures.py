"""The captures of real rings over knet in `captures/knet/`: packets, opened with the keys of the rings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.totem.wire.pcap import Datagram, datagrams
from totem.config import Knet
from totem.links.crypto import Seal, seal_of

FOLDER = Path(__file__).parent / "captures" / "knet"
FILES = sorted(FOLDER.glob("*.pcap.gz"))
CAPTURES = sorted({path.name.split(".")[0] for path in FILES})
"""With two links a capture is two files."""
FOREIGN = {"03-foreign-plain": 2, "05-zlib": 3, "07-key-change": 3, "08-two-links-active": 3, "08-two-links-rr": 3}
"""The nodes that are not Corosync's."""


class Packet(NamedTuple):
    """A packet of knet, as it was before it was sealed."""

    time: float
    """In seconds since the epoch."""
    link: int
    source: int
    target: int
    data: bytes
    sealed: bytes
    """As it was on the wire."""
    knet: Knet
    """How it was sealed."""


def settings(name: str) -> tuple[Knet, ...]:
    """Return the configurations of a ring, in the order in which they were valid."""
    key_a, key_b = ((FOLDER / f"knet-test-{key}.key").read_bytes() for key in "AB")
    aes256 = Knet(cipher="aes256", hash="sha256", key=key_a)
    if name == "02-aes256-sha256":
        return (aes256,)
    if name == "07-key-change":
        return aes256, Knet(cipher="aes128", hash="sha512", key=key_b)
    return (Knet(),)


@cache
def packets(name: str) -> list[Packet]:
    """Return all packets of a capture, on all links, in the order captured."""
    seals = [(knet, seal_of(knet, os.urandom)) for knet in settings(name)]
    found = [
        _opened(datagram, seals) for path in FILES if path.name.startswith(f"{name}.") for datagram in datagrams(path)
    ]
    return sorted(found, key=lambda packet: packet.time)


def _opened(datagram: Datagram, seals: list[tuple[Knet, Seal]]) -> Packet:
    source, target = (int(address.rpartition(".")[2]) for address in (datagram.source, datagram.destination))
    link = int(datagram.source.split(".")[1]) - 77
    assert datagram.source_port == datagram.destination_port
    for knet, seal in seals:
        (opened,) = seal.open((datagram.payload,))
        if opened is not None:
            return Packet(datagram.time, link, source, target, opened, datagram.payload, knet)
    raise AssertionError(f"does not open: {datagram}")


def of_kind(name: str, kind: int) -> Iterator[Packet]:
    """Return the packets of a type, in the order captured."""
    return (packet for packet in packets(name) if packet.data[1] == kind)
