"""What rings, groups and the engine require of each other, as Protocols: none loads another one for its type."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from cpg.events import Confchg, Member, Reason, RingEvent
from totem.configuration import Guarantee, Level, RingId

OnMessage = TypeVar("OnMessage", bound=Callable[[Member, bytes], object] | None)
OnConfchg = TypeVar(
    "OnConfchg", bound=Callable[[tuple[Member, ...], dict[Member, Reason], dict[Member, Reason]], object] | None
)
OnTransitional = TypeVar("OnTransitional", bound=Callable[[tuple[int, ...]], object] | None)
OnTotemConfchg = TypeVar("OnTotemConfchg", bound=Callable[[RingId, tuple[int, ...]], object] | None)
OnQuorum = TypeVar("OnQuorum", bound=Callable[[bool, tuple[int, ...]], object] | None)
OnLink = TypeVar("OnLink", bound=Callable[[int, int, bool, int, float], object] | None)


class Inbox(Protocol):
    """Where the events of one membership go. It must not raise.

    It is called while deliveries are handed on: it may call `Membership.send` and `leave`, and must queue the rest.
    """

    def messages(self, sender: Member, level: Level, payloads: list[bytes]) -> None:
        """Take consecutive messages of one sender, at most those of one frame. The list is shared: do not change it."""

    def event(self, event: Confchg | RingEvent) -> None:
        """Take any other event, in its place between the messages."""


class Membership(Protocol):
    """One process in one group, as its backend has it."""

    def send(self, payloads: Sequence[bytes], guarantee: Guarantee) -> None:
        """Queue messages, all or none. Raises QueueFull, NotJoined after `leave`."""

    def leave(self) -> None:
        """Leave behind all that was sent; a second call does nothing."""


class JoinedGroup(Protocol):
    """A group of this program, as its backend sees it."""

    def _is_of(self, membership: Membership) -> bool:
        """Return whether this is the group of a membership."""

    def _fail(self, failure: BaseException) -> None:
        """End the group's block: `failure` comes out of it."""


class Backend(Protocol):
    """What a group is joined on: any kind of ring.

    Rings implement this, and programs hold rings. So the names that are not for programs begin with an underscore.
    """

    gives_safe: bool
    """Whether a message can be sent as SAFE."""

    @property
    def member(self) -> Member:
        """This process, as a member of the groups that it joins here."""

    @property
    def _joined(self) -> set[Any]:
        """The groups (`JoinedGroup`) that this program is in, which end when the ring is lost."""

    async def _enter(self, name: bytes, inbox: Inbox) -> Membership:
        """Join a group. Raises RingLost where there is no ring any more, AlreadyJoined."""

    def _start_soon(self, task: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run a task that ends with the backend."""

    def _send_soon(self) -> None:
        """Give the ring what was queued."""

    async def _wait_room(self, size: int) -> None:
        """Wait until the send queue has room for `size` bytes; waiters are served in their order."""
