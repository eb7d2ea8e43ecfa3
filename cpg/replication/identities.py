"""Name servers and machines, and declare the limits of the numbers that all messages of this wing share."""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

from msgspec import Meta

LARGEST_EPOCH: Final = (1 << 31) - 1
"""An application may draw 2**32 numbers in each epoch, and all fit into 63 bits."""

Number = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Epoch = Annotated[int, Meta(ge=0, le=LARGEST_EPOCH)]


class ServerId(NamedTuple):
    """One life of a server: its node, and a number that it drew at random when it started."""

    node_id: Number
    start: Number


class Boot(NamedTuple):
    """One run of a machine, from start to end. Where another run is seen, all programs of this one have ended."""

    machine: Annotated[str, Meta(max_length=64)]
    run: Annotated[str, Meta(max_length=64)]
