"""Searches for bytes that break the promises of `totem.wire`.

    python -m tests.totem.wire.fuzz_wire                     with atheris installed: coverage-guided, until stopped;
    takes
                                                       libFuzzer's arguments (a corpus directory, -max_total_time=60 …)
    python -m tests.totem.wire.fuzz_wire --runs N [--seed S] without: N random mutations of captured datagrams

The promises are those of `tests/totem/wire/properties.py`: `MalformedDatagram` is the only exception, the codec accepts
exactly what the schema accepts, reads the same from it and writes the same again. A failure prints the input in hex.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter

from tests.totem.wire.captures import CAPTURES, ring_datagrams
from tests.totem.wire.properties import check_blocks, check_datagram, check_frame
from totem.configuration import RingId
from totem.wire import codec

try:
    import atheris
except ImportError:
    atheris = None

BLOCKS = [
    codec.encode_hello(
        codec.Hello(
            version=codec.HELLO_VERSION,
            features=1,
            old_ring_id=RingId(1, 5),
            safe_line=8,
            obligations=(1, 2, 3),
            window=800,
            largest_pause_ms=20,
            frame_size=1427,
            daemon=True,
        )
    ),
    codec.encode_hint(codec.Hint(cluster_name="cluster", frame_size=1427, features=1)),
]


def TestOneInput(data: bytes) -> None:
    """Check everything that reads bytes."""
    check_frame(data)
    check_blocks(data)
    check_datagram(data)


def corpus() -> list[bytes]:
    """Return one captured datagram for each type and length, their frames, and blocks of this package."""
    found = {}
    for path in CAPTURES:
        for datagram in ring_datagrams(path):
            found.setdefault((datagram.payload[3], len(datagram.payload)), datagram.payload)
    datagrams = list(found.values())
    frames = [datagram[codec.MCAST_HEADER :] for datagram in datagrams if datagram[3] == codec.TYPE_MCAST]
    return datagrams + frames + BLOCKS


def mutate(data: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    """Make a few random changes, most of them near the front, where the fields are."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        place = dice.randrange(min(len(changed), dice.choice((16, 64, 1500))) + 1)
        match dice.randrange(6):
            case 0:
                changed[place : place + 1] = bytes([dice.randrange(256)])
            case 1:
                changed[place : place + 1] = bytes(byte ^ 1 << dice.randrange(8) for byte in changed[place : place + 1])
            case 2:
                width = dice.choice((2, 4))
                edge = dice.choice((0, 1, 0xFF, 30, 31, 384, 385, 0x7FFF, 0xFFFF)) & 0xFFFF
                changed[place : place + width] = edge.to_bytes(width, "little")
            case 3:
                del changed[place:]
            case 4:
                changed[place:place] = dice.randbytes(dice.randrange(1, 9))
            case 5:
                changed[place:] = dice.choice(others)[place:]
    return bytes(changed)


def run(runs: int, seed: int) -> Counter[str]:
    """Mutate the corpus `runs` times; return how often each cause was found, or `valid`."""
    dice = random.Random(seed)
    originals = corpus()
    found: Counter[str] = Counter()
    for number in range(runs):
        data = mutate(dice.choice(originals), dice, originals)
        try:
            TestOneInput(data)
        except BaseException:
            print(f"broken by input {number} of seed {seed}: {data.hex()}", file=sys.stderr)
            raise
        found[check_datagram(data) or "valid"] += 1
    return found


def main() -> None:
    """Fuzz as the arguments say."""
    if atheris is not None:
        atheris.Setup(sys.argv, TestOneInput)
        atheris.Fuzz()
    parser = argparse.ArgumentParser(prog="python -m tests.totem.wire.fuzz_wire")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for cause, count in run(arguments.runs, arguments.seed).most_common():
        print(f"{count:10}  {cause}")


if __name__ == "__main__":
    main()
