"""The daemons' log: where lines go, in which form, and what happens to lines that cannot be written.

A full disk, or a syslog that is away, is reported once in a short line on standard error. Lines go to their place again
as soon as that accepts them, behind a line that says how many are missing.

The fields of a record for programs (`totem.log_fields`) are in JSON lines, if those are configured, and in the journal.
No text that others have chosen can begin a new line, or a field, in any of these forms.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from logging.handlers import SysLogHandler
from pathlib import Path
from typing import Final

from totem.config import Logging
from totem.log_fields import event_fields, extra, fields_of
from totem.store import DISK_FAULTS, words
from totem.text import printable

SYSLOG: Final = "/dev/log"
JOURNAL: Final = "/run/systemd/journal/socket"
PREFIX: Final = "TOTEM_"
"""Prefix of an event's fields in the journal."""


class Text(logging.Formatter):
    """Lines for people."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return exactly one line, whatever the record contains."""
        return printable(super().formatMessage(record))


class JsonLines(Text):
    """Lines for programs: an object of JSON each, in ASCII."""

    def __init__(self, program: str) -> None:
        super().__init__("%(message)s")
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        """Return what all records have, and the fields of an event."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "program": self._program,
            "message": super().format(record),
        }
        return json.dumps({**line, **fields_of(record)})


class _Patient(logging.Handler):
    """A handler whose place may refuse lines for a while."""

    place = ""
    """Empty for standard error: a failure is reported nowhere else."""
    missing = 0
    """Lines that were refused since the last written one."""
    _has_failed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, if its place accepts it."""
        self._has_failed = False
        if self.missing:
            self._try(self._gap())
        if not self._has_failed:
            self.missing = 0
            self._try(record)
        if self._has_failed:
            self.missing += 1

    def _gap(self) -> logging.LogRecord:
        text = "1 line is missing here" if self.missing == 1 else f"{self.missing} lines are missing here"
        fields = extra(event_fields("lines_missing", lines=self.missing))
        return logging.makeLogRecord({"levelno": logging.WARNING, "levelname": "WARNING", "msg": text, **fields})

    def _try(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Report the first line that is refused."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)  # a bug, shown with its traceback
            return
        self._has_failed = True
        if not self.missing and self.place:
            with suppress(OSError):
                print(f"{self.place} takes no lines of the log for now: {error.strerror or error}", file=sys.stderr)


class _Straight(io.FileIO):
    """A file without a buffer: a line that was reported as missing must not be written later."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Write all bytes. Raises `OSError` where only a part is accepted."""
        written = 0
        while written < len(data):
            taken = super().write(data[written:])
            if taken is None:  # a non-blocking descriptor that nobody reads
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            written += taken
        return written


def _straight(file: str | int) -> io.TextIOWrapper:
    """Open a path for appending, or a descriptor that somebody else closes."""
    raw = _Straight(file, "a", closefd=isinstance(file, str))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)


class LogFile(_Patient, logging.FileHandler):
    """The file that the configuration names."""

    def __init__(self, path: str) -> None:
        """Raises `OSError` where there can be no such file; one without room on its disk may come later."""
        super().__init__(path, delay=True)
        self.place = path
        try:
            self.stream = self._open()
        except OSError as error:
            if error.errno not in DISK_FAULTS:
                raise

    def _open(self) -> io.TextIOWrapper:
        return _straight(self.baseFilename)

    def reopen(self) -> None:
        """Close the file, which may have been moved away; the next line opens it again."""
        with self.lock or nullcontext():
            stream, self.stream = self.stream, None
            if stream is not None:
                stream.close()


class SysLog(_Patient, SysLogHandler):
    """The system's log. A log that does not read must not stop the daemon."""

    place = SYSLOG

    def _connect_unixsocket(self, address: str) -> None:
        super()._connect_unixsocket(address)  # type: ignore[misc]
        self.socket.setblocking(False)  # type: ignore[attr-defined]


class StandardError(_Patient, logging.StreamHandler):  # type: ignore[type-arg]
    """Standard error, which may be a file, too."""

    place = "standard error"

    def __init__(self) -> None:
        super().__init__(_straight(sys.stderr.fileno()))


