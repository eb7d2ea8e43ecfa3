"""The protocol between a daemon and its clients: items, packed into the records of a Unix socket of whole records.

An item is a head of 24 bytes (kind, detail, a handle, the length of its body, three numbers) and a body. A record is
one byte of flags and as many items as fit. An item that is longer than a record is cut over several, all of them full
but the last. Messages travel in runs: all messages of one sender and level that came together are one item, with one
length for all where they have the same.

    client                                      daemon
    HELLO(version, wishes; name)                WELCOME(version, node id, process id), or GOODBYE(why)
    JOIN(handle; name of the group)             REFUSED(handle, why; text), or the group's stream of that handle
    SEND(handle, guarantee, count; messages)    MESSAGES(handle, level, node id, process id, count; messages)
    LEAVE(handle)                               CONFCHG(handle, counts; members, left, joined)
                                                RING, TRANSITIONAL, QUORUM(handle; …)
                                                LINK(whether it is up, node id, number, MTU; since when):
                                                only to who has wished for it
    ASK(number; question)                       ANSWER(number; JSON)
                                                GOODBYE(why; text): the last item that a client gets

Handles are the client's own numbers of its groups, from 1 on; handle 0 stands for the ring itself. All bytes are
little-endian. A malformed record, or item, has no effect but to end the connection.
"""

from __future__ import annotations

import enum
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from cpg.events import Confchg, Link, Member, Quorum, Reason, RingEvent, TotemConfchg, Transitional
from cpg.payloads import LARGEST_MESSAGE
from totem.configuration import Guarantee, Level, RingId
from totem.errors import TotemError

VERSION: Final = 1
"""The protocol's version; both sides must have the same."""

RELOAD, RELOAD_HERE, COMPARE = "reload", "reload here", "compare"
"""Questions that are orders, of root or the daemon's own user. All nodes are to reload, or this one is. The third has a
file's path behind the word: what would a reload of it change?"""

RECORD: Final = 64 * 1024
"""Bytes of the longest record: three fit into a socket's buffer of the usual size."""
LARGEST_ITEM: Final = LARGEST_MESSAGE + 64 * 1024
"""Bytes of the longest item that is assembled: the longest message."""

_HEAD = struct.Struct("<BBHIIIII")
_MEMBER = struct.Struct("<II")
_CHANGE = struct.Struct("<III")
_SEQ = struct.Struct("<Q")
_HANDLE = struct.Struct("<I")
_TIME = struct.Struct("<d")

_CONTINUED, _CUT = 1, 2
"""Flags of a record: its first item began in the record before; its last item continues in the next."""
_ROOM: Final = RECORD - 1
_SAME_LENGTH: Final = 0x80
"""Flag in the detail of messages: one length for all."""


class Malformed(TotemError):
    """The other side broke this protocol; the text says how and where."""


class Kind(enum.IntEnum):
    """The kinds of items."""

    HELLO = 1
    WELCOME = 2
    JOIN = 3
    REFUSED = 4
    SEND = 5
    LEAVE = 6
    MESSAGES = 7
    CONFCHG = 8
    RING = 9
    TRANSITIONAL = 10
    QUORUM = 11
    ASK = 12
    ANSWER = 13
    GOODBYE = 14
    LINK = 15


class Wish(enum.IntFlag):
    """What a client knows beyond the first items of this version, and is sent for that reason."""

    LINKS = 1


class Refusal(enum.IntEnum):
    """Why a join was refused: the exception that it raises."""

    NAME = 1
    ALREADY_JOINED = 2
    LIMIT = 3
    RESERVED = 4
    FULL = 5


class Farewell(enum.IntEnum):
    """Why the daemon ends a client's connection."""

    ACCESS = 1
    """Its user may not connect."""
    VERSION = 2
    MALFORMED = 3
    """It broke the protocol."""
    SLOW = 4
    """It did not read, and too much waited for it."""
    ENDING = 5
    """The daemon ends, or has no ring any more."""
    FULL = 6
    """There are as many clients as there may be, of all users or of its user."""
    UNFINISHED = 7
    """It began a long message and did not complete it, while others waited for the room."""


