"""A program that sends as much as the ring takes, and tells of each ring.

    python -m tests.interop.loader -c FILE --node ID | --socket PATH [--hold SECONDS]

Lines: `ring` with its members, and each ten seconds `count`, of the messages that it was given since the start.
`--hold`: at random, once in ten seconds, it holds the interpreter for so long, as one call of a library that does so.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time

import trio

import cpg
from tests.interop.member import opened

MESSAGE = bytes(1000)
EVERY = 10.0
"""Seconds."""


def tell(**what):
    """Print a line."""
    print(json.dumps(what), flush=True)


class Loader:
    """One program."""

    def __init__(self, group):
        self.group = group
        self.count = 0

    async def listen(self):
        """Count messages, and tell of rings."""
        async for batch in self.group.batches():
            for event in batch:
                if isinstance(event, cpg.Message):
                    self.count += 1
                elif isinstance(event, cpg.TotemConfchg):
                    tell(event="ring", members=event.node_ids)

    async def send(self):
        """Send without end."""
        while True:
            await self.group.send(MESSAGE)

    async def report(self):
        """Tell how much has come."""
        while True:
            await trio.sleep(EVERY)
            tell(event="count", count=self.count)


async def hold(seconds):
    """Hold the interpreter now and then: in one call that does not let other threads run."""
    start = time.perf_counter()
    sum(range(10_000_000))
    size = round(10_000_000 * seconds / (time.perf_counter() - start))
    while True:
        await trio.sleep(random.expovariate(1 / EVERY))
        sum(range(size))


async def main():
    """Take part until killed."""
    logging.basicConfig(level=logging.INFO)
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", "--config")
    parser.add_argument("--node")
    parser.add_argument("--socket")
    parser.add_argument("--hold", type=float)
    parser.set_defaults(corosync=False)
    options = parser.parse_args()
    async with opened(options) as ring, ring.join("load") as group, trio.open_nursery() as nursery:
        loader = Loader(group)
        for task in (loader.listen, loader.send, loader.report):
            nursery.start_soon(task)
        if options.hold:
            nursery.start_soon(hold, options.hold)


if __name__ == "__main__":
    trio.run(main)