class Journal(_Patient):
    """The journal's own socket, instead of standard error, from which the journal reads otherwise.

    A journal that does not read must not stop the daemon. Where the socket cannot be reached, or a record is too long
    for it, a line goes to standard error.
    """

    def __init__(self, program: str, facility: str, line: logging.Formatter) -> None:
        """`line`: how a record is written to standard error."""
        super().__init__()
        self.setFormatter(Text("%(message)s"))
        self._program = program
        self._facility = SysLogHandler.facility_names[facility]
        self._line = line
        self._stderr = socket.socket(fileno=os.dup(sys.stderr.fileno()))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def close(self) -> None:
        """Close the sockets."""
        self._socket.close()
        self._stderr.close()
        super().close()

    def _try(self, record: logging.LogRecord) -> None:
        try:
            self._send(record)
        except Exception:
            self.handleError(record)

    def _send(self, record: logging.LogRecord) -> None:
        entry = b"".join(_journal_field(*field) for field in self._fields(record))
        try:
            self._socket.sendto(entry, JOURNAL)
        except BlockingIOError:
            raise  # the journal does not read, and so not from standard error either
        except OSError:
            line = f"{self._line.format(record)}\n".encode(errors="backslashreplace")
            if self._stderr.send(line, socket.MSG_DONTWAIT) < len(line):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None

    def _fields(self, record: logging.LogRecord) -> Iterator[tuple[str, str | float]]:
        priority = SysLogHandler.priority_map.get(record.levelname, "warning")
        yield "MESSAGE", self.format(record)
        yield "PRIORITY", SysLogHandler.priority_names[priority]
        yield "SYSLOG_FACILITY", self._facility
        yield "SYSLOG_IDENTIFIER", self._program
        for name, value in fields_of(record).items():
            for one in value if isinstance(value, tuple) else (value,):
                if one is not None:
                    yield PREFIX + name.upper(), one


def _journal_field(name: str, value: str | float) -> bytes:
    """Return a field in the journal's native protocol; a value with new lines has its length before it."""
    text = value if isinstance(value, str) else json.dumps(value)
    data = text.encode(errors="backslashreplace")
    if b"\n" in data:
        return b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
    return b"%b=%b\n" % (name.encode(), data)


def _is_journal(descriptor: int) -> bool:
    """Return whether the journal reads this descriptor: systemd says of which socket that is true."""
    file = os.fstat(descriptor)
    return stat.S_ISSOCK(file.st_mode) and os.environ.get("JOURNAL_STREAM") == f"{file.st_dev}:{file.st_ino}"


def start_logging(name: str, settings: Logging) -> None:
    """Log as program `name` where the configuration says.

    Where the journal reads standard error, it adds the time itself. Raises `OSError` for a file that cannot exist.
    """
    untimed = f"%(levelname)s {name}: %(message)s"
    timed = untimed if settings.timestamp == "off" else f"%(asctime)s {untimed}"
    json_lines = JsonLines(name) if settings.format == "json" else None
    handlers: list[logging.Handler] = []
    in_journal = settings.to_stderr and _is_journal(sys.stderr.fileno())
    if in_journal:
        handlers.append(Journal(name, settings.syslog_facility, json_lines or Text(untimed)))
    elif settings.to_stderr:
        handlers.append(_formatted(StandardError(), json_lines or Text(timed)))
    if settings.to_logfile and settings.logfile:
        handlers.append(_formatted(LogFile(settings.logfile), json_lines or Text(timed)))
    away = ""
    if settings.to_syslog and Path(SYSLOG).exists() and not in_journal:
        try:
            handlers.append(_formatted(SysLog(SYSLOG, settings.syslog_facility), Text(timed)))
        except OSError as error:
            away = words(error)
    logging.basicConfig(handlers=handlers, force=True)
    set_level(settings)
    if away:
        logging.getLogger(__name__).warning("nothing is logged to %s: %s", SYSLOG, away)


def _formatted(handler: logging.Handler, formatter: logging.Formatter) -> logging.Handler:
    handler.setFormatter(formatter)
    return handler


def reopen_log_files() -> None:
    """Open files of the log again by their names, as after they were moved away."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogFile):
            handler.reopen()


def set_level(settings: Logging) -> None:
    """Set the level that the configuration names."""
    logging.getLogger().setLevel(logging.DEBUG if settings.debug != "off" else logging.INFO)
