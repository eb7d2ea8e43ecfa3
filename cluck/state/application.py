"""The locks as an application of `cpg.replication`: what their replica needs to know of them."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from cluck.commands import Command
from cluck.state.machine import LockImage, LockState
from cpg.replication.application import Application
from cpg.replication.wire import Codec

VERSION: Final = 5
"""Of the format in which lock servers speak to each other."""
DRIFT: Final = 0.001
"""Clocks' rates differ by no more than this share: all lock servers count leases with it (ruling E7)."""


def _name_difference(theirs: float, mine: float) -> str:
    return f"its leases allow for a drift of clocks of {theirs:g}, and this one's of {mine:g}"


CODEC: Final = Codec(
    Application(
        version=VERSION,
        command=Command,
        image=LockImage,
        create=LockState,
        restore=LockState.of,
        terms=DRIFT,
        terms_type=Annotated[float, Meta(ge=0, le=1)],
        name_difference=_name_difference,
        usual_promise=10.0,
        server="lock server",
        promises="leases",
        how_to_change_voters="`cluck voters` changes them",
    )
)