_LEVELS: Final = tuple(Level)
_GUARANTEES: Final = tuple(Guarantee)
_REASONS: Final = tuple(Reason)
_LEVEL_NUMBERS: Final = {level: number for number, level in enumerate(_LEVELS)}
_GUARANTEE_NUMBERS: Final = {guarantee: number for number, guarantee in enumerate(_GUARANTEES)}
_REASON_NUMBERS: Final = {reason: number for number, reason in enumerate(_REASONS)}


class Item(NamedTuple):
    """One item as it arrived; its kind decides what the numbers mean."""

    kind: Kind
    detail: int
    handle: int
    a: int
    b: int
    c: int
    body: bytes


# ---- records


class Writer:
    """Items that wait to be sent, and the records that they make."""

    def __init__(self) -> None:
        self._items: deque[tuple[bytes, bytes]] = deque()
        self._cut: tuple[bytes, int] | None = None
        """The body of an item that is longer than a record, and the number of its bytes that were sent."""
        self.size = 0
        """Bytes that wait, heads included."""

    def add(self, head: bytes, body: bytes = b"") -> None:
        """Add an item."""
        self._items.append((head, body))
        self.size += len(head) + len(body)

    def discard(self) -> None:
        """Discard what waits: the next record begins with the next item, whatever was cut before it."""
        self._items.clear()
        self._cut = None
        self.size = 0

    def has_records(self) -> bool:
        """Return whether a record can be made."""
        return self.size > 0

    def record(self) -> bytes:
        """Make the next record, with as many items as fit; call this only if something waits. Hot: once for each
        record.
        """
        items = self._items
        if self._cut is not None or len(items[0][0]) + len(items[0][1]) > _ROOM:
            return self._cut_record()
        parts: list[bytes] = [b"\0"]
        room = _ROOM
        while items:
            head, body = items[0]
            room -= len(head) + len(body)
            if room < 0:
                room += len(head) + len(body)
                break
            parts += items.popleft()
        self.size -= _ROOM - room
        return b"".join(parts)

    def _cut_record(self) -> bytes:
        is_first = self._cut is None
        item_head, body, gone = (*self._items.popleft(), 0) if self._cut is None else (b"", *self._cut)
        part = item_head + body[gone : gone + _ROOM - len(item_head)]
        self.size -= len(part)
        gone += len(part) - len(item_head)
        is_last = gone == len(body)
        self._cut = None if is_last else (body, gone)
        return bytes(((0 if is_first else _CONTINUED) | (0 if is_last else _CUT),)) + part

    def bodies(self) -> Iterator[bytes]:
        """Yield the bodies that wait; other writers may hold the same objects."""
        if self._cut is not None:
            yield self._cut[0]
        for _, body in self._items:
            yield body


class Reader:
    """The items of arriving records."""

    def __init__(self, largest: int = LARGEST_ITEM) -> None:
        self.promised = 0
        """Bytes of an item that has begun and is not complete; 0 if there is none."""
        self._largest = largest
        self._parts: list[bytes] = []
        self._length = 0

    def items(self, record: bytes) -> list[Item]:
        """Read a record; return the whole items that it completes. Raises Malformed."""
        if not record or record[0] & ~(_CONTINUED | _CUT):
            raise Malformed(f"a record with the flags {record[:1].hex() or 'missing'}")
        if not record[0] and not self._parts:
            return _split(record, 1)
        return self._assemble(record)

    def _assemble(self, record: bytes) -> list[Item]:
        if record[0] & _CUT and len(record) != RECORD:
            raise Malformed(f"a record of {len(record)} bytes, not {RECORD}, of which more is to come")
        if not record[0] & _CONTINUED:
            self._clear()  # the other side has discarded the rest of the item that it had begun
            self.promised = _promised(record)
            if self.promised > self._largest:
                raise Malformed(f"an item of more than {self._largest} bytes: {self.promised}")
        elif not self._parts:
            raise Malformed("a record that continues nothing")
        self._parts.append(record[1:])
        self._length += len(record) - 1
        if self._length > self.promised or (self._length == self.promised and record[0] & _CUT):
            raise Malformed(f"an item of more than the {self.promised} bytes that it has")
        if record[0] & _CUT:
            return []
        whole = b"".join(self._parts)
        self._clear()
        return _split(whole, 0)

    def _clear(self) -> None:
        self._parts.clear()
        self._length = self.promised = 0


