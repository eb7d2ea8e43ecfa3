"""Cluster locks for programs on asyncio: `async with cluck.aio.connect() as locks`.

The locks, conditions and candidates are those of trio's programs (`cluck.connect`), natively in asyncio's loop, with no
trio in the process; a task that is cancelled gets `asyncio.CancelledError`, and its lock is given back::

    async def main() -> None:
        async with cluck.aio.connect() as locks, locks.lock("backup", timeout=5) as held:
            await copy(token=held.token)

    asyncio.run(main())
"""

from cluck.client.asynchronous import Candidate, Condition, Held, Locks, connect
from cluck.client.requests import Follower, Leader

__all__ = ["Candidate", "Condition", "Follower", "Held", "Leader", "Locks", "connect"]
