"""What a program sends: messages as bytes, in parts that fit the send queue, and the guarantee that it asks for."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Final

from cpg.arguments import BytesLike
from cpg.errors import NotSupported
from totem import configuration
from totem.errors import MessageTooLong

LARGEST_MESSAGE: Final = 16 * 1024 * 1024
"""Payload bytes of the longest message that can be sent or received."""
BATCH_BYTES: Final = 256 * 1024
"""A longer list enters the send queue in parts of about this size: as a whole it might never fit."""
MESSAGE_COST: Final = 256
"""Bytes counted for what the send queue adds to each message."""


class Guarantee(enum.Enum):
    """What a sender asks for; the `level` of a delivered message says what was reached."""

    AGREED = "agreed"
    """Delivered in the total order."""
    SAFE = "safe"
    """Delivered when every node of the ring is known to have the message."""
    SAFE_OR_AGREED = "safe or agreed"
    """SAFE, or AGREED on a backend without SAFE (`open_corosync`)."""


_RING_AGREED, _RING_SAFE = configuration.Guarantee
_AGREED, _SAFE, _SAFE_OR_AGREED = Guarantee


def ring_guarantee(wanted: Guarantee, *, gives_safe: bool) -> configuration.Guarantee:
    """Return what the ring is asked for. Hot: once for each send.

    Raises NotSupported for SAFE where `gives_safe` is False: nothing is weakened silently (ruling B3).
    """
    if wanted is _AGREED:
        return _RING_AGREED
    if wanted is _SAFE_OR_AGREED:
        return _RING_SAFE if gives_safe else _RING_AGREED
    if wanted is not _SAFE:
        raise TypeError(f"guarantee={wanted!r}: cpg.AGREED, cpg.SAFE or cpg.SAFE_OR_AGREED")
    if not gives_safe:
        raise NotSupported(
            "SAFE: this ring delivers messages in order, but cannot tell when all nodes have one; "
            "send with guarantee=cpg.SAFE_OR_AGREED to accept that"
        )
    return _RING_SAFE


def payloads_of(data: BytesLike | Iterable[BytesLike]) -> list[bytes]:
    """Return the messages to be sent. Hot: once for each send.

    Raises MessageTooLong, and TypeError for anything but bytes or a list of bytes.
    """
    if isinstance(data, BytesLike):
        data = (data,)
    elif type(data) is not list:  # checking anything else takes longer
        _check_listed(data)
    payloads = [payload if type(payload) is bytes else _payload(payload) for payload in data]
    if payloads and len(max(payloads, key=len)) > LARGEST_MESSAGE:
        raise MessageTooLong(
            f"a message of {len(max(payloads, key=len))} bytes: a group carries at most {LARGEST_MESSAGE}"
        )
    return payloads


def _check_listed(data: Iterable[BytesLike]) -> None:
    if isinstance(data, str):
        raise TypeError("a message is bytes-like, or a list of such: encode the str")
    if isinstance(data, Mapping | Set) or not isinstance(data, Iterable):
        raise TypeError(f"a message is bytes-like, or a list of such, not {type(data).__name__}: {data!r:.80}")


def _payload(payload: BytesLike) -> bytes:
    try:
        return bytes(memoryview(payload))
    except TypeError:
        raise TypeError(f"a message is bytes-like, not {type(payload).__name__}: {payload!r:.80}") from None


def cost(payloads: Sequence[bytes]) -> int:
    """Return an upper bound of the bytes that the send queue will need."""
    return sum(map(len, payloads)) + MESSAGE_COST * len(payloads)


def split(payloads: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Cut a list into parts that fit the send queue; nearly always there is one part."""
    if cost(payloads) <= BATCH_BYTES:
        if payloads:
            yield payloads
        return
    batch: list[bytes] = []
    size = 0
    for payload in payloads:
        if batch and size + len(payload) + MESSAGE_COST > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(payload)
        size += len(payload) + MESSAGE_COST
    yield batch
