"""Flow control: how many frames one processor may send on one visit of the token.

The token carries what all members sent in the last rotation (`fcc`) and how much they have queued (`backlog`); each
takes its share of the window in proportion to its queue (paper section 4.1.1, Corosync `fcc_calculate`). All fields
are unsigned 32-bit numbers.

How wide the window is, the configuration says. Where it does not and all members are ours, the ring chooses, and two
limits hold beyond what Corosync's windows allow always (rulings, D4; docs/protocol.md says why). The *window* is what
the smallest receive buffer of the ring holds, as the hellos told: no more is on its way to anybody, so whoever is
behind loses nothing. The *budget* is what the ring carries in the time that a rotation may take, as `Pace` measures it:
the token comes round soon, however slow the slowest member is.
"""

from __future__ import annotations

from totem.config import MAX_WINDOW
from totem.sequence import MASK, before, distance
from totem.wire.messages import Token

RECEIVE_BUFFER = 4 << 20
"""Bytes, as the kernel counts them, of the receive buffer that a node gets where it may have what it wants."""

ROTATION = 0.002
"""Seconds that a rotation may take, however soon the token passes: there is little to win beyond."""
PASSINGS = 10
"""A rotation may take so many times the time in which the token passes round bare: a tenth is lost at most."""
LONGEST = 0.1
"""No rotation shall take longer than this; one that did says that somebody stood still, not what the ring carries."""

_PAGE = 4096
_RECORD = 1024
_SMOOTHED = 8
"""Rotations over which the ring's pace is smoothed."""
_REST_EVERY = 32
_RESTS = 2
"""So many rotations of each so many are bare: in the first, what was sent before is worked off; the last is timed."""


def kernel_bytes(size: int) -> int:
    """What a waiting datagram of so many bytes takes of a receive buffer at most: whole pages and a record of it."""
    return -(-size // _PAGE) * _PAGE + _RECORD


def frames_that_fit(receive_buffer: int, frame_size: int) -> int:
    """How many frames may wait in a receive buffer of so many bytes, as the kernel counts them.

    It may go on to count a quarter of the buffer as taken when that has been read.
    """
    return max(1, receive_buffer * 3 // 4 // kernel_bytes(frame_size))


class FlowControl:
    """One member's account in one ring."""

    __slots__ = ("_max_messages", "_narrow", "_pace", "_queued", "_read", "_sent", "window_size")

    def __init__(self, window_size: int, max_messages: int) -> None:
        self.window_size = window_size
        """Frames that may be on the ring in one rotation."""
        self._narrow = window_size
        """As configured."""
        self._max_messages = max_messages
        self._sent = 0
        """Frames sent on the previous visit (`my_trc`)."""
        self._read = 0
        """Those of them that everybody has read when the token is back."""
        self._queued = 0
        """Frames queued at the previous visit (`my_pbl`)."""
        self._pace: Pace | None = None
        """In a ring that chooses."""

    def choose(self, window: int, members: int) -> None:
        """From now on go by what the ring of so many members carries, within a window of so many frames."""
        self.window_size = max(self._narrow, min(window, MAX_WINDOW))
        self._pace = Pace(self.window_size, members)

    def allowed(self, token: Token, queued: int, now: float) -> int:
        """Frames that may be sent on this visit, with `queued` frames waiting now."""
        all_queued = (token.backlog + queued - self._queued) & MASK
        # Corosync computes window - fcc unsigned, so that a larger fcc lifts the limit there; here it closes it.
        allowed = max(0, min(self._max_messages, self._narrow - token.fcc))
        if all_queued:
            share = self._narrow * self._queued // all_queued
            if share > 0:
                allowed = min(allowed, share)
        pace = self._pace
        if pace is None:
            return allowed
        pace.note_visit(token, now)
        # What I sent before the token on my last visit has been read by all meanwhile.
        room = max(0, self.window_size + self._read - token.fcc)
        if pace.rests and queued > 1:
            return min(room, len(token.requests))
        share = pace.budget * queued // all_queued if all_queued else 0
        # A short queue need not wait for many rotations while others have long ones.
        return max(allowed, min(room, max(share, pace.budget // pace.members)))

    def sent_by_others(self, token: Token) -> int:
        """Frames that the other members have sent since the previous visit."""
        return (token.fcc - self._sent) & MASK

    def account(self, token: Token, sent: int, queued: int, held_back: int = 0) -> None:
        """Write this visit into the token: `sent` frames, new and repeated, and `queued` still waiting.

        `held_back`: so many of those sent leave behind the token.
        """
        token.fcc = (token.fcc + sent - self._sent) & MASK
        token.backlog = (token.backlog + queued - self._queued) & MASK
        self._sent = sent
        self._read = sent - held_back
        self._queued = queued
        if self._pace is not None:
            self._pace.idle = not (token.fcc or token.backlog) and token.aru == token.seq


class Pace:
    """What a rotation should carry: frames a second, as they have lately come to be everywhere, times its time.

    With more frames a rotation takes longer, but not by as much, since passing the token costs the same: so the budget
    grows toward the one with which a rotation takes its time, and comes to rest there from either side. All members
    see about the same: the rotations are the same, and the `aru` is in the token.
    """

    __slots__ = ("_aru", "_at", "_frames", "_passing", "_seconds", "_window", "budget", "idle", "members", "rests")

    def __init__(self, window: int, members: int) -> None:
        self._window = window
        self.members = members
        self.budget = 0
        self.rests = False
        """On this visit only what is asked for is sent, and what is one frame: the rotation is to be bare."""
        self.idle = True
        """Nothing was under way when the token was passed on, so it may have been held."""
        self._at = 0.0
        self._aru = 0
        self._passing = 0.0
        """Seconds of a bare rotation, 0 before the first; smoothed."""
        self._frames = 0.0
        self._seconds = 0.0

    def note_visit(self, token: Token, now: float) -> None:
        """Measure the rotation that ends with this visit."""
        turn = token.token_seq // self.members % _REST_EVERY
        self.rests = turn < _RESTS
        if not self.idle and now > self._at:
            seconds = min(now - self._at, LONGEST)
            if turn == _RESTS - 1:
                self._passing += (seconds - self._passing) / (2 if self._passing else 1)
            elif turn > _RESTS:
                progress = distance(self._aru, token.aru) if before(self._aru, token.aru) else 0
                self._frames += (progress - self._frames) / _SMOOTHED
                self._seconds += (seconds - self._seconds) / _SMOOTHED
                wanted = min(max(ROTATION, PASSINGS * self._passing), LONGEST)
                self.budget = min(self._window, int(wanted * self._frames / self._seconds))
        self._at = now
        self._aru = token.aru
