"""Labels: what many messages have in common is sent once in a ring, and then as a number (rulings, D3).

The application may hand over a message as a payload with an `Envelope`. In a ring whose members all have
`Feature.COMPACT`, the payload travels behind the envelope's *label*, which receivers are given with it. In any other
ring it travels behind a *header*, as part of the message. That is decided when the message gets its number. So messages
that wait in the queue while a Corosync node joins the ring go out with headers.

The numbers belong to one sender in one ring. All members see that sender's frames in the same order, so they know at
each message what a number stands for. In a compact frame a *run header* gives the number of messages of one label that
follow. With a number's first use it brings the label; it may do so again, which gives the number to another label.
Number 0 is no label. A message that the frame does not end belongs to its last run. Messages with a number that was
never given a label are lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from totem.errors import MalformedDatagram
from totem.wire import codec

LONGEST_LABEL = 255
MOST_LABELS = 1024
"""Numbers that one sender may have in use; with more labels it starts again."""


class Envelope(Protocol):
    """What the messages of one origin have in common. It is one object for all of them; another object begins another
    run."""

    @property
    def label(self) -> bytes:
        """Its short form, of 1 to `LONGEST_LABEL` bytes, for receivers that know labels."""

    @property
    def header_size(self) -> int:
        """Bytes of each header."""

    @property
    def largest(self) -> int:
        """Bytes of the longest payload."""

    def __getitem__(self, length: int, /) -> bytes:
        """Return the header that stands before a payload of this length, for receivers that know no labels."""


def with_headers(payloads: Iterable[bytes], envelope: Envelope) -> list[bytes]:
    """Return the messages that go out where labels are not known."""
    return [envelope[len(payload)] + payload for payload in payloads]


class Numbers(dict[bytes, int]):
    """A sender's numbers in one ring, by label."""

    def __init__(self) -> None:
        super().__init__({b"": 0})

    def run_header_size(self, label: bytes) -> int:
        """Return the bytes of the next run header with this label."""
        return codec.RUN_HEADER + (0 if label in self else len(label))

    def run_header(self, label: bytes, count: int) -> bytes:
        """Return the header of `count` messages with this label, and perhaps of the beginning of one more."""
        number = self.get(label)
        if number is not None:
            return codec.run_header(number, count)
        if len(self) > MOST_LABELS:
            self.clear()
            self[b""] = 0
        number = self[label] = len(self)
        return codec.run_header(number, count) + label


Run = tuple[bytes, list[bytes]]
"""Consecutive messages with one label, which is empty for messages without."""


class Labels:
    """The labels of one ring, as one member sends and receives them."""

    __slots__ = ("_heard", "_open", "own")

    def __init__(self) -> None:
        self.own = Numbers()
        self._heard: dict[int, dict[int, bytes]] = {}
        """By sender and number."""
        self._open: dict[int, bytes | None] = {}
        """By sender: the label of the message that its last frame did not end."""

    def runs(self, sender: int, frame: bytes, messages: list[bytes], drop: Callable[[str], None]) -> list[Run]:
        """Yield the messages of a frame by label; call `drop` with the reason for messages that are left out.

        Hot. One turn for each run. The list is changed.
        """
        compact = codec.frame_is_compact(frame)
        if not compact and sender not in self._open:
            return [(b"", messages)] if messages else []
        runs: list[Run] = []
        fragmented, continues = codec.frame_fragments(frame)
        if not continues:
            self._open.pop(sender, None)
        elif messages:
            self._add(runs, self._open.pop(sender, b""), messages[:1], drop)
            del messages[0]
        if not compact:
            self._add(runs, b"", messages, drop)
            return runs
        label = self._read(runs, sender, messages, drop)
        if fragmented and label != b"":
            self._open[sender] = label
        return runs

    def _read(self, runs: list[Run], sender: int, messages: list[bytes], drop: Callable[[str], None]) -> bytes | None:
        """Read run headers, and add their messages; return the last one's label."""
        begin = 0
        label: bytes | None = b""
        while begin < len(messages):
            try:
                number, count, given = codec.parse_run_header(messages[begin])
            except MalformedDatagram as fault:
                drop(fault.cause)
                break
            begin += 1
            if count > len(messages) - begin:
                drop("run of too few messages")
                break
            label = self._label(sender, number, given)
            self._add(runs, label, messages[begin : begin + count], drop)
            begin += count
        return label

    @staticmethod
    def _add(runs: list[Run], label: bytes | None, messages: list[bytes], drop: Callable[[str], None]) -> None:
        if not messages:
            return
        if label is None:
            drop("messages with an unknown label")
        elif runs and runs[-1][0] == label:
            runs[-1][1].extend(messages)
        else:
            runs.append((label, messages))

    def _label(self, sender: int, number: int, given: bytes) -> bytes | None:
        """Return the label that a number stands for; None if that is not known."""
        if not number:
            return b""
        heard = self._heard.get(sender)
        if heard is None:
            heard = self._heard[sender] = {}
        if not given:
            return heard.get(number)
        if number > MOST_LABELS or len(given) > LONGEST_LABEL:
            return None
        heard[number] = given
        return given
