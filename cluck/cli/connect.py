"""A client of the lock server, for commands that have so much time and no more."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from cluck.cli.exit_codes import CommandFailed, Exit
from cluck.client import asynchronous
from cluck.client.session_locks import ANSWER_PATIENCE
from cluck.client.transport import CLUCKD


@asynccontextmanager
async def connected(
    socket: str | None, timeout: float | None
) -> AsyncGenerator[tuple[asynchronous.Locks, float | None], None]:
    """Be a client for the time of a block, with what is left of a time behind the welcome; None is for ever.

    The first second does not count: a lock server that runs welcomes within it, and where nobody waits that is seen.
    Raises `CommandFailed` where none has in that time.
    """
    begun = trio.current_time()
    longest = math.inf if timeout is None else max(timeout, ANSWER_PATIENCE)
    with trio.move_on_after(longest) as connecting:
        async with asynchronous.connect(socket) as locks:
            connecting.deadline = math.inf
            if timeout is not None:
                spent = max(round(trio.current_time() - begun - ANSWER_PATIENCE, 3), 0.0)
                timeout = max(timeout - spent, min(timeout, ANSWER_PATIENCE))
            yield locks, timeout
            return
    raise CommandFailed(CLUCKD.silence(longest), Exit.FAILED)
