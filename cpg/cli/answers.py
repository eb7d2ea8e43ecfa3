"""What a daemon is asked, and its silence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from cpg.client.asynchronous import SILENCE, WELCOME_PATIENCE
from totem.streams import complain

Answer = TypeVar("Answer")


async def answered(
    program: str, ask: Callable[[], Awaitable[Answer]], silence: Callable[[float], str], failure: type[Exception]
) -> Answer:
    """Wait for a daemon's answer; people are told when that takes long. It is asked again then, which changes nothing.

    Args:
        program: Its name, for what is told.
        ask: Asks, and returns the answer.
        silence: Says that there was none for so many seconds.
        failure: Raised with that, where none comes.
    """
    with trio.move_on_after(SILENCE):
        return await ask()
    complain(program, silence(SILENCE))
    with trio.move_on_after(WELCOME_PATIENCE - SILENCE):
        return await ask()
    raise failure(silence(WELCOME_PATIENCE))
