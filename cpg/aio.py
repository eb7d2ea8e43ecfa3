"""Closed process groups for programs on asyncio: `async with cpg.aio.connect() as ring`.

The ring and its groups are those of trio's programs (`cpg.connect`), natively in asyncio's loop, with no trio in the
process. What differs is what differs between the two: a full queue is `asyncio.QueueFull`, a second consumer a
`RuntimeError`, and a task that is cancelled gets `asyncio.CancelledError`::

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