def _promised(record: bytes) -> int:
    """Return the bytes of a record's items, the last of which continues in the next record. Raises Malformed."""
    place, end = 1, len(record)
    while place < end:
        if end - place < _HEAD.size:
            raise Malformed(f"{end - place} bytes in place of an item's head, at byte {place}")
        place += _HEAD.size + _HEAD.unpack_from(record, place)[4]
    return place - 1


def _split(data: bytes, place: int) -> list[Item]:
    items = []
    end = len(data)
    while place < end:
        if end - place < _HEAD.size:
            raise Malformed(f"{end - place} bytes in place of an item's head, at byte {place}")
        kind, detail, _, handle, length, a, b, c = _HEAD.unpack_from(data, place)
        place += _HEAD.size
        if length > end - place:
            raise Malformed(f"an item of kind {kind} says it has {length} bytes, and {end - place} follow")
        try:
            items.append(Item(Kind(kind), detail, handle, a, b, c, data[place : place + length]))
        except ValueError:
            raise Malformed(f"an item of the unknown kind {kind}") from None
        place += length
    return items


def head(kind: Kind, handle: int, length: int, *, detail: int = 0, a: int = 0, b: int = 0, c: int = 0) -> bytes:
    """Write the head of an item with a body of `length` bytes."""
    return _HEAD.pack(kind, detail, 0, handle, length, a, b, c)


# ---- messages


class Packed(NamedTuple):
    """A run of messages as a body, to be sent to any number of clients."""

    number: int
    flag: int
    body: bytes


def pack(payloads: Sequence[bytes]) -> Packed:
    """Make a body of messages. Hot: once for each run."""
    count = len(payloads)
    if count == 1:
        return Packed(1, _SAME_LENGTH, payloads[0])
    lengths = [*map(len, payloads)]
    if lengths.count(lengths[0]) == count and lengths[0]:
        return Packed(count, _SAME_LENGTH, b"".join(payloads))
    return Packed(count, 0, b"".join((struct.pack(f"<{count}I", *lengths), *payloads)))


def unpack(item: Item) -> list[bytes]:
    """Return the messages of an item. Raises Malformed. Hot: once for each run."""
    body, count = item.body, item.c
    if item.detail & _SAME_LENGTH:
        if count == 1:
            return [body]
        size = len(body) // count if count else 0
        if not size or size * count != len(body):
            raise Malformed(f"{count} messages of one length in {len(body)} bytes")
        return [body[place : place + size] for place in range(0, len(body), size)]
    if not count or 4 * count > len(body):
        raise Malformed(f"{count} messages in {len(body)} bytes")
    lengths = struct.unpack_from(f"<{count}I", body)
    if 4 * count + sum(lengths) != len(body):
        raise Malformed(f"{count} messages of {sum(lengths)} bytes in a body of {len(body)}")
    messages = []
    place = 4 * count
    for length in lengths:
        messages.append(body[place : place + length])
        place += length
    return messages


def send_head(handle: int, guarantee: Guarantee, packed: Packed) -> bytes:
    """Write the head of messages to be sent."""
    detail = packed.flag | _GUARANTEE_NUMBERS[guarantee]
    return _HEAD.pack(Kind.SEND, detail, 0, handle, len(packed.body), 0, 0, packed.number)


def messages_head(handle: int, level: Level, sender: Member, packed: Packed) -> bytes:
    """Write the head of messages that were delivered."""
    detail = packed.flag | _LEVEL_NUMBERS[level]
    return _HEAD.pack(Kind.MESSAGES, detail, 0, handle, len(packed.body), *sender, packed.number)


