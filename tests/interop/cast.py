"""The programs of one test: on which nodes they run, what becomes of them, and what all of them wrote down.

Real nodes and ours are started, killed, paused and stopped by the same words; a program comes with its node.
"""

from __future__ import annotations

import signal

import trio

from tests.interop.records import differences

GROUP = "chat"
CALL = 40
"""Bytes of the messages by which all call all; no others are of this size."""
CALLS, CALL_PATIENCE = 5, 15
"""How often, and for how many seconds each."""


def last(events, kind):
    """The last event of a kind, or None."""
    return next((event for event in reversed(events) if event["event"] == kind), None)


def ring_of(*nodes):
    """Whether the last ring that was told has these nodes."""

    def condition(events):
        ring = last(events, "ring")
        return ring is not None and tuple(ring["members"]) == nodes

    return condition


def company_of(*nodes):
    """Whether the group's last list has one process on each of these nodes, and no other."""

    def condition(events):
        change = last(events, "confchg")
        return change is not None and tuple(node for node, _ in change["members"]) == nodes

    return condition


class Cast:
    """One program a node, in one group."""

    def __init__(self, ring, nursery, real):
        """`real`: the places of Corosync nodes; all others are ours, their programs behind `cpgd` if `ring.served`."""
        self.ring = ring
        self.real = frozenset(real)
        self.daemons = {}
        """Of our nodes that have one, by node id."""
        self.programs = {}
        """Those that run, by node id."""
        self.past = []
        """(node id, what it wrote down) of those that do not run any more."""
        self._nursery = nursery
        self._paused = set()

    async def start(self, *nodes):
        """Start nodes and their programs."""
        for k in nodes:
            if k not in self.real:
                self.programs[k] = await self._start_ours(k)
        real = self.real.intersection(nodes)
        await self.ring.start_corosync(*real)
        for k in real:
            self.programs[k] = await self.ring.start_client(self._nursery, k, GROUP)

    async def _start_ours(self, k):
        if not self.ring.served:
            return await self.ring.start_member(self._nursery, k, GROUP)
        self.daemons[k] = await self.ring.start_daemon(self._nursery, k)
        return await self.ring.start_served(self._nursery, k, GROUP)

    async def together(self, *nodes):
        """Wait until all programs are told of this ring and this company, and each has heard each of the others.

        They call again if the ring changed meanwhile: a call may have been told to a part of it only.
        """
        for _ in range(CALLS):
            for k in nodes:
                await self.programs[k].until(ring_of(*nodes))
                await self.programs[k].until(company_of(*nodes))
            marks = {k: len(self.programs[k].events) for k in nodes}
            with trio.move_on_after(CALL_PATIENCE):
                await self._call(marks)
                return
            if not any(last(self.programs[k].events[mark:], "ring") for k, mark in marks.items()):
                break
        raise AssertionError(f"{nodes} do not all hear each other: {self.differences()[:3]}")

    async def _call(self, marks):
        await self.say(f"send {CALL}", *marks)
        calls = set()
        for k, mark in marks.items():
            await self.programs[k].until(lambda events, mark=mark: any(map(_is_call, events[mark:])))
            calls.add(next(event["data"] for event in self.programs[k].events[mark:] if _is_call(event)))
        for k, mark in marks.items():
            await self.programs[k].until(_has_all(calls, mark))

    async def say(self, order, *nodes):
        """Give the programs of these nodes (or all) an order."""
        for k in nodes or self.programs:
            await self.programs[k].say(order)

    async def quiet(self, *nodes):
        """End the chatter, and wait until all of it has come back."""
        for k in nodes or self.programs:
            program = self.programs[k]
            mark = len(program.events)
            await program.say("quiet")
            await program.until(lambda events, mark=mark: _count(events[mark:], "quiet"))

    def lost(self, k):
        """What the program on node K has sent and never got back; right once they have called each other again."""
        events = self.programs[k].events
        came = {event["data"] for event in events if event["event"] == "message" and event["sender"][0] == k}
        return [event["data"] for event in events if event["event"] == "sent" and event["data"] not in came]

    async def heard(self, count, *nodes):
        """Wait until these programs (or all) have been given so many messages more."""
        marks = {k: len(self.programs[k].events) for k in nodes or self.programs}
        for k, mark in marks.items():
            await self.programs[k].until(lambda events, mark=mark: _count(events[mark:], "message") >= count)

    async def kill(self, k):
        """End a node at once."""
        await self._end(k, self.ring.kill_corosync if k in self.real else None)

    async def leave(self, k):
        """Have a node leave in order."""
        program = self.programs.pop(k)
        self.past.append((k, program.events))
        await program.finish()
        if k in self.real:
            await self.ring.stop_corosync(k)
        if k in self.daemons:
            daemon = self.daemons.pop(k)
            daemon.signal(signal.SIGTERM)
            assert await daemon.ended() == 0

    async def _end(self, k, kill):
        program = self.programs.pop(k)
        self.past.append((k, program.events))
        if kill is not None:
            kill(k)
        if k in self.daemons:
            self.daemons[k].signal(signal.SIGKILL)
            await self.daemons.pop(k).ended()
        program.signal(signal.SIGKILL)
        await program.ended()

    def pause(self, k):
        """SIGSTOP."""
        self._signal(k, signal.SIGSTOP)

    def resume(self, k):
        """SIGCONT."""
        self._signal(k, signal.SIGCONT)

    def _signal(self, k, number):
        if k in self.real:
            self.ring.corosyncs[k].send_signal(number)
        elif k in self.daemons:
            self.daemons[k].signal(number)
        else:
            self.programs[k].signal(number)

    def records(self):
        """(node id, what it wrote down) of all programs so far."""
        return self.past + [(k, program.events) for k, program in self.programs.items()]

    def differences(self, *, lossy=False):
        """What is wrong with all that was written down. `lossy`: clients of real nodes may lose own messages."""
        records = {(k, number): events for number, (k, events) in enumerate(self.records())}
        return list(differences(records, self.real, lossy=lossy))

    def rings_at(self, k):
        """How many rings the program on node K has been told of."""
        return _count(self.programs[k].events, "ring")

    async def check_health(self, *members, besides="$^"):
        """Assert what `MixedRing.check_health` does, and that corosync-cpgtool shows all programs and no other."""
        await self.ring.check_health(*members, besides=besides)
        programs = sorted((program.process.pid, k) for k, program in self.programs.items())
        for k in self.ring.corosyncs:
            groups = self.ring.groups_at(k)
            assert sorted(groups.get(GROUP, [])) == programs, f"node {k}: {groups}, not {programs}"

    async def finish(self, *, lossy=False):
        """Check what was written down so far, then end all programs. `lossy`: as in `differences`."""
        assert not self.differences(lossy=lossy)
        for program in self.programs.values():
            program.signal(signal.SIGKILL)
            await program.ended()
        for daemon in self.daemons.values():
            daemon.signal(signal.SIGKILL)
            await daemon.ended()


def _count(events, kind):
    return sum(event["event"] == kind for event in events)


def _is_call(event):
    return event["event"] == "sent" and event["data"].startswith(f"{CALL}:")


def _has_all(wanted, mark):
    def condition(events):
        return wanted <= {event["data"] for event in events[mark:] if event["event"] == "message"}

    return condition
