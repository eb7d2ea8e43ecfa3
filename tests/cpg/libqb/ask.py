"""Send requests to a service of this place, in bytes: python -m tests.cpg.libqb.ask SERVICE < requests, as hex, one a
line.

A line that begins with `!` has no answer; `?` reads an event instead. It prints answers and events as hex.
"""

import sys

import trio

from tests.cpg.libqb.client import PATIENCE, RawClient


async def main(service):
    async with RawClient(service) as client:
        for line in sys.stdin.read().split():
            source = client.requests
            if line == "?":
                source = client.events
            else:
                await client.send(bytes.fromhex(line.lstrip("!")))
            if not line.startswith("!"):
                with trio.fail_after(PATIENCE):
                    print((await source.recv(1 << 21)).hex())


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
