"""A client of the lock server, for commands with a timeout."""

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
async def connect_in_time(
    socket: str | None, timeout: float | None
) -> AsyncGenerator[tuple[asynchronous.Locks, float | None], None]:
    """Connect for the time of a block; yield the client, and what is left of the timeout. None: no timeout.

    The first second does not count. A lock server that runs answers within it, so a timeout of 0 can be used too.
    Raises `CommandFailed` if the lock server has not answered in time.
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
