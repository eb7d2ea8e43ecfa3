"""A program that takes a lock again and again, and makes a number one larger each time that it holds it.

    python -m tests.interop.holder LOCKS STORE NAME

LOCKS is a lock server's socket, STORE that of a `tests.cluck.daemon.token_store`. What happens is printed as JSON
lines, with times of the boot-time clock. `freeze` on standard input stops the process by SIGSTOP the next time that it
has read and not written yet: it goes on with SIGCONT, and writes at once, whatever has become of the lock. The end of
standard input ends it when it has given its lock back.
"""

import json
import os
import signal
import sys
import time

import trio

from cluck.client.asynchronous import connect
from cluck.errors import LockError, LockLost
from tests.cluck.daemon.token_store import Access

DURATION, GRACE = 1.0, 0.2
"""Seconds."""
CONFIRMED = 4.0
"""A release that takes longer may have been left to the session."""
PAUSE = 0.02


def now():
    """Return the clock of leases."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def tell(event, **fields):
    """Print a line."""
    print(json.dumps({"event": event, "at": now()} | fields), flush=True)


class Holder:
    """One that holds, and not for long."""

    def __init__(self, locks, store, name):
        self._locks = locks
        self._store = store
        self._name = name
        self._freezes = False
        self._ends = False

    async def listen(self):
        """Take orders."""
        async for _ in trio.lowlevel.FdStream(os.dup(0)):
            self._freezes = True
        self._ends = True

    async def run(self):
        """Take the lock until told to end."""
        while not self._ends:
            try:
                await self._turn()
            except LockError as error:
                tell("failed", why=f"{type(error).__name__}: {error}")
            await trio.sleep(PAUSE)
        tell("end")

    async def _turn(self):
        tell("asks")
        called = deadline = 0.0
        try:
            async with self._locks.lock(self._name, duration=DURATION, grace=GRACE) as held:
                deadline = held.deadline
                tell("holds", token=held.token, deadline=deadline)
                self._make_one_larger(held.token)
                await trio.sleep(PAUSE)
                called = now()
                tell("gives back")
        except LockLost:
            if not called:
                tell("lost")
            raise
        is_sure = now() < min(called + CONFIRMED, deadline) and self._locks.ready
        tell("gave back", sure=is_sure)

    def _make_one_larger(self, token):
        value = self._store.read(token)
        if self._freezes:
            self._freezes = False
            tell("freezes")
            os.kill(os.getpid(), signal.SIGSTOP)
        if value is None:
            tell("refused")
        else:
            tell("wrote" if self._store.write(token, value + 1) else "refused")


async def main(locks_path, store_path, name):
    """Run."""
    async with trio.open_nursery() as nursery:
        async with connect(locks_path) as locks:
            holder = Holder(locks, Access(store_path), name)
            nursery.start_soon(holder.listen)
            await holder.run()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
