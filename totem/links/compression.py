"""Compressed user packets. Each says by which model, so that nodes may be configured differently."""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import Final, Protocol

from totem.wire.knet import LARGEST_USER_DATA

MODELS: Final = {"zlib": 1, "lz4": 2, "lz4hc": 3, "lzo2": 4, "lzma": 5, "bzip2": 6, "zstd": 7}
"""libknet's, by their names in the configuration."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, longest: int, /) -> bytes: ...


def compress(model: str, level: int, data: bytes) -> bytes:
    """Return a user packet, compressed. Level 0 is the model's default, but of lzma its fastest, as in libknet."""
    if model == "zlib":
        return zlib.compress(data, level or -1)
    if model == "bzip2":
        return bz2.compress(data, level or 9)
    return lzma.compress(data, check=lzma.CHECK_NONE, preset=level)


class Unusable(Exception):
    """A packet that cannot be decompressed here; the text says why."""


def decompress(model: int, data: bytes) -> bytes:
    """Return the user packet, which has a bound.

    Raises:
        Unusable: The model is not available here, or the data are damaged, or too long.
    """
    try:
        if model == MODELS["zlib"]:
            machine: _Decompressor = zlib.decompressobj()
        elif model == MODELS["lzma"]:
            machine = lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)
        elif model == MODELS["bzip2"]:
            machine = bz2.BZ2Decompressor()
        else:
            names = {number: name for name, number in MODELS.items()}
            raise Unusable(
                f"knet_compression_model {names.get(model, model)} is not available: use zlib, bzip2 or lzma"
            )
        whole = machine.decompress(data, LARGEST_USER_DATA + 1)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise Unusable(f"damaged ({error})") from None
    if len(whole) > LARGEST_USER_DATA:
        raise Unusable(f"it has more than {LARGEST_USER_DATA} bytes")
    if not machine.eof:
        raise Unusable("its end is missing")
    return whole


_LZMA_MEMORY: Final = 16 << 20
