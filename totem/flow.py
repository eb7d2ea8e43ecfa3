"""Flow control: how many frames one processor may send on one visit of the token.

The token carries how much all members sent in the last rotation (`fcc`) and how much they have queued (`backlog`). Each
takes its share of the window in proportion to its queue (paper section 4.1.1, Corosync `fcc_calculate`). All fields are
unsigned 32-bit numbers.

The configuration sets the width of the window. Where it does not, a pure ring chooses. Corosync's windows always remain
allowed, and beyond them two limits hold (rulings, D4; docs/protocol.md says why):

- The *window* is what the smallest receive buffer of the ring holds, as the hellos say. No more frames than that are on
  their way to any member, so a slow one loses nothing.
- The *budget* is what the ring carries in the time that a rotation may take, as `Pace` measures it. The token comes
  round soon, however slow the slowest member is.
"""

from __future__ import annotations

from totem.config import MAX_WINDOW
from totem.sequence import MASK, before, distance
from totem.wire.messages import Token

RECEIVE_BUFFER = 4 << 20
"""Bytes, as the kernel counts them, of the receive buffer that a node asks for."""

ROTATION = 0.002
"""Seconds that a rotation may always take, however fast the token is: longer ones gain little."""
PASSINGS = 10
"""A rotation may take this multiple of the time in which the token alone goes round: at most a tenth is lost."""
LONGEST = 0.1
"""Longest time that a rotation may take. A rotation that took longer measures a pause, not what the ring carries."""

_PAGE = 4096
_RECORD = 1024
_SMOOTHED = 8
"""Rotations over which the ring's pace is smoothed."""
_REST_EVERY = 32
_RESTS = 2
"""Number of rotations in each `_REST_EVERY` that are bare: the first one clears what was sent before, the last is
timed."""


def kernel_bytes(size: int) -> int:
    """Return the bytes of a receive buffer that a waiting datagram takes at most: whole pages, and a record of it."""
    return -(-size // _PAGE) * _PAGE + _RECORD


def frames_that_fit(receive_buffer: int, frame_size: int) -> int:
    """Return the number of frames that may wait in a receive buffer of this size, as the kernel counts it.

    The kernel may still count a quarter of the buffer as taken after that has been read.
    """
    return max(1, receive_buffer * 3 // 4 // kernel_bytes(frame_size))


class FlowControl:
    """One member's flow control in one ring."""

    __slots__ = ("_max_messages", "_narrow", "_pace", "_queued", "_read", "_sent", "window_size")

    def __init__(self, window_size: int, max_messages: int) -> None:
        self.window_size = window_size
        """Frames that may be on the ring in one rotation."""
        self._narrow = window_size
        """The window as configured."""
        self._max_messages = max_messages
        self._sent = 0
        """Frames sent on the previous visit (`my_trc`)."""
        self._read = 0
        """Those of them that all members have read when the token is back."""
        self._queued = 0
        """Frames queued at the previous visit (`my_pbl`)."""
        self._pace: Pace | None = None
        """The pace of a ring that chooses its window."""

    def choose(self, window: int, members: int) -> None:
        """Use what the ring of `members` members carries from now on, within a window of `window` frames."""
        self.window_size = max(self._narrow, min(window, MAX_WINDOW))
        self._pace = Pace(self.window_size, members)

    def allowed(self, token: Token, queued: int, now: float) -> int:
        """Return the number of frames that may be sent on this visit, with `queued` frames waiting."""
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
        # All members have read by now what this one sent before the token on its last visit.
        room = max(0, self.window_size + self._read - token.fcc)
        if pace.rests and queued > 1:
            return min(room, len(token.requests))
        share = pace.budget * queued // all_queued if all_queued else 0
        # A short queue need not wait for many rotations while others have long ones.
        return max(allowed, min(room, max(share, pace.budget // pace.members)))

    def sent_by_others(self, token: Token) -> int:
        """Return the number of frames that the other members have sent since the previous visit."""
        return (token.fcc - self._sent) & MASK

    def account(self, token: Token, sent: int, queued: int, held_back: int = 0) -> None:
        """Write this visit into the token: `sent` frames, new and repeated, and `queued` frames still waiting.

        `held_back` is the number of those sent that leave behind the token.
        """
        token.fcc = (token.fcc + sent - self._sent) & MASK
        token.backlog = (token.backlog + queued - self._queued) & MASK
        self._sent = sent
        self._read = sent - held_back
        self._queued = queued
        if self._pace is not None:
            self._pace.idle = not (token.fcc or token.backlog) and token.aru == token.seq


class Pace:
    """What a rotation should carry: the rate at which frames have lately reached all members, times its duration.

    With more frames a rotation takes longer, but less than in proportion, because passing the token costs the same. So
    the budget approaches, from either side, the one with which a rotation takes its time. All members see about the
    same, because the rotations are the same and the `aru` is in the token.
    """

    __slots__ = ("_aru", "_at", "_frames", "_passing", "_seconds", "_window", "budget", "idle", "members", "rests")

    def __init__(self, window: int, members: int) -> None:
        self._window = window
        self.members = members
        self.budget = 0
        self.rests = False
        """Whether this visit sends only what was requested, and single frames, so that the rotation is bare."""
        self.idle = True
        """Whether nothing was under way when the token was passed on, so that it may have been held."""
        self._at = 0.0
        self._aru = 0
        self._passing = 0.0
        """Smoothed seconds of a bare rotation; 0 before the first."""
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
