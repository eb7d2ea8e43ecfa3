"""Hearing: who hears whom between this node and another one, as the links machine has found it by its pings."""

from __future__ import annotations

from typing import NamedTuple


class Hearing(NamedTuple):
    """The two directions between this node and another one."""

    hears: bool
    """Whether this node hears the other one: a ping or an answer has come lately."""
    is_heard: bool
    """Whether the other one is known to hear this node: it has answered a ping in time."""


NEITHER = Hearing(hears=False, is_heard=False)
