"""Count what passes over a path, one way."""

from __future__ import annotations

from typing import Final, NamedTuple


class Amount(NamedTuple):
    """What has passed."""

    packets: int
    size: int
    """Bytes of all of them."""


NOTHING: Final = Amount(0, 0)


class Traffic:
    """What has passed until now, by the kind of packet (`totem.wire.knet`)."""

    __slots__ = ("_amounts",)

    def __init__(self) -> None:
        self._amounts: dict[int, Amount] = {}

    def add(self, kind: int, packets: int, size: int) -> None:
        """Count packets, of so many bytes together."""
        before = self._amounts.get(kind, NOTHING)
        self._amounts[kind] = Amount(before.packets + packets, before.size + size)

    def amounts(self) -> dict[int, Amount]:
        """Return what has passed, by kind; a kind of which nothing has is missing."""
        return dict(self._amounts)
