"""Closed process groups for programs on asyncio: `async with cpg.aio.connect() as ring`.

The ring and its groups are those of `cpg.connect`, natively in asyncio's loop, with no trio in the process. Errors are
the same on both loops, and are the loop's own, too: a full queue is a `cpg.QueueFull`, here also an
`asyncio.QueueFull`. A task that is cancelled gets `asyncio.CancelledError`::

    async def main() -> None:
        async with cpg.aio.connect() as ring, ring.join("chat") as group:

            @group.on_message
            def _(sender: cpg.Member, message: bytes) -> None:
                print(f"{sender.node_id}: {message.decode()}")

            await group.send(b"hello")
            await group.flush()

    asyncio.run(main())
"""

from cpg.client.asynchronous import DaemonRing, connect
from cpg.group import Group
from cpg.ring import Ring

__all__ = ["DaemonRing", "Group", "Ring", "connect"]
