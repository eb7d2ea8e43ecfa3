"""Sync: what all members of a new ring send each other before applications go on.

It runs after every regular configuration. Each member sends the list of services that it would sync (`service_build`).
When all lists have arrived, everybody knows the same merged list. Then the services take their turns, in ascending
order and in lock step: each member sends the messages of its service and one barrier behind them. When the barriers of
all members have arrived, the service is activated, at the same place of the total order everywhere. A service that this
node does not have costs it one barrier. After the last service sync is complete.

Rules of this module (wire-protocol 8.3, ruling C4):
* Both messages carry their ring's id. Those of another ring are left over from an aborted round and are ignored.
* Messages of services carry no ring id. So a member is believed (`heard`) only behind its own service_build of this
  ring: what it had queued for an aborted round comes before that.
* A configuration change, transitional or regular, aborts. Nothing of an aborted round is kept.
* One silent member blocks all. The machine cannot change that, but it reports which members are awaited, and counts
  rounds that take longer than the limit. It has no clock: a round's time starts at the first `advance` after it began.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from cpg.node.wire import Barrier, ServiceBuild
from totem.configuration import NO_RING, RingId


class SyncService(NamedTuple):
    """A service's part in sync."""

    messages: Callable[[], list[bytes]]
    """Return this node's messages, when the service's turn comes."""
    activate: Callable[[], None]
    """Called when the messages of all members have been delivered."""


class Sync:
    """One node's side of the sync of one ring at a time."""

    def __init__(
        self,
        services: Mapping[int, SyncService],
        *,
        send: Callable[[list[bytes]], None],
        complete: Callable[[RingId], None],
        limit: float,
    ) -> None:
        """`limit`: seconds after which a round counts as overdue."""
        self._services = services
        self._send = send
        self._complete = complete
        self._limit = limit
        self.deadline = math.inf
        """When `advance` must be called."""
        self.ring_id = NO_RING
        """The ring that is being synced; NO_RING if none is."""
        self.started = 0
        self.completed = 0
        self.overdue = 0
        self._members: frozenset[int] = frozenset()
        self._heard: set[int] = set()
        self._merged: set[int] = set()
        self._turns: list[int] = []
        """Services that are still to come, the present one first; empty while service_builds are awaited."""
        self._barriers: set[int] = set()

    def start(self, ring_id: RingId, members: Iterable[int]) -> None:
        """Sync this ring, which has just been installed."""
        self.abort()
        self.ring_id = ring_id
        self._members = frozenset(members)
        self.deadline = -math.inf  # the next `advance` sets the time
        self.started += 1
        self._send([ServiceBuild(ring_id, tuple(sorted(self._services))).encode()])

    def abort(self) -> None:
        """End the round, if there is one: the ring is changing."""
        self.ring_id = NO_RING
        self._members = frozenset()
        self._heard.clear()
        self._merged.clear()
        self._turns.clear()
        self._barriers.clear()
        self.deadline = math.inf

    def heard(self, node_id: int) -> bool:
        """Return whether messages of this member's services belong to the present round."""
        return node_id in self._heard

    @property
    def silent(self) -> tuple[int, ...]:
        """Members that the round waits for, in ascending order."""
        return tuple(sorted(self._members - (self._barriers if self._turns else self._heard)))

    def on_service_build(self, sender: int, message: ServiceBuild) -> None:
        """Note a member's services; behind the last list the first turn begins."""
        if message.ring_id != self.ring_id or sender not in self._members or self._turns:
            return
        self._heard.add(sender)
        self._merged.update(message.services)
        if self._heard == self._members:
            self._turns = sorted(self._merged)
            self._take_turn()

    def on_barrier(self, sender: int, message: Barrier) -> None:
        """Note that a member has sent all for the present service; behind the last barrier it is activated."""
        if message.ring_id != self.ring_id or not self._turns or sender not in self._members:
            return
        self._barriers.add(sender)
        if self._barriers == self._members:
            service = self._services.get(self._turns.pop(0))
            if service is not None:
                service.activate()
            self._take_turn()

    def _take_turn(self) -> None:
        self._barriers.clear()
        if not self._turns:
            ring_id = self.ring_id
            self.abort()
            self.completed += 1
            self._complete(ring_id)
            return
        service = self._services.get(self._turns[0])
        said = service.messages() if service is not None else []
        self._send([*said, Barrier(self.ring_id).encode()])

    def advance(self, now: float) -> None:
        """Start the round's time, or count the round as overdue (once a round)."""
        if now < self.deadline:
            return
        if self.deadline == -math.inf:
            self.deadline = now + self._limit
        else:
            self.overdue += 1
            self.deadline = math.inf
