"""The ring sequence on disk: a ring id that was used must never be used again.

Each node has two files. `ringid_N` has Corosync's format (the sequence, 8 bytes, little endian), so that a machine may
change between Corosync and this package in either direction. `ringid_N.check` holds the same with a checksum, because 8
bytes alone cannot tell a sequence from garbage.

Each file is replaced as a whole (temporary file, fsync, rename), and the folder is synced before a sequence counts as
stored. So after a crash at any step each file holds the old sequence or the new one. The larger of the two is never
less than what was reported as stored.

Where nothing trustworthy is left, the seconds of the wall clock take its place. Over a node's life rings are far rarer
than one in four seconds, so the clock exceeds every sequence of an earlier life. This and log lines are its only use.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import time
import zlib
from contextlib import suppress
from functools import cache

from totem.ring_numbers import LIMIT, is_near

_log = logging.getLogger(__name__)

COROSYNC_DIRECTORY = "/var/lib/corosync"

DISK_FAULTS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO))
"""Faults that may end by themselves: a disk that is full, or does not answer."""
_ADVICE = "name a folder with state_dir in section system"

_SIZE = 8
_CHECKED_SIZE = 12


SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two tries to store what could not be stored: doubled from the first to the second."""


def remedy(error: OSError, other_place: str) -> str:
    """Return what helps where a file cannot be written: room for it or, as `other_place` says, another place."""
    return "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else other_place


def words(error: OSError) -> str:
    """Return what went wrong, and with which file if one is known."""
    reason = str(error.strerror or error)
    return f"{error.filename}: {reason}" if error.filename is not None else reason


def default_directory() -> str:
    """Return the folder for ring sequences: /var/lib/totem for root, else one in the user's state directory."""
    if os.geteuid() == 0:
        return "/var/lib/totem"
    state = os.environ.get("XDG_STATE_HOME", "")
    if state.startswith("/"):  # the XDG specification has relative paths ignored
        return f"{state}/totem"
    home = os.path.expanduser("~")
    if not home.startswith("/"):
        raise OSError(errno.ENOENT, f"this user has no home directory to keep ring sequences in: {_ADVICE}")
    return f"{home}/.local/state/totem"


class RingStore:
    """The ring sequence of one node in one folder, which is made if it is missing.

    Raises `OSError` where the folder cannot be written: a node that cannot remember must not form rings.
    """

    def __init__(self, directory: str, node_id: int, *, corosync_directory: str = COROSYNC_DIRECTORY) -> None:
        self.directory = directory
        self.path = f"{directory}/ringid_{node_id}"
        self._check_path = f"{self.path}.check"
        self._corosync_path = f"{corosync_directory}/ringid_{node_id}"
        self._node_id = node_id
        self._stored = -1

    def load(self) -> int:
        """Return a sequence that no ring of this node has exceeded. It is stored, so that a bad folder shows at
        once."""
        try:
            return self._load()
        except OSError as error:
            raise _unkept(self.directory, error) from error

    def _load(self) -> int:
        new_directory = not os.path.isdir(self.directory)
        os.makedirs(self.directory, exist_ok=True)
        warn_of_others(self.directory)
        plain, checked = _read(self.path), _read(self._check_path)
        confirmed = self._checked(checked)
        # A sequence without a checksum is believed as another node's is: where it is near the known one (rulings, G18).
        near = max(confirmed or 0, int(time.time()))
        said = _sequence(plain, near)
        known = [seq for seq in (said, confirmed, self._of_corosync(near)) if seq is not None]
        # A crash leaves both files whole. A file that is not whole was damaged from outside, and the other may be older
        # (Corosync does not write the second); without the second, Corosync wrote the first.
        sound = said is not None and (checked is None or confirmed is not None)
        ring_seq = max(known) if sound else max(1, int(time.time()), *known)
        self.store(ring_seq)
        if not sound:
            self._tell_loss(ring_seq, new_directory, plain)
        return ring_seq

    def store(self, ring_seq: int) -> None:
        """Make the sequence durable; when this returns, no crash can take it back."""
        if ring_seq <= self._stored:
            return
        plain = ring_seq.to_bytes(_SIZE, "little")
        _replace(self._check_path, plain + self._checksum(plain), 0o644)
        write_durably(self.path, plain)
        self._stored = ring_seq

    def _tell_loss(self, ring_seq: int, new_directory: bool, plain: bytes | None) -> None:
        if new_directory:
            _log.info("new folder %s for ring sequences, starting at %d", self.directory, ring_seq)
        else:
            state = "lost (or this is the first start)" if plain is None else "damaged"
            _log.warning("ring sequence in %s is %s: going on from %d", self.path, state, ring_seq)

    def _checked(self, content: bytes | None) -> int | None:
        if content is None or len(content) != _CHECKED_SIZE or content[_SIZE:] != self._checksum(content[:_SIZE]):
            return None
        return _sequence(content[:_SIZE], LIMIT)

    def _checksum(self, plain: bytes) -> bytes:
        return zlib.crc32(b"ringid_%d:" % self._node_id + plain).to_bytes(4, "little")

    def _of_corosync(self, near: int) -> int | None:
        try:
            return _sequence(_read(self._corosync_path), near)
        except OSError:
            return None  # not for us to read, so no Corosync that we take over from


def check_folder(folder: str) -> None:
    """Raise an `OSError` if ring sequences cannot be kept in a folder; nothing is left there.

    For a folder that is still to be made, the check is of the folder in which that would be done.
    """
    place = folder
    while not os.path.exists(place):
        place = os.path.dirname(place) or os.curdir
    try:
        with tempfile.TemporaryFile(dir=place):
            return
    except OSError as error:
        raise _unkept(folder, error) from error


def _unkept(folder: str, error: OSError) -> OSError:
    reason = f"{error.strerror or error}; {remedy(error, _ADVICE)}"
    return OSError(error.errno, f"ring sequences cannot be kept in {folder}: {reason}")


def write_durably(path: str, content: bytes, mode: int = 0o644) -> None:
    """Replace a whole file; when this returns, no crash can take it back.

    The file has this mode from its first moment. Raises an `OSError` that names the path.
    """
    _replace(path, content, mode)
    sync_directory(os.path.dirname(path) or os.curdir)


@cache
def warn_of_others(folder: str) -> None:
    """Warn, once for each folder, if users other than this one and root can put files of their own in it."""
    found = os.stat(folder)
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o002:
        _log.warning(
            "users other than this one may write in %s (owner: uid %d, mode %o), and so change what this node must not "
            "forget: make it this user's, with mode 755",
            folder,
            found.st_uid,
            found.st_mode & 0o7777,
        )


def _sequence(content: bytes | None, near: int) -> int | None:
    if content is None or len(content) != _SIZE:
        return None
    seq = int.from_bytes(content, "little")
    return seq if is_near(seq, near) else None


def _read(path: str) -> bytes | None:
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return os.read(file, 64)
    finally:
        os.close(file)


def _replace(path: str, content: bytes, mode: int) -> None:
    temporary = f"{path}.new"
    try:
        with suppress(FileNotFoundError):
            os.unlink(temporary)  # left by a crash, perhaps with another mode
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            if os.write(file, content) != len(content):
                raise OSError(errno.ENOSPC, "could not be written whole")
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        error.filename = path
        raise


def sync_directory(path: str) -> None:
    """Make durable which files are in a folder. Raises an `OSError` that names it."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        error.filename = path
        raise
