"""A dictionary that is the same at all members of a group; new members get its content.

Usage: python examples/dictionary.py GROUP

A line KEY=VALUE sets a key, a line KEY prints its value.
"""

import json
from typing import Any

import trio
from keyboard import lines, run

import cpg

NOTHING = (-1, -1)


class Dictionary:
    """One member's copy. Only messages change it, so all copies go through the same states."""

    def __init__(self, group: cpg.Group) -> None:
        self.items: dict[str, str] = {}
        self.ready = trio.Event()
        self._group = group
        self._version = (0, 0)  # the last ring in which all members had this state, and the number of keys set so far
        self._ring, self._quorate, self._settled = 0, False, False
        self._offers = 0
        self._best = NOTHING  # the version of the best offer since the last member came
        self._source: tuple[cpg.Member, int] | None = None  # whose snapshot is expected, and for which of its offers
        self._since: list[list[str]] = []  # the keys that were set behind that offer
        self._sets = 0
        self._setting: dict[int, trio.Event] = {}  # own sets that have not come back, by number

    async def set(self, key: str, value: str) -> None:
        """Set a key at all members; return when it is set here. In a ring that is not quorate nothing is set.

        If the connection to the daemon is lost meanwhile, the key may be set or not: look at it.
        """
        self._sets += 1
        done = self._setting[self._sets] = trio.Event()
        await self._send({"set": [key, value], "number": self._sets}, cpg.SAFE_OR_AGREED)
        await done.wait()

    async def run(self) -> None:
        """Follow the group until cancelled."""
        async for event in self._group:
            match event:
                case cpg.Message(sender, data):
                    await self._on_message(sender, json.loads(data))
                case cpg.Confchg(members, left, joined):
                    if self._group.member in left:
                        self._forget_sets()
                    if members == (self._group.member,):
                        self.ready.set()  # a member that is alone has all there is
                    if members and (joined or (self._source and self._source[0] in left)):
                        await self._offer()
                case cpg.TotemConfchg(ring_id, _):
                    self._ring = ring_id.seq
                case cpg.Quorum(quorate, _):
                    self._quorate = quorate
                    self._agree()

    def _forget_sets(self) -> None:
        """The connection to the daemon was lost: sets that had not come back may be lost."""
        for done in self._setting.values():
            done.set()
        self._setting.clear()

    async def _offer(self) -> None:
        self._settled, self._best, self._source = False, NOTHING, None
        if self.ready.is_set():
            self._offers += 1
            await self._send({"offer": self._offers, "version": self._version})

    async def _on_message(self, sender: cpg.Member, message: dict[str, Any]) -> None:
        match message:
            case {"set": item, "number": number}:
                if self._quorate:
                    self._since += [item] if self._source else []
                    self._set(item)
                if sender == self._group.member and number in self._setting:
                    self._setting.pop(number).set()
            case {"offer": number, "version": version} if tuple(version) > self._best:
                self._best, self._source, self._since = tuple(version), (sender, number), []
                if sender == self._group.member:
                    await self._send({"snapshot": number, "version": self._version, "items": self.items})
            case {"snapshot": number, "version": [ring, count], "items": items} if self._source == (sender, number):
                self._source = None
                if not self.ready.is_set() or (ring, count + len(self._since)) >= self._version:
                    self.items, self._version = items, (ring, count)
                    for item in self._since:
                        self._set(item)
                    self._settled = True
                    self._agree()
                    self.ready.set()

    def _set(self, item: list[str]) -> None:
        key, value = item
        self.items[key] = value
        self._version = (self._version[0], self._version[1] + 1)

    def _agree(self) -> None:
        if self._settled and self._quorate and self._version[1]:
            self._version = (self._ring, self._version[1])

    async def _send(self, message: dict[str, Any], guarantee: cpg.Guarantee = cpg.AGREED) -> None:
        await self._group.send(json.dumps(message).encode(), guarantee)


async def main(name: str) -> None:
    """Set and print the keys that standard input names."""
    # The ring: of this machine's cpgd; or cpg.open_ring("ring.conf"), cpg.open_corosync().
    async with cpg.connect() as ring:
        await ring.wait_quorate()  # a member that is alone before would take its empty dictionary for all there is
        async with ring.join(name) as group, trio.open_nursery() as nursery:
            dictionary = Dictionary(group)
            nursery.start_soon(dictionary.run)
            await dictionary.ready.wait()
            async for line in lines():
                key, sets, value = line.partition("=")
                if sets:
                    await dictionary.set(key, value)
                print(f"{key} is {dictionary.items.get(key)}", flush=True)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    run(main, "python examples/dictionary.py GROUP")
