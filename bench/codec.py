"""Each hot function by itself: nanoseconds a message or a call."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.notes import Bench
from bench.rings import OURS
from cpg.events import Confchg, Member, RingEvent
from cpg.node.engine import Engine
from cpg.node.membership import LocalMembership
from cpg.node.wire import (
    LARGEST_PLAIN,
    MCAST_PREFIX,
    Barrier,
    Mcast,
    Procjoin,
    ServiceBuild,
    mcast_label,
    mcast_prefix,
)
from totem.configuration import Guarantee, Level, Messages, RegularConfiguration, RingId
from totem.labels import Envelope, Labels, Numbers
from totem.packing import Assembler, Packer
from totem.window import MessageWindow
from totem.wire import codec
from totem.wire.layout import FRAME_COMPACT
from totem.wire.messages import Token

RING = RingId(1, 4)
TRIES = 2
"""The better one counts."""
SECONDS = 0.05
"""About how long a try takes."""


def nanoseconds(work: Callable[[], object], items: int = 1) -> float:
    """What one of the `items` of a call costs."""
    count = 1
    while (spent := _time(work, count)) < SECONDS / 4:
        count *= 4
    count = max(1, int(count * SECONDS / spent))
    return min(_time(work, count) for _ in range(TRIES)) / count / items * 1e9


def _time(work: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        work()
    return time.perf_counter() - start


# Floor 1: a frame of five messages of 255 bytes, which is what 64 bytes of payload are on Corosync's wire.

MESSAGES = [Mcast(b"flood", 100, bytes(64)).encode(1)] * 5
PARTS = [codec.frame([len(message) for message in MESSAGES], 0, 0), *MESSAGES]
RING_BYTES = codec.ring_id_bytes(RING)
FRAME = codec.seal_mcast(1, 7, 7, RING_BYTES, 0, False, PARTS)
TOKEN = Token(1, RING, seq=7, token_seq=9, aru=7)
TOKEN_BYTES = codec.encode(TOKEN)


PAYLOADS = [bytes(64)] * 20


class Flood(dict[int, bytes]):
    """An envelope."""

    label, header_size, largest = mcast_label(b"flood", 100), MCAST_PREFIX, LARGEST_PLAIN


ENVELOPE = Flood({64: mcast_prefix(b"flood", 100, 64, 1)})


def compact_frame(labels: Labels) -> bytes:
    """A compact frame of all payloads, whose label is known."""
    packer = Packer(1427)
    for _ in range(2):
        packer.extend(PAYLOADS, Guarantee.AGREED, ENVELOPE)
        _, parts = packer.next_frame(last=True, numbers=labels.own)
        frame = codec.seal_mcast(1, 7, 7, RING_BYTES, 0, False, parts)
        labels.runs(1, frame, Assembler().take(1, frame, FRAME_COMPACT), print)
    return frame


LONG = bytes(128 * 1024)


def cut_long() -> list[codec.Frame]:
    """The frames of a long message."""
    packer = Packer(1427)
    packer.extend([LONG], Guarantee.AGREED)
    return packer.next_frames(len(LONG))


CUT = cut_long()
NUMBERS = range(1, len(CUT) + 1)
TRAIN = codec.seal_train(1, NUMBERS, NUMBERS, RING_BYTES, CUT)


def seal() -> None:
    codec.seal_mcast(1, 7, 7, RING_BYTES, 0, False, PARTS)


def seal_long() -> None:
    codec.seal_train(1, NUMBERS, NUMBERS, RING_BYTES, CUT)


def take_long() -> None:
    assembler = Assembler()
    place = 0
    while place < len(TRAIN):
        if middles := assembler.take_middles(TRAIN, place):
            place += middles
        else:
            assembler.take(1, TRAIN[place])
            place += 1


def file_frames() -> None:
    window = MessageWindow(0)
    window.insert_all(codec.mcast_seqs(TRAIN), TRAIN)
    window.release(len(TRAIN))


def check_frame() -> None:
    if codec.packet_type(FRAME) == codec.TYPE_MCAST:
        codec.check_mcast(FRAME)
        codec.mcast_seq(FRAME)


def floor_1() -> dict[str, float]:
    """The ring's hot functions."""
    assembler, packer, labels = Assembler(), Packer(1427), Labels()
    compact = compact_frame(labels)

    def pack() -> None:
        packer.extend(MESSAGES, Guarantee.AGREED)
        packer.next_frame(last=True)

    def pack_payloads(numbers: Numbers | None, count: int) -> None:
        packer.extend(PAYLOADS[:count], Guarantee.AGREED, ENVELOPE)
        packer.next_frame(last=True, numbers=numbers)

    def take_compact() -> None:
        labels.runs(1, compact, assembler.take(1, compact, FRAME_COMPACT), print)

    return {
        "token: decode": nanoseconds(lambda: codec.decode(TOKEN_BYTES)),
        "token: encode": nanoseconds(lambda: codec.encode(TOKEN)),
        "frame of 5: type, check, seq": nanoseconds(check_frame),
        "frame of 5: seal": nanoseconds(seal),
        "frame of a train: into the window and out": nanoseconds(file_frames, len(TRAIN)),
        "frame of a long message: cut": nanoseconds(cut_long, len(TRAIN)),
        "frame of a long message: seal": nanoseconds(seal_long, len(TRAIN)),
        "frame of a long message: take": nanoseconds(take_long, len(TRAIN)),
        "message: queue and cut": nanoseconds(pack, len(MESSAGES)),
        "payload: queue and cut with its header, 5 a frame": nanoseconds(lambda: pack_payloads(None, 5), 5),
        "payload: queue and cut with a label, 20 a frame": nanoseconds(lambda: pack_payloads(labels.own, 20), 20),
        "message: take out of its frame": nanoseconds(lambda: assembler.take(1, FRAME), len(MESSAGES)),
        "payload: take out of a compact frame of 20": nanoseconds(take_compact, len(PAYLOADS)),
    }


