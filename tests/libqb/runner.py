"""A node that answers Corosync's libraries, until SIGTERM: python -m tests.libqb.runner CONFIG NODE."""

import logging
import signal
import sys
from functools import partial

import trio

import cpg
from cpg.libqb import serve

GUEST = 65533
"""A user who is let in beside root."""


async def main(config, node):
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    async with cpg.open_ring(config, int(node)) as ring, trio.open_nursery() as nursery:
        await nursery.start(partial(serve, ring, may_connect=lambda uid, gid: uid in (0, GUEST)))
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            await anext(signals)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
