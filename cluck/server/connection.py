"""One connection of a client to its lock server: its greeting, and which messages it may send."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cluck.protocol import (
    MOST_OBSERVED,
    VERSION,
    Ask,
    Bye,
    Clock,
    Downward,
    Farewell,
    Goodbye,
    Hello,
    Ignore,
    Malformed,
    Observe,
    OfAdministrator,
    Pong,
    ReadClock,
    Upward,
)
from cluck.server.local_clients import LocalClient

if TYPE_CHECKING:
    from cluck.server.service import Service


class Connection:
    """One connection of one client."""

    def __init__(
        self,
        service: Service,
        send: Callable[[Downward], None],
        user: int,
        is_behind: Callable[[], bool],
        *,
        may_force: bool,
    ) -> None:
        """See `Service.connect` for the arguments."""
        self._service = service
        self._send = send
        self._user = user
        self._is_behind = is_behind
        self._may_force = may_force
        self.local: LocalClient | None = None
        """The client, once it has said hello."""

    def receive(self, messages: Sequence[Upward], now: float) -> None:
        """Take the client's messages. Raises Malformed."""
        for upward in messages:
            if self.local is None:
                self._greet(upward, now)
            else:
                self._handle(self.local, upward, now)

    def _greet(self, upward: Upward, now: float) -> None:
        if not isinstance(upward, Hello):
            raise Malformed(f"{type(upward).__name__} in place of Hello")
        if upward.version != VERSION:
            text = f"client of version {upward.version}, lock server of version {VERSION}: install the same release"
            self._send(Goodbye(Farewell.VERSION, text))
            return
        self.local = self._service.welcome(upward, self._send, self._user, self._is_behind, now)

    def _handle(self, local: LocalClient, upward: Upward, now: float) -> None:
        service = self._service
        match upward:
            case Pong():
                local.strikes = 0
            case Observe(election):
                if len(local.observed) >= MOST_OBSERVED and election not in local.observed:
                    raise Malformed(f"Observe with {MOST_OBSERVED} other elections observed")
                service.observe(local, election)
            case Ignore(election):
                local.ignore(election)
            case Ask():
                service.query(local, upward)
            case ReadClock():
                self._send(Clock(now))
            case Bye():
                self.lost(now, dead=True)
            case Hello():
                raise Malformed("a second Hello")
            case _:
                self._check(local, upward)
                service.command(local, upward, now)

    def _check(self, local: LocalClient, command: Any) -> None:
        request = getattr(command, "request", None)
        if request is not None and request.owner.client != local.client:
            raise Malformed(f"{type(command).__name__} in another client's name")
        if isinstance(command, OfAdministrator) and not self._may_force:
            raise Malformed("only an administrator takes locks by force, or changes who decides")

    def lost(self, now: float, *, dead: bool) -> None:
        """End the connection; again with `dead` once the client's process is known to have ended, too."""
        local = self.local
        if local is not None and local.send in (self._send, None):
            self._service.lost(local, now, dead=dead)