# Floor 2.


class Nowhere:
    """A ring that takes everything and sends nothing."""

    node_id = 1

    def multicast(
        self, messages: object, guarantee: Guarantee = Guarantee.AGREED, envelope: Envelope | None = None
    ) -> None:
        pass

    def multicast_sync(self, messages: object) -> None:
        pass

    def sync_complete(self, ring_id: RingId) -> None:
        pass


class Sink:
    """An inbox that forgets."""

    def messages(self, sender: Member, level: Level, payloads: list[bytes]) -> None:
        pass

    def event(self, event: Confchg | RingEvent) -> None:
        pass


def frame(*messages: bytes) -> Messages:
    return Messages(1, RING, 7, Level.AGREED, list(messages))


def joined_engine() -> tuple[Engine, LocalMembership]:
    """An engine in a ring of one, with one of two members of a group here."""
    engine = Engine(Nowhere())
    membership = engine.join(b"flood", 100, Sink())
    engine.deliver([RegularConfiguration(RING, (1,), (), pure=True, features=0)])
    for noun in (ServiceBuild(RING, (2,)), Barrier(RING), Procjoin(b"flood", 100), Procjoin(b"flood", 101)):
        engine.deliver([frame(noun.encode())])
    assert membership.joined
    return engine, membership


def receive(sizes: list[int], pids: tuple[int, ...] = (100,)) -> float:
    """Cost of a message in a frame with messages of these sizes, from members in turn."""
    engine, _ = joined_engine()
    batch = frame(*(Mcast(b"flood", pids[n % len(pids)], bytes(size)).encode(1) for n, size in enumerate(sizes)))
    return nanoseconds(lambda: engine.deliver((batch,)), len(sizes))


def receive_payloads() -> float:
    """Cost of a payload in a frame of one label."""
    engine, _ = joined_engine()
    batch = frame(*PAYLOADS)._replace(label=ENVELOPE.label)
    return nanoseconds(lambda: engine.deliver((batch,)), len(PAYLOADS))


def send(size: int, count: int) -> float:
    """Cost of a message in a list of so many."""
    _, membership = joined_engine()
    payloads = [bytes(size)] * count
    return nanoseconds(lambda: membership.send(payloads), count)


def floor_2() -> dict[str, float]:
    """The groups' hot functions."""
    return {
        "cpg header: build": nanoseconds(lambda: mcast_prefix(b"flood", 100, 64, 1)),
        "receive 64 bytes, 5 a frame": receive([64] * 5),
        "receive 64 bytes, 30 a frame": receive([64] * 30),
        "receive 64 bytes, 5 a frame, two members": receive([64] * 5, (100, 101)),
        "receive 10 to 90 bytes, 5 a frame": receive([10, 30, 50, 70, 90]),
        "receive 64 bytes with a label, 20 a frame": receive_payloads(),
        "receive 1000 bytes, 1 a frame": receive([1000]),
        "send 64 bytes, 1 a list": send(64, 1),
        "send 64 bytes, 100 a list": send(64, 100),
        "send 1000 bytes, 10 a list": send(1000, 10),
    }


def measure(bench: Bench) -> None:
    """Note the cost of all of them."""
    for _ in bench.turns():
        for what, cost in (floor_1() | floor_2()).items():
            bench.note(what, OURS.name, "ns", cost)
