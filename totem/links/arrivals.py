"""What comes from one other node: numbers, duplicates, and packets in fragments.

A node numbers all its packets, to whomever they go, so there are gaps. 65,535 is followed by 1. The window is what
libknet's is: 4,096 numbers back from the latest. A number further away begins a new window.

A node that starts again begins with 1, and its packets would pass for copies. Its pings tell of that: they carry the
last number sent, and when they left. They begin with 0. Where those were all lost, a later ping that tells less than an
earlier one shows it, too. libknet knows the first sign alone.
"""

from __future__ import annotations

from typing import Final

from totem.wire.knet import LARGEST_USER_DATA, MOST_FRAGMENTS, Fragment, Ping, moment

NUMBERS: Final = 1 << 16
WINDOW: Final = 4096
"""Numbers back from the latest one within which a packet is known to have come."""
MOST_UNFINISHED: Final = 32
"""Packets in fragments that may be incomplete, and how far back from the latest one they may begin."""


class _Unfinished:
    """A packet of which some fragments have come."""

    __slots__ = ("compression", "count", "missing", "pieces", "size")

    def __init__(self, said: Fragment) -> None:
        self.count = said.fragments
        self.compression = said.compression
        self.pieces: list[bytes | None] = [None] * said.fragments
        self.missing = said.fragments
        self.size = 0


class Arrivals:
    """The packets of one other node."""

    def __init__(self) -> None:
        self._latest = 0
        """The number up to which packets have come; 0: none has."""
        self._marks = bytearray(WINDOW)
        self._unfinished: dict[int, _Unfinished] = {}
        """By number, in the order in which they began."""
        self._told: tuple[int, int] | None = None
        """When the latest ping left, on its sender's clock, and the number that it told."""
        self._forced: int | None = None
        self._heard_since_forced = False

    def forget(self) -> None:
        """Forget all numbers: the node is out of reach, or has started again."""
        self._latest = 0
        self._marks = bytearray(WINDOW)
        self._unfinished.clear()
        self._told = None

    def note_ping(self, said: Ping) -> None:
        """Take the number that a ping tells, and forget those of a node that has started again."""
        if self._tells_of_restart(said):
            self.forget()
        time = moment(said.time)
        if self._told is None or time > self._told[0]:
            self._told = time, said.seq
        if said.timed:
            return
        if said.seq != self._forced and not self._heard_since_forced:
            self.forget()
        self._forced, self._heard_since_forced = said.seq, False
        if said.seq:
            self._is_new(said.seq)

    def _tells_of_restart(self, said: Ping) -> bool:
        """Return whether a ping is the first of a new process.

        Pings are compared with pings alone: data may overtake them, and old ones come late, after a pause or in copies.
        """
        if said.seq == 0:
            return said.timed
        if self._told is None:
            return False
        time, told = self._told
        return moment(said.time) > time and 0 < (told - said.seq) % NUMBERS < NUMBERS // 2

    def is_new(self, seq: int) -> bool:
        """Return whether the packet of a number has not come yet; the number counts as come from now on. Hot."""
        if not self._is_new(seq):
            return False
        self._marks[seq % WINDOW] = 1
        self._heard_since_forced = True
        return True

    def _is_new(self, seq: int) -> bool:
        """Move the window to a number ahead; return whether its packet has not come. Hot."""
        latest = self._latest
        ahead = (seq - latest) % NUMBERS
        if ahead == 1:
            self._latest = seq
            self._marks[seq % WINDOW] = 0
            if self._unfinished:
                self._give_up_those_far_back()
            return True
        if latest and (ahead > NUMBERS - WINDOW or not ahead):
            return not self._marks[seq % WINDOW]
        if ahead >= WINDOW or not latest:
            self._marks = bytearray(WINDOW)
        else:
            for number in range(latest + 1, latest + ahead + 1):
                self._marks[number % NUMBERS % WINDOW] = 0
        self._latest = seq
        if self._unfinished:
            self._give_up_those_far_back()
        return True

    def add(self, said: Fragment, data: bytes) -> bytes | None:
        """Take a fragment; return the whole packet when it is complete.

        A fragment that fits nowhere is dropped, and so is one far back. The oldest incomplete packet is given up where
        there are too many.
        """
        if not 1 <= said.number <= said.fragments <= MOST_FRAGMENTS or not self._is_new(said.seq):
            return None
        if self._is_far_back(said.seq):
            return None
        self._heard_since_forced = True
        unfinished = self._unfinished.get(said.seq)
        if unfinished is None:
            if len(self._unfinished) >= MOST_UNFINISHED:
                self._give_up(next(iter(self._unfinished)))
            unfinished = self._unfinished[said.seq] = _Unfinished(said)
        if unfinished.count != said.fragments or unfinished.compression != said.compression:
            return None
        place = said.number - 1
        if unfinished.pieces[place] is not None or unfinished.size + len(data) > LARGEST_USER_DATA:
            return None
        unfinished.pieces[place] = data
        unfinished.size += len(data)
        unfinished.missing -= 1
        if unfinished.missing:
            return None
        self._give_up(said.seq)
        return b"".join(piece for piece in unfinished.pieces if piece is not None)

    def _is_far_back(self, seq: int) -> bool:
        return (self._latest - seq) % NUMBERS > MOST_UNFINISHED

    def _give_up_those_far_back(self) -> None:
        """Let none of them wait for fragments until its number comes again, for another packet."""
        for seq in [seq for seq in self._unfinished if self._is_far_back(seq)]:
            self._give_up(seq)

    def _give_up(self, seq: int) -> None:
        """Let nothing more be made of a number. Where it is out of the window, its mark is another number's."""
        del self._unfinished[seq]
        if (self._latest - seq) % NUMBERS < WINDOW:
            self._marks[seq % WINDOW] = 1
