"""Cluster locks for programs on asyncio: `async with cluck.aio.connect() as locks`.

The locks, conditions and candidates are those of programs on trio (`cluck.connect`). They run natively in asyncio's
loop, with no trio in the process. A task that is cancelled gets `asyncio.CancelledError`, and its lock is released::

    async def main() -> None:
        async with cluck.aio.connect() as locks, locks.lock("backup", timeout=5) as held:
            await copy(token=held.token)

    asyncio.run(main())
"""

from cluck.client.asynchronous import Candidate, Condition, Held, Locks, connect
from cluck.client.requests import Follower, Leader

__all__ = ["Candidate", "Condition", "Follower", "Held", "Leader", "Locks", "connect"]
