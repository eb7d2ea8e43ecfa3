"""The daemons' log: where lines go, and what becomes of them where that cannot take any.

A full disk, or a syslog that is away, is told once in a short line on standard error; lines go there again as soon as
they are taken, behind a line that tells how many are missing.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from contextlib import suppress
from logging.handlers import SysLogHandler
from pathlib import Path
from typing import Final

from totem.config import Logging
from totem.store import words

SYSLOG: Final = "/dev/log"
_NO_ROOM: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO))
"""What may be over in a while, and keeps no daemon from starting."""


class _Patient(logging.Handler):
    """A handler whose lines may not be taken for a while."""

    place = ""
    missing = 0
    """Lines since it takes none."""
    _has_failed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, if it is taken."""
        self._has_failed = False
        if self.missing:
            text = "1 line is missing here" if self.missing == 1 else f"{self.missing} lines are missing here"
            gap = logging.LogRecord(record.name, logging.WARNING, "", 0, text, (), None)
            self._try(gap)
        if not self._has_failed:
            self.missing = 0
            self._try(record)
        if self._has_failed:
            self.missing += 1

    def _try(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Tell of the first line that is not taken."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)  # a bug, of which all is shown
            return
        self._has_failed = True
        if not self.missing:
            with suppress(OSError):
                print(f"{self.place} takes no lines of the log for now: {error.strerror or error}", file=sys.stderr)


class _Straight(io.FileIO):
    """A file that holds nothing back: what it did not take was told as missing, and must not be written later."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Write all of it. Raises `OSError` where only a part is taken."""
        written = 0
        while written < len(data):
            taken = super().write(data[written:])
            if taken is None:  # a descriptor that does not block, with nobody who reads
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            written += taken
        return written


def _straight(file: str | int) -> io.TextIOWrapper:
    """Open a path to append to it, or a descriptor that somebody else closes."""
    raw = _Straight(file, "a", closefd=isinstance(file, str))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)


class LogFile(_Patient, logging.FileHandler):
    """The file that the configuration names."""

    def __init__(self, path: str) -> None:
        """Raises `OSError` where there can be no such file; one for which there is no room may come later."""
        super().__init__(path, delay=True)
        self.place = path
        try:
            self.stream = self._open()
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise

    def _open(self) -> io.TextIOWrapper:
        return _straight(self.baseFilename)


class SysLog(_Patient, SysLogHandler):
    """The system's log. One that does not read must not stop the daemon."""

    place = SYSLOG

    def _connect_unixsocket(self, address: str) -> None:
        super()._connect_unixsocket(address)  # type: ignore[misc]
        self.socket.setblocking(False)  # type: ignore[attr-defined]


class StandardError(_Patient, logging.StreamHandler):  # type: ignore[type-arg]
    """Standard error, which may be a file, too."""

    place = "standard error"

    def __init__(self) -> None:
        super().__init__(_straight(sys.stderr.fileno()))


def start_logging(name: str, settings: Logging) -> None:
    """Log as program `name` where the configuration says.

    Where a service manager reads standard error, it adds the time itself. Raises `OSError` for a file that cannot be.
    """
    handlers: list[logging.Handler] = []
    if settings.to_stderr:
        handlers.append(StandardError())
    if settings.to_logfile and settings.logfile:
        handlers.append(LogFile(settings.logfile))
    stamp = "" if "JOURNAL_STREAM" in os.environ or settings.timestamp == "off" else "%(asctime)s "
    away = ""
    if settings.to_syslog and Path(SYSLOG).exists() and "JOURNAL_STREAM" not in os.environ:
        try:
            handlers.append(SysLog(SYSLOG, settings.syslog_facility))
        except OSError as error:
            away = words(error)
    logging.basicConfig(format=f"{stamp}%(levelname)s {name}: %(message)s", handlers=handlers, force=True)
    set_level(settings)
    if away:
        logging.getLogger(__name__).warning("nothing is logged to %s: %s", SYSLOG, away)


def set_level(settings: Logging) -> None:
    """Log as much as is wanted."""
    logging.getLogger().setLevel(logging.DEBUG if settings.debug != "off" else logging.INFO)
