"""One ring: its identity, its members, its messages and its token, from the commit token until the next install.

A processor has one installed ring and, while it forms the next one, a second one beside it. Nothing is ever copied from
one to the other: at the install the new ring takes the old one's place, and the old one goes as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

from totem.config import Timeouts
from totem.configuration import Feature, RingId
from totem.flow import FlowControl
from totem.labels import Labels
from totem.receive_failures import AruStall
from totem.sequence import before, earlier, later, up_to
from totem.window import MessageWindow
from totem.wire import codec
from totem.wire.messages import Ask, Token


class Ring:
    """Everything that lasts as long as one configuration, as one member (`node_id`) sees it."""

    __slots__ = (
        "asks",
        "because",
        "beginnings",
        "complete",
        "delivered",
        "features",
        "flow",
        "forwarded_aru",
        "held_back",
        "id",
        "id_bytes",
        "labels",
        "last_sender",
        "last_token",
        "members",
        "misses",
        "newest",
        "node_id",
        "previous_seq",
        "pure",
        "resting",
        "safe_line",
        "seems_pure",
        "seen_token_seq",
        "stall",
        "successor",
        "timeouts",
        "token_held",
        "unchanged",
        "window",
    )

    def __init__(  # noqa: PLR0917 - by position, like the fields
        self,
        ring_id: RingId,
        members: tuple[int, ...],
        node_id: int,
        first: int,
        flow: FlowControl,
        timeouts: Timeouts,
    ) -> None:
        self.id = ring_id
        self.id_bytes = codec.ring_id_bytes(ring_id)
        self.members = members
        self.node_id = node_id
        self.successor = members[(members.index(node_id) + 1) % len(members)] if members else node_id
        self.beginnings = frozenset(map(codec.mcast_beginning, members))
        """The first bytes of the plain multicasts that `has_sent` accepts."""
        self.window = MessageWindow(first)
        self.flow = flow
        self.timeouts = timeouts
        """As configured, until a ring of ours alone has chosen its own (`totem.patience`)."""
        self.because = ""
        """Why it has these."""
        self.asks: dict[int, Ask] = {}
        """For how long each member of a ring of ours alone asks to be waited for."""
        self.newest = first
        """The highest number that has come, as of the last turn: who gave it had the token."""
        self.delivered = first
        """All messages up to here have been delivered (or, below a ring's first application message, never will be)."""
        self.pure = False
        self.seems_pure = False
        """Whether all members seem to be ours while the ring is formed, by the hints in their Joins."""
        self.features = Feature(0)
        self.labels: Labels | None = None
        """The labels of the ring; None if some member does not have `Feature.COMPACT`."""

        # The token, as of the last accepted visit.
        self.last_token = b""
        """The token that this member passed on, to be sent again until a sign of life comes."""
        self.seen_token_seq: int | None = None
        """`token_seq` with which the last token came; a token with an equal or earlier one is a duplicate."""
        self.held_back: list[bytes] = []
        """Frames that have their numbers and leave behind the token."""
        self.previous_seq: int | None = None
        """`seq` with which the last token came."""
        self.forwarded_aru: int | None = None
        """`aru` of the last token as forwarded."""
        self.complete = False
        """Whether no member lacked anything when this one forwarded it."""
        self.safe_line = first
        """Every member has all messages up to here (see `note_visit`)."""
        self.unchanged = 0
        """Consecutive visits on which no message had been sent."""
        self.token_held = False
        """Whether the keeper holds the token, or would."""
        self.last_sender = 0
        """The sender of the latest message in a pure ring; 0 if it is not known."""
        self.resting: Token | None = None
        """The token while it is held here: the visit goes on when a member has something to send."""
        self.misses: dict[int, int] = {}
        """Visits on which a message was found missing."""
        self.stall = AruStall()

    @property
    def representative(self) -> int:
        """The member that starts the token: the lowest."""
        return self.id.representative

    @property
    def is_representative(self) -> bool:
        """Whether this member is the representative."""
        return self.id.representative == self.node_id

    @property
    def keeper(self) -> int:
        """The member that holds the token of an idle ring."""
        return self.last_sender or self.representative

    def has_sent(self, datagram: bytes) -> bool:
        """Return whether a multicast claims that one of the members sent it first: no other node has numbers in this
        ring.

        All members refuse the same multicasts, here and in a Recovery. If one member kept what another refused, it
        would send that again and again, and the other would seem to fail to receive.
        """
        sender, origin = codec.mcast_sender_and_origin(datagram)
        return sender == origin and origin in self.members

    def is_quiet(self, token: Token) -> bool:
        """Return whether all members have all messages, and none has sent on this visit or waits for anything.

        In a pure ring no member has anything queued either, which a ring that measures its pace may leave for a
        rotation.
        """
        idle = token.seq == self.previous_seq == token.aru and not token.requests
        return idle and not (self.pure and token.backlog)

    def agree(self, features: Iterable[int]) -> None:
        """Set the ring's features to those that each of its members has."""
        self.features = Feature(reduce(int.__and__, features))
        if Feature.COMPACT in self.features:
            self.labels = Labels()

    def note_visit(self, token: Token) -> None:
        """Move the safe line: all members have what the aru covered *as forwarded* on two consecutive accepted visits.

        A node that lacked a message between the two would have lowered the aru, and no other node may raise it again
        (rulings, B1). The aru as received must not be used for either visit, because this node may have lowered and
        raised it itself. What was safe once stays so, whatever a later token says.

        In a pure ring, if no member was behind before, the member before the only sender knows it on the first visit.
        The token has then visited all members since the sender. That does not include what this member has sent on this
        visit.
        """
        if self.forwarded_aru is not None:
            self.safe_line = later(self.safe_line, earlier(token.aru, self.forwarded_aru))
        came = self.previous_seq
        if self.complete and self.last_sender == self.successor and came is not None and up_to(came, token.aru):
            self.safe_line = later(self.safe_line, came)
        self.note_forwarded(token)

    def note_forwarded(self, token: Token) -> None:
        """Note what the token says as this member passes it on."""
        self.forwarded_aru = token.aru
        self.complete = token.aru_holder == 0

    def limit_last_token(self) -> None:
        """Let a copy of the token claim no more than what is safe.

        A Corosync node takes a copy for a second rotation before it notices, and forgets messages that only the nodes
        before it have. If the token or those messages got no further, no node behind it can ever have them
        (docs/trials.md). For a node that sees the copy first, the aru is low for one rotation. It is this node's to
        raise again, and nothing that this node forwarded on this visit may count toward SAFE.
        """
        if self.forwarded_aru is not None and before(self.safe_line, self.forwarded_aru):
            token = codec.decode(self.last_token)
            assert isinstance(token, Token)
            token.aru = self.forwarded_aru = self.safe_line
            token.aru_holder = self.node_id
            self.last_token = codec.encode(token)

    def release_safe(self) -> None:
        """Forget the frames that are delivered here and held by all members."""
        self.window.release(earlier(self.safe_line, self.delivered))
