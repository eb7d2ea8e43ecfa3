"""PySyncObj, a replicated log in pure Python on Raft: three nodes, flooded as rings are.

    python -m bench.replicated NUMBER ADDRESS...           # one node, the NUMBERth of these

It takes the orders of `bench.node` and answers them in the same way, so that it stands in a `Ring`. Whoever leads
sends, since that is the shortest way, and latencies are those at this node. No more than `WAY` commands are on their
way: with more of them nodes fall silent for so long that another one is elected.
"""

from __future__ import annotations

import json
import queue
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from typing import Any

from bench.rings import Driven, Ring, places_of
from bench.rivals import free_ports
from cpg.cli.flood import END, SETTLE, STAMP, Plan, Tally, message, report
from cpg.events import Member, Message
from tests.interop.network import unavailable
from totem.configuration import Level

WAY = 2000
"""Commands that are on their way."""
PORT = 5406
PATIENCE = 10
"""Seconds to complete a flood after its time."""
PAUSE = 0.001
SENDER = Member(1, 1)
NAME = "PySyncObj"


def missing() -> str:
    """What is missing, and how it comes; empty if nothing is."""
    return "" if find_spec("pysyncobj") else "pip install pysyncobj"


@asynccontextmanager
async def ring() -> AsyncIterator[Ring]:
    """Three nodes."""
    async with places_of(3) as (places, nursery):
        if unavailable():
            addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]  # on others of loopback it does not connect
        else:
            addresses = [f"{places.network.address(k)}:{PORT}" for k in places.config]
        drivers = {
            k: Driven(await places.start_program(nursery, k, "bench.replicated", k, *addresses)) for k in places.config
        }
        for driver in drivers.values():
            await driver.ask({"open": len(drivers)})
        yield Ring(NAME, places.network, drivers, [driver.program.process.pid for driver in drivers.values()])


def make_log(addresses: list[str], number: int) -> Any:
    """Make a node whose command `put` is replicated, and which puts what came of a flood into `tallies`."""
    from pysyncobj import SyncObj, SyncObjConf, replicated  # noqa: PLC0415  # may be missing

    class Log(SyncObj):  # type: ignore[misc]
        def __init__(self, own: str, others: list[str]) -> None:
            self.tallies: queue.Queue[Tally] = queue.Queue()
            self.tally = Tally(1)
            self.timed = False
            # In batches or not is said before each flood, but what is needed without them is made here alone.
            super().__init__(own, others, SyncObjConf(appendEntriesUseBatch=False))

        @replicated
        def put(self, data: bytes) -> None:
            if STAMP.unpack_from(data)[2] == 0:
                self.tally = Tally(1)
            self.tally.take([Message(SENDER, data, Level.AGREED)], time.monotonic_ns(), timed=self.timed)
            if self.tally.finished:
                self.tallies.put(self.tally)

    others = [*addresses]
    return Log(others.pop(number - 1), others)


def flood(log: Any, number: int, plan: Plan) -> dict[str, object]:
    """Run one node's part of a flood."""
    log.conf.appendEntriesUseBatch = not plan.rate
    time.sleep(SETTLE)  # so that all nodes have heard of it
    leads = log._isLeader()
    log.timed = leads and plan.rate > 0
    sent = send(log, number, plan) if leads else 0
    tally = Tally(1)
    with suppress(queue.Empty):
        tally = log.tallies.get(timeout=plan.seconds + PATIENCE)
        tally.finished = plan.members  # the leader's end is that of all
    return report(number, sent, tally)


def send(log: Any, number: int, plan: Plan) -> int:
    """Send for some seconds, and at last the end; how many messages that were."""
    log.tally = Tally(1)  # nothing is on its way yet
    sent, begin = 0, time.monotonic()
    while (now := time.monotonic()) < begin + plan.seconds:
        early = begin + sent / plan.rate - now if plan.rate else 0
        if early > 0 or sent - log.tally.delivered >= WAY:
            time.sleep(max(early, PAUSE))
            continue
        log.put(message(plan.size, number, sent))
        sent += 1
    log.put(message(plan.size, number, END))
    return sent


def main() -> None:
    """Run a node until standard input ends."""
    number, addresses = int(sys.argv[1]), sys.argv[2:]
    log = make_log(addresses, number)
    for line in sys.stdin:
        order = json.loads(line)
        if "open" in order:
            while not log.isReady():
                time.sleep(PAUSE)
            answer: dict[str, object] = {"formed": time.monotonic()}
        else:
            del order["group"]
            answer = flood(log, number, Plan(**order))
        print(json.dumps(answer), flush=True)
    log.destroy_synchronous()


if __name__ == "__main__":
    main()
