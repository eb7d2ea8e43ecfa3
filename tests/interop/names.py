"""A program in several groups whose names may have NULs, as Pacemaker's, through libcpg of the machine.

    python -m tests.interop.names NAME...

Names in hexadecimal. It sends its node id to each, and prints what happens there as JSON lines.
"""

from __future__ import annotations

import json
import sys

import trio

import cpg


async def take_part(ring, name):
    """Be in a group, and tell what happens."""
    async with ring.join(name) as group:
        await group.send(b"%d" % ring.node_id)
        async for event in group:
            told = {"group": name.hex()}
            if isinstance(event, cpg.Message):
                told |= {"event": "message", "data": event.data.decode()}
            elif isinstance(event, cpg.Confchg):
                told |= {"event": "confchg", "members": sorted(member.node_id for member in event.members)}
            else:
                continue
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()


async def main():
    """Be in all groups until killed."""
    async with cpg.open_corosync() as ring, trio.open_nursery() as nursery:
        for name in sys.argv[1:]:
            nursery.start_soon(take_part, ring, bytes.fromhex(name))


trio.run(main)
