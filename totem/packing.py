"""Many small messages into full frames, large messages into several frames, and back again (Corosync's totempg).

A frame is a list of pieces. A piece is a whole message, or the head, middle or tail of one: a frame's first piece
continues the frame before (of the same sender) when `continuation` is not 0, its last piece goes on in the next frame
when `fragmented` is not 0, and `continuation` then repeats the `fragmented` of the frame before. The numbers run from
1 to 255 and start again at 1.

Sender (`Packer`). Messages stay whole in the queue until the token is here; frames are cut when they get their
numbers, never before, so that a configuration change finds no sealed frame without a number. A message that a
configuration change cuts starts again in the new ring (rulings, C2): a *reset frame* goes first, one piece of one
byte that continues nothing, which makes every receiver, whatever it saw of the cut message, start afresh.

Receiver (`Assembler`). It treats frames exactly as Corosync's receivers do, so that all members deliver the same:
after a frame that does not continue what came before, everything of that sender is thrown away up to and including
its next frame that ends with a whole message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from totem.configuration import Guarantee
from totem.wire import codec

MAX_MESSAGE = 1 << 20
"""Largest message in bytes, headers of the layers above included; a longer one kills Corosync nodes."""

_MAX_ASSEMBLED = MAX_MESSAGE + (1 << 16)
_FRAME_HEADER = 8
_PIECE_HEADER = 2


def next_fragment(number: int) -> int:
    """The fragment number after `number`: 1 to 255, then 1 again."""
    return number % 255 + 1


class Packer:
    """A bounded queue of messages of one stream, cut into frames of at most `frame_size` bytes of UDP payload."""

    __slots__ = ("_capacity", "_fragment", "_messages", "_offset", "_reset_after", "_runs", "queued_bytes")

    def __init__(self, frame_size: int) -> None:
        self._capacity = frame_size - codec.MCAST_HEADER - _FRAME_HEADER
        """Bytes for pieces and their lengths."""
        self._messages: deque[bytes] = deque()
        self._runs: deque[list[int]] = deque()
        """[guarantee, count] for consecutive messages of one guarantee: together as long as the queue."""
        self._offset = 0
        """Bytes of the first message that have been cut off into frames already."""
        self._fragment = 0
        """`fragmented` of the frame before."""
        self._reset_after = 0
        """`fragmented` of the last frame before a configuration change cut a message; a reset frame is due."""
        self.queued_bytes = 0

    def __bool__(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._messages)

    def __len__(self) -> int:
        """Messages queued, the one that is partly sent included."""
        return len(self._messages)

    @property
    def queued_frames(self) -> int:
        """About how many frames the queue makes (the wire's backlog counts frames)."""
        size = self.queued_bytes - self._offset + _PIECE_HEADER * len(self._messages)
        return -(-size // self._capacity)

    def extend(self, messages: Sequence[bytes], guarantee: Guarantee) -> None:
        """Queue messages. Hot: constant work for each call but for the sum of the lengths."""
        if not messages:
            return
        self._messages.extend(messages)
        self.queued_bytes += sum(map(len, messages))
        if self._runs and self._runs[-1][0] == guarantee:
            self._runs[-1][1] += len(messages)
        else:
            self._runs.append([guarantee, len(messages)])

    def next_frame(self, *, last: bool) -> tuple[int, list[bytes]]:
        """Cut the next frame: its guarantee, and its parts to be joined behind the multicast's header.

        SAFE and AGREED messages never share a frame. With `last` the frame is the visit's last one and does not begin
        a message that it cannot finish, unless it would be empty. Hot: one call for each frame, one loop turn for
        each message. The queue must not be empty.
        """
        if self._reset_after:
            continuation = next_fragment(self._reset_after)
            self._reset_after = self._fragment = 0
            return Guarantee.AGREED, [codec.frame([1], 0, continuation), b"\0"]
        messages = self._messages
        run = self._runs[0]
        available = run[1]
        room = self._capacity
        offset = self._offset
        continuation = self._fragment
        pieces: list[bytes] = []
        taken = 0
        fragmented = 0
        while taken < available:
            piece = messages[0]
            size = len(piece) - offset
            room -= _PIECE_HEADER
            if size > room:
                if room > 0 and (not last or not pieces):
                    pieces.append(piece[offset : offset + room])
                    offset += room
                    fragmented = next_fragment(continuation)
                break
            pieces.append(piece[offset:] if offset else piece)
            self.queued_bytes -= len(piece)
            room -= size
            offset = 0
            messages.popleft()
            taken += 1
        guarantee = run[0]
        if taken == available:
            self._runs.popleft()
        else:
            run[1] -= taken
        self._offset = offset
        self._fragment = fragmented
        # The level of a message is that of the frame with its last piece, so a frame without one says AGREED.
        if not taken:
            guarantee = Guarantee.AGREED
        return guarantee, [codec.frame(list(map(len, pieces)), fragmented, continuation), *pieces]

    def restart(self) -> None:
        """A new ring begins: a message that was cut by the end of the old one starts again."""
        if self._offset:
            self._reset_after = self._fragment
            self._offset = 0

    def drop_unsent(self) -> None:
        """Forget what is queued, the rest of a partly sent message included."""
        self.restart()
        self._messages.clear()
        self._runs.clear()
        self.queued_bytes = 0


class _Stream:
    """What an `Assembler` keeps of one sender in the middle of a message."""

    __slots__ = ("last", "parts", "size", "throwing_away")

    def __init__(self) -> None:
        self.last = 0
        self.parts: list[bytes] = []
        self.size = 0
        self.throwing_away = False


class Assembler:
    """Frames of many senders back into messages, each sender's in its order."""

    __slots__ = ("_streams",)

    def __init__(self) -> None:
        self._streams: dict[int, _Stream] = {}
        """Only senders that are not between two whole messages."""

    def take(self, sender: int, frame: bytes) -> list[bytes]:
        """The messages that this frame (a whole multicast) completes; MalformedDatagram if it is none.

        Hot: a frame of whole messages of a sender in a clean state is handed through.
        """
        fragmented, continuation, pieces = codec.parse_frame(frame)
        stream = self._streams.get(sender)
        if stream is None:
            if not fragmented and not continuation:
                return pieces
            stream = self._streams[sender] = _Stream()
        complete = self._continue(stream, fragmented, continuation, pieces)
        if not fragmented:
            del self._streams[sender]
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
            stream.parts.append(tail)
            stream.size += len(tail)
            if stream.size > _MAX_ASSEMBLED:
                stream.throwing_away = True
                stream.parts.clear()
        return pieces

    def keep_only(self, senders: Iterable[int]) -> None:
        """Forget unfinished messages of all other senders."""
        kept = set(senders)
        self._streams = {sender: stream for sender, stream in self._streams.items() if sender in kept}
