"""Count what passes over a path, one way."""

from __future__ import annotations

from typing import Final, NamedTuple

from totem.wire import knet

_KINDS: Final = (knet.DATA, knet.PING, knet.PONG, knet.PROBE)


class Amount(NamedTuple):
    """What has passed."""

    packets: int
    size: int
    """Bytes of all of them."""


class Traffic:
    """What has passed until now, by the kind of packet (`totem.wire.knet`)."""

    __slots__ = ("_packets", "_sizes")

    def __init__(self) -> None:
        self._packets = dict.fromkeys(_KINDS, 0)
        self._sizes = dict.fromkeys(_KINDS, 0)

    def add(self, kind: int, packets: int, size: int) -> None:
        """Count packets, of so many bytes together. Hot: once for each train."""
        self._packets[kind] += packets
        self._sizes[kind] += size

    def amounts(self) -> dict[int, Amount]:
        """Return what has passed, by kind."""
        return {kind: Amount(packets, self._sizes[kind]) for kind, packets in self._packets.items()}
