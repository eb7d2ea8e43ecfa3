"""What a lock server gives to the group: its clients' requests, and its own proposals.

Commands are kept until the view is primary, as far as there is room for them. What was sent in a view that has ended
may be lost. It is submitted again in the next view, with everything that clients still wait for: every command may come
twice.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from typing import Final

from cluck.commands import (
    MOST_UNSETTLED,
    Acquire,
    ClientId,
    Command,
    EndWait,
    Notify,
    Publish,
    Release,
    Renew,
    RequestId,
    Resign,
    Stand,
    Wait,
    Withdraw,
)
from cluck.protocol import Failed
from cluck.server.local_clients import ADMINISTRATORS, Batch, LocalClient
from cluck.state.machine import LockState
from cpg.local.shares import Shares
from cpg.replication.replica import Replica
from cpg.replication.wire import DurableRecord

MOST_KEPT: Final = 100_000
"""Commands of clients that wait for a primary view, shared by the users; a long one counts as several."""
MOST_FOLLOWUPS: Final = 4 * MOST_UNSETTLED
"""Of these, those of one client about requests that it has made before."""
LARGEST_BATCH: Final = 256
"""Commands in one message; a long one counts as several."""
LONG: Final = 1024
"""Bytes of attached data that count as another command."""
DISK_PATIENCE: Final = 3.0
"""Seconds that a request waits for a majority's disks to know of its lease, or of another epoch of tokens."""

REQUESTS: Final = frozenset((Acquire, Wait, Notify, Stand, Publish))
"""Commands that are answered under their own request."""
_LEASED: Final = frozenset((Acquire, Stand))
"""Commands that request something held by a lease."""


def _weight(command: Command) -> int:
    """Return how many commands one counts as. Hot."""
    return 1 + len(command.blob) // LONG if type(command) is Publish else 1


