"""A program in a group that tells when it has each new list of the group's processes.

    python -m bench.watcher --socket PATH | --corosync

Each list is a JSON line: `at`, seconds of the clock that all processes of a machine share, and the nodes. A number on
standard input is how many messages a second it sends from then on.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from contextlib import suppress
from typing import Any

import trio

import cpg

GROUP = "detection"
MESSAGE = bytes(200)


async def watch(group: Any) -> None:
    """Tell of each list."""
    async for batch in group.batches():
        for event in batch:
            if isinstance(event, cpg.Confchg):
                nodes = sorted({member.node_id for member in event.members})
                print(json.dumps({"at": time.monotonic(), "nodes": nodes}), flush=True)


async def send(group: Any, rate: float) -> None:
    """Send at a rate, until cancelled."""
    while True:
        await trio.sleep(1 / rate)
        await group.send(MESSAGE)


async def run(options: argparse.Namespace) -> None:
    """Take part, until standard input ends."""
    opened = cpg.open_corosync() if options.corosync else cpg.connect(options.socket, reconnect=False)
    async with opened as ring, ring.join(GROUP) as group, trio.open_nursery() as nursery:
        nursery.start_soon(watch, group)
        sending = trio.CancelScope()

        async def sends(rate: float) -> None:
            with sending:
                await send(group, rate)

        async for chunk in trio.lowlevel.FdStream(0):
            sending.cancel()
            sending = trio.CancelScope()
            if rate := float(chunk.split()[-1]):
                nursery.start_soon(sends, rate)
        nursery.cancel_scope.cancel()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.watcher", description=__doc__.splitlines()[0])
    parser.add_argument("--socket")
    parser.add_argument("--corosync", action="store_true")
    logging.basicConfig(level=logging.CRITICAL)
    with suppress(cpg.RingLost):
        trio.run(run, parser.parse_args())


if __name__ == "__main__":
    main()
