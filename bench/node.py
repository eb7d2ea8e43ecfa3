"""A program that floods when it is told to: a node itself, or a client of `cpgd`.

    python -m bench.node -c FILE --node ID | --socket PATH

Orders come as JSON lines on standard input; each is answered by one on standard output.

    {"open": MEMBERS}        take part in the ring; answers as it opens its sockets, and when so many nodes are there
    {"group": NAME, ...}     one flood; the rest is a `cpg.cli.flood.Plan`; answers with the report
    {"close": true}          leave the ring; answers when that is done

So a ring stands while many floods are measured, as one does where it is used, and may be formed anew without new
processes.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import trio

import cpg
from cpg.cli.flood import Plan, flood
from cpg.ring import Ring

Order = dict[str, Any]


async def obey(ring_of: Callable[[], AbstractAsyncContextManager[Ring]], orders: AsyncIterator[Order]) -> None:
    """Do what is said until nothing more is."""
    async for order in orders:
        tell(opening=time.monotonic())
        async with ring_of() as ring:
            await ring.wait_members(order["open"])
            tell(formed=time.monotonic())
            await take_part(ring, orders)
        tell(closed=time.monotonic())


async def take_part(ring: Ring, orders: AsyncIterator[Order]) -> None:
    """Flood until told to close."""
    async for order in orders:
        if "close" in order:
            return
        async with ring.join(order.pop("group")) as group:
            tell(**await flood(group, Plan(**order)))


def tell(**answer: object) -> None:
    """Print one line."""
    print(json.dumps(answer), flush=True)


async def read() -> AsyncIterator[Order]:
    """Orders, until standard input ends."""
    async for line in trio.wrap_file(sys.stdin):
        yield json.loads(line)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.node", description=__doc__.splitlines()[0])
    parser.add_argument("-c", "--config")
    parser.add_argument("--node", type=int)
    parser.add_argument("--socket")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)  # that this is a node's first start is no news
    if options.socket:
        ring_of: Callable[[], AbstractAsyncContextManager[Ring]] = partial(cpg.connect, options.socket)
    else:
        ring_of = partial(cpg.open_ring, options.config, options.node)
    trio.run(obey, ring_of, read())


if __name__ == "__main__":
    main()
