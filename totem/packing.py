"""Many small messages into full frames, large messages into several frames, and back again (Corosync's totempg).

A frame is a list of pieces. A piece is a whole message, or the head, middle or tail of one. A frame's first piece
continues the frame before (of the same sender) when `continuation` is not 0. Its last piece goes on in the next frame
when `fragmented` is not 0; the next frame's `continuation` then repeats that `fragmented`. The numbers run from 1 to
255 and start again at 1.

Sender (`Packer`). Messages stay whole in the queue until the token is here. Frames are cut when they get their numbers,
never before, so no configuration change finds a sealed frame without a number. A message that a configuration change
cuts starts again in the new ring (rulings, C2). A *reset frame* goes first: one piece of one byte that continues
nothing. It makes every receiver start afresh, whatever it saw of the cut message. At the same time it is decided what
stands before a payload that has an envelope: a label for a whole run, or a header (`labels`).

Receiver (`Assembler`). It treats frames exactly as Corosync's receivers do, so that all members deliver the same. After
a frame that does not continue what came before, everything of that sender is thrown away, up to and including its next
frame that ends with a whole message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from totem.configuration import Guarantee
from totem.labels import Envelope, Numbers
from totem.wire import codec
from totem.wire.codec import Frame, next_fragment
from totem.wire.layout import FRAME_COMPACT, FRAME_PLAIN

MAX_MESSAGE = 1 << 20
"""Bytes of the largest message, headers of the layers above included; a longer one kills Corosync nodes."""

_MAX_ASSEMBLED = MAX_MESSAGE + (1 << 16)
_FRAME_HEADER = 8
_PIECE_HEADER = 2


class _Run:
    """Consecutive messages of the queue with one guarantee and one envelope."""

    __slots__ = ("count", "envelope", "guarantee")

    def __init__(self, guarantee: Guarantee, envelope: Envelope | None, count: int) -> None:
        self.guarantee = guarantee
        self.envelope = envelope
        self.count = count


class Packer:
    """A bounded queue of messages of one stream, cut into frames of at most `frame_size` bytes of UDP payload."""

    __slots__ = (
        "_begun",
        "_capacity",
        "_fragment",
        "_headers",
        "_messages",
        "_offset",
        "_reset_after",
        "_runs",
        "queued_bytes",
    )

    def __init__(self, frame_size: int) -> None:
        self._capacity: int
        """Bytes for pieces and their lengths."""
        self.limit(frame_size)
        self._messages: deque[bytes] = deque()
        """Messages as they were queued; those with an envelope are payloads."""
        self._runs: deque[_Run] = deque()
        """The runs of the queue; together they are as long as the queue."""
        self._begun = b""
        """The first message while it is partly sent, with its header if it goes out with one."""
        self._offset = 0
        """Bytes of it that are in frames already."""
        self._fragment = 0
        """`fragmented` of the frame before."""
        self._reset_after = 0
        """`fragmented` of the last frame before a configuration change cut a message; a reset frame is due."""
        self._headers = 0
        """Bytes of the headers that the queue needs where labels are not known."""
        self.queued_bytes = 0
        """Bytes queued, with the headers that a ring without labels needs."""

    def limit(self, frame_size: int) -> None:
        """Cut frames of at most this size from now on."""
        self._capacity = frame_size - codec.MCAST_HEADER - _FRAME_HEADER

    def __bool__(self) -> bool:
        """Return whether something waits to be sent."""
        return bool(self._messages)

    def __len__(self) -> int:
        """Return the number of messages queued, a partly sent one included."""
        return len(self._messages)

    def queued_frames(self, *, compact: bool = False) -> int:
        """Return about how many frames the queue makes (the wire's backlog counts frames), with labels or without."""
        size = self.queued_bytes - self._offset + _PIECE_HEADER * len(self._messages)
        if compact and self._headers:
            size += len(self._runs) * (_PIECE_HEADER + codec.RUN_HEADER) - self._headers
        return -(-size // self._capacity)

    def extend(self, messages: Sequence[bytes], guarantee: Guarantee, envelope: Envelope | None = None) -> None:
        """Queue messages, which are payloads if they have an envelope.

        Hot: constant work for each call but for the sum of the lengths.
        """
        if not messages:
            return
        self._messages.extend(messages)
        self.queued_bytes += sum(map(len, messages))
        if envelope is not None:
            headers = envelope.header_size * len(messages)
            self._headers += headers
            self.queued_bytes += headers
        last = self._runs[-1] if self._runs else None
        if last is not None and last.guarantee is guarantee and last.envelope is envelope:
            last.count += len(messages)
        else:
            self._runs.append(_Run(guarantee, envelope, len(messages)))

    def next_frames(self, most: int, numbers: Numbers | None = None) -> list[Frame]:
        """Cut up to `count` frames, as `next_frame` does. Hot: one turn for each that begins or ends a message."""
        frames: list[Frame] = []
        while self._messages and len(frames) < most:
            if self._offset and self._cut_middles(frames, most - len(frames)):
                continue
            frames.append(self.next_frame(last=len(frames) + 1 == most, numbers=numbers))
        return frames

    def _cut_middles(self, frames: list[Frame], most: int) -> int:
        """Cut up to `count` frames that do not end the message that is partly sent. Hot."""
        size = self._capacity - _PIECE_HEADER
        count = min(most, codec.MOST_MIDDLES, (len(self._begun) - self._offset - 1) // size)
        if count > 0:
            frames += codec.middle_frames(self._begun, self._offset, size, count, self._fragment)
            self._offset += count * size
            self._fragment = next_fragment(self._fragment, count)
        return count

    def next_frame(self, *, last: bool, numbers: Numbers | None = None) -> Frame:
        """Cut the next frame: its guarantee, and its parts to be joined behind the multicast's header.

        SAFE and AGREED messages never share a frame. With `last` the frame is the visit's last one. It does not begin a
        message that it cannot finish, unless it would be empty. `numbers` are this sender's label numbers in a ring
        whose members know labels, else None. The frame is compact if it begins a message while one with a label waits.
        The queue must not be empty.
        """
        if self._reset_after:
            continuation = next_fragment(self._reset_after)
            self._reset_after = self._fragment = 0
            return Guarantee.AGREED, [codec.frame([1], 0, continuation), b"\0"]
        continuation = self._fragment
        guarantee = self._runs[0].guarantee
        waiting = len(self._messages)
        pieces: list[bytes] = []
        room = self._capacity
        if self._offset:
            room = self._cut_rest(pieces, room)
        if not self._headers:
            numbers = None
        kind = FRAME_PLAIN
        while not self._offset and self._runs and self._runs[0].guarantee is guarantee:
            run = self._runs[0]
            if numbers is None:
                room = self._cut_run(pieces, room, run, run.envelope, last=last)
            else:
                count = len(pieces)
                room = self._cut_labelled(pieces, room, run, numbers, last=last)
                if len(pieces) > count:
                    kind = FRAME_COMPACT
            if run.count:
                break
            self._runs.popleft()
        self._fragment = next_fragment(continuation) if self._offset else 0
        # The level of a message is that of the frame with its last piece, so a frame without one says AGREED.
        if len(self._messages) == waiting:
            guarantee = Guarantee.AGREED
        return guarantee, [codec.frame(list(map(len, pieces)), self._fragment, continuation, kind), *pieces]

    def _cut_rest(self, pieces: list[bytes], room: int) -> int:
        """Cut the rest of the message with which the frame begins, or as much as there is room for."""
        room -= _PIECE_HEADER
        begun, offset = self._begun, self._offset
        size = len(begun) - offset
        if size > room:
            pieces.append(begun[offset : offset + room])
            self._offset += room
            return 0
        pieces.append(begun[offset:])
        self._begun = b""
        self._offset = 0
        run = self._runs[0]
        self._forget(run, 1, len(self._messages.popleft()))
        if not run.count:
            self._runs.popleft()
        return room - size

    def _cut_labelled(self, pieces: list[bytes], room: int, run: _Run, numbers: Numbers, *, last: bool) -> int:
        """Cut messages of a run, or as many as there is room for, behind a run header."""
        label = run.envelope.label if run.envelope is not None else b""
        left = room - _PIECE_HEADER - numbers.run_header_size(label)
        place, count = len(pieces), run.count
        left = self._cut_run(pieces, left, run, None, last=last)
        if len(pieces) == place:
            return 0
        pieces.insert(place, numbers.run_header(label, count - run.count))
        return left

    def _cut_run(self, pieces: list[bytes], room: int, run: _Run, headers: Envelope | None, *, last: bool) -> int:
        """Cut messages of a run, or as many as there is room for, the last one perhaps in part; return the room left.

        Hot: one turn for each message. `headers` makes a header for each, if it needs one.
        """
        messages = self._messages
        size = 0
        available = run.count
        while available:
            piece = messages[0]
            if headers is not None:
                piece = headers[len(piece)] + piece
            rest = room - _PIECE_HEADER - len(piece)
            if rest < 0:
                break
            room = rest
            pieces.append(piece)
            size += len(messages.popleft())
            available -= 1
        self._forget(run, run.count - available, size)
        room -= _PIECE_HEADER
        if available and room > 0 and (not last or not pieces):
            pieces.append(piece[:room])
            self._begun = piece
            self._offset = room
        return room

    def _forget(self, run: _Run, count: int, size: int) -> None:
        """Remove `count` messages of a run that have been cut, with `size` bytes of their own."""
        run.count -= count
        self.queued_bytes -= size
        if run.envelope is not None:
            self._headers -= count * run.envelope.header_size
            self.queued_bytes -= count * run.envelope.header_size

    def restart(self) -> None:
        """Begin a new ring: a message that was cut by the end of the old one starts again."""
        if self._offset:
            self._reset_after = self._fragment
            self._begun = b""
            self._offset = 0

    def drop_unsent(self) -> None:
        """Forget what is queued, including the rest of a partly sent message."""
        self.restart()
        self._messages.clear()
        self._runs.clear()
        self._headers = 0
        self.queued_bytes = 0


class _Stream:
    """The state that an `Assembler` keeps of one sender in the middle of a message."""

    __slots__ = ("last", "parts", "size", "throwing_away")

    def __init__(self) -> None:
        self.last = 0
        self.parts: list[bytes | memoryview] = []
        self.size = 0
        self.throwing_away = False

    def collect(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Keep pieces of equal size, up to the bound."""
        self.parts += pieces
        self.size += len(pieces) * len(pieces[0])
        if self.size > _MAX_ASSEMBLED:
            self.throwing_away = True
            self.parts.clear()


class Assembler:
    """Turns frames of many senders back into messages, each sender's in its order."""

    __slots__ = ("_open", "_streams")

    def __init__(self) -> None:
        self._streams: dict[int, _Stream] = {}
        """The senders that are in the middle of a message."""
        self._open = 0
        """The sender of the last frame, if it may go on with the message that this frame did not end."""

    def take_middles(self, frames: Sequence[bytes], start: int) -> int:
        """Take the frames from `start` on that only continue an unfinished message; return their number.

        Hot: nearly all frames of a long message are such frames, so each costs a look at its header and a slice.
        """
        sender, self._open = self._open, 0
        stream = self._streams.get(sender)
        if stream is None:
            return 0
        pieces = codec.middle_pieces(frames, start, sender, stream.last)
        if pieces:
            stream.last = next_fragment(stream.last, len(pieces))
            stream.collect(pieces)
        return len(pieces)

    def take(self, sender: int, frame: bytes, newest: int = FRAME_PLAIN) -> list[bytes]:
        """Return the messages that this frame (a whole multicast) completes; raise MalformedDatagram if it is none.

        `newest` is the largest type of frame that may come. The run headers of a compact frame are among the messages.
        Hot: a frame of whole messages of a sender in a clean state is handed through.
        """
        fragmented, continuation, pieces = codec.parse_frame(frame, codec.MCAST_HEADER, newest)
        self._open = 0
        stream = self._streams.get(sender)
        if stream is None:
            if not fragmented and not continuation:
                return pieces
            stream = self._streams[sender] = _Stream()
        complete = self._continue(stream, fragmented, continuation, pieces)
        if not fragmented:
            del self._streams[sender]
        elif not stream.throwing_away:
            self._open = sender
        return complete

    @staticmethod
    def _continue(stream: _Stream, fragmented: int, continuation: int, pieces: list[bytes]) -> list[bytes]:
        if stream.throwing_away or continuation != stream.last or not pieces:
            stream.throwing_away = True
            stream.parts.clear()
            return []
        stream.last = fragmented
        tail = pieces.pop() if fragmented else None
        if stream.parts and pieces:
            stream.parts.append(pieces[0])
            pieces[0] = b"".join(stream.parts)
            stream.parts.clear()
            stream.size = 0
        if tail:
            stream.collect([tail])
        return pieces

    def keep_only(self, senders: Iterable[int]) -> None:
        """Forget unfinished messages of all other senders."""
        kept = set(senders)
        self._open = 0
        self._streams = {sender: stream for sender, stream in self._streams.items() if sender in kept}
