"""Jobs distributed among the members of a group, without a coordinator.

Usage: python examples/jobs.py GROUP < JOBS

Each line of standard input is a job. All members see it at the same place in the order, with the same members. So all
choose the same member for it, without another message. The giver sends the job again if that member goes away before it
has reported the job as done, and if its own connection to the daemon is lost: a job is done at least once.
"""

import json
from typing import Any
from zlib import crc32

import trio
from keyboard import lines, run

import cpg


class Jobs:
    """One member, which gives jobs and does them."""

    def __init__(self, group: cpg.Group) -> None:
        self._group = group
        self._given = 0
        self._open: dict[int, tuple[str, cpg.Member | None]] = {}
        """Own jobs that are not done yet, and the member that does each, once that is known."""

    async def give(self, job: str) -> None:
        """Give a job to the group."""
        self._given += 1
        self._open[self._given] = (job, None)
        await self._send(do=self._given, job=job)

    async def run(self) -> None:
        """Take part until cancelled."""
        async for event in self._group:
            match event:
                case cpg.Message(sender, data):
                    await self._on_message(sender, json.loads(data))
                case cpg.Confchg(_, left, _):
                    for number, (job, worker) in list(self._open.items()):
                        if worker in left or self._group.member in left:
                            await self._send(do=number, job=job)

    async def _on_message(self, sender: cpg.Member, message: dict[str, Any]) -> None:
        me, members = self._group.member, self._group.members
        match message:
            case {"do": number, "job": job}:
                worker = members[crc32(f"{sender} {number}".encode()) % len(members)]
                if sender == me:
                    self._open[number] = (job, worker)
                if worker == me:
                    print(f"done: {job}", flush=True)  # here it would be done
                    await self._send(done=number, giver=sender)
            case {"done": number, "giver": giver} if cpg.Member(*giver) == me:
                self._open.pop(number, None)

    async def _send(self, **message: object) -> None:
        await self._group.send(json.dumps(message).encode())


async def main(name: str) -> None:
    """Give the jobs of standard input, and do this process's share of all jobs, until interrupted."""
    # The ring: of this machine's cpgd; or cpg.open_ring("ring.conf"), cpg.open_corosync().
    async with cpg.connect() as ring, ring.join(name) as group, trio.open_nursery() as nursery:
        jobs = Jobs(group)
        nursery.start_soon(jobs.run)
        async for line in lines():
            await jobs.give(line)


if __name__ == "__main__":
    run(main, "python examples/jobs.py GROUP < JOBS")
