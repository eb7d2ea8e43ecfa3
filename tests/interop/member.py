"""A program in a group that does what it is told and writes down what it sees, on our node, through libcpg or `cpgd`.

    python -m tests.interop.member GROUP -c FILE --node ID | --corosync | --socket PATH

Orders come as lines on standard input, what happens goes as JSON lines to standard output: the events of the group as
`cpg listen --json` prints them, but messages with a digest for their data, and one line for each message sent.

    send SIZE...                 messages of so many bytes, each as one
    chatter RATE LOW HIGH        from now on RATE messages a second, of LOW to HIGH bytes
    figures                      the figures of quorum, as `cpg quorum --json` gives them (on our node)
    hush                         no more of that
    quiet                        the same; answers {"event": "quiet"} when all of it has come back
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from hashlib import blake2b

import trio

import cpg
from cpg.formatting import quorum_to_json, to_json


def digest(data):
    """What stands for the data of a message."""
    return f"{len(data)}:{blake2b(data, digest_size=8).hexdigest()}"


def tell(event):
    """Print one line."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


class Member:
    """One program."""

    def __init__(self, ring, group):
        self.ring = ring
        self.group = group
        self.member = member = ring.member
        self.dice = random.Random(f"{member.node_id}:{member.pid}")
        self.count = 0
        self.chatting = None

    async def listen(self):
        """Write down the stream."""
        async for batch in self.group.batches():
            lines = []
            for event in batch:
                if isinstance(event, cpg.Message):
                    message = {"sender": event.sender, "level": event.level.value, "data": digest(event.data)}
                    lines.append(json.dumps({"event": "message", **message}) + "\n")
                else:
                    lines.append(to_json(event) + "\n")
            sys.stdout.write("".join(lines))
            sys.stdout.flush()

    async def send(self, size):
        """Send a message of so many bytes, unlike all others (where there is room for its number)."""
        self.count += 1
        name = b"%d:%d:%d " % (*self.member, self.count)
        data = name[:size] + self.dice.randbytes(max(0, size - len(name)))
        tell({"event": "sent", "sender": self.member, "data": digest(data)})
        await self.group.send(data)

    async def chatter(self, rate, low, high):
        """Send at a rate until cancelled."""
        with trio.CancelScope() as self.chatting:
            while True:
                await trio.sleep(self.dice.expovariate(rate))
                with trio.CancelScope(shield=True):
                    await self.send(self.dice.randint(low, high))

    async def obey(self, nursery):
        """Do what is said, until standard input ends."""
        rest = b""
        async for chunk in trio.lowlevel.FdStream(0):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                match line.decode().split():
                    case ["send", *sizes]:
                        for size in sizes:
                            await self.send(int(size))
                    case ["chatter", rate, low, high]:
                        nursery.start_soon(self.chatter, float(rate), int(low), int(high))
                    case ["figures"]:
                        event = cpg.Quorum(self.ring.quorate, self.ring.node_ids)
                        tell(json.loads(quorum_to_json(event, self.ring.quorum)) | {"event": "figures"})
                    case ["hush"]:
                        if self.chatting is not None:
                            self.chatting.cancel()
                    case ["quiet"]:
                        if self.chatting is not None:
                            self.chatting.cancel()
                        await self.group.flush()
                        tell({"event": "quiet"})


def opened(options):
    """The ring that the options name."""
    if options.corosync:
        return cpg.open_corosync()
    return (
        cpg.connect(options.socket, reconnect=False) if options.socket else cpg.open_ring(options.config, options.node)
    )


async def main():
    """Join, obey and listen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("group")
    parser.add_argument("-c", "--config")
    parser.add_argument("--node")
    parser.add_argument("--corosync", action="store_true")
    parser.add_argument("--socket")
    options = parser.parse_args()
    async with opened(options) as ring, ring.join(options.group) as group, trio.open_nursery() as nursery:
        member = Member(ring, group)
        nursery.start_soon(member.listen)
        await member.obey(nursery)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