def guarantee_of(item: Item) -> Guarantee:
    """Return the guarantee with which messages are to be sent."""
    try:
        return _GUARANTEES[item.detail & ~_SAME_LENGTH]
    except IndexError:
        raise Malformed(f"the unknown guarantee {item.detail & ~_SAME_LENGTH}") from None


def level_of(item: Item) -> Level:
    """Return the level that messages have reached."""
    try:
        return _LEVELS[item.detail & ~_SAME_LENGTH]
    except IndexError:
        raise Malformed(f"the unknown level {item.detail & ~_SAME_LENGTH}") from None


# ---- events


def event_item(handle: int, event: Confchg | RingEvent) -> tuple[bytes, bytes]:
    """Return head and body of an event that is not a message."""
    if isinstance(event, Confchg):
        left, joined = (
            [_CHANGE.pack(*member, _REASON_NUMBERS[reason]) for member, reason in changes.items()]
            for changes in (event.left, event.joined)
        )
        body = b"".join((*(_MEMBER.pack(*member) for member in event.members), *left, *joined))
        return head(Kind.CONFCHG, handle, len(body), a=len(event.members), b=len(left), c=len(joined)), body
    body = struct.pack(f"<{len(event.node_ids)}I", *event.node_ids)
    if isinstance(event, TotemConfchg):
        body = _SEQ.pack(event.ring_id.seq) + body
        return head(Kind.RING, handle, len(body), a=event.ring_id.representative), body
    if isinstance(event, Quorum):
        return head(Kind.QUORUM, handle, len(body), detail=event.quorate), body
    return head(Kind.TRANSITIONAL, handle, len(body)), body


def link_item(event: Link) -> tuple[bytes, bytes]:
    """Return head and body of a link's state."""
    body = _TIME.pack(event.since)
    return head(Kind.LINK, 0, len(body), detail=event.up, a=event.node_id, b=event.link, c=event.mtu), body


def link_of(item: Item) -> Link:
    """Read a link's state. Raises Malformed."""
    if len(item.body) != _TIME.size:
        raise Malformed(f"an item LINK of {len(item.body)} bytes")
    return Link(item.a, item.b, bool(item.detail), item.c, *_TIME.unpack(item.body))


def addressed(item_head: bytes, handle: int) -> bytes:
    """Return the same head for another handle."""
    return item_head[:4] + _HANDLE.pack(handle) + item_head[8:]


def event_of(item: Item) -> Confchg | RingEvent:
    """Read an event that is not a message. Raises Malformed."""
    body = item.body
    try:
        if item.kind is Kind.CONFCHG:
            return _confchg(item)
        if item.kind is Kind.RING:
            (seq,) = _SEQ.unpack_from(body)
            return TotemConfchg(RingId(item.a, seq), _node_ids(body[_SEQ.size :]))
        if item.kind is Kind.QUORUM:
            return Quorum(bool(item.detail), _node_ids(body))
        if item.kind is Kind.TRANSITIONAL:
            return Transitional(_node_ids(body))
    except (struct.error, IndexError) as error:
        raise Malformed(f"an item {item.kind.name} of {len(body)} bytes: {error}") from None
    raise Malformed(f"an item {item.kind.name} in place of an event")


def _confchg(item: Item) -> Confchg:
    body = item.body
    members_end = item.a * _MEMBER.size
    left_end = members_end + item.b * _CHANGE.size
    if left_end + item.c * _CHANGE.size != len(body):
        raise Malformed(f"{item.a} members, {item.b} left and {item.c} joined in {len(body)} bytes")
    members = tuple(Member(*numbers) for numbers in _MEMBER.iter_unpack(body[:members_end]))
    left, joined = (
        {Member(node_id, pid): _REASONS[reason] for node_id, pid, reason in _CHANGE.iter_unpack(part)}
        for part in (body[members_end:left_end], body[left_end:])
    )
    return Confchg(members, left, joined)


def _node_ids(body: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(body) // 4}I", body)
