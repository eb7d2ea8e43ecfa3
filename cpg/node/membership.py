"""One local process in one group: its events go into its inbox, its messages are one ordered stream.

A membership has four steps: accepted (`Engine.join`), joined (its procjoin was delivered), leaving (`leave`), left (its
procleave was delivered). Its inbox gets the events from the second step to the fourth. Its messages keep their order:
procjoin, messages, procleave (ruling C6). What does not fit into the ring's bounded queue at once waits in the outbox:
joins and leaves, which are never refused, and messages that are longer than one mcast. While something waits there,
nothing can overtake it.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from cpg.contracts import Inbox
from cpg.errors import NotJoined
from cpg.events import Member, Reason
from cpg.node.pieces import Outgoing
from cpg.node.wire import LARGEST_PLAIN, MCAST_PREFIX, Procjoin, Procleave, mcast_label, mcast_prefix
from cpg.payloads import LARGEST_MESSAGE
from totem.configuration import Guarantee
from totem.errors import MessageTooLong, QueueFull
from totem.text import quoted

if TYPE_CHECKING:
    from cpg.node.engine import Engine

KNOWN_HEADERS: Final = 1024
"""Limit of each cache of mcast headers: they differ by sender, group and payload size."""


class _Step(enum.Enum):
    ACCEPTED = enum.auto()
    JOINED = enum.auto()
    LEFT = enum.auto()


class _Envelope(dict[int, bytes]):
    """The headers of a member's messages by payload size (`totem.labels.Envelope`)."""

    header_size = MCAST_PREFIX
    largest = LARGEST_PLAIN

    def __init__(self, name: bytes, member: Member) -> None:
        self.label = mcast_label(name, member.pid)
        self._name = name
        self._member = member

    def __missing__(self, length: int) -> bytes:
        if len(self) >= KNOWN_HEADERS:
            self.clear()
        header = self[length] = mcast_prefix(self._name, self._member.pid, length, self._member.node_id)
        return header


_Waiting = tuple[list[bytes], Guarantee, _Envelope | None] | Outgoing
"""An entry of an outbox: messages that the ring's queue can take at once, or one to be sent in pieces."""


class LocalMembership:
    """One local process in one group, from the acceptance of its join to the delivery of its leave.

    Its inbox gets first the `Confchg` of the own join, then `TotemConfchg` of the present ring, then the group's
    stream, and last the `Confchg` with the own leave; nothing after that.
    """

    def __init__(self, engine: Engine, name: bytes, pid: int, inbox: Inbox) -> None:
        self.name = name
        self.member = Member(engine.node_id, pid)
        self.inbox = inbox
        self._engine = engine
        self._envelope = _Envelope(name, self.member)
        self._step = _Step.ACCEPTED
        self.leaving = False
        """`leave` has been called: nothing more can be sent."""
        self._outbox: deque[_Waiting] = deque()

    @property
    def joined(self) -> bool:
        """Whether the own join has been delivered and the own leave has not."""
        return self._step is _Step.JOINED

    @property
    def left(self) -> bool:
        """Whether the own leave has been delivered: the inbox gets nothing more."""
        return self._step is _Step.LEFT

    @property
    def members(self) -> tuple[Member, ...]:
        """The group's members at this point of the order, in order of node id and pid."""
        return self._engine.members(self.name)

    def send(self, payloads: Sequence[bytes], guarantee: Guarantee = Guarantee.AGREED) -> None:
        """Queue separate messages of this member, in order and with none of its others between.

        All or none. Raises QueueFull (try again after the engine's next `deliver`), MessageTooLong (more than
        LARGEST_MESSAGE), NotJoined after `leave`. Messages are accepted from the join call on. A list with a message
        that is too long for one mcast is accepted as a whole and given to the ring piece by piece. Until that is done,
        further calls raise QueueFull. So do those of other members with such a list when `LARGEST_WAITING` bytes wait.
        """
        if self.leaving:
            raise NotJoined(f"group {quoted(self.name)} has been left")
        if self._outbox:
            raise QueueFull("earlier messages of this member still wait for room")
        try:
            self._engine.multicast(payloads, guarantee, self._envelope)
        except MessageTooLong:
            chunks = self._chunks(payloads, guarantee)
            self._engine.check_room(sum(map(len, payloads)))
            self._queue(chunks)

    def leave(self, reason: Reason = Reason.LEAVE) -> None:
        """Leave behind all that was sent: never refused, waits for room by itself. A second call does nothing.

        `reason`: PROCDOWN for a process that has ended without leaving.
        """
        if not self.leaving:
            self.leaving = True
            self._queue([([Procleave(self.name, self.member.pid, reason).encode()], Guarantee.AGREED, None)])

    # For the engine.

    def enter(self) -> None:
        """Announce the join."""
        self._queue([([Procjoin(self.name, self.member.pid).encode()], Guarantee.AGREED, None)])

    def _queue(self, messages: Iterable[_Waiting]) -> None:
        self._outbox.extend(messages)
        self._engine.wait_for_room(self)

    def _chunks(self, payloads: Sequence[bytes], guarantee: Guarantee) -> list[_Waiting]:
        chunks: list[_Waiting] = []
        chunk: list[bytes] = []
        room = 0
        for payload in payloads:
            length = len(payload)
            if length > LARGEST_MESSAGE:
                raise MessageTooLong(f"a message of {length} bytes; the limit is {LARGEST_MESSAGE}")
            if length > LARGEST_PLAIN:
                chunks.append(Outgoing(self.name, self.member, bytes(payload), guarantee))
                room = 0
                continue
            room -= length + MCAST_PREFIX
            if room < 0:
                chunk = []
                chunks.append((chunk, guarantee, self._envelope))
                room = LARGEST_PLAIN - length
            chunk.append(payload)
        return chunks

    @property
    def waiting(self) -> int:
        """Bytes in the outbox that are to be sent in pieces."""
        return sum(len(waiting.payload) for waiting in self._outbox if isinstance(waiting, Outgoing))

    @property
    def outgoing(self) -> Outgoing | None:
        """The message in pieces that is first in the outbox, if it is one; all pieces may be on their way."""
        first = self._outbox[0] if self._outbox else None
        return first if isinstance(first, Outgoing) else None

    def push(self, *, cut: bool) -> bool:
        """Give the ring as much as it has room for; return whether nothing waits any more.

        `cut`: pieces may be sent.
        """
        while self._outbox:
            waiting = self._outbox[0]
            if not isinstance(waiting, Outgoing):
                messages, guarantee, envelope = waiting
            elif cut and not waiting.handed_over:
                messages, guarantee, envelope = [waiting.piece()], waiting.guarantee, None
            else:
                return False  # it must come back whole before others follow: a new ring may cut it
            try:
                self._engine.multicast(messages, guarantee, envelope)
            except QueueFull:
                return False
            if isinstance(waiting, Outgoing):
                waiting.advance()
            else:
                self._outbox.popleft()
        return True

    def piece_came_back(self, *, first: bool, whole: bool) -> None:
        """Note that this node got a piece of this member's: the first of a message, or the one that completes it."""
        if self.outgoing is not None:
            self.outgoing.begun = self.outgoing.begun or first
            if whole:
                self._outbox.popleft()

    def entered(self) -> None:
        """Note that the own join has been delivered."""
        self._step = _Step.JOINED

    def ended(self) -> None:
        """Note that the own leave has been delivered."""
        self._step = _Step.LEFT
