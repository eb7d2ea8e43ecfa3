"""A leader among the members of a group, on asyncio: all members agree on one of them.

Usage: python examples/leader.py GROUP

The leader is the first of the members, where the ring has the votes to act (quorum); elsewhere there is none.
"""

import asyncio
import sys

import cpg


async def main(name: str) -> None:
    """Print the leader, at each change, until interrupted."""
    # The ring: of this machine's cpgd.
    async with cpg.aio.connect() as ring, ring.join(name) as group:
        leader: cpg.Member | None = None
        quorate = False
        async for event in group:
            if isinstance(event, cpg.Transitional):
                quorate = False  # the ring is changing: nobody acts until its votes are counted
            elif isinstance(event, cpg.Quorum):
                quorate = event.quorate
            now = group.members[0] if quorate and group.members else None
            if now != leader:
                leader = now
                who = f"{leader.node_id}:{leader.pid}" if leader else "nobody"
                print(f"{who} leads{', that is me' if leader == group.member else ''}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python examples/leader.py GROUP", file=sys.stderr)
        sys.exit(2)
    try:
        asyncio.run(main(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
    except cpg.TotemError as error:
        sys.exit(str(error))
