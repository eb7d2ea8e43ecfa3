"""`cpg flood`: measure a ring as corosync's cpgflood does through libcpg, so that the two compare and may share a ring.

Each process joins a group and waits for the other members. Then every sender multicasts messages for some seconds, as
fast as possible or at a rate. With a rate each delivery is timed from its send: all processes must share one machine's
clock. A message is a stamp and padding; the last one of a sender carries `END` instead of a number. The digest of the
order is computed from the stamps once the clock has stopped. Equal digests mean the same sequence, wherever and by
whatever program it was seen.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import trio

from cpg.events import Confchg, Event, Message
from cpg.group import Group
from cpg.payloads import Guarantee

STAMP = struct.Struct("<QII")
"""Time of the send (monotonic nanoseconds), node of the sender, number there."""
END = 0xFFFF_FFFF
"""The number of a sender's last message."""
_END = END.to_bytes(4, "little")

SETTLE = 0.3
"""Seconds between the arrival of the last member and the start."""
MEMBERS_PATIENCE = 30.0
"""Seconds to wait for the members."""
END_PATIENCE = 60.0
"""Seconds to wait for the others' ends after the own one."""

LIST = 64 * 1024
"""Bytes sent in one list when there is no rate."""

_FNV_BASIS, _FNV_PRIME, _MASK64 = 1469598103934665603, 1099511628211, (1 << 64) - 1
_LEVELS = ("agreed", "transitional", "safe")
"""From weak to strong."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The part of one process."""

    members: int
    """Processes to wait for."""
    seconds: float = 3.0
    size: int = 64
    """Bytes of a message; at least those of a stamp."""
    rate: float = 0.0
    """Messages a second; 0: as many as possible, without latencies."""
    quiet: bool = False
    """Only listen."""
    guarantee: Guarantee = Guarantee.AGREED


class MembersMissing(Exception):
    """Fewer members came than were requested."""


@dataclass(slots=True)
class Tally:
    """What one process has seen of a flood of `members` processes."""

    members: int
    order: bytearray = field(default_factory=bytearray)
    """Sender and number from the stamp of each message, eight bytes, in the order of delivery."""
    bytes: int = 0
    first: int = 0
    last: int = 0
    confchgs: int = 0
    """Membership changes before the last end; must be 0 for the figures to count."""
    finished: int = 0
    """Number of ends that have arrived."""
    levels: set[str] = field(default_factory=set)
    latencies: list[int] = field(default_factory=list)

    def take(self, batch: list[Event], now: int, *, timed: bool) -> None:
        """Count a batch that arrived at `now` (monotonic nanoseconds). Hot: it must not cost what it measures."""
        order, before = self.order, len(self.order)
        for event in batch:
            if type(event) is Message:
                _, data, level = event
                if data[12:16] == _END:
                    self.finished += 1
                    continue
                order += data[8:16]
                self.bytes += len(data)
                if level not in self.levels:
                    self.levels.add(level)
                if timed:
                    self.latencies.append(now - STAMP.unpack_from(data)[0])
            elif type(event) is Confchg and self.finished < self.members:
                self.confchgs += 1
        if len(order) > before:
            self.first = self.first or now
            self.last = now

    @property
    def delivered(self) -> int:
        """Messages without ends."""
        return len(self.order) // 8

    def digest(self) -> int:
        """Fold the order into 64 bits (FNV, as cpgflood does)."""
        digest = _FNV_BASIS
        for node_id, seq in struct.iter_unpack("<II", self.order):
            digest = ((digest ^ node_id ^ (seq << 20)) * _FNV_PRIME) & _MASK64
        return digest


async def flood(group: Group, plan: Plan) -> dict[str, object]:
    """Run one process's part of a flood in a group just joined; return its report, with cpgflood's keys and `level`."""
    await _wait_for_members(group, plan)
    tally, sent = Tally(plan.members), 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_receive, group, plan, tally)
        await trio.sleep(SETTLE)
        tally.confchgs = 0
        if not plan.quiet:
            sent = await (_send_paced(group, plan) if plan.rate else _send_fast(group, plan))
        await group.send(message(plan.size, group.member.node_id, END))
        nursery.cancel_scope.deadline = trio.current_time() + END_PATIENCE
    return report(group.member.node_id, sent, tally)


async def _wait_for_members(group: Group, plan: Plan) -> None:
    with trio.move_on_after(MEMBERS_PATIENCE):
        async for _ in group:
            if len(group.members) >= plan.members:
                return
    raise MembersMissing(f"only {len(group.members)} of {plan.members} members came in {MEMBERS_PATIENCE:.0f} s")


async def _receive(group: Group, plan: Plan, tally: Tally) -> None:
    async for batch in group.batches():
        tally.take(batch, time.monotonic_ns(), timed=plan.rate > 0)
        if tally.finished >= plan.members:
            return


def message(size: int, node_id: int, seq: int) -> bytes:
    """Build a message of this size that is sent now."""
    return STAMP.pack(time.monotonic_ns(), node_id, seq) + bytes(size - STAMP.size)


async def _send_fast(group: Group, plan: Plan) -> int:
    """Send lists, as fast as the send queue accepts them."""
    node_id, padding, pack = group.member.node_id, bytes(plan.size - STAMP.size), STAMP.pack
    count = max(1, LIST // plan.size)
    sent, end = 0, time.monotonic() + plan.seconds
    while time.monotonic() < end:
        now = time.monotonic_ns()
        messages = [pack(now, node_id, seq) + padding for seq in range(sent, sent + count)]
        await group.send(messages, plan.guarantee)
        sent += count
    return sent


async def _send_paced(group: Group, plan: Plan) -> int:
    """Send messages one by one, each when it is due."""
    begin = trio.current_time()
    sent = 0
    for due in _beats(begin, plan):
        await trio.sleep_until(due)
        await group.send(message(plan.size, group.member.node_id, sent), plan.guarantee)
        sent += 1
    return sent


def _beats(begin: float, plan: Plan) -> Iterator[float]:
    for beat in range(round(plan.rate * plan.seconds)):
        yield begin + beat / plan.rate


def report(node_id: int, sent: int, tally: Tally) -> dict[str, object]:
    """Return a node's report, with cpgflood's keys and `level`."""
    seconds = (tally.last - tally.first) / 1e9
    said: dict[str, object] = {
        "node": node_id,
        "sent": sent,
        "delivered": tally.delivered,
        "seconds": round(seconds, 3),
        "msgs_per_s": round(tally.delivered / seconds) if seconds else 0,
        "MB_per_s": round(tally.bytes / seconds / 1e6, 2) if seconds else 0,
        "order": f"{tally.digest():016x}",
        "confchgs": tally.confchgs,
        "finished": tally.finished,
        "try_again": 0,
        "level": min(tally.levels, key=_LEVELS.index, default=""),
    }
    if tally.latencies:
        ordered = sorted(tally.latencies)
        picks = {"p50": len(ordered) // 2, "p99": len(ordered) * 99 // 100, "max": -1}
        said["latency_us"] = {name: round(ordered[pick] / 1000) for name, pick in picks.items()}
    return said
