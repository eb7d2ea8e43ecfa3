"""A program that wants a lock, or to lead, and tells when it has that.

    python -m bench.contender SOCKET lock|lead

SOCKET is its lock server's. Each holding and each leadership is a JSON line: `at`, seconds of the clock that all
processes of a machine share. A line on standard input is answered, `ready`, when the lock servers decide. Its end ends
this program.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from typing import Any

import trio

import cluck

NAME = "detection"
LEASE, GRACE = 3.0, 1.0
"""Seconds, of the lock; as a leadership has them by default."""


def tell(**what: object) -> None:
    """Print one line."""
    print(json.dumps(what), flush=True)


async def hold(locks: Any) -> None:
    """Take the lock, keep it while that goes, and again."""
    while True:
        with suppress(cluck.LockError):
            async with locks.lock(NAME, duration=LEASE, grace=GRACE) as held:
                tell(at=time.monotonic())
                while True:
                    await trio.sleep(LEASE / 3)
                    await held.renew()
        await trio.sleep(LEASE / 30)


async def lead(locks: Any) -> None:
    """Lead whenever it may."""

    async def act(leader: object) -> None:
        tell(at=time.monotonic())
        await trio.sleep_forever()

    async with locks.candidate(NAME) as candidate:
        await candidate.run_while_leader(act)


async def run(socket: str, what: str) -> None:
    """Take part, until standard input ends."""
    async with cluck.connect(socket) as locks, trio.open_nursery() as nursery:
        nursery.start_soon(hold if what == "lock" else lead, locks)
        async for _ in trio.lowlevel.FdStream(0):
            await locks.wait_ready()
            tell(ready=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(run, *sys.argv[1:])
