"""One ring: its identity, its members, its messages and its token, from the commit token until the next install.

A processor has one installed ring, and while it forms the next one a second one beside it. Nothing is ever copied
from one to the other: at the install the new ring takes the old one's place, and the old one goes as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

from totem.configuration import Feature, RingId
from totem.flow import FlowControl
from totem.labels import Labels
from totem.receive_failures import AruStall
from totem.sequence import before, earlier, later, up_to
from totem.window import MessageWindow
from totem.wire import codec
from totem.wire.messages import Token


class Ring:
    """Everything that lives and dies with one configuration, as one member (`node_id`) sees it."""

    __slots__ = (
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
        "node_id",
        "previous_seq",
        "pure",
        "resting",
        "safe_line",
        "seen_token_seq",
        "standstill",
        "successor",
        "token_held",
        "unchanged",
        "window",
    )

    def __init__(self, ring_id: RingId, members: tuple[int, ...], node_id: int, first: int, flow: FlowControl) -> None:
        self.id = ring_id
        self.id_bytes = codec.ring_id_bytes(ring_id)
        self.members = members
        self.node_id = node_id
        self.successor = members[(members.index(node_id) + 1) % len(members)] if members else node_id
        self.beginnings = frozenset(map(codec.mcast_beginning, members))
        """How the plain multicasts begin that `has_sent` accepts."""
        self.window = MessageWindow(first)
        self.flow = flow
        self.delivered = first
        """All up to here has been delivered (or, below a ring's first application message, never will be)."""
        self.pure = False
        self.features = Feature(0)
        self.labels: Labels | None = None
        """None: the members have not all `Feature.COMPACT`."""

        # The token, as of my last accepted visit.
        self.last_token = b""
        """What I passed on, to be sent again until a sign of life comes."""
        self.seen_token_seq: int | None = None
        """`token_seq` with which the last token came; an equal or earlier one is a duplicate."""
        self.held_back: list[bytes] = []
        """Frames that have their numbers and leave behind the token."""
        self.previous_seq: int | None = None
        """`seq` with which the last token came."""
        self.forwarded_aru: int | None = None
        """`aru` of the last token as forwarded."""
        self.complete = False
        """Nobody lacked anything when I forwarded it."""
        self.safe_line = first
        """Every member has all messages up to here (see `note_visit`)."""
        self.unchanged = 0
        """Visits in a row on which no message had been sent."""
        self.token_held = False
        """The keeper holds the token, or would."""
        self.last_sender = 0
        """Who of a pure ring has sent the latest message; 0: not known."""
        self.resting: Token | None = None
        """The token while it is held here: the visit goes on when somebody has something to send."""
        self.misses: dict[int, int] = {}
        """Visits on which a message was found missing."""
        self.standstill = AruStall()

    @property
    def representative(self) -> int:
        """The member that starts the token: the lowest."""
        return self.id.representative

    @property
    def is_representative(self) -> bool:
        """Whether that is this member."""
        return self.id.representative == self.node_id

    @property
    def keeper(self) -> int:
        """The member that holds the token of an idle ring."""
        return self.last_sender or self.representative

    def has_sent(self, datagram: bytes) -> bool:
        """Whether a multicast says that one of the members sent it first: nobody else has numbers in this ring.

        All members refuse the same, here and in a Recovery: what one held and another refused, the one would send again
        and again, and the other would seem to fail to receive.
        """
        sender, origin = codec.mcast_sender_and_origin(datagram)
        return sender == origin and origin in self.members

    def is_quiet(self, token: Token) -> bool:
        """Whether everybody has everything, and nobody has sent on this visit or waits for anything.

        In a pure ring nobody has anything queued either, which a ring that finds its pace may leave for a rotation.
        """
        idle = token.seq == self.previous_seq == token.aru and not token.requests
        return idle and not (self.pure and token.backlog)

    def agree(self, features: Iterable[int]) -> None:
        """The ring has the features that each of its members has."""
        self.features = Feature(reduce(int.__and__, features))
        if Feature.COMPACT in self.features:
            self.labels = Labels()

    def note_visit(self, token: Token) -> None:
        """Move the safe line: what the aru covered *as forwarded* on two accepted visits in a row is everywhere.

        A node that lacked a message between the two would have lowered the aru, and none but that node may raise it
        again (rulings, B1). The aru as received must not take either place: I may have lowered and raised it myself.
        What was safe once stays so, whatever a later token says.

        In a pure ring the member before the only sender knows it on the first visit, if nobody was behind before: since
        the sender the token has been with everybody. What I have sent on this visit myself is not meant.
        """
        if self.forwarded_aru is not None:
            self.safe_line = later(self.safe_line, earlier(token.aru, self.forwarded_aru))
        came = self.previous_seq
        if self.complete and self.last_sender == self.successor and came is not None and up_to(came, token.aru):
            self.safe_line = later(self.safe_line, came)
        self.note_forwarded(token)

    def note_forwarded(self, token: Token) -> None:
        """Keep what the token says as I pass it on."""
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
        """Forget the frames that are delivered here and known to be everywhere."""
        self.window.release(earlier(self.safe_line, self.delivered))
