"""Key files of transport knet: read as Corosync reads them, but only where nobody else can read or change them."""

from __future__ import annotations

import os
import stat

from totem.config import MAX_KEY
from totem.errors import ConfigError


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
