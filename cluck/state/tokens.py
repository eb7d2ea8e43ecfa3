"""Fencing tokens: each larger than all before, of any lock, over all restarts and merges (ruling E6).

A token is `epoch * 2**32 + n`. The epoch grows whenever a state is born, and is on the disks of a majority of the lock
servers before its first token. n counts the grants of that epoch, and is part of the replicated state.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

TOKENS_OF_AN_EPOCH: Final = 1 << 32
Drawn = Annotated[int, Meta(ge=0, lt=TOKENS_OF_AN_EPOCH)]
RESERVE: Final = 1 << 24
"""The next epoch is requested this many tokens before the end of the present one."""


class Tokens:
    """The counter."""

    def __init__(self, epoch: int, drawn: int = 0) -> None:
        self.epoch = epoch
        self.drawn = drawn
        """Tokens of this epoch."""

    def draw(self) -> int:
        """Return the next token; there must be one (`is_left`)."""
        self.drawn += 1
        assert self.drawn < TOKENS_OF_AN_EPOCH
        return self.epoch * TOKENS_OF_AN_EPOCH + self.drawn

    @property
    def is_left(self) -> bool:
        """Return whether another token may be drawn; if not, no majority's disks could store the next epoch. Hot."""
        return self.drawn < TOKENS_OF_AN_EPOCH - 1

    @property
    def run_short(self) -> bool:
        """Return whether the next epoch should begin."""
        return self.drawn >= TOKENS_OF_AN_EPOCH - RESERVE

    def begin(self, epoch: int) -> None:
        """Begin an epoch, unless it is not later than the present one."""
        if epoch > self.epoch:
            self.epoch, self.drawn = epoch, 0
