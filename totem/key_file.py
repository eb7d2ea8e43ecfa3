"""Key files of transport knet: made, and read as Corosync does, but only where nobody else can read or change them."""

from __future__ import annotations

import errno
import os
import stat

from totem.config import MAX_KEY
from totem.errors import ConfigError
from totem.store import sync_directory


def read_key(path: str) -> bytes:
    """Return the key in a file, or of a longer file one byte more than a key may have.

    Raises `ConfigError`, which says what to do. As with PostgreSQL's keys, root's file may be readable for its group.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a named pipe would wait for a writer
        try:
            _check_access(path, os.fstat(descriptor))
            return os.read(descriptor, MAX_KEY + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise ConfigError(
            f"the key file {path} is missing: copy that of another node, or make the first with totem keygen {path}"
        ) from None
    except OSError as error:
        raise ConfigError(f"the key file {path} cannot be read: {error.strerror}") from None


def write_key(path: str, key: bytes) -> None:
    """Make a new file that only its owner can read; when this returns, no crash can take it back.

    Raises `OSError`, and `FileExistsError` where there is anything: a key that nodes have is not overwritten.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    try:
        try:
            if os.write(descriptor, key) != len(key):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(os.path.dirname(path) or os.curdir)
    except BaseException:
        os.unlink(path)  # a part of a key is none
        raise


def _check_access(path: str, found: os.stat_result) -> None:
    """Refuse a file that is no file, or that others can read or change."""
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise ConfigError(f"the key file {path} is {what}")
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"the key file {path} belongs to user {found.st_uid}, who can change it: chown root {path}, then make sure"
            " that it holds the right key"
        )
    mode = stat.S_IMODE(found.st_mode)
    readable_for_group = stat.S_IRGRP if found.st_uid == 0 else 0
    if mode & (stat.S_IRWXG | stat.S_IRWXO) & ~(readable_for_group | stat.S_IXGRP | stat.S_IXOTH):
        raise ConfigError(
            f"the key file {path} has mode {mode:04o}, so that others than its owner can read or change it:"
            f" chmod 0400 {path}, and make a new key if they may have done so"
        )