class Submissions:
    """One server's commands, until they are final."""

    def __init__(self, replica: Replica[LockState], clients: Mapping[ClientId, LocalClient]) -> None:
        self.sent: float | None = None
        """When the message that is being applied was sent, if it is this server's own."""
        self._replica = replica
        self._clients = clients
        self._waiting: dict[int, Command] = {}
        """What is to be sent next, or when the view is primary, in order. By `id`, so that it can be cancelled."""
        self._users: dict[int, int] = {}
        """Of these, those that take room: whose they are."""
        self._shares = Shares(MOST_KEPT, (ADMINISTRATORS,))
        self._followups: dict[ClientId, dict[tuple[type, RequestId], Command]] = {}
        """Of these, those of clients about requests that they made before."""
        self._gated: dict[int, Acquire | Stand] = {}
        """Requests whose leases are longer than those that a majority's disks know of."""
        self._gated_since: dict[RequestId, float] = {}
        self._batches: OrderedDict[int, Batch] = OrderedDict()
        """By serial number."""
        self._resubmits = False
        self._in_flight: deque[float] = deque()
        """When the messages were sent that have not come back."""

    def has_room(self, local: LocalClient, command: Command) -> bool:
        """Return whether there is room for a command of a client: always where it need not wait long."""
        return self._replica.is_primary or self._shares.may_take(local.user, _weight(command))

    @property
    def is_busy(self) -> bool:
        """Return whether something is not final yet, or waits for disks."""
        return bool(self._waiting or self._gated or self._batches)

    @property
    def unheard_since(self) -> float | None:
        """Return since when a message has not come back; None: all have, or nobody decides."""
        return self._in_flight[0] if self._in_flight and self._replica.is_primary else None

    def on_sent(self, count: int, now: float) -> None:
        """Take note that a number of messages was sent. Hot: once for each turn."""
        self._in_flight.extend([now] * count)

    def on_returned(self) -> None:
        """The next one of them has come back. Hot."""
        if self._in_flight:
            self._in_flight.popleft()

    # ---- in

    def submit(self, command: Command) -> None:
        """Have a command sent as soon as possible. Hot."""
        self._waiting[id(command)] = command

    def submit_for(self, local: LocalClient, command: Command) -> None:
        """Have a client's command sent; where it has to wait, it takes room. Hot."""
        if not self._replica.is_primary and self._shares.take(local.user, _weight(command)):
            self._users[id(command)] = local.user
        self._waiting[id(command)] = command

    def submit_all(self, commands: Iterable[Command]) -> None:
        """Have commands sent as soon as possible."""
        for command in commands:
            self.submit(command)

    def submit_request(self, command: Command, local: LocalClient | None = None) -> None:
        """Have a client's request sent, when disks know of its lease, and of an epoch with tokens. Hot."""
        state = self._replica.state
        if type(command) in _LEASED and state is not None and self._replica.is_primary:
            needed = command.lease + command.grace  # type: ignore[union-attr]
            if needed > state.longest_promise or not state.tokens.is_left:
                self._gated[id(command)] = command  # type: ignore[assignment]
                if needed > state.longest_promise:
                    self._replica.promise(needed)
                return
        if local is not None:
            self.submit_for(local, command)
        else:
            self.submit(command)

    def submit_followup(self, local: LocalClient, command: Withdraw | Release | Renew | EndWait | Resign) -> None:
        """Have sent what a client says of a request that it made before. Hot.

        While nobody decides, the last of each kind is kept, as far as there is room.
        """
        if not self._replica.is_primary:
            kept = self._followups.setdefault(local.client, {})
            kind = type(command), command.request
            former = kept.pop(kind, None)
            if former is not None:
                self._drop(former)
            elif len(kept) >= MOST_FOLLOWUPS:
                return
            if not self.has_room(local, command):
                return
            kept[kind] = command
        self.submit_for(local, command)

    def may_matter(self, local: LocalClient, request: RequestId) -> bool:
        """Return whether somebody may know a request, so that more that is said of it matters."""
        state = self._replica.state
        return state is None or request in local.open or bool(state.present(request))

    def _drop(self, command: Command) -> None:
        self._waiting.pop(id(command), None)
        user = self._users.pop(id(command), None)
        if user is not None:
            self._shares.give(user, _weight(command))

    def retry_gated(self) -> None:
        """Submit requests again for which disks may know enough by now."""
        gated, self._gated = self._gated, {}
        for command in gated.values():
            self.submit_request(command)

    def refuse_unrecorded(self, now: float) -> None:
        """Refuse requests that wait for disks which cannot be written: clients are told whose, and may ask for less."""
        since, gated = self._gated_since, list(self._gated.values())
        self._gated_since = {command.request: since.get(command.request, now) for command in gated}
        for command in gated:
            if now - self._gated_since[command.request] <= DISK_PATIENCE:
                continue
            del self._gated[id(command)]
            local = self._clients.get(command.request.owner.client)
            if local is not None:
                local.open.pop(command.request, None)
                local.step_back(command.request)
                local.reply(Failed(command.request, self._what_is_unstored(command), not_ready=True))

    def _what_is_unstored(self, command: Acquire | Stand) -> str:
        """Say whose disks do not know of its lease, or of the epoch whose tokens are needed."""
        state = self._replica.state
        if state is not None and not state.tokens.is_left:
            what = "the fencing tokens of this epoch are used up: the next one"
            return self._replica.unstored(what, DurableRecord(state.epoch + 1, state.longest_promise, state.voters))
        longest = command.lease + command.grace
        return self._replica.unstored(f"a lease of {longest:g} s with its grace", DurableRecord(0, longest))

    def cancel(self, command: Command) -> None:
        """Do not send a command, of which the group has never heard."""
        self._drop(command)
        self._gated.pop(id(command), None)

    def forget(self, local: LocalClient) -> None:
        """Cancel all commands of a client that has ended."""
        for kind in self._followups.pop(local.client, {}).values():
            self._drop(kind)
        for known in local.open.values():
            if not known.is_submitted:
                self.cancel(known.command)

    # ---- out

    def flush(self, now: float) -> None:
        """Send everything, in a primary view. Hot: once for each turn."""
        if self._resubmits:
            self._resubmits = False
            self._waiting = {id(command): command for command in self._what_may_be_lost()} | self._waiting
        batch: list[Command] = []
        weight = 0
        for command in self._waiting.values():
            weight += _weight(command)
            if weight > LARGEST_BATCH and batch:
                self._send(batch, now)
                batch, weight = [], _weight(command)
            batch.append(command)
        if batch:
            self._send(batch, now)
        self._waiting.clear()
        self._followups.clear()
        if self._users:
            self._users.clear()
            self._shares = Shares(MOST_KEPT, (ADMINISTRATORS,))

    def _send(self, commands: list[Command], now: float) -> None:
        """Send commands as one message. Hot: for each command."""
        for command in commands:
            request: RequestId | None = getattr(command, "request", None)
            local = self._clients.get(request.owner.client) if request is not None else None
            if local is None or request is None:
                continue
            local.is_known = True
            known = local.open.get(request)
            if known is not None and type(command) in REQUESTS:
                known.is_submitted = True
        self._batches[self._replica.submit(commands)] = Batch(commands, now)

    def _what_may_be_lost(self) -> list[Command]:
        """Return all that may have been lost with the former view: what was in its order, then what may not have been.

        The latter stays in its own order, so that nobody requests a lock before it has released another one.
        """
        lost = [command for batch in self._batches.values() if batch.number is None for command in batch.commands]
        for serial in [serial for serial, batch in self._batches.items() if batch.number is None]:
            del self._batches[serial]
        said = set(lost)
        known = (known for local in self._clients.values() for known in local.open.values() if known.is_submitted)
        return [open.command for open in known if open.command not in said] + lost

    # ---- what becomes of it

    def on_delivered(self, serial: int) -> None:
        """Take note that a message of this server is in the order, and is applied next."""
        batch = self._batches.get(serial)
        self.sent = None
        if batch is not None:
            batch.number = self._replica.number
            self.sent = batch.sent

    def on_final(self, number: int) -> None:
        """Forget what was applied up to here, which cannot be lost any more."""
        while self._batches:
            serial, batch = next(iter(self._batches.items()))
            if batch.number is None or batch.number > number:
                break  # they are in the order in which they were given
            del self._batches[serial]

    def on_primary(self) -> None:
        """Begin a view, in which to submit again what may be lost."""
        self._in_flight.clear()
        self._resubmits = True

    def on_suspended(self) -> None:
        """End the view: what is not final may be lost."""
        for batch in self._batches.values():
            batch.number = None
