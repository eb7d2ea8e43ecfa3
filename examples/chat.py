"""Chat: everybody in a room sees the same lines, and who comes and goes, in one order.

Usage: python examples/chat.py ROOM
"""

from keyboard import lines, run

import cpg


async def main(room: str) -> None:
    """Send what is typed, and print what everybody sends."""
    # The ring: of this machine's cpgd; or cpg.open_ring("ring.conf"), cpg.open_corosync().
    async with cpg.connect() as ring, ring.join(room) as group:

        @group.on_message
        def _(sender: cpg.Member, message: bytes) -> None:
            print(f"{sender.node_id}:{sender.pid} says {message.decode(errors='replace')}", flush=True)

        @group.on_confchg
        def _(
            members: tuple[cpg.Member, ...], left: dict[cpg.Member, cpg.Reason], joined: dict[cpg.Member, cpg.Reason]
        ) -> None:
            for member, reason in left.items():
                print(f"{member.node_id}:{member.pid} has gone ({reason})", flush=True)
            for member in joined:
                print(f"{member.node_id}:{member.pid} is here, one of {len(members)}", flush=True)

        async for line in lines():
            await group.send(line.encode())


if __name__ == "__main__":
    run(main, "python examples/chat.py ROOM")
