"""A lock server in a process: the shell that runs a `Service` on a group of any ring.

The daemon's clients come to it through a socket, those of `cluck.open` from hand to hand.
"""

from __future__ import annotations

import logging
import os
import random
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import anyio

from cluck.commands import Force
from cluck.protocol import Downward
from cluck.server.change_log import ChangeLog
from cluck.server.connection import Connection
from cluck.server.queries import name_as_text
from cluck.server.replies import LeadershipNews
from cluck.server.service import Service
from cpg.block import Waiters
from cpg.events import Confchg
from cpg.group import Group
from cpg.payloads import Guarantee
from cpg.replication.identities import ServerId
from cpg.replication.replica import ReplicaSettings
from cpg.replication.wire import DurableRecord
from totem.errors import QueueFull, RingLost
from totem.log_fields import event_fields, extra
from totem.store import LONGEST_PAUSE, SHORTEST_PAUSE, words
from totem.text import printable, quoted

_log = logging.getLogger(__name__)

GROUP: Final = "cluck"
"""The lock servers' group."""
LONGEST_SLEEP: Final = 1.0
"""Seconds after which the clock is read again: it continues while the machine is suspended, sleeps do not."""


class Store(Protocol):
    """Where a record is made durable: `cluck.server.store.Disk`, or something in memory for tests."""

    def load(self) -> DurableRecord | None:
        """Return what is known."""

    async def save(self, record: DurableRecord) -> None:
        """Remember at least this, durably."""


class Host:
    """Runs one lock server, from when its group is joined until the end of the ring."""

    def __init__(
        self, group: Group, settings: ReplicaSettings, store: Store, *, clock: Callable[[], float], key: bytes = b""
    ) -> None:
        self.clock = clock
        self.service = Service(
            group.member, settings, store.load(), dice=random.Random(os.urandom(16)), now=clock(), key=key
        )
        self.worked: Callable[[], None] = lambda: None
        """Called when everything that clients may be told now has been queued."""
        self.log_of_election: Callable[[LeadershipNews], None] = self._log_of_election
        """Called with what the administrator should know of an election that clients of this server lead or led."""
        self._group = group
        self._store = store
        self._outbox: deque[bytes] = deque()
        self._jobs = Waiters()
        """Wakes the tasks that send what had no room, store records, and watch the time."""
        self._said = Waiters()
        """Wakes the task that does what several clients have requested in one turn."""
        self._asleep_until = 0.0
        self._changes = ChangeLog(clock())
        self._has_worked = False
        """Something was given to the group since its last event."""

    async def run(self) -> None:
        """Serve until cancelled. Raises `RingLost` where the group's stream ends."""
        async with anyio.create_task_group() as tasks:
            for job in (self._work_for_many, self._send_on, self._store_records, self._watch_time):
                tasks.start_soon(job)
            async for batch in self._group.batches():
                now = self.clock()
                for event in batch:
                    if type(event) is Confchg:
                        if self._group.member in event.left:
                            raise RingLost("the connection to the daemon was lost, and with it the lock servers' group")
                        self._changes.confchg(event)
                    self.service.event(event, now)
                self.work()
                self._has_worked = False
            raise RingLost("the lock servers' group has been left")

    def work_soon(self) -> None:
        """Do what clients have requested: at once for the first after an event, together for those of one turn."""
        if self._has_worked:
            self._said.wake()
        else:
            self._has_worked = True
            self.work()

    async def _work_for_many(self) -> None:
        while True:
            await self._said.wait()
            self.work()

    @property
    def is_behind(self) -> bool:
        """Return whether something waits for room in the ring: clients should not send more now."""
        return bool(self._outbox)

    def work(self) -> None:
        """Give the service's output to the group, the disk and the clock. Hot: once for each turn."""
        service = self.service
        now = self.clock()
        messages = service.take(now)
        if messages and not self._outbox:
            try:
                self._group.send_nowait(messages, Guarantee.SAFE_OR_AGREED)
            except QueueFull:
                self._outbox.extend(messages)
        else:
            self._outbox.extend(messages)
        if self._outbox or service.record_to_store is not None or service.deadline < self._asleep_until:
            self._jobs.wake()
        self._log_change(now)
        for news in service.take_leadership_news():
            self.log_of_election(news)
        while service.forced:
            self._log_force(*service.forced.popleft())
        self.worked()

    def _log_of_election(self, news: LeadershipNews) -> None:
        _log.info("election %s: %s", printable(news.election), news.text, extra=extra(news.fields))

    def _log_force(self, force: Force, server: ServerId) -> None:
        node_id, lock = self.service.replica.member.node_id, name_as_text(force.name)
        fields = event_fields("lock_forced", node=node_id, lock=lock, token=force.token, by_node=server.node_id)
        _log.warning(
            "node %d: lock %s was taken by force from the holder of token %d, by an administrator at node %d",
            node_id,
            quoted(force.name),
            force.token,
            server.node_id,
            extra=extra(fields),
        )

    def _log_change(self, now: float) -> None:
        """Log who decides, if that has changed. Hot: once for each turn."""
        for line in self._changes.news(self.service.replica, self.service.unheard_since, now):
            node_id = self.service.replica.member.node_id
            level = logging.WARNING if line.is_warning else logging.INFO
            _log.log(level, "node %d: %s", node_id, line.text, extra=extra(line.fields, node=node_id))

    async def _send_on(self) -> None:
        while True:
            while not self._outbox:
                await self._jobs.wait()
            messages = list(self._outbox)
            await self._group.send(messages, Guarantee.SAFE_OR_AGREED)
            for _ in messages:
                self._outbox.popleft()

    async def _store_records(self) -> None:
        """Store records; where the disk cannot be written, again and again, while all else continues."""
        pause = SHORTEST_PAUSE
        while True:
            while (record := self.service.record_to_store) is None:
                await self._jobs.wait()
            try:
                await self._store.save(record)
            except OSError as error:
                self._on_disk_fault(words(error))
                await anyio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            pause = SHORTEST_PAUSE
            self._on_disk_fault("")
            self.service.stored(record)
            self.work()

    def _on_disk_fault(self, fault: str) -> None:
        """Log once what is wrong with the disk, and once that it can be written again."""
        replica, node_id = self.service.replica, self.service.replica.member.node_id
        if bool(fault) != bool(replica.disk_fault):
            if fault:
                text = "no longer leases and no new epoch are recorded here until the disk can be written: "
                fields = event_fields("disk_fault", node=node_id, what="lock_records", fault=fault)
                _log.error("node %d: %s%s", node_id, text, fault, extra=extra(fields))
            else:
                fields = event_fields("disk_recovered", node=node_id, what="lock_records")
                _log.warning("node %d: records are stored again", node_id, extra=extra(fields))
        replica.disk_fault = fault

    async def _watch_time(self) -> None:
        while True:
            now = self.clock()
            if self.service.deadline <= now:
                self.service.advance(now)
                self.work()
            else:
                self._log_change(now)
            self._asleep_until = min(self.service.deadline, now + LONGEST_SLEEP)
            with anyio.move_on_after(max(0.0, self._asleep_until - now)):
                while self.service.deadline >= self._asleep_until:
                    await self._jobs.wait()

    def connect(
        self,
        send: Callable[[Downward], None],
        *,
        may_force: bool = True,
        user: int = 0,
        is_behind: Callable[[], bool] = lambda: False,
    ) -> Connection:
        """Begin with a client; after each `receive` and `lost` of it call `work_soon`."""
        return self.service.connect(send, may_force=may_force, user=user, is_behind=is_behind)
