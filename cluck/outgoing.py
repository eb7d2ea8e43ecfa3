"""What a lock server says to the group: what its clients ask for, and what it proposes itself.

It is kept until the view is primary. What was said in a view that has ended may be lost, and is said again in the next
one, with everything that clients still wait for: all commands may be said twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from cluck.clients import Batch, LocalClient
from cluck.commands import Acquire, Client, Command, Notify, Publish, RequestId, Stand, Wait
from cluck.protocol import Failed
from cluck.replica import Replica

MOST_KEPT: Final = 100_000
"""Commands that wait for a primary view."""
LARGEST_BATCH: Final = 256
"""Commands in one message."""
DISK_PATIENCE: Final = 3.0
"""Seconds that a request waits for a majority's disks to know of its lease."""

REQUESTS: Final = frozenset((Acquire, Wait, Notify, Stand, Publish))
"""Commands that are answered under their own request."""
_LEASED: Final = frozenset((Acquire, Stand))
"""Commands that ask for what is held by a lease."""


class Outgoing:
    """One server's commands, until they are final."""

    def __init__(self, replica: Replica, clients: Mapping[Client, LocalClient]) -> None:
        self.sent: float | None = None
        """When the message was sent that is being applied, if it is this server's own."""
        self._replica = replica
        self._clients = clients
        self._pending: list[Command] = []
        """What is to be given to the group next, or when the view is primary."""
        self._gated: list[Acquire | Stand] = []
        """Requests whose leases are longer than what a majority's disks know of."""
        self._gated_since: dict[RequestId, float] = {}
        self._batches: dict[int, Batch] = {}
        """By serial number."""
        self._says_again = False

    @property
    def is_full(self) -> bool:
        """Whether as many commands wait as may."""
        return len(self._pending) >= MOST_KEPT

    @property
    def is_busy(self) -> bool:
        """Whether something is not final yet, or waits for disks."""
        return bool(self._pending or self._gated or self._batches)

    # ---- in

    def say(self, command: Command) -> None:
        """Give a command to the group as soon as may be. Hot."""
        self._pending.append(command)

    def say_all(self, commands: Iterable[Command]) -> None:
        """Give these to the group as soon as may be."""
        self._pending += commands

    def ask(self, command: Command) -> None:
        """Give a client's request to the group; one for a long lease when disks know of such. Hot."""
        state = self._replica.state
        if type(command) in _LEASED and state is not None and self._replica.is_primary:
            needed = command.lease + command.grace  # type: ignore[union-attr]
            if needed > state.longest:
                self._gated.append(command)  # type: ignore[arg-type]
                self._replica.lengthen(needed)
                return
        self._pending.append(command)

    def ask_again(self) -> None:
        """Disks may know of longer leases by now."""
        gated, self._gated = self._gated, []
        for command in gated:
            self.ask(command)

    def refuse_unrecorded(self, now: float) -> None:
        """Have no request wait for disks that cannot be written: the client is told whose, and may ask for less."""
        since = self._gated_since
        self._gated_since = {command.request: since.get(command.request, now) for command in self._gated}
        for command in self._gated:
            local = self._clients.get(command.request.owner.client)
            if now - self._gated_since[command.request] > DISK_PATIENCE and local is not None:
                local.open.pop(command.request, None)
                local.candidates.pop(command.request, None)
                why = self._replica.unrecorded(command.lease + command.grace)
                local.tell(Failed(command.request, why, not_ready=True))
        self._gated = [command for command in self._gated if now - self._gated_since[command.request] <= DISK_PATIENCE]

    def take_back(self, command: Command) -> None:
        """It is not to be said after all; the group has never heard of it."""
        self._pending = [other for other in self._pending if other is not command]
        self._gated = [other for other in self._gated if other is not command]

    # ---- out

    def give(self, now: float) -> None:
        """Give the group, in a primary view, all that there is. Hot: once for each turn."""
        if self._says_again:
            self._says_again = False
            self._pending[:0] = self._what_is_open()
        for place in range(0, len(self._pending), LARGEST_BATCH):
            self._submit(self._pending[place : place + LARGEST_BATCH], now)
        self._pending.clear()

    def _submit(self, commands: list[Command], now: float) -> None:
        """Give commands to the group as one message. Hot: for each command."""
        for command in commands:
            if type(command) in REQUESTS and (local := self._clients.get(command.request.owner.client)):  # type: ignore[union-attr]
                known = local.open.get(command.request)  # type: ignore[union-attr]
                if known is not None:
                    known.is_submitted = True
        self._batches[self._replica.submit(commands)] = Batch(commands, now)

    def _what_is_open(self) -> list[Command]:
        """Everything that may have been lost with the former view: what was in its order, then what may not have been.

        The latter stays in its own order, so that nobody asks for a lock before it has given back another one.
        """
        lost = [command for batch in self._batches.values() if batch.number is None for command in batch.commands]
        self._batches = {serial: batch for serial, batch in self._batches.items() if batch.number is not None}
        said = set(lost)
        known = (known for local in self._clients.values() for known in local.open.values() if known.is_submitted)
        return [open.command for open in known if open.command not in said] + lost

    # ---- what becomes of it

    def on_delivered(self, serial: int) -> None:
        """A message of this server is in the order, and is applied next."""
        batch = self._batches.get(serial)
        self.sent = None
        if batch is not None:
            batch.number = self._replica.number
            self.sent = batch.sent

    def on_final(self, number: int) -> None:
        """What was applied up to here is not lost any more."""
        for serial in [serial for serial, batch in self._batches.items() if batch.number is not None]:
            if self._batches[serial].number <= number:  # type: ignore[operator]
                del self._batches[serial]

    def on_primary(self) -> None:
        """A view has begun in which to say again what may be lost."""
        self._says_again = True

    def on_suspended(self) -> None:
        """The view has ended: what is not final may be lost."""
        for batch in self._batches.values():
            batch.number = None
