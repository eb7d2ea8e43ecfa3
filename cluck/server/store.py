"""What a lock server keeps on disk: the epoch of tokens, the longest lease that may have been granted, who decides.

There is one file for each node and group, with a checksum. It is replaced as a whole and synced before it counts
(`totem.store`). A damaged file counts as none, and then its node does not count where a state is born (ruling E5).
Beside it is the key by which a daemon recognizes the clients of its former life.

The file begins with the number of its format. The first format had none, and knew of no voters. A format later than
this release knows ends the server, since what it may say must not count as nothing.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import anyio.to_thread
from msgspec import Raw, ValidationError
from msgspec.msgpack import Decoder, Encoder

from cpg.replication.identities import Boot
from cpg.replication.wire import DurableRecord
from totem.errors import ConfigError
from totem.store import remedy, warn_of_others, write_durably

_log = logging.getLogger(__name__)

KEY_SIZE: Final = 32
FORMAT: Final = 2
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_MACHINE_ID: Final = Path("/etc/machine-id")


class FileContent(NamedTuple):
    """The content of a file."""

    record: DurableRecord
    boot: str
    """The run of the machine in which it was written."""


class _Formatted(NamedTuple):
    """The content of a file, with the number of its format."""

    format: int
    content: Raw


_encoder = Encoder()
_formatted = Decoder(_Formatted)
_decoder = Decoder(FileContent)


class Disk:
    """The file of one node's lock servers in one group."""

    def __init__(self, folder: str | os.PathLike[str], node_id: int, group: str = "cluck") -> None:
        """Raises `OSError` where the folder cannot be made: a server that cannot remember must not grant."""
        self.folder = Path(folder)
        self.path = self.folder / f"{group}_{node_id}"
        self._key_path = self.folder / f"{group}_{node_id}.key"
        is_new = not self.folder.is_dir()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            place = f"the folder {folder} for what lock servers remember"
            text = f"{error.strerror}: {place}; {remedy(error, 'name another one')}"
            raise OSError(error.errno, text) from None
        if is_new:
            _log.info("new folder %s for what lock servers remember", self.folder)
        warn_of_others(str(self.folder))

    def load(self) -> DurableRecord | None:
        """Return what is known; None without a file, or with a damaged one, which is logged."""
        memory = self._read()
        return memory.record if memory is not None else None

    @property
    def is_of_this_boot(self) -> bool:
        """Return whether the file was written since the machine has started: clients of that time may be alive."""
        memory = self._read()
        return memory is not None and memory.boot == _boot()

    async def save(self, record: DurableRecord) -> None:
        """Remember at least this; when it returns no crash can take it back. Takes as long as the disk does.

        Raises an `OSError` that names the path. A caller that is cancelled does not wait for a disk that hangs.
        """
        await anyio.to_thread.run_sync(self._save, record, abandon_on_cancel=True)

    def _save(self, record: DurableRecord) -> None:
        with self._locked():
            memory = self._read()
            if memory is not None:
                record = record.and_(memory.record)
            body = _encoder.encode(_Formatted(FORMAT, Raw(_encoder.encode(FileContent(record, _boot())))))
            write_durably(str(self.path), zlib.crc32(body).to_bytes(4, "little") + body)

    def key(self) -> bytes:
        """Return the key of this node's daemon; make it if it is missing."""
        with self._locked():
            with suppress(FileNotFoundError):
                key = self._key_path.read_bytes()
                if len(key) == KEY_SIZE:
                    return key
            key = secrets.token_bytes(KEY_SIZE)
            write_durably(str(self._key_path), key, 0o600)
            return key

    def _read(self) -> FileContent | None:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        checksum, body = content[:4], content[4:]
        if zlib.crc32(body).to_bytes(4, "little") == checksum:
            content = self._content(body)
            with suppress(ValidationError, ValueError):
                return _decoder.decode(content)
        _log.warning("%s is damaged: what this node knew of earlier tokens is lost", self.path)
        return None

    def _content(self, body: bytes) -> bytes | Raw:
        """Return the content behind the number of the format. Raises `ConfigError` where that is a later one."""
        try:
            found = _formatted.decode(body)
        except ValueError:
            return body  # the first format
        if found.format > FORMAT:
            text = f"{self.path} is of a later release: format {found.format}, and this one reads {FORMAT} and before"
            raise ConfigError(text)
        return found.content

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude this node's other processes. Any program that can open the file could keep it locked, so only this
        user can.
        """
        lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.fchmod(lock, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _boot() -> str:
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""


def this_boot() -> Boot | None:
    """Return which run of which machine this is; None where the system does not say."""
    machine = _MACHINE_ID.read_text().strip() if _MACHINE_ID.exists() else ""
    run = _boot()
    return Boot(machine, run) if re.fullmatch("[0-9a-f]{32}", machine) and run else None
