"""What a lock server keeps on disk: the epoch of tokens and the longest lease that may have been granted.

One file for each node and group, replaced as a whole and synced before it counts (`totem.store`), with a checksum: one
that is damaged counts as none, and then its node does not count where a state is born (ruling E5). Beside it is the key
by which a daemon knows the clients of its former life again.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import anyio.to_thread
from msgspec import ValidationError
from msgspec.msgpack import Decoder, Encoder

from cluck.wire import Record
from totem.store import warn_of_others, write_durably

_log = logging.getLogger(__name__)

KEY_SIZE: Final = 32
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Memory(NamedTuple):
    """A file's content."""

    record: Record
    boot: str
    """Of which run of the machine."""


_encoder = Encoder()
_decoder = Decoder(Memory)


class Disk:
    """The file of one node's lock servers in one group."""

    def __init__(self, folder: str | os.PathLike[str], node_id: int, group: str = "cluck") -> None:
        """Raises `OSError` where the folder cannot be made: a server that cannot remember must not grant."""
        self.folder = Path(folder)
        self.path = self.folder / f"{group}_{node_id}"
        self._key_path = self.folder / f"{group}_{node_id}.key"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            text = f"{error.strerror}: the folder {folder} for what lock servers remember; name another one"
            raise OSError(error.errno, text) from None
        warn_of_others(str(self.folder))

    def load(self) -> Record | None:
        """Return what is known; None without a file, or with a damaged one, which is logged."""
        memory = self._read()
        return memory.record if memory is not None else None

    @property
    def is_of_this_boot(self) -> bool:
        """Whether the file was written since the machine has started: clients of that time may be alive."""
        memory = self._read()
        return memory is not None and memory.boot == _boot()

    async def save(self, record: Record) -> None:
        """Remember at least this; when it returns no crash can take it back. Takes as long as the disk does.

        Raises an `OSError` that names the path. Who is cancelled does not wait for a disk that hangs.
        """
        await anyio.to_thread.run_sync(self._save, record, abandon_on_cancel=True)

    def _save(self, record: Record) -> None:
        with self._locked():
            memory = self._read()
            if memory is not None:
                former = memory.record
                record = Record(max(former.epoch, record.epoch), max(former.longest, record.longest))
            body = _encoder.encode(Memory(record, _boot()))
            write_durably(str(self.path), zlib.crc32(body).to_bytes(4, "little") + body)

    def key(self) -> bytes:
        """Return the key of this node's daemon; made if it is missing."""
        with self._locked():
            with suppress(FileNotFoundError):
                key = self._key_path.read_bytes()
                if len(key) == KEY_SIZE:
                    return key
            key = secrets.token_bytes(KEY_SIZE)
            write_durably(str(self._key_path), key, 0o600)
            return key

    def _read(self) -> Memory | None:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        checksum, body = content[:4], content[4:]
        if zlib.crc32(body).to_bytes(4, "little") == checksum:
            with suppress(ValidationError, ValueError):
                return _decoder.decode(body)
        _log.warning("%s is damaged: what this node knew of earlier tokens counts no more", self.path)
        return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among this node's processes. Who can open the file could keep it locked, so it is nobody else's."""
        lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.fchmod(lock, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _boot() -> str:
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
